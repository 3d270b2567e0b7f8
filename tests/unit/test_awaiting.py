"""Whatever can be awaited becomes a Deferred."""

from __future__ import annotations

from collections.abc import Generator

from twisted.internet.defer import Deferred, fail, succeed

from mailgate.awaiting import as_deferred


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
