"""TLS reports of several processes, begun and changed with the configuration, and to whom they are posted."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Iterator, Sequence
from email import message_from_bytes
from pathlib import Path
from typing import Any, cast

import pytest
from twisted.internet.defer import Deferred, succeed

from mailgate.address import Address
from mailgate.backends.questions import IBackendReactor
from mailgate.config.reports import TlsReportsSection
from mailgate.reporting.tls_office import TlsReporting, TlsReportingOffice
from mailgate.stores.tls_sessions import TlsSession, TlsTally
from mailgate.testing import MemoryResolver
from tests.unit.reports_stand import Machine

GOOD = TlsTally(policy_type="no-policy-found")
ZONE = {
    "_smtp._tls.a.test": {"TXT": ["v=TLSRPTv1; rua=mailto:tls@a.test"]},
    "_smtp._tls.b.test": {"TXT": ["v=TLSRPTv1; rua=https://www.b.test/tls"]},
    "www.b.test": {"A": ["10.1.2.3"]},
}


def reporting(**more: Any) -> TlsReporting:
    return TlsReporting(TlsReportsSection.model_validate({"enabled": True, "from": "tls@gate.test", **more}), None)


class Worker:
    """One process."""

    def __init__(self, machine: Machine, path: Path) -> None:
        self.machine = machine
        self.sent: list[tuple[str, bytes]] = []
        self.tell: Callable[[TlsSession], None] | None = None
        self.office = TlsReportingOffice(
            path,
            reactor=cast(IBackendReactor, machine),
            listen=self.listen,
            resolver=MemoryResolver(ZONE),
            random=random.Random(3),
            send=self.send,
        )
        self.office.use("mx.gate.test", reporting())

    def listen(self, tell: Callable[[TlsSession], None] | None) -> None:
        self.tell = tell

    def send(self, sender: Address, recipients: Sequence[Address], octets: bytes) -> Deferred[str]:
        self.sent.append((str(recipients[0]), octets))
        return succeed("ID")

    def count(self, domain: str = "a.test") -> None:
        assert self.tell is not None
        self.tell(TlsSession(at=self.machine.seconds(), domain=domain, tally=GOOD))

    def end(self) -> None:
        ended = Deferred.fromCoroutine(self.office.close())
        self.machine.until(lambda: ended.called)
        assert ended.called


@pytest.fixture
def workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Worker]]:
    machine = Machine(monkeypatch)
    made = [Worker(machine, tmp_path / "tls-reports.db") for _ in range(2)]
    yield made
    for one in made:
        one.end()
    assert not machine.getDelayedCalls()


def sessions(octets: bytes) -> int:
    """How many went well, as the report in a mail says."""
    *_, attached = message_from_bytes(octets).walk()
    content = attached.get_payload(decode=True)
    assert isinstance(content, bytes)
    (policy,) = json.loads(gzip.decompress(content))["policies"]
    return int(policy["summary"]["total-successful-session-count"])


def test_what_each_has_counted_is_in_one_report(workers: list[Worker]) -> None:
    first, second = workers
    first.count()
    first.count()
    second.count()
    first.machine.until(lambda: first.sent or second.sent)
    first.machine.until(lambda: len(first.sent + second.sent) > 1, days=1)
    ((to, octets),) = first.sent + second.sent
    assert (to, sessions(octets)) == ("tls@a.test", 3)


def test_one_that_ends_leaves_its_count_to_the_other(workers: list[Worker]) -> None:
    first, second = workers
    first.count()
    first.end()
    assert first.tell is None
    second.count()
    second.machine.until(lambda: second.sent)
    assert sessions(second.sent[0][1]) == 2
    assert first.sent == []


def test_changes_come_one_after_another(workers: list[Worker]) -> None:
    first = workers[0]
    for _ in range(10):
        first.office.use("mx.gate.test", None)
        first.office.use("mx.gate.test", reporting())
    first.machine.until(lambda: first.tell is not None and first.machine.rests, days=1)
    first.count()
    first.end()
    workers[1].machine.until(lambda: workers[1].sent)
    assert len(workers[1].sent) == 1


@pytest.mark.parametrize(("networks", "expected"), [([], []), (["10.1.2.0/24"], ["10.1.2.3"])])
def test_strangers_have_nothing_posted_within_our_networks(
    workers: list[Worker], networks: list[str], expected: list[str]
) -> None:
    first, second = workers
    second.end()
    first.office.use("mx.gate.test", reporting(private_networks=networks))
    first.machine.until(lambda: first.machine.rests, days=0.1)
    first.count("b.test")
    first.machine.until(lambda: first.machine.tcpClients, days=1.5)
    assert [(host, port) for host, port, *_ in first.machine.tcpClients[:1]] == [(one, 443) for one in expected]
