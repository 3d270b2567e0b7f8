"""What an operator has suspended: no attempts for a route, a domain, a site or a sender."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mailgate.address import Address
from mailgate.envelope import Envelope, EnvelopeRecipient
from mailgate.interfaces import Destination, Suspended, Suspension

__all__ = ["Suspensions", "ends"]

#: Seconds after which what is suspended until somebody ends it is looked at again.
_LOOK_AGAIN = 3600.0


class Suspensions:
    """Those that are in force; `exist` tells whether there are any."""

    def __init__(self, suspensions: Iterable[Suspension] = ()) -> None:
        self._by_kind: dict[Suspended, dict[str, Suspension]] = {}
        for one in suspensions:
            self._by_kind.setdefault(one.kind, {})[one.name if one.kind == "route" else one.name.lower()] = one
        self.exist = bool(self._by_kind)

    def of_destination(self, destination: Destination, now: float) -> Suspension | None:
        """The one that holds for a route, or for a domain."""
        route, domain = destination
        return self._find("route", (route,), now) or self._find("domain", (domain,), now)

    def of_sender(self, sender: Address, now: float) -> Suspension | None:
        """The one that holds for an address, or all of its domain; "<>" is the null reverse-path."""
        return self._find("sender", (str(sender).lower() or "<>", sender.domain), now)

    def keep(self, envelope: Envelope, recipients: Sequence[EnvelopeRecipient], route: str, now: float) -> bool:
        """Whether any keeps back one of these recipients of a message, by this route; sites are left out."""
        return self.of_sender(envelope.sender, now) is not None or any(
            self.of_destination(Destination(route, one.address.domain), now) is not None for one in recipients
        )

    def of_site(self, hosts: Sequence[str], now: float) -> Suspension | None:
        """The one that names any of these hosts."""
        return self._find("site", [host.lower() for host in hosts], now)

    def _find(self, kind: Suspended, names: Sequence[str], now: float) -> Suspension | None:
        found = self._by_kind.get(kind)
        if not found:
            return None
        for name in names:
            one = found.get(name)
            if one is not None and (not one.until or one.until > now):
                return one
        return None


def ends(suspension: Suspension, now: float) -> float:
    """When what it keeps back is to be looked at again."""
    return suspension.until or now + _LOOK_AGAIN
