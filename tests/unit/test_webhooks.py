"""Webhooks: everything arrives in its order, at least once and signed, whatever the other end does."""

from __future__ import annotations

import hashlib
import hmac
import json
import random
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pytest
from pydantic import ValidationError
from twisted.internet.defer import Deferred
from zope.interface import implementer

from mailgate.config.webhooks import WebhookSection
from mailgate.envelope import TraceStep
from mailgate.events import (
    BackEndRefuses,
    Bounced,
    Delivered,
    Event,
    LimitNear,
    MessageAccepted,
    Quarantined,
    SessionClosed,
    WebhookChanged,
    WebhookDropped,
)
from mailgate.interfaces import IEventObserver
from mailgate.observe.hub import EventHub
from mailgate.stores.opened import OpenedFile
from mailgate.testing import EventRecorder
from mailgate.webhooks.gathering import Gathering
from mailgate.webhooks.office import Webhooks
from mailgate.webhooks.queue_file import Queued, QueueFile
from mailgate.webhooks.target import Target, TargetError, make_targets
from tests.unit.remote_peer import Asked, Net, outcome

SECRET, OLD = b"one secret, long enough", b"another one, long enough"
T = TypeVar("T")


def delivered(number: int, **more: Any) -> Delivered:
    told: dict[str, Any] = {"at": 1000.0 + number, "queue_id": f"Q{number}", "sender": "ann@example.org"}
    told |= {"recipient": "bob@example.net", "route": "out", "host": "mx", "reply": "250 ok", "attempt": 1}
    return Delivered(**(told | {"seconds": 0.1, "delay": 1.0} | more))


async def at_once(call: Callable[[], T], /) -> T:
    return call()


@implementer(IEventObserver)
class Observed(EventRecorder):
    def observe(self, event: Event) -> None:
        self.publish(event)


class Stand:
    """Webhooks of one process, whose programs the test plays."""

    def __init__(self, folder: Path, *, leads: bool = True, workers: int = 1) -> None:
        self.folder = folder
        (folder / "secret").write_bytes(SECRET + b"\n" + OLD + b"\n")
        self.net = Net()
        self.net.advance(10_000.0)
        self.events = Observed()
        self.hub = EventHub([self.events])
        self.office = Webhooks(
            folder / "webhooks.db",
            reactor=self.net.reactor,
            events=self.hub,
            in_thread=at_once,
            random=random.Random(1),
            leads=leads,
            workers=workers,
        )

    def section(self, **settings: Any) -> WebhookSection:
        given = {"url": "http://127.0.0.1/hook", "secret_file": str(self.folder / "secret"), **settings}
        return WebhookSection.model_validate(given)

    def use(self, **hooks: Mapping[str, Any]) -> None:
        sections = {name: self.section(**settings) for name, settings in hooks.items()}
        self.office.use(make_targets(sections, self.net.reactor))

    def happens(self, *events: Event) -> None:
        """Publish these, and let what they lead to happen."""
        for event in events:
            self.hub.publish(event)
        self.settle()

    def settle(self) -> None:
        """Wait for the thread that writes, and run what it hands over."""
        assert self.office.flush()
        while not self.net.memory.handed.empty():
            function, args = self.net.memory.handed.get()
            function(*args)

    def close(self) -> None:
        outcome(Deferred.fromCoroutine(self.office.close()))


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    made = Stand(tmp_path)
    yield made
    made.close()


def got(asked: Asked) -> dict[str, Any]:
    """What a request tells; its signature is proved as the guide says."""
    line, fields, body = asked.request()
    assert line == "POST /hook HTTP/1.1"
    assert fields["content-type"] == "application/json"
    parts = [part.split("=", 1) for part in fields["mailgate-signature"].split(",")]
    moment = dict(parts)["t"]
    expected = hmac.new(SECRET, moment.encode() + b"." + body, hashlib.sha256).hexdigest()
    assert any(hmac.compare_digest(expected, value) for name, value in parts if name == "v1")
    return json.loads(body)  # type: ignore[no-any-return]


def ids(told: Mapping[str, Any]) -> list[str]:
    return [one["data"]["queue_id"] for one in told["events"]]


def takes(asked: Asked, status: int = 200, body: bytes = b"", fields: str = "Connection: close\r\n") -> dict[str, Any]:
    told = got(asked)
    asked.answer(status, body, fields)
    if asked.is_open:
        asked.lose()
    return told


def test_what_is_sent(stand: Stand) -> None:
    stand.use(crm={})
    steps = (TraceStep(stage="rcpt", filter="recipients"),)
    accepted = MessageAccepted(
        at=1000.0,
        queue_id="Q1",
        session="S1",
        client="x",
        listener="mx",
        helo="h",
        sender="ann@example.org",
        recipients=("bob@example.net",),
        size=10,
        stream="news",
        trace=steps,
    )
    closed = SessionClosed(
        at=1000.0, session="S1", client="x", listener="mx", helo="h", messages=1, seconds=1, cause=""
    )
    stand.happens(accepted, closed)
    asked = stand.net.accept()
    _, fields, body = asked.request()
    assert fields["mailgate-webhook"] == "crm"
    told = json.loads(body)
    assert (told["webhook"], told["missed"]) == ("crm", 0)
    (event,) = told["events"]
    assert (event["type"], event["data"]["at"]) == ("accepted", "1970-01-01T00:16:40.000Z")
    assert (event["data"]["event"], event["data"]["stream"]) == ("message_accepted", "news")
    assert "trace" not in event["data"]
    assert len(event["id"]) == 16


def test_each_secret_signs(stand: Stand) -> None:
    stand.use(crm={})
    stand.happens(delivered(1))
    _, fields, body = stand.net.accept().request()
    moment = fields["mailgate-signature"].partition(",")[0].removeprefix("t=")
    values = [hmac.new(one, f"{moment}.".encode() + body, hashlib.sha256).hexdigest() for one in (SECRET, OLD)]
    assert fields["mailgate-signature"] == f"t={moment},v1={values[0]},v1={values[1]}"
    assert int(moment) == int(stand.net.reactor.seconds())


def test_in_order_one_request_after_another(stand: Stand) -> None:
    stand.use(crm={"max_events": 2})
    stand.happens(*(delivered(number) for number in range(5)))
    found = []
    while stand.net.has_more:
        found.append(ids(takes(stand.net.accept())))
    assert found == [["Q0", "Q1"], ["Q2", "Q3"], ["Q4"]]
    stand.happens(delivered(5))
    assert ids(takes(stand.net.accept())) == ["Q5"]


def test_only_what_is_asked_for(stand: Stand) -> None:
    stand.use(
        bounces={"events": ["bounced"]},
        news={"streams": ["news"], "events": ["delivered", "limit_near", "quarantined"]},
    )
    near = LimitNear(at=1.0, filter="quota", rule="r", subject="s", count=1, limit=2, window=1.0, until=2.0)
    kept = Quarantined(at=1.0, queue_id="QX", sender="", recipients=("a@example.org",), reason="r")
    stand.happens(delivered(1), delivered(2, stream="news"), delivered(3, stream="invoices"), near, kept)
    assert ids(takes(stand.net.accept())) == ["Q2"]
    assert not stand.net.has_more
    stand.happens(
        Bounced(
            at=1.0,
            queue_id="QB",
            sender="a",
            recipient="b",
            route="r",
            host="",
            reply="550",
            attempt=1,
            seconds=0,
            reason="",
        )
    )
    assert ids(takes(stand.net.accept())) == ["QB"]


def test_pauses_grow_and_the_same_comes_again(stand: Stand) -> None:
    stand.use(crm={"max_pause": "8s"})
    stand.happens(delivered(1))
    first = takes(stand.net.accept(), 500)
    for pause in (1.0, 2.0, 4.0, 8.0, 8.0):
        stand.net.advance(pause * 0.79)
        assert not stand.net.has_more
        stand.net.advance(pause * 0.21)
        again = takes(stand.net.accept(), 500)
        assert again["events"] == first["events"]
    stand.happens(delivered(2))  # that there is more does not shorten a pause
    assert not stand.net.has_more
    stand.net.advance(8.0)
    assert ids(takes(stand.net.accept())) == ["Q1", "Q2"]
    assert [(one.webhook, one.is_failing) for one in stand.events.of(WebhookChanged)] == [("crm", True), ("crm", False)]


def nonsense(asked: Asked) -> None:
    asked.say(b"hello, who is there?\r\n\r\n")


def half(asked: Asked) -> None:
    asked.say(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhal")
    asked.lose()


def endless(asked: Asked) -> None:
    asked.say(b"HTTP/1.1 200 OK\r\n\r\n")
    while asked.is_open:
        asked.say(b"x" * 16384)


def elsewhere(asked: Asked) -> None:
    asked.answer(307, b"", "Location: http://192.0.2.9/steal\r\n")


def gone(asked: Asked) -> None:
    asked.answer(410)


def begun(asked: Asked) -> None:
    asked.say(b"HTTP/1.1 200 OK\r\nContent-Le")
    asked.lose()


TROUBLE = [nonsense, begun, elsewhere, gone]


@pytest.mark.parametrize("answers", TROUBLE, ids=lambda one: one.__name__)
def test_what_is_no_yes(stand: Stand, answers: Callable[[Asked], None]) -> None:
    stand.use(crm={})
    stand.happens(delivered(1))
    asked = stand.net.accept()
    assert ids(got(asked)) == ["Q1"]
    answers(asked)
    stand.net.advance(0.1)
    assert not stand.net.has_more
    (failing,) = stand.events.of(WebhookChanged)
    assert failing.is_failing
    assert failing.reason
    assert "steal" not in failing.reason
    stand.net.advance(1.0)
    again = stand.net.accept() if stand.net.has_more else asked
    assert ids(takes(again)) == ["Q1"]
    assert not stand.events.of(WebhookChanged)[-1].is_failing


def slow(asked: Asked) -> None:
    asked.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")


@pytest.mark.parametrize("answers", [half, endless, slow], ids=lambda one: one.__name__)
def test_a_yes_is_one_whatever_stands_behind_it(stand: Stand, answers: Callable[[Asked], None]) -> None:
    stand.use(crm={})
    stand.happens(delivered(1))
    asked = stand.net.accept()
    assert ids(got(asked)) == ["Q1"]
    answers(asked)
    assert not stand.events.of(WebhookChanged)
    stand.happens(delivered(2))
    assert ids(takes(stand.net.accept())) == ["Q2"]  # over another connection
    stand.net.advance(5.0)
    assert not asked.is_open


def test_the_end_of_a_webhook_waits_for_no_answer_to_be_over(stand: Stand) -> None:
    stand.use(crm={})
    stand.happens(delivered(1))
    asked = stand.net.accept()
    slow(asked)
    stand.use()
    assert not asked.is_open


def test_one_that_hangs_holds_up_no_other(stand: Stand) -> None:
    stand.use(slow={"timeout": "10s"}, good={})
    stand.happens(delivered(1))
    slow, good = stand.net.accept(), stand.net.accept()
    takes(good)
    stand.happens(delivered(2))
    assert ids(takes(stand.net.accept())) == ["Q2"]
    assert not stand.net.has_more
    assert ids(got(slow)) == ["Q1"]
    stand.net.advance(10.0)
    assert not slow.is_open
    (failing,) = stand.events.of(WebhookChanged)
    assert (failing.webhook, failing.reason) == ("slow", "no answer within 10 s")
    stand.net.advance(1.0)
    assert ids(takes(stand.net.accept())) == ["Q1", "Q2"]


def test_nobody_there(stand: Stand) -> None:
    stand.use(crm={})
    stand.happens(delivered(1))
    stand.net.refuse()
    stand.net.advance(1.0)
    assert ids(takes(stand.net.accept())) == ["Q1"]


def test_a_restart_in_between(tmp_path: Path) -> None:
    first = Stand(tmp_path)
    first.use(crm={})
    first.happens(delivered(1))
    before = got(first.net.accept())  # it was sent, and never answered
    first.hub.publish(delivered(2))
    first.close()
    second = Stand(tmp_path)
    second.use(crm={})
    second.settle()
    after = takes(second.net.accept())
    assert ids(after) == ["Q1", "Q2"]
    assert after["events"][0] == before["events"][0]
    second.close()


def test_too_old(stand: Stand) -> None:
    stand.use(crm={"max_age": "1h", "max_pause": "10m"})
    now = stand.net.reactor.seconds()
    stand.happens(delivered(1, at=now), delivered(2, at=now + 1800))
    takes(stand.net.accept(), 503)
    while stand.net.reactor.seconds() < now + 4000:
        stand.net.advance(600.0)
        last = takes(stand.net.accept(), 503)
    assert (ids(last), last["missed"]) == (["Q2"], 1)
    (dropped,) = stand.events.of(WebhookDropped)
    assert (dropped.webhook, dropped.count, dropped.reason) == ("crm", 1, "age")
    stand.net.advance(600.0)
    assert takes(stand.net.accept())["missed"] == 1
    stand.happens(delivered(3, at=now + 5000))
    assert takes(stand.net.accept())["missed"] == 0


def test_too_much(stand: Stand) -> None:
    stand.use(crm={"max_size": "64KiB", "max_events": 1000})
    stand.happens(delivered(0))
    asked = stand.net.accept()
    stand.happens(*(delivered(number) for number in range(1, 1001)))
    dropped = sum(one.count for one in stand.events.of(WebhookDropped))
    assert (stand.folder / "webhooks.db").stat().st_size < 65536 * 8
    takes(asked)
    told = takes(stand.net.accept())
    stand.net.advance(60.0)
    dropped = sum(one.count for one in stand.events.of(WebhookDropped))
    assert {one.reason for one in stand.events.of(WebhookDropped)} == {"size"}
    assert told["missed"] == dropped
    assert ids(told) == [f"Q{number}" for number in range(dropped, 1001)]
    assert 0 < len(ids(told)) < 400


def test_a_disk_that_fails(tmp_path: Path) -> None:
    broken: list[Exception] = [sqlite3.OperationalError("disk I/O error")]

    def open_file(path: Path) -> QueueFile:
        if broken:
            raise broken[0]
        return QueueFile(path)

    written: list[bool] = []
    file = OpenedFile(tmp_path / "queue.db", open_file)
    gathering = Gathering(file, written=lambda: written.append(True), dropped=lambda dropped: None, delay=0.0)
    (tmp_path / "secret").write_bytes(SECRET)
    section = WebhookSection(url="https://a.example", secret_file=tmp_path / "secret")
    gathering.use({"crm": section})
    gathering.observe(delivered(1))
    assert gathering.flush()
    assert not written
    broken.clear()
    gathering.observe(delivered(2))
    gathering.close()
    assert written == [True]
    batch, _ = file.use(lambda one: one.take("crm", limit=10, octets=10_000, oldest=0.0))
    assert batch is not None
    assert [json.loads(one.line)["queue_id"] for one in batch.events] == ["Q1", "Q2"]


def test_a_webhook_can_ask_for_the_alarm_of_a_back_end(stand: Stand) -> None:
    stand.use(alarms={"events": ["back_end_refuses"]}, crm={})
    refusal = BackEndRefuses(
        at=1.0, route="exchange", site="ex", host="ex[192.0.2.1]:25", reply="550 5.7.64 no", recipient="ann@example.org"
    )
    stand.happens(refusal)
    told = takes(stand.net.accept())
    (event,) = told["events"]
    assert (told["webhook"], stand.net.has_more) == ("alarms", False)
    assert (event["type"], event["data"]["route"]) == ("back_end_refuses", "exchange")


def test_events_that_come_faster_than_the_disk_are_counted(tmp_path: Path) -> None:
    file = OpenedFile(tmp_path / "queue.db", QueueFile)
    told: list[Mapping[tuple[str, str], int]] = []
    gathering = Gathering(file, written=lambda: None, dropped=told.append, delay=10.0, limit=3)
    (tmp_path / "secret").write_bytes(SECRET)
    gathering.use({"crm": WebhookSection(url="https://a.example", secret_file=tmp_path / "secret")})
    for number in range(5):
        gathering.observe(delivered(number))
    gathering.close()
    assert told == [{("crm", "slow disk"): 2}]
    batch, _ = file.use(lambda one: one.take("crm", limit=10, octets=10_000, oldest=0.0))
    assert batch is not None
    assert (len(batch.events), batch.missed) == (3, 2)


def test_a_reload_keeps_the_queue_and_drops_what_is_removed(stand: Stand) -> None:
    stand.use(crm={}, old={})
    stand.happens(delivered(1))
    for _ in range(2):
        takes(stand.net.accept(), 500)
    stand.use(crm={"url": "http://127.0.0.1:81/hook"})
    asked = stand.net.accept()
    assert asked.port == 81
    assert ids(takes(asked)) == ["Q1"]
    assert not stand.net.has_more
    (dropped,) = stand.events.of(WebhookDropped)
    assert (dropped.webhook, dropped.count, dropped.reason) == ("old", 1, "removed")
    stand.use()
    stand.happens(delivered(2))
    stand.net.advance(1000.0)
    assert not stand.net.has_more


def test_workers_write_and_the_first_sends(tmp_path: Path) -> None:
    first, second = Stand(tmp_path, workers=2), Stand(tmp_path, leads=False, workers=2)
    for one in (first, second):
        one.use(crm={})
    second.happens(delivered(1))
    assert not second.net.has_more
    first.net.advance(1.0)
    assert ids(takes(first.net.accept())) == ["Q1"]
    for one in (second, first):
        one.close()


def test_without_webhooks_there_is_nothing(stand: Stand) -> None:
    stand.use()
    assert list(stand.folder.iterdir()) == [stand.folder / "secret"]
    assert not stand.net.memory.getDelayedCalls()


def test_what_was_taken_twice_is_not_removed_twice(tmp_path: Path) -> None:
    file = QueueFile(tmp_path / "queue.db")
    events = [Queued("a", 1.0, f"K{number}", "delivered", "{}") for number in range(3)]
    file.put(events, {"a": 1000, "b": 1000})
    first, _ = file.take("a", limit=2, octets=1000, oldest=0.0)
    assert first is not None
    file.done("a", first)
    file.done("a", first)
    rest, _ = file.take("a", limit=2, octets=1000, oldest=0.0)
    assert rest is not None
    assert rest.events == events[2:]
    assert file.take("b", limit=2, octets=1000, oldest=0.0) == (None, {})
    file.close()


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        ({"url": "http://inner.example.org/hook"}, "http:// is for this machine only"),
        ({"url": "https://a.example/ä"}, "beyond ASCII"),
        ({"url": "ftp://a.example/"}, "no address of a service"),
        ({"events": []}, "at least 1"),
        ({"events": ["exploded"]}, "'accepted'"),
        ({"max_size": "10KiB"}, "64KiB"),
        ({"max_pause": "0s"}, "1s"),
    ],
)
def test_mistakes(tmp_path: Path, settings: dict[str, Any], wrong: str) -> None:
    with pytest.raises(ValidationError, match=wrong):
        WebhookSection.model_validate({"url": "https://a.example/", "secret_file": "secret"} | settings)


def test_mistakes_that_show_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "short").write_text("short\n")
    (tmp_path / "secret").write_bytes(SECRET)
    sections = {
        "a": WebhookSection(url="https://a.example", secret_file=tmp_path / "short"),
        "b": WebhookSection(url="https://a.example", secret_file=tmp_path / "nothing"),
        "c": WebhookSection(url="https://a.example", secret_file=tmp_path / "secret", ca=tmp_path / "short"),
        "d": WebhookSection(url="https://a.example", secret_file=tmp_path / "secret"),
    }
    with pytest.raises(TargetError) as raised:
        make_targets(sections, Net().reactor)
    assert [key for key, _ in raised.value.errors] == [
        ("webhooks", "a", "secret_file"),
        ("webhooks", "b", "secret_file"),
        ("webhooks", "c"),
    ]
    assert isinstance(make_targets({"d": sections["d"]}, Net().reactor)["d"], Target)


def test_a_disk_that_fails_at_a_reload(stand: Stand) -> None:
    """Webhooks are served as soon as it is well again, without another reload."""
    stand.use(crm={})
    stand.happens(delivered(1))
    takes(stand.net.accept(), 500)
    stand.office._file.close()
    path = stand.folder / "webhooks.db"
    path.rename(stand.folder / "away")
    path.mkdir()
    stand.use(crm={"max_pause": "8s"})
    assert not stand.net.has_more
    path.rmdir()
    (stand.folder / "away").rename(path)
    stand.net.advance(5.0)
    assert ids(takes(stand.net.accept())) == ["Q1"]


def test_what_nobody_has_thought_of_does_not_end_a_webhook(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    stand.use(crm={})
    stand.settle()

    def fails(*_: object, **__: object) -> None:
        raise KeyError("a bug")

    with monkeypatch.context() as patched:
        patched.setattr(QueueFile, "take", fails)
        stand.happens(delivered(1))
    assert not stand.net.has_more
    stand.net.advance(5.0)
    assert ids(takes(stand.net.accept())) == ["Q1"]


def test_who_is_stopped_in_a_pause_leaves_nothing_behind(tmp_path: Path) -> None:
    made = Stand(tmp_path)
    made.use(crm={})
    made.happens(delivered(1))
    takes(made.net.accept(), 500)
    made.net.advance(1.0)
    got(made.net.accept())  # it is stopped while it waits for an answer, and has failed before
    made.close()
    assert [call for call in made.net.reactor.getDelayedCalls() if "Deferred.callback" in str(call)] == []


def test_what_was_missed_is_told_once(tmp_path: Path) -> None:
    """By a courier that is ended, and by that which comes behind it."""
    file = QueueFile(tmp_path / "queue.db")
    file.miss("crm", 3)
    file.put([Queued("crm", 1.0, "a", "delivered", "{}")], {"crm": 65536})
    batch, _ = file.take("crm", limit=10, octets=1000, oldest=0.0)
    assert batch is not None
    assert batch.missed == 3
    file.done("crm", batch)
    file.done("crm", batch)
    file.put([Queued("crm", 1.0, "b", "delivered", "{}")], {"crm": 65536})
    batch, _ = file.take("crm", limit=10, octets=1000, oldest=0.0)
    assert batch is not None
    assert batch.missed == 0
    file.close()


def test_a_count_that_is_wrong_holds_up_nobody(tmp_path: Path) -> None:
    file = QueueFile(tmp_path / "queue.db")
    file._grow("crm", 10_000_000)
    assert file.put([Queued("crm", 1.0, "a", "delivered", "{}")], {"crm": 65536}) == {("crm", "size"): 1}
    file.close()
