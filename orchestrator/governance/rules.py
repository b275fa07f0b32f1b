"""Who may do what, as one table, and nothing else: no I/O, no clock, no store.

For each action the table says which facts about the person who acts allow it, and which forbid it. One that
forbids wins over any that allows. A fact not in the table counts for nothing: being an administrator, above
all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from orchestrator.errors import RefusedError


class Fact(StrEnum):
    """What holds of the person who acts, or of the one it is about; the value is how documents say it."""

    OPERATOR = "the machine's operator"
    HUB = "the hub, at a login"
    ADMINISTRATOR = "an administrator"
    CUSTODIAN = "a custodian"
    REVIEWER = "a reviewer"
    AUDITOR = "an auditor"
    LEAD = "the project's lead"
    MEMBER = "a member of the project"
    SELF = "the person it is about"
    DISABLED = "a disabled person"
    DRAFTER = "who drafted it"
    INVOLVED = "who leads, is or asked to be in the project"
    FOR_DISABLED = "for a disabled person"
    FOR_PERMIT_APPROVER = "for who approved a permit of the project"
    FOR_LEAD_APPOINTER = "for who appointed a lead of the project"


class Action(StrEnum):
    """What can be done; also the kind under which it is audited."""

    PERSON_ADD = "person.add"
    PERSON_DISABLE = "person.disable"
    PERSON_ENABLE = "person.enable"
    ROLE_ADD = "role.add"
    ROLE_REMOVE = "role.remove"
    PROJECT_CREATE = "project.create"
    PROJECT_ACTIVATE = "project.activate"
    PROJECT_SUSPEND = "project.suspend"
    PROJECT_RESUME = "project.resume"
    PROJECT_CLOSE = "project.close"
    MEMBER_REQUEST = "member.request"
    MEMBER_APPROVE = "member.approve"
    MEMBER_SUSPEND = "member.suspend"
    MEMBER_END = "member.end"
    LEAD_APPOINT = "lead.appoint"
    PERMIT_DRAFT = "permit.draft"
    PERMIT_APPROVE = "permit.approve"
    PERMIT_REVOKE = "permit.revoke"


@dataclass(frozen=True)
class Rule:
    """Who may take one action: at least one fact of ``may``, and none of ``may_not``."""

    may: frozenset[Fact]
    may_not: frozenset[Fact] = frozenset()


@dataclass(frozen=True)
class Verdict:
    """Whether an action is allowed, and the rule that says so, such as ``permit.approve/not-drafter``."""

    allowed: bool
    rule: str
    message: str

    def raise_if_refused(self) -> None:
        """Raises RefusedError naming the rule."""
        if not self.allowed:
            raise RefusedError(f"refused by rule {self.rule}: {self.message}")


def _rule(may: Iterable[Fact], may_not: Iterable[Fact] = ()) -> Rule:
    # A disabled person does nothing: the one prohibition that stands in every row.
    return Rule(frozenset(may), frozenset(may_not) | {Fact.DISABLED})


# SELF stands in each row about admission, also where another entry implies it: the rule that nobody approves
# themselves must not hang on how membership rows happen to be kept.
_NOT_FOR_THEMSELVES = (Fact.SELF, Fact.FOR_DISABLED, Fact.FOR_PERMIT_APPROVER)

TABLE: Mapping[Action, Rule] = MappingProxyType(
    {
        Action.PERSON_ADD: _rule({Fact.OPERATOR, Fact.ADMINISTRATOR, Fact.HUB}),
        Action.PERSON_DISABLE: _rule({Fact.OPERATOR, Fact.ADMINISTRATOR}),
        Action.PERSON_ENABLE: _rule({Fact.OPERATOR, Fact.ADMINISTRATOR}),
        # Stops: an administrator who makes themselves custodian or auditor.
        Action.ROLE_ADD: _rule({Fact.OPERATOR, Fact.ADMINISTRATOR}, {Fact.SELF, Fact.FOR_DISABLED}),
        Action.ROLE_REMOVE: _rule({Fact.OPERATOR, Fact.ADMINISTRATOR}),
        Action.PROJECT_CREATE: _rule({Fact.CUSTODIAN, Fact.ADMINISTRATOR}, {Fact.SELF, Fact.FOR_DISABLED}),
        # Activation appoints the first lead, so it obeys what appointing a lead obeys.
        Action.PROJECT_ACTIVATE: _rule({Fact.CUSTODIAN}, {Fact.INVOLVED, *_NOT_FOR_THEMSELVES}),
        # The emergency stop: nothing about a person in office forbids pulling it.
        Action.PROJECT_SUSPEND: _rule({Fact.CUSTODIAN, Fact.ADMINISTRATOR}),
        Action.PROJECT_RESUME: _rule({Fact.CUSTODIAN}, {Fact.INVOLVED}),
        Action.PROJECT_CLOSE: _rule({Fact.CUSTODIAN, Fact.LEAD}),
        Action.MEMBER_REQUEST: _rule({Fact.SELF, Fact.LEAD, Fact.CUSTODIAN}, {Fact.FOR_DISABLED}),
        # Stops: a lead, or a custodian who approved what the project sees, who lets themselves in.
        Action.MEMBER_APPROVE: _rule({Fact.LEAD}, _NOT_FOR_THEMSELVES),
        Action.MEMBER_SUSPEND: _rule({Fact.LEAD, Fact.CUSTODIAN, Fact.ADMINISTRATOR}),
        Action.MEMBER_END: _rule({Fact.SELF, Fact.LEAD, Fact.CUSTODIAN}),
        Action.LEAD_APPOINT: _rule({Fact.CUSTODIAN}, {Fact.INVOLVED, *_NOT_FOR_THEMSELVES, Fact.FOR_LEAD_APPOINTER}),
        Action.PERMIT_DRAFT: _rule({Fact.LEAD, Fact.CUSTODIAN}),
        # Stops: a custodian who approves what they drafted, or what they will look at.
        Action.PERMIT_APPROVE: _rule({Fact.CUSTODIAN}, {Fact.DRAFTER, Fact.INVOLVED}),
        Action.PERMIT_REVOKE: _rule({Fact.CUSTODIAN, Fact.LEAD}),
    }
)
"""Shown by tests/unit/governance/test_rules.py and test_walk.py, which take each entry away in turn."""


def judge(action: Action, facts: Iterable[Fact], table: Mapping[Action, Rule] = TABLE) -> Verdict:
    """The verdict on ``action`` by someone of whom ``facts`` hold. An action without a row is refused."""
    held = frozenset(facts)
    rule = table.get(action)
    if rule is None:
        return Verdict(False, f"{action}/no-rule", f"no rule allows '{action}'")
    forbidding = sorted(rule.may_not & held, key=list(Fact).index)
    if forbidding:
        fact = forbidding[0]
        return Verdict(False, f"{action}/not-{_slug(fact)}", f"not allowed: {fact}")
    if not rule.may & held:
        whom = " or ".join(fact for fact in Fact if fact in rule.may)
        return Verdict(False, f"{action}/who-may", f"only {whom} may do this")
    allowing = min(rule.may & held, key=list(Fact).index)
    return Verdict(True, f"{action}/{_slug(allowing)}", "")


def _slug(fact: Fact) -> str:
    return fact.name.lower().replace("_", "-")


def printed_table(table: Mapping[Action, Rule] = TABLE) -> str:
    """The table in Markdown, as docs/governance.md holds it."""
    lines = ["| action | who may | who may not, even so |", "|---|---|---|"]
    for action, rule in table.items():
        may = "; ".join(fact for fact in Fact if fact in rule.may)
        may_not = "; ".join(fact for fact in Fact if fact in rule.may_not - {Fact.DISABLED})
        lines.append(f"| `{action}` | {may} | {may_not} |")
    return "\n".join(lines)
