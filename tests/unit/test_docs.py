"""The documentation speaks of what is there: tests, files, links, commands and settings that it names exist.

Each check is also shown to fail on a text in which something is wrong.
"""

from __future__ import annotations

import ast
import functools
import itertools
import re
import subprocess
import types
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from pydantic import BaseModel

from orchestrator.cli import build
from orchestrator.config import Settings
from orchestrator.machine.images import ImageSpec

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
THREATS = ROOT / "docs" / "threat-model.md"

TEST = re.compile(r"`((?:unit|integration)/[\w/]+\.py)?(?:::([\w:]+))?`")
NONE = "none yet"


def names(pages: list[Path]) -> list[str]:
    return [page.relative_to(ROOT).as_posix() for page in pages]


# -- tests that the threat model names ----------------------------------------------------------------------
@functools.cache
def functions_of(file: Path) -> frozenset[str]:
    """Every test function of a file, and every class with a name such as ``TestMembers::test_only_the_lead``."""
    found = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign):  # a state machine of hypothesis: TestWalk = Walk.TestCase
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        if isinstance(node, ast.ClassDef):
            found.add(node.name)
            found |= {f"{node.name}::{each.name}" for each in node.body if isinstance(each, ast.FunctionDef)}
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
    return frozenset(each for each in found if each.split("::")[-1].lower().startswith("test"))


def missing_tests(text: str) -> list[str]:
    """What ``text`` names as a test and is none. ``::name`` alone belongs to the file named before it in the line."""
    missing = []
    for line in text.splitlines():
        file = None
        for named, test in TEST.findall(line):
            if not named and not test:
                continue
            file = named or file
            path = ROOT / "tests" / str(file)
            if file is None or not path.is_file() or (test and test not in functions_of(path)):
                missing.append(f"{file}::{test}")
    return missing


def controls(text: str) -> list[list[str]]:
    """The rows of the tables of controls: id, control, attack, where, test, negative control."""
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines()]
    return [row for row in rows if re.fullmatch(r"\|? ?[A-Z]\d+", row[0])]


def test_every_test_that_the_threat_model_names_exists() -> None:
    text = THREATS.read_text(encoding="utf-8")
    assert missing_tests(text) == []
    assert len(TEST.findall(text)) > 150
    wrong = text.replace("test_a_grant_starts_once", "test_a_grant_starts_twice")
    assert missing_tests(wrong) == ["unit/node/test_grants.py::test_a_grant_starts_twice"]


def test_every_control_names_its_attack_place_test_and_negative_control_or_says_that_there_is_none() -> None:
    rows = controls(THREATS.read_text(encoding="utf-8"))
    assert len(rows) > 80
    assert len({row[0] for row in rows}) == len(rows), "no two controls share a name"
    for row in rows:
        assert len(row) == 6, row
        name, control, attack, where, test, negative = row
        assert control and attack and where, name
        assert TEST.search(test) or NONE in test, f"{name} has no test, and does not say so"
        assert TEST.search(negative) or NONE in negative or negative.startswith("the same"), name


def test_every_place_that_the_threat_model_names_exists() -> None:
    for row in controls(THREATS.read_text(encoding="utf-8")):
        for place in re.findall(r"`([\w./-]+)`", row[3]):
            assert (ROOT / "orchestrator" / place).is_file() or (ROOT / place).is_file(), f"{row[0]}: {place}"


@functools.cache
def every_test() -> frozenset[str]:
    files = [*(ROOT / "tests").rglob("test_*.py")]
    inside = {name.split("::")[-1] for file in files for name in functions_of(file)}
    return frozenset(inside | {file.stem for file in files})


def unknown_tests(text: str) -> list[str]:
    """Names of tests in ``text`` that no test has; one that ends in "…" may be the beginning of one."""
    return [
        name
        for name, cut in re.findall(r"\b(test_\w+)(…?)", text)
        if name not in every_test() and not (cut and any(each.startswith(name) for each in every_test()))
    ]


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_every_test_that_a_page_names_exists(page: Path) -> None:
    assert unknown_tests(page.read_text(encoding="utf-8")) == []
    assert unknown_tests("`test_only_…`, `test_nothing_like_that`, `test_docs.py`") == ["test_nothing_like_that"]


# -- links --------------------------------------------------------------------------------------------------
def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as code forges make them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path, text: str) -> list[str]:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        if target.startswith(("https://", "http://", "mailto:")):
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file) if file else page
        if not path.exists() or (anchor and anchor not in anchors(path.read_text(encoding="utf-8"))):
            broken.append(target)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_every_link_leads_somewhere(page: Path) -> None:
    assert broken_links(page, page.read_text(encoding="utf-8")) == []


def test_a_broken_link_is_seen() -> None:
    text = "[a](architecture.md) [b](architecture.md#nowhere) [c](absent.md) [d](architecture.md#wire-contracts)"
    assert broken_links(THREATS, text) == ["architecture.md#nowhere", "absent.md"]


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"]({page.name})" in index, page.name


# -- commands -----------------------------------------------------------------------------------------------
@functools.cache
def commands() -> dict[tuple[str, ...], frozenset[str] | None]:
    """Every command of ``bulle`` with its options; None for a group of commands."""
    found: dict[tuple[str, ...], frozenset[str] | None] = {}

    def walk(command: typing.Any, path: tuple[str, ...]) -> None:
        below = getattr(command, "commands", None)
        if below is not None:
            found[path] = None
            for name, each in below.items():
                walk(each, (*path, name))
        else:
            found[path] = frozenset(
                option for each in command.params for option in each.opts if option.startswith("--")
            )

    walk(typer.main.get_command(build([])), ())
    return found


def shown_commands(text: str) -> Iterator[str]:
    """What a page shows of the command line: in code spans, and in lines of code blocks (several in a line too)."""
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    for line in "\n".join(blocks).splitlines():
        if re.match(r"\s*(?:\$ )?bulle ", line):
            yield from (f"bulle {each}".strip() for each in re.split(r"(?:^|\s)bulle ", line)[1:])
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    yield from re.findall(r"`(bulle [^`]+)`", prose)


def unknown_command(shown: str) -> str | None:
    """What is wrong with a command as shown; None if it exists. ``a|b`` stands for either."""
    words = shown.split("#", maxsplit=1)[0].replace("[", " ").replace("]", " ").split()[1:]
    while words[:1] == ["--settings"]:
        words = words[2:]
    paths: list[tuple[str, ...]] = [()]
    used = 0
    for word in words:
        if any(commands()[path] is not None for path in paths):
            break
        paths = [(*path, choice) for path, choice in itertools.product(paths, word.split("|"))]
        used += 1
        if unknown := [path for path in paths if path not in commands()]:
            return f"no command {' '.join(unknown[0])}"
    if used < len(words) or all(commands()[path] is not None for path in paths):
        known = frozenset[str]().union(*(commands()[path] or () for path in paths))
        for option in (word.split("=")[0] for word in words[used:] if word.startswith("--")):
            if option not in known:
                return f"no option {option}"
    return None


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_every_command_that_a_page_shows_exists(page: Path) -> None:
    for shown in shown_commands(page.read_text(encoding="utf-8")):
        # what is signed in the audit log begins with its name and version
        if shown.startswith(("bulle audit record v1", "bulle audit head v1")):
            continue
        assert unknown_command(shown) is None, shown


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("`bulle projekt list`", "no command projekt"),
        ("`bulle project open SLUG`", "no command project open"),
        ("```\nbulle member ask|list HEART\n```", "no command member ask"),
        ("```\nbulle status    bulle up --now\n```", "no option --now"),
        ("```sh\nbulle audit show --colour red   # words\n```", "no option --colour"),
    ],
)
def test_a_command_that_does_not_exist_is_seen(text: str, wrong: str) -> None:
    assert [found for shown in shown_commands(text) if (found := unknown_command(shown))] == [wrong]


def shown_paths() -> set[tuple[str, ...]]:
    """Every command that some page shows."""
    found: set[tuple[str, ...]] = set()
    for shown in (each for page in PAGES for each in shown_commands(page.read_text(encoding="utf-8"))):
        choices = [word.split("|") for word in shown.split()[1:]]
        for length in range(1, 4):
            found |= {path for path in itertools.product(*choices[:length]) if commands().get(path) is not None}
    return found


def test_every_command_is_shown_somewhere() -> None:
    assert {path for path, options in commands().items() if options is not None} - shown_paths() == set()


def test_commands_are_found() -> None:
    everything = [shown for page in PAGES for shown in shown_commands(page.read_text(encoding="utf-8"))]
    assert len(everything) > 40
    assert unknown_command("bulle project activate|suspend SLUG --as custodian") is None


# -- settings -----------------------------------------------------------------------------------------------
def settings_keys(model: type[BaseModel] = Settings, prefix: str = "") -> set[str]:
    """Every key of the settings file, dotted; where a section has forms, those of each."""
    found: set[str] = set()
    for name, field in model.model_fields.items():
        sections = [
            each
            for each in (field.annotation, *typing.get_args(field.annotation))
            if isinstance(each, type) and not isinstance(each, types.GenericAlias) and issubclass(each, BaseModel)
        ]
        below = [settings_keys(section, f"{prefix}{name}.") for section in sections]
        found |= set[str]().union(*below) if sections else {prefix + name}
    return found


def documented_keys(text: str) -> set[str]:
    """The keys of the table in the page's chapter on settings."""
    chapter = text.split("\n## Settings\n")[1].split("\n## ", maxsplit=1)[0]
    cells = re.findall(r"^\| (`[^|]+) \|", chapter, re.MULTILINE)
    return {key for cell in cells for key in re.findall(r"`([\w.]+)`", cell)}


def test_every_setting_is_documented_and_every_documented_one_exists() -> None:
    text = (ROOT / "docs" / "administration.md").read_text(encoding="utf-8")
    assert documented_keys(text) == settings_keys()
    assert documented_keys(text.replace("`oidc.require_mfa`", "`oidc.mfa`")) ^ settings_keys() == {
        "oidc.mfa",
        "oidc.require_mfa",
    }


def test_every_key_of_an_image_is_documented() -> None:
    text = (ROOT / "docs" / "images.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == set(ImageSpec.model_fields)


# -- nothing of where this was made -------------------------------------------------------------------------
#: people's folders on a machine; ``researcher`` lives in every sandbox, ``somebody`` in a test
FOLDER = re.compile(r"""(?<![\w/.})$-])(?<!\w["'])/(?:work/|root/\w|home/(?!researcher\b|somebody\b)\w)[\w./-]*""")
#: package registries; written so that this file names none
REGISTRIES = [".".join(parts) for parts in (("pypi", "org"), ("files", "pythonhosted", "org"), ("ghcr", "io"))]
REGISTRIES += [
    ".".join(parts) for parts in (("registry", "npmjs", "org"), ("registry-1", "docker", "io"), ("quay", "io"))
]


def tracked() -> list[Path]:
    """The files of the repository, new ones included. A copy without git: all but what is built."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode == 0:
        paths = [ROOT / line for line in listed.stdout.splitlines()]
    else:
        built = {".venv", "build", "node_modules", "__pycache__", ".git"}
        paths = [path for path in ROOT.rglob("*") if not built & set(path.relative_to(ROOT).parts)]
    return [path for path in paths if path.is_file() and path.suffix not in (".png", ".ico", ".woff2", ".pyc", ".mo")]


def traces(text: str) -> list[str]:
    """Folders of people's machines, and hosts of registries, that ``text`` names."""
    return [found.group() for found in FOLDER.finditer(text)] + [host for host in REGISTRIES if host in text]


def test_no_file_names_a_developers_folder_or_a_registry() -> None:
    files = tracked()
    assert len(files) > 200
    found = {
        path.relative_to(ROOT).as_posix(): seen
        for path in files
        if (seen := traces(path.read_text(encoding="utf-8", errors="replace")))
    }
    assert found == {}


@pytest.mark.parametrize(
    "text",
    [
        "cd /{}/main".format("work"),
        "path = '/{}/bulle'".format("root"),
        "(/{}/jane/b)".format("home"),
        f"https://{REGISTRIES[0]}/",
    ],
)
def test_a_trace_is_seen(text: str) -> None:
    assert traces(text)


@pytest.mark.parametrize(
    "text", ["/home/researcher/notes", '"$root"/root/.cache', "/usr/share/bulle/home/data", "doctor/work/x"]
)
def test_what_is_no_trace(text: str) -> None:
    assert traces(text) == []
