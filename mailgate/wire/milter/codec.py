"""Packets of the milter protocol as values, in both directions; no I/O.

A packet is its length in four octets (big endian, of what follows), a code of one octet, and data. Strings end with
a zero octet. The protocol has no RFC: it is what libmilter and Sendmail 8.14 speak, version 6.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from mailgate.reply import Reply
from mailgate.wire.milter.words import Code, MacroStage, Plain

__all__ = [
    "SMALL",
    "Answer",
    "BodyReplaced",
    "Change",
    "HeaderAdded",
    "HeaderChanged",
    "HeaderInserted",
    "Options",
    "PacketError",
    "PacketReader",
    "Quarantined",
    "RecipientAdded",
    "RecipientRemoved",
    "ReplyGiven",
    "SenderChanged",
    "encode_answer",
    "options_data",
    "packet",
    "parse_answer",
    "parse_options",
    "strings",
]

#: Octets of data in a packet where nothing else has been agreed on.
SMALL = 65535
#: Lines of a reply, as libmilter has it.
_MAX_LINES = 32

_LENGTH = struct.Struct("!I")
_OPTIONS = struct.Struct("!III")
_REPLY = re.compile(r"([45][0-5][0-9])(?:[ -](.*))?", re.DOTALL)
_STATUS = re.compile(r"([45]\.\d{1,3}\.\d{1,3})(?: |$)")
_LINE_END = re.compile("\r\n|\r|\n")


class PacketError(ValueError):
    """These octets are none of the protocol. The text is the private cause."""


@dataclass(frozen=True, slots=True)
class Options:
    """What one side offers, or the other one chooses. `macros` are names with spaces between, by the stage."""

    version: int
    actions: int
    steps: int
    macros: Mapping[int, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ReplyGiven:
    """The milter's own reply to the command, 4yz or 5yz."""

    reply: Reply


@dataclass(frozen=True, slots=True)
class HeaderAdded:
    """A field at the end of the header section."""

    name: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class HeaderInserted:
    """A field behind the first `index` fields."""

    index: int
    name: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class HeaderChanged:
    """Another value for the field of this name that has this place among its like, from 1; none removes it."""

    index: int
    name: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class SenderChanged:
    """Another sender, with parameters of MAIL."""

    address: bytes
    parameters: bytes = b""


@dataclass(frozen=True, slots=True)
class RecipientAdded:
    """One more recipient, with parameters of RCPT."""

    address: bytes
    parameters: bytes | None = None


@dataclass(frozen=True, slots=True)
class RecipientRemoved:
    """A recipient less."""

    address: bytes


@dataclass(frozen=True, slots=True)
class BodyReplaced:
    """A piece of the new body; the first one replaces the old one."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Quarantined:
    """The message is to be kept back."""

    reason: bytes


Change = (
    HeaderAdded
    | HeaderInserted
    | HeaderChanged
    | SenderChanged
    | RecipientAdded
    | RecipientRemoved
    | BodyReplaced
    | Quarantined
)
Answer = Plain | ReplyGiven | Options | Change


def packet(code: Code, data: bytes = b"") -> bytes:
    """One packet."""
    return _packet(code.value, data)


def strings(*texts: bytes) -> bytes:
    """Strings, each with its end. ValueError where one has a zero octet: it would be two."""
    if any(b"\0" in text for text in texts):
        raise ValueError("a string of the milter protocol has no zero octet")
    return b"".join([text + b"\0" for text in texts])


class PacketReader:
    """Takes packets out of octets as they come. What it keeps is bounded by the packets that may come and have not been
    taken: whoever feeds it takes them before more is read."""

    def __init__(self, limit: int = SMALL) -> None:
        #: The largest data of a packet.
        self.limit = limit
        self._octets = bytearray()

    def __len__(self) -> int:
        return len(self._octets)

    def feed(self, octets: bytes) -> None:
        """Octets have come."""
        self._octets += octets

    def take(self) -> tuple[bytes, bytes] | None:
        """The code and the data of the next packet; None where it is not whole yet. PacketError: it cannot be one."""
        octets = self._octets
        if len(octets) < 4:
            return None
        (length,) = _LENGTH.unpack_from(octets)
        if not 1 <= length <= self.limit + 1:
            raise PacketError(f"a packet of {length} octets, where there are 1 to {self.limit + 1}")
        if len(octets) < 4 + length:
            return None
        code, data = bytes(octets[4:5]), bytes(octets[5 : 4 + length])
        del octets[: 4 + length]
        return code, data


def parse_answer(code: bytes, data: bytes) -> Answer:
    """What a packet of a milter says; PacketError where it is none of the protocol."""
    if code in _PLAIN:
        if data:
            raise PacketError(f"an answer {code!r} with {len(data)} octets, where it has none")
        return Plain(code)
    match code:
        case b"b":
            return BodyReplaced(data)
        case b"i" | b"m":
            if len(data) < 4:
                raise PacketError("a header field without its index")
            (index,) = _LENGTH.unpack_from(data)
            name, value = _exactly(2, data[4:])
            return HeaderInserted(index, name, value) if code == b"i" else HeaderChanged(index, name, value)
        case b"h":
            return HeaderAdded(*_exactly(2, data))
        case b"+" | b"-" | b"q":
            (text,) = _exactly(1, data)
            return RecipientAdded(text) if code == b"+" else (RecipientRemoved if code == b"-" else Quarantined)(text)
        case b"2":
            return RecipientAdded(*_one_or_two(data))
        case b"e":
            return SenderChanged(*_one_or_two(data))
        case b"y":
            return ReplyGiven(_reply(*_exactly(1, data)))
        case b"O":
            return parse_options(data)
    raise PacketError(f"an answer {code!r}, which the protocol does not have")


def encode_answer(answer: Answer) -> bytes:
    """The packet of an answer, as a milter sends it."""
    match answer:
        case Plain():
            return _packet(answer.value)
        case Options():
            return _packet(b"O", options_data(answer))
        case ReplyGiven(reply):
            # A digit behind the code has to begin an enhanced status: else Postfix takes the answer for a fault, and
            # does what its milter_default_action says. What reads it takes a single % for the beginning of a format.
            needs_status = not reply.status and reply.lines[0][:1].isdigit()
            status = f"{reply.code // 100}.0.0" if needs_status else reply.status
            shortened = Reply(reply.code, status, reply.lines[:_MAX_LINES])
            return _packet(b"y", strings(shortened.to_bytes().removesuffix(b"\r\n").replace(b"%", b"%%")))
        case HeaderAdded(name, value):
            return _packet(b"h", strings(name, value))
        case HeaderInserted(index, name, value):
            return _packet(b"i", _LENGTH.pack(index) + strings(name, value))
        case HeaderChanged(index, name, value):
            return _packet(b"m", _LENGTH.pack(index) + strings(name, value))
        case SenderChanged(address, parameters):
            return _packet(b"e", strings(address, *([parameters] if parameters else [])))
        case RecipientAdded(address, None):
            return _packet(b"+", strings(address))
        case RecipientAdded(address, bytes(parameters)):
            return _packet(b"2", strings(address, *([parameters] if parameters else [])))
        case RecipientRemoved(address):
            return _packet(b"-", strings(address))
        case BodyReplaced(data):
            return _packet(b"b", data)
        case Quarantined(reason):
            return _packet(b"q", strings(reason))
    raise TypeError(f"no answer: {answer!r}")


def options_data(options: Options) -> bytes:
    """The data of a negotiation's packet, in either direction."""
    head = _OPTIONS.pack(options.version, options.actions, options.steps)
    return head + b"".join(_LENGTH.pack(stage) + strings(names) for stage, names in options.macros.items())


def parse_options(data: bytes) -> Options:
    """What the data of a negotiation's packet says; PacketError."""
    if len(data) < _OPTIONS.size:
        raise PacketError("a negotiation of too few octets")
    version, actions, steps = _OPTIONS.unpack_from(data)
    macros: dict[int, bytes] = {}
    at = _OPTIONS.size
    while at < len(data):
        end = data.find(b"\0", at + 4)
        if end < 0:
            raise PacketError("a list of macros without its end")
        (stage,) = _LENGTH.unpack_from(data, at)
        if stage not in _MACRO_STAGES or stage in macros:
            raise PacketError(f"macros for the stage {stage}, which there is not, or which has been named")
        macros[stage] = data[at + 4 : end]
        at = end + 1
    return Options(version, actions, steps, macros)


_PLAIN = frozenset(one.value for one in Plain)
_MACRO_STAGES = frozenset(MacroStage)


def _packet(code: bytes, data: bytes = b"") -> bytes:
    return _LENGTH.pack(1 + len(data)) + code + data


def _parse_strings(data: bytes) -> list[bytes]:
    """The strings that data consists of; PacketError where the last one does not end."""
    if not data:
        return []
    if not data.endswith(b"\0"):
        raise PacketError("a string without its end")
    return data[:-1].split(b"\0")


def _exactly(count: int, data: bytes) -> list[bytes]:
    found = _parse_strings(data)
    if len(found) != count:
        raise PacketError(f"{len(found)} strings, where there are {count}")
    return found


def _one_or_two(data: bytes) -> tuple[bytes, bytes]:
    found = _parse_strings(data)
    if not 1 <= len(found) <= 2:
        raise PacketError(f"{len(found)} strings, where there are 1 or 2")
    return found[0], found[1] if len(found) == 2 else b""


def _reply(text: bytes) -> Reply:
    """The reply that a milter gives: "550 5.7.1 Text", each line with the codes or, after the first, without."""
    lines = _LINE_END.split(text.decode("utf-8", "replace").replace("%%", "%"))
    lines = lines[:-1] if len(lines) > 1 and not lines[-1] else lines
    first = _REPLY.fullmatch(lines[0])
    if first is None:
        raise PacketError(f"a reply that is neither 4yz nor 5yz: {lines[0][:80]!r}")
    if len(lines) > _MAX_LINES:
        raise PacketError(f"a reply of more than {_MAX_LINES} lines")
    code = first[1]
    found = _STATUS.match(first[2] or "")
    status = found[1] if found is not None and found[1][0] == code[0] else ""
    return Reply(int(code), status, tuple([_without(_without(line, code, " -"), status, " ") for line in lines]))


def _without(line: str, code: str, behind: str) -> str:
    if code and line.startswith(code) and (len(line) == len(code) or line[len(code)] in behind):
        return line[len(code) + 1 :]
    return line
