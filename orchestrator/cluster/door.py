"""The door of a cluster (``python -m orchestrator.cluster.door``): what the hub asks for becomes a pod, or does not.

The wire is that of one machine (:mod:`orchestrator.node.door`), so the hub does not know where it runs. Whoever has
broken into the hub can start what a grant says, look, and stop; there is no field for an image, a name, a node or a
namespace.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from orchestrator import logs
from orchestrator.cluster.projects import Projects
from orchestrator.cluster.sessions import Connects, PodSessions, connects
from orchestrator.cluster.watch import DoorWatch
from orchestrator.cluster_api import HttpsApi
from orchestrator.config import Settings, resolved_in_time
from orchestrator.errors import BulleError, SettingsError
from orchestrator.governance.cards import SessionNews
from orchestrator.governance.client import AuthorityClient
from orchestrator.governance.grants import issuer_of
from orchestrator.governance.keys import GRANT_PUBLIC, load_public_key
from orchestrator.governance.serving import serve_on_sockets
from orchestrator.node.door import door_app
from orchestrator.node.grants import Clock, GrantDesk, chain_wanted
from orchestrator.node.journal import Journal
from orchestrator.node.ports import Authority
from orchestrator.process import harden, now, own_settings, run_part
from orchestrator.workspaces.spec import images_of

_AUTHORITY_SECONDS = 3.0


class DoorAuthority(Authority, Protocol):
    """What the door asks of the authority."""

    def session_news(self, session: str) -> SessionNews:
        """What a node agent told of a session."""


@dataclass(frozen=True)
class Door:
    """The door's parts, composed."""

    sessions: PodSessions
    projects: Projects
    watch: DoorWatch
    journal: Journal


def compose(
    settings: Settings, api: HttpsApi, authority: DoorAuthority, *, clock: Clock = now, connects: Connects = connects
) -> Door:
    """A door; ``settings`` are resolved.

    Raises:
        BulleError: a key or the images are not there, or ``kubernetes`` is not set.
    """
    cluster = settings.kubernetes
    if cluster is None:
        raise SettingsError("kubernetes: is not set, so this is no cluster")
    key = load_public_key(settings.layout.public / GRANT_PUBLIC)
    journal = Journal(authority)
    projects = Projects(api, cluster)
    sessions = PodSessions(
        settings,
        api=api,
        images=images_of(settings),
        desk=GrantDesk(key, issuer_of(settings.deployment), clock, chain_wanted(settings)),
        public_key=key,
        journal=journal,
        projects=projects,
        news=authority.session_news,
        clock=clock,
        connects=connects,
    )
    watch = DoorWatch(
        sessions,
        projects,
        api=api,
        cluster=cluster,
        deployment=settings.deployment,
        authority=authority,
        journal=journal,
        clock=clock,
        seconds=settings.reconcile_seconds,
    )
    return Door(sessions, projects, watch, journal)


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. What runs goes on; the next door finds it again.

    Raises:
        BulleError: it cannot begin: a part is missing, the hub has no address, or the socket cannot be had.
    """
    logs.configure("door", settings.logs)
    harden()
    settings = resolved_in_time(settings)
    authority = AuthorityClient(settings.layout.socket("cluster"), timeout=_AUTHORITY_SECONDS)
    door = compose(settings, HttpsApi.of_the_cluster(), authority)
    door.watch.start()
    try:
        serve_on_sockets({settings.layout.socket("door"): door_app(door.sessions)})
    finally:
        door.sessions.close()
        door.watch.stop()
        with suppress(BulleError):
            door.journal.catch_up()


def main() -> int:
    """Serve until a signal; 1 with one line of what was wrong, when the door cannot begin."""
    return run_part("door", lambda: serve(own_settings()))


if __name__ == "__main__":
    sys.exit(main())
