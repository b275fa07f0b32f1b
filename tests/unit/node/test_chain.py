"""The chain of signatures behind a grant: each link taken away, and attacks by whoever holds hub and grant key."""

from __future__ import annotations

import json
import os
import tempfile
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from orchestrator.config import Oidc, Policy, Settings
from orchestrator.errors import GrantError, SettingsError
from orchestrator.governance import chain
from orchestrator.governance.chain import ANCHORS, Anchors, check_chain, read_anchors, write_anchors
from orchestrator.governance.grants import issuer_of, sign_grant
from orchestrator.governance.identity import OPERATOR
from orchestrator.governance.rules import Action
from orchestrator.governance.signatures import Record, Signing, encoded, from_browser, terms_digest
from orchestrator.governance.store import DecisionRow
from orchestrator.node.grants import GrantDesk, chain_wanted
from orchestrator.terms import ColumnPermit, SignedDecision
from tests.unit.governance.conftest import RAM
from tests.unit.governance.places import DAY, GRANT_KEY, START, create, draft
from tests.unit.signed_stage import DEPLOYMENT, SIGNING, signed_place, signed_project
from tests.unit.softkey import SoftKey

NONE: frozenset[Action] = frozenset()


@pytest.fixture
def folder():
    with tempfile.TemporaryDirectory(dir=RAM if RAM.is_dir() else None) as name:
        yield Path(name)


@pytest.fixture
def here(folder):
    made = signed_place(folder)
    signed_project(made)
    yield made
    made.store.close()


@pytest.fixture
def grant(here):
    return here.governance.may_open("researcher", "sleep")


def action_of(decision):
    return json.loads(decision.record)["action"]


def but(grant, *actions):
    kept = tuple(one for one in grant.decisions if action_of(one) not in actions)
    return grant.model_copy(update={"decisions": kept})


def with_(grant, *decisions, **changed):
    return grant.model_copy(update={"decisions": (*grant.decisions, *decisions), **changed})


def forged(here, key, **fields):
    """A decision that somebody made up and signed with a key of theirs."""
    record = {
        "deployment": DEPLOYMENT,
        "action": "permit.approve",
        "project_id": here.governance.project("sleep").id,
        "project": "sleep",
        "person": None,
        "content": {},
        "by": "custodian",
        "at": START,
        "nonce": "0" * 32,
    }
    return from_browser(key.sign(Record.model_validate({**record, **fields}).text()))


def refused(grant, here, match, anchors=None, two_person=NONE, signing=SIGNING):
    with pytest.raises(GrantError, match=match):
        check_chain(grant, signing, here.anchors if anchors is None else anchors, two_person)


def test_the_chain_of_a_member_and_of_a_lead_holds(here, grant):
    check_chain(grant, SIGNING, here.anchors, NONE)
    check_chain(here.governance.may_open("lead", "sleep"), SIGNING, here.anchors, NONE)
    assert sorted(map(action_of, grant.decisions)) == [
        "member.approve",
        "passkey.vouch",
        "permit.approve",
        "project.activate",
    ]


@pytest.mark.parametrize(
    ("action", "missing"),
    [
        ("permit.approve", "missing: a custodian's signature under permit version 1"),
        ("member.approve", "missing: the signature of an appointed lead under the membership"),
        ("project.activate", "missing: the signature of an appointed lead"),
        ("passkey.vouch", "nobody in the anchors vouched for its passkey"),
    ],
)
def test_each_link_is_needed(here, grant, action, missing):
    refused(but(grant, action), here, missing)


def test_no_decisions_no_grant(here, grant):
    refused(grant.model_copy(update={"decisions": ()}), here, "missing: a custodian's signature under permit")


def test_no_anchor_no_grant(here, grant):
    refused(grant, here, "permit version 1", anchors=Anchors(deployment=DEPLOYMENT))


def test_an_anchor_that_the_operator_took_away_voids_what_it_signed(here, grant):
    refused(grant, here, "permit version 1", anchors=here.anchors.without(here.keys["custodian"].name))


def test_anchors_of_another_deployment_count_for_nothing(here, grant):
    refused(grant, here, "permit", anchors=here.anchors.model_copy(update={"deployment": "other"}))


def test_the_chain_of_another_deployment_or_address_is_none(here, grant):
    other = Anchors(deployment="other", passkeys=here.anchors.passkeys)
    refused(grant, here, "names the deployment 'trial'", anchors=other, signing=Signing("other", SIGNING.origin))
    refused(grant, here, "origin", signing=Signing(DEPLOYMENT, "http://localhost:9000"))


def test_the_chain_of_another_person_opens_nothing(here, grant):
    """Attack: a stolen grant key signs a grant for somebody who was never approved."""
    for person in ("outsider", "admin", "custodian2"):
        refused(grant.model_copy(update={"person": person}), here, f"membership of '{person}'")


def test_a_chain_of_another_project_opens_nothing(here, grant):
    create(here.governance, "heart")
    here.do("custodian", lambda: here.governance.activate_project("custodian", "heart"))
    other = here.governance.project("heart").id
    refused(grant.model_copy(update={"project_id": other}), here, "permit version 1")


def test_a_wider_permit_than_was_signed_is_refused(here, grant):
    table = grant.permit.tables[0]
    wider = table.model_copy(update={"columns": (*table.columns, ColumnPermit(name="sex"))})
    for change in (
        {"tables": (wider,)},
        {"valid_until": grant.permit.valid_until + DAY},
        {"version": 2},
    ):
        refused(grant.model_copy(update={"permit": grant.permit.model_copy(update=change)}), here, "under permit")


def test_a_session_longer_than_the_membership_that_was_signed_is_refused(here, grant):
    refused(grant.model_copy(update={"ends_at": grant.ends_at + timedelta(seconds=1)}), here, "membership of")


def test_whoever_has_no_anchored_key_signs_no_permit(here, grant):
    """Attack: the hub's own keys, the lead's vouched key, and a member's; under the custodian's name and their own."""
    wanted = {"permit": terms_digest(grant.permit)}
    bare = but(grant, "permit.approve")
    refused(with_(bare, forged(here, SoftKey(), content=wanted)), here, "nobody in the anchors")
    lead = here.keys["lead"]
    refused(
        with_(bare, forged(here, lead, content=wanted)), here, "names 'custodian', and the passkey is that of 'lead'"
    )
    refused(with_(bare, forged(here, lead, content=wanted, by="lead")), here, "under permit version 1")
    check_chain(with_(bare, forged(here, here.keys["custodian"], content=wanted)), SIGNING, here.anchors, NONE)


def test_a_key_under_an_anchors_name_is_judged_by_the_anchors_key(here, grant):
    """Attack: an own key that calls itself by the id of the custodian's."""
    mine = SoftKey()
    mine.id = here.keys["custodian"].id
    bare = but(grant, "permit.approve")
    made = forged(here, mine, content={"permit": terms_digest(grant.permit)})
    refused(with_(bare, made), here, "Could not verify authentication signature")


def test_a_vouch_cannot_replace_an_anchor(here, grant):
    mine = SoftKey()
    mine.id = here.keys["custodian"].id
    vouch = {"passkey": mine.name, "public_key": encoded(mine.cose)}
    made = forged(
        here,
        here.keys["custodian"],
        action="passkey.vouch",
        person="lead",
        project_id=None,
        project=None,
        content=vouch,
    )
    bare = but(grant, "member.approve")
    approval = forged(
        here,
        mine,
        action="member.approve",
        person="researcher",
        by="lead",
        content={"ends": grant.ends_at.isoformat(), "external": False},
    )
    refused(with_(bare, made, approval), here, "signature")


@pytest.mark.parametrize("field", ["origin", "rp_id", "verifies"])
def test_a_signature_from_elsewhere_or_without_the_person_is_no_link(here, grant, field):
    key = here.keys["custodian"]
    setattr(key, field, {"origin": "http://evil.example.org", "rp_id": "example.org", "verifies": False}[field])
    bare = but(grant, "permit.approve")
    refused(with_(bare, forged(here, key, content={"permit": terms_digest(grant.permit)})), here, "under permit")


def test_nobody_signs_for_themselves(here, grant):
    """Attack: a lead's own approval of a lead, a custodian who appoints themselves, or approves what they look at."""
    ends = {"ends": grant.ends_at.isoformat(), "external": False}
    own = grant.model_copy(update={"person": "custodian"})
    made = forged(here, here.keys["custodian"], action="lead.appoint", person="custodian", content=ends)
    refused(with_(own, made), here, "custodian's signature under permit")
    lead = grant.model_copy(update={"person": "lead"})
    bare = but(lead, "project.activate")
    made = forged(here, here.keys["lead"], action="member.approve", person="lead", by="lead", content=ends)
    refused(with_(bare, made), here, "membership of 'lead'")


def test_a_member_who_is_no_lead_approves_nobody(here, grant):
    here.give("researcher", "custodian")
    grant = here.governance.may_open("researcher", "sleep")
    ends = {"ends": grant.ends_at.isoformat(), "external": False}
    vouch = vouch_of(here, "researcher")
    made = forged(
        here, here.keys["researcher"], action="member.approve", person="outsider", by="researcher", content=ends
    )
    refused(with_(grant.model_copy(update={"person": "outsider"}), vouch, made), here, "membership of 'outsider'")


def vouch_of(here, person):

    with here.store.read() as session:
        row = session.scalars(
            select(DecisionRow).where(DecisionRow.action == "passkey.vouch", DecisionRow.person_id == person)
        ).one()
        return SignedDecision(record=row.record, passkey=row.passkey_id, **row.assertion)


def test_a_record_changed_after_it_was_signed_is_no_link(here, grant):
    for number, decision in enumerate(grant.decisions):
        record = decision.record.replace('"v":1', '"v": 1')
        changed = [*grant.decisions]
        changed[number] = decision.model_copy(update={"record": record})
        refused(grant.model_copy(update={"decisions": tuple(changed)}), here, "missing")


def test_an_external_partner_needs_a_custodians_signature(here):
    governance = here.governance
    governance.describe_person(OPERATOR, "outsider", external=True, affiliation="Elsewhere")
    governance.request_membership("outsider", "sleep", "outsider")
    here.do("lead", lambda: governance.approve_membership("lead", "sleep", "outsider"))
    here.do("custodian", lambda: governance.consent_external("custodian", "sleep", "outsider"))
    grant = governance.may_open("outsider", "sleep")
    check_chain(grant, SIGNING, here.anchors, NONE)
    refused(but(grant, "member.consent"), here, "agrees to the external partner 'outsider'")


def test_the_lead_of_an_approved_application_holds(here, grant):
    """An application's approval signs permit and appointment at once."""
    content = {"permit": terms_digest(grant.permit), "lead": "outsider", "ends": grant.ends_at.isoformat()}
    made = forged(here, here.keys["custodian"], action="application.approve", content=content)
    bare = grant.model_copy(update={"person": "outsider", "decisions": (made,)})
    check_chain(bare, SIGNING, here.anchors, NONE)
    refused(bare.model_copy(update={"person": "researcher"}), here, "membership of 'researcher'")


def test_two_people_for_a_permit_are_two_signatures(folder):
    here = signed_place(folder, two_person=("permit.approve",))
    here.give("custodian")
    here.give("custodian2")
    governance = here.governance
    create(governance)
    here.do("custodian", lambda: governance.activate_project("custodian", "sleep"))
    governance.draft_permit("lead", "sleep", draft())
    with pytest.raises(Exception, match="second person"):
        here.do("custodian", lambda: governance.approve_permit("custodian", "sleep", 1))
    here.do("custodian2", lambda: governance.approve_permit("custodian2", "sleep", 1))
    grant = governance.may_open("lead", "sleep")
    two = frozenset({Action.PERMIT_APPROVE, Action.APPLICATION_APPROVE})
    check_chain(grant, SIGNING, here.anchors, two)
    first = next(one for one in grant.decisions if action_of(one) == "permit.approve")
    alone = with_(but(grant, "permit.approve"), first)
    refused(alone, here, "under permit version 1", two_person=two)
    refused(with_(alone, first), here, "under permit version 1", two_person=two)
    check_chain(alone, SIGNING, here.anchors, NONE)


# --- at the node agent


def settings_of(folder, **policy):
    return Settings(
        deployment=DEPLOYMENT,
        state=folder,
        public_url=SIGNING.origin,
        oidc=Oidc(issuer="http://localhost:9", client_id="bulle", client_secret_file=folder / "secret"),
        governance=Policy(**policy),
    )


def desk_of(here, settings):
    settings.layout.public.mkdir(exist_ok=True)
    write_anchors(settings.layout.public / ANCHORS, here.anchors)
    return GrantDesk(GRANT_KEY.public_key(), issuer_of(DEPLOYMENT), here.clock, chain_wanted(settings))


def test_a_stolen_grant_key_alone_is_refused_by_the_node_agent(here, grant, folder):
    desk = desk_of(here, settings_of(folder, signatures="required"))

    def token(grant):
        return sign_grant(grant, GRANT_KEY, here.clock(), issuer_of(DEPLOYMENT))

    assert desk.use_for_start(token(grant)).grant.person == "researcher"
    for attack in (
        grant.model_copy(update={"person": "outsider", "session": "1" * 32}),
        grant.model_copy(update={"decisions": (), "session": "2" * 32}),
    ):
        with pytest.raises(GrantError, match="rule chain"):
            desk.use_for_start(token(attack))
        with pytest.raises(GrantError, match="rule chain"):
            desk.use_for_volume(token(attack))


def test_negative_control_without_the_chain_the_same_grant_starts(here, grant, folder):
    desk = desk_of(here, settings_of(folder))
    attack = grant.model_copy(update={"person": "outsider", "decisions": ()})
    token = sign_grant(attack, GRANT_KEY, here.clock(), issuer_of(DEPLOYMENT))
    assert desk.use_for_start(token).grant.person == "outsider"


def test_negative_control_without_verification_a_made_up_chain_holds(here, grant, monkeypatch):
    bare = but(grant, "permit.approve")
    key = SoftKey()
    key.id = here.keys["custodian"].id
    made = with_(bare, forged(here, key, content={"permit": terms_digest(grant.permit)}))
    refused(made, here, "under permit")
    monkeypatch.setattr(chain, "verify", lambda *_: 0)
    check_chain(made, SIGNING, here.anchors, NONE)


def test_the_anchors_are_read_at_each_grant(here, grant, folder):
    settings = settings_of(folder, signatures="required")
    desk = desk_of(here, settings)
    token = sign_grant(grant, GRANT_KEY, here.clock(), issuer_of(DEPLOYMENT))
    desk.check(token)
    write_anchors(settings.layout.public / ANCHORS, here.anchors.without(here.keys["custodian"].name))
    with pytest.raises(GrantError, match="permit"):
        desk.check(token)
    (settings.layout.public / ANCHORS).unlink()
    with pytest.raises(GrantError, match="permit"):
        desk.check(token)


def test_anchors_that_others_can_write_are_refused(here, tmp_path):
    path = tmp_path / ANCHORS
    write_anchors(path, here.anchors)
    assert read_anchors(path, DEPLOYMENT) == here.anchors
    for mode in (0o664, 0o646):
        path.chmod(mode)
        with pytest.raises(SettingsError, match="root alone"):
            read_anchors(path, DEPLOYMENT)
    path.chmod(0o644)
    with pytest.raises(SettingsError, match="not of 'other'"):
        read_anchors(path, "other")
    link = tmp_path / "link"
    link.symlink_to(path)
    with pytest.raises(SettingsError):
        read_anchors(link, DEPLOYMENT)
    path.write_text("{}")
    with pytest.raises(SettingsError, match="does not hold"):
        read_anchors(path, DEPLOYMENT)
    if os.geteuid() == 0:
        write_anchors(path, here.anchors)
        os.chown(path, 1013, 1013)
        with pytest.raises(SettingsError, match="root alone"):
            read_anchors(path, DEPLOYMENT)


def test_the_node_agent_does_not_begin_where_passkeys_cannot_be(folder):
    settings = settings_of(folder, signatures="required").model_copy(update={"public_url": "http://127.0.0.1:8000"})
    with pytest.raises(SettingsError, match="host name"):
        chain_wanted(settings)
    assert chain_wanted(settings_of(folder, signatures="optional")) is None


def test_negative_control_without_the_rule_a_custodian_lets_themselves_in(here, grant, monkeypatch):
    ends = {"ends": grant.ends_at.isoformat(), "external": False}
    made = forged(here, here.keys["custodian"], action="lead.appoint", person="custodian", content=ends)
    own = with_(grant.model_copy(update={"person": "custodian"}), made)
    refused(own, here, "custodian's signature under permit")
    monkeypatch.setattr(chain.Chain, "_enough", lambda _, found, not_by: bool(found))
    check_chain(own, SIGNING, here.anchors, NONE)
