"""Where mail goes, and who may send it there: `[domains]` and `[routing]` as answers."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence

from zope.interface import implementer

from mailgate.address import Address
from mailgate.config.schema import Config
from mailgate.envelope import Session, Target, Transaction
from mailgate.interfaces import Expanded, IAliases, IRouting, Placed
from mailgate.reply import Reply
from mailgate.rewriting.tables import base_of
from mailgate.stores.domains import DomainTable, canonical
from mailgate.verdict import Defer, Reject

__all__ = ["Routing"]

_NO_RELAY = Reply.of(550, "5.7.1", "Relaying denied")
_NO_ROUTE = Reply.of(550, "5.4.4", "No route to this recipient")
_NOT_YET = Reply.of(451, "4.3.5", "This address cannot be resolved now")


class _Table:
    """Routes by address, domain or "*.domain": an address goes before its domain."""

    def __init__(self, entries: Mapping[str, str]) -> None:
        self._addresses = {key: route for key, route in entries.items() if "@" in key}
        self._domains = DomainTable({key: route for key, route in entries.items() if "@" not in key})
        self._is_empty = not entries

    def address(self, address: Address, delimiters: DomainTable[str]) -> str | None:
        """The route of the address itself, or of that without its extension (RFC 5233), where the domain is ours: the
        form of others is not ours to know."""
        if not self._addresses:
            return None
        delimiter = delimiters.match(address.domain) or ""
        local_part, domain = address.local_part.lower(), canonical(address.domain)
        base, _ = base_of(local_part, delimiter)
        return self._addresses.get(str(Address(local_part, domain))) or (
            self._addresses.get(str(Address(base, domain))) if base != local_part else None
        )

    def domain(self, address: Address) -> str | None:
        return None if self._is_empty else self._domains.match(address.domain)


@implementer(IRouting)
class Routing:
    """IRouting by configuration.

    Our own domains come first; an entry of `[routing] recipients` for a single address goes before even them. What no
    entry names takes the sender's route, then the default.
    """

    def __init__(self, config: Config, aliases: IAliases | None = None) -> None:
        """`aliases` is None where no address stands for others."""
        self._aliases = aliases
        self._domains = DomainTable({name: section.route for name, section in config.domains.items()})
        self._delimiters = DomainTable({name: section.delimiter for name, section in config.domains.items()})
        self._recipients = _Table(config.routing.recipients)
        self._senders = _Table(config.routing.senders)
        self._default = config.routing.default

    def route(self, session: Session, transaction: Transaction, address: Address) -> Placed | Awaitable[Placed]:
        if session.role == "outbound" and session.identity is None:
            reason = f"listener {session.listener} relays for clients that it trusts, and for no others"
            return Reject(_NO_RELAY, reason)
        if self._aliases is not None:
            expanded = self._aliases.expand(address)
            if isinstance(expanded, Awaitable):
                return self._later(self._aliases, session, transaction, address, expanded)
            if expanded is not None:
                return self._of_targets(self._aliases, transaction.sender, address, expanded)
        return self._of_address(session, transaction, address)

    async def _later(
        self,
        aliases: IAliases,
        session: Session,
        transaction: Transaction,
        address: Address,
        expanding: Awaitable[Expanded],
    ) -> Placed:
        expanded = await expanding
        if expanded is None:
            return self._of_address(session, transaction, address)
        return self._of_targets(aliases, transaction.sender, address, expanded)

    def _of_targets(
        self,
        aliases: IAliases,
        sender: Address,
        address: Address,
        expanded: Sequence[Address] | Reject | Defer,
    ) -> Placed:
        """A route for each address that another stands for. Whoever may send to that one may send to these."""
        if isinstance(expanded, Reject | Defer):
            return expanded
        targets = []
        for target in expanded:
            route = self.next_hop(target, sender)
            if route is None:
                # a mistake of ours: the sender's mail can wait for its end
                reason = f"{address} stands for {target}, and no [domains] or [routing] entry is for that"
                return Defer(_NOT_YET, reason)
            targets.append(Target(target, route, aliases.return_path(sender, target)))
        return tuple(targets)

    def _of_address(self, session: Session, transaction: Transaction, address: Address) -> str | Reject:
        may_relay = session.identity is not None and session.role != "inbound"
        if not may_relay and not self.is_local(address.domain):
            reason = f"{address.domain} is none of our [domains], and this client may not relay by {session.listener}"
            return Reject(_NO_RELAY, reason)
        route = self.next_hop(address, transaction.sender)
        return Reject(_NO_ROUTE, f"no [domains] or [routing] entry is for {address}") if route is None else route

    def next_hop(self, address: Address, sender: Address) -> str | None:
        """The route for a recipient, whoever asks; None where the configuration has none."""
        return (
            self._recipients.address(address, self._delimiters)
            or self._domains.match(address.domain)
            or self._recipients.domain(address)
            or (sender and (self._senders.address(sender, self._delimiters) or self._senders.domain(sender)))
            or self._default
        )

    def is_local(self, domain: str) -> bool:
        """Whether mail for a domain is ours to take from anyone."""
        return self._domains.match(domain) is not None
