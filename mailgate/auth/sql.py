"""`[auth.NAME]` of kind sql: a query gives the stored secret, in a form of `mailgate.auth.secrets`."""

from __future__ import annotations

from typing import NamedTuple

from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from zope.interface import implementer

from mailgate.auth.checker import (
    PASSWORD_MECHANISMS,
    SCRAM_MECHANISMS,
    AuthTools,
    AvatarId,
    IAuthReactor,
    IChecker,
    IProven,
    IScramSecrets,
)
from mailgate.auth.remote import Questions, octets_of, text_of
from mailgate.auth.secrets import SecretVerifier, StoredSecret
from mailgate.backends.database import open_database
from mailgate.backends.queries import Queries
from mailgate.backends.questions import read_secret
from mailgate.config.auth import SqlAuth
from mailgate.wire.scram_secret import DEFAULT_ITERATIONS, ScramSecret

__all__ = ["SqlChecker", "build"]


class _User(NamedTuple):
    name: bytes
    secret: StoredSecret


def build(section: SqlAuth, tools: AuthTools) -> SqlChecker:
    """See `mailgate.auth.checker`."""
    return SqlChecker(section, tools.reactor, tools.secrets)


@implementer(IChecker, IScramSecrets)
class SqlChecker:
    """Asks the database of `section`; ValueError where the section cannot work."""

    credentialInterfaces = (IUsernamePassword, IProven)  # noqa: N815 (twisted.cred's)
    version: object = None
    depends_on_client = False

    def __init__(self, section: SqlAuth, reactor: IAuthReactor, verifier: SecretVerifier) -> None:
        password = read_secret(section.password_file) if section.password_file else None
        self.mechanisms = PASSWORD_MECHANISMS | (SCRAM_MECHANISMS if section.scram else set())
        self.scram_iterations = DEFAULT_ITERATIONS
        self._verifier = verifier
        # for an unknown user, the last secret that was seen is tried, so that the answer takes as long
        self._decoy: StoredSecret | None = None
        database = open_database(section.url, password, section.query, section.timeout)
        self._queries = Queries(database, reactor, connections=section.connections)
        self._questions = Questions(reactor, "the database", limit=section.connections, timeout=section.timeout)

    def requestAvatarId(self, credentials: IUsernamePassword | IProven) -> Deferred[AvatarId]:  # noqa: N802 (twisted.cred's)
        """The name in the second column, or else the one that the client gave."""
        return self._questions.ask(lambda: self._check(credentials))

    def scram_secret(self, username: str) -> Deferred[ScramSecret | None]:
        """As in IScramSecrets."""
        return self._questions.ask(lambda: self._scram_secret(username))

    def close(self) -> None:
        """End what is asked, the threads and the connections; it does not wait for a query that still runs."""
        self._questions.close()
        self._queries.close()

    async def _check(self, credentials: IUsernamePassword | IProven) -> AvatarId:
        user = await self._find(text_of(credentials.username))
        if IUsernamePassword.providedBy(credentials):
            is_right = await self._verifier.verify(user.secret if user else self._decoy, credentials.password)
        else:
            is_right = True
        if user is None or not is_right:
            raise UnauthorizedLogin("wrong password or unknown user")
        return user.name

    async def _scram_secret(self, username: str) -> ScramSecret | None:
        user = await self._find(username)
        if user is None or user.secret.scram is None:
            return None
        self.scram_iterations = user.secret.scram.iterations
        return user.secret.scram

    async def _find(self, username: str) -> _User | None:
        """The one user of this name, with a secret that we can read; None for all others."""
        rows = await self._queries.rows({"username": username})
        if len(rows) != 1:
            return None
        stored, *more = rows[0]
        if not isinstance(stored, str | bytes):
            return None
        try:
            # what is no secret ("!", "*") is how databases lock a user
            secret = StoredSecret.parse(stored.decode() if isinstance(stored, bytes) else stored)
        except ValueError:
            return None
        self._decoy = secret
        name = more[0] if more and more[0] is not None else username
        return _User(octets_of(name, "the database"), secret)
