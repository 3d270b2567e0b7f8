"""What a filter provides: the public contract, one small role for each stage."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass

from twisted.plugin import IPlugin
from zope.interface import Attribute, Interface

from mailgate.envelope import Envelope, EnvelopeRecipient, Identity, Recipient, Session, Transaction
from mailgate.events import Event
from mailgate.interfaces.services import FilterServices
from mailgate.message import Edit, Message
from mailgate.verdict import Verdict

__all__ = [
    "Answered",
    "AttemptContext",
    "IAuthFilter",
    "IConnectFilter",
    "IDataFilter",
    "IDeliveryFilter",
    "IEventObserver",
    "IFilterFactory",
    "IHeloFilter",
    "IMailFilter",
    "IMessageFilter",
    "IMessageModifier",
    "IRecipientFilter",
    "IRouter",
    "MaybeVerdict",
]

MaybeVerdict = Verdict | None
Answered = MaybeVerdict | Awaitable[MaybeVerdict]


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

    def on_message(session: Session, transaction: Transaction, message: Message) -> Answered:
        """Judge the message. A Reject, Defer, Quarantine or Discard may name single recipients."""


class IMessageModifier(Interface):
    """Asked after the votes, one after another in the configured order.

    The message is as it was received, for each of them; `transaction.edits` holds what those before have done. Edits
    of the header are applied in their order when the message is sent on. Edits of the body and of the envelope are
    carried out before it is accepted: a Splice names octets of the content as received, whatever was spliced before,
    and a ReplaceBody takes in what was done to the body before it (`edited_body` of mailgate.message). An edit of the
    body that does not fit the content, or the edits before it, is the filter's failure.
    """

    def modify(
        session: Session, transaction: Transaction, message: Message
    ) -> Sequence[Edit] | Awaitable[Sequence[Edit]]:
        """The edits to record; the message itself stays as it is."""


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
        """A Defer postpones the attempt, a Reject ends in a bounce; other verdicts let it go on."""


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
