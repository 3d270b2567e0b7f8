"""Who may relay from the addresses that all tenants of Exchange Online share: by tenant, never by address alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, Field
from zope.interface import implementer

from mailgate.config.schema import Network, Section
from mailgate.config.units import Form
from mailgate.config.values import Domain
from mailgate.envelope import Session, Transaction
from mailgate.filters.certified import CertifiedNames
from mailgate.filters.networks import NetworkSet
from mailgate.filters.who import NETWORK
from mailgate.findings import Finding
from mailgate.interfaces import FilterServices, IMailFilter, IMessageFilter
from mailgate.message import Message
from mailgate.message.body import body_at
from mailgate.reply import Reply
from mailgate.stores.domains import DomainTable
from mailgate.verdict import Continue, Defer, Reject, Verdict

__all__ = ["ExchangeOnline", "Options", "TenantResult", "build"]

_TENANT = "X-MS-Exchange-CrossTenant-Id"
_ORGANIZATION = "X-OriginatorOrg"
_NO_CERTIFICATE = Reply.of(451, "4.7.0", "A certificate of Exchange Online is needed here")


def _tenant(text: str) -> str:
    try:
        return str(UUID(text.strip()))
    except ValueError:
        raise ValueError(f'"{text}" is no id of a tenant, like "72f988bf-86f1-41af-91ab-2d7cd011db47"') from None


_TenantId = Annotated[str, AfterValidator(_tenant), Form("id of a tenant")]


@dataclass(frozen=True, slots=True)
class TenantResult(Finding):
    """Whose mail it is: "ours", or why it is not."""

    problem: str = ""

    def summary(self) -> str:
        return f"exchange-online={'other' if self.problem else 'ours'}"

    def facts(self) -> Sequence[str]:
        return ("exchange-online.other" if self.problem else "exchange-online.ours",)


class Options(Section):
    """`[filters.exchange-online]`: mail that Exchange Online hands to this gateway goes on for our tenants only.

    The addresses of Exchange Online send for every tenant there is: a listener that trusts them (`trusted_networks`)
    relays for them all, unless this filter stands in its pipeline. It judges clients that may relay by their address or
    certificate; whoever has logged in is not its business. `tenants` or `organizations` must be given, and `senders`.
    """

    networks: list[Network] = Field(default=[])
    """the addresses of Exchange Online; if not given, every client that may relay and has not logged in"""
    tenants: list[_TenantId] = Field(default=[])
    """the ids of our tenants: each message must have one field X-MS-Exchange-CrossTenant-Id, with one of them"""
    organizations: list[Domain] = Field(default=[])
    """domains, one of which the field X-OriginatorOrg must have, of which there must be one: the domain of the sender's
    mailbox, or the first one of the tenant"""
    senders: list[Domain] = Field(default=[])
    """the accepted domains of our tenants: the sender of the envelope must be of one of them. Reports, whose sender is
    null, need the fields only"""
    certificates: list[Domain] = Field(default=["mail.protection.outlook.com"])
    """names, one of which a certificate of the client must have, by an authority of tls.client_ca; others are deferred
    (451). The listener needs client_certificates = "request". Empty: none is asked for"""
    text: str = "This gateway does not relay for this sender or tenant"
    """what the client is told"""


def build(options: Options, services: FilterServices) -> object:
    """The filter; ValueError where nothing but an address would tell one tenant from another."""
    return ExchangeOnline(options)


@implementer(IMailFilter, IMessageFilter)
class ExchangeOnline:
    """Refuses at MAIL what it can, and the rest after the content."""

    def __init__(self, options: Options) -> None:
        if not (options.tenants or options.organizations):
            raise ValueError(
                "give tenants or organizations: the addresses of Exchange Online are shared by all tenants"
            )
        if not options.senders:
            raise ValueError("give senders: the accepted domains of our tenants")
        self._networks = NetworkSet(options.networks)
        self._tenants = frozenset(options.tenants)
        self._organizations = DomainTable(dict.fromkeys(options.organizations, True))
        self._asks_organization = bool(options.organizations)
        self._senders = DomainTable(dict.fromkeys(options.senders, True))
        self._certificates = CertifiedNames(options.certificates)
        self._reply = Reply.of(550, "5.7.1", options.text)

    def on_mail(self, session: Session, transaction: Transaction) -> Verdict | None:
        """The certificate, and the sender."""
        if not self._is_about(session):
            return None
        if self._certificates and not self._certificates.has(session):
            problem = "the client shows no certificate with a name in certificates, of an authority in tls.client_ca"
            # Certificates and authorities change: that is to cost no mail of ours.
            return Defer(_NO_CERTIFICATE, problem, evidence=(TenantResult(problem),))
        sender = transaction.sender
        if sender and not self._senders.has(sender.domain):
            return self._refuse(f"{sender.domain} is no accepted domain of our tenants")
        return None

    def on_message(self, session: Session, transaction: Transaction, message: Message) -> Verdict | None:
        """What Exchange Online says of the tenant."""
        if not self._is_about(session):
            return None
        try:
            body_at(message.content)
        except ValueError as error:  # there may be another field in what we do not see
            return self._refuse(f"its header cannot be read: {error}")
        problem = self._problem(message)
        return self._refuse(problem) if problem else Continue((TenantResult(),))

    def _is_about(self, session: Session) -> bool:
        identity = session.identity
        if identity is None or identity.mechanism not in (NETWORK, "certificate"):
            return False
        return not self._networks or session.client.address in self._networks

    def _problem(self, message: Message) -> str:
        if self._tenants:
            values = message.values(_TENANT)
            if len(values) != 1 or _plain(values[0]) not in self._tenants:
                return _told(_TENANT, values)
        if self._asks_organization:
            values = message.values(_ORGANIZATION)
            if len(values) != 1 or not self._organizations.has(_plain(values[0])):
                return _told(_ORGANIZATION, values)
        return ""

    def _refuse(self, problem: str) -> Verdict:
        return Reject(self._reply, problem, evidence=(TenantResult(problem),))


def _plain(value: str) -> str:
    return value.strip().lower()


def _told(name: str, values: Sequence[str]) -> str:
    if not values:
        return f"it has no field {name}"
    return f"it has {len(values)} fields {name}" if len(values) > 1 else f"its {name} is none of ours: {values[0][:80]}"
