"""Keeps the catalogues of the languages in step with the texts in the code and the templates.

``python -m orchestrator.pages.catalogue`` brings ``locale/*.po`` up to date after texts were changed; the new
ones stand in it without a translation, which the tests refuse.
"""

from __future__ import annotations

import io

from babel.messages.catalog import Catalog
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import read_po, write_po

from orchestrator.pages import FOLDER

#: rooms that show texts to people
_ROOMS = ("hub", "portal", "pages")
_METHODS = [("**.py", "python"), ("templates/**.html", "jinja2")]
_KEYWORDS: dict[str, tuple[int, ...] | None] = {"_": None, "_marked": None, "many": (1, 2)}

_HEADER = """\
msgid ""
msgstr ""
"Project-Id-Version: Bulle\\n"
"Language: {code}\\n"
"MIME-Version: 1.0\\n"
"Content-Type: text/plain; charset=utf-8\\n"
"Content-Transfer-Encoding: 8bit\\n"
"Plural-Forms: {plural}\\n"

"""


def texts() -> Catalog:
    """Every text that pages show, in English."""
    found = Catalog()
    for room in _ROOMS:
        for _, _, message, comments, _ in extract_from_dir(
            FOLDER.parent / room, _METHODS, keywords=_KEYWORDS, comment_tags=("i18n:",)
        ):
            found.add(message, auto_comments=comments)
    return found


def read(code: str) -> Catalog:
    """The catalogue of a language as it is kept."""
    with (FOLDER / "locale" / f"{code}.po").open("rb") as file:
        return read_po(file, locale=code)


def main() -> None:
    """Bring every catalogue up to date."""
    for path in sorted((FOLDER / "locale").glob("*.po")):
        catalogue = read(path.stem)
        catalogue.update(texts(), no_fuzzy_matching=True)
        catalogue.obsolete.clear()
        write(path.stem, catalogue)
        print(f"{path.name}: {len(untranslated(catalogue))} texts without a translation")


def write(code: str, catalogue: Catalog) -> None:
    """Keep the catalogue of a language; the same texts make the same file."""
    body = io.BytesIO()
    write_po(body, catalogue, sort_output=True, omit_header=True, width=100, ignore_obsolete=True)
    header = _HEADER.format(code=code, plural=catalogue.plural_forms)
    (FOLDER / "locale" / f"{code}.po").write_text(header + body.getvalue().decode("utf-8"), encoding="utf-8")


def untranslated(catalogue: Catalog) -> list[str]:
    """The texts that have no translation, or lack one of its forms."""
    missing = []
    for message in catalogue:
        forms = (message.string,) if isinstance(message.id, str) else tuple(message.string or ())
        if message.id and (not forms or not all(forms)):
            missing.append(message.id if isinstance(message.id, str) else message.id[0])
    return missing


if __name__ == "__main__":
    main()
