"""What the history and `mailgate check` say about mail of users: limits, suspected accounts, secrets, senders."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from mailgate.events import AccountSuspected, BouncedBack, Complained, LimitNear
from mailgate.pipeline.registry import FilterMaker
from mailgate.plugins import builtin
from tests.unit.cli_machine import FIRST, Machine
from tests.unit.config_file import load_text
from tests.unit.test_cli_why import accepted

CONFIGURATION = """
[gateway]
hostname = "gw.example.org"
state_dir = "state"

[[listeners]]
name = "submission"
role = "outbound"
endpoints = ["tcp:587"]
pipeline = "out"
trusted_networks = ["192.0.2.0/24"]

[pipelines.out]
filters = ["compromised", "geo", "null-sender", "batv", "headers"]

[filters.geo]
country = "countries.mmdb"

[filters.batv]
secrets = "secret"
senders = ["example.org"]

[routing]
default = "smart"

[routes.smart]
transport = "smtp"
hosts = ["smtp.provider.example:465"]
tls = "off"

[routes.smart.auth]
username = "u"
oauth = { token_url = "https://id.example/token", client_id = "c", client_secret_file = "secret", \
refresh_token_file = "refresh" }

[senders.people]
kind = "http"
url = "http://who.example/{address}"
token_file = "token"
"""


def test_why_tells_of_limits_and_suspected_accounts(machine: Machine) -> None:
    now = time.time()
    machine.tell(accepted(FIRST, now - 90))
    machine.tell(
        LimitNear(
            at=now - 90,
            filter="quota",
            rule="messages per identity",
            subject="ann",
            count=80,
            limit=100,
            window=3600.0,
            until=now,
            queue_id=FIRST,
        )
    )
    signals = ("recipients 101 in 1h, limit 100",)
    machine.tell(AccountSuspected(at=now - 80, user="ann", signals=signals, action="quarantine", queue_id=FIRST))
    told = machine.run("why", FIRST).stdout
    assert "the limit of ann is nearly used up: messages per identity, 80 of 100" in told
    assert "the account ann is suspected: quarantine" in told
    assert "recipients 101 in 1h, limit 100" in told
    machine.tell(AccountSuspected(at=now, user="ann", signals=(), action="release", queue_id=FIRST))
    assert "the account ann is not suspected any more" in machine.run("why", "ann").stdout


def test_why_tells_of_what_came_back(machine: Machine) -> None:
    now = time.time()
    machine.tell(accepted(FIRST, now - 90))
    about = {"sender": "news@example.org", "recipient": "bob@example.net", "proof": "verp", "queue_id": FIRST}
    back = BouncedBack(at=now - 60, is_permanent=True, category="no-such-user", reason="550 unknown", **about)
    machine.tell(back)
    machine.tell(Complained(at=now - 30, **about))
    told = machine.run("why", FIRST).stdout
    assert "a bounce came back for bob@example.net, which verp proves" in told
    assert "because: 550 unknown" in told
    assert "a complaint came for bob@example.net, which verp proves" in told


def test_check_tells_what_may_not_be_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("compromised", "null-sender", "batv"):
        module = kind.replace("-", "_")
        monkeypatch.setattr(builtin, module, FilterMaker(kind, f"mailgate.filters.{module}", "x"), raising=False)
    for name in ("secret", "refresh", "token"):
        (tmp_path / name).write_text("a secret that others can read\n")
        (tmp_path / name).chmod(0o644)
    told = "\n".join(load_text(tmp_path, CONFIGURATION).warnings)
    assert "compromised does not stand behind geo, by which it knows countries" in told
    assert "null-sender does not stand behind batv, by which it knows answers to mail of ours" in told
    for key in ("routes.smart.auth.oauth.client_secret_file", "routes.smart.auth.oauth.refresh_token_file"):
        assert f"{key}: " in told
    assert "senders.people.token_file: " in told
    assert "senders.people.url: http: what is asked" in told
    assert "senders.people: no filter names this section" in told
    assert 'routes.smart.auth: nobody can log in: tls is "off"' in told
