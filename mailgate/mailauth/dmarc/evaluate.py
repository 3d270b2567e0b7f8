"""Whether a message may bear its author's domain, and what the owner asks for where not (RFC 9989 section 5.3)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mailgate.interfaces import DnsStatus, IResolver
from mailgate.mailauth.dmarc.author import Authors, author_domain, author_domains
from mailgate.mailauth.dmarc.organization import Domains, Policy
from mailgate.mailauth.dmarc.record import Mode
from mailgate.mailauth.results import ArcResult, DkimResult, DmarcRecord, DmarcResult, SpfResult

__all__ = ["MAX_IDENTITIES", "evaluate_dmarc"]

#: Domains of signatures whose organization is looked for; each may cost a walk.
MAX_IDENTITIES = 10
#: Policies, the mildest first.
_STRICTNESS = ("none", "quarantine", "reject")

_MOST_NAMED = 5
_MILDER = {"reject": "quarantine", "quarantine": "none", "none": "none"}


async def evaluate_dmarc(
    resolver: IResolver,
    *,
    header_from: str | Sequence[str] | Authors,
    spf: SpfResult | None,
    dkim: Sequence[DkimResult],
    arc: ArcResult | None = None,
    mode: Mode = "rfc9989",
    chance: random.Random | None = None,
) -> DmarcResult:
    """The result for a message whose author is `header_from`: a domain, a mailbox, several of them, or what
    `author_domains` has found in the From fields.

    Every author's domain is evaluated (RFC 9989 section 11.5): one that fails makes the message fail, with the
    strictest policy of those that do; all must pass for a pass. A From field with a problem never passes, permerror.
    temperror: DNS cannot say now, and might yet say something that lets the message pass; `record` is then the record
    that counts as far as is known.

    `arc` is told in the reason and changes nothing. `chance` draws for pct= in the mode of RFC 7489; without it every
    share above 0 is taken as the whole. At most 8 queries for each author's domain, and for each domain below it that
    has signed; never raises for what DNS says.
    """
    authors = header_from if isinstance(header_from, Authors) else _authors(header_from)
    if not authors.domains:
        return DmarcResult("permerror", reason=authors.problem)
    evaluation = _Evaluation(Domains.of(resolver, mode), _identities(spf, dkim), mode, chance)
    result = _together([await evaluation.judge(domain) for domain in authors.domains])
    if authors.problem and result.result != "fail":
        return replace(result, result="permerror", reason=authors.problem, aligned=())
    if result.result == "fail":
        return replace(result, reason="; ".join(filter(None, (result.reason, _found(spf, dkim, arc)))))
    return result


def _authors(header_from: str | Sequence[str]) -> Authors:
    texts = [header_from] if isinstance(header_from, str) else header_from
    if not texts:
        return author_domains(())
    return author_domains([", ".join(one if "@" in one or not one.strip() else f"x@{one}" for one in texts)])


@dataclass(frozen=True, slots=True)
class _Identity:
    """A domain that speaks for the message, by "spf" or "dkim"; `is_sure` is False where that is not known yet."""

    method: str
    domain: str
    is_sure: bool


def _identities(spf: SpfResult | None, dkim: Sequence[DkimResult]) -> list[_Identity]:
    """Those that passed, or may pass later, each once; the sure ones first."""
    found = [("spf", spf.result, spf.domain)] if spf is not None else []
    found += [("dkim", one.result, one.domain) for one in dkim]
    identities: dict[_Identity, None] = {}
    for wanted in ("pass", "temperror"):
        for method, result, text in found:
            if result == wanted and (domain := author_domain(text)):
                identities[_Identity(method, domain, wanted == "pass")] = None
    return list(identities)[:MAX_IDENTITIES]


class _Evaluation:
    """One message's evaluation for each of its authors' domains."""

    def __init__(
        self, domains: Domains, identities: Sequence[_Identity], mode: Mode, chance: random.Random | None
    ) -> None:
        self._domains = domains
        self._identities = identities
        self._mode = mode
        self._chance = chance

    async def judge(self, author: str) -> DmarcResult:
        policy = await self._domains.policy_for(author)
        record = policy.record
        if record is None:
            return _without_record(author, policy)
        aligned, unsure = await self._aligned(author, record)
        # Where an identity of the very same name passed, nothing else is needed.
        needs_more = not aligned or any(one.domain != author for one in self._identities)
        organization = (await self._domains.organization_of(author)).domain if needs_more else author
        if aligned:
            return DmarcResult("pass", "none", author, organization, record, aligned)
        if unsure or not policy.is_certain:
            reason = unsure or policy.problem
            return DmarcResult("temperror", "none", author, organization, record, reason=reason)
        asked, why = await self._asked(author, record)
        return DmarcResult("fail", asked, author, organization, record, reason=why)

    async def _aligned(self, author: str, record: DmarcRecord) -> tuple[tuple[str, ...], str]:
        """By which methods the message passes, and what else may yet let it pass, in words."""
        aligned: dict[str, None] = {}
        unsure = ""
        for one in self._identities:
            if one.method in aligned:
                continue
            strict = record.strict_spf if one.method == "spf" else record.strict_dkim
            match await self._domains.are_aligned(author, one.domain, strict=strict):
                case True if one.is_sure:
                    aligned[one.method] = None
                case True:
                    unsure = unsure or f"{one.method}=temperror for {one.domain}"
                case None:
                    unsure = unsure or f"DNS cannot say now whether {one.domain} and {author} belong together"
        return tuple(aligned), unsure

    async def _asked(self, author: str, record: DmarcRecord) -> tuple[str, str]:
        """What the owner wants done with what failed, and from which tag that comes."""
        tag, asked = await self._tag(author, record)
        why = f"{tag}={asked} of {record.domain}"
        if record.is_testing:
            return _MILDER[asked], f"{why}, in test mode"
        if self._mode == "rfc7489" and not self._is_sampled(record.percent):
            return _MILDER[asked], f"{why}, not sampled by pct={record.percent}"
        return asked, why

    async def _tag(self, author: str, record: DmarcRecord) -> tuple[str, str]:
        if record.domain == author:
            return "p", record.policy
        if self._mode == "rfc7489" or record.missing_policy == record.subdomain_policy:
            return "sp", record.subdomain_policy
        answer = await self._domains.ask(author, "A")
        if answer.is_temporary:
            # It fails either way; what is asked for in both cases is certain.
            return min(
                ("sp", record.subdomain_policy),
                ("np", record.missing_policy),
                key=lambda one: _STRICTNESS.index(one[1]),
            )
        if answer.status is DnsStatus.NXDOMAIN:
            return "np", record.missing_policy
        return "sp", record.subdomain_policy

    def _is_sampled(self, percent: int) -> bool:
        if self._chance is None or percent == 0:
            return percent > 0
        return self._chance.random() * 100 < percent


def _without_record(author: str, policy: Policy) -> DmarcResult:
    result = "temperror" if not policy.is_certain else "permerror" if policy.is_broken else "none"
    return DmarcResult(result, domain=author, reason=policy.problem or "there is no record")


def _together(results: Sequence[DmarcResult]) -> DmarcResult:
    """One result out of those for several authors."""
    if len(results) == 1:
        return results[0]
    failed = [one for one in results if one.result == "fail"]
    if failed:
        worst = max(failed, key=lambda one: _STRICTNESS.index(one.policy))
        if worst.policy != "none":
            return worst
    for one in results:
        if one.result == "temperror" and one.may_ask:
            return one  # nothing is asked for certain, and this owner may ask as soon as it can be told
    for wanted in ("fail", "temperror", "permerror", "none"):
        for one in results:
            if one.result == wanted:
                return one
    return results[0]


def _found(spf: SpfResult | None, dkim: Sequence[DkimResult], arc: ArcResult | None) -> str:
    """What there was, none of which made the message pass."""
    parts = ["SPF was not checked" if spf is None else f"spf={spf.result} for {spf.domain or 'nobody'}"]
    parts += [f"dkim={one.result} for {one.domain or 'nobody'}" for one in dkim[:_MOST_NAMED]]
    if len(dkim) > _MOST_NAMED:
        parts.append(f"{len(dkim) - _MOST_NAMED} signatures more")
    if not dkim:
        parts.append("no signature was checked")
    if arc is not None and arc.result != "none":
        parts.append(arc.summary())
    return "; ".join(parts)
