"""Lists of tags and values, as in DKIM-Signature fields and key records (RFC 6376 section 3.2)."""

from __future__ import annotations

from mailgate.mailauth.dkim.limits import MAX_FIELD_OCTETS, MAX_TAGS

__all__ = ["TagError", "decode_list", "parse_tags", "without_space"]

_SPACE = b" \t\r\n"
# Octets above ASCII are UTF-8 in the domains and identities of RFC 8616.
_ALLOWED = _SPACE + bytes(range(0x21, 0x7F)) + bytes(range(0x80, 0x100))


class TagError(ValueError):
    """No list of tags; the message says why, without the octets."""


def parse_tags(value: bytes, limit: int = MAX_FIELD_OCTETS) -> dict[bytes, bytes]:
    """The tags of a list in their order, with their values; space around both is taken away, that within stays.

    `value` is the whole list, still folded; `limit` its greatest size in octets. TagError: too much of it, a tag twice,
    something between two semicolons that is no tag, or a control character.
    """
    if len(value) > limit:
        raise TagError(f"a list of {len(value)} octets")
    if value.translate(None, _ALLOWED):
        raise TagError("a control character")
    pieces = value.split(b";", MAX_TAGS + 1)
    if not pieces[-1].strip(_SPACE):
        pieces.pop()
    if len(pieces) > MAX_TAGS:
        raise TagError(f"more than {MAX_TAGS} tags")
    tags: dict[bytes, bytes] = {}
    for piece in pieces:
        name, equals, text = piece.partition(b"=")
        name = name.strip(_SPACE)
        if not equals or not name[:1].isalpha() or not (name.isalnum() or name.replace(b"_", b"").isalnum()):
            raise TagError("what stands between two semicolons is no tag")
        if name in tags:
            raise TagError(f"the tag {name.decode()[:20]} twice")
        tags[name] = text.strip(_SPACE)
    return tags


def decode_list(value: bytes) -> list[bytes]:
    """The parts of a list that is written with colons, without the space around them."""
    return [part.strip(_SPACE) for part in value.split(b":")]


def without_space(value: bytes) -> bytes:
    """A value without the white space and folding within, which base64 may have anywhere."""
    return value.translate(None, _SPACE)
