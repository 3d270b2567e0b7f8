"""One mail transaction with a next hop (RFC 5321 section 3.3, RFC 2920, RFC 2033): replies in, commands out, no I/O."""

from __future__ import annotations

import enum
from collections.abc import Sequence

from mailgate.address import Address
from mailgate.envelope import Envelope, EnvelopeRecipient
from mailgate.interfaces import OutcomeKind
from mailgate.relay.attempt import Result
from mailgate.reply import Reply
from mailgate.wire.extensions import Extensions

__all__ = ["Step", "Transaction", "refusal"]

_PROTOCOL_ERROR = Reply.of(451, "4.5.0", "The next hop does not follow the protocol")
_NO_SMTPUTF8 = Reply.of(553, "5.6.7", "The next hop cannot be given an internationalized address")
_BAD_ADDRESS = Reply.of(553, "5.1.3", "The address cannot be written in a command")

#: "Too many recipients", where a reply to RCPT has an enhanced status at all (RFC 3463 section 3.6).
_TOO_MANY = ("", "4.5.3", "5.5.3")
#: In a reply to MAIL: the host has no room, or takes nothing now; that is not about the mail (RFC 3463 section 3.4).
_HOST_IS_BUSY = ("4.3.1", "4.3.2")


class Step(enum.Enum):
    """What is to be done after a reply."""

    WAIT = "wait for the next reply"
    SEND = "write `output`"
    CONTENT = "send the content and its end, then set `end_sent`"
    EMPTY = "send the end of data alone: no recipient is left, and this server drops such a message"
    DONE = "every result is there, and the session is at rest"
    DROP = "every result is there, and the session is good for nothing more"


def refusal(extensions: Extensions, envelope: Envelope, size: int) -> Reply | None:
    """Why this next hop need not even be asked to take a message of `size` octets, or None."""
    if 0 < extensions.max_size < size:
        text = f"The message has {size} octets; the next hop takes {extensions.max_size}"
        return Reply.of(552, "5.3.4", text)
    return _fault_of(envelope.sender)


class Transaction:
    """The dialogue about one message, from MAIL to the last reply.

    With PIPELINING all commands up to DATA are one group, otherwise each waits for the reply before it. `reset` puts
    RSET in front. `reused` says that the session has rested since its last message: if it ends without any answer to
    us, the results say `again`.

    `owed` is the number of replies that are still to come for what was sent. A reply that nobody owes must not be
    given to `receive`.
    """

    __slots__ = (
        "_accepted",
        "_asked",
        "_at",
        "_commands",
        "_first",
        "_lmtp",
        "_peer",
        "_pipelining",
        "_recipients",
        "_results",
        "_reused",
        "end_sent",
        "output",
        "owed",
    )

    def __init__(
        self,
        extensions: Extensions,
        envelope: Envelope,
        recipients: Sequence[EnvelopeRecipient],
        size: int,
        *,
        peer: str,
        lmtp: bool = False,
        reset: bool = False,
        reused: bool = False,
    ) -> None:
        self._peer = peer
        self._lmtp = lmtp
        self._reused = reused
        self._pipelining = extensions.pipelining
        self._recipients = recipients
        self._results: list[Result | None] = [None] * len(recipients)
        self._asked: list[int] = []  # positions of the recipients that RCPT names
        self._accepted: list[int] = []  # those of them that were accepted
        # Replies are counted: -1 is that to RSET, 0 to MAIL, 1 to n to RCPT, n + 1 to DATA; then come the last ones.
        self._first = self._at = -1 if reset else 0
        self._commands: list[bytes] = [b"RSET\r\n"] if reset else []
        parameters = f" SIZE={size}" if extensions.size else ""
        if envelope.body == "8BITMIME" and extensions.eight_bit:
            parameters += " BODY=8BITMIME"
        self._commands.append(f"MAIL FROM:<{envelope.sender}>{parameters}\r\n".encode("ascii"))
        for position, recipient in enumerate(recipients):
            fault = _fault_of(recipient.address)
            if fault is not None:
                self._settle(position, fault, host="")
                continue
            self._asked.append(position)
            self._commands.append(f"RCPT TO:<{recipient.address}>\r\n".encode("ascii"))
        self._commands.append(b"DATA\r\n")
        self.end_sent = False
        self.owed = 0
        self.output = b""

    @property
    def results(self) -> list[Result]:
        """One result for each recipient, in order; complete after DONE, DROP and `abandon`."""
        return [result for result in self._results if result is not None]

    @property
    def needs_reset(self) -> bool:
        """Whether the server may still have something of this transaction when it is over."""
        return not self.end_sent

    def start(self) -> bytes:
        """What to write first; nothing where no recipient can be asked for: then the results are there."""
        if not self._asked:
            return b""
        if self._pipelining:
            self.owed = len(self._commands)
            return b"".join(self._commands)
        self.owed = 1
        return self._commands[0]

    def receive(self, reply: Reply) -> Step:
        """Take the next reply."""
        at = self._at
        self.owed -= 1
        if reply.code == 421:
            # The server closes, whatever the command was (RFC 5321 section 3.8).
            self.abandon(reply, "the next hop closes the session", host=self._peer)
            return Step.DROP
        self._at = at + 1
        last = len(self._asked)
        if at < 0:
            return self._rset(reply)
        if at == 0:
            return self._mail(reply)
        if at <= last:
            return self._rcpt(self._asked[at - 1], reply)
        if at == last + 1:
            return self._data(reply)
        return self._final(at - last - 2, reply)

    def abandon(self, reply: Reply, reason: str, *, host: str = "", is_ours: bool = False) -> None:
        """End it here: who has no result is deferred, or failed where `reply` is 5yz.

        `is_ours`: the reason lies with us, so that no other host would do better.
        """
        nothing_heard = self._at == self._first
        if self.end_sent:
            reason += ", after the end of data: it may have been delivered"
        next_host = not self.end_sent and not is_ours
        again = nothing_heard and self._reused and not is_ours
        for position in range(len(self._results)):
            self._settle(position, reply, host=host, reason=reason, next_host=next_host, again=again)

    # -- Replies

    def _rset(self, reply: Reply) -> Step:
        if reply.is_positive:
            return self._proceed()
        self._at = self._first  # that was no answer to anything of this message
        return self._stray(reply)

    def _mail(self, reply: Reply) -> Step:
        if reply.is_positive:
            return self._proceed()
        if reply.is_intermediate:
            return self._stray(reply)
        for position in self._asked:
            self._settle(position, reply, next_host=reply.status in _HOST_IS_BUSY)
        return Step.WAIT if self._pipelining else Step.DONE

    def _rcpt(self, position: int, reply: Reply) -> Step:
        if reply.is_intermediate:
            return self._stray(reply)
        if not reply.is_positive:
            # RFC 5321 section 4.5.3.1.10: a limit was met. Those before it are served, the others at once after them.
            limit = bool(self._accepted) and reply.code in (452, 552) and reply.status in _TOO_MANY
            self._settle(position, reply, kind=OutcomeKind.DEFERRED if limit else None, again=limit)
        elif self._results[position] is None:
            self._accepted.append(position)
        return self._proceed()

    def _data(self, reply: Reply) -> Step:
        if reply.is_positive:
            return self._stray(reply)
        if not reply.is_intermediate:
            for position in self._accepted:
                self._settle(position, reply)
            return Step.DONE
        if not self._accepted:
            # RFC 2033 section 4.2 forbids this reply; and how many an empty message would get is anyone's guess.
            if self._lmtp:
                return Step.DROP
            self.owed = 1
            return Step.EMPTY
        self.owed = len(self._accepted) if self._lmtp else 1
        return Step.CONTENT

    def _final(self, number: int, reply: Reply) -> Step:
        if reply.is_intermediate or (self._accepted and reply.is_positive and not self.end_sent):
            return self._stray(reply)
        early = bool(self._accepted) and not self.end_sent
        per_recipient = self._lmtp and not early
        for position in self._accepted[number : number + 1] if per_recipient else self._accepted:
            self._settle(position, reply)
        if early:
            return Step.DROP
        return Step.WAIT if self.owed else Step.DONE

    def _proceed(self) -> Step:
        if self._pipelining:
            return Step.WAIT
        index = self._at - self._first
        if index == len(self._commands) - 1 and not self._accepted:
            return Step.DONE
        self.owed = 1
        self.output = self._commands[index]
        return Step.SEND

    def _stray(self, reply: Reply) -> Step:
        self.abandon(_PROTOCOL_ERROR, f"{self._peer} gave a reply that does not fit: {reply}")
        return Step.DROP

    def _settle(
        self,
        position: int,
        reply: Reply,
        *,
        kind: OutcomeKind | None = None,
        host: str | None = None,
        reason: str = "",
        next_host: bool = False,
        again: bool = False,
    ) -> None:
        if self._results[position] is not None:
            return
        self._results[position] = Result(
            self._recipients[position],
            kind or _kind_of(reply),
            reply,
            self._peer if host is None else host,
            next_host,
            reason,
            again,
        )


def _kind_of(reply: Reply) -> OutcomeKind:
    if reply.is_positive:
        return OutcomeKind.DELIVERED
    # 503 says that the server has lost its place, not that the mail is bad: our sequence is right.
    return OutcomeKind.FAILED if reply.is_permanent and reply.code != 503 else OutcomeKind.DEFERRED


def _fault_of(address: Address) -> Reply | None:
    text = f"{address.local_part}@{address.domain}"
    if not text.isprintable():
        return _BAD_ADDRESS
    return None if text.isascii() else _NO_SMTPUTF8
