"""What a mail server tells a milter, as values, and what the milter chooses."""

from __future__ import annotations

import contextlib
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgate.reply import Reply
from mailgate.wire.milter.codec import (
    Options,
    PacketError,
    PacketReader,
    ReplyGiven,
    encode_answer,
    options_data,
    parse_answer,
    strings,
)
from mailgate.wire.milter.commands import (
    BodyTold,
    ClientTold,
    Command,
    GreetingTold,
    HeaderTold,
    MacrosTold,
    RecipientTold,
    SenderTold,
    code_of,
    parse_command,
)
from mailgate.wire.milter.negotiation import choose
from mailgate.wire.milter.words import Actions, Code, MacroStage, Steps


@pytest.mark.parametrize(
    ("code", "data", "told"),
    [
        (Code.CONNECT, b"a.example\x004\x01\x02192.0.2.1\0", ClientTold("a.example", ip_address("192.0.2.1"), 258)),
        (Code.CONNECT, b"a\x006\x00\x19IPv6:2001:db8::1\0", ClientTold("a", ip_address("2001:db8::1"), 25)),
        (Code.CONNECT, b"a\x006\x00\x19::ffff:192.0.2.1\0", ClientTold("a", ip_address("192.0.2.1"), 25)),
        (Code.CONNECT, b"a\x006\x00\x19fe80::1%eth0\0", ClientTold("a", ip_address("fe80::1"), 25)),
        (Code.CONNECT, b"localhost\0U", ClientTold("localhost", None)),
        (Code.CONNECT, b"localhost\0L\0\0/run/x\0", ClientTold("localhost", None, is_local=True)),
        (Code.HELO, b"a.example\0", GreetingTold("a.example")),
        (Code.HELO, b"\xff\0", GreetingTold("\ufffd")),
        (Code.MAIL, b"<a@b>\0SIZE=1\0", SenderTold("<a@b>", ("SIZE=1",))),
        (Code.RCPT, b"<a@b>\0", RecipientTold("<a@b>", written=b"<a@b>")),
        (Code.RCPT, b"<\xff@B>\0NOTIFY=NEVER\0", RecipientTold("<\ufffd@B>", ("NOTIFY=NEVER",), b"<\xff@B>")),
        (Code.HEADER, b"Subject\0 a\n b\0", HeaderTold(b"Subject", b" a\n b")),
        (Code.HEADER, b"Subject\0\0", HeaderTold(b"Subject", b"")),
        (Code.BODY, b"x\0y", BodyTold(b"x\0y")),
        (Code.END_OF_BODY, b"", BodyTold(b"", is_last=True)),
        (Code.END_OF_BODY, b"x", BodyTold(b"x", is_last=True)),
        (Code.MACROS, b"Mi\x004X\0{auth_authen}\0ann\0", MacrosTold({"i": "4X", "auth_authen": "ann"})),
        (Code.MACROS, b"C", MacrosTold({})),
        (Code.DATA, b"", Code.DATA),
        (Code.ABORT, b"", Code.ABORT),
        (Code.UNKNOWN, b"FOO\0", Code.UNKNOWN),
    ],
)
def test_commands(code: Code, data: bytes, told: Command) -> None:
    assert parse_command(code.value, data) == told


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (b"C", Code.CONNECT),
        (b"H", Code.HELO),
        (b"M", Code.MAIL),
        (b"R", Code.RCPT),
        (b"L", Code.HEADER),
        (b"B", Code.BODY),
        (b"E", Code.END_OF_BODY),
        (b"D", Code.MACROS),
        (b"T", Code.DATA),
        (b"O", Code.OPTIONS),
    ],
)
def test_a_command_has_the_code_with_which_it_was_said(code: bytes, said: Code) -> None:
    data = {b"C": b"a\x004\x00\x19192.0.2.1\0", b"L": b"A\0b\0", b"D": b"M", b"O": b"\0\0\0\6" + b"\0" * 8}
    assert code_of(parse_command(code, data.get(code, b"a\0"))) is said


@pytest.mark.parametrize("code", [b"M", b"R", b"H"])
def test_what_a_client_has_said_is_limited(code: bytes) -> None:
    assert parse_command(code, b"x" * (16 * 1024 - 1) + b"\0")
    with pytest.raises(PacketError, match="more than 16384 octets"):
        parse_command(code, b"x" * 16 * 1024 + b"\0")


@pytest.mark.parametrize("code", [b"M", b"R", b"H", b"L", b"D"])
def test_the_strings_of_a_packet_are_limited(code: bytes) -> None:
    with pytest.raises(PacketError, match="more than 1000 strings"):
        parse_command(code, code + b"\0" * 1001)


def test_macros_of_a_stage_are_named_once() -> None:
    data = options_data(Options(6, 0, 0, {MacroStage.MAIL: b"i"}))
    with pytest.raises(PacketError, match="has been named"):
        parse_command(b"O", data + data[12:])


@pytest.mark.parametrize(
    ("code", "data"),
    [
        (b"Z", b""),
        (b"C", b""),
        (b"C", b"a\0"),
        (b"C", b"a\x004\0"),
        (b"C", b"a\x004\0\x19not an address\0"),
        (b"C", b"a\0X\0\x19192.0.2.1\0"),
        (b"H", b""),
        (b"M", b"<a@b>"),
        (b"M", b""),
        (b"L", b"Subject\0"),
        (b"L", b"\0value\0"),
        (b"L", b"a\0b\0c\0"),
        (b"D", b""),
        (b"D", b"Mi\0"),
        (b"D", b"Mi\x004X"),
        (b"O", b"\0\0"),
    ],
)
def test_what_is_none_of_the_protocol(code: bytes, data: bytes) -> None:
    with pytest.raises(PacketError):
        parse_command(code, data)


@given(st.binary(min_size=1, max_size=1), st.binary(max_size=200))
def test_no_packet_does_anything_else_than_mean_something_or_nothing(code: bytes, data: bytes) -> None:
    with contextlib.suppress(PacketError):
        assert parse_command(code, data) is not None


def test_a_choice_is_of_what_was_offered_and_wanted() -> None:
    macros = {MacroStage.MAIL: ("i", "{auth_authen}")}
    wanted = Actions.ADD_HEADERS | Actions.QUARANTINE
    offered = Options(6, int(Actions.ADD_HEADERS | Actions.CHOOSE_MACROS), int(Steps.QUIET_BODY | Steps.SKIP))
    chosen, agreement = choose(offered, wanted, Steps.QUIET_BODY | Steps.LEADING_SPACE, macros)
    assert chosen.actions == int(Actions.ADD_HEADERS | Actions.CHOOSE_MACROS)
    assert chosen.steps == int(Steps.QUIET_BODY)
    assert chosen.macros == {2: b"i {auth_authen}"}
    assert parse_command(b"O", options_data(chosen)) == chosen
    assert agreement.is_quiet(Steps.QUIET_BODY)
    assert not agreement.keeps_space
    older, _ = choose(Options(4, 0x13F, 0xFF), wanted, Steps(0), macros)
    assert (older.version, older.macros) == (4, {})
    with pytest.raises(PacketError, match="version 1"):
        choose(Options(1, 0, 0), wanted, Steps(0), {})


@given(
    st.integers(400, 559).filter(lambda code: code // 10 % 10 < 6),
    st.lists(st.text(max_size=600), min_size=1, max_size=40),
)
def test_every_reply_is_one_that_a_mail_server_understands(code: int, lines: list[str]) -> None:
    status = f"{code // 100}.7.1"
    reader = PacketReader()
    reader.feed(encode_answer(ReplyGiven(Reply(code, status, tuple(lines)))))
    packet = reader.take()
    assert packet is not None
    assert packet[1].count(b"\0") == 1
    assert packet[1].replace(b"%%", b"").count(b"%") == 0
    told = packet[1][:-1].split(b"\r\n")
    assert len(told) == min(len(lines), 32)
    assert all(line.startswith(b"%d" % code) and len(line) <= 2 * 512 for line in told)
    assert [line[3:4] for line in told] == [*[b"-"] * (len(told) - 1), b" "]
    found = parse_answer(*packet)
    assert isinstance(found, ReplyGiven)
    assert (found.reply.code, found.reply.status) == (code, status)


def test_percents_come_back() -> None:
    answer = ReplyGiven(Reply.of(550, "5.7.1", "100% sure, %s"))
    assert encode_answer(answer).endswith(b"y" + strings(b"550 5.7.1 100%% sure, %%s"))
    reader = PacketReader()
    reader.feed(encode_answer(answer))
    packet = reader.take()
    assert packet is not None
    assert parse_answer(*packet) == answer
