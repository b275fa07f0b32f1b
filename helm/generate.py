"""Makes what follows from the chart's values and the product's settings: values.schema.json, and the table in
docs/helm.md. ``python helm/generate.py``; tests/unit/helm/test_generated.py fails when one of them is not current."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from orchestrator.config import Settings  # noqa: E402 - after the path

VALUES = ROOT / "helm" / "bulle" / "values.yaml"
SCHEMA = ROOT / "helm" / "bulle" / "values.schema.json"
PAGE = ROOT / "docs" / "helm.md"
BEGIN, END = "<!-- values: made by helm/generate.py -->", "<!-- end of values -->"

Json = dict[str, Any]

#: what the chart sets in the settings itself; nothing for one machine either
OURS = {
    "Settings": {
        *("deployment", "state", "public_url", "listen", "internal_port", "bridge_subnet", "tls", "custodian"),
        *("database", "database_ca_file", "database_password_file", "database_socket", "metrics"),
    },
    "Oidc": {"client_secret_file"},
    "Kubernetes": {"name", "namespace", "images", "authority", "tls", "kubelet", "hub"},
}

_TEXTS: Json = {"type": "object", "additionalProperties": {"type": "string"}}
_OBJECTS: Json = {"type": "array", "items": {"type": "object"}}
_NAME: Json = {"type": "string", "pattern": r"^$|^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$"}
_IMAGE: Json = {"type": "string", "pattern": r"^$|^([a-z0-9][a-z0-9._/:-]*@)?sha256:[0-9a-f]{64}$"}
_SIZE: Json = {"type": "string", "pattern": r"^[1-9][0-9]*(Mi|Gi|Ti|Pi)$"}
_AMOUNTS: Json = {"type": "object", "additionalProperties": {"type": ["string", "number"]}}
_RESOURCES: Json = {
    "type": "object",
    "additionalProperties": False,
    "properties": {"requests": _AMOUNTS, "limits": _AMOUNTS},
}
_FOLDER: Json = {"type": "string", "pattern": r"^(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+$"}

#: where the default does not say enough; the first that fits
FORMS: tuple[tuple[str, Json], ...] = (
    (r"images\.pullSecrets", {"type": "array", "items": _NAME}),
    (r"images\.prePull", {"type": "boolean"}),
    (r"images\.ahead", {"type": "array", "items": {**_IMAGE, "minLength": 1}, "uniqueItems": True}),
    (r"images\..*", _IMAGE),
    (r"deployment", {"type": "string", "pattern": r"^$|^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$"}),
    # names of objects are made of it, up to `-authority-tls`
    (r"fullnameOverride", {"type": "string", "pattern": r"^$|^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$"}),
    (
        r"publicUrl",
        {"type": "string", "pattern": r"^$|^https://[^/@?#]+/?$|^http://(localhost|127\.0\.0\.1)(:[0-9]+)?/?$"},
    ),
    (r"state|kubelet\.folder", _FOLDER),
    (r".*\.size", _SIZE),
    (r".*\.accessMode", {"enum": ["ReadWriteMany", "ReadWriteOnce"]}),
    (r"custodian\.kind", {"enum": ["file", "pkcs11"]}),
    (r"custodian\.pkcs11\.(folder|module)", {"type": "string", "pattern": r"^$|^/"}),
    (r"database\.url", {"type": "string", "pattern": r"^$|^postgresql://[^:@/]+@[^/?#]+/[^/?#]+$"}),
    (r"secrets\..*|files|.*\.(secretName|existingSecret|pinSecret|tlsSecret|existingClaim)", _NAME),
    (r".*\.resources", _RESOURCES),
    # above this are the cluster's own classes
    (r"priorityClasses\.(control|workspace)", {"type": "integer", "minimum": -(2**31), "maximum": 10**9}),
    (r"namespace\.quota", _AMOUNTS),
    (
        r"namespace\.limitRange",
        {
            "type": "object",
            "additionalProperties": False,
            "properties": dict.fromkeys(("max", "min", "default", "defaultRequest", "maxLimitRequestRatio"), _AMOUNTS),
        },
    ),
    (r".*\.(nodeSelector|annotations)", _TEXTS),
    (r".*\.affinity", {"type": "object"}),
    (r".*\.(tolerations|ingressFrom|egressTo|apiServer|metricsFrom)", _OBJECTS),
)
_TYPES: dict[type, str] = {bool: "boolean", int: "integer", str: "string"}


@dataclass(frozen=True)
class Value:
    """A value that can be set, as values.yaml describes it."""

    path: str
    default: Any
    text: str


def values(text: str) -> Iterator[Value]:
    """Every value that has a description (``# --``) above it.

    Raises:
        ValueError: something that can be set has none.
    """
    everything = yaml.safe_load(text)
    described: list[str] = []
    path: list[str] = []
    words: list[str] = []
    for line in text.splitlines():
        comment = re.fullmatch(r"\s*# (-- )?(.*)", line)
        if comment and comment[1]:
            words = [comment[2]]
            continue
        if comment and words:
            words.append(comment[2])
            continue
        if key := re.match(r"( *)([A-Za-z0-9]+):", line):
            path = [*path[: len(key[1]) // 2], key[2]]
            if words:
                found = everything
                for step in path:
                    found = found[step]
                described.append(".".join(path))
                yield Value(".".join(path), found, " ".join(words))
        words = []
    if bare := [each for each in _leaves(everything) if not any(f"{each}.".startswith(f"{one}.") for one in described)]:
        raise ValueError(f"values.yaml does not say what these are for: {', '.join(bare)}")


def _leaves(tree: Any, path: str = "") -> Iterator[str]:
    if isinstance(tree, dict) and tree:
        for key, below in tree.items():
            yield from _leaves(below, f"{path}.{key}" if path else key)
    else:
        yield path


def settings_schema() -> tuple[Json, Json]:
    """The schema of ``settings``, and of its sections: the product's own, without what the chart sets."""
    whole = Settings.model_json_schema()
    sections: Json = whole.pop("$defs")
    sections["Settings"] = whole
    for name, section in sections.items():
        _without(section, OURS.get(name, set()))
    whole.pop("required", None)
    used: set[str] = set()
    todo = ["Settings"]
    while todo:
        name = todo.pop()
        used.add(name)
        todo += [each for each in re.findall(r'#/\$defs/(\w+)"', json.dumps(sections[name])) if each not in used]
    return whole, {name: sections[name] for name in sorted(used - {"Settings"})}


def _without(section: Json, ours: set[str]) -> None:
    for key in ours:
        section["properties"].pop(key)
    if "required" in section:
        section["required"] = [key for key in section["required"] if key not in ours]
    _plain(section)


def _plain(node: Any) -> None:
    """Take away what is for people or for one library only: titles, formats, patterns that look ahead."""
    if isinstance(node, list):
        for each in node:
            _plain(each)
    elif isinstance(node, dict):
        for key in ("title", "format"):
            if isinstance(node.get(key), str):
                del node[key]
        if "(?" in str(node.get("pattern", "")).replace("(?:", ""):
            del node["pattern"]
        for each in node.values():
            _plain(each)


def schema(text: str) -> Json:
    """The schema of the values: what is not in values.yaml is refused."""
    settings, sections = settings_schema()
    root: Json = {"type": "object", "additionalProperties": False, "properties": {}}
    for value in values(text):
        at = root
        *way, last = value.path.split(".")
        for step in way:
            at = at["properties"].setdefault(step, {"type": "object", "additionalProperties": False, "properties": {}})
        form = settings if value.path == "settings" else _form(value)
        at["properties"][last] = {**form, "description": value.text}
    # helm itself hands it to charts that are part of others
    root["properties"]["global"] = {"type": "object"}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of Bulle's chart",
        **root,
        "$defs": sections,
    }


def _form(value: Value) -> Json:
    for pattern, form in FORMS:
        if re.fullmatch(pattern, value.path):
            return form
    return {"type": _TYPES[type(value.default)]}


def table(text: str) -> str:
    """The table of every value."""
    rows = ["| value | default | |", "|---|---|---|"]
    for value in values(text):
        shown = yaml.safe_dump(value.default, default_flow_style=True, width=1000).replace("\n...", "").strip()
        default = "" if value.default in ("", {}, []) else f"`{shown}`"
        rows.append(f"| `{value.path}` | {default} | {value.text} |")
    return "\n".join(rows)


def with_table(page: str, text: str) -> str:
    """A page with the table of today in its place."""
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{table(text)}\n{END}{tail}"


def written(schema_of: Json) -> str:
    """A schema as it stands in the file."""
    return json.dumps(schema_of, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """Write both."""
    text = VALUES.read_text(encoding="utf-8")
    SCHEMA.write_text(written(schema(text)), encoding="utf-8")
    if PAGE.exists():
        PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), text), encoding="utf-8")


if __name__ == "__main__":
    main()
