"""Keys that sign, by domain and by date; their files are read again when they change."""

from __future__ import annotations

import datetime
import errno
import math
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cachetools import LRUCache
from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from mailgate.config.schema import Section
from mailgate.config.units import Form, path_template
from mailgate.config.values import Domain
from mailgate.filters.sealing import Selector
from mailgate.mailauth import SigningKey
from mailgate.stores.domains import DomainTable
from mailgate.stores.lists import look_at

__all__ = ["DomainKeys", "DomainOptions", "KeyOptions", "KeyRing", "NoKeyError", "Signer"]

_log = Logger()

#: Seconds between two looks at a file, octets of one that are read, and domains below "*." whose keys are kept.
_LOOK_EVERY = 1.0
_LARGEST = 64 * 1024
_REMEMBERED = 1000
#: How the system says that there is no such file; a domain can be longer than a name may be.
_NOT_THERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG})


class NoKeyError(Exception):
    """There is no key to sign with now, although there should be: the filter has failed."""


def _moment(value: object) -> float:
    """Seconds since the epoch; a date begins at midnight UTC."""
    if isinstance(value, str):
        try:
            value = datetime.datetime.fromisoformat(value) if ":" in value else datetime.date.fromisoformat(value)
        except ValueError:
            value = None
    if isinstance(value, datetime.datetime) and value.tzinfo is not None:
        return value.timestamp()
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        return datetime.datetime(value.year, value.month, value.day, tzinfo=datetime.UTC).timestamp()
    raise ValueError("must be a date like 2026-12-01 (midnight UTC), or a time with its zone: 2026-12-01T09:00:00Z")


def _write_moment(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat()


def _template(text: str, info: ValidationInfo) -> str:
    return path_template(text, info, ("domain", "selector"))


_Moment = Annotated[float, BeforeValidator(_moment), Form("date or time", _write_moment)]


class KeyOptions(Section):
    """A key, and when it signs. Of several keys of one kind (RSA, Ed25519) that may sign, the one whose `from` is the
    latest does; keys of different kinds sign together."""

    selector: Selector
    """where the key is published: SELECTOR._domainkey.DOMAIN"""
    path: Annotated[str, AfterValidator(_template), Form("path")]
    """the private key, RSA or Ed25519: PEM, or the seed of an Ed25519 key in base64. {domain} and {selector} stand for
    what they say. The file is read again when it changes; one that cannot be used leaves the key before in force, and
    is logged"""
    since: _Moment | None = Field(default=None, alias="from")
    """the key signs from this date on; always, if not given"""
    until: _Moment | None = None
    """the key signs up to this date; for ever, if not given. Let it be later than the `from` of the key that follows:
    should that one be missing, this one goes on"""


class DomainOptions(Section):
    """Whose mail is signed, and by which keys."""

    keys: list[KeyOptions] = Field(min_length=1)
    """one or more: { selector = "r1", path = "keys/{domain}.r1.pem", from = 2026-12-01 }"""
    identities: list[str] = Field(default=[])
    """who may have mail signed in this domain's name: names of logins (* stands for any characters), and networks of
    clients that are known by their address. Everybody who may relay, if empty"""


@dataclass(frozen=True, slots=True)
class Signer:
    """A key with its place: d= and s=."""

    domain: str
    selector: str
    key: SigningKey


class _KeyFile:
    """A key in a file. `key` is the last one that could be read, None where there is none yet; `is_there` says whether
    there was a file, it may be one that cannot be read.

    `refresh` reads, and may be called in any thread, by several at once.
    """

    def __init__(self, path: Path, clock: IReactorTime) -> None:
        self.key: SigningKey | None = None
        self.is_there = False
        self.problem = "has not been read yet"
        self._path = path
        self._clock = clock
        self._next_look = -math.inf
        self._signature: object = None
        self._is_stale = True

    def is_stale(self) -> bool:
        """Whether it is to be read; the file is looked at once a second."""
        now = self._clock.seconds()
        if now >= self._next_look:
            self._next_look = now + _LOOK_EVERY
            self._is_stale = self._is_stale or look_at(self._path) != self._signature
        return self._is_stale

    def refresh(self) -> None:
        signature = look_at(self._path)
        is_there = True
        try:
            self.key = self._read()
            self.problem = ""
        except OSError as error:
            self.problem = f"cannot be read: {error.strerror}"
            is_there = error.errno not in _NOT_THERE
        except ValueError as error:
            self.problem = str(error)
        if self.problem and self.key is not None:
            _log.error("{path}: {problem}; the key before goes on", path=str(self._path), problem=self.problem)
        self.is_there = is_there
        self._signature = signature
        self._is_stale = False

    def _read(self) -> SigningKey:
        with self._path.open("rb") as file:
            octets = file.read(_LARGEST + 1)
            if os.fstat(file.fileno()).st_mode & stat.S_IRWXO:
                _log.warn("{path}: every user of this machine can read this private key", path=str(self._path))
        if len(octets) > _LARGEST:
            raise ValueError("is too large for a key")
        return SigningKey.load(octets)

    def __str__(self) -> str:
        return f"{self._path}: {self.problem}"


class DomainKeys:
    """The keys of one domain. `is_certain`: it must have one; else it has those whose files are there.

    `entry` is the key of `domains` that is for it, "" for none.
    """

    def __init__(
        self, domain: str, entry: str, keys: Sequence[KeyOptions], clock: IReactorTime, *, is_certain: bool
    ) -> None:
        self.domain = domain
        self.entry = entry
        self._is_certain = is_certain
        self._keys = [(one, _KeyFile(_path_of(one, domain), clock)) for one in keys]

    def is_stale(self) -> bool:
        """Whether `refresh` has something to do. In the reactor's thread."""
        return any(file.is_stale() for _, file in self._keys)

    def refresh(self) -> None:
        """Read what has changed, in any thread."""
        for _, file in self._keys:
            if file.is_stale():
                file.refresh()

    @property
    def signs(self) -> bool:
        """Whether mail of this domain is to be signed: a file that cannot be read is no reason to do without."""
        return self._is_certain or any(file.key is not None or file.is_there for _, file in self._keys)

    def check(self, now: float) -> None:
        """ValueError where a key that may sign, now or later, cannot be read, or two have one place."""
        for one, file in self._keys:
            if (one.until is None or one.until > now) and file.key is None:
                raise ValueError(f"{self.entry}: {file}")
            if one.since is not None and one.until is not None and one.until <= one.since:
                raise ValueError(f"{self.entry}: the key {one.selector} ends before it begins")
        end = max(math.inf if one.until is None else one.until for one, _ in self._keys)
        gap = self._gap(now)
        if gap is not None:
            _log.error(
                "{domain}: no key signs from {begin} to {end}; its mail is not sent then",
                domain=self.domain,
                begin=_write_moment(gap[0]),
                end=_write_moment(gap[1]),
            )
        if end <= now:
            _log.error("{domain}: the time of every key is over; its mail is not sent", domain=self.domain)
        elif end < math.inf:
            _log.warn(
                "{domain}: the last of its keys ends {end}; without another one its mail is not sent from then on",
                domain=self.domain,
                end=_write_moment(end),
            )

    def _gap(self, now: float) -> tuple[float, float] | None:
        """The first time from now on in which none of them signs, although one does later."""
        at = now
        for since, until in sorted(
            (-math.inf if one.since is None else one.since, math.inf if one.until is None else one.until)
            for one, _ in self._keys
        ):
            if since > at:
                return at, since
            at = max(at, until)
        return None

    def signers(self, now: float) -> list[Signer]:
        """The key of each kind that signs at this time. NoKeyError where there is none."""
        chosen: dict[str, tuple[float, str, SigningKey]] = {}
        for one, file in self._keys:
            since = -math.inf if one.since is None else one.since
            if file.key is None or since > now or (one.until is not None and one.until <= now):
                continue
            kind = file.key.algorithm
            if kind not in chosen or chosen[kind][0] < since:
                chosen[kind] = since, one.selector, file.key
        if not chosen:
            raise NoKeyError(f"{self.domain} has no key that signs now: {self._told(now)}")
        # RSA comes last, and so on top: whoever knows nothing else finds it where it looks first.
        return [Signer(self.domain, selector, key) for _, (_, selector, key) in sorted(chosen.items())]

    def _told(self, now: float) -> str:
        return "; ".join(
            f"{one.selector} {file.problem or ('is over' if one.until and one.until <= now else 'is not yet in force')}"
            for one, file in self._keys
        )


class KeyRing:
    """The keys of all domains. Those of domains below "*." and of domains that no entry names are found as they are
    asked for, and the last thousand of them are kept."""

    def __init__(
        self, domains: Mapping[Domain, DomainOptions], others: Sequence[KeyOptions], clock: IReactorTime
    ) -> None:
        """ValueError where a key of a domain that is named cannot be read."""
        self._clock = clock
        self._entries = DomainTable({name: (name, section) for name, section in domains.items()})
        self._others = others
        if any("{domain}" not in one.path for one in others):
            raise ValueError("keys: the path has no {domain} in it, and these are the keys of many domains")
        self._known: LRUCache[str, DomainKeys] = LRUCache(_REMEMBERED)
        self._fixed = {name: self._make(name) for name in domains if not name.startswith("*.")}
        for keys in self._fixed.values():
            if keys is not None:
                keys.refresh()
                keys.check(clock.seconds())

    def find(self, domain: str) -> DomainKeys | None:
        """The keys of a domain (lower case, A-labels); None where it has none."""
        found = self._fixed.get(domain) or self._known.get(domain)
        if found is None:
            found = self._make(domain)
            if found is not None:
                self._known[domain] = found
        return found

    def _make(self, domain: str) -> DomainKeys | None:
        named = self._entries.match(domain)
        if named is not None:
            entry, section = named
            is_certain = entry == domain or any("{domain}" not in one.path for one in section.keys)
            return DomainKeys(domain, entry, section.keys, self._clock, is_certain=is_certain)
        if self._others:
            return DomainKeys(domain, "", self._others, self._clock, is_certain=False)
        return None


def _path_of(key: KeyOptions, domain: str) -> Path:
    return Path(key.path.format(domain=domain, selector=key.selector))
