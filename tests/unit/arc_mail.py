"""Messages with chains of ARC sets, sealed by ourselves or put together by hand."""

from __future__ import annotations

import base64
import functools
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from mailgate.interfaces import IResolver
from mailgate.mailauth.arc.chain import read_chain
from mailgate.mailauth.arc.seal import seal_arc
from mailgate.mailauth.arc.verify import verify_arc
from mailgate.mailauth.dkim.canonical import Bodies, Canon, canonical_fields, split_message
from mailgate.mailauth.dkim.keys import SigningKey
from mailgate.mailauth.dkim.signature import HeaderFields
from mailgate.mailauth.results import ArcResult
from mailgate.testing import MemoryResolver, wait_for

__all__ = ["DOMAINS", "MESSAGE", "NOW", "crafted", "key_of", "pem_of", "resolver", "sealed", "validated", "zone"]

NOW = 1_700_000_000
DOMAINS = ("one.example", "two.example", "three.example", "ed.example")
MESSAGE = (
    b"Received: from a by b\r\n"
    b"From: Ann <ann@client.example>\r\n"
    b"To: list@example.org\r\n"
    b"Subject: Hello\r\n"
    b"Date: Thu, 01 Jan 2026 12:00:00 +0000\r\n"
    b"\r\n"
    b"Hello list.\r\n"
)


@functools.cache
def pem_of(domain: str) -> bytes:
    """The private key of a domain: Ed25519 for ed.example, RSA for the others."""
    key = (
        Ed25519PrivateKey.generate()
        if domain == "ed.example"
        else rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505  the least that passes
    )
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def key_of(domain: str) -> SigningKey:
    return SigningKey.load(pem_of(domain))


def zone(**others: object) -> dict[str, Any]:
    """The keys of all domains, in selector s; `others` by the first label of the domain, in its place."""
    return {
        f"s._domainkey.{domain}": others.get(domain.partition(".")[0], {"TXT": [key_of(domain).record]})
        for domain in DOMAINS
    }


def resolver(**others: object) -> MemoryResolver:
    return MemoryResolver(zone(**others))


def validated(message: bytes, dns: IResolver | None = None, **arguments: Any) -> ArcResult:
    """What verifying comes to, without any reactor."""
    return wait_for(verify_arc(dns or resolver(), message, now=arguments.pop("now", NOW), **arguments))


def sealed(message: bytes, *domains: str, results: str = "mx; spf=pass smtp.mailfrom=client.example") -> bytes:
    """The message after each of the domains has sealed it, in this order."""
    for domain in domains:
        fields = seal_arc(
            message,
            key_of(domain),
            domain=domain,
            selector="s",
            authserv_id=f"mx.{domain}",
            authentication_results=results,
            chain=validated(message),
            now=NOW,
        )
        message = b"".join(fields) + message
    return message


def crafted(
    message: bytes = MESSAGE,
    domain: str = "one.example",
    *,
    message_domain: str = "",
    instance: int = 1,
    cv: str = "none",
    results_i: str = " i={};",
    message_i: str = " i={};",
    seal_i: str = " i={};",
    form: tuple[Canon, Canon] = ("relaxed", "relaxed"),
    message_tags: str = "c=relaxed/relaxed;",
    seal_tags: str = "",
    names: str | None = "from:subject",
    algorithm: str = "",
    results: str = " mx.one.example; spf=pass",
) -> bytes:
    """The message with one more set, signed as a sealer would that writes its tags like this, in this form."""
    key = key_of(domain)
    signer = f" a={algorithm or key.algorithm}; d={domain}; s=s;"
    message_key = key_of(message_domain or domain)
    message_signer = f" a={algorithm or message_key.algorithm}; d={message_domain or domain}; s=s;"
    header = HeaderFields(split_message(message)[0])
    digest = base64.b64encode(Bodies(split_message(message)[1]).digest(form[1])).decode()
    covered = f" h={names};" if names is not None else ""
    tags = f"{message_i.format(instance)}{message_signer} {message_tags}{covered} bh={digest}; b="
    unsigned = f"ARC-Message-Signature:{tags}".encode()
    octets = header.signed_octets(
        [name.strip().lower().encode() for name in (names or "").split(":")],
        form[0],
        (b"arc-message-signature", unsigned),
    )
    message_field = unsigned + base64.b64encode(message_key.sign(octets))
    results_field = f"ARC-Authentication-Results:{results_i.format(instance)}{results}".encode()
    unsigned = f"ARC-Seal:{seal_i.format(instance)}{signer} cv={cv};{seal_tags} b=".encode()
    before = [f for hop in read_chain(header) for f in (hop.results, hop.message_field, hop.seal_field)]
    own = [(one.partition(b":")[0].lower(), one) for one in (results_field, message_field, unsigned)]
    seal_field = unsigned + base64.b64encode(key.sign(canonical_fields([*before, *own], "relaxed")))
    return b"\r\n".join([seal_field, message_field, results_field, message])
