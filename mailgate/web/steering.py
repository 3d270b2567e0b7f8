"""What an administrator does with whole routes, domains, sites and senders: the same in the daemon and beside it."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from time import time

from mailgate.awaiting import answered
from mailgate.events import SuspensionChanged
from mailgate.interfaces import IEvents, IRelay, ISpool, Selector, SiteView, Summary, Suspended, Suspension
from mailgate.web.models import Resumed, SiteNow, Sites, SuspensionNow, Suspensions
from mailgate.web.selection import EVERYTHING, Resume, Selection, Suspend
from mailgate.web.waits import names

__all__ = ["Steering"]

#: More groups than there are.
_EVERY_GROUP = 10_000_000


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

    async def sites(self, selection: Selection = EVERYTHING) -> Sites:
        """What the relay has for each site; nothing where no relay runs. With conditions, those sites that have been
        tried for any of the entries, or are about to be."""
        views = await answered(self._relay.sites())
        if not selection.is_empty:
            views = await self._concerned(views, selection)
        busiest = sorted(views, key=lambda one: (-one.waiting - one.active, one.site, one.source))
        return Sites(sites=tuple(map(SiteNow.of, busiest)))

    async def _concerned(self, views: Sequence[SiteView], selection: Selection) -> Sequence[SiteView]:
        if selection.ids:
            raise ValueError("sites are chosen by conditions, not by ids")
        (selector,) = selection.selectors()
        fits = [
            one
            for one in views
            if selector.route in ("", one.route)
            and selector.source.lower() in ("", one.source.lower())
            and selector.site.lower() in one.site.lower()
        ]
        if selector == Selector(route=selector.route, source=selector.source, site=selector.site):
            return fits
        tried = {group.key for group in await self._spool.summary("site", _EVERY_GROUP, selector)}
        # Memory knows nothing of the last attempt, and would have anything for these.
        in_hand = await answered(self._relay.sites(selector)) if not selection.is_of_the_past else ()
        holding = {(one.site, one.route, one.source) for one in in_hand}
        return [one for one in fits if one.site in tried or (one.site, one.route, one.source) in holding]

    async def suspensions(self) -> Suspensions:
        """Those that are in force."""
        return Suspensions(suspensions=await self._counted(await self._spool.suspensions()))

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
        (counted,) = await self._counted([one])
        return counted

    async def resume(self, order: Resume) -> Resumed:
        """End one: what waits because of it is due."""
        was_suspended = await self._spool.resume(order.kind, order.spelt)
        if was_suspended:
            self._tell(order.kind, order.spelt, False)
            await self._relay.apply_suspensions()
            self._relay.look()
        return Resumed(was_suspended=was_suspended)

    async def _counted(self, suspensions: Sequence[Suspension]) -> tuple[SuspensionNow, ...]:
        """With how many recipients each is for."""
        counts: dict[Suspended, Sequence[Summary]] = {}
        for kind in {one.kind for one in suspensions}:
            counts[kind] = await self._spool.summary(kind, _EVERY_GROUP)
        return tuple(
            SuspensionNow.of(
                one, sum(group.recipients - group.held for group in counts[one.kind] if names(one, group.key))
            )
            for one in suspensions
        )

    def _tell(self, kind: Suspended, name: str, is_suspended: bool, until: float = 0.0, reason: str = "") -> None:
        event = SuspensionChanged(
            at=self._now(), kind=kind, name=name, is_suspended=is_suspended, until=until, reason=reason
        )
        self._events.publish(event)
