"""A day's varied traffic through the example postfix-and-dovecot: from outside into mailboxes, read there over IMAP,
and out again. Each message keeps its octets, but for fields that are put on top of it.

With MAILGATE_SUITES the traffic is the corpus of the suites, and else what is made here.
"""

from __future__ import annotations

import imaplib
import os
import random
import re
import smtplib
from base64 import encodebytes
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from dovecot_parts import Dovecot
from parts import Postfix, free_port, wait_until
from recorder import Recorder

from examples import EXAMPLES, Example, settings_of, zones

pytestmark = pytest.mark.needs("postfix", "dovecot", "knotd", "root")

#: Fields that are put on a message on its way; nothing else of it changes.
OURS = (b"return-path", b"delivered-to", b"received", b"authentication-results")
#: Messages over one connection.
_EACH = 50
#: A header section with an empty line behind it, and no field that Postfix writes anew.
_WELL_FORMED = re.compile(rb"(?:[!-9;-~]+:[^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*)+\r\n")
#: What a mailbox in one file has before each message.
_MBOX_LINE = re.compile(rb"\AFrom [^\r\n:]*(?: \w{3}){2} +\d+ [^\r\n]*\r\n|\AFrom [^\r\n:]*\r\n")
_RETURN_PATH = re.compile(rb"(?im)^return-path[ \t]*:")
_FIELD = re.compile(rb"[!-9;-~]+:")
SUFFIXES = (".eml", ".msg", ".raw")


def corpus() -> dict[str, bytes]:
    """Messages by their names, in lines that end with CR LF."""
    found = dict(made())
    suites = os.environ.get("MAILGATE_SUITES")
    if suites:
        folder = Path(suites) / "corpus"
        for path in sorted(folder.rglob("*")):
            if path.suffix in SUFFIXES and path.is_file():
                octets = re.sub(rb"\r\n|\r|\n", b"\r\n", path.read_bytes())
                octets = _MBOX_LINE.sub(b"", octets)
                found[str(path.relative_to(folder))] = octets if octets.endswith(b"\r\n") else octets + b"\r\n"
    return found


def made() -> Iterator[tuple[str, bytes]]:
    """What is hard to carry, of each kind one."""
    head = b"From: <ann@client.test>\r\nDate: Wed, 25 Nov 2026 12:00:00 +0000\r\nMessage-ID: <@N@@client.test>\r\n"
    chance = random.Random(1)
    bodies = {
        "plain": b"\r\nHello.\r\n",
        "dots": b"\r\n.\r\n..\r\n.x\r\n\r\n.\r\n",
        "from": b"\r\nFrom the beginning\r\n>From there\r\n",
        "empty": b"\r\n",
        "blank lines": b"\r\n\r\n\r\n \r\n\t\r\n\r\n",
        "eight bits": "Subject: Grüße\r\n\r\nGrüße\r\n".encode(),
        "latin": b"Content-Type: text/plain; charset=iso-8859-1\r\n\r\nGr\xfc\xdfe\r\n",
        "folded": b"X-Long: " + b"\r\n ".join([b"word" * 10] * 50) + b"\r\nx-odd:  y \r\n\r\nx\r\n",
        "long line": b"\r\n" + b"y" * 998 + b"\r\n",
        "many lines": b"\r\n" + b"a line\r\n" * 50_000,
        "encoded": b"MIME-Version: 1.0\r\nContent-Transfer-Encoding: base64\r\n\r\n"
        + encodebytes(chance.randbytes(300_000)).replace(b"\n", b"\r\n"),
        "travelled": b"Received: from a by b; Wed, 25 Nov 2026 12:00:00 +0000\r\nReturn-Path: <a@b.test>\r\n\r\nx\r\n",
    }
    for name, body in bodies.items():
        yield name, head.replace(b"@N@", name.replace(" ", ".").encode()) + body


def sent(port: int, messages: Mapping[str, bytes], recipient: str) -> dict[str, int]:
    """Which number each message has in its recipient, for those that were taken; others were refused for good."""
    taken: dict[str, int] = {}
    numbered = list(enumerate(messages.items()))
    for some in (numbered[at : at + _EACH] for at in range(0, len(numbered), _EACH)):
        with smtplib.SMTP("127.0.0.1", port, "mx.client.test", timeout=60) as client:
            client.ehlo()
            taken |= dict(sent_over(client, some, recipient))
    return taken


def sent_over(
    client: smtplib.SMTP, numbered: Sequence[tuple[int, tuple[str, bytes]]], recipient: str
) -> Iterator[tuple[str, int]]:
    """The same, over one connection."""
    for number, (name, octets) in numbered:
        assert client.mail("ann@client.test", ["BODY=8BITMIME"])[0] == 250
        assert client.rcpt(recipient.format(number))[0] == 250
        assert client.docmd("DATA")[0] == 354
        client.send(re.sub(rb"(?m)^\.", b"..", octets) + b".\r\n")
        code, said = client.getreply()
        assert code in (250, 550, 554), (name, code, said)
        if code == 250:
            yield name, number


def rest_of(octets: bytes) -> bytes:
    """A message without the fields that are put on it."""
    header, empty, body = octets.partition(b"\r\n\r\n")
    fields = re.split(rb"\r\n(?![ \t])", header)
    kept = [one for one in fields if one.partition(b":")[0].strip().lower() not in OURS]
    return b"\r\n".join(kept) + empty + body


def differing(expected: Mapping[int, bytes], found: Mapping[int, bytes]) -> set[int]:
    """The numbers of messages that have come to anything else, or have not come."""
    return {number for number, octets in expected.items() if not has_kept(found.get(number, b""), octets)}


def has_kept(found: bytes, octets: bytes) -> bool:
    """Whether a message is as it was, with fields on top; a Return-Path that it had is replaced."""
    if not _RETURN_PATH.search(octets.partition(b"\r\n\r\n")[0]):
        return found.endswith(octets)
    return rest_of(found) == rest_of(octets)


def has_what_mail_may_not(octets: bytes) -> bool:
    """Whether it is refused for its form (RFC 5321 section 4.5.3.1.6)."""
    return b"\0" in octets or max(map(len, octets.split(b"\r\n"))) > 998


def number_of(text: bytes) -> int:
    found = re.search(rb"\+(\d+)@", text)
    assert found, text[:200]
    return int(found[1])


def box(port: int, number: int) -> dict[int, bytes]:
    """What is in a mailbox of so many messages, read over IMAP, by the numbers in their recipients."""
    found = {}
    with imaplib.IMAP4("127.0.0.1", port) as client:
        client.login("bob@example.org", "secret")

        def count() -> int:
            return int(client.select("INBOX")[1][0] or b"0")

        wait_until(lambda: count() >= number, f"{number} are there", 90)
        assert count() == number
        for line in client.fetch(f"1:{number}", "(BODY.PEEK[])")[1] if number else ():
            if isinstance(line, tuple):
                found[number_of(line[1].partition(b"Delivered-To:")[2])] = line[1]
    return found


def test_everything_arrives_as_it_was_sent(base: Path) -> None:
    port, out = free_port(), free_port()
    with ExitStack() as stack:
        knot = stack.enter_context(zones(base / "dns"))
        outside = stack.enter_context(Recorder())
        dovecot = stack.enter_context(Dovecot(base / "dovecot", ["bob@example.org"], imap=True))
        boxes = base / "mailboxes"
        boxes.write_text("bob@example.org x\n")
        there = {"127.0.0.1:24": f"127.0.0.1:{dovecot.port}", ":10026": f":{out}", "/etc/postfix/mailboxes": str(boxes)}
        settings = settings_of(EXAMPLES / "postfix-and-dovecot" / "main.cf", there)
        postfix = stack.enter_context(Postfix(base / "postfix", domain="example.org", settings=settings))
        changes = {
            "tcp:25": f"tcp:{port}:interface=127.0.0.1",
            "127.0.0.1:53": knot.server,
            "127.0.0.1:10025": f"127.0.0.1:{postfix.port}",
            "tcp:10026:interface=127.0.0.1": f"tcp:{out}:interface=127.0.0.1",
            "port = 25": f"port = {outside.port}",
        }
        gateway = stack.enter_context(Example(base / "gateway", "postfix-and-dovecot", changes, [port, out]))

        messages = corpus()
        assert len(messages) > (400 if "MAILGATE_SUITES" in os.environ else 10)
        taken = sent(port, messages, "bob+{}@example.org")
        refused = {name for name in messages if name not in taken}
        assert {name for name in refused if not has_what_mail_may_not(messages[name])} == set()
        # A header section that is none is mended by Postfix, whoever it comes from. A first line that is no field is
        # not the first any more.
        odd = {name: messages[name] for name in taken if not _WELL_FORMED.match(messages[name])}
        alone = sent(postfix.port, odd, "bob+1{:06d}@example.org")
        read = box(dovecot.imap_port, len(taken) + len(alone))
        expected = {number: messages[name] for name, number in taken.items()}
        for name in odd:
            if _FIELD.match(odd[name]):
                expected[taken[name]] = read[1_000_000 + alone[name]]
            else:
                assert read[taken[name]].endswith(odd[name].partition(b"\r\n\r\n")[2])
                del expected[taken[name]]
        assert differing(expected, read) == set()

        again = {str(number): read[number] for number in expected}
        assert len(sent(postfix.port, again, "cid+{}@client.test")) == len(again)
        wait_until(lambda: len(outside.taken) >= len(again), "all is out again", 120)
        gone = {number_of(one.recipients[0].encode()): one.content for one in outside.taken}
        assert len(outside.taken) == len(again)
        assert differing(dict(enumerate(again.values())), gone) == set()
        assert gateway.events("bounced") == gateway.events("deferred") == []
