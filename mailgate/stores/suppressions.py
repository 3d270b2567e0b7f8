"""The addresses that get no more mail of ours: SQLite, which several processes and the command share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from unicodedata import normalize

from zope.interface import implementer

from mailgate.address import Address, AddressError
from mailgate.awaiting import InThread
from mailgate.interfaces import ISuppressions, Suppression
from mailgate.stores.domains import canonical
from mailgate.stores.opened import OpenedFile, open_file, transaction

__all__ = ["SeenSuppressions", "SuppressionFile", "Suppressions", "checked", "checked_scope", "key_of"]

#: What may be the name of a stream.
_STREAM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
#: Characters that are kept of a text.
_LONGEST = 500
_COLUMNS = "address, scope, reason, detail, added, until"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS suppressions (
    address TEXT NOT NULL,
    scope TEXT NOT NULL,
    reason TEXT NOT NULL,
    detail TEXT NOT NULL,
    added REAL NOT NULL,
    until REAL NOT NULL,
    PRIMARY KEY (address, scope)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS ends ON suppressions (until) WHERE until <> 0;
"""


def key_of(address: Address | str) -> str:
    """How an address, or "@domain", is written here: two that are the same for mail are the same text."""
    local_part, _, domain = str(address).strip().rpartition("@")
    return f"{normalize('NFC', local_part.lower())}@{canonical(domain)}"


def checked(text: str) -> str:
    """The same text, where it is an address or "@domain"; AddressError."""
    Address.parse(f"any{text}" if text.startswith("@") else text)
    return text


def checked_scope(text: str) -> str:
    """The same text, where it is "", an address, "@domain" or the name of a stream; AddressError."""
    if "@" in text:
        return checked(text)
    if text and not _STREAM.fullmatch(text):
        raise AddressError("a stream has letters, digits and . _ - only, at most 64")
    return text


class SuppressionFile:
    """Every method is one transaction; sqlite3.Error where the file cannot be used now."""

    def __init__(self, path: Path) -> None:
        self._database = open_file(path, _SCHEMA, survives_power=True)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def find(self, addresses: Sequence[Address], scopes: Sequence[str], now: float) -> Mapping[Address, Suppression]:
        """As in ISuppressions, at this moment (seconds since the epoch)."""
        scopes = [_scope(one) for one in scopes]
        marks = ", ".join("?" * len(scopes))
        query = (
            f"SELECT {_COLUMNS} FROM suppressions WHERE address IN (?, ?) AND scope IN ({marks})"  # noqa: S608  marks
            " AND (until = 0 OR until > ?) ORDER BY added LIMIT 1"
        )
        found: dict[Address, Suppression] = {}
        for address in addresses:
            key = key_of(address)
            domain = key[key.rindex("@") :]
            row = self._database.execute(query, (key, domain, *scopes, now)).fetchone()
            if row is not None:
                found[address] = Suppression(*row)
        return found

    def add(self, entries: Iterable[Suppression], now: float) -> Sequence[Suppression]:
        """Forget what is over, and keep these; one that is there already stays as it is, but for its end, which may
        only come later. Those that were not there."""
        added: list[Suppression] = []
        with transaction(self._database):
            self._database.execute("DELETE FROM suppressions WHERE until <> 0 AND until <= ?", (now,))
            for one in entries:
                key = key_of(one.address), _scope(one.scope)
                row = self._database.execute(
                    "SELECT until FROM suppressions WHERE address = ? AND scope = ?", key
                ).fetchone()
                if row is not None:
                    if row[0] and (one.until == 0 or one.until > row[0]):
                        self._database.execute(
                            "UPDATE suppressions SET until = ? WHERE address = ? AND scope = ?", (one.until, *key)
                        )
                    continue
                values = (*key, _text(one.reason), _text(one.detail), one.added, one.until)
                self._database.execute("INSERT INTO suppressions VALUES (?, ?, ?, ?, ?, ?)", values)
                added.append(one)
        return added

    def remove(self, address: str, scope: str | None) -> Sequence[Suppression]:
        """Remove an address from one scope, or from all where that is None; the entries that went."""
        condition, values = (
            ("", (key_of(address),)) if scope is None else (" AND scope = ?", (key_of(address), _scope(scope)))
        )
        statement = f"DELETE FROM suppressions WHERE address = ?{condition} RETURNING {_COLUMNS}"  # noqa: S608  constants
        return [Suppression(*row) for row in self._database.execute(statement, values).fetchall()]

    def list(
        self,
        limit: int,
        after: tuple[str, str] = ("", ""),
        *,
        address: str = "",
        scope: str | None = None,
        reason: str = "",
    ) -> Sequence[Suppression]:
        """At most `limit` entries from behind another (address and scope), in the order of both; of one address, one
        scope or one reason only where these are given. Those that are over are there until the next `add`."""
        conditions, values = ["(address, scope) > (?, ?)"], [*after]
        given = (
            ("address", key_of(address) if address else None),
            ("scope", None if scope is None else _scope(scope)),
            ("reason", reason or None),
        )
        for name, value in given:
            if value is not None:
                conditions.append(f"{name} = ?")
                values.append(value)
        query = (
            f"SELECT {_COLUMNS} FROM suppressions WHERE {' AND '.join(conditions)}"  # noqa: S608  constants
            " ORDER BY address, scope LIMIT ?"
        )
        return [Suppression(*row) for row in self._database.execute(query, (*values, limit))]


@implementer(ISuppressions)
class Suppressions:
    """The file, asked in a thread. Until it is first written there is none, and nothing is asked."""

    def __init__(self, path: Path, in_thread: InThread, now: Callable[[], float]) -> None:
        self._file = OpenedFile(path, SuppressionFile)
        self._in_thread = in_thread
        self._now = now
        self._exists = False

    async def find(self, addresses: Sequence[Address], scopes: Sequence[str]) -> Mapping[Address, Suppression]:
        if not self._exists:
            self._exists = self._file.path.exists()
            if not self._exists:
                return {}
        now = self._now()
        return await self._in_thread(lambda: self._file.use(lambda file: file.find(addresses, scopes, now)))

    async def add(self, *entries: Suppression) -> Sequence[Suppression]:
        now = self._now()
        return await self._in_thread(lambda: self._file.use(lambda file: file.add(entries, now)))

    async def remove(self, address: str, scope: str | None = None) -> Sequence[Suppression]:
        return await self._in_thread(lambda: self._file.use(lambda file: file.remove(address, scope)))

    async def list(
        self,
        limit: int,
        after: tuple[str, str] = ("", ""),
        *,
        address: str = "",
        scope: str | None = None,
        reason: str = "",
    ) -> Sequence[Suppression]:
        return await self._in_thread(
            lambda: self._file.use(lambda file: file.list(limit, after, address=address, scope=scope, reason=reason))
        )

    async def close(self) -> None:
        """Close the file."""
        await self._in_thread(self._file.close)


@implementer(ISuppressions)
class SeenSuppressions:
    """Those that there are, for who only tries what would happen: what is added or removed is forgotten."""

    def __init__(self, suppressions: ISuppressions) -> None:
        self._suppressions = suppressions

    async def find(self, addresses: Sequence[Address], scopes: Sequence[str]) -> Mapping[Address, Suppression]:
        return await self._suppressions.find(addresses, scopes)

    async def add(self, *entries: Suppression) -> Sequence[Suppression]:
        return ()

    async def remove(self, address: str, scope: str | None = None) -> Sequence[Suppression]:
        return ()

    async def list(
        self,
        limit: int,
        after: tuple[str, str] = ("", ""),
        *,
        address: str = "",
        scope: str | None = None,
        reason: str = "",
    ) -> Sequence[Suppression]:
        return await self._suppressions.list(limit, after, address=address, scope=scope, reason=reason)


def _scope(scope: str) -> str:
    """How a scope is written here: programs may name a stream in other letters than before."""
    return key_of(scope) if "@" in scope else scope.lower()


def _text(text: str) -> str:
    return text[:_LONGEST].encode("utf-8", "replace").decode()
