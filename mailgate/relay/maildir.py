"""Transport `maildir`: final delivery into folders of this machine, with a sync before the answer.

Lines end with LF in the folder, as mail readers and servers of Maildirs expect; otherwise the message keeps its octets.
A Return-Path (RFC 5321 section 4.4) and a Delivered-To field are put on top; a Return-Path that came along is removed.
"""

from __future__ import annotations

import errno
import itertools
import os
import string
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads, IReactorTime
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool
from zope.interface import implementer

from mailgate.address import Address
from mailgate.envelope import Envelope, EnvelopeRecipient
from mailgate.interfaces import OutcomeKind
from mailgate.message import AddHeader, Content, RemoveHeader, rendered
from mailgate.relay.attempt import ITransport, Result
from mailgate.reply import Reply

__all__ = ["IMaildirReactor", "MaildirTransport"]

_BAD_NAME = Reply.of(553, "5.1.3", "No mailbox can have this name")
_DISK_FULL = Reply.of(452, "4.3.1", "The disk is full")
_OVER_QUOTA = Reply.of(452, "4.2.2", "The mailbox is full")
_FAILED = Reply.of(451, "4.3.0", "The mailbox cannot be written now")

#: The longest name in a folder, in octets.
_MAX_NAME = 255


class IMaildirReactor(IReactorTime, IReactorFromThreads):
    """What this transport needs of the reactor."""


@implementer(ITransport)
class MaildirTransport:
    """Writes each recipient's copy into the Maildir that `template` names; what does not exist is made, mode 0700.

    `{domain}` and `{local_part}` stand for the recipient's, in lower case. The local part is taken as a whole, with
    what a site may call an extension (`+tag`). An address whose parts cannot be the names of folders fails with 553.

    All writing is done by the threads of `pool`, one at a time for one message.
    """

    def __init__(self, template: str, *, hostname: str, reactor: IMaildirReactor, pool: ThreadPool) -> None:
        self._template = template
        self._parts = {part for _, part, _, _ in string.Formatter().parse(template)}
        self._hostname = hostname.replace("/", "\\057").replace(":", "\\072")
        self._reactor = reactor
        self._pool = pool
        self._numbers = itertools.count()

    def deliver(
        self, envelope: Envelope, recipients: Sequence[EnvelopeRecipient], content: Content
    ) -> Deferred[Sequence[Result]]:
        """As in ITransport. Cancelling does not stop the writing: what is cancelled may have been delivered."""
        now = self._reactor.seconds()
        return deferToThreadPool(
            self._reactor,
            self._pool,
            lambda: [self._deliver(now, envelope, recipient, content) for recipient in recipients],
        )

    def _deliver(self, now: float, envelope: Envelope, recipient: EnvelopeRecipient, content: Content) -> Result:
        folder = self._folder(recipient.address)
        if folder is None:
            return Result(recipient, OutcomeKind.FAILED, _BAD_NAME)
        # Seconds, microseconds, process and number: no other delivery to this folder has this name.
        name = f"{int(now)}.M{int(now % 1 * 1e6)}P{os.getpid()}Q{next(self._numbers)}.{self._hostname}"
        try:
            edits = (
                *envelope.edits,
                AddHeader("Delivered-To", str(recipient.address)),
                RemoveHeader("Return-Path"),
                AddHeader("Return-Path", f"<{envelope.sender}>"),
            )
            _store(folder, name, _unix_lines(rendered(content, edits)))
        except OSError as error:
            return Result(recipient, OutcomeKind.DEFERRED, _reply_to(error), reason=str(error))
        except ValueError as error:
            return Result(recipient, OutcomeKind.DEFERRED, _FAILED, reason=str(error))
        return Result(recipient, OutcomeKind.DELIVERED, Reply.of(250, "2.0.0", f"Stored as {name}"))

    def _folder(self, address: Address) -> Path | None:
        names = {"domain": address.domain.lower(), "local_part": address.local_part.lower()}
        if not all(_is_name(name) for part, name in names.items() if part in self._parts):
            return None
        return Path(self._template.format(**names))


def _is_name(text: str) -> bool:
    fits = text.isprintable() and 0 < len(text.encode()) <= _MAX_NAME
    return fits and not text.startswith(".") and "/" not in text


def _store(folder: Path, name: str, chunks: Iterable[bytes]) -> None:
    """By the rules of Maildir: written to tmp/, synced, moved to new/; the move is synced too."""
    draft, final = folder / "tmp" / name, folder / "new" / name
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        descriptor = os.open(draft, flags, 0o600)
    except FileNotFoundError:
        for part in ("cur", "new", "tmp"):
            _make(folder / part)
        descriptor = os.open(draft, flags, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(final)
    except BaseException:
        with suppress(OSError):
            draft.unlink()
        raise
    _sync(final.parent)


def _make(folder: Path) -> None:
    """Make a folder and those above it; each is durable in the one above."""
    if folder.is_dir():
        return
    _make(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    _sync(folder.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unix_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    held = b""  # a CR whose LF may be in the next chunk
    for chunk in chunks:
        data = held + chunk
        held = b"\r" if data.endswith(b"\r") else b""
        yield data[: len(data) - len(held)].replace(b"\r\n", b"\n")
    yield held


def _reply_to(error: OSError) -> Reply:
    if error.errno == errno.EDQUOT:
        return _OVER_QUOTA
    return _DISK_FULL if error.errno == errno.ENOSPC else _FAILED
