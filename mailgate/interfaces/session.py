"""Between the session and the rest."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence

from zope.interface import Interface

from mailgate.address import Address
from mailgate.envelope import Identity, Recipient, Session, Transaction
from mailgate.message import Content, Message
from mailgate.reply import Reply
from mailgate.verdict import Reject, Verdict

__all__ = ["IIntake", "IPipeline", "IRouting"]


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

    def route(session: Session, transaction: Transaction, address: Address) -> str | Reject:
        """The route's name; a Reject where the session may not relay to this address."""


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
