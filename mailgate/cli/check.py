"""`mailgate check`: the whole file, every error at once."""

from __future__ import annotations

import json
import random
import time
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import cast

import click
from twisted.internet.task import Clock
from zope.interface import implementer

from mailgate.addressing import make_users
from mailgate.assembly import assemble
from mailgate.auth.checker import IAuthReactor
from mailgate.cli.common import config_option, json_option, printable
from mailgate.config.load import ConfigError, load
from mailgate.interfaces import Answer, DnsStatus, IResolver
from mailgate.observe.hub import EventHub
from mailgate.pipeline.registry import Registry
from mailgate.stores.counters import MemoryCounters

__all__ = ["command", "findings"]


@click.command("check")
@json_option
@config_option
def command(as_json: bool, config: Path) -> None:
    """Read the configuration and say everything that is wrong with it.

    Each line is FILE:LINE: KEY: what is wrong. Filters are built as the gateway would build them.
    """
    errors, warnings = findings(config)
    if as_json:
        click.echo(json.dumps({"ok": not errors, "errors": errors, "warnings": warnings}, indent=1))
    else:
        for line in errors:
            click.echo(printable(line), err=True)
        for line in warnings:
            click.echo(f"{printable(line)} (warning)", err=True)
        if not errors:
            click.echo(f"{config}: ok")
    if errors:
        raise click.exceptions.Exit(1)


def findings(config: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The errors of a file, and its warnings."""
    registry = Registry()
    try:
        loaded = load(config, registry.find)
    except ConfigError as error:
        return error.errors, ()
    clock = Clock()
    clock.advance(time.time())  # by which certificates expire
    try:
        users = make_users(loaded, cast(IAuthReactor, clock))  # nobody logs in here
        assembly = assemble(
            loaded,
            registry,
            clock=clock,
            resolver=_Nobody(),
            counters=MemoryCounters(clock, loaded.config.counters.max_keys),
            events=EventHub(),
            random=random.Random(),  # noqa: S311  for jitter, and nothing runs
            users=users,
        )
    except ConfigError as error:
        return error.errors, loaded.warnings
    return (), (*loaded.warnings, *assembly.warnings())


@implementer(IResolver)
class _Nobody:
    """Building asks nothing of DNS; what does all the same gets no answer."""

    def resolve(self, name: str, rdtype: str) -> Answer:
        return Answer(DnsStatus.TIMEOUT)

    def reverse(self, address: IPv4Address | IPv6Address) -> Answer:
        return Answer(DnsStatus.TIMEOUT)
