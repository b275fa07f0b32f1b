"""Root file systems of the images: Debian 13 from the machine's own mirror, without a container registry.

``mmdebstrap`` makes the tree outside of any container, several times faster than apt within ``docker build``,
and works wherever the machine itself can install packages. Where an administrator names a base image of a
registry instead, apt adds the packages to that.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from orchestrator.errors import BuildError
from orchestrator.machine.image_steps import Steps

SUITE = "trixie"
_DEBIAN = ("bullseye", "bookworm", "trixie", "forky", "oldstable", "stable", "testing")
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_HINT = "name Debian's archive and its security archive in apt's sources, or build from an image: --base-image"

#: what dpkg leaves out: manuals, documentation and translations but English and French (licences stay)
TRIM = (
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/locale/*",
    "path-include=/usr/share/locale/locale.alias",
    "path-include=/usr/share/locale/en*",
    "path-include=/usr/share/locale/fr*",
    "path-exclude=/usr/share/help/*",
    "path-include=/usr/share/help/C/*",
    "path-exclude=/usr/share/gtk-doc/*",
    "path-exclude=/usr/share/lintian/*",
)

# Control: no setuid or setgid program in any image. Stops a process in a sandbox or gateway from gaining
# another identity through a faulty one (no-new-privileges stands behind it). Shown by
# tests/integration/test_sandbox_image.py. The rest leaves nothing of the building machine: mirror addresses,
# its apt settings, package lists, logs.
FINISH = r"""
set -eu
root="${1%/}"
find "$root/" -xdev -perm /6000 -type f -exec chmod a-s {} +
rm -rf "$root"/etc/apt/sources.list "$root"/etc/apt/sources.list.d/* "$root"/etc/apt/apt.conf.d/99mmdebstrap
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin "$root"/var/cache/apt/archives/*.deb
rm -rf "$root"/var/log/* "$root"/tmp/* "$root"/var/tmp/* "$root"/root/.cache
rm -f "$root"/var/cache/debconf/*-old "$root"/var/lib/dpkg/*-old
: > "$root/etc/machine-id"
"""


def mirrors(targets: str) -> tuple[str, str]:
    """The Debian and the security mirror out of ``apt-get indextargets`` lines ``SITE|CODENAME``.

    Raises:
        BuildError: the machine knows none (another distribution, say).
    """
    rows = [line.split("|") for line in targets.splitlines() if line.count("|") == 1]
    debian = [(site.rstrip("/"), name) for site, name in rows if name.split("-")[0] in _DEBIAN]
    security = next((site for site, name in debian if "security" in name), None)
    main = next((site for site, name in debian if name in _DEBIAN), None)
    if main is None:
        raise BuildError("apt's sources on this machine name no Debian mirror", hint=_HINT)
    if security is None and not main.endswith("/debian"):
        raise BuildError(f"apt's sources on this machine name no security archive beside {main}", hint=_HINT)
    return main, security or f"{main}-security"


def machine_mirrors() -> tuple[str, str]:
    """The mirrors from which this machine installs its own packages."""

    def ask(*words: str) -> str:
        try:
            return subprocess.run(["apt-get", *words], capture_output=True, text=True, check=False).stdout
        except FileNotFoundError:
            raise BuildError(
                "there is no apt-get on this machine to say where a Debian mirror is", hint=_HINT
            ) from None

    targets = ("indextargets", "--format", "$(SITE)|$(RELEASE)", "Created-By: Packages")
    found = ask(*targets)
    if not found:
        # A machine whose lists were never fetched, or were removed to save space, does not know what its sources hold.
        ask("update", "-qq")
        found = ask(*targets)
    return mirrors(found)


def apt_settings(dump: str) -> str:
    """The lines of ``apt-config dump`` that say how to reach a mirror: proxies, certificates, time limits."""
    wanted = re.compile(r"Acquire::(https?|ftp|Retries)\b(?!.*\"\";$)", re.IGNORECASE)
    return "".join(f"{line}\n" for line in dump.splitlines() if wanted.match(line))


def debian_root(
    steps: Steps,
    name: str,
    packages: Sequence[str],
    tag: str,
    *,
    architecture: str,
    hook: Path | None,
    trim: Sequence[str] = TRIM,
    python: Path | None = None,
) -> None:
    """Make a root file system with ``packages`` and import it as image ``tag``.

    ``trim`` are lines of dpkg's configuration that say what is left out. ``hook`` is a shell script run at the end
    with the root's path and ``python``, a folder of ``site-packages`` and ``site-prefix``.

    Raises:
        BuildError: mmdebstrap is missing, the mirror does not answer, or a package does not exist.
    """
    main, security = machine_mirrors()
    with tempfile.TemporaryDirectory(prefix="bulle-root-") as folder:
        # In a file, not in arguments: a proxy's address may hold a password, and everyone can read arguments.
        options = Path(folder) / "apt.conf"
        options.touch(mode=0o600)
        dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=False).stdout
        options.write_text(apt_settings(dump) + 'Acquire::Languages "none";\nAcquire::Retries "3";\n', encoding="utf-8")
        finish = Path(folder) / "finish"
        finish.write_text(FINISH, encoding="utf-8")
        hooks = [f'sh {shlex.quote(str(hook))} "$1" {shlex.quote(str(python or ""))}'] if hook else []
        hooks.append(f'sh {shlex.quote(str(finish))} "$1"')
        keyring = [f"--keyring={_KEYRING}"] if _KEYRING.exists() else []
        sources = tuple(
            f"deb {site} {suite} main"
            for site, suite in ((main, SUITE), (main, f"{SUITE}-updates"), (security, f"{SUITE}-security"))
        )
        steps.run(
            f"{name}: root file system of Debian {SUITE}, {len(packages)} packages named",
            [
                "mmdebstrap",
                "--variant=minbase",
                f"--architectures={architecture}",
                f"--include={','.join(packages)}",
                *keyring,
                f"--aptopt={options}",
                *(f"--dpkgopt={line}" for line in trim),
                "--dpkgopt=force-unsafe-io",
                *(f"--customize-hook={line}" for line in hooks),
                "--format=tar",
                SUITE,
                "-",
                *sources,
            ],
            pipe_to=["docker", "import", "--change", "ENV LANG=C.UTF-8", "-", tag],
            hint="check that 'apt-get update' works on this machine, that mmdebstrap and an up-to-date "
            "debian-archive-keyring are installed, and that every package exists in Debian 13",
        )


def registry_root(
    steps: Steps,
    name: str,
    base: str,
    packages: Sequence[str],
    tag: str,
    *,
    hook: Path | None,
    trim: Sequence[str] = TRIM,
    python: Path | None = None,
) -> None:
    """Add ``packages`` to the registry image ``base`` (of Debian 13) with apt, as image ``tag``.

    Raises:
        BuildError: the base image cannot be had, or apt fails in it.
    """
    with tempfile.TemporaryDirectory(prefix="bulle-root-") as folder:
        context = Path(folder)
        (context / "packages").write_text("\n".join(packages) + "\n", encoding="utf-8")
        (context / "dpkg.cfg").write_text("\n".join((*trim, "force-unsafe-io")) + "\n", encoding="utf-8")
        (context / "finish").write_text(FINISH.replace("sources.list.d/*", "sources.list.d/none"), encoding="utf-8")
        (context / "hook").write_bytes(hook.read_bytes() if hook else b"")
        (context / "python").mkdir()
        if python:
            shutil.copytree(python, context / "python", symlinks=True, dirs_exist_ok=True)
        (context / "Dockerfile").write_text(
            f"FROM {base}\nCOPY packages dpkg.cfg finish hook /run/bulle-build/\n"
            "COPY python /run/bulle-build/python\n"
            "RUN mkdir -p /etc/dpkg/dpkg.cfg.d \\\n"
            " && cp /run/bulle-build/dpkg.cfg /etc/dpkg/dpkg.cfg.d/bulle \\\n"
            " && export DEBIAN_FRONTEND=noninteractive && apt-get update -q \\\n"
            " && xargs -a /run/bulle-build/packages apt-get install -qy --no-install-recommends \\\n"
            " && sh /run/bulle-build/hook / /run/bulle-build/python \\\n"
            " && sh /run/bulle-build/finish / && rm -rf /run/bulle-build\n"
            "ENV LANG=C.UTF-8\n",
            encoding="utf-8",
        )
        steps.run(
            f"{name}: {len(packages)} packages on the base image {base}",
            ["docker", "build", "--quiet", "--tag", tag, context],
            env={"DOCKER_BUILDKIT": "0"},
            hint=f"check that 'docker pull {base}' works, and that it is Debian 13 with a mirror in reach",
        )


def image_id(reference: str) -> str | None:
    """The ``sha256:…`` id of a local image, or None where there is none."""
    try:
        found = subprocess.run(["docker", "image", "inspect", reference], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise BuildError("the command 'docker' is missing", hint="apt-get install docker.io docker-cli") from error
    if found.returncode:
        return None
    identifier = json.loads(found.stdout)[0]["Id"]
    return str(identifier)
