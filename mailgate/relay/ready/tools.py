"""What all sites share."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from twisted.internet.interfaces import IReactorTime

from mailgate.interfaces import IEvents, ISlots
from mailgate.relay.locate import Locator
from mailgate.relay.replies.shaping import Shaping

__all__ = ["SiteTools"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteTools:
    """It, as the configuration of now has it."""

    locator: Locator
    shaping: Shaping
    slots: ISlots
    events: IEvents
    clock: IReactorTime
    random: Random
