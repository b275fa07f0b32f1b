"""The one hierarchy of errors.

A message says what was wrong, with which value; ``hint`` says what to do about it. Every error has a stable
``code`` which services put on the wire, so that a caller on the other side of a socket can raise the same type.
"""

from __future__ import annotations


class BulleError(Exception):
    """Base of every error that Bulle raises on purpose."""

    code = "error"
    #: status with which a service answers when this error reaches its edge
    http_status = 500

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class SettingsError(BulleError):
    """A settings file is wrong; the message names the key."""

    code = "settings"


class InputError(BulleError):
    """What a person handed in (a file, a schema, a permit) is wrong; nothing of it was kept."""

    code = "input"
    http_status = 422


class NotFoundError(BulleError):
    """Something named does not exist (or the person asking may not know that it does)."""

    code = "not-found"
    http_status = 404


class ConflictError(BulleError):
    """The same thing exists or is under way already."""

    code = "conflict"
    http_status = 409


class RefusedError(BulleError):
    """A rule forbids the action; the message names the rule."""

    code = "refused"
    http_status = 403


class LoginError(BulleError):
    """Nobody stands behind a call: its token is missing, unknown, over, revoked, or of somebody who may not act."""

    code = "login"
    http_status = 401


class SecondPersonError(BulleError):
    """The decision was noted, and takes effect when a second person takes it too."""

    code = "second-person"
    http_status = 202


class SignatureError(RefusedError):
    """A decision needs the signature of a passkey, or has a wrong one."""

    code = "signature"


class GrantError(RefusedError):
    """A grant is forged, stale, replayed or for something else."""

    code = "grant"


class IsolationError(RefusedError):
    """A probe in the sandbox found a way out; nothing was mounted."""

    code = "isolation"


class CustodyError(BulleError):
    """The key custodian did not wrap or unwrap a key."""

    code = "custody"


class AuditError(BulleError):
    """An event could not be written, or the log does not verify."""

    code = "audit"


class NodeError(BulleError):
    """The node agent could not mount, unmount, start or stop."""

    code = "node"


class UnavailableError(BulleError):
    """A service that is needed does not answer."""

    code = "unavailable"
    http_status = 503


class ForbiddenError(UnavailableError):
    """A service that is needed answers, and does not let this part ask: a right is missing."""

    code = "forbidden"


class BuildError(BulleError):
    """An image, or the machine on which it is built, lacks something; the message says what."""

    code = "build"


def _every(kind: type[BulleError]) -> list[type[BulleError]]:
    return [kind, *(found for child in kind.__subclasses__() for found in _every(child))]


def from_wire(code: str, message: str, hint: str | None = None) -> BulleError:
    """The error that a service meant, from the ``code``, ``message`` and ``hint`` it answered."""
    for kind in _every(BulleError):
        if kind.code == code:
            return kind(message, hint=hint)
    return BulleError(message, hint=hint)


def to_wire(error: BulleError) -> dict[str, str | None]:
    """The JSON object by which a service answers ``error``; the inverse of :func:`from_wire`."""
    return {"code": error.code, "message": error.message, "hint": error.hint}
