"""Allows and refuses by lists: clients, their names and greetings, senders, recipients."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Protocol

from pydantic import AfterValidator, Field
from twisted.internet.interfaces import IReactorTime
from zope.interface import directlyProvides
from zope.interface.interface import InterfaceClass

from mailgate.address import Address
from mailgate.config.schema import Section
from mailgate.config.units import ConfigPath, Form
from mailgate.envelope import Recipient, Session, Transaction
from mailgate.filters.access_rules import SUBJECTS, Rule, RuleTable, parse_rule
from mailgate.interfaces import FilterServices, IConnectFilter, IHeloFilter, IMailFilter, IRecipientFilter
from mailgate.reply import Reply
from mailgate.stores.lists import LineError, WatchedFile
from mailgate.verdict import Accept, Defer, Disconnect, Reject, Verdict

__all__ = ["Access", "Options", "RuleSet", "build"]


def _rule(text: str) -> str:
    RuleTable([parse_rule(text, "rules", 0)])
    return text


class Options(Section):
    """`[filters.access]`: rules in the configuration and in files, all of one form.

    A rule is `ACTION SUBJECT PATTERN`, and for deny and defer the text of the reply may follow:

    - actions: allow, deny (550 5.7.1), defer (450 4.7.1)
    - client: an address or a network: `allow client 192.0.2.0/24`
    - name: the client's confirmed name in DNS: `deny name .dynamic.example.net` (all below it), `*` any
    - helo: the name that the client gives itself, in the same forms
    - sender, recipient: `ann@example.org`, `ann+*@example.org` (with any extension; the delimiter is one of
      `+=_#/~.-`), `@example.org` or `example.org`, `*.example.org` (all below it), `*` any, and `<>` for the sender of
      reports: `deny recipient old@example.org This address is closed`

    Order does not matter: whatever an allow rule fits is not refused here, by none of the rules, and the filters
    behind this one are not asked at the stage of its subject (connect for client and name, helo, mail, rcpt). Of
    several rules in one place that refuse, the one with the smallest network or the longest name counts.
    """

    rules: list[Annotated[str, AfterValidator(_rule), Form("rule")]] = Field(default=[])
    """rules that stand in the configuration; a change needs a reload"""
    files: list[ConfigPath] = Field(default=[])
    """files with a rule a line and # for comments; read again when they change, without a reload. A line that is no
    rule then leaves the old content in force, and is logged"""
    when: Literal["rcpt", "at-once"] = "rcpt"
    """when a client, a name, a greeting or a sender is refused. rcpt: at each recipient, so that the history says who
    wrote to whom, and `reachable` can be kept; at-once: as soon as it is known, a client or a name instead of the
    banner (554, or 421 to defer)"""
    reachable: list[str] = Field(default=["postmaster"])
    """local parts in our domains to which everybody can write, unless a rule is about that very recipient (RFC 5321
    section 4.5.1); only while `when` is rcpt"""
    text: str = "Refused by policy"
    """what is replied where the rule has no text of its own"""


def build(options: Options, services: FilterServices) -> object:
    """The filter; ValueError, with file and line, where a file cannot be read or a line is no rule."""
    return Access(options, services)


class RuleSet:
    """The rules of one place, those that allow and those that refuse; `subjects` says what they are about."""

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        self.allowed = RuleTable()
        self.refused = RuleTable()
        self.subjects: set[tuple[bool, str]] = set()
        for rule in rules:
            self.add(rule)

    def add(self, rule: Rule) -> None:
        """Take a rule; ValueError where its pattern does not suit its subject."""
        allows = rule.action == "allow"
        (self.allowed if allows else self.refused).add(rule)
        self.subjects.add((allows, rule.subject))


class _Source(Protocol):
    @property
    def value(self) -> RuleSet: ...


@dataclass(frozen=True)
class _Fixed:
    value: RuleSet


class Access:
    """Looks rules up anew at each stage: it keeps nothing of a session, and a file that changed counts at once."""

    def __init__(self, options: Options, services: FilterServices) -> None:
        rules = RuleSet(parse_rule(text, "rules", number) for number, text in enumerate(options.rules, 1))
        self._sources: list[_Source] = [_Fixed(rules)] if options.rules else []
        self._sources += [_watched(path, services.clock) for path in options.files]
        self._at_once = options.when == "at-once"
        self._reachable = frozenset(name.lower() for name in options.reachable)
        self._local_domains = services.local_domains
        self._hostname = services.hostname.lower()
        self._text = options.text
        # What a file holds may change: with one, every stage is ours.
        every = {(allows, subject) for allows in (True, False) for subject in SUBJECTS}
        directlyProvides(self, *_stages(every if options.files else rules.subjects, self._at_once))

    def on_connect(self, session: Session) -> Verdict | None:
        """Accept a client that a rule allows; with `when` at-once, Disconnect one that a rule refuses."""
        if not self._sources:
            return None
        allowed, refused = self._tables()
        if rule := _first(table.client(session) for table in allowed):
            return _accept(rule, session.client)
        if not self._at_once:
            return None
        if rule := _first(table.client(session) for table in refused):
            # A greeting carries no enhanced status code (RFC 2034 section 3).
            code = 421 if rule.action == "defer" else 554
            return Disconnect(Reply.of(code, "", rule.text or self._text), _reason(rule, session.client))
        return None

    def on_helo(self, session: Session) -> Verdict | None:
        """Accept a greeting that a rule allows; with `when` at-once, refuse one."""
        allowed, refused = self._tables()
        if rule := _first(table.helo(session) for table in allowed):
            return _accept(rule, session.helo)
        if not self._at_once or _first(table.client(session) for table in allowed):
            return None
        rule = _first(table.helo(session) for table in refused)
        return self._refuse(rule, session.helo, greeting=True) if rule else None

    def on_mail(self, session: Session, transaction: Transaction) -> Verdict | None:
        """Accept a sender that a rule allows; with `when` at-once, refuse one."""
        allowed, refused = self._tables()
        sender = transaction.sender
        if rule := _first(table.sender(sender) for table in allowed):
            return _accept(rule, sender or "<>")
        if not self._at_once or _first(table.known(session) for table in allowed):
            return None
        rule = _first(table.sender(sender) for table in refused)
        return self._refuse(rule, sender or "<>") if rule else None

    def on_rcpt(self, session: Session, transaction: Transaction, recipient: Recipient) -> Verdict | None:
        """Accept a recipient that a rule allows; refuse one, and here (unless at once) all that was known before."""
        allowed, refused = self._tables()
        address, sender = recipient.address, transaction.sender
        if rule := _first(table.recipient(address) for table in allowed):
            return _accept(rule, address)
        if _first(table.known(session, sender) for table in allowed):
            return None
        if rule := _first(table.recipient(address) for table in refused):
            return self._refuse(rule, address)
        if self._at_once:
            return None
        rule = _first(table.known(session, sender) for table in refused)
        if rule is None or self._is_reachable(address):
            return None
        about = {"helo": session.helo, "sender": sender or "<>"}.get(rule.subject, session.client)
        return self._refuse(rule, about)

    def _tables(self) -> tuple[list[RuleTable], list[RuleTable]]:
        values = [source.value for source in self._sources]
        return [value.allowed for value in values], [value.refused for value in values]

    def _is_reachable(self, address: Address) -> bool:
        ours = address.domain == self._hostname or self._local_domains(address.domain)
        return ours and address.local_part.lower() in self._reachable

    def _refuse(self, rule: Rule, about: object, *, greeting: bool = False) -> Verdict:
        text, reason = rule.text or self._text, _reason(rule, about)
        if rule.action == "defer":
            return Defer(Reply.of(450, "" if greeting else "4.7.1", text), reason)
        return Reject(Reply.of(550, "" if greeting else "5.7.1", text), reason)


def _watched(path: Path, clock: IReactorTime) -> WatchedFile[RuleSet]:
    def parse(lines: Iterable[tuple[int, str]]) -> RuleSet:
        rules = RuleSet()
        for number, line in lines:
            try:
                rules.add(parse_rule(line, str(path), number))
            except ValueError as error:
                raise LineError(number, str(error)) from error
        return rules

    return WatchedFile(path, parse, clock)


def _stages(subjects: set[tuple[bool, str]], at_once: bool) -> list[InterfaceClass]:
    """The stages at which rules about these subjects have something to say; one at least."""
    stages: dict[str, InterfaceClass] = {
        "client": IConnectFilter,
        "name": IConnectFilter,
        "helo": IHeloFilter,
        "sender": IMailFilter,
        "recipient": IRecipientFilter,
    }
    needed = {stages[subject] if allows or at_once else IRecipientFilter for allows, subject in subjects}
    return sorted(needed, key=list(stages.values()).index) or [IConnectFilter]


def _first(found: Iterable[Rule | None]) -> Rule | None:
    return next((rule for rule in found if rule is not None), None)


def _accept(rule: Rule, about: object) -> Accept:
    return Accept(_reason(rule, about))


def _reason(rule: Rule, about: object) -> str:
    return f"{about} matches {rule}"
