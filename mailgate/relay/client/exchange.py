"""What is said to a next hop step by step, and the replies that it owes to each step; no I/O.

Where a message goes in one piece, `transaction` leads the whole dialogue. Here whoever leads it waits for each answer
before the next thing is known: the recipients come one by one, and the content long after them.
"""

from __future__ import annotations

from collections.abc import Sequence

from mailgate.relay.attempt import Result
from mailgate.relay.client.transaction import Step
from mailgate.relay.findings import PROTOCOL_ERROR
from mailgate.reply import Reply

__all__ = ["BrokenOffError", "Exchange", "Octets", "Words"]


class BrokenOffError(Exception):
    """The session has ended within a step. `replies` came before that; `reply` is the peer's own last word where `host`
    names it, else our finding. `end_sent`: the end of the content had gone out, so nobody knows what became of it."""

    def __init__(self, reply: Reply, reason: str, host: str = "", *, is_ours: bool = False) -> None:
        """`is_ours`: the reason lies with us, and no other session would do better."""
        super().__init__(reason)
        self.reply = reply
        self.host = host
        self.is_ours = is_ours
        self.replies: Sequence[Reply] = ()
        self.end_sent = False


class Exchange:
    """One step. `owed` is the number of replies that are still to come for what was sent; one that nobody owes must
    not be given to `receive`."""

    #: It settles nobody by itself.
    results: Sequence[Result] = ()
    output = b""
    end_sent = False

    def __init__(self, peer: str) -> None:
        self._peer = peer
        self.owed = 0
        self.replies: list[Reply] = []
        self._broken: BrokenOffError | None = None

    @property
    def needs_reset(self) -> bool:
        """Whether the server may still have something of a transaction after it."""
        raise NotImplementedError

    def receive(self, reply: Reply) -> Step:
        """Take the next reply."""
        self.owed -= 1
        if reply.code == 421:
            self.abandon(reply, f"{self._peer} closes the session: {reply}", host=self._peer)
            return Step.DROP
        return self._take(reply)

    def announce(self, *, is_last: bool) -> None:
        """Content goes out; with the last of it, its end."""
        raise AssertionError("no content belongs to this step")

    def abandon(self, reply: Reply, reason: str, *, host: str = "", is_ours: bool = False) -> None:
        """It ends here, before it was through."""
        if self._broken is None:
            self._broken = BrokenOffError(reply, reason, host, is_ours=is_ours)

    def outcome(self) -> list[Reply]:
        """The replies, once it is over; BrokenOffError."""
        if self._broken is not None:
            self._broken.replies, self._broken.end_sent = tuple(self.replies), self.end_sent
            raise self._broken
        return self.replies

    def _take(self, reply: Reply) -> Step:
        raise NotImplementedError

    def _stray(self, reply: Reply) -> Step:
        self.abandon(PROTOCOL_ERROR, f"{self._peer} gave a reply that does not fit: {reply}")
        return Step.DROP


class Words(Exchange):
    """Commands, in one write where the host pipelines. A refusal of one from `vital` on ends it: without PIPELINING the
    rest is not said, and has no replies."""

    def __init__(self, peer: str, commands: Sequence[bytes], *, pipelining: bool, vital: int = 0) -> None:
        super().__init__(peer)
        self._commands = commands
        self._pipelining = pipelining
        self._vital = vital

    @property
    def needs_reset(self) -> bool:
        return self._commands[-1] != b"RSET\r\n" or not (self.replies and self.replies[-1].is_positive)

    def start(self) -> bytes:
        """What to write first."""
        if self._pipelining:
            self.owed = len(self._commands)
            return b"".join(self._commands)
        self.owed = 1
        return self._commands[0]

    def _take(self, reply: Reply) -> Step:
        at = len(self.replies)
        if reply.is_intermediate != (self._commands[at] == b"DATA\r\n") and not reply.code >= 400:
            return self._stray(reply)
        self.replies.append(reply)
        at += 1
        if at == len(self._commands):
            return Step.DONE
        if self._pipelining:
            return Step.WAIT
        if reply.code >= 400 and at > self._vital:
            return Step.DONE
        self.owed = 1
        self.output = self._commands[at]
        return Step.SEND


class Octets(Exchange):
    """The content and its end: one reply, or by LMTP one for each of `recipients`. By BDAT each chunk before the last
    has one too, of which only a refusal is kept: it is then all that comes."""

    def __init__(self, peer: str, *, recipients: int, lmtp: bool, by_chunks: bool) -> None:
        super().__init__(peer)
        self._last = recipients if lmtp else 1
        self._by_chunks = by_chunks
        self.owed = 0 if by_chunks else self._last

    @property
    def needs_reset(self) -> bool:
        # RFC 3030 section 4.2: BDAT that has failed leaves the server in a state that only RSET ends.
        has_failed = any(not one.is_positive for one in self.replies)
        return not self.end_sent or (self._by_chunks and has_failed)

    def announce(self, *, is_last: bool) -> None:
        if self._by_chunks:
            self.owed = self._last if is_last else 1
        self.end_sent = is_last

    def receive(self, reply: Reply) -> Step:
        if reply.code != 421 or not self.end_sent:
            return super().receive(reply)
        # It is the answer to the content, as any other that refuses it, and the end of the session. Those who by LMTP
        # have none by then never will.
        self.owed -= 1
        self.replies.append(reply)
        if self.owed:
            self.abandon(reply, f"{self._peer} closed the session: {reply}")
        return Step.DROP

    def _take(self, reply: Reply) -> Step:
        if reply.is_intermediate:
            return self._stray(reply)
        if not self.end_sent:
            if not self._by_chunks:
                return self._early(reply)
            if reply.is_positive:
                return Step.CONTENT
            self.replies.append(reply)
            return Step.DONE
        self.replies.append(reply)
        return Step.WAIT if self.owed else Step.DONE

    def _early(self, reply: Reply) -> Step:
        """A refusal before the end of the content counts, and ends the session: the host takes the rest for what it
        likes."""
        if reply.is_positive:
            return self._stray(reply)
        self.replies.append(reply)
        return Step.DROP
