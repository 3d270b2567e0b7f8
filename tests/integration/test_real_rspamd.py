"""The filter rspamd and a real rspamd, without any network: actions, fields, settings, and one that does not work."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from parts import children_of, folder, free_port
from scanner_parts import GTUBE, Rspamd, ask, mail

pytestmark = pytest.mark.needs("rspamd")

HAM, MARKED, SPAM = mail(b"hello\r\n"), mail(b"MAILGATE-SPAM-MARK\r\n"), mail(GTUBE + b"\r\n")


@pytest.fixture(scope="module")
def rspamd() -> Iterator[Rspamd]:
    with folder("rspamd") as directory, Rspamd(directory / "rspamd") as server:
        yield server


def options(server: Rspamd, **more: object) -> dict[str, object]:
    return {"servers": [server.server], "timeout": "20s", **more}


def test_actions(rspamd: Rspamd) -> None:
    ham, marked, spam = ask("rspamd", options(rspamd), HAM, MARKED, SPAM)
    assert [one["verdict"] for one in (ham, marked, spam)] == ["continue", "continue", "reject"]
    assert spam["reply"] == "550 5.7.1 Gtube pattern"
    assert spam["facts"][0] == "rspamd.reject"
    assert marked["facts"][:2] == ["rspamd.add-header", "rspamd.symbol.mg_mark"]
    assert marked["message"].startswith("X-Spam: Yes\r\n")
    assert ham["facts"][0] == "rspamd.no-action"
    assert ham["message"].encode().endswith(b"\r\n\r\nhello\r\n")


def test_fields_that_it_adds_and_removes(rspamd: Rspamd) -> None:
    (one,) = ask("rspamd", options(rspamd), mail(b"MAILGATE-SPAM-MARK\r\n", "X-Spam-Level: forged", "X-Kept: 1"))
    assert "forged" not in one["message"]
    assert one["message"].count("X-Spam-Level: ***") == 1
    assert "X-Kept: 1\r\n" in one["message"]


def test_settings_by_recipient(rspamd: Rspamd) -> None:
    recipients = ["ann@strict.example", "bob@example.org"]
    asked = [{"content": MARKED, "recipients": one} for one in (recipients[:1], recipients[1:], recipients)]
    strict, usual, both = ask("rspamd", options(rspamd, per_recipient=True), *asked)
    assert [one["verdict"] for one in (strict, usual, both)] == ["reject", "continue", "reject"]
    assert both["recipients"] == ["ann@strict.example"]
    (loose,) = ask("rspamd", options(rspamd, settings_id="loose"), MARKED)
    assert loose["facts"][0] == "rspamd.no-action"


def test_a_user_who_has_logged_in_is_known(rspamd: Rspamd) -> None:
    inbound, outbound = ask("rspamd", options(rspamd), MARKED, {"content": MARKED, "user": "ann"})
    # Its module hfilter judges clients, but not those of our own users.
    assert any("hfilter" in fact for fact in inbound["facts"])
    assert not any("hfilter" in fact for fact in outbound["facts"])


def test_one_that_is_away_or_hangs_is_no_answer(base: Path) -> None:
    (away,) = ask("rspamd", {"servers": [f"127.0.0.1:{free_port()}"]}, SPAM)
    assert away["failure"].startswith("ScannerError: ")
    with Rspamd(base / "rspamd") as server:
        pids = [server.pid, *children_of(server.pid)]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        (hung,) = ask("rspamd", {"servers": [server.server], "timeout": "1s"}, SPAM)
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        assert "no answer within 1 s" in hung["failure"]
        (one,) = ask("rspamd", options(server), SPAM)
        assert one["verdict"] == "reject"
