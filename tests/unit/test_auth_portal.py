"""The authenticator: what goes through the portal, what is remembered, how many may wait, and how it ends."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from twisted.cred.credentials import IUsernameHashedPassword, IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.logger import capturedLogs
from zope.interface import implementer

from mailgate.auth.checker import AuthUnavailable, AvatarId, IAuthReactor, IBearerToken, IChecker, IScramSecrets
from mailgate.auth.credentials import PasswordLogin, TokenLogin
from mailgate.auth.portal import Authenticator, IIdentity, make_authenticator
from mailgate.config.auth import AuthSection, DovecotAuth, FileAuth, HttpAuth, LdapAuth, OAuthAuth, SqlAuth
from mailgate.envelope import Identity, Session, Tls
from mailgate.stores.lists import FileError
from mailgate.wire.sasl_exchange import BearerToken, CramProof, Credentials, External, Password, ScramProof
from mailgate.wire.scram_secret import DEFAULT_ITERATIONS, MIN_ITERATIONS, ScramSecret
from tests.unit.auth_stand import Pool, Reactor, failure_of, outcome_of, session, stored, verifier

ANN = Password("ann", "hunter2")


@implementer(IChecker)
class Checker:
    """Answers when the test says so; every question stays in `asked`."""

    credentialInterfaces: Sequence[type] = (IUsernamePassword, IUsernameHashedPassword, IBearerToken)  # noqa: N815
    mechanisms = frozenset({"PLAIN"})
    depends_on_client = False

    def __init__(self) -> None:
        self.version: object = 1
        self.asked: list[tuple[Any, Deferred[AvatarId]]] = []
        self.closed = 0
        self.closing: Deferred[None] | None = None

    def requestAvatarId(self, credentials: Any) -> Deferred[AvatarId]:  # noqa: N802  twisted.cred's
        self.asked.append((credentials, Deferred()))
        return self.asked[-1][1]

    def answer(self, outcome: AvatarId | Exception, number: int = -1) -> None:
        answer = self.asked[number][1]
        if isinstance(outcome, Exception):
            answer.errback(outcome)
        else:
            answer.callback(outcome)

    def close(self) -> Deferred[None] | None:
        self.closed += 1
        return self.closing


@implementer(IScramSecrets)
class ScramChecker(Checker):
    scram_iterations = MIN_ITERATIONS
    secret: Any = None

    def scram_secret(self, username: str) -> Any:
        if isinstance(self.secret, Exception):
            raise self.secret
        return self.secret


class Stand:
    def __init__(self, checker: Checker | None = None, **more: Any) -> None:
        self.reactor = Reactor()
        self.checker = checker or Checker()
        self.pool = Pool()
        values: dict[str, Any] = {"cache": 300.0, "cache_size": 100, **more}
        self.authenticator = Authenticator(
            self.checker,
            clock=cast(IAuthReactor, self.reactor),
            verifier=verifier(self.reactor, self.pool),
            **values,
        )

    def check(
        self, credentials: Credentials = ANN, mechanism: str = "PLAIN", asking: Session | None = None
    ) -> Deferred[Identity]:
        return self.authenticator.check(credentials, mechanism=mechanism, session=asking)

    def is_asked(self, credentials: Credentials = ANN, asking: Session | None = None) -> bool:
        """Whether the checker is asked about these; it says yes."""
        before = len(self.checker.asked)
        answer = self.check(credentials, asking=asking)
        if len(self.checker.asked) == before:
            assert isinstance(outcome_of(answer), Identity)
            return False
        self.checker.answer(b"ann")
        assert isinstance(outcome_of(answer), Identity)
        return True


def test_the_avatar_is_the_identity_by_the_mechanism() -> None:
    stand = Stand()
    answer = stand.check(mechanism="LOGIN")
    credentials, _ = stand.checker.asked[0]
    assert IUsernamePassword.providedBy(credentials)
    assert (credentials.username, credentials.password) == (b"ann", b"hunter2")
    assert credentials.checkPassword(b"hunter2")
    assert not credentials.checkPassword(b"hunter")
    stand.checker.answer("Änn".encode())
    assert outcome_of(answer) == Identity("Änn", "LOGIN")


def test_the_portal_is_twisted_creds_and_takes_its_credentials() -> None:
    stand = Stand()
    answer = stand.authenticator.portal.login(PasswordLogin(b"ann", b"x"), "PLAIN", IIdentity)
    stand.checker.answer(b"ann")
    interface, avatar, logout = outcome_of(answer)
    assert (interface, avatar, logout()) == (IIdentity, Identity("ann", "PLAIN"), None)
    answer = stand.authenticator.portal.login(PasswordLogin(b"ann", b"x"), "PLAIN", IChecker)
    stand.checker.answer(b"ann")
    assert isinstance(failure_of(answer), NotImplementedError)


def test_the_checker_is_told_who_asks() -> None:
    stand = Stand()
    asking = session()
    stand.check(asking=asking)
    assert stand.checker.asked[0][0].session is asking


def test_every_kind_of_credentials_reaches_the_checker() -> None:
    stand = Stand()
    token = stand.check(BearerToken("ann", "t0ken", "gw.example", 587), "OAUTHBEARER")
    credentials = stand.checker.asked[0][0]
    assert (credentials.username, credentials.token, credentials.host, credentials.port) == (
        b"ann",
        "t0ken",
        "gw.example",
        587,
    )
    stand.checker.answer(b"ann")
    assert outcome_of(token) == Identity("ann", "OAUTHBEARER")
    # the example of RFC 2195 section 2
    challenge = b"<1896.697170952@postoffice.reston.mci.net>"
    cram = stand.check(CramProof("tim", challenge, "b913a602c7eda7a495b4e6e7334d3890"), "CRAM-MD5")
    credentials = stand.checker.asked[1][0]
    assert IUsernameHashedPassword.providedBy(credentials)
    assert credentials.checkPassword(b"tanstaaftanstaaf")
    assert not credentials.checkPassword(b"tanstaaf")
    stand.checker.answer(b"tim")
    assert outcome_of(cram) == Identity("tim", "CRAM-MD5")


def test_what_scram_has_proved_needs_no_checker() -> None:
    stand = Stand()
    assert outcome_of(stand.check(ScramProof("ann"), "SCRAM-SHA-256")) == Identity("ann", "SCRAM-SHA-256")
    assert stand.checker.asked == []


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (UnauthorizedLogin("no"), UnauthorizedLogin),
        (AuthUnavailable("the server is away"), AuthUnavailable),
        (KeyError("hunter2"), AuthUnavailable),
        (CancelledError(), AuthUnavailable),
    ],
)
def test_a_failure_is_a_no_or_not_known(error: Exception, kind: type[Exception]) -> None:
    stand = Stand()
    answer = stand.check()
    with capturedLogs() as events:
        stand.checker.answer(error)
    failure = failure_of(answer)
    assert type(failure) is kind
    assert "hunter2" not in f"{failure}{failure!r}{failure.__cause__}{events}"
    assert bool(events) is (type(error) in (KeyError, CancelledError))
    assert stand.is_asked()


def test_a_checker_that_raises_at_once_is_not_known_either() -> None:
    class Broken(Checker):
        def requestAvatarId(self, credentials: Any) -> Deferred[AvatarId]:  # noqa: N802  twisted.cred's
            raise KeyError(credentials.password)

    stand = Stand(Broken())
    with capturedLogs() as events:
        assert isinstance(failure_of(stand.check()), AuthUnavailable)
    assert "hunter2" not in str([(event["kind"], event["where"]) for event in events])
    assert "test_auth_portal.py" in events[0]["where"]


@pytest.mark.parametrize(
    ("avatar", "kind"),
    [((), UnauthorizedLogin), (b"", UnauthorizedLogin), (b"a\nb", AuthUnavailable), (b"\xff", AuthUnavailable)],
)
def test_an_avatar_without_a_proper_name_is_nobody(avatar: AvatarId, kind: type[Exception]) -> None:
    stand = Stand()
    answer = stand.check()
    stand.checker.answer(avatar)
    assert type(failure_of(answer)) is kind


def test_credentials_that_the_checker_does_not_take_are_not_known() -> None:
    class Tokens(Checker):
        credentialInterfaces = (IBearerToken,)  # noqa: N815  twisted.cred's

    stand = Stand(Tokens())
    with capturedLogs():
        assert isinstance(failure_of(stand.check()), AuthUnavailable)


@pytest.mark.parametrize(
    "credentials", [Password("ann", "x", "bob"), Password("\ud800", "x"), Password("ann", "\ud800")]
)
def test_what_no_checker_need_be_asked(credentials: Password) -> None:
    stand = Stand()
    assert isinstance(failure_of(stand.check(credentials)), UnauthorizedLogin)
    assert stand.checker.asked == []


def test_one_may_say_twice_who_one_is() -> None:
    assert Stand().is_asked(Password("ann", "x", "ann"))


# --- What is remembered -----------------------------------------------------------------------------------


def test_a_right_password_is_remembered_for_its_time() -> None:
    stand = Stand(cache=300.0)
    assert stand.is_asked()
    stand.reactor.advance(299)
    assert not stand.is_asked()
    assert outcome_of(stand.check(mechanism="LOGIN")) == Identity("ann", "LOGIN")
    stand.reactor.advance(2)
    assert stand.is_asked()


@pytest.mark.parametrize(
    "other",
    [Password("ann", "hunter3"), Password("annh", "unter2"), Password("Ann", "hunter2"), Password("bob", "hunter2")],
)
def test_another_password_or_name_is_asked(other: Password) -> None:
    stand = Stand()
    assert stand.is_asked()
    assert stand.is_asked(other)


def test_wrong_passwords_are_asked_each_time() -> None:
    stand = Stand()
    for number in range(3):
        answer = stand.check()
        stand.checker.answer(UnauthorizedLogin("no"))
        assert isinstance(failure_of(answer), UnauthorizedLogin)
        assert len(stand.checker.asked) == number + 1


@pytest.mark.parametrize("credentials", [BearerToken("ann", "t0ken"), CramProof("ann", b"<1@gw>", "00")])
def test_tokens_and_proofs_are_not_remembered(credentials: Credentials) -> None:
    stand = Stand()
    assert stand.is_asked(credentials)
    assert stand.is_asked(credentials)


@pytest.mark.parametrize("more", [{"cache": 0.0}, {"cache_size": 0}])
def test_nothing_is_remembered_where_that_is_not_wanted(more: dict[str, Any]) -> None:
    stand = Stand(**more)
    assert stand.is_asked()
    assert stand.is_asked()


def test_what_is_remembered_is_bounded() -> None:
    stand = Stand(cache_size=2)
    for name in ("a", "b", "c"):
        assert stand.is_asked(Password(name, "x"))
    assert [stand.is_asked(Password(name, "x")) for name in ("c", "b", "a")] == [False, False, True]


def test_another_version_ends_all_that_is_remembered() -> None:
    stand = Stand()
    assert stand.is_asked()
    stand.checker.version = 2
    assert stand.is_asked()
    assert not stand.is_asked()


def test_an_answer_of_an_old_version_is_given_but_not_remembered() -> None:
    stand = Stand()
    old = stand.check()
    stand.checker.version = 2
    new = stand.check()
    assert len(stand.checker.asked) == 2
    stand.checker.answer(b"ann", 0)
    stand.checker.answer(UnauthorizedLogin("no"), 1)
    assert outcome_of(old) == Identity("ann", "PLAIN")
    assert isinstance(failure_of(new), UnauthorizedLogin)
    assert stand.is_asked()


def test_where_the_client_matters_an_answer_is_for_the_same_client_and_listener() -> None:
    class Picky(Checker):
        depends_on_client = True

    stand = Stand(Picky())
    here, there = session("192.0.2.1"), session("192.0.2.2")
    assert [stand.is_asked(asking=one) for one in (here, here, there, there)] == [True, False, True, False]
    assert stand.is_asked(asking=session("192.0.2.1", listener="other"))
    assert stand.is_asked()


def test_where_the_client_does_not_matter_an_answer_is_for_all() -> None:
    stand = Stand()
    assert stand.is_asked(asking=session("192.0.2.1"))
    assert not stand.is_asked(asking=session("192.0.2.2"))


def test_no_password_can_be_read_from_what_is_remembered() -> None:
    stand = Stand()
    assert stand.is_asked()
    state = repr({name: repr(value) for name, value in vars(stand.authenticator).items()})
    assert "ann" in state
    assert "hunter2" not in state


# --- Many at a time ---------------------------------------------------------------------------------------


def test_equal_passwords_at_one_time_are_asked_once() -> None:
    stand = Stand()
    first, second, third = stand.check(), stand.check(mechanism="LOGIN"), stand.check()
    other = stand.check(Password("ann", "x"))
    assert len(stand.checker.asked) == 2
    third.cancel()
    stand.checker.answer(b"ann", 0)
    assert outcome_of(first) == Identity("ann", "PLAIN")
    assert outcome_of(second) == Identity("ann", "LOGIN")
    assert isinstance(failure_of(third), CancelledError)
    assert outcome_of(other) is None


def test_a_no_is_for_all_who_wait() -> None:
    stand = Stand()
    answers = [stand.check(), stand.check()]
    stand.checker.answer(UnauthorizedLogin("no"))
    assert all(isinstance(failure_of(answer), UnauthorizedLogin) for answer in answers)
    assert len(stand.checker.asked) == 1


def test_tokens_at_one_time_are_asked_each() -> None:
    stand = Stand()
    token = BearerToken("ann", "t0ken")
    first, second = stand.check(token), stand.check(token)
    stand.checker.answer(b"ann", 1)
    assert (outcome_of(first), outcome_of(second)) == (None, Identity("ann", "PLAIN"))


def test_only_so_many_wait_and_who_goes_away_still_counts() -> None:
    stand = Stand(max_pending=2)
    waiting = [stand.check(Password(name, "x")) for name in ("a", "b")]
    for one in waiting:
        one.cancel()
        assert isinstance(failure_of(one), CancelledError)
    assert isinstance(failure_of(stand.check(Password("c", "x"))), AuthUnavailable)
    assert len(stand.checker.asked) == 2
    assert not any(isinstance(answer.result, CancelledError) for _, answer in stand.checker.asked if answer.called)
    joined = stand.check(Password("b", "x"))
    stand.checker.answer(b"a", 0)
    assert stand.is_asked(Password("c", "x"))
    stand.checker.answer(b"b", 1)
    assert outcome_of(joined) == Identity("b", "PLAIN")


# --- SCRAM and certificates -------------------------------------------------------------------------------


def test_without_secrets_for_scram_there_are_none() -> None:
    authenticator = Stand().authenticator
    assert authenticator.scram_secret("ann") is None
    assert authenticator.scram_iterations == DEFAULT_ITERATIONS


def test_secrets_for_scram_come_from_the_checker() -> None:
    checker = ScramChecker()
    authenticator = Stand(checker, max_pending=1).authenticator
    assert authenticator.scram_iterations == MIN_ITERATIONS
    assert authenticator.scram_secret("ann") is None
    checker.secret = secret = ScramSecret.derive("x", iterations=MIN_ITERATIONS)
    assert authenticator.scram_secret("ann") is secret
    slow: Deferred[ScramSecret | None] = Deferred()
    checker.secret = slow
    answer = authenticator.scram_secret("ann")
    refused = authenticator.scram_secret("ann")
    assert isinstance(answer, Deferred)
    assert isinstance(refused, Deferred)
    assert isinstance(failure_of(refused), AuthUnavailable)
    slow.callback(secret)
    assert outcome_of(answer) is secret

    async def none() -> None:
        return None

    checker.secret = none()
    assert outcome_of(maybeDeferred(authenticator.scram_secret, "ann")) is None


def test_who_goes_away_while_a_secret_is_looked_up_still_counts() -> None:
    checker = ScramChecker()
    looked_up: Deferred[ScramSecret | None] = Deferred()
    checker.secret = looked_up
    stand = Stand(checker, max_pending=1)
    answer = stand.authenticator.scram_secret("ann")
    assert isinstance(answer, Deferred)
    with capturedLogs() as events:
        answer.cancel()
    assert isinstance(failure_of(answer), CancelledError)
    assert (looked_up.called, events) == (False, [])
    assert isinstance(failure_of(stand.check()), AuthUnavailable)
    looked_up.callback(None)
    assert stand.is_asked()


@pytest.mark.parametrize("error", [AuthUnavailable("away"), KeyError("hunter2")])
def test_secrets_that_cannot_be_asked_for_are_not_known(error: Exception) -> None:
    checker = ScramChecker()
    authenticator = Stand(checker).authenticator
    with capturedLogs():
        checker.secret = error
        at_once = authenticator.scram_secret("ann")
        checker.secret = Deferred()
        later = authenticator.scram_secret("ann")
        checker.secret.errback(error)
    for answer in (at_once, later):
        assert isinstance(answer, Deferred)
        failure = failure_of(answer)
        assert isinstance(failure, AuthUnavailable)
        assert "hunter2" not in str(failure)


CERTIFICATES = {"ab" * 32: "Printer"}


def tls(fingerprint: str = "", *names: str, is_verified: bool = False) -> Tls:
    return Tls(version="TLSv1.3", cipher="x", fingerprint=fingerprint, names=names, is_verified=is_verified)


@pytest.mark.parametrize(
    ("shown", "wanted", "name"),
    [
        (tls("ab" * 32), "", "Printer"),
        (tls("ab" * 32), "printer", "Printer"),
        (tls("ab" * 32, "other.example", is_verified=True), "other.example", None),
        (tls("cd" * 32, "ann@example.org", "bob@example.org", is_verified=True), "", "ann@example.org"),
        (tls("cd" * 32, "ann@example.org", "bob@example.org", is_verified=True), "BOB@example.org", "bob@example.org"),
        (tls("cd" * 32, "ann@example.org", is_verified=True), "bob@example.org", None),
        (tls("cd" * 32, "ann@example.org"), "", None),
        (tls("cd" * 32, is_verified=True), "", None),
        (tls(), "", None),
        (None, "ann", None),
    ],
)
def test_external_is_the_name_of_the_certificate(shown: Tls | None, wanted: str, name: str | None) -> None:
    stand = Stand(certificates=CERTIFICATES)
    answer = stand.check(External(wanted), "EXTERNAL", session(tls=shown))
    if name is None:
        assert isinstance(failure_of(answer), UnauthorizedLogin)
    else:
        assert outcome_of(answer) == Identity(name, "EXTERNAL")
    assert stand.checker.asked == []


def test_external_without_a_session_is_nobody() -> None:
    assert isinstance(failure_of(Stand().check(External(""), "EXTERNAL")), UnauthorizedLogin)


def test_the_mechanisms_are_those_of_the_checker_and_external() -> None:
    stand = Stand()
    assert stand.authenticator.mechanisms == {"PLAIN", "EXTERNAL"}
    stand.checker.mechanisms = frozenset({"PLAIN", "LOGIN"})
    assert stand.authenticator.mechanisms == {"PLAIN", "LOGIN", "EXTERNAL"}


# --- The end ----------------------------------------------------------------------------------------------


def test_closing_waits_for_answers_and_for_the_checker() -> None:
    stand = Stand(ScramChecker())
    assert stand.is_asked()
    waiting = stand.check(Password("bob", "x"))
    stand.checker.closing = Deferred()
    closed = stand.authenticator.close()
    assert (stand.checker.closed, closed.called) == (0, False)
    assert isinstance(failure_of(stand.check()), AuthUnavailable)
    secret = stand.authenticator.scram_secret("ann")
    assert isinstance(secret, Deferred)
    assert isinstance(failure_of(secret), AuthUnavailable)
    stand.checker.answer(b"bob")
    assert outcome_of(waiting) == Identity("bob", "PLAIN")
    assert (stand.checker.closed, closed.called) == (1, False)
    stand.checker.closing.callback(None)
    assert closed.called
    assert isinstance(failure_of(stand.check(Password("bob", "x"))), AuthUnavailable)


def test_closing_what_is_idle_is_done_at_once() -> None:
    stand = Stand()
    assert stand.authenticator.close().called
    assert stand.checker.closed == 1


# --- By the configuration ---------------------------------------------------------------------------------


def made(section: AuthSection) -> Authenticator:
    return make_authenticator(section, name="users", reactor=cast(IAuthReactor, Reactor()), certificates=CERTIFICATES)


def test_a_file_of_users_is_a_whole_authenticator(tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_text(f"ann:{stored('hunter2', 'plain', 'scram')}\n")
    authenticator = made(FileAuth(kind="file", path=path))
    assert authenticator.mechanisms >= {"PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS", "EXTERNAL"}
    assert outcome_of(authenticator.check(ANN, mechanism="PLAIN")) == Identity("ann", "PLAIN")
    wrong = authenticator.check(Password("ann", "x"), mechanism="PLAIN")
    assert isinstance(failure_of(wrong), UnauthorizedLogin)
    assert isinstance(authenticator.scram_secret("ann"), ScramSecret)
    shown = session(tls=tls("ab" * 32))
    assert outcome_of(authenticator.check(External(""), mechanism="EXTERNAL", session=shown)) is not None
    assert authenticator.close().called


def test_what_is_wrong_with_the_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="cannot be read"):
        made(FileAuth(kind="file", path=tmp_path / "users"))


def test_a_kind_whose_library_is_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("mailgate.auth.ldap", "ldaptor"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ldaptor", None)
    section = LdapAuth(kind="ldap", urls=["ldap://127.0.0.1"], user_dn="uid={username},dc=example")
    with pytest.raises(ValueError, match=r"^auth\.users: kind ldap needs: pip install 'mailgate\[ldap\]'$"):
        made(section)


def test_dovecot_is_not_connected_before_it_is_asked() -> None:
    assert isinstance(made(DovecotAuth(kind="dovecot", socket="127.0.0.1:12345")), Authenticator)


def test_every_kind_of_the_configuration_has_its_module() -> None:
    from mailgate.auth.portal import _KINDS

    assert set(_KINDS) == {FileAuth, HttpAuth, LdapAuth, SqlAuth, DovecotAuth, OAuthAuth}


def test_credentials_show_no_secret() -> None:
    assert "hunter2" not in repr([PasswordLogin(b"ann", b"hunter2"), TokenLogin(b"ann", "hunter2")])
