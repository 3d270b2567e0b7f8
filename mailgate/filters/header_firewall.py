"""Header fields by which an Exchange believes what others wrote: kept away from it, and from the Internet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field
from zope.interface import implementer

from mailgate.config.schema import Network, Section
from mailgate.config.values import Domain
from mailgate.envelope import Session, Transaction
from mailgate.filters.certified import CertifiedNames
from mailgate.filters.headers import FieldPattern, made_again
from mailgate.filters.networks import NetworkSet
from mailgate.findings import Finding
from mailgate.interfaces import FilterServices, IMessageFilter, IMessageModifier
from mailgate.message import Edit, HeaderField, Message, RemoveHeader
from mailgate.message.body import body_at
from mailgate.reply import Reply
from mailgate.verdict import Continue, Defer, Reject, Verdict

__all__ = ["FirewallResult", "HeaderFirewall", "Options", "build", "removed_by"]

#: Who is inside, what a filter has found out, whose address is whose: for an Exchange to say, and nobody else.
_ORGANIZATION = ("X-MS-Exchange-Organization-*", "X-MS-Exchange-Forest-*", "X-MS-Exchange-CrossPremises-*")
_REMOVED: Mapping[str, Sequence[str]] = {
    "inbound": (
        *_ORGANIZATION,
        "X-MS-Exchange-CrossTenant-*",
        "X-MS-Exchange-SkipListedInternetSender",
        "X-MS-Exchange-ExternalOriginalInternetSender",
        "X-Forefront-Antispam-Report*",
        "X-Microsoft-Antispam*",
        "X-Mailgate-*",
    ),
    "outbound": (*_ORGANIZATION, "X-Mailgate-*"),
}
#: What only the two halves of a hybrid organization write to each other.
_HYBRID = "x-ms-exchange-crosspremises-"
_UNCLEAR = Reply.of(550, "5.6.0", "A line of this header is no header field")
_TOO_LARGE = Reply.of(552, "5.3.4", "The header of this message is too large")
#: Octets that no name of a field has (RFC 5322 section 2.2), and of a line that are looked at for one.
_NO_NAME = bytes({*range(33), *range(127, 256)})
_LONGEST_LINE = 1000
#: Names that are told of one message, and characters of each.
_MOST_TOLD, _LONGEST_TOLD = 5, 80


@dataclass(frozen=True, slots=True)
class FirewallResult(Finding):
    """Names of fields, in lower case, that a message should not have had; `is_hybrid`: it looks like mail between the
    two halves of a hybrid organization."""

    names: tuple[str, ...]
    is_hybrid: bool = False

    def summary(self) -> str:
        more = len(self.names) - _MOST_TOLD
        told = [name[:_LONGEST_TOLD] for name in self.names[:_MOST_TOLD]]
        return f"header-firewall={','.join(told)}" + (f" and {more} more" if more > 0 else "")

    def facts(self) -> Sequence[str]:
        return ("header-firewall.removed", "header-firewall.hybrid") if self.is_hybrid else ("header-firewall.removed",)


class Options(Section):
    """`[filters.header-firewall]`: fields that are removed, but for what filters before this one have added.

    inbound, by themselves: X-MS-Exchange-Organization-*, X-MS-Exchange-Forest-*, X-MS-Exchange-CrossPremises-*,
    X-MS-Exchange-CrossTenant-*, X-MS-Exchange-SkipListedInternetSender, X-MS-Exchange-ExternalOriginalInternetSender,
    X-Forefront-Antispam-Report*, X-Microsoft-Antispam*, X-Mailgate-*; outbound: the first three, and X-Mailgate-*.
    Authentication-Results in our name are removed by the filter authentication-results. Everything else stays: Received
    fields, X-MS-Has-Attach, X-MS-TNEF-Correlator, X-MS-Journal-Report, Thread-Index.
    """

    direction: Literal["inbound", "outbound"] = "inbound"
    """inbound: for mail that others send, who must not say what only an Exchange may; outbound: for mail that leaves
    for the Internet, which has no business with what an Exchange says to another one"""
    remove: list[FieldPattern] = Field(default=[])
    """fields that are removed, too, by name, or by the beginning of the name: "X-Corp-*" """
    keep: list[FieldPattern] = Field(default=[])
    """fields that stay although they are named above"""
    trusted_networks: list[Network] = Field(default=[])
    """clients whose fields all stay: Exchange servers of the same organization. Put the filter twice, under two names,
    into the pipelines of listeners that do not trust the same"""
    trusted_certificates: list[Domain] = Field(default=[])
    """the same for clients that show a certificate with such a name, by an authority of tls.client_ca"""
    hybrid: Literal["remove", "defer"] = "remove"
    """what is done with mail of others that has fields X-MS-Exchange-CrossPremises-*, by which the halves of a hybrid
    organization trust each other: remove them; or defer it (451), so that no such mail is taken for a stranger's while
    the hybrid link goes through this gateway by mistake, where Microsoft wants it to go from Exchange to Exchange"""


def removed_by(options: Options) -> Sequence[str]:
    """The fields that a filter with these options removes, as FieldPattern, where the client is not trusted."""
    kept = _Patterns(options.keep)
    return [
        one for one in (*_REMOVED[options.direction], *options.remove) if not kept.has(one.removesuffix("*").lower())
    ]


def build(options: Options, services: FilterServices) -> object:
    """The filter."""
    return HeaderFirewall(options)


@implementer(IMessageFilter, IMessageModifier)
class HeaderFirewall:
    """Looks at the names of fields only."""

    def __init__(self, options: Options) -> None:
        self._removed = _Patterns((*_REMOVED[options.direction], *options.remove))
        self._kept = _Patterns(options.keep)
        self._networks = NetworkSet(options.trusted_networks)
        self._certificates = CertifiedNames(options.trusted_certificates)
        self._defers = options.hybrid == "defer"

    def on_message(self, session: Session, transaction: Transaction, message: Message) -> Verdict | None:
        """What it has that it should not have."""
        if self._is_trusted(session):
            return None
        try:
            body_at(message.content)
        except ValueError as error:  # there may be more in what is not looked at, and an Exchange may look there
            return Reject(_TOO_LARGE, str(error))
        hidden = next(filter(self._hides, message.fields), None)
        if hidden is not None:  # by no name could it be removed, and who knows what an Exchange makes of it
            return Reject(_UNCLEAR, f"a line that is no field could be taken for one: {hidden.raw[:80]!a}")
        names = self._found(session, message)
        if not names:
            return None
        is_hybrid = any(name.startswith(_HYBRID) for name in names)
        result = FirewallResult(tuple(names), is_hybrid)
        if is_hybrid and self._defers:
            reply = Reply.of(451, "4.7.1", "Mail within a hybrid organization does not go by this gateway")
            return Defer(
                reply, "it has fields X-MS-Exchange-CrossPremises-*, of a client not trusted", evidence=(result,)
            )
        return Continue((result,))

    def modify(self, session: Session, transaction: Transaction, message: Message) -> Sequence[Edit]:
        """Removals by name, whatever the values."""
        names = self._found(session, message)
        if not names:
            return []
        return [*map(RemoveHeader, names), *made_again(transaction.edits, set(names))]

    def _is_trusted(self, session: Session) -> bool:
        return session.client.address in self._networks or self._certificates.has(session)

    def _found(self, session: Session, message: Message) -> list[str]:
        if self._is_trusted(session):
            return []
        names = dict.fromkeys(field.name.lower() for field in message.fields)
        return [name for name in names if name and self._is_removed(name)]

    def _is_removed(self, name: str) -> bool:
        return self._removed.has(name) and not self._kept.has(name)

    def _hides(self, field: HeaderField) -> bool:
        """Whether it is no field, and would be one of those but for octets that no name has."""
        start, colon, _ = field.raw[:_LONGEST_LINE].partition(b":")
        return bool(colon) and not field.name and self._is_removed(start.translate(None, _NO_NAME).decode().lower())


class _Patterns:
    """Names of fields in lower case, and beginnings of names."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._names = frozenset(one.lower() for one in patterns if not one.endswith("*"))
        self._beginnings = tuple(one[:-1].lower() for one in patterns if one.endswith("*"))

    def has(self, name: str) -> bool:
        return name in self._names or name.startswith(self._beginnings)
