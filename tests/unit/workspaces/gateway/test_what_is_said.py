"""What the desktop page says when the picture stops is true: never that a session goes on which may have ended."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from orchestrator.workspaces.gateway import pages, relay

PAGE = Path(pages.__file__).parent / "page"
NODE = shutil.which("node")
LANGUAGES = ("en", "fr")


def run(folder: Path, script: str, language: str = "en") -> Any:
    """What the page's own modules answer; ``script`` prints JSON."""
    assert NODE, "these tests run the page's script: install Node.js"
    for name in ("over.js", "words.js"):
        shutil.copy(PAGE / name, folder / name)
    (folder / "package.json").write_text('{"type": "module"}')
    document = f'globalThis.document = {{ documentElement: {{ lang: "{language}" }} }};'
    (folder / "run.js").write_text(
        f"{document}\nconst over = await import('./over.js');\nconst {{ words }} = await import('./words.js');\n"
        f"console.log(JSON.stringify({script}));\n"
    )
    done = subprocess.run([NODE, str(folder / "run.js")], capture_output=True, text=True, check=True, timeout=60)
    return json.loads(done.stdout)


def says(folder: Path, *found: str) -> str:
    answer = run(folder, f"over.signedOutSays({json.dumps(found)})")
    assert isinstance(answer, str)
    return answer


def test_every_code_of_the_bridge_has_its_meaning(tmp_path: Path) -> None:
    meant = {
        relay.SIGNED_OUT: "signed-out",
        relay.REMOVED: "removed",
        relay.REPLACED: "replaced",
        relay.ENDED: "ended",
        relay.UNCHECKED: "unchecked",
        relay.DISPLAY_GONE: "lost",
        relay.REFUSED: "lost",
        1006: "lost",
    }
    assert run(tmp_path, f"{json.dumps(list(meant))}.map(over.closedWith)") == list(meant.values())
    script = (PAGE / "desktop.js").read_text(encoding="utf-8")
    handled = re.search(r"const after = \{(.*)\};", script)
    assert handled is not None
    assert {name.split(":")[0].strip().strip('"') for name in handled[1].split(",")} == set(meant.values())


def test_who_is_signed_out_is_not_told_that_the_session_goes_on(tmp_path: Path) -> None:
    """Whoever was removed is signed out a moment before the session ends."""
    assert says(tmp_path) == "unknown"
    assert says(tmp_path, "signed-out") == "unknown"
    assert says(tmp_path, "signed-out", "silent", "silent") == "unknown"


def test_a_session_that_ended_meanwhile_is_told(tmp_path: Path) -> None:
    assert says(tmp_path, "signed-out", "ended") == "ended"
    assert says(tmp_path, "ended") == "ended"


def test_one_that_is_seen_for_a_while_is_told_too(tmp_path: Path) -> None:
    assert says(tmp_path, *["signed-out"] * 4) == "runs"


@pytest.mark.parametrize(
    ("answer", "meant"),
    [
        ({"status": 200, "type": "basic", "running": True}, "running"),
        ({"status": 200, "type": "basic", "running": False}, "ended"),
        ({"status": 0, "type": "opaqueredirect"}, "ended"),
        ({"status": 404, "type": "basic"}, "ended"),
        ({"status": 424, "type": "basic"}, "ended"),
        ({"status": 401, "type": "basic"}, "signed-out"),
        ({"status": 403, "type": "basic"}, "signed-out"),
        ({"status": 503, "type": "basic"}, "silent"),
        ({"status": 0, "type": "error"}, "silent"),
    ],
)
def test_what_the_sessions_address_tells(tmp_path: Path, answer: dict[str, object], meant: str) -> None:
    assert run(tmp_path, f"over.told({json.dumps(answer)})") == meant


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_first_words_promise_nothing(tmp_path: Path, language: str) -> None:
    """By what they would have to say: a session that goes on, or is still there."""
    promise = re.compile(r"goes on|continue|is still there\.|existe encore\.")
    told = run(tmp_path, "words", language)
    assert promise.search(told["signedOutRuns"])
    for name in ("signedOut", "signedOutHint", "removed", "removedHint", "ended", "endedHint"):
        # What only asks whether it is there promises nothing.
        said = re.sub(r"whether your session is still there\.|si votre session existe encore\.", "", told[name])
        assert not promise.search(said), (name, said)


def test_both_languages_say_everything(tmp_path: Path) -> None:
    english, french = (run(tmp_path, "Object.keys(words)", language) for language in LANGUAGES)
    assert english == french
    said = (PAGE / "words.js").read_text(encoding="utf-8")
    used = set(re.findall(r"\bwords\.(\w+)", (PAGE / "desktop.js").read_text(encoding="utf-8"))) - {"js"}
    assert {name for name in used if f"        {name}: " in said} == used
    assert set(english) <= used


def test_negative_control_a_page_that_promises_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lax = tmp_path / "page"
    lax.mkdir()
    for name in ("over.js", "words.js", "desktop.js"):
        shutil.copy(PAGE / name, lax / name)
    words = (lax / "words.js").read_text(encoding="utf-8")
    hint = "Sign in to see whether your session is still there."
    assert hint in words
    (lax / "words.js").write_text(words.replace(hint, "Your session goes on for now. Sign in to come back to it."))
    (lax / "over.js").write_text((lax / "over.js").read_text().replace(">= 4", ">= 1"))
    monkeypatch.setitem(globals(), "PAGE", lax)
    with pytest.raises(AssertionError):
        test_the_first_words_promise_nothing(tmp_path, "en")
    with pytest.raises(AssertionError):
        test_who_is_signed_out_is_not_told_that_the_session_goes_on(tmp_path)
