"""What signing and verifying cost beside the bare primitives: `python -m bench.mailauth`.

The bare cost is what `cryptography` and hashlib take for a message of 10 KiB: one digest of its body and one operation
with the key; for verifying, the public key is read from its DER first, as whoever has it from DNS must.
"""

from __future__ import annotations

import argparse
import hashlib
import timeit
from collections.abc import Callable
from functools import partial

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey, generate_private_key

from mailgate.mailauth.dkim.keys import SigningKey, key_name
from mailgate.mailauth.dkim.sign import sign_dkim
from mailgate.mailauth.dkim.verify import verify_dkim
from mailgate.mailauth.results import DkimResult
from mailgate.testing import MemoryResolver

__all__ = ["main"]

_DOMAIN, _SELECTOR = "example.org", "bench"
_SIZE = 10 * 1024
_HEADER = b"".join(
    b"%s: some words that a field of this name may have, %d of them\r\n" % (name, number)
    for number, name in enumerate(
        b"Received Received From To Cc Subject Date Message-ID MIME-Version Content-Type X-Mailer X-Originating".split()
    )
)
_LINE = b"Some text, as people write it, in lines of about this length, and no more.\r\n"
_BODY = (_LINE * (_SIZE // len(_LINE) + 1))[: _SIZE - 2] + b"\r\n"
_MESSAGE = _HEADER + b"\r\n" + _BODY
_SIGNED = b"x" * 900  # as much as the fields that are signed


def main() -> None:
    """Print a table: microseconds for each of what is asked for, and how often the bare cost that is."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--bits", type=int, default=2048, help="size of the RSA key")
    options.add_argument("--rounds", type=int, default=7, help="the best of so many counts")
    given = options.parse_args()
    print(f"{'':34} {'us':>8} {'a second':>9} {'ratio':>6}")
    keys: list[tuple[str, RSAPrivateKey | Ed25519PrivateKey]] = [
        (f"RSA-{given.bits}", generate_private_key(65537, given.bits)),
        ("Ed25519", Ed25519PrivateKey.generate()),
    ]
    for title, key in keys:
        signing = SigningKey(key)
        bare_sign = _row(f"{title}, bare, sign", partial(_bare_sign, key), given.rounds)
        bare_verify = _row(f"{title}, bare, verify", _bare_verify(key), given.rounds)
        for canons in ("relaxed/relaxed", "relaxed/simple", "simple/simple"):
            message = _sign(signing, canons) + _MESSAGE
            resolver = MemoryResolver({key_name(_DOMAIN, _SELECTOR): {"TXT": [signing.record]}})
            if [one.result for one in _verify(resolver, message)] != ["pass"]:
                raise SystemExit(f"{canons} does not pass")
            _row(f"{title}, {canons}, sign", partial(_sign, signing, canons), given.rounds, bare_sign)
            _row(f"{title}, {canons}, verify", partial(_verify, resolver, message), given.rounds, bare_verify)


def _sign(key: SigningKey, canons: str) -> bytes:
    return sign_dkim(_MESSAGE, key, domain=_DOMAIN, selector=_SELECTOR, canonicalization=canons)


def _verify(resolver: MemoryResolver, message: bytes) -> list[DkimResult]:
    """The results; no reactor, as the answers are there."""
    resolver.asked.clear()
    try:
        verify_dkim(resolver, message).send(None)
    except StopIteration as stop:
        results: list[DkimResult] = stop.value
        return results
    raise RuntimeError("it waits for something")


def _bare_sign(key: RSAPrivateKey | Ed25519PrivateKey) -> bytes:
    hashlib.sha256(_BODY).digest()
    if isinstance(key, RSAPrivateKey):
        return key.sign(_SIGNED, PKCS1v15(), hashes.SHA256())
    return key.sign(hashlib.sha256(_SIGNED).digest())


def _bare_verify(key: RSAPrivateKey | Ed25519PrivateKey) -> Callable[[], object]:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    octets = key.public_key().public_bytes(serialization.Encoding.DER, form)
    signature = _bare_sign(key)

    def verify() -> None:
        hashlib.sha256(_BODY).digest()
        public = serialization.load_der_public_key(octets)
        if isinstance(public, RSAPublicKey):
            public.verify(signature, _SIGNED, PKCS1v15(), hashes.SHA256())
        elif isinstance(public, Ed25519PublicKey):
            public.verify(signature, hashlib.sha256(_SIGNED).digest())

    return verify


def _row(title: str, work: Callable[[], object], rounds: int, bare: float = 0.0) -> float:
    """Print what `work` costs; the microseconds of its best count."""
    count, taken = timeit.Timer(work).autorange()
    best = min([taken, *timeit.repeat(work, number=count, repeat=rounds)]) / count * 1e6
    ratio = f"{best / bare:6.2f}" if bare else ""
    print(f"{title:34} {best:8.1f} {1e6 / best:9,.0f} {ratio}", flush=True)
    return best


if __name__ == "__main__":
    main()
