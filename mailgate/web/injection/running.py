"""One call on its way: its messages are taken some at a time, and what became of them is the answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from http import HTTPStatus
from types import MappingProxyType
from typing import TypeVar

from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailgate.awaiting import InThread, as_deferred
from mailgate.envelope import Session
from mailgate.reply import Reply as SmtpReply
from mailgate.web.answering import Reply
from mailgate.web.injection.composing import Draft
from mailgate.web.injection.models import Accepted, FieldFault, Refusal, RefusedOne
from mailgate.web.injection.problems import SOON, CallError, Fault
from mailgate.web.injection.reading import Call
from mailgate.web.injection.taking import Caller, Objection, Taker

__all__ = ["JSON", "Run", "aside", "model", "refused"]

_log = Logger()

T = TypeVar("T")

JSON = "application/json"
#: Messages of one call that are under way together, and octets that they may have.
_PORTION, _PORTION_OCTETS = 32, 4 * 1024**2
#: Refused recipients of one call that its answer tells of.
_MOST_REFUSED = 1000
#: What is objected to about the sender is objected to in every message of a call.
_OF_ALL = "from"
#: Of more messages, what is done with each takes so long that a thread does it.
_MANY = 1000


async def aside(in_thread: InThread, count: int, call: Callable[[], T]) -> T:
    """What a call comes to that goes through so many messages."""
    return await in_thread(call) if count > _MANY else call()


class Run:
    """`mark` begins the marks of its messages, "" for none; `before` are those that were taken, by their numbers.
    Nothing more is begun while `is_closing`."""

    def __init__(
        self,
        taker: Taker,
        caller: Caller,
        call: Call,
        *,
        call_id: str,
        mark: str,
        before: Mapping[int, str],
        is_closing: Callable[[], bool],
        taken: Callable[[Draft], None],
        in_thread: InThread,
    ) -> None:
        """`taken` is told of each message that is durable."""
        self._taken = taken
        self._is_closing = is_closing
        self._in_thread = in_thread
        self._taker = taker
        self._caller = caller
        self._call = call
        self._id = call_id
        self._mark = mark
        self._ids: list[str | None] = [None] * call.count
        for number, queue_id in before.items():
            if number < call.count:
                self._ids[number] = queue_id
        self._refused: list[RefusedOne] = []
        self._stops: list[Objection] = []

    @property
    def has_refused(self) -> bool:
        """Whether somebody gets nothing: what was noted of the others does not tell why."""
        return bool(self._refused)

    async def marks(self) -> Iterable[str]:
        """Those of all messages that were taken."""

        def made() -> Iterable[str]:
            return [f"{self._mark}{number}/{one}" for number, one in enumerate(self._ids) if one is not None]

        return await aside(self._in_thread, len(self._ids), made)

    async def all(self) -> tuple[Reply, bool]:
        """The answer, and whether nothing is left to do."""
        session = await self._taker.begin(self._caller)
        if isinstance(session, Objection):
            return self._not_all([session]), False
        at, size = 0, 1
        while not self._stops and (at := self._left(at)) < self._call.count:
            if self._is_closing():
                self._stops.append(Objection("", SmtpReply.of(421, "4.3.2", "The gateway stops")))
                break
            size, at = await self._portion(session, at, size), at + size
        taken = sum(one is not None for one in self._ids)
        if self._stops:
            return self._not_all(self._stops), False
        if not taken:
            return self._not_all([]), False

        def told() -> Reply:
            accepted = Accepted(id=self._id, taken=taken, ids=tuple(self._ids), refused=tuple(self._refused))
            return model(HTTPStatus.ACCEPTED, accepted)

        return await aside(self._in_thread, len(self._ids), told), True

    def _left(self, at: int) -> int:
        """The first message from there on that was not taken."""
        try:
            return self._ids.index(None, at)
        except ValueError:
            return len(self._ids)

    async def _portion(self, session: Session, at: int, size: int) -> int:
        """Take some messages together; how many may come next."""
        end = min(at + size, self._call.count)
        drafts = self._call.first
        if at:
            try:
                drafts = await self._in_thread(lambda: self._call.messages.drafts(at, end))
            except CallError as error:  # who has them is gone: what was taken stays so, and is told
                self._stops.append(Objection("", _of_error(error)))
                return size
        going: list[Deferred[None]] = []
        largest = 1
        for one in drafts:
            if isinstance(one, Draft):
                largest = max(largest, len(one.content))
                if self._ids[one.number] is None:
                    going.append(as_deferred(self._take(session, one)))
            elif self._ids[one[0]] is None:
                self._broken(*one)
        # All of them have ended then: whoever makes the call again finds what each came to.
        for _, failure in await DeferredList(going, consumeErrors=True):
            if isinstance(failure, Failure):
                failure.raiseException()
        return max(1, min(_PORTION, _PORTION_OCTETS // largest))

    async def _take(self, session: Session, draft: Draft) -> None:
        call = self._call
        mark = f"{self._mark}{draft.number}/{draft.id}" if self._mark else ""
        try:
            objections = await self._taker.take(session, draft, stream=call.stream, tags=call.tags, mark=mark)
        except OSError as error:
            _log.warn("a message of a call by {token} is not taken: {error}", token=self._caller.token, error=error)
            objections = [Objection("", SmtpReply.of(451, "4.3.0", "Our disk does not take it now"))]
        if not objections:
            self._ids[draft.number] = draft.id
            self._taken(draft)
        elif stops := [one for one in objections if one.reply.is_transient or one.path == _OF_ALL]:
            self._stops += stops
        else:
            for one in objections:
                self._refuse(draft.number, one.path, str(one.reply), _status(one.reply))

    def _broken(self, number: int, error: CallError) -> None:
        for fault in error.faults:
            self._refuse(number, fault.path, fault.text, error.status)

    def _refuse(self, number: int, path: str, text: str, status: HTTPStatus) -> None:
        path = f"recipients.{number}" if self._call.is_list and not path else path
        if len(self._refused) < _MOST_REFUSED:
            self._refused.append(RefusedOne(number=number, path=path, status=status, error=text))

    def _not_all(self, stops: Sequence[Objection]) -> Reply:
        """The answer where something is left to do, or nothing was taken."""
        taken = sum(one is not None for one in self._ids)
        faults = [Fault(one.path, str(one.reply)) for one in dict.fromkeys(stops)]
        faults = faults or [Fault(one.path, one.error) for one in self._refused]
        status = _status(stops[0].reply) if stops else HTTPStatus(self._refused[0].status)
        again = (self._call.key or "") if stops else ""
        wait = SOON if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE) else 0
        ids = () if self._mark else tuple(one for one in self._ids if one is not None)
        return refused(CallError(status, faults, wait), key=again, taken=taken, ids=ids)


def refused(error: CallError, *, key: str = "", taken: int = 0, ids: Sequence[str] = ()) -> Reply:
    """The answer that tells what is wrong."""
    told = tuple(FieldFault(path=one.path, error=one.text) for one in error.faults)
    refusal = Refusal(error=str(error) or "refused", errors=told, idempotency_key=key, taken=taken, ids=tuple(ids))
    fields = {"retry-after": str(error.retry_after)} if error.retry_after else {}
    return model(error.status, refusal, fields)


def model(status: HTTPStatus, told: Accepted | Refusal, fields: Mapping[str, str] = MappingProxyType({})) -> Reply:
    """An answer that says this."""
    return Reply(status, JSON, told.model_dump_json(ensure_ascii=True).encode() + b"\n", fields)


def _of_error(error: CallError) -> SmtpReply:
    """An answer that has the status of the error (see `_status`)."""
    if error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return SmtpReply.of(552, "5.3.4", str(error))
    return SmtpReply.of(451, "4.3.0", str(error))


def _status(reply: SmtpReply) -> HTTPStatus:
    """Of an answer: what a policy forbids is 403, what it puts off 429; whatever else may be later is 503."""
    is_policy = reply.status[1:4] == ".7."
    if reply.is_transient:
        return HTTPStatus.TOO_MANY_REQUESTS if is_policy else HTTPStatus.SERVICE_UNAVAILABLE
    if reply.code == 552 or reply.status == "5.3.4":
        return HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    return HTTPStatus.FORBIDDEN if is_policy else HTTPStatus.UNPROCESSABLE_ENTITY
