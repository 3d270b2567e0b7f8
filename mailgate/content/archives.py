"""What is in archives, and in archives inside them, by libarchive; and in documents and messages that hold files; for
worker processes only.

Only formats are opened that lie in the octets themselves: of the others that libarchive knows, mtree reads files of the
disk by name, and some filters run programs.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from libarchive import ffi  # type: ignore[import-untyped]  # it has no types
from libarchive.exception import ArchiveError  # type: ignore[import-untyped]  # it has no types
from libarchive.read import ArchiveRead  # type: ignore[import-untyped]  # it has no types

from mailgate.content.compound import ACTIVE_MIME, active_mime, compound_files, is_outlook, rtf_files
from mailgate.content.fields import clean_name, decode_octets
from mailgate.content.kinds import ARCHIVES, COMPRESSED, is_document
from mailgate.content.models import Limits, Member
from mailgate.content.office import OLE_MAGIC, OOXML_CONTENTS, ole_marks, package_marks, rtf_marks
from mailgate.content.pdf import Pdf
from mailgate.content.tnef import SIGNATURE as TNEF
from mailgate.content.tnef import tnef_files
from mailgate.content.zips import is_zip, plain_zip, zip_names

__all__ = ["Unpacker"]

_FORMATS = ("zip", "7zip", "rar", "rar5", "tar", "cpio", "ar", "cab", "lha", "iso9660", "xar")
_OTHERS = _FORMATS[1:]
_FILTERS = ("gzip", "bzip2", "xz", "lzma", "lzip", "compress", "zstd", "lz4")
#: How folders of Outlook (.pst, .ost) begin (MS-PST 2.2.2.6).
_OUTLOOK_FOLDER = b"!BDN"
#: What an archive may unpack to whatever its size: small files are packed well.
_FREE = 1024 * 1024
#: Characters of a path that are kept.
_LONGEST_PATH = 500
#: How archives begin that programs find behind other octets too, and how many of those places are tried.
_BEGINNINGS = (
    ("zip", b"PK\x03\x04", ("zip",)),
    ("rar", b"Rar!\x1a\x07", ("rar", "rar5")),
    ("7z", b"7z\xbc\xaf\x27\x1c", ("7zip",)),
)
_MOST_PLACES = 3

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
    given the name of each member and what it holds."""

    def __init__(
        self,
        limits: Limits,
        type_of: Callable[[bytes], str],
        note: Callable[[str], None],
        spend: Callable[[int], bool],
        found: Callable[[str, bytes], None],
    ) -> None:
        self.members: list[Member] = []
        self._limits = limits
        self._type_of = type_of
        self._note = note
        self._spend = spend
        self._found = found
        self._count = 0

    def marks(self, part: int, data: bytes, types: list[str], name: str) -> list[str]:
        """What is to be known of a part by its octets; the files in it become `members`."""
        try:
            return sorted(self._look(part, data, types, name, "", 1))
        except _BeyondError:
            return ["archive", "unread"]

    def _look(self, part: int, data: bytes, types: list[str], name: str, path: str, depth: int) -> set[str]:
        marks: set[str] = set()
        if b"%PDF-" in data[:1024]:  # whatever else it is: others begin as they like and have this behind it
            document = Pdf(data, self._limits.octets)
            marks |= self._inside(part, document.files(), path, depth) | document.marks
        if data[:8] == OLE_MAGIC:
            marks |= self._compound(part, data, name, path, depth)
        elif data[:4].lower() == b"{\\rt":  # Word asks for no more
            marks |= set(rtf_marks(data)) | self._inside(part, rtf_files(data), path, depth)
        elif data[:4] == TNEF:
            found = self._inside(part, tnef_files(data), path, depth)
            marks |= {"broken" if one == "opaque" else one for one in found} | {"archive", "tnef"}
        elif data[:10] == ACTIVE_MIME:
            marks |= self._inside(part, active_mime(data, self._limits.octets), path, depth)
        elif data[:4] == _OUTLOOK_FOLDER:
            marks.add("opaque")
        # One file may be archives of several kinds, and which one it is depends on the program that opens it.
        is_archive = any(one in ARCHIVES for one in types)
        is_sure = is_archive and is_zip(data)
        if is_zip(data) or b"PK\x05\x06" in data:
            marks |= self._open(part, plain_zip(data), types, name, path, depth, ("zip",), is_sure=is_sure)
        if is_archive and not is_sure:
            marks |= self._open(part, data, types, name, path, depth, _OTHERS, is_sure=True)
        for kind, beginning, formats in _BEGINNINGS:
            is_called = kind != "zip" and name.lower().endswith(f".{kind}")
            if "archive" not in marks or is_called:
                marks |= self._behind(part, data, name, path, depth, beginning, formats)
        return marks

    def _behind(
        self, part: int, data: bytes, name: str, path: str, depth: int, beginning: bytes, formats: tuple[str, ...]
    ) -> set[str]:
        """An archive that begins somewhere in the octets."""
        at = 0
        for _ in range(_MOST_PLACES):
            at = data.find(beginning, at + 1)
            if at < 0:
                break
            marks = self._open(part, plain_zip(data[at:]), [], name, path, depth, formats, is_sure=False)
            if marks:
                return marks
        return set()

    def _compound(self, part: int, data: bytes, name: str, path: str, depth: int) -> set[str]:
        marks = set(ole_marks(data)) | self._inside(part, compound_files(data, self._limits.octets), path, depth)
        if is_outlook(data) or name.lower().endswith((".msg", ".oft")):
            return {"broken" if one == "opaque" else one for one in marks} | {"archive"}
        return {"opaque" if one == "broken" else one for one in marks}

    def _inside(self, part: int, files: Iterator[tuple[list[str], bytes]], path: str, depth: int) -> set[str]:
        """The files in a document or a message of Outlook: "opaque" where some of them cannot be had."""
        opened = _Opened()
        try:
            for names, content in files:
                if depth > self._limits.depth:
                    self._note("depth")
                    return {"archive", "unread"}
                if not self._spend(len(content)):
                    raise _BeyondError
                self._name(opened, names[0] if names else "message")
                self._add(opened, part, names[0] if names else "message", content, set(), path, depth)
                for other in dict.fromkeys(names[1:]):
                    self._name(opened, other)
                    self._add(opened, part, other, b"", {"hidden"}, path, depth)
        except ValueError:
            opened.marks |= {"opaque"}
        return opened.marks

    def _open(
        self,
        part: int,
        data: bytes,
        types: list[str],
        name: str,
        path: str,
        depth: int,
        formats: tuple[str, ...],
        *,
        is_sure: bool,
    ) -> set[str]:
        if depth > self._limits.depth:
            self._note("depth")
            return {"archive", "unread"}
        opened = _Opened()
        allowance = max(_FREE, self._limits.ratio * len(data))
        is_single = is_sure and any(one in COMPRESSED for one in types)
        try:
            with _archive(data, (*formats, "raw") if is_single else formats) as archive:
                self._read(archive, opened, part, name, path, depth, allowance)
        except ArchiveError as error:
            text = str(error).lower()
            if "encrypt" in text or "passphrase" in text:
                opened.marks.add("encrypted")
            elif is_sure:
                opened.marks.add("broken")
        if "zip" in formats:
            self._hidden(data, opened, part, path, depth)
        elif (full := _gzip_name(data)) and full not in opened.names:
            self._name(opened, full)
            self._add(opened, part, full, b"", {"hidden"}, path, depth)
        if not is_sure and not opened.names and "encrypted" not in opened.marks:
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
                    marks.add("encrypted" if "passphrase" in fault or "encrypt" in fault else "damaged")
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
                self._found(full, data)
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
        if not is_document(types):  # a document has a finding of its own, and what lies beside it was looked into
            opened.marks |= marks & {"encrypted"}

    def _hidden(self, data: bytes, opened: _Opened, part: int, path: str, depth: int) -> None:
        """Names that are in one of the two tables of a ZIP only: programs differ in which one they believe."""
        if not is_zip(data) and b"PK\x05\x06" not in data:
            return
        known = {name.rstrip("/") for name in opened.names}
        for full, is_encrypted in zip_names(data, self._limits.parts):
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
def _archive(data: bytes, formats: tuple[str, ...]) -> Iterator[ArchiveRead]:
    pointer = ffi.read_new()
    try:
        for name in (*_FILTERS, "none"):
            ffi.get_read_filter_function(name)(pointer)
        for name in formats:
            ffi.get_read_format_function(name)(pointer)
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


def _gzip_name(data: bytes) -> str:
    """The name that stands in a file of gzip (RFC 1952 section 2.3), "" where none does: some programs use it."""
    if data[:3] != b"\x1f\x8b\x08" or len(data) < 12 or not data[3] & 8:
        return ""
    at = 12 + int.from_bytes(data[10:12], "little") if data[3] & 4 else 10
    octets = data[at : at + 4 * _LONGEST_PATH].partition(b"\0")[0]
    return decode_octets(octets, "").replace("\\", "/")[-_LONGEST_PATH:]
