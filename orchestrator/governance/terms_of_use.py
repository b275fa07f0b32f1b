"""The text of the terms of use: the deployment's own, or the one that Bulle brings."""

from __future__ import annotations

import hashlib
from pathlib import Path

from orchestrator.config import TermsOfUse
from orchestrator.errors import UnavailableError

LANGUAGES = ("en", "fr")
#: no text that people are to read is longer, in bytes
LONGEST = 200_000

_HERE = Path(__file__).parent


def terms_texts(terms: TermsOfUse) -> dict[str, str]:
    """Language → text (Markdown). Where the deployment names files of its own, those and no others: two texts of one
    version must not say two things.

    Raises:
        UnavailableError: a file cannot be read, is empty, too long, or not UTF-8. Nobody can accept it then.
    """
    ours = {language: _HERE / f"terms-of-use.{language}.md" for language in LANGUAGES}
    files: dict[str, Path] = {str(language): path for language, path in terms.files.items()} or ours
    texts = {}
    for language, path in files.items():
        try:
            with path.open("rb") as file:
                content = file.read(LONGEST + 1)
            text = content.decode("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UnavailableError(f"the terms of use cannot be read: {path.name}: {type(error).__name__}") from error
        if not text or len(content) > LONGEST:
            raise UnavailableError(f"the terms of use in {path.name} are empty, or longer than {LONGEST} bytes")
        texts[language] = text
    return texts


def terms_digest(texts: dict[str, str]) -> str:
    """SHA-256 over the texts by language: what the audit log says was accepted."""
    told = "\0".join(f"{language}\0{texts[language]}" for language in sorted(texts))
    return hashlib.sha256(told.encode()).hexdigest()
