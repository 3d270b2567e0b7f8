"""`mailgate why`: what happened to a mail."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from time import time

import click

from mailgate.address import Address, AddressError
from mailgate.cli.common import (
    FailedError,
    config_option,
    denied,
    duration,
    json_option,
    not_empty,
    places_of,
    printable,
)
from mailgate.cli.desk import open_desk
from mailgate.cli.entries import suppression_text
from mailgate.cli.story import tell
from mailgate.config.places import Places
from mailgate.observe.history import Found, Story, read_history
from mailgate.stores.suppressions import SuppressionFile
from mailgate.web.models import Entry
from mailgate.web.selection import Selection

__all__ = ["command"]

#: Entries of the queue that are told of.
_MOST_WAITING = 1000
#: Entries of the suppression list that are told of.
_MOST_SUPPRESSED = 100


@click.command("why")
@click.argument("subject", callback=not_empty)
@click.option("--since", callback=duration, metavar="AGE", help="Look back so far only, like 2h.")
@click.option("--limit", default=10, show_default=True, type=click.IntRange(1), help="The newest mails at most.")
@json_option
@config_option
def command(subject: str, since: float, limit: int, as_json: bool, config: Path) -> None:
    """What happened to a mail, and why.

    SUBJECT is a queue id, a Message-ID, the address of a sender or recipient, the name of a user whose login was
    refused, a client's IP address, or a session's id. The newest mail comes last.
    """
    places = places_of(config)
    with suppress(FileNotFoundError):
        # A directory that may not be read has no files, for all that a search in it says.
        os.listdir(places.history)
    now = time()
    found = read_history(places.history, subject, since=now - since if since else 0.0, limit=limit)
    waiting = _waiting(places, config, found, subject)
    suppressed = _suppressed(places, subject)
    if as_json:
        _write_json(found, waiting)
    else:
        for story in _stories(found, waiting):
            click.echo("\n".join(tell(story, waiting.get(story.id, ()), now)))
            click.echo("")
        for line in suppressed:
            click.echo(line)
    if found.more:
        click.echo(f"There are older ones; --limit says how many are told (now {limit}).", err=True)
    if found.lost:
        click.echo(f"The history has gaps: {found.lost} events could not be written.", err=True)
    for name in found.unreadable:
        click.echo(f"{places.history / name} cannot be read.", err=True)
    if not found.stories and not waiting and not suppressed:
        raise FailedError(f"nothing is known of {printable(subject)}")


def _waiting(places: Places, config: Path, found: Found, subject: str) -> Mapping[str, Sequence[Entry]]:
    """What the queue has of these messages or, where there are none, of the subject; empty where it cannot be asked."""
    ids = tuple(story.id for story in found.stories if any(fields.get("queue_id") for fields in story.entries))
    if ids:
        selection = Selection(ids=ids)
    else:
        selection = Selection(recipient=subject) if "@" in subject else Selection(ids=(subject,))
    waiting: dict[str, list[Entry]] = {}
    try:
        with closing(open_desk(places, config)) as desk:
            page = desk.list(selection, _MOST_WAITING)
    except (FailedError, PermissionError) as error:
        failed = denied(error) if isinstance(error, PermissionError) else error
        click.echo(f"What is still in the queue is not told: {printable(failed.message)}", err=True)
        return {}
    for entry in page.entries:
        waiting.setdefault(entry.queue_id, []).append(entry)
    return waiting


def _suppressed(places: Places, subject: str) -> Sequence[str]:
    """How an address stands on the suppression list, also where the history has forgotten why."""
    try:
        address = Address.parse(subject.strip("<> "))
    except AddressError:
        return ()
    if not places.suppressions.exists():
        return ()
    try:
        with closing(SuppressionFile(places.suppressions)) as file:
            found = [*file.list(_MOST_SUPPRESSED, address=subject.strip("<> "))]
            found += file.list(_MOST_SUPPRESSED, address=f"@{address.domain}")
    except (OSError, sqlite3.Error) as error:
        return (f"{places.suppressions} cannot be read: {printable(str(error))}",)
    return [f"on the suppression list: {suppression_text(one)}" for one in found if not one.until or one.until > time()]


def _stories(found: Found, waiting: Mapping[str, Sequence[Entry]]) -> Sequence[Story]:
    """Oldest first; what the history has forgotten, or lost, has a story without events."""
    known = {story.id for story in found.stories}
    return [*(Story(one, ()) for one in waiting if one not in known), *reversed(found.stories)]


def _write_json(found: Found, waiting: Mapping[str, Sequence[Entry]]) -> None:
    stories = [
        {
            "id": story.id,
            "about": story.about,
            "entries": story.entries,
            "queue": [one.model_dump() for one in waiting.get(story.id, ())],
        }
        for story in _stories(found, waiting)
    ]
    click.echo(json.dumps(stories, indent=1))
