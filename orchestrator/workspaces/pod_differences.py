"""Whether a pod, as the cluster has it, is the one that :func:`orchestrator.workspaces.pod.workspace_pod` makes.

The node agent gives data to no other. Whoever may create or change pods in a project's namespace could otherwise bring
a container of their own, a hook, a probe that runs a program, a volume of the node: what is not wanted and not in the
table below is a difference, whatever it is called and whenever Kubernetes learnt it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

Place = tuple[str, ...]
_EACH = "[]"


def _anything(_value: Any) -> bool:
    return True


def _is(*allowed: Any) -> Callable[[Any], bool]:
    return lambda value: any(value == each and type(value) is type(each) for each in allowed)


def _harmless_annotations(found: Any) -> bool:
    return isinstance(found, Mapping) and all(_harmless_annotation(key, value) for key, value in found.items())


def _harmless_annotation(key: str, value: Any) -> bool:
    """Network plugins and others leave notes. Those of Kubernetes that are settings in truth must tighten nothing away:
    the older form of the system-call filter, which the API keeps equal to the field, and AppArmor's."""
    if key.startswith("container.apparmor.security.beta.kubernetes.io/"):
        return bool(value == "runtime/default")
    if key.startswith("container.seccomp.security.alpha.kubernetes.io/"):
        return bool(value == "runtime/default")
    if key == "seccomp.security.alpha.kubernetes.io/pod":
        return isinstance(value, str) and value.startswith("localhost/bulle/")
    return "security" not in key


def _default_toleration(found: Any) -> bool:
    return isinstance(found, Mapping) and str(found.get("key", "")).startswith("node.kubernetes.io/")


def _default_tolerations(found: Any) -> bool:
    return isinstance(found, list) and all(_default_toleration(each) for each in found)


def _secret_names(found: Any) -> bool:
    return isinstance(found, list) and all(isinstance(each, Mapping) and each.keys() == {"name"} for each in found)


#: What a cluster may add to a pod, by place, and what it must be. Nothing else may be there that was not asked for.
ADDED: dict[str, Callable[[Any], bool]] = {
    "status": _anything,
    "metadata.annotations": _harmless_annotations,
    "metadata.annotations.*": _anything,  # judged one by one, see differences
    "metadata.creationTimestamp": _anything,
    "metadata.deletionGracePeriodSeconds": _anything,
    "metadata.deletionTimestamp": _anything,
    "metadata.generation": _anything,
    "metadata.labels.topology.kubernetes.io/region": _anything,
    "metadata.labels.topology.kubernetes.io/zone": _anything,
    "metadata.managedFields": _anything,
    "metadata.resourceVersion": _anything,
    "metadata.selfLink": _anything,
    "metadata.uid": _anything,
    "spec.imagePullSecrets": _secret_names,
    "spec.nodeName": _anything,
    "spec.nodeSelector": _anything,
    "spec.nodeSelector.*": _anything,
    "spec.overhead": _anything,
    "spec.preemptionPolicy": _anything,
    "spec.priority": _anything,
    "spec.priorityClassName": _anything,
    "spec.schedulerName": _anything,
    "spec.serviceAccount": _is("bulle-workspace"),
    "spec.tolerations": _default_tolerations,
}
for _kind in ("spec.containers[]", "spec.initContainers[]"):
    ADDED |= {
        f"{_kind}.resizePolicy": _anything,
        f"{_kind}.resources.limits.ephemeral-storage": _anything,
        f"{_kind}.resources.requests.ephemeral-storage": _anything,
        f"{_kind}.securityContext.procMount": _is("Default"),
        f"{_kind}.readinessProbe.successThreshold": _is(1),
        f"{_kind}.readinessProbe.timeoutSeconds": _anything,
    }

_SUFFIXES: dict[str, int | Fraction] = {
    "": 1,
    "m": Fraction(1, 1000),
    "k": 1000,
    "M": 10**6,
    "G": 10**9,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
}
_SUFFIXES |= {"Ti": 2**40, "T": 10**12}


def _amount(text: Any) -> Fraction | None:
    """The value of a quantity: the API writes ``4Gi`` where it was told ``4096Mi``."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(m|k|M|G|T|Ki|Mi|Gi|Ti)?", str(text), re.ASCII)
    return Fraction(match[1]) * _SUFFIXES[match[2] or ""] if match else None


def differences(wanted: Any, found: Any) -> list[str]:
    """The places at which ``found`` is not what ``wanted`` says, or has what neither it nor the table has; empty when
    it fits."""
    return _differences(wanted, found, ())


def _name(place: Place) -> str:
    return ".".join(place).replace(f".{_EACH}", _EACH) or "."


def _may_be_added(place: Place, value: Any) -> bool:
    if place[:2] == ("metadata", "annotations") and len(place) == 3:
        return _harmless_annotation(place[2], value)
    rule = ADDED.get(_name(place)) or (ADDED.get(_name((*place[:-1], "*"))) if len(place) > 1 else None)
    return rule is not None and rule(value)


def _differences(wanted: Any, found: Any, place: Place) -> list[str]:
    if isinstance(wanted, Mapping):
        return _of_mappings(wanted, found, place)
    if isinstance(wanted, list):
        return _of_lists(wanted, found, place)
    # The API leaves away what is false.
    if wanted is False and found is None:
        return []
    if len(place) > 2 and place[-3] == "resources" and _amount(wanted) is not None:
        return [] if _amount(wanted) == _amount(found) else [_name(place)]
    return [] if wanted == found and type(wanted) is type(found) else [_name(place)]


def _of_mappings(wanted: Mapping[str, Any], found: Any, place: Place) -> list[str]:
    if not isinstance(found, Mapping):
        return [_name(place)]
    missing = [each for key, value in wanted.items() for each in _differences(value, found.get(key), (*place, key))]
    # A null is nothing; an empty mapping is not: ``emptyDir: {}`` is a volume.
    added = [
        _name((*place, str(key)))
        for key, value in found.items()
        if key not in wanted and value is not None and not _may_be_added((*place, str(key)), value)
    ]
    return missing + added


def _of_lists(wanted: list[Any], found: Any, place: Place) -> list[str]:
    if not isinstance(found, list):
        return [_name(place)]
    if place == ("spec", "tolerations"):
        found = found[: len(wanted)] + [each for each in found[len(wanted) :] if not _default_toleration(each)]
    # One more or one less is a container, a volume, a mount, a capability that was added or taken away.
    if len(found) != len(wanted):
        return [_name(place)]
    pairs = zip(wanted, found, strict=True)
    return [each for one, other in pairs for each in _differences(one, other, (*place, _EACH))]
