"""Asks next hops whether they would take mail for an address, on the terms on which they get mail."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from mailgate.address import NULL_PATH, Address
from mailgate.awaiting import as_deferred
from mailgate.config.routes import HopRoute, LmtpRoute, SmtpRoute
from mailgate.config.schema import Config
from mailgate.interfaces import IProber, OutcomeKind, ProbeResult, RecipientStatus
from mailgate.relay.attempt import ConnectFailedError, Result
from mailgate.relay.client.connection import SmtpConnection
from mailgate.relay.locate import Hosts, Locator, NoHosts
from mailgate.relay.replies.classify import Classifier
from mailgate.relay.sources import SYSTEM, Source
from mailgate.relay.transports import Transports

__all__ = ["NOBODY", "NoProber", "Prober", "source_of"]

_log = Logger()

#: Seconds for one question, whatever the route allows for delivery; addresses that are tried for it.
_LONGEST, _MOST_TARGETS = 120.0, 3
#: Characters of a reply that are kept.
_TOLD = 200

#: Kinds of refusals (see CATEGORIES) that are about the recipient. "other" is 550 without a word that we know.
NOBODY = frozenset({"no-such-user", "no-such-domain", "bad-address", "disabled", "other"})
#: That are about somebody who is there, and whose mail may wait.
_SOMEBODY = frozenset({"mailbox-full"})


@implementer(IProber)
class Prober:
    """Opens a session for each question, by the hosts, TLS, login and addresses of the route.

    A refusal that is about the recipient is UNKNOWN. One that is about us (a blocklist, relaying, a sender that is
    refused, policies) says nothing about the recipient: UNAVAILABLE, with a `reason`. A full mailbox is a mailbox.
    """

    def __init__(self, transports: Transports, locator: Locator, clock: IReactorTime) -> None:
        self._transports = transports
        self._locator = locator
        self._clock = clock
        self._config: Config | None = None
        self._classifier = Classifier()

    def use(self, config: Config, classifier: Classifier) -> None:
        """From now on, routes are those of this configuration, and replies mean what `classifier` says."""
        self._config, self._classifier = config, classifier

    async def probe(self, route: str, address: Address, *, stage: str, sender: Address = NULL_PATH) -> ProbeResult:
        asked = Deferred.fromCoroutine(self._probe(route, address, sender, through_data=stage == "data"))
        try:
            return await asked.addTimeout(_LONGEST, self._clock)
        except DeferredTimeout:
            return _nobody(f"no answer within {_LONGEST:g} s")
        except CancelledError:
            raise
        except Exception:
            _log.failure("a next hop cannot be asked about a recipient")
            return _nobody("an error of ours: see the log")

    async def _probe(self, name: str, address: Address, sender: Address, *, through_data: bool) -> ProbeResult:
        config = self._config
        route = config.routes.get(name) if config is not None else None
        if config is None or not isinstance(route, SmtpRoute | LmtpRoute):
            return _nobody(f"no route {name} to a server")
        located = self._locator.hosts(name, route, address.domain)
        hosts = located if isinstance(located, Hosts | NoHosts) else await located
        if isinstance(hosts, NoHosts):
            return _nobody(hosts.reason)
        lmtp = isinstance(route, LmtpRoute)
        targets = await self._locator.targets(hosts, lmtp=lmtp, ipv6=route.ipv6, domain=address.domain)
        if isinstance(targets, NoHosts):
            return _nobody(targets.reason)
        connector, source = self._transports.connector(name, route), source_of(config, route)
        found = _nobody("no host")
        for target in targets[:_MOST_TARGETS]:
            try:
                connection = await as_deferred(connector.connect(target, source=source))
            except ConnectFailedError as error:
                found = _nobody(str(error))
                continue
            try:
                # a connector of a route opens no others
                session = cast(SmtpConnection, connection)
                [result] = await session.probe(sender, address, through_data=through_data)
            finally:
                connection.close()
            found = self._meaning(result)
            if not result.next_host:
                break
        return found

    def _meaning(self, result: Result) -> ProbeResult:
        reply, told = result.reply, str(result.reply)[:_TOLD]
        if result.kind is OutcomeKind.DELIVERED:
            return ProbeResult(RecipientStatus.KNOWN, told)
        if not result.host:
            if result.kind is OutcomeKind.FAILED:  # it cannot be written, so nobody can get mail by it
                return ProbeResult(RecipientStatus.UNKNOWN, told)
            return _nobody(result.reason or told)
        category = self._classifier.category(reply)
        if category in _SOMEBODY:
            return ProbeResult(RecipientStatus.KNOWN, told)
        if result.kind is OutcomeKind.FAILED and category in NOBODY:
            return ProbeResult(RecipientStatus.UNKNOWN, told)
        is_about_us = reply.is_permanent or bool(result.reason)
        reason = f"{result.host} says {told}" if is_about_us else ""
        return ProbeResult(RecipientStatus.UNAVAILABLE, told, reason)


@implementer(IProber)
class NoProber:
    """Asks nobody: `reason` says why."""

    def __init__(self, reason: str) -> None:
        self._result = _nobody(reason)

    async def probe(self, route: str, address: Address, *, stage: str, sender: Address = NULL_PATH) -> ProbeResult:
        return self._result


def _nobody(reason: str) -> ProbeResult:
    return ProbeResult(RecipientStatus.UNAVAILABLE, "", reason)


def source_of(config: Config, route: HopRoute) -> Source:
    """The first address that mail of the route goes out from: a question counts towards no warm-up."""
    if route.pool is None:
        return SYSTEM
    pool: Mapping[str, int] = config.pools[route.pool].sources if route.pool in config.pools else {route.pool: 1}
    name = next((name for name, weight in pool.items() if weight), "")
    section = config.sources.get(name)
    return SYSTEM if section is None else Source(name, section.address, section.address6, section.hostname or "")
