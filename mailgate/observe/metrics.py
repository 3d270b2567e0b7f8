"""Numbers for Prometheus, counted from events: an observer, which is there only where somebody can ask for them.

Labels are names of the configuration (listeners, filters, routes) and words of ours, so that there are no more series
than these allow; addresses are no labels, and of streams, recipient domains and sites the first ones only. Each
worker counts its own; `render` adds them up: counters and histograms, and gauges as well, which say then in how many
workers something is so.

What the trace of no event tells is not counted: the filters of sessions that end without a refusal and without mail.
Questions to DNS leave no events; `mailgate.observe.questions` counts them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from zope.interface import implementer

from mailgate.envelope import TraceStep
from mailgate.events import (
    Bounced,
    BouncedBack,
    BreakerChanged,
    Complained,
    ConfigRefused,
    ConfigReloaded,
    Deferred,
    Delivered,
    Discarded,
    EntrySetAside,
    Event,
    FilterFailed,
    Judged,
    MessageAccepted,
    OperatorActed,
    Quarantined,
    RecipientsChanged,
    Refused,
    Reported,
    SessionClosed,
    SiteSlowed,
    SpoolFailed,
    SpoolRecovered,
    Started,
    WorkerEnded,
)
from mailgate.interfaces import IEventObserver

__all__ = ["Dump", "Metrics", "render"]

Dump = Sequence[tuple[str, str, str, Sequence[tuple[str, Mapping[str, str], float]]]]
"""The families of one worker: name, what it says, type, and the samples: name, labels, value. JSON can carry it."""

_SESSION_STAGES = frozenset({"connect", "helo", "auth"})
#: Streams, recipient domains and sites with series of their own: the first that there is mail for.
_MOST_STREAMS, _MOST_DESTINATIONS, _MOST_SITES = 50, 100, 100
#: Sessions of which it is known how much of their trace has been counted.
_MOST_SESSIONS = 20_000

_QUICK = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_LONG = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 4 * 3600.0, 12 * 3600.0, 86400.0, 3 * 86400.0)
_OCTETS = (1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)


class _Names:
    """The first names that come, `most` of them; all others are one."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: set[str] = set()

    def of(self, name: str) -> str:
        if name in self._known:
            return name
        if len(self._known) >= self._most:
            return "(other)"
        self._known.add(name)
        return name


class _Counted:
    """How much of a session's trace has been counted: of its own steps, and of those of its last message."""

    __slots__ = ("message", "of_message", "of_session")

    def __init__(self) -> None:
        self.of_session = self.of_message = 0
        self.message = ""


@implementer(IEventObserver)
class Metrics:
    """Counts. `spool`, `oldest`, `suspensions` and `workers` are set by whoever asks for the numbers, in the worker
    that `leads`; only that one tells when the gateway has started."""

    def __init__(self, *, leads: bool = True) -> None:
        registry = self._registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"mailgate_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"mailgate_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: Sequence[float], *labels: str) -> Histogram:
            return Histogram(f"mailgate_{name}", text, labels, buckets=buckets, registry=registry)

        self._events = counter("events", "Events of every kind, by name", "event")
        self._by_kind: dict[type[Event], Counter] = {}
        self._sessions = counter("sessions", "Connections that ended, by how", "listener", "cause")
        self._session_seconds = histogram("session_seconds", "How long connections lasted", _LONG, "listener")
        self._accepted = counter("messages_accepted", "Messages taken, by listener and TLS", "listener", "tls")
        self._recipients = counter("recipients_accepted", "Recipients of messages taken", "listener")
        self._size = histogram("message_octets", "Sizes of messages taken", _OCTETS, "listener")
        self._judged = counter(
            "messages_judged", "Messages that a mail server keeps, by what it was told", "listener", "answer"
        )
        self._judged_early = counter(
            "messages_judged_early", "The same before their content, by a policy service", "listener", "answer"
        )
        self._refused = counter("refused", "Replies that said no, by stage and filter", "listener", "stage", "filter")
        self._quarantined = counter("recipients_quarantined", "Recipients whose mail went into quarantine")
        self._discarded = counter("recipients_discarded", "Recipients whose mail was discarded by a policy")
        self._verdicts = counter(
            "filter_verdicts",
            "Verdicts of filters; not enforced in shadow mode",
            "filter",
            "stage",
            "verdict",
            "enforced",
        )
        self._seconds = histogram("filter_seconds", "How long filters took", _QUICK, "filter", "stage")
        self._failures = counter("filter_failures", "Filters that failed", "filter", "stage", "on_failure")
        self._breakers = gauge("breaker_open", "Workers in which the breaker of a filter is open", "filter")
        self._attempts = counter(
            "attempts", "Attempts by outcome: delivered, deferred, bounced", "route", "outcome", "category"
        )
        self._by_stream = counter("stream_outcomes", "Outcomes by stream, of mail that has one", "stream", "outcome")
        self._by_destination = counter("destination_outcomes", "Outcomes by recipient domain", "destination", "outcome")
        self._by_site = counter("site_attempts", "Attempts by where they went", "site", "outcome", "category")
        self._streams, self._destinations = _Names(_MOST_STREAMS), _Names(_MOST_DESTINATIONS)
        self._sites = _Names(_MOST_SITES)
        self._attempt_seconds = histogram("attempt_seconds", "How long attempts took", _QUICK, "route", "outcome")
        self._delay = histogram("delivery_delay_seconds", "From arrival to delivery", _LONG, "route")
        self._carried = counter("delivered_tls", "Deliveries by version of TLS", "route", "tls", "verified")
        self._dns = counter("dns_answers", "Answers of DNS, from memory or not", "type", "status", "from_memory")
        self._dns_seconds = histogram("dns_seconds", "How long DNS took that had to be asked", _QUICK, "type")
        self._reported = counter("reports", "Reports that senders were sent", "kind")
        self._acted = counter("operator_actions", "Changes of the queue by administrators and recipients", "action")
        self._slowed = counter("sites_slowed", "Times that a site was asked less because of its answers")
        self._set_aside = counter("entries_set_aside", "Entries of the spool that could not be read")
        self._workers_ended = counter("workers_ended", "Workers that ended and should not have")
        self._reloads = counter("config_reloads", "Reloads, taken or refused", "result")
        self._sources = gauge("recipients_source_trouble", "Workers for which a source is so", "source", "state")
        self._spool_failed = gauge("spool_failed", "Workers whose spool cannot write")
        self._counted: OrderedDict[str, _Counted] = OrderedDict()
        # To find a series by its labels takes longer than to count: a message has a dozen steps.
        self._of_steps: dict[tuple[str, str, str, bool], tuple[Counter, Histogram]] = {}
        self._handlers: dict[type[Event], Callable[[Any], None]] = {
            SessionClosed: self._on_closed,
            MessageAccepted: self._on_accepted,
            Judged: self._on_judged,
            Refused: self._on_refused,
            Quarantined: lambda event: self._quarantined.inc(len(event.recipients)),
            Discarded: lambda event: self._discarded.inc(len(event.recipients)),
            Delivered: self._on_delivered,
            Deferred: lambda event: self._on_attempt(event, "deferred"),
            Bounced: lambda event: self._on_attempt(event, "bounced"),
            BouncedBack: lambda event: self._outcome(event, "bounced_back"),
            Complained: lambda event: self._outcome(event, "complained"),
            FilterFailed: lambda event: self._failures.labels(event.filter, event.stage, event.on_failure).inc(),
            BreakerChanged: lambda event: self._breakers.labels(event.filter).set(event.is_open),
            Reported: lambda event: self._reported.labels(event.kind).inc(),
            OperatorActed: lambda event: self._acted.labels(event.action).inc(len(event.recipients)),
            SiteSlowed: self._on_slowed,
            EntrySetAside: lambda event: self._set_aside.inc(),
            WorkerEnded: lambda event: self._workers_ended.inc(),
            ConfigReloaded: lambda event: self._reloads.labels("taken").inc(),
            ConfigRefused: lambda event: self._reloads.labels("refused").inc(),
            RecipientsChanged: self._on_recipients,
            SpoolFailed: lambda event: self._spool_failed.set(1),
            SpoolRecovered: lambda event: self._spool_failed.set(0),
        }
        if leads:
            self._started = gauge("start_time_seconds", "When it began to accept and deliver")
            self._handlers[Started] = lambda event: self._started.set(event.at)
            self.spool = gauge("spool_recipients", "Recipients in the spool, by state", "state")
            self.oldest = gauge("spool_oldest_seconds", "Age of the oldest in the spool, by state", "state")
            self.suspensions = gauge("suspensions", "Suspensions in force")
            self.workers = gauge("workers_answering", "Workers whose numbers are in these")

    def observe(self, event: Event) -> None:
        kind = type(event)
        events = self._by_kind.get(kind)
        if events is None:
            events = self._by_kind[kind] = self._events.labels(kind.__name__)
        events.inc()
        handler = self._handlers.get(kind)
        if handler is not None:
            handler(event)

    def asked_dns(self, rdtype: str, status: str, seconds: float | None) -> None:
        """An answer of DNS: its type, its status, and how long it took; None where it came from memory."""
        self._dns.labels(rdtype, status, "yes" if seconds is None else "no").inc()
        if seconds is not None:
            self._dns_seconds.labels(rdtype).observe(seconds)

    def forget_breakers(self) -> None:
        """The filters are others from now on: their breakers are closed, and nobody tells of those before."""
        self._breakers.clear()

    def dump(self) -> Dump:
        """All there is, for `render`, here or in another worker."""
        return [
            (
                family.name,
                family.documentation,
                family.type,
                [(one.name, one.labels, one.value) for one in family.samples if not one.name.endswith("_created")],
            )
            for family in self._registry.collect()
        ]

    # -- events

    def _on_closed(self, event: SessionClosed) -> None:
        self._counted.pop(event.session, None)
        self._sessions.labels(event.listener, event.cause).inc()
        self._session_seconds.labels(event.listener).observe(event.seconds)

    def _on_accepted(self, event: MessageAccepted) -> None:
        self._accepted.labels(event.listener, _version(event.tls)).inc()
        self._recipients.labels(event.listener).inc(len(event.recipients))
        self._size.labels(event.listener).observe(event.size)
        self._trace(event.session, event.queue_id, event.trace)

    def _on_judged(self, event: Judged) -> None:
        if event.is_early and not event.is_again:
            self._judged_early.labels(event.listener, event.answer).inc()
        elif not event.is_early:
            self._judged.labels(event.listener, event.answer).inc()
            self._size.labels(event.listener).observe(event.size)
        self._trace(event.session, event.queue_id, event.trace)

    def _on_refused(self, event: Refused) -> None:
        self._refused.labels(event.listener, event.stage, event.filter).inc()
        self._trace(event.session, event.queue_id, event.trace)

    def _on_delivered(self, event: Delivered) -> None:
        self._on_attempt(event, "delivered")
        self._delay.labels(event.route).observe(event.delay)
        self._carried.labels(event.route, _version(event.tls), "yes" if event.tls.endswith(" verified") else "no").inc()

    def _on_attempt(self, event: Delivered | Deferred | Bounced, outcome: str) -> None:
        category = "" if isinstance(event, Delivered) else event.category
        self._attempts.labels(event.route, outcome, category).inc()
        if event.site:
            self._by_site.labels(self._sites.of(event.site), outcome, category).inc()
        if event.seconds:
            self._attempt_seconds.labels(event.route, outcome).observe(event.seconds)
        self._outcome(event, outcome)

    def _outcome(self, event: Delivered | Deferred | Bounced | BouncedBack | Complained, outcome: str) -> None:
        if event.stream:
            self._by_stream.labels(self._streams.of(event.stream), outcome).inc()
        domain = event.recipient.rpartition("@")[2].lower()
        self._by_destination.labels(self._destinations.of(domain), outcome).inc()

    def _on_slowed(self, event: SiteSlowed) -> None:
        if event.factor < 1.0 or event.rests_until:
            self._slowed.inc()

    def _on_recipients(self, event: RecipientsChanged) -> None:
        ends = {"available": "unavailable"}.get(event.state, event.state.removeprefix("not "))
        is_end = event.state == "available" or event.state.startswith("not ")
        self._sources.labels(event.source, ends).set(not is_end)

    def _trace(self, session: str, message: str, trace: Sequence[TraceStep]) -> None:
        """Count the steps that no earlier event of the session has told: each tells all that there are so far."""
        if not session:
            return
        counted = self._counted.get(session)
        if counted is None:
            counted = self._counted[session] = _Counted()
            if len(self._counted) > _MOST_SESSIONS:
                self._counted.popitem(last=False)
        own = sum(step.stage in _SESSION_STAGES for step in trace)
        if counted.message != message:
            counted.message, counted.of_message = message, 0
        for step in trace[counted.of_session : own]:
            self._step(step)
        for step in trace[own + counted.of_message :]:
            self._step(step)
        counted.of_session = max(counted.of_session, own)
        counted.of_message = max(counted.of_message, len(trace) - own)

    def _step(self, step: TraceStep) -> None:
        key = step.filter, step.stage, step.verdict, step.enforced
        series = self._of_steps.get(key)
        if series is None:
            verdicts = self._verdicts.labels(step.filter, step.stage, step.verdict, "yes" if step.enforced else "no")
            series = self._of_steps[key] = verdicts, self._seconds.labels(step.filter, step.stage)
        verdicts, seconds = series
        verdicts.inc()
        seconds.observe(step.seconds)


class _Sum(Collector):
    """Families of several workers, added up."""

    def __init__(self, dumps: Iterable[Dump]) -> None:
        self._families: dict[str, Metric] = {}
        self._samples: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
        for dump in dumps:
            for name, text, kind, samples in dump:
                self._families.setdefault(name, Metric(name, text, kind))
                sums = self._samples.setdefault(name, {})
                for sample, labels, value in samples:
                    key = sample, tuple(labels.items())
                    sums[key] = sums.get(key, 0.0) + value

    def collect(self) -> Iterator[Metric]:
        for name, family in self._families.items():
            for (sample, labels), value in self._samples[name].items():
                family.add_sample(sample, dict(labels), value)
            yield family


def render(dumps: Iterable[Dump]) -> bytes:
    """The text that Prometheus reads, of what all workers have counted."""
    return generate_latest(cast(CollectorRegistry, _Sum(dumps)))


def _version(tls: str) -> str:
    """The version of TLS, without cipher and name: "TLSv1.3"; "none" for clear text."""
    return tls.partition(" ")[0] or "none"
