"""A deployment in which decisions are signed: people with passkeys in software, in place of their browsers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.audit import AuditLog
from orchestrator.config import Policy, Signatures
from orchestrator.governance.chain import Anchors
from orchestrator.governance.identity import OPERATOR
from orchestrator.governance.presented import presenting
from orchestrator.governance.service import Governance
from orchestrator.governance.signatures import Signing
from orchestrator.governance.store import Store
from tests.unit.governance.places import AUDIT_KEY, DAY, START, Clock, Shelf, create, draft, peopled, store_url
from tests.unit.softkey import ORIGIN, SoftKey

DEPLOYMENT = "trial"
SIGNING = Signing(DEPLOYMENT, ORIGIN)


@dataclass
class SignedPlace:
    governance: Governance
    store: Store
    audit: AuditLog
    clock: Clock
    keys: dict[str, SoftKey] = field(default_factory=dict)
    anchors: Anchors = field(default_factory=lambda: Anchors(deployment=DEPLOYMENT))

    def register(self, person: str, key: SoftKey | None = None) -> SoftKey:
        key = key or SoftKey()
        self.governance.add_passkey(person, "key", key.create(self.governance.begin_passkey(person)))
        return key

    def give(self, person: str, voucher: str = OPERATOR) -> SoftKey:
        """A passkey that is vouched for; by the operator, it is an anchor."""
        key = self.keys[person] = self.register(person)
        if voucher == OPERATOR:
            self.governance.vouch_passkey(OPERATOR, person, key.name)
            self.anchors = self.anchors.with_passkey(person, key.name, key.cose)
        else:
            self.do(voucher, lambda: self.governance.vouch_passkey(voucher, person, key.name))
        return key

    def record(self, call: Callable[[], Any]) -> str:
        record = self.governance.rehearse(call).record
        assert record is not None
        return record

    def do(self, by: str, call: Callable[[], Any], key: SoftKey | None = None) -> Any:
        """What a person's browser does: ask what is to be signed, sign it, do it."""
        with presenting(signature=(key or self.keys[by]).sign(self.record(call))):
            return call()

    def events(self) -> list[tuple[str, str]]:
        return [(record.event.kind, str(record.event.outcome)) for record in self.audit.read()][1:]


def signed_place(folder: Path, mode: Signatures = Signatures.REQUIRED, two_person: tuple[str, ...] = ()) -> SignedPlace:
    clock = Clock()
    audit = AuditLog(folder / "audit", AUDIT_KEY, clock=clock)
    audit.create()
    store = Store(store_url(folder))
    store.prepare()
    policy = Policy(signatures=mode, two_person=two_person)
    governance = Governance(store, audit, clock, Shelf(), policy, signing=SIGNING)
    peopled(governance)
    return SignedPlace(governance, store, audit, clock)


def signed_project(here: SignedPlace, slug: str = "sleep") -> None:
    """Keys for custodian and lead, and a running project of which every decision is signed."""
    governance = here.governance
    if not here.keys:
        here.give("custodian")
        here.give("lead", "custodian")
    create(governance, slug)
    here.do("custodian", lambda: governance.activate_project("custodian", slug))
    governance.draft_permit("lead", slug, draft())
    here.do("custodian", lambda: governance.approve_permit("custodian", slug, 1))
    governance.request_membership("researcher", slug, "researcher")
    here.do("lead", lambda: governance.approve_membership("lead", slug, "researcher", START + 100 * DAY))
