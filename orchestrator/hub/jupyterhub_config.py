"""Entry of JupyterHub's configuration; see :mod:`orchestrator.hub.configuration`."""

import logging

from orchestrator import logs
from orchestrator.config import resolved_in_time
from orchestrator.hub.application import BulleHub
from orchestrator.hub.configuration import configure
from orchestrator.process import own_settings

settings = resolved_in_time(own_settings())
configure(get_config(), settings)  # type: ignore[name-defined]
# the program names its log after its class
logs.catch(logging.getLogger(BulleHub.__name__))
