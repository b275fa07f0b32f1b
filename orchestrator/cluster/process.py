"""What the parts of a cluster are as processes. Not the node agent's words, which bring an engine and Parquet along."""

from __future__ import annotations

import ctypes
import os
import resource
from datetime import UTC, datetime

_PR_SET_DUMPABLE = 4


def harden() -> None:
    """No core dump of this process, and no other of the same user that reads its memory: it holds grants, and a token
    of the cluster."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    os.umask(0o022)


def now() -> datetime:
    """The time by this machine's clock."""
    return datetime.now(UTC)
