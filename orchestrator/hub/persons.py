"""Who somebody is to the hub: one id for each subject of the identity provider, and for no other."""

from __future__ import annotations

import hashlib
import re

_PLAIN = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


def person_id(subject: str) -> str:
    """The person's id for the ``sub`` claim ``subject``: the hub's user name, the same everywhere.

    A subject that is a safe name already is kept, any other becomes ``sub~`` and 32 hexadecimal digits of its
    SHA-256. "~" cannot occur in the first form, so the two never meet, and two subjects never share an id: in
    particular ``Ada`` and ``ada`` are two people, which lower-casing (the hub's habit) would have merged.

    Raises:
        ValueError: ``subject`` is empty, longer than 255 characters (OpenID Connect Core 1.0, section 2), or
            no text.
    """
    if not subject or len(subject) > 255:
        raise ValueError(f"a subject has 1 to 255 characters, not {len(subject)}")
    if _PLAIN.fullmatch(subject):
        return subject
    return f"sub~{hashlib.sha256(subject.encode('utf-8')).hexdigest()[:32]}"
