"""MAIL and RCPT, where each is said before the next recipient, or the content, is known."""

from __future__ import annotations

from collections.abc import Sequence

from mailgate.address import Address
from mailgate.envelope import EnvelopeRecipient
from mailgate.relay.client.carriage import Carriage, Hop, recipient_parameters
from mailgate.relay.client.paths import check_sender, check_size, fault_of
from mailgate.relay.client.sending import UnsendableError

__all__ = ["mail_command", "rcpt_command", "said_of"]


def mail_command(hop: Hop, sender: Address, size: int | None, carriage: Carriage, *, utf8: bool) -> bytes:
    """MAIL; UnsendableError where it cannot be said. `size` is what the client has declared."""
    check_sender(hop, sender)
    if size is not None:
        check_size(hop, size)
    told = f" SIZE={size}" if hop.extensions.size and size is not None else ""
    return f"MAIL FROM:<{sender}>{told}{carriage.parameters}{' SMTPUTF8' if utf8 else ''}\r\n".encode()


def rcpt_command(hop: Hop, recipient: EnvelopeRecipient, carriage: Carriage, *, utf8: bool) -> bytes:
    """RCPT; UnsendableError where it cannot be said. `utf8`: SMTPUTF8 has been."""
    fault = fault_of(recipient.address, utf8=utf8)
    if fault is not None:
        raise UnsendableError(fault, f"{hop.target} was not asked", next_host=True)
    has_more = hop.extensions.dsn and (recipient.notify or recipient.orcpt)
    more = recipient_parameters(recipient, utf8=carriage.utf8) if has_more else ""
    return f"RCPT TO:<{recipient.address}>{more}\r\n".encode()


def said_of(hop: Hop, recipients: Sequence[EnvelopeRecipient]) -> Sequence[object]:
    """What RCPT says of each: where it is the same, the same is said."""
    if hop.extensions.dsn:
        return [(one.address, one.notify, one.orcpt) for one in recipients]
    return [one.address for one in recipients]
