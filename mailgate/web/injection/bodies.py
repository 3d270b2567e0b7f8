"""Bodies of messages, with the fields that say how they are to be read (RFC 2045, RFC 2046): all in ASCII, so that what
is signed stays as it is on its way, whatever the hosts there can take.
"""

from __future__ import annotations

import base64
import secrets
from binascii import b2a_qp
from collections.abc import Sequence
from email.generator import BytesGenerator
from email.message import EmailMessage
from email.policy import SMTP
from io import BytesIO

from mailgate.web.injection.models import Attachment
from mailgate.web.injection.pieces import lines_together

__all__ = ["body"]

_POLICY = SMTP.clone(cte_type="7bit")
#: Octets of a line that stands as it is (RFC 5322 section 2.1.1).
_LONGEST = 78


def body(text: str, html: str, attachments: Sequence[Attachment]) -> bytes:
    """The fields and what they are about. Without `html`, or with both, there is text, empty or not."""
    if attachments:
        return _with_files(text, html, attachments)
    # Most messages are no more than this, and the library that puts files into others takes as long as all the rest.
    parts = [_text(text, b"plain")] if text or not html else []
    parts += [_text(html, b"html")] if html else []
    if len(parts) == 1:
        return b"MIME-Version: 1.0\r\n" + parts[0]
    boundary = _boundary().encode()
    head = b'MIME-Version: 1.0\r\nContent-Type: multipart/alternative; boundary="%b"\r\n\r\n' % boundary
    return head + b"".join(b"--%b\r\n%b\r\n" % (boundary, one) for one in parts) + b"--%b--\r\n" % boundary


def _text(text: str, subtype: bytes) -> bytes:
    """An entity with this text, each of whose lines ends."""
    octets = text.encode()
    lines = octets.splitlines()
    octets = b"\r\n".join(lines) + b"\r\n"
    if octets.isascii() and max(map(len, lines), default=0) <= _LONGEST:
        encoding = b"7bit"
    elif octets.isascii() or len(text) * 6 > len(octets) * 5:
        encoding, octets = b"quoted-printable", b2a_qp(octets, istext=True)
    else:
        encoding, octets = b"base64", base64.encodebytes(octets).replace(b"\n", b"\r\n")
    head = b'Content-Type: text/%b; charset="utf-8"\r\nContent-Transfer-Encoding: %b\r\n\r\n'
    return head % (subtype, encoding) + octets


def _with_files(text: str, html: str, attachments: Sequence[Attachment]) -> bytes:
    message = EmailMessage(_POLICY)
    if text or not html:
        message.set_content(_lines(text))
        if html:
            message.add_alternative(_lines(html), subtype="html")
    else:
        message.set_content(_lines(html), subtype="html")
    page = next((part for part in message.walk() if part.get_content_type() == "text/html"), message)
    for one in sorted(attachments, key=lambda one: not one.cid):  # what belongs to the page is put there first
        maintype, _, subtype = one.type.partition("/")
        name = one.name or None
        if one.cid:
            page.add_related(one.content, maintype, subtype, cid=f"<{one.cid}>", disposition="inline", filename=name)
        else:
            message.add_attachment(one.content, maintype, subtype, disposition="attachment", filename=name)
    for part in message.walk():
        if part.is_multipart():
            part.set_boundary(_boundary())  # none is searched for in all that it parts
    octets = BytesIO()
    _Generator(octets, policy=_POLICY).flatten(message)
    return octets.getvalue()


class _Generator(BytesGenerator):
    """Splits what is large into lines a piece at a time."""

    def _write_lines(self, lines: str) -> None:
        for piece in lines_together(lines, "\n"):
            super()._write_lines(piece)  # type: ignore[misc]  # typeshed has it not


def _boundary() -> str:
    return f"=_{secrets.token_hex(16)}"


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")
