"""`[auth.NAME]` of kind http: what the service is asked, and what its answers mean."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from twisted.cred.credentials import UsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from zope.interface.verify import verifyObject

from mailgate.auth.checker import AuthUnavailable, AvatarId, IChecker
from mailgate.auth.credentials import PasswordLogin
from mailgate.auth.http import HttpChecker
from mailgate.backends.http import MAX_BODY
from mailgate.config.auth import HttpAuth
from mailgate.testing import session
from tests.unit.remote_peer import Asked, Net, failure_of, is_waiting, outcome

SECRET = "s3cret-ü"  # noqa: S105  nobody's


class Stand:
    """A checker, and the net that its service is in."""

    def __init__(self, **settings: Any) -> None:
        self.net = Net()
        section = HttpAuth(kind="http", **({"url": "http://auth.test:8080/check?key=hidden"} | settings))
        self.checker = HttpChecker(section, self.net.reactor)

    def ask(self, name: str = "ann", password: str = SECRET) -> Deferred[AvatarId]:
        login = PasswordLogin(name.encode(), password.encode(), session("2001:db8::7", listener="submission"))
        return self.checker.requestAvatarId(login)

    def asked(self) -> tuple[Deferred[AvatarId], Asked]:
        """A question that has reached the service."""
        asked = self.ask()
        service = self.net.accept()
        service.request()
        return asked, service


@pytest.fixture
def stand() -> Stand:
    return Stand()


def test_the_service_is_told_who_asks_what_for_whom(stand: Stand) -> None:
    asked = stand.ask()
    service = stand.net.accept()
    line, fields, body = service.request()
    assert (service.port, line) == (8080, "POST /check?key=hidden HTTP/1.1")
    assert fields["content-type"] == "application/json"
    assert "authorization" not in fields
    assert json.loads(body) == {
        "username": "ann",
        "password": SECRET,
        "client": "2001:db8::7",
        "listener": "submission",
    }
    assert is_waiting(asked)
    service.answer(200)
    assert outcome(asked) == b"ann"


def test_credentials_of_others_have_no_session(stand: Stand) -> None:
    asked = stand.checker.requestAvatarId(UsernamePassword(b"ann", b"x"))
    service = stand.net.accept()
    assert json.loads(service.request()[2]) == {"username": "ann", "password": "x", "client": None, "listener": None}
    service.answer(200, {"username": None})
    assert outcome(asked) == b"ann"


def test_it_is_a_checker(stand: Stand) -> None:
    assert verifyObject(IChecker, stand.checker)
    assert stand.checker.mechanisms == {"PLAIN", "LOGIN"}
    assert stand.checker.depends_on_client


def test_a_token_is_sent_along(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("abc.def\n")
    stand = Stand(token_file=tmp_path / "token")
    stand.ask()
    assert stand.net.accept().request()[1]["authorization"] == "Bearer abc.def"


@pytest.mark.parametrize("content", [None, "", "\n", "two\nlines", "x" * 20000, b"\xff"])
def test_a_token_that_cannot_be_sent_is_refused_at_once(tmp_path: Path, content: str | bytes | None) -> None:
    if content is not None:
        (tmp_path / "token").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match="token"):
        Stand(token_file=tmp_path / "token")


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_authorities_that_are_none_are_refused_at_once(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "ca.pem").write_text(content)
    with pytest.raises(ValueError, match=r"ca\.pem"):
        Stand(ca=tmp_path / "ca.pem")


@pytest.mark.parametrize("body", [b"", b" \r\n", {}, {"username": "Ann@example.org", "more": [1]}])
def test_200_says_yes_and_may_say_who(stand: Stand, body: bytes | dict[str, object]) -> None:
    asked, service = stand.asked()
    service.answer(200, body)
    assert outcome(asked) == (b"Ann@example.org" if b"username" in json.dumps(str(body)).encode() else b"ann")


@pytest.mark.parametrize("status", [401, 403])
def test_401_and_403_say_no(stand: Stand, status: int) -> None:
    asked, service = stand.asked()
    service.answer(status, b"<html>go away</html>")
    assert isinstance(failure_of(asked), UnauthorizedLogin)


@pytest.mark.parametrize("status", [201, 204, 302, 307, 400, 404, 407, 429, 500, 503])
def test_everything_else_is_no_answer(stand: Stand, status: int) -> None:
    asked, service = stand.asked()
    service.answer(status, b"", "Location: http://elsewhere.test/\r\n")
    assert isinstance(failure_of(asked), AuthUnavailable)
    assert not stand.net.has_more  # no redirect is followed


@pytest.mark.parametrize(
    "body",
    [b"<html>maintenance</html>", b"[]", b"true", b'"ann"', b"[" * 60000, b"\xff", {"username": 7}]
    + [{"username": name} for name in ("", "a\nb", "x" * 600, "\ud800", ["ann"])],
)
def test_a_yes_that_is_not_understood_is_no_answer(stand: Stand, body: bytes | object) -> None:
    asked, service = stand.asked()
    service.answer(200, body)
    assert isinstance(failure_of(asked), AuthUnavailable)


def test_a_body_has_a_bound(stand: Stand) -> None:
    asked, service = stand.asked()
    service.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(MAX_BODY // 4096):
        service.say(b"1000\r\n" + b" " * 4096 + b"\r\n")
    assert is_waiting(asked)
    service.say(b"1\r\n \r\n")
    assert isinstance(failure_of(asked), AuthUnavailable)
    assert not service.is_open


@pytest.mark.parametrize(
    "octets", [b"", b"HTTP/1.1 2", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", b"220 mail.test ESMTP\r\n"]
)
def test_half_an_answer_is_none(stand: Stand, octets: bytes) -> None:
    asked, service = stand.asked()
    service.say(octets)
    if service.is_open:
        service.lose()
    if stand.net.has_more:  # nothing had come: it is asked once more
        assert octets == b""
        again = stand.net.accept()
        assert again.request()[0].startswith("POST")
        again.lose()
    assert isinstance(failure_of(asked), AuthUnavailable)
    assert not stand.net.has_more


def test_a_body_without_a_length_ends_with_the_connection(stand: Stand) -> None:
    asked, service = stand.asked()
    service.say(b'HTTP/1.0 200 OK\r\n\r\n{"username":')
    service.say(b' "bob"}')
    assert is_waiting(asked)
    service.lose()
    assert outcome(asked) == b"bob"


def test_a_connection_serves_again_and_is_replaced_when_it_was_closed(stand: Stand) -> None:
    asked, service = stand.asked()
    service.answer(200)
    assert outcome(asked) == b"ann"
    second = stand.ask("bob")
    assert json.loads(service.request()[2])["username"] == "bob"
    service.lose()
    fresh = stand.net.accept()
    assert json.loads(fresh.request()[2])["username"] == "bob"
    fresh.answer(403)
    assert isinstance(failure_of(second), UnauthorizedLogin)


def test_a_service_that_is_away_is_no_answer(stand: Stand) -> None:
    asked = stand.ask()
    stand.net.refuse()
    assert isinstance(failure_of(asked), AuthUnavailable)


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"])
def test_a_service_that_is_silent_is_no_answer_in_time(said: bytes) -> None:
    stand = Stand(timeout="3s")
    asked, service = stand.asked()
    service.say(said)
    stand.net.advance(2.9)
    assert is_waiting(asked)
    stand.net.advance(0.2)
    assert isinstance(failure_of(asked), AuthUnavailable)
    assert not service.is_open
    assert not stand.net.has_more


def test_a_connection_that_does_not_come_about_is_no_answer_in_time() -> None:
    stand = Stand(timeout="3s")
    asked = stand.ask()
    stand.net.advance(3.1)
    assert isinstance(failure_of(asked), AuthUnavailable)


def test_questions_beyond_the_limit_wait_and_their_waiting_counts() -> None:
    stand = Stand(connections=1, timeout="3s")
    first, service = stand.asked()
    second = stand.ask("bob")
    assert not stand.net.has_more
    stand.net.advance(1)
    service.answer(200)
    assert outcome(first) == b"ann"
    assert json.loads(service.request()[2])["username"] == "bob"
    third = stand.ask("carl")
    stand.net.advance(2.1)
    assert isinstance(failure_of(second), AuthUnavailable)
    assert is_waiting(third)
    stand.net.advance(1)
    assert isinstance(failure_of(third), AuthUnavailable)


def test_the_end_of_the_checker_is_the_end_of_all_questions() -> None:
    stand = Stand(connections=1)
    first, service = stand.asked()
    second = stand.ask()
    closed = stand.checker.close()
    for asked in (first, second, stand.ask()):
        assert isinstance(failure_of(asked), AuthUnavailable)
    assert not service.is_open
    assert not stand.net.has_more
    outcome(closed)
    assert not stand.net.memory.getDelayedCalls()


@pytest.mark.parametrize("password", [b"", b"\xff\xfe"])
def test_a_password_that_is_none_is_not_even_asked_about(stand: Stand, password: bytes) -> None:
    asked = stand.checker.requestAvatarId(PasswordLogin(b"ann", password))
    assert isinstance(failure_of(asked), UnauthorizedLogin)
    assert not stand.net.has_more


@pytest.mark.parametrize("status", [200, 401, 500])
def test_no_failure_and_no_repr_holds_a_secret(stand: Stand, status: int) -> None:
    asked, service = stand.asked()
    service.answer(status, SECRET.encode())
    error = failure_of(asked)
    told = f"{error!r} {error} {error.__cause__} {stand.checker!r} {vars(error)}"
    assert not any(secret in told for secret in (SECRET, "hidden", "ann"))
