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
    NODE = "the node agent"
    AUTHORITY = "the authority, by itself"
    PERSON = "anybody with an account"
    ADMINISTRATOR = "an administrator"
    CUSTODIAN = "a custodian"
    REVIEWER = "a reviewer"
    AUDITOR = "an auditor"
    LEAD = "the project's lead"
    PAST_LEAD = "who led the project until its end, while it can be renewed"
    MEMBER = "a member of the project"
    SELF = "the person it is about"
    DISABLED = "a disabled person"
    DRAFTER = "who drafted it"
    APPLICANT = "who applied"
    LAST_LEAD = "the project's last lead"
    MEMBERS_LEAD = "the lead of a project that the person is in or asked to be in"
    INVOLVED = "who leads, is or asked to be in the project"
    FOR_DISABLED = "for a disabled person"
    FOR_PERMIT_APPROVER = "for who approved a permit of the project"
    FOR_LEAD_APPOINTER = "for who appointed a lead of the project"


class Action(StrEnum):
    """What can be done or read; also the kind under which a change is audited."""

    PERSON_ADD = "person.add"
    PERSON_DESCRIBE = "person.describe"
    PERSON_DISABLE = "person.disable"
    PERSON_ENABLE = "person.enable"
    PERSON_GONE = "person.gone"
    ROLE_ADD = "role.add"
    ROLE_REMOVE = "role.remove"
    ROLE_FOLLOW = "role.follow"
    TERMS_ACCEPT = "terms.accept"
    TRAINING_DECLARE = "training.declare"
    TRAINING_CONFIRM = "training.confirm"
    PASSKEY_ADD = "passkey.add"
    PASSKEY_REMOVE = "passkey.remove"
    PASSKEY_VOUCH = "passkey.vouch"
    TOKEN_CREATE = "token.create"  # noqa: S105 - an action's name
    TOKEN_REVOKE = "token.revoke"  # noqa: S105 - an action's name
    APPLICATION_BEGIN = "application.begin"
    APPLICATION_AMEND = "application.amend"
    APPLICATION_EDIT = "application.edit"
    APPLICATION_SUBMIT = "application.submit"
    APPLICATION_WITHDRAW = "application.withdraw"
    APPLICATION_RETURN = "application.return"
    APPLICATION_CHECK = "application.check"
    APPLICATION_APPROVE = "application.approve"
    APPLICATION_REFUSE = "application.refuse"
    PROJECT_CREATE = "project.create"
    PROJECT_ACTIVATE = "project.activate"
    PROJECT_SUSPEND = "project.suspend"
    PROJECT_RESUME = "project.resume"
    PROJECT_CLOSE = "project.close"
    PROJECT_LAPSE = "project.lapse"
    PROJECT_RETAIN = "project.retain"
    PROJECT_ARCHIVE = "project.archive"
    PROJECT_DELETE = "project.delete"
    PROJECT_EXPORT = "project.export"
    PROJECT_IMPORT = "project.import"
    QUOTA_SET = "quota.set"
    MEMBER_INVITE = "member.invite"
    MEMBER_ACCEPT = "member.accept"
    MEMBER_REQUEST = "member.request"
    MEMBER_APPROVE = "member.approve"
    MEMBER_CONSENT = "member.consent"
    MEMBER_CONFIRM = "member.confirm"
    MEMBER_SUSPEND = "member.suspend"
    MEMBER_LEAVE = "member.leave"
    MEMBER_END = "member.end"
    LEAD_APPOINT = "lead.appoint"
    LEAD_CONFIRM = "lead.confirm"
    PERMIT_DRAFT = "permit.draft"
    PERMIT_APPROVE = "permit.approve"
    PERMIT_REVOKE = "permit.revoke"
    PERSON_READ = "person.read"
    PEOPLE_READ = "people.read"
    PROJECT_READ = "project.read"
    PROJECTS_READ = "projects.read"
    APPLICATION_READ = "application.read"
    CATALOGUE_READ = "catalogue.read"
    AUDIT_READ = "audit.read"
    HEALTH_READ = "health.read"
    USAGE_READ = "usage.read"


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

# Shown by tests/unit/governance/test_rules.py and test_walk.py, which take each entry away in turn.
_OFFICE = frozenset({Fact.CUSTODIAN, Fact.REVIEWER, Fact.AUDITOR, Fact.ADMINISTRATOR})

TABLE: Mapping[Action, Rule] = MappingProxyType(
    {
        Action.PERSON_ADD: _rule({Fact.OPERATOR, Fact.ADMINISTRATOR, Fact.HUB}),
        # Whether somebody is an external partner decides who must agree to them: not theirs to say.
        Action.PERSON_DESCRIBE: _rule({Fact.OPERATOR, Fact.ADMINISTRATOR, Fact.CUSTODIAN}, {Fact.SELF}),
        Action.PERSON_DISABLE: _rule({Fact.OPERATOR, Fact.ADMINISTRATOR}),
        Action.PERSON_ENABLE: _rule({Fact.OPERATOR, Fact.ADMINISTRATOR}),
        Action.PERSON_GONE: _rule({Fact.HUB}),
        # Stops: an administrator who makes themselves custodian or auditor.
        Action.ROLE_ADD: _rule({Fact.OPERATOR, Fact.ADMINISTRATOR}, {Fact.SELF, Fact.FOR_DISABLED}),
        Action.ROLE_REMOVE: _rule({Fact.OPERATOR, Fact.ADMINISTRATOR}),
        # Roles that the settings give to groups at the login provider, and no others.
        Action.ROLE_FOLLOW: _rule({Fact.HUB}, {Fact.FOR_DISABLED}),
        Action.TERMS_ACCEPT: _rule({Fact.SELF}),
        Action.TRAINING_DECLARE: _rule({Fact.SELF}),
        Action.TRAINING_CONFIRM: _rule(
            {Fact.OPERATOR, Fact.CUSTODIAN, Fact.ADMINISTRATOR, Fact.MEMBERS_LEAD}, {Fact.SELF}
        ),
        Action.PASSKEY_ADD: _rule({Fact.SELF}),
        Action.PASSKEY_REMOVE: _rule({Fact.SELF, Fact.ADMINISTRATOR, Fact.OPERATOR}),
        # The first link of the chain of signatures: a custodian's passkey is vouched for by the operator.
        Action.PASSKEY_VOUCH: _rule({Fact.OPERATOR, Fact.CUSTODIAN}, {Fact.SELF, Fact.FOR_DISABLED}),
        Action.TOKEN_CREATE: _rule({Fact.SELF}),
        Action.TOKEN_REVOKE: _rule({Fact.SELF, Fact.ADMINISTRATOR, Fact.OPERATOR}),
        Action.APPLICATION_BEGIN: _rule({Fact.PERSON}, {Fact.FOR_DISABLED}),
        # Once the end has passed nobody leads the project; who did can ask for a renewal, and for nothing else.
        Action.APPLICATION_AMEND: _rule({Fact.LEAD, Fact.PAST_LEAD}),
        Action.APPLICATION_EDIT: _rule({Fact.APPLICANT, Fact.LEAD, Fact.PAST_LEAD}, {Fact.FOR_DISABLED}),
        Action.APPLICATION_SUBMIT: _rule({Fact.APPLICANT, Fact.LEAD, Fact.PAST_LEAD}),
        Action.APPLICATION_WITHDRAW: _rule({Fact.APPLICANT, Fact.LEAD, Fact.PAST_LEAD}),
        Action.APPLICATION_RETURN: _rule({Fact.CUSTODIAN}, {Fact.DRAFTER, Fact.INVOLVED}),
        Action.APPLICATION_CHECK: _rule({Fact.CUSTODIAN}, {Fact.DRAFTER, Fact.INVOLVED}),
        # Approves what the project sees and appoints its lead, so it obeys what either obeys.
        Action.APPLICATION_APPROVE: _rule(
            {Fact.CUSTODIAN}, {Fact.DRAFTER, Fact.INVOLVED, *_NOT_FOR_THEMSELVES, Fact.FOR_LEAD_APPOINTER}
        ),
        Action.APPLICATION_REFUSE: _rule({Fact.CUSTODIAN}, {Fact.DRAFTER, Fact.INVOLVED}),
        Action.PROJECT_CREATE: _rule({Fact.CUSTODIAN, Fact.ADMINISTRATOR}, {Fact.SELF, Fact.FOR_DISABLED}),
        # Activation appoints the first lead, so it obeys what appointing a lead obeys.
        Action.PROJECT_ACTIVATE: _rule({Fact.CUSTODIAN}, {Fact.INVOLVED, *_NOT_FOR_THEMSELVES}),
        # The emergency stop: nothing about a person in office forbids pulling it.
        Action.PROJECT_SUSPEND: _rule({Fact.CUSTODIAN, Fact.ADMINISTRATOR}),
        Action.PROJECT_RESUME: _rule({Fact.CUSTODIAN}, {Fact.INVOLVED}),
        Action.PROJECT_CLOSE: _rule({Fact.CUSTODIAN, Fact.LEAD, Fact.PAST_LEAD}),
        Action.PROJECT_LAPSE: _rule({Fact.AUTHORITY}),
        Action.PROJECT_RETAIN: _rule({Fact.CUSTODIAN}, {Fact.INVOLVED}),
        Action.PROJECT_ARCHIVE: _rule({Fact.NODE}),
        Action.PROJECT_DELETE: _rule({Fact.NODE}),
        # Data leaves for another deployment: never by who is in the project, and never by root's own decision.
        Action.PROJECT_EXPORT: _rule({Fact.CUSTODIAN}, {Fact.INVOLVED}),
        # Comes suspended: a custodian of this deployment lets it run, or not.
        Action.PROJECT_IMPORT: _rule({Fact.OPERATOR}),
        Action.QUOTA_SET: _rule({Fact.CUSTODIAN, Fact.ADMINISTRATOR}, {Fact.INVOLVED}),
        Action.MEMBER_INVITE: _rule({Fact.LEAD, Fact.CUSTODIAN}, {Fact.SELF, Fact.FOR_DISABLED}),
        Action.MEMBER_ACCEPT: _rule({Fact.SELF}),
        Action.MEMBER_REQUEST: _rule({Fact.SELF, Fact.LEAD, Fact.CUSTODIAN}, {Fact.FOR_DISABLED}),
        # Stops: a lead, or a custodian who approved what the project sees, who lets themselves in.
        Action.MEMBER_APPROVE: _rule({Fact.LEAD}, _NOT_FOR_THEMSELVES),
        Action.MEMBER_CONSENT: _rule({Fact.CUSTODIAN}, {Fact.INVOLVED, Fact.SELF, Fact.FOR_DISABLED}),
        Action.MEMBER_CONFIRM: _rule({Fact.LEAD}, _NOT_FOR_THEMSELVES),
        Action.MEMBER_SUSPEND: _rule({Fact.LEAD, Fact.CUSTODIAN, Fact.ADMINISTRATOR}, {Fact.SELF}),
        # A project without a lead has nobody who removes its members: the last one asks a custodian.
        Action.MEMBER_LEAVE: _rule({Fact.SELF}, {Fact.LAST_LEAD}),
        Action.MEMBER_END: _rule({Fact.LEAD, Fact.CUSTODIAN}, {Fact.SELF}),
        Action.LEAD_APPOINT: _rule({Fact.CUSTODIAN}, {Fact.INVOLVED, *_NOT_FOR_THEMSELVES, Fact.FOR_LEAD_APPOINTER}),
        Action.LEAD_CONFIRM: _rule({Fact.CUSTODIAN}, {Fact.INVOLVED, *_NOT_FOR_THEMSELVES}),
        Action.PERMIT_DRAFT: _rule({Fact.LEAD, Fact.CUSTODIAN}),
        # Stops: a custodian who approves what they drafted, or what they will look at.
        Action.PERMIT_APPROVE: _rule({Fact.CUSTODIAN}, {Fact.DRAFTER, Fact.INVOLVED}),
        Action.PERMIT_REVOKE: _rule({Fact.CUSTODIAN, Fact.LEAD}),
        # What may be read. A person always reads their own; nothing here shows a row of any data.
        Action.PERSON_READ: _rule({Fact.SELF, Fact.MEMBERS_LEAD, Fact.OPERATOR, *(_OFFICE - {Fact.REVIEWER})}),
        Action.PEOPLE_READ: _rule({Fact.OPERATOR, *(_OFFICE - {Fact.REVIEWER})}),
        Action.PROJECT_READ: _rule({Fact.LEAD, Fact.PAST_LEAD, Fact.MEMBER, Fact.OPERATOR, *_OFFICE}),
        Action.PROJECTS_READ: _rule({Fact.OPERATOR, *_OFFICE}),
        Action.APPLICATION_READ: _rule(
            {Fact.APPLICANT, Fact.LEAD, Fact.PAST_LEAD, Fact.CUSTODIAN, Fact.AUDITOR, Fact.OPERATOR}
        ),
        Action.CATALOGUE_READ: _rule({Fact.PERSON, Fact.OPERATOR}),
        Action.AUDIT_READ: _rule({Fact.AUDITOR, Fact.OPERATOR}),
        Action.HEALTH_READ: _rule({Fact.ADMINISTRATOR, Fact.AUDITOR, Fact.OPERATOR}),
        Action.USAGE_READ: _rule(
            {Fact.SELF, Fact.LEAD, Fact.CUSTODIAN, Fact.ADMINISTRATOR, Fact.AUDITOR, Fact.OPERATOR}
        ),
    }
)

#: actions that put something into effect: they can be made to need two people, and are signed with a passkey
DECISIONS = frozenset(
    {
        Action.PROJECT_ACTIVATE,
        Action.PROJECT_RESUME,
        # Brings forward the day on which keys are destroyed for good: one person alone need not be able to.
        Action.PROJECT_RETAIN,
        Action.PROJECT_EXPORT,
        Action.APPLICATION_APPROVE,
        Action.PERMIT_APPROVE,
        Action.MEMBER_APPROVE,
        Action.MEMBER_CONSENT,
        Action.LEAD_APPOINT,
        Action.PASSKEY_VOUCH,
    }
)


#: prohibitions that are about somebody else than who acts
_ABOUT_OTHERS = frozenset({Fact.FOR_DISABLED, Fact.FOR_PERMIT_APPROVER, Fact.FOR_LEAD_APPOINTER})


def judge(action: Action, facts: Iterable[Fact], table: Mapping[Action, Rule] = TABLE) -> Verdict:
    """The verdict on ``action`` by someone of whom ``facts`` hold. An action without a row is refused."""
    held = frozenset(facts)
    rule = table.get(action)
    if rule is None:
        return Verdict(False, f"{action}/no-rule", f"no rule allows '{action}'")
    forbidding = sorted(rule.may_not & held, key=list(Fact).index)
    if not rule.may & held:
        # Stops: somebody who has nothing to do with it and learns of whom it is about that they are disabled, or
        # decided something. Shown by tests/unit/portal/test_every_route.py.
        forbidding = [fact for fact in forbidding if fact not in _ABOUT_OTHERS]
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
