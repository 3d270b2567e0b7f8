"""`mailgate quarantine`: what filters keep back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial, wraps
from pathlib import Path
from time import time
from typing import Any, TypeVar

import click
from pydantic import ValidationError

from mailgate.cli.common import (
    FailedError,
    columns,
    config_option,
    json_option,
    not_empty,
    places_of,
    printable,
    size,
    span,
    trace_table,
    when,
)
from mailgate.cli.desk import Desk, open_desk
from mailgate.cli.entries import message_lines
from mailgate.cli.listing import confirm, paged, read_pages, show_entries
from mailgate.cli.queue.selecting import selecting, usage_error
from mailgate.web.quarantine_models import (
    Deleted,
    DeleteOrder,
    KeptEntry,
    KeptShown,
    Objection,
    Released,
    ReleaseOrder,
    Rescanned,
    RescanOrder,
)
from mailgate.web.selection import Model, Selection

__all__ = ["command"]

M = TypeVar("M", ReleaseOrder, DeleteOrder, RescanOrder)

#: Entries of one request, and those that are counted before it is asked.
_PAGE, _COUNTED = 200, 10_000


@click.group("quarantine")
def command() -> None:
    """Look at what filters keep back, ask them again, release it, or delete it.

    Entries are named by queue ids, or by conditions which must all hold. What lies there longer than [quarantine]
    retention is deleted.
    """


def _selecting_kept(function: Callable[..., None]) -> Callable[..., None]:
    """As for the queue; other states than quarantined are a slip."""

    @wraps(function)
    def chosen(selection: Selection, **others: Any) -> None:
        if selection.state not in ("", "quarantined"):
            raise click.UsageError(f"what is {selection.state} is not in quarantine")
        function(selection=selection, **others)

    return selecting(chosen)


def _changing(function: Callable[..., None]) -> Callable[..., None]:
    return config_option(
        json_option(click.option("--all", "everything", is_flag=True, help="Everything there is.")(function))
    )


@command.command("list")
@_selecting_kept
@paged
@json_option
@config_option
def list_(selection: Selection, limit: int, after: str, as_json: bool, config: Path) -> None:
    """List what is in quarantine, one entry for each recipient, oldest first.

    Exit code 1 where ids or conditions are given and no entry fits.
    """
    with closing(open_desk(places_of(config), config)) as desk:
        entries, after = _read(desk, selection, limit, after)
    is_chosen, nothing = not selection.is_empty, "Nothing is in quarantine."
    show_entries(entries, after, _entry_lines, as_json=as_json, is_chosen=is_chosen, nothing=nothing)


@command.command()
@click.argument("queue_id", callback=not_empty, metavar="ID")
@json_option
@config_option
def show(queue_id: str, as_json: bool, config: Path) -> None:
    """Show a message: why it is kept back, what its filters found, its header section, and how its text begins."""
    with closing(open_desk(places_of(config), config)) as desk:
        shown = desk.kept_message(queue_id)
    if shown is None:
        raise FailedError(f"no message {queue_id} is in quarantine")
    click.echo(_as_json(shown) if as_json else "\n".join(_shown_lines(shown)))


@command.command()
@_selecting_kept
@click.option("--scan", is_flag=True, help="Ask the content filters again first; what they object to stays.")
@click.option("--original", is_flag=True, help="Send what came, without what filters have changed of the content.")
@click.option("--to", callback=not_empty, metavar="ADDRESS", help="Send a copy there instead, for somebody to look at.")
@_changing
def release(selection: Selection, scan: bool, original: bool, to: str | None, as_json: bool, config: Path) -> None:
    """Send on what is in quarantine.

    Exit code 1 where no entry fits, or something stays that was to go.
    """
    order = _order(ReleaseOrder, selection, scan=scan, original=original, to=to)
    with closing(open_desk(places_of(config), config)) as desk:
        released = desk.release_kept(order)
    click.echo(_as_json(released) if as_json else "\n".join(_released_lines(released)))
    if not released.matched or released.still_objected:
        raise click.exceptions.Exit(1)


@command.command()
@_selecting_kept
@click.option("--yes", is_flag=True, help="Do not ask.")
@_changing
def delete(selection: Selection, yes: bool, as_json: bool, config: Path) -> None:
    """Remove what is in quarantine, without a report to anybody."""
    order = _order(DeleteOrder, selection)
    with closing(open_desk(places_of(config), config)) as desk:
        if not yes:
            chosen = selection.model_copy(update={"everything": False})
            confirm(*_read(desk, chosen, _COUNTED, ""), "Delete", "Nobody will be told.")
        deleted = desk.delete_kept(order)
    click.echo(_as_json(deleted) if as_json else _deleted_text(deleted))
    if not deleted.matched:
        raise click.exceptions.Exit(1)


@command.command()
@_selecting_kept
@click.option("--queue", is_flag=True, help="Ask about what waits in the queue, and put what they object to here.")
@_changing
def rescan(selection: Selection, queue: bool, as_json: bool, config: Path) -> None:
    """Ask the content filters again about what is in quarantine, and tell what they say; nothing is released.

    Exit code 1 where no entry fits. The gateway has to run.
    """
    order = _order(RescanOrder, selection, queue=queue)
    with closing(open_desk(places_of(config), config)) as desk:
        found = desk.rescan(order)
    click.echo(_as_json(found) if as_json else "\n".join(_rescanned_lines(found, is_of_queue=queue)))
    if not found.matched:
        raise click.exceptions.Exit(1)


def _order(model: type[M], selection: Selection, **more: object) -> M:
    """What is to be done with the chosen; a usage error where nothing is chosen."""
    if selection.is_empty and not selection.everything:
        raise click.UsageError("say which entries (ids or conditions), or --all")
    given = {name: value for name, value in more.items() if value}
    try:
        return model.model_validate(selection.model_dump(exclude_defaults=True) | given)
    except ValidationError as error:
        raise usage_error(error) from None


def _read(desk: Desk, selection: Selection, limit: int, after: str) -> tuple[Sequence[KeptEntry], str]:
    """At most `limit` entries, and the place behind them if there are more."""
    return read_pages(partial(desk.kept, selection), limit, after, _PAGE)


def _as_json(model: Model) -> str:
    return model.model_dump_json(indent=1, ensure_ascii=True)


def _entry_lines(entry: KeptEntry, now: float) -> Iterator[str]:
    sender = printable(entry.sender) or "<>"
    yield f"{entry.queue_id}  {when(entry.received)}  {size(entry.size)}  {sender} > {printable(entry.recipient)}"
    if entry.subject or entry.from_:
        yield f"    {printable(entry.subject) or '(no subject)'}  from {printable(entry.from_) or '(no author)'}"
    yield f"    {_why(entry)}"
    original = "; the original is kept" if entry.has_original else ""
    left = f"is deleted in {span(entry.expires - now)}" if entry.expires > now else "is deleted soon"
    yield f"    {left}{original}"


def _why(entry: KeptEntry) -> str:
    reason = printable(entry.reason) or "the reason is not known"
    return f"{printable(entry.filter)}: {reason}" if entry.filter else reason


def _shown_lines(shown: KeptShown) -> Iterator[str]:
    now = time()
    for entry in shown.entries:
        yield f"kept back from {printable(entry.recipient)}: {_why(entry)}"
        yield f"    since {when(entry.since)}, deleted at {when(entry.expires)}, in {span(entry.expires - now)}"
    if shown.has_original:
        yield "its content was changed; what came is kept too (release --original)"
    if shown.facts:
        yield f"facts: {', '.join(map(printable, shown.facts))}"
    if shown.steps:
        yield ""
        steps: Sequence[Mapping[str, Any]] = [step.model_dump() for step in shown.steps]
        yield from trace_table(steps, columns())
    yield ""
    yield from message_lines(shown.message)


def _released_lines(released: Released) -> Iterator[str]:
    if not released.matched:
        yield "No entry fits."
        return
    yield f"{released.released} of {released.matched} recipient(s) released"
    for queue_id in released.copies:
        yield f"sent as {queue_id}"
    yield from (_objection_text(one, "stays: ") for one in released.still_objected)


def _objection_text(one: Objection, what: str = "") -> str:
    """Why a recipient's mail stays, or goes into quarantine; `what` says which."""
    who = printable(one.filter) or "the gateway"
    says = "objects" if one.word == "objects" else "cannot tell"
    return f"{one.queue_id}  {printable(one.recipient)}  {what}{who} {says}: {printable(one.reason)}"


def _deleted_text(deleted: Deleted) -> str:
    return f"{deleted.deleted} of {deleted.matched} recipient(s) deleted" if deleted.matched else "No entry fits."


def _rescanned_lines(found: Rescanned, *, is_of_queue: bool) -> Iterator[str]:
    if not found.matched:
        yield "No entry fits."
        return
    yield f"no content filter objects to {len(found.passed)} of {found.matched} recipient(s)"
    if is_of_queue:
        yield f"{found.quarantined} put into quarantine"
    else:
        yield from (f"{one.queue_id}  {printable(one.recipient)}  passes" for one in found.passed)
    yield from map(_objection_text, found.objections)
