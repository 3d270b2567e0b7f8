"""Command lines: what is taken, and the reply to what is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgate.address import NULL_PATH, Address
from mailgate.envelope import EIGHT_BIT_MAIL, PLAIN_MAIL
from mailgate.wire.commands import (
    BdatCommand,
    Command,
    CommandError,
    MailCommand,
    RcptCommand,
    parse_bdat,
    parse_command,
    parse_greeting,
    parse_mail,
    parse_rcpt,
)

SENDER = Address("a", "b.example")
BASIC = frozenset({"SIZE", "8BITMIME"})


def test_verbs_in_any_case_and_white_space() -> None:
    assert parse_command(b"mAiL FROM:<> ") == Command("MAIL", "FROM:<>")
    assert parse_command(b"noop") == Command("NOOP", "")


@pytest.mark.parametrize(
    "line", [b"", b"   ", b"\xff\xfe", b"EHLO a\rMAIL", b"NOOP\0", b"\x16\x03\x01", b"A1 x", b"EHLO\x7f"]
)
def test_noise_is_500(line: bytes) -> None:
    with pytest.raises(CommandError) as caught:
        parse_command(line)
    assert caught.value.reply.code == 500


@pytest.mark.parametrize("sign", [*range(0x09), *range(0x0A, 0x20), *range(0x7F, 0xA0), 0x61C, 0x200E, 0x200F])
def test_control_characters(sign: int) -> None:
    line = f"MAIL FROM:<a{chr(sign)}b@client.example>"
    with pytest.raises(CommandError, match="Control characters"):
        parse_command(line.encode())


@pytest.mark.parametrize("sign", [*range(0x2028, 0x202F), *range(0x2066, 0x206A)])
def test_what_ends_lines_or_turns_text_around(sign: int) -> None:
    with pytest.raises(CommandError, match="Control characters"):
        parse_command(f"EHLO a{chr(sign)}".encode())


@pytest.mark.parametrize("text", ["a\tb", "jörg", "a\xa0b", "न\u200dि", "a\u2027\u202fb"])
def test_other_characters_are_for_the_command_to_judge(text: str) -> None:
    assert parse_command(f"NOOP {text}".encode()) == Command("NOOP", text)


@pytest.mark.parametrize("name", ["mx.example", "mx.example.", "[192.0.2.1]", "[IPv6:2001:db8::1]", "under_score", "a"])
def test_greetings(name: str) -> None:
    assert parse_greeting(name) == name


@pytest.mark.parametrize("name", ["", "a b", "-", "a(b)", "a" * 256, "<a>", "[]"])
def test_greetings_that_are_no_name(name: str) -> None:
    with pytest.raises(CommandError) as caught:
        parse_greeting(name)
    assert caught.value.reply.code == 501


@pytest.mark.parametrize(
    ("argument", "command"),
    [
        ("FROM:<>", MailCommand(NULL_PATH)),
        ("from:<a@b.example>", MailCommand(SENDER)),
        ("FROM: <a@b.example> SIZE=10 body=8bitmime", MailCommand(SENDER, 10, EIGHT_BIT_MAIL)),
        ("FROM:<a@b.example> BODY=7BIT", MailCommand(SENDER)),
        ("FROM:<a@xn--bcher-kva.example>", MailCommand(Address("a", "xn--bcher-kva.example"))),
    ],
)
def test_mail(argument: str, command: MailCommand) -> None:
    assert parse_mail(argument, BASIC, 0.0) == command


def test_the_commonest_parameters_are_one_object() -> None:
    assert parse_mail("FROM:<a@b.example> SIZE=1", BASIC, 0.0).parameters is PLAIN_MAIL
    assert parse_mail("FROM:<a@b.example> SIZE=1 BODY=8BITMIME", BASIC, 0.0).parameters is EIGHT_BIT_MAIL


@pytest.mark.parametrize(
    ("argument", "code"),
    [
        ("", 501),
        ("<a@b.example>", 501),
        ("FROM:a@b.example", 501),
        ("FROM:<a@b.example", 501),
        ("FROM:<a@b.example>x", 501),
        ("FROM:<a@b.example> SIZE=x", 501),
        ("FROM:<a@b.example> SIZE", 501),
        ("FROM:<a@b.example> SIZE=1 SIZE=2", 501),
        ("FROM:<a@b.example> BODY=BINARYMIME", 501),
        ("FROM:<a@b.example> =x", 501),
        ("FROM:<a@b.example> RET=FULL", 555),
        ("FROM:<jörg@b.example>", 553),
        ("FROM:<a@bücher.example>", 553),
        ("FROM:<a@bücher.example> BODY=8BITMIME", 553),
        ("FROM:<@bücher.example:a@b.example>", 553),
    ],
)
def test_mail_that_is_refused(argument: str, code: int) -> None:
    with pytest.raises(CommandError) as caught:
        parse_mail(argument, BASIC, 0.0)
    assert caught.value.reply.code == code


def test_rcpt() -> None:
    assert parse_rcpt("TO:<a@b.example>", "mx.example", BASIC, is_utf8=False) == RcptCommand(SENDER)
    postmaster = RcptCommand(Address("Postmaster", "mx.example"))
    assert parse_rcpt("TO:<Postmaster>", "MX.example", BASIC, is_utf8=False) == postmaster


@pytest.mark.parametrize(
    ("argument", "code"), [("TO:<>", 501), ("TO:<a@b.example> NOTIFY=NEVER", 555), ("TO:<bob>", 501)]
)
def test_rcpt_that_is_refused(argument: str, code: int) -> None:
    with pytest.raises(CommandError) as caught:
        parse_rcpt(argument, "mx.example", BASIC, is_utf8=False)
    assert caught.value.reply.code == code


@pytest.mark.parametrize(
    ("argument", "command"),
    [("0", BdatCommand(0, False)), ("12 LAST", BdatCommand(12, True)), ("1  last", BdatCommand(1, True))],
)
def test_bdat(argument: str, command: BdatCommand) -> None:
    assert parse_bdat(argument) == command


@pytest.mark.parametrize(
    "argument", ["", "LAST", "-1", "1x", "1 FIRST", "1 LAST LAST", "9" * 21, "\N{ARABIC-INDIC DIGIT ONE}"]
)
def test_bdat_that_is_refused(argument: str) -> None:
    with pytest.raises(CommandError) as caught:
        parse_bdat(argument)
    assert caught.value.reply.code == 501


@given(st.binary(max_size=80))
def test_any_line_is_a_command_or_an_error(line: bytes) -> None:
    reply = None
    try:
        command = parse_command(line)
        parse_mail(command.argument, BASIC, 0.0)
        parse_rcpt(command.argument, "mx.example", {"DSN"}, is_utf8=True)
    except CommandError as error:
        reply = error.reply
    assert reply is None or reply.is_permanent
