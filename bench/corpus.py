"""Messages for scanners: text as people write it, plain and with HTML, and with an attachment that is unpacked."""

from __future__ import annotations

import io
import random
import zipfile
from base64 import encodebytes

__all__ = ["CORPUS", "NUMBER", "message"]

#: Stands where each message has a number of its own, of the same length.
NUMBER = b"@@@@@@@@@@@@@@@@"

#: The kinds, each with what it is.
CORPUS = {
    "2 KiB": "plain text",
    "50 KiB": "text and HTML",
    "attachment": "plain text and a zip archive of 48 KiB in base64",
}

_WORDS = (
    "the of and to in a is that for it as was with be by on not he his but at are this have from which one had they "
    "you were all their her she there would we him been has when who will no more if out so said what up its about "
    "order meeting letter price week house travel friend report answer question garden winter paper number family"
)


def message(kind: str) -> bytes:
    """A message of this kind of `CORPUS`, whole lines, always the same."""
    chance = random.Random(kind)  # noqa: S311  text, no secret
    if kind == "2 KiB":
        return _head(b"Content-Type: text/plain; charset=utf-8\r\n") + _first_line() + _text(chance, 1600)
    if kind == "50 KiB":
        html = b"<html><body>\r\n" + _paragraphs(chance, 25_000) + b"</body></html>\r\n"
        parts = [_part(b"text/plain; charset=utf-8", _first_line() + _text(chance, 23_500))]
        parts.append(_part(b"text/html; charset=utf-8", html))
        return _multipart(b"alternative", parts)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        entry = zipfile.ZipInfo("numbers.bin", (2026, 1, 1, 0, 0, 0))
        file.writestr(entry, chance.randbytes(36_000))
    attached = encodebytes(archive.getvalue()).replace(b"\n", b"\r\n")
    fields = b'Content-Transfer-Encoding: base64\r\nContent-Disposition: attachment; filename="numbers.zip"\r\n'
    text = _part(b"text/plain; charset=utf-8", _first_line() + _text(chance, 1600))
    return _multipart(b"mixed", [text, _part(b"application/zip", attached, fields)])


def _head(fields: bytes) -> bytes:
    return (
        b"From: Ann Example <from@client.test>\r\nTo: Bob <to@bench.test>\r\nSubject: The order of this week\r\n"
        b"Date: Thu, 26 Nov 2026 06:00:00 +0000\r\nMessage-ID: <" + NUMBER + b"@client.test>\r\n"
        b"MIME-Version: 1.0\r\n" + fields + b"\r\n"
    )


def _first_line() -> bytes:
    return b"Your number is " + NUMBER + b".\r\n"


def _text(chance: random.Random, size: int) -> bytes:
    words, lines = _WORDS.split(), list[str]()
    while sum(map(len, lines)) + 2 * len(lines) < size:
        lines.append(" ".join(chance.choices(words, k=12)).capitalize() + ".")
    return "\r\n".join([*lines, ""]).encode()


def _paragraphs(chance: random.Random, size: int) -> bytes:
    text = _text(chance, size * 9 // 10)
    link = b'<p>See <a href="https://www.client.test/orders">the list</a>.</p>\r\n'
    return link + b"".join(b"<p>" + line + b"</p>\r\n" for line in text.splitlines())


def _part(kind: bytes, body: bytes, fields: bytes = b"") -> bytes:
    return b"--edge\r\nContent-Type: " + kind + b"\r\n" + fields + b"\r\n" + body


def _multipart(kind: bytes, parts: list[bytes]) -> bytes:
    head = _head(b"Content-Type: multipart/" + kind + b'; boundary="edge"\r\n')
    return head + b"".join(parts) + b"--edge--\r\n"
