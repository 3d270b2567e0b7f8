"""All that is served by HTTP of one gateway, and the digests that lead there: begun, changed on a reload, and ended."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IListeningPort, IReactorTime
from twisted.logger import Logger
from twisted.web.resource import Resource

from mailgate.awaiting import InThread, at_once
from mailgate.config.digest import excluded_filters
from mailgate.config.schema import Config
from mailgate.interfaces import ICounters, ISpool
from mailgate.observe.hub import EventHub
from mailgate.observe.metrics import Metrics
from mailgate.observe.questions import CountedResolver, IClosableResolver
from mailgate.quarantine.digest import Digests, Send, wanted_recipient
from mailgate.relay.security.own_policy import served_policies
from mailgate.stores.domains import DomainTable
from mailgate.tls.store import CertificateStore
from mailgate.web.digest_mail import DigestMail
from mailgate.web.front import Front
from mailgate.web.injection.office import InjectionOffice
from mailgate.web.links import Links
from mailgate.web.models import Status
from mailgate.web.numbers import Numbers
from mailgate.web.pages import ReleasePages
from mailgate.web.recipients import ForRecipients, IQuarantine
from mailgate.web.rendering import Templates
from mailgate.web.server import HttpServer
from mailgate.web.tokens import Tokens
from mailgate.web.unsubscribe import UnsubscribePages

__all__ = ["HttpDesk"]

_log = Logger()

R = TypeVar("R", bound=IClosableResolver)


class HttpDesk:
    """`listen` while ports may be bound; then `open`, once, and `use` for each configuration; `close` before the spool
    is closed. `status` is how the daemon is, and `ask_others` as in Numbers.

    Where the configuration has no endpoints for HTTP, nothing is counted and nothing is done. Of several workers the
    one that `leads` serves, and the others count.
    """

    def __init__(
        self,
        config: Config,
        reactor: IReactorTime,
        *,
        leads: bool,
        counters: ICounters,
        status: Callable[[], Status],
        ask_others: Callable[[str, str], Awaitable[tuple[str, str]]] | None = None,
    ) -> None:
        """`config` says where to listen."""
        self.metrics = Metrics(leads=leads) if config.http.endpoints else None
        self._reactor = reactor
        self._ask_others = ask_others
        self._numbers: Numbers | None = None
        self._front = Front(Tokens(counters, reactor.seconds), status, self._metrics_text)
        http = config.http
        has_tls = config.tls.certificate is not None if http.tls is None else http.tls
        self.server = HttpServer(http, self._front, reactor, has_tls=has_tls, wanted=self._front.wanted)
        self._is_on = leads and self.metrics is not None
        self._digests: Digests | None = None
        self._injection: InjectionOffice | None = None
        self._changes: Deferred[None] = succeed(None)

    def listen(self, reactor: object, ports: Sequence[IListeningPort] | None = None) -> None:
        """Bind the ports, or take those that there are; CannotListenError where that cannot be."""
        if self._is_on:
            self.server.listen(reactor, ports)

    def watch(self, events: EventHub) -> None:
        """Count from now on."""
        if self.metrics is not None:
            events.add(self.metrics)

    def counted(self, resolver: R) -> R | CountedResolver:
        """The same resolver, whose answers are counted where anybody can ask for that."""
        if self.metrics is None:
            return resolver
        return CountedResolver(resolver, self.metrics, self._reactor.seconds)

    def numbers(self) -> object:
        """What has been counted, as JSON can carry it to another worker; None where nothing is."""
        return self.metrics.dump() if self.metrics is not None else None

    def open(
        self,
        *,
        api: Resource,
        quarantine: IQuarantine,
        spool: ISpool,
        secret: bytes,
        send: Send,
        digests: Path,
        in_thread: InThread = at_once,
        injection: InjectionOffice | None = None,
        incoming: Path | None = None,
    ) -> None:
        """What there is to serve: `api` is the root of what the control socket serves, `digests` the file of who has
        been told, `in_thread` runs what waits for a disk. `injection` takes mail; what of it is large lies in
        `incoming` while it comes."""
        if not self._is_on or self.metrics is None:
            return
        self._api: Resource = api.children[b"v1"]
        self._quarantine = quarantine
        self._links = Links(secret)
        self._send = send
        self._path = digests
        self._in_thread = in_thread
        self._injection = injection
        if injection is not None and incoming is not None:
            self.server.keep_large(incoming)
        self._numbers = Numbers(self.metrics, spool, self._reactor.seconds, self._ask_others)

    def let_leave(self, pages: UnsubscribePages | None) -> None:
        """From now on recipients may unsubscribe by these pages."""
        self._front.leaving = pages

    def use(self, config: Config, certificates: CertificateStore | None) -> None:
        """From now on go by this."""
        if self.metrics is not None:
            self.metrics.forget_breakers()
        if not self._is_on:
            return
        digest = config.quarantine.digest
        templates = Templates(digest.templates)
        shown = ForRecipients(self._quarantine, excluded_filters(digest, config.filters), scan=digest.scan)
        pages = ReleasePages(
            self._links,
            shown,
            self._reactor.seconds,
            templates,
            organization=digest.name or config.gateway.hostname,
            contact=digest.contact,
        )
        self.server.use(certificates, config.http.forwarded_from)
        self._front.policies = served_policies(config)
        messages = self._injection.resource if self._injection is not None else None
        self._front.use(config.http, self._api, pages if digest.enabled else None, messages)
        made = None
        if digest.enabled and config.http.url is not None:
            mail = DigestMail(digest, self._links, templates, url=config.http.url, hostname=config.gateway.hostname)
            made = Digests(
                self._path,
                digest,
                shown=shown,
                compose=mail.compose,
                send=self._send,
                wanted=wanted_recipient(digest, DomainTable(config.domains).has),
                clock=self._reactor,
                in_thread=self._in_thread,
            )
        self._change(made)

    async def close(self) -> None:
        """End: what is being answered is answered, and a digest that is being sent gets there."""
        await self.server.close()
        if self._injection is not None:
            await self._injection.close()
        self._change(None)
        await self._changes

    def _change(self, digests: Digests | None) -> None:
        """One after another: two never work on the same file."""
        self._changes.addCallback(lambda _: Deferred.fromCoroutine(self._replace(digests)))
        self._changes.addErrback(lambda failure: _log.failure("digests cannot be begun", failure=failure))

    async def _replace(self, digests: Digests | None) -> None:
        before, self._digests = self._digests, digests
        if before is not None:
            await before.stop()
        if digests is not None:
            digests.start()

    async def _metrics_text(self) -> bytes:
        return b"" if self._numbers is None else await self._numbers.text()
