"""Volumes of a pod, with real mounts in a mount namespace of the test's own; root, like the agent."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from orchestrator.config import Settings
from orchestrator.errors import BulleError, GrantError, InputError, UnavailableError
from orchestrator.governance.cards import ClosingDone, ClosingDue, ClosingReceipt, NodeReport
from orchestrator.governance.grants import issuer_of, sign_grant
from orchestrator.node import csi_volumes, mounts, proof
from orchestrator.node.csi import AlreadyPublishedError, Asked, PublishedElsewhereError
from orchestrator.node.csi_volumes import READ_ONLY, PodKind, PodVolumes
from orchestrator.node.grants import GrantDesk
from orchestrator.node.journal import Journal
from orchestrator.node.lease import HeldError, WaitError
from orchestrator.node.pod_identity import PodName
from orchestrator.node.pod_watch import PodWatch
from orchestrator.node.views import Views
from orchestrator.node.volumes import Volumes
from orchestrator.terms import Event, Grant, SessionClaim, SessionVerdict
from orchestrator.workspaces import isolation, probe
from tests.unit.node.apart import apart
from tests.unit.node.test_border import environment
from tests.unit.node.test_mounts import Builder, Plain, refused_to_write
from tests.unit.workspaces.test_pod import CLUSTER, IMAGES
from tests.unit.workspaces.test_spec import a_grant

UID, OTHER = "0f0f0f0f-0000-4000-8000-00000000000a", "0f0f0f0f-0000-4000-8000-00000000000b"
LATE = ("view", "project", "home")
FILES = ("x11", "rfb", "display", "sandbox", "bridge")


class Cluster:
    """Whoever asks is who they say; the pod is as it is set."""

    def __init__(self) -> None:
        self.pod: Any = {}
        self.checked = 0

    def check(self, asked: Asked, grant: Grant) -> PodName:
        self.checked += 1
        return PodName("n", "p", asked.context["csi.storage.k8s.io/pod.uid"])

    def check_pod(self, who: PodName, grant: Grant) -> Any:
        if isinstance(self.pod, BulleError):
            raise self.pod
        return self.pod


class Desk:
    """The authority."""

    def __init__(self) -> None:
        self.kinds: list[str] = []
        self.reports: list[NodeReport] = []
        self.refused: set[str] = set()
        self.away = False

    def record(self, event: Event) -> int:
        if self.away:
            raise UnavailableError("away")
        self.kinds.append(event.kind)
        return 1

    def check_sessions(self, claims: Iterable[SessionClaim]) -> list[SessionVerdict]:
        return [
            SessionVerdict(session=each.session, allowed=each.session not in self.refused, reason="removed")
            for each in claims
        ]

    def report_usage(self, report: NodeReport) -> None:
        self.reports.append(report)

    def closings(self) -> list[ClosingDue]:
        return []

    def closed(self, project_id: str, done: ClosingDone) -> ClosingReceipt:
        raise AssertionError("nothing is due")


class Node:
    """One node: an agent that can be begun anew over the same mounts."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.kubelet, self.state = root / "kubelet", root / "state"
        (self.kubelet / "pods").mkdir(parents=True)
        self.settings = Settings.model_validate(
            {**CLUSTER.model_dump(exclude_none=True, mode="json"), "state": str(self.state)}
        )
        # As a release has it: the pod is made, and proved, with the addresses behind the name.
        self.resolved, named = self.settings, {"hub": ["hub.invalid:8081"]}
        self.settings = Settings.model_validate(
            {**self.settings.model_dump(exclude_none=True, mode="json"), "kubernetes": named}
        )
        self.key = Ed25519PrivateKey.generate()
        self.cluster, self.desk = Cluster(), Desk()
        self.begin()

    def begin(self) -> tuple[int, int]:
        layout, builder, journal = self.settings.layout, Builder(), Journal(self.desk)
        issuer = issuer_of(self.settings.deployment)
        self.volumes = Volumes(
            allowed=layout.mounts / "ws",
            limits=self.settings.workspace.limits,
            views=Views(layout.mounts, builder, size="1m"),
            folders=Plain(self.root / "plain"),
            builder=builder,
            journal=journal,
        )
        self.pods = PodVolumes(
            self.settings,
            resolved=lambda: self.resolved,
            kubelet=self.kubelet,
            images=IMAGES,
            volumes=self.volumes,
            desk=GrantDesk(self.key.public_key(), issuer, lambda: datetime.now(UTC)),
            identity=self.cluster,
            journal=journal,
            clock=lambda: datetime.now(UTC),
        )
        self.watch = PodWatch(self.pods, self.desk, journal, 1)
        return self.pods.recover()

    def grant(self, session: str = "a") -> Grant:
        now = datetime.now(UTC)
        grant = a_grant(session * 32)
        terms = {"valid_from": now - timedelta(days=1), "valid_until": now + timedelta(days=1)}
        permit = grant.permit.model_copy(update=terms)
        return grant.model_copy(update={"permit": permit, "ends_at": now + timedelta(hours=1)})

    def token(self, grant: Grant) -> str:
        return sign_grant(grant, self.key, datetime.now(UTC), issuer_of(self.settings.deployment))

    def target(self, name: str, uid: str = UID) -> Path:
        target = self.kubelet / "pods" / uid / "volumes" / "kubernetes.io~csi" / name / "mount"
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def asked(self, token: str, kind: str, uid: str = UID, **changes: Any) -> Asked:
        name = changes.pop("name", kind)
        context = {"bulle/kind": kind, "csi.storage.k8s.io/pod.uid": uid, **changes.pop("context", {})}
        secrets = {"grant": token, "bridge": changes.pop("bridge", json.dumps(environment()))}
        target = changes.pop("target", str(self.target(name, uid)))
        return Asked(f"csi-{uid}-{name}", target, changes.pop("read_only", False), context, secrets, kind + name)

    def publish_all(self, token: str, uid: str = UID) -> None:
        for kind in (*FILES, *LATE):
            self.pods.publish(self.asked(token, kind, uid, read_only=PodKind(kind) in READ_ONLY))
        for name, target in (("tmpfs", "/tmp"), ("runtime", "/run/user/1000")):
            place = {"bulle/part": "sandbox", "bulle/target": target}
            self.pods.publish(self.asked(token, "tmpfs", uid, name=name, context=place))

    def report(self, uid: str = UID) -> Path:
        """Where the probe leaves its report."""
        return self.target("runtime", uid) / "isolation-report.json"

    def pass_probe(self, uid: str = UID, **changes: str) -> None:
        """What the probe writes that found nothing, but for the first attempt where that is changed."""
        pairs = probe.plan(isolation.targets_of(self.resolved, self.grant().project), locked=True)
        rows = [{"attempt": one, "target": two, "result": "blocked", "detail": ""} for one, two in pairs]
        rows[0] |= changes
        self.leave(json.dumps(rows), uid)

    def leave(self, text: str, uid: str = UID) -> None:
        """Leave a report as the sandbox's user."""
        fresh = self.report(uid).with_suffix(".new")
        fresh.write_text(text)
        os.chown(fresh, 1000, 1000)
        fresh.rename(self.report(uid))

    def unpublish_all(self, uid: str = UID) -> None:
        for kind in (*FILES, *LATE, "tmpfs", "runtime"):
            self.pods.unpublish(f"csi-{uid}-{kind}", str(self.target(kind, uid)))

    def left(self) -> list[Path]:
        places = mounts.mounts_below(self.root)
        return [each.path for each in places if each.path != self.settings.layout.mounts / "pods"]


def alone(body: Callable[[Node], None], tmp_path: Path) -> None:
    apart(lambda: body(Node(tmp_path)))


def a_pod_s_life(node: Node) -> None:
    node.publish_all(node.token(node.grant()))
    assert node.cluster.checked == 1, "the others come with the same two tokens"
    assert node.desk.kinds == ["workspace.start"], "no key before the probe"
    node.pods.look()
    assert node.desk.kinds == ["workspace.start"]
    for kind in LATE:
        assert refused_to_write(node.target(kind)) and not list(node.target(kind).iterdir())
    for kind in ("display", "sandbox", "bridge"):
        assert refused_to_write(node.target(kind)), kind
        assert list(node.target(kind).iterdir())
    told = json.loads((node.target("bridge") / "bridge.json").read_text())
    assert told["environment"] == environment()
    assert node.target("x11").stat().st_mode & 0o7777 == 0o1777
    (private,) = (each for each in mounts.mounts_below(node.root) if each.path == node.target("tmpfs"))
    assert {"nosuid", "nodev"} <= set(private.options) and "noexec" not in private.options
    assert private.kind == "ramfs" or {"noswap", "size=1048576k"} & set(private.options)
    node.pass_probe()
    node.pods.look()
    assert (node.target("view") / "people.parquet").is_file() and refused_to_write(node.target("view"))
    (node.target("home") / "note").write_text("mine")
    assert node.desk.kinds[1] == "probe.passed" and node.desk.kinds.count("key.release") == 3
    node.unpublish_all()
    node.unpublish_all()
    assert node.left() == [] and list((node.settings.layout.mounts / "ws").iterdir()) == []
    assert not node.target("view").exists()
    assert node.desk.kinds[-1] == "workspace.stop"


def test_a_pod_gets_its_volumes_and_its_data_when_the_probe_has_passed(tmp_path: Path) -> None:
    alone(a_pod_s_life, tmp_path)


def one_pod_a_session(node: Node) -> None:
    token = node.token(node.grant())
    node.pods.publish(node.asked(token, "x11"))
    node.pods.publish(node.asked(token, "x11"))
    for again in (token, node.token(node.grant())):
        with pytest.raises(GrantError, match="another pod"):
            node.pods.publish(node.asked(again, "x11", OTHER))
    with pytest.raises(AlreadyPublishedError):
        node.pods.publish(node.asked(token, "rfb", target=str(node.target("x11"))))
    with pytest.raises(PublishedElsewhereError):
        node.pods.publish(node.asked(token, "x11", target=str(node.target("elsewhere"))))
    node.pods.unpublish(f"csi-{UID}-x11", str(node.target("x11")))
    for uid in (UID, OTHER):  # its pod is gone: the grant is used up, also after a restart
        with pytest.raises(GrantError, match="used before"):
            node.pods.publish(node.asked(token, "x11", uid))
        node.begin()
    assert node.left() == []


def test_two_pods_never_share_a_session_and_a_grant_is_not_used_again(tmp_path: Path) -> None:
    alone(one_pod_a_session, tmp_path)


def whole_or_not(node: Node) -> None:
    token = node.token(node.grant())
    outside = node.root / "outside"
    outside.mkdir()
    wrong: list[dict[str, Any]] = [
        {"kind": "other"},
        {"kind": "home", "read_only": True},
        {"kind": "view", "target": str(outside)},
        {"kind": "view", "target": str(node.target("view", OTHER))},
        {"kind": "view", "target": f"{node.target('view')}/../mount"},
        {"kind": "view", "target": str(node.kubelet / "pods" / UID)},
        {"kind": "tmpfs", "context": {"bulle/part": "sandbox", "bulle/target": "/etc"}},
        {"kind": "x11", "bridge": "{"},
        {"kind": "x11", "bridge": json.dumps(environment(JUPYTERHUB_USER="eve"))},
    ]
    for changes in wrong:
        with pytest.raises(InputError):
            node.pods.publish(node.asked(token, **changes))
        assert node.left() == [], changes
    with pytest.raises(GrantError):
        node.pods.publish(node.asked("forged", "x11"))
    node.desk.away = True
    with pytest.raises(UnavailableError):
        node.pods.publish(node.asked(token, "x11"))
    assert node.left() == []
    node.desk.away = False
    node.pods.publish(node.asked(token, "x11"))  # kubelet asks again


def test_what_is_refused_or_fails_leaves_nothing_and_may_be_asked_again(tmp_path: Path) -> None:
    alone(whole_or_not, tmp_path)


def data_goes(node: Node, why: Callable[[Node, Grant], None]) -> None:
    grant = node.grant()
    node.publish_all(node.token(grant))
    node.pass_probe()
    node.pods.look()
    node.watch.ask()
    assert (node.target("view") / "people.parquet").is_file()
    why(node, grant)
    node.watch.ask()
    node.pods.look()
    for kind in LATE:
        assert not list(node.target(kind).iterdir()) and refused_to_write(node.target(kind)), kind
    assert not list((node.settings.layout.mounts / "views").iterdir())
    node.pass_probe()
    node.pods.look()
    assert not list(node.target("view").iterdir()), "nor does it come back"
    node.unpublish_all()
    assert node.left() == []


def _refused(node: Node, grant: Grant) -> None:
    node.desk.refused = {grant.session}


def _changed(node: Node, grant: Grant) -> None:
    node.cluster.pod = GrantError("pod n/p is not as a workspace must be: spec.ephemeralContainers")


def _lost(node: Node, grant: Grant) -> None:
    node.volumes._folders.lost = lambda key_id: True  # type: ignore[method-assign]


@pytest.mark.parametrize("why", [_refused, _changed, _lost])
def test_data_goes_from_a_pod_that_is_refused_or_changed(tmp_path: Path, why: Any) -> None:
    alone(lambda node: data_goes(node, why), tmp_path)


def a_restart(node: Node) -> None:
    token = node.token(node.grant())
    node.publish_all(token)
    node.pass_probe()
    node.pods.look()
    held = (node.target("view") / "people.parquet").open()
    (node.target("home") / "note").write_text("mine")
    before = {each.path for each in mounts.mounts_below(node.kubelet)}
    text = (node.settings.layout.mounts / "pods" / "sessions.json").read_text()
    assert token not in text and environment()["JUPYTERHUB_API_URL"] not in text
    # nobody's: of an agent that died before it wrote, and of somebody else
    stray, foreign = node.target("stray", OTHER), node.target("foreign", OTHER)
    stray.mkdir()
    foreign.mkdir()
    mounts.tmpfs(stray, "4k")
    subprocess.run(["mount", "-t", "tmpfs", "other", str(foreign)], check=True)
    taken_up, gone = node.begin()
    assert (taken_up, gone) == (1, 1)
    assert not os.path.ismount(stray) and os.path.ismount(foreign)
    subprocess.run(["umount", str(foreign)], check=True)
    assert held.read() and (node.target("view") / "people.parquet").is_file(), "a view outlives the agent"
    assert not list(node.target("home").iterdir()), "a home does not"
    node.pods.look()
    assert (node.target("home") / "note").read_text() == "mine", "it is opened anew"
    assert {each.path for each in mounts.mounts_below(node.kubelet)} == before
    node.publish_all(token)
    node.watch.ask()
    held.close()
    node.unpublish_all()
    assert node.left() == []


def test_an_agent_that_begins_anew_loses_no_mount_and_leaks_none(tmp_path: Path) -> None:
    alone(a_restart, tmp_path)


def comes_into_a_container(node: Node) -> None:
    # As on a node: kubelet's folder is shared with the agent, and the runtime binds each target as a slave, before
    # anything is opened.
    for words in (["--bind", str(node.kubelet), str(node.kubelet)], ["--make-shared", str(node.kubelet)]):
        subprocess.run(["mount", *words], check=True)
    grant = node.grant()
    token = node.token(grant)
    node.publish_all(token)
    inside = {kind: node.root / f"inside-{kind}" for kind in (*LATE, "bridge")}
    for kind, place in inside.items():
        place.mkdir()
        subprocess.run(["mount", "--bind", str(node.target(kind)), str(place)], check=True)
        subprocess.run(["mount", "--make-slave", str(place)], check=True)
    node.pass_probe()
    node.pods.look()
    assert (inside["view"] / "people.parquet").is_file() and refused_to_write(inside["view"])
    assert refused_to_write(inside["bridge"]), "read-only where the runtime binds it, whatever the pod says"
    (inside["home"] / "note").write_text("mine")
    node.begin()
    node.pods.look()
    assert (inside["home"] / "note").read_text() == "mine", "after a restart of the agent too"
    assert (inside["view"] / "people.parquet").is_file()
    node.pods.end(grant.session, "removed")
    for kind in LATE:
        assert not list(inside[kind].iterdir()) and refused_to_write(inside[kind]), kind


def test_what_is_opened_and_taken_away_shows_in_the_running_container(tmp_path: Path) -> None:
    alone(comes_into_a_container, tmp_path)


def side_by_side(node: Node) -> None:
    token, at_once = node.token(node.grant()), threading.Barrier(6)
    check = node.cluster.check

    def slowly(asked: Asked, grant: Grant) -> PodName:
        time.sleep(0.1)
        return check(asked, grant)

    node.cluster.check = slowly  # type: ignore[method-assign]

    def one(kind: str) -> None:
        at_once.wait()
        node.pods.publish(node.asked(token, kind, read_only=PodKind(kind) in READ_ONLY))

    threads = [threading.Thread(target=one, args=(kind,)) for kind in (*FILES, "view")]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert node.cluster.checked == 1 and len(node.left()) >= 6


def test_volumes_that_are_asked_for_side_by_side_are_checked_once(tmp_path: Path) -> None:
    alone(side_by_side, tmp_path)


def nobody_is_held_up(node: Node) -> None:
    slow, quick = node.grant("a"), node.grant("b")
    quick = quick.model_copy(update={"project_id": "7" * 32})
    node.publish_all(node.token(slow))
    node.publish_all(node.token(quick), OTHER)
    node.pass_probe()
    node.pass_probe(OTHER)
    goes_on, build = threading.Event(), Builder.build

    def slowly(self: Builder, grant: Grant, *rest: Any) -> None:
        if grant.session == slow.session:
            assert goes_on.wait(20)
        build(self, grant, *rest)

    Builder.build = slowly  # type: ignore[method-assign, assignment]
    until = time.monotonic() + 15
    while not (quick_there := list(node.target("view", OTHER).iterdir())) and time.monotonic() < until:
        node.pods.look(wait=False)
        time.sleep(0.02)
    assert quick_there, "another view that takes its time holds it up"
    assert not list(node.target("view").iterdir())
    node.cluster.pod = GrantError("changed")
    while list(node.target("view", OTHER).iterdir()) and time.monotonic() < until:
        node.pods.look(wait=False)
        time.sleep(0.02)
    assert not list(node.target("view", OTHER).iterdir()), "nor its end"
    goes_on.set()


def test_a_view_that_takes_its_time_holds_up_nobody_else_s_start_or_end(tmp_path: Path) -> None:
    alone(nobody_is_held_up, tmp_path)


def rests(node: Node) -> None:
    node.publish_all(node.token(node.grant()))
    node.pass_probe()
    node.pods.look()
    (node.target("home") / "note").write_text("mine")
    node.pods.rest()
    node.pods.look()
    assert not list(node.target("home").iterdir()) and refused_to_write(node.target("home"))
    assert list(node.target("view").iterdir()), "a view stays"
    assert node.desk.kinds.count("workspace.stop") == 0
    node.begin()
    node.pods.look()
    assert (node.target("home") / "note").read_text() == "mine"
    node.unpublish_all()
    assert node.left() == []


def test_an_agent_that_ends_in_order_closes_homes_and_the_next_opens_them(tmp_path: Path) -> None:
    alone(rests, tmp_path)


def waits_for_the_word_of_another_node(node: Node) -> None:
    node.publish_all(node.token(node.grant()))
    node.pass_probe()
    elsewhere: list[BulleError] = [WaitError("the folder was open on node node-b")]

    def refuse(self: Any, key_ids: Iterable[str]) -> None:
        if elsewhere:
            raise elsewhere[0]

    Plain.refuse_open_elsewhere = refuse  # type: ignore[method-assign, assignment]
    for _ in range(20):
        node.pods.look()
    assert node.desk.kinds.count("key.release") == 1, "of the view; the log does not fill while a folder is waited for"
    assert node.desk.kinds.count("workspace.stop") == 0 and not list(node.target("home").iterdir())
    elsewhere.clear()
    node.pods.look()
    (node.target("home") / "note").write_text("mine")
    assert node.desk.kinds.count("key.release") == 3
    node.unpublish_all()
    node.publish_all(node.token(node.grant("b")), OTHER)
    node.pass_probe(OTHER)
    elsewhere.append(HeldError("the folder is open on node node-b"))
    node.pods.look()
    assert node.desk.kinds[-1] == "workspace.stop" and not list(node.target("view", OTHER).iterdir())


def test_a_folder_of_a_silent_node_is_waited_for_and_one_in_use_refused(tmp_path: Path) -> None:
    alone(waits_for_the_word_of_another_node, tmp_path)


def refused_by_the_report(node: Node) -> None:
    def link(to: str) -> None:
        node.report().symlink_to(to)

    def somebody_else_s() -> None:
        node.pass_probe()
        os.chown(node.report(), 1003, 1003)

    def of_another_plan() -> None:
        node.leave(json.dumps(json.loads(whole)[1:]))

    node.publish_all(node.token(node.grant("f")), OTHER)
    node.pass_probe(OTHER)
    whole = node.report(OTHER).read_text()
    node.unpublish_all(OTHER)
    outside = node.root / "report"
    outside.write_text(whole)
    os.chown(outside, 1000, 1000)
    wrong: list[Callable[[], None]] = [
        lambda: node.pass_probe(result="OPEN", detail="connected"),
        of_another_plan,
        lambda: node.leave("[]"),
        lambda: node.leave(whole[:-1]),
        lambda: node.leave(whole + " " * isolation.MOST),
        lambda: link(str(outside)),
        lambda: os.mkfifo(node.report()),
        somebody_else_s,
    ]
    for number, leave in enumerate(wrong):
        node.desk.kinds.clear()
        node.publish_all(node.token(node.grant(f"{number}")))
        leave()
        node.pods.look()
        assert node.desk.kinds == ["workspace.start", "probe.refused", "workspace.stop"], number
        for kind in LATE:
            assert not list(node.target(kind).iterdir()) and refused_to_write(node.target(kind))
        node.report().unlink()
        node.pass_probe()
        node.pods.look()
        assert "key.release" not in node.desk.kinds, "nor later"
        node.unpublish_all()


def test_only_a_whole_report_in_which_nothing_is_open_opens_anything(tmp_path: Path) -> None:
    alone(refused_by_the_report, tmp_path)


def what_the_researcher_writes_there_later_means_nothing(node: Node) -> None:
    node.publish_all(node.token(node.grant()))
    node.pass_probe()
    node.pods.look()
    (node.target("home") / "note").write_text("mine")
    node.report().unlink()
    node.leave("[]")
    node.begin()
    node.pods.look()
    assert (node.target("home") / "note").read_text() == "mine", "a home is opened anew after a restart"
    assert node.desk.kinds.count("probe.passed") == 1
    node.unpublish_all()
    assert node.left() == []


def test_the_report_is_read_once(tmp_path: Path) -> None:
    alone(what_the_researcher_writes_there_later_means_nothing, tmp_path)


# -- negative controls --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("where", "name", "instead", "body"),
    [
        (mounts, "freeze", lambda path: None, comes_into_a_container),
        (PodVolumes, "_prove", lambda self, session, place: True, a_pod_s_life),
        (proof, "judge", lambda *given, **more: None, refused_by_the_report),
        (proof, "left_report", lambda place: isolation.parse_report(0, place.read_bytes()), refused_by_the_report),
        (csi_volumes, "READ_ONLY", frozenset(PodKind), whole_or_not),
        (PodVolumes, "_remove_what_is_nobodys", lambda self: 0, a_restart),
        (PodWatch, "ask", lambda self: None, lambda node: data_goes(node, _refused)),
        (Volumes, "refuse_lost", lambda self, session: None, lambda node: data_goes(node, _lost)),
        (Cluster, "check_pod", lambda self, who, grant: {}, lambda node: data_goes(node, _changed)),
    ],
)
def test_with_a_control_taken_away_it_is_seen(tmp_path: Path, where: Any, name: str, instead: Any, body: Any) -> None:
    def without() -> None:
        setattr(where, name, instead)
        body(Node(tmp_path))

    with pytest.raises((AssertionError, RuntimeError)):
        apart(without)


def a_lost_file(node: Node) -> None:
    node.publish_all(node.token(node.grant()))
    node.pass_probe()
    node.pods.look()
    (node.settings.layout.mounts / "pods" / "sessions.json").write_text("{")
    node.begin()
    assert node.left() == []
    node.unpublish_all()


def test_without_its_file_the_agent_takes_everything_away(tmp_path: Path) -> None:
    alone(a_lost_file, tmp_path)
