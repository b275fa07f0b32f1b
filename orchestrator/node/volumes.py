"""Volumes of sessions: a view, a home or a project folder, shown at a target below the deployment's mount
folder.

The one implementation behind both callers: the door of a single machine and, through CSI, a kubelet.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from orchestrator.config import Limits
from orchestrator.errors import ConflictError, InputError, NodeError
from orchestrator.node import mounts
from orchestrator.node.folders import Folders, home_key, project_key
from orchestrator.node.journal import Journal
from orchestrator.node.ports import Progress, ViewBuilder
from orchestrator.node.views import Views
from orchestrator.terms import Grant, Outcome


class Kind(StrEnum):
    """What a volume holds."""

    VIEW = "view"
    HOME = "home"
    PROJECT = "project"


@dataclass(frozen=True)
class Publication:
    """A volume that shows at its target."""

    kind: Kind
    grant: Grant
    target: Path


def checked_target(text: str, allowed: Path) -> Path:
    """``text`` as a path strictly below ``allowed``, with nothing in it that leads elsewhere.

    Stops a caller who would have the agent (root) mount over ``/etc``, or through a symbolic link.

    Raises:
        InputError: it is not absolute, not normal, not below ``allowed``, or a part of it is a symbolic link.
    """
    target = Path(text)
    if not target.is_absolute() or text != os.path.normpath(text) or "\0" in text:
        raise InputError(f"target {text!r} is not a normal absolute path")
    if allowed not in target.parents:
        raise InputError(f"target {text!r} is not below {allowed}")
    for part in (target, *target.parents):
        if part == allowed:
            break
        if part.is_symlink():
            raise InputError(f"target {text!r}: {part} is a symbolic link")
    if target.parent.resolve() != target.parent:
        raise InputError(f"target {text!r} leads to {target.parent.resolve()}")
    return target


def _nothing(done: int, total: int) -> None:
    del done, total


class Volumes:
    """Publishes and unpublishes; both may be repeated."""

    def __init__(
        self,
        *,
        allowed: Path,
        limits: Limits,
        views: Views,
        folders: Folders,
        builder: ViewBuilder,
        journal: Journal,
    ) -> None:
        self._allowed = allowed
        self._limits = limits
        self._views = views
        self._folders = folders
        self._builder = builder
        self._journal = journal
        self._guard = threading.Lock()
        self._pending: dict[Path, str] = {}
        self._published: dict[Path, Publication] = {}

    def publish(self, kind: Kind, grant: Grant, target_text: str, progress: Progress = _nothing) -> None:
        """Show a volume of ``grant``'s session at a target, which is made if it is not there.

        Raises:
            InputError: the target is not one that the agent may mount on.
            ConflictError: something else shows there or is under way, or this volume shows elsewhere.
            BulleError: it could not be audited, released, built or mounted; nothing of it stays.
        """
        target = checked_target(target_text, self._allowed)
        wanted = Publication(kind, grant, target)
        with self._guard:
            if target in self._pending:
                raise ConflictError(f"a call for {target} is under way")
            there = self._published.get(target)
            if there is not None and (there.kind, there.grant.session) == (kind, grant.session):
                return
            if there is not None or mounts.is_mounted(target):
                raise ConflictError(f"something else shows at {target}")
            if any((each.kind, each.grant.session) == (kind, grant.session) for each in self._published.values()):
                raise ConflictError(f"the {kind} of session {grant.session} shows elsewhere already")
            self._pending[target] = grant.project_id
        try:
            source = self._open(kind, grant, progress)
            try:
                target.mkdir(mode=0o755, exist_ok=True)
                self._journal.before("volume.mount", grant, volume=kind.value)
                mounts.bind(source, target)
            except BaseException:
                mounts.unmount(target)
                self._close(kind, grant)
                raise
            with self._guard:
                self._published[target] = wanted
        finally:
            with self._guard:
                self._pending.pop(target, None)

    def adopt_view(self, grant: Grant, target: Path) -> bool:
        """Take up a view that an earlier process of the agent published at ``target``; whether it is there, whole."""
        if not mounts.is_mounted(target) or not self._views.adopt(grant):
            return False
        with self._guard:
            self._published[target] = Publication(Kind.VIEW, grant, target)
        return True

    def unpublish(self, target_text: str) -> None:
        """Take a volume away; one that does not show is no error.

        Raises:
            InputError: the target is not one that the agent may mount on.
            ConflictError: a call for it is under way.
        """
        target = checked_target(target_text, self._allowed)
        with self._guard:
            if target in self._pending:
                raise ConflictError(f"a call for {target} is under way")
            there = self._published.pop(target, None)
        # Views, plaintext and ciphertext have their own users: only what this object put there is its to take
        # away.
        if there is None:
            return
        try:
            mounts.unmount(target)
        finally:
            self._close(there.kind, there.grant)
            self._journal.after("volume.unmount", Outcome.DONE, there.grant, volume=there.kind.value)

    def published(self) -> list[Publication]:
        """What shows now."""
        with self._guard:
            return list(self._published.values())

    def refuse_lost(self, session: str) -> None:
        """Raises NodeError where a folder of this session may be open elsewhere, so that it must be let go here."""
        kinds = [(each.kind, each.grant) for each in self.published() if each.grant.session == session]
        for kind, grant in kinds:
            if kind is not Kind.VIEW and self._folders.lost(self._folder(kind, grant)[0]):
                raise NodeError(f"the {kind} folder was lost: its storage is silent, or another node has it")

    def views(self) -> set[Path]:
        """Where the views that show now are made."""
        return {self._views.place(each.grant) for each in self.published() if each.kind is Kind.VIEW}

    def projects(self) -> set[str]:
        """Ids of the projects of which something shows, or is on its way."""
        with self._guard:
            return {*self._pending.values(), *(each.grant.project_id for each in self._published.values())}

    def _open(self, kind: Kind, grant: Grant, progress: Progress) -> Path:
        self._folders.refuse_closed(grant.project_id)
        if kind is Kind.VIEW:
            # What is in the log is what is opened: a table that is ingested anew in between makes the build fail
            # instead of opening keys that no record names.
            keys = self._builder.required_keys(grant)
            self._journal.before("key.release", grant, keys=keys)
            return self._views.open(grant, frozenset(keys), progress)
        key_id, limit = self._folder(kind, grant)
        # Before the log says that a key is released, and not once a second while another node's word is waited for.
        self._folders.refuse_open_elsewhere([key_id])
        self._journal.before("key.release", grant, keys=[key_id])
        return self._folders.open(key_id, limit)

    def _close(self, kind: Kind, grant: Grant) -> None:
        if kind is Kind.VIEW:
            self._views.close(grant)
        else:
            self._folders.close(self._folder(kind, grant)[0])

    def _folder(self, kind: Kind, grant: Grant) -> tuple[str, int]:
        if kind is Kind.HOME:
            return home_key(grant.project_id, grant.person), self._limits.home_mb
        if kind is Kind.PROJECT:
            return project_key(grant.project_id), self._limits.project_mb
        raise NodeError(f"{kind} is no folder")
