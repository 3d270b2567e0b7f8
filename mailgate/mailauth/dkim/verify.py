"""Verifying the DKIM signatures of a message (RFC 6376 section 6, RFC 8301, RFC 8463)."""

from __future__ import annotations

import binascii
import re
import time
from collections.abc import Mapping, Sequence

from mailgate.interfaces import IResolver
from mailgate.mailauth.dkim.canonical import Bodies, Field, Wanted, split_message
from mailgate.mailauth.dkim.keys import KeyName, KeyUnavailableError, KeyUnusableError, PublicKey, fetch_keys
from mailgate.mailauth.dkim.limits import MAX_FIELDS, VerifyLimits
from mailgate.mailauth.dkim.signature import (
    SINGLE,
    HeaderFields,
    Signature,
    SignatureError,
    domain_name,
    read_signature,
)
from mailgate.mailauth.dkim.tags import TagError, parse_tags
from mailgate.mailauth.results import DkimResult

__all__ = ["Verification", "verify_dkim"]

FoundKeys = Mapping[KeyName, PublicKey | KeyUnavailableError | KeyUnusableError]

_NAME = b"dkim-signature"
_LIMITS = VerifyLimits()
#: Octets of a signature that tell it from others: 12 characters of b= (RFC 6008 section 4: at least 8).
_SHOWN = 9
_WORD = re.compile(rb"[a-z0-9-]{1,32}")


async def verify_dkim(
    resolver: IResolver, message: bytes, *, now: float | None = None, limits: VerifyLimits = _LIMITS
) -> list[DkimResult]:
    """One result for each signature of a message, from the top; none for a message without signatures.

    `message` is whole, as it was received; LF alone is read as CRLF. `now` is in seconds since 1970, the present by
    default. Keys are asked for at the same time, each once. With a resolver that answers at once this ends at once.
    A large body is hashed here and now: see `Verification` for another way.
    """
    fields, body = split_message(message)
    verification = Verification(fields, now=now, limits=limits)
    if not verification.count:
        return []
    keys = await fetch_keys(resolver, verification.key_names)
    bodies = Bodies(body)
    bodies.prepare(verification.wanted)
    return verification.results(bodies, keys)


class Verification:
    """The signatures of one header section, as far as they can be judged without the body and without keys.

    `count` is how many there are; `wanted` are the digests of the body that they need, and `key_names` the keys. Who
    has fetched both asks for the `results`.
    """

    def __init__(
        self, header: Sequence[Field] | HeaderFields, *, now: float | None = None, limits: VerifyLimits = _LIMITS
    ) -> None:
        self.header = header if isinstance(header, HeaderFields) else HeaderFields(header)
        self._limits = limits
        signatures = self.header.named(_NAME)
        self.count = len(signatures)
        self.wanted: list[Wanted] = []
        self.key_names: list[KeyName] = []
        self._steps: list[tuple[Field, Signature] | DkimResult] = []
        if not signatures:
            return
        if len(self.header.fields) > MAX_FIELDS:
            self._refuse_all(f"not looked at: the header has more than {MAX_FIELDS} fields")
            return
        self._now = time.time() if now is None else now
        for field in signatures[: limits.signatures]:
            step = self._begin(field)
            self._steps.append(step)
            if not isinstance(step, DkimResult):
                signature = step[1]
                self.wanted.append((signature.body_canon, signature.length))
                self.key_names.append((signature.domain, signature.selector))
        if self.count > limits.signatures:
            reason = f"not looked at: the message has {self.count} signatures"
            self._steps += [DkimResult("policy", reason=reason)] * (self.count - limits.signatures)

    def refuse(self, reason: str) -> list[DkimResult]:
        """The results where the message cannot be judged, by something that the signatures do not know of."""
        self._refuse_all(reason)
        return self.results(Bodies(b""), {})

    def results(self, bodies: Bodies, keys: FoundKeys) -> list[DkimResult]:
        """One for each signature, from the top."""
        return [step if isinstance(step, DkimResult) else self._end(*step, bodies, keys) for step in self._steps]

    def _refuse_all(self, reason: str) -> None:
        self.wanted, self.key_names = [], []
        self._steps = [DkimResult("policy", reason=reason)] * self.count

    def _begin(self, field: Field) -> tuple[Field, Signature] | DkimResult:
        tags: Mapping[bytes, bytes] = {}
        try:
            tags = parse_tags(field[1].partition(b":")[2])
            signature = read_signature(tags)
        except TagError as error:
            return DkimResult("permerror", reason=f"the field cannot be read: {error}")
        except SignatureError as error:
            return _unread(tags, str(error))
        problem = self._limits.time_problem(signature.made, signature.expires, self._now)
        if problem:
            return _result("permerror", signature, problem)
        if not self.header.named(b"from"):
            return _result("permerror", signature, "the message has no From")
        return field, signature

    def _end(self, field: Field, signature: Signature, bodies: Bodies, keys: FoundKeys) -> DkimResult:
        key = keys[signature.domain, signature.selector]
        if isinstance(key, PublicKey):
            result, reason = self._judge(field, signature, bodies, key)
            return _result(result, signature, reason, key)
        return _result("temperror" if isinstance(key, KeyUnavailableError) else "permerror", signature, str(key))

    def _judge(self, field: Field, signature: Signature, bodies: Bodies, key: PublicKey) -> tuple[str, str]:
        problem = _mismatch(signature, key)
        if problem:
            return "permerror", problem
        if key.algorithm == "rsa" and key.bits < self._limits.key_bits:
            return "policy", f"a key of {key.bits} bits proves nothing"
        uncovered = 0
        if signature.length is not None:
            uncovered = bodies.size(signature.body_canon) - signature.length
            if uncovered < 0:
                return "permerror", "l= is more than the body has"
        if bodies.digest(signature.body_canon, signature.length) != signature.body_hash:
            return "fail", "the body has changed"
        octets = self.header.signed_octets(signature.names, signature.header_canon, field)
        if not key.verify(octets, signature.signature):
            return "fail", "the header has changed, or another key signed it"
        authors = len(self.header.named(b"from"))
        if signature.names.count(b"from") < authors:
            # Readers may show the one that nobody has signed (RFC 6376 section 8.15).
            return "fail", f"not each of the {authors} From is signed"
        if uncovered:
            reason = f"{uncovered} octets of the body are not signed"
            return "pass" if self._limits.allow_uncovered else "policy", reason
        several = [name for name in SINGLE if len(self.header.named(name)) > 1]
        added = [name.decode() for name in several if 0 < signature.names.count(name) < len(self.header.named(name))]
        if added:
            reason = f"not each {', '.join(added)} is signed"
            return "pass" if self._limits.allow_added else "policy", reason
        return "pass", ""


def _mismatch(signature: Signature, key: PublicKey) -> str:
    """Why a key is none for this signature, "" where it is one (RFC 6376 section 6.1.2)."""
    problem = key.mismatch(signature.algorithm)
    if not problem and key.strict_identity and signature.identity.rpartition("@")[2] != signature.domain:
        return "the key (t=s) is for d= only, and i= is below it"
    return problem


def _result(result: str, signature: Signature, reason: str, key: PublicKey | None = None) -> DkimResult:
    return DkimResult(
        result=result,
        domain=signature.domain,
        selector=signature.selector,
        identity=signature.identity,
        algorithm=signature.algorithm,
        signature=binascii.b2a_base64(signature.signature[:_SHOWN], newline=False).decode(),
        reason=reason,
        body_length=signature.length,
        key_bits=key.bits if key is not None else 0,
        is_testing=key is not None and key.is_testing,
        signed=tuple(b":".join(signature.names).decode("utf-8", "replace").split(":")),
    )


def _unread(tags: Mapping[bytes, bytes], reason: str) -> DkimResult:
    """The result of a signature that cannot be one, with what can be told of it."""
    algorithm = tags.get(b"a", b"").lower()
    return DkimResult(
        result="permerror",
        domain=domain_name(tags.get(b"d", b"")),
        selector=domain_name(tags.get(b"s", b"")),
        algorithm=algorithm.decode() if _WORD.fullmatch(algorithm) else "",
        reason=reason,
    )
