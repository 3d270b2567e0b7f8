"""A spool that cannot be written, or has no room, and how it comes back. All of it runs in the writer's thread, and
before that begins."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable

from twisted.logger import Logger

from mailgate.events import SpoolFailed, SpoolRecovered
from mailgate.spool.calls import SpoolCalls
from mailgate.spool.database import is_damage
from mailgate.spool.disk import Reserve, is_full
from mailgate.spool.reader import failure_of
from mailgate.spool.store import Store

__all__ = ["Failing"]

_log = Logger()

#: Seconds in which a damaged database is put in order once: where that does not last, a person has to look.
_REBUILD = 3600.0
#: Seconds between attempts to put it in order: after each that fails twice as many, up to so many.
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 60.0


class Failing(SpoolCalls):
    """What a spool knows of its failure."""

    _reserve: Reserve

    _failed = ""  # why nothing can be written now
    _low = False  # the reserve is given up: deliver, but take nothing
    _tight = False  # the disk has too little room: shrink what can be shrunk
    _spare = 0  # octets that are free within the database
    _damage: tuple[Exception, int] | None = None  # and the number of the file that has it, or 0
    _next_rebuild = 0.0  # none before
    _pause = _FIRST_PAUSE
    _not_rebuilt: Exception | None = None  # why the last attempt to put it in order has failed

    def _test_later(self) -> None:
        """Have `_retest` called in a while."""
        raise NotImplementedError

    def _rollback(self) -> None:
        raise NotImplementedError

    def _open(self, open_store: Callable[[], Store]) -> Exception | None:
        """Open the store, also where the disk is full: that error, or None. OSError, sqlite3.Error, SpoolError."""
        full: Exception | None = None
        try:
            self._reserve.make()
        except OSError as error:
            if not is_full(error):
                raise
            full = error
        try:
            self._store = open_store()
        except (OSError, sqlite3.Error) as error:
            # The reserve is there for what opening takes, too.
            if full is not None or not self._reserve.is_wanted(error):
                raise
            self._reserve.give_up()
            self._store = open_store()
            full = error
        return full

    def _fail(self, error: Exception) -> None:
        if self._reserve.is_wanted(error):
            if self._low:
                return
            self._low = True
            self._reserve.give_up()
            self._shrink()
        elif not self._failed:
            self._failed = f"the spool cannot be written: {error}"
        else:
            return
        self._test_later()
        self._publish(SpoolFailed(at=self._now(), error=str(error)))

    def _retest(self) -> None:
        self._test_later()
        if self._low or self._tight:
            self._shrink()
        if not (self._failed or self._low):
            return
        try:
            self._put_in_order()
            self._store.begin()
            self._store.database.execute("CREATE TABLE probe (octets BLOB)")
            self._store.database.execute("INSERT INTO probe VALUES (zeroblob(65536))")
            self._store.database.execute("DROP TABLE probe")
            self._store.commit()
            self._reserve.make()
        except Exception as error:
            if not isinstance(error, OSError | sqlite3.Error):
                _log.failure("the spool cannot be tested", failure=failure_of(error))
            self._rollback()
            return
        self._failed = ""
        self._low = False
        self._publish(SpoolRecovered(at=self._now()))

    def _put_in_order(self) -> None:
        """Go on in the database that is there now, if it is another one than that with the damage; else rebuild it."""
        try:
            self._store.take_turn()
            self._store.renew()
        except sqlite3.Error as fault:
            if not is_damage(fault):
                raise
            self._damage = fault, self._store.file
        if self._damage is not None:
            error, file = self._damage
            if file == self._store.file or self._store.half_rebuilt:
                self._rebuild(error)
            self._damage = None

    def _rebuild(self, error: Exception) -> None:
        if time.monotonic() < self._next_rebuild:
            raise self._not_rebuilt or error
        try:
            aside = self._store.rebuild(error)
        except Exception as fault:
            self._next_rebuild = time.monotonic() + self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
            self._not_rebuilt = fault
            self._tell_not_rebuilt(error, fault)
            raise
        self._next_rebuild = time.monotonic() + _REBUILD
        self._pause = _FIRST_PAUSE
        self._not_rebuilt = None
        self._tell_aside(aside)

    def _tell_not_rebuilt(self, error: Exception, fault: Exception) -> None:
        why = f"the damaged database ({error}) cannot be put in order: {fault}"
        if why == self._failed:
            return
        self._failed = why
        if not self._low and self._reserve.is_wanted(fault):
            self._low = True
            self._reserve.give_up()
        self._publish(SpoolFailed(at=self._now(), error=why))

    def _shrink(self) -> None:
        self._tight = False
        try:
            self._store.checkpoint()
            self._spare = self._store.spare()
        except Exception as error:
            _log.warn("the spool's log cannot be folded into its database: {error}", error=error)
