"""Makes ``csi_pb2*.py``, ``kubelet_pb2*.py`` and their type stubs: ``python -m orchestrator.node.protocol``.

They are checked in, so that running Bulle needs no compiler; ``tests/unit/node/test_protocol.py`` makes them
again and compares. Needs the ``test`` extra (grpcio-tools, mypy-protobuf).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROTOS = ("orchestrator/node/csi.proto", "orchestrator/node/kubelet.proto")


def generate(root: Path, out: Path) -> None:
    """Write the four Python files of each protocol in ``root`` below ``out``."""
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{root}"]
    command += [f"--{kind}_out={out}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
    # The plugins for type stubs are programs beside this Python.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    subprocess.run([*command, *PROTOS], check=True, env={**os.environ, "PATH": path}, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    generate(ROOT, ROOT)
