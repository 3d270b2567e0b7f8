"""What is signed is what arrives: next hops that take US-ASCII only, or no binary content; dkimpy verifies."""

from __future__ import annotations

import email
import smtplib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dkim  # type: ignore[import-untyped]  # it has none
import pytest
from click.testing import CliRunner
from configurations import configuration
from parts import Gateway, free_ports
from recorder import EVERYTHING, Recorder

from mailgate.cli.main import main

#: What a next hop lacks, by name.
LACKING: dict[str, tuple[str, ...]] = {
    "nothing": (),
    "8bitmime": ("8BITMIME", "CHUNKING", "BINARYMIME", "SMTPUTF8"),
    "binary": ("BINARYMIME",),
}
TEXT = "Grüße aus Köln, 你好\r\n.\r\n".encode()
FIELDS = b"From: ann@signed.test\r\nSubject: x\r\nMIME-Version: 1.0\r\nContent-Type: "
MAILS = {
    "text": (FIELDS + b"text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n" + TEXT, "8BITMIME"),
    "large": (FIELDS + b"text/plain; charset=utf-8\r\n\r\n" + TEXT * 20_000, "8BITMIME"),
    "undeclared": (b"From: ann@signed.test\r\n\r\n" + TEXT, "7BIT"),
    "binary": (
        FIELDS + b"image/x-noise\r\nContent-Transfer-Encoding: binary\r\n\r\n" + bytes(range(256)) * 500 + b"\n\r",
        "BINARYMIME",
    ),
}

SIGNING = """
[filters.banner]
text = "Beispiel GmbH, Köln"

[filters.dkim-sign.domains."signed.test"]
keys = [
    { selector = "r", path = "@FOLDER@/r.pem" },
    { selector = "e", path = "@FOLDER@/e.pem" },
]
"""


class Site:
    """A gateway that signs, and its next hop."""

    def __init__(self, folder: Path, hop: Recorder) -> None:
        self._records: dict[str, bytes] = {}
        for selector, kind in (("r", "rsa"), ("e", "ed25519")):
            arguments = ["dkim-key", "signed.test", selector, "--type", kind, "--path", str(folder / f"{selector}.pem")]
            made = CliRunner().invoke(main, arguments)
            self._records[f"{selector}._domainkey.signed.test."] = "".join(made.stdout.split('"')[1::2]).encode()
        self.hop = hop
        self.port, inbound = free_ports(2)
        route = f'[routes.out]\ntransport = "smtp"\nhosts = ["127.0.0.1:{hop.port}"]\n'
        text = configuration(inbound, route, domains={}, outbound=self.port, more=SIGNING)
        text = text.replace('filters = ["headers"]', 'filters = ["banner", "headers", "dkim-sign"]')
        self.gateway = Gateway(folder / "gw", text.replace("@FOLDER@", str(folder)), [inbound, self.port])

    def send(self, name: str) -> None:
        octets, body = MAILS[name]
        with smtplib.SMTP("127.0.0.1", self.port, timeout=60) as client:
            client.ehlo()
            assert client.mail("ann@signed.test", [f"BODY={body}"])[0] == 250
            assert client.rcpt(f"{name}@far.test")[0] == 250
            client.send(b"BDAT %d LAST\r\n" % len(octets) + octets)
            assert client.getreply()[0] == 250

    def verifies(self, message: bytes) -> list[bool]:
        """What dkimpy says of each signature."""
        found = dkim.DKIM(message)
        return [bool(found.verify(number, dnsfunc=self._lookup)) for number in range(2)]

    def _lookup(self, name: bytes | str, timeout: int = 5) -> bytes | None:
        return self._records.get(name.decode() if isinstance(name, bytes) else name)


@pytest.fixture(scope="module", params=LACKING)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    lacking = LACKING[request.param]
    offers = [line for line in EVERYTHING if line.partition(" ")[0] not in lacking]
    with Recorder(offers=offers) as hop:
        made = Site(tmp_path_factory.mktemp(request.param), hop)
        with made.gateway:
            yield made


def content_of(octets: bytes) -> bytes:
    payload = email.message_from_bytes(octets).get_payload(decode=True)
    assert isinstance(payload, bytes)
    return payload


@pytest.mark.parametrize("name", MAILS)
def test_both_signatures_hold(site: Site, name: str) -> None:
    site.send(name)
    taken = site.hop.of(f"{name}@far.test")
    assert taken.content.isascii()
    assert site.verifies(taken.content) == [True, True]
    assert content_of(MAILS[name][0]).rstrip() in content_of(taken.content)


def test_a_rehearsal_signs_large_content_too(site: Site, tmp_path: Path) -> None:
    mail = tmp_path / "mail"
    mail.write_bytes(MAILS["large"][0])
    arguments = ["--listener", "submission", "--ip", "127.0.0.1", "--from", "ann@signed.test", "--to", "bob@far.test"]
    command = [str(Path(sys.executable).with_name("mailgate")), "try", *arguments, "--config", str(site.gateway.file)]
    done = subprocess.run([*command, str(mail)], capture_output=True, text=True, timeout=60, check=False)  # noqa: S603  of ours
    assert done.returncode == 0, done.stdout + done.stderr
    assert "add DKIM-Signature; add DKIM-Signature" in done.stdout
