"""Which entries are meant, and what is to be done with them: what the control socket is asked, as JSON."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_address
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from mailgate.address import Address, AddressError
from mailgate.interfaces import Selector, Suspended
from mailgate.stores.domains import canonical

__all__ = ["EVERYTHING", "LONGEST_NAME", "Action", "Change", "Model", "Resume", "Selection", "Suspend", "Text"]

Action = Literal["hold", "release", "retry", "bounce", "reroute", "delete"]

#: Ten years, in seconds: what is longer is a slip.
_LONGEST = 3650 * 86400.0
_MAX_REASON = 300
#: Characters of the name of who wants something.
LONGEST_NAME = 200


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("is not UTF-8") from None
    return text


Text = Annotated[str, AfterValidator(_encodable)]


class Model(BaseModel):
    """One shape of what goes over the socket."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def _at_domain(address: str) -> str:
    """An address or a domain in the spelling in which the spool compares it."""
    local_part, at, domain = address.rpartition("@")
    return f"{local_part.lower()}{at}{canonical(domain)}"


class Selection(Model):
    """Which entries: all conditions that are given must hold.

    None may be given empty: a slip of a script must never widen what is chosen.
    """

    ids: tuple[Annotated[Text, AfterValidator(str.upper)], ...] = ()
    """queue ids, of which one is enough"""
    sender: Text = ""
    """"<>" for the null sender"""
    recipient: Text = ""
    domain: Text = ""
    """the recipient's"""
    site: Text = ""
    """any part of the name of the site of the last attempt, like a host of it"""
    route: Text = ""
    source: Text = ""
    """the source of the last attempt"""
    reason: Text = ""
    """a category, or any part of the last reply or of why it waits"""
    state: Literal["", "queued", "leased", "held", "quarantined", "set-aside"] = ""
    older_than: float = Field(default=0.0, ge=0.0)
    """seconds since arrival"""
    everything: bool = False
    """that no condition is meant; without it a change needs one"""

    # Not asked about what is left out.
    @field_validator("ids", "sender", "recipient", "domain", "site", "route", "source", "reason", "state")
    @classmethod
    def _not_empty(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not value or "" in tuple(value):
            raise ValueError("may not be empty")
        return value

    @model_validator(mode="after")
    def _not_both(self) -> Self:
        if self.everything and not self.is_empty:
            raise ValueError("everything is meant only without conditions")
        return self

    @property
    def is_empty(self) -> bool:
        """Whether it has no condition."""
        return not any(getattr(self, name) for name in Selection.model_fields if name != "everything")

    @property
    def is_of_the_past(self) -> bool:
        """Whether it asks for what only the spool knows."""
        return bool(self.reason or self.older_than or self.state not in ("", "leased"))

    def selectors(self) -> Sequence[Selector]:
        """The same for the spool, in the order of queue ids."""
        common = Selector(
            sender=_at_domain(self.sender),
            recipient=_at_domain(self.recipient),
            domain=canonical(self.domain),
            site=self.site,
            route=self.route,
            source=self.source,
            reason=self.reason,
            state=self.state,
            older_than=self.older_than,
        )
        return [replace(common, queue_id=one) for one in sorted(set(self.ids))] if self.ids else [common]


#: All there is.
EVERYTHING = Selection()


class Change(Selection):
    """What is to be done with entries; which action it is, the address says."""

    to: Text = ""
    """reroute: the route"""
    because: Text = Field(default="", max_length=_MAX_REASON)
    """bounce: what their senders are told of the reason"""
    by: Text = Field(default="", max_length=LONGEST_NAME)
    """who wants it, for the history; an administrator where it is empty"""


class Suspend(Model):
    """No attempts for a route, a domain, a site or a sender."""

    kind: Suspended
    name: Text = Field(min_length=1)
    """a site by any host of it, or as it is told of, a sender by an address, its domain, or "<>" for the null sender"""
    seconds: float = Field(default=0.0, ge=0.0, le=_LONGEST)
    """how long; 0: until it is resumed"""
    reason: Text = Field(default="", max_length=_MAX_REASON)

    @model_validator(mode="after")
    def _can_match(self) -> Self:
        check = _CHECKS.get(self.kind)
        if check is not None:
            check(self.spelt)
        return self

    @property
    def spelt(self) -> str:
        """The name in the spelling in which the relay compares it."""
        return _spelt(self.kind, self.name)


class Resume(Model):
    """The end of a suspension."""

    kind: Suspended
    name: Text = Field(min_length=1)

    @property
    def spelt(self) -> str:
        """The name as `suspend` has put it down."""
        return _spelt(self.kind, self.name)


def _spelt(kind: Suspended, name: str) -> str:
    if kind == "route":
        return name
    if kind == "site":
        # Sites are told of by all of their hosts, or by the first and how many more there are.
        name = re.split(r"[|,]| and ", name, maxsplit=1)[0].strip("[] ")
    return _at_domain(name)


def _check_domain(name: str) -> None:
    try:
        Address.parse(f"x@{name}")
    except AddressError:
        raise ValueError(f"{name!r} is no domain, so nothing could match it") from None


def _check_site(name: str) -> None:
    try:
        ip_address(name)
    except ValueError:
        try:
            Address.parse(f"x@{name}")
        except AddressError:
            raise ValueError(f"{name!r} is no host, so nothing could match it") from None


def _check_sender(name: str) -> None:
    if name == "<>":
        return
    try:
        Address.parse(name if "@" in name else f"x@{name}")
    except AddressError:
        raise ValueError(f"{name!r} is no address and no domain, so nothing could match it") from None


_CHECKS: Mapping[Suspended, Callable[[str], None]] = {
    "domain": _check_domain,
    "site": _check_site,
    "sender": _check_sender,
}
