"""Parts of messages: found whatever is wrong with the structure, with their places and names, within bounds."""

from __future__ import annotations

import base64
import mmap
import tempfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailgate.content.fields import clean_name, decode_octets, decode_words, read_header
from mailgate.content.models import Limits
from mailgate.content.walk import Leaf, Walk
from tests.unit.mime_carriers import BASE64, CARRIERS, ENCODED, MARKER, TEXT, mixed, part, uuencoded


def leaves(message: bytes, limits: Limits | None = None) -> list[Leaf]:
    return list(Walk(message, limits or Limits()).leaves())


def names(*fields: bytes) -> list[str]:
    return read_header(b"".join(one + b"\r\n" for one in fields) + b"\r\n", 0, lambda line: False).names


@pytest.mark.parametrize("name", CARRIERS)
def test_every_carrier_is_seen_through(name: str) -> None:
    found = [way for leaf in leaves(CARRIERS[name]) for way in leaf.ways]
    assert any(MARKER in way for way in found), [leaf.header.type for leaf in leaves(CARRIERS[name])]


@pytest.mark.parametrize("name", CARRIERS)
def test_offsets_are_of_the_message(name: str) -> None:
    message = CARRIERS[name]
    for leaf in leaves(message):
        if leaf.start >= 0:
            assert 0 <= leaf.start <= leaf.body <= leaf.end <= len(message)
            assert leaf.holder == leaf.number
        elif leaf.holder != leaf.number:  # what stands for a whole that has parts
            holder = next(one for one in leaves(message) if one.number == leaf.holder)
            assert holder.start >= 0


def test_a_part_has_its_place() -> None:
    message = mixed(TEXT, ENCODED)
    text, file = leaves(message)
    assert message[text.start : text.end] == TEXT
    assert message[file.body : file.end] == BASE64 + b"\r\n"
    assert (text.header.type, file.header.type) == ("text/plain", "application/octet-stream")
    assert file.ways[0] == MARKER


def test_a_file_of_the_disk_is_read_like_octets() -> None:
    message = CARRIERS["a nested multipart"]
    with tempfile.TemporaryFile() as file:
        file.write(message)
        file.flush()
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as octets:
            mapped = [(one.start, one.end, one.ways) for one in Walk(octets, Limits()).leaves()]
    assert mapped == [(one.start, one.end, one.ways) for one in leaves(message)]


@given(st.binary(max_size=300), st.sampled_from(sorted(CARRIERS)), st.integers(0, 400), st.integers(0, 60))
@settings(max_examples=300)
def test_nothing_makes_it_fail(noise: bytes, name: str, at: int, cut: int) -> None:
    message = CARRIERS[name]
    for leaf in leaves(message[:at] + noise + message[at + cut :]):
        assert leaf.ways


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ((b'Content-Disposition: attachment; filename="a.exe"',), "a.exe"),
        ((b"Content-Disposition: attachment; filename=a b.exe; x=y",), "a b.exe"),
        ((b"Content-Type: x/y; name=a.exe",), "a.exe"),
        ((b"Content-Type: x/y; name=a.txt", b"Content-Disposition: inline; filename=a.exe"), "a.exe"),
        ((b"Content-Disposition: inline; filename=a.txt; filename=a.exe",), "a.exe"),
        ((b"Content-Disposition: inline; filename*=utf-8''%E2%82%AC.exe",), "\u20ac.exe"),
        ((b"Content-Disposition: inline; filename*=iso-8859-1'de'%FC.exe",), "\u00fc.exe"),
        ((b"Content-Disposition: inline; filename*0=a.; filename*1=exe",), "a.exe"),
        ((b"Content-Disposition: inline; filename*1=exe; filename*0=a.",), "a.exe"),
        ((b"Content-Disposition: inline; filename*0*=utf-8''a%2E; filename*1*=e%78e",), "a.exe"),
        ((b"Content-Disposition: inline; filename=a.txt; filename*=utf-8''a.exe",), "a.exe"),
        ((b"Content-Disposition: inline; filename==?utf-8?B?YS5leGU=?=",), "a.exe"),
        ((b'Content-Disposition: inline; filename="=?utf-8?Q?a=2Ee?= =?utf-8?Q?xe?="',), "a.exe"),
        ((b"Content-Disposition: inline;\r\n\tfilename=a.exe",), "a.exe"),
        ((b"Content-Disposition: inline; FileName=A.EXE",), "A.EXE"),
        ((b'Content-Disposition: inline; filename="a.exe. . "',), "a.exe"),
        ((b'Content-Disposition: inline; filename="..\\\\..\\\\a.exe"',), "a.exe"),
        ((b'Content-Disposition: inline; filename="/tmp/a.exe"',), "a.exe"),
        (("Content-Disposition: inline; filename=\"a\u202etxt.exe\"".encode(),), "atxt.exe"),
        ((b'Content-Disposition: inline; filename="\xfc.exe"',), "\u00fc.exe"),
        ((b'Content-Disposition: inline; filename="\xc3\xbc.exe"',), "\u00fc.exe"),
        ((b'Content-Disposition: inline; filename="a\\.exe"',), "a.exe"),
        ((b'Content-Disposition: inline; filename="a.exe',), "a.exe"),
    ],
)  # fmt: skip
def test_a_name_is_read_as_any_program_might(fields: tuple[bytes, ...], name: str) -> None:
    assert name in names(*fields)


def test_a_flood_of_parameters_is_bounded() -> None:
    for count in (20_000, 40_000):
        flood = b"".join(b"; filename*%d*=a%%41" % number for number in range(count))
        header = read_header(b"Content-Disposition: x" + flood + b"\r\n\r\n", 0, lambda line: False)
        assert header.is_crowded
        assert len(header.names) <= 64
        assert all(len(one) <= 255 for one in header.names)


def test_a_flood_of_encoded_words_is_bounded() -> None:
    words = "=?utf-8?Q?a?= " * 5000
    assert decode_words(words).count("=?utf-8") == 5000 - 1000


def test_no_codec_is_used_that_is_no_charset() -> None:
    for charset in ("punycode", "idna", "unicode_escape", "rot13", "zlib", "undefined", "utf-8-sig\0"):
        assert decode_octets(b"caf\xc3\xa9", charset) == "caf\u00e9"
    assert decode_octets(b"caf\xe9", "latin-1") == "caf\u00e9"
    assert decode_octets(b"\xff\xfea\0", "utf-16") == "a"


def test_names_are_of_a_bounded_length_and_keep_their_extension() -> None:
    assert len(clean_name("a" * 5000 + ".exe")) == 255
    assert clean_name("a" * 5000 + ".exe").endswith(".exe")


@pytest.mark.parametrize("kind", ["multipart", "message"])
def test_nesting_is_bounded(kind: str) -> None:
    if kind == "multipart":
        message = b"".join(
            b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n) for n in range(1000)
        )
    else:
        message = b"Content-Type: message/rfc822\r\n\r\n" * 2000
    walk = Walk(message + ENCODED, Limits())
    found = list(walk.leaves())
    assert "nesting" in {problem.kind for problem in walk.problems}
    assert len(found) <= 60
    # What lies deeper is still there, as octets.
    assert any(BASE64 in way for leaf in found for way in leaf.ways)


def test_parts_are_bounded() -> None:
    walk = Walk(mixed(*[TEXT] * 5000), Limits(parts=100))
    assert len(list(walk.leaves())) == 100
    assert [problem.kind for problem in walk.problems] == ["parts"]


def test_nothing_is_looked_at_behind_the_last_part() -> None:
    deep = b"".join(b"Content-Type: multipart/mixed; boundary=c%d\r\n\r\n--c%d\r\n" % (n, n) for n in range(100))
    for parts, problems in ((100, ["nesting"]), (10, ["parts"])):
        walk = Walk(mixed(*[TEXT] * 20, deep), Limits(parts=parts))
        assert len(list(walk.leaves())) <= parts
        assert [problem.kind for problem in walk.problems] == problems


def test_lines_with_hyphens_are_bounded() -> None:
    message = mixed(part(b"Content-Type: text/plain", body=b"\n--x" * 300_000))
    walk = Walk(message, Limits())
    assert len(list(walk.leaves())) <= 2
    assert "lines" in {problem.kind for problem in walk.problems}


def test_a_single_line_of_many_octets_is_one_part() -> None:
    message = mixed(part(b"Content-Type: text/plain", body=b"a" * 20_000_000))
    (leaf,) = leaves(message)
    assert len(leaf.ways) <= 2
    assert len(leaf.ways[0]) >= 20_000_000


def test_decoding_is_bounded_in_all() -> None:
    once = part(b"Content-Type: text/plain", b"Content-Transfer-Encoding: quoted-printable", body=b"a=" * 5000)
    walk = Walk(mixed(*[once] * 50), Limits(octets=100_000))
    assert sum(len(way) for leaf in walk.leaves() for way in leaf.ways[1:]) <= 100_000
    assert "octets" in {problem.kind for problem in walk.problems}


def test_a_header_section_is_bounded() -> None:
    message = b"Content-Type: text/plain;\r\n" + b" x=y;\r\n" * 100_000 + b"\r\n" + MARKER
    walk = Walk(message, Limits())
    assert any(MARKER in way for leaf in walk.leaves() for way in leaf.ways)
    assert "headers" in {problem.kind for problem in walk.problems}


def test_fields_that_are_not_read_are_told() -> None:
    field = b"Content-Disposition: attachment; filename=a.txt\r\n"
    assert not read_header(field * 8 + b"\r\n", 0, lambda line: False).is_crowded
    assert read_header(field * 9 + b"\r\n", 0, lambda line: False).is_crowded


@pytest.mark.parametrize(
    "field",
    [
        b"filename=" + b"a" * 5000 + b".js",
        b'filename="' + b"=?utf-8?Q?a?= " * 100 + b'=?utf-8?Q?=2Ejs?="',
        b"filename*=utf-8''a.js%00.txt",
        b'filename="=?utf-8?Q?a=2Ejs=00.txt?="',
        b'filename="a.js\0.txt"',
        b'filename*0="=?utf-8?Q?a=2E"; filename*1="js?="',
        b"(c)filename=a.js",
        b"filename(c)=a.js",
        b"filename=(c)a.js(d)",
        b'x="; filename=a.js',
        b'x="a\\"; filename=a.js',
        b"filename*0=a.txt; filename*0=a.js",
        b"filename*0=a.js; filename*5=.txt",
        b'filename="=?utf-8?Q?a .js?="',
        b'filename="a.txt' + b" " * 5000 + b'.js"',
        b'filename=".js"',
        b'filename="a%2Ejs"',
        b'filename="a.js::$DATA"',
        b"\xa0filename=a.js",
        b"\tx filename=a.js",
    ],
)
def test_an_extension_cannot_be_hidden(field: bytes) -> None:
    assert any(one.endswith(".js") for one in names(b"Content-Disposition: attachment; " + field))


@pytest.mark.parametrize("field", [b"attachment filename=a.js", b"filename=a.js", b" filename = a.js"])
def test_a_name_without_a_semicolon_before_it_is_one(field: bytes) -> None:
    assert names(b"Content-Disposition: " + field) == ["a.js"]


def test_half_a_character_is_never_told() -> None:
    for charset in ("utf-7", "utf-16-le"):
        decode_octets(b"+2AA-", charset).encode()
        decode_octets(b"\x00\xd8", charset).encode()


@pytest.mark.parametrize("parameter", [b"boundary*0=b; boundary*1=c", b"boundary*=us-ascii''b%63"])
def test_a_boundary_in_the_manner_of_rfc_2231(parameter: bytes) -> None:
    head = b"Content-Type: multipart/mixed; " + parameter
    decoy = b"\r\n\r\n--d\r\nContent-Type: a/b\r\nContent-Transfer-Encoding: base64\r\n\r\nAAAA\r\n"
    mail = mixed(ENCODED, boundary=b"bc", head=head).replace(b"\r\n\r\n", decoy, 1)
    assert MARKER in [way for leaf in leaves(mail) for way in leaf.ways]


@pytest.mark.parametrize("kind", [b"message/rfc822", b"multipart/mixed; boundary=x"])
def test_what_has_parts_and_a_name_may_be_a_file(kind: bytes) -> None:
    held = part(b"Content-Type: " + kind, b"Content-Disposition: attachment; filename=a.js", body=b"\r\n--x\r\n\r\na")
    assert ["a.js"] in [leaf.names for leaf in leaves(mixed(TEXT, held))]


def test_what_is_signed_and_not_encrypted_is_looked_into() -> None:
    octets = b"\x30\x82\x06\x09" + mixed(ENCODED, head=b"Content-Type: multipart/mixed; boundary=b")[40:] + b"\x30\x82"
    held = part(
        b"Content-Type: application/pkcs7-mime; smime-type=signed-data",
        b"Content-Transfer-Encoding: base64",
        body=base64.encodebytes(octets).replace(b"\n", b"\r\n"),
    )
    assert MARKER in [way for leaf in leaves(mixed(held)) for way in leaf.ways]


def test_many_files_in_a_text_hide_none() -> None:
    begin = b"begin 644 a.txt\r\n" * 5000
    found = leaves(_plain(begin + uuencoded(b"z.exe")))
    assert [leaf.names for leaf in found[1:]] == [["z.exe"]]


def _plain(body: bytes) -> bytes:
    return b"Content-Type: text/plain\r\n\r\n" + body


@pytest.mark.parametrize(
    ("top", "field"),
    [
        (b"mixed", b"Content-Type: application/octet-stream; name=a.eml"),
        (b"mixed", b"Content-Type: application/octet-stream"),
        (b"digest", b""),
    ],
)
def test_a_message_that_is_not_said_to_be_one(top: bytes, field: bytes) -> None:
    inner = part(b"Content-Type: a/b", b"Content-Transfer-Encoding: base64")
    held = (field + b"\r\n" if field else b"") + b"\r\n" + inner
    mail = mixed(held, head=b"Content-Type: multipart/" + top + b"; boundary=b")
    assert MARKER in [way for leaf in leaves(mail) for way in leaf.ways]


def test_a_boundary_that_is_too_long_is_told() -> None:
    walk = Walk(b"Content-Type: multipart/mixed; boundary=" + b"b" * 15_000 + b"\r\n\r\nx", Limits())
    list(walk.leaves())
    assert [one.kind for one in walk.problems] == ["headers"]


def test_a_long_boundary_is_one() -> None:
    boundary = b"b" * 5000
    found = leaves(mixed(ENCODED, boundary=boundary, head=b"Content-Type: multipart/mixed; boundary=" + boundary))
    assert MARKER in [way for leaf in found for way in leaf.ways]
