"""``python -m orchestrator.cli``: the command line, where its script is not installed."""

from orchestrator.cli import main

main()
