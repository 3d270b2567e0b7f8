"""What both sides can do, and what they agree on for a connection: the mail server offers, the milter chooses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mailgate.wire.milter.codec import SMALL, Options, PacketError
from mailgate.wire.milter.words import Actions, MacroStage, Steps

__all__ = ["NEWEST", "OLDEST", "Agreement", "agree", "choose", "offer"]

OLDEST, NEWEST = 2, 6

#: The bits that came with each version.
_STEPS_OF_2 = Steps(0xFF)
_STEPS_OF_3 = _STEPS_OF_2 | Steps.NO_UNKNOWN
_STEPS_OF_4 = _STEPS_OF_3 | Steps.NO_DATA
_QUIET = (
    Steps.QUIET_CONNECT
    | Steps.QUIET_HELO
    | Steps.QUIET_MAIL
    | Steps.QUIET_RCPT
    | Steps.QUIET_DATA
    | Steps.QUIET_UNKNOWN
    | Steps.QUIET_END_OF_HEADER
    | Steps.QUIET_BODY
    | Steps.QUIET_HEADERS
)
# Recipients that have been refused are never told of, so that is not offered.
_STEPS_OF_6 = _STEPS_OF_4 | Steps.SKIP | Steps.LEADING_SPACE | _QUIET
_ACTIONS_OF_2 = Actions(0x3F)
_ACTIONS_OF_6 = Actions(0x1FF)
_SIZES = {256 * 1024 - 1: Steps.DATA_256K, 1024 * 1024 - 1: Steps.DATA_1M}


@dataclass(frozen=True, slots=True)
class Agreement:
    """What holds for a connection. `max_data`: octets in a packet; `macros`: names that the milter chose, by stage."""

    version: int
    actions: Actions
    steps: Steps
    max_data: int = SMALL
    macros: Mapping[MacroStage, tuple[str, ...]] = field(default_factory=dict)

    @property
    def keeps_space(self) -> bool:
        """Whether the space behind the colon of a field belongs to its value."""
        return bool(self.steps & Steps.LEADING_SPACE)

    def leaves_out(self, step: Steps) -> bool:
        """Whether the step with this NO_ bit is not sent."""
        return bool(self.steps & step)

    def is_quiet(self, step: Steps) -> bool:
        """Whether the step with this QUIET_ bit has no answer."""
        return bool(self.steps & step)


def offer(version: int = NEWEST, max_data: int = SMALL) -> Options:
    """What we can do, in this version of the protocol; with larger packets where `max_data` is over SMALL."""
    if not OLDEST <= version <= NEWEST:
        raise ValueError(f"the milter protocol has the versions {OLDEST} to {NEWEST}")
    if version < NEWEST:
        steps = {2: _STEPS_OF_2, 3: _STEPS_OF_3}.get(version, _STEPS_OF_4)
        return Options(version, int(_ACTIONS_OF_2), int(steps))
    sizes = [bit for size, bit in _SIZES.items() if size <= max_data]
    return Options(version, int(_ACTIONS_OF_6), int(_STEPS_OF_6) | sum(sizes))


def agree(offered: Options, chosen: Options) -> Agreement:
    """What holds after the milter's choice; PacketError where it chose what we cannot do.

    A milter may ask for silence at a step without an offer of it (rspamd does): that is kept to, as whoever waited for
    an answer would wait for ever.
    """
    if not OLDEST <= chosen.version <= offered.version:
        raise PacketError(f"speaks version {chosen.version} of the protocol, we {OLDEST} to {offered.version}")
    more = chosen.actions & ~offered.actions
    if more:
        raise PacketError(f"wants to do what we have not offered: actions {more:#x}")
    # A milter that wants to hear of refused recipients hears of none.
    more = chosen.steps & ~(offered.steps | int(_QUIET | Steps.REFUSED_RECIPIENTS))
    if more:
        raise PacketError(f"wants what we have not offered: steps {more:#x}")
    size = max((size for size, bit in _SIZES.items() if chosen.steps & bit), default=SMALL)
    macros = {
        MacroStage(stage): tuple(dict.fromkeys(names.decode("ascii", "replace").replace(",", " ").split()))
        for stage, names in chosen.macros.items()
    }
    return Agreement(chosen.version, Actions(chosen.actions), Steps(chosen.steps), size, macros)


def choose(
    offered: Options, actions: Actions, steps: Steps, macros: Mapping[MacroStage, Sequence[str]]
) -> tuple[Options, Agreement]:
    """The milter's answer to an offer, and what holds then: of what it wants, what it may have. `macros` are names
    with their braces, for servers that let it choose them. PacketError: the server is older than anything we know."""
    if offered.version < OLDEST:
        raise PacketError(f"speaks version {offered.version} of the protocol, we {OLDEST} to {NEWEST}")
    version = min(offered.version, NEWEST)
    may_choose = version >= NEWEST and bool(offered.actions & Actions.CHOOSE_MACROS)
    taken = actions & offered.actions | (Actions.CHOOSE_MACROS if may_choose else Actions(0))
    kept = steps & offered.steps
    told = {int(stage): " ".join(names).encode() for stage, names in macros.items()} if may_choose else {}
    return Options(version, int(taken), int(kept), told), Agreement(version, taken, kept)
