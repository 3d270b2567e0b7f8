"""One connection to a directory (RFC 4511): ldaptor writes and reads the messages, one question at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ldaptor.protocols import pureber, pureldap  # type: ignore[import-untyped]  # ldaptor has no types
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHandshakeListener, IOpenSSLClientConnectionCreator, ITLSTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgate.backends.questions import BackendError

__all__ = [
    "SUCCESS",
    "Attributes",
    "Control",
    "DirectoryAnswer",
    "DirectoryConnection",
    "DirectoryError",
    "DirectoryGoneError",
]

SUCCESS = 0

#: The values of an entry, by the name of the attribute in lower case.
Attributes = dict[bytes, list[bytes]]
#: A control (RFC 4511 section 4.1.11): its type, whether it is critical, its value.
Control = tuple[bytes, bool, bytes | None]

#: Octets of one message, and entries of one answer where nobody says more: most searches are for one entry.
_LARGEST, _MOST = 256 * 1024, 8

_FINAL = (pureldap.LDAPBindResponse, pureldap.LDAPSearchResultDone, pureldap.LDAPExtendedResponse)

_MESSAGES = pureldap.LDAPBERDecoderContext_TopLevel(
    inherit=pureldap.LDAPBERDecoderContext_LDAPMessage(
        fallback=pureldap.LDAPBERDecoderContext(fallback=pureber.BERDecoderContext()),
        inherit=pureldap.LDAPBERDecoderContext(fallback=pureber.BERDecoderContext()),
    )
)


class DirectoryError(BackendError):
    """The directory cannot be asked by this connection."""


class DirectoryGoneError(DirectoryError):
    """The connection is closed, or was closed before the answer."""


@dataclass(frozen=True, slots=True)
class DirectoryAnswer:
    """The result code (RFC 4511 section 4.1.9); the entries that a search has found, each a name and attributes; the
    values of the controls that came with the result, by their types.
    """

    code: int
    entries: tuple[tuple[bytes, Attributes], ...] = ()
    controls: Mapping[bytes, bytes] = field(default_factory=dict)


@implementer(IHandshakeListener)
class DirectoryConnection(Protocol):
    """A client of LDAP. After a question that was cancelled, or an answer that is none, the connection is closed."""

    def __init__(self) -> None:
        self.is_open = False
        self._number = 0
        self._buffer = b""
        self._pending: Deferred[DirectoryAnswer] | None = None
        self._entries: list[tuple[bytes, Attributes]] = []
        self._most = _MOST
        self._handshake: Deferred[None] = Deferred(self._not_awaited)
        self._end = "the connection is closed"

    async def secured(self) -> None:
        """Wait for the handshake; DirectoryError where the server has not proved who it is."""
        await self._handshake
        if not self.is_open:
            raise DirectoryGoneError(self._end)

    async def start_tls(self, creator: IOpenSSLClientConnectionCreator) -> None:
        """StartTLS (RFC 4511 section 4.14), and the handshake; DirectoryError where either fails."""
        answer = await self.ask(pureldap.LDAPStartTLSRequest())
        if answer.code != SUCCESS:
            raise DirectoryError(f"StartTLS is refused with result {answer.code}")
        if self._buffer:
            # somebody between has put in what we would take for said under TLS
            self.abort()
            raise DirectoryError("octets in clear text behind the answer to StartTLS")
        ITLSTransport(self.transport).startTLS(creator)
        await self.secured()

    async def bind(self, dn: str, password: str) -> int:
        """A simple bind (RFC 4511 section 4.2): the result code. An empty password makes it an anonymous one."""
        answer = await self.ask(pureldap.LDAPBindRequest(dn=dn, auth=password))
        return answer.code

    def ask(self, request: Any, *, controls: Sequence[Control] = (), most: int = _MOST) -> Deferred[DirectoryAnswer]:
        """Send a request, a message of ldaptor; DirectoryError where no answer comes. Only one may be under way.

        An answer with more entries than `most` is none.
        """
        answered: Deferred[DirectoryAnswer] = Deferred(self._cancelled)
        if self._pending is not None or not self.is_open or self.transport is None:
            answered.errback(DirectoryGoneError(self._end))
            return answered
        self._pending, self._entries, self._most = answered, [], most
        self._number += 1
        message = pureldap.LDAPMessage(request, controls=list(controls) or None, id=self._number)
        self.transport.write(message.toWire())
        return answered

    def abort(self) -> None:
        """Close at once."""
        self.is_open = False
        abort = getattr(self.transport, "abortConnection", None)
        if abort is not None:
            abort()

    def connectionMade(self) -> None:
        self.is_open = True

    def handshakeCompleted(self) -> None:
        # this is called with a wrong certificate too, when the connection has been aborted for it
        if not (self._handshake.called or getattr(self.transport, "disconnecting", False)):
            self._handshake.callback(None)

    def dataReceived(self, data: bytes) -> None:
        self._buffer += data
        while self._buffer and self.is_open:
            try:
                message, used = pureber.berDecodeObject(_MESSAGES, self._buffer)
            except pureber.BERExceptionInsufficientData:
                if len(self._buffer) > _LARGEST:
                    self._fail("a message that is too large")
                return
            except Exception as error:  # ldaptor raises whatever comes of octets that are no LDAP
                self._fail(f"what came is no LDAP ({type(error).__name__})")
                return
            self._buffer = self._buffer[used:]
            if message is not None:
                self._take(message)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.is_open = False
        self._end = f"{reason.type.__name__ if reason.type else ''}: {reason.getErrorMessage()}"
        self._answer(DirectoryGoneError(self._end))
        if not self._handshake.called:
            self._handshake.callback(None)

    def _take(self, message: Any) -> None:
        value = message.value
        if message.id != self._number or self._pending is None:
            # an unsolicited notification is a notice of disconnection (RFC 4511 section 4.4.1)
            self._fail("the directory ends the connection" if message.id == 0 else "an answer to nothing")
        elif isinstance(value, pureldap.LDAPSearchResultEntry):
            if len(self._entries) == self._most:
                self._fail("more entries than were asked for")
                return
            attributes = {bytes(name).lower(): [bytes(one) for one in values] for name, values in value.attributes}
            self._entries.append((bytes(value.objectName), attributes))
        elif isinstance(value, _FINAL):
            told = {bytes(kind): bytes(content or b"") for kind, _, content in message.controls or ()}
            entries, self._entries = tuple(self._entries), []
            self._answer(DirectoryAnswer(int(value.resultCode), entries, told))

    def _fail(self, what: str) -> None:
        self._end = what
        self.abort()
        self._answer(DirectoryError(what))

    def _answer(self, outcome: DirectoryAnswer | DirectoryError) -> None:
        pending, self._pending = self._pending, None
        if pending is None:
            return
        if isinstance(outcome, DirectoryError):
            pending.errback(outcome)
        else:
            pending.callback(outcome)

    def _not_awaited(self, _: Deferred[None]) -> None:
        self._handshake = Deferred()
        self.abort()

    def _cancelled(self, _: Deferred[DirectoryAnswer]) -> None:
        self._pending = None
        self.abort()
