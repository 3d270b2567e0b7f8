"""Making keys, and the lines of a zone that publish them (RFC 6376 section 3.6.2)."""

from __future__ import annotations

from typing import Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from mailgate.mailauth.dkim.keys import key_name

__all__ = ["KeyKind", "new_key", "record_strings", "zone_line"]

KeyKind = Literal["rsa", "ed25519"]

#: Octets of one string of a TXT record (RFC 1035 section 3.3.14).
_LONGEST = 255


def new_key(kind: KeyKind, bits: int = 2048) -> bytes:
    """A new private key in PEM (PKCS#8); `bits` are those of RSA. RSA takes a moment: not in the reactor's thread."""
    key: RSAPrivateKey | Ed25519PrivateKey
    key = generate_private_key(65537, bits) if kind == "rsa" else Ed25519PrivateKey.generate()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def record_strings(record: str) -> list[str]:
    """The text of a record in strings that DNS takes."""
    return [record[at : at + _LONGEST] for at in range(0, len(record), _LONGEST)]


def zone_line(domain: str, selector: str, record: str) -> str:
    """The record as a line of a zone file, in brackets where it has several strings; a string each line then."""
    name = f"{key_name(domain, selector)}."
    strings = [f'"{one}"' for one in record_strings(record)]
    if len(strings) == 1:
        return f"{name} IN TXT {strings[0]}"
    return "\n".join([f"{name} IN TXT (", *(f"    {one}" for one in strings), ")"])
