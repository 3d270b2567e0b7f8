"""What all workers share, as the supervisor keeps it: slots, budgets, counters and numbers. Without I/O."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from twisted.internet.interfaces import IReactorTime

from mailgate.stores.counters import MemoryCounters
from mailgate.stores.slots import LocalSlots
from mailgate.workers.commands import Item

__all__ = ["Ledger"]


class _Slots:
    """The slots of one key: who holds how many, and which tickets wait for one, in order."""

    __slots__ = ("held", "waiting")

    def __init__(self) -> None:
        self.held: dict[int, int] = {}
        self.waiting: dict[tuple[int, int], int] = {}  # worker and ticket, with the limit that it has named


class Ledger:
    """Hears the items of workers, in order, and tells them others by `tell(worker, item)`.

    A limit on slots is exact. What a worker held, waited for or had added is free again when it has left. Numbers that
    others have changed are told when `publish` is called, each once, however often it changed.
    """

    def __init__(self, clock: IReactorTime, counters: MemoryCounters, tell: Callable[[int, Item], None]) -> None:
        self._tell = tell
        self._counters = counters
        self._budgets = LocalSlots(clock)
        self._slots: dict[str, _Slots] = {}
        self._numbers: dict[str, dict[int, int]] = {}
        self._news: dict[int, dict[str, None]] = {}

    @property
    def has_news(self) -> bool:
        """Whether `publish` has anything to tell."""
        return any(self._news.values())

    def join(self, worker: int) -> None:
        """A worker comes: it is to hear every number there is."""
        self._news[worker] = dict.fromkeys(self._numbers)

    def leave(self, worker: int) -> None:
        """A worker is gone, by whatever cause: all that it had is free."""
        self._news.pop(worker, None)
        for key, amounts in list(self._numbers.items()):
            if worker in amounts:
                self._add(worker, key, -amounts[worker])
        for key, slots in list(self._slots.items()):
            slots.waiting = {one: limit for one, limit in slots.waiting.items() if one[0] != worker}
            slots.held.pop(worker, None)
            self._grant(key, slots)

    def hear(self, worker: int, item: Item) -> None:
        """Do what a worker asks."""
        match item:
            case ["acquire", ticket, key, limit]:
                self._acquire(worker, ticket, key, limit)
            case ["release", key]:
                self._release(worker, key)
            case ["withdraw", ticket, key]:
                self._withdraw(worker, ticket, key)
            case ["add", key, amount]:
                self._add(worker, key, amount)
            case ["hit" | "peek" | "take" | "get" | "put-new" as word, ticket, *values]:
                self._tell(worker, self._answer(ticket, word, values))
            case ["put", key, value, ttl]:
                self._counters.put(key, value.encode("latin-1"), ttl)
            case ["forget", key]:
                self._counters.forget(key)
            case ["spend", ticket, key, rate, amount]:
                self._tell(worker, ["answer", ticket, self._budgets.spend(key, rate, amount)])
            case _:
                raise AssertionError(f"a worker says {item!r}")

    def publish(self, is_ready: Callable[[int], bool] = lambda _: True) -> None:
        """Tell each worker that is ready the numbers that others have changed since the last time."""
        for worker, keys in self._news.items():
            if not is_ready(worker):
                continue
            tell = partial(self._tell, worker)
            for key in keys:
                amounts = self._numbers.get(key, {})
                tell(["others", key, sum(amounts.values()) - amounts.get(worker, 0)])
            keys.clear()

    # -- counters

    def _answer(self, ticket: int, word: str, values: Sequence[Any]) -> Item:
        try:
            return ["answer", ticket, self._count(word, values)]
        except Exception as error:
            # A filter that asks for nonsense fails by itself; raised here it would end the worker.
            return ["failed", ticket, f"{type(error).__name__}: {error}"]

    def _count(self, word: str, values: Sequence[Any]) -> float | str | None:
        counters = self._counters
        match word, *values:
            case "hit", key, window, amount:
                return counters.hit(key, window, amount)
            case "peek", key, window:
                return counters.peek(key, window)
            case "take", key, rate, burst, amount:
                return counters.take(key, rate, burst, amount)
            case "get", key:
                found = counters.get(key)
            case _, key, value, ttl:
                found = counters.add(key, value.encode("latin-1"), ttl)
            case _:
                raise AssertionError(f"a worker says {word} with {values!r}")
        return None if found is None else found.decode("latin-1")

    # -- slots

    def _acquire(self, worker: int, ticket: int, key: str, limit: int) -> None:
        slots = self._slots.setdefault(key, _Slots())
        slots.waiting[worker, ticket] = limit
        if sum(slots.held.values()) < limit:  # those before it have named lower ones, or they would not wait
            self._give(key, slots, worker, ticket)
        else:
            for holder in slots.held:
                self._tell(holder, ["wanted", key])

    def _release(self, worker: int, key: str) -> None:
        slots = self._slots.get(key)
        if slots is None or worker not in slots.held:
            raise AssertionError(f"worker {worker} gives back a slot of {key} that it does not hold")
        slots.held[worker] -= 1
        if not slots.held[worker]:
            del slots.held[worker]
        self._grant(key, slots)

    def _withdraw(self, worker: int, ticket: int, key: str) -> None:
        slots = self._slots.get(key)
        if slots is not None:  # it may have been granted meanwhile: then the worker gives it back
            slots.waiting.pop((worker, ticket), None)
            self._grant(key, slots)

    def _grant(self, key: str, slots: _Slots) -> None:
        """Give out what is free, first come, first served, but past those whose limit does not allow it; forget a key
        that nobody uses."""
        held = sum(slots.held.values())
        for (worker, ticket), limit in list(slots.waiting.items()):
            if held < limit:
                held += 1
                self._give(key, slots, worker, ticket)
        if not slots.held and not slots.waiting:
            del self._slots[key]

    def _give(self, key: str, slots: _Slots, worker: int, ticket: int) -> None:
        del slots.waiting[worker, ticket]
        slots.held[worker] = slots.held.get(worker, 0) + 1
        self._tell(worker, ["granted", ticket, key])
        if slots.waiting:
            self._tell(worker, ["wanted", key])  # those who wait have said so before it had one

    # -- numbers

    def _add(self, worker: int, key: str, amount: int) -> None:
        amounts = self._numbers.setdefault(key, {})
        amounts[worker] = amounts.get(worker, 0) + amount
        if not amounts[worker]:
            del amounts[worker]
            if not amounts:
                del self._numbers[key]
        for other, keys in self._news.items():
            if other != worker:
                keys[key] = None
