"""What filters that are for some recipients only are shown of a transaction: those of its recipients."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from msgspec.structs import replace

from mailgate.address import Address
from mailgate.envelope import Recipient, Session, Transaction
from mailgate.message import Edit, Message
from mailgate.pipeline.ask import Scene
from mailgate.pipeline.member import Asked, named

__all__ = ["Look", "Looks", "scene_of"]


class Look(NamedTuple):
    """How a filter is asked. `among` are the recipients that its answer is about, None for all."""

    scene: Scene
    values: tuple[object, ...]
    among: frozenset[Address] | None = None


def scene_of(session: Session, transaction: Transaction, recipient: str = "") -> Scene:
    """The scene of a question about a transaction."""
    return Scene(transaction.trace, transaction.evidence, session.id, transaction.id, recipient)


class Looks:
    """The looks at one transaction, with its `message` where there is one."""

    def __init__(self, session: Session, transaction: Transaction, message: Message | None = None) -> None:
        self._session = session
        self._transaction = transaction
        self._more = () if message is None else (message,)
        #: At the transaction as it is.
        self.whole = Look(scene_of(session, transaction), (session, transaction, *self._more))

    def of(self, asked: Asked[Any], without: Collection[Address] = ()) -> Look | None:
        """For this filter, without these recipients; None where it is for nobody who is left."""
        scope = asked.member.scope
        if scope is None and not without:
            return self.whole
        recipients = self._transaction.recipients
        meant = [
            one for one in recipients if one.address not in without and (scope is None or scope.is_for(one.address))
        ]
        if len(meant) == len(recipients):
            return self.whole
        return self.at(asked, meant, self._transaction.edits) if meant else None

    def at(self, asked: Asked[Any], meant: Sequence[Recipient], edits: Sequence[Edit]) -> Look:
        """For this filter, as if these were all recipients, and these the edits of their message."""
        addresses = [one.address for one in meant]
        scene = scene_of(self._session, self._transaction, named(addresses))
        if asked.member.scope is not None:
            scene.is_for = asked.member.scope.is_for
        transaction = replace(self._transaction, recipients=list(meant), edits=list(edits), edits_for=())
        return Look(scene, (self._session, transaction, *self._more), frozenset(addresses))
