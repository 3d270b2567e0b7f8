"""What a host may be asked at all: paths (RFC 5321 section 4.1.2, RFC 6531 section 3.3), sizes (RFC 1870)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mailgate.address import Address
from mailgate.envelope import Envelope, EnvelopeRecipient
from mailgate.relay.client.carriage import NO_SMTPUTF8, Hop
from mailgate.relay.client.sending import UnsendableError
from mailgate.reply import Reply
from mailgate.wire.xclient import xforward_commands

__all__ = ["check_sender", "check_size", "fault_of", "reverse_path_of", "xforward_of"]

_BAD_ADDRESS = Reply.of(553, "5.1.3", "The address cannot be written in a command")

#: What stands in no domain, and in no literal: it could end the path, and begin something else.
_BAD = frozenset(' "%<>\\')
#: Nearly every path: without octets that need a second look, wherever they stand in it.
_is_plain = re.compile(r"[!#$&-;=?-\[\]-~]*").fullmatch


def fault_of(address: Address, *, utf8: bool) -> Reply | None:
    """Why an address cannot be said to a host, which takes those in UTF-8 or not; None where it can."""
    text = str(address)
    if _is_plain(text):
        return None
    if not (text.isprintable() and _BAD.isdisjoint(address.domain)):
        return _BAD_ADDRESS
    return None if utf8 or text.isascii() else NO_SMTPUTF8


def check_size(hop: Hop, size: int) -> None:
    """UnsendableError where a message of so many octets is more than the host has said it takes."""
    max_size = hop.extensions.max_size
    if 0 < max_size < size:
        text = f"The message has {size} octets; the next hop takes {max_size}"
        raise UnsendableError(Reply.of(552, "5.3.4", text), f"{hop.target} was not asked")


def check_sender(hop: Hop, reverse_path: Address) -> None:
    """UnsendableError where it cannot be said to this host."""
    fault = fault_of(reverse_path, utf8=hop.extensions.utf8)
    if fault is not None:
        raise UnsendableError(fault, f"{hop.target} was not asked", next_host=fault is NO_SMTPUTF8)


def xforward_of(hop: Hop, envelope: Envelope) -> Sequence[bytes]:
    """The commands that tell the host where the message comes from, where it is to know."""
    if not hop.xforward or "XFORWARD" not in hop.extensions:
        return ()
    return xforward_commands(envelope.origin, envelope.queue_id, hop.extensions.offered["XFORWARD"])


def reverse_path_of(envelope: Envelope, recipients: Sequence[EnvelopeRecipient]) -> Address:
    """Whom MAIL names: the recipients of a job have one in common."""
    return_path = recipients[0].return_path if recipients else None
    return envelope.sender if return_path is None else return_path
