"""What the checkers share that ask another system: how its failures are told, and names."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from mailgate.auth.checker import AuthUnavailable
from mailgate.backends.questions import BackendError
from mailgate.backends.questions import Questions as BackendQuestions
from mailgate.wire.sasl_text import SaslError, parse_name

__all__ = ["Questions", "octets_of", "text_of"]

T = TypeVar("T")


class Questions(BackendQuestions):
    """Those about users: UnauthorizedLogin is an answer, and the system's failures are AuthUnavailable."""

    def __init__(self, clock: IReactorTime, whom: str, *, limit: int, timeout: float) -> None:
        super().__init__(clock, whom, limit=limit, timeout=timeout, answers=(UnauthorizedLogin,))

    def ask(self, work: Callable[[], Coroutine[Deferred[Any], Any, T]]) -> Deferred[T]:
        """What `work()` comes to; AuthUnavailable where it fails, takes too long, or after `close`."""
        return super().ask(work).addErrback(_unavailable)


def _unavailable(failure: Failure) -> Failure:
    return Failure(AuthUnavailable(str(failure.value))) if failure.check(BackendError) else failure


def text_of(octets: bytes) -> str:
    """A name or a password of credentials as text; UnauthorizedLogin where it is empty or no UTF-8."""
    try:
        text = octets.decode("utf-8")
    except UnicodeDecodeError:
        text = ""
    if not text:
        raise UnauthorizedLogin("a name or a password is empty or no UTF-8")
    return text


def octets_of(name: object, whom: str) -> bytes:
    """The avatar id for a user's name that `whom` has told; AuthUnavailable where that is no name."""
    if not isinstance(name, str | bytes):
        raise AuthUnavailable(f"{whom} gave something else for the name of a user")
    try:
        octets = name.encode("utf-8") if isinstance(name, str) else name
        parse_name(octets)
    except (UnicodeEncodeError, SaslError):
        raise AuthUnavailable(f"{whom} gave a name for a user that cannot be used") from None
    return octets
