"""From a loaded configuration to what can be built anew on a reload: pipelines, routing, the directory, and what
sessions are given."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import cast

from twisted.internet.interfaces import IReactorTime

from mailgate.address import Address
from mailgate.addressing import alias_sources, make_addressing, recipient_sources
from mailgate.auth.file import warnings as users_warnings
from mailgate.auth.portal import Authenticator
from mailgate.awaiting import at_once
from mailgate.backends.keeping import Sources
from mailgate.backends.questions import IBackendReactor
from mailgate.config.auth import FileAuth
from mailgate.config.load import ConfigError, Loaded
from mailgate.config.places import Places
from mailgate.config.schema import Config, ListenerSection
from mailgate.dns.client_name import confirmed_name
from mailgate.filters.list_unsubscribe import Options as ListUnsubscribeOptions
from mailgate.filters.own_signature import own_signature
from mailgate.interfaces import (
    Expand,
    Expanded,
    FilterServices,
    ICounters,
    IDeliveryFilter,
    IEventObserver,
    IEvents,
    IInline,
    IIntake,
    IPipeline,
    IRescan,
    IResolver,
    IRouting,
    ISuppressions,
)
from mailgate.message import MemoryBudget
from mailgate.mta.making import policy_warnings
from mailgate.pipeline.build import build_pipelines
from mailgate.pipeline.origin import OriginPipeline
from mailgate.pipeline.registry import Registry
from mailgate.recipients.directory import Directory
from mailgate.recipients.source import SourceTools
from mailgate.rehearsal.apart import apart, without_waiting
from mailgate.rehearsal.copies import CopyDoor, CopyIntake, CopyRouting, largest_copy
from mailgate.rehearsal.judging import Judge
from mailgate.rehearsal.store import Accounts
from mailgate.relay.client.terms import Terms, TermsError, read_terms
from mailgate.relay.probing import NoProber
from mailgate.relay.replies.classify import Bounces
from mailgate.relay.routing import Routing
from mailgate.relay.security.office import check_authorities
from mailgate.relay.sizes import LearntSizes
from mailgate.relay.web_post.connector import WebTerms, read_web_terms
from mailgate.reporting.making import make_reporting, make_tls_reporting
from mailgate.reporting.office import Reporting
from mailgate.reporting.tls_office import TlsReporting
from mailgate.rewriting.build import AliasError, make_aliases
from mailgate.rewriting.unsubscribe import UnsubscribeTokens
from mailgate.smtp.conversation import SessionServices
from mailgate.smtp.copies import offered_to_copies
from mailgate.smtp.offers import Offers
from mailgate.smtp.postmaster import postmaster_domain
from mailgate.stores.secret_lines import SecretFile
from mailgate.stores.suppressions import SeenSuppressions, Suppressions
from mailgate.tls.client import ClientContexts
from mailgate.tls.pem import TlsError
from mailgate.tls.store import CertificateStore
from mailgate.web.injection.taking import Taker
from mailgate.webhooks.target import Target, TargetError, make_targets

__all__ = ["Assembly", "assemble", "make_certificates"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembly:
    """One configuration, built. `delivery_filter` is None where no filter asks to see delivery attempts, `copies` where
    no listener takes copies: it has pipelines of its own, of which nobody hears."""

    config: Config
    pipelines: Mapping[str, IPipeline]
    rescans: Mapping[str, IRescan]
    delivery_filter: IDeliveryFilter | None
    observers: Sequence[IEventObserver]
    routing: Routing
    directory: Directory
    sources: Sources
    users: Mapping[str, Authenticator]
    certificates: CertificateStore | None
    terms: Mapping[str, Terms]
    web_terms: Mapping[str, WebTerms]
    bounces: Bounces
    reporting: Reporting | None
    tls_reporting: TlsReporting | None
    webhooks: Mapping[str, Target]
    unsubscribe: UnsubscribeTokens | None
    copies: Judge | None
    expand: Expand

    def warnings(self) -> list[str]:
        """What is no error, but should be seen to: of files of users, policy services, and our certificates."""
        found = [text for one in self.config.auth.values() if isinstance(one, FileAuth) for text in users_warnings(one)]
        found += policy_warnings(self)
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
        inline: IInline | None = None,
        learnt: LearntSizes | None = None,
        rehearsed: Accounts | None = None,
    ) -> SessionServices:
        """What the sessions of a listener share, as in SessionServices; `rehearsed` keeps what is found of copies."""
        gateway = self.config.gateway
        has_tls = self.certificates is not None and listener.tls != "off"
        asked = listener.client_certificates
        if asked == "require" and self.config.tls.client_fingerprints:
            asked = "request"  # those who are known by a fingerprint have no authority: MAIL refuses the others
        tls = self.certificates.server_creator(asked) if self.certificates is not None and has_tls else None
        authenticator = self.users[listener.auth] if listener.auth is not None else None
        # Whoever knows the users may learn more mechanisms while it runs.
        mechanisms = frozenset[str] if authenticator is None else lambda: authenticator.mechanisms
        max_size: Callable[[], int] | None = None
        if listener.size_of and learnt is not None:
            max_size = functools.partial(learnt.limit, listener.size_of, listener.max_message_size)
        if listener.rehearse:
            max_size = largest_copy
        offered = offered_to_copies(listener) if listener.rehearse else listener
        offers = Offers(gateway.hostname, offered, has_tls=has_tls, mechanisms=mechanisms, max_size=max_size)
        pipeline = self.pipelines[listener.pipeline]
        trusted_pipeline = self.pipelines[listener.trusted_pipeline or listener.pipeline]
        routing: IRouting = self.routing
        if listener.judge_origin:
            pipeline = trusted_pipeline = OriginPipeline(listener, pipeline, trusted_pipeline)
        if listener.rehearse:
            if self.copies is None or rehearsed is None:
                raise ValueError(f"{listener.name} takes copies, and there is nobody to judge them")
            pipeline = trusted_pipeline = CopyDoor(self.config.rehearsal)
            routing, inline = CopyRouting(), None
            intake = CopyIntake(
                listener,
                self.config.rehearsal,
                self.copies,
                rehearsed,
                is_local=self.directory.is_local,
                incoming=incoming,
            )
        return SessionServices(
            hostname=gateway.hostname,
            clock=clock,
            events=events,
            routing=routing,
            intake=intake,
            pipeline=pipeline,
            trusted_pipeline=trusted_pipeline,
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
            inline=inline,
        )

    def taker(
        self, *, clock: IReactorTime, events: IEvents, intake: IIntake, incoming: Path, budget: MemoryBudget
    ) -> Taker | None:
        """What takes mail by HTTP; None where none is taken."""
        section = self.config.http.injection
        if section is None or not self.config.http.endpoints:
            return None
        return Taker(
            section,
            hostname=self.config.gateway.hostname,
            pipeline=self.pipelines[section.pipeline],
            routing=self.routing,
            intake=intake,
            events=events,
            clock=clock,
            incoming=incoming,
            memory_limit=self.config.gateway.memory_limit,
            budget=budget,
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
    suppressions: ISuppressions | None = None,
    incoming: Path | None = None,
) -> Assembly:
    """Build it, with the `users` of make_users and the `sources` of make_addressing; without those it makes some that
    follow what a gateway has saved, and ask no next hop. `suppressions` are read where the gateway keeps them if not
    given; `incoming` is the spool's, if there is one. ConfigError where a filter, a list, a table or a certificate
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
        directory = Directory(config, {name: one.source for name, one in recipient_sources(sources).items()})
        known = {name: one.source for name, one in alias_sources(sources, "aliases").items()}
        aliases = make_aliases(config, known, directory=directory, is_local=directory.is_local, clock=clock)
        routing = Routing(config, aliases)
        contexts = ClientContexts(clock)
        terms = read_terms(config.routes, contexts)
        web_terms = read_web_terms(config.routes, clock, contexts)
        webhooks = make_targets(config.webhooks, cast(IBackendReactor, clock))
        check_authorities(config.mta_sts, clock)
    except (AliasError, TargetError, TermsError) as error:
        raise ConfigError(tuple(loaded.error(key, text) for key, text in error.errors)) from error
    except ValueError as error:
        raise ConfigError((f"{loaded.path}: {error}",)) from error
    bounces = Bounces.of(config.bounces, loaded.rules)
    expand = _stands_for_itself if aliases is None else aliases.expand
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
        owners={name: one.source.find for name, one in alias_sources(sources, "senders").items()},
        suppressions=suppressions
        or SeenSuppressions(Suppressions(Places(config.gateway.state_dir).suppressions, at_once, clock.seconds)),
        classify=bounces.classifier.category,
        expand=expand,
        content_dir=incoming,
    )
    built = build_pipelines(loaded, registry, services)
    return Assembly(
        config=config,
        pipelines=built.by_name,
        rescans=built.rescans,
        delivery_filter=built.delivery or None,
        observers=built.observers,
        routing=routing,
        directory=directory,
        sources=sources,
        users=users,
        certificates=certificates,
        terms=terms,
        web_terms=web_terms,
        bounces=replace(bounces, sign=own_signature(loaded, services)),
        reporting=make_reporting(loaded),
        tls_reporting=make_tls_reporting(loaded),
        webhooks=webhooks,
        unsubscribe=_unsubscribe(loaded, clock),
        expand=expand,
        copies=_copies(loaded, registry, services, routing),
    )


def _copies(loaded: Loaded, registry: Registry, services: FilterServices, routing: IRouting) -> Judge | None:
    """What judges copies of mail that another gateway handles; None where none are taken."""
    config = loaded.config
    if not any(one.rehearse for one in config.listeners):
        return None
    built = build_pipelines(without_waiting(loaded), registry, apart(services, config.counters.max_keys))
    return Judge(
        hostname=config.gateway.hostname,
        pipelines=built.by_name,
        routing=routing,
        client_name=functools.partial(confirmed_name, services.resolver),
        observers=built.observers,
    )


def _stands_for_itself(_address: Address) -> Expanded:
    return None


def _unsubscribe(loaded: Loaded, clock: IReactorTime) -> UnsubscribeTokens | None:
    """What reads the tokens of all filters of kind list-unsubscribe; None where there are none."""
    paths = [one.secrets for one in loaded.options.values() if isinstance(one, ListUnsubscribeOptions)]
    if not paths:
        return None
    files = [SecretFile(path, clock) for path in dict.fromkeys(paths)]
    return UnsubscribeTokens(lambda: [secret for file in files for secret in file()])


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
