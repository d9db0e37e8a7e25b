"""TLS contexts that check the certificates of servers by the same rules with every Python version.

Since Python 3.13, the default rules for CA certificates are stricter (RFC 5280). Behind a TLS-inspecting proxy,
connections could therefore succeed with one Python version and fail with another. The connector always applies the
strict rules, unless the configuration has `tls_strict = false`. If a certificate breaks a rule, the message names it.
"""

import ssl
from pathlib import Path

from connector import file_stamp, log
from connector.errors import ConfigurationError
from connector.file_stamp import FileStamp

_logger = log.get(__name__)

# OpenSSL's codes, x509_vfy.h. The strict rules are those of X509_V_FLAG_X509_STRICT.
_STRICT = frozenset(range(80, 95)) | {79}
_UNKNOWN_ISSUER = frozenset({2, 18, 19, 20, 21, 27})
_WEAK = frozenset({66, 67, 68})


class Trust:
    """TLS context that trusts the certificates of a CA bundle.

    If the bundle's file is replaced, it is loaded again. If the new file cannot be read, the previous bundle stays in
    use.
    """

    def __init__(self, section: str, ca_bundle: Path | None, *, strict: bool = True) -> None:
        """Load the certificates in `ca_bundle`, or those of the operating system if `ca_bundle` is None.

        `section` is the configuration table with the keys `ca_bundle` and `tls_strict`; messages name it. Raises
        ConfigurationError if the bundle cannot be read.
        """
        self._section = section
        self._ca_bundle = ca_bundle
        self._strict = strict
        self._stamp = self._read_stamp()
        try:
            self._context = self._load()
        except OSError as error:
            problem = f"{section}.ca_bundle: {ca_bundle} holds no certificates that can be read; specify a PEM file"
            raise ConfigurationError([problem]) from error

    def context(self) -> ssl.SSLContext:
        """Return the TLS context for the next connection. It is loaded again if the bundle's file was replaced."""
        stamp = self._read_stamp()
        if stamp != self._stamp:
            self._stamp = stamp
            name = f"{self._section}.ca_bundle"
            try:
                self._context = self._load()
            except OSError as error:
                problem = f"{self._ca_bundle} cannot be read as PEM ({error.strerror or type(error).__name__})"
                _logger.warning("file_unreadable", name=name, problem=problem)
            else:
                _logger.info("file_reloaded", name=name)
        return self._context

    def _read_stamp(self) -> FileStamp | None:
        return file_stamp.read(self._ca_bundle) if self._ca_bundle else None

    def _load(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self._ca_bundle)
        # Python 3.13 sets these flags by default, earlier versions do not.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VERIFY_X509_STRICT
        if not self._strict:
            context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        return context

    def describe(self, error: ssl.SSLError) -> str:
        """Return what is wrong with a TLS connection and, after a semicolon, what to do.

        The text has no subject: the caller puts the name of the server in front of it. It contains nothing that the
        server sent.
        """
        if not isinstance(error, ssl.SSLCertVerificationError):
            return _describe_handshake(error)
        code, words = error.verify_code, error.verify_message
        bundle, strict = f"{self._section}.ca_bundle", f"{self._section}.tls_strict"
        if code in _UNKNOWN_ISSUER:
            return f"its certificate is not trusted ({words}); add the CA that signed it to {bundle}"
        if code in _STRICT:
            todo = f"replace that certificate, or accept it with {strict} = false"
            return f"a certificate in its chain breaks RFC 5280 ({words}); {todo}"
        if code in _WEAK:
            return f"a certificate in its chain is too weak ({words}); replace it with one that has a stronger key"
        what, todo = _FLAWS.get(code, ("is refused", "replace it"))
        return f"its certificate {what} ({words}); {todo}"


_FLAWS = {
    9: ("is not valid yet", "check the clocks of both machines"),
    10: ("has expired", "renew it or its CA's certificate; if neither has expired, correct this machine's clock"),
    23: ("was revoked", "replace it"),
    26: ("is not meant for servers", "replace it with one for server authentication"),
    62: ("is for another host name", "check the host, and that no proxy answers instead"),
    64: ("is for another address", "use a host name that the certificate contains"),
}


def _describe_handshake(error: ssl.SSLError) -> str:
    reason = (error.reason or "").replace("_", " ").lower() or type(error).__name__
    if error.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG"):
        return f"it does not speak TLS on this port ({reason}); check the port, and that no proxy answers instead"
    if "CERTIFICATE" in (error.reason or ""):
        return f"it requires a client certificate ({reason}), which the connector does not send; check the address"
    return f"TLS failed ({reason}); check which versions of TLS it offers, and that no proxy answers instead"
