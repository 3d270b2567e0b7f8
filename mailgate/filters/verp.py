"""Variable Envelope Return Paths: reports about mail to many say by their address which recipient they are about."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from zope.interface import implementer

from mailgate.address import Address
from mailgate.config.schema import Section
from mailgate.config.units import ConfigPath
from mailgate.envelope import Recipient, Session, Transaction
from mailgate.filters.returning import leaves
from mailgate.filters.who import AddressPatterns
from mailgate.findings import Finding
from mailgate.interfaces import FilterServices, IMessageModifier, IRecipientFilter
from mailgate.message import ChangeReturnPath, Edit, Message
from mailgate.rewriting.verp import Verp, VerpError, VerpReturn
from mailgate.stores.secret_lines import SecretFile
from mailgate.verdict import Continue, Verdict

__all__ = ["Options", "VerpFilter", "VerpResult", "build"]


class Options(Section):
    """`[filters.verp]`: mail of a newsletter or a list has a reverse-path of its own for each recipient.

    news@example.org writes to bob@example.net as news+HASH=bob=example.net@example.org. A report that comes back, in
    whatever form, is about bob. Each recipient gets a transaction of his own for that, so this is for senders whose
    reports are read by a program. The filter stands in the pipeline of what goes out, and in that of what comes in,
    where the fact `verp.return` and the evidence tell of a report to such an address; it is delivered to the sender, by
    its extension.
    """

    senders: list[str] = Field(min_length=1)
    """whose mail it is: addresses, "news-*@example.org", domains, "*.domain" """
    secrets: ConfigPath
    """a file with a secret a line (16 octets at least), and # for comments: the first makes addresses, all are good for
    those that come back. It is read again when it changes"""
    delimiter: Annotated[str, Field(pattern=r"^[+_-]$")] = "+"
    """what separates an address from its extension where these senders' mail is delivered"""


@dataclass(frozen=True, slots=True)
class VerpResult(Finding):
    """A recipient, `address`, is a return path that we have made."""

    address: Address
    about: VerpReturn

    def summary(self) -> str:
        return f"a return of mail from {self.about.sender} to {self.about.recipient}"

    def facts(self) -> Sequence[str]:
        return ("verp.return",)


def build(options: Options, services: FilterServices) -> object:
    """The filter; ValueError where the secrets cannot be read, or a pattern is none."""
    return VerpFilter(options, services)


@implementer(IRecipientFilter, IMessageModifier)
class VerpFilter:
    """A path that would be too long is left out: reports about that recipient come to the plain sender."""

    def __init__(self, options: Options, services: FilterServices) -> None:
        self._verp = Verp(SecretFile(options.secrets, services.clock), options.delimiter)
        self._senders = AddressPatterns(options.senders)
        self._is_local = services.local_domains

    def on_rcpt(self, session: Session, transaction: Transaction, recipient: Recipient) -> Verdict | None:
        """Note what a return is about; what is none of ours is an address like any other."""
        if not self._is_local(recipient.address.domain) or not self._verp.has_form(recipient.address):
            return None
        try:
            about = self._verp.read(recipient.address)
        except VerpError:
            return None
        return Continue(evidence=(VerpResult(recipient.address, about),))

    def modify(self, session: Session, transaction: Transaction, message: Message) -> Sequence[Edit]:
        """A reverse-path for each recipient elsewhere."""
        if session.identity is None or not self._senders.has(transaction.sender):
            return []
        return list(self._paths(transaction))

    def _paths(self, transaction: Transaction) -> Iterator[Edit]:
        for one in transaction.recipients:
            path = self._verp.return_path(transaction.sender, one.address)
            if path is not None and leaves(one, self._is_local):
                yield ChangeReturnPath(path, (one.address,))
