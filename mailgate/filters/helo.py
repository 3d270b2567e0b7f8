"""What is wrong with the name that a client gives itself (RFC 5321 section 4.1.1.1)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Literal

from pydantic import Field
from zope.interface import directlyProvides

from mailgate.config.schema import Network
from mailgate.config.values import Flag
from mailgate.dns.names import unmapped
from mailgate.envelope import Recipient, Session, Transaction
from mailgate.filters.networks import NetworkSet
from mailgate.filters.refusing import Manner, Objection, RefusalSection, Word
from mailgate.filters.together import together
from mailgate.findings import Finding
from mailgate.interfaces import Answered, DnsStatus, FilterServices, IHeloFilter, IRecipientFilter
from mailgate.verdict import Continue, Verdict

__all__ = ["Helo", "HeloResult", "Options", "build"]

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")

#: What the client is told, by what is wrong.
_TEXTS = {
    "own_name": "That is our name, not yours",
    "own_address": "That is our address, not yours",
    "own_domain": "That is our domain, not yours",
    "invalid": "Your HELO name is no host name",
    "literal": "Your HELO has to give a host name",
    "bare_ip": "Your HELO gives an address without brackets",
    "single_label": "Your HELO name is not fully qualified",
    "unresolvable": "Your HELO name does not exist in DNS",
    "mismatch": "Your HELO does not name your address",
    "other_name": "Your HELO name is not the name of your address",
    "temporary": "Your HELO name cannot be looked up now, try again later",
}


class Options(RefusalSection):
    """`[filters.helo]`: what is done about each thing that may be wrong with a greeting: continue, defer or reject.

    Whatever is wrong is evidence, as the fact `helo.` and the option's name, which the filter score may weigh. By
    default only clients that claim to be us are refused (550 5.7.1): all the rest is found with honest clients, too.
    """

    own_name: Word = "reject"
    """a stranger gives our own name: the gateway's hostname, or one of `names`"""
    own_address: Word = "reject"
    """a stranger gives our own address: one of `addresses`, or the one that it came to, where a proxy has told it"""
    own_domain: Word = "continue"
    """a stranger gives one of our [domains]"""
    invalid: Word = "continue"
    """the name has characters that host names do not have, such as "_", an empty or overlong part, or an end of digits
    only; or what stands in brackets is no address"""
    literal: Word = "continue"
    """an address literal, "[192.0.2.1]": allowed, and used by programs more than by mail servers"""
    bare_ip: Word = "continue"
    """an address without brackets"""
    single_label: Word = "continue"
    """a name without a dot, "localhost" too"""
    unresolvable: Word = "continue"
    """a name that has no address and no MX in DNS"""
    mismatch: Word = "continue"
    """a name that has other addresses than the client's; a literal that is not the client's address"""
    other_name: Word = "continue"
    """the client's confirmed name in DNS is another one, and not of the same domain"""
    temporary: Literal["continue", "defer"] = "continue"
    """DNS cannot say now whether the name exists, or whether it has the client's address"""
    resolve: Flag = True
    """whether the name is looked up in DNS; false: unresolvable and mismatch of names are not found out"""
    names: list[str] = Field(default=[])
    """further names of ours"""
    addresses: list[Network] = Field(default=[])
    """our own addresses and networks, as the Internet sees them"""


@dataclass(frozen=True, slots=True)
class HeloResult(Finding):
    """One thing that is wrong with the greeting `name` (lower case), or "ok" for nothing; `detail` says more.

    `problem` is called as the option is: "literal", "unresolvable", ... Nothing wrong is no fact, so that "helo.*"
    stands for everything that is.
    """

    name: str
    problem: str
    detail: str = ""

    def summary(self) -> str:
        return f"helo={self.problem} {self.name}{f': {self.detail}' if self.detail else ''}"

    def facts(self) -> Sequence[str]:
        return (f"helo.{self.problem}",) if self.problem != "ok" else ()


def build(options: Options, services: FilterServices) -> object:
    """The filter."""
    return Helo(options, services)


class Helo:
    """A finding for each thing that is wrong; what is refused is refused for the first that the options do not let
    pass."""

    def __init__(self, options: Options, services: FilterServices) -> None:
        self._manner = Manner(options, services)
        self._resolver = services.resolver
        self._resolves = options.resolve
        self._words: Mapping[str, Word] = {problem: getattr(options, problem) for problem in _TEXTS}
        self._names = frozenset(name.lower().removesuffix(".") for name in (services.hostname, *options.names))
        self._is_local = services.local_domains
        self._addresses = NetworkSet(options.addresses)
        is_late = set(self._words.values()) != {"continue"} and not self._manner.is_at_once
        directlyProvides(self, IHeloFilter, *([IRecipientFilter] if is_late else []))

    def on_helo(self, session: Session) -> Answered:
        """Find out what is wrong; refuse for it where that is to be done at once."""
        address = self._manner.judged(session)
        if address is None:
            return None
        address = unmapped(address)
        name = _name_in(session)
        if name.startswith("["):
            return self._conclude(session, self._literal(session, name, address))
        bare = _address(name)
        if bare is not None:
            problems = [HeloResult(name, "bare_ip"), *self._given(session, name, bare, address)]
            return self._conclude(session, problems)
        problems = list(self._form(session, name))
        confirmed = session.client.name.lower()
        if confirmed and not _are_related(name, confirmed):
            problems.append(HeloResult(name, "other_name", f"{address} is called {confirmed}"))
        exists = "." in name and all(one.problem != "invalid" for one in problems)
        if not self._resolves or not exists or name == confirmed:
            return self._conclude(session, problems)
        return self._resolve(session, name, address, problems)

    def on_rcpt(self, session: Session, transaction: Transaction, recipient: Recipient) -> Verdict | None:
        """Refuse for what was found."""
        if self._manner.judged(session) is None or self._manner.is_reachable(recipient):
            return None
        name = _name_in(session)
        objection = self._objection(session, [one for one in session.evidence.all(HeloResult) if one.name == name])
        return objection.at("rcpt") if objection else None

    def _literal(self, session: Session, name: str, address: IPv4Address | IPv6Address) -> Sequence[HeloResult]:
        found = HeloResult(name, "literal")
        inner = name[1:-1]
        given = _address(inner.removeprefix("ipv6:"))
        if given is None or (given.version == 6) != inner.startswith("ipv6:"):
            return [found, HeloResult(name, "invalid", "no address literal")]
        return [found, *self._given(session, name, given, address)]

    def _given(
        self, session: Session, name: str, given: IPv4Address | IPv6Address, address: IPv4Address | IPv6Address
    ) -> Sequence[HeloResult]:
        """What is wrong with an address that the client gives as its own."""
        given = unmapped(given)
        if given == address:
            return []
        ours, _port = session.destination
        if given in self._addresses or given == ours:
            return [HeloResult(name, "own_address", f"from {address}")]
        return [HeloResult(name, "mismatch", f"the client is {address}")]

    def _form(self, session: Session, name: str) -> Sequence[HeloResult]:
        found = []
        if name in self._names or name == session.hostname.lower():
            found.append(HeloResult(name, "own_name"))
        elif self._is_local(name):
            found.append(HeloResult(name, "own_domain"))
        if not _NAME.fullmatch(name) or len(name) > 253 or name.rpartition(".")[2].isdigit():
            found.append(HeloResult(name, "invalid"))
        if "." not in name:
            found.append(HeloResult(name, "single_label"))
        return found

    async def _resolve(
        self, session: Session, name: str, address: IPv4Address | IPv6Address, problems: list[HeloResult]
    ) -> Verdict | None:
        answers = await together(self._resolver.resolve(name, rdtype) for rdtype in ("A", "AAAA"))
        found = [record for answer in answers for record in answer.records]
        of_its_kind = answers[0 if address.version == 4 else 1]
        if found and of_its_kind.is_temporary:
            problems.append(HeloResult(name, "temporary", of_its_kind.status.value))
        elif found and address not in found:
            told = ", ".join(map(str, found[:3])) + (", ..." if len(found) > 3 else "")
            problems.append(HeloResult(name, "mismatch", f"it is {told}, the client {address}"))
        if not found:
            if not any(one.is_temporary for one in answers):  # a server that is silent now would be so a second time
                answers += await together([self._resolver.resolve(name, "MX")])
            if answers[-1].status is not DnsStatus.FOUND:
                statuses = sorted({one.status.value for one in answers if one.is_temporary})
                problem = ("temporary", ", ".join(statuses)) if statuses else ("unresolvable", "no A, AAAA or MX")
                problems.append(HeloResult(name, *problem))
        return self._conclude(session, problems)

    def _conclude(self, session: Session, problems: Sequence[HeloResult]) -> Verdict | None:
        found = problems or [HeloResult(_name_in(session), "ok")]
        # A greeting that is repeated must not fill the memory.
        evidence = tuple(one for one in found if one not in session.evidence)
        objection = self._objection(session, problems) if self._manner.is_at_once else None
        if objection:
            return objection.at("helo", evidence)
        return Continue(evidence=evidence) if evidence else None

    def _objection(self, session: Session, problems: Sequence[HeloResult]) -> Objection | None:
        for word in ("reject", "defer"):
            for one in problems:
                if self._words.get(one.problem) == word:
                    reason = f"{session.client} says {one.name}: {one.summary()}"
                    return Objection("reject" if word == "reject" else "defer", _TEXTS[one.problem], reason)
        return None


def _name_in(session: Session) -> str:
    return session.helo.lower().removesuffix(".")


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def _are_related(name: str, other: str) -> bool:
    """Whether two names are of one domain, as far as names tell: one is below the other, or both below the same."""
    if name == other or name.endswith(f".{other}") or other.endswith(f".{name}"):
        return True
    above = name.partition(".")[2]
    return "." in above and other.endswith(f".{above}")
