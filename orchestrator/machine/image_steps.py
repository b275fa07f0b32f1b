"""Long steps of building an image: each says that it runs, for how long, and what went wrong."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import BuildError

Progress = Callable[[str], None]
"""Takes one line meant for a person."""

_BEAT_SECONDS = 15.0
_SHOWN_LINES = 12


@dataclass(frozen=True)
class Steps:
    """Runs commands with a progress line each; their output goes to ``log``."""

    progress: Progress
    log: Path

    @contextlib.contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Say that ``text`` is under way, again every 15 s, and how long it took."""
        began = time.monotonic()
        over = threading.Event()

        def beat() -> None:
            while not over.wait(_BEAT_SECONDS):
                self.progress(f"{text} … {time.monotonic() - began:.0f} s")

        self.progress(f"{text} …")
        ticker = threading.Thread(target=beat, daemon=True)
        ticker.start()
        try:
            yield
        finally:
            over.set()
            ticker.join()
        self.progress(f"{text}: done in {time.monotonic() - began:.1f} s")

    def run(
        self,
        text: str,
        argv: Sequence[str | Path],
        *,
        hint: str,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        pipe_to: Sequence[str] | None = None,
    ) -> None:
        """Run ``argv`` (and, with ``pipe_to``, a second command on its output) to its end.

        Raises:
            BuildError: a command is missing or fails; the message ends with the last lines of its output.
        """
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.step(text), self.log.open("ab") as log:
            log.write(f"\n== {text}\n".encode())
            log.flush()
            position = log.tell()
            try:
                failed = _pipeline(argv, pipe_to, log.fileno(), {**os.environ, **(env or {})}, cwd)
            except FileNotFoundError as error:
                raise BuildError(f"{text}: the command '{error.filename}' is missing", hint=hint) from error
            if failed:
                tail = self._tail(position)
                raise BuildError(
                    f"{text}: '{failed[0]}' ended with status {failed[1]}; the end of {self.log}:\n{tail}\n",
                    hint=hint,
                )

    def _tail(self, position: int) -> str:
        with self.log.open("rb") as log:
            log.seek(position)
            lines = log.read().decode(errors="replace").splitlines()
        return "\n".join(f"  | {line[:300]}" for line in lines[-_SHOWN_LINES:])


def _pipeline(
    first: Sequence[str | Path],
    second: Sequence[str] | None,
    log: int,
    env: Mapping[str, str],
    cwd: Path | None,
) -> tuple[str, int] | None:
    """Run one or two commands; the name and status of the one that failed, if any."""
    if second is None:
        done = subprocess.run(
            list(first), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, cwd=cwd, check=False
        )
        return (str(first[0]), done.returncode) if done.returncode else None
    with subprocess.Popen(list(first), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, env=env) as source:
        sink = subprocess.run(list(second), stdin=source.stdout, stdout=log, stderr=log, env=env, check=False)
        if source.stdout is not None:
            source.stdout.close()
        status = source.wait()
    if status:
        return str(first[0]), status
    return (second[0], sink.returncode) if sink.returncode else None
