"""A snapshot of a directory that is kept up to date: mail does not wait for the directory, nor end with it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from zope.interface import implementer

from mailgate.backends.ldap_servers import DirectoryServers
from mailgate.backends.outage import Outage
from mailgate.backends.questions import BackendError
from mailgate.backends.threads import Threads
from mailgate.config.recipients import LdapRecipients
from mailgate.interfaces import RecipientStatus
from mailgate.recipients.snapshot import EMPTY, Changes, Mark, Snapshot, Update, changed, replaced
from mailgate.recipients.snapshot_file import Saved, SnapshotFile, Stamp
from mailgate.recipients.snapshot_read import DirectoryReader
from mailgate.recipients.source import ISource, SourceTools

__all__ = ["SnapshotSource"]

T = TypeVar("T")

_log = Logger()

#: Seconds between two tries while the directory cannot be read, and between two looks at the file of another process.
_AGAIN, _LOOK = 60.0, 5.0


@implementer(ISource)
class SnapshotSource:
    """Answers from memory. One process reads the directory and saves what it has found; the others follow its file.

    An address that is in the snapshot is known however old that is. One that is not is unknown while the snapshot is
    younger than `stale`, and UNAVAILABLE after that: it may have been made meanwhile.
    """

    takes_whole = False
    restricts = True

    def __init__(self, section: LdapRecipients, name: str, servers: DirectoryServers, tools: SourceTools) -> None:
        """ValueError where the section cannot work."""
        self._section = section
        self._clock = tools.reactor
        self._leads = tools.leads
        self._servers = servers
        self._threads = Threads(tools.reactor, 1, "recipients")
        self._reader = DirectoryReader(section, servers, tools.reactor, self._threads)
        self._file = SnapshotFile(tools.state_dir, name, section)
        self._outage = Outage(name, tools.reactor, tools.events)
        self._snapshot: Snapshot | None = None
        self._read = float("-inf")  # when it was last known to be right
        self._read_whole = float("-inf")
        self._mark: Mark | None = None
        self._stamp: Stamp | None = None
        self._is_saved = False
        self._is_held = False
        self._waiting: list[Deferred[None]] = []
        self._working: Deferred[None] | None = None
        self._timer: IDelayedCall | None = None
        self._is_retired = False

    # -- ISource

    def at_hand(self, local_part: str, domain: str) -> RecipientStatus | None:
        snapshot = self._snapshot
        if snapshot is None:
            return None
        is_restricted = snapshot.addresses.get(f"{local_part}@{domain}")
        if is_restricted is not None:
            return RecipientStatus.RESTRICTED if is_restricted else RecipientStatus.KNOWN
        is_young = self._clock.seconds() - self._read <= max(self._section.stale, 2 * self._section.refresh)
        return RecipientStatus.UNKNOWN if is_young else RecipientStatus.UNAVAILABLE

    def ask(self, local_part: str, domain: str) -> Deferred[RecipientStatus]:
        if self._snapshot is not None or self._working is None:
            return succeed(self.at_hand(local_part, domain) or RecipientStatus.UNAVAILABLE)
        first: Deferred[None] = Deferred(self._waiting.remove)
        self._waiting.append(first)
        first.addTimeout(self._section.timeout, self._clock, onTimeoutCancel=lambda _outcome, _seconds: None)
        return first.addCallback(lambda _: self.at_hand(local_part, domain) or RecipientStatus.UNAVAILABLE)

    def start(self) -> None:
        self._run(self._load_and_read if self._leads else self._follow)

    def retire(self) -> None:
        self._is_retired = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._working is not None:
            self._working.cancel()

    def close(self) -> None:
        self._threads.close()
        self._servers.close()

    # -- one turn after another

    def _run(self, turn: Callable[[], Any]) -> None:
        self._timer = None
        working = self._working = Deferred.fromCoroutine(turn())
        working.addErrback(self._stumbled)
        working.addCallback(self._over)

    def _stumbled(self, failure: Any) -> None:
        if not failure.check(CancelledError):
            _log.failure("recipients cannot be read", failure)

    def _over(self, wait: float | None) -> None:
        self._working = None
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            one.callback(None)
        if not self._is_retired:
            turn = self._read_again if self._leads else self._follow
            self._timer = self._clock.callLater(_AGAIN if wait is None else wait, self._run, turn)

    def _serve(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            one.callback(None)

    # -- the process that reads

    async def _load_and_read(self) -> float:
        self._stamp = await self._threads.run(self._file.look)
        saved = await self._threads.run(self._file.load)
        if saved is not None and self._stamp is not None:
            self._is_saved, self._is_held = True, bool(saved.snapshot.held)
            self._read, self._read_whole, self._mark = self._known_at(self._stamp), saved.read_whole, saved.mark
            self._serve(saved.snapshot)
        return await self._read_again()

    async def _read_again(self) -> float:
        """Read what is due; the seconds until the next time."""
        began = self._clock.seconds()
        is_due = self._is_held or not 0 <= began - self._read_whole < self._section.full_refresh
        try:
            changes = await self._reader.read(None if is_due else self._mark)
            update = await self._threads.run(partial(self._applied, changes))
            if update.held and not changes.is_whole:
                # so many at once are believed only where they are missing from the whole
                changes = await self._reader.read(None)
                update = await self._threads.run(partial(self._applied, changes))
        except BackendError as error:
            self._outage.begins(str(error))
            return min(_AGAIN, self._section.refresh)
        self._outage.ends()
        self._tell_held(update.held)
        is_new = update.snapshot is not self._snapshot
        self._mark, self._read = changes.mark, began
        if changes.is_whole:
            self._read_whole = began
        self._serve(update.snapshot)
        await self._save(is_new or (changes.is_whole and changes.mark is not None))
        return self._section.refresh

    def _applied(self, changes: Changes) -> Update:
        """In a thread: what the snapshot becomes."""
        old = self._snapshot or EMPTY
        if not changes.is_whole:
            return changed(old, changes, self._section.max_change)
        is_confirmed = self._is_saved and self._file.look() is None
        return replaced(old, changes, self._section.max_change, is_confirmed=is_confirmed)

    def _tell_held(self, held: int) -> None:
        self._is_held = bool(held)
        if held:
            reason = f"{held} addresses are not in the directory any more; to have it so, delete {self._file.path}"
            self._outage.begins(reason, what="holding")
        else:
            self._outage.ends(what="holding")

    async def _save(self, is_new: bool) -> None:
        """Save it, or tell those who follow that nothing has changed. What cannot be saved serves all the same."""
        snapshot = self._snapshot or EMPTY
        now = self._clock.seconds()
        saved = Saved(snapshot, self._read_whole, self._mark)

        def save() -> None:
            is_there = self._file.look() is not None
            if self._is_held and self._is_saved and not is_there:
                return  # deleted this moment: the next reading has to see that
            if is_new or not is_there:
                self._file.save(saved, now)
            else:
                self._file.touch(now)

        try:
            await self._threads.run(save)
            self._is_saved = True
        except OSError as error:
            self._is_saved = False
            _log.error("recipients cannot be saved: {error}", error=str(error))

    # -- the processes that follow

    async def _follow(self) -> float:
        stamp = await self._threads.run(self._file.look)
        if stamp is not None:
            if self._stamp is None or stamp.content != self._stamp.content:
                saved = await self._threads.run(self._file.load)
                if saved is None:
                    return _LOOK
                self._serve(saved.snapshot)
            self._stamp, self._read = stamp, self._known_at(stamp)
        return _LOOK if self._snapshot is not None else 1.0

    def _known_at(self, stamp: Stamp) -> float:
        return min(stamp.at, self._clock.seconds())
