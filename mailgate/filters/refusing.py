"""What the filters that judge a client have in common: whom they leave alone, and when and how they say no."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Literal

from pydantic import Field

from mailgate.config.schema import Network, Section
from mailgate.envelope import Recipient, Session
from mailgate.filters.networks import LOCAL_NETWORKS, NetworkSet, is_known
from mailgate.interfaces import FilterServices
from mailgate.reply import Reply
from mailgate.verdict import Defer, Disconnect, Reject, Verdict

__all__ = ["Manner", "Objection", "RefusalSection", "Stage", "Word"]

Stage = Literal["connect", "helo", "mail", "rcpt"]
Word = Literal["continue", "defer", "reject"]


class RefusalSection(Section):
    """The options about whom a filter leaves alone, and when it refuses."""

    when: Literal["rcpt", "at-once"] = "rcpt"
    """when it refuses. rcpt: at each recipient, so that the history says who wrote to whom, `reachable` can be kept,
    and who logs in first is let through; at-once: as soon as it knows, a client instead of the banner (554, or 421
    to defer), which mail servers may take for a passing fault and come back for days"""
    reachable: list[str] = Field(default=["postmaster"])
    """local parts in our domains to which everybody can write, so that who is refused wrongly can say so (RFC 5321
    section 4.5.1); only while `when` is rcpt"""
    exempt: list[Network] = Field(default=list(LOCAL_NETWORKS))
    """clients that it leaves alone, beside those of trusted_networks and those that have logged in; if not given, those
    of loopback and private networks"""


@dataclass(frozen=True, slots=True)
class Objection:
    """A refusal that knows no stage yet. `detail` is the enhanced status code without its class: "7.1"."""

    word: Literal["defer", "reject"]
    text: str
    reason: str
    detail: str = "7.1"

    def at(self, stage: Stage, evidence: tuple[object, ...] = ()) -> Verdict:
        """The verdict that says it there."""
        is_for_good = self.word == "reject"
        if stage == "connect":
            # A greeting carries no enhanced status code (RFC 2034 section 3).
            return Disconnect(Reply.of(554 if is_for_good else 421, "", self.text), self.reason, evidence)
        status = "" if stage == "helo" else f"{5 if is_for_good else 4}.{self.detail}"  # nor does an answer to HELO
        if is_for_good:
            return Reject(Reply.of(550, status, self.text), self.reason, evidence=evidence)
        return Defer(Reply.of(450, status, self.text), self.reason, evidence=evidence)


class Manner:
    """The options of `RefusalSection`, made ready."""

    def __init__(self, options: RefusalSection, services: FilterServices) -> None:
        self.is_at_once = options.when == "at-once"
        self._exempt = NetworkSet(options.exempt)
        self._reachable = frozenset(name.lower() for name in options.reachable)
        self._hostname = services.hostname.lower()
        self._is_local = services.local_domains

    def judged(self, session: Session) -> IPv4Address | IPv6Address | None:
        """The address of a client that is to be judged; None for one that is left alone."""
        address = session.client.address
        if not is_known(address) or session.identity is not None or address in self._exempt:
            return None
        return address

    def is_reachable(self, recipient: Recipient) -> bool:
        """Whether everybody can write to this recipient."""
        address = recipient.address
        ours = address.domain == self._hostname or self._is_local(address.domain)
        return ours and address.local_part.lower() in self._reachable
