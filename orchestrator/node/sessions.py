"""The life of a session: started step by step, watched, and ended with nothing left behind.

Each step is audited before it is done; what cannot be audited is not done. Whatever goes wrong in a start, at
any step, everything of it is taken back before the caller hears of it.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime

from orchestrator.config import Settings, Uid
from orchestrator.errors import (
    BulleError,
    GrantError,
    NodeError,
    RefusedError,
)
from orchestrator.node import measures, proof, session_files
from orchestrator.node.grants import Clock, GrantDesk
from orchestrator.node.journal import Journal
from orchestrator.node.session_table import Described, Life, Report, SessionTable, State, Step, why
from orchestrator.node.volumes import Kind, Volumes
from orchestrator.terms import Grant, Outcome
from orchestrator.workspaces import isolation
from orchestrator.workspaces.runtime import Runtime
from orchestrator.workspaces.spec import (
    PROBE_COMMAND,
    ContainerSpec,
    Images,
    PartName,
    WorkspacePaths,
    bridge_network,
    workspace_specs,
)

_log = logging.getLogger(__name__)

_PROBE_SECONDS = 10.0
_VIEW_REPORTS = 0.1


@dataclass
class _Session(Life):
    paths: WorkspacePaths = field(kw_only=True)
    containers: dict[PartName, str] = field(default_factory=dict, kw_only=True)

    def go_on(self) -> None:
        """Raise when this start is not wanted any more, or takes too long."""
        super().go_on()
        if time.monotonic() > self.deadline:
            raise NodeError("the workspace was not up in time", hint="raise workspace.start_timeout")


class Sessions(SessionTable[_Session]):
    """All sessions of this machine. Safe between threads."""

    def __init__(
        self,
        settings: Settings,
        *,
        images: Callable[[], Images],
        runtime: Runtime,
        volumes: Volumes,
        desk: GrantDesk,
        journal: Journal,
        seccomp: str | None,
        clock: Clock = lambda: datetime.now(UTC),
    ) -> None:
        super().__init__()
        self._settings = settings
        self._images = images
        self._runtime = runtime
        self._volumes = volumes
        self._desk = desk
        self._journal = journal
        self._seccomp = seccomp
        self._clock = clock
        self._network = bridge_network(settings.deployment)
        self._pool = ThreadPoolExecutor(max_workers=32, thread_name_prefix="session")

    # -- start ----------------------------------------------------------------------------------------------
    def start(self, token: str, environment: dict[str, str], report: Report, abort: threading.Event) -> Described:
        """Start the workspace that a grant is for; ``report`` hears each step; setting ``abort`` takes all
        back.

        Raises:
            GrantError: the grant does not hold or was used.
            ConflictError: this person's workspace in this project runs already, or is on its way up or down.
            IsolationError: the probe found a way out.
            BulleError: anything else; in every case nothing of this start is left.
        """
        steps = measures.Steps()

        def told(step: Step) -> None:
            steps.enter(step.step)
            report(step)

        try:
            described = self._start(token, environment, told, abort)
        except BaseException as error:
            steps.over(error)
            raise
        steps.over(None)
        return described

    def _start(self, token: str, environment: dict[str, str], report: Report, abort: threading.Event) -> Described:
        try:
            verified = self._desk.use_for_start(token)
        except GrantError as error:
            self._journal.after("workspace.start", Outcome.REFUSED, code=error.code)
            raise
        grant = verified.grant
        try:
            environment = session_files.checked_environment(environment, grant)
            session = self._enter(grant, abort)
        except BulleError as error:
            self._journal.after("workspace.start", Outcome.REFUSED, grant, **why(error))
            raise
        try:
            self._bring_up(session, environment, report)
        except BaseException as error:
            refused = isinstance(error, RefusedError)
            self._end(session, "start failed")
            outcome = Outcome.REFUSED if refused else Outcome.FAILED
            self._journal.after("workspace.start", outcome, grant, **why(error))
            raise
        return session.described()

    def _enter(self, grant: Grant, abort: threading.Event) -> _Session:
        deadline = time.monotonic() + self._settings.workspace.start_timeout
        paths = WorkspacePaths.of(self._settings.layout.mounts, grant.session)
        session = _Session(grant, abort, deadline, paths=paths)
        self._admit(session)
        return session

    def _bring_up(self, session: _Session, environment: dict[str, str], report: Report) -> None:
        grant = session.grant
        report(Step("starting", 0, 3))
        self._journal.before("workspace.start", grant, permit=grant.permit.version)
        session_files.prepare(session.paths, grant, self._settings, environment)
        specs = workspace_specs(grant, self._settings, self._images(), session.paths, self._seccomp)
        ups = {spec.part: self._pool.submit(self._up, session, spec) for spec in specs}
        try:
            ups[PartName.SANDBOX].result()
            session.go_on()
            session.enter(State.PROVING)
            report(Step("proving"))
            self._prove(session)
        finally:
            wait(ups.values())
        for up in ups.values():
            up.result()
        session.host = self._runtime.address(session.containers[PartName.BRIDGE], self._network)
        session.go_on()
        session.enter(State.MOUNTING)
        report(Step("keys"))
        self._mount(session, report)
        report(Step("desktop"))
        self._await_display(session)
        self._journal.done("workspace.start", grant, permit=grant.permit.version)
        with self._guard:
            session.go_on()
            session.enter(State.RUNNING)
        report(Step("ready"))

    def _up(self, session: _Session, spec: ContainerSpec) -> None:
        session.go_on()
        session.containers[spec.part] = self._runtime.create(spec)
        session.go_on()
        self._runtime.start(session.containers[spec.part])

    def _prove(self, session: _Session) -> None:
        """Nothing is mounted before this returns. The same container, user, filter and network as the
        researcher's."""
        targets = isolation.targets_of(self._settings, session.grant.project)
        with proof.reported(session.grant, self._journal):
            answer = self._runtime.execute(
                session.containers[PartName.SANDBOX],
                PROBE_COMMAND,
                Uid.SANDBOX,
                json.dumps(targets).encode(),
                timeout=_PROBE_SECONDS,
                most=isolation.MOST,
            )
            report = isolation.parse_report(answer.status, answer.output)
        proof.judge(report, targets, session.grant, self._journal, locked=False)

    def _mount(self, session: _Session, report: Report) -> None:
        """View, home and project folder at the same time; the first failure is raised once none is under
        way."""
        grant, paths = session.grant, session.paths
        last = [0.0]

        def rows(done: int, total: int) -> None:
            session.go_on()
            now = time.monotonic()
            if now - last[0] >= _VIEW_REPORTS or done == total:
                last[0] = now
                report(Step("view", done, total))

        report(Step("view"))
        jobs: list[Future[None]] = [self._pool.submit(self._volumes.publish, Kind.VIEW, grant, str(paths.data), rows)]
        report(Step("folders", 0, 2))
        jobs.append(self._pool.submit(self._volumes.publish, Kind.PROJECT, grant, str(paths.project)))
        # The desktop starts when it sees its home, while the view is being built.
        jobs.append(self._pool.submit(self._volumes.publish, Kind.HOME, grant, str(paths.home)))
        wait(jobs)
        for job in jobs:
            job.result()
        report(Step("folders", 2, 2))

    def _await_display(self, session: _Session) -> None:
        wanted = (session.paths.run / "x11" / "X1", session.paths.run / "rfb" / "rfb.sock")
        looked = time.monotonic()
        while not all(each.exists() for each in wanted):
            session.go_on()
            if time.monotonic() - looked > 0.25:
                looked = time.monotonic()
                self._require_all_running(session)
            time.sleep(0.01)
        self._require_all_running(session)

    def _require_all_running(self, session: _Session) -> None:
        running = {found.id for found in self._runtime.list(session.grant.session) if found.running}
        ended = [part.value for part, container in session.containers.items() if container not in running]
        if ended:
            raise NodeError(f"{' and '.join(ended)} ended during the start")

    # -- stop -----------------------------------------------------------------------------------------------
    def _end(self, session: _Session, reason: str) -> None:
        """Take a session down: containers first, so that nothing uses what is unmounted next."""
        with session.ending:
            if session.gone.is_set():
                return
            began = session.state is State.RUNNING
            if session.state is not State.STOPPING:
                session.enter(State.STOPPING)
            ordered = time.monotonic()
            faults: list[BulleError] = []

            def attempt(action: Callable[[], None]) -> None:
                try:
                    action()
                except BulleError as error:
                    faults.append(error)

            attempt(lambda: self._remove_containers(session.grant.session))
            for target in (session.paths.home, session.paths.data, session.paths.project):
                attempt(lambda target=target: self._volumes.unpublish(str(target)))  # type: ignore[misc]
            attempt(lambda: session_files.clear(session.paths))
            measures.STOP_SECONDS.took(time.monotonic() - ordered, outcome="failed" if faults else "done")
            if began:
                detail = {"reason": reason, **({"left": str(faults[0])[:500]} if faults else {})}
                self._journal.after(
                    "workspace.stop", Outcome.FAILED if faults else Outcome.DONE, session.grant, **detail
                )
            if faults:
                _log.error("session %s is not wholly down: %s", session.grant.session, "; ".join(map(str, faults)))
                raise faults[0]
            self._is_gone(session)

    def _remove_containers(self, session: str) -> None:
        # By label and not from memory: a container whose creation was answered too late is found as well.
        found = self._runtime.list(session)
        # The bridge is asked, not killed, and has a second: it tells the browser that the session is over, which takes
        # the last picture off the screen. The others end at once.
        removals = [
            self._pool.submit(self._runtime.remove, each.id, grace=1 if each.part == PartName.BRIDGE else 0)
            for each in found
        ]
        wait(removals)
        for removal in removals:
            removal.result()

    def close(self, reason: str) -> None:
        """Take no more starts, and end every session."""
        with self._guard:
            self._closed = True
        self.stop_all(reason)
        self._pool.shutdown()
