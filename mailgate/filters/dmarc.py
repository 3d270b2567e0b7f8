"""DMARC (RFC 9989): whether the author's domain is borne rightly, and what is done where its owner objects."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import Field
from zope.interface import implementer

from mailgate.config.schema import Network, Section
from mailgate.config.values import Domain
from mailgate.envelope import Session, Transaction
from mailgate.events import DmarcEvaluated
from mailgate.filters.networks import LOCAL_NETWORKS, NetworkSet
from mailgate.findings import Finding
from mailgate.interfaces import FilterServices, IMessageFilter
from mailgate.mailauth.dmarc.author import Authors, author_domains
from mailgate.mailauth.dmarc.evaluate import evaluate_dmarc
from mailgate.mailauth.dmarc.forwarded import vouching_sealer
from mailgate.mailauth.dmarc.organization import public_suffixes
from mailgate.mailauth.results import ArcResult, DkimResult, DmarcResult, SpfResult
from mailgate.message import Message, header_problem
from mailgate.reply import Reply
from mailgate.stores.domains import DomainTable
from mailgate.verdict import Continue, Defer, Quarantine, Reject, Verdict

__all__ = ["Dmarc", "DmarcDisposition", "Options", "build"]

Done = Literal["none", "quarantine", "reject"]

_UNCLEAR = Reply.of(550, "5.6.0", "The header section is too large, or has a bare CR or LF in it")
_NO_AUTHOR = Reply.of(550, "5.7.1", "The From field must name its author by an address with a domain")


class Options(Section):
    """`[filters.dmarc]`: stands behind spf, dkim and arc in the pipeline, whose results it takes.

    Mail of authenticated clients and of trusted networks is not evaluated.
    """

    standard: Literal["rfc9989", "rfc7489"] = "rfc9989"
    """which domains belong together: rfc9989 asks DNS upwards from the author's domain; rfc7489 looks into the public
    suffix list that comes with the package publicsuffixlist, and follows pct="""
    reject: Literal["reject", "quarantine", "continue"] = "reject"
    """what is done with mail that its author's domain asks to reject: it gets 550 5.7.1; or is kept back; or goes on"""
    quarantine: Literal["quarantine", "reject", "continue"] = "quarantine"
    """what is done with mail that its author's domain asks to quarantine"""
    temperror: Literal["defer", "continue"] = "defer"
    """what is done where DNS cannot say now whether mail passes, and the owner's policy, as far as it is known, asks to
    reject or quarantine what fails. defer: it gets 451 and may come again, so that a name server which does not answer
    opens no door. Where no policy is known, such mail goes on. So it is with mail that fails while spf has left no
    result, or dkim none for a message with signatures"""
    no_author: Literal["reject", "continue"] = "reject"
    """what is done where the From field does not tell its author beyond doubt: there is none, or several fields, no
    address with a domain, more than four domains, or programs would read it differently, as they do a header section
    of more than 256 KiB, or with a CR or LF alone in it. Such mail could show a domain that is not checked. Reports
    (null sender) whose From holds no address at all go on in either case. One field with several domains is no such
    case: each is evaluated, and the strictest policy counts"""
    trusted_sealers: list[Domain] = Field(default=[])
    """forwarders whose ARC seals are believed: mail whose chain holds, which these domains have sealed last, and which
    passed when it came to one of them, is not refused. "example.org" is the d= of a seal, "*.example.org" all below"""
    mailing_lists: list[Domain] = Field(default=[])
    """domains of mailing lists: mail is not refused where one of them has signed it (d=), or SPF has passed for it as
    the envelope's sender. A List-Id alone proves nothing, since anyone can write it"""
    mailing_list_networks: list[Network] = Field(default=[])
    """clients that send for mailing lists and forward mail: what comes from there is not refused"""
    exempt: list[Network] = Field(default=list(LOCAL_NETWORKS))
    """clients whose mail is not evaluated; if not given, those of loopback and private networks"""


@dataclass(frozen=True, slots=True)
class DmarcDisposition(Finding):
    """What was done about a result: "none", "quarantine" or "reject".

    `override` says why that is not what the owner published: "trusted_forwarder", "mailing_list", "local_policy",
    "policy_test_mode" (t=y), "sampled_out" (pct=) or "", and `comment` the same in words.
    """

    result: DmarcResult
    disposition: Done
    override: str = ""
    comment: str = ""

    def summary(self) -> str:
        if not self.override:
            return ""
        why = f": {self.comment}" if self.comment else ""
        return f"dmarc disposition={self.disposition} override={self.override}{why}"

    def facts(self) -> Sequence[str]:
        return ("dmarc.override", f"dmarc.override.{self.override}") if self.override else ()


def build(options: Options, services: FilterServices) -> object:
    """The filter; with rfc7489 the list is read now, and not while mail waits."""
    if options.standard == "rfc7489":
        public_suffixes()
    return Dmarc(options, services)


@dataclass(frozen=True, slots=True)
class _Found:
    """What other filters have found out about a message."""

    spf: SpfResult | None
    dkim: tuple[DkimResult, ...]
    arc: ArcResult | None

    def unchecked(self, message: Message) -> str:
        """What nobody has looked at, in words."""
        if self.spf is None:
            return "SPF was not checked (is the filter spf in front of dmarc?)"
        if not self.dkim and any(field.name.lower() == "dkim-signature" for field in message.fields):
            return "its signatures were not checked (is the filter dkim in front of dmarc?)"
        return ""


@implementer(IMessageFilter)
class Dmarc:
    """Evaluates, decides, and tells those who make reports."""

    def __init__(self, options: Options, services: FilterServices) -> None:
        self._options = options
        self._services = services
        self._exempt = NetworkSet(options.exempt)
        self._list_networks = NetworkSet(options.mailing_list_networks)
        self._lists = _table(options.mailing_lists)
        self._sealers = _table(options.trusted_sealers)
        self._chance = services.random if options.standard == "rfc7489" else None

    def on_message(
        self, session: Session, transaction: Transaction, message: Message
    ) -> Verdict | Awaitable[Verdict | None] | None:
        """Reject, quarantine or defer as the owner of the author's domain asks, and the options say."""
        address = session.client.address
        if session.identity is not None or address is None or address in self._exempt:
            return None
        return self._judge(session, transaction, message)

    async def _judge(self, session: Session, transaction: Transaction, message: Message) -> Verdict:
        authors = author_domains(message.values("From"))
        unclear = header_problem(message.content)
        if unclear:
            authors = replace(authors, problem=unclear, is_nobody=False)
        if self._must_be_refused(authors, transaction):
            domain = authors.domains[0] if authors.domains else ""
            result = DmarcResult("permerror", domain=domain, reason=authors.problem)
            return Reject(_UNCLEAR if unclear else _NO_AUTHOR, authors.problem, evidence=(result,))
        evidence = transaction.evidence
        found = _Found(evidence.get(SpfResult), tuple(evidence.all(DkimResult)), evidence.get(ArcResult))
        result = await evaluate_dmarc(
            self._services.resolver,
            header_from=authors,
            spf=found.spf,
            dkim=found.dkim,
            arc=found.arc,
            mode=self._options.standard,
            chance=self._chance,
        )
        if result.result == "temperror":
            is_asked = result.may_ask and not self._list(session, found)
            return self._put_off(result) if is_asked else Continue(evidence=(result,))
        if result.record is None or result.result == "permerror":
            return Continue(evidence=(result,))
        done = self._decide(session, result, found)
        unchecked = found.unchecked(message) if result.result == "fail" else ""
        if unchecked:  # it is no result to tell the owner of, either
            return self._put_off(result, unchecked) if done.disposition != "none" else Continue(evidence=(result,))
        self._tell(session, transaction, done, found)
        return self._verdict(done)

    def _must_be_refused(self, authors: Authors, transaction: Transaction) -> bool:
        if not authors.problem or self._options.no_author == "continue":
            return False
        return bool(transaction.sender) or not authors.is_nobody

    def _put_off(self, result: DmarcResult, unchecked: str = "") -> Verdict:
        """What is done where it cannot be told now, and the owner asks for something."""
        if self._options.temperror == "continue":
            return Continue(evidence=(result,))
        reply = Reply.of(451, "4.7.1", f"DMARC of {result.domain} cannot be told now, try again later")
        return Defer(reply, "; ".join(filter(None, (unchecked, result.summary()))), evidence=(result,))

    def _decide(self, session: Session, result: DmarcResult, found: _Found) -> DmarcDisposition:
        asked = result.policy
        if result.result != "fail":
            return DmarcDisposition(result, "none")
        if asked == "none":
            return DmarcDisposition(result, "none", self._lowered(result))
        if found.arc is not None and (sealer := vouching_sealer(found.arc, result, self._sealers.has)):
            return DmarcDisposition(result, "none", "trusted_forwarder", f"it passed when it came to {sealer}")
        if by := self._list(session, found):
            return DmarcDisposition(result, "none", "mailing_list", f"it comes by {by}")
        option = self._options.reject if asked == "reject" else self._options.quarantine
        done: Done = "none" if option == "continue" else option
        if done != asked:
            return DmarcDisposition(result, done, "local_policy", f"{asked} is asked for, {option} is configured")
        return DmarcDisposition(result, done, self._lowered(result))

    def _lowered(self, result: DmarcResult) -> str:
        """Why the owner asks for less than is published; "" where that is not so."""
        record = result.record
        if record is None or result.policy in record.policies_for(result.domain):
            return ""
        return "policy_test_mode" if self._options.standard == "rfc9989" else "sampled_out"

    def _list(self, session: Session, found: _Found) -> str:
        """Which mailing list brings the message, in words; "" where none does."""
        if session.client.address in self._list_networks:
            return "a client that is known for mailing lists"
        passed = [one.domain for one in found.dkim if one.result == "pass"]
        if found.spf is not None and found.spf.result == "pass":
            passed.append(found.spf.domain)
        return next((f"the mailing list {domain}" for domain in passed if domain and self._lists.has(domain)), "")

    def _verdict(self, done: DmarcDisposition) -> Verdict:
        evidence = (done.result, done)
        reason = "; ".join(filter(None, (done.result.summary(), done.comment)))
        if done.disposition == "reject":
            text = f"DMARC policy of {done.result.domain} does not allow this message"
            return Reject(Reply.of(550, "5.7.1", text), reason, evidence=evidence)
        if done.disposition == "quarantine":
            return Quarantine(reason, evidence=evidence)
        return Continue(evidence=evidence)

    def _tell(self, session: Session, transaction: Transaction, done: DmarcDisposition, found: _Found) -> None:
        result, record, spf = done.result, done.result.record, found.spf
        if record is None:
            return
        scope = "" if spf is None else "helo" if spf.identity == "helo" else "mfrom"
        self._services.events.publish(
            DmarcEvaluated(
                at=self._services.clock.seconds(),
                queue_id=transaction.id,
                source=str(session.client.address),
                domain=record.domain,
                policy=record.policy,
                subdomain_policy=record.subdomain_policy,
                missing_policy=record.missing_policy,
                header_from=result.domain,
                envelope_from=transaction.sender.domain,
                envelope_to=tuple(sorted({one.address.domain for one in transaction.recipients})),
                disposition=done.disposition,
                result=result.result,
                strict_dkim=record.strict_dkim,
                strict_spf=record.strict_spf,
                is_testing=record.is_testing,
                rua=record.aggregate,
                override=done.override,
                comment=done.comment,
                aligned=result.aligned,
                dkim=tuple((one.domain, one.selector, one.result) for one in found.dkim),
                spf=("", "", "") if spf is None else (spf.domain, scope, spf.result),
            )
        )


def _table(entries: Iterable[str]) -> DomainTable[bool]:
    return DomainTable(dict.fromkeys(entries, True))
