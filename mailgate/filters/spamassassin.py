"""Spam: spamd of SpamAssassin gives a score, by the preferences of the recipients where that is wanted."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from ipaddress import IPv6Address
from typing import Annotated, Literal

from pydantic import Field
from zope.interface import implementer

from mailgate.address import Address
from mailgate.config.units import Size, at_least, format_size
from mailgate.config.values import Flag, Host
from mailgate.envelope import Recipient, Session, Transaction
from mailgate.filters.scanning import (
    Opinion,
    Oversize,
    OwnResult,
    ScannerSection,
    Word,
    for_each,
    grouped,
    own_result,
    said_of_each,
    server_pool,
    too_large,
)
from mailgate.filters.spam_fields import edits_between, folded_list, whole_lines
from mailgate.filters.together import together
from mailgate.findings import Finding, Points
from mailgate.interfaces import FilterServices, IContentFilter, IMarkingModifier, Voted
from mailgate.message import AddHeader, Content, Edit, For, Message, RemoveHeader, ReplaceBody, edited_body
from mailgate.scanners.conversation import Line
from mailgate.scanners.spamd import Check, Checked, Command, is_user
from mailgate.verdict import Verdict

__all__ = ["Options", "SpamAssassin", "SpamResult", "SpamTest", "build"]

_PORT = 783
_FIELDS = ("X-Spam-Flag", "X-Spam-Level", "X-Spam-Status")
_COMMANDS: dict[str, Command] = {"score": "SYMBOLS", "headers": "HEADERS", "message": "PROCESS"}
_SAFE = re.compile(r"[A-Za-z0-9._:\[\]-]{1,255}")
_NO_TEST = re.compile(r"[^a-z0-9_]+")
#: Tests that are evidence each, and stars of X-Spam-Level.
_MOST_TESTS, _MOST_STARS = 50, 50

_Threshold = Annotated[float, Field(strict=True, ge=-1000, le=1000, allow_inf_nan=False)] | Literal[False]


class Options(ScannerSection):
    """`[filters.spamassassin]`: what SpamAssassin counts makes a message tagged, quarantined or refused.

    spamd sees the message with a Received field of ours on top, from which it knows the client; it must trust this
    gateway (trusted_networks) to ask DNS about the client. The score is told in X-Spam-Flag (only for spam),
    X-Spam-Status and X-Spam-Level, to recipients with users of their own each by his; fields of these names that came
    along are removed.
    """

    servers: list[Host] = Field(default=["127.0.0.1:783"], min_length=1)
    """where spamd listens: "host:port" (the port is 783 if not given) or "unix:/run/spamd.sock" """
    connections: Annotated[int, Field(strict=True, ge=1)] = 5
    """messages that are checked at one time; further ones wait, and their waiting is part of `timeout`. As many as
    spamd has children (--max-children, 5 by default)"""
    max_size: Annotated[Size, at_least(1024, format_size)] = 512 * 1024
    """larger messages are not checked: spam is small, and SpamAssassin slow"""
    oversize: Oversize = "continue"
    """what to do with those: continue, defer, quarantine or reject (552)"""
    reject: _Threshold = 15.0
    """from how many points on a message is refused; false for never. See `refused_for_some` of the listener where that
    is so for some recipients only"""
    quarantine: _Threshold = False
    """from how many points on it is quarantined"""
    points: Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)] = 0.0
    """what a point of SpamAssassin counts for the filter score: 1 adds them as they are, 0 leaves score with the facts
    (spamassassin.spam, spamassassin.test.NAME) and their weights"""
    fields: Flag = True
    """whether header fields tell of the score; with the filter score, which has fields of the same names, write false
    here, or other names there"""
    take: Literal["score", "headers", "message"] = "score"
    """score: the fields are ours; headers: those that SpamAssassin writes, with a tag in the subject where it is so
    configured; message: all that it writes, spam wrapped into a report too (report_safe). The last must stand before
    filters that change the body"""
    user: str = ""
    """whose preferences count where no recipient's do; spamd's own user if empty"""
    user_by: Literal["none", "address", "local-part", "domain"] = "none"
    """whose preferences count: a recipient's, by its address, the part before the @, or its domain (in lower case);
    where that is no plain name (letters, digits and . _ + - = @), those of `user` do"""
    max_users: Annotated[int, Field(strict=True, ge=1, le=20)] = 1
    """a message for recipients with different users is checked once for each, if they are no more than this; otherwise
    once, by `user`"""
    text: str = "Refused: this message looks like spam"
    """what the sender of a refused message is told"""


@dataclass(frozen=True, slots=True)
class SpamResult(Finding, OwnResult):
    """What SpamAssassin found, for the recipients with the highest score; None for a message that is too large."""

    found: Checked | None = None
    user: str = ""
    shown: bytes = field(default=b"", repr=False)
    """the fields that SpamAssassin was shown before those of the message"""
    by: object = field(default=None, repr=False, compare=False)

    def summary(self) -> str:
        if self.found is None:
            return "spamassassin=oversize"
        word = "spam" if self.found.is_spam else "ham"
        told = f"spamassassin={word} {self.found.score:g}/{self.found.threshold:g} {','.join(self.found.tests[:20])}"
        return told.rstrip()

    def facts(self) -> Sequence[str]:
        if self.found is None:
            return ("spamassassin.oversize",)
        return ("spamassassin.spam" if self.found.is_spam else "spamassassin.ham",)


@dataclass(frozen=True, slots=True)
class SpamShare(OwnResult):
    """What SpamAssassin found by the preferences of some recipients, where others have theirs."""

    found: Checked
    shown: bytes = field(repr=False)
    recipients: tuple[Address, ...]
    by: object = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class SpamTest(Finding):
    """One of SpamAssassin's tests that hit, as a fact that has a weight of its own."""

    name: str

    def facts(self) -> Sequence[str]:
        return (f"spamassassin.test.{_NO_TEST.sub('-', self.name.lower())}",)


def build(options: Options, services: FilterServices) -> object:
    """The filter; ValueError where less is needed to refuse than to quarantine, or `user` is no name."""
    return SpamAssassin(options, services)


@implementer(IContentFilter, IMarkingModifier)
class SpamAssassin:
    """Asks once, or once for each user, at the same time."""

    def __init__(self, options: Options, services: FilterServices) -> None:
        if options.quarantine is not False and options.reject is not False and options.reject < options.quarantine:
            raise ValueError("reject must not be lower than quarantine")
        if options.user and not is_user(options.user):
            raise ValueError("user: a name has letters, digits and . _ + - = @ only")
        self._options = options
        self._command = _COMMANDS[options.take]
        self._pool = server_pool(options, services, _PORT)
        self._clock = services.clock
        self._by = object()

    def on_message(self, session: Session, transaction: Transaction, message: Message) -> Voted:
        """Do what the options say about the score."""
        size = message.content.size
        if size > self._options.max_size:
            return too_large(self._options.oversize, size, self._options.max_size, (SpamResult(by=self._by),))
        return self._judge(session, transaction, message)

    def modify(self, session: Session, transaction: Transaction, message: Message) -> Sequence[Edit | For]:
        """The fields that tell of the score, or what SpamAssassin has made of the message, to each by its own."""
        result = own_result(transaction.evidence, SpamResult, self._by)
        if self._has_no_fields or result is None or result.found is None:
            return self.forged(message)
        there = {one.address for one in transaction.recipients}
        shares = [one for one in transaction.evidence.all(SpamShare) if one.by is self._by]
        if not shares:
            return self._edits(result.found, result.shown, message)
        # What SpamAssassin has made of a message may be all of it: only for those who are asked about.
        meant = [one for one in shares if not there.isdisjoint(one.recipients)]
        found = [(one.recipients, self._edits(one.found, one.shown, message)) for one in meant]
        return for_each(found, transaction.recipients, self.forged(message))

    def forged(self, message: Message) -> Sequence[Edit]:
        """The fields that tell of the score; others may write them where this filter does not."""
        return [] if self._has_no_fields else _removals(message)

    @property
    def _has_no_fields(self) -> bool:
        return not self._options.fields and self._options.take == "score"

    def _edits(self, found: Checked, shown: bytes, message: Message) -> list[Edit]:
        if found.message:
            edits = self._rewritten(found.message, message.content, shown)
            if edits is not None:
                return edits
        return _removals(message) + (_own_fields(found) if self._options.fields else [])

    async def _judge(self, session: Session, transaction: Transaction, message: Message) -> Verdict | Sequence[Verdict]:
        groups = grouped(transaction.recipients, self._user_of, self._options.max_users)
        prefix = self._prefix(session, transaction)
        found = await together(self._check(message.content, user, prefix) for user, _ in groups)
        opinions = [self._opinion(one, members) for one, (_, members) in zip(found, groups, strict=True)]
        number = max(range(len(found)), key=lambda number: found[number].score)
        evidence = self._evidence(found[number], groups[number][0], prefix)
        if len(groups) > 1:
            shares = zip(found, groups, strict=True)
            evidence += tuple(
                SpamShare(one, prefix, tuple(each.address for each in members), self._by)
                for one, (_, members) in shares
            )
        return said_of_each(opinions, evidence)

    async def _check(self, content: Content, user: str, prefix: bytes) -> Checked:
        async def ask(line: Line) -> Checked:
            check = Check(self._command, content, user=user or self._options.user, prefix=prefix)
            return await line.ask(check)

        return await self._pool.ask(ask)

    def _user_of(self, recipient: Recipient) -> str:
        user = self._name_of(recipient)
        return user if is_user(user) else ""

    def _name_of(self, recipient: Recipient) -> str:
        address = recipient.address
        match self._options.user_by:
            case "address":
                return f"{address.local_part}@{address.domain}".lower()
            case "local-part":
                return address.local_part.lower()
            case "domain":
                return address.domain.lower()
            case _:
                return ""

    def _opinion(self, found: Checked, recipients: tuple[Recipient, ...]) -> Opinion:
        for word, threshold in _thresholds(self._options):
            if found.score >= threshold:
                reason = f"SpamAssassin: score {found.score:g} reaches {threshold:g}"
                return Opinion(word, reason, self._options.text, recipients)
        return Opinion("continue", "", "", recipients)

    def _evidence(self, found: Checked, user: str, prefix: bytes) -> tuple[object, ...]:
        evidence: list[object] = [SpamResult(found, user, prefix, self._by)]
        if self._options.points and found.score:
            evidence.append(Points(round(found.score * self._options.points, 3), "SpamAssassin"))
        return (*evidence, *(SpamTest(name) for name in found.tests[:_MOST_TESTS]))

    def _prefix(self, session: Session, transaction: Transaction) -> bytes:
        """The fields that tell SpamAssassin about the client, the sender and us, as if we had delivered the message."""
        address = session.client.address
        literal = "" if address is None else str(address).partition("%")[0]
        if isinstance(address, IPv6Address):
            literal = f"IPv6:{literal}"
        name, helo = (text if _SAFE.fullmatch(text) else "unknown" for text in (session.client.name, session.helo))
        sender = str(transaction.sender)
        return_path = f"Return-Path: <{sender}>\r\n" if sender.isascii() and sender.isprintable() else ""
        login = " (authenticated)" if session.identity is not None else ""
        date = formatdate(int(self._clock.seconds()))
        return (
            f"{return_path}Received: from {helo} ({name} [{literal or '127.0.0.1'}]){login}\r\n"
            f"\tby {session.hostname} (mailgate) with {session.protocol} id {transaction.id};\r\n\t{date}\r\n"
        ).encode()

    def _rewritten(self, rewritten: bytes, content: Content, shown: bytes) -> list[Edit] | None:
        """What SpamAssassin has changed; None where no mail could carry it."""
        header, _, body = whole_lines(rewritten).partition(b"\r\n\r\n")
        edits = edits_between(content.header, header + b"\r\n", shown)
        if self._command == "HEADERS":
            return edits
        if whole_lines(b"".join(edited_body(content, ()))) == body:
            return edits
        try:
            return [*edits, ReplaceBody(Content(body), note="as rewritten by SpamAssassin")]
        except ValueError:
            return None


def _thresholds(options: Options) -> list[tuple[Word, float]]:
    """What is reached first, the heaviest first."""
    found: list[tuple[Word, float]] = []
    if options.reject is not False:
        found.append(("reject", options.reject))
    if options.quarantine is not False:
        found.append(("quarantine", options.quarantine))
    return found


def _removals(message: Message) -> list[Edit]:
    names = {one.name.lower() for one in message.fields}
    return [RemoveHeader(name) for name in _FIELDS if name.lower() in names]


def _own_fields(found: Checked) -> list[Edit]:
    word = "Yes" if found.is_spam else "No"
    start = f"{word}, score={found.score:g} required={found.threshold:g} tests="
    edits: list[Edit] = [AddHeader("X-Spam-Status", folded_list(start, found.tests or ("none",)))]
    if found.score >= 1:
        edits.append(AddHeader("X-Spam-Level", "*" * min(int(found.score), _MOST_STARS)))
    if found.is_spam:
        edits.append(AddHeader("X-Spam-Flag", "YES"))
    return edits
