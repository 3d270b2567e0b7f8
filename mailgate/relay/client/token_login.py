"""Opens sessions with next hops where we log in with a token that has to be got first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from twisted.internet.defer import Deferred
from zope.interface import implementer

from mailgate.awaiting import answered
from mailgate.backends.questions import BackendError
from mailgate.envelope import Origin
from mailgate.relay.attempt import ConnectFailedError, IConnection, IConnector, Target
from mailgate.relay.client.terms import Terms
from mailgate.relay.client.tokens import TokenSource
from mailgate.relay.sources import SYSTEM, Source
from mailgate.reply import Reply

__all__ = ["TokenConnector"]


@implementer(IConnector)
class TokenConnector:
    """`on_terms` makes what connects with a token in its terms. A token that the host refuses is given up, and the host
    asked once more with a new one."""

    def __init__(self, on_terms: Callable[[Terms], IConnector], terms: Terms, tokens: TokenSource) -> None:
        self._on_terms = on_terms
        self._terms = terms
        self._tokens = tokens

    def connect(
        self, target: Target, origin: Origin | None = None, *, try_tls: bool = False, source: Source = SYSTEM
    ) -> Deferred[IConnection]:
        """As in IConnector. Cancelling gives the connection up."""
        return Deferred.fromCoroutine(self._connect(target, origin, try_tls, source))

    async def _connect(self, target: Target, origin: Origin | None, try_tls: bool, source: Source) -> IConnection:
        for is_last in (False, True):
            token = await self._token(target)
            login = self._terms.login
            terms = self._terms if login is None else replace(self._terms, login=replace(login, secret=token))
            try:
                return await self._on_terms(terms).connect(target, origin, try_tls=try_tls, source=source)
            except ConnectFailedError as error:
                if error.stage != "auth" or error.is_ours or not error.reply.is_permanent:
                    raise
                self._tokens.refused(token)
                if is_last:
                    raise
        raise AssertionError("the second attempt has an end")

    async def _token(self, target: Target) -> str:
        try:
            return await answered(self._tokens.token())
        except BackendError as error:
            reason = f"no login at {target}: {error}"
            reply = Reply.of(451, "4.7.0", reason)
            raise ConnectFailedError(target, reply, reason, stage="auth", is_ours=True) from None
