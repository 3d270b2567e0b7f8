"""Which accounts are suspected: in the counters, which all workers share."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from mailgate.filters.rate_limit_rules import shortened
from mailgate.filters.steps import Steps, ready
from mailgate.interfaces import ICounters

__all__ = ["Suspicion", "Suspicions", "counted_name"]

#: Characters of a name that is counted.
_LONGEST = 200
#: Suspected accounts that can be listed; others are suspected just so.
_PLACES = 200
#: Characters of a signal that are kept, so that all of them are one value of the counters.
_LONGEST_SIGNAL = 300


class Suspicion(msgspec.Struct, frozen=True):
    """What is kept of a suspected account, up to `until`; without signals, of one that was cleared then.

    `name` is as the account has logged in, `action` what is done with its mail since then. `windows` are the seconds
    for which what led here would count. Times are seconds since the epoch.
    """

    signals: tuple[str, ...]
    until: float
    name: str = ""
    action: str = ""
    since: float = 0.0
    windows: float = 86400.0


class Suspicions:
    """By the names of `counted_name`."""

    def __init__(self, counters: ICounters, seconds: Callable[[], float]) -> None:
        self._counters = counters
        self._seconds = seconds

    def read(self, who: str) -> Steps[tuple[Suspicion | None, str]]:
        """What is kept of it, where it is suspected; and the name by which it is counted, a new one for some time after
        a suspicion has been ended."""
        state = _decoded((yield from ready(self._counters.get(_key(who)))))
        if state is not None and not state.signals:
            return None, f"{who} since {state.until:.3f}"
        return state, who

    def begin(self, who: str, suspicion: Suspicion) -> Steps[bool]:
        """Suspect it; whether nobody did before."""
        lock = suspicion.until - self._seconds()
        kept = msgspec.structs.replace(
            suspicion, name=suspicion.name[:_LONGEST], signals=tuple(one[:_LONGEST_SIGNAL] for one in suspicion.signals)
        )
        value = msgspec.json.encode(kept)
        known = _decoded((yield from ready(self._counters.add(_key(who), value, lock))))
        if known is not None and known.signals:
            return False
        if known is not None:
            yield from ready(self._counters.put(_key(who), value, lock))
        yield from self._enter(who, lock)
        return True

    def end(self, who: str, windows: float | None = None) -> Steps[Suspicion | None]:
        """Suspect it no more: what led to that does not count any more, for `windows`, or those of the suspicion. What
        has ended; None where nothing was."""
        state, _ = yield from self.read(who)
        if state is None:
            return None
        cleared = msgspec.json.encode(Suspicion((), self._seconds()))
        yield from ready(self._counters.put(_key(who), cleared, state.windows if windows is None else windows))
        return state

    def all(self) -> Steps[tuple[list[Suspicion], bool]]:
        """Those that are suspected now, and whether there is room for more in this list."""
        found: dict[str, Suspicion] = {}
        is_all = False
        for number in range(_PLACES):
            value = yield from ready(self._counters.get(_place(number)))
            if value is None:
                is_all = True
                continue
            who = value.decode("utf-8", "surrogatepass")
            state, _ = yield from self.read(who)
            if state is not None:
                found[who] = state if state.name else msgspec.structs.replace(state, name=who)
            else:
                is_all = True
        return list(found.values()), is_all

    def _enter(self, who: str, lock: float) -> Steps[None]:
        """Take a place in the list for as long; one that another has who is not suspected any more is free."""
        value = who.encode("utf-8", "surrogatepass")
        for number in range(_PLACES):
            other = yield from ready(self._counters.add(_place(number), value, lock))
            if other is None:
                return
            state, _ = yield from self.read(other.decode("utf-8", "surrogatepass"))
            if state is None or other == value:
                yield from ready(self._counters.put(_place(number), value, lock))
                return


def counted_name(name: str) -> str:
    """The name of an identity as it is counted: case does not matter."""
    return name[:_LONGEST].lower()


def _key(who: str) -> str:
    return f"compromised state {shortened(who)}"


def _place(number: int) -> str:
    return f"compromised suspect {number}"


def _decoded(value: bytes | None) -> Suspicion | None:
    if value is None:
        return None
    try:
        return msgspec.json.decode(value, type=Suspicion)
    except msgspec.DecodeError:
        return Suspicion(("unknown",), 0.0)
