"""The opening of a session: servers that keep to the rules, servers that do not, and somebody in between."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgate.envelope import Origin, Tls
from mailgate.relay.attempt import ConnectFailedError, Target
from mailgate.relay.client.opening import Action, Opening
from mailgate.relay.client.terms import Login, Terms
from mailgate.reply import Reply, ReplyError, parse_reply
from mailgate.wire.proxy import ProxyReader
from mailgate.wire.sasl import Challenge, NeedSecret, SaslError, Verify, decode_response, encode_response
from tests.unit.sasl_talk import BINDINGS, NAME, PASSWORD, SECRET, is_tim, server

MX = Target("mx.example.org", "192.0.2.1", 25)
TLS = Tls(version="TLSv1.3", cipher="TLS_AES_256_GCM_SHA384")
VERIFIED = Tls(version="TLSv1.3", cipher="TLS_AES_256_GCM_SHA384", is_verified=True)
ALL = ("scram-sha-256-plus", "scram-sha-256", "cram-md5", "plain", "login")
CLIENT = Origin(
    address="198.51.100.7", port=4711, name="client.test", helo="laptop.client.test", protocol="ESMTP", source="REMOTE"
)

OPPORTUNISTIC, REQUIRED, VERIFYING = Terms(tls="opportunistic"), Terms(tls="required"), Terms(tls="verified")


def login(*mechanisms: str, without_tls: bool = False, secret: str = PASSWORD) -> Login:
    return Login(username=NAME, secret=secret, mechanisms=mechanisms or ALL, without_tls=without_tls)


class Talk:
    """A session that is opened by hand."""

    def __init__(self, terms: Terms = OPPORTUNISTIC, target: Target = MX, **more: Any) -> None:
        self.opening = Opening(target, "gw.example", terms, **more)
        self.action = self.opening.start()
        self.said: list[str] = []

    def hear(self, *replies: str) -> Action:
        for text in replies:
            assert self.opening.owes_reply, text
            lines = text.split("\n")
            self._note(self.opening.receive(parse_reply([line.encode() for line in lines])))
        return self.action

    def secure(self, tls: Tls = TLS, bindings: dict[str, bytes] | None = None) -> Action:
        assert self.action is Action.SECURE
        return self._note(self.opening.secured(tls, BINDINGS if bindings is None else bindings))

    def compute(self) -> Action:
        assert self.action is Action.COMPUTE
        assert self.opening.compute is not None
        try:
            return self._note(self.opening.computed(self.opening.compute()))
        except SaslError as error:
            return self._note(self.opening.computed(error))

    @property
    def refusal(self) -> ConnectFailedError:
        assert self.action is Action.REFUSED
        assert self.opening.refusal is not None
        return self.opening.refusal

    @property
    def what(self) -> tuple[str, int]:
        return self.refusal.stage, self.refusal.reply.code

    def _note(self, action: Action) -> Action:
        self.action = action
        if action is Action.SEND:
            line = self.opening.output.decode("ascii")
            assert line.endswith("\r\n")
            assert line.count("\r\n") == 1
            self.said.append(line[:-2])
        return action


def ehlo(*keywords: str) -> str:
    lines = ["mx.example.org", *keywords]
    return "\n".join(f"250{' ' if n == len(lines) - 1 else '-'}{line}" for n, line in enumerate(lines))


# -- greeting


def test_a_plain_session() -> None:
    talk = Talk(Terms())
    assert talk.action is Action.WAIT
    assert talk.hear("220 hi", ehlo("STARTTLS", "SIZE 100", "AUTH PLAIN", "XCLIENT ADDR")) is Action.OPEN
    assert talk.said == ["EHLO gw.example"]
    assert talk.opening.extensions.max_size == 100
    assert not talk.opening.owes_reply
    assert (talk.opening.tls, talk.opening.is_authenticated, talk.opening.header()) == (None, False, b"")


@pytest.mark.parametrize("terms", [REQUIRED, VERIFYING])
def test_a_server_without_ehlo_has_no_tls(terms: Terms) -> None:
    talk = Talk(terms)
    talk.hear("220 hi", "502 what", "250 ok")
    assert talk.said == ["EHLO gw.example", "HELO gw.example"]
    assert talk.what == ("tls", 451)
    assert talk.opening.at_rest


@pytest.mark.parametrize(
    ("replies", "stage"),
    [
        (["421 busy"], "greeting"),
        (["220 hi", "421 busy"], "hello"),
        (["220 hi", "500 what", "421 busy"], "hello"),
        (["220 hi", ehlo("STARTTLS"), "421 busy"], "tls"),
        (["220 hi", ehlo("STARTTLS"), "220 go", "421 busy"], "hello"),
        (["220 hi", ehlo("STARTTLS"), "220 go", ehlo("AUTH PLAIN"), "421 busy"], "auth"),
        (["220 hi", ehlo("STARTTLS"), "220 go", ehlo("AUTH PLAIN", "XCLIENT ADDR"), "235 ok", "421 busy"], "xclient"),
        (
            ["220 hi", ehlo("STARTTLS"), "220 go", ehlo("AUTH PLAIN", "XCLIENT ADDR"), "235 ok", "220 hi", "421 busy"],
            "xclient",
        ),
    ],
)
def test_421_anywhere_is_the_end_and_says_nothing_about_tls(replies: list[str], stage: str) -> None:
    talk = Talk(Terms(tls="opportunistic", login=login(), xclient=True), origin=CLIENT)
    for reply in replies:
        talk.hear(reply)
        if talk.action is Action.SECURE:
            talk.secure()
    assert talk.what == (stage, 421)
    assert not talk.refusal.in_clear
    assert not talk.refusal.is_ours
    assert not talk.refusal.is_permanent


# -- TLS


def test_starttls_and_nothing_is_known_of_what_was_said_before() -> None:
    talk = Talk()
    assert talk.hear("220 hi", ehlo("STARTTLS", "SIZE 100", "CHUNKING"), "220 go ahead") is Action.SECURE
    assert talk.said == ["EHLO gw.example", "STARTTLS"]
    assert not talk.opening.owes_reply
    assert talk.secure() is Action.SEND
    assert talk.opening.extensions.offered == {}
    assert talk.hear(ehlo("STARTTLS", "PIPELINING")) is Action.OPEN
    assert talk.said == ["EHLO gw.example", "STARTTLS", "EHLO gw.example"]
    assert talk.opening.tls == TLS
    assert dict(talk.opening.extensions.offered) == {"STARTTLS": "", "PIPELINING": ""}


def test_helo_under_tls_where_the_server_will_have_it_so() -> None:
    talk = Talk(REQUIRED)
    talk.hear("220 hi", ehlo("STARTTLS", "PIPELINING"), "220 go")
    talk.secure()
    assert talk.hear("502 no more EHLO", "250 ok") is Action.OPEN
    assert talk.opening.extensions.offered == {}


def test_an_opportunist_does_without_where_it_is_not_offered() -> None:
    talk = Talk()
    assert talk.hear("220 hi", ehlo("PIPELINING")) is Action.OPEN
    talk = Talk(clear=True)
    assert talk.hear("220 hi", ehlo("STARTTLS")) is Action.OPEN
    talk = Talk(target=Target("box", "/run/lmtp", 0, lmtp=True))
    assert talk.hear("220 hi", ehlo("STARTTLS")) is Action.OPEN
    assert talk.said == ["LHLO gw.example"]


@pytest.mark.parametrize("reply", ["454 no random numbers", "502 not here", "334 what"])
@pytest.mark.parametrize("terms", [OPPORTUNISTIC, REQUIRED, VERIFYING])
def test_starttls_refused(terms: Terms, reply: str) -> None:
    talk = Talk(terms)
    talk.hear("220 hi", ehlo("STARTTLS"), reply)
    assert talk.what == ("tls", 451)
    assert talk.refusal.reply.status == "4.7.5"
    assert talk.refusal.is_ours
    assert talk.refusal.in_clear is (terms is OPPORTUNISTIC)
    assert "mx.example.org[192.0.2.1]:25" in talk.refusal.reason
    assert reply in talk.refusal.reason
    assert talk.refusal.reason in talk.refusal.reply.text


@pytest.mark.parametrize("terms", [OPPORTUNISTIC, REQUIRED, VERIFYING, Terms(tls="implicit")])
def test_a_handshake_that_fails(terms: Terms) -> None:
    talk = Talk(terms)
    if terms.tls != "implicit":
        talk.hear("220 hi", ehlo("STARTTLS"), "220 go")
    assert talk.action is Action.SECURE
    error = talk.opening.break_off(Reply.of(451, "4.4.2", "lost"), "wrong version number")
    assert (error.stage, error.reply.status, error.is_ours) == ("tls", "4.7.5", True)
    assert error.in_clear is (terms is OPPORTUNISTIC)
    assert "the handshake failed: wrong version number" in error.reply.text


def test_foul_play_at_starttls_is_no_reason_to_go_on_in_clear_text() -> None:
    talk = Talk()
    talk.hear("220 hi", ehlo("STARTTLS"))
    error = talk.opening.break_off(Reply.of(451, "4.5.0", "foul"), "more than was asked for", is_foul=True)
    assert (error.stage, error.in_clear) == ("tls", False)
    assert talk.opening.break_off(Reply.of(451, "4.4.2", "lost"), "connection lost").in_clear


@pytest.mark.parametrize("terms", [VERIFYING, Terms(tls="implicit"), Terms(tls="required", tls_fingerprints=("ab",))])
def test_nobody_who_has_not_proved_who_he_is_is_talked_to(terms: Terms) -> None:
    for tls, action in ((TLS, Action.REFUSED), (VERIFIED, Action.SEND)):
        talk = Talk(terms)
        if terms.tls != "implicit":
            talk.hear("220 hi", ehlo("STARTTLS"), "220 go")
        talk.secure(tls)
        assert talk.action is (Action.WAIT if terms.tls == "implicit" and tls is VERIFIED else action)


def test_tls_from_the_first_octet() -> None:
    talk = Talk(Terms(tls="implicit"))
    assert talk.action is Action.SECURE
    assert not talk.opening.owes_reply
    assert talk.secure(VERIFIED) is Action.WAIT
    assert talk.hear("220 hi", ehlo("STARTTLS")) is Action.OPEN
    assert talk.said == ["EHLO gw.example"]


# -- AUTH


def log_in(talk: Talk, mechanism: str, bindings: dict[str, bytes] | None = None) -> Action:
    """Let our own server's side of the mechanism answer."""
    there = server(mechanism, bindings)
    line = talk.said[-1].removeprefix(f"AUTH {mechanism}").strip().encode()
    step = there.step(decode_response(line) if line else None)
    while True:
        if isinstance(step, NeedSecret):
            step = there.secret(SECRET)
        elif isinstance(step, Verify):
            last = there.verified(is_tim(step.credentials))
            if last is None:
                return talk.hear("235 2.7.0 welcome" if is_tim(step.credentials) else "535 5.7.8 no")
            step = last
        if not isinstance(step, Challenge):
            return talk.hear("235 2.7.0 welcome")
        talk.hear(f"334 {encode_response(step.data).decode()}")
        if talk.action is Action.COMPUTE:
            assert not talk.opening.owes_reply
            talk.compute()
        if talk.action is not Action.SEND:
            return talk.action
        step = there.step(decode_response(talk.said[-1].encode()))


@pytest.mark.parametrize("mechanism", [one.upper() for one in ALL])
def test_each_mechanism_under_tls(mechanism: str) -> None:
    talk = Talk(Terms(tls="required", login=login()))
    talk.hear("220 hi", ehlo("STARTTLS", "AUTH NTLM"), "220 go")
    talk.secure()
    talk.hear(ehlo(f"AUTH {mechanism}"))
    assert log_in(talk, mechanism, BINDINGS if mechanism.endswith("PLUS") else {}) is Action.OPEN
    assert talk.opening.is_authenticated
    assert not any(PASSWORD in line for line in talk.said)


def test_the_first_that_the_route_names_is_taken() -> None:
    talk = Talk(Terms(login=login("login", "cram-md5", without_tls=True)))
    talk.hear("220 hi", ehlo("AUTH CRAM-MD5 LOGIN PLAIN"))
    assert talk.said[-1] == "AUTH LOGIN"
    assert log_in(talk, "LOGIN") is Action.OPEN


@pytest.mark.parametrize("mechanism", ["plain", "login", "xoauth2", "external"])
def test_no_password_in_clear_text(mechanism: str) -> None:
    talk = Talk(Terms(tls="opportunistic", login=login(mechanism)))
    talk.hear("220 hi", ehlo(f"AUTH {mechanism.upper()}"))
    assert talk.what == ("auth", 451)
    assert "in clear text: it offers" in talk.refusal.reason
    assert talk.said == ["EHLO gw.example"]
    assert talk.opening.at_rest
    assert not talk.refusal.in_clear


def test_a_server_that_offers_no_auth() -> None:
    talk = Talk(Terms(login=login()))
    talk.hear("220 hi", ehlo())
    assert "it does not offer AUTH" in talk.refusal.reason
    assert talk.refusal.is_ours


def test_a_wrong_password_is_temporary_and_the_servers_word() -> None:
    talk = Talk(Terms(login=login(without_tls=True, secret=f"not {PASSWORD}")))
    talk.hear("220 hi", ehlo("AUTH PLAIN"))
    log_in(talk, "PLAIN")
    assert talk.what == ("auth", 535)
    assert not talk.refusal.is_permanent
    assert not talk.refusal.is_ours
    shown = "535 5.7.8 (the text is not shown: it may repeat a secret)"
    assert talk.refusal.reason == f"no login at mx.example.org[192.0.2.1]:25: AUTH PLAIN refused: {shown}"


def test_another_mechanism_where_one_is_not_for_us() -> None:
    talk = Talk(Terms(login=login("cram-md5", "plain", without_tls=True)))
    talk.hear("220 hi", ehlo("AUTH PLAIN CRAM-MD5"), "504 not today")
    assert talk.said[-1].startswith("AUTH PLAIN ")
    assert talk.hear("534 5.7.9 too weak") is Action.REFUSED
    assert talk.what == ("auth", 534)


def test_a_server_that_cannot_prove_that_it_knows_the_password_is_left() -> None:
    for last in ("235 welcome", "334 " + encode_response(b"v=" + b"QUFB" * 11).decode(), "334 ZT1vdGhlci1lcnJvcg=="):
        talk = Talk(Terms(login=login("scram-sha-256", "plain", without_tls=True)))
        talk.hear("220 hi", ehlo("AUTH SCRAM-SHA-256 PLAIN"))
        there = server("SCRAM-SHA-256")
        first = there.step(decode_response(talk.said[-1].split()[2].encode()))
        assert isinstance(first, NeedSecret)
        talk.hear(f"334 {encode_response(there.secret(SECRET).data).decode()}")
        talk.compute()
        talk.hear(last)
        if talk.action is Action.COMPUTE:
            talk.compute()
        assert talk.what == ("auth", 451)
        assert not talk.opening.is_authenticated
        assert not any(line.startswith("AUTH PLAIN") for line in talk.said)


@pytest.mark.parametrize(
    "challenge", ["", "!!!!", "YQ", "=", "QUJD QUJD", "Grüße", "YWJj" * 400, encode_response(b"r=x,s=,i=1").decode()]
)
def test_weird_challenges_end_it(challenge: str) -> None:
    talk = Talk(Terms(login=login("scram-sha-256", without_tls=True)))
    talk.hear("220 hi", ehlo("AUTH SCRAM-SHA-256"), f"334 {challenge}")
    if talk.action is Action.COMPUTE:
        talk.compute()
    assert talk.what == ("auth", 451)
    # What is sent now would be taken for a response.
    assert not talk.opening.at_rest


def test_challenges_do_not_go_on_for_ever() -> None:
    talk = Talk(Terms(login=login("login", without_tls=True)))
    talk.hear("220 hi", ehlo("AUTH LOGIN"), "334 VXNlcm5hbWU6", "334 UGFzc3dvcmQ6", "334 QWdhaW46")
    assert talk.what == ("auth", 451)
    talk = Talk(Terms(login=login("plain", without_tls=True)))
    talk.hear("220 hi", ehlo("AUTH PLAIN"), "334 ")
    assert talk.what == ("auth", 451)


def test_a_long_initial_response_waits_for_its_challenge() -> None:
    token = "t" * 600
    for challenge, action in (("334 ", Action.SEND), ("334 YQ==", Action.REFUSED)):
        talk = Talk(Terms(login=login("xoauth2", without_tls=True, secret=token)))
        talk.hear("220 hi", ehlo("AUTH XOAUTH2"))
        assert talk.said[-1] == "AUTH XOAUTH2"
        assert talk.hear(challenge) is action


@pytest.mark.parametrize("echo", ["AUTH PLAIN {line}", "I do not know {password}", "{line}", "{base64}", "{hex}"])
def test_a_reply_that_repeats_the_secret_is_not_shown(echo: str) -> None:
    talk = Talk(Terms(login=login("plain", without_tls=True)))
    talk.hear("220 hi", ehlo("AUTH PLAIN"))
    line = talk.said[-1].split()[-1]
    octets = PASSWORD.encode()
    forms = {"base64": base64.b64encode(octets).decode(), "hex": octets.hex()}
    talk.hear("500 5.5.1 " + echo.format(line=line, password=PASSWORD, **forms))
    shown = f"{talk.refusal!r} {talk.refusal} {talk.refusal.reply} {talk.refusal.reason}"
    assert line not in shown
    assert PASSWORD not in shown
    assert not [form for form in forms.values() if form in shown]
    assert (talk.refusal.reply.code, talk.refusal.reply.status) == (500, "5.5.1")
    assert PASSWORD not in repr(login())


def test_a_password_that_the_mechanism_cannot_carry() -> None:
    talk = Talk(Terms(login=login("scram-sha-256", secret=f"{PASSWORD}\u0007")))
    talk.hear("220 hi", ehlo("AUTH SCRAM-SHA-256"))
    assert talk.what == ("auth", 451)
    assert PASSWORD not in talk.refusal.reason


# -- XCLIENT


def test_the_client_is_told_of_last_and_the_session_begins_anew() -> None:
    talk = Talk(Terms(login=login("plain", without_tls=True), xclient=True), origin=CLIENT)
    offered = ehlo("AUTH PLAIN", "XCLIENT NAME ADDR PORT PROTO HELO", "SIZE 100")
    talk.hear("220 hi", offered, "235 ok")
    assert talk.said[-1].startswith("XCLIENT ")
    assert "ADDR=198.51.100.7" in talk.said[-1]
    assert "NAME=client.test" in talk.said[-1]
    talk.hear("220 mx.example.org")
    assert talk.said[-1] == "EHLO laptop.client.test"
    assert talk.hear(ehlo("STARTTLS", "AUTH PLAIN", "XCLIENT ADDR", "SIZE 50")) is Action.OPEN
    assert talk.opening.extensions.max_size == 50
    assert talk.opening.is_authenticated


@pytest.mark.parametrize("helo", ["", "two words", "a" * 300, "x\r\nMAIL FROM:<a@b>", "grüße"])
def test_a_name_that_cannot_be_said_is_replaced_by_ours(helo: str) -> None:
    origin = Origin(address="198.51.100.7", helo=helo)
    talk = Talk(Terms(xclient=True), origin=origin)
    talk.hear("220 hi", ehlo("XCLIENT ADDR"), "220 mx")
    assert talk.said[-1] == "EHLO gw.example"


def test_several_commands_where_one_has_not_room() -> None:
    long = ".".join(3 * ["n" * 60])
    origin = Origin(address="198.51.100.7", name=f"{long}.test", helo=f"{long}.test", login="=" * 80)
    talk = Talk(Terms(xclient=True), origin=origin)
    talk.hear("220 hi", ehlo("XCLIENT NAME ADDR LOGIN HELO"))
    commands = 0
    while talk.said[-1].startswith("XCLIENT"):
        assert len(talk.said[-1]) <= 510
        commands += 1
        talk.hear("220 mx")
    assert commands > 1
    assert talk.hear(ehlo()) is Action.OPEN


def test_no_judgement_of_us_in_the_place_of_the_client() -> None:
    for offered in (ehlo(), ehlo("XCLIENT")):
        talk = Talk(Terms(xclient=True), origin=CLIENT)
        talk.hear("220 hi", offered)
        assert talk.what == ("xclient", 451)
        assert talk.refusal.is_ours
        assert "does not offer XCLIENT" in talk.refusal.reason


def test_our_own_messages_are_ours() -> None:
    for origin in (None, Origin()):
        talk = Talk(Terms(xclient=True), origin=origin)
        assert talk.hear("220 hi", ehlo()) is Action.OPEN


@pytest.mark.parametrize("replies", [["550 5.7.0 not you"], ["501 what"], ["220 mx", "550 not he"], ["354 go"]])
def test_xclient_refused(replies: list[str]) -> None:
    talk = Talk(Terms(xclient=True), origin=CLIENT, target=Target("mx", "192.0.2.1", 25, lmtp=True))
    talk.hear("220 hi", ehlo("XCLIENT ADDR NAME"), *replies)
    assert talk.refusal.stage == "xclient"
    assert not talk.refusal.is_permanent
    assert not talk.refusal.is_ours


# -- PROXY


@pytest.mark.parametrize(
    ("origin", "target", "source"),
    [
        (CLIENT, MX, ("198.51.100.7", 4711)),
        (Origin(address="2001:db8::7", port=1), MX, ("2001:db8::7", 1)),
        (CLIENT, Target("mx", "2001:db8::1", 25), ("198.51.100.7", 4711)),
        (CLIENT, Target("box", "/run/lmtp", 0, lmtp=True), ("198.51.100.7", 4711)),
    ],
)
def test_the_header_names_the_client(origin: Origin, target: Target, source: tuple[str, int]) -> None:
    octets = Opening(target, "gw.example", Terms(proxy_protocol=True), origin).header()
    header = ProxyReader().feed(octets)
    assert header is not None
    told = header[0]
    assert told.source is not None
    assert (str(told.source[0]), told.source[1]) == source
    assert not told.is_local


@pytest.mark.parametrize("origin", [None, Origin(), Origin(helo="x", source="LOCAL")])
def test_without_a_client_the_header_is_our_own(origin: Origin | None) -> None:
    header = ProxyReader().feed(Opening(MX, "gw.example", Terms(proxy_protocol=True), origin).header())
    assert header is not None
    assert header[0].is_local


# -- whatever comes


_LINES = st.sampled_from(
    [
        "220 go",
        "250 ok",
        ehlo("STARTTLS", "AUTH PLAIN LOGIN SCRAM-SHA-256", "XCLIENT NAME ADDR"),
        ehlo("AUTH CRAM-MD5"),
        "235 in",
        "334 ",
        "334 YWJj",
        "354 what",
        "421 bye",
        "450 later",
        "454 no TLS",
        "504 no",
        "535 no",
        "550 never",
    ]
)


@given(
    st.lists(_LINES | st.text(max_size=20).map("334 {}".format), max_size=20),
    st.sampled_from(["off", "opportunistic", "required", "verified", "implicit"]),
    st.booleans(),
)
def test_nothing_that_a_server_says_raises_or_gets_the_password_out(replies: list[str], tls: Any, proves: bool) -> None:
    talk = Talk(Terms(tls=tls, login=login(), xclient=True), origin=CLIENT)
    for text in replies:
        if talk.action is Action.SECURE:
            talk.secure(VERIFIED if proves else TLS)
        if talk.action is Action.COMPUTE:
            talk.compute()
        if talk.action in (Action.OPEN, Action.REFUSED):
            break
        try:
            reply = parse_reply([line.encode() for line in text.split("\n")])
        except (ReplyError, UnicodeEncodeError):
            continue
        talk._note(talk.opening.receive(reply))
    in_clear = talk.opening.tls is None
    secrets = [line for line in talk.said if line.startswith(("AUTH PLAIN", "AUTH LOGIN"))]
    assert not (in_clear and secrets)
    if talk.action is Action.OPEN:
        assert talk.opening.is_authenticated
        assert (talk.opening.tls is not None) or tls in ("off", "opportunistic")
        assert proves or tls not in ("verified", "implicit")
    else:
        assert talk.action is not Action.REFUSED or talk.opening.refusal is not None
