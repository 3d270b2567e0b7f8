"""Messages that are made to hurt whoever looks into them: bombs, nests, floods, and what is wrong in every way."""

from __future__ import annotations

import gzip
import io
import random
import zipfile
from base64 import encodebytes
from collections.abc import Callable
from functools import cache

from scanner_parts import mail

__all__ = ["HOSTILE", "LONG_LINE"]

#: Octets of the line that is longer than any filter looks at.
LONG_LINE = 100 * 1024 * 1024

_MIB = 1024 * 1024


def _zipped(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return file.getvalue()


@cache
def _zeros() -> bytes:
    """A zip of 100 MiB of nothing."""
    return _zipped({"zeros.bin": bytes(100 * _MIB)})


def _attached(data: bytes, name: str, kind: str = "application/octet-stream") -> bytes:
    head = (
        f'--b\r\nContent-Type: {kind}; name="{name}"\r\nContent-Disposition: attachment; filename="{name}"\r\n'
        "Content-Transfer-Encoding: base64\r\n\r\n"
    ).encode()
    text = b"--b\r\nContent-Type: text/plain\r\n\r\nsee there\r\n"
    body = text + head + encodebytes(data).replace(b"\n", b"\r\n") + b"--b--\r\n"
    return mail(body, 'Content-Type: multipart/mixed; boundary="b"')


def _bomb_of_bombs() -> bytes:
    data = _zeros()
    for level in range(6):
        data = _zipped({f"{level}-{number}.zip": data for number in range(10)})
    return _attached(data, "bomb.zip", "application/zip")


def _many_files() -> bytes:
    return _attached(_zipped({f"{number}.txt": b"" for number in range(20_000)}), "many.zip")


def _gzip_again() -> bytes:
    data = bytes(50 * _MIB)
    for _ in range(8):
        data = gzip.compress(data, 9)
    return _attached(data, "again.gz", "application/gzip")


def _lying_zip() -> bytes:
    """Its table of contents says other sizes than there are, and it is cut off."""
    data = bytearray(_zipped({f"{number}.exe": random.Random(number).randbytes(2000) for number in range(20)}))
    for at in range(len(data) // 2, len(data) - 30, 7):
        data[at] ^= 0xFF
    return _attached(bytes(data), "lying.zip")


def _nested_multiparts(depth: int) -> bytes:
    opening = "".join(
        f'--b{number}\r\nContent-Type: multipart/mixed; boundary="b{number + 1}"\r\n\r\n' for number in range(depth)
    )
    closing = "".join(f"--b{number}--\r\n" for number in range(depth, -1, -1))
    inner = f"--b{depth}\r\n\r\nhello\r\n"
    return mail((opening + inner + closing).encode(), 'Content-Type: multipart/mixed; boundary="b0"')


def _same_boundary(depth: int) -> bytes:
    part = b'--b\r\nContent-Type: multipart/mixed; boundary="b"\r\n\r\n'
    return mail(part * depth + b"--b--\r\n" * depth, 'Content-Type: multipart/mixed; boundary="b"')


def _nested_messages(depth: int) -> bytes:
    return mail(b"Content-Type: message/rfc822\r\n\r\n" * depth + b"hello\r\n", "Content-Type: message/rfc822")


def _many_parts(number: int) -> bytes:
    part = b'--b\r\nContent-Type: image/png; name="a.exe"\r\n\r\nMZ\r\n'
    return mail(part * number + b"--b--\r\n", 'Content-Type: multipart/mixed; boundary="b"')


def _boundary(value: str, body: bytes) -> bytes:
    return mail(body, f"Content-Type: multipart/mixed; boundary={value}")


def _encoded(encoding: str, body: bytes, kind: str = "text/plain; charset=utf-8") -> bytes:
    return mail(body, f"Content-Type: {kind}", f"Content-Transfer-Encoding: {encoding}")


def _rfc2231(number: int) -> bytes:
    flood = "".join(f";\r\n name*{index}*=%41%4{index % 10}" for index in range(number))
    twice = "".join(f";\r\n filename*{index % 7}={'x' * 50}" for index in range(number))
    return mail(
        b"hello\r\n",
        f"Content-Type: application/octet-stream{flood}",
        f"Content-Disposition: attachment{twice}; filename*=utf-8'en'%ff%fe%",
    )


def _links(number: int) -> bytes:
    text = "".join(
        f'<a href="http://{index}.client.example/?u=http%3A%2F%2Fx{index}.test">x</a>' for index in range(number)
    )
    return mail(f"<html>{text}{'<b>' * 20_000}</html>\r\n".encode(), "Content-Type: text/html; charset=utf-8")


def _random(seed: int) -> bytes:
    """The words of MIME in no order."""
    chance = random.Random(seed)
    words = [
        *(b"\r\n", b"\r\n\r\n", b"--b", b"--b--", b"--", b"\xff\xfe", b"\0", b'"', b"\\", b"(", b"=\r\n"),
        *(b'Content-Type: multipart/mixed; boundary="b"\r\n', b"Content-Type: ", b"text/html", b"; charset=", b"utf-7"),
        *(b"Content-Transfer-Encoding: ", b"base64\r\n", b"message/rfc822\r\n", b"=?utf-8?q?=41?="),
        *(b"http://a.test/%", b"<a href=", b"begin 644 a\r\n"),
    ]
    return mail(b"".join(chance.choice(words) for _ in range(3000)), 'Content-Type: multipart/mixed; boundary="b"')


#: Each by what is wrong with it; made when it is asked for.
HOSTILE: dict[str, Callable[[], bytes]] = {
    "a zip of 100 MiB of nothing": lambda: _attached(_zeros(), "zeros.zip"),
    "a zip bomb of zip bombs": _bomb_of_bombs,
    "a zip with 20,000 files": _many_files,
    "compressed again and again": _gzip_again,
    "a zip that lies": _lying_zip,
    "multiparts a thousand deep": lambda: _nested_multiparts(1000),
    "multiparts fifty thousand deep": lambda: _nested_multiparts(50_000),
    "one boundary a thousand deep": lambda: _same_boundary(1000),
    "messages a thousand deep": lambda: _nested_messages(1000),
    "messages a hundred thousand deep": lambda: _nested_messages(100_000),
    "fifty thousand parts": lambda: _many_parts(50_000),
    "a boundary that never comes": lambda: _boundary('"never"', b"hello\r\n" * 1000),
    "a boundary that never ends": lambda: _boundary('"b"', b"--b\r\n\r\nhello\r\n--b"),
    "an empty boundary": lambda: _boundary('""', b"--\r\n\r\nhello\r\n----\r\n" * 1000),
    "no boundary": lambda: mail(b"--\r\n\r\nhello\r\n", "Content-Type: multipart/mixed"),
    "a boundary of a megabyte": lambda: _boundary(f'"{"b" * _MIB}"', b"--" + b"b" * _MIB + b"\r\n\r\nhello\r\n"),
    "a boundary that begins another": lambda: _boundary(
        '"b"', b"--bb\r\n--b\r\n\r\nhello\r\n--b-\r\n--b --\r\n--b--x\r\n"
    ),
    "two boundaries": lambda: _boundary('"a"; boundary="b"', b"--a\r\n\r\none\r\n--b\r\n\r\ntwo\r\n--a--\r\n--b--\r\n"),
    "a field of ten megabytes": lambda: mail(b"hello\r\n", "X-Long: " + "x" * 10 * _MIB),
    "a folded field of ten megabytes": lambda: mail(b"hello\r\n", "X-Long:" + "\r\n xxxxxxxxxxxxxx" * 640 * 1024),
    "two hundred thousand fields": lambda: mail(b"hello\r\n", *(f"X-{number}: x" for number in range(200_000))),
    "ten thousand addresses": lambda: mail(
        b"hello\r\n", f"Cc: {', '.join(f'a{n} <a{n}@x.test>' for n in range(10_000))}"
    ),
    "ten thousand nested comments": lambda: mail(b"hello\r\n", f"Sender: {'(' * 10_000}x{')' * 9_999} <a@x.test>"),
    "encoded words without an end": lambda: mail(b"hello\r\n", "Subject: " + "=?utf-8?q?=C3" * 50_000),
    "every field twice": lambda: mail(
        b"hello\r\n", "From: Eve <eve@x.test>", "Subject: two", "Content-Type: a/b", "Content-Type: c/d"
    ),
    "no header": lambda: b"\r\n" + b"hello\r\n" * 10,
    "nothing but a header": lambda: b"Subject: x\r\n",
    "no line that is a field": lambda: b"hello\r\n" * 1000,
    "base64 that is none": lambda: _encoded("base64", b"=" * 100_000 + b"\r\n" + b"!@#$\r\n" * 10_000 + b"A"),
    "quoted-printable that is none": lambda: _encoded("quoted-printable", b"=" * 99_999 + b"=Z=\r\n=0=4\r\n" * 9000),
    "an encoding that nobody knows": lambda: _encoded("x-rot13, base64; 8bit", b"uryyb\r\n"),
    "a charset that nobody knows": lambda: _encoded("8bit", b"\xff\xfe\x00h\r\n", f"text/plain; charset={'y' * 5000}"),
    "utf-7 that is none": lambda: _encoded(
        "base64", encodebytes(b"\xff\xfe\x00\xd8" * 5000), "text/html; charset=utf-7"
    ),
    "uuencode without an end": lambda: mail(b"begin 644 a.exe\r\n" + b"M" + b"`" * 60 + b"\r\n" * 50_000),
    "parameters of RFC 2231 without end": lambda: _rfc2231(50_000),
    "twenty thousand links": lambda: _links(20_000),
    "every octet": lambda: mail(bytes(range(256)) * 2000, "Content-Type: text/plain; charset=utf-8"),
    **{f"words of MIME in no order, {seed}": lambda seed=seed: _random(seed) for seed in range(8)},  # type: ignore[misc]
}
