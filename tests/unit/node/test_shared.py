from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.node.shared import Shared


@given(st.lists(st.sampled_from("abc"), max_size=30))
def test_a_thing_lives_from_its_first_to_its_last_user(keys: list[str]) -> None:
    shared: Shared[str] = Shared()
    alive: set[str] = set()

    def make(key: str) -> str:
        assert key not in alive
        alive.add(key)
        return key

    for key in keys:
        assert shared.acquire(key, lambda key=key: make(key)) == key
    assert alive == set(keys) == set(shared.keys())
    for done, key in enumerate(keys):
        shared.release(key, alive.remove)
        assert alive == set(keys[done + 1 :])
    assert not shared.keys()


def test_a_failed_making_leaves_nobody_holding_anything() -> None:
    shared: Shared[str] = Shared()

    def fail() -> str:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        shared.acquire("k", fail)
    assert shared.keys() == []
    assert shared.acquire("k", lambda: "made") == "made"


def test_releasing_what_nobody_holds_does_nothing() -> None:
    Shared[str]().release("k", lambda thing: pytest.fail("nothing to destroy"))


def test_those_who_come_together_share_one_and_it_is_made_once() -> None:
    shared: Shared[object] = Shared()
    made: list[object] = []
    go = threading.Barrier(8)
    got: list[object] = []

    def make() -> object:
        made.append(object())
        return made[-1]

    def use() -> None:
        go.wait()
        got.append(shared.acquire("k", make))

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1 and got == made * 8
    gone: list[object] = []
    for _ in range(8):
        shared.release("k", gone.append)
    assert gone == made
