"""Envelopes and edits as JSON, messages as rows and files. Every version ever written can be read.

Version 1 has the one parameter "body", and tells nothing of the origin. Version 2 has "mail", the parameters that are
not as in plain mail, which have none; the origin without the empty end of it; for a recipient what RCPT asked, and
behind it, where it is not the sender's own, the reverse-path; the listener; what was found of a message in quarantine;
its stream, where it has one; and the checksum of content that lies in the database.
"""

from __future__ import annotations

import errno
import json
import re
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec

from mailgate.address import Address
from mailgate.envelope import (
    EIGHT_BIT_MAIL,
    NO_ORIGIN,
    PLAIN_MAIL,
    Envelope,
    EnvelopeRecipient,
    Kept,
    MailParameters,
    Origin,
)
from mailgate.message import AddHeader, Content, HeaderEdit, RemoveHeader, RenameHeader

__all__ = [
    "NO_OCTETS",
    "CodecError",
    "check_size",
    "check_sum",
    "content_file",
    "decode_envelope",
    "decode_named",
    "encode_envelope",
    "read_message",
]

NO_OCTETS = "its content is not stored as octets"

#: What the disk says where there can be no such file; all else may pass.
_NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)

_VERSION = 2
_SUM = re.compile(r',"sum":(\d+)\}\Z')
_encode = msgspec.json.Encoder().encode
_encode_in_ascii = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode

_DEFAULTS: dict[str, object] = {one.name: one.default for one in msgspec.structs.fields(MailParameters)}
#: What the values are; two of them have None for their default.
_KINDS: dict[str, type] = {name: type(default) for name, default in _DEFAULTS.items()} | {"priority": int, "auth": str}
_EIGHT_BIT = {"body": EIGHT_BIT_MAIL.body}
_ORIGIN = list(Origin.__struct_fields__)


class CodecError(ValueError):
    """The text is no envelope of a version that is known."""


def encode_envelope(envelope: Envelope, data: bytes | None = None) -> str:
    """The envelope as one line of ASCII, with the checksum of the octets that stand beside it, if they do."""
    found: dict[str, object] = {
        "v": _VERSION,
        "id": envelope.queue_id,
        "from": _address(envelope.sender),
        "to": [_recipient(one) for one in envelope.recipients],
        "at": envelope.received,
        "size": envelope.size,
        "client": envelope.client,
        "origin": _origin(envelope.origin),
        "edits": [_edit(edit) for edit in envelope.edits],
        "listener": envelope.listener,
    }
    if envelope.parameters is not PLAIN_MAIL:
        found["mail"] = _parameters(envelope.parameters)
    if envelope.kept is not None:
        found["kept"] = msgspec.to_builtins(envelope.kept)
    if envelope.stream:
        found["stream"] = envelope.stream
    if data is not None:
        found["sum"] = crc32(data)  # the last one, where it is looked for
    try:
        return _encode(found).decode("ascii")
    except UnicodeError:
        # Seldom; and what is no text at all, half a character, only this one has a form for.
        return _encode_in_ascii(found)


def decode_envelope(text: str) -> Envelope:
    """The envelope; CodecError where the text is none."""
    try:
        text.encode()  # all that was ever written is ASCII: octets that are no UTF-8 are damage
        found = json.loads(text)
        if found["v"] == 1:
            found["mail"] = {"body": found["body"]}
        elif found["v"] != _VERSION:
            raise CodecError(f"envelope of version {found['v']}, which this mailgate does not know")
        envelope = Envelope(
            queue_id=str(found["id"]),
            sender=Address(*found["from"]),
            recipients=tuple(_to_recipient(*one) for one in found["to"]),
            received=float(found["at"]),
            size=int(found["size"]),
            parameters=_to_parameters(found.get("mail", {})),
            client=found["client"],
            origin=_to_origin(found.get("origin", ())),
            edits=tuple(_to_edit(edit) for edit in found["edits"]),
            listener=str(found.get("listener", "")),
            kept=msgspec.convert(found["kept"], Kept) if "kept" in found else None,
            stream=str(found.get("stream", "")),
        )
        returns = (one.return_path for one in envelope.recipients if one.return_path is not None)
        for one in (envelope.sender, *(recipient.address for recipient in envelope.recipients), *returns):
            str(one).encode()  # an escape of half a character can be in no column
    except CodecError:
        raise
    except (AttributeError, LookupError, OverflowError, RecursionError, TypeError, ValueError) as error:
        raise CodecError(f"no envelope: {error!r}") from error
    return envelope


def decode_named(text: str, queue_id: str) -> Envelope:
    """The envelope of a row; CodecError where the text is none, or another's."""
    envelope = decode_envelope(text)
    if envelope.queue_id != queue_id:
        raise CodecError(f"the envelope names {envelope.queue_id}")
    return envelope


def read_message(contents: Path, queue_id: str, text: str, data: bytes | None) -> tuple[Envelope, Content]:
    """The message of a row; CodecError where the row cannot be read, there is no file, or they do not fit together.
    OSError where the disk does not tell of the file."""
    envelope = decode_named(text, queue_id)
    if isinstance(data, bytes):
        check_sum(text, data)
        content = Content(data)
    elif data is not None:
        raise CodecError(NO_OCTETS)
    else:
        content = content_file(contents, queue_id)
    check_size(envelope, content)
    return envelope, content


def content_file(contents: Path, queue_id: str) -> Content:
    """The content that has a file; CodecError where it has none, OSError where the disk does not tell."""
    try:
        return Content.in_file(contents / queue_id)
    except (OSError, ValueError) as error:  # an id that damage has made may be no name of a file
        if isinstance(error, OSError) and error.errno not in _NO_FILE:
            raise
        raise CodecError(f"its content cannot be read: {getattr(error, 'strerror', error)}") from error


def check_size(envelope: Envelope, content: Content) -> None:
    """CodecError where the content is not as long as it was."""
    if content.size != envelope.size:
        raise CodecError(f"its content has {content.size} octets instead of {envelope.size}")


def check_sum(text: str, data: bytes) -> None:
    """CodecError where the octets are others than those that were written with the envelope. Earlier versions wrote no
    checksum."""
    found = _SUM.search(text)
    if found is not None and int(found[1]) != crc32(data):
        raise CodecError("its content is damaged: the checksum is another")


def _address(address: Address) -> tuple[str, str]:
    return (address.local_part, address.domain)


def _recipient(one: EnvelopeRecipient) -> tuple[object, ...]:
    address = one.address
    plain = (one.number, address.local_part, address.domain, one.route, one.quarantine, one.refusal)
    if one.return_path is not None:
        return (*plain, one.notify, one.orcpt, _address(one.return_path))
    return (*plain, one.notify, one.orcpt) if one.notify or one.orcpt else plain


def _to_recipient(
    number: int,
    local_part: str,
    domain: str,
    route: str,
    quarantine: str,
    refusal: str,
    notify: list[str] | None = None,
    orcpt: str = "",
    return_path: list[str] | None = None,
) -> EnvelopeRecipient:
    return EnvelopeRecipient(
        int(number),
        Address(local_part, domain),
        route,
        quarantine,
        refusal,
        tuple(notify or ()),
        orcpt,
        None if return_path is None else Address(*return_path),
    )


def _origin(origin: Origin) -> tuple[object, ...]:
    start = (origin.address, origin.port, origin.name, origin.helo, origin.protocol)
    if origin.login or origin.ident or origin.source:
        return (*start, origin.login, origin.ident, origin.source)
    return start if origin is not NO_ORIGIN else ()


def _to_origin(found: list[Any]) -> Origin:
    values = {name: int(value) if name == "port" else str(value) for name, value in zip(_ORIGIN, found, strict=False)}
    return Origin(**values) if values else NO_ORIGIN  # type: ignore[arg-type]  # the port is the one number


def _parameters(parameters: MailParameters) -> dict[str, Any]:
    if parameters is EIGHT_BIT_MAIL:
        return _EIGHT_BIT
    return {name: value for name, default in _DEFAULTS.items() if (value := getattr(parameters, name)) != default}


def _to_parameters(found: dict[str, Any]) -> MailParameters:
    if not found:
        return PLAIN_MAIL
    if found == _EIGHT_BIT:
        return EIGHT_BIT_MAIL
    for name, value in found.items():
        kind = _KINDS.get(name)
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise CodecError(f"an unknown parameter {name} of {value!r}")
    return MailParameters(**found)


def _edit(edit: HeaderEdit) -> list[Any]:
    if isinstance(edit, AddHeader):
        return ["end" if edit.at_end else "top", edit.name, edit.value]
    if isinstance(edit, RemoveHeader):
        return ["remove", edit.name, edit.value]
    return ["rename", edit.name, edit.to]


def _to_edit(edit: list[Any]) -> HeaderEdit:
    kind, name, value = edit
    match kind:
        case "top" | "end":
            return AddHeader(name, value, kind == "end")
        case "remove":
            return RemoveHeader(name, value)
        case "rename":
            return RenameHeader(name, value)
    raise CodecError(f"an unknown edit {kind!r}")
