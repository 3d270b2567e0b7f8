"""Asking content filters again about mail that has waited."""

from __future__ import annotations

from collections.abc import Awaitable, Collection, Container, Sequence
from typing import Literal

from msgspec import Struct
from zope.interface import Attribute, Interface

from mailgate.envelope import Session, Transaction
from mailgate.message import Message

__all__ = ["Again", "IRescan"]


class Again(Struct, frozen=True):
    """What the content filters say of one recipient's mail now.

    "pass": nobody objects; "objects": the filter named would keep it back or refuse it, for this reason; "unknown": the
    filter named could not tell, because it failed, was late, or asks for patience.
    """

    word: Literal["pass", "objects", "unknown"]
    filter: str = ""
    reason: str = ""


class IRescan(Interface):
    """The content filters of one pipeline, to be asked again. Nothing is counted, changed or promised."""

    names: Collection[str] = Attribute("the filters that have a say, by their names in the configuration")

    def ask(
        session: Session,
        transaction: Transaction,
        message: Message,
        facts: Sequence[str] | None,
        of: Container[str] | None = None,
    ) -> Awaitable[Sequence[Again]]:
        """What they say, for each recipient of the transaction in order. Nothing raises but a cancellation.

        `facts` are those that were found when the message came; with None they are not known, and filters that weigh
        what others have found are not asked. With `of`, only what these filters say counts, and an objection of
        another one does not end it.
        """
