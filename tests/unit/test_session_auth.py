"""AUTH in a session: each mechanism, its order among the commands, failures and their price, and what it opens."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred, fail
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher

from mailgate.auth.checker import AuthUnavailable, AvatarId
from mailgate.events import Refused
from mailgate.reply import Reply
from mailgate.tls.info import channel_bindings
from mailgate.verdict import Disconnect, Reject
from mailgate.wire.sasl_client import ClientMechanism, client_mechanism
from tests.unit.session_security import PASSWORD, Tokens, b64, client, server, tokens, users
from tests.unit.smtp_stand import CONTENT, Stand, Wire

MakeStand = Callable[..., Stand]

RIGHT, WRONG = b64(f"\0ann\0{PASSWORD}"), b64("\0ann\0Tr0ub4dor&3")
#: What must not be told to anybody.
SECRETS = [PASSWORD, "Tr0ub4dor&3", RIGHT, WRONG, b64(PASSWORD), b64("Tr0ub4dor&3")]


@pytest.fixture(autouse=True)
def logged() -> Iterator[list[LogEvent]]:
    """All that is logged; no secret is among it."""
    events: list[LogEvent] = []

    def observe(event: LogEvent) -> None:
        events.append(event)

    observer: ILogObserver = observe  # type: ignore[assignment]  # zope's way
    globalLogPublisher.addObserver(observer)
    yield events
    globalLogPublisher.removeObserver(observer)
    assert not [secret for secret in SECRETS if secret in str(events)]


@pytest.fixture
def make_auth(make_stand: MakeStand, tmp_path: Path) -> Iterator[MakeStand]:
    """A submission listener with users, by default the one of the file; no secret is in what it tells."""
    stands: list[Stand] = []

    def make(authenticator: Any = None, **settings: Any) -> Stand:
        services = settings.pop("services", {})
        stand = make_stand(
            {"role": "outbound", "auth": "users", **settings},
            tls=server(tmp_path),
            authenticator=authenticator or users(tmp_path),
            **services,
        )
        stands.append(stand)
        return stand

    yield make
    for stand in stands:
        told = str(stand.events.events) + "".join(repr(wire.octets) for wire in stand.wires)
        assert not [secret for secret in SECRETS if secret in told]


def greet(stand: Stand, address: str = "192.0.2.1") -> Wire:
    """A client that has said EHLO under TLS."""
    wire = stand.connect(address).hello().starttls(client())
    assert wire.say("LHLO client.example" if stand.is_lmtp else "EHLO client.example") == [250]
    return wire


def settle(stand: Stand, wire: Wire) -> list[int]:
    """What is said within the longest delay."""
    codes = wire.codes()
    for _ in range(17):
        stand.clock.advance(1)
        codes += wire.codes()
    return codes


def is_ann(wire: Wire, mechanism: str) -> bool:
    identity = wire.session.identity
    return identity is not None and (identity.name, identity.mechanism) == ("ann", mechanism)


# -- mechanisms


@pytest.mark.parametrize(
    ("mechanism", "lines", "codes"),
    [
        ("PLAIN", [f"AUTH PLAIN {RIGHT}"], [235]),
        ("PLAIN", [f"auth plain   {RIGHT}"], [235]),
        ("PLAIN", ["AUTH PLAIN", RIGHT], [334, 235]),
        ("PLAIN", [f"AUTH PLAIN {b64('ann' + chr(0) + 'ann' + chr(0) + PASSWORD)}"], [235]),
        ("LOGIN", ["AUTH LOGIN", b64("ann"), b64(PASSWORD)], [334, 334, 235]),
        ("LOGIN", [f"AUTH LOGIN {b64('ann')}", b64(PASSWORD)], [334, 235]),
    ],
)
@pytest.mark.parametrize("is_pipelined", [True, False])
def test_passwords(
    make_auth: MakeStand, mechanism: str, lines: list[str], codes: list[int], is_pipelined: bool
) -> None:
    stand = make_auth()
    wire = greet(stand)
    said = wire.say(*lines) if is_pipelined else [code for line in lines for code in wire.say(line)]
    assert said == codes
    assert is_ann(wire, mechanism)
    assert wire.session.protocol == "ESMTPSA"


def test_the_prompts_of_login_and_plain(make_auth: MakeStand) -> None:
    wire = greet(make_auth())
    wire.say("AUTH PLAIN", "*", "AUTH LOGIN", b64("ann"), "*")
    assert wire.octets.endswith(
        b"334 \r\n501 5.7.0 Authentication given up\r\n334 VXNlcm5hbWU6\r\n334 UGFzc3dvcmQ6\r\n"
        b"501 5.7.0 Authentication given up\r\n"
    )


def exchange(wire: Wire, mechanism: ClientMechanism, *, with_initial: bool = True) -> list[int]:
    """Run a client's mechanism through the session; the codes that it was told."""
    initial = base64.b64encode(mechanism.initial or b"").decode()
    said = [wire.say(f"AUTH {mechanism.name} {initial}" if with_initial else f"AUTH {mechanism.name}")]
    if not with_initial:
        said.append(wire.say(initial))
    while said[-1] == [334]:
        challenge = base64.b64decode(wire.octets.splitlines()[-1][4:])
        said.append(wire.say(base64.b64encode(mechanism.respond(challenge)).decode()))
    return [code for codes in said for code in codes]


@pytest.mark.parametrize("with_initial", [True, False])
@pytest.mark.parametrize("name", ["SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"])
def test_scram(make_auth: MakeStand, name: str, with_initial: bool) -> None:
    stand = make_auth()
    wire = greet(stand)
    bindings = channel_bindings(wire.tls, is_server=False) if name.endswith("-PLUS") else {}
    mechanism = client_mechanism(
        [name], username="ann", password=PASSWORD, tls=True, channel_bindings=bindings, allowed=[name]
    )
    assert mechanism is not None
    codes = exchange(wire, mechanism, with_initial=with_initial)
    assert codes == [334] * (2 if with_initial else 3) + [235]
    assert mechanism.verified
    assert is_ann(wire, name)


@pytest.mark.parametrize(("username", "password"), [("ann", "wrong"), ("nobody", PASSWORD)])
def test_scram_with_a_wrong_proof(make_auth: MakeStand, username: str, password: str) -> None:
    stand = make_auth()
    wire = greet(stand)
    mechanism = client_mechanism(["SCRAM-SHA-256"], username=username, password=password, tls=True, channel_bindings={})
    assert mechanism is not None
    assert exchange(wire, mechanism) == [334]
    assert settle(stand, wire) == [535]
    assert not mechanism.verified
    (refused,) = stand.events.of(Refused)
    assert refused.reason == f"SCRAM-SHA-256 as {username}: wrong password or unknown user"
    assert refused.user == username


def test_scram_of_another_connection(make_auth: MakeStand) -> None:
    stand = make_auth()
    wire, other = greet(stand), greet(stand)
    bindings = channel_bindings(other.tls, is_server=False)
    mechanism = client_mechanism(
        ["SCRAM-SHA-256-PLUS"], username="ann", password=PASSWORD, tls=True, channel_bindings=bindings
    )
    assert mechanism is not None
    assert exchange(wire, mechanism) == [334]
    assert settle(stand, wire) == [535]
    assert "another connection" in stand.events.of(Refused)[0].reason


def test_scram_whose_offer_was_hidden_from_the_client(make_auth: MakeStand) -> None:
    stand = make_auth()
    wire = greet(stand)
    bindings = channel_bindings(wire.tls, is_server=False)
    mechanism = client_mechanism(
        ["SCRAM-SHA-256"], username="ann", password=PASSWORD, tls=True, channel_bindings=bindings
    )
    assert mechanism is not None
    assert exchange(wire, mechanism) == []
    assert settle(stand, wire) == [535]


def test_scram_needs_no_tls(make_auth: MakeStand) -> None:
    stand = make_auth()
    wire = stand.connect().hello()
    mechanism = client_mechanism(["SCRAM-SHA-256"], username="ann", password=PASSWORD, tls=False, channel_bindings={})
    assert mechanism is not None
    assert exchange(wire, mechanism)[-1] == 235
    assert wire.session.protocol == "ESMTPA"


def bearer(token: str) -> str:
    return b64(f"user=ann\x01auth=Bearer {token}\x01\x01")


def test_a_token(make_auth: MakeStand) -> None:
    wire = greet(make_auth(tokens()))
    assert wire.say(f"AUTH XOAUTH2 {bearer('right')}") == [235]
    assert is_ann(wire, "XOAUTH2")


@pytest.mark.parametrize(
    ("mechanism", "initial"),
    [("XOAUTH2", bearer("wrong")), ("OAUTHBEARER", b64("n,a=ann,\x01auth=Bearer wrong\x01\x01"))],
)
@pytest.mark.parametrize("answer", ["", "AQ=="])
def test_a_token_that_is_refused_is_told_why_first(
    make_auth: MakeStand, mechanism: str, initial: str, answer: str
) -> None:
    stand = make_auth(tokens())
    wire = greet(stand)
    assert wire.say(f"AUTH {mechanism} {initial}") == [334]
    assert b'"status"' in base64.b64decode(wire.octets.splitlines()[-1][4:])
    assert wire.say(answer) == []
    assert settle(stand, wire) == [535]
    assert wire.say("NOOP") == [250]


# -- the exchange and the commands around it


@pytest.mark.parametrize(
    "line",
    [
        "%%%",
        "=",
        "A",
        "AGFubgBwYXNzd29yZA",  # without its padding
        "AGFubgBwYXNzd29yZE==",  # with bits behind the end
        b64("ann"),
        b64("\0ann\0"),
        b64("\0\0secret"),
        b64("\0ann\0a\0b"),
        b64("\0an\rn\0secret"),
        "AP8A/w==",
        "NOOP",
        "",
    ],
)
@pytest.mark.parametrize("is_initial", [True, False])
def test_malformed_responses_end_the_exchange(make_auth: MakeStand, line: str, is_initial: bool) -> None:
    stand = make_auth()
    wire = greet(stand)
    if is_initial and line:
        assert wire.say(f"AUTH PLAIN {line}") == [501]
    else:
        assert wire.say("AUTH PLAIN", line) == [334, 501]
    assert wire.say("NOOP") == [250]
    assert stand.events.of(Refused) == []
    assert wire.say(f"AUTH PLAIN {RIGHT}") == [235]


def test_an_exchange_is_given_up(make_auth: MakeStand) -> None:
    wire = greet(make_auth())
    assert wire.say("AUTH LOGIN", "*", "NOOP", "*") == [334, 501, 250, 500]
    assert wire.say("AUTH PLAIN *") == [501]


@pytest.mark.parametrize(("length", "codes"), [(12284, [334, 501]), (12288, [334, 501]), (12292, [334, 500])])
def test_the_longest_response(make_auth: MakeStand, length: int, codes: list[int]) -> None:
    wire = greet(make_auth())
    assert wire.say("AUTH PLAIN", "A" * length, "NOOP") == [*codes, 250]


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_line_that_is_no_response_ends_the_exchange(make_auth: MakeStand, is_whole: bool) -> None:
    wire = greet(make_auth())
    assert wire.say("AUTH LOGIN") == [334]
    octets = b"A" * 20_000 + b"\r\n"
    said = (
        wire.send(octets)
        if is_whole
        else [code for at in range(0, 20_002, 999) for code in wire.send(octets[at : at + 999])]
    )
    assert said == [500]
    assert wire.octets.endswith(b"500 5.5.6 Authentication exchange line is too long\r\n")
    assert wire.send(octets) == [500]
    assert b"\r\n500 5.5.2 " in wire.octets
    assert wire.say("NOOP", "AUTH LOGIN") == [250, 334]


def test_a_bare_line_feed_ends_the_session(make_auth: MakeStand) -> None:
    wire = greet(make_auth())
    assert wire.send(b"AUTH PLAIN\r\n" + RIGHT.encode() + b"\n") == [334, 500]
    assert wire.is_closed


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        (["AUTH"], 501),
        (["AUTH "], 501),
        (["AUTH FROB"], 504),
        (["AUTH PLAIN-TEXT"], 504),
        (["AUTH EXTERNAL ="], 504),
        (["AUTH CRAM-MD5"], 504),
        ([f"AUTH=PLAIN {RIGHT}"], 500),
        (["AUTH SCRAM-SHA-256 ="], 501),
    ],
)
def test_what_is_no_mechanism(make_auth: MakeStand, lines: list[str], code: int) -> None:
    wire = greet(make_auth())
    assert wire.say(*lines, "NOOP") == [code, 250]


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "SCRAM-SHA-256-PLUS"])
def test_what_needs_tls(make_auth: MakeStand, mechanism: str) -> None:
    wire = make_auth().connect().hello()
    assert wire.say(f"AUTH {mechanism} {RIGHT}", f"AUTH {mechanism}", "NOOP") == [538, 538, 250]


def test_passwords_in_the_clear_for_devices(make_auth: MakeStand) -> None:
    stand = make_auth(auth_without_tls=True)
    wire = stand.connect().hello()
    assert wire.say(f"AUTH PLAIN {RIGHT}") == [235]
    assert wire.session.protocol == "ESMTPA"


@pytest.mark.parametrize("greeting", [[], ["HELO client.example"]])
def test_auth_needs_ehlo(make_auth: MakeStand, greeting: list[str]) -> None:
    wire = make_auth().connect()
    assert wire.say(*greeting, f"AUTH PLAIN {RIGHT}")[-1] in (503, 538)
    wire.say("EHLO client.example")
    wire.starttls(client())
    assert wire.say(f"AUTH PLAIN {RIGHT}") == [503]
    assert wire.session.identity is None


def test_auth_is_not_for_transactions_and_happens_once(make_auth: MakeStand) -> None:
    stand = make_auth(trusted_networks=["192.0.2.0/24"])
    wire = greet(stand)
    assert wire.say("MAIL FROM:<>", f"AUTH PLAIN {RIGHT}", "RSET", f"AUTH PLAIN {RIGHT}") == [250, 503, 250, 235]
    assert wire.say("AUTH LOGIN", f"AUTH PLAIN {WRONG}", "NOOP") == [503, 503, 250]


def test_lines_of_an_exchange_are_commands_that_are_counted(make_auth: MakeStand) -> None:
    wire = greet(make_auth(max_commands=10, max_errors=100))
    assert wire.say(*["AUTH LOGIN", "*"] * 4)[-1] == 421
    assert wire.is_closed


# -- failures


def test_answers_to_wrong_passwords_take_longer_each_time(make_auth: MakeStand) -> None:
    stand = make_auth(max_auth_failures=7)
    wire = greet(stand)
    for delay in (1, 2, 4, 8, 16, 16):
        assert wire.say(f"AUTH PLAIN {WRONG}", "NOOP") == []
        stand.clock.pump([1.0] * (delay - 1))
        assert wire.codes() == []
        stand.clock.advance(1)
        assert wire.codes() == [535, 250]
    assert {event.reason for event in stand.events.of(Refused)} == {"PLAIN as ann: wrong password or unknown user"}
    assert {(event.stage, event.reply) for event in stand.events.of(Refused)} == {
        ("auth", "535 5.7.8 Authentication credentials invalid")
    }


def test_too_many_failures_end_the_session(make_auth: MakeStand) -> None:
    stand = make_auth(max_auth_failures=2)
    wire = greet(stand)
    wire.say(f"AUTH PLAIN {WRONG}")
    assert settle(stand, wire) == [535]
    wire.say("AUTH LOGIN", b64("ann"), b64("Tr0ub4dor&3"), f"AUTH PLAIN {RIGHT}")
    assert settle(stand, wire) == [535, 421]
    assert wire.is_closed
    wire.lose()
    assert stand.causes == ["auth"]


def test_failures_are_kept_over_starttls(make_auth: MakeStand) -> None:
    stand = make_auth(max_auth_failures=2, auth_without_tls=True)
    wire = stand.connect().hello()
    wire.say(f"AUTH PLAIN {WRONG}")
    assert settle(stand, wire) == [535]
    wire.starttls(client())
    wire.say("EHLO client.example", f"AUTH PLAIN {WRONG}")
    assert settle(stand, wire)[-2:] == [535, 421]


def test_a_client_that_goes_while_its_answer_waits(make_auth: MakeStand) -> None:
    stand = make_auth()
    wire = greet(stand)
    wire.say(f"AUTH PLAIN {WRONG}")
    wire.lose()
    assert stand.causes == ["lost"]


@pytest.mark.parametrize(
    ("first", "second", "is_same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
    ],
)
def test_failures_of_one_client_over_its_sessions(make_auth: MakeStand, first: str, second: str, is_same: bool) -> None:
    stand = make_auth(max_auth_failures_per_client=2)
    for _ in range(2):
        wire = greet(stand, first)
        wire.say(f"AUTH PLAIN {WRONG}")
        assert settle(stand, wire) == [535]
    wire = greet(stand, second)
    assert wire.say(f"AUTH PLAIN {RIGHT}") == [454 if is_same else 235]
    if is_same:
        assert "max_auth_failures_per_client" in stand.events.of(Refused)[-1].reason
        assert wire.session.identity is None
        for _ in range(8 * 3600 // 60):
            stand.clock.advance(60)
        late = greet(stand, second)
        assert late.say(f"AUTH PLAIN {RIGHT}") == [235]


class Counters:
    """Counters that fail, or answer when they are told to."""

    def __init__(self) -> None:
        self.peeked: list[Deferred[int]] = []
        self.hits: Deferred[int] = Deferred()

    def peek(self, key: str, window: float) -> Deferred[int]:
        self.peeked.append(Deferred())
        return self.peeked[-1]

    def hit(self, key: str, window: float, amount: int = 1) -> Deferred[int]:
        return self.hits


def test_counters_that_answer_later(make_auth: MakeStand) -> None:
    counters = Counters()
    stand = make_auth(services={"counters": counters})
    wire = greet(stand)
    assert wire.say("AUTH PLAIN", RIGHT, "NOOP") == [334]
    counters.peeked[0].callback(0)
    assert wire.codes() == [235, 250]


def test_counters_that_cannot_be_asked(make_auth: MakeStand) -> None:
    counters = Counters()
    stand = make_auth(services={"counters": counters})
    wire = greet(stand)
    wire.say(f"AUTH PLAIN {RIGHT}")
    counters.peeked[0].errback(ZeroDivisionError("a bug"))
    assert wire.codes() == [454]
    assert stand.failed() == ["a bug"]
    assert stand.events.of(Refused)[0].reason == "the counters cannot be asked"
    assert wire.session.identity is None


def test_a_failure_that_cannot_be_counted(make_auth: MakeStand) -> None:
    counters = Counters()
    stand = make_auth(services={"counters": counters})
    wire = greet(stand)
    wire.say(f"AUTH PLAIN {WRONG}")
    counters.peeked[0].callback(0)
    counters.hits.errback(ZeroDivisionError("a bug"))
    assert settle(stand, wire) == [535]
    assert stand.failed() == ["a bug"]


def test_a_check_is_open_until_its_failure_is_counted(make_auth: MakeStand) -> None:
    counters = Counters()
    stand = make_auth(services={"counters": counters}, max_auth_failures_per_client=1)
    first, second = greet(stand), greet(stand)
    first.say(f"AUTH PLAIN {WRONG}")
    counters.peeked[0].callback(0)
    second.say(f"AUTH PLAIN {RIGHT}")
    counters.peeked[1].callback(0)  # asked before the failure was counted
    assert second.codes() == []
    counters.hits.callback(1)
    counters.peeked[2].callback(1)
    assert second.codes() == [454]
    assert settle(stand, first) == [535]


# -- guesses on several connections


class Slow(Tokens):
    """Answers each question when it is told to, in any order."""

    def __init__(self) -> None:
        self.asked: list[Deferred[AvatarId]] = []

    def requestAvatarId(self, credentials: Any) -> Deferred[AvatarId]:  # noqa: N802  twisted.cred's
        self.asked.append(Deferred())
        return self.asked[-1]


def no() -> UnauthorizedLogin:
    return UnauthorizedLogin("not a token of ours")


def token(wire: Wire) -> list[int]:
    return wire.say(f"AUTH XOAUTH2 {bearer('guess')}")


def test_a_wrong_secret_counts_though_the_client_does_not_wait_for_the_answer(make_auth: MakeStand) -> None:
    checker = Slow()
    stand = make_auth(tokens(checker), max_auth_failures_per_client=3)
    for _ in range(2):
        wire = greet(stand)
        token(wire)
        wire.lose()
        checker.asked[-1].errback(no())
    assert [(event.stage, event.reply, event.reason) for event in stand.events.of(Refused)] == [
        ("auth", "", "XOAUTH2 as ann: not a token of ours; the client did not wait for the answer")
    ] * 2
    wire = greet(stand)
    token(wire)
    wire.lose()  # and this one is open yet
    late = greet(stand)
    assert token(late) == []
    checker.asked[-1].errback(no())
    assert late.codes() == [454]
    assert len(checker.asked) == 3


def test_a_right_secret_counts_nothing_though_the_client_has_gone(make_auth: MakeStand) -> None:
    checker = Slow()
    stand = make_auth(tokens(checker), max_auth_failures_per_client=1)
    for _ in range(3):
        wire = greet(stand)
        token(wire)
        wire.lose()
        checker.asked[-1].callback(b"ann")
    assert stand.events.of(Refused) == []
    assert token(greet(stand)) == []
    assert len(checker.asked) == 4


def test_no_more_secrets_are_checked_at_one_time_than_may_be_wrong(make_auth: MakeStand) -> None:
    checker = Slow()
    stand = make_auth(tokens(checker), max_auth_failures_per_client=3)
    wires = [greet(stand) for _ in range(8)]
    assert [token(wire) for wire in wires] == [[]] * 8
    assert token(greet(stand, "192.0.2.2")) == []
    assert len(checker.asked) == 3 + 1
    checker.asked[0].callback(b"ann")
    assert wires[0].codes() == [235]
    assert len(checker.asked) == 5
    for asked in (1, 2, 4):
        checker.asked[asked].errback(no())
    assert len(checker.asked) == 5
    assert [wire.codes() for wire in wires[1:]] == [[334]] * 3 + [[454]] * 4
    checker.asked[3].callback(b"ann")


def test_who_waits_for_the_checks_of_others_may_go(make_auth: MakeStand) -> None:
    checker = Slow()
    stand = make_auth(tokens(checker), max_auth_failures_per_client=1)
    first, second, third = (greet(stand) for _ in range(3))
    for wire in (first, second, third):
        token(wire)
    second.lose()
    checker.asked[0].errback(AuthUnavailable("the issuer does not answer"))
    assert first.codes() == [454]
    assert len(checker.asked) == 2
    checker.asked[1].callback(b"ann")
    assert third.codes() == [235]


def wrong_scram() -> ClientMechanism:
    mechanism = client_mechanism(["SCRAM-SHA-256"], username="ann", password="wrong", tls=True, channel_bindings={})  # noqa: S106  for tests
    assert mechanism is not None
    return mechanism


def test_proofs_on_many_connections_are_one_clients(make_auth: MakeStand) -> None:
    stand = make_auth(max_auth_failures_per_client=2)
    wires = [greet(stand) for _ in range(4)]
    proofs = []
    for wire in wires:
        mechanism = wrong_scram()
        assert wire.say(f"AUTH SCRAM-SHA-256 {base64.b64encode(mechanism.initial or b'').decode()}") == [334]
        challenge = base64.b64decode(wire.octets.splitlines()[-1][4:])
        proofs.append(base64.b64encode(mechanism.respond(challenge)).decode())
    assert [wire.say(proof) for wire, proof in zip(wires, proofs, strict=True)] == [[], [], [454], [454]]
    for wire in wires[:2]:
        wire.lose()
    assert len([event for event in stand.events.of(Refused) if event.reply.startswith("535")]) == 2
    assert exchange(greet(stand), wrong_scram()) == [454]  # not even a challenge


def test_a_proof_that_is_none_leaves_no_check_open(make_auth: MakeStand) -> None:
    stand = make_auth(max_auth_failures_per_client=1)
    wire = greet(stand)
    initial = base64.b64encode(wrong_scram().initial or b"").decode()
    for _ in range(2):
        assert wire.say(f"AUTH SCRAM-SHA-256 {initial}", b64("no proof")) == [334, 501]
    assert wire.say(f"AUTH PLAIN {RIGHT}") == [235]


def test_a_token_is_wrong_before_the_client_has_heard_why(make_auth: MakeStand) -> None:
    stand = make_auth(tokens(), max_auth_failures_per_client=1)
    wire = greet(stand)
    assert token(wire) == [334]
    assert token(greet(stand)) == [454]
    assert wire.say("AQ==") == []
    assert settle(stand, wire) == [535]
    assert len([event for event in stand.events.of(Refused) if event.reply.startswith("535")]) == 1


def test_right_secrets_and_what_is_given_up_count_nothing(make_auth: MakeStand) -> None:
    stand = make_auth(max_auth_failures_per_client=1)
    for _ in range(3):
        wire = greet(stand)
        assert wire.say("AUTH LOGIN", b64("ann"), "*") == [334, 334, 501]
        assert wire.say("AUTH PLAIN", "=") == [334, 501]
        assert wire.say(f"AUTH PLAIN {RIGHT}") == [235]
        right = client_mechanism(["SCRAM-SHA-256"], username="ann", password=PASSWORD, tls=True, channel_bindings={})
        assert right is not None
        assert exchange(greet(stand), right) == [334, 334, 235]


@pytest.mark.parametrize("is_unix", [True, False])
def test_clients_without_an_address_have_no_counter_in_common(make_auth: MakeStand, is_unix: bool) -> None:
    stand = make_auth(max_auth_failures_per_client=1, xclient_from=["192.0.2.0/24"])

    def connect() -> Wire:
        if is_unix:
            return greet(stand, "/run/front.sock")
        wire = greet(stand)
        assert wire.say("XCLIENT ADDR=[UNAVAILABLE]", "EHLO client.example") == [220, 250]
        return wire

    bob, ann = (b64(f"\0{name}\0Tr0ub4dor&3") for name in ("Bob", "ann"))
    wire = connect()
    wire.say(f"AUTH PLAIN {bob}")
    assert settle(stand, wire) == [535]
    assert connect().say(f"AUTH PLAIN {b64(chr(0) + 'bob' + chr(0) + PASSWORD)}") == [454]
    wire = connect()
    assert wire.say(f"AUTH PLAIN {RIGHT}") == [235]
    wire = connect()
    wire.say(f"AUTH PLAIN {ann}")
    assert settle(stand, wire) == [535]
    assert connect().say("AUTH LOGIN", b64("ann"), b64(PASSWORD)) == [334, 334, 454]


def test_tokens_that_name_nobody_count_by_session_where_there_is_no_address(make_auth: MakeStand) -> None:
    stand = make_auth(tokens(), max_auth_failures_per_client=1)
    nobody = b64("n,,\x01auth=Bearer wrong\x01\x01")
    first = greet(stand, "/run/front.sock")
    assert first.say(f"AUTH OAUTHBEARER {nobody}") == [334]
    first.say("AQ==")
    assert settle(stand, first) == [535]
    assert first.say(f"AUTH OAUTHBEARER {nobody}") == [454]
    assert greet(stand, "/run/front.sock").say(f"AUTH OAUTHBEARER {nobody}") == [334]


# -- users that cannot be asked


def unavailable() -> Tokens:
    checker = Tokens()
    checker.answer = fail(AuthUnavailable("the issuer does not answer"))
    return checker


def test_users_that_cannot_be_asked(make_auth: MakeStand) -> None:
    stand = make_auth(tokens(unavailable()))
    wire = greet(stand)
    assert wire.say(f"AUTH XOAUTH2 {bearer('right')}") == [454]
    (refused,) = stand.events.of(Refused)
    assert (refused.stage, refused.reply) == ("auth", "454 4.7.0 Temporary authentication failure")
    assert refused.reason == "the users cannot be asked: the issuer does not answer"
    assert refused.user == "ann"
    stand.failed()
    assert wire.say("NOOP") == [250]
    assert wire.session.identity is None


def test_an_answer_that_takes_its_time(make_auth: MakeStand) -> None:
    checker = Tokens()
    checker.answer = Deferred()
    stand = make_auth(tokens(checker))
    wire = greet(stand)
    assert wire.say(f"AUTH XOAUTH2 {bearer('right')}", "MAIL FROM:<>") == []
    stand.clock.pump([1.0] * 1000)
    assert wire.codes() == []
    checker.answer.callback(b"ann")
    assert wire.codes() == [235, 250]


def test_a_client_that_goes_before_the_answer(make_auth: MakeStand) -> None:
    checker = Tokens()
    checker.answer = Deferred()
    stand = make_auth(tokens(checker))
    wire = greet(stand)
    wire.say(f"AUTH XOAUTH2 {bearer('right')}")
    wire.lose()
    checker.answer.callback(b"ann")
    assert stand.events.of(Refused) == []
    assert stand.causes == ["lost"]


def test_a_cut_within_an_exchange(make_auth: MakeStand) -> None:
    stand = make_auth()
    wire = greet(stand)
    assert wire.say("AUTH LOGIN") == [334]
    stand.listener.drain()
    assert wire.codes() == [421]
    assert wire.is_closed


def test_silence_within_an_exchange(make_auth: MakeStand) -> None:
    stand = make_auth()
    wire = greet(stand)
    wire.say("AUTH LOGIN")
    stand.clock.pump([1.0] * 300)
    assert wire.codes() == [421]


# -- what it opens


def test_nobody_sends_before_auth(make_auth: MakeStand) -> None:
    stand = make_auth()
    wire = greet(stand)
    assert wire.say("MAIL FROM:<ann@example.org>", "RCPT TO:<bob@example.org>") == [530, 503]
    assert "mail" not in stand.script.asked
    assert wire.say(f"AUTH PLAIN {RIGHT}") == [235]
    assert wire.data_again() == [250]
    assert stand.trusted.asked == ["mail", "rcpt", "data", "message"]
    ((session, _, _, _),) = stand.script.taken
    assert session.identity is not None
    assert (session.identity.name, session.protocol) == ("ann", "ESMTPSA")


def test_trusted_networks_need_no_auth_and_may_have_it(make_auth: MakeStand) -> None:
    wire = greet(make_auth(trusted_networks=["192.0.2.0/24"]))
    assert wire.say("MAIL FROM:<>", "RSET", f"AUTH PLAIN {RIGHT}") == [250, 250, 235]
    assert is_ann(wire, "PLAIN")


def test_a_hybrid_listener_takes_from_both(make_auth: MakeStand) -> None:
    stand = make_auth(role="hybrid")
    wire = greet(stand)
    assert wire.data_again() == [250]
    assert stand.script.asked.count("mail") == 1
    assert wire.say(f"AUTH PLAIN {RIGHT}", "MAIL FROM:<> HOLDFOR=60") == [235, 250]
    assert stand.trusted.asked == ["mail"]


def test_what_a_stranger_says_of_others_counts_nothing(make_auth: MakeStand) -> None:
    stand = make_auth(role="hybrid")
    wire = greet(stand)
    assert wire.say("MAIL FROM:<a@b.example> AUTH=ann@b.example MT-PRIORITY=5", "RCPT TO:<bob@example.org>") == [
        250,
        250,
    ]
    assert b"250 2.3.6 " in wire.octets  # RFC 6710 section 4.1
    wire.send(b"DATA\r\n" + CONTENT)
    asked = stand.script.taken[0][1].parameters
    assert (asked.auth, asked.priority) == ("<>", 0)
    wire.say(f"AUTH PLAIN {RIGHT}", "MAIL FROM:<a@b.example> AUTH=ann@b.example MT-PRIORITY=5")
    wire.say("RCPT TO:<bob@example.org>")
    wire.send(b"DATA\r\n" + CONTENT)
    asked = stand.script.taken[1][1].parameters
    assert (asked.auth, asked.priority) == ("ann@b.example", 5)


@pytest.mark.parametrize(
    ("verdict", "code"),
    [
        (Reject(Reply.of(535, "5.7.8", "Not you"), "because"), 535),
        (Disconnect(Reply.of(421, "4.7.0", "Go away"), "because"), 421),
    ],
)
@pytest.mark.parametrize("is_late", [True, False])
def test_a_filter_objects(make_auth: MakeStand, verdict: Any, code: int, is_late: bool) -> None:
    stand = make_auth()
    waited = stand.pend("auth")
    if not is_late:
        waited.callback(verdict)
    wire = greet(stand)
    said = wire.say(f"AUTH PLAIN {RIGHT}")
    if is_late:
        waited.callback(verdict)
    assert said + wire.codes() == [code]
    assert wire.session.identity is None
    assert wire.is_closed is (code == 421)
    (refused,) = stand.events.of(Refused)
    assert (refused.stage, refused.reason) == ("auth", "because")
    if code == 535:
        assert wire.say("MAIL FROM:<>") == [530]


def test_lmtp_has_auth_too(make_auth: MakeStand) -> None:
    wire = greet(make_auth(protocol="lmtp"))
    assert wire.say(f"AUTH PLAIN {RIGHT}") == [235]
    assert wire.session.protocol == "LMTPSA"
