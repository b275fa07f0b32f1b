"""Run by the interpreter beside kubernetes-validate: objects come in as JSON, and what is wrong with them goes out."""

import functools
import json
import sys

import kubernetes_validate
from kubernetes_validate import utils
from kubernetes_validate.utils import all_versions

# It reads megabytes of definitions for each object otherwise.
utils.schema_contents = functools.cache(utils.schema_contents)


def main() -> None:
    """Judge every object by the schemas of every version from the first argument on."""
    first = tuple(int(part) for part in sys.argv[1].split("."))
    versions = sorted({tuple(int(part) for part in each.split(".")[:2]) for each in all_versions()})
    faults = []
    objects = json.load(sys.stdin)
    judged = [".".join(str(part) for part in version) for version in versions if version >= first]
    for version in judged:
        for each in objects:
            try:
                kubernetes_validate.validate(each, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                place = ".".join(str(part) for part in error.absolute_path)
                faults.append(f"{version}: {each['kind']} {each['metadata']['name']}: {place}: {error.message[:300]}")
    json.dump({"versions": judged, "faults": faults}, sys.stdout)


if __name__ == "__main__":
    main()
