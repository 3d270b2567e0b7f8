"""Looks for strings and regular expressions in header fields, decoded text, or the message as it stands."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, Field
from zope.interface import implementer

from mailgate.config.schema import Network
from mailgate.config.units import ConfigPath, Form, Size
from mailgate.content.models import Limits
from mailgate.envelope import Session, Transaction
from mailgate.filters.examining import Examining, ExaminingSection, Word, stated
from mailgate.filters.networks import NetworkSet
from mailgate.filters.signature_rules import MOST_RULES, Signature, check_expressions, parse_signature, read_signatures
from mailgate.findings import Finding
from mailgate.interfaces import FilterServices, IContentFilter
from mailgate.message import Message
from mailgate.stores.lists import WatchedFile
from mailgate.verdict import Continue, Verdict

__all__ = ["Options", "SignatureResult", "Signatures", "build"]

_ORDER: tuple[Word, ...] = ("reject", "defer", "quarantine", "continue")


def _rule(text: str) -> str:
    parse_signature(text, 0)
    return text


class Options(ExaminingSection):
    """`[filters.signatures]`: what is looked for in messages.

    A rule is `ACTION NAME WHERE PATTERN`:

    - actions: reject (550 5.7.1), quarantine, defer (451), continue (which only leaves the fact `signatures.NAME`)
    - where: `text` (the text of all parts, decoded, without the tags of HTML), `header:subject` (the values of a field,
      decoded), `headers` (the header section as it stands), `raw` (the whole message as it stands)
    - pattern: `/EXPRESSION/` of [RE2](https://github.com/google/re2/wiki/Syntax), whose time is linear in what it
      searches, with i for any case and s for a dot that fits line breaks too (`/foo.*bar/is`); or a string as it is,
      in any case

    `quarantine gift-cards text /\\b(gift|itunes)\\s+cards?\\b/i`
    """

    rules: list[Annotated[str, AfterValidator(_rule), Form("rule")]] = Field(default=[])
    """rules that stand in the configuration"""
    files: list[ConfigPath] = Field(default=[])
    """files with a rule a line and # for comments (before which there is space: write \\x23 in an expression); read
    again when they change. A line that is no rule leaves the old content in force, and is logged"""
    max_text: Size = 2 * 1024 * 1024
    """characters of a message's text that are searched, from its beginning"""
    exempt: list[Network] = Field(default=[])
    """clients whose mail is not looked into"""
    unreadable: Word = "continue"
    """what is done with messages that cannot be looked into"""
    text: str = "The content of this message is not accepted here"
    """what is replied to messages that are rejected or deferred"""


@dataclass(frozen=True, slots=True)
class SignatureResult(Finding):
    """The rules that match, by their names."""

    names: tuple[str, ...]

    def summary(self) -> str:
        return f"signatures: {', '.join(self.names)}"

    def facts(self) -> Sequence[str]:
        return ("signatures.match", *(f"signatures.{name}" for name in self.names))


def build(options: Options, services: FilterServices) -> object:
    """The filter; ValueError, with file and line, where a file cannot be read or a line is no rule."""
    return Signatures(options, services)


@implementer(IContentFilter)
class Signatures:
    """Hands the rules to the process that reads the message, with each message: they may have changed."""

    def __init__(self, options: Options, services: FilterServices) -> None:
        if not options.rules and not options.files:
            raise ValueError("there is nothing to look for: give rules, or files with rules")
        self._fixed = tuple(parse_signature(text, number) for number, text in enumerate(options.rules, 1))
        check_expressions(one.rule for one in self._fixed)
        if len(self._fixed) > MOST_RULES:
            raise ValueError(f"rules has more than {MOST_RULES} rules")
        self._files = [WatchedFile(path, read_signatures, services.clock) for path in options.files]
        self._options = options
        self._limits = Limits(text=options.max_text)
        self._exempt = NetworkSet(options.exempt)
        self._examining = Examining(options, services, "signatures")

    def on_message(
        self, session: Session, transaction: Transaction, message: Message
    ) -> Verdict | Awaitable[Verdict | None] | None:
        """Search."""
        if session.client.address in self._exempt:
            return None
        signatures = [*self._fixed, *(one for file in self._files for one in file.value)]
        return self._judge(message, signatures) if signatures else None

    async def _judge(self, message: Message, signatures: Sequence[Signature]) -> Verdict | None:
        found = await self._examining.ask(message, self._limits, rules=tuple(one.rule for one in signatures))
        if found.failure is not None:
            return self._examining.unread(found.failure)
        if not found.matches:
            return None
        matches = frozenset(found.matches)
        hits = [one for one in signatures if one.rule.name in matches]
        result = SignatureResult(tuple(dict.fromkeys(one.rule.name for one in hits)))
        word = min((one.word for one in hits), key=_ORDER.index)
        if word == "continue":
            return Continue(evidence=(result,))
        names = ", ".join(dict.fromkeys(one.rule.name for one in hits if one.word == word))
        return stated(word, self._options.text, f"signature {names}", (result,))
