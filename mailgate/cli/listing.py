"""Lists of entries, of the queue or in quarantine: read page by page, shown, and counted before they are changed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from time import time
from typing import Protocol, TypeVar

import click

from mailgate.web.models import Entry
from mailgate.web.operations import parse_after
from mailgate.web.quarantine_models import KeptEntry

__all__ = ["confirm", "paged", "read_pages", "show_entries"]

E = TypeVar("E", Entry, KeptEntry)
EntryOfPage = TypeVar("EntryOfPage", Entry, KeptEntry, covariant=True)


class IPage(Protocol[EntryOfPage]):
    """As Page and KeptPage."""

    @property
    def entries(self) -> Sequence[EntryOfPage]: ...
    @property
    def after(self) -> str: ...


def _place(ctx: click.Context, param: click.Parameter, value: str) -> str:
    try:
        parse_after(value)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    return value


def paged(function: Callable[..., None]) -> Callable[..., None]:
    """`--limit` and `--after`, for read_pages."""
    limit = click.option("--limit", default=100, show_default=True, type=click.IntRange(1), help="Entries at most.")
    after = click.option(
        "--after",
        default="",
        callback=_place,
        metavar="PLACE",
        help="Go on behind this place, as an earlier list named it.",
    )
    return limit(after(function))


def read_pages(ask: Callable[[int, str], IPage[E]], limit: int, after: str, size: int) -> tuple[Sequence[E], str]:
    """At most `limit` entries, and the place behind them if there are more. `ask` brings so many from a place on: at
    most `size` at a time."""
    entries: list[E] = []
    while True:
        page = ask(min(limit - len(entries), size), after)
        entries += page.entries
        after = page.after
        if not after or len(entries) >= limit:
            return entries, after


def show_entries(
    entries: Sequence[E],
    after: str,
    lines: Callable[[E, float], Iterator[str]],
    *,
    as_json: bool,
    is_chosen: bool,
    nothing: str,
) -> None:
    """Show them as JSON, or by the `lines` of each at this moment, and say where to go on. Where there are none,
    `nothing` is said; where they were chosen, that none fits, with exit code 1."""
    if as_json:
        click.echo(json.dumps([entry.model_dump() for entry in entries], indent=1))
    else:
        now = time()
        for entry in entries:
            click.echo("\n".join(lines(entry, now)))
    if after:
        click.echo(f"There are more; go on with --after {after}", err=True)
    elif not entries and not as_json:
        click.echo("No entry fits." if is_chosen else nothing)
    if not entries and is_chosen:
        raise click.exceptions.Exit(1)


def confirm(entries: Sequence[Entry] | Sequence[KeptEntry], after: str, verb: str, result: str) -> None:
    """Ask before these are changed, of which there are more where `after` is not ""; click.Abort where the answer is
    no."""
    if entries:
        count = f"more than {len(entries)}" if after else str(len(entries))
        messages = len({entry.queue_id for entry in entries})
        click.confirm(f"{verb} {count} recipient(s) of {messages} message(s)? {result}", abort=True, err=True)
