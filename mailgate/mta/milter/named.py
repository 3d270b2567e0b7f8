"""Whom a message is for, as the mail server has named them."""

from __future__ import annotations

from dataclasses import dataclass, field

from mailgate.address import Address
from mailgate.envelope import Client, Recipient
from mailgate.reply import Reply
from mailgate.verdict import Defer, Disconnect, Reject, Verdict

__all__ = ["Named", "is_by_hand", "put_off", "put_off_reply"]

#: Ways in which recipients of one message are written: more than any mail server has recipients.
_MOST = 50_000


@dataclass(slots=True)
class Named:
    """`written`: each recipient by all the octets by which the mail server may know it. `refused`: those of whom it is
    told at the end of the message only (`put_off`). `unreadable`: what is wrong with one whom nobody can name, so that
    the message goes to nobody; likewise."""

    written: dict[Address, dict[bytes, None]] = field(default_factory=dict)
    refused: list[tuple[Recipient, Reject]] = field(default_factory=list)
    unreadable: str = ""
    _paths: int = 0

    @property
    def is_full(self) -> bool:
        """Whether there may be no more."""
        return self._paths >= _MOST

    def add(self, address: Address, path: bytes) -> None:
        """It is written in this way, too."""
        paths = self.written.setdefault(address, {})
        self._paths += path not in paths
        paths[path] = None
        if path.startswith(b"<@"):  # a source route, which nobody follows (RFC 5321 appendix C)
            paths[b"<" + path.partition(b":")[2]] = None


def is_by_hand(client: Client) -> bool:
    """Whether a mail is of Postfix's sendmail command, by what Postfix gives as its client. It tells us of rewritten
    recipients of such mail, and removes only whom it finds by what was written before; and it cannot refuse one."""
    return client.port == 0 and client.address is not None and client.address.is_loopback


def put_off(verdict: Verdict, client: Client) -> Reject | None:
    """The refusal of a recipient that waits for the end of the message; None where it can be told at once."""
    if isinstance(verdict, Reject | Defer | Disconnect) and put_off_reply(verdict.reply, client):
        return Reject(verdict.reply, verdict.reason)
    return None


def put_off_reply(reply: Reply | None, client: Client) -> bool:
    """Whether this answer to RCPT has to wait for the end of the message. Postfix keeps mail of its sendmail command
    for ever where one of its recipients is refused for good."""
    return reply is not None and reply.is_permanent and is_by_hand(client)
