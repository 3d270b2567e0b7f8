"""What is served by HTTP to others than the `mailgate` command, and to whom.

    GET  /healthz           that the process answers
    GET  /readyz            that it accepts and delivers; 503 otherwise
    GET  /metrics           for Prometheus; the scope metrics, or a client of metrics_from
    GET  /v1/openapi.json   what is below /v1, for programs
    ...  /v1/messages...    mail that is handed in (`mailgate.web.injection`)
    ...  /v1/...            what the control socket serves (`mailgate.web.resources`), each part under its scopes
    ...  /release/TOKEN     pages by which recipients release their mail (`mailgate.web.pages`)
    ...  /unsubscribe/TOKEN pages by which they end it (`mailgate.web.unsubscribe`)
    GET  /.well-known/mta-sts.txt   for mta-sts.DOMAIN: our policy of MTA-STS (RFC 8461 section 3.3)

There is nothing else: a path that is written in any other way than these leads nowhere.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from ipaddress import IPv4Address, ip_address
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from twisted.logger import Logger
from twisted.web.resource import Resource, getChildForRequest
from twisted.web.server import Request

from mailgate.config.http import HttpSection, Scope
from mailgate.envelope import Client
from mailgate.smtp.peer import is_in
from mailgate.web.answering import Reply, answer, problem, secure
from mailgate.web.models import Status
from mailgate.web.openapi import openapi
from mailgate.web.pages import ReleasePages
from mailgate.web.tokens import RefusedTokenError, Tokens
from mailgate.web.unsubscribe import UnsubscribePages

__all__ = ["Front"]

_log = Logger()

#: The scopes of what is below /v1: for looking (GET, HEAD), and for everything else.
_SCOPES: Mapping[bytes, tuple[Scope, Scope]] = {
    b"status": ("status", "status"),
    b"queue": ("queue:read", "queue:write"),
    b"summary": ("queue:read", "queue:write"),
    b"sites": ("queue:read", "queue:write"),
    b"rates": ("queue:read", "queue:write"),
    b"suspensions": ("queue:read", "queue:write"),
    b"quarantine": ("quarantine:read", "quarantine:write"),
    b"messages": ("send", "send"),
    b"suppressions": ("suppressions:read", "suppressions:write"),
}
_LOOKING = (b"GET", b"HEAD")
#: What parts of a path are made of.
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~:")
#: Octets of a form: none has more than a field or two.
_MOST_FORM = 16 * 1024
#: Addresses in X-Forwarded-For that are looked at, the last ones.
_MOST_HOPS = 10


class Front(Resource):
    """The root of the site. Before `use` nothing is there but /healthz, and what asks for the rest waits (503)."""

    isLeaf = True  # noqa: N815  Twisted's name

    def __init__(
        self,
        tokens: Tokens,
        status: Callable[[], Status],
        metrics: Callable[[], Awaitable[bytes]],
    ) -> None:
        """`metrics` is the text for Prometheus."""
        super().__init__()  # type: ignore[no-untyped-call]  # Twisted's
        self._tokens = tokens
        self._status = status
        self._metrics = metrics
        self._section = HttpSection()
        self._api: Resource | None = None
        self._pages: ReleasePages | None = None
        self._messages: Resource | None = None
        #: The pages behind links to unsubscribe; None where there are no such links.
        self.leaving: UnsubscribePages | None = None
        #: Our policies of MTA-STS, by the host that they are asked of (A-labels, lower case).
        self.policies: Mapping[str, bytes] = {}
        self._described = b""

    def use(
        self, section: HttpSection, api: Resource, pages: ReleasePages | None, messages: Resource | None = None
    ) -> None:
        """From now on serve this. `api` has what is below /v1, but for `messages`, which takes mail."""
        self._messages = messages
        self._section = section
        self._tokens.use(section.tokens, section.max_wrong_tokens)
        self._api = api
        self._pages = pages

    def wanted(self, method: bytes, target: bytes, request: Request) -> int | None:
        """Octets that may come behind a header: for the API from those who show a token with the scope, more where it
        is mail, and forms from everybody. None for what nobody will look at."""
        segments = target.partition(b"?")[0].removeprefix(b"/").split(b"/")
        if segments[0] in (b"release", b"unsubscribe"):
            return min(self._section.max_body, _MOST_FORM)
        if segments[0] != b"v1" or not self._tokens.shows(_authorization(request), _scope(method, segments[1:])):
            return None
        injection = self._section.injection
        takes_mail = injection is not None and method == b"POST" and segments[1:] == [b"messages"]
        return max(self._section.max_body, injection.max_call if injection is not None and takes_mail else 0)

    def render(self, request: Request) -> int:
        secure(request)
        return answer(request, self._answer(request))

    async def _answer(self, request: Request) -> Reply | None:
        segments: Sequence[bytes] = tuple(request.postpath or ())
        if not all(map(_is_plain, segments)) or b"%" in request.path:
            return _nothing()
        match segments:
            case (b"healthz",):
                return _looked(request) or _text("ok")
            case (b"readyz",):
                return _looked(request) or self._ready()
            case (b"metrics",):
                return _looked(request) or await self._told(request)
            case (b"v1", b"openapi.json"):
                return _looked(request) or self._description()
            case (b"v1", *_):
                return await self._resource(request, segments[1:])
            case (b".well-known", b"mta-sts.txt"):
                return _looked(request) or self._policy(request)
            case (b"release" | b"unsubscribe" as what, token):
                pages = self._pages if what == b"release" else self.leaving
                if pages is None:
                    return _nothing()
                content = request.content.read() if request.content is not None else b""
                return await pages.answer(request.method, token.decode("ascii", "replace"), content)
        return _nothing()

    def _policy(self, request: Request) -> Reply:
        host = (request.getHeader(b"host") or b"").partition(b":")[0].decode("ascii", "replace")
        policy = self.policies.get(host.lower().removesuffix("."))
        return _nothing() if policy is None else Reply(HTTPStatus.OK, "text/plain", policy)

    def _ready(self) -> Reply:
        status = self._status()
        if self._api is None or status.started is None:
            return problem(HTTPStatus.SERVICE_UNAVAILABLE, "starting")
        if status.stopping:
            return problem(HTTPStatus.SERVICE_UNAVAILABLE, "stopping")
        if status.spool != "ok":
            return problem(HTTPStatus.SERVICE_UNAVAILABLE, "the spool cannot write")
        return _text("ready")

    async def _told(self, request: Request) -> Reply:
        if not is_in(self._client(request), self._section.metrics_from):
            shown = await self._shown(request, "metrics")
            if isinstance(shown, Reply):
                return shown
        return Reply(HTTPStatus.OK, CONTENT_TYPE_LATEST, await self._metrics())

    async def _resource(self, request: Request, segments: Sequence[bytes]) -> Reply | None:
        shown = await self._shown(request, _scope(request.method, segments))
        if isinstance(shown, Reply):
            return shown
        if request.method not in _LOOKING and segments[:1] != (b"messages",):  # mail has events of its own
            _log.info("HTTP: {actor} at {client}: {path}", actor=shown, client=self._client(request), path=request.path)
        if self._api is None:
            return problem(HTTPStatus.SERVICE_UNAVAILABLE, "starting")
        if not segments or segments[0] not in _SCOPES:
            return _nothing()
        takes_mail = segments[0] == b"messages"
        served = self._messages if takes_mail else self._api
        if served is None:
            return _nothing()
        if request._disconnected:
            return None
        acting: Any = request  # of the class that the server makes
        acting.actor = shown
        acting.asker = self._client(request)
        if takes_mail:
            request.prepath, request.postpath = [b"v1", b"messages"], list(segments[1:])
            request.render(served)
        else:
            request.prepath, request.postpath = [b"v1"], list(segments)
            request.render(getChildForRequest(served, request))
        return None

    async def _shown(self, request: Request, scope: Scope) -> str | Reply:
        """Which token the request has shown that may do this, or why it may not."""
        client = self._client(request)
        try:
            return f"token {await self._tokens.check(_authorization(request), client, scope)}"
        except RefusedTokenError as refused:
            _log.info("HTTP: {client}: {reason}", client=client, reason=refused)
            if refused.status is HTTPStatus.UNAUTHORIZED:
                return problem(refused.status, str(refused), www_authenticate='Bearer realm="mailgate"')
            if refused.retry_after:
                return problem(refused.status, str(refused), retry_after=str(refused.retry_after))
            return problem(refused.status, str(refused))

    def _description(self) -> Reply:
        """The same until the next start."""
        self._described = self._described or json.dumps(openapi()).encode() + b"\n"
        return Reply(HTTPStatus.OK, "application/json", self._described)

    def _client(self, request: Request) -> Client:
        """Who asks: behind a proxy that we believe, whom that names."""
        channel: Any = request.channel
        client: Client = channel.client
        fields = request.requestHeaders.getRawHeaders(b"x-forwarded-for", [])
        hops = b",".join(fields).rsplit(b",", _MOST_HOPS)[-_MOST_HOPS:] if fields else []
        while hops and (client.address is None or is_in(client, self._section.forwarded_from)):
            try:
                address = ip_address(hops.pop().strip().decode("ascii", "replace"))
                client = Client(address if isinstance(address, IPv4Address) else address.ipv4_mapped or address)
            except ValueError:
                return Client(None)  # somebody else than the proxy, of whom nothing is known
        return client


def _authorization(request: Request) -> bytes | None:
    """None where there are several: which of them counts others may see otherwise."""
    shown = request.requestHeaders.getRawHeaders(b"authorization", [])
    return shown[0] if len(shown) == 1 else None


def _scope(method: bytes, segments: Sequence[bytes]) -> Scope:
    """What a token needs for this method on what is below /v1."""
    looking, changing = _SCOPES.get(segments[0] if segments else b"", ("status", "status"))
    return looking if method in _LOOKING else changing


def _is_plain(segment: bytes) -> bool:
    """Whether a part of a path is written as ours are: letters, digits and a few signs, and not . or .."""
    return segment.strip(b".") != b"" and all(one in _PLAIN for one in segment)


def _looked(request: Request) -> Reply | None:
    """Why not, where the method is none for looking."""
    if request.method in _LOOKING:
        return None
    return problem(HTTPStatus.METHOD_NOT_ALLOWED, "use GET", allow="GET, HEAD")


def _nothing() -> Reply:
    return problem(HTTPStatus.NOT_FOUND, "there is nothing here")


def _text(text: str) -> Reply:
    return Reply(HTTPStatus.OK, "text/plain; charset=utf-8", f"{text}\n".encode())
