"""The tamper-evident log."""

from orchestrator.audit.chain import Head, Record, Report
from orchestrator.audit.log import AuditLog, Filters

__all__ = ["AuditLog", "Filters", "Head", "Record", "Report"]
