"""DANE for SMTP (RFC 6698, RFC 7671, RFC 7672): TLSA records, and whether a server's certificates match them."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.hashes import SHA256, SHA512, Hash, HashAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from cryptography.x509 import Certificate, load_der_x509_certificate
from OpenSSL import SSL
from OpenSSL.crypto import X509, X509Store, X509StoreContext, X509StoreContextError, X509StoreFlags

from mailgate.tls.check import Check, PeerCheck, failure_of, is_of, misnamed, objection_of
from mailgate.tls.names import MALFORMED

__all__ = ["DaneCheck", "Tlsa", "usable", "verify"]

#: Records of a host that are looked at, octets of one, and certificates of a chain: more would make the handshake dear.
_MOST_RECORDS, _LONGEST, _MOST_CERTIFICATES = 32, 8192, 16
#: What the numbers mean (RFC 7218): usages that hold for SMTP, selectors, matching types with their digests.
_TRUST_ANCHOR, _END_ENTITY = 2, 3
_CERTIFICATE, _KEY = 0, 1
_FULL, _DIGESTS = 0, {1: SHA256(), 2: SHA512()}

_TEXT = re.compile(r"(\d{1,3}) (\d{1,3}) (\d{1,3}) ([0-9a-fA-F ]+)")


@dataclass(frozen=True, slots=True)
class Tlsa:
    """One TLSA record (RFC 6698 section 2.1)."""

    usage: int
    selector: int
    matching: int
    data: bytes

    @classmethod
    def parse(cls, text: str) -> Tlsa:
        """From the form of a zone file, "3 1 1 0123...", in one line; ValueError."""
        found = _TEXT.fullmatch(text)
        if found is None:
            raise ValueError(f"no TLSA record: {text[:80]}")
        usage, selector, matching, data = found.groups()
        return cls(int(usage), int(selector), int(matching), bytes.fromhex(data))

    @classmethod
    def of(cls, certificate: Certificate) -> Tlsa:
        """The record that is best for a server with this certificate: its key's, which stays when it is renewed with
        the same key (RFC 7671 section 5.1)."""
        return cls(_END_ENTITY, _KEY, 1, _digest(_DIGESTS[1], _selected(certificate, _KEY)))

    def __str__(self) -> str:
        return f"{self.usage} {self.selector} {self.matching} {self.data.hex()}"

    @property
    def is_usable(self) -> bool:
        """Whether it says anything for SMTP (RFC 7672 section 3.1): PKIX-TA and PKIX-EE do not."""
        if self.usage not in (_TRUST_ANCHOR, _END_ENTITY) or self.selector not in (_CERTIFICATE, _KEY):
            return False
        if self.matching == _FULL:
            return len(self.data) <= _LONGEST and self._can_be_read()
        digest = _DIGESTS.get(self.matching)
        return digest is not None and len(self.data) == digest.digest_size

    def matches(self, certificate: Certificate) -> bool:
        """Whether it is this certificate, or its key."""
        return _form(certificate, self.selector, self.matching) == self.data

    def _can_be_read(self) -> bool:
        read: Callable[[bytes], object] = load_der_public_key if self.selector == _KEY else load_der_x509_certificate
        try:
            read(self.data)
        except (ValueError, UnsupportedAlgorithm):
            return False
        return True


def usable(texts: Iterable[object]) -> tuple[Tlsa, ...]:
    """The usable of these records, as text; of the same usage and selector only those with the strongest digest, and
    those without any (RFC 7671 section 9)."""
    found: list[Tlsa] = []
    for text in texts:
        try:
            record = Tlsa.parse(str(text))
        except ValueError:
            continue
        if record.is_usable:
            found.append(record)
        if len(found) >= _MOST_RECORDS:
            break
    strongest: dict[tuple[int, int], int] = {}
    for one in found:
        strongest[one.usage, one.selector] = max(one.matching, strongest.get((one.usage, one.selector), _FULL))
    return tuple(one for one in found if one.matching in (_FULL, strongest[one.usage, one.selector]))


def verify(records: Sequence[Tlsa], chain: Sequence[Certificate], names: Collection[str]) -> tuple[PeerCheck, str]:
    """Whether the chain, the server's own certificate first, is what the (usable) records say; and which of `names` it
    has proved, "" where names do not matter.

    DANE-EE(3) is about the first certificate and nothing else, its name and age neither (RFC 7672 section 3.1.1). For
    DANE-TA(2) the chain must lead to the one that is meant, and the certificate be for one of `names`. Of a chain that
    is longer than any that serves the first certificates count.
    """
    if not chain:
        return PeerCheck(False, "no certificate was shown", "validation-failure"), ""
    leaf, chain = chain[0], chain[:_MOST_CERTIFICATES]
    if _is_any(leaf, [one for one in records if one.usage == _END_ENTITY]):
        return PeerCheck(True, ""), ""
    anchors = [one for one in records if one.usage == _TRUST_ANCHOR]
    authorities = [one for one in chain[1:] if _is_any(one, anchors)]
    authorities += [
        load_der_x509_certificate(one.data) for one in anchors if (one.selector, one.matching) == (_CERTIFICATE, _FULL)
    ]
    if not authorities:
        told = "none of its certificates is one that the TLSA records name"
        return PeerCheck(False, f"DANE: {told}", "validation-failure"), ""
    problem = _path_problem(leaf, chain[1:], authorities)
    if not problem.is_verified:
        return problem, ""
    for name in names:
        if is_of(leaf, name):
            return PeerCheck(True, ""), name
    text = misnamed(leaf, " or ".join(names))
    return PeerCheck(False, f"DANE: {text}", "certificate-host-mismatch"), ""


class DaneCheck(Check):
    """For a host with TLSA records. The handshake goes through, and then says what came of it: before anything is said
    of mail. `proved` is the name that counted, "" where none had to."""

    __slots__ = ("_concluded", "_names", "_records", "proved")

    def __init__(self, records: Sequence[Tlsa], names: Sequence[str]) -> None:
        super().__init__(is_required=False)
        self._records = records
        self._names = names
        self._concluded: PeerCheck | None = None
        self.proved = ""

    def judge(self, x509: X509, code: int, depth: int, *, is_ok: bool) -> bool:
        return True

    def concluded(self, connection: SSL.Connection) -> PeerCheck:
        if self._concluded is None:
            try:
                chain = connection.get_peer_cert_chain(as_cryptography=True) or []
                self._concluded, self.proved = verify(self._records, chain, self._names)
            except MALFORMED:
                text = "DANE: the certificate cannot be understood"
                self._concluded = PeerCheck(False, text, "validation-failure")
        return self._concluded


def _path_problem(leaf: Certificate, others: Sequence[Certificate], authorities: Iterable[Certificate]) -> PeerCheck:
    store = X509Store()
    store.set_flags(X509StoreFlags.PARTIAL_CHAIN)
    for one in authorities:
        store.add_cert(X509.from_cryptography(one))
    untrusted = [X509.from_cryptography(one) for one in others]
    try:
        X509StoreContext(store, X509.from_cryptography(leaf), untrusted).verify_certificate()
    except X509StoreContextError as error:
        code, depth = int(error.errors[0]), int(error.errors[1])
        text = objection_of(error.certificate.to_cryptography(), code, depth)
        return PeerCheck(False, f"DANE: {text}", failure_of(code, is_ok=False))
    return PeerCheck(True, "")


def _is_any(certificate: Certificate, records: Sequence[Tlsa]) -> bool:
    """Whether one of the records is of the certificate, each form of which is made once."""
    made: dict[tuple[int, int], bytes | None] = {}
    for one in records:
        form = one.selector, one.matching
        if form not in made:
            made[form] = _form(certificate, *form)
        if made[form] == one.data:
            return True
    return False


def _form(certificate: Certificate, selector: int, matching: int) -> bytes | None:
    """What a record says of a certificate; None where that cannot be read."""
    try:
        octets = _selected(certificate, selector)
    except (UnsupportedAlgorithm, ValueError):
        return None
    return octets if matching == _FULL else _digest(_DIGESTS[matching], octets)


def _selected(certificate: Certificate, selector: int) -> bytes:
    if selector == _CERTIFICATE:
        return certificate.public_bytes(Encoding.DER)
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _digest(algorithm: HashAlgorithm, octets: bytes) -> bytes:
    digest = Hash(algorithm)
    digest.update(octets)
    return digest.finalize()
