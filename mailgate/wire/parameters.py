"""The parameters that extensions add to MAIL and RCPT: text to values.

SIZE (RFC 1870), BODY (RFC 6152, RFC 3030), SMTPUTF8 (RFC 6531), RET, ENVID, NOTIFY, ORCPT (RFC 3461), AUTH (RFC 4954),
REQUIRETLS (RFC 8689), MT-PRIORITY (RFC 6710), HOLDFOR, HOLDUNTIL (RFC 4865), BY (RFC 2852). What belongs to no offered
extension is 555, a bad value 501.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from datetime import datetime

from mailgate.address import Address, AddressError
from mailgate.envelope import EIGHT_BIT_MAIL, PLAIN_MAIL, MailParameters
from mailgate.reply import Reply
from mailgate.wire.fault import CommandError
from mailgate.wire.xtext import utf8_addr_decode, xtext_decode

__all__ = ["merge_notify", "parse_mail_parameters", "parse_rcpt_parameters", "parse_size"]

#: The extension that each parameter of MAIL belongs to.
_MAIL = {
    "SIZE": "SIZE",
    "BODY": "8BITMIME",
    "SMTPUTF8": "SMTPUTF8",
    "RET": "DSN",
    "ENVID": "DSN",
    "AUTH": "AUTH",
    "REQUIRETLS": "REQUIRETLS",
    "MT-PRIORITY": "MT-PRIORITY",
    "HOLDFOR": "FUTURERELEASE",
    "HOLDUNTIL": "FUTURERELEASE",
    "BY": "DELIVERBY",
}
_NUMBER = re.compile(r"[0-9]{1,9}")
_PRIORITY = re.compile(r"-?[1-9]|0")
_BY = re.compile(r"([+-]?[0-9]{1,9});([NR])(T?)", re.IGNORECASE)
_TIMESTAMP = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?(?:Z|[+-][0-9]{2}:[0-9]{2})"
)
_ORCPT = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*);(.+)")
_UNASKED = ("FAILURE", "DELAY")
_NOTIFY = frozenset({"SUCCESS", "FAILURE", "DELAY"})
_MAX_ENVID, _MAX_ORCPT = 100, 500


def parse_size(value: str) -> int:
    """The value of SIZE."""
    if not value.isascii() or not value.isdigit() or len(value) > 20:
        raise _bad("SIZE takes a number of octets")
    return int(value)


def parse_mail_parameters(given: Mapping[str, str], offered: Set[str], now: float) -> MailParameters:
    """What MAIL asks for beside SIZE, by keyword in upper case; `now` is what HOLDFOR and BY count from."""
    if len(given) == 1 and given.get("BODY") == "8BITMIME" and "8BITMIME" in offered:
        return EIGHT_BIT_MAIL  # most mail
    asked: dict[str, object] = {}
    for keyword, value in given.items():
        if _MAIL.get(keyword, "") not in offered:
            raise _unknown(keyword)
        if not value.isascii():
            raise _bad(f"{keyword} is US-ASCII")
        if keyword == "BODY":
            asked["body"] = _body(value, offered)
        elif keyword in ("SMTPUTF8", "REQUIRETLS"):
            if value:
                raise _bad(f"{keyword} takes no value")
            asked["smtputf8" if keyword == "SMTPUTF8" else "require_tls"] = True
        elif keyword == "RET":
            asked["ret"] = _one_of(keyword, value, "FULL", "HDRS")
        elif keyword == "ENVID":
            asked["envid"] = _xtext(keyword, value, _MAX_ENVID)
        elif keyword == "AUTH":
            asked["auth"] = _auth(value)
        elif keyword == "MT-PRIORITY":
            if not _PRIORITY.fullmatch(value):
                raise _bad("MT-PRIORITY takes a number from -9 to 9")
            asked["priority"] = int(value)
        elif keyword == "BY":
            asked.update(_deliver_by(value, now))
        elif "release_at" in asked:
            raise _bad("HOLDFOR and HOLDUNTIL exclude each other")
        else:
            asked["release_at"] = _release(keyword, value, now)
    parameters = MailParameters(**asked) if asked else PLAIN_MAIL  # type: ignore[arg-type]  # each by its name
    if parameters.by_mode == "R" and parameters.release_at >= parameters.deliver_by:
        raise _bad("The message would be held until it is to be returned by BY")
    return parameters


def merge_notify(first: tuple[str, ...], second: tuple[str, ...]) -> tuple[str, ...]:
    """What two RCPTs for one mailbox ask for together: no report that one of them asked for is kept from its sender.

    NEVER only where both say so; where only one names reports, the other, without NOTIFY, asks for those that are sent
    unasked (RFC 3461 section 4.1).
    """
    if first == second:
        return first
    words = [word for word in (*(first or _UNASKED), *(second or _UNASKED)) if word != "NEVER"]
    return tuple(dict.fromkeys(words))


def parse_rcpt_parameters(given: Mapping[str, str], offered: Set[str], *, is_utf8: bool) -> tuple[tuple[str, ...], str]:
    """NOTIFY, as its words in upper case, and ORCPT as it stands."""
    notify: tuple[str, ...] = ()
    orcpt = ""
    for keyword, value in given.items():
        if "DSN" not in offered or keyword not in ("NOTIFY", "ORCPT"):
            raise _unknown(keyword)
        if keyword == "NOTIFY":
            notify = tuple(dict.fromkeys(value.upper().split(",")))
            if not value.isascii() or (notify != ("NEVER",) and not _NOTIFY.issuperset(notify)):
                raise _bad("NOTIFY is NEVER, or one or more of SUCCESS, FAILURE, DELAY")
        else:
            match = _ORCPT.fullmatch(value)
            if match is None or len(value.encode()) > _MAX_ORCPT:
                raise _bad("ORCPT is the type of an address, a semicolon, and the address in xtext")
            if value.isascii():
                _xtext(keyword, match[2], _MAX_ORCPT)
            elif is_utf8 and match[1].lower() == "utf-8":
                _utf8_address(match[2])
            else:
                raise _bad("ORCPT is US-ASCII")
            orcpt = value
    return notify, orcpt


def _body(value: str, offered: Set[str]) -> str:
    body = value.upper()
    if body not in ("7BIT", "8BITMIME") and not (body == "BINARYMIME" and "BINARYMIME" in offered):
        raise _bad("BODY is 7BIT or 8BITMIME" + (" or BINARYMIME" if "BINARYMIME" in offered else ""))
    return body


def _one_of(keyword: str, value: str, *words: str) -> str:
    if value.upper() not in words:
        raise _bad(f"{keyword} is {' or '.join(words)}")
    return value.upper()


def _xtext(keyword: str, value: str, longest: int) -> str:
    """`value` itself, where it is xtext of printable characters."""
    try:
        text = xtext_decode(value)
    except ValueError:
        raise _bad(f"{keyword} takes xtext (RFC 3461 section 4)") from None
    if not text or len(value) > longest or not text.isprintable():
        raise _bad(f"{keyword} takes printable characters in xtext, {longest} octets at most")
    return value


def _utf8_address(value: str) -> None:
    try:
        if utf8_addr_decode(value).isprintable():
            return
    except ValueError:
        pass
    raise _bad("ORCPT of type utf-8 takes utf-8-addr-unitext (RFC 6533 section 3)")


def _auth(value: str) -> str:
    if value == "<>":
        return value
    try:
        Address.parse(xtext_decode(value))
    except (AddressError, ValueError):
        raise _bad("AUTH is <>, or a mailbox in xtext") from None
    return value


def _deliver_by(value: str, now: float) -> dict[str, object]:
    match = _BY.fullmatch(value)
    if match is None or (match[2] in "Rr" and int(match[1]) <= 0):
        raise _bad("BY is a number of seconds, a semicolon, and N or R; with R the number is above 0")
    return {"deliver_by": now + int(match[1]), "by_mode": match[2].upper(), "by_trace": bool(match[3])}


def _release(keyword: str, value: str, now: float) -> float:
    if keyword == "HOLDFOR":
        if not _NUMBER.fullmatch(value):
            raise _bad("HOLDFOR takes a number of seconds")
        return now + int(value)
    try:
        if not _TIMESTAMP.fullmatch(value):
            raise ValueError
        return datetime.fromisoformat(value).timestamp()
    except (OverflowError, ValueError):
        raise _bad("HOLDUNTIL takes a time like 2030-01-31T12:00:00Z") from None


def _bad(text: str) -> CommandError:
    return CommandError(Reply.of(501, "5.5.4", text))


def _unknown(keyword: str) -> CommandError:
    return CommandError(Reply.of(555, "5.5.4", f"Parameter {keyword} is not known"))
