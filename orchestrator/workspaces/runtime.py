"""What runs containers: the short list of what a runtime must do for the node agent.

Implemented by :class:`orchestrator.workspaces.docker.DockerRuntime`; tests make holes in it on purpose.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from orchestrator.workspaces.spec import ContainerSpec


@dataclass(frozen=True)
class Executed:
    """How a command in a container ended."""

    status: int
    output: bytes
    errors: bytes


@dataclass(frozen=True)
class Found:
    """A container of a deployment's workspaces."""

    id: str
    session: str
    part: str
    running: bool


@dataclass(frozen=True)
class Used:
    """What a container used: processor seconds since it started, and bytes of memory now (no reclaimable cache)."""

    cpu_seconds: float
    memory_bytes: float


class Runtime(ABC):
    """Creates, starts, looks into and removes the containers of workspaces.

    Every method raises :class:`orchestrator.errors.NodeError` when the engine does not do it, except where
    said.
    """

    @abstractmethod
    def create(self, spec: ContainerSpec) -> str:
        """Create a container, not running; its id."""

    @abstractmethod
    def start(self, container: str) -> None:
        """Start a created container."""

    @abstractmethod
    def execute(
        self, container: str, command: tuple[str, ...], uid: int, stdin: bytes, *, timeout: float, most: int
    ) -> Executed:
        """Run ``command`` in a running container as ``uid``, with its settings; at most ``most`` bytes of
        output."""

    @abstractmethod
    def list(self, session: str | None = None) -> list[Found]:
        """The deployment's workspace containers, running or not; of one session, or all."""

    @abstractmethod
    def address(self, container: str, network: str) -> str:
        """IP address of a running container on ``network``."""

    @abstractmethod
    def used(self, container: str) -> Used:
        """What a running container used."""

    @abstractmethod
    def remove(self, container: str, *, grace: int = 0) -> None:
        """Stop (after ``grace`` seconds by force) and remove a container; one that is not there is no
        error."""
