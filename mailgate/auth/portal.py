"""AUTH as the session asks for it: twisted.cred's portal behind a bounded memory of passwords that were right."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Awaitable, Mapping, MutableMapping
from importlib import import_module
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar, cast

from cachetools import TTLCache
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import IRealm, Portal
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import Attribute, Interface, implementer

from mailgate.auth.checker import (
    EXTERNAL,
    AuthTools,
    AuthUnavailable,
    AvatarId,
    IAuthReactor,
    ICertified,
    IChecker,
    IProven,
    IScramSecrets,
)
from mailgate.auth.credentials import CertifiedLogin, CramLogin, Login, PasswordLogin, ProvenLogin, TokenLogin
from mailgate.auth.guesses import Guesses
from mailgate.auth.secrets import SecretVerifier
from mailgate.awaiting import as_deferred
from mailgate.config.auth import AuthSection, DovecotAuth, FileAuth, HttpAuth, LdapAuth, OAuthAuth, SqlAuth
from mailgate.envelope import Identity, Session, Tls
from mailgate.wire.sasl_exchange import BearerToken, CramProof, Credentials, External, Password
from mailgate.wire.sasl_text import SaslError, parse_name
from mailgate.wire.scram_secret import DEFAULT_ITERATIONS, ScramSecret

__all__ = ["MAX_PENDING", "Authenticator", "IIdentity", "make_authenticator"]

T = TypeVar("T")

_log = Logger()

#: Checks that run or wait at one time: what two threads do with Argon2 in five seconds; and where others compute.
MAX_PENDING, MAX_PENDING_ELSEWHERE = 100, 1000


class _Kind(NamedTuple):
    """The module of a kind, which is imported when it is used, and the extra that brings its libraries."""

    module: str
    extra: str
    max_pending: int


_KINDS: Mapping[type[Any], _Kind] = {
    FileAuth: _Kind("mailgate.auth.file", "", MAX_PENDING),
    SqlAuth: _Kind("mailgate.auth.sql", "postgresql", MAX_PENDING),
    DovecotAuth: _Kind("mailgate.auth.dovecot", "", MAX_PENDING_ELSEWHERE),
    HttpAuth: _Kind("mailgate.auth.http", "", MAX_PENDING_ELSEWHERE),
    LdapAuth: _Kind("mailgate.auth.ldap", "ldap", MAX_PENDING_ELSEWHERE),
    OAuthAuth: _Kind("mailgate.auth.oauth", "oauth", MAX_PENDING_ELSEWHERE),
}


class IIdentity(Interface):
    """The avatar: `mailgate.envelope.Identity`."""

    name: str = Attribute("the user's name")
    mechanism: str = Attribute("the mechanism of SASL that proved it")


@implementer(IRealm)
class _Realm:
    """Makes identities; the mind is the mechanism."""

    def requestAvatar(  # noqa: N802 (twisted.cred's)
        self,
        avatarId: AvatarId,  # noqa: N803 (twisted.cred's)
        mind: object,
        *interfaces: type[Interface],
    ) -> tuple[type[Interface], object, Any]:
        if IIdentity not in interfaces:
            raise NotImplementedError("identities only")
        if not avatarId:
            raise UnauthorizedLogin("nobody in particular")
        try:
            name = parse_name(avatarId)
        except SaslError:
            raise AuthUnavailable("what was asked gave a name that no user can have") from None
        return IIdentity, Identity(name, str(mind)), _stay


def _stay() -> None:
    """The end of a session means nothing to us."""


@implementer(ICredentialsChecker)
class _Proven:
    """The checker of what has been proved by other means."""

    credentialInterfaces = (IProven, ICertified)  # noqa: N815 (twisted.cred's)

    def requestAvatarId(self, credentials: Any) -> Deferred[AvatarId]:  # noqa: N802 (twisted.cred's)
        return succeed(credentials.username)


class Authenticator:
    """Checks what clients show against one `[auth.NAME]`.

    A password that was right is taken for right again for a while (`cache` seconds, `cache_size` of them), until the
    checker tells that something has changed. What is remembered is a keyed hash of name and password, with a key that
    is only in this process. Passwords that were wrong are asked again each time; equal ones that come at one time are
    asked once.
    """

    def __init__(
        self,
        checker: IChecker,
        *,
        clock: IReactorTime,
        verifier: SecretVerifier,
        cache: float,
        cache_size: int,
        certificates: Mapping[str, str] = MappingProxyType({}),
        max_pending: int = MAX_PENDING,
        guesses: Guesses | None = None,
        made_of: object = None,
    ) -> None:
        """`certificates` are names of clients by fingerprint (SHA-256, lower-case hex), for EXTERNAL. `guesses` are
        the open checks of sessions, which several authenticators may count together. `made_of` is kept for whoever
        asks whether another one would do the same: it would if it were made of equal things.
        """
        self.portal = Portal(_Realm(), [_Proven(), checker])
        self._checker = checker
        self._verifier = verifier
        self._certificates = certificates
        self._max_pending = max_pending
        self._pending = 0
        self._waiting: dict[object, list[Deferred[Identity]]] = {}
        self._key = secrets.token_bytes(32)
        self._version = checker.version
        self._known: MutableMapping[object, str] = (
            TTLCache(cache_size, cache, clock.seconds) if cache > 0 and cache_size > 0 else {}
        )
        self._remembers = cache > 0 and cache_size > 0
        self._is_closed = False
        self._idle: Deferred[None] | None = None
        self.guesses = guesses or Guesses()
        self.made_of = made_of
        #: How often it has been asked.
        self.questions = 0

    @property
    def mechanisms(self) -> frozenset[str]:
        """The mechanisms of SASL, in upper case, that can be checked now. EXTERNAL is for those only who have shown a
        certificate."""
        return self._checker.mechanisms | {EXTERNAL}

    @property
    def scram_iterations(self) -> int:
        """What an unknown user is to seem to have."""
        return self._checker.scram_iterations if IScramSecrets.providedBy(self._checker) else DEFAULT_ITERATIONS

    def scram_secret(self, username: str) -> ScramSecret | Deferred[ScramSecret | None] | None:
        """The user's secret for SCRAM; None for an unknown user, or one without. Fails with AuthUnavailable only.

        Cancelling ends the waiting only.
        """
        self.questions += 1
        if not IScramSecrets.providedBy(self._checker):
            return None
        if (refusal := self._refusal()) is not None:
            return fail(refusal)
        try:
            answer: ScramSecret | Awaitable[ScramSecret | None] | None = self._checker.scram_secret(username)
        except Exception:
            return fail(_unavailable(Failure()))
        if answer is None or isinstance(answer, ScramSecret):
            return answer
        asked = self._count(as_deferred(answer)).addErrback(lambda failure: Failure(_unavailable(failure)))
        waiting: Deferred[ScramSecret | None] = Deferred()
        asked.addBoth(waiting.callback)
        return waiting

    def check(self, credentials: Credentials, *, mechanism: str, session: Session | None = None) -> Deferred[Identity]:
        """Who the client is. Fails with UnauthorizedLogin (535 5.7.8) or AuthUnavailable (454 4.7.0), nothing else.

        `session` is who asks, and needed for EXTERNAL. Cancelling ends the waiting only: the question has been asked.
        """
        self.questions += 1
        try:
            login = self._login(credentials, session)
        except UnauthorizedLogin as error:
            return fail(error)
        key: object = object()
        if isinstance(login, PasswordLogin):
            key = self._fingerprint(login)
            name = self._known.get(key)
            if name is not None:
                return succeed(Identity(name, mechanism))
        answer: Deferred[Identity] = Deferred()
        waiting = self._waiting.get(key)
        if waiting is not None:
            waiting.append(answer)
        elif (refusal := self._refusal()) is not None:
            return fail(refusal)
        else:
            self._waiting[key] = [answer]
            asked = self._count(self.portal.login(login, mechanism, IIdentity)).addCallbacks(
                lambda result: cast(Identity, result[1]), lambda failure: Failure(_unavailable(failure))
            )
            asked.addBoth(self._answer, key)
        return answer.addCallback(lambda identity: Identity(identity.name, mechanism))

    def close(self) -> Deferred[None]:
        """Ask nothing more; when what has been asked is answered, end threads and connections."""
        self._is_closed = True
        self._known.clear()
        return Deferred.fromCoroutine(self._close())

    async def _close(self) -> None:
        if self._pending:
            self._idle = Deferred()
            await self._idle
        closing = self._checker.close()
        if closing is not None:
            await closing
        self._verifier.close()

    def _refusal(self) -> AuthUnavailable | None:
        if self._is_closed:
            return AuthUnavailable("the gateway is stopping, or has a new configuration")
        if self._pending >= self._max_pending:
            return AuthUnavailable(f"{self._pending} checks are waiting already")
        return None

    def _count(self, asked: Deferred[T]) -> Deferred[T]:
        def over(outcome: T | Failure) -> T | Failure:
            self._pending -= 1
            if self._idle is not None and not self._pending:
                self._idle.callback(None)
            return outcome

        self._pending += 1
        asked.addBoth(over)
        return asked

    def _answer(self, outcome: Identity | Failure, key: object) -> None:
        is_fit = isinstance(key, bytes) and not self._is_closed
        if self._remembers and is_fit and isinstance(outcome, Identity):
            self._known[key] = outcome.name
        for answer in self._waiting.pop(key):
            answer.callback(outcome)

    def _fingerprint(self, login: PasswordLogin) -> bytes:
        """By what a password is remembered. Another version has another key: what is remembered of the old one goes,
        and what is answered to it later is not found."""
        version = self._checker.version
        if version is not self._version:
            self._version = version
            self._known.clear()
            self._key = secrets.token_bytes(32)
        parts = [login.username, login.password]
        if self._checker.depends_on_client and login.session is not None:
            parts += [str(login.session.client.address).encode(), login.session.listener.encode()]
        return hmac.digest(self._key, b"".join(b"%d:%b" % (len(part), part) for part in parts), "sha256")

    def _login(self, credentials: Credentials, session: Session | None) -> Login:
        if isinstance(credentials, External):
            tls = session.tls if session is not None else None
            return CertifiedLogin(_octets(self._certified(credentials.authzid, tls)), session)
        username = _octets(credentials.username)
        if isinstance(credentials, Password):
            if credentials.authzid not in ("", credentials.username):
                raise UnauthorizedLogin("one user may not act for another")
            return PasswordLogin(username, _octets(credentials.password), session)
        if isinstance(credentials, CramProof):
            return CramLogin(username, credentials, session)
        if isinstance(credentials, BearerToken):
            return TokenLogin(username, credentials.token, credentials.host, credentials.port, session)
        return ProvenLogin(username, session)

    def _certified(self, wanted: str, tls: Tls | None) -> str:
        """Which of the names of its certificate the client is."""
        names: tuple[str, ...] = ()
        if tls is not None and tls.fingerprint in self._certificates:
            names = (self._certificates[tls.fingerprint],)
        elif tls is not None and tls.is_verified:
            names = tls.names
        for name in names:
            if not wanted or name.casefold() == wanted.casefold():
                return name
        raise UnauthorizedLogin("no certificate that we trust, or one of another name")


def make_authenticator(
    section: AuthSection,
    *,
    name: str,
    reactor: IAuthReactor,
    certificates: Mapping[str, str] = MappingProxyType({}),
    guesses: Guesses | None = None,
    made_of: object = None,
) -> Authenticator:
    """What checks against `[auth.NAME]`; `certificates`, `guesses` and `made_of` as in Authenticator.

    ValueError, in words for an administrator, where the section cannot work here; FileError, which is one, where a
    file of users is wrong. Nothing is connected and no thread is started before the first question.
    """
    kind = _KINDS[type(section)]
    verifier = SecretVerifier(reactor)
    tools = AuthTools(name=name, reactor=reactor, secrets=verifier)
    try:
        checker: IChecker = import_module(kind.module).build(section, tools)
    except ModuleNotFoundError as error:
        if not kind.extra or (error.name or "").partition(".")[0] == "mailgate":
            raise
        raise ValueError(f"auth.{name}: kind {section.kind} needs: pip install 'mailgate[{kind.extra}]'") from error
    return Authenticator(
        checker,
        clock=reactor,
        verifier=verifier,
        cache=section.cache,
        cache_size=section.cache_size,
        certificates=certificates,
        max_pending=kind.max_pending,
        guesses=guesses,
        made_of=made_of,
    )


def _octets(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise UnauthorizedLogin("a name or a password that is not Unicode") from None


def _unavailable(failure: Failure) -> Exception:
    """What a check failed with; whatever else it is than a no, it is not known. Its text may hold a secret, and is not
    repeated."""
    error = failure.value
    if isinstance(error, UnauthorizedLogin | AuthUnavailable):
        return error
    frames = failure.frames
    where = f"{frames[-1][1]}:{frames[-1][2]}" if frames else "an unknown place"
    _log.error("AUTH: {kind} at {where}", kind=type(error).__name__, where=where)
    return AuthUnavailable(f"an internal error: {type(error).__name__}")
