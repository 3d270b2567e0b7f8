"""What the supervisor and a worker say to each other, in Twisted's AMP over a socket pair.

What is said often (slots, budgets, counters, numbers) goes as items in one `Items` for each turn of the reactor: lists
in JSON, whose first element is one of the words below. The octets of a value are the characters of a text.

=========== ================================ =============================================================
word        behind it                        meaning
=========== ================================ =============================================================
acquire     ticket, key, limit               a worker wants a slot
withdraw    ticket, key                      it does not want it any more
release     key                              it gives one back
spend       ticket, key, rate, amount        it takes of a budget
hit         ticket, key, window, amount      it counts
peek        ticket, key, window              it asks for a count
take        ticket, key, rate, burst, amount it takes out of a bucket
get         ticket, key                      it asks for a value
put-new     ticket, key, value, ttl          it keeps a value, unless there is one, which it asks for
put         key, value, ttl                  it keeps a value
forget      key                              it removes one
add         key, amount                      it adds to a number
granted     ticket, key                      to the worker: the slot is yours
wanted      key                              to the worker: somebody else waits for a slot that you hold
answer      ticket, value                    to the worker: what it asked for
failed      ticket, text                     to the worker: why there is no answer
others      key, number                      to the worker: what the others have added to a number, together
=========== ================================ =============================================================
"""

from __future__ import annotations

from typing import Any, ClassVar, cast

from twisted.protocols import amp

__all__ = ["Ask", "AskOthers", "Begin", "Drain", "Ended", "Item", "Items", "Ping", "Prepare", "Settle"]

Item = list[Any]
"""A word, and what stands behind it."""

#: Octets of one value of AMP.
_PIECE = 0xFFFF


_Names = list[tuple[bytes, amp.Argument]]


class _Long(amp.Argument):
    """Octets of any length, in as many values as that takes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Twisted's

    def fromBox(self, name: bytes, strings: dict[bytes, bytes], objects: dict[str, Any], proto: amp.AMP) -> None:  # noqa: N802
        pieces: list[bytes] = []
        while (piece := strings.pop(b"%s.%d" % (name, len(pieces)), None)) is not None:
            pieces.append(piece)
        objects[name.decode()] = b"".join(pieces)

    def toBox(self, name: bytes, strings: dict[bytes, bytes], objects: dict[str, Any], proto: amp.AMP) -> None:  # noqa: N802
        octets = cast(bytes, objects.pop(name.decode()))
        for number, start in enumerate(range(0, len(octets), _PIECE)):
            strings[b"%s.%d" % (name, number)] = octets[start : start + _PIECE]


class Begin(amp.Command):
    """To a worker: be a gateway. `started` is the file of configuration at the start of all, `running` at the last
    reload. The answer, when it serves: "", or the lines that say why it cannot."""

    arguments: ClassVar[_Names] = [(b"started", _Long()), (b"running", _Long())]
    response: ClassVar[_Names] = [(b"error", _Long())]


class Items(amp.Command):
    """Items, either way: a list in JSON."""

    arguments: ClassVar[_Names] = [(b"items", _Long())]
    requiresAnswer = False  # noqa: N815  Twisted's name


class Ping(amp.Command):
    """To a worker: answer."""

    arguments: ClassVar[_Names] = []
    response: ClassVar[_Names] = []


class Prepare(amp.Command):
    """To a worker: read this configuration. The answer: every error of it, a line each."""

    arguments: ClassVar[_Names] = [(b"source", _Long())]
    response: ClassVar[_Names] = [(b"errors", _Long())]


class Settle(amp.Command):
    """To a worker: go by what `Prepare` brought, or, where anybody found `errors`, forget it."""

    arguments: ClassVar[_Names] = [(b"errors", _Long())]
    response: ClassVar[_Names] = []


class Drain(amp.Command):
    """To a worker: end. The answer, when it does not accept any more: how many seconds it may take."""

    arguments: ClassVar[_Names] = []
    response: ClassVar[_Names] = [(b"seconds", amp.Float())]


class Ended(amp.Command):
    """To a worker: tell that another one has ended."""

    arguments: ClassVar[_Names] = [(b"worker", amp.Integer()), (b"status", amp.Unicode())]


class Ask(amp.Command):
    """To a worker: a question to its relay or its spool, with an argument and an answer in JSON. `error` is what its
    spool says where it fails."""

    arguments: ClassVar[_Names] = [(b"question", amp.Unicode()), (b"argument", _Long())]
    response: ClassVar[_Names] = [(b"answer", _Long()), (b"error", amp.Unicode())]


class AskOthers(amp.Command):
    """From a worker: `Ask` all others, and tell me their answers: a list in JSON, and `error`: which of them have not
    answered, and why."""

    arguments: ClassVar[_Names] = [(b"question", amp.Unicode()), (b"argument", _Long())]
    response: ClassVar[_Names] = [(b"answers", _Long()), (b"error", amp.Unicode())]
