"""What goes into an image besides Debian packages: Python wheels and npm packages, got outside containers.

The registries and certificates are those that this machine's own pip and npm use, so a site with a mirror of
its own needs no setting here. All is pinned by hash; what was fetched once for a lock is kept in the cache.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from packaging.markers import Marker

from orchestrator.machine.image_steps import Steps

PYTHON = "3.13"
#: newest glibc of a manylinux wheel that runs on Debian 13
_GLIBC_MINOR = 41

_REQUIREMENT = re.compile(
    r"^(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[^\s;\\]+)(?:\s*;\s*(?P<marker>[^\\]+?))?\s*(?:\\|$)"
)


def target_environment(machine: str) -> dict[str, str]:
    """Values of environment markers (PEP 508) inside the images, whatever Python builds them."""
    return {
        "implementation_name": "cpython",
        "implementation_version": f"{PYTHON}.5",
        "os_name": "posix",
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": "Linux",
        "platform_version": "",
        "python_full_version": f"{PYTHON}.5",
        "python_version": PYTHON,
        "sys_platform": "linux",
        "extra": "",
    }


def split_lock(lock: str, source_only: Iterable[str], machine: str) -> tuple[str, str]:
    """What of a hashed lock holds inside an image: requirements with wheels, those with sources only.

    pip evaluates markers for the Python that runs it, not the one it installs for; so that is done here.
    """
    built = {_canonical(name) for name in source_only}
    wheels: list[str] = []
    sources: list[str] = []
    current: list[str] | None = None
    for line in lock.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = _REQUIREMENT.match(line)
        if found:
            marker = found["marker"]
            holds = marker is None or Marker(marker).evaluate(target_environment(machine))
            current = (sources if _canonical(found["name"]) in built else wheels) if holds else None
            line = f"{found['name']}=={found['version']} \\"  # noqa: PLW2901
        if current is not None:
            current.append(line)
    return _joined(wheels), _joined(sources)


def _joined(lines: list[str]) -> str:
    text = "".join(f"{line}\n" for line in lines)
    return text.rstrip().rstrip("\\").rstrip() + "\n" if text else ""


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def platforms(machine: str) -> list[str]:
    """Wheel platforms (PEP 600) that Debian 13 on ``machine`` runs, newest first."""
    legacy = [f"manylinux2014_{machine}"]
    if machine == "x86_64":
        legacy += ["manylinux2010_x86_64", "manylinux1_x86_64"]
    return [f"manylinux_2_{minor}_{machine}" for minor in range(_GLIBC_MINOR, 4, -1)] + legacy + [f"linux_{machine}"]


def fetch_python(
    steps: Steps, name: str, lock: Path, source_only: Iterable[str], target: Path, *, machine: str
) -> None:
    """Fill ``target`` with ``site-packages`` (modules) and ``site-prefix`` (commands, data files) of a lock.

    Raises:
        BuildError: a package cannot be had, has no wheel for Debian 13, or its hash is not the lock's.
    """
    wheels, sources = split_lock(lock.read_text(encoding="utf-8"), source_only, machine)
    work = _fresh(target.with_name(target.name + ".part"))
    site = work / "site-packages"
    requirements = work / "requirements"
    pip = [sys.executable, "-m", "pip", "-qq", "--disable-pip-version-check", "--no-input"]
    # pip warns once per page of a local index; only its errors matter here
    env = {"PIP_CONSTRAINT": "", "PIP_ROOT_USER_ACTION": "ignore", "PIP_REQUIRE_VIRTUALENV": "0"}
    hint = (
        "check that pip reaches its index on this machine; a package with sources only must be pure Python "
        "and be named in 'source_only' of image.yaml"
    )
    into = ["--target", str(site), "--no-compile", "--no-deps", "--python-version", PYTHON]
    # The lock is made for that Python; some versions of pip would compare with the one that runs them.
    into += ["--implementation", "cp", "--only-binary=:all:", "--ignore-requires-python"]
    into += [word for platform in platforms(machine) for word in ("--platform", platform)]
    if wheels:
        requirements.write_text(wheels, encoding="utf-8")
        steps.run(
            f"{name}: {wheels.count('==')} Python packages",
            [*pip, "install", *into, "--require-hashes", "-r", requirements],
            env=env,
            hint=hint,
        )
    if sources:
        requirements.write_text(sources, encoding="utf-8")
        house = work / "wheels"
        steps.run(
            f"{name}: {sources.count('==')} Python packages from their sources",
            [*pip, "wheel", "--no-deps", "--require-hashes", "--wheel-dir", house, "-r", requirements],
            env=env,
            hint=hint,
        )
        steps.run(
            f"{name}: installing what was built",
            [*pip, "install", *into, "--no-index", *sorted(house.glob("*.whl"))],
            env=env,
            hint=hint,
        )
        shutil.rmtree(house)
    requirements.unlink(missing_ok=True)
    _split_prefix(site, _fresh(work / "site-prefix"))
    work.replace(target)


def _split_prefix(site: Path, prefix: Path) -> None:
    """Move commands and data files out of the modules, and have the commands run the image's Python."""
    for folder in ("bin", "share", "etc", "include"):
        if (site / folder).is_dir() and not (site / folder / "__init__.py").exists():
            (site / folder).rename(prefix / folder)
    for command in (prefix / "bin").glob("*"):
        content = command.read_bytes()
        if content.startswith(b"#!") and b"python" in content.split(b"\n", 1)[0]:
            command.write_bytes(b"#!/usr/bin/python3\n" + content.split(b"\n", 1)[1])


def fetch_npm(steps: Steps, name: str, folder: Path, target: Path) -> None:
    """Fill ``target`` with the ``node_modules`` that ``folder``'s lock pins; nothing of them is run.

    Raises:
        BuildError: npm is missing, a package cannot be had, or its hash is not the lock's.
    """
    work = _fresh(target.with_name(target.name + ".part"))
    for file in ("package.json", "package-lock.json"):
        shutil.copy2(folder / file, work / file)
    steps.run(
        f"{name}: npm packages",
        ["npm", "ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"],
        cwd=work,
        hint="check that npm is installed and reaches its registry on this machine",
    )
    (work / "node_modules").mkdir(exist_ok=True)
    work.replace(target)


def link_tree(source: Path, target: Path) -> None:
    """Copy a tree by hard links: a build context of hundreds of megabytes costs nothing."""
    shutil.copytree(source, target, copy_function=os.link, symlinks=True, dirs_exist_ok=True)


def _fresh(folder: Path) -> Path:
    """An empty folder in place of whatever an interrupted run left there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
