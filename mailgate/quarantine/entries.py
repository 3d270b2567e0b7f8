"""Walking through what waits, message by message."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Protocol

from mailgate.envelope import Kept
from mailgate.interfaces import EntryView, ISpool, Selector

__all__ = ["ASKED_AGAIN", "MESSAGE", "chunks_of", "decided_by", "messages_of", "objectors", "only"]

#: More recipients than one message can have.
MESSAGE = 1_000_000
#: Entries of one look.
_LOOK = 50
#: How the reason begins of what filters that were asked again have put into quarantine; behind it, the filter's name.
ASKED_AGAIN = "asked again, "
#: How the reason begins of what is kept back because it was refused for some of its recipients; behind the reply
#: stands the filter's reason in brackets.
_REFUSED = "refused: "
#: Texts of the trace from this length on may have been cut.
_LONG = 1000
#: What a filter says that objects to a message, could not look at it, or has said more than the trace tells.
_OBJECTING = frozenset({"reject", "defer", "disconnect", "quarantine", "discard", "failure", "abandoned", "several"})
_FILTER = re.compile(rf"{ASKED_AGAIN}([^:\s]{{1,100}}): ")


class IStep(Protocol):
    """As much of TraceStep as tells who objects."""

    @property
    def filter(self) -> str: ...
    @property
    def verdict(self) -> str: ...
    @property
    def enforced(self) -> bool: ...
    @property
    def recipient(self) -> str: ...


async def messages_of(spool: ISpool, selector: Selector) -> AsyncIterator[Sequence[EntryView]]:
    """The chosen entries of each message, by queue id. Some are looked at in one go; what a look finds is what there
    was then."""
    async for messages in chunks_of(spool, selector, _LOOK):
        for message in messages:
            yield message


async def chunks_of(spool: ISpool, selector: Selector, size: int) -> AsyncIterator[Sequence[Sequence[EntryView]]]:
    """As messages_of, the messages of one look at `size` entries together."""
    after: tuple[str, int] | None = None
    while views := await spool.view(selector, size, after):
        messages: list[Sequence[EntryView]] = [list(group) for _, group in groupby(views, lambda one: one.queue_id)]
        last = views[-1].queue_id
        if len(views) == size:
            # The look may have cut this message's recipients short.
            messages[-1] = await spool.view(replace(selector, queue_id=last), MESSAGE)
        yield [message for message in messages if message]
        after = (last, MESSAGE)


def only(view: EntryView, state: str) -> Selector:
    """This entry, as long as it is in that state."""
    return Selector(queue_id=view.queue_id, recipient=view.recipient, state=state)


def decided_by(kept: Kept | None, reason: str) -> str:
    """The name of the filter that gave this reason for a quarantine; "" where that is not known."""
    steps = [one for one in (kept.steps if kept is not None else ()) if one.enforced and one.verdict != "continue"]
    # The steps of the trace are kept with the beginnings of their texts.
    exact = next((one.filter for one in steps if one.reason and _same(one.reason, reason)), "")
    # What stands in for a filter that has failed is told with its name in front.
    failed = (one.filter for one in steps if one.verdict == "failure" and reason.startswith(f"{one.filter}: "))
    again = _FILTER.match(reason)
    return exact or next(failed, "") or (again[1] if again else "")


def objectors(steps: Iterable[IStep], recipient: str) -> frozenset[str]:
    """The names of the filters that have objected to this recipient's mail, or may have."""
    return frozenset(
        one.filter
        for one in steps
        if one.enforced and one.verdict in _OBJECTING and _is_about(one.recipient, recipient)
    )


def _is_about(told: str, recipient: str) -> bool:
    """Whether a step that names these is about the recipient. Of many the trace names the first ones."""
    return not told or told.endswith(" more") or recipient.lower() in told.lower()


def _same(kept: str, reason: str) -> bool:
    """Whether a step's reason is that of a quarantine, be it one in place of a refusal."""
    if reason.startswith(_REFUSED) and (f" ({kept})" in reason or (len(kept) >= _LONG and f" ({kept}" in reason)):
        return True
    return kept == reason or (len(kept) >= _LONG and reason.startswith(kept))
