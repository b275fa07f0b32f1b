"""``make bench``: every measurement, written to ``benchmarks/results.json``."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks import cluster, data, governance, portal, workspace
from orchestrator.machine import images as machine_images

RESULTS = Path(__file__).parent / "results.json"


def main() -> None:
    """Measure all and write the results; a figure is always beside its peer."""
    images = machine_images.build_images(None, progress=print)
    results = {
        **workspace.measure(images, print),
        **data.measure(),
        **governance.measure(print),
        **portal.measure(print),
        **cluster.measure(print),
    }
    RESULTS.write_text(json.dumps(results, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for name, found in sorted(results.items()):
        pair = f"{found['ours']:>9} {found['unit']:<3} peer {found['peer']:>9} x{found['ratio']}"
        print(f"{name:34} {pair} ({found['peer_name']})")


if __name__ == "__main__":
    main()
