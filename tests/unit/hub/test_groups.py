"""Groups at the login provider give platform roles, and take them away; nothing but the signed token says so."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from orchestrator.config import Oidc
from orchestrator.governance.authority import Authority, hub_app
from orchestrator.governance.identity import OPERATOR
from orchestrator.governance.states import PlatformRole
from orchestrator.hub.authenticator import BulleAuthenticator
from orchestrator.hub.claims import identity
from tests.unit.governance.places import GRANT_KEY, Place, place
from tests.unit.hub.tokens import ISSUER, claims

ROLES = {"data-office": "custodian", "it": "administrator", "audit": "auditor"}


@pytest.fixture
def here(tmp_path: Path) -> Place:
    made = place(tmp_path)
    yield made
    made.store.close()


@pytest.fixture
def hub(here: Place) -> TestClient:
    return TestClient(hub_app(Authority(here.governance, GRANT_KEY, "trial", True, ROLES)))


def logs_in(hub: TestClient, *groups: str) -> set[str]:
    told = {"subject": "ada", "display_name": "Ada", "groups": list(groups)}
    answer = hub.put("/v1/persons/ada", json=told)
    assert answer.status_code == 200
    return set(answer.json()["roles"])


def test_a_group_gives_its_role_and_takes_it_away(hub: TestClient) -> None:
    assert logs_in(hub) == set()
    assert logs_in(hub, "data-office") == {"custodian"}
    assert logs_in(hub, "data-office", "a-club") == {"custodian"}
    assert logs_in(hub) == set()


def test_a_role_that_was_given_here_stays(here: Place, hub: TestClient) -> None:
    logs_in(hub)
    here.governance.add_role(OPERATOR, "ada", PlatformRole.REVIEWER)
    assert logs_in(hub, "audit") == {"auditor", "reviewer"}
    assert logs_in(hub) == {"reviewer"}


def test_roles_that_exclude_each_other_are_not_given_and_the_login_works(here: Place, hub: TestClient) -> None:
    assert logs_in(hub, "data-office", "it") == set()
    assert ("role.follow", "refused") in here.events()


def test_roles_that_stay_refused_are_in_the_log_once(here: Place, hub: TestClient) -> None:
    """The hub asks every few minutes: a log full of one line hides the others."""
    for _ in range(3):
        assert logs_in(hub, "data-office", "it") == set()
    assert here.events().count(("role.follow", "refused")) == 1
    # what changes is tried again: the groups ...
    assert logs_in(hub, "it") == {"administrator"}
    assert logs_in(hub, "it", "audit") == {"administrator"} == logs_in(hub, "it", "audit")
    assert here.events().count(("role.follow", "refused")) == 2
    # ... and what the person holds
    here.governance.remove_role(OPERATOR, "ada", PlatformRole.ADMINISTRATOR)
    logs_in(hub, "it", "audit")
    assert here.events().count(("role.follow", "refused")) == 3


def test_a_group_without_a_role_says_nothing(hub: TestClient) -> None:
    assert logs_in(hub, "custodian", "administrator") == set()


def test_without_a_mapping_no_group_gives_anything(here: Place) -> None:
    hub = TestClient(hub_app(Authority(here.governance, GRANT_KEY, "trial", True)))
    assert logs_in(hub, *ROLES) == set()


def test_a_person_who_is_gone_is_told_as_gone_until_they_log_in(here: Place, hub: TestClient) -> None:
    logs_in(hub)
    assert hub.post("/v1/persons/ada/gone").status_code == 204
    assert hub.post("/v1/persons/ada/gone").status_code == 204
    assert here.governance.person("ada").gone
    logs_in(hub)
    assert not here.governance.person("ada").gone


@pytest.mark.parametrize("said", ["data-office", {"data-office": True}, 7, None, ["data-office", 7, None]])
def test_groups_are_a_list_of_words(said: object) -> None:
    found = identity(claims(groups=said)).groups
    assert found == (frozenset({"data-office"}) if isinstance(said, list) else frozenset())


def test_groups_of_userinfo_count_for_nothing() -> None:
    assert identity(claims(), {"sub": "ada", "groups": ["data-office"]}).groups == frozenset()


def test_the_claims_name_is_the_settings(tmp_path: Path) -> None:
    assert identity(claims(roles=["it"]), None, "roles").groups == {"it"}


def test_only_groups_that_mean_something_here_leave_the_hub() -> None:
    oidc = Oidc(issuer=ISSUER, client_id="bulle", client_secret_file=Path("/x"), group_roles={"it": "administrator"})
    who = identity(claims(groups=["it", "patients-of-ward-7"]))
    assert BulleAuthenticator(oidc=oidc)._groups(who) == ["it"]
