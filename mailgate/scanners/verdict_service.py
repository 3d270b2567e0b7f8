"""A service of the site's own that judges mail: a JSON object goes to it by POST, and another comes back."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from mailgate.message import Content, HeaderField
from mailgate.scanners.conversation import Line, is_small
from mailgate.scanners.http_post import Post, Posted
from mailgate.scanners.pool import ScannerError
from mailgate.scanners.sending import Pieces

__all__ = ["NewField", "ServiceAnswer", "ask_service", "read_service_answer"]

#: Octets that are made into base64 at a time: a multiple of 3, so that the pieces fit together.
_PIECE = 192 * 1024


class _Read(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class NewField(_Read):
    """A header field to be added, on top; the value may be folded."""

    name: str = Field(min_length=1, max_length=100)
    value: str = Field(max_length=8000)


def _one_field(field: NewField) -> NewField:
    HeaderField.of(field.name, field.value)
    return field


def _fact(text: str) -> str:
    if not all(
        part and part.isascii() and part.replace("-", "").replace("_", "").isalnum() for part in text.split(".")
    ):
        raise ValueError('a fact is words of a-z, 0-9, - and _, with dots between: "campaign.summer"')
    return text.lower()


class ServiceAnswer(_Read):
    """What the service says. `verdict` is about `recipients`, or all where it names none; `text` is for the client,
    `reason` for the history; `points` for the filter score, and `facts` for its weights."""

    verdict: Literal["continue", "accept", "quarantine", "discard", "defer", "reject"]
    reason: str = Field(default="", max_length=1000)
    text: str = Field(default="", max_length=400)
    points: float = Field(default=0.0, ge=-1000, le=1000, allow_inf_nan=False)
    facts: list[Annotated[str, Field(max_length=100), AfterValidator(_fact)]] = Field(default=[], max_length=50)
    add_headers: list[Annotated[NewField, AfterValidator(_one_field)]] = Field(default=[], max_length=50)
    recipients: list[Annotated[str, Field(max_length=400)]] = Field(default=[], max_length=1000)


async def ask_service(
    line: Line,
    url: str,
    fields: Sequence[tuple[str, str]],
    facts: Mapping[str, object],
    content: Content | None,
) -> ServiceAnswer:
    """The answer of the service at `url`, to which the line leads: it is told the facts, and the content in base64 as
    `content` (null where it is None). ScannerError where there is no answer that can be believed, OSError where the
    content cannot be read.
    """
    start = json.dumps(dict(facts))[:-1] + (", " if facts else "") + '"content": '
    head, tail = (f'{start}"'.encode(), b'"}') if content is not None else (f"{start}null".encode(), b"}")
    length = len(head) + len(tail) + (4 * -(-content.size // 3) if content is not None else 0)
    told = [("Content-Type", "application/json"), ("Accept", "application/json"), *fields]
    is_at_once = content is None or is_small(content)
    asked = Post(url, told, lambda: _pieces(head, content, tail), length, is_small=is_at_once)
    return read_service_answer(await line.ask(asked))


def read_service_answer(answer: Posted) -> ServiceAnswer:
    """The answer; ScannerError where it is none: the first mistake is named."""
    if answer.status != 200:
        raise ScannerError(f"the service answers {answer.status}")
    try:
        return ServiceAnswer.model_validate_json(answer.body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"][:4])
        raise ScannerError(f"the answer of the service is wrong: {where}: {first['msg']}"[:300]) from None


def _pieces(head: bytes, content: Content | None, tail: bytes) -> Pieces:
    yield head
    if content is not None:
        for chunk in content.chunks(_PIECE):
            yield b64encode(chunk)
    yield tail
