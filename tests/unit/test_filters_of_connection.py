"""The filters that judge the connection and the sender's domain, together in one pipeline and one whole session."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from mailgate.events import FilterFailed, MessageAccepted, Refused
from mailgate.interfaces import DnsStatus
from mailgate.pipeline.registry import FilterMaker
from mailgate.testing.gateway import MemoryClient, MemoryGateway

FILTERS = [
    FilterMaker(name, f"mailgate.filters.{name}", "judges the connection")
    for name in ("dnsbl", "fcrdns", "helo", "resolvable", "tarpit")
]

CONFIG = """
[gateway]
hostname = "mx.example.org"
state_dir = "state"

[[listeners]]
name = "mx"
endpoints = ["tcp:25"]
pipeline = "inbound"

[pipelines.inbound]
filters = [["dnsbl", "fcrdns"], ["helo", "resolvable"], "tarpit"]

[filters.dnsbl]
zones = ["bl.example", { zone = "wl.example", allow = true }]
on_failure = "continue"

[filters.tarpit]
delay = "2s"

[domains."example.org"]
route = "inside"

[routes.inside]
transport = "discard"
"""

GOOD, BAD = "203.0.113.1", "203.0.113.2"
ZONE: dict[tuple[str, str], Any] = {
    ("1.113.0.203.in-addr.arpa", "PTR"): ["mail.client.example"],
    ("mail.client.example", "A"): [IPv4Address(GOOD)],
    ("client.example", "MX"): [(10, "mail.client.example")],
    **{(f"2.0.0.127.{zone}", "A"): [IPv4Address("127.0.0.2")] for zone in ("bl.example", "wl.example")},
    ("2.113.0.203.bl.example", "A"): [IPv4Address("127.0.0.2")],
    ("2.113.0.203.bl.example", "TXT"): [b"seen in a trap"],
}


def make(tmp_path: Path, zone: dict[tuple[str, str], Any] | None = None) -> MemoryGateway:
    path = tmp_path / "mailgate.toml"
    path.write_text(CONFIG)
    return MemoryGateway(path, ZONE if zone is None else zone, FILTERS)


def talk(client: MemoryClient, lines: Iterable[str]) -> list[str]:
    """The last line of what is said after each."""
    said = client.said()[-1:]
    for line in lines:
        client.send(line.encode() + b"\r\n")
        said += client.said()[-1:]
    return said


MAIL = ("EHLO mail.client.example", "MAIL FROM:<ann@client.example>", "RCPT TO:<bob@example.org>")
CONTENT = ("DATA", "Subject: Hello\r\n\r\nHello Bob.\r\n.")


def test_an_honest_client_passes_at_once_and_the_trace_tells_what_was_found(tmp_path: Path) -> None:
    gateway = make(tmp_path)
    said = talk(gateway.connect(GOOD), (*MAIL, *CONTENT))
    assert [line[:3] for line in said] == ["220", "250", "250", "250", "354", "250"]
    (accepted,) = [event for event in gateway.events if isinstance(event, MessageAccepted)]
    found = {step.filter: step.found for step in accepted.trace if step.found}
    assert found == {
        "fcrdns": "iprev=pass policy.iprev=203.0.113.1 (mail.client.example)",
        "helo": "helo=ok mail.client.example",
        "resolvable": "sender domain=ok client.example (mail.client.example)",
    }


def test_a_listed_client_waits_and_is_refused_at_rcpt(tmp_path: Path) -> None:
    gateway = make(tmp_path)
    client = gateway.connect(BAD)
    assert client.said() == []
    gateway.pass_time(2.1)
    assert client.said()[-1].startswith("220 ")
    client.send(b"EHLO mail.client.example\r\n")
    assert client.said() == []
    gateway.pass_time(2.1)
    assert client.said()[-1].startswith("250 ")
    assert talk(client, MAIL[1:2])[-1].startswith("250 ")
    assert talk(client, MAIL[2:]) == ["550 5.7.1 203.0.113.2 is listed by bl.example: seen in a trap"]
    (refused,) = [event for event in gateway.events if isinstance(event, Refused)]
    assert (refused.filter, refused.stage, refused.recipient) == ("dnsbl", "rcpt", "bob@example.org")
    found = [step.found for step in refused.trace if step.filter == "dnsbl" and step.found]
    assert found == ["203.0.113.2 is listed by bl.example (127.0.0.2)"]
    assert any("held back for 2 s because of dnsbl.bl.example" in step.found for step in refused.trace)
    client.send(b"RCPT TO:<postmaster@example.org>\r\n")
    assert client.said() == []
    gateway.pass_time(4.1)
    assert client.said()[-1].startswith("250 ")


def test_a_client_that_hangs_up_while_it_waits_leaves_nothing_behind(tmp_path: Path) -> None:
    gateway = make(tmp_path)
    before = len(gateway.clock.getDelayedCalls())
    client = gateway.connect(BAD)
    assert client.said() == []
    client.disconnect()
    gateway.pass_time(0.1)
    assert len(gateway.clock.getDelayedCalls()) == before


def test_a_sender_whose_domain_does_not_exist_is_refused(tmp_path: Path) -> None:
    client = make(tmp_path).connect(GOOD)
    assert talk(client, ("EHLO mail.client.example", "MAIL FROM:<ann@nowhere.example>"))[-1] == (
        "550 5.1.8 Your domain does not exist"
    )


def test_who_claims_to_be_us_is_refused_at_rcpt(tmp_path: Path) -> None:
    gateway = make(tmp_path)
    client = gateway.connect(GOOD)
    client.said()
    client.send(b"EHLO mx.example.org\r\n")
    gateway.pass_time(2.1)
    assert talk(client, MAIL[1:])[-1] == "550 5.7.1 That is our name, not yours"


@pytest.mark.parametrize("status", [DnsStatus.SERVFAIL, DnsStatus.TIMEOUT])
def test_an_outage_of_dns_is_told_in_the_trace_and_defers_as_configured(tmp_path: Path, status: DnsStatus) -> None:
    questions = [
        ("1.113.0.203.in-addr.arpa", "PTR"), ("mail.client.example", "A"), ("mail.client.example", "AAAA"),
        ("mail.client.example", "MX"), ("client.example", "MX"),
        *((f"{label}.{zone}", "A") for label in ("2.0.0.127", "1.0.0.127", "1.113.0.203")
          for zone in ("bl.example", "wl.example")),
    ]  # fmt: skip
    gateway = make(tmp_path, dict.fromkeys(questions, status))
    said = talk(gateway.connect(GOOD), MAIL[:2])
    assert said[-1] == "451 4.1.8 Your domain cannot be looked up now, try again later"
    (failed,) = [event for event in gateway.events if isinstance(event, FilterFailed)]
    assert (failed.filter, failed.on_failure) == ("dnsbl", "continue")
    assert f"bl.example does not count: no answer: {status.value}" in failed.error
    (refused,) = [event for event in gateway.events if isinstance(event, Refused)]
    words = " ".join(f"{step.filter}:{step.verdict}:{step.reason}{step.found}" for step in refused.trace)
    for word in ("dnsbl:failure:ListsSilentError", "iprev=temperror", "helo=temporary", "sender domain=temporary"):
        assert word in words
