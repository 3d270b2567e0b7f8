"""What an administrator does with the queue: the same in the daemon and beside it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from dataclasses import replace
from time import time
from typing import TypeVar

from twisted.internet.defer import FirstError, gatherResults

from mailgate.awaiting import InThread, answered, as_deferred, at_once
from mailgate.events import OperatorActed
from mailgate.interfaces import EntryView, Grouping, IEvents, IRelay, ISpool, Selector, SpoolError
from mailgate.message import Content
from mailgate.message.words import described
from mailgate.observe.asked import asked_for
from mailgate.quarantine.entries import MESSAGE, chunks_of
from mailgate.web.concern import Concern
from mailgate.web.models import Changed, Entry, Group, Groups, Page, Recipient, Shown
from mailgate.web.selection import Action, Change, Selection
from mailgate.web.waits import suspension_of, why_it_waits
from mailgate.web.wakes import Wakes

__all__ = ["QueueOperations", "parse_after"]

T = TypeVar("T")

#: Entries that are changed in one go: between two of them the gateway serves the mail. A report takes a millisecond.
_CHUNK, _SMALL_CHUNK = 500, 50
#: Messages of a page of which the relay is asked: it looks for each among all that it has.
_MOST_LIVE = 500
#: Digits of a recipient's number that are still looked at: what is longer names none, and no database holds it.
_MAX_DIGITS = 9
#: Octets of a message that are shown behind its header section.
_TEXT = 4096

#: Actions for which the relay gives back what only waits in its memory; `bounce` sees to that itself.
_REACHES_MEMORY = frozenset({"hold", "reroute", "delete"})


def parse_after(text: str) -> tuple[str, int] | None:
    """The place that a page's `after` names ("ID:NUMBER"); ValueError where it names none."""
    if not text:
        return None
    queue_id, _, number = text.partition(":")
    if not queue_id.isalnum() or not number.isdecimal() or len(number) > _MAX_DIGITS:
        raise ValueError(f"not a place in the queue: {text!r} (a place is ID:NUMBER)")
    return queue_id, int(number)


class QueueOperations:
    """Operations on a spool. Each fails with SpoolError, or ValueError for what cannot be meant.

    `relay` is told of changes, and asked why what it has waits. `routes` has the names of the routes that there are.
    `in_thread` runs a call that reads a file. `is_running`: the relay delivers.
    """

    def __init__(
        self,
        spool: ISpool,
        events: IEvents,
        relay: IRelay,
        routes: Callable[[], Container[str]],
        in_thread: InThread = at_once,
        *,
        is_running: bool = True,
        now: Callable[[], float] = time,
    ) -> None:
        self._spool = spool
        self._events = events
        self._relay = relay
        self._routes = routes
        self._in_thread = in_thread
        self._is_running = is_running
        self._now = now

    # -- looking

    async def list(self, selection: Selection, limit: int, after: tuple[str, int] | None = None) -> Page:
        """At most `limit` entries from behind `after` on."""
        found: list[EntryView] = []
        for selector in selection.selectors():
            if len(found) <= limit and not (after and selector.queue_id and selector.queue_id < after[0]):
                found += await self._spool.view(selector, limit + 1 - len(found), after)
        entries = await self._explained(found[:limit])
        more = len(found) > limit and entries
        return Page(entries=entries, after=f"{entries[-1].queue_id}:{entries[-1].number}" if more else "")

    async def summary(self, by: Grouping, limit: int, selection: Selection) -> Groups:
        """How many entries there are by what they have in common: the largest groups."""
        if selection.ids:
            raise ValueError("entries are counted by conditions, not by ids")
        (selector,) = selection.selectors()
        found = await self._spool.summary(by, limit, selector)
        return Groups(by=by, groups=tuple(map(Group.of, found)))

    async def show(self, queue_id: str) -> Shown | None:
        """A message, or None where the queue has none of this id."""
        queue_id = queue_id.upper()
        message = await self._spool.content(queue_id)
        if message is None:
            return None
        envelope, content = message
        entries = await self._explained(await self._spool.view(Selector(queue_id=queue_id), MESSAGE))

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
                entries=entries,
            )

        return await self._in_thread(read)

    async def _explained(self, views: Sequence[EntryView]) -> tuple[Entry, ...]:
        """Entries, with why they wait."""
        ids = list(dict.fromkeys(view.queue_id for view in views if view.state == "leased"))[:_MOST_LIVE]
        live = dict(zip(ids, await _all([self._live(one) for one in ids]), strict=True))
        suspensions = await self._spool.suspensions() if views else ()
        now = self._now()
        return tuple(
            Entry.of(
                view,
                why_it_waits(
                    view,
                    _said(live.get(view.queue_id, ""), view.number),
                    suspensions,
                    now,
                    is_running=self._is_running,
                ),
                suspension_of(view, suspensions),
            )
            for view in views
        )

    async def _live(self, queue_id: str) -> Mapping[int, str] | str:
        """What the relay says of a message, or why it says nothing: the spool's own answer is told all the same."""
        try:
            return await answered(self._relay.waits(queue_id))
        except SpoolError as error:
            return str(error)

    # -- changing

    async def change(self, action: Action, change: Change) -> Changed:
        """Do it; an event tells of each message that was changed.

        Some messages at a time, so that a long queue does not hold up the mail meanwhile. ValueError where the
        selection has no condition and does not say that everything is meant, or a reroute leads nowhere.
        """
        self._check(action, change)
        began = self._now()
        suspensions = await self._spool.suspensions() if action == "retry" else ()
        concern = Concern(action, change, suspensions, began)
        matched = changed = busy = 0
        wakes = Wakes(self._relay, action, change.to)
        for selector in change.selectors():
            by_message = action == "bounce" or selector.state == "leased"
            async for found in chunks_of(self._spool, selector, _SMALL_CHUNK if by_message else _CHUNK):
                if action in _REACHES_MEMORY:
                    found = await self._out_of_memory(selector, found)
                messages = [views for views in found if action != "bounce" or not _is_report(views[0], since=began)]
                counts = await _all([self._change(action, change, concern, selector, views) for views in messages])
                matched += sum(map(len, messages))
                changed += sum(done for done, _ in counts)
                busy += sum(left for _, left in counts)
                for view in (view for views in messages for view in views):
                    concern.count(view)
                # What waits at a site that rests is in the relay's hands, and is due once the site is asked again.
                if any(done or (left and action == "retry") for done, left in counts):
                    wakes.after([view for views in messages for view in views])
        return Changed(
            action=action,
            matched=matched,
            changed=changed,
            busy=busy,
            later=concern.later,
            others=+concern.others,
            suspended=concern.suspended,
            there=concern.there,
        )

    async def _out_of_memory(
        self, selector: Selector, messages: Sequence[Sequence[EntryView]]
    ) -> Sequence[Sequence[EntryView]]:
        """The same entries, when the relay has given back those that it has not begun."""
        ids = {views[0].queue_id: None for views in messages if any(view.state == "leased" for view in views)}
        if not ids:
            return messages
        if selector.state == "leased":
            # Those of later chunks are found by their state, and have to keep it until then.
            await _all([self._relay.put_back(replace(selector, queue_id=one)) for one in ids])
        else:
            await self._relay.put_back(selector)
        found = await _all([self._spool.view(Selector(queue_id=one), MESSAGE) for one in ids])
        now = {(view.queue_id, view.number): view for views in found for view in views}
        places = [[(view.queue_id, view.number) for view in views] for views in messages]
        # What is there no more has been delivered meanwhile.
        again = [
            [
                now.get(place, view)
                for place, view in zip(row, views, strict=True)
                if place in now or row[0][0] not in ids
            ]
            for row, views in zip(places, messages, strict=True)
        ]
        return [views for views in again if views]

    def _check(self, action: Action, change: Change) -> None:
        if change.is_empty and not change.everything:
            raise ValueError("say which entries: conditions, or everything")
        if (change.to and action != "reroute") or (change.because and action != "bounce"):
            raise ValueError(f"{'to' if change.to else 'because'} is not for {action}")
        if action == "reroute" and change.to not in self._routes():
            raise ValueError(f"there is no route {change.to}" if change.to else "say to which route")

    async def _change(
        self, action: Action, change: Change, concern: Concern, selector: Selector, views: Sequence[EntryView]
    ) -> tuple[int, int]:
        """How many recipients of one message changed, and how many were left alone because they are under delivery.

        Those that a hold or release waits for are told of as well.
        """
        queue_id = views[0].queue_id
        selector = replace(selector, queue_id=queue_id)
        leased = [view for view in views if view.state == "leased"]
        concerned = [view for view in views if concern.has(view)]
        if not concerned:
            return 0, len(leased)
        # What was chosen by its lease may have been given back for this.
        meant = [selector]
        if selector.state == "leased" and action in _REACHES_MEMORY:
            meant = [replace(selector, state="", recipient=view.recipient) for view in views]
        match action:
            case "hold":
                changed = sum([await self._spool.hold(one) for one in meant])
            case "release":
                changed = sum([await self._spool.release(one) for one in concern.released(selector)])
            case "retry":
                # Of what is suspended beside others it changes nothing that lasts.
                changed = min(await self._spool.retry(selector), len(concerned))
            case "reroute":
                changed = sum([await self._spool.reroute(one, change.to) for one in meant])
            case "bounce":
                # What the relay has in its hands may be under delivery, and is left alone then.
                concerned.sort(key=lambda view: view.state == "leased")
                chosen = _to_give_up(selector, concerned)
                changed = sum([await self._relay.bounce(one, change.because) for one in chosen])
                concerned = concerned[:changed]
                leased = leased[sum(view.state == "leased" for view in concerned) :]
            case "delete":
                concerned = [view for one in meant for view in await self._spool.delete(one)]
                changed = len(concerned)
        if concerned:
            self._events.publish(
                OperatorActed(
                    at=self._now(),
                    action=action,
                    queue_id=queue_id,
                    recipients=tuple(view.recipient for view in concerned),
                    detail=change.to or change.because,
                    by=change.by,
                )
            )
        return changed, len(leased)


def _to_give_up(selector: Selector, views: Sequence[EntryView]) -> Sequence[Selector]:
    """What of one message is to be given up: state by state, so that what a policy keeps back is not returned to
    somebody who has most likely never sent it.

    What waits in the relay's memory goes back to the spool first, and is queued then, beside others that may be meant
    or not.
    """
    if selector.state == "leased":
        return [replace(selector, state="queued", recipient=view.recipient) for view in views]
    states = {"queued" if view.state == "leased" else view.state for view in views}
    return [replace(selector, state=state) for state in sorted(states)]


def _is_report(view: EntryView, since: float) -> bool:
    """Whether this may be a report of what has been given up since then, which must not be given up in turn."""
    return not view.sender and view.received >= since


async def _all(works: Sequence[Awaitable[T]]) -> Sequence[T]:
    """The results of what goes on at the same time, so that the spool writes them with one sync."""
    try:
        return await gatherResults([as_deferred(work) for work in works], consumeErrors=True)
    except FirstError as error:
        raise error.subFailure.value or error from None


def _said(live: Mapping[int, str] | str, number: int) -> str:
    return live if isinstance(live, str) else live.get(number, "")


def _beginning(content: Content) -> tuple[str, bool]:
    skip = len(content.header) + 2
    taken = b""
    for chunk in content.chunks():
        taken += chunk
        if len(taken) >= skip + _TEXT:
            break
    return taken[skip : skip + _TEXT].decode("utf-8", "replace"), content.size <= skip + _TEXT
