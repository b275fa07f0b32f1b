"""What every page shares, of the hub and of the portal: the look, the frame, the languages."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

#: holds ``static/``, ``templates/`` and ``locale/``
FOLDER = Path(__file__).parent


@cache
def version() -> str:
    """A short hash of the static files: in their addresses it lets browsers keep them, and see new ones."""
    digest = hashlib.sha256()
    for path in sorted((FOLDER / "static").iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]
