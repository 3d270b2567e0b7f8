"""A reload that brings a table which postmap reads slowly: the gateway answers meanwhile, and then goes by it."""

from __future__ import annotations

import os
import signal
import smtplib
from pathlib import Path

import pytest
from configurations import configuration
from parts import Gateway, free_port, wait_until

ROUTE = '\n[routes.away]\ntransport = "discard"\nreason = "a test"\n'
TABLE = """
[recipients.boxes]
kind = "postfix"
maps = ["hash:{base}/boxes"]

[domains."new.test"]
route = "away"
recipients = "boxes"
"""
#: In the place of Postfix's: says that it was asked, and prints when it may.
POSTMAP = """#!/bin/sh
echo x >> {base}/asked
while ! test -e {base}/go; do sleep 0.05; done
printf 'bob@new.test\\tx\\n'
"""


class Slow(Gateway):
    """With a postmap of the test's."""

    def environment(self) -> dict[str, str]:
        found = super().environment()
        return {**found, "PATH": f"{self.directory.parent}:{found['PATH']}"}


def rcpt(port: int, address: str) -> int:
    """What is answered to a recipient, within a time that postmap is not given."""
    with smtplib.SMTP("127.0.0.1", port, "client.test", timeout=20) as client:
        client.ehlo()
        assert client.mail("ann@client.test")[0] == 250
        return client.rcpt(address)[0]


@pytest.mark.parametrize("workers", [1, 2])
def test_the_gateway_answers_while_a_new_table_is_read(base: Path, workers: int) -> None:
    port, asked = free_port(), base / "asked"
    program = base / "postmap"
    program.write_text(POSTMAP.format(base=base))
    program.chmod(0o755)
    (base / "boxes.db").touch()
    text = configuration(port, ROUTE, domains={"old.test": "away"}, gateway=f"workers = {workers}")
    with Slow(base / "gateway", text, [port]) as gateway:
        wait_until(lambda: f"{workers} workers accept" in gateway.log.read_text() or workers == 1, "all serve")
        gateway.file.write_text(text + TABLE.format(base=base))
        os.kill(gateway.pid, signal.SIGHUP)
        wait_until(lambda: asked.exists() and len(asked.read_text().split()) == workers, "postmap is asked")
        for _ in range(2 * workers):
            assert rcpt(port, "bob@old.test") == 250
            assert rcpt(port, "bob@new.test") == 550
        os.kill(gateway.pid, signal.SIGHUP)  # one more, afterwards
        assert gateway.events("config_reloaded") == []
        (base / "go").touch()
        wait_until(lambda: len(gateway.events("config_reloaded")) == 2, "both are in force")
        for _ in range(2 * workers):
            assert rcpt(port, "bob@new.test") == 250
            assert rcpt(port, "eve@new.test") == 550
        assert len(asked.read_text().split()) == workers
