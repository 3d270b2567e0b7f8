"""Files that stand in a text in a form of their own, as mail had them before MIME: uuencode, BinHex 4.0, yEnc."""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator
from itertools import chain, islice, pairwise
from typing import NamedTuple

from mailgate.content.decode import lenient_base64

__all__ = ["FileInText", "files_in"]

#: Files of one kind in one text.
_MOST = 1000

_UU_BEGIN = re.compile(rb"(?:\A|(?<=\n))begin(-base64)? [0-7]{3,4}[ \t]++([^\r\n]{1,500})\r?\n")

_HQX_BEGIN = re.compile(rb"(?i)(?:\A\s*+|converted with BinHex[^\r\n]{0,80}[\r\n]\s*+):")
_HQX = b"!\"#$%&'()*+,-012345689@ABCDEFGHIJKLMNPQRSTUVXYZ[`abcdefhijklmpqr"
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_FROM_HQX = bytes.maketrans(_HQX, _BASE64)
_NOT_HQX = bytes(set(range(256)) - set(_HQX))
#: A repeated octet, or with a count of 0 the octet that marks repetition.
_HQX_RUN = re.compile(rb"(?s)(.?)\x90(.)")
#: Octets of the alphabet that are the least of a file: its header and the checksum of that; and the longest header.
_HQX_LEAST, _HQX_HEAD = 32, 512

_Y_BEGIN = re.compile(rb"(?:\A|(?<=\n))=ybegin [^\r\n]{0,300}?name=([^\r\n]{1,500})\r?\n(?:=ypart[^\r\n]{0,300}\r?\n)?")
_Y_END = b"\n=yend "
_Y_LESS_42 = bytes((one - 42) & 255 for one in range(256))
_Y_ESCAPED = re.compile(rb"(?s)=(.)")


class FileInText(NamedTuple):
    """A file, with its name as it stands; `form` is "uuencoded", "binhex" or "yenc"."""

    name: bytes
    data: bytes
    form: str


def files_in(text: bytes, most: int) -> Iterator[FileInText]:
    """The files; of those that unpack to more than `most` octets, not many more."""
    yield from _uuencoded(text)
    if b":" in text and (b"inHex" in text or text.lstrip()[:1] == b":"):
        yield from islice(_binhex(text, most), _MOST)
    if b"=ybegin " in text:
        yield from islice(_yenc(text), _MOST)


def _uuencoded(text: bytes) -> Iterator[FileInText]:
    """By POSIX. A file without an end ends where the next begins."""
    for match, following in pairwise(chain(_UU_BEGIN.finditer(text), (None,))):
        if match is None:
            break
        end = following.start() if following else len(text)
        block = text[match.end() : end]
        data = lenient_base64(block.partition(b"\n====")[0]) if match[1] else _uu(block)
        if data:
            yield FileInText(match[2].strip(), data, "uuencoded")


def _uu(block: bytes) -> bytes:
    data = bytearray()
    for line in block.split(b"\n"):
        line = line.rstrip(b"\r")
        if line in (b"end", b"`", b""):
            if line == b"end":
                break
            continue
        try:
            data += binascii.a2b_uu(line)
        except binascii.Error:
            # Some encoders write more than the line's length says.
            count = (((line[0] - 32) & 63) * 4 + 5) // 3
            try:
                data += binascii.a2b_uu(line[: 1 + count])
            except binascii.Error:
                break
    return bytes(data)


def _binhex(text: bytes, most: int) -> Iterator[FileInText]:
    """By RFC 1741: the data fork, and the resource fork where there is one."""
    at = 0
    while (begins := _HQX_BEGIN.search(text, at)) is not None:
        end = text.find(b":", begins.end())
        end = len(text) if end < 0 else end
        at = end + 1
        packed = text[begins.end() : end].translate(_FROM_HQX, _NOT_HQX)
        if len(packed) < _HQX_LEAST:
            at = begins.end()
            continue
        octets = _unrepeated(binascii.a2b_base64(packed + b"A" * (-len(packed) % 4)), most + _HQX_HEAD)
        # A length and a name, a zero, type, creator, flags; then the lengths of both forks, and a checksum.
        length = octets[0] if octets else 0
        start = length + 22
        if not length or octets[length + 1 : length + 2] != b"\0" or len(octets) < start:
            continue
        name = octets[1 : length + 1]
        size, other = (int.from_bytes(octets[start - n : start - n + 4], "big") for n in (10, 6))
        for fork in (octets[start : start + size], octets[start + size + 2 : start + size + 2 + other]):
            if fork:
                yield FileInText(name, fork, "binhex")


def _unrepeated(octets: bytes, most: int) -> bytes:
    pieces: list[bytes] = []
    size = at = 0
    last = b""
    for match in _HQX_RUN.finditer(octets):
        piece = octets[at : match.start()] + match[1]
        at = match.end()
        last = piece[-1:] or last
        piece += b"\x90" if not match[2][0] else last * (match[2][0] - 1)
        last = piece[-1:] or last
        pieces.append(piece)
        size += len(piece)
        if size > most:
            return b"".join(pieces)[: most + 1]
    return b"".join([*pieces, octets[at:]])


def _yenc(text: bytes) -> Iterator[FileInText]:
    """A file without an end ends where the next begins; what is in other messages of several is not there."""
    for match, following in pairwise(chain(_Y_BEGIN.finditer(text), (None,))):
        if match is None:
            break
        stop = following.start() if following else len(text)
        end = text.find(_Y_END, match.end() - 1, stop)
        block = text[match.end() : stop if end < 0 else end].translate(None, b"\r\n")
        block = _Y_ESCAPED.sub(lambda one: bytes([(one[1][0] - 64) & 255]), block)
        yield FileInText(match[1].strip(b' \t"'), block.translate(_Y_LESS_42), "yenc")
