"""Runs the body of a test in a forked process with mounts of its own: nothing that it mounts is ever seen outside."""

from __future__ import annotations

import ctypes
import os
import subprocess
import traceback
from collections.abc import Callable

_CLONE_NEWNS = 0x20000


def forked(body: Callable[[], None]) -> None:
    """Run ``body`` in a process of its own.

    Raises:
        AssertionError: a check of ``body`` failed there.
        RuntimeError: it failed in any other way.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        said = ""
        try:
            os.close(reading)
            body()
        except AssertionError:
            said = "A" + traceback.format_exc()
        except BaseException:  # noqa: BLE001 - told to the parent
            said = "X" + traceback.format_exc()
        finally:
            with os.fdopen(writing, "w") as pipe:
                pipe.write(said)
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    if said:
        raise (AssertionError if said.startswith("A") else RuntimeError)(said[1:])


def apart(body: Callable[[], None]) -> None:
    """Run ``body`` in a process with a mount namespace of its own, all of it private; raises like :func:`forked`."""

    def alone() -> None:
        if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNS) < 0:
            raise RuntimeError(f"these tests need root with CAP_SYS_ADMIN: {os.strerror(ctypes.get_errno())}")
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        body()

    forked(alone)
