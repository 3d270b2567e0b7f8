"""XCLIENT and XFORWARD (Postfix's XCLIENT_README and XFORWARD_README), both directions: who the real client is.

Whoever may send these says who the client is, and with LOGIN who has authenticated: they are for peers that the
configuration names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Literal, TypeAlias, TypeVar

from msgspec.structs import replace

from mailgate.envelope import Origin
from mailgate.reply import Reply
from mailgate.wire.commands import CommandError, parse_greeting
from mailgate.wire.xtext import xtext_decode, xtext_encode

__all__ = [
    "MAX_COMMAND",
    "NOTHING_TOLD",
    "MaybeAddress",
    "XClient",
    "XForward",
    "parse_xclient",
    "parse_xforward",
    "xclient_attributes",
    "xclient_commands",
    "xforward_attributes",
    "xforward_commands",
]

#: The longest command that is written, in octets with its CRLF.
MAX_COMMAND = 512

#: "" where it is not available.
MaybeAddress: TypeAlias = IPv4Address | IPv6Address | Literal[""]

T = TypeVar("T")

_XCLIENT = ("NAME", "ADDR", "PORT", "PROTO", "HELO", "LOGIN", "DESTADDR", "DESTPORT")
_XFORWARD = ("NAME", "ADDR", "PORT", "PROTO", "HELO", "IDENT", "SOURCE")
#: XCLIENT as it is written, each group in one command: once the address or the name is another, Postfix asks whether
#: that client may send XCLIENT.
_XCLIENT_GROUPS = (("PROTO",), ("HELO",), ("LOGIN",), ("DESTADDR",), ("DESTPORT",), ("PORT", "ADDR", "NAME"))
_XFORWARD_GROUPS = tuple((name,) for name in _XFORWARD)
#: The longest value, in octets of UTF-8, and the longest protocol of XFORWARD.
_MAX_VALUE, _MAX_PROTOCOL = 255, 64
#: The longest login that is written, in octets of xtext: a command holds no more.
_MAX_LOGIN = MAX_COMMAND - len("XCLIENT LOGIN=\r\n")
_UNAVAILABLE, _TEMPORARY = "[UNAVAILABLE]", "[TEMPUNAVAIL]"

_ATTRIBUTE = re.compile(r"([A-Za-z]{1,16})=(.+)", re.DOTALL)
_PORT = re.compile(r"0|[1-9][0-9]{0,4}")
_PROTOCOL = re.compile(r"[A-Za-z0-9][A-Za-z0-9./_-]*")
_IDENT = re.compile(r"[!-~]+")
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
#: A name that Postfix takes for one of a host: the last label is no number.
_HOST_NAME = re.compile(rf"(?:{_LABEL}\.)*(?![0-9]+\Z){_LABEL}")


@dataclass(frozen=True, slots=True, kw_only=True)
class XClient:
    """What one XCLIENT says. None: not given, what was known stays. "", and port 0: not available.

    `name_is_temporary` is True where rDNS gave no name for now, and `name` is "" then. `protocol` is "SMTP" or
    "ESMTP"; `login` is who has authenticated, "" takes it back.
    """

    name: str | None = None
    name_is_temporary: bool = False
    address: MaybeAddress | None = None
    port: int | None = None
    protocol: str | None = None
    helo: str | None = None
    login: str | None = None
    destination_address: MaybeAddress | None = None
    destination_port: int | None = None

    def merge(self, later: XClient) -> XClient:
        """This, with what a later XCLIENT gives. The name goes with an address that is not given again.

        An address after an address is another client, of whom nothing is known but this.
        """
        if later.address is not None and self.address is not None:
            return later
        is_another = later.name is not None or later.address is not None
        return XClient(
            name=later.name if is_another else self.name,
            name_is_temporary=later.name_is_temporary if is_another else self.name_is_temporary,
            address=_or(later.address, self.address),
            port=_or(later.port, self.port),
            protocol=_or(later.protocol, self.protocol),
            helo=_or(later.helo, self.helo),
            login=_or(later.login, self.login),
            destination_address=_or(later.destination_address, self.destination_address),
            destination_port=_or(later.destination_port, self.destination_port),
        )


#: What is known where nothing was told.
NOTHING_TOLD = XClient()


@dataclass(frozen=True, slots=True, kw_only=True)
class XForward:
    """What XFORWARD says of the next message. None: not given. "", and port 0: not available.

    `ident` is the message's id at the peer, `source` "LOCAL" or "REMOTE"; the others as in Origin.
    """

    name: str | None = None
    address: MaybeAddress | None = None
    port: int | None = None
    protocol: str | None = None
    helo: str | None = None
    ident: str | None = None
    source: str | None = None

    def merge(self, later: XForward) -> XForward:
        """This, with what a later XFORWARD of the same transaction gives."""
        return XForward(
            name=_or(later.name, self.name),
            address=_or(later.address, self.address),
            port=_or(later.port, self.port),
            protocol=_or(later.protocol, self.protocol),
            helo=_or(later.helo, self.helo),
            ident=_or(later.ident, self.ident),
            source=_or(later.source, self.source),
        )

    def apply(self, origin: Origin) -> Origin:
        """`origin` with what was given. Not to mix the session's own client in, begin with NO_ORIGIN."""
        return replace(
            origin,
            name=_or(self.name, origin.name),
            address=origin.address if self.address is None else str(self.address),
            port=_or(self.port, origin.port),
            protocol=_or(self.protocol, origin.protocol),
            helo=_or(self.helo, origin.helo),
            ident=_or(self.ident, origin.ident),
            source=_or(self.source, origin.source),
        )


def xclient_attributes() -> str:
    """The line for the reply to EHLO."""
    return " ".join(("XCLIENT", *_XCLIENT))


def xforward_attributes() -> str:
    """The line for the reply to EHLO."""
    return " ".join(("XFORWARD", *_XFORWARD))


def parse_xclient(argument: str) -> XClient:
    """The argument of XCLIENT; CommandError (501 5.5.4) where anything in it is wrong."""
    values = _attributes(argument, "XCLIENT", _XCLIENT)
    is_temporary = values.get("NAME", "").upper() == _TEMPORARY
    return XClient(
        name=_host(values, "NAME"),
        name_is_temporary=is_temporary,
        address=_address(values, "ADDR"),
        port=_port(values, "PORT"),
        protocol=_word(values, "PROTO", "SMTP", "ESMTP"),
        helo=_host(values, "HELO"),
        login=_given(values, "LOGIN"),
        destination_address=_address(values, "DESTADDR"),
        destination_port=_port(values, "DESTPORT"),
    )


def parse_xforward(argument: str) -> XForward:
    """The argument of XFORWARD; CommandError (501 5.5.4) where anything in it is wrong.

    A name or a HELO that is none of a host by its form counts as not available.
    """
    values = _attributes(argument, "XFORWARD", _XFORWARD)
    return XForward(
        name=_forwarded_host(values, "NAME"),
        address=_address(values, "ADDR"),
        port=_port(values, "PORT"),
        protocol=_matching(values, "PROTO", _PROTOCOL, _MAX_PROTOCOL),
        helo=_forwarded_host(values, "HELO"),
        ident=_matching(values, "IDENT", _IDENT, _MAX_VALUE),
        source=_word(values, "SOURCE", "LOCAL", "REMOTE", _UNAVAILABLE),
    )


def xclient_commands(origin: Origin, offered: str, *, destination: tuple[str, int] | None) -> list[bytes]:
    """The commands, each with its CRLF, that tell a server of a client; none where it offers nothing.

    `offered` are the parameters of XCLIENT in its reply to EHLO. Everything that it offers is told, so that nothing
    stays from a client before; what is not known, does not fit or is not fit to be sent is [UNAVAILABLE]. After each
    command that succeeds (220) the session is a new one, and EHLO takes the place of HELO; after the last command it
    is the client's, who in general may not send XCLIENT again.
    """
    address, port = destination or ("", 0)
    values = {
        "NAME": _written_name(origin.name),
        "ADDR": _written_address(origin.address),
        "PORT": _written_port(origin.port),
        "HELO": _written_helo(origin.helo),
        "LOGIN": origin.login,
        "DESTADDR": _written_address(address),
        "DESTPORT": _written_port(port),
    }
    # Only these two are known to Postfix, and there is no word for neither.
    if origin.protocol in ("SMTP", "ESMTP"):
        values["PROTO"] = origin.protocol
    return _commands("XCLIENT", _XCLIENT_GROUPS, values, offered, _MAX_LOGIN)


def xforward_commands(origin: Origin, queue_id: str, offered: str) -> list[bytes]:
    """The commands, each with its CRLF, that tell a server where the next message came from; IDENT is `queue_id`.

    `offered` are the parameters of XFORWARD in its reply to EHLO; otherwise as in xclient_commands. Each command is
    answered with 250, and they may be pipelined.
    """
    values = {
        "NAME": _written_name(origin.name),
        "ADDR": _written_address(origin.address),
        "PORT": _written_port(origin.port),
        "PROTO": origin.protocol if len(origin.protocol) <= _MAX_PROTOCOL else "",
        "HELO": _written_helo(origin.helo),
        "IDENT": queue_id,
        "SOURCE": origin.source if origin.source in ("LOCAL", "REMOTE") else "",
    }
    return _commands("XFORWARD", _XFORWARD_GROUPS, values, offered, _MAX_VALUE)


def _or(value: T | None, other: T) -> T:
    return other if value is None else value


def _wrong(text: str) -> CommandError:
    return CommandError(Reply.of(501, "5.5.4", text))


def _attributes(argument: str, verb: str, known: tuple[str, ...]) -> Mapping[str, str]:
    """The decoded value of each attribute; what is not printable is refused, whatever it is for."""
    values: dict[str, str] = {}
    for word in argument.split(" "):
        match = _ATTRIBUTE.fullmatch(word)
        if match is None:
            raise _wrong(f"Syntax: {verb} attribute=value ...")
        name = match[1].upper()
        if name not in known:
            raise _wrong(f"Attribute {name} is not known")
        if name in values:
            raise _wrong(f"{name} is given twice")
        try:
            value = xtext_decode(match[2])
        except ValueError:
            raise _wrong(f"{name} is not in xtext") from None
        if not value.isprintable():
            raise _wrong(f"Control characters are not allowed in {name}")
        if len(value.encode()) > _MAX_VALUE:
            raise _wrong(f"{name} is too long")
        values[name] = value
    return values


def _given(values: Mapping[str, str], name: str) -> str | None:
    value = values.get(name)
    return "" if value is not None and value.upper() == _UNAVAILABLE else value


def _host(values: Mapping[str, str], name: str) -> str | None:
    value = _given(values, name)
    if value and value.upper() == _TEMPORARY:
        return ""
    try:
        return value and parse_greeting(value)
    except CommandError:
        raise _wrong(f"{name} is no name of a host") from None


def _forwarded_host(values: Mapping[str, str], name: str) -> str | None:
    """As _host, with "" for what is no name of a host.

    It is for people to read, and a Postfix whose client greets with anything else would be kept from ever handing its
    mail on: it takes a refusal for a failure of the next hop.
    """
    try:
        return _host(values, name)
    except CommandError:
        return ""


def _address(values: Mapping[str, str], name: str) -> MaybeAddress | None:
    value = _given(values, name)
    if not value:
        return None if value is None else ""
    try:
        if value[:5].upper() != "IPV6:":
            return IPv4Address(value)
        address = IPv6Address(value[5:])
    except ValueError:
        raise _wrong(f"{name} is no address") from None
    if address.scope_id is not None:
        raise _wrong(f"{name} is no address")
    return address.ipv4_mapped or address


def _port(values: Mapping[str, str], name: str) -> int | None:
    value = _given(values, name)
    if not value:
        return None if value is None else 0
    if not _PORT.fullmatch(value) or int(value) > 65535:
        raise _wrong(f"{name} is no port")
    return int(value)


def _word(values: Mapping[str, str], name: str, *words: str) -> str | None:
    value = values.get(name)
    if value is None:
        return None
    if value.upper() not in words:
        raise _wrong(f"{name} is {' or '.join(words)}")
    return "" if value.upper() == _UNAVAILABLE else value.upper()


def _matching(values: Mapping[str, str], name: str, pattern: re.Pattern[str], limit: int) -> str | None:
    value = _given(values, name)
    if value and (len(value) > limit or not pattern.fullmatch(value)):
        raise _wrong(f"Malformed {name}")
    return value


def _written_name(name: str) -> str:
    name = name.removesuffix(".")
    return name if len(name) <= _MAX_VALUE and _HOST_NAME.fullmatch(name) else ""


def _written_helo(helo: str) -> str:
    try:
        return helo and parse_greeting(helo)
    except CommandError:
        return ""


def _written_address(text: str) -> str:
    try:
        address = ip_address(text)
    except ValueError:
        return ""
    if isinstance(address, IPv6Address):
        plain = address.ipv4_mapped or IPv6Address(address.packed)
        return str(plain) if plain.version == 4 else f"IPV6:{plain}"
    return str(address)


def _written_port(port: int) -> str:
    return str(port) if 0 < port <= 65535 else ""


def _commands(
    verb: str, groups: Iterable[tuple[str, ...]], values: Mapping[str, str], offered: str, limit: int
) -> list[bytes]:
    """As few commands as hold the values; `limit` is for an encoded value, in octets.

    A value that is too long is not cut: the rest of a name is the name of another.
    """
    wanted = {word.upper() for word in offered.split()} & values.keys()
    lines: list[str] = []
    for group in groups:
        words = "".join(f" {name}={_encoded(values[name], limit)}" for name in group if name in wanted)
        if words and lines and len(lines[-1]) + len(words) <= MAX_COMMAND - 2:
            lines[-1] += words
        elif words:
            lines.append(verb + words)
    return [f"{line}\r\n".encode("ascii") for line in lines]


def _encoded(value: str, limit: int) -> str:
    encoded = xtext_encode(value) if value.isprintable() else ""
    return encoded if 0 < len(encoded) <= limit else _UNAVAILABLE
