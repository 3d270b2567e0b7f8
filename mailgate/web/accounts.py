"""What an administrator does with accounts that the filter `compromised` suspects."""

from __future__ import annotations

from collections.abc import Callable

from mailgate.awaiting import answered, run
from mailgate.events import AccountSuspected
from mailgate.filters.compromised_state import Suspicions, counted_name
from mailgate.interfaces import ICounters, IEvents
from mailgate.web.account_models import AccountRelease, AccountReleased, SuspectedAccount, SuspectedAccounts

__all__ = ["AccountOperations"]


class AccountOperations:
    """Each method fails as the counters do."""

    def __init__(self, counters: ICounters, events: IEvents, now: Callable[[], float]) -> None:
        self._suspicions = Suspicions(counters, now)
        self._events = events
        self._now = now

    async def list(self) -> SuspectedAccounts:
        """Those that are suspected now."""
        found, is_all = await answered(run(self._suspicions.all()))
        accounts = [
            SuspectedAccount(name=one.name, signals=one.signals, action=one.action, since=one.since, until=one.until)
            for one in sorted(found, key=lambda one: one.name.lower())
        ]
        return SuspectedAccounts(accounts=tuple(accounts), is_all=is_all)

    async def release(self, order: AccountRelease) -> AccountReleased:
        """End a suspicion; what led to it counts no more."""
        ended = await answered(run(self._suspicions.end(counted_name(order.name))))
        if ended is None:
            return AccountReleased(was_suspected=False)
        told = AccountSuspected(
            at=self._now(),
            user=ended.name or order.name,
            signals=(),
            action="release",
            by=order.by or "an administrator",
        )
        self._events.publish(told)
        return AccountReleased(was_suspected=True)
