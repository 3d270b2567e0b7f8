"""Whether the sender's domain could take an answer: it has a mail server, or an address at least (RFC 5321, 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Literal

from pydantic import Field
from zope.interface import implementer

from mailgate.config.schema import Network, Section
from mailgate.envelope import Session, Transaction
from mailgate.filters.networks import LOCAL_NETWORKS, NetworkSet
from mailgate.filters.refusing import Word
from mailgate.filters.together import together
from mailgate.findings import Finding
from mailgate.interfaces import Answer, Answered, DnsStatus, FilterServices, IMailFilter
from mailgate.reply import Reply
from mailgate.verdict import Continue, Defer, Reject, Verdict

__all__ = ["Options", "Resolvable", "SenderDomainResult", "build"]

#: Mail servers of a domain that are looked at, the preferred ones.
_MOST_HOSTS = 10

#: Addresses that no mail server on the Internet has: local ones, "this network" and shared address space (RFC 1122,
#: RFC 6598), multicast, and what is reserved.
_NOWHERE = (
    *LOCAL_NETWORKS,
    *map(ip_network, ("0.0.0.0/8", "100.64.0.0/10", "224.0.0.0/3", "::/128", "ff00::/8")),
)

#: The enhanced status code without its class, and what the sender is told, by what is wrong.
_REFUSALS = {
    "null_mx": ("7.27", "Your domain says that it takes no mail (null MX)"),
    "unknown": ("1.8", "Your domain does not exist"),
    "no_host": ("1.8", "Your domain has no mail server"),
    "dead_mx": ("1.8", "The mail servers of your domain have no addresses"),
    "bogus_mx": ("1.8", "The mail servers of your domain cannot be reached from here"),
    "literal": ("1.8", "Mail from address literals is not taken"),
    "temporary": ("1.8", "Your domain cannot be looked up now, try again later"),
}


class Options(Section):
    """`[filters.resolvable]`: what is done about senders whose domain could not take an answer: continue, defer or
    reject. Senders of our own domains and the sender of reports, <>, are left alone."""

    unknown: Word = "reject"
    """the domain does not exist (550 5.1.8)"""
    no_host: Word = "reject"
    """the domain has no MX and no address (550 5.1.8)"""
    null_mx: Word = "reject"
    """the domain says that it takes no mail, by a null MX (RFC 7505: 550 5.7.27)"""
    dead_mx: Word = "reject"
    """none of its mail servers has an address (550 5.1.8)"""
    bogus_mx: Word = "reject"
    """all addresses of its mail servers are private, loopback, reserved, or in `own_networks` (550 5.1.8)"""
    literal: Word = "continue"
    """the sender's domain is an address literal, "[192.0.2.1]" """
    temporary: Literal["continue", "defer"] = "defer"
    """DNS cannot say now (451 4.1.8). When the resolver itself is out of order, that is so for all mail"""
    own_networks: list[Network] = Field(default=[])
    """networks of ours: a stranger's domain has no mail servers there"""
    exempt: list[Network] = Field(default=list(LOCAL_NETWORKS))
    """clients whose senders are not looked up; if not given, those of loopback and private networks"""


@dataclass(frozen=True, slots=True)
class SenderDomainResult(Finding):
    """What the sender's domain is: "ok", or what is wrong, called as the option is ("null_mx", "unknown", ...).

    `hosts` are its mail servers that were looked at, lower case, itself where it has no MX.
    """

    result: str
    domain: str
    hosts: tuple[str, ...] = ()

    def summary(self) -> str:
        hosts = ", ".join(self.hosts[:3]) + (", ..." if len(self.hosts) > 3 else "")
        return f"sender domain={self.result} {self.domain}{f' ({hosts})' if hosts else ''}"

    def facts(self) -> Sequence[str]:
        return (f"resolvable.{self.result}",)


def build(options: Options, services: FilterServices) -> object:
    """The filter."""
    return Resolvable(options, services)


@implementer(IMailFilter)
class Resolvable:
    """Asks for the MX, then for all addresses of the mail servers at the same time."""

    def __init__(self, options: Options, services: FilterServices) -> None:
        self._resolver = services.resolver
        self._is_local = services.local_domains
        self._exempt = NetworkSet(options.exempt)
        self._nowhere = NetworkSet((*_NOWHERE, *options.own_networks))
        self._words: dict[str, Word] = {result: getattr(options, result) for result in _REFUSALS}

    def on_mail(self, session: Session, transaction: Transaction) -> Answered:
        """Refuse a sender whose domain could not take an answer, as the options say."""
        domain = transaction.sender.domain
        if not domain or session.client.address in self._exempt or self._is_local(domain):
            return None
        if domain.startswith("["):
            return self._judge(SenderDomainResult("literal", domain))
        return self._ask(domain)

    async def _ask(self, domain: str) -> Verdict:
        exchangers = self._resolver.resolve(domain, "MX")
        mx = exchangers if isinstance(exchangers, Answer) else await exchangers
        if mx.is_temporary:
            return self._judge(SenderDomainResult("temporary", domain))
        if mx.status is DnsStatus.NXDOMAIN:
            return self._judge(SenderDomainResult("unknown", domain))
        hosts = [domain]
        if mx.status is DnsStatus.FOUND:
            hosts = list(dict.fromkeys(one[1] for one in mx.records if isinstance(one, tuple) and one[1]))
            if not hosts:
                return self._judge(SenderDomainResult("null_mx", domain))
        hosts = hosts[:_MOST_HOSTS]
        answers = await together(self._resolver.resolve(host, rdtype) for host in hosts for rdtype in ("A", "AAAA"))
        result = self._result(answers, has_mx=mx.status is DnsStatus.FOUND)
        return self._judge(SenderDomainResult(result, domain, tuple(hosts)))

    def _result(self, answers: Sequence[Answer], *, has_mx: bool) -> str:
        found = [one for answer in answers for one in answer.records if isinstance(one, IPv4Address | IPv6Address)]
        if any(address not in self._nowhere for address in found):
            return "ok"
        if any(answer.is_temporary for answer in answers):
            return "temporary"
        if found:
            return "bogus_mx"
        return "dead_mx" if has_mx else "no_host"

    def _judge(self, found: SenderDomainResult) -> Verdict:
        word = self._words.get(found.result, "continue")
        if word == "continue":
            return Continue(evidence=(found,))
        detail, text = _REFUSALS[found.result]
        if word == "reject":
            return Reject(Reply.of(550, f"5.{detail}", text), found.summary(), evidence=(found,))
        return Defer(Reply.of(451, f"4.{detail}", text), found.summary(), evidence=(found,))
