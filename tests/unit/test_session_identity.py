"""Who the client is when somebody stands in front of us: PROXY, XCLIENT, XFORWARD."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher

from mailgate.envelope import Client, Identity, Origin, Session, Tls
from mailgate.events import Refused, SessionClosed
from mailgate.reply import Reply
from mailgate.verdict import Continue, Reject
from mailgate.wire.proxy import write_v1, write_v2
from tests.unit.session_security import PASSWORD, b64, client, server, users
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
    assert [event["peer"] for event in logged if "peer" in event] == [f"unknown[{BALANCER}]"]


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
    assert wire.session.helo == ""
    assert wire.session.proxy == Client(ip_address(BALANCER), 40000)  # who is connected may say so again


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
    wire = make_told().connect(address).hello()
    assert b"XCLIENT" not in wire.octets
    assert b"XFORWARD" not in wire.octets
    before = wire.session
    assert wire.say(line) == [550]
    assert wire.session is before


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
