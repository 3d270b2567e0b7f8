"""A real Postfix that goes on as it is, and mailgate beside it, which gets copies by the snippets in etc/postfix."""

from __future__ import annotations

import json
import re
import smtplib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from beside_postfix import settings_in
from parts import Gateway, Postfix, folder, free_port, wait_until
from recorder import Recorder

pytestmark = pytest.mark.needs("postfix", "root")

SNIPPETS = Path(__file__).resolve().parents[2] / "etc" / "postfix"

ACCESS = """
deny client 127.0.0.66 No mail from there
deny recipient closed@example.org This address is closed
"""

#: What Postfix itself does not take.
REFUSES = {"smtpd_sender_restrictions": "check_sender_access inline:{bad@client.test=REJECT}"}


@dataclass
class Site:
    """A Postfix that sends on to a recorder, and copies to a gateway."""

    postfix: Postfix
    gateway: Gateway
    recorder: Recorder

    def send(
        self, subject: str, *to: str, source: str = "127.0.0.77", sender: str = "ann@client.test", more: str = ""
    ) -> None:
        with smtplib.SMTP(local_hostname="client.test", timeout=60, source_address=(source, 0)) as client:
            client.connect("127.0.0.1", self.postfix.port)
            text = f"From: <ann@client.test>\r\nSubject: {subject}\r\n{more}\r\nHello\r\n"
            client.sendmail(sender, to, text.encode())

    def report(self, mails: int) -> dict[str, Any]:
        """What the rehearsal has found, once it has judged so many mails."""
        found: dict[str, Any] = {"mails": 0}

        def judged() -> bool:
            out = self.gateway.command("rehearsal", "report", "--json", check=False).stdout
            found.update(json.loads(out) if out else {})
            return int(found["mails"]) >= mails

        wait_until(judged, f"{mails} mails are judged")
        return found


def section(text: str, title: str) -> str:
    """What stands in a snippet below a comment that begins so, up to the next one of this kind."""
    end = r"(?=^# (?:main\.cf|master\.cf|/etc/)|\Z)"
    (found,) = re.findall(rf"^# {re.escape(title)}[^\n]*\n(.*?){end}", text, re.MULTILINE | re.DOTALL)
    return str(found)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with folder("rehearsal") as base, Recorder() as recorder:
        port = free_port()
        text = (SNIPPETS / "rehearsal.cf").read_text().replace(":10099", f":{port}")
        settings = settings_in(section(text, "main.cf").replace("/etc/postfix", str(base)))
        for name in ("rehearsal-copies", "rehearsal-transport"):
            (base / name).write_text(section(text, f"/etc/postfix/{name}"))
        options = dict(re.findall(r"-o (\w+)=(\S*)", section(text, "master.cf")))
        (base / "access").write_text(ACCESS)
        configured = (SNIPPETS / "rehearsal.toml").read_text()
        for old, new in {
            "10099": str(port),
            "/var/lib/mailgate": "state",
            "/etc/mailgate/access": f"{base}/access",
            '"spf", "dkim", "dmarc", ': "",
        }.items():
            assert old in configured, old
            configured = configured.replace(old, new)
        with (
            Gateway(base / "gateway", configured, [port]) as gateway,
            Postfix(
                base / "postfix",
                relay_port=recorder.port,
                settings=settings | REFUSES,
                transports={"rehearsal": options},
            ) as postfix,
        ):
            yield Site(postfix, gateway, recorder)


def test_where_the_new_gateway_would_have_decided_otherwise(site: Site) -> None:
    site.send("plain", "bob@example.org", "closed@example.org")
    site.send("unwanted", "bob@example.org", source="127.0.0.66")
    site.send("marked", "cy@example.org", more="X-Spam-Flag: YES\r\n")
    found = site.report(3)
    assert {(one["was"], one["now"]): one["recipients"] for one in found["table"]} == {
        ("taken", "taken"): 1,
        ("taken", "refused"): 2,
        ("quarantined", "taken"): 1,
    }
    told = {(one["subject"], one["recipient"]): one for one in found["differences"]}
    assert set(told) == {
        ("plain", "closed@example.org"),
        ("unwanted", "bob@example.org"),
        ("marked", "cy@example.org"),
    }
    unwanted = told["unwanted", "bob@example.org"]
    # Who it was, and its queue id there, Postfix has told.
    assert (unwanted["client"], unwanted["helo"]) == ("unknown[127.0.0.66]", "client.test")
    assert f" {unwanted['name']}: " in site.postfix.log.read_text()
    assert unwanted["now"]["by"] == "access"
    assert found["assumed"] == {}


def test_the_mail_itself_goes_its_way_once_and_no_copy_goes_anywhere(site: Site) -> None:
    site.send("on its way", "dan@example.org")
    site.report(4)
    assert b"on its way" in site.recorder.of("dan@example.org").content
    assert all("rehearsal.invalid" not in line for taken in site.recorder.taken for line in taken.recipients)
    assert site.gateway.events("message-accepted") == []
    assert site.gateway.events("refused") == []


def test_mail_that_lies_there_and_what_postfix_has_refused_are_judged_beside_the_daemon(site: Site) -> None:
    folder = site.gateway.directory / "mails"
    folder.mkdir()
    for number, source in enumerate(("127.0.0.66", "127.0.0.77")):
        who = f"lies{number}@example.org"
        site.send("lies there", who, source=source)
        (folder / f"{number}.eml").write_bytes(site.recorder.of(who).content)
        with pytest.raises(smtplib.SMTPRecipientsRefused):
            site.send("refused", who, source=source, sender="bad@client.test")
    out = site.gateway.command("replay", str(folder), "--log", str(site.postfix.log), "--json", check=False).stdout
    found = json.loads(out)
    assert {(one["was"], one["now"]): one["recipients"] for one in found["table"]} == {
        ("taken", "refused"): 1,
        ("taken", "taken"): 1,
        ("refused", "refused"): 1,
        ("refused", "open"): 1,
    }
    assert (found["filters"]["access"], found["left_out"], found["failures"]) == (1, 0, {})
    # The spool is read while the daemon has it: nothing is in it.
    beside = site.gateway.command("replay", check=False)
    assert "0 mails" in beside.stdout
    assert "no mail was judged" in beside.stderr


def test_postfix_is_told_nothing_where_mailgate_is_down(site: Site) -> None:
    site.gateway.stop()
    site.send("without a copy", "eve@example.org")
    assert b"without a copy" in site.recorder.of("eve@example.org").content
    copy = re.compile(r"to=<eve@example.org.rehearsal.invalid>.* status=deferred")
    wait_until(lambda: copy.search(site.postfix.log.read_text()) is not None, "the copy waits")
