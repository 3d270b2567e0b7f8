"""Which server is asked, which rests, and how long all may take together."""

from __future__ import annotations

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from mailgate.scanners.pool import REST, Pool, ScannerError


class Servers:
    """Servers a, b and c, of which those in `down` fail, and those in `hung` never answer."""

    def __init__(self, names: str = "abc", *, in_turns: bool = False, limit: int = 10, timeout: float = 9.0) -> None:
        self.clock = Clock()
        self.down: set[str] = set()
        self.hung: set[str] = set()
        self.asked: list[str] = []
        self.cancelled: list[str] = []
        pool = {name: name for name in names}
        self.pool: Pool[str] = Pool(pool, self.clock, in_turns=in_turns, limit=limit, timeout=timeout)

    def ask(self) -> Deferred[str]:
        return self.pool.ask(self._work)

    def now(self) -> str:
        return str(outcome(self.ask()))

    async def _work(self, name: str) -> str:
        self.asked.append(name)
        if name in self.down:
            raise ScannerError("down")
        if name in self.hung:
            await Deferred(lambda _: self.cancelled.append(name))
        return name


def outcome(asked: Deferred[str]) -> object:
    results: list[object] = []
    asked.addBoth(results.append)
    if not results:
        return None
    return results[0].value if isinstance(results[0], Failure) else results[0]


def test_the_first_that_works_is_asked_and_those_that_failed_come_last_for_a_while() -> None:
    servers = Servers()
    assert [servers.now(), servers.now()] == ["a", "a"]
    servers.down = {"a", "b"}
    assert servers.now() == "c"
    assert servers.asked[-3:] == ["a", "b", "c"]
    servers.asked.clear()
    servers.down = {"a"}
    assert servers.now() == "c"
    assert servers.asked == ["c"]
    servers.clock.advance(REST)
    servers.down = set()
    assert servers.now() == "a"


def test_where_all_have_failed_all_are_asked_still() -> None:
    servers = Servers("ab")
    servers.down = {"a", "b"}
    error = outcome(servers.ask())
    assert isinstance(error, ScannerError)
    assert str(error) == "a: down; b: down"
    servers.down = {"a"}
    assert servers.now() == "b"
    assert servers.asked == ["a", "b", "a", "b"]


def test_in_turns() -> None:
    servers = Servers(in_turns=True)
    assert [servers.now() for _ in range(6)] == ["a", "b", "c", "a", "b", "c"]
    servers.down = {"b"}
    assert [servers.now() for _ in range(3)] == ["a", "c", "c"]
    assert servers.asked.count("b") == 3


def test_each_has_its_share_of_the_time() -> None:
    servers = Servers()
    servers.hung = {"a", "b"}
    asked = servers.ask()
    servers.clock.advance(2.9)
    assert servers.asked == ["a"]
    servers.clock.advance(0.1)
    assert (servers.asked, servers.cancelled) == (["a", "b"], ["a"])
    servers.clock.advance(3)
    assert outcome(asked) == "c"
    assert not servers.clock.getDelayedCalls()
    servers.hung = {"a", "b", "c"}
    asked = servers.ask()
    for _ in range(40):
        servers.clock.advance(0.25)
    error = outcome(asked)
    assert isinstance(error, ScannerError)
    assert str(error) == "c: no answer within 3 s; a: no answer within 3 s; b: no answer within 3 s"


def test_other_errors_are_the_answer_and_nobody_rests() -> None:
    servers = Servers()

    async def fails(name: str) -> str:
        servers.asked.append(name)
        raise OSError("the disk")

    assert isinstance(outcome(servers.pool.ask(fails)), OSError)
    assert servers.asked == ["a"]
    assert servers.now() == "a"


def test_no_more_at_one_time_than_there_may_be() -> None:
    servers = Servers("a", limit=2)
    servers.hung = {"a"}
    first, second, third = servers.ask(), servers.ask(), servers.ask()
    assert servers.asked == ["a", "a"]
    first.cancel()
    assert isinstance(outcome(first), CancelledError)
    assert servers.asked == ["a", "a", "a"]
    servers.clock.advance(9)
    for asked in (second, third):
        assert isinstance(outcome(asked), ScannerError)
    servers.hung = set()
    assert servers.now() == "a"
    assert not servers.clock.getDelayedCalls()


def test_waiting_is_part_of_the_time() -> None:
    servers = Servers("a", limit=1)
    servers.hung = {"a"}
    first = servers.ask()
    servers.clock.advance(4)
    second = servers.ask()
    servers.clock.advance(5)
    assert isinstance(outcome(first), ScannerError)
    assert servers.asked == ["a", "a"]
    servers.clock.advance(4)
    assert isinstance(outcome(second), ScannerError)
    waiting, late = servers.ask(), servers.ask()
    servers.clock.advance(9)
    errors = [str(outcome(one)) for one in (waiting, late)]
    assert errors == ["a: no answer within 9 s", "no time is left"]
    servers.clock.advance(REST)
    busy = Servers("a", limit=1, timeout=9.0)
    busy.hung = {"a"}
    first = busy.ask()
    busy.clock.advance(1)
    second = busy.ask()
    third = busy.ask()
    busy.clock.advance(8)
    busy.clock.advance(1)
    assert str(outcome(first)) == "a: no answer within 9 s"
    assert str(outcome(second)) == "a: no answer within 1 s"
    assert str(outcome(third)) == "too many questions at one time: none was answered within 9 s"


@pytest.mark.parametrize("when", ["waiting", "asked"])
def test_giving_up_leaves_nothing_behind(when: str) -> None:
    servers = Servers("a", limit=1)
    servers.hung = {"a"}
    asked = [servers.ask(), servers.ask()]
    chosen = asked[1] if when == "waiting" else asked[0]
    chosen.cancel()
    assert isinstance(outcome(chosen), CancelledError)
    asked.remove(chosen)
    asked[0].cancel()
    assert isinstance(outcome(asked[0]), CancelledError)
    assert not servers.clock.getDelayedCalls()
    servers.hung = set()
    assert servers.now() == "a"
