"""The spawner: a named server is a workspace, started through the node agent's door against a grant.

Not a DockerSpawner: see :mod:`orchestrator.hub.door` for why the hub speaks no engine's language.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

from jupyterhub.spawner import Spawner, SpawnException
from traitlets import Unicode

from orchestrator.errors import BulleError, RefusedError, UnavailableError
from orchestrator.governance.client import AsyncAuthorityClient
from orchestrator.hub.door import Door, Started, Step

#: the steps of a start in their order, and the share of the whole at which each begins (for a bar, not a
#: promise)
STEPS = {
    "checking": 2,
    "starting": 8,
    "proving": 25,
    "keys": 40,
    "view": 45,
    "folders": 80,
    "desktop": 88,
    "ready": 98,
}

#: What a bridge must know to talk to the hub, and nothing else that the hub's own environment may hold.
BRIDGE_ENVIRONMENT = (
    "JUPYTERHUB_ACTIVITY_URL",
    "JUPYTERHUB_API_TOKEN",
    "JUPYTERHUB_API_URL",
    "JUPYTERHUB_BASE_URL",
    "JUPYTERHUB_CLIENT_ID",
    "JUPYTERHUB_COOKIE_HOST_PREFIX_ENABLED",
    "JUPYTERHUB_COOKIE_OPTIONS",
    "JUPYTERHUB_HOST",
    "JUPYTERHUB_OAUTH_ACCESS_SCOPES",
    "JUPYTERHUB_OAUTH_CALLBACK_URL",
    "JUPYTERHUB_OAUTH_CLIENT_ALLOWED_SCOPES",
    "JUPYTERHUB_OAUTH_SCOPES",
    "JUPYTERHUB_PUBLIC_HUB_URL",
    "JUPYTERHUB_PUBLIC_URL",
    "JUPYTERHUB_SERVER_NAME",
    "JUPYTERHUB_SERVICE_PREFIX",
    "JUPYTERHUB_SERVICE_URL",
    "JUPYTERHUB_USER",
)


def bridge_environment(environment: dict[str, str]) -> dict[str, str]:
    """The part of a server's environment that its bridge gets."""
    return {name: environment[name] for name in BRIDGE_ENVIRONMENT if environment.get(name)}


def progress_event(step: Step) -> dict[str, Any]:
    """What the hub's progress stream says of ``step``; the portal draws it, others read ``message``."""
    begin = STEPS.get(step.name, 50)
    later = [share for share in STEPS.values() if share > begin]
    width = (min(later) if later else 100) - begin
    part = min(1.0, step.done / step.total) if step.total else 0.0
    counted = f" {step.done} / {step.total}" if step.total else ""
    return {
        "progress": int(begin + width * part),
        "message": f"{step.name}{counted}",
        "step": step.name,
        "done": step.done,
        "total": step.total,
    }


def failure(error: BulleError) -> SpawnException:
    """How the hub is told that a start failed: with the message meant for the person."""
    # A start that a rule ended is no failure of the hub's, whatever the status of the error's type.
    status = error.http_status if 400 <= error.http_status < 500 else 503
    logged = str(error).replace("%", "%%")
    shown = SpawnException(str(error), reason=error.code, status_code=status, log_message=logged)
    shown.jupyterhub_message = str(error)
    return shown


class BulleSpawner(Spawner):
    """One person's workspace in one project. The server's name is the project's slug; it is looked up, not
    parsed.
    """

    authority_socket = Unicode(config=True, help="The authority's socket for the hub.")
    door_socket = Unicode(config=True, help="The node agent's door.")

    session: str | None = None
    user_options: dict[str, Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._events: list[dict[str, Any]] = []
        self._more = asyncio.Event()
        self._over = False

    @property
    def _door(self) -> Door:
        return Door(Path(self.door_socket))

    # -- state -------------------------------------------------------------------------------------
    def get_state(self) -> dict[str, Any]:
        """What survives a restart of the hub: the session's id."""
        state: dict[str, Any] = super().get_state()
        if self.session:
            state["session"] = self.session
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        """Find a running session again."""
        super().load_state(state)
        self.session = state.get("session")

    def clear_state(self) -> None:
        """Forget the session: the hub calls this before a start and after a stop."""
        super().clear_state()
        self.session = None
        self._events = []
        self._over = False
        self._wake()

    # -- options -----------------------------------------------------------------------------------
    async def get_options_form(self) -> str:
        """No form: what a workspace is made of is decided by the permit and the settings."""
        return ""

    def _forget_options(self) -> None:
        """Drop options that a client sent along. A control: what a start is made of must not be
        widened by its caller; tests/unit/hub/test_spawner.py sends some and compares what the door gets."""
        if self.user_options:
            self.log.warning("options for %s were ignored: a workspace has none", self._log_name)
            self.user_options = {}
            if self.orm_spawner is not None:
                self.orm_spawner.user_options = {}

    # -- life --------------------------------------------------------------------------------------
    async def start(self) -> str:
        """Ask the authority for a grant, hand it to the door, and relay the steps; the bridge's address.

        Raises:
            SpawnException: the start was refused or failed. Nothing of it is left.
        """
        self._forget_options()
        self._events = []
        self._over = False
        try:
            return await self._start()
        except BulleError as error:
            self._tell({"progress": 100, "message": str(error), "failure": _failure_event(error)})
            raise failure(error) from error
        finally:
            self._over = True
            self._wake()

    async def _start(self) -> str:
        if not self.name:
            raise RefusedError("a workspace belongs to a project", hint="open it from the list of your projects")
        self._tell(progress_event(Step("checking")))
        async with AsyncAuthorityClient(Path(self.authority_socket)) as authority:
            issued = await authority.grant(self.user.name, self.name)
        # The hub starts what it does not know to be running. What runs all the same was started by a hub that ended
        # before it could write that down: nobody could reach it, and it would stand in the way of this start.
        for left in await self._door.running(self.user.name, self.name):
            self.log.warning("ending session %s of %s, which this hub does not know", left, self._log_name)
            await self._door.stop(left)
        self.session = issued.session
        environment = bridge_environment(self.get_env())
        async with aclosing(self._door.start(issued.grant, environment)) as lines:
            async for line in lines:
                if isinstance(line, Started):
                    if line.session != issued.session:
                        raise RefusedError("the node agent started another session than the one asked for")
                    self._tell(progress_event(Step("ready")))
                    return f"http://{line.host}:{line.port}"
                self._tell(progress_event(line))
        raise UnavailableError(
            "the node agent broke off the start", hint="nothing of it is left; try again in a minute"
        )

    async def stop(self, now: bool = False) -> None:
        """Stop the session; it is no error when it is gone already."""
        if self.session:
            await self._door.stop(self.session)

    async def poll(self) -> int | None:
        """None while the session runs, else 0.

        A node agent that does not answer proves nothing, so the session counts as running until it answers;
        the agent itself stops every session that it may no longer run.
        """
        if not self.session:
            return 0
        try:
            found = await self._door.workspace(self.session)
        except UnavailableError as error:
            self.log.warning("%s: %s", self._log_name, error)
            return None
        return None if found is not None else 0

    # -- progress ----------------------------------------------------------------------------------
    async def progress(self) -> AsyncIterator[dict[str, Any]]:
        """The steps of the start that is under way, as they happen; every reader gets all of them."""
        at = 0
        while True:
            while at < len(self._events):
                yield dict(self._events[at])
                at += 1
            if self._over:
                return
            await self._more.wait()

    def _tell(self, event: dict[str, Any]) -> None:
        self._events.append(event)
        self._wake()

    def _wake(self) -> None:
        waiting, self._more = self._more, asyncio.Event()
        waiting.set()


def _failure_event(error: BulleError) -> dict[str, str | None]:
    return {"code": error.code, "message": error.message, "hint": error.hint}
