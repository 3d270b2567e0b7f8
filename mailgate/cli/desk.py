"""Where the commands get at the queue: through the daemon's socket, or in the spool itself when there is no daemon."""

from __future__ import annotations

import json
import math
import socket
from collections.abc import Callable, Coroutine
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar
from urllib.parse import quote, urlencode

from pydantic import BaseModel
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from mailgate.cli.common import FailedError
from mailgate.interfaces import SpoolError
from mailgate.observe.history import History
from mailgate.observe.hub import EventHub
from mailgate.observe.recorder import Recorder
from mailgate.spool.sqlite import SqliteSpool
from mailgate.web.models import Action, Changed, Page, Selection, Shown
from mailgate.web.operations import QueueOperations, parse_after
from mailgate.web.places import Places

__all__ = ["Desk", "open_desk"]

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

#: Seconds for one answer of the daemon; a change of a long queue takes its time.
_TIMEOUT, _CHANGE_TIMEOUT = 60.0, 3600.0


class Desk(Protocol):
    """The queue. Every method fails with FailedError, only."""

    def list(self, selection: Selection, limit: int, after: str = "") -> Page:
        """At most `limit` entries from behind the place `after`."""

    def show(self, queue_id: str) -> Shown | None:
        """A message, or None."""

    def change(self, action: Action, selection: Selection) -> Changed:
        """Hold, release, retry or delete."""

    def close(self) -> None:
        """Let go of it."""


def open_desk(places: Places) -> Desk:
    """The daemon's, if one answers; else the spool's own.

    FailedError where neither can be had; PermissionError where they are another user's.
    """
    try:
        probe = _UnixConnection(places.control, _TIMEOUT)
        probe.connect()
        probe.close()
    except (FileNotFoundError, ConnectionRefusedError):
        return _OfflineDesk(places)
    except PermissionError as error:
        raise PermissionError(error.errno, error.strerror, str(places.control)) from None
    except OSError as error:
        raise FailedError(f"the daemon cannot be asked at {places.control}: {error.strerror or error}") from None
    return _ControlDesk(places.control)


class _UnixConnection(HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        try:
            self.sock.settimeout(self.timeout)
            self.sock.connect(str(self._path))
        except OSError:
            self.sock.close()
            raise


class _ControlDesk:
    def __init__(self, path: Path) -> None:
        self._path = path

    def list(self, selection: Selection, limit: int, after: str = "") -> Page:
        query = selection.model_dump(exclude_defaults=True) | {"limit": limit, "after": after}
        return self._ask(Page, "GET", f"/v1/queue?{urlencode(query, doseq=True)}")

    def show(self, queue_id: str) -> Shown | None:
        try:
            return self._ask(Shown, "GET", f"/v1/queue/{quote(queue_id, safe='')}")
        except _NothingThereError:
            return None

    def change(self, action: Action, selection: Selection) -> Changed:
        body = selection.model_dump_json(exclude_defaults=True)
        return self._ask(Changed, "POST", f"/v1/queue/{action}", body, _CHANGE_TIMEOUT)

    def close(self) -> None:
        pass

    def _ask(self, model: type[M], method: str, target: str, body: str | None = None, timeout: float = _TIMEOUT) -> M:
        connection = _UnixConnection(self._path, timeout)
        try:
            connection.request(method, target, body)
            response = connection.getresponse()
            text = response.read()
        except (OSError, HTTPException) as error:
            raise FailedError(f"the daemon did not answer at {self._path}: {error!r}") from None
        finally:
            connection.close()
        if response.status == 200:
            return model.model_validate_json(text)
        try:
            problem = str(json.loads(text)["error"])
        except (ValueError, KeyError, TypeError):
            problem = f"the daemon answered {response.status} at {self._path}"
        raise (_NothingThereError if response.status == 404 else FailedError)(problem)


class _NothingThereError(FailedError):
    pass


class _OfflineDesk:
    """Owns the spool for as long as it is open."""

    def __init__(self, places: Places) -> None:
        try:
            (places.spool / "spool.db").stat()
        except (FileNotFoundError, NotADirectoryError):
            raise FailedError(f"there is no spool in {places.spool}") from None
        self._places = places
        self._calls: SimpleQueue[tuple[Callable[..., object], tuple[Any, ...]]] = SimpleQueue()
        self._events = EventHub()
        self._recorder: Recorder | None = None
        try:
            self._spool = SqliteSpool(
                places.spool,
                events=self._events,
                call_from_thread=lambda call, *values: self._calls.put((call, values)),
            )
        except SpoolError as error:
            raise FailedError(f"no daemon answers at {places.control}, and {error}") from None
        self._operations = QueueOperations(self._spool, self._events, lambda: None)

    def list(self, selection: Selection, limit: int, after: str = "") -> Page:
        return self._run(self._operations.list(selection, limit, parse_after(after)))

    def show(self, queue_id: str) -> Shown | None:
        return self._run(self._operations.show(queue_id))

    def change(self, action: Action, selection: Selection) -> Changed:
        if self._recorder is None:
            try:
                # For adding only: what is too old or too much is the daemon's to say.
                history = History(self._places.history, keep=math.inf, max_size=2**62)
            except OSError as error:
                raise FailedError(f"the history cannot be written, so nothing is changed: {error}") from None
            self._recorder = Recorder([history], delay=0.0)
            self._events.add(self._recorder)
            # What a daemon that was killed had under delivery is queued again.
            self._run(_swept(self._spool))
        return self._run(self._operations.change(action, selection))

    def close(self) -> None:
        self._run(_closed(self._spool))
        if self._recorder is not None:
            self._recorder.close()

    def _run(self, work: Coroutine[Deferred[Any], Any, T]) -> T:
        """The result; this thread stands in for the reactor's meanwhile."""
        results: list[T | Failure] = []
        Deferred.fromCoroutine(work).addBoth(results.append)
        while not results:
            call, values = self._calls.get()
            call(*values)
        result = results[0]
        if not isinstance(result, Failure):
            return result
        if isinstance(result.value, SpoolError):
            raise FailedError(str(result.value))
        result.raiseException()
        raise AssertionError("unreachable")


async def _swept(spool: SqliteSpool) -> None:
    await spool.sweep()


async def _closed(spool: SqliteSpool) -> None:
    await spool.close()
