"""The spool's database and files, as plain calls: every one runs on the spool's own thread, inside one transaction.

Files come before the row that names them, and go after the commit that forgets them: `sync_content` before,
`commit` with what it then unlinks.
"""

from __future__ import annotations

import contextlib
import json
import math
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path

from mailgate.envelope import Envelope
from mailgate.interfaces import Lease, Outcome, OutcomeKind, SpoolError
from mailgate.message import Content
from mailgate.spool.codec import CodecError, decode_envelope, encode_envelope, read_message
from mailgate.spool.database import as_octets, is_damage, link, open_database, rebuild, sync
from mailgate.spool.disk import is_disk, write_durably
from mailgate.spool.query import told

__all__ = ["END_LEASE", "SetAside", "Store"]

#: How a lease ends where nothing else is said: a hold that was asked for meanwhile comes into force.
END_LEASE = "state = CASE hold WHEN 0 THEN 'queued' ELSE 'held' END, hold = 0"
_FINAL = (OutcomeKind.DELIVERED, OutcomeKind.FAILED, OutcomeKind.DISCARDED)
SetAside = tuple[str, str, str]
"""Queue id, where it lies now, why."""


class Store:
    """One open spool directory. sqlite3.Error and OSError pass through: the caller rolls back."""

    def __init__(self, directory: Path, inline_limit: int) -> None:
        self.directory = directory
        self.inline_limit = inline_limit
        self.incoming = directory / "incoming"
        self.contents = directory / "content"
        self.aside = directory / "set-aside"
        for path in (directory, self.incoming, self.contents, self.aside):
            path.mkdir(mode=0o700, exist_ok=True)
            path.chmod(0o700)
        # Which row of `fresh` holds a message that its acceptor has not finished with, and when the lease ends.
        self.fresh: dict[str, tuple[int, float]] = {}
        self._first_end = math.inf  # no lease in `fresh` ends before
        self._before: list[tuple[str, tuple[int, float] | None]] = []  # what to put back into `fresh`
        self._unlink: list[Path] = []
        self._path = directory / "spool.db"
        self.damage: list[SetAside] = []  # what was wrong with the database when it was opened
        # Leases of a past life, and files that came: when others are under way nobody can tell what is whose.
        self.leftovers = list(self.incoming.iterdir())
        self.past_leases: list[tuple[float, str, int]] = []
        try:
            self._open()
            self._look_back()
        except sqlite3.Error as error:
            if not is_damage(error):
                raise
            self.damage = self.rebuild(error)
            self._look_back()

    def _open(self) -> None:
        self.database = open_database(self._path)
        try:
            (last,) = self.database.execute("SELECT coalesce(max(id), 0) FROM fresh").fetchone()
        except sqlite3.Error:
            self.database.close()
            raise
        self._next_id = int(last) + 1

    def _look_back(self) -> None:
        self.past_leases = self.database.execute(
            "SELECT due, queue_id, number FROM recipients WHERE state = 'leased'"
        ).fetchall()

    def rebuild(self, error: Exception) -> list[SetAside]:
        """Go on in a new database with all that can be read of a damaged one; what is set aside with it."""
        with contextlib.suppress(AttributeError, sqlite3.Error):
            self.database.close()
        kept = rebuild(self._path, self.aside, self.contents)
        self._open()
        self.database.execute("BEGIN IMMEDIATE")
        lonely = self.database.execute(
            "SELECT queue_id FROM messages WHERE queue_id NOT IN (SELECT queue_id FROM recipients)"
        ).fetchall()
        aside = [self.set_aside(queue_id, "its recipients cannot be read") for (queue_id,) in lonely]
        left = {row for (row,) in self.database.execute("SELECT id FROM fresh")}
        self.fresh = {queue_id: found for queue_id, found in self.fresh.items() if found[0] in left}
        self.commit()
        return [("", str(kept), f"the database was damaged ({error}); what could be read of it goes on"), *aside]

    # -- accepting

    def prepare(self, envelope: Envelope, content: Content) -> tuple[Envelope, Content, str, bytes | None]:
        """Bring the content to where the row will say it is; its file is synced, the directory not yet."""
        if content.in_memory and content.size <= self.inline_limit:
            return envelope, content, encode_envelope(envelope), content.read()
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
        free = [self._set_fresh(queue_id, None) for queue_id in left]
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
        self.database.execute(
            "INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?)",
            (envelope.queue_id, str(envelope.sender).lower(), envelope.received, envelope.size, text, data),
        )
        not_before = envelope.parameters.release_at
        state, due = ("queued", max(time.time(), not_before)) if leased_until is None else ("leased", leased_until)
        self.database.executemany(
            "INSERT INTO recipients (queue_id, number, address, domain, route, state, due, not_before)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    envelope.queue_id,
                    one.number,
                    str(one.address).lower(),
                    one.address.domain,
                    one.route,
                    "quarantined" if one.quarantine else state,
                    due,
                    not_before,
                )
                for one in envelope.recipients
            ],
        )

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

    def _expand_ended(self, now: float) -> list[SetAside]:
        """Give rows to fresh messages whose lease has ended, so that they are leased again; what is set aside."""
        if now < self._first_end:
            return []
        aside = []
        for queue_id, (row, until) in list(self.fresh.items()):
            if until <= now:
                aside.append(self.unfold(row, queue_id, until))
                self._set_fresh(queue_id, None)
        self._first_end = min((until for _, until in self.fresh.values()), default=math.inf)
        return [one for one in aside if one is not None]

    # -- delivering

    def lease(self, limit: int, until: float, now: float) -> tuple[list[Lease], list[SetAside]]:
        """Lease up to `limit` recipients that are due, oldest first, grouped by message."""
        aside = self._expand_ended(now)
        self.database.execute(
            "UPDATE recipients SET state = 'held', hold = 0 WHERE state = 'leased' AND due <= ? AND hold != 0", (now,)
        )
        rows = self.database.execute(
            "SELECT queue_id, number, attempts, warned FROM ("
            " SELECT * FROM (SELECT queue_id, number, attempts, warned, due FROM recipients"
            "  WHERE state = 'queued' AND due <= ?1 ORDER BY due LIMIT ?2)"
            " UNION ALL SELECT * FROM (SELECT queue_id, number, attempts, warned, due FROM recipients"
            "  WHERE state = 'leased' AND due <= ?1 ORDER BY due LIMIT ?2)) ORDER BY due LIMIT ?2",
            (now, limit),
        ).fetchall()
        wanted: dict[str, dict[int, int]] = {}
        warned: dict[str, set[int]] = {}
        for queue_id, number, attempts, is_warned in rows:
            wanted.setdefault(queue_id, {})[number] = attempts
            if is_warned:
                warned.setdefault(queue_id, set()).add(number)
        leases = []
        for queue_id, attempts in wanted.items():
            try:
                envelope, content = self.read(queue_id)
            except CodecError as error:
                aside.append(self.set_aside(queue_id, str(error)))
                continue
            self.database.executemany(
                "UPDATE recipients SET state = 'leased', due = ? WHERE queue_id = ? AND number = ?",
                [(until, queue_id, number) for number in attempts],
            )
            recipients = tuple(one for one in envelope.recipients if one.number in attempts)
            leases.append(Lease(envelope, recipients, content, until, attempts, frozenset(warned.get(queue_id, ()))))
        return leases, aside

    def read(self, queue_id: str) -> tuple[Envelope, Content]:
        """A message that has rows; CodecError where it cannot be read."""
        row = self.database.execute("SELECT envelope, content FROM messages WHERE queue_id = ?", (queue_id,)).fetchone()
        if row is None:
            raise CodecError("recipients without a message")
        return read_message(self.contents, queue_id, *row)

    def record(self, lease: Lease, outcomes: Sequence[Outcome]) -> None:
        """Write outcomes; the message goes with its last recipient.

        What is final is so whoever has the lease now; a deferral ends none but its own.
        """
        queue_id = lease.envelope.queue_id
        self.expand(queue_id)
        self.database.executemany(
            "DELETE FROM recipients WHERE queue_id = ? AND number = ?",
            [(queue_id, one.recipient.number) for one in outcomes if one.kind in _FINAL],
        )
        self.database.executemany(
            f"UPDATE recipients SET {END_LEASE}, due = ?, attempts = attempts + 1, last_reply = ?"
            " WHERE queue_id = ? AND number = ? AND state = 'leased' AND due = ?",
            [
                (one.next_attempt, told(one), queue_id, one.recipient.number, lease.until)
                for one in outcomes
                if one.kind is OutcomeKind.DEFERRED
            ],
        )
        # Whoever has the lease now: the report goes out with this.
        self.database.executemany(
            "UPDATE recipients SET warned = 1 WHERE queue_id = ? AND number = ?",
            [(queue_id, one.recipient.number) for one in outcomes if one.warned],
        )
        self.drop_finished([queue_id])

    def give_back(self, leases: Sequence[Lease]) -> None:
        """End leases without an attempt; one that somebody else has by now stays."""
        now = time.time()
        for lease in leases:
            queue_id = lease.envelope.queue_id
            self.expand(queue_id)
            self.database.executemany(
                f"UPDATE recipients SET {END_LEASE}, due = ?"
                " WHERE queue_id = ? AND number = ? AND state = 'leased' AND due = ?",
                [(now, queue_id, one.number, lease.until) for one in lease.recipients],
            )

    def next_due(self) -> float | None:
        """When the next recipient is due or a lease ends."""
        found = [self._first_end] if self.fresh else []
        found += [
            due
            for state in ("queued", "leased")
            for (due,) in self.database.execute("SELECT min(due) FROM recipients WHERE state = ?", (state,))
            if due is not None
        ]
        return min(found, default=None)

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
        row = self.database.execute(
            "SELECT envelope, content FROM messages WHERE queue_id = ?", (queue_id,)
        ).fetchone() or ("", None)
        found = self._put_aside(queue_id, reason, *row)
        self.database.execute("DELETE FROM recipients WHERE queue_id = ?", (queue_id,))
        self.database.execute("DELETE FROM messages WHERE queue_id = ?", (queue_id,))
        return found

    def _put_aside(self, name: str, reason: str, text: object, data: bytes | None) -> SetAside:
        place = self.aside / f"{name}.envelope"
        write_durably(place, as_octets(text) + b"\n")
        if data is not None:
            write_durably(self.aside / f"{name}.eml", as_octets(data))
        elif (self.contents / name).is_file():
            # A link: the row may still be rolled back, and then the content must be where it was.
            link(self.contents / name, self.aside / f"{name}.eml")
            self._unlink.append(self.contents / name)
        sync(self.aside)
        return name, str(place), reason

    # -- commit

    def commit(self) -> None:
        """Commit; then remove the files that nothing names any more."""
        self.database.commit()
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
        if self.database.in_transaction:
            self.database.rollback()

    def checkpoint(self) -> None:
        """Fold the log into the database and give back its room on the disk."""
        self.database.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def spare(self) -> int:
        """Octets of the database's file that hold nothing, and take what comes next."""
        (pages,) = self.database.execute("PRAGMA freelist_count").fetchone()
        (size,) = self.database.execute("PRAGMA page_size").fetchone()
        return int(pages) * int(size)

    def close(self) -> None:
        """Fold the log into the database and close."""
        with contextlib.suppress(sqlite3.Error):  # on a full disk the log stays, and is read at the next start
            self.database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.database.close()

    def drop_finished(self, queue_ids: Sequence[str] | set[str]) -> None:
        """Forget those of the messages that have no recipient left."""
        for queue_id in queue_ids:
            done = self.database.execute(
                "DELETE FROM messages WHERE queue_id = ?1"
                " AND NOT EXISTS (SELECT 1 FROM recipients WHERE queue_id = ?1) RETURNING content IS NULL",
                (queue_id,),
            ).fetchone()
            if done is not None and done[0]:
                self._unlink.append(self.contents / queue_id)

    def forget(self, *paths: Path) -> None:
        """Remove files after the next commit."""
        self._unlink += paths
