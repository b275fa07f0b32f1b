"""Two people for one decision; passkeys; decisions that are signatures, and the attacks on them."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from sqlalchemy import func, select

from orchestrator.config import Policy, Signatures
from orchestrator.errors import (
    AuditError,
    ConflictError,
    InputError,
    NotFoundError,
    RefusedError,
    SecondPersonError,
    SettingsError,
    SignatureError,
)
from orchestrator.governance import signatures
from orchestrator.governance.calls import Asked, perform
from orchestrator.governance.chain import check_chain
from orchestrator.governance.decisions import SIGNED
from orchestrator.governance.identity import OPERATOR
from orchestrator.governance.operations import OPERATIONS
from orchestrator.governance.presented import presenting
from orchestrator.governance.rules import DECISIONS, Action
from orchestrator.governance.service import Governance
from orchestrator.governance.signatures import Signing, canonical, read_record, terms_digest, two_people
from orchestrator.governance.states import MembershipState, PermitState, PlatformRole
from orchestrator.governance.store import DecisionRow, EndorsementRow, MembershipRow, PasskeyRow
from tests.unit.governance.places import DAY, START, Kept, Shelf, create, draft
from tests.unit.signed_stage import SIGNING, signed_place, signed_project
from tests.unit.softkey import SoftKey


@pytest.fixture
def pair(folder, databases):
    """A deployment in which two custodians approve a permit, and nobody signs. 'sleep' has a draft permit."""
    here = signed_place(folder, Signatures.OFF, ("permit.approve", "member.approve"))
    create(here.governance)
    here.governance.activate_project("custodian", "sleep")
    here.governance.draft_permit("lead", "sleep", draft())
    yield here
    here.store.close()


@pytest.fixture
def signed(folder):
    """A deployment in which every decision is signed, with the running project 'sleep'."""
    here = signed_place(folder)
    signed_project(here)
    yield here
    here.store.close()


def endorsements(here):
    with here.store.read() as session:
        return session.scalars(select(EndorsementRow.by)).all()


def permit_state(here, version=1):
    return here.governance.permit("sleep", version).state


# --- two people


def test_the_first_of_two_changes_nothing_but_is_noted_and_audited(pair):
    with pytest.raises(SecondPersonError):
        pair.governance.approve_permit("custodian", "sleep", 1)
    assert permit_state(pair) is PermitState.DRAFT
    assert endorsements(pair) == ["custodian"]
    assert pair.events()[-2:] == [("decision.endorse", "started"), ("decision.endorse", "done")]
    assert SecondPersonError.http_status == 202


def test_the_second_puts_it_into_effect_and_the_endorsement_goes(pair):
    with pytest.raises(SecondPersonError):
        pair.governance.approve_permit("custodian", "sleep", 1)
    pair.governance.approve_permit("custodian2", "sleep", 1)
    assert permit_state(pair) is PermitState.APPROVED
    assert endorsements(pair) == []
    assert list(pair.audit.read())[-1].event.detail["endorsed_by"] == "custodian"


def test_the_same_person_twice_stays_one(pair):
    for _ in range(3):
        with pytest.raises(SecondPersonError):
            pair.governance.approve_permit("custodian", "sleep", 1)
    assert permit_state(pair) is PermitState.DRAFT
    assert endorsements(pair) == ["custodian"]
    assert pair.events().count(("decision.endorse", "done")) == 1


def test_without_the_setting_one_is_enough(folder):
    here = signed_place(folder, Signatures.OFF)
    create(here.governance)
    here.governance.activate_project("custodian", "sleep")
    here.governance.draft_permit("lead", "sleep", draft())
    here.governance.approve_permit("custodian", "sleep", 1)
    assert permit_state(here) is PermitState.APPROVED


def test_what_changed_in_between_is_another_decision(pair):
    pair.governance.request_membership("researcher", "sleep", "researcher")
    with pytest.raises(SecondPersonError):
        pair.governance.approve_membership("lead", "sleep", "researcher", START + 100 * DAY)
    second_lead(pair)
    with pytest.raises(SecondPersonError):
        pair.governance.approve_membership("outsider", "sleep", "researcher", START + 101 * DAY)
    assert sorted(endorsements(pair)) == ["lead", "outsider"]
    pair.governance.approve_membership("outsider", "sleep", "researcher", START + 100 * DAY)
    assert state_of(pair, "researcher") is MembershipState.ACTIVE


def second_lead(here):
    here.governance.request_membership("outsider", "sleep", "outsider", "lead")
    here.governance.approve_membership("custodian2", "sleep", "outsider")


def state_of(here, person):
    with here.store.read() as session:
        return session.scalars(select(MembershipRow.state).where(MembershipRow.person_id == person)).one()


def test_an_endorsement_expires(pair):
    with pytest.raises(SecondPersonError):
        pair.governance.approve_permit("custodian", "sleep", 1)
    pair.clock.pass_(30)
    with pytest.raises(SecondPersonError):
        pair.governance.approve_permit("custodian2", "sleep", 1)
    assert endorsements(pair) == ["custodian2"]
    pair.clock.pass_(29.9)
    pair.governance.approve_permit("custodian", "sleep", 1)


@pytest.mark.parametrize("loss", ["role", "disabled", "involved"])
def test_whoever_lost_their_office_counts_no_more(pair, loss):
    with pytest.raises(SecondPersonError):
        pair.governance.approve_permit("custodian", "sleep", 1)
    if loss == "role":
        pair.governance.remove_role(OPERATOR, "custodian", PlatformRole.CUSTODIAN)
    elif loss == "disabled":
        pair.governance.disable_person(OPERATOR, "custodian")
    else:
        pair.governance.request_membership("custodian", "sleep", "custodian")
    with pytest.raises(SecondPersonError):
        pair.governance.approve_permit("custodian2", "sleep", 1)
    assert permit_state(pair) is PermitState.DRAFT
    assert endorsements(pair) == ["custodian2"]


def test_negative_control_without_judging_anew_a_former_custodian_counts(pair, monkeypatch):
    with pytest.raises(SecondPersonError):
        pair.governance.approve_permit("custodian", "sleep", 1)
    pair.governance.remove_role(OPERATOR, "custodian", PlatformRole.CUSTODIAN)
    monkeypatch.setattr(Governance, "_counts", lambda *_: True)
    pair.governance.approve_permit("custodian2", "sleep", 1)


def test_a_second_person_who_may_not_is_refused_and_leaves_no_trace_of_a_decision(pair):
    with pytest.raises(SecondPersonError):
        pair.governance.approve_permit("custodian", "sleep", 1)
    for by in ("lead", "admin", "auditor", "researcher"):
        with pytest.raises(RefusedError):
            pair.governance.approve_permit(by, "sleep", 1)
    assert endorsements(pair) == ["custodian"]


def test_an_endorsement_that_cannot_be_audited_is_not_kept(pair, monkeypatch):
    def broken(event):
        raise AuditError("no space")

    monkeypatch.setattr(pair.governance.audit, "record", broken)
    with pytest.raises(AuditError):
        pair.governance.approve_permit("custodian", "sleep", 1)
    assert endorsements(pair) == []


def test_two_person_names_are_checked_where_governance_opens(pair):
    with pytest.raises(SettingsError, match=r"two_person: 'permit.draft' is not a decision"):
        Governance(pair.store, Kept(), pair.clock, Shelf(), Policy(two_person=("permit.draft",)))
    assert two_people(Policy(two_person=tuple(DECISIONS))) == DECISIONS


def test_what_would_get_round_two_people_needs_two_as_well():
    assert two_people(Policy(two_person=("permit.approve",))) == {Action.PERMIT_APPROVE, Action.APPLICATION_APPROVE}
    assert two_people(Policy(two_person=("lead.appoint",))) == {
        Action.LEAD_APPOINT,
        Action.PROJECT_ACTIVATE,
        Action.APPLICATION_APPROVE,
    }


# --- passkeys


def test_a_passkey_signs_nothing_until_it_is_vouched_for(folder):
    here = signed_place(folder)
    key = here.register("custodian")
    assert [card.usable for card in here.governance.passkeys("custodian")] == [False]
    create(here.governance)
    with pytest.raises(SignatureError, match="none that counts"):
        here.governance.rehearse(lambda: here.governance.activate_project("custodian", "sleep"))
    here.governance.vouch_passkey(OPERATOR, "custodian", key.name)
    assert [card.usable for card in here.governance.passkeys("custodian")] == [True]
    here.do("custodian", lambda: here.governance.activate_project("custodian", "sleep"), key)


def test_a_challenge_is_for_one_person_once_and_for_five_minutes(folder):
    here = signed_place(folder)
    governance, key = here.governance, SoftKey()
    made = key.create(governance.begin_passkey("lead"))
    with pytest.raises(SignatureError, match="fresh"):
        governance.add_passkey("researcher", "key", made)
    governance.add_passkey("lead", "key", made)
    with pytest.raises(SignatureError, match="fresh"):
        governance.add_passkey("lead", "key", made)
    late = SoftKey().create(governance.begin_passkey("lead"))
    here.clock.now += timedelta(minutes=5)
    with pytest.raises(SignatureError, match="fresh"):
        governance.add_passkey("lead", "key", late)
    replaced = SoftKey().create(governance.begin_passkey("lead"))
    governance.begin_passkey("lead")
    with pytest.raises(SignatureError, match="challenge"):
        governance.add_passkey("lead", "key", replaced)


@pytest.mark.parametrize(
    "key",
    [SoftKey(origin="http://localhost.example.org"), SoftKey(rp_id="example.org"), SoftKey(verifies=False)],
    ids=["wrong origin", "wrong relying party", "no user verification"],
)
def test_a_registration_from_elsewhere_or_without_the_person_is_refused(folder, key):
    here = signed_place(folder)
    with pytest.raises(SignatureError, match=r"passkey.add/verify"):
        here.register("lead", key)
    assert here.governance.passkeys("lead") == []


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"id": 1}', '{"id":"a","rawId":"a","response":{}}'])
def test_a_malformed_registration_is_refused(folder, text):
    here = signed_place(folder)
    here.governance.begin_passkey("lead")
    with pytest.raises(SignatureError):
        here.governance.add_passkey("lead", "key", text)


def test_the_same_passkey_is_nobody_elses(folder):
    here = signed_place(folder)
    key = here.register("lead")
    with pytest.raises(ConflictError):
        here.register("researcher", key)


def test_who_vouches_for_whom(signed):
    governance = signed.governance
    second, member = signed.register("custodian2"), signed.register("researcher")
    for by in ("lead", "admin", "auditor", "researcher"):
        with pytest.raises(RefusedError):
            governance.vouch_passkey(by, "researcher", member.name)
    with pytest.raises(RefusedError, match="anchor"):
        governance.vouch_passkey("custodian", "custodian2", second.name)
    with pytest.raises(RefusedError, match="no custodian"):
        governance.vouch_passkey(OPERATOR, "researcher", member.name)
    with pytest.raises(NotFoundError):
        governance.vouch_passkey(OPERATOR, "custodian2", member.name)
    with pytest.raises(RefusedError, match="not-self"):
        governance.vouch_passkey("custodian2", "custodian2", second.name)


def test_a_lead_who_becomes_custodian_needs_the_operators_word(signed):
    signed.governance.add_role(OPERATOR, "lead", PlatformRole.CUSTODIAN)
    assert [card.usable for card in signed.governance.passkeys("lead")] == [False]


def test_passkeys_of_others_are_for_those_who_may_read_the_person(signed):
    assert signed.governance.passkeys("custodian", "lead")[0].fingerprint
    for by in ("outsider", "researcher"):
        with pytest.raises(RefusedError):
            signed.governance.passkeys(by, "lead")
    with pytest.raises(RefusedError):
        signed.governance.remove_passkey("outsider", signed.keys["lead"].name)
    signed.governance.remove_passkey("admin", signed.keys["lead"].name)


def test_an_address_in_numbers_is_refused_where_signatures_are_wanted(pair):
    for origin in ("http://127.0.0.1:8000", "https://[::1]"):
        with pytest.raises(SettingsError, match="host name"):
            Governance(
                pair.store, Kept(), pair.clock, Shelf(), Policy(signatures="required"), signing=Signing("x", origin)
            )
    Governance(pair.store, Kept(), pair.clock, Shelf(), Policy(signatures="required"), signing=SIGNING)
    with pytest.raises(SettingsError):
        Governance(pair.store, Kept(), pair.clock, Shelf(), Policy(signatures="required"))


# --- an approval is a signature


def approve(here, by="custodian", version=2):
    return lambda: here.governance.approve_permit(by, "sleep", version)


@pytest.fixture
def waiting(signed):
    """With a second permit version that waits for its approval."""
    signed.governance.draft_permit("lead", "sleep", draft("age"))
    return signed


def test_a_signed_decision_takes_effect_and_its_record_is_kept(waiting):
    waiting.do("custodian", approve(waiting))
    assert permit_state(waiting, 2) is PermitState.APPROVED
    with waiting.store.read() as session:
        rows = session.scalars(select(DecisionRow).where(DecisionRow.action == "permit.approve"))
        record = next(
            found for found in map(read_record, [row.record for row in rows]) if found.content["version"] == 2
        )
    assert (record.by, record.project, record.deployment) == ("custodian", "sleep", "trial")
    assert record.content["permit"] == terms_digest(waiting.governance.permit("sleep", 2).terms)
    assert list(waiting.audit.read())[-1].event.detail["signed"] == record.nonce


def test_a_rehearsal_keeps_nothing(waiting):
    before = waiting.events()
    waiting.record(approve(waiting))
    assert permit_state(waiting, 2) is PermitState.DRAFT
    assert waiting.events() == before


def test_only_decisions_are_rehearsed(waiting):
    governance = waiting.governance
    with pytest.raises(InputError, match="not a decision"):
        governance.rehearse(lambda: governance.suspend_project("custodian", "sleep"))
    assert governance.project("sleep").state == "active"
    with pytest.raises(RefusedError):
        governance.rehearse(approve(waiting, "lead"))


def test_required_means_that_without_a_signature_nothing_happens(waiting):
    with pytest.raises(SignatureError, match="rule signature"):
        approve(waiting)()
    assert permit_state(waiting, 2) is PermitState.DRAFT
    others = waiting.keys["lead"].sign(waiting.record(approve(waiting)))
    with presenting(signature=others), pytest.raises(SignatureError):
        approve(waiting)()
    assert permit_state(waiting, 2) is PermitState.DRAFT
    assert waiting.events()[-2:] == [("permit.draft", "done"), ("permit.approve", "refused")]


def test_optional_asks_those_who_have_a_passkey(folder):
    here = signed_place(folder, Signatures.OPTIONAL)
    create(here.governance)
    here.governance.activate_project("custodian", "sleep")
    here.governance.draft_permit("lead", "sleep", draft())
    assert here.governance.rehearse(approve(here, version=1)).record is None
    here.give("custodian")
    with pytest.raises(SignatureError):
        here.governance.approve_permit("custodian", "sleep", 1)
    here.governance.approve_permit("custodian2", "sleep", 1)


def refused(here, call, signature, match="signature"):
    with presenting(signature=signature), pytest.raises((SignatureError, InputError), match=match):
        call()
    assert permit_state(here, 2) is PermitState.DRAFT


def test_a_signature_is_used_once(waiting):
    record = waiting.record(approve(waiting))
    signature = waiting.keys["custodian"].sign(record)
    with presenting(signature=signature):
        approve(waiting)()
    waiting.governance.revoke_permit("custodian", "sleep", 2)
    with presenting(signature=signature), pytest.raises(RefusedError):
        approve(waiting)()
    # and where the state would allow it again:
    vouch = waiting.register("researcher")
    call = lambda: waiting.governance.vouch_passkey("custodian", "researcher", vouch.name)  # noqa: E731
    signature = waiting.keys["custodian"].sign(waiting.record(call))
    with presenting(signature=signature):
        call()
        with pytest.raises(SignatureError, match="used before"):
            call()


def test_a_signature_is_good_for_five_minutes(waiting):
    signature = waiting.keys["custodian"].sign(waiting.record(approve(waiting)))
    waiting.clock.now += timedelta(minutes=5, seconds=1)
    refused(waiting, approve(waiting), signature, "too long ago")
    waiting.clock.now -= timedelta(minutes=5, seconds=2)
    refused(waiting, approve(waiting), signature, "too long ago")
    waiting.clock.now += timedelta(seconds=1)
    with presenting(signature=signature):
        approve(waiting)()


def test_another_persons_passkey_is_refused(waiting):
    record = waiting.record(approve(waiting))
    refused(waiting, approve(waiting), waiting.keys["lead"].sign(record), "not a passkey of yours")


def test_a_key_that_nobody_vouched_for_is_refused(waiting):
    record = waiting.record(approve(waiting))
    refused(waiting, approve(waiting), waiting.register("custodian").sign(record), "not a passkey of yours")


def test_a_removed_key_is_refused(waiting):
    waiting.governance.vouch_passkey(OPERATOR, "custodian", (other := waiting.register("custodian")).name)
    record = waiting.record(approve(waiting))
    waiting.governance.remove_passkey("custodian", waiting.keys["custodian"].name)
    refused(waiting, approve(waiting), waiting.keys["custodian"].sign(record), "not a passkey of yours")
    with presenting(signature=other.sign(record)):
        approve(waiting)()


def test_a_record_of_another_project_is_refused(waiting):
    create(waiting.governance, "heart")
    other = waiting.record(lambda: waiting.governance.activate_project("custodian", "heart"))
    refused(waiting, approve(waiting), waiting.keys["custodian"].sign(other), "another")


CHANGES = {
    "v": lambda record: {"v": 2},
    "deployment": lambda record: {"deployment": "other"},
    "action": lambda record: {"action": "lead.appoint"},
    "project_id": lambda record: {"project_id": "0" * 32},
    "project": lambda record: {"project": "heart"},
    "person": lambda record: {"person": "outsider"},
    "content": lambda record: {"content": {**record["content"], "version": 3}},
    "by": lambda record: {"by": "custodian2"},
}


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_each_field_of_the_record_counts(waiting, name):
    record = json.loads(waiting.record(approve(waiting)))
    changed = canonical({**record, **CHANGES[name](record)})
    refused(waiting, approve(waiting), waiting.keys["custodian"].sign(changed))


def test_a_record_swapped_under_its_signature_is_refused(waiting):
    record, later = waiting.record(approve(waiting)), waiting.record(approve(waiting))
    signature = waiting.keys["custodian"].sign(record)
    refused(waiting, approve(waiting), {**signature, "record": later}, "challenge")


@pytest.mark.parametrize(
    "spell",
    [
        lambda text: text.replace('"v":1', '"v": 1'),
        lambda text: text.replace('"v":1', '"v":1,"v":1'),
        lambda text: text[:-1] + ',"extra":1}',
        lambda text: "[]",
        lambda text: "{",
        lambda text: "[" * 5000,
    ],
)
def test_a_record_has_one_spelling(waiting, spell):
    text = spell(waiting.record(approve(waiting)))
    refused(waiting, approve(waiting), waiting.keys["custodian"].sign(text), "record")


def test_a_signature_from_another_address_is_refused(waiting):
    key = waiting.keys["custodian"]
    record = waiting.record(approve(waiting))
    key.origin = "http://localhost:8001"
    refused(waiting, approve(waiting), key.sign(record), "origin")
    key.origin, key.rp_id = "http://localhost:8000", "example.org"
    refused(waiting, approve(waiting), key.sign(record), "RP ID")
    key.rp_id = "localhost"
    refused(waiting, approve(waiting), key.sign(record, crossOrigin=True), "another site")


def test_a_signature_without_the_person_is_refused(waiting):
    key = waiting.keys["custodian"]
    key.verifies = False
    refused(waiting, approve(waiting), key.sign(waiting.record(approve(waiting))), "not verified")


def test_a_copied_authenticator_is_noticed(waiting):
    key = waiting.keys["custodian"]
    key.count = 0
    refused(waiting, approve(waiting), key.sign(waiting.record(approve(waiting))), "sign count")


@pytest.mark.parametrize(
    "signature", [{}, {"record": ""}, {"record": "", "credential": {}}, {"record": 1, "credential": []}]
)
def test_what_is_no_signature_is_refused(waiting, signature):
    refused(waiting, approve(waiting), signature, "not what a passkey answers")


@pytest.mark.parametrize("name", ["authenticatorData", "clientDataJSON", "signature"])
@pytest.mark.parametrize("text", ["", "AAAA", "!!", "A" * 1000])
def test_a_malformed_assertion_is_refused(waiting, name, text):
    signature = waiting.keys["custodian"].sign(waiting.record(approve(waiting)))
    signature["credential"]["response"][name] = text
    refused(waiting, approve(waiting), signature)


def test_negative_control_without_the_check_a_stranger_signs(waiting, monkeypatch):
    """The checks above see a difference: with the verification taken away, an empty signature passes."""
    signature = waiting.keys["custodian"].sign(waiting.record(approve(waiting)))
    signature["credential"]["response"]["signature"] = "AAAA"
    monkeypatch.setattr("orchestrator.governance.decisions.verify", lambda *_: 1000)
    with presenting(signature=signature):
        approve(waiting)()


def test_negative_control_without_the_comparison_one_signature_serves_for_another(waiting, monkeypatch):
    create(waiting.governance, "heart")
    other = waiting.record(lambda: waiting.governance.activate_project("custodian", "heart"))
    signature = waiting.keys["custodian"].sign(other)
    real = signatures.read_record
    monkeypatch.setattr(
        "orchestrator.governance.decisions.read_record",
        lambda text: real(text).model_copy(
            update={"action": "", "project_id": None, "project": None, "person": None, "content": {}}
        ),
    )
    with presenting(signature=signature):
        approve(waiting)()


def test_two_people_sign_both(folder, databases):
    here = signed_place(folder, two_person=("permit.approve",))
    signed_custodians(here)
    with pytest.raises(SecondPersonError):
        here.do("custodian", approve(here, version=1))
    with pytest.raises(SignatureError):
        approve(here, "custodian2", 1)()
    here.do("custodian2", approve(here, "custodian2", 1))
    with here.store.read() as session:
        wanted = select(DecisionRow.by).where(DecisionRow.action == "permit.approve")
        assert sorted(session.scalars(wanted)) == ["custodian", "custodian2"]
        assert session.scalar(select(func.min(PasskeyRow.sign_count))) > 0


def signed_custodians(here):
    here.give("custodian")
    here.give("custodian2")
    create(here.governance)
    here.do("custodian", lambda: here.governance.activate_project("custodian", "sleep"))
    here.governance.draft_permit("lead", "sleep", draft())


def test_the_first_ones_signature_is_used_up_with_their_endorsement(folder, databases):
    here = signed_place(folder, two_person=("permit.approve",))
    signed_custodians(here)
    signature = here.keys["custodian"].sign(here.record(approve(here, version=1)))
    with presenting(signature=signature):
        with pytest.raises(SecondPersonError):
            approve(here, version=1)()
        with pytest.raises(SignatureError, match="used before"):
            approve(here, version=1)()


# --- as the portal asks


def test_the_portal_prepares_and_performs_by_name(signed):
    governance = signed.governance
    key = signed.register("researcher")
    arguments = {"person": "researcher", "passkey": key.name}
    prepared = governance.prepare_decision("custodian", "passkey.vouch", arguments)
    assert prepared.options["rpId"] == "localhost"
    assert [one["id"] for one in prepared.options["allowCredentials"]] == [signed.keys["custodian"].name]
    assert prepared.options["userVerification"] == "required"
    asked = Asked(by="custodian", arguments=arguments, signature=signed.keys["custodian"].sign(prepared.record))
    perform(governance, "passkey.vouch", asked)
    assert governance.passkeys("researcher")[0].vouched_by == "custodian"


def test_nobody_prepares_as_a_part_of_the_platform_or_for_what_is_no_decision(signed):
    key = signed.register("custodian2")
    arguments = {"person": "custodian2", "passkey": key.name}
    for by in ("operator", "hub", "node-agent", "nobody"):
        with pytest.raises(RefusedError):
            signed.governance.prepare_decision(by, "passkey.vouch", arguments)
    for name, given in (("passkey.list", {}), ("passkey.remove", {"passkey": signed.keys["lead"].name})):
        with pytest.raises(InputError):
            signed.governance.prepare_decision("lead", name, given)
    assert signed.governance.passkeys("lead")[0].removed_at is None
    with pytest.raises(InputError):
        signed.governance.prepare_decision("custodian", "passkey.vouch", {**arguments, "by": "operator"})


# --- each control taken away


def test_negative_control_without_its_age_an_old_signature_passes(waiting, monkeypatch):
    signature = waiting.keys["custodian"].sign(waiting.record(approve(waiting)))
    waiting.clock.pass_(1)
    monkeypatch.setattr("orchestrator.governance.decisions.FRESH_FOR", 2 * DAY)
    with presenting(signature=signature):
        approve(waiting)()


def test_negative_control_without_its_memory_a_signature_is_used_twice(waiting):
    vouched = waiting.register("researcher")

    def call():
        waiting.governance.vouch_passkey("custodian", "researcher", vouched.name)

    key = waiting.keys["custodian"]
    key.count = -1  # an authenticator that counts nothing: its counter is always 0
    signature = key.sign(waiting.record(call))
    with waiting.store.write() as session:
        session.get(PasskeyRow, key.name).sign_count = 0
        session.commit()
    with presenting(signature=signature):
        call()
        with pytest.raises(SignatureError, match="used before"):
            call()
        with waiting.store.write() as session:
            wanted = select(DecisionRow).where(DecisionRow.action == "passkey.vouch")
            for row in session.scalars(wanted.where(DecisionRow.person_id == "researcher")):
                session.delete(row)
            session.commit()
        call()


def test_negative_control_without_the_vouch_any_key_signs(waiting, monkeypatch):
    key = waiting.register("custodian")
    monkeypatch.setattr(Governance, "_usable", Governance._kept_keys)
    waiting.do("custodian", approve(waiting), key)
    assert permit_state(waiting, 2) is PermitState.APPROVED


def test_negative_control_without_the_rule_custodians_anchor_each_other(waiting, monkeypatch):
    key = waiting.register("custodian2")
    monkeypatch.setattr(Governance, "_is_custodian", lambda *_: False)
    waiting.do("custodian", lambda: waiting.governance.vouch_passkey("custodian", "custodian2", key.name))


def test_negative_control_a_rehearsal_that_is_not_ended_would_keep_what_it_did(waiting, monkeypatch):
    monkeypatch.setattr(Governance, "_stop_a_rehearsal", lambda _: None)
    with pytest.raises(InputError):
        waiting.governance.rehearse(lambda: waiting.governance.suspend_project("custodian", "sleep"))
    assert waiting.governance.project("sleep").state == "suspended"


def test_negative_control_with_one_name_alone_an_application_gets_round_two_people(monkeypatch):
    monkeypatch.setattr(signatures, "_ALSO", {})
    assert two_people(Policy(two_person=("permit.approve",))) == {Action.PERMIT_APPROVE}


def test_the_operations_that_are_signed_are_those_that_decide():
    # Two actions are reached by the operation of another: a lead's appointment, and what resumes a project.
    through = {"lead.appoint": "member.approve", "project.resume": "project.activate"}
    assert {through.get(str(action), str(action)) for action in DECISIONS} == SIGNED <= set(OPERATIONS)


def test_a_grant_carries_few_decisions_of_many(signed):
    for days in range(20):
        signed.clock.now += timedelta(seconds=1)
        ends = START + (100 + days) * DAY
        signed.do("lead", lambda ends=ends: signed.governance.approve_membership("lead", "sleep", "researcher", ends))
    grant = signed.governance.may_open("researcher", "sleep")
    assert len(grant.decisions) == 7
    check_chain(grant, SIGNING, signed.anchors, frozenset())
