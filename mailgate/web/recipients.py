"""What recipients see of the quarantine, and may release: their own mail, as far as policy leaves it to them."""

from __future__ import annotations

from collections.abc import Awaitable, Collection
from typing import Protocol

from mailgate.quarantine.entries import objectors
from mailgate.web.kept import Found
from mailgate.web.operations import parse_after
from mailgate.web.quarantine_models import (
    KeptEntry,
    KeptPage,
    Released,
    ReleaseOrder,
    Rescanned,
    RescanOrder,
)
from mailgate.web.selection import LONGEST_NAME, Selection

__all__ = ["ForRecipients", "IQuarantine", "NotTheirsError", "UntoldError"]


class IQuarantine(Protocol):
    """As much of QuarantineOperations as serves recipients. SpoolError."""

    def list(self, selection: Selection, limit: int, after: tuple[str, int] | None = None) -> Awaitable[KeptPage]: ...

    def find(self, queue_id: str, number: int, recipient: str) -> Awaitable[Found | None]: ...

    def release(self, order: ReleaseOrder) -> Awaitable[Released]: ...

    def rescan(self, order: RescanOrder) -> Awaitable[Rescanned]: ...


class NotTheirsError(Exception):
    """This mail is an administrator's matter."""


class UntoldError(Exception):
    """A filter that has to be asked before cannot tell at this moment."""


class ForRecipients:
    """The quarantine, without what any of the `excluded` filters has objected to. `scan`: they are asked again before a
    release."""

    def __init__(self, operations: IQuarantine, excluded: Collection[str], *, scan: bool) -> None:
        self._operations = operations
        self._excluded = frozenset(excluded)
        self._scan = scan

    async def listed(self, limit: int, after: str) -> KeptPage:
        """Entries from behind `after` on, by the filter that decided: others may have objected too."""
        page = await self._operations.list(Selection(state="quarantined"), limit, parse_after(after))
        return KeptPage(
            entries=tuple(one for one in page.entries if one.filter not in self._excluded), after=page.after
        )

    async def is_for_recipients(self, queue_id: str, number: int, recipient: str) -> bool:
        """Whether the entry is still there, and no filter that is excluded has objected."""
        try:
            return await self.find(queue_id, number, recipient) is not None
        except NotTheirsError:
            return False

    async def find(self, queue_id: str, number: int, recipient: str) -> KeptEntry | None:
        """An entry; None where it is not in quarantine any more. NotTheirsError."""
        found = await self._operations.find(queue_id, number, recipient)
        if found is None:
            return None
        entry, steps = found
        # Where there is no trace, nobody knows who has objected.
        is_theirs = steps and self._excluded.isdisjoint(objectors(steps, recipient))
        if entry.filter in self._excluded or not is_theirs:
            raise NotTheirsError
        return entry

    async def release(self, entry: KeptEntry) -> bool:
        """Have it sent on to this recipient; whether there was anything to release. NotTheirsError, UntoldError."""
        by = f"recipient {entry.recipient} by link"[:LONGEST_NAME]
        if self._scan and self._excluded:
            of = tuple(sorted(self._excluded))
            await self._ask(RescanOrder(ids=(entry.queue_id,), recipient=entry.recipient, of=of, by=by))
        order = ReleaseOrder(ids=(entry.queue_id,), recipient=entry.recipient, by=by)
        return bool((await self._operations.release(order)).released)

    async def _ask(self, order: RescanOrder) -> None:
        for one in (await self._operations.rescan(order)).objections:
            if not one.filter:  # there is nobody to ask any more
                raise NotTheirsError
            if one.filter in self._excluded:
                raise NotTheirsError if one.word == "objects" else UntoldError
