"""A text in the body: where it goes, in which form, and that everything else stays as it was."""

from __future__ import annotations

import base64
import quopri
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mailgate.message import (
    Content,
    ContentWriter,
    apply_edits,
    behind_header,
    body_at,
    check_body_edits,
    materialised,
)
from mailgate.mime.html import bottom_of, top_of
from mailgate.mime.insert import MAX_TEXT, Inserted, Insertion, NotInsertedError, insert

PLAIN = Insertion("-- \nExample Ltd", "<p>Example Ltd</p>")
UMLAUT = Insertion("Grüße, Müller", "<p>Grüße, Müller</p>")
TOP = Insertion("Outside!", "<p>Outside!</p>", is_top=True)


def edits_of(data: bytes, insertion: Insertion = PLAIN) -> Inserted:
    content = Content(data)
    inserted = insert(data, content.header, body_at(content), insertion, "banner")
    check_body_edits(content, [], inserted.splices)
    return inserted


def changed(data: bytes, insertion: Insertion = PLAIN) -> bytes:
    inserted = edits_of(data, insertion)
    content = materialised(Content(data), inserted.splices, ContentWriter(Path(), 1 << 26))
    return apply_edits(content.header, inserted.header) + b"".join(behind_header(content))


def read(data: bytes) -> EmailMessage:
    return message_from_bytes(data, policy=policy.SMTP)


def texts(data: bytes) -> list[str]:
    return [
        part.get_content().replace("\r\n", "\n") for part in read(data).walk() if part.get_content_maintype() == "text"
    ]


def mail(type_: str, body: bytes, label: str = "") -> bytes:
    fields = f"Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: {type_}\r\n"
    return (fields + (f"Content-Transfer-Encoding: {label}\r\n" if label else "")).encode() + b"\r\n" + body


def parts(kind: str, *bodies: bytes) -> bytes:
    body = b"".join(b"--b\r\n" + one + b"\r\n" for one in bodies) + b"--b--\r\n"
    return mail(f'multipart/{kind}; boundary="b"; protocol="x"', body)


TEXT = b"Content-Type: text/plain\r\n\r\nhello"
HTML = b"Content-Type: text/html\r\n\r\n<html><body>hello</body></html>"
FILE = b"Content-Type: text/plain\r\nContent-Disposition: attachment\r\n\r\nfile"
MESSAGE = b"Content-Type: message/rfc822\r\n\r\nSubject: inner\r\n\r\ninner"


def test_plain_text() -> None:
    data = b"Subject: x\r\n\r\nhello\r\n"
    assert changed(data) == data + b"\r\n-- \r\nExample Ltd\r\n"
    assert changed(data, TOP) == b"Subject: x\r\n\r\nOutside!\r\n\r\nhello\r\n"


def test_html() -> None:
    data = mail("text/html", b"<html><BODY class='a>b'>hello</body ></html>\r\n")
    assert b"hello\r\n<p>Example Ltd</p>\r\n</body >" in changed(data)
    assert b"<BODY class='a>b'>\r\n<p>Outside!</p>\r\nhello" in changed(data, TOP)
    assert b"<p>Gr&#252;&#223;e, M&#252;ller</p>" in changed(data, UMLAUT)


def test_each_alternative_and_no_attachment() -> None:
    alternative = b'Content-Type: multipart/alternative; boundary="c"\r\n\r\n' + b"".join(
        b"--c\r\n" + one + b"\r\n" for one in (TEXT, b"Content-Type: text/calendar\r\n\r\nBEGIN:VCALENDAR", HTML)
    )
    data = parts("mixed", alternative + b"--c--", FILE, MESSAGE)
    plain, calendar, html, file, inner = texts(changed(data))
    assert plain.rstrip() == "hello\n\n-- \nExample Ltd"
    assert "<p>Example Ltd</p>\n</body>" in html
    assert [one.rstrip() for one in (calendar, file, inner)] == ["BEGIN:VCALENDAR", "file", "inner"]
    assert len(edits_of(data).splices) == 2


def test_the_first_text_of_mixed_and_the_root_of_related() -> None:
    assert texts(changed(parts("mixed", FILE, TEXT, TEXT)))[1].rstrip().endswith("Ltd")
    image = b"Content-Type: image/png\r\nContent-Transfer-Encoding: base64\r\n\r\nAAAA"
    assert "Ltd" in texts(changed(parts("related", HTML, image)))[0]
    with pytest.raises(NotInsertedError, match="no text"):
        edits_of(parts("related", image, HTML))


SIGNATURE = b"Content-Type: application/pgp-signature\r\n\r\nxx"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (parts("signed", TEXT, SIGNATURE), "signed"),
        (parts("encrypted", TEXT, SIGNATURE), "encrypted"),
        (parts("report", TEXT, b"Content-Type: message/delivery-status\r\n\r\nx: y"), "a report"),
        (parts("mixed", b'Content-Type: multipart/signed; boundary="c"\r\n\r\n--c\r\n\r\nx\r\n--c--', TEXT), "signed"),
        (mail("application/pkcs7-mime; smime-type=signed-data", b"AAAA\r\n", "base64"), "signed or encrypted"),
        (mail("text/plain", b"hi\r\n-----BEGIN PGP SIGNED MESSAGE-----\r\n"), "signed or encrypted"),
        (mail("text/plain", b"-----BEGIN PGP MES=\r\nSAGE-----\r\n", "quoted-printable"), "signed or encrypted"),
        (parts("mixed", FILE, MESSAGE), "no text"),
        (mail("text/calendar", b"BEGIN:VCALENDAR\r\n"), "no text"),
        (mail("text/plain; charset=utf-16", b"AAAA\r\n", "base64"), "not known"),
        (mail("text/plain; charset=idna", b"hi\r\n"), "not known"),
        (mail("text/plain; charset=nothing", b"hi\r\n"), "not known"),
        (mail("text/plain", b"!!!\r\n", "base64"), "damaged"),
        (b"Subject: x\r\n", "no body"),
    ],
)
@pytest.mark.parametrize("insertion", [PLAIN, TOP])
def test_what_is_left_alone(data: bytes, why: str, insertion: Insertion) -> None:
    with pytest.raises(NotInsertedError, match=why):
        edits_of(data, insertion)


@pytest.mark.parametrize("label", ["", "7bit", "8bit", "quoted-printable", "base64"])
@pytest.mark.parametrize("charset", ["us-ascii", "utf-8", "iso-8859-1", "iso-2022-jp"])
@pytest.mark.parametrize("is_sub", [False, True])
def test_any_text_in_any_encoding(label: str, charset: str, is_sub: bool) -> None:
    body = {
        "base64": base64.encodebytes(b"hello = you").replace(b"\n", b"\r\n"),
        "quoted-printable": b"hello =3D you\r\n",
    }
    whole = mail(f"text/plain; charset={charset}; x=y", body.get(label, b"hello = you\r\n"), label)
    part = whole.partition(b"1.0\r\n")[2].removesuffix(b"\r\n")
    data = parts("mixed", part, FILE) if is_sub else whole
    for insertion in (UMLAUT, Insertion("Preis: 5 €, 日本", "", is_top=True)):
        new = changed(data, insertion)
        text = texts(new)[0]
        lines = [insertion.text, "", "hello = you"]
        assert text.splitlines() == (lines if insertion.is_top else lines[::-1])
        body_ = new.partition(b"\r\n\r\n")[2]
        assert body_.isascii() or label == "8bit"
        assert all(len(line) < 79 for line in body_.splitlines())
        if is_sub:
            assert new.endswith(b"--b\r\n" + FILE + b"\r\n--b--\r\n")


@pytest.mark.parametrize("label", ["7bit", "quoted-printable", "base64"])
@pytest.mark.parametrize("kind", ["plain", "html"])
@pytest.mark.parametrize("insertion", [PLAIN, UMLAUT, TOP])
@pytest.mark.parametrize("end", [b"\r\n", b""])
def test_an_empty_part(label: str, kind: str, insertion: Insertion, end: bytes) -> None:
    # Without an end of its own, its empty line is the one before the delimiter.
    part = f"Content-Type: text/{kind}\r\nContent-Transfer-Encoding: {label}\r\n\r\n".encode() + end
    data = parts("mixed", part.removesuffix(b"\r\n"), TEXT)
    first, second = texts(changed(data, insertion))
    assert (insertion.html if kind == "html" else insertion.text).splitlines()[-1][:3] in first
    assert second.strip() == "hello"


def test_a_charset_that_can_hold_it_stays() -> None:
    data = mail("text/plain; charset=iso-8859-1", b"hello\r\n", "quoted-printable")
    assert changed(data, UMLAUT) == data + b"\r\nGr=FC=DFe, M=FCller\r\n"
    data = mail("text/plain; charset=utf-8", b"hello\r\n", "7bit")
    assert changed(data, UMLAUT).endswith(b"quoted-printable\r\n\r\nhello\r\n\r\nGr=C3=BC=C3=9Fe, M=C3=BCller\r\n")


def test_octets_that_the_charset_does_not_have_stay() -> None:
    data = mail("text/plain; charset=us-ascii", b"h\xe9llo\r\n", "8bit")
    assert changed(data, Insertion("Größe €", "")) == data + b"\r\nGroe \r\n"


def test_flowed_text() -> None:
    data = mail("text/plain; format=flowed", b"flows \r\n")
    found = changed(data, Insertion("a  \n> b\nFrom c\n-- \nd", ""))
    assert found == data + b"\r\na\r\n > b\r\n From c\r\n-- \r\nd\r\n"


def test_quoted_printable_keeps_its_lines() -> None:
    body = b'<bo=\r\ndy cl=\r\nass=3D"x=3Ey">=E4 he=\r\nllo</bo=\r\ndy></html>\r\n'
    data = mail("text/html; charset=iso-8859-1", body, "quoted-printable")
    (bottom,), (top,) = edits_of(data).splices, edits_of(data, TOP).splices
    at = len(data) - len(body)
    assert (bottom.start, bottom.end) == (at + body.index(b"</bo"),) * 2
    assert (top.start, top.end) == (at + body.index(b"=E4"),) * 2
    for insertion in (PLAIN, TOP):
        text = quopri.decodestring(changed(data, insertion).partition(b"\r\n\r\n")[2])
        assert insertion.html.encode() in text
    assert changed(mail("text/plain", b"ends=", "quoted-printable")).endswith(b"ends=\r\n\r\n--=20\r\nExample Ltd")


def test_a_byte_order_mark_stays_first() -> None:
    data = mail("text/plain; charset=utf-8", b"\xef\xbb\xbfhello\r\n", "8bit")
    assert b"\r\n\r\n\xef\xbb\xbfOutside!\r\n\r\nhello" in changed(data, TOP)


@pytest.mark.parametrize("label", ["", "quoted-printable", "base64"])
def test_the_marker(label: str) -> None:
    body = b"> -- Example\r\n>  Ltd, London\r\n".replace(b"\r\n> ", b"")
    body = base64.encodebytes(body) if label == "base64" else body
    marked = Insertion("x", "<p>x</p>", marker="Example  Ltd, London")
    with pytest.raises(NotInsertedError, match="already"):
        edits_of(mail("text/plain", body, label), marked)
    with pytest.raises(NotInsertedError, match="already"):
        edits_of(parts("alternative", TEXT, HTML.replace(b"hello", b"Example&#32;Ltd,\r\nLondon")), marked)
    edits_of(parts("mixed", TEXT, FILE.replace(b"file", body)), marked)


def test_only_one_form() -> None:
    data = parts("alternative", TEXT, HTML)
    assert [one.data for one in edits_of(data, Insertion("", "<p>x</p>")).splices] == [b"\r\n<p>x</p>\r\n"]
    assert [one.data for one in edits_of(data, Insertion("x", "")).splices] == [b"\r\n\r\nx"]


def test_long_lines_are_broken() -> None:
    text = changed(mail("text/plain", b"hello\r\n"), Insertion("a" * 5000, ""))
    assert max(map(len, text.split(b"\r\n"))) <= 998
    html = changed(mail("text/html", b"hello\r\n"), Insertion("", "<p>" + "ä word " * 1000 + "</p>"))
    assert max(map(len, html.split(b"\r\n"))) <= 998
    with pytest.raises(NotInsertedError, match="line of more"):
        edits_of(mail("text/html", b"hello\r\n"), Insertion("", "a" * 5000))


def test_bounds() -> None:
    with pytest.raises(NotInsertedError, match="too large"):
        edits_of(mail("text/plain", b"hello\r\n" * (MAX_TEXT // 7 + 1)))
    deep = b"".join(b'Content-Type: multipart/mixed; boundary="%d"\r\n\r\n--%d\r\n' % (n, n) for n in range(200))
    with pytest.raises(NotInsertedError, match="inside one another"):
        edits_of(b"MIME-Version: 1.0\r\n" + deep + b"\r\nhello\r\n")


@pytest.mark.parametrize(
    ("html", "top", "bottom"),
    [
        (b"hello", 0, 5),
        (b"<body>x</body>", 6, 7),
        (b"<!-- <body> </body> -->x", 0, 24),
        (b"<body><!-- </body> -->x</body></html>", 6, 23),
        (b"<head><title></body></title></head>x</html>", 35, 36),
        (b"<html>x", 6, 7),
        (b"<script>'</body>'</SCRIPT ><body>x", 33, 34),
        (b"<a title='</body>'>x</a></body>", 0, 24),
        (b"<body>x</body>y</body>z", 6, 15),
        (b"<body>x<!-- </body>", 6, 19),
        (b"<style></body>", 0, 14),
        (b"<body", 0, 5),
        (b"< body>x</ body>", 0, 16),
    ],
)
def test_places_in_html(html: bytes, top: int, bottom: int) -> None:
    assert (top_of(html), bottom_of(html)) == (top, bottom)


@pytest.mark.parametrize(
    "piece", [b"<a \"'>", b"<a '", b"<!--", b'<a "x>', b"<body>", b"<script>", b"<", b"</body", b"\"'<b>"]
)
def test_hostile_html_takes_linear_time(piece: bytes) -> None:
    # A scan that went through the rest at each tag would need hours for this.
    html = piece * (1_000_000 // len(piece))
    for place in (top_of(html), bottom_of(html)):
        assert 0 <= place <= len(html)


@given(st.binary(max_size=300), st.sampled_from(["", "8bit", "quoted-printable"]), st.sampled_from(["plain", "html"]))
@example(b"=", "quoted-printable", "plain")
@example(b"a==\r\n=3", "quoted-printable", "html")
def test_any_octets(body: bytes, label: str, kind: str) -> None:
    data = mail(f"text/{kind}; charset=utf-8", body + b"\r\n", label)
    content = Content(data)
    for insertion in (UMLAUT, TOP):
        try:
            inserted = insert(data, content.header, body_at(content), insertion)
        except NotInsertedError:
            continue
        rest = data
        for splice in sorted(inserted.splices, key=lambda one: -one.start):
            rest = rest[: splice.start] + rest[splice.end :]
        if not inserted.header:
            assert rest == data  # octets only come in


def test_a_flood_of_alternatives_stays() -> None:
    assert edits_of(parts("alternative", *[TEXT] * 50)).splices
    with pytest.raises(NotInsertedError, match="too many"):
        edits_of(parts("alternative", *[TEXT] * 51))
