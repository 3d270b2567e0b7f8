"""A configuration, built to judge mail and nothing else: nothing is taken, delivered, counted or written."""

from __future__ import annotations

import functools
import random
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

from twisted.internet.interfaces import IReactorTime

from mailgate.assembly import assemble
from mailgate.backends.keeping import close_sources
from mailgate.config.hosts import parse_server
from mailgate.config.load import Loaded
from mailgate.config.schema import Config
from mailgate.dns.client_name import confirmed_name
from mailgate.dns.resolver import Resolver
from mailgate.observe.hub import EventHub
from mailgate.pipeline.registry import Registry
from mailgate.rehearsal.judging import Judge
from mailgate.stores.counters import MemoryCounters

__all__ = ["Policy", "make_resolver"]


def make_resolver(reactor: Any, config: Config) -> Resolver:
    """A resolver as the configuration wants it."""
    servers = [parse_server(server) for server in config.dns.servers]
    return Resolver(reactor, servers, config.dns.timeout, config.dns.cache_size, random.SystemRandom())


class Policy:
    """Built from a configuration; ConfigError where it cannot be. `incoming` is a folder for what filters change, and
    `time` what those ask who count: the mail may have come long ago. `close` it."""

    def __init__(
        self,
        loaded: Loaded,
        registry: Registry,
        reactor: Any,
        resolver: Resolver,
        incoming: Path,
        time: IReactorTime | None = None,
    ) -> None:
        self.config = loaded.config
        assembly = assemble(
            loaded,
            registry,
            clock=reactor,
            resolver=resolver,
            counters=MemoryCounters(time or reactor, self.config.counters.max_keys),
            events=EventHub(),
            random=random.SystemRandom(),
            incoming=incoming,
        )
        self._sources = list(assembly.sources.values())
        for one in self._sources:
            one.source.start()
        self.is_local = assembly.directory.is_local
        self.judge = Judge(
            hostname=self.config.gateway.hostname,
            pipelines=assembly.pipelines,
            routing=assembly.routing,
            client_name=functools.partial(confirmed_name, resolver),
            observers=assembly.observers,
        ).judge

    def close(self) -> Awaitable[object]:
        """End what runs by itself; the resolver is its owner's."""
        return close_sources(self._sources)
