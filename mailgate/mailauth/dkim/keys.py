"""Keys: public ones from DNS (RFC 6376 section 3.6), private ones from what an administrator keeps."""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from twisted.internet.defer import Deferred

from mailgate.awaiting import as_deferred
from mailgate.interfaces import Answer, DnsStatus, IResolver
from mailgate.mailauth.dkim.limits import MAX_KEY_BITS, MAX_RECORD_OCTETS, MIN_KEY_BITS
from mailgate.mailauth.dkim.tags import TagError, decode_list, parse_tags, without_space

__all__ = [
    "KeyName",
    "KeyUnavailableError",
    "KeyUnusableError",
    "PublicKey",
    "SigningKey",
    "fetch_key",
    "fetch_keys",
    "key_name",
    "parse_key",
]

KeyType = Literal["rsa", "ed25519"]
#: A domain and a selector, as they are asked for.
KeyName = tuple[str, str]

_PADDING = PKCS1v15()
_SHA256 = hashes.SHA256()
#: An RSA key of 4096 bits has 550 octets as DER, with an exponent of 64 bits 8 more.
_MAX_DER = 600
_MAX_EXPONENT_BITS = 64
_ED25519_OCTETS = 32
_REMEMBERED = 1024


class KeyUnavailableError(Exception):
    """DNS cannot say now: it may later (temperror)."""


class KeyUnusableError(Exception):
    """There is no key, or none to verify with: it stays so (permerror)."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key as its record has it.

    `bits` are those of an RSA modulus, 256 for Ed25519. `hashes` and `services` hold what h= and s= allow, lower case,
    and are empty where all is allowed. `is_testing` is t=y; `strict_identity` t=s: i= must be of d= itself.
    """

    algorithm: KeyType
    bits: int
    is_testing: bool = False
    strict_identity: bool = False
    hashes: frozenset[bytes] = frozenset()
    services: frozenset[bytes] = frozenset()
    _key: RSAPublicKey | Ed25519PublicKey | None = field(default=None, repr=False, compare=False)

    def verify(self, data: bytes, signature: bytes) -> bool:
        """Whether the signature is one of these octets, by SHA-256 (RFC 8463 section 3 for Ed25519)."""
        try:
            if isinstance(self._key, RSAPublicKey):
                self._key.verify(signature, data, _PADDING, _SHA256)
            elif isinstance(self._key, Ed25519PublicKey):
                self._key.verify(signature, hashlib.sha256(data).digest())
            else:
                return False
        except (InvalidSignature, ValueError):
            return False
        return True

    def mismatch(self, algorithm: str) -> str:
        """Why the key is none for what a= says, "" where it is one (RFC 6376 section 6.1.2)."""
        kind, _, hash_name = algorithm.partition("-")
        if kind != self.algorithm:
            return f"a={algorithm} with a key of {self.algorithm}"
        if self.hashes and hash_name.encode() not in self.hashes:
            return f"the key is not for {hash_name}"
        return ""


def key_name(domain: str, selector: str) -> str:
    """Where a key is published."""
    return f"{selector}._domainkey.{domain}"


@functools.lru_cache(maxsize=_REMEMBERED)
def parse_key(record: bytes) -> PublicKey:
    """The key in a TXT record. KeyUnusableError says what is wrong with it."""
    if len(record) > MAX_RECORD_OCTETS:
        raise KeyUnusableError(f"the key's record has {len(record)} octets, more than {MAX_RECORD_OCTETS}")
    try:
        tags = parse_tags(record, MAX_RECORD_OCTETS)
    except TagError as error:
        raise KeyUnusableError(f"the key's record cannot be read: {error}") from None
    if b"v" in tags and (tags[b"v"] != b"DKIM1" or next(iter(tags)) != b"v"):
        raise KeyUnusableError("the key's record does not begin with v=DKIM1")
    if b"p" not in tags:
        raise KeyUnusableError("the record holds no key")
    if not tags[b"p"]:
        raise KeyUnusableError("the key has been revoked")
    try:
        octets = base64.b64decode(without_space(tags[b"p"]), validate=True)
    except binascii.Error:
        raise KeyUnusableError("the key is no base64") from None
    flags = {one.lower() for one in decode_list(tags.get(b"t", b""))}
    key = _public_key(tags.get(b"k", b"rsa").lower(), octets)
    return PublicKey(
        algorithm="rsa" if isinstance(key, RSAPublicKey) else "ed25519",
        bits=key.key_size if isinstance(key, RSAPublicKey) else 8 * _ED25519_OCTETS,
        is_testing=b"y" in flags,
        strict_identity=b"s" in flags,
        hashes=_allowed(tags.get(b"h", b"")),
        services=_allowed(tags.get(b"s", b"")),
        _key=key,
    )


async def fetch_key(resolver: IResolver, domain: str, selector: str, *, service: str = "email") -> PublicKey:
    """The key of a domain, for mail. KeyUnavailableError where DNS cannot say now, KeyUnusableError without one."""
    key = (await fetch_keys(resolver, [(domain, selector)], service=service))[domain, selector]
    if isinstance(key, Exception):
        raise key
    return key


async def fetch_keys(
    resolver: IResolver, names: Iterable[KeyName], *, service: str = "email"
) -> dict[KeyName, PublicKey | KeyUnavailableError | KeyUnusableError]:
    """Several keys, asked for at the same time and each once; for those that cannot be had, why. It raises nothing
    but what the resolver raises."""
    asked: dict[KeyName, Answer | Deferred[Answer]] = {}
    try:
        for name in names:
            if name not in asked:
                answer = resolver.resolve(key_name(*name), "TXT")
                asked[name] = answer if isinstance(answer, Answer) else as_deferred(answer)
        return {
            name: _read(answer if isinstance(answer, Answer) else await answer, service)
            for name, answer in asked.items()
        }
    finally:
        for answer in asked.values():
            if isinstance(answer, Deferred) and not answer.called:
                answer.addErrback(lambda _: None)
                answer.cancel()


def _read(answer: Answer, service: str) -> PublicKey | KeyUnavailableError | KeyUnusableError:
    if answer.is_temporary:
        why = "no answer in time" if answer.status is DnsStatus.TIMEOUT else "DNS failed"
        return KeyUnavailableError(f"the key cannot be asked for: {why}")
    keys: list[PublicKey] = []
    problems: list[KeyUnusableError] = []
    for record in answer.records:
        try:
            keys.append(parse_key(record if isinstance(record, bytes) else str(record).encode()))
        except KeyUnusableError as error:
            problems.append(error)
    if len(keys) > 1:
        # RFC 6376 section 3.6.2.2: there must be one.
        return KeyUnusableError("there are several keys at its name")
    if not keys:
        return problems[0] if problems else KeyUnusableError("there is no key")
    services = keys[0].services
    if services and b"*" not in services and service.encode() not in services:
        return KeyUnusableError("the key is not for mail")
    return keys[0]


def _allowed(value: bytes) -> frozenset[bytes]:
    return frozenset(part.lower() for part in decode_list(value) if part)


def _public_key(kind: bytes, octets: bytes) -> RSAPublicKey | Ed25519PublicKey:
    if kind == b"ed25519":
        if len(octets) != _ED25519_OCTETS:
            raise KeyUnusableError(f"a key of Ed25519 has {_ED25519_OCTETS} octets, not {len(octets)}")
        return Ed25519PublicKey.from_public_bytes(octets)
    if kind != b"rsa":
        raise KeyUnusableError("the key is of an unknown kind")
    if len(octets) > _MAX_DER:
        # Before it is read: what would it cost, let alone to verify with it.
        raise KeyUnusableError(f"the key has more than {MAX_KEY_BITS} bits")
    try:
        key = serialization.load_der_public_key(octets)
    except (ValueError, UnsupportedAlgorithm):
        raise KeyUnusableError("the key is no RSA key") from None
    if not isinstance(key, RSAPublicKey):
        raise KeyUnusableError("the key is no RSA key")
    if key.key_size > MAX_KEY_BITS or key.public_numbers().e.bit_length() > _MAX_EXPONENT_BITS:
        raise KeyUnusableError(f"the key has more than {MAX_KEY_BITS} bits, or an exponent beyond reason")
    return key


class SigningKey:
    """A private key, checked when it is loaded. `algorithm` is what a= says."""

    def __init__(self, key: RSAPrivateKey | Ed25519PrivateKey) -> None:
        """ValueError: an RSA key that verifiers refuse by its size."""
        if isinstance(key, RSAPrivateKey) and not MIN_KEY_BITS <= key.key_size <= MAX_KEY_BITS:
            raise ValueError(f"an RSA key of {key.key_size} bits: from {MIN_KEY_BITS} to {MAX_KEY_BITS} can be used")
        self._key = key
        self.algorithm = "rsa-sha256" if isinstance(key, RSAPrivateKey) else "ed25519-sha256"

    @classmethod
    def load(cls, material: bytes | str) -> SigningKey:
        """From PEM (PKCS#1 or PKCS#8), or an Ed25519 seed: 32 octets, or their base64. ValueError does not repeat it.

        The checks of an RSA key take tens of milliseconds; the same material is read once.
        """
        return _load(material.encode() if isinstance(material, str) else material)

    def sign(self, data: bytes) -> bytes:
        """A signature of the octets by SHA-256."""
        if isinstance(self._key, RSAPrivateKey):
            return self._key.sign(data, _PADDING, _SHA256)
        return self._key.sign(hashlib.sha256(data).digest())

    @property
    def record(self) -> str:
        """The text to publish, at `key_name`."""
        public = self._key.public_key()
        if isinstance(public, Ed25519PublicKey):
            kind, octets = "ed25519", public.public_bytes_raw()
        else:
            form = serialization.PublicFormat.SubjectPublicKeyInfo
            kind, octets = "rsa", public.public_bytes(serialization.Encoding.DER, form)
        return f"v=DKIM1; k={kind}; p={base64.b64encode(octets).decode()}"


@functools.lru_cache(maxsize=_REMEMBERED)
def _load(material: bytes) -> SigningKey:
    if b"-----BEGIN" in material:
        try:
            key = serialization.load_pem_private_key(material.strip(), None)
        except TypeError:
            raise ValueError("a private key that a password protects") from None
        except (ValueError, UnsupportedAlgorithm):
            raise ValueError("a private key in PEM that cannot be read") from None
        if not isinstance(key, RSAPrivateKey | Ed25519PrivateKey):
            raise ValueError("neither an RSA nor an Ed25519 key")
        return SigningKey(key)
    if len(material) != _ED25519_OCTETS:
        try:
            material = base64.b64decode(without_space(material), validate=True)
        except binascii.Error:
            material = b""
    if len(material) != _ED25519_OCTETS:
        raise ValueError("neither a private key in PEM nor the seed of an Ed25519 key (32 octets, or their base64)")
    return SigningKey(Ed25519PrivateKey.from_private_bytes(material))
