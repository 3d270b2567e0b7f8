"""Users and their passwords in memory, for AUTH."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import cast

from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorFromThreads, IReactorTime
from zope.interface import implementer

from mailgate.auth.checker import PASSWORD_MECHANISMS, AvatarId, IChecker
from mailgate.auth.portal import Authenticator
from mailgate.auth.secrets import SecretVerifier

__all__ = ["memory_users"]


@implementer(IChecker)
class _Users:
    credentialInterfaces = (IUsernamePassword,)  # noqa: N815  twisted.cred's
    mechanisms = PASSWORD_MECHANISMS
    version: object = None
    depends_on_client = False

    def __init__(self, users: Mapping[str, str]) -> None:
        self._passwords = {name.encode(): password.encode() for name, password in users.items()}

    def requestAvatarId(self, credentials: IUsernamePassword) -> Deferred[AvatarId]:  # noqa: N802  twisted.cred's
        password = self._passwords.get(credentials.username)
        if password is None or not hmac.compare_digest(password, credentials.password):
            return fail(UnauthorizedLogin("the password is wrong, or there is no such user"))
        return succeed(credentials.username)

    def close(self) -> None:
        """Nothing is open."""


def memory_users(users: Mapping[str, str], clock: IReactorTime) -> Authenticator:
    """Knows these users by their passwords, at once and without a thread; nobody else."""
    no_threads = SecretVerifier(cast(IReactorFromThreads, clock))  # starts none before it is asked, which it is not
    return Authenticator(_Users(users), clock=clock, verifier=no_threads, cache=0, cache_size=0)
