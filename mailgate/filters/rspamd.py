"""Spam: rspamd is asked with all that is known of the envelope, and its action and header fields are followed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from zope.interface import implementer

from mailgate.address import Address
from mailgate.backends.questions import read_secret
from mailgate.config.units import ConfigPath, Form, Size, at_least, format_size
from mailgate.config.values import Flag, Host
from mailgate.envelope import Recipient, Session, Transaction
from mailgate.filters.scanning import (
    Opinion,
    Oversize,
    OwnResult,
    ScannerSection,
    Word,
    fact_word,
    for_each,
    grouped,
    own_result,
    said_of_each,
    server_pool,
    too_large,
)
from mailgate.filters.spam_fields import is_field_name, new_field, subject_value
from mailgate.filters.together import together
from mailgate.findings import Finding, Points
from mailgate.interfaces import FilterServices, IContentFilter, IMarkingModifier, Voted
from mailgate.message import AddHeader, Content, Edit, For, Message, RemoveHeader
from mailgate.scanners.conversation import Line
from mailgate.scanners.rspamd import Judged, ask_rspamd
from mailgate.verdict import Verdict

__all__ = ["Options", "Rspamd", "RspamdResult", "RspamdSymbol", "build"]

_PORT = 11333
#: Symbols that are evidence each, and those that a line for people names.
_MOST_SYMBOLS, _MOST_NAMED = 50, 15


def _field_name(text: str) -> str:
    if text and not is_field_name(text):
        raise ValueError(f"{text!r} is no name of a header field")
    return text


class Options(ScannerSection):
    """`[filters.rspamd]`: does what rspamd says.

    rspamd is told the client's address and name, HELO, the sender, the recipients, the user, the queue id and about
    TLS, as its own milter would be; whoever has logged in is outbound to it. Its action is followed: "reject", "soft
    reject", "add header" (a field that says so), "rewrite subject", "greylist", "quarantine" and "discard"; so are the
    header fields that its module milter_headers adds and removes. Any other action counts as "no action".
    """

    servers: list[Host] = Field(default=["127.0.0.1:11333"], min_length=1)
    """where its worker "normal" listens: "host:port" (the port is 11333 if not given) or "unix:/run/rspamd.sock" """
    max_size: Annotated[Size, at_least(1024, format_size)] = 10 * 1024 * 1024
    """larger messages are not checked; no more than max_message of rspamd"""
    oversize: Oversize = "continue"
    """what to do with those: continue, defer, quarantine or reject (552)"""
    reject: Word = "reject"
    """what to do where rspamd says "reject": reject, defer, quarantine, discard or continue. Where it says so of some
    recipients only (see `per_recipient`), `refused_for_some` of the listener says what becomes of it for these"""
    soft_reject: Literal["defer", "continue"] = "defer"
    """what to do where it says "soft reject", which its modules greylist and ratelimit do: defer (451) or continue"""
    greylist: Literal["defer", "continue"] = "continue"
    """what to do where it says "greylist": the score alone would have the message greylisted, and its module greylist
    has let it pass"""
    spam_field: Annotated[str, AfterValidator(_field_name), Form("field name")] = "X-Spam"
    """the header field that says Yes where rspamd says "add header"; one that came along is removed; "" for none"""
    headers: Flag = True
    """whether header fields, and the subject, are added and removed as rspamd says"""
    points: Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)] = 0.0
    """what a point of rspamd's score counts for the filter score: 0.66 makes its 15 a 10; 0 leaves score with the facts
    (rspamd.add-header, rspamd.symbol.NAME) and their weights"""
    per_recipient: Flag = False
    """whether a message is checked once for each domain of its recipients, so that its settings by recipient count for
    those only; otherwise once, with all"""
    max_domains: Annotated[int, Field(strict=True, ge=1, le=20)] = 5
    """a message for more domains than this is checked once"""
    settings_id: str = Field(default="", max_length=100)
    """the id of the settings that rspamd is to use (Settings-ID); what it chooses by itself if empty"""
    password_file: ConfigPath | None = None
    """a file with the password that is sent along, where `servers` are controllers (port 11334); none if not given"""
    text: str = "Refused: this message looks like spam"
    """what the sender of a refused message is told, where rspamd has no text of its own"""


@dataclass(frozen=True, slots=True)
class RspamdResult(Finding, OwnResult):
    """What rspamd says, about the recipients with the highest score; None for a message that is too large."""

    judged: Judged | None = None
    by: object = field(default=None, repr=False, compare=False)

    def summary(self) -> str:
        if self.judged is None:
            return "rspamd=oversize"
        judged = self.judged
        names = ",".join(f"{one.name}({one.score:g})" for one in judged.symbols[:_MOST_NAMED] if one.score)
        return f"rspamd={judged.action} {judged.score:g}/{judged.required:g} {names}".rstrip()

    def facts(self) -> Sequence[str]:
        return ("rspamd.oversize",) if self.judged is None else (f"rspamd.{fact_word(self.judged.action)}",)


@dataclass(frozen=True, slots=True)
class RspamdShare(OwnResult):
    """What rspamd says about some recipients, where others have their own."""

    judged: Judged
    recipients: tuple[Address, ...]
    by: object = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class RspamdSymbol(Finding):
    """One of rspamd's symbols, as a fact that has a weight of its own."""

    name: str

    def facts(self) -> Sequence[str]:
        return (f"rspamd.symbol.{fact_word(self.name)}",)


def build(options: Options, services: FilterServices) -> object:
    """The filter; ValueError where the file with the password holds none."""
    return Rspamd(options, services)


@implementer(IContentFilter, IMarkingModifier)
class Rspamd:
    """Asks once, or once for each domain, at the same time."""

    def __init__(self, options: Options, services: FilterServices) -> None:
        self._options = options
        self._words: dict[str, Word] = {
            "reject": options.reject,
            "soft reject": options.soft_reject,
            "greylist": options.greylist,
            "quarantine": "quarantine",
            "discard": "discard",
        }
        self._pool = server_pool(options, services, _PORT)
        self._fixed = [("MTA-Name", services.hostname)]
        if options.settings_id:
            self._fixed.append(("Settings-ID", options.settings_id))
        if options.password_file is not None:
            self._fixed.append(("Password", read_secret(options.password_file)))
        self._by = object()

    def on_message(self, session: Session, transaction: Transaction, message: Message) -> Voted:
        """Do what rspamd says."""
        size = message.content.size
        if size > self._options.max_size:
            evidence = (RspamdResult(by=self._by),)
            return too_large(self._options.oversize, size, self._options.max_size, evidence)
        return self._judge(session, transaction, message)

    def modify(self, session: Session, transaction: Transaction, message: Message) -> Sequence[Edit | For]:
        """The fields that rspamd adds and removes, and the one that marks spam, to each by its own."""
        result = own_result(transaction.evidence, RspamdResult, self._by)
        if result is None or result.judged is None:
            return self.forged(message)
        shares = [one for one in transaction.evidence.all(RspamdShare) if one.by is self._by]
        if not shares:
            return self._edits(result.judged, message)
        found = [(one.recipients, self._edits(one.judged, message)) for one in shares]
        return for_each(found, transaction.recipients, self.forged(message))

    def forged(self, message: Message) -> Sequence[Edit]:
        """The field that marks spam."""
        name = self._options.spam_field
        return [RemoveHeader(name)] if name and message.values(name) else []

    def _edits(self, judged: Judged, message: Message) -> list[Edit]:
        edits = [*self.forged(message)]
        if self._options.headers:
            edits += _edits(judged, message)
        if self._options.spam_field and judged.action == "add header":
            edits.append(AddHeader(self._options.spam_field, "Yes"))
        return edits

    async def _judge(self, session: Session, transaction: Transaction, message: Message) -> Verdict | Sequence[Verdict]:
        most = self._options.max_domains if self._options.per_recipient else 1
        groups = grouped(transaction.recipients, self._group_of, most)
        known = _facts(session, transaction)
        asked = [self._ask(message.content, [*known, *_told(members)]) for _, members in groups]
        found = [await asked[0]] if len(asked) == 1 else await together(asked)
        opinions = [self._opinion(one, members) for one, (_, members) in zip(found, groups, strict=True)]
        evidence = self._evidence(max(found, key=lambda one: one.score))
        if len(groups) > 1:
            shares = zip(found, groups, strict=True)
            evidence += tuple(
                RspamdShare(one, tuple(each.address for each in members), self._by) for one, (_, members) in shares
            )
        return said_of_each(opinions, evidence)

    async def _ask(self, content: Content, known: Sequence[tuple[str, str]]) -> Judged:
        async def ask(line: Line) -> Judged:
            return await ask_rspamd(line, content, [*self._fixed, *known])

        return await self._pool.ask(ask)

    def _group_of(self, recipient: Recipient) -> str:
        return recipient.address.domain.lower() if self._options.per_recipient else ""

    def _opinion(self, judged: Judged, recipients: tuple[Recipient, ...]) -> Opinion:
        word = self._words.get(judged.action, "continue")
        reason = f"rspamd says {judged.action}: score {judged.score:g} of {judged.required:g}"
        text = judged.text
        if not text.strip():
            text = "Try again later" if word == "defer" else self._options.text
        return Opinion(word, reason, text, recipients)

    def _evidence(self, judged: Judged) -> tuple[object, ...]:
        evidence: list[object] = [RspamdResult(judged, self._by)]
        if self._options.points and judged.score:
            evidence.append(Points(round(judged.score * self._options.points, 3), "rspamd"))
        return (*evidence, *(RspamdSymbol(one.name) for one in judged.symbols[:_MOST_SYMBOLS]))


def _facts(session: Session, transaction: Transaction) -> list[tuple[str, str]]:
    """What rspamd is told of a message, its recipients aside."""
    client = session.client
    found = [("Queue-Id", transaction.id), ("From", str(transaction.sender))]
    if client.address is not None:
        found.append(("IP", str(client.address).partition("%")[0]))
    if session.helo:
        found.append(("Helo", session.helo))
    found.append(("Hostname", client.name or "unknown"))
    if session.identity is not None:
        found.append(("User", session.identity.name))
    if session.tls is not None:
        found += [("TLS-Version", session.tls.version), ("TLS-Cipher", session.tls.cipher)]
    return found


def _told(recipients: Sequence[Recipient]) -> list[tuple[str, str]]:
    """What it is told of recipients; the one that it is delivered to where there is but one."""
    found = [("Rcpt", str(one.address)) for one in recipients]
    if len(recipients) == 1:
        found.append(("Deliver-To", str(recipients[0].address)))
    return found


def _edits(judged: Judged, message: Message) -> list[Edit]:
    edits: list[Edit] = []
    for removed in judged.removed:
        values = message.values(removed.name)
        if removed.number == 0 and values:
            edits.append(RemoveHeader(removed.name))
        elif removed.number and abs(removed.number) <= len(values):
            value = values[removed.number - 1 if removed.number > 0 else removed.number]
            edits.append(RemoveHeader(removed.name, value))
    if judged.action == "rewrite subject" and judged.subject.strip():
        edits += [RemoveHeader("Subject"), AddHeader("Subject", subject_value(judged.subject))]
    added = (new_field(one.name, one.value, at_end=one.at_end) for one in judged.added)
    # Each goes on top of the one before it.
    return edits + [one for one in reversed(list(added)) if one is not None]
