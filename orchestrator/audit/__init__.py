"""The tamper-evident log."""

from orchestrator.audit.chain import Head, Record, Report
from orchestrator.audit.index import AuditIndex
from orchestrator.audit.log import AuditLog, Filters
from orchestrator.audit.opening import load_public_key, open_for_verification

__all__ = ["AuditIndex", "AuditLog", "Filters", "Head", "Record", "Report", "load_public_key", "open_for_verification"]
