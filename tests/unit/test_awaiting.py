"""Whatever can be awaited becomes a Deferred."""

from __future__ import annotations

from collections.abc import Generator

from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure

from mailgate.awaiting import OneRun, as_deferred


class Later:
    """Neither a coroutine nor a Deferred."""

    def __await__(self) -> Generator[Deferred[int], int, int]:
        found = yield succeed(3)
        return found


def result(waited: Deferred[int]) -> int:
    found: list[int] = []
    waited.addCallback(found.append)
    (one,) = found
    return one


def test_a_deferred_stays_itself() -> None:
    waited: Deferred[int] = Deferred()
    assert as_deferred(waited) is waited


def test_a_coroutine_is_started_and_others_are_awaited() -> None:
    async def three() -> int:
        return await succeed(3)

    assert result(as_deferred(three())) == 3
    assert result(as_deferred(Later())) == 3


def test_a_failure_is_the_deferreds() -> None:
    async def broken() -> int:
        await fail(KeyError("x"))
        return 3

    failures: list[object] = []
    as_deferred(broken()).addErrback(lambda failure: failures.append(failure.value))
    assert isinstance(failures[0], KeyError)


def test_what_is_wanted_during_a_run_is_one_more_run_after_it() -> None:
    runs: list[Deferred[None]] = []

    async def work() -> None:
        runs.append(Deferred())
        await runs[-1]

    failures: list[Failure] = []
    run = OneRun(work, failures.append)
    for _ in range(3):
        run.begin()
    assert len(runs) == 1
    runs[0].errback(ValueError("no"))
    assert len(runs) == 2
    runs[1].callback(None)
    assert len(runs) == 2
    run.begin()
    assert len(runs) == 3
    assert [str(one.value) for one in failures] == ["no"]
