"""TLS in a session: STARTTLS and implicit TLS, what it forgets and what it gives, and handshakes that fail."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from OpenSSL import SSL
from twisted.internet.defer import Deferred

from mailgate.events import Refused, SessionClosed
from mailgate.reply import Reply
from mailgate.verdict import Continue, Reject
from tests.unit.certificates import issue
from tests.unit.session_security import ANN, OTHER_ROOT, PASSWORD, ROOT, b64, client, server, users
from tests.unit.smtp_stand import CONTENT, ENVELOPE, Call, Stand, Wire

#: A listener that has a certificate.
MakeTls = Callable[..., Stand]

ANNS = b64(f"\0ann\0{PASSWORD}")
STRANGE = issue(OTHER_ROOT, "eve@client.example")


@pytest.fixture
def make_tls(make_stand: Callable[..., Stand], tmp_path: Path) -> MakeTls:
    def make(mode: Any = "none", *, root: Any = None, **settings: Any) -> Stand:
        services = settings.pop("services", {})
        if settings.get("auth"):
            services["authenticator"] = users(tmp_path, certificates=services.get("fingerprints"))
        settings["client_certificates"] = mode
        return make_stand(settings, tls=server(tmp_path, mode, root=root), **services)

    return make


# -- STARTTLS


@pytest.mark.parametrize(
    ("protocol", "newest", "word", "version"),
    [
        ("smtp", SSL.TLS1_3_VERSION, "ESMTPS", "TLSv1.3"),
        ("smtp", SSL.TLS1_2_VERSION, "ESMTPS", "TLSv1.2"),
        ("lmtp", SSL.TLS1_3_VERSION, "LMTPS", "TLSv1.3"),
    ],
)
def test_a_message_under_tls(make_tls: MakeTls, protocol: str, newest: int, word: str, version: str) -> None:
    stand = make_tls(protocol=protocol)
    wire = stand.connect().hello().starttls(client(newest=newest, name="MX.example.org"))
    hello = "LHLO" if stand.is_lmtp else "EHLO"
    assert wire.say(f"{hello} other.example") == [250]
    assert wire.send(ENVELOPE + b"DATA\r\n") == [250, 250, 354]
    assert wire.send(CONTENT) == [250]
    ((session, _, _, _),) = stand.script.taken
    assert session.tls is not None
    assert (session.tls.version, session.tls.server_name) == (version, "mx.example.org")
    assert (session.protocol, session.helo, session.identity) == (word, "other.example", None)
    assert wire.say("QUIT") == [221]
    assert wire.is_closed
    wire.lose()
    assert stand.causes == ["quit"]


def test_starttls_takes_nothing_and_needs_a_greeting(make_tls: MakeTls) -> None:
    wire = make_tls().connect()
    assert wire.say("STARTTLS") == [220, 503]
    assert wire.say("EHLO client.example", "STARTTLS now") == [250, 501]
    wire.starttls(client())
    assert wire.say("EHLO client.example") == [250]
    assert b"STARTTLS" not in wire.octets.rpartition(b"250-mx.example.org")[2]
    assert wire.say("STARTTLS") == [503]


@pytest.mark.parametrize("settings", [{"tls": "off"}, {"hide": ["starttls"]}])
def test_starttls_that_is_not_offered(make_tls: MakeTls, settings: dict[str, Any]) -> None:
    assert make_tls(**settings).connect().hello().say("STARTTLS") == [502]


def test_not_after_auth(make_tls: MakeTls) -> None:
    stand = make_tls(role="outbound", auth="users", auth_without_tls=True)
    wire = stand.connect().hello()
    assert wire.say(f"AUTH PLAIN {b64(chr(0) + 'ann' + chr(0) + 'correct horse')}", "STARTTLS", "NOOP") == [
        235,
        503,
        250,
    ]
    assert wire.session.tls is None


def test_nothing_that_was_said_in_the_clear_is_left(make_tls: MakeTls) -> None:
    stand = make_tls(xforward_from=["192.0.2.0/24"])
    wire = stand.connect().hello()
    assert wire.say("XFORWARD IDENT=1", "MAIL FROM:<evil@client.example>", "RCPT TO:<bob@example.org>") == [250] * 3
    wire.starttls(client())
    assert (wire.session.helo, wire.session.protocol) == ("", "SMTP")
    assert wire.say("MAIL FROM:<>", "RCPT TO:<bob@example.org>", "DATA") == [503, 503, 503]
    assert wire.say("EHLO client.example") == [250]
    assert wire.data_again() == [250]
    transaction = stand.script.taken[0][1]
    assert (str(transaction.sender), transaction.origin) == ("ann@client.example", None)
    assert [str(one.address) for one in transaction.recipients] == ["bob@example.org"]


def test_chunks_of_clear_text_are_thrown_away(make_tls: MakeTls) -> None:
    stand = make_tls()
    wire = stand.connect().hello()
    large = b"x" * 70 + b"\r\n"
    assert wire.send(ENVELOPE + b"BDAT 1440\r\n" + large * 20) == [250, 250, 250]
    assert len(stand.files) == 1
    wire.starttls(client())
    assert stand.files == []
    assert wire.say("EHLO client.example", "BDAT 0 LAST") == [250, 503]


def test_greetings_under_tls_are_judged_again(make_tls: MakeTls) -> None:
    stand = make_tls()
    seen: list[bool] = []

    def helo(session: Any) -> Continue:
        seen.append(session.tls is not None)
        return Continue()

    stand.script.answers["helo"] = Call(helo)
    stand.connect().hello().starttls(client()).say("EHLO client.example")
    assert seen == [False, True]


@pytest.mark.parametrize(
    "behind", [b"NOOP\r\n", b"E", b"EHLO a\r\nMAIL FROM:<evil@client.example>\r\n", b"\x16\x03\x01"]
)
def test_commands_behind_starttls_are_not_executed(make_tls: MakeTls, behind: bytes) -> None:
    stand = make_tls()
    wire = stand.connect().hello()
    assert wire.send(b"STARTTLS\r\n" + behind) == [421]
    assert wire.is_closed
    assert wire.send(b"NOOP\r\n") == []
    assert wire.session.tls is None
    wire.lose()
    assert stand.causes == ["errors"]


def test_clear_text_in_the_place_of_a_handshake(make_tls: MakeTls) -> None:
    stand = make_tls()
    wire = stand.connect().hello()
    assert wire.say("STARTTLS") == [220]
    wire.secure(client(), before=b"MAIL FROM:<evil@client.example>\r\n")
    assert wire.is_closed
    wire.lose()
    (refused,) = stand.events.of(Refused)
    assert (refused.stage, refused.reply) == ("tls", "")
    assert refused.reason.startswith("the TLS handshake failed: ")
    assert "OpenSSL" not in refused.reason
    assert stand.causes == ["tls"]
    assert "mail" not in stand.script.asked


def test_a_pending_answer_and_starttls_behind_it(make_tls: MakeTls) -> None:
    stand = make_tls()
    wire = stand.connect().hello()
    waited = stand.pend("mail")
    assert wire.say("MAIL FROM:<>", "STARTTLS") == []
    waited.callback(Continue())
    assert wire.codes() == [250, 220]
    wire.secure(client())
    assert wire.say("MAIL FROM:<>") == [503]


def test_required(make_tls: MakeTls) -> None:
    stand = make_tls(tls="required", role="outbound", auth="users", auth_without_tls=True)
    wire = stand.connect().hello()
    assert b"AUTH" not in wire.octets
    assert wire.say("MAIL FROM:<>", "AUTH PLAIN", "NOOP") == [530, 530, 250]
    assert "mail" not in stand.script.asked
    wire.starttls(client())
    assert wire.say("EHLO client.example", f"AUTH PLAIN {ANNS}", "MAIL FROM:<>") == [250, 235, 250]
    assert wire.session.protocol == "ESMTPSA"
    assert stand.trusted.asked == ["mail"]


@pytest.mark.parametrize(
    ("argument", "sender"),
    [
        ("FROM:<Ann@Client.example> SIZE=1", "Ann@Client.example"),
        ("from: <ann@client.example>", "ann@client.example"),
        ("FROM:<>", ""),
        ("FROM:<" + "x" * 400 + "@client.example>", ""),
        ("nonsense", ""),
    ],
)
def test_a_refusal_before_a_transaction_tells_whose_mail_it_was(make_tls: MakeTls, argument: str, sender: str) -> None:
    stand = make_tls(tls="required")
    assert stand.connect().hello().say(f"MAIL {argument}") == [530]
    (refused,) = stand.events.of(Refused)
    assert (refused.stage, refused.sender, refused.queue_id) == ("mail", sender, "")


def test_required_holds_back_all_that_is_more_than_a_greeting(make_tls: MakeTls) -> None:
    networks = ["192.0.2.0/24"]
    settings = {"role": "outbound", "trusted_networks": networks, "xclient_from": networks, "xforward_from": networks}
    wire = make_tls(tls="required", **settings).connect().hello()
    lines = ["XFORWARD IDENT=1", "ETRN example.org", "XCLIENT ADDR=203.0.113.9"]
    for keyword in (b"XCLIENT", b"XFORWARD", b"ETRN"):
        assert keyword not in wire.octets
    assert wire.say(*lines) == [530, 530, 530]
    wire.starttls(client())
    assert wire.say("EHLO client.example", *lines) == [250, 250, 253, 220]


def test_requiretls_is_for_tls(make_tls: MakeTls) -> None:
    wire = make_tls().connect().hello()
    assert wire.say("MAIL FROM:<> REQUIRETLS") == [555]
    wire.starttls(client())
    assert wire.say("EHLO client.example", "MAIL FROM:<> REQUIRETLS") == [250, 250]


def test_errors_are_counted_over_the_handshake(make_tls: MakeTls) -> None:
    wire = make_tls(max_errors=3).connect().hello()
    assert wire.say("FROB", "FROB") == [500, 500]
    wire.starttls(client())
    assert wire.say("FROB") == [500, 421]
    assert wire.is_closed


def test_what_a_client_says_at_once_after_its_handshake(make_tls: MakeTls) -> None:
    stand = make_tls()
    wire = stand.connect().hello().starttls(client())
    octets = b"EHLO client.example\r\n" + ENVELOPE + b"BDAT 4 LAST\r\nabc\nNOOP\r\n"
    said = [code for one in octets for code in wire.send(bytes([one]))]
    assert said == [250, 250, 250, 550, 250]


# -- implicit


def test_implicit_tls(make_tls: MakeTls) -> None:
    stand = make_tls(tls="implicit")
    wire = stand.connect()
    assert stand.script.asked == []
    assert wire.octets == b""
    wire.secure(client()).hello()
    assert b"STARTTLS" not in wire.octets
    assert wire.say("STARTTLS") == [503]
    assert wire.data_again() == [250]
    assert stand.script.taken[0][0].protocol == "ESMTPS"
    assert stand.script.taken[0][0].early_octets == 0


def test_early_talk_is_what_comes_under_tls_before_the_banner(make_tls: MakeTls) -> None:
    stand = make_tls(tls="implicit")
    waited = stand.pend("connect")
    wire = stand.connect().secure(client())
    assert wire.send(b"EHLO a\r\n") == []
    waited.callback(Continue())
    assert wire.codes() == [220, 250]
    assert wire.session.early_octets == 8


@pytest.mark.parametrize("limit", ["max_connections", "max_connections_per_client"])
def test_a_connection_over_a_limit_gets_no_handshake(make_tls: MakeTls, limit: str) -> None:
    stand = make_tls(tls="implicit", **{limit: 1})
    first = stand.connect()
    late = [stand.connect() for _ in range(5)]
    for wire in late:
        assert wire.transport.disconnected
        assert wire.send(b"\x16\x03\x01\x02\x00\x01") == []
        wire.lose()
    assert stand.causes == ["refused"] * 5
    assert stand.refusals == [("connect", "")] * 5
    assert {event.reason for event in stand.events.of(Refused)} == {f"{limit} of the listener is 1"}
    first.secure(client()).hello()
    first.lose()
    stand.connect().secure(client()).hello()


def test_refused_handshakes_put_no_listener_under_stress(make_tls: MakeTls) -> None:
    stand = make_tls(tls="implicit", max_connections=10, max_connections_per_client=2)
    wires = [stand.connect() for _ in range(100)]
    assert [wire.is_closed for wire in wires] == [False] * 2 + [True] * 98
    assert not stand.listener.is_stressed
    stand.connect("198.51.100.1").secure(client()).hello()


def test_a_filter_that_refuses_the_connection(make_tls: MakeTls) -> None:
    stand = make_tls(tls="implicit")
    stand.script.answers["connect"] = Reject(Reply.of(550, "5.7.1", "No"), "because")
    wire = stand.connect().secure(client())
    assert wire.codes() == [554]
    assert wire.is_closed


def test_an_implicit_listener_says_nothing_in_the_clear(make_tls: MakeTls) -> None:
    stand = make_tls(tls="implicit")
    wire = stand.connect()
    assert wire.send(b"EHLO client.example\r\n" + ENVELOPE) == []
    assert wire.is_closed
    wire.lose()
    assert stand.causes == ["tls"]
    assert stand.script.asked == []


def test_a_name_is_looked_up_after_the_handshake(make_tls: MakeTls) -> None:
    name: Deferred[str] = Deferred()
    stand = make_tls(tls="implicit", resolve_clients=True, services={"client_name": lambda address: name})
    wire = stand.connect().secure(client())
    assert wire.codes() == []
    name.callback("client.example")
    assert wire.codes() == [220]
    assert str(wire.session.client) == "client.example[192.0.2.1]"


# -- handshakes that come to nothing


def test_the_reason_is_openssls(make_tls: MakeTls) -> None:
    stand = make_tls()
    wire = stand.connect().hello()
    wire.starttls(client(newest=SSL.TLS1_1_VERSION))
    assert wire.is_closed
    wire.lose()
    (refused,) = stand.events.of(Refused)
    assert refused.reason == "the TLS handshake failed: unsupported protocol"
    assert refused.client == "unknown[192.0.2.1]"
    assert stand.causes == ["tls"]


@pytest.mark.parametrize("is_implicit", [True, False])
def test_a_client_that_goes_within_its_handshake(make_tls: MakeTls, is_implicit: bool) -> None:
    stand = make_tls(tls="implicit" if is_implicit else "optional")
    wire = stand.connect()
    if not is_implicit:
        wire.hello().say("STARTTLS")
    hello = SSL.Connection(SSL.Context(SSL.TLS_METHOD), None)
    hello.set_connect_state()
    with pytest.raises(SSL.WantReadError):
        hello.do_handshake()
    wire.transport.protocol.dataReceived(hello.bio_read(4096))
    wire.lose()
    (refused,) = stand.events.of(Refused)
    assert refused.stage == "tls"
    assert stand.causes == ["tls"]


@pytest.mark.parametrize("is_implicit", [True, False])
def test_a_client_that_goes_without_a_word_was_not_refused(make_tls: MakeTls, is_implicit: bool) -> None:
    """Checks of health do that all day."""
    stand = make_tls(tls="implicit" if is_implicit else "optional")
    wire = stand.connect()
    if not is_implicit:
        wire.hello().say("STARTTLS")
    wire.lose()
    assert stand.events.of(Refused) == []
    assert stand.causes == ["lost"]


@pytest.mark.parametrize("is_implicit", [True, False])
@pytest.mark.parametrize("trickles", [True, False])
def test_a_handshake_has_its_time(make_tls: MakeTls, is_implicit: bool, trickles: bool) -> None:
    stand = make_tls(tls="implicit" if is_implicit else "optional")
    wire = stand.connect()
    if not is_implicit:
        wire.hello().say("STARTTLS")
    for _ in range(29):
        stand.clock.advance(1)
        if trickles:
            wire.transport.protocol.dataReceived(b"\x16\x03\x01\x02\x00\x01"[: 1 if _ else 6])
    assert not wire.is_closed
    stand.clock.advance(1)
    assert wire.is_closed
    wire.lose()
    (refused,) = stand.events.of(Refused)
    assert refused.reason == "the TLS handshake failed: it took too long"
    assert stand.causes == ["timeout"]


def test_the_time_of_the_session_goes_on_under_tls(make_tls: MakeTls) -> None:
    stand = make_tls(session_timeout="60s")
    wire = stand.connect().hello()
    stand.clock.advance(20)
    wire.starttls(client())
    stand.clock.pump([1.0] * 39)
    assert wire.codes() == []
    stand.clock.advance(1)
    assert wire.codes() == [421]


@pytest.mark.parametrize("is_implicit", [True, False])
@pytest.mark.parametrize("end", ["drain", "cut"])
def test_the_end_of_the_listener_within_a_handshake(make_tls: MakeTls, is_implicit: bool, end: str) -> None:
    stand = make_tls(tls="implicit" if is_implicit else "optional")
    wire = stand.connect()
    if not is_implicit:
        wire.hello().say("STARTTLS")
    getattr(stand.listener, end)()
    assert wire.is_closed
    wire.lose()
    assert stand.causes == ["shutdown"]
    assert stand.events.of(Refused) == []


def test_a_drain_under_tls(make_tls: MakeTls) -> None:
    stand = make_tls()
    wire = stand.connect().hello().starttls(client())
    stand.listener.drain()
    assert wire.codes() == [421]
    assert wire.is_closed


@pytest.mark.parametrize(
    ("end", "seconds"),
    [
        (lambda stand, wire: wire.protocol.dataReceived(b"QUIT\r\n"), 10),
        (lambda stand, wire: stand.listener.drain(), 5),
        (lambda stand, wire: stand.listener.cut(), 5),
    ],
    ids=["quit", "drain", "cut"],
)
def test_a_client_that_does_not_take_our_last_words_under_tls(
    make_tls: MakeTls, end: Callable[[Stand, Wire], object], seconds: int
) -> None:
    stand = make_tls()
    wire = stand.connect().hello().starttls(client())
    wire.tls.set_shutdown(SSL.RECEIVED_SHUTDOWN)
    end(stand, wire)
    stand.clock.pump([1.0] * (seconds - 1))
    assert not wire.is_closed
    stand.clock.advance(1)
    assert wire.is_closed


# -- certificates of clients


def test_a_certificate_that_is_not_asked_for_tells_nothing(make_tls: MakeTls) -> None:
    wire = make_tls(role="outbound").connect().hello().starttls(client(ANN))
    assert wire.session.tls is not None
    assert (wire.session.tls.fingerprint, wire.session.identity) == ("", None)


@pytest.mark.parametrize("newest", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
def test_a_fingerprint_that_is_known_is_an_identity(make_tls: MakeTls, newest: int) -> None:
    fingerprints = {ANN.fingerprint: "printer"}
    stand = make_tls("request", role="outbound", services={"fingerprints": fingerprints})
    wire = stand.connect().hello().starttls(client(ANN, newest=newest))
    identity = wire.session.identity
    assert identity is not None
    assert (identity.name, identity.mechanism) == ("printer", "certificate")
    assert wire.say("EHLO client.example") == [250]
    assert wire.session.protocol == "ESMTPS"
    assert b"FUTURERELEASE" in wire.octets
    assert wire.data_again() == [250]
    assert "mail" in stand.trusted.asked
    assert "mail" not in stand.script.asked


@pytest.mark.parametrize("role", ["inbound", "hybrid"])
def test_a_fingerprint_relays_where_somebody_may(make_tls: MakeTls, role: str) -> None:
    stand = make_tls("request", role=role, services={"fingerprints": {ANN.fingerprint: "printer"}})
    wire = stand.connect().hello().starttls(client(ANN))
    assert (wire.session.identity is not None) is (role == "hybrid")


def test_a_certificate_that_nobody_knows_is_no_identity(make_tls: MakeTls) -> None:
    stand = make_tls("request", root=ROOT, role="outbound", services={"fingerprints": {ANN.fingerprint: "printer"}})
    for shown, is_verified in ((issue(ROOT, "bob@client.example"), True), (STRANGE, False), (None, False)):
        wire = stand.connect().hello().starttls(client(shown))
        assert wire.session.tls is not None
        assert wire.session.tls.is_verified is is_verified
        assert wire.session.identity is None


def test_a_certificate_that_is_required(make_tls: MakeTls) -> None:
    stand = make_tls(
        "require", role="outbound", tls="required", services={"fingerprints": {ANN.fingerprint: "printer"}}
    )
    wire = stand.connect().hello().starttls(client(ANN))
    assert wire.say("EHLO client.example", "MAIL FROM:<>") == [250, 250]
    wire = stand.connect().hello().starttls(client(STRANGE))
    assert wire.say("EHLO client.example", "MAIL FROM:<>") == [250, 530]
    (refused,) = stand.events.of(Refused)
    assert refused.reason == f"the certificate {STRANGE.fingerprint} that the client has shown is not known"
    wire = stand.connect().hello()
    assert wire.say("MAIL FROM:<>") == [530]


def test_a_certificate_that_was_not_shown(make_tls: MakeTls) -> None:
    """A handshake without one fails, but nobody has to begin one."""
    stand = make_tls("require", role="outbound", services={"fingerprints": {ANN.fingerprint: "printer"}})
    assert stand.connect().hello().say("MAIL FROM:<>") == [530]
    (refused,) = stand.events.of(Refused)
    assert refused.reason == "the client has shown no certificate"


@pytest.mark.parametrize("shown", [None, STRANGE], ids=["none", "another authority's"])
@pytest.mark.parametrize("newest", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
def test_a_handshake_without_a_certificate_that_is_required(make_tls: MakeTls, shown: Any, newest: int) -> None:
    stand = make_tls("require", root=ROOT, role="outbound", tls="implicit")
    wire = stand.connect().secure(client(shown, newest=newest))
    assert wire.codes() == []
    assert wire.is_closed
    wire.lose()
    (refused,) = stand.events.of(Refused)
    assert "certificate" in refused.reason
    assert stand.causes == ["tls"]


@pytest.mark.parametrize(
    ("authzid", "code"),
    [("", 235), ("ann@client.example", 235), ("ANN@client.example", 235), ("eve@client.example", 535)],
)
def test_external(make_tls: MakeTls, authzid: str, code: int) -> None:
    stand = make_tls("request", root=ROOT, role="outbound", auth="users", auth_mechanisms=["external", "plain"])
    wire = stand.connect().hello().starttls(client(ANN))
    assert wire.say("EHLO client.example") == [250]
    assert b"250-AUTH EXTERNAL PLAIN\r\n" in wire.octets
    said = wire.say(f"AUTH EXTERNAL {b64(authzid) or '='}")
    stand.clock.advance(1)
    assert said + wire.codes() == [code]
    if code == 235:
        assert wire.session.identity is not None
        assert (wire.session.identity.name, wire.session.protocol) == ("ann@client.example", "ESMTPSA")


def test_external_by_a_fingerprint_that_has_a_name(make_tls: MakeTls) -> None:
    fingerprints = {STRANGE.fingerprint: "scanner"}
    stand = make_tls(
        "request",
        role="outbound",
        auth="users",
        auth_mechanisms=["external"],
        services={"fingerprints": fingerprints},
    )
    wire = stand.connect().hello().starttls(client(STRANGE))
    assert wire.say("EHLO client.example", "AUTH EXTERNAL", "") == [250, 334, 235]
    assert wire.session.identity is not None
    assert (wire.session.identity.name, wire.session.identity.mechanism) == ("scanner", "EXTERNAL")


def test_external_without_a_certificate(make_tls: MakeTls) -> None:
    stand = make_tls("request", root=ROOT, role="outbound", auth="users", auth_mechanisms=["external", "plain"])
    for shown in (None, STRANGE):
        wire = stand.connect().hello().starttls(client(shown))
        assert wire.say("EHLO client.example", "AUTH EXTERNAL =") == [250, 504]


def test_the_end_of_a_session_is_told_once(make_tls: MakeTls) -> None:
    stand = make_tls()
    wire = stand.connect().hello().starttls(client())
    wire.say("EHLO client.example")
    wire.lose()
    (closed,) = stand.events.of(SessionClosed)
    assert (closed.cause, closed.helo) == ("lost", "client.example")
