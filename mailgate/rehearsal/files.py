"""Mail in files: single messages, folders of them, Maildirs, and files in the format mbox. Nothing of it is changed."""

from __future__ import annotations

import mailbox
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from mailgate.address import Address
from mailgate.message import MAX_HEADER, Content
from mailgate.rehearsal.facts import Facts, facts_of, first_fields
from mailgate.rehearsal.recorded import MOST_OCTETS, Place, Recorded, UnreadableError
from mailgate.rehearsal.tags import Tag, outcome_of

__all__ = ["FileReader", "Skipped"]

#: Folders within folders are looked into so far.
_DEPTH = 20
#: Endings of names that are messages in any folder, and of files that hold several.
_MESSAGES, _BOXES = (".eml", ".msg.txt"), (".mbox", ".mbx")

_LINE_END = re.compile(rb"\r?\n")

Skipped = Callable[[str, str], object]
"""Is told the name of what is left out, and why."""


class FileReader:
    """Finds and reads. `is_inside` and `is_local` as for `facts_of`; `to` are the recipients of what names none; `tags`
    tell what was taken for spam; `skipped` is told of what cannot be looked at."""

    def __init__(
        self,
        is_inside: Callable[[IPv4Address | IPv6Address], bool],
        is_local: Callable[[str], bool],
        to: tuple[Address, ...],
        tags: Sequence[Tag],
        skipped: Skipped,
    ) -> None:
        self._is_inside = is_inside
        self._is_local = is_local
        self._to = to
        self._tags = tags
        self._skipped = skipped

    def places(self, path: Path) -> Iterator[Place]:
        """What there is at a path: a message, a mailbox, a folder. In a folder it takes files that end in .eml or
        .mbox, and what lies in the parts `cur` and `new` of a Maildir."""
        try:
            if path.is_dir():
                yield from self._in_folder(path, _DEPTH)
            elif _begins_as_box(path):
                yield from self._in_box(path)
            else:
                yield self._message(path)
        except OSError as error:
            self._skipped(str(path), error.strerror or str(error))

    def _in_folder(self, folder: Path, depth: int) -> Iterator[Place]:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda one: one.name)
        is_mail = folder.name in ("cur", "new")
        for entry in entries:
            path = Path(entry.path)
            try:
                if entry.is_dir(follow_symlinks=False):
                    if entry.name == "tmp":
                        continue
                    if depth == 0:
                        self._skipped(entry.path, "folders within folders, too many")
                    else:
                        yield from self._in_folder(path, depth - 1)
                elif not entry.is_file():
                    continue
                elif entry.name.lower().endswith(_BOXES):
                    yield from self._in_box(path)
                elif is_mail or entry.name.lower().endswith(_MESSAGES):
                    yield self._message(path)
            except OSError as error:
                self._skipped(entry.path, error.strerror or str(error))

    def _message(self, path: Path) -> Place:
        with path.open("rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError(0, "is no file")
            came = os.fstat(file.fileno()).st_mtime
            start = file.read(MAX_HEADER)
        return Place(str(path), self._facts(start).received or came, partial(self._read, path, came))

    def _read(self, path: Path, came: float) -> Recorded:
        if path.stat().st_size > MOST_OCTETS:
            raise UnreadableError(f"larger than {MOST_OCTETS} octets")
        return self._recorded(path.read_bytes(), came)

    def _in_box(self, path: Path) -> Iterator[Place]:
        box = mailbox.mbox(path, create=False)
        try:
            for number, key in enumerate(box.iterkeys(), 1):
                with box.get_file(key) as file:
                    facts = self._facts(file.read(MAX_HEADER))
                name = f"{path}, number {number}"
                yield Place(name, facts.received or path.stat().st_mtime, partial(self._read_from_box, box, key))
        except (mailbox.Error, ValueError) as error:
            self._skipped(str(path), str(error))

    def _read_from_box(self, box: mailbox.mbox, key: str) -> Recorded:
        with box.get_file(key, from_=True) as file:
            data = file.read(MOST_OCTETS + 1)
        if len(data) > MOST_OCTETS:
            raise UnreadableError(f"larger than {MOST_OCTETS} octets")
        line, _, data = data.partition(b"\n")
        words = line.split(b" ", 2)
        sender = words[1].decode("utf-8", "replace") if len(words) > 1 and b"@" in words[1] else None
        return self._recorded(data, 0.0, sender)

    def _recorded(self, data: bytes, came: float, sender: str | None = None) -> Recorded:
        data = _wired(data)
        facts = self._facts(data[:MAX_HEADER], sender)
        recipients = facts.recipients or self._to
        if not recipients:
            raise UnreadableError("it does not tell to whom it went: --to says so")
        outcome = outcome_of(first_fields(Content(data).header), self._tags)
        return Recorded(
            address=facts.address,
            name=facts.name,
            helo=facts.helo,
            identity=facts.login,
            sender=facts.sender,
            recipients=recipients,
            listener="",
            received=facts.received or came,
            content=Content(data[facts.begin :]),
            then=(outcome,) * len(recipients),
            assumed=facts.assumed,
        )

    def _facts(self, start: bytes, sender: str | None = None) -> Facts:
        return facts_of(Content(_wired(start)).header, self._is_inside, self._is_local, sender)


def _wired(data: bytes) -> bytes:
    """Files have the line ends of their system; what begins with those of the wire is taken as it would come there."""
    is_wired = data.partition(b"\n")[0].endswith(b"\r")
    return data if is_wired else _LINE_END.sub(b"\r\n", data)


def _begins_as_box(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(5) == b"From "
