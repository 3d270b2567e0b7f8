"""What a next hop is asked about one recipient, without a message: MAIL, RCPT, RSET or DATA (RFC 5321 section 3.3)."""

from __future__ import annotations

from mailgate.address import Address
from mailgate.envelope import Envelope, EnvelopeRecipient
from mailgate.interfaces import OutcomeKind
from mailgate.relay.client.carriage import Hop
from mailgate.relay.client.transaction import Step, Transaction
from mailgate.reply import Reply

__all__ = ["Probe"]


class Probe(Transaction):
    """A transaction that sends no content. Its one result says what became of the recipient: delivered where it was
    accepted. A refusal of the sender is deferred, whatever its code: it says nothing about the recipient.

    `through_data` asks by DATA as well. There is no way back from a positive reply to that but to drop the connection,
    which leaves the next hop without a message.
    """

    def __init__(self, hop: Hop, sender: Address, address: Address, *, through_data: bool) -> None:
        recipient = EnvelopeRecipient(0, address, "")
        super().__init__(
            hop.extensions,
            Envelope(queue_id="", sender=sender, recipients=(recipient,), received=0.0, size=0),
            (recipient,),
            0,
            peer=hop.peer,
            lmtp=hop.target.lmtp,
            is_fallback=hop.is_fallback,
        )
        self._through_data = through_data
        is_ascii = sender.is_ascii and address.is_ascii
        self._commands[0] = f"MAIL FROM:<{sender}>{'' if is_ascii else ' SMTPUTF8'}\r\n".encode()
        if not through_data:
            self._commands[-1] = b"RSET\r\n"

    def _mail(self, reply: Reply) -> Step:
        if reply.is_permanent:
            self._settle(0, reply, kind=OutcomeKind.DEFERRED)
        return super()._mail(reply)

    def _rcpt(self, position: int, reply: Reply) -> Step:
        step = super()._rcpt(position, reply)
        if reply.is_positive and not self._through_data:
            self._settle(position, reply)
        return step

    def _data(self, reply: Reply) -> Step:
        if not self._through_data:
            return Step.DONE  # to RSET, which has nothing to say
        if reply.is_intermediate and self._accepted:
            self._settle(0, reply, kind=OutcomeKind.DELIVERED)
            return Step.DROP
        return super()._data(reply)
