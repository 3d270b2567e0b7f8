"""The keys of an issuer of tokens (RFC 7517), fetched when they are needed and kept for a while."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt import PyJWK, PyJWTError
from twisted.internet.defer import DeferredLock
from twisted.internet.interfaces import IReactorTime

from mailgate.backends.http import Fetcher
from mailgate.backends.questions import BackendError

__all__ = ["ALGORITHMS", "KeySet", "PublicKey"]

PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey

#: The signatures that count (RFC 7518, RFC 8037). None of them can be made with what a key set publishes.
ALGORITHMS = frozenset({"RS256", "PS256", "ES256", "EdDSA"})

#: Seconds after which keys are fetched again; at least so many between two fetches for a key that is not known; after a
#: fetch that failed; and how long old keys serve where no new ones can be had.
_FRESH, _UNKNOWN, _FAILED, _STALE = 3600.0, 60.0, 5.0, 86400.0
#: Keys of a set that are looked at, and bits of the shortest RSA key that counts.
_MOST, _RSA_BITS = 100, 2048


@dataclass(frozen=True, slots=True)
class _Key:
    identity: str | None
    algorithms: frozenset[str]
    key: PublicKey


class KeySet:
    """The keys at a URL."""

    def __init__(self, url: str, fetcher: Fetcher, clock: IReactorTime) -> None:
        self._url = url
        self._whom = f"the key set at {urlsplit(url).hostname}"
        self._fetcher = fetcher
        self._clock = clock
        self._lock = DeferredLock()
        self._keys: Sequence[_Key] = ()
        self._fetched = self._tried = self._failed = float("-inf")
        self._count = 0

    async def find(self, identity: str | None, algorithm: str) -> PublicKey | None:
        """The key by its id (`kid`), for signatures of this algorithm; without an id, the only one for it.

        None where there is no such key; BackendError where there are no keys at all.
        """
        age = self._clock.seconds() - self._fetched
        if age >= _FRESH:
            try:
                await self._fetch()
            except BackendError:
                if age >= _STALE:
                    raise
        key = self._find(identity, algorithm)
        if key is None and self._clock.seconds() - self._tried >= _UNKNOWN:
            await self._fetch()
            key = self._find(identity, algorithm)
        return key

    def _find(self, identity: str | None, algorithm: str) -> PublicKey | None:
        fitting = [key.key for key in self._keys if algorithm in key.algorithms and identity in (None, key.identity)]
        return fitting[0] if fitting and (identity is not None or len(fitting) == 1) else None

    async def _fetch(self) -> None:
        count = self._count
        await self._lock.acquire()
        try:
            if self._count != count:
                return  # another has done it meanwhile
            if self._clock.seconds() - self._failed < _FAILED:
                raise BackendError(f"{self._whom} could not be fetched a moment ago")
            self._tried = self._failed = self._clock.seconds()
            answer = await self._fetcher.fetch("GET", self._url, {"Accept": "application/json"})
            if answer.status != 200:
                raise BackendError(f"{self._whom} answers {answer.status}")
            keys = _parse(answer.body)
            if not keys:
                raise BackendError(f"{self._whom} holds no key that can be used")
            self._keys = keys
            self._fetched = self._clock.seconds()
            self._failed = float("-inf")
            self._count += 1
        finally:
            self._lock.release()


def _parse(body: bytes) -> list[_Key]:
    """The keys that can be used; those of other kinds are passed over."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return []
    members = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(members, list):
        return []
    return [key for member in members[:_MOST] if isinstance(member, dict) and (key := _parse_key(member)) is not None]


def _parse_key(member: dict[str, Any]) -> _Key | None:
    identity, operations = member.get("kid"), member.get("key_ops")
    if member.get("use") not in (None, "sig") or not isinstance(identity, str | None):
        return None
    if operations is not None and not (isinstance(operations, list) and "verify" in operations):
        return None
    if member.get("kty") not in ("RSA", "EC", "OKP"):
        return None
    try:
        # its `alg` is looked at here: for RSA without one, PyJWT would choose RS256
        key = PyJWK.from_dict({name: value for name, value in member.items() if name != "alg"}).key
    except (PyJWTError, ValueError, TypeError, KeyError):
        return None
    algorithms = _algorithms(key)
    said = member.get("alg")
    if said is not None:
        algorithms &= {said} if isinstance(said, str) else set()
    return _Key(identity, algorithms, key) if algorithms else None


def _algorithms(key: object) -> frozenset[str]:
    if isinstance(key, RSAPublicKey) and key.key_size >= _RSA_BITS:
        return frozenset({"RS256", "PS256"})
    if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
        return frozenset({"ES256"})
    return frozenset({"EdDSA"}) if isinstance(key, Ed25519PublicKey) else frozenset()
