"""The register for many who wait at one time: whatever is asked while one transaction is written is in the next one.

A sync of the disk takes longer than all that is written with it. So calls that come together pay for one, and what
nobody waits for is written with what somebody waits for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from mailgate.awaiting import InThread, as_deferred
from mailgate.web.injection.register import Register

__all__ = ["Notes"]

T = TypeVar("T")

#: What is written in one transaction.
_MOST = 500
#: Seconds for which is put off what nobody waits for.
_PUT_OFF = 1.0

_Work = tuple[Callable[[Register], Any], Deferred[Any]]


class Notes:
    """Of one register, which is in no other's hands. `in_thread` runs what takes long."""

    def __init__(self, register: Register, clock: IReactorTime, in_thread: InThread) -> None:
        self._register = register
        self._clock = clock
        self._in_thread = in_thread
        self._waiting: list[_Work] = []
        self._writing: Deferred[None] | None = None
        self._later: IDelayedCall | None = None
        self._is_awaited = False  # whether somebody waits for some of it

    def ask(self, call: Callable[[Register], T], *, soon: bool = True) -> Deferred[T]:
        """What a call says of the register, durable by then; all that was asked before it is as well. sqlite3.Error
        where the file cannot be used now. Without `soon` it may take a second until it begins."""
        done: Deferred[T] = Deferred()
        self._waiting.append((call, cast("Deferred[Any]", done)))
        if soon:
            self._begin()
        else:
            self._put_off()
        return done

    async def close(self) -> None:
        """Write what waits, and close the register."""
        self._begin()
        if self._writing is not None:
            await self._writing
        self._register.close()

    def _begin(self) -> None:
        later, self._later = self._later, None
        if later is not None and later.active():
            later.cancel()
        self._is_awaited = True
        if self._waiting and self._writing is None:
            self._writing = Deferred()
            as_deferred(self._write())

    async def _write(self) -> None:
        while self._waiting and self._is_awaited:
            group, self._waiting = self._waiting[:_MOST], self._waiting[_MOST:]
            self._is_awaited = bool(self._waiting)
            calls = [one for one, _ in group]
            told: Sequence[object]
            try:
                told = await self._in_thread(partial(self._register.together, calls))
            except Exception:
                told = [Failure()] * len(group)
            for (_, done), result in zip(group, told, strict=True):
                done.callback(result)
        writing, self._writing = self._writing, None
        self._put_off()
        if writing is not None:
            writing.callback(None)

    def _put_off(self) -> None:
        if self._waiting and self._later is None and self._writing is None:
            self._later = self._clock.callLater(_PUT_OFF, self._begin)
