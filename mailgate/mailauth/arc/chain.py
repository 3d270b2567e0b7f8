"""The sets of a message, read and put in order (RFC 8617 sections 4 and 5.2, steps 1 to 3): no keys, no body."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

from msgspec import Struct

from mailgate.mailauth.dkim.canonical import Field, canonical_fields
from mailgate.mailauth.dkim.limits import MAX_FIELD_OCTETS, MAX_FIELDS, MAX_NAMES
from mailgate.mailauth.dkim.signature import (
    HeaderFields,
    Signature,
    SignatureError,
    read_algorithm,
    read_base64,
    read_body_hash,
    read_canons,
    read_key_name,
    read_number,
    require_tags,
    without_signature,
)
from mailgate.mailauth.dkim.tags import TagError, decode_list, parse_tags
from mailgate.mailauth.results import ArcSet
from mailgate.message import MAX_HEADER

__all__ = ["MAX_HOPS", "ChainError", "Hop", "Seal", "read_chain", "sealed_octets", "standing"]

T = TypeVar("T")

#: RFC 8617 section 5.2, step 1.
MAX_HOPS = 50

_RESULTS, _MESSAGE, _SEAL = b"arc-authentication-results", b"arc-message-signature", b"arc-seal"
_WRITTEN = {_RESULTS: "ARC-Authentication-Results", _MESSAGE: "ARC-Message-Signature", _SEAL: "ARC-Seal"}
_INSTANCE = re.compile(rb"[0-9]{1,9}")
#: How an ARC-Authentication-Results field begins (section 4.1.1); the rest of it is as in Authentication-Results.
_BEGINNING = re.compile(rb"[ \t\r\n]*+i[ \t\r\n]*+=[ \t\r\n]*+([0-9]{1,9})[ \t\r\n]*+;")


class ChainError(ValueError):
    """The sets are no chain; the message says why, for people. `hops` are those that could be read, if any."""

    def __init__(self, reason: str, hops: tuple[Hop, ...] = ()) -> None:
        super().__init__(reason)
        self.hops = hops


class Seal(Struct, frozen=True):
    """What an ARC-Seal field says (section 4.1.3). `validation` is cv=: "none", "pass" or "fail"."""

    algorithm: str
    domain: str
    selector: str
    validation: str
    signature: bytes


class Hop(Struct, frozen=True):
    """One set: the three fields as they stand, and what the two signatures among them say.

    The message signature is a matter of its own: only the newest must hold.
    """

    instance: int
    results: Field
    message_field: Field
    message_tags: Mapping[bytes, bytes]
    seal_field: Field
    seal: Seal

    def message(self) -> tuple[Signature, ...]:
        """The message signature. SignatureError where it cannot be one (section 4.1.2).

        Without c= there are two readings, and either may hold: the RFC has the default of DKIM, and the drafts before
        it, after which much was built, have relaxed/relaxed.
        """
        forms = (self.message_tags[b"c"],) if b"c" in self.message_tags else (b"relaxed/relaxed", b"simple/simple")
        return tuple(_message_signature(self.message_tags, form) for form in forms)

    def told(self) -> ArcSet:
        """The hop as the result has it."""
        value = self.results[1].partition(b":")[2].partition(b";")[2].replace(b"\r\n", b"")
        text = value.decode("utf-8", "replace").strip(" \t")
        return ArcSet(self.instance, self.seal.domain, self.seal.selector, text)


def read_chain(header: HeaderFields, limit: int = MAX_HOPS) -> tuple[Hop, ...]:
    """The hops of a message in their order, complete and without gaps; none where there is no ARC field.

    ChainError: more than `limit` hops, a set that is not complete or there twice, a field that cannot be read, or seals
    that do not follow one another, such as one that says that the chain had failed before.
    """
    fields = {name: header.named(name) for name in (_RESULTS, _MESSAGE, _SEAL)}
    count = max(map(len, fields.values()))
    if not count:
        return ()
    if count > limit:
        raise ChainError(f"more than {limit} hops")
    if len(header.fields) > MAX_FIELDS:
        raise ChainError(f"not looked at: the header has more than {MAX_FIELDS} fields")
    if sum(len(octets) for _, octets in header.fields) > MAX_HEADER:
        raise ChainError(f"not looked at: the header has more than {MAX_HEADER} octets")
    results = _by_instance(_RESULTS, ((_instance_of_results(one), one) for one in fields[_RESULTS]))
    messages = _by_instance(_MESSAGE, ((_instance(one, tags), (one, tags)) for one, tags in _tagged(fields[_MESSAGE])))
    seals = _by_instance(_SEAL, ((_instance(one, tags), (one, tags)) for one, tags in _tagged(fields[_SEAL])))
    hops: list[Hop] = []
    for instance in range(1, max([*results, *messages, *seals]) + 1):
        for name, found in ((_RESULTS, results), (_MESSAGE, messages), (_SEAL, seals)):
            if instance not in found:
                raise ChainError(f"hop {instance} has no {_WRITTEN[name]}")
        try:
            seal = _seal(seals[instance][1])
        except SignatureError as error:
            raise ChainError(f"the seal of hop {instance}: {error}") from None
        hops.append(Hop(instance, results[instance], *messages[instance], seals[instance][0], seal))
    chain = tuple(hops)
    _check_validations(chain)
    return chain


def sealed_octets(hops: Sequence[Hop]) -> list[bytes]:
    """What each of the hops has sealed (section 5.1.1): all sets up to its own, with an empty b= in its own seal."""
    octets: list[bytes] = []
    before = b""
    for hop in hops:
        own = (hop.seal_field[0], without_signature(hop.seal_field[1]))
        octets.append(before + canonical_fields([hop.results, hop.message_field, own], "relaxed"))
        before += canonical_fields([hop.results, hop.message_field, hop.seal_field], "relaxed") + b"\r\n"
    return octets


def standing(header: HeaderFields) -> tuple[int, bool]:
    """The highest instance of any ARC field, and whether a seal says that the chain has failed, as far as that can be
    read: for a message whose chain is broken."""
    highest, has_ended = 0, False
    for field in header.named(_RESULTS):
        highest = max(highest, _number(_BEGINNING.match(field[1].partition(b":")[2])))
    for name in (_MESSAGE, _SEAL):
        for field in header.named(name):
            try:
                tags = parse_tags(field[1].partition(b":")[2])
            except TagError:
                continue
            highest = max(highest, _number(_INSTANCE.fullmatch(tags.get(b"i", b""))))
            has_ended = has_ended or (name == _SEAL and tags.get(b"cv", b"").lower() == b"fail")
    return highest, has_ended


def _number(match: re.Match[bytes] | None) -> int:
    return int(match[match.lastindex or 0]) if match is not None else 0


def _check_validations(hops: tuple[Hop, ...]) -> None:
    """What the seals say of the chain before them (section 5.2, steps 2 and 3)."""
    if hops[-1].seal.validation == "fail":
        raise ChainError(f"it had failed at hop {hops[-1].instance} ({hops[-1].seal.domain})", hops)
    for hop in hops:
        expected = "none" if hop.instance == 1 else "pass"
        if hop.seal.validation != expected:
            raise ChainError(f"the seal of hop {hop.instance} says cv={hop.seal.validation}, not {expected}", hops)


def _by_instance(name: bytes, found: Iterator[tuple[int, T]]) -> dict[int, T]:
    known: dict[int, T] = {}
    for instance, one in found:
        if instance in known:
            raise ChainError(f"hop {instance} has more than one {_WRITTEN[name]}")
        known[instance] = one
    return known


def _tagged(fields: Sequence[Field]) -> Iterator[tuple[Field, Mapping[bytes, bytes]]]:
    for field in fields:
        try:
            yield field, parse_tags(field[1].partition(b":")[2])
        except TagError as error:
            raise ChainError(f"an {_WRITTEN[field[0]]} cannot be read: {error}") from None


def _instance(field: Field, tags: Mapping[bytes, bytes]) -> int:
    return _checked(field, _number(_INSTANCE.fullmatch(tags.get(b"i", b""))))


def _instance_of_results(field: Field) -> int:
    if len(field[1]) > MAX_FIELD_OCTETS:
        raise ChainError(f"an {_WRITTEN[_RESULTS]} of {len(field[1])} octets")
    return _checked(field, _number(_BEGINNING.match(field[1].partition(b":")[2])))


def _checked(field: Field, instance: int) -> int:
    if not 1 <= instance <= MAX_HOPS:
        raise ChainError(f"an {_WRITTEN[field[0]]} without an instance from 1 to {MAX_HOPS}")
    return instance


def _seal(tags: Mapping[bytes, bytes]) -> Seal:
    if b"h" in tags:
        raise SignatureError("h= must not be there")
    require_tags(tags, b"a", b"b", b"cv", b"d", b"s")
    read_number(tags, b"t", 12)
    validation = tags[b"cv"].lower()
    if validation not in (b"none", b"pass", b"fail"):
        raise SignatureError("cv= is neither none, pass nor fail")
    return Seal(read_algorithm(tags[b"a"]), *read_key_name(tags), validation.decode(), read_base64(tags[b"b"], "b="))


def _message_signature(tags: Mapping[bytes, bytes], form: bytes) -> Signature:
    """As DKIM-Signature, but that i= is another, v= means nothing, and h= may be empty.

    Of the fields of ARC only the seal must not be in h=: the drafts had the others there.
    """
    require_tags(tags, b"a", b"b", b"bh", b"d", b"h", b"s")
    names = [name for name in decode_list(tags[b"h"].lower()) if name]
    if len(names) > MAX_NAMES:
        raise SignatureError(f"h= has more than {MAX_NAMES} names")
    if _SEAL in names:
        raise SignatureError("h= must not name ARC-Seal")
    body_hash = read_body_hash(tags[b"bh"])
    algorithm = read_algorithm(tags[b"a"])
    domain, selector = read_key_name(tags)
    header_canon, body_canon = read_canons(form)
    return Signature(
        algorithm=algorithm,
        domain=domain,
        selector=selector,
        identity="",
        header_canon=header_canon,
        body_canon=body_canon,
        names=names,
        body_hash=body_hash,
        signature=read_base64(tags[b"b"], "b="),
        length=read_number(tags, b"l", 76),
        made=read_number(tags, b"t", 12),
        expires=read_number(tags, b"x", 12),
    )
