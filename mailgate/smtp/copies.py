"""What another gateway says of mail that it copies to a listener with `rehearse`: nothing is refused for its form.

The copy is nobody's mail, and a refusal would have the other gateway tell of it. What a session would refuse stands
beside what was said, as a `Faulty`, for whoever reports what this gateway would have done.
"""

from __future__ import annotations

from mailgate.address import Address
from mailgate.config.schema import ListenerSection
from mailgate.reply import Reply
from mailgate.wire.commands import Command

__all__ = ["Faulty", "as_said", "command_of", "greeting_of", "offered_to_copies"]

#: Characters that are kept of what stands in the place of an address, and of a greeting.
_LONGEST = 300
#: Verbs by which a copy is told of.
_VERBS = frozenset({"MAIL", "RCPT", "EHLO", "HELO", "LHLO"})


class Faulty(Address, frozen=True):
    """What was said in the place of an address, as it was said; `fault` is how a session refuses it."""

    fault: Reply

    def __bool__(self) -> bool:
        return True

    def __str__(self) -> str:
        return f"{self.local_part}@{self.domain}" if self.domain else self.local_part


def as_said(argument: str, fault: Reply) -> Faulty:
    """The argument of MAIL or RCPT that a session refuses."""
    _, _, path = argument.partition(":")
    inner = path.strip().partition("<")[2].rpartition(">")[0] or path.strip().strip("<>")
    local_part, at, domain = inner.rpartition("@")
    if not at:
        local_part, domain = inner, ""
    return Faulty(local_part[:_LONGEST], domain[:_LONGEST].lower(), fault)


def command_of(line: bytes) -> Command | None:
    """The command about a copy that a line is meant for which no command can have these octets; None for another."""
    # What cannot be shown, and what is no UTF-8, is seen to have been there.
    text = "".join(one if one.isprintable() else "\ufffd" for one in line.decode("utf-8", "replace").strip())
    verb, _, argument = text.partition(" ")
    return Command(verb.upper(), argument.strip()) if verb.upper() in _VERBS else None


def greeting_of(argument: str) -> str:
    """The name that the other gateway, or the client that it tells of, has given: any."""
    return argument[:_LONGEST] or "unknown"


def offered_to_copies(listener: ListenerSection) -> ListenerSection:
    """The listener, without what makes several answers of one: behind a chunk that was taken, and cannot be read,
    nothing can be said but that there is no message."""
    return listener.model_copy(update={"hide": [*listener.hide, "CHUNKING"]})
