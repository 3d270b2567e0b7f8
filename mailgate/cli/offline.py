"""The queue of a gateway that does not run: the spool itself, and what of the relay a change needs."""

from __future__ import annotations

import math
import random
import sqlite3
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgate.address import NULL_PATH
from mailgate.awaiting import as_deferred, at_once
from mailgate.cli.common import BadConfigError, FailedError, route_names
from mailgate.cli.loading import load_whole
from mailgate.config.load import ConfigError
from mailgate.config.places import Places
from mailgate.filters.own_signature import own_signature
from mailgate.interfaces import Grouping, IEvents, IRelay, ISpool, Selector, SiteView, SpoolError
from mailgate.observe.history import History
from mailgate.observe.hub import EventHub
from mailgate.observe.recorder import Recorder
from mailgate.quarantine.originals import Originals
from mailgate.quarantine.sending import Sending
from mailgate.relay.giving_up import give_up
from mailgate.relay.outcomes import OutcomeWriter
from mailgate.relay.replies.classify import Bounces
from mailgate.relay.routing import Routing
from mailgate.relay.sorting import REPORTS
from mailgate.spool.disk import SpoolTakenError
from mailgate.spool.sqlite import SqliteSpool
from mailgate.stores.suppressions import Suppressions
from mailgate.web.account_models import AccountRelease, AccountReleased, SuspectedAccounts
from mailgate.web.models import Changed, Groups, Page, Resumed, Shown, Sites, Status, SuspensionNow, Suspensions
from mailgate.web.operations import QueueOperations, parse_after
from mailgate.web.quarantine import QuarantineOperations
from mailgate.web.quarantine_models import (
    Deleted,
    DeleteOrder,
    KeptPage,
    KeptShown,
    Released,
    ReleaseOrder,
    Rescanned,
    RescanOrder,
)
from mailgate.web.rate_models import RateQuery, RatesNow
from mailgate.web.selection import EVERYTHING, Action, Change, Resume, Selection, Suspend
from mailgate.web.steering import Steering
from mailgate.web.suppression_models import SuppressionCount, SuppressionOrder, Unsuppress
from mailgate.web.suppressions import SuppressionOperations

__all__ = ["OfflineDesk", "SpoolInUseError"]

T = TypeVar("T")

_NOBODY_COUNTS = "no daemon runs, which alone knows whom it suspects"


class SpoolInUseError(FailedError):
    """Somebody has the spool, or makes it: a daemon may be about to answer."""


class OfflineDesk:
    """Owns the spool for as long as it is open. FailedError where that cannot be."""

    def __init__(self, places: Places, config: Path) -> None:
        try:
            (places.spool / "spool.db").stat()
        except (FileNotFoundError, NotADirectoryError):
            is_begun = (places.spool / "lock").exists()
            raise (SpoolInUseError if is_begun else FailedError)(f"there is no spool in {places.spool}") from None
        self._places = places
        self._config = config
        self._calls: SimpleQueue[tuple[Callable[..., object], tuple[Any, ...]]] = SimpleQueue()
        self._events = EventHub()
        self._recorder: Recorder | None = None
        try:
            self._spool = SqliteSpool(
                places.spool,
                events=self._events,
                call_from_thread=lambda call, *values: self._calls.put((call, values)),
            )
        except SpoolTakenError as error:
            raise SpoolInUseError(
                f"no daemon answers at {places.control}, but {error}: try again when that has started, or ended"
            ) from None
        except SpoolError as error:
            raise FailedError(f"no daemon answers at {places.control}, and {error}") from None
        self._relay = _NoRelay(self._spool, self._events)
        self._operations = QueueOperations(self._spool, self._events, self._relay, self._routes, is_running=False)
        self._steering = Steering(self._spool, self._events, self._relay, self._routes)

    def list(self, selection: Selection, limit: int, after: str = "") -> Page:
        return self._run(self._operations.list(selection, limit, parse_after(after)))

    def show(self, queue_id: str) -> Shown | None:
        return self._run(self._operations.show(queue_id))

    def summary(self, by: Grouping, limit: int, selection: Selection) -> Groups:
        return self._run(self._operations.summary(by, limit, selection))

    def change(self, action: Action, change: Change) -> Changed:
        if action == "bounce":
            self._relay.prepare(self._config)
        self._record()
        return self._run(self._operations.change(action, change))

    def kept(self, selection: Selection, limit: int, after: str = "") -> KeptPage:
        return self._run(self._quarantine.list(selection, limit, parse_after(after)))

    def kept_message(self, queue_id: str) -> KeptShown | None:
        return self._run(self._quarantine.show(queue_id))

    def release_kept(self, order: ReleaseOrder) -> Released:
        quarantine = self._quarantine
        self._record()
        return self._run(quarantine.release(order))

    def delete_kept(self, order: DeleteOrder) -> Deleted:
        quarantine = self._quarantine
        self._record()
        return self._run(quarantine.delete(order))

    def rescan(self, order: RescanOrder) -> Rescanned:
        return self._run(self._quarantine.rescan(order))

    def sites(self, selection: Selection = EVERYTHING) -> Sites:
        return Sites(sites=())

    def rates(self, query: RateQuery) -> RatesNow | None:
        return None

    def suspensions(self) -> Suspensions:
        return self._run(self._steering.suspensions())

    def suspend(self, order: Suspend) -> SuspensionNow:
        self._record()
        return self._run(self._steering.suspend(order))

    def resume(self, order: Resume) -> Resumed:
        self._record()
        return self._run(self._steering.resume(order))

    def suppress(self, order: SuppressionOrder) -> SuppressionCount:
        self._record()
        return self._run(self._suppressions.add(order))

    def unsuppress(self, order: Unsuppress) -> SuppressionCount:
        self._record()
        return self._run(self._suppressions.remove(order))

    def accounts(self) -> SuspectedAccounts:
        raise FailedError(_NOBODY_COUNTS)

    def release_account(self, order: AccountRelease) -> AccountReleased:
        raise FailedError(_NOBODY_COUNTS)

    def status(self) -> Status | None:
        return None

    def close(self) -> None:
        self._run(self._spool.close())
        if self._recorder is not None:
            self._recorder.close()

    def _record(self) -> None:
        """Write what is changed into the history, before anything is."""
        if self._recorder is not None:
            return
        try:
            # For adding only: what is too old or too much is the daemon's to say.
            history = History(self._places.history, keep=math.inf, max_size=2**62)
        except OSError as error:
            raise FailedError(f"the history cannot be written, so nothing is changed: {error}") from None
        self._recorder = Recorder([history], delay=0.0)
        self._events.add(self._recorder)
        # What a daemon that was killed had under delivery is queued again.
        self._run(self._spool.sweep())

    @cached_property
    def _suppressions(self) -> SuppressionOperations:
        return SuppressionOperations(Suppressions(self._places.suppressions, at_once, time.time), self._events)

    @cached_property
    def _quarantine(self) -> QuarantineOperations:
        """What is in quarantine, for how long the configuration says. BadConfigError where that cannot be used."""
        loaded = load_whole(self._config)
        originals = Originals(self._places.originals)
        routing = Routing(loaded.config)
        sending = Sending(
            self._spool,
            self._events,
            self._relay,
            originals=originals,
            route_of=lambda recipient, sender: routing.next_hop(recipient, sender) or REPORTS,
            incoming=self._spool.incoming,
        )
        return QuarantineOperations(
            self._spool,
            self._events,
            queue=self._operations,
            originals=originals,
            review=None,
            sending=sending,
            retention=lambda: loaded.config.quarantine.retention,
        )

    def _routes(self) -> Collection[str]:
        return route_names(self._config)

    def _run(self, work: Awaitable[T]) -> T:
        """The result; this thread stands in for the reactor's meanwhile."""
        results: list[T | Failure] = []
        as_deferred(work).addBoth(results.append)
        while not results:
            call, values = self._calls.get()
            call(*values)
        result = results[0]
        if not isinstance(result, Failure):
            return result
        if isinstance(result.value, SpoolError | ValueError):
            raise FailedError(str(result.value))
        if isinstance(result.value, sqlite3.Error):
            raise FailedError(f"{self._places.suppressions}: {result.value}")
        result.raiseException()
        raise AssertionError("unreachable")


@implementer(IRelay)
class _NoRelay:
    """IRelay where none runs: there is nobody to wake, and what is to be given up is given up here and now."""

    def __init__(self, spool: ISpool, events: IEvents) -> None:
        self._spool = spool
        self._events = events
        self._clock = _WallClock()
        self._writer: OutcomeWriter | None = None

    def prepare(self, path: Path) -> None:
        """Before `bounce`: reports are made with the whole configuration. BadConfigError where it cannot be used."""
        loaded = load_whole(path)
        config, routing = loaded.config, Routing(loaded.config)
        try:
            sign = own_signature(loaded, _Signing(self._clock, config.gateway.hostname, config.gateway.state_dir))
        except ConfigError as error:
            raise BadConfigError("\n".join(error.errors)) from None
        self._writer = OutcomeWriter(
            self._spool,
            self._events,
            self._clock,
            random.Random(),  # noqa: S311  for jitter
            hostname=config.gateway.hostname,
            route_of=lambda envelope: routing.next_hop(envelope.sender, NULL_PATH) or REPORTS,
            written=lambda job, due: None,
            stuck=lambda: None,
            unstuck=lambda: None,
            bounces=replace(Bounces.of(config.bounces, loaded.rules), sign=sign),
        )

    def look(self) -> None:
        pass

    def kick(self, selector: Selector | None = None) -> None:
        pass

    async def apply_suspensions(self) -> None:
        pass

    async def put_back(self, selector: Selector) -> None:
        pass

    async def bounce(self, selector: Selector, reason: str = "") -> int:
        if self._writer is None:
            raise RuntimeError("not prepared")
        return await give_up(self._spool, self._writer, selector, reason=reason, clock=self._clock)

    def waits(self, queue_id: str) -> Mapping[int, str]:
        return {}

    def sites(self, selector: Selector | None = None) -> Sequence[SiteView]:
        return ()


@dataclass(frozen=True, slots=True)
class _Signing:
    """What signing mail of our own needs; it never asks which domains are ours."""

    clock: IReactorTime
    hostname: str
    incoming: Path
    local_domains: Callable[[str], bool] = lambda domain: False


class _WallClock(Clock):
    """The time; what is to be called later never is, for the command has ended then."""

    def seconds(self) -> float:
        return time.time()
