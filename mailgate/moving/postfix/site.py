"""What the parts of an import share: the settings, the tables, the draft, and the reading of lists."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_network
from itertools import islice

from mailgate.config.hosts import parse_domain
from mailgate.moving.draft import Draft
from mailgate.moving.files import ReadingError, is_everybody, read_text
from mailgate.moving.postfix.reading import Parameters, Service, logical_lines, split_words
from mailgate.moving.postfix.tables import Table, Tables, Unreadable

__all__ = ["Member", "NextHop", "Site"]

_Network = IPv4Network | IPv6Network

_BRACKETED = re.compile(r"\[([^\]]+)\](?::([A-Za-z0-9]+))?")
_OPEN = re.compile(r"([^\[\]:]+)(?::([A-Za-z0-9]+))?")
#: Names of ports in the files of Postfix.
PORTS = {"smtp": 25, "lmtp": 24, "submission": 587, "smtps": 465, "submissions": 465, "urd": 465}
#: Entries of one list, and files inside files.
_MOST, _DEEPEST = 200_000, 10
#: Exceptions of one list of networks.
_EXCEPTIONS = 100
#: Files that all lists together may name, each as often as it is named.
_FILES = 2000


@dataclass(frozen=True, slots=True)
class Member:
    """One entry of a list, and where it stands; `is_not`: it is an exception to those behind it, as ! makes it."""

    text: str
    origin: str
    is_not: bool = False


class _UnclearError(Exception):
    """An exception of a list cannot be read; the text says which, and why."""


@dataclass(frozen=True, slots=True)
class NextHop:
    """Where a transport sends to: hosts in our form, and whether they are to be looked up by MX first."""

    hosts: tuple[str, ...]
    by_mx: bool = False


@dataclass
class Site:
    """A Postfix: `parameters` are those of main.cf alone; a service has its own, by `of`."""

    parameters: Parameters
    services: Sequence[Service]
    tables: Tables
    draft: Draft = field(default_factory=Draft)
    local: dict[str, str] = field(default_factory=dict)
    """the domains that mail is taken for, each with its class: local, virtual, relay or alias"""
    spared: dict[str, set[str]] = field(default_factory=dict)
    """the domains that each list of these excepts, so that no wider entry of the same list may be for them"""
    made: set[str] = field(default_factory=set)
    """the services, by their origin, that something in the new file was made of"""
    opened: int = 0
    """files that lists have named so far, each as often as it was named"""
    uses: set[tuple[str, str]] = field(default_factory=set)
    """the settings, each with where it stands, of which all that they say has been done or told, without their name"""

    def use(self, parameters: Parameters, *names: str) -> None:
        """Take down that these settings need no word more."""
        self.uses |= {(name, parameters.line(name)) for name in names}

    def members(self, name: str, parameters: Parameters | None = None) -> list[Member]:
        """The entries of a list of domains or networks: words, files of words, and the keys of tables. The
        list ends at an exception that cannot be read: what stands behind would be too wide without it."""
        parameters = parameters or self.parameters
        words, origin = parameters.words(name), parameters.origin(name)
        if words:
            self.use(parameters, name)  # each entry has a line of its own, or is told
        found: list[Member] = []
        try:
            found.extend(islice(self._members(words, origin, 0), _MOST + 1))
        except _UnclearError as error:
            self.unclear(origin, str(error))
        if len(found) > _MOST:
            raise ReadingError(f"{name}: has more than {_MOST} entries")
        return found

    def _members(self, words: Sequence[str], origin: str, depth: int, *, is_not: bool = False) -> Iterator[Member]:
        for written in words:
            word = written.lstrip("!")
            is_turned = is_not != bool((len(written) - len(word)) % 2)
            if word.startswith("/"):
                self.opened += 1
                if depth == _DEEPEST or self.opened > _FILES:
                    raise ReadingError(f"{word}: files lead to files without an end")
                path = self.tables.find(word)
                try:
                    lines = list(logical_lines(read_text(path)))
                except ReadingError as error:
                    if is_turned:
                        raise _UnclearError(f"!{word}: {error}") from None
                    self.draft.leave("missing", origin, str(error), "Its entries are not in the new file")
                    continue
                for number, line in lines:
                    where = f"{path.name}:{number}"
                    yield from self._members(split_words(line), where, depth + 1, is_not=is_turned)
            elif re.match(r"[a-z]+:", word) and not _is_network(word):
                table = self.tables.read(word)
                for entry in table.entries:
                    yield Member(entry.key, entry.origin, is_turned)
                if not table.entries and not (isinstance(table.content, tuple) and not table.content):
                    why = table.content.why if isinstance(table.content, Unreadable) else "its keys cannot be listed"
                    if is_turned:
                        raise _UnclearError(f"!{word}: {why}")
                    self.draft.leave("decide", f"{origin}: {word}", why, "Write its entries into the new file by hand")
            else:
                yield Member(word, origin, is_turned)

    def listed(self, setting: str, parameters: Parameters | None = None) -> list[Table]:
        """The tables that a setting lists; a word that is none, by which Postfix would not run, is noted."""
        parameters = parameters or self.parameters
        words = parameters.words(setting)
        for word in words:
            if ":" not in word:
                where = f"{parameters.origin(setting)}: {word}"
                self.draft.leave("missing", where, "is no table of the form type:name, and is left out")
        return self.tables.all([one for one in words if ":" in one])

    def networks(self, name: str, parameters: Parameters | None = None) -> list[tuple[str, str]]:
        """Networks of a list such as mynetworks, each in our form with its origin; what is left out is noted.

        The first entry of the list that fits an address counts: what stands behind an exception is without it.
        """
        found: dict[str, str] = {}
        excluded: list[_Network] = []
        for member in self.members(name, parameters):
            network = _network(member.text.replace("[", "").replace("]", ""))
            if network is None and member.is_not:
                self.unclear(member.origin, f"!{member.text}: is no network")
                break
            if network is None:
                where = f"{member.origin}: {member.text}"
                self.draft.leave("decide", where, "is no network", "Name clients by their addresses")
            elif member.is_not and len(excluded) == _EXCEPTIONS:
                self.unclear(member.origin, f"!{member.text}: there are more than {_EXCEPTIONS} exceptions")
                break
            elif member.is_not:
                excluded.append(network)
            elif is_everybody(network):
                text = "is half of the Internet or more, and would make an open relay: it is left out"
                self.draft.leave("decide", f"{member.origin}: {member.text}", text, "Name your own networks")
            else:
                for one in _without(network, excluded):
                    found.setdefault(str(one), member.origin)
        return list(found.items())

    def unclear(self, origin: str, why: str) -> None:
        """Note an exception of a list that cannot be made, so that what stands behind it is left out."""
        text = f"{why}: as this is an exception, what stands behind it in the list is left out"
        self.draft.leave("decide", origin, text, "Write the rest of the list into the new file by hand")

    def next_hop(self, text: str, setting: str) -> NextHop:
        """What `[host]:port`, `host:port` or `domain` stands for, several with commas between them."""
        hosts, by_mx = [], False
        for word in split_words(text):
            match = _BRACKETED.fullmatch(word) or _OPEN.fullmatch(word)
            if not match:
                self.draft.leave("decide", setting, f'"{word}" is no next hop that we know', "Name the hosts")
                continue
            host = match[1].removeprefix("ipv6:").removeprefix("IPv6:")
            try:
                port = self.port(match[2]) if match[2] else 0
            except ReadingError as error:
                self.draft.leave("decide", setting, str(error), "Name the hosts with their ports")
                continue
            by_mx = by_mx or not word.startswith("[")
            written = f"[{host}]" if ":" in host else host
            hosts.append(f"{written}:{port}" if port else written)
        return NextHop(tuple(hosts), by_mx)

    @staticmethod
    def port(text: str) -> int:
        """The number of a port; ReadingError where it has none."""
        if text.isascii() and text.isdigit() and len(text) < 6 and 0 < int(text) < 65536:
            return int(text)
        if text not in PORTS:
            raise ReadingError(f'"{text}" is no port that we know')
        return PORTS[text]

    def path(self, text: str, parameters: Parameters | None = None) -> str:
        """A path as Postfix means it: relative ones are below its queue, and for a service that is chrooted (by its
        `parameters`) all are."""
        is_chrooted = parameters is not None and parameters.is_chrooted
        if text.startswith("/") and not is_chrooted:
            return text
        return f"{self.parameters.get('queue_directory').rstrip('/')}/{text.lstrip('/')}"

    def is_domain(self, text: str) -> bool:
        """Whether this can be a domain in our file."""
        try:
            return bool(parse_domain(text))
        except ValueError:
            return False


def _network(text: str) -> _Network | None:
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        return None
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    if mapped is not None and network.prefixlen >= 96:  # IPv4 as Postfix may see it
        return ip_network((mapped, network.prefixlen - 96), strict=False)
    return network


def _without(network: _Network, excluded: Sequence[_Network]) -> list[_Network]:
    """What is left of a network when others are taken out of it."""
    left = [network]
    for other in excluded:
        rest = [piece for one in left for piece in _cut(one, other)]
        left = sorted(rest, key=lambda one: int(one.network_address))
    return left


def _cut(one: _Network, other: _Network) -> Iterable[_Network]:
    if isinstance(one, IPv4Network):
        if not isinstance(other, IPv4Network) or not one.overlaps(other):
            return [one]
        return [] if one.subnet_of(other) else one.address_exclude(other)
    if not isinstance(other, IPv6Network) or not one.overlaps(other):
        return [one]
    return [] if one.subnet_of(other) else one.address_exclude(other)


def _is_network(text: str) -> bool:
    return _network(text.replace("[", "").replace("]", "")) is not None
