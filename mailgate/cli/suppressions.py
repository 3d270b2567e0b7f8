"""`mailgate suppressions`: the addresses that get no more mail of ours.

The file is shared with the daemon, which asks it about each recipient: what is changed here counts at once.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import TextIO

import click
from pydantic import ValidationError
from twisted.python.failure import Failure

from mailgate.address import AddressError
from mailgate.awaiting import as_deferred, at_once
from mailgate.cli.common import FailedError, config_option, duration, json_option, places_of, printable
from mailgate.cli.desk import open_desk
from mailgate.cli.entries import suppression_text
from mailgate.interfaces import Suppression
from mailgate.observe.hub import EventHub
from mailgate.stores.suppressions import SuppressionFile, Suppressions, checked, checked_scope
from mailgate.web.suppression_models import SuppressionCount, SuppressionEntry, SuppressionOrder, Unsuppress
from mailgate.web.suppressions import SuppressionOperations

__all__ = ["command"]

#: Entries of one order: the longest are less than the daemon takes in one request.
_TOGETHER = 300
_LONGEST_LINE = 4000
#: Entries that are read together.
_PAGE = 1000


@contextmanager
def _opened(config: Path) -> Iterator[SuppressionFile | None]:
    """The file, to look at; None where there is none yet. FailedError where it cannot be used."""
    path = places_of(config).suppressions
    if not path.exists():
        yield None
        return
    try:
        with closing(SuppressionFile(path)) as file:
            yield file
    except sqlite3.Error as error:
        raise FailedError(f"{path}: {error}") from None


Order = Callable[[SuppressionOrder | Unsuppress], int]


@contextmanager
def _changing(config: Path) -> Iterator[Order]:
    """What changes the list, and says how many entries have come or gone: the daemon tells of that; where none runs,
    the history is told. FailedError where it cannot be changed."""
    places = places_of(config)
    if not (places.spool / "spool.db").exists():  # no gateway has run yet, which could be told
        operations = SuppressionOperations(Suppressions(places.suppressions, at_once, time.time), EventHub())

        def change(order: SuppressionOrder | Unsuppress) -> int:
            done = operations.add(order) if isinstance(order, SuppressionOrder) else operations.remove(order)
            results: list[SuppressionCount | Failure] = []
            as_deferred(done).addBoth(results.append)
            (result,) = results
            if isinstance(result, Failure):
                raise FailedError(f"{places.suppressions}: {result.getErrorMessage()}")
            return result.count

        yield change
        return
    with closing(open_desk(places, config)) as desk:
        yield (
            lambda order: (
                (desk.suppress(order) if isinstance(order, SuppressionOrder) else desk.unsuppress(order)).count
            )
        )


def _address(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """A click callback: an address or "@domain"."""
    try:
        return None if value is None else checked(value)
    except AddressError as error:
        raise click.BadParameter(str(error)) from None


def _scope(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """A click callback: a stream's name, a sender or "@domain"."""
    try:
        return None if value is None else checked_scope(value)
    except AddressError as error:
        raise click.BadParameter(str(error)) from None


scope_option = click.option(
    "--scope", callback=_scope, help='Only mail of this stream, this sender or these senders ("@domain").'
)


@click.group("suppressions")
def command() -> None:
    """Look at the addresses that get no more mail of ours, and change them.

    They count where a pipeline has the filter `suppressions`.
    """


def _covering(address: str | None) -> Sequence[str]:
    """As what an address may stand on the list; "" for any."""
    if address is None:
        return [""]
    return list(dict.fromkeys([address, f"@{address.rpartition('@')[2]}"]))


@command.command("list")
@click.argument("address", required=False, callback=_address)
@scope_option
@click.option("--reason", type=click.Choice(["bounce", "complaint", "unsubscribe", "manual"]), help="Only these.")
@click.option("--limit", default=1000, show_default=True, type=click.IntRange(1), help="Entries at most.")
@json_option
@config_option
def list_(address: str | None, scope: str | None, reason: str | None, limit: int, as_json: bool, config: Path) -> None:
    """List the entries, or those that are for an ADDRESS, its domain's too.

    Exit code 1 where there are none.
    """
    found: list[Suppression] = []
    with _opened(config) as file:
        if file is not None:
            for name in _covering(address):
                found += file.list(limit + 1, address=name, scope=scope, reason=reason or "")
    has_more, found = len(found) > limit, found[:limit]
    if as_json:
        fields = Suppression.__struct_fields__
        click.echo(json.dumps([{name: getattr(one, name) for name in fields} for one in found], indent=1))
    for one in () if as_json else found:
        click.echo(suppression_text(one))
    if has_more:
        click.echo(f"There are more; --limit says how many are told (now {limit}).", err=True)
    if not found:
        raise FailedError("nobody is suppressed")


@command.command()
@click.argument("addresses", nargs=-1, required=True, metavar="ADDRESS...")
@scope_option
@click.option("--detail", default="", help="Why, for people.")
@click.option(
    "--for", "seconds", callback=duration, metavar="DURATION", help="For how long, like 30d; for good if not given."
)
@config_option
def add(addresses: Sequence[str], scope: str | None, detail: str, seconds: float, config: Path) -> None:
    """Put each ADDRESS, or "@domain", on the list."""
    now = time.time()
    until = now + seconds if seconds else 0.0
    try:
        entries = [
            SuppressionEntry(address=checked(one), scope=scope or "", detail=detail, until=until) for one in addresses
        ]
    except AddressError as error:
        raise FailedError(str(error)) from None
    except ValidationError as error:
        raise FailedError(_told(error)) from None
    with _changing(config) as change:
        click.echo(f"{sum(change(order) for order in _orders(entries))} added")


@command.command()
@click.argument("address", callback=_address)
@scope_option
@config_option
def remove(address: str, scope: str | None, config: Path) -> None:
    """Take an ADDRESS off the list: from one scope, or from all.

    Exit code 1 where it was not there.
    """
    with _changing(config) as change:
        count = change(Unsuppress(address=address, scope=scope))
    if not count:
        raise FailedError(f"{address} is not suppressed")
    click.echo(f"{count} removed")


@command.command("import")
@click.argument("lines", type=click.File("r", encoding="utf-8-sig", errors="replace"))
@scope_option
@click.option("--detail", default="imported", show_default=True, help="Why, for people.")
@config_option
def import_(lines: TextIO, scope: str | None, detail: str, config: Path) -> None:
    """Put the addresses of a file on the list, one a line ("-": the standard input); what follows a comma is ignored.

    A line may be one that `export` has written, too. Lines that are no addresses are told, and the others are taken.
    Exit code 1 where there were such lines.
    """
    wrong = 0

    def entries() -> Iterator[SuppressionEntry]:
        nonlocal wrong
        for number, text in enumerate(_lines(lines), 1):
            try:
                if text:
                    yield _entry(text, scope, detail)
            except ValidationError as error:
                wrong += 1
                click.echo(f"line {number}: {printable(text[:80])}: {_told(error)}", err=True)

    with _changing(config) as change:
        added = sum(change(order) for order in _orders(entries()))
    click.echo(f"{added} added")
    if wrong:
        raise FailedError(f"{wrong} lines are no addresses")


@command.command()
@config_option
def export(config: Path) -> None:
    """Write the list, an entry a line as JSON, for `import` at another gateway."""
    now, after = time.time(), ("", "")
    with _opened(config) as file:
        while file is not None and (page := file.list(_PAGE, after)):
            after = page[-1].address, page[-1].scope
            for one in page:
                if not one.until or one.until > now:
                    click.echo(json.dumps({name: getattr(one, name) for name in Suppression.__struct_fields__}))


def _entry(text: str, scope: str | None, detail: str) -> SuppressionEntry:
    """What a line says; ValidationError where it says nothing."""
    if not text.startswith("{"):
        return SuppressionEntry(address=text.partition(",")[0].strip().strip('"'), scope=scope or "", detail=detail)
    entry = SuppressionEntry.model_validate_json(text)
    return entry if scope is None else entry.model_copy(update={"scope": scope})


def _orders(entries: Iterable[SuppressionEntry]) -> Iterator[SuppressionOrder]:
    remaining = iter(entries)
    while batch := list(islice(remaining, _TOGETHER)):
        yield SuppressionOrder(entries=batch)


def _lines(lines: TextIO) -> Iterator[str]:
    """Each line, "" for a comment and where there is nothing; of one that is too long the beginning, which is no
    entry."""
    while line := lines.readline(_LONGEST_LINE):
        text = line
        while not line.endswith("\n") and (line := lines.readline(_LONGEST_LINE)):
            text = text[:_LONGEST_LINE] + "?"
        yield "" if text.startswith("#") else text.strip()


def _told(error: ValidationError) -> str:
    return "; ".join(one["msg"].removeprefix("Value error, ") for one in error.errors())
