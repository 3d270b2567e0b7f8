"""Where links lead: hosts of addresses in text and HTML, whatever they are dressed up as."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address
from itertools import islice
from urllib.parse import unquote

import idna
from publicsuffixlist import PublicSuffixList

from mailgate.content.models import Link

__all__ = ["LinkReader", "host_of", "urls_in"]

#: Characters of one address, links of one message, and links inside one another's parameters.
_LONGEST, MOST_LINKS, _DEEPEST = 2000, 1000, 3
#: Links in one address, and addresses of one message that are read, whether they lead to another host or not.
_MOST_INSIDE, _MOST_READ = 5, 20_000

_URL = re.compile(r"(?:h[tx]{2}ps?|ftp)\s?(?::|\[:\])\s?[/\\]{2}[^\s<>\"'`\u201c\u201d]{1,2000}", re.IGNORECASE)
_WWW = re.compile(r"(?<![\w./@-])www\d{0,2}\.[^\s<>\"'`/@]{3,253}(?:/[^\s<>\"'`]{0,1500})?", re.IGNORECASE)
_BARE = re.compile(r"(?<![\w./@:-])(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.){1,5}[a-z]{2,24}(?![\w@-])", re.IGNORECASE)
_SCHEME = re.compile(r"\s*+([A-Za-z][A-Za-z0-9+.-]{0,20})\s?(?::|\[:\])\s?[/\\]*+(.*)", re.DOTALL)
_NO_HOST = frozenset(
    {"mailto", "cid", "data", "tel", "javascript", "about", "sms", "mid", "urn", "blob", "callto", "xmpp"}
)
_NESTED = re.compile(r"h(?:tt|xx)ps?(?::|%3a|%253a)(?:/|%2f|%252f){2}", re.IGNORECASE)
_IGNORED = re.compile(r"[\t\r\n\u00ad\u200b-\u200f\u2060\ufeff]")
_NUMBER = re.compile(r"(?:0[xX]([0-9a-fA-F]{0,16})|(0[0-7]{0,22})|([1-9][0-9]{0,20}))")
_TRAILING = ".,;:!?)]}>'\"*_"
#: Other signs that browsers read as the dot between labels (RFC 3490 section 3.1).
_DOTS = str.maketrans({"\u3002": ".", "\uff0e": ".", "\uff61": "."})


class LinkReader:
    """Gathers the links of one message, each host with each carrier once."""

    def __init__(self, suffixes: PublicSuffixList) -> None:
        self.links: list[Link] = []
        self.is_full = False
        self._suffixes = suffixes
        self._read = 0
        self._known: set[tuple[str, str]] = set()

    def add(self, urls: Iterable[str]) -> None:
        """Take addresses as they stand in a text or an attribute."""
        for url in urls:
            self._take(url[:_LONGEST], "", 0)

    def add_bare(self, text: str) -> None:
        """Take names in a text that are below a public suffix."""
        for match in _BARE.finditer(text):
            if self._suffixes.publicsuffix(match[0].lower(), accept_unknown=False):
                self._take(f"http://{match[0]}", "", 0)

    def _take(self, url: str, via: str, level: int) -> None:
        self._read += 1
        if self._read > _MOST_READ:
            self.is_full = True
            return
        host = host_of(url)
        if host:
            self._keep(url, host, via)
        if level == _DEEPEST:
            return
        # What a redirector is told to go on to stands in its path or in a parameter, encoded once or twice.
        start = 8 if level == 0 else 1
        for match in islice(_NESTED.finditer(url, start), _MOST_INSIDE):
            self._take(_unquoted(url[match.start() :]), host or via, level + 1)

    def _keep(self, url: str, host: str, via: str) -> None:
        if (host, via) in self._known:
            return
        if len(self.links) >= MOST_LINKS:
            self.is_full = True
            return
        self._known.add((host, via))
        domain = host if _is_address(host) else self._suffixes.privatesuffix(host) or host
        self.links.append(Link(url[:200], host, domain, via))


def urls_in(text: str) -> Iterator[str]:
    """The addresses in a text that programs make links of."""
    for pattern, scheme in ((_URL, ""), (_WWW, "http://")):
        for match in pattern.finditer(text):
            yield scheme + match[0].rstrip(_TRAILING)


def host_of(url: str) -> str:
    """The host that a browser goes to for this address: lower case, A-labels, addresses in their usual form; ""
    where there is none."""
    url = _IGNORED.sub("", url)
    match = _SCHEME.match(url)
    if match and match[1].lower() not in _NO_HOST:
        rest = match[2]
    elif match is None and url.startswith(("//", "\\\\", "/\\")):
        rest = url.lstrip("/\\")
    else:
        return ""
    authority = re.split(r"[/\\?#]", rest, maxsplit=1)[0]
    host = authority.rpartition("@")[2]
    if host.startswith("["):
        return _v6(host[1:].partition("]")[0])
    host = unquote(host.partition(":")[0], errors="replace")
    host = host.replace("[.]", ".").replace("(.)", ".").translate(_DOTS).strip(" .").lower()
    if not host or len(host) > 253 or any(sign in host for sign in " @/\\<>%[]"):
        return ""
    return _v4(host) or _name(host)


def _unquoted(text: str) -> str:
    for _ in range(2):
        if "%" not in text[:16]:
            break
        text = unquote(text)
    return text.partition("&")[0] if "://" in text[:10] else text


def _v6(text: str) -> str:
    try:
        address = IPv6Address(text)
    except ValueError:
        return ""
    return str(address.ipv4_mapped or address)


def _v4(host: str) -> str:
    """An IPv4 address in any form that browsers take (WHATWG URL 3.5): hex, octal, one number for several octets."""
    pieces = host.split(".")
    if not 1 <= len(pieces) <= 4:
        return ""
    numbers: list[int] = []
    for piece in pieces:
        match = _NUMBER.fullmatch(piece)
        if match is None:
            return ""
        base = 16 if match[1] is not None else 8 if match[2] is not None else 10
        numbers.append(int(match[1] or match[2] or match[3] or "0", base))
    last = 256 ** (5 - len(numbers))
    if any(one > 255 for one in numbers[:-1]) or numbers[-1] >= last:
        return ""
    value = numbers[-1] + sum(one << 8 * (3 - index) for index, one in enumerate(numbers[:-1]))
    return str(IPv4Address(value))


def _name(host: str) -> str:
    if "." not in host:
        return ""
    if host.isascii():
        return host if re.fullmatch(r"[a-z0-9_.-]+", host) and ".." not in host else ""
    try:
        return idna.encode(host, uts46=True, transitional=False).decode()
    except (idna.IDNAError, UnicodeError):
        return ""


def _is_address(host: str) -> bool:
    return ":" in host or host.rpartition(".")[2].isdigit()
