"""The spool's database and files, as plain calls: every one runs on the spool's own thread, inside one transaction.

Files come before the row that names them, and go after the commit that forgets them: `prepare` before, `commit` with
what it then unlinks.

Several processes may have a store of the same directory, each as a worker with its number. They share all rows of
`messages` and `recipients`; a lease notes whose it is, and each has its own ids in `fresh` and its own folder for what
comes in. They take turns in writing, and whoever finds another file in the place of the database, because a worker had
to put a damaged one in order, goes on in that.
"""

from __future__ import annotations

import contextlib
import json
import math
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from cachetools import LRUCache

from mailgate.envelope import Envelope
from mailgate.interfaces import SpoolError
from mailgate.message import Content
from mailgate.spool.aside import SetAside, put_aside
from mailgate.spool.codec import CodecError, decode_envelope, encode_envelope, read_message
from mailgate.spool.database import as_octets, fold, is_damage, open_database, rebuild, spare_octets, sync
from mailgate.spool.disk import WriteTurn, is_disk, write_durably
from mailgate.spool.past import PastLife, fresh_ids
from mailgate.spool.rows import insert_rows
from mailgate.spool.stored import ContentReader

__all__ = ["SetAside", "Store"]

#: Recipients of long envelopes that stay decoded, in all.
_LONG_ENVELOPES = 100_000


class Store:
    """One open spool directory. sqlite3.Error and OSError pass through: the caller rolls back.

    `reopened` is called when another file has taken the database's place.
    """

    def __init__(
        self,
        directory: Path,
        inline_limit: int,
        *,
        now: Callable[[], float],
        worker: int = 0,
        workers: int = 1,
    ) -> None:
        self.directory = directory
        self.inline_limit = inline_limit
        self.now = now
        self.worker = worker
        self.incoming = directory / "incoming" if workers == 1 else directory / "incoming" / str(worker)
        self.contents = directory / "content"
        self.aside = directory / "set-aside"
        for path in (directory, self.incoming.parent, self.incoming, self.contents, self.aside):
            path.mkdir(mode=0o700, exist_ok=True)
            path.chmod(0o700)
        for path in {directory, self.incoming.parent}:
            sync(path)  # what is in the folders is not found without their names
        # Which row of `fresh` holds a message that its acceptor has not finished with, and when the lease ends.
        self.fresh: dict[str, tuple[int, float]] = {}
        self._first_end = math.inf  # no lease in `fresh` ends before
        self._before: list[tuple[str, tuple[int, float] | None]] = []  # what to put back into `fresh`
        self._unlink: list[Path] = []
        self.last_end = 0.0  # no lease of `recipients` that we have given ends later
        self._unnamed: tuple[list[Path], float] = [], math.inf  # set aside, and perhaps under delivery until then
        self._path = directory / "spool.db"
        self.file = 0  # the number of the file that we have open; 0 where it could not be opened
        self._turn = WriteTurn(directory / "writing.lock") if workers > 1 else None
        self.reopened: Callable[[], object] = lambda: None
        self.reader = ContentReader(self._path)
        # Decoding a very long envelope for every piece of it that is leased would take longer than to deliver it.
        self.envelopes: LRUCache[str, Envelope] = LRUCache(_LONG_ENVELOPES, lambda one: len(one.recipients))
        self.half_rebuilt: list[SetAside] = []  # another database is in place, but not yet in order
        self.damage: list[SetAside] = []  # what was wrong with the database when it was opened
        # Leases of a past life, and files that came: when others are under way nobody can tell what is whose.
        self.past = PastLife(directory, worker, workers)
        try:
            if self._turn is not None:
                self._turn.take()
            try:
                self._open()
                self.past.look_back(self.database)
            except sqlite3.Error as error:
                if not is_damage(error):
                    raise
                self.damage = self.rebuild(error)
                self.past.look_back(self.database)
        except BaseException:
            if self._turn is not None:
                self._turn.close()
            raise
        if self._turn is not None:
            self._turn.give()

    def _open(self) -> None:
        self.database = open_database(self._path)
        try:
            file = self._path.stat().st_ino
            first, end = fresh_ids(self.worker)
            (last,) = self.database.execute(
                "SELECT max(id) FROM fresh WHERE id >= ? AND id < ?", (first, end)
            ).fetchone()
        except (OSError, sqlite3.Error):
            self.database.close()
            raise
        self._next_id = first if last is None else int(last) + 1
        self.file = file

    def renew(self) -> None:
        """Go on in the file that is the database now, where another one is, or ours could not be opened."""
        if self._path.stat().st_ino == self.file:
            return
        self._let_go()
        self._open()
        try:
            self._forget_lost()
        except BaseException:
            self._let_go()
            raise

    def _let_go(self) -> None:
        self.file = 0
        with contextlib.suppress(AttributeError, sqlite3.Error):
            self.database.close()

    def rebuild(self, error: Exception) -> list[SetAside]:
        """Go on in a new database with all that can be read of a damaged one; what is set aside with it. Where that
        cannot be, we go on in the damaged one, as far as it goes."""
        self._let_go()
        if not self.half_rebuilt:
            self._replace(error)
        self._open()
        self.database.execute("BEGIN IMMEDIATE")
        lonely = self.database.execute(
            "SELECT queue_id FROM messages WHERE queue_id NOT IN (SELECT queue_id FROM recipients)"
        ).fetchall()
        lost = [self.set_aside(queue_id, "its recipients cannot be read") for (queue_id,) in lonely]
        self._forget_lost()
        self.commit(keep_turn=True)
        aside, self.half_rebuilt = [*self.half_rebuilt, *lost], []
        return aside

    def _replace(self, error: Exception) -> None:
        try:
            kept, unnamed = rebuild(self._path, self.aside, self.contents)
        except BaseException:
            with contextlib.suppress(OSError, sqlite3.Error, SpoolError):
                self._open()
            raise
        self.half_rebuilt = [("", str(kept), f"the database was damaged ({error}); what could be read of it goes on")]
        if self._turn is None:  # other workers' leases nobody can tell: the next start removes it
            self._unnamed = unnamed, max([self.last_end, *(until for _, until in self.fresh.values())])

    def _forget_lost(self) -> None:
        left = {row for (row,) in self.database.execute("SELECT id FROM fresh")}
        self.fresh = {queue_id: found for queue_id, found in self.fresh.items() if found[0] in left}
        self.reader.close()
        self.reopened()

    # -- whose turn it is

    def begin(self, is_one_statement: Callable[[], bool] = lambda: False) -> None:
        """To be called before each transaction, which begins here unless it is one statement."""
        self.take_turn()
        if not is_one_statement():
            self.database.execute("BEGIN IMMEDIATE")

    def take_turn(self) -> None:
        """Keep other workers from writing until `commit` or `rollback`; we may go on in another database's file."""
        if self._turn is not None:
            self._turn.take()
            self.renew()

    # -- accepting

    def prepare(self, envelope: Envelope, content: Content) -> tuple[Envelope, Content, str, bytes | None]:
        """Bring the content to where the row will say it is; its file is synced, the directory not yet."""
        if content.in_memory and content.size <= self.inline_limit:
            data = content.read()
            return envelope, content, encode_envelope(envelope, data), data
        place = self.contents / envelope.queue_id
        if content.path is not None:
            try:
                sync(content.path)
            except FileNotFoundError as error:
                raise SpoolError(f"the content of {envelope.queue_id} has gone") from error
            content.path.replace(place)
        else:
            write_durably(place, content.read())
        return envelope, Content(None, place, content.size), encode_envelope(envelope), None

    def exchange_fresh(self, rows: Sequence[tuple[Envelope, str, bytes | None, float]], left: Sequence[str]) -> None:
        """The hot path: keep messages for their first attempt, and forget those that have left, whole.

        A message that comes takes the row of one that has left, so both are one statement as long as no more leave
        than come: between two statements the interpreter's lock changes hands, and the reactor's thread waits.
        """
        free = [self._set_fresh(queue_id, None) for queue_id in dict.fromkeys(left)]  # one may be told of twice
        values: list[object] = []
        for envelope, text, data, until in rows:
            row = free.pop() if free else self._next_id
            if row == self._next_id:
                self._next_id += 1
            self._set_fresh(envelope.queue_id, (row, until))
            values += (row, text, data)
        if rows:
            self.database.execute("REPLACE INTO fresh VALUES " + ", ".join(["(?, ?, ?)"] * len(rows)), values)
        if free:
            self.database.execute("DELETE FROM fresh WHERE id IN (SELECT value FROM json_each(?))", (json.dumps(free),))

    def _set_fresh(self, queue_id: str, found: tuple[int, float] | None) -> int:
        """Note where a message stands, or that it has left; its row."""
        before = self.fresh.pop(queue_id, None)
        self._before.append((queue_id, before))
        if found is not None:
            self.fresh[queue_id] = found
            self._first_end = min(self._first_end, found[1])
        row, _ = found or before or (0, 0.0)
        return row

    def insert(self, envelope: Envelope, text: str, data: bytes | None, leased_until: float | None) -> None:
        """Keep a message with a row for each recipient: leased until then, or (None) due at once, or at its release."""
        if leased_until is None:
            state = "queued", max(self.now(), envelope.parameters.release_at)
        else:
            state = "leased", leased_until
            self.last_end = max(self.last_end, leased_until)
        insert_rows(self.database, envelope, text, data, state, self.worker)

    def expand(self, queue_id: str) -> None:
        """Give a fresh message its rows, leased as it is; CodecError where it cannot be read."""
        if queue_id not in self.fresh:
            return
        row, until = self.fresh[queue_id]
        found = self.database.execute("SELECT envelope, content FROM fresh WHERE id = ?", (row,)).fetchone()
        if found is None:
            raise CodecError("its row has gone")
        text, data = found
        self.insert(decode_envelope(text), text, data, until)
        self._set_fresh(queue_id, None)
        self.database.execute("DELETE FROM fresh WHERE id = ?", (row,))

    def expand_all(self) -> None:
        """Give every fresh message its rows, still leased, so that selection sees all of them."""
        for queue_id in list(self.fresh):
            # What cannot be read here may still be delivered by whoever has the lease.
            with contextlib.suppress(CodecError):
                self.expand(queue_id)

    def expand_ended(self) -> list[SetAside]:
        """Give rows to fresh messages whose lease has ended, so that they are leased again; what is set aside."""
        now = self.now()
        if now >= self._unnamed[1]:
            self.forget(*self._unnamed[0])
            self._unnamed = [], math.inf
        if now < self._first_end:
            return []
        aside = []
        for queue_id, (row, until) in list(self.fresh.items()):
            if until <= now:
                aside.append(self.unfold(row, queue_id, until))
                self._set_fresh(queue_id, None)
        self._first_end = min((until for _, until in self.fresh.values()), default=math.inf)
        return [one for one in aside if one is not None]

    def first_end(self) -> float:
        """Before this time no lease of a fresh message ends."""
        return self._first_end if self.fresh else math.inf

    # -- what cannot be read

    def unfold(self, row: int, name: str, leased_until: float | None) -> SetAside | None:
        """Give a row of `fresh` its rows, or set it aside under that name: only the disk's errors pass."""
        found = self.database.execute("SELECT envelope, content FROM fresh WHERE id = ?", (row,)).fetchone()
        if found is None:
            return None
        text, data = found
        aside = None
        self.database.execute("SAVEPOINT one")
        try:
            envelope = decode_envelope(text)
            with contextlib.suppress(OSError):  # the disk may tell of its content when it is delivered
                read_message(self.contents, envelope.queue_id, text, data)
            # Where damage has left it in both tables, the other one knows more.
            if not self.has(envelope.queue_id):
                self.insert(envelope, text, data, leased_until)
        except Exception as error:
            if is_disk(error) or is_damage(error) or isinstance(error, MemoryError):
                raise
            self.database.execute("ROLLBACK TO one")
            aside = self._put_aside(name, str(error), text, data)
        self.database.execute("DELETE FROM fresh WHERE id = ?", (row,))
        self.database.execute("RELEASE one")
        return aside

    def has(self, queue_id: str) -> bool:
        """Whether a message has rows."""
        return self.database.execute("SELECT 1 FROM messages WHERE queue_id = ?", (queue_id,)).fetchone() is not None

    def set_aside(self, queue_id: str, reason: str) -> SetAside:
        """Move what stands of an entry to where a person can look at it; nothing is deleted."""
        # As octets: what damage has made of an id may be no text.
        key = (as_octets(queue_id),)
        row = self.database.execute(
            "SELECT envelope, content FROM messages WHERE queue_id = CAST(? AS TEXT)", key
        ).fetchone() or ("", None)
        found = self._put_aside(queue_id, reason, *row)
        self.database.execute("DELETE FROM recipients WHERE queue_id = CAST(? AS TEXT)", key)
        self.database.execute("DELETE FROM messages WHERE queue_id = CAST(? AS TEXT)", key)
        return found

    def _put_aside(self, name: str, reason: str, text: object, data: bytes | None) -> SetAside:
        found, content = put_aside(self.aside, self.contents, name, reason, text, data)
        if content is not None:
            self._unlink.append(content)
        return found

    # -- commit

    def commit(self, *, keep_turn: bool = False) -> None:
        """Commit; then remove the files that nothing names any more."""
        self.database.commit()
        if self._turn is not None and not keep_turn:
            self._turn.give()
        self._before.clear()
        unlink, self._unlink = self._unlink, []
        for path in unlink:
            # What is committed has happened, whatever the disk says now. The next sweep removes a file that stays.
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def rollback(self) -> None:
        """Undo all since the last commit."""
        self._unlink.clear()
        while self._before:
            queue_id, found = self._before.pop()
            if found is None:
                self.fresh.pop(queue_id, None)
            else:
                self.fresh[queue_id] = found
                self._first_end = min(self._first_end, found[1])
        try:
            if self.file and self.database.in_transaction:
                self.database.rollback()
        finally:
            if self._turn is not None:
                self._turn.give()

    def checkpoint(self) -> None:
        """Fold the log into the database and give back its room on the disk. Not inside a transaction."""
        try:
            self.take_turn()
            fold(self.database)
        finally:
            if self._turn is not None:
                self._turn.give()

    def spare(self) -> int:
        """Octets of the database's file that hold nothing, and take what comes next."""
        return spare_octets(self.database)

    def close(self) -> None:
        """Fold the log into the database and close."""
        self.reader.close()
        with contextlib.suppress(OSError, sqlite3.Error):  # on a full disk the log is left for the next start
            self.checkpoint()
        self.database.close()
        if self._turn is not None:
            self._turn.close()

    def drop_finished(self, queue_ids: Iterable[str]) -> None:
        """Forget those of the messages that have no recipient left."""
        gone = self.database.execute(
            "DELETE FROM messages WHERE queue_id IN (SELECT value FROM json_each(?))"
            " AND NOT EXISTS (SELECT 1 FROM recipients WHERE recipients.queue_id = messages.queue_id)"
            " RETURNING queue_id, content IS NULL",
            (json.dumps(list(queue_ids)),),
        ).fetchall()
        self._unlink += [self.contents / queue_id for queue_id, in_file in gone if in_file]

    def forget(self, *paths: Path) -> None:
        """Remove files after the next commit."""
        self._unlink += paths
