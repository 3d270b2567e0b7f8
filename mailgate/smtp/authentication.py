"""AUTH (RFC 4954): one exchange after another, until one succeeds or there were too many failures."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable
from ipaddress import IPv6Address
from typing import cast

from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailgate.auth.checker import AuthUnavailable
from mailgate.awaiting import as_deferred
from mailgate.envelope import Client, Identity
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

    __slots__ = ("_answer", "_failures", "_identity", "_mechanism", "_reason", "_talk", "_username", "is_under_way")

    def __init__(self, talk: Conversation) -> None:
        self._talk = talk
        self._mechanism: ServerMechanism | None = None
        self._identity: Identity | None = None
        self._username = self._reason = ""
        self._failures = 0
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
        talk.gate.when(
            talk.services.counters.peek(self._key, _WINDOW),
            lambda failures: self._begin(name, initial.strip(" "), failures),
            lambda: self._unavailable("the counters cannot be asked"),
        )

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

    def _begin(self, name: str, initial: str, failures: int) -> None:
        talk = self._talk
        if failures >= talk.settings.max_auth_failures_per_client:
            reason = f"{failures} wrong secrets within an hour; max_auth_failures_per_client of the listener is reached"
            talk.teller.tell("auth", replies.AUTH_TOO_OFTEN, reason)
            talk.mistake(replies.AUTH_TOO_OFTEN)
            return
        authenticator = talk.services.authenticator
        if authenticator is None:
            raise AssertionError("nobody can check AUTH")
        self._username = self._reason = ""
        self._identity = None
        self._mechanism = server_mechanism(
            name,
            hostname=talk.services.hostname,
            random_bytes=secrets.token_bytes,
            seconds=talk.services.clock.seconds,
            scram_key=talk.services.secret,
            iterations=authenticator.scram_iterations,
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
        self._step(self._current.step(response))

    def _step(self, step: Step) -> None:
        talk = self._talk
        authenticator = talk.services.authenticator
        match step:
            case Challenge(data):
                talk.say(b"334 " + encode_response(data) + b"\r\n")
            case NeedSecret(username) if authenticator is not None:
                self._username = username
                secret = authenticator.scram_secret(username)
                if isinstance(secret, Deferred):
                    secret.addErrback(_as_answer)
                talk.gate.when(secret, self._found, lambda: self._unavailable("the user's secret cannot be looked up"))
            case Verify(credentials):
                self._verify(credentials)
            case Malformed() as malformed:
                self._end(malformed.reply)
            case Failed(reason):
                self._fail(reason)
            case Succeeded():
                self._succeed()

    def _verify(self, credentials: Credentials) -> None:
        talk = self._talk
        authenticator = talk.services.authenticator
        if authenticator is None:
            raise AssertionError("nobody can check AUTH")
        self._username = "" if isinstance(credentials, External) else credentials.username

        def refused(failure: Failure) -> None:
            failure.trap(UnauthorizedLogin)
            self._reason = failure.getErrorMessage()

        checked: Deferred[Identity | AuthUnavailable | None] = authenticator.check(
            credentials, mechanism=self._current.name, session=talk.session
        ).addErrback(refused)
        checked.addErrback(_as_answer)
        talk.gate.when(checked, self._checked, lambda: self._unavailable("the users cannot be asked"))

    def _found(self, secret: ScramSecret | AuthUnavailable | None) -> None:
        if isinstance(secret, AuthUnavailable):
            self._unavailable(f"the user's secret cannot be looked up: {secret}")
        else:
            self._step(self._current.secret(secret))

    def _checked(self, identity: Identity | AuthUnavailable | None) -> None:
        if isinstance(identity, AuthUnavailable):
            self._unavailable(f"the users cannot be asked: {identity}")
            return
        self._identity = identity
        last = self._current.verified(identity is not None)
        if last is not None:
            self._step(last)
        elif identity is None:
            self._fail(self._reason or "the secret is wrong, or there is no such user")
        else:
            self._succeed()

    # -- how it ends

    def _succeed(self) -> None:
        talk = self._talk
        identity = self._identity
        if identity is None:
            raise AssertionError("nobody has been identified")

        def answer(verdict: Verdict) -> None:
            self.give_up()
            if not talk.objects("auth", verdict, talk.session.trace):
                talk.authenticated(identity)
                talk.reply(replies.AUTHENTICATED)

        talk.ask(talk.pipeline.auth(talk.session, identity), answer)

    def _fail(self, reason: str) -> None:
        """A wrong secret: its answer waits, longer each time, and whoever goes on all the same is let go."""
        talk = self._talk
        self._failures += 1
        talk.teller.tell("auth", replies.AUTH_FAILED, f"{self._current.name} as {self._username or '?'}: {reason}")
        counted = talk.services.counters.hit(self._key, _WINDOW)
        if isinstance(counted, Awaitable):
            as_deferred(counted).addErrback(lambda failure: _log.failure("a failure of AUTH is not counted", failure))
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
        self._talk.teller.tell("auth", replies.AUTH_UNAVAILABLE, reason)
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
    def _key(self) -> str:
        return f"auth-failures:{_network(self._talk.session.client)}"


def _as_answer(failure: Failure) -> AuthUnavailable:
    """That nobody can be asked is foreseen, and no failure of ours: the client is told 454."""
    failure.trap(AuthUnavailable)
    return cast(AuthUnavailable, failure.value)


def _network(client: Client) -> str:
    """Whose failures are counted together: an IPv4 address, or an IPv6 /64."""
    address = client.address
    return f"{int(address) >> 64:x}::/64" if isinstance(address, IPv6Address) else str(address)
