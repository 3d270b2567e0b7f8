"""Weighs all that the other filters have found, and tags, quarantines or refuses what weighs too much."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from zope.interface import implementer

from mailgate.address import Address
from mailgate.config.schema import Section
from mailgate.config.units import Form
from mailgate.config.values import Domain
from mailgate.envelope import Evidence, Recipient, Session, Transaction
from mailgate.filters.weights import DEFAULT_WEIGHTS, Part, is_fact, parts_of, total
from mailgate.findings import Finding
from mailgate.interfaces import FilterServices, IMarkingModifier, IWeighingFilter
from mailgate.message import AddHeader, Edit, For, Message, RemoveHeader
from mailgate.reply import Reply
from mailgate.stores.domains import DomainTable
from mailgate.verdict import Continue, Quarantine, Reject, Verdict

__all__ = ["Options", "Score", "ScoreResult", "Thresholds", "build"]

_FIELD_NAME = re.compile(r"[!-9;-~]{1,70}")
#: Parts that are named in a header field and in a reason.
_MOST_NAMED = 30


def _fact(text: str) -> str:
    if not is_fact(text):
        raise ValueError(f'"{text}" does not look like a fact: those are words like "spf.fail", in lower case')
    return text


def _field(text: str) -> str:
    if text and not _FIELD_NAME.fullmatch(text):
        raise ValueError(f"{text!r} is no name of a header field")
    return text


_Weight = Annotated[float, Field(ge=-1000, le=1000, allow_inf_nan=False)]
_Threshold = Annotated[float, Field(strict=True, ge=-1000, le=1000, allow_inf_nan=False)] | Literal[False] | None
_FieldName = Annotated[str, AfterValidator(_field), Form("field name")]


@dataclass(frozen=True, slots=True)
class ScoreResult(Finding):
    """The sum, and what it is made of: facts with what they weigh ("points (why)" for those that a filter gave by
    itself), the heaviest first."""

    points: float
    parts: tuple[Part, ...] = ()
    recipients: frozenset[Address] | None = None
    """whose it is, where filters have found something for some recipients only; None for all"""
    by: object = field(default=None, repr=False, compare=False)
    """the filter, of which a pipeline may have several"""

    def summary(self) -> str:
        return f"score={self.points:g} {_named(self.parts)}".rstrip()


class Thresholds(Section):
    """From how many points on something is done; false for never. What a domain is not given is as in `thresholds`."""

    tag: _Threshold = None
    """header fields are added; 4.0, if not given"""
    quarantine: _Threshold = None
    """the message is taken, and kept back; false, if not given"""
    reject: _Threshold = None
    """the message is refused (550 5.7.1); where that is so for some of its recipients only, see `refused_for_some` of
    the listener. 10.0, if not given"""


_DEFAULTS = Thresholds(tag=4.0, quarantine=False, reject=10.0)


class Options(Section):
    """`[filters.score]`: what facts weigh, and what a sum comes to.

    Each result of a filter says what is so, in words from the general to the special; `mailgate try` shows them. The
    longest word of a result that has a weight counts, and a weight stands for all that begins with it: "dnsbl" for
    "dnsbl.zen.spamhaus.org", if that has none of its own. The same word counts once in a mail. Points that filters
    give by themselves (reputation) are added.

    Weights, if not given: arc.fail 0.5, clamav.suspected 3, dkim.fail 0.5, dkim.pass -0.2, dkim.permerror 0.5,
    dmarc.fail 1, dmarc.fail.quarantine 3, dmarc.fail.reject 4, dmarc.override.mailing_list -3,
    dmarc.override.trusted_forwarder -3, dmarc.pass -0.5, dmarc.permerror 0.5, dnsbl 3, dnswl -2, fcrdns.dynamic 2,
    fcrdns.fail 1, fcrdns.permerror 1, helo.bare_ip 1.5, helo.invalid 1, helo.literal 0.5, helo.mismatch 0.5,
    helo.own_domain 2, helo.single_label 1, helo.unresolvable 1, resolvable.bogus_mx 3, resolvable.dead_mx 3,
    resolvable.literal 1, resolvable.no_host 3, resolvable.null_mx 3, resolvable.unknown 3, rspamd.add-header 4,
    rspamd.rewrite-subject 4, spamassassin.spam 4, spf.fail 2.5, spf.helo.fail 1.5, spf.none 0.5, spf.pass -0.2,
    spf.permerror 1, spf.softfail 1.5.

    It stands behind all filters whose results it is to weigh.
    """

    weights: dict[Annotated[str, AfterValidator(_fact)], _Weight] = Field(default={})
    """what facts weigh, beside the default weights or in their place: { "dnsbl.zen.spamhaus.org" = 5, "spf.none" = 0 };
    positive against a message, negative for it, 0 for a fact that does not count"""
    thresholds: Thresholds = _DEFAULTS
    """for all recipients whose domain has none of its own"""
    domains: dict[Domain, Thresholds] = Field(default={})
    """other thresholds for recipients in these domains: { "example.org" = { reject = 15.0, quarantine = 8.0 } }"""
    score_field: _FieldName = "X-Spam-Score"
    """the header field with the sum, for the recipients whose `tag` is reached: others get a message without it. Fields
    of these three names are removed from every message, so that nobody sends them along; "" for none"""
    status_field: _FieldName = "X-Spam-Status"
    """the header field with the sum, the threshold and the facts"""
    flag_field: _FieldName = "X-Spam-Flag"
    """the header field that says YES"""
    text: str = "Refused: this message looks like spam"
    """what the sender of a refused message is told"""


def build(options: Options, services: FilterServices) -> object:
    """The filter; ValueError where thresholds are in no order, or a name has two spellings."""
    return Score(options)


@dataclass(frozen=True, slots=True)
class _Limits:
    """Thresholds made ready; None for what is not done."""

    tag: float | None
    quarantine: float | None
    reject: float | None

    @classmethod
    def of(cls, given: Thresholds, otherwise: Thresholds, name: str) -> _Limits:
        """ValueError where less is needed for more."""
        limits = cls(*(_number(given, otherwise, key) for key in ("tag", "quarantine", "reject")))
        in_order = [one for one in (limits.tag, limits.quarantine, limits.reject) if one is not None]
        if in_order != sorted(in_order):
            raise ValueError(f"{name}: tag, quarantine and reject must not be lower than the one before")
        return limits


def _number(given: Thresholds, otherwise: Thresholds, key: str) -> float | None:
    value = getattr(given, key)
    if value is None:
        value = getattr(otherwise, key)
    if value is None:
        value = getattr(_DEFAULTS, key)
    return None if value is False else float(value)


@implementer(IWeighingFilter, IMarkingModifier)
class Score:
    """Sums up at the message stage, and adds the fields of what was tagged when its turn comes to modify."""

    def __init__(self, options: Options) -> None:
        self._weights = {**DEFAULT_WEIGHTS, **options.weights}
        self._all = _Limits.of(options.thresholds, _DEFAULTS, "thresholds")
        self._domains = DomainTable(
            {
                name: _Limits.of(given, options.thresholds, f'domains."{name}"')
                for name, given in options.domains.items()
            }
        )
        self._refusal = Reply.of(550, "5.7.1", options.text)
        self._score_field, self._status_field = options.score_field, options.status_field
        self._flag_field = options.flag_field
        names = (options.score_field, options.status_field, options.flag_field)
        self._fields = {name.lower(): name for name in names if name}

    def on_message(self, session: Session, transaction: Transaction, message: Message) -> Verdict | Sequence[Verdict]:
        """Reject, Quarantine or Continue, for each recipient by its own thresholds; with the sum as evidence."""
        results = self._results(session, transaction)
        refused: list[tuple[Address, ScoreResult, float]] = []
        kept: list[tuple[Address, ScoreResult, float]] = []
        the_only = results[0] if len(results) == 1 else None
        for one in transaction.recipients:
            result, limits = the_only or _of(one, results), self._limits_of(one)
            if limits.reject is not None and result.points >= limits.reject:
                refused.append((one.address, result, limits.reject))
            elif limits.quarantine is not None and result.points >= limits.quarantine:
                kept.append((one.address, result, limits.quarantine))
        everybody, evidence = len(transaction.recipients), tuple(results)
        if len(refused) == everybody and refused:
            return Reject(self._refusal, _why(refused), evidence=evidence)
        if len(kept) == everybody and kept:
            return Quarantine(_why(kept), evidence=evidence)
        verdicts: list[Verdict] = []
        if refused:
            verdicts.append(Reject(self._refusal, _why(refused), _whom(refused)))
        if kept:
            verdicts.append(Quarantine(_why(kept), _whom(kept)))
        return [Continue(evidence), *verdicts] if verdicts else Continue(evidence)

    def _results(self, session: Session, transaction: Transaction) -> list[ScoreResult]:
        """One sum for all, or where filters have found something for some only, one for each with the same findings."""
        if session.evidence.is_about_all and transaction.evidence.is_about_all:
            parts = parts_of((*session.evidence, *transaction.evidence), self._weights)
            return [ScoreResult(total(parts), parts, by=self)]
        groups: dict[tuple[Part, ...], list[Address]] = {}
        addresses = [one.address for one in transaction.recipients]
        for members, found in Evidence.shared(addresses, session.evidence, transaction.evidence):
            groups.setdefault(parts_of(found, self._weights), []).extend(members)
        if len(groups) == 1:
            return [ScoreResult(total(parts), parts, by=self) for parts in groups]
        return [ScoreResult(total(parts), parts, frozenset(members), self) for parts, members in groups.items()]

    def modify(self, session: Session, transaction: Transaction, message: Message) -> Sequence[Edit | For]:
        """Remove the fields that came along, and add ours for those recipients whose tag is reached."""
        edits: list[Edit | For] = [*self.forged(message)]
        results = [one for one in transaction.evidence.all(ScoreResult) if one.by is self]
        if not results:
            return edits
        tagged: dict[tuple[ScoreResult, float], list[Address]] = {}
        the_only = results[-1] if results[-1].recipients is None else None
        for one in transaction.recipients:
            result, tag = the_only or _of(one, results), self._limits_of(one).tag
            if tag is not None and result.points >= tag:
                tagged.setdefault((result, tag), []).append(one.address)
        for (result, tag), members in tagged.items():
            added = self._added(result, tag)
            is_for_all = len(members) == len(transaction.recipients)
            edits += added if is_for_all or not added else [For(tuple(members), tuple(added))]
        return edits

    def forged(self, message: Message) -> Sequence[Edit]:
        """The fields of these three names."""
        header = message.content.header.lower()
        if not any(name.encode() in header for name in self._fields):
            return []
        found = {field.name.lower() for field in message.fields} & self._fields.keys()
        return [RemoveHeader(self._fields[name]) for name in sorted(found)]

    def _added(self, result: ScoreResult, tag: float) -> Sequence[Edit]:
        """Each goes on top of the one before it."""
        points = f"{result.points:g}"
        edits: list[Edit] = []
        if self._status_field:
            tests = "".join(f"\r\n\t{fact}={weight:g}" for fact, weight in _printable(result.parts[:_MOST_NAMED]))
            edits.append(AddHeader(self._status_field, f"Yes, score={points} required={tag:g}{tests}"))
        if self._score_field:
            edits.append(AddHeader(self._score_field, points))
        if self._flag_field:
            edits.append(AddHeader(self._flag_field, "YES"))
        return edits

    def _limits_of(self, recipient: Recipient) -> _Limits:
        return self._domains.match(recipient.address.domain) or self._all


def _of(recipient: Recipient, results: Sequence[ScoreResult]) -> ScoreResult:
    """The latest sum that is this recipient's."""
    address = recipient.address
    return next((one for one in reversed(results) if one.recipients is None or address in one.recipients), _NOTHING)


_NOTHING = ScoreResult(0.0)


def _why(reached: Sequence[tuple[Address, ScoreResult, float]]) -> str:
    _, result, threshold = max(reached, key=lambda one: (one[1].points, one[2]))
    return _reason(result, threshold)


def _whom(reached: Sequence[tuple[Address, ScoreResult, float]]) -> tuple[Address, ...]:
    return tuple(address for address, _, _ in reached)


def _reason(result: ScoreResult, threshold: float) -> str:
    return f"score {result.points:g} reaches {threshold:g}: {_named(result.parts)}"


def _named(parts: Sequence[Part]) -> str:
    more = f" and {len(parts) - _MOST_NAMED} more" if len(parts) > _MOST_NAMED else ""
    return ", ".join(f"{fact} {weight:g}" for fact, weight in parts[:_MOST_NAMED]) + more


def _printable(parts: Sequence[Part]) -> list[Part]:
    """Parts whose facts are words, whatever a filter of another's says; a header field does not tell whose points."""
    return [(re.sub(r"[^a-z0-9._-]", "_", fact.partition(" ")[0])[:200], weight) for fact, weight in parts]
