"""Mail with the null sender: reports, receipts and automatic replies, and what only pretends to be one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field
from zope.interface import implementer

from mailgate.address import Address
from mailgate.awaiting import run
from mailgate.config.schema import Section
from mailgate.config.units import Duration, at_least, format_duration
from mailgate.envelope import Recipient, Session, Transaction
from mailgate.filters.authors import AmbiguousFieldError, addresses_in
from mailgate.filters.rate_limit_rules import shortened
from mailgate.filters.steps import Steps, ready
from mailgate.filters.who import AddressPattern, AddressPatterns, IdentitySet
from mailgate.findings import Finding
from mailgate.interfaces import Answered, FilterServices, IMessageFilter, IRecipientFilter
from mailgate.message import Message
from mailgate.reply import Reply
from mailgate.verdict import Continue, Quarantine, Reject, Verdict

__all__ = ["NullSender", "NullSenderResult", "Options", "build"]

Kind = Literal["report", "automatic", "other"]

#: RFC 6522 section 3.
_REPORT = re.compile(r"\s*multipart/report\s*(?:;|$)", re.IGNORECASE)
#: Values of Precedence that automatic replies have, and never a person's mail.
_PRECEDENCE = frozenset({"auto_reply", "auto-reply", "bulk", "junk"})
#: Values of Auto-Submitted of what is no answer (RFC 3834 section 5, RFC 5436 section 2.7.1).
_ANNOUNCING = frozenset({"auto-generated", "auto-notified"})
_OF_LISTS = ("List-Id", "List-Post", "List-Unsubscribe")
#: Recipients of one message whose loops are looked for.
_MOST = 20


class Options(Section):
    """`[filters.null-sender]`: for listeners of every role. Mail with another sender is only looked at for loops.

    A report is multipart/report (RFC 6522: delivery status, receipts); automatic is what says so in Auto-Submitted
    (RFC 3834). The bounces of mail that was never sent (backscatter) are best told by addresses that carry a mark: see
    the filter batv, whose findings `facts` can name.
    """

    max_recipients: Annotated[int, Field(strict=True, ge=0)] = 1
    """recipients that such mail may have: a report goes to the one who sent. 0: any number"""
    outward: Literal["refuse", "automatic", "any"] = "automatic"
    """what users (whoever has logged in, shown a certificate, or is in trusted_networks) may send with the null sender
    to domains that are not ours. automatic: reports and automatic replies only; refuse; any"""
    relays: list[str] = Field(default=[])
    """identities for which `outward` does not hold: inner mail servers, which send reports of their own; names,
    patterns of names with *, networks"""
    never_send: list[AddressPattern] = Field(default=[])
    """our addresses that send nothing, so that no report to them can be true: "info@example.org", "example.org",
    "*.example.org". Such mail is refused"""
    facts: list[str] = Field(default=["batv.invalid"])
    """findings of other filters for which it is refused, from clients that have not logged in: once all your mail has
    marked senders for some days, "batv.untagged", too"""
    unlike: Literal["continue", "quarantine", "reject"] = "continue"
    """what becomes of mail from outside that is neither a report nor automatic: many bounces of older systems are
    not"""
    loop_limit: Annotated[int, Field(strict=True, ge=0)] = 20
    """so many automatic answers and reports of one author to one recipient in `loop_window` are a loop: more are
    refused (554 5.4.6), whatever their sender. What only announces something (Auto-Submitted: auto-generated, mail of
    lists) is none, however much there is of it. Reports about a newsletter come to one address by the hundred: give it
    return paths of its own with the filter verp, or a higher limit here. 0: loops are not looked for"""
    loop_window: Annotated[Duration, at_least(60.0, format_duration)] = 3600.0
    """the time that is looked back on"""


@dataclass(frozen=True, slots=True)
class NullSenderResult(Finding):
    """Mail with the null sender, and what it is."""

    kind: Kind

    def summary(self) -> str:
        return f"null-sender={self.kind}"

    def facts(self) -> Sequence[str]:
        return (f"null-sender.{self.kind}",)


def build(options: Options, services: FilterServices) -> object:
    """The filter."""
    return NullSender(options, services)


@implementer(IRecipientFilter, IMessageFilter)
class NullSender:
    """Refuses as early as it can: what the envelope tells at RCPT, the rest with the message."""

    def __init__(self, options: Options, services: FilterServices) -> None:
        self._options = options
        self._is_local = services.local_domains
        self._counters = services.counters
        self._relays = IdentitySet(options.relays)
        self._never = AddressPatterns(options.never_send)
        self._facts = frozenset(options.facts)

    def on_rcpt(self, session: Session, transaction: Transaction, recipient: Recipient) -> Verdict | None:
        """Reject what can be no answer to mail of this recipient."""
        if transaction.sender:
            return None
        options, address = self._options, recipient.address
        if options.max_recipients and len(transaction.recipients) >= options.max_recipients:
            text = "A message with the null sender has one recipient"
            if options.max_recipients > 1:
                text = "Too many recipients for a message with the null sender"
            return _refuse(text, f"{address} is recipient number {len(transaction.recipients) + 1}")
        if options.outward == "refuse" and self._is_outward(session, address):
            return _refuse(
                "The null sender is not for your mail to others", f"{_who(session)} writes to {address} as <>"
            )
        if self._never.has(address):
            return _refuse("This address sends no mail, so nothing can come back", f"{address} never sends")
        return None

    def on_message(self, session: Session, transaction: Transaction, message: Message) -> Answered:
        """Judge what it is, and whether it goes round in a circle."""
        kind = _kind(message)
        result: tuple[object, ...] = ()
        if not transaction.sender:
            result = (NullSenderResult(kind),)
            if verdict := self._judge(session, transaction, kind, result):
                return verdict
        if not self._options.loop_limit or not _is_answer(message, kind):
            return Continue(result) if result else None
        return run(self._count(transaction, message, result))

    def _judge(
        self, session: Session, transaction: Transaction, kind: Kind, result: tuple[object, ...]
    ) -> Verdict | None:
        if session.identity is not None:
            outward = [one.address for one in transaction.recipients if self._is_outward(session, one.address)]
            if self._options.outward == "automatic" and kind == "other" and outward:
                text = "With the null sender you may send receipts and automatic replies only"
                return _refuse(text, f"{_who(session)} writes to {outward[0]} as <>, and it is no report", result)
            return None
        found = next((fact for fact in _facts(session, transaction) if fact in self._facts), None)
        if found is not None:
            return _refuse("This is no answer to mail of ours", f"the fact {found} is there", result)
        if kind == "other" and self._options.unlike != "continue":
            reason = "mail with the null sender that is neither a report nor automatic"
            if self._options.unlike == "quarantine":
                return Quarantine(reason, evidence=result)
            return _refuse("The null sender is for reports and automatic replies", reason, result)
        return None

    def _count(self, transaction: Transaction, message: Message, result: tuple[object, ...]) -> Steps[Verdict | None]:
        """Count it for each recipient; reject it for those to whom it came too often."""
        author = _author(transaction, message)
        looped: list[Address] = []
        count = most = 0
        for one in transaction.recipients[:_MOST]:
            key = f"null-sender loop {shortened(author)} {shortened(str(one.address).lower())}"
            count = yield from ready(self._counters.hit(key, self._options.loop_window))
            if count > self._options.loop_limit:
                looped.append(one.address)
                most = max(most, count)
        if not looped:
            return Continue(result) if result else None
        window = format_duration(self._options.loop_window)
        reason = f"{author} has sent {most} automatic messages to {looped[0]} in {window}"
        reply = Reply.of(554, "5.4.6", "Too many automatic messages: this looks like a loop")
        named = tuple(looped) if len(looped) < len(transaction.recipients) else ()
        return Reject(reply, reason, named, result)

    def _is_outward(self, session: Session, address: Address) -> bool:
        identity = session.identity
        return identity is not None and not self._relays.has(identity) and not self._is_local(address.domain)


def _kind(message: Message) -> Kind:
    if any(_REPORT.match(value) for value in message.values("Content-Type")[:1]):
        return "report"
    submitted = [_word(value) for value in message.values("Auto-Submitted")[:4]]
    if any(word not in ("", "no") for word in submitted):
        return "automatic"
    if any(_word(value) in _PRECEDENCE for value in message.values("Precedence")[:4]):
        return "automatic"
    return "other"


def _is_answer(message: Message, kind: Kind) -> bool:
    """Whether it may be one side of a loop: alarms and mailing lists answer to nobody."""
    if kind != "automatic":
        return kind == "report"
    submitted = [word for value in message.values("Auto-Submitted")[:4] if (word := _word(value)) not in ("", "no")]
    if submitted:
        return any(word not in _ANNOUNCING for word in submitted)
    return not any(message.values(name) for name in _OF_LISTS)


def _word(value: str) -> str:
    return value.partition(";")[0].partition("(")[0].strip().lower()


def _author(transaction: Transaction, message: Message) -> str:
    """Whose message it is; of mail with the null sender From tells, as far as it can."""
    if transaction.sender:
        return str(transaction.sender).lower()
    try:
        return str(addresses_in(message.values("From"))[0]).lower()
    except AmbiguousFieldError:
        return "<>"


def _facts(session: Session, transaction: Transaction) -> Iterator[str]:
    for found in (*session.evidence, *transaction.evidence):
        if isinstance(found, Finding):
            yield from found.facts()


def _who(session: Session) -> str:
    return session.identity.name if session.identity is not None else str(session.client)


def _refuse(text: str, reason: str, evidence: tuple[object, ...] = ()) -> Verdict:
    return Reject(Reply.of(550, "5.7.1", text), reason, evidence=evidence)
