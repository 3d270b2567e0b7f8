"""From a configuration to everything that is checked of it."""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from types import MappingProxyType

from twisted.python.threadpool import ThreadPool

from mailgate.addressing import make_addressing, make_users
from mailgate.assembly import Assembly, assemble
from mailgate.auth.portal import Authenticator
from mailgate.backends.keeping import SourceKeeper, Sources, close_sources
from mailgate.config.hosts import parse_server
from mailgate.config.load import ConfigError, Loaded
from mailgate.dns.resolver import Resolver
from mailgate.doctor.applications import application_checks
from mailgate.doctor.certificates import certificate_checks
from mailgate.doctor.clock import clock_checks
from mailgate.doctor.diagnosis import Check, Notes
from mailgate.doctor.directories import auth_checks, recipient_checks
from mailgate.doctor.disk import disk_checks
from mailgate.doctor.dkim import dkim_checks
from mailgate.doctor.dns_domains import domain_checks
from mailgate.doctor.dns_senders import sender_checks
from mailgate.doctor.dns_trust import trust_checks
from mailgate.doctor.hops import hop_checks
from mailgate.doctor.machine import file_checks, port_checks
from mailgate.doctor.open_relay import relay_checks
from mailgate.doctor.origins import origin_checks
from mailgate.doctor.servers import server_checks
from mailgate.doctor.shown import shown_checks
from mailgate.doctor.site import MOST_DOMAINS, Site, UsedFilter
from mailgate.doctor.threads import in_threads_of_their_own
from mailgate.observe.hub import EventHub
from mailgate.outside import IGatewayReactor
from mailgate.pipeline.registry import Registry
from mailgate.recipients.source import SourceTools
from mailgate.relay.locate import Locator, OwnAddresses
from mailgate.relay.probing import Prober
from mailgate.relay.security.sts_fetch import PolicyFetcher
from mailgate.relay.transports import RouteTransports
from mailgate.stores.counters import MemoryCounters

__all__ = ["checks_of", "site_of"]

#: Threads for logins at next hops.
_THREADS = 4
#: Seconds for one question to DNS, at most: many are asked.
_LONGEST_QUESTION = 5.0

_MAKERS: tuple[Callable[[Site], Iterator[Check]], ...] = (
    domain_checks,
    sender_checks,
    trust_checks,
    dkim_checks,
    certificate_checks,
    shown_checks,
    hop_checks,
    application_checks,
    recipient_checks,
    server_checks,
    auth_checks,
    relay_checks,
    origin_checks,
    clock_checks,
    disk_checks,
    file_checks,
    port_checks,
)


def checks_of(site: Site) -> Iterator[Check]:
    """All there are."""

    async def configuration(notes: Notes) -> None:
        for line in site.errors:
            notes.fail(line)
        for line in site.warnings:
            notes.warn(line)
        if not (site.errors or site.warnings):
            notes.ok("mailgate check has nothing to say")
        if len(site.all_domains) > MOST_DOMAINS:
            text = f"of {len(site.all_domains)} domains {MOST_DOMAINS} are looked at"
            notes.note(text, "--domain NAME asks for another one")

    yield Check("config", str(site.path), configuration)
    for make in _MAKERS:
        yield from make(site)


@contextlib.asynccontextmanager
async def site_of(
    loaded: Loaded,
    registry: Registry,
    reactor: IGatewayReactor,
    *,
    binds: Mapping[tuple[str, int], int] = MappingProxyType({}),
    is_deep: bool = False,
    only_domains: Collection[str] = (),
) -> AsyncIterator[Site]:
    """The configuration with the parts that a gateway would work with; they are closed at the end. What cannot be built
    is an error of the site. Nothing is saved."""
    config = loaded.config
    chance = random.SystemRandom()
    servers = [parse_server(server) for server in config.dns.servers]
    timeout = min(config.dns.timeout, _LONGEST_QUESTION)
    resolver = Resolver(reactor, servers, timeout, config.dns.cache_size, chance)
    fetcher = PolicyFetcher(reactor, resolver, timeout=config.mta_sts.timeout, ca=config.mta_sts.ca)
    locator = Locator(resolver, config.gateway.hostname, chance, OwnAddresses(reactor.seconds))
    pools: list[ThreadPool] = []

    def make_pool() -> ThreadPool:
        pool = ThreadPool(0, _THREADS, name="doctor")
        pool.start()
        pools.append(pool)
        return pool

    transports = RouteTransports(reactor, make_pool, config.gateway.hostname)
    prober = Prober(transports, locator, reactor)
    keeper = SourceKeeper(reactor)
    users: dict[str, Authenticator] = {}
    sources: Sources = {}
    assembly: Assembly | None = None
    errors: tuple[str, ...] = ()
    try:
        try:
            tools = SourceTools(
                reactor=reactor,
                events=EventHub(),
                counters=MemoryCounters(reactor, config.counters.max_keys),
                prober=prober,
                state_dir=config.gateway.state_dir,
                leads=False,
            )
            users |= make_users(loaded, reactor)
            sources = make_addressing(loaded, tools)
            assembly = assemble(
                loaded,
                registry,
                clock=reactor,
                resolver=resolver,
                counters=tools.counters,
                events=tools.events,
                random=chance,
                users=users,
                sources=sources,
            )
            transports.use(assembly.terms, assembly.web_terms)
            prober.use(config, assembly.bounces.classifier)
            keeper.use(sources)
        except ConfigError as error:
            errors = error.errors
            close_sources(sources.values())
        yield Site(
            path=loaded.path.absolute(),
            config=config,
            filters=_filters(loaded),
            reactor=reactor,
            resolver=resolver,
            locator=locator,
            transports=transports,
            chance=chance,
            in_thread=in_threads_of_their_own(reactor),
            fetch_policy=fetcher.fetch,
            assembly=assembly,
            warnings=(*loaded.warnings, *(assembly.warnings() if assembly is not None else ())),
            errors=errors,
            binds=binds,
            is_deep=is_deep,
            only_domains=only_domains,
        )
    finally:
        await keeper.close()
        for one in users.values():
            await one.close()
        await fetcher.close()
        resolver.close()
        for pool in pools:
            pool.stop()


def _filters(loaded: Loaded) -> list[UsedFilter]:
    """Those that a pipeline names, once each."""
    names: dict[str, None] = {}
    for pipeline in loaded.config.pipelines.values():
        for entry in pipeline.filters:
            names |= dict.fromkeys([entry] if isinstance(entry, str) else entry)
    found = []
    for name in names:
        section = loaded.config.filter(name)
        found.append(UsedFilter(name, section.kind or name, section, loaded.options.get(name)))
    return found
