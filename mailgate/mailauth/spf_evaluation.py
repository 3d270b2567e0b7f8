"""One evaluation of SPF: pyspf's mechanisms, with what it gets wrong or lets grow in the hands of this module.

pyspf reads and matches mechanisms. Here are: every question to DNS (its own way there is never taken), void look-ups
counted a term, records and answers bounded, macros, modifiers in any case and any number, redirect counted when it is
followed, exp looked up for a fail only, and DNS errors of the client's own names, which are no error of the sender.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

import spf  # type: ignore[import-untyped]  # it has no types

from mailgate.interfaces import Answer
from mailgate.mailauth.asking import Known
from mailgate.mailauth.macros import MacroError, expand, expand_name, is_domain_spec

__all__ = ["Evaluation", "Outcome", "Parsed"]

#: Octets of a record, or of an explanation; honest ones have a tenth of that (RFC 7208 section 3.4).
_LONGEST = 4096
#: Records of one answer, and of all, that are looked at; honest domains have far fewer.
_MOST_RECORDS, _MOST_IN_ALL = 500, 2000
#: Names of a client, and hosts of a domain (RFC 7208 section 4.6.4).
_MOST_NAMES = 10
#: Octets of a label, and of a name as text.
_LONGEST_LABEL, _LONGEST_NAME = 63, 253

_RECORD = re.compile(rb"v=spf1(?: |\Z)", re.IGNORECASE)
_NETWORK = re.compile(r"([-+~?]?)(ip[46]):([0-9a-f.:]+)(?:/(0|[1-9][0-9]{0,2}))?", re.IGNORECASE)
#: Terms of networks that are kept, read: those of large senders are in many domains' records.
_REMEMBERED = 8192
_MODIFIER = re.compile(r"([a-z][a-z0-9_.-]*+)=(.*)", re.IGNORECASE | re.DOTALL)

_Address = IPv4Address | IPv6Address
Parsed = dict[tuple[str, str], "_Record"]
"""The records that were read, by their text and their domain."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an evaluation ended; the fields are those of SpfResult."""

    result: str
    mechanism: str = ""
    explanation: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _Mechanism:
    text: str
    kind: str
    argument: str
    prefix: int
    result: str
    network: int = 0
    """of ip4 and ip6: the leading bits, as many as the prefix says"""


@dataclass(frozen=True, slots=True)
class _Record:
    """A record without an error; `redirect` is a name, `explanation` the domain-spec of exp=, both "" for none."""

    mechanisms: tuple[_Mechanism, ...]
    redirect: str
    explanation: str


class Evaluation(spf.query):  # type: ignore[misc]  # as above
    """Begins anew with each answer that was missing; `parsed` is what remains from one time to the next."""

    def __init__(
        self,
        known: Known,
        parsed: Parsed,
        *,
        ip: _Address,
        helo: str,
        local_part: str,
        domain: str,
        receiver: str,
        now: float,
    ) -> None:
        super().__init__(str(ip), f"{local_part}@{domain}", helo, receiver=receiver)
        # pyspf parts an address at its first @, which may be a quoted one.
        self.l, self.o, self.d = local_part, domain, domain
        self.t = str(int(now))
        self._known = known
        self._parsed = parsed
        self._names: list[str] | None = None
        self._term_is_void = False
        self._explained = "", domain

    def outcome(self) -> Outcome:
        """The result for the domain; raises NotKnownYet while an answer is missing."""
        if sum(len(answer.records) for answer in self._known.answers.values()) > _MOST_IN_ALL:
            return Outcome("permerror", reason=f"answers of more than {_MOST_IN_ALL} records")
        self.mechanism: str | None = None
        try:
            result, _, _ = self.check1(self.dns_spf(self.d), self.d, 0)
        except spf.TempError as error:
            return Outcome("temperror", reason=str(error))
        except (spf.PermError, MacroError) as error:
            return Outcome("permerror", reason=str(error))
        return Outcome(result, self.mechanism or "", self._explanation() if result == "fail" else "")

    # What pyspf calls, in its order and under its names.

    def dns_spf(self, domain: str) -> str | None:
        """The domain's record; None where it has none."""
        records = [text for text in self.dns_txt(domain) if _RECORD.match(text)]
        if len(records) > 1:
            raise spf.PermError(f"{len(records)} SPF records of {domain}")
        if records and len(records[0]) > _LONGEST:
            raise spf.PermError(f"the SPF record of {domain} has {len(records[0])} octets, more than {_LONGEST}")
        return str(spf.to_ascii(records[0])) if records else None

    def check0(self, text: str | None, recursion: int) -> tuple[str, int, str]:
        """The result of a record for `self.d` (RFC 7208 section 4.6), with nothing else of use."""
        if not text:
            return "none", 0, ""
        record = self._record(text)
        if not recursion:
            self._explained = record.explanation, self.d
        for mechanism in record.mechanisms:
            if self._matches(mechanism, recursion):
                if not recursion:
                    self.mechanism = mechanism.text
                return mechanism.result, 0, ""
        if not record.redirect:
            return "neutral", 0, ""
        self.check_lookups()
        target = self.dns_spf(record.redirect)
        if not target:
            raise spf.PermError(f"no SPF record at the target of redirect={record.redirect}")
        found: tuple[str, int, str] = self.check1(target, record.redirect, recursion)
        return found

    def check_lookups(self) -> None:
        """Count a term that asks DNS."""
        super().check_lookups()
        self._term_is_void = False

    def expand_domain(self, text: str) -> str:
        """The name that a mechanism's domain-spec becomes; where it has none, pyspf gives the domain itself."""
        if text == self.d:
            return text
        if not is_domain_spec(text):
            raise spf.PermError(f"no domain name: {text[:80]}")
        return expand_name(text, self._value)

    def validated_ptrs(self) -> list[str]:
        """The client's names that lead back to it; a DNS error costs a name (RFC 7208 sections 5.5 and 7.3)."""
        if self._names is None:
            names: list[str] = []
            try:
                candidates = self.dns_ptr(self.i)[:_MOST_NAMES]
            except spf.TempError:
                candidates = []
            for name in candidates:
                try:
                    if self.cidrmatch(self.dns_a(name, self.A), self.cidrmax):
                        names.append(name)
                except spf.TempError:
                    continue
            self._names = names
        return self._names

    def cidrmatch(self, addresses: Iterable[_Address | str], prefix: int) -> bool:
        """Whether the client is in the network of this length around one of the addresses."""
        shift = self.cidrmax - prefix
        client = int(self.ipaddr) >> shift
        for one in addresses:
            try:
                address = ipaddress.ip_address(one) if isinstance(one, str) else one
            except ValueError as error:
                raise spf.PermError(str(error)) from None
            if int(address) >> shift == client:
                return True
        return False

    def dns(self, name: str, rdtype: str, cnames: object = None, ignore_void: bool = False) -> list[object]:
        """The records as pyspf wants them: TXT as a tuple of strings, all else as in `Answer`."""
        if not _is_name(name):
            return []
        answer = self._known(name, rdtype)
        if answer.is_temporary:
            raise spf.TempError(f"{rdtype} of {name}: {answer.status.value}")
        if len(answer.records) > _MOST_RECORDS and rdtype != "PTR":
            raise spf.PermError(f"{rdtype} of {name} has more than {_MOST_RECORDS} records")
        if not answer.records and not ignore_void and not self._term_is_void:
            # The limit is on terms, whatever number of look-ups one of them makes (RFC 7208 section 4.6.4).
            self._term_is_void = True
            self.void_lookups += 1
            if self.void_lookups > spf.MAX_VOID_LOOKUPS:
                raise spf.PermError(f"more than {spf.MAX_VOID_LOOKUPS} void look-ups, the last is {rdtype} of {name}")
        self._expect_addresses(rdtype, answer)
        return [(record,) for record in answer.records] if rdtype == "TXT" else list(answer.records)

    # Ours alone.

    def _expect_addresses(self, rdtype: str, answer: Answer) -> None:
        """All hosts of a domain, and all names of the client, are asked for their addresses anyway."""
        if rdtype == "MX" and len(answer.records) <= _MOST_NAMES:
            hosts = [record[1] for record in answer.records if isinstance(record, tuple)]
        elif rdtype == "PTR":
            hosts = [record for record in answer.records[:_MOST_NAMES] if isinstance(record, str)]
        else:
            return
        for host in hosts:
            if _is_name(host):
                self._known.expect(host, self.A)

    def _record(self, text: str) -> _Record:
        """The record; each is read once for a domain, however often the work begins anew."""
        key = text, self.d
        record = self._parsed.get(key)
        if record is None:
            record = self._parsed[key] = self._read(text)
        return record

    def _read(self, text: str) -> _Record:
        mechanisms: list[_Mechanism] = []
        modifiers: dict[str, str] = {}
        for term in filter(None, text.split(" ")[1:]):
            modifier = _MODIFIER.fullmatch(term)
            if modifier is None:
                mechanisms.append(_network_term(term) or _mechanism(*self.validate_mechanism(term)))
                continue
            name, value = modifier[1].lower(), modifier[2]
            if name not in ("redirect", "exp"):
                # Unknown ones mean nothing, however often they stand there (RFC 7208 section 6).
                expand(value, lambda _: "")
            elif name in modifiers:
                raise spf.PermError(f"{name}= is there twice")
            elif not is_domain_spec(value):
                raise spf.PermError(f"no domain name: {term[:80]}")
            else:
                modifiers[name] = value
        redirect = modifiers.get("redirect", "")
        return _Record(
            tuple(mechanisms), expand_name(redirect, self._value) if redirect else "", modifiers.get("exp", "")
        )

    def _matches(self, mechanism: _Mechanism, recursion: int) -> bool:
        kind, argument = mechanism.kind, mechanism.argument
        if kind == "all":
            return True
        if kind in ("ip4", "ip6"):
            is_of_client = kind == ("ip6" if self.v == "ip6" else "ip4")
            return is_of_client and int(self.ipaddr) >> (self.cidrmax - mechanism.prefix) == mechanism.network
        self.check_lookups()
        if not argument.isascii():
            return False  # a local part beyond US-ASCII is in no name (RFC 8616 section 4)
        if kind == "include":
            return self._includes(argument, recursion)
        if kind == "a":
            return self.cidrmatch(self.dns_a(argument, self.A), mechanism.prefix)
        if kind == "mx":
            return self.cidrmatch(self.dns_mx(argument), mechanism.prefix)
        if kind == "ptr":
            return bool(spf.domainmatch(self.validated_ptrs(), argument))
        return bool(self.dns_a(argument, "A"))  # exists, whatever the client's family

    def _includes(self, domain: str, recursion: int) -> bool:
        result, _, _ = self.check1(self.dns_spf(domain), domain, recursion + 1)
        if result == "none":
            raise spf.PermError(f"no SPF record at include:{domain}")
        return bool(result == "pass")

    def _value(self, letter: str) -> str:
        if letter == "p":
            self.p = None  # it depends on the domain that is looked at
            return str(self.getp())
        return str(getattr(self, letter))

    def _explanation(self) -> str:
        """What exp= says; nothing where it cannot be had or is not well formed (RFC 7208 section 6.2)."""
        spec, self.d = self._explained
        if not spec:
            return ""
        try:
            texts = self.dns_txt(expand_name(spec, self._value), ignore_void=True)
            if len(texts) != 1 or len(texts[0]) > _LONGEST:
                return ""
            text = texts[0].decode("ascii")
            return expand(text, self._value) if text.isprintable() else ""
        except (spf.PermError, spf.TempError, MacroError, UnicodeError):
            return ""


@functools.lru_cache(maxsize=_REMEMBERED)
def _network_term(text: str) -> _Mechanism | None:
    """A term that is a network, by far the most frequent kind; None for any other, and one with an error."""
    match = _NETWORK.fullmatch(text)
    if match is None:
        return None
    kind = match[2].lower()
    try:
        address = ipaddress.ip_address(match[3])
    except ValueError:
        return None
    prefix = int(match[4]) if match[4] else address.max_prefixlen
    if kind != f"ip{address.version}" or prefix > address.max_prefixlen:
        return None
    network = int(address) >> (address.max_prefixlen - prefix)
    return _Mechanism(text, kind, match[3], prefix, spf.RESULTS.get(match[1], "pass"), network)


def _mechanism(text: str, kind: str, argument: str, prefix: int, result: str) -> _Mechanism:
    """As pyspf has validated it; addresses are read here, and not each time that a client is compared with them."""
    network = 0
    if kind in ("ip4", "ip6"):
        try:
            address = ipaddress.ip_address(argument)
        except ValueError as error:
            raise spf.PermError(str(error)) from None
        network = int(address) >> (address.max_prefixlen - prefix)
    return _Mechanism(text, kind, argument, prefix, result, network)


def _is_name(name: str) -> bool:
    """Whether a question can be put for it."""
    labels = name.removesuffix(".").split(".")
    return len(name) <= _LONGEST_NAME and name.isascii() and all(0 < len(one) <= _LONGEST_LABEL for one in labels)
