"""The sessions of a cluster, each a pod and a secret of its name: made against a grant, ended with nothing left behind.

The same promises as :mod:`orchestrator.node.sessions`: audited before it is done, and whatever goes wrong, everything
of a start is taken back before the caller hears of it. What is remembered between two doors is in the cluster alone:
the secret holds the signed grant, the pod says whether it runs.
"""

from __future__ import annotations

import base64
import json
import logging
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from orchestrator.cluster import pods
from orchestrator.cluster.projects import Projects
from orchestrator.cluster_api import HttpsApi, Manifest
from orchestrator.config import Kubernetes, Settings
from orchestrator.errors import (
    BulleError,
    ForbiddenError,
    GrantError,
    IsolationError,
    NodeError,
    NotFoundError,
    RefusedError,
    SettingsError,
    UnavailableError,
)
from orchestrator.governance.cards import SessionNews
from orchestrator.governance.grants import LIFETIME, issuer_of, verify_grant
from orchestrator.node.grants import Clock, GrantDesk
from orchestrator.node.journal import Journal
from orchestrator.node.session_files import checked_environment
from orchestrator.node.session_table import UNDER_WAY, Described, Life, Report, SessionTable, State, Step, why
from orchestrator.terms import Grant, Outcome
from orchestrator.workspaces import isolation
from orchestrator.workspaces.pod import namespace_of, pod_name, workspace_pod
from orchestrator.workspaces.spec import BRIDGE_PORT, LABEL_DEPLOYMENT, LABEL_PART, LABEL_SESSION, Images

_log = logging.getLogger(__name__)

#: seconds between two looks at a pod whose probe has not passed yet, and at one that is nearly up, or nearly gone
_LOOK, _NEAR = 0.1, 0.05
_EVENTS = 1.0
#: seconds in which a deleted pod must be gone from the cluster's API
_GONE = 20.0

Connects = Callable[[str, int], bool]
#: what a node agent told of a session
NewsOf = Callable[[str], SessionNews]


def connects(host: str, port: int) -> bool:
    """Whether somebody takes a connection there. Nothing is said on it."""
    try:
        with socket.create_connection((host, port), timeout=0.2):
            return True
    except OSError:
        return False


@dataclass
class PodSession(Life):
    """A session, as the door knows it."""

    namespace: str = field(kw_only=True)
    uid: str = field(default="", kw_only=True)
    #: whether anything of it may be in the cluster
    made: bool = field(default=False, kw_only=True)
    #: since when its node or its bridge has not been heard
    silent_since: float | None = field(default=None, kw_only=True)

    @property
    def name(self) -> str:
        """The name of its pod and of its secret."""
        return pod_name(self.grant.session)

    def enter(self, state: State) -> None:
        """Become ``state``; what the cluster says again changes nothing."""
        if state is not self.state:
            super().enter(state)


class PodSessions(SessionTable[PodSession]):
    """All sessions of a deployment on a cluster. Safe between threads."""

    called = "the door"
    stopping_hint = "try again in a minute"
    stoppers = 32

    def __init__(
        self,
        settings: Settings,
        *,
        api: HttpsApi,
        images: Images,
        desk: GrantDesk,
        public_key: Ed25519PublicKey,
        journal: Journal,
        projects: Projects,
        news: NewsOf,
        clock: Clock = lambda: datetime.now(UTC),
        connects: Connects = connects,
    ) -> None:
        super().__init__()
        if settings.kubernetes is None:
            raise SettingsError("kubernetes: is not set, so this is no cluster")
        self._settings = settings
        self._cluster: Kubernetes = settings.kubernetes
        self._api = api
        self._images = images
        self._desk = desk
        self._key = public_key
        self._journal = journal
        self._projects = projects
        self._news = news
        self._clock = clock
        self._connects = connects
        self._labels = f"{LABEL_DEPLOYMENT}={settings.deployment}"
        self._since = clock().replace(microsecond=0)
        #: set when it is known what an earlier door left
        self._known = threading.Event()

    # -- start ----------------------------------------------------------------------------------------------
    def start(self, token: str, environment: dict[str, str], report: Report, abort: threading.Event) -> Described:
        """Start the workspace that a grant is for; ``report`` hears each step; setting ``abort`` takes all back.

        Raises:
            GrantError: the grant does not hold, was used, or is older than this door.
            ConflictError: this person's workspace in this project runs already, or is on its way up or down.
            IsolationError: the network was not locked, or the probe found a way out.
            UnavailableError: the cluster does not answer, or what runs is not known yet.
            BulleError: anything else; in every case nothing of this start is left.
        """
        self._require_known()
        try:
            verified = self._desk.use_for_start(token)
            # Stops: a grant that started a session already, shown again to a door that was started anew and remembers
            # none. Shown by tests/unit/cluster/test_sessions.py.
            if verified.expires - LIFETIME < self._since:
                raise GrantError("this grant is older than the door", hint="ask for a new one")
        except GrantError as error:
            self._journal.after("workspace.start", Outcome.REFUSED, code=error.code)
            raise
        grant = verified.grant
        try:
            environment = checked_environment(environment, grant)
            session = self._enter(grant, abort)
        except BulleError as error:
            self._journal.after("workspace.start", Outcome.REFUSED, grant, **_why(error))
            raise
        try:
            self._bring_up(session, token, environment, report)
        except BaseException as error:
            try:
                self._end(session, "start failed")
            except BulleError as left:
                _log.error("session %s is not wholly down, and is tried again: %s", grant.session, left)
            outcome = Outcome.REFUSED if isinstance(error, RefusedError) else Outcome.FAILED
            self._journal.after("workspace.start", outcome, grant, **_why(error))
            raise
        return session.described()

    def _enter(self, grant: Grant, abort: threading.Event) -> PodSession:
        deadline = time.monotonic() + self._settings.workspace.start_timeout
        session = PodSession(grant, abort, deadline, namespace=namespace_of(grant.project_id, self._cluster))
        self._admit(session)
        return session

    def _bring_up(self, session: PodSession, token: str, environment: dict[str, str], report: Report) -> None:
        grant = session.grant
        told: list[Step] = []

        def tell(step: Step) -> None:
            # A step once: a pod that goes to and fro must not fill the caller's stream.
            if step not in told:
                told.append(step)
                report(step)

        tell(Step("starting", 0, 3))
        pod = workspace_pod(grant, self._settings, self._images, self._images.gateway)
        self._journal.before("pod.start", grant, permit=grant.permit.version)
        self._projects.want(grant.project_id)
        self._insist(session, "secrets", self._secret(session, token, environment))
        made = self._insist(session, "pods", pod)
        session.uid = str((made.get("metadata") or {}).get("uid") or "")
        self._await_up(session, tell)
        self._journal.done("pod.start", grant, permit=grant.permit.version)
        with self._guard:
            session.go_on()
            session.enter(State.RUNNING)
        tell(Step("ready"))

    def _secret(self, session: PodSession, token: str, environment: dict[str, str]) -> Manifest:
        labels = {
            LABEL_DEPLOYMENT: self._settings.deployment,
            LABEL_SESSION: session.grant.session,
            LABEL_PART: "grant",
        }
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": session.name, "namespace": session.namespace, "labels": labels},
            "type": "Opaque",
            "immutable": True,
            "stringData": {"grant": token, "bridge": json.dumps(environment)},
        }

    def _insist(self, session: PodSession, kind: str, wanted: Manifest) -> Manifest:
        """Make an object. Where that is not allowed yet, the project's namespace is being made: wait for it.

        The namespace controller gives the door its rights in a namespace last of all, so that they are there says that
        everything else is.
        """
        waited_since: float | None = None
        limit = min(30.0, self._settings.workspace.start_timeout / 2)
        while True:
            session.go_on()
            before, session.made = session.made, True
            try:
                return self._api.create(kind, session.namespace, wanted)
            except (ForbiddenError, NotFoundError) as error:
                # That is an answer: nothing was made.
                session.made = before
                if "quota" in error.message:
                    raise RefusedError(
                        f"the project has no room for another workspace: {error.message}",
                        hint="kubernetes.projects.quota, or stop one of the project's workspaces",
                    ) from error
                if waited_since is None:
                    waited_since = time.monotonic()
                    self._projects.want(session.grant.project_id, again=True)
                elif time.monotonic() - waited_since > limit:
                    raise UnavailableError(
                        f"namespace {session.namespace} is not ready: {error.message}",
                        hint=f"see the log of deployment {self._cluster.name}-namespaces",
                    ) from error
            session.abort.wait(0.1)

    def _await_up(self, session: PodSession, report: Report) -> None:
        began = looked = time.monotonic()
        half = self._settings.workspace.start_timeout / 2
        held: BulleError | None = None
        told = SessionNews()
        while True:
            session.go_on()
            now = time.monotonic()
            try:
                pod = self._api.get("pods", session.namespace, session.name)
            except UnavailableError as error:
                held, pod = error, {}
            if pod is None or (pod and session.uid != str(pod["metadata"].get("uid", ""))):
                raise NodeError("somebody deleted the pod during its start")
            if pod:
                if (failed := pods.failure(pod)) is not None:
                    raise failed
                told = self._told(session)
                self._follow(session, pod, told, report)
                if told.opened and self._is_up(session, pod):
                    return
                held = pods.held_up(pod)
                if held is not None and now - began > half:
                    raise held
                if not told.isolated and now - looked > _EVENTS:
                    looked = now
                    if (refused := pods.refused_volume(self._events(session))) is not None:
                        raise refused
            if now > session.deadline:
                raise held or self._late(session)
            session.abort.wait(_NEAR if told.isolated else _LOOK)

    def _follow(self, session: PodSession, pod: pods.Pod, told: SessionNews, report: Report) -> None:
        step = pods.step(pod, told)
        if step.step != "starting" and session.state is State.STARTING:
            session.enter(State.PROVING)
        if told.isolated:
            session.enter(State.MOUNTING)
        report(step)

    def _is_up(self, session: PodSession, pod: pods.Pod) -> bool:
        """Whether the bridge takes connections: by kubelet, which asks once a second, or by asking it here."""
        session.host = pods.address(pod)
        return bool(session.host) and (pods.is_ready(pod) or self._connects(session.host, BRIDGE_PORT))

    def _told(self, session: PodSession) -> SessionNews:
        """What the node agent told of it, as the authority heard it: whether the probe passed, and whether view, home
        and project folder are open.

        Raises:
            IsolationError: the probe found a way out.
            NodeError: the agent ended it, and why: else a researcher would look at a desktop that never comes.
        """
        try:
            news = self._news(session.grant.session)
        except UnavailableError:
            return SessionNews()
        if news.ended is not None and news.isolated is False:
            raise IsolationError(news.ended, hint=isolation.TELL)
        if news.ended is not None:
            raise NodeError(f"the node agent ended the session: {news.ended}", hint="see the audit log")
        return news

    def _events(self, session: PodSession) -> list[Manifest]:
        try:
            return self._api.every("events", session.namespace, fields=f"involvedObject.uid={session.uid}")
        except BulleError as error:
            _log.warning("the events of a pod cannot be read: %s", error)
            return []

    def _late(self, session: PodSession) -> BulleError:
        said = pods.last_warning(self._events(session))
        return NodeError(
            f"the workspace was not up in time{f': {said}' if said else ''}", hint="raise workspace.start_timeout"
        )

    # -- look -----------------------------------------------------------------------------------------------
    def _require_known(self) -> None:
        # Stops: "there is no such session", said by a door that does not know yet.
        if not self._known.is_set():
            raise UnavailableError("the door does not know yet what runs", hint="try again in a minute")

    def every(self) -> list[Described]:
        """Every session that is not gone; raises UnavailableError while what runs is not known."""
        self._require_known()
        return super().every()

    def get(self, session: str) -> Described:
        """One of them; raises NotFoundError, and UnavailableError like :meth:`every`."""
        self._require_known()
        return super().get(session)

    def in_use(self, project_id: str) -> bool:
        """Whether there is a session of a project."""
        with self._guard:
            return any(each.grant.project_id == project_id for each in self._sessions.values())

    def running(self) -> dict[str, list[PodSession]]:
        """The sessions that run, by their namespace."""
        found: dict[str, list[PodSession]] = {}
        with self._guard:
            for each in self._sessions.values():
                if each.state is State.RUNNING:
                    found.setdefault(each.namespace, []).append(each)
        return found

    # -- stop -----------------------------------------------------------------------------------------------
    def stop(self, session: str, reason: str) -> None:
        """End a session and wait until its pod is gone; one that is not there is no error.

        Raises:
            UnavailableError: what runs is not known yet, or the cluster does not answer; it is tried again by
                :meth:`retry`.
            NodeError: something of it did not go; it is tried again.
        """
        self._require_known()
        super().stop(session, reason)

    def _end(self, session: PodSession, reason: str) -> None:
        with session.ending:
            if session.gone.is_set():
                return
            began = session.state is State.RUNNING
            session.enter(State.STOPPING)
            fault = self._remove(session.namespace, session.name) if session.made else None
            if began:
                detail = {"reason": reason[:200], **({"left": str(fault)[:500]} if fault else {})}
                self._journal.after("pod.stop", Outcome.FAILED if fault else Outcome.DONE, session.grant, **detail)
            if fault is not None:
                raise fault
            self._is_gone(session)

    def _remove(self, namespace: str, name: str) -> BulleError | None:
        """Pod and secret of a session; what of it did not work. Safe to repeat."""
        faults: list[BulleError] = []
        # Without grace the object goes at once, and kubelet ends the processes when it sees that.
        for kind, grace in (("pods", 0), ("secrets", None)):
            try:
                self._api.delete(kind, namespace, name, grace=grace)
            except BulleError as error:
                faults.append(error)
        try:
            end = time.monotonic() + _GONE
            while not faults and self._api.get("pods", namespace, name) is not None:
                if time.monotonic() > end:
                    faults.append(NodeError(f"pod {namespace}/{name} is still there {_GONE:.0f} s after its deletion"))
                time.sleep(_NEAR)
        except BulleError as error:
            faults.append(error)
        return faults[0] if faults else None

    def close(self) -> None:
        """Take no more starts, and take back those under way. What runs goes on without this door."""
        with self._guard:
            self._closed = True
            starting = [each for each in self._sessions.values() if each.state in UNDER_WAY]
        for each in starting:
            each.abort.set()
        end = time.monotonic() + 5
        for each in starting:
            each.gone.wait(max(0.0, end - time.monotonic()))

    # -- what is in the cluster -------------------------------------------------------------------------------
    def take_up(self, namespace: str, *, adopt: bool) -> tuple[int, int]:
        """Compare a project's namespace with what is known: how many sessions were taken up, how many were removed.

        With ``adopt`` (of a door that begins) a pod that runs, whose secret holds a signed grant for it, is a session.
        Whatever else there is of a session that is not known is half made, or was left, and goes.

        Raises:
            UnavailableError: it cannot be read; then nothing is known, and nothing was done.
        """
        found_pods = {_name(each): each for each in self._api.every("pods", namespace, labels=self._labels)}
        secrets = {_name(each): each for each in self._api.every("secrets", namespace, labels=self._labels)}
        with self._guard:
            known = {each.name for each in self._sessions.values() if each.namespace == namespace}
        taken = removed = 0
        for name in sorted((found_pods.keys() | secrets.keys()) - known):
            pod, secret = found_pods.get(name), secrets.get(name)
            grant = self._grant_in(secret, namespace, name) if secret is not None else None
            if adopt and grant is not None and pod is not None and pods.is_running(pod):
                self._adopt(grant, namespace, pod)
                taken += 1
                continue
            # Between the two lists a session may have begun: it is asked once more.
            with self._guard:
                if any(each.name == name for each in self._sessions.values()):
                    continue
            removed += 1
            fault = self._remove(namespace, name)
            _log.warning("%s in %s was nobody's: %s", name, namespace, fault or "removed")
            if grant is not None:
                self._journal.after("pod.stop", Outcome.FAILED if fault else Outcome.DONE, grant, reason="left over")
        return taken, removed

    def known(self) -> None:
        """What an earlier door left is taken up or removed: from now on starts are taken."""
        self._known.set()

    def _adopt(self, grant: Grant, namespace: str, pod: Manifest) -> None:
        uid = str(pod["metadata"].get("uid") or "")
        session = PodSession(
            grant, threading.Event(), 0.0, State.RUNNING, pods.address(pod), namespace=namespace, uid=uid, made=True
        )
        with self._guard:
            self._sessions.setdefault(grant.session, session)

    def _grant_in(self, secret: Manifest, namespace: str, name: str) -> Grant | None:
        """The grant that a secret holds, if the authority signed it for this very session; its time is over."""
        try:
            token = base64.b64decode((secret.get("data") or {})["grant"], validate=True).decode("ascii")
            issued = datetime.fromtimestamp(jwt.decode(token, options={"verify_signature": False})["iat"], UTC)
            grant = verify_grant(token, self._key, issuer_of(self._settings.deployment), issued).grant
        except (BulleError, ValueError, KeyError, TypeError, OverflowError, OSError, jwt.PyJWTError) as error:
            _log.warning("what lies in %s as %s is no grant: %s", namespace, name, type(error).__name__)
            return None
        # Stops: a grant of one session that somebody put beside another pod.
        if (namespace_of(grant.project_id, self._cluster), pod_name(grant.session)) != (namespace, name):
            _log.warning("what lies in %s as %s is a grant of another session", namespace, name)
            return None
        return grant


def _name(found: Manifest) -> str:
    return str((found.get("metadata") or {}).get("name") or "")


def _why(error: BaseException) -> dict[str, Any]:
    if isinstance(error, IsolationError):
        return {"code": error.code, "findings": [error.message[:1000]]}
    return why(error)
