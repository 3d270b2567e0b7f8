"""Transport `discard`: the message is dropped, by a route that says why."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from mailgate.envelope import Envelope, EnvelopeRecipient
from mailgate.interfaces import OutcomeKind
from mailgate.message import Content
from mailgate.relay.attempt import ITransport, Result
from mailgate.reply import Reply

__all__ = ["DiscardTransport"]


@implementer(ITransport)
class DiscardTransport:
    """Every recipient's outcome is `discarded`."""

    def __init__(self, reason: str) -> None:
        self._reason = reason
        self._reply = Reply.of(250, "2.0.0", "Discarded")

    def deliver(
        self, envelope: Envelope, recipients: Sequence[EnvelopeRecipient], content: Content
    ) -> Deferred[Sequence[Result]]:
        """As in ITransport."""
        return succeed([Result(one, OutcomeKind.DISCARDED, self._reply, reason=self._reason) for one in recipients])
