"""Calls carried out: judged, durable, answered; each key at most once, whatever breaks in between.

A call with a key is noted in the register before anything of it is taken, and the spool notes each of its messages in
the commit that makes that durable (`Envelope.mark`). So a call that was broken off, by a crash at any instant, by a
full disk or by a limit, goes on behind what was taken when it is made again with its key; and one that is done gets the
answer that it had. Without a key nothing is noted, and nothing is known of a call after its answer.
"""

from __future__ import annotations

import datetime
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from http import HTTPStatus
from types import MappingProxyType
from typing import TypeVar

import msgspec
from twisted.internet.defer import Deferred, DeferredSemaphore, gatherResults
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from mailgate.awaiting import InThread, as_deferred
from mailgate.envelope import Session, new_id
from mailgate.interfaces import ISpool, SpoolError
from mailgate.reply import Reply as SmtpReply
from mailgate.web.answering import Reply
from mailgate.web.injection.composing import Draft
from mailgate.web.injection.models import Accepted, FieldFault, Refusal, RefusedOne
from mailgate.web.injection.problems import CallError, Fault
from mailgate.web.injection.reading import Asked, Call, read_call
from mailgate.web.injection.register import Entry, Register
from mailgate.web.injection.taking import Caller, Objection, Taker

__all__ = ["Calls", "refused"]

_log = Logger()

T = TypeVar("T")

_JSON = "application/json"
#: Messages of one call that are under way together, and octets that they may have.
_PORTION, _PORTION_OCTETS = 32, 4 * 1024**2
#: Calls with more octets are read and carried out so many at a time: each keeps what its recipients are.
_LARGE, _LARGE_AT_ONCE = 1024**2, 2
#: Refused recipients of one call that its answer tells of, and marks that are taken away at a time.
_MOST_REFUSED, _MARKS = 1000, 5000
#: What is objected to about the sender is objected to in every message of a call.
_OF_ALL = "from"
#: Seconds for which marks are gathered that are to go.
_TOGETHER = 1.0
#: Seconds after which to come again.
_SOON = 10


class Calls:
    """Of one gateway. `taker` is the one of the configuration in force, None where mail is not taken; the register is
    in no other's hands. `in_thread` runs what takes long."""

    def __init__(
        self,
        register: Register,
        spool: ISpool,
        taker: Callable[[], Taker | None],
        clock: IReactorTime,
        in_thread: InThread,
    ) -> None:
        self._register = register
        self._spool = spool
        self._taker = taker
        self._clock = clock
        self._in_thread = in_thread
        self._large = DeferredSemaphore(_LARGE_AT_ONCE)
        self._registering = DeferredSemaphore(1)
        self._running: dict[tuple[str, str], tuple[str, list[Deferred[Reply]]]] = {}
        self._active = 0
        self._idle: list[Deferred[None]] = []
        self._is_closing = False
        self._over: list[str] = []  # marks that nobody needs any more
        self._sweeping: IDelayedCall | None = None

    async def call(self, caller: Caller, size: int, read: Callable[[], Asked]) -> Reply:
        """Carry it out; the answer. `read` gives the request, of `size` octets, in a thread."""
        taker = self._taker()
        if taker is None or self._is_closing:
            return refused(_not_now("no mail is taken now"))
        if self._active >= taker.section.max_calls:
            return refused(_not_now(f"{self._active} calls are being carried out already"))
        self._active += 1
        try:
            if size <= _LARGE:
                return await self._read(taker, caller, read)
            await self._large.acquire()
            try:
                return await self._read(taker, caller, read)
            finally:
                self._large.release()
        except CallError as error:
            return refused(error)
        except (SpoolError, sqlite3.Error, OSError) as error:
            _log.warn("a call by {token} cannot be carried out: {error}", token=caller.token, error=error)
            return refused(_not_now("our disk does not take it now"))
        finally:
            self._active -= 1
            if not self._active:
                idle, self._idle = self._idle, []
                for one in idle:
                    one.callback(None)

    async def known(self, token: str, key: str) -> Reply | None:
        """What the call with this key was answered; how far it has come, where it is not done; None for none.
        SpoolError, or sqlite3.Error, where that cannot be told now."""
        entry = await self._noted(lambda: self._register.find(token, key))
        if entry is None:
            return None
        if entry.answer is not None:
            return Reply(HTTPStatus.OK, _JSON, entry.answer)
        taken = len(await self._marks(entry))
        return _model(HTTPStatus.CONFLICT, Refusal(error="it is not done", idempotency_key=key, taken=taken))

    async def close(self) -> None:
        """Take nothing more: what is under way ends behind the messages that it has begun with."""
        self._is_closing = True
        if self._active:
            idle: Deferred[None] = Deferred()
            self._idle.append(idle)
            await idle
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
        await self._forget()
        await self._registering.acquire()
        self._register.close()

    async def _read(self, taker: Taker, caller: Caller, read: Callable[[], Asked]) -> Reply:
        now = self._clock.seconds()
        call = await self._in_thread(lambda: _read_first(read_call(read(), taker.section, taker.hostname, now)))
        if call.key is None:
            answer, _ = await _Run(self, taker, caller, call, new_id(), "", {}).all()
            return answer
        place = (caller.token, call.key)
        if place in self._running:
            digest, waiting = self._running[place]
            if digest != call.digest:
                raise _other_call()
            result: Deferred[Reply] = Deferred()
            waiting.append(result)
            return await result
        self._running[place] = call.digest, []
        answer = refused(_not_now("the same call was broken off by an error of ours"))
        try:
            answer = await self._once(taker, caller, call, call.key)
        except CallError as error:
            answer = refused(error)
        finally:
            _, waiting = self._running.pop(place)
            for one in waiting:
                one.callback(answer)
        return answer

    async def _once(self, taker: Taker, caller: Caller, call: Call, key: str) -> Reply:
        """The call, unless it is done already; as much of it as is not."""
        now = self._clock.seconds()
        day = datetime.datetime.fromtimestamp(now, datetime.UTC).date().isoformat()
        new = Entry(new_id(), call.digest, day)
        keep = now - taker.section.keep
        entry = await self._noted(lambda: self._register.begin(caller.token, key, new, now, keep))
        if entry.digest != call.digest:
            raise _other_call()
        if entry.answer is not None:
            return Reply(HTTPStatus.ACCEPTED, _JSON, entry.answer)
        before = {} if entry.id == new.id else await self._marks(entry)
        run = _Run(self, taker, caller, call, entry.id, _prefix(entry), before)
        answer, is_done = await run.all()
        if is_done:
            await self._noted(lambda: self._register.finish(caller.token, key, answer.body))
            self._forget_marks(run.marks)
        elif not await self._marks(entry):
            await self._noted(lambda: self._register.forget(caller.token, key))
        return answer

    async def _marks(self, entry: Entry) -> Mapping[int, str]:
        """The ids of the messages that were taken, by their numbers."""
        prefix = _prefix(entry)
        found = {}
        for key in await self._spool.counts(prefix):
            number, _, queue_id = key.removeprefix(prefix).partition("/")
            found[int(number)] = queue_id
        return found

    def _forget_marks(self, keys: Iterable[str]) -> None:
        """Soon, with those of other calls: what is over is in the register. What stays for all that goes with its
        day."""
        self._over += keys
        if self._over and self._sweeping is None:
            self._sweeping = self._clock.callLater(_TOGETHER, self._sweep)

    def _sweep(self) -> None:
        self._sweeping = None
        as_deferred(self._forget())

    async def _forget(self) -> None:
        keys, self._over = self._over, []
        try:
            for at in range(0, len(keys), _MARKS):
                await self._spool.add_counts(dict.fromkeys(keys[at : at + _MARKS], -1))
        except SpoolError as error:
            _log.warn("{count} marks of calls that are over stay: {error}", count=len(keys), error=error)

    async def _noted(self, call: Callable[[], T]) -> T:
        """One at a time."""
        await self._registering.acquire()
        try:
            return await self._in_thread(call)
        finally:
            self._registering.release()


class _Run:
    """One call on its way. `mark` begins the marks of its messages, "" for none; `before` are those that were taken."""

    def __init__(
        self, calls: Calls, taker: Taker, caller: Caller, call: Call, call_id: str, mark: str, before: Mapping[int, str]
    ) -> None:
        self._calls = calls
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
    def marks(self) -> Iterable[str]:
        """Those of all messages that were taken."""
        return [f"{self._mark}{number}/{one}" for number, one in enumerate(self._ids) if one is not None]

    async def all(self) -> tuple[Reply, bool]:
        """The answer, and whether nothing is left to do."""
        session = await self._taker.begin(self._caller)
        if isinstance(session, Objection):
            return self._not_all([session]), False
        at, size = 0, 1
        while at < self._call.count and not self._stops:
            if self._calls._is_closing:
                self._stops.append(Objection("", SmtpReply.of(421, "4.3.2", "The gateway stops")))
                break
            size, at = await self._portion(session, at, size), at + size
        taken = sum(one is not None for one in self._ids)
        if self._stops:
            return self._not_all(self._stops), False
        if not taken:
            return self._not_all([]), False
        accepted = Accepted(id=self._id, taken=taken, ids=tuple(self._ids), refused=tuple(self._refused))
        return _model(HTTPStatus.ACCEPTED, accepted), True

    async def _portion(self, session: Session, at: int, size: int) -> int:
        """Take some messages together; how many may come next."""
        end = min(at + size, self._call.count)
        if all(self._ids[at:end]):
            return _PORTION
        drafts = self._call.first
        if at:
            drafts = await self._calls._in_thread(lambda: self._call.messages.drafts(at, end))
        going: list[Deferred[None]] = []
        largest = 1
        for one in drafts:
            if isinstance(one, Draft):
                largest = max(largest, len(one.content))
                if self._ids[one.number] is None:
                    going.append(as_deferred(self._take(session, one)))
            elif self._ids[one[0]] is None:
                self._broken(*one)
        await gatherResults(going, consumeErrors=True)
        return max(1, min(_PORTION, _PORTION_OCTETS // largest))

    async def _take(self, session: Session, draft: Draft) -> None:
        call = self._call
        mark = f"{self._mark}{draft.number}/{draft.id}" if self._mark else ""
        objections = await self._taker.take(session, draft, stream=call.stream, tags=call.tags, mark=mark)
        if not objections:
            self._ids[draft.number] = draft.id
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
        wait = _SOON if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE) else 0
        ids = () if self._mark else tuple(one for one in self._ids if one is not None)
        return refused(CallError(status, faults, wait), key=again, taken=taken, ids=ids)


def refused(error: CallError, *, key: str = "", taken: int = 0, ids: Sequence[str] = ()) -> Reply:
    """The answer that tells what is wrong."""
    told = tuple(FieldFault(path=one.path, error=one.text) for one in error.faults)
    model = Refusal(error=str(error) or "refused", errors=told, idempotency_key=key, taken=taken, ids=tuple(ids))
    fields = {"retry-after": str(error.retry_after)} if error.retry_after else {}
    return _model(error.status, model, fields)


def _model(status: HTTPStatus, model: Accepted | Refusal, fields: Mapping[str, str] = MappingProxyType({})) -> Reply:
    return Reply(status, _JSON, model.model_dump_json(ensure_ascii=True).encode() + b"\n", fields)


def _read_first(call: Call) -> Call:
    """With the first message: most have one, and are composed in the same thread at the same time."""
    return msgspec.structs.replace(call, first=call.messages.drafts(0, 1))


def _prefix(entry: Entry) -> str:
    return f"{entry.day}/injected/{entry.id}/"


def _not_now(text: str) -> CallError:
    return CallError(HTTPStatus.SERVICE_UNAVAILABLE, (Fault("", text),), _SOON)


def _other_call() -> CallError:
    text = "is that of a call with other content"
    return CallError(HTTPStatus.UNPROCESSABLE_ENTITY, (Fault("idempotency_key", text),))


def _status(reply: SmtpReply) -> HTTPStatus:
    """Of an answer: what a policy forbids is 403, what it puts off 429; whatever else may be later is 503."""
    is_policy = reply.status[1:4] == ".7."
    if reply.is_transient:
        return HTTPStatus.TOO_MANY_REQUESTS if is_policy else HTTPStatus.SERVICE_UNAVAILABLE
    if reply.code == 552 or reply.status == "5.3.4":
        return HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    return HTTPStatus.FORBIDDEN if is_policy else HTTPStatus.UNPROCESSABLE_ENTITY
