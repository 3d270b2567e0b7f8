"""What an administrator does with the queue: the same in the daemon and beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from itertools import groupby
from time import time
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, FirstError, gatherResults

from mailgate.events import OperatorActed
from mailgate.interfaces import EntryView, IEvents, ISpool, Selector
from mailgate.message import AddHeader, Content, Edit, RemoveHeader, RenameHeader
from mailgate.observe.asked import asked_for
from mailgate.web.models import Action, Changed, Entry, Page, Recipient, Selection, Shown, with_id

__all__ = ["QueueOperations", "described", "parse_after"]

T = TypeVar("T")

#: Entries that are looked at in one go: between two of them the spool serves the mail.
_CHUNK = 500
#: More recipients than one message can have.
_MESSAGE = 1_000_000
#: Digits of a recipient's number that are still looked at: what is longer names none, and no database holds it.
_MAX_DIGITS = 9
#: Octets of a message that are shown behind its header section.
_TEXT = 4096

#: The states that an action is about.
_CONCERNS: dict[Action, frozenset[str]] = {
    "hold": frozenset({"queued", "leased"}),
    "release": frozenset({"held", "quarantined", "leased"}),
    "retry": frozenset({"queued"}),
    "delete": frozenset({"queued", "held", "quarantined"}),
}


def parse_after(text: str) -> tuple[str, int] | None:
    """The place that a page's `after` names ("ID:NUMBER"); ValueError where it names none."""
    if not text:
        return None
    queue_id, _, number = text.partition(":")
    if not queue_id.isalnum() or not number.isdecimal() or len(number) > _MAX_DIGITS:
        raise ValueError(f"not a place in the queue: {text!r} (a place is ID:NUMBER)")
    return queue_id, int(number)


def described(edit: Edit) -> str:
    """An edit in words."""
    match edit:
        case AddHeader(name, value, at_end):
            return f"add at the {'end' if at_end else 'top'}: {name}: {' '.join(value.split())}"
        case RemoveHeader(name, None):
            return f"remove every {name}"
        case RemoveHeader(name, value):
            return f"remove {name}: {value}"
        case RenameHeader(name, to):
            return f"rename {name} to {to}"


async def _direct(call: Callable[[], T]) -> T:
    return call()


class QueueOperations:
    """Operations on a spool. Each fails with SpoolError, only.

    `kick` wakes the relay after a change. `in_thread` runs a call that reads a file.
    """

    def __init__(
        self,
        spool: ISpool,
        events: IEvents,
        kick: Callable[[], None],
        in_thread: Callable[[Callable[[], Shown]], Awaitable[Shown]] = _direct,
    ) -> None:
        self._spool = spool
        self._events = events
        self._kick = kick
        self._in_thread = in_thread

    async def list(self, selection: Selection, limit: int, after: tuple[str, int] | None = None) -> Page:
        """At most `limit` entries from behind `after` on."""
        found: list[EntryView] = []
        for selector in selection.selectors():
            if len(found) <= limit and not (after and selector.queue_id and selector.queue_id < after[0]):
                found += await self._spool.view(selector, limit + 1 - len(found), after)
        entries = tuple(Entry.of(view) for view in found[:limit])
        more = len(found) > limit and entries
        return Page(entries=entries, after=f"{entries[-1].queue_id}:{entries[-1].number}" if more else "")

    async def show(self, queue_id: str) -> Shown | None:
        """A message, or None where the queue has none of this id."""
        queue_id = queue_id.upper()
        message = await self._spool.content(queue_id)
        if message is None:
            return None
        envelope, content = message
        views = await self._spool.view(Selector(queue_id=queue_id), _MESSAGE)

        def read() -> Shown:
            text, is_whole = _beginning(content)
            return Shown(
                queue_id=envelope.queue_id,
                sender=str(envelope.sender),
                recipients=tuple(
                    Recipient(address=str(one.address), route=one.route, quarantine=one.quarantine)
                    for one in envelope.recipients
                ),
                received=envelope.received,
                size=envelope.size,
                body=envelope.parameters.body,
                asked=asked_for(envelope),
                client=envelope.client,
                edits=tuple(described(edit) for edit in envelope.edits),
                header=content.header.decode("utf-8", "replace"),
                text=text,
                is_whole=is_whole,
                entries=tuple(Entry.of(view) for view in views),
            )

        return await self._in_thread(read)

    async def change(self, action: Action, selection: Selection) -> Changed:
        """Hold, release, retry or delete; an event tells of each message that was changed.

        Some messages at a time, so that a long queue does not hold up the mail meanwhile. ValueError where the
        selection has no condition and does not say that everything is meant.
        """
        if selection.is_empty and not selection.everything:
            raise ValueError("say which entries, or that all are meant")
        matched = changed = busy = later = 0
        others: Counter[str] = Counter()
        for selector in selection.selectors():
            async for messages in self._chunks(selector):
                counts = await _all([self._change(action, selector, views) for views in messages])
                matched += sum(map(len, messages))
                changed += sum(counts)
                states = Counter(view.state for views in messages for view in views)
                busy += states.pop("leased", 0)
                later += sum(_comes_later(action, view) for views in messages for view in views)
                others += Counter({state: count for state, count in states.items() if state not in _CONCERNS[action]})
        if changed or busy:
            self._kick()
        return Changed(action=action, matched=matched, changed=changed, busy=busy, later=later, others=others)

    async def _change(self, action: Action, selector: Selector, views: Sequence[EntryView]) -> int:
        """How many recipients of one message changed; those that a hold or release waits for are told of as well."""
        queue_id = views[0].queue_id
        selector = with_id(selector, queue_id)
        if action == "delete":
            views = await self._spool.delete(selector)
            changed = len(views)
        else:
            views = [view for view in views if view.state in _CONCERNS[action]]
            if action == "retry":
                views = [view for view in views if not _comes_later(action, view)]
            changes = {"hold": self._spool.hold, "release": self._spool.release, "retry": self._spool.retry}
            changed = await changes[action](selector) if views else 0
        if views:
            recipients = tuple(view.recipient for view in views)
            self._events.publish(OperatorActed(at=time(), action=action, queue_id=queue_id, recipients=recipients))
        return changed

    async def _chunks(self, selector: Selector) -> AsyncIterator[Sequence[Sequence[EntryView]]]:
        """The chosen entries, by message; some messages at one time."""
        after: tuple[str, int] | None = None
        while views := await self._spool.view(selector, _CHUNK, after):
            messages: list[Sequence[EntryView]] = [list(group) for _, group in groupby(views, lambda one: one.queue_id)]
            last = views[-1].queue_id
            if len(views) == _CHUNK:
                # The chunk may have cut this message's recipients short.
                messages[-1] = await self._spool.view(with_id(selector, last), _MESSAGE)
            yield messages
            after = (last, _MESSAGE)


async def _all(works: Sequence[Coroutine[Deferred[int], Any, int]]) -> Sequence[int]:
    """The results of what goes on at the same time, so that the spool writes them with one sync."""
    try:
        return await gatherResults([Deferred.fromCoroutine(work) for work in works], consumeErrors=True)
    except FirstError as error:
        raise error.subFailure.value or error from None


def _comes_later(action: Action, view: EntryView) -> bool:
    """Whether this action would make it due now, were it not for the time that its sender has asked for."""
    return action in ("retry", "release") and view.state in _CONCERNS[action] - {"leased"} and view.not_before > time()


def _beginning(content: Content) -> tuple[str, bool]:
    skip = len(content.header) + 2
    taken = b""
    for chunk in content.chunks():
        taken += chunk
        if len(taken) >= skip + _TEXT:
            break
    return taken[skip : skip + _TEXT].decode("utf-8", "replace"), content.size <= skip + _TEXT
