"""Key custodians and the ring of wrapped keys."""

from orchestrator.keys.custodian import KeyCustodian, open_custodian
from orchestrator.keys.file import FileCustodian
from orchestrator.keys.pkcs11 import Pkcs11Custodian
from orchestrator.keys.ring import KeyRing

__all__ = ["FileCustodian", "KeyCustodian", "KeyRing", "Pkcs11Custodian", "open_custodian"]
