"""Mail by HTTP, below /v1.

POST /v1/messages                       an Order as JSON, or a message as message/rfc822
GET  /v1/messages?idempotency_key=      what a call with this key was answered
GET  /v1/messages/ID                    where a message is
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from io import BytesIO
from typing import IO, Any, cast

from twisted.web.resource import Resource
from twisted.web.server import Request

from mailgate.envelope import Client
from mailgate.interfaces import SpoolError
from mailgate.web.answering import Reply, answer, problem
from mailgate.web.injection.calls import Calls, refused
from mailgate.web.injection.following import Following
from mailgate.web.injection.models import Followed
from mailgate.web.injection.problems import CallError, Fault
from mailgate.web.injection.reading import Asked
from mailgate.web.injection.taking import Caller

__all__ = ["Messages"]

_FIELDS = ("idempotency-key", "x-envelope-from", "x-envelope-to")
#: Octets of one field, and of a name in a path, that are looked at.
_LONGEST = 16 * 1024


class Messages(Resource):
    """For requests whose `actor` is the token that they have shown: "token NAME"; for no others."""

    isLeaf = True  # noqa: N815  Twisted's name

    def __init__(self, calls: Calls, following: Following, listener: Callable[[], str]) -> None:
        """`listener` is the name of this way in, now."""
        super().__init__()  # type: ignore[no-untyped-call]  # Twisted's
        self._calls = calls
        self._following = following
        self._listener = listener

    def render(self, request: Request) -> int:
        return answer(request, self._answer(request))

    async def _answer(self, request: Request) -> Reply:
        word, _, token = str(getattr(request, "actor", "")).partition(" ")
        if word != "token" or not token:
            return problem(HTTPStatus.FORBIDDEN, "mail is taken from tokens")
        segments: Sequence[bytes] = tuple(request.postpath or ())
        is_looking = request.method in (b"GET", b"HEAD")
        if not segments and request.method == b"POST":
            return await self._take(request, token)
        if not segments and is_looking:
            return await self._known(request, token)
        if len(segments) == 1 and is_looking:
            return await self._follow(segments[0].decode("ascii", "replace"), token)
        if len(segments) > 1:
            return problem(HTTPStatus.NOT_FOUND, "there is nothing here")
        allowed = "GET, HEAD" if segments else "GET, HEAD, POST"
        return problem(HTTPStatus.METHOD_NOT_ALLOWED, f"use {allowed}", allow=allowed)

    async def _take(self, request: Request, token: str) -> Reply:
        try:
            query, fields = _query(request), _fields(request)
            _check_encoding(request)
            kind = (request.getHeader(b"content-type") or b"").decode("ascii", "replace")
        except CallError as error:
            return refused(error)
        # From here on the octets are ours: with its connection a request loses them.
        file = cast("IO[bytes]", request.content)
        size = file.seek(0, 2)
        request.content = cast("Any", BytesIO())

        def read() -> Asked:
            file.seek(0)
            return Asked(file.read(), kind, query, fields)

        asker: Client = getattr(request, "asker", Client(None))
        try:
            return await self._calls.call(Caller(token, asker, bool(request.isSecure())), size, read)
        finally:
            file.close()

    async def _known(self, request: Request, token: str) -> Reply:
        try:
            keys = _query(request).get("idempotency_key", [])
        except CallError as error:
            return refused(error)
        if len(keys) != 1:
            return refused(CallError.bad("idempotency_key", "is needed: messages are asked for by their ids"))
        try:
            known = await self._calls.known(token, keys[0])
        except (SpoolError, sqlite3.Error):
            return problem(HTTPStatus.SERVICE_UNAVAILABLE, "that cannot be told now")
        return known or problem(HTTPStatus.NOT_FOUND, "no call with this key is known, or not any more")

    async def _follow(self, queue_id: str, token: str) -> Reply:
        if not (queue_id.isascii() and queue_id.isalnum() and len(queue_id) <= 32):
            return problem(HTTPStatus.NOT_FOUND, "that is no id of a message")
        try:
            found = await self._following.follow(queue_id, token, self._listener())
        except SpoolError as error:
            return problem(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
        sender = self._calls.lately(token, queue_id) if found is None else None
        if sender is not None:
            found = Followed(id=queue_id, sender=sender, recipients=())
        if found is None:
            return problem(HTTPStatus.NOT_FOUND, f"no message {queue_id} was handed in by this token, or not lately")
        return Reply(HTTPStatus.OK, "application/json", found.model_dump_json(ensure_ascii=True).encode() + b"\n")


def _query(request: Request) -> Mapping[str, Sequence[str]]:
    named = [(_text(name, ""), values) for name, values in (request.args or {}).items()]
    return {name[:100]: [_text(one, name) for one in values] for name, values in named}


def _check_encoding(request: Request) -> None:
    """What is packed is opened by nobody here: a little can become very much (RFC 9110 section 15.5.16)."""
    encoding = (request.getHeader(b"content-encoding") or b"identity").strip().lower()
    if encoding != b"identity":
        raise CallError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, (Fault("content-encoding", "is nothing that is read here"),))


def _fields(request: Request) -> Mapping[str, Sequence[str]]:
    found: dict[str, Sequence[str]] = {}
    for name in _FIELDS:
        values = request.requestHeaders.getRawHeaders(name.encode(), [])
        if values:
            found[name] = [_text(one, name) for one in values]
    return found


def _text(octets: bytes, path: str) -> str:
    try:
        return octets[:_LONGEST].decode()
    except UnicodeDecodeError:
        raise CallError.bad(path[:100], "is not UTF-8") from None
