"""Content made fit for every next hop before it is signed, so that what is signed arrives (RFC 6376 section 5.3)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from mailgate.mailauth.dkim.signature import HeaderFields
from mailgate.message import (
    AddHeader,
    Content,
    ContentWriter,
    Edit,
    RemoveHeader,
    ReplaceBody,
    apply_edits,
    body_edits,
    edited_body,
    materialised,
)
from mailgate.mime.recode import RecodeError, Recoding

__all__ = ["needs_care", "seven_bit"]

#: Octets of new content that are kept in memory at most.
_IN_MEMORY = 256 * 1024
_ENCODING = "Content-Transfer-Encoding"
#: Fields of those who have signed it already: their signatures would not hold any more.
_SIGNATURES = (b"dkim-signature", b"arc-message-signature")
_NOTE = "content converted to US-ASCII, to be signed"


def needs_care(asked: str, content: Content, edits: Sequence[Edit]) -> bool:
    """Whether the body after these edits has octets beyond US-ASCII, or may be binary; `asked` is BODY= of MAIL.

    Reads the body; OSError where a file cannot be read.
    """
    if asked == "BINARYMIME":
        return True
    try:
        return not all(chunk.isascii() for chunk in edited_body(content, edits))
    except ValueError:  # nobody knows where the body begins
        return False


def seven_bit(
    asked: str, content: Content, edits: Sequence[Edit], header: HeaderFields, directory: Path
) -> Sequence[Edit]:
    """The edits after which the message, with those before, has lines of US-ASCII. None where it has, where it has a
    signature already, or where something in it must not be converted, or cannot: header fields, what S/MIME or PGP
    have signed. `header` are its fields after the edits before.

    The edits own what they hold. New content that is large lies in `directory`. The time it takes goes by the parts of
    the message, too, of which a small one may have thousands: for another thread than the reactor's. OSError.
    """
    if any(header.named(name) for name in _SIGNATURES) or not needs_care(asked, content, edits):
        return []
    changes = body_edits(edits)
    whole = materialised(content, changes, ContentWriter(directory, _IN_MEMORY)) if changes else content
    try:
        edited = apply_edits(content.header, edits)
        plan = Recoding.of(whole, "7BIT", edited)
        plan.header(edited)
        if not plan.is_needed:
            return []
        body = _written(_body_of(plan), directory)
    except RecodeError:
        return []
    finally:
        if whole is not content:
            whole.discard()
    try:
        return [*_fields(plan.changes, header), ReplaceBody(body, len(changes), _NOTE)]
    except BaseException:
        body.discard()
        raise


def _written(chunks: Iterable[bytes], directory: Path) -> Content:
    writer = ContentWriter(directory, _IN_MEMORY)
    try:
        for chunk in chunks:
            writer.write(chunk)
        return writer.finish()
    except BaseException:
        writer.abandon()
        raise


def _body_of(plan: Recoding) -> Iterator[bytes]:
    """The converted body, without the empty line before it."""
    chunks = plan.body()
    yield next(chunks, b"").removeprefix(b"\r\n")
    yield from chunks


def _fields(changes: Mapping[str, str], header: HeaderFields) -> Iterator[Edit]:
    """Of fields that say what the content is those that are there stay; the encoding alone is another now."""
    for name, value in changes.items():
        is_there = bool(header.named(name.lower().encode()))
        if is_there and name == _ENCODING:
            yield RemoveHeader(name)
        if not is_there or name == _ENCODING:
            yield AddHeader(name, value, at_end=True)
