"""Calls carried out: judged, durable, answered; each key at most once, whatever breaks in between.

A call with a key is noted in the register before anything of it is taken, and the spool notes each of its messages in
the commit that makes that durable (`Envelope.mark`). So a call that was broken off, by a crash at any instant, by a
full disk or by a limit, goes on behind what was taken when it is made again with its key; and one that is done gets the
answer that it had. That it is done is noted soon after its answer: should that be lost, the marks tell the same.
Without a key nothing is noted, and nothing is known of a call after its answer.
"""

from __future__ import annotations

import contextlib
import datetime
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from http import HTTPStatus

from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailgate.awaiting import InThread, as_deferred
from mailgate.envelope import new_id
from mailgate.interfaces import ISpool, SpoolError
from mailgate.web.answering import Reply
from mailgate.web.injection.composing import Draft
from mailgate.web.injection.models import Refusal
from mailgate.web.injection.notes import Notes
from mailgate.web.injection.problems import SOON, CallError, Fault
from mailgate.web.injection.reading import Asked, Call, Reading, read_light, read_small, read_whole
from mailgate.web.injection.register import Entry, Register
from mailgate.web.injection.running import JSON, Run, aside, model, refused
from mailgate.web.injection.taking import Caller, Taker
from mailgate.web.injection.templating import HeavyError

__all__ = ["Calls", "refused"]

_log = Logger()

#: Calls with more octets, and those with heavy templates, are read so many at a time, and as many of those that are for
#: many: each keeps its recipients.
_LARGE, _LARGE_AT_ONCE = 128 * 1024, 2
#: Those that have no more are read at once: a thread would take longer to begin.
_SMALL = 8 * 1024
#: Messages that are remembered: those of some seconds.
_LATELY = 10_000
#: Marks that are taken away at a time.
_MARKS = 5000
#: Seconds for which marks are gathered that are to go.
_TOGETHER = 1.0

_Place = tuple[str, str]
"""The token and the key of a call."""


class Calls:
    """Of one gateway. `taker` is the one of the configuration in force, None where mail is not taken; the register is
    in no other's hands. `in_thread` runs what takes long; there `read_large` reads large and heavy calls."""

    def __init__(
        self,
        register: Register,
        spool: ISpool,
        taker: Callable[[], Taker | None],
        clock: IReactorTime,
        in_thread: InThread,
        read_large: Reading = read_whole,
    ) -> None:
        self._notes = Notes(register, clock, in_thread)
        self._spool = spool
        self._taker = taker
        self._clock = clock
        self._in_thread = in_thread
        self._read_large = read_large
        self._large = DeferredSemaphore(_LARGE_AT_ONCE)
        self._for_many = DeferredSemaphore(_LARGE_AT_ONCE)
        self._running: dict[_Place, tuple[str, list[Deferred[Reply]]]] = {}
        self._done: dict[_Place, tuple[str, Reply]] = {}  # what is not noted yet
        self._lately: dict[str, tuple[str, str]] = {}
        self._noting: set[Deferred[object]] = set()
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
            if size > _LARGE:
                return await self._take_large(taker, caller, read)
            try:
                call = await self._read_light(taker, size, read)
            except HeavyError:
                return await self._take_large(taker, caller, read)
            return await self._take(taker, caller, call)
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
        if (token, key) in self._done:
            return Reply(HTTPStatus.OK, JSON, self._done[token, key][1].body)
        entry = await self._notes.ask(lambda register: register.find(token, key))
        if entry is None:
            return None
        if entry.answer is not None:
            return Reply(HTTPStatus.OK, JSON, entry.answer)
        taken = len(await self._marks(entry))
        return model(HTTPStatus.CONFLICT, Refusal(error="it is not done", idempotency_key=key, taken=taken))

    def lately(self, token: str, queue_id: str) -> str | None:
        """The sender of a message that was taken from this token a moment ago, of which the history may not tell yet;
        None where it was not."""
        owner, sender = self._lately.get(queue_id, ("", ""))
        return sender if owner == token else None

    async def close(self) -> None:
        """Take nothing more: what is under way ends behind the messages that it has begun with."""
        self._is_closing = True
        if self._active:
            idle: Deferred[None] = Deferred()
            self._idle.append(idle)
            await idle
        await self._notes.close()
        for one in list(self._noting):
            await one
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
        await self._forget()

    async def _read_light(self, taker: Taker, size: int, read: Callable[[], Asked]) -> Call:
        if size <= _SMALL:
            with contextlib.suppress(HeavyError):
                return read_small(read(), taker.section, taker.hostname, self._clock.seconds())
        return await self._read(taker, read, read_light)

    async def _read(self, taker: Taker, read: Callable[[], Asked], reading: Reading) -> Call:
        now = self._clock.seconds()
        return await self._in_thread(lambda: reading(read(), taker.section, taker.hostname, now))

    async def _read_in_turn(self, taker: Taker, read: Callable[[], Asked]) -> Call:
        if self._is_closing:  # while it waited
            raise _not_now("the gateway stops")
        return await self._read(taker, read, self._read_large)

    async def _take_large(self, taker: Taker, caller: Caller, read: Callable[[], Asked]) -> Reply:
        """A message with large files does not wait for calls that are for many, which take long."""
        async with _one_of(self._large):
            call = await self._read_in_turn(taker, read)
            if call.count == 1:
                return await self._take(taker, caller, call)
            is_next = self._for_many.tokens > 0
            if is_next:
                await self._for_many.acquire()
            else:
                await self._in_thread(call.messages.close)
                del call  # what waits lies on the disk
        if not is_next:
            await self._for_many.acquire()
        try:
            if not is_next:
                async with _one_of(self._large):
                    call = await self._read_in_turn(taker, read)
            try:
                return await self._take(taker, caller, call)
            finally:
                await self._in_thread(call.messages.close)
        finally:
            self._for_many.release()

    async def _take(self, taker: Taker, caller: Caller, call: Call) -> Reply:
        if call.key is None:
            answer, _ = await self._run(taker, caller, call, new_id(), "", {}).all()
            return answer
        place = (caller.token, call.key)
        if place in self._done:
            digest, answer = self._done[place]
            if digest != call.digest:
                raise _other_call()
            return answer
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
        entry = await self._notes.ask(lambda register: register.begin(caller.token, key, new, now, keep))
        if entry.digest != call.digest:
            raise _other_call()
        if entry.answer is not None:
            return Reply(HTTPStatus.ACCEPTED, JSON, entry.answer)
        before = {} if entry.id == new.id else await self._marks(entry)
        run = self._run(taker, caller, call, entry.id, _prefix(entry), before)
        answer, is_done = await run.all()
        place = (caller.token, key)
        if is_done and run.has_refused:
            await self._notes.ask(lambda register: register.finish(*place, answer.body))
            self._forget_marks(await run.marks())
        elif is_done:
            self._done[place] = call.digest, answer
            self._in_background(self._note_done(place, answer, run))
        elif not await self._marks(entry):
            self._in_background(self._notes.ask(lambda register: register.forget(*place), soon=False))
        return answer

    async def _note_done(self, place: _Place, answer: Reply, run: Run) -> None:
        """Its marks go when that is durable."""
        try:
            await self._notes.ask(lambda register: register.finish(*place, answer.body), soon=False)
        finally:
            del self._done[place]
        self._forget_marks(await run.marks())

    def _in_background(self, work: Awaitable[object]) -> None:
        """What it fails with is told to the log: the call has its answer, and what was noted before stays true."""

        def done(result: object) -> None:
            self._noting.discard(noting)
            if not isinstance(result, Failure):
                return
            if result.check(sqlite3.Error, OSError):
                _log.warn("what became of a call is not noted: {error}", error=result.value)
            else:
                _log.failure("what became of a call is not noted", failure=result)

        noting = as_deferred(work)
        self._noting.add(noting)
        noting.addBoth(done)

    def _run(self, taker: Taker, caller: Caller, call: Call, call_id: str, mark: str, before: Mapping[int, str]) -> Run:
        return Run(
            taker,
            caller,
            call,
            call_id=call_id,
            mark=mark,
            before=before,
            is_closing=lambda: self._is_closing,
            taken=lambda draft: self._remember(caller.token, draft),
            in_thread=self._in_thread,
        )

    def _remember(self, token: str, draft: Draft) -> None:
        self._lately[draft.id] = token, str(draft.sender)
        if len(self._lately) > _LATELY:
            del self._lately[next(iter(self._lately))]

    async def _marks(self, entry: Entry) -> Mapping[int, str]:
        """The ids of the messages that were taken, by their numbers."""
        prefix = _prefix(entry)
        keys = await self._spool.counts(prefix)

        def read() -> Mapping[int, str]:
            parts = (key.removeprefix(prefix).partition("/") for key in keys)
            return {int(number): queue_id for number, _, queue_id in parts}

        return await aside(self._in_thread, len(keys), read)

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


@contextlib.asynccontextmanager
async def _one_of(semaphore: DeferredSemaphore) -> AsyncIterator[None]:
    await semaphore.acquire()
    try:
        yield
    finally:
        semaphore.release()


def _prefix(entry: Entry) -> str:
    return f"{entry.day}/injected/{entry.id}/"


def _not_now(text: str) -> CallError:
    return CallError(HTTPStatus.SERVICE_UNAVAILABLE, (Fault("", text),), SOON)


def _other_call() -> CallError:
    text = "is that of a call with other content"
    return CallError(HTTPStatus.UNPROCESSABLE_ENTITY, (Fault("idempotency_key", text),))
