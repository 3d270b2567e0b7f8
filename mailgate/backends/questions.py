"""What all clients share: a reactor, questions bounded in number and time, secrets, trust."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NoReturn, TypeAlias, TypeVar

from twisted.internet.defer import Deferred, DeferredSemaphore, fail
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IReactorFromThreads,
    IReactorPluggableNameResolver,
    IReactorTCP,
    IReactorTime,
    IReactorUNIX,
)
from twisted.python.failure import Failure

from mailgate.stores.domains import canonical
from mailgate.tls.client import ClientContexts

__all__ = [
    "BackendError",
    "Creators",
    "IBackendReactor",
    "Questions",
    "is_this_machine",
    "read_secret",
    "verifying",
]

T = TypeVar("T")

#: From a host, a DNS name or an IP address, to the client's side of TLS with it.
Creators: TypeAlias = Callable[[str], IOpenSSLClientConnectionCreator]

#: The longest secret that a file may hold, in octets.
_LONGEST_SECRET = 16 * 1024


class BackendError(Exception):
    """A system gives no answer now. The text is the private cause, for the log: it holds no secret, and repeats nothing
    of the question."""


class IBackendReactor(IReactorTime, IReactorTCP, IReactorUNIX, IReactorFromThreads, IReactorPluggableNameResolver):
    """What clients need of the reactor."""


class Questions:
    """Questions to `whom` (a name for the log): at most `limit` at one time, each over within `timeout` seconds.

    Those beyond the limit wait, and their waiting counts. Exceptions of the types in `answers` are answers of the
    system, which count after `close` too.
    """

    def __init__(
        self,
        clock: IReactorTime,
        whom: str,
        *,
        limit: int,
        timeout: float,
        answers: tuple[type[Exception], ...] = (),
    ) -> None:
        self._clock = clock
        self._whom = whom
        self._timeout = timeout
        self._answers = answers
        self._slots = DeferredSemaphore(limit)
        self._open: set[Deferred[Any]] = set()
        self._is_closed = False

    def ask(self, work: Callable[[], Coroutine[Deferred[Any], Any, T]]) -> Deferred[T]:
        """What `work()` comes to; BackendError where that takes too long, or after `close`.

        Work that takes too long is cancelled.
        """
        if self._is_closed:
            return fail(BackendError(f"{self._whom} is not asked any more"))
        asked = Deferred.fromCoroutine(self._in_turn(work))
        if asked.called:
            return asked
        self._open.add(asked)
        asked.addTimeout(self._timeout, self._clock, onTimeoutCancel=self._late)

        def over(outcome: T | Failure) -> T | Failure:
            self._open.discard(asked)
            if self._is_closed and isinstance(outcome, Failure) and not outcome.check(*self._answers):
                return Failure(BackendError(f"{self._whom} is not asked any more"))
            return outcome

        asked.addBoth(over)
        return asked

    def close(self) -> None:
        """End all: what waits is BackendError."""
        self._is_closed = True
        for asked in list(self._open):
            asked.cancel()

    async def _in_turn(self, work: Callable[[], Coroutine[Deferred[Any], Any, T]]) -> T:
        await self._slots.acquire()
        try:
            if self._is_closed:
                raise BackendError(f"{self._whom} is not asked any more")
            return await work()
        finally:
            self._slots.release()

    def _late(self, _outcome: object, seconds: float) -> NoReturn:
        raise BackendError(f"{self._whom} gave no answer within {seconds:g} s")


def read_secret(path: Path) -> str:
    """The secret that a file holds, without space around it; ValueError, for an administrator, where it holds none."""
    try:
        with path.open("rb") as file:
            octets = file.read(_LONGEST_SECRET + 1)
        text = octets.decode("utf-8").strip()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: a secret is text in UTF-8") from None
    if not text or len(octets) > _LONGEST_SECRET or not text.isprintable():
        raise ValueError(f"{path}: one line with the secret is expected")
    return text


def verifying(clock: IReactorTime, ca: Path | None) -> Creators:
    """Makes the client's side of TLS with a host, which must prove its name to the authorities in a file of PEM, or to
    the system's. ValueError, for an administrator, where the file has none.
    """
    creator = partial(ClientContexts(clock).client_creator, verify=True, ca=ca)
    creator(hostname="")  # reads the file
    return lambda host: creator(hostname=canonical(host))


def is_this_machine(host: str) -> bool:
    """Whether a name or an address (without brackets) is the loopback interface for certain."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
