"""What is signed when a person decides, and how a signature is checked: pure, and the same at the authority and at
the node agent.

A decision's *record* is canonical JSON. Its SHA-256 is the challenge that the person's passkey signs (W3C Web
Authentication, level 2, section 7.2), so the signature covers every field of the record.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC
from typing import Any

from orchestrator.terms import PermitTerms


def canonical(content: Any) -> str:
    """The one spelling of JSON that is digested: sorted keys, no space, no escape that is not needed.

    Raises ValueError where something is not JSON's (NaN among them).
    """
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(text: str) -> str:
    """SHA-256 of a text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def terms_digest(terms: PermitTerms) -> str:
    """What names a permit's terms exactly: whoever signs it signs every table, column, row condition and date."""
    utc = terms.model_copy(
        update={
            "valid_from": terms.valid_from.astimezone(UTC),
            "valid_until": terms.valid_until.astimezone(UTC),
        }
    )
    return digest(canonical(utc.model_dump(mode="json")))
