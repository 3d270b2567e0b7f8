"""The keys that sign, for DKIM and ARC, and what DNS has of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mailgate.awaiting import answered
from mailgate.doctor.diagnosis import Check, Notes
from mailgate.doctor.site import Site
from mailgate.filters.dkim_sign import Options as SignOptions
from mailgate.filters.sealing import SealOptions
from mailgate.filters.signing_keys import KeyOptions
from mailgate.mailauth import SigningKey
from mailgate.mailauth.dkim.keys import key_name
from mailgate.mailauth.dkim.published import compare
from mailgate.stores.domains import DomainTable

__all__ = ["dkim_checks", "key_files"]

#: Octets of a key's file that are read.
_LARGEST = 64 * 1024
#: Seconds before its first day from which on a key should be published: caches, and secondaries.
_AHEAD = 7 * 86400.0


@dataclass(frozen=True, slots=True)
class _Key:
    """A key of a domain, and from when to when it signs (seconds since the epoch; None: no bound). `may_lack`: there
    need be no such file."""

    domain: str
    selector: str
    path: Path
    since: float | None = None
    until: float | None = None
    may_lack: bool = False


def dkim_checks(site: Site) -> Iterator[Check]:
    """One for each key; and for each of our domains for which nobody signs."""
    keys = _keys_of(site)
    for key in keys:
        yield Check("dkim", key_name(key.domain, key.selector), partial(_look, site, key))
    if site.relays:
        for domain in site.domains:
            above = [one for one in keys if domain == one.domain or domain.endswith(f".{one.domain}")]
            if not above:
                yield Check("dkim", domain, partial(_unsigned, domain))


def key_files(site: Site) -> list[Path]:
    """The files of all these keys."""
    return list(dict.fromkeys(key.path for key in _keys_of(site)))


def _keys_of(site: Site) -> list[_Key]:
    return list(dict.fromkeys([*_signing(site), *_sealing(site)]))


async def _unsigned(domain: str, notes: Notes) -> None:
    text = "its mail goes out without a signature: large receivers refuse or file away much of such mail"
    notes.warn(text, f"mailgate dkim-key {domain} s1, and name the key in [filters.dkim-sign]")


async def _look(site: Site, key: _Key, notes: Notes) -> None:
    now = site.reactor.seconds()
    if key.until is not None and key.until <= now:
        notes.note("its time is over", "once mail signed with it has arrived, remove the key, and its record")
        return

    def read() -> SigningKey:
        with key.path.open("rb") as file:
            return SigningKey.load(file.read(_LARGEST))

    try:
        found = await site.in_thread(read)
    except (OSError, ValueError) as error:
        if not (key.may_lack and isinstance(error, FileNotFoundError)):
            why = error.strerror if isinstance(error, OSError) else str(error)
            notes.fail(f"{key.path}: {why}: what it should sign is not taken", "see: mailgate dkim-key")
        return
    answer = await answered(site.resolver.resolve(key_name(key.domain, key.selector), "TXT"))
    problem = compare(answer, found)
    fix = f"mailgate dkim-key {key.domain} {key.selector} --path {key.path} --show prints the record to publish"
    if not problem:
        notes.ok(f"is published, and is the key in {key.path}")
    elif answer.is_temporary:
        notes.warn(f"not checked: {problem}", "see [dns], and the resolver")
    elif key.since is not None and key.since > now:
        is_near = key.since < now + _AHEAD
        notes.say("warn" if is_near else "note", f"{problem}, and the key begins to sign before long", fix)
    else:
        notes.fail(f"{problem}: what is signed with {key.path} fails DKIM", fix)


def _signing(site: Site) -> Iterator[_Key]:
    ours = site.domains
    for one in site.of_kind("dkim-sign"):
        options = one.options
        if not isinstance(options, SignOptions):
            continue
        named = DomainTable({name: (name, section) for name, section in options.domains.items()})
        for domain in dict.fromkeys([*(name for name in options.domains if not name.startswith("*.")), *ours]):
            entry = named.match(domain)
            if entry is not None:
                name, section = entry
                yield from _keys(domain, section.keys, may_lack=name != domain)
            else:
                yield from _keys(domain, options.keys, may_lack=True)


def _keys(domain: str, options: Sequence[KeyOptions], *, may_lack: bool) -> Iterator[_Key]:
    for one in options:
        path = Path(one.path.format(domain=domain, selector=one.selector))
        yield _Key(domain, one.selector, path, one.since, one.until, may_lack and "{domain}" in one.path)


def _sealing(site: Site) -> Iterator[_Key]:
    for one in site.filters:
        for options in (one.options, getattr(one.options, "seal", None)):
            if isinstance(options, SealOptions):
                yield _Key(options.domain, options.selector, options.key)
    for section in (site.config.reports, site.config.tls_reports):
        if section.enabled and section.dkim is not None:
            yield _Key(section.dkim.domain, section.dkim.selector, section.dkim.key)
