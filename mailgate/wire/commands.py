"""SMTP and LMTP command lines (RFC 5321 section 4.1, RFC 2033, RFC 1870, RFC 6152): octets to values."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mailgate.address import Address, AddressError, parse_path
from mailgate.reply import Reply

__all__ = [
    "MAX_COMMAND_LINE",
    "Command",
    "CommandError",
    "MailCommand",
    "parse_command",
    "parse_greeting",
    "parse_mail",
    "parse_rcpt",
]

#: The longest command line, in octets with its CRLF: 512 (RFC 5321 section 4.5.3.1.4) and room for what
#: the parameters of extensions add to MAIL and RCPT.
MAX_COMMAND_LINE = 2048

_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_VERB = re.compile(r"[A-Za-z]+")
_PARAMETER = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([!-<>-~]+))?")
_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?\.?|\[[0-9A-Za-z.:-]+\]")


class CommandError(Exception):
    """The peer's mistake, with the reply that tells it."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(str(reply))
        self.reply = reply


@dataclass(frozen=True, slots=True)
class Command:
    """One command line: the verb in upper case, and the text behind it without surrounding white space."""

    verb: str
    argument: str


@dataclass(frozen=True, slots=True)
class MailCommand:
    """MAIL: the reverse-path and its parameters. `size` is None where SIZE was not given."""

    sender: Address
    size: int | None = None
    body: str = "7BIT"


def parse_command(line: bytes) -> Command:
    """The command that a line (its CRLF removed) holds; CommandError where it holds none."""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        raise CommandError(Reply.of(500, "5.5.2", "Command is not UTF-8")) from None
    if _CONTROL.search(text):
        raise CommandError(Reply.of(500, "5.5.2", "Control characters are not allowed in commands"))
    verb, _space, argument = text.strip(" \t").partition(" ")
    if not _VERB.fullmatch(verb):
        raise CommandError(Reply.of(500, "5.5.2", "Command not recognized"))
    return Command(verb.upper(), argument.strip(" \t"))


def parse_greeting(argument: str) -> str:
    """The name that HELO, EHLO or LHLO gives; CommandError where it is no domain or literal by its form."""
    if not argument:
        raise CommandError(Reply.of(501, "5.5.4", "A domain name or an address literal is needed"))
    if len(argument) > 255 or not _HOST.fullmatch(argument):
        raise CommandError(Reply.of(501, "5.5.2", "That is no domain name"))
    return argument


def parse_mail(argument: str) -> MailCommand:
    """The argument of MAIL. Unknown parameters are 555 (RFC 5321 section 4.1.1.11)."""
    sender, parameters = _path(argument, "FROM:", allow_null=True)
    size: int | None = None
    body = "7BIT"
    for keyword, value in parameters.items():
        if keyword == "SIZE":
            if not value.isascii() or not value.isdigit() or len(value) > 20:
                raise CommandError(Reply.of(501, "5.5.4", "SIZE takes a number of octets"))
            size = int(value)
        elif keyword == "BODY":
            body = value.upper()
            if body not in ("7BIT", "8BITMIME"):
                raise CommandError(Reply.of(501, "5.5.4", "BODY is 7BIT or 8BITMIME"))
        else:
            raise _unknown(keyword)
    return MailCommand(sender, size, body)


def parse_rcpt(argument: str, hostname: str) -> Address:
    """The argument of RCPT. `<postmaster>` without a domain is postmaster at `hostname` (section 4.5.1)."""
    prefix = argument[:3].upper()
    if prefix == "TO:" and argument[3:].lstrip(" ").lower() == "<postmaster>":
        return Address(argument[3:].strip(" <>"), hostname.lower())
    recipient, parameters = _path(argument, "TO:", allow_null=False)
    for keyword in parameters:
        raise _unknown(keyword)
    return recipient


def _path(argument: str, prefix: str, *, allow_null: bool) -> tuple[Address, dict[str, str]]:
    if argument[: len(prefix)].upper() != prefix:
        raise CommandError(Reply.of(501, "5.5.2", f"Syntax: {prefix}<address>"))
    status = "5.1.7" if prefix == "FROM:" else "5.1.3"
    try:
        address, rest = parse_path(argument[len(prefix) :].lstrip(" "), allow_null=allow_null)
    except AddressError as error:
        raise CommandError(Reply.of(501, status, f"Bad address: {error}")) from None
    if not address.is_ascii:
        raise CommandError(Reply.of(553, "5.6.7", "Internationalized addresses are not supported"))
    parameters: dict[str, str] = {}
    for word in rest.split():
        match = _PARAMETER.fullmatch(word)
        if match is None:
            raise CommandError(Reply.of(501, "5.5.4", "Malformed parameter"))
        if match[1].upper() in parameters:
            raise CommandError(Reply.of(501, "5.5.4", f"{match[1].upper()} is given twice"))
        parameters[match[1].upper()] = match[2] or ""
    return address, parameters


def _unknown(keyword: str) -> CommandError:
    return CommandError(Reply.of(555, "5.5.4", f"Parameter {keyword} is not known"))
