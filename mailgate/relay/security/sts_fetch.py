"""Fetches MTA-STS policies over HTTPS (RFC 8461 section 3.3): from the one host, with a certificate for it, and no
further."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

from twisted.internet.defer import Deferred

from mailgate.backends.http import Fetcher, NoTlsError
from mailgate.backends.named import NamedEndpoints
from mailgate.backends.questions import BackendError, IBackendReactor
from mailgate.interfaces import IResolver
from mailgate.relay.security.sts_policy import StsPolicy, parse_policy
from mailgate.tls.failures import TlsFailure

__all__ = ["PolicyFetcher", "StsFetchError"]


class StsFetchError(Exception):
    """No policy came, or none that can be used; `failure` as in TLS reports."""

    def __init__(self, reason: str, failure: TlsFailure = "sts-policy-fetch-error") -> None:
        super().__init__(reason)
        self.failure: TlsFailure = failure


class PolicyFetcher:
    """`timeout` is for all of one policy, in seconds. Addresses come from our resolver; redirects are not followed, and
    answers over 64 KiB not read."""

    def __init__(
        self,
        reactor: IBackendReactor,
        resolver: IResolver,
        *,
        timeout: float,
        ca: Path | None = None,
        port: int = 443,
    ) -> None:
        """`ca` is a file of authorities in PEM, in the place of the system's: ValueError where it has none."""
        self._reactor = reactor
        self._timeout = timeout
        self._port = port
        self._fetcher = Fetcher(
            reactor,
            connect_timeout=timeout,
            ca=ca,
            endpoints=lambda creators: NamedEndpoints(reactor, resolver, creators, timeout),
        )

    async def fetch(self, domain: str) -> StsPolicy:
        """The policy that the domain has now; StsFetchError."""
        host = f"mta-sts.{domain}"
        netloc = host if self._port == 443 else f"{host}:{self._port}"
        url = f"https://{netloc}/.well-known/mta-sts.txt"
        fields = {"User-Agent": "mailgate", "Accept": "text/plain"}
        asked = Deferred.fromCoroutine(self._fetcher.fetch("GET", url, fields))
        asked.addTimeout(self._timeout, self._reactor, onTimeoutCancel=_late)
        try:
            response = await asked
        except NoTlsError as error:
            raise StsFetchError(f"{url}: {error}", "sts-webpki-invalid") from None
        except (BackendError, ValueError) as error:
            raise StsFetchError(f"{url}: {error}") from None
        if response.status != 200:
            raise StsFetchError(f"{url}: status {response.status}, where 200 is expected")
        kind = response.content_type.partition(";")[0].strip().lower()
        if kind != "text/plain":
            raise StsFetchError(f"{url}: its type is {kind[:40]!a}, not text/plain", "sts-policy-invalid")
        try:
            return parse_policy(response.body)
        except ValueError as error:
            raise StsFetchError(f"{url}: {error}", "sts-policy-invalid") from None

    def close(self) -> Deferred[None]:
        """Close what is kept open."""
        return self._fetcher.close()


def _late(_outcome: object, seconds: float) -> NoReturn:
    raise BackendError(f"no answer within {seconds:g} s")
