"""From a loaded configuration to what can be built anew on a reload: pipelines, routing, the directory, and what
sessions are given."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from twisted.internet.interfaces import IReactorTime

from mailgate.config.load import ConfigError, Loaded
from mailgate.config.schema import Config, ListenerSection
from mailgate.dns.client_name import confirmed_name
from mailgate.interfaces import (
    FilterServices,
    ICounters,
    IDeliveryFilter,
    IEventObserver,
    IEvents,
    IIntake,
    IPipeline,
    IResolver,
)
from mailgate.pipeline.build import build_pipelines
from mailgate.pipeline.registry import Registry
from mailgate.relay.routing import Routing
from mailgate.smtp.conversation import SessionServices
from mailgate.smtp.postmaster import postmaster_domain
from mailgate.stores.directory import Directory, DirectoryError

__all__ = ["Assembly", "assemble"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembly:
    """One configuration, built. `delivery_filter` is None where no filter asks to see delivery attempts."""

    config: Config
    pipelines: Mapping[str, IPipeline]
    delivery_filter: IDeliveryFilter | None
    observers: Sequence[IEventObserver]
    routing: Routing
    directory: Directory

    def session_services(
        self,
        listener: ListenerSection,
        *,
        clock: IReactorTime,
        resolver: IResolver,
        events: IEvents,
        intake: IIntake,
        incoming: Path,
    ) -> SessionServices:
        """What the sessions of a listener share; `incoming` is where content goes that is too large for memory."""
        gateway = self.config.gateway
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
) -> Assembly:
    """Build it. ConfigError where a filter, a list or a table cannot be made of what the file says."""
    config = loaded.config
    try:
        directory = Directory(config, clock)
        routing = Routing(config)
    except DirectoryError as error:
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
    )
