"""A certificate authority of the tests, which lays out what it signs as Kubernetes shows a Secret."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


class Signer:
    """A certificate authority."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "signer")])
        self.certificate = self._built(self.name, self.key, [], timedelta(days=1), authority=True)

    def _built(
        self, name: x509.Name, key: ec.EllipticCurvePrivateKey, names: list[str], lasts: timedelta, *, authority: bool
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        building = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=2))
            .not_valid_after(now + lasts)
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )
        if names:
            # Helm's own function gives both uses to every certificate, so nothing may hang on them.
            uses = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
            alternatives = [
                x509.IPAddress(ip_address(each)) if each[0].isdigit() else x509.DNSName(each) for each in names
            ]
            building = building.add_extension(x509.ExtendedKeyUsage(uses), critical=False)
            building = building.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        return building.sign(self.key, hashes.SHA256())

    def write(self, folder: Path, *names: str, lasts: timedelta = timedelta(hours=1), common: str = "x") -> Path:
        """Fill ``folder`` as Kubernetes shows a Secret: files that are links into a folder that is exchanged."""
        folder.mkdir(exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
        certificate = self._built(subject, key, list(names), lasts, authority=False)
        fresh = folder / f"..{time.monotonic_ns()}"
        fresh.mkdir()
        (fresh / "ca.crt").write_bytes(self.certificate.public_bytes(Encoding.PEM))
        (fresh / "tls.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
        (fresh / "tls.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        (fresh / "tls.key").chmod(0o440)
        (folder / "..new").symlink_to(fresh.name)
        (folder / "..new").rename(folder / "..data")
        for name in ("ca.crt", "tls.crt", "tls.key"):
            if not (folder / name).is_symlink():
                (folder / name).symlink_to(f"..data/{name}")
        return folder
