"""What may stand in the log, and its canonical bytes.

The log is read by auditors, copied into backups and exported: it must never carry a secret or a data value
that a careless caller put into ``detail``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from orchestrator.errors import AuditError
from orchestrator.terms import Event

MAX_DEPTH = 6
MAX_TEXT = 4096
MAX_SAFE_INTEGER = 2**53 - 1

_SECRET_NAME = re.compile(
    r"token|secret|passw|passphrase|credential|private|cookie|authori[sz]ation|bearer|signature|jwt|jws|pem"
    r"|wrapped|unwrapped|plaintext|(?:^|[_-])pin(?:$|[_-])",
    re.IGNORECASE,
)
_KEY_NAME = re.compile(r"key|kek|dek", re.IGNORECASE)
_KEY_ID = re.compile(r"(?:dataset|project|home)(?:/[A-Za-z0-9._~-]+)+")
_SECRET_TEXT = re.compile(r"eyJ[\w-]{8,}\.[\w-]+\.[\w-]*|-----BEGIN |\b[Bb]earer [\w.~+/-]{8,}")


def canonical(value: Any) -> bytes:
    """The one byte string of a JSON value, in the manner of RFC 8785.

    Object members are sorted by name, there is no white space, text is UTF-8 with only the escapes that
    JSON demands, numbers are integers within ±(2^53-1) or finite floats in Python's shortest form, which
    differs from RFC 8785 only in how exponents are written. NaN and infinities are refused.
    """
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return text.encode("utf-8")
    except (TypeError, ValueError) as error:
        raise AuditError(f"not canonical JSON: {error}") from error


def event_fields(event: Event) -> dict[str, Any]:
    """The members of ``event`` that are set, as the log holds them.

    Raises:
        AuditError: a text is too long, or the detail holds what the log must never hold. The message names
        the
            place, never the value.
    """
    fields: dict[str, Any] = {"kind": event.kind, "actor": event.actor, "outcome": event.outcome.value}
    for name in ("person", "project", "session"):
        text = getattr(event, name)
        if text is not None:
            fields[name] = text
    for name, text in fields.items():
        _check_text(name, text)
    if event.detail:
        _check_mapping("detail", event.detail, depth=1)
        fields["detail"] = event.detail
    return fields


def _check_mapping(where: str, mapping: Mapping[Any, Any], depth: int) -> None:
    for name, value in mapping.items():
        if not isinstance(name, str):
            raise AuditError(f"{where}: a name in an audited detail must be text")
        place = f"{where}.{name}"
        _check_text(place, name)
        # Stops: a credential or key that leaks through the log to whoever reads it, its backups and exports.
        # Shown by tests/unit/audit/test_details.py.
        if _SECRET_NAME.search(name):
            raise AuditError(f"{place} looks like a secret and may not be logged", hint="log an identifier instead")
        if _KEY_NAME.search(name) and not _names_keys(value):
            raise AuditError(f"{place} may only hold key ids or a count", hint="e.g. project/<project_id>/folder")
        _check_value(place, value, depth)


def _names_keys(value: Any) -> bool:
    if isinstance(value, int):
        return True
    if isinstance(value, str):
        return _KEY_ID.fullmatch(value) is not None
    return isinstance(value, (list, tuple)) and all(isinstance(one, str) and _KEY_ID.fullmatch(one) for one in value)


def _check_value(where: str, value: Any, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise AuditError(f"{where} is nested too deeply to be logged")
    if isinstance(value, str):
        _check_text(where, value)
    elif isinstance(value, Mapping):
        _check_mapping(where, value, depth + 1)
    elif isinstance(value, (list, tuple)):
        for number, one in enumerate(value):
            _check_value(f"{where}[{number}]", one, depth + 1)
    elif isinstance(value, int):  # bool included
        if abs(value) > MAX_SAFE_INTEGER:
            raise AuditError(f"{where} is an integer beyond 2^53, which JSON readers round")
    elif value is not None and not isinstance(value, float):
        raise AuditError(f"{where} is of type {type(value).__name__}, which may not be logged")


def _check_text(where: str, text: str) -> None:
    if len(text) > MAX_TEXT:
        raise AuditError(f"{where} is longer than {MAX_TEXT} characters")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise AuditError(f"{where} is not valid Unicode text") from error
    if _SECRET_TEXT.search(text):
        raise AuditError(f"{where} looks like a secret and may not be logged", hint="log an identifier instead")
