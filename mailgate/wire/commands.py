"""SMTP and LMTP command lines (RFC 5321 section 4.1, RFC 2033, RFC 3030): octets to values."""

from __future__ import annotations

import re
from collections.abc import Set
from typing import NamedTuple

from mailgate.address import Address, AddressError, parse_path
from mailgate.envelope import PLAIN_MAIL, MailParameters
from mailgate.reply import Reply
from mailgate.wire import parameters
from mailgate.wire.fault import CommandError

__all__ = [
    "MAX_AUTH_LINE",
    "MAX_COMMAND_LINE",
    "BdatCommand",
    "Command",
    "CommandError",
    "MailCommand",
    "RcptCommand",
    "parse_bdat",
    "parse_command",
    "parse_greeting",
    "parse_mail",
    "parse_rcpt",
]

#: The longest command line, in octets with its CRLF: 512 (RFC 5321 section 4.5.3.1.4) and room for what
#: the parameters of extensions add to MAIL and RCPT.
MAX_COMMAND_LINE = 2048
#: The longest line with AUTH: 12,288 octets of base64 (RFC 4954 section 4), and the command before them.
MAX_AUTH_LINE = 12288 + 64

#: Besides C0, which would end or hide lines: C1, the separators of lines, and what turns the direction of text, since
#: commands are quoted in events, where people read them.
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_PARAMETER = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([!-<>-~\u0080-\U0010ffff]+))?")
_BDAT = re.compile(r"([0-9]{1,20})(?: +(LAST))?", re.IGNORECASE | re.ASCII)
_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?\.?|\[[0-9A-Za-z.:-]+\]")


class Command(NamedTuple):
    """One command line: the verb in upper case, and the text behind it without surrounding white space."""

    verb: str
    argument: str


class MailCommand(NamedTuple):
    """MAIL: the reverse-path and its parameters. `size` is None where SIZE was not given."""

    sender: Address
    size: int | None = None
    parameters: MailParameters = PLAIN_MAIL


class RcptCommand(NamedTuple):
    """RCPT: the forward-path and its parameters; `notify` and `orcpt` as in `mailgate.envelope.Recipient`."""

    recipient: Address
    notify: tuple[str, ...] = ()
    orcpt: str = ""


class BdatCommand(NamedTuple):
    """BDAT: so many octets follow at once; `is_last` ends the content (RFC 3030 section 2)."""

    size: int
    is_last: bool


#: What clients say word for word, again and again.
_COMMON = {verb.encode(): Command(verb, "") for verb in ("DATA", "QUIT", "RSET", "NOOP", "STARTTLS")}


def parse_command(line: bytes) -> Command:
    """The command that a line (its CRLF removed) holds; CommandError where it holds none."""
    common = _COMMON.get(line)
    if common is not None:
        return common
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        raise CommandError(Reply.of(500, "5.5.2", "Command is not UTF-8")) from None
    if not (text.isascii() and text.isprintable()) and _CONTROL.search(text):
        raise CommandError(Reply.of(500, "5.5.2", "Control characters are not allowed in commands"))
    verb, _space, argument = text.strip(" \t").partition(" ")
    if not (verb.isascii() and verb.isalpha()):
        raise CommandError(Reply.of(500, "5.5.2", "Command not recognized"))
    return Command(verb.upper(), argument.strip(" \t"))


def parse_greeting(argument: str) -> str:
    """The name that HELO, EHLO or LHLO gives; CommandError where it is no domain or literal by its form."""
    if not argument:
        raise CommandError(Reply.of(501, "5.5.4", "A domain name or an address literal is needed"))
    if len(argument) > 255 or not _HOST.fullmatch(argument):
        raise CommandError(Reply.of(501, "5.5.2", "That is no domain name"))
    return argument


def parse_mail(argument: str, offered: Set[str], now: float) -> MailCommand:
    """The argument of MAIL. Parameters of extensions that are not `offered` (keywords in upper case) are 555 (RFC 5321
    section 4.1.1.11). `now`, in seconds since the epoch, is what HOLDFOR and BY count from.
    """
    sender, words, is_ascii = _path(argument, "FROM:", allow_null=True)
    if not words:
        _check_path(is_ascii, is_utf8=False)
        return MailCommand(sender)
    given = _parameters(words)
    size = parameters.parse_size(given.pop("SIZE")) if "SIZE" in given and "SIZE" in offered else None
    asked = parameters.parse_mail_parameters(given, offered, now) if given else PLAIN_MAIL
    _check_path(is_ascii, is_utf8=asked.smtputf8)
    return MailCommand(sender, size, asked)


def parse_rcpt(argument: str, hostname: str, offered: Set[str], *, is_utf8: bool) -> RcptCommand:
    """The argument of RCPT. `<postmaster>` without a domain is postmaster at `hostname` (section 4.5.1).

    `is_utf8`: the transaction was begun with SMTPUTF8.
    """
    text = argument[3:].lstrip(" ")
    if argument[:3].upper() == "TO:" and text[:12].lower() == "<postmaster>":
        recipient, words = Address(text[1:11], hostname.lower()), text[12:].split()
    else:
        recipient, words, is_ascii = _path(argument, "TO:", allow_null=False)
        _check_path(is_ascii, is_utf8=is_utf8)
    if not words:
        return RcptCommand(recipient)
    notify, orcpt = parameters.parse_rcpt_parameters(_parameters(words), offered, is_utf8=is_utf8)
    return RcptCommand(recipient, notify, orcpt)


def parse_bdat(argument: str) -> BdatCommand:
    """The argument of BDAT. After a CommandError nobody knows where the next command begins."""
    match = _BDAT.fullmatch(argument)
    if match is None:
        raise CommandError(Reply.of(501, "5.5.4", "Syntax: BDAT octets [LAST]"))
    return BdatCommand(int(match[1]), match[2] is not None)


def _path(argument: str, prefix: str, *, allow_null: bool) -> tuple[Address, list[str], bool]:
    """The path, the words behind it, and whether it is written in ASCII: a domain stands in A-labels afterwards."""
    if argument[: len(prefix)].upper() != prefix:
        raise CommandError(Reply.of(501, "5.5.2", f"Syntax: {prefix}<address>"))
    status = "5.1.7" if prefix == "FROM:" else "5.1.3"
    try:
        address, rest = parse_path(argument[len(prefix) :].lstrip(" "), allow_null=allow_null)
    except AddressError as error:
        raise CommandError(Reply.of(501, status, f"Bad address: {error}")) from None
    return address, rest.split(), argument.isascii() or argument[: len(argument) - len(rest)].isascii()


def _check_path(is_ascii: bool, *, is_utf8: bool) -> None:
    if not (is_ascii or is_utf8):
        raise CommandError(Reply.of(553, "5.6.7", "An internationalized address needs SMTPUTF8"))


def _parameters(words: list[str]) -> dict[str, str]:
    """By keyword in upper case; one without "=" has the value "", and one with "=" something behind it."""
    given: dict[str, str] = {}
    for word in words:
        match = _PARAMETER.fullmatch(word)
        if match is None:
            raise CommandError(Reply.of(501, "5.5.4", "Malformed parameter"))
        if match[1].upper() in given:
            raise CommandError(Reply.of(501, "5.5.4", f"{match[1].upper()} is given twice"))
        given[match[1].upper()] = match[2] or ""
    return given
