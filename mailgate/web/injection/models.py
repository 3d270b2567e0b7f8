"""What a call says, and what it is answered, as JSON."""

from __future__ import annotations

import base64
import binascii
import re
from datetime import datetime
from email.utils import getaddresses
from typing import Annotated, Any, Literal, NamedTuple, Self
from unicodedata import category, normalize

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BeforeValidator,
    Field,
    JsonValue,
    PlainValidator,
    WithJsonSchema,
    model_validator,
)

from mailgate.address import Address, AddressError
from mailgate.web.injection.pieces import PIECE
from mailgate.web.selection import Model

__all__ = [
    "MOST_TAGS",
    "MOST_TEXT",
    "Accepted",
    "Attachment",
    "FieldFault",
    "Followed",
    "FollowedRecipient",
    "Key",
    "Moment",
    "Order",
    "Person",
    "Personal",
    "Refusal",
    "RefusedOne",
    "State",
    "Template",
    "Word",
    "is_line",
    "parse_person",
]

_LONGEST_NAME = 200
_MEDIA_WORD = r"[A-Za-z0-9!#$&^_.+-]{1,64}"
_TYPE = re.compile(rf"(?!multipart/|message/){_MEDIA_WORD}/{_MEDIA_WORD}", re.IGNORECASE)
_DAY = re.compile(r"\d{4}-\d\d-\d\d[Tt ]", re.ASCII)
_FIELD_NAME = re.compile(r"[!-9;-~]{1,76}")
#: What the gateway says itself, or what says how a message is to be read.
_OURS = frozenset(
    (
        *("from", "sender", "reply-to", "to", "cc", "bcc", "subject", "date", "message-id", "mime-version"),
        *("received", "return-path", "dkim-signature", "authentication-results", "delivered-to", "errors-to"),
    )
)
_OUR_PREFIXES = ("content-", "resent-", "arc-", "received-")
#: Levels of lists and objects in one substitution, and values in all of one message.
_DEEPEST, _MOST_VALUES = 8, 2000
#: Characters of a body: what is longer is a file.
MOST_TEXT = 4 * 1024**2
#: Tags of one message.
MOST_TAGS = 10


def is_line(text: str) -> bool:
    """Whether a text is one line, for every program that reads it."""
    return not any(category(one) in ("Cc", "Cs", "Zl", "Zp") for one in text)


def _line(text: str) -> str:
    """A text that is one line of a header, whatever becomes of it."""
    if not is_line(text):
        raise ValueError("has a line end or another control character")
    return text


def _no_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("has a NUL")
    return text


Line = Annotated[str, AfterValidator(_line)]
Body = Annotated[str, AfterValidator(_no_nul)]
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]
Key = Annotated[str, Field(pattern=r"^[!-~]+$", min_length=1, max_length=200)]


def _moment(value: object) -> object:
    """No number: whether it counts seconds or milliseconds would be a guess."""
    if not isinstance(value, str) or not _DAY.match(value):
        raise ValueError('is no time: "2026-12-01T08:00:00Z"')
    return value


Moment = Annotated[AwareDatetime, BeforeValidator(_moment)]


class Person(NamedTuple):
    """A mailbox with the name that is shown, "" for none."""

    name: str
    address: Address


def parse_person(text: str) -> Person:
    """`Ann <ann@example.org>`, or the address alone. ValueError."""
    _line(text)
    if len(text) > 600:
        raise ValueError("is too long for an address with a name")
    found = getaddresses([text]) if "@" in text else []
    if len(found) != 1 or not found[0][1]:
        raise ValueError("is no address: ann@example.org, or Ann <ann@example.org>")
    return _person(*found[0])


def _person(name: str, address: str) -> Person:
    _line(name)
    if len(name) > _LONGEST_NAME:
        raise ValueError(f"the name has more than {_LONGEST_NAME} characters")
    try:
        # What looks the same is the same (RFC 6532 section 3.1): whoever wants no mail is found in either form.
        return Person(name.strip(), Address.parse(normalize("NFC", address)))
    except AddressError as error:
        raise ValueError(f"is no address: {error}") from None


def _mailbox(value: object) -> Person:
    if isinstance(value, str):
        return parse_person(value)
    if isinstance(value, dict) and value.keys() <= {"address", "name"} and "address" in value:
        name, address = value.get("name", ""), value["address"]
        if isinstance(name, str) and isinstance(address, str):
            return _person(name, address)
    raise ValueError('is no address: "Ann <ann@example.org>", or {"address": "ann@example.org", "name": "Ann"}')


_MAILBOX_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "string", "maxLength": 600, "examples": ["Ann <ann@example.org>"]},
        {
            "type": "object",
            "properties": {"address": {"type": "string"}, "name": {"type": "string", "maxLength": _LONGEST_NAME}},
            "required": ["address"],
            "additionalProperties": False,
        },
    ]
}
Mailbox = Annotated[Person, PlainValidator(_mailbox), WithJsonSchema(_MAILBOX_SCHEMA)]


def _base64(value: object) -> bytes:
    if not isinstance(value, str):
        raise ValueError("is no text")
    found, rest = [], ""
    try:
        for at in range(0, len(value), PIECE):
            rest += "".join(value[at : at + PIECE].split())
            until = max(len(rest) - len(rest) % 4 - 4, 0)
            if "=" in rest[:until]:
                raise ValueError("goes on behind its end")
            found.append(base64.b64decode(rest[:until], validate=True))
            rest = rest[until:]
        return b"".join([*found, base64.b64decode(rest, validate=True)])
    except (binascii.Error, ValueError):
        raise ValueError("is no base64") from None


def _media_type(text: str) -> str:
    if not _TYPE.fullmatch(text):
        raise ValueError('is no type of an attachment, like "application/pdf"')
    return text.lower()


class Attachment(Model):
    """A file. With `cid` it stands inside the HTML, where that says src="cid:..."."""

    content: Annotated[bytes, PlainValidator(_base64), WithJsonSchema({"type": "string", "format": "byte"})]
    """its octets in base64"""
    name: Annotated[Line, Field(max_length=255)] = ""
    type: Annotated[str, AfterValidator(_media_type)] = "application/octet-stream"
    cid: Annotated[str, Field(pattern=r"^[A-Za-z0-9._+@-]*$", max_length=200)] = ""


class Template(Model):
    """Texts in Jinja2's language, as far as it puts in values, chooses and repeats: `{{ name }}`, filters, `if`, `for`.
    In `html` values are escaped."""

    subject: Annotated[Line, Field(max_length=2000)] = ""
    text: Annotated[Body, Field(max_length=262_144)] = ""
    html: Annotated[Body, Field(max_length=262_144)] = ""


def _values(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    left = _MOST_VALUES
    waiting: list[tuple[Any, int]] = [(value, 0)]
    while waiting:
        one, depth = waiting.pop()
        inner: list[Any] = list(one.values()) if isinstance(one, dict) else list(one)
        left -= len(inner)
        if left < 0:
            raise ValueError(f"has more than {_MOST_VALUES} values")
        if depth >= _DEEPEST:
            raise ValueError(f"has more than {_DEEPEST} levels")
        waiting += [(each, depth + 1) for each in inner if isinstance(each, dict | list)]
    return value


Substitutions = Annotated[dict[str, JsonValue], AfterValidator(_values)]


class Personal(Model):
    """A recipient who gets a message of his own."""

    to: Mailbox
    substitutions: Substitutions = Field(default={})
    """values for the template, before those of the call"""


def _fields(fields: dict[str, str]) -> dict[str, str]:
    seen: set[str] = set()
    for name in fields:
        low = name.lower()
        if not _FIELD_NAME.fullmatch(name):
            raise ValueError(f"{name[:80]!r} is no name of a header field")
        if low in _OURS or low.startswith(_OUR_PREFIXES):
            raise ValueError(f"{name} is not set by headers")
        if low in seen:
            raise ValueError(f"{name} stands twice")
        seen.add(low)
    return fields


class Order(Model):
    """One call: either one message to all of `to`, `cc` and `bcc`, or one for each of `recipients`."""

    sender: Mailbox = Field(alias="from")
    """the author; its address is the envelope's sender, too, if `return_path` does not say another"""
    return_path: Mailbox | None = None
    """where reports of failure go"""
    reply_to: Annotated[tuple[Mailbox, ...], Field(max_length=10)] = ()
    to: tuple[Mailbox, ...] = ()
    cc: tuple[Mailbox, ...] = ()
    bcc: tuple[Mailbox, ...] = ()
    recipients: tuple[Personal, ...] = ()
    """each gets a message of his own, and sees no other"""
    subject: Annotated[Line, Field(max_length=2000)] = ""
    text: Annotated[Body, Field(max_length=MOST_TEXT)] = ""
    html: Annotated[Body, Field(max_length=MOST_TEXT)] = ""
    template: Template | None = None
    """instead of `subject`, `text` and `html`"""
    substitutions: Substitutions = Field(default={})
    """values for the template, for all recipients"""
    attachments: Annotated[tuple[Attachment, ...], Field(max_length=100)] = ()
    headers: Annotated[
        dict[str, Annotated[Line, Field(max_length=2000)]], Field(max_length=50), AfterValidator(_fields)
    ] = Field(default={})
    """further fields of the header"""
    send_at: Moment | None = None
    """not before this time, "2026-12-01T08:00:00Z" """
    tags: Annotated[tuple[Word, ...], Field(max_length=MOST_TAGS)] = ()
    """words by which the sender finds its mail again"""
    stream: Word | None = None
    """what kind of mail it is for its sender: "news", "invoices" """
    idempotency_key: Key | None = None
    """of several calls with the same key one is carried out; also as the field Idempotency-Key"""

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.template is not None and (self.subject or self.text or self.html):
            raise ValueError("template stands in the place of subject, text and html")
        if self.template is None and self.substitutions:
            raise ValueError("substitutions are for a template")
        if any(one.cid for one in self.attachments) and not (self.template.html if self.template else self.html):
            raise ValueError("an attachment with a cid stands in html, and there is none")
        return self

    @property
    def release_at(self) -> float:
        """Seconds since the epoch, 0 for now."""
        return 0.0 if self.send_at is None else self.send_at.timestamp()


class FieldFault(Model):
    """What is wrong with a field; `path` is "recipients.3.to", or "" for the call as a whole."""

    path: str
    error: str


class RefusedOne(FieldFault):
    """A recipient who gets nothing; `number` is the place among those that the call names, from 0."""

    number: int
    status: int


class Accepted(Model):
    """What is durable. `ids` has an id for each of `recipients`, null where refused; for a call with `to` it is one."""

    id: str
    """the call's own"""
    taken: int
    ids: tuple[str | None, ...]
    refused: tuple[RefusedOne, ...] = ()


class Refusal(Model):
    """Why nothing, or not all, was taken. What was taken stays so: the same call with `idempotency_key` goes on."""

    error: str
    errors: tuple[FieldFault, ...] = ()
    idempotency_key: str = ""
    taken: int = 0
    ids: tuple[str, ...] = ()
    """the messages that were taken of a call without a key, which are not to be handed in again"""


State = Literal["queued", "held", "quarantined", "deferred", "delivered", "bounced", "discarded", "deleted"]


class FollowedRecipient(Model):
    """Where a recipient's mail is; `reply` is the last that was answered about it."""

    address: str
    state: State
    reply: str = ""
    at: datetime | None = None
    next_attempt: datetime | None = None


class Followed(Model):
    """A message that was handed in; for a moment there may be nothing to tell of its recipients."""

    id: str
    sender: str
    recipients: tuple[FollowedRecipient, ...]
