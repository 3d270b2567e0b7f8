"""Header fields in the name of a filter that is not there to say what is true."""

from __future__ import annotations

from twisted.logger import Logger

from mailgate.envelope import TraceStep
from mailgate.interfaces import IMarkingModifier
from mailgate.message import Message
from mailgate.pipeline.ask import Scene
from mailgate.pipeline.member import MODIFY, Asked, Edits
from mailgate.verdict import Verdict

__all__ = ["instead"]

_log = Logger()


def instead(asked: Asked[Edits | Verdict], scene: Scene, message: Message) -> Edits:
    """The edits in the place of those of a modifier that has failed, or was not asked: what it would have removed as
    forged in its name. None for other filters, and in shadow mode."""
    modifier = asked.member.filter
    if not asked.enforced or not IMarkingModifier.providedBy(modifier):
        return ()
    try:
        word, reason, edits = MODIFY.read(modifier.forged(message))
    except Exception:
        _log.failure("the filter {filter} cannot tell what is forged in its name", filter=asked.member.name)
        return ()
    if not isinstance(edits, tuple) or not edits:
        return ()
    scene.trace.append(TraceStep(MODIFY.stage, asked.member.name, word, reason, recipient=scene.recipient))
    return edits
