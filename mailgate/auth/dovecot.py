"""`[auth.NAME]` of kind dovecot: Dovecot's auth service decides about passwords and, where it knows them, tokens.

SCRAM is not offered: its messages would have to pass between the client and Dovecot unseen, bound to a connection that
Dovecot does not have, while our sessions run the exchange themselves with a secret that Dovecot never shows.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from typing import Any

from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint, connectProtocol
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgate.auth.checker import (
    PASSWORD_MECHANISMS,
    TOKEN_MECHANISMS,
    AuthTools,
    AuthUnavailable,
    AvatarId,
    IBearerToken,
    IChecker,
    session_of,
)
from mailgate.auth.dovecot_client import Accepted, DovecotClient, Question
from mailgate.config.auth import DovecotAuth
from mailgate.config.hosts import parse_host
from mailgate.envelope import Session
from mailgate.wire.scram import encode_saslname

__all__ = ["DovecotChecker", "build"]

#: Seconds before a connection that failed is tried again only to learn the mechanisms.
_TRY_AGAIN = 5.0

_TOKEN = re.compile(r"[!-~]+")


@implementer(IChecker)
class DovecotChecker:
    """Asks over one connection, many questions at a time; it is made when it is needed, and again when it is lost.

    Until Dovecot has first told what it knows, PLAIN and LOGIN are offered: nothing works without PLAIN.
    """

    credentialInterfaces = (IUsernamePassword, IBearerToken)  # noqa: N815 (twisted.cred's)
    depends_on_client = True  # allow_nets
    version = None

    def __init__(self, endpoint: IStreamClientEndpoint, clock: IReactorTime, timeout: float) -> None:
        """`timeout` in seconds bounds each answer, with the connection that it may need."""
        self._endpoint = endpoint
        self._clock = clock
        self._timeout = timeout
        self._known = frozenset({"PLAIN"})
        self._client: DovecotClient | None = None
        self._connecting: Deferred[None] | None = None
        self._waiting: list[Deferred[DovecotClient]] = []
        self._try_at = 0.0

    @property
    def mechanisms(self) -> frozenset[str]:
        """Those that Dovecot has told. Where there is no connection to know it from, one is made."""
        if not self._is_connected and self._connecting is None and self._clock.seconds() >= self._try_at:
            self._connect()
        has_tokens = bool(self._known & TOKEN_MECHANISMS)
        none: frozenset[str] = frozenset()
        return (PASSWORD_MECHANISMS if "PLAIN" in self._known else none) | (TOKEN_MECHANISMS if has_tokens else none)

    def requestAvatarId(self, credentials: Any) -> Deferred[AvatarId]:  # noqa: N802 (twisted.cred's)
        """As in IChecker."""
        return Deferred.fromCoroutine(self._request(credentials))

    def close(self) -> None:
        """End the connection."""
        if self._connecting is not None:
            self._connecting.cancel()
        if self._client is not None:
            self._client.close()

    async def _request(self, credentials: Any) -> AvatarId:
        deadline = self._clock.seconds() + self._timeout
        client = await self._connected()
        question = self._question(credentials)
        answer = await client.ask(question, max(0.0, deadline - self._clock.seconds()))
        if not isinstance(answer, Accepted):
            raise UnauthorizedLogin("Dovecot says no")
        return answer.user

    def _question(self, credentials: Any) -> Question:
        parameters = _parameters(session_of(credentials))
        username: bytes = credentials.username
        if IUsernamePassword.providedBy(credentials):
            if not username or b"\0" in username + credentials.password:
                raise UnauthorizedLogin("no name and password for PLAIN")
            return Question("PLAIN", parameters, b"\0%b\0%b" % (username, credentials.password))
        if not _TOKEN.fullmatch(credentials.token) or b"\1" in username:
            raise UnauthorizedLogin("no token for OAUTHBEARER")
        bearer = b"\1auth=Bearer %b\1\1" % credentials.token.encode()
        if "OAUTHBEARER" in self._known:
            name = b"a=" + encode_saslname(username.decode()) if username else b""
            return Question("OAUTHBEARER", parameters, b"n,%b," % name + bearer)
        return Question("XOAUTH2", parameters, b"user=%b" % username + bearer)

    @property
    def _is_connected(self) -> bool:
        return self._client is not None and self._client.is_open

    def _connected(self) -> Deferred[DovecotClient]:
        """The connection; fails with AuthUnavailable."""
        if self._client is not None and self._client.is_open:
            return succeed(self._client)
        waiter: Deferred[DovecotClient] = Deferred()
        self._waiting.append(waiter)
        if self._connecting is None:
            self._connect()
        return waiter

    def _connect(self) -> None:
        client = DovecotClient(self._clock, secrets.randbelow(2**31 - 1) + 1)
        self._connecting = attempt = Deferred.fromCoroutine(self._greet(client))
        attempt.addTimeout(self._timeout, self._clock, onTimeoutCancel=_late)
        attempt.addBoth(self._greeted, client)

    async def _greet(self, client: DovecotClient) -> None:
        await connectProtocol(self._endpoint, client)
        await client.ready

    def _greeted(self, outcome: Failure | None, client: DovecotClient) -> None:
        self._connecting = None
        waiting, self._waiting = self._waiting, []
        if outcome is None:
            self._client, self._known = client, client.mechanisms
            for waiter in waiting:
                waiter.callback(client)
            return
        client.close()
        self._try_at = self._clock.seconds() + _TRY_AGAIN
        for waiter in waiting:
            waiter.errback(_unreachable(outcome))


def build(section: DovecotAuth, tools: AuthTools) -> DovecotChecker:
    """See `mailgate.auth.checker`."""
    endpoint: IStreamClientEndpoint
    place = parse_host(section.socket, 0)
    if place.is_unix:
        endpoint = UNIXClientEndpoint(tools.reactor, place.host, section.timeout)
    else:
        endpoint = HostnameEndpoint(tools.reactor, place.host, place.port, section.timeout)
    return DovecotChecker(endpoint, tools.reactor, section.timeout)


def _parameters(session: Session | None) -> Sequence[bytes]:
    """What Dovecot is told of the client.

    `nologin`: nobody is going to log in to Dovecot with the outcome. `no-penalty`: Dovecot would hold answers back for
    longer than we wait, for all clients of an address where one has failed; our sessions count failures themselves.
    """
    parameters = [b"service=smtp", b"nologin", b"no-penalty"]
    if session is None:
        return parameters
    if session.tls is not None:
        parameters.append(b"secured")
    if session.client.address is not None:
        parameters += [b"rip=%b" % str(session.client.address).encode(), b"rport=%d" % session.client.port]
    return parameters


def _late(_: object, seconds: float) -> None:
    raise AuthUnavailable(f"Dovecot does not greet within {seconds:g} s")


def _unreachable(failure: Failure) -> AuthUnavailable:
    if isinstance(failure.value, AuthUnavailable):
        return failure.value
    if failure.check(CancelledError):
        return AuthUnavailable("Dovecot is not asked any more")
    return AuthUnavailable(f"Dovecot cannot be reached: {failure.getErrorMessage()}")
