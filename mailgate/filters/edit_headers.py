"""Header fields by rule: what is added, replaced or removed, and the tag before the subject."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated

from msgspec.structs import replace
from pydantic import AfterValidator, Field, model_validator
from zope.interface import implementer

from mailgate.address import Address
from mailgate.config.schema import Section
from mailgate.config.units import Form
from mailgate.config.values import Flag, Pattern
from mailgate.envelope import Evidence, Session, Transaction
from mailgate.filters.headers import FieldName
from mailgate.filters.weights import is_fact
from mailgate.findings import Finding
from mailgate.interfaces import FilterServices, IMessageModifier
from mailgate.message import AddHeader, Edit, For, HeaderField, Message, RemoveHeader, apply_edits, split_header
from mailgate.mime.subject import decoded, prefixed
from mailgate.stores.domains import DomainTable

__all__ = ["EditHeaders", "Options", "Rule", "build"]

#: Characters of a value that a pattern is held against.
_MAX_VALUE = 16 * 1024
_SUBJECT = "Subject"


def _fact(text: str) -> str:
    if not is_fact(text):
        raise ValueError(f'{text!r} is no fact, such as "spf.fail"')
    return text


def _tag(text: str) -> str:
    if not text.isprintable() or len(text) > 100:
        raise ValueError("a tag has at most 100 characters, all printable")
    return text.strip()


_Fact = Annotated[str, AfterValidator(_fact), Form("fact")]


class Rule(Section):
    """One rule: `{ external = true, tag = "[EXT]" }`. It applies where each of its conditions holds, all where none is
    given."""

    external: Flag | None = None
    """true: mail of clients that have not logged in and are not in trusted_networks; false: other mail"""
    facts: list[_Fact] = Field(default=[])
    """one of these facts has been found by a filter before, or one that begins with it: ["spf.fail", "dnsbl"]"""
    without_facts: list[_Fact] = Field(default=[])
    """none of these has"""
    senders: list[Pattern] = Field(default=[])
    """the sender of the envelope is one of these, by address, domain, or "*.domain" for all below it"""
    recipients: list[Pattern] = Field(default=[])
    """each recipient is one of these: a message to others, too, is one message"""
    fields: dict[FieldName, str] = Field(default={})
    """a field of each of these names is as its pattern says, in which * is any text and ? any character, whatever its
    case; encoded words are decoded: { Subject = "*invoice*" }"""
    remove: list[FieldName] = Field(default=[])
    """fields that are removed, also those that filters before this one have added"""
    replace: dict[FieldName, str] = Field(default={})
    """fields that are put in the place of all of their name"""
    add: dict[FieldName, str] = Field(default={})
    """fields that are put on top, beside others of their name"""
    tag: Annotated[str, AfterValidator(_tag)] = ""
    """what is put before the subject, unless it has it already: "[EXT]". A signature of DKIM that covers the subject,
    as most do, does not survive"""

    @model_validator(mode="after")
    def _does_something(self) -> Rule:
        if not (self.remove or self.replace or self.add or self.tag):
            raise ValueError("the rule does nothing: it has no remove, replace, add or tag")
        return self


class Options(Section):
    """`[filters.edit-headers]`: rules, applied one after another; each sees what those before it have done."""

    rules: list[Rule] = Field(default=[])
    """the rules, such as { facts = ["dmarc.fail"], add = { X-Gateway-Note = "not authenticated" } }"""


def build(options: Options, services: FilterServices) -> object:
    """The filter; ValueError where a value is not one field's."""
    return EditHeaders(options)


@implementer(IMessageModifier)
class EditHeaders:
    """Looks at the header only where a rule's other conditions hold."""

    def __init__(self, options: Options) -> None:
        if not options.rules:
            raise ValueError("no rules: there is nothing to do")
        self._rules = [_Rule(rule) for rule in options.rules]

    def modify(self, session: Session, transaction: Transaction, message: Message) -> Sequence[Edit | For]:
        """The edits of all rules that apply, to each recipient's message by what was found for it."""
        if session.evidence.is_about_all and transaction.evidence.is_about_all:
            facts = frozenset(_facts((*session.evidence, *transaction.evidence)))
            return self._edits(session, transaction, message, facts)
        people = {one.address: one for one in transaction.recipients}
        groups: dict[frozenset[str], list[Address]] = {}
        for addresses, evidence in Evidence.shared(people, session.evidence, transaction.evidence):
            groups.setdefault(frozenset(_facts(evidence)), []).extend(addresses)
        found: list[Edit | For] = []
        for facts, members in groups.items():
            those = replace(transaction, recipients=[people[one] for one in members])
            edits = self._edits(session, those, message, facts)
            if edits:
                found.append(For(tuple(members), tuple(edits)))
        return found

    def _edits(self, session: Session, transaction: Transaction, message: Message, facts: frozenset[str]) -> list[Edit]:
        edits: list[Edit] = []
        for rule in self._rules:
            if rule.applies(session, transaction, facts):
                edits += rule.edits(message, (*transaction.edits, *edits))
        return edits


class _Addresses:
    def __init__(self, patterns: Iterable[str]) -> None:
        patterns = list(patterns)
        self._addresses = frozenset(one.lower() for one in patterns if "@" in one)
        self._domains = DomainTable({one: True for one in patterns if "@" not in one})
        self.is_any = not patterns

    def has(self, address: Address) -> bool:
        return str(address).lower() in self._addresses or (bool(address) and self._domains.has(address.domain))


class _Rule:
    def __init__(self, rule: Rule) -> None:
        self._external = rule.external
        self._facts, self._without = frozenset(rule.facts), frozenset(rule.without_facts)
        self._senders, self._recipients = _Addresses(rule.senders), _Addresses(rule.recipients)
        self._fields = {name.lower(): _pattern(pattern) for name, pattern in rule.fields.items()}
        self._edits: list[Edit] = [RemoveHeader(name) for name in (*rule.remove, *rule.replace)]
        # Each field goes on top of the one before it.
        added = [*rule.add.items(), *rule.replace.items()]
        self._edits += [AddHeader(name, value) for name, value in reversed(added)]
        self._tag = rule.tag

    def applies(self, session: Session, transaction: Transaction, facts: frozenset[str]) -> bool:
        """Whether the conditions hold that are not about the header."""
        if self._external is not None and self._external != (session.identity is None):
            return False
        if (self._facts and not self._facts & facts) or self._without & facts:
            return False
        if not self._senders.is_any and not self._senders.has(transaction.sender):
            return False
        recipients = transaction.recipients
        return self._recipients.is_any or all(self._recipients.has(one.address) for one in recipients)

    def edits(self, message: Message, before: Sequence[Edit]) -> Sequence[Edit]:
        """What the rule does to the header as the edits before leave it; nothing where its fields are not so."""
        if not self._fields and not self._tag:
            return self._edits
        fields = split_header(apply_edits(message.content.header, before)) if before else message.fields
        if not all(_is_so(fields, name, pattern) for name, pattern in self._fields.items()):
            return []
        return [*self._edits, *self._tagged(fields)]

    def _tagged(self, fields: Iterable[HeaderField]) -> Iterator[Edit]:
        if not self._tag:
            return
        subject = next((field for field in fields if field.name.lower() == "subject"), None)
        value = prefixed(subject, self._tag)
        if value is not None:
            if subject is not None:
                yield RemoveHeader(_SUBJECT)
            yield AddHeader(_SUBJECT, value)


def _pattern(text: str) -> re.Pattern[str]:
    # A bracket stands for itself: subjects are full of them.
    return re.compile(fnmatch.translate(text.casefold().replace("[", "[[]")))


def _is_so(fields: Iterable[HeaderField], name: str, pattern: re.Pattern[str]) -> bool:
    values = (decoded(field.value)[:_MAX_VALUE].casefold() for field in fields if field.name.lower() == name)
    return any(pattern.match(value) for value in values)


def _facts(evidence: Iterable[object]) -> Iterator[str]:
    """Every fact, and each of its beginnings: "dnsbl" for "dnsbl.zen.example"."""
    for found in evidence:
        if isinstance(found, Finding):
            for fact in found.facts():
                words = fact.split(".")
                yield from (".".join(words[:count]) for count in range(1, len(words) + 1))
