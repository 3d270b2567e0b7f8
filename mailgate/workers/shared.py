"""What a worker shares with the others, seen from the worker: it asks the supervisor and is answered.

The order of what is said is kept both ways, and nothing is lost but with the supervisor, without which a worker ends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionDone
from zope.interface import implementer

from mailgate.interfaces import ISlots, ITally
from mailgate.stores.counters import AskedCounters
from mailgate.workers.commands import Item

__all__ = ["NoAnswerError", "Shared"]


class NoAnswerError(Exception):
    """The supervisor cannot do what it was asked, and says why."""


class Shared:
    """The three of them; `send` takes items for the supervisor, `hear` those that come from there."""

    def __init__(self, send: Callable[[Item], None]) -> None:
        self._questions = _Questions(send)
        self.slots = SharedSlots(send, self._questions)
        self.tally = SharedTally(send)
        self.counters = AskedCounters(self._questions.ask, lambda *words: send(list(words)))

    def hear(self, item: Item) -> None:
        """Take an item of the supervisor's."""
        match item:
            case ["granted", ticket, key]:
                self.slots.granted(ticket, key)
            case ["wanted", key]:
                self.slots.wanted(key)
            case ["answer", ticket, value]:
                self._questions.answer(ticket, value)
            case ["failed", ticket, text]:
                self._questions.fail(ticket, text)
            case ["others", key, number]:
                self.tally.set_others(key, number)
            case _:
                raise AssertionError(f"the supervisor says {item!r}")

    def close(self) -> None:
        """Nobody answers any more: questions fail, and nobody gets a slot."""
        self._questions.close()


class _Questions:
    """Questions, each with one answer."""

    def __init__(self, send: Callable[[Item], None]) -> None:
        self._send = send
        self._open: dict[int, Deferred[Any]] = {}
        self._last = 0
        self._is_closed = False

    def next(self) -> int:
        """A ticket that nobody has."""
        self._last += 1
        return self._last

    def ask(self, word: str, *values: object) -> Deferred[Any]:
        """The answer. Cancel to hear it no more."""
        if self._is_closed:
            return fail(ConnectionDone())
        ticket = self.next()

        def forget(_: Deferred[Any]) -> None:
            self._open.pop(ticket, None)

        answer: Deferred[Any] = Deferred(forget)
        self._open[ticket] = answer
        self._send([word, ticket, *values])
        return answer

    def close(self) -> None:
        """None will come."""
        self._is_closed = True
        waiting, self._open = self._open, {}
        for answer in waiting.values():
            answer.errback(ConnectionDone())

    def answer(self, ticket: int, value: float | str | None) -> None:
        """It has come."""
        if (waiting := self._open.pop(ticket, None)) is not None:
            waiting.callback(value)

    def fail(self, ticket: int, text: str) -> None:
        """None will come, and why."""
        if (waiting := self._open.pop(ticket, None)) is not None:
            waiting.errback(NoAnswerError(text))


@implementer(ISlots)
class SharedSlots:
    """Slots that the supervisor grants."""

    def __init__(self, send: Callable[[Item], None], questions: _Questions) -> None:
        self._send = send
        self._questions = questions
        self._waiting: dict[int, tuple[Deferred[None], Callable[[], None]]] = {}
        self._held: dict[str, list[Callable[[], None]]] = {}

    def acquire(self, key: str, limit: int, wanted: Callable[[], None]) -> Deferred[None]:
        ticket = self._questions.next()

        def withdraw(_: Deferred[None]) -> None:
            if self._waiting.pop(ticket, None) is not None:
                self._send(["withdraw", ticket, key])

        slot: Deferred[None] = Deferred(withdraw)
        self._waiting[ticket] = slot, wanted
        self._send(["acquire", ticket, key, limit])
        return slot

    def release(self, key: str) -> None:
        held = self._held[key]
        held.pop(0)
        if not held:
            del self._held[key]
        self._send(["release", key])

    def spend(self, key: str, rate: float, amount: int = 1) -> Deferred[float]:
        return self._questions.ask("spend", key, rate, amount)

    def granted(self, ticket: int, key: str) -> None:
        """A slot is ours; it goes back where it was withdrawn meanwhile."""
        found = self._waiting.pop(ticket, None)
        if found is None:
            self._send(["release", key])
            return
        slot, wanted = found
        self._held.setdefault(key, []).append(wanted)
        slot.callback(None)

    def wanted(self, key: str) -> None:
        """Somebody else waits for a slot of this key: tell those who hold one."""
        for call in dict.fromkeys(self._held.get(key, ())):
            call()


@implementer(ITally)
class SharedTally:
    """Numbers, of which our own share is exact and that of the others a moment old."""

    def __init__(self, send: Callable[[Item], None]) -> None:
        self._send = send
        self._own: dict[str, int] = {}
        self._others: dict[str, int] = {}
        self._watchers: dict[str, list[Callable[[], None]]] = {}

    def add(self, key: str, amount: int) -> None:
        _put(self._own, key, self._own.get(key, 0) + amount)
        self._send(["add", key, amount])
        self._tell(key)

    def total(self, key: str) -> int:
        return self._own.get(key, 0) + self._others.get(key, 0)

    def watch(self, key: str, changed: Callable[[], None]) -> None:
        self._watchers.setdefault(key, []).append(changed)

    def set_others(self, key: str, number: int) -> None:
        """What the others have."""
        _put(self._others, key, number)
        self._tell(key)

    def _tell(self, key: str) -> None:
        for changed in self._watchers.get(key, ()):
            changed()


def _put(numbers: dict[str, int], key: str, number: int) -> None:
    if number:
        numbers[key] = number
    else:
        numbers.pop(key, None)
