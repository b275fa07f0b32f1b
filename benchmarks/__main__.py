"""``make bench``: every measurement, written to ``benchmarks/results.json``; ``python -m benchmarks NAME…``: some."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks import cluster, data, governance, portal, workspace
from benchmarks.workspace import Result
from orchestrator.machine import images as machine_images

RESULTS = Path(__file__).parent / "results.json"


def main(names: list[str]) -> None:
    """Measure all, or what is named, and write the results; a figure is always beside its peer, of the same run."""
    parts: dict[str, Callable[[], dict[str, Result]]] = {
        "workspace": lambda: workspace.measure(images, print),
        "data": data.measure,
        "governance": lambda: governance.measure(print),
        "portal": lambda: portal.measure(print),
        "cluster": lambda: cluster.measure(print),
    }
    if unknown := set(names) - set(parts):
        sys.exit(f"there is {', '.join(parts)}, and no {', '.join(sorted(unknown))}")
    images = machine_images.build_images(None, progress=print)
    results: dict[str, Result] = json.loads(RESULTS.read_text(encoding="utf-8")) if names else {}
    for name in names or parts:
        results |= parts[name]()
    RESULTS.write_text(json.dumps(results, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for name, found in sorted(results.items()):
        pair = f"{found['ours']:>9} {found['unit']:<3} peer {found['peer']:>9} x{found['ratio']}"
        print(f"{name:34} {pair} ({found['peer_name']})")


if __name__ == "__main__":
    main(sys.argv[1:])
