"""One signature's field: its tags made into values, and the octets of the header that it signs (RFC 6376 3.5, 3.7)."""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable, Mapping, Sequence

import idna
from msgspec import Struct

from mailgate.mailauth.dkim.canonical import Canon, Field, canonical_fields
from mailgate.mailauth.dkim.limits import MAX_NAMES
from mailgate.mailauth.dkim.tags import decode_list, without_space

__all__ = [
    "SINGLE",
    "HeaderFields",
    "Signature",
    "SignatureError",
    "domain_name",
    "is_within",
    "read_algorithm",
    "read_base64",
    "read_body_hash",
    "read_canons",
    "read_key_name",
    "read_number",
    "read_signature",
    "require_tags",
    "without_signature",
]

#: Fields that a message has once (RFC 5322 section 3.6), and that readers show.
SINGLE = (b"subject", b"date", b"to", b"cc", b"reply-to", b"sender")

_CANONS: dict[bytes, tuple[Canon, Canon]] = {
    b"simple": ("simple", "simple"),
    b"relaxed": ("relaxed", "simple"),
    b"simple/simple": ("simple", "simple"),
    b"simple/relaxed": ("simple", "relaxed"),
    b"relaxed/simple": ("relaxed", "simple"),
    b"relaxed/relaxed": ("relaxed", "relaxed"),
}
_ALGORITHMS = frozenset({b"rsa-sha256", b"ed25519-sha256"})
_SHA256_OCTETS = 32
_LABELS = re.compile(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")
_LONGEST_NAME = 253
_LONGEST_IDENTITY = 512
_ENCODED = re.compile(rb"=([0-9A-Fa-f]{2})")


class SignatureError(ValueError):
    """The field is no signature that can be verified; the message says why, for people."""


class Signature(Struct, frozen=True):
    """What a DKIM-Signature field says, checked but for the key.

    Domains are A-labels in lower case. `names` are those of h=, lower case; `identity` is "@" and the domain where
    there is no i=. `length` is l=; `made` and `expires` (t=, x=) are seconds since 1970.
    """

    algorithm: str
    domain: str
    selector: str
    identity: str
    header_canon: Canon
    body_canon: Canon
    names: list[bytes]
    body_hash: bytes
    signature: bytes
    length: int | None
    made: int | None
    expires: int | None


def read_signature(tags: Mapping[bytes, bytes]) -> Signature:
    """The signature that the tags of a DKIM-Signature field describe. SignatureError where RFC 6376 forbids it."""
    require_tags(tags, b"v", b"a", b"b", b"bh", b"d", b"h", b"s")
    if tags[b"v"] != b"1":
        raise SignatureError("v= is not 1")
    algorithm = read_algorithm(tags[b"a"])
    if b"q" in tags and b"dns/txt" not in decode_list(tags[b"q"].lower()):
        raise SignatureError("q= leaves no known way to the key")
    domain, selector = read_key_name(tags)
    names = _names(tags[b"h"])
    if b"from" not in names:
        raise SignatureError("From is not signed")
    header_canon, body_canon = read_canons(tags.get(b"c", b"simple"))
    made, expires = read_number(tags, b"t", 12), read_number(tags, b"x", 12)
    if made is not None and expires is not None and expires <= made:
        raise SignatureError("it expires (x=) before it is made (t=)")
    body_hash = read_body_hash(tags[b"bh"])
    return Signature(
        algorithm=algorithm,
        domain=domain,
        selector=selector,
        identity=_identity(tags[b"i"], domain) if b"i" in tags else f"@{domain}",
        header_canon=header_canon,
        body_canon=body_canon,
        names=names,
        body_hash=body_hash,
        signature=read_base64(tags[b"b"], "b="),
        length=read_number(tags, b"l", 76),
        made=made,
        expires=expires,
    )


def domain_name(value: bytes) -> str:
    """A domain as A-labels in lower case (RFC 8616 lets it come as UTF-8); "" where it is none."""
    try:
        text = value.decode().lower()
        if not text.isascii():
            text = idna.encode(text, uts46=True).decode("ascii")
    except (UnicodeError, idna.IDNAError):
        return ""
    return text if len(text) <= _LONGEST_NAME and _LABELS.fullmatch(text) else ""


def is_within(domain: str, parent: str) -> bool:
    """Whether a domain is another or below it."""
    return domain == parent or domain.endswith(f".{parent}")


def require_tags(tags: Mapping[bytes, bytes], *names: bytes) -> None:
    """SignatureError for the first of these tags that is not there."""
    for name in names:
        if name not in tags:
            raise SignatureError(f"{name.decode()}= is missing")


def read_algorithm(value: bytes) -> str:
    """The algorithm that a= names, in lower case."""
    algorithm = value.lower()
    if algorithm not in _ALGORITHMS:
        if algorithm == b"rsa-sha1":
            raise SignatureError("rsa-sha1 proves nothing any more (RFC 8301)")
        raise SignatureError("a= is of no known algorithm")
    return algorithm.decode()


def read_key_name(tags: Mapping[bytes, bytes]) -> tuple[str, str]:
    """The domain and the selector (d=, s=), which must be there."""
    domain = domain_name(tags[b"d"])
    if "." not in domain:
        raise SignatureError("d= is no domain")
    selector = domain_name(tags[b"s"])
    if not selector:
        raise SignatureError("s= is no selector")
    return domain, selector


def read_body_hash(value: bytes) -> bytes:
    """The digest of the body that bh= holds."""
    body_hash = read_base64(value, "bh=")
    if len(body_hash) != _SHA256_OCTETS:
        raise SignatureError("bh= is no digest of SHA-256")
    return body_hash


def read_base64(value: bytes, what: str) -> bytes:
    """The octets, which may be folded anywhere; SignatureError where there are none."""
    try:
        octets = binascii.a2b_base64(without_space(value), strict_mode=True)
    except binascii.Error:
        raise SignatureError(f"{what} is no base64") from None
    if not octets:
        raise SignatureError(f"{what} is empty")
    return octets


def read_canons(value: bytes) -> tuple[Canon, Canon]:
    """The forms of header and body that c= names; of the body "simple" where it names one."""
    try:
        return _CANONS[value.lower()]
    except KeyError:
        raise SignatureError("c= is of no known form") from None


def read_number(tags: Mapping[bytes, bytes], name: bytes, digits: int) -> int | None:
    """The number that a tag has, None without it."""
    value = tags.get(name)
    if value is None:
        return None
    if not value.isdigit() or len(value) > digits:
        raise SignatureError(f"{name.decode()}= is no number")
    return int(value)


def without_signature(octets: bytes) -> bytes:
    """A signature's field with an empty b=, as it was hashed (RFC 6376 section 3.5); nothing else changes."""
    name, colon, value = octets.partition(b":")
    pieces = value.split(b";")
    for at, piece in enumerate(pieces):
        tag, equals, _ = piece.partition(b"=")
        if tag.strip(b" \t\r\n") == b"b":
            pieces[at] = tag + equals
            break
    return name + colon + b";".join(pieces)


class HeaderFields:
    """The fields of one header section, for any number of signatures to pick from."""

    def __init__(self, fields: Sequence[Field]) -> None:
        self.fields = fields
        self._by_name: dict[bytes, list[Field]] = {}
        for field in fields:
            if field[0] in self._by_name:
                self._by_name[field[0]].append(field)
            else:
                self._by_name[field[0]] = [field]

    def named(self, name: bytes) -> Sequence[Field]:
        """Those of a name in lower case, first to last."""
        return self._by_name.get(name, ())

    def select(self, names: Iterable[bytes]) -> list[Field]:
        """What the names of an h= stand for. Of several fields of one name the last comes first (RFC 6376 section
        5.4.2); a name that has no field left stands for nothing."""
        taken: dict[bytes, int] = {}
        chosen: list[Field] = []
        for name in names:
            fields = self._by_name.get(name)
            if fields is not None:
                count = taken.get(name, 0) + 1
                if count <= len(fields):
                    taken[name] = count
                    chosen.append(fields[-count])
        return chosen

    def signed_octets(self, names: Iterable[bytes], canon: Canon, signature: Field) -> bytes:
        """What a signature with these names signs: the fields, and its own with an empty b= (RFC 6376 section 3.7)."""
        chosen = self.select(names)
        chosen.append((signature[0], without_signature(signature[1])))
        return canonical_fields(chosen, canon)


def _names(value: bytes) -> list[bytes]:
    """The names of a list of header fields (h=), lower case, in their order."""
    names = without_space(value).lower().split(b":")
    if len(names) > MAX_NAMES:
        raise SignatureError(f"h= has more than {MAX_NAMES} names")
    if not all(names):
        raise SignatureError("h= has an empty name")
    return names


def _identity(value: bytes, domain: str) -> str:
    """i= without its encoding (RFC 6376 section 2.11): an address below the domain, its local part may be empty."""
    octets = without_space(value)
    if len(octets) > _LONGEST_IDENTITY:
        raise SignatureError("i= is too long")
    if b"=" in octets:
        octets = _ENCODED.sub(_decoded, octets)
    local, at, host = octets.rpartition(b"@")
    name = domain_name(host)
    text = local.decode("utf-8", "replace")
    if not at or not name or not text.isprintable():
        raise SignatureError("i= is no address")
    if not is_within(name, domain):
        raise SignatureError("i= is not below d=")
    return f"{text}@{name}"


def _decoded(match: re.Match[bytes]) -> bytes:
    return bytes.fromhex(match[1].decode())
