"""Content converted for a next hop that cannot take it as it is: fit for it, and still the same message."""

from __future__ import annotations

import contextlib
import email
import email.message
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mailgate.message import AddHeader, Content, Edit, RemoveHeader, rendered
from mailgate.mime import structure
from mailgate.mime.recode import ContentClass, RecodeError, Recoding, Target, classify, recode, recoded
from mailgate.mime.structure import MAX_NESTING, MAX_PARTS, scan

RANKS: list[ContentClass] = ["7BIT", "8BIT", "BINARY"]
TARGETS: list[Target] = ["7BIT", "8BIT"]
BOTH = pytest.mark.parametrize("target", TARGETS)

TEXT_8BIT = "Grüße aus Köln\r\nzweite Zeile mit Leerzeichen am Ende \r\n".encode()
#: What base64 is for: lone line ends, NUL, and what looks like delimiters after a lone LF or CR.
BINARY = b"\x00\x01\n--out\n--out--\n\r--out\r\xff\n\r\n--out\n\r\n --out\r\n--outer\r\n.\r\n" + b"x" * 3000 + b"\r"


def converted(octets: bytes, target: Target, *edits: Edit) -> bytes:
    chunks = list(recoded(Content(octets), edits, target))
    result = b"".join(chunks)
    assert max(map(len, chunks)) <= 320 * 1024
    assert RANKS.index(classify([result])) <= RANKS.index(target)
    return result


def refusal(octets: bytes, target: Target, *edits: Edit) -> str:
    with pytest.raises(RecodeError) as caught:
        recoded(Content(octets), edits, target)
    return caught.value.status


def leaves(octets: bytes) -> list[tuple[str, bytes]]:
    """Type and decoded octets of every part that is no container, as others read them."""
    parts = email.message_from_bytes(octets).walk()
    return [(part.get_content_type(), payload(part)) for part in parts if not part.is_multipart()]


def payload(part: email.message.Message) -> bytes:
    decoded = part.get_payload(decode=True)
    assert isinstance(decoded, bytes)
    return decoded


def labels(octets: bytes) -> list[str | None]:
    parts = email.message_from_bytes(octets).walk()
    return [part.get("Content-Transfer-Encoding") for part in parts]


def part(type_: str, label: str, body: bytes) -> bytes:
    lines = [f"Content-Type: {type_}", *([f"Content-Transfer-Encoding: {label}"] if label else [])]
    return "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n" + body


def multipart(*parts: bytes, boundary: str = "out", subtype: str = "mixed", label: str = "binary") -> bytes:
    delimiter = f"--{boundary}".encode()
    body = b"".join(delimiter + b"\r\n" + one + b"\r\n" for one in parts) + delimiter + b"--\r\n"
    return part(f'multipart/{subtype}; boundary="{boundary}"', label, body)


def message(entity: bytes) -> bytes:
    return b"From: a@example.org\r\nSubject: one\r\n two\r\nMIME-Version: 1.0\r\n" + entity


@pytest.mark.parametrize(
    ("octets", "expected"),
    [
        (b"", "7BIT"),
        (b"a\r\n" + b"b" * 998 + b"\r\n" + b"c" * 998, "7BIT"),
        (b"\xc3\xbc\r\n", "8BIT"),
        (b"a\r\n" + b"b" * 999 + b"\r\n", "BINARY"),
        (b"b" * 999, "BINARY"),
        (b"a\nb\r\n", "BINARY"),
        (b"a\rb\r\n", "BINARY"),
        (b"a\r", "BINARY"),
        (b"\n", "BINARY"),
        (b"a\0\r\n", "BINARY"),
        (b"\r\n" * 3000 + b"\xff", "8BIT"),
    ],
)
def test_what_content_is_does_not_depend_on_how_it_is_cut(octets: bytes, expected: ContentClass) -> None:
    for size in (1, 2, 3, 7, 500, 999, 1000, 5000):
        assert classify(octets[at : at + size] for at in range(0, len(octets), size)) == expected


@given(
    st.lists(st.sampled_from([b"\r\n", b"\r", b"\n", b"\0", b"\xe4", b"a" * 499, b"b" * 500]), max_size=12), st.data()
)
def test_classes_are_what_the_rules_say(pieces: list[bytes], data: st.DataObject) -> None:
    octets = b"".join(pieces)
    lines = octets.split(b"\r\n")
    is_binary = any(len(line) > 998 or line.translate(None, b"\r\n\0") != line for line in lines)
    expected = "BINARY" if is_binary else "7BIT" if octets.isascii() else "8BIT"
    cut = data.draw(st.integers(0, len(octets)))
    assert classify([octets[:cut], b"", octets[cut:]]) == expected


@BOTH
@pytest.mark.parametrize(
    "octets",
    [
        message(multipart(part("application/octet-stream", "binary", b"plain after all"))),
        message(part("text/plain", "8bit", b"plain after all\r\n")),
        b"Subject: no end of line",
        b"\r\nno header\r\n",
        b"",
        b"A: b\r\n\r\n" + b"line\r\n" * 100_000,
        b"A: b\r\n" * 50_000 + b"\r\nbody\r\n",
    ],
)
def test_content_that_is_fit_stays_as_it_is(octets: bytes, target: Target) -> None:
    assert converted(octets, target) == octets
    assert b"".join(recode(Content(octets), target)) == octets


def test_8_bit_content_stays_as_it_is_where_8_bits_may_pass() -> None:
    octets = message(part("text/plain; charset=utf-8", "8bit", TEXT_8BIT))
    assert converted(octets, "8BIT") == octets
    assert converted(octets, "7BIT") != octets


@BOTH
def test_only_what_breaks_the_rule_is_encoded(target: Target) -> None:
    octets = message(
        multipart(
            part("text/plain; charset=utf-8; format=flowed", "8bit", TEXT_8BIT),
            part("application/octet-stream; name=x", "binary", BINARY),
            part("text/html", "", b"<p>as it is\r\n.\r\n"),
            part("image/png", "base64", b"QUJD\r\nREVG"),
            b"\r\nno header, no label",
        )
    )
    result = converted(octets, target)
    assert [body for _, body in leaves(result)] == [
        TEXT_8BIT,
        BINARY,
        b"<p>as it is\r\n.\r\n",
        b"ABCDEF",
        b"no header, no label",
    ]
    first = "quoted-printable" if target == "7BIT" else "8bit"
    container = "7bit" if target == "7BIT" else "8bit"
    assert labels(result) == [container, first, "base64", None, "base64", None]
    assert b"charset=utf-8; format=flowed\r\nContent-Transfer-Encoding: " + first.encode() in result
    assert result.startswith(octets.partition(b"Content-Transfer-Encoding")[0])
    assert result.endswith(octets[octets.index(b"Content-Type: text/html") :])


@BOTH
@pytest.mark.parametrize("label", ["", "7bit", "8bit", "BINARY", "8bits", " binary (as it is)", "utf-8"])
def test_a_label_that_lies_is_replaced(label: str, target: Target) -> None:
    result = converted(message(multipart(part("application/pdf", label, BINARY))), target)
    assert leaves(result) == [("application/pdf", BINARY)]
    assert labels(result) == ["7bit", "base64"]


def test_a_label_that_promises_too_little_is_replaced_though_the_body_is_fit() -> None:
    fit = part("text/plain", "binary", b"fit\r\n")
    result = converted(message(multipart(fit, part("image/gif", "binary", BINARY))), "8BIT")
    assert labels(result) == ["7bit", "7bit", "base64"]
    assert b"\r\n\r\nfit\r\n" in result


def test_only_the_label_changes_in_a_header_section() -> None:
    header = b"content-transfer-encoding:\r\n binary\r\nX-A:  odd \t\r\nContent-Type:image/gif;\r\n\tname=a\r\n"
    twice = header + b"Content-Transfer-Encoding: 8bit\r\n"
    result = converted(message(multipart(twice + b"\r\n" + BINARY)), "8BIT")
    fields = b"X-A:  odd \t\r\nContent-Type:image/gif;\r\n\tname=a\r\n"
    assert b"--out\r\nContent-Transfer-Encoding: base64\r\n" + fields + b"\r\n" in result


@pytest.mark.parametrize(
    ("body", "label"),
    [
        ("plain, with a few ümlauts\r\n" * 100, "quoted-printable"),
        ("日本語のテキスト\r\n" * 100, "base64"),
        ("ends with no line end and ü", "quoted-printable"),
        ("a" * 100_000 + "ü", "quoted-printable"),
        ("ü and a lone LF\n", "base64"),
        ("ü and a NUL\0\r\n", "base64"),
        ("trailing \t\r\n=3D \r\n. \r\n.\r\nFrom ü" + "b" * 80 + " ", "quoted-printable"),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_text_takes_the_shorter_encoding_that_keeps_its_octets(body: str, label: str, nested: bool) -> None:
    octets = part("text/plain; charset=utf-8", "8bit", body.encode())
    result = converted(message(multipart(octets, octets) if nested else octets), "7BIT")
    assert [text for _, text in leaves(result)] == [body.encode()] * (2 if nested else 1)
    assert labels(result)[-1] == label
    assert max(len(line) for line in result.split(b"\r\n")) <= 78
    assert result.endswith(b"\r\n")


def test_text_without_mime_fields_says_that_its_charset_is_unknown() -> None:
    header = b"From: a@example.org\r\nSubject: one\r\n"
    result = converted(header + b"\r\n" + TEXT_8BIT, "7BIT")
    assert result.startswith(
        header + b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=unknown-8bit\r\n"
        b"Content-Transfer-Encoding: quoted-printable\r\n\r\n"
    )
    assert leaves(result) == [("text/plain", TEXT_8BIT)]
    assert converted(b"\r\n" + TEXT_8BIT, "7BIT").startswith(b"MIME-Version: 1.0\r\n")


def test_long_ascii_lines_without_mime_fields_have_no_unknown_charset() -> None:
    body = b"a" * 2000 + b"\r\n"
    result = converted(b"Subject: one\r\n\r\n" + body, "8BIT")
    assert b"charset" not in result
    assert leaves(result) == [("text/plain", body)]


@BOTH
def test_a_message_in_a_message_is_entered_and_never_encoded_itself(target: Target) -> None:
    inner = message(multipart(part("image/png", "binary", BINARY), boundary="in"))
    bare = b"Subject: bare\r\n\r\n" + TEXT_8BIT + b"\n"
    digest = multipart(b"\r\n" + bare, boundary="digest", subtype="digest")
    octets = message(multipart(part("message/rfc822", "binary", inner), part("message/rfc822", "", bare), digest))
    result = converted(octets, target)
    assert leaves(result) == [("image/png", BINARY), *[("text/plain", TEXT_8BIT + b"\n")] * 2]
    assert labels(result)[:4] == ["7bit", "7bit", "7bit", "base64"]
    added = b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=unknown-8bit\r\n"
    assert result.count(b"\r\n\r\nSubject: bare\r\n" + added + b"Content-Transfer-Encoding: base64\r\n\r\n") == 2


def test_a_container_tells_what_stays_in_it() -> None:
    inner = message(part("text/plain; charset=utf-8", "8bit", TEXT_8BIT))
    octets = message(
        multipart(
            multipart(part("message/rfc822", "binary", inner), boundary="deep"),
            multipart(part("image/gif", "binary", BINARY), boundary="deep2"),
        )
    )
    assert labels(converted(octets, "8BIT")) == ["8bit", "8bit", "8bit", "8bit", "7bit", "base64"]
    assert labels(converted(octets, "7BIT")) == ["7bit"] * 3 + ["quoted-printable", "7bit", "base64"]


def test_an_internationalized_message_in_a_message_may_be_encoded() -> None:
    octets = message(multipart(part("message/global", "8bit", "Subject: ü\r\n\r\nü\r\n".encode())))
    assert part("message/global", "base64", b"U3ViamVjdDogw7wNCg0Kw7wNCg==\r\n--out--") in converted(octets, "7BIT")


@BOTH
@pytest.mark.parametrize("subtype", ["signed; micalg=pgp-sha256", "Encrypted"])
def test_signed_and_encrypted_parts_are_never_changed_inside(subtype: str, target: Target) -> None:
    fit = multipart(part("text/plain", "binary", b"fit\r\n"), boundary="s", subtype=subtype, label="binary")
    unfit = multipart(part("image/png", "binary", BINARY), boundary="s", subtype=subtype, label="")
    assert refusal(message(unfit), target) == "5.6.3"
    assert refusal(message(multipart(fit, unfit)), target) == "5.6.3"
    result = converted(message(multipart(fit, part("image/png", "binary", BINARY))), target)
    assert labels(result) == ["7bit", "7bit", "binary", "base64"]
    assert fit.partition(b"\r\n\r\n")[2] in result


def test_8_bits_under_a_signature_pass_where_they_may() -> None:
    signed = multipart(part("text/plain", "8bit", TEXT_8BIT), boundary="s", subtype="signed", label="8bit")
    octets = message(multipart(signed, part("image/png", "binary", BINARY)))
    assert signed in converted(octets, "8BIT")
    assert refusal(octets, "7BIT") == "5.6.3"


@pytest.mark.parametrize(
    "entity",
    [
        part("multipart/mixed", "binary", b"--out\r\n\r\n\xff\n"),
        part("multipart/mixed; boundary=else", "binary", b"--out\r\n\r\n\xff\n\r\n--out--\r\n"),
        part("multipart/mixed; boundary=out", "binary", b"--out--\r\n\xff\n"),
        part("message/partial; number=1; total=2", "7bit", b"\xff\n"),
        part("message/delivery-status", "", b"Reporting-MTA: dns; a\r\n\r\nDiagnostic-Code: smtp; \xff\n\r\n"),
        part("application/octet-stream", "x-uuencode", b"begin 644 a\n#\xff\n"),
        multipart(b"no field\r\nContent-Type: image/png\r\n\r\n" + BINARY),
        multipart(b"X : y\r\nContent-Type: image/png\r\n\r\n" + BINARY),
        multipart(b"X: " + b"a" * 1000 + b"\r\n\r\nbody"),
        multipart(b"X: a\nb\r\n\r\nbody"),
        multipart(b"X: a\r\n" * 50_000 + b"\r\n" + BINARY),
    ],
)
def test_what_cannot_be_converted_is_refused(entity: bytes) -> None:
    assert refusal(message(entity), "8BIT") == "5.6.3"


def test_other_octets_in_header_fields_are_not_ours_to_convert() -> None:
    name = 'application/pdf; name="Größe.pdf"'
    raw = message(multipart(part(name, "base64", b"QUJD")))
    assert refusal(raw, "7BIT") == "5.6.7"
    assert refusal(b"Subject: \xfc\r\n\r\nbody\r\n", "7BIT") == "5.6.7"
    assert refusal(b"Subject: a\nb\r\n\r\nbody\r\n", "8BIT") == "5.6.3"
    assert refusal(b"A: b\r\n" * 50_000 + b"\r\n\xff", "7BIT") == "5.6.3"
    result = converted(message(multipart(part(name, "binary", BINARY))), "8BIT")
    assert labels(result) == ["8bit", "base64"]
    inner = part("message/rfc822", "binary", b"Subject: \xfc\r\n\r\nx\r\n")
    assert labels(converted(message(multipart(inner, part("a/b", "", BINARY))), "8BIT"))[:2] == ["8bit", "8bit"]


def test_the_edits_are_made_before_the_header_is_judged() -> None:
    octets = b"X-Raw: \xfc\r\nSubject: one\r\n\r\n" + TEXT_8BIT
    edits: list[Edit] = [
        RemoveHeader("X-Raw"),
        AddHeader("Received", "from a\r\n\tby b"),
        AddHeader("X-End", "z", at_end=True),
    ]
    result = converted(octets, "7BIT", *edits)
    assert result.startswith(b"Received: from a\r\n\tby b\r\nSubject: one\r\nX-End: z\r\nMIME-Version: 1.0\r\n")
    assert leaves(result) == [("text/plain", TEXT_8BIT)]
    assert refusal(b"Subject: one\r\n\r\nbody\r\n", "7BIT", AddHeader("X-Raw", "ü")) == "5.6.7"
    assert converted(b"X-Raw: \xfc\r\n\r\nbody\r\n", "7BIT", RemoveHeader("X-Raw")) == b"\r\nbody\r\n"


def test_edits_of_fit_content_give_what_they_give_without_conversion() -> None:
    content = Content(b"A: b\r\nB: c\r\n\r\n" + b"body\r\n" * 50_000)
    edits: list[Edit] = [AddHeader("X", "y", at_end=True), RemoveHeader("A")]
    assert b"".join(recoded(content, edits, "7BIT")) == b"".join(rendered(content, edits))


def test_a_plan_gives_header_and_body_apart() -> None:
    octets = message(part("text/plain; charset=utf-8", "8bit", TEXT_8BIT))
    plan = Recoding.of(Content(octets), "7BIT")
    edited = b"X: y\r\nContent-Type: text/plain; charset=utf-8\r\n"
    header, body = plan.header(edited), b"".join(plan.body())
    assert header == edited + b"MIME-Version: 1.0\r\nContent-Transfer-Encoding: quoted-printable\r\n"
    assert body == b"".join(plan.body())
    assert leaves(header + body) == [("text/plain", TEXT_8BIT)]


@pytest.mark.parametrize("wrap", [b"%s", b"%s\n\xff", b"\0%s \n", b"%s!!!\n"])
def test_base64_that_is_not_fit_gets_new_lines_and_the_same_letters(wrap: bytes) -> None:
    letters = b"QUJD" * 30_000 + b"QQ=="
    result = converted(message(multipart(part("image/png", "Base64", wrap % letters))), "8BIT")
    assert leaves(result) == [("image/png", b"ABC" * 30_000 + b"A")]
    assert labels(result)[1] == "Base64"


def test_quoted_printable_that_is_not_fit_is_made_anew() -> None:
    body = b"a=3Db=\nc=\xfc=C3=BC=\r\n" + b"long " * 20_000
    result = converted(message(multipart(part("text/plain", "quoted-printable", body))), "7BIT")
    text = b"a=bc=\xfc\xc3\xbc" + b"long " * 20_000
    assert leaves(result) == [("text/plain", text)]
    assert labels(result)[1] == "quoted-printable"
    lone = converted(message(multipart(part("text/plain", "quoted-printable", b"a\n=3D\n" + b"b" * 999))), "8BIT")
    assert leaves(lone) == [("text/plain", b"a\n=\n" + b"b" * 999)]
    assert labels(lone)[1] == "base64"


def test_preamble_and_epilogue_go_where_they_are_not_fit() -> None:
    octets = message(multipart(multipart(b"\r\ninner", boundary="in"), b"\r\nouter", label="8bit"))
    header, _, body = octets.partition(b"\r\n\r\n")
    noisy = header + b"\r\n\r\nvorz\xfcglich\r\n" + body.replace(b"--in--\r\n", b"--in--\r\nsch\xf6n\r\n") + b"\xe4\r\n"
    quiet = header + b"\r\n\r\n\r\n" + body
    assert converted(noisy, "7BIT") == quiet.replace(b"8bit", b"7bit").replace(b"binary", b"7bit")
    fit = octets.replace(b"--in--\r\n", b"--in--\r\nepilogue\r\n").replace(b"inner", b"inn\xear")
    assert b"--in--\r\nepilogue\r\n" in converted(fit, "7BIT")


@BOTH
@pytest.mark.parametrize(
    "end",
    [
        b"\r\n--out--",
        b"\r\n--out--\r\n",
        b"\r\n--out-- \t \r\n",
        b"",
        b"\r\n--out",
        b"\r\n--out\r\n",
        b"\r\n--out\r\n\r\n",
    ],
)
def test_the_end_may_be_missing(end: bytes, target: Target) -> None:
    begin = message(part("multipart/mixed; boundary=out", "binary", b"--out \t\r\n"))
    octets = begin + part("image/png", "binary", BINARY) + end
    assert leaves(converted(octets, target))[0] == ("image/png", BINARY)


@BOTH
def test_an_outer_delimiter_ends_the_inner_parts(target: Target) -> None:
    inner = part("multipart/mixed; boundary=in", "binary", b"--in\r\n" + part("image/png", "", BINARY))
    again = part("multipart/mixed; boundary=out", "binary", b"")
    result = converted(message(multipart(inner, again, part("image/gif", "", BINARY))), target)
    assert leaves(result)[0::2] == [("image/png", BINARY), ("image/gif", BINARY)]
    assert labels(result) == ["7bit", "7bit", "base64", "7bit", "base64"]


@pytest.mark.parametrize(
    ("parameter", "boundary"),
    [
        (b'boundary="a b"', b"a b"),
        (b'BOUNDARY = "a\\"b\\\\" ; x=y', b'a"b\\'),
        (b"charset=x; boundary=----=_Part_0.1", b"----=_Part_0.1"),
        (b'name="boundary=wrong; boundary=wrong2";\r\n boundary=right', b"right"),
        (b'boundary="open', b"open"),
        (b"boundary=a--", b"a--"),
    ],
)
def test_boundaries_as_they_are_written(parameter: bytes, boundary: bytes) -> None:
    header = b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; " + parameter + b"\r\n\r\n"
    octets = header + b"--%b\r\n\r\n\xfc\r\n--%b\r\n\r\nfit\r\n--%b--\r\n" % (boundary, boundary, boundary)
    result = converted(octets, "7BIT")
    assert b"\r\n\r\nfit\r\n--" + boundary + b"--\r\n" in result
    assert result.count(b"Content-Transfer-Encoding") == 1


def test_parts_with_a_header_and_nothing_else() -> None:
    octets = message(multipart(b"X: y\r\n", b"X: y", b"", b"\r\n", part("image/png", "", BINARY), b"X: z"))
    result = converted(octets, "8BIT")
    assert [body for _, body in leaves(result)] == [b"", b"", b"", b"", BINARY, b""]
    assert refusal(octets.replace(b"X: z", b"X: \n"), "8BIT") == "5.6.3"


def test_nesting_and_parts_are_bounded() -> None:
    def nested(depth: int) -> bytes:
        entity = part("image/png", "binary", BINARY)
        for number in range(depth):
            is_message = number % 3 == 2
            entity = part("message/rfc822", "", entity) if is_message else multipart(entity, boundary=f"n{number}")
        return message(entity)

    assert leaves(converted(nested(MAX_NESTING), "8BIT")) == [("image/png", BINARY)]
    assert refusal(nested(MAX_NESTING + 1), "8BIT") == "5.6.3"
    assert refusal(b"A: b\r\n" + part("message/rfc822", "", b"") * 100_000 + b"\n", "8BIT") == "5.6.3"
    many = [b"\r\n\n"] * (MAX_PARTS - 1)
    assert len(leaves(converted(message(multipart(*many)), "8BIT"))) == MAX_PARTS - 1
    assert refusal(message(multipart(*many, b"")), "8BIT") == "5.6.3"


@pytest.mark.parametrize(
    "body",
    [
        b"\r\n--a" * 400_000,
        b"\r\n--" * 500_000,
        b"\r\n--out\r\n" + b"\r\n--out--" * 200_000,
        b"--out\r\n" + b"A:\r\n" * 500_000,
        b"--out\r\n" + b"\r\n" * 1_000_000,
        b"--out\r\nContent-Type: a/b" + b';"\\' * 60_000 + b"\r\n\r\n",
        b"--out\r\nContent-Type: multipart/mixed; boundary=" + b'"\\"' * 60_000 + b"\r\n\r\n",
        b"--out\r\nContent-Type:" + b"\r\n " * 60_000 + b"x\r\n\r\n",
        b"--out\r\nContent-Type: text/plain\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n" + b"=" * 2_000_000,
        b"--out\r\nContent-Type: text/plain\r\n\r\n" + b"=" * 2_000_000,
        b"--out\r\nContent-Type: text/plain\r\n\r\n" + b"a" * 2_000_000,
    ],
    ids=range(11),
)
def test_hostile_structure_takes_linear_time(body: bytes) -> None:
    octets = message(part("multipart/mixed; boundary=out", "", body + b"\n"))
    with contextlib.suppress(RecodeError):
        converted(octets, "8BIT")


def test_files_and_memory_give_the_same(tmp_path: Path) -> None:
    noise = random.Random(1).randbytes(700_000)
    text = "Zeile mit Umlaut ü\r\n".encode() * 30_000
    octets = message(multipart(part("image/png", "binary", noise), part("text/plain", "8bit", text), boundary="out"))
    path = tmp_path / "content"
    path.write_bytes(octets)
    in_file, in_memory = Content.in_file(path), Content(octets)
    for target in TARGETS:
        chunks = list(recode(in_file, target))
        assert b"".join(chunks) == b"".join(recode(in_memory, target)) == converted(octets, target)
        assert 30 * 1024 < max(map(len, chunks)) <= 320 * 1024
        assert leaves(b"".join(chunks)) == [("image/png", noise), ("text/plain", text)]
    for fit in (b"", b"A: b\r\n\r\nfit\r\n"):
        path.write_bytes(fit)
        assert b"".join(recode(Content.in_file(path), "7BIT")) == fit


def test_a_file_that_is_removed_meanwhile_is_still_sent(tmp_path: Path) -> None:
    octets = message(part("image/png", "binary", BINARY * 100))
    path = tmp_path / "content"
    path.write_bytes(octets)
    chunks = recode(Content.in_file(path), "8BIT")
    path.unlink()
    assert b"".join(chunks) == converted(octets, "8BIT")
    with pytest.raises(OSError, match="content"):
        recode(Content(None, path, 10), "8BIT")


OCTETS = st.one_of(
    st.binary(max_size=300),
    st.lists(
        st.sampled_from(
            [b"a", b" ", b"\t", b"=", b".", b"\r\n", b"\r\n", b"\r", b"\n", b"\0", b"\xc3\xbc", b"\r\n--x", b"y" * 500]
        )
    ).map(b"".join),
)
ENTITIES = st.recursive(
    st.builds(
        part,
        st.sampled_from(["text/plain; charset=utf-8", "application/octet-stream", "TEXT/html", "image/gif"]),
        st.sampled_from(["", "7bit", "8bit", "binary"]),
        OCTETS,
    ),
    lambda inner: st.one_of(
        # What is inside is shorter, so that no boundary comes twice.
        st.lists(inner, min_size=1, max_size=3).map(
            lambda parts: multipart(*parts, boundary=f"=_{sum(map(len, parts))}_")
        ),
        inner.map(lambda entity: part("message/rfc822", "binary", message(entity))),
    ),
    max_leaves=6,
)


def own_leaves(octets: bytes) -> Iterator[bytes]:
    """The bodies of the leaves of an entity made by `part` and `multipart`, read by its own rules."""
    header, _, body = octets.partition(b"\r\n\r\n")
    if b'boundary="' in header:
        delimiter = b"--" + header.partition(b'boundary="')[2].partition(b'"')[0]
        parts = (b"\r\n" + body).split(b"\r\n" + delimiter)
        for one in parts[1:-1]:
            yield from own_leaves(one.removeprefix(b"\r\n"))
    elif b"message/rfc822" in header:
        yield from own_leaves(body)
    else:
        yield body


@given(ENTITIES, st.sampled_from(TARGETS))
@example(part("text/plain", "", b"\xfc\r"), "7BIT")
@example(part("text/plain", "8bit", "ü".encode() + b" " * 80), "7BIT")
def test_any_leaves_come_out_fit_and_with_the_same_octets(entity: bytes, target: Target) -> None:
    octets = message(entity)
    fits = RANKS.index(classify([octets])) <= RANKS.index(target)
    result = converted(octets, target)
    if fits:
        assert result == octets
        return
    assert [body for _, body in leaves(result)] == list(own_leaves(octets))


@given(
    st.lists(
        st.sampled_from(
            [
                b"\r\n",
                b"\r\n\r\n",
                b"--a",
                b"--b",
                b"--",
                b" ",
                b"\n",
                b"\r",
                b"\0",
                b"\xff",
                b"A: b\r\n",
                b"z" * 600,
                b"Content-Type: multipart/mixed; boundary=a\r\n",
                b"Content-Type: multipart/digest; boundary=b\r\n",
                b"Content-Type: message/rfc822\r\n",
                b"Content-Type: text/plain\r\n",
                b"Content-Type: multipart/signed\r\n",
                b"Content-Transfer-Encoding: quoted-printable\r\n",
                b"Content-Transfer-Encoding: binary\r\n",
            ]
        ),
        max_size=40,
    ).map(b"".join),
    st.sampled_from(TARGETS),
)
def test_whatever_the_content_is_the_result_is_fit_or_refused(octets: bytes, target: Target) -> None:
    try:
        result = converted(octets, target)
    except RecodeError:
        return
    # What is fit now is not touched again.
    assert converted(result, target) == result


@given(
    st.lists(
        st.sampled_from([b"--b", b"--b--", b"--bb", b"x", b"x" * 300, b"--" + b"y" * 1500, b"\r", b""]), max_size=60
    )
)
def test_delimiters_are_found_wherever_a_search_ends(lines: list[bytes]) -> None:
    header = b"Content-Type: multipart/mixed; boundary=b\r\n"
    octets = header + b"\r\n" + b"\r\n".join(lines)
    whole = scan(octets, header, len(header) + 2)[1]
    for window in (1007, 1024, 1500, 2048):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(structure, "_WINDOW", window)
            pieces = scan(octets, header, len(header) + 2)[1]
        assert [(one.role, one.start, one.end) for one in pieces] == [(one.role, one.start, one.end) for one in whole]
