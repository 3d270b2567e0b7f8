"""The wire codec against any octets: the same however they are cut, never more than was sent, no surprise."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TypeVar

from hypothesis import given
from hypothesis import strategies as st

from mailgate.wire.commands import CommandError, parse_bdat, parse_command, parse_greeting, parse_mail, parse_rcpt
from mailgate.wire.content import ChunkDecoder, ContentDecoder, ContentFault, Inspector, stuff
from mailgate.wire.proxy import MAX_BLOCK, ProxyError, ProxyHeader, ProxyReader, write_v1, write_v2
from mailgate.wire.sasl import SaslError, decode_response
from mailgate.wire.xclient import parse_xclient, parse_xforward
from tests.fuzz.effort import EFFORT

T = TypeVar("T")

SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=6)
LINES = st.sampled_from(
    [*(b"\r\n", b"\n", b"\r", b".", b"..", b"\r\n.", b"\r\n.\r\n", b"\n.\n"), b"\0", b"text", b"x" * 997]
)
CONTENT = st.lists(st.one_of(LINES, st.binary(max_size=8)), max_size=25).map(b"".join)


def pieces(octets: bytes, sizes: list[int]) -> Iterator[bytes]:
    at = number = 0
    while at < len(octets):
        size = sizes[number % len(sizes)]
        yield octets[at : at + size]
        at += size
        number += 1


def lines_of(content: bytes) -> list[bytes]:
    """Its lines, without their ends, as they are read where a CR or LF that stands alone ends one too."""
    return re.split(rb"\r\n|\r|\n", content)


def fault_of(content: bytes, bare: str) -> ContentFault | None:
    """What there is against it, told in another way than the codec does; which of several faults, it leaves open."""
    if bare == "allow":
        return None
    if bare == "reject" and re.search(rb"\r(?!\n)|(?<!\r)\n", content):
        return ContentFault.BARE_CR_OR_LF
    if b"\0" in content:
        return ContentFault.NUL
    return ContentFault.LINE_TOO_LONG if any(len(line) > 998 for line in lines_of(content)) else None


def kept(content: bytes, bare: str) -> bytes:
    return re.sub(rb"\r\n|\r|\n", b"\r\n", content) if bare == "normalize" else content


BARE = st.sampled_from(["reject", "normalize", "allow"])


@EFFORT
@given(CONTENT, SIZES, BARE, st.binary(max_size=20))
def test_data(content: bytes, sizes: list[int], bare: str, behind: bytes) -> None:
    content = (b"\r\n" + content + b"\r\n.\r\n").partition(b"\r\n.\r\n")[0][2:]
    wire = content + b"\r\n.\r\n" + behind if content else b".\r\n" + behind
    decoder = ContentDecoder(Inspector(1_000_000, bare=bare))
    found, rest = b"", None
    for piece in pieces(wire, sizes):
        if rest is not None:
            rest += piece
            continue
        settled, rest = decoder.feed(piece)
        found += settled
    found += decoder.inspector.finish()
    assert rest == behind
    meant = b"".join(line.removeprefix(b".") + b"\r\n" for line in content.split(b"\r\n")) if content else b""
    assert (decoder.inspector.fault is None) is (fault_of(meant, bare) is None)
    if decoder.inspector.fault is None:
        assert found == kept(meant, bare)


@EFFORT
@given(st.lists(CONTENT, min_size=1, max_size=6), SIZES, BARE, st.binary(max_size=20))
def test_chunks(chunks: list[bytes], sizes: list[int], bare: str, behind: bytes) -> None:
    inspector = Inspector(1_000_000, bare=bare)
    decoder = ChunkDecoder(inspector)
    found = b""
    for chunk in chunks:
        decoder.expect(len(chunk))
        rest: bytes | None = None
        for piece in [*pieces(chunk + behind, sizes), b""]:
            if rest is not None:
                rest += piece
                continue
            settled, rest = decoder.feed(piece)
            found += settled
        assert rest == behind
    found += inspector.finish()
    meant = b"".join(chunks)
    assert (inspector.fault is None) is (fault_of(meant, bare) is None)
    if inspector.fault is None:
        assert found == kept(meant, bare)


@EFFORT
@given(CONTENT, SIZES)
def test_what_is_stuffed_is_what_is_read(content: bytes, sizes: list[int]) -> None:
    whole = re.sub(rb"\r\n|\r|\n", b"\r\n", content)
    decoder = ContentDecoder(Inspector(1_000_000, bare="allow"))
    found, rest = b"", None
    for piece in pieces(stuff(whole), sizes):
        assert rest is None
        settled, rest = decoder.feed(piece)
        found += settled
    assert rest == b""
    assert found in (whole, whole + b"\r\n")


WORDS = st.sampled_from(
    [
        *("MAIL", "RCPT", "FROM:", "TO:", "<a@b.example>", "<>", "<postmaster>", '<"a\\"b"@c>', "<@x,@y:a@b>", "@"),
        *("BDAT", "LAST", "SIZE=", "BODY=", "8BITMIME", "BINARYMIME", "RET=", "ENVID=", "NOTIFY=", "ORCPT=", "AUTH="),
        *("rfc822;", "utf-8;", "HOLDFOR=", "HOLDUNTIL=", "BY=", ";R", ";NT", "MT-PRIORITY=", "REQUIRETLS", "SMTPUTF8"),
        *("ADDR=", "NAME=", "LOGIN=", "HELO=", "PORT=", "IDENT=", "[UNAVAILABLE]", "IPV6:", "::", "+0A", "+", "=", " "),
        *("2030-01-31T12:00:00Z", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "9" * 21, "-", "\t"),
        *("\u017f", "\u0131", "\u212a"),
    ]
)
TEXTS = st.lists(st.one_of(WORDS, st.text(max_size=4)), max_size=12).map("".join)
OFFERED = frozenset(
    {
        *("SIZE", "8BITMIME", "CHUNKING", "BINARYMIME", "SMTPUTF8", "DSN", "AUTH", "REQUIRETLS", "MT-PRIORITY"),
        *("FUTURERELEASE", "DELIVERBY"),
    }
)


def outcome(parse: Callable[[], T]) -> T | None:
    """What it was parsed to, None where it was refused; nothing else happens."""
    try:
        return parse()
    except CommandError as error:
        error.reply.to_bytes()
        return None


@EFFORT
@given(TEXTS, st.booleans())
def test_commands(text: str, is_utf8: bool) -> None:
    command = outcome(lambda: parse_command(text.encode("utf-8", "surrogatepass")))
    argument = command.argument if command is not None else text
    for parse in (parse_bdat, parse_greeting, parse_xclient, parse_xforward):
        outcome(lambda parse=parse: parse(argument))  # type: ignore[misc]  # each by its turn
    mail = outcome(lambda: parse_mail(argument, OFFERED, 1e9))
    if mail is not None and not mail.parameters.smtputf8:
        assert mail.sender.is_ascii
    rcpt = outcome(lambda: parse_rcpt(argument, "mx.example.org", OFFERED, is_utf8=is_utf8))
    if rcpt is not None:
        assert is_utf8 or (rcpt.recipient.is_ascii and rcpt.orcpt.isascii())
        assert not re.search(r"[\x00-\x1f\x7f]", f"{rcpt.recipient}{rcpt.orcpt}")


@EFFORT
@given(st.binary(max_size=60))
def test_responses(line: bytes) -> None:
    try:
        decoded = decode_response(line)
    except SaslError as error:
        said = error.reply.code
        decoded = b""
    else:
        said = 334
    assert said in (334, 501)
    assert len(decoded) <= len(line)


FLIPS = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), max_size=2)
ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))
ENDS = st.tuples(ADDRESSES, st.integers(0, 65535))
HEADERS = st.one_of(
    st.builds(write_v1, ENDS, ENDS),
    st.builds(write_v2, ENDS, ENDS, is_local=st.booleans(), unique_id=st.binary(max_size=40)),
    st.just(write_v1(None, None)),
    st.binary(max_size=60),
    st.binary(max_size=60).map(lambda octets: b"\r\n\r\n\0\r\nQUIT\n" + octets),
    st.binary(max_size=60).map(lambda octets: b"PROXY TCP4 " + octets),
)


def read(parts: Iterator[bytes]) -> tuple[ProxyHeader, bytes] | str | None:
    """The header with what is behind it, or what is wrong, or None where it has not come to its end."""
    reader, found = ProxyReader(), None
    for part in parts:
        if found is not None:
            found = (found[0], found[1] + part)
            continue
        try:
            found = reader.feed(part)
        except ProxyError as error:
            return str(error)
    return found


@EFFORT
@given(HEADERS, FLIPS, SIZES, st.binary(max_size=20))
def test_proxy_headers(header: bytes, flips: list[tuple[int, int]], sizes: list[int], behind: bytes) -> None:
    octets = bytearray(header)
    for at, value in flips:
        if at < len(octets):
            octets[at] = value
    wire = bytes(octets) + behind
    whole = read(iter([wire]))
    assert read(pieces(wire, sizes)) == whole
    if isinstance(whole, tuple):
        assert wire.endswith(whole[1])
        assert len(wire) - len(whole[1]) <= 16 + MAX_BLOCK
