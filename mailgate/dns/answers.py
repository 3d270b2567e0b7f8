"""From a server's response to an `Answer` (RFC 1035, RFC 2308): pure functions."""

from __future__ import annotations

import dns.name
import dns.rcode
import dns.rdatatype

from mailgate.dns.messages import Owner, RecordSet, Response
from mailgate.interfaces import Answer, DnsStatus

__all__ = ["read_answer"]

#: Seconds for which a positive and a negative answer (RFC 2308 section 5) hold at most.
_LONGEST, _LONGEST_NEGATIVE = 86400, 3600
#: CNAMEs that are followed, one less.
_MOST_ALIASES = 16

_NOERROR, _NXDOMAIN, _CNAME = int(dns.rcode.NOERROR), int(dns.rcode.NXDOMAIN), int(dns.rdatatype.CNAME)


def read_answer(response: Response) -> Answer | None:
    """What the response says; None where the server has no answer for us (SERVFAIL, REFUSED, a referral, nonsense).

    A chain of CNAMEs within the response is followed, up to 15 of them.
    """
    if response.rcode not in (_NOERROR, _NXDOMAIN):
        return None
    owner, ttl = response.owner, _LONGEST
    for _ in range(_MOST_ALIASES):
        found = response.answers.get((owner, response.rdtype))
        alias = None if found is not None else response.answers.get((owner, _CNAME))
        if found is not None:
            ttl = min(ttl, found.ttl)
            break
        if alias is None or alias.target is None:
            break
        owner, ttl = alias.target, min(ttl, alias.ttl)
    else:
        return None
    if found is not None:
        if response.rcode == _NXDOMAIN:
            return None
        name = "" if owner == response.owner else _name(owner)
        return _positive(found, ttl, is_secure=response.is_secure, alias=name)
    negative = _negative_ttl(response, owner)
    kept = 0.0 if negative is None else float(min(ttl, negative, _LONGEST_NEGATIVE))
    if response.rcode == _NXDOMAIN:
        return Answer(DnsStatus.NXDOMAIN, ttl=kept, secure=response.is_secure)
    if response.names_servers and not response.soas:
        return None  # it does not recurse and points elsewhere, which looks like NODATA (RFC 2308 section 2.2)
    return Answer(DnsStatus.NODATA, ttl=kept, secure=response.is_secure)


def _positive(found: RecordSet, ttl: int, *, is_secure: bool, alias: str) -> Answer:
    records = tuple(found.records)
    if len(records) > 1 and isinstance(records[0], tuple):  # of MX
        records = tuple(sorted(records))  # type: ignore[type-var]  # pairs of a number and a name
    return Answer(DnsStatus.FOUND, records, float(ttl), is_secure, alias)


def _name(owner: Owner) -> str:
    return dns.name.Name(owner).to_text(omit_final_dot=True)


def _negative_ttl(response: Response, owner: Owner) -> int | None:
    """For how long a name has nothing; None where nobody says so: then that is not to be kept (RFC 2308 section 5)."""
    for at in range(len(owner)):
        seconds = response.soas.get(owner[at:])
        if seconds is not None:
            return seconds
    return None
