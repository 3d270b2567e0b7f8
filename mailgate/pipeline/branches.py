"""The edits of a message where its recipients have different ones: a branch for each that comes to be."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TypeGuard

from msgspec import Struct

from mailgate.address import Address
from mailgate.envelope import Recipient, Transaction
from mailgate.message import Content, Edit, For, check_body_edits, release
from mailgate.pipeline.member import Edits
from mailgate.pipeline.scope import Scope

__all__ = ["MAX_BRANCHES", "Branch", "branched", "check_edits", "edits_for", "is_for_all", "joined", "let_go_of_others"]

#: Messages that one may become: as many as the recipients that every message may have (RFC 5321 section 4.5.3.1.8).
MAX_BRANCHES = 100


class Branch(Struct, frozen=True):
    """Recipients whose edits are the same, and those edits that not every recipient has."""

    recipients: list[Recipient]
    edits: list[Edit]

    def after(self, edits: Edits, meant: Sequence[Recipient]) -> list[Branch]:
        """What becomes of it where some of its recipients, those `meant`, get further edits."""
        if not edits:
            return [self]
        concerned = {one.address for one in meant}
        groups = _grouped(self.recipients, edits, concerned)
        return [Branch(recipients, [*self.edits, *own]) for own, recipients in groups.items()]


def is_for_all(scope: Scope, transaction: Transaction) -> bool:
    """Whether a filter is for every recipient of this transaction."""
    return all(scope.is_for(one.address) for one in transaction.recipients)


def branched(transaction: Transaction, edits: Edits) -> list[Branch] | None:
    """Put the edits of a filter that was asked about all into the transaction: the branches where they are not for all,
    else None."""
    if _are_plain(edits):
        transaction.edits.extend(edits)
        return None
    branches = Branch(transaction.recipients, []).after(edits, transaction.recipients)
    let_go_of_others(edits, branches)
    transaction.edits_for = edits_for(branches)
    return joined(transaction, branches)


def joined(transaction: Transaction, branches: list[Branch]) -> list[Branch] | None:
    """The branches; None where it is but one: its edits are for all then."""
    if len(branches) > 1:
        return branches
    transaction.edits.extend(branches[0].edits)
    transaction.edits_for = ()
    return None


def edits_for(branches: Iterable[Branch]) -> tuple[For, ...]:
    """The edits of the branches, as a transaction has them."""
    return tuple(
        For(tuple(one.address for one in branch.recipients), tuple(branch.edits)) for branch in branches if branch.edits
    )


def let_go_of_others(answers: Iterable[Edit | For], branches: Iterable[Branch]) -> None:
    """What these answers hold for nobody of the branches is free again."""
    kept = {id(edit) for branch in branches for edit in branch.edits}
    found = (edit for one in answers for edit in (one.edits if isinstance(one, For) else (one,)))
    release([edit for edit in found if id(edit) not in kept])


def check_edits(
    content: Content, recipients: Sequence[Recipient], before: Sequence[Edit], branches: int, edits: Edits
) -> None:
    """ValueError where these edits fit neither the content nor those `before` them, or where with them there would be
    more than MAX_BRANCHES messages; there are `branches` now."""
    if _are_plain(edits):
        check_body_edits(content, before, edits)
        return
    groups = _grouped(recipients, edits)
    if branches - 1 + len(groups) > MAX_BRANCHES:
        raise ValueError(f"its edits would make more than {MAX_BRANCHES} messages of one")
    for group in groups:
        check_body_edits(content, before, group)


def _are_plain(edits: Edits) -> TypeGuard[tuple[Edit, ...]]:
    return For not in map(type, edits)


def _grouped(
    recipients: Iterable[Recipient], edits: Edits, concerned: Collection[Address] | None = None
) -> dict[tuple[Edit, ...], list[Recipient]]:
    """The recipients by the edits that are for them, none for those who are not `concerned`; in a time that grows with
    their number, however many are named."""
    places: dict[Address, list[int]] = {}
    for place, one in enumerate(edits):
        if isinstance(one, For):
            for address in dict.fromkeys(one.recipients):
                places.setdefault(address, []).append(place)
    groups: dict[tuple[Edit, ...], list[Recipient]] = {}
    found: dict[tuple[int, ...] | None, list[Recipient]] = {}  # the same groups, by the places of their edits
    for recipient in recipients:
        is_concerned = concerned is None or recipient.address in concerned
        own = tuple(places.get(recipient.address, ())) if is_concerned else None
        group = found.get(own)
        if group is None:
            group = found[own] = groups.setdefault(() if own is None else _at(own, edits), [])
        group.append(recipient)
    return groups


def _at(places: Collection[int], edits: Edits) -> tuple[Edit, ...]:
    """Those edits that are for all, and those at these places, in their order."""
    found: list[Edit] = []
    for place, one in enumerate(edits):
        if not isinstance(one, For):
            found.append(one)
        elif place in places:
            found += one.edits
    return tuple(found)
