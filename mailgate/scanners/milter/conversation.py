"""What is said to a milter about one session, step by step, and what it answers.

    connect - helo - (mail - rcpt... - data - headers - end of header - body... - end of body)...

A step that the milter does not want is not sent, one that it takes in silence is not waited for.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Protocol

from twisted.internet.interfaces import IReactorTime

from mailgate.message.header import MAX_HEADER_LINES
from mailgate.reply import Reply
from mailgate.scanners.milter.error import MilterError
from mailgate.scanners.milter.link import MilterLink
from mailgate.scanners.milter.macros import macros_for, told_at
from mailgate.wire.milter.codec import (
    Answer,
    BodyReplaced,
    Change,
    HeaderAdded,
    HeaderChanged,
    HeaderInserted,
    Options,
    PacketError,
    Quarantined,
    RecipientAdded,
    RecipientRemoved,
    ReplyGiven,
    SenderChanged,
    options_data,
    packet,
    strings,
)
from mailgate.wire.milter.negotiation import Agreement, agree
from mailgate.wire.milter.words import STEP_BITS, Actions, Code, MacroStage, Plain, Steps

__all__ = ["GO_ON", "MAX_CHANGES", "MAX_REMOVED", "BodySink", "Conversation", "Outcome", "Patience"]

#: Changes of one message, apart from pieces of a body and fields that are removed: of these a message may have so many
#: as it has lines, as no sender shall be able to make a milter fail.
MAX_CHANGES, MAX_REMOVED = 1000, MAX_HEADER_LINES
#: Octets in all of the fields and addresses that a milter changes.
_MAX_CHANGED = 512 * 1024
#: Octets of a field's name that are told.
_MAX_NAME = 998
#: So many times as long as for one answer is waited for all of one question, whatever the milter says of its progress.
_LONGEST = 10

_PORT = struct.Struct("!H")

Macros = Mapping[str, str]
"""What is known, by the names of macros without braces; a step tells those that belong to it."""


class BodySink(Protocol):
    """Takes a new body as it comes."""

    def write(self, data: bytes, /) -> None:
        """A piece of it; MilterError where it is too much."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds: for an answer to a command of the envelope, to a piece of the content, and to its end. A milter that
    says that it makes progress has so many again, up to ten times."""

    command: float
    content: float
    end: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a milter says to a step: its word, its own reply where it gives one, and what it changes.

    `is_final`: it wants to hear nothing more of this (the session up to HELO, later the message; a recipient that is
    refused is refused alone).
    """

    word: Plain
    reply: Reply | None = None
    changes: tuple[Change, ...] = field(default=())
    has_body: bool = False

    @property
    def is_final(self) -> bool:
        return self.word not in (Plain.CONTINUE, Plain.SKIP)

    @property
    def is_refusal(self) -> bool:
        """Whether it is a no, for good or for now."""
        return self.word in (Plain.REJECT, Plain.TEMPFAIL, Plain.SHUTDOWN, Plain.CONNECTION_FAILURE)


GO_ON = Outcome(Plain.CONTINUE)


class Conversation:
    """A conversation on a link whose milter has agreed. Whatever fails with MilterError, or is given up, ends the link.

    `server` names the milter for people, `more_macros` are those that are told at the connection beside the usual ones.
    Whoever holds it asks one step at a time, in their order.
    """

    def __init__(
        self,
        link: MilterLink,
        agreement: Agreement,
        patience: Patience,
        clock: IReactorTime,
        server: str,
        more_macros: Sequence[str] = (),
    ) -> None:
        self.agreement = agreement
        self.server = server
        self._link = link
        self._patience = patience
        self._clock = clock
        self._more_macros = more_macros
        self._has_message = False

    @classmethod
    async def begin(
        cls,
        link: MilterLink,
        offered: Options,
        patience: Patience,
        clock: IReactorTime,
        server: str,
        more_macros: Sequence[str] = (),
    ) -> Conversation:
        """Negotiate on a link that has been opened just now; MilterError."""
        try:
            link.ask()
            await link.send(packet(Code.OPTIONS, options_data(offered)), patience.command)
            answer = await link.answer(patience.command)
            if not isinstance(answer, Options):
                raise MilterError(f"{_name(answer)} where it has to say what it can do")
            link.answered()
            try:
                agreement = agree(offered, answer)
            except PacketError as error:
                raise MilterError(str(error)) from None
        except BaseException as error:
            link.abort(str(error))
            raise
        link.allow(agreement.max_data)
        return cls(link, agreement, patience, clock, server, more_macros)

    @property
    def is_open(self) -> bool:
        """Whether the milter can be asked."""
        return self._link.is_open

    @property
    def fault(self) -> str:
        """Why it cannot be asked any more."""
        return self._link.fault

    async def connect(self, name: str, address: IPv4Address | IPv6Address | None, port: int, macros: Macros) -> Outcome:
        """Who has connected; without an address, somebody on this machine."""
        data = strings(_octets(name))
        if address is None:
            data += b"U"
        else:
            data += str(address.version).encode() + _PORT.pack(port & 0xFFFF) + strings(str(address).encode())
        return await self._step(Code.CONNECT, data, MacroStage.CONNECT, macros)

    async def helo(self, name: str, macros: Macros) -> Outcome:
        """How it introduces itself."""
        return await self._step(Code.HELO, strings(_octets(name)), MacroStage.HELO, macros)

    async def mail(self, sender: str, parameters: Iterable[str], macros: Macros) -> Outcome:
        """A message begins; `sender` is without angle brackets."""
        self._has_message = True
        return await self._step(Code.MAIL, _path(sender, parameters), MacroStage.MAIL, macros)

    async def rcpt(self, recipient: str, parameters: Iterable[str], macros: Macros) -> Outcome:
        """A recipient of it."""
        return await self._step(Code.RCPT, _path(recipient, parameters), MacroStage.RCPT, macros)

    async def data(self, macros: Macros) -> Outcome:
        """Its envelope is complete."""
        if self.agreement.version < 4:
            return GO_ON
        return await self._step(Code.DATA, b"", MacroStage.DATA, macros)

    async def content(
        self, fields: Iterable[tuple[bytes, bytes]], body: Iterable[bytes], macros: Macros, sink: BodySink
    ) -> Outcome:
        """The content: names and values of the fields (folded by CRLF and white space, with the space behind the
        colon), then the body in pieces of any size. A new body goes to `sink`."""
        outcome = await self._header(fields, macros)
        if outcome.is_final:
            return outcome
        outcome = await self._body(body)
        if outcome.is_final:
            return outcome
        outcome = await self._step(Code.END_OF_BODY, b"", MacroStage.END_OF_BODY, macros, sink)
        self._has_message = False
        return outcome

    async def abort(self) -> None:
        """The message is over before its end."""
        if self._has_message:
            self._has_message = False
            await self._link.send(packet(Code.ABORT), self._patience.command)

    async def renew(self) -> None:
        """The session is over, and another one follows on this connection."""
        await self.abort()
        await self._link.send(packet(Code.QUIT_NEW), self._patience.command)

    def close(self) -> None:
        """The session is over."""
        self._link.close((packet(Code.ABORT) if self._has_message else b"") + packet(Code.QUIT))

    async def _header(self, fields: Iterable[tuple[bytes, bytes]], macros: Macros) -> Outcome:
        keeps_space = self.agreement.keeps_space
        for name, value in fields:
            # Line ends within a field are single LFs, as Sendmail has it; a zero octet would end the string. What does
            # not fit a packet is cut: no sender shall be able to make the milter fail.
            text = value.replace(b"\r\n", b"\n").replace(b"\0", b" ")
            text = text if keeps_space else text.lstrip(b" \t")
            name = name[:_MAX_NAME]
            data = strings(name, text[: self.agreement.max_data - len(name) - 2])
            outcome = await self._step(Code.HEADER, data, None, macros)
            if outcome.is_final:
                return outcome
        return await self._step(Code.END_OF_HEADER, b"", MacroStage.END_OF_HEADER, macros)

    async def _body(self, body: Iterable[bytes]) -> Outcome:
        if self.agreement.leaves_out(Steps.NO_BODY):
            return GO_ON
        size = self.agreement.max_data
        for piece in body:
            for at in range(0, len(piece), size):
                outcome = await self._step(Code.BODY, piece[at : at + size], None, {})
                if outcome.word is Plain.SKIP:
                    return GO_ON
                if outcome.is_final:
                    return outcome
        return GO_ON

    async def _step(
        self, code: Code, data: bytes, stage: MacroStage | None, macros: Macros, sink: BodySink | None = None
    ) -> Outcome:
        unwanted, quiet = STEP_BITS[code]
        if self.agreement.leaves_out(unwanted):
            return GO_ON
        link = self._link
        patience = self._patience_for(code)
        octets = packet(code, data)
        if stage is not None:
            octets = self._macros(code, stage, macros) + octets
        if self.agreement.is_quiet(quiet):
            await link.send(octets, patience)
            return GO_ON
        try:
            link.ask()
            await link.send(octets, patience)
            outcome = await self._outcome(code, patience, sink)
            link.answered()
        except BaseException as error:
            link.abort(str(error) or "it was given up")
            raise
        return outcome

    def _macros(self, code: Code, stage: MacroStage, macros: Macros) -> bytes:
        told = macros_for(told_at(stage, self.agreement.macros, self._more_macros), macros)
        if not told:
            return b""
        data = code.value + b"".join([strings(_octets(name), _octets(value)) for name, value in told])
        return packet(Code.MACROS, data)

    def _patience_for(self, code: Code) -> float:
        if code is Code.END_OF_BODY:
            return self._patience.end
        is_content = code in (Code.HEADER, Code.END_OF_HEADER, Code.BODY)
        return self._patience.content if is_content else self._patience.command

    async def _outcome(self, code: Code, patience: float, sink: BodySink | None) -> Outcome:
        changes: list[Change] = []
        changed = removed = 0
        has_body = False
        end = self._clock.seconds() + _LONGEST * patience
        while True:
            left = end - self._clock.seconds()
            if left <= 0:
                raise MilterError(f"makes progress for {_LONGEST * patience:.3g} s without an answer")
            answer = await self._link.answer(min(patience, left))
            match answer:
                case Plain.PROGRESS:
                    continue
                case Plain():
                    self._check_word(code, answer)
                    return Outcome(answer, None, tuple(changes), has_body)
                case ReplyGiven(reply):
                    word = Plain.REJECT if reply.is_permanent else Plain.TEMPFAIL
                    return Outcome(word, reply, tuple(changes), has_body)
            if sink is None or isinstance(answer, Options):
                raise MilterError(f"{_name(answer)} in answer to {code.name}")
            self._check_right(answer)
            if isinstance(answer, BodyReplaced):
                has_body = True
                sink.write(answer.data)
                continue
            changes.append(answer)
            changed += _size_of(answer)
            removed += isinstance(answer, HeaderChanged) and not answer.value
            if removed > MAX_REMOVED or len(changes) - removed > MAX_CHANGES or changed > _MAX_CHANGED:
                raise MilterError("changes more of a message than can be meant")

    def _check_word(self, code: Code, word: Plain) -> None:
        is_early = code in (Code.CONNECT, Code.HELO)
        is_skip = word is Plain.SKIP and (code is not Code.BODY or not self.agreement.steps & Steps.SKIP)
        if is_skip or (word is Plain.DISCARD and is_early):
            raise MilterError(f"{word.name} in answer to {code.name}")

    def _check_right(self, change: Change) -> None:
        right = _RIGHTS[type(change)]
        if isinstance(change, RecipientAdded) and change.parameters is not None:
            right = Actions.ADD_RECIPIENTS_WITH_PARAMETERS
        if not self.agreement.actions & right:
            raise MilterError(f"{_name(change)}, which it has not announced")


_RIGHTS: dict[type[Change], Actions] = {
    HeaderAdded: Actions.ADD_HEADERS,
    HeaderInserted: Actions.ADD_HEADERS | Actions.CHANGE_HEADERS,
    HeaderChanged: Actions.CHANGE_HEADERS,
    SenderChanged: Actions.CHANGE_SENDER,
    RecipientAdded: Actions.ADD_RECIPIENTS,
    RecipientRemoved: Actions.REMOVE_RECIPIENTS,
    BodyReplaced: Actions.CHANGE_BODY,
    Quarantined: Actions.QUARANTINE,
}


def _path(address: str, parameters: Iterable[str]) -> bytes:
    return strings(_octets(f"<{address}>"), *map(_octets, parameters))


def _octets(text: str) -> bytes:
    """What a peer has said, without what would end a string."""
    return text.encode("utf-8", "replace").replace(b"\0", b"?")


def _size_of(change: Change) -> int:
    match change:
        case HeaderAdded(name, value) | HeaderInserted(_, name, value) | HeaderChanged(_, name, value):
            return len(name) + len(value)
        case SenderChanged(address) | RecipientAdded(address) | RecipientRemoved(address):
            return len(address)
        case Quarantined(reason):
            return len(reason)
        case BodyReplaced(data):
            return len(data)


def _name(answer: Answer) -> str:
    return answer.name if isinstance(answer, Plain) else type(answer).__name__
