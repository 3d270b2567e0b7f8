"""From what came of a connection to what is told of it in TLS reports (RFC 8460 section 4)."""

from __future__ import annotations

import socket
from collections.abc import Callable

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailgate.relay.attempt import ConnectFailedError, IConnection
from mailgate.relay.security.demand import Demand
from mailgate.relay.security.policies import TransportSecurity
from mailgate.relay.security.sts import StsFound
from mailgate.relay.sources import Source
from mailgate.stores.domains import canonical
from mailgate.stores.tls_sessions import TlsSession, TlsTally
from mailgate.tls.failures import TlsFailure

__all__ = ["Accountant", "tallies"]

_log = Logger()


class Accountant:
    """Tells of each session whoever listens; `security` is what holds now."""

    def __init__(self, clock: IReactorTime, security: Callable[[], TransportSecurity | None]) -> None:
        self._tell: Callable[[TlsSession], None] | None = None
        self._clock = clock
        self._security = security

    def listen(self, tell: Callable[[TlsSession], None] | None) -> None:
        """From now on this is told; None: nobody."""
        self._tell = tell

    def account(self, domain: str, outcome: IConnection | ConnectFailedError, source: Source) -> None:
        """As Account in SiteTools. What routes with hosts of their own do is nobody's business."""
        if self._tell is not None and domain and outcome.target.demand is not None:
            noting = Deferred.fromCoroutine(self._note(canonical(domain), outcome, source))
            noting.addErrback(_not_noted)

    async def _note(self, domain: str, outcome: IConnection | ConnectFailedError, source: Source) -> None:
        security, demand, now = self._security(), outcome.target.demand, self._clock.seconds()
        if security is None or demand is None:
            return
        published = await security.published(domain)
        if self._tell is not None:
            for tally in tallies(outcome, demand, published, source):
                self._tell(TlsSession(at=now, domain=domain, tally=tally))


def _not_noted(failure: Failure) -> None:
    if not failure.check(CancelledError):  # the end has come
        _log.failure("a session cannot be counted", failure=failure)


def tallies(
    outcome: IConnection | ConnectFailedError, demand: Demand, published: StsFound, source: Source
) -> list[TlsTally]:
    """What is to be counted: the session, if it came to TLS and no policy of ours is meant, and what is wrong with a
    policy."""
    found = []
    if published.failure:
        found.append(_tally("sts", demand, published, failure=published.failure, reason=published.reason))
    if demand.policy == "local":
        return found
    failure, reason = _failure(outcome, demand)
    if failure is None:
        return found
    if not failure:
        return [*found, _tally(demand.policy, demand, published)]
    target = outcome.target
    sending = source.address6 if ":" in target.address else source.address
    sending_ip = str(sending) if sending is not None else _chosen_for(target.address)
    tally = _tally(
        demand.policy,
        demand,
        published,
        failure=failure,
        reason=reason,
        sending=sending_ip,
        host=target.host,
        address=target.address,
    )
    return [*found, tally]


def _failure(outcome: IConnection | ConnectFailedError, demand: Demand) -> tuple[TlsFailure | None, str]:
    """What was wrong; None where it never came to TLS."""
    if isinstance(outcome, ConnectFailedError):
        return outcome.tls_failure or None, outcome.reason
    if demand.failure:
        return demand.failure, demand.reason
    if outcome.tls is None:
        return ("validation-failure", "TLS failed") if outcome.is_fallback else ("starttls-not-supported", "")
    if demand.level == "welcome" and demand.policy == "sts":  # in test: nobody insisted
        return outcome.tls_failure, ""
    return "", ""


def _chosen_for(address: str) -> str:
    """Our address for connections there, where the system chooses it; "" where there is no way. Sends nothing."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.connect((address, 25))
            return str(one.getsockname()[0])
    except OSError:
        return ""


def _tally(
    policy: str,
    demand: Demand,
    published: StsFound,
    *,
    failure: str = "",
    reason: str = "",
    sending: str = "",
    host: str = "",
    address: str = "",
) -> TlsTally:
    strings: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    if policy == "tlsa":
        strings, hosts = tuple(map(str, demand.tlsa)), demand.names[:1]
    elif policy == "sts" and published.policy is not None:
        strings, hosts = published.policy.lines, published.policy.mx
    return TlsTally(
        policy_type=policy,
        policy_strings=strings,
        mx_hosts=hosts,
        failure=failure,
        sending_ip=sending,
        receiving_host=host,
        receiving_ip=address,
        reason=reason,
    )
