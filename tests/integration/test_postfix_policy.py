"""mailgate's policy service and its tables with a real Postfix, by the snippets in etc/postfix."""

from __future__ import annotations

import signal
import smtplib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from beside_postfix import BesidePostfix, ListeningGateway, settings_in
from dns_parts import Knot
from parts import Gateway, Postfix, folder, free_port, wait_until
from recorder import Recorder

pytestmark = pytest.mark.needs("postfix", "root", "knotd")

SNIPPETS = Path(__file__).resolve().parents[2] / "etc" / "postfix"

ACCESS = """
deny client 127.0.0.66 No mail from there, 100% sure
deny helo bad.test That is no name
deny sender bad@client.test No such sender
deny recipient closed@here.test This address is closed
"""
ZONES = {
    "client.test": '@ TXT "v=spf1 ip4:127.0.0.77 -all"\n@ MX 10 mx\nmx A 127.0.0.77\n',
    "here.test": "@ MX 10 mx\nmx A 127.0.0.1\n",
    "never.test": '@ TXT "v=spf1 -all"\n@ MX 10 mx\nmx A 127.0.0.4\n',
    "other.test": "@ MX 10 mx\nmx A 127.0.0.5\n",
}
RECIPIENTS = "ann@here.test\nbob@here.test\nclosed@here.test\n" + "".join(f"user{one}@here.test\n" for one in range(60))
STRICT = """
[routes.strict]
transport = "smtp"
hosts = ["127.0.0.1:@PORT@"]
tls = "required"

[domains."strict.test"]
route = "strict"
recipients = "any"

"""
ALIASES = "all@here.test ann@here.test, bob@here.test\n"


@dataclass
class Site(BesidePostfix):
    """A Postfix that asks a gateway, and sends on to a recorder. Each message is for somebody of its own."""

    port: int
    postfix: Postfix
    gateway: Gateway
    recorder: Recorder
    number: int = field(default=0)
    strict: int = 0

    def someone(self) -> str:
        """A recipient to whom nobody has written yet."""
        self.number += 1
        return f"user{self.number}@here.test"

    def send(
        self,
        *to: str,
        sender: str = "ann@client.test",
        source: str = "127.0.0.77",
        helo: str = "client.test",
        door: str = "",
    ) -> list[tuple[str, int, str]]:
        """One mail by SMTP: each command that was refused, with its reply, and then what was said of the content."""
        client = smtplib.SMTP(local_hostname=helo, timeout=60, source_address=(source, 0))
        answers = []
        try:
            code, greeting = client.connect("127.0.0.1", self.postfix.ports[door] if door else self.postfix.port)
            if code != 220:
                raise smtplib.SMTPConnectError(code, greeting)
            client.ehlo(helo)
            for command, words in [("MAIL", f"FROM:<{sender}>"), *(("RCPT", f"TO:<{one}>") for one in to)]:
                code, said = client.docmd(command, words)
                if code != 250:
                    answers.append((command, code, said.decode()))
                if code == 521:  # Postfix has closed it
                    return answers
            code, said = client.docmd("DATA")
            if code == 354:
                client.send(b"From: <ann@client.test>\r\nSubject: hello\r\n\r\nHello\r\n.\r\n")
                code, said = client.getreply()
            return [*answers, ("DATA", code, said.decode())]
        finally:
            client.close()

    def header_of(self, recipient: str) -> list[str]:
        """The header lines of what the next hop got for somebody, unfolded."""
        content = self.recorder.of(recipient).content.decode()
        return content.partition("\r\n\r\n")[0].replace("\r\n\t", " ").replace("\r\n ", " ").split("\r\n")

    def query(self, name: str, key: str) -> str:
        """What Postfix finds in a table of ours."""
        return self.tool("postmap", "-q", key, f"socketmap:inet:127.0.0.1:{self.port}:{name}", check=False).rstrip("\n")


def configured(name: str, base: Path, changes: Mapping[str, str]) -> str:
    """A snippet, for this machine."""
    text = (SNIPPETS / f"{name}.toml").read_text()
    for file, content in {"access": ACCESS, "recipients": RECIPIENTS, "aliases": ALIASES}.items():
        (base / file).write_text(content)
    for old, new in {"mx1.example.org": "mailgate.test", "/var/lib/mailgate": "state", **changes}.items():
        assert old in text, old
        text = text.replace(old, new)
    return text.replace("/etc/mailgate/", f"{base}/")


def main_cf(name: str, changes: Mapping[str, str]) -> dict[str, object]:
    """The lines of a snippet for Postfix."""
    text = (SNIPPETS / f"{name}.cf").read_text()
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    return {**settings_in(text)}


# -- the policy service


def early(check: str) -> dict[str, object]:
    """Settings with which Postfix asks at every step, and refuses at once."""
    stages = ("client", "helo", "sender", "recipient", "data", "end_of_data")
    found: dict[str, object] = {f"smtpd_{one}_restrictions": check for one in stages}
    return found | {"smtpd_delay_reject": "no"}


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with folder("policy") as base, Recorder() as recorder, Knot(base / "knot", ZONES) as knot:
        port = free_port()
        text = configured(
            "policy",
            base,
            {
                "10040": str(port),
                'trusted_networks = ["127.0.0.0/8"]': 'trusted_networks = ["127.0.0.99"]',
                '"rate-limit", "greylist"]': '"rate-limit", "greylist"]\n[dns]\nservers = ["' + knot.server + '"]\n',
            },
        )
        text += '\n[filters.greylist]\ndelay = "1s"\nexempt = ["127.0.0.64/26"]\n'
        text += '[filters.spf]\nexempt = []\nfail = "quarantine"\n'
        settings = {"relay_domains": "here.test", "relay_recipient_maps": f"texthash:{base}/boxes"}
        (base / "boxes").write_text("".join(f"{one} x\n" for one in RECIPIENTS.split()))
        with (
            ListeningGateway(base / "gateway", text, [port]) as gateway,
            Postfix(
                base / "postfix",
                relay_port=recorder.port,
                settings={**settings, "mynetworks": "127.0.0.99", **main_cf("policy", {"10040": str(port)})},
                doors={"early": early(f"check_policy_service inet:127.0.0.1:{port}")},
            ) as postfix,
        ):
            yield Site(port, postfix, gateway, recorder)


def test_mail_goes_through_with_what_spf_came_to_and_both_logs_know_it(site: Site) -> None:
    who = site.someone()
    ((command, code, said),) = site.send(who)
    assert (command, code) == ("DATA", 250), said
    ident = said.rpartition("queued as ")[2]
    header = site.header_of(who)
    (field,) = [line for line in header if line.startswith("Authentication-Results")]
    assert "mailgate.test; spf=pass smtp.mailfrom=client.test" in field
    assert header.index(field) <= 1  # the Received field of Postfix, and nothing else, may stand above it
    site.why(ident, "left to the mail server in front", "unknown[127.0.0.77]", f"to {who}")
    site.log_line(ident, f"to=<{who}>", "status=sent")


@pytest.mark.parametrize(
    ("how", "stage", "said"),
    [
        ({"source": "127.0.0.66"}, "connect", "No mail from there, 100% sure"),
        ({"helo": "bad.test"}, "helo", "That is no name"),
        ({"sender": "bad@client.test"}, "mail", "No such sender"),
    ],
)
def test_who_is_refused_hears_it_in_our_words_at_rcpt(site: Site, how: dict[str, str], stage: str, said: str) -> None:
    who = site.someone()
    command, code, reply = site.send(who, **how)[0]
    assert (command, code) == ("RCPT", 521 if stage == "connect" else 550), reply
    assert said in reply
    site.log_line("NOQUEUE: reject: RCPT", said)

    def told() -> bool:
        return any(one["stage"] == stage and said in one["reply"] for one in site.gateway.events("refused"))

    wait_until(told, f"the log tells of {said}")


def test_one_recipient_is_refused_and_the_others_get_it(site: Site) -> None:
    who = site.someone()
    refused, taken = site.send(who, "closed@here.test")
    assert refused[:2] == ("RCPT", 550)
    assert "5.7.1" in refused[2]
    assert "This address is closed" in refused[2]
    assert taken[:2] == ("DATA", 250)
    assert site.header_of(who)
    ident = taken[2].rpartition("queued as ")[2]
    site.why("closed@here.test", "refused at rcpt by filter access", f"has it as {ident}")


def test_strangers_come_again(site: Site) -> None:
    who = site.someone()
    how = {"source": "127.0.0.5", "sender": ""}
    first = site.send(who, source="127.0.0.5", sender="ann@other.test")[0]
    assert first[:2] == ("RCPT", 451)
    assert "Greylisted" in first[2]
    # those who have no sender are told behind DATA
    command, code, said = site.send(who, **how)[-1]
    assert (command, code) == ("DATA", 451), said

    def comes() -> bool:
        return site.send(who, source="127.0.0.5", sender="ann@other.test")[-1][1] == 250

    wait_until(comes, "it is taken")


def test_own_users_are_judged_by_the_other_pipeline(site: Site) -> None:
    who = site.someone()
    ((_, code, said),) = site.send(who, source="127.0.0.99", sender="ann@here.test", helo="box")
    assert code == 250, said
    (field,) = [line for line in site.header_of(who) if line.startswith("Authentication-Results")]
    assert field.endswith("mailgate.test; none")


def test_several_messages_of_one_session_are_one_session(site: Site) -> None:
    people = [site.someone() for _ in range(3)]
    with smtplib.SMTP(
        "127.0.0.1", site.postfix.port, "client.test", timeout=60, source_address=("127.0.0.78", 0)
    ) as client:
        for who in people:
            client.sendmail("ann@nospf.client.test", [who, "bob@here.test"], f"Subject: to {who}\r\n\r\nHello\r\n")

    def sessions() -> list[str]:
        return [one["session"] for one in site.gateway.events("judged") if one["recipients"][0] in people]

    wait_until(lambda: len(sessions()) == 3, "the log tells of all")
    assert len(set(sessions())) == 1


def test_content_in_chunks_is_asked_about_as_data_is(site: Site) -> None:
    who, content = site.someone(), b"Subject: chunks\r\n\r\nHello\r\n"
    source = ("127.0.0.77", 0)
    with smtplib.SMTP("127.0.0.1", site.postfix.port, "client.test", timeout=60, source_address=source) as client:
        client.ehlo()
        client.docmd("MAIL", "FROM:<ann@client.test>")
        client.docmd("RCPT", f"TO:<{who}>")
        client.send(b"BDAT %d LAST\r\n%b" % (len(content), content))
        code, said = client.getreply()
    assert code == 250, said
    site.why(said.decode().rpartition("queued as ")[2], "left to the mail server in front", f"to {who}")


def test_quarantine_is_the_hold_queue_from_which_mail_is_released(site: Site) -> None:
    who = site.someone()
    ((command, code, said),) = site.send(who, sender="ann@never.test")
    assert (command, code) == ("DATA", 250), said
    ident = said.rpartition("queued as ")[2]
    assert f"{ident}!" in site.tool("postqueue", "-p")
    site.log_line("NOQUEUE: hold: RCPT", f"to=<{who}>", "mailgate ")
    site.why(who, "put into quarantine at the mail server in front", "spf")
    site.tool("postsuper", "-H", ident)
    site.tool("postqueue", "-f")
    assert site.header_of(who)


def test_a_postfix_that_asks_at_every_step_is_told_at_every_step_and_each_is_judged_once(site: Site) -> None:
    with pytest.raises(smtplib.SMTPConnectError, match="521"):
        site.send(site.someone(), source="127.0.0.66", door="early")
    people = [site.someone(), site.someone()]
    ((_, code, said),) = site.send(*people, door="early")
    assert code == 250, said

    def judged() -> list[dict[str, Any]]:
        return [one for one in site.gateway.events("judged") if one["recipients"] == people]

    wait_until(lambda: len(judged()) == 1, "the log tells of it")
    (told,) = judged()
    steps = [(one["stage"], one["filter"]) for one in told["trace"] if one["filter"] == "access"]
    assert steps == [("connect", "access"), ("helo", "access"), ("mail", "access"), *[("rcpt", "access")] * 2]
    assert sum(line.startswith("Authentication-Results") for line in site.header_of(people[0])) == 1


def test_while_the_gateway_is_dead_clients_come_again_and_nothing_is_lost(site: Site) -> None:
    who = site.someone()
    site.gateway.stop(signal.SIGKILL)
    command, code, said = site.send(who)[0]
    assert (command, code) == ("RCPT", 451), said
    site.gateway.start()
    assert site.send(who)[-1][1] == 250


# -- the tables


@pytest.fixture(scope="module")
def tables() -> Iterator[Site]:
    with folder("socketmap") as base, Recorder() as recorder, Recorder() as strict, Knot(base / "knot", ZONES) as knot:
        port = free_port()
        text = configured(
            "socketmap",
            base,
            {
                "10041": str(port),
                "example.org": "here.test",
                "bank.example": "bank.test",
                "dnssec = true": f'dnssec = true\nservers = ["{knot.server}"]\n',
                "[dns]\n": STRICT.replace("@PORT@", str(strict.port)) + "[dns]\n",
                'transport = "lmtp"': 'transport = "smtp"',
                '"127.0.0.1:24"': f'"127.0.0.1:{recorder.port}"',
            },
        )
        settings = main_cf("socketmap", {"10041": str(port)}) | {"smtp_dns_support_level": "disabled"}
        with (
            ListeningGateway(base / "gateway", text, [port]) as gateway,
            Postfix(base / "postfix", relay_port=recorder.port, settings={**settings, "mynetworks": ""}) as postfix,
        ):
            yield Site(port, postfix, gateway, recorder, strict=strict.port)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("recipients", "ann@here.test", "ann@here.test"),
        ("recipients", "Ann+tag@HERE.test", "Ann+tag@here.test"),
        ("recipients", "all@here.test", "all@here.test"),
        ("recipients", "nobody@here.test", ""),
        ("recipients", "ann@other.test", ""),
        ("recipients", "@here.test", ""),
        ("all-recipients", "ann@here.test", "ann@here.test"),
        ("domains", "here.test", "here.test"),
        ("domains", "sub.here.test", ""),
        ("domains", "other.test", ""),
        ("aliases", "all@here.test", "ann@here.test, bob@here.test"),
        ("aliases", "ann@here.test", ""),
        ("transport", "ann@here.test", "smtp:[127.0.0.1]:@HERE@"),
        ("transport", "ann@strict.test", "smtp:[127.0.0.1]:@PORT@"),
        ("transport", "strict.test", "smtp:[127.0.0.1]:@PORT@"),
        ("transport", "ann@other.test", "smtp:"),
        ("tls-policy", "bank.test", "secure match=mx.bank.test servername=hostname"),
        ("tls-policy", "other.test", "dane"),
        ("tls-policy", "[127.0.0.1]:@PORT@", "encrypt"),
    ],
)
def test_what_postfix_finds(tables: Site, name: str, key: str, value: str) -> None:
    port = str(tables.strict)
    assert tables.query(name, key.replace("@PORT@", port)) == value.replace("@PORT@", port).replace(
        "@HERE@", str(tables.recorder.port)
    )


def test_postfix_takes_mail_for_whom_we_know_and_sends_it_where_we_say(tables: Site) -> None:
    refused, taken = tables.send("nobody@here.test", "all@here.test")
    assert refused[:2] == ("RCPT", 550)
    assert "User unknown" in refused[2]
    assert taken[:2] == ("DATA", 250)
    ident = taken[2].rpartition("queued as ")[2]
    for who in ("ann@here.test", "bob@here.test"):
        tables.log_line(
            ident, f"to=<{who}>", "orig_to=<all@here.test>", f"relay=127.0.0.1[127.0.0.1]:{tables.recorder.port}"
        )
    assert tables.send("ann@sub.here.test")[0][:2] == ("RCPT", 454)


def test_postfix_keeps_to_the_tls_that_we_ask_for(tables: Site) -> None:
    assert tables.send("ann@strict.test")[-1][1] == 250
    tables.log_line("to=<ann@strict.test>", "status=deferred", "TLS is required, but was not offered")


def test_without_us_postfix_says_no_to_nobody(tables: Site) -> None:
    tables.gateway.stop(signal.SIGKILL)
    command, code, said = tables.send("ann@here.test")[0]
    assert (command, code // 100) in (("RCPT", 4), ("MAIL", 4)), said
    tables.gateway.start()
    wait_until(lambda: tables.send("ann@here.test")[-1][1] == 250, "mail is taken again")
