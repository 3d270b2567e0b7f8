"""What administrators and programs do with the suppression list: the same in the daemon and beside it."""

from __future__ import annotations

from collections.abc import Callable
from time import time

from mailgate.events import Suppressed, SuppressionsImported, Unsuppressed
from mailgate.interfaces import IEvents, ISuppressions, Suppression
from mailgate.web.suppression_models import (
    SuppressedEntry,
    SuppressedPage,
    SuppressionCount,
    SuppressionOrder,
    Unsuppress,
)

__all__ = ["SuppressionOperations"]

#: Entries that are written in one transaction: between two of them the reactor serves the mail.
_TOGETHER = 500
#: Entries of one order that are told of one by one. A list that is imported would push all else out of the queues of
#: webhooks.
_TOLD = 100


class SuppressionOperations:
    """Each method fails as ISuppressions does. `by` is who wants it, "" for an administrator."""

    def __init__(self, known: ISuppressions, events: IEvents, now: Callable[[], float] = time) -> None:
        self._known = known
        self._events = events
        self._now = now

    async def list(
        self, limit: int, after: tuple[str, str], *, address: str = "", scope: str | None = None, reason: str = ""
    ) -> SuppressedPage:
        """A page, as in ISuppressions."""
        found = await self._known.list(limit, after, address=address, scope=scope, reason=reason)
        entries = [SuppressedEntry.model_validate(one, from_attributes=True) for one in found]
        # No address has this sign in it, while a quoted one may have spaces.
        behind = f"{entries[-1].address}\t{entries[-1].scope}" if len(entries) == limit else ""
        return SuppressedPage(entries=entries, next=behind)

    async def add(self, order: SuppressionOrder, by: str = "") -> SuppressionCount:
        """Put addresses on the list. Where it fails on the way, the first of them stand there; to order it again adds
        the rest."""
        now, entries = self._now(), order.entries
        made = [
            Suppression(one.address, one.scope, one.reason, one.detail or by, one.added or now, one.until)
            for one in entries
        ]
        count = 0
        for start in range(0, len(made), _TOGETHER):
            added = await self._known.add(*made[start : start + _TOGETHER])
            count += len(added)
            if len(made) <= _TOLD:
                for one in added:
                    self._tell(one, by)
            elif added:
                self._events.publish(SuppressionsImported(at=self._now(), count=len(added), by=by or _SOMEBODY))
        return SuppressionCount(count=count)

    async def remove(self, order: Unsuppress, by: str = "") -> SuppressionCount:
        """Take an address off the list."""
        removed = await self._known.remove(order.address, order.scope)
        for one in removed:
            told = Unsuppressed(
                at=self._now(), recipient=one.address, scope=one.scope, reason=one.reason, by=by or _SOMEBODY
            )
            self._events.publish(told)
        return SuppressionCount(count=len(removed))

    def _tell(self, one: Suppression, by: str) -> None:
        told = Suppressed(
            at=self._now(),
            recipient=one.address,
            scope=one.scope,
            reason=one.reason,
            detail=one.detail,
            until=one.until,
            by=by or _SOMEBODY,
        )
        self._events.publish(told)


_SOMEBODY = "an administrator"
