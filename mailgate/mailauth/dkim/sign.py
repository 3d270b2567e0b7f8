"""Signing a message (RFC 6376 section 5): one DKIM-Signature field for each call."""

from __future__ import annotations

import binascii
import re
import time
from collections.abc import Iterable, Sequence

from mailgate.mailauth.dkim.canonical import Bodies, Canon, split_message
from mailgate.mailauth.dkim.keys import SigningKey
from mailgate.mailauth.dkim.signature import HeaderFields, domain_name, is_within, read_canons

__all__ = [
    "FIELD_NAME",
    "OVERSIGNED",
    "SIGNED",
    "body_form",
    "default_names",
    "fold",
    "sign_dkim",
    "sign_header",
    "signer",
    "with_signature",
]

#: Fields that are signed once more than there are: whoever adds one breaks the signature (RFC 6376 section 8.15).
OVERSIGNED = ("From", "Subject", "Date", "To", "Cc", "Reply-To", "Message-ID")
#: Fields that are signed where they are (RFC 6376 section 5.4.1).
SIGNED = (
    "Sender",
    "In-Reply-To",
    "References",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
    "Content-ID",
    "Content-Description",
    "Resent-Date",
    "Resent-From",
    "Resent-Sender",
    "Resent-To",
    "Resent-Cc",
    "Resent-Message-ID",
    "List-Id",
    "List-Help",
    "List-Unsubscribe",
    "List-Unsubscribe-Post",
    "List-Subscribe",
    "List-Post",
    "List-Owner",
    "List-Archive",
)

_NAME = "DKIM-Signature"
#: Of fields of one name no more are signed, from the last one up.
_MOST_OF_A_NAME = 20
_LINE = 78
#: What can be a name in h=.
FIELD_NAME = re.compile(r"[!-9<-~]+")
#: What is not written as it stands in i= (RFC 6376 section 2.11), and is not wise to.
_TO_ENCODE = re.compile(rb"[^!-:<>-~]")
_OVERSIGNED = [(name, name.lower().encode()) for name in OVERSIGNED]
_SIGNED = [(name, name.lower().encode()) for name in SIGNED]


def sign_dkim(
    message: bytes,
    key: SigningKey,
    *,
    domain: str,
    selector: str,
    identity: str = "",
    headers: Sequence[str] | None = None,
    canonicalization: str = "relaxed/relaxed",
    expire_after: int | None = None,
    now: float | None = None,
) -> bytes:
    """The DKIM-Signature field of a message, folded, with its last CRLF: it belongs on top.

    `message` is whole, as it will be sent; LF alone is read as CRLF. `domain` and `selector` are d= and s=, `identity`
    an address below the domain for i=. `headers` are the names to sign in their order, each as often as it is to be
    signed; by default those of OVERSIGNED and SIGNED. `expire_after` is in seconds; `now` in seconds since 1970.
    ValueError: an argument that cannot be, or a message without From.
    """
    fields, body = split_message(message)
    return sign_header(
        HeaderFields(fields),
        Bodies(body).digest(body_form(canonicalization)),
        key,
        domain=domain,
        selector=selector,
        identity=identity,
        headers=headers,
        canonicalization=canonicalization,
        expire_after=expire_after,
        now=now,
    )


def body_form(canonicalization: str) -> Canon:
    """The form of the body that a signature with this c= needs a digest of."""
    return read_canons(canonicalization.encode())[1]


def sign_header(
    header: HeaderFields,
    body_hash: bytes,
    key: SigningKey,
    *,
    domain: str,
    selector: str,
    identity: str = "",
    headers: Sequence[str] | None = None,
    canonicalization: str = "relaxed/relaxed",
    expire_after: int | None = None,
    now: float | None = None,
) -> bytes:
    """As `sign_dkim`, where the digest of the canonical body is there."""
    if not header.named(b"from"):
        raise ValueError("a message without From cannot be signed")
    header_canon, _ = read_canons(canonicalization.encode())
    names = default_names(header) if headers is None else _given_names(headers)
    made = int(time.time() if now is None else now)
    tokens = [" v=1;", f" a={key.algorithm};", f" c={canonicalization};", *_signer(domain, selector, identity)]
    tokens.append(f" t={made};")
    if expire_after is not None:
        if expire_after < 1:
            raise ValueError("a signature cannot expire before it is made")
        tokens.append(f" x={made + expire_after};")
    signed = [f"{name}:" for name in names]
    signed[0], signed[-1] = f" h={signed[0]}", f"{names[-1]};" if len(names) > 1 else f" h={names[0]};"
    tokens += signed
    digest = binascii.b2a_base64(body_hash, newline=False).decode()
    unsigned = fold(_NAME, [*tokens, f" bh={digest};", " b="])
    octets = header.signed_octets(
        [name.lower().encode() for name in names], header_canon, (b"dkim-signature", unsigned)
    )
    return with_signature(unsigned, key.sign(octets))


def fold(name: str, tokens: Iterable[str]) -> bytes:
    """A field of ASCII words, without the last CRLF: no line is longer than 78, where no word is.

    A line may break before each token; one that begins with a space has it only where no line does.
    """
    lines = []
    line = f"{name}:"
    for token in tokens:
        if len(line) + len(token) > _LINE:
            lines.append(line)
            line = f" {token.removeprefix(' ')}"
        else:
            line += token
    return "\r\n".join([*lines, line]).encode("ascii")


def with_signature(unsigned: bytes, signature: bytes) -> bytes:
    """The field that ends in an empty b=, with the signature in its place, folded, and the last CRLF."""
    text = binascii.b2a_base64(signature, newline=False)
    room = max(0, _LINE - (len(unsigned) - unsigned.rfind(b"\n") - 1))
    pieces = [text[:room], *(text[at : at + _LINE - 1] for at in range(room, len(text), _LINE - 1))]
    return unsigned + b"\r\n ".join(pieces) + b"\r\n"


def signer(domain: str, selector: str, deed: str) -> tuple[str, str]:
    """d= and s= as they are written. ValueError where one cannot be; `deed` is what the domain does: "sign"."""
    name, key_place = domain_name(domain.encode()), domain_name(selector.encode())
    if "." not in name:
        raise ValueError(f"{domain!r} is no domain to {deed} for")
    if not key_place:
        raise ValueError(f"{selector!r} is no selector")
    return name, key_place


def default_names(header: HeaderFields, *more: str) -> list[str]:
    """The names that are signed where none are given, each as often as it is to be; `more` go behind those of SIGNED,
    and are signed as they are."""
    names: list[str] = []
    for name, lower in _OVERSIGNED:
        names += [name] * (min(len(header.named(lower)), _MOST_OF_A_NAME) + 1)
    for name, lower in (*_SIGNED, *((one, one.lower().encode()) for one in more)):
        names += [name] * min(len(header.named(lower)), _MOST_OF_A_NAME)
    return names


def _signer(domain: str, selector: str, identity: str) -> list[str]:
    name, key_place = signer(domain, selector, "sign")
    tokens = [f" d={name};", f" s={key_place};"]
    if identity:
        local, at, host = identity.rpartition("@")
        below = domain_name(host.encode())
        if not at or not below or not is_within(below, name):
            raise ValueError(f"{identity!r} is no address in {name}")
        tokens.append(f" i={_TO_ENCODE.sub(_encoded, local.encode()).decode()}@{below};")
    return tokens


def _encoded(match: re.Match[bytes]) -> bytes:
    return b"=%02X" % match[0][0]


def _given_names(names: Sequence[str]) -> list[str]:
    if not any(name.lower() == "from" for name in names):
        raise ValueError("From must be signed")
    wrong = [name for name in names if not FIELD_NAME.fullmatch(name)]
    if wrong:
        raise ValueError(f"{wrong[0]!r} is no name of a header field")
    return list(names)
