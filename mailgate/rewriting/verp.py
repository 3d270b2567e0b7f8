"""Variable Envelope Return Paths: a reverse-path that says who the mail was for that is reported about.

`LOCAL+HASH=RECIPIENT=ITS.DOMAIN@DOMAIN` stands for mail from LOCAL@DOMAIN to RECIPIENT@ITS.DOMAIN. Reports come to
LOCAL with an extension, which mail systems deliver as to LOCAL. The hash proves that we have made it: without, anybody
could report somebody as unknown.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mailgate.address import MAX_LOCAL_PART, Address, AddressError

__all__ = ["Verp", "VerpError", "VerpReturn"]

_HASH_LENGTH = 8
_EXTENSION = re.compile(r"([A-Z2-7]{8})=(.+)=([^=]+)", re.IGNORECASE | re.DOTALL | re.ASCII)


class VerpError(ValueError):
    """The address has the form of a return path, and is none of ours. The text is for the log."""


@dataclass(frozen=True, slots=True)
class VerpReturn:
    """Mail from `sender` to `recipient` is what a report is about."""

    sender: Address
    recipient: Address


class Verp:
    """Makes return paths and reads them. `secrets` gives the secrets, one at least: the first makes hashes, all prove
    them. `delimiter` separates a local part from its extension."""

    def __init__(self, secrets: Callable[[], Sequence[bytes]], delimiter: str = "+") -> None:
        if len(delimiter) != 1 or delimiter in "=.@":
            raise ValueError(f"{delimiter!r} cannot separate an extension")
        self._secrets = secrets
        self._delimiter = delimiter

    def return_path(self, sender: Address, recipient: Address) -> Address | None:
        """None where there is none that fits: for the null path, and where a local part is empty or would be longer
        than an address may have (RFC 5321 section 4.5.3.1.1)."""
        if not sender.local_part or not recipient.local_part:
            return None
        about = VerpReturn(sender, recipient)
        extension = f"{_hash(self._secrets()[0], about)}={recipient.local_part}={recipient.domain}"
        local_part = f"{sender.local_part}{self._delimiter}{extension}"
        return Address(local_part, sender.domain) if len(local_part.encode()) <= MAX_LOCAL_PART else None

    def has_form(self, address: Address) -> bool:
        """Whether the address has the form of a return path, whoever has made it."""
        return self._split(address) is not None

    def read(self, address: Address) -> VerpReturn:
        """What a report to this address is about; VerpError where we have not made it."""
        parts = self._split(address)
        if parts is None:
            raise VerpError(f"{address} is no return path")
        local_part, found = parts
        claimed, of, domain = found.groups()
        try:
            about = VerpReturn(
                Address.parse(str(Address(local_part, address.domain))), Address.parse(str(Address(of, domain)))
            )
        except AddressError as error:
            raise VerpError(f"{address} holds no address: {error}") from error
        # Hosts on the way may have changed the case of the local part, and that of the hash with it.
        if not any(hmac.compare_digest(_hash(one, about), claimed.upper()) for one in self._secrets()):
            raise VerpError(f"{address} is a return path that we have not made")
        return about

    def _split(self, address: Address) -> tuple[str, re.Match[str]] | None:
        """The local part without its extension, which has the form of ours: the first place where it does."""
        at = address.local_part.find(self._delimiter)
        while at >= 0:
            found = _EXTENSION.fullmatch(address.local_part, at + 1)
            if found is not None:
                return address.local_part[:at], found
            at = address.local_part.find(self._delimiter, at + 1)
        return None


def _hash(secret: bytes, about: VerpReturn) -> str:
    text = f"verp\0{about.sender}\0{about.recipient}".lower()
    digest = hmac.new(secret, text.encode("utf-8", "surrogatepass"), hashlib.sha256).digest()
    return base64.b32encode(digest)[:_HASH_LENGTH].decode("ascii")
