"""What became of mail in the last hour: counted by each worker, added up, and told."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from mailgate.events import Bounced, BouncedBack, Complained, Delivered, Started
from mailgate.events import Deferred as Put
from mailgate.interfaces import IEventObserver
from mailgate.observe.rates import MOST, OTHERS, SLOTS, STRETCH, Counted, Outcome, RateKey, Rates, added
from mailgate.testing import wait_for
from mailgate.web.rate_models import MOST_RATES, RateQuery
from mailgate.web.rates import AllRates, rates_of_worker

START = 1_800_000_000.0
ATTEMPT: dict[str, Any] = {
    "queue_id": "A1",
    "sender": "ann@c.test",
    "recipient": "bob@Box.test",
    "route": "out",
    "host": "mx.box.test",
    "reply": "x",
    "attempt": 1,
    "seconds": 0.2,
    "site": "mx.box.test",
    "source": "a1",
    "stream": "news",
}
LATER: dict[str, Any] = {
    "recipient": "bob@box.test",
    "sender": "ann@c.test",
    "proof": "verp",
    "stream": "news",
}


class Counting:
    """Rates, and a clock."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.clock.advance(START)
        self.rates = Rates(self.clock.seconds)

    def delivered(self, times: int = 1, **more: Any) -> None:
        for _ in range(times):
            self.rates.observe(Delivered(**{"at": self.clock.seconds(), **ATTEMPT, "delay": 1.0, **more}))

    def put_off(self, **more: Any) -> None:
        self.rates.observe(Put(**{"at": self.clock.seconds(), **ATTEMPT, "next_attempt": 9.0, **more}))

    def bounced(self, **more: Any) -> None:
        self.rates.observe(Bounced(**{"at": self.clock.seconds(), **ATTEMPT, "reason": "x", **more}))

    def bounced_back(self, **more: Any) -> None:
        event = {"at": self.clock.seconds(), **LATER, "is_permanent": True, "category": "other", **more}
        self.rates.observe(BouncedBack(**event))

    def complained(self, **more: Any) -> None:
        self.rates.observe(Complained(**{"at": self.clock.seconds(), **LATER, **more}))

    def told(self, by: RateKey, limit: int = 10, **only: str) -> dict[str, tuple[int, ...]]:
        return {
            name: tuple(outcome) for name, outcome in self.rates.count(by, limit, cast("dict[RateKey, str]", only)).rows
        }


def test_it_is_an_observer() -> None:
    assert verifyObject(IEventObserver, Counting().rates)


def test_outcomes_are_counted_by_what_mail_has_in_common() -> None:
    counting = Counting()
    counting.rates.observe(Started(at=START, listeners=()))
    assert counting.told("domain") == {}
    counting.delivered(2)
    counting.put_off(recipient="eve@else.test", site="", source="", stream="")
    counting.bounced(site="mx2.box.test", route="other")
    counting.bounced_back()
    counting.complained()
    assert counting.told("domain") == {"box.test": (2, 0, 1, 1, 1), "else.test": (0, 1, 0, 0, 0)}
    assert counting.told("stream") == {"news": (2, 0, 1, 1, 1), "": (0, 1, 0, 0, 0)}
    # What comes back does not say by which way it had gone.
    assert counting.told("route") == {"out": (2, 1, 0, 0, 0), "other": (0, 0, 1, 0, 0)}
    assert counting.told("site") == {
        "mx.box.test": (2, 0, 0, 0, 0),
        "": (0, 1, 0, 0, 0),
        "mx2.box.test": (0, 0, 1, 0, 0),
    }
    assert counting.told("source") == {"a1": (2, 0, 1, 0, 0), "": (0, 1, 0, 0, 0)}


def test_conditions() -> None:
    counting = Counting()
    counting.delivered()
    counting.complained()
    counting.put_off(recipient="eve@else.test", site="in.else.test,in2.else.test", stream="shop")
    assert counting.told("stream", domain="Else.test") == {"shop": (0, 1, 0, 0, 0)}
    assert counting.told("stream", domain="lse.test") == {}
    assert counting.told("domain", site="IN2.else") == {"else.test": (0, 1, 0, 0, 0)}
    assert counting.told("domain", stream="news") == {"box.test": (1, 0, 0, 0, 1)}
    assert counting.told("domain", source="A1") == {"box.test": (1, 0, 0, 0, 0), "else.test": (0, 1, 0, 0, 0)}
    assert counting.told("domain", route="OUT") == {}
    assert counting.told("domain", route="out", stream="news") == {"box.test": (1, 0, 0, 0, 0)}


def test_an_hour_later_it_is_forgotten() -> None:
    counting = Counting()
    counting.delivered()
    counting.clock.advance(SLOTS * STRETCH)
    assert counting.told("domain") == {"box.test": (1, 0, 0, 0, 0)}
    counting.delivered(recipient="x@new.test")
    counting.clock.advance(STRETCH)
    assert counting.told("domain") == {"new.test": (1, 0, 0, 0, 0)}
    now = counting.clock.seconds()
    since = counting.rates.count("domain", 10).since
    assert SLOTS * STRETCH <= now - since < (SLOTS + 1) * STRETCH
    counting.clock.advance(10 * SLOTS * STRETCH)
    assert counting.told("domain") == {}


def test_since_is_when_it_began_at_first() -> None:
    counting = Counting()
    counting.clock.advance(100)
    assert counting.rates.count("domain", 10).since == START


def test_a_clock_that_was_put_back() -> None:
    counting = Counting()
    counting.clock.advance(1e6)
    counting.delivered()
    # A little late is no other time.
    counting.delivered(at=counting.clock.seconds() - STRETCH / 2)
    assert counting.told("domain") == {"box.test": (2, 0, 0, 0, 0)}
    counting.clock.rightNow -= 9e5
    counting.delivered(recipient="x@new.test")
    counted = counting.rates.count("domain", 10)
    assert [name for name, _ in counted.rows] == ["new.test"]
    assert counted.since == counting.clock.seconds()


def test_the_most_frequent_come_first_and_the_rest_is_one() -> None:
    counting = Counting()
    for number in range(5):
        counting.delivered(number + 1, recipient=f"x@d{number}.test")
    assert list(counting.told("domain", 3).items()) == [
        ("d4.test", (5, 0, 0, 0, 0)),
        ("d3.test", (4, 0, 0, 0, 0)),
        ("d2.test", (3, 0, 0, 0, 0)),
        (OTHERS, (3, 0, 0, 0, 0)),
    ]


def test_what_is_remembered_is_bounded_and_nothing_is_left_out() -> None:
    counting = Counting()
    for _ in range(2):
        for number in range(3 * MOST):
            counting.delivered(recipient=f"x@d{number}.test", site=f"mx.d{number}.test")
    for stream in range(3 * MOST):
        counting.delivered(recipient=f"x@e{stream}.test", stream=f"s{stream}")
    for slot, number in ((slot, number) for slot in range(1, 4) for number in range(3 * MOST)):
        counting.delivered(at=START + slot * STRETCH, recipient=f"x@d{number}.test", stream=f"s{number}")
    # In each stretch the first, as many again without domain and site, and one for all the rest.
    assert [len(slot) for _, slot in counting.rates._slots] == 4 * [2 * MOST + 1]
    counting.clock.advance(4 * STRETCH)
    everything = counting.rates.count("domain", 10_000_000).rows
    assert sum(outcome.delivered for _, outcome in everything) == 18 * MOST
    assert everything[-1][0] == OTHERS
    # One letter to all the world counts for its stream.
    assert counting.told("stream")["news"][0] == 6 * MOST


def test_those_of_several_are_added() -> None:
    first = Counted(100.0, [("a", Outcome(5, 1)), ("b", Outcome(1)), (OTHERS, Outcome(2))])
    second = Counted(50.0, [("c", Outcome(9)), ("b", Outcome(7, complained=1))])
    assert added([first, second], 2) == Counted(
        50.0, [("b", Outcome(8, complained=1)), ("c", Outcome(9)), (OTHERS, Outcome(7, 1))]
    )


# -- over all workers


def asked(rates: AllRates, **query: Any) -> Any:
    return wait_for(Deferred.fromCoroutine(rates.told(RateQuery(**query))))


def test_all_workers_are_added_up() -> None:
    here, there = Counting(), Counting()
    here.delivered(2)
    there.delivered(3)
    there.put_off(stream="shop")

    async def ask(question: str, argument: str) -> tuple[str, str]:
        assert question == "rates"
        return json.dumps([rates_of_worker(there.rates, json.loads(argument)), None]), "worker 2: no answer"

    told = asked(AllRates(here.rates, ask), by="stream")
    assert [(one.key, one.delivered, one.deferred) for one in told.rates] == [("news", 5, 0), ("shop", 0, 1)]
    assert (told.since, told.missing) == (START, "worker 2: no answer")
    told = asked(AllRates(here.rates, ask), by="domain", limit=1, stream="shop")
    assert [(one.key, one.delivered, one.deferred) for one in told.rates] == [("box.test", 0, 1)]
    alone = asked(AllRates(here.rates), by="stream")
    assert [(one.key, one.delivered) for one in alone.rates] == [("news", 2)]
    assert alone.missing == ""


def test_a_worker_that_began_anew_is_told_of() -> None:
    here = Counting()
    here.delivered(2)
    here.clock.advance(2 * STRETCH)
    anew = Rates(here.clock.seconds)

    async def ask(question: str, argument: str) -> tuple[str, str]:
        return json.dumps([rates_of_worker(anew, json.loads(argument))]), ""

    told = asked(AllRates(here.rates, ask))
    assert (told.since, told.all_since) == (START, START + 2 * STRETCH)
    alone = asked(AllRates(here.rates))
    assert alone.since == alone.all_since == START


def test_what_cannot_be_told_apart_is_null() -> None:
    counting = Counting()
    counting.delivered()
    counting.complained()
    for query, expected in (({"by": "domain"}, 1), ({"by": "site"}, None), ({"by": "domain", "route": "out"}, None)):
        (one,) = asked(AllRates(counting.rates), **query).rates
        assert (one.complained, one.bounced_back is None) == (expected, expected is None), query


def test_an_answer_is_of_bounded_size() -> None:
    counting = Counting()
    for slot in range(5):
        for number in range(MOST):
            counting.delivered(at=START + slot * STRETCH, recipient=f"x@d{slot}-{number}.test")
    counting.clock.advance(5 * STRETCH)
    _, rows = json.loads(json.dumps(rates_of_worker(counting.rates, {})))
    assert len(rows) == MOST_RATES + 1
    assert len(asked(AllRates(counting.rates), limit=50).rates) == 51


@pytest.mark.parametrize(
    "query",
    [{"by": "sender"}, {"limit": "0"}, {"limit": "2001"}, {"domain": ""}, {"colour": "red"}, {"stream": ""}],
)
def test_questions_that_are_none(query: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        RateQuery.model_validate(query)
