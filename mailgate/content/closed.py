"""What no gateway can look into, by design: mail that is encrypted, and mail of which only a part is here."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["closed_by_octets", "closed_by_type"]

#: Only its recipients can read it (RFC 1847 section 2.2, RFC 3156 section 4).
_SEALED = ("multipart/encrypted", "application/pgp-encrypted")
#: What is in it comes in several messages, or lies elsewhere (RFC 2046 sections 5.2.2 and 5.2.3).
_OPAQUE = ("message/partial", "message/external-body")
_PGP = re.compile(rb"(?:\A|\n)-----BEGIN PGP MESSAGE-----[ \t]*+\r?\n")
#: Types of content of CMS, as they stand in DER: enveloped, encrypted, authEnveloped; and compressed (RFC 3274).
_CMS_SEALED = (
    bytes.fromhex("06092a864886f70d010703"),
    bytes.fromhex("06092a864886f70d010706"),
    bytes.fromhex("060b2a864886f70d0109100117"),
)
_CMS_COMPRESSED = bytes.fromhex("060b2a864886f70d0109100109")
#: Octets of CMS in which the type of its content is.
_CMS_START = 64


def closed_by_type(types: Iterable[str]) -> list[str]:
    """ "sealed" or "opaque" for what is declared to be such."""
    marks = ["sealed"] if any(one in _SEALED for one in types) else []
    return [*marks, "opaque"] if any(one in _OPAQUE for one in types) else marks


def closed_by_octets(ways: Iterable[bytes], *, is_cms: bool) -> list[str]:
    """The same by the octets of a body, in all the ways in which it is decoded."""
    marks = set()
    for way in ways:
        if _PGP.search(way):
            marks.add("sealed")
        if is_cms and any(one in way[:_CMS_START] for one in _CMS_SEALED):
            marks.add("sealed")
        if is_cms and _CMS_COMPRESSED in way[:_CMS_START]:
            marks.add("opaque")
    return sorted(marks)
