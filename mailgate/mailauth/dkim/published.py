"""Whether DNS has the public part of a key that signs (RFC 6376 section 3.6.2)."""

from __future__ import annotations

from mailgate.interfaces import Answer, DnsStatus
from mailgate.mailauth.dkim.keys import KeyUnusableError, SigningKey, parse_key

__all__ = ["compare"]

#: What the one key signs, and the other one proves.
_PROBE = b"mailgate dkim-key"


def compare(answer: Answer, key: SigningKey) -> str:
    """Why this answer of DNS does not publish the key; "" where it does."""
    if answer.is_temporary:
        return "DNS cannot tell now, try again later"
    if answer.status is not DnsStatus.FOUND or not answer.records:
        return "there is no such record"
    if len(answer.records) > 1:
        return f"there are {len(answer.records)} TXT records; a verifier takes none of them"
    record = answer.records[0]
    octets = record if isinstance(record, bytes) else str(record).encode()
    try:
        found = parse_key(octets)
    except KeyUnusableError as error:
        return str(error)
    if not found.verify(_PROBE, key.sign(_PROBE)):
        return "another key is published there"
    if found.is_testing:
        return "the key is published with t=y: verifiers treat what it signs as if it were not signed"
    if found.services and not found.services & {b"*", b"email"}:
        return "the key is not for mail (s=)"
    return found.mismatch(key.algorithm)
