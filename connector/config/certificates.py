"""Client certificate of an application, read together with its private key from PEM or PFX. There may be a password."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

_KEY = re.compile(rb"-----BEGIN ([A-Z0-9 ]*)PRIVATE KEY-----.*?-----END \1PRIVATE KEY-----", re.DOTALL)
_WRITE = "write PEM with an RSA key and its certificate, or PFX"


class Certificate(NamedTuple):
    """Private key and certificates as PEM. The first certificate is the one that belongs to the key."""

    private_key: str
    certificates: str


class NoCertificateError(ValueError):
    """Failure to find a usable certificate in a configured value.

    The caller puts the name of the configuration key in front of the message.
    """


def read(content: bytes, password: str | None) -> Certificate:
    """Return the key and the certificates in `content`, which must be PEM or PFX.

    `password` is ignored if it is not needed. Raises NoCertificateError if the content cannot be decrypted or parsed,
    or does not hold an RSA key with its certificate.
    """
    # Most configurations have no certificate, and the library takes long to load.
    from cryptography.hazmat.primitives.asymmetric import rsa  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
    )

    is_pem = b"-----BEGIN" in content
    key, certificates = _from_pem(content, password) if is_pem else _from_pfx(content, password)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise NoCertificateError(
            "holds a key that is not an RSA key, but Microsoft Entra accepts only RSA; create an RSA key"
        )
    wanted = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    own = [
        certificate
        for certificate in certificates
        if certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == wanted
    ]
    if not own:
        raise NoCertificateError(f"holds no certificate for its private key; {_WRITE}")
    chain = [own[0], *(certificate for certificate in certificates if certificate is not own[0])]
    return Certificate(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
        b"".join(certificate.public_bytes(Encoding.PEM) for certificate in chain).decode(),
    )


def _from_pem(content: bytes, password: str | None) -> tuple[PrivateKeyTypes, Sequence[x509.Certificate]]:
    from cryptography import x509  # noqa: PLC0415 - see read
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

    found = _KEY.search(content)
    if found is None:
        raise NoCertificateError(f"holds no private key; {_WRITE}")
    is_encrypted = b"ENCRYPTED" in found[0]
    if is_encrypted and not password:
        raise NoCertificateError("is encrypted; set client_certificate_password")
    try:
        key = load_pem_private_key(found[0], password.encode() if is_encrypted and password else None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        todo = "check client_certificate_password" if is_encrypted else _WRITE
        raise NoCertificateError(f"holds a private key that cannot be read; {todo}") from None
    try:
        return key, x509.load_pem_x509_certificates(content)
    except ValueError:
        raise NoCertificateError(f"holds no certificate; {_WRITE}") from None


def _from_pfx(content: bytes, password: str | None) -> tuple[PrivateKeyTypes, Sequence[x509.Certificate]]:
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - see read
    from cryptography.hazmat.primitives.serialization.pkcs12 import load_pkcs12  # noqa: PLC0415

    if not content.startswith(b"\x30"):  # the first byte of every PFX: an ASN.1 sequence
        raise NoCertificateError(f"is neither PEM nor PFX; {_WRITE}")
    for attempt in dict.fromkeys((password.encode() if password else None, None)):
        try:
            bundle = load_pkcs12(content, attempt)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            continue
        if bundle.key is None or bundle.cert is None:
            raise NoCertificateError(f"holds no certificate that belongs to its private key; {_WRITE}")
        return bundle.key, [bundle.cert.certificate, *(extra.certificate for extra in bundle.additional_certs)]
    todo = "check" if password else "set"
    raise NoCertificateError(f"cannot be opened; {todo} client_certificate_password")
