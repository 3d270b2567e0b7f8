"""What next hops are asked about an address, and what their answers mean."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any, cast

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectError
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from mailgate.address import NULL_PATH, Address
from mailgate.config.schema import Config
from mailgate.interfaces import IProber, OutcomeKind, ProbeResult, RecipientStatus
from mailgate.relay.attempt import Result
from mailgate.relay.client.connection import SmtpConnection
from mailgate.relay.client.connector import IClientReactor, SmtpConnector
from mailgate.relay.locate import Locator
from mailgate.relay.probing import NoProber, Prober
from mailgate.relay.replies.classify import Classifier
from mailgate.relay.transports import Transports
from mailgate.testing import MemoryResolver
from tests.unit.peer import LMTP, LOST, MX, Peer
from tests.unit.remote_peer import failure_of, outcome

ANN = Address("ann", "example.org")
KNOWN, UNKNOWN, UNAVAILABLE = RecipientStatus.KNOWN, RecipientStatus.UNKNOWN, RecipientStatus.UNAVAILABLE
NO_EXTENSIONS = [b"250 mx.example.org"]


# -- The dialogue


def asked(peer: Peer, sender: Address = NULL_PATH, address: Address = ANN, *, through_data: bool = False) -> Result:
    session = cast(SmtpConnection, peer.session)
    found = session.probe(sender, address, through_data=through_data)
    peer.serve()
    [result] = outcome(found)
    return result


@pytest.mark.parametrize("greeting", [Peer.PLAIN["EHLO"], NO_EXTENSIONS])
def test_an_address_is_named_and_taken_back(greeting: list[bytes]) -> None:
    peer = Peer(EHLO=greeting, RCPT=[b"250 2.1.5 fine"])
    result = asked(peer)
    assert (result.kind, str(result.reply)) == (OutcomeKind.DELIVERED, "250 2.1.5 fine")
    assert peer.commands[1:] == ["MAIL FROM:<>", "RCPT TO:<ann@example.org>", "RSET"]
    assert peer.contents == []
    peer.session.close()
    assert peer.transport.value() == b"QUIT\r\n"


@pytest.mark.parametrize("greeting", [Peer.PLAIN["EHLO"], NO_EXTENSIONS])
@pytest.mark.parametrize("reply", [b"550 5.1.1 nobody", b"450 4.2.0 later"])
def test_a_refusal_is_the_answer_and_the_session_serves_on(greeting: list[bytes], reply: bytes) -> None:
    peer = Peer(EHLO=greeting, RCPT=[reply, b"250 ok"])
    result = asked(peer)
    kind = OutcomeKind.FAILED if reply.startswith(b"5") else OutcomeKind.DEFERRED
    assert (result.kind, str(result.reply).encode()) == (kind, reply)
    assert result.host
    assert peer.session.is_usable
    assert asked(peer).kind is OutcomeKind.DELIVERED


@pytest.mark.parametrize("greeting", [Peer.PLAIN["EHLO"], NO_EXTENSIONS])
def test_a_sender_that_is_refused_says_nothing_of_the_recipient(greeting: list[bytes]) -> None:
    peer = Peer(EHLO=greeting, MAIL=[b"550 5.7.1 no bounces here"], RCPT=[b"503 first MAIL"])
    result = asked(peer)
    assert result.kind is OutcomeKind.DEFERRED
    assert str(result.reply) == "550 5.7.1 no bounces here"


def test_somebody_may_be_the_sender() -> None:
    peer = Peer()
    asked(peer, Address("probe", "gw.example"))
    assert "MAIL FROM:<probe@gw.example>" in peer.commands


@pytest.mark.parametrize("greeting", [Peer.PLAIN["EHLO"], NO_EXTENSIONS])
@pytest.mark.parametrize("target", [MX, LMTP])
def test_through_data_no_message_is_sent(greeting: list[bytes], target: Any) -> None:
    peer = Peer(target, EHLO=greeting, LHLO=greeting)
    result = asked(peer, through_data=True)
    assert result.kind is OutcomeKind.DELIVERED
    assert peer.commands[-1] == "DATA"
    assert peer.contents == []
    assert peer.transport.disconnecting or peer.transport.disconnected
    assert not peer.session.is_usable


@pytest.mark.parametrize("greeting", [Peer.PLAIN["EHLO"], NO_EXTENSIONS])
def test_a_refusal_at_data_counts_where_it_is_asked_for(greeting: list[bytes]) -> None:
    script: Any = {"EHLO": greeting, "DATA": [b"550 5.1.1 nobody"]}
    assert asked(Peer(**script), through_data=True).kind is OutcomeKind.FAILED
    assert asked(Peer(**script)).kind is OutcomeKind.DELIVERED


@pytest.mark.parametrize("word", ["MAIL", "RCPT", "RSET"])
@pytest.mark.parametrize("end", [LOST, b"421 4.3.2 closing", b"nonsense"])
def test_a_session_that_breaks_leaves_what_was_said(word: str, end: bytes) -> None:
    script: Any = {word: [end]}
    result = asked(Peer(**script))
    assert result.kind is (OutcomeKind.DELIVERED if word == "RSET" else OutcomeKind.DEFERRED)


@pytest.mark.parametrize("address", [Address("a", "b c.org"), Address("jörg", "example.org")])
def test_an_address_that_cannot_be_written_is_not_named(address: Address) -> None:
    peer = Peer()
    assert asked(peer, address=address).kind is OutcomeKind.FAILED
    assert peer.commands == ["EHLO gw.example"]


def test_an_internationalized_address_needs_smtputf8() -> None:
    peer = Peer(EHLO=[b"250-mx.example.org\r\n250-SMTPUTF8\r\n250 8BITMIME"])
    assert asked(peer, address=Address("jörg", "example.org")).kind is OutcomeKind.DELIVERED
    assert peer.commands[1:3] == ["MAIL FROM:<> SMTPUTF8", "RCPT TO:<jörg@example.org>"]


# -- The prober


class Stand:
    """A prober, and the network that its next hops are in."""

    def __init__(self, **route: Any) -> None:
        self.reactor = MemoryReactorClock()
        self.connectors: list[tuple[str, Any]] = []
        resolver = MemoryResolver({("mx.example.org", "A"): []})
        clock = cast(Any, self.reactor)
        self.prober = Prober(cast(Transports, self), Locator(resolver, "gw.example", Random(1)), clock)
        self.config = Config.model_validate(
            {
                "gateway": {"hostname": "gw.example.org", "state_dir": "."},
                "listeners": [{"name": "mx", "endpoints": ["tcp:25"], "pipeline": "inbound"}],
                "pipelines": {"inbound": {"filters": []}},
                "routes": {
                    "in": {"transport": "smtp", "hosts": ["192.0.2.1", "192.0.2.2"], "tls": "off"} | route,
                    "off": {"transport": "discard"},
                    "mx": {"transport": "smtp", "tls": "off"},
                },
                "sources": {
                    "one": {"address": "192.0.2.99", "hostname": "out.example.org"},
                    "two": {"hostname": "x.org"},
                },
                "pools": {"both": {"sources": {"two": 0, "one": 1}}},
            },
            context={"base": Path()},
        )
        self.prober.use(self.config, Classifier())

    def take(self) -> Any:
        """The next connection that somebody wants: host, port, factory, time-out, our address."""
        return self.reactor.tcpClients.pop(0)

    def connector(self, name: str, route: Any) -> SmtpConnector:
        return SmtpConnector(cast(IClientReactor, self.reactor), "gw.example.org")

    def probe(self, route: str = "in", **more: Any) -> Deferred[ProbeResult]:
        return Deferred.fromCoroutine(self.prober.probe(route, ANN, stage="rcpt", **more))

    def answer(self, rcpt: bytes, mail: bytes = b"250 ok", banner: bytes = b"220 hello") -> StringTransport:
        """Take the next connection, and answer on it."""
        client = self.take()
        protocol, transport = client[2].buildProtocol(None), StringTransport()
        protocol.makeConnection(transport)
        protocol.dataReceived(banner + b"\r\n")
        for reply in (b"250 mx", mail, rcpt, b"250 reset"):
            if transport.value().endswith(b"QUIT\r\n") or transport.disconnecting:
                break
            protocol.dataReceived(reply + b"\r\n")
        return transport

    def refuse(self) -> None:
        client = self.take()
        client[2].clientConnectionFailed(None, Failure(ConnectError(string="refused")))


@pytest.fixture
def stand() -> Stand:
    return Stand()


def test_they_are_probers(stand: Stand) -> None:
    assert verifyObject(IProber, stand.prober)
    assert verifyObject(IProber, NoProber("none"))


@pytest.mark.parametrize(
    ("reply", "status", "is_outage"),
    [
        (b"250 2.1.5 ok", KNOWN, False),
        (b"251 will forward", KNOWN, False),
        (b"550 5.1.1 no such user", UNKNOWN, False),
        (b"550 no", UNKNOWN, False),
        (b"553 5.1.3 bad", UNKNOWN, False),
        (b"550 5.2.1 mailbox disabled", UNKNOWN, False),
        (b"550 5.4.1 Recipient address rejected: Access denied", UNKNOWN, False),
        (b"552 5.2.2 mailbox full", KNOWN, False),
        (b"452 4.2.2 mailbox full", KNOWN, False),
        (b"450 4.2.0 greylisted, come back", UNAVAILABLE, False),
        (b"451 4.3.0 later", UNAVAILABLE, False),
        (b"421 4.3.2 closing", UNAVAILABLE, True),
        (b"554 5.7.1 Relay access denied", UNAVAILABLE, True),
        (b"550 5.7.1 Service unavailable; client host [192.0.2.9] blocked using x.example", UNAVAILABLE, True),
        (b"554 5.7.64 TenantAttribution; Relay Access Denied", UNAVAILABLE, True),
        (b"530 5.7.0 Authentication required", UNAVAILABLE, True),
        (b"503 bad sequence", UNAVAILABLE, True),
    ],
)
def test_what_an_answer_means(stand: Stand, reply: bytes, status: RecipientStatus, is_outage: bool) -> None:
    asked = stand.probe()
    stand.answer(reply)
    while stand.reactor.tcpClients:
        stand.answer(reply)
    result = outcome(asked)
    assert result.status is status
    assert bool(result.reason) is is_outage
    assert result.reply == reply.decode()


def test_a_session_ends_with_quit(stand: Stand) -> None:
    asked = stand.probe()
    transport = stand.answer(b"250 ok")
    outcome(asked)
    lines = transport.value().decode().split("\r\n")
    assert lines == ["EHLO gw.example.org", "MAIL FROM:<>", "RCPT TO:<ann@example.org>", "RSET", "QUIT", ""]
    assert transport.disconnecting


def test_a_refused_sender_is_an_outage(stand: Stand) -> None:
    asked = stand.probe()
    stand.answer(b"503 no", mail=b"550 5.1.7 null sender not accepted")
    result = outcome(asked)
    assert result.status is UNAVAILABLE
    assert "null sender" in result.reason


def test_the_next_host_is_asked_where_one_is_away(stand: Stand) -> None:
    asked = stand.probe()
    stand.refuse()
    stand.answer(b"550 5.1.1 nobody")
    assert outcome(asked).status is UNKNOWN


def test_where_all_are_away_that_is_said(stand: Stand) -> None:
    asked = stand.probe()
    stand.refuse()
    stand.answer(b"", banner=b"554 5.7.1 go away")
    result = outcome(asked)
    assert (result.status, result.reply) == (UNAVAILABLE, "")
    assert "go away" in result.reason


@pytest.mark.parametrize("route", ["nowhere", "off", "mx"])
def test_a_route_without_a_server_asks_nobody(stand: Stand, route: str) -> None:
    result = outcome(stand.probe(route))
    assert result.status is UNAVAILABLE
    assert result.reason


def test_a_question_has_an_end(stand: Stand) -> None:
    asked = stand.probe()
    client = stand.take()
    protocol, transport = client[2].buildProtocol(None), StringTransport()
    protocol.makeConnection(transport)
    protocol.dataReceived(b"220 hello\r\n250 mx\r\n")
    stand.reactor.advance(121)
    result = outcome(asked)
    assert result.status is UNAVAILABLE
    assert "120 s" in result.reason
    assert transport.disconnecting


def test_cancelling_drops_the_connection(stand: Stand) -> None:
    asked = stand.probe()
    connector = stand.reactor.connectors[0]
    asked.cancel()
    assert isinstance(failure_of(asked), CancelledError)
    assert connector._disconnected


@pytest.mark.parametrize("pool", ["both", "one"])
def test_questions_go_out_from_where_mail_does(pool: str) -> None:
    stand = Stand(pool=pool)
    stand.probe()
    client: Any = stand.reactor.tcpClients[0]
    assert client[4] == ("192.0.2.99", 0)
    assert stand.answer(b"250 ok").value().startswith(b"EHLO out.example.org\r\n")


def test_an_error_of_ours_is_no_answer(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stand, "connector", lambda name, route: 1 / 0)
    result = outcome(stand.probe())
    assert result.status is UNAVAILABLE
    assert result.reason


def test_nobody_is_asked_by_who_must_not() -> None:
    result = outcome(Deferred.fromCoroutine(NoProber("not here").probe("in", ANN, stage="rcpt")))
    assert (result.status, result.reason) == (UNAVAILABLE, "not here")
