"""DNSSEC and DANE: whether the resolver validates, and whether TLSA records of ours are those of our certificates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

from mailgate.awaiting import answered
from mailgate.config.routes import SmtpRoute
from mailgate.doctor.certificates import read_pairs
from mailgate.doctor.diagnosis import Check, Notes
from mailgate.doctor.site import Site, is_answered
from mailgate.interfaces import DnsStatus
from mailgate.tls.dane import Tlsa, usable, verify
from mailgate.tls.pem import KeyPair

__all__ = ["trust_checks"]

#: Names that are signed, whoever asks.
_SIGNED = ("org", "net")
#: How long before its end a certificate's successor should be thought of.
_SOON = timedelta(days=30)


def trust_checks(site: Site) -> Iterator[Check]:
    """Whether DNSSEC holds where DANE wants it, and our own TLSA records."""
    if _wants_dane(site):
        yield Check("dns", "dnssec", partial(_validates, site))
    if site.config.tls.certificate is not None:
        for host in site.own_hosts:
            yield Check("dns", host, partial(_tlsa, site, host))


def _wants_dane(site: Site) -> bool:
    config = site.config
    routes = [one for one in config.routes.values() if isinstance(one, SmtpRoute)]
    by_route = any(one.security in ("dane", "auto") for one in routes)
    return by_route or any(one.level == "dane" for one in config.tls_policies.values())


async def _validates(site: Site, notes: Notes) -> None:
    fix = "use a resolver on this machine that validates (unbound), and say dns.dnssec = true"
    if not site.config.dns.dnssec:
        notes.warn("routes ask for DANE, and dns.dnssec is false: no TLSA record counts", fix)
        return
    statuses = []
    for name in (*_SIGNED, *site.domains):
        answer = await answered(site.resolver.resolve(name, "SOA"))
        if answer.secure:
            notes.ok(f"the resolver validates ({name})")
            return
        statuses.append(answer.status)
    if DnsStatus.FOUND not in statuses[: len(_SIGNED)]:
        notes.warn("not checked: the resolver finds none of the zones that are known to be signed", fix)
    else:
        text = "the resolver does not validate, although dns.dnssec says so: mail goes without DANE"
        notes.warn(text, fix)


async def _tlsa(site: Site, host: str, notes: Notes) -> None:
    path = site.config.tls.certificate
    name = f"_25._tcp.{host}"
    answer = await answered(site.resolver.resolve(name, "TLSA"))
    if path is None or not is_answered(answer, "TLSA", notes):
        return
    if answer.status is not DnsStatus.FOUND:
        notes.note("has no TLSA records: senders cannot insist on our certificate by DANE", "see: mailgate mta-sts")
        return
    if site.config.dns.dnssec and not answer.secure:
        notes.warn("TLSA records in a zone that is not signed count for nothing", "sign the zone (DNSSEC)")
        return
    pairs, problems = await site.in_thread(partial(read_pairs, path))
    if problems:
        notes.warn(f"TLSA: not checked: {problems[0]}")
        return
    _compare(host, usable(answer.records), pairs, datetime.fromtimestamp(site.reactor.seconds(), UTC), notes)


def _compare(host: str, records: Sequence[Tlsa], pairs: Sequence[KeyPair], now: datetime, notes: Notes) -> None:
    if not records:
        notes.warn(
            "its TLSA records are of kinds that mail has no use for (RFC 7672): use 3 1 1", "see: mailgate mta-sts"
        )
        return
    meant = [one for one in pairs if host in one.names or f"*.{host.partition('.')[2]}" in one.names] or list(pairs)
    current = [one for one in meant if one.certificate.not_valid_before_utc <= now]
    for pair in current or meant:
        check, _ = verify(records, (pair.certificate, *pair.chain), (host,))
        if not check.is_verified:
            fix = f"publish: _25._tcp.{host}. TLSA {Tlsa.of(pair.certificate)}"
            notes.fail(f"its TLSA records do not match {pair.path}: senders that use DANE send us nothing", fix)
            return
    for pair in meant:
        check, _ = verify(records, (pair.certificate, *pair.chain), (host,))
        if not check.is_verified:
            fix = f"publish it now, beside the others: _25._tcp.{host}. TLSA {Tlsa.of(pair.certificate)}"
            notes.warn(f"its TLSA records do not match the next certificate, {pair.path}", fix)
            return
    notes.ok("its TLSA records match our certificates")
    ends = min(pair.certificate.not_valid_after_utc for pair in current or meant)
    if ends < now + _SOON and len(meant) == 1:
        text = (
            f"its certificate ends on {ends:%Y-%m-%d}; the next must have the same key, or its record be there before"
        )
        notes.note(text, "certbot: --reuse-key; else publish the TLSA record of the new key two TTLs before it is used")
