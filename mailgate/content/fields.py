"""The header of a part, as lenient as the most lenient program that shows mail: every reading of it is given."""

from __future__ import annotations

import binascii
import mmap
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import takewhile
from urllib.parse import unquote, unquote_to_bytes

__all__ = ["MAX_HEADER", "PartHeader", "clean_name", "decode_octets", "decode_words", "read_header", "visible"]

#: Octets of one header section that are read, fields of one kind, parameters of one field, and characters of a name.
MAX_HEADER = 256 * 1024
_MOST_FIELDS, _MOST_PARAMETERS, _MOST_NAME = 8, 64, 255
#: Encoded words of one text: as many as a long name can have.
_MOST_WORDS = 1000

_FIELD = re.compile(rb"([!-9;-~]++)[ \t]*+:(.*)", re.DOTALL)
#: Some programs do with white space where a semicolon is missing.
_PARAMETER = re.compile(
    rb'(?:;\s*+|\A|(?<=\s)(?=\S))([^\s=;"]++)\s*+=\s*+(?:"((?:[^"\\]++|\\.)*+)"?|([^;]*+))', re.DOTALL
)
_NO_TOKEN = bytes(one for one in range(256) if not 0x20 < one < 0x7F)
_QUOTED_PAIR = re.compile(rb"\\(.)", re.DOTALL)
_COMMENT = re.compile(rb"\([^()]*+\)")
_SECTION = re.compile(r"([^*]++)\*(?:(\d{1,3})(\*)?)?")
_WORD = re.compile(r"=\?([!-<>@-~]{1,40})\?([bBqQ])\?([^?]*+)\?=")
_BETWEEN = re.compile(r"(?<=\?=)\s++(?==\?)")
#: What no name of a file shows: control characters, marks of direction, what has no width.
_INVISIBLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")
_CHARSETS = re.compile(
    r"(?:utf[-_]?(?:7|8|16|32)(?:[-_]?[bl]e)?|us-?ascii|ascii|latin[-_]?\d{1,2}|iso[-_]?8859[-_]\d{1,2}(?:-[ei])?"
    r"|(?:cp|windows-?|ibm)\d{3,4}|koi8[-_][rut]|gbk?|gb2312|gb18030|big5(?:-?hkscs)?|hz(?:-gb-2312)?|shift[-_]?jis|sjis"
    r"|euc[-_]?(?:jp|kr)|iso[-_]?2022[-_](?:jp|kr)(?:-\w{1,4})?|ks_c_5601-1987|mac[-_]?\w{1,12}|tis-?620)",
    re.ASCII,
)


@dataclass(slots=True)
class PartHeader:
    """`end` is where the body begins, `is_cut` whether a delimiter came first. `labels` are the words of
    Content-Transfer-Encoding. Fields that are there several times count each time."""

    end: int
    is_cut: bool = False
    types: list[str] = field(default_factory=list)
    boundaries: list[bytes] = field(default_factory=list)
    charsets: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    is_crowded: bool = False

    @property
    def type(self) -> str:
        return self.types[0] if self.types else ""


def read_header(octets: bytes | mmap.mmap, start: int, is_delimiter: Callable[[bytes], bool]) -> PartHeader:
    """The header section that begins at `start`; `is_delimiter` tells whether a line ends the part instead."""
    window = octets[start : start + MAX_HEADER]
    fields: list[bytes] = []
    header = PartHeader(start + len(window))
    first_bad, late = -1, False
    at = 0
    while at < len(window):
        end = window.find(b"\n", at)
        following = len(window) if end < 0 else end + 1
        line = window[at:following].rstrip(b"\r\n")
        if not line:
            header.end = start + following
            break
        if line.startswith(b"--") and is_delimiter(line[2:]):
            header.end, header.is_cut = start + at, True
            break
        if line[:1] in (b" ", b"\t") and fields:
            fields.append(line)
        elif b":" in line[:200] and _FIELD.match(line):
            fields.append(line)
            late = late or (first_bad >= 0 and line[:8].lower() == b"content-")
        elif at or not line.startswith((b"From ", b">From ")):
            first_bad = at if first_bad < 0 else first_bad
            if not fields:
                break
        at = following
    if first_bad >= 0 and not late:  # what is no field begins the body, for programs that stop there
        header.end = start + first_bad
        header.is_cut = False
    header.is_crowded = len(window) == MAX_HEADER and header.end == start + len(window)
    for name, values in _unfolded(fields).items():
        header.is_crowded = header.is_crowded or len(values) > _MOST_FIELDS
        for value in values[:_MOST_FIELDS]:
            _take(header, name, b"".join(value).strip())
    return header


def _unfolded(lines: list[bytes]) -> dict[str, list[list[bytes]]]:
    kept: dict[str, list[list[bytes]]] = {}
    current: list[bytes] | None = None
    for line in lines:
        if line[:1] in (b" ", b"\t"):
            if current is not None:
                current.append(line)
            continue
        match = _FIELD.match(line)
        name = match[1].lower().decode("ascii") if match else ""
        current = None
        if match and name in ("content-type", "content-disposition", "content-transfer-encoding"):
            current = [match[2]]
            kept.setdefault(name, []).append(current)
    return kept


def _take(header: PartHeader, name: str, value: bytes) -> None:
    if name == "content-transfer-encoding":
        word = _COMMENT.sub(b"", value).strip().strip(b'"').partition(b";")[0].strip()
        header.labels.append(word.lower().decode("latin-1")[:40])
        return
    parameters, is_crowded = _parameters(value)
    header.is_crowded = header.is_crowded or is_crowded
    if name == "content-type":
        word = _COMMENT.sub(b"", value.partition(b";")[0]).strip().strip(b'"').lower()
        header.types.append(b"".join(word.split())[:100].decode("latin-1"))
        header.boundaries += [text.rstrip(b" \t") for key, text in parameters if key in ("boundary", "boundary*")]
        header.boundaries += [text.rstrip(b" \t") for text in _extended_texts(parameters, "boundary")]
        header.charsets += [text.decode("latin-1") for key, text in parameters if key == "charset"]
    wanted = "name" if name == "content-type" else "filename"
    for one in _names(parameters, wanted):
        if one not in header.names:
            header.names.append(one)


def _parameters(value: bytes) -> tuple[list[tuple[str, bytes]], bool]:
    """The parameters in all readings, and whether there are more: with comments and without, and, where quotation marks
    do not go together, as programs have them that know of none."""
    readings = [_read(value)]
    if b"(" in value:
        readings.append(_read(_COMMENT.sub(b"", value)))
    if value.count(b'"') % 2 or b'\\"' in value:
        readings.append(_read(value.replace(b'"', b"")))
    found = [one for parameters, _ in readings for one in parameters]
    return list(dict.fromkeys(found)), any(is_crowded for _, is_crowded in readings)


def _read(value: bytes) -> tuple[list[tuple[str, bytes]], bool]:
    found: list[tuple[str, bytes]] = []
    for match in _PARAMETER.finditer(value):
        if len(found) == _MOST_PARAMETERS:
            return found, True
        text = match[3].strip() if match[2] is None else _QUOTED_PAIR.sub(rb"\1", match[2])
        found.append((match[1].translate(None, _NO_TOKEN).lower().decode("ascii"), text))
    return found, False


def _names(parameters: list[tuple[str, bytes]], wanted: str) -> Iterator[str]:
    """What programs may take for the name: the plain parameter, the extended one, and one in sections (RFC 2231)."""
    for key, text in parameters:
        if key == wanted:
            yield from _readings(text)
    for text in _extended_texts(parameters, wanted):
        yield from _readings(text)


def _readings(text: bytes) -> Iterator[str]:
    """A name with its encoded words or its percent signs decoded, and as it stands; whole, and up to a NUL, where some
    programs end it."""
    plain = _text(text)
    for one in dict.fromkeys((decode_words(plain), plain, unquote(plain, errors="replace"))):
        yield from filter(None, dict.fromkeys((clean_name(one), clean_name(one.partition("\0")[0]))))


def _extended_texts(parameters: list[tuple[str, bytes]], wanted: str) -> Iterator[bytes]:
    """The values of a parameter in the manner of RFC 2231, in UTF-8: extended ones, and what the sections make."""
    sections: list[tuple[int, bytes]] = []
    for key, text in parameters:
        match = _SECTION.fullmatch(key)
        if not match or match[1] != wanted:
            continue
        if match[2] is None or match[3]:
            is_first = match[2] in (None, "0")
            text = _extended(text) if is_first else unquote_to_bytes(text)
        if match[2] is None:
            yield text
        else:
            sections.append((int(match[2]), text))
    # Of a section that is there twice the first counts, or the last, and what is behind a gap, or not.
    for kept in (dict(reversed(sections)), dict(sections)):
        if kept:
            yield b"".join(text for _, text in sorted(kept.items()))
            yield b"".join(kept[number] for number in takewhile(kept.__contains__, range(len(kept))))


def _extended(text: bytes) -> bytes:
    """A value with charset and language before it, in UTF-8."""
    charset, mark, rest = text.partition(b"'")
    if not mark or b"'" not in rest:
        return unquote_to_bytes(text)
    octets = unquote_to_bytes(rest.partition(b"'")[2])
    return decode_octets(octets, charset.decode("latin-1")).encode("utf-8", "replace")


def _text(octets: bytes) -> str:
    return decode_octets(octets[-4 * _MOST_NAME * 4 :], "")  # what counts is its end


def decode_octets(octets: bytes, charset: str) -> str:
    """Text; UTF-8 and then Windows-1252 where the charset is not known, or not true. Codecs that are no charset, some
    of which take quadratic time, are never used."""
    names = [charset.strip().lower()] if _CHARSETS.fullmatch(charset.strip().lower()) else []
    for name in (*names, "utf-8"):
        try:
            text = octets.decode(name)
            text.encode()  # UTF-7 lets through halves of surrogate pairs, which no other program could read
        except (UnicodeError, LookupError):
            continue
        else:
            return text
    return octets.decode("cp1252", "replace")


def decode_words(text: str) -> str:
    """Text with its encoded words decoded (RFC 2047), wherever they stand; what is beyond the bound stays."""
    if "=?" not in text:
        return text
    return _WORD.sub(_decoded_word, _BETWEEN.sub("", text), count=_MOST_WORDS)


def _decoded_word(match: re.Match[str]) -> str:
    charset = match[1].partition("*")[0]
    data = match[3].encode("latin-1", "replace")
    if match[2] in "bB":
        try:
            octets = binascii.a2b_base64(data + b"==")
        except binascii.Error:
            return match[0]
    else:
        octets = binascii.a2b_qp(data, header=True)
    return decode_octets(octets, charset)


def visible(text: str) -> str:
    """A text without what is not seen: control characters, marks of direction, what has no width."""
    return _INVISIBLE.sub("", text)


def clean_name(name: str) -> str:
    """A name as a file system would have it: its last component, without what is not seen, and without the dots and
    spaces behind it, which Windows leaves out, like the name of its main stream. A dot before it stays: behind it may
    be an extension."""
    name = visible(name).replace("\\", "/").rstrip("/ .")
    if name.lower().endswith("::$data"):
        name = name[: -len("::$data")].rstrip("/ .")
    return name.rpartition("/")[2].rstrip(" .\"'").lstrip(" \"'")[-_MOST_NAME:]
