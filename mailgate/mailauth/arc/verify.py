"""Validating the chain of a message (RFC 8617 section 5.2)."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from mailgate.interfaces import IResolver
from mailgate.mailauth.arc.chain import MAX_HOPS, ChainError, Hop, read_chain, sealed_octets
from mailgate.mailauth.dkim.canonical import Bodies, Wanted, split_message
from mailgate.mailauth.dkim.keys import (
    KeyName,
    KeyUnavailableError,
    KeyUnusableError,
    PublicKey,
    fetch_keys,
    key_name,
)
from mailgate.mailauth.dkim.limits import VerifyLimits
from mailgate.mailauth.dkim.signature import SINGLE, HeaderFields, Signature, SignatureError
from mailgate.mailauth.results import ArcResult

__all__ = ["ChainVerification", "verify_arc"]

#: The readings of one message signature.
Forms = tuple[Signature, ...]

_LIMITS = VerifyLimits()
#: Keys that are asked for at the same time; most chains have fewer.
_AT_ONCE = 8


async def verify_arc(
    resolver: IResolver,
    message: bytes,
    *,
    now: float | None = None,
    max_hops: int = MAX_HOPS,
    limits: VerifyLimits = _LIMITS,
) -> ArcResult:
    """The chain of a message: "none" without one, "pass", or "fail" with the reason.

    `message` is whole, as it was received; LF alone is read as CRLF. `now` is in seconds since 1970, the present by
    default. A chain of more than `max_hops` fails. Of `limits` those of keys and time count. With a resolver that
    answers at once this ends at once. A large body is hashed here and now: see `ChainVerification` for another way.
    """
    fields, body = split_message(message)
    verification = ChainVerification(HeaderFields(fields), now=now, max_hops=max_hops, limits=limits)
    if verification.decided is not None:
        return verification.decided
    bodies = Bodies(body)
    bodies.prepare(verification.wanted)
    return await verification.result(resolver, bodies)


class ChainVerification:
    """The chain of one header section, as far as it can be judged without the body and without keys.

    `decided` is the result where that suffices. Otherwise `wanted` are the digests of the body that are needed: who has
    them asks for the `result`.
    """

    def __init__(
        self,
        header: HeaderFields,
        *,
        now: float | None = None,
        max_hops: int = MAX_HOPS,
        limits: VerifyLimits = _LIMITS,
    ) -> None:
        self.decided: ArcResult | None = None
        self.wanted: list[Wanted] = []
        self._header = header
        self._limits = limits
        self._now = time.time() if now is None else now
        self._hops: tuple[Hop, ...] = ()
        #: The message signatures that are looked at, newest first; what cannot be one ends them.
        self._messages: list[Forms] = []
        try:
            self._hops = read_chain(header, max_hops)
            if not self._hops:
                self.decided = ArcResult("none")
                return
            self._messages.append(self._message(self._hops[-1]))
        except ChainError as error:
            self._hops = error.hops
            self.decided = self.failed(str(error))
        except SignatureError as error:
            self.decided = self.failed(f"the message signature of {_named(self._hops[-1])}: {error}")
        else:
            self._messages += self._older()
            self.wanted = [(form.body_canon, None) for forms in self._messages for form in forms]

    async def result(self, resolver: IResolver, bodies: Bodies) -> ArcResult:
        """What the chain comes to. `bodies` must know what is wanted."""
        newest, *older = self._messages
        keys = _Keys(resolver, self._key_names())
        try:
            problem = await self._message_problem(self._hops[-1], newest, bodies, keys)
            if problem:
                return self.failed(f"the message signature of {_named(self._hops[-1])}: {problem}")
            octets = sealed_octets(self._hops)
            for hop in reversed(self._hops):
                key = await keys.get(hop.seal.domain, hop.seal.selector)
                problem = self._key_problem(hop.seal.algorithm, key)
                if not problem and not key.verify(octets[hop.instance - 1], hop.seal.signature):
                    problem = "a field of the chain has changed, or another key sealed it"
                if problem:
                    return self.failed(f"the seal of {_named(hop)}: {problem}")
        except KeyUnusableError as error:
            return self.failed(f"{keys.last}: {error}")
        except KeyUnavailableError as error:
            return self.failed(f"{keys.last}: {error}", is_temporary=True)
        oldest = await self._oldest(older, bodies, keys)
        uncovered = tuple(self._uncovered(newest[0]))
        return ArcResult("pass", sets=tuple(hop.told() for hop in self._hops), oldest_pass=oldest, uncovered=uncovered)

    def failed(self, reason: str, *, is_temporary: bool = False) -> ArcResult:
        """The result where the chain does not hold, or, for now, cannot be told about."""
        sets = tuple(hop.told() for hop in self._hops)
        return ArcResult("fail", reason, sets, is_temporary=is_temporary)

    def _message(self, hop: Hop) -> Forms:
        forms = hop.message()
        problem = self._limits.time_problem(forms[0].made, forms[0].expires, self._now)
        if problem:
            raise SignatureError(problem)
        return forms

    def _older(self) -> Iterator[Forms]:
        for hop in self._hops[-2::-1]:
            try:
                yield self._message(hop)
            except SignatureError:
                return

    def _key_names(self) -> Iterator[KeyName]:
        """In the order in which they are asked for: those of one hop together."""
        for number, hop in enumerate(reversed(self._hops)):
            if number < len(self._messages):
                yield self._messages[number][0].domain, self._messages[number][0].selector
            yield hop.seal.domain, hop.seal.selector

    async def _message_problem(self, hop: Hop, forms: Forms, bodies: Bodies, keys: _Keys) -> str:
        """Why a message signature does not hold, "" where it does."""
        problem = ""
        for form in forms:
            problem = self._body_problem(form, bodies) or await self._header_problem(hop, form, keys)
            if not problem:
                break
        return problem

    def _body_problem(self, signature: Signature, bodies: Bodies) -> str:
        if signature.length is not None:
            # Who adds to a body that others vouch for could say anything.
            size = bodies.size(signature.body_canon)
            if signature.length != size:
                return f"l= is {signature.length}, and the body has {size} octets"
        return "" if bodies.digest(signature.body_canon) == signature.body_hash else "the body has changed"

    async def _header_problem(self, hop: Hop, signature: Signature, keys: _Keys) -> str:
        authors = len(self._header.named(b"from"))
        if authors > 1 and signature.names.count(b"from") < authors:
            # Readers may show the one that nobody has signed (RFC 6376 section 8.15).
            return f"not each of the {authors} From is signed"
        key = await keys.get(signature.domain, signature.selector)
        problem = self._key_problem(signature.algorithm, key)
        if problem:
            return problem
        octets = self._header.signed_octets(signature.names, signature.header_canon, hop.message_field)
        return "" if key.verify(octets, signature.signature) else "the header has changed, or another key signed it"

    def _uncovered(self, signature: Signature) -> Iterator[str]:
        if b"from" not in signature.names:
            yield "from"
        for name in SINGLE:
            if 1 < len(self._header.named(name)) > signature.names.count(name):
                yield name.decode()

    def _key_problem(self, algorithm: str, key: PublicKey) -> str:
        problem = key.mismatch(algorithm)
        if not problem and key.algorithm == "rsa" and key.bits < self._limits.key_bits:
            return f"a key of {key.bits} bits proves nothing"
        return problem

    async def _oldest(self, older: list[Forms], bodies: Bodies, keys: _Keys) -> int:
        """The lowest instance whose message signature holds, 0 for the first (section 5.2, step 5)."""
        oldest = len(self._hops)
        for hop, forms in zip(self._hops[-2::-1], older, strict=False):
            try:
                if await self._message_problem(hop, forms, bodies, keys):
                    break
            except (KeyUnavailableError, KeyUnusableError):
                break
            oldest = hop.instance
        return 0 if oldest == 1 else oldest


class _Keys:
    """Keys of a list of names, asked for a few at a time and each once, when they are needed."""

    def __init__(self, resolver: IResolver, names: Iterable[KeyName]) -> None:
        self._resolver = resolver
        self._waiting = list(dict.fromkeys(names))
        self._found: dict[KeyName, PublicKey | KeyUnavailableError | KeyUnusableError] = {}
        self.last = ""

    async def get(self, domain: str, selector: str) -> PublicKey:
        """One of them. KeyUnavailableError, KeyUnusableError; `last` then tells of which."""
        self.last = key_name(domain, selector)
        while (domain, selector) not in self._found:
            self._found |= await fetch_keys(self._resolver, self._waiting[:_AT_ONCE])
            del self._waiting[:_AT_ONCE]
        key = self._found[domain, selector]
        if isinstance(key, Exception):
            raise key
        return key


def _named(hop: Hop) -> str:
    return f"hop {hop.instance} ({hop.seal.domain})"
