"""The volumes of a workspace's pod, on a cluster: each below a kubelet's folder, for the one pod that may have them.

With the first volume of a session its own folders are made, with the last they go. View, home and project folder are
there from the beginning as empty places, and are opened when the pod's isolation probe has passed, which this agent
judges itself from the probe's report: no key is released before. What an agent of before left is taken up from the
kernel's mount table and from a file in RAM, which names sessions and targets and holds no token, no key and no
environment. What survives what: docs/csi.md.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from orchestrator.config import Settings
from orchestrator.errors import (
    BulleError,
    ConflictError,
    GrantError,
    InputError,
    NodeError,
    UnavailableError,
)
from orchestrator.node import mounts, proof, session_files
from orchestrator.node.csi import KIND, TOKENS, Asked, is_repeated
from orchestrator.node.grants import Clock, GrantDesk
from orchestrator.node.journal import Journal
from orchestrator.node.pod_identity import Pod, PodName
from orchestrator.node.volumes import Kind, Volumes, checked_target
from orchestrator.terms import Grant, Outcome
from orchestrator.workspaces import isolation
from orchestrator.workspaces.pod import PART, REPORT_FOLDER, REPORT_NAME, TARGET, folders_in_ram
from orchestrator.workspaces.spec import Images, PartName, Tmpfs, WorkspacePaths, workspace_specs

_log = logging.getLogger(__name__)

#: how long a session's id is remembered after its pod went, against its grant
_KEEP = timedelta(minutes=15)
#: seconds between two looks at a pod; at one whose probe has not ended yet, for which somebody waits
LOOK_SECONDS, PROVING_SECONDS = 0.25, 0.05
#: how many pods are looked at, or opened, side by side
_LOOKERS = 64
#: seconds after which the log says again what has not changed
_SAY_SECONDS = 15.0
_PLACE = re.compile(r"([0-9a-f-]{36})/volumes/kubernetes\.io~csi/[a-z0-9-]{1,63}/mount")


class PodKind(StrEnum):
    """What a volume of a pod holds."""

    VIEW = "view"
    HOME = "home"
    PROJECT = "project"
    X11 = "x11"
    RFB = "rfb"
    DISPLAY = "display"
    SANDBOX = "sandbox"
    BRIDGE = "bridge"
    TMPFS = "tmpfs"


#: what is opened when the probe has passed
LATE = (PodKind.VIEW, PodKind.PROJECT, PodKind.HOME)
REPORT_PLACE = f"{PartName.SANDBOX}:{REPORT_FOLDER}"
READ_ONLY = frozenset({PodKind.VIEW, PodKind.DISPLAY, PodKind.SANDBOX, PodKind.BRIDGE})


class Identity(Protocol):
    """Who asks (:class:`orchestrator.node.pod_identity.PodIdentity`)."""

    def check(self, asked: Asked, grant: Grant) -> PodName:
        """The pod that asks; raises GrantError when it is not the grant's."""

    def check_pod(self, who: PodName, grant: Grant) -> Pod:
        """The pod as it is now; raises GrantError when it is another one or is changed."""


@dataclass(frozen=True)
class Shown:
    """A volume at its target."""

    volume_id: str
    arguments: str
    kind: PodKind
    #: of a folder in RAM: which container has it where
    place: str = ""


@dataclass
class PodSession:
    """A session and its pod."""

    grant: Grant
    pod: PodName
    shown: dict[str, Shown] = field(default_factory=dict)
    #: what is open of view, home and project folder
    opened: set[PodKind] = field(default_factory=set)
    proved: bool = False
    ended: str | None = None
    #: of the tokens with which this pod showed who it is; not in the file
    seen: set[str] = field(default_factory=set, repr=False)
    #: when it was last looked at, when its pod was last compared, and what that last said
    looked: float = field(default=-math.inf, repr=False)
    compared: float = field(default=-math.inf, repr=False)
    said: tuple[str, float] = field(default=("", -math.inf), repr=False)
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    def record(self) -> dict[str, Any]:
        """As it stands in the file."""
        return {
            "grant": self.grant.model_dump(mode="json"),
            "pod": [self.pod.namespace, self.pod.name, self.pod.uid],
            "shown": {
                target: [each.volume_id, each.arguments, each.kind, each.place] for target, each in self.shown.items()
            },
            "opened": sorted(self.opened),
            "proved": self.proved,
            "ended": self.ended,
        }

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> PodSession:
        """What :meth:`record` wrote."""
        return cls(
            grant=Grant.model_validate(record["grant"]),
            pod=PodName(*record["pod"]),
            # without the last in what an agent left that did not read reports yet
            shown={
                target: Shown(each[0], each[1], PodKind(each[2]), *each[3:4])
                for target, each in record["shown"].items()
            },
            opened={PodKind(each) for each in record["opened"]},
            proved=record["proved"],
            ended=record["ended"],
        )


class PodVolumes:
    """Publishes and unpublishes for a kubelet; both may be repeated."""

    def __init__(
        self,
        settings: Settings,
        *,
        resolved: Callable[[], Settings],
        kubelet: Path,
        images: Images,
        volumes: Volumes,
        desk: GrantDesk,
        identity: Identity,
        journal: Journal,
        clock: Clock,
    ) -> None:
        self._settings = settings
        #: with addresses in place of names, as the pod was made
        self._resolved = resolved
        self._pods = kubelet / "pods"
        self._images = images
        self._volumes = volumes
        self._desk = desk
        self._identity = identity
        self._journal = journal
        self._clock = clock
        self._mounts = settings.layout.mounts
        self._state = self._mounts / "pods"
        self._guard = threading.RLock()
        self._sessions: dict[str, PodSession] = {}
        self._spent: dict[str, datetime] = {}
        #: one check of a session's pod at a time: its volumes are asked for side by side
        self._checks: dict[str, threading.Lock] = {}
        self._looking: set[str] = set()
        self._resting = False
        self._lookers = ThreadPoolExecutor(max_workers=_LOOKERS, thread_name_prefix="look")

    # -- for kubelet ------------------------------------------------------------------------------------------
    def publish(self, asked: Asked) -> None:
        """Show a volume of the pod that asks.

        Raises:
            InputError: there is no such kind or place, or it cannot be read-only.
            GrantError: the grant does not hold, was used by another pod, or is not this pod's.
            BulleError: it could not be audited or mounted; nothing of it stays.
        """
        kind, target = self._checked(asked)
        with self._guard:
            shown = {where: (each.volume_id, each.arguments) for where, each in self._shown().items()}
        if is_repeated(shown, asked):
            return
        # Stops: data of one pod in the folder of another.
        if target.relative_to(self._pods).parts[0] != asked.context.get("csi.storage.k8s.io/pod.uid"):
            raise InputError("target_path is not of the pod that asks")
        grant = self._desk.use_for_volume(asked.grant).grant
        session = self._session(asked, grant)
        with session.lock:
            if session.ended is not None:
                raise GrantError(f"the session has ended: {session.ended}")
            if self._sessions.get(grant.session) is not session:
                raise ConflictError("a call for this session is under way")
            if asked.target in session.shown:
                raise ConflictError(f"a call for {target} is under way")
            # Written first: whatever is mounted is in the file, also when this process is killed in between.
            session.shown[asked.target] = Shown(asked.volume_id, asked.arguments, kind, _place_in_ram(asked))
            try:
                self._save()
                if not session.shown.keys() - {asked.target}:
                    self._prepare(session, asked)
                target.mkdir(mode=0o755, exist_ok=True)
                self._mount(session, kind, asked, target)
            except BaseException as error:
                # Not used up: kubelet asks again, and what was missing may be there then.
                self._take_away(session, asked.target, used=False)
                if not isinstance(error, OSError):
                    raise
                raise NodeError(f"{target}: {error.strerror or error}") from error

    def unpublish(self, volume_id: str, target: str) -> None:
        """Take a volume away; one that does not show is no error.

        Raises:
            InputError: the target is no volume of a pod.
            NodeError: it could not be unmounted.
        """
        path = self._place(target)
        with self._guard:
            session = next((each for each in self._sessions.values() if target in each.shown), None)
        if session is None:
            if _ours(path):
                mounts.unmount(path)
            _remove(path)
            return
        with session.lock:
            if target in session.shown and session.shown[target].volume_id == volume_id:
                self._take_away(session, target)

    # -- for the watch ----------------------------------------------------------------------------------------
    def grants(self) -> list[Grant]:
        """Of the sessions that have not ended."""
        with self._guard:
            return [each.grant for each in self._sessions.values() if each.ended is None]

    def projects(self) -> set[str]:
        """Ids of the projects of which a pod is there."""
        with self._guard:
            return {each.grant.project_id for each in self._sessions.values()} | self._volumes.projects()

    def running(self) -> list[Grant]:
        """Of the sessions whose data shows."""
        with self._guard:
            return [each.grant for each in self._sessions.values() if each.ended is None and each.opened >= set(LATE)]

    def every(self) -> list[Grant]:
        """Of all sessions of which something is there."""
        with self._guard:
            return [each.grant for each in self._sessions.values()]

    def pod_of(self, session: str) -> str | None:
        """The uid of a session's pod; None: there is none."""
        with self._guard:
            found = self._sessions.get(session)
        return None if found is None else found.pod.uid

    def count(self, kind: PodKind) -> int:
        """How many volumes of a kind show: those that are opened late, when they are open."""
        with self._guard:
            sessions = list(self._sessions.values())
        return sum(
            kind in each.opened if kind in LATE else [shown.kind for shown in list(each.shown.values())].count(kind)
            for each in sessions
        )

    def look(self, *, wait: bool = True) -> None:
        """End what is over, changed or gone; open what the probe has let through.

        Side by side, and without ``wait`` only those that are due and not being looked at: a view that takes its time
        holds up nobody else's start or end.
        """
        now, begun = time.monotonic(), []
        with self._guard:
            for name, session in self._sessions.items():
                every = LOOK_SECONDS if session.opened >= set(LATE) else PROVING_SECONDS
                if session.ended is not None or name in self._looking or not (wait or now - session.looked >= every):
                    continue
                session.looked = now
                self._looking.add(name)
                begun.append(session)
        for done in [self._lookers.submit(self._try_to_look_at, session) for session in begun]:
            if wait:
                done.result()

    def _try_to_look_at(self, session: PodSession) -> None:
        try:
            self._look_at(session)
        except UnavailableError as error:
            said, now = error.message, time.monotonic()
            if said != session.said[0] or now - session.said[1] > _SAY_SECONDS:
                session.said = said, now
                _log.warning("session %s waits: %s", session.grant.session, said)
        except BulleError as error:
            self.end(session.grant.session, error.message)
        except Exception:  # noqa: BLE001 - the next look must come
            _log.exception("a look at session %s stumbled", session.grant.session)
        finally:
            with self._guard:
                self._looking.discard(session.grant.session)

    def rest(self) -> None:
        """Before the agent ends: close homes and project folders in order, which could not outlive it.

        Their place is empty until the next agent opens them anew; what was written is on the disk, and another node
        need not wait for it.
        """
        with self._guard:
            self._resting = True
            sessions = list(self._sessions.values())
        for session in sessions:
            with session.lock:
                for target, each in list(session.shown.items()):
                    if each.kind in session.opened and each.kind is not PodKind.VIEW:
                        try:
                            self._close(session, each.kind, Path(target))
                        except BulleError as error:
                            _log.error(
                                "the %s of session %s was not closed: %s", each.kind, session.grant.session, error
                            )
        self._save()

    def _look_at(self, session: PodSession) -> None:
        if self._clock() >= session.grant.ends_at:
            self.end(session.grant.session, "its end has come")
            return
        # Stops: two nodes that write to one folder. Shown by tests/unit/node/test_lease.py.
        self._volumes.refuse_lost(session.grant.session)
        now, report = time.monotonic(), None if session.proved else self._report(session)
        # Before its report is there nothing is opened: the cluster is not asked twenty times a second.
        if not (session.proved or report) and now - session.compared < LOOK_SECONDS:
            return
        session.compared = now
        # Stops: a container or an image that somebody puts into the pod after its volumes were published. Shown by
        # tests/unit/node/test_csi_volumes.py.
        self._identity.check_pod(session.pod, session.grant)
        waiting = {each.kind for each in session.shown.values()} & set(LATE) - session.opened
        if waiting and (session.proved or (report is not None and self._prove(session, report))):
            self._open(session, waiting)

    def _report(self, session: PodSession) -> Path | None:
        """Where the probe has left something; None: it has not yet."""
        shown = list(session.shown.items())
        places = (Path(where) / REPORT_NAME for where, each in shown if each.place == REPORT_PLACE)
        return next((place for place in places if os.path.lexists(place)), None)

    def _prove(self, session: PodSession, place: Path) -> bool:
        """Whether the report of the isolation probe is there and tells of nothing that is open; raises IsolationError
        when it does.

        The pod was compared before, so it is the probe of the image that was named by its content, as the first
        program of that very sandbox; nobody else has the folder in which the report lies.
        """
        with proof.reported(session.grant, self._journal):
            report = proof.left_report(place)
        if report is None:
            return False
        targets = isolation.targets_of(self._resolved(), session.grant.project)
        proof.judge(report, targets, session.grant, self._journal, locked=True)
        session.proved = True
        return True

    def end(self, name: str, reason: str) -> None:
        """Take data away from a session at once, whatever its pod does; the rest goes with the pod."""
        with self._guard:
            session = self._sessions.get(name)
        if session is None:
            return
        with session.lock:
            if session.ended is not None:
                return
            session.ended = reason
            for target, each in list(session.shown.items()):
                if each.kind in session.opened:
                    self._close(session, each.kind, Path(target))
            self._save()
        self._journal.after("workspace.stop", Outcome.DONE, session.grant, reason=reason[:200])

    # -- sessions ---------------------------------------------------------------------------------------------
    def _session(self, asked: Asked, grant: Grant) -> PodSession:
        seen = hashlib.sha256("\0".join([asked.grant, asked.secrets.get(TOKENS, "")]).encode()).hexdigest()
        uid = asked.context.get("csi.storage.k8s.io/pod.uid")
        with self._guard:
            session = self._sessions.get(grant.session)
            # The others of a pod's volumes come with the same two tokens.
            if session is not None and seen in session.seen and uid == session.pod.uid:
                return session
            check = self._checks.setdefault(grant.session, threading.Lock())
        try:
            with check:
                with self._guard:
                    session = self._sessions.get(grant.session)
                    if session is not None and seen in session.seen and uid == session.pod.uid:
                        return session
                return self._checked_session(asked, grant, seen)
        finally:
            with self._guard:
                if not check.locked():
                    self._checks.pop(grant.session, None)

    def _checked_session(self, asked: Asked, grant: Grant, seen: str) -> PodSession:
        who = self._identity.check(asked, grant)
        with self._guard:
            self._forget()
            # Stops: a grant that is used again when its pod is gone, and one of a session that another pod has.
            if grant.session in self._spent:
                raise GrantError("this grant was used before", hint="ask for a new one")
            session = self._sessions.setdefault(grant.session, PodSession(grant, who))
            if session.pod != who or session.grant != grant:
                raise GrantError("another pod has this session")
            session.seen.add(seen)
            return session

    def _prepare(self, session: PodSession, asked: Asked) -> None:
        try:
            environment = json.loads(asked.secrets.get("bridge", ""))
        except ValueError as error:
            raise InputError("secrets: bridge is not the bridge's environment as JSON") from error
        if not isinstance(environment, dict) or not all(isinstance(each, str) for each in environment.values()):
            raise InputError("secrets: bridge is not the bridge's environment as JSON")
        environment = session_files.checked_environment(environment, session.grant)
        self._journal.before("workspace.start", session.grant, permit=session.grant.permit.version)
        session_files.prepare(self._paths(session), session.grant, self._settings, environment)

    def _paths(self, session: PodSession) -> WorkspacePaths:
        return WorkspacePaths.of(self._mounts, session.grant.session)

    def _late_place(self, session: PodSession, kind: PodKind) -> Path:
        paths = self._paths(session)
        return {PodKind.VIEW: paths.data, PodKind.HOME: paths.home, PodKind.PROJECT: paths.project}[kind]

    def _mount(self, session: PodSession, kind: PodKind, asked: Asked, target: Path) -> None:
        if kind in LATE:
            mounts.tmpfs(target, "4k", mode=0o555)
            # Nobody keeps anything in the place before it is opened.
            mounts.make_read_only(target)
        elif kind is PodKind.TMPFS:
            folder = self._folder_in_ram(session, asked)
            mounts.tmpfs(target, f"{folder.size_mb}m", mode=folder.mode, executable=folder.executable)
            if folder.uid is not None:
                os.chown(target, folder.uid, folder.uid)
        else:
            source = self._paths(session).run / kind.value
            if kind in READ_ONLY:
                mounts.freeze(source)
            mounts.bind(source, target)

    def _folder_in_ram(self, session: PodSession, asked: Asked) -> Tmpfs:
        part, where = asked.context.get(PART, ""), asked.context.get(TARGET, "")
        for spec in workspace_specs(session.grant, self._settings, self._images, self._paths(session)):
            for folder in folders_in_ram(spec):
                if (spec.part.value, folder.target) == (part, where):
                    return folder
        raise InputError(f"volume_context: {part!r} has no folder in RAM at {where!r}"[:200])

    def _open(self, session: PodSession, waiting: set[PodKind]) -> None:
        with session.lock:
            if session.ended is not None or self._resting:
                return
            # At the same time: the desktop starts when it sees its home, while the view is being built.
            with ThreadPoolExecutor(max_workers=len(LATE)) as pool:
                for done in [pool.submit(self._open_one, session, kind) for kind in LATE if kind in waiting]:
                    done.result()
            self._save()
            self._journal.done("workspace.start", session.grant, permit=session.grant.permit.version)

    def _open_one(self, session: PodSession, kind: PodKind) -> None:
        target = next(Path(where) for where, each in session.shown.items() if each.kind is kind)
        place = self._late_place(session, kind)
        self._volumes.publish(Kind(kind), session.grant, str(place))
        session.opened.add(kind)
        self._save()
        mounts.bind_over(place, target)

    def _close(self, session: PodSession, kind: PodKind, target: Path) -> None:
        while _layers(target) > 1:
            mounts.unmount_top(target)
        self._volumes.unpublish(str(self._late_place(session, kind)))
        session.opened.discard(kind)

    def _take_away(self, session: PodSession, target: str, *, used: bool = True) -> None:
        shown, path = session.shown[target], Path(target)
        if shown.kind in session.opened:
            self._close(session, shown.kind, path)
        mounts.unmount(path)
        _remove(path)
        del session.shown[target]
        if not session.shown:
            session_files.clear(self._paths(session))
            with self._guard:
                self._sessions.pop(session.grant.session, None)
                if used:
                    self._spent[session.grant.session] = self._clock() + _KEEP
            if session.ended is None:
                self._journal.after(
                    "workspace.stop", Outcome.DONE, session.grant, reason="its pod is gone" if used else "failed"
                )
        self._save()

    # -- places -----------------------------------------------------------------------------------------------
    def _checked(self, asked: Asked) -> tuple[PodKind, Path]:
        if asked.kind not in set(PodKind):
            raise InputError(f"volume_context {KIND} must be one of {', '.join(PodKind)}, not {asked.kind!r}"[:300])
        kind = PodKind(asked.kind)
        if asked.read_only and kind not in READ_ONLY:
            raise InputError(f"readonly: a {kind} is writable")
        return kind, self._place(asked.target)

    def _place(self, text: str) -> Path:
        target = checked_target(text, self._pods)
        if not _PLACE.fullmatch(str(target.relative_to(self._pods))):
            raise InputError(f"target {text!r} is no volume of a pod")
        return target

    def _shown(self) -> dict[str, Shown]:
        return {where: each for session in self._sessions.values() for where, each in session.shown.items()}

    # -- what is known after a restart ------------------------------------------------------------------------
    def _forget(self) -> None:
        now = self._clock()
        self._spent = {name: until for name, until in self._spent.items() if until > now}

    def _save(self) -> None:
        with self._guard:
            content = {
                "sessions": [each.record() for each in self._sessions.values()],
                "spent": {name: until.isoformat() for name, until in self._spent.items()},
            }
            fresh = self._state / "sessions.new"
            try:
                fresh.write_text(json.dumps(content), encoding="utf-8")
                fresh.replace(self._state / "sessions.json")
            except OSError as error:
                raise NodeError(f"what is published was not written down: {error.strerror}") from error

    def recover(self) -> tuple[int, int]:
        """Take up what an earlier process left; how many sessions go on, how many mounts were nobody's.

        tmpfs and views are the kernel's and are still there. Homes and project folders were served by a process of the
        earlier agent's container: what is left of them is taken away here, and the next look opens them anew.

        Raises:
            NodeError: something stays that nobody may have; the agent must not serve then.
        """
        for name in ("ws", "views", "plain", "cipher", "pods"):
            (self._mounts / name).mkdir(mode=0o711, parents=True, exist_ok=True)
        if not mounts.is_mounted(self._state):
            mounts.tmpfs(self._state, "16m", mode=0o700)
        try:
            content = json.loads((self._state / "sessions.json").read_text(encoding="utf-8"))
            self._sessions = {each.grant.session: each for each in map(PodSession.of, content["sessions"])}
            self._spent = {name: datetime.fromisoformat(until) for name, until in content["spent"].items()}
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            # Then everything below is nobody's and goes.
            _log.error("what was published cannot be read: %s", error)
        for session in list(self._sessions.values()):
            self._take_up(session)
        gone = self._remove_what_is_nobodys()
        self._save()
        return len(self._sessions), gone

    def _take_up(self, session: PodSession) -> None:
        before, session.opened = session.opened, set()
        for target, each in list(session.shown.items()):
            if not _ours(Path(target)):
                del session.shown[target]
                _remove(Path(target))
                continue
            if each.kind not in LATE:
                continue
            place = self._late_place(session, each.kind)
            whole = each.kind is PodKind.VIEW and each.kind in before and _layers(Path(target)) > 1
            if whole and self._volumes.adopt_view(session.grant, place):
                session.opened.add(each.kind)
                continue
            while _layers(Path(target)) > 1:
                mounts.unmount_top(Path(target))
            mounts.unmount(place)
        if not session.shown or not mounts.is_mounted(self._paths(session).run):
            for target in session.shown:
                mounts.unmount(Path(target))
                _remove(Path(target))
            for kind in session.opened:
                self._volumes.unpublish(str(self._late_place(session, kind)))
            session_files.clear(self._paths(session))
            del self._sessions[session.grant.session]
            self._spent[session.grant.session] = self._clock() + _KEEP

    def _remove_what_is_nobodys(self) -> int:
        known = self._shown()
        views = self._volumes.views()
        roots = {self._paths(each).root for each in self._sessions.values()}
        gone = 0
        for each in mounts.mounts_below(self._pods):
            if each.source == mounts.SOURCE and str(each.path) not in known:
                mounts.unmount(each.path)
                gone += 1
        for each in mounts.mounts_below(self._mounts):
            kept = each.path == self._state or each.path in views or roots & set(each.path.parents)
            if not kept:
                mounts.unmount(each.path)
                gone += 1
        for name in ("views", "plain", "cipher"):
            for folder in (self._mounts / name).iterdir():
                if folder not in views:
                    with suppress(FileNotFoundError):
                        folder.rmdir()
        for root in (self._mounts / "ws").iterdir():
            if root not in roots and re.fullmatch(r"[0-9a-f]{32}", root.name):
                session_files.clear(WorkspacePaths.of(self._mounts, root.name))
        return gone


def _place_in_ram(asked: Asked) -> str:
    """Which folder in RAM is asked for, "" for another volume."""
    return f"{asked.context.get(PART, '')}:{asked.context.get(TARGET, '')}" if asked.kind == PodKind.TMPFS else ""


def _layers(path: Path) -> int:
    return sum(each.path == path for each in mounts.mounts_below(path.parent))


def _ours(path: Path) -> bool:
    return any(each.path == path and each.source == mounts.SOURCE for each in mounts.mounts_below(path.parent))


def _remove(path: Path) -> None:
    with suppress(FileNotFoundError, NotADirectoryError):
        try:
            # rmdir and not more: in a folder that is not empty something would still be mounted.
            path.rmdir()
        except OSError as error:
            if isinstance(error, FileNotFoundError | NotADirectoryError):
                raise
            raise NodeError(f"{path} was not removed: {error.strerror}") from error
