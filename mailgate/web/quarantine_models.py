"""What is asked and answered about mail in quarantine: JSON with these shapes, and nothing else."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from mailgate.address import Address, AddressError
from mailgate.web.models import Seen, Shown
from mailgate.web.selection import LONGEST_NAME, Model, Selection, Text

__all__ = [
    "DeleteOrder",
    "Deleted",
    "KeptEntry",
    "KeptPage",
    "KeptShown",
    "Objection",
    "Passed",
    "ReleaseOrder",
    "Released",
    "RescanOrder",
    "Rescanned",
    "Step",
]


def _mailbox(text: str) -> str:
    try:
        Address.parse(text)
    except AddressError as error:
        raise ValueError(f"is no address: {error}") from None
    return text


class KeptEntry(Model):
    """One recipient of one message in quarantine. Times are seconds since the epoch."""

    queue_id: str
    number: int
    sender: str
    recipient: str
    subject: str = ""
    """decoded, like `from_`; "" where there is none, or the content cannot be read"""
    from_: str = ""
    size: int
    reason: str
    """why it is kept back"""
    filter: str = ""
    """the filter that decided so, by its name in the configuration; "" where that is not known"""
    received: float
    since: float
    """when it came into quarantine"""
    expires: float
    """when it is deleted"""
    has_original: bool = False
    """whether its content was changed, and lies as it came with the originals"""
    facts: tuple[str, ...] = ()


class KeptPage(Model):
    """Entries by queue id and number; `after` asks for those behind them, and is "" where there are none."""

    entries: tuple[KeptEntry, ...]
    after: str = ""


class Step(Seen):
    """A step of the trace; the fields are those of TraceStep."""

    stage: str
    filter: str
    verdict: str
    reason: str
    seconds: float
    enforced: bool
    recipient: str
    found: str


class KeptShown(Model):
    """One message in quarantine, with what its filters found."""

    message: Shown
    """the envelope, the edits, the header section and the beginning of the text, as it would be sent on"""
    entries: tuple[KeptEntry, ...]
    """the recipients that it is kept back from"""
    steps: tuple[Step, ...]
    facts: tuple[str, ...]
    has_original: bool


class _Order(Selection):
    """Something that is to be done with mail in quarantine: as for a Change, no condition never means everything."""

    by: Text = Field(default="", max_length=LONGEST_NAME)
    """who wants it, for the history; an administrator where it is empty"""

    @model_validator(mode="after")
    def _only_quarantine(self) -> Self:
        if self.state not in ("", "quarantined"):
            raise ValueError(f"what is {self.state} is not in quarantine")
        return self


class ReleaseOrder(_Order):
    """Mail that is to be sent on."""

    scan: bool = False
    """ask the content filters again first: what they still object to, or cannot tell of, stays"""
    original: bool = False
    """send what came, without what filters have changed of the content"""
    to: Annotated[Text, AfterValidator(_mailbox)] | None = None
    """send a copy of each message to this address instead; it stays in quarantine"""

    @model_validator(mode="after")
    def _means_something(self) -> Self:
        if self.scan and self.to is not None:
            raise ValueError("a copy to another address is sent without asking the filters again")
        return self


class DeleteOrder(_Order):
    """Mail that is to be removed without a word to anybody."""


class RescanOrder(_Order):
    """Mail about which the content filters are to be asked again. Of what is in quarantine it is told only."""

    of: tuple[Text, ...] = ()
    """only what these filters say counts, by their names, and an objection of others does not end it; all of them if
    empty"""
    queue: bool = False
    """ask about what waits in the queue instead, and put into quarantine what they object to now. What somebody has
    released is not asked about"""


class Objection(Model):
    """Why a recipient's mail stays in quarantine, or went there."""

    queue_id: str
    recipient: str
    word: Literal["objects", "unknown"]
    """unknown: the filter has failed, was late, or asks for patience"""
    filter: str
    reason: str


class Passed(Model):
    """A recipient's mail that no content filter objects to."""

    queue_id: str
    recipient: str


class Released(Model):
    """What a release came to, in recipients: those chosen and those released. Of long lists 10000 entries are told."""

    matched: int
    released: int
    copies: tuple[str, ...] = ()
    """the queue ids of what was sent as messages of their own: originals and copies"""
    still_objected: tuple[Objection, ...] = ()


class Deleted(Model):
    """What a deletion came to, in recipients."""

    matched: int
    deleted: int


class Rescanned(Model):
    """What the content filters say now, in recipients: those chosen, those that pass, and the others. Of long lists the
    first 10000 are told."""

    matched: int
    passed: tuple[Passed, ...] = ()
    objections: tuple[Objection, ...] = ()
    quarantined: int = 0
    """of the queue: how many were put into quarantine"""
