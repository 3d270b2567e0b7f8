"""A mailing list: mail of its members goes to all of them."""

from collections.abc import Iterable, Sequence

from zope.interface import implementer

from mailgate.address import Address
from mailgate.config.schema import Section
from mailgate.config.units import ConfigPath
from mailgate.config.values import OneMailbox
from mailgate.envelope import Session, Transaction
from mailgate.interfaces import FilterServices, IMessageFilter, IMessageModifier
from mailgate.message import AddHeader, AddRecipient, ChangeSender, Edit, For, Message, RemoveHeader, RemoveRecipient
from mailgate.reply import Reply
from mailgate.stores.lists import WatchedFile
from mailgate.verdict import Reject, Verdict


class Options(Section):
    """`[filters.mailing-list]`: people who write to one another. It stands behind dmarc, and before headers."""

    address: OneMailbox
    """the list's address"""
    owner: OneMailbox
    """who gets the bounces"""
    members: ConfigPath
    """a file with a member's address a line, read again when it changes"""


def addresses(lines: Iterable[tuple[int, str]]) -> Sequence[Address]:
    return [Address.parse(line.lower()) for _, line in lines]


def build(options: Options, services: FilterServices) -> object:
    return MailingList(options, WatchedFile(options.members, addresses, services.clock, keep_filled=True))


@implementer(IMessageFilter, IMessageModifier)
class MailingList:
    def __init__(self, options: Options, members: WatchedFile[Sequence[Address]]) -> None:
        self._list, self._owner, self._members = options.address.lower(), Address.parse(options.owner), members
        self._id = f"<{self._list.replace('@', '.')}>"

    def on_message(self, session: Session, transaction: Transaction, message: Message) -> Verdict | None:
        sender, ours = str(transaction.sender).lower(), self._ours(transaction)
        if ours and any(one.name.lower() == "list-id" and self._id in one.value for one in message.fields):
            return Reject(Reply.of(554, "5.4.6", "This has been on the list"), self._id, recipients=ours)
        if ours and sender not in map(str, self._members.value):
            return Reject(Reply.of(550, "5.7.2", "For members only"), f"{sender} is none", recipients=ours)
        return None

    def modify(self, session: Session, transaction: Transaction, message: Message) -> Sequence[Edit | For]:
        ours = self._ours(transaction)
        fields = (RemoveHeader("List-Id"), AddHeader("List-Id", self._id))
        members = [AddRecipient(one) for one in self._members.value]
        edits = (*fields, ChangeSender(self._owner), *members, *map(RemoveRecipient, ours))
        return [For(ours, edits)] if ours else []

    def _ours(self, transaction: Transaction) -> tuple[Address, ...]:
        return tuple(one.address for one in transaction.recipients if str(one.address).lower() == self._list)
