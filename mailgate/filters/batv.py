"""Bounce Address Tag Validation: our mail has a reverse-path that proves itself when a report comes back."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field
from zope.interface import implementer

from mailgate.address import Address
from mailgate.awaiting import run
from mailgate.config.schema import Network, Section
from mailgate.config.units import ConfigPath, Duration, at_least, format_duration
from mailgate.envelope import Recipient, Session, Transaction
from mailgate.filters.networks import NetworkSet
from mailgate.filters.returning import leaves
from mailgate.filters.steps import Steps, ready
from mailgate.filters.verp import VerpResult
from mailgate.filters.who import AddressPatterns
from mailgate.findings import Finding
from mailgate.interfaces import Answered, FilterServices, IMessageModifier, IRecipientFilter
from mailgate.message import AddRecipient, ChangeReturnPath, Edit, For, Message, RemoveRecipient
from mailgate.reply import Reply
from mailgate.rewriting.batv import Batv, BatvError
from mailgate.stores.secret_lines import SecretFile
from mailgate.verdict import Accept, Continue, Defer, Reject, Verdict

__all__ = ["BatvFilter", "BatvResult", "Options", "build"]

Outcome = Literal["valid", "invalid", "untagged"]
Action = Literal["continue", "defer", "reject"]

_REWRITTEN = re.compile(r"SRS[01][=+-]", re.IGNORECASE)
_TEXT = "This address has not sent the mail that you report about"


class Options(Section):
    """`[filters.batv]`: reports that come back must be about mail that we have sent.

    Mail of clients that have logged in or are trusted, from a sender in `senders` to another domain than ours, leaves
    with a tagged reverse-path: prvs=0123abcdef=ann@example.org. What comes to such an address goes to ann@example.org,
    or whom that stands for, if the tag is good; whoever makes up reports has none. The filter stands in both pipelines,
    behind `verp`, and in that of incoming mail before `recipients`, which does not know tagged addresses; a good tag
    skips the filters of RCPT behind it. Reports that the gateway makes itself go to the plain sender. Mail of these
    senders must leave through this gateway alone before untagged reports can be refused.
    """

    senders: list[str] = Field(min_length=1)
    """whose mail is tagged: addresses, "bounce-*@example.org", domains, "*.domain" """
    secrets: ConfigPath
    """a file with a secret a line (16 octets at least), and # for comments: the first makes tags, all are good for
    those that come back. It is read again when it changes. To replace a secret put the new one on top, and remove the
    old one after `max_age`"""
    max_age: Annotated[Duration, at_least(86400, format_duration)] = 7 * 86400.0
    """how long a tag is good, in days; longer than other hosts try to deliver"""
    except_for: list[str] = Field(default=[])
    """recipients whose mail is not tagged, by the same patterns as `senders`: mailing lists that know their members by
    the reverse-path"""
    untagged: Action = "continue"
    """what is done at RCPT with a report (from the null sender) to an address in `senders` without a tag: continue,
    which leaves the fact `batv.untagged`, defer or reject. Receipts for mail that was read come from the null sender to
    the plain address, and are refused with the others. Postmaster, return paths of `verp` and rewritten senders (SRS)
    need no tag"""
    invalid: Action = "reject"
    """what is done with mail to an address with a tag that is not ours, or too old"""
    exempt: list[Network] = Field(default=[])
    """clients of which untagged reports are taken: hosts of one's own that send mail past this gateway"""


@dataclass(frozen=True, slots=True)
class BatvResult(Finding):
    """What the recipient of a report tells; `addresses` are who it is for, where its tag is good: the sender, or whom
    that stands for."""

    result: Outcome
    recipient: Address
    addresses: tuple[Address, ...] = ()
    owner: object = None

    def summary(self) -> str:
        return f"batv={self.result}"

    def facts(self) -> Sequence[str]:
        return (f"batv.{self.result}",)


def build(options: Options, services: FilterServices) -> object:
    """The filter; ValueError where the secrets cannot be read, or a pattern is none."""
    return BatvFilter(options, services)


@implementer(IRecipientFilter, IMessageModifier)
class BatvFilter:
    """Tags what goes out, and takes the tags off what comes back."""

    def __init__(self, options: Options, services: FilterServices) -> None:
        self._batv = Batv(SecretFile(options.secrets, services.clock), options.max_age, services.clock.seconds)
        self._senders = AddressPatterns(options.senders)
        self._except_for = AddressPatterns(options.except_for)
        self._actions: dict[Outcome, Action] = {"untagged": options.untagged, "invalid": options.invalid}
        self._exempt = NetworkSet(options.exempt)
        self._is_local = services.local_domains
        self._expand = services.expand

    def on_rcpt(self, session: Session, transaction: Transaction, recipient: Recipient) -> Answered:
        """Accept a tag that is good: the address need not be in a directory."""
        address = recipient.address
        if not self._is_local(address.domain):
            return None
        if self._batv.is_tagged(address):
            return run(self._tagged(recipient))
        if transaction.sender or session.identity is not None or not self._senders.has(address):
            return None
        if session.client.address in self._exempt or _needs_none(transaction, recipient):
            return None
        return self._judged(BatvResult("untagged", address, owner=self), "a report to an address without a tag")

    def modify(self, session: Session, transaction: Transaction, message: Message) -> Sequence[Edit | For]:
        """Change the reverse-path, and recipients."""
        return [*self._tags(session, transaction), *self._strips(transaction)]

    def _tagged(self, recipient: Recipient) -> Steps[Verdict | None]:
        address = recipient.address
        try:
            original = self._batv.original(address)
        except BatvError as error:
            return self._judged(BatvResult("invalid", address, owner=self), str(error))
        expanded = yield from ready(self._expand(original))
        if isinstance(expanded, Reject | Defer):
            return expanded
        evidence = (BatvResult("valid", address, tuple(expanded or (original,)), owner=self),)
        return Accept(f"a tag of {original}", evidence=evidence)

    def _judged(self, result: BatvResult, reason: str) -> Verdict:
        match self._actions[result.result]:
            case "reject":
                return Reject(Reply.of(550, "5.7.1", _TEXT), reason, evidence=(result,))
            case "defer":
                return Defer(Reply.of(451, "4.7.1", _TEXT), reason, evidence=(result,))
            case _:
                return Continue(evidence=(result,))

    def _tags(self, session: Session, transaction: Transaction) -> Iterator[Edit]:
        sender = transaction.sender
        if session.identity is None or not self._senders.has(sender) or self._batv.is_tagged(sender):
            return
        path = self._batv.tag(sender)
        if path is None:
            return
        others = {  # by `verp`, whose paths prove themselves
            address for edit in transaction.edits if isinstance(edit, ChangeReturnPath) for address in edit.recipients
        }
        outside = tuple(
            one.address
            for one in transaction.recipients
            if leaves(one, self._is_local) and one.address not in others and not self._except_for.has(one.address)
        )
        if outside:
            yield ChangeReturnPath(path, () if len(outside) == len(transaction.recipients) else outside)

    def _strips(self, transaction: Transaction) -> Iterator[Edit | For]:
        """Each in a message of its own, where there are others: what filters have decided about one is for it alone."""
        found = {one.recipient: one.addresses for one in transaction.evidence.all(BatvResult) if one.owner is self}
        for recipient in transaction.recipients:
            addresses = found.get(recipient.address)
            if addresses:
                edits: tuple[Edit, ...] = (RemoveRecipient(recipient.address), *map(AddRecipient, addresses))
                yield from edits if len(transaction.recipients) == 1 else [For((recipient.address,), edits)]


def _needs_none(transaction: Transaction, recipient: Recipient) -> bool:
    """Whether an address proves by itself that we have made it, or must take what comes (RFC 5321 section 4.5.1)."""
    address = recipient.address
    if address.local_part.lower() == "postmaster":
        return True
    if recipient.targets and _REWRITTEN.match(address.local_part):
        return True  # routing has undone it, and refuses what it has not made
    return any(one.address == address for one in transaction.evidence.all(VerpResult))
