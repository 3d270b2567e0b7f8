"""OpenDKIM as a milter, started by the tests, and what becomes of messages that the filter shows to it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from parts import Part, free_port, program

__all__ = ["DOMAIN", "OpenDkim", "Shown", "show"]

DOMAIN, SELECTOR = "client.example", "one"

_ASK = Path(__file__).with_name("milter_ask.py")


@dataclass(frozen=True, slots=True)
class Shown:
    """What came of a message: a word and the private reason, and the message with the milter's changes."""

    word: str
    reason: str
    message: str


def show(servers: Sequence[str], messages: Sequence[str], **more: object) -> list[Shown]:
    """Show messages of one session to the milter at these servers; `more` are the filter's options, and
    `user`, the name of whoever has logged in."""
    task = {"user": more.pop("user", ""), "options": {"servers": servers, **more}, "messages": messages}
    done = subprocess.run(  # noqa: S603  a script of ours
        [sys.executable, str(_ASK)], input=json.dumps(task), capture_output=True, text=True, timeout=60, check=True
    )
    return [Shown(*one) for one in json.loads(done.stdout)]


class OpenDkim(Part):
    """Verifies what comes, and signs mail of DOMAIN from those who have logged in or whose macros say that it is ours.

    Its keys are made by its own tools, and it finds them in a file instead of DNS.
    """

    name = "opendkim"

    def __init__(self, directory: Path, canonicalization: str = "relaxed/simple") -> None:
        super().__init__(directory)
        self.port = free_port()
        self.server = f"127.0.0.1:{self.port}"
        self._canonicalization = canonicalization

    def prepare(self) -> Sequence[str]:
        directory = self.directory
        key = directory / f"{SELECTOR}.private"
        if not key.exists():
            make = [program("opendkim-genkey"), "-b", "2048", "-d", DOMAIN, "-s", SELECTOR, "-D", str(directory)]
            subprocess.run(make, check=True, timeout=60)  # noqa: S603
        record = (directory / f"{SELECTOR}.txt").read_text()
        value = "".join(record.split('"')[1::2])
        (directory / "public").write_text(f"{SELECTOR}._domainkey.{DOMAIN} {value}\n")
        (directory / "signing").write_text(f"*@{DOMAIN} ours\n")
        (directory / "keys").write_text(f"ours {DOMAIN}:{SELECTOR}:{key}\n")
        (directory / "nobody").write_text("203.0.113.1\n")
        settings: Mapping[str, object] = {
            "Mode": "sv",
            "Socket": f"inet:{self.port}@127.0.0.1",
            "KeyTable": directory / "keys",
            "SigningTable": f"refile:{directory / 'signing'}",
            "InternalHosts": directory / "nobody",
            "MacroList": "daemon_name=ORIGINATING",
            "Canonicalization": self._canonicalization,
            "TestPublicKeys": directory / "public",
            "AuthservID": "mx.example.org",
            "AlwaysAddARHeader": "yes",
            "OversignHeaders": "From",
            "On-BadSignature": "reject",
            "RequireSafeKeys": "no",
            "Syslog": "no",
            "PidFile": directory / "pid",
        }
        file = directory / "opendkim.conf"
        file.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
        return [program("opendkim"), "-f", "-x", str(file)]

    def is_ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1):
                return True
        except OSError:
            return False
