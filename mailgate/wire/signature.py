"""Signatures of what the gateway posts to programs of the site.

A request has the field `Mailgate-Signature: t=1700000000,v1=HEX`: the moment in seconds since the epoch, and the
HMAC-SHA-256 of that number, a full stop and the body, in hexadecimal, under each secret, the newest first. Whoever gets
it takes none whose moment is far from now.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

__all__ = ["FIELD", "Signing", "sign"]

FIELD = "Mailgate-Signature"


class Signing:
    """A signature of a body that comes piece by piece."""

    def __init__(self, secrets: Sequence[bytes], moment: int) -> None:
        self._moment = moment
        self._hashes = [hmac.new(one, b"%d." % moment, hashlib.sha256) for one in secrets]

    def update(self, piece: bytes) -> None:
        """The next piece."""
        for one in self._hashes:
            one.update(piece)

    def value(self) -> str:
        """The value of the field for all that has come."""
        return ",".join([f"t={self._moment}", *(f"v1={one.hexdigest()}" for one in self._hashes)])


def sign(secrets: Sequence[bytes], moment: int, body: bytes) -> str:
    """The value of the field for a whole body."""
    signing = Signing(secrets, moment)
    signing.update(body)
    return signing.value()
