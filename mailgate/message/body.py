"""The edits of the body, carried out: the octets that no edit is about stay as they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter

from mailgate.message.content import Content, ContentWriter
from mailgate.message.edits import MAX_LINE, BodyEdit, Edit, ReplaceBody, Splice, check_lines

__all__ = ["MAX_SPLICES", "body_at", "body_edits", "check_body_edits", "edited_body", "materialised"]

#: Splices of one message, of all filters together.
MAX_SPLICES = 1000

_IN_ORDER = attrgetter("start", "end")
_CRLF = b"\r\n"
#: Octets before and behind a splice that are looked at: a line that is too long shows within them.
_BESIDE = MAX_LINE + 2


def body_edits(edits: Iterable[Edit]) -> list[BodyEdit]:
    """Those that are about the body, in their order."""
    return [edit for edit in edits if isinstance(edit, Splice | ReplaceBody)]


def body_at(content: Content) -> int:
    """The offset of the body, behind the empty line; the size of the content where it has none.

    ValueError where the header section is longer than is looked at: nobody knows then where the body begins.
    """
    end = len(content.header)
    if end == content.size:
        return end
    if content.part(end, end + 2) != _CRLF:
        raise ValueError("the header section is too large to tell where the body begins")
    return end + 2


def check_body_edits(content: Content, before: Sequence[Edit], edits: Sequence[Edit]) -> None:
    """ValueError where these edits of the body fit neither the content nor those `before` them.

    Reads at most a few lines beside each splice. OSError where the content cannot be read.
    """
    new = body_edits(edits)
    if not new:
        return
    start = body_at(content)
    known = body_edits(before)
    for edit in new:
        if isinstance(edit, ReplaceBody):
            if edit.follows != len(known):
                raise ValueError(f"a new body that follows {edit.follows} edits, where there are {len(known)}")
        elif known and isinstance(known[-1], ReplaceBody):
            raise ValueError("a splice into a body that has been replaced")
        elif edit.start < start or edit.end > content.size:
            raise ValueError(f"octets {edit.start} to {edit.end} are not all of the body, {start} to {content.size}")
        known.append(edit)
    if not isinstance(known[-1], ReplaceBody):
        _check_splices(content, [edit for edit in known if isinstance(edit, Splice)])


def edited_body(content: Content, edits: Iterable[Edit]) -> Iterator[bytes]:
    """The octets of the body after these edits, which fit it: those of the content as received that stay, and the
    new ones. ValueError as `body_at`; OSError where a file cannot be read."""
    return _chunks(content, body_edits(edits), body_at(content))


def materialised(content: Content, edits: Sequence[Edit], writer: ContentWriter) -> Content:
    """The content after those of these edits that are about the body, which fit it; the header as it was received.

    Neither the content nor that of a ReplaceBody is discarded. Where this fails (OSError, ValueError), the writer is
    abandoned.
    """
    try:
        start = body_at(content)
        writer.write(content.part(0, start))
        if start == content.size and len(content.header) == start:
            # There was no body, nor the line before it.
            writer.write(_CRLF if not start or content.header.endswith(_CRLF) else 2 * _CRLF)
        for chunk in _chunks(content, body_edits(edits), start):
            writer.write(chunk)
        made = writer.finish()
    except BaseException:
        writer.abandon()
        raise
    made.is_whole_lines = content.is_whole_lines  # new octets are
    return made


def _chunks(content: Content, edits: Sequence[BodyEdit], start: int) -> Iterator[bytes]:
    if edits and isinstance(edits[-1], ReplaceBody):
        return edits[-1].content.chunks()
    return _spliced(content, sorted((edit for edit in edits if isinstance(edit, Splice)), key=_IN_ORDER), start)


def _spliced(content: Content, splices: Sequence[Splice], at: int) -> Iterator[bytes]:
    """From `at` on; the splices are in order and do not overlap."""
    waiting = iter(splices)
    splice = next(waiting, None)
    position = 0  # of the chunk; `at` is where what has been told of ends
    for chunk in content.chunks():
        end = position + len(chunk)
        while splice is not None and splice.start < end:
            if splice.start > at:
                yield chunk[max(at - position, 0) : splice.start - position]
            yield splice.data
            at = max(at, splice.end)
            splice = next(waiting, None)
        if at < end:
            yield chunk[at - position :] if at > position else chunk
            at = end
        position = end
    while splice is not None:
        yield splice.data
        splice = next(waiting, None)


def _check_splices(content: Content, splices: list[Splice]) -> None:
    if len(splices) > MAX_SPLICES:
        raise ValueError(f"more than {MAX_SPLICES} splices")
    splices.sort(key=_IN_ORDER)
    group: list[Splice] = []  # those that touch each other: what they put in stands together
    for splice in splices:
        if group and splice.start < group[-1].end:
            raise ValueError(f"octets {splice.start} to {splice.end} have been replaced already")
        if group and splice.start > group[-1].end:
            _check_joints(content, group)
            group = []
        group.append(splice)
    _check_joints(content, group)


def _check_joints(content: Content, group: Sequence[Splice]) -> None:
    """What stands beside a splice and its data must make lines together."""
    start, end = group[0].start, group[-1].end
    data = b"".join([splice.data for splice in group])
    check_lines((data,))
    before = content.part(max(start - _BESIDE, 0), start)
    behind = content.part(end, end + _BESIDE)
    if (before.endswith(b"\r") and content.part(start, start + 1) == b"\n") or (
        content.part(max(end - 1, 0), end) == b"\r" and behind.startswith(b"\n")
    ):
        raise ValueError(f"octets {start} to {end} cut a CRLF in two")
    left = len(before) - (before.rfind(b"\n") + 1)
    found = behind.find(_CRLF)
    right = len(behind) if found < 0 else found
    first, crlf, rest = data.partition(_CRLF)
    if crlf:
        last = rest[rest.rfind(b"\n") + 1 :]
        # What stood in one line already and is only cut may be as long as it was.
        is_long = (first and left + len(first) > MAX_LINE) or (last and right + len(last) > MAX_LINE)
    else:
        grows = len(data) > end - start or _CRLF in content.part(start, min(end, start + _BESIDE))
        is_long = grows and left + len(data) + right > MAX_LINE
    if is_long:
        raise ValueError(f"a line of more than {MAX_LINE} octets would come into being at {start}")
