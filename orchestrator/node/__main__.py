"""``python -m orchestrator.node``: the agent, with the settings file that ``BULLE_SETTINGS`` names.

With ``kubernetes`` in the settings it is the one of a cluster's node.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from orchestrator.config import load_settings
from orchestrator.errors import BulleError
from orchestrator.node.agent import serve
from orchestrator.node.cluster import serve_cluster


def main() -> int:
    """Serve until a signal; 1 with one line of what was wrong, when the agent cannot begin."""
    try:
        settings = load_settings(Path(os.environ.get("BULLE_SETTINGS", "/etc/bulle/bulle.yaml")))
        if settings.kubernetes is None:
            serve(settings)
        else:
            serve_cluster(settings)
    except BulleError as error:
        print(f"node agent: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
