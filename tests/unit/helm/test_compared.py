"""What administrators of Zero to JupyterHub look for is in docs/helm.md: each of its values, with a place that exists.

``zero-to-jupyterhub.txt`` names the values of that chart's schema (commit 48ea50e, July 2026), two levels deep.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from helm.generate import PAGE, SCHEMA, VALUES, values

NAMES = frozenset(Path(__file__).with_name("zero-to-jupyterhub.txt").read_text(encoding="utf-8").split())
GROUPS = frozenset(name.partition(".")[0] for name in NAMES)


def rows(page: str) -> list[tuple[list[str], str, list[str]]]:
    """Of each row of the table: what it names there, what it says, and what it names here."""
    _, _, below = page.partition("## Beside Zero to JupyterHub")
    table = [line for line in below.partition("\n## ")[0].splitlines() if line.startswith("| ")][1:]
    found = []
    for line in table:
        there, here = (cell.strip() for cell in line.strip("|").split(" | "))
        found.append((re.findall("`([^`]+)`", there), here, re.findall("`([^`]+)`", here)))
    return found


def named(spans: list[str]) -> Iterator[str]:
    """Whole names: one without a group is of the group before it."""
    group = ""
    for span in spans:
        if "." in span:
            group = span.partition(".")[0]
            yield span
        elif span in NAMES or not group:
            yield span
        else:
            yield f"{group}.{span}"


def covered(page: str) -> set[str]:
    """The values of theirs that the table speaks of; a KeyError for what is none of them."""
    found: set[str] = set()
    for spans, here, _ in rows(page):
        assert here
        for name in named(spans):
            group, _, rest = name.partition(".")
            these = {each for each in NAMES if each.startswith(f"{group}.")} if rest == "*" else set()
            these |= {each for each in NAMES if name == each or name.startswith(f"{each}.")}
            if not these:
                raise KeyError(name)
            found |= these
    return found


def unknown(page: str) -> set[str]:
    """What the table sends people to, and is not there."""
    ours = {value.path for value in values(VALUES.read_text(encoding="utf-8"))}
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    known = set(ours)
    for path in ours:
        known |= {path[: match.start()] for match in re.finditer(r"\.", path)}
    known |= {f"{each}.*" for each in known}
    settings = schema["properties"]["settings"]["properties"]
    known |= {f"settings.{key}" for key in settings}
    known |= {f"settings.kubernetes.{key}" for key in schema["$defs"]["Kubernetes"]["properties"]}
    return {span for *_, spans in rows(page) for span in spans if span != "bulle-proxy"} - known


def test_every_value_of_theirs_is_spoken_of_and_leads_somewhere() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert len(NAMES) > 120 and NAMES - covered(page) == set()
    assert unknown(page) == set()


def test_negative_control_what_is_forgotten_or_misspelt_is_seen() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert NAMES - covered(page.replace("`hub.pdb`", "`hub.db`")) == {"hub.pdb"}
    assert unknown(page.replace("`control.disruptionBudget` |", "`control.budget` |", 2)) == {"control.budget"}
    try:
        covered(page.replace("`hub.pdb`", "`hub.budget`"))
    except KeyError as error:
        assert error.args == ("hub.budget",)
    else:
        raise AssertionError("a value that they do not have")
