"""Files in compound files (MS-CFB): attachments of Outlook's messages (MS-OXMSG), and objects in documents; for worker
processes only."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterable, Iterator
from io import BytesIO
from typing import Any

from mailgate.content.fields import decode_octets

__all__ = ["ACTIVE_MIME", "active_mime", "compound_files", "is_outlook", "package_of", "rtf_files"]

#: Streams of one file that are looked at (a message of Outlook has some fifteen for each recipient), octets of one that
#: are read, and of a name's.
_MOST_STREAMS, _MOST_READ, _LONGEST_NAME = 8000, 256 * 1024 * 1024, 4096
_ATTACHMENT = "__attach_version1.0_"
_PROPERTIES = "__properties_version1.0"
#: PidTagAttachDataBinary; the tags that name a file, AttachLongFilename, AttachFilename, AttachLongPathname and
#: AttachPathname; and DisplayName, which counts for a file that has no other: of a message it is the subject.
_CONTENT = "__substg1.0_37010102"
_CALLED = tuple(f"__substg1.0_{tag}" for tag in ("3707", "3704", "370D", "3708"))
_DISPLAYED = ("__substg1.0_3001",)
#: Streams of objects in documents that are files as they stand: of packages (OOXML) and of other programs.
_WHOLE = ("package", "contents")
_OLE10 = "\x01ole10native"
_FILES = (*_WHOLE, _OLE10, "powerpoint document")
#: ExOleObjStg of PowerPoint (MS-PPT 2.10.34), compressed: its length, and the one that it has unpacked.
_SLIDE_OBJECT = re.compile(rb"(?s)\x10\x00\x11\x10(....)(....)(?=\x78)")
_MOST_OBJECTS = 200
_RTF_OBJECT = re.compile(rb"\\objdata")
_RTF_NOISE = re.compile(rb"\\\*?[A-Za-z]+-?\d* ?|[^0-9A-Fa-f{}]")
#: Of an ActiveMime, in which Word keeps the macros of a web page: how it begins, and where what is compressed may.
ACTIVE_MIME = b"ActiveMime"
_ACTIVE_AT = (0x32, 0x22A)
_OLE_MAGIC = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"


def is_outlook(data: bytes) -> bool:
    """Whether a compound file is likely a message of Outlook: a name that each has, as it stands in the directory."""
    return _PROPERTIES.encode("utf-16-le") in data


def compound_files(data: bytes, most: int) -> Iterator[tuple[list[str], bytes]]:
    """The files, each with all names that it has; of those that are compressed `most` octets, and one more where there
    are more. ValueError where it cannot be read, or there is more in it than is looked at; MemoryError."""
    import olefile  # type: ignore[import-untyped]  # it has no types; only worker processes need it

    try:
        with olefile.OleFileIO(BytesIO(data)) as ole:
            yield from _files(ole, most, olefile.STGTY_STREAM)
    except (MemoryError, ValueError):
        raise
    except Exception as error:  # a hostile file makes the reader raise anything
        raise ValueError(f"it cannot be read: {error}") from None


def _files(ole: Any, most: int, stream: int) -> Iterator[tuple[list[str], bytes]]:
    places = ole.listdir(streams=True, storages=True)
    there = {_key(one) for one in places}  # the library goes through the names at every question
    for place in places[:_MOST_STREAMS]:
        last = place[-1].lower()
        if last.startswith(_ATTACHMENT):
            content = [*place, _CONTENT]
            is_there = _key(content) in there
            names = list(_names_of(ole, there, place, _CALLED)) or (
                list(_names_of(ole, there, place, _DISPLAYED)) if is_there else []
            )
            if is_there or names:
                yield names, _octets(ole, content) if is_there else b""
        elif last not in _FILES or ole.get_type(place) != stream:
            continue
        elif last == _OLE10:
            yield package_of(_octets(ole, place))
        elif last in _WHOLE:
            yield [], _octets(ole, place)
        else:
            yield from _of_slides(_octets(ole, place), most)
    if len(places) > _MOST_STREAMS:
        raise ValueError("too many streams")


def _octets(ole: Any, place: list[str], most: int = _MOST_READ) -> bytes:
    return bytes(ole.openstream(place).read(most))


def _key(place: list[str]) -> tuple[str, ...]:
    return tuple(one.lower() for one in place)


def _names_of(ole: Any, there: set[tuple[str, ...]], place: list[str], tags: Iterable[str]) -> Iterator[str]:
    for tag in tags:
        for kind, charset in (("001F", "utf-16-le"), ("001E", "")):
            if _key([*place, tag + kind]) in there:
                octets = _octets(ole, [*place, tag + kind], _LONGEST_NAME)
                yield decode_octets(octets, charset).partition("\0")[0]


def package_of(native: bytes) -> tuple[list[str], bytes]:
    """The file in a stream of the object packager, and its names: label, path, and where it came from. What is in
    another form is given as it is, without a name."""
    whole: tuple[list[str], bytes] = ([], native[4:])
    if len(native) < 10 or native[4:6] != b"\x02\x00":
        return whole
    names: list[str] = []
    at = 6
    for number in range(3):
        at += 8 if number == 2 else 0  # two flags, and the length of the name that follows
        end = native.find(b"\0", at, at + _LONGEST_NAME)
        if end < 0:
            return whole
        names.append(decode_octets(native[at:end], ""))
        at = end + 1
    if at + 4 > len(native):
        return names, b""
    (size,) = struct.unpack_from("<I", native, at)
    return names, native[at + 4 : at + 4 + size]


def _of_slides(stream: bytes, most: int) -> Iterator[tuple[list[str], bytes]]:
    for number, match in enumerate(_SLIDE_OBJECT.finditer(stream)):
        if number == _MOST_OBJECTS:
            raise ValueError("too many objects")
        packed = stream[match.end() : match.end() + int.from_bytes(match[1], "little")]
        try:
            yield [], zlib.decompressobj().decompress(packed, most + 1)
        except zlib.error:
            continue


def active_mime(data: bytes, most: int) -> Iterator[tuple[list[str], bytes]]:
    """The compound file in an ActiveMime; ValueError where it cannot be had."""
    for at in _ACTIVE_AT:
        try:
            yield [], zlib.decompressobj().decompress(data[at:], most + 1)
        except zlib.error:
            continue
        return
    raise ValueError("it is in another form")


def rtf_files(data: bytes) -> Iterator[tuple[list[str], bytes]]:
    """Files in objects of a document in RTF (MS-OLEDS 2.2.5). ValueError where there are too many, or one does not
    stand there in hexadecimal digits in one piece."""
    for number, match in enumerate(_RTF_OBJECT.finditer(data)):
        if number == _MOST_OBJECTS:
            raise ValueError("too many objects")
        following = data.find(b"\\objdata", match.end())
        text = data[match.end() : following if following >= 0 else len(data)]
        if b"\\bin" in text:
            raise ValueError("an object in octets")
        digits = _RTF_NOISE.sub(b"", text).partition(b"}")[0]
        if b"{" in digits:
            raise ValueError("an object in pieces")
        octets = bytes.fromhex(digits[: len(digits) & ~1].decode("ascii"))
        at = octets.find(_OLE_MAGIC)
        if at >= 0:
            yield [], octets[at:]
        # Names of classes have no case. What has both is both: octets of the one may stand in the other.
        if (begins := octets.lower().find(b"package\0")) >= 0:
            # Behind the name of the class are those of topic and item, with their lengths, and the length of the rest.
            at = begins + 8
            for _ in range(2):
                at += 4 + int.from_bytes(octets[at : at + 4], "little")
            yield package_of(octets[at:])
