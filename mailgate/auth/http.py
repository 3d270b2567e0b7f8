"""`[auth.NAME]` of kind http: a service of one's own decides.

It is sent a JSON object by POST: `username` and `password`, `client` (the address, null where there is none) and
`listener` (its name, null where nobody is connected). 200 says yes; its body is empty or a JSON object, which may name
the user as `username`. 401 and 403 say no. Everything else, redirects too, is no answer.
"""

from __future__ import annotations

import json
from urllib.parse import urlsplit

from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from zope.interface import implementer

from mailgate.auth.checker import (
    PASSWORD_MECHANISMS,
    AuthTools,
    AuthUnavailable,
    AvatarId,
    IAuthReactor,
    IChecker,
    session_of,
)
from mailgate.auth.remote import Questions, octets_of, text_of
from mailgate.backends.http import Fetched, Fetcher
from mailgate.backends.questions import read_secret
from mailgate.config.auth import HttpAuth

__all__ = ["HttpChecker", "build"]


def build(section: HttpAuth, tools: AuthTools) -> HttpChecker:
    """See `mailgate.auth.checker`."""
    return HttpChecker(section, tools.reactor)


@implementer(IChecker)
class HttpChecker:
    """Asks the service of `section`; ValueError where a file that it names is of no use."""

    credentialInterfaces = (IUsernamePassword,)  # noqa: N815 (twisted.cred's)
    mechanisms = PASSWORD_MECHANISMS
    version: object = None
    depends_on_client = True

    def __init__(self, section: HttpAuth, reactor: IAuthReactor) -> None:
        self._url = section.url
        # a path or a query may hold a secret
        self._whom = f"the service at {urlsplit(section.url).hostname}"
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if section.token_file is not None:
            self._headers["Authorization"] = f"Bearer {read_secret(section.token_file)}"
        self._fetcher = Fetcher(reactor, connect_timeout=section.timeout, ca=section.ca)
        self._questions = Questions(reactor, self._whom, limit=section.connections, timeout=section.timeout)

    def requestAvatarId(self, credentials: IUsernamePassword) -> Deferred[AvatarId]:  # noqa: N802 (twisted.cred's)
        """The name that the service gives, or else the one that the client gave."""
        return self._questions.ask(lambda: self._check(credentials))

    def close(self) -> Deferred[None]:
        """End what is asked, and the connections."""
        self._questions.close()
        return self._fetcher.close()

    async def _check(self, credentials: IUsernamePassword) -> AvatarId:
        session = session_of(credentials)
        address = session.client.address if session else None
        question = {
            "username": text_of(credentials.username),
            "password": text_of(credentials.password),
            "client": str(address) if address else None,
            "listener": session.listener if session else None,
        }
        answer = await self._fetcher.fetch("POST", self._url, self._headers, json.dumps(question).encode())
        if answer.status in (401, 403):
            raise UnauthorizedLogin(f"{self._whom} says no")
        if answer.status != 200:
            raise AuthUnavailable(f"{self._whom} answers {answer.status}")
        return self._name(answer) or credentials.username

    def _name(self, answer: Fetched) -> bytes | None:
        """The name in the body; AuthUnavailable where the body is not from the service that we mean to ask.

        A page of HTML with 200, as proxies have for a service that is away, must not let everybody in.
        """
        if not answer.body.strip():
            return None
        try:
            told = json.loads(answer.body)
        except (ValueError, RecursionError):
            told = None
        if not isinstance(told, dict):
            raise AuthUnavailable(f"{self._whom} says yes with a body that is no JSON object")
        name = told.get("username")
        return None if name is None else octets_of(name, self._whom)
