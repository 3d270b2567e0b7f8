"""What the sessions of one milter share, and what is said in their name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from mailgate.awaiting import as_deferred
from mailgate.config.mta import MilterSection
from mailgate.interfaces import Expand, IEvents, IIntake, IPipeline
from mailgate.message import BodyEdit, Content, MemoryBudget
from mailgate.reply import Reply
from mailgate.verdict import Defer

__all__ = ["LOCAL_ERROR", "Edit", "MilterServices", "judged"]

T = TypeVar("T")

_log = Logger()

LOCAL_ERROR = Reply.of(451, "4.3.0", "Local error, try again later")
#: Stands in for a verdict that the pipeline failed to give, and for one that comes too late.
_FAILED = Defer(LOCAL_ERROR, "the pipeline failed")
_LATE = Defer(LOCAL_ERROR, "the filters have not answered in time: see the timeouts of the milter")

Edit = Callable[[Content, Sequence[BodyEdit]], Content | Awaitable[Content]]
"""Makes other content, which is the caller's; OSError or ValueError where it cannot be made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MilterServices:
    """By one configuration. `trusted_pipeline` judges clients that may relay; `expand` tells whom an
    address stands for; `edit` makes the body that edits ask for. The rest as in SessionServices."""

    name: str
    section: MilterSection
    hostname: str
    clock: IReactorTime
    events: IEvents
    intake: IIntake
    pipeline: IPipeline
    trusted_pipeline: IPipeline
    expand: Expand
    edit: Edit
    incoming: Path
    memory_limit: int
    budget: MemoryBudget

    @property
    def stages(self) -> frozenset[str]:
        """The stages at which anybody is asked."""
        return self.pipeline.stages | self.trusted_pipeline.stages


async def judged(answer: T | Awaitable[T], clock: IReactorTime, seconds: float) -> T | Defer:
    """What the pipeline answers; a Defer where that does not come in time, or fails. CancelledError of whoever
    waits."""
    if not isinstance(answer, Awaitable):
        return answer
    waited: Deferred[T] = as_deferred(answer)
    try:
        return await waited.addTimeout(seconds, clock)
    except CancelledError:
        raise
    except DeferredTimeout:
        return _LATE
    except Exception:
        _log.failure("a stage of a session failed")
        return _FAILED
