"""What takes mail from clients, put together: into the spool, or by the next hop of a route while the client waits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from twisted.internet.interfaces import IReactorTime

from mailgate.interfaces import IEvents, IOriginals, ISpool
from mailgate.message import MemoryBudget
from mailgate.relay.editing import ContentEditor
from mailgate.relay.inline.delivery import InlineDelivery
from mailgate.relay.inline.ending import Ending
from mailgate.relay.inline.relay import InlineRelay
from mailgate.relay.intake import Intake

__all__ = ["Taking", "make_taking"]


class Taking(NamedTuple):
    """Both; what no next hop can be asked for ends in the intake."""

    intake: Intake
    inline: InlineDelivery


def make_taking(
    spool: ISpool,
    relay: InlineRelay,
    *,
    refusal: Callable[[int], str],
    incoming: Path,
    budget: MemoryBudget,
    originals: IOriginals,
    events: IEvents,
    clock: IReactorTime,
) -> Taking:
    """`refusal` as in Intake; content that is edited is made in `incoming`, or in memory within the `budget`."""
    editor = ContentEditor(incoming, clock, budget)
    intake = Intake(
        spool,
        refusal=refusal,
        deliver=relay.deliver,
        events=events,
        clock=clock,
        editor=editor,
        next_hop=relay.next_hop,
        originals=originals,
    )
    ending = Ending(intake, editor=editor, next_hop=relay.next_hop, record=relay.record, events=events, clock=clock)
    return Taking(intake, InlineDelivery(relay, ending, clock))
