"""From a server's response to an `Answer` (RFC 1035, RFC 2308): pure functions."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdatatype
from dns.rdtypes.ANY.CNAME import CNAME
from dns.rdtypes.ANY.MX import MX
from dns.rdtypes.ANY.PTR import PTR
from dns.rdtypes.ANY.TXT import TXT
from dns.rdtypes.IN.A import A
from dns.rdtypes.IN.AAAA import AAAA

from mailgate.interfaces import Answer, DnsStatus

__all__ = ["read_answer"]

#: Seconds for which a positive and a negative answer (RFC 2308 section 5) hold at most.
_LONGEST, _LONGEST_NEGATIVE = 86400, 3600


def read_answer(response: dns.message.QueryMessage) -> Answer | None:
    """What the response says; None where the server has no answer for us (SERVFAIL, REFUSED, a referral, nonsense).

    A chain of CNAMEs within the response is followed, up to 16 of them. Records of types that `Answer` does not name
    are their text as in a zone file.
    """
    if response.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        return None
    try:
        chain = response.resolve_chaining()
    except dns.exception.DNSException:
        return None
    secure = bool(response.flags & dns.flags.AD)
    if chain.answer is not None:
        return Answer(DnsStatus.FOUND, _records(chain.answer), float(min(chain.minimum_ttl, _LONGEST)), secure)
    ttl = float(min(chain.minimum_ttl, _LONGEST_NEGATIVE)) if _has_soa(response, chain.canonical_name) else 0.0
    if response.rcode() == dns.rcode.NXDOMAIN:
        return Answer(DnsStatus.NXDOMAIN, ttl=ttl, secure=secure)
    if _is_referral(response):
        return None
    return Answer(DnsStatus.NODATA, ttl=ttl, secure=secure)


def _has_soa(response: dns.message.QueryMessage, name: dns.name.Name) -> bool:
    """Whether it says for how long a name has nothing: else that is not to be kept (RFC 2308 section 5)."""
    return any(one.rdtype == dns.rdatatype.SOA and name.is_subdomain(one.name) for one in response.authority)


def _is_referral(response: dns.message.QueryMessage) -> bool:
    """Whether a server that does not recurse points elsewhere, which looks like NODATA (RFC 2308 section 2.2)."""
    types = {rrset.rdtype for rrset in response.authority}
    return dns.rdatatype.NS in types and dns.rdatatype.SOA not in types


def _records(rdatas: Iterable[dns.rdata.Rdata]) -> tuple[object, ...]:
    exchanges, others = [], []
    for rdata in rdatas:
        if isinstance(rdata, MX):
            exchanges.append((rdata.preference, _text(rdata.exchange)))
        else:
            others.append(_record(rdata))
    return (*sorted(exchanges), *others)


def _record(rdata: dns.rdata.Rdata) -> object:
    if isinstance(rdata, A):
        return IPv4Address(rdata.address)
    if isinstance(rdata, AAAA):
        return IPv6Address(rdata.address)
    if isinstance(rdata, PTR | CNAME):
        return _text(rdata.target)
    if isinstance(rdata, TXT):
        return b"".join(rdata.strings)
    return rdata.to_text()


def _text(name: dns.name.Name) -> str:
    """In lower case without the final dot, "" for the root; odd octets are escaped as in a zone file."""
    return "" if name == dns.name.root else name.to_text(omit_final_dot=True).lower()
