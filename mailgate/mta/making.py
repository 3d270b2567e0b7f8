"""From a configuration that has been built to what milters, policy services and socketmaps go by."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from twisted.internet.interfaces import IReactorTime

from mailgate.config.mta import MapName
from mailgate.config.schema import Config
from mailgate.interfaces import Expand, IEvents, IIntake, IPipeline
from mailgate.message import MemoryBudget
from mailgate.mta.milter.services import MilterServices
from mailgate.mta.policy.services import PolicyServices
from mailgate.mta.socketmap.services import LookUp, SocketmapServices
from mailgate.mta.socketmap.tables import Tables
from mailgate.mta.socketmap.tls_policies import TlsPolicies
from mailgate.pipeline.runner import Pipeline
from mailgate.recipients.directory import Directory
from mailgate.relay.editing import ContentEditor
from mailgate.relay.routing import Routing
from mailgate.relay.security.office import SecurityOffice

__all__ = ["Built", "make_milters", "make_policies", "make_socketmaps", "policy_warnings"]


class Built(Protocol):
    """What is needed of it."""

    @property
    def config(self) -> Config: ...

    @property
    def pipelines(self) -> Mapping[str, IPipeline]: ...

    @property
    def routing(self) -> Routing: ...

    @property
    def directory(self) -> Directory: ...

    @property
    def expand(self) -> Expand: ...


def make_milters(
    built: Built, *, clock: IReactorTime, events: IEvents, intake: IIntake, incoming: Path, budget: MemoryBudget
) -> Mapping[str, MilterServices]:
    """What the sessions of each of our milters share, by its name."""
    gateway, editor = built.config.gateway, ContentEditor(incoming, clock, budget)
    return {
        name: MilterServices(
            name=name,
            section=section,
            hostname=gateway.hostname,
            clock=clock,
            events=events,
            intake=intake,
            pipeline=built.pipelines[section.pipeline],
            trusted_pipeline=built.pipelines[section.trusted_pipeline or section.pipeline],
            expand=built.expand,
            edit=editor.edit,
            incoming=incoming,
            memory_limit=gateway.memory_limit,
            budget=budget,
        )
        for name, section in built.config.milters.items()
    }


def make_policies(built: Built, clock: IReactorTime, events: IEvents) -> Mapping[str, PolicyServices]:
    """What the requests to each policy service share, by its name."""
    return {
        name: PolicyServices(
            name=name,
            section=section,
            hostname=built.config.gateway.hostname,
            clock=clock,
            events=events,
            pipeline=built.pipelines[section.pipeline],
            trusted_pipeline=built.pipelines[section.trusted_pipeline or section.pipeline],
            expand=built.expand,
        )
        for name, section in built.config.policy_services.items()
    }


def policy_warnings(built: Built) -> list[str]:
    """What is configured for policy services and has no effect there."""
    found = []
    for name, section in built.config.policy_services.items():
        for pipeline in dict.fromkeys((section.pipeline, section.trusted_pipeline or section.pipeline)):
            made = built.pipelines[pipeline]
            groups = built.config.pipelines[pipeline].filters
            named = {one for group in groups for one in ([group] if isinstance(group, str) else group)}
            late = [one for one in made.late if one in named] if isinstance(made, Pipeline) else []
            if late:  # others have come in by themselves
                text = f"pipeline {pipeline}: not asked before the content: {', '.join(late)}"
                found.append(f"policy_services.{name}: {text}")
    return found


def make_socketmaps(built: Built, clock: IReactorTime, security: SecurityOffice) -> Mapping[str, SocketmapServices]:
    """What the questions to each socketmap share, by its name."""
    routes, next_hop = built.config.routes, built.routing.next_hop
    tables = Tables(
        directory=built.directory,
        is_local=built.directory.is_local,
        expand=built.expand,
        next_hop=next_hop,
        routes=routes,
    )
    maps: Mapping[MapName, LookUp] = {
        "recipients": tables.recipients,
        "all-recipients": tables.all_recipients,
        "domains": tables.domains,
        "aliases": tables.aliases,
        "transport": tables.transport,
        "tls-policy": TlsPolicies(routes, next_hop, security.locator, lambda: security.security).look_up,
    }
    return {
        name: SocketmapServices(name=name, section=section, clock=clock, maps={one: maps[one] for one in section.maps})
        for name, section in built.config.socketmaps.items()
    }
