"""`[auth.NAME]` of kind sql: users in a real SQLite database, and what lost connections come to."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher
from twisted.cred.credentials import UsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from zope.interface.verify import verifyObject

from mailgate.auth.checker import AuthUnavailable, IChecker, IScramSecrets
from mailgate.auth.credentials import ProvenLogin
from mailgate.auth.secrets import SecretVerifier, StoredSecret
from mailgate.auth.sql import SqlChecker
from mailgate.config.auth import SqlAuth
from mailgate.wire.scram_secret import ScramSecret
from tests.unit.remote_peer import Net, failure_of

ARGON2 = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("pass-ü")
SCRAM = ScramSecret.derive("scram", b"salt", 4096)


class Stand:
    """A checker, and the database that it asks."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.path = folder / "users %20?.db"
        self.net = Net()
        if not self.path.exists():
            self.run("CREATE TABLE users (name TEXT, secret, called TEXT)")
        section = SqlAuth(kind="sql", **({"url": f"sqlite:{self.path}"} | settings))
        self.verifier = SecretVerifier(self.net.reactor)
        self.checker = SqlChecker(section, self.net.reactor, self.verifier)

    def run(self, statement: str, *values: object) -> None:
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute(statement, values)

    def add(self, name: str, secret: object, called: str | None = None) -> None:
        self.run("INSERT INTO users VALUES (?, ?, ?)", name, secret, called)

    def ask(self, name: str, password: str = "pass-ü") -> object:  # noqa: S107  nobody's
        return self.net.wait(self.checker.requestAvatarId(UsernamePassword(name.encode(), password.encode())))

    def close(self) -> None:
        self.checker.close()
        self.verifier.close()


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Stand]]:
    stands: list[Stand] = []

    def make_stand(**settings: Any) -> Stand:
        stands.append(Stand(tmp_path, **settings))
        return stands[-1]

    yield make_stand
    for stand in stands:
        stand.close()


@pytest.fixture
def stand(make: Callable[..., Stand]) -> Stand:
    stand = make()
    stand.add("ann", ARGON2)
    stand.add("bob", str(SCRAM))
    stand.add("carl", "{PLAIN}pass-ü")
    return stand


def test_it_is_a_checker(stand: Stand) -> None:
    assert verifyObject(IChecker, stand.checker)
    assert verifyObject(IScramSecrets, stand.checker)
    assert stand.checker.mechanisms == {"PLAIN", "LOGIN"}


@pytest.mark.parametrize(("name", "password"), [("ann", "pass-ü"), ("bob", "scram"), ("carl", "pass-ü")])
def test_the_right_password_is_right(stand: Stand, name: str, password: str) -> None:
    assert stand.ask(name, password) == name.encode()


@pytest.mark.parametrize("name", ["ann", "bob", "carl", "nobody", "' OR name = 'carl", "ann\x00"])
def test_everything_else_is_a_no(stand: Stand, name: str) -> None:
    with pytest.raises(UnauthorizedLogin):
        stand.ask(name, "wrong")


@pytest.mark.parametrize("secret", ["", "!", "*", None, 7, "{CRYPT}x", "$argon2id$damaged", b"\xff"])
def test_a_user_without_a_secret_that_counts_cannot_log_in(stand: Stand, secret: object) -> None:
    stand.add("dora", secret)
    for password in ("pass-ü", "", "!", "*"):
        with pytest.raises(UnauthorizedLogin):
            stand.ask("dora", password)


def test_a_name_that_stands_twice_is_nobodys(stand: Stand) -> None:
    stand.add("carl", "{PLAIN}other")
    for password in ("pass-ü", "other"):
        with pytest.raises(UnauthorizedLogin):
            stand.ask("carl", password)


def test_a_secret_may_be_stored_as_octets(stand: Stand) -> None:
    stand.add("dora", b"{PLAIN}pass-\xc3\xbc")
    assert stand.ask("dora") == b"dora"


def test_a_second_column_says_how_the_user_is_called(make: Callable[..., Stand]) -> None:
    stand = make(query="SELECT secret, called FROM users WHERE lower(name) = lower(:username)")
    stand.add("Ann@example.org", ARGON2, "ann")
    stand.add("bob", ARGON2)
    stand.add("carl", ARGON2, "two\nlines")
    assert stand.ask("ANN@example.org") == b"ann"
    assert stand.ask("BOB") == b"BOB"
    with pytest.raises(AuthUnavailable):
        stand.ask("carl")


def test_an_unknown_user_costs_what_a_known_one_does(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    verify = stand.verifier.verify

    def watched(secret: StoredSecret | None, password: bytes) -> Deferred[bool]:
        asked.append(secret)
        return verify(secret, password)

    monkeypatch.setattr(stand.verifier, "verify", watched)
    for name in ("nobody", "carl", "nobody", "ann", "nobody"):
        with pytest.raises(UnauthorizedLogin):
            stand.ask(name, "wrong")
    first, carl, again, ann, last = asked
    assert first is None
    assert again is carl
    assert last is ann


def test_a_right_password_of_another_does_not_let_an_unknown_user_in(stand: Stand) -> None:
    stand.ask("carl")
    with pytest.raises(UnauthorizedLogin):
        stand.ask("nobody", "pass-ü")


def test_secrets_for_scram_are_found_where_it_is_offered(make: Callable[..., Stand]) -> None:
    stand = make(scram=True)
    stand.add("ann", ARGON2)
    stand.add("bob", f"{ARGON2} {SCRAM}", None)
    assert stand.checker.mechanisms == {"PLAIN", "LOGIN", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"}
    assert stand.net.wait(stand.checker.scram_secret("ann")) is None
    assert stand.net.wait(stand.checker.scram_secret("nobody")) is None
    assert stand.net.wait(stand.checker.scram_secret("bob")) == SCRAM
    assert stand.checker.scram_iterations == 4096
    assert stand.net.wait(stand.checker.requestAvatarId(ProvenLogin(b"bob"))) == b"bob"
    with pytest.raises(UnauthorizedLogin):
        stand.net.wait(stand.checker.requestAvatarId(ProvenLogin(b"nobody")))


def test_the_database_is_opened_for_reading_only(make: Callable[..., Stand]) -> None:
    stand = make(query="INSERT INTO users VALUES (:username, '', '') RETURNING name")
    with pytest.raises(AuthUnavailable, match="readonly"):
        stand.ask("ann")


def test_a_database_that_is_not_there_is_no_answer_and_is_not_made(make: Callable[..., Stand]) -> None:
    stand = make()
    stand.path.unlink()
    with pytest.raises(AuthUnavailable):
        stand.ask("ann")
    assert not stand.path.exists()


@pytest.mark.parametrize(
    "query", ["SELECT nothing FROM users WHERE name = :username", "SELECT :username, :other", "nonsense :username"]
)
def test_a_query_that_fails_is_no_answer(make: Callable[..., Stand], query: str) -> None:
    stand = make(query=query)
    with pytest.raises(AuthUnavailable):
        stand.ask("ann-the-user")


def test_a_query_without_an_end_is_ended(make: Callable[..., Stand]) -> None:
    endless = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n WHERE i = :username"
    )
    stand = make(query=endless, timeout="100ms", connections=1)
    # in memory the clock stands still: what ends is the thread's work
    with pytest.raises(AuthUnavailable, match="interrupted"):
        stand.ask("ann")


def test_a_question_that_takes_too_long_is_no_answer_in_time(stand: Stand) -> None:
    asked = stand.checker.requestAvatarId(UsernamePassword(b"ann", b"x"))
    stand.net.advance(11)
    assert isinstance(failure_of(asked), AuthUnavailable)
    function, args = stand.net.memory.handed.get(timeout=60)
    function(*args)  # what comes too late is dropped
    assert stand.ask("carl") == b"carl"


def test_the_end_of_the_checker_is_the_end_of_its_questions(stand: Stand) -> None:
    asked = [stand.checker.requestAvatarId(UsernamePassword(b"ann", b"x")) for _ in range(20)]
    stand.checker.close()
    asked.append(stand.checker.requestAvatarId(UsernamePassword(b"ann", b"x")))
    assert all(isinstance(failure_of(one), AuthUnavailable) for one in asked)
    assert not stand.net.memory.getDelayedCalls()


def test_no_failure_holds_a_secret(stand: Stand) -> None:
    for name, password in (("ann", "s3cret"), ("nobody", "s3cret")):
        error = failure_of_login(stand, name, password)
        assert not any(word in f"{error!r} {error.__cause__} {stand.checker!r}" for word in ("s3cret", ARGON2))


def failure_of_login(stand: Stand, name: str, password: str) -> BaseException:
    with pytest.raises(UnauthorizedLogin) as caught:
        stand.ask(name, password)
    return caught.value
