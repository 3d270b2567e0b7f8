"""`mailgate try`: what would happen to a mail."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any, BinaryIO

import click
import msgspec

from mailgate.address import NULL_PATH, Address, AddressError
from mailgate.cli.common import columns, config_option, json_option, printable, size, trace_table
from mailgate.cli.loading import load_whole
from mailgate.cli.policy import Policy, make_resolver
from mailgate.cli.reacting import React, run_to_end
from mailgate.config.load import Loaded
from mailgate.config.schema import ListenerSection
from mailgate.envelope import Session, TraceStep
from mailgate.message import Content
from mailgate.pipeline.registry import Registry
from mailgate.rehearsal.judging import Sent
from mailgate.rehearsal.play import GoOn, RecipientFate, Rehearsal

__all__ = ["command"]


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
    go_on: bool,
    as_json: bool,
    config: Path,
    **client: Any,
) -> None:
    """What would happen to the mail in MESSAGE (a file, or - for standard input), filter by filter.

    The filters are really asked, with DNS and lists as they are now; nothing is taken and nothing is delivered.
    Exit code 1 where some recipient would not get it.
    """
    registry = Registry()
    loaded = load_whole(config, registry)
    octets = message.read()
    if b"\r\n" not in octets:
        # Files have the line ends of their system; what has those of the wire is taken as it would come there.
        octets = octets.replace(b"\n", b"\r\n")
    content = Content(octets)
    mail = Sent(
        listener=_listener(loaded, listener_name),
        sender=sender,
        recipients=recipients,
        content=content,
        **client,
    )
    extent: GoOn = "always" if go_on else "never"
    session, rehearsal = run_to_end(
        run, lambda reactor, folder: _rehearse(reactor, loaded, registry, mail, extent, folder)
    )
    if as_json:
        told = dataclasses.asdict(rehearsal) | {"steps": _fields_of(rehearsal.steps), "all_taken": rehearsal.all_taken}
        click.echo(json.dumps(told, indent=1))
    else:
        click.echo("\n".join(_account(session, content.size, rehearsal)))
    if not rehearsal.all_taken:
        raise click.exceptions.Exit(1)


def _listener(loaded: Loaded, name: str | None) -> ListenerSection:
    listeners = loaded.config.listeners
    for section in listeners:
        if name in (None, section.name):
            return section
    if not listeners:
        raise click.UsageError("there is no listener, so there is nothing to rehearse")
    raise click.UsageError(f"no listener is called {name} (there are: {', '.join(one.name for one in listeners)})")


async def _rehearse(
    reactor: Any, loaded: Loaded, registry: Registry, sent: Sent, go_on: GoOn, incoming: Path
) -> tuple[Session, Rehearsal]:
    resolver = make_resolver(reactor, loaded.config)
    policy: Policy | None = None
    try:
        policy = Policy(loaded, registry, reactor, resolver, incoming)
        return await policy.judge(sent, go_on)
    finally:
        if policy is not None:
            await policy.close()
        resolver.close()


def _account(session: Session, octets: int, rehearsal: Rehearsal) -> Iterator[str]:
    who = f", known as {printable(session.identity.name)}" if session.identity else ""
    yield f"from {session.client}{who} to listener {session.listener}, {size(octets)}"
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
