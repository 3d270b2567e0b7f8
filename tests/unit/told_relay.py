"""A relay that delivers nothing: it remembers what an administrator's commands tell it, and gives up what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from mailgate.interfaces import IEvents, IRelay, ISpool, Lease, Return, Selector, SiteView, SpoolError
from mailgate.relay.giving_up import give_up
from tests.unit.relaying import make_writer

__all__ = ["ToldRelay", "site_view"]


@implementer(IRelay)
class ToldRelay:
    """IRelay. `told` has what it was told, `live` what it says of messages, `at_work` its sites,
    `holding` those of them that hold what is asked for,
    `waiting` what only waits in its memory."""

    def __init__(self, spool: ISpool, events: IEvents, clock: IReactorTime) -> None:
        self.told: list[object] = []
        self.live: dict[str, Mapping[int, str]] = {}
        self.silence = ""  # why it says nothing
        self.at_work: list[SiteView] = []
        self.holding: list[SiteView] = []
        self.waiting: list[Lease] = []
        self._spool = spool
        self._clock = clock
        self._writer = make_writer(spool, events, clock)

    def look(self) -> None:
        self.told.append("look")

    def kick(self, selector: Selector | None = None) -> None:
        self.told.append(selector or "kick")

    async def apply_suspensions(self) -> None:
        self.told.append("suspensions")

    async def put_back(self, selector: Selector) -> None:
        """Gives back what is in `waiting`, as far as its message is meant."""
        self.told.append(("put back", selector))
        chosen = [one for one in self.waiting if selector.queue_id in ("", one.envelope.queue_id)]
        self.waiting = [one for one in self.waiting if one not in chosen]
        await self._spool.release_leases([Return(one, self._clock.seconds() + 5) for one in chosen])

    async def bounce(self, selector: Selector, reason: str = "") -> int:
        return await give_up(self._spool, self._writer, selector, reason=reason, clock=self._clock)

    def waits(self, queue_id: str) -> Mapping[int, str]:
        if self.silence:
            raise SpoolError(self.silence)
        return self.live.get(queue_id, {})

    def sites(self, selector: Selector | None = None) -> Sequence[SiteView]:
        return self.at_work if selector is None else self.holding


def site_view(site: str, **more: object) -> SiteView:
    """A site that delivers."""
    fields: dict[str, object] = {
        "site": site,
        "route": "internet",
        "source": "",
        "waiting": 0,
        "active": 1,
        "connections": 1,
        "most": 20,
        "backlog": False,
        "rests_until": 0.0,
        "state": "delivering",
        **more,
    }
    return SiteView(**fields)  # type: ignore[arg-type]  # of the right types, one by one
