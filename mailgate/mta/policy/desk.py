"""The messages about which a policy service is being asked, by all connections."""

from __future__ import annotations

from cachetools import TTLCache
from twisted.internet.interfaces import IReactorTime

from mailgate.mta.policy.case import Case
from mailgate.mta.policy.services import PolicyServices
from mailgate.mta.policy.told import Told
from mailgate.mta.policy.visit import Visit

__all__ = ["Cases", "Desk"]

#: What is remembered at one time, in recipients, and for how many seconds from its last request on. A client that is
#: slow gets five minutes for each command.
_MOST, _KEPT_FOR = 50_000, 1200.0


class Cases:
    """Of one service, by their instances. What is not remembered any more begins anew: every request tells all of the
    client and the sender."""

    def __init__(self, clock: IReactorTime) -> None:
        self._cases: TTLCache[tuple[str, str], Case] = TTLCache(
            _MOST, _KEPT_FOR, clock.seconds, getsizeof=lambda case: case.weight
        )

    def __len__(self) -> int:
        return len(self._cases)

    def find(self, server: str, told: Told) -> Case | None:
        """The message that a mail server asks about. None as well where another request about it is at work: then it is
        no Postfix, which asks one thing after another."""
        case = self._cases.get((server, told.instance))
        return case if case is not None and case.is_of(told) and not case.is_busy else None

    def keep(self, server: str, told: Told, case: Case) -> None:
        """Remember it; also when it has grown."""
        if told.instance:
            self._cases[server, told.instance] = case


class Desk:
    """Of one connection. The process at its other end has one client after another, each with one message after
    another; before the first recipient its messages have no instances."""

    def __init__(self, cases: Cases, server: str) -> None:
        self._cases = cases
        self._server = server
        self._visit: Visit | None = None
        self._begun: Case | None = None  # of which a recipient has not been told yet

    async def take(self, services: PolicyServices, told: Told) -> str:
        """The action for a request."""
        case = self._find(services, told)
        self._visit = case.visit
        self._begun = None if told.instance else case
        self._cases.keep(self._server, told, case)
        try:
            return await case.take(told)
        finally:
            self._cases.keep(self._server, told, case)

    def _find(self, services: PolicyServices, told: Told) -> Case:
        case, begun = self._cases.find(self._server, told), self._begun
        if case is not None:
            return case
        if begun is not None and begun.is_of(told) and told.instance and told.client.port:
            return begun
        visit = self._visit
        is_same = visit is not None and visit.is_of(told) and visit.services is services
        if visit is None or not is_same or not told.client.port or told.state == "CONNECT":
            visit = Visit(services, told)
        return Case(visit, told)
