"""Octets on their way to a scanner, as fast as it takes them: no more of a message is in memory than one piece."""

from __future__ import annotations

from collections.abc import Generator

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer, IPushProducer
from zope.interface import implementer

__all__ = ["Pieces", "Sending"]

Pieces = Generator[bytes, None, None]
"""What is sent, one piece after another; OSError where a file cannot be read."""


@implementer(IPushProducer)
class Sending:
    """Sends `pieces`. `is_over`: all has been written."""

    def __init__(self, pieces: Pieces) -> None:
        self.is_over = False
        self._pieces = pieces
        self._consumer: IConsumer | None = None
        self._is_paused = False
        self._is_writing = False
        self._done: Deferred[None] = Deferred(lambda _: self.stopProducing())

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:  # noqa: N802 (Twisted's)
        """Begin; fires when everything has been written, and fails where the pieces do."""
        self._consumer = consumer
        self.resumeProducing()
        return self._done

    def resumeProducing(self) -> None:
        """Write until the consumer has enough."""
        self._is_paused = False
        if self._is_writing:  # it is the consumer that resumes, from within write
            return
        self._is_writing = True
        try:
            while self._consumer is not None and not self._is_paused:
                self._write_one(self._consumer)
        finally:
            self._is_writing = False

    def pauseProducing(self) -> None:
        """Write nothing more for now."""
        self._is_paused = True

    def stopProducing(self) -> None:
        """Write nothing more, and close the file. What `startProducing` returned does not fire any more."""
        self._consumer = None
        if not self._is_writing:
            self._pieces.close()

    def _write_one(self, consumer: IConsumer) -> None:
        try:
            piece = next(self._pieces)
        except StopIteration:
            self.is_over = True
            self._consumer = None
            self._done.callback(None)
        except Exception as error:
            self._consumer = None
            self._done.errback(error)
        else:
            consumer.write(piece)
            if self._consumer is None:
                self._pieces.close()
