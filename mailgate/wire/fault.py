"""What a peer said that is wrong."""

from __future__ import annotations

from mailgate.reply import Reply

__all__ = ["CommandError"]


class CommandError(Exception):
    """The peer's mistake, with the reply that tells it."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(str(reply))
        self.reply = reply
