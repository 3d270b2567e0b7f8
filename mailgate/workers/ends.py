"""The two ends of the line between the supervisor and a worker."""

from __future__ import annotations

import json
from collections.abc import Awaitable
from typing import Any, Protocol, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime, ITransport
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.protocols.amp import AMP, BinaryBoxProtocol, Command
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgate.workers.commands import Ask, AskOthers, Begin, Drain, Ended, Item, Items, Ping, Prepare, Settle

__all__ = ["Duties", "Office", "SupervisorEnd", "WorkerEnd"]

_log = Logger()

#: Items that wait this long (seconds) for others to go with.
_PATIENT = frozenset({"add", "others"})
_PATIENCE = 0.01


class Duties(Protocol):
    """What a worker does because the supervisor wants it. Errors are lines for an administrator."""

    async def begin(self, started: str, running: str) -> str:
        """As in Begin."""

    async def prepare(self, source: str) -> str:
        """As in Prepare."""

    def settle(self, errors: str) -> None:
        """As in Settle."""

    async def drain(self) -> float:
        """As in Drain."""

    def ended(self, worker: int, status: str) -> None:
        """As in Ended."""

    async def answer(self, question: str, argument: str) -> tuple[str, str]:
        """As in Ask."""

    def hear(self, item: Item) -> None:
        """One of the supervisor's items."""

    def abandoned(self) -> None:
        """The supervisor is gone."""


class Office(Protocol):
    """What the supervisor does for a worker."""

    def hear(self, item: Item) -> None:
        """One of the worker's items; `heard` comes behind the last that came with it."""

    def heard(self) -> None:
        """That was all; also when the worker takes again what it is told."""

    async def ask_others(self, question: str, argument: str) -> tuple[str, str]:
        """As in AskOthers."""

    def disconnected(self) -> None:
        """The worker has closed its end."""


class _End(AMP):
    """What both ends have: items that go together."""

    def __init__(self, clock: IReactorTime) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Twisted's
        self._clock = clock
        self._items: list[Item] = []
        self._flush: IDelayedCall | None = None
        self._hurries = False
        self.is_open = True

    def makeConnection(self, transport: ITransport) -> None:  # noqa: N802  Twisted's name
        """As AMP does, but for a line in the log; so is `connectionLost`."""
        BinaryBoxProtocol.makeConnection(self, transport)

    def send(self, item: Item) -> None:
        """Say this; it goes with others that are said now."""
        self._items.append(item)
        is_patient = item[0] in _PATIENT
        if self._flush is None:
            self._flush = self._clock.callLater(_PATIENCE if is_patient else 0, self.flush)
        elif not (is_patient or self._hurries):
            self._flush.reset(0)
        self._hurries = self._hurries or not is_patient

    def hurry(self) -> None:
        """Say now what does not wait for more."""
        if self._hurries:
            self.flush()

    def flush(self) -> None:
        """Say now what has gathered."""
        flush, self._flush = self._flush, None
        if flush is not None and flush.active():
            flush.cancel()
        self._hurries = False
        items, self._items = self._items, []
        if items and self.is_open:
            self.call(Items, items=json.dumps(items, separators=(",", ":")).encode())

    def call(self, command: type[Command], **values: object) -> Deferred[dict[str, Any]]:
        """What the other end answers; it fails, with whatever Twisted says, where that is gone."""
        return cast("Deferred[dict[str, Any]]", self.callRemote(command, **values))  # type: ignore[no-untyped-call]

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.is_open = False
        if self._flush is not None:
            self.flush()
        BinaryBoxProtocol.connectionLost(self, reason)


@implementer(IPushProducer)
class SupervisorEnd(_End):
    """The supervisor's end of a worker's line.

    While the worker takes nothing more, `is_ready` is false and what there is to say waits here: answers, of which
    there are no more than it has asked for, and that a slot is wanted, once for each key.
    """

    def __init__(self, clock: IReactorTime, office: Office) -> None:
        super().__init__(clock)
        self._office = office
        self._wanted: set[str] = set()
        self.is_ready = True

    def makeConnection(self, transport: ITransport) -> None:  # noqa: N802  Twisted's name
        super().makeConnection(transport)
        cast(Any, transport).registerProducer(self, True)

    def close(self) -> None:
        """Close the line, when what has been said has gone."""
        transport = cast(Any, self.transport)
        if self.is_open and transport is not None:
            # A transport that waits for a producer does not close.
            transport.unregisterProducer()
            transport.loseConnection()

    def send(self, item: Item) -> None:
        if not self.is_ready and item[0] == "wanted":
            if item[1] in self._wanted:
                return
            self._wanted.add(item[1])
        super().send(item)

    def flush(self) -> None:
        if self.is_ready:
            super().flush()
        elif self._flush is not None:
            if self._flush.active():
                self._flush.cancel()
            self._flush = None

    def pauseProducing(self) -> None:
        self.is_ready = False

    def resumeProducing(self) -> None:
        self.is_ready = True
        self._wanted.clear()
        transport = cast(Any, self.transport)
        if transport.disconnecting:
            transport.unregisterProducer()  # AMP has closed it itself
            return
        self.flush()
        self._office.heard()

    def stopProducing(self) -> None:
        pass

    async def begin(self, started: str, running: str) -> str:
        """As in Begin; it and the others below fail where the worker is gone."""
        return _text(await self.call(Begin, started=started.encode(), running=running.encode()), "error")

    async def ping(self) -> None:
        """As in Ping."""
        await self.call(Ping)

    async def prepare(self, source: str) -> str:
        """As in Prepare."""
        return _text(await self.call(Prepare, source=source.encode()), "errors")

    async def settle(self, errors: str) -> None:
        """As in Settle."""
        await self.call(Settle, errors=errors.encode())

    async def drain(self) -> float:
        """As in Drain."""
        return float((await self.call(Drain))["seconds"])

    async def ask(self, question: str, argument: str) -> tuple[str, str]:
        """As in Ask: the answer, and the error."""
        said = await self.call(Ask, question=question, argument=argument.encode())
        return _text(said, "answer"), str(said["error"])

    async def tell_end(self, worker: int, status: str) -> None:
        """As in Ended."""
        await self.call(Ended, worker=worker, status=status)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        self._office.disconnected()

    @Items.responder
    def _take(self, items: bytes) -> dict[str, Any]:
        for item in json.loads(items):
            self._office.hear(item)
        self._office.heard()
        return {}

    @AskOthers.responder
    def _ask_others(self, question: str, argument: bytes) -> Deferred[dict[str, Any]]:
        return _said(self._office.ask_others(question, argument.decode()), "answers", "error")


class WorkerEnd(_End):
    """A worker's end."""

    def __init__(self, clock: IReactorTime, duties: Duties) -> None:
        super().__init__(clock)
        self._duties = duties

    async def ask_others(self, question: str, argument: str) -> tuple[str, str]:
        """As in AskOthers: the answers of those that answered, and what the others said or did not say."""
        said = await self.call(AskOthers, question=question, argument=argument.encode())
        return _text(said, "answers"), str(said["error"])

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        self._duties.abandoned()

    @Items.responder
    def _take(self, items: bytes) -> dict[str, Any]:
        for item in json.loads(items):
            self._duties.hear(item)
        return {}

    @Ping.responder
    def _ping(self) -> dict[str, Any]:
        return {}

    @Begin.responder
    def _begin(self, started: bytes, running: bytes) -> Deferred[dict[str, Any]]:
        return Deferred.fromCoroutine(_lines("error", self._duties.begin(started.decode(), running.decode())))

    @Prepare.responder
    def _prepare(self, source: bytes) -> Deferred[dict[str, Any]]:
        return Deferred.fromCoroutine(_lines("errors", self._duties.prepare(source.decode())))

    @Settle.responder
    def _settle(self, errors: bytes) -> dict[str, Any]:
        self._duties.settle(errors.decode())
        return {}

    @Drain.responder
    def _drain(self) -> Deferred[dict[str, Any]]:
        return Deferred.fromCoroutine(_seconds(self._duties.drain()))

    @Ended.responder
    def _ended(self, worker: int, status: str) -> dict[str, Any]:
        self._duties.ended(worker, status)
        return {}

    @Ask.responder
    def _ask(self, question: str, argument: bytes) -> Deferred[dict[str, Any]]:
        return _said(self._duties.answer(question, argument.decode()), "answer", "error")


def _text(said: dict[str, Any], name: str) -> str:
    return bytes(said[name]).decode()


def _said(answer: Awaitable[tuple[str, str]], first: str, second: str) -> Deferred[dict[str, Any]]:
    async def said() -> dict[str, Any]:
        try:
            long, short = await answer
        except Exception as error:
            # What passed here would close the line, and with it end the worker.
            _log.failure("a question cannot be answered")
            long, short = "", f"{type(error).__name__}: {error}"
        return {first: long.encode(), second: short}

    return Deferred.fromCoroutine(said())


async def _lines(name: str, said: Awaitable[str]) -> dict[str, Any]:
    return {name: (await said).encode()}


async def _seconds(drained: Awaitable[float]) -> dict[str, Any]:
    return {"seconds": await drained}
