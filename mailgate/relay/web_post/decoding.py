"""Octets piece by piece: out of the encodings of mail (RFC 2045 section 6), and into base64."""

from __future__ import annotations

import binascii
from collections.abc import Iterable, Iterator

from mailgate.mime.structure import Octets

__all__ = ["as_base64", "decoded"]

#: Octets that are looked at in one go.
_STEP = 64 * 1024
_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_NOT_BASE64 = bytes(set(range(256)) - set(_ALPHABET) - {ord("=")})


def decoded(octets: Octets, start: int, end: int, label: str) -> Iterator[bytes]:
    """The octets from `start` to `end`, decoded as their Content-Transfer-Encoding says."""
    steps = (octets[at : min(at + _STEP, end)] for at in range(start, end, _STEP))
    if label == "base64":
        return _from_base64(steps)
    return _from_quoted_printable(steps) if label == "quoted-printable" else steps


def as_base64(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same octets in base64, as one line."""
    held = b""
    for piece in pieces:
        data = held + piece
        whole = len(data) // 3 * 3
        held = data[whole:]
        yield binascii.b2a_base64(data[:whole], newline=False)
    yield binascii.b2a_base64(held, newline=False)


def _from_base64(steps: Iterable[bytes]) -> Iterator[bytes]:
    """What is not of the alphabet is left out; padding is the end (RFC 2045 section 6.8)."""
    held = b""
    for step in steps:
        data, padding, _ = (held + step.translate(None, _NOT_BASE64)).partition(b"=")
        whole = len(data) // 4 * 4
        held = data[whole:]
        yield binascii.a2b_base64(data[:whole])
        if padding:
            break
    if len(held) > 1:  # six bits alone are no octet
        yield binascii.a2b_base64(held + b"=" * (4 - len(held)))


def _from_quoted_printable(steps: Iterable[bytes]) -> Iterator[bytes]:
    """Line by line, or in pieces where a line is very long."""
    held = b""
    for step in steps:
        data = held + step
        cut = data.rfind(b"\n") + 1
        if not cut and len(data) > 2 * _STEP:
            mark = data.rfind(b"=", len(data) - 2)
            cut = len(data) if mark < 0 else mark
        held = data[cut:]
        yield binascii.a2b_qp(data[:cut])
    yield binascii.a2b_qp(held)
