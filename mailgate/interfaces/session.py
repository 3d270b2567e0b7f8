"""Between the session and the rest."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence

from zope.interface import Interface

from mailgate.address import Address
from mailgate.envelope import Identity, Recipient, Session, Target, Transaction
from mailgate.message import Content, Message
from mailgate.reply import Reply
from mailgate.verdict import Defer, Reject, Verdict

__all__ = ["Expanded", "IAliases", "IIntake", "IOriginals", "IPipeline", "IRouting", "Placed"]

Placed = str | tuple[Target, ...] | Reject | Defer
"""Where mail for an address goes: a route, or the addresses that it stands for, each with its own; or why nowhere."""

Expanded = Sequence[Address] | Reject | Defer | None
"""The addresses that another stands for; why there are none; or None where it stands for itself."""


class IPipeline(Interface):
    """The configured filters of one listener. Every method records its trace on the session or transaction.

    The verdict is the one to act on: Continue where nobody objected. Nothing raises.
    """

    def connect(session: Session) -> Verdict | Awaitable[Verdict]:
        """Before the banner."""

    def helo(session: Session) -> Verdict | Awaitable[Verdict]:
        """After a greeting."""

    def auth(session: Session, identity: Identity) -> Verdict | Awaitable[Verdict]:
        """After AUTH."""

    def mail(session: Session, transaction: Transaction) -> Verdict | Awaitable[Verdict]:
        """At MAIL."""

    def rcpt(session: Session, transaction: Transaction, recipient: Recipient) -> Verdict | Awaitable[Verdict]:
        """At RCPT; may set `recipient.route`."""

    def data(session: Session, transaction: Transaction) -> Verdict | Awaitable[Verdict]:
        """At DATA."""

    def message(
        session: Session, transaction: Transaction, message: Message
    ) -> Sequence[Verdict] | Awaitable[Sequence[Verdict]]:
        """The votes of all message filters, then the modifiers: one verdict for each recipient, in order."""


class IRouting(Interface):
    """Decides by configuration where a recipient's mail goes, and whether this session may send it there."""

    def route(session: Session, transaction: Transaction, address: Address) -> Placed | Awaitable[Placed]:
        """The route's name, or the targets where the address stands for others; a Reject where the session may not
        relay to this address, or it leads nowhere; a Defer where that cannot be told now. Nothing raises."""


class IAliases(Interface):
    """Knows which addresses stand for others."""

    def expand(address: Address) -> Expanded | Awaitable[Expanded]:
        """The addresses that this one stands for, to the last; None where it stands for itself alone.

        A Reject where it stands for nothing that can be, a Defer where the source cannot be asked now.
        """

    def return_path(sender: Address, target: Address) -> Address | None:
        """The reverse-path of mail from `sender` that is forwarded to `target`; None for the sender's own."""


class IIntake(Interface):
    """Takes responsibility for messages."""

    def take(
        session: Session, transaction: Transaction, content: Content, verdicts: Sequence[Verdict]
    ) -> Awaitable[Sequence[Reply]]:
        """Make the message durable for the recipients whose verdict allows it: a reply for each recipient.

        A 2yz reply is given only when the message is durable. The content is the intake's from the call on,
        whatever comes of it. Errors of ours come back as 4yz replies; nothing raises.
        """

    def refuse_before_data(size: int | None) -> Reply | None:
        """452 where the spool cannot take a message (of this size) now, else None."""


class IOriginals(Interface):
    """Keeps what messages in quarantine were before filters changed their content."""

    def keep(queue_id: str, content: Content) -> Awaitable[None]:
        """Make a copy that is durable; OSError where the disk does not take it. The content stays the caller's.

        What no message in the spool belongs to is removed some time later.
        """
