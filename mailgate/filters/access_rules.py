"""The rules of the access filter: one line each, and tables that find the one that fits."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from mailgate.address import Address, AddressError
from mailgate.config.hosts import parse_network
from mailgate.envelope import Session
from mailgate.filters.networks import NetworkTable
from mailgate.stores.domains import canonical
from mailgate.stores.extensions import ExtendedTable

__all__ = ["ACTIONS", "SUBJECTS", "Rule", "RuleTable", "parse_rule"]

ACTIONS = ("allow", "deny", "defer")
SUBJECTS = ("client", "name", "helo", "sender", "recipient")

_FORM = "a rule is written: allow|deny|defer client|name|helo|sender|recipient PATTERN [TEXT]"
_HOST = re.compile(r"[\w:-]+(?:\.[\w:-]+)*|\[[0-9A-Za-z:.]+\]")


class Rule(NamedTuple):
    """`deny client 192.0.2.0/24 No mail from there, please`, and where it stands: a file and its line."""

    action: str
    subject: str
    pattern: str
    text: str
    source: str
    line: int

    def __str__(self) -> str:
        return f'"{self.action} {self.subject} {self.pattern}" ({self.source}:{self.line})'


def parse_rule(text: str, source: str, line: int) -> Rule:
    """The rule that a line is, by its form; ValueError, fit for an administrator, where it is none."""
    words = text.split(None, 3)
    if len(words) < 3 or words[0] not in ACTIONS or words[1] not in SUBJECTS:
        raise ValueError(f"{_FORM}, not {text.strip()[:80]!r}")
    rule = Rule(words[0], words[1], words[2], words[3].strip() if len(words) > 3 else "", source, line)
    if rule.text and rule.action == "allow":
        raise ValueError(f"an allow rule has no text: {rule.text[:80]!r}")
    return rule


class _Names:
    """Names by rule: `a.example` itself, `.a.example` or `*.a.example` all below it, `*` any."""

    __slots__ = ("_below", "_exact")

    def __init__(self) -> None:
        self._exact: dict[str, Rule] = {}
        self._below: dict[str, Rule] = {}

    def add(self, pattern: str, rule: Rule) -> None:
        """Take a rule; ValueError where the pattern is none for names."""
        if pattern == "*":
            self._below.setdefault("", rule)
            return
        below = pattern.startswith((".", "*."))
        name = canonical(pattern[pattern.index(".") + 1 :] if below else pattern)
        if not _HOST.fullmatch(name):
            raise ValueError(f"{pattern!r} is no name, and no .name for all below it")
        (self._below if below else self._exact).setdefault(name, rule)

    def find(self, name: str) -> Rule | None:
        """The rule for a name; the name itself before what is above it."""
        if not name:
            return None
        name = canonical(name)
        rule = self._exact.get(name)
        if rule is None and self._below:
            while rule is None and name:
                name = name.partition(".")[2]
                rule = self._below.get(name)
        return rule

    def __bool__(self) -> bool:
        return bool(self._exact or self._below)


def _key(address: Address) -> tuple[str, str]:
    return address.local_part.lower(), canonical(address.domain)


class _Mailboxes:
    """Addresses by rule: `ann@a.example`, `ann+*@a.example` with any extension, `@a.example`, `a.example`,
    `*.a.example`, `*`, and `<>` for none."""

    __slots__ = ("_addresses", "_domains", "_extended")

    def __init__(self) -> None:
        self._addresses: dict[tuple[str, str], Rule] = {}
        self._extended: ExtendedTable[Rule] = ExtendedTable()
        self._domains = _Names()

    def add(self, pattern: str, rule: Rule) -> None:
        """Take a rule; ValueError where the pattern is none for addresses."""
        if pattern == "<>":
            self._addresses.setdefault(("", ""), rule)
        elif "@" in pattern[1:]:
            try:
                address = Address.parse(pattern)
            except AddressError as error:
                raise ValueError(f"{pattern!r} is no address: {error}") from None
            if not self._extended.add(*_key(address), rule):
                self._addresses.setdefault(_key(address), rule)
        else:
            self._domains.add(pattern.removeprefix("@"), rule)

    def find(self, address: Address) -> Rule | None:
        """The rule for an address; the address itself before that without its extension, and its domain. Case does not
        matter."""
        rule = self._addresses.get(_key(address)) if self._addresses else None
        if rule is None and self._extended:
            rule = self._extended.find(*_key(address))
        return rule or (self._domains.find(address.domain) if self._domains else None)

    def __bool__(self) -> bool:
        return bool(self._addresses or self._extended or self._domains)


class RuleTable:
    """Rules by subject. Of two rules with one pattern the first stays."""

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        self._clients: NetworkTable[Rule] = NetworkTable()
        self._names = _Names()
        self._helos = _Names()
        self._senders = _Mailboxes()
        self._recipients = _Mailboxes()
        for rule in rules:
            self.add(rule)

    def add(self, rule: Rule) -> None:
        """Take a rule; ValueError where its pattern does not suit its subject."""
        match rule.subject:
            case "client":
                self._clients.add(parse_network(rule.pattern), rule)
            case "name":
                self._names.add(rule.pattern, rule)
            case "helo":
                self._helos.add(rule.pattern, rule)
            case "sender":
                self._senders.add(rule.pattern, rule)
            case _:
                self._recipients.add(rule.pattern, rule)

    def client(self, session: Session) -> Rule | None:
        """The rule about the client's address, or its name."""
        if self._clients:
            rule = self._clients.find(session.client.address)
            if rule is not None:
                return rule
        return self._names.find(session.client.name) if self._names else None

    def helo(self, session: Session) -> Rule | None:
        """The rule about the client's greeting."""
        return self._helos.find(session.helo) if self._helos else None

    def sender(self, address: Address) -> Rule | None:
        """The rule about the sender."""
        return self._senders.find(address) if self._senders else None

    def recipient(self, address: Address) -> Rule | None:
        """The rule about a recipient."""
        return self._recipients.find(address) if self._recipients else None

    def known(self, session: Session, sender: Address | None = None) -> Rule | None:
        """The first rule about what is known before a recipient is: the client, its greeting, the sender."""
        return self.client(session) or self.helo(session) or (self.sender(sender) if sender is not None else None)
