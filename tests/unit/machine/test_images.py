"""What an image is made of, and the key under which it is kept: no engine and no network is used."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import BuildError
from orchestrator.machine import image_parts, image_roots, images
from orchestrator.machine.image_steps import Steps

REPO = Path(images.__file__).resolve().parents[2]
DOCKERFILE = "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\n"
COPIES = "COPY site-packages /usr/local/lib/python3.13/dist-packages\nCOPY site-prefix /usr/local\n"
HASH = "    --hash=sha256:" + "0" * 64


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A repository with one image, and a package of two files."""
    folder = tmp_path / "images" / "one"
    folder.mkdir(parents=True)
    (folder / "image.yaml").write_text("packages: [python3]\norchestrator: [part]\n")
    (folder / "Dockerfile").write_text(DOCKERFILE)
    package = tmp_path / "orchestrator"
    (package / "part").mkdir(parents=True)
    (package / "part" / "a.py").write_text("A = 1\n")
    (package / "other.py").write_text("B = 1\n")
    return tmp_path


def shop(repo: Path) -> images.Workshop:
    return images.Workshop(root=repo, cache=repo / "cache", progress=lambda _: None)


def key(repo: Path) -> str:
    folder = repo / "images" / "one"
    return images._context_key(shop(repo), "one", images.load_spec(folder), "root")


@pytest.mark.parametrize("name", [folder.name for folder in sorted((REPO / "images").iterdir()) if folder.is_dir()])
def test_every_image_of_the_repository_is_described_right(name: str) -> None:
    images.load_spec(REPO / "images" / name)


@pytest.mark.parametrize(
    ("manifest", "dockerfile", "fault"),
    [
        ("packages: [python3]\nshell: true\n", DOCKERFILE, "shell"),
        ("packages: ['python3; rm']\n", DOCKERFILE, "packages"),
        ("packages: [python3", DOCKERFILE, "not YAML"),
        ("{}", DOCKERFILE, "either packages or a base"),
        ("packages: [a1]\nbase: controller\n", DOCKERFILE, "either packages or a base"),
        ("packages: [python3]\n", "FROM debian\n", "must begin"),
        ("packages: [python3]\npython: absent.lock\n", DOCKERFILE + COPIES, "absent.lock is missing"),
        ("packages: [python3]\nnpm: true\n", DOCKERFILE, "package-lock.json is missing"),
        ("packages: [python3]\nhook: absent\n", DOCKERFILE, "absent is missing"),
    ],
)
def test_a_wrong_description_is_refused_by_name(repo: Path, manifest: str, dockerfile: str, fault: str) -> None:
    folder = repo / "images" / "one"
    (folder / "image.yaml").write_text(manifest)
    (folder / "Dockerfile").write_text(dockerfile)
    with pytest.raises(BuildError, match=fault):
        images.load_spec(folder)


def test_a_dockerfile_that_forgets_the_commands_is_refused(repo: Path) -> None:
    folder = repo / "images" / "one"
    (repo / "images" / "a.lock").write_text(f"a==1 \\\n{HASH}\n")
    (folder / "image.yaml").write_text("packages: [python3]\npython: a.lock\n")
    (folder / "Dockerfile").write_text(DOCKERFILE + COPIES.splitlines()[0])
    with pytest.raises(BuildError, match="COPY site-prefix /usr/local"):
        images.load_spec(folder)


def test_libraries_that_a_hook_takes_into_the_root_need_no_copy(repo: Path) -> None:
    folder = repo / "images" / "one"
    (repo / "images" / "a.lock").write_text(f"a==1 \\\n{HASH}\n")
    (folder / "hook").write_text('cp -r "$2" "$1"\n')
    (folder / "image.yaml").write_text("packages: [python3]\npython: a.lock\nhook: hook\n")
    spec = images.load_spec(folder)
    place = shop(repo)
    first = images._python_key(place, spec)
    (repo / "images" / "a.lock").write_text(f"a==2 \\\n{HASH}\n")
    assert images._python_key(place, spec) != first


def test_the_key_is_stable_and_changes_with_what_matters_alone(repo: Path) -> None:
    first = key(repo)
    assert key(repo) == first
    (repo / "orchestrator" / "other.py").write_text("B = 2\n")
    (repo / "orchestrator" / "part" / "__pycache__").mkdir()
    (repo / "orchestrator" / "part" / "__pycache__" / "a.pyc").write_bytes(b"x")
    assert key(repo) == first
    (repo / "orchestrator" / "part" / "a.py").write_text("A = 2\n")
    second = key(repo)
    assert second != first
    (repo / "images" / "one" / "start").write_text("#!/bin/sh\n")
    third = key(repo)
    assert third not in (first, second)
    (repo / "images" / "one" / "start").chmod(0o755)
    assert key(repo) not in (first, second, third)


def test_the_key_does_not_depend_on_where_the_repository_lies(
    repo: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "clone"
    repo.rename(elsewhere)
    before = key(elsewhere)
    elsewhere.rename(repo)
    assert key(repo) == before


def test_a_source_that_is_named_and_absent_is_refused(repo: Path) -> None:
    (repo / "images" / "one" / "image.yaml").write_text("packages: [python3]\norchestrator: [absent.py]\n")
    with pytest.raises(BuildError, match=r"absent\.py"):
        key(repo)


def test_an_unknown_image_names_the_known(repo: Path) -> None:
    with pytest.raises(BuildError, match="images are: one"):
        images.build_images(["two"], repo)


def test_images_that_stand_on_each_other_are_refused(repo: Path) -> None:
    (repo / "images" / "one" / "image.yaml").write_text("base: one\n")
    with pytest.raises(BuildError, match="circle"):
        images._build(shop(repo), "one", {})


def test_images_json_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "public" / "images.json"
    images.write_images_json(path, {"b": "sha256:2", "a": "sha256:1"})
    assert json.loads(path.read_text()) == {"a": "sha256:1", "b": "sha256:2"}
    assert [file.name for file in path.parent.iterdir()] == ["images.json"]


def test_the_lock_is_read_for_the_image_and_not_for_this_python() -> None:
    lock = "\n".join(
        [
            f"always==1.0 \\\n{HASH}",
            "    # via something",
            f"newer==2 ; python_full_version >= '3.13' \\\n{HASH}",
            f"older==2 ; python_full_version < '3.13' \\\n{HASH}",
            f"windows==1 ; sys_platform == 'win32' \\\n{HASH} \\\n{HASH}",
            f"Built_One==3 \\\n{HASH}",
        ]
    )
    wheels, sources = image_parts.split_lock(lock, ["built-one"], "x86_64")
    assert wheels == f"always==1.0 \\\n{HASH}\nnewer==2 \\\n{HASH}\n"
    assert sources == f"Built_One==3 \\\n{HASH}\n"


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.booleans(), st.integers(1, 3)), unique_by=lambda t: t[0]))
def test_no_requirement_that_holds_is_lost_and_none_keeps_another_ones_hash(rows: list[tuple[str, bool, int]]) -> None:
    lines = []
    for name, holds, hashes in rows:
        marker = "" if holds else " ; sys_platform == 'win32'"
        given = " \\\n".join(f"    --hash=sha256:{name * 64}" for _ in range(hashes))
        lines.append(f"{name}x==1{marker} \\\n{given}")
    wheels, sources = image_parts.split_lock("\n".join(lines), [], "x86_64")
    assert sources == ""
    kept = [name for name, holds, _ in rows if holds]
    assert [line[0] for line in wheels.splitlines() if "==" in line] == kept
    assert {line.strip()[len("--hash=sha256:")] for line in wheels.splitlines() if "--hash" in line} == set(kept)
    assert not wheels.rstrip("\n").endswith("\\")


def test_wheels_for_a_newer_system_than_debian_13_are_not_taken() -> None:
    known = image_parts.platforms("x86_64")
    assert "manylinux_2_28_x86_64" in known
    assert "manylinux2014_x86_64" in known
    assert "manylinux_2_42_x86_64" not in known
    assert not any("x86_64" in name for name in image_parts.platforms("aarch64"))


def test_commands_run_the_images_python(tmp_path: Path) -> None:
    site, prefix = tmp_path / "site", tmp_path / "prefix"
    (site / "bin").mkdir(parents=True)
    (site / "share" / "x").mkdir(parents=True)
    (site / "bin" / "tool").write_bytes(b"#!/home/somebody/.venv/bin/python3.11\nprint(1)\n")
    (site / "bin" / "shell").write_bytes(b"#!/bin/sh\ntrue\n")
    (site / "etc").mkdir()
    (site / "etc" / "__init__.py").touch()
    prefix.mkdir()
    image_parts._split_prefix(site, prefix)
    assert (prefix / "bin" / "tool").read_bytes() == b"#!/usr/bin/python3\nprint(1)\n"
    assert (prefix / "bin" / "shell").read_bytes() == b"#!/bin/sh\ntrue\n"
    assert (prefix / "share" / "x").is_dir()
    assert (site / "etc" / "__init__.py").exists()  # a module of that name is a module


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (
            "http://m.example/debian/|bookworm\nhttp://m.example/debian/|bookworm-updates\n"
            "http://s.example/sec|bookworm-security\nhttps://other.example|stable-thing\n",
            ("http://m.example/debian", "http://s.example/sec"),
        ),
        ("http://m.example/debian|trixie\n", ("http://m.example/debian", "http://m.example/debian-security")),
    ],
)
def test_the_mirrors_are_those_of_this_machine(targets: str, expected: tuple[str, str]) -> None:
    assert image_roots.mirrors(targets) == expected


@pytest.mark.parametrize("targets", ["", "http://u.example/ubuntu|noble\n", "http://m.example/mirror|trixie\n"])
def test_a_machine_that_knows_no_mirror_is_told_so(targets: str) -> None:
    with pytest.raises(BuildError, match="on this machine name no"):
        image_roots.mirrors(targets)


def test_only_the_way_to_a_mirror_is_taken_from_apts_settings() -> None:
    dump = (
        'Acquire::http::Proxy "http://proxy.example:3128";\nAcquire::https "";\nAPT::Architecture "amd64";\n'
        'Acquire::https::CaInfo "/etc/ca.pem";\nDPkg::Post-Invoke:: "rm -rf /";\n'
    )
    assert image_roots.apt_settings(dump) == (
        'Acquire::http::Proxy "http://proxy.example:3128";\nAcquire::https::CaInfo "/etc/ca.pem";\n'
    )


def test_a_finished_root_has_no_setuid_program_and_nothing_of_this_machine(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for folder in ("etc/apt/sources.list.d", "etc/apt/apt.conf.d", "var/log", "usr/bin", "var/lib/apt/lists", "tmp"):
        (root / folder).mkdir(parents=True)
    program = root / "usr" / "bin" / "su"
    program.touch()
    program.chmod(0o6755)
    (root / "etc/apt/sources.list").write_text("deb http://m.example/debian trixie main\n")
    (root / "etc/apt/apt.conf.d/99mmdebstrap").write_text('Acquire::http::Proxy "http://user:word@proxy.example";\n')
    (root / "var/log/dpkg.log").write_text("x")
    # The negative control: before, the check finds it.
    assert _setuid(root) == [program]
    subprocess.run(["sh", "-c", image_roots.FINISH, "finish", str(root)], check=True)
    assert _setuid(root) == []
    assert program.stat().st_mode & 0o777 == 0o755
    left = b"".join(file.read_bytes() for file in root.rglob("*") if file.is_file())
    assert b"example" not in left
    assert list((root / "var/log").iterdir()) == []


def _setuid(root: Path) -> list[Path]:
    return [file for file in root.rglob("*") if file.is_file() and file.stat().st_mode & 0o6000]


def test_a_step_that_fails_shows_the_end_of_its_output(tmp_path: Path) -> None:
    lines: list[str] = []
    steps = Steps(lines.append, tmp_path / "log")
    with pytest.raises(BuildError, match=r"(?s)status 3.*the last line.*look here"):
        steps.run("one", [sys.executable, "-c", "print('the last line'); raise SystemExit(3)"], hint="look here")
    assert lines == ["one …"]
    steps.run("two", [sys.executable, "-c", ""], hint="")
    assert lines[-1].startswith("two: done in ")


@pytest.mark.parametrize(("first", "second"), [(3, 0), (0, 3)])
def test_a_pipe_fails_with_either_end(tmp_path: Path, first: int, second: int) -> None:
    steps = Steps(lambda _: None, tmp_path / "log")
    ends = [[sys.executable, "-c", f"raise SystemExit({status})"] for status in (first, second)]
    with pytest.raises(BuildError, match="status 3"):
        steps.run("pipe", ends[0], pipe_to=ends[1], hint="")


def test_a_missing_command_says_what_to_do(tmp_path: Path) -> None:
    steps = Steps(lambda _: None, tmp_path / "log")
    with pytest.raises(BuildError, match=r"'no-such-command' is missing \(install it"):
        steps.run("x", ["no-such-command"], hint="install it")


def test_a_second_build_waits_for_the_first(repo: Path) -> None:
    place = shop(repo)
    place.cache.mkdir()
    said: list[str] = []
    waiting = images.Workshop(root=repo, cache=place.cache, progress=said.append)
    program = (
        "import sys, pathlib; from orchestrator.machine import images\n"
        "shop = images.Workshop(pathlib.Path('.'), pathlib.Path(sys.argv[1]), print)\n"
        "with images._alone(shop, 'one'): print('held', flush=True); sys.stdin.readline()\n"
    )
    argv = [sys.executable, "-c", program, str(place.cache)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPO) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        import threading

        threading.Timer(0.3, lambda: (holder.stdin.write("\n"), holder.stdin.flush())).start()
        with images._alone(waiting, "one"):
            pass
        holder.wait()
    assert said == ["one: another build of it is under way; waiting for that"]


def test_a_machine_without_package_lists_fetches_them_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def run(words: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(words[1])
        known = "http://d.example/debian|trixie\n" if "update" in asked and words[1] == "indextargets" else ""
        return subprocess.CompletedProcess(words, 0, stdout=known)

    monkeypatch.setattr(image_roots.subprocess, "run", run)
    assert image_roots.machine_mirrors() == ("http://d.example/debian", "http://d.example/debian-security")
    assert asked == ["indextargets", "update", "indextargets"]
