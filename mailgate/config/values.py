"""The types of single values in the file, each with its check and its words for the reference."""

from __future__ import annotations

import datetime
import math
import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, ValidationInfo

from mailgate.config.endpoints import check_endpoint
from mailgate.config.hosts import (
    parse_domain_pattern,
    parse_host,
    parse_hostname,
    parse_mailbox,
    parse_network,
    parse_routing_pattern,
    parse_server,
)
from mailgate.config.units import Form, absolute, path_template

__all__ = [
    "Address4",
    "Address6",
    "Count",
    "Day",
    "Domain",
    "Endpoint",
    "Filters",
    "Fingerprint",
    "Flag",
    "Host",
    "Hostname",
    "Hosts",
    "HttpUrl",
    "Keyword",
    "Mailbox",
    "MaildirPath",
    "Mechanism",
    "Name",
    "Network",
    "OneMailbox",
    "Pattern",
    "Port",
    "Rate",
    "ReplyPattern",
    "Server",
    "SocketAddress",
    "private_url",
]

_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*/\s*([smhd])", re.ASCII)
_PER = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
#: Characters of what is looked for in a reply.
_LONGEST_PATTERN = 200
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError("a name has letters, digits and . _ - only, at most 64, and starts with a letter or digit")
    return text


def _server(text: str) -> str:
    parse_server(text)
    return text


def _host(text: str, info: ValidationInfo) -> str:
    if text.startswith("unix:"):
        text = f"unix:{absolute(text.removeprefix('unix:'), info)}"
    parse_host(text, 25)
    return text


def _maildir(path: str, info: ValidationInfo) -> str:
    return path_template(path, info, ("domain", "local_part"))


def _shape(value: object) -> str:
    return "group" if isinstance(value, list) else "one"


def _fingerprint(text: str) -> str:
    plain = text.replace(":", "").lower()
    if not re.fullmatch("[0-9a-f]{64}", plain):
        raise ValueError(
            "a SHA-256 fingerprint has 64 hexadecimal digits, with colons or without, "
            "without spaces and without the words before the ="
        )
    return plain


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.fragment:
        raise ValueError('no address of a service: it looks like "https://host/path"')
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise ValueError("the port of a URL is a number from 1 to 65535")
    return text


def private_url(text: str) -> str:
    """An address to which the mail of people goes, or what happens to it; ValueError."""
    parts = urlsplit(text)
    if not text.isascii() or any(one <= " " for one in text):
        raise ValueError("a URL has no spaces, nor letters beyond ASCII")
    if parts.scheme != "https" and not _is_this_machine(parts.hostname or ""):
        raise ValueError(
            "mail and events hold what is personal: http:// is for this machine only, all else is https://"
        )
    return text


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _rate(value: object) -> float:
    match = _RATE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None or float(match[1]) <= 0:
        raise ValueError("a rate is written like 10/s, 100/m, 5000/h or 20000/d, in quotes")
    return float(match[1]) / _PER[match[2]]


def _write_rate(rate: float) -> str:
    for unit, seconds in _PER.items():
        if (count := rate * seconds) >= 1 and math.isclose(count, round(count)):
            return f"{round(count)}/{unit}"
    return f"{rate * _PER['d']:g}/d"


def _day(value: object) -> object:
    if isinstance(value, str):
        try:
            return datetime.date.fromisoformat(value)
        except ValueError:
            value = None
    if not isinstance(value, datetime.date) or isinstance(value, datetime.datetime):
        raise ValueError("must be a date like 2026-12-01")
    return value


def _address(value: object, version: int, other: str) -> object:
    """The value, if it may be an address of this version; `other` is the key for those of the other one."""
    if isinstance(value, IPv4Address | IPv6Address):
        return value
    try:
        address = ip_address(value) if isinstance(value, str) else None
    except ValueError:
        address = None
    if address is None:
        raise ValueError(f"must be an IPv{version} address, in quotes")
    if address.version != version:
        raise ValueError(f"{address} is an IPv{address.version} address: write {other} = ...")
    return address


def _address4(value: object) -> object:
    return _address(value, 4, "address6")


def _address6(value: object) -> object:
    return _address(value, 6, "address")


def _reply_pattern(text: str) -> str:
    if not text.replace("*", "").strip():
        raise ValueError("is empty: every answer would be meant")
    if len(text) > _LONGEST_PATTERN:
        raise ValueError(f"has more than {_LONGEST_PATTERN} characters")
    return " ".join(text.split()).lower()


def _one_mailbox(text: str) -> str:
    mailbox = parse_mailbox(text)
    if mailbox.startswith("@"):
        raise ValueError(f'"{text}" is a domain; an address has something before its @')
    return mailbox


def _socket(text: str, info: ValidationInfo) -> str:
    if text.startswith("unix:"):
        return f"unix:{absolute(text.removeprefix('unix:'), info)}"
    if ":" not in text:
        raise ValueError('a socket is "unix:/path" or "host:port"')
    parse_host(text, 25)
    return text


Name = Annotated[str, AfterValidator(_name), Form("name")]
Keyword = Literal[
    "pipelining",
    "size",
    "8bitmime",
    "starttls",
    "auth",
    "chunking",
    "binarymime",
    "smtputf8",
    "dsn",
    "requiretls",
    "limits",
    "mt-priority",
    "futurerelease",
    "deliverby",
    "etrn",
]
Mechanism = Literal[
    "scram-sha-256-plus", "scram-sha-256", "plain", "login", "cram-md5", "xoauth2", "oauthbearer", "external"
]
Fingerprint = Annotated[str, AfterValidator(_fingerprint), Form("fingerprint")]
HttpUrl = Annotated[str, AfterValidator(_url), Form("URL")]
SocketAddress = Annotated[str, AfterValidator(_socket), Form("socket")]
Address4 = Annotated[IPv4Address, BeforeValidator(_address4)]
"""The value of a key `address` that has `address6` beside it."""
Address6 = Annotated[IPv6Address, BeforeValidator(_address6)]
"""That of `address6`."""
Day = Annotated[datetime.date, BeforeValidator(_day)]
Count = Annotated[int, Field(strict=True, ge=1)]
Flag = Annotated[bool, Field(strict=True)]
Port = Annotated[int, Field(strict=True, ge=1, le=65535)]
Rate = Annotated[float, BeforeValidator(_rate), Form('rate, like "100/m"', _write_rate)]
"""Something per time in the file, per second in the program."""
ReplyPattern = Annotated[str, AfterValidator(_reply_pattern), Form("text")]
Domain = Annotated[str, AfterValidator(parse_domain_pattern), Form("domain")]
Pattern = Annotated[str, AfterValidator(parse_routing_pattern), Form("address or domain")]
Host = Annotated[str, AfterValidator(_host), Form("host")]
Hostname = Annotated[str, AfterValidator(parse_hostname), Form("host name")]
Endpoint = Annotated[str, AfterValidator(check_endpoint), Form("endpoint")]
Mailbox = Annotated[str, AfterValidator(parse_mailbox), Form("address")]
OneMailbox = Annotated[str, AfterValidator(_one_mailbox), Form("address")]
"""An address, without the form that stands for a whole domain."""
MaildirPath = Annotated[str, AfterValidator(_maildir), Form("path")]
Server = Annotated[str, AfterValidator(_server), Form("address")]
# Only the branch that fits is validated, so that a mistake gives one message.
Hosts = Annotated[
    list[
        Annotated[
            Annotated[Host, Tag("one")] | Annotated[list[Host], Field(min_length=1), Tag("group")],
            Discriminator(_shape),
        ]
    ],
    Form("list: host or list of hosts"),
]
Filters = Annotated[
    list[
        Annotated[
            Annotated[Name, Tag("one")] | Annotated[list[Name], Field(min_length=1), Tag("group")],
            Discriminator(_shape),
        ]
    ],
    Form("list: name or list of names"),
]

Network = Annotated[IPv4Network | IPv6Network, BeforeValidator(parse_network), Form('network, like "10.0.0.0/8"')]
"""An IPv4 or IPv6 network; a single address is a network of one."""
