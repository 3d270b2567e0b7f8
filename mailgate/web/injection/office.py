"""Taking mail by HTTP in one gateway: begun, changed on a reload, and ended."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web.resource import Resource

from mailgate.awaiting import InThread
from mailgate.interfaces import ISpool
from mailgate.web.injection.apart.readers import Readers
from mailgate.web.injection.calls import Calls
from mailgate.web.injection.following import Following
from mailgate.web.injection.register import Register
from mailgate.web.injection.resource import Messages
from mailgate.web.injection.taking import Taker

__all__ = ["InjectionOffice"]

_log = Logger()


class InjectionOffice:
    """`use` for each configuration, `close` before the spool is closed. `register` is the file that remembers calls,
    `history` the directory of the history; `in_thread` runs what takes long."""

    def __init__(
        self, spool: ISpool, *, register: Path, history: Path, clock: IReactorTime, in_thread: InThread
    ) -> None:
        self._spool = spool
        self._path = register
        self._history = history
        self._clock = clock
        self._in_thread = in_thread
        self._readers = Readers()
        self._taker: Taker | None = None
        self._calls: Calls | None = None
        self._messages: Messages | None = None

    @property
    def resource(self) -> Resource | None:
        """What serves /v1/messages; None where no mail is taken."""
        return self._messages if self._taker is not None else None

    def use(self, taker: Taker | None) -> None:
        """From now on, calls are carried out by this; those that are under way go on as they began."""
        self._taker = taker
        if taker is None or self._calls is not None:
            return
        try:
            register = Register(self._path)
            broken_off = register.unfinished()
        except (sqlite3.Error, OSError) as error:
            self._taker = None
            _log.error("no mail is taken by HTTP: {path}: {error}", path=str(self._path), error=error)
            return
        if broken_off:
            _log.warn("{count} calls by HTTP were broken off, and go on when they are made again", count=broken_off)
        self._calls = Calls(
            register, self._spool, lambda: self._taker, self._clock, self._in_thread, self._readers.read
        )
        following = Following(self._spool, self._history, self._in_thread)
        self._messages = Messages(self._calls, following, self._name)

    async def close(self) -> None:
        """End: what is under way is durable or not begun."""
        calls, self._calls, self._messages = self._calls, None, None
        if calls is not None:
            try:
                await calls.close()
            finally:  # where they are not waited for any longer, too
                await self._in_thread(self._readers.close)

    def _name(self) -> str:
        return self._taker.section.name if self._taker is not None else ""
