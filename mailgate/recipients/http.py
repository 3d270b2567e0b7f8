"""`[recipients.NAME]` of kind http: a service of one's own is asked."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from mailgate.backends.http_service import HttpService
from mailgate.backends.places import values_of
from mailgate.config.recipients import HttpRecipients
from mailgate.interfaces import RecipientStatus
from mailgate.recipients.cached import Cached
from mailgate.recipients.source import SourceTools

__all__ = ["build"]


def build(section: HttpRecipients, name: str, tools: SourceTools) -> Cached:
    """See `mailgate.recipients.source`."""
    return Cached(_Service(HttpService(section, tools.reactor)), section, name, tools)


class _Service:
    """200 and 204 say that the address exists."""

    def __init__(self, service: HttpService) -> None:
        self.whom = service.whom
        self._service = service

    async def find(self, local_part: str, domain: str) -> RecipientStatus | None:
        answer = await self._service.ask(values_of(local_part, domain))
        return None if answer is None else RecipientStatus.KNOWN

    def close(self) -> Deferred[None]:
        return self._service.close()
