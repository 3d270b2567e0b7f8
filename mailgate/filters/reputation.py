"""Remembers how the mail of networks, autonomous systems and domains fared, and tells of it when more comes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from zope.interface import implementer

from mailgate.awaiting import run
from mailgate.config.schema import Network, Section
from mailgate.config.units import Duration, at_least, format_duration
from mailgate.envelope import Session, Transaction
from mailgate.events import Discarded, Event, MessageAccepted, Quarantined, Refused
from mailgate.filters.geo import GeoResult
from mailgate.filters.networks import LOCAL_NETWORKS, NetworkSet, block_of, is_known
from mailgate.filters.open_sessions import OpenSession, OpenSessions, is_unknown_recipient
from mailgate.filters.repute import Record, Records
from mailgate.filters.steps import Steps
from mailgate.findings import Finding, Points
from mailgate.interfaces import Answered, FilterServices, IConnectFilter, IEventObserver, IMailFilter, IMessageFilter
from mailgate.mailauth.results import DkimResult, SpfResult
from mailgate.message import Message
from mailgate.verdict import Continue, Verdict

__all__ = ["Options", "Reputation", "ReputationResult", "build"]

#: How one leans (`Record.leaning`) of whom this is to be said.
_BAD, _GOOD = 0.5, -0.8
#: A whole autonomous system says less of one client.
_OF_SYSTEM = 0.5
#: The words of a trace that tell of a message which was taken and kept back; and those that make it no good one: a
#: filter that failed says nothing about it.
_KEPT_BACK = frozenset({"quarantine", "discard"})
_NOT_GOOD = _KEPT_BACK | {"failure"}
#: Signatures of a message whose domains are looked at.
_MOST_SIGNERS = 3


@dataclass(frozen=True, slots=True)
class ReputationResult(Finding):
    """`subjects` are "network 192.0.2.0/24", "asn 64496" and "domain example.org", each with how much good and how much
    bad is known of it; `points` are for the score, positive for a bad name."""

    subjects: tuple[tuple[str, float, float], ...]
    points: float
    leaning: float

    @property
    def is_bad(self) -> bool:
        """Whether most of what came was refused."""
        return self.leaning >= _BAD

    @property
    def is_good(self) -> bool:
        """Whether nearly all that came was taken."""
        return self.leaning <= _GOOD

    def summary(self) -> str:
        told = ", ".join(f"{subject} (good {good:.1f}, bad {bad:.1f})" for subject, good, bad in self.subjects)
        return f"reputation={'bad' if self.is_bad else 'good' if self.is_good else 'mixed'} {told}"

    def facts(self) -> Sequence[str]:
        return ("reputation.bad",) if self.is_bad else ("reputation.good",) if self.is_good else ()


class Options(Section):
    """`[filters.reputation]`: what counts as good and bad, for how long, and what it comes to.

    A message that was taken, with no filter having said Quarantine or Discard, is good. One that a filter refused for
    good (5yz), or that was quarantined or discarded, is bad, and so, a little, is a recipient that does not exist. What
    a filter deferred, and what the gateway refused by itself, is neither. It counts for the client's network (/24 or
    /48), its autonomous system (behind the filter geo), and the domains for which SPF or DKIM passed (behind those), so
    that nobody earns another one's name. Clients that have logged in, or are in trusted_networks, do not count.

    It refuses nobody: it gives points, which the filter score weighs, and which the filter greylist looks at. In the
    pipeline it stands behind geo, spf and dkim, and before greylist and score.
    """

    half_life: Annotated[Duration, at_least(3600.0, format_duration)] = 14 * 86400.0
    """after which time what was counts half"""
    enough: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 20.0
    """how much good and bad there must be before anything is said"""
    bad_points: Annotated[float, Field(ge=0, le=100)] = 3.0
    """points for whom all was bad; less where it was mixed"""
    good_points: Annotated[float, Field(ge=0, le=100)] = 1.5
    """points that are taken off for whom all was good; less where it was mixed"""
    unknown_recipient: Annotated[float, Field(ge=0, le=1)] = 0.2
    """how much a recipient that does not exist counts, where a message that is refused counts 1"""
    exempt: list[Network] = Field(default=list(LOCAL_NETWORKS))
    """clients of which nothing is remembered or said, your own; if not given, those of loopback and private networks"""


def build(options: Options, services: FilterServices) -> object:
    """The filter."""
    return Reputation(options, services)


@implementer(IConnectFilter, IMailFilter, IMessageFilter, IEventObserver)
class Reputation:
    """Looks up networks at connect, the domain of SPF at MAIL and those of DKIM with the message, and learns from
    events how each message of these sessions fared."""

    def __init__(self, options: Options, services: FilterServices) -> None:
        self._options = options
        self._exempt = NetworkSet(options.exempt)
        self._records = Records(services.counters, services.clock.seconds, options.half_life)
        self._sessions = OpenSessions()

    def on_connect(self, session: Session) -> Answered:
        """Tell of the client's network, or else of its autonomous system."""
        if self._is_exempt(session):
            return None
        self._sessions.note(session)
        return run(self._tell(tuple(_of_client(session)), one_says_all=True))

    def on_mail(self, session: Session, transaction: Transaction) -> Answered:
        """Tell of the domain for which SPF passed."""
        if self._is_exempt(session):
            return None
        self._sessions.note(session, transaction)
        domains = tuple(_of_spf(transaction))
        return run(self._tell(domains)) if domains else None

    def on_message(self, session: Session, transaction: Transaction, message: Message) -> Answered:
        """Tell of the domains for which DKIM passed, of which nothing has been told."""
        if self._is_exempt(session):
            return None
        told = set(_of_spf(transaction))
        domains = tuple(one for one in _of_dkim(transaction) if one not in told)
        return run(self._tell(domains)) if domains else None

    def observe(self, event: Event) -> None:
        """Learn from what became of a message."""
        known = self._sessions.find(event)
        if known is None or self._is_exempt(known.session):
            return
        match event:
            case Refused() if is_unknown_recipient(event):
                self._learn(known, event.queue_id, bad=self._options.unknown_recipient)
            case Refused(reply=reply, filter=name) if name and reply.startswith("5"):
                self._learn(known, event.queue_id, bad=1.0)
                if event.stage == "message":
                    self._sessions.end(known)
            case MessageAccepted(trace=trace):
                if not any(step.enforced and step.verdict in _NOT_GOOD for step in trace):
                    self._learn(known, event.queue_id, good=1.0)
                    self._sessions.end(known)
            case Quarantined() | Discarded() if known.transaction is not None:
                trace = (*known.session.trace, *known.transaction.trace)
                if any(step.enforced and step.verdict in _KEPT_BACK for step in trace):
                    self._learn(known, event.queue_id, bad=1.0)
                self._sessions.end(known)

    def _is_exempt(self, session: Session) -> bool:
        address = session.client.address
        return not is_known(address) or session.identity is not None or address in self._exempt

    def _learn(self, known: OpenSession, queue_id: str, *, good: float = 0.0, bad: float = 0.0) -> None:
        subjects = dict.fromkeys(_of_client(known.session))
        if known.transaction is not None and known.transaction.id == queue_id:
            subjects |= dict.fromkeys((*_of_spf(known.transaction), *_of_dkim(known.transaction)))
        for subject in subjects:
            self._records.add(subject, good=good, bad=bad)

    def _tell(self, subjects: Sequence[str], *, one_says_all: bool = False) -> Steps[Verdict | None]:
        """What is known of these; with `one_says_all` the first of which enough is known speaks for the rest."""
        found: list[tuple[str, Record]] = []
        for subject in subjects:
            record = yield from self._records.read(subject)
            if record.good + record.bad >= self._options.enough:
                found.append((subject, record))
                if one_says_all:
                    break
        if not found:
            return None
        leanings = [record.leaning * (_OF_SYSTEM if subject.startswith("asn ") else 1.0) for subject, record in found]
        leaning = max(leanings)  # a message with a signature of good repute may have one of bad repute, too
        points = round(leaning * (self._options.bad_points if leaning > 0 else self._options.good_points), 1)
        result = ReputationResult(tuple((one, record.good, record.bad) for one, record in found), points, leaning)
        return Continue((result, *([Points(points, f"reputation of {found[0][0]}")] if points else [])))


def _of_client(session: Session) -> Iterator[str]:
    if session.client.address is not None:
        yield f"network {block_of(session.client.address)}"
    geo = session.evidence.get(GeoResult)
    if geo is not None and geo.asn:
        yield f"asn {geo.asn}"


def _of_spf(transaction: Transaction) -> Iterator[str]:
    spf = transaction.evidence.get(SpfResult)
    if spf is not None and spf.result == "pass" and spf.identity == "mailfrom" and spf.domain:
        yield f"domain {spf.domain}"


def _of_dkim(transaction: Transaction) -> Iterator[str]:
    passed = (one.domain for one in transaction.evidence.all(DkimResult) if one.result == "pass" and one.domain)
    for domain in list(dict.fromkeys(passed))[:_MOST_SIGNERS]:
        yield f"domain {domain}"
