"""Hosts, networks, domains and address patterns as they stand in the file. Each error is fit for an administrator."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_interface, ip_network

import idna

from mailgate.address import Address, AddressError

__all__ = [
    "HostPort",
    "check_socket_path",
    "parse_domain",
    "parse_domain_pattern",
    "parse_host",
    "parse_hostname",
    "parse_mailbox",
    "parse_network",
    "parse_routing_pattern",
    "parse_server",
]

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_HOSTNAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)+")
_SCHEME = re.compile(r"([a-z]+://).*", re.DOTALL | re.IGNORECASE)
_BRACKETS = re.compile(r"\[([^\[\]]*)\](?::(.*))?", re.DOTALL)
#: What the kernel takes as the path of a unix socket (sun_path, without the zero octet at its end).
_SOCKET_PATH_OCTETS = 107


@dataclass(frozen=True, slots=True)
class HostPort:
    """A next hop: a name (lower case) or an address, and a port; for a unix socket its path, and port 0."""

    host: str
    port: int

    @property
    def is_unix(self) -> bool:
        """Whether `host` is a socket's path."""
        return self.port == 0

    def __str__(self) -> str:
        if self.is_unix:
            return f"unix:{self.host}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_host(text: str, default_port: int) -> HostPort:
    """The next hop for "host", "host:port", "[v6]", "[v6]:port" or "unix:/path"; ValueError for anything else."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path.startswith("/") or "\0" in path:
            raise ValueError(f'"{text}" needs a full path: unix:/run/socket')
        check_socket_path(path)
        return HostPort(path, 0)
    if match := _SCHEME.fullmatch(text):
        raise ValueError(f'"{text}" is no host: write host:port, without {match[1]}')
    name, port = _split_port(text)
    if name.startswith("["):
        inner = name[1:-1]
        if inner and ":" not in inner:
            what = "names and IPv4 addresses stand without brackets; hosts given here are never looked up by MX"
            raise ValueError(f'"{text}" is no host: {what}')
        return HostPort(str(_v6(inner)), _port(port, text, default_port))
    try:
        host = str(IPv4Address(name))
    except ValueError:
        host = parse_domain(name)
        if host.rpartition(".")[2].isdigit():
            raise ValueError(f'"{name}" is neither a name nor an address') from None
    return HostPort(host, _port(port, text, default_port))


def check_socket_path(path: str) -> None:
    """ValueError where no unix socket can have this path."""
    length = len(os.fsencode(path))
    if length > _SOCKET_PATH_OCTETS:
        raise ValueError(
            f'the path of a socket has at most {_SOCKET_PATH_OCTETS} octets, "{path}" has {length}: use a shorter one'
        )


def parse_server(text: str, default_port: int = 53) -> tuple[str, int]:
    """Address and port of a DNS server: "192.0.2.1", "192.0.2.1:53", "2001:db8::1" or "[2001:db8::1]:53"."""
    try:
        return str(ip_address(text)), default_port
    except ValueError:
        pass
    name, port = _split_port(text)
    try:
        address = IPv6Address(name[1:-1]) if name.startswith("[") else IPv4Address(name)
    except ValueError:
        raise ValueError(f'"{text}" is no address of a DNS server (names cannot be used here)') from None
    return str(address), _port(port, text, default_port)


def parse_network(value: object) -> IPv4Network | IPv6Network:
    """The network for "10.0.0.0/8" or a single address; ValueError where host bits are set or it is none."""
    if isinstance(value, IPv4Network | IPv6Network):
        return value
    if not isinstance(value, str):
        raise ValueError("a network is written like 10.0.0.0/8 or 2001:db8::/32, in quotes")
    try:
        return ip_network(value)
    except ValueError:
        pass
    try:
        meant = ip_interface(value).network
    except ValueError:
        raise ValueError(f'"{value}" is no network: write 10.0.0.0/8, 2001:db8::/32 or an address') from None
    raise ValueError(f'"{value}" has bits set behind its prefix: the network is {meant}')


def parse_hostname(text: str) -> str:
    """A fully qualified host name (RFC 5321 section 2.3.5), in lower case."""
    name = _ascii(text.removesuffix(".")).lower()
    if not _HOSTNAME.fullmatch(name) or len(name) > 253 or name.rpartition(".")[2].isdigit():
        raise ValueError(f'"{text}" is no full host name like mx1.example.org')
    return name


def parse_domain(text: str) -> str:
    """A domain in lower case, ASCII (A-labels), without a final dot; an address literal keeps its brackets."""
    if text.startswith("["):
        try:
            return Address.parse(f"x@{text}").domain
        except AddressError:
            raise ValueError(f'"{text}" is no address literal like [192.0.2.1]') from None
    domain = _ascii(text.removesuffix(".")).lower()
    if not _DOMAIN.fullmatch(domain) or len(domain) > 253:
        raise ValueError(f'"{text}" is no domain')
    return domain


def parse_domain_pattern(text: str) -> str:
    """A domain, or "*.domain" for all below it, as `parse_domain` has it."""
    if text in ("*", "*.", "."):
        raise ValueError(f'"{text}" would take every domain: name them, like "example.org" or "*.example.org"')
    if text.startswith("*."):
        return f"*.{parse_domain(text[2:])}"
    try:
        return parse_domain(text)
    except ValueError:
        raise ValueError(f'"{text}" is no domain like "example.org" or "*.example.org"') from None


def parse_mailbox(text: str) -> str:
    """An address with its domain as `parse_domain` has it, or "@domain" for every address there."""
    local_part, at, domain = text.rpartition("@")
    if not at or not domain:
        raise ValueError(f'"{text}" is no address: it has no domain')
    if not local_part:
        return f"@{parse_domain(domain)}"
    try:
        return str(Address.parse(f"{local_part}@{parse_domain(domain)}"))
    except AddressError as error:
        raise ValueError(f'"{text}" is no address: {error}') from None


def parse_routing_pattern(text: str) -> str:
    """An address, a domain or "*.domain", all in lower case; "default" is what there is for all others."""
    if text in ("*", "*.", "."):
        raise ValueError(f'"{text}" stands for everything: that is what routing.default is for')
    if text.startswith("@"):
        raise ValueError(f'"{text}": a whole domain is written without the @')
    return parse_mailbox(text).lower() if "@" in text else parse_domain_pattern(text)


def _split_port(text: str) -> tuple[str, str | None]:
    """A name or a bracketed address, and the text behind its colon (None where there is no colon)."""
    if text.startswith("["):
        match = _BRACKETS.fullmatch(text)
        if match is None:
            raise ValueError(f'"{text}" is no host: an IPv6 address is written like [2001:db8::1]:25')
        return f"[{match[1]}]", match[2]
    if text.count(":") > 1:
        raise ValueError(f'"{text}" is no host: an IPv6 address stands in brackets, like [2001:db8::1]:25')
    name, colon, port = text.partition(":")
    return name, port if colon else None


def _port(port: str | None, text: str, default: int) -> int:
    if port is None:
        return default
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65535):
        raise ValueError(f'"{text}" has no valid port (1 to 65535)')
    return int(port)


def _v6(text: str) -> IPv6Address:
    try:
        return IPv6Address(text)
    except ValueError:
        raise ValueError(f'"[{text}]" is no IPv6 address') from None


def _ascii(text: str) -> str:
    if text.isascii():
        return text
    try:
        return idna.encode(text, uts46=True).decode("ascii")
    except idna.IDNAError:
        raise ValueError(f'"{text}" is no domain') from None
