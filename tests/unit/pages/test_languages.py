"""Every text has its translation, and readers get the language they asked for."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import pages
from orchestrator.pages.catalogue import read, texts, untranslated
from orchestrator.pages.languages import NAMES, choose, language

OTHERS = [code for code in NAMES if code != "en"]
_PLACES = re.compile(r"%\((\w+)\)s")


@pytest.mark.parametrize("code", OTHERS)
def test_every_text_is_translated(code: str) -> None:
    catalogue = read(code)
    wanted = {message.id if isinstance(message.id, str) else message.id[0] for message in texts() if message.id}
    kept = {message.id if isinstance(message.id, str) else message.id[0] for message in catalogue if message.id}
    assert len(wanted) > 100
    assert kept == wanted, "run: python -m orchestrator.pages.catalogue"
    assert untranslated(catalogue) == []


@pytest.mark.parametrize("code", OTHERS)
def test_translations_keep_the_places_of_values(code: str) -> None:
    for message in (found for found in read(code) if found.id):
        sources = [message.id] if isinstance(message.id, str) else list(message.id)
        forms = [message.string] if isinstance(message.string, str) else list(message.string)
        for form in forms:
            assert set(_PLACES.findall(form)) == set(_PLACES.findall(sources[0])), message.id
            assert "<" not in form


def test_negative_control_an_untranslated_text_is_found() -> None:
    catalogue = read("fr")
    catalogue.add("A text that nobody translated")
    assert untranslated(catalogue) == ["A text that nobody translated"]


def test_dates_and_numbers_are_written_as_the_language_does() -> None:
    moment = datetime(2027, 3, 3, 12, tzinfo=UTC)
    assert language("en").day(moment) == "3 March 2027"
    assert language("fr").day(moment) == "3 mars 2027"
    assert language("en").number(1234567) == "1,234,567"
    assert language("fr").number(1234567) == "1\u202f234\u202f567"
    assert (language("en").month(moment), language("fr").month(moment)) == ("March 2027", "mars 2027")
    assert (language("en").tenth(1500), language("fr").tenth(2.25)) == ("1,500.0", "2,2")
    assert language("en").money(Decimal("1234.5"), "EUR") == "€1,234.50"
    assert language("fr").money(Decimal("1234.5"), "EUR") == "1\u202f234,50\xa0€"


def test_plurals() -> None:
    assert language("en").many("%(count)s table", "%(count)s tables", 2) == "2 tables"
    assert language("fr").many("%(count)s column", "%(count)s columns", 0) == "0 colonne"


@pytest.mark.parametrize(
    ("offered", "chosen", "accepted", "expected"),
    [
        (("en", "fr"), None, None, "en"),
        (("fr", "en"), None, None, "fr"),
        (("en", "fr"), None, "fr-FR,fr;q=0.9,en;q=0.8", "fr"),
        (("en", "fr"), None, "de,en;q=0.3,fr;q=0.7", "fr"),
        (("en", "fr"), "fr", "en", "fr"),
        (("en", "fr"), "de", "en", "en"),
        (("en",), "fr", "fr", "en"),
        (("en", "fr"), None, "fr;q=0,en;q=0.1", "en"),
        (("en", "fr"), None, "fr;q=x", "en"),
    ],
)
def test_choice(offered: tuple[str, ...], chosen: str | None, accepted: str | None, expected: str) -> None:
    assert choose(offered, chosen, accepted) == expected


@given(st.text(), st.text())
def test_no_header_breaks_the_choice(chosen: str, accepted: str) -> None:
    assert choose(("en", "fr"), chosen, accepted) in ("en", "fr")


def test_no_page_and_no_file_points_elsewhere() -> None:
    """No third party: what a page loads comes from the deployment itself, and nothing runs in the page."""
    rooms = [pages.FOLDER, pages.FOLDER.parent / "portal", pages.FOLDER.parent / "hub"]
    found = [path for room in rooms for path in room.rglob("*") if path.suffix in (".html", ".css", ".js", ".svg")]
    assert len(found) > 15
    for path in found:
        assert not foreign(path.read_text(encoding="utf-8")), path


def foreign(text: str) -> bool:
    """Whether a file takes something from elsewhere, or brings a script, a style or an unescaped value of its own."""
    text = text.replace("http://www.w3.org/2000/svg", "")
    elsewhere = re.search(r"(https?:)?//[a-z]", text.replace("// ", ""))
    return bool(elsewhere or re.search(r"\son\w+=|style=|<script(?! src=)|<style|javascript:|\|\s*safe", text))


@pytest.mark.parametrize(
    "added",
    [
        '<script src="https://cdn.example.org/x.js"></script>',
        '<img src="//cdn.example.org/x.png">',
        "@import url(http://fonts.example.org/x.css);",
        '<body onload="x()">',
        "<script>alert(1)</script>",
        '<p style="color: red">',
        '<a href="javascript:x()">',
        "{{ project.title | safe }}",
    ],
)
def test_a_page_that_takes_something_from_elsewhere_is_seen(added: str) -> None:
    page = next((pages.FOLDER / "templates").glob("*.html")).read_text(encoding="utf-8")
    assert not foreign(page)
    assert foreign(page + added)
