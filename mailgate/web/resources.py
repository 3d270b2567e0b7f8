"""What the control socket serves, as resources that any HTTP server of ours can share.

    GET  /v1/status
    GET  /v1/queue              ?ids=&limit=&after=&CONDITIONS
    GET  /v1/queue/ID
    POST /v1/queue/ACTION       hold, release, retry, bounce, reroute or delete; a Change as JSON
    GET  /v1/summary            ?by=&limit=&CONDITIONS
    GET  /v1/sites              ?CONDITIONS
    GET  /v1/rates              ?by=&limit=&domain=&site=&route=&source=&stream=
    GET  /v1/suspensions
    POST /v1/suspensions/suspend, /resume       a Suspend, a Resume as JSON
    GET  /v1/quarantine         ?ids=&limit=&after=&CONDITIONS
    GET  /v1/quarantine/ID
    POST /v1/quarantine/release, /delete, /rescan       a ReleaseOrder, a DeleteOrder, a RescanOrder as JSON
    GET  /v1/suppressions       ?limit=&after=&address=&scope=&reason=
    POST /v1/suppressions/add, /remove          a SuppressionOrder, an Unsuppress as JSON
    GET  /v1/accounts
    POST /v1/accounts/release                   an AccountRelease as JSON

CONDITIONS are the fields of a Selection. Answers are the models of `mailgate.web.models`, `mailgate.web.rate_models`,
`mailgate.web.quarantine_models` and `mailgate.web.suppression_models`; whatever is not 200 is a Problem.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from functools import partial
from http import HTTPStatus
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, TypeAdapter, ValidationError
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import Request
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from mailgate.interfaces import Grouping, SpoolError
from mailgate.web.account_models import AccountRelease
from mailgate.web.accounts import AccountOperations
from mailgate.web.models import Problem, Status
from mailgate.web.operations import QueueOperations, parse_after
from mailgate.web.quarantine import QuarantineOperations
from mailgate.web.quarantine_models import DeleteOrder, ReleaseOrder, RescanOrder
from mailgate.web.rate_models import RateQuery
from mailgate.web.rates import AllRates
from mailgate.web.selection import Action, Change, Resume, Selection, Suspend
from mailgate.web.steering import Steering
from mailgate.web.suppression_models import SuppressionOrder, Unsuppress
from mailgate.web.suppressions import SuppressionOperations

__all__ = ["accounts", "rates", "resources", "suppressions"]

_log = Logger()

M = TypeVar("M", bound=BaseModel)

_MOST_BODY = 1024 * 1024
_MOST_ENTRIES = 10_000
_MOST_GROUPS = 10_000
#: Of these each message is read.
_MOST_KEPT = 1000

_GROUPING: TypeAdapter[Grouping] = TypeAdapter(Grouping)


class _RefusedError(Exception):
    """The request is answered with this status and text."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status


class _Json(Resource):
    """A resource that answers one method with a model, at once or later."""

    def __init__(self, method: bytes, answer: Callable[[Request], Awaitable[BaseModel]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Twisted's
        self.allowedMethods = (method,)
        self._answer = answer

    def getChild(self, path: bytes, request: Request) -> Resource:  # noqa: N802  Twisted's name
        return _Missing()

    def render(self, request: Request) -> int:
        gone: list[object] = []
        request.notifyFinish().addErrback(gone.append)

        def answered(result: BaseModel | Failure) -> None:
            if not gone:
                _write(request, *_told(result))

        Deferred.fromCoroutine(self._checked(request)).addBoth(answered)
        return NOT_DONE_YET

    async def _checked(self, request: Request) -> BaseModel:
        if request.method not in self.allowedMethods:
            request.setHeader(b"allow", b", ".join(self.allowedMethods))
            raise _RefusedError(HTTPStatus.METHOD_NOT_ALLOWED, f"use {self.allowedMethods[0].decode()}")
        return await self._answer(request)


class _Missing(_Json):
    def __init__(self) -> None:
        async def answer(request: Request) -> BaseModel:
            raise _RefusedError(HTTPStatus.NOT_FOUND, "there is nothing here")

        super().__init__(b"GET", answer)


class _Queue(_Json):
    """The queue; its children are the actions and the messages."""

    def __init__(self, operations: QueueOperations) -> None:
        super().__init__(b"GET", self._list)
        self._operations = operations
        for action in get_args(Action):
            self.putChild(action.encode(), _Json(b"POST", partial(self._change, action)))

    def getChild(self, path: bytes, request: Request) -> Resource:  # noqa: N802  Twisted's name
        return _Json(b"GET", partial(self._show, path.decode("ascii", "replace"))) if path else _Missing()

    async def _list(self, request: Request) -> BaseModel:
        given = _arguments(request)
        limit, after = _limit(given, _MOST_ENTRIES), _after(given)
        return await self._operations.list(_selection(given), limit, after)

    async def _show(self, queue_id: str, request: Request) -> BaseModel:
        shown = await self._operations.show(queue_id)
        if shown is None:
            raise _RefusedError(HTTPStatus.NOT_FOUND, f"no message {queue_id} is in the queue")
        return shown

    async def _change(self, action: Action, request: Request) -> BaseModel:
        return await _meant(self._operations.change(action, _order(request, Change)))


class _Suspensions(_Json):
    """The suspensions; its children begin and end one."""

    def __init__(self, steering: Steering) -> None:
        super().__init__(b"GET", self._list)
        self._steering = steering
        self.putChild(b"suspend", _Json(b"POST", self._suspend))
        self.putChild(b"resume", _Json(b"POST", self._resume))

    async def _list(self, request: Request) -> BaseModel:
        return await self._steering.suspensions()

    async def _suspend(self, request: Request) -> BaseModel:
        return await _meant(self._steering.suspend(_body(request, Suspend)))

    async def _resume(self, request: Request) -> BaseModel:
        return await self._steering.resume(_body(request, Resume))


class _Quarantine(_Json):
    """What is in quarantine; its children are what can be done with it, and its messages."""

    def __init__(self, operations: QuarantineOperations) -> None:
        super().__init__(b"GET", self._list)
        self._operations = operations
        for name, answer in (("release", self._release), ("delete", self._delete), ("rescan", self._rescan)):
            self.putChild(name.encode(), _Json(b"POST", answer))

    def getChild(self, path: bytes, request: Request) -> Resource:  # noqa: N802  Twisted's name
        return _Json(b"GET", partial(self._show, path.decode("ascii", "replace"))) if path else _Missing()

    async def _list(self, request: Request) -> BaseModel:
        given = _arguments(request)
        limit, after = _limit(given, _MOST_KEPT), _after(given)
        return await _meant(self._operations.list(_selection(given), limit, after))

    async def _show(self, queue_id: str, request: Request) -> BaseModel:
        shown = await self._operations.show(queue_id)
        if shown is None:
            raise _RefusedError(HTTPStatus.NOT_FOUND, f"no message {queue_id} is in quarantine")
        return shown

    async def _release(self, request: Request) -> BaseModel:
        return await _meant(self._operations.release(_order(request, ReleaseOrder)))

    async def _delete(self, request: Request) -> BaseModel:
        return await _meant(self._operations.delete(_order(request, DeleteOrder)))

    async def _rescan(self, request: Request) -> BaseModel:
        return await _meant(self._operations.rescan(_order(request, RescanOrder)))


def accounts(operations: AccountOperations) -> Resource:
    """Suspected accounts; its child ends a suspicion."""

    async def listed(request: Request) -> BaseModel:
        return await operations.list()

    async def released(request: Request) -> BaseModel:
        return await operations.release(_order(request, AccountRelease))

    resource = _Json(b"GET", listed)
    resource.putChild(b"release", _Json(b"POST", released))
    return resource


def suppressions(operations: SuppressionOperations) -> Resource:
    """The suppression list; its children are what can be done with it."""

    async def listed(request: Request) -> BaseModel:
        arguments = _arguments(request)
        limit = _limit(arguments, _MOST_ENTRIES)
        given = {name: values[-1] for name, values in arguments.items()}
        unknown = given.keys() - {"after", "address", "scope", "reason"}
        if unknown:
            raise _RefusedError(HTTPStatus.BAD_REQUEST, f"there is no {min(unknown)} to ask for")
        address, _, scope = given.get("after", "").partition("\t")
        wanted = {"address": given.get("address", ""), "reason": given.get("reason", "")}
        return await operations.list(limit, (address, scope), scope=given.get("scope"), **wanted)

    async def added(request: Request) -> BaseModel:
        return await operations.add(_body(request, SuppressionOrder), getattr(request, "actor", ""))

    async def removed(request: Request) -> BaseModel:
        return await operations.remove(_body(request, Unsuppress), getattr(request, "actor", ""))

    resource = _Json(b"GET", listed)
    resource.putChild(b"add", _Json(b"POST", added))
    resource.putChild(b"remove", _Json(b"POST", removed))
    return resource


def rates(counted: AllRates) -> Resource:
    """What became of mail in the last hour."""

    async def told(request: Request) -> BaseModel:
        given = {name: values[-1] for name, values in _arguments(request).items()}
        return await counted.told(RateQuery.model_validate(given))

    return _Json(b"GET", told)


def resources(
    operations: QueueOperations, steering: Steering, status: Callable[[], Status], quarantine: QuarantineOperations
) -> Resource:
    """The tree of what the socket serves."""

    async def told(request: Request) -> BaseModel:
        return status()

    async def summary(request: Request) -> BaseModel:
        given = _arguments(request)
        limit = _limit(given, _MOST_GROUPS)
        by = _GROUPING.validate_python(given.pop("by", ["domain"])[-1])
        return await _meant(operations.summary(by, limit, _selection(given)))

    async def sites(request: Request) -> BaseModel:
        return await _meant(steering.sites(_selection(_arguments(request))))

    root, version = _Missing(), _Missing()
    root.putChild(b"v1", version)
    version.putChild(b"status", _Json(b"GET", told))
    version.putChild(b"queue", _Queue(operations))
    version.putChild(b"summary", _Json(b"GET", summary))
    version.putChild(b"sites", _Json(b"GET", sites))
    version.putChild(b"suspensions", _Suspensions(steering))
    version.putChild(b"quarantine", _Quarantine(quarantine))
    return root


async def _meant(answer: Awaitable[M]) -> M:
    """The answer; a ValueError is the client's."""
    try:
        return await answer
    except ValidationError:
        raise
    except ValueError as error:
        raise _RefusedError(HTTPStatus.BAD_REQUEST, str(error)) from None


def _arguments(request: Request) -> dict[str, list[str]]:
    try:
        return {key.decode(): [value.decode() for value in values] for key, values in request.args.items()}
    except UnicodeDecodeError as error:
        raise _RefusedError(HTTPStatus.BAD_REQUEST, str(error)) from None


def _limit(given: dict[str, list[str]], most: int) -> int:
    """Taken out of the arguments."""
    try:
        limit = int(given.pop("limit", ["100"])[-1])
    except ValueError as error:
        raise _RefusedError(HTTPStatus.BAD_REQUEST, str(error)) from None
    if not 1 <= limit <= most:
        raise _RefusedError(HTTPStatus.BAD_REQUEST, f"limit is from 1 to {most}")
    return limit


def _after(given: dict[str, list[str]]) -> tuple[str, int] | None:
    """Taken out of the arguments."""
    try:
        return parse_after(given.pop("after", [""])[-1])
    except ValueError as error:
        raise _RefusedError(HTTPStatus.BAD_REQUEST, str(error)) from None


def _selection(given: dict[str, list[str]]) -> Selection:
    values: dict[str, Any] = {key: found if key == "ids" else found[-1] for key, found in given.items()}
    return Selection.model_validate(values)


def _body(request: Request, model: type[M]) -> M:
    body = request.content.read(_MOST_BODY + 1) if request.content is not None else b""
    if len(body) > _MOST_BODY:
        raise _RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"more than {_MOST_BODY} octets")
    return model.model_validate_json(body)


def _order(request: Request, model: type[M]) -> M:
    """An order; where the server knows who asks, the history is not told another name."""
    order = _body(request, model)
    actor: str = getattr(request, "actor", "")
    return order.model_copy(update={"by": actor}) if actor else order


def _told(result: BaseModel | Failure) -> tuple[HTTPStatus, BaseModel]:
    if not isinstance(result, Failure):
        return HTTPStatus.OK, result
    match result.value:
        case _RefusedError() as refused:
            return refused.status, Problem(error=str(refused))
        case ValidationError() as invalid:
            lines = (f"{'.'.join(map(str, one['loc'])) or 'request'}: {one['msg']}" for one in invalid.errors())
            return HTTPStatus.BAD_REQUEST, Problem(error="; ".join(lines))
        case SpoolError() | sqlite3.Error() | OSError() as error:  # the disk's, which may be well again later
            return HTTPStatus.SERVICE_UNAVAILABLE, Problem(error=str(error))
    _log.failure("a request on the control socket failed", failure=result)
    return HTTPStatus.INTERNAL_SERVER_ERROR, Problem(error="an error of ours, which the daemon's output shows")


def _write(request: Request, status: HTTPStatus, model: BaseModel) -> None:
    request.setResponseCode(status)
    request.setHeader(b"content-type", b"application/json")
    request.write(model.model_dump_json(ensure_ascii=True).encode() + b"\n")
    request.finish()
