"""What is measured of writing the audit log: in the authority, which alone writes it while a deployment runs."""

from orchestrator.metrics.measures import Timing

WRITES = Timing(
    "authority", "audit_write_seconds", "Time to write a record of the audit log durably.", outcome=("done", "failed")
)
