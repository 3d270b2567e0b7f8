"""One request on a connection to an application, and what becomes of it: a message that is posted, or a question."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from mailgate.envelope import EnvelopeRecipient
from mailgate.interfaces import OutcomeKind
from mailgate.relay.attempt import ConnectFailedError, Result, Target
from mailgate.relay.web_post.answers import Answer, results_of
from mailgate.reply import Reply
from mailgate.wire.http_response import HttpResponse

__all__ = ["LOST", "Post", "Question", "UnderWay"]

LOST = Reply.of(451, "4.4.2", "The connection to the application was lost")
_TOO_EARLY = Reply.of(451, "4.5.0", "The application took the message before it had all of it")
_WANTED = frozenset((b"content-type", b"retry-after", b"location"))


class UnderWay(Protocol):
    """A request under way, and who waits for what comes of it: one of the methods is called, once. `response` is there
    once anything may be answered; `left` are octets of the body that have not been written."""

    method: str
    response: HttpResponse
    received: int
    pieces: Iterator[bytes] | None
    left: int
    is_begun: bool
    is_reused: bool

    @property
    def is_sent(self) -> bool:
        """Whether the application may have everything."""

    def answered(self, answer: Answer) -> None:
        """It has answered."""

    def broken(self, reply: Reply, reason: str, *, is_ours: bool) -> None:
        """There will be no answer that counts; `is_ours`: for a reason that lies with us."""

    def failed(self, failure: Failure) -> None:
        """By a bug of ours, or because it was given up."""


class _Request:
    def __init__(self, method: str, target: Target) -> None:
        self.method = method
        self.target = target
        self.response = HttpResponse(_WANTED)
        self.received = 0
        self.pieces: Iterator[bytes] | None = None
        self.left = 0
        self.is_begun = False
        self.is_reused = False  # on a connection that has served before

    @property
    def is_sent(self) -> bool:
        return self.is_begun and not self.left


class Post(_Request):
    """A message for some recipients: `done` is called back with a result for each."""

    def __init__(
        self,
        target: Target,
        queue_id: str,
        recipients: Sequence[EnvelopeRecipient],
        done: Deferred[Sequence[Result]],
    ) -> None:
        super().__init__("POST", target)
        self._queue_id = queue_id
        self._recipients = recipients
        self._done = done

    def answered(self, answer: Answer) -> None:
        """See UnderWay."""
        if 200 <= answer.status < 300 and not self.is_sent:  # the rest of which it never gets now
            self.broken(_TOO_EARLY, f"HTTP {answer.status} came too early", is_ours=False)
        else:
            self._done.callback(results_of(answer, self._recipients, str(self.target), self._queue_id))

    def broken(self, reply: Reply, reason: str, *, is_ours: bool) -> None:
        """See UnderWay. The words are ours, whoever is to blame."""
        # A connection that was kept may have ended at the other side meanwhile. If the request was taken all the same,
        # the application knows it again by its key.
        again = not is_ours and reply is LOST and self.is_reused and not self.received
        next_host = again or not (is_ours or self.is_sent)
        told = reason if is_ours else f"{self.target}: {reason}"
        self._done.callback(
            [
                Result(one, OutcomeKind.DEFERRED, reply, next_host=next_host, reason=told, again=again)
                for one in self._recipients
            ]
        )

    def failed(self, failure: Failure) -> None:
        """See UnderWay."""
        self._done.errback(failure)


class Question(_Request):
    """What an application says to a request that brings it nothing: `done` is called back with its Answer, or has
    ConnectFailedError, at the stage "answer"."""

    def __init__(self, method: str, target: Target, done: Deferred[Answer]) -> None:
        super().__init__(method, target)
        self._done = done

    def answered(self, answer: Answer) -> None:
        """See UnderWay."""
        self._done.callback(answer)

    def broken(self, reply: Reply, reason: str, *, is_ours: bool) -> None:
        """See UnderWay."""
        told = f"{reply.text}: {reason}"
        self._done.errback(ConnectFailedError(self.target, reply, told, stage="answer", is_ours=is_ours))

    def failed(self, failure: Failure) -> None:
        """See UnderWay."""
        self._done.errback(failure)
