"""Bounce Address Tag Validation: a reverse-path that proves itself when a report comes back to it.

The form is that of the draft that other implementations share (draft-levine-smtp-batv): `prvs=KDDDSSSSSS=LOCAL@DOMAIN`,
where K tells the key, DDD the day (modulo 1000) up to which the tag is good, and SSSSSS is a hash. It proves that we
have sent something, not what.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Sequence

from mailgate.address import MAX_LOCAL_PART, Address, AddressError

__all__ = ["Batv", "BatvError"]

_TAGGED = re.compile(r"prvs=([0-9])([0-9]{3})([0-9a-f]{6})=(.+)", re.IGNORECASE | re.DOTALL | re.ASCII)
_DAY = 86400.0
_DAYS = 1000


class BatvError(ValueError):
    """The address has a tag, and none of ours that is good. The text is for the log."""


class Batv:
    """Tags senders. `secrets` gives the secrets, one at least: the first makes tags, all prove them. A tag is good for
    `max_age` seconds, counted in days; `seconds` is the time since the epoch."""

    def __init__(self, secrets: Callable[[], Sequence[bytes]], max_age: float, seconds: Callable[[], float]) -> None:
        self._secrets = secrets
        self._max_days = max(1, round(max_age / _DAY))
        if self._max_days >= _DAYS // 2:
            raise ValueError(f"an age of {self._max_days} days: a tag cannot tell more than {_DAYS // 2 - 1}")
        self._seconds = seconds

    def tag(self, sender: Address) -> Address | None:
        """The reverse-path of mail from `sender`; None where none fits: for the null path, and where the local part
        is empty or would be longer than an address may have (RFC 5321 section 4.5.3.1.1)."""
        if not sender.local_part:
            return None
        secret = self._secrets()[0]
        place = f"{_key(secret)}{(self._today() + self._max_days) % _DAYS:03}"
        local_part = f"prvs={place}{_hash(secret, place, sender)}={sender.local_part}"
        return Address(local_part, sender.domain) if len(local_part.encode()) <= MAX_LOCAL_PART else None

    @staticmethod
    def is_tagged(address: Address) -> bool:
        """Whether an address has the form of a tagged one, whoever has made it."""
        return _TAGGED.fullmatch(address.local_part) is not None

    def original(self, address: Address) -> Address:
        """Whom mail to a tagged address is for; BatvError where we have not made the tag, or it is too old."""
        found = _TAGGED.fullmatch(address.local_part)
        if found is None:
            raise BatvError(f"{address} has no tag")
        key, day, claimed, local_part = found.groups()
        try:
            sender = Address.parse(str(Address(local_part, address.domain)))
        except AddressError as error:
            raise BatvError(f"{address} holds no address: {error}") from error
        # Hosts on the way may have changed the case of the local part, and that of the hash with it.
        hashes = [_hash(secret, key + day, sender) for secret in self._secrets() if _key(secret) == key]
        if not any(hmac.compare_digest(one, claimed.lower()) for one in hashes):
            raise BatvError(f"the tag of {address} is not ours")
        if (int(day) - self._today()) % _DAYS > self._max_days:
            raise BatvError(f"the tag of {address} is older than {self._max_days} days")
        return sender

    def _today(self) -> int:
        return int(self._seconds() / _DAY)


def _key(secret: bytes) -> str:
    """K: it goes with the secret, whatever its place in the file."""
    return str(hashlib.sha256(b"batv key" + secret).digest()[0] % 10)


def _hash(secret: bytes, place: str, sender: Address) -> str:
    text = f"batv\0{place}{sender.local_part.lower()}@{sender.domain}"
    return hmac.new(secret, text.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:6]
