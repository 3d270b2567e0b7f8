"""The certificates that we show as a server: chosen by the name that a client asks for, read again when they change."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from cryptography.x509 import Certificate
from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator, IReactorTime
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from mailgate.config.machine import exposed
from mailgate.tls.check import CheckedConnection, ClientCheck, judge
from mailgate.tls.context import MinimumVersion, new_context, told, trust, use_key_pair
from mailgate.tls.pem import KeyPair, Source, TlsError, read_certificates, read_key_pair, sources
from mailgate.tls.watch import Watched, file_state

__all__ = ["CertificateStore", "ClientCertificates"]

#: Whether clients are asked for a certificate; see CertificateStore.server_creator.
ClientCertificates = Literal["none", "request", "require"]

#: For TLS 1.2: forward secrecy and authenticated encryption only. The suites of TLS 1.3 all have both.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
#: How long before its end a certificate is worth a warning.
_SOON = timedelta(days=14)

_Pairs = tuple[KeyPair, ...]

#: What becomes of everything else when one file is wrong.
_REST = "what was read of it before, if anything, stays in force; other files were read"

_log = Logger()


class CertificateStore:
    """Our certificates, in the PEM file or folder `path` (see `sources` for the layouts).

    A connection shows the certificate that has the name the client asked for (SNI), as it is or by a wildcard of one
    label; otherwise the one for `hostname`, otherwise the first by file name. Of certificates with the same names,
    one of each type of key is at hand, and the client's abilities decide.

    Files that change are noticed when a connection is made, at most once a second. Each is judged by itself: what is
    wrong is logged, and what was read of it before stays; what is right is taken. Connections keep what they began
    with.
    """

    def __init__(
        self,
        path: Path,
        clock: IReactorTime,
        *,
        hostname: str = "",
        minimum_version: MinimumVersion = "1.2",
        ciphers: str = "",
        client_ca: Path | None = None,
    ) -> None:
        """`ciphers` is an OpenSSL list for TLS 1.2, "" for a careful one; `client_ca` a PEM file of authorities for
        clients' certificates. TlsError, with each file, where something cannot be used. Reads files."""
        self._path = path
        self._clock = clock
        self._hostname = hostname.lower()
        self._minimum_version = minimum_version
        self._ciphers = ciphers or _CIPHERS
        self._client_ca = client_ca
        self._known: dict[Source, tuple[Hashable, KeyPair]] = {}
        self._authorities: Sequence[Certificate] = ()
        self._has_started = False
        self._snapshot = Watched(self._look, self._read, clock)
        self._has_started = True

    def server_creator(self, client_certificates: ClientCertificates) -> IOpenSSLServerConnectionCreator:
        """Makes the server's side of connections, for `startTLS` and TLSMemoryBIOFactory.

        "none": clients are not asked for a certificate. "request": they are, and come in with any or none;
        `outcome_of` tells whether it leads to `client_ca`. "require": the handshake fails without one that does.
        Where there is no `client_ca`, "require" takes any certificate, and none counts as verified.
        """
        return _ServerCreator(self, client_certificates)

    def connection(self, client_certificates: ClientCertificates) -> SSL.Connection:
        """The server's side of a new connection."""
        context = self._snapshot.value.context(client_certificates)
        if client_certificates == "none":
            return SSL.Connection(context)
        is_required = client_certificates == "require" and self._client_ca is not None
        return CheckedConnection(context, ClientCheck(is_required=is_required))

    def warnings(self) -> list[str]:
        """A line for each certificate that has expired, will within 14 days, or is not valid yet, and for each key
        that everybody on this machine can read."""
        now = datetime.fromtimestamp(self._clock.seconds(), UTC)
        found = []
        for pair in self._snapshot.value.pairs:
            start, end = pair.certificate.not_valid_before_utc, pair.certificate.not_valid_after_utc
            whose = f"{pair.path}: the certificate{f' for {pair.names[0]}' if pair.names else ''}"
            if start > now:
                found.append(f"{whose} is not valid before {start:%Y-%m-%d %H:%M} UTC")
            if end < now + _SOON:
                found.append(f"{whose} {'expires' if end >= now else 'expired'} on {end:%Y-%m-%d}")
        keys = dict.fromkeys(source.key for source in self._known)
        return found + [f"{key}: {text}" for key in keys if (text := exposed(key))]

    def _empty_context(self) -> SSL.Context:
        context = new_context(SSL.TLS_SERVER_METHOD, self._minimum_version)
        try:
            context.set_cipher_list(self._ciphers.encode())
        except SSL.Error as error:
            raise TlsError(f'ciphers: OpenSSL does not take "{self._ciphers}": {told(error)}') from error
        return context

    def _look(self) -> Hashable:
        try:
            found = sources(self._path)
        except OSError:
            return None
        files = [file for source in found for file in source.files]
        return file_state([*files, self._client_ca] if self._client_ca is not None else files)

    def _read(self) -> _Snapshot:
        try:
            found = sources(self._path)
        except OSError as error:
            raise TlsError(f"{error.filename or self._path}: cannot be read: {error.strerror}") from error
        if not found:
            raise TlsError(f"{self._path}: holds no certificate")
        self._empty_context()  # so that wrong ciphers are not told once for each file
        known: dict[Source, tuple[Hashable, KeyPair]] = {}
        wrong: list[str] = []
        for source in found:
            before, state = self._known.get(source), file_state(source.files)
            # to read a key takes long enough that a folder of a thousand is not read because of one
            if before is not None and before[0] == state:
                known[source] = before
                continue
            try:
                known[source] = state, self._pair(source)
            except TlsError as error:
                wrong += error.errors
                if before is not None:
                    known[source] = before
        authorities = self._authorities
        try:
            authorities = self._read_authorities()
        except TlsError as error:
            wrong += error.errors
        if wrong and not (self._has_started and known):
            raise TlsError(*wrong)
        self._tell(known, wrong)
        self._known, self._authorities = known, authorities
        pairs = [pair for _, pair in known.values()]
        return _Snapshot(self._empty_context, pairs, self._hostname, self._client_ca, authorities)

    def _pair(self, source: Source) -> KeyPair:
        pair = read_key_pair(source)
        # found out now, not when a client comes
        use_key_pair(self._empty_context(), pair)
        return pair

    def _read_authorities(self) -> Sequence[Certificate]:
        if self._client_ca is None:
            return ()
        authorities = read_certificates(self._client_ca)
        trust(self._empty_context(), self._client_ca, authorities)
        return authorities

    def _tell(self, known: Mapping[Source, tuple[Hashable, KeyPair]], wrong: Sequence[str]) -> None:
        """Log what a change of the files has come to; not what was read at the start."""
        if not self._has_started:
            return
        for text in wrong:
            _log.error("{error}; {rest}", error=text, rest=_REST)
        for source, (_, pair) in known.items():
            before = self._known.get(source)
            if before is None or before[1] is not pair:
                text = "certificate for {name} read{again}, valid until {end}"
                end = f"{pair.certificate.not_valid_after_utc:%Y-%m-%d}"
                _log.info(text, name=_name(pair), again=" again" if before else "", end=end)
        still = {_name(pair) for _, pair in known.values()}
        gone = {_name(pair): None for source, (_, pair) in self._known.items() if source not in known}
        for name in gone:
            if name not in still:
                _log.warn("the certificate for {name} is gone", name=name)


def _name(pair: KeyPair) -> str:
    """How the log calls a certificate."""
    return pair.names[0] if pair.names else str(pair.path)


class _Snapshot:
    """One state of the files, with the contexts that were needed so far."""

    def __init__(
        self,
        empty_context: Callable[[], SSL.Context],
        pairs: Sequence[KeyPair],
        hostname: str,
        client_ca: Path | None,
        authorities: Sequence[Certificate],
    ) -> None:
        self.pairs = pairs
        self._empty_context = empty_context
        self._client_ca = client_ca
        self._authorities = authorities
        self._contexts: dict[tuple[ClientCertificates, _Pairs], SSL.Context] = {}
        self._by_name: dict[str, _Pairs] = {}
        together = _together(pairs)
        for group in together:
            for name in group[0].names:
                self._by_name.setdefault(name, group)
        self._default = self._find(hostname) or together[0]
        self._has_twins = any(len(group) > 1 for group in together)

    def context(self, mode: ClientCertificates, name: str = "") -> SSL.Context:
        """The context for connections whose client asks for `name`, "" where it has not asked for any."""
        pairs = self._find(name) or self._default
        context = self._contexts.get((mode, pairs))
        if context is None:
            context = self._contexts[mode, pairs] = self._build(mode, pairs)
        return context

    def _find(self, name: str) -> _Pairs | None:
        return self._by_name.get(name) or self._by_name.get(f"*.{name.partition('.')[2]}")

    def _build(self, mode: ClientCertificates, pairs: _Pairs) -> SSL.Context:
        context = self._empty_context()
        for pair in pairs:
            use_key_pair(context, pair)
        if mode != "none":
            fail = SSL.VERIFY_FAIL_IF_NO_PEER_CERT if mode == "require" else 0
            context.set_verify(SSL.VERIFY_PEER | fail, judge)
            if self._client_ca is not None:
                trust(context, self._client_ca, self._authorities)
            for authority in self._authorities:
                context.add_client_ca(authority)
        if mode != "none" or self._has_twins:
            # a resumed session tells neither whether its client was verified nor which certificate it has seen
            context.set_options(SSL.OP_NO_TICKET)

        def named(connection: SSL.Connection) -> None:
            asked = connection.get_servername()
            if asked:
                wanted = self.context(mode, asked.decode("ascii", "replace").lower().rstrip("."))
                if wanted is not connection.get_context():
                    connection.set_context(wanted)

        # on each: in TLS 1.3 a client may have to say hello twice, and what OpenSSL calls must live that long
        context.set_tlsext_servername_callback(named)
        return context


def _together(pairs: Sequence[KeyPair]) -> list[_Pairs]:
    """Pairs that differ in the type of their key only, side by side; of the same type the first stays."""
    groups: dict[Hashable, dict[type, KeyPair]] = {}
    for pair in pairs:
        groups.setdefault(frozenset(pair.names) or pair.path, {}).setdefault(type(pair.key), pair)
    return [tuple(group.values()) for group in groups.values()]


@implementer(IOpenSSLServerConnectionCreator)
class _ServerCreator:
    def __init__(self, store: CertificateStore, client_certificates: ClientCertificates) -> None:
        self._store = store
        self._client_certificates = client_certificates

    def serverConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:  # noqa: N802 - Twisted's name
        return self._store.connection(self._client_certificates)
