"""Keys, zones and signatures for tests of DKIM: also such signatures as no signer of ours would make."""

from __future__ import annotations

import base64
import functools
from collections.abc import Mapping, Sequence

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers, generate_private_key

from mailgate.mailauth.dkim.canonical import Bodies, split_message
from mailgate.mailauth.dkim.keys import SigningKey
from mailgate.mailauth.dkim.limits import VerifyLimits
from mailgate.mailauth.dkim.signature import HeaderFields, read_canons
from mailgate.mailauth.dkim.verify import verify_dkim
from mailgate.mailauth.results import DkimResult
from mailgate.testing import MemoryResolver, wait_for

NOW = 1_800_000_000.0
DOMAIN, SELECTOR = "example.org", "key"
PLACE = f"{SELECTOR}._domainkey.{DOMAIN}"
SEED = bytes(range(32))
CANONS = ("relaxed/relaxed", "relaxed/simple", "simple/relaxed", "simple/simple")

MESSAGE = (
    b"From: Ann <ann@example.org>\r\n"
    b"To: Bob <bob@example.net>\r\n"
    b"Subject: A  folded\r\n\tsubject\r\n"
    b"Date: Thu, 01 Jan 2026 12:00:00 +0000\r\n"
    b"Message-ID: <1@example.org>\r\n"
    b"\r\n"
    b"Hello  Bob. \r\n\r\nYours,\tAnn\r\n\r\n\r\n"
)


def pem(bits: int = 1024) -> bytes:
    """An RSA key, always the same of one size within a run."""
    return _pem(bits)


@functools.cache
def _pem(bits: int) -> bytes:
    key = generate_private_key(65537, bits)
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def rsa(bits: int = 1024) -> SigningKey:
    return SigningKey.load(pem(bits))


@functools.cache
def ed25519() -> SigningKey:
    return SigningKey(Ed25519PrivateKey.from_private_bytes(SEED))


def public(bits: int, exponent: int = 65537) -> str:
    """The p= of an RSA key with as many bits; nobody has the private one."""
    key = RSAPublicNumbers(exponent, 2 ** (bits - 1) + 1).public_key()
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return base64.b64encode(key.public_bytes(serialization.Encoding.DER, form)).decode()


def zone(record: str | bytes | None = None) -> dict[str, object]:
    """The zone of DOMAIN; by default with the RSA key of 1024 bits."""
    return {PLACE: {"TXT": [rsa().record if record is None else record]}}


def signed(
    message: bytes = MESSAGE,
    key: SigningKey | None = None,
    without: Sequence[str] = (),
    name: bytes = b"DKIM-Signature",
    **tags: str,
) -> bytes:
    """The message under a signature with these tags in place of the usual ones; what is signed fits them."""
    key = key or rsa()
    usual = {
        "v": "1",
        "a": key.algorithm,
        "c": "relaxed/relaxed",
        "d": DOMAIN,
        "s": SELECTOR,
        "h": "from:to:subject:date",
    }
    wanted = {tag: value for tag, value in (usual | tags).items() if tag not in without}
    fields, body = split_message(message)
    header_canon, body_canon = read_canons(wanted.get("c", "simple").encode())
    length = wanted.get("l", "")
    if "bh" not in wanted and "bh" not in without:
        digest = Bodies(body).digest(body_canon, int(length) if length.isdigit() else None)
        wanted["bh"] = base64.b64encode(digest).decode()
    given = wanted.pop("b", None)
    start = name + b": " + "; ".join(f"{tag}={value}" for tag, value in wanted.items()).encode()
    if "b" in without:
        return start + b"\r\n" + message
    field = (b"dkim-signature", start + b"; b=")
    names = [one.strip().lower().encode() for one in wanted.get("h", "").split(":")]
    octets = HeaderFields(fields).signed_octets(names, header_canon, field)
    value = base64.b64encode(key.sign(octets)) if given is None else given.encode()
    return field[1] + value + b"\r\n" + message


def verified(
    message: bytes,
    records: Mapping[str, object] | None = None,
    *,
    now: float = NOW,
    limits: VerifyLimits | None = None,
) -> list[DkimResult]:
    """The results, with answers that are there at once."""
    resolver = MemoryResolver(zone() if records is None else records)
    return wait_for(verify_dkim(resolver, message, now=now, limits=limits or VerifyLimits()))


def verdict(
    message: bytes, records: Mapping[str, object] | None = None, *, limits: VerifyLimits | None = None
) -> tuple[str, str]:
    """The word and the reason of the only signature."""
    (result,) = verified(message, records, limits=limits)
    return result.result, result.reason
