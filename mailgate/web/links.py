"""Signed links: each is the right to release one message for one recipient, until it would leave quarantine anyway."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from itsdangerous import BadData, URLSafeSerializer

__all__ = ["Links", "Meant"]

#: What the key is for; other uses of the same secret have another.
_SALT = b"mailgate.quarantine.release"
#: Characters of a token that is looked at: an address has at most 254.
_LONGEST = 1024


class Meant(NamedTuple):
    """What a link is about: a message and one of its recipients, and until when (seconds since the epoch)."""

    queue_id: str
    number: int
    recipient: str
    expires: int


class Links:
    """Makes links and reads them. `secret` is the gateway's own: what it has not signed is nothing."""

    def __init__(self, secret: bytes) -> None:
        self._serializer = URLSafeSerializer(
            secret, salt=_SALT, signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256}
        )

    def sign(self, meant: Meant) -> str:
        """A token that may stand in a URL as it is."""
        token = self._serializer.dumps([meant.queue_id, meant.number, meant.recipient, meant.expires])
        return token.decode() if isinstance(token, bytes) else token

    def read(self, token: str) -> Meant | None:
        """What was signed, expired or not; None where this was not signed here."""
        if len(token) > _LONGEST:
            return None
        try:
            value = self._serializer.loads(token)
        except BadData:
            return None
        match value:
            case [str(queue_id), int(number), str(recipient), int(expires)]:
                return Meant(queue_id, number, recipient, expires)
        return None
