"""Figures of how the deployment does, for Prometheus. Each part keeps its own; one part of its own serves them all."""
