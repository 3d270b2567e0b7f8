"""What becomes of a message: from the verdicts about its recipients to what a mail server can do with it.

A mail server has one message for all its recipients, one reply and one quarantine. What does not fit into that goes on
by us, where there is a route for it: to our own quarantine, to its recipients, or into a report to the sender.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mailgate.address import Address
from mailgate.envelope import Transaction
from mailgate.message import AddHeader, ChangeReturnPath, Edit, RemoveRecipient
from mailgate.reply import Reply
from mailgate.verdict import Defer, Discard, Disconnect, Quarantine, Reject, Verdict

__all__ = ["Decision", "Terms", "decide"]

_CANNOT = Reply.of(451, "4.3.0", "Local error, try again later")


@dataclass(frozen=True, slots=True)
class Terms:
    """`keeps`: what is in quarantine goes into ours. `has_route`: mail may leave by us. `may_report`: the sender may
    get a report of what is refused for some. `can_part`: the mail server can be told to drop single recipients."""

    keeps: bool = False
    has_route: bool = False
    may_report: bool = False
    can_part: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Recipients are named by their places in the transaction.

    `reply`, with its private `reason`: refused as a whole, and nothing else holds. `theirs` the mail server keeps, with
    `edits` made, in its quarantine where `hold` says why. `ours` go on by us, each with a verdict for the intake.
    `discarded` get nothing.
    """

    reply: Reply | None = None
    reason: str = ""
    theirs: tuple[int, ...] = ()
    edits: tuple[Edit, ...] = ()
    hold: str = ""
    ours: dict[int, Verdict] = field(default_factory=dict)
    discarded: dict[int, str] = field(default_factory=dict)


def decide(transaction: Transaction, verdicts: Sequence[Verdict], terms: Terms) -> Decision:
    """The decision about a message of which something is taken for somebody: where all verdicts refuse, or one
    defers, there is nothing to decide."""
    theirs: list[int] = []
    kept: dict[int, str] = {}
    ours: dict[int, Verdict] = {}
    discarded: dict[int, str] = {}
    for place, verdict in enumerate(verdicts):
        match verdict:
            case Discard():
                discarded[place] = verdict.reason
            case Quarantine():
                kept[place] = verdict.reason
            case Reject() | Defer() | Disconnect():
                if terms.has_route and terms.may_report:
                    ours[place] = verdict
                else:
                    kept[place] = f"refused: {verdict.reply} ({verdict.reason})"
            case _:
                theirs.append(place)
    hold = ""
    if kept and (terms.keeps or (terms.has_route and (theirs or ours))):
        ours |= {place: Quarantine(reason) for place, reason in kept.items()}
    elif kept:
        hold = "; ".join(dict.fromkeys(kept.values()))
        theirs = sorted([*theirs, *kept])
    groups = _groups(transaction, theirs)
    largest = max(groups, key=lambda edits: len(groups[edits]), default=())
    others = [place for edits, places in groups.items() if edits != largest for place in places]
    if others and not terms.has_route:
        return Decision(reply=_CANNOT, reason="filters have changed it for some recipients only, and there is no route")
    theirs = groups.get(largest, [])
    removes = any(isinstance(edit, RemoveRecipient) for edit in (*transaction.edits, *largest))
    if not terms.can_part and theirs and (ours or others or discarded or removes):
        if terms.has_route:
            others, theirs = [*others, *theirs], []
        else:
            hold = hold or "some of its recipients are to get nothing, and the mail server may not find them"
    for place in others:
        ours[place] = Quarantine(hold) if hold else verdicts[place]
    return Decision(
        theirs=tuple(theirs),
        edits=tuple(edit for edit in (*transaction.edits, *largest) if not _is_received(edit)),
        hold=hold,
        ours=dict(sorted(ours.items())),
        discarded=discarded,
    )


def _groups(transaction: Transaction, places: Sequence[int]) -> dict[tuple[Edit, ...], list[int]]:
    """The recipients whose edits are the same, by those that are theirs beyond the transaction's."""
    own: dict[Address, list[Edit]] = {}
    for one in transaction.edits_for:
        for address in one.recipients:
            own.setdefault(address, []).extend(one.edits)
    named = _named_paths(transaction.edits)
    found: dict[tuple[Edit, ...], list[int]] = {}
    for place in places:
        address = transaction.recipients[place].address
        edits = [*([ChangeReturnPath(named[address])] if address in named else []), *own.get(address, ())]
        found.setdefault(tuple(edits), []).append(place)
    return found


def _named_paths(edits: Sequence[Edit]) -> dict[Address, Address]:
    """The reverse-paths that are for some recipients only."""
    found: dict[Address, Address] = {}
    for edit in edits:
        if isinstance(edit, ChangeReturnPath):
            found |= dict.fromkeys(edit.recipients, edit.address)
    return found


def _is_received(edit: Edit) -> bool:
    """Whether it is our own trace field: the message does not pass us, and the mail server writes its own."""
    return isinstance(edit, AddHeader) and edit.name.lower() == "received"
