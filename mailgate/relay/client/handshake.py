"""What a client's handshake came to, well or not."""

from __future__ import annotations

from collections.abc import Mapping

from OpenSSL import SSL
from twisted.python.failure import Failure

from mailgate.envelope import Tls
from mailgate.tls.check import PeerRefusedError, outcome_of
from mailgate.tls.context import told
from mailgate.tls.info import channel_bindings, tls_of

__all__ = ["look_at", "told_for_people", "why_lost"]


def look_at(connection: SSL.Connection) -> tuple[Tls, Mapping[str, bytes]]:
    """The finished handshake as a value, and the channel bindings of the connection."""
    tls = tls_of(connection, outcome_of(connection).is_verified)
    return tls, channel_bindings(connection, is_server=False)


def told_for_people(tls: Tls) -> str:
    """In one line: "TLSv1.3 TLS_AES_256_GCM_SHA384 verified"."""
    return f"{tls.version} {tls.cipher}{' verified' if tls.is_verified else ''}"


def why_lost(reason: Failure) -> str:
    """Why a connection was lost: in OpenSSL's words, or those of our own check, where TLS is the cause."""
    error = reason.value
    if isinstance(error, SSL.Error) and not isinstance(error, PeerRefusedError):
        return told(error)
    return reason.getErrorMessage()
