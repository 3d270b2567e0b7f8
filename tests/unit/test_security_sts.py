"""MTA-STS: what announces a policy, what a policy says, and how policies are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred, execute, fail
from twisted.internet.task import Clock

from mailgate.relay.security.sts import MtaSts, StsFound
from mailgate.relay.security.sts_fetch import StsFetchError
from mailgate.relay.security.sts_policy import LONGEST_AGE, StsPolicy, announced_id, parse_policy
from mailgate.relay.security.sts_store import Kept, PolicyFile
from mailgate.testing import MemoryResolver

T = TypeVar("T")

DAY = 86_400.0
ENFORCE = b"version: STSv1\r\nmode: enforce\r\nmx: Mx1.Example.org\r\nmx: *.example.net\r\nmax_age: 604800\r\n"
POLICY = StsPolicy(mode="enforce", mx=("mx.example.org",), max_age=604_800)
OTHER = StsPolicy(mode="testing", mx=("mx.example.net",), max_age=604_800)


# -- the record


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([b"v=STSv1; id=20160831085700Z;"], "20160831085700Z"),
        ([b"v=STSv1;id=1"], "1"),
        ([b"v=STSv1; x=y; id=1; z"], "1"),
        ([b"something", b"v=STSv1; id=1;"], "1"),
        ([], ""),
        ([b"v=STSv1; id=1;", b"v=STSv1; id=2;"], ""),
        ([b"v=STSv1;"], ""),
        ([b"v=STSv1; id=;"], ""),
        ([b"v=STSv1; id=a-b;"], ""),
        ([b"v=STSv1; id=1; id=2"], ""),
        ([b"v=STSv12; id=1;"], ""),
        ([b"v=STSv1; id=" + b"x" * 33], ""),
        ([b"id=1; v=STSv1"], ""),
        ([b"v=STSv1; id=\xff"], ""),
    ],
)
def test_what_announces_a_policy(records: list[bytes], expected: str) -> None:
    assert announced_id(records) == expected


# -- the policy


def test_a_policy() -> None:
    policy = parse_policy(ENFORCE)
    assert (policy.mode, policy.mx, policy.max_age) == ("enforce", ("mx1.example.org", "*.example.net"), 604_800)
    assert policy.lines == tuple(ENFORCE.decode().split("\r\n")[:-1])
    assert parse_policy(ENFORCE.replace(b"\r\n", b"\n")) == policy
    assert parse_policy(ENFORCE.replace(b": ", b":\t") + b"future: thing\n\nmode: none\n") == policy


def test_a_policy_is_kept_for_a_year_at_most() -> None:
    assert parse_policy(ENFORCE.replace(b"604800", b"9999999999")).max_age == LONGEST_AGE


def test_no_policy_needs_no_hosts() -> None:
    assert parse_policy(b"version: STSv1\nmode: none\nmax_age: 86400").mx == ()


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"<html>",
        ENFORCE.replace(b"STSv1", b"STSv2"),
        ENFORCE.replace(b"version: STSv1\r\n", b""),
        ENFORCE.replace(b"enforce", b"Enforce"),
        ENFORCE.replace(b"mode: enforce\r\n", b""),
        ENFORCE.replace(b"max_age: 604800\r\n", b""),
        ENFORCE.replace(b"604800", b"-1"),
        ENFORCE.replace(b"604800", b"1.5"),
        ENFORCE.replace(b"604800", b"99999999999"),
        ENFORCE.replace(b"604800", "\u0661".encode()),
        b"version: STSv1\nmode: enforce\nmax_age: 86400",
        ENFORCE.replace(b"*.example.net", b"*"),
        ENFORCE.replace(b"*.example.net", b"a.*.example.net"),
        ENFORCE.replace(b"*.example.net", b"mx example"),
        ENFORCE.replace(b"*.example.net", b""),
        ENFORCE + b"no field\n",
        ENFORCE + b"\xff: \xff\n",
        ENFORCE + b"mx: a.example\n" * 2000,
        ENFORCE + b"".join(b"mx: a%d.example\n" % number for number in range(300)),
    ],
)
def test_what_is_no_policy(octets: bytes) -> None:
    with pytest.raises(ValueError, match=r"policy|codec"):
        parse_policy(octets)


@given(st.binary(max_size=300))
def test_nothing_in_a_policy_is_a_surprise(octets: bytes) -> None:
    for text in (octets, ENFORCE + octets):
        try:
            policy = parse_policy(text)
        except ValueError:
            continue
        assert policy.mode == "none" or policy.mx


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
    assert file.ageing(39 * DAY, 10 * DAY, 10) == ["asked.example"]
    assert file.ageing(41 * DAY, 10 * DAY, 10) == ["asked.example", "new.example"]
    assert file.ageing(41 * DAY, 10 * DAY, 1) == ["asked.example"]


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


def test_the_file_is_not_asked_for_every_message(bench: Bench) -> None:
    bench.find("example.net")
    bench.store.error = AssertionError("it is asked again")
    assert bench.find("example.net") == StsFound()
    bench.store.error = None
    bench.clock.advance(601.0)
    bench.store.file.put(kept("example.net", bench.clock.seconds() + DAY, bench.clock.seconds()), 0.0)
    assert bench.find("example.net") == StsFound(POLICY)  # another worker has put it there


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
    assert found == [StsFound(POLICY)] * 120
