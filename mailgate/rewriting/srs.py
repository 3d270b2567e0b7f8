"""The Sender Rewriting Scheme: a reverse-path of our own for mail that is forwarded, and the way back.

The form is that of the paper "The Sender Rewriting Scheme" (Shevek, 2004), which other implementations share:
`SRS0=HASH=TIME=DOMAIN=LOCAL@ours` for a sender, `SRS1=HASH=FIRST=REST@ours` for one that another forwarder has
rewritten.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Callable, Sequence

from mailgate.address import MAX_LOCAL_PART, Address, AddressError

__all__ = ["Srs", "SrsError"]

#: Letters of the hash: 30 bits, which nobody guesses through the limits on unknown recipients.
_HASH_LENGTH = 6
_TIME_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_DAYS = len(_TIME_ALPHABET) ** 2
_DAY = 86400.0

_FORM = re.IGNORECASE | re.DOTALL | re.ASCII
_SRS0 = re.compile(r"SRS0[=+-]([A-Z0-9+/]{4,16})=([A-Z2-7]{2})=([^=]+)=(.+)", _FORM)
_SRS1 = re.compile(r"SRS1[=+-]([A-Z0-9+/]{4,16})=([^=]+)=([=+-].+)", _FORM)
_ANY = re.compile(r"SRS([01])([=+-])", _FORM)


class SrsError(ValueError):
    """The address is of our form and none of ours, or too old. The text is for the log."""


class Srs:
    """Rewrites senders to addresses below `domain` (lower case).

    The first of `secrets` makes hashes, all of them prove one, so that a secret can be replaced. `seconds` is the time
    since the epoch; an address is good for `max_age` seconds, counted in days.
    """

    def __init__(self, domain: str, secrets: Sequence[bytes], max_age: float, seconds: Callable[[], float]) -> None:
        if not secrets or not all(secrets):
            raise ValueError("a secret must not be empty")
        self.domain = domain
        self._secrets = tuple(secrets)
        self._max_days = max(1, round(max_age / _DAY))
        if self._max_days >= _DAYS // 2:
            raise ValueError(f"an age of {self._max_days} days: the scheme cannot tell more than {_DAYS // 2}")
        self._seconds = seconds

    def forward(self, sender: Address) -> Address | None:
        """The reverse-path of mail from `sender` that we forward; None where there is none that fits: for the null
        path, and where the local part would be longer than an address may have (RFC 5321 section 4.5.3.1.1)."""
        if not sender:
            return None
        found = _ANY.match(sender.local_part)
        if found is None:
            rest = f"{self._time()}={sender.domain}={sender.local_part}"
            local_part = f"SRS0={self._hash(self._secrets[0], rest)}={rest}"
        elif found[1] == "0":
            # The first forwarder can undo it, and we are all that stays of those between.
            rest = f"{sender.domain}={sender.local_part[4:]}"
            local_part = f"SRS1={self._hash(self._secrets[0], rest)}={rest}"
        else:
            _, _, rest = sender.local_part.partition(found[2])
            _, _, rest = rest.partition("=")
            local_part = f"SRS1={self._hash(self._secrets[0], rest)}={rest}"
        return Address(local_part, self.domain) if len(local_part.encode()) <= MAX_LOCAL_PART else None

    def is_ours(self, address: Address) -> bool:
        """Whether an address has the form of those that we make."""
        return address.domain == self.domain and _ANY.match(address.local_part) is not None

    def reverse(self, address: Address) -> Address:
        """Whom mail to a rewritten sender is for; SrsError where we have not made it, or it is too old."""
        if found := _SRS0.fullmatch(address.local_part):
            claimed, time, domain, local_part = found.groups()
            self._prove(claimed, f"{time}={domain}={local_part}")
            if not self._is_young(time):
                raise SrsError(f"{address} is older than {self._max_days} days")
            return _address(local_part, domain)
        if found := _SRS1.fullmatch(address.local_part):
            claimed, domain, rest = found.groups()
            self._prove(claimed, f"{domain}={rest}")
            return _address(f"SRS0{rest}", domain)
        raise SrsError(f"{address} has the form of a rewritten sender, and is none")

    def _prove(self, claimed: str, rest: str) -> None:
        # Hosts on the way may have changed the case of the local part, and that of the hash with it.
        made = claimed.upper().encode()
        proofs = [hmac.compare_digest(self._hash(one, rest).encode(), made) for one in self._secrets]
        if not any(proofs):
            raise SrsError("the hash of a rewritten sender is not ours")

    def _hash(self, secret: bytes, rest: str) -> str:
        digest = hmac.new(secret, rest.lower().encode("utf-8", "surrogatepass"), hashlib.sha256).digest()
        return base64.b32encode(digest)[:_HASH_LENGTH].decode("ascii")

    def _time(self) -> str:
        day = int(self._seconds() / _DAY) % _DAYS
        return _TIME_ALPHABET[day >> 5] + _TIME_ALPHABET[day & 31]

    def _is_young(self, time: str) -> bool:
        first, second = (_TIME_ALPHABET.index(letter) for letter in time.upper())
        age = (int(self._seconds() / _DAY) - (first << 5 | second)) % _DAYS
        return age <= self._max_days or age == _DAYS - 1  # made by a clock that is a little ahead of ours


def _address(local_part: str, domain: str) -> Address:
    try:
        return Address.parse(str(Address(local_part, domain)))
    except AddressError as error:
        raise SrsError(f"a rewritten sender holds no address: {error}") from error
