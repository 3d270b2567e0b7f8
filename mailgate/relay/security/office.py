"""What looks at the security of destinations, for one gateway: begun, changed on a reload, and ended with it."""

from __future__ import annotations

from pathlib import Path

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from mailgate.awaiting import surely
from mailgate.backends.questions import IBackendReactor
from mailgate.config.schema import Config
from mailgate.config.security import MtaStsSection
from mailgate.interfaces import IResolver
from mailgate.relay.client.terms import TermsError
from mailgate.relay.locate import Locator
from mailgate.relay.security.policies import TransportSecurity
from mailgate.relay.security.sts import MtaSts
from mailgate.relay.security.sts_fetch import PolicyFetcher
from mailgate.relay.security.sts_store import PolicyStore
from mailgate.tls.client import ClientContexts
from mailgate.tls.pem import TlsError

__all__ = ["SecurityOffice", "check_authorities"]

_log = Logger()


def check_authorities(section: MtaStsSection, clock: IReactorTime) -> None:
    """TermsError where the file of authorities for policy hosts does not serve. Reads it."""
    try:
        ClientContexts(clock).client_creator(hostname="", verify=True, ca=section.ca)
    except TlsError as error:
        raise TermsError([(("mta_sts", "ca"), str(error))]) from error


class SecurityOffice:
    """Tells `locator` what to look at. `path` is where MTA-STS policies lie, which one of several processes `leads` in
    keeping up to date; `port` is that of policy hosts.

    `security` is what holds now, by which `locator` goes; None where the configuration asks for nothing.
    """

    def __init__(
        self,
        path: Path,
        locator: Locator,
        *,
        reactor: IBackendReactor,
        resolver: IResolver,
        leads: bool = True,
        port: int = 443,
    ) -> None:
        self.security: TransportSecurity | None = None
        self._path = path
        self.locator = locator
        self._reactor = reactor
        self._resolver = resolver
        self._leads = leads
        self._port = port
        self._store: PolicyStore | None = None
        self._sts: MtaSts | None = None
        self._fetcher: PolicyFetcher | None = None
        self._asked: tuple[Path | None, float] | None = None

    def use(self, config: Config) -> None:
        """From now on go by this; a file of authorities that does not serve leaves those before in force."""
        wants = TransportSecurity.is_wanted(config)
        if wants and TransportSecurity.fetches(config):
            self._begin(config.mta_sts)
        self.security = TransportSecurity(config, self._resolver, self._sts) if wants else None
        self.locator.use(self.security)

    async def close(self) -> None:
        """End: nothing is fetched any more, and the file is closed."""
        if self._sts is not None:
            self._sts.stop()
        if self._fetcher is not None:
            await surely(self._fetcher.close())
        if self._store is not None:
            await self._store.close()

    def _begin(self, section: MtaStsSection) -> None:
        asked = (section.ca, section.timeout)
        if self._sts is not None and self._asked == asked:
            return
        try:
            fetcher = PolicyFetcher(
                self._reactor, self._resolver, timeout=section.timeout, ca=section.ca, port=self._port
            )
        except ValueError as error:
            _log.error("mta_sts.ca: {error}", error=str(error))
            return
        before, self._fetcher, self._asked = self._fetcher, fetcher, asked
        if self._sts is not None:
            self._sts.use(fetcher)  # the same goes on: mail may be waiting for what it fetches
            if before is not None:
                before.close()
            return
        self._store = PolicyStore(self._path, self._reactor)
        self._sts = MtaSts(self._resolver, fetcher, self._store, self._reactor)
        if self._leads:
            self._sts.start()
