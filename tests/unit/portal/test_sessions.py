"""Sessions and logins of the portal."""

from __future__ import annotations

from orchestrator.portal.sessions import LOGIN_SECONDS, LOGINS, SESSION_SECONDS, Sessions


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_session_ends_after_its_time() -> None:
    clock = Clock()
    sessions = Sessions(clock)
    session = sessions.open("ada", "token")
    assert sessions.find(session.id) is session
    clock.now = SESSION_SECONDS + 1
    assert sessions.find(session.id) is None


def test_a_login_is_finished_once_in_its_own_browser_and_in_time() -> None:
    clock = Clock()
    sessions = Sessions(clock)
    one = sessions.begin_login("/x", "verifier")
    assert sessions.finish_login(one.state, "another") is None
    assert sessions.finish_login(one.state, one.state) is None, "a failed try uses it up"
    two = sessions.begin_login("/x", "verifier")
    assert sessions.finish_login(two.state, two.state) is two
    assert sessions.finish_login(two.state, two.state) is None
    three = sessions.begin_login("/x", "verifier")
    clock.now += LOGIN_SECONDS + 1
    assert sessions.finish_login(three.state, three.state) is None


def test_strangers_cannot_fill_the_memory() -> None:
    sessions = Sessions()
    first = sessions.begin_login("/x", "v")
    for _ in range(LOGINS):
        sessions.begin_login("/x", "v")
    assert sessions.finish_login(first.state, first.state) is None


def test_tokens_are_each_ones_own() -> None:
    sessions = Sessions()
    one, two = sessions.open("ada", "t"), sessions.open("ada", "t")
    assert one.id != two.id and one.form_token != two.form_token
    assert sessions.form_fits(one, one.form_token)
    assert not sessions.form_fits(one, two.form_token)
    assert not sessions.form_fits(one, None)
