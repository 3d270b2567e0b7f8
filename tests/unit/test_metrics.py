"""What is counted of events, how the numbers of several workers become one, and what reads them by name."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # has no types
from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from mailgate.address import NULL_PATH, Address
from mailgate.envelope import Envelope, EnvelopeRecipient, TraceStep
from mailgate.events import (
    Bounced,
    BouncedBack,
    BreakerChanged,
    Complained,
    ConfigRefused,
    Delivered,
    Discarded,
    Event,
    FilterFailed,
    Judged,
    MessageAccepted,
    OperatorActed,
    Quarantined,
    RecipientsChanged,
    Refused,
    SessionClosed,
    SiteSlowed,
    SpoolFailed,
    SpoolRecovered,
    Started,
    WorkerEnded,
)
from mailgate.events import (
    Deferred as Put,
)
from mailgate.interfaces import Answer, DnsStatus, IEventObserver, IResolver, SpoolError
from mailgate.message import Content
from mailgate.observe.metrics import Metrics, render
from mailgate.observe.questions import CountedResolver
from mailgate.testing import MemoryResolver, MemorySpool, wait_for
from mailgate.web.numbers import Numbers

ROOT = Path(__file__).parents[2]
SESSION: dict[str, Any] = {"at": 1.0, "session": "S1", "client": "c[192.0.2.1]", "listener": "mx", "helo": "c.test"}
ATTEMPT: dict[str, Any] = {
    "at": 1.0,
    "queue_id": "A1",
    "sender": "ann@c.test",
    "recipient": "bob@box.test",
    "route": "inside",
    "host": "mx.box.test",
    "reply": "x",
    "attempt": 1,
    "seconds": 0.2,
}


def values(text: bytes) -> dict[str, float]:
    """The samples, by name and labels as they are written."""
    found = {}
    for family in text_string_to_metric_families(text.decode()):
        for one in family.samples:
            labels = ",".join(f"{name}={one.labels[name]}" for name in sorted(one.labels))
            found[f"{one.name}{{{labels}}}" if labels else one.name] = one.value
    return found


def counted(*events: Event) -> dict[str, float]:
    metrics = Metrics()
    for event in events:
        metrics.observe(event)
    return values(render([metrics.dump()]))


def test_it_is_an_observer() -> None:
    verifyObject(IEventObserver, Metrics())


def test_sessions_and_messages() -> None:
    accepted = MessageAccepted(
        **SESSION, queue_id="A1", sender="a@c.test", recipients=("b", "c"), size=5000, tls="TLSv1.3 AES verified"
    )
    found = counted(accepted, SessionClosed(**SESSION, messages=1, seconds=2.5, cause="quit"))
    assert found["mailgate_messages_accepted_total{listener=mx,tls=TLSv1.3}"] == 1
    assert found["mailgate_recipients_accepted_total{listener=mx}"] == 2
    assert found["mailgate_message_octets_bucket{le=4096.0,listener=mx}"] == 0
    assert found["mailgate_message_octets_bucket{le=16384.0,listener=mx}"] == 1
    assert found["mailgate_sessions_total{cause=quit,listener=mx}"] == 1
    assert found["mailgate_session_seconds_sum{listener=mx}"] == 2.5
    assert found["mailgate_events_total{event=SessionClosed}"] == 1


def test_messages_that_a_mail_server_keeps() -> None:
    step = TraceStep("message", "score", seconds=0.3)
    judged: dict[str, Any] = {**SESSION, "ident": "4X", "sender": "", "recipients": ("b",), "size": 5000}
    found = counted(
        Judged(**judged, queue_id="A1", answer="continue", trace=(step,)),
        Judged(**judged, queue_id="A2", answer="quarantine", trace=(step,)),
    )
    assert found["mailgate_messages_judged_total{answer=continue,listener=mx}"] == 1
    assert found["mailgate_messages_judged_total{answer=quarantine,listener=mx}"] == 1
    assert found["mailgate_message_octets_sum{listener=mx}"] == 10_000
    assert found["mailgate_filter_verdicts_total{enforced=yes,filter=score,stage=message,verdict=continue}"] == 2


def test_a_message_that_is_judged_before_its_content_as_well_counts_once() -> None:
    step = TraceStep("rcpt", "greylist", seconds=0.3)
    early: dict[str, Any] = {**SESSION, "listener": "policy", "ident": "4X", "sender": "", "size": 0, "queue_id": "A1"}
    whole: dict[str, Any] = {**SESSION, "ident": "4X", "sender": "", "size": 5000, "queue_id": "B1"}
    found = counted(
        Judged(**early, recipients=("b",), answer="quarantine", is_early=True, trace=(step,)),
        Judged(**early, recipients=("b", "c"), answer="quarantine", is_early=True, is_again=True, trace=(step, step)),
        Judged(**whole, recipients=("b", "c"), answer="continue"),
    )
    assert {name: value for name, value in found.items() if name.startswith("mailgate_messages_judged")} == {
        "mailgate_messages_judged_early_total{answer=quarantine,listener=policy}": 1,
        "mailgate_messages_judged_total{answer=continue,listener=mx}": 1,
    }
    assert {name: value for name, value in found.items() if name.startswith("mailgate_message_octets_count")} == {
        "mailgate_message_octets_count{listener=mx}": 1
    }
    assert found["mailgate_filter_verdicts_total{enforced=yes,filter=greylist,stage=rcpt,verdict=continue}"] == 2


def test_each_step_of_a_trace_counts_once_though_every_event_of_its_session_tells_it() -> None:
    connect = TraceStep("connect", "dnsbl", seconds=0.01)
    first, second = (
        TraceStep("rcpt", "recipients", "reject", "unknown", 0.02),
        TraceStep("message", "score", seconds=0.3),
    )
    refused: dict[str, Any] = {**SESSION, "filter": "recipients", "reason": "unknown", "reply": "550"}
    accepted: dict[str, Any] = {**SESSION, "sender": "", "recipients": ("b",), "size": 1}
    found = counted(
        Refused(**refused, stage="rcpt", queue_id="A1", trace=(connect, first)),
        Refused(**refused, stage="rcpt", queue_id="A1", trace=(connect, first, first)),
        MessageAccepted(**accepted, queue_id="A1", trace=(connect, first, first, second)),
        MessageAccepted(**accepted, queue_id="A2", trace=(connect, second)),
        MessageAccepted(**{**accepted, "session": "S2"}, queue_id="A3", trace=(connect, second)),
        MessageAccepted(**{**accepted, "session": ""}, queue_id="A4", trace=(second,)),  # nobody's session
    )
    assert found["mailgate_filter_verdicts_total{enforced=yes,filter=dnsbl,stage=connect,verdict=continue}"] == 2
    assert found["mailgate_filter_verdicts_total{enforced=yes,filter=recipients,stage=rcpt,verdict=reject}"] == 2
    assert found["mailgate_filter_verdicts_total{enforced=yes,filter=score,stage=message,verdict=continue}"] == 3
    assert found["mailgate_filter_seconds_count{filter=score,stage=message}"] == 3
    assert found["mailgate_filter_seconds_bucket{filter=score,le=0.25,stage=message}"] == 0
    assert found["mailgate_filter_seconds_bucket{filter=score,le=0.5,stage=message}"] == 3
    assert found["mailgate_refused_total{filter=recipients,listener=mx,stage=rcpt}"] == 2


def test_what_is_remembered_of_sessions_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailgate.observe.metrics._MOST_SESSIONS", 10)
    metrics = Metrics()
    for number in range(100):
        session = {**SESSION, "session": f"S{number}"}
        metrics.observe(Refused(**session, stage="connect", filter="x", reason="", reply="554"))
    assert len(metrics._counted) == 10
    metrics.observe(SessionClosed(**{**SESSION, "session": "S99"}, messages=0, seconds=0.1, cause="refused"))
    assert len(metrics._counted) == 9


def test_deliveries_and_what_policies_do() -> None:
    mail: dict[str, Any] = {"at": 1.0, "queue_id": "A1", "sender": "", "recipients": ("b", "c"), "reason": "x"}
    found = counted(
        Delivered(**ATTEMPT, delay=2.0, tls="TLSv1.3 AES verified"),
        Delivered(**ATTEMPT, delay=2.0),
        Put(**ATTEMPT, site="mx.box.test", next_attempt=9.0, category="greylisted"),
        Bounced(**{**ATTEMPT, "seconds": 0.0}, reason="x", category="no-such-user"),
        Quarantined(**mail),
        Discarded(**mail),
        OperatorActed(at=1.0, action="release", queue_id="A1", recipients=("b",)),
    )
    assert found["mailgate_attempts_total{category=,outcome=delivered,route=inside}"] == 2
    assert found["mailgate_attempts_total{category=greylisted,outcome=deferred,route=inside}"] == 1
    assert found["mailgate_site_attempts_total{category=greylisted,outcome=deferred,site=mx.box.test}"] == 1
    assert len([key for key in found if key.startswith("mailgate_site_attempts_total")]) == 1
    assert found["mailgate_attempts_total{category=no-such-user,outcome=bounced,route=inside}"] == 1
    assert found["mailgate_delivery_delay_seconds_sum{route=inside}"] == 4.0
    assert found["mailgate_delivered_tls_total{route=inside,tls=TLSv1.3,verified=yes}"] == 1
    assert found["mailgate_delivered_tls_total{route=inside,tls=none,verified=no}"] == 1
    assert "mailgate_attempt_seconds_count{outcome=bounced,route=inside}" not in found
    assert found["mailgate_recipients_quarantined_total"] == 2
    assert found["mailgate_recipients_discarded_total"] == 2
    assert found["mailgate_operator_actions_total{action=release}"] == 1


def test_streams_and_destinations_are_bounded() -> None:
    about = {"at": 1.0, "recipient": "bob@box.test", "sender": "news@example.org", "proof": "verp", "stream": "s0"}
    many = [
        Delivered(
            **{**ATTEMPT, "recipient": f"a@d{number}.test", "stream": f"s{number}", "site": f"mx{number}"}, delay=1.0
        )
        for number in range(300)
    ]
    found = counted(
        Delivered(**ATTEMPT, delay=2.0),
        *many,
        Complained(**about),  # type: ignore[arg-type]
        BouncedBack(**about, is_permanent=True, category="other"),  # type: ignore[arg-type]
    )
    assert found["mailgate_destination_outcomes_total{destination=box.test,outcome=delivered}"] == 1
    assert found["mailgate_destination_outcomes_total{destination=box.test,outcome=complained}"] == 1
    assert found["mailgate_stream_outcomes_total{outcome=bounced_back,stream=s0}"] == 1
    for name, label, most in (("stream", "stream", 50), ("destination", "destination", 100)):
        series = [key for key in found if key.startswith(f"mailgate_{name}_outcomes_total") and "delivered" in key]
        assert len(series) == most + 1
        others = next(key for key in series if f"{label}=(other)" in key)
        assert sum(found[key] for key in series) == 300 + (name == "destination")
        assert found[others] == 300 + (name == "destination") - most
    sites = [key for key in found if key.startswith("mailgate_site_attempts_total")]
    assert len(sites) == 101
    assert found["mailgate_site_attempts_total{category=,outcome=delivered,site=(other)}"] == 200


def test_what_is_out_of_order_and_well_again() -> None:
    failed = [
        FilterFailed(at=1.0, filter="clamav", stage="message", error="x", on_failure="defer"),
        BreakerChanged(at=1.0, filter="clamav", is_open=True),
        SpoolFailed(at=1.0, error="full"),
        RecipientsChanged(at=1.0, source="ad", state="unavailable"),
        RecipientsChanged(at=1.0, source="ad", state="holding"),
        SiteSlowed(at=1.0, site="x", source="", factor=0.5, rests_until=0.0, reason="421"),
        WorkerEnded(at=1.0, worker=1, status="9"),
        ConfigRefused(at=1.0, path="x", errors=("y",)),
    ]
    well = [
        BreakerChanged(at=2.0, filter="clamav", is_open=False),
        SpoolRecovered(at=2.0),
        RecipientsChanged(at=2.0, source="ad", state="available"),
        RecipientsChanged(at=2.0, source="ad", state="not holding"),
        SiteSlowed(at=2.0, site="x", source="", factor=1.0, rests_until=0.0, reason=""),
    ]
    states = [
        "mailgate_breaker_open{filter=clamav}",
        "mailgate_spool_failed",
        "mailgate_recipients_source_trouble{source=ad,state=unavailable}",
        "mailgate_recipients_source_trouble{source=ad,state=holding}",
    ]
    before, after = counted(*failed), counted(*failed, *well)
    assert [before[one] for one in states] == [1.0] * 4
    assert [after[one] for one in states] == [0.0] * 4
    for name in ("sites_slowed", "workers_ended", "config_reloads", "filter_failures"):
        assert [value for key, value in after.items() if key.startswith(f"mailgate_{name}_total")] == [1.0]


def test_the_numbers_of_all_workers_are_one() -> None:
    first, second = Metrics(), Metrics(leads=False)
    closed = SessionClosed(**SESSION, messages=0, seconds=1.0, cause="quit")
    for metrics in (first, second):
        metrics.observe(Started(at=1000.0, listeners=("mx",)))
        metrics.observe(closed)
    second.observe(SessionClosed(**{**SESSION, "listener": "out"}, messages=0, seconds=1.0, cause="quit"))
    carried = json.loads(json.dumps(second.dump()))
    found = values(render([first.dump(), carried]))
    assert found["mailgate_sessions_total{cause=quit,listener=mx}"] == 2
    assert found["mailgate_sessions_total{cause=quit,listener=out}"] == 1
    assert found["mailgate_session_seconds_bucket{le=+Inf,listener=mx}"] == 2
    assert found["mailgate_start_time_seconds"] == 1000.0


def test_dns_is_counted_at_once_and_later() -> None:
    clock, metrics = Clock(), Metrics()

    class Slow(MemoryResolver):
        later: Deferred[Answer] = Deferred()

        def resolve(self, name: str, rdtype: str) -> Answer | Awaitable[Answer]:  # type: ignore[override]  # it may answer later
            return self.later if name == "slow.test" else super().resolve(name, rdtype)

        def close(self) -> None:
            self.is_closed = True

    inner = Slow({("a.test", "MX"): [(10, "mx.a.test")]})
    resolver = CountedResolver(inner, metrics, clock.seconds)
    verifyObject(IResolver, resolver)
    answer = resolver.resolve("a.test", "MX")
    assert isinstance(answer, Answer)
    assert answer.records == ((10, "mx.a.test"),)
    slow = resolver.resolve("slow.test", "TXT")
    assert isinstance(slow, Deferred)
    clock.advance(0.2)
    inner.later.callback(Answer(DnsStatus.SERVFAIL))
    assert wait_for(slow) == Answer(DnsStatus.SERVFAIL)
    inner.later = Deferred()
    given_up = resolver.resolve("slow.test", "A")
    assert isinstance(given_up, Deferred)
    given_up.cancel()
    given_up.addErrback(lambda failure: failure.trap(CancelledError) and None)
    found = values(render([metrics.dump()]))
    assert found["mailgate_dns_answers_total{from_memory=yes,status=found,type=MX}"] == 1
    assert found["mailgate_dns_answers_total{from_memory=no,status=servfail,type=TXT}"] == 1
    assert found["mailgate_dns_answers_total{from_memory=no,status=abandoned,type=A}"] == 1
    assert found["mailgate_dns_seconds_sum{type=TXT}"] == pytest.approx(0.2)
    resolver.close()
    assert inner.is_closed


def test_text_of_others_breaks_nothing() -> None:
    evil = 'x"} 1\nmailgate_evil 1\n\\'
    found = counted(SessionClosed(**{**SESSION, "listener": evil}, messages=0, seconds=1.0, cause="quit"))
    assert "mailgate_evil" not in found
    assert any(evil in key for key in found)


# -- the spool and other workers


def told(numbers: Numbers) -> dict[str, float]:
    found: list[Any] = []
    Deferred.fromCoroutine(numbers.text()).addBoth(found.append)
    assert isinstance(found[0], bytes), found
    return values(found[0])


def test_the_spool_is_counted_when_somebody_asks_and_not_too_often() -> None:
    clock = Clock()
    clock.advance(1000.0)
    spool = MemorySpool(clock)
    numbers = Numbers(Metrics(), spool, clock.seconds)

    def keep(queue_id: str) -> None:
        kept = EnvelopeRecipient(0, Address("a", "b.test"), "box", "spam")
        envelope = Envelope(queue_id=queue_id, sender=NULL_PATH, recipients=(kept,), received=clock.seconds(), size=1)
        spool.accept(envelope, Content(b"x"), 2000.0)

    keep("A1")
    clock.advance(60)
    assert told(numbers)["mailgate_spool_recipients{state=quarantined}"] == 1
    assert told(numbers)["mailgate_spool_oldest_seconds{state=quarantined}"] == 60
    keep("A2")
    clock.advance(4)
    assert told(numbers)["mailgate_spool_recipients{state=quarantined}"] == 1
    clock.advance(1)
    assert told(numbers)["mailgate_spool_recipients{state=quarantined}"] == 2
    assert told(numbers)["mailgate_workers_answering"] == 1


def test_what_cannot_be_asked_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    spool = MemorySpool(clock)

    def fail(*_: object) -> None:
        raise SpoolError("disk")

    monkeypatch.setattr(spool, "summary", fail)
    other = Metrics(leads=False)
    other.observe(SessionClosed(**SESSION, messages=0, seconds=1.0, cause="quit"))

    async def ask(question: str, argument: str) -> tuple[str, str]:
        assert question == "metrics"
        return json.dumps([other.dump(), None]), "worker 2 has not answered"

    found = told(Numbers(Metrics(), spool, clock.seconds, ask))
    assert found["mailgate_sessions_total{cause=quit,listener=mx}"] == 1
    assert found["mailgate_workers_answering"] == 2


# -- files that name them


def known() -> set[str]:
    """Every name that a query may use."""
    names = set()
    for name, _, kind, _ in Metrics().dump():
        parts = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(kind, ("",))
        names |= {f"{name}{part}" for part in parts}
    return names


def check_labels(queries: list[str]) -> None:
    """That what a query asks of a series is among its labels, or what Prometheus puts there."""
    collectors: Any = Metrics()._registry._names_to_collectors
    for query in queries:
        for name, conditions in re.findall(r"\b(mailgate_\w+)\{([^}]*)\}", query):
            labels = set(re.findall(r"(\w+)(?:=~|!~|!=|=)", conditions)) - {"instance"}
            assert labels <= {*collectors[name]._labelnames, "le"}, (name, labels)
        of_all = {label for one in re.findall(r"mailgate_\w+", query) for label in collectors[one]._labelnames}
        for group in re.findall(r"\bby \(([^)]*)\)", query):
            assert set(re.split(r",\s*", group)) <= of_all | {"instance", "le"}, query


def named(queries: list[str]) -> set[str]:
    return {name for query in queries for name in re.findall(r"\bmailgate_\w+", query)}


def test_the_dashboard_asks_for_what_there_is() -> None:
    board = json.loads((ROOT / "etc" / "grafana" / "mailgate.json").read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    assert len(queries) > 10
    assert named(queries) <= known()
    check_labels(queries)
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    places = [(one["gridPos"]["x"], one["gridPos"]["y"]) for one in board["panels"]]
    assert len(set(places)) == len(places)


def test_the_alerts_ask_for_what_there_is() -> None:
    file = yaml.safe_load((ROOT / "etc" / "prometheus" / "alerts.yml").read_text())
    rules = [rule for group in file["groups"] for rule in group["rules"]]
    assert named([rule["expr"] for rule in rules]) <= known()
    check_labels([rule["expr"] for rule in rules])
    assert len({rule["alert"] for rule in rules}) == len(rules) > 5
    for rule in rules:
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert set(rule["annotations"]) == {"summary", "description"}
        assert rule["expr"].count("(") == rule["expr"].count(")")
