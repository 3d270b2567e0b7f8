"""What is in archives, and in archives inside them, by libarchive; for worker processes only.

Only formats are opened that lie in the octets themselves: of the others that libarchive knows, mtree reads files of the
disk by name, and some filters run programs.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from libarchive import ffi  # type: ignore[import-untyped]  # it has no types
from libarchive.exception import ArchiveError  # type: ignore[import-untyped]  # it has no types
from libarchive.read import ArchiveRead  # type: ignore[import-untyped]  # it has no types

from mailgate.content.fields import clean_name, decode_octets
from mailgate.content.kinds import ARCHIVES, COMPRESSED
from mailgate.content.models import Limits, Member
from mailgate.content.office import OLE_MAGIC, OOXML_CONTENTS, ole_marks, package_marks, pdf_marks, rtf_marks

__all__ = ["Unpacker"]

_FORMATS = ("zip", "7zip", "rar", "rar5", "tar", "cpio", "ar", "cab", "lha", "iso9660", "xar")
_FILTERS = ("gzip", "bzip2", "xz", "lzma", "lzip", "compress", "zstd", "lz4")
#: What an archive may unpack to whatever its size: small files are packed well.
_FREE = 1024 * 1024
#: Octets of a member that are read at a time, and characters of a path that are kept.
_LONGEST_PATH = 500
#: The fixed part of a local header, and of an entry of the central directory, of ZIP (APPNOTE 4.3.7, 4.3.12).
_LOCAL, _CENTRAL = struct.Struct("<4x2xH10xI4xHH"), struct.Struct("<4x4xH18xHHH")

_is_encrypted = ffi.libarchive.archive_entry_is_encrypted
_is_encrypted.argtypes, _is_encrypted.restype = [ctypes.c_void_p], ctypes.c_int
_has_encrypted = ffi.libarchive.archive_read_has_encrypted_entries
_has_encrypted.argtypes, _has_encrypted.restype = [ctypes.c_void_p], ctypes.c_int


class _BeyondError(Exception):
    """A limit was reached; the rest of the message's archives is not looked at."""


@dataclass(slots=True)
class _Opened:
    names: list[str] = field(default_factory=list)
    contents: dict[str, bytes] = field(default_factory=dict)
    marks: set[str] = field(default_factory=set)


class Unpacker:
    """Unpacks for one message. `members` is what was found; `note` is told of limits that were reached; `found` is
    given what each member holds."""

    def __init__(
        self,
        limits: Limits,
        type_of: Callable[[bytes], str],
        note: Callable[[str], None],
        spend: Callable[[int], bool],
    ) -> None:
        self.members: list[Member] = []
        self._limits = limits
        self._type_of = type_of
        self._note = note
        self._spend = spend
        self._count = 0

    def marks(self, part: int, data: bytes, types: list[str], name: str) -> list[str]:
        """What is to be known of a part by its octets; the files in it become `members`."""
        try:
            return sorted(self._look(part, data, types, name, "", 1))
        except _BeyondError:
            return ["archive", "unread"]

    def _look(self, part: int, data: bytes, types: list[str], name: str, path: str, depth: int) -> set[str]:
        marks: set[str] = set()
        if data[:8] == OLE_MAGIC:
            marks |= set(ole_marks(data))
        elif b"%PDF-" in data[:1024]:
            marks |= set(pdf_marks(data))
        elif data[:5].lower() == b"{\\rtf"[:5]:
            marks |= set(rtf_marks(data))
        is_archive = any(one in ARCHIVES for one in types)
        if is_archive or b"PK\x05\x06" in data or data[:4] == b"PK\x03\x04":
            marks |= self._open(part, data, types, name, path, depth, is_sure=is_archive)
        return marks

    def _open(
        self, part: int, data: bytes, types: list[str], name: str, path: str, depth: int, *, is_sure: bool
    ) -> set[str]:
        if depth > self._limits.depth:
            self._note("depth")
            return {"archive", "unread"}
        opened = _Opened()
        allowance = max(_FREE, self._limits.ratio * len(data))
        is_single = any(one in COMPRESSED for one in types)
        try:
            with _archive(data, is_single) as archive:
                self._read(archive, opened, part, name, path, depth, allowance)
        except ArchiveError as error:
            text = str(error).lower()
            opened.marks.add("encrypted" if "encrypt" in text or "passphrase" in text else "broken")
        self._hidden(data, opened, part, path, depth)
        if not is_sure and not opened.names:
            return set()
        return opened.marks | set(package_marks(opened.names, opened.contents)) | {"archive"}

    def _read(
        self, archive: ArchiveRead, opened: _Opened, part: int, name: str, path: str, depth: int, allowance: int
    ) -> None:
        pointer = archive._pointer  # the library has no call for encryption
        for entry in archive:
            full = _path_of(entry)
            if archive.format_name == b"raw":
                full = _inner_name(name)
            if entry.isdir:
                self._name(opened, full)
                continue
            self._name(opened, full)
            marks: set[str] = set()
            if _is_encrypted(entry._entry_p) > 0:
                marks.add("encrypted")
            data = b""
            if not marks and entry.isfile:
                data, fault = self._octets(entry, allowance)
                allowance -= len(data)
                if fault:
                    marks.add("encrypted" if "passphrase" in fault or "encrypt" in fault else "unread")
            self._add(opened, part, full, data, marks, path, depth)
        if _has_encrypted(pointer) > 0:
            opened.marks.add("encrypted")

    def _octets(self, entry: Any, allowance: int) -> tuple[bytes, str]:
        """A member's octets, and why they are not all there."""
        pieces: list[bytes] = []
        size = 0
        try:
            for block in entry.get_blocks():
                size += len(block)
                if size > allowance:
                    self._note("ratio")
                    raise _BeyondError
                if not self._spend(len(block)):
                    raise _BeyondError
                pieces.append(bytes(block))
        except ArchiveError as error:
            return b"".join(pieces), str(error).lower()
        return b"".join(pieces), ""

    def _add(self, opened: _Opened, part: int, full: str, data: bytes, marks: set[str], path: str, depth: int) -> None:
        where = f"{path}/{full}" if path else full
        types = [self._type_of(data)] if data else []
        if full.lower() in OOXML_CONTENTS:
            opened.contents[full.lower()] = data
        index = len(self.members)
        self.members.append(Member(part, where[-_LONGEST_PATH:], clean_name(full), depth))
        try:
            if data:
                marks |= self._look(part, data, types, full, where[-_LONGEST_PATH:], depth + 1)
        except _BeyondError:
            marks |= {"archive", "unread"}
            raise
        finally:
            self.members[index] = Member(
                part,
                where[-_LONGEST_PATH:],
                clean_name(full),
                depth,
                tuple(types),
                len(data),
                tuple(sorted(marks)),
            )
        opened.marks |= marks & {"encrypted"}

    def _hidden(self, data: bytes, opened: _Opened, part: int, path: str, depth: int) -> None:
        """Names that are in one of the two tables of a ZIP only: programs differ in which one they believe."""
        if b"PK\x03\x04" not in data[:4] and b"PK\x05\x06" not in data:
            return
        known = {name.rstrip("/") for name in opened.names}
        for full, is_encrypted in _zip_names(data, self._limits.parts):
            if full.rstrip("/") in known or full.endswith("/"):
                continue
            known.add(full)
            self._name(opened, full)
            marks = {"hidden", "encrypted"} if is_encrypted else {"hidden"}
            self._add(opened, part, full, b"", marks, path, depth)

    def _name(self, opened: _Opened, full: str) -> None:
        self._count += 1
        if self._count > self._limits.parts:
            self._note("parts")
            raise _BeyondError
        opened.names.append(full)


@contextmanager
def _archive(data: bytes, is_single: bool) -> Iterator[ArchiveRead]:
    pointer = ffi.read_new()
    try:
        for name in (*_FILTERS, "none"):
            ffi.get_read_filter_function(name)(pointer)
        for name in _FORMATS:
            ffi.get_read_format_function(name)(pointer)
        if is_single:
            ffi.get_read_format_function("raw")(pointer)
        ffi.read_open_memory(pointer, ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p), len(data))
        yield ArchiveRead(pointer)
    finally:
        ffi.read_free(pointer)


def _path_of(entry: Any) -> str:
    try:
        path = entry.pathname
    except (UnicodeError, ValueError):
        path = ""
    text = decode_octets(path, "") if isinstance(path, bytes) else str(path or "")
    return text.replace("\\", "/")[-_LONGEST_PATH:]


def _inner_name(name: str) -> str:
    """What a compressed file is called when it is unpacked."""
    stem, dot, extension = name.rpartition(".")
    if extension.lower() == "tgz":
        return f"{stem}.tar"
    return stem if dot else f"{name or 'data'}.unpacked"


def _zip_names(data: bytes, most: int) -> Iterator[tuple[str, bool]]:
    """The names before the files, and those in the table behind them, and whether the file is encrypted."""
    at = 0
    for _ in range(most):
        if data[at : at + 4] != b"PK\x03\x04" or at + 30 > len(data):
            break
        flags, packed, length, extra = _LOCAL.unpack_from(data, at)
        yield from _zip_name(data[at + 30 : at + 30 + length], flags)
        at += 30 + length + extra + packed
        if flags & 8 and not packed:  # its size stands behind it
            at = data.find(b"PK\x03\x04", at)
            if at < 0:
                break
    end = data.rfind(b"PK\x05\x06")
    is_whole = 0 <= end <= len(data) - 20
    at = int.from_bytes(data[end + 16 : end + 20], "little") if is_whole else data.find(b"PK\x01\x02")
    for _ in range(most):
        if data[at : at + 4] != b"PK\x01\x02" or at + 46 > len(data):
            break
        flags, length, extra, comment = _CENTRAL.unpack_from(data, at)
        yield from _zip_name(data[at + 46 : at + 46 + length], flags)
        at += 46 + length + extra + comment


def _zip_name(name: bytes, flags: int) -> Iterator[tuple[str, bool]]:
    if 0 < len(name) <= _LONGEST_PATH:
        text = decode_octets(name, "utf-8" if flags & 0x800 else "cp437")
        yield text.replace("\\", "/"), bool(flags & 1)
