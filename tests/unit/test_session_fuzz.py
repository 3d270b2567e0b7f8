"""Whatever octets come, in whatever pieces, with whatever delays: one reply to each command, in order, and no crash."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, cycle
from pathlib import Path
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import deferLater

from mailgate.reply import Reply
from mailgate.verdict import Continue, Defer, Quarantine, Reject
from tests.unit.session_security import PASSWORD, b64, server, users
from tests.unit.smtp_stand import CONTENT, ENVELOPE, Call, Stand, Wire

#: Only HELP is answered with 214: it shows when content was taken for a command.
MARKER = b"HELP\r\n"

#: Initial responses of PLAIN.
RIGHT, WRONG = (b64(f"\0ann\0{password}").encode() for password in (PASSWORD, "wrong"))

WORDS = [
    *(b"EHLO ", b"HELO ", b"LHLO ", b"MAIL FROM:", b"RCPT TO:", b"DATA", b"RSET", b"NOOP", b"VRFY ", b"QUIT", b"BDAT "),
    *(b"<ann@client.example>", b"<bob@example.org>", b"<>", b"<postmaster>", b'<"a b"@example.org>', b"<@a,@b:c@d>"),
    *(b" SIZE=10", b" BODY=8BITMIME", b" SIZE=99999999999999999999", b" FOO", b"client.example", b"[192.0.2.1]"),
    *(b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b".\r\n", b"\r\n.\r\n", b"\0", b"\t", b" ", b"\xff", b"x" * 999),
    *(
        b"BDAT 10\r\n",
        b"BDAT 6 LAST\r\n" + MARKER,
        b"BDAT 0 LAST\r\n",
        b" LAST",
        b"STARTTLS\r\n",
        b"AUTH PLAIN ",
        b"=",
        b"*",
    ),
    *(
        b"AUTH LOGIN\r\n",
        b"YW5u\r\n",
        RIGHT,
        WRONG,
        b"AUTH SCRAM-SHA-256 biwsbj1hbm4scj14\r\n",
        b"ETRN client.example\r\n",
    ),
    *(b"XCLIENT NAME=a.example", b" ADDR=198.51.100.1", b"XFORWARD IDENT=1\r\n", b" BODY=BINARYMIME", b" SMTPUTF8"),
    *(b" RET=FULL", b" NOTIFY=NEVER", b" AUTH=<>", b" MT-PRIORITY=3", b" BY=9;R", b" HOLDFOR=9", b" ORCPT=rfc822;x"),
    *(b"GET / HTTP/1.1\r\n", b"\x16\x03\x01", b"Subject: x\r\n\r\n", ENVELOPE, ENVELOPE + b"DATA\r\n", CONTENT),
]

CHANCE = st.randoms(use_true_random=False)


@contextmanager
def stand(*, has_tls: bool = False, **listener: object) -> Iterator[Stand]:
    """A listener for anybody that knows ann, takes XCLIENT from all, and more errors than a test makes."""
    defaults: dict[str, object] = {"role": "hybrid", "auth": "users", "auth_without_tls": True}
    defaults |= dict.fromkeys(("max_errors", "max_commands", "max_auth_failures"), 10_000)
    defaults |= {"max_auth_failures_per_client": 10_000, "max_message_size": "64KiB"}
    defaults |= dict.fromkeys(("command_timeout", "data_timeout", "session_timeout"), "1d")
    defaults |= {"xclient_from": ["192.0.2.0/24"], "xforward_from": ["192.0.2.0/24"]}
    with tempfile.TemporaryDirectory() as folder:
        incoming = Path(folder) / "incoming"
        incoming.mkdir()
        tls = server(Path(folder)) if has_tls else None
        with Stand(incoming, defaults | listener, tls=tls, authenticator=users(Path(folder))).watched() as one:
            yield one


def pieces_of(octets: bytes, chance: Random) -> Iterator[bytes]:
    while octets:
        size = chance.choice([1, 2, 3, 10, 100, 5000])
        yield octets[:size]
        octets = octets[size:]


@settings(max_examples=300)
@given(st.lists(st.one_of(st.sampled_from(WORDS), st.binary(max_size=20)), max_size=60), CHANCE)
def test_any_octets(words: list[bytes], chance: Random) -> None:
    with stand(has_tls=True, max_errors=50) as one:
        wire = one.connect()
        assert wire.codes() == [220]
        lines = 0
        for piece in pieces_of(b"".join(words), chance):
            was_closed = wire.is_closed
            codes = wire.send(piece)
            assert not (was_closed and codes)
            lines += piece.count(b"\n") - len(codes)
            assert lines + wire.is_closed >= 0  # 421 may follow the last mistake
            one.clock.advance(chance.choice([0, 0, 1, 20]))
            lines -= len(wire.codes())


@settings(max_examples=100)
@given(st.binary(max_size=3000))
def test_noise(octets: bytes) -> None:
    with stand() as one:
        wire = one.connect()
        lines = octets.count(b"\n")
        assert len(wire.send(octets)) <= 1 + lines
        assert one.script.taken == []


COMMANDS = [
    "EHLO client.example",
    "HELO client.example",
    "EHLO",
    "LHLO client.example",
    "MAIL FROM:<ann@client.example>",
    "MAIL FROM:<>",
    "MAIL FROM:<ann@client.example> BODY=8BITMIME",
    "MAIL FROM:<oops",
    "RCPT TO:<bob@example.org>",
    "RCPT TO:<eve@example.org>",
    "RCPT TO:<eve@elsewhere.example>",
    "RCPT TO:<late@example.org>",
    "DATA",
    "DATA now",
    "RSET",
    "NOOP",
    "VRFY x",
    "FROB",
    "x" * 20_000,
    "MAIL FROM:<ann@client.example> BODY=BINARYMIME RET=FULL ENVID=x",
    "MAIL FROM:<ann@client.example> MT-PRIORITY=3 BY=600;N HOLDFOR=60",
    "MAIL FROM:<ann@client.example> HOLDFOR=forever",
    "RCPT TO:<bob@example.org> NOTIFY=NEVER",
    "RCPT TO:<bob@example.org> NOTIFY=ALWAYS",
    "BDAT 6\r\nHELP",
    "BDAT 6 LAST\r\nHELP",
    "BDAT 14 LAST\r\n\r\n.\r\nHELP\r\n.",
    "BDAT 9\r\na\r\nHELP",
    "BDAT 8 LAST\r\na\nHELP",
    "BDAT 0",
    "BDAT 0 LAST",
    "BDAT 70000\r\n" + "HELP\r\n" * 11_666 + "xx",
    "STARTTLS",
    "AUTH",
    f"AUTH PLAIN {RIGHT.decode()}",
    f"AUTH PLAIN {WRONG.decode()}",
    "XFORWARD NAME=a.example IDENT=1",
    "XFORWARD FOO=1",
    "XCLIENT NAME=a.example ADDR=198.51.100.1 HELO=b.example",
    "XCLIENT ADDR=[UNAVAILABLE] LOGIN=ann",
    "XCLIENT",
    "ETRN client.example",
]
#: Commands on their way to content.
MAILS = [
    [COMMANDS[4], COMMANDS[8], "DATA"],
    [COMMANDS[4], COMMANDS[9], COMMANDS[10], COMMANDS[8], COMMANDS[9], "DATA"],
    [COMMANDS[5], COMMANDS[8], "DATA"],
    ["RSET", COMMANDS[4], COMMANDS[11], COMMANDS[8], "NOOP", "DATA"],
    [COMMANDS[4], COMMANDS[8], "BDAT 6\r\nHELP", "NOOP", "BDAT 6 LAST\r\nHELP"],
    [COMMANDS[5], COMMANDS[8], "BDAT 6\r\nHELP", "BDAT 6 LAST\r\nHELP"],
    ["MAIL FROM:<ann@client.example> BODY=BINARYMIME", COMMANDS[8], "BDAT 8\r\na\nHELP", "DATA", "BDAT 0 LAST"],
    [COMMANDS[4], COMMANDS[8], "BDAT 8\r\na\nHELP", "BDAT 6\r\nHELP", "BDAT 0 LAST"],
]
#: Exchanges of AUTH with the responses that they have, whatever comes of them.
EXCHANGES = [
    ["AUTH LOGIN", "YW5u", b64(PASSWORD)],
    ["AUTH LOGIN", "YW5u", "d3Jvbmc="],
    ["AUTH PLAIN", RIGHT.decode()],
    ["AUTH LOGIN", "*"],
    ["AUTH LOGIN", "x" * 20_000],
    ["AUTH SCRAM-SHA-256 biwsbj1hbm4scj14", "NOOP"],
    ["AUTH SCRAM-SHA-256 biwsbj1ldmUscj14", "Yz1iaXdzLHI9eCxwPXg="],
]
BODIES = [
    CONTENT,
    b".\r\n",
    MARKER + b".\r\n",
    b"a\n.\n" + MARKER + b".\r\n",
    b"x" * 1500 + b"\r\n" + MARKER + b".\r\n",
    b"y" * 70 + b"\r\n" + (b"z" * 70 + b"\r\n") * 1000 + MARKER + b".\r\n",
]


def verdicts_of(one: Stand, is_late: bool) -> None:
    """A script that objects by rules of its own, at once or later: the replies must be the same."""

    def answer(value: object) -> object:
        return deferLater(one.clock, 1.5, lambda: value) if is_late else value

    no = Reject(Reply.of(550, "5.7.1", "No"), "no")
    later = Defer(Reply.of(450, "4.7.1", "Later"), "later")
    script = one.script.answers
    script["mail"] = Call(
        lambda session, transaction: answer(later if transaction.parameters.body == "8BITMIME" else Continue())
    )
    script["rcpt"] = Call(
        lambda session, transaction, recipient: answer(no if recipient.address.local_part == "late" else Continue())
    )
    script["data"] = Call(lambda session, transaction: answer(no if not transaction.sender else Continue()))
    script["helo"] = Call(lambda session: answer(Continue()))
    script["connect"] = Call(lambda session: answer(Continue()))
    script["message"] = Call(
        lambda session, transaction, message: answer(
            [Quarantine("spam") if number else Continue() for number, _ in enumerate(transaction.recipients)]
        )
    )


def settle(one: Stand) -> None:
    one.clock.pump([1.0] * 20)


def run(wire: Wire, commands: Sequence[str], bodies: Iterator[bytes]) -> tuple[list[int], list[bytes]]:
    """A client that waits for each reply; what it was told, and what it sent between the replies it had to wait for."""
    settle(wire.stand)
    told, groups = wire.codes(), [b""]
    assert told == [220]
    for command in commands:
        line = command.encode() + b"\r\n"
        groups[-1] += line
        codes = wire.send(line)
        settle(wire.stand)
        codes += wire.codes()
        assert len(codes) == 1, (command, codes)
        told += codes
        if command.startswith("DATA"):
            groups.append(b"")  # the client has to wait here
        if codes == [354]:
            body = next(bodies)
            groups[-1] += body
            codes = wire.send(body)
            settle(wire.stand)
            codes += wire.codes()
            assert len(codes) == 1
            assert codes[0] in (250, 550, 552)
            told += codes
    return told, groups


SCENES = st.one_of(
    st.sampled_from([[command] for command in COMMANDS]), st.sampled_from(MAILS), st.sampled_from(EXCHANGES)
)


@settings(max_examples=150)
@given(
    st.lists(SCENES, max_size=15),
    st.integers(0, len(BODIES) - 1),
    st.booleans(),
    CHANCE,
)
def test_one_reply_to_each_command_whatever_is_pipelined(
    scenes: list[list[str]], first: int, is_late: bool, chance: Random
) -> None:
    commands = [COMMANDS[0], *chain.from_iterable(scenes)]
    with stand() as one:
        verdicts_of(one, is_late=False)
        told, groups = run(one.connect(), commands, cycle([*BODIES[first:], *BODIES[:first]]))
        messages = one.script.messages
        assert 214 not in told
    with stand() as one:
        verdicts_of(one, is_late)
        wire = one.connect()
        codes = []
        for group in groups:
            for piece in pieces_of(group, chance):
                codes += wire.send(piece)
            one.clock.pump([1.0] * 600)
            codes += wire.codes()
        assert codes == told
        assert one.script.messages == messages


PARTS = [
    b"\r\n",
    b"\n",
    b"\r",
    b".",
    b"..",
    MARKER,
    b"text",
    b"\r\n.",
    b"\r\n.\r",
    b"\n.\n",
    b"\n.\r\n",
    b"\r\n.\n",
    b"x" * 997,
]


@settings(max_examples=400)
@given(st.lists(st.sampled_from(PARTS), max_size=30), CHANCE)
def test_content_ends_where_it_ends_and_is_never_executed(parts: list[bytes], chance: Random) -> None:
    content = (b"\r\n" + b"".join(parts) + b"\r\n.\r\n").partition(b"\r\n.\r\n")[0][2:]
    octets = content + b"\r\n.\r\n" if content else b".\r\n"
    with stand() as one:
        wire = one.connect().data()
        codes = [code for piece in pieces_of(octets + b"NOOP\r\n", chance) for code in wire.send(piece)]
        lines = content.split(b"\r\n")
        is_good = not any(re.search(rb"[\r\n]", line) or len(line.removeprefix(b".")) > 998 for line in lines)
        assert codes == [250 if is_good else 550, 250]
        taken = b"".join(line.removeprefix(b".") + b"\r\n" for line in lines) if content else b""
        assert one.script.messages == ([taken] if is_good else [])
