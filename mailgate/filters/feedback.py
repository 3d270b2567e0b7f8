"""Reads reports about our mail that come back: bounces, and complaints of providers' users."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field
from zope.interface import implementer

from mailgate.address import Address
from mailgate.config.schema import Section
from mailgate.config.units import ConfigPath
from mailgate.config.values import Domain, Flag
from mailgate.envelope import Session, Transaction
from mailgate.events import BouncedBack, Complained, Unsubscribed
from mailgate.filters.batv import BatvResult
from mailgate.filters.feedback_proof import Proof, Prover
from mailgate.filters.verp import VerpResult
from mailgate.filters.who import AddressPatterns
from mailgate.findings import Finding
from mailgate.interfaces import Answered, FilterServices, IMessageFilter, ISuppressions, Suppression
from mailgate.mailauth import DkimResult
from mailgate.message import Message
from mailgate.mime.reports import MAX_REPORT, Fields, Report, read_report
from mailgate.reply import Reply
from mailgate.rewriting.unsubscribe import UnsubscribeTokens, Unsubscription
from mailgate.rewriting.verp import Verp
from mailgate.stores.domains import DomainTable
from mailgate.stores.secret_lines import SecretFile
from mailgate.verdict import Continue, Discard, Verdict

__all__ = ["Feedback", "FeedbackResult", "Options", "build"]

Kind = Literal["bounce", "complaint", "unsubscribe"]

_CODE = re.compile(r"(?:^|[\s;:>(])([45][0-5]\d)(?=[ -])")
_STATUS = re.compile(r"(?<![\d.])([245])\.(\d{1,3})\.(\d{1,3})(?![\d.])")
#: What a text for people says has failed: a reply as it came, the status of qmail, a code or a status of any kind. Of
#: what is weaker there is more that means something else: numbers of rooms, versions of programs.
_REPLY = re.compile(r"(?:^|[\s;:>(])(?=[45][0-5]\d[ -]#?[45]\.\d{1,3}\.\d{1,3}(?![\d.]))")
_MARKED = re.compile(r"\(#(?=[45]\.\d{1,3}\.\d{1,3}(?![\d.]))")
#: Behind it comes the mail that is returned, in reports that are one text.
_COPY = re.compile(r"^[ \t]{0,8}-{2,20}[^-\n]{1,60}\b(?:copy of|original message)\b", re.IGNORECASE | re.MULTILINE)
_EMPTY_LINE = re.compile(r"\n[ \t]*\n")
_TYPE = re.compile(r"[A-Za-z0-9-]{1,40}[ \t]*;")
#: Whom reports come from that are none by their form.
_DAEMON = re.compile(r"\b(?:mailer|mail)[-_. ]?daemon\b|\bpostmaster@", re.IGNORECASE)
_WORD = re.compile(r"[a-z0-9-]{1,40}")
#: Kinds of feedback that are no complaint: of signatures that fail (RFC 6591), of viruses, and of what is no spam.
_NO_COMPLAINTS = frozenset({"auth-failure", "virus", "not-spam", "dmarc", ""})
#: Characters of a report that are kept as the reason.
_LONGEST = 500


class Options(Section):
    """`[filters.feedback]`: reports about our mail become events, and entries of the suppression list.

    Reports of delivery (RFC 3464, and other bounces to return paths of `verp`) and complaints (ARF, RFC 5965) are read
    that come to return paths of `verp` or to `addresses`; and so are wishes to unsubscribe by mail, with a token of
    list-unsubscribe in the subject. Whom one is about is believed only where that is proved: it
    came to a return path for that recipient, or the mail that it returns has one, or a token of list-unsubscribe; or
    its sender is trusted (`reporters`, `batv`). All else is mail like any other, and nobody is suppressed for it. The
    filter stands last among those of incoming mail, behind verp, batv and dkim: what it has read must not be refused
    any more.
    """

    addresses: list[str] = Field(default=[])
    """where complaints and bounces come to, beside return paths: the addresses that providers were told, `mailto` of
    list-unsubscribe, and senders of mail; "fbl@example.org", "bounce-*@example.org" """
    verp_secrets: ConfigPath | None = None
    """the secrets of the filter verp, to know its return paths in mail that is returned"""
    unsubscribe_secrets: ConfigPath | None = None
    """the secrets of the filter list-unsubscribe, to know its tokens in mail that is returned"""
    delimiter: str = Field(default="+", pattern=r"^[+_-]$")
    """that of the filter verp"""
    reporters: list[Domain] = Field(default=[])
    """providers whose reports are believed as they stand, where a DKIM signature of theirs passes: domains, and
    "*.NAME" for all below. They can have any recipient suppressed"""
    batv: Flag = False
    """whether a report to a good tag of the filter batv is believed about any recipient: whoever gets mail of that
    sender has seen such a tag, and can have others suppressed"""
    then: Literal["discard", "continue"] = "discard"
    """what becomes of a report that is believed: an event is all that is left of it, or it is delivered as well"""


@dataclass(frozen=True, slots=True)
class FeedbackResult(Finding):
    """A report about our mail; `proof` says why it is believed, "" where it is not."""

    kind: Kind
    proof: str

    def summary(self) -> str:
        return f"{self.kind} report, {f'proved by {self.proof}' if self.proof else 'not proved'}"

    def facts(self) -> Sequence[str]:
        return (f"feedback.{self.kind}", f"feedback.{'proved' if self.proof else 'unproved'}")


def build(options: Options, services: FilterServices) -> object:
    """The filter; ValueError where secrets cannot be read, or a pattern is none."""
    return Feedback(options, services)


@implementer(IMessageFilter)
class Feedback:
    """Reads what comes to the addresses, and tells of what is proved."""

    def __init__(self, options: Options, services: FilterServices) -> None:
        self._addresses = AddressPatterns(options.addresses)
        verp, tokens = options.verp_secrets, options.unsubscribe_secrets
        self._prover = Prover(
            None if verp is None else Verp(SecretFile(verp, services.clock), options.delimiter),
            None if tokens is None else UnsubscribeTokens(SecretFile(tokens, services.clock)),
        )
        self._reporters = DomainTable(dict.fromkeys(options.reporters, True))
        self._trusts_batv = options.batv
        self._is_discarded = options.then == "discard"
        self._classify = services.classify
        self._events = services.events
        self._suppressions = services.suppressions
        self._now = services.clock.seconds
        ours = re.escape(services.hostname)
        self._our_id = re.compile(rf"\bby {ours}\b.{{0,400}}?\bid ([0-9A-Z]{{16}})\b", re.DOTALL)

    def on_message(self, session: Session, transaction: Transaction, message: Message) -> Answered:
        """Look at what comes from outside to one of the addresses. OSError where the content cannot be read, or the
        suppression list written; sqlite3.Error as well."""
        if session.identity is not None:
            return None
        returns = {one.address: one for one in transaction.evidence.all(VerpResult)}
        concerned = [
            one.address
            for one in transaction.recipients
            if one.address in returns or self._addresses.has(one.address) or self._is_tagged(transaction, one.address)
        ]
        if not concerned:
            return None
        wish = self._prover.wish_in(message.values("Subject"))
        if wish is not None and self._suppressions is not None:
            return self._unsubscribed(self._suppressions, wish, concerned)
        report = read_report(message.content.part(0, MAX_REPORT))
        kind = _kind_of(report, message, transaction, is_return=any(one in returns for one in concerned))
        if kind is None:
            return None
        proofs = self._proofs(report, transaction, [returns[one] for one in concerned if one in returns])
        if not proofs:
            return Continue(evidence=(FeedbackResult(kind, ""),))
        for proof in proofs:
            self._tell(kind, report, proof, transaction.id)
        found = (FeedbackResult(kind, proofs[0].kind),)
        if not self._is_discarded:
            return Continue(evidence=found)
        told = ", ".join(str(one.recipient) for one in proofs[:3])
        return Discard(f"a {kind} report about mail to {told} has been read", tuple(concerned), found)

    async def _unsubscribed(self, known: ISuppressions, wish: Unsubscription, concerned: Sequence[Address]) -> Verdict:
        """A recipient has answered the link of list-unsubscribe that is an address. It is kept when this answers."""
        found = (FeedbackResult("unsubscribe", "token"),)
        recipient, sender = str(wish.recipient), str(wish.sender)
        if await known.add(Suppression(recipient, wish.stream or sender, "unsubscribe", "", self._now())):
            told = Unsubscribed(at=self._now(), recipient=recipient, sender=sender, stream=wish.stream)
            self._events.publish(told)
        if not self._is_discarded:
            return Continue(evidence=found)
        return Discard(f"{wish.recipient} wants no more mail of {wish.sender}", tuple(concerned), found)

    # -- whom it is about

    def _proofs(self, report: Report, transaction: Transaction, returns: Iterable[VerpResult]) -> Sequence[Proof]:
        proved = [Proof("verp", one.about.recipient, one.about.sender) for one in returns]
        own = self._prover.made_by_us(report)
        if own is not None:  # it may tell of the stream, too
            proved = [own] if not proved or own.recipient == proved[0].recipient else proved
        if proved:
            return proved
        if any(
            one.result == "pass" and self._reporters.has(one.domain) for one in transaction.evidence.all(DkimResult)
        ):
            return self._prover.claimed(report, "reporter")
        if self._trusts_batv and not transaction.sender and self._has_tag(transaction):
            return self._prover.claimed(report, "batv")
        return ()

    def _is_tagged(self, transaction: Transaction, address: Address) -> bool:
        return self._trusts_batv and any(
            one.result == "valid" and one.recipient == address for one in transaction.evidence.all(BatvResult)
        )

    @staticmethod
    def _has_tag(transaction: Transaction) -> bool:
        return any(one.result == "valid" for one in transaction.evidence.all(BatvResult))

    # -- what it says

    def _tell(self, kind: Kind, report: Report, proof: Proof, report_id: str) -> None:
        returned = report.returned
        known = {
            "at": self._now(),
            "recipient": str(proof.recipient),
            "sender": "" if proof.sender is None else str(proof.sender),
            "proof": proof.kind,
            "queue_id": self._queue_id(returned),
            "message_id": returned.get("message-id"),
            "stream": proof.stream,
            "report": report_id,
        }
        if kind == "complaint":
            about = report.about
            word = about.get("feedback-type").strip().lower()
            said = word if _WORD.fullmatch(word) else "other"
            self._events.publish(Complained(**known, kind=said, reporter=about.get("user-agent")[:200]))  # type: ignore[arg-type]
            return
        block = _block_about(report, proof.recipient)
        if block is not None and block.get("action").strip().lower() in ("delayed", "delivered", "relayed", "expanded"):
            return
        reply = _reply_of(report, block)
        is_permanent = reply is not None and reply.is_permanent
        self._events.publish(
            BouncedBack(
                **known,  # type: ignore[arg-type]
                is_permanent=is_permanent,
                category="other" if reply is None else self._classify(reply),
                status="" if reply is None else reply.status,
                reason="" if reply is None else str(reply)[:_LONGEST],
            )
        )

    def _queue_id(self, returned: Fields) -> str:
        """The id that we gave to the mail, as its Received field says; "" where there is none."""
        for value in returned.all("received"):
            found = self._our_id.search(value)
            if found is not None:
                return found[1]
        return ""


def _kind_of(report: Report, message: Message, transaction: Transaction, *, is_return: bool) -> Kind | None:
    """What the mail is; None where it is no report, but an automatic reply, or a person's mail."""
    if report.kind == "feedback":
        return "complaint" if report.about.get("feedback-type").strip().lower() not in _NO_COMPLAINTS else None
    if report.kind == "delivery":
        return "bounce"
    if is_return and not transaction.sender and _is_of_daemon(message) and _reply_of(report, None) is not None:
        return "bounce"
    return None


def _is_of_daemon(message: Message) -> bool:
    """Whether a mail system has written it: who is on holiday may have a null sender, and numbers in his answer."""
    return bool(message.values("X-Failed-Recipients")) or any(map(_DAEMON.search, message.values("From")))


def _block_about(report: Report, recipient: Address) -> Fields | None:
    """The block of this recipient, or the first: the one that it was forwarded to."""
    wanted = str(recipient).lower()
    for block in report.recipients:
        if wanted in (block.typed("original-recipient").lower(), block.typed("final-recipient").lower()):
            return block
    return report.recipients[0] if report.recipients else None


def _reply_of(report: Report, block: Fields | None) -> Reply | None:
    """The refusal that a report tells of, in the form of a reply; None where it has none."""
    words = ("" if block is None else _diagnostic(block)) or _said(report.text)
    given = "" if block is None else block.get("status")
    status = _STATUS.search(given) or _STATUS.search(words)
    code = _CODE.search(words)
    if status is not None and status[1] == "2":
        status = None
    if status is None and code is None:
        return None
    number = int(code[1]) if code is not None else 550 if status is not None and status[1] == "5" else 450
    if status is not None and int(status[1]) != number // 100:
        number = 550 if status[1] == "5" else 450  # the status is the report's own word, the code may be of anything
    words = " ".join(words.split())[:_LONGEST]
    for one in (code and code[1], status and status[0]):  # they are told anyway
        words = words.removeprefix(one or "").lstrip(" -")
    return Reply(number, status[0] if status is not None else "", (words or "refused",))


def _diagnostic(block: Fields) -> str:
    """What the next hop has said; some leave out the type before it."""
    value = block.get("diagnostic-code")
    kind = _TYPE.match(value)
    return (value if kind is None else value[kind.end() :]).strip()


def _said(text: str) -> str:
    """What a text for people says has failed, to the end of its paragraph, or all of that; "" where it says nothing."""
    text = text.replace("\r\n", "\n")
    copy = _COPY.search(text)
    text = text if copy is None else text[: copy.start()]
    reply = _REPLY.search(text)
    found = reply or _MARKED.search(text) or _CODE.search(text) or _STATUS.search(text)
    if found is None:
        return ""
    start = 0
    for line in _EMPTY_LINE.finditer(text, 0, found.start()):
        start = line.end()
    end = _EMPTY_LINE.search(text, found.end())
    if reply is not None or found.re is _CODE:
        start = found.start()
    return text[start : len(text) if end is None else end.start()].lstrip(" ;:>(\n")
