"""Real mail through real parts: a client, mailgate, Postfix and Dovecot; what arrives is what was sent."""

from __future__ import annotations

import smtplib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from configurations import configuration
from dovecot_parts import Dovecot
from parts import Gateway, Postfix, free_port, program, wait_until

pytestmark = pytest.mark.needs("postfix", "dovecot", "swaks", "root")


@dataclass
class Site:
    """The gateway with a Postfix and a Dovecot behind it."""

    gateway: Gateway
    port: int
    outbound: int
    postfix: Postfix
    dovecot: Dovecot

    def postfix_mail(self, user: str) -> list[Path]:
        return list((self.postfix.mail / user / "new").glob("*"))

    def dovecot_mail(self, user: str) -> list[Path]:
        return list((self.dovecot.mail / "dovecot.test" / user / "new").glob("*"))


@pytest.fixture
def site(base: Path) -> Iterator[Site]:
    port, outbound = free_port(), free_port()
    with (
        Postfix(base / "postfix", ["ann", "bob"]) as postfix,
        Dovecot(base / "dovecot", ["carl@dovecot.test", "dora@dovecot.test", "dora@socket.test"]) as dovecot,
    ):
        routes = f"""
[routes.postfix]
transport = "smtp"
hosts = ["127.0.0.1:{postfix.port}"]

[routes.dovecot]
transport = "lmtp"
hosts = ["127.0.0.1:{dovecot.port}"]

[routes.socket]
transport = "lmtp"
hosts = ["unix:{dovecot.socket}"]

[routes.out]
transport = "smtp"
hosts = ["127.0.0.1:{postfix.port}"]
"""
        text = configuration(
            port,
            routes,
            domains={"postfix.test": "postfix", "dovecot.test": "dovecot"},
            outbound=outbound,
            more='\n[routing.recipients]\n"dora@socket.test" = "socket"\n',
        )
        with Gateway(base / "gateway", text, [port, outbound]) as gateway:
            yield Site(gateway, port, outbound, postfix, dovecot)


def stripped(raw: bytes, *names: bytes) -> bytes:
    """A stored message without the fields at its top that the parts on its way have added, and with CRLF."""
    lines = raw.replace(b"\r\n", b"\n").split(b"\n")
    while lines and (lines[0].split(b":")[0].lower() in names or lines[0][:1] in (b" ", b"\t")):
        lines.pop(0)
    return b"\r\n".join(lines)


def only_mail_in(box: Path) -> bytes:
    """The one mail of a Maildir, once it is there."""
    wait_until(lambda: len(list(box.glob("new/*"))) == 1, f"one mail in {box.name}")
    return next(box.glob("new/*")).read_bytes()


TRACE = (b"return-path", b"x-original-to", b"delivered-to", b"received")

#: What Postfix would add where it is missing.
DATED = b"Date: Wed, 25 Nov 2026 12:00:00 +0000\r\nMessage-ID: <1@client.test>\r\nFrom: <x@client.test>\r\n"

MESSAGES = {
    "plain": DATED + b"Subject: plain\r\n\r\nHello\r\n",
    "dots": DATED + b"Subject: dots\r\n\r\n.\r\n..\r\n.x\r\n\r\n...end\r\n.\r\n",
    "eight bit": DATED + "Subject: Grüße\r\n\r\nGrüße, 你好\r\n".encode(),
    "long lines": DATED + b"Subject: long\r\n\r\n" + b"y" * 998 + b"\r\n" + b"z" * 998 + b"\r\n",
    "folded": DATED + b"Subject: a\r\n  b\r\n\tc\r\nX-Odd:no space\r\n\r\n \r\n\r\n\r\nend\r\n",
    "no body": DATED + b"Subject: no body\r\n\r\n",
    "large": DATED
    + b"Subject: large\r\n\r\n"
    + b"0123456789abcdef" * 60
    + b"\r\n"
    + (b"." + b"L" * 70 + b"\r\n") * 40_000,
}


@pytest.mark.parametrize("name", MESSAGES)
def test_mail_arrives_byte_for_byte(site: Site, name: str) -> None:
    message = MESSAGES[name]
    with smtplib.SMTP("127.0.0.1", site.port) as client:
        client.ehlo("client.test")
        for recipients in (["bob@postfix.test"], ["carl@dovecot.test"], ["ann@postfix.test", "dora@dovecot.test"]):
            client.mail("x@client.test", ["BODY=8BITMIME"])
            for recipient in recipients:
                assert client.rcpt(recipient)[0] == 250
            assert client.docmd("DATA")[0] == 354
            client.send(
                b"".join(b"." + line if line[:1] == b"." else line for line in message.splitlines(True)) + b".\r\n"
            )
            code, text = client.getreply()
            assert code == 250
            assert b"queued as" in text
    boxes = [site.postfix.mail / user for user in ("ann", "bob")]
    boxes += [site.dovecot.mail / "dovecot.test" / user for user in ("carl", "dora")]
    for box in boxes:
        raw = only_mail_in(box)
        assert stripped(raw, *TRACE) == message
        assert b"by mailgate.test" in raw


def test_swaks_by_pipelining_and_over_the_socket(site: Site) -> None:
    done = subprocess.run(  # noqa: S603
        [
            program("swaks"),
            *("--server", f"127.0.0.1:{site.outbound}", "--pipeline", "--ehlo", "client.test"),
            *("--from", "x@client.test", "--to", "bob@postfix.test,dora@socket.test"),
            *("--header", "Subject: from swaks", "--body", "Hello from swaks"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    wait_until(lambda: len(site.postfix_mail("bob")) == 1, "Postfix has it")
    by_socket = site.dovecot.mail / "socket.test" / "dora" / "new"
    wait_until(lambda: len(list(by_socket.glob("*"))) == 1, "Dovecot has it, by its unix socket")
    assert b"Hello from swaks" in next(by_socket.glob("*")).read_bytes()


def test_an_answer_per_recipient_and_a_report_for_the_one_that_failed(site: Site) -> None:
    with smtplib.SMTP("127.0.0.1", site.port) as client:
        client.sendmail(
            "ann@postfix.test",
            ["carl@dovecot.test", "nobody@dovecot.test", "nobody@postfix.test"],
            b"From: <ann@postfix.test>\r\nSubject: three\r\nMessage-ID: <three@client.test>\r\n\r\nHello\r\n",
        )
    wait_until(lambda: len(site.dovecot_mail("carl")) == 1, "the good recipient has it")
    wait_until(lambda: len(site.postfix_mail("ann")) == 2, "a report for each of the two attempts is back")
    reports = [path.read_text() for path in site.postfix_mail("ann")]
    for address in ("nobody@dovecot.test", "nobody@postfix.test"):
        (report,) = [text for text in reports if f"rfc822; {address}" in text]
        assert "multipart/report" in report
        assert "Action: failed" in report
        assert "Subject: three" in report
    assert not any("rfc822; carl@dovecot.test" in text for text in reports)
    queue = site.gateway.command("queue", "list", "--json")
    assert "dovecot.test" not in queue.stdout
    why = site.gateway.command("why", "three@client.test").stdout
    assert "carl@dovecot.test" in why
    assert "nobody@dovecot.test" in why
