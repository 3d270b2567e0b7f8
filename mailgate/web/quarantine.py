"""What an administrator, or a recipient by a link, does with mail in quarantine: the same in the daemon and, but for
asking filters, beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby
from time import time
from typing import NamedTuple

from mailgate.address import Address
from mailgate.awaiting import InThread, at_once
from mailgate.envelope import Envelope
from mailgate.events import OperatorActed
from mailgate.interfaces import Again, EntryView, IEvents, ISpool, Selector, SpoolError
from mailgate.message import Content, Message
from mailgate.quarantine.entries import MESSAGE, messages_of, only
from mailgate.quarantine.office import QuarantineOffice
from mailgate.quarantine.originals import Originals
from mailgate.quarantine.review import Review
from mailgate.quarantine.sending import Sending, has_original
from mailgate.web.kept import Beginning, Found, field_of
from mailgate.web.operations import QueueOperations
from mailgate.web.quarantine_models import (
    Deleted,
    DeleteOrder,
    KeptEntry,
    KeptPage,
    KeptShown,
    Objection,
    Passed,
    Released,
    ReleaseOrder,
    Rescanned,
    RescanOrder,
    Step,
)
from mailgate.web.selection import Selection

__all__ = ["QuarantineOperations"]

#: Entries and messages that an answer names.
_MOST_TOLD = 10_000


class QuarantineOperations:
    """Operations on what is in quarantine. Each fails with SpoolError, or ValueError for what cannot be meant.

    `queue` shows messages. `review` asks filters again; None where no gateway runs that could. `retention` tells for
    how many seconds mail is kept, `in_thread` runs what reads a file.
    """

    def __init__(
        self,
        spool: ISpool,
        events: IEvents,
        *,
        queue: QueueOperations,
        originals: Originals,
        review: Review | None,
        sending: Sending,
        retention: Callable[[], float],
        in_thread: InThread = at_once,
        now: Callable[[], float] = time,
    ) -> None:
        self._spool = spool
        self._events = events
        self._queue = queue
        self._originals = originals
        self._review = review
        self._sending = sending
        self._retention = retention
        self._in_thread = in_thread
        self._now = now

    @classmethod
    def of(
        cls,
        office: QuarantineOffice,
        spool: ISpool,
        events: IEvents,
        queue: QueueOperations,
        in_thread: InThread = at_once,
    ) -> QuarantineOperations:
        """Those of a gateway that runs."""
        return cls(
            spool,
            events,
            queue=queue,
            originals=office.originals,
            review=office.review,
            sending=office.sending,
            retention=office.retention,
            in_thread=in_thread,
        )

    # -- looking

    async def list(self, selection: Selection, limit: int, after: tuple[str, int] | None = None) -> KeptPage:
        """At most `limit` entries from behind `after` on; without conditions, all that is in quarantine."""
        if selection.state not in ("", "quarantined"):
            raise ValueError(f"what is {selection.state} is not in quarantine")
        found: list[EntryView] = []
        for selector in _selectors(selection):
            if len(found) <= limit and not (after and selector.queue_id and selector.queue_id < after[0]):
                found += await self._spool.view(selector, limit + 1 - len(found), after)
        entries = await self._told(found[:limit])
        more = len(found) > limit and entries
        return KeptPage(entries=entries, after=f"{entries[-1].queue_id}:{entries[-1].number}" if more else "")

    async def show(self, queue_id: str) -> KeptShown | None:
        """A message, or None where none of this id is in quarantine."""
        selector = Selector(queue_id=queue_id.upper(), state="quarantined")
        views = [view async for message in messages_of(self._spool, selector) for view in message]
        shown = await self._queue.show(queue_id) if views else None
        message = await self._spool.content(selector.queue_id) if shown is not None else None
        if shown is None or message is None:
            return None
        kept = message[0].kept
        return KeptShown(
            message=shown,
            entries=await self._told(views),
            steps=tuple(map(Step.of, kept.steps)) if kept is not None else (),
            facts=kept.facts if kept is not None else (),
            has_original=kept is not None and kept.has_original,
        )

    async def find(self, queue_id: str, number: int, recipient: str) -> Found | None:
        """One entry, or None where it is not in quarantine."""
        selector = Selector(queue_id=queue_id, recipient=recipient, state="quarantined")
        views = [one for one in await self._spool.view(selector, MESSAGE) if one.number == number]
        if not views:
            return None
        beginning = await self._beginning(queue_id)
        return Found(beginning.entry(views[0], self._retention()), beginning.kept.steps)

    async def _told(self, views: Sequence[EntryView]) -> tuple[KeptEntry, ...]:
        """Entries, with what their messages say of themselves."""
        entries: list[KeptEntry] = []
        retention = self._retention()
        for queue_id, group in groupby(views, lambda one: one.queue_id):
            beginning = await self._beginning(queue_id)
            entries += [beginning.entry(view, retention) for view in group]
        return tuple(entries)

    async def _beginning(self, queue_id: str) -> Beginning:
        """What a message says of itself; nothing where it cannot be read, or is there no more."""
        try:
            found = await self._spool.content(queue_id)
        except SpoolError:
            return Beginning()  # it is for the list to tell of what can be read
        if found is None:
            return Beginning()
        envelope, content = found

        def read() -> tuple[str, str]:
            try:
                message = Message(content)
                return field_of(message, "Subject"), field_of(message, "From")
            except OSError:
                return "", ""

        return Beginning(envelope, *await self._in_thread(read))

    # -- changing

    async def release(self, order: ReleaseOrder) -> Released:
        """Send on what is chosen, message by message; an event tells of each."""
        self._check(order)
        review = self._asking() if order.scan else None
        to = Address.parse(order.to) if order.to is not None else None
        if to is not None:
            self._sending.check(to)
        matched = released = 0
        copies: list[str] = []
        still: list[Objection] = []
        for selector in _selectors(order):
            async for views in messages_of(self._spool, selector):
                matched += len(views)
                done = await self._release(order, review, to, views)
                released += done.released
                copies += done.copies[: _MOST_TOLD - len(copies)]
                still += done.still[: _MOST_TOLD - len(still)]
        return Released(matched=matched, released=released, copies=tuple(copies), still_objected=tuple(still))

    async def _release(
        self, order: ReleaseOrder, review: Review | None, to: Address | None, views: Sequence[EntryView]
    ) -> _Done:
        """The entries of one message."""
        try:
            message = await self._spool.content(views[0].queue_id)
        except SpoolError as error:
            return _Done(still=_untold(views, f"it cannot be read: {error}"))
        if message is None:
            return _Done()
        envelope, kept = message
        try:
            content = await self._meant(order, envelope, kept)
        except OSError as error:
            why = f"its content cannot be had: {error.strerror or error}"
            return _Done(still=_untold(views, why))
        still: list[Objection] = []
        if review is not None:
            try:
                found = await review.ask(envelope, content, views)
            except BaseException:
                _drop(content, kept)
                raise
            still = [_objection(view, said) for view, said in found if said.word != "pass"]
            views = [view for view, said in found if said.word == "pass"]
        if not views:
            _drop(content, kept)
            return _Done(still=still)
        if to is not None:
            is_original = order.original and has_original(envelope)
            new = await self._sending.send_copy(envelope, content, to, order.by, is_original=is_original)
            return _Done(copies=[new])
        if content is kept:
            return _Done(await self._let_go(order, views), still=still)
        new, count = await self._sending.send_original(envelope, content, views, order.by)
        return _Done(count, [new], still) if new else _Done(still=still)

    async def delete(self, order: DeleteOrder) -> Deleted:
        """Remove what is chosen; an event tells of each message."""
        self._check(order)
        matched = deleted = 0
        for selector in _selectors(order):
            async for views in messages_of(self._spool, selector):
                matched += len(views)
                gone = [one for view in views for one in await self._spool.delete(only(view, "quarantined"))]
                deleted += len(gone)
                self._tell("delete", gone, order.by)
                if gone and not await self._spool.view(Selector(queue_id=gone[0].queue_id), 1):
                    await self._originals.remove([gone[0].queue_id])
        return Deleted(matched=matched, deleted=deleted)

    async def rescan(self, order: RescanOrder) -> Rescanned:
        """Ask the content filters again about what is chosen; events tell what they say."""
        self._check(order)
        review = self._asking()
        matched = quarantined = 0
        released = await review.released() if order.queue else frozenset()
        passed: list[Passed] = []
        objections: list[Objection] = []
        for selector in _selectors(order, "queued" if order.queue else "quarantined"):
            async for views in messages_of(self._spool, selector):
                views = [view for view in views if (view.queue_id, view.number) not in released]
                try:
                    message = await self._spool.content(views[0].queue_id) if views else None
                except SpoolError as error:
                    matched += len(views)
                    untold = _untold(views, f"it cannot be read: {error}")
                    objections += untold[: _MOST_TOLD - len(objections)]
                    continue
                if message is None or (order.queue and not message[0].listener):
                    continue  # what is our own nobody has judged
                matched += len(views)
                found = await review.ask(*message, views, of=order.of or None)
                for view, said in found:
                    if said.word != "pass":
                        objections.append(_objection(view, said))
                    else:
                        passed.append(Passed(queue_id=view.queue_id, recipient=view.recipient))
                del passed[_MOST_TOLD:], objections[_MOST_TOLD:]
                if order.queue:
                    quarantined += await review.keep_back([one for one in found if one.said.word == "objects"])
        return Rescanned(matched=matched, passed=tuple(passed), objections=tuple(objections), quarantined=quarantined)

    def _check(self, order: ReleaseOrder | DeleteOrder | RescanOrder) -> None:
        if order.is_empty and not order.everything:
            raise ValueError("say which entries: conditions, or everything")

    def _asking(self) -> Review:
        if self._review is None:
            raise ValueError("filters can be asked again only while the gateway runs")
        return self._review

    async def _meant(self, order: ReleaseOrder, envelope: Envelope, kept: Content) -> Content:
        """What is to be sent: another content than the spool's is the caller's. OSError where it cannot be had."""
        if order.original and has_original(envelope):
            return await self._sending.original(envelope)
        return kept if order.to is None else await self._sending.copy(kept)

    async def _let_go(self, order: ReleaseOrder, views: Sequence[EntryView]) -> int:
        how = "the content filters were asked again" if order.scan else ""
        if self._review is not None:
            return await self._review.release(views, order.by, how)
        gone = [view for view in views if await self._spool.release(only(view, "quarantined"))]
        self._tell("release", gone, order.by, how)
        return len(gone)

    def _tell(self, action: str, views: Sequence[EntryView], by: str, detail: str = "") -> None:
        if views:
            self._events.publish(
                OperatorActed(
                    at=self._now(),
                    action=action,
                    queue_id=views[0].queue_id,
                    recipients=tuple(view.recipient for view in views),
                    detail=detail,
                    by=by,
                )
            )


class _Done(NamedTuple):
    """What became of the entries of one message, as in Released."""

    released: int = 0
    copies: Sequence[str] = ()
    still: Sequence[Objection] = ()


def _untold(views: Sequence[EntryView], why: str) -> Sequence[Objection]:
    """Why a message stays that cannot be had: the others do not stay with it."""
    return [_objection(view, Again("unknown", reason=why)) for view in views]


def _drop(content: Content, kept: Content) -> None:
    """Nobody needs it; the spool's own stays."""
    if content is not kept:
        content.discard()


def _selectors(selection: Selection, state: str = "quarantined") -> Sequence[Selector]:
    return [replace(one, state=state) for one in selection.selectors()]


def _objection(view: EntryView, said: Again) -> Objection:
    return Objection(
        queue_id=view.queue_id,
        recipient=view.recipient,
        word="objects" if said.word == "objects" else "unknown",
        filter=said.filter,
        reason=said.reason,
    )
