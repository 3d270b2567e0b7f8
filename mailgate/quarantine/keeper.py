"""Sees to the quarantine from time to time: what has been there long enough is deleted, originals that belong to
nothing are removed, and filters are asked again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from mailgate.awaiting import surely
from mailgate.config.quarantine import QuarantineSection
from mailgate.envelope import KEPT_STEPS, Envelope, Kept
from mailgate.events import QuarantineExpired
from mailgate.interfaces import EntryView, IEvents, ISpool, Selector, SpoolError
from mailgate.message import Content
from mailgate.quarantine.entries import decided_by, messages_of, objectors, only
from mailgate.quarantine.news import News
from mailgate.quarantine.originals import Originals
from mailgate.quarantine.review import Review, Reviewed

__all__ = ["Keeper"]

_log = Logger()

#: Seconds between two looks, and after the start until the first.
_EVERY, _FIRST = 3600.0, 60.0
#: Seconds within which the message of a new original is in the spool, or never will be.
_GRACE = 3600.0
#: Messages, one after another, of which filters cannot tell, or that cannot be read: then a round ends, for a scanner
#: or the spool is out of order.
_PATIENCE = 20
#: How the trace tells of a failure that changed nothing.
_IGNORED = "(on_failure: continue)"

_Message = tuple[Envelope, Content, Sequence[EntryView]]


class Keeper:
    """Works by `clock` from `start` to `close`, one thing after another; `use` says by what, also while it runs."""

    def __init__(
        self, spool: ISpool, originals: Originals, review: Review, events: IEvents, clock: IReactorTime
    ) -> None:
        self._spool = spool
        self._originals = originals
        self._review = review
        self._events = events
        self._clock = clock
        self._section = QuarantineSection()
        self._news, self._news_of_queue = News("objects"), News("pass")
        self._is_running = self._is_closing = False
        self._next: dict[Callable[[], Awaitable[None]], IDelayedCall] = {}
        self._work: Deferred[None] | None = None
        self._asking: Deferred[Sequence[Reviewed]] | None = None
        self._wanted: list[Callable[[], Awaitable[None]]] = []

    def use(self, section: QuarantineSection) -> None:
        """From now on go by this."""
        before, self._section = self._section, section
        if self._is_running and section.rescan_every != before.rescan_every:
            self._plan(self.rescan, section.rescan_every)
        if self._is_running and section.retention != before.retention:
            self._plan(self.tidy, _FIRST)

    def start(self) -> None:
        """Begin."""
        self._is_running = True
        self._plan(self.tidy, _FIRST)
        self._plan(self.rescan, self._section.rescan_every)

    async def close(self) -> None:
        """End: filters are asked no more, and what the spool was asked is waited for. The rest is for the next time."""
        self._is_running, self._is_closing = False, True
        for call in self._next.values():
            call.cancel()
        self._next.clear()
        self._wanted.clear()
        if self._asking is not None:
            self._asking.cancel()
        if self._work is not None:
            await surely(self._work)

    # -- what it does

    async def tidy(self) -> None:
        """Delete what has been in quarantine long enough, and remove originals that belong to nothing."""
        await self.expire()
        await self.sweep()

    async def expire(self) -> None:
        """Delete what has been in quarantine long enough."""
        retention = self._section.retention
        async for views in messages_of(self._spool, Selector(state="quarantined", older_than=retention)):
            if self._is_closing:
                return
            now = self._clock.seconds()
            due = [view for view in views if view.next_attempt + retention <= now]
            gone = [one for view in due for one in await self._spool.delete(only(view, "quarantined"))]
            for reason in dict.fromkeys(view.waits for view in gone):
                self._events.publish(
                    QuarantineExpired(
                        at=now,
                        queue_id=gone[0].queue_id,
                        sender=gone[0].sender,
                        recipients=tuple(view.recipient for view in gone if view.waits == reason),
                        reason=reason,
                        seconds=retention,
                    )
                )
            if gone:
                await self._forget([gone[0].queue_id])

    async def sweep(self) -> None:
        """Remove the originals of messages that are not in the spool, but for those that may be about to be."""
        await self._forget(await self._originals.names(_GRACE))

    async def _forget(self, queue_ids: Sequence[str]) -> None:
        gone = [one for one in queue_ids if not await self._spool.view(Selector(queue_id=one), 1)]
        await self._originals.remove(gone)

    async def rescan(self) -> None:
        """Ask filters again about what is in quarantine and, where that is wanted, about what waits in the queue."""
        await self._rescan_quarantine()
        if self._section.rescan_queue:
            await self._rescan_queue()

    async def _rescan_quarantine(self) -> None:
        failures = 0
        async for envelope, content, views in self._messages("quarantined"):
            found = await self._ask(envelope, content, views, self._news)
            failures = failures + 1 if any(map(_has_failed, found)) else 0
            if failures >= _PATIENCE:
                self._give_up()
                return
            if self._section.on_pass == "release":  # noqa: S105  no password
                asked = frozenset(self._review.filters(envelope))
                passed = [
                    view for view, said in found if said.word == "pass" and _is_decided_by(asked, envelope.kept, view)
                ]
                await self._review.release(passed, "the re-scan", "no content filter objects any more")

    async def _rescan_queue(self) -> None:
        failures = 0
        released = await self._review.released()
        async for envelope, content, views in self._messages("queued"):
            fresh = [view for view in views if (view.queue_id, view.number) not in released]
            if not envelope.listener or not fresh:
                continue  # our own mail, or what somebody has let go
            found = await self._ask(envelope, content, fresh, self._news_of_queue)
            failures = failures + 1 if any(map(_has_failed, found)) else 0
            if failures >= _PATIENCE:
                self._give_up()
                return
            await self._review.keep_back([one for one in found if one.said.word == "objects"])

    async def _ask(
        self, envelope: Envelope, content: Content, views: Sequence[EntryView], news: News
    ) -> Sequence[Reviewed]:
        self._asking = Deferred.fromCoroutine(self._review.ask(envelope, content, views, news.take))
        return await self._asking

    async def _messages(self, state: str) -> AsyncIterator[_Message]:
        failures = 0
        async for views in messages_of(self._spool, Selector(state=state)):
            if self._is_closing:
                return
            try:
                message = await self._spool.content(views[0].queue_id)
            except SpoolError as error:
                failures += 1
                if failures >= _PATIENCE:
                    raise
                _log.warn("filters cannot be asked again about {id}: {error}", id=views[0].queue_id, error=error)
                continue
            failures = 0
            if message is not None:
                yield *message, views

    def _give_up(self) -> None:
        _log.warn(
            "filters could not be asked again about {count} messages, one after another: the rest waits for next time",
            count=_PATIENCE,
        )

    # -- when

    def _plan(self, work: Callable[[], Awaitable[None]], seconds: float | str) -> None:
        """Do it in so many seconds; "off": never."""
        call = self._next.pop(work, None)
        if call is not None:
            call.cancel()
        if isinstance(seconds, float):
            self._next[work] = self._clock.callLater(seconds, self._due, work)

    def _due(self, work: Callable[[], Awaitable[None]]) -> None:
        del self._next[work]
        self._plan(work, _EVERY if work == self.tidy else self._section.rescan_every)
        if work not in self._wanted:
            self._wanted.append(work)
        if self._work is None or self._work.called:
            self._work = Deferred.fromCoroutine(self._do())

    async def _do(self) -> None:
        while self._wanted:
            await self._once(self._wanted.pop(0))

    async def _once(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except CancelledError:
            pass  # it ends
        except (OSError, SpoolError) as error:
            _log.warn("the quarantine cannot be seen to now: {error}", error=error)
        except Exception:
            _log.failure("the quarantine cannot be seen to")


def _has_failed(found: Reviewed) -> bool:
    """Whether a filter could not tell; where there is none that could be asked, nothing is out of order."""
    return found.said.word == "unknown" and bool(found.said.filter)


def _is_decided_by(asked: frozenset[str], kept: Kept | None, view: EntryView) -> bool:
    """Whether it is in quarantine because of these filters, and of no other that has objected as well."""
    if kept is None or decided_by(kept, view.waits) not in asked:
        return False
    steps = [one for one in kept.steps if not one.reason.endswith(_IGNORED)]
    return len(kept.steps) < KEPT_STEPS and objectors(steps, view.recipient) <= asked
