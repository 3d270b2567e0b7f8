"""AUTH (RFC 4954): one exchange after another, until one succeeds or there were too many failures.

Wrong secrets are counted by client, for all its connections, when the check says so, whether or not the client is still
there to hear it. A check that is open counts as a failure for those that come meanwhile: they wait for its end where
it decides. Clients whose address is not known (a unix socket, XCLIENT without one) have no counter in common, which one
of them could fill for all: their failures are counted by the user that they want to be.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Awaitable, Callable
from ipaddress import IPv6Address
from typing import cast

from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailgate.auth.checker import AuthUnavailable
from mailgate.auth.portal import Authenticator
from mailgate.awaiting import as_deferred
from mailgate.envelope import Identity, Session
from mailgate.reply import Reply
from mailgate.smtp import replies
from mailgate.smtp.conversation import Conversation
from mailgate.verdict import Verdict
from mailgate.wire.fault import CommandError
from mailgate.wire.sasl import (
    Challenge,
    Credentials,
    External,
    Failed,
    Malformed,
    NeedSecret,
    SaslError,
    ScramSecret,
    ServerMechanism,
    Step,
    Succeeded,
    Verify,
    decode_response,
    encode_response,
    server_mechanism,
)

__all__ = ["Authentication"]

_log = Logger()

#: Seconds that the first wrong secret waits for its answer; each more doubles it.
_FIRST_DELAY, _LONGEST_DELAY = 1.0, 16.0
#: Seconds over which the failures of one client are counted.
_WINDOW = 3600.0


class Authentication:
    """The AUTH of one session. While `is_under_way` a line of the peer is its response, not a command."""

    __slots__ = (
        "_failures",
        "_guess",
        "_identity",
        "_is_counted",
        "_is_proof_due",
        "_mechanism",
        "_talk",
        "_username",
        "is_under_way",
    )

    def __init__(self, talk: Conversation) -> None:
        self._talk = talk
        self._mechanism: ServerMechanism | None = None
        self._identity: Identity | None = None
        self._username = ""
        self._failures = 0
        self._guess = ""  # under which key the open check is counted
        self._is_proof_due = False  # the next response is judged by the mechanism itself
        self._is_counted = False  # the exchange has failed, and its end is still owed
        self.is_under_way = False

    def command(self, argument: str) -> None:
        """AUTH: begin an exchange. CommandError for the peer's mistakes."""
        talk = self._talk
        if not (talk.offer.mechanisms or talk.mechanisms_under_tls):
            raise CommandError(replies.NOT_IMPLEMENTED)
        if talk.is_authenticated:
            raise CommandError(replies.AUTHENTICATED_ALREADY)
        name, _space, initial = argument.partition(" ")
        name = name.upper()
        if not name:
            raise CommandError(replies.AUTH_HOW)
        if name not in talk.offer.mechanisms:
            is_for_tls = talk.session.tls is None and name in talk.mechanisms_under_tls
            reply = replies.AUTH_NEEDS_TLS if is_for_tls else replies.UNKNOWN_MECHANISM
            talk.teller.tell("auth", reply, f"{name[:40]} is not offered{' without TLS' if is_for_tls else ''}")
            raise CommandError(reply)
        self._begin(name, initial.strip(" "))

    def line(self, line: bytes) -> None:
        """A line of the exchange, its CRLF removed."""
        if line == b"*":
            self._end(replies.AUTH_CANCELLED)
        else:
            self._respond(line)

    def give_up(self) -> None:
        """Forget the exchange, if one is under way; the peer has been told, or will be."""
        self._mechanism = None
        self.is_under_way = False

    # -- the exchange

    def _begin(self, name: str, initial: str) -> None:
        talk = self._talk
        self._username = ""
        self._identity = None
        self._is_proof_due = self._is_counted = False
        self._mechanism = server_mechanism(
            name,
            hostname=talk.services.hostname,
            random_bytes=secrets.token_bytes,
            seconds=talk.services.clock.seconds,
            scram_key=talk.services.secret,
            iterations=self._authenticator.scram_iterations,
            channel_bindings=talk.channel_bindings(),
        )
        self.is_under_way = True
        if initial:
            self._respond(initial.encode())
        else:
            self._step(self._mechanism.step(None))

    def _respond(self, line: bytes) -> None:
        try:
            response = decode_response(line)
        except SaslError as error:
            self._end(error.reply)
            return
        if self._is_proof_due:
            self._is_proof_due = False
            self._admit(lambda: self._step(self._current.step(response)))
        else:
            self._step(self._current.step(response))

    def _step(self, step: Step) -> None:
        match step:
            case Challenge(data):
                self._talk.say(b"334 " + encode_response(data) + b"\r\n")
            case NeedSecret(username):
                self._username = username
                self._unless_too_often(lambda failures: self._look_up(username))
            case Verify(credentials):
                self._username = "" if isinstance(credentials, External) else credentials.username
                if self._guess:  # a proof, which has been admitted
                    self._check(credentials)
                else:
                    self._admit(lambda: self._check(credentials))
            case Malformed() as malformed:
                self._release()
                self._end(malformed.reply)
            case Failed(reason):
                if not self._is_counted:
                    self._count(self._current.name, reason)
                self._fail()
            case Succeeded():
                self._succeed()

    def _look_up(self, username: str) -> None:
        secret = self._authenticator.scram_secret(username)
        if isinstance(secret, Deferred):
            secret.addErrback(_as_answer)
        self._talk.gate.when(secret, self._found, lambda: self._unavailable("the user's secret cannot be looked up"))

    def _found(self, secret: ScramSecret | AuthUnavailable | None) -> None:
        if isinstance(secret, AuthUnavailable):
            self._unavailable(f"the user's secret cannot be looked up: {secret}")
        else:
            self._is_proof_due = True
            self._step(self._current.secret(secret))

    def _check(self, credentials: Credentials) -> None:
        """Ask whether the secret is right. What it costs that it is wrong does not need the client to be there."""
        talk = self._talk
        name = self._current.name

        def judged(outcome: Identity | Failure) -> Identity | AuthUnavailable | Failure | None:
            if isinstance(outcome, Failure) and outcome.check(UnauthorizedLogin):
                self._count(name, outcome.getErrorMessage() or "the secret is wrong, or there is no such user")
                return None
            self._release()
            return _as_answer(outcome) if isinstance(outcome, Failure) else outcome

        waited: Deferred[Identity | AuthUnavailable | None] = Deferred()
        checked = maybeDeferred(self._authenticator.check, credentials, mechanism=name, session=talk.session)
        checked.addBoth(judged).addBoth(waited.callback)
        talk.gate.when(waited, self._checked, lambda: self._unavailable("the users cannot be asked"))

    def _checked(self, identity: Identity | AuthUnavailable | None) -> None:
        if isinstance(identity, AuthUnavailable):
            self._unavailable(f"the users cannot be asked: {identity}")
            return
        self._identity = identity
        last = self._current.verified(identity is not None)
        if last is not None:
            self._step(last)
        elif identity is None:
            self._fail()
        else:
            self._succeed()

    # -- how many may be wrong

    def _unless_too_often(self, then: Callable[[int], None]) -> None:
        """Go on with the number of the client's failures, if it may have one more."""
        talk = self._talk
        most = talk.settings.max_auth_failures_per_client

        def counted(failures: int) -> None:
            if failures < most:
                then(failures)
                return
            reason = f"{failures} wrong secrets within an hour; max_auth_failures_per_client of the listener is reached"
            talk.teller.tell("auth", replies.AUTH_TOO_OFTEN, reason, user=self._username)
            self._end(replies.AUTH_TOO_OFTEN)

        talk.gate.when(
            talk.services.counters.peek(self._key, _WINDOW),
            counted,
            lambda: self._unavailable("the counters cannot be asked"),
        )

    def _admit(self, then: Callable[[], None]) -> None:
        """Go on once the client may have one more failure, even if all its open checks fail; `_guess` is then held."""
        talk, guesses, key = self._talk, self._authenticator.guesses, self._key

        def again(_: None) -> None:
            self._admit(then)

        def counted(failures: int) -> None:
            if failures + guesses.count(key) < talk.settings.max_auth_failures_per_client:
                guesses.begin(key)
                self._guess = key
                then()
            else:
                talk.gate.when(guesses.wait(key), again, lambda: self._unavailable("a check cannot end"))

        self._unless_too_often(counted)

    def _release(self) -> None:
        """The open check has not failed."""
        key, self._guess = self._guess, ""
        if key:
            self._authenticator.guesses.end(key)

    def _count(self, mechanism: str, reason: str) -> None:
        """Take down a wrong secret."""
        talk, guesses = self._talk, self._authenticator.guesses
        self._is_counted = True
        key, guess, self._guess = self._guess or self._key, self._guess, ""

        def release(_: object = None) -> None:
            if guess:
                guesses.end(guess)

        reason = f"{mechanism} as {self._username or '?'}: {reason}"
        if talk.is_over:
            talk.teller.tell("auth", None, f"{reason}; the client did not wait for the answer", user=self._username)
        else:
            talk.teller.tell("auth", replies.AUTH_FAILED, reason, user=self._username)
        counted = talk.services.counters.hit(key, _WINDOW)
        if isinstance(counted, Awaitable):
            hit = as_deferred(counted)
            hit.addErrback(lambda failure: _log.failure("a failure of AUTH is not counted", failure)).addBoth(release)
        else:
            release()

    # -- how it ends

    def _succeed(self) -> None:
        talk = self._talk
        identity = self._identity
        if identity is None:
            raise AssertionError("nobody has been identified")

        def answer(verdict: Verdict) -> None:
            self.give_up()
            if not talk.objects("auth", verdict, talk.session.trace, user=identity.name):
                talk.authenticated(identity)
                talk.reply(replies.AUTHENTICATED)

        talk.ask(talk.pipeline.auth(talk.session, identity), answer)

    def _fail(self) -> None:
        """The answer to a wrong secret waits, longer each time, and whoever goes on all the same is let go."""
        talk = self._talk
        self._failures += 1
        delay = min(_FIRST_DELAY * 2 ** (self._failures - 1), _LONGEST_DELAY)

        def refuse(_: object) -> None:
            self._refuse()

        talk.gate.when(cast("Awaitable[object]", deferLater(talk.services.clock, delay)), refuse, self._refuse)

    def _refuse(self) -> None:
        talk = self._talk
        self.give_up()
        talk.mistake(replies.AUTH_FAILED)
        if self._failures >= talk.settings.max_auth_failures:
            talk.end(replies.TOO_MANY_AUTH_FAILURES, "auth")

    def _unavailable(self, reason: str) -> None:
        self._talk.teller.tell("auth", replies.AUTH_UNAVAILABLE, reason, user=self._username)
        self.give_up()
        self._talk.reply(replies.AUTH_UNAVAILABLE)

    def _end(self, reply: Reply) -> None:
        self.give_up()
        self._talk.mistake(reply)

    @property
    def _current(self) -> ServerMechanism:
        if self._mechanism is None:
            raise AssertionError("no exchange is under way")
        return self._mechanism

    @property
    def _authenticator(self) -> Authenticator:
        authenticator = self._talk.services.authenticator
        if authenticator is None:
            raise AssertionError("nobody can check AUTH")
        return authenticator

    @property
    def _key(self) -> str:
        return f"auth-failures:{_whose(self._talk.session, self._username)}"


def _as_answer(failure: Failure) -> AuthUnavailable:
    """That nobody can be asked is foreseen, and no failure of ours: the client is told 454."""
    failure.trap(AuthUnavailable)
    return cast(AuthUnavailable, failure.value)


def _whose(session: Session, username: str) -> str:
    """Whose failures are counted together: an IPv4 address's, an IPv6 /64's; without an address, those of all who want
    to be one user, or else of one session."""
    address = session.client.address
    if address is None or address.is_unspecified:
        who = f"user {username.casefold()}" if username else f"session {session.id}"
        return hashlib.sha256(who.encode("utf-8", "surrogatepass")).hexdigest()  # a name may be long
    return f"{int(address) >> 64:x}::/64" if isinstance(address, IPv6Address) else str(address)
