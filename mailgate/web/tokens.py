"""Bearer tokens (RFC 6750): who may use the API, and for what. Secrets are random: a plain hash of one is enough."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from ipaddress import IPv6Address

from mailgate.awaiting import answered
from mailgate.config.http import Scope, TokenSection
from mailgate.envelope import Client
from mailgate.interfaces import ICounters

__all__ = ["RefusedTokenError", "Tokens", "hash_of", "make_secret"]

#: Octets of chance in a secret, and what it begins with: who finds one somewhere knows whose it is.
_CHANCE, _MARK = 32, "mailgate_"
#: Octets of a field that is looked at.
_LONGEST = 512
_HOUR = 3600.0


class RefusedTokenError(Exception):
    """The request is answered with this status and text; `retry_after` in seconds, 0 where it is no matter of time."""

    def __init__(self, status: HTTPStatus, text: str, retry_after: int = 0) -> None:
        super().__init__(text)
        self.status = status
        self.retry_after = retry_after


def make_secret() -> str:
    """A new secret."""
    return f"{_MARK}{secrets.token_urlsafe(_CHANCE)}"


def hash_of(secret: str) -> str:
    """What `[http.tokens.NAME]` keeps of a secret."""
    return f"sha256:{hashlib.sha256(secret.encode()).hexdigest()}"


class Tokens:
    """The tokens of the configuration; wrong ones are counted by who has shown them."""

    def __init__(self, counters: ICounters, now: Callable[[], float]) -> None:
        self._counters = counters
        self._now = now
        self._tokens: Mapping[str, TokenSection] = {}
        self._most_wrong = 1

    def use(self, tokens: Mapping[str, TokenSection], most_wrong: int) -> None:
        """From now on these, of which an address may get so many wrong in an hour."""
        self._tokens = tokens
        self._most_wrong = most_wrong

    async def check(self, authorization: bytes | None, client: Client, scope: Scope) -> str:
        """The name of the token that the Authorization field shows and that has this scope. RefusedTokenError.

        What counts wrong ones may fail: then nothing is known of the client, and the failure is the caller's.
        """
        if authorization is None:
            raise RefusedTokenError(HTTPStatus.UNAUTHORIZED, "a token is needed: Authorization: Bearer SECRET")
        key = f"http-token/{_counted(client)}"
        wrong: int = await answered(self._counters.peek(key, _HOUR))
        if wrong >= self._most_wrong:
            raise RefusedTokenError(HTTPStatus.TOO_MANY_REQUESTS, "too many wrong tokens from your address", int(_HOUR))
        name = self._find(authorization)
        if name is None:
            await answered(self._counters.hit(key, _HOUR))
            raise RefusedTokenError(HTTPStatus.UNAUTHORIZED, "this token is not known, or not any more")
        if scope not in self._tokens[name].scopes:
            raise RefusedTokenError(
                HTTPStatus.FORBIDDEN, f"this needs the scope {scope}, which the token does not have"
            )
        return name

    def shows(self, authorization: bytes | None, scope: Scope) -> bool:
        """Whether the field shows a token with this scope; nothing is counted, and nothing may be done for that."""
        name = self._find(authorization) if authorization is not None else None
        return name is not None and scope in self._tokens[name].scopes

    def _find(self, authorization: bytes) -> str | None:
        """Every token is looked at, each in the same time."""
        scheme, _, secret = authorization[:_LONGEST].partition(b" ")
        if scheme.lower() != b"bearer":
            return None
        shown = f"sha256:{hashlib.sha256(secret.strip()).hexdigest()}"
        found = None
        for name, token in self._tokens.items():
            if hmac.compare_digest(shown, token.hash) and self._is_valid(token):
                found = name
        return found

    def _is_valid(self, token: TokenSection) -> bool:
        return token.expires is None or datetime.fromtimestamp(self._now(), UTC).date() < token.expires


def _counted(client: Client) -> str:
    address = client.address
    return f"{int(address) >> 64:x}::/64" if isinstance(address, IPv6Address) else str(address)
