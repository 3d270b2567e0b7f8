"""`mailgate replay`: recorded mail, judged by a changed policy, and where that differs."""

from __future__ import annotations

import sqlite3
import zlib
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from itertools import islice
from pathlib import Path
from time import time
from typing import Any

import click
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock

from mailgate.address import Address, AddressError
from mailgate.awaiting import as_deferred
from mailgate.cli.common import FailedError, config_option, duration, json_option, places_of
from mailgate.cli.loading import load_whole
from mailgate.cli.policy import Policy, make_resolver
from mailgate.cli.reacting import React, run_to_end
from mailgate.cli.replay_text import told
from mailgate.config.load import Loaded
from mailgate.config.places import Places
from mailgate.config.rehearsal import USUAL_TAGS
from mailgate.config.schema import ListenerSection
from mailgate.envelope import Session
from mailgate.filters.networks import LOCAL_NETWORKS, NetworkSet
from mailgate.interfaces import SpoolError
from mailgate.message import Content, Message
from mailgate.pipeline.registry import Registry
from mailgate.quarantine.rescan import ways_in
from mailgate.rehearsal.apart import without_waiting
from mailgate.rehearsal.compare import Account, Comparison, Pair, failed_in, sides_of, sides_then
from mailgate.rehearsal.files import FileReader
from mailgate.rehearsal.history import past_mail
from mailgate.rehearsal.judging import Sent
from mailgate.rehearsal.play import Rehearsal
from mailgate.rehearsal.postfix_log import refusals
from mailgate.rehearsal.recorded import Place, Recorded, UnreadableError
from mailgate.rehearsal.spooled import SpooledMail
from mailgate.rehearsal.tags import Tag

__all__ = ["command"]

#: Mails that are judged at one time: most of the time answers of DNS and of scanners are awaited.
_AT_A_TIME = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """What the options say. `against` is None where mail is compared with what became of it."""

    loaded: Loaded
    against: Loaded | None
    sources: tuple[Path, ...]
    logs: tuple[Path, ...]
    places: Places | None
    states: Collection[str]
    history: bool
    begin: float
    limit: int
    listener: str | None
    inside: Sequence[IPv4Network | IPv6Network]
    to: tuple[Address, ...]
    tagged: Sequence[Tag]


def _networks(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> Sequence[Any]:
    try:
        return [ip_network(value) for value in values]
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _addresses(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> tuple[Address, ...]:
    try:
        return tuple(Address.parse(value) for value in values)
    except AddressError as error:
        raise click.BadParameter(str(error)) from None


def _tags(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> Sequence[Tag]:
    try:
        return [Tag.parse(value) for value in values]
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command("replay")
@click.argument("sources", nargs=-1, type=click.Path(exists=True, path_type=Path), metavar="[PATH]...")
@click.option("--against", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="The changed policy.")
@click.option(
    "--log",
    "logs",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A log of Postfix's: what it has refused, put off, or kept back.",
)
@click.option("--history", is_flag=True, help="What the gateway has taken and refused, by its history.")
@click.option("--quarantine", is_flag=True, help="What the gateway keeps back.")
@click.option("--queue", is_flag=True, help="What waits in its queue.")
@click.option("--since", callback=duration, metavar="AGE", help="Mail that came since then only, like 24h.")
@click.option("--limit", default=10_000, show_default=True, type=click.IntRange(1), help="The newest mails at most.")
@click.option("--show", default=100, show_default=True, type=click.IntRange(0), help="Differences that are told.")
@click.option("--listener", help="The listener that mail in files came to; one that fits, if not given.")
@click.option(
    "--inside", multiple=True, callback=_networks, metavar="NETWORK", help="Hosts of the site, beside private networks."
)
@click.option("--to", multiple=True, callback=_addresses, help="The recipient of mail that names none.")
@click.option(
    "--tagged",
    multiple=True,
    callback=_tags,
    default=USUAL_TAGS,
    show_default=True,
    metavar="FIELD: PATTERN",
    help="How mail in files is marked that was taken for spam, and counts as quarantined.",
)
@json_option
@config_option
@click.pass_obj
def command(
    run: React | None,
    /,
    sources: tuple[Path, ...],
    logs: tuple[Path, ...],
    against: Path | None,
    history: bool,
    quarantine: bool,
    queue: bool,
    since: float,
    limit: int,
    show: int,
    as_json: bool,
    config: Path,
    **more: Any,
) -> None:
    """Judge recorded mail by another policy, and tell where that differs from the present one.

    PATH is a message, an mbox, a Maildir, or a folder of .eml and .mbox files; without one it is what the gateway has
    in quarantine and in its queue. --log takes what Postfix has refused, --history all mail that this gateway has
    judged; both tell of no content, and whom nobody refuses before that is "open" then. What was refused before it
    named a recipient is judged for that of --to.

    Each mail is judged twice, by --config and by --against, with DNS, lists and scanners as they are now. Without
    --against it is judged by --config and compared with what became of it: what lies in a folder was taken, or
    quarantined where it is --tagged.

    Nothing is delivered, counted or written. Exit code 1 where anything differs.
    """
    if not (sources or logs or history or quarantine or queue):
        quarantine = queue = True
    registry = Registry()
    loaded = load_whole(config, registry)
    compared = None
    if against is not None:
        compared = load_whole(against, registry)
        # What the gateway has gathered of recipients and lists is the same for both.
        state_dir = loaded.config.gateway.state_dir
        gateway = compared.config.gateway.model_copy(update={"state_dir": state_dir})
        compared = replace(compared, config=compared.config.model_copy(update={"gateway": gateway}))
    states = ("quarantined",) * quarantine + ("queued", "held", "leased") * queue
    order = _Order(
        loaded=loaded,
        against=compared,
        sources=sources,
        logs=logs,
        places=places_of(config) if states or history else None,
        states=states,
        history=history,
        begin=time() - since if since else 0.0,
        limit=limit,
        **more,
    )
    comparison = Comparison(most=show)
    run_to_end(run, lambda reactor, folder: _Replay(order, registry, reactor, folder, comparison).run())
    names = (str(config), str(against)) if against is not None else ("what became of it", str(config))
    click.echo(told(comparison, names, as_json=as_json))
    if comparison.differing:
        raise click.exceptions.Exit(1)
    if not comparison.mails:
        raise FailedError("no mail was judged")


class _Replay:
    """Judges what the order names, oldest first. Both policies are asked about a mail one after the other, and so with
    the same answers of DNS. Those who count are told the time at which a mail came."""

    def __init__(self, order: _Order, registry: Registry, reactor: Any, folder: Path, comparison: Comparison) -> None:
        self._order = order
        self._registry = registry
        self._reactor = reactor
        self._folder = folder
        self._comparison = comparison
        self._policies: list[Policy] = []
        self._clocks: list[Clock] = []

    async def run(self) -> None:
        order = self._order
        resolver = make_resolver(self._reactor, order.loaded.config)
        try:
            for loaded in filter(None, (order.loaded, order.against)):
                clock = Clock()
                policy = Policy(without_waiting(loaded), self._registry, self._reactor, resolver, self._folder, clock)
                self._policies.append(policy)
                self._clocks.append(clock)
            found = [*self._in_files(), *self._in_history()]
            if order.places is None or not order.states:
                await self._judge(found)
                return
            with closing(_spool(order.places)) as spool:
                await self._judge([*found, *self._in_spool(spool)])
        finally:
            for policy in self._policies:
                await policy.close()
            resolver.close()

    def _in_files(self) -> Sequence[Place]:
        inside = NetworkSet([*LOCAL_NETWORKS, *self._order.inside])
        reader = FileReader(
            lambda address: address in inside,
            self._policies[0].is_local,
            self._order.to,
            self._order.tagged,
            self._comparison.leave_out,
        )
        found = [place for path in self._order.sources for place in reader.places(path)]
        for path in self._order.logs:
            try:
                found += self._newest(path, refusals(path, time(), self._order.to))
            except (OSError, EOFError, zlib.error) as error:
                self._comparison.leave_out(str(path), str(error))
        return found

    def _newest(self, path: Path, places: Iterator[Place]) -> Sequence[Place]:
        """Of a log of years no more is kept than is asked for."""
        kept = deque[Place](maxlen=self._order.limit)
        count = 0
        for place in places:
            if place.received >= self._order.begin:
                kept.append(place)
                count += 1
        if count > len(kept):
            what = f"{count - len(kept)} older mails of {path}"
            self._comparison.leave_out(what, f"more than --limit {self._order.limit}")
        return kept

    def _in_history(self) -> Sequence[Place]:
        order = self._order
        if not order.history or order.places is None:
            return []
        return list(past_mail(order.places.history, order.begin, order.limit, order.to, self._comparison.leave_out))

    def _in_spool(self, spool: SpooledMail) -> Sequence[Place]:
        try:
            return list(spool.places(self._order.states))
        except SpoolError as error:
            raise FailedError(str(error)) from None

    async def _judge(self, places: Sequence[Place]) -> None:
        order = self._order
        chosen = sorted((one for one in places if one.received >= order.begin), key=lambda one: one.received)
        if len(chosen) > order.limit:
            self._comparison.leave_out(f"{len(chosen) - order.limit} older mails", f"more than --limit {order.limit}")
        waiting = iter(chosen[-order.limit :])
        # As many as are judged at one time wait for their turn in memory, and no more.
        while batch := list(islice(waiting, _AT_A_TIME)):
            judged: Deferred[list[Any]] = gatherResults([as_deferred(self._judge_one(one)) for one in batch])
            for add in await judged:
                add()

    async def _judge_one(self, place: Place) -> Callable[[], object]:
        """Judge it; whatever is called adds what came of it, so that the order stays."""
        try:
            mail = place.read()
        except (OSError, UnreadableError) as error:
            return partial(self._comparison.leave_out, place.name, str(error))
        for clock in self._clocks:
            clock.advance(max(0.0, mail.received - clock.seconds()))
        found: list[tuple[Session, Rehearsal]] = []
        for policy in self._policies:
            listener = _listener(policy, mail, self._order.listener)
            if listener is None:
                wanted = self._order.listener or mail.listener
                return partial(self._comparison.leave_out, place.name, f"no listener is called {wanted}")
            found.append(await policy.judge(_sent(mail, listener), "deferred"))
        return partial(self._add, place, mail, found)

    def _add(self, place: Place, mail: Recorded, found: Sequence[tuple[Session, Rehearsal]]) -> None:
        session, rehearsal = found[-1]
        before = sides_of(found[0][1]) if len(found) > 1 else sides_then(mail.then)
        message = Message(mail.content or Content(b""))
        self._comparison.add(
            Account(
                name=place.name,
                received=mail.received,
                client=str(session.client),
                helo=mail.helo,
                sender=str(mail.sender),
                subject=_first(message, "Subject"),
                message_id=_first(message, "Message-ID"),
                pairs=tuple(
                    Pair(recipient=str(recipient), was=was, now=now)
                    for recipient, was, now in zip(mail.recipients, before, sides_of(rehearsal), strict=True)
                ),
                failed=tuple(failed_in(*(one for _, one in found))),
                assumed=mail.assumed,
            )
        )


def _first(message: Message, name: str) -> str:
    return next(iter(message.values(name)), "")[:500]


def _spool(places: Places) -> SpooledMail:
    try:
        return SpooledMail(places.spool, places.originals)
    except (OSError, sqlite3.Error) as error:
        raise FailedError(f"there is no spool in {places.spool} that can be read: {error}") from None


def _sent(mail: Recorded, listener: ListenerSection) -> Sent:
    return Sent(
        listener=listener,
        address=mail.address,
        name=mail.name,
        helo=mail.helo,
        sender=mail.sender,
        recipients=mail.recipients,
        identity=mail.identity,
        content=mail.content,
        parameters=mail.parameters,
    )


def _listener(policy: Policy, mail: Recorded, name: str | None) -> ListenerSection | None:
    """The listener that it came to or, where that is not known, the first that would have taken it."""
    ways = ways_in(policy.config)
    if mail.listener or name:
        return ways.get(mail.listener or name or "")
    sections = policy.config.listeners
    known = [one for one in sections if one.role != "inbound" and _may_relay(mail, one)]
    others = [one for one in sections if one.role != "outbound"]
    return next(iter((*known, *others, *sections)), None)


def _may_relay(mail: Recorded, section: ListenerSection) -> bool:
    address: IPv4Address | IPv6Address | None = mail.address
    if mail.identity:
        return section.auth is not None
    return address is not None and any(address in network for network in section.trusted_networks)
