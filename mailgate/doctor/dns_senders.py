"""What DNS says of the addresses that our mail goes out from: SPF, PTR, blocklists."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from ipaddress import IPv4Address

from mailgate.awaiting import answered
from mailgate.doctor.diagnosis import Check, Notes
from mailgate.doctor.site import SentFrom, Site, addresses_of, internet_routes, is_answered, sent_from
from mailgate.filters.dnsbl import Options as DnsblOptions
from mailgate.filters.dnsbl_lists import fault_of, label_of
from mailgate.interfaces import DnsStatus
from mailgate.mailauth.spf import check_spf

__all__ = ["sender_checks"]

#: Names that a PTR record may have for us to look at.
_MOST_NAMES = 5


def sender_checks(site: Site) -> Iterator[Check]:
    """SPF of each of our domains, and of the names of EHLO; PTR and lists of each address."""
    if not internet_routes(site.config):
        yield Check("dns", site.hostname, partial(_by_others, site))
        return
    if site.relays:
        for domain in site.domains:
            yield Check("dns", domain, partial(_spf, site, domain))
    yield Check("dns", site.hostname, partial(_greetings, site))
    for zone in _zones(site):
        yield Check("dns", zone, partial(_listed, site, zone))


async def _by_others(site: Site, notes: Notes) -> None:
    text = "no route goes by MX: whose addresses SPF and PTR have to name is the business of the hosts of the routes"
    notes.note(text)


async def _spf(site: Site, domain: str, notes: Notes) -> None:
    for sender in await sent_from(site):
        if sender.is_inside:
            continue  # told with its name
        found = await check_spf(
            site.resolver,
            ip=sender.address,
            helo=sender.helo,
            mail_from=f"postmaster@{domain}",
            receiver=site.hostname,
            now=site.reactor.seconds(),
        )
        term = f"ip{sender.address.version}:{sender.address}"
        about = f"SPF: {found.result} for {sender.address}"
        match found.result:
            case "pass":
                notes.ok(about)
            case "fail" | "softfail":
                says = f"{about} ({found.mechanism}): others refuse its mail, or take it for spam"
                notes.fail(says, f"add {term} to the SPF record of {domain}")
            case "permerror":
                notes.fail(f"{about}: {found.reason}: others take it for no SPF, or refuse", "mend the SPF record")
            case "temperror":
                notes.warn(f"not checked: {about}: {found.reason}", "see [dns], and the resolver")
            case "neutral":
                notes.warn(f"{about}: the record says nothing of it", f"add {term} to the SPF record of {domain}")
            case _:
                notes.warn(
                    f"has no SPF record that names {sender.address}", f'publish: {domain}. TXT "v=spf1 {term} -all"'
                )


async def _greetings(site: Site, notes: Notes) -> None:
    senders = await sent_from(site)
    if not senders and is_answered(await answered(site.resolver.resolve(site.hostname, "A")), "A", notes):
        text = "has no address in DNS, and a route by MX has no pool: many receivers refuse mail of such a host"
        notes.fail(text, f"publish A, and AAAA where there is IPv6, for {site.hostname}.")
    for sender in senders:
        if sender.is_inside:
            text = f"{sender.address} is of a network inside: which address the Internet sees cannot be told from here"
            notes.note(text, f"that address must have the PTR record {sender.helo}.", subject=_called(sender))
        else:
            await _pointer(site, sender, notes)
            await _spf_of_helo(site, sender, notes)


async def _pointer(site: Site, sender: SentFrom, notes: Notes) -> None:
    """PTR, EHLO and A must say the same (RFC 1912 section 2.1): most receivers want that."""
    called, address, helo = _called(sender), sender.address, sender.helo
    fix = f"have the owner of the network publish: {address} PTR {helo}."
    answer = await answered(site.resolver.reverse(address))
    if answer.is_temporary:
        notes.warn(f"not checked: its PTR record cannot be looked up ({answer.status.value})", "", subject=called)
        return
    names = [one for one in answer.records if isinstance(one, str)][:_MOST_NAMES]
    if not names:
        notes.fail("has no PTR record: many receivers refuse its mail", fix, subject=called)
        return
    confirmed = [name for name in names if address in await addresses_of(site.resolver, name)]
    if not confirmed:
        text = f"its PTR record is {', '.join(names)}, which does not have this address: many receivers refuse its mail"
        notes.fail(text, fix, subject=called)
    elif address not in await addresses_of(site.resolver, helo):
        text = f"EHLO says {helo}, which does not have this address in DNS: many receivers refuse its mail"
        notes.fail(text, f"publish: {helo}. {'A' if address.version == 4 else 'AAAA'} {address}", subject=called)
    elif helo not in confirmed:
        text = f"EHLO says {helo}, and PTR {', '.join(confirmed)}: some receivers want them to be the same"
        notes.warn(text, fix, subject=called)
    else:
        notes.ok(f"PTR, EHLO and address agree: {helo}", subject=called)


async def _spf_of_helo(site: Site, sender: SentFrom, notes: Notes) -> None:
    """What reports of ours are judged by: they have no sender (RFC 7208 section 2.4)."""
    found = await check_spf(
        site.resolver,
        ip=sender.address,
        helo=sender.helo,
        mail_from="",
        receiver=site.hostname,
        now=site.reactor.seconds(),
    )
    called, fix = _called(sender), f'publish: {sender.helo}. TXT "v=spf1 a -all"'
    if found.result in ("fail", "softfail", "permerror"):
        text = f"SPF of {sender.helo}: {found.result}: reports of ours are refused: {found.reason or found.mechanism}"
        notes.fail(text, fix, subject=called)
    elif found.result == "temperror":
        notes.warn(f"not checked: SPF of {sender.helo}: {found.reason}", "", subject=called)
    elif found.result != "pass":
        notes.note(f"SPF of {sender.helo} does not say that reports of ours come from here", fix, subject=called)


def _zones(site: Site) -> list[str]:
    """The lists that the site itself asks about clients."""
    found: dict[str, None] = {}
    for one in site.of_kind("dnsbl"):
        if isinstance(one.options, DnsblOptions):
            found |= {each.zone: None for each in one.options.zones if each.kind == "address" and not each.allow}
    return list(found)


async def _listed(site: Site, zone: str, notes: Notes) -> None:
    for sender in await sent_from(site):
        if sender.is_inside:
            continue
        answer = await answered(site.resolver.resolve(f"{label_of(sender.address)}.{zone}", "A"))
        if not is_answered(answer, str(sender.address), notes):
            continue
        if answer.status is not DnsStatus.FOUND:
            notes.ok(f"{sender.address} is not listed")
        elif fault := fault_of(answer):
            notes.warn(f"not checked: {fault}", "ask it by a resolver of your own, or with your key")
        else:
            codes = ", ".join(str(one) for one in answer.records if isinstance(one, IPv4Address))
            fix = "find out why, stop that, and ask the list to remove it"
            notes.fail(f"{sender.address} is listed ({codes}): whoever asks this list refuses our mail", fix)


def _called(sender: SentFrom) -> str:
    return f"{sender.address} ({sender.name})" if sender.name else str(sender.address)
