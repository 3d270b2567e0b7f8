"""What a filter provides: the public contract, one small role for each stage."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass

from twisted.plugin import IPlugin
from zope.interface import Attribute, Interface

from mailgate.envelope import Envelope, EnvelopeRecipient, Identity, Recipient, Session, Transaction
from mailgate.events import Event
from mailgate.interfaces.services import FilterServices
from mailgate.message import Edit, For, Message
from mailgate.verdict import Verdict

__all__ = [
    "Answered",
    "AttemptContext",
    "IAuthFilter",
    "IConnectFilter",
    "IContentFilter",
    "IDataFilter",
    "IDeliveryFilter",
    "IEventObserver",
    "IFilterFactory",
    "IHeloFilter",
    "IMailFilter",
    "IMarkingModifier",
    "IMessageFilter",
    "IMessageModifier",
    "IRecipientFilter",
    "IRouter",
    "IWeighingFilter",
    "MaybeVerdict",
    "Voted",
]

MaybeVerdict = Verdict | None
Answered = MaybeVerdict | Awaitable[MaybeVerdict]
Voted = MaybeVerdict | Sequence[Verdict] | Awaitable[MaybeVerdict | Sequence[Verdict]]


class IConnectFilter(Interface):
    """Asked once per connection, before the banner; taking time here delays the banner."""

    def on_connect(session: Session) -> Answered:
        """Judge the client. `session.helo` and `session.identity` are not known yet."""


class IHeloFilter(Interface):
    """Asked at each HELO, EHLO or LHLO."""

    def on_helo(session: Session) -> Answered:
        """Judge the greeting in `session.helo`, which is a name or a literal by its form."""


class IAuthFilter(Interface):
    """Asked after AUTH has succeeded."""

    def on_auth(session: Session, identity: Identity) -> Answered:
        """Judge whether this identity may use this session."""


class IMailFilter(Interface):
    """Asked at MAIL FROM."""

    def on_mail(session: Session, transaction: Transaction) -> Answered:
        """Judge the sender, which is the null address for reports."""


class IRecipientFilter(Interface):
    """Asked at each RCPT TO, after relaying has been found allowed."""

    def on_rcpt(session: Session, transaction: Transaction, recipient: Recipient) -> Answered:
        """Judge one recipient. `transaction.recipients` holds those accepted before it."""


class IDataFilter(Interface):
    """Asked at DATA, before the content."""

    def on_data(session: Session, transaction: Transaction) -> Answered:
        """Judge the envelope as a whole."""


class IMessageFilter(Interface):
    """Asked when the content is complete. Looks and votes, changes nothing; may run beside others."""

    def on_message(session: Session, transaction: Transaction, message: Message) -> Voted:
        """Judge the message. A Reject, Defer, Quarantine or Discard may name single recipients.

        The answer may be a sequence of verdicts, each a vote of its own: refused for some, in quarantine for others.
        Accept and Disconnect stand alone. `transaction.recipients` are those that the filter is asked about: where
        the configuration says that it is for some only, the others do not show, and its answer is not about them.
        """


class IContentFilter(IMessageFilter):
    """A message filter that looks at content, sender, recipients and where the mail came from, and may be asked again.

    It is asked again when mail has waited, in quarantine or in the queue, and what it knows may have changed. The
    session and the transaction are then made up from what the spool keeps: there is no earlier evidence but the facts
    that were found (`Remembered`), and nothing must be counted as another message.
    """


class IWeighingFilter(IContentFilter):
    """A content filter that judges by what others have found. It is asked again only where that is known."""


class IMessageModifier(Interface):
    """Asked after the votes, one after another in the configured order.

    The message is as it was received, for each of them; `transaction.edits` holds what those before have done. Edits
    of the header are applied in their order when the message is sent on. Edits of the body and of the envelope are
    carried out before it is accepted: a Splice names octets of the content as received, whatever was spliced before,
    and a ReplaceBody takes in what was done to the body before it (`edited_body` of mailgate.message). An edit of the
    body that does not fit the content, or the edits before it, is the filter's failure.

    Edits may be for some of the recipients (`For`): those then get a message of their own. From there on, and where a
    filter is for some recipients only, modifiers are asked once for each such message, with its recipients in
    `transaction.recipients` and what is done to it in `transaction.edits`, so that what one adds up or signs is right
    for it. 100 messages may be made of one; edits that make more are the filter's failure.
    """

    def modify(
        session: Session, transaction: Transaction, message: Message
    ) -> Sequence[Edit | For] | Awaitable[Sequence[Edit | For]]:
        """The edits to record; the message itself stays as it is."""


class IMarkingModifier(IMessageModifier):
    """A modifier that tells in header fields of its own what has been found, which a sender may have put in as well.

    Where it is not asked (its breaker is open) or fails, and `on_failure` does not refuse the message, these edits
    stand in for its own: nobody is to believe such a field because a scanner is out of order.
    """

    def forged(message: Message) -> Sequence[Edit]:
        """What removes the fields that this filter alone writes, of those that came with the message; it looks at the
        header only."""


class IRouter(Interface):
    """Asked for each accepted recipient; the first that names a route decides."""

    def route(session: Session, transaction: Transaction, recipient: Recipient) -> str | Awaitable[str | None] | None:
        """The name of a configured route, or None for no opinion."""


@dataclass(frozen=True, slots=True)
class AttemptContext:
    """One delivery attempt: this message to these recipients by this route; `attempt` counts from 1."""

    envelope: Envelope
    recipients: tuple[EnvelopeRecipient, ...]
    route: str
    attempt: int


class IDeliveryFilter(Interface):
    """Asked before each delivery attempt."""

    def on_attempt(attempt: AttemptContext) -> Answered:
        """A Defer postpones the attempt, a Reject ends in a bounce, a Discard drops the message; others let it go on.

        These three may name single recipients; about the other ones the filters are asked again.
        """


class IEventObserver(Interface):
    """Told of every event, after the fact. Must not raise and must not block."""

    def observe(event: Event) -> None:
        """Take notice."""


class IFilterFactory(IPlugin):
    """Makes a filter from its configuration. Found through the plugins of `mailgate.plugins`."""

    name: str = Attribute("the name, or kind, by which the configuration asks for it")
    summary: str = Attribute("one line for `mailgate filters`")
    options: type = Attribute("the frozen class of its configuration section; its fields' docs are the reference")

    def build(options: object, services: FilterServices) -> object:
        """The filter: an object that provides one or more stage interfaces. ValueError: the options cannot work."""
