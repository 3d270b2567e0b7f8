"""The shared fakes do what the real parts promise, and FilterContract finds the filters that break it."""

from __future__ import annotations

import unittest
from collections.abc import Awaitable, Callable, Iterable
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from mailgate.address import NULL_PATH, Address
from mailgate.config.schema import Section
from mailgate.envelope import Envelope, EnvelopeRecipient, MailParameters, Session, Transaction
from mailgate.events import Started, Stopped
from mailgate.interfaces import (
    Answer,
    DnsStatus,
    FilterServices,
    ICounters,
    IEventObserver,
    IEvents,
    IFilterFactory,
    IHeloFilter,
    IMailFilter,
    IMessageFilter,
    IRecipientDirectory,
    IResolver,
    ISpool,
    Lease,
    Outcome,
    OutcomeKind,
    RecipientStatus,
    Return,
    Selector,
    SpoolError,
)
from mailgate.message import Content, Message
from mailgate.plugins.builtin import headers
from mailgate.reply import Reply
from mailgate.testing import (
    EventRecorder,
    FakeDirectory,
    FilterContract,
    MemoryResolver,
    MemorySpool,
    Occasion,
    Silent,
    message,
    recipient,
    services,
    session,
    transaction,
    verdict_of,
    wait_for,
)
from mailgate.verdict import Continue, Defer, PermanentFailure, Reject, TemporaryFailure, Verdict

OK, LATER = Reply.of(250, "2.0.0", "ok"), Reply.of(451, "4.3.0", "later")
NO = Reply.of(550, "5.7.1", "No")


# -- answers


async def coroutine(value: object) -> object:
    return value


@pytest.mark.parametrize("make", [lambda one: one, succeed, coroutine])
def test_a_verdict_is_found_in_every_form(make: Callable[[Any], Any]) -> None:
    verdict = Reject(NO, "x")
    assert verdict_of(make(verdict)) is verdict
    assert verdict_of(make(None)) == Continue()


def test_failures_become_the_verdicts_that_they_stand_for() -> None:
    assert verdict_of(fail(TemporaryFailure("a"))) == Defer(TemporaryFailure("a").reply, "a")
    assert verdict_of(fail(PermanentFailure("b"))) == Reject(PermanentFailure("b").reply, "b")
    with pytest.raises(ZeroDivisionError):
        verdict_of(fail(ZeroDivisionError()))


def test_time_passes_until_the_answer_is_there() -> None:
    clock = Clock()
    assert wait_for(deferLater(clock, 3.0, lambda: "done"), clock) == "done"
    assert 3.0 <= clock.seconds() < 3.2
    cancelled: list[object] = []
    with pytest.raises(AssertionError, match="no answer within 2 s"):
        wait_for(Deferred(cancelled.append), clock, 2.0)
    assert len(cancelled) == 1
    with pytest.raises(AssertionError, match="no answer"):
        verdict_of(Deferred())


# -- fakes


def test_the_resolver_tells_the_five_ends_apart() -> None:
    resolver = MemoryResolver(
        {
            ("Example.org.", "mx"): [(10, "mx.example.org")],
            ("example.org", "AAAA"): DnsStatus.SERVFAIL,
            ("slow.example", "A"): DnsStatus.TIMEOUT,
            ("empty.example", "A"): [],
            ("1.2.0.192.in-addr.arpa", "PTR"): ["client.example"],
        }
    )
    verifyObject(IResolver, resolver)
    assert resolver.resolve("EXAMPLE.org", "MX").records == ((10, "mx.example.org"),)
    for name, rdtype, status in (
        ("example.org", "A", DnsStatus.NODATA),
        ("example.org", "AAAA", DnsStatus.SERVFAIL),
        ("slow.example", "A", DnsStatus.TIMEOUT),
        ("empty.example", "A", DnsStatus.NODATA),
        ("none.example", "A", DnsStatus.NXDOMAIN),
    ):
        assert resolver.resolve(name, rdtype).status is status
    assert resolver.reverse(IPv4Address("192.0.2.1")).records == ("client.example",)
    assert resolver.reverse(IPv6Address("2001:db8::1")).status is DnsStatus.NXDOMAIN
    assert resolver.asked[0] == ("example.org", "MX")


def test_the_resolver_reads_names_with_their_sets() -> None:
    zone: dict[Any, Any] = {
        "Example.org.": {"MX": [[20, "b.example.org"], [10, "A.example.org."]], "TXT": ["one", ["two ", "parts"]]},
        "alias.example": {"CNAME": ["example.org"]},
        "gone.example": "NXDOMAIN",
        "slow.example": DnsStatus.TIMEOUT,
        "mixed.example": {"A": "SERVFAIL", "TXT": "NODATA"},
        ("mixed.example", "MX"): [(0, ".")],
    }
    resolver = MemoryResolver(zone, ttl=60.0, secure=True)
    assert resolver.resolve("example.org", "MX") == Answer(
        DnsStatus.FOUND, ((10, "a.example.org"), (20, "b.example.org")), 60.0, True
    )
    assert resolver.resolve("alias.example.", "txt").records == (b"one", b"two parts")
    assert resolver.resolve("mixed.example", "MX").records == ((0, ""),)
    for name, rdtype, status in (
        ("gone.example", "A", DnsStatus.NXDOMAIN),
        ("slow.example", "TXT", DnsStatus.TIMEOUT),
        ("mixed.example", "A", DnsStatus.SERVFAIL),
        ("mixed.example", "TXT", DnsStatus.NODATA),
        ("example", "A", DnsStatus.NODATA),
    ):
        assert resolver.resolve(name, rdtype).status is status, (name, rdtype)


def test_a_zone_may_change() -> None:
    resolver = MemoryResolver({"x.example": {"A": "TIMEOUT", "TXT": ["one"]}, "gone.example": "NXDOMAIN"})
    resolver.update({"X.example": {"A": ["192.0.2.1"]}, "gone.example": {"A": ["192.0.2.2"]}})
    assert resolver.resolve("x.example", "A").records == (IPv4Address("192.0.2.1"),)
    assert resolver.resolve("x.example", "TXT").records == (b"one",)
    assert resolver.resolve("gone.example", "A").status is DnsStatus.FOUND


@pytest.mark.parametrize(
    "zone",
    [
        {"x.example": "NOTHING"},
        {"x.example": DnsStatus.FOUND},
        {"x.example": {"A": ["x"]}},
        {"x.example": {"MX": ["mx.example"]}},
    ],
)
def test_what_can_be_no_zone_is_told(zone: dict[str, Any]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  those of ipaddress and ours
        MemoryResolver(zone)


def test_the_directory_knows_what_it_was_told() -> None:
    directory = FakeDirectory(["Bob@example.org"], {"eve@example.org": RecipientStatus.UNAVAILABLE})
    verifyObject(IRecipientDirectory, directory)
    assert directory.lookup(Address("BOB", "example.org")) is RecipientStatus.KNOWN
    assert directory.lookup(Address("eve", "example.org")) is RecipientStatus.UNAVAILABLE
    assert directory.lookup(Address("joe", "example.org")) is RecipientStatus.UNKNOWN
    anyone = FakeDirectory(otherwise=RecipientStatus.KNOWN)
    assert anyone.lookup(Address("joe", "example.org")) is RecipientStatus.KNOWN


def test_the_recorder_keeps_events_by_kind() -> None:
    recorder = EventRecorder()
    verifyObject(IEvents, recorder)
    recorder.publish(Started(at=1.0, listeners=()))
    recorder.publish(Stopped(at=2.0))
    assert recorder.of(Stopped) == [Stopped(at=2.0)]
    assert len(recorder.events) == 2


def test_silence_is_counted_until_it_is_cancelled() -> None:
    silent = Silent()
    for interface in (IResolver, ICounters, IRecipientDirectory):
        verifyObject(interface, silent)
    answers: list[Deferred[Any]] = [
        silent.resolve("a", "A"),
        silent.reverse(IPv4Address("192.0.2.1")),
        silent.hit("a", 1.0),
        silent.peek("a", 1.0),
        silent.lookup(Address("a", "b")),
    ]
    assert (silent.asked, silent.open) == (5, 5)
    for answer in answers:
        answer.addErrback(lambda _: None)
        answer.cancel()
    assert (silent.asked, silent.open) == (5, 0)


# -- builders


def test_builders_give_whole_and_equal_objects() -> None:
    assert session().client == session("192.0.2.1").client
    assert session("2001:db8::1", helo="x", role="outbound").helo == "x"
    assert transaction().recipients == [recipient()]
    assert not transaction(sender="").sender
    mail = transaction(
        "a@b.example", ["x@y.example", Address("p", "q.example"), recipient("r@s.example", "lab")], id="Q"
    )
    assert [(str(one.address), one.route) for one in mail.recipients] == [
        ("x@y.example", "inside"),
        ("p@q.example", "inside"),
        ("r@s.example", "lab"),
    ]
    assert mail.id == "Q"
    assert message("Subject: x\nA: b\n\nbody").content.read() == b"Subject: x\r\nA: b\r\n\r\nbody\r\n"
    assert message(b"raw\n").content.read() == b"raw\n"
    assert message().values("subject") == ["Hello"]


def test_services_follow_the_clock_that_is_given() -> None:
    clock = Clock()
    given = services(clock=clock, hostname="other.example")
    assert given.clock is clock
    assert given.hostname == "other.example"
    assert wait_for(given.counters.hit("key", 10.0)) == 1
    clock.advance(60)
    assert wait_for(given.counters.hit("key", 10.0)) == 1
    assert given.local_domains("example.org")
    assert not given.local_domains("example.com")
    assert not given.state_dir.exists()


# -- the spool


def envelope(
    queue_id: str = "Q1", recipients: int = 1, received: float = 0.0, quarantine: str = "", **more: Any
) -> Envelope:
    return Envelope(
        queue_id=queue_id,
        sender=Address("Ann", "client.test"),
        recipients=tuple(
            EnvelopeRecipient(
                number, Address(f"User{number}", f"d{number}.test"), "route", quarantine if number else ""
            )
            for number in range(recipients)
        ),
        received=received,
        size=5,
        **more,
    )


class Spool:
    """A spool with its clock."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000.0)
        self.spool = MemorySpool(self.clock)

    def accept(self, *args: Any, **more: Any) -> Lease:
        accepted = self.spool.accept(envelope(*args, **more), Content(b"hello"), self.clock.seconds() + 60)
        return wait_for(accepted)

    def lease(self) -> list[Lease]:
        return list(wait_for(self.spool.lease(100, self.clock.seconds() + 60)))

    def record(self, lease: Lease, kind: OutcomeKind, next_attempt: float = 0.0, **more: Any) -> None:
        reply = LATER if kind is OutcomeKind.DEFERRED else OK
        outcomes = [Outcome(one, kind, reply, "mx", next_attempt) for one in lease.recipients]
        wait_for(self.spool.record(lease, outcomes, **more))

    def view(self, **selector: Any) -> list[tuple[str, int, str, int]]:
        found = wait_for(self.spool.view(Selector(**selector), 100))
        return [(one.queue_id, one.number, one.state, one.attempts) for one in found]


def test_a_message_lives_until_its_last_recipient_is_done() -> None:
    bench = Spool()
    verifyObject(ISpool, bench.spool)
    lease = bench.accept(recipients=2)
    assert lease.recipients == lease.envelope.recipients
    assert bench.view() == [("Q1", 0, "leased", 0), ("Q1", 1, "leased", 0)]
    assert bench.lease() == []
    first, second = lease.recipients
    outcomes = [
        Outcome(first, OutcomeKind.DEFERRED, LATER, "mx", 1500.0),
        Outcome(second, OutcomeKind.DELIVERED, OK),
    ]
    wait_for(bench.spool.record(lease, outcomes))
    assert bench.view() == [("Q1", 0, "queued", 1)]
    (view,) = wait_for(bench.spool.view(Selector(), 10))
    assert (view.last_reply, view.recipient, view.next_attempt) == ("mx: 451 4.3.0 later", "user0@d0.test", 1500.0)
    assert bench.lease() == []
    assert wait_for(bench.spool.next_due()) == 1500.0
    assert wait_for(bench.spool.retry(Selector(domain="D0.test"))) == 1
    (again,) = bench.lease()
    assert dict(again.attempts) == {0: 1}
    assert again.content.read() == b"hello"
    bench.record(again, OutcomeKind.FAILED, reports=[(envelope("R1"), Content(b"report"))])
    assert bench.view() == [("R1", 0, "queued", 0)]
    assert wait_for(bench.spool.content("Q1")) is None


def test_a_message_for_later_is_due_then_and_no_sooner() -> None:
    bench = Spool()
    lease = bench.accept(received=1000.0, parameters=MailParameters(release_at=1500.0))
    assert lease.recipients == ()
    assert bench.view() == [("Q1", 0, "queued", 0)]
    assert wait_for(bench.spool.next_due()) == 1500.0
    wait_for(bench.spool.retry(Selector()))
    wait_for(bench.spool.hold(Selector()))
    wait_for(bench.spool.release(Selector()))
    bench.clock.advance(499.0)
    assert bench.lease() == []
    bench.clock.advance(1.0)
    (lease,) = bench.lease()
    assert len(lease.recipients) == 1
    assert len(bench.accept("Q2", received=1000.0, parameters=MailParameters(release_at=900.0)).recipients) == 1


def test_that_the_sender_was_told_is_remembered() -> None:
    bench = Spool()
    lease = bench.accept(recipients=2)
    first, second = (Outcome(one, OutcomeKind.DEFERRED, LATER) for one in lease.recipients)
    wait_for(bench.spool.record(lease, [first, replace(second, warned=True)]))
    (lease,) = bench.lease()
    assert lease.warned == {1}
    bench.record(lease, OutcomeKind.DEFERRED)
    assert [one.warned for one in bench.lease()] == [{1}]


def test_leases_end_by_time_by_hand_and_by_a_sweep() -> None:
    bench = Spool()
    lease = bench.accept()
    bench.clock.advance(60)
    (second,) = bench.lease()
    wait_for(bench.spool.release_leases([Return(second)]))
    (third,) = bench.lease()
    assert third.recipients == lease.recipients
    assert wait_for(bench.spool.sweep()).leftovers == 0
    assert len(bench.lease()) == 1
    bench.record(third, OutcomeKind.DELIVERED)
    assert wait_for(bench.spool.next_due()) is None


def test_the_operator_holds_releases_and_deletes() -> None:
    bench = Spool()
    first, second = bench.accept("Q1"), bench.accept("Q2", received=900.0)
    wait_for(bench.spool.release_leases([Return(first)]))
    assert wait_for(bench.spool.hold(Selector())) == 1
    # What is leased is held once its attempt has ended.
    bench.record(second, OutcomeKind.DEFERRED)
    assert [one[2] for one in bench.view()] == ["held", "held"]
    assert bench.lease() == []
    assert wait_for(bench.spool.release(Selector(older_than=500.0))) == 1
    (lease,) = bench.lease()
    assert lease.envelope.queue_id == "Q1"
    deleted = wait_for(bench.spool.delete(Selector(sender="ANN@client.test")))
    assert [one.queue_id for one in deleted] == ["Q2"]
    assert bench.view() == [("Q1", 0, "leased", 0)]
    assert bench.view(route="other") == bench.view(state="held") == []


def test_quarantined_recipients_are_not_leased() -> None:
    bench = Spool()
    lease = bench.accept(recipients=2, quarantine="a virus")
    assert [one.number for one in lease.recipients] == [0]
    bench.record(lease, OutcomeKind.DELIVERED)
    assert bench.view() == [("Q1", 1, "quarantined", 0)]
    assert wait_for(bench.spool.release(Selector(state="quarantined"))) == 1
    assert [one.recipients[0].number for one in bench.lease()] == [1]


def test_pages_of_the_queue() -> None:
    bench = Spool()
    for name in "ABC":
        bench.accept(name, 3)
    seen: list[tuple[str, int]] = []
    while page := wait_for(bench.spool.view(Selector(), 4, seen[-1] if seen else None)):
        seen += [(one.queue_id, one.number) for one in page]
    assert seen == [(name, number) for name in "ABC" for number in range(3)]


def test_content_from_a_file_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "content"
    path.write_bytes(b"in a file")
    lease = wait_for(MemorySpool(Clock()).accept(envelope(), Content.in_file(path), 60.0))
    assert lease.content.read() == b"in a file"
    assert not path.exists()


def test_a_spool_that_fails_fails_with_its_own_error(tmp_path: Path) -> None:
    bench = Spool()
    lease = bench.accept()
    path = tmp_path / "content"
    path.write_bytes(b"in a file")
    for end in ("error", "closed"):
        if end == "error":
            bench.spool.error = "the disk is full"
        else:
            bench.spool.error = ""
            wait_for(bench.spool.close())
        calls: list[Deferred[Any]] = [
            bench.spool.accept(envelope("Q2"), Content.in_file(path) if path.exists() else Content(b""), 60.0),
            bench.spool.lease(1, 60.0),
            bench.spool.record(lease, []),
            bench.spool.release_leases([Return(lease)]),
            bench.spool.next_due(),
            bench.spool.view(Selector(), 1),
            bench.spool.content("Q1"),
            bench.spool.hold(Selector()),
            bench.spool.release(Selector()),
            bench.spool.retry(Selector()),
            bench.spool.delete(Selector()),
            bench.spool.sweep(),
        ]
        for call in calls:
            with pytest.raises(SpoolError, match=r"full|closed"):
                wait_for(call)
        assert not path.exists()


# -- the contract


class Greetings(Section):
    """Options of the filters here."""

    refuse: str = "friend"


class Base:
    """A filter whose `on_helo` a test defines."""

    def __init__(self, options: Greetings, services: FilterServices) -> None:
        self.options, self.services = options, services
        self.calls = 0


async def look_up(services: FilterServices, name: str) -> Answer:
    answer = services.resolver.resolve(name, "A")
    return await answer if isinstance(answer, Awaitable) else answer


@implementer(IHeloFilter)
class Good(Base):
    async def on_helo(self, session: Session) -> Reject | None:
        await look_up(self.services, session.helo)
        session.evidence.add(session.helo)
        return Reject(NO, f"says {session.helo}") if session.helo == self.options.refuse else None


class Silly(Base):
    """Provides nothing."""


@implementer(IHeloFilter)
class Incomplete(Base):  # type: ignore[misc]  # that is what is wrong with it
    """Provides a stage whose method it has not."""


@implementer(IHeloFilter)
class Talkative(Base):
    def on_helo(self, session: Session) -> str:  # type: ignore[override]  # that is what is wrong with it
        return "hello"


@implementer(IHeloFilter)
class Slow(Base):
    def on_helo(self, session: Session) -> Deferred[None]:
        return deferLater(self.services.clock, 11.0, lambda: None)


@implementer(IHeloFilter)
class Stubborn(Base):
    async def on_helo(self, session: Session) -> None:
        try:
            await look_up(self.services, "a")
        except Exception:
            await look_up(self.services, "b")


@implementer(IHeloFilter)
class LeavesTimer(Base):
    async def on_helo(self, session: Session) -> None:
        self.services.clock.callLater(5.0, lambda: None)
        await look_up(self.services, "a")


@implementer(IHeloFilter)
class LeavesError(Base):
    async def on_helo(self, session: Session) -> None:
        fail(ValueError("nobody looks at it"))
        await look_up(self.services, "a")


@implementer(IMailFilter)
class Meddler(Base):
    def on_mail(self, session: Session, transaction: Transaction) -> None:
        transaction.sender = NULL_PATH
        transaction.recipients[0].route = "mine"


@implementer(IHeloFilter)
class Gossip(Base):
    def on_helo(self, session: Session) -> Reject:
        return Reject(Reply.of(550, "5.7.1", "No: on the list of bad people"), "on the list of bad people")


@implementer(IMessageFilter)
class GossipAboutSome(Base):
    def on_message(self, session: Session, transaction: Transaction, message: Message) -> list[Verdict]:
        return [Continue(), Reject(Reply.of(550, "5.7.1", "No: a bad day"), "a bad day")]


@implementer(IHeloFilter)
class Moody(Base):
    def on_helo(self, session: Session) -> Reject | None:
        self.calls += 1
        return Reject(NO, "a bad day") if self.calls % 2 else None


@implementer(IEventObserver)
class Watcher(Base):
    def observe(self, event: object) -> None:
        """Only watches."""


@implementer(IFilterFactory)
class Factory:
    name, summary, options = "x", "for tests", Greetings

    def __init__(self, build: Callable[[Any, FilterServices], object]) -> None:
        self._build = build

    def build(self, options: object, services: FilterServices) -> object:
        return self._build(options, services)


def failures_of(build: Callable[[Any, FilterServices], object], **more: Any) -> dict[str, str]:
    """Which tests of the contract fail for the filter, and how."""

    class Case(FilterContract, SynchronousTestCase):
        factory = Factory(build)

        def occasions(self) -> Iterable[Occasion]:
            return [Occasion(), Occasion(session=session(helo="friend"))]

    for name, value in more.items():
        setattr(Case, name, value)
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(Case).run(result)
    assert result.testsRun == 7
    failures: dict[str, str] = {}
    for test, text in result.failures + result.errors:
        name, said = test.id().rpartition(".")[2], text.strip().splitlines()[-1]
        failures[name] = f"{failures[name]}; {said}" if name in failures else said
    return failures


@pytest.mark.parametrize("build", [Good, Watcher])
def test_a_good_filter_passes(build: Callable[[Any, FilterServices], object]) -> None:
    assert failures_of(build) == {}


@pytest.mark.parametrize(
    ("build", "test", "says"),
    [
        (Silly, "test_it_is_built_from_its_options", "provides no stage interface"),
        (Incomplete, "test_it_is_built_from_its_options", "on_helo"),
        (Talkative, "test_its_answers_come_in_time_and_are_understood", "answered 'hello'"),
        (Slow, "test_its_answers_come_in_time_and_are_understood", "no answer within 10 s"),
        (Stubborn, "test_it_can_be_given_up_on", "on_helo goes on although its answer was cancelled"),
        (LeavesTimer, "test_it_can_be_given_up_on", "leaves a timer behind"),
        (LeavesError, "test_it_can_be_given_up_on", "leaves errors: nobody looks at it"),
        (Meddler, "test_it_changes_nothing", "on_mail changes transaction.sender, transaction.recipients"),
        (Gossip, "test_its_reasons_stay_private", "shows the reason 'on the list of bad people'"),
        (GossipAboutSome, "test_its_reasons_stay_private", "shows the reason 'a bad day'"),
        (Moody, "test_the_same_question_has_the_same_answer", "on_helo answers Reject"),
    ],
)
def test_a_filter_that_breaks_the_contract_is_found(
    build: Callable[[Any, FilterServices], object], test: str, says: str
) -> None:
    failures = failures_of(build)
    assert says in failures[test]


def test_options_that_take_anything_are_found() -> None:
    class Loose(Section, extra="ignore"):
        refuse: str = "friend"

    factory = Factory(Good)
    factory.options = Loose  # type: ignore[assignment]
    failures = failures_of(Good, factory=factory)
    assert failures == {"test_it_refuses_unknown_options": "AssertionError: an unknown option is taken"}


def test_who_counts_may_vary() -> None:
    assert failures_of(Moody, varies="it has moods") == {}
    assert failures_of(Slow, deadline=12.0) == {}


class HeadersContractTests(FilterContract, SynchronousTestCase):
    """A filter of ours, in the way that others are meant to use the mixin."""

    factory = headers


class TestPlainClass(FilterContract):
    """Neither unittest nor trial is needed."""

    factory = headers
    settings = {"add": {"X-Seen": "yes"}}  # noqa: RUF012  the mixin's own type is a Mapping
