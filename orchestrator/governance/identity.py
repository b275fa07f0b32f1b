"""Who acts: persons by their id, and the few parts of the platform that act by themselves."""

from __future__ import annotations

import hashlib
import re

from orchestrator.errors import InputError

#: the machine's operator: whoever runs the command line without naming a person
OPERATOR = "operator"
#: the hub, which tells of logins
HUB = "hub"
#: the node agent, which archives and destroys what a closed project leaves
NODE = "node-agent"
#: the authority itself, which closes a project whose time is over
AUTHORITY = "authority"

#: names under which parts of the platform act; nobody's id is one of them
RESERVED = frozenset({OPERATOR, HUB, NODE, AUTHORITY, "portal", "proxy", "door", "root"})

_PLAIN = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


def person_id(subject: str) -> str:
    """The id of the person with this ``sub`` claim (docs/architecture.md, Persons).

    Raises:
        InputError: the subject is empty, too long (OpenID Connect allows 255), or a reserved name.
    """
    if not 0 < len(subject) <= 255:
        raise InputError(f"a subject has 1 to 255 characters; got {len(subject)}")
    # Stops: somebody whose provider lets them be called like a part of the platform, and who would then act
    # as it. Shown by tests/unit/governance/test_people.py.
    if subject in RESERVED:
        raise InputError(f"'{subject}' is a reserved name and cannot be a person")
    if _PLAIN.fullmatch(subject):
        return subject
    try:
        return f"sub~{hashlib.sha256(subject.encode()).hexdigest()[:32]}"
    except UnicodeEncodeError as error:
        raise InputError("a subject must be valid Unicode text") from error
