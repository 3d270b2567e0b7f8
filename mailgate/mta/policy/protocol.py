"""A connection of Postfix's to our policy service."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from twisted.logger import Logger

from mailgate.mta.door import Door
from mailgate.mta.interview import Interview
from mailgate.mta.policy.deciding import LATER
from mailgate.mta.policy.desk import Cases, Desk
from mailgate.mta.policy.services import PolicyServices
from mailgate.mta.policy.told import told_by
from mailgate.smtp.peer import client_of
from mailgate.wire.policy import RequestError, RequestReader, encode_action

__all__ = ["PolicyServer"]

_log = Logger()


class PolicyServer(Interview[Mapping[str, str]]):
    """Of one door; `current` gives what new requests go by."""

    def __init__(self, door: Door, cases: Cases, current: Callable[[], PolicyServices]) -> None:
        services = current()
        super().__init__(door, RequestReader(), services.clock, services.section)
        self._current = current
        self._cases = cases
        self._desk: Desk | None = None

    async def answer(self, question: Mapping[str, str]) -> bytes:
        """The action for one request; what is no request about mail is answered as well, and told in the log."""
        services = self._current()
        if self._desk is None:
            self._desk = Desk(self._cases, str(client_of(self.transport.getPeer()).address))
        try:
            told = told_by(question, services.hostname)
        except RequestError as error:
            _log.warn("{name}: {error}", name=services.name, error=str(error))
            return self.no_answer()
        return encode_action(await self._desk.take(services, told))

    def no_answer(self) -> bytes:
        """Nobody knows: it comes again."""
        return encode_action(LATER)
