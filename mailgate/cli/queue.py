"""`mailgate queue`: what waits for delivery."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import wraps
from pathlib import Path
from time import time
from typing import Any

import click

from mailgate.cli.common import (
    FailedError,
    config_option,
    duration,
    json_option,
    not_empty,
    places_of,
    printable,
    size,
    span,
    when,
)
from mailgate.cli.desk import Desk, open_desk
from mailgate.web.models import Action, Changed, Entry, Selection, Shown
from mailgate.web.operations import parse_after

__all__ = ["command", "state_of"]

#: Entries of one request.
_PAGE = 10_000
_DONE = {"hold": "held", "release": "released", "retry": "due now", "delete": "deleted"}
#: What to say of entries in a state that the action is not about; of one, and of several.
_OTHERS = {
    ("retry", "held"): ("is held: release it first", "are held: release them first"),
    ("retry", "quarantined"): ("is quarantined: release it first", "are quarantined: release them first"),
    ("hold", "held"): ("is held already", "are held already"),
    ("hold", "quarantined"): ("is quarantined and waits already", "are quarantined and wait already"),
    ("release", "queued"): ("is not held", "are not held"),
}


@click.group("queue")
def command() -> None:
    """Look at what waits for delivery, and change it.

    Every command takes queue ids, or conditions which must all hold.
    """


def _selecting(function: Callable[..., None]) -> Callable[..., None]:
    """The options that choose entries; the function gets them as a Selection."""

    @click.argument("ids", nargs=-1, callback=not_empty, metavar="[ID]...")
    @click.option("--id", "more_ids", multiple=True, callback=not_empty, metavar="ID", help="A queue id.")
    @click.option("--sender", callback=not_empty, help='The sender\'s address; "<>" for the null sender.')
    @click.option("--recipient", callback=not_empty, help="The recipient's address.")
    @click.option("--domain", callback=not_empty, help="The recipient's domain.")
    @click.option("--route", callback=not_empty, help="The route that it takes.")
    @click.option("--state", type=click.Choice(["queued", "leased", "held", "quarantined"]), help="How it stands.")
    @click.option("--older-than", callback=duration, metavar="AGE", help="Arrived longer ago than this, like 2h.")
    @wraps(function)
    def chosen(ids: tuple[str, ...], more_ids: tuple[str, ...], **others: Any) -> None:
        names = ("sender", "recipient", "domain", "route", "state", "older_than")
        given = {name: value for name in names if (value := others.pop(name))}
        if ids or more_ids:
            given["ids"] = (*ids, *more_ids)
        everything = others.pop("everything", False)
        selection = Selection(**given)
        if everything and not selection.is_empty:
            raise click.UsageError("--all stands for every entry: give it without ids and conditions")
        function(selection=selection.model_copy(update={"everything": everything}), **others)

    return chosen


@command.command("list")
@_selecting
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1), help="Entries at most.")
@click.option("--after", default="", metavar="PLACE", help="Go on behind this place, as an earlier list named it.")
@json_option
@config_option
def list_(selection: Selection, limit: int, after: str, as_json: bool, config: Path) -> None:
    """List entries, one for each recipient, oldest first.

    Exit code 1 where ids or conditions are given and no entry fits.
    """
    try:
        parse_after(after)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    with closing(open_desk(places_of(config))) as desk:
        entries, after = _entries(desk, selection, limit, after)
    if as_json:
        click.echo(json.dumps([entry.model_dump() for entry in entries], indent=1))
    else:
        for entry in entries:
            click.echo("\n".join(_lines(entry)))
    if after:
        click.echo(f"There are more; go on with --after {after}", err=True)
    elif not entries and not as_json:
        click.echo("Nothing is in the queue." if selection.is_empty else "No entry fits.")
    if not entries and not selection.is_empty:
        raise click.exceptions.Exit(1)


@command.command()
@click.argument("queue_id", callback=not_empty, metavar="ID")
@json_option
@config_option
def show(queue_id: str, as_json: bool, config: Path) -> None:
    """Show a message: its envelope, its header section, and how its text begins."""
    with closing(open_desk(places_of(config))) as desk:
        shown = desk.show(queue_id)
    if shown is None:
        raise FailedError(f"no message {queue_id} is in the queue")
    if as_json:
        click.echo(shown.model_dump_json(indent=1, ensure_ascii=True))
    else:
        click.echo("\n".join(_shown(shown)))


def _changing(action: Action, help_text: str) -> None:
    @command.command(action, help=help_text)
    @_selecting
    @click.option("--all", "everything", is_flag=True, help="Every entry of the queue.")
    @click.option("--yes", is_flag=True, help="Do not ask.")
    @json_option
    @config_option
    def change(selection: Selection, yes: bool, as_json: bool, config: Path) -> None:
        if selection.is_empty and not selection.everything:
            raise click.UsageError("say which entries (ids or conditions), or --all")
        with closing(open_desk(places_of(config))) as desk:
            if action == "delete" and not yes:
                _ask(desk, selection)
            changed = desk.change(action, selection)
        click.echo(changed.model_dump_json(indent=1) if as_json else _changed(changed))
        if not changed.matched:
            raise click.exceptions.Exit(1)


_changing("retry", "Make queued entries due now, but not before the time that their senders have asked for.")
_changing("hold", "Stop attempts until release; one that is under way is finished first.")
_changing("release", "End a hold or a quarantine: the entries are due now, or when their senders have asked for it.")
_changing("delete", "Remove entries without a report to the sender; those under delivery stay.")


def _ask(desk: Desk, selection: Selection) -> None:
    entries, after = _entries(desk, selection, _PAGE, "")
    if entries:
        count = f"more than {len(entries)}" if after else str(len(entries))
        messages = len({entry.queue_id for entry in entries})
        click.confirm(
            f"Delete {count} recipient(s) of {messages} message(s)? Nobody will be told.", abort=True, err=True
        )


def _entries(desk: Desk, selection: Selection, limit: int, after: str) -> tuple[Sequence[Entry], str]:
    entries: list[Entry] = []
    while True:
        page = desk.list(selection, min(limit - len(entries), _PAGE), after)
        entries += page.entries
        after = page.after
        if not after or len(entries) >= limit:
            return entries, after


def _lines(entry: Entry) -> Iterator[str]:
    sender = printable(entry.sender) or "<>"
    yield f"{entry.queue_id}  {when(entry.received)}  {size(entry.size)}  {sender} > {printable(entry.recipient)}"
    yield f"    {state_of(entry, time())}"


def state_of(entry: Entry, now: float) -> str:
    """How a recipient stands, in a line."""
    attempts = {0: "not tried yet", 1: "1 attempt"}.get(entry.attempts, f"{entry.attempts} attempts")
    text = f"{entry.state}, route {entry.route}, {attempts}"
    if entry.state == "queued":
        text += f", next attempt in {span(entry.next_attempt - now)}" if entry.next_attempt > now else ", due now"
    if entry.state != "leased" and entry.not_before > now:
        text += f", not before {when(entry.not_before)} (FUTURERELEASE)"
    return text + (f", last reply: {printable(entry.last_reply)}" if entry.last_reply else "")


def _shown(shown: Shown) -> Iterator[str]:
    yield f"{shown.queue_id}  {when(shown.received)}  {size(shown.size)}  {shown.body}"
    yield f"from {printable(shown.sender) or '<>'}, sent by {printable(shown.client) or 'the gateway itself'}"
    waiting = {entry.number: entry for entry in shown.entries}
    left = {entry.recipient: entry for entry in waiting.values()}
    for recipient in shown.recipients:
        entry = left.get(recipient.address.lower())
        state = state_of(entry, time()) if entry else "done"
        yield f"to {printable(recipient.address)}: {state}"
        if recipient.quarantine:
            yield f"    quarantined: {printable(recipient.quarantine)}"
    for wish in shown.asked:
        yield f"asked for: {printable(wish)}"
    for edit in shown.edits:
        yield f"will be changed: {printable(edit)}"
    yield ""
    yield from map(printable, shown.header.splitlines())
    yield ""
    yield from map(printable, shown.text.splitlines())
    if not shown.is_whole:
        yield "[...]"


def _changed(changed: Changed) -> str:
    if not changed.matched:
        return "No entry fits."
    parts = [f"{changed.changed} of {changed.matched} recipient(s) {_DONE[changed.action]}"]
    for state, count in sorted(changed.others.items()):
        one, several = _OTHERS.get((changed.action, state), (f"is {state}", f"are {state}"))
        parts.append(f"{count} {one if count == 1 else several}")
    if changed.later:
        words = "is to be sent later, as its sender" if changed.later == 1 else "are to be sent later, as their senders"
        parts.append(f"{changed.later} {words} asked")
    if changed.busy and changed.action in ("hold", "release"):
        verb = "follows" if changed.busy == 1 else "follow"
        parts.append(f"{changed.busy} under delivery now {verb} when the attempt has ended")
    elif changed.busy:
        verb = "was" if changed.busy == 1 else "were"
        parts.append(f"{changed.busy} under delivery now {verb} left alone")
    return "; ".join(parts)
