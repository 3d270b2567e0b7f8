"""`[auth.NAME]` of kind file: its lines, who may log in by it and how, and what happens when it changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
from twisted.cred.error import UnauthorizedLogin
from twisted.logger import capturedLogs, formatEvent
from zope.interface.verify import verifyObject

from mailgate.auth.checker import IAuthReactor, IChecker, IScramSecrets
from mailgate.auth.credentials import CramLogin, PasswordLogin, ProvenLogin
from mailgate.auth.file import FileChecker, check_name, parse_users, warnings
from mailgate.config.auth import FileAuth
from mailgate.stores.lists import FileError, LinesError
from mailgate.wire.sasl_exchange import CramProof
from mailgate.wire.scram_secret import DEFAULT_ITERATIONS, MIN_ITERATIONS
from tests.unit.auth_stand import Pool, Reactor, failure_of, outcome_of, stored, verifier

PLAIN = frozenset({"PLAIN", "LOGIN"})
SCRAM = frozenset({"SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"})

Make = Callable[..., FileChecker]


class Stand:
    """A checker over a file of users."""

    def __init__(self, path: Path, *lines: str) -> None:
        self.path = path
        self.reactor = Reactor()
        self.pool = Pool()
        self.write(*lines)
        section = FileAuth(kind="file", path=path)
        self.checker = FileChecker(section, cast(IAuthReactor, self.reactor), verifier(self.reactor, self.pool))

    def write(self, *lines: str) -> None:
        self.path.write_text("".join(f"{line}\n" for line in lines))

    def later(self) -> None:
        self.reactor.advance(1.5)

    def login(self, name: str, password: str) -> object:
        return outcome_of(self.checker.requestAvatarId(PasswordLogin(name.encode(), password.encode())))

    def cram(self, name: str, password: str) -> object:
        proof = CramProof(name, b"<1@gw>", digest(b"<1@gw>", password))
        return outcome_of(self.checker.requestAvatarId(CramLogin(name.encode(), proof)))


def digest(challenge: bytes, password: str) -> str:
    import hmac

    return hmac.new(password.encode(), challenge, "md5").hexdigest()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "users"


def test_it_is_what_its_interfaces_say(path: Path) -> None:
    checker = Stand(path).checker
    assert verifyObject(IChecker, checker)
    assert verifyObject(IScramSecrets, checker)
    checker.close()


def test_a_user_logs_in_by_the_password_and_gets_the_name_of_the_file(path: Path) -> None:
    stand = Stand(path, "# users", "", f"Ann@Example.org: {stored('secret')}  # a comment", f"böb:{stored('other')}")
    assert stand.login("ann@EXAMPLE.org", "secret") == b"Ann@Example.org"
    assert stand.login("Ann@Example.org", "secret") == b"Ann@Example.org"
    assert stand.login("BÖB", "other") == "böb".encode()
    for name, password in (("ann", "secret"), ("böb", "secret"), ("nobody", "secret"), ("", "secret"), ("böb", "")):
        assert isinstance(stand.login(name, password), UnauthorizedLogin)
    assert isinstance(failure_of(stand.checker.requestAvatarId(PasswordLogin(b"\xff", b"other"))), UnauthorizedLogin)


def test_an_unknown_user_takes_the_work_of_the_first_and_never_its_place(path: Path) -> None:
    stand = Stand(path, f"ann:{stored('secret')}")
    assert isinstance(stand.login("bob", "secret"), UnauthorizedLogin)
    assert stand.pool.given == 1
    quick = Stand(path, "ann:{PLAIN}secret")
    assert isinstance(quick.login("bob", "secret"), UnauthorizedLogin)
    assert quick.pool.given == 0


def test_an_empty_file_lets_nobody_in(path: Path) -> None:
    stand = Stand(path, "# nobody yet")
    assert stand.checker.mechanisms == PLAIN
    assert isinstance(stand.login("ann", ""), UnauthorizedLogin)
    assert stand.pool.given == 1


@pytest.mark.parametrize(
    ("forms", "more"),
    [
        (["argon2"], frozenset()),
        (["argon2", "scram"], SCRAM),
        (["plain"], frozenset({"CRAM-MD5"})),
        (["scram", "plain"], SCRAM | {"CRAM-MD5"}),
    ],
)
def test_the_forms_of_secrets_decide_what_is_offered(path: Path, forms: list[str], more: frozenset[str]) -> None:
    stand = Stand(path, f"bob:{stored('x')}", f"ann:{stored('secret', *forms)}")
    assert stand.checker.mechanisms == PLAIN | more


def test_scram_gets_the_secret_of_those_who_have_one(path: Path) -> None:
    stand = Stand(path, f"bob:{stored('x')}", f"Ann:{stored('secret', 'argon2', 'scram')}")
    secret = stand.checker.scram_secret("ann")
    assert secret is not None
    assert secret.matches("secret")
    assert stand.checker.scram_iterations == MIN_ITERATIONS
    assert stand.checker.scram_secret("bob") is None
    assert stand.checker.scram_secret("nobody") is None
    assert stand.checker.scram_secret("a\x00b") is None
    stand.write("bob:{PLAIN}x")
    stand.later()
    assert stand.checker.scram_iterations == DEFAULT_ITERATIONS


def test_who_is_proved_by_scram_gets_the_name_of_the_file_while_it_is_there(path: Path) -> None:
    stand = Stand(path, f"Ann:{stored('secret', 'scram')}")
    assert outcome_of(stand.checker.requestAvatarId(ProvenLogin(b"ann"))) == b"Ann"
    assert isinstance(failure_of(stand.checker.requestAvatarId(ProvenLogin(b"bob"))), UnauthorizedLogin)


def test_cram_md5_needs_the_password_itself(path: Path) -> None:
    stand = Stand(path, f"scanner:{stored('secret', 'plain')}", f"ann:{stored('secret')}")
    assert stand.cram("Scanner", "secret") == b"scanner"
    for name, password in (("scanner", "secrets"), ("ann", "secret"), ("nobody", "secret")):
        assert isinstance(stand.cram(name, password), UnauthorizedLogin)


def test_only_true_lets_a_proof_in(path: Path) -> None:
    """A Deferred of False is true in Python's eyes."""
    from twisted.cred.credentials import IUsernameHashedPassword
    from twisted.internet.defer import Deferred, succeed
    from zope.interface import implementer

    @implementer(IUsernameHashedPassword)
    class Slow:
        username = b"scanner"

        def checkPassword(self, password: bytes) -> Deferred[bool]:  # noqa: N802  twisted.cred's
            return succeed(False)

    stand = Stand(path, "scanner:{PLAIN}secret")
    assert isinstance(failure_of(stand.checker.requestAvatarId(Slow())), UnauthorizedLogin)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("hunter2", "NAME:SECRET"),
        (":{PLAIN}hunter2", "name"),
        ("ann:", "no secret"),
        ("ann:hunter2", "no form that is known"),
        ("a b:{PLAIN}hunter2", "no space"),
        ("a\x07b:{PLAIN}hunter2", "Control characters"),
        ("a\u2028b:{PLAIN}hunter2", "Control characters"),
        ("\xad:{PLAIN}hunter2", "SASLprep"),
        ("x" * 600 + ":{PLAIN}hunter2", "too long"),
    ],
)
def test_a_wrong_line_is_told_by_its_number_and_without_its_secret(path: Path, line: str, what: str) -> None:
    with pytest.raises(FileError) as caught:
        Stand(path, "bob:{PLAIN}hunter2", line)
    (error,) = caught.value.errors
    assert error.startswith(f"{path}:2: ")
    assert what in error
    assert "hunter2" not in error


def test_a_name_stands_once(path: Path) -> None:
    with pytest.raises(FileError, match=r"users:3: stands in line 1 already"):
        Stand(path, "ann:{PLAIN}x", "bob:{PLAIN}x", "ANN:{PLAIN}y")


def test_no_more_than_ten_wrong_lines_are_told() -> None:
    with pytest.raises(LinesError) as caught:
        parse_users((number, "wrong") for number in range(1, 100))
    assert (len(caught.value.errors), caught.value.more) == (10, True)


def test_a_missing_file_is_an_error(path: Path) -> None:
    path.mkdir()
    with pytest.raises(FileError, match="cannot be read"):
        FileChecker(FileAuth(kind="file", path=path), cast(IAuthReactor, Reactor()), verifier(Reactor()))


def test_a_change_counts_within_a_second_and_is_another_version(path: Path) -> None:
    stand = Stand(path, "ann:{PLAIN}secret")
    before = stand.checker.version
    assert stand.checker.version is before
    stand.write("ann:{PLAIN}another-secret")
    stand.later()
    assert stand.checker.version is not before
    assert isinstance(stand.login("ann", "secret"), UnauthorizedLogin)
    assert stand.login("ann", "another-secret") == b"ann"


def test_a_user_who_was_the_last_goes_too(path: Path) -> None:
    stand = Stand(path, "ann:{PLAIN}secret")
    stand.write()
    stand.later()
    assert isinstance(stand.login("ann", "secret"), UnauthorizedLogin)


def test_a_file_that_becomes_wrong_leaves_the_users_as_they_were(path: Path) -> None:
    stand = Stand(path, "ann:{PLAIN}secret")
    stand.write("ann:{PLAIN}secret", "bob:hunter2")
    stand.later()
    with capturedLogs() as events:
        assert stand.login("ann", "secret") == b"ann"
    assert "users:2: " in str(events[0]["error"])
    assert "hunter2" not in str(events)


def test_nothing_shows_a_secret(path: Path) -> None:
    stand = Stand(path, "ann:{PLAIN}hunter2")
    login = PasswordLogin(b"ann", b"hunter2")
    proof = CramLogin(b"ann", CramProof("ann", b"<1@gw>", "hunter2"))
    assert "hunter2" not in repr([stand.checker.version, login, proof, stand.checker])


@pytest.mark.parametrize(("mode", "is_told"), [(0o600, False), (0o640, False), (0o400, False), (0o644, True)])
def test_a_file_that_everybody_can_read_is_told(path: Path, mode: int, is_told: bool) -> None:
    path.write_text("ann:{PLAIN}hunter2\n")
    path.chmod(mode)
    told = warnings(FileAuth(kind="file", path=path))
    assert bool(told) is is_told
    assert all(f"{path}: " in text and f"{mode:04o}" in text for text in told)


def test_a_file_that_its_group_can_write_is_told(path: Path) -> None:
    path.write_text("")
    path.chmod(0o660)
    assert warnings(FileAuth(kind="file", path=path))


def test_a_file_without_users_is_told(path: Path) -> None:
    path.write_text("# nobody yet\n")
    path.chmod(0o600)
    assert warnings(FileAuth(kind="file", path=path)) == [f"{path}: has no user: nobody can log in"]


def test_a_file_that_loses_its_users_is_logged_once(path: Path) -> None:
    with capturedLogs() as events:
        stand = Stand(path)
        stand.write("ann:{PLAIN}secret")
        stand.later()
        assert stand.login("ann", "secret") == b"ann"
        for text in ("# nobody", "# nobody at all"):
            stand.write(text)
            stand.later()
            assert isinstance(stand.login("ann", "secret"), UnauthorizedLogin)
    assert [formatEvent(event) for event in events] == [f"{path}: has no user: nobody can log in"]


def test_a_missing_file_is_not_warned_of(path: Path) -> None:
    assert warnings(FileAuth(kind="file", path=path)) == []


@pytest.mark.parametrize("name", ["ann", "ann@example.org", "böb", "a+b", "o'neil"])
def test_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", "a:b", "a b", "#ann", "a\tb", "a\xa0b", "a\nb", "\ud800", "x" * 513])
def test_no_names(name: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        check_name(name)
