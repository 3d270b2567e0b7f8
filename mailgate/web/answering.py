"""An answer to a request, at once or later, with the fields that every answer of ours has."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from http import HTTPStatus
from typing import NamedTuple

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.server import NOT_DONE_YET, Request

from mailgate.awaiting import as_deferred
from mailgate.web.models import Problem

__all__ = ["Reply", "answer", "problem", "secure"]

_log = Logger()


class Reply(NamedTuple):
    """What is answered; `fields` are those beside what all have."""

    status: HTTPStatus
    kind: str
    body: bytes
    fields: Mapping[str, str] = {}


def problem(status: HTTPStatus, text: str, **fields: str) -> Reply:
    """Why it is not done; `fields` with _ for -."""
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    return Reply(
        status, "application/json", Problem(error=text).model_dump_json(ensure_ascii=True).encode() + b"\n", named
    )


def answer(request: Request, work: Awaitable[Reply | None]) -> int:
    """Answer with what the work comes to; None where it has seen to the answer itself."""
    gone: list[object] = []
    request.notifyFinish().addErrback(gone.append)

    def done(result: Reply | Failure | None) -> None:
        if isinstance(result, Failure):
            _log.failure("a request by HTTP failed", failure=result)
            result = problem(HTTPStatus.INTERNAL_SERVER_ERROR, "an error of ours, which the daemon's output shows")
        if result is not None and not gone and not request.finished:
            _write(request, result)

    waiting: Deferred[Reply | None] = as_deferred(work)
    waiting.addBoth(done)
    return NOT_DONE_YET


def secure(request: Request) -> None:
    """What every answer says: nobody keeps it, guesses what it is, or learns which server this is."""
    request.responseHeaders.removeHeader(b"server")
    request.setHeader(b"cache-control", b"no-store")
    request.setHeader(b"x-content-type-options", b"nosniff")


def _write(request: Request, reply: Reply) -> None:
    request.setResponseCode(reply.status, reply.status.phrase.encode())
    request.setHeader(b"content-type", reply.kind.encode())
    for name, value in reply.fields.items():
        request.setHeader(name.encode(), value.encode())
    request.setHeader(b"content-length", b"%d" % len(reply.body))
    request.write(reply.body)
    request.finish()
