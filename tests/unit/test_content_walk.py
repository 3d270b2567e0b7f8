"""Parts of messages: found whatever is wrong with the structure, with their places and names, within bounds."""

from __future__ import annotations

import mmap
import tempfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailgate.content.fields import clean_name, decode_octets, decode_words, read_header
from mailgate.content.models import Limits
from mailgate.content.walk import Leaf, Walk
from tests.unit.mime_carriers import BASE64, CARRIERS, ENCODED, MARKER, TEXT, mixed, part


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
        else:
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
@settings(max_examples=300, deadline=None)
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
    assert decode_words(words).count("=?utf-8") == 5000 - 64


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
