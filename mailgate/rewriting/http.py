"""`[aliases.NAME]` of kind http: a service of one's own is asked."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from twisted.internet.defer import Deferred

from mailgate.backends.http_service import HttpService
from mailgate.backends.questions import BackendError
from mailgate.config.aliases import HttpAliases
from mailgate.rewriting.asked import AskedAliases, bounded
from mailgate.rewriting.source import AliasTools

__all__ = ["build"]


def build(section: HttpAliases, name: str, tools: AliasTools) -> AskedAliases:
    """See `mailgate.rewriting.source`."""
    return AskedAliases(_Service(HttpService(section, tools.reactor)), section, name, tools)


class _Service:
    """Reads lists of addresses."""

    def __init__(self, service: HttpService) -> None:
        self.whom = service.whom
        self._service = service

    async def find(self, values: Mapping[str, str]) -> tuple[str, ...] | None:
        answer = await self._service.ask(values)
        if answer is None or answer.status == 204:
            return None
        try:
            return bounded(msgspec.json.decode(answer.body, type=list[str]))
        except msgspec.DecodeError:
            raise BackendError(f"{self.whom} answers what is no JSON list of addresses") from None

    def close(self) -> Deferred[None]:
        return self._service.close()
