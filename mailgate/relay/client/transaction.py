"""One mail transaction with a next hop: replies in, commands out, no I/O.

RFC 5321 section 3.3, RFC 2920 (PIPELINING), RFC 2033 (LMTP), RFC 3030 (BDAT), RFC 9422 (LIMITS), XFORWARD.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

from mailgate.envelope import Envelope, EnvelopeRecipient
from mailgate.interfaces import OutcomeKind
from mailgate.relay.attempt import Result
from mailgate.relay.client.carriage import NO_SMTPUTF8, PLAIN, Carriage, Hop, handover_of, recipient_parameters
from mailgate.relay.client.paths import check_sender, check_size, fault_of, reverse_path_of, xforward_of
from mailgate.relay.findings import PROTOCOL_ERROR, for_now
from mailgate.reply import Reply
from mailgate.wire.extensions import NO_LIMITS, Extensions, Limits

__all__ = [
    "HOST_IS_BUSY",
    "OVER_LIMIT",
    "Step",
    "Transaction",
    "begin",
    "kind_of",
]

OVER_LIMIT = Reply.of(452, "4.5.3", "More recipients than the next hop takes at one time")

#: "Too many recipients", where a reply to RCPT has an enhanced status at all (RFC 3463 section 3.6).
_TOO_MANY = ("", "4.5.3", "5.5.3")
#: In a reply to MAIL: the host has no room, or takes nothing now; that is not about the mail (RFC 3463 section 3.4).
HOST_IS_BUSY = ("4.3.1", "4.3.2")


class Step(enum.Enum):
    """What is to be done after a reply."""

    WAIT = "wait for the next reply"
    SEND = "write `output`"
    CONTENT = "send the content, or its next chunk by BDAT; call `announce` before each write"
    EMPTY = "send the end of data alone: no recipient is left, and this server drops such a message"
    DONE = "every result is there, and the session is at rest"
    DROP = "every result is there, and the session is good for nothing more"


class Transaction:
    """The dialogue about one message, from MAIL to the last reply.

    With PIPELINING all commands up to DATA are one group, otherwise each waits for the reply before it. `reset` puts
    RSET in front, then come the commands of `xforward`; a refusal of those is none of the mail. `reused` says that the
    session has rested since its last message: if it ends without any answer to us, the results say `again`.

    Content that goes by BDAT does so after the replies to RCPT, never with them: a server that takes no recipient is
    given none, and a session that turns out to be dead has not had the end of it.

    Recipients over the server's limits are not named; the results say `again`. `domains` are those of recipients that
    the session has named, to which this adds its own; `is_full` tells that one was left out that the session has no
    room for. `is_fallback` as in IConnection.

    `owed` is the number of replies that are still to come for what was sent. A reply that nobody owes must not be
    given to `receive`.
    """

    __slots__ = (
        "_accepted",
        "_asked",
        "_at",
        "_by_chunks",
        "_commands",
        "_domains",
        "_first",
        "_handover",
        "_is_spoilt",
        "_last",
        "_later",
        "_lmtp",
        "_peer",
        "_pipelining",
        "_recipients",
        "_reset",
        "_results",
        "_reused",
        "end_sent",
        "is_full",
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
        carriage: Carriage = PLAIN,
        xforward: Sequence[bytes] = (),
        domains: set[str] | None = None,
        lmtp: bool = False,
        reset: bool = False,
        reused: bool = False,
        is_fallback: bool = False,
    ) -> None:
        self._peer = peer
        self._lmtp = lmtp
        self._reset = reset
        self._reused = reused
        self._pipelining = extensions.pipelining
        self._by_chunks = carriage.by_chunks
        dsn = extensions.dsn
        self._handover = handover_of(dsn, lmtp=lmtp, relayed=carriage.relayed)
        self._recipients = recipients
        self._results: list[Result | None] = [None] * len(recipients)
        self._asked: list[int] = []  # positions of the recipients that RCPT names
        self._accepted: list[int] = []  # those of them that were accepted
        self._later: list[int] = []  # positions of those over the server's limits
        self._domains = set() if domains is None else domains
        self.is_full = False
        sender = str(reverse_path_of(envelope, recipients))
        utf8 = carriage.utf8 or not sender.isascii()
        limits = extensions.limits
        lines: list[str] = []
        for position, recipient in enumerate(recipients):
            address = str(recipient.address)
            fault = fault_of(recipient.address, utf8=extensions.utf8)
            if fault is not None:
                elsewhere = fault is NO_SMTPUTF8
                reply = for_now(fault) if elsewhere and is_fallback else fault
                self._settle(position, reply, host="", next_host=elsewhere)
                continue
            if limits is not NO_LIMITS and self._is_over(limits, recipient):
                self._later.append(position)
                continue
            utf8 = utf8 or not address.isascii()
            self._asked.append(position)
            if dsn and (recipient.notify or recipient.orcpt):
                lines.append(f"RCPT TO:<{address}>{recipient_parameters(recipient, utf8=carriage.utf8)}\r\n")
            else:
                lines.append(f"RCPT TO:<{address}>\r\n")
        parameters = f" SIZE={size}{carriage.parameters}" if extensions.size else carriage.parameters
        if utf8:
            parameters += " SMTPUTF8"
        self._commands: list[bytes] = [b"RSET\r\n"] if reset else []
        if xforward:
            self._commands += xforward
        # Replies are counted: 0 is that to MAIL, up to `_last` come those to RCPT and DATA, then those to the content.
        self._first = self._at = -len(self._commands)
        self._commands.append(f"MAIL FROM:<{sender}>{parameters}\r\n".encode())
        self._commands += map(str.encode, lines)
        if not carriage.by_chunks:
            self._commands.append(b"DATA\r\n")
        self._last = len(self._asked) + (not carriage.by_chunks)
        self._is_spoilt = False
        self.end_sent = False
        self.owed, self.output = 0, b""

    @property
    def results(self) -> list[Result]:
        """One result for each recipient, in order; complete after DONE, DROP and `abandon`."""
        for position in self._later:
            reason = f"{self._peer} has named its limits"
            self._settle(position, OVER_LIMIT, kind=OutcomeKind.DEFERRED, host="", reason=reason, again=True)
        return list(filter(None, self._results))

    @property
    def needs_reset(self) -> bool:
        """Whether the server may still have something of this transaction when it is over."""
        return self._is_spoilt or not self.end_sent

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
            # The server closes, whatever the command was (RFC 5321 section 3.8); to the content it is an answer, too.
            if self.end_sent:
                self._at = at + 1
                self._final(at - self._last - 1, reply)
            self.abandon(reply, "the next hop closes the session", host=self._peer)
            return Step.DROP
        self._at = at + 1
        if at < 0:
            return self._rset(reply) if self._reset and at == self._first else self._xforward(reply)
        if at == 0:
            return self._mail(reply)
        if at <= len(self._asked):
            return self._rcpt(self._asked[at - 1], reply)
        if at <= self._last:
            return self._data(reply)
        if self._by_chunks and not self.end_sent:
            return self._chunk(reply)
        return self._final(at - self._last - 1, reply)

    def announce(self, *, is_last: bool) -> None:
        """Content goes out; with the last of it, its end."""
        if self._by_chunks:
            self.owed = len(self._accepted) if is_last and self._lmtp else 1
        self.end_sent = is_last

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

    def _xforward(self, reply: Reply) -> Step:
        return self._stray(reply) if reply.is_intermediate else self._proceed()

    def _mail(self, reply: Reply) -> Step:
        if reply.is_positive:
            return self._proceed()
        if reply.is_intermediate:
            return self._stray(reply)
        for position in (*self._asked, *self._later):
            self._settle(position, reply, next_host=reply.status in HOST_IS_BUSY)
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
                self._settle(position, reply, is_shared=True)
            return Step.DONE
        if not self._accepted:
            # RFC 2033 section 4.2 forbids this reply; and how many an empty message would get is anyone's guess.
            if self._lmtp:
                return Step.DROP
            self.owed = 1
            return Step.EMPTY
        self.owed = len(self._accepted) if self._lmtp else 1
        return Step.CONTENT

    def _chunk(self, reply: Reply) -> Step:
        """To a chunk that was not the last."""
        self._at -= 1
        if reply.is_intermediate:
            return self._stray(reply)
        if reply.is_positive:
            return Step.CONTENT
        for position in self._accepted:
            self._settle(position, reply, is_shared=True)
        return Step.DONE

    def _final(self, number: int, reply: Reply) -> Step:
        if reply.is_intermediate or (self._accepted and reply.is_positive and not self.end_sent):
            return self._stray(reply)
        # RFC 3030 section 4.2: BDAT that has failed leaves the server in a state that only RSET ends.
        self._is_spoilt = self._is_spoilt or (self._by_chunks and not reply.is_positive)
        early = bool(self._accepted) and not self.end_sent
        per_recipient = self._lmtp and not early
        for position in self._accepted[number : number + 1] if per_recipient else self._accepted:
            self._settle(position, reply, is_shared=not per_recipient)
        if early:
            return Step.DROP
        return Step.WAIT if self.owed else Step.DONE

    def _proceed(self) -> Step:
        index = self._at - self._first
        if self._by_chunks and index == len(self._commands):
            return Step.CONTENT if self._accepted else Step.DONE
        if self._pipelining:
            return Step.WAIT
        if index == len(self._commands) - 1 and not (self._accepted or self._by_chunks):
            return Step.DONE
        self.owed = 1
        self.output = self._commands[index]
        return Step.SEND

    def _stray(self, reply: Reply) -> Step:
        self.abandon(PROTOCOL_ERROR, f"{self._peer} gave a reply that does not fit: {reply}")
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
        is_shared: bool = False,
    ) -> None:
        if self._results[position] is not None:
            return
        self._results[position] = Result(
            self._recipients[position],
            kind or kind_of(reply),
            reply,
            self._peer if host is None else host,
            next_host,
            reason,
            again,
            self._handover,
            is_shared=is_shared,
        )

    def _is_over(self, limits: Limits, recipient: EnvelopeRecipient) -> bool:
        """Whether one more recipient is one too many."""
        if 0 < limits.recipients <= len(self._asked):
            return True
        if limits.domains:
            domain = recipient.address.domain
            if domain not in self._domains and len(self._domains) >= limits.domains:
                self.is_full = True
                return True
            self._domains.add(domain)
        return False


def kind_of(reply: Reply) -> OutcomeKind:
    """What an answer means for a recipient."""
    if reply.is_positive:
        return OutcomeKind.DELIVERED
    # 503 says that the server has lost its place, not that the mail is bad: our sequence is right.
    return OutcomeKind.FAILED if reply.is_permanent and reply.code != 503 else OutcomeKind.DEFERRED


def begin(
    hop: Hop,
    envelope: Envelope,
    recipients: Sequence[EnvelopeRecipient],
    carriage: Carriage,
    size: int,
    *,
    domains: set[str],
    reset: bool,
    reused: bool,
) -> Transaction:
    """The transaction; UnsendableError where the next hop need not even be asked to take a message of `size` octets."""
    extensions = hop.extensions
    check_size(hop, size)
    check_sender(hop, reverse_path_of(envelope, recipients))
    return Transaction(
        extensions,
        envelope,
        recipients,
        size,
        peer=hop.peer,
        carriage=carriage,
        xforward=xforward_of(hop, envelope),
        domains=domains,
        lmtp=hop.target.lmtp,
        reset=reset,
        reused=reused,
        is_fallback=hop.is_fallback,
    )
