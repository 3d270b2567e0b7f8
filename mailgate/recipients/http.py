"""`[recipients.NAME]` of kind http: a service of one's own is asked."""

from __future__ import annotations

import json
import re
from urllib.parse import quote, urlsplit

from twisted.internet.defer import Deferred

from mailgate.backends.http import Fetcher
from mailgate.backends.questions import BackendError, read_secret
from mailgate.config.recipients import HttpRecipients
from mailgate.interfaces import RecipientStatus
from mailgate.recipients.cached import Cached, values_of
from mailgate.recipients.source import SourceTools

__all__ = ["build"]

_PLACE = re.compile(r"\{(address|local_part|domain)\}")
_KNOWN, _UNKNOWN = (200, 204), (404, 410)


def build(section: HttpRecipients, name: str, tools: SourceTools) -> Cached:
    """See `mailgate.recipients.source`."""
    return Cached(_Service(section, tools), section, name, tools)


class _Service:
    """Asks the service of `section`; ValueError where the section cannot work."""

    def __init__(self, section: HttpRecipients, tools: SourceTools) -> None:
        parts = urlsplit(section.url)
        places = {found[1] for found in _PLACE.finditer(section.url)}
        if section.method == "GET" and not places & {"address", "local_part"}:
            raise ValueError("url: {address} or {local_part} must stand in it")
        if section.method == "POST" and places:
            raise ValueError("url: with POST the address goes as JSON; it has no place in the URL")
        if _PLACE.search(parts.netloc):
            raise ValueError("url: the address has its place behind the host")
        # a path or a query may hold a secret
        self.whom = f"the service at {parts.hostname}"
        self._section = section
        self._headers: dict[str, str] = {"Accept": "application/json"}
        if section.method == "POST":
            self._headers["Content-Type"] = "application/json"
        if section.token_file is not None:
            self._headers["Authorization"] = f"Bearer {read_secret(section.token_file)}"
        self._fetcher = Fetcher(tools.reactor, connect_timeout=section.timeout, ca=section.ca)

    async def find(self, local_part: str, domain: str) -> RecipientStatus:
        values = values_of(local_part, domain)
        url, body = self._section.url, None
        if self._section.method == "POST":
            body = json.dumps(values).encode()
        else:
            url = _PLACE.sub(lambda found: quote(values[found[1]], safe=""), url)
        answer = await self._fetcher.fetch(self._section.method, url, self._headers, body)
        if answer.status in _KNOWN:
            return RecipientStatus.KNOWN
        if answer.status in _UNKNOWN:
            return RecipientStatus.UNKNOWN
        raise BackendError(f"{self.whom} answers {answer.status}")

    def close(self) -> Deferred[None]:
        return self._fetcher.close()
