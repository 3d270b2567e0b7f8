"""`mailgate mta-sts`: what it prints is what others can use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mailgate.cli.mta_sts import command
from mailgate.relay.security.sts_policy import announced_id, parse_policy
from mailgate.tls.dane import usable, verify
from tests.unit.certificates import issue

CONFIG = """\
[gateway]
hostname = "mx.example.org"
state_dir = "state"

[[listeners]]
name = "mx"
endpoints = ["tcp:2525"]
pipeline = "inbound"

[domains."example.org"]
route = "box"

[domains."example.net"]
route = "box"

[domains."*.example.net"]
route = "box"

[routes.box]
transport = "smtp"
hosts = ["box.test"]

[pipelines.inbound]
filters = []
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "mailgate.toml").write_text(CONFIG)
    return tmp_path


def run(place: Path, *arguments: str, more: str = "") -> Result:
    path = place / "mailgate.toml"
    path.write_text(CONFIG + more)
    return CliRunner().invoke(command, [*arguments, "--config", str(path)])


def test_what_is_printed_is_a_policy_and_announces_it(place: Path) -> None:
    found = json.loads(run(place, "--json", more='\n[mta_sts]\nmode = "enforce"\nmax_age = "10d"\n').stdout)
    policy = parse_policy(found["policy"].encode())
    assert (policy.mode, policy.mx, policy.max_age) == ("enforce", ("mx.example.org",), 864_000)
    assert found["urls"] == [
        "https://mta-sts.example.org/.well-known/mta-sts.txt",
        "https://mta-sts.example.net/.well-known/mta-sts.txt",
    ]
    assert [one["name"] for one in found["records"]] == ["_mta-sts.example.org", "_mta-sts.example.net"]
    assert announced_id([found["records"][0]["data"].strip('"').encode()])


def test_the_id_changes_with_the_policy_and_with_nothing_else(place: Path) -> None:
    def announced(more: str) -> str:
        (record, *_) = json.loads(run(place, "--json", more=more).stdout)["records"]
        return str(record["data"])

    before = announced("")
    assert announced('\n[dns]\ntimeout = "3s"\n') == before
    assert announced('\n[mta_sts]\nmode = "enforce"\n') != before
    assert announced('\n[mta_sts]\nmx = ["mx1.example.org", "mx2.example.org"]\n') != before


def test_our_keys_and_where_reports_go_to(place: Path) -> None:
    certificate = issue(None, "mx.example.org")
    certificate.write(place / "tls.pem")
    more = '\n[tls]\ncertificate = "tls.pem"\n'
    arguments = ("--domain", "example.org", "--reports-to", "tls@example.org")
    lines = run(place, *arguments, more=more).stdout.splitlines()
    records = lines[lines.index("# DNS") + 1 :]
    assert records[1] == '_smtp._tls.example.org. TXT "v=TLSRPTv1; rua=mailto:tls@example.org"'
    name, data = records[2].split(" TLSA ")
    assert name == "_25._tcp.mx.example.org."
    assert verify(usable([data]), [certificate.certificate], ["mx.example.org"])[0].is_verified
    assert len(records) == 3


def test_what_cannot_be_said(place: Path) -> None:
    found = run(place, "--domain", "example.com")
    assert (found.exit_code, found.stderr) == (1, "mailgate: example.com is none of our [domains]\n")
    assert run(place, more="\n[dns]\nwrong = 1\n").exit_code == 1
