"""The suppression list: whose mail it holds up, and who comes on it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pytest
from twisted.internet.task import Clock

from mailgate.address import Address
from mailgate.envelope import Envelope, EnvelopeRecipient, Identity, Origin
from mailgate.events import Bounced, BouncedBack, Complained, Event, Suppressed
from mailgate.filters.stream import Options as StreamOptions
from mailgate.filters.stream import StreamFilter
from mailgate.filters.stream import build as build_stream
from mailgate.filters.suppressions import Options, SuppressionFilter, build
from mailgate.findings import Stream
from mailgate.interfaces import AttemptContext, Suppression
from mailgate.message import RemoveHeader
from mailgate.pipeline.registry import FilterMaker
from mailgate.stores.counters import MemoryCounters
from mailgate.stores.suppressions import SeenSuppressions, SuppressionFile, Suppressions
from mailgate.testing import (
    EventRecorder,
    FilterContract,
    Occasion,
    message,
    recipient,
    services,
    session,
    transaction,
    wait_for,
)
from mailgate.verdict import Continue, Discard, Reject

T = TypeVar("T")
OURS = session(identity=Identity("app", "PLAIN"))
BOB, EVE = Address("bob", "example.net"), Address("eve", "example.com")
NEWS = "news@example.org"


async def at_once(call: Any, /) -> Any:
    return call()


class Stand:
    def __init__(self, folder: Path, **options: Any) -> None:
        self.clock, self.events = Clock(), EventRecorder()
        self.clock.advance(1000.0)
        folder.mkdir(exist_ok=True)
        self.list = Suppressions(folder / "suppressions.db", at_once, self.clock.seconds)
        self.counters = MemoryCounters(self.clock, 1000)
        given = services(clock=self.clock, events=self.events, suppressions=self.list, counters=self.counters)
        built = build(Options.model_validate(options), given)
        assert isinstance(built, SuppressionFilter)
        self.filter = built

    def add(self, address: str, scope: str = "", until: float = 0.0) -> None:
        entry = Suppression(address, scope, "manual", "", self.clock.seconds(), until)
        assert len(wait_for(self.list.add(entry))) == 1

    def rcpt(self, address: Address = BOB, sender: str = NEWS, client: Any = OURS) -> Any:
        mail = transaction(sender, [])
        return wait_for(self.filter.on_rcpt(client, mail, recipient(address)))

    def mail(self, *addresses: Address, sender: str = NEWS, stream: str = "") -> Any:
        mail = transaction(sender, addresses)
        if stream:
            mail.evidence.add(Stream(stream))
        return wait_for(self.filter.on_message(OURS, mail, message()))

    def attempt(self, *addresses: Address, sender: str = NEWS, stream: str = "", login: str = "") -> Any:
        recipients = tuple(EnvelopeRecipient(number, one, "out") for number, one in enumerate(addresses))
        by = Address.parse(sender) if sender else Address("", "")
        origin = Origin(login=login)
        envelope = Envelope(
            queue_id="Q", sender=by, recipients=recipients, received=0.0, size=1, stream=stream, origin=origin
        )
        return wait_for(self.filter.on_attempt(AttemptContext(envelope, recipients, "out", 1)))

    def is_on(self, address: Address, *scopes: str) -> bool:
        return bool(wait_for(self.list.find([address], ["", *scopes])))


@pytest.fixture
def stand(tmp_path: Path) -> Stand:
    return Stand(tmp_path)


def test_refused_at_rcpt(stand: Stand) -> None:
    assert stand.rcpt() is None
    stand.add("BOB@Example.NET")
    verdict = stand.rcpt()
    assert isinstance(verdict, Reject)
    assert (verdict.reply.code, verdict.reply.status) == (550, "5.7.1")
    assert "example" not in str(verdict.reply)
    assert verdict.reason == "bob@example.net is suppressed since 1970-01-01T00:16:40.000Z: manual"
    assert stand.rcpt(EVE) is None


def test_mail_of_others_is_not_held_up(stand: Stand) -> None:
    stand.add("bob@example.net")
    stand.add("ann@example.org")
    assert stand.rcpt(client=session()) is None
    assert stand.rcpt(Address("ann", "example.org")) is None
    assert stand.rcpt(sender="") is None
    # What is passed on for others, and reports.
    assert stand.attempt(BOB, sender="carol@client.example") is None
    assert stand.attempt(BOB, sender="") is None
    assert isinstance(stand.attempt(BOB, sender="carol@client.example", login="carol"), Reject)


def test_a_domain_and_an_end(stand: Stand) -> None:
    stand.add("@example.net", until=2000.0)
    assert isinstance(stand.rcpt(), Reject)
    assert stand.rcpt(Address("bob", "sub.example.net")) is None
    stand.clock.advance(1000.0)
    assert stand.rcpt() is None
    stand.add("@example.net", until=3000.0)  # begins anew
    assert isinstance(stand.rcpt(), Reject)


@pytest.mark.parametrize(
    ("scope", "sender", "is_refused"),
    [
        (NEWS, NEWS, True),
        ("News@Example.org", NEWS, True),
        ("@example.org", NEWS, True),
        (NEWS, "ann@example.org", False),
        ("news", NEWS, False),
    ],
)
def test_for_one_sender(stand: Stand, scope: str, sender: str, is_refused: bool) -> None:
    stand.add("bob@example.net", scope)
    assert isinstance(stand.rcpt(sender=sender), Reject) is is_refused


def test_for_one_stream(stand: Stand) -> None:
    stand.add("bob@example.net", "news")
    assert stand.rcpt() is None
    verdict = stand.mail(EVE, BOB, stream="news")
    assert isinstance(verdict, Reject)
    assert verdict.recipients == (BOB,)
    assert stand.mail(EVE, BOB, stream="invoices") is None
    assert stand.mail(EVE, BOB) is None
    waiting = stand.attempt(EVE, BOB, stream="news")
    assert isinstance(waiting, Reject)
    assert waiting.recipients == (BOB,)
    assert stand.attempt(EVE, BOB, stream="invoices") is None


def test_dropped(tmp_path: Path) -> None:
    stand = Stand(tmp_path, action="discard")
    stand.add("bob@example.net")
    assert stand.rcpt() is None
    for verdict in (stand.mail(EVE, BOB), stand.attempt(EVE, BOB)):
        assert isinstance(verdict, Discard)
        assert verdict.recipients == (BOB,)
    assert stand.mail(EVE) is None


def bounced(number: int = 1, **more: Any) -> Bounced:
    told: dict[str, Any] = {"at": 1.0, "queue_id": f"Q{number}", "sender": NEWS, "recipient": "bob@example.net"}
    told |= {"route": "out", "host": "mx", "reply": "550 no", "attempt": 1, "seconds": 0.1, "reason": "no"}
    return Bounced(**(told | {"category": "no-such-user"} | more))


def back(**more: Any) -> BouncedBack:
    told: dict[str, Any] = {"at": 1.0, "sender": NEWS, "recipient": "bob@example.net", "proof": "verp"}
    return BouncedBack(**(told | {"is_permanent": True, "category": "no-such-user", "queue_id": "Q"} | more))


def test_two_bounces_are_enough(stand: Stand) -> None:
    stand.filter.observe(bounced(1))
    assert not stand.is_on(BOB)
    stand.filter.observe(back(recipient="Bob@example.net"))
    assert stand.is_on(BOB)
    (told,) = stand.events.of(Suppressed)
    assert (told.recipient, told.scope, told.reason) == ("Bob@example.net", "", "bounce")
    stand.filter.observe(bounced(3))
    assert len(stand.events.of(Suppressed)) == 1
    stand.clock.advance(180 * 86400.0)
    assert not stand.is_on(BOB)


def test_a_mail_fails_once(tmp_path: Path) -> None:
    """However many reports come of it, who sends them again, and however many filters there are of this kind."""
    stand = Stand(tmp_path)
    given = services(clock=stand.clock, events=stand.events, suppressions=stand.list, counters=stand.counters)
    other = build(Options(), given)
    assert isinstance(other, SuppressionFilter)
    for event in (bounced(1), bounced(1), back(queue_id="Q1"), back(queue_id="Q1", report="R2")):
        stand.filter.observe(event)
        other.observe(event)
    assert not stand.is_on(BOB)
    stand.filter.observe(back(queue_id="", message_id="<2@example.org>", report="R3"))
    assert stand.is_on(BOB)


@pytest.mark.parametrize("recipient", ["bob@example.net", "BOB@Example.NET"])
def test_a_report_that_does_not_tell_the_sender(tmp_path: Path, recipient: str) -> None:
    stand = Stand(tmp_path, bounces=1)
    stand.filter.observe(back(sender="", recipient=recipient, proof="reporter"))
    assert stand.is_on(BOB)
    stand = Stand(tmp_path / "other", bounces=1)
    stand.filter.observe(complaint(sender="", recipient=recipient, proof="reporter"))
    assert stand.is_on(BOB)  # whose mail it was is not known: all of it


def test_the_first_stream_counts_as_it_does_for_the_queue(stand: Stand) -> None:
    stand.add("bob@example.net", "news")
    mail = transaction(NEWS, [BOB])
    mail.evidence.extend([Stream("news"), Stream("invoices")])
    assert isinstance(wait_for(stand.filter.on_message(OURS, mail, message())), Reject)
    mail = transaction(NEWS, [BOB])
    mail.evidence.extend([Stream("invoices"), Stream("news")])
    assert wait_for(stand.filter.on_message(OURS, mail, message())) is None


def test_a_stream_in_other_letters_is_the_same(stand: Stand) -> None:
    stand.add("bob@example.net", "News")
    assert isinstance(stand.mail(BOB, stream="NEWS"), Reject)
    assert isinstance(stand.attempt(BOB, stream="news"), Reject)


@pytest.mark.parametrize(
    "event",
    [
        bounced(category="content-spam"),
        bounced(category="mailbox-full"),
        bounced(recipient="ann@example.org"),
        bounced(sender="carol@client.example"),
        bounced(sender=""),
        back(is_permanent=False),
        back(category="other"),
        back(recipient="no address"),
    ],
)
def test_what_suppresses_nobody(tmp_path: Path, event: Event) -> None:
    stand = Stand(tmp_path, bounces=1)
    stand.filter.observe(event)
    assert not list(tmp_path.iterdir())
    assert not stand.events.events


def complaint(**more: Any) -> Complained:
    told: dict[str, Any] = {"at": 1.0, "sender": NEWS, "recipient": "bob@example.net", "proof": "verp"}
    return Complained(**(told | more))


@pytest.mark.parametrize(
    ("complaints", "stream", "scope"),
    [("sender", "", NEWS), ("sender", "news", "news"), ("all", "news", ""), ("off", "news", None)],
)
def test_complaints(tmp_path: Path, complaints: str, stream: str, scope: str | None) -> None:
    stand = Stand(tmp_path, complaints=complaints)
    stand.filter.observe(complaint(stream=stream))
    assert [one.scope for one in stand.events.of(Suppressed)] == ([] if scope is None else [scope])
    assert stand.is_on(BOB) is (scope == "")
    assert scope is None or stand.is_on(BOB, scope)


def test_a_complaint_outlives_a_disk_that_fails(stand: Stand, tmp_path: Path) -> None:
    path = tmp_path / "suppressions.db"
    path.mkdir()
    stand.filter.observe(complaint())
    stand.clock.advance(5.0)
    path.rmdir()
    assert not stand.is_on(BOB, NEWS)
    stand.clock.advance(30.0)
    assert stand.is_on(BOB, NEWS)
    assert len(stand.events.of(Suppressed)) == 1
    assert not stand.clock.getDelayedCalls()


def test_what_waits_for_a_disk_is_bounded(stand: Stand, tmp_path: Path) -> None:
    (tmp_path / "suppressions.db").mkdir()
    for number in range(1100):
        stand.filter.observe(complaint(recipient=f"u{number}@example.net"))
    assert len(stand.clock.getDelayedCalls()) == 1000
    (tmp_path / "suppressions.db").rmdir()
    stand.clock.advance(5.0)
    assert len(wait_for(stand.list.list(2000))) == 1000
    stand.filter.observe(complaint(recipient="u1099@example.net"))
    assert len(wait_for(stand.list.list(2000))) == 1001


def test_a_list_that_cannot_be_asked_is_a_failure(stand: Stand, tmp_path: Path) -> None:
    (tmp_path / "suppressions.db").write_bytes(b"this is no database, and long enough to be one" * 100)
    with pytest.raises(sqlite3.DatabaseError):
        stand.rcpt()


def test_who_tries_what_would_happen_changes_nothing(stand: Stand, tmp_path: Path) -> None:
    seen = SeenSuppressions(Suppressions(tmp_path / "suppressions.db", at_once, stand.clock.seconds))
    assert wait_for(seen.add(Suppression("bob@example.net"))) == ()
    assert not list(tmp_path.iterdir())
    stand.add("bob@example.net")
    assert wait_for(seen.find([BOB], [""]))
    assert wait_for(seen.remove("bob@example.net")) == ()
    assert stand.is_on(BOB)


def test_the_file(tmp_path: Path) -> None:
    file = SuppressionFile(tmp_path / "list.db")
    entries = [Suppression(f"u{number}@example.net", "", "manual", "x" * 9999, 1.0) for number in range(5)]
    assert file.add(entries, 1.0) == entries
    news = Suppression("u1@example.net", "news", "unsubscribe", "", 1.0)
    assert file.add([*entries, news], 1.0) == [news]
    first = file.list(2)
    assert [one.address for one in first] == ["u0@example.net", "u1@example.net"]
    assert len(first[0].detail) == 500
    rest = file.list(10, (first[-1].address, first[-1].scope))
    assert [(one.address, one.scope) for one in rest][:2] == [("u1@example.net", "news"), ("u2@example.net", "")]
    assert [one.scope for one in file.list(10, reason="unsubscribe")] == ["news"]
    assert len(file.list(10, address="U1@EXAMPLE.net")) == 2
    assert file.remove("u1@example.net", "News") == [news]
    assert [one.scope for one in file.remove("u1@example.net", None)] == [""]
    assert file.remove("u1@example.net", None) == []
    file.close()


def test_streams(tmp_path: Path) -> None:
    options = {
        "names": ["news", "shop"],
        "senders": {"news@example.org": "news", "example.org": "staff"},
        "identities": {"crm": "crm"},
        "default": "other",
    }
    built = build_stream(StreamOptions.model_validate(options), services())
    assert isinstance(built, StreamFilter)

    def stream(sender: str, text: str = "Subject: x\n\nx\n", who: str | None = "app") -> str:
        client = session(identity=None if who is None else Identity(who, "PLAIN"))
        verdict = built.on_message(client, transaction(sender), message(text))
        return verdict.evidence[0].name if isinstance(verdict, Continue) else ""  # type: ignore[attr-defined]

    named = "X-Stream: shop\n\nx\n"
    assert stream("ann@example.org", named) == "shop"
    assert stream("ann@example.org", "X-Stream: evil\n\nx\n") == "staff"
    assert stream("news@example.org") == "news"
    assert stream("x@client.example", who="crm") == "crm"
    assert stream("x@client.example") == "other"
    assert stream("ann@example.org", named, who=None) == ""
    assert built.modify(session(), transaction(), message(named)) == [RemoveHeader("X-Stream")]
    assert built.modify(session(), transaction(), message()) == []


class TestContract(FilterContract):
    factory = FilterMaker("suppressions", "mailgate.filters.suppressions", "the suppression list")
    settings: Mapping[str, object] = {}

    def occasions(self) -> Iterable[Occasion]:
        return [Occasion(), Occasion(session=OURS, transaction=transaction(NEWS, ["bob@example.net"]))]


class TestStreamContract(FilterContract):
    factory = FilterMaker("stream", "mailgate.filters.stream", "streams")
    settings: Mapping[str, object] = {"default": "mail"}

    def occasions(self) -> Iterable[Occasion]:
        return [Occasion(), Occasion(session=OURS, message=message("X-Stream: news\n\nx\n"))]
