"""In front of an Exchange that is slow, short of resources, and particular: nothing is lost, nothing comes twice, and
nobody gets a report that should get none."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import smtplib
import ssl
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from configurations import configuration
from exchange_double import NOT_FOUND, TENANT_ATTRIBUTION, TOO_MANY, ExchangeDouble, send_as_exchange
from parts import Gateway, free_port, wait_until
from secured import Trust

UNKNOWN = "550 5.4.1 Recipient address rejected: Access denied. [DB5.prod.protection.outlook.com]"
NOT_ACCEPTED = "550 5.4.1 Relay Access Denied [DB5.prod.protection.outlook.com]"
NO_RESOURCES = "452 4.3.1 Insufficient system resources"
NOT_ACTIVE = "421 4.3.2 Service not active"
NOT_REDUNDANT = "451 4.4.0 Message failed to be made redundant"
THROTTLED = "451 4.7.500 Server busy. Please try again later from [192.0.2.1]. (S77714)"

TEXT = b"From: <ann@client.test>\r\nTo: <bob@corp.test>\r\nSubject: x\r\nMessage-ID: <%d@client.test>\r\n\r\nHello\r\n"


@dataclass
class Site:
    """A gateway in front of one or more hosts of Exchange, and `back`, where reports to the senders go."""

    gateway: Gateway
    port: int
    back: ExchangeDouble

    def send(
        self, *recipients: str, content: bytes = TEXT % 1, sender: str = "ann@client.test", number: int = 1
    ) -> None:
        """One mail, which is taken."""
        with self.client() as client:
            for _ in range(number):
                assert client.sendmail(sender, recipients or ["bob@corp.test"], content) == {}

    def client(self) -> smtplib.SMTP:
        return smtplib.SMTP("127.0.0.1", self.port, "client.test", timeout=60)

    def queue_is_empty(self) -> bool:
        """Whether nothing waits for delivery."""
        return "Nothing is in the queue" in self.gateway.command("queue", "list").stdout


@pytest.fixture
def back() -> Iterator[ExchangeDouble]:
    with ExchangeDouble() as double:
        yield double


@contextlib.contextmanager
def site(
    base: Path,
    back: ExchangeDouble,
    *hosts: ExchangeDouble,
    preset: str = "exchange",
    route: str = "",
    listener: str = "",
    gateway: str = "",
    more: str = "",
) -> Iterator[Site]:
    port = free_port()
    routes = f"""
[routes.exchange]
transport = "smtp"
preset = "{preset}"
hosts = [{", ".join(f'"{one.place}"' for one in hosts)}]
retry = {{ first = "1s", factor = 1.0, longest = "1s" }}
{route}

[routes.back]
transport = "smtp"
hosts = ["{back.place}"]
"""
    text = configuration(
        port,
        routes,
        domains={"corp.test": "exchange", "client.test": "back"},
        listener=f'size_of = ["exchange"]\n{listener}',
        gateway=gateway,
        more=more,
    )
    with Gateway(base / "gateway", text, [port]) as running:
        yield Site(running, port, back)


# -- what it says is not always about the mail


def test_a_recipient_refused_after_the_content_keeps_it_from_nobody_else(base: Path, back: ExchangeDouble) -> None:
    with ExchangeDouble() as host, site(base, back, host) as one:
        host.unknown = {"gone@corp.test"}
        one.send("bob@corp.test", "gone@corp.test", "carol@corp.test")
        wait_until(lambda: len(back.taken) == 1, "the sender hears of one recipient")
        (report,) = back.taken
        assert b"gone@corp.test" in report.octets
        assert b"5.1.10" in report.octets
        assert not re.search(rb"(?m)^Final-Recipient:.*(bob|carol)@", report.octets)
        served = Counter(address for mail in host.taken for address in mail.recipients)
        assert served == {"bob@corp.test": 1, "carol@corp.test": 1}
        wait_until(one.queue_is_empty, "nothing waits")


def test_a_connector_that_refuses_us_is_an_alarm_and_no_bounce(base: Path, back: ExchangeDouble) -> None:
    with ExchangeDouble() as host, site(base, back, host, preset="exchange-online") as one:
        host.always["RCPT"] = TENANT_ATTRIBUTION
        for number in range(5):
            one.send(f"u{number}@corp.test")
        wait_until(lambda: bool(one.gateway.events("suspension_changed")), "the route is suspended")
        wait_until(lambda: bool(one.gateway.events("back_end_refuses")), "it is told why")
        (alarm, *_) = one.gateway.events("back_end_refuses")
        assert (alarm["route"], "TenantAttribution" in alarm["reply"]) == ("exchange", True)
        assert "5.7.64" in one.gateway.events("suspension_changed")[0]["reason"]
        asked = host.said[TENANT_ATTRIBUTION]
        one.send("u5@corp.test")
        wait_until(lambda: "suspended" in one.gateway.command("queue", "list").stdout, "the queue says why it waits")
        assert host.said[TENANT_ATTRIBUTION] - asked <= 5
        del host.always["RCPT"]
        one.gateway.command("queue", "resume", "--route", "exchange")
        wait_until(lambda: len(host.taken) == 6, "all of it is delivered once it is mended")
        assert Counter(mail.recipients for mail in host.taken) == {(f"u{number}@corp.test",): 1 for number in range(6)}
        assert back.taken == []


def test_the_certificate_of_a_route_is_what_a_connector_knows_us_by(base: Path, back: ExchangeDouble) -> None:
    trust = Trust.new(base / "trust")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(trust.ca))
    context.load_cert_chain(trust.server())
    context.verify_mode = ssl.CERT_OPTIONAL
    route = f'tls = "verified"\ntls_ca = "{trust.ca}"\ncertificate = "{trust.issue("old.example")}"'
    with (
        ExchangeDouble(tls=context, connector="gateway.example") as host,
        site(base, back, host, preset="exchange-online", route=route) as one,
    ):
        one.send()
        wait_until(lambda: bool(one.gateway.events("back_end_refuses")), "the wrong certificate is an alarm")
        text = one.gateway.file.read_text().replace("old.example.pem", "gateway.example.pem")
        trust.issue("gateway.example")
        one.gateway.file.write_text(text)
        os.kill(one.gateway.pid, signal.SIGHUP)
        wait_until(lambda: bool(one.gateway.events("config_reloaded")), "the new one is taken")
        one.gateway.command("queue", "resume", "--route", "exchange", check=False)
        wait_until(lambda: len(host.taken) == 1, "and the mail that waited arrives")
        assert back.taken == []


def test_one_enhanced_code_means_two_things(base: Path, back: ExchangeDouble) -> None:
    with ExchangeDouble() as host, site(base, back, host, preset="exchange-online") as one:
        host.always["RCPT gone@corp.test"] = UNKNOWN
        host.always["RCPT new@corp.test"] = NOT_ACCEPTED
        one.send("bob@corp.test", "gone@corp.test", "new@corp.test")
        wait_until(lambda: len(back.taken) == 1, "the unknown recipient is told of")
        assert b"gone@corp.test" in back.taken[0].octets
        assert b"new@corp.test" not in back.taken[0].octets
        wait_until(lambda: host.said[NOT_ACCEPTED] > 1, "the other one is tried again")
        del host.always["RCPT new@corp.test"]
        wait_until(lambda: len(host.received("new@corp.test")) == 1, "and delivered once its domain is accepted")
        assert (len(host.received("bob@corp.test")), len(back.taken)) == (1, 1)


# -- hosts that are busy


def test_back_pressure_is_the_hosts_and_another_one_takes_it(base: Path, back: ExchangeDouble) -> None:
    with ExchangeDouble() as first, ExchangeDouble() as second, site(base, back, first, second) as one:
        for stage, reply in (
            ("MAIL", NO_RESOURCES),
            ("GREETING", NOT_ACTIVE),
            ("END", NOT_REDUNDANT),
            ("END", NO_RESOURCES),
            ("RCPT", NO_RESOURCES),
        ):
            first.always = {stage: reply}
            before = len(second.taken)
            one.send(f"{stage.lower()}@corp.test")
            wait_until(partial(second.has, before + 1), f"{reply} at {stage}")
        first.always = {}
        wait_until(one.queue_is_empty, "nothing waits")
        assert (len(first.taken), len(second.taken), back.taken) == (0, 5, [])
        assert one.gateway.events("deferred") == []


def test_back_pressure_everywhere_only_delays(base: Path, back: ExchangeDouble) -> None:
    with ExchangeDouble() as host, site(base, back, host) as one:
        host.will_say("MAIL", NO_RESOURCES)
        host.will_say("END", NOT_REDUNDANT)
        host.will_say("GREETING", NOT_ACTIVE)
        for number in range(3):
            one.send(f"u{number}@corp.test")
        wait_until(lambda: len(host.taken) == 3, "all of it is delivered", 60)
        assert Counter(mail.recipients for mail in host.taken) == {(f"u{number}@corp.test",): 1 for number in range(3)}
        assert back.taken == []


def test_throttling_lets_the_site_rest(base: Path, back: ExchangeDouble) -> None:
    with ExchangeDouble() as host, site(base, back, host, preset="exchange-online") as one:
        host.will_say("MAIL", THROTTLED)
        one.send()
        wait_until(lambda: bool(one.gateway.events("deferred")), "it waits")
        wait_until(lambda: bool(one.gateway.events("site_slowed")), "the site rests")
        (slowed, *_) = one.gateway.events("site_slowed")
        assert (slowed["factor"] < 1, bool(slowed["rests_until"])) == (True, True)

        def is_delivered() -> bool:
            # What is in the relay's hands at that moment is left alone.
            one.gateway.command("queue", "retry", "--all", "--yes", check=False)
            return host.has(1)

        wait_until(is_delivered, "and the mail is delivered after it")
        assert back.taken == []


def test_slow_answers_and_few_connections(base: Path, back: ExchangeDouble) -> None:
    """55 seconds for each end of data, 20 connections, 60 messages at once: each arrives once."""
    with ExchangeDouble(ack=55.0, scale=0.01) as host, site(base, back, host, route="connections = 20") as one:
        threads = [threading.Thread(target=one.send, args=(f"u{number}@corp.test",)) for number in range(60)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wait_until(lambda: len(host.taken) >= 60, "all of it is delivered", 60)
        wait_until(one.queue_is_empty, "nothing waits")
        assert Counter(mail.recipients for mail in host.taken) == {(f"u{number}@corp.test",): 1 for number in range(60)}
        assert host.most_at_once <= 20
        assert (host.said[TOO_MANY], back.taken) == (0, [])


def test_fewer_connections_than_we_thought(base: Path, back: ExchangeDouble) -> None:
    with ExchangeDouble(ack=20.0, scale=0.01, most_connections=3) as host, site(base, back, host) as one:
        one.send(number=40)
        wait_until(lambda: len(host.taken) >= 40, "all of it is delivered", 60)
        wait_until(one.queue_is_empty, "nothing waits")
        assert (len(host.taken), host.most_at_once, back.taken) == (40, 3, [])


# -- what is offered, and what arrives


def test_a_send_connector_gets_what_it_wants(base: Path, back: ExchangeDouble) -> None:
    """BINARYMIME by chunks, and what the sender wants to be told, from Exchange to Exchange."""
    with ExchangeDouble() as host, site(base, back, host) as one:
        body = bytes(range(256)) * 40 + b"\n.\r\n.x\r\n"
        header = b"From: <ann@client.test>\r\nMIME-Version: 1.0\r\nContent-Type: application/octet-stream\r\n"
        content = header + b"Content-Transfer-Encoding: binary\r\n\r\n" + body
        offer, *replies = send_as_exchange(
            one.port,
            "ann@client.test",
            ["bob@corp.test"],
            content,
            rcpt=" NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;bob@corp.test",
            mail=" RET=HDRS ENVID=abc",
            chunk=3000,
        )
        assert [reply[:3] for reply in replies] == ["250"] * len(replies)
        words = {keyword.partition(" ")[0] for keyword in offer.split(" | ")}
        assert words >= {"PIPELINING", "SIZE", "8BITMIME", "BINARYMIME", "CHUNKING", "DSN", "ENHANCEDSTATUSCODES"}
        assert not {word for word in words if word.startswith("X")}
        wait_until(lambda: len(host.taken) == 1, "it arrives")
        (mail,) = host.taken
        assert (mail.by_chunks, mail.octets.endswith(content)) == (True, True)
        assert "BODY=BINARYMIME" in mail.mail
        assert ("RET=HDRS" in mail.mail, "ENVID=abc" in mail.mail) == (True, True)
        assert ("NOTIFY=SUCCESS,FAILURE" in mail.rcpt[0], "ORCPT=rfc822;bob@corp.test" in mail.rcpt[0]) == (True, True)


def test_refused_recipients_with_chunks_behind_them(base: Path, back: ExchangeDouble) -> None:
    with ExchangeDouble() as host, site(base, back, host) as one:
        replies = send_as_exchange(one.port, "ann@client.test", ["bob@elsewhere.test"], TEXT % 1, chunk=50)
        assert replies[1][:3] == "250"
        assert all(reply[0] in "45" for reply in replies[2:])
        one.send()
        wait_until(lambda: len(host.taken) == 1, "the next session is served")


def test_the_size_that_the_hosts_take_is_offered(base: Path, back: ExchangeDouble) -> None:
    offer = ["SIZE 1000000", "PIPELINING", "8BITMIME", "CHUNKING"]
    with ExchangeDouble(offer=offer) as host, site(base, back, host) as one:
        with one.client() as client:
            client.ehlo()
            assert int(client.esmtp_features["size"]) == 50 * 1024 * 1024
        one.send()
        wait_until(lambda: len(host.taken) == 1, "a connection has told")
        with one.client() as client:
            client.ehlo()
            assert int(client.esmtp_features["size"]) == 1_000_000 - 16 * 1024
            assert client.mail("ann@client.test", ["SIZE=990000"])[0] == 552
            client.rset()
            assert client.mail("ann@client.test", ["SIZE=900000"])[0] == 250


# -- what strangers may not say


def test_strangers_are_not_believed(base: Path, back: ExchangeDouble) -> None:
    forged = (
        b"X-MS-Exchange-Organization-SCL: -1\r\nX-MS-Exchange-Organization-AuthAs: Internal\r\n"
        b"X-MS-Exchange-CrossTenant-Id: 1\r\nX-Forefront-Antispam-Report: SFV:SKN\r\nX-Spam-Flag: NO\r\n"
        b"Authentication-Results: mailgate.test; dmarc=pass\r\n"
    )
    kept = b"Thread-Index: Ad\r\nX-MS-Has-Attach: yes\r\nReceived: from a by b; Thu, 1 Jan 2026 00:00:00 +0000\r\n"
    more = """
[pipelines.judged]
filters = ["header-firewall", "score", "authentication-results", "headers"]
[filters.score]
thresholds = { tag = 0.5 }
weights = { "header-firewall.removed" = 1.0 }
"""
    with (
        ExchangeDouble() as host,
        site(base, back, host, listener="", more=more) as one,
    ):
        text = one.gateway.file.read_text().replace('pipeline = "inbound"', 'pipeline = "judged"', 1)
        one.gateway.stop()
        one.gateway.file.write_text(text)
        one.gateway.start()
        one.send(content=forged + kept + TEXT % 1)
        wait_until(lambda: len(host.taken) == 1, "it arrives")
        octets = host.taken[0].octets
        names = [line.partition(b":")[0] for line in octets.partition(b"\r\n\r\n")[0].split(b"\r\n")]
        assert not {name for name in names if name.startswith((b"X-MS-Exchange", b"X-Forefront"))}
        assert octets.count(b"Authentication-Results:") == 1
        assert b"dmarc=pass" not in octets
        assert b"X-Spam-Flag: YES" in octets
        assert b"X-Spam-Flag: NO" not in octets
        assert octets.endswith(kept + TEXT % 1)
        assert b"[127.0.0.1]" in octets


def test_only_our_tenant_relays(base: Path, back: ExchangeDouble) -> None:
    trust, other = Trust.new(base / "trust"), Trust.new(base / "other")
    server, door = trust.server(), free_port()
    tenant = "72f988bf-86f1-41af-91ab-2d7cd011db47"
    more = f"""
[[listeners]]
name = "from-exchange-online"
role = "outbound"
endpoints = ["tcp:{door}:interface=127.0.0.1"]
trusted_networks = ["127.0.0.0/8"]
client_certificates = "request"
tls = "required"
pipeline = "tenant"

[pipelines.tenant]
filters = ["exchange-online", "headers"]

[filters.exchange-online]
tenants = ["{tenant}"]
organizations = ["corp.test"]
senders = ["corp.test"]

[routing]
default = "back"

[tls]
certificate = "{server}"
client_ca = "{trust.ca}"
"""

    def shown(name: str, by: Trust) -> ssl.SSLContext:
        context = trust.context()
        context.load_cert_chain(by.issue(name))
        return context

    ours = f"X-MS-Exchange-CrossTenant-Id: {tenant}\r\nX-OriginatorOrg: corp.test\r\n".encode()
    right = shown("mail.protection.outlook.com", trust)
    with ExchangeDouble() as host, site(base, back, host, more=more):

        def relay(tls: ssl.SSLContext, fields: bytes, sender: str = "ann@corp.test") -> str:
            return send_as_exchange(door, sender, ["eve@far.test"], fields + TEXT % 1, tls=tls)[-1]

        assert relay(right, ours).startswith("250")
        wait_until(lambda: len(back.taken) == 1, "mail of our tenant goes on")
        for refused in (
            relay(shown("mail.other.test", trust), ours),
            relay(shown("mail.protection.outlook.com", other), ours),
            relay(right, ours.replace(b"corp", b"else")),
            relay(right, ours.replace(tenant.encode(), b"11111111-2222-3333-4444-555555555555")),
            relay(right, ours, sender="eve@else.test"),
            relay(right, b""),
        ):
            assert refused[0] in "45", refused
        assert len(back.taken) == 1


def test_the_double_refuses_as_exchange_does() -> None:
    """That the tests above can fail: without retrying apart, one bad recipient is everybody's."""
    with ExchangeDouble() as host:
        host.unknown = {"gone@corp.test"}
        with smtplib.SMTP("127.0.0.1", host.port, timeout=60) as client:
            client.ehlo()
            client.mail("ann@client.test")
            for name in ("bob", "gone"):
                assert client.rcpt(f"{name}@corp.test")[0] == 250
            code, text = client.data(TEXT % 1)
        assert f"{code} {text.decode()}" == NOT_FOUND
        assert host.taken == []
