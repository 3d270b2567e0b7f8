"""Attachments by what they are, whatever they are called: files that run, archives, macros, passwords."""

from __future__ import annotations

import base64
import os
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from twisted.internet.interfaces import IReactorFromThreads
from zope.interface import implementer

from mailgate.backends.threads import Threads
from mailgate.config.units import ConfigPath, Size
from mailgate.config.values import Flag
from mailgate.content.models import Limits
from mailgate.envelope import Session, Transaction
from mailgate.filters.attachment_rules import EXTENSIONS, Action, AttachmentResult, Blocked, Place, judge
from mailgate.filters.examining import Examining, ExaminingSection, stated
from mailgate.interfaces import FilterServices, IContentFilter, IMarkingModifier
from mailgate.message import AddHeader, Edit, HeaderField, Message, RemoveHeader, Splice, body_at
from mailgate.verdict import Continue, Verdict

__all__ = ["AttachmentResult", "Attachments", "Options", "build"]

#: Parts of one message that are stripped.
_MOST_STRIPPED = 100
_FIELDS = ("Content-Type", "Content-Transfer-Encoding", "Content-Disposition")


class Options(ExaminingSection):
    """`[filters.attachments]`: what is not wanted in a message, and what is done about it.

    A file is judged by its name (its last extension, in every way in which programs may read the name), by the type
    that it is declared to have, and by what its octets are; so are the files in zip, 7z, rar, tar, gz, bz2, xz, zstd,
    cab, iso, lha archives, in messages of Outlook (.msg, winmail.dat), in PDF, Office and RTF documents, those that
    stand in a text (uuencode, BinHex, yEnc), and those in all of these in one another. Where several things are found,
    the strongest action counts.

    The actions: reject (550 5.7.1), quarantine, strip (the part is replaced by a note), tag (a header field says so),
    continue (only the facts `attachments.blocked`, `attachments.macro`... are left, for score).
    """

    extensions: list[str] = Field(default=list(EXTENSIONS))
    """extensions that are blocked; a list of your own takes the place of this one"""
    types: list[str] = Field(default=["executable", "shortcut", "disk-image", "installer", "help", "notebook"])
    """types that are blocked: executable, script, shortcut, disk-image, installer, help, notebook, java, flash, or a
    MIME type ("application/x-msdownload", "video/*")"""
    names: list[str] = Field(default=[])
    """names that are blocked, with * and ?: "*invoice*.html" """
    in_archives: Flag = True
    """whether the files in archives, documents and other files are judged too"""
    blocked: Action = "reject"
    """what is done about files of these extensions, types and names"""
    macros: Action = "quarantine"
    """about documents with macros, of Office (also Excel 4) and OpenDocument"""
    encrypted: Action = "quarantine"
    """about archives with a password, into which nobody can look"""
    encrypted_documents: Action = "tag"
    """about PDF and Office documents with a password"""
    broken: Action = "quarantine"
    """about archives and messages of Outlook that cannot be opened, though others may be able to"""
    opaque: Action = "tag"
    """about what else may hold files and cannot be looked into: damaged PDF and Office documents, objects in RTF that
    are disguised, folders of Outlook (.pst), compressed S/MIME, and messages of which only a part is here
    (message/partial)"""
    sealed: Action = "continue"
    """about mail that is encrypted with S/MIME or PGP, into which only its recipients can look"""
    embedded: Action = "continue"
    """about documents with objects in them, scripts of PDF, and templates that are fetched"""
    mismatch: Action = "tag"
    """about files whose octets do not go with their extension: a .jpg that is no image"""
    beyond_limits: Action = "quarantine"
    """about messages that go beyond one of the limits below, so that something of them was not looked at"""
    max_files: Annotated[int, Field(strict=True, ge=10, le=100_000)] = 1000
    """how many parts and files in archives are looked at"""
    max_depth: Annotated[int, Field(strict=True, ge=1, le=20)] = 4
    """how many archives deep"""
    max_unpacked: Size = 128 * 1024 * 1024
    """octets to which all archives of a message may unpack"""
    max_ratio: Annotated[int, Field(strict=True, ge=10)] = 250
    """how many times its own size an archive may unpack to; the first MiB does not count"""
    header: str = "X-Mailgate-Attachments"
    """the header field of the action tag; those that a message brings along are removed"""
    note: str = "The attachment {name} was removed by the mail gateway: {kind}."
    """what stands in the place of a part that was stripped, with {name}, {kind} and {id} (of the message)"""
    originals: ConfigPath | None = None
    """a folder in which messages from which something is stripped are kept as they came, as ID.eml; mailgate never
    removes them. Not given: they are not kept"""
    text: str = "An attachment of this message is not accepted here"
    """what is replied to messages that are rejected; the name of the file follows"""


def build(options: Options, services: FilterServices) -> object:
    """The filter. ValueError where a type is none, or the header field or the note cannot be written."""
    return Attachments(options, services)


@implementer(IContentFilter, IMarkingModifier)
class Attachments:
    """Looks once; what it then changes follows from its evidence."""

    def __init__(self, options: Options, services: FilterServices) -> None:
        self._options = options
        self._examining = Examining(options, services, "attachments")
        self._blocked = Blocked(options.extensions, options.types, options.names)
        self._limits = Limits(
            parts=options.max_files, depth=options.max_depth, octets=options.max_unpacked, ratio=options.max_ratio
        )
        self._actions: dict[str, Action] = {
            "blocked": options.blocked,
            "macro": options.macros,
            "encrypted": options.encrypted,
            "encrypted-document": options.encrypted_documents,
            "broken": options.broken,
            "opaque": options.opaque,
            "sealed": options.sealed,
            "embedded": options.embedded,
            "mismatch": options.mismatch,
            "limits": options.beyond_limits,
        }
        HeaderField.of(options.header, "blocked")
        _note(options.note, "name", "kind", "id")
        self._keeper = _Keeper(options.originals, services) if options.originals else None

    async def on_message(self, session: Session, transaction: Transaction, message: Message) -> Verdict | None:
        """Reject or quarantine, or leave it to `modify` to strip and tag."""
        found = await self._examining.ask(message, self._limits, archives=True)
        if found.failure is not None:
            return self._examining.unread(found.failure)
        results = judge(found, self._blocked, self._actions, in_archives=self._options.in_archives, owner=self)
        if not results:
            return None
        evidence = tuple(results)
        places = {one.place for one in results if one.action == "strip"}
        is_kept_back = None in places or len(places) > _MOST_STRIPPED  # what cannot be stripped
        for word in _VERDICTS:
            hits = [
                one
                for one in results
                if one.action == word or (word == "quarantine" and one.action == "strip" and is_kept_back)
            ]
            if hits:
                text = f"{self._options.text}: {hits[0].name[-80:]}" if hits[0].name else self._options.text
                reason = "; ".join(one.summary() for one in hits[:5])
                return stated(word, text, reason, evidence)
        return Continue(evidence=evidence)

    def modify(
        self, session: Session, transaction: Transaction, message: Message
    ) -> Sequence[Edit] | Awaitable[Sequence[Edit]]:
        """Strip and tag."""
        results = [one for one in transaction.evidence.all(AttachmentResult) if one.owner is self]
        edits = [*self.forged(message)]
        tags = sorted({one.kind for one in results if one.action == "tag"})
        if tags:
            edits.append(AddHeader(self._options.header, ", ".join(tags)))
        stripped = [one for one in results if one.action == "strip" and one.place is not None]
        if not stripped:
            return edits
        edits += self._strip(stripped, transaction, message)
        return self._kept(edits, transaction, message) if self._keeper else edits

    def forged(self, message: Message) -> Sequence[Edit]:
        """The field of the action tag."""
        return [RemoveHeader(self._options.header)] if message.values(self._options.header) else []

    async def _kept(self, edits: list[Edit], transaction: Transaction, message: Message) -> Sequence[Edit]:
        if self._keeper is not None:
            await self._keeper.keep(transaction.id, message)
        return edits

    def _strip(self, results: Sequence[AttachmentResult], transaction: Transaction, message: Message) -> list[Edit]:
        by_place: dict[Place, list[AttachmentResult]] = {}
        for one in results:
            if one.place is not None:
                by_place.setdefault(one.place, []).append(one)
        edits: list[Edit] = []
        end = 0
        for place, found in sorted(by_place.items(), key=lambda one: (one[0].start, -one[0].end)):
            if place.end <= end:
                continue  # it goes with the part in which it lies
            end = place.end
            text = "\r\n".join(_note(self._options.note, one.name, one.kind, transaction.id) for one in found[:10])
            body = base64.encodebytes(text.encode()).replace(b"\n", b"\r\n").rstrip(b"\r\n")
            if place.is_message:
                edits += _fields(message)
                edits.append(Splice(body_at(message.content), place.end, body + b"\r\n", "stripped"))
            elif place.is_between:
                edits.append(Splice(place.start, place.end, b"", "stripped"))
            else:
                # A part without a body has no line break before the delimiter, nor has one without a delimiter.
                is_ended = message.content.part(place.end, place.end + 2) == b"\r\n"
                data = _HEADER + body if is_ended else _HEADER + body + b"\r\n"
                edits.append(Splice(place.start, place.end, data, "stripped"))
        return edits


#: The actions that are a verdict, the strongest first.
_VERDICTS: tuple[Literal["reject", "quarantine"], ...] = ("reject", "quarantine")

_HEADER = (
    b"Content-Type: text/plain; charset=utf-8\r\n"
    b"Content-Transfer-Encoding: base64\r\n"
    b"Content-Disposition: inline\r\n\r\n"
)


def _fields(message: Message) -> list[Edit]:
    """The header of a message that is nothing but the note."""
    edits: list[Edit] = [RemoveHeader(name) for name in _FIELDS if message.values(name)]
    if not message.values("MIME-Version"):
        edits.append(AddHeader("MIME-Version", "1.0", at_end=True))
    edits.append(AddHeader("Content-Type", "text/plain; charset=utf-8", at_end=True))
    edits.append(AddHeader("Content-Transfer-Encoding", "base64", at_end=True))
    return edits


def _note(text: str, name: str, kind: str, message_id: str) -> str:
    try:
        return text.format(name=name or "without a name", kind=kind, id=message_id)
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise ValueError(f"note may have {{name}}, {{kind}} and {{id}} in it, and {error} is none of them") from None


class _Keeper:
    """Writes messages into a folder, in a thread where there are any."""

    def __init__(self, folder: Path, services: FilterServices) -> None:
        self._folder = folder
        reactor = IReactorFromThreads(services.clock, None)
        self._threads = Threads(reactor, 1, "originals") if reactor is not None else None

    async def keep(self, name: str, message: Message) -> None:
        """Durably; OSError, which is the filter's failure: what cannot be kept is not stripped."""
        if self._threads is None:
            self._write(name, message)
        else:
            await self._threads.run(lambda: self._write(name, message))

    def _write(self, name: str, message: Message) -> None:
        path = self._folder / f"{name}.eml"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            for chunk in message.content.chunks():
                file.write(chunk)
            file.flush()
            os.fsync(descriptor)
