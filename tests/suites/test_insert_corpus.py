"""Messages as they come, many of them broken: a text goes in, or they stay as they are; nothing else changes."""

from __future__ import annotations

import os
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

from mailgate.message import (
    Content,
    ContentWriter,
    apply_edits,
    behind_header,
    body_at,
    check_body_edits,
    materialised,
)
from mailgate.mime.insert import Insertion, NotInsertedError, insert

_CORPUS = Path(os.environ["MAILGATE_SUITES"]) / "corpus"
#: Files whose boundaries are made so that readers do not agree on the parts.
_AMBIGUOUS = "malformed"


@pytest.mark.parametrize("is_top", [False, True])
def test_the_corpus_stays_as_it_was_but_for_the_text(is_top: bool) -> None:
    insertion = Insertion("Grüße, Müller", "<p>Grüße, Müller</p>", is_top)
    count = 0
    for path in sorted(one for one in _CORPUS.rglob("*") if one.is_file()):
        data = path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        content = Content(data)
        try:
            inserted = insert(data, content.header, body_at(content), insertion)
        except NotInsertedError:
            continue
        try:
            check_body_edits(content, [], inserted.splices)
        except ValueError as error:
            raise AssertionError(path) from error
        new = materialised(content, inserted.splices, ContentWriter(Path(), 1 << 26))
        changed = apply_edits(new.header, inserted.header) + b"".join(behind_header(new))
        if _AMBIGUOUS not in path.parts:
            before, after = message_from_bytes(data), message_from_bytes(changed)
            assert _types(after) == _types(before), path
            differ = _changed(before, after)
            assert differ, path
            assert differ <= {"text/plain", "text/html", *_unread(before)}, path
        count += 1
    assert count > 500


def _types(message: Message) -> list[str]:
    return [part.get_content_type() for part in message.walk()]


def _changed(before: Message, after: Message) -> set[str]:
    """The types of the parts whose body is another one."""
    return {
        part.get_content_type()
        for part, other in zip(before.walk(), after.walk(), strict=True)
        if not part.is_multipart() and part.get_payload() != other.get_payload()
    }


def _unread(message: Message) -> set[str]:
    """Multiparts in which this reader finds no part, as it takes a folded boundary for another one."""
    return {part.get_content_type() for part in message.walk() if "\r\n" in (part.get_boundary() or "")}
