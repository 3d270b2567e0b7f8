"""Asks lists in DNS about the domains that the links of a message lead to."""

from __future__ import annotations

from collections.abc import Awaitable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address
from typing import Annotated, Literal

from pydantic import Field
from zope.interface import implementer

from mailgate.config.schema import Network
from mailgate.config.values import Flag
from mailgate.content.models import Limits, Link
from mailgate.envelope import Session, Transaction
from mailgate.filters.dnsbl_lists import DnsList, ListSection, SelfTest, label_of
from mailgate.filters.dnsbl_results import ListedResult, SilentResult
from mailgate.filters.examining import Examining, ExaminingSection, Word, stated
from mailgate.filters.networks import NetworkSet
from mailgate.filters.together import together
from mailgate.findings import Finding
from mailgate.interfaces import FilterServices, IContentFilter
from mailgate.message import Message
from mailgate.stores.domains import DomainTable
from mailgate.verdict import Continue, Verdict

__all__ = ["LinkListedResult", "ListsSilentError", "Options", "Uribl", "build"]

_Found = ListedResult | SilentResult | None
#: What every list has listed, and never lists (RFC 5782 section 5).
_TESTS = {"domain": ("test", "invalid"), "address": ("2.0.0.127", "1.0.0.127")}


class LinkList(ListSection):
    """One list, in the form of those of the filter dnsbl."""

    kind: Literal["address", "domain"] = "domain"
    """what it lists. domain: the domains of links; address: links that name an IPv4 address instead of a host"""


class Options(ExaminingSection):
    """`[filters.uribl]`: which lists are asked about the links of a message, and what their hits come to.

    Links are taken from the text and the HTML of all parts and from the subject, decoded as programs decode them:
    entities, percent signs, international names, addresses written as numbers, and the addresses that a redirector is
    told to go on to. Each domain is asked as it was registered, by the list of public suffixes.
    """

    zones: list[LinkList] = Field(default=[])
    """the lists: the zone of each, "multi.uribl.com", or a table as for dnsbl. See the terms of their use; most want to
    be asked by a resolver of your own"""
    threshold: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """the sum of weights from which on `verdict` counts; of each list the hit counts once"""
    verdict: Word = "continue"
    """what is done then: reject (550 5.7.1), quarantine, defer, or continue, which leaves it to score: the facts are
    `uribl.ZONE` and `uribl.ZONE.CODE`"""
    ask_hosts: Flag = False
    """whether the whole name of a host is asked too, for lists that have such entries"""
    bare_names: Flag = False
    """whether names in the text count that are no links, like example.com"""
    max_domains: Annotated[int, Field(strict=True, ge=1, le=500)] = 30
    """how many domains of a message are asked, the first ones"""
    skip: list[str] = Field(default=[])
    """domains that are not asked, "example.org" or "*.example.org", beside ours"""
    exempt: list[Network] = Field(default=[])
    """clients whose mail is not looked into"""
    unreadable: Word = "continue"
    """what is done with messages that cannot be looked into"""
    text: str = "A link in this message is listed by"
    """what is replied to messages that are rejected; the name of the list follows"""


@dataclass(frozen=True, slots=True)
class LinkListedResult(Finding):
    """A hit: `subject` is the domain or address that the list `zone` has, with its `codes`; `weight` is what the hit
    adds, negative for an allow list."""

    zone: str
    subject: str
    codes: tuple[str, ...]
    weight: float
    is_allow: bool = False

    def summary(self) -> str:
        return f"the link to {self.subject} is listed by {self.zone} ({', '.join(self.codes)})"

    def facts(self) -> Sequence[str]:
        fact = f"{'uriwl' if self.is_allow else 'uribl'}.{self.zone}"
        return (fact, *(f"{fact}.{code}" for code in self.codes))


class ListsSilentError(Exception):
    """None of the lists could answer."""


def build(options: Options, services: FilterServices) -> object:
    """The filter. ValueError without lists."""
    return Uribl(options, services)


@implementer(IContentFilter)
class Uribl:
    """Every domain is asked at every list at the same time, as far as there is time."""

    def __init__(self, options: Options, services: FilterServices) -> None:
        if not options.zones:
            raise ValueError('zones names no list: write zones = ["multi.uribl.com"] or another that you may use')
        self._options = options
        self._examining = Examining(options, services, "uribl")
        self._exempt = NetworkSet(options.exempt)
        self._skip = DomainTable(dict.fromkeys(options.skip, True))
        self._services = services
        self._lists = [
            DnsList(number, section, services.resolver, services.clock, tells_text=False)
            for number, section in enumerate(options.zones)
        ]
        self._tests: dict[tuple[str, str], SelfTest] = {}

    def on_message(
        self, session: Session, transaction: Transaction, message: Message
    ) -> Verdict | Awaitable[Verdict | None] | None:
        """Look the links up."""
        if session.client.address in self._exempt:
            return None
        return self._judge(message)

    async def _judge(self, message: Message) -> Verdict | None:
        found = await self._examining.ask(message, Limits(), links=True, bare_hosts=self._options.bare_names)
        if found.failure is not None:
            return self._examining.unread(found.failure)
        subjects = self._subjects(found.links)
        questions = [pair for subject in subjects for pair in self._questions(subject)]
        if not questions:
            return None
        asked: list[Awaitable[_Found]] = [
            one.ask(label, subject, self._test_of(one)) for one, label, subject in questions
        ]
        answers = await together(asked)
        silent = [one for one in answers if isinstance(one, SilentResult)]
        broken = [one for one in silent if one.is_temporary]
        if broken and len(silent) == len(answers):
            raise ListsSilentError("; ".join(sorted({one.summary() for one in broken})[:5]))
        hits = [one for one in answers if isinstance(one, ListedResult)]
        return self._verdict(hits, tuple(dict.fromkeys(silent)))

    def _subjects(self, links: Sequence[Link]) -> list[str]:
        subjects: dict[str, None] = {}
        for link in links:
            names = (link.domain, link.host) if self._options.ask_hosts else (link.domain,)
            for name in names:
                is_ours = name == self._services.hostname.lower() or self._services.local_domains(name)
                if name and not is_ours and not self._skip.has(name) and len(subjects) < self._options.max_domains:
                    subjects[name] = None
        return list(subjects)

    def _questions(self, subject: str) -> Iterator[tuple[DnsList, str, str]]:
        try:
            address = ip_address(subject)
        except ValueError:
            yield from ((one, subject, subject) for one in self._lists if one.section.kind == "domain")
            return
        if isinstance(address, IPv4Address) and address.is_global:
            # Lists of domains have addresses in the reversed form too.
            yield from ((one, label_of(address), subject) for one in self._lists)

    def _test_of(self, one: DnsList) -> SelfTest | None:
        section = one.section
        if not section.self_test:
            return None
        key = (section.zone, section.kind)
        if key not in self._tests:
            services = self._services
            self._tests[key] = SelfTest(one.name, section.zone, _TESTS[section.kind], services.resolver, services.clock)
        return self._tests[key]

    def _verdict(self, hits: Sequence[ListedResult], silent: tuple[SilentResult, ...]) -> Verdict | None:
        results = tuple(
            LinkListedResult(one.zone, one.subject, one.codes, one.weight, one.is_allow) for one in dict.fromkeys(hits)
        )
        evidence = (*results, *silent)
        if not evidence:
            return None
        if any(hit.is_allow and self._lists[hit.number].section.skip for hit in hits):
            # One good link vouches for no other.
            good = {hit.subject for hit in hits if hit.is_allow}
            hits = [hit for hit in hits if hit.subject not in good]
        by_list: dict[int, ListedResult] = {}
        for hit in hits:
            by_list.setdefault(hit.number, hit)
        total = round(sum(hit.weight for hit in by_list.values()), 6)
        if not by_list or total < self._options.threshold or self._options.verdict == "continue":
            return Continue(evidence=evidence)
        heaviest = max(by_list.values(), key=lambda hit: hit.weight)
        told = "; ".join(f"link to {hit.summary()} {hit.weight:+g}" for hit in by_list.values())
        reason = f"{told}: {total:g} of {self._options.threshold:g}"
        given = self._lists[heaviest.number].section.text
        text = given or f"{self._options.text} {heaviest.zone}"
        return stated(self._options.verdict, text, reason, evidence)
