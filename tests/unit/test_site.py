"""A site: its hosts, its connections, and what happens when nobody is there."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from mailgate.config.schema import LmtpRoute, RetrySection, SmtpRoute
from mailgate.envelope import NO_ORIGIN, PLAIN_MAIL, MailParameters, Origin
from mailgate.events import SiteSlowed
from mailgate.interfaces import DnsStatus, OutcomeKind
from mailgate.relay.attempt import ConnectFailedError, Result, Target
from mailgate.relay.locate import Hosts, Locator
from mailgate.relay.ready.jobs import LEASE_TIME, Job, JobQueue
from mailgate.relay.ready.line import Room
from mailgate.relay.ready.site import Site
from mailgate.relay.ready.tools import SiteTools
from mailgate.relay.replies.limits import Limits, Signal
from mailgate.relay.sources import SYSTEM
from mailgate.reply import Reply
from mailgate.stores.slots import LocalSlots
from mailgate.testing import EventRecorder, MemoryResolver, Silent, wait_for
from tests.unit.relaying import LATER, NO, OK, Connection, NextHop, lease, refuse, results

ONE, TWO = "192.0.2.1", "192.0.2.2"
LOST = Reply.of(451, "4.4.2", "lost")
DEFERRED, DELIVERED, FAILED = OutcomeKind.DEFERRED, OutcomeKind.DELIVERED, OutcomeKind.FAILED


class Bench:
    """A site with the hosts ONE, then TWO."""

    def __init__(self, hosts: Any = (ONE, TWO), *, zone: Any = None, **settings: Any) -> None:
        self.clock = Clock()
        self.room = Room(10_000)
        self.slots = LocalSlots(self.clock)
        self.events = EventRecorder()
        self.signals: dict[Reply, Signal] = {}
        self.limits: dict[str, Any] = {name: settings.pop(name) for name in list(settings) if name in Limits.__slots__}
        self.hop = NextHop()
        self.done: list[Job] = []
        self.empty = 0
        self.route = SmtpRoute(transport="smtp", hosts=list(hosts), **settings)
        self.locator = Locator(MemoryResolver(zone or {}), "gw.example.org", random.Random(1))
        self.site = self._site(self.locator)
        self.held: list[tuple[Deferred[list[Result]], Any]] = []

    def _site(self, locator: Locator) -> Site:
        found = wait_for(self.locator.hosts("out", self.route, "d.test"))
        assert isinstance(found, Hosts)
        tools = SiteTools(
            locator=locator,
            shaping=self,  # type: ignore[arg-type]  # as far as a site asks
            slots=self.slots,
            events=self.events,
            clock=self.clock,
            random=random.Random(1),
        )
        return Site(
            "out",
            found,
            self.route,
            route_name="out",
            limits=replace(Limits(20, 100, RetrySection()), **self.limits),
            connector=self.hop,
            tools=tools,
            owner=self,
        )

    def signal(self, limits: Limits, reply: Reply, stage: str = "") -> Signal | None:
        return self.signals.get(reply)

    def no_room(self, job: Job, queue: JobQueue) -> None:
        raise AssertionError("there is no backlog here")

    def hungry(self, queue: JobQueue) -> None:
        raise AssertionError("there is no backlog here")

    def finished(self, job: Job, retry: RetrySection) -> None:
        self.done.append(job)

    def unbegun(self, job: Job) -> None:
        raise AssertionError("every lease is fresh here")

    def emptied(self, queue: JobQueue) -> None:
        self.empty += 1

    def send(self, *recipients: str, origin: Origin = NO_ORIGIN, parameters: MailParameters = PLAIN_MAIL) -> Job:
        until = self.clock.seconds() + LEASE_TIME
        one = lease(*(recipients or ("bob@d.test",)), until=until, origin=origin, parameters=parameters)
        job = Job(one, one.recipients, "out")
        self.site.add(job)
        return job

    def hold(self) -> None:
        """From now on the next hop answers only when the test says so."""

        def answer(connection: Connection, recipients: Any) -> Deferred[list[Result]]:
            waited: Deferred[list[Result]] = Deferred()
            self.held.append((waited, recipients))
            return waited

        self.hop.answer = answer

    def release(self, reply: Reply = OK) -> None:
        waited, recipients = self.held.pop(0)
        waited.callback(results(recipients, reply))

    def down(self, *addresses: str, reply: Reply = LATER, stage: str = "connect") -> None:
        def connecting(target: Target) -> ConnectFailedError | None:
            if target.address not in addresses:
                return None
            return refuse(target, reply, f"{target.address} is down", stage=stage)

        self.hop.connecting = connecting

    def slow(self) -> list[Deferred[None]]:
        """From now on connections come when the test says so: those that are waited for."""
        waiting: list[Deferred[None]] = []

        def connecting(target: Target) -> Deferred[None]:
            waiting.append(Deferred())
            return waiting[-1]

        self.hop.connecting = connecting
        return waiting

    def rest(self) -> float:
        """Seconds until the site may be tried again."""
        return max(self.site.rests_until - self.clock.seconds(), 0.0)


def outcome(job: Job) -> Result:
    (result,) = job.results
    return result


# -- connections


def test_a_connection_is_used_again() -> None:
    bench = Bench()
    for _ in range(3):
        assert outcome(bench.send()).kind is DELIVERED
    assert bench.hop.targets == [ONE]
    assert bench.hop.connections[0].messages == 3


def test_a_connection_is_closed_after_its_messages() -> None:
    bench = Bench(messages_per_connection=2)
    for _ in range(5):
        bench.send()
    assert [one.messages for one in bench.hop.connections] == [2, 2, 1]
    assert [one.is_closed for one in bench.hop.connections] == [True, True, False]


def test_an_idle_connection_is_closed_in_time() -> None:
    bench = Bench(idle_timeout="10s")
    bench.send()
    bench.clock.advance(6)
    bench.send()
    bench.clock.advance(9.9)
    assert len(bench.hop.open) == 1
    assert bench.empty == 0
    bench.clock.advance(0.2)
    assert bench.hop.open == []
    assert bench.empty == 1
    assert bench.clock.getDelayedCalls() == []
    bench.send()
    assert bench.hop.targets == [ONE, ONE]


def test_mail_that_requires_tls_does_without_what_has_failed_before() -> None:
    bench = Bench([ONE])
    bench.send()
    first = bench.hop.connections[0]
    first.is_fallback = True
    bench.send()
    assert first.messages == 2
    bench.send(parameters=MailParameters(require_tls=True))
    assert first.is_closed
    assert bench.hop.tls_tried == [False, True]
    assert [connection.messages for connection in bench.hop.connections] == [2, 1]


def test_no_idle_time_means_no_idle_connections() -> None:
    bench = Bench(idle_timeout="0s")
    bench.send()
    bench.clock.advance(0)
    assert bench.hop.open == []


def test_each_idle_connection_has_its_own_time() -> None:
    bench = Bench(idle_timeout="10s")
    bench.hold()
    bench.send()
    bench.send()
    bench.release()
    bench.clock.advance(5)
    bench.release()
    bench.clock.advance(5.1)
    assert [one.is_closed for one in bench.hop.connections] == [True, False]
    bench.clock.advance(5)
    assert bench.hop.open == []


def test_a_connection_that_died_idle_is_not_used() -> None:
    bench = Bench()
    bench.send()
    bench.hop.connections[0].is_usable = False
    assert outcome(bench.send()).kind is DELIVERED
    assert bench.hop.targets == [ONE, ONE]
    assert bench.hop.connections[0].is_closed


def test_no_more_connections_than_the_limit() -> None:
    bench = Bench(connections=3)
    bench.hold()
    jobs = [bench.send(f"u{number}@d.test") for number in range(10)]
    assert len(bench.hop.connections) == 3
    while bench.held:
        assert len(bench.hop.open) <= 3
        bench.release()
    assert bench.done == jobs
    assert len(bench.hop.connections) == 3


def test_connections_that_are_slow_to_come_count() -> None:
    bench = Bench(connections=2)
    waiting = bench.slow()
    for _ in range(5):
        bench.send()
    assert len(waiting) == 2
    waiting[0].callback(None)
    assert len(bench.done) == 4  # the others take the connection that is there
    waiting[1].callback(None)
    assert len(bench.done) == 5


def test_lmtp_targets_are_told_so() -> None:
    bench = Bench()
    bench.route = LmtpRoute(transport="lmtp", hosts=["unix:/run/lmtp"])  # type: ignore[assignment]
    bench.site = bench._site(bench.locator)
    bench.send()
    assert bench.hop.connections[0].target == Target("/run/lmtp", "/run/lmtp", 0, lmtp=True)


# -- a connection for one message


@pytest.mark.parametrize("setting", ["xclient", "proxy_protocol"])
def test_where_next_hops_are_told_of_clients_each_message_has_its_connection(setting: str) -> None:
    bench = Bench(**{setting: True}, connections=1)
    bench.hold()
    origins = [Origin(address="198.51.100.7"), Origin(address="198.51.100.8"), Origin()]
    for origin in origins:
        bench.send(origin=origin)
    while bench.held:
        assert len(bench.hop.open) == 1
        bench.release()
    assert bench.hop.origins == origins
    assert [one.messages for one in bench.hop.connections] == [1, 1, 1]
    assert bench.hop.open == []
    assert bench.empty == 1


def test_elsewhere_nobody_is_told_of_clients() -> None:
    bench = Bench()
    bench.send(origin=Origin(address="198.51.100.7"))
    bench.send(origin=Origin(address="198.51.100.8"))
    assert bench.hop.origins == [None]


def test_another_transaction_of_the_message_has_another_connection() -> None:
    bench = Bench(xclient=True)
    origin = Origin(address="198.51.100.7")
    too_many = Reply.of(452, "4.5.3", "too many recipients")
    bench.hop.answer = lambda connection, recipients: [
        *results(recipients[:1]),
        *results(recipients[1:], too_many, again=True),
    ]
    job = bench.send("a@d.test", "b@d.test", origin=origin)
    assert [one.kind for one in job.results] == [DELIVERED, DELIVERED]
    assert bench.hop.origins == [origin, origin]
    assert bench.hop.open == []


@pytest.mark.parametrize(
    ("stage", "is_ours", "rests"),
    [
        ("greeting", False, False),
        ("hello", False, False),
        ("xclient", False, False),
        ("xclient", True, True),
        ("auth", False, True),
        ("tls", True, True),
        ("connect", True, True),
    ],
)
def test_one_client_who_is_not_welcome_keeps_nobody_else_away(stage: str, is_ours: bool, rests: bool) -> None:
    bench = Bench(proxy_protocol=True)
    bench.hop.connecting = lambda target: ConnectFailedError(target, NO, "no", stage=stage, is_ours=is_ours)
    job = bench.send(origin=Origin(address="198.51.100.7"))
    assert outcome(job).kind is DEFERRED
    assert bench.hop.targets == [ONE, TWO]
    assert (bench.rest() > 0) is rests


@pytest.mark.parametrize(
    ("reply", "stage", "is_known", "slows"),
    [
        (Reply.of(450, "4.7.1", "too much mail from 198.51.100.7"), "", True, False),
        (Reply(421, "", ("too many connections from you",)), "greeting", True, False),
        (Reply.of(450, "4.7.1", "too much mail from 192.0.2.25"), "", False, True),
        (Reply.of(452, "4.3.1", "insufficient system resources"), "", True, True),
        (Reply.of(421, "4.7.0", "too many attempts to log in"), "auth", True, True),
    ],
)
def test_one_client_that_is_too_fast_slows_nobody_else(reply: Reply, stage: str, is_known: bool, slows: bool) -> None:
    bench = Bench(xclient=True)
    bench.signals[reply] = Signal(60.0, 600.0, "too fast")
    if stage:
        bench.down(ONE, TWO, reply=reply, stage=stage)
    else:
        bench.hop.answer = lambda connection, recipients: results(recipients, reply)
    bench.send(origin=Origin(address="198.51.100.7") if is_known else NO_ORIGIN)
    assert bool(bench.site.slowed) is slows


# -- TLS and login


def test_results_tell_how_the_mail_travelled() -> None:
    bench = Bench()
    assert outcome(bench.send()).tls == ""
    bench = Bench()
    bench.hop.security = "TLSv1.3 TLS_AES_256_GCM_SHA384 verified"
    assert outcome(bench.send()).tls == bench.hop.security
    assert outcome(bench.send()).tls == bench.hop.security  # over the connection that is there


def test_a_login_that_is_refused_is_no_bounce_and_is_not_tried_all_the_time() -> None:
    bench = Bench()
    bench.down(ONE, TWO, reply=Reply.of(535, "5.7.8", "wrong password"), stage="auth")
    for _ in range(5):
        job = bench.send()
        assert (outcome(job).kind, outcome(job).reply.code) == (DEFERRED, 451)
        assert "535 5.7.8 wrong password" in outcome(job).reply.text
        assert outcome(job).host == f"{TWO}[{TWO}]:25"
    assert bench.hop.targets == [ONE, TWO]


def test_what_we_found_ourselves_is_not_said_to_be_the_hosts_answer() -> None:
    bench = Bench()
    replies = {one: Reply.of(451, "4.7.5", f"no TLS with {one}[{one}]:25: no STARTTLS") for one in (ONE, TWO)}
    bench.hop.connecting = lambda target: ConnectFailedError(
        target, replies[target.address], replies[target.address].text, stage="tls", is_ours=True
    )
    one = outcome(bench.send())
    assert (one.reply, one.host) == (replies[TWO], "")
    assert one.reason == f"{replies[ONE].text}; {replies[TWO].text}"


# -- hosts


def test_the_next_host_is_asked_where_one_cannot_be_reached() -> None:
    bench = Bench()
    bench.down(ONE)
    assert outcome(bench.send()).kind is DELIVERED
    assert bench.hop.targets == [ONE, TWO]
    assert bench.rest() == 0


def test_the_next_host_is_asked_where_one_breaks_off() -> None:
    bench = Bench()

    def answer(connection: Connection, recipients: Any) -> list[Result]:
        if connection.target.address == ONE:
            connection.is_usable = False
            return results(recipients, LOST, next_host=True)
        return results(recipients)

    bench.hop.answer = answer
    assert outcome(bench.send()).kind is DELIVERED
    assert bench.hop.targets == [ONE, TWO]


def test_a_refusal_of_the_mail_is_final_for_the_attempt() -> None:
    for reply in (LATER, NO):
        bench = Bench()
        bench.hop.answer = lambda connection, recipients, reply=reply: results(recipients, reply)  # type: ignore[misc]
        assert outcome(bench.send()).reply == reply
        assert bench.hop.targets == [ONE]


def test_the_fate_of_content_that_is_unknown_is_not_tried_elsewhere() -> None:
    """After the end of data only the next attempt may send it again."""
    bench = Bench()

    def answer(connection: Connection, recipients: Any) -> list[Result]:
        connection.is_usable = False
        return results(recipients, LOST, next_host=False)

    bench.hop.answer = answer
    assert outcome(bench.send()).kind is DEFERRED
    assert bench.hop.targets == [ONE]


def test_only_those_without_an_answer_are_asked_for_again() -> None:
    bench = Bench()

    def answer(connection: Connection, recipients: Any) -> list[Result]:
        if connection.target.address == TWO:
            return results(recipients)
        first, second, third = recipients
        connection.is_usable = False
        return [*results([first]), *results([second], NO), *results([third], LOST, next_host=True)]

    bench.hop.answer = answer
    job = bench.send("a@d.test", "b@d.test", "c@d.test")
    assert {str(one.recipient.address): one.kind for one in job.results} == {
        "a@d.test": DELIVERED,
        "b@d.test": FAILED,
        "c@d.test": DELIVERED,
    }
    assert bench.hop.taken == ["a@d.test", "b@d.test", "c@d.test", "c@d.test"]


def test_what_the_last_host_says_counts() -> None:
    bench = Bench()
    bench.hop.answer = lambda connection, recipients: results(recipients, LOST, next_host=True)
    bench.hop.connecting = lambda target: None
    job = bench.send()
    assert (outcome(job).kind, outcome(job).reply) == (DEFERRED, LOST)
    assert bench.hop.targets == [ONE, TWO]
    assert bench.rest() == 0


def test_a_broken_host_and_an_unreachable_one_tell_of_the_broken_one() -> None:
    bench = Bench()
    bench.hop.answer = lambda connection, recipients: results(recipients, LOST, next_host=True)
    bench.down(TWO)
    assert outcome(bench.send()).reply == LOST
    # Somebody is there: others may still be served.
    assert bench.rest() == 0


def test_every_address_that_was_tried_is_named_with_its_failure() -> None:
    bench = Bench()
    no_tls = Reply.of(451, "4.7.5", "no TLS: certificate verify failed")

    def connecting(target: Target) -> ConnectFailedError:
        if target.address == ONE:
            return ConnectFailedError(target, no_tls, "no TLS: certificate verify failed", stage="tls", is_ours=True)
        return refuse(target, LATER, "cannot connect: refused")

    bench.hop.connecting = connecting
    one = outcome(bench.send())
    # The host that is down does not hide what is wrong with the one that is there.
    assert (one.reply, one.host) == (no_tls, "")
    assert one.reason == (
        f"{ONE}[{ONE}]:25: no TLS: certificate verify failed; {TWO}[{TWO}]:25: cannot connect: refused"
    )
    # Who comes while the site rests is told the same.
    again = outcome(bench.send())
    assert (again.reply, again.reason) == (one.reply, one.reason)
    assert bench.hop.targets == [ONE, TWO]


def test_a_refused_login_tells_more_than_a_busy_greeting() -> None:
    bench = Bench()
    answers = {
        ONE: (Reply.of(454, "4.7.8", "bad login"), "auth"),
        TWO: (Reply.of(421, "4.4.2", "too slow"), "greeting"),
    }
    bench.hop.connecting = lambda target: refuse(
        target, answers[target.address][0], "no", stage=answers[target.address][1]
    )
    one = outcome(bench.send())
    assert (one.reply.text, one.host) == ("bad login", f"{ONE}[{ONE}]:25")


def test_many_hosts_that_fail_are_told_in_a_line_that_ends() -> None:
    addresses = [f"192.0.2.{number}" for number in range(1, 31)]
    bench = Bench(addresses)
    bench.hop.connecting = lambda target: refuse(target, LATER, "x" * 2000)
    reason = outcome(bench.send()).reason
    assert reason.endswith("; 2 more hosts failed")  # ten are asked
    assert len(reason) < 3000


def test_a_host_that_broke_off_does_not_hide_one_that_is_down() -> None:
    bench = Bench()
    bench.hop.answer = lambda connection, recipients: results(recipients, LOST, next_host=True)
    bench.down(TWO)
    assert outcome(bench.send()).reason == f"mx: {LOST}; {TWO}[{TWO}]:25: {TWO} is down"


def test_a_dead_reused_connection_costs_no_attempt() -> None:
    bench = Bench()
    bench.send()

    def answer(connection: Connection, recipients: Any) -> list[Result]:
        if connection.messages > 1:
            connection.is_usable = False
            return results(recipients, LOST, next_host=True, again=True)
        return results(recipients)

    bench.hop.answer = answer
    assert outcome(bench.send()).kind is DELIVERED
    assert bench.hop.targets == [ONE, ONE]


@pytest.mark.parametrize("limit", [1, 7, 30])
def test_a_host_with_few_recipients_at_a_time_is_asked_until_all_are_served(limit: int) -> None:
    bench = Bench()
    too_many = Reply.of(452, "4.5.3", "too many recipients")

    def answer(connection: Connection, recipients: Any) -> list[Result]:
        return [*results(recipients[:limit]), *results(recipients[limit:], too_many, again=True)]

    bench.hop.answer = answer
    job = bench.send(*(f"u{number}@d.test" for number in range(100)))
    assert [one.kind for one in job.results] == 100 * [DELIVERED]
    assert sorted(one.recipient.number for one in job.results) == list(range(100))
    # All over one connection: a second one would be over the site's limit.
    assert bench.hop.targets == [ONE]


def test_a_host_that_always_asks_for_another_transaction_is_given_up() -> None:
    bench = Bench(connections=2)
    never = Reply.of(452, "4.5.3", "too many recipients")
    bench.hop.answer = lambda connection, recipients: results(recipients, never, again=True)
    job = bench.send("a@d.test", "b@d.test")
    assert {(one.kind, one.reply) for one in job.results} == {(DEFERRED, never)}
    assert len(bench.hop.asked) <= 2 * 4


def test_no_address_defers_or_fails_as_dns_says() -> None:
    bench = Bench(hosts=["gone.test"])
    job = bench.send()
    assert (outcome(job).kind, outcome(job).reply.status) == (DEFERRED, "4.4.4")
    bench = Bench(hosts=["gone.test"], zone={("gone.test", "A"): DnsStatus.SERVFAIL})
    assert outcome(bench.send()).kind is DEFERRED
    bench = Bench(hosts=[], zone={("d.test", "TXT"): [b"no MX, no address"]})
    assert outcome(bench.send()).kind is FAILED


# -- nobody there


def test_a_site_that_cannot_be_reached_is_left_alone_for_a_while() -> None:
    bench = Bench()
    bench.down(ONE, TWO, reply=Reply.of(554, "", "go away"), stage="greeting")
    first = bench.send()
    assert (outcome(first).kind, outcome(first).reply.code) == (DEFERRED, 451)
    assert "go away" in outcome(first).reply.text
    assert outcome(first).host == f"{TWO}[{TWO}]:25"
    assert bench.hop.targets == [ONE, TWO]
    second = bench.send()
    assert (outcome(second).reply, outcome(second).host) == (outcome(first).reply, outcome(first).host)
    assert bench.hop.targets == [ONE, TWO]
    assert 10 < bench.rest() < 20
    bench.clock.advance(bench.rest() + 0.1)
    bench.down()
    assert outcome(bench.send()).kind is DELIVERED
    bench.down(ONE, TWO)
    assert outcome(bench.send()).kind is DELIVERED  # over the connection that is there


def test_where_nobody_was_reached_no_host_is_said_to_have_answered() -> None:
    bench = Bench()
    bench.down(ONE, TWO)
    for job in (bench.send(), bench.send()):  # asked, and left alone
        assert (outcome(job).reply, outcome(job).host) == (LATER, "")
        assert outcome(job).reason == f"{ONE}[{ONE}]:25: {ONE} is down; {TWO}[{TWO}]:25: {TWO} is down"


def test_the_rests_grow_while_nobody_gets_through() -> None:
    bench = Bench()
    bench.down(ONE, TWO)
    rests = []
    for _ in range(9):
        bench.send()
        rests.append(bench.rest())
        bench.clock.advance(bench.rest() + 1)
    assert rests[:5] == sorted(rests[:5])
    assert rests[0] < 20
    assert all(500 < rest <= 600 for rest in rests[6:])
    bench.down()
    bench.send()
    bench.hop.connections[0].is_usable = False
    bench.down(ONE, TWO)
    bench.send()
    assert bench.rest() < 20


def test_jobs_that_wait_when_the_site_fails_are_deferred_with_it() -> None:
    bench = Bench(connections=1)
    waiting: Deferred[None] = Deferred()
    bench.hop.connecting = lambda target: waiting
    jobs = [bench.send() for _ in range(5)]
    bench.down(ONE, TWO)
    waiting.errback(refuse(Target(ONE, ONE, 25)))
    assert bench.done == jobs
    assert {outcome(job).kind for job in jobs} == {DEFERRED}
    assert bench.hop.targets == [ONE, TWO]


def test_failures_at_the_same_time_are_one() -> None:
    bench = Bench(connections=5)
    waiting = bench.slow()
    for _ in range(5):
        bench.send()
    while waiting:
        waiting.pop(0).errback(refuse(Target(ONE, ONE, 25)))
    assert len(bench.done) == 5
    assert bench.rest() < 20


def test_a_site_is_remembered_until_its_trouble_is_over() -> None:
    bench = Bench()
    bench.down(ONE, TWO)
    bench.send()
    rest = bench.rest()
    assert bench.empty == 0
    bench.clock.advance(rest)
    assert bench.empty == 0
    bench.clock.advance(rest)
    assert bench.empty == 1


def test_an_operator_can_have_it_tried_now() -> None:
    bench = Bench()
    bench.down(ONE, TWO)
    bench.send()
    bench.down()
    bench.site.retry_now()
    assert bench.empty == 1
    assert outcome(bench.send()).kind is DELIVERED


# -- the end


def test_a_retired_site_delivers_what_it_has_and_keeps_nothing() -> None:
    bench = Bench(connections=1)
    bench.send()
    bench.hold()
    jobs = [bench.send(), bench.send()]
    bench.site.retire()
    bench.release()
    bench.release()
    assert bench.done[1:] == jobs
    assert bench.hop.targets == [ONE]
    assert bench.hop.open == []
    assert bench.empty == 1


def test_retiring_closes_what_is_idle() -> None:
    bench = Bench()
    bench.send()
    bench.site.retire()
    assert bench.hop.open == []
    assert bench.empty == 1


def test_stopping_gives_back_what_waits_and_closes_what_is_idle() -> None:
    bench = Bench(connections=2)
    bench.send()
    bench.hold()
    running, other, waiting = bench.send(), bench.send(), bench.send()
    bench.release()
    assert bench.done[-1] is running
    assert bench.site.stop() == []
    bench.release()
    bench.release()
    assert bench.done[-2:] == [other, waiting]
    assert bench.hop.open == []
    bench = Bench(connections=1)
    bench.hold()
    running, waiting = bench.send(), bench.send()
    assert bench.site.stop() == [waiting]
    assert bench.done == []
    bench.release()
    assert bench.done == [running]
    assert bench.hop.open == []


def test_cancelling_defers_each_recipient_once() -> None:
    bench = Bench(connections=2)

    def answer(connection: Connection, recipients: Any) -> Any:
        if connection.target.address == TWO:
            return Deferred()
        return [*results(recipients[:1]), *results(recipients[1:], LOST, next_host=True)]

    bench.hop.answer = answer
    job = bench.send("a@d.test", "b@d.test")
    bench.site.stop()
    bench.site.cancel()
    assert bench.done == [job]
    assert [(one.recipient.number, one.kind) for one in job.results] == [(0, DELIVERED), (1, DEFERRED)]


def test_cancelling_takes_back_what_is_asked_of_dns() -> None:
    bench = Bench(hosts=["slow.test"])
    silent = Silent()
    bench.site = bench._site(Locator(silent, "gw.example.org", random.Random(1)))
    job = bench.send()
    assert silent.open == 1
    bench.site.stop()
    bench.site.cancel()
    assert silent.open == 0
    assert bench.done == [job]
    assert outcome(job).kind is DEFERRED


# -- What one host does not offer, and another may


@pytest.mark.parametrize(
    ("first", "second", "kind", "targets"),
    [
        ((NO, True), (OK, False), DELIVERED, [ONE, TWO]),
        ((NO, True), (NO, True), FAILED, [ONE, TWO]),
        ((NO, True), (LATER, True), DEFERRED, [ONE, TWO]),
        ((LATER, True), (NO, True), DEFERRED, [ONE, TWO]),
        ((NO, False), (OK, False), FAILED, [ONE]),
        ((NO, True), None, DEFERRED, [ONE, TWO]),
        (None, (NO, True), DEFERRED, [ONE, TWO]),
        (None, (OK, False), DELIVERED, [ONE, TWO]),
    ],
)
def test_a_failure_that_another_host_may_better_counts_when_all_have_been_asked(
    first: tuple[Reply, bool] | None, second: tuple[Reply, bool] | None, kind: OutcomeKind, targets: list[str]
) -> None:
    bench = Bench()
    answers = {ONE: first, TWO: second}
    bench.down(*(address for address, answer in answers.items() if answer is None))

    def answer(connection: Connection, recipients: Any) -> list[Result]:
        said = answers[connection.target.address]
        assert said is not None
        return results(recipients, said[0], next_host=said[1])

    bench.hop.answer = answer
    assert outcome(bench.send()).kind is kind
    assert bench.hop.targets == targets


# -- how much it bears


def host_with(bench: Bench, most: int) -> None:
    """From now on the hosts have so many sessions at one time; more are greeted with 421."""
    busy = Reply.of(421, "4.3.2", "too many connections")
    bench.hop.connecting = lambda target: (
        refuse(target, busy, "too many", stage="greeting") if len(bench.hop.open) >= most else None
    )


def test_it_begins_with_few_connections_and_opens_more_as_they_are_of_use() -> None:
    bench = Bench(connections=20)
    bench.hold()
    jobs = [bench.send(f"u{number}@d.test") for number in range(300)]
    assert len(bench.hop.open) == 5
    while bench.held:
        bench.release()
    assert len(bench.done) == len(jobs)
    assert len(bench.hop.connections) == 20


@pytest.mark.parametrize("most", [1, 3])
def test_a_host_that_takes_few_connections_loses_nobody_an_attempt(most: int) -> None:
    bench = Bench([ONE], connections=20)
    host_with(bench, most)
    bench.hold()
    for number in range(200):
        bench.send(f"u{number}@d.test")
    while bench.held:
        assert len(bench.hop.open) <= most
        bench.release()
        bench.clock.advance(1.0)
    assert [outcome(job).kind for job in bench.done] == 200 * [DELIVERED]
    refused = len(bench.hop.targets) - len(bench.hop.connections)
    assert 1 <= refused < 25


def test_a_message_that_finds_no_connection_again_and_again_is_deferred_and_the_site_goes_on() -> None:
    bench = Bench([ONE], connections=2)
    host_with(bench, 1)
    bench.hold()
    bench.send("a@d.test")
    late = bench.send("b@d.test")
    for _ in range(5):
        bench.site.limit = 2  # whoever thinks that there may be another one
        bench.site.pump()
    assert outcome(late).kind is DEFERRED
    assert bench.rest() == 0
    bench.release()
    assert outcome(bench.done[-1]).kind is DELIVERED


def test_who_is_left_alone_is_asked_by_one_connection_first() -> None:
    bench = Bench(connections=20)
    bench.down(ONE, TWO)
    bench.send()
    bench.clock.advance(bench.rest())
    waiting = bench.slow()
    for _ in range(10):
        bench.send()
    assert len(waiting) == 1
    waiting[0].callback(None)
    for one in waiting[1:]:
        one.callback(None)
    assert [outcome(job).kind for job in bench.done[1:]] == 10 * [DELIVERED]


def test_a_dead_site_does_not_give_up_all_that_waits_in_one_turn() -> None:
    bench = Bench(connections=1)
    waiting: Deferred[None] = Deferred()
    bench.hop.connecting = lambda target: waiting
    for number in range(1000):
        one = lease(f"u{number}@d.test", until=LEASE_TIME, sender=f"s{number % 400}@client.test")
        bench.site.add(Job(one, one.recipients, "out"))
    bench.down(ONE, TWO)
    waiting.errback(refuse(Target(ONE, ONE, 25)))
    assert len(bench.done) <= 101
    bench.clock.advance(0)
    assert len(bench.done) == 1000


# -- slots that are shared


def test_every_connection_holds_a_slot_as_long_as_it_is_open() -> None:
    bench = Bench(connections=3, idle_timeout="10s")
    bench.hold()
    for _ in range(5):
        bench.send()
    other = bench.slots.acquire(bench.site.key, 3, lambda: None)
    assert other is not None
    assert not other.called
    other.addErrback(lambda failure: None)
    other.cancel()
    while bench.held:
        bench.release()
    bench.clock.advance(11)
    assert bench.hop.open == []
    assert [bench.slots.acquire(bench.site.key, 3, lambda: None) for _ in range(3)] == 3 * [None]


def test_a_connection_that_cannot_be_had_holds_none() -> None:
    bench = Bench(connections=1)
    bench.down(ONE, TWO)
    bench.send()
    assert bench.slots.acquire(bench.site.key, 1, lambda: None) is None


def test_whoever_has_no_slot_waits_for_one_in_its_place() -> None:
    bench = Bench(connections=1)
    assert bench.slots.acquire(bench.site.key, 1, lambda: None) is None
    jobs = [bench.send(f"u{number}@d.test") for number in range(3)]
    assert bench.hop.targets == []
    assert bench.site.hindrance() == "all connections to it are in use"
    assert not bench.site.is_empty()
    bench.slots.release(bench.site.key)
    assert bench.done == jobs
    assert bench.hop.targets == [ONE]


def test_an_idle_connection_is_closed_for_somebody_who_waits() -> None:
    bench = Bench(connections=2)
    bench.send()
    bench.hold()
    bench.send()
    bench.release()
    assert bench.slots.acquire(bench.site.key, 2, lambda: None) is None
    waiting = bench.slots.acquire(bench.site.key, 2, lambda: None)
    assert waiting is not None
    assert waiting.called
    assert bench.hop.open == []


def test_of_several_connections_one_is_given_up_even_while_there_is_work() -> None:
    bench = Bench(connections=2)
    bench.hold()
    for _ in range(20):
        bench.send()
    waiting = bench.slots.acquire(bench.site.key, 2, lambda: None)
    assert waiting is not None
    bench.release()
    assert waiting.called
    while bench.held:
        assert len(bench.hop.open) == 1  # the other one is somebody else's now
        bench.release()
    assert len(bench.done) == 20


def test_a_stop_waits_for_no_slot() -> None:
    bench = Bench(connections=1)
    assert bench.slots.acquire(bench.site.key, 1, lambda: None) is None
    job = bench.send()
    assert bench.site.stop() == [job]
    bench.slots.release(bench.site.key)
    assert bench.hop.targets == []
    assert bench.slots.acquire(bench.site.key, 1, lambda: None) is None


# -- rates, and "not so fast"


def test_messages_go_at_their_rate() -> None:
    bench = Bench(message_rate=2.0)
    for number in range(20):
        bench.send(f"u{number}@d.test")
    assert len(bench.done) == 2
    for second in range(1, 9):
        for _ in range(10):
            bench.clock.advance(0.1)
        assert 2 + 2 * second - 1 <= len(bench.done) <= 2 + 2 * second
    assert bench.hop.targets == [ONE]


def test_who_wants_another_transaction_gets_it_over_the_connection_that_there_is() -> None:
    bench = Bench([ONE], connections=1)
    bench.send()

    def answer(connection: Connection, recipients: Any) -> list[Result]:
        return results(recipients[:2]) + results(recipients[2:], LATER, again=True)

    bench.hop.answer = answer
    job = bench.send(*(f"u{number}@d.test" for number in range(7)))
    assert [one.kind for one in job.results] == 7 * [DELIVERED]
    assert len(bench.hop.connections) == 1
    assert bench.site.connections == 1


def test_nobody_takes_the_connection_of_one_who_wants_another_transaction_while_dns_is_asked() -> None:
    bench = Bench(connections=2)
    bench.hold()
    bench.send()
    bench.release()
    first, second = bench.send("a@d.test", "b@d.test"), bench.send("c@d.test")
    waited, recipients = bench.held.pop(0)
    waited.callback(results(recipients[:1]) + results(recipients[1:], LATER, again=True))
    third = bench.send("d@d.test")
    while bench.held:
        bench.release()
    assert [one.kind for job in (first, second, third) for one in job.results] == 4 * [DELIVERED]
    assert len(bench.hop.connections) == 2


def test_who_waits_for_the_rate_of_connections_has_not_begun() -> None:
    bench = Bench(connection_rate=0.1)
    bench.hold()
    for _ in range(3):
        bench.send()
    assert bench.site.active == 1
    assert bench.site.line.count == 2
    assert bench.site.connections == 1
    assert bench.site.hindrance() == f"6 connections a minute to {bench.site.title}: in 10 s"
    bench.release()
    assert bench.site.active == 1  # over the connection that there is
    assert len(bench.hop.connections) == 1
    assert len(bench.site.stop()) == 1
    bench.release()
    assert bench.site.active == 0


def test_whoever_has_begun_asks_all_hosts_and_those_behind_wait_the_longer() -> None:
    bench = Bench(connection_rate=0.1)
    bench.down(ONE)
    bench.hold()
    bench.send()
    bench.send()
    assert bench.hop.targets == [ONE, TWO]
    bench.clock.advance(19)
    assert bench.hop.targets == [ONE, TWO]
    bench.clock.advance(1.1)
    assert bench.hop.targets == [ONE, TWO, ONE, TWO]


def test_connections_go_at_their_rate() -> None:
    bench = Bench(connection_rate=1.0)
    bench.hold()
    for _ in range(5):
        bench.send()
    opened = []
    for _ in range(5):
        opened.append(len(bench.hop.connections))
        bench.clock.advance(1.0)
    assert opened == [1, 2, 3, 4, 5]
    bench.site.stop()
    bench.site.cancel()
    assert len(bench.done) == 5


def test_a_site_that_says_not_so_fast_is_asked_less() -> None:
    bench = Bench(connections=4)
    busy = Reply.of(421, "4.7.28", "unusual rate of mail")
    bench.signals[busy] = Signal(0.0, 600.0, "unusual rate")
    bench.clock.advance(1.0)
    bench.hop.answer = lambda connection, recipients: results(recipients, busy)
    assert outcome(bench.send()).kind is DEFERRED
    assert bench.site.limit == 2
    bench.hop.answer = lambda connection, recipients: results(recipients)
    for number in range(60):
        bench.send(f"u{number}@d.test")
    began = len(bench.done)
    assert began < 60
    bench.clock.advance(0.01)
    for _ in range(300):
        bench.clock.advance(0.1)
    assert len(bench.done) == 61
    assert not bench.site.is_empty()  # it is remembered
    bench.clock.advance(600)
    assert bench.site.limit == 4
    assert [(event.site, event.factor) for event in bench.events.of(SiteSlowed)] == [
        (f"{ONE}|{TWO}", 0.5),
        (f"{ONE}|{TWO}", 1.0),
    ]


def test_a_site_that_wants_a_rest_gets_it_and_nobody_loses_an_attempt() -> None:
    bench = Bench([ONE])
    busy = Reply.of(421, "4.7.0", "try again later")
    bench.signals[busy] = Signal(60.0, 600.0, "421")
    bench.clock.advance(1.0)
    bench.down(ONE, reply=busy, stage="greeting")
    bench.hop.connecting = lambda target: ConnectFailedError(target, busy, "421", stage="greeting")
    assert outcome(bench.send()).kind is DEFERRED
    bench.down()
    bench.site.retry_now()
    assert bench.rest() == 0
    bench.hop.answer = lambda connection, recipients: results(recipients, busy)
    bench.clock.advance(1.0)
    bench.send()
    assert bench.rest() == 60
    bench.hop.answer = lambda connection, recipients: results(recipients)
    job = bench.send()
    assert job not in bench.done
    assert bench.site.hindrance() == f"{ONE} rests for 60 s: 421"
    bench.clock.advance(60)
    assert outcome(job).kind is DELIVERED


def test_a_host_that_says_for_how_long_is_left_alone_whatever_the_rules_say() -> None:
    bench = Bench([ONE])
    busy = Reply.of(451, "4.3.2", "HTTP 503")
    bench.signals[busy] = Signal(5.0, 600.0, "a rule")
    bench.clock.advance(1.0)
    bench.hop.answer = lambda connection, recipients: [
        structs.replace(one, rest=120.0) for one in results(recipients, busy)
    ]
    bench.send()
    bench.hop.answer = lambda connection, recipients: results(recipients)
    job = bench.send()
    bench.clock.advance(119)
    assert job not in bench.done
    assert bench.site.hindrance() == f"{ONE} rests for 1 s: its Retry-After"
    bench.clock.advance(1)
    assert outcome(job).kind is DELIVERED


def test_a_site_that_has_rested_is_forgotten_though_nobody_sends() -> None:
    bench = Bench([ONE])
    busy = Reply.of(421, "4.7.0", "try again later")
    bench.signals[busy] = Signal(60.0, 600.0, "421")
    bench.clock.advance(1.0)
    bench.hop.answer = lambda connection, recipients: results(recipients, busy)
    bench.send()
    bench.clock.advance(659.0)
    assert (bench.site.is_empty(), bench.empty) == (False, 0)
    bench.clock.advance(1.0)
    assert (bench.site.is_empty(), bench.empty) == (True, 1)


def test_our_own_findings_say_nothing_about_its_pace() -> None:
    bench = Bench([ONE])
    bench.signals[LATER] = Signal(60.0, 600.0, "whatever")
    bench.clock.advance(1.0)
    bench.down(ONE)
    bench.send()
    assert bench.events.of(SiteSlowed) == []


# -- sources


def test_a_site_is_asked_from_its_source() -> None:
    bench = Bench()
    bench.send()
    assert bench.hop.sources == [SYSTEM]
    assert bench.done[0].source == ""
    assert bench.done[0].site == f"{ONE}|{TWO}"
