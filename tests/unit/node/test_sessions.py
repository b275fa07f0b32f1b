"""One workspace a person and project, also of many starts at the same moment."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from orchestrator.errors import ConflictError
from orchestrator.node.session_table import State
from orchestrator.node.sessions import Sessions
from tests.unit.workspaces.test_spec import IMAGES, SETTINGS, a_grant


def the_sessions() -> Sessions:
    unused: Any = None
    return Sessions(
        SETTINGS,
        images=lambda: IMAGES,
        runtime=unused,
        volumes=unused,
        desk=unused,
        journal=unused,
        seccomp=None,
    )


def only_one_enters(sessions: Sessions) -> None:
    go = threading.Barrier(8)
    refused: list[ConflictError] = []

    def enter(number: int) -> None:
        go.wait()
        try:
            sessions._enter(a_grant(f"{number}" * 32), threading.Event())
        except ConflictError as error:
            refused.append(error)

    threads = [threading.Thread(target=enter, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(refused), len(sessions.every())) == (7, 1)
    (there,) = sessions._sessions.values()
    there.state = State.STOPPING  # on its way down it is still there
    with pytest.raises(ConflictError, match="stopping already"):
        sessions._enter(a_grant("f" * 32), threading.Event())
    sessions._enter(a_grant("a" * 32).model_copy(update={"person": "bob"}), threading.Event())
    sessions._enter(a_grant("b" * 32).model_copy(update={"project_id": "2" * 32}), threading.Event())
    with pytest.raises(ConflictError, match="exists"):
        sessions._enter(a_grant("a" * 32).model_copy(update={"person": "eve"}), threading.Event())


def test_of_many_starts_of_one_workspace_one_enters() -> None:
    only_one_enters(the_sessions())


class Unlooked(dict[str, Any]):
    """Sessions of which none is looked at by a start."""

    def values(self) -> Any:
        return ()


def test_negative_control_without_looking_at_the_others_all_of_them_enter() -> None:
    sessions = the_sessions()
    sessions._sessions = Unlooked()
    with pytest.raises(AssertionError, match=r"\(0, 0\) == \(7, 1\)"):
        only_one_enters(sessions)
    assert len(sessions._sessions) == 8
