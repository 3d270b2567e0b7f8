"""A client under load that remembers what it was promised."""

from __future__ import annotations

import smtplib
import threading
from collections.abc import Callable

__all__ = ["Load"]


class Load:
    """Threads that send numbered messages until they are told to stop; `acknowledged` holds the promised numbers.

    A connection that breaks, or a 4yz reply, is not a promise: the number is not sent again.
    """

    def __init__(self, port: int, threads: int, size: Callable[[int], int], recipient: str = "to@kill.test") -> None:
        self.port = port
        self.acknowledged: set[int] = set()
        self.failures = 0
        self._size = size
        self._recipient = recipient
        self._next = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End it and wait for the threads."""
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with smtplib.SMTP("127.0.0.1", self.port, timeout=20) as client:
                    while not self._stop.is_set():
                        self._send(client)
            except (OSError, smtplib.SMTPException):
                self.failures += 1
                self._stop.wait(0.05)

    def _send(self, client: smtplib.SMTP) -> None:
        with self._lock:
            self._next += 1
            number = self._next
        line = b"0123456789abcdef" * 4 + b"\r\n"
        body = line * (self._size(number) // len(line) + 1)
        message = b"From: <from@client.test>\r\nMessage-ID: <%d@load.test>\r\n\r\n%s" % (number, body)
        client.sendmail("from@client.test", [self._recipient], message)
        with self._lock:
            self.acknowledged.add(number)
