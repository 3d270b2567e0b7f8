"""All that is served by HTTP together: before the gateway is ready, after a reload, and at the end."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from mailgate.address import Address
from mailgate.config.http import HttpSection
from mailgate.config.schema import Config
from mailgate.events import BreakerChanged, Started
from mailgate.observe.hub import EventHub
from mailgate.observe.metrics import render
from mailgate.relay.security.own_policy import own_policy
from mailgate.web.desk import HttpDesk
from mailgate.web.links import Links, Meant
from mailgate.web.tokens import hash_of
from tests.unit.config_file import load_text
from tests.unit.http_stand import DAY, NOW, SECRETS, Answer, HttpStand, result

SECRET = b"s" * 32
TEXT = f"""
[gateway]
hostname = "gate.example.org"
state_dir = "state"
[[listeners]]
name = "mx"
endpoints = ["tcp:2525"]
pipeline = "in"
[pipelines.in]
filters = ["headers"]
[domains."example.org"]
route = "inside"
[routes.inside]
transport = "discard"
[http]
endpoints = ["tcp:8080:interface=127.0.0.1"]
url = "https://mail.example.org"
[http.tokens.reader]
hash = "{hash_of(SECRETS["reader"])}"
scopes = ["queue:read", "metrics"]
"""
DIGEST = """
[quarantine.digest]
enabled = true
from = "q@example.org"
scan = false
"""


class _Transport(StringTransport):
    def setTcpNoDelay(self, enabled: bool) -> None:  # noqa: N802  Twisted's name
        pass


class Desk:
    """A desk on the parts of the stand."""

    def __init__(self, folder: Path, more: str = "", *, opens: bool = True) -> None:
        self.folder = folder
        self.stand = HttpStand(folder)
        self.sent: list[str] = []
        self.desk = HttpDesk(
            self.config(more),
            self.stand.clock,
            leads=True,
            counters=self.stand.counters,
            status=self.stand.board.status,
        )
        self.stand.server = self.desk.server
        if opens:
            self.desk.open(
                api=self.stand.api,
                quarantine=self.stand.quarantine,
                spool=self.stand.spool,
                secret=SECRET,
                send=self._send,
                digests=folder / "digests.db",
            )
            self.desk.use(self.config(more), None)

    def config(self, more: str = "") -> Config:
        return load_text(self.folder, TEXT + more).config

    async def _send(self, sender: Address, recipients: Sequence[Address], octets: bytes) -> str:
        self.sent += map(str, recipients)
        return "ID"

    def days(self, count: int) -> None:
        for _ in range(count * 24 * 12):
            self.stand.clock.advance(300)
        for _ in range(10):
            self.stand.clock.advance(0)

    def close(self) -> None:
        done = Deferred.fromCoroutine(self.desk.close())
        self.stand.clock.advance(0)
        assert done.called


@pytest.fixture
def token() -> str:
    return Links(SECRET).sign(Meant("A1", 0, "ann@example.org", int(NOW + 30 * DAY)))


def test_before_it_is_opened(tmp_path: Path, token: str) -> None:
    desk = Desk(tmp_path, opens=False)
    assert desk.stand.ask("GET", "/healthz").status == 200
    assert desk.stand.ask("GET", "/readyz").status == 503
    assert desk.stand.ask("GET", "/v1/queue", SECRETS["reader"]).status == 401
    assert desk.stand.ask("GET", f"/release/{token}").status == 404


def test_it_serves_by_the_configuration_that_is_in_force(tmp_path: Path, token: str) -> None:
    desk = Desk(tmp_path)
    stand = desk.stand
    stand.keep("A1")
    assert stand.ask("GET", "/v1/queue", SECRETS["reader"]).json["entries"][0]["queue_id"] == "A1"
    assert "mailgate_spool_recipients" in stand.ask("GET", "/metrics", SECRETS["reader"]).text
    assert stand.ask("GET", f"/release/{token}").status == 404  # there are no digests
    desk.days(2)
    assert desk.sent == []
    desk.desk.use(desk.config(DIGEST), None)
    answer = stand.ask("GET", f"/release/{token}")
    assert (answer.status, "example.org" in answer.text) == (200, True)
    desk.days(2)
    assert desk.sent == ["ann@example.org"]
    desk.desk.use(desk.config(DIGEST + 'exclude = ["score"]\n'), None)
    assert stand.ask("GET", f"/release/{token}").status == 403
    desk.desk.use(desk.config(), None)
    stand.keep("A2")
    desk.days(2)
    assert desk.sent == ["ann@example.org"]
    desk.close()
    assert not stand.clock.getDelayedCalls()


def test_our_policy_of_mta_sts_is_the_one_that_is_printed(tmp_path: Path) -> None:
    desk = Desk(tmp_path)

    def ask(host: str) -> Answer:
        connection = desk.stand.connect()
        answer = Answer(connection.send(f"GET /.well-known/mta-sts.txt HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()))
        connection.end()
        return answer

    assert ask("mta-sts.example.org").status == 404
    config = desk.config('\n[mta_sts]\nserve = true\nmode = "enforce"\n')
    desk.desk.use(config, None)
    assert ask("mta-sts.example.org").text == own_policy(config)
    assert ask("mta-sts.example.net").status == 404
    desk.desk.use(desk.config(), None)
    assert ask("mta-sts.example.org").status == 404
    desk.close()


def test_a_breaker_of_filters_that_are_no_more_is_not_open(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    metrics = desk.desk.metrics
    assert metrics is not None
    metrics.observe(BreakerChanged(at=NOW, filter="clamav", is_open=True))
    assert 'mailgate_breaker_open{filter="clamav"} 1.0' in render([metrics.dump()]).decode()
    desk.desk.use(desk.config(), None)
    assert "mailgate_breaker_open{" not in render([metrics.dump()]).decode()
    desk.close()


def test_nothing_is_counted_where_nobody_can_ask(tmp_path: Path) -> None:
    desk = Desk(tmp_path, opens=False)
    off = desk.config().model_copy(update={"http": HttpSection()})
    hub = EventHub()
    for config, leads, counts in ((off, True, False), (off, False, False), (desk.config(), False, True)):
        made = HttpDesk(
            config, desk.stand.clock, leads=leads, counters=desk.stand.counters, status=desk.stand.board.status
        )
        made.listen(None)  # nothing is asked of the reactor
        made.watch(hub)
        made.use(config, None)
        hub.publish(Started(at=NOW, listeners=("mx",)))
        assert (made.numbers() is not None) == counts
        assert len(hub._observers) == counts
        result(made.close())


def test_it_ends_while_digests_are_waited_for(tmp_path: Path) -> None:
    desk = Desk(tmp_path, DIGEST)
    desk.stand.keep("A1")
    desk.stand.clock.advance(60)
    desk.close()
    assert not desk.stand.clock.getDelayedCalls()


def test_with_tls_nothing_is_answered_in_clear_text(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    config = desk.config()
    with_tls = config.model_copy(update={"http": config.http.model_copy(update={"tls": True})})
    made = HttpDesk(
        with_tls, desk.stand.clock, leads=True, counters=desk.stand.counters, status=desk.stand.board.status
    )
    outgoing = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="gate.example.org")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    for octets in (b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", outgoing.read()):
        peer = IPv4Address("TCP", "192.0.2.7", 40000)
        transport: Any = _Transport(peerAddress=peer)  # type: ignore[no-untyped-call]  # Twisted's
        channel: Any = made.server.factory.buildProtocol(peer)
        channel.makeConnection(transport)
        channel.dataReceived(octets)
        assert b"HTTP" not in transport.value()
        assert transport.disconnecting
        channel.connectionLost(Failure(ConnectionDone()))
    assert Answer(desk.stand.connect().send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")).status == 200
