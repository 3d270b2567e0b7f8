"""Who the client is when somebody stands in front of us: PROXY, XCLIENT, XFORWARD."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher

from mailgate.envelope import Client, Identity, Origin, Session, Tls
from mailgate.events import Refused, SessionClosed
from mailgate.reply import Reply
from mailgate.verdict import Continue, Reject
from mailgate.wire.proxy import write_v1, write_v2
from tests.unit.session_security import ANN, PASSWORD, ROOT, b64, client, server, users
from tests.unit.smtp_stand import CONTENT, ENVELOPE, Call, Stand

MakeStand = Callable[..., Stand]

BALANCER, OTHER = "10.0.0.1", "192.0.2.77"
SOURCE, DESTINATION = (ip_address("203.0.113.9"), 4711), (ip_address("192.0.2.25"), 25)
SOURCE_6, DESTINATION_6 = (ip_address("2001:db8::9"), 4711), (ip_address("2001:db8::25"), 25)
V1, V2 = write_v1(SOURCE, DESTINATION), write_v2(SOURCE, DESTINATION)
REJECT = Reject(Reply.of(550, "5.7.1", "No"), "because")


@pytest.fixture
def make_proxied(make_stand: MakeStand) -> MakeStand:
    def make(*, services: dict[str, Any] | None = None, **settings: Any) -> Stand:
        return make_stand({"proxy_protocol_from": ["10.0.0.0/8"], **settings}, **(services or {}))

    return make


@pytest.fixture
def make_told(make_stand: MakeStand) -> MakeStand:
    """A listener that takes XCLIENT and XFORWARD from 10.0.0.0/8."""

    def make(*, services: dict[str, Any] | None = None, **settings: Any) -> Stand:
        fields = {"xclient_from": ["10.0.0.0/8"], "xforward_from": ["10.0.0.0/8"], **settings}
        return make_stand(fields, **(services or {}))

    return make


# -- PROXY


@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_header_names_the_client(make_proxied: MakeStand, header: bytes, size: int) -> None:
    stand = make_proxied()
    wire = stand.connect(BALANCER)
    assert wire.octets == b""
    for at in range(0, len(header), size):
        assert stand.script.asked == []
        wire.transport.protocol.dataReceived(header[at : at + size])
    wire.hello()
    assert wire.session.client == Client(*SOURCE)
    assert wire.session.proxy == Client(ip_address(BALANCER), 40000)
    assert wire.session.early_octets == 0
    assert wire.data_again() == [250]
    assert wire.say("QUIT") == [221]
    wire.lose()
    assert stand.events.of(SessionClosed)[0].client == "unknown[203.0.113.9]"


@pytest.mark.parametrize("header", [V1, V2, write_v1(None, None)], ids=["v1", "v2", "unknown"])
def test_what_stands_behind_the_header_is_early_talk(make_proxied: MakeStand, header: bytes) -> None:
    stand = make_proxied()
    waited = stand.pend("connect")
    wire = stand.connect(BALANCER)
    assert wire.send(header + b"EHLO a\r\n") == []
    assert wire.session.early_octets == 8
    waited.callback(Continue())
    assert wire.codes() == [220, 250]


@pytest.mark.parametrize(
    "header",
    [write_v2(None, None, is_local=True), write_v2(None, None), write_v1(None, None)],
    ids=["local", "unspec", "v1"],
)
def test_a_check_of_health_is_the_balancers_own(make_proxied: MakeStand, header: bytes) -> None:
    stand = make_proxied()
    wire = stand.connect(BALANCER)
    assert wire.send(header + b"QUIT\r\n") == [220, 221]
    assert wire.session.client == Client(ip_address(BALANCER), 40000)
    assert wire.session.proxy is None


@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
@pytest.mark.parametrize("address", [OTHER, "2001:db8::1", "/run/mail.sock"])
def test_a_strangers_header_is_none(make_proxied: MakeStand, header: bytes, address: str) -> None:
    stand = make_proxied(max_errors=1000)
    wire = stand.connect(address)
    assert wire.codes() == [220]
    assert set(wire.send(header)) <= {500, 421}
    assert str(wire.session.client.address or address) == address
    assert wire.session.proxy is None


def test_who_the_client_is_decides(make_proxied: MakeStand) -> None:
    stand = make_proxied(role="hybrid", trusted_networks=["203.0.113.0/24", "10.0.0.0/8"])
    wire = stand.connect(BALANCER)
    assert wire.send(V1) == [220]
    assert wire.session.identity == Identity("203.0.113.9", "network")
    wire = stand.connect(BALANCER)
    assert wire.send(write_v1(SOURCE_6, DESTINATION_6)) == [220]
    assert wire.session.identity is None


def test_the_clients_name_is_looked_up(make_proxied: MakeStand) -> None:
    asked: list[object] = []

    def name(address: object) -> str:
        asked.append(address)
        return "client.example"

    stand = make_proxied(resolve_clients=True, services={"client_name": name})
    wire = stand.connect(BALANCER)
    assert asked == []
    wire.send(V2)
    assert asked == [SOURCE[0]]
    assert str(wire.session.client) == "client.example[203.0.113.9]"


@pytest.mark.parametrize("octets", [b"EHLO a\r\n", b"\r\nNOOP", b"PROXY TCP4 x", b"\r\n\r\n\0\r\nQUIT\n\x20\xff\xff"])
def test_what_is_no_header_ends_the_connection(make_proxied: MakeStand, octets: bytes) -> None:
    logged: list[LogEvent] = []
    observer: ILogObserver = logged.append  # type: ignore[assignment]  # zope's way
    globalLogPublisher.addObserver(observer)
    stand = make_proxied()
    wire = stand.connect(BALANCER)
    assert wire.send(octets) == []
    globalLogPublisher.removeObserver(observer)
    assert wire.is_closed
    assert wire.send(V1 + b"EHLO a\r\n") == []
    wire.lose()
    stand.strangers += 1
    assert stand.script.asked == []
    (told,) = [event for event in logged if "peer" in event]
    assert told["peer"] == f"unknown[{BALANCER}]"
    assert formatEvent(told).count("PROXY") <= 1


def test_a_header_has_its_time(make_proxied: MakeStand) -> None:
    stand = make_proxied()
    wire = stand.connect(BALANCER)
    for one in V1[:29]:
        wire.send(bytes([one]))
        stand.clock.advance(1)
    assert not wire.is_closed
    stand.clock.advance(1)
    assert wire.is_closed
    wire.lose()
    stand.strangers += 1
    assert stand.causes == []


def test_a_connection_that_never_says_for_whom_it_is(make_proxied: MakeStand) -> None:
    stand = make_proxied()
    wire = stand.connect(BALANCER)
    assert stand.listener.session_count == 1
    wire.lose()
    stand.strangers += 1
    assert stand.listener.session_count == 0


def test_a_proxy_over_the_limit_is_told_at_once(make_proxied: MakeStand) -> None:
    stand = make_proxied(max_connections=1)
    first = stand.connect(BALANCER)
    second = stand.connect(BALANCER)
    assert second.codes() == [421]
    assert second.is_closed
    assert second.send(V1 + b"EHLO a\r\n") == []
    assert first.send(V1) == [220]
    second.lose()
    assert stand.refusals == [("connect", "421")]
    assert stand.events.of(SessionClosed)[0].client == f"unknown[{BALANCER}]"


@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
def test_a_client_over_its_limit_gets_no_handshake(make_proxied: MakeStand, tmp_path: Path, header: bytes) -> None:
    stand = make_proxied(tls="implicit", max_connections_per_client=1, services={"tls": server(tmp_path)})
    stand.connect(BALANCER).secure(client(), before=header).hello()
    late = stand.connect(BALANCER)
    assert late.send(header + b"\x16\x03\x01") == []
    assert late.transport.disconnected
    assert stand.refusals == [("connect", "")]
    late.lose()
    other = write_v1(SOURCE_6, DESTINATION_6)
    stand.connect(BALANCER).secure(client(), before=other).hello()


def test_a_proxy_that_comes_while_draining(make_proxied: MakeStand) -> None:
    stand = make_proxied()
    stand.connect(BALANCER).send(V1 + b"EHLO a\r\nMAIL FROM:<>\r\n")
    stand.listener.drain()
    assert stand.connect(BALANCER).codes() == [421]


@pytest.mark.parametrize("end", ["drain", "cut"])
def test_the_end_of_the_listener_before_a_header(make_proxied: MakeStand, end: str) -> None:
    stand = make_proxied()
    wire = stand.connect(BALANCER)
    drained = getattr(stand.listener, end)()
    assert wire.is_closed
    assert drained is None or not drained.called
    wire.lose()
    assert drained is None or drained.called
    stand.strangers += 1


def test_limits_count_the_client_that_is_told(make_proxied: MakeStand) -> None:
    stand = make_proxied(max_connections_per_client=2)
    wires = [stand.connect(BALANCER) for _ in range(5)]
    assert [wire.send(V1) for wire in wires] == [[220], [220], [421], [421], [421]]
    assert stand.connect(BALANCER).send(write_v1((ip_address("203.0.113.10"), 1), DESTINATION)) == [220]
    for wire in wires[1:]:
        wire.lose()
    assert stand.connect(BALANCER).send(V2) == [220]


def test_all_connections_are_counted(make_proxied: MakeStand) -> None:
    stand = make_proxied(max_connections=2)
    first, second, third = [stand.connect(BALANCER) for _ in range(3)]
    assert stand.listener.session_count == 3
    assert third.send(V1) == [421]
    third.lose()
    assert first.send(V1) == [220]
    assert second.send(V2) == [220]


TLS = Tls(version="TLSv1.3", cipher="TLS_AES_256_GCM_SHA384")


def test_tls_that_the_proxy_has_ended(make_proxied: MakeStand, tmp_path: Path) -> None:
    services = {"tls": server(tmp_path), "authenticator": users(tmp_path)}
    stand = make_proxied(role="outbound", tls="required", auth="users", services=services)
    wire = stand.connect(BALANCER)
    assert wire.send(write_v2(SOURCE, DESTINATION, tls=TLS)) == [220]
    assert wire.say("EHLO client.example") == [250]
    assert wire.session.tls == TLS
    assert wire.session.protocol == "ESMTPS"
    assert b"STARTTLS" not in wire.octets
    assert b"250-AUTH SCRAM-SHA-256 PLAIN LOGIN\r\n" in wire.octets  # nothing of ours to bind to
    assert wire.say("STARTTLS") == [503]
    plain = b64(f"\0ann\0{PASSWORD}")
    assert wire.say("AUTH SCRAM-SHA-256-PLUS", f"AUTH PLAIN {plain}") == [504, 235]
    assert wire.data_again() == [250]
    assert stand.script.taken[0][0].protocol == "ESMTPSA"


@pytest.mark.parametrize("tls", ["implicit", "optional"])
def test_a_check_of_health_by_the_proxy_is_no_refusal(make_proxied: MakeStand, tmp_path: Path, tls: str) -> None:
    stand = make_proxied(tls=tls, services={"tls": server(tmp_path)})
    wire = stand.connect(BALANCER)
    wire.send(write_v2(None, None, is_local=True))
    wire.lose()
    assert stand.refusals == []
    assert stand.causes == ["lost"]


def test_clear_text_at_the_proxy(make_proxied: MakeStand, tmp_path: Path) -> None:
    stand = make_proxied(tls="required", services={"tls": server(tmp_path)})
    wire = stand.connect(BALANCER)
    assert wire.send(V2) == [220]
    assert wire.say("EHLO client.example", "MAIL FROM:<>") == [250, 530]
    wire.starttls(client())
    assert wire.say("EHLO client.example", "MAIL FROM:<>") == [250, 250]


@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
@pytest.mark.parametrize("is_split", [True, False])
def test_a_header_and_the_handshake_behind_it(
    make_proxied: MakeStand, tmp_path: Path, header: bytes, is_split: bool
) -> None:
    stand = make_proxied(tls="implicit", services={"tls": server(tmp_path)})
    wire = stand.connect(BALANCER)
    if is_split:
        wire.transport.protocol.dataReceived(header[:20])
        header = header[20:]
    wire.secure(client(), before=header)
    wire.hello()
    assert wire.session.client == Client(*SOURCE)
    assert wire.session.tls is not None
    assert wire.session.early_octets == 0
    assert wire.data_again() == [250]


# -- XCLIENT


def test_xclient_begins_the_session_anew(make_told: MakeStand) -> None:
    stand = make_told()
    wire = stand.connect(BALANCER).hello()
    assert b"250-XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT\r\n" in wire.octets
    before = wire.session
    assert wire.say("XCLIENT NAME=client.example ADDR=203.0.113.9 PORT=4711 HELO=friend.example") == [220]
    after = wire.session
    assert after is not before
    assert after.id != before.id
    assert after.client == Client(ip_address("203.0.113.9"), 4711, "client.example")
    assert after.proxy == Client(ip_address(BALANCER), 40000)
    assert after.helo == "friend.example"
    assert stand.script.asked == ["connect", "helo", "connect"]
    assert wire.say("EHLO other.example") == [250]
    assert wire.session.helo == "other.example"
    assert wire.data_again() == [250]
    assert stand.script.taken[0][0] is after
    wire.lose()
    (closed,) = stand.events.of(SessionClosed)
    assert closed.client == "client.example[203.0.113.9]"


def test_a_session_without_a_greeting_needs_one(make_told: MakeStand) -> None:
    wire = make_told().connect(BALANCER).hello()
    assert wire.say("XCLIENT ADDR=203.0.113.9", "MAIL FROM:<>", "EHLO a", "MAIL FROM:<>") == [220, 503, 250, 250]


def test_xclient_over_and_over(make_told: MakeStand) -> None:
    stand = make_told()
    wire = stand.connect(BALANCER).hello()
    assert wire.say("XCLIENT HELO=a.example", "XCLIENT ADDR=IPV6:2001:db8::9", "XCLIENT PORT=7") == [220] * 3
    assert wire.session.client == Client(ip_address("2001:db8::9"), 7)
    assert wire.session.helo == "a.example"
    assert wire.session.proxy == Client(ip_address(BALANCER), 40000)  # who is connected may say so again


def test_what_xclient_has_told_stays_until_it_tells_otherwise(make_told: MakeStand) -> None:
    stand = make_told(role="outbound", resolve_clients=True, services={"client_name": lambda address: "looked-up"})
    wire = stand.connect(BALANCER).hello()
    assert wire.say("XCLIENT LOGIN=ann HELO=a.example", "XCLIENT NAME=b.example ADDR=203.0.113.9 PORT=7") == [220] * 2
    assert wire.say("EHLO c.example", "XCLIENT DESTADDR=192.0.2.25", "XCLIENT DESTPORT=587") == [250, 220, 220]
    session = wire.session
    assert session.client == Client(ip_address("203.0.113.9"), 7, "b.example")
    assert (session.identity, session.helo) == (Identity("ann", "XCLIENT"), "a.example")
    assert session.destination == (ip_address("192.0.2.25"), 587)
    assert stand.trusted.asked[-1] == "connect"
    assert wire.say("XCLIENT LOGIN=[UNAVAILABLE] HELO=[UNAVAILABLE] DESTADDR=[UNAVAILABLE]") == [220]
    session = wire.session
    assert (session.identity, session.helo, session.destination) == (None, "", (None, 587))
    assert wire.say("XCLIENT ADDR=203.0.113.10") == [220]
    assert wire.session.client == Client(ip_address("203.0.113.10"), 7, "looked-up")


def test_another_client_is_told_of_anew(make_told: MakeStand) -> None:
    stand = make_told(role="outbound")
    wire = stand.connect(BALANCER).hello()
    first = ["XCLIENT LOGIN=joe HELO=one.example", "XCLIENT ADDR=203.0.113.9"]
    assert wire.say(*first, "XCLIENT ADDR=203.0.113.10") == [220] * 3
    assert (wire.session.identity, wire.session.helo) == (None, "")
    assert wire.say("XCLIENT LOGIN=joe", "EHLO one.example") == [220, 250]
    assert wire.data_again() == [250]
    assert wire.say("XCLIENT NAME=two.example") == [220]
    assert (wire.session.identity, wire.session.helo) == (None, "")


def test_a_login_of_auth_is_not_that_of_another_client(make_told: MakeStand, tmp_path: Path) -> None:
    stand = make_told(role="hybrid", auth="users", auth_without_tls=True, services={"authenticator": users(tmp_path)})
    wire = stand.connect(BALANCER).hello()
    login = b64(f"\0ann\0{PASSWORD}")
    assert wire.say("XCLIENT PORT=1", "EHLO a", f"AUTH PLAIN {login}", "XCLIENT PORT=2") == [220, 250, 235, 220]
    assert wire.session.identity is None


@pytest.mark.parametrize(("protocol", "hello", "words"), [("smtp", "EHLO", "ESMTPA"), ("lmtp", "LHLO", "LMTPA")])
def test_the_protocol_that_is_told(make_told: MakeStand, protocol: str, hello: str, words: str) -> None:
    wire = make_told(role="outbound", protocol=protocol).connect(BALANCER).hello()
    assert wire.say("XCLIENT PROTO=ESMTP", "XCLIENT LOGIN=ann HELO=a.example") == [220, 220]
    assert wire.session.protocol == words
    assert wire.say("XCLIENT PROTO=SMTP") == [220]
    assert wire.session.protocol == ("SMTP" if protocol == "smtp" else words)
    assert wire.say(f"{hello} b.example") == [250]
    assert wire.session.protocol == words


def test_what_was_told_in_the_clear_of_the_greeting_is_forgotten(make_told: MakeStand, tmp_path: Path) -> None:
    wire = make_told(services={"tls": server(tmp_path)}).connect(BALANCER).hello()
    assert wire.say("XCLIENT HELO=a.example PROTO=ESMTP", "EHLO a") == [220, 250]
    wire.starttls(client())
    assert wire.say("XCLIENT PORT=7") == [220]
    assert (wire.session.helo, wire.session.protocol) == ("", "SMTP")


@pytest.mark.parametrize(
    ("attributes", "name"),
    [
        ("NAME=client.example ADDR=203.0.113.9", "client.example"),
        ("NAME=[UNAVAILABLE] ADDR=203.0.113.9", ""),
        ("NAME=[TEMPUNAVAIL] ADDR=203.0.113.9", ""),
        ("ADDR=203.0.113.9", "looked-up.example"),
        ("ADDR=[UNAVAILABLE]", ""),
        ("ADDR=127.0.0.1", ""),
    ],
)
def test_the_name_of_the_client(make_told: MakeStand, attributes: str, name: str) -> None:
    stand = make_told(resolve_clients=True, services={"client_name": lambda address: "looked-up.example"})
    wire = stand.connect(BALANCER).hello()
    assert wire.say(f"XCLIENT {attributes}") == [220]
    assert wire.session.client.name == name


def test_a_name_that_has_to_be_waited_for(make_told: MakeStand) -> None:
    names: list[Deferred[str]] = []

    def name(address: object) -> Deferred[str]:
        names.append(Deferred())
        return names[-1]

    stand = make_told(resolve_clients=True, services={"client_name": name})
    wire = stand.connect(BALANCER)
    names.pop().callback("balancer.example")
    wire.hello()
    assert wire.say("XCLIENT ADDR=203.0.113.9", "EHLO a") == []
    names.pop().callback("client.example")
    assert wire.codes() == [220, 250]
    assert wire.session.client.name == "client.example"


LINES_OF_WHO_MAY_RELAY = {
    "MAIL FROM:<> HOLDFOR=60": (250, 555),
    "MAIL FROM:<> BY=600;R": (250, 250),
    "ETRN client.example": (253, 459),
}


@pytest.mark.parametrize("role", ["inbound", "outbound", "hybrid"])
@pytest.mark.parametrize("way", ["XCLIENT", "AUTH"])
def test_a_login_opens_nothing_where_nobody_may_relay(
    make_told: MakeStand, tmp_path: Path, role: str, way: str
) -> None:
    services = {"authenticator": users(tmp_path)}
    stand = make_told(role=role, auth="users", auth_without_tls=True, services=services)
    wire = stand.connect(BALANCER).hello()
    login = b64(f"\0ann\0{PASSWORD}")
    wire.say("XCLIENT LOGIN=ann" if way == "XCLIENT" else f"AUTH PLAIN {login}", "EHLO a")
    assert wire.session.identity is not None
    is_inbound = role == "inbound"
    for line, codes in LINES_OF_WHO_MAY_RELAY.items():
        assert wire.say(line, "RSET") == [codes[is_inbound], 250]
    wire.protocol.dataReceived(b"MAIL FROM:<> MT-PRIORITY=3\r\n")
    assert [reply.status for reply in wire.replies()] == ["2.3.6" if is_inbound else "2.1.0"]
    assert (b"FUTURERELEASE" in wire.octets) == (not is_inbound)


@pytest.fixture
def make_certified(make_told: MakeStand, tmp_path: Path) -> MakeStand:
    """A listener that takes XCLIENT, and knows the certificate ANN by its fingerprint or its authority."""

    def make(*, is_listed: bool, **settings: Any) -> Stand:
        known = {ANN.fingerprint: "front"} if is_listed else {}
        services = {
            "tls": server(tmp_path, settings["client_certificates"], root=None if is_listed else ROOT),
            "fingerprints": known,
            "authenticator": users(tmp_path, certificates=known),
        }
        return make_told(
            role="outbound", auth="users", auth_mechanisms=["external", "plain"], services=services, **settings
        )

    return make


@pytest.mark.parametrize("is_listed", [True, False])
@pytest.mark.parametrize("is_before", [True, False], ids=["XCLIENT first", "TLS first"])
def test_a_certificate_of_the_proxy_is_not_its_clients(
    make_certified: MakeStand, is_listed: bool, is_before: bool
) -> None:
    stand = make_certified(is_listed=is_listed, client_certificates="request")
    wire = stand.connect(BALANCER).hello()
    if is_before:
        assert wire.say("XCLIENT ADDR=203.0.113.9", "EHLO a") == [220, 250]
        wire.starttls(client(ANN))
    else:
        wire.starttls(client(ANN))
        assert (wire.session.identity is not None) is is_listed
        assert wire.say("EHLO a") == [250]
        assert b"250-AUTH EXTERNAL PLAIN\r\n" in wire.octets
        assert wire.say("XCLIENT ADDR=203.0.113.9") == [220]
    assert wire.session.identity is None
    assert wire.say("EHLO a", "AUTH EXTERNAL =", "MAIL FROM:<>") == [250, 504, 530]
    assert b"EXTERNAL" not in wire.octets.rpartition(b"250-mx.example.org")[2]


@pytest.mark.parametrize("is_listed", [True, False])
def test_a_certificate_that_is_required_is_that_of_who_is_connected(make_certified: MakeStand, is_listed: bool) -> None:
    stand = make_certified(is_listed=is_listed, client_certificates="require")
    wire = stand.connect(BALANCER).hello().starttls(client(ANN))
    assert wire.say("EHLO a", "XCLIENT ADDR=203.0.113.9 LOGIN=ann", "EHLO a", "MAIL FROM:<>") == [250, 220, 250, 250]
    assert wire.session.identity == Identity("ann", "XCLIENT")


def test_the_failures_of_one_client_are_not_the_next_ones(make_told: MakeStand, tmp_path: Path) -> None:
    services = {"authenticator": users(tmp_path)}
    stand = make_told(
        role="outbound", auth="users", auth_without_tls=True, max_auth_failures=2, max_errors=50, services=services
    )
    wire = stand.connect(BALANCER).hello()
    wrong = f"AUTH PLAIN {b64(chr(0) + 'ann' + chr(0) + 'wrong')}"
    for number in range(1, 4):
        assert wire.say(f"XCLIENT ADDR=203.0.113.{number}", "EHLO a", wrong) == [220, 250]
        stand.clock.advance(1)  # each waits as for a first failure
        assert wire.codes() == [535]
    wire.say(wrong)
    stand.clock.advance(2)
    assert wire.codes() == [535, 421]


@pytest.mark.parametrize("networks", [["10.0.0.0/8"], ["0.0.0.0/0"], ["0.0.0.0/8", "10.0.0.0/8"]])
def test_an_address_that_is_not_available_is_trusted_by_nobody(make_told: MakeStand, networks: list[str]) -> None:
    stand = make_told(role="hybrid", trusted_networks=networks)
    wire = stand.connect(BALANCER).hello()
    assert wire.session.identity is not None
    assert wire.say("XCLIENT ADDR=[UNAVAILABLE]", "EHLO a") == [220, 250]
    assert wire.session.identity is None
    assert wire.session.client.address is not None
    assert "connect" in stand.script.asked
    assert wire.say("XCLIENT ADDR=10.1.1.1") == [220]
    assert wire.session.identity == Identity("10.1.1.1", "network")


def test_trust_goes_by_the_client_that_is_told(make_told: MakeStand) -> None:
    stand = make_told(role="hybrid", trusted_networks=["10.0.0.0/8"])
    wire = stand.connect(BALANCER).hello()
    assert wire.say("XCLIENT ADDR=203.0.113.9", "EHLO a") == [220, 250]
    assert wire.session.identity is None
    assert wire.data_again() == [250]
    assert "mail" in stand.script.asked
    assert stand.trusted.asked == ["connect", "helo"]


def test_a_login_that_is_told(make_told: MakeStand, tmp_path: Path) -> None:
    services = {"tls": server(tmp_path), "authenticator": users(tmp_path)}
    stand = make_told(role="outbound", auth="users", auth_without_tls=True, services=services)
    wire = stand.connect(BALANCER).hello()
    assert wire.say("MAIL FROM:<>", "XCLIENT LOGIN=ann", "EHLO a") == [530, 220, 250]
    assert wire.session.identity == Identity("ann", "XCLIENT")
    assert wire.session.protocol == "ESMTPA"
    assert wire.say("AUTH PLAIN", "STARTTLS") == [503, 503]
    assert wire.data_again() == [250]
    assert wire.say("XCLIENT LOGIN=[UNAVAILABLE]", "EHLO a", "MAIL FROM:<>") == [220, 250, 530]


def test_the_connection_is_judged_again(make_told: MakeStand) -> None:
    stand = make_told()
    wire = stand.connect(BALANCER).hello()

    def connect(session: Session) -> object:
        return REJECT if str(session.client.address) == "203.0.113.9" else Continue()

    stand.script.answers["connect"] = Call(connect)
    assert wire.say("XCLIENT ADDR=203.0.113.8", "XCLIENT ADDR=203.0.113.9") == [220, 554]
    assert wire.is_closed
    (refused,) = stand.events.of(Refused)
    assert (refused.stage, refused.client) == ("connect", "unknown[203.0.113.9]")


def test_not_within_a_transaction(make_told: MakeStand) -> None:
    wire = make_told().connect(BALANCER).hello()
    assert wire.say("MAIL FROM:<>", "XCLIENT ADDR=203.0.113.9", "XFORWARD IDENT=1") == [250, 503, 503]
    assert wire.say("RCPT TO:<bob@example.org>") == [250]
    assert str(wire.session.client.address) == BALANCER


@pytest.mark.parametrize("address", [OTHER, "/run/mail.sock"])
@pytest.mark.parametrize("line", ["XCLIENT ADDR=10.0.0.2", "XFORWARD IDENT=1", "XCLIENT", "XFORWARD FOO"])
def test_strangers_may_not_say_so(make_told: MakeStand, address: str, line: str) -> None:
    stand = make_told()
    wire = stand.connect(address).hello()
    assert b"XCLIENT" not in wire.octets
    assert b"XFORWARD" not in wire.octets
    before = wire.session
    assert wire.say(line) == [550]
    assert wire.session is before
    verb = line.split()[0].lower()
    (refused,) = stand.events.of(Refused)
    assert (refused.stage, refused.reply[:3], refused.reason) == (verb, "550", f"the client is in none of {verb}_from")


@pytest.mark.parametrize("line", ["XCLIENT ADDR=10.0.0.2", "XFORWARD IDENT=1", "ETRN example.org"])
def test_refusals_have_their_bound(make_told: MakeStand, line: str) -> None:
    stand = make_told(max_errors=3)
    wire = stand.connect(OTHER).hello()
    assert wire.say(*[line] * 5)[-1] == 421
    assert len(stand.refusals) == 3


@pytest.mark.parametrize("line", ["XCLIENT ADDR=10.0.0.2", "XFORWARD IDENT=1", "ETRN example.org"])
def test_clear_text_that_is_refused_is_told(make_told: MakeStand, tmp_path: Path, line: str) -> None:
    stand = make_told(tls="required", services={"tls": server(tmp_path)})
    assert stand.connect(BALANCER).hello().say(line) == [530]
    assert stand.refusals == [(line.split()[0].lower(), "530")]


@pytest.mark.parametrize("line", ["XCLIENT ADDR=10.0.0.2", "XFORWARD IDENT=1"])
def test_nobody_may_where_nobody_is_named(make_stand: MakeStand, line: str) -> None:
    assert make_stand().connect(BALANCER).hello().say(line) == [502]


@pytest.mark.parametrize(
    "attributes",
    [
        "",
        "ADDR",
        "ADDR=",
        "ADDR=x",
        "ADDR=2001:db8::1",
        "PORT=65536",
        "FOO=1",
        "NAME=a NAME=b",
        "HELO=+0D+0A",
        "LOGIN=a+0Ab",
    ],
)
def test_what_xclient_may_not_say(make_told: MakeStand, attributes: str) -> None:
    wire = make_told().connect(BALANCER).hello()
    before = wire.session
    assert wire.say(f"XCLIENT {attributes}", "MAIL FROM:<>") == [501, 250]
    assert wire.session is before


def test_limits_count_the_client_that_xclient_tells(make_told: MakeStand) -> None:
    stand = make_told(max_connections_per_client=2)
    direct = stand.connect("203.0.113.9")
    wires = [stand.connect(BALANCER).hello() for _ in range(2)]
    assert wires[0].say("XCLIENT ADDR=203.0.113.9") == [220]
    assert stand.connect(BALANCER).codes() == [220]  # the first is no more the balancer's
    assert wires[1].say("XCLIENT ADDR=203.0.113.9") == [421]
    assert wires[1].is_closed
    assert stand.events.of(Refused)[0].client == "unknown[203.0.113.9]"
    wires[1].lose()
    direct.lose()
    assert stand.connect("203.0.113.9").codes() == [220]


def test_xclient_while_the_listener_ends(make_told: MakeStand) -> None:
    stand = make_told()
    wire = stand.connect(BALANCER).hello()
    waited = stand.pend("mail")
    wire.say("MAIL FROM:<>", "RSET", "XCLIENT ADDR=203.0.113.9")
    stand.listener.drain()
    waited.callback(Continue())
    assert wire.codes() == [250, 250, 421]
    assert wire.is_closed


def test_xclient_under_tls(make_told: MakeStand, tmp_path: Path) -> None:
    stand = make_told(services={"tls": server(tmp_path)})
    wire = stand.connect(BALANCER).hello().starttls(client())
    assert wire.say("EHLO a", "XCLIENT ADDR=203.0.113.9") == [250, 220]
    assert wire.session.tls is not None
    assert wire.say("EHLO a", "STARTTLS") == [250, 503]
    assert wire.session.protocol == "ESMTPS"


def test_xclient_behind_a_proxy_goes_by_whom_the_proxy_named(make_told: MakeStand) -> None:
    settings = {"proxy_protocol_from": ["192.0.2.77/32"], "xclient_from": ["203.0.113.0/24"]}
    wire = make_told(**settings).connect(OTHER)
    assert wire.send(V1) == [220]
    assert wire.session.proxy == Client(ip_address(OTHER), 40000)
    assert wire.say("EHLO a", "XCLIENT ADDR=198.51.100.1") == [250, 220]
    assert wire.session.client == Client(ip_address("198.51.100.1"), 4711)
    assert wire.session.proxy == Client(*SOURCE)


def test_a_proxy_that_is_no_client_of_xclient(make_told: MakeStand) -> None:
    wire = make_told(proxy_protocol_from=["10.0.0.0/8"]).connect(BALANCER)
    assert wire.send(V1) == [220]
    assert wire.say("EHLO a", "XCLIENT ADDR=10.0.0.2") == [250, 550]


# -- XFORWARD


def origins(stand: Stand) -> Iterator[Origin | None]:
    return (transaction.origin for _, transaction, _, _ in stand.script.taken)


def test_xforward_is_about_the_next_message_only(make_told: MakeStand) -> None:
    stand = make_told()
    wire = stand.connect(BALANCER).hello()
    assert b"250-XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE\r\n" in wire.octets
    assert (
        wire.say("XFORWARD NAME=client.example ADDR=203.0.113.9 PORT=4711", "XFORWARD IDENT=1 SOURCE=REMOTE")
        == [250] * 2
    )
    assert wire.data_again() == [250]
    assert wire.data_again() == [250]
    told = Origin(name="client.example", address="203.0.113.9", port=4711, ident="1", source="REMOTE")
    assert list(origins(stand)) == [told, None]
    assert str(wire.session.client.address) == BALANCER


@pytest.mark.parametrize("line", ["RSET", "EHLO a", "XCLIENT NAME=a.example HELO=b.example"])
def test_what_takes_back_xforward(make_told: MakeStand, line: str) -> None:
    stand = make_told()
    wire = stand.connect(BALANCER).hello()
    wire.say("XFORWARD IDENT=1", line)
    assert wire.data_again() == [250]
    assert list(origins(stand)) == [None]


def test_what_does_not_take_back_xforward(make_told: MakeStand) -> None:
    stand = make_told()
    wire = stand.connect(BALANCER).hello()
    stand.script.answers["mail"] = REJECT
    assert wire.say("XFORWARD IDENT=1", "NOOP", "XFORWARD FOO=1", "MAIL FROM:<>", "MAIL <") == [250, 250, 501, 550, 501]
    assert [one.ident for one in stand.events.of(Refused) if one.queue_id] == ["1"]
    del stand.script.answers["mail"]
    assert wire.data_again() == [250]
    assert [origin and origin.ident for origin in origins(stand)] == ["1"]


def test_a_transaction_that_came_to_nothing_takes_back_xforward(make_told: MakeStand) -> None:
    stand = make_told()
    wire = stand.connect(BALANCER).hello()
    wire.say("XFORWARD IDENT=1")
    wire.send(ENVELOPE + b"DATA\r\n")
    assert wire.send(b"a\nb\r\n.\r\n")[-1] == 550
    wire.say("XFORWARD IDENT=2")
    assert wire.send(ENVELOPE + b"BDAT 2 LAST\r\na\n")[-1] == 550
    wire.send(ENVELOPE + b"DATA\r\n" + CONTENT)
    assert [origin for origin in origins(stand) if origin is not None] == []
