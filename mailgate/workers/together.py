"""What an operator, or a client's ETRN, wants of the relay, done by the relays of all workers."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import groupby
from typing import Any, Generic, Protocol, TypeVar, cast

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionClosed
from twisted.logger import Logger
from twisted.python.components import proxyForInterface
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgate.awaiting import answered
from mailgate.interfaces import EntryView, IRelay, ISpool, Lease, Selector, SiteView, SpoolError

__all__ = ["Answers", "AskOthers", "OperatorSpool", "Together"]

T = TypeVar("T")
R = TypeVar("R")

_log = Logger()

_TIMES = re.compile(r"\d+ s\b")

AskOthers = Callable[[str, str], Awaitable[tuple[str, str]]]
"""A question and its argument in JSON; the answers, a list in JSON, and an error: whose answers are not among them."""


class _Expandable(Protocol):
    """As much of a spool as other workers need."""

    def expand_fresh(self) -> Awaitable[None]:
        """Give messages under their first delivery the rows that an operator's change reaches. SpoolError."""


class Answers:
    """Answers what other workers ask of this one's relay and spool; `worker` is its number, `numbers` what it has
    counted, as JSON can carry it, and so `rates`, which is asked with a query."""

    def __init__(
        self,
        relay: IRelay,
        spool: _Expandable,
        worker: int,
        numbers: Callable[[], object] = lambda: None,
        rates: Callable[[object], object] = lambda query: None,
    ) -> None:
        self._relay = relay
        self._worker = worker
        self._spool = spool
        self._numbers = numbers
        self._rates = rates

    async def answer(self, question: str, argument: str) -> tuple[str, str]:
        """The answer in JSON, and what the spool said where it failed."""
        try:
            return json.dumps(await self._answer(question, json.loads(argument))), ""
        except SpoolError as error:
            return "null", str(error) or "the spool failed"

    async def _answer(self, question: str, argument: Any) -> object:
        relay = self._relay
        match question:
            case "look":
                relay.look()
            case "kick":
                relay.kick(None if argument is None else Selector(**argument))
            case "suspensions":
                await relay.apply_suspensions()
            case "put_back":
                await relay.put_back(Selector(**argument))
            case "bounce":
                return await relay.bounce(Selector(**argument["selector"]), argument["reason"])
            case "waits":
                return [_placed(await answered(relay.waits(queue_id)), self._worker) for queue_id in argument]
            case "sites":
                selector = None if argument is None else Selector(**argument)
                return [asdict(one) for one in await answered(relay.sites(selector))]
            case "expand":
                await self._spool.expand_fresh()
            case "metrics":
                return self._numbers()
            case "rates":
                return self._rates(argument)
            case _:
                raise AssertionError(f"another worker asks {question!r}")
        return None


@implementer(IRelay)
class Together:
    """The relays of all workers as one: our own, that of `worker`, and those that `ask_others` reaches.

    A worker that has just died is left out: what it had in hand is in the spool. Where one that lives has not answered
    in time, or with an error, the others have done their part, and SpoolError says that it is a part.
    """

    def __init__(self, relay: IRelay, ask_others: AskOthers, worker: int) -> None:
        self._relay = relay
        self._worker = worker
        self._ask_others = ask_others
        self._waits = _Rounds(self._waits_of)

    def look(self) -> None:
        self._relay.look()
        self._tell("look", None)

    def kick(self, selector: Selector | None = None) -> None:
        self._relay.kick(selector)
        self._tell("kick", None if selector is None else asdict(selector))

    async def apply_suspensions(self) -> None:
        await self._relay.apply_suspensions()
        await self._ask("suspensions", None)

    async def put_back(self, selector: Selector) -> None:
        await self._relay.put_back(selector)
        await self._ask("put_back", asdict(selector))

    async def bounce(self, selector: Selector, reason: str = "") -> int:
        count = await self._relay.bounce(selector, reason)
        counts = await self._ask("bounce", {"selector": asdict(selector), "reason": reason})
        return count + sum(map(int, counts))

    async def waits(self, queue_id: str) -> Mapping[int, str]:
        waits = _placed(await answered(self._relay.waits(queue_id)), self._worker)
        waits.update(await self._waits(queue_id))
        return waits

    async def sites(self, selector: Selector | None = None) -> Sequence[SiteView]:
        views = list(await answered(self._relay.sites(selector)))
        for found in await self._ask("sites", None if selector is None else asdict(selector)):
            views += [SiteView(**one) for one in found]
        views.sort(key=_place)
        return [_merged(list(group)) for _, group in groupby(views, _place)]

    async def _waits_of(self, queue_ids: Sequence[str]) -> Sequence[Mapping[int, str]]:
        """What the others say of these messages."""
        waits: list[dict[int, str]] = [{} for _ in queue_ids]
        for said in await self._ask("waits", queue_ids):
            for one, found in zip(waits, said, strict=True):
                one.update({int(number): text for number, text in found.items()})
        return waits

    async def _ask(self, question: str, argument: object) -> list[Any]:
        return await _asked(self._ask_others, question, argument)

    def _tell(self, question: str, argument: object) -> None:
        told = Deferred.fromCoroutine(self._ask(question, argument))
        # Without the supervisor we end, and our own relay knows.
        told.addErrback(lambda failure: failure.trap(ConnectionClosed) and None)
        told.addErrback(self._not_told)
        told.addErrback(lambda failure: _log.failure("the other workers cannot be told", failure=failure))

    def _not_told(self, failure: Failure) -> None:
        failure.trap(SpoolError)
        _log.warn("not all workers have been told: {error}", error=failure.getErrorMessage())


class OperatorSpool(proxyForInterface(ISpool, "_spool")):  # type: ignore[misc]  # made at run time
    """The spool for whoever changes the queue: before each change, what other workers deliver for the first time is
    made reachable for it."""

    def __init__(self, spool: ISpool, ask_others: AskOthers) -> None:
        super().__init__(spool)

        async def expand(changes: Sequence[None]) -> Sequence[None]:
            await _asked(ask_others, "expand", None)
            return changes

        self._expand = _Rounds(expand)

    async def hold(self, selector: Selector) -> int:
        await self._expand(None)
        return await cast(ISpool, self._spool).hold(selector)

    async def release(self, selector: Selector) -> int:
        await self._expand(None)
        return await cast(ISpool, self._spool).release(selector)

    async def retry(self, selector: Selector) -> int:
        await self._expand(None)
        return await cast(ISpool, self._spool).retry(selector)

    async def reroute(self, selector: Selector, route: str) -> int:
        await self._expand(None)
        return await cast(ISpool, self._spool).reroute(selector, route)

    async def quarantine(self, selector: Selector, reason: str) -> Sequence[EntryView]:
        await self._expand(None)
        return await cast(ISpool, self._spool).quarantine(selector, reason)

    async def delete(self, selector: Selector) -> Sequence[EntryView]:
        await self._expand(None)
        return await cast(ISpool, self._spool).delete(selector)

    async def lease_selected(self, selector: Selector, limit: int, until: float) -> Sequence[Lease]:
        await self._expand(None)
        return await cast(ISpool, self._spool).lease_selected(selector, limit, until)


class _Rounds(Generic[T, R]):
    """Questions that come at one time are asked together: those that come while it is asked wait for the next round."""

    def __init__(self, ask: Callable[[Sequence[T]], Awaitable[Sequence[R]]]) -> None:
        """`ask` brings an answer for each question, in their order."""
        self._ask = ask
        self._is_busy = False
        self._waiting: list[tuple[T, Deferred[R]]] = []

    def __call__(self, question: T) -> Deferred[R]:
        answer: Deferred[R] = Deferred()
        self._waiting.append((question, answer))
        if not self._is_busy:
            self._is_busy = True
            Deferred.fromCoroutine(self._run())
        return answer

    async def _run(self) -> None:
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            try:
                found = await self._ask([question for question, _ in waiting])
            except Exception as error:
                for _, answer in waiting:
                    answer.errback(error)
            else:
                for (_, answer), one in zip(waiting, found, strict=True):
                    answer.callback(one)
        self._is_busy = False


def _place(view: SiteView) -> tuple[str, str, str]:
    return view.site, view.route, view.source


def _merged(views: Sequence[SiteView]) -> SiteView:
    """One ready queue that several workers have."""
    busiest = max(views, key=lambda one: (one.active, one.waiting))
    if len(views) == 1:
        return busiest
    return replace(
        busiest,
        waiting=sum(one.waiting for one in views),
        active=sum(one.active for one in views),
        connections=sum(one.connections for one in views),
        most=max(one.most for one in views),
        backlog=any(one.backlog for one in views),
        rests_until=max(one.rests_until for one in views),
        state=_joined([busiest.state, *(one.state for one in views)]),
    )


def _joined(states: Sequence[str]) -> str:
    """What several workers do for one site. Each keeps time for itself: what differs in that only is said once."""
    distinct: dict[str, str] = {}
    for state in states:
        distinct.setdefault(_TIMES.sub("", state), state)
    if len(distinct) > 1:
        distinct.pop("idle", None)
    return "; ".join(distinct.values())


def _placed(waits: Mapping[int, str], worker: int) -> dict[int, str]:
    """The same with where it is, for each worker has a line of its own."""
    return {number: f"{text}, in worker {worker}" for number, text in waits.items()}


async def _asked(ask_others: AskOthers, question: str, argument: object) -> list[Any]:
    answers, error = await ask_others(question, json.dumps(argument))
    if error:
        raise SpoolError(error)
    return cast("list[Any]", json.loads(answers))
