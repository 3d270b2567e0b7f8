"""What every kind of `[auth.NAME]` is made of: the contract of its checker, on top of twisted.cred.

A kind is a module with `build(section, tools) -> IChecker`, named in `mailgate.auth.portal`. `build` opens nothing that
waits: ValueError, in words for an administrator, where the section or a file that it names cannot be used; ImportError
where a library is missing that an extra brings.
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import ICredentials
from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

from mailgate.auth.secrets import SecretVerifier
from mailgate.backends.questions import IBackendReactor
from mailgate.envelope import Session
from mailgate.wire.scram_secret import ScramSecret

__all__ = [
    "CRAM_MD5",
    "EXTERNAL",
    "PASSWORD_MECHANISMS",
    "SCRAM_MECHANISMS",
    "TOKEN_MECHANISMS",
    "AuthTools",
    "AuthUnavailable",
    "AvatarId",
    "IAuthReactor",
    "IBearerToken",
    "ICertified",
    "IChecker",
    "IProven",
    "IScramSecrets",
    "session_of",
]

#: The mechanisms of SASL by what they hand to a checker: IUsernamePassword, IBearerToken, IUsernameHashedPassword,
#: IProven, ICertified.
PASSWORD_MECHANISMS = frozenset({"PLAIN", "LOGIN"})
TOKEN_MECHANISMS = frozenset({"XOAUTH2", "OAUTHBEARER"})
CRAM_MD5 = "CRAM-MD5"
SCRAM_MECHANISMS = frozenset({"SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"})
EXTERNAL = "EXTERNAL"

#: What twisted.cred calls a user.
AvatarId = bytes | tuple[()]


class AuthUnavailable(Exception):  # noqa: N818  no error of the question
    """It cannot be found out now whether this is the user: the client gets 454 4.7.0 (RFC 4954 section 4).

    The text is the private cause, for the log. It holds no secret, and names no user.
    """


class IBearerToken(ICredentials):
    """A token that shows by itself who the client is (RFC 7628, XOAUTH2)."""

    username: bytes = Attribute("the name, in UTF-8, that the token must be for; empty where the token alone says it")
    token: str = Attribute("the token")
    host: str = Attribute('whom the client believes to talk to; "" where it did not say')
    port: int = Attribute("and at which port; 0 where it did not say")


class IProven(ICredentials):
    """A user whom the exchange of SCRAM has proved.

    The name is taken as the client gave it, unless a checker lists this interface: it then says how it is written, or
    that the user may log in no more.
    """

    username: bytes = Attribute("the name, in UTF-8")


class ICertified(ICredentials):
    """A client that its certificate has proved (EXTERNAL). No checker of a section is asked."""

    username: bytes = Attribute("the name, in UTF-8, that the certificate or the configuration gives it")


class IChecker(ICredentialsChecker):
    """Tells whether credentials are right. Called in the reactor's thread, which it never blocks.

    `credentialInterfaces` are of IUsernamePassword and IUsernameHashedPassword (twisted.cred's), IBearerToken, IProven.
    Names, passwords and avatar ids are octets, in UTF-8, as twisted.cred has them; a name is not empty and has no
    control characters. Credentials of ours (`mailgate.auth.credentials`) tell in `session` who asks; it is None where
    nobody is connected, and for credentials of others it is missing.

    The authenticator remembers passwords that were right, and asks once for those that come twice at a time. It does
    not remember tokens: only the checker can know when they end.
    """

    mechanisms: frozenset[str] = Attribute("the SASL mechanisms, in upper case, that it can serve now")
    version: object = Attribute("another object once what was right before may be wrong: all that is remembered ends")
    depends_on_client: bool = Attribute(
        "whether the client's address and the listener may decide: what is remembered then holds for the same ones only"
    )

    def requestAvatarId(credentials: Any) -> Deferred[AvatarId]:  # noqa: N802, N805 (Twisted's; an interface has no self)
        """The user's name as we are to know it, in octets; () would be nobody, which is refused.

        Fails with UnauthorizedLogin where the answer is no, with AuthUnavailable where there is none. It ends within
        a time of its own (the section's `timeout`) and is not cancelled: a client that goes away does not free the
        thread or the connection that its question has taken. No failure holds a secret.
        """

    def close() -> Deferred[None] | None:
        """End connections and threads. Called once, after the last answer."""


class IScramSecrets(Interface):
    """A checker that also knows secrets for SCRAM."""

    scram_iterations: int = Attribute("how many iterations its secrets have: an unknown user seems to have as many")

    def scram_secret(username: str) -> ScramSecret | Awaitable[ScramSecret | None] | None:  # noqa: N805
        """The user's secret; None for an unknown user, or one without. Fails with AuthUnavailable."""


class IAuthReactor(IBackendReactor):
    """What checkers need of the reactor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthTools:
    """What a checker is built with: `name` is the section's ("users" of [auth.users]), `secrets` verifies stored
    forms in threads that all checkers of the section share; the authenticator closes it."""

    name: str
    reactor: IAuthReactor
    secrets: SecretVerifier


def session_of(credentials: object) -> Session | None:
    """Who asks, where the credentials tell."""
    session = getattr(credentials, "session", None)
    return session if isinstance(session, Session) else None
