"""Asking filters again about what waits, and what comes of it: released, put into quarantine, or left, each with an
event."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Collection, Container, Sequence
from time import time
from typing import NamedTuple

from mailgate.envelope import Envelope
from mailgate.events import OperatorActed, Quarantined, Rescanned
from mailgate.interfaces import Again, EntryView, IEvents, IRelay, ISpool
from mailgate.message import Content
from mailgate.quarantine.entries import ASKED_AGAIN, only
from mailgate.quarantine.rescan import Rescanner

__all__ = ["Review", "Reviewed"]

#: Days for which a spool notes what has left quarantine.
_NOTED_FOR = 40
_DAY = 86400.0


class Reviewed(NamedTuple):
    """What the filters say of one entry."""

    view: EntryView
    said: Again


class Review:
    """Reviews entries of a spool. Each method fails with SpoolError, only."""

    def __init__(
        self,
        spool: ISpool,
        events: IEvents,
        relay: IRelay,
        rescanner: Rescanner,
        now: Callable[[], float] = time,
    ) -> None:
        self._spool = spool
        self._events = events
        self._relay = relay
        self._rescanner = rescanner
        self._now = now

    def filters(self, envelope: Envelope) -> Collection[str]:
        """The names of the filters that are asked about it."""
        return self._rescanner.filters(envelope)

    async def ask(
        self,
        envelope: Envelope,
        content: Content,
        views: Sequence[EntryView],
        is_told: Callable[[Reviewed], bool] = lambda found: True,
        of: Container[str] | None = None,
    ) -> Sequence[Reviewed]:
        """Ask about entries of one message, and tell of those results that `is_told` chooses. `of` as in IRescan."""
        by_number = {one.number: one for one in envelope.recipients}
        known = [view for view in views if view.number in by_number]
        answers = await self._rescanner.ask(envelope, content, [by_number[view.number] for view in known], of)
        found = [Reviewed(view, said) for view, said in zip(known, answers, strict=True)]
        groups: dict[Again, list[str]] = {}
        for one in found:
            if is_told(one):
                groups.setdefault(one.said, []).append(one.view.recipient)
        for said, recipients in groups.items():
            self._events.publish(
                Rescanned(
                    at=self._now(),
                    queue_id=envelope.queue_id,
                    recipients=tuple(recipients),
                    result=said.word,
                    filter=said.filter,
                    reason=said.reason,
                )
            )
        return found

    async def release(self, views: Sequence[EntryView], by: str = "", detail: str = "") -> int:
        """Let entries of one message go that are in quarantine; how many were."""
        gone: list[EntryView] = []
        for view in views:
            if await self._spool.release(only(view, "quarantined")):
                gone.append(view)
        if gone:
            self._events.publish(
                OperatorActed(
                    at=self._now(),
                    action="release",
                    queue_id=gone[0].queue_id,
                    recipients=tuple(view.recipient for view in gone),
                    detail=detail,
                    by=by,
                )
            )
            self._relay.look()
        return len(gone)

    async def keep_back(self, objections: Sequence[Reviewed]) -> int:
        """Put entries of one message into quarantine that are queued or held still; how many were."""
        count = 0
        groups: dict[Again, list[EntryView]] = {}
        for view, said in objections:
            groups.setdefault(said, []).append(view)
        for said, views in groups.items():
            reason = f"{ASKED_AGAIN}{said.filter}: {said.reason}"
            gone = [one for view in views for one in await self._spool.quarantine(only(view, view.state), reason)]
            count += len(gone)
            if gone:
                self._events.publish(
                    Quarantined(
                        at=self._now(),
                        queue_id=gone[0].queue_id,
                        sender=gone[0].sender,
                        recipients=tuple(one.recipient for one in gone),
                        reason=reason,
                    )
                )
        return count

    async def released(self) -> frozenset[tuple[str, int]]:
        """The entries, by queue id and number, that somebody has released: nobody's release is undone."""
        found: set[tuple[str, int]] = set()
        for days in range(_NOTED_FOR + 1):
            day = datetime.datetime.fromtimestamp(self._now() - days * _DAY, datetime.UTC).date().isoformat()
            for key in await self._spool.counts(f"{day}/released/"):
                queue_id, _, number = key.removeprefix(f"{day}/released/").partition("/")
                if number.isdecimal():
                    found.add((queue_id, int(number)))
        return frozenset(found)
