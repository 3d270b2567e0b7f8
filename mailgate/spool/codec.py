"""Envelopes and edits as JSON, messages as rows and files. Every version ever written can be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mailgate.address import Address
from mailgate.envelope import Envelope, EnvelopeRecipient
from mailgate.message import AddHeader, Content, Edit, RemoveHeader, RenameHeader

__all__ = ["CodecError", "decode_envelope", "encode_envelope", "read_message"]

_VERSION = 1
_encode = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode


class CodecError(ValueError):
    """The text is no envelope of a version that is known."""


def encode_envelope(envelope: Envelope) -> str:
    """The envelope as one line of ASCII."""
    return _encode(
        {
            "v": _VERSION,
            "id": envelope.queue_id,
            "from": _address(envelope.sender),
            "to": [
                [one.number, *_address(one.address), one.route, one.quarantine, one.refusal]
                for one in envelope.recipients
            ],
            "at": envelope.received,
            "size": envelope.size,
            "body": envelope.body,
            "client": envelope.client,
            "edits": [_edit(edit) for edit in envelope.edits],
        }
    )


def decode_envelope(text: str) -> Envelope:
    """The envelope; CodecError where the text is none."""
    try:
        text.encode()  # all that was ever written is ASCII: octets that are no UTF-8 are damage
        found = json.loads(text)
        if found["v"] != _VERSION:
            raise CodecError(f"envelope of version {found['v']}, which this mailgate does not know")
        envelope = Envelope(
            queue_id=str(found["id"]),
            sender=Address(*found["from"]),
            recipients=tuple(
                EnvelopeRecipient(int(number), Address(local_part, domain), route, quarantine, refusal)
                for number, local_part, domain, route, quarantine, refusal in found["to"]
            ),
            received=float(found["at"]),
            size=int(found["size"]),
            body=found["body"],
            client=found["client"],
            edits=tuple(_to_edit(edit) for edit in found["edits"]),
        )
        for one in (envelope.sender, *(recipient.address for recipient in envelope.recipients)):
            str(one).encode()  # an escape of half a character can be in no column
    except CodecError:
        raise
    except (AttributeError, LookupError, OverflowError, RecursionError, TypeError, ValueError) as error:
        raise CodecError(f"no envelope: {error!r}") from error
    return envelope


def read_message(contents: Path, queue_id: str, text: str, data: bytes | None) -> tuple[Envelope, Content]:
    """The message of a row; CodecError where row or file cannot be read, or do not fit together."""
    envelope = decode_envelope(text)
    if envelope.queue_id != queue_id:
        raise CodecError(f"the envelope names {envelope.queue_id}")
    if isinstance(data, bytes):
        content = Content(data)
    elif data is not None:
        raise CodecError("its content is not stored as octets")
    else:
        try:
            content = Content.in_file(contents / queue_id)
        except OSError as error:
            raise CodecError(f"its content cannot be read: {error.strerror}") from error
    if content.size != envelope.size:
        raise CodecError(f"its content has {content.size} octets instead of {envelope.size}")
    return envelope, content


def _address(address: Address) -> tuple[str, str]:
    return (address.local_part, address.domain)


def _edit(edit: Edit) -> list[Any]:
    match edit:
        case AddHeader(name, value, at_end):
            return ["end" if at_end else "top", name, value]
        case RemoveHeader(name, value):
            return ["remove", name, value]
        case RenameHeader(name, to):
            return ["rename", name, to]


def _to_edit(edit: list[Any]) -> Edit:
    kind, name, value = edit
    match kind:
        case "top" | "end":
            return AddHeader(name, value, kind == "end")
        case "remove":
            return RemoveHeader(name, value)
        case "rename":
            return RenameHeader(name, value)
    raise CodecError(f"an unknown edit {kind!r}")
