"""API tokens: what they are good for, for how long, and what is written down of them."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from types import MappingProxyType

import pytest
from pydantic import ValidationError

from orchestrator.errors import AuditError, ConflictError, InputError, LoginError, NotFoundError, RefusedError
from orchestrator.governance import calls, tokens
from orchestrator.governance import operations as operations_module
from orchestrator.governance.calls import Asked, perform
from orchestrator.governance.identity import OPERATOR
from orchestrator.governance.operations import OPERATIONS
from orchestrator.governance.operations.declared import Nothing, Operation, Scope
from orchestrator.governance.rules import TABLE, Action, Fact, Rule
from orchestrator.governance.sparsely import Sparsely
from orchestrator.governance.store import PersonRow, TokenRow
from tests.unit.governance.places import START

READ = OPERATIONS["catalogue.search"]
EVERY = tuple(Scope)


@pytest.fixture(name="made")
def one_made(sleep):
    return sleep.governance.create_token("researcher", "nightly", (Scope.READ,), 30)


def kept(place, token):
    with place.store.read() as session:
        row = session.get(TokenRow, token)
        session.expunge(row)
        return row


def details(place, kind):
    return [record.event for record in place.audit.read() if record.event.kind == kind]


# -- the secret -------------------------------------------------------------------------------------------
def test_the_secret_has_256_bits_and_only_its_hash_is_kept(sleep, made, folder):
    assert tokens._FORM.fullmatch(made.secret)
    row = kept(sleep, made.card.id)
    assert row.digest == hashlib.sha256(made.secret.encode()).hexdigest()
    everything = [str(getattr(row, column.key)) for column in TokenRow.__table__.columns]
    assert not any(made.secret[6:] in value for value in everything)
    assert made.secret[6:] not in (folder / "audit" / "log.jsonl").read_text()
    assert made.secret[6:] not in "".join(card.model_dump_json() for card in sleep.governance.tokens("researcher"))


def test_a_token_acts_for_its_person(sleep, made):
    assert sleep.governance.bearer(made.secret, READ) == ("researcher", made.card.id)


def test_another_secret_is_nobodys(sleep, made):
    wrong = ["", "bulle_", "researcher", "bulle_" + "A" * 43, "bulle_" + "A" * 42, "bulle_é" + "A" * 42, "\0"]
    for secret in wrong:
        with pytest.raises(LoginError, match="no such token"):
            sleep.governance.bearer(secret, READ)


def test_the_hash_is_no_secret(sleep, made):
    digest = kept(sleep, made.card.id).digest
    for guess in (digest, "bulle_" + digest, "bulle_" + digest[:43], made.secret[:-1], made.secret + "A", made.card.id):
        with pytest.raises(LoginError):
            sleep.governance.bearer(guess, READ)


# -- making one -------------------------------------------------------------------------------------------
def test_it_lasts_a_year_at_most(sleep):
    for days in (-1, 0, 366, 10**9):
        with pytest.raises(InputError, match="1 to 365 days"):
            sleep.governance.create_token("researcher", "x", (Scope.READ,), days)
        with pytest.raises(InputError):
            perform(sleep.governance, "token.create", asked({"name": "x", "scopes": ["read"], "days": days}))


def test_what_is_asked_for_must_make_sense(sleep):
    for change in ({"scopes": []}, {"scopes": ["root"]}, {"name": ""}, {"person": "lead"}, {"days": 0.5}):
        given = {"name": "x", "scopes": ["read"], "days": 30, **change}
        with pytest.raises(InputError):
            perform(sleep.governance, "token.create", asked(given))
    assert sleep.governance.tokens("researcher") == []


def test_a_name_is_text_and_scopes_are_needed(sleep):
    for name, scopes in (("a\tb", ("read",)), (" ", ("read",)), ("x" * 101, ("read",)), ("x", ())):
        with pytest.raises(InputError):
            sleep.governance.create_token("researcher", name, scopes, 1)


def test_only_so_many_are_in_force(sleep, monkeypatch):
    monkeypatch.setattr(tokens, "MOST_TOKENS", 3)
    made = [sleep.governance.create_token("researcher", str(n), ("read",), 1 + n) for n in range(3)]
    with pytest.raises(ConflictError, match="3 tokens in force"):
        sleep.governance.create_token("researcher", "x", ("read",), 1)
    sleep.governance.create_token("lead", "x", ("read",), 1)
    sleep.governance.revoke_token("researcher", made[1].card.id)
    sleep.governance.create_token("researcher", "x", ("read",), 1)
    sleep.clock.pass_(1)
    sleep.governance.create_token("researcher", "y", ("read",), 1)


def test_a_token_is_a_persons(sleep):
    for by in (OPERATOR, "hub", "nobody"):
        with pytest.raises((RefusedError, NotFoundError)):
            sleep.governance.create_token(by, "x", ("read",), 1)


def test_a_disabled_person_makes_none(sleep):
    sleep.governance.disable_person("admin", "researcher")
    with pytest.raises(RefusedError, match="not-disabled"):
        sleep.governance.create_token("researcher", "x", ("read",), 1)


# -- what ends it -----------------------------------------------------------------------------------------
def test_it_is_worth_nothing_once_it_has_expired(sleep, made):
    sleep.clock.now = START + timedelta(days=30) - timedelta(seconds=1)
    sleep.governance.bearer(made.secret, READ)
    sleep.clock.now = START + timedelta(days=30)
    with pytest.raises(LoginError, match="expired"):
        sleep.governance.bearer(made.secret, READ)


def test_it_is_worth_nothing_once_it_is_revoked(sleep, made):
    sleep.governance.revoke_token("researcher", made.card.id)
    with pytest.raises(LoginError, match="revoked"):
        sleep.governance.bearer(made.secret, READ)
    first = kept(sleep, made.card.id).revoked_at
    sleep.clock.pass_(1)
    sleep.governance.revoke_token("researcher", made.card.id)
    assert kept(sleep, made.card.id).revoked_at == first


def test_a_disabled_persons_token_is_worth_nothing_until_they_are_let_in_again(sleep, made):
    sleep.governance.disable_person("admin", "researcher")
    with pytest.raises(LoginError, match="disabled"):
        sleep.governance.bearer(made.secret, READ)
    sleep.governance.enable_person("admin", "researcher")
    sleep.governance.bearer(made.secret, READ)


def test_the_token_of_a_person_whom_the_login_service_forgot_is_worth_nothing(sleep, made):
    with sleep.store.write() as session:
        session.get(PersonRow, "researcher").gone_at = START
        session.commit()
    with pytest.raises(LoginError, match="no longer knows"):
        sleep.governance.bearer(made.secret, READ)


@pytest.mark.parametrize("without", ["_why_worthless", "_why_not_acting"])
def test_negative_control_without_the_check_a_disabled_persons_token_acts(sleep, made, monkeypatch, without):
    sleep.governance.disable_person("admin", "researcher")
    monkeypatch.setattr(tokens, without, lambda *_: None)
    assert sleep.governance.bearer(made.secret, READ)[0] == "researcher"


def test_nobody_revokes_anothers(sleep, made):
    for by in ("lead", "custodian", "auditor", "outsider"):
        with pytest.raises(RefusedError, match=r"token.revoke/who-may"):
            sleep.governance.revoke_token(by, made.card.id)
    sleep.governance.bearer(made.secret, READ)


@pytest.mark.parametrize("by", ["admin", OPERATOR])
def test_an_administrator_revokes_anothers(sleep, made, by):
    sleep.governance.revoke_token(by, made.card.id)
    with pytest.raises(LoginError):
        sleep.governance.bearer(made.secret, READ)


def test_there_must_be_one_to_revoke(sleep):
    with pytest.raises(NotFoundError):
        sleep.governance.revoke_token("admin", "0" * 16)


def test_nobody_reads_anothers(sleep, made):
    assert [card.id for card in sleep.governance.tokens("researcher")] == [made.card.id]
    assert sleep.governance.tokens("admin") == []


# -- what it is good for ----------------------------------------------------------------------------------
def asked(arguments, by="researcher", token=None):
    return Asked(by=by, token=token, arguments=arguments)


UNSCOPED = {name for name, operation in OPERATIONS.items() if operation.scope is None}


def test_an_operation_without_a_scope_takes_no_token(sleep):
    every = sleep.governance.create_token("admin", "all", EVERY, 1)
    for name in UNSCOPED:
        with pytest.raises(RefusedError, match="token-scope"):
            perform(sleep.governance, name, Asked(token=every.secret, arguments={}))


def test_making_tokens_and_passkeys_needs_the_person():
    own = {"token.list", "token.create", "token.revoke", "passkey.begin", "passkey.add", "passkey.remove"}
    assert own <= UNSCOPED


def test_a_token_without_its_scope_is_refused_before_anything_is_read(sleep):
    for scope in Scope:
        others = tuple(other for other in Scope if other is not scope)
        token = sleep.governance.create_token("admin", "others", others, 1)
        before = len(list(sleep.audit.read()))
        for name, operation in OPERATIONS.items():
            if operation.scope is scope:
                with pytest.raises(RefusedError, match="token-scope"):
                    perform(sleep.governance, name, Asked(token=token.secret, arguments={"no": "such"}))
        assert len(list(sleep.audit.read())) == before


def test_reading_is_all_that_a_token_for_reading_does():
    for operation in OPERATIONS.values():
        assert operation.scope is None or operation.reads == (operation.scope is Scope.READ)
    with pytest.raises(ValueError, match="does not go with scope"):
        Operation("a.b", "POST", "/a", "", Scope.READ, Nothing, None, lambda *_: None)
    with pytest.raises(ValueError, match="does not go with scope"):
        Operation("a.b", "GET", "/a", "", Scope.ADMIN, Nothing, None, lambda *_: None)


def test_a_token_gives_no_more_than_its_person_may(sleep):
    token = sleep.governance.create_token("researcher", "all", EVERY, 1).secret
    for name, arguments in (
        ("audit.read", {}),
        ("person.disable", {"person": "lead"}),
        ("member.end", {"project": "sleep", "person": "lead"}),
        ("role.add", {"person": "researcher", "role": "auditor"}),
    ):
        with pytest.raises(RefusedError, match=r"who-may|not-self"):
            perform(sleep.governance, name, Asked(token=token, arguments=arguments))


def test_what_a_token_does_is_its_persons_doing(sleep):
    token = sleep.governance.create_token("admin", "all", EVERY, 1).secret
    perform(sleep.governance, "person.disable", Asked(token=token, arguments={"person": "outsider"}))
    event = details(sleep, "person.disable")[-1]
    assert (event.actor, event.person) == ("admin", "outsider")
    with pytest.raises(InputError):
        perform(sleep.governance, "person.disable", Asked(token=token, arguments={"person": "x", "by": "custodian"}))


def test_negative_control_without_scopes_a_token_for_reading_changes_things(sleep, monkeypatch):
    token = sleep.governance.create_token("admin", "read", (Scope.READ,), 1).secret
    arguments = {"person": "outsider"}
    with pytest.raises(RefusedError, match="token-scope"):
        perform(sleep.governance, "person.disable", Asked(token=token, arguments=arguments))
    wide = dict(OPERATIONS)
    object.__setattr__(copy := _copied(OPERATIONS["person.disable"]), "scope", Scope.READ)
    monkeypatch.setattr(operations_module, "OPERATIONS", MappingProxyType({**wide, "person.disable": copy}))
    perform(sleep.governance, "person.disable", Asked(token=token, arguments=arguments))


def _copied(operation):
    copy = object.__new__(Operation)
    copy.__dict__.update(operation.__dict__)
    return copy


# -- what is written down -----------------------------------------------------------------------------------
def test_making_and_revoking_are_audited(sleep, made):
    sleep.governance.revoke_token("admin", made.card.id)
    created, revoked = details(sleep, "token.create"), details(sleep, "token.revoke")
    assert [str(event.outcome) for event in created] == ["started", "done"]
    assert created[0].detail == {"id": made.card.id, "scopes": ["read"], "expires": made.card.expires.isoformat()}
    assert {(event.actor, event.person) for event in revoked} == {("admin", "researcher")}


def test_use_is_written_down_once_an_hour(sleep, made):
    for _ in range(3):
        sleep.governance.bearer(made.secret, READ)
    assert [event.detail for event in details(sleep, "token.use")] == [{"id": made.card.id}]
    assert kept(sleep, made.card.id).used_at == START
    sleep.clock.now += timedelta(minutes=59)
    sleep.governance.bearer(made.secret, READ)
    assert kept(sleep, made.card.id).used_at == START
    sleep.clock.now += timedelta(minutes=1)
    sleep.governance.bearer(made.secret, READ)
    assert kept(sleep, made.card.id).used_at == START + timedelta(hours=1)
    assert len(details(sleep, "token.use")) == 2


def test_a_use_that_cannot_be_written_down_does_not_happen(sleep, made, monkeypatch):
    def full(_):
        raise AuditError("the disk is full")

    monkeypatch.setattr(sleep.audit, "record", full)
    with pytest.raises(AuditError):
        sleep.governance.bearer(made.secret, READ)
    assert kept(sleep, made.card.id).used_at is None


def test_guesses_are_written_down_and_do_not_fill_the_log(sleep):
    for number in range(500):
        with pytest.raises(LoginError):
            sleep.governance.bearer(f"bulle_{number:043}", READ)
    assert [event.detail["times"] for event in details(sleep, "token.refused")] == [1]
    sleep.clock.now += timedelta(minutes=10)
    with pytest.raises(LoginError):
        sleep.governance.bearer("x", READ)
    assert [event.detail["times"] for event in details(sleep, "token.refused")] == [1, 500]


def test_negative_control_without_sparing_guesses_fill_the_log(sleep, monkeypatch):
    monkeypatch.setattr(Sparsely, "due", lambda *_: 1)
    for _ in range(20):
        with pytest.raises(LoginError):
            sleep.governance.bearer("x", READ)
    assert len(details(sleep, "token.refused")) == 20


def test_the_use_of_a_worthless_token_names_it(sleep, made):
    sleep.governance.revoke_token("admin", made.card.id)
    for _ in range(2):
        with pytest.raises(LoginError):
            sleep.governance.bearer(made.secret, READ)
    (event,) = details(sleep, "token.refused")
    assert (event.person, event.detail) == (
        "researcher",
        {"reason": "it was revoked", "times": 1, "id": made.card.id},
    )


def test_what_is_remembered_for_sparing_is_bounded(monkeypatch):
    monkeypatch.setattr(Sparsely, "_MOST", 10)
    sparsely = Sparsely()
    for number in range(1000):
        assert sparsely.due(str(number), START, timedelta(hours=1)) == 1
    assert len(sparsely._told) <= 10


def test_negative_control_a_row_that_lets_anybody_make_tokens_for_anybody_is_not_enough(sleep):
    """Whose token it is does not hang on the table: there is no argument for it."""
    sleep.governance._rules = {**TABLE, Action.TOKEN_CREATE: Rule(frozenset({Fact.PERSON}))}
    sleep.governance.create_token("outsider", "x", ("read",), 1)
    assert sleep.governance.tokens("researcher") == []
    assert "person" not in OPERATIONS["token.create"].arguments.model_fields


def test_an_asked_call_holds_nothing_else():
    with pytest.raises(ValidationError):
        Asked(by="lead", role="operator")
    assert calls.LARGEST_NUMBER == 2147483647
