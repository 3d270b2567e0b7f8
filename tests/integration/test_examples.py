"""Each example that we ship: it starts, with nothing changed but the lines that are marked, and does what it says."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import smtplib
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from email import message_from_bytes
from email.message import EmailMessage
from functools import partial
from pathlib import Path

import pytest
from application import Application
from dns_parts import Knot
from dovecot_parts import Dovecot
from exchange_double import ExchangeDouble
from parts import Part, Postfix, folder, free_port, listens, wait_until
from recorder import Recorder
from secured import PASSWORD, USER, Trust

from examples import EXAMPLES, Example, adapted, settings_of, zones
from mailgate.mailauth import verify_dkim
from mailgate.testing import MemoryResolver, wait_for

pytestmark = pytest.mark.needs("knotd")

Start = Callable[..., Example]


@pytest.fixture(scope="module")
def knot() -> Iterator[Knot]:
    with folder("examples-dns") as directory, zones(directory) as served:
        yield served


@pytest.fixture
def outside() -> Iterator[Recorder]:
    """The mail server of everybody who is not the site."""
    with Recorder() as recorder:
        yield recorder


@pytest.fixture
def start(base: Path) -> Iterator[Start]:
    """Starts the example of a name, with files and changes of the test's own."""
    started: list[Example] = []

    def start(name: str, changes: dict[str, str], ports: list[int], files: dict[str, str] | None = None) -> Example:
        example = Example(base / name, name, changes, ports)
        for file, text in (files or {}).items():
            (example.directory / file).write_text(text)
            (example.directory / file).chmod(0o600)
        environment = {**example.environment(), "PATH": os.environ["PATH"]}
        command = [str(Path(sys.executable).with_name("mailgate")), "check", "--config", str(example.file)]
        told = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)  # noqa: S603
        assert (told.returncode, told.stderr) == (0, "")
        example.start()
        started.append(example)
        return example

    yield start
    for example in started:
        example.stop()


def loopback(port: int) -> str:
    return f"tcp:{port}:interface=127.0.0.1"


def mail(subject: str, to: str, sender: str = "ann@client.test", **fields: str) -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = sender, to, subject
    message["Date"] = "Wed, 25 Nov 2026 12:00:00 +0000"
    message["Message-ID"] = f"<{subject.replace(' ', '.')}@client.test>"
    for name, value in fields.items():
        message[name.replace("_", "-")] = value
    message.set_content("Hello.\n")
    return message


def send(port: int, message: EmailMessage, *recipients: str, source: str = "127.0.0.1") -> None:
    with smtplib.SMTP("127.0.0.1", port, "mx.client.test", timeout=60, source_address=(source, 0)) as client:
        client.send_message(message, str(message["From"]), recipients)


def test_every_folder_is_an_example_with_its_words() -> None:
    folders = sorted(one.name for one in EXAMPLES.iterdir() if one.is_dir())
    table = (EXAMPLES / "README.md").read_text()
    for name in folders:
        assert f"[{name}]({name}/)" in table
        assert {"mailgate.toml", "README.md"} <= {one.name for one in (EXAMPLES / name).iterdir()}
    tests = Path(__file__).read_text()
    assert [name for name in folders if f'"{name}"' not in tests] == []


def test_what_is_changed_is_marked() -> None:
    with pytest.raises(AssertionError, match="not marked"):
        adapted('endpoints = ["tcp:25"]\n', {})
    with pytest.raises(AssertionError, match="no marked line"):
        adapted('a = "tcp:25" # yours\n', {"tcp:26": ""})


@pytest.mark.needs("postfix", "dovecot", "root")
def test_in_front_of_postfix_and_dovecot(base: Path, knot: Knot, outside: Recorder, start: Start) -> None:
    port, out = free_port(), free_port()
    with Dovecot(base / "dovecot", ["ann@example.org", "bob@example.org"]) as dovecot:
        there = {"127.0.0.1:24": f"127.0.0.1:{dovecot.port}", ":10026": f":{out}"}
        settings = settings_of(EXAMPLES / "postfix-and-dovecot" / "main.cf", there)
        boxes = base / "mailboxes"
        boxes.write_text("ann@example.org x\nbob@example.org x\n")
        settings["virtual_mailbox_maps"] = f"texthash:{boxes}"
        with Postfix(base / "postfix", domain="example.org", settings=settings) as postfix:
            changes = {
                "tcp:25": loopback(port),
                "127.0.0.1:53": knot.server,
                "127.0.0.1:10025": f"127.0.0.1:{postfix.port}",
                "tcp:10026:interface=127.0.0.1": loopback(out),
                "port = 25": f"port = {outside.port}",
            }
            gateway = start("postfix-and-dovecot", changes, [port, out])
            send(port, mail("in", "ann@example.org"), "ann@example.org", "bob@example.org", source="127.0.0.9")
            for user in ("ann", "bob"):
                box = dovecot.mail / "example.org" / user / "new"
                wait_until(lambda box=box: box.exists() and any(box.iterdir()), f"{user} has it")  # type: ignore[misc]
                (one,) = box.iterdir()
                text = message_from_bytes(one.read_bytes())
                assert text["Subject"] == "in"
                assert "arc=none" in str(text["Authentication-Results"])
            wait_until(lambda: "orig_client=unknown[127.0.0.9]" in postfix.log.read_text(), "Postfix knows the client")
            with pytest.raises(smtplib.SMTPRecipientsRefused):
                send(port, mail("no", "carla@example.org"), "carla@example.org")
            postfix.sendmail("-f", "ann@example.org", "cid@client.test", content="Subject: out\n\nHello.\n")
            assert b"Subject: out\r\n" in outside.of("cid@client.test").content
            assert gateway.events("deferred") == []


def test_in_front_of_exchange(knot: Knot, outside: Recorder, start: Start) -> None:
    port, out = free_port(), free_port()
    with ExchangeDouble() as one, ExchangeDouble() as two:
        one.will_say("GREETING", "421 4.3.2 Service not available")
        changes = {
            "127.0.0.1:53": knot.server,
            "tcp:25": loopback(port),
            "tcp:587": loopback(out),
            "10.0.0.11:25": one.place,
            "10.0.0.12:25": two.place,
            '"10.0.0.11", "10.0.0.12"': '"127.0.0.1"',
            "port = 25": f"port = {outside.port}",
        }
        start("exchange", changes, [port, out])
        forged = mail("in", "ann@example.org", X_MS_Exchange_Organization_AuthAs="Internal")
        send(port, forged, "ann@example.org", "sales@example.org")
        wait_until(lambda: len(one.taken) + len(two.taken) == 1, "one of the servers has it")
        (taken,) = [*one.taken, *two.taken]
        assert set(taken.recipients) == {"ann@example.org", "sales@example.org"}
        assert b"X-MS-Exchange-Organization" not in taken.octets
        send(
            out,
            mail("out", "cid@client.test", "ann@example.org", X_MS_Exchange_Organization_SCL="-1"),
            "cid@client.test",
        )
        sent = outside.of("cid@client.test").content
        assert b"Subject: out" in sent
        assert b"X-MS-Exchange-Organization" not in sent


@pytest.mark.needs("dovecot", "root")
def test_several_back_ends(base: Path, knot: Knot, outside: Recorder, start: Start) -> None:
    port, trust = free_port(), Trust.new(base / "trust")
    identity = trust.server()
    identity.chmod(0o600)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity)
    context.load_verify_locations(trust.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    with (
        ExchangeDouble(tls=context) as cloud,
        ExchangeDouble() as board,
        Dovecot(base / "dovecot", ["curie@lab.example.org"]) as lab,
    ):
        changes = {
            "127.0.0.1:53": knot.server,
            "tcp:25": loopback(port),
            "example-org.mail.protection.outlook.com:25": cloud.place,
            "/etc/ssl/certs/ca-certificates.crt": str(trust.ca),
            "/etc/mailgate/tls/mx1.pem": str(identity),
            '"/etc/mailgate/tls"': f'"{identity}"',
            "10.0.0.11:25": board.place,
            "10.0.1.5:24": f"127.0.0.1:{lab.port}",
            "10.1.0.5:25": f"127.0.0.1:{outside.port}",
        }
        start("hybrid", changes, [port])
        everybody = [
            "ann@example.org",
            "chair@example.org",
            "treasurer@example.org",
            "curie@lab.example.org",
            "bob@subsidiary.example",
        ]
        send(port, mail("all", "all@example.org"), *everybody)
        wait_until(lambda: cloud.has(1) and board.has(1), "both kinds of Exchange have it")
        assert cloud.taken[0].recipients == ("ann@example.org",)
        assert set(board.taken[0].recipients) == {"chair@example.org", "treasurer@example.org"}
        assert b"Subject: all" in outside.of("bob@subsidiary.example").content
        box = lab.mail / "lab.example.org" / "curie" / "new"
        wait_until(lambda: box.exists() and any(box.iterdir()), "the laboratory has it")


PROVIDER = """
[gateway]
hostname = "mailgate.test"
state_dir = "state"

[tls]
certificate = "{certificate}"

[[listeners]]
name = "submissions"
role = "outbound"
endpoints = ["tcp:{port}:interface=127.0.0.1"]
tls = "implicit"
auth = "users"
pipeline = "all"
{users}

[routes.box]
transport = "maildir"
path = "mail/{{local_part}}"

[routing]
default = "box"

[pipelines.all]
filters = ["headers"]
"""


class Provider(Example):
    """A gateway as somebody else's, with a login and TLS from the first octet."""

    def __init__(self, directory: Path, text: str, port: int) -> None:
        super(Example, self).__init__(directory, text, [])
        self.port = port

    def is_ready(self) -> bool:
        return listens(self.port)


def test_smart_host_of_an_office(base: Path, start: Start) -> None:
    devices, people, port, trust = free_port(), free_port(), free_port(), Trust.new(base / "trust")
    certificate, users = trust.server(), trust.users()
    certificate.chmod(0o600)
    text = PROVIDER.format(certificate=certificate, port=port, users=users)
    with Provider(base / "provider", text, port) as provider:
        changes = {
            '"/etc/mailgate/tls"': f'"{certificate}"',
            "tcp:25:interface=10.0.0.2": loopback(devices),
            "10.0.0.0/16": "127.0.0.0/8",
            "tcp:465": loopback(people),
            "smtp.provider.example:465": f"127.0.0.1:{port}",
            "/etc/ssl/certs/ca-certificates.crt": str(trust.ca),
            "office@example.org": USER,
        }
        files = {"provider.password": PASSWORD, "users": (trust.directory / "users").read_text()}
        start("office", changes, [devices], files)
        with smtplib.SMTP("127.0.0.1", devices, "printer") as printer:
            printer.sendmail("printer@example.org", ["ann@client.test"], "Subject: scan\r\n\r\npage\r\n")
        with trust.client(people, implicit=True) as client:
            client.login(USER, PASSWORD)
            client.send_message(mail("from a person", "bob@client.test", USER), USER, ["bob@client.test"])
            with pytest.raises(smtplib.SMTPException):
                client.sendmail("boss@example.org", ["bob@client.test"], "Subject: forged\r\n\r\n")
        for user, subject in (("ann", "scan"), ("bob", "from a person")):
            box = provider.directory / "mail" / user / "new"
            wait_until(partial(has_some, box), f"{user} has it")
            (one,) = box.iterdir()
            found = message_from_bytes(one.read_bytes())
            assert found["Subject"] == subject
            assert found["Date"]
            assert found["Message-ID"]


def has_some(box: Path) -> bool:
    return box.exists() and any(box.iterdir())


def test_transactional_mail(base: Path, knot: Knot, outside: Recorder, start: Start) -> None:
    returns, api, shop, token = free_port(), free_port(), Application(), "mailgate_a-token-of-the-shop"
    made = base / "keys"
    made.mkdir()
    mailgate = str(Path(sys.executable).with_name("mailgate"))
    record = subprocess.run(  # noqa: S603  our own command
        [mailgate, "dkim-key", "shop.example.org", "s1", "--type", "ed25519", "--path", str(made / "dkim.pem")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    with shop.serving() as web:
        changes = {
            "127.0.0.1:53": knot.server,
            "tcp:8025:interface=127.0.0.1": loopback(api),
            "0" * 64: hashlib.sha256(token.encode()).hexdigest(),
            "tcp:25": loopback(returns),
            "/var/mail/shop": "mail",
            "port = 25": f"port = {outside.port}",
            "127.0.0.1:8080": f"127.0.0.1:{web.port}",
        }
        files = dict.fromkeys(("verp.secrets", "webhook.secret"), "0123456789abcdef0123456789abcdef\n")
        start("transactional", changes, [returns], {**files, "dkim.pem": (made / "dkim.pem").read_text()})
        wait_until(lambda: listens(api), "HTTP is there")
        order: dict[str, object] = {
            "from": "Shop <invoices@shop.example.org>",
            "to": ["ann@client.test"],
            "subject": "Invoice",
            "text": "Thanks.",
        }
        assert call(api, token, order) == 202
        assert call(api, token, {**order, "from": "boss@example.org"}) == 403
        assert call(api, "mailgate_another", order) == 401
        taken = outside.of("ann@client.test")
        published = "".join(part for part in record.split('"')[1::2])
        dns = MemoryResolver({"s1._domainkey.shop.example.org": {"TXT": [published]}})
        (dkim,) = wait_for(verify_dkim(dns, taken.content))
        assert (dkim.result, dkim.domain) == ("pass", "shop.example.org")
        path = taken.mail.partition("<")[2].partition(">")[0]
        assert path.startswith("invoices+")
        assert path.endswith("@shop.example.org")
        with smtplib.SMTP("127.0.0.1", returns, "mx.client.test") as client:
            client.sendmail("", [path], BOUNCE)
        wait_until(lambda: "bounced_back" in told(shop), "the shop hears of the bounce")
        assert "delivered" in told(shop)
        assert all(one.is_ours(b"0123456789abcdef0123456789abcdef") for one in shop.posted)


BOUNCE = (
    "From: <MAILER-DAEMON@client.test>\r\nTo: <x@shop.example.org>\r\nSubject: failure\r\nMIME-Version: 1.0\r\n"
    'Content-Type: multipart/report; report-type=delivery-status; boundary="b"\r\n\r\n'
    "--b\r\n\r\nIt has failed.\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\n"
    "Reporting-MTA: dns; mx.client.test\r\n\r\n"
    "Final-Recipient: rfc822; ann@client.test\r\nAction: failed\r\nStatus: 5.1.1\r\n"
    "Diagnostic-Code: smtp; 550 5.1.1 no such user\r\n\r\n--b--\r\n"
)


def told(shop: Application) -> set[str]:
    return {event["type"] for one in shop.posted for event in one.mail["events"]}


def call(port: int, token: str, order: dict[str, object]) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        fields = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        connection.request("POST", "/v1/messages", json.dumps(order), fields)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


class Program(Part):
    """The program of the example application."""

    name = "app"

    def __init__(self, directory: Path, secret: Path) -> None:
        super().__init__(directory)
        self.port = free_port()
        self.inbox = directory / "inbox"
        self.secret = secret

    def prepare(self) -> list[str]:
        app = EXAMPLES / "application" / "app.py"
        return [sys.executable, str(app), str(self.secret), str(self.port), str(self.inbox)]

    def is_ready(self) -> bool:
        return listens(self.port)


def test_mail_for_a_program(base: Path, knot: Knot, outside: Recorder, start: Start) -> None:
    port, secret = free_port(), base / "secret"
    secret.write_text("0123456789abcdef0123456789abcdef\n")
    with Program(base / "program", secret) as program:
        changes = {
            "127.0.0.1:53": knot.server,
            "tcp:25": loopback(port),
            "127.0.0.1:8080": f"127.0.0.1:{program.port}",
            "port = 25": f"port = {outside.port}",
        }
        start("application", changes, [port], {"application.secret": secret.read_text()})
        both = ["support@tickets.example.org", "sales@tickets.example.org"]
        message = mail("help", both[0])
        message.add_attachment(bytes(range(256)), maintype="image", subtype="png", filename="screen.png")
        send(port, message, *both)
        wait_until(lambda: len(list(program.inbox.glob("*.json"))) == 2, "the program has it")
        found = json.loads(next(program.inbox.glob("*.json")).read_text())
        assert (found["subject"], found["text"]) == ("help", "Hello.\n")
        assert base64.b64decode(found["attachments"][0]["content"]) == bytes(range(256))
        assert [(one["method"], one["result"]) for one in found["authentication"]] == [("arc", "none")]
        send(port, mail("unsubscribe", both[0]), both[0])
        report = outside.of("ann@client.test").content
        assert b"Nobody reads this here" in report


def test_mailing_list(base: Path, knot: Knot, outside: Recorder, start: Start) -> None:
    port = free_port()
    changes = {
        "127.0.0.1:53": knot.server,
        "tcp:25": loopback(port),
        "/var/mail/lists": "mail",
        "port = 25": f"port = {outside.port}",
    }
    gateway = start("mailing-list", changes, [port])
    send(port, mail("news", "club@lists.example.org", "ann@client.example"), "Club@lists.example.org")
    for member in ("ann@client.example", "bob@client.example", "carla@elsewhere.example"):
        wait_until(lambda member=member: member in everybody(outside), f"{member} has it")  # type: ignore[misc]
    assert len(everybody(outside)) == 3
    assert all(b"List-Id: <club.lists.example.org>\r\n" in one.content for one in outside.taken)
    assert {one.mail.partition(">")[0] for one in outside.taken} == {"FROM:<club-owner@lists.example.org"}
    with pytest.raises(smtplib.SMTPDataError, match="For members only"):
        send(port, mail("spam", "club@lists.example.org"), "club@lists.example.org")
    again = mail("again", "club@lists.example.org", "ann@client.example", List_Id="<club.lists.example.org>")
    with pytest.raises(smtplib.SMTPDataError, match="has been on the list"):
        send(port, again, "club@lists.example.org")
    send(port, mail("bounce", "club-owner@lists.example.org"), "club-owner@lists.example.org")
    wait_until(partial(has_some, gateway.directory / "mail" / "club-owner" / "new"), "the owner has it")


def everybody(outside: Recorder) -> list[str]:
    return [one.partition("<")[2].partition(">")[0] for taken in outside.taken for one in taken.recipients]


def test_the_mailing_list_has_tests_of_its_own(base: Path) -> None:
    Example(base / "list", "mailing-list", {}, [])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"],
        cwd=base / "list",
        env={**os.environ, "PYTHONPATH": str(base / "list")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert len((base / "list" / "mailing_list.py").read_text().splitlines()) <= 60
