"""Tables that Postfix has made, read by mailgate while both use them; and the same answers as Postfix gives."""

from __future__ import annotations

import smtplib
import subprocess
from pathlib import Path

import pytest
from configurations import configuration
from parts import Gateway, folder, free_port, program, wait_until
from recorder import Recorder
from twisted.internet.task import Clock

from mailgate.config.postfix import PostfixAliases
from mailgate.rewriting.postfix import PostfixMaps

pytestmark = pytest.mark.needs("postmap")

DOMAIN = "example.org"
RULES = r"""
# as regexp_table(5) has them
/^info-([a-z]+)@example\.org$/    ${1}@inside.example
/^UPPER@example\.org$/i     upper@inside.example
if /^list-/
!/-request@/    lists@inside.example
if !/@example\.org$/
/^list-(request)@(.*)$/   $1@inside.example,
    $(2)@outside.example
endif
endif
/^(a|b)+@/    one@inside.example
/^money@/    a$$b@inside.example
"""
ADDRESSES = [
    *("info-sales@example.org", "INFO-SALES@example.org", "info-1@example.org", "UPPER@example.org"),
    *("upper@example.org", "list-one@example.org", "list-request@example.org", "list-request@elsewhere.test"),
    *("abba@example.org", "abc@example.org", "money@example.org", "@example.org", "xinfo-sales@example.org"),
]


def postmap(*arguments: str, code: int = 0) -> str:
    done = subprocess.run(  # noqa: S603
        [program("postmap"), *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == code, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("address", ADDRESSES)
def test_expressions_give_what_postfix_gives(tmp_path: Path, address: str) -> None:
    table = tmp_path / "rules"
    table.write_text(RULES)
    source = PostfixMaps(PostfixAliases(kind="postfix", maps=[f"regexp:{table}"]), Clock())
    ours = source.find(address)
    theirs = postmap("-q", address, f"regexp:{table}", code=0 if ours is not None else 1)
    assert ", ".join(ours or ()) == " ".join(theirs.split())


def test_a_hash_of_postfix_says_who_exists_and_what_stands_for_whom() -> None:
    with folder("tables") as base, Recorder() as recorder:
        people, virtual, port = base / "people", base / "virtual", free_port()
        people.write_text(f"ann@{DOMAIN} x\neve@{DOMAIN} x\n")
        virtual.write_text(f"team@{DOMAIN} ann@{DOMAIN},\n  eve@{DOMAIN}\n")
        for one in (people, virtual):
            postmap(f"hash:{one}")
        text = configuration(
            port,
            f'\n[routes.on]\ntransport = "smtp"\nhosts = ["127.0.0.1:{recorder.port}"]\n',
            domains={},
            more=f"""
[domains."{DOMAIN}"]
route = "on"
recipients = "people"
aliases = ["virtual"]

[recipients.people]
kind = "postfix"
maps = ["hash:{people}"]

[aliases.virtual]
kind = "postfix"
maps = ["hash:{virtual}"]
""",
        )

        def answer(address: str) -> int:
            with smtplib.SMTP("127.0.0.1", port, "client.test", timeout=60) as client:
                client.ehlo()
                client.mail("someone@client.test")
                return client.rcpt(address)[0]

        with Gateway(base / "gateway", text, [port]):
            assert [answer(f"{name}@{DOMAIN}") for name in ("ann", "team", "bob")] == [250, 250, 550]
            with smtplib.SMTP("127.0.0.1", port, "client.test", timeout=60) as client:
                client.sendmail("someone@client.test", f"team@{DOMAIN}", "Subject: x\n\nHello\n")
            wait_until(lambda: bool(recorder.taken), "it goes on")
            told = sorted(one.partition(" ")[0] for taken in recorder.taken for one in taken.recipients)
            assert told == [f"TO:<ann@{DOMAIN}>", f"TO:<eve@{DOMAIN}>"]
            people.write_text(f"ann@{DOMAIN} x\nbob@{DOMAIN} x\n")
            postmap(f"hash:{people}")
            wait_until(lambda: answer(f"bob@{DOMAIN}") == 250, "the new table is read")
            assert answer(f"eve@{DOMAIN}") == 550
