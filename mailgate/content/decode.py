"""Bodies of parts, decoded in every way in which a program might: what they say of themselves may be wrong."""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator, Sequence
from itertools import chain, pairwise
from typing import NamedTuple

__all__ = ["Uuencoded", "decoded", "uuencoded"]

_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_NOT_BASE64 = bytes(set(range(256)) - set(_BASE64) - {ord("=")})
_PADDING = re.compile(rb"=++")
#: Octets by whose look an encoding is guessed, and pieces with padding of one body that are decoded apart.
_SAMPLE, _MOST_PIECES = 4096, 1000
#: The least that a body in base64 is.
_LEAST = 24
_UU_BEGIN = re.compile(rb"(?:\A|(?<=\n))begin(-base64)? [0-7]{3,4}[ \t]++([^\r\n]{1,500})\r?\n")


class Uuencoded(NamedTuple):
    """A file in a text (POSIX uuencode), with its name as it stands."""

    name: bytes
    data: bytes


def decoded(body: bytes, labels: Sequence[str]) -> list[bytes]:
    """What the body may be: by each label, as it stands, and by its look. The first is what it most likely is; none
    stands there twice."""
    kinds = [_kind(label) for label in labels]
    ways: list[bytes] = []
    for kind in kinds:
        if kind == "base64":
            ways.append(_base64(body))
        elif kind == "quoted-printable":
            ways.append(binascii.a2b_qp(body))
        elif kind == "":
            ways.append(body)
    if not ways:
        ways.append(body)
    if "base64" not in kinds and _looks_like_base64(body):
        ways.append(_base64(body))
    if "base64" in kinds and not _looks_like_base64(body):
        ways.append(body)
    if "quoted-printable" in kinds:
        ways.append(body)
    return list(dict.fromkeys(ways))


def uuencoded(text: bytes) -> Iterator[Uuencoded]:
    """The files in a text. A file without an end ends where the next begins."""
    for match, following in pairwise(chain(_UU_BEGIN.finditer(text), (None,))):
        if match is None:
            break
        end = following.start() if following else len(text)
        block = text[match.end() : end]
        data = _base64(block.partition(b"\n====")[0]) if match[1] else _uu(block)
        if data:
            yield Uuencoded(match[2].strip(), data)


def _kind(label: str) -> str:
    if "64" in label:
        return "base64"
    if "quoted" in label or label == "qp":
        return "quoted-printable"
    return "uu" if label.startswith(("uu", "x-uu")) else ""


def _looks_like_base64(body: bytes) -> bool:
    sample = body[:_SAMPLE]
    rest = sample.translate(None, _BASE64 + b"=\r\n \t")
    return not rest and len(sample.translate(None, b"\r\n \t")) >= _LEAST and b" " not in sample.strip()


def _base64(body: bytes) -> bytes:
    """As decoders do that go on behind padding in the middle, and leave out what is not of the alphabet."""
    data = body.translate(None, _NOT_BASE64)
    pieces = _PADDING.split(data, maxsplit=_MOST_PIECES)
    if len(pieces) > _MOST_PIECES:
        pieces = [data.translate(None, b"=")]
    return b"".join(map(_piece, pieces))


def _piece(piece: bytes) -> bytes:
    whole = len(piece) % 4
    if whole == 1:
        piece = piece[:-1]
    return binascii.a2b_base64(piece + b"=" * (-len(piece) % 4)) if piece else b""


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
