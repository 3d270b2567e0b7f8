"""The texts that SASL exchanges are made of: base64 lines (RFC 4954 section 4), names, passwords."""

from __future__ import annotations

import base64
import binascii
import re

from mailgate.reply import Reply
from mailgate.wire.saslprep import saslprep

__all__ = [
    "MAX_NAME",
    "MAX_RESPONSE",
    "SaslError",
    "decode_base64",
    "decode_response",
    "encode_response",
    "encode_text",
    "parse_name",
    "parse_text",
    "prepare",
]

#: The longest line of an exchange, in octets without CRLF (RFC 4954 section 4).
MAX_RESPONSE = 12288
#: The longest name of a user, in octets. An address has at most 320; mechanisms allow 255 characters.
MAX_NAME = 512

#: What may not stand in a name: it would end a line, or turn the writing round, in a header or a log.
_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


class SaslError(ValueError):
    """What the peer sent, or what was given to a mechanism, is none of what it may be. It never repeats a secret.

    `reply` is what a server answers where the peer's line is the cause.
    """

    def __init__(self, reason: str, reply: Reply | None = None) -> None:
        super().__init__(reason)
        self.reply = reply or Reply.of(501, "5.5.2", reason)


def decode_base64(text: bytes) -> bytes:
    """The octets that `text` encodes; SaslError where it is not their one canonical form (RFC 4648 section 3.5)."""
    try:
        decoded = binascii.a2b_base64(text)
    except binascii.Error:
        decoded = b""
    if base64.b64encode(decoded) != text:
        raise SaslError("That is not base64")
    return decoded


def decode_response(line: bytes) -> bytes:
    """The response in a line (its CRLF removed) or behind AUTH, where "=" is the empty one (RFC 4954 section 4).

    SaslError where it is too long or no base64. A line of "*" alone gives the exchange up; that is the caller's.
    """
    if len(line) > MAX_RESPONSE:
        reply = Reply.of(500, "5.5.6", "Authentication exchange line is too long")
        raise SaslError("a line of the exchange is too long", reply)
    return b"" if line == b"=" else decode_base64(line)


def encode_response(response: bytes, *, initial: bool = False) -> bytes:
    """The line, without CRLF, of a challenge or a response; the empty one is "=" where it stands behind AUTH."""
    return base64.b64encode(response) or (b"=" if initial else b"")


def parse_text(octets: bytes) -> str:
    """UTF-8 that is not empty and has no NUL in it; SaslError where it is none."""
    try:
        text = octets.decode("utf-8")
    except UnicodeDecodeError:
        raise SaslError("That is not UTF-8") from None
    if not text or "\0" in text:
        raise SaslError("A name or a password is empty or has a NUL in it")
    return text


def parse_name(octets: bytes) -> str:
    """The name of a user: as `parse_text`, at most MAX_NAME octets, without what would break a header or a log."""
    if len(octets) > MAX_NAME:
        raise SaslError("That name is too long")
    name = parse_text(octets)
    if _UNFIT.search(name):
        raise SaslError("Control characters are not allowed in names")
    return name


def encode_text(text: str) -> bytes:
    """The octets of a name, a password or a token that is not empty and has no NUL in it; else SaslError."""
    try:
        octets = text.encode("utf-8")
    except UnicodeEncodeError:
        raise SaslError("a name or a password that is not Unicode") from None
    if not octets or b"\0" in octets:
        raise SaslError("a name or a password is empty or has a NUL in it")
    return octets


def prepare(text: str, *, stored: bool) -> str:
    """`text` after SASLprep; SaslError where it holds what is prohibited or nothing is left. See `saslprep`."""
    try:
        prepared = saslprep(text, stored=stored)
    except ValueError as error:
        raise SaslError(f"A name or a password that SASLprep refuses: {error}") from None
    if not prepared:
        raise SaslError("A name or a password of which SASLprep leaves nothing")
    return prepared
