"""Packets of the milter protocol: both directions, what is wrong with them, and what both sides agree on."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgate.reply import Reply
from mailgate.wire.milter.codec import (
    Answer,
    BodyReplaced,
    HeaderAdded,
    HeaderChanged,
    HeaderInserted,
    Options,
    PacketError,
    PacketReader,
    Quarantined,
    RecipientAdded,
    RecipientRemoved,
    ReplyGiven,
    SenderChanged,
    encode_answer,
    options_data,
    packet,
    parse_answer,
    parse_options,
    strings,
)
from mailgate.wire.milter.negotiation import agree, offer
from mailgate.wire.milter.words import Actions, Code, MacroStage, Plain, Steps

texts = st.binary(max_size=60).map(lambda octets: octets.replace(b"\0", b""))
numbers = st.integers(0, 2**32 - 1)
lines = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=40).filter(
    lambda text: not text[:1].isdigit()
)
replies = st.builds(
    lambda kind, status, text: Reply(int(f"{kind}50"), f"{kind}.7.1" if status else "", tuple(text)),
    st.sampled_from("45"),
    st.booleans(),
    st.lists(lines, min_size=1, max_size=5),
)
answers: st.SearchStrategy[Answer] = st.one_of(
    st.sampled_from(Plain),
    st.builds(Options, numbers, numbers, numbers, st.dictionaries(st.sampled_from(list(map(int, MacroStage))), texts)),
    st.builds(ReplyGiven, replies),
    st.builds(HeaderAdded, texts, texts),
    st.builds(HeaderInserted, numbers, texts, texts),
    st.builds(HeaderChanged, numbers, texts, texts),
    st.builds(SenderChanged, texts, texts),
    st.builds(RecipientAdded, texts, st.none() | texts),
    st.builds(RecipientRemoved, texts),
    st.builds(BodyReplaced, st.binary(max_size=200)),
    st.builds(Quarantined, texts),
)


def taken(reader: PacketReader) -> list[tuple[bytes, bytes]]:
    found = []
    while (one := reader.take()) is not None:
        found.append(one)
    return found


@given(st.lists(answers, max_size=5), st.integers(1, 50))
def test_answers_go_there_and_back_in_pieces_of_any_size(said: list[Answer], size: int) -> None:
    octets = b"".join(map(encode_answer, said))
    reader, found = PacketReader(), []
    for at in range(0, len(octets), size):
        reader.feed(octets[at : at + size])
        found += taken(reader)
    assert [parse_answer(*one) for one in found] == said
    assert len(reader) == 0


@given(st.sampled_from(Code), st.binary(max_size=300))
def test_commands_go_there_and_back(code: Code, data: bytes) -> None:
    reader = PacketReader()
    reader.feed(packet(code, data))
    assert taken(reader) == [(code.value, data)]


@given(st.binary(min_size=1, max_size=1), st.binary(max_size=80))
def test_whatever_a_packet_holds_it_is_an_answer_or_an_error(code: bytes, data: bytes) -> None:
    try:
        answer = parse_answer(code, data)
    except PacketError:
        return
    if not isinstance(answer, ReplyGiven | SenderChanged | RecipientAdded | Options):  # written in several ways
        assert encode_answer(answer) == struct.pack("!I", 1 + len(data)) + code + data


@pytest.mark.parametrize(
    ("reply", "written"),
    [
        (Reply(550, "", ("192.0.2.1 is listed",)), b"550 5.0.0 192.0.2.1 is listed"),
        (Reply(450, "", ("100% full", "2")), b"450-4.0.0 100%% full\r\n450 4.0.0 2"),
        (Reply(550, "5.7.1", ("3 times",)), b"550 5.7.1 3 times"),
        (Reply(550, "", ("Not 1",)), b"550 Not 1"),
        (Reply(550, "", ("",)), b"550 "),
    ],
)
def test_a_reply_that_begins_with_a_number_is_no_fault_to_postfix(reply: Reply, written: bytes) -> None:
    assert encode_answer(ReplyGiven(reply))[5:-1] == written


@given(st.binary(max_size=400))
def test_whatever_octets_come_no_more_is_kept_than_came(octets: bytes) -> None:
    reader = PacketReader(100)
    reader.feed(octets)
    try:
        taken(reader)
    except PacketError:
        return
    assert len(reader) < 4 + 101


@pytest.mark.parametrize("length", [0, 65537, 2**31, 2**32 - 1])
def test_lengths_that_cannot_be(length: int) -> None:
    reader = PacketReader()
    reader.feed(struct.pack("!I", length))
    with pytest.raises(PacketError, match=str(length)):
        reader.take()


def test_the_largest_packet() -> None:
    reader = PacketReader()
    reader.feed(packet(Code.BODY, bytes(65535)))
    assert reader.take() == (b"B", bytes(65535))
    reader.limit = 2**20 - 1
    reader.feed(packet(Code.BODY, bytes(2**20 - 1)))
    assert reader.take() == (b"B", bytes(2**20 - 1))


@pytest.mark.parametrize(
    ("code", "data", "what"),
    [
        (b"c", b"x", "where it has none"),
        (b"?", b"", "does not have"),
        (b"h", b"X-Name\0value", "without its end"),
        (b"h", b"X-Name\0", "1 strings"),
        (b"h", b"X-Name\0a\0b\0", "3 strings"),
        (b"m", b"\0\0", "without its index"),
        (b"m", b"\0\0\0\1X-Name\0", "1 strings"),
        (b"+", b"", "0 strings"),
        (b"2", b"a\0b\0c\0", "3 strings"),
        (b"e", b"", "0 strings"),
        (b"y", b"550 5.7.1 no", "without its end"),
        (b"y", b"\0", "neither"),
        (b"y", b"250 2.0.0 yes\0", "neither"),
        (b"y", b"55x\0", "neither"),
        (b"y", b"5500 no\0", "neither"),
        (b"y", b"550 a\r\n" * 40 + b"\0", "more than 32 lines"),
        (b"O", b"\0" * 11, "too few"),
        (b"O", b"\0" * 12 + b"\0\0\0\1{i}", "without its end"),
        (b"O", b"\0" * 12 + b"\0\0\0\x09{i}\0", "stage 9"),
    ],
)
def test_what_is_no_answer(code: bytes, data: bytes, what: str) -> None:
    with pytest.raises(PacketError, match=what):
        parse_answer(code, data)


@pytest.mark.parametrize(
    ("text", "octets"),
    [
        (b"550 5.7.1 No", b"550 5.7.1 No\r\n"),
        (b"451 Later", b"451 Later\r\n"),
        (b"550", b"550 \r\n"),
        (b"550 4.7.1 Odd", b"550 4.7.1 Odd\r\n"),
        (b"550-5.7.1 One\r\n550 5.7.1 Two", b"550-5.7.1 One\r\n550 5.7.1 Two\r\n"),
        (b"550 5.7.1 One\nTwo\r\n", b"550-5.7.1 One\r\n550 5.7.1 Two\r\n"),
        (b"550 5.7.1 100%% sure", b"550 5.7.1 100% sure\r\n"),
        (b"550 No\r250 Yes", b"550-No\r\n550 250 Yes\r\n"),
        (b"550 5.7.1 \x1b[2J\xff", "550 5.7.1 ?[2J\ufffd\r\n".encode()),
    ],
)
def test_replies_become_replies_of_ours_and_never_two(text: bytes, octets: bytes) -> None:
    answer = parse_answer(b"y", text + b"\0")
    assert isinstance(answer, ReplyGiven)
    assert answer.reply.to_bytes() == octets


def test_strings_have_no_end_within() -> None:
    with pytest.raises(ValueError, match="zero octet"):
        strings(b"a\0b")


def test_an_offer_holds_what_its_version_has() -> None:
    assert offer() == Options(6, 0x1FF, 0x1FF7FF)
    assert offer(2) == Options(2, 0x3F, 0xFF)
    assert offer(4).steps & Steps.NO_DATA
    assert not offer(3).steps & Steps.NO_DATA
    assert offer(6, 2**20).steps & Steps.DATA_1M
    with pytest.raises(ValueError, match="versions 2 to 6"):
        offer(7)
    assert parse_options(options_data(offer())) == offer()


def test_what_is_agreed_on() -> None:
    chosen = Options(6, int(Actions.ADD_HEADERS), int(Steps.NO_HELO | Steps.DATA_256K), {3: b"{rcpt_addr} i, {x} i"})
    agreement = agree(offer(6, 2**20), chosen)
    assert agreement.leaves_out(Steps.NO_HELO)
    assert not agreement.leaves_out(Steps.NO_MAIL)
    assert agreement.max_data == 256 * 1024 - 1
    assert agreement.macros == {MacroStage.RCPT: ("{rcpt_addr}", "i", "{x}")}


def test_silence_may_be_asked_for_without_an_offer() -> None:
    # As rspamd's proxy does, whatever it is offered.
    agreement = agree(offer(4), Options(4, 0x3F, 0xFF080))
    assert agreement.is_quiet(Steps.QUIET_BODY)
    assert agreement.is_quiet(Steps.QUIET_RCPT)


@pytest.mark.parametrize(
    ("version", "chosen", "what"),
    [
        (6, Options(7, 0, 0), "version 7"),
        (6, Options(1, 0, 0), "version 1"),
        (2, Options(6, 0, 0), "version 6"),
        (6, Options(6, 0x200, 0), "actions 0x200"),
        (2, Options(2, 0x40, 0), "actions 0x40"),
        (6, Options(6, 0, 0x400000), "steps 0x400000"),
        (6, Options(6, 0, int(Steps.DATA_1M)), "steps 0x20000000"),
        (2, Options(2, 0, int(Steps.LEADING_SPACE)), "steps 0x100000"),
    ],
)
def test_what_cannot_be_agreed_on(version: int, chosen: Options, what: str) -> None:
    with pytest.raises(PacketError, match=what):
        agree(offer(version), chosen)
