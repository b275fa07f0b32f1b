"""The isolation probe as the first program of a pod's sandbox: what it leaves, and what comes after it.

Its attempts are not made here, where some would succeed: what they found is given.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.workspaces import probe
from orchestrator.workspaces.isolation import evaluate

TARGETS = dict(probe.EMPTY_TARGETS)
PROGRAM = "echo out; echo err >&2; is=$(readlink /proc/$$/fd/0 /proc/$$/fd/1 /proc/$$/fd/2); echo $$ $is >{place}"
RUN = """
import json, os, sys
from orchestrator.workspaces import probe
result, *arguments = sys.argv[1:]
probe.run = lambda targets, locked: [
    {"attempt": one, "target": two, "result": result, "detail": "x"} for one, two in probe.plan(targets, locked)
]
sys.stderr.write(f"{os.getpid()}\\n"); sys.stderr.flush()
probe.main(arguments)
"""


def first(folder: Path, result: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", RUN, result, "--locked", "--first", str(folder / "report"), json.dumps(TARGETS)]
    program = ["/bin/sh", "-c", PROGRAM.format(place=folder / "ran")]
    return subprocess.run([*words, *program], capture_output=True, text=True, check=False, timeout=30)


def test_where_nothing_is_open_it_leaves_its_report_and_becomes_the_program(tmp_path: Path) -> None:
    done = first(tmp_path, "blocked")
    number, said = done.stderr.splitlines()
    report = json.loads((tmp_path / "report").read_text())
    assert evaluate(report, TARGETS, locked=True) == []
    assert said == f"isolation-probe: 0 of {len(report)} attempts are open" and done.returncode == 0
    assert done.stdout == "", "what the program prints goes nowhere"
    assert (tmp_path / "ran").read_text().split() == [number, *["/dev/null"] * 3], "the same process"
    assert stat.S_IMODE((tmp_path / "report").stat().st_mode) == 0o400
    assert sorted(each.name for each in tmp_path.iterdir()) == ["ran", "report"]


def test_where_something_is_open_the_program_never_runs(tmp_path: Path) -> None:
    done = first(tmp_path, "OPEN")
    report = json.loads((tmp_path / "report").read_text())
    assert done.returncode == 1 and not (tmp_path / "ran").exists()
    assert len(evaluate(report, TARGETS, locked=True)) == len(report)
    assert done.stderr.splitlines()[-1] == f"isolation-probe: {len(report)} of {len(report)} attempts are open"
    assert "locked-port bridge: x" in done.stderr


def test_where_it_cannot_leave_its_report_the_program_never_runs(tmp_path: Path) -> None:
    (tmp_path / "report.new").write_text("somebody else's")
    assert first(tmp_path, "blocked").returncode != 0
    assert not (tmp_path / "ran").exists() and not (tmp_path / "report").exists()


@pytest.mark.parametrize("arguments", [["--first"], ["--first", "report", "{}"], ["--judge", "{}"], ["x"]])
def test_any_other_use_is_none(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="usage"):
        probe.main(arguments)


# -- devices that a deployment gives ------------------------------------------------------------------------
def test_devices_that_are_given_are_in_the_attempt_s_name() -> None:
    given = {**TARGETS, "devices": ["/dev/nvidia*"]}
    assert ("devices", "all besides /dev/nvidia*") in probe.plan(given, True)
    looser = [
        {"attempt": one, "target": two, "result": "blocked", "detail": ""}
        for one, two in probe.plan({**TARGETS, "devices": ["/dev/*"]}, True)
    ]
    assert len(evaluate(looser, given, locked=True)) == 2, "one is missing, one is not in the plan"


def test_only_what_is_given_may_be_there_and_never_a_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {"null": stat.S_IFCHR, "nvidia0": stat.S_IFCHR, "nvidiactl": stat.S_IFCHR}
    monkeypatch.setattr(os, "walk", lambda place: [("/dev", [], list(kinds))])
    monkeypatch.setattr(os, "lstat", lambda path: os.stat_result([kinds[path.removeprefix("/dev/")] | 0o666, *[0] * 9]))
    with pytest.raises(probe.Open, match="/dev/nvidia0, /dev/nvidiactl"):
        probe.devices("all")
    assert probe.devices("all besides /dev/nvidia* /dev/dri/*")
    with pytest.raises(probe.Open, match="nvidiactl"):
        probe.devices("all besides /dev/nvidia0")
    kinds["nvidia-disk"] = stat.S_IFBLK
    with pytest.raises(probe.Open, match="nvidia-disk"):
        probe.devices("all besides /dev/nvidia*")
