"""Writing at once: what fits into the socket's buffer goes out without a turn of the reactor."""

from __future__ import annotations

import socket

from OpenSSL import SSL
from twisted.internet.abstract import FileDescriptor
from twisted.internet.interfaces import IProtocol, ITransport
from twisted.internet.tcp import Connection
from twisted.protocols.policies import ProtocolWrapper
from twisted.protocols.tls import BufferingTLSTransport

__all__ = ["has_unread", "write_now"]

#: Octets of a TLS record at most, and of what our side of TLS may hold for the socket.
_RECORD, _HELD = 2**14, 2**15
#: Other systems than Linux send at once.
_MORE = getattr(socket, "MSG_MORE", 0)


def write_now(transport: ITransport, data: bytes, *, is_last: bool = False) -> None:
    """As `transport.write(data)`, but the first try is made now.

    The reactor would wait for the socket to become writable, which it nearly always is: two changes to its interest and
    one more event for each reply; under TLS, a turn for collecting writes as well. Where octets still wait, or the
    transport is no socket (a test's), or a handshake is not over, this is `transport.write`.

    `is_last`: nothing is awaited from the peer any more, and `loseConnection` follows at once. Then what is written in
    clear text waits for it, and both go out as one.
    """
    if (
        not isinstance(transport, Connection)
        or not transport.connected
        or transport.disconnecting
        or transport.dataBuffer
        or transport._tempDataBuffer
    ):
        transport.write(data)
    elif not transport.TLS:
        try:
            sent = transport.socket.send(data, _MORE if is_last else 0)
        except OSError:  # where it is broken, the ordinary way finds out why
            sent = 0
        if sent < len(data):
            transport.write(data[sent:])
    elif not _write_record(transport, transport.protocol, data):
        transport.write(data)


def has_unread(transport: ITransport) -> bool:
    """Whether the peer has said something, or has ended, and the reactor has not told of it yet; False where the
    transport is no socket (a test's)."""
    while isinstance(transport, ProtocolWrapper) and transport.transport is not None:  # the TLS of an endpoint
        transport = transport.transport
    if not isinstance(transport, Connection) or not transport.connected:
        return False
    try:
        transport.socket.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def _write_record(transport: Connection, tls: IProtocol, data: bytes) -> bool:
    """Whether TLS was ready for it: its first record is on its way then, and the rest follows."""
    if not isinstance(tls, BufferingTLSTransport) or tls._appSendBuffer:
        return False
    if tls._aggregator._buffer:  # type: ignore[union-attr]  # connected, it is one that has a buffer
        return False
    connection = tls.getHandle()
    try:
        taken = connection.send(data[:_RECORD])
    except SSL.Error:  # no handshake yet, or no TLS any more: the ordinary way meets it again, and knows what to do
        return False
    record = connection.bio_read(_HELD)
    try:
        sent = transport.socket.send(record)
    except OSError:
        sent = 0
    if sent < len(record):
        FileDescriptor.write(transport, record[sent:])  # beneath TLS
    if taken < len(data):
        transport.write(data[taken:])
    return True
