"""Bodies of parts, decoded in every way in which a program might: what they say of themselves may be wrong."""

from __future__ import annotations

import binascii
import re
from collections.abc import Sequence

__all__ = ["decoded", "lenient_base64"]

_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_NOT_BASE64 = bytes(set(range(256)) - set(_BASE64) - {ord("=")})
_PADDING = re.compile(rb"=++")
#: Octets by whose look an encoding is guessed, and pieces with padding of one body that are decoded apart.
_SAMPLE, _MOST_PIECES = 4096, 1000
#: The least that a body in base64 is.
_LEAST = 24


def decoded(body: bytes, labels: Sequence[str]) -> list[bytes]:
    """What the body may be: by each label, as it stands, and by its look. The first is what it most likely is; none
    stands there twice."""
    kinds = [_kind(label) for label in labels]
    ways: list[bytes] = []
    for kind in kinds:
        if kind == "base64":
            ways.append(lenient_base64(body))
        elif kind == "quoted-printable":
            ways.append(binascii.a2b_qp(body))
        elif kind == "":
            ways.append(body)
    if not ways:
        ways.append(body)
    if "base64" not in kinds and _looks_like_base64(body):
        ways.append(lenient_base64(body))
    if "base64" in kinds and not _looks_like_base64(body):
        ways.append(body)
    if "quoted-printable" in kinds:
        ways.append(body)
    return list(dict.fromkeys(ways))


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


def lenient_base64(body: bytes) -> bytes:
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
