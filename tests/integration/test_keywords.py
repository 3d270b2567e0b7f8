"""What EHLO offers is kept: what a client said is said to the next hop, though the gateway was stopped in between."""

from __future__ import annotations

import smtplib
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from configurations import configuration
from parts import Gateway, folder, free_port, wait_until
from recorder import Recorder, Taken
from secured import HOSTNAME, Trust

#: Seconds for which a message asks to be held: the gateway has been stopped and started long before.
HOLD = 6

TEXT = b"From: <ann@client.test>\r\nSubject: x\r\n\r\nHello\r\n"
EIGHT_BIT = "From: <ann@client.test>\r\nSubject: x\r\n\r\nGrüße, 你好\r\n".encode()
UTF8 = "From: <grüße@client.test>\r\nSubject: Grüße\r\n\r\nHello\r\n".encode()
BINARY = (
    b"From: <ann@client.test>\r\nMIME-Version: 1.0\r\nContent-Type: application/octet-stream\r\n"
    b"Content-Transfer-Encoding: binary\r\n\r\n\0\r\n.\r\n\n\r\xff" + bytes(range(256)) * 20
)


@dataclass(frozen=True)
class Case:
    """One message: what is said before MAIL, behind the paths, and how the content goes."""

    keyword: str
    mail: str = ""
    rcpt: str = ""
    before: Sequence[str] = ()
    content: bytes = TEXT
    chunks: int = 0
    sender: str = "ann@client.test"
    local_part: str = ""
    domain: str = "box.test"

    @property
    def recipient(self) -> str:
        return f"{self.local_part or self.keyword.lower()}@{self.domain}"


CASES = [
    Case("SIZE", f"SIZE={len(TEXT)}"),
    Case("8BITMIME", "BODY=8BITMIME", content=EIGHT_BIT),
    Case("SMTPUTF8", "SMTPUTF8 BODY=8BITMIME", content=UTF8, sender="grüße@client.test", local_part="jürgen"),
    Case("CHUNKING", chunks=3),
    Case("BINARYMIME", "BODY=BINARYMIME", content=BINARY, chunks=4),
    Case("DSN", "RET=HDRS ENVID=QQ+2B314", "NOTIFY=SUCCESS,DELAY ORCPT=rfc822;other+2Bx@box.test"),
    Case("REQUIRETLS", "REQUIRETLS"),
    Case("MT-PRIORITY", "MT-PRIORITY=4"),
    Case("DELIVERBY", "BY=600;N"),
    Case("FUTURERELEASE", f"HOLDFOR={HOLD}"),
    Case("FUTURERELEASE", "HOLDUNTIL=@UNTIL@", local_part="holduntil"),
    Case("AUTH", "AUTH=eva+2Bx@client.test"),
    Case("XFORWARD", before=["XFORWARD ADDR=192.0.2.8 NAME=host.client.test", "XFORWARD HELO=helo.client.test"]),
    Case("XCLIENT", before=["XCLIENT ADDR=192.0.2.9 NAME=host.client.test PORT=4711"], domain="told.test"),
]

LISTENER = """role = "hybrid"
auth = "users"
trusted_networks = ["127.0.0.1"]
xclient_from = ["127.0.0.1"]
xforward_from = ["127.0.0.1"]"""

#: Keywords about the session itself: there is nothing in them for the next hop. ETRN has a test of its own.
OF_THE_SESSION = {"PIPELINING", "LIMITS", "ENHANCEDSTATUSCODES", "ETRN"}


@dataclass
class Site:
    """What was said to a gateway that is started anew since, and what its next hop has got."""

    gateway: Gateway
    port: int
    trust: Trust
    recorder: Recorder
    offered: Mapping[str, str]
    replies: Mapping[str, tuple[int, bytes]]
    begun: float

    def taken(self, recipient: str) -> Taken:
        """What the next hop has for a recipient, once it has it."""
        assert self.replies[recipient][0] == 250, self.replies[recipient]
        return self.recorder.of(recipient, HOLD + 10)


def until(seconds: float) -> str:
    """The moment after so many seconds, rounded up, as HOLDUNTIL has it (RFC 4865 section 4.2)."""
    return f"{datetime.now(UTC) + timedelta(seconds=seconds + 1):%Y-%m-%dT%H:%M:%SZ}"


def say(client: smtplib.SMTP, case: Case) -> tuple[int, bytes]:
    """Send one message; the reply to its content, or the first that is no consent."""
    client.command_encoding = "utf-8" if "SMTPUTF8" in case.mail else "ascii"
    for line in case.before:
        code, text = client.docmd(line)
        if code not in (220, 250):
            return code, text
    if case.before and case.before[0].startswith("XCLIENT"):
        client.ehlo()
    mail = f"MAIL FROM:<{case.sender}> {case.mail.replace('@UNTIL@', until(HOLD))}"
    rcpt = f"RCPT TO:<{case.recipient}> {case.rcpt}"
    for line in (mail, rcpt):
        code, text = client.docmd(line.rstrip())
        if code != 250:
            return code, text
    if not case.chunks:
        return client.data(case.content)
    step = len(case.content) // case.chunks + 1
    pieces = [case.content[start : start + step] for start in range(0, len(case.content), step)]
    for piece in pieces:
        last = b" LAST" if piece is pieces[-1] else b""
        client.send(b"BDAT %d%s\r\n%s" % (len(piece), last, piece))
        code, text = client.getreply()
        if code != 250:
            break
    return code, text


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with folder("keywords") as base:
        trust, port = Trust.new(base / "trust"), free_port()
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(trust.issue("next.test", "127.0.0.1"))
        recorder = Recorder(context=context)
        (base / "password").write_text("secret\n")
        route = f"""transport = "smtp"
hosts = ["127.0.0.1:{recorder.port}"]
tls = "verified"
tls_ca = "{trust.ca}"
auth = {{ username = "gateway", password_file = "{base / "password"}", mechanisms = ["plain"] }}
"""
        text = configuration(
            port,
            f"""
[routes.box]
{route}xforward = true
retry = {{ first = "1s", factor = 1.0 }}

[routes.told]
{route}xclient = true
retry = {{ first = "1s", factor = 1.0 }}

[routes.late]
{route}retry = {{ first = "1h" }}
""",
            domains={"box.test": "box", "told.test": "told", "late.test": "late"},
            listener=LISTENER,
            more=f'\n[tls]\ncertificate = "{trust.server()}"\n' + trust.users(),
        )
        gateway = Gateway(base / "gateway", text, [port])
        replies: dict[str, tuple[int, bytes]] = {}
        begun = time.time()
        with gateway:
            for case in [*CASES, Case("ETRN", domain="late.test")]:
                with trust.client(port) as client:
                    client.ehlo()
                    offered = dict(client.esmtp_features)
                    replies[case.recipient] = say(client, case)
            # Every message but those that are held has been tried, in vain.
            wait_until(lambda: gateway.command("queue", "list", "--json").stdout.count('"attempts": 0') <= 2, "tried")
        with recorder, gateway:
            yield Site(gateway, port, trust, recorder, offered, replies, begun)


def test_every_keyword_is_here(site: Site) -> None:
    assert {keyword.upper() for keyword in site.offered} == {case.keyword for case in CASES} | OF_THE_SESSION


def test_size_is_that_of_what_is_sent_on(site: Site) -> None:
    taken = site.taken("size@box.test")
    assert int(taken.parameters()["SIZE"]) == len(taken.content) > len(TEXT)


def test_8bitmime(site: Site) -> None:
    taken = site.taken("8bitmime@box.test")
    assert taken.parameters()["BODY"] == "8BITMIME"
    assert taken.content.endswith(EIGHT_BIT)


def test_smtputf8(site: Site) -> None:
    taken = site.taken("jürgen@box.test")
    assert taken.mail.startswith("FROM:<grüße@client.test>")
    assert "SMTPUTF8" in taken.parameters()
    assert taken.content.endswith(UTF8)
    assert b"with UTF8SMTPS id" in taken.content


def test_chunking(site: Site) -> None:
    assert site.taken("chunking@box.test").content.endswith(b"\r\n" + TEXT)


def test_binarymime(site: Site) -> None:
    taken = site.taken("binarymime@box.test")
    assert taken.by_bdat
    assert taken.parameters()["BODY"] == "BINARYMIME"
    assert taken.content.endswith(b"\r\n" + BINARY)


def test_dsn(site: Site) -> None:
    taken = site.taken("dsn@box.test")
    assert (taken.parameters()["RET"], taken.parameters()["ENVID"]) == ("HDRS", "QQ+2B314")
    words = taken.recipients[0].split()[1:]
    assert set(words) == {"NOTIFY=SUCCESS,DELAY", "ORCPT=rfc822;other+2Bx@box.test"}


def test_requiretls(site: Site) -> None:
    taken = site.taken("requiretls@box.test")
    assert "REQUIRETLS" in taken.parameters()
    assert taken.is_tls


def test_mt_priority(site: Site) -> None:
    assert site.taken("mt-priority@box.test").parameters()["MT-PRIORITY"] == "4"


def test_deliverby_has_the_time_that_is_left(site: Site) -> None:
    taken = site.taken("deliverby@box.test")
    left, _, mode = taken.parameters()["BY"].partition(";")
    assert mode == "N"
    assert 599 - (taken.at - site.begun) <= int(left) < 600


@pytest.mark.parametrize("local_part", ["futurerelease", "holduntil"])
def test_futurerelease_is_held_until_its_time(site: Site, local_part: str) -> None:
    taken = site.taken(f"{local_part}@box.test")
    assert taken.at >= site.begun + HOLD
    # Where the time has come there is nothing left to ask for.
    assert not {"HOLDFOR", "HOLDUNTIL"} & set(taken.parameters())


def test_auth(site: Site) -> None:
    taken = site.taken("auth@box.test")
    assert taken.parameters()["AUTH"] == "eva+2Bx@client.test"
    assert taken.commands_of("AUTH")[0].startswith("PLAIN ")


def test_xforward(site: Site) -> None:
    taken = site.taken("xforward@box.test")
    told = attributes(taken.commands_of("XFORWARD"))
    assert (told["ADDR"], told["NAME"], told["HELO"]) == ("192.0.2.8", "host.client.test", "helo.client.test")


def test_xclient(site: Site) -> None:
    taken = site.taken("xclient@told.test")
    told = attributes(taken.commands_of("XCLIENT"))
    assert (told["ADDR"], told["NAME"], told["PORT"]) == ("192.0.2.9", "host.client.test", "4711")
    # After it the session begins anew, in the client's name.
    assert taken.commands_of("EHLO")[-1] == "client.test"
    assert taken.commands_of("EHLO")[0] == HOSTNAME


def test_etrn_turns_the_queue_of_a_domain(site: Site) -> None:
    assert site.replies["etrn@late.test"][0] == 250
    with site.trust.client(site.port) as client:
        client.ehlo()
        assert client.docmd("ETRN", "nobody.test")[0] == 251
        assert client.docmd("ETRN", "late.test")[0] == 253
    site.taken("etrn@late.test")


def test_what_a_next_hop_does_not_offer_is_not_said_to_it(base: Path) -> None:
    trust, port = Trust.new(base / "trust"), free_port()
    with Recorder(offers=["PIPELINING"]) as recorder:
        text = configuration(
            port,
            f'\n[routes.box]\ntransport = "smtp"\nhosts = ["127.0.0.1:{recorder.port}"]\nxforward = true\n',
            domains={"box.test": "box"},
            listener=LISTENER,
            more=f'\n[tls]\ncertificate = "{trust.server()}"\n' + trust.users(),
        )
        said = {"SIZE", "CHUNKING", "DSN", "MT-PRIORITY", "AUTH", "XFORWARD", "REQUIRETLS"}
        with Gateway(base / "gateway", text, [port]) as gateway:
            for case in CASES:
                if case.keyword in said:
                    with trust.client(port) as client:
                        client.ehlo()
                        assert say(client, case)[0] == 250
            for keyword in said - {"REQUIRETLS"}:
                taken = recorder.of(f"{keyword.lower()}@box.test")
                assert taken.mail == "FROM:<ann@client.test>"
                assert taken.recipients == (f"TO:<{keyword.lower()}@box.test>",)
                assert not taken.commands_of("XFORWARD")
                assert not taken.by_bdat
            # RFC 8689 section 4.2.1: it fails rather than that it goes on without.
            wait_until(lambda: "5.7.10" in gateway.command("why", "requiretls@box.test").stdout, "it has failed")


def attributes(commands: Sequence[str]) -> dict[str, str]:
    """The attributes of such commands, by name."""
    return dict(word.split("=", 1) for command in commands for word in command.split())
