"""Builds the container images: Debian 13 from the machine's mirror, wheels and npm packages by hash.

An image is a folder ``images/<name>/`` with ``image.yaml`` (:class:`ImageSpec`) and a ``Dockerfile`` that
begins ``ARG BASE_IMAGE`` and ``FROM ${BASE_IMAGE}``. Its build context holds the folder's own files and, as
declared: ``site-packages/`` and ``site-prefix/`` (for ``/usr/local/lib/python3.13/dist-packages`` and
``/usr/local``), ``node_modules/``, ``orchestrator/``. Whatever is built carries the hash of what made it in
its tag, so nothing is built twice. ``python -m orchestrator.machine.images [NAMES…]`` builds;
``docs/images.md`` explains.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orchestrator.errors import BuildError, BulleError
from orchestrator.machine import image_parts, image_roots
from orchestrator.machine.image_steps import Progress, Steps

_LARGEST = "sandbox"
IMAGES = ("controller", "node", "gateway", "sandbox", "demo-idp")
#: for clusters alone
CLUSTER_IMAGES = (*IMAGES, "database")

#: raised whenever this module makes something else of the same input
_RECIPE = "1"
_NEEDED_GB = 6
_IGNORED = {"__pycache__", "node_modules", ".DS_Store"}
_DEBIAN_ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}
_MANIFEST = "image.yaml"


class ImageSpec(BaseModel):
    """``image.yaml``: what an image is made of."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Debian packages of its root file system (without recommended ones)
    packages: tuple[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9+.-]+$")], ...] = ()
    #: hashed requirements lock, relative to ``images/``
    python: str | None = None
    #: packages of that lock of which there are sources only (pure Python)
    source_only: tuple[str, ...] = ()
    #: whether ``package.json`` and ``package-lock.json`` stand in the folder
    npm: bool = False
    #: whether the package's source is copied, or which files and folders of it
    orchestrator: bool | tuple[str, ...] = False
    #: another image to build on, in place of a root file system of its own
    base: str | None = None
    #: paths (patterns of dpkg's ``path-exclude``) that its packages bring and it does without
    without: tuple[Annotated[str, Field(pattern=r"^/[^\s]+$")], ...] = ()
    #: shell script in the folder, run with the finished root file system's path and, with ``python``, the
    #: folder of ``site-packages`` and ``site-prefix``: what it takes in needs no copying by the Dockerfile
    hook: str | None = None


@dataclass(frozen=True)
class Workshop:
    """Where images are made: the repository, the cache, a registry image if any, who hears of progress."""

    root: Path
    cache: Path
    progress: Progress
    base_image: str | None = None

    @property
    def images(self) -> Path:
        """The folder with one folder an image."""
        return self.root / "images"

    def steps(self, name: str) -> Steps:
        """Long steps of one image, with its log."""
        return Steps(self.progress, self.cache / "log" / f"{name}.log")


def load_spec(folder: Path) -> ImageSpec:
    """Read ``image.yaml`` of an image's folder.

    Raises:
        BuildError: it is absent or wrong, or the files that it counts on are missing; all faults are named.
    """
    manifest = folder / _MANIFEST
    try:
        spec = ImageSpec.model_validate(yaml.safe_load(manifest.read_text(encoding="utf-8")) or {})
    except OSError as error:
        raise BuildError(f"{manifest}: {error.strerror}", hint="every image needs an image.yaml") from error
    except yaml.YAMLError as error:
        raise BuildError(f"{manifest} is not YAML: {error}") from error
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise BuildError(f"{manifest}: {wrong}") from error
    faults = [*_missing_files(folder, spec), *_dockerfile_faults(folder, spec)]
    if bool(spec.base) == bool(spec.packages):
        faults.append("name either packages or a base")
    if faults:
        raise BuildError(f"{manifest}: {'; '.join(faults)}")
    return spec


def _missing_files(folder: Path, spec: ImageSpec) -> list[str]:
    needed = [folder / "Dockerfile"]
    needed += [folder / "package.json", folder / "package-lock.json"] if spec.npm else []
    needed += [folder.parent / spec.python] if spec.python else []
    needed += [folder / spec.hook] if spec.hook else []
    return [f"the file {path.relative_to(folder.parent)} is missing" for path in needed if not path.is_file()]


def _dockerfile_faults(folder: Path, spec: ImageSpec) -> list[str]:
    if not (folder / "Dockerfile").is_file():
        return []
    text = (folder / "Dockerfile").read_text(encoding="utf-8")
    faults = []
    if "ARG BASE_IMAGE" not in text or "FROM ${BASE_IMAGE}" not in text:
        faults.append("the Dockerfile must begin with 'ARG BASE_IMAGE' and 'FROM ${BASE_IMAGE}'")
    if spec.python and not spec.hook:
        lines = [line for line in text.splitlines() if line.startswith("COPY")]
        faults += [
            f"python is set, so the Dockerfile must say 'COPY {part} {place}'"
            for part, place in (
                ("site-packages", f"/usr/local/lib/python{image_parts.PYTHON}/dist-packages"),
                ("site-prefix", "/usr/local"),
            )
            if not any(part in line for line in lines)
        ]
    return faults


def build_images(
    names: Iterable[str] | None = None,
    repo_root: Path | None = None,
    progress: Progress = print,
    *,
    base_image: str | None = None,
    cache: Path | None = None,
) -> dict[str, str]:
    """Build the named images (default: all) where they are not built yet; their ids (``sha256:…``) by name.

    ``base_image`` (or ``BULLE_BASE_IMAGE``) is a registry image of Debian 13 to start from, in place of a
    root file system made here; ``cache`` (or ``BULLE_CACHE``; default ``build/cache``) keeps what was got.

    Raises:
        BuildError: the machine lacks something, or a step fails; the message says what to do.
    """
    root = (repo_root or Path(__file__).resolve().parents[2]).resolve()
    chosen = list(names) if names is not None else list(IMAGES)
    shop = Workshop(
        root=root,
        cache=(cache or Path(os.environ.get("BULLE_CACHE") or root / "build" / "cache")).resolve(),
        progress=progress,
        base_image=base_image or os.environ.get("BULLE_BASE_IMAGE") or None,
    )
    for name in chosen:
        if not (shop.images / name / _MANIFEST).is_file():
            raise BuildError(f"there is no image '{name}'", hint=f"images are: {', '.join(_known(shop))}")
    shop.cache.mkdir(parents=True, exist_ok=True)
    _check_machine(shop)
    built: dict[str, str] = {}

    def build(names: list[str]) -> None:
        for name in names:
            _build(shop, name, built)

    # The largest takes as long as all the others, most of it on one processor: they are built beside it.
    lanes = [[name for name in chosen if (name == _LARGEST) is alone] for alone in (True, False)]
    with ThreadPoolExecutor(max_workers=len(lanes)) as pool:
        for lane in [pool.submit(build, names) for names in lanes]:
            lane.result()
    return {name: built[name] for name in chosen}


def write_images_json(path: Path, ids: dict[str, str]) -> None:
    """Write the ids by which a deployment names its images, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(ids, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    part.replace(path)


def _known(shop: Workshop) -> list[str]:
    return sorted(folder.parent.name for folder in shop.images.glob(f"*/{_MANIFEST}"))


def _check_machine(shop: Workshop) -> None:
    """Refuse at once, in one sentence, where the build could only fail later."""
    if platform.machine() not in _DEBIAN_ARCHITECTURE:
        raise BuildError(f"images are built for x86_64 and aarch64, and this machine is {platform.machine()}")
    if os.geteuid() != 0 and shop.base_image is None:
        raise BuildError("building images needs root (mmdebstrap and the Docker engine)", hint="run it as root")
    try:
        engine = subprocess.run(["docker", "info", "--format", "{{.DockerRootDir}}"], capture_output=True, check=False)
    except FileNotFoundError as error:
        raise BuildError("the command 'docker' is missing", hint="apt-get install docker.io docker-cli") from error
    if engine.returncode:
        raise BuildError("the Docker engine does not answer", hint="start it: 'systemctl start docker' or 'dockerd &'")
    if shop.base_image is None and shutil.which("mmdebstrap") is None:
        raise BuildError("the command 'mmdebstrap' is missing", hint="apt-get install mmdebstrap")
    for place in (Path(engine.stdout.decode().strip()), shop.cache):
        if place.exists() and shutil.disk_usage(place).free < _NEEDED_GB * 10**9:
            free = shutil.disk_usage(place).free / 10**9
            raise BuildError(f"{place} has {free:.1f} GB free and building images needs {_NEEDED_GB} GB")


def _build(shop: Workshop, name: str, built: dict[str, str], path: tuple[str, ...] = ()) -> str:
    """Build one image and those it stands on; its id. ``built`` remembers what this run has seen."""
    if name in built:
        return built[name]
    if name in path:
        raise BuildError(f"images are based on each other in a circle: {' on '.join((*path, name))}")
    folder = shop.images / name
    spec = load_spec(folder)
    base = _build(shop, spec.base, built, (*path, name)) if spec.base else None
    with _alone(shop, name):
        root = base or _root(shop, name, spec)
        tag = f"bulle/{name}:{_context_key(shop, name, spec, root)}"
        found = image_roots.image_id(tag)
        if found is None:
            _docker_build(shop, name, spec, root, tag)
            found = image_roots.image_id(tag)
            if found is None:
                raise BuildError(f"{name}: the engine does not have {tag}, which it just built")
        else:
            shop.progress(f"{name}: as built before ({tag})")
    built[name] = found
    return found


@contextlib.contextmanager
def _alone(shop: Workshop, name: str) -> Iterator[None]:
    """Hold an image's lock file, so that two builds at a time make it once."""
    with (shop.cache / f"{name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            shop.progress(f"{name}: another build of it is under way; waiting for that")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _root(shop: Workshop, name: str, spec: ImageSpec) -> str:
    """The image of the root file system, made if it is not there."""
    hook = shop.images / name / spec.hook if spec.hook else None
    packages = sorted(spec.packages)
    trim = (*image_roots.TRIM, *(f"path-exclude={path}" for path in spec.without))
    made_of = [_RECIPE, *packages, *trim, image_roots.FINISH, platform.machine()]
    made_of += [hook.read_text(encoding="utf-8")] if hook else []
    made_of += [_python_key(shop, spec)] if hook and spec.python else []
    made_of += [shop.base_image or image_roots.SUITE]
    tag = f"bulle/rootfs-{name}:{_hash(made_of)}"
    if image_roots.image_id(tag) is None:
        python = _python(shop, name, spec) if hook and spec.python else None
        steps = shop.steps(name)
        if shop.base_image:
            image_roots.registry_root(steps, name, shop.base_image, packages, tag, hook=hook, trim=trim, python=python)
        else:
            machine = _DEBIAN_ARCHITECTURE[platform.machine()]
            image_roots.debian_root(
                steps, name, packages, tag, architecture=machine, hook=hook, trim=trim, python=python
            )
    return tag


def _hash(parts: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _files(folder: Path) -> list[Path]:
    """Files below a folder that can matter to an image, in a fixed order."""
    found = [path for path in folder.rglob("*") if path.is_file() and not _IGNORED.intersection(path.parts)]
    return sorted(path for path in found if path.suffix != ".pyc")


def _source_files(shop: Workshop, spec: ImageSpec) -> list[Path]:
    """The files of the package that the image gets."""
    package = shop.root / "orchestrator"
    if spec.orchestrator is True:
        return _files(package)
    wanted = [package / part for part in (spec.orchestrator or ())]
    missing = [str(path.relative_to(shop.root)) for path in wanted if not path.exists()]
    if missing:
        raise BuildError(f"image.yaml names {', '.join(missing)} of the package, which is not there")
    return [file for path in wanted for file in ([path] if path.is_file() else _files(path))]


def _context_key(shop: Workshop, name: str, spec: ImageSpec, root: str) -> str:
    """The hash of all that makes an image."""
    parts = [_RECIPE, root]
    locks = [shop.images / spec.python] if spec.python else []
    for file in [*_files(shop.images / name), *locks, *_source_files(shop, spec)]:
        mode = "x" if file.stat().st_mode & stat.S_IXUSR else "-"
        parts += [str(file.relative_to(shop.root)), mode, hashlib.sha256(file.read_bytes()).hexdigest()]
    return _hash(parts)


def _docker_build(shop: Workshop, name: str, spec: ImageSpec, root: str, tag: str) -> None:
    """Stage the context and build the image, without a network."""
    steps = shop.steps(name)
    with tempfile.TemporaryDirectory(prefix=f"context-{name}-", dir=shop.cache) as staged:
        context = Path(staged)
        for file in _files(shop.images / name):
            _copy(file, context / file.relative_to(shop.images / name))
        for file in _source_files(shop, spec):
            _copy(file, context / file.relative_to(shop.root))
        if spec.python and not spec.hook:
            image_parts.link_tree(_python(shop, name, spec), context)
        if spec.npm:
            image_parts.link_tree(_npm(shop, name) / "node_modules", context / "node_modules")
        options = ["--network=none", "--pull=false", "--force-rm", "--build-arg", f"BASE_IMAGE={root}"]
        steps.run(
            f"{name}: image {tag}",
            ["docker", "build", *options, "--tag", tag, context],
            env={"DOCKER_BUILDKIT": "0", "DOCKER_CLI_HINTS": "false"},
            hint=f"the fault is in images/{name}; a step of a Dockerfile has no network",
        )


def _copy(source: Path, target: Path) -> None:
    """Copy a file with the modes that a container wants, whatever the umask of the clone was."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o755 if source.stat().st_mode & stat.S_IXUSR else 0o644)


def _python_key(shop: Workshop, spec: ImageSpec) -> str:
    """The hash of what a lock brings into an image."""
    lock = (shop.images / str(spec.python)).read_text(encoding="utf-8")
    machine = platform.machine()
    return _hash([_RECIPE, image_parts.PYTHON, machine, *image_parts.split_lock(lock, spec.source_only, machine)])


def _python(shop: Workshop, name: str, spec: ImageSpec) -> Path:
    lock = shop.images / str(spec.python)
    machine = platform.machine()
    target = shop.cache / "python" / _python_key(shop, spec)
    with _alone(shop, f"python-{target.name}"):
        if not target.exists():
            image_parts.fetch_python(shop.steps(name), name, lock, spec.source_only, target, machine=machine)
    return target


def _npm(shop: Workshop, name: str) -> Path:
    folder = shop.images / name
    made_of = [(folder / file).read_text(encoding="utf-8") for file in ("package.json", "package-lock.json")]
    target = shop.cache / "npm" / _hash([_RECIPE, *made_of])
    with _alone(shop, f"npm-{target.name}"):
        if not target.exists():
            image_parts.fetch_npm(shop.steps(name), name, folder, target)
    return target


def main(arguments: Sequence[str] | None = None) -> int:
    """Build images from the command line; 0, or 1 with one message of what was wrong."""
    parser = argparse.ArgumentParser(prog="python -m orchestrator.machine.images", description="Build the images.")
    parser.add_argument("names", nargs="*", help=f"images to build (default: {', '.join(IMAGES)})")
    parser.add_argument("--base-image", help="registry image of Debian 13 to start from (or BULLE_BASE_IMAGE)")
    parser.add_argument("--cache", type=Path, help="folder of what was fetched (or BULLE_CACHE)")
    parser.add_argument("--write", type=Path, help="write the ids to this images.json")
    chosen = parser.parse_args(arguments)
    began = time.monotonic()

    def progress(line: str) -> None:
        print(f"[{time.monotonic() - began:6.1f} s] {line}", flush=True)

    try:
        ids = build_images(chosen.names or None, None, progress, base_image=chosen.base_image, cache=chosen.cache)
        if chosen.write:
            write_images_json(chosen.write, ids)
    except BulleError as error:
        print(f"Images were not built: {error}", file=sys.stderr)
        return 1
    for name, identifier in ids.items():
        print(f"{name} {identifier}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
