"""What the spool's writer is asked for, and how a group of it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from msgspec import Struct
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from mailgate.envelope import Envelope
from mailgate.interfaces import Outcome, OutcomeKind
from mailgate.interfaces.spool import LEASED_AT_ONCE, Lease
from mailgate.message import Content
from mailgate.spool.database import sync
from mailgate.spool.store import Store

__all__ = [
    "Accept",
    "AcceptAll",
    "Finish",
    "Job",
    "Work",
    "all_final",
    "answer",
    "coming",
    "in_groups",
    "is_one_statement",
    "run_group",
    "split",
    "weight_of",
]

T = TypeVar("T")


@dataclass(slots=True)
class Job(Generic[T]):
    """One piece of work; `run` returns the result inside the group's transaction, or in one of its own."""

    run: Callable[[], T]
    done: Deferred[T]
    alone: bool = False


class Accept(Struct):
    """A message that comes."""

    envelope: Envelope
    content: Content
    until: float
    done: Deferred[Lease] | None = None


class AcceptAll(Struct):
    """Messages that come together: all of them, or none. None of the `messages` has a Deferred of its own."""

    messages: list[Accept]
    done: Deferred[Sequence[Lease]]


class Finish(Struct):
    """The hot path's end: every recipient of a fresh message is final."""

    lease: Lease
    run: Callable[[], None]
    done: Deferred[None]


_Row = tuple[Envelope, str, bytes | None, float]

Work = Job[Any] | Accept | AcceptAll | Finish


def in_groups(works: Iterable[Work], most: int) -> Iterator[list[Work]]:
    """In their order, so many messages together at most; what comes as one stays together, whatever its number."""
    group: list[Work] = []
    weight = 0
    for one in works:
        if group and weight + weight_of(one) > most:
            yield group
            group, weight = [], 0
        group.append(one)
        weight += weight_of(one)
    if group:
        yield group


def weight_of(work: Work) -> int:
    """How many messages it counts for."""
    return len(work.messages) if isinstance(work, AcceptAll) else 1


def split(group: Sequence[Work]) -> list[list[Work]]:
    """The group as the transactions that it may be."""
    parts: list[list[Work]] = [[]]
    for one in group:
        if isinstance(one, Job) and one.alone:
            parts += [[one], []]
        else:
            parts[-1].append(one)
    return [part for part in parts if part]


def run_group(store: Store, group: Sequence[Work]) -> list[object]:
    """Do the work, inside one transaction or as one statement; the result of each."""
    results: list[object] = [None] * len(group)
    rows: list[_Row] = []
    left: dict[int, Lease] = {}
    for number, one in enumerate(group):
        if isinstance(one, Accept):
            results[number] = _keep(store, one, rows)
        elif isinstance(one, AcceptAll):
            results[number] = [_keep(store, message, rows) for message in one.messages]
        elif isinstance(one, Finish) and one.lease.envelope.queue_id in store.fresh:
            left[number] = one.lease
    if any(message.content.path is not None for message in coming(group)):
        sync(store.contents)
    store.exchange_fresh(rows, [lease.envelope.queue_id for lease in left.values()])
    if marks := [(message.envelope.mark,) for message in coming(group) if message.envelope.mark]:
        store.database.executemany("INSERT OR IGNORE INTO counts VALUES (?, 1)", marks)
    for lease in left.values():
        if lease.content.path is not None:
            store.forget(store.contents / lease.envelope.queue_id)
    for number, one in enumerate(group):
        if isinstance(one, Job):
            results[number] = one.run()
        elif isinstance(one, Finish) and number not in left:
            one.run()
    return results


def coming(group: Sequence[Work]) -> Iterator[Accept]:
    """The messages that come, each on its own."""
    for one in group:
        if isinstance(one, Accept):
            yield one
        elif isinstance(one, AcceptAll):
            yield from one.messages


def _keep(store: Store, one: Accept, rows: list[_Row]) -> Lease:
    """The lease of a message; `rows` gets it where it is to be written with others."""
    envelope, content, text, data = store.prepare(one.envelope, one.content)
    # From here on the content is where the row will say; a failure of the group must find it there.
    one.content = content
    recipients = envelope.recipients
    if _comes_later(envelope):
        store.insert(envelope, text, data, None)
        recipients = ()
    elif _is_kept_back(envelope):
        store.insert(envelope, text, data, one.until)
        recipients = tuple(recipient for recipient in recipients if not recipient.quarantine)
    else:
        rows.append((envelope, text, data, one.until))
    return Lease(envelope, recipients, content, one.until, {})


def is_one_statement(store: Store, group: Sequence[Work]) -> bool:
    """Whether the group needs no transaction around it: it is messages that come, and no more that leave."""
    come = leave = 0
    for one in group:
        if isinstance(one, Accept | AcceptAll):
            messages = (one,) if isinstance(one, Accept) else one.messages
            if any(_has_rows(each.envelope) for each in messages):
                return False
            come += len(messages)
        elif isinstance(one, Finish) and one.lease.envelope.queue_id in store.fresh:
            leave += 1
        else:
            return False
    return leave <= come or not come


def _has_rows(envelope: Envelope) -> bool:
    """Whether more than its row among the fresh ones is written."""
    return bool(envelope.mark) or _comes_later(envelope) or _is_kept_back(envelope)


def _comes_later(envelope: Envelope) -> bool:
    """Whether nobody has it from the start: it is to be released later, or is for too many to be leased at once."""
    return envelope.parameters.release_at > envelope.received or len(envelope.recipients) > LEASED_AT_ONCE


def _is_kept_back(envelope: Envelope) -> bool:
    return any(recipient.quarantine for recipient in envelope.recipients)


def all_final(outcomes: Sequence[Outcome]) -> bool:
    """Whether no attempt is to follow."""
    return all(one.kind is not OutcomeKind.DEFERRED for one in outcomes)


def answer(results: Sequence[tuple[Deferred[Any], object]]) -> None:
    """Give each who asked the result; in the thread of those who ask."""
    for done, result in results:
        # A caller that has gone away has cancelled its Deferred; what was asked for is done nevertheless.
        if not done.called:
            if isinstance(result, Failure):
                done.errback(result)
            else:
                done.callback(result)
