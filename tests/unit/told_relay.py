"""A relay that delivers nothing: it remembers what an administrator's commands tell it, and gives up what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from mailgate.interfaces import IEvents, IRelay, ISpool, Selector, SiteView
from mailgate.relay.giving_up import give_up
from mailgate.relay.outcomes import OutcomeWriter

__all__ = ["ToldRelay", "site_view"]


@implementer(IRelay)
class ToldRelay:
    """IRelay. `told` has what it was told, `live` what it says of messages, `at_work` its sites."""

    def __init__(self, spool: ISpool, events: IEvents, clock: IReactorTime) -> None:
        self.told: list[object] = []
        self.live: dict[str, Mapping[int, str]] = {}
        self.at_work: list[SiteView] = []
        self._spool = spool
        self._clock = clock
        self._writer = OutcomeWriter(
            spool,
            events,
            clock,
            Random(1),
            hostname="gate.test",
            route_of=lambda envelope: "reports",
            written=lambda job, due: None,
            stuck=lambda: None,
            unstuck=lambda: None,
        )

    def look(self) -> None:
        self.told.append("look")

    def kick(self, selector: Selector | None = None) -> None:
        self.told.append(selector or "kick")

    async def apply_suspensions(self) -> None:
        self.told.append("suspensions")

    async def bounce(self, selector: Selector, reason: str = "") -> int:
        return await give_up(self._spool, self._writer, selector, reason=reason, clock=self._clock)

    def waits(self, queue_id: str) -> Mapping[int, str]:
        return self.live.get(queue_id, {})

    def sites(self) -> Sequence[SiteView]:
        return self.at_work


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
