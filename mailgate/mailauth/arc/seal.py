"""Adding a set to the chain of a message (RFC 8617 section 5.1)."""

from __future__ import annotations

import binascii
import dataclasses
import time
from collections.abc import Sequence

from mailgate.mailauth.arc.chain import MAX_HOPS, ChainError, Hop, read_chain, standing
from mailgate.mailauth.authentication_results import AuthenticationResults
from mailgate.mailauth.dkim.canonical import Bodies, Field, canonical_fields, split_message
from mailgate.mailauth.dkim.keys import SigningKey
from mailgate.mailauth.dkim.sign import FIELD_NAME, default_names, fold, signer, with_signature
from mailgate.mailauth.dkim.signature import HeaderFields
from mailgate.mailauth.results import ArcResult

__all__ = ["CannotSealError", "seal_arc", "seal_header"]

#: RFC 8617 section 4.1.2. Authentication-Results would be taken away on the way.
_NEVER_SIGNED = frozenset({"arc-authentication-results", "arc-message-signature", "arc-seal", "authentication-results"})


class CannotSealError(ValueError):
    """The chain is over, or cannot be gone on with now; the message is to be left as it is."""


def seal_arc(
    message: bytes,
    key: SigningKey,
    *,
    domain: str,
    selector: str,
    authserv_id: str,
    authentication_results: str,
    chain: ArcResult,
    headers: Sequence[str] | None = None,
    now: float | None = None,
) -> tuple[bytes, bytes, bytes]:
    """The three fields of a new set, folded, each with its last CRLF, to be put on top in this order: ARC-Seal,
    ARC-Message-Signature, ARC-Authentication-Results.

    `message` is whole, as it will be sent; LF alone is read as CRLF. `domain` and `selector` are d= and s= of both
    signatures. `authentication_results` is the value of our Authentication-Results field, with or without the id in
    front; it is written with `authserv_id`, and without comments. `chain` is what verifying the message as it came
    found: after "none" and "pass" the chain goes on; after "fail" the set says so and covers itself alone (section
    5.1.2). `headers` are the names that the message signature covers, each as often as it is to be covered; `now` is in
    seconds since 1970.

    CannotSealError: a seal has said already that the chain failed, DNS could not tell whether it holds, or it has all
    the hops that it may have. Other ValueErrors: an argument that cannot be, or a `chain` that is another message's.
    """
    fields, body = split_message(message)
    return seal_header(
        HeaderFields(fields),
        Bodies(body).digest("relaxed"),
        key,
        domain=domain,
        selector=selector,
        authserv_id=authserv_id,
        authentication_results=authentication_results,
        chain=chain,
        headers=headers,
        now=now,
    )


def seal_header(
    header: HeaderFields,
    body_hash: bytes,
    key: SigningKey,
    *,
    domain: str,
    selector: str,
    authserv_id: str,
    authentication_results: str,
    chain: ArcResult,
    headers: Sequence[str] | None = None,
    now: float | None = None,
) -> tuple[bytes, bytes, bytes]:
    """As `seal_arc`, where the digest of the relaxed form of the body is there."""
    hops, instance = _place(header, chain)
    names = default_names(header, "DKIM-Signature") if headers is None else _given_names(headers)
    name, place = signer(domain, selector, "seal")
    signed_by = [f" d={name};", f" s={place};", f" t={int(time.time() if now is None else now)};"]

    told = dataclasses.replace(AuthenticationResults.parse(authentication_results), authserv_id=authserv_id)
    beginning = f"ARC-Authentication-Results: i={instance}; "
    results = (beginning + told.text(len(beginning))).encode()

    digest = binascii.b2a_base64(body_hash, newline=False).decode()
    covered = [f"{':' if at else ' h='}{name}" for at, name in enumerate(names)]
    tokens = [f" i={instance};", f" a={key.algorithm};", " c=relaxed/relaxed;", *signed_by]
    unsigned = fold("ARC-Message-Signature", [*tokens, *covered, ";", f" bh={digest};", " b="])
    octets = header.signed_octets([name.lower().encode() for name in names], "relaxed", _field(unsigned))
    message_signature = with_signature(unsigned, key.sign(octets))

    unsigned = fold("ARC-Seal", [f" i={instance};", f" cv={chain.result};", f" a={key.algorithm};", *signed_by, " b="])
    before = [field for hop in hops for field in (hop.results, hop.message_field, hop.seal_field)]
    own = [_field(results), _field(message_signature.removesuffix(b"\r\n")), _field(unsigned)]
    seal = with_signature(unsigned, key.sign(canonical_fields([*before, *own], "relaxed")))
    return seal, message_signature, results + b"\r\n"


def _place(header: HeaderFields, chain: ArcResult) -> tuple[tuple[Hop, ...], int]:
    """The hops that the new seal covers beside its own, and its instance."""
    if chain.result == "fail":
        if chain.is_temporary:
            # To say that it failed would end it for good.
            raise CannotSealError("whether the chain holds could not be told")
        hops: tuple[Hop, ...] = ()
        highest, has_ended = standing(header)
        if has_ended:
            raise CannotSealError("the chain has failed before, and a seal says so")
    else:
        try:
            hops = read_chain(header)
        except ChainError as error:
            raise ValueError(f"the chain is not that of the message: {error}") from None
        highest = len(hops)
        if highest != len(chain.sets) or (chain.result == "none") != (highest == 0):
            raise ValueError(f"the chain is not that of the message, which has {highest} hops")
    if highest >= MAX_HOPS:
        raise CannotSealError(f"the chain has {MAX_HOPS} hops already, or says so")
    return hops, highest + 1


def _field(octets: bytes) -> Field:
    return octets.partition(b":")[0].lower(), octets


def _given_names(names: Sequence[str]) -> list[str]:
    lowered = {name.lower() for name in names}
    if "from" not in lowered:
        raise ValueError("From must be covered")
    wrong = sorted(_NEVER_SIGNED & lowered) or [name for name in names if not FIELD_NAME.fullmatch(name)]
    if wrong:
        raise ValueError(f"{wrong[0]!r} cannot be covered")
    return list(names)
