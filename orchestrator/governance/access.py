"""Whether a person may have a workspace in a project now, and until when: pure, and the same for a start,
for a running session and for what the portal shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from orchestrator.governance.cards import WhyNot
from orchestrator.governance.states import MembershipState, ProjectState
from orchestrator.terms import PermitTerms


@dataclass(frozen=True)
class Standing:
    """All that the decision rests on. ``permit`` is the approved version, if there is one."""

    person_disabled: bool
    person_gone: bool
    terms_accepted: bool
    #: until when the latest confirmed training counts; None where there is none
    training_until: datetime | None
    #: whether the deployment demands a training
    training_required: bool
    #: whether a custodian must have agreed to this person, and did not
    consent_missing: bool
    membership: MembershipState | None
    membership_ends: datetime | None
    #: until when the lead's last review counts; None: no review is due yet
    review_due: datetime | None
    project: ProjectState
    project_starts: datetime
    project_ends: datetime
    permit: PermitTerms | None

    @property
    def ends_at(self) -> datetime | None:
        """The earliest end among project, membership, review, permit and training."""
        if self.membership_ends is None or self.permit is None:
            return None
        bounds = [self.project_ends, self.membership_ends, self.permit.valid_until, self.review_due]
        if self.training_required:
            bounds.append(self.training_until)
        return min(bound for bound in bounds if bound is not None)


@dataclass(frozen=True)
class AccessRule:
    """One condition of access; ``code`` is stable, ``broken`` says whether it fails."""

    code: str
    message: str
    broken: Callable[[Standing, datetime], bool]


def _membership(state: MembershipState) -> Callable[[Standing, datetime], bool]:
    return lambda standing, now: standing.membership is state


def _project(state: ProjectState) -> Callable[[Standing, datetime], bool]:
    return lambda standing, now: standing.project is state


ACCESS_RULES: tuple[AccessRule, ...] = (
    AccessRule("person-disabled", "this person is disabled", lambda s, now: s.person_disabled),
    AccessRule(
        "not-a-member",
        "this person is not a member of the project",
        lambda s, now: s.membership is None or s.membership_ends is None,
    ),
    AccessRule("removed-at-provider", "the login service no longer knows this person", lambda s, now: s.person_gone),
    AccessRule("membership-invited", "the invitation is not accepted yet", _membership(MembershipState.INVITED)),
    AccessRule("membership-requested", "the membership is not approved yet", _membership(MembershipState.REQUESTED)),
    AccessRule("membership-suspended", "the membership is suspended", _membership(MembershipState.SUSPENDED)),
    AccessRule("membership-ended", "the membership has ended", _membership(MembershipState.ENDED)),
    # Before the membership's own end, which is never later: who asks is told what would help.
    AccessRule("project-over", "the project's time is over", lambda s, now: now >= s.project_ends),
    AccessRule(
        "membership-expired",
        "the membership has expired",
        lambda s, now: s.membership_ends is not None and now >= s.membership_ends,
    ),
    AccessRule(
        "membership-not-reviewed",
        "the lead has not confirmed the membership in time",
        lambda s, now: s.review_due is not None and now >= s.review_due,
    ),
    AccessRule(
        "external-not-agreed",
        "a data custodian has not agreed to this external partner",
        lambda s, now: s.consent_missing,
    ),
    AccessRule("terms-not-accepted", "the terms of use in force are not accepted", lambda s, now: not s.terms_accepted),
    AccessRule(
        "no-training",
        "no confirmed training is on record",
        lambda s, now: s.training_required and s.training_until is None,
    ),
    AccessRule(
        "training-expired",
        "the training has expired",
        lambda s, now: s.training_required and s.training_until is not None and now >= s.training_until,
    ),
    AccessRule("project-draft", "the project is not activated yet", _project(ProjectState.DRAFT)),
    AccessRule("project-suspended", "the project is suspended", _project(ProjectState.SUSPENDED)),
    AccessRule("project-closed", "the project is closed", _project(ProjectState.CLOSED)),
    AccessRule("project-deleted", "the project is closed and its keys are destroyed", _project(ProjectState.DELETED)),
    AccessRule("project-not-started", "the project has not started yet", lambda s, now: now < s.project_starts),
    AccessRule("no-permit", "the project has no approved permit", lambda s, now: s.permit is None),
    AccessRule(
        "permit-not-yet-valid",
        "the project's permit is not valid yet",
        lambda s, now: s.permit is not None and now < s.permit.valid_from,
    ),
    AccessRule(
        "permit-expired",
        "the project's permit has expired",
        lambda s, now: s.permit is not None and now >= s.permit.valid_until,
    ),
)
"""In the order in which they are told. Shown by tests/unit/governance/test_access.py, each taken away in
turn.
"""

#: a session under a permit version that is not the approved one any more
PERMIT_REPLACED = WhyNot(code="permit-replaced", message="the session's permit was revoked or superseded")
#: a session of a person or a project that is not there
UNKNOWN = WhyNot(code="not-a-member", message="this person is not a member of the project")


def why_not(standing: Standing, now: datetime, rules: Sequence[AccessRule] = ACCESS_RULES) -> WhyNot | None:
    """The first rule that forbids access at ``now``, or None."""
    for rule in rules:
        if rule.broken(standing, now):
            return WhyNot(code=rule.code, message=rule.message)
    return None


def why_stop(
    standing: Standing, permit_version: int, now: datetime, rules: Sequence[AccessRule] = ACCESS_RULES
) -> WhyNot | None:
    """The first rule that forbids a session under ``permit_version`` to go on at ``now``, or None."""
    refused = why_not(standing, now, rules)
    if refused is not None:
        return refused
    if standing.permit is None or standing.permit.version != permit_version:
        return PERMIT_REPLACED
    return None
