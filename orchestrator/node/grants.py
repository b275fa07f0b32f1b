"""Which grants were used: each starts one session, and what is mounted for that session rides on the same
grant."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timedelta

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from orchestrator.config import Settings, Signatures
from orchestrator.errors import GrantError
from orchestrator.governance.chain import ANCHORS, check_chain, read_anchors
from orchestrator.governance.grants import VerifiedGrant, verify_grant
from orchestrator.governance.signatures import signing_of, two_people
from orchestrator.terms import Grant

Clock = Callable[[], datetime]
#: how long a used id is remembered after its grant expired, against clocks that are set back
_KEEP = timedelta(minutes=10)


def chain_wanted(settings: Settings) -> Callable[[Grant], None] | None:
    """How the chain of signatures behind a grant is checked; None where the deployment does not require one.

    The anchors are read at each grant: a passkey that the operator takes away counts for nothing at once.

    Raises:
        SettingsError: signatures are required, and browsers refuse passkeys at the deployment's address.
    """
    if settings.governance.signatures is not Signatures.REQUIRED:
        return None
    where, two_person = signing_of(settings), two_people(settings.governance)
    where.check()

    def check(grant: Grant) -> None:
        anchors = read_anchors(settings.layout.public / ANCHORS, settings.deployment)
        check_chain(grant, where, anchors, two_person)

    return check


class GrantDesk:
    """Checks grants, and remembers in this process which ids were used.

    A restart of the agent forgets them, and ends every session too; what a grant issued before could then
    start is bounded by its 60 seconds and by the authority, which is asked about every session that runs.
    """

    def __init__(
        self,
        public_key: Ed25519PublicKey,
        issuer: str,
        clock: Clock,
        chain: Callable[[Grant], None] | None = None,
    ) -> None:
        self._key = public_key
        self._chain = chain
        self._issuer = issuer
        self._clock = clock
        self._used: dict[str, tuple[datetime, str]] = {}
        self._started: set[str] = set()
        self._guard = threading.Lock()

    def check(self, token: str) -> VerifiedGrant:
        """A grant whose signature, audience, times, bounds and chain of signatures hold; raises GrantError."""
        verified = verify_grant(token, self._key, self._issuer, self._clock())
        if self._chain is not None:
            self._chain(verified.grant)
        return verified

    def use_for_start(self, token: str) -> VerifiedGrant:
        """Check a grant and use it up.

        Raises:
            GrantError: it does not hold, or it (or another one for the same session) started a session
            already.
        """
        verified = self.check(token)
        with self._guard:
            self._forget()
            # A grant that somebody saw in passing must not start a second session.
            if verified.jti in self._used or verified.grant.session in self._started:
                raise GrantError("this grant was used before", hint="ask for a new one")
            self._used[verified.jti] = (verified.expires, verified.grant.session)
            self._started.add(verified.grant.session)
        return verified

    def use_for_volume(self, token: str) -> VerifiedGrant:
        """Check a grant for one volume of its session (a kubelet asks for three with the same one)."""
        verified = self.check(token)
        with self._guard:
            self._forget()
            session = self._used.setdefault(verified.jti, (verified.expires, verified.grant.session))[1]
        if session != verified.grant.session:
            raise GrantError("this grant was used for another session")
        return verified

    def _forget(self) -> None:
        limit = self._clock() - _KEEP
        for jti in [jti for jti, (expires, _) in self._used.items() if expires < limit]:
            self._started.discard(self._used.pop(jti)[1])
