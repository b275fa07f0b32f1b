"""Who may what in the cluster: the table of the code is that of the page, and none of it is more than is used."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from orchestrator.cluster.rights import RIGHTS, Part, Where
from orchestrator.errors import ForbiddenError
from tests.unit.cluster.conftest import PROJECT, Stage
from tests.unit.cluster.fake import CONTROL, GOOD

PAGE = Path(__file__).parents[3] / "docs" / "kubernetes.md"
ROW = re.compile(r"^\| (door|namespace controller|node agent) \| ([a-z, ]+) \| `([a-z]+)`([^|]*)\| ([^|]+) \|", re.M)
WHERE = {"control": Where.CONTROL, "project": Where.PROJECT, "cluster": Where.CLUSTER}


def on_the_page(text: str) -> set[tuple[str, str, str, tuple[str, ...]]]:
    return {
        (part, where.split()[0], resource, tuple(sorted(verbs.split(", "))))
        for part, verbs, resource, _, where in ROW.findall(text)
    }


def in_the_code() -> set[tuple[str, str, str, tuple[str, ...]]]:
    return {(each.part.value, each.where.value, each.resource, tuple(sorted(each.verbs))) for each in RIGHTS}


def test_the_page_has_the_table_of_the_code() -> None:
    text = PAGE.read_text(encoding="utf-8")
    ours = {each for each in on_the_page(text) if each[0] != Part.NODE.value}
    assert ours == in_the_code()
    wrong = text.replace("| door | get, update |", "| door | get, update, delete |")
    assert {each for each in on_the_page(wrong) if each[0] != Part.NODE.value} != in_the_code()


def test_every_right_is_used(stage: Stage) -> None:
    # A pod of many steps: how long they take is not what is looked at.
    patient = stage.settings.workspace.model_copy(update={"start_timeout": 120})
    stage.settings = stage.settings.model_copy(update={"workspace": patient})
    stage.door = stage.another_door()
    stage.door.watch.recover()
    grant = stage.grant()
    stage.cluster.script = [*GOOD[:2] * 12, *GOOD]
    stage.start(grant)
    stage.door.watch.look()
    stage.door.watch.sweep()
    mender = stage.controller()
    mender.mend()
    limited = stage.controller(limit_range={"max": {"memory": "8Gi"}})
    limited.mend()
    namespace = f"bulle-project-{PROJECT}"
    for kind, name in (
        ("serviceaccounts", "bulle-workspace"),
        ("resourcequotas", "bulle"),
        ("limitranges", "bulle"),
        ("networkpolicies", "bulle-nothing"),
        ("rolebindings", "bulle-door"),
    ):
        found = stage.cluster.objects[(kind, namespace, name)]
        changed = {"automountServiceAccountToken": True, "spec": {}, "subjects": []}
        stage.cluster.change(kind, namespace, name, **{key: changed[key] for key in changed if key in found})
    stage.cluster.objects[("namespaces", "", namespace)]["metadata"]["labels"].pop("pod-security.kubernetes.io/warn")
    limited.mend()
    mender.mend()
    stage.door.sessions.stop(grant.session, "asked by the hub")
    stage.door.watch.sweep()
    mender.mend()
    assert stage.cluster.names("namespaces") == [CONTROL]
    every = {(each.part, each.where, each.resource, verb) for each in RIGHTS for verb in each.verbs}
    unused = {(part.value, kind, verb) for part, _, kind, verb in every - stage.cluster.used}
    assert unused == set()


def test_a_call_beyond_the_table_is_refused_and_seen(stage: Stage) -> None:
    api = stage.cluster.api(Part.DOOR)
    for attack in (
        lambda: api.create("namespaces", None, {"metadata": {"name": "mine"}}),
        lambda: api.get("secrets", CONTROL, "bulle-secrets"),
        lambda: api.get("configmaps", CONTROL, "another"),
        lambda: api.delete("networkpolicies", "bulle-project-x", "bulle-nothing"),
    ):
        with pytest.raises(ForbiddenError):
            attack()
    assert len(stage.cluster.beyond) == 4
    stage.cluster.beyond.clear()
