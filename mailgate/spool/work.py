"""What the spool's writer is asked for, and how a group of it is done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

__all__ = ["Accept", "Finish", "Job", "Work", "all_final", "answer", "is_one_statement", "run_group", "split"]

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
    done: Deferred[Lease]


class Finish(Struct):
    """The hot path's end: every recipient of a fresh message is final."""

    lease: Lease
    run: Callable[[], None]
    done: Deferred[None]


Work = Job[Any] | Accept | Finish


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
    rows = []
    left: dict[int, Lease] = {}
    in_files = False
    for number, one in enumerate(group):
        if isinstance(one, Accept):
            envelope, content, text, data = store.prepare(one.envelope, one.content)
            # From here on the content is where the row will say; a failure of the group must find it there.
            one.content = content
            in_files = in_files or data is None
            recipients = envelope.recipients
            if _comes_later(envelope):
                store.insert(envelope, text, data, None)
                recipients = ()
            elif _is_kept_back(envelope):
                store.insert(envelope, text, data, one.until)
                recipients = tuple(recipient for recipient in recipients if not recipient.quarantine)
            else:
                rows.append((envelope, text, data, one.until))
            results[number] = Lease(envelope, recipients, content, one.until, {})
        elif isinstance(one, Finish) and one.lease.envelope.queue_id in store.fresh:
            left[number] = one.lease
    if in_files:
        sync(store.contents)
    store.exchange_fresh(rows, [lease.envelope.queue_id for lease in left.values()])
    for lease in left.values():
        if lease.content.path is not None:
            store.forget(store.contents / lease.envelope.queue_id)
    for number, one in enumerate(group):
        if isinstance(one, Job):
            results[number] = one.run()
        elif isinstance(one, Finish) and number not in left:
            one.run()
    return results


def is_one_statement(store: Store, group: Sequence[Work]) -> bool:
    """Whether the group needs no transaction around it: it is messages that come, and no more that leave."""
    come = leave = 0
    for one in group:
        if isinstance(one, Accept):
            if _comes_later(one.envelope) or _is_kept_back(one.envelope):
                return False
            come += 1
        elif isinstance(one, Finish) and one.lease.envelope.queue_id in store.fresh:
            leave += 1
        else:
            return False
    return leave <= come or not come


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
