"""`mailgate suppressions`: the addresses that get no more mail of ours.

The file is shared with the daemon, which asks it about each recipient: what is changed here counts at once.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TextIO

import click

from mailgate.address import AddressError
from mailgate.cli.common import FailedError, config_option, duration, json_option, places_of, printable, when
from mailgate.interfaces import Suppression
from mailgate.stores.suppressions import SuppressionFile, checked

__all__ = ["command"]

#: Entries of one transaction.
_TOGETHER = 1000
_LONGEST_LINE = 2000


@contextmanager
def _opened(config: Path, *, makes: bool) -> Iterator[SuppressionFile | None]:
    """The file; None where there is none yet and it is not to be made. FailedError where it cannot be used."""
    path = places_of(config).suppressions
    if not makes and not path.exists():
        yield None
        return
    try:
        with closing(SuppressionFile(path)) as file:
            yield file
    except sqlite3.Error as error:
        raise FailedError(f"{path}: {error}") from None


def _address(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """A click callback: an address or "@domain"."""
    try:
        return None if value is None else checked(value)
    except AddressError as error:
        raise click.BadParameter(str(error)) from None


def _scope(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """A click callback: a stream's name, a sender or "@domain"."""
    return _address(ctx, param, value) if value is not None and "@" in value else value


scope_option = click.option(
    "--scope", callback=_scope, help='Only mail of this stream, this sender or these senders ("@domain").'
)


@click.group("suppressions")
def command() -> None:
    """Look at the addresses that get no more mail of ours, and change them.

    They count where a pipeline has the filter `suppressions`.
    """


@command.command("list")
@click.argument("address", required=False, callback=_address)
@scope_option
@click.option("--reason", type=click.Choice(["bounce", "complaint", "unsubscribe", "manual"]), help="Only these.")
@click.option("--limit", default=1000, show_default=True, type=click.IntRange(1), help="Entries at most.")
@json_option
@config_option
def list_(address: str | None, scope: str | None, reason: str | None, limit: int, as_json: bool, config: Path) -> None:
    """List the entries, or those of an ADDRESS.

    Exit code 1 where there are none.
    """
    found: Sequence[Suppression] = ()
    with _opened(config, makes=False) as file:
        if file is not None:
            found = file.list(limit, address=address or "", scope=scope, reason=reason or "")
    if as_json:
        fields = Suppression.__struct_fields__
        click.echo(json.dumps([{name: getattr(one, name) for name in fields} for one in found], indent=1))
    for one in () if as_json else found:
        until = f", until {when(one.until)}" if one.until else ""
        detail = f" ({printable(one.detail)})" if one.detail else ""
        scope_text = f" for {printable(one.scope)}" if one.scope else ""
        click.echo(f"{printable(one.address)}{scope_text}: {one.reason}{detail}, since {when(one.added)}{until}")
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
        entries = [Suppression(checked(one), scope or "", "manual", detail, now, until) for one in addresses]
    except AddressError as error:
        raise FailedError(str(error)) from None
    with _opened(config, makes=True) as file:
        assert file is not None  # noqa: S101  it is made
        click.echo(f"{file.add(entries, now)} added")


@command.command()
@click.argument("address", callback=_address)
@scope_option
@config_option
def remove(address: str, scope: str | None, config: Path) -> None:
    """Take an ADDRESS off the list: from one scope, or from all.

    Exit code 1 where it was not there.
    """
    with _opened(config, makes=False) as file:
        count = 0 if file is None else file.remove(address, scope)
    if not count:
        raise FailedError(f"{address} is not suppressed")
    click.echo(f"{count} removed")


@command.command("import")
@click.argument("lines", type=click.File("r", encoding="utf-8", errors="replace"))
@scope_option
@click.option("--detail", default="imported", show_default=True, help="Why, for people.")
@config_option
def import_(lines: TextIO, scope: str | None, detail: str, config: Path) -> None:
    """Put the addresses of a file on the list, one a line ("-": the standard input); what follows a comma is ignored.

    Lines that are no addresses are told, and the others are taken. Exit code 1 where there were such lines.
    """
    now, added, wrong = time.time(), 0, 0
    with _opened(config, makes=True) as file:
        assert file is not None  # noqa: S101  it is made
        batch: list[Suppression] = []
        for number, text in enumerate(_lines(lines), 1):
            try:
                if text:
                    batch.append(Suppression(checked(text), scope or "", "manual", detail, now))
            except AddressError as error:
                wrong += 1
                click.echo(f"line {number}: {printable(text[:80])}: {error}", err=True)
            if len(batch) >= _TOGETHER:
                added += file.add(batch, now)
                batch = []
        added += file.add(batch, now)
    click.echo(f"{added} added")
    if wrong:
        raise FailedError(f"{wrong} lines are no addresses")


def _lines(lines: TextIO) -> Iterable[str]:
    """What is before the first comma of each line, of a length that may be an address."""
    while line := lines.readline(_LONGEST_LINE):
        text = line.partition(",")[0].strip().strip('"')
        yield "" if text.startswith("#") else text
