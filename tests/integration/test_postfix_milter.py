"""mailgate as a milter of a real Postfix, by the snippets in etc/postfix: what it says happens there, and both logs
tell of it."""

from __future__ import annotations

import re
import signal
import smtplib
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from beside_postfix import BesidePostfix, ListeningGateway, settings_in
from dovecot_parts import Dovecot
from parts import Gateway, Postfix, folder, free_port, wait_until
from recorder import Recorder
from secured import Trust

pytestmark = pytest.mark.needs("postfix", "dovecot", "root")

SNIPPETS = Path(__file__).resolve().parents[2] / "etc" / "postfix"

#: A filter of the site's own, which does what the Subject says.
JUDGE = """
import json, sys, time
asked = json.loads(sys.stdin.buffer.readline())
header = sys.stdin.buffer.read().partition(b"\\r\\n\\r\\n")[0]
words = [line.split()[1].decode() for line in header.split(b"\\r\\n") if line.lower().startswith(b"subject:")]
if words and words[0] == "slow":
    open(sys.argv[1], "w").close()
    time.sleep(60)
known = ("reject", "defer", "quarantine", "discard")
verdict = words[0] if words and words[0] in known else "continue"
fields = [["X-Judged", "by us"]] if verdict == "continue" else []
print(json.dumps({"verdict": verdict, "reason": "so it says", "text": "Not 100% liked", "add_headers": fields}))
"""

ACCESS = """
deny client 127.0.0.66 No mail from there, 100% sure
deny helo bad.test That is no name
deny helo numbers.test 4 of 5 say no, 100% sure
deny sender bad@client.test No such sender
deny recipient closed@postfix.test This address is closed
"""


@dataclass
class Site(BesidePostfix):
    """A Postfix that asks a gateway, and sends on to a recorder. Each message is for somebody of its own."""

    base: Path
    port: int
    postfix: Postfix
    gateway: Gateway
    recorder: Recorder
    number: int = field(default=0)

    def someone(self) -> str:
        """A recipient to whom nobody has written yet."""
        self.number += 1
        return f"user{self.number}@postfix.test"

    def send(
        self,
        subject: str,
        *to: str,
        sender: str = "ann@client.test",
        source: str = "127.0.0.77",
        helo: str = "client.test",
        more: str = "",
        body: str = "Hello\r\n",
    ) -> tuple[str, int, str]:
        """One mail by SMTP: the command whose reply was the last, and that reply."""
        text = f"From: <ann@client.test>\r\nSubject: {subject}\r\n{more}\r\n{body}"
        client = smtplib.SMTP(local_hostname=helo, timeout=60, source_address=(source, 0))
        try:
            code, said = client.connect("127.0.0.1", self.postfix.port)
            if code != 220:
                return "connect", code, said.decode()
            for command, words in [
                ("EHLO", helo),
                ("MAIL", f"FROM:<{sender}>"),
                *(("RCPT", f"TO:<{one}>") for one in to),
            ]:
                code, said = client.docmd(command, words)
                if code != 250:
                    return command, code, said.decode()
            code, said = client.data(text.encode())
            return "DATA", code, said.decode()
        finally:
            client.close()

    def queued(self, subject: str, *to: str, **how: str) -> str:
        """One mail that Postfix takes; its queue id."""
        command, code, said = self.send(subject, *to, **how)
        assert (command, code) == ("DATA", 250), said
        return said.rpartition("queued as ")[2]

    def header_of(self, recipient: str) -> str:
        """The header section of what the next hop got for somebody, unfolded."""
        content = self.recorder.of(recipient).content.decode()
        return content.partition("\r\n\r\n")[0].replace("\r\n\t", " ")

    def has_come(self, recipient: str) -> bool:
        """Whether the next hop has got anything for somebody."""
        return any(recipient in line for taken in self.recorder.taken for line in taken.recipients)


def configured(base: Path, port: int, changes: Mapping[str, str] = {}) -> str:
    """The snippet, for this machine, with the site's own filter in it."""
    text = (SNIPPETS / "milter.toml").read_text()
    (base / "access").write_text(ACCESS)
    (base / "judge.py").write_text(JUDGE)
    for old, new in {
        "8891": str(port),
        "mx1.example.org": "mailgate.test",
        "/var/lib/mailgate": "state",
        "/etc/mailgate/access": f"{base}/access",
        'trusted_networks = ["127.0.0.0/8"]': 'trusted_networks = ["127.0.0.99"]',
        '"attachments", "edit-headers"]': '"judge", "attachments", "edit-headers"]',
        **changes,
    }.items():
        assert old in text, old
        text = text.replace(old, new)
    return (
        text
        + f'\n[filters.judge]\nkind = "command"\ncommand = ["{sys.executable}", "{base}/judge.py", "{base}/judging"]\n'
    )


def main_cf(port: int) -> dict[str, object]:
    """The lines of the snippet for Postfix."""
    return {**settings_in((SNIPPETS / "milter.cf").read_text().replace("8891", str(port)))}


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with folder("milter") as base, Recorder() as recorder:
        port = free_port()
        with (
            ListeningGateway(base / "gateway", configured(base, port), [port]) as gateway,
            Postfix(base / "postfix", relay_port=recorder.port, settings=main_cf(port)) as postfix,
        ):
            yield Site(base, port, postfix, gateway, recorder)


def test_mail_goes_through_changed_and_both_logs_know_it(site: Site) -> None:
    who = site.someone()
    ident = site.queued("plain words", who, more="X-Judged: forged\r\nX-Other: 1\r\nX-Other:  two\r\n\tlines\r\n")
    header = site.header_of(who).split("\r\n")
    assert header[0].startswith("Received: from client.test (unknown [127.0.0.77]) by mx.postfix.test (Postfix)")
    assert [line for line in header if line.startswith("Subject:")] == ["Subject: [EXTERNAL] plain words"]
    # What no filter names keeps its octets and its order.
    others = [line for line in header if line.startswith("X-Other")]
    assert others == ["X-Other: 1", "X-Other:  two lines"]
    assert "X-Judged: by us" in header
    assert sum(line.startswith("Received:") for line in header) == 1
    told = site.why(ident, "left to the mail server in front", "unknown[127.0.0.77] (helo client.test) at postfix")
    assert f"where it is {ident}" in told
    assert f"from ann@client.test to {who}" in told

    def answers() -> list[str]:
        return [one["answer"] for one in site.gateway.events("judged") if one["ident"] == ident]

    wait_until(lambda: answers() != [], "the log tells of it")
    assert answers() == ["continue"]
    site.log_line(ident, f"to=<{who}>", "status=sent")


def test_a_large_body_goes_through_octet_by_octet(site: Site) -> None:
    who = site.someone()
    body = "".join(f"{number:09d}\r\n" for number in range(60_000))
    site.queued("large", who, body=body)
    assert site.recorder.of(who).content.partition(b"\r\n\r\n")[2].decode() == body


def test_a_client_that_is_refused_gets_no_banner(site: Site) -> None:
    command, code, _ = site.send("x", site.someone(), source="127.0.0.66")
    assert (command, code) == ("connect", 554)
    site.log_line("milter-reject: CONNECT from unknown[127.0.0.66]: 554 No mail from there, 100% sure")
    site.why("127.0.0.66", "refused at connect by filter access", "because")


@pytest.mark.parametrize(
    ("how", "stage", "said"),
    [
        ({"helo": "bad.test"}, "helo", "550 That is no name"),
        # A number behind the code is a fault to Postfix where it begins no enhanced status.
        ({"helo": "numbers.test"}, "helo", "4 of 5 say no, 100% sure"),
        ({"sender": "bad@client.test"}, "mail", "No such sender"),
    ],
)
def test_who_is_refused_hears_it_in_our_words(site: Site, how: Mapping[str, str], stage: str, said: str) -> None:
    # Postfix answers EHLO in any case, and says no to what comes behind it.
    command, code, reply = site.send("x", site.someone(), **how)
    assert (command, code) == ("MAIL", 550)
    assert said.removeprefix("550 ") in reply
    site.log_line("milter-reject: MAIL", said)

    def told() -> bool:
        return any(one["stage"] == stage and said in one["reply"] for one in site.gateway.events("refused"))

    wait_until(told, f"the log tells of {said}")


def test_a_recipient_is_refused_alone(site: Site) -> None:
    who = site.someone()
    command, code, said = site.send("x", who, "closed@postfix.test")
    assert (command, code) == ("RCPT", 550)
    assert "5.7.1 This address is closed" in said
    site.why("closed@postfix.test", "refused at rcpt by filter access", "This address is closed")


@pytest.mark.parametrize(("word", "code"), [("reject", 550), ("defer", 451)])
def test_a_message_is_refused_at_its_end_and_both_logs_know_it(site: Site, word: str, code: int) -> None:
    who = site.someone()
    command, found, said = site.send(f"{word} me", who)
    assert (command, found) == ("DATA", code)
    assert said.endswith("Not 100% liked")
    told = site.why(who, "refused at message by filter judge", "the system in front of us has it as")
    ident = re.findall(r"has it as (\w+)", told)[0]
    site.log_line(ident, "milter-reject: END-OF-MESSAGE", "Not 100% liked")
    assert site.why(ident, "refused at message")


def test_quarantine_is_the_hold_queue_from_which_mail_is_released(site: Site) -> None:
    who = site.someone()
    ident = site.queued("quarantine me", who)
    site.log_line(ident, "milter-hold: END-OF-MESSAGE")
    assert f"{ident}!" in site.tool("postqueue", "-p")
    site.why(ident, "put into quarantine at the mail server in front", "so it says")
    site.tool("postsuper", "-H", ident)
    site.tool("postqueue", "-f")
    assert "Subject: [EXTERNAL] quarantine me" in site.header_of(who)


def test_what_is_discarded_is_taken_and_goes_nowhere(site: Site) -> None:
    who = site.someone()
    ident = site.queued("discard me", who)
    site.log_line("milter-discard", "END-OF-MESSAGE")
    site.why(who, "discarded at the mail server in front", "so it says")
    assert ident not in site.tool("postqueue", "-p")
    assert not site.has_come(who)


def test_an_attachment_is_found(site: Site) -> None:
    who = site.someone()
    more = 'Content-Type: application/octet-stream; name="setup.exe"\r\nMIME-Version: 1.0\r\n'
    ident = site.queued("see attachment", who, more=more)
    site.log_line(ident, "milter-hold")


def test_mail_of_own_users_is_judged_by_the_other_pipeline(site: Site) -> None:
    who = site.someone()
    ident = site.queued("quarantine, says nobody there", who, source="127.0.0.99")
    assert "Subject: quarantine, says nobody there" in site.header_of(who)
    assert "message  judge" not in site.why(ident, "left to the mail server")


def test_mail_of_the_sendmail_command_is_judged_too(site: Site) -> None:
    who = site.someone()
    site.postfix.sendmail("-f", "ann@postfix.test", who, content="Subject: by hand\n\nHello\n")
    assert "Subject: [EXTERNAL] by hand" in site.header_of(who)


def test_the_sender_of_mail_by_hand_gets_it_back_where_its_recipient_is_refused(site: Site) -> None:
    # Postfix keeps it, and tries again for ever, where it hears of that before the end.
    site.postfix.sendmail("-f", "root@postfix.test", "closed@postfix.test", content="Subject: by hand\n\nHello\n")
    assert b"This address is closed" in site.recorder.of("root@postfix.test").content
    assert not site.has_come("closed@postfix.test")


def test_mail_by_hand_to_what_is_no_address_comes_back_and_is_not_kept_for_ever(site: Site) -> None:
    who = site.someone()
    site.postfix.sendmail("-f", "sam@postfix.test", who, "bob@a..b.test", content="Subject: by hand\n\nHello\n")
    assert b"cannot be read" in site.recorder.of("sam@postfix.test").content
    assert not site.has_come(who)
    wait_until(lambda: "sam@postfix.test" not in site.tool("postqueue", "-p"), "nothing of it waits in Postfix")


def test_several_messages_of_one_session_each_have_their_own_id(site: Site) -> None:
    people = [site.someone() for _ in range(3)]
    with smtplib.SMTP("127.0.0.1", site.postfix.port, "client.test", timeout=60) as client:
        for who in people:
            client.sendmail("ann@client.test", who, f"Subject: to {who}\r\n\r\nHello\r\n")
            client.rset()
    for who in people:
        assert f"Subject: [EXTERNAL] to {who}" in site.header_of(who)

    def judged() -> list[dict[str, Any]]:
        return [one for one in site.gateway.events("judged") if one["recipients"][0] in people]

    wait_until(lambda: len(judged()) == 3, "the log tells of all")
    assert len({one["ident"] for one in judged()}) == 3
    assert len({one["session"] for one in judged()}) == 1


def test_while_the_gateway_is_dead_clients_come_again_and_nothing_is_lost(site: Site) -> None:
    who = site.someone()
    site.gateway.stop(signal.SIGKILL)
    command, code, said = site.send("later", who)
    assert code // 100 == 4, (command, said)
    assert not site.has_come(who)
    site.gateway.start()
    site.queued("later", who)
    assert "Subject: [EXTERNAL] later" in site.header_of(who)


def test_a_gateway_that_is_killed_while_it_judges_loses_and_doubles_nothing(site: Site) -> None:
    who = site.someone()
    said: list[tuple[str, int, str]] = []
    client = threading.Thread(target=lambda: said.append(site.send("slow", who)))
    client.start()
    wait_until((site.base / "judging").exists, "the filter is at work")
    site.gateway.stop(signal.SIGKILL)
    client.join(60)
    ((command, code, _),) = said
    assert (command, code // 100) == ("DATA", 4)
    site.gateway.start()
    assert not site.has_come(who)
    site.queued("again", who)
    assert "Subject: [EXTERNAL] again" in site.header_of(who)


def test_a_reload_is_for_new_sessions_and_keeps_the_connection(site: Site) -> None:
    first, second = site.someone(), site.someone()
    file = site.gateway.file
    before = file.read_text()
    with smtplib.SMTP("127.0.0.1", site.postfix.port, "client.test", timeout=60) as client:
        client.sendmail("ann@client.test", first, "Subject: one\r\n\r\nHello\r\n")
        file.write_text(before.replace("[EXTERNAL]", "[OUTSIDE]"))
        site.gateway.process.send_signal(signal.SIGHUP)  # type: ignore[union-attr]  # it runs
        wait_until(lambda: bool(site.gateway.events("config_reloaded")), "it is reloaded")
        client.sendmail("ann@client.test", second, "Subject: two\r\n\r\nHello\r\n")
    third = site.someone()
    site.queued("three", third)
    assert "Subject: [EXTERNAL] one" in site.header_of(first)
    assert "Subject: [EXTERNAL] two" in site.header_of(second)
    assert "Subject: [OUTSIDE] three" in site.header_of(third)
    file.write_text(before)


OWN = {'quarantine = "hold"': 'quarantine = "own"\nroute = "back"'}
ROUTE = '\n[routes.back]\ntransport = "smtp"\nhosts = ["127.0.0.1:{port}"]\n\n[routing]\ndefault = "back"\n'


@pytest.mark.parametrize("workers", [1, 2])
def test_our_own_quarantine_keeps_mail_and_gives_it_back(workers: int) -> None:
    with folder("milter-own") as base, Recorder() as recorder:
        port, back = free_port(), free_port()
        changes = {**OWN, "[gateway]": f"[gateway]\nworkers = {workers}"}
        text = configured(base, port, changes) + ROUTE.format(port=back)
        doors: dict[str, dict[str, object]] = {"back": {"smtpd_milters": ""}}
        postfix = Postfix(base / "postfix", relay_port=recorder.port, settings=main_cf(port), doors=doors)
        # Released mail comes back by a port of Postfix that does not ask us again.
        text = text.replace(f"127.0.0.1:{back}", f"127.0.0.1:{postfix.ports['back']}")
        with ListeningGateway(base / "gateway", text, [port]) as gateway, postfix:
            site = Site(base, port, postfix, gateway, recorder)
            who = site.someone()
            ident = site.queued("quarantine me", who)
            told = site.why(ident, "quarantined for")
            (own,) = set(re.findall(r"^(\w{16})  from", told, re.MULTILINE))
            assert own in gateway.command("quarantine", "list").stdout
            gateway.command("quarantine", "release", own)
            assert "Subject: [EXTERNAL] quarantine me" in site.header_of(who)
            other = site.someone()
            site.queued("fine", other)
            assert "Subject: [EXTERNAL] fine" in site.header_of(other)


CAREFUL = '["careful@postfix.test", "careful@mx.postfix.test"]'

PICKY = """
[filters.banner]
text = "-- \\nseen by us"

[filters.verp]
senders = ["news@client.test"]
secrets = "{base}/secrets"
"""


def test_body_sender_and_recipients_are_changed_and_one_recipient_is_kept_apart() -> None:
    with folder("milter-parts") as base, Recorder() as recorder:
        port, back = free_port(), free_port()
        (base / "secrets").write_text("sixteen octets, at least\n")
        changes = {
            **OWN,
            'trusted_pipeline = "own"': 'trusted_pipeline = "inbound"',
            '"edit-headers"]': '"banner", "verp"]',
            "[filters.attachments]": f"[filters.attachments]\nonly_for = {CAREFUL}",
        }
        text = configured(base, port, changes) + ROUTE.format(port=back) + PICKY.format(base=base)
        text = text.partition("[filters.edit-headers]")[0] + text.partition('tag = "[EXTERNAL]" }]')[2]
        with (
            ListeningGateway(base / "gateway", text, [port]) as gateway,
            Postfix(base / "postfix", relay_port=recorder.port, settings=main_cf(port)) as postfix,
        ):
            site = Site(base, port, postfix, gateway, recorder)
            mixed = (
                'MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary="b"\r\n',
                "--b\r\nContent-Type: text/plain\r\n\r\nHello\r\n"
                '--b\r\nContent-Type: application/octet-stream; name="setup.exe"\r\n\r\nMZ\r\n--b--\r\n',
            )
            who = site.someone()
            how = {"sender": "news@client.test", "source": "127.0.0.99", "more": mixed[0], "body": mixed[1]}
            ident = site.queued("see below", who, "careful@postfix.test", **how)
            taken = recorder.of(who)
            assert b"Hello\r\n\r\n-- \r\nseen by us\r\n" in taken.content
            assert b'name="setup.exe"\r\n\r\nMZ\r\n--b--\r\n' in taken.content
            assert re.match(rf"FROM:<news\+\w+={who.replace('@', '=')}@client.test>", taken.mail)
            told = site.why(
                ident, "not to <careful@postfix.test>", "another body", "quarantined for careful@postfix.test"
            )
            assert "from <news+" in told
            assert "careful@postfix.test" in gateway.command("quarantine", "list").stdout
            assert not site.has_come("careful@postfix.test")
            # Postfix finds recipients by what the client has written, and takes much that is no address.
            odd = (
                "careful@POSTFIX.Test",
                '"careful"@postfix.test',
                "@a.test:careful@Postfix.test",
                "careful(x)@postfix.test",
            )
            others = [site.someone() for _ in odd]
            for one, other in zip(odd, others, strict=True):
                site.queued("see below", other, one, **how)
            for other in others:
                assert b"seen by us" in recorder.of(other).content
            # What it tells of the recipients of its sendmail command it has rewritten, and does not find then.
            other = site.someone()
            postfix.sendmail(
                "-f", "ann@postfix.test", other, "careful", content=f"{mixed[0]}\n{mixed[1]}".replace("\r", "")
            )
            wait_until(
                lambda: gateway.command("quarantine", "list").stdout.count("> careful@") == 2 + len(odd),
                "all are kept",
                15,
            )
            people = [line for taken in recorder.taken for line in taken.recipients]
            assert not [line for line in people if "careful" in line.lower()]


def test_who_has_logged_in_at_postfix_is_known_by_that_name_and_by_its_tls() -> None:
    user = "ann@client.test"
    with folder("milter-login") as base, Recorder() as recorder, Dovecot(base / "dovecot", [user]) as users:
        trust, port = Trust.new(base / "trust"), free_port()
        pem = trust.issue("mx.postfix.test", "127.0.0.1")
        settings = main_cf(port) | {
            "smtpd_tls_security_level": "may",
            "smtpd_tls_cert_file": pem,
            "smtpd_tls_key_file": pem,
            "smtpd_sasl_auth_enable": "yes",
            "smtpd_sasl_type": "dovecot",
            "smtpd_sasl_path": f"inet:127.0.0.1:{users.auth_port}",
        }
        with (
            ListeningGateway(base / "gateway", configured(base, port), [port]) as gateway,
            Postfix(base / "postfix", relay_port=recorder.port, settings=settings) as postfix,
        ):
            site = Site(base, port, postfix, gateway, recorder)
            who = site.someone()
            with smtplib.SMTP("127.0.0.1", postfix.port, "client.test", timeout=60) as client:
                client.starttls(context=trust.context())
                client.login(user, "secret")
                client.sendmail(user, who, "Subject: quarantine, says nobody there\r\n\r\nHello\r\n")
            assert "Subject: quarantine, says nobody there" in site.header_of(who)

            def judged() -> list[dict[str, Any]]:
                return [one for one in gateway.events("judged") if one["recipients"] == [who]]

            wait_until(lambda: bool(judged()), "the log tells of it")
            (event,) = judged()
            assert event["identity"] == f"{user} by PLAIN"
            assert event["protocol"] == "ESMTPSA"
            assert event["tls"].startswith("TLSv1.3 ")
