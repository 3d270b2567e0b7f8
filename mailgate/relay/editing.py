"""What filters have changed about the content and the envelope, made so before the message is accepted."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads, IReactorThreads, IReactorTime
from twisted.internet.threads import deferToThreadPool

from mailgate.address import Address
from mailgate.envelope import EIGHT_BIT_MAIL, PLAIN_MAIL, EnvelopeRecipient, MailParameters, new_id
from mailgate.message import (
    AddRecipient,
    ChangeReturnPath,
    ChangeSender,
    Content,
    ContentWriter,
    Edit,
    MemoryBudget,
    RemoveRecipient,
    ReplaceBody,
    Splice,
    body_edits,
    materialised,
)

__all__ = ["ContentEditor", "EnvelopeChanges", "NextHop", "with_new_octets"]

NextHop = Callable[[Address, Address], str | None]
"""The route for a recipient and a sender; None where the configuration has none."""

#: Octets of new content that are kept in memory at most.
_IN_MEMORY = 256 * 1024
#: Where a file can have no second name: on such a disk, or so many times.
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)


class ContentEditor:
    """Makes the new content: small content here and now, in memory while the budget lasts; other content in a file, in
    a thread of the reactor, where it has any."""

    def __init__(self, directory: Path, clock: IReactorTime, budget: MemoryBudget | None = None) -> None:
        """`directory` is where content comes to lie, `clock` the reactor, `budget` that of all content."""
        self._directory = directory
        self._budget = MemoryBudget(_IN_MEMORY) if budget is None else budget
        self._threads = IReactorThreads(clock, None)
        self._reactor = IReactorFromThreads(clock, None)

    def edit(self, content: Content, edits: Sequence[Edit]) -> Content | Deferred[Content]:
        """The content after those of the edits that are about the body; nothing is discarded.

        OSError where the disk does not take it, or does not give what there was; ValueError where the edits do not fit.
        """
        changes = body_edits(edits)
        sources = [content, *(edit.content for edit in changes if isinstance(edit, ReplaceBody))]
        is_small = all(source.in_memory and source.size <= _IN_MEMORY for source in sources)
        if is_small or self._threads is None or self._reactor is None:
            return materialised(content, changes, ContentWriter(self._directory, _IN_MEMORY, self._budget))
        # The budget is the reactor thread's, so this goes to the disk at once; it is large, mostly.
        writer = ContentWriter(self._directory, 0)
        return deferToThreadPool(self._reactor, self._threads.getThreadPool(), materialised, content, changes, writer)

    def copy(self, content: Content) -> Content | Deferred[Content]:
        """The same octets once more, to be discarded on their own. OSError as `edit`."""
        if content.path is None:
            return _like(content, Content(content.read()))
        name = self._directory / f"incoming-{new_id()}"
        try:
            os.link(content.path, name)  # no octet of a file is ever changed: both names may mean one
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
        else:
            return _like(content, Content(None, name, content.size))
        writer = ContentWriter(self._directory, 0)
        if self._threads is None or self._reactor is None:
            return _copied(content, writer)
        return deferToThreadPool(self._reactor, self._threads.getThreadPool(), _copied, content, writer)


def _copied(content: Content, writer: ContentWriter) -> Content:
    try:
        for chunk in content.chunks():
            writer.write(chunk)
        return _like(content, writer.finish())
    except BaseException:
        writer.abandon()
        raise


def _like(content: Content, made: Content) -> Content:
    made.is_whole_lines = content.is_whole_lines
    return made


class EnvelopeChanges:
    """What edits make of the envelope of a message. ValueError where a recipient that is added has no route."""

    def __init__(self, edits: Iterable[Edit], sender: Address, next_hop: NextHop) -> None:
        self.sender = sender
        self._return_path: Address | None = None
        self._return_paths: dict[Address, Address] = {}
        wanted: dict[Address, bool] = {}  # whether it is to be a recipient: of several edits the last counts
        for edit in edits:
            match edit:
                case ChangeSender(address):
                    self.sender = address
                case ChangeReturnPath(address, ()):
                    self._return_path = address
                case ChangeReturnPath(address, recipients):
                    self._return_paths |= dict.fromkeys(recipients, address)
                case AddRecipient(address):
                    wanted[address] = True
                case RemoveRecipient(address):
                    wanted[address] = False
        self._removed = {address for address, is_wanted in wanted.items() if not is_wanted}
        self._added: dict[Address, str] = {}
        for address in [address for address, is_wanted in wanted.items() if is_wanted]:
            route = next_hop(address, self.sender)
            if route is None:
                raise ValueError(f"a filter adds {address}, and no [domains] or [routing] entry is for that")
            self._added[address] = route

    def return_path(self, address: Address) -> Address | None:
        """The reverse-path of mail to this recipient; None for the sender."""
        return self._return_paths.get(address, self._return_path)

    def removes(self, address: Address) -> bool:
        """Whether this recipient, and whom it stands for, gets the message no more."""
        return address in self._removed

    def added(self, there: Iterable[Address], number: int) -> list[EnvelopeRecipient]:
        """The recipients that are not `there` and come in, numbered from `number` on."""
        known = set(there)
        new = [(address, route) for address, route in self._added.items() if address not in known]
        return [EnvelopeRecipient(number + place, *one) for place, one in enumerate(new)]


def with_new_octets(parameters: MailParameters, edits: Iterable[Edit]) -> MailParameters:
    """The parameters, with BODY=8BITMIME where an edit brings octets that are no US-ASCII."""
    if parameters.body != "7BIT" or all(
        edit.data.isascii() if isinstance(edit, Splice) else edit.is_ascii for edit in body_edits(edits)
    ):
        return parameters
    return EIGHT_BIT_MAIL if parameters is PLAIN_MAIL else replace(parameters, body="8BITMIME")
