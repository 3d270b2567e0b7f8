"""Tokens in links by which recipients leave a list (RFC 8058): who made one, for whom, of which sender's mail."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from itsdangerous import BadData, URLSafeSerializer

from mailgate.address import Address, AddressError

__all__ = ["UnsubscribeError", "UnsubscribeTokens", "Unsubscription"]

_SALT = b"mailgate list-unsubscribe"
#: Two addresses of the longest fit, in base64.
_TOKEN = re.compile(r"[A-Za-z0-9._-]{1,2048}")


class UnsubscribeError(ValueError):
    """The token is none of ours. The text is for the log."""


@dataclass(frozen=True, slots=True)
class Unsubscription:
    """`recipient` wants no more mail of `sender`, or of its stream; None where the token was one of many recipients."""

    sender: Address
    recipient: Address | None
    stream: str = ""


class UnsubscribeTokens:
    """`secrets` gives the secrets, one at least: the first makes tokens, all prove them. A token is good as long as its
    secret is: links in old mail must still work."""

    def __init__(self, secrets: Callable[[], Sequence[bytes]]) -> None:
        self._secrets = secrets

    def make(self, about: Unsubscription) -> str:
        """A token of letters, digits and "-_." """
        recipient = "" if about.recipient is None else str(about.recipient)
        told = [str(about.sender), recipient, *([about.stream] if about.stream else [])]
        token = self._serializer().dumps(told)
        return token.decode("ascii") if isinstance(token, bytes) else token

    def read(self, token: str) -> Unsubscription:
        """What the token says; UnsubscribeError where it is none of ours."""
        if not _TOKEN.fullmatch(token):
            raise UnsubscribeError("the token is none")
        try:
            match self._serializer().loads(token):
                case [str(sender), str(recipient), *rest] if not rest or (len(rest) == 1 and isinstance(rest[0], str)):
                    to = Address.parse(recipient) if recipient else None
                    return Unsubscription(Address.parse(sender), to, *rest)
        except (BadData, AddressError) as error:
            raise UnsubscribeError(f"the token is not ours: {error}") from error
        raise UnsubscribeError("the token is one for something else")

    def _serializer(self) -> URLSafeSerializer:
        # it has the newest key last
        return URLSafeSerializer(list(reversed(self._secrets())), salt=_SALT)
