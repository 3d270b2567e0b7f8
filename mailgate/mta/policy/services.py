"""What the requests to one policy service share."""

from __future__ import annotations

from dataclasses import dataclass

from twisted.internet.interfaces import IReactorTime

from mailgate.config.mta import PolicySection
from mailgate.interfaces import Expand, IEvents, IPipeline

__all__ = ["PolicyServices"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyServices:
    """By one configuration. `trusted_pipeline` judges clients that may relay; `expand` tells whom an address stands
    for, as IAliases does."""

    name: str
    section: PolicySection
    hostname: str
    clock: IReactorTime
    events: IEvents
    pipeline: IPipeline
    trusted_pipeline: IPipeline
    expand: Expand
