"""rspamd: POST /checkv2, as rspamd's protocol has it: facts of the envelope in fields, a JSON object as the answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec

from mailgate.message import Content
from mailgate.scanners.conversation import Line, is_small
from mailgate.scanners.http_post import Post, Posted
from mailgate.scanners.pool import ScannerError

__all__ = ["Added", "Judged", "Removed", "Symbol", "ask_rspamd", "read_answer"]

_URL = "http://rspamd/checkv2"
#: Symbols, and fields of a header, that are looked at.
MOST_SYMBOLS, MOST_FIELDS = 500, 100
_UNPRINTABLE = re.compile(r"[^ -~]+")
#: Characters of a value of ours in a field of the request.
_LONGEST = 1000


@dataclass(frozen=True, slots=True)
class Symbol:
    """A rule that hit, and what it counted."""

    name: str
    score: float


@dataclass(frozen=True, slots=True)
class Added:
    """A header field that rspamd wants added; its value may have line ends."""

    name: str
    value: str
    at_end: bool = False


@dataclass(frozen=True, slots=True)
class Removed:
    """Fields that rspamd wants removed: all of the name for 0, else the one of this number from the top (1 is the
    first), from the end for a negative one."""

    name: str
    number: int


@dataclass(frozen=True, slots=True)
class Judged:
    """What rspamd says: `action` as in "add header", `score` of `required`, the symbols by what they count, the
    heaviest first. `text` is what the client should be told, `subject` the new one; both "" where not given."""

    action: str
    score: float
    required: float
    symbols: tuple[Symbol, ...] = ()
    text: str = ""
    subject: str = ""
    added: tuple[Added, ...] = ()
    removed: tuple[Removed, ...] = ()


class _Symbol(msgspec.Struct, frozen=True):
    score: float = 0.0


class _Value(msgspec.Struct, frozen=True):
    value: str
    order: int = 0


class _Milter(msgspec.Struct, frozen=True):
    add_headers: dict[str, str | _Value | list[str | _Value]] = {}
    remove_headers: dict[str, int | list[int]] = {}


class _Answer(msgspec.Struct, frozen=True):
    action: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    score: float
    required_score: float = 0.0
    symbols: dict[str, _Symbol] = {}
    messages: dict[str, object] = {}
    subject: str = ""
    milter: _Milter = _Milter()
    dkim_signature: str | list[str] = msgspec.field(default_factory=list, name="dkim-signature")


_READER = msgspec.json.Decoder(_Answer)


async def ask_rspamd(
    line: Line,
    content: Content,
    fields: Sequence[tuple[str, str]],
) -> Judged:
    """What rspamd says of this content; `fields` tell it what it should know. ScannerError where it says nothing that
    can be believed, OSError where the content cannot be read."""
    told = [(name, _UNPRINTABLE.sub("?", value)[:_LONGEST]) for name, value in fields]
    asked = Post(_URL, told, content.chunks, content.size, is_small=is_small(content))
    return read_answer(await line.ask(asked))


def read_answer(answer: Posted) -> Judged:
    """The result; ScannerError where it is none of rspamd's."""
    if answer.status != 200:
        raise ScannerError(f"rspamd answers {answer.status}: {_short(answer.body)}")
    try:
        found = _READER.decode(answer.body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ScannerError(f"no answer of rspamd's: {str(error)[:200]!a}") from None
    symbols = [Symbol(name, one.score) for name, one in found.symbols.items()]
    symbols.sort(key=lambda one: (-abs(one.score), one.name))
    text = found.messages.get("smtp_message", "")
    return Judged(
        action=found.action,
        score=found.score,
        required=found.required_score,
        symbols=tuple(symbols[:MOST_SYMBOLS]),
        text=text if isinstance(text, str) else "",
        subject=found.subject,
        added=tuple(_added(found))[:MOST_FIELDS],
        removed=tuple(_removed(found.milter))[:MOST_FIELDS],
    )


def _added(answer: _Answer) -> list[Added]:
    """The fields of its modules, behind the signatures that it makes for mail of our own."""
    signatures = answer.dkim_signature
    found = [Added("DKIM-Signature", one) for one in ([signatures] if isinstance(signatures, str) else signatures)]
    for name, values in answer.milter.add_headers.items():
        for one in values if isinstance(values, list) else [values]:
            told = _Value(value=one) if isinstance(one, str) else one
            found.append(Added(name, told.value, told.order < 0))
    return found


def _removed(milter: _Milter) -> list[Removed]:
    found = []
    for name, numbers in milter.remove_headers.items():
        found += [Removed(name, one) for one in (numbers if isinstance(numbers, list) else [numbers])]
    return found


def _short(octets: bytes) -> str:
    return ascii(octets[:200].decode("utf-8", "replace"))
