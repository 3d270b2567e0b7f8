"""Clients that send without a pause worth the name, and remember what became of each message."""

from __future__ import annotations

import smtplib
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

__all__ = ["Door", "Sent", "Steady"]

#: Seconds between two messages of a client, and messages of a connection.
_PAUSE, _MESSAGES = 0.3, 3


@dataclass(frozen=True, slots=True)
class Door:
    """A listener, and what is sent to it in turns: what its filter lets pass, and what it has refused."""

    port: int
    good: bytes
    bad: bytes


@dataclass(frozen=True, slots=True)
class Sent:
    """A message: the code of its last reply, 0 where there was none. `number` counts as messages are begun; `seconds`
    are those until its end, with its connection where it is the first of one."""

    door: str
    recipient: str
    is_bad: bool
    code: int
    text: str
    number: int
    seconds: float


class Steady:
    """`clients` for each door, between entry and exit of the context; what they have sent is in `sent`."""

    def __init__(self, doors: Mapping[str, Door], domain: str, clients: int) -> None:
        self.sent: list[Sent] = []
        self._domain = domain
        self._begun = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(name, door), daemon=True)
            for name, door in doors.items()
            for _ in range(clients)
        ]

    def mark(self) -> int:
        """The number of the next message."""
        with self._lock:
            return self._begun

    def since(self, mark: int, door: str) -> list[Sent]:
        """What was begun at this door since that mark, and is over."""
        with self._lock:
            return [one for one in self.sent if one.door == door and one.number >= mark]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()

    def _run(self, name: str, door: Door) -> None:
        while not self._stop.is_set():
            begun = time.monotonic()
            try:
                with smtplib.SMTP("127.0.0.1", door.port, "client.test", timeout=50) as client:
                    for _ in range(_MESSAGES):
                        can_go_on = self._send(client, name, door, begun)
                        if self._stop.wait(_PAUSE) or not can_go_on:
                            break
                        begun = time.monotonic()
            except (OSError, smtplib.SMTPConnectError) as error:  # the latter: refused with the banner
                self._note(name, self._begin(), begun, error)
                self._stop.wait(_PAUSE)

    def _send(self, client: smtplib.SMTP, name: str, door: Door, begun: float) -> bool:
        """Send one; False where the connection is not to be used any more."""
        number = self._begin()
        content = door.bad if _is_bad(number) else door.good
        try:
            client.sendmail("ann@client.example", [self._recipient(number)], content)
        except (OSError, smtplib.SMTPException) as error:
            return self._note(name, number, begun, error) == 550
        return self._note(name, number, begun) == 250

    def _begin(self) -> int:
        with self._lock:
            self._begun += 1
            return self._begun - 1

    def _note(self, door: str, number: int, begun: float, error: Exception | None = None) -> int:
        """Write down what became of it; the code."""
        code, text = _reply(error)
        seconds = time.monotonic() - begun
        one = Sent(door, self._recipient(number), _is_bad(number), code, text, number, seconds)
        with self._lock:
            self.sent.append(one)
        return code

    def _recipient(self, number: int) -> str:
        return f"{'bad' if _is_bad(number) else 'good'}-{number}@{self._domain}"


def _is_bad(number: int) -> bool:
    return number % 2 == 1


def _reply(error: Exception | None) -> tuple[int, str]:
    match error:
        case None:
            return 250, ""
        case smtplib.SMTPRecipientsRefused():
            ((code, refusal),) = error.recipients.values()
            return code, refusal.decode()
        case smtplib.SMTPResponseException(smtp_code=code, smtp_error=text):
            return code, text.decode() if isinstance(text, bytes) else text
    return 0, f"{type(error).__name__}: {error}"
