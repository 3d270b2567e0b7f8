"""Entries of the queue as text for people."""

from __future__ import annotations

from collections.abc import Iterator
from time import time

from mailgate.cli.common import printable, size, span, when
from mailgate.interfaces import Suppression
from mailgate.web.models import Changed, Entry, Shown, SuspensionNow

__all__ = [
    "changed_text",
    "entry_lines",
    "last_reply",
    "message_lines",
    "state_of",
    "suppression_text",
    "suspension_text",
]

_DONE = {
    "hold": "held",
    "release": "released",
    "retry": "due now",
    "bounce": "given up",
    "reroute": "rerouted",
    "delete": "deleted",
}
#: What to say of entries in a state that the action is not about; of one, and of several.
_OTHERS = {
    ("retry", "held"): ("is held: release it first", "are held: release them first"),
    ("retry", "quarantined"): ("is quarantined: release it first", "are quarantined: release them first"),
    ("hold", "held"): ("is held already", "are held already"),
    ("hold", "quarantined"): ("is quarantined and waits already", "are quarantined and wait already"),
    ("release", "queued"): ("is not held", "are not held"),
    ("release", "quarantined"): (
        "is quarantined, and released by its id or with --state quarantined only",
        "are quarantined, and released by their ids or with --state quarantined only",
    ),
    ("bounce", "quarantined"): (
        "is quarantined, and returned with --state quarantined only",
        "are quarantined, and returned with --state quarantined only",
    ),
}


def entry_lines(entry: Entry, now: float) -> Iterator[str]:
    """An entry in a list."""
    sender = printable(entry.sender) or "<>"
    yield f"{entry.queue_id}  {when(entry.received)}  {size(entry.size)}  {sender} > {printable(entry.recipient)}"
    yield f"    {state_of(entry, now)}"
    if entry.last_reply:
        yield f"    {last_reply(entry)}"


def state_of(entry: Entry, now: float) -> str:
    """How a recipient stands, and why it is still here, in a line."""
    attempts = {0: "not tried yet", 1: "1 attempt"}.get(entry.attempts, f"{entry.attempts} attempts")
    text = f"{entry.state}, route {printable(entry.route)}"
    text += f" from {printable(entry.source)}" if entry.source else ""
    text += f", {attempts}"
    if entry.suspended_until is not None:
        text += f", suspended until {when(entry.suspended_until) if entry.suspended_until else 'it is resumed'}"
    elif entry.state == "queued":
        text += f", next attempt in {span(entry.next_attempt - now)}" if entry.next_attempt > now else ", due now"
    if entry.state != "leased" and entry.not_before > now:
        text += f", not before {when(entry.not_before)} (FUTURERELEASE)"
    waits = entry.waits if entry.suspended_until is None else entry.waits.removeprefix("suspended: ")
    return text + (f": {printable(waits)}" if waits else "")


def last_reply(entry: Entry) -> str:
    """What the last attempt came to."""
    return f"last reply: {printable(entry.last_reply)}" if entry.last_reply else ""


def message_lines(shown: Shown) -> Iterator[str]:
    """A message in full."""
    yield f"{shown.queue_id}  {when(shown.received)}  {size(shown.size)}  {shown.body}"
    yield f"from {printable(shown.sender) or '<>'}, sent by {printable(shown.client) or 'the gateway itself'}"
    left = {entry.recipient: entry for entry in shown.entries}
    now = time()
    for recipient in shown.recipients:
        entry = left.get(recipient.address.lower())
        yield f"to {printable(recipient.address)}: {state_of(entry, now) if entry else 'done'}"
        if recipient.quarantine:
            yield f"    quarantined: {printable(recipient.quarantine)}"
        if entry and entry.site:
            yield f"    site: {printable(entry.site)}"
        if entry and entry.last_reply:
            yield f"    {last_reply(entry)}"
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


def changed_text(changed: Changed) -> str:
    """What a change came to."""
    if not changed.matched:
        return "No entry fits."
    parts = [f"{changed.changed} of {changed.matched} recipient(s) {_DONE[changed.action]}"]
    for state, count in sorted(changed.others.items()):
        one, several = _OTHERS.get((changed.action, state), (f"is {state}", f"are {state}"))
        parts.append(f"{count} {one if count == 1 else several}")
    if changed.there:
        parts.append(f"{changed.there} {'takes' if changed.there == 1 else 'take'} that route already")
    for name, count in sorted(changed.suspended.items()):
        parts.append(f"{count} {'is' if count == 1 else 'are'} suspended: resume {printable(name)} first")
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


def suspension_text(one: SuspensionNow, now: float) -> str:
    """A suspension, and how many recipients it is for."""
    ends = f"for {span(one.until - now)}, until {when(one.until)}" if one.until else "until it is resumed"
    reason = f" ({printable(one.reason)})" if one.reason else ""
    whose = "tried there" if one.kind == "site" else "in the queue"
    count = f"{one.recipients} recipient(s) {whose}"
    return f"suspended since {when(one.since)}, {ends}: {one.kind} {printable(one.name)}{reason}; {count}"


def suppression_text(one: Suppression) -> str:
    """An entry of the suppression list, in one line."""
    until = f", until {when(one.until)}" if one.until else ""
    detail = f" ({printable(one.detail)})" if one.detail else ""
    scope = f" for {printable(one.scope)}" if one.scope else ""
    return f"{printable(one.address)}{scope}: {printable(one.reason)}{detail}, since {when(one.added)}{until}"
