"""What a closed project leaves: archived, kept until a day, destroyed with proof."""

from __future__ import annotations

import jwt
import pytest

from orchestrator.config import Policy
from orchestrator.errors import ConflictError, GrantError, InputError, NotFoundError, RefusedError, SecondPersonError
from orchestrator.governance.certificates import TYPE, sign_certificate, verify_certificate
from orchestrator.governance.grants import issuer_of, sign_grant, verify_grant
from orchestrator.governance.identity import HUB, NODE, OPERATOR
from orchestrator.governance.rules import TABLE, Action
from orchestrator.governance.service import Governance
from orchestrator.governance.states import ProjectState
from tests.unit.governance.places import DAY, GRANT_KEY, START, Shelf, create
from tests.unit.governance.test_audited import at_once

ISSUER = issuer_of("trial")
PUBLIC = GRANT_KEY.public_key()


def sign(claims) -> str:
    return sign_certificate(claims, GRANT_KEY, ISSUER)


def keys_of(project_id: str) -> list[str]:
    return [f"project/{project_id}/folder", f"project/{project_id}/pseudonyms", f"home/{project_id}/researcher"]


def closed(place, by: str = "custodian") -> str:
    place.governance.close_project(by, "sleep")
    return place.governance.project("sleep").id


def over(place) -> str:
    """Closed, archived, and its retention over."""
    project_id = closed(place)
    place.governance.archived(NODE, project_id)
    place.clock.pass_(3650)
    return project_id


def due(governance) -> list[tuple[str, str]]:
    return [(one.project, one.action) for one in governance.closings_due()]


def test_from_closing_to_proof(sleep):
    governance = sleep.governance
    assert due(governance) == []
    project_id = closed(sleep)
    project = governance.project("sleep")
    assert (project.closed_at, project.retain_until) == (START, START + 3650 * DAY)
    assert due(governance) == [("sleep", "archive")]
    assert governance.closings_due()[0].persons == ("lead", "researcher")
    governance.archived(NODE, project_id)
    assert due(governance) == []
    sleep.clock.pass_(3650)
    assert due(governance) == [("sleep", "destroy")]
    certificate = governance.deleted(NODE, project_id, keys_of(project_id), ["ab" * 32], sign)
    assert due(governance) == []
    assert governance.project("sleep").state is ProjectState.DELETED
    told = verify_certificate(certificate, PUBLIC, ISSUER)
    assert (told["project_id"], told["project"]) == (project_id, "sleep")
    assert (told["keys"], told["folders"]) == (sorted(keys_of(project_id)), ["ab" * 32])
    assert told["iat"] == int(sleep.clock.now.timestamp())
    assert jwt.get_unverified_header(certificate)["typ"] == TYPE
    assert governance.project_page("auditor", "sleep").certificate == certificate
    assert sleep.events()[-2:] == [("project.delete", "started"), ("project.delete", "done")]


def test_a_draft_that_is_closed_leaves_nothing(sleep):
    create(sleep.governance, "other")
    sleep.governance.close_project("custodian", "other")
    assert sleep.governance.project("other").retain_until is None
    sleep.clock.pass_(9999)
    assert due(sleep.governance) == []


def test_what_is_due_before_it_was_archived_is_destroyed(sleep):
    closed(sleep)
    sleep.clock.pass_(3651)
    assert due(sleep.governance) == [("sleep", "destroy")]


def test_the_deployment_says_for_how_long(sleep):
    policy = Policy(retention_days=7)
    governance = Governance(sleep.store, sleep.audit, sleep.clock, Shelf(), policy)
    governance.close_project("custodian", "sleep")
    assert governance.project("sleep").retain_until == START + 7 * DAY


class TestRetention:
    def test_a_custodian_moves_it(self, sleep):
        closed(sleep)
        until = START + 20 * DAY
        assert sleep.governance.retain_project("custodian", "sleep", until).retain_until == until
        sleep.clock.pass_(20)
        assert due(sleep.governance) == [("sleep", "destroy")]
        sleep.governance.retain_project("custodian", "sleep", START + 40 * DAY)
        assert due(sleep.governance) == [("sleep", "archive")]

    def test_today_is_the_earliest(self, sleep):
        closed(sleep)
        sleep.clock.pass_(10.5)
        with pytest.raises(InputError, match="must not be before today"):
            sleep.governance.retain_project("custodian", "sleep", START + 9 * DAY)
        sleep.governance.retain_project("custodian", "sleep", START + 10 * DAY)
        assert due(sleep.governance) == [("sleep", "destroy")]

    @pytest.mark.parametrize("by", ["lead", "admin", "auditor", "outsider", OPERATOR, NODE, HUB])
    def test_who_may_not(self, sleep, by):
        closed(sleep)
        with pytest.raises(RefusedError, match=r"project\.retain/(who-may|not-involved)"):
            sleep.governance.retain_project(by, "sleep", START + DAY)

    def test_not_by_who_is_in_the_project(self, sleep):
        sleep.governance.request_membership("custodian2", "sleep", "custodian2")
        closed(sleep)
        with pytest.raises(RefusedError, match="not-involved"):
            sleep.governance.retain_project("custodian2", "sleep", START + DAY)

    def test_only_of_a_closed_project(self, sleep):
        with pytest.raises(RefusedError, match="only a closed one"):
            sleep.governance.retain_project("custodian", "sleep", START + DAY)
        project_id = over(sleep)
        sleep.governance.deleted(NODE, project_id, [], [], sign)
        with pytest.raises(RefusedError, match="only a closed one"):
            sleep.governance.retain_project("custodian", "sleep", sleep.clock.now + DAY)

    def test_what_is_not_there_is_refused_like_what_is_not_theirs(self, sleep):
        closed(sleep)
        told = set()
        for slug in ("sleep", "never"):
            with pytest.raises(RefusedError) as caught:
                sleep.governance.retain_project("outsider", slug, START + DAY)
            told.add(caught.value.message)
        assert len(told) == 1
        with pytest.raises(NotFoundError):
            sleep.governance.retain_project("custodian", "never", START + DAY)

    def test_destroying_early_can_be_made_to_need_two(self, sleep):
        closed(sleep)
        policy = Policy(two_person=("project.retain",))
        governance = Governance(sleep.store, sleep.audit, sleep.clock, Shelf(), policy)
        with pytest.raises(SecondPersonError):
            governance.retain_project("custodian", "sleep", START)
        assert due(governance) == [("sleep", "archive")]
        governance.retain_project("custodian2", "sleep", START)
        assert due(governance) == [("sleep", "destroy")]


class TestTheNodeAgent:
    @pytest.mark.parametrize("by", ["custodian", "lead", "admin", "outsider", OPERATOR, HUB])
    def test_nobody_else_tells_what_it_did(self, sleep, by):
        project_id = over(sleep)
        with pytest.raises(RefusedError, match=r"project\.delete/who-may"):
            sleep.governance.deleted(by, project_id, [], [], sign)
        assert sleep.governance.project("sleep").state is ProjectState.CLOSED

    def test_nobody_else_archives(self, sleep):
        project_id = closed(sleep)
        for by in ("custodian", "lead", OPERATOR, HUB):
            with pytest.raises(RefusedError, match=r"project\.archive/who-may"):
                sleep.governance.archived(by, project_id)

    def test_it_does_not_archive_or_delete_what_is_open(self, sleep):
        project_id = sleep.governance.project("sleep").id
        with pytest.raises(RefusedError, match="not closed"):
            sleep.governance.archived(NODE, project_id)
        with pytest.raises(RefusedError, match="not closed"):
            sleep.governance.deleted(NODE, project_id, [], [], sign)

    def test_nothing_is_certified_before_its_day(self, sleep):
        """An agent in an attacker's hands, or a custodian who moved the day a moment ago."""
        project_id = closed(sleep)
        with pytest.raises(RefusedError, match="refused by rule retention"):
            sleep.governance.deleted(NODE, project_id, keys_of(project_id), [], sign)
        sleep.clock.pass_(3650)
        sleep.governance.retain_project("custodian", "sleep", sleep.clock.now + DAY)
        with pytest.raises(RefusedError, match="refused by rule retention"):
            sleep.governance.deleted(NODE, project_id, keys_of(project_id), [], sign)
        assert sleep.governance.project("sleep").state is ProjectState.CLOSED

    def test_told_again_it_hears_the_same(self, sleep):
        project_id = closed(sleep)
        sleep.governance.archived(NODE, project_id)
        first = sleep.governance.project("sleep").archived_at
        sleep.clock.pass_(3650)
        sleep.governance.archived(NODE, project_id)
        assert sleep.governance.project("sleep").archived_at == first
        certificate = sleep.governance.deleted(NODE, project_id, keys_of(project_id), [], sign)
        events = sleep.events()
        assert sleep.governance.deleted(NODE, project_id, [], [], sign) == certificate
        assert sleep.events() == events

    def test_told_twice_at_once_there_is_one_certificate(self, sleep):
        project_id = over(sleep)
        made = []

        def delete():
            made.append(sleep.governance.deleted(NODE, project_id, keys_of(project_id), [], sign))

        errors = {type(one) for one in at_once(delete, delete, delete)}
        assert errors <= {type(None), ConflictError, RefusedError}
        assert len(set(made)) == 1
        assert sleep.governance.project_page("auditor", "sleep").certificate == made[0]

    @pytest.mark.parametrize(
        "key",
        [
            "project/" + "0" * 32 + "/folder",
            "dataset/visits/identifiers",
            "home/researcher",
            "project/PROJECT",
            "project/PROJECTx/folder",
            "dataset/PROJECT/folder",
            "home/PROJECT/" + "x" * 300,
        ],
    )
    def test_no_other_keys_are_certified(self, sleep, key):
        project_id = over(sleep)
        with pytest.raises(InputError, match="is not a key of project"):
            sleep.governance.deleted(NODE, project_id, [key.replace("PROJECT", project_id)], [], sign)
        assert sleep.governance.project("sleep").state is ProjectState.CLOSED

    def test_folders_have_plain_names(self, sleep):
        project_id = over(sleep)
        for folder in ("../x", "a/b", "", "x" * 201, "a\nb"):
            with pytest.raises(InputError, match="name of a folder"):
                sleep.governance.deleted(NODE, project_id, [], [folder], sign)

    def test_a_project_that_is_not_there(self, sleep):
        for act in (
            lambda: sleep.governance.archived(NODE, "0" * 32),
            lambda: sleep.governance.deleted(NODE, "0" * 32, [], [], sign),
        ):
            with pytest.raises(NotFoundError):
                act()

    def test_without_a_signature_nothing_is_deleted(self, sleep):
        project_id = over(sleep)

        def fail(claims):
            raise ConflictError("no key")

        with pytest.raises(ConflictError):
            sleep.governance.deleted(NODE, project_id, [], [], fail)
        assert sleep.governance.project("sleep").state is ProjectState.CLOSED


class TestCertificates:
    def test_a_changed_one_is_seen(self):
        certificate = sign({"jti": "1", "iat": 1, "keys": ["a"]})
        assert verify_certificate(certificate, PUBLIC, ISSUER)["keys"] == ["a"]
        head, body, tail = certificate.split(".")
        for forged in (f"{head}.{body}.{tail[:-4]}AAAA", f"{head}.{body[:-4]}AAAA.{tail}", "", "a.b.c"):
            with pytest.raises(InputError, match="not a certificate"):
                verify_certificate(forged, PUBLIC, ISSUER)
        with pytest.raises(InputError, match="not a certificate"):
            verify_certificate(certificate, PUBLIC, issuer_of("other"))

    def test_a_grant_is_no_certificate_and_the_reverse(self, sleep):
        grant = sleep.governance.may_open("researcher", "sleep")
        token = sign_grant(grant, GRANT_KEY, sleep.clock.now, ISSUER)
        with pytest.raises(InputError, match="not a certificate"):
            verify_certificate(token, PUBLIC, ISSUER)
        with pytest.raises(GrantError):
            verify_grant(sign({"jti": "1", "iat": 1}), PUBLIC, ISSUER, sleep.clock.now)

    def test_negative_control_without_its_type_another_statement_of_the_same_key_passes(self):
        bare = jwt.encode({"iss": ISSUER, "iat": 1, "jti": "1"}, GRANT_KEY, algorithm="EdDSA")
        jwt.decode(bare, PUBLIC, algorithms=["EdDSA"], issuer=ISSUER)
        with pytest.raises(InputError, match="expected type"):
            verify_certificate(bare, PUBLIC, ISSUER)


def test_negative_control_anybody_could_have_it_deleted(sleep):
    """With the rule opened, a lead's word would be enough."""
    from dataclasses import replace
    from types import MappingProxyType

    from orchestrator.governance.rules import Fact

    project_id = over(sleep)
    opened = replace(TABLE[Action.PROJECT_DELETE], may=frozenset(Fact))
    rules = MappingProxyType({**TABLE, Action.PROJECT_DELETE: opened})
    lax = Governance(sleep.store, sleep.audit, sleep.clock, Shelf(), rules=rules)
    lax.deleted("lead", project_id, [], [], sign)
    assert lax.project("sleep").state is ProjectState.DELETED


def test_negative_control_without_looking_at_names_another_projects_keys_are_certified(sleep, monkeypatch):
    project_id = over(sleep)
    monkeypatch.setattr("orchestrator.governance.closing._check_names", lambda project, keys, folders: None)
    other = f"project/{'0' * 32}/folder"
    certificate = sleep.governance.deleted(NODE, project_id, [other], [], sign)
    assert verify_certificate(certificate, PUBLIC, ISSUER)["keys"] == [other]
