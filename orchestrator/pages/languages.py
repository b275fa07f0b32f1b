"""Languages of the pages: which one a reader gets, its texts, and how it writes dates and numbers.

English texts stand in the code; ``locale/<language>.po`` holds the others, read at start-up, so there is no
compiled file that could be out of date.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from functools import cache

from babel.dates import format_date, format_datetime, format_skeleton
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from babel.numbers import format_currency, format_decimal
from babel.support import NullTranslations, Translations

from orchestrator.pages import FOLDER

#: the cookie in which a reader's own choice is kept
COOKIE = "bulle-language"
SOURCE = "en"
NAMES = {"en": "English", "fr": "Français"}
#: English with the day first, as in Europe
_LOCALES = {"en": "en_GB", "fr": "fr_FR"}


@dataclass(frozen=True)
class Language:
    """One language: its texts and its way with dates and numbers."""

    code: str
    texts: NullTranslations

    def text(self, message: str, /, **values: object) -> str:
        """``message`` in this language, with ``%(name)s`` filled from ``values``."""
        said = self.texts.gettext(message)
        return said % values if values else said

    def many(self, one: str, more: str, count: int, /, **values: object) -> str:
        """``one`` or ``more`` in this language, by ``count``, which is also a value."""
        return self.texts.ngettext(one, more, count) % {"count": self.number(count), **values}

    def day(self, moment: datetime) -> str:
        """A date, as this language writes it: 3 March 2027."""
        return format_date(moment, format="long", locale=_LOCALES[self.code])

    def moment(self, moment: datetime) -> str:
        """A date and time."""
        return format_datetime(moment, format="medium", locale=_LOCALES[self.code])

    def month(self, moment: date) -> str:
        """A month: March 2027."""
        return format_skeleton("yMMMM", moment, locale=_LOCALES[self.code])

    def number(self, value: float) -> str:
        """A number, with this language's separators."""
        return format_decimal(value, locale=_LOCALES[self.code])

    def tenth(self, value: float) -> str:
        """A number to one decimal, for columns of them."""
        return format_decimal(value, "#,##0.0", locale=_LOCALES[self.code])

    def money(self, value: Decimal, currency: str) -> str:
        """An amount of money in a currency (ISO 4217)."""
        return format_currency(value, currency, locale=_LOCALES[self.code])


@cache
def language(code: str) -> Language:
    """The language ``code``.

    Raises:
        KeyError: there is none of that name.
    """
    if code not in NAMES:
        raise KeyError(code)
    if code == SOURCE:
        return Language(code, NullTranslations())
    with (FOLDER / "locale" / f"{code}.po").open("rb") as file:
        catalogue = read_po(file, locale=code)
    compiled = io.BytesIO()
    write_mo(compiled, catalogue)
    compiled.seek(0)
    return Language(code, Translations(fp=compiled))


def choose(offered: Sequence[str], chosen: str | None, accepted: str | None) -> str:
    """The code of the language for a reader: their own choice, else what the browser prefers, else the first
    offered.

    ``accepted`` is the header Accept-Language (RFC 9110, section 12.5.4).
    """
    if chosen is not None and chosen in offered:
        return chosen
    ranked: list[tuple[float, int, str]] = []
    for at, part in enumerate((accepted or "").split(",")[:20]):
        tag, _, parameters = part.partition(";")
        quality = 1.0
        name, _, value = parameters.partition("=")
        if name.strip() == "q":
            try:
                quality = float(value)
            except ValueError:
                continue
        primary = tag.strip().lower().partition("-")[0]
        if primary in offered and quality > 0:
            ranked.append((-quality, at, primary))
    return min(ranked)[2] if ranked else offered[0]
