"""Entry of JupyterHub's configuration; see :mod:`orchestrator.hub.configuration`."""

import logging
import os
from pathlib import Path

from orchestrator import logs
from orchestrator.config import load_settings, resolved_in_time
from orchestrator.hub.application import BulleHub
from orchestrator.hub.configuration import configure

settings = resolved_in_time(load_settings(Path(os.environ.get("BULLE_SETTINGS", "/etc/bulle/bulle.yaml"))))
configure(get_config(), settings)  # type: ignore[name-defined]
# the program names its log after its class
logs.catch(logging.getLogger(BulleHub.__name__))
