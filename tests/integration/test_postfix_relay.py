"""mailgate as a real Postfix's way out and in front of a real Dovecot, by the snippets in etc/postfix."""

from __future__ import annotations

import re
import smtplib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from beside_postfix import ListeningGateway
from dovecot_parts import Dovecot
from parts import folder, free_port, wait_until
from postfix_ways import DOMAIN, Site, Snippet, SnippetPostfix
from recorder import Recorder

pytestmark = pytest.mark.needs("postfix", "dovecot", "root")

BOB, ANN = f"bob@{DOMAIN}", f"ann@{DOMAIN}"
_INTERNET = '[routes.internet]\ntransport = "smtp"\n'


@dataclass
class RelaySite(Site):
    """Clients come to mailgate's `port`, users to Postfix; mail for the Internet goes to a recorder."""

    recorder: Recorder
    boxes: Path

    def hand_over(self, recipient: str, *options: str) -> str:
        """One mail by Postfix's `sendmail`; its Message-ID."""
        ident, content = self.content()
        self.postfix.sendmail("-i", "-f", ANN, *options, recipient, content=content.decode().replace("\r\n", "\n"))
        return ident

    def mails(self, user: str) -> list[bytes]:
        files = (self.boxes / user / "new").glob("*")
        return [file.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n") for file in files]


@pytest.fixture(scope="module")
def site() -> Iterator[RelaySite]:
    with folder("relay") as base, Recorder() as recorder, Dovecot(base / "dovecot", [BOB, ANN]) as dovecot:
        in_front, inside = free_port(), free_port()
        snippet = Snippet.of("relay").changed(
            {
                "10025": str(inside),
                '"tcp:25"': f'"tcp:{in_front}:interface=127.0.0.1"',
                "/var/lib/mailgate": "state",
                "/run/dovecot/lmtp": str(dovecot.socket),
                _INTERNET: f'{_INTERNET}hosts = ["127.0.0.1:{recorder.port}"]\n',
            }
        )
        postfix = SnippetPostfix(base / "postfix", domain=DOMAIN, relay_port=inside)
        postfix.use(snippet)
        with ListeningGateway(base / "gateway", snippet.gateway, [in_front, inside]) as gateway, postfix:
            yield RelaySite(postfix, gateway, in_front, recorder=recorder, boxes=dovecot.mail / DOMAIN)


def test_mail_for_the_internet_goes_through_with_what_its_sender_asks_for(site: RelaySite) -> None:
    site.hand_over("eve@elsewhere.test", "-N", "success,delay", "-V", "order=1", "-R", "hdrs")
    taken = site.recorder.of("eve@elsewhere.test")
    assert taken.parameters()["RET"] == "HDRS"
    assert taken.parameters()["ENVID"] == "order+3D1"
    assert "ORCPT=rfc822;eve@elsewhere.test" in taken.recipients[0].split()
    site.log_line("to=<eve@elsewhere.test>", "relay=127.0.0.1", "status=sent (250 2.0.0 queued as ")


def test_both_logs_tell_of_the_same_mail(site: RelaySite) -> None:
    with smtplib.SMTP(
        "127.0.0.1", site.postfix.port, "desk.test", timeout=60, source_address=("127.0.0.77", 0)
    ) as user:
        user.sendmail(ANN, "dan@elsewhere.test", site.content()[1])
    line = site.log_line("to=<dan@elsewhere.test>", "status=sent (250 2.0.0 queued as ")
    first, ours = re.findall(r"\]: (\w+): to=.* queued as (\w{16})", line)[0]
    for one in (first, "127.0.0.77"):
        told = site.why(one, f"has it as {first}", "has it from unknown[127.0.0.77]", "delivered to dan@elsewhere.test")
        assert told.startswith(ours)


def test_mail_between_users_goes_to_dovecot_and_its_sender_is_told_once(site: RelaySite) -> None:
    ident = site.hand_over(BOB, "-N", "success", "-V", "order-2")
    assert site.mail("bob", ident).endswith(b"\r\n\r\nHello\r\n.\r\n..dots\r\n")
    wait_until(lambda: bool(site.reports("ann", "order-2")), "the sender is told")
    wait_until(site.is_idle, "all is done")
    (report,) = site.reports("ann", "order-2")
    assert b"Action: delivered" in report


def test_mail_from_outside_is_for_those_whom_dovecot_knows(site: RelaySite) -> None:
    ident, content = site.content()
    with site.client() as client:
        client.mail("someone@client.test")
        assert client.rcpt(BOB)[0] == 250
        code, said = client.rcpt(f"nobody@{DOMAIN}")
        assert (code, b"5.1.1" in said) == (550, True)
        assert client.rcpt("eve@elsewhere.test")[0] == 550
        assert client.data(content)[0] == 250
    head = site.mail("bob", ident).partition(b"\r\n\r\n")[0].decode()
    assert "from helo.client.test (unknown [127.0.0.88])" in head.replace("\r\n\t", " ")


def test_the_port_for_postfix_is_for_nobody_else(site: RelaySite) -> None:
    inside = site.gateway.ports[1]
    with smtplib.SMTP("127.0.0.1", inside, "client.test", timeout=60, source_address=("127.0.0.88", 0)) as client:
        client.ehlo()
        client.mail("someone@client.test")
        assert client.rcpt("eve@elsewhere.test")[0] == 550


def test_a_gateway_that_is_down_costs_no_mail_and_doubles_none(site: RelaySite) -> None:
    site.gateway.stop()
    try:
        ident = site.hand_over(BOB)
        site.log_line(f"to=<{BOB}>", "status=deferred", "Connection refused")
    finally:
        site.gateway.start()
    site.tool("postqueue", "-f")
    site.mail("bob", ident)
    wait_until(site.is_idle, "all is done")
    assert site.count("bob", ident) == 1
