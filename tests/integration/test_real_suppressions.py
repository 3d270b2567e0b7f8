"""The suppression list of a gateway that runs: for what is sent, and for what waits already."""

from __future__ import annotations

import json
import smtplib
from collections.abc import Callable

import pytest
from configurations import configuration
from parts import Gateway, free_ports, wait_until

ROUTES = """
[routes.box]
transport = "maildir"
path = "mail/{{local_part}}"

[routes.out]
transport = "smtp"
hosts = ["127.0.0.1:{closed}"]
retry = {{ first = "1h" }}
"""


def waiting(gateway: Gateway) -> set[str]:
    listed = gateway.command("queue", "list", "--json", check=False).stdout
    return {one["recipient"] for one in json.loads(listed or "[]")}


def test_it_is_honoured(build: Callable[[str, int], Gateway]) -> None:
    inbound, port, closed = free_ports(3)
    text = configuration(inbound, ROUTES.format(closed=closed), domains={"box.test": "box"}, outbound=port)
    text = text.replace('filters = ["headers"]', 'filters = ["stream", "suppressions", "headers"]')
    gateway = build(text, inbound)
    gateway.start()
    gateway.command("suppressions", "add", "bob@far.test")

    with smtplib.SMTP("127.0.0.1", port) as client:
        with pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
            client.sendmail("ann@box.test", ["Bob@FAR.test"], "Subject: x\r\n\r\nx\r\n")
        assert refused.value.recipients["Bob@FAR.test"][0] == 550
        for name, stream in (("carol", "news"), ("dora", "invoices")):
            client.sendmail("ann@box.test", [f"{name}@far.test"], f"X-Stream: {stream}\r\nSubject: x\r\n\r\nx\r\n")
    wait_until(lambda: waiting(gateway) == {"carol@far.test", "dora@far.test"}, "both wait")

    gateway.command("suppressions", "add", "carol@far.test", "dora@far.test", "--scope", "news")
    gateway.command("queue", "retry", "--all")
    wait_until(lambda: waiting(gateway) == {"dora@far.test"}, "what waits for carol is given up")
    box = gateway.directory / "mail" / "ann" / "new"
    wait_until(lambda: box.is_dir() and any(box.iterdir()), "ann is told")
    (report,) = box.iterdir()
    assert b"Final-Recipient: rfc822; carol@far.test" in report.read_bytes()
    assert "carol@far.test is suppressed for news" in gateway.command("why", "carol@far.test").stdout
    gateway.stop()
