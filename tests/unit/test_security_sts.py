"""MTA-STS: how policies are found, kept, and kept up to date."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
from twisted.internet.defer import CancelledError, Deferred, execute, fail
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import capturedLogs
from twisted.python.failure import Failure

from mailgate.relay.security.sts import MtaSts, StsFound
from mailgate.relay.security.sts_fetch import StsFetchError
from mailgate.relay.security.sts_policy import StsPolicy
from mailgate.relay.security.sts_store import Kept, PolicyFile, PolicyStore
from mailgate.testing import MemoryResolver

T = TypeVar("T")

DAY = 86_400.0
POLICY = StsPolicy(mode="enforce", mx=("mx.example.org",), max_age=604_800)
OTHER = StsPolicy(mode="testing", mx=("mx.example.net",), max_age=604_800)


# -- the file


@pytest.fixture
def file(tmp_path: Path) -> Iterator[PolicyFile]:
    one = PolicyFile(tmp_path / "mta-sts.db", limit=3)
    yield one
    one.close()


def kept(domain: str = "example.org", expires: float = 1000.0, fetched: float = 0.0, id: str = "1") -> Kept:  # noqa: A002
    return Kept(domain=domain, id=id, policy=POLICY, fetched=fetched, expires=expires)


def test_a_policy_outlives_the_process_and_ends_in_its_time(file: PolicyFile, tmp_path: Path) -> None:
    file.put(kept(), 0.0)
    again = PolicyFile(tmp_path / "mta-sts.db")
    assert again.get("example.org", 999.0) == kept()
    assert again.get("example.org", 1000.0) is None
    assert again.get("example.net", 0.0) is None
    again.close()
    assert (tmp_path / "mta-sts.db").stat().st_mode & 0o077 == 0


def test_there_are_not_too_many(file: PolicyFile) -> None:
    for number in range(10):
        file.put(kept(f"d{number}.example", 1000.0 + number), 0.0)
    assert [number for number in range(10) if file.get(f"d{number}.example", 1.0)] == [7, 8, 9]
    file.put(kept("new.example", 2000.0), 1008.5)
    assert file.get("d8.example", 1.0) is None  # it was over


def test_those_that_age_are_found_if_anybody_has_asked_for_them(file: PolicyFile) -> None:
    file.put(kept("old.example", 90 * DAY), 0.0)
    file.put(kept("asked.example", 91 * DAY), 0.0)
    file.put(kept("new.example", 92 * DAY, fetched=40 * DAY), 40 * DAY)
    assert file.get("asked.example", 20 * DAY) is not None
    assert file.ageing(40 * DAY, 10 * DAY, 10) == ["asked.example"]
    assert file.ageing(42 * DAY, 10 * DAY, 10) == ["asked.example", "new.example"]
    assert file.ageing(42 * DAY, 10 * DAY, 1) == ["asked.example"]
    assert file.ageing(91 * DAY, 10 * DAY, 10) == ["new.example"]  # what is over is not kept up


def test_what_holds_for_a_short_time_ages_sooner(file: PolicyFile) -> None:
    one = kept("short.example", expires=600.0)
    file.put(one, 0.0)
    for now, is_aged in ((299.0, False), (301.0, True)):
        assert one.is_aged(now) is is_aged
        assert file.ageing(now, -1.0, 10) == (["short.example"] if is_aged else [])


def test_a_damaged_file_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "mta-sts.db"
    path.write_bytes(b"This is no database. " * 100)
    reactor = MemoryReactorClock()
    reactor.callFromThread = _at_once  # type: ignore[attr-defined]  # the threads are awaited below
    store = PolicyStore(path, cast(IReactorFromThreads, reactor))
    for _ in range(2):
        with pytest.raises(sqlite3.DatabaseError):
            awaited(store.run(lambda file: file.get("example.org", 0.0)))
    awaited(store.run(lambda file: file.put(kept(), 0.0)))
    assert awaited(store.run(lambda file: file.get("example.org", 0.0))) == kept()
    assert (tmp_path / "mta-sts.db.unreadable").read_bytes().startswith(b"This is no")
    awaited(Deferred.fromCoroutine(store.close()))


def _at_once(work: Callable[..., object], *arguments: object) -> None:
    work(*arguments)


def awaited(answer: Deferred[T]) -> T:
    """What a thread makes of it."""
    done = threading.Event()
    found: list[Any] = []

    def tell(outcome: object) -> None:
        found.append(outcome)
        done.set()

    answer.addBoth(tell)
    assert done.wait(60)
    if isinstance(found[0], Failure):
        found[0].raiseException()
    return cast(T, found[0])


# -- all together


class Hosts:
    """Policy hosts: what each domain's says, or how it fails; `waiting` holds answers back."""

    def __init__(self) -> None:
        self.policies: dict[str, StsPolicy | StsFetchError] = {"example.org": POLICY}
        self.asked: list[str] = []
        self.waiting: list[Deferred[None]] | None = None

    async def fetch(self, domain: str) -> StsPolicy:
        self.asked.append(domain)
        if self.waiting is not None:
            answer: Deferred[None] = Deferred()
            self.waiting.append(answer)
            await answer
        found = self.policies.get(domain, StsFetchError("no such host"))
        if isinstance(found, StsFetchError):
            raise found
        return found


class Store:
    """The file, at once."""

    def __init__(self, path: Path) -> None:
        self.file = PolicyFile(path)
        self.error: Exception | None = None

    def run(self, work: Callable[[PolicyFile], T]) -> Deferred[T]:
        return fail(self.error) if self.error is not None else execute(work, self.file)


class Bench:
    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.clock.advance(1_000_000.0)
        self.resolver = MemoryResolver({"_mta-sts.example.org": {"TXT": ["v=STSv1; id=1;"]}})
        self.hosts = Hosts()
        self.store = Store(folder / "mta-sts.db")
        self.sts = self.begun()

    def begun(self) -> MtaSts:
        """A process begins."""
        return MtaSts(self.resolver, self.hosts, self.store, self.clock)

    def ask(self, domain: str = "example.org") -> Deferred[StsFound]:
        return Deferred.fromCoroutine(self.sts.find(domain))

    def find(self, domain: str = "example.org") -> StsFound:
        found: list[Any] = []
        self.ask(domain).addBoth(found.append)
        assert isinstance(found[0], StsFound), found
        return found[0]

    def announce(self, text: str) -> None:
        self.resolver.update({"_mta-sts.example.org": {"TXT": [text]}})


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    one = Bench(tmp_path)
    yield one
    one.sts.stop()
    one.store.file.close()
    assert not one.clock.getDelayedCalls()


def test_a_policy_is_fetched_once(bench: Bench) -> None:
    assert bench.find() == bench.find() == StsFound(POLICY)
    assert bench.hosts.asked == ["example.org"]
    bench.sts = bench.begun()
    assert bench.find() == StsFound(POLICY)
    assert bench.hosts.asked == ["example.org"]


def test_whoever_announces_nothing_is_not_asked(bench: Bench) -> None:
    assert bench.find("example.net") == StsFound()
    assert bench.hosts.asked == []


def test_a_new_id_is_a_new_policy(bench: Bench) -> None:
    bench.find()
    bench.hosts.policies["example.org"] = OTHER
    assert bench.find() == StsFound(POLICY)
    bench.announce("v=STSv1; id=2;")
    assert bench.find() == StsFound(OTHER)
    bench.sts = bench.begun()
    assert bench.find() == StsFound(OTHER)


@pytest.mark.parametrize("gone", ["NXDOMAIN", "SERVFAIL", "TIMEOUT", "NODATA"])
def test_nobody_can_hide_a_policy_that_is_known(bench: Bench, gone: str) -> None:
    bench.find()
    bench.resolver.update({"_mta-sts.example.org": gone})
    bench.hosts.policies.clear()
    assert bench.find() == StsFound(POLICY)
    bench.sts = bench.begun()
    assert bench.find() == StsFound(POLICY)
    bench.clock.advance(POLICY.max_age - 1.0)
    assert bench.find() == StsFound(POLICY)
    bench.clock.advance(1.0)
    assert bench.find() == StsFound()


def test_a_fetch_that_fails_leaves_what_is_known_and_tells(bench: Bench) -> None:
    bench.find()
    bench.announce("v=STSv1; id=2;")
    bench.hosts.policies["example.org"] = StsFetchError("a certificate of another", "sts-webpki-invalid")
    expected = StsFound(POLICY, "sts-webpki-invalid", "a certificate of another")
    assert bench.find() == bench.find() == expected
    assert len(bench.hosts.asked) == 2
    bench.clock.advance(601.0)
    bench.hosts.policies["example.org"] = OTHER
    assert bench.find() == StsFound(OTHER)


def test_a_fetch_that_fails_is_not_tried_for_every_message(bench: Bench) -> None:
    bench.hosts.policies.clear()
    for _ in range(3):
        assert bench.find() == StsFound(None, "sts-policy-fetch-error", "no such host")
    assert len(bench.hosts.asked) == 1
    bench.clock.advance(601.0)
    bench.find()
    assert len(bench.hosts.asked) == 2


def test_all_who_ask_wait_for_one_answer(bench: Bench) -> None:
    bench.hosts.waiting = []
    found: list[Any] = []
    first, *others = [bench.ask() for _ in range(4)]
    for one in others:
        one.addBoth(found.append)
    first.addErrback(lambda failure: None)
    first.cancel()
    assert len(bench.hosts.waiting) == 1
    bench.hosts.waiting[0].callback(None)
    assert found == [StsFound(POLICY)] * 3


def test_a_policy_that_ages_is_fetched_anew_while_nobody_waits(bench: Bench) -> None:
    bench.find()
    bench.clock.advance(DAY + 1.0)
    bench.hosts.waiting = []
    assert bench.find() == bench.find() == StsFound(POLICY)
    (answer,) = bench.hosts.waiting
    bench.hosts.policies["example.org"] = OTHER
    answer.callback(None)
    assert bench.find() == StsFound(OTHER)


def test_what_is_in_the_file_is_kept_up_to_date(bench: Bench) -> None:
    bench.sts.start()
    bench.find()
    for _ in range(7 * 24 - 1):
        bench.clock.advance(3600.0)
    assert len(bench.hosts.asked) >= 6
    bench.clock.advance(3 * DAY)
    bench.hosts.policies.clear()
    assert bench.find() == StsFound(POLICY)


@pytest.mark.parametrize("gone", ["NXDOMAIN", "SERVFAIL", "NODATA"])
def test_what_is_in_the_file_is_kept_up_to_date_whatever_becomes_of_its_record(bench: Bench, gone: str) -> None:
    bench.sts.start()
    bench.find()
    bench.resolver.update({"_mta-sts.example.org": gone})
    for _ in range(9 * 24):
        bench.clock.advance(3600.0)
    bench.hosts.policies.clear()
    assert bench.find() == StsFound(POLICY)


def test_a_policy_that_holds_for_a_day_is_fetched_before_that_is_over(bench: Bench) -> None:
    short = StsPolicy(mode="enforce", mx=("mx.example.org",), max_age=int(DAY))
    bench.hosts.policies["example.org"] = short
    bench.find()
    bench.clock.advance(DAY / 2 + 1.0)
    assert bench.find() == StsFound(short)
    assert len(bench.hosts.asked) == 2
    bench.hosts.policies.clear()
    bench.clock.advance(DAY - 1.0)
    assert bench.find() == StsFound(short)


def test_a_reload_while_a_policy_is_fetched_is_not_noticed(bench: Bench) -> None:
    bench.hosts.waiting = []
    found: list[Any] = []
    bench.ask().addBoth(found.append)
    after = Hosts()
    bench.sts.use(after)
    bench.hosts.waiting[0].callback(None)
    assert (found, after.asked) == ([StsFound(POLICY)], [])


def test_what_fails_by_the_settings_before_a_reload_is_fetched_by_those_after_it(bench: Bench) -> None:
    bench.hosts.policies["example.org"] = StsFetchError("an authority that we do not know", "sts-webpki-invalid")
    assert bench.find().failure == "sts-webpki-invalid"
    bench.clock.advance(601.0)
    bench.hosts.waiting = []
    found: list[Any] = []
    bench.ask().addBoth(found.append)
    after = Hosts()
    bench.sts.use(after)
    bench.hosts.waiting[0].callback(None)
    assert (found, after.asked) == ([StsFound(POLICY)], ["example.org"])


def test_a_reload_forgets_what_failed_before_it(bench: Bench) -> None:
    bench.hosts.policies.clear()
    assert bench.find().failure == "sts-policy-fetch-error"
    bench.sts.use(Hosts())
    assert bench.find() == StsFound(POLICY)


def test_the_end_while_policies_are_kept_up_to_date_is_quiet(bench: Bench) -> None:
    bench.sts.start()
    bench.find()
    bench.clock.advance(DAY)
    bench.hosts.waiting = []
    with capturedLogs() as events:
        bench.clock.advance(3600.0)
        assert len(bench.hosts.waiting) == 1
        bench.sts.stop()
    assert not [event for event in events if "log_failure" in event]


def test_policies_in_memory_are_bounded_in_octets(bench: Bench) -> None:
    hosts = tuple(f"{number}.{'x' * 60}.{'y' * 60}.{'z' * 60}.{'a' * 50}.test" for number in range(200))
    large = StsPolicy(mode="enforce", mx=hosts, max_age=604_800)
    for number in range(400):
        bench.resolver.update({f"_mta-sts.d{number}.test": {"TXT": ["v=STSv1; id=1;"]}})
        bench.hosts.policies[f"d{number}.test"] = large
        assert bench.find(f"d{number}.test") == StsFound(large)
    assert 50 < len(bench.sts._kept) < 300
    assert bench.find("d0.test") == StsFound(large)
    assert bench.hosts.asked.count("d0.test") == 1  # it is in the file


def test_of_why_a_fetch_failed_not_everything_is_kept(bench: Bench) -> None:
    bench.hosts.policies["example.org"] = StsFetchError("x" * 100_000)
    assert len(bench.find().reason) == 500


def test_without_the_file_policies_hold_as_long_as_the_process(bench: Bench) -> None:
    bench.store.error = OSError("the disk is gone")
    assert bench.find() == bench.find() == StsFound(POLICY)
    assert len(bench.hosts.asked) == 1


def test_the_end_does_not_wait_for_a_policy_host(bench: Bench) -> None:
    bench.hosts.waiting = []
    found: list[Any] = []
    for _ in range(3):
        bench.ask().addBoth(found.append)
    bench.sts.stop()
    assert [one.type for one in found] == [CancelledError] * 3


def test_a_fetch_that_the_end_breaks_off_does_not_say_that_there_is_no_policy(bench: Bench) -> None:
    class Broken(Hosts):
        async def fetch(self, domain: str) -> StsPolicy:
            try:
                return await super().fetch(domain)
            except CancelledError:
                raise StsFetchError("no answer over HTTP: CancelledError") from None

    bench.sts.use(broken := Broken())
    broken.waiting = []
    found: list[Any] = []
    for _ in range(3):
        bench.ask().addBoth(found.append)
    with capturedLogs() as events:
        bench.sts.stop()
    assert [one.type for one in found] == [CancelledError] * 3
    assert events == []


def test_the_file_is_not_asked_for_every_message(bench: Bench) -> None:
    bench.find("example.net")
    bench.store.error = AssertionError("it is asked again")
    assert bench.find("example.net") == StsFound()
    bench.store.error = None
    bench.clock.advance(601.0)
    bench.store.file.put(kept("example.net", bench.clock.seconds() + DAY, bench.clock.seconds()), 0.0)
    assert bench.find("example.net") == StsFound(POLICY)  # another worker has put it there


def announced(bench: Bench, names: list[str], network: str = "") -> None:
    """Domains with policies; the hosts of these have addresses in the network."""
    for number, name in enumerate(names):
        bench.resolver.update({f"_mta-sts.{name}": {"TXT": ["v=STSv1; id=1;"]}})
        if network:
            bench.resolver.update({f"mta-sts.{name}": {"A" if "." in network else "AAAA": [f"{network}{number}"]}})
        bench.hosts.policies[name] = POLICY


def asking(bench: Bench, names: list[str]) -> list[Any]:
    found: list[Any] = []
    for name in names:
        bench.ask(name).addBoth(found.append)
    return found


def test_mail_waits_for_a_policy_host_that_is_slow_and_not_for_those_before_it(bench: Bench) -> None:
    slow = [f"d{number}.example" for number in range(100)]
    announced(bench, [*slow, "example.org"])
    bench.hosts.waiting = []
    asking(bench, slow)
    found = asking(bench, ["example.org", "example.org"])
    bench.clock.advance(29.0)
    assert found == []
    with capturedLogs() as events:
        bench.clock.advance(1.0)
    assert [(one.policy, one.failure) for one in found] == [(None, "sts-policy-fetch-error")] * 2
    assert "30 s" in found[0].reason
    assert len(events) == 1
    assert bench.find() == found[0]  # the next message does not wait
    assert "example.org" not in bench.hosts.asked
    for one in list(bench.hosts.waiting):
        one.callback(None)
    bench.hosts.waiting = None
    bench.clock.advance(61.0)
    assert bench.find() == StsFound(POLICY)


def test_a_policy_that_is_known_is_kept_to_where_a_new_one_is_not_fetched_now(bench: Bench) -> None:
    bench.find()
    slow = [f"d{number}.example" for number in range(100)]
    announced(bench, slow)
    bench.hosts.waiting = []
    asking(bench, slow)
    bench.announce("v=STSv1; id=2;")
    found = asking(bench, ["example.org"])
    bench.clock.advance(30.0)
    assert [(one.policy, one.failure) for one in found] == [(POLICY, "sts-policy-fetch-error")]


@pytest.mark.parametrize("network", ["192.0.2.", "2001:db8::"])
def test_slow_hosts_of_one_network_hold_up_no_others(bench: Bench, network: str) -> None:
    announced(bench, slow := [f"d{number}.example" for number in range(200)], network)
    announced(bench, ["good.example"], "198.51.100.")
    bench.hosts.waiting = []
    slow_found = asking(bench, slow)
    assert len(bench.hosts.waiting) == 10
    found = asking(bench, ["good.example"])
    bench.hosts.waiting.pop().callback(None)
    assert found == [StsFound(POLICY)]
    bench.hosts.waiting[3].callback(None)
    bench.clock.advance(0)
    assert len(bench.hosts.waiting) == 11  # whoever waited has the place
    bench.clock.advance(30.0)
    assert len(slow_found) == 190


def test_no_more_wait_than_may(bench: Bench) -> None:
    announced(bench, many := [f"d{number}.example" for number in range(2101)])
    bench.hosts.waiting = []
    assert [one.failure for one in asking(bench, many)] == ["sts-policy-fetch-error"]


def test_the_end_while_some_wait_for_their_turn(bench: Bench) -> None:
    announced(bench, many := [f"d{number}.example" for number in range(110)])
    bench.hosts.waiting = []
    found = asking(bench, many)
    bench.sts.stop()
    assert [one.type for one in found] == [CancelledError] * 110


def test_policy_hosts_that_are_slow_take_no_more_than_their_share(bench: Bench) -> None:
    names = [f"d{number}.example" for number in range(120)]
    for name in names:
        bench.resolver.update({f"_mta-sts.{name}": {"TXT": ["v=STSv1; id=1;"]}})
        bench.hosts.policies[name] = POLICY
    bench.hosts.waiting = []
    found: list[Any] = []
    for name in names:
        bench.ask(name).addBoth(found.append)
    assert (len(bench.hosts.waiting), found) == (100, [])
    for number in range(120):
        bench.hosts.waiting[number].callback(None)
        bench.clock.advance(0)
    assert found == [StsFound(POLICY)] * 120


def test_policy_hosts_that_fail_at_once_leave_their_places_to_all_who_wait(bench: Bench) -> None:
    announced(bench, slow := [f"d{number}.example" for number in range(100)])
    announced(bench, many := [f"gone{number}.example" for number in range(500)])
    for name in many:
        bench.hosts.policies[name] = StsFetchError("no address")
    held: list[Deferred[None]] = []
    bench.hosts.waiting = held
    slow_found = asking(bench, slow)
    bench.hosts.waiting = None
    found = asking(bench, many)
    held[0].callback(None)
    for _ in many:
        bench.clock.advance(0)
    assert [one.reason for one in found] == ["no address"] * 500
    for answer in held[1:]:
        answer.callback(None)
    assert slow_found == [StsFound(POLICY)] * 100
    bench.hosts.waiting = []
    asking(bench, ["example.org"])
    assert len(bench.hosts.waiting) == 1  # no place is lost
    announced(bench, again := [f"again{number}.example" for number in range(100)])
    asking(bench, again)
    assert len(bench.hosts.waiting) == 100


def test_nobody_takes_the_place_of_one_who_waits(bench: Bench) -> None:
    announced(bench, names := [f"d{number}.example" for number in range(102)])
    bench.hosts.waiting = []
    asking(bench, names[:101])
    bench.hosts.waiting[0].callback(None)
    asking(bench, names[101:])
    bench.clock.advance(0)
    assert bench.hosts.asked == names[:101]
