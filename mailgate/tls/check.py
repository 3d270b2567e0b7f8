"""What is asked of a peer's certificate, and what came of it, with reasons for an administrator."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import cast

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.hashes import SHA256, Hash
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import Certificate, ExtendedKeyUsage, ExtensionNotFound, IPAddress, SubjectAlternativeName
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import SSL
from OpenSSL.crypto import X509
from OpenSSL.SSL import X509VerificationCodes
from service_identity.cryptography import extract_patterns
from service_identity.exceptions import CertificateError, VerificationError
from service_identity.hazmat import DNS_ID, DNSPattern, IPAddress_ID, verify_service_identity

from mailgate.tls.failures import TlsFailure
from mailgate.tls.names import MALFORMED, dns_names, printable

__all__ = [
    "UNCHECKED",
    "Check",
    "CheckedConnection",
    "ClientCheck",
    "HostCheck",
    "PeerCheck",
    "PeerRefusedError",
    "PinCheck",
    "failure_of",
    "fingerprint",
    "is_of",
    "judge",
    "judge_or_raise",
    "misnamed",
    "objection_of",
    "outcome_of",
]

#: Names of a certificate that a reason tells, and characters of one.
_TOLD, _LONGEST = 3, 300

_UNKNOWN_AUTHORITY = {
    X509VerificationCodes.ERR_DEPTH_ZERO_SELF_SIGNED_CERT: "the certificate is signed by itself",
    X509VerificationCodes.ERR_SELF_SIGNED_CERT_IN_CHAIN: "its last certificate is not among the authorities",
    X509VerificationCodes.ERR_UNABLE_TO_GET_ISSUER_CERT: "an issuer is not among the authorities",
    X509VerificationCodes.ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY: "the issuer {issuer} is not known here",
    X509VerificationCodes.ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE: "the issuer {issuer} is not known here",
}
#: OpenSSL's codes in words, as far as pyOpenSSL names them.
_CODES = {
    code: name.removeprefix("ERR_").replace("_", " ").lower()
    for name, code in vars(X509VerificationCodes).items()
    if name.startswith("ERR_")
}


@dataclass(frozen=True, slots=True)
class PeerCheck:
    """Whether the peer has proved who it is; `reason` says why not, and is "" where it has; `failure` in one word."""

    is_verified: bool
    reason: str
    failure: TlsFailure = field(default="", compare=False)


#: Nobody has looked at it.
UNCHECKED = PeerCheck(False, "the server has not proved who it is", "validation-failure")


class PeerRefusedError(SSL.Error):
    """The peer's certificate is not the one that we want; the reason that the connection was lost."""

    def __init__(self, reason: str, failure: TlsFailure = "validation-failure") -> None:
        # of the shape of OpenSSL's own errors, which Twisted looks into
        super().__init__([("mailgate", "", reason)])
        self.reason = reason
        self.failure: TlsFailure = failure

    def __str__(self) -> str:
        return self.reason


class Check:
    """Follows OpenSSL through the verification of one peer's chain; the first objection is the reason.

    As it stands it wants a chain that leads to one of the context's authorities. With `is_required`, an objection
    ends the handshake; otherwise it is recorded only.
    """

    __slots__ = ("_failure", "_has_leaf", "_is_required", "_reason")

    def __init__(self, *, is_required: bool) -> None:
        self._is_required = is_required
        self._has_leaf = False
        self._reason = ""
        self._failure: TlsFailure = ""

    @property
    def outcome(self) -> PeerCheck:
        """What has come of it so far; final when the handshake is over."""
        if self._reason or not self._has_leaf:
            failure = self._failure or "validation-failure"
            return PeerCheck(False, self._reason or "no certificate was shown", failure)
        return PeerCheck(True, "")

    def concluded(self, connection: SSL.Connection) -> PeerCheck:
        """What came of it on this connection, whose handshake is over."""
        return self.outcome

    def judge(self, x509: X509, code: int, depth: int, *, is_ok: bool) -> bool:
        """Take what OpenSSL says of the certificate at `depth` (the peer's own: 0): whether to go on.

        `code` is what OpenSSL objects to, unless it `is_ok`. Called several times: with each objection, and for each
        certificate that is in order, the peer's own last.
        """
        try:
            objection = self.objection(x509.to_cryptography(), code, depth, is_ok=is_ok)
        except MALFORMED:
            objection = "the certificate cannot be understood"
        if not self._reason and objection:
            self._reason, self._failure = objection, failure_of(code, is_ok=is_ok)
        self._has_leaf = self._has_leaf or depth == 0
        return not (self._is_required and self._reason)

    def objection(self, certificate: Certificate, code: int, depth: int, *, is_ok: bool) -> str:
        """What there is against this certificate, "" for nothing; MALFORMED where it is."""
        return "" if is_ok else objection_of(certificate, code, depth)


class ClientCheck(Check):
    """For a client's certificate: one that was issued for servers will do.

    Public authorities issue none for clients any more, and mail servers show as clients what they have.
    """

    __slots__ = ()

    def objection(self, certificate: Certificate, code: int, depth: int, *, is_ok: bool) -> str:
        if code == X509VerificationCodes.ERR_INVALID_PURPOSE and not is_ok and _is_for_servers(certificate):
            return ""
        return super().objection(certificate, code, depth, is_ok=is_ok)


class HostCheck(Check):
    """The certificate must be that of `host` too: a DNS name in A-labels, or an IP address (RFC 9525)."""

    __slots__ = ("_host",)

    def __init__(self, host: str, *, is_required: bool) -> None:
        super().__init__(is_required=is_required)
        self._host = host

    def objection(self, certificate: Certificate, code: int, depth: int, *, is_ok: bool) -> str:
        if is_ok and depth == 0:
            return "" if is_of(certificate, self._host) else misnamed(certificate, self._host)
        return super().objection(certificate, code, depth, is_ok=is_ok)


class PinCheck(Check):
    """The certificate or its public key must have one of these fingerprints; nothing else matters, its age neither."""

    __slots__ = ("_fingerprints",)

    def __init__(self, fingerprints: Collection[str]) -> None:
        super().__init__(is_required=True)
        self._fingerprints = fingerprints

    def objection(self, certificate: Certificate, code: int, depth: int, *, is_ok: bool) -> str:
        if depth or fingerprint(certificate) in self._fingerprints or _key_print(certificate) in self._fingerprints:
            return ""
        return f"no pinned fingerprint matches: the certificate's is {fingerprint(certificate)}"


class CheckedConnection(SSL.Connection):
    """A connection with what is asked of its peer. (Its app data is not ours: Twisted keeps the protocol there.)"""

    def __init__(self, context: SSL.Context, check: Check) -> None:
        super().__init__(context)
        self.check = check


def outcome_of(connection: SSL.Connection) -> PeerCheck:
    """What came of the verification of the peer; to be asked when the handshake is over, well or not."""
    if isinstance(connection, CheckedConnection):
        return connection.check.concluded(connection)
    return PeerCheck(False, "no certificate was asked for")


def judge(connection: SSL.Connection, x509: X509, code: int, depth: int, is_ok: int) -> bool:
    """The verification callback of contexts whose connections are checked."""
    return cast("CheckedConnection", connection).check.judge(x509, code, depth, is_ok=bool(is_ok))


def judge_or_raise(connection: SSL.Connection, x509: X509, code: int, depth: int, is_ok: int) -> bool:
    """The same, but PeerRefusedError ends the handshake, and so becomes the reason that the connection was lost.

    Not for a context that serves SNI: pyOpenSSL looks for the error in the context that a connection has in the end.
    """
    if not judge(connection, x509, code, depth, is_ok):
        outcome = outcome_of(connection)
        raise PeerRefusedError(outcome.reason, outcome.failure)
    return True


def failure_of(code: int, *, is_ok: bool) -> TlsFailure:
    """What OpenSSL's code of an objection is; where it `is_ok`, it was the name that we object to."""
    if is_ok:
        return "certificate-host-mismatch"
    if code in (X509VerificationCodes.ERR_CERT_HAS_EXPIRED, X509VerificationCodes.ERR_CERT_NOT_YET_VALID):
        return "certificate-expired"
    return "certificate-not-trusted" if code in _UNKNOWN_AUTHORITY else "validation-failure"


def fingerprint(certificate: Certificate) -> str:
    """SHA-256 of the certificate, lower-case hex."""
    return certificate.fingerprint(SHA256()).hex()


def _key_print(certificate: Certificate) -> str:
    try:
        key = certificate.public_key()
    except UnsupportedAlgorithm:
        return ""
    digest = Hash(SHA256())
    digest.update(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    return digest.finalize().hex()


def objection_of(certificate: Certificate, code: int, depth: int) -> str:
    """What OpenSSL has against the certificate at this depth, in words."""
    if (why := _UNKNOWN_AUTHORITY.get(code)) is not None:
        issuer = printable(certificate.issuer.rfc4514_string()[:_LONGEST])
        return f"the chain does not lead to a known authority: {why.format(issuer=issuer)}"
    whose = "the certificate" if depth == 0 else f"the issuer's certificate {_subject(certificate)}"
    if code == X509VerificationCodes.ERR_CERT_HAS_EXPIRED:
        return f"{whose} expired on {certificate.not_valid_after_utc:%Y-%m-%d}"
    if code == X509VerificationCodes.ERR_CERT_NOT_YET_VALID:
        return f"{whose} is valid from {certificate.not_valid_before_utc:%Y-%m-%d} only"
    return f"{whose} does not hold: {_CODES.get(code, f'OpenSSL verification error {code}')}"


def _subject(certificate: Certificate) -> str:
    return printable(certificate.subject.rfc4514_string()[:_LONGEST])


def _is_for_servers(certificate: Certificate) -> bool:
    try:
        usages = certificate.extensions.get_extension_for_class(ExtendedKeyUsage).value
    except ExtensionNotFound:
        return False
    return ExtendedKeyUsageOID.SERVER_AUTH in usages


def is_of(certificate: Certificate, host: str) -> bool:
    """Whether the certificate is for this host, a DNS name in A-labels or an IP address (RFC 9525)."""
    try:
        if _is_address(host):
            verify_service_identity(extract_patterns(certificate), [IPAddress_ID(host)], [])
        else:
            wanted = DNS_ID(host)
            verify_service_identity(_near(certificate, wanted.hostname.decode("ascii")), [wanted], [])
    except (VerificationError, CertificateError, *MALFORMED):
        return False
    return True


def _near(certificate: Certificate, host: str) -> list[DNSPattern]:
    """The names that may be the host's: of thousands in a certificate each would be dear to understand."""
    near = (host, f"*.{host.partition('.')[2]}")
    return [DNSPattern.from_bytes(name.encode("ascii")) for name in dns_names(certificate) if name in near]


def misnamed(certificate: Certificate, host: str) -> str:
    """For whom the certificate is, and for whom it is not."""
    names = [*dns_names(certificate), *_addresses(certificate)]
    if not names:
        return f"the certificate is for no host, not for {host}"
    more = f" and {len(names) - _TOLD} more" if len(names) > _TOLD else ""
    return f"the certificate is for {', '.join(one[:_LONGEST] for one in names[:_TOLD])}{more}, not for {host}"


def _addresses(certificate: Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(SubjectAlternativeName).value
    except ExtensionNotFound:
        return []
    return [str(address) for address in names.get_values_for_type(IPAddress)]


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
