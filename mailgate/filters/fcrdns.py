"""The client's name in DNS: whether there is one, whether it is confirmed, and whether it names a line, not a host."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Literal

from pydantic import Field
from zope.interface import directlyProvides

from mailgate.config.values import Flag
from mailgate.dns.client_name import HOSTNAME, MOST_NAMES
from mailgate.dns.names import unmapped
from mailgate.envelope import Recipient, Session, Transaction
from mailgate.filters.generic_names import is_generic
from mailgate.filters.refusing import Manner, Objection, RefusalSection, Word
from mailgate.filters.together import together
from mailgate.findings import Finding
from mailgate.interfaces import Answer, Answered, DnsStatus, FilterServices, IConnectFilter, IRecipientFilter
from mailgate.verdict import Continue, Verdict

__all__ = ["DynamicNameResult", "Fcrdns", "IprevResult", "Options", "build"]


class Options(RefusalSection):
    """`[filters.fcrdns]`: what is done about clients without a name in DNS, or with one that says nothing good.

    By default nothing: the result is evidence, for `Authentication-Results` (iprev), the filter score and others. Many
    an honest server has no name, or one that nobody keeps right.
    """

    no_name: Word = "continue"
    """the address has no PTR record: continue, defer (450 4.7.25) or reject (550 5.7.25)"""
    unconfirmed: Word = "continue"
    """none of the names of the address has it among its own addresses"""
    dynamic: Word = "continue"
    """the name seems to be that of a line whose address changes: it spells the address, or it is one of
    `dynamic_names`"""
    temporary: Literal["continue", "defer"] = "continue"
    """DNS cannot say now"""
    recognize: Flag = True
    """whether names that spell the address ("dsl-192-0-2-7.example.net") count as dynamic, beside `dynamic_names`"""
    dynamic_names: list[str] = Field(default=[])
    """further names of lines, such as "*.pool.example.net"; * stands for anything"""
    static_names: list[str] = Field(default=[])
    """names that are none of lines, whatever they look like, in the same form"""


@dataclass(frozen=True, slots=True)
class IprevResult(Finding):
    """The check of a client's name (iprev, RFC 8601 section 2.7.3).

    `result` is "pass" (`name` is confirmed), "fail" (no name of it has the address), "permerror" (the address has no
    name) or "temperror". `names` are those of `address` that were looked at, lower case; `name` is "" unless it
    passed.
    """

    result: str
    name: str = ""
    names: tuple[str, ...] = ()
    address: str = ""

    def summary(self) -> str:
        told = self.name or ", ".join(self.names)
        return f"iprev={self.result} policy.iprev={self.address}{f' ({told})' if told else ''}"

    def facts(self) -> Sequence[str]:
        return (f"fcrdns.{self.result}",)


@dataclass(frozen=True, slots=True)
class DynamicNameResult(Finding):
    """The client's name is that of a line, not of a host; `why` says by what."""

    name: str
    why: str

    def summary(self) -> str:
        return f"{self.name} is the name of a line: {self.why}"

    def facts(self) -> Sequence[str]:
        return ("fcrdns.dynamic",)


def build(options: Options, services: FilterServices) -> object:
    """The filter."""
    return Fcrdns(options, services)


class Fcrdns:
    """Takes the name that the session has confirmed already, and asks only where it has none."""

    def __init__(self, options: Options, services: FilterServices) -> None:
        self._manner = Manner(options, services)
        self._resolver = services.resolver
        self._options = options
        self._dynamic = _any_of(options.dynamic_names)
        self._static = _any_of(options.static_names)
        words = {options.no_name, options.unconfirmed, options.dynamic, options.temporary}
        is_late = words != {"continue"} and not self._manner.is_at_once
        directlyProvides(self, IConnectFilter, *([IRecipientFilter] if is_late else []))

    def on_connect(self, session: Session) -> Answered:
        """Find out the name; refuse for it where that is to be done at once."""
        address = self._manner.judged(session)
        if address is None:
            return None
        address, name = unmapped(address), session.client.name.lower()
        if name:
            return self._conclude(address, IprevResult("pass", name, (name,), str(address)))
        pointer = self._resolver.reverse(address)
        if isinstance(pointer, Answer) and pointer.status is not DnsStatus.FOUND:
            return self._conclude(address, _without_name(address, pointer))
        return self._ask(address, pointer)

    def on_rcpt(self, session: Session, transaction: Transaction, recipient: Recipient) -> Verdict | None:
        """Refuse for what was found."""
        if self._manner.judged(session) is None or self._manner.is_reachable(recipient):
            return None
        result = session.evidence.get(IprevResult)
        objection = self._objection(result, session.evidence.get(DynamicNameResult)) if result else None
        return objection.at("rcpt") if objection else None

    async def _ask(self, address: IPv4Address | IPv6Address, pointer: Answer | Awaitable[Answer]) -> Verdict:
        found = pointer if isinstance(pointer, Answer) else await pointer
        if found.status is not DnsStatus.FOUND:
            return self._conclude(address, _without_name(address, found))
        names = [one for one in found.records if isinstance(one, str) and HOSTNAME.fullmatch(one)]
        names = list(dict.fromkeys(names))[:MOST_NAMES]
        rdtype = "A" if address.version == 4 else "AAAA"
        answers = await together(self._resolver.resolve(name, rdtype) for name in names)
        result, name = "fail", ""
        for one, answer in zip(names, answers, strict=True):
            if address in answer.records:
                result, name = "pass", one
                break
            if answer.is_temporary:
                result = "temperror"
        return self._conclude(address, IprevResult(result, name, tuple(names), str(address)))

    def _conclude(self, address: IPv4Address | IPv6Address, result: IprevResult) -> Verdict:
        dynamic = self._dynamic_name(address, [result.name] if result.name else result.names)
        evidence = (result, dynamic) if dynamic else (result,)
        objection = self._objection(result, dynamic) if self._manner.is_at_once else None
        return objection.at("connect", evidence) if objection else Continue(evidence=evidence)

    def _dynamic_name(self, address: IPv4Address | IPv6Address, names: Sequence[str]) -> DynamicNameResult | None:
        for name in names:
            if self._static is not None and self._static.fullmatch(name):
                continue
            if self._dynamic is not None and self._dynamic.fullmatch(name):
                return DynamicNameResult(name, "it is one of dynamic_names")
            if self._options.recognize and is_generic(name, address):
                return DynamicNameResult(name, "it spells the address")
        return None

    def _objection(self, result: IprevResult, dynamic: DynamicNameResult | None) -> Objection | None:
        options, address = self._options, result.address
        match result.result:
            case "permerror":
                word: Word = options.no_name
                text, reason = "Your address has no name in DNS", f"{address} has no PTR record"
            case "fail":
                word, text = options.unconfirmed, "The name of your address does not lead back to it"
                names = ", ".join(result.names) or "a name that is none"
                reason = f"{address} is called {names}, which does not have that address"
            case "temperror":
                word, text = options.temporary, "The name of your address cannot be looked up now, try again later"
                reason = f"DNS cannot tell the name of {address}"
            case _:
                word, text, reason = "continue", "", ""
        if word != "continue":
            return Objection(word, text, reason, "7.25")
        if dynamic is not None and options.dynamic != "continue":
            text = "Your address seems to be dynamic, send through your provider's mail server"
            return Objection(options.dynamic, text, f"{address}: {dynamic.summary()}")
        return None


def _without_name(address: IPv4Address | IPv6Address, pointer: Answer) -> IprevResult:
    return IprevResult("temperror" if pointer.is_temporary else "permerror", address=str(address))


def _any_of(patterns: Sequence[str]) -> re.Pattern[str] | None:
    # fnmatch's expressions do not go back over what a * has taken, so they take no more than names times patterns.
    return re.compile("|".join(fnmatch.translate(one.lower()) for one in patterns)) if patterns else None
