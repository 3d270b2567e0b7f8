"""`mailgate try`: what would happen to a mail."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any, BinaryIO

import click
import msgspec
from twisted.internet.task import react

from mailgate.address import NULL_PATH, Address, AddressError
from mailgate.assembly import assemble
from mailgate.awaiting import answered
from mailgate.backends.keeping import IRuns, Source, close_sources
from mailgate.cli.common import (
    BadConfigError,
    FailedError,
    columns,
    config_option,
    json_option,
    printable,
    size,
    trace_table,
)
from mailgate.cli.rehearse import RecipientFate, Rehearsal, rehearse
from mailgate.config.hosts import parse_server
from mailgate.config.load import ConfigError, Loaded, load
from mailgate.config.schema import ListenerSection
from mailgate.dns.client_name import confirmed_name
from mailgate.dns.resolver import Resolver
from mailgate.envelope import Client, Identity, Session, TraceStep, Transaction, new_id
from mailgate.message import Content, MemoryBudget
from mailgate.observe.hub import EventHub
from mailgate.pipeline.registry import Registry
from mailgate.smtp.receiving import ContentReceiver
from mailgate.smtp.replies import ENDLESS, TOO_LARGE
from mailgate.stores.counters import MemoryCounters
from mailgate.verdict import Disconnect, Reject

__all__ = ["React", "command"]

React = Callable[[Callable[[Any], Coroutine[Any, Any, None]]], object]
"""Runs a coroutine function, given a reactor, to its end: `twisted.internet.task.react`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mail:
    """What the options say."""

    listener: ListenerSection
    address: IPv4Address | IPv6Address
    name: str | None
    helo: str
    sender: Address
    recipients: tuple[Address, ...]
    identity: str
    content: Content
    go_on: bool


def _address(ctx: click.Context, param: click.Parameter, value: str) -> Address:
    try:
        return Address.parse(value) if value not in ("", "<>") else NULL_PATH
    except AddressError as error:
        raise click.BadParameter(f"{value!r}: {error}") from None


def _recipients(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> tuple[Address, ...]:
    found = tuple(_address(ctx, param, value) for value in values)
    if not all(found):
        raise click.BadParameter("a recipient has an address")
    return found


def _ip(ctx: click.Context, param: click.Parameter, value: str) -> IPv4Address | IPv6Address:
    try:
        return ip_address(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command("try")
@click.option("--ip", "address", required=True, callback=_ip, help="The client's address.")
@click.option("--name", help="The client's name; as DNS has it, if not given.")
@click.option("--helo", default="client.example", show_default=True, help="What it says in EHLO.")
@click.option("--from", "sender", required=True, callback=_address, help='The sender; "<>" for a report.')
@click.option("--to", "recipients", required=True, multiple=True, callback=_recipients, help="A recipient.")
@click.option("--identity", default="", help="Who it has proved to be.")
@click.option("--listener", "listener_name", help="The listener that it comes to; the first, if not given.")
@click.option("--go-on", is_flag=True, help="Ask the stages behind a refusal, too: what comes after greylisting?")
@click.argument("message", type=click.File("rb"))
@json_option
@config_option
@click.pass_obj
def command(
    run: React | None,
    /,
    listener_name: str | None,
    sender: Address,
    recipients: tuple[Address, ...],
    message: BinaryIO,
    as_json: bool,
    config: Path,
    **client: Any,
) -> None:
    """What would happen to the mail in MESSAGE (a file, or - for standard input), filter by filter.

    The filters are really asked, with DNS and lists as they are now; nothing is taken and nothing is delivered.
    Exit code 1 where some recipient would not get it.
    """
    registry = Registry()
    try:
        loaded = load(config, registry.find)
    except ConfigError as error:
        raise BadConfigError("\n".join(error.errors)) from None
    octets = message.read()
    if b"\r\n" not in octets:
        # Files have the line ends of their system; what has those of the wire is taken as it would come there.
        octets = octets.replace(b"\n", b"\r\n")
    mail = _Mail(
        listener=_listener(loaded, listener_name),
        sender=sender,
        recipients=recipients,
        content=Content(octets),
        **client,
    )
    session, rehearsal = _run(run or react, loaded, registry, mail)
    if as_json:
        told = dataclasses.asdict(rehearsal) | {"steps": _fields_of(rehearsal.steps), "all_taken": rehearsal.all_taken}
        click.echo(json.dumps(told, indent=1))
    else:
        click.echo("\n".join(_account(session, mail, rehearsal)))
    if not rehearsal.all_taken:
        raise click.exceptions.Exit(1)


def _listener(loaded: Loaded, name: str | None) -> ListenerSection:
    listeners = loaded.config.listeners
    for section in listeners:
        if name in (None, section.name):
            return section
    raise click.UsageError(f"no listener is called {name} (there are: {', '.join(one.name for one in listeners)})")


def _run(run: React, loaded: Loaded, registry: Registry, mail: _Mail) -> tuple[Session, Rehearsal]:
    ends: list[tuple[Session, Rehearsal] | Exception] = []

    async def body(reactor: Any) -> None:
        try:
            ends.append(await _rehearse(reactor, loaded, registry, mail))
        except Exception as error:
            ends.append(error)

    # How `react` comes back.
    with contextlib.suppress(SystemExit):
        run(body)
    if not ends:
        raise FailedError("interrupted")
    match ends[0]:
        case ConfigError() as error:
            raise BadConfigError("\n".join(error.errors))
        case Exception() as error:
            raise error
        case found:
            return found


async def _rehearse(reactor: Any, loaded: Loaded, registry: Registry, mail: _Mail) -> tuple[Session, Rehearsal]:
    config, listener = loaded.config, mail.listener
    chance = random.SystemRandom()
    servers = [parse_server(server) for server in config.dns.servers]
    resolver = Resolver(reactor, servers, config.dns.timeout, config.dns.cache_size, chance)
    sources: list[Source[IRuns]] = []
    try:
        assembly = assemble(
            loaded,
            registry,
            clock=reactor,
            resolver=resolver,
            counters=MemoryCounters(reactor, config.counters.max_keys),
            events=EventHub(),
            random=chance,
        )
        sources.extend(assembly.sources.values())
        for one in sources:
            one.source.start()
        name = mail.name
        if name is None:
            asked = listener.resolve_clients and not mail.address.is_loopback
            name = await answered(confirmed_name(resolver, mail.address)) if asked else ""
        session = Session(
            id=new_id(),
            client=Client(mail.address, name=name),
            listener=listener.name,
            role=listener.role,
            hostname=config.gateway.hostname,
            protocol="LMTP" if listener.protocol == "lmtp" else "ESMTP",
            identity=_identity(mail),
        )
        pipeline = listener.pipeline
        if session.identity is not None and listener.trusted_pipeline:
            pipeline = listener.trusted_pipeline
        most = listener.max_message_size
        if mail.content.size > most:
            return session, _too_large(mail, most)
        rehearsal = await rehearse(
            assembly.pipelines[pipeline],
            assembly.routing,
            session,
            Transaction(id=new_id(), sender=mail.sender, declared_size=mail.content.size),
            mail.helo,
            mail.recipients,
            mail.content,
            _fault(mail.content, most),
            mail.go_on,
            may_report=listener.refused_for_some == "report" or session.identity is not None,
        )
    finally:
        await close_sources(sources)
        resolver.close()
    return session, rehearsal


def _too_large(mail: _Mail, most: int) -> Rehearsal:
    reply = str(TOO_LARGE)
    reason = f"max_message_size of the listener is {most}"
    return Rehearsal(
        recipients=[RecipientFate(str(one), "refused", reply=reply, reason=reason) for one in mail.recipients]
    )


def _fault(content: Content, most: int) -> Reject | Disconnect | None:
    """How a session refuses the content, if it does."""
    # It lies in memory already: no file is made.
    receiver = ContentReceiver(Path(), sys.maxsize, most, MemoryBudget(sys.maxsize))
    tail = b"\r\n"
    for chunk in content.chunks():
        # Nothing can be wrong with a dot, and without one there is nothing to stuff.
        receiver.feed(chunk.replace(b".", b"-"))
        if receiver.is_endless:
            return Disconnect(ENDLESS, "the content went on far past a fault")
        tail = (tail + chunk)[-2:]
    receiver.feed(b".\r\n" if tail == b"\r\n" else b"\r\n.\r\n")
    return Reject(receiver.refusal, receiver.reason) if receiver.refusal else None


def _identity(mail: _Mail) -> Identity | None:
    if mail.identity:
        return Identity(mail.identity, "PLAIN")
    listener = mail.listener
    trusted = listener.role != "inbound" and any(mail.address in network for network in listener.trusted_networks)
    return Identity(str(mail.address), "network") if trusted else None


def _account(session: Session, mail: _Mail, rehearsal: Rehearsal) -> Iterator[str]:
    who = f", known as {printable(session.identity.name)}" if session.identity else ""
    yield f"from {session.client}{who} to listener {session.listener}, {size(mail.content.size)}"
    yield ""
    yield from trace_table(_fields_of(rehearsal.steps), columns())
    yield ""
    for fate in rehearsal.recipients:
        yield from _told(fate, f"{printable(fate.address)}: ")
        if fate.then is not None:
            yield from _told(fate.then, "    but for that: ")
    for edit in rehearsal.edits:
        yield f"change: {printable(edit)}"
    if rehearsal.steps and not rehearsal.all_taken and not any(one.stage == "message" for one in rehearsal.steps):
        yield "The content was not judged: --go-on asks the stages behind a refusal, too."


def _told(fate: RecipientFate, begin: str) -> Iterator[str]:
    route = f", by route {fate.route}" if fate.route else ""
    targets = f", for {', '.join(map(printable, fate.targets))}" if fate.targets else ""
    yield f"{begin}{fate.outcome}{route}{targets}"
    if fate.reply:
        yield f"    the client is told: {printable(fate.reply)}"
    if fate.reason:
        yield f"    because: {printable(fate.reason)}"


def _fields_of(steps: Sequence[TraceStep]) -> list[dict[str, Any]]:
    return [msgspec.structs.asdict(step) for step in steps]
