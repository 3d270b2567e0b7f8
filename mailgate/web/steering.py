"""What an administrator does with whole routes, domains, sites and senders: the same in the daemon and beside it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container
from time import time
from typing import TypeVar

from mailgate.events import SuspensionChanged
from mailgate.interfaces import IEvents, IRelay, ISpool, Suspended, Suspension
from mailgate.web.models import Resumed, SiteNow, Sites, SuspensionNow, Suspensions
from mailgate.web.selection import Resume, Suspend

__all__ = ["Steering", "answered"]

T = TypeVar("T")


async def answered(answer: T | Awaitable[T]) -> T:
    """What an answer is that may be there at once or later."""
    return await answer if isinstance(answer, Awaitable) else answer


class Steering:
    """Suspensions, and what the sites do. Each method fails with SpoolError, or ValueError for what cannot be meant.

    `routes` has the names of the routes that there are.
    """

    def __init__(
        self,
        spool: ISpool,
        events: IEvents,
        relay: IRelay,
        routes: Callable[[], Container[str]],
        now: Callable[[], float] = time,
    ) -> None:
        self._spool = spool
        self._events = events
        self._relay = relay
        self._routes = routes
        self._now = now

    async def sites(self) -> Sites:
        """What the relay has for each site; nothing where no relay runs."""
        views = await answered(self._relay.sites())
        busiest = sorted(views, key=lambda one: (-one.waiting - one.active, one.site, one.source))
        return Sites(sites=tuple(map(SiteNow.of, busiest)))

    async def suspensions(self) -> Suspensions:
        """Those that are in force."""
        found = await self._spool.suspensions()
        return Suspensions(suspensions=tuple(map(SuspensionNow.of, found)))

    async def suspend(self, order: Suspend) -> SuspensionNow:
        """Begin one, which takes the place of another for the same name."""
        if order.kind == "route" and order.name not in self._routes():
            raise ValueError(f"there is no route {order.name}")
        now = self._now()
        until = now + order.seconds if order.seconds else 0.0
        one = Suspension(kind=order.kind, name=order.spelt, since=now, until=until, reason=order.reason)
        await self._spool.suspend(one)
        self._tell(one.kind, one.name, True, until, order.reason)
        await self._relay.apply_suspensions()
        return SuspensionNow.of(one)

    async def resume(self, order: Resume) -> Resumed:
        """End one: what waits because of it is due."""
        was_suspended = await self._spool.resume(order.kind, order.spelt)
        if was_suspended:
            self._tell(order.kind, order.spelt, False)
            await self._relay.apply_suspensions()
            self._relay.look()
        return Resumed(was_suspended=was_suspended)

    def _tell(self, kind: Suspended, name: str, is_suspended: bool, until: float = 0.0, reason: str = "") -> None:
        event = SuspensionChanged(
            at=self._now(), kind=kind, name=name, is_suspended=is_suspended, until=until, reason=reason
        )
        self._events.publish(event)
