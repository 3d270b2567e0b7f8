"""A service of the site's own that is asked about one address over HTTP."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol
from urllib.parse import quote, urlsplit

from twisted.internet.defer import Deferred

from mailgate.backends.http import Fetched, Fetcher
from mailgate.backends.places import PLACES
from mailgate.backends.questions import BackendError, IBackendReactor, read_secret

__all__ = ["HttpService", "ServiceOptions"]

_PLACE = re.compile(rf"\{{({'|'.join(PLACES)})\}}")
#: Statuses that say that there is nothing.
_NOTHING = (404, 410)


class ServiceOptions(Protocol):
    """What sections that ask a service have in common; `timeout` in seconds."""

    @property
    def url(self) -> str: ...
    @property
    def method(self) -> str: ...
    @property
    def ca(self) -> Path | None: ...
    @property
    def token_file(self) -> Path | None: ...
    @property
    def timeout(self) -> float: ...


class HttpService:
    """Asks the service of `section`; ValueError where the section cannot work. `whom` names it for the log."""

    def __init__(self, section: ServiceOptions, reactor: IBackendReactor) -> None:
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
        self._url, self._method = section.url, section.method
        self._headers: dict[str, str] = {"Accept": "application/json"}
        if section.method == "POST":
            self._headers["Content-Type"] = "application/json"
        if section.token_file is not None:
            self._headers["Authorization"] = f"Bearer {read_secret(section.token_file)}"
        self._fetcher = Fetcher(reactor, connect_timeout=section.timeout, ca=section.ca)

    async def ask(self, values: Mapping[str, str]) -> Fetched | None:
        """The response of 200 or 204; None where the service says that there is nothing. BackendError otherwise."""
        url, body = self._url, None
        if self._method == "POST":
            body = json.dumps(values).encode()
        else:
            url = _PLACE.sub(lambda found: quote(values[found[1]], safe=""), url)
        answer = await self._fetcher.fetch(self._method, url, self._headers, body)
        if answer.status in (200, 204):
            return answer
        if answer.status in _NOTHING:
            return None
        raise BackendError(f"{self.whom} answers {answer.status}")

    def close(self) -> Deferred[None]:
        """Close the kept connections."""
        return self._fetcher.close()
