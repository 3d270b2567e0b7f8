"""`mailgate queue list` and `show`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from time import time

import click

from mailgate.cli.common import FailedError, config_option, json_option, not_empty, places_of
from mailgate.cli.desk import Desk, open_desk
from mailgate.cli.entries import entry_lines, message_lines
from mailgate.cli.queue.selecting import selecting
from mailgate.web.models import Entry
from mailgate.web.operations import parse_after
from mailgate.web.selection import Selection

__all__ = ["COMMANDS", "read_entries"]

#: Entries of one request: the gateway is not to be held up by any.
_PAGE = 500


@click.command("list")
@selecting
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1), help="Entries at most.")
@click.option("--after", default="", metavar="PLACE", help="Go on behind this place, as an earlier list named it.")
@json_option
@config_option
def list_(selection: Selection, limit: int, after: str, as_json: bool, config: Path) -> None:
    """List entries, one for each recipient, oldest first, each with why it is still here.

    Exit code 1 where ids or conditions are given and no entry fits.
    """
    try:
        parse_after(after)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    with closing(open_desk(places_of(config), config)) as desk:
        entries, after = read_entries(desk, selection, limit, after)
    if as_json:
        click.echo(json.dumps([entry.model_dump() for entry in entries], indent=1))
    else:
        now = time()
        for entry in entries:
            click.echo("\n".join(entry_lines(entry, now)))
    if after:
        click.echo(f"There are more; go on with --after {after}", err=True)
    elif not entries and not as_json:
        click.echo("Nothing is in the queue." if selection.is_empty else "No entry fits.")
    if not entries and not selection.is_empty:
        raise click.exceptions.Exit(1)


@click.command()
@click.argument("queue_id", callback=not_empty, metavar="ID")
@json_option
@config_option
def show(queue_id: str, as_json: bool, config: Path) -> None:
    """Show a message: its envelope, why it is still here, its header section, and how its text begins."""
    with closing(open_desk(places_of(config), config)) as desk:
        shown = desk.show(queue_id)
    if shown is None:
        raise FailedError(f"no message {queue_id} is in the queue")
    if as_json:
        click.echo(shown.model_dump_json(indent=1, ensure_ascii=True))
    else:
        click.echo("\n".join(message_lines(shown)))


COMMANDS = (list_, show)


def read_entries(desk: Desk, selection: Selection, limit: int, after: str) -> tuple[Sequence[Entry], str]:
    """At most `limit` entries, and the place behind them if there are more."""
    entries: list[Entry] = []
    while True:
        page = desk.list(selection, min(limit - len(entries), _PAGE), after)
        entries += page.entries
        after = page.after
        if not after or len(entries) >= limit:
            return entries, after
