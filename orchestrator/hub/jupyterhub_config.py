"""Entry of JupyterHub's configuration; see :mod:`orchestrator.hub.configuration`."""

import logging
import os
from pathlib import Path

from orchestrator import logs
from orchestrator.config import load_settings
from orchestrator.hub.configuration import configure

configure(get_config(), load_settings(Path(os.environ.get("BULLE_SETTINGS", "/etc/bulle/bulle.yaml"))))  # type: ignore[name-defined]
logs.catch(logging.getLogger("JupyterHub"))
