"""What a mail server tells a milter, as values: the milter's side of the protocol; no I/O."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from mailgate.wire.milter.codec import Options, PacketError, parse_options
from mailgate.wire.milter.words import Code

__all__ = [
    "BodyTold",
    "ClientTold",
    "Command",
    "GreetingTold",
    "HeaderTold",
    "MacrosTold",
    "RecipientTold",
    "SenderTold",
    "code_of",
    "parse_command",
]

_PORT = struct.Struct("!H")
#: More strings than any packet has.
_MOST_STRINGS = 1000
#: Octets of a client's command, which mail servers take no longer than a few thousand octets.
_LONGEST = 16 * 1024


@dataclass(frozen=True, slots=True)
class ClientTold:
    """Somebody has connected; `address` is None for a unix socket (`is_local`), and where the server cannot tell."""

    name: str
    address: IPv4Address | IPv6Address | None
    port: int = 0
    is_local: bool = False


@dataclass(frozen=True, slots=True)
class GreetingTold:
    """The name that HELO or EHLO gave."""

    name: str


@dataclass(frozen=True, slots=True)
class SenderTold:
    """MAIL: the path as the client wrote it, mostly in angle brackets, and the words behind it."""

    path: str
    parameters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RecipientTold:
    """RCPT, in the same form; `written` are the octets of the path."""

    path: str
    parameters: tuple[str, ...] = ()
    written: bytes = b""


@dataclass(frozen=True, slots=True)
class HeaderTold:
    """A header field; its folding is by single LFs."""

    name: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class BodyTold:
    """A piece of the body; `is_last` where it ends the message, and may then be empty."""

    data: bytes
    is_last: bool = False


@dataclass(frozen=True, slots=True)
class MacrosTold:
    """What is known at the step that comes next, by the names of macros without braces."""

    values: Mapping[str, str]


Command = ClientTold | GreetingTold | SenderTold | RecipientTold | HeaderTold | BodyTold | MacrosTold | Options | Code
"""What a packet says. DATA, END_OF_HEADER, ABORT, QUIT, QUIT_NEW and UNKNOWN stand for themselves."""

_BARE = frozenset({Code.DATA, Code.END_OF_HEADER, Code.ABORT, Code.QUIT, Code.QUIT_NEW, Code.UNKNOWN})


def parse_command(code: bytes, data: bytes) -> Command:
    """What a packet of a mail server says; PacketError where it is none of the protocol."""
    try:
        known = Code(code)
    except ValueError:
        raise PacketError(f"a command {code!r}, which the protocol does not have") from None
    if known in _BARE:
        return known
    match known:
        case Code.BODY | Code.END_OF_BODY:
            return BodyTold(data, known is Code.END_OF_BODY)
        case Code.HEADER:
            found = _strings(data)
            if len(found) != 2 or not found[0]:
                raise PacketError("a header field that is not a name and a value")
            return HeaderTold(*found)
        case Code.MACROS:
            return _macros(data)
        case Code.MAIL:
            path, *parameters = _texts(data, known)
            return SenderTold(path, tuple(parameters))
        case Code.RCPT:
            path, *parameters = _texts(data, known)
            return RecipientTold(path, tuple(parameters), data.partition(b"\0")[0])
        case Code.HELO:
            return GreetingTold(_texts(data, known)[0])
        case Code.CONNECT:
            return _client(data)
    return parse_options(data)


def code_of(command: Command) -> Code:
    """The code with which it is said."""
    match command:
        case ClientTold():
            return Code.CONNECT
        case GreetingTold():
            return Code.HELO
        case SenderTold():
            return Code.MAIL
        case RecipientTold():
            return Code.RCPT
        case HeaderTold():
            return Code.HEADER
        case BodyTold():
            return Code.END_OF_BODY if command.is_last else Code.BODY
        case MacrosTold():
            return Code.MACROS
        case Code():
            return command
    return Code.OPTIONS


def _client(data: bytes) -> ClientTold:
    name, end, rest = data.partition(b"\0")
    if not end or not rest:
        raise PacketError("a connection without its family")
    family, text = rest[:1], _text(name)
    if family in b"UL":
        return ClientTold(text, None, is_local=family == b"L")
    if family not in b"46" or len(rest) < 4:
        raise PacketError(f"a connection of the family {family!r}")
    (port,) = _PORT.unpack_from(rest, 1)
    written = _text(rest[3:].rstrip(b"\0"))
    if written[:5].lower() == "ipv6:":
        written = written[5:]
    try:
        address = ip_address(written.partition("%")[0])
    except ValueError:
        raise PacketError(f"a connection from {written[:60]!r}, which is no address") from None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return ClientTold(text, mapped or address, port)


def _macros(data: bytes) -> MacrosTold:
    """Behind the code of the step they belong to, names and values in turn."""
    found = _strings(data[1:])
    if not data or len(found) % 2:
        raise PacketError("macros that are not names and values")
    names = [_text(name).strip("{}") for name in found[::2]]
    return MacrosTold(dict(zip(names, map(_text, found[1::2]), strict=True)))


def _strings(data: bytes) -> list[bytes]:
    if data and not data.endswith(b"\0"):
        raise PacketError("a string without its end")
    if data.count(b"\0") > _MOST_STRINGS:
        raise PacketError(f"a packet of more than {_MOST_STRINGS} strings")
    return data[:-1].split(b"\0") if data else []


def _texts(data: bytes, code: Code) -> list[str]:
    if len(data) > _LONGEST:
        raise PacketError(f"{code.name} of more than {_LONGEST} octets")
    found = _strings(data)
    if not found:
        raise PacketError(f"{code.name} without its argument")
    return [_text(one) for one in found]


def _text(octets: bytes) -> str:
    return octets.decode("utf-8", "replace")
