"""What gateways with TLS and AUTH need: an authority, certificates on disk, users, and the sections that name them."""

from __future__ import annotations

import smtplib
import ssl
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path

from mailgate.auth.secrets import make_forms
from tests.unit.certificates import Issued, authority, issue

__all__ = ["HOSTNAME", "PASSWORD", "USER", "Trust", "listener"]

HOSTNAME = "mailgate.test"
USER, PASSWORD = "ann@client.test", "correct-horse"

_CLIENT = "client.test"


@dataclass(frozen=True)
class Trust:
    """An authority, and what it has issued; all of it lies in `directory`."""

    directory: Path
    authority: Issued

    @classmethod
    def new(cls, directory: Path) -> Trust:
        """A new one, in a folder that it makes."""
        directory.mkdir(parents=True, exist_ok=True)
        trust = cls(directory, authority())
        trust.authority.write_certificate(trust.ca)
        return trust

    @property
    def ca(self) -> Path:
        """The authority's certificate."""
        return self.directory / "ca.pem"

    def issue(self, *names: str, file: str = "") -> Path:
        """A certificate for these names and addresses, with its key; the file is called like the first."""
        return issue(self.authority, *names).write(self.directory / (file or f"{names[0]}.pem"))

    def server(self) -> Path:
        """A certificate for HOSTNAME, whether it is called by name or by a loopback address."""
        return self.issue(HOSTNAME, "127.0.0.1")

    def users(self) -> str:
        """The section [auth.users], with USER, whose secret serves every mechanism, CRAM-MD5 too."""
        path = self.directory / "users"
        path.write_text(f"{USER}:{make_forms(PASSWORD)} {{PLAIN}}{PASSWORD}\n")
        path.chmod(0o600)
        return f'\n[auth.users]\nkind = "file"\npath = "{path}"\n'

    def context(self) -> ssl.SSLContext:
        """What a client in Python trusts."""
        return ssl.create_default_context(cafile=str(self.ca))

    def client(self, port: int, *, implicit: bool = False, source: str = "") -> smtplib.SMTP:
        """A client in Python under TLS, from the loopback address `source`."""
        bound = (source, 0) if source else None
        if implicit:
            context = self.context()
            return smtplib.SMTP_SSL("127.0.0.1", port, _CLIENT, timeout=60, context=context, source_address=bound)
        client = smtplib.SMTP("127.0.0.1", port, _CLIENT, timeout=60, source_address=bound)
        client.starttls(context=self.context())
        return client

    def log_in(self, port: int, user: str, password: str, *, source: str = "") -> int:
        """The code with which AUTH PLAIN is answered under STARTTLS."""
        response = b64encode(b"\0%s\0%s" % (user.encode(), password.encode())).decode()
        with self.client(port, source=source) as client:
            client.ehlo()
            return client.docmd("AUTH", f"PLAIN {response}")[0]


def listener(name: str, port: int, *lines: str, role: str = "outbound") -> str:
    """One more [[listeners]] section on loopback, for the pipeline of `configuration`."""
    head = f'[[listeners]]\nname = "{name}"\nrole = "{role}"\nendpoints = ["tcp:{port}:interface=127.0.0.1"]\n'
    return "\n".join(["", head + 'pipeline = "inbound"', *lines, ""])
