"""TLS of the relay's connections to next hops: nobody verified, the host verified, or a pinned certificate."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence
from ipaddress import ip_address
from pathlib import Path

from cachetools import LRUCache
from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IReactorTime
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from mailgate.tls.check import Check, CheckedConnection, HostCheck, PinCheck, judge_or_raise
from mailgate.tls.context import MinimumVersion, new_context, trust, use_key_pair
from mailgate.tls.dane import DaneCheck, Tlsa
from mailgate.tls.pem import Source, TlsError, read_certificates, read_key_pair
from mailgate.tls.watch import Watched, file_state

__all__ = ["ClientContexts"]

#: Settings whose contexts are kept; each holds a bundle of authorities, about 1 MB.
_CONTEXTS = 64
#: Seconds after which the system's authorities are read again.
_DAY = 86_400.0

_FINGERPRINT = re.compile(r"[0-9a-f]{64}")

_Key = tuple[Path | None, Path | None, MinimumVersion]


class ClientContexts:
    """Makes the client's side of connections; what is costly to build is built once for each setting.

    Files that change are noticed when a connection is made, at most once a second; what is wrong then is logged, and
    what was read before stays. The system's authorities are read again once a day.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._contexts: LRUCache[_Key, Watched[SSL.Context]] = LRUCache(_CONTEXTS)

    def client_creator(
        self,
        *,
        hostname: str,
        verify: bool,
        ca: Path | None = None,
        fingerprints: Sequence[str] = (),
        tlsa: Sequence[Tlsa] = (),
        names: Sequence[str] = (),
        certificate: Path | None = None,
        minimum_version: MinimumVersion = "1.2",
    ) -> IOpenSSLClientConnectionCreator:
        """For connections to `hostname`, a DNS name in A-labels or an IP address.

        With `fingerprints` (SHA-256 in hex, with or without colons, of the peer's certificate or of its public key's
        SubjectPublicKeyInfo) one of them must match, and nothing else counts, `verify` neither. With `verify` the
        peer's chain must lead to an authority in the PEM file `ca` (None: those of the system), and its certificate
        be for `hostname`. With `tlsa`, usable records, one of them must match, and where it names an authority the
        certificate be for one of `names`: that is known when the handshake is over, and does not end it. Otherwise any
        certificate will do. `outcome_of` tells in each case what came of it; a handshake that fails for it loses the
        connection with PeerRefusedError. `certificate` is a PEM file with the certificate, chain and key that we show
        if asked.

        TlsError where a file or a fingerprint cannot be used. Reads files where this setting is new.
        """
        pins = frozenset(_fingerprint(one) for one in fingerprints)
        key = (ca, certificate, minimum_version)
        context = self._contexts.get(key)
        if context is None:
            context = self._contexts[key] = self._watch(ca, certificate, minimum_version)
        host = hostname.rstrip(".").lower()

        def check() -> Check:
            if tlsa:
                return DaneCheck(tlsa, names)
            return PinCheck(pins) if pins else HostCheck(host, is_required=verify)

        return _ClientCreator(context, check, _server_name(host))

    def _watch(
        self, ca: Path | None, certificate: Path | None, minimum_version: MinimumVersion
    ) -> Watched[SSL.Context]:
        files = [path for path in (ca, certificate) if path is not None]

        def look() -> Hashable:
            return file_state(files), self._clock.seconds() // _DAY if ca is None else None

        def build() -> SSL.Context:
            context = new_context(SSL.TLS_CLIENT_METHOD, minimum_version)
            context.set_verify(SSL.VERIFY_PEER, judge_or_raise)
            if ca is None:
                context.set_default_verify_paths()
            else:
                trust(context, ca, read_certificates(ca))
            if certificate is not None:
                use_key_pair(context, read_key_pair(Source(certificate, certificate)))
            return context

        return Watched(look, build, self._clock)


@implementer(IOpenSSLClientConnectionCreator)
class _ClientCreator:
    def __init__(self, context: Watched[SSL.Context], check: Callable[[], Check], server_name: bytes) -> None:
        self._context = context
        self._check = check
        self._server_name = server_name

    def clientConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:  # noqa: N802 - Twisted's name
        connection = CheckedConnection(self._context.value, self._check())
        if self._server_name:
            connection.set_tlsext_host_name(self._server_name)
        return connection


def _server_name(host: str) -> bytes:
    """What SNI says: nothing for addresses (RFC 6066 section 3), nor for what cannot be a name."""
    try:
        ip_address(host)
    except ValueError:
        return host.encode() if host.isascii() and host.isprintable() and len(host) < 256 else b""
    return b""


def _fingerprint(text: str) -> str:
    plain = text.replace(":", "").lower()
    if not _FINGERPRINT.fullmatch(plain):
        text = f'"{text}": no SHA-256 fingerprint, which has 64 hexadecimal digits'
        raise TlsError(f"{text}, without spaces and without the words before the =")
    return plain
