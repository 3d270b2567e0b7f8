"""Opens connections to the application of one route."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from urllib.parse import urlsplit

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IReactorTime
from zope.interface import implementer

from mailgate.config.routes import HttpRoute, Route
from mailgate.envelope import Envelope, EnvelopeRecipient, Origin
from mailgate.message import Content
from mailgate.relay.attempt import ConnectFailedError, IConnection, IConnector, Target
from mailgate.relay.client.connector import IClientReactor, OneConnection, bind_address
from mailgate.relay.client.seams import Work
from mailgate.relay.client.terms import TermsError
from mailgate.relay.sources import SYSTEM, Source
from mailgate.relay.web_post.login import Authorization, LoginError, login_of
from mailgate.relay.web_post.request import Request, compose
from mailgate.relay.web_post.session import WebSession
from mailgate.stores.domains import canonical
from mailgate.stores.lists import FileError
from mailgate.stores.secret_lines import SecretFile
from mailgate.tls.client import ClientContexts
from mailgate.tls.pem import TlsError
from mailgate.wire.signature import FIELD, sign

__all__ = ["NO_WEB", "WebConnector", "WebTerms", "read_web_terms", "web_terms_of"]


@dataclass(frozen=True, slots=True)
class WebTerms:
    """What is read for a route before it is used. `creator` is None in clear text."""

    secrets: SecretFile
    authorization: Authorization
    creator: IOpenSSLClientConnectionCreator | None


NO_WEB: Mapping[str, WebTerms] = MappingProxyType({})
"""There are no such routes."""


def read_web_terms(routes: Mapping[str, Route], clock: IReactorTime, contexts: ClientContexts) -> dict[str, WebTerms]:
    """The terms of the routes to applications, by name. TermsError, with everything that is wrong."""
    found: dict[str, WebTerms] = {}
    errors: list[tuple[tuple[str, ...], str]] = []
    for name, route in routes.items():
        if not isinstance(route, HttpRoute):
            continue
        try:
            found[name] = web_terms_of(route, clock, contexts)
        except TermsError as error:
            errors += [(("routes", name, *key), text) for key, text in error.errors]
    if errors:
        raise TermsError(errors)
    return found


def web_terms_of(route: HttpRoute, clock: IReactorTime, contexts: ClientContexts) -> WebTerms:
    """Those of one route; TermsError with keys within its section."""
    errors: list[tuple[tuple[str, ...], str]] = []
    creator = None
    if not route.is_clear:
        errors += _unusable(route, contexts)
        if not errors:
            host = canonical(urlsplit(route.url).hostname or "")
            creator = contexts.client_creator(hostname=host, verify=True, ca=route.ca, certificate=route.certificate)
    try:
        authorization = login_of(route, clock)
    except LoginError as error:
        errors += [((error.option,), text) for text in error.errors]
    try:
        secrets = SecretFile(route.secret_file, clock)
    except FileError as error:
        errors += [(("secret_file",), text) for text in error.errors]
    if errors:
        raise TermsError(errors)
    return WebTerms(secrets, authorization, creator)


def _unusable(route: HttpRoute, contexts: ClientContexts) -> list[tuple[tuple[str, ...], str]]:
    """What is wrong with files of TLS, each tried by itself so that the error has its key."""
    errors: list[tuple[tuple[str, ...], str]] = []
    for key, ca, certificate in (("ca", route.ca, None), ("certificate", None, route.certificate)):
        try:
            contexts.client_creator(hostname="", verify=True, ca=ca, certificate=certificate)
        except TlsError as error:
            errors.append(((key,), str(error)))
    return errors


@implementer(IConnector)
class WebConnector:
    """Connections for the route of this name. `work` makes requests in other threads."""

    def __init__(self, reactor: IClientReactor, name: str, route: HttpRoute, terms: WebTerms, work: Work) -> None:
        parts = urlsplit(route.url)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        # An answer that is compressed is one that we do not read (RFC 9110 section 12.5.3).
        fields = f"Host: {parts.netloc}\r\nUser-Agent: mailgate\r\nAccept-Encoding: identity\r\n"
        self._rest = f" {path} HTTP/1.1\r\n{fields}"
        self._reactor = reactor
        self._name = name
        self._route = route
        self._terms = terms
        self._work = work

    def connect(
        self, target: Target, origin: Origin | None = None, *, try_tls: bool = False, source: Source = SYSTEM
    ) -> Deferred[IConnection]:
        """As in IConnector; TLS is as the URL says, whatever is tried. Cancelling gives the connection up."""

        def cancelled(_ready: Deferred[IConnection]) -> None:
            session.forget()
            connecting.disconnect()

        try:
            ours = None if source is SYSTEM else bind_address(source, target)
        except ConnectFailedError as error:
            return fail(error)
        ready: Deferred[IConnection] = Deferred(cancelled)
        session = WebSession(
            target,
            ready,
            head=self._head,
            creator=self._terms.creator,
            compose=self._compose,
            work=self._work,
            clock=self._reactor,
            timeout=self._route.timeout,
        )
        factory = OneConnection(session, target, session.connect_failed)
        connecting = self._reactor.connectTCP(target.address, target.port, factory, self._route.connect_timeout, ours)
        return ready

    def question(self) -> Request:
        """A request without a body, signed as all are, for WebSession.ask."""
        signature = sign(self._terms.secrets(), int(self._reactor.seconds()), b"")
        return Request((("Mailgate-Route", self._name), (FIELD, signature)), 0, lambda: iter(()))

    def _head(self, method: str) -> str:
        """How a request begins. Nothing goes to another host than the URL's: no redirect is followed."""
        authorization = self._terms.authorization()
        return f"{method}{self._rest}" + (f"Authorization: {authorization}\r\n" if authorization else "")

    def _compose(
        self, envelope: Envelope, recipients: Sequence[EnvelopeRecipient], content: Content
    ) -> Callable[[], Request]:
        return partial(
            compose,
            self._route.format,
            self._name,
            envelope,
            recipients,
            content,
            secrets=self._terms.secrets(),
            moment=int(self._reactor.seconds()),
        )
