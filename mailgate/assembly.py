"""From a loaded configuration to what can be built anew on a reload: pipelines, routing, the directory, and what
sessions are given."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import cast

from twisted.internet.interfaces import IReactorTime

from mailgate.auth.checker import IAuthReactor
from mailgate.auth.file import warnings as users_warnings
from mailgate.auth.guesses import Guesses
from mailgate.auth.portal import Authenticator, make_authenticator
from mailgate.backends.keeping import Source, SourceKeeper, Sources, close_sources, made_of
from mailgate.backends.questions import IBackendReactor
from mailgate.config.auth import FileAuth
from mailgate.config.load import ConfigError, Loaded
from mailgate.config.schema import AuthSection, Config, ListenerSection
from mailgate.dns.client_name import confirmed_name
from mailgate.interfaces import (
    FilterServices,
    ICounters,
    IDeliveryFilter,
    IEventObserver,
    IEvents,
    IIntake,
    IPipeline,
    IProber,
    IResolver,
)
from mailgate.message import MemoryBudget
from mailgate.pipeline.build import build_pipelines
from mailgate.pipeline.registry import Registry
from mailgate.recipients.build import DirectoryError, make_sources
from mailgate.recipients.directory import Directory
from mailgate.recipients.source import ISource, SourceTools
from mailgate.relay.client.terms import Terms, TermsError, read_terms
from mailgate.relay.probing import NoProber
from mailgate.relay.replies.classify import Bounces
from mailgate.relay.routing import Routing
from mailgate.reporting.compose import make_signer
from mailgate.reporting.office import Reporting
from mailgate.rewriting.build import AliasError, make_alias_sources, make_aliases
from mailgate.rewriting.source import AliasSource, AliasTools
from mailgate.smtp.conversation import SessionServices
from mailgate.smtp.offers import Offers
from mailgate.smtp.postmaster import postmaster_domain
from mailgate.stores.lists import FileError
from mailgate.tls.client import ClientContexts
from mailgate.tls.pem import TlsError
from mailgate.tls.store import CertificateStore

__all__ = ["Assembler", "Assembly", "assemble", "make_addressing", "make_certificates", "make_users"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembly:
    """One configuration, built. `delivery_filter` is None where no filter asks to see delivery attempts."""

    config: Config
    pipelines: Mapping[str, IPipeline]
    delivery_filter: IDeliveryFilter | None
    observers: Sequence[IEventObserver]
    routing: Routing
    directory: Directory
    sources: Sources
    users: Mapping[str, Authenticator]
    certificates: CertificateStore | None
    terms: Mapping[str, Terms]
    bounces: Bounces
    reporting: Reporting | None

    def warnings(self) -> list[str]:
        """What is no error, but should be seen to: of files of users, and of our certificates."""
        found = [text for one in self.config.auth.values() if isinstance(one, FileAuth) for text in users_warnings(one)]
        return found + (self.certificates.warnings() if self.certificates is not None else [])

    def session_services(
        self,
        listener: ListenerSection,
        *,
        clock: IReactorTime,
        resolver: IResolver,
        events: IEvents,
        intake: IIntake,
        incoming: Path,
        budget: MemoryBudget,
        counters: ICounters,
        turn: Callable[[str], Awaitable[int]],
        secret: bytes,
    ) -> SessionServices:
        """What the sessions of a listener share, as in SessionServices."""
        gateway = self.config.gateway
        has_tls = self.certificates is not None and listener.tls != "off"
        asked = listener.client_certificates
        if asked == "require" and self.config.tls.client_fingerprints:
            asked = "request"  # those who are known by a fingerprint have no authority: MAIL refuses the others
        tls = self.certificates.server_creator(asked) if self.certificates is not None and has_tls else None
        authenticator = self.users[listener.auth] if listener.auth is not None else None
        # Whoever knows the users may learn more mechanisms while it runs.
        mechanisms = frozenset[str] if authenticator is None else lambda: authenticator.mechanisms
        offers = Offers(gateway.hostname, listener, has_tls=has_tls, mechanisms=mechanisms)
        return SessionServices(
            hostname=gateway.hostname,
            clock=clock,
            events=events,
            routing=self.routing,
            intake=intake,
            pipeline=self.pipelines[listener.pipeline],
            trusted_pipeline=self.pipelines[listener.trusted_pipeline or listener.pipeline],
            client_name=functools.partial(confirmed_name, resolver),
            incoming=incoming,
            memory_limit=gateway.memory_limit,
            budget=budget,
            offers=offers,
            counters=counters,
            turn=turn,
            secret=secret,
            authenticator=authenticator,
            tls=tls,
            fingerprints={print_: name for name, print_ in self.config.tls.client_fingerprints.items()},
            postmaster_domain=postmaster_domain(self.config),
        )


def assemble(
    loaded: Loaded,
    registry: Registry,
    *,
    clock: IReactorTime,
    resolver: IResolver,
    counters: ICounters,
    events: IEvents,
    random: Random,
    users: Mapping[str, Authenticator] = MappingProxyType({}),
    sources: Sources | None = None,
) -> Assembly:
    """Build it, with the `users` of make_users and the `sources` of make_addressing; without those it makes some that
    follow what a gateway has saved, and ask no next hop. ConfigError where a filter, a list, a table or a certificate
    cannot be made of what the file says."""
    config = loaded.config
    try:
        certificates = make_certificates(config, clock)
    except TlsError as error:
        raise ConfigError(tuple(loaded.error(("tls", "certificate"), text) for text in error.errors)) from error
    try:
        if sources is None:
            tools = SourceTools(
                reactor=cast(IBackendReactor, clock),
                events=events,
                counters=counters,
                prober=NoProber("no next hop is asked here"),
                state_dir=config.gateway.state_dir,
                leads=False,
            )
            sources = make_addressing(loaded, tools)
        directory = Directory(config, {name: one.source for name, one in _recipients_of(sources).items()})
        known = {name: one.source for name, one in _aliases_of(sources).items()}
        aliases = make_aliases(config, known, directory=directory, is_local=directory.is_local, clock=clock)
        routing = Routing(config, aliases)
        terms = read_terms(config.routes, ClientContexts(clock))
    except (AliasError, TermsError) as error:
        raise ConfigError(tuple(loaded.error(key, text) for key, text in error.errors)) from error
    except ValueError as error:
        raise ConfigError((f"{loaded.path}: {error}",)) from error
    services = FilterServices(
        clock=clock,
        resolver=resolver,
        counters=counters,
        directory=directory,
        local_domains=directory.is_local,
        events=events,
        random=random,
        hostname=config.gateway.hostname,
        state_dir=config.gateway.state_dir,
    )
    built = build_pipelines(loaded, registry, services)
    return Assembly(
        config=config,
        pipelines=built.by_name,
        delivery_filter=built.delivery or None,
        observers=built.observers,
        routing=routing,
        directory=directory,
        sources=sources,
        users=users,
        certificates=certificates,
        terms=terms,
        bounces=Bounces.of(config.bounces, loaded.rules),
        reporting=_reporting(loaded),
    )


def _reporting(loaded: Loaded) -> Reporting | None:
    """How reports about mail in others' name are made; None where there are none. They go by the standard of the first
    filter of kind dmarc."""
    section = loaded.config.reports
    if not section.enabled:
        return None
    try:
        sign = make_signer(section.dkim)
    except ValueError as error:
        raise ConfigError((loaded.error(("reports", "dkim", "key"), str(error)),)) from error
    judges = [one for name, one in loaded.options.items() if (loaded.config.filter(name).kind or name) == "dmarc"]
    standard = getattr(judges[0], "standard", "") if judges else ""
    return Reporting(section, sign, "rfc7489" if standard == "rfc7489" else "rfc9989")


class Assembler:
    """Builds the configurations of one gateway, one after another, with the same parts."""

    def __init__(
        self,
        *,
        reactor: IBackendReactor,
        resolver: IResolver,
        counters: ICounters,
        events: IEvents,
        random: Random,
        prober: IProber,
        leads: bool,
    ) -> None:
        """`leads`: whether this process, of several, reads what one is enough to read."""
        self._reactor = reactor
        self._resolver = resolver
        self._counters = counters
        self._events = events
        self._random = random
        self._prober = prober
        self._leads = leads

    def build(
        self, loaded: Loaded, registry: Registry, users: Mapping[str, Authenticator], keeper: SourceKeeper
    ) -> Assembly:
        """See `assemble`; sources of addresses that `keeper` has go on. ConfigError."""
        tools = SourceTools(
            reactor=self._reactor,
            events=self._events,
            counters=self._counters,
            prober=self._prober,
            state_dir=loaded.config.gateway.state_dir,
            leads=self._leads,
        )
        sources = make_addressing(loaded, tools, keeper.current)
        try:
            return assemble(
                loaded,
                registry,
                clock=self._reactor,
                resolver=self._resolver,
                counters=self._counters,
                events=self._events,
                random=self._random,
                users=users,
                sources=sources,
            )
        except ConfigError:
            keeper.drop(sources)
            raise


def make_addressing(loaded: Loaded, tools: SourceTools, known: Sources = MappingProxyType({})) -> Sources:
    """What `[recipients.NAME]` and `[aliases.NAME]` are made to, by ("recipients", NAME) and ("aliases", NAME); see
    `make_sources` and `make_alias_sources`. ConfigError where one cannot be made."""
    errors: list[str] = []
    recipients: Mapping[str, Source[ISource]] = {}
    aliases: Mapping[str, Source[AliasSource]] = {}
    try:
        recipients = make_sources(loaded.config, tools, _recipients_of(known))
    except DirectoryError as error:
        errors += [loaded.error(key, text) for key, text in error.errors]
    try:
        aliases = make_alias_sources(loaded.config, AliasTools(tools.reactor, tools.events), _aliases_of(known))
    except AliasError as error:
        errors += [loaded.error(key, text) for key, text in error.errors]
    made: Sources = {
        **{("recipients", name): one for name, one in recipients.items()},
        **{("aliases", name): one for name, one in aliases.items()},
    }
    if errors:
        close_sources(one for key, one in made.items() if known.get(key) is not one)
        raise ConfigError(tuple(errors))
    return made


def _recipients_of(sources: Sources) -> dict[str, Source[ISource]]:
    return {name: cast("Source[ISource]", one) for (kind, name), one in sources.items() if kind == "recipients"}


def _aliases_of(sources: Sources) -> dict[str, Source[AliasSource]]:
    return {name: cast("Source[AliasSource]", one) for (kind, name), one in sources.items() if kind == "aliases"}


def make_certificates(config: Config, clock: IReactorTime) -> CertificateStore | None:
    """Our certificates, if there are any; TlsError where they cannot be used."""
    section = config.tls
    if section.certificate is None:
        return None
    return CertificateStore(
        section.certificate,
        clock,
        hostname=config.gateway.hostname,
        minimum_version=section.minimum_version,
        ciphers=section.ciphers,
        client_ca=section.client_ca,
    )


def make_users(
    loaded: Loaded,
    reactor: IAuthReactor,
    known: Mapping[str, Authenticator] = MappingProxyType({}),
) -> dict[str, Authenticator]:
    """An authenticator for each [auth.NAME]; those `known` go on whose section, files and certificates are as they
    were when they were made.

    ConfigError where one cannot be made, because of what its files hold now as well.
    """
    config = loaded.config
    certificates = {print_: name for name, print_ in config.tls.client_fingerprints.items()}
    guesses = next((one.guesses for one in known.values()), None) or Guesses()
    users: dict[str, Authenticator] = {}
    for name, section in config.auth.items():
        now = (made_of(section), certificates)
        if name in known and known[name].made_of == now:
            users[name] = known[name]
            continue
        try:
            users[name] = make_authenticator(
                section, name=name, reactor=reactor, certificates=certificates, guesses=guesses, made_of=now
            )
        except ValueError as error:
            raise ConfigError(_lines(loaded, name, section, error)) from error
    return users


def _lines(loaded: Loaded, name: str, section: AuthSection, error: ValueError) -> tuple[str, ...]:
    """The lines of ConfigError about a section that cannot be made."""
    if not isinstance(section, FileAuth):
        return (loaded.error(("auth", name), str(error)),)
    texts = error.errors if isinstance(error, FileError) else (str(error),)
    if isinstance(error.__cause__, FileNotFoundError):
        texts = (f"{section.path}: does not exist: make it with mailgate password",)
    return tuple(loaded.error(("auth", name, "path"), text) for text in texts)
