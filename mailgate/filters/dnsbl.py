"""Asks lists in DNS about clients and domains: block lists and allow lists, each with a weight (RFC 5782)."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Annotated, Literal

from pydantic import Field
from zope.interface import directlyProvides
from zope.interface.interface import InterfaceClass

from mailgate.config.schema import Network
from mailgate.config.values import Flag
from mailgate.dns.names import unmapped
from mailgate.envelope import Recipient, Session, Transaction
from mailgate.filters.dnsbl_lists import DnsList, ListSection, SelfTest, label_of
from mailgate.filters.dnsbl_results import ListedResult, SilentResult
from mailgate.filters.networks import LOCAL_NETWORKS, NetworkSet
from mailgate.filters.refusing import Manner, Objection, RefusalSection, Stage, Word
from mailgate.filters.together import together
from mailgate.interfaces import Answered, FilterServices, IConnectFilter, IHeloFilter, IMailFilter, IRecipientFilter
from mailgate.verdict import Continue, Verdict

__all__ = ["Dnsbl", "ListedResult", "ListsSilentError", "Options", "SilentResult", "build"]

#: A list, the name in its zone that it is asked for, and what that stands for.
_Question = tuple[DnsList, str, str]
_Found = ListedResult | SilentResult | None

_LOCAL = NetworkSet(LOCAL_NETWORKS)

#: Seconds for which a list that has answered shows that it is other lists that are out of order, not DNS.
_JUST_NOW = 10.0


class Options(RefusalSection):
    """`[filters.dnsbl]`: which lists are asked, and what their hits come to.

    All lists of a stage are asked at the same time, and mail goes on without one that fails or is too slow; where no
    list of any stage answers, the filter has failed, and `on_failure` says what then. The weights of the lists with a
    hit are summed up over the stages: address lists when the client connects, domain lists as the names become known.
    """

    zones: list[ListSection] = Field(default=[])
    """the lists: the zone of each, "zen.spamhaus.org", or a table. See the terms of their use; most want to be asked by
    a resolver of your own, not by a public one"""
    domains: list[Literal["helo", "client", "sender"]] = Field(default=["helo", "client", "sender"], min_length=1)
    """which names are looked up in lists of kind domain: what the client calls itself, its confirmed name in DNS, the
    sender's domain. Never ours"""
    threshold: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """the sum of weights from which on mail is refused"""
    verdict: Word = "reject"
    """what is done then: reject (550 5.7.1), defer (450 4.7.1), or continue, which leaves it to others, such as the
    filter score"""
    tell_text: Flag = True
    """whether the reply to a refused client has the list's own text, which mostly says where to ask for removal"""
    exempt: list[Network] = Field(default=[])
    """further clients that are not looked up, beside those of loopback and private networks, those of trusted_networks
    and those that have logged in"""


class ListsSilentError(Exception):
    """None of the lists could answer."""


def build(options: Options, services: FilterServices) -> object:
    """The filter; it provides only the stages at which it has something to ask or to say. ValueError without lists."""
    return Dnsbl(options, services)


class Dnsbl:
    """Everything that it finds out is evidence; the refusal follows from the evidence alone."""

    def __init__(self, options: Options, services: FilterServices) -> None:
        if not options.zones:
            raise ValueError('zones names no list: write zones = ["zen.spamhaus.org"] or another list that you may use')
        self._manner = Manner(options, services)
        self._verdict = options.verdict
        self._threshold = options.threshold
        self._is_local = services.local_domains
        self._hostname = services.hostname.lower()
        tells = options.tell_text and options.verdict != "continue"
        self._lists = [
            DnsList(number, section, services.resolver, services.clock, tells_text=tells)
            for number, section in enumerate(options.zones)
        ]
        self._addresses = [one for one in self._lists if one.section.kind == "address"]
        self._names = [one for one in self._lists if one.section.kind == "domain"]
        self._domains = frozenset(options.domains) if self._names else frozenset()
        self._services = services
        self._tests: dict[tuple[str, str], SelfTest] = {}
        self._heard = -math.inf  # when a list has answered
        directlyProvides(self, *self._stages())

    def _stages(self) -> list[InterfaceClass]:
        stages: list[tuple[InterfaceClass, bool]] = [
            (IConnectFilter, bool(self._addresses) or "client" in self._domains),
            (IHeloFilter, "helo" in self._domains),
            (IMailFilter, "sender" in self._domains),
            (IRecipientFilter, self._verdict != "continue" and not self._manner.is_at_once),
        ]
        return [stage for stage, is_needed in stages if is_needed]

    def on_connect(self, session: Session) -> Answered:
        """Look up the client's address, and its name."""
        address = self._judged(session)
        if address is None:
            return None
        address = unmapped(address)
        questions = [(one, label_of(address), str(address)) for one in self._addresses]
        if "client" in self._domains:
            questions += self._about(session.client.name)
        return self._ask("connect", questions, session)

    def on_helo(self, session: Session) -> Answered:
        """Look up the name that the client gives itself."""
        if self._judged(session) is None:
            return None
        return self._ask("helo", self._about(session.helo), session)

    def on_mail(self, session: Session, transaction: Transaction) -> Answered:
        """Look up the sender's domain."""
        if self._judged(session) is None:
            return None
        return self._ask("mail", self._about(transaction.sender.domain), session, transaction)

    def on_rcpt(self, session: Session, transaction: Transaction, recipient: Recipient) -> Verdict | None:
        """Refuse for what was found."""
        if self._judged(session) is None or self._manner.is_reachable(recipient):
            return None
        objection = self._objection(session, transaction)
        return objection.at("rcpt") if objection else None

    def _judged(self, session: Session) -> IPv4Address | IPv6Address | None:
        address = self._manner.judged(session)
        return None if address in _LOCAL else address

    def _about(self, name: str) -> Sequence[_Question]:
        """The questions about a name, none where it is no domain of somebody else."""
        name = name.lower().removesuffix(".")
        is_domain = "." in name and not name.startswith("[") and not name.rpartition(".")[2].isdigit()
        if not is_domain or name == self._hostname or self._is_local(name):
            return []
        return [(one, one.label(name), name) for one in self._names]

    def _ask(
        self, stage: Stage, questions: Sequence[_Question], session: Session, transaction: Transaction | None = None
    ) -> Answered:
        return self._look_up(stage, questions, session, transaction) if questions else None

    async def _look_up(
        self, stage: Stage, questions: Sequence[_Question], session: Session, transaction: Transaction | None
    ) -> Verdict | None:
        asked: list[Awaitable[_Found]] = [
            one.ask(label, subject, self._test_of(one, subject)) for one, label, subject in questions
        ]
        answers = await together(asked)
        silent = [one for one in answers if isinstance(one, SilentResult)]
        broken = [one for one in silent if one.is_temporary]
        now = self._services.clock.seconds()
        if len(silent) < len(answers):
            self._heard = now
        elif broken and not 0 <= now - self._heard < _JUST_NOW:
            raise ListsSilentError("; ".join(sorted({one.summary() for one in broken})[:5]))
        known = session.evidence  # of a greeting before this one
        found = tuple(one for one in dict.fromkeys(answers) if one is not None and one not in known)
        if self._manner.is_at_once:
            objection = self._objection(session, transaction, found)
            if objection:
                return objection.at(stage, found)
        return Continue(evidence=found) if found else None

    def _test_of(self, one: DnsList, subject: str) -> SelfTest | None:
        """The test of the list, for the family of addresses where that matters: many know only one."""
        section = one.section
        if not section.self_test:
            return None
        kind = section.kind if section.kind == "domain" else "v6" if ":" in subject else "v4"
        test = self._tests.get((section.zone, kind))
        if test is None:
            name = f"{one.name} (IPv6)" if kind == "v6" else one.name
            test = SelfTest(name, section.zone, _TEST_LABELS[kind], self._services.resolver, self._services.clock)
            self._tests[section.zone, kind] = test
        return test

    def _objection(
        self, session: Session, transaction: Transaction | None, found: Sequence[object] = ()
    ) -> Objection | None:
        """What all that is known of this client and this sender comes to."""
        word = self._verdict
        if word == "continue":
            return None
        address = session.client.address
        subjects = {str(unmapped(address)) if address is not None else "", session.client.name.lower()}
        subjects.add(session.helo.lower().removesuffix("."))
        known = [*session.evidence, *found]
        if transaction is not None:
            subjects.add(transaction.sender.domain)
            known += transaction.evidence
        hits: dict[int, ListedResult] = {}
        for one in known:
            if isinstance(one, ListedResult) and one.subject in subjects and self._is_ours(one):
                hits.setdefault(one.number, one)
        if any(hit.is_allow and self._lists[number].section.skip for number, hit in hits.items()):
            return None
        total = round(sum(hit.weight for hit in hits.values()), 6)
        if total < self._threshold:
            return None
        reason = "; ".join(f"{hit.summary()} {hit.weight:+g}" for hit in hits.values())
        heaviest = max(hits.values(), key=lambda hit: hit.weight)
        return Objection(word, self._text(heaviest), f"{reason}: {total:g} of {self._threshold:g}")

    def _is_ours(self, hit: ListedResult) -> bool:
        return hit.number < len(self._lists) and self._lists[hit.number].name == hit.zone

    def _text(self, hit: ListedResult) -> str:
        given = self._lists[hit.number].section.text
        return given or f"{hit.subject} is listed by {hit.zone}{f': {hit.text}' if hit.text else ''}"


#: What every list has listed, and never lists (RFC 5782 sections 5 and 2.4).
_TEST_LABELS = {
    "v4": ("2.0.0.127", "1.0.0.127"),
    "v6": (label_of(IPv6Address("::ffff:7f00:2")), label_of(IPv6Address("::ffff:7f00:1"))),
    "domain": ("test", "invalid"),
}
