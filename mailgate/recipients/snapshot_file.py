"""The file in which a snapshot outlives a restart, and tells the other processes of a gateway. Its functions block."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import msgspec

from mailgate.config.recipients import LdapRecipients
from mailgate.recipients.ldap_entries import Entry
from mailgate.recipients.snapshot import Mark, Snapshot

__all__ = ["Saved", "SnapshotFile", "Stamp"]

_FOLDER, _SUFFIX = "recipients", ".snapshot"
#: What an entry holds is decided by these: with others, what was saved says nothing.
_MEANING = ("base", "filter", "attributes", "restricted_attribute", "skip_disabled")


class _Content(msgspec.Struct, frozen=True):
    made_of: str
    read_whole: float
    server: str
    number: int
    entries: dict[str, Entry]


@dataclass(frozen=True, slots=True)
class Saved:
    """A snapshot, when all of it was read the last time (seconds since the epoch), and where its changes begin."""

    snapshot: Snapshot
    read_whole: float
    mark: Mark | None


@dataclass(frozen=True, slots=True)
class Stamp:
    """Which content the file has, and until when that is known to be so (seconds since the epoch)."""

    content: tuple[int, int]
    at: float


class SnapshotFile:
    """That of the section of this name, in the state directory."""

    def __init__(self, state_dir: Path, name: str, section: LdapRecipients) -> None:
        self.path = state_dir / _FOLDER / f"{name}{_SUFFIX}"
        meaning = msgspec.json.encode([getattr(section, key) for key in _MEANING])
        self._made_of = hashlib.sha256(meaning).hexdigest()

    def look(self) -> Stamp | None:
        """None where there is no file."""
        try:
            stat = self.path.stat()
        except OSError:
            return None
        return Stamp((stat.st_ino, stat.st_size), stat.st_mtime)

    def load(self) -> Saved | None:
        """What it holds; None where it is not there, cannot be read, or was made with other settings."""
        try:
            content = msgspec.json.decode(self.path.read_bytes(), type=_Content)
        except (OSError, msgspec.DecodeError):
            return None
        if content.made_of != self._made_of:
            return None
        mark = Mark(content.server, content.number) if content.server else None
        return Saved(Snapshot.of(content.entries), content.read_whole, mark)

    def save(self, saved: Saved, now: float) -> None:
        """Put it in the place of the one before, whole or not at all; OSError."""
        server, number = saved.mark or ("", 0)
        content = _Content(self._made_of, saved.read_whole, server, number, dict(saved.snapshot.entries))
        self.path.parent.mkdir(mode=0o700, exist_ok=True)
        new = self.path.with_suffix(".new")
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(msgspec.json.encode(content))
            file.flush()
            os.fsync(file.fileno())
        os.utime(new, (now, now))
        new.replace(self.path)

    def touch(self, now: float) -> None:
        """Its content is still right; OSError."""
        os.utime(self.path, (now, now))
