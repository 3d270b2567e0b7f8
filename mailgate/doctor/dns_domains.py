"""What DNS says of our domains to those who send to us, and to those who get mail in their name."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from mailgate.awaiting import answered
from mailgate.doctor.diagnosis import Check, Notes
from mailgate.doctor.site import Site, addresses_of, is_answered
from mailgate.interfaces import DnsStatus
from mailgate.mailauth.dmarc.organization import Domains
from mailgate.relay.security.demand import covers
from mailgate.relay.security.sts_fetch import StsFetchError
from mailgate.relay.security.sts_policy import announced_id
from mailgate.reporting.tls_record import destinations_in

__all__ = ["domain_checks"]

#: Mail hosts of one domain that are looked at.
_MOST_HOSTS = 10


def domain_checks(site: Site) -> Iterator[Check]:
    """MX, DMARC, MTA-STS and TLS reports of each of our domains."""
    for domain in site.domains:
        yield Check("dns", domain, partial(_mx, site, domain))
        yield Check("dns", domain, partial(_dmarc, site, domain))
        yield Check("dns", domain, partial(_mta_sts, site, domain), site.config.mta_sts.timeout + 10)
        yield Check("dns", domain, partial(_tls_reports, site, domain))


async def _mx(site: Site, domain: str, notes: Notes) -> None:
    publish = f"when its mail is to come here, publish: {domain}. MX 10 {site.hostname}."
    answer = await answered(site.resolver.resolve(domain, "MX"))
    if not is_answered(answer, "MX", notes):
        return
    if answer.status is not DnsStatus.FOUND:
        notes.warn("has no MX records: its mail goes to the address of the domain itself, if there is one", publish)
        return
    names = [str(one[1]) for one in answer.records if isinstance(one, tuple)][:_MOST_HOSTS]
    if names == [""]:
        notes.fail("has a null MX: everybody refuses to send it mail", publish)
        return
    ours = set(await addresses_of(site.resolver, site.hostname))
    others = []
    for name in names:
        found = set(await addresses_of(site.resolver, name))
        if name in site.own_hosts or found & ours:
            await _own_host(site, name, notes, has_address=bool(found))
        else:
            others.append(name)
    shown = ", ".join(others)
    if len(others) == len(names):
        notes.warn(f"its mail goes to {shown}, not to {site.hostname}", publish)
    elif others:
        notes.note(f"its mail goes to {shown} as well: they must know its recipients, and refuse what we would refuse")


async def _own_host(site: Site, name: str, notes: Notes, *, has_address: bool) -> None:
    for rdtype in ("A", "AAAA"):
        answer = await answered(site.resolver.resolve(name, rdtype))
        if not is_answered(answer, f"{rdtype} of {name}", notes):
            return
        if answer.alias:
            text = f"its MX {name} is an alias (CNAME) of {answer.alias}, which no MX may be (RFC 2181 section 10.3)"
            notes.warn(text, f"give {name} addresses of its own, or name {answer.alias} in the MX record")
            return
    if has_address:
        notes.ok(f"its mail comes to us: MX {name}")
    else:
        notes.fail(f"its MX {name} has no address", f"publish A, and AAAA where there is IPv6, for {name}.")


async def _dmarc(site: Site, domain: str, notes: Notes) -> None:
    publish = f'publish at _dmarc.{domain}: "v=DMARC1; p=none; rua=mailto:dmarc@{domain}", and read the reports'
    policy = await Domains.of(site.resolver, "rfc9989").policy_for(domain)
    record = policy.record
    if not policy.is_certain:
        notes.warn(f"DMARC: not checked: {policy.problem or 'DNS does not answer'}", "see [dns], and the resolver")
    elif policy.problem:
        notes.warn(f"DMARC: {policy.problem}", publish)
    elif record is None:
        text = "has no DMARC record: large receivers refuse or file away much of what comes from such domains"
        notes.warn(text, publish)
    elif record.policy == "none" and record.domain == domain:
        text = "DMARC: p=none: mail that others forge in its name is treated like any other"
        notes.note(text, "once reports show that all of its own mail passes: p=quarantine, then p=reject")
    elif not record.aggregate:
        text = f"DMARC: p={record.policy} without rua: nobody tells you when its own mail fails"
        notes.note(text, f"add rua=mailto:dmarc@{domain}")
    else:
        whose = "" if record.domain == domain else f" (of {record.domain})"
        notes.ok(f"DMARC: p={record.policy if record.domain == domain else record.subdomain_policy}{whose}")


async def _mta_sts(site: Site, domain: str, notes: Notes) -> None:
    host = f"_mta-sts.{domain}"
    answer = await answered(site.resolver.resolve(host, "TXT"))
    if not is_answered(answer, "MTA-STS", notes):
        return
    if not any(isinstance(one, bytes) and one.startswith(b"v=STSv1") for one in answer.records):
        notes.note("has no MTA-STS policy: who can change DNS can read its mail", "see: mailgate mta-sts")
        return
    if not announced_id(answer.records):
        notes.warn(f"MTA-STS: the record at {host} is malformed, or there are several", "see: mailgate mta-sts")
        return
    try:
        policy = await site.fetch_policy(domain)
    except StsFetchError as error:
        text = f"MTA-STS: {error}: senders go on with an older policy, or without one"
        notes.warn(text, "put the policy of `mailgate mta-sts` there, with a certificate for that name")
        return
    mx = await answered(site.resolver.resolve(domain, "MX"))
    names = [str(one[1]) for one in mx.records if isinstance(one, tuple)]
    missing = [name for name in names if not covers(policy.mx, name)]
    if policy.mode == "none":
        notes.note('MTA-STS: the policy says "none"')
    elif missing:
        text = f"MTA-STS: the policy does not name {', '.join(missing)}, which MX does"
        text += ": senders refuse to send there" if policy.mode == "enforce" else ", and would be broken by enforce"
        fix = "publish the new policy file, then the new id (mailgate mta-sts)"
        notes.say("fail" if policy.mode == "enforce" else "warn", text, fix)
    else:
        notes.ok(f"MTA-STS: {policy.mode}, for {', '.join(policy.mx)}")


async def _tls_reports(site: Site, domain: str, notes: Notes) -> None:
    host = f"_smtp._tls.{domain}"
    answer = await answered(site.resolver.resolve(host, "TXT"))
    if not is_answered(answer, "TLS reports", notes):
        return
    fix = f'publish at {host}: "v=TLSRPTv1; rua=mailto:tls-reports@{domain}"'
    if destinations_in(answer.records):
        notes.ok("TLS reports are asked for")
    elif any(isinstance(one, bytes) and b"TLSRPT" in one for one in answer.records):
        notes.warn(f"TLS reports: the record at {host} is malformed, or there are several", fix)
    else:
        notes.note("asks for no TLS reports: nobody tells you when senders cannot make TLS with us", fix)
