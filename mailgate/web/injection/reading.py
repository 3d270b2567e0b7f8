"""A request's octets as a call: checked from end to end before anything of it is done. For a thread: it may be long.

The recipients of a call are kept as the octets that they are, and read one at a time: 100,000 of them take no more
memory than those.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from http import HTTPStatus
from itertools import islice
from typing import Protocol

from msgspec import Raw, Struct
from msgspec.structs import replace
from pydantic import TypeAdapter, ValidationError

from mailgate.address import Address
from mailgate.config.injection import InjectionSection
from mailgate.web.injection.composing import Composer, Draft
from mailgate.web.injection.models import MOST_TAGS, Key, Moment, Order, Personal, Word, parse_person
from mailgate.web.injection.parts import check_counts, check_small, parts_of
from mailgate.web.injection.problems import MOST_TOLD, CallError, Fault, faults_of
from mailgate.web.injection.raw import raw_draft
from mailgate.web.injection.templating import HeavyError

__all__ = ["Asked", "Call", "IMessages", "Reading", "read_call", "read_light", "read_small", "read_whole"]

#: A call for more messages needs a key: it takes long, and may be broken off.
_MOST_WITHOUT_KEY = 1000
_JSON, _RAW = "application/json", "message/rfc822"
#: Characters that one step of a template may put together where others wait for it: some milliseconds.
_ROOM = 64 * 1024
#: What may stand behind the ? of a call with a raw message.
_QUERY = ("from", "to", "send_at", "tag", "stream", "idempotency_key")
_KEY: TypeAdapter[str] = TypeAdapter(Key)
_WORD: TypeAdapter[str] = TypeAdapter(Word)
_MOMENT: TypeAdapter[datetime] = TypeAdapter(Moment)


class Asked(Struct, frozen=True):
    """What a request says: its type, what stands behind the ? of its target, and the fields that matter here, in lower
    case."""

    content: bytes
    kind: str
    query: Mapping[str, Sequence[str]]
    fields: Mapping[str, Sequence[str]]


class IMessages(Protocol):
    """The messages of a call."""

    def drafts(self, start: int, stop: int) -> Sequence[Draft | tuple[int, CallError]]:
        """Those from one number up to another; the number and the reason where there can be none."""

    def close(self) -> None:
        """No more are asked for."""


class Call(Struct, frozen=True):
    """What is to be done. `digest` tells it from other calls, and `count` is its messages; `is_list`: one for each of
    `recipients`. `first` is what the first message has come to."""

    messages: IMessages
    count: int
    digest: str
    key: str | None
    stream: str
    tags: tuple[str, ...]
    is_list: bool
    first: Sequence[Draft | tuple[int, CallError]] = ()


class Reading(Protocol):
    """A way to read calls, for a thread."""

    def __call__(self, asked: Asked, section: InjectionSection, hostname: str, now: float, /) -> Call:
        """The call, with its first message. CallError with everything that is wrong."""


def read_small(asked: Asked, section: InjectionSection, hostname: str, now: float) -> Call:
    """A Reading of calls of a few KiB, for any thread. HeavyError where there is a template or a file at all."""
    call = read_call(asked, section, hostname, now, room=-1)
    return replace(call, first=call.messages.drafts(0, 1))


def read_light(asked: Asked, section: InjectionSection, hostname: str, now: float) -> Call:
    """A Reading of small calls. HeavyError where templates may take long: then nothing has been done."""
    call = read_call(asked, section, hostname, now, room=_ROOM)
    return replace(call, first=call.messages.drafts(0, 1))


def read_whole(asked: Asked, section: InjectionSection, hostname: str, now: float) -> Call:
    """A Reading of any call, in this process."""
    call = read_call(asked, section, hostname, now)
    return replace(call, first=call.messages.drafts(0, 1))


def read_call(asked: Asked, section: InjectionSection, hostname: str, now: float, *, room: int | None = None) -> Call:
    """The call. CallError with everything that is wrong; HeavyError where its templates may pass so much `room` (see
    Rendering), less than 0: where it has any, or files."""
    kind = asked.kind.partition(";")[0].strip().lower()
    key = _one(asked.fields, "idempotency-key")
    if key is not None:
        key = _checked(_KEY, "Idempotency-Key", key)
    if kind == _JSON:
        return _read_json(asked, key, section, hostname, now, room)
    if kind == _RAW:
        return _read_raw(asked, key, section, hostname, now)
    text = f"content-type is {_JSON}, or {_RAW}"
    raise CallError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, (Fault("content-type", text),))


def _read_json(
    asked: Asked, key: str | None, section: InjectionSection, hostname: str, now: float, room: int | None
) -> Call:
    if asked.query:
        raise CallError.bad("", f"there is no {min(asked.query)} behind the ? of a call in JSON")
    top, personal = parts_of(asked.content, section.max_recipients)
    check_counts(top, section.max_addresses)
    rest = b"{" + b",".join(json.dumps(name).encode() + b":" + bytes(value) for name, value in top.items()) + b"}"
    try:
        order = Order.model_validate_json(rest)
    except ValidationError as error:
        raise CallError(HTTPStatus.BAD_REQUEST, faults_of(error)) from None
    if key is not None and order.idempotency_key not in (None, key):
        raise CallError.bad("idempotency_key", "is another than the field Idempotency-Key says")
    key = key or order.idempotency_key
    _check_counts(order, len(personal), key, section)
    _check_time(order.release_at, now, section)
    _check_personal(personal)
    if room is not None and room < 0 and order.attachments:
        raise HeavyError  # each takes a while, however small it is
    room = None if room is None else room // max(len(asked.content), 1)
    composer = Composer(order, hostname, now, section.max_message_size, most_weight=room)
    return Call(
        messages=_ForEach(composer, personal) if personal else _ForAll(composer),
        count=len(personal) or 1,
        digest=hashlib.sha256(asked.content).hexdigest(),
        key=key,
        stream=order.stream or "",
        tags=order.tags,
        is_list=bool(personal),
    )


def _check_counts(order: Order, personal: int, key: str | None, section: InjectionSection) -> None:
    together = len(order.to) + len(order.cc) + len(order.bcc)
    if together and personal:
        raise CallError.bad("recipients", "stands in the place of to, cc and bcc")
    if not (together or personal):
        raise CallError.bad("to", "is missing: the message is for nobody")
    if together > section.max_addresses:
        raise CallError.bad("to", f"to, cc and bcc have more than {section.max_addresses} addresses: use recipients")
    if personal > section.max_recipients:
        raise CallError.bad("recipients", f"are {personal}, more than {section.max_recipients}")
    if personal > _MOST_WITHOUT_KEY and key is None:
        text = f"is missing: a call with more than {_MOST_WITHOUT_KEY} recipients needs one, to go on where it breaks"
        raise CallError.bad("idempotency_key", text)


def _check_time(release_at: float, now: float, section: InjectionSection) -> None:
    if release_at > now + section.max_hold:
        raise CallError.bad("send_at", f"is more than {section.max_hold:.0f} seconds ahead")


def _check_personal(personal: Sequence[Raw]) -> None:
    faults: list[Fault] = []
    for number, one in enumerate(personal):
        check_small(f"recipients.{number}", one)
        try:
            Personal.model_validate_json(bytes(one))
        except ValidationError as error:
            faults += faults_of(error, ("recipients", number))
            if len(faults) >= MOST_TOLD:
                break
    if faults:
        raise CallError(HTTPStatus.BAD_REQUEST, faults)


class _ForAll:
    def __init__(self, composer: Composer) -> None:
        self._composer = composer

    def drafts(self, start: int, stop: int) -> Sequence[Draft | tuple[int, CallError]]:
        if start:
            return []
        try:
            return [self._composer.to_all()]
        except CallError as error:
            return [(0, error)]

    def close(self) -> None:
        pass


class _ForEach:
    def __init__(self, composer: Composer, personal: Sequence[Raw]) -> None:
        self._composer = composer
        self._personal = personal

    def drafts(self, start: int, stop: int) -> Sequence[Draft | tuple[int, CallError]]:
        found: list[Draft | tuple[int, CallError]] = []
        for number, raw in enumerate(islice(self._personal, start, stop), start):
            one = Personal.model_validate_json(bytes(raw))
            try:
                found.append(self._composer.to_one(number, one))
            except CallError as error:
                found.append((number, error))
        return found

    def close(self) -> None:
        pass


class _Raw:
    def __init__(self, draft: Draft) -> None:
        self._draft = draft

    def drafts(self, start: int, stop: int) -> Sequence[Draft | tuple[int, CallError]]:
        return [self._draft] if start == 0 else []

    def close(self) -> None:
        pass


def _read_raw(asked: Asked, key: str | None, section: InjectionSection, hostname: str, now: float) -> Call:
    for name in asked.query:
        if name not in _QUERY:
            raise CallError.bad(name[:80], f"is nothing that may stand behind the ?: {', '.join(_QUERY)}")
    given = _one(asked.query, "idempotency_key")
    if given is not None:
        given = _checked(_KEY, "idempotency_key", given)
        if key not in (None, given):
            raise CallError.bad("idempotency_key", "is another than the field Idempotency-Key says")
    sender = _one(asked.query, "from") or _one(asked.fields, "x-envelope-from")
    named = [(f"to.{place}", one) for place, one in enumerate(asked.query.get("to", ()))]
    if not named:
        texts = [part for line in asked.fields.get("x-envelope-to", ()) for part in line.split(",")]
        named = [(f"X-Envelope-To.{place}", one) for place, one in enumerate(texts)]
    if not named:
        raise CallError.bad("to", "is missing: the message is for nobody")
    if len(named) > section.max_addresses:
        raise CallError.bad("to", f"there are more than {section.max_addresses} recipients")
    recipients: dict[Address, str] = {}
    for path, text in named:
        recipients.setdefault(_address(path, text), path)
    release_at = _release_at(_one(asked.query, "send_at"))
    _check_time(release_at, now, section)
    stream = _one(asked.query, "stream")
    words = asked.query.get("tag", ())
    if len(words) > MOST_TAGS:
        raise CallError.bad("tag", f"there are more than {MOST_TAGS}")
    tags = [_checked(_WORD, f"tag.{place}", one) for place, one in enumerate(words)]
    draft = raw_draft(
        asked.content,
        _address("from", sender) if sender else None,
        [(path, address) for address, path in recipients.items()],
        hostname=hostname,
        now=now,
        release_at=release_at,
        most_octets=section.max_message_size,
    )
    envelope = json.dumps([sender, named, release_at, stream, tags]).encode()
    return Call(
        messages=_Raw(draft),
        count=1,
        digest=hashlib.sha256(envelope + b"\n" + asked.content).hexdigest(),
        key=key or given,
        stream=_checked(_WORD, "stream", stream) if stream else "",
        tags=tuple(tags),
        is_list=False,
    )


def _release_at(text: str | None) -> float:
    if text is None:
        return 0.0
    try:
        return _MOMENT.validate_python(text).timestamp()
    except ValidationError as error:
        raise CallError(HTTPStatus.BAD_REQUEST, faults_of(error, ("send_at",))) from None


def _address(path: str, text: str) -> Address:
    try:
        person = parse_person(text.strip())
    except ValueError as error:
        raise CallError.bad(path, str(error)) from None
    if person.name:
        raise CallError.bad(path, "is an address without a name here")
    return person.address


def _one(given: Mapping[str, Sequence[str]], name: str) -> str | None:
    values = given.get(name, ())
    if len(values) > 1:
        raise CallError.bad(name, "stands there twice")
    return values[0] if values else None


def _checked(adapter: TypeAdapter[str], path: str, text: str) -> str:
    try:
        return adapter.validate_python(text)
    except ValidationError as error:
        raise CallError(HTTPStatus.BAD_REQUEST, faults_of(error, (path,))) from None
