"""`mailgate queue list` and `show`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import click

from mailgate.cli.common import FailedError, config_option, json_option, not_empty, places_of
from mailgate.cli.desk import Desk, open_desk
from mailgate.cli.entries import entry_lines, message_lines
from mailgate.cli.listing import paged, read_pages, show_entries
from mailgate.cli.queue.selecting import selecting
from mailgate.web.models import Entry
from mailgate.web.selection import Selection

__all__ = ["COMMANDS", "read_entries"]

#: Entries of one request: the gateway is not to be held up by any.
_PAGE = 500


@click.command("list")
@selecting
@paged
@json_option
@config_option
def list_(selection: Selection, limit: int, after: str, as_json: bool, config: Path) -> None:
    """List entries, one for each recipient, oldest first, each with why it is still here.

    Exit code 1 where ids or conditions are given and no entry fits.
    """
    with closing(open_desk(places_of(config), config)) as desk:
        entries, after = read_entries(desk, selection, limit, after)
    is_chosen, nothing = not selection.is_empty, "Nothing is in the queue."
    show_entries(entries, after, entry_lines, as_json=as_json, is_chosen=is_chosen, nothing=nothing)


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
    return read_pages(partial(desk.list, selection), limit, after, _PAGE)
