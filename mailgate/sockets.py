"""Writing at once: what fits into the socket's buffer goes out without a turn of the reactor."""

from __future__ import annotations

from twisted.internet.interfaces import ITransport
from twisted.internet.tcp import Connection

__all__ = ["write_now"]


def write_now(transport: ITransport, data: bytes) -> None:
    """As `transport.write(data)`, but the first try is made now.

    The reactor would wait for the socket to become writable, which it nearly always is: two changes to its interest and
    one more event for each reply. Where octets still wait, or the transport is no plain socket (TLS, a test's), this is
    `transport.write`.
    """
    if (
        isinstance(transport, Connection)
        and transport.connected
        and not (transport.TLS or transport.disconnecting or transport.dataBuffer or transport._tempDataBuffer)
    ):
        sent = transport.writeSomeData(data)
        if isinstance(sent, int):  # otherwise the connection is broken, and the ordinary way finds that out
            if sent == len(data):
                return
            data = data[sent:]
    transport.write(data)
