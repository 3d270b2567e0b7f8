"""From a route's section to what delivers by it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

from cachetools import TTLCache
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from mailgate.config.routes import HttpRoute, LmtpRoute, SiteRoute, SmtpRoute
from mailgate.config.schema import DiscardRoute, MaildirRoute
from mailgate.relay.attempt import IConnector, ITransport
from mailgate.relay.client.connector import IClientReactor, SmtpConnector, WithoutTls
from mailgate.relay.client.terms import Terms, terms_of
from mailgate.relay.client.token_login import TokenConnector
from mailgate.relay.client.tokens import TokenSources
from mailgate.relay.discard import DiscardTransport
from mailgate.relay.maildir import IMaildirReactor, MaildirTransport
from mailgate.relay.web_post.connector import NO_WEB, WebConnector, WebTerms, web_terms_of
from mailgate.tls.client import ClientContexts

__all__ = ["ITransportReactor", "RouteTransports", "Transports"]

T = TypeVar("T")

#: Hosts with which TLS has failed that are remembered at one time, and for how many seconds.
_WITHOUT_TLS, _FORGOTTEN_AFTER = 10_000, 3600.0


class ITransportReactor(IClientReactor, IMaildirReactor):
    """What delivering needs of the reactor."""


class Transports(Protocol):
    """Makes what delivers by a route."""

    def use(self, terms: Mapping[str, Terms], web: Mapping[str, WebTerms] = NO_WEB) -> None:
        """From now on, new connections go by these terms, by the names of routes."""

    def connector(self, name: str, route: SiteRoute) -> IConnector:
        """Opens connections for the route of this name, on its terms and with its time-outs."""

    def local(self, route: MaildirRoute | DiscardRoute) -> ITransport:
        """Delivers without connections."""


class RouteTransports:
    """Transports over the network and into folders.

    `make_pool` gives each Maildir path threads of its own, started: a disk that hangs holds up nobody else. Logins that
    take long to compute have such threads, too, and so have messages for applications.
    """

    def __init__(self, reactor: ITransportReactor, make_pool: Callable[[], ThreadPool], hostname: str) -> None:
        self._reactor = reactor
        self._make_pool = make_pool
        self._hostname = hostname
        self._maildirs: dict[str, MaildirTransport] = {}
        self._pool: ThreadPool | None = None
        self._terms: Mapping[str, Terms] = {}
        self._web: Mapping[str, WebTerms] = NO_WEB
        self._contexts = ClientContexts(reactor)
        self._tokens = TokenSources(reactor)
        self._without_tls: WithoutTls = TTLCache(_WITHOUT_TLS, _FORGOTTEN_AFTER, timer=reactor.seconds)

    def use(self, terms: Mapping[str, Terms], web: Mapping[str, WebTerms] = NO_WEB) -> None:
        """From now on connectors are made on these terms (see `read_terms` and `read_web_terms`), by the name of their
        route."""
        self._terms = terms
        self._web = web
        self._without_tls.clear()
        self._tokens.keep(one.login.tokens for one in terms.values() if one.login and one.login.tokens)

    def connector(self, name: str, route: SiteRoute) -> IConnector:
        """As in Transports. A route without terms, which the configuration does not have, gets those that it says;
        TermsError where its files do not serve."""
        if isinstance(route, HttpRoute):
            web = self._web.get(name) or web_terms_of(route, self._reactor, self._contexts)
            return WebConnector(self._reactor, name, route, web, self._work)
        found = self._terms.get(name)
        terms = terms_of(route, self._contexts) if found is None else found

        opening = _opening_time(route)

        def on_terms(terms: Terms) -> SmtpConnector:
            return SmtpConnector(
                self._reactor,
                self._hostname,
                min(route.connect_timeout, opening),
                route.command_timeout,
                route.data_timeout,
                opening_timeout=opening,
                terms=terms,
                without_tls=self._without_tls,
                work=self._work,
            )

        if terms.login is None or terms.login.tokens is None:
            return on_terms(terms)
        return TokenConnector(on_terms, terms, self._tokens.of(terms.login.tokens))

    def local(self, route: MaildirRoute | DiscardRoute) -> ITransport:
        """As in Transports."""
        if isinstance(route, DiscardRoute):
            return DiscardTransport(route.reason)
        # One for each path, whatever queues come and go: it counts its files, and no two may have one name.
        if route.path not in self._maildirs:
            self._maildirs[route.path] = MaildirTransport(
                route.path, hostname=self._hostname, reactor=self._reactor, pool=self._make_pool()
            )
        return self._maildirs[route.path]

    def _work(self, compute: Callable[[], T]) -> Deferred[T]:
        if self._pool is None:
            self._pool = self._make_pool()
        return deferToThreadPool(self._reactor, self._pool, compute)


def _opening_time(route: SmtpRoute | LmtpRoute) -> float:
    """For each step until a session is open: where a client waits, a silent host must leave time for another."""
    if route.queue:
        return math.inf
    hosts = sum(1 if isinstance(one, str) else len(one) for one in route.hosts)
    return route.rcpt_timeout / (hosts + 1)
