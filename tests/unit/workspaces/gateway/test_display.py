"""How the display is started."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from orchestrator.workspaces.gateway import display


def option(words: list[str], name: str) -> str:
    return words[words.index(name) + 1]


#: extensions by which a client reads or types into another, or that parse what nothing here needs
OFF = {"MIT-SHM", "GLX", "XTEST", "RECORD", "DOUBLE-BUFFER", "X-Resource", "XVideo"}


def test_there_is_one_way_in_and_no_way_to_change_it() -> None:
    words = display.arguments(paste_in=False)
    assert option(words, "-rfbport") == "-1"
    assert option(words, "-rfbunixpath") == "/run/bulle/rfb/rfb.sock"
    assert option(words, "-auth") == "/run/bulle/display/Xauthority"
    assert {words[i + 1] for i, word in enumerate(words) if word == "-nolisten"} == {"tcp", "local"}
    assert {words[i + 1] for i, word in enumerate(words) if word == "-extension"} == OFF
    assert "-AllowOverride=" in words
    assert {"-SendCutText=0", "-SendPrimary=0", "-AcceptCutText=0", "-SetPrimary=0"} <= set(words)


def test_pasting_in_changes_one_word() -> None:
    without, allowed = (display.arguments(paste_in=paste_in) for paste_in in (False, True))
    assert [(a, b) for a, b in zip(without, allowed, strict=True) if a != b] == [
        ("-AcceptCutText=0", "-AcceptCutText=1")
    ]


@pytest.mark.parametrize("word", ["--paste-in extra", "-SendCutText=1", "--paste-in -SendCutText=1"])
def test_the_script_takes_no_other_argument(tmp_path: Path, word: str) -> None:
    cookie = tmp_path / "Xauthority"
    cookie.write_bytes(b"x")
    script = tmp_path / "display"
    script.write_text(display.script().replace(display.XAUTHORITY, str(cookie)))
    shell = shutil.which("sh")
    assert shell
    assert subprocess.run([shell, script, *word.split()], capture_output=True, check=False).returncode == 64
    cookie.unlink()
    assert subprocess.run([shell, script], capture_output=True, check=False).returncode == 78


def test_the_cookie_file_is_what_libxau_reads(tmp_path: Path) -> None:
    path = tmp_path / "Xauthority"
    display.write_xauthority(path, bytes(range(16)))
    fields = b"\xff\xff" + b"\0\0" + b"\0\x011" + b"\0\x12MIT-MAGIC-COOKIE-1" + b"\0\x10" + bytes(range(16))
    assert path.read_bytes() == fields
    assert path.stat().st_mode & 0o777 == 0o400
    assert [entry.name for entry in tmp_path.iterdir()] == ["Xauthority"]


def test_a_cookie_of_another_length_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        display.write_xauthority(tmp_path / "Xauthority", b"short")
    assert list(tmp_path.iterdir()) == []
