"""``python -m orchestrator.node``: the agent, with the settings file that ``BULLE_SETTINGS`` names.

With ``kubernetes`` in the settings it is the one of a cluster's node.
"""

from __future__ import annotations

import sys

from orchestrator.node.agent import serve
from orchestrator.node.cluster import serve_cluster
from orchestrator.process import own_settings, run_part


def _serve() -> None:
    settings = own_settings()
    if settings.kubernetes is None:
        serve(settings)
    else:
        serve_cluster(settings)


def main() -> int:
    """Serve until a signal; 1 with one line of what was wrong, when the agent cannot begin."""
    return run_part("node agent", _serve)


if __name__ == "__main__":
    sys.exit(main())
