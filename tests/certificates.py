"""Certificates for tests, generated on demand."""

from datetime import UTC, datetime, timedelta
from functools import cache
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.hazmat.primitives.serialization.pkcs12 import serialize_key_and_certificates
from cryptography.x509.oid import NameOID


class KeyPair(NamedTuple):
    """A key and its self-signed certificate."""

    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def certificate_pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def public_pem(self) -> bytes:
        return self.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def key_pem(self, password: str | None = None) -> bytes:
        protection = BestAvailableEncryption(password.encode()) if password else NoEncryption()
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection)

    def pem(self, password: str | None = None) -> bytes:
        """Return key and certificate in one PEM text."""
        return self.key_pem(password) + self.certificate_pem

    def pfx(self, password: str | None = None) -> bytes:
        protection = BestAvailableEncryption(password.encode()) if password else NoEncryption()
        return serialize_key_and_certificates(b"connector", self.key, self.certificate, None, protection)


@cache
def key_pair(name: str, *, curve: bool = False, expired: bool = False) -> KeyPair:
    """Return a key pair. It is cached per name and options, because generating keys takes long."""
    key = ec.generate_private_key(ec.SECP256R1()) if curve else rsa.generate_private_key(65537, 2048)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    begins = datetime.now(UTC) - timedelta(days=30)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(begins + timedelta(days=29 if expired else 365))
        .sign(key, hashes.SHA256())
    )
    return KeyPair(key, certificate)
