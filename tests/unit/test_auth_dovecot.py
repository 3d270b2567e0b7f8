"""`[auth.NAME]` of kind dovecot: the protocol with a Dovecot in memory, its connection, and one that misbehaves."""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError, ConnectionDone
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer
from zope.interface.verify import verifyObject

from mailgate.auth.checker import AuthUnavailable, IAuthReactor, IChecker
from mailgate.auth.credentials import PasswordLogin, TokenLogin
from mailgate.auth.dovecot import DovecotChecker
from mailgate.auth.dovecot_client import MAX_LINE
from mailgate.envelope import Session, Tls
from tests.unit.auth_stand import Reactor, failure_of, outcome_of, session

TIMEOUT = 10.0
PLAIN = frozenset({"PLAIN", "LOGIN"})
TOKENS = frozenset({"XOAUTH2", "OAUTHBEARER"})
GREETING = (b"VERSION\t1\t2", b"MECH\tPLAIN\tplaintext", b"SPID\t17", b"CUID\t1", b"COOKIE\t" + b"0" * 32, b"DONE")
WITH_TOKENS = (*GREETING[:2], b"MECH\tOAUTHBEARER", b"MECH\tXOAUTH2", *GREETING[2:])


@implementer(IStreamClientEndpoint)
class Dovecot:
    """It says what the test has it say. With `refuses` or `is_silent` nobody gets through."""

    def __init__(self) -> None:
        self.connections: list[tuple[IProtocol, StringTransport]] = []
        self.attempts: list[Deferred[IProtocol]] = []
        self.refuses = self.is_silent = False

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        answer: Deferred[IProtocol] = Deferred(lambda _: None)
        self.attempts.append(answer)
        if self.refuses:
            answer.errback(ConnectError(string="refused"))
        elif not self.is_silent:
            protocol = factory.buildProtocol(UNIXAddress(b"/run/auth-client"))
            assert protocol is not None
            transport = StringTransport()
            self.connections.append((protocol, transport))
            protocol.makeConnection(transport)
            answer.callback(protocol)
        return answer

    @property
    def transport(self) -> StringTransport:
        return self.connections[-1][1]

    def say(self, *lines: bytes) -> None:
        self.connections[-1][0].dataReceived(b"".join(line + b"\n" for line in lines))

    def hear(self) -> list[list[bytes]]:
        """The lines since it was asked last, by fields."""
        lines = self.transport.value().split(b"\n")
        assert lines.pop() == b""
        self.transport.clear()
        return [line.split(b"\t") for line in lines]

    def hang_up(self, number: int = -1) -> None:
        self.connections[number][0].connectionLost(Failure(ConnectionDone()))


class Stand:
    def __init__(self, *greeting: bytes) -> None:
        self.reactor = Reactor()
        self.dovecot = Dovecot()
        self.checker = DovecotChecker(self.dovecot, cast(IAuthReactor, self.reactor), TIMEOUT)
        if greeting:
            assert self.checker.mechanisms
            self.dovecot.say(*greeting)
            self.dovecot.hear()

    def ask(self, name: str = "ann", password: str = "hunter2", asking: Session | None = None) -> Deferred[Any]:  # noqa: S107
        return self.checker.requestAvatarId(PasswordLogin(name.encode(), password.encode(), asking))

    def asked(self) -> tuple[bytes, list[bytes], bytes]:
        """Number, parameters and decoded response of the only question that Dovecot has heard."""
        ((command, number, mechanism, *parameters, response),) = self.dovecot.hear()
        assert command == b"AUTH"
        name, _, value = response.partition(b"=")
        assert name == b"resp"
        return number, [mechanism, *parameters], b64decode(value)


def test_it_is_what_its_interface_says() -> None:
    assert verifyObject(IChecker, Stand().checker)


def test_we_greet_with_version_and_a_number_of_our_own() -> None:
    stand = Stand()
    stand.ask()
    version, cpid = stand.dovecot.hear()
    assert version == [b"VERSION", b"1", b"1"]
    assert cpid[0] == b"CPID"
    assert 0 < int(cpid[1]) < 2**31
    other = Stand()
    other.ask()
    assert other.dovecot.hear()[1] != cpid


def test_a_question_waits_for_the_greeting_and_gets_the_name_that_dovecot_gives() -> None:
    stand = Stand()
    answer = stand.ask("Ann", "hunter2")
    stand.dovecot.hear()
    stand.dovecot.say(*GREETING[:-1])
    assert stand.dovecot.hear() == []
    stand.dovecot.say(GREETING[-1])
    number, (mechanism, *parameters), response = stand.asked()
    assert (mechanism, response) == (b"PLAIN", b"\0Ann\0hunter2")
    assert parameters == [b"service=smtp", b"nologin", b"no-penalty"]
    stand.dovecot.say(b"OK\t" + number + b"\tuser=ann@example.org\toriginal_user=Ann")
    assert outcome_of(answer) == b"ann@example.org"


@pytest.mark.parametrize(
    ("asking", "told"),
    [
        (session("192.0.2.1"), [b"rip=192.0.2.1", b"rport=4711"]),
        (session("2001:db8::1"), [b"rip=2001:db8::1", b"rport=4711"]),
        (session(None), []),
        (
            session("192.0.2.1", tls=Tls(version="TLSv1.3", cipher="x")),
            [b"secured", b"rip=192.0.2.1", b"rport=4711"],
        ),
    ],
)
def test_dovecot_is_told_of_the_client(asking: Session, told: list[bytes]) -> None:
    stand = Stand(*GREETING)
    stand.ask(asking=asking)
    assert stand.asked()[1][4:] == told


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (b"FAIL\t%b\tuser=ann", UnauthorizedLogin),
        (b"FAIL\t%b", UnauthorizedLogin),
        (b"FAIL\t%b\tuser=ann\tcode=pass_expired\treason=temp", UnauthorizedLogin),
        (b"FAIL\t%b\tuser=ann\ttemp", AuthUnavailable),
        (b"FAIL\t%b\tuser=ann\tcode=temp_fail", AuthUnavailable),
        (b"OK\t%b", AuthUnavailable),
        (b"OK\t%b\tuser=", AuthUnavailable),
    ],
)
def test_the_answers_of_dovecot(reply: bytes, kind: type[Exception]) -> None:
    stand = Stand(*GREETING)
    answer = stand.ask()
    stand.dovecot.say(reply % stand.asked()[0])
    failure = failure_of(answer)
    assert type(failure) is kind
    assert "hunter2" not in str(failure)
    assert stand.reactor.getDelayedCalls() == []


def test_answers_come_in_any_order_and_those_of_nobody_are_passed_over() -> None:
    stand = Stand(*GREETING)
    answers = [stand.ask(name) for name in ("ann", "bob", "cid")]
    numbers = [line[1] for line in stand.dovecot.hear()]
    assert len(set(numbers)) == 3
    stand.dovecot.say(
        b"OK\t99999\tuser=eve",
        b"OK\tx\tuser=eve",
        b"OK\t-1\tuser=eve",
        b"OK\t99999999999999999999\tuser=eve",
        b"OK",
        b"NOTICE\t" + numbers[0] + b"\tuser=eve",
        b"OK\t" + numbers[2] + b"\tuser=cid",
        b"FAIL\t" + numbers[0] + b"\tuser=ann",
        b"OK\t" + numbers[0] + b"\tuser=ann",
    )
    assert isinstance(failure_of(answers[0]), UnauthorizedLogin)
    assert outcome_of(answers[1]) is None
    assert outcome_of(answers[2]) == b"cid"


def test_a_name_comes_out_of_its_escapes() -> None:
    stand = Stand(*GREETING)
    answer = stand.ask()
    stand.dovecot.say(b"OK\t" + stand.asked()[0] + b"\tuser=a\x01tb\x01nc\x010d\x011e\x01rf\x01xg")
    assert outcome_of(answer) == b"a\tb\nc\0d\1e\rfxg"


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_no_name_or_password_adds_a_field(name: bytes, password: bytes) -> None:
    stand = Stand(*WITH_TOKENS)
    login = PasswordLogin(name, password)
    answer = stand.checker.requestAvatarId(login)
    if not name or b"\0" in name + password:
        assert isinstance(failure_of(answer), UnauthorizedLogin)
        assert stand.dovecot.hear() == []
    else:
        assert stand.asked()[2] == b"\0" + name + b"\0" + password


# --- Tokens -----------------------------------------------------------------------------------------------


def test_the_mechanisms_are_those_of_dovecot() -> None:
    assert Stand().checker.mechanisms == PLAIN
    assert Stand(*GREETING).checker.mechanisms == PLAIN
    assert Stand(*WITH_TOKENS).checker.mechanisms == PLAIN | TOKENS
    assert Stand(GREETING[0], b"MECH\tXOAUTH2", b"MECH\tSCRAM-SHA-256", GREETING[-1]).checker.mechanisms == TOKENS


@pytest.mark.parametrize(
    ("greeting", "name", "mechanism", "response"),
    [
        (WITH_TOKENS, b"a,b=c", b"OAUTHBEARER", b"n,a=a=2Cb=3Dc,\1auth=Bearer t0ken\1\1"),
        (WITH_TOKENS, b"", b"OAUTHBEARER", b"n,,\1auth=Bearer t0ken\1\1"),
        ((*GREETING[:-1], b"MECH\tXOAUTH2", b"DONE"), b"ann", b"XOAUTH2", b"user=ann\1auth=Bearer t0ken\1\1"),
    ],
)
def test_a_token_goes_by_what_dovecot_knows(
    greeting: tuple[bytes, ...], name: bytes, mechanism: bytes, response: bytes
) -> None:
    stand = Stand(*greeting)
    answer = stand.checker.requestAvatarId(TokenLogin(name, "t0ken", "gw.example", 587))
    number, (asked, *_), sent = stand.asked()
    assert (asked, sent) == (mechanism, response)
    stand.dovecot.say(b"OK\t" + number + b"\tuser=ann")
    assert outcome_of(answer) == b"ann"


@pytest.mark.parametrize(("name", "token"), [(b"ann", ""), (b"ann", "a\1b"), (b"ann", "a b"), (b"a\1auth=x", "t0ken")])
def test_what_is_no_token_is_refused_without_dovecot(name: bytes, token: str) -> None:
    stand = Stand(*WITH_TOKENS)
    assert isinstance(failure_of(stand.checker.requestAvatarId(TokenLogin(name, token))), UnauthorizedLogin)
    assert stand.dovecot.hear() == []


@pytest.mark.parametrize(("end", "kind"), [(b"", UnauthorizedLogin), (b"\tcode=temp_fail", AuthUnavailable)])
def test_the_challenge_to_a_wrong_token_is_answered_once(end: bytes, kind: type[Exception]) -> None:
    stand = Stand(*WITH_TOKENS)
    answer = stand.checker.requestAvatarId(TokenLogin(b"ann", "t0ken"))
    number = stand.asked()[0]
    stand.dovecot.say(b"CONT\t" + number + b"\t" + b64encode(b'{"status":"invalid_token"}'))
    assert stand.dovecot.hear() == [[b"CONT", number, b"AQ=="]]
    stand.dovecot.say(b"FAIL\t" + number + b"\tuser=ann" + end)
    assert type(failure_of(answer)) is kind


def test_a_second_challenge_is_no_answer() -> None:
    stand = Stand(*WITH_TOKENS)
    answer = stand.ask()
    number = stand.asked()[0]
    stand.dovecot.say(b"CONT\t" + number + b"\t", b"CONT\t" + number + b"\t")
    assert isinstance(failure_of(answer), AuthUnavailable)


# --- The connection ---------------------------------------------------------------------------------------


def test_one_connection_serves_all_and_is_made_anew_when_it_is_lost() -> None:
    stand = Stand(*GREETING)
    lost = [stand.ask("ann"), stand.ask("bob")]
    assert len(stand.dovecot.connections) == 1
    stand.dovecot.hang_up()
    assert all(isinstance(failure_of(answer), AuthUnavailable) for answer in lost)
    assert stand.reactor.getDelayedCalls() == []
    answer = stand.ask("cid")
    assert len(stand.dovecot.connections) == 2
    stand.dovecot.hear()
    stand.dovecot.say(*GREETING)
    stand.dovecot.say(b"OK\t" + stand.asked()[0] + b"\tuser=cid")
    assert outcome_of(answer) == b"cid"


def test_many_wait_for_one_connection() -> None:
    stand = Stand()
    answers = [stand.ask(name) for name in ("ann", "bob")]
    assert stand.checker.mechanisms == PLAIN
    assert len(stand.dovecot.attempts) == 1
    stand.dovecot.hear()
    stand.dovecot.say(*GREETING)
    lines = stand.dovecot.hear()
    stand.dovecot.say(*(b"OK\t" + line[1] + b"\tuser=x" for line in lines))
    assert [outcome_of(answer) for answer in answers] == [b"x", b"x"]


def test_where_nobody_listens_each_question_tries_but_looking_at_the_mechanisms_does_not() -> None:
    stand = Stand()
    stand.dovecot.refuses = True
    for _ in range(3):
        failure = failure_of(stand.ask())
        assert isinstance(failure, AuthUnavailable)
        assert "refused" in str(failure)
    assert len(stand.dovecot.attempts) == 3
    assert stand.checker.mechanisms == PLAIN
    assert len(stand.dovecot.attempts) == 3
    stand.reactor.advance(6)
    assert stand.checker.mechanisms == PLAIN
    assert len(stand.dovecot.attempts) == 4


def test_what_dovecot_knew_is_offered_while_it_is_away() -> None:
    stand = Stand(*WITH_TOKENS)
    stand.dovecot.hang_up()
    stand.dovecot.refuses = True
    assert stand.checker.mechanisms == PLAIN | TOKENS


def test_who_does_not_let_us_through_is_waited_for_so_long() -> None:
    stand = Stand()
    stand.dovecot.is_silent = True
    answer = stand.ask()
    stand.reactor.advance(TIMEOUT - 1)
    assert outcome_of(answer) is None
    stand.reactor.advance(1)
    assert isinstance(failure_of(answer), AuthUnavailable)


def test_who_does_not_greet_is_waited_for_so_long() -> None:
    stand = Stand()
    answer = stand.ask()
    stand.dovecot.say(*GREETING[:-1])
    stand.reactor.advance(TIMEOUT)
    failure = failure_of(answer)
    assert isinstance(failure, AuthUnavailable)
    assert "greet" in str(failure)
    assert stand.dovecot.transport.disconnecting or stand.dovecot.transport.disconnected
    stand.dovecot.hang_up()
    assert stand.reactor.getDelayedCalls() == []


def test_the_time_for_the_connection_counts() -> None:
    stand = Stand()
    answer = stand.ask()
    stand.reactor.advance(TIMEOUT - 1)
    stand.dovecot.say(*GREETING)
    stand.reactor.advance(1)
    assert isinstance(failure_of(answer), AuthUnavailable)


@pytest.mark.parametrize(
    "lines",
    [
        (b"VERSION\t2\t0", *GREETING[1:]),
        (b"VERSION", *GREETING[1:]),
        GREETING[1:],
        (b"220 mail.example ESMTP" + b"x" * MAX_LINE,),
        (b"VERSION\t1\t2\0" + b"\xff" * MAX_LINE,),
    ],
)
def test_what_is_not_dovecot_is_left(lines: tuple[bytes, ...]) -> None:
    stand = Stand()
    answer = stand.ask()
    stand.dovecot.say(*lines)
    assert stand.dovecot.transport.disconnecting or stand.dovecot.transport.disconnected
    stand.dovecot.hang_up()
    assert isinstance(failure_of(answer), AuthUnavailable)
    assert stand.reactor.getDelayedCalls() == []


def test_a_connection_that_breaks_off_in_the_greeting_is_no_answer() -> None:
    stand = Stand()
    answer = stand.ask()
    stand.dovecot.say(*GREETING[:2])
    stand.dovecot.hang_up()
    assert isinstance(failure_of(answer), AuthUnavailable)


def test_an_answer_that_is_late_is_given_up_and_the_connection_with_it_where_not_a_word_came() -> None:
    stand = Stand(*GREETING)
    answer = stand.ask()
    stand.reactor.advance(TIMEOUT)
    assert isinstance(failure_of(answer), AuthUnavailable)
    assert stand.dovecot.transport.disconnecting or stand.dovecot.transport.disconnected
    stand.ask()
    assert len(stand.dovecot.connections) == 2


def test_an_answer_that_is_late_is_given_up_alone_where_dovecot_is_alive() -> None:
    stand = Stand(*GREETING)
    slow, quick = stand.ask("ann"), stand.ask("bob")
    numbers = [line[1] for line in stand.dovecot.hear()]
    stand.reactor.advance(1)
    stand.dovecot.say(b"OK\t" + numbers[1] + b"\tuser=bob")
    stand.reactor.advance(TIMEOUT)
    assert (isinstance(failure_of(slow), AuthUnavailable), outcome_of(quick)) == (True, b"bob")
    assert stand.dovecot.hear() == [[b"CANCEL", numbers[0]]]
    stand.dovecot.say(b"OK\t" + numbers[0] + b"\tuser=ann")
    again = stand.ask()
    stand.dovecot.say(b"OK\t" + stand.asked()[0] + b"\tuser=ann")
    assert outcome_of(again) == b"ann"


def test_a_question_that_is_longer_than_a_line_of_dovecot_is_not_asked() -> None:
    stand = Stand(*WITH_TOKENS)
    answer = stand.checker.requestAvatarId(TokenLogin(b"ann", "t" * MAX_LINE))
    assert isinstance(failure_of(answer), AuthUnavailable)
    assert stand.dovecot.hear() == []


def test_closing_ends_the_connection_or_the_attempt() -> None:
    stand = Stand(*GREETING)
    stand.checker.close()
    assert stand.dovecot.transport.disconnecting or stand.dovecot.transport.disconnected
    idle = Stand()
    idle.checker.close()
    attempt = Stand()
    answer = attempt.ask()
    attempt.checker.close()
    assert isinstance(failure_of(answer), AuthUnavailable)
    assert attempt.reactor.getDelayedCalls() == []


@given(st.lists(st.binary(max_size=60), max_size=20))
def test_whatever_dovecot_says_every_question_ends(chunks: list[bytes]) -> None:
    stand = Stand(*WITH_TOKENS)
    answers = [stand.ask(), stand.checker.requestAvatarId(TokenLogin(b"ann", "t0ken"))]
    for chunk in chunks:
        stand.dovecot.connections[-1][0].dataReceived(chunk)
    stand.reactor.advance(TIMEOUT)
    for answer in answers:
        outcome = outcome_of(answer)
        assert isinstance(outcome, bytes | UnauthorizedLogin | AuthUnavailable)
    assert stand.reactor.getDelayedCalls() == []
