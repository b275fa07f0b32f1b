"""What the cluster says of a workspace's pod, and what it means: pure functions of the pod as the API has it.

A pod's status holds no data: what fails before the probe has passed is told with its own words, and what a researcher's
program could say is in no message (``workspaces/pod.py``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from orchestrator.errors import BulleError, IsolationError, NodeError, RefusedError, UnavailableError
from orchestrator.governance.cards import SessionNews
from orchestrator.node.session_table import Step
from orchestrator.workspaces import isolation
from orchestrator.workspaces.pod import LOCK
from orchestrator.workspaces.spec import PartName

Pod = Mapping[str, Any]

PARTS = 3
#: reasons for which an image does not come, however long one waits
_NO_IMAGE = frozenset({"ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})
#: reasons that may go away, and that are told when they do not
_HELD_UP = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError", "ErrImagePull"})
#: answers of the node agent that will not change when kubelet asks again
_REFUSED = re.compile(r"code = (?:PermissionDenied|InvalidArgument|FailedPrecondition) desc = (.*)", re.DOTALL)
_MOST = 600


def _states(pod: Pod, key: str) -> dict[str, Mapping[str, Any]]:
    found = (pod.get("status") or {}).get(key) or ()
    return {str(each.get("name")): each.get("state") or {} for each in found}


def _condition(pod: Pod, name: str) -> Mapping[str, Any]:
    for each in (pod.get("status") or {}).get("conditions") or ():
        if each.get("type") == name:
            return dict(each)
    return {}


def address(pod: Pod) -> str:
    """The pod's address, "" while it has none."""
    return str((pod.get("status") or {}).get("podIP") or "")


def _up(pod: Pod) -> int:
    return sum("running" in each for each in _states(pod, "containerStatuses").values())


def is_running(pod: Pod) -> bool:
    """Whether every part of it runs, and nobody deletes it."""
    parts = len(_states(pod, "containerStatuses"))
    return _up(pod) == PARTS == parts and not (pod.get("metadata") or {}).get("deletionTimestamp")


def is_ready(pod: Pod) -> bool:
    """Whether kubelet says that the bridge takes connections."""
    return is_running(pod) and _condition(pod, "Ready").get("status") == "True"


def step(pod: Pod, told: SessionNews) -> Step:
    """How far a start is, in the words of the door: what the cluster says, and what the node agent told of it."""
    if told.opened:
        return Step("desktop", _up(pod), PARTS)
    if told.isolated:
        return Step("view")
    lock = _states(pod, "initContainerStatuses").get(LOCK, {})
    if "terminated" in lock:
        return Step("proving")
    if "running" in lock:
        return Step("starting", 2, 3)
    return Step("starting", 1 if _condition(pod, "PodScheduled").get("status") == "True" else 0, 3)


def failure(pod: Pod) -> BulleError | None:
    """Why the start of this pod has failed for good; None while it has not."""
    for key in ("initContainerStatuses", "containerStatuses"):
        for name, state in _states(pod, key).items():
            ended = state.get("terminated")
            # The lock has to end, and well.
            if ended is not None and (name != LOCK or ended.get("exitCode") != 0):
                return _ended(name, ended)
    status = pod.get("status") or {}
    if status.get("phase") in ("Failed", "Succeeded"):
        said = ": ".join(str(status[key]) for key in ("reason", "message") if status.get(key))
        return NodeError(f"the cluster ended the pod: {said or status['phase']}"[:_MOST])
    if (pod.get("metadata") or {}).get("deletionTimestamp"):
        return NodeError("somebody deleted the pod during its start")
    for name, state in {**_states(pod, "initContainerStatuses"), **_states(pod, "containerStatuses")}.items():
        waiting = state.get("waiting") or {}
        if waiting.get("reason") in _NO_IMAGE:
            said = str(waiting.get("message") or waiting["reason"])
            hint = "see images in the chart's values, the registry, and kubernetes.image_pull_secrets"
            return NodeError(f"the image of {name} cannot be pulled: {said}"[:_MOST], hint=hint)
    return None


def _ended(name: str, ended: Mapping[str, Any]) -> BulleError:
    said = [line.strip() for line in str(ended.get("message") or "").splitlines() if line.strip()]
    if name == LOCK:
        words = "; ".join(said[-5:]) or f"it ended with {ended.get('exitCode')}"
        return IsolationError(f"the pod's network could not be locked: {words}"[:_MOST], hint=isolation.TELL)
    found = [line for line in said if not line.startswith("isolation-probe:")]
    if name == PartName.SANDBOX and ended.get("exitCode") != 0 and found:
        return isolation.refusal(found, _MOST)
    return NodeError(f"{name} ended during the start", hint="see the node's kubelet and container engine")


def held_up(pod: Pod) -> BulleError | None:
    """What stands in the way of a start and may yet go: told when the time is over."""
    placed = _condition(pod, "PodScheduled")
    if placed.get("status") == "False":
        said = str(placed.get("message") or placed.get("reason") or "")
        hint = "the cluster has no room: more nodes, fewer workspaces, or see kubernetes.node_selector"
        return UnavailableError(f"no node takes the pod: {said}"[:_MOST], hint=hint)
    for name, state in {**_states(pod, "initContainerStatuses"), **_states(pod, "containerStatuses")}.items():
        waiting = state.get("waiting") or {}
        if waiting.get("reason") in _HELD_UP:
            said = str(waiting.get("message") or "")
            return NodeError(f"{name} does not start: {waiting['reason']}: {said}"[:_MOST])
    return None


def refused_volume(events: Iterable[Mapping[str, Any]]) -> BulleError | None:
    """What the node agent refused for good, from the pod's events."""
    for each in events:
        found = _REFUSED.search(str(each.get("message") or "")) if each.get("reason") == "FailedMount" else None
        if found:
            return RefusedError(f"the node agent gives this pod no volume: {found[1].strip()}"[:_MOST])
    return None


def last_warning(events: Iterable[Mapping[str, Any]]) -> str:
    """The latest warning of a pod's events."""
    warnings = [each for each in events if each.get("type") == "Warning"]
    warnings.sort(key=lambda each: str(each.get("lastTimestamp") or each.get("eventTime") or ""))
    return f"{warnings[-1].get('reason')}: {warnings[-1].get('message')}"[:_MOST] if warnings else ""


def over(pod: Pod) -> str | None:
    """Why a session whose pod this is cannot go on; None while it can."""
    if (pod.get("metadata") or {}).get("deletionTimestamp"):
        return "its pod is being deleted"
    status = pod.get("status") or {}
    if status.get("phase") in ("Failed", "Succeeded"):
        return f"its pod has ended: {status.get('reason') or status['phase']}"[:200]
    ended = [name for name, state in _states(pod, "containerStatuses").items() if "terminated" in state]
    return f"a part of it ended: {', '.join(sorted(ended))}" if ended else None


def unreachable(pod: Pod) -> bool:
    """Whether its node says nothing, or its bridge takes no connection: kubelet, or the cluster for it, says not ready
    of a pod whose parts are said to run."""
    return _condition(pod, "Ready").get("status") in ("False", "Unknown")
