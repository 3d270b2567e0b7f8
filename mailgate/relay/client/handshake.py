"""What a client's handshake came to, well or not."""

from __future__ import annotations

from collections.abc import Mapping

from OpenSSL import SSL
from twisted.python.failure import Failure

from mailgate.envelope import Tls
from mailgate.relay.security.demand import Demand
from mailgate.tls.check import CheckedConnection, PeerRefusedError, outcome_of
from mailgate.tls.context import told
from mailgate.tls.dane import DaneCheck
from mailgate.tls.failures import TlsFailure
from mailgate.tls.info import channel_bindings, tls_of

__all__ = ["failure_in", "look_at", "proved_domain", "told_for_people", "why_lost"]


def look_at(connection: SSL.Connection) -> tuple[Tls, Mapping[str, bytes]]:
    """The finished handshake as a value, and the channel bindings of the connection."""
    tls = tls_of(connection, outcome_of(connection).is_verified)
    return tls, channel_bindings(connection, is_server=False)


def told_for_people(tls: Tls, demand: Demand | None = None) -> str:
    """In one line: "TLSv1.3 TLS_AES_256_GCM_SHA384 verified", or "... DANE verified" where a policy asked for that, or
    "... (MTA-STS not fetched)" where it might have."""
    text = f"{tls.version} {tls.cipher}"
    if demand is not None and demand.is_unfetched:
        text += " (MTA-STS not fetched)"
    if not tls.is_verified:
        return text
    return f"{text}{'' if demand is None else _by(demand)} verified"


def _by(demand: Demand) -> str:
    if demand.level == "dane":
        return " DANE"
    return " MTA-STS" if (demand.level, demand.policy) == ("verified", "sts") else ""


def proved_domain(connection: SSL.Connection, demand: Demand) -> bool:
    """Whether the host has proved nothing but the name of the domain that the mail is for, the last in `demand`."""
    if len(demand.names) < 2 or not isinstance(connection, CheckedConnection):
        return False
    check = connection.check
    return isinstance(check, DaneCheck) and check.proved == demand.names[-1]


def failure_in(reason: Failure) -> TlsFailure:
    """What was wrong with TLS in a handshake that ended so."""
    return reason.value.failure if isinstance(reason.value, PeerRefusedError) else "validation-failure"


def why_lost(reason: Failure) -> str:
    """Why a connection was lost: in OpenSSL's words, or those of our own check, where TLS is the cause."""
    error = reason.value
    if isinstance(error, SSL.Error) and not isinstance(error, PeerRefusedError):
        return told(error)
    return reason.getErrorMessage()
