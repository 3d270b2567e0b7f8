"""Header fields that are missing, double, malformed or forged (RFC 5322 section 3.6), and look-alike domains."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from zope.interface import implementer

from mailgate.config.schema import Network, Section
from mailgate.config.units import Duration, Form
from mailgate.config.values import Domain
from mailgate.envelope import Session, Transaction
from mailgate.filters.examining import stated
from mailgate.filters.forged_names import LookAlikes, display_name, domains_in, has_mixed_scripts, plain_name
from mailgate.filters.networks import NetworkSet
from mailgate.findings import Finding
from mailgate.interfaces import FilterServices, IContentFilter
from mailgate.mailauth.dmarc.author import author_domains
from mailgate.mailauth.dmarc.organization import organizational_domain
from mailgate.message import MAX_HEADER, Message
from mailgate.verdict import Continue, Verdict

__all__ = ["HeaderResult", "HeadersCheck", "Options", "build"]

Word = Literal["reject", "quarantine", "continue"]

#: Fields that are there at most once (RFC 5322 section 3.6), and those of MIME.
_SINGLE = frozenset(
    [
        "date",
        "from",
        "sender",
        "reply-to",
        "to",
        "cc",
        "bcc",
        "message-id",
        "in-reply-to",
        "references",
        "subject",
        "mime-version",
        "content-type",
        "content-transfer-encoding",
    ]
)
#: The longest line (RFC 5322 section 2.1.1), and characters of a Date that are read.
_LONGEST_LINE, _LONGEST_DATE = 998, 100


def _field(text: str) -> str:
    if not text or ":" in text or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(f"{text!r} is no name of a header field")
    return text


class Options(Section):
    """`[filters.headers-check]`: what is wrong with a header section, and what is done about it.

    Each check that finds something leaves a fact, `headers-check.missing.date` and the like, for score; where its
    option says so the message is rejected (550 5.6.0, or 5.7.1 for what is forged) or quarantined. Facts without an
    option: `headers-check.reply-to` (its domain is another than the author's), `headers-check.mixed-scripts`.
    """

    required: list[Annotated[str, AfterValidator(_field), Form("field name")]] = Field(default=["Date", "From"])
    """fields that a message must have; RFC 5322 asks for these two"""
    missing: Word = "continue"
    """what is done where one of them is missing"""
    duplicate: Word = "continue"
    """where a field is there twice that may be there once, such as From, Subject or Content-Type, so that programs may
    show or read different ones"""
    malformed: Word = "continue"
    """where a line is no field, a field has NUL in it, or the header section is larger than 256 KiB"""
    long_line: Word = "continue"
    """where a line has more than 998 octets"""
    date: Word = "continue"
    """where Date cannot be read, or is further away than the two options below"""
    max_age: Duration = 14 * 86400.0
    """how old Date may be"""
    max_ahead: Duration = 86400.0
    """how far ahead of time"""
    other_address: Word = "continue"
    """where the name in From holds an address of another domain than the real one:
    "ceo@example.org" <x@evil.example>"""
    protected_names: list[str] = Field(default=[])
    """names that nobody outside may bear: of your directors, of your company. They are compared without case, accents,
    the order of words, and with letters that look the same as one"""
    protected: Word = "quarantine"
    """what is done where one of them is the name in From, and the address is not of our domains"""
    protected_domains: list[Domain] = Field(default=[])
    """your domains, and others that your people trust, for which other domains are not to be taken; the domains that
    mailgate takes mail for are not looked up by themselves"""
    lookalike: Word = "quarantine"
    """what is done where the domain of From, Reply-To or the envelope's sender looks like one of them: letters that
    look the same (examp1e.org), one letter wrong (exmaple.org), or another suffix (example.net)"""
    not_lookalikes: list[Domain] = Field(default=[])
    """domains that look like that and are in order"""
    exempt: list[Network] = Field(default=[])
    """clients whose mail is not checked"""
    text: str = "The header of this message is not acceptable"
    """what is replied to messages that are rejected; what it is about follows"""


@dataclass(frozen=True, slots=True)
class HeaderResult(Finding):
    """Something about a header section. `kind` is the check's word, `field` the field's name, `detail` in words."""

    kind: str
    field: str = ""
    detail: str = ""

    def summary(self) -> str:
        return f"headers-check: {' '.join(filter(None, (self.kind, self.field, self.detail)))}"

    def facts(self) -> Sequence[str]:
        fact = f"headers-check.{self.kind}"
        return (fact, f"{fact}.{self.field.lower()}") if self.field else (fact,)


def build(options: Options, services: FilterServices) -> object:
    """The filter; the list of public suffixes is read now, and not while mail waits."""
    organizational_domain("example.org")
    return HeadersCheck(options, services)


@implementer(IContentFilter)
class HeadersCheck:
    """Reads the header section alone, which is bounded."""

    def __init__(self, options: Options, services: FilterServices) -> None:
        self._clock = services.clock
        self._is_local = services.local_domains
        self._options = options
        self._exempt = NetworkSet(options.exempt)
        self._protected = frozenset(filter(None, map(plain_name, options.protected_names)))
        self._alike = LookAlikes(options.protected_domains, options.not_lookalikes)
        self._words: dict[str, tuple[Word, str]] = {
            "missing": (options.missing, "6.0"),
            "duplicate": (options.duplicate, "6.0"),
            "malformed": (options.malformed, "6.0"),
            "long-line": (options.long_line, "6.0"),
            "date": (options.date, "6.0"),
            "other-address": (options.other_address, "7.1"),
            "protected": (options.protected, "7.1"),
            "lookalike": (options.lookalike, "7.1"),
        }

    def on_message(self, session: Session, transaction: Transaction, message: Message) -> Verdict | None:
        """Check."""
        if session.client.address in self._exempt:
            return None
        results = list(dict.fromkeys(self._form(message)))
        if session.identity is None:  # our own people bear our own names
            results += dict.fromkeys(self._forged(transaction, message))
        if not results:
            return None
        evidence = tuple(results)
        for word in _ORDER:
            for one in results:
                chosen, detail = self._words.get(one.kind, ("continue", ""))
                if chosen == word:
                    reason = "; ".join(each.summary() for each in results[:5])
                    what = f" ({one.kind} {one.field})" if one.field else f" ({one.kind})"
                    return stated(word, self._options.text + what, reason, evidence, detail=detail)
        return Continue(evidence=evidence)

    def _form(self, message: Message) -> Iterator[HeaderResult]:
        header = message.content.header
        counts = Counter(field.name.lower() for field in message.fields)
        for name in self._options.required:
            if not counts[name.lower()]:
                yield HeaderResult("missing", name.lower())
        for name in sorted(_SINGLE):
            if counts[name] > 1:
                yield HeaderResult("duplicate", name, f"{counts[name]} times")
        if counts[""]:
            yield HeaderResult("malformed", "", f"{counts['']} lines are no fields")
        if b"\0" in header:
            yield HeaderResult("malformed", "", "NUL")
        # A header section that goes on behind the part that is looked at ends there.
        if len(header) >= MAX_HEADER - 2 * _LONGEST_LINE and message.content.size > MAX_HEADER:
            yield HeaderResult("malformed", "", "too large")
        if any(len(line) > _LONGEST_LINE for line in header.split(b"\r\n")):
            yield HeaderResult("long-line")
        dates = message.values("Date")
        if dates and (why := self._date(dates[0])):
            yield HeaderResult("date", "", why)

    def _date(self, text: str) -> str:
        try:
            at = parsedate_to_datetime(text[:_LONGEST_DATE]).timestamp()
        except (ValueError, OverflowError, TypeError, IndexError):
            return "no date"
        now = self._clock.seconds()
        if at < now - self._options.max_age:
            return f"{(now - at) / 86400:.0f} days ago"
        if at > now + self._options.max_ahead:
            return f"{(at - now) / 86400:.0f} days ahead"
        return ""

    def _forged(self, transaction: Transaction, message: Message) -> Iterator[HeaderResult]:
        values = message.values("From")
        domains = author_domains(values).domains
        answers = author_domains(message.values("Reply-To")).domains
        is_ours = bool(domains) and all(map(self._is_local, domains))
        for value in values[:2]:
            name = display_name(value)
            real = frozenset(map(organizational_domain, domains))
            shown = next((one for one in domains_in(name) if organizational_domain(one) not in real), "")
            if shown and domains:
                yield HeaderResult("other-address", "", f"{shown} in the name, {domains[0]} in the address")
            if name and not is_ours and plain_name(name) in self._protected:
                yield HeaderResult("protected", "", name[:80])
        places = [("from", one) for one in domains] + [("reply-to", one) for one in answers]
        for field, domain in (*places, ("", transaction.sender.domain)):
            if not domain or self._is_local(domain):
                continue
            ours, how = self._alike.find(domain)
            if ours:
                yield HeaderResult("lookalike", how, f"{domain} for {ours}{f' in {field}' if field else ''}")
            if has_mixed_scripts(domain):
                yield HeaderResult("mixed-scripts", "", domain)
        if domains and any(organizational_domain(one) != organizational_domain(domains[0]) for one in answers):
            yield HeaderResult("reply-to", "", f"{answers[0]}, but from {domains[0]}")


_ORDER: tuple[Word, ...] = ("reject", "quarantine")
