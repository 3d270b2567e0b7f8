"""`mailgate queue hold`, `release`, `retry`, `bounce`, `reroute` and `delete`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

from mailgate.cli.common import config_option, json_option, not_empty, places_of
from mailgate.cli.desk import Desk, open_desk
from mailgate.cli.entries import changed_text
from mailgate.cli.listing import confirm
from mailgate.cli.queue.look import read_entries
from mailgate.cli.queue.selecting import selecting, usage_error
from mailgate.web.selection import Action, Change, Selection

__all__ = ["COMMANDS"]

#: Entries that are counted before it is asked; with more, "more than" is enough.
_COUNTED = 10_000
#: What is asked before it is done: the verb, and what comes of it.
_ASKED = {
    "bounce": ("Give up", "Their senders get reports."),
    "delete": ("Delete", "Nobody will be told."),
}


def _changing(
    action: Action, help_text: str, *options: Callable[[Callable[..., None]], Callable[..., None]]
) -> click.Command:
    @config_option
    @json_option
    @click.option("--yes", is_flag=True, help="Do not ask.")
    @click.option("--all", "everything", is_flag=True, help="Every entry of the queue.")
    def change(selection: Selection, yes: bool, as_json: bool, config: Path, **more: Any) -> None:
        if selection.is_empty and not selection.everything:
            raise click.UsageError("say which entries (ids or conditions), or --all")
        try:
            order = Change(**selection.model_dump(exclude_defaults=True), **more)
        except ValidationError as error:
            raise usage_error(error) from None
        with closing(open_desk(places_of(config), config)) as desk:
            if action in _ASKED and not yes:
                _ask(desk, action, selection)
            changed = desk.change(action, order)
        click.echo(changed.model_dump_json(indent=1) if as_json else changed_text(changed))
        if not changed.matched:
            raise click.exceptions.Exit(1)

    wrapped: Callable[..., None] = change
    for option in options:
        wrapped = option(wrapped)
    return click.command(action, help=help_text)(selecting(wrapped))


COMMANDS = (
    _changing("retry", "Make queued entries due now, but not before the time that their senders have asked for."),
    _changing("hold", "Stop attempts until release; one that is under way is finished first."),
    _changing("release", "End a hold or a quarantine: entries are due now, or when their senders have asked for it."),
    _changing(
        "bounce",
        "Give up entries: their senders get reports. Those under delivery, and what a policy keeps back, stay.",
        click.option("--because", default="", metavar="TEXT", help="The reason, which the senders are told."),
    ),
    _changing(
        "reroute",
        "Send entries by another route, at once; those under delivery stay.",
        click.option("--to", required=True, callback=not_empty, metavar="ROUTE", help="A route of the configuration."),
    ),
    _changing("delete", "Remove entries without a report to the sender; those under delivery stay."),
)


def _ask(desk: Desk, action: Action, selection: Selection) -> None:
    confirm(*read_entries(desk, selection, _COUNTED, ""), *_ASKED[action])
