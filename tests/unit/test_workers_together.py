"""The relays of several workers as one, and an operator's change that has to reach what another worker delivers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from zope.interface import implementer
from zope.interface.verify import verifyObject

from mailgate.interfaces import IRelay, ISpool, Selector, SiteView, SpoolError
from mailgate.testing import MemorySpool, wait_for
from mailgate.workers.together import Answers, OperatorSpool, Together

VIEW = SiteView(
    site="mx.example",
    route="internet",
    source="",
    waiting=3,
    active=1,
    connections=2,
    most=5,
    backlog=False,
    rests_until=0.0,
    state="delivering",
)


@implementer(IRelay)
class FakeRelay:
    """Takes down what it is told."""

    def __init__(self, views: Sequence[SiteView] = (), waits: Mapping[int, str] | None = None) -> None:
        self.told: list[object] = []
        self.views = views
        self.found = waits or {}
        self.error = ""

    def look(self) -> None:
        self.told.append("look")

    def kick(self, selector: Selector | None = None) -> None:
        self.told.append(selector)

    async def apply_suspensions(self) -> None:
        self.told.append("suspensions")

    async def put_back(self, selector: Selector) -> None:
        self.told.append(("put back", selector))

    async def bounce(self, selector: Selector, reason: str = "") -> int:
        if self.error:
            raise SpoolError(self.error)
        self.told.append((selector, reason))
        return 2

    async def waits(self, queue_id: str) -> Mapping[int, str]:
        return self.found if queue_id == "ID" else {}

    def sites(self, selector: Selector | None = None) -> Sequence[SiteView]:
        return [one for one in self.views if selector is None or selector.site in one.site]


class FakeSpool:
    """Counts how often it is expanded."""

    def __init__(self) -> None:
        self.expanded = 0
        self.hold_on: Deferred[None] | None = None

    async def expand_fresh(self) -> None:
        self.expanded += 1
        if self.hold_on is not None:
            await self.hold_on


class Workers:
    """The first of three, and what reaches the others."""

    def __init__(self) -> None:
        self.relays = [FakeRelay() for _ in range(3)]
        self.spools = [FakeSpool() for _ in range(3)]
        self._answers = [
            Answers(relay, spool, number)
            for number, (relay, spool) in enumerate(zip(self.relays, self.spools, strict=True))
        ]
        self.together = Together(self.relays[0], self.ask_others, 0)
        self.is_alone = False

    async def ask_others(self, question: str, argument: str) -> tuple[str, str]:
        """As the supervisor does."""
        if self.is_alone:
            raise ConnectionDone
        said = [await answers.answer(question, argument) for answers in self._answers[1:]]
        good = [answer for answer, error in said if not error]
        return f"[{','.join(good)}]", next((error for _, error in said if error), "")


def test_it_is_a_relay() -> None:
    assert verifyObject(IRelay, Workers().together)


def test_what_one_is_told_all_are_told() -> None:
    workers = Workers()
    selector = Selector(domain="example.org", older_than=3.5)
    workers.together.look()
    workers.together.kick()
    workers.together.kick(selector)
    wait_for(workers.together.apply_suspensions())
    for relay in workers.relays:
        assert relay.told == ["look", None, selector, "suspensions"]


def test_a_bounce_counts_what_all_gave_up() -> None:
    workers = Workers()
    assert wait_for(workers.together.bounce(Selector(sender="<>"), 'no "such" place')) == 6
    assert workers.relays[2].told == [(Selector(sender="<>"), 'no "such" place')]
    workers.relays[1].error = "the disk is full"
    with pytest.raises(SpoolError, match="the disk is full"):
        wait_for(workers.together.bounce(Selector(sender="<>")))


def test_all_put_back() -> None:
    workers = Workers()
    wait_for(workers.together.put_back(Selector(sender="<>")))
    assert [relay.told for relay in workers.relays] == [[("put back", Selector(sender="<>"))]] * 3


def test_waits_of_all() -> None:
    workers = Workers()
    workers.relays[0].found, workers.relays[2].found = {0: "1st in line"}, {7: "being delivered"}
    assert wait_for(workers.together.waits("ID")) == {
        0: "1st in line, in worker 0",
        7: "being delivered, in worker 2",
    }
    assert wait_for(workers.together.waits("OTHER")) == {}


def test_waits_of_many_messages_are_asked_in_few_rounds() -> None:
    workers = Workers()
    asked: list[str] = []
    first = Deferred[tuple[str, str]]()

    async def ask_others(question: str, argument: str) -> tuple[str, str]:
        asked.append(argument)
        if len(asked) == 1:
            await first
        return f"[{json.dumps([{'3': queue_id} for queue_id in json.loads(argument)])}]", ""

    together = Together(workers.relays[0], ask_others, 0)
    waits = [Deferred.fromCoroutine(together.waits(str(number))) for number in range(50)]
    first.callback(("", ""))
    assert [wait_for(one) for one in waits] == [{3: str(number)} for number in range(50)]
    assert len(asked) == 2


def test_a_ready_queue_that_several_have_is_shown_once() -> None:
    workers = Workers()
    rests = replace(VIEW, active=4, connections=1, backlog=True, rests_until=9.0, state="rests for 9 s")
    other = replace(VIEW, source="two")
    for relay, views in zip(workers.relays, ([VIEW, other], [], [rests]), strict=True):
        relay.views = views
    merged = replace(rests, waiting=6, active=5, connections=3, state="rests for 9 s; delivering")
    assert wait_for(workers.together.sites()) == [merged, other]


@pytest.mark.parametrize(
    ("states", "told"),
    [
        (["idle", "delivering"], "delivering"),
        (["idle", "idle"], "idle"),
        (["60 messages a minute to mx: in 6 s", "60 messages a minute to mx: in 12 s"], "in 6 s"),
        (["mx rests for 40 s: refused", "mx rests for 7 s: refused", "idle"], "mx rests for 40 s: refused"),
    ],
)
def test_what_several_say_is_said_once(states: list[str], told: str) -> None:
    workers = Workers()
    for number, (relay, state) in enumerate(zip(workers.relays, states, strict=False)):
        relay.views = [replace(VIEW, state=state, active=9 - number)]
    (found,) = wait_for(workers.together.sites())
    assert found.state.endswith(told)
    assert ";" not in found.state


def test_all_are_asked_for_the_sites_that_are_meant() -> None:
    workers = Workers()
    for relay in workers.relays:
        relay.views = [VIEW, replace(VIEW, site="other")]
    assert [one.site for one in wait_for(workers.together.sites(Selector(site="mx")))] == ["mx.example"]


def test_without_the_supervisor_our_own_relay_is_told() -> None:
    workers = Workers()
    workers.is_alone = True
    workers.together.look()
    assert workers.relays[0].told == ["look"]


def test_a_question_that_nobody_knows_is_a_bug() -> None:
    answers = Answers(FakeRelay(), FakeSpool(), 0)
    with pytest.raises(AssertionError, match="nonsense"):
        wait_for(answers.answer("nonsense", json.dumps(None)))


CHANGES = ("hold", "release", "retry", "delete", "reroute", "lease_selected")


@pytest.mark.parametrize("change", CHANGES)
def test_before_a_change_every_other_worker_makes_its_messages_reachable(change: str) -> None:
    workers = Workers()
    spool = OperatorSpool(MemorySpool(Clock()), workers.ask_others)
    assert verifyObject(ISpool, spool)
    more = {"reroute": ("other",), "lease_selected": (10, 60.0)}.get(change, ())
    wait_for(getattr(spool, change)(Selector(domain="example.org"), *more))
    assert [one.expanded for one in workers.spools] == [0, 1, 1]
    wait_for(spool.view(Selector(), 10))
    assert workers.spools[1].expanded == 1


def test_changes_at_one_time_are_prepared_together() -> None:
    workers = Workers()
    first, second = Deferred[None](), Deferred[None]()
    workers.spools[1].hold_on = first
    spool = OperatorSpool(MemorySpool(Clock()), workers.ask_others)
    one = Deferred.fromCoroutine(spool.hold(Selector(queue_id="1")))
    others = [Deferred.fromCoroutine(spool.hold(Selector(queue_id=str(number)))) for number in range(100)]
    assert workers.spools[1].expanded == 1
    workers.spools[1].hold_on = second
    first.callback(None)
    assert one.called
    assert not any(other.called for other in others)  # these came later than the look that had been under way
    second.callback(None)
    assert all(other.called for other in others)
    assert workers.spools[1].expanded == 2


def test_a_change_is_not_made_where_a_worker_cannot_prepare_it() -> None:
    workers = Workers()
    spool = OperatorSpool(MemorySpool(Clock()), workers.ask_others)

    async def fails() -> None:
        raise SpoolError("the disk is full")

    workers.spools[2].expand_fresh = fails  # type: ignore[method-assign]
    with pytest.raises(SpoolError, match="the disk is full"):
        wait_for(spool.hold(Selector(queue_id="1")))


def test_a_worker_tells_what_it_has_counted() -> None:
    counting = Answers(FakeRelay(), FakeSpool(), 1, lambda: [("mailgate_x", "x", "counter", [])])
    assert wait_for(counting.answer("metrics", "null")) == ('[["mailgate_x", "x", "counter", []]]', "")
    assert wait_for(Answers(FakeRelay(), FakeSpool(), 1).answer("metrics", "null")) == ("null", "")
