"""What comes back, from one end to the other: mail that goes out, what becomes of it, and who is told."""

from __future__ import annotations

import email
import email.policy
import hashlib
import hmac
import json
import re
import smtplib
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from configurations import configuration
from parts import Gateway, free_ports, wait_until
from recorder import Recorder, Taken
from web_peer import QuietHandler, WebPeer

SECRET = b"a secret that both sides know"
ROUTES = """
[routes.box]
transport = "maildir"
path = "mail/{{local_part}}"

[routes.out]
transport = "smtp"
hosts = ["127.0.0.1:{hop}"]
"""
MORE = """
[http]
endpoints = ["tcp:{http}:interface=127.0.0.1"]

[webhooks.crm]
url = "http://127.0.0.1:{program}/events"
secret_file = "{secret}"
events = ["bounced_back", "complained", "unsubscribed", "suppressed", "unsuppressed"]

[filters.suppressions]
bounces = 1

[filters.verp]
senders = ["news@box.test"]
secrets = "{secret}"

[filters.list-unsubscribe]
senders = ["news@box.test"]
secrets = "{secret}"
link = "https://mail.box.test/unsubscribe/{{token}}"

[filters.feedback]
addresses = ["fbl@box.test"]
verp_secrets = "{secret}"
unsubscribe_secrets = "{secret}"
"""
BOUNCE = """\
From: MAILER-DAEMON@far.test
To: <{path}>
Subject: Undelivered Mail Returned to Sender
Auto-Submitted: auto-replied
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status; boundary="ABC"

--ABC
Content-Type: text/plain

Your message could not be delivered.

--ABC
Content-Type: message/delivery-status

Reporting-MTA: dns; mx.far.test

Final-Recipient: rfc822; bob@far.test
Action: failed
Status: 5.1.1
Diagnostic-Code: smtp; 550 5.1.1 <bob@far.test>: User unknown

--ABC
Content-Type: text/rfc822-headers

{header}
--ABC--
"""
COMPLAINT = """\
From: feedback@provider.test
To: fbl@box.test
Subject: complaint
MIME-Version: 1.0
Content-Type: multipart/report; report-type=feedback-report; boundary="DEF"

--DEF
Content-Type: text/plain

This is a complaint.

--DEF
Content-Type: message/feedback-report

Feedback-Type: abuse
User-Agent: Provider/1.0
Version: 1
Original-Rcpt-To: <victim@far.test>

--DEF
Content-Type: message/rfc822

{header}
--DEF--
"""


class Program:
    """What is told of events, and looks at each signature as the guide says."""

    def __init__(self) -> None:
        self.told: dict[str, dict[str, Any]] = {}
        self.is_forged = False
        self._lock = threading.Lock()

    def hear(self, fields: Mapping[str, str], body: bytes) -> None:
        parts = [part.split("=", 1) for part in fields["Mailgate-Signature"].split(",")]
        moment = dict(parts)["t"]
        expected = hmac.new(SECRET, moment.encode() + b"." + body, hashlib.sha256).hexdigest()
        is_signed = any(hmac.compare_digest(expected, value) for name, value in parts if name == "v1")
        with self._lock:
            self.is_forged |= not is_signed or abs(time.time() - int(moment)) > 300
            self.told |= {one["id"]: one for one in json.loads(body)["events"]}

    def of(self, word: str) -> list[dict[str, Any]]:
        with self._lock:
            return [one["data"] for one in self.told.values() if one["type"] == word]

    def peer(self) -> WebPeer:
        program = self

        class Handler(QuietHandler):
            def post(self) -> None:
                program.hear(self.headers, self.heard())  # type: ignore[arg-type]  # a Message
                self.send_response(204)
                self.end_headers()

        return WebPeer(Handler, None)


class Sender:
    """A program that sends a newsletter, and invoices."""

    def __init__(self, port: int) -> None:
        self._port = port

    def send(self, who: str, stream: str = "news") -> None:
        text = f"From: news@box.test\r\nTo: {who}@far.test\r\nX-Stream: {stream}\r\nSubject: {stream}\r\n\r\nx\r\n"
        with smtplib.SMTP("127.0.0.1", self._port) as client:
            client.sendmail("news@box.test", [f"{who}@far.test"], text)

    def is_refused(self, who: str, stream: str = "news") -> bool:
        try:
            self.send(who, stream)
        except smtplib.SMTPRecipientsRefused as refused:
            return next(iter(refused.recipients.values()))[0] == 550
        except smtplib.SMTPDataError as refused:
            return refused.smtp_code == 550
        return False


def header_of(taken: Taken) -> str:
    return taken.content.partition(b"\r\n\r\n")[0].decode().replace("\r\n", "\n")


def path_of(taken: Taken) -> str:
    found = re.search(r"<(.*?)>", taken.mail)
    assert found is not None
    return found[1]


def token_of(taken: Taken) -> str:
    header = email.message_from_bytes(taken.content, policy=email.policy.default)
    assert header["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    link: str = header["List-Unsubscribe"].strip("<>")
    return urllib.parse.urlsplit(link).path.removeprefix("/unsubscribe/")


def test_from_one_end_to_the_other(base: Path, build: Callable[[str, int], Gateway]) -> None:
    inbound, outbound, http = free_ports(3)
    secret, program = base / "secret", Program()
    secret.write_bytes(SECRET + b"\n")
    peer = program.peer()
    with Recorder() as hop:
        more = MORE.format(http=http, program=peer.port, secret=secret)
        text = configuration(
            inbound, ROUTES.format(hop=hop.port), domains={"box.test": "box"}, outbound=outbound, more=more
        )
        coming = 'filters = ["early-talker", "access", "recipients", "headers"]'
        assert coming in text
        text = text.replace(coming, 'filters = ["verp", "recipients", "headers", "feedback"]')
        leaving = '"stream", "suppressions", "list-unsubscribe", "verp", "headers"'
        text = text.replace('filters = ["headers"]', f"filters = [{leaving}]")
        gateway = build(text, inbound)
        gateway.start()
        try:
            _all_that_comes_back(gateway, hop, program, Sender(outbound), inbound, http)
        finally:
            peer.close()
        gateway.stop()


def _all_that_comes_back(
    gateway: Gateway, hop: Recorder, program: Program, sender: Sender, inbound: int, http: int
) -> None:
    for who in ("bob", "carol", "dora"):
        sender.send(who)
    wait_until(lambda: len(hop.taken) == 3, "all is delivered")
    mails = {one.recipients[0].partition("<")[2].partition("@")[0]: one for one in hop.taken}
    paths = {who: path_of(one) for who, one in mails.items()}
    assert all(re.fullmatch(rf"news\+.{{8}}={who}=far\.test@box\.test", path) for who, path in paths.items())

    # The next hop has taken it, and says later that nobody is there; a provider tells of a complaint.
    bounce = BOUNCE.format(path=paths["bob"], header=header_of(mails["bob"]))
    complaint = COMPLAINT.format(header=header_of(mails["carol"]))
    with smtplib.SMTP("127.0.0.1", inbound) as client:
        client.sendmail("", [paths["bob"]], bounce)
        client.sendmail("feedback@provider.test", ["fbl@box.test"], complaint)
        # Whoever makes up a path, or a complaint about somebody, suppresses nobody.
        made_up = paths["bob"].replace("bob=", "victim=")
        client.sendmail("", [made_up], bounce.replace("bob", "victim"))
        client.sendmail("eve@client.test", ["fbl@box.test"], COMPLAINT.format(header="Subject: x"))
    # Links are looked at by scanners, which changes nothing, and one click is enough.
    link = f"http://127.0.0.1:{http}/unsubscribe/{token_of(mails['dora'])}"
    with urllib.request.urlopen(link, timeout=60) as page:
        assert b"dora@far.test" in page.read()
    assert not gateway.events("unsubscribed")
    with urllib.request.urlopen(link, data=b"List-Unsubscribe=One-Click", timeout=60) as page:
        assert page.status == 200

    def listed() -> list[tuple[str, str, str]]:
        found = json.loads(gateway.command("suppressions", "list", "--json", check=False).stdout or "[]")
        return [(one["address"], one["scope"], one["reason"]) for one in found]

    expected = [
        ("bob@far.test", "", "bounce"),
        ("carol@far.test", "news", "complaint"),
        ("dora@far.test", "news", "unsubscribe"),
    ]
    wait_until(lambda: listed() == expected, "all three are on the list, and nobody else")

    # The next mail to each is refused before it is delivered, with an event; other streams go on.
    for who in ("bob", "carol", "dora"):
        assert sender.is_refused(who)
    assert not sender.is_refused("dora", "invoices")
    wait_until(lambda: len(hop.taken) == 4, "the invoice is delivered")
    wait_until(lambda: len(gateway.events("refused")) == 3, "that they were refused is told")
    reasons = [one["reason"] for one in gateway.events("refused")]
    assert [reason.partition(" is suppressed ")[0] for reason in reasons] == [address for address, *_ in expected]
    assert "carol@far.test for news: complaint (abuse), since" in gateway.command("suppressions", "list").stdout
    stories = {"bob": "a bounce came back for", "carol": "a complaint came for", "dora": "has unsubscribed"}
    for who, said in stories.items():
        assert said in gateway.command("why", f"{who}@far.test").stdout

    # What an administrator changes is told of as well.
    gateway.command("suppressions", "remove", "dora@far.test")
    sender.send("dora")
    wait_until(lambda: len(hop.taken) == 5, "she gets the newsletter again")
    wait_until(lambda: bool(program.of("unsuppressed")), "the program is told of all")
    assert [one["recipient"] for one in program.of("bounced_back")] == ["bob@far.test"]
    (complained,) = program.of("complained")
    assert (complained["recipient"], complained["stream"], complained["proof"]) == ("carol@far.test", "news", "token")
    (unsubscribed,) = program.of("unsubscribed")
    assert (unsubscribed["recipient"], unsubscribed["stream"]) == ("dora@far.test", "news")
    assert [one["recipient"] for one in program.of("suppressed")] == ["bob@far.test", "carol@far.test"]
    assert not program.is_forged


class Refusing(Recorder):
    """A next hop that knows nobody whose name begins with "no"."""

    def _command(self, session: Any, line: str) -> bool:
        if line.upper().startswith("RCPT TO:<NO"):
            session.say("550 5.1.1 there is no such user")
            return True
        return super()._command(session, line)


SUSPECTING = """
[filters.compromised]
networks_too = true
bounces = 4
unknown_recipients = 0
"""


def test_bounces_of_all_workers_are_one_account_s(base: Path, build: Callable[[str, int], Gateway]) -> None:
    """Whichever has taken the mail, and whichever has tried to deliver it; an administrator ends it for all."""
    inbound, outbound = free_ports(2)
    with Refusing() as hop:
        text = configuration(
            inbound,
            ROUTES.format(hop=hop.port),
            domains={"box.test": "box"},
            outbound=outbound,
            more=SUSPECTING,
            gateway="workers = 3",
        )
        gateway = build(text.replace('filters = ["headers"]', 'filters = ["compromised", "headers"]'), inbound)
        gateway.start()
        sender = Sender(outbound)
        for number in range(4):
            sender.send(f"no{number}")
        wait_until(lambda: len(gateway.events("bounced")) == 4, "all come back")

        def is_kept_back() -> bool:
            sender.send("bob")
            return bool(gateway.events("quarantined"))

        wait_until(is_kept_back, "the account is suspected")
        assert "bounces 4 in 1h, limit 4" in gateway.command("accounts", "list").stdout
        assert gateway.command("accounts", "release", "127.0.0.1").stdout == "127.0.0.1 is not suspected any more\n"
        taken = len(hop.taken)
        for _ in range(3):
            sender.send("bob")
        wait_until(lambda: len(hop.taken) >= taken + 3, "it may send again, by every worker")
        gateway.stop()  # what each worker has said is in the log then
        assert [one["action"] for one in gateway.events("account_suspected")] == ["quarantine", "release"]
