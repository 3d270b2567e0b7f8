"""What an application is sent of a message: one signed body, made piece by piece, twice where it is large.

The first time tells its length and its signature, which stand before it; the second time it is sent. What is in memory
meanwhile is the header section, the texts, and one piece of an attachment.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from mailgate.envelope import Envelope, EnvelopeRecipient
from mailgate.mailauth.authentication_results import AuthenticationResults, AuthenticationResultsError
from mailgate.message import AddHeader, Content, HeaderField, rendered
from mailgate.mime.structure import Octets
from mailgate.relay.web_post.decoding import as_base64
from mailgate.relay.web_post.reading import Attachment, Mail, read_mail
from mailgate.wire.signature import FIELD, Signing

__all__ = ["Form", "Request", "compose"]

Form = Literal["json", "form", "raw"]

#: Octets of a body that is kept in memory, and of the pieces in which a larger one is sent.
_PIECE = 256 * 1024
#: Characters of a text, and elements of a list, that are written as JSON in one go.
_STEP, _ITEMS = 32 * 1024, 500

_Pieces = Callable[[], Iterable[bytes]]


@dataclass(frozen=True, slots=True)
class Request:
    """A body of `length` octets, which `pieces` makes anew each time, and the fields that go with it."""

    fields: Sequence[tuple[str, str]]
    length: int
    pieces: Callable[[], Iterator[bytes]]


def compose(
    form: Form,
    route: str,
    envelope: Envelope,
    recipients: Sequence[EnvelopeRecipient],
    content: Content,
    *,
    secrets: Sequence[bytes],
    moment: int,
) -> Request:
    """The request for one message and some of its recipients, made at this moment (seconds since the epoch).

    Reads all of the content: for another thread than the reactor's. OSError where that cannot be read, ValueError where
    an edit cannot be made.
    """
    told = _told(route, envelope, recipients)
    if form == "json":
        kind, pieces = "application/json", _as_json(told, *read_mail(content, envelope.edits))
    else:
        # No content can hold it by chance, and whoever wrote the content does not know it.
        boundary = hashlib.sha256(b"boundary" + b"".join(secrets) + envelope.queue_id.encode()).hexdigest()[:40]
        kind = f'multipart/form-data; boundary="{boundary}"'
        if form == "form":
            pieces = _as_form(boundary, told, *read_mail(content, envelope.edits))
        else:
            pieces = _as_raw(boundary, told, content, envelope)
    signing, length = Signing(secrets, moment), 0
    kept: list[bytes] = []
    for piece in pieces():
        signing.update(piece)
        length += len(piece)
        if length <= _PIECE:
            kept.append(piece)
        else:
            kept.clear()
    whole = b"".join(kept)
    fields = (
        ("Content-Type", kind),
        ("Mailgate-Route", route),
        ("Idempotency-Key", _key(envelope, recipients)),
        (FIELD, signing.value()),
    )
    return Request(fields, length, lambda: iter((whole,)) if length <= _PIECE else _gathered(pieces()))


def _key(envelope: Envelope, recipients: Sequence[EnvelopeRecipient]) -> str:
    """The same whenever this message is sent for these recipients, and for no others."""
    numbers = ",".join(str(one.number) for one in recipients)
    if len(recipients) > 1:
        numbers = f"x{hashlib.sha256(numbers.encode()).hexdigest()[:16]}"
    return f"{envelope.queue_id}-{numbers}"


def _told(route: str, envelope: Envelope, recipients: Sequence[EnvelopeRecipient]) -> dict[str, object]:
    """What we know of the message, beside what stands in it."""
    sender = envelope.sender if recipients[0].return_path is None else recipients[0].return_path
    origin = envelope.origin
    # What is evidence is known by who made it: these fields are ours, whatever the message itself says.
    added = [HeaderField(edit.raw) for edit in reversed(envelope.edits) if isinstance(edit, AddHeader)]
    return {
        "id": envelope.queue_id,
        "route": route,
        "received": envelope.received,
        "listener": envelope.listener,
        "sender": str(sender),
        "recipients": [{"id": f"{envelope.queue_id}-{one.number}", "address": str(one.address)} for one in recipients],
        "client": {
            "address": origin.address,
            "name": origin.name,
            "helo": origin.helo,
            "protocol": origin.protocol,
            "login": origin.login,
        },
        "authentication": [result for field in added for result in _results(field)],
        "added": [[field.name, field.value] for field in added],
    }


def _results(field: HeaderField) -> Iterator[dict[str, object]]:
    if field.name.lower() != "authentication-results":
        return
    try:
        found = AuthenticationResults.parse(field.value)
    except AuthenticationResultsError:
        return
    for one in found.results:
        properties = {f"{ptype}.{name}" if ptype else name: value for ptype, name, value in one.properties}
        yield {"method": one.method, "result": one.result, "reason": one.reason, "properties": properties}


def _parsed(mail: Mail) -> dict[str, object]:
    boxes = {key: [asdict(one) for one in found] for key, found in mail.boxes.items()}
    return {
        **boxes,
        "subject": mail.subject,
        "date": mail.date,
        "message_id": mail.message_id,
        "headers": mail.fields,
        "text": mail.text,
        "html": mail.html,
        "problem": mail.problem,
    }


def _facts(one: Attachment) -> dict[str, object]:
    return {
        "name": one.name,
        "type": one.type,
        "charset": one.charset,
        "disposition": one.disposition,
        "content_id": one.content_id,
    }


def _as_json(told: dict[str, object], mail: Mail, octets: Octets) -> _Pieces:
    def pieces() -> Iterator[bytes]:
        yield from _open_object(told | _parsed(mail))
        yield b',"attachments":['
        for number, one in enumerate(mail.attachments):
            yield (b"," if number else b"") + _json(_facts(one))[:-1] + b',"content":"'
            size = 0

            def counted(found: Iterable[bytes]) -> Iterator[bytes]:
                nonlocal size
                for piece in found:
                    size += len(piece)
                    yield piece

            yield from as_base64(counted(one.octets(octets)))
            yield b'","size":%d}' % size
        yield b"]}"

    return pieces


def _as_form(boundary: str, told: dict[str, object], mail: Mail, octets: Octets) -> _Pieces:
    named = [{"field": f"attachment-{number}", **_facts(one)} for number, one in enumerate(mail.attachments, 1)]

    def pieces() -> Iterator[bytes]:
        yield _part(boundary, "mail", "application/json")
        yield from _open_object(told | _parsed(mail) | {"attachments": named})
        yield b"}"
        for number, one in enumerate(mail.attachments, 1):
            yield b"\r\n" + _part(boundary, f"attachment-{number}", one.type, one.name or "unnamed")
            yield from one.octets(octets)
        yield f"\r\n--{boundary}--\r\n".encode()

    return pieces


def _as_raw(boundary: str, told: dict[str, object], content: Content, envelope: Envelope) -> _Pieces:
    def pieces() -> Iterator[bytes]:
        yield _part(boundary, "mail", "application/json") + _json(told)
        yield b"\r\n" + _part(boundary, "message", "message/rfc822", "message.eml")
        yield from rendered(content, envelope.edits)
        yield f"\r\n--{boundary}--\r\n".encode()

    return pieces


def _part(boundary: str, name: str, kind: str, file: str = "") -> bytes:
    """What stands before a part; names of files as browsers write them (RFC 7578 section 4.2)."""
    quoted = file.replace('"', "%22")
    disposition = f'form-data; name="{name}"' + (f'; filename="{quoted}"' if file else "")
    return f"--{boundary}\r\nContent-Disposition: {disposition}\r\nContent-Type: {kind}\r\n\r\n".encode(
        "utf-8", "replace"
    )


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def _open_object(values: Mapping[str, object]) -> Iterator[bytes]:
    """An object of JSON but for its last brace. What is long comes in steps: other threads wait while one is made."""
    before = b"{"
    for key, value in values.items():
        yield before + _json(key) + b":"
        before = b","
        if isinstance(value, str):
            yield b'"'
            for at in range(0, len(value), _STEP):
                yield _json(value[at : at + _STEP])[1:-1]
            yield b'"'
        elif isinstance(value, Sequence):
            yield b"["
            for at in range(0, len(value), _ITEMS):
                yield (b"," if at else b"") + _json(value[at : at + _ITEMS])[1:-1]
            yield b"]"
        else:
            yield _json(value)


def _gathered(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same octets in pieces of some size."""
    waiting: list[bytes] = []
    size = 0
    for piece in pieces:
        waiting.append(piece)
        size += len(piece)
        if size >= _PIECE:
            yield b"".join(waiting)
            waiting.clear()
            size = 0
    yield b"".join(waiting)
