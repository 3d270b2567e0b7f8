"""Equal questions at one time: asked once, and answered each by itself."""

from __future__ import annotations

import pytest
from twisted.internet.defer import CancelledError, Deferred

from mailgate.backends.questions import BackendError
from mailgate.backends.together import Together
from tests.unit.relaying import failures_logged
from tests.unit.remote_peer import failure_of, is_waiting, outcome


class Work:
    """Counts how often it is begun; `answer` is its end."""

    def __init__(self) -> None:
        self.begun = 0
        self.answer: Deferred[int] = Deferred()

    async def __call__(self) -> int:
        self.begun += 1
        return await self.answer


def test_it_is_begun_once_while_it_lasts() -> None:
    together, work = Together[str, int](), Work()
    asked = [together.ask("a", work) for _ in range(3)]
    assert (work.begun, "a" in together, len(together)) == (1, True, 1)
    work.answer.callback(7)
    assert [outcome(one) for one in asked] == [7, 7, 7]
    assert len(together) == 0
    again = Work()
    again.answer.callback(8)
    assert outcome(together.ask("a", again)) == 8


def test_other_keys_are_other_questions() -> None:
    together, works = Together[str, int](), [Work(), Work()]
    asked = [together.ask(name, work) for name, work in zip("ab", works, strict=True)]
    works[1].answer.callback(2)
    assert is_waiting(asked[0])
    assert outcome(asked[1]) == 2


def test_a_failure_is_everybodys_and_who_handles_it_takes_it_from_none() -> None:
    together, work = Together[str, int](), Work()
    asked = [together.ask("a", work) for _ in range(3)]
    asked[0].addErrback(lambda _: 0)
    work.answer.errback(ValueError("x"))
    assert outcome(asked[0]) == 0
    assert all(isinstance(failure_of(one), ValueError) for one in asked[1:])
    assert len(together) == 0


def test_who_goes_away_leaves_the_others_and_the_question() -> None:
    together, work = Together[str, int](), Work()
    first, second = together.ask("a", work), together.ask("a", work)
    first.cancel()
    assert isinstance(failure_of(first), CancelledError)
    assert not work.answer.called
    work.answer.callback(7)
    assert outcome(second) == 7


def test_a_question_may_be_begun_that_nobody_waits_for() -> None:
    together, work = Together[str, int](), Work()
    together.begin("a", work)
    together.begin("a", work)
    asked = together.ask("a", work)
    assert work.begun == 1
    work.answer.callback(7)
    assert outcome(asked) == 7


@pytest.mark.parametrize(("error", "told"), [(BackendError("away"), 0), (ValueError("x"), 1)])
def test_an_outage_that_nobody_waits_for_is_no_error_in_the_log(error: Exception, told: int) -> None:
    together, work = Together[str, int](), Work()
    together.ask("a", work).addErrback(lambda _: None).cancel()
    with failures_logged() as logged:
        work.answer.errback(error)
    assert len(logged) == told
