"""TLS reports: what is counted, what it comes to, to whom it goes, and when."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Iterator, Sequence
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import SMTP
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred, execute, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from mailgate.address import Address
from mailgate.config.reports import TlsReportsSection
from mailgate.envelope import Tls
from mailgate.relay.attempt import ConnectFailedError, IConnection, Target
from mailgate.relay.security.accounts import Accountant, tallies
from mailgate.relay.security.demand import Demand, Level, PolicyType
from mailgate.relay.security.policies import TransportSecurity
from mailgate.relay.security.sts import StsFound
from mailgate.relay.security.sts_policy import StsPolicy
from mailgate.relay.sources import SYSTEM, Source
from mailgate.reply import Reply
from mailgate.reporting.tls_compose import compose_tls_mail, pack_tls
from mailgate.reporting.tls_record import destinations_in
from mailgate.reporting.tls_service import TlsReports
from mailgate.stores.gatherer import DAY
from mailgate.stores.tls_sessions import TlsFile, TlsSession, TlsTally, counted_session
from mailgate.testing import MemoryResolver
from mailgate.tls.dane import Tlsa
from mailgate.tls.failures import TlsFailure

T = TypeVar("T")

TODAY = 20_000
NOON = TODAY * DAY + DAY / 2
MIDNIGHT = (TODAY + 1) * DAY
HOUR = 3600.0
LINES = ("version: STSv1", "mode: testing", "mx: *.example.org", "max_age: 86400")
PUBLISHED = StsFound(StsPolicy(mode="testing", mx=("*.example.org",), max_age=86400, lines=LINES))
GOOD = TlsTally(policy_type="sts", policy_strings=LINES, mx_hosts=("*.example.org",))
NONE = TlsTally(policy_type="no-policy-found")
BAD = TlsTally(
    policy_type="sts",
    policy_strings=LINES,
    mx_hosts=("*.example.org",),
    failure="certificate-expired",
    sending_ip="198.51.100.1",
    receiving_host="mx.example.org",
    receiving_ip="192.0.2.1",
    reason="it expired",
)


# -- what is counted


class Opened:
    """A session, as far as the accounts ask."""

    def __init__(
        self, target: Target, *, tls: bool = True, failure: TlsFailure = "", is_fallback: bool = False
    ) -> None:
        self.target = target
        self.tls = Tls(version="TLSv1.3", cipher="X") if tls else None
        self.tls_failure = failure
        self.is_fallback = is_fallback


def target(level: Level = "welcome", policy: PolicyType = "sts", **more: Any) -> Target:
    return Target("mx.example.org", "192.0.2.1", 25, demand=Demand(level=level, policy=policy, **more))


def of(
    outcome: Opened | ConnectFailedError, published: StsFound = PUBLISHED, source: Source = SYSTEM
) -> list[tuple[str, str]]:
    demand = outcome.target.demand
    assert demand is not None
    found = tallies(cast("IConnection | ConnectFailedError", outcome), demand, published, source)
    return [(one.policy_type, one.failure) for one in found]


def failed(where: Target, failure: TlsFailure, stage: str = "tls") -> ConnectFailedError:
    return ConnectFailedError(where, Reply.of(451, "4.7.5", "x"), "a reason", stage=stage, tls_failure=failure)


NOTHING = StsFound()
BROKEN = StsFound(None, "sts-policy-fetch-error", "no such host")
TLSA = (Tlsa(3, 1, 1, b"\1" * 32),)


@pytest.mark.parametrize(
    ("outcome", "published", "expected"),
    [
        (Opened(target("verified")), PUBLISHED, [("sts", "")]),
        (Opened(target()), PUBLISHED, [("sts", "")]),
        (Opened(target(), failure="certificate-expired"), PUBLISHED, [("sts", "certificate-expired")]),
        (Opened(target(), tls=False), PUBLISHED, [("sts", "starttls-not-supported")]),
        (Opened(target(), tls=False, is_fallback=True), PUBLISHED, [("sts", "validation-failure")]),
        (Opened(target(failure="validation-failure", reason="x")), PUBLISHED, [("sts", "validation-failure")]),
        (failed(target("verified"), "certificate-host-mismatch"), PUBLISHED, [("sts", "certificate-host-mismatch")]),
        (failed(target("verified"), "", "connect"), PUBLISHED, []),
        (failed(target("refused", "tlsa"), "dnssec-invalid"), NOTHING, [("tlsa", "dnssec-invalid")]),
        (Opened(target("dane", "tlsa", tlsa=TLSA)), NOTHING, [("tlsa", "")]),
        (Opened(target("encrypted", "tlsa", failure="tlsa-invalid")), NOTHING, [("tlsa", "tlsa-invalid")]),
        (Opened(target(policy="no-policy-found")), NOTHING, [("no-policy-found", "")]),
        # nobody has asked for a certificate there
        (Opened(target(policy="no-policy-found"), failure="certificate-expired"), NOTHING, [("no-policy-found", "")]),
        (
            Opened(target(policy="no-policy-found"), tls=False),
            NOTHING,
            [("no-policy-found", "starttls-not-supported")],
        ),
        (
            Opened(target(policy="no-policy-found")),
            BROKEN,
            [("sts", "sts-policy-fetch-error"), ("no-policy-found", "")],
        ),
        (Opened(target("verified", "local")), PUBLISHED, []),
        (failed(target("verified", "local"), "certificate-expired"), PUBLISHED, []),
    ],
)
def test_what_a_session_comes_to(
    outcome: Opened | ConnectFailedError, published: StsFound, expected: list[tuple[str, str]]
) -> None:
    assert of(outcome, published) == expected


def test_a_failure_tells_who_and_where() -> None:
    source = Source("out", IPv4Address("198.51.100.1"), IPv6Address("2001:db8::1"), "")
    where = target("dane", "tlsa", tlsa=TLSA, names=("mx.example.org", "example.org"))
    demand = where.demand
    assert demand is not None
    (one,) = tallies(failed(where, "validation-failure"), demand, NOTHING, source)
    assert one == TlsTally(
        policy_type="tlsa",
        policy_strings=(f"3 1 1 {'01' * 32}",),
        mx_hosts=("mx.example.org",),
        failure="validation-failure",
        sending_ip="198.51.100.1",
        receiving_host="mx.example.org",
        receiving_ip="192.0.2.1",
        reason="a reason",
    )


def test_without_a_source_of_ours_the_address_is_the_one_that_the_system_chooses() -> None:
    for address, expected in (("127.0.0.1", "127.0.0.1"), ("nowhere", "")):
        where = Target("mx.example.org", address, 25, demand=Demand(level="verified", policy="sts"))
        assert where.demand is not None
        (one,) = tallies(failed(where, "certificate-expired"), where.demand, PUBLISHED, SYSTEM)
        assert one.sending_ip == expected


class Security:
    async def published(self, domain: str) -> StsFound:
        assert domain == "example.org"
        return PUBLISHED


def test_only_what_was_looked_at_is_told_and_only_if_anybody_listens() -> None:
    clock = Clock()
    clock.rightNow = NOON
    security: list[Any] = [Security()]
    accountant = Accountant(clock, lambda: cast("TransportSecurity | None", security[0]))
    told: list[TlsSession] = []
    session = cast(IConnection, Opened(target("verified")))
    accountant.account("example.org", session, SYSTEM)
    accountant.listen(told.append)
    accountant.account("", session, SYSTEM)
    accountant.account("example.org", cast(IConnection, Opened(Target("mx", "192.0.2.1", 25))), SYSTEM)
    assert told == []
    accountant.account("Example.ORG", session, SYSTEM)
    assert told == [TlsSession(at=NOON, domain="example.org", tally=GOOD)]
    security[0] = None
    accountant.account("example.org", session, SYSTEM)
    assert len(told) == 1


@pytest.mark.parametrize(("error", "logged"), [(CancelledError(), 0), (ValueError("x"), 1)])
def test_a_session_that_cannot_be_counted_is_told_unless_it_is_the_end(error: Exception, logged: int) -> None:
    class Ending:
        async def published(self, domain: str) -> StsFound:
            raise error

    accountant = Accountant(Clock(), lambda: cast("TransportSecurity | None", Ending()))
    accountant.listen(lambda session: None)
    with capturedLogs() as events:
        accountant.account("example.org", cast(IConnection, Opened(target("verified"))), SYSTEM)
    assert len([event for event in events if "log_failure" in event]) == logged


def test_what_peers_choose_is_bounded() -> None:
    wild = TlsTally(
        policy_type="sts", policy_strings=("x" * 9999,) * 999, mx_hosts=("y" * 9999,) * 999, reason="z" * 9999
    )
    day, policy, tally = counted_session(TlsSession(at=NOON, domain="example.org", tally=wild))
    assert (day, policy.domain) == (TODAY, "example.org")
    assert sum(map(len, (*tally.policy_strings, *tally.mx_hosts, tally.reason))) < 50_000


# -- to whom it goes


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([b"v=TLSRPTv1; rua=mailto:tls@example.org"], ["tls@example.org"]),
        (
            [b"v=TLSRPTv1;rua=mailto:a@x.example , https://r.example.org/v1;"],
            ["a@x.example", "https://r.example.org/v1"],
        ),
        ([b"other", b"v=TLSRPTv1; rua=mailto:a@x.example"], ["a@x.example"]),
        ([b"v=TLSRPTv1; rua=mailto:a@x.example", b"v=TLSRPTv1; rua=mailto:b@x.example"], []),
        ([b"v=TLSRPTv1; rua=mailto:a@x.example; rua=mailto:b@x.example"], ["a@x.example"]),
        ([b"v=TLSRPTv1"], []),
        ([b"v=TLSRPTv2; rua=mailto:a@x.example"], []),
        ([b"rua=mailto:a@x.example; v=TLSRPTv1"], []),
        ([b"v=TLSRPTv1; rua=ftp://x.example, http://x.example/, mailto:, x"], []),
        ([b"v=TLSRPTv1; rua=https://127.0.0.1/, https://[::1]/, https://x.example:8443/, https://u@x.example/"], []),
        ([b"v=TLSRPTv1; rua=https://localhost/, https://[/, https://x.example:x/"], []),
        ([b"v=TLSRPTv1; rua=" + b",".join(b"mailto:u%d@x.example" % one for one in range(99))], None),
        ([], []),
    ],
)
def test_who_wants_reports(records: list[bytes], expected: list[str] | None) -> None:
    found = [str(one) for one in destinations_in(records)]
    assert len(found) == 10 if expected is None else found == expected


@given(st.binary(max_size=100))
def test_nothing_in_a_record_is_a_surprise(octets: bytes) -> None:
    assert len(destinations_in([b"v=TLSRPTv1; rua=" + octets])) <= 10


# -- what it says


def section(**more: Any) -> TlsReportsSection:
    return TlsReportsSection.model_validate({"enabled": True, "from": "tls-reports@gate.test", **more})


def read(octets: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(gzip.decompress(octets))
    return found


@pytest.fixture
def file(tmp_path: Path) -> Iterator[TlsFile]:
    one = TlsFile(tmp_path / "tls.db")
    yield one
    one.close()


def happened(file: TlsFile, *counts: tuple[TlsTally, int], domain: str = "example.org") -> None:
    for tally, count in counts:
        file.add({counted_session(TlsSession(at=NOON, domain=domain, tally=tally)): count}, {})


def test_a_report_is_as_the_standard_wants_it(file: TlsFile) -> None:
    happened(file, (GOOD, 5), (BAD, 2), (NONE, 1), (GOOD, 1))
    batch = file.claim(TODAY + 1, MIDNIGHT, MIDNIGHT + HOUR)
    assert batch is not None
    packed = pack_tls(batch, file.tallies(batch), section(organization="Gate Ltd", contact="x"), "mx.gate.test")
    assert read(packed.octets) == {
        "organization-name": "Gate Ltd",
        "date-range": {"start-datetime": "2024-10-04T00:00:00Z", "end-datetime": "2024-10-04T23:59:59Z"},
        "contact-info": "x",
        "report-id": f"{packed.report_id}@mx.gate.test",
        "policies": [
            {
                "policy": {"policy-type": "no-policy-found", "policy-domain": "example.org"},
                "summary": {"total-successful-session-count": 1, "total-failure-session-count": 0},
            },
            {
                "policy": {
                    "policy-type": "sts",
                    "policy-domain": "example.org",
                    "policy-string": list(LINES),
                    "mx-host": ["*.example.org"],
                },
                "summary": {"total-successful-session-count": 6, "total-failure-session-count": 2},
                "failure-details": [
                    {
                        "result-type": "certificate-expired",
                        "sending-mta-ip": "198.51.100.1",
                        "receiving-mx-hostname": "mx.example.org",
                        "receiving-ip": "192.0.2.1",
                        "failure-reason-code": "it expired",
                        "failed-session-count": 2,
                    }
                ],
            },
        ],
    }
    again = pack_tls(batch, file.tallies(batch), section(organization="Gate Ltd", contact="x"), "mx.gate.test")
    assert again == packed


def test_a_policy_of_dane_is_that_of_the_host(file: TlsFile) -> None:
    record = f"3 1 1 {'01' * 32}"
    of_host = TlsTally(policy_type="tlsa", policy_strings=(record,), mx_hosts=("mx.example.net",))
    unknown = TlsTally(policy_type="tlsa", failure="dnssec-invalid", receiving_host="mx.example.org")
    happened(file, (of_host, 3), (unknown, 1))
    batch = file.claim(TODAY + 1, MIDNIGHT, MIDNIGHT + HOUR)
    assert batch is not None
    packed = pack_tls(batch, file.tallies(batch), section(), "mx.gate.test")
    assert [one["policy"] for one in read(packed.octets)["policies"]] == [
        {"policy-type": "tlsa", "policy-domain": "example.org"},
        {"policy-type": "tlsa", "policy-domain": "mx.example.net", "policy-string": [record]},
    ]


def test_the_mail_is_as_the_standard_wants_it(file: TlsFile) -> None:
    happened(file, (GOOD, 1))
    batch = file.claim(TODAY + 1, MIDNIGHT, MIDNIGHT + HOUR)
    assert batch is not None
    packed = pack_tls(batch, file.tallies(batch), section(), "mx.gate.test")
    to = Address.parse("tls@example.org")
    octets = compose_tls_mail(
        packed, to, section(), "mx.gate.test", MIDNIGHT, lambda mail, now: b"X-Signed: y\r\n" + mail
    )
    assert octets.startswith(b"X-Signed: y\r\n")
    assert octets.replace(b"\r\n", b"").count(b"\n") == 0
    mail = message_from_bytes(octets, _class=EmailMessage, policy=SMTP)
    assert mail.get_content_type() == "multipart/report"
    assert mail.get_param("report-type") == "tlsrpt"
    assert (mail["From"], mail["To"]) == ('"gate.test" <tls-reports@gate.test>', "tls@example.org")
    assert (mail["TLS-Report-Domain"], mail["TLS-Report-Submitter"]) == ("example.org", "gate.test")
    assert mail["TLS-Required"] == "No"
    assert mail["Subject"] == (
        f"Report Domain: example.org Submitter: gate.test Report-ID: <{packed.report_id}@mx.gate.test>"
    )
    text, attached = mail.iter_parts()
    assert "_smtp._tls.example.org" in text.get_content()
    assert attached.get_content_type() == "application/tlsrpt+gzip"
    begin = TODAY * DAY
    name = f"mx.gate.test!example.org!{begin}!{begin + DAY - 1}!{packed.report_id}.json.gz"
    assert attached.get_filename() == name
    assert attached.get_content() == packed.octets


# -- when it is sent


class Gathered:
    """The file, at once and in this thread."""

    def __init__(self, file: TlsFile) -> None:
        self.file = file

    def run(self, work: Callable[[TlsFile], T]) -> Deferred[T]:
        return execute(work, self.file)


class Stand:
    def __init__(self, file: TlsFile, record: str, **options: Any) -> None:
        self.clock = Clock()
        self.clock.rightNow = NOON
        self.resolver = MemoryResolver({"_smtp._tls.example.org": {"TXT": [record]}})
        self.mails: list[tuple[str, bytes]] = []
        self.posts: list[tuple[str, bytes]] = []
        self.status: int | Exception = 200
        self.error: Exception | None = None
        self.reports = TlsReports(
            Gathered(file),
            section(**options),
            hostname="mx.gate.test",
            resolver=self.resolver,
            clock=self.clock,
            random=random.Random(7),
            send=self.send,
            post=self.post,
        )
        self.reports.start()

    def send(self, sender: Address, recipients: Sequence[Address], content: bytes) -> Deferred[str]:
        assert str(sender) == "tls-reports@gate.test"
        if self.error is not None:
            return fail(self.error)
        (to,) = recipients
        self.mails.append((str(to), content))
        return succeed("ID")

    def post(self, url: str, octets: bytes) -> Deferred[int]:
        self.posts.append((url, octets))
        return fail(self.status) if isinstance(self.status, Exception) else succeed(self.status)

    def passes(self, seconds: float) -> None:
        for _ in range(int(seconds // 60)):
            self.clock.advance(60.0)


BOTH = "v=TLSRPTv1; rua=mailto:tls@example.org,https://r.example.org/v1"


@pytest.fixture
def stands(file: TlsFile) -> Iterator[Callable[..., Stand]]:
    made: list[Stand] = []

    def make(record: str = BOTH, **options: Any) -> Stand:
        happened(file, (GOOD, 3))
        made.append(Stand(file, record, **options))
        return made[-1]

    yield make
    for one in made:
        Deferred.fromCoroutine(one.reports.stop())
        assert not one.clock.getDelayedCalls()


def test_a_day_is_reported_once_to_all_who_want_it(stands: Callable[..., Stand]) -> None:
    stand = stands()
    stand.passes(12 * HOUR)
    assert (stand.mails, stand.posts) == ([], [])
    stand.passes(3 * 24 * HOUR)
    ((to, mail),) = stand.mails
    ((url, octets),) = stand.posts
    assert (to, url) == ("tls@example.org", "https://r.example.org/v1")
    assert read(octets)["policies"][0]["summary"]["total-successful-session-count"] == 3
    *_, attached = message_from_bytes(mail).walk()
    assert attached.get_payload(decode=True) == octets


@pytest.mark.parametrize("status", [500, 302, 404, OSError("nobody there")])
def test_a_post_that_fails_is_tried_again_and_the_mail_is_not(
    stands: Callable[..., Stand], status: int | Exception
) -> None:
    stand = stands()
    stand.status = status
    stand.passes(18 * HOUR)
    assert len(stand.posts) >= 2
    assert len(stand.mails) == 1
    stand.status = 201
    before = len(stand.posts)
    stand.passes(24 * HOUR)
    assert (len(stand.posts), len(stand.mails)) == (before + 1, 1)


def test_a_spool_that_is_full_does_not_hold_up_the_post(stands: Callable[..., Stand]) -> None:
    stand = stands()
    stand.error = OSError("full")
    stand.passes(18 * HOUR)
    assert (len(stand.mails), len(stand.posts)) == (0, 1)
    stand.error = None
    stand.passes(12 * HOUR)
    assert (len(stand.mails), len(stand.posts)) == (1, 1)


@pytest.mark.parametrize(
    ("record", "options"),
    [("v=spf1 -all", {}), (BOTH, {"never": ["example.org"]}), (BOTH, {"only": ["example.net"]})],
)
def test_whoever_does_not_want_it_gets_nothing(
    stands: Callable[..., Stand], record: str, options: dict[str, Any]
) -> None:
    stand = stands(record, **options)
    stand.passes(48 * HOUR)
    assert (stand.mails, stand.posts) == ([], [])


def test_dns_that_cannot_say_is_asked_again(stands: Callable[..., Stand]) -> None:
    stand = stands()
    stand.resolver.update({"_smtp._tls.example.org": "SERVFAIL"})
    stand.passes(18 * HOUR)
    assert stand.mails == []
    stand.resolver.update({"_smtp._tls.example.org": {"TXT": [BOTH]}})
    stand.passes(12 * HOUR)
    assert len(stand.mails) == 1
