"""The client's side of Dovecot's authentication protocol, version 1 (1.1 and 1.2), as Postfix and Exim speak it.

Lines of fields between tabs. Both sides greet; then each AUTH has an id of ours, and OK, FAIL or CONT with that id
answers it, in any order.
"""

from __future__ import annotations

import itertools
import re
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall, IReactorTime, ITCPTransport
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure

from mailgate.auth.checker import AuthUnavailable

__all__ = ["MAX_LINE", "Accepted", "DovecotClient", "Question", "Refused"]

#: The longest line that Dovecot takes, in octets.
MAX_LINE = 16384

_ESCAPED = re.compile(rb"\x01(.)", re.DOTALL)
_MEANING = {b"0": b"\0", b"1": b"\1", b"t": b"\t", b"r": b"\r", b"n": b"\n"}
_ESCAPES = {meaning: b"\1" + code for code, meaning in _MEANING.items()}
_TO_ESCAPE = re.compile(rb"[\x00\x01\t\r\n]")

#: What answers a challenge after a token: OAUTHBEARER asks for it before it says no (RFC 7628 section 3.2.3).
_GIVEN_UP = b64encode(b"\1")


@dataclass(frozen=True, slots=True)
class Question:
    """One AUTH: `parameters` as in "rip=192.0.2.1", `response` what the mechanism begins with."""

    mechanism: str
    parameters: Sequence[bytes]
    response: bytes = field(repr=False)

    def line(self, number: int) -> bytes:
        """The line without its end."""
        fields = (b"AUTH", b"%d" % number, self.mechanism.encode(), *map(_escape, self.parameters))
        return b"\t".join((*fields, b"resp=" + b64encode(self.response)))


@dataclass(frozen=True, slots=True)
class Accepted:
    """OK: the user, as Dovecot knows it."""

    user: bytes


@dataclass(frozen=True, slots=True)
class Refused:
    """FAIL."""


@dataclass(frozen=True, slots=True)
class _Pending:
    answer: Deferred[Accepted | Refused]
    late: IDelayedCall
    asked_at: float


class DovecotClient(LineOnlyReceiver):
    """One connection. `ready` fires when the greeting is complete, and fails with AuthUnavailable where it breaks off.

    `number` tells our connections apart for Dovecot, which takes no two with the same at one time; 1 to 2**31 - 1.
    """

    delimiter = b"\n"
    MAX_LENGTH = MAX_LINE
    transport: ITCPTransport

    def __init__(self, clock: IReactorTime, number: int) -> None:
        self.ready: Deferred[None] = Deferred()
        self.mechanisms: frozenset[str] = frozenset()
        self.is_open = False
        self._clock = clock
        self._number = number
        self._ids = itertools.cycle(range(1, 2**31))
        self._pending: dict[int, _Pending] = {}
        self._challenged: set[int] = set()
        self._heard_at = 0.0
        self._is_known_version = False
        self._fault = "Dovecot has closed the connection"

    def connectionMade(self) -> None:
        """Greet; Dovecot does so without waiting."""
        self.is_open = True
        self._send(b"VERSION\t1\t1")
        self._send(b"CPID\t%d" % self._number)

    def ask(self, question: Question, timeout: float) -> Deferred[Accepted | Refused]:
        """The answer; fails with AuthUnavailable where Dovecot has none now, or gives none within `timeout` seconds."""
        one = next(self._ids)
        line = question.line(one)
        if not self.is_open:
            return fail(AuthUnavailable(self._fault))
        if len(line) > MAX_LINE:
            return fail(AuthUnavailable("the question is longer than Dovecot takes"))
        answer: Deferred[Accepted | Refused] = Deferred()
        late = self._clock.callLater(timeout, self._late, one, timeout)
        self._pending[one] = _Pending(answer, late, self._clock.seconds())
        self._send(line)
        return answer

    def lineReceived(self, line: bytes) -> None:  # noqa: N802 (Twisted's)
        """One line of Dovecot; those that we do not know mean nothing to us."""
        if not self.is_open:
            return  # it stood behind the one with which we gave up
        self._heard_at = self._clock.seconds()
        name, *fields = line.split(b"\t")
        if name in (b"OK", b"FAIL", b"CONT") and fields:
            self._answered(name, fields)
        elif name == b"VERSION":
            self._is_known_version = fields[:1] == [b"1"]
        elif name == b"MECH" and fields:
            self.mechanisms |= {fields[0].decode("ascii", "replace").upper()}
        elif name == b"DONE" and not self.ready.called:
            if self._is_known_version:
                self.ready.callback(None)
            else:
                self._give_up("Dovecot speaks another version of its protocol")

    def lineLengthExceeded(self, line: bytes) -> None:  # noqa: N802 (Twisted's)
        """Whatever this is, it is not Dovecot's protocol."""
        self._give_up("Dovecot sends a line that is too long")

    def connectionLost(self, reason: Failure | None = None) -> None:
        """All that waits has no answer."""
        self.is_open = False
        if not self.ready.called:
            self.ready.errback(AuthUnavailable(self._fault))
        for one in list(self._pending):
            self._take(one).answer.errback(AuthUnavailable(self._fault))

    def close(self) -> None:
        """End the connection."""
        self._give_up("the connection to Dovecot is closed")

    def _answered(self, name: bytes, fields: Sequence[bytes]) -> None:
        one = int(fields[0]) if fields[0].isdigit() and len(fields[0]) <= 10 else 0
        if one not in self._pending:
            return  # it was late
        if name == b"CONT" and one not in self._challenged:
            self._challenged.add(one)
            self._send(b"CONT\t%d\t%b" % (one, _GIVEN_UP))
            return
        parameters = dict(_parameter(field) for field in fields[1:])
        answer = self._take(one).answer
        user = parameters.get(b"user", b"")
        if name == b"OK" and user:
            answer.callback(Accepted(user))
        elif name == b"FAIL" and b"temp" not in parameters and parameters.get(b"code") != b"temp_fail":
            answer.callback(Refused())
        else:
            wrong = {b"OK": "names no user", b"FAIL": "has no answer now", b"CONT": "asks for more than was asked"}
            answer.errback(AuthUnavailable(f"Dovecot {wrong[name]}"))

    def _late(self, one: int, timeout: float) -> None:
        pending = self._take(one)
        if self._heard_at <= pending.asked_at:
            # Not a word since: the connection may be dead, and the next question gets a new one.
            self._give_up("Dovecot is silent")
        else:
            self._send(b"CANCEL\t%d" % one)
        pending.answer.errback(AuthUnavailable(f"Dovecot gave no answer within {timeout:.3g} s"))

    def _take(self, one: int) -> _Pending:
        pending = self._pending.pop(one)
        self._challenged.discard(one)
        if pending.late.active():
            pending.late.cancel()
        return pending

    def _give_up(self, fault: str) -> None:
        if self.is_open:
            self.is_open = False
            self._fault = fault
            self.transport.abortConnection()

    def _send(self, line: bytes) -> None:
        self.transport.write(line + b"\n")


def _escape(octets: bytes) -> bytes:
    return _TO_ESCAPE.sub(lambda match: _ESCAPES[match[0]], octets)


def _parameter(one: bytes) -> tuple[bytes, bytes]:
    name, _, value = one.partition(b"=")
    return name, _ESCAPED.sub(lambda match: _MEANING.get(match[1], match[1]), value)
