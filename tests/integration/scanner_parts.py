"""Real scanners on loopback ports, each in a folder of its own, and filters asked about messages as a gateway does."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from parts import Part, free_port, program, without_strict_orders

__all__ = ["EICAR", "GTUBE", "Clamd", "Rspamd", "Spamd", "ask", "mail"]

#: What scanners of viruses, and of spam, take for the real thing; put together here so that no scanner finds this file.
EICAR = b"X5O!P%@AP[4\\PZX54(P^)7CC)7}$" + b"EICAR-STANDARD-ANTIVIRUS-TEST-FILE!" + b"$H+H*"
GTUBE = b"XJS*C4JDBQADN1.NSBN3*2IDNEN*" + b"GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL" + b"*C.34X"


def mail(body: bytes, *fields: str) -> bytes:
    """A message with these header fields beside the usual ones."""
    usual = (
        "From: Ann <ann@client.example>",
        "To: Bob <bob@example.org>",
        "Subject: Hello",
        "Date: Thu, 01 Jan 2026 12:00:00 +0000",
        "Message-ID: <1@client.example>",
        "MIME-Version: 1.0",
    )
    return "\r\n".join([*usual, *fields, "", ""]).encode() + body


class Clamd(Part):
    """clamd with a small database: EICAR by its digest and at the beginning of a file, and a marker anywhere."""

    name = "clamd"

    def __init__(self, directory: Path, *, largest: int = 25 * 1024 * 1024) -> None:
        super().__init__(directory)
        self.port = free_port()
        self.socket = directory / "clamd.sock"
        self.largest = largest

    @property
    def server(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.port}"

    def prepare(self) -> Sequence[str]:
        database = self.directory / "db"
        database.mkdir(exist_ok=True)
        digest = hashlib.md5(EICAR, usedforsecurity=False).hexdigest()
        (database / "test.hdb").write_text(f"{digest}:{len(EICAR)}:Test.EICAR.Digest\n")
        (database / "test.ndb").write_text(
            f"Test.EICAR:0:0:{EICAR.hex()}\nHeuristics.Test:0:*:{b'SUSPECT-MARK'.hex()}\n"
        )
        configuration = self.directory / "clamd.conf"
        configuration.write_text(
            _CLAMD.replace("@DIR@", str(self.directory))
            .replace("@PORT@", str(self.port))
            .replace("@LARGEST@", str(self.largest))
        )
        return [program("clamd"), "-c", str(configuration)]

    def is_ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 2) as connection:
                connection.sendall(b"zPING\0")
                return connection.recv(5) == b"PONG\0"
        except OSError:
            return False


class Spamd(Part):
    """spamd with the rules that it comes with and one of ours, without DNS; MAILGATE-SPAM-MARK counts 7.5.

    Users in `users` have preferences of their own: lines of a user_prefs file.
    """

    name = "spamd"

    def __init__(self, directory: Path, users: Mapping[str, str] = {}, settings: str = "") -> None:
        super().__init__(directory)
        self.port = free_port()
        self.users = users
        self.settings = settings

    @property
    def server(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.port}"

    def prepare(self) -> Sequence[str]:
        site, home, preferences = (self.directory / name for name in ("site", "home", "users"))
        for folder in (site, home, preferences):
            folder.mkdir(exist_ok=True)
        for plugin in Path("/etc/spamassassin").glob("*.pre"):
            shutil.copy(plugin, site)
        (site / "local.cf").write_text(_SPAMASSASSIN + self.settings)
        for user, lines in self.users.items():
            (preferences / user).mkdir(exist_ok=True)
            (preferences / user / "user_prefs").write_text(lines)
        for path in (home, preferences, *preferences.rglob("*")):
            if os.getuid() == 0:
                shutil.chown(path, "debian-spamd")
        as_user = ["-u", "debian-spamd"] if os.getuid() == 0 else []
        return [
            program("spamd"),
            *("-x", "-L", "-H", str(home), f"--siteconfigpath={site}", "-i", "127.0.0.1", "-p", str(self.port)),
            *(f"--virtual-config-dir={preferences}/%u", "-m", "2", "--min-spare=1", "--max-spare=1", "-s", "stderr"),
            *as_user,
        ]

    def is_ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 2) as connection:
                connection.sendall(b"PING SPAMC/1.5\r\n\r\n")
                return b"PONG" in connection.recv(100)
        except OSError:
            return False


class Rspamd(Part):
    """rspamd without DNS and Redis; MAILGATE-SPAM-MARK in the text counts 7, which is `add header`.

    For recipients in strict.example the mark is enough to reject.
    """

    name = "rspamd"
    ready_seconds = 90.0

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.port = free_port()

    @property
    def server(self) -> str:
        """Where its worker listens."""
        return f"127.0.0.1:{self.port}"

    def prepare(self) -> Sequence[str]:
        configuration, data = self.directory / "conf", self.directory / "data"
        shutil.copytree("/etc/rspamd", configuration, dirs_exist_ok=True)
        data.mkdir(exist_ok=True)
        local = configuration / "local.d"
        for module in _NO_NETWORK:
            (local / f"{module}.conf").write_text("enabled = false;\n")
        texts = {
            "logging.inc": 'type = "console"; level = "notice";\n',
            "options.inc": f'dns {{ nameserver = ["127.0.0.1:{free_port()}"]; timeout = 0.1s; retransmits = 1; }}\n'
            "local_addrs = [];\n",
            "worker-normal.inc": f'bind_socket = "127.0.0.1:{self.port}";\ncount = 1;\n',
            "worker-controller.inc": "enabled = false;\n",
            "worker-proxy.inc": "enabled = false;\n",
            "worker-fuzzy.inc": "enabled = false;\n",
            "multimap.conf": _MULTIMAP,
            "settings.conf": _SETTINGS,
            "milter_headers.conf": 'use = ["x-spamd-bar", "x-spam-level"];\n',
        }
        for name, text in texts.items():
            (local / name).write_text(text)
        (configuration / "mark.map").write_text("/MAILGATE-SPAM-MARK/\n")
        user = []
        if os.getuid() == 0:
            for path in (data, self.directory):
                shutil.chown(path, "_rspamd")
            user = ["-u", "_rspamd", "-g", "_rspamd"]
        folders = {
            "CONFDIR": configuration,
            "LOCAL_CONFDIR": configuration,
            "DBDIR": data,
            "RUNDIR": data,
            "LOGDIR": data,
        }
        variables = [f"--var={name}={path}" for name, path in folders.items()]
        return [program("rspamd"), "-f", *user, "-c", str(configuration / "rspamd.conf"), *variables]

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/ping", timeout=2) as response:
                return bool(response.read().startswith(b"pong"))
        except (OSError, urllib.error.URLError):
            return False


def ask(kind: str, options: Mapping[str, object], *mails: bytes | Mapping[str, Any]) -> list[Any]:
    """What a filter of this kind says of each message, one after another, in a process that runs its reactor.

    A message is octets, or a mapping with them as `content` and with `recipients`, `client` (an address), `user`. The
    answer has `verdict`, `reply`, `reason`, `recipients`, `found`, `facts`, and as `message` what would be sent on; or
    `failure` alone.
    """
    tasks = [one if isinstance(one, Mapping) else {"content": one} for one in mails]
    task = {
        "kind": kind,
        "options": options,
        "mails": [{**one, "content": b64encode(one["content"]).decode()} for one in tasks],
    }
    done = subprocess.run(  # noqa: S603  a script of our own
        [sys.executable, str(Path(__file__).with_name("scanner_ask.py"))],
        env=without_strict_orders(os.environ),
        input=json.dumps(task, default=str),
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answers: list[Any] = json.loads(done.stdout)
    return answers


_CLAMD = """\
DatabaseDirectory @DIR@/db
LocalSocket @DIR@/clamd.sock
TCPSocket @PORT@
TCPAddr 127.0.0.1
Foreground yes
LogFile @DIR@/clamd.log
PidFile @DIR@/clamd.pid
StreamMaxLength @LARGEST@
MaxThreads 4
ReadTimeout 30
CommandReadTimeout 5
OfficialDatabaseOnly no
AlertEncryptedArchive yes
"""

_SPAMASSASSIN = """\
required_score 5.0
report_safe 0
dns_available no
skip_rbl_checks 1
use_bayes 0
use_pyzor 0
use_razor2 0
rewrite_header Subject [SPAM]
body MG_MARK /MAILGATE-SPAM-MARK/
score MG_MARK 7.5
"""

_NO_NETWORK = (
    *("asn", "bayes_expiry", "bimi", "dcc", "fuzzy_check", "mx_check", "neural", "phishing", "rbl", "rspamd_update"),
    *("surbl", "url_redirector", "greylist", "ratelimit", "replies", "history_redis", "reputation", "known_senders"),
    *("dmarc", "spf", "dkim", "arc"),
)

_MULTIMAP = """\
MG_MARK {
  type = "content"; filter = "body"; map = "$CONFDIR/mark.map"; regexp = true;
  score = 7.0; symbol = "MG_MARK";
}
"""

_SETTINGS = """\
strict { priority = high; rcpt = "@strict.example"; apply { actions { reject = 6.0; "add header" = 3.0; } } }
by_id { id = "loose"; apply { actions { reject = 100.0; "add header" = 50.0; greylist = 40.0; } } }
"""
