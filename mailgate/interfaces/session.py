"""Between the session and the rest."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from zope.interface import Attribute, Interface

from mailgate.address import Address
from mailgate.envelope import Identity, Recipient, Session, Target, Transaction
from mailgate.message import Content, Message
from mailgate.reply import Reply
from mailgate.verdict import Defer, Reject, Verdict

__all__ = [
    "Asked",
    "Expand",
    "Expanded",
    "IAliases",
    "IInline",
    "IIntake",
    "IOriginals",
    "IPipeline",
    "IRouting",
    "Placed",
]

Placed = str | tuple[Target, ...] | Reject | Defer
"""Where mail for an address goes: a route, or the addresses that it stands for, each with its own; or why nowhere."""

Asked = Reply | Reject | Defer | None
"""What a next hop says of a recipient: its 2yz reply, or what the client is refused with, and why; or nothing."""

Expanded = Sequence[Address] | Reject | Defer | None
"""The addresses that another stands for; why there are none; or None where it stands for itself."""

Expand = Callable[[Address], Expanded | Awaitable[Expanded]]
"""Whom an address stands for, as IAliases.expand."""


class IPipeline(Interface):
    """The configured filters of one listener. Every method records its trace on the session or transaction.

    The verdict is the one to act on: Continue where nobody objected. Nothing raises.
    """

    stages: frozenset[str] = Attribute("the stages at which anybody is asked; the others always say Continue")

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


class IInline(Interface):
    """Asks next hops while the client waits: their answers are its answers. A transaction is for recipients of one
    place only, which is a route of this kind, or the spool; so the one answer to its content is always the whole truth.
    """

    def place(recipient: Recipient) -> str:
        """The route whose next hop is to be asked about a recipient; "" where it is one for the spool."""

    def rcpt(session: Session, transaction: Transaction, recipient: Recipient) -> Awaitable[Asked]:
        """Ask about one more recipient, who is no recipient of the transaction yet: what to tell the client. Whoever
        asks adds those that are accepted, and asks about one at a time. None: the route has its mail queued now, and so
        the recipient is one for the spool; where others were accepted before, they go the same way in the end. Nothing
        raises but CancelledError; cancelling gives up the session with the next hop."""

    def send(
        session: Session,
        transaction: Transaction,
        content: Content,
        verdicts: Sequence[Verdict],
        *,
        may_report: bool,
        since: float,
    ) -> Awaitable[Sequence[Reply]]:
        """Give the message to the next hop for the recipients whose verdict allows it: a reply for each recipient.

        A 2yz reply is given only when the next hop has taken it, or it is durable here. `may_report`: where it is taken
        for some and refused for others, the sender gets a report of that; otherwise they are put into quarantine.
        `since` is when the client's content had ended, in seconds since the epoch: it waits for 10 minutes from then.
        The content is theirs from the call on, as with IIntake.take; nothing raises.
        """

    def abandon(transaction: Transaction) -> None:
        """The transaction ends without its content: the next hop is told so. Safe where nothing was asked."""


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
