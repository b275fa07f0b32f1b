"""``python -m orchestrator.metrics``: the part that serves everybody's metrics."""

from orchestrator.metrics.gather import main

if __name__ == "__main__":
    main()
