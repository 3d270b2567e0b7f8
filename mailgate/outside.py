"""The parts of a process that touch the outside: disk, network, threads."""

from __future__ import annotations

import random

from twisted.application.service import Service
from twisted.internet.interfaces import IReactorUDP
from twisted.python.threadpool import ThreadPool

from mailgate.auth.checker import IAuthReactor
from mailgate.awaiting import in_reactors_threads
from mailgate.config.hosts import parse_server
from mailgate.config.load import Loaded
from mailgate.config.places import Places
from mailgate.config.schema import Config
from mailgate.dns.resolver import Resolver
from mailgate.observe.hub import EventHub
from mailgate.observe.log import JsonLog, Logs
from mailgate.observe.postfix_log import PostfixLog
from mailgate.observe.recorder import Recorder
from mailgate.rehearsal.store import Accounts
from mailgate.relay.ready.local import LocalQueue
from mailgate.relay.transports import ITransportReactor, RouteTransports, Transports
from mailgate.reporting.office import IOfficeReactor
from mailgate.sockets.reactor import hasten
from mailgate.spool.sqlite import SqliteSpool
from mailgate.stores.suppressions import Suppressions
from mailgate.workers.records import make_sinks
from mailgate.workers.team import Team

__all__ = ["IGatewayReactor", "Outside"]


class IGatewayReactor(ITransportReactor, IAuthReactor, IReactorUDP, IOfficeReactor):
    """What the gateway needs of the reactor."""


class Outside(Service):
    """Makes them, each once, from the configuration in `loaded`; `team` is what the process shares with others."""

    json_log: JsonLog | Logs

    def __init__(self, loaded: Loaded, reactor: IGatewayReactor, team: Team, events: EventHub) -> None:
        self.loaded = loaded
        self.reactor = reactor
        self.events = events
        self.random = random.SystemRandom()
        self._team = team
        self._pools: list[ThreadPool] = []

    @property
    def config(self) -> Config:
        """The configuration that new sessions go by."""
        return self.loaded.config

    @property
    def places(self) -> Places:
        """Where its state lies."""
        return Places(self.config.gateway.state_dir)

    def open_spool(self) -> SqliteSpool:
        """The spool; SpoolError where it cannot be used."""
        section = self.config.spool
        return SqliteSpool(
            self.places.spool,
            events=self.events,
            call_from_thread=self.reactor.callFromThread,
            inline_limit=section.inline_limit,
            min_free=section.min_free,
            soon=hasten(self.reactor),
            worker=self._team.worker,
            workers=self._team.workers,
        )

    def make_resolver(self) -> Resolver:
        """DNS."""
        section = self.config.dns
        servers = [parse_server(server) for server in section.servers]
        return Resolver(self.reactor, servers, section.timeout, section.cache_size, self.random)

    def make_transports(self) -> Transports:
        """What delivers."""
        return RouteTransports(self.reactor, self.make_pool, self.config.gateway.hostname)

    def make_suppressions(self) -> Suppressions:
        """The addresses that get no more mail of ours."""
        in_thread = in_reactors_threads(self.reactor)
        return Suppressions(self.places.suppressions, in_thread, self.reactor.seconds)

    def make_rehearsed(self) -> Accounts:
        """What is found of copies that another gateway sends."""
        return Accounts(self.places.rehearsal, in_reactors_threads(self.reactor), self.reactor.seconds)

    def make_pool(self) -> ThreadPool:
        """Threads that wait for a disk."""
        pool = ThreadPool(0, LocalQueue.LIMIT, name="delivery")
        pool.start()
        self._pools.append(pool)
        return pool

    def make_recorder(self) -> Recorder:
        """The log and the history; OSError where they cannot be written."""
        section, directory = self.config.log, self.places.state_dir
        self.json_log = JsonLog(section.path, directory)
        if section.postfix:
            hostname = self.config.gateway.hostname
            self.json_log = Logs([self.json_log, PostfixLog(section.postfix, directory, hostname)])
        return Recorder(make_sinks(self._team, self.config, self.json_log, self.places.history))
