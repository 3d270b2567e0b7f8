"""Mailbox addresses of the envelope (RFC 5321 section 4.1.2, RFC 6531 section 3.3): strict and frozen."""

from __future__ import annotations

import functools
import ipaddress
import re

import idna
from msgspec import Struct

__all__ = ["NULL_PATH", "Address", "AddressError", "parse_path"]

_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\u0080-\U0010ffff-]+"
_DOT_STRING = re.compile(rf"{_ATOM}(?:\.{_ATOM})*")
_QUOTED = re.compile(r'"((?:[ !#-\[\]-~\u0080-\U0010ffff]|\\[ -~])*)"')
_LABEL = r"[A-Za-z0-9_\u0080-\U0010ffff](?:[A-Za-z0-9_\u0080-\U0010ffff-]*[A-Za-z0-9_\u0080-\U0010ffff])?"
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_LITERAL = re.compile(r"\[(?:IPv6:)?[0-9A-Fa-f:.]+\]", re.IGNORECASE)
_SOURCE_ROUTE = re.compile(rf"@{_LABEL}(?:\.{_LABEL})*(?:,@{_LABEL}(?:\.{_LABEL})*)*:")

#: Limits of RFC 5321 section 4.5.3.1, in octets.
MAX_LOCAL_PART, MAX_DOMAIN, MAX_PATH = 64, 255, 256


class AddressError(ValueError):
    """The text is no address; the message says what is wrong and is fit for a reply."""


class Address(Struct, frozen=True):
    """A mailbox. `local_part` is unquoted and keeps its case; `domain` is lower case, without a final dot, and an
    internationalized one stands in A-labels: two spellings of a domain are one (RFC 5890).

    The null reverse-path is the address with both parts empty; it is false in a boolean context.
    `str()` quotes the local part where it must.
    """

    local_part: str
    domain: str

    @staticmethod
    def parse(text: str) -> Address:
        """The mailbox that `text` (without angle brackets) is; AddressError where it is none."""
        return _parsed(text)

    @property
    def is_ascii(self) -> bool:
        """Whether a next hop without SMTPUTF8 can be given this address."""
        return self.local_part.isascii() and self.domain.isascii()

    def __bool__(self) -> bool:
        return bool(self.domain)

    def __str__(self) -> str:
        return _written(self.local_part, self.domain)


@functools.lru_cache(maxsize=4096)
def _written(local_part: str, domain: str) -> str:
    if not domain:
        return ""
    if _DOT_STRING.fullmatch(local_part):
        return f"{local_part}@{domain}"
    quoted = local_part.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{quoted}"@{domain}'


@functools.lru_cache(maxsize=4096)  # those who write to us, and whom they write to, are the same ones day by day
def _parsed(text: str) -> Address:
    if len(text.encode("utf-8", "surrogatepass")) > MAX_PATH - 2:
        raise AddressError("address too long")
    if not text.isprintable():
        raise AddressError("an address has printable characters only")
    local_part, domain = _split(text)
    if len(local_part.encode()) > MAX_LOCAL_PART:
        raise AddressError("local part too long")
    return Address(local_part, _domain(domain))


#: The null reverse-path, `MAIL FROM:<>`.
NULL_PATH = Address("", "")


def parse_path(text: str, *, allow_null: bool = False) -> tuple[Address, str]:
    """The path at the start of `text`, and what follows it: `<a@b> SIZE=1` gives a@b and " SIZE=1".

    A source route is read and dropped (RFC 5321 section 4.1.1.3); `<postmaster>` has no domain there and is
    left to the caller. AddressError where there is no path, or a null one that was not allowed.
    """
    if not text.startswith("<"):
        raise AddressError("a path is written in angle brackets")
    end = _closing_bracket(text)
    inner, rest = text[1:end], text[end + 1 :]
    if rest and not rest.startswith(" "):
        raise AddressError("text behind the path")
    if not inner:
        if allow_null:
            return NULL_PATH, rest
        raise AddressError("the null path is not allowed here")
    route = _SOURCE_ROUTE.match(inner)
    return Address.parse(inner[route.end() :] if route else inner), rest


def _closing_bracket(text: str) -> int:
    if '"' not in text:
        end = text.find(">")
        if end < 0:
            raise AddressError("no closing angle bracket")
        return end
    quoted = escaped = False
    for index, character in enumerate(text):
        if escaped:
            escaped = False
        elif quoted and character == "\\":
            escaped = True
        elif character == '"' and (quoted or text[index - 1] in "<:"):  # nothing but a whole local part is quoted
            quoted = not quoted
        elif character == ">" and not quoted:
            return index
    raise AddressError("no closing angle bracket")


def _split(text: str) -> tuple[str, str]:
    if text.startswith('"'):
        match = _QUOTED.match(text)
        if match is None or text[match.end() : match.end() + 1] != "@":
            raise AddressError("malformed quoted local part")
        return re.sub(r"\\(.)", r"\1", match[1]), text[match.end() + 1 :]
    local_part, at, domain = text.partition("@")
    if not at:
        raise AddressError("an address has a domain")
    if not _DOT_STRING.fullmatch(local_part):
        raise AddressError("malformed local part")
    return local_part, domain


@functools.lru_cache(maxsize=4096)
def _domain(text: str) -> str:
    if text.startswith("["):
        return _literal(text)
    domain = text.removesuffix(".")
    if not domain.isascii():
        try:
            domain = idna.encode(domain, uts46=True).decode("ascii")
        except idna.IDNAError:
            raise AddressError("malformed domain") from None
    if not _DOMAIN.fullmatch(domain) or any(len(label.encode()) > 63 for label in domain.split(".")):
        raise AddressError("malformed domain")
    if len(domain.encode()) > MAX_DOMAIN:
        raise AddressError("domain too long")
    return domain.lower()


def _literal(text: str) -> str:
    inner = text[1:-1]
    try:
        # An IPv6 address with a zone could hold anything behind its "%".
        if not _LITERAL.fullmatch(text):
            raise ValueError
        if inner[:5].lower() == "ipv6:":
            return f"[ipv6:{ipaddress.IPv6Address(inner[5:])}]"
        return f"[{ipaddress.IPv4Address(inner)}]"
    except ValueError:
        raise AddressError("malformed address literal") from None
