"""Which domains belong together, and whose policy counts for a domain: the walk up the tree of DNS (RFC 9989 section
4.10), or the public suffix list with one look above (RFC 7489 sections 3.2 and 6.6.3)."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace

from publicsuffixlist import PublicSuffixList

from mailgate.awaiting import answered
from mailgate.interfaces import Answer, IResolver
from mailgate.mailauth.dkim.signature import is_within
from mailgate.mailauth.dmarc.record import Mode, RecordReading, read_records
from mailgate.mailauth.results import DmarcRecord

__all__ = ["MAX_QUERIES", "Domains", "Organization", "Policy", "organizational_domain", "public_suffixes", "walk_names"]

#: Queries of one walk (RFC 9989 section 4.10).
MAX_QUERIES = 8


@dataclass(frozen=True, slots=True)
class Organization:
    """The organizational domain of a domain; where DNS could not say everything it may be another one."""

    domain: str
    is_certain: bool = True


@dataclass(frozen=True, slots=True)
class Policy:
    """The record that counts for an author's domain.

    `problem` says why there is none to apply; `is_broken`: because of what is published (permerror). `is_certain` is
    False where DNS could not say everything: then `record` is the one that counts if the rest holds nothing.
    """

    record: DmarcRecord | None
    problem: str = ""
    is_broken: bool = False
    is_certain: bool = True


def organizational_domain(domain: str) -> str:
    """By the public suffix list: the domain that was registered (RFC 7489 section 3.2), in lower case. A public suffix
    is its own."""
    domain = domain.lower()
    return public_suffixes().privatesuffix(domain) or domain


@functools.cache
def public_suffixes() -> PublicSuffixList:
    """The list that comes with its package. The first call reads it, which takes some ten milliseconds."""
    return PublicSuffixList()


def walk_names(domain: str) -> Iterator[str]:
    """The domains whose records a walk asks for, from the longest to the shortest."""
    yield domain
    labels = domain.split(".")
    for count in range(min(len(labels), MAX_QUERIES) - 1, 0, -1):
        yield ".".join(labels[-count:])


class Domains(ABC):
    """What one message has to know of domains (lower case, A-labels). Every question is asked once."""

    @staticmethod
    def of(resolver: IResolver, mode: Mode) -> Domains:
        """As the standard wants it."""
        return _Tree(resolver, mode) if mode == "rfc9989" else _Suffixes(resolver, mode)

    def __init__(self, resolver: IResolver, mode: Mode) -> None:
        self._resolver = resolver
        self._mode = mode
        self._known: dict[tuple[str, str], Answer] = {}

    @abstractmethod
    async def policy_for(self, domain: str) -> Policy:
        """Whose record counts for an author's domain."""

    @abstractmethod
    async def organization_of(self, domain: str) -> Organization:
        """The organizational domain."""

    async def are_aligned(self, author: str, identity: str, *, strict: bool) -> bool | None:
        """Whether an identity speaks for the author's domain (RFC 9989 section 4.4); None where DNS cannot say."""
        if author == identity:
            return True
        if strict or author.rpartition(".")[2] != identity.rpartition(".")[2]:
            return False
        organization = await self.organization_of(author)
        if organization.is_certain and not is_within(identity, organization.domain):
            return False  # whatever the identity's own is
        other = await self.organization_of(identity)
        if not (organization.is_certain and other.is_certain):
            return None
        return other.domain == organization.domain

    async def ask(self, name: str, rdtype: str) -> Answer:
        """What DNS says, or has said for this message."""
        question = name, rdtype
        if question not in self._known:
            self._known[question] = await answered(self._resolver.resolve(name, rdtype))
        return self._known[question]

    async def _record(self, domain: str) -> RecordReading | None:
        """What is published for this domain itself; None where DNS cannot say."""
        answer = await self.ask(f"_dmarc.{domain}", "TXT")
        return None if answer.is_temporary else read_records(answer.records, domain, self._mode)


@dataclass(frozen=True, slots=True)
class _Walk:
    """What a walk found: records from the longest name to the shortest, and what was wrong on the way."""

    readings: tuple[tuple[DmarcRecord, str], ...]
    problem: str
    is_broken: bool
    is_certain: bool


class _Tree(Domains):
    def __init__(self, resolver: IResolver, mode: Mode) -> None:
        super().__init__(resolver, mode)
        self._walks: dict[str, _Walk] = {}

    async def policy_for(self, domain: str) -> Policy:
        own = await self._record(domain)
        if own is not None and (own.record or _is_broken(own)):
            return _policy_of(own)
        walk = await self._walk(domain)
        record, problem = self._chosen(domain, walk)
        if not walk.is_certain:
            return Policy(None if problem else record, walk.problem, is_certain=False)
        if record is not None:
            return Policy(None if problem else record, problem, is_broken=bool(problem))
        return Policy(None, walk.problem, is_broken=walk.is_broken)

    async def organization_of(self, domain: str) -> Organization:
        walk = await self._walk(domain)
        return Organization(_organization(domain, walk), walk.is_certain)

    def _chosen(self, domain: str, walk: _Walk) -> tuple[DmarcRecord | None, str]:
        """The record of the organizational domain, or else that of the public suffix domain above it."""
        organization = _organization(domain, walk)
        for record, problem in walk.readings:
            if record.domain == organization or record.psd == "y":
                return record, problem
        return None, ""

    async def _walk(self, domain: str) -> _Walk:
        if domain not in self._walks:
            self._walks[domain] = await self._climb(domain)
        return self._walks[domain]

    async def _climb(self, domain: str) -> _Walk:
        readings: list[tuple[DmarcRecord, str]] = []
        problem, unsaid, is_broken = "", "", False
        for name in walk_names(domain):
            reading = await self._record(name)
            if reading is None:
                if unsaid:
                    break  # each such question may take as long as a question can
                unsaid = f"DNS cannot say now whether _dmarc.{name} has a record"
                continue
            problem = problem or reading.problem
            is_broken = is_broken or _is_broken(reading)
            if reading.record is not None:
                readings.append((reading.record, reading.problem))
                if reading.record.psd != "u":
                    break
        return _Walk(tuple(readings), unsaid or problem, is_broken, is_certain=not unsaid)


def _organization(domain: str, walk: _Walk) -> str:
    """RFC 9989 section 4.10.2: a walk ends at psd=y and psd=n, so such a record is the last one."""
    if not walk.readings:
        return domain
    last = walk.readings[-1][0]
    if last.psd == "y":
        # One label below it, or it itself, where the walk began there.
        labels = domain.split(".")
        return ".".join(labels[-last.domain.count(".") - 2 :])
    return last.domain


class _Suffixes(Domains):
    async def policy_for(self, domain: str) -> Policy:
        own = await self._record(domain)
        if own is not None and (own.record or own.problem):
            return _policy_of(own)  # several records end the search here (RFC 7489 section 6.6.3)
        problem = f"DNS cannot say now whether _dmarc.{domain} has a record" if own is None else ""
        organization = organizational_domain(domain)
        if organization == domain:
            return Policy(None, problem, is_certain=own is not None)
        above = await self._record(organization)
        if above is None:
            problem = problem or f"DNS cannot say now whether _dmarc.{organization} has a record"
            return Policy(None, problem, is_certain=False)
        return replace(_policy_of(above), problem=problem or above.problem, is_certain=own is not None)

    async def organization_of(self, domain: str) -> Organization:
        return Organization(organizational_domain(domain))


def _is_broken(reading: RecordReading) -> bool:
    """Whether what stands there was meant to be the record, so that no other takes its place."""
    return bool(reading.problem) and not reading.is_several


def _policy_of(reading: RecordReading) -> Policy:
    return Policy(None if reading.problem else reading.record, reading.problem, is_broken=_is_broken(reading))
