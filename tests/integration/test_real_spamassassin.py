"""The filter spamassassin and a real spamd: scores, users, what it writes, and a spamd that is killed or hangs."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from parts import children_of, folder, free_port
from scanner_parts import GTUBE, Spamd, ask, mail

pytestmark = pytest.mark.needs("spamd")

USERS = {"ann@strict.example": "required_score 0.5\nbody MINE /hello/\n", "bob@loose.example": "score MG_MARK 0.1\n"}
HAM, MARKED, SPAM = mail(b"hello\r\n"), mail(b"MAILGATE-SPAM-MARK\r\n"), mail(GTUBE + b"\r\n")


@pytest.fixture(scope="module")
def spamd() -> Iterator[Spamd]:
    with folder("spamassassin") as directory, Spamd(directory / "spamd", USERS, "allow_user_rules 1\n") as server:
        yield server


def options(server: Spamd, **more: object) -> dict[str, object]:
    return {"servers": [server.server], "timeout": "30s", **more}


def test_spam_is_refused_and_what_looks_like_it_is_marked(spamd: Spamd) -> None:
    ham, marked, spam = ask("spamassassin", options(spamd), HAM, MARKED, SPAM)
    assert [one["verdict"] for one in (ham, marked, spam)] == ["continue", "continue", "reject"]
    assert spam["reply"] == "550 5.7.1 Refused: this message looks like spam"
    assert "spamassassin.test.gtube" in spam["facts"]
    assert {"spamassassin.spam", "spamassassin.test.mg_mark"} <= set(marked["facts"])
    assert marked["message"].startswith("X-Spam-Flag: YES\r\nX-Spam-Level: *******")
    assert ham["message"].startswith(("X-Spam-Level: ", "X-Spam-Status: No, "))
    for one, octets in ((ham, HAM), (marked, MARKED)):
        assert one["message"].encode().endswith(octets)


@pytest.mark.parametrize("take", ["score", "headers", "message"])
def test_what_ends_within_a_line_is_checked(spamd: Spamd, take: str) -> None:
    """As it may with BDAT: spamd waits for the end of the line, unless it is told that there is none."""
    (one,) = ask("spamassassin", options(spamd, take=take), mail(GTUBE))
    assert one["verdict"] == "reject"


def test_preferences_by_recipient(spamd: Spamd) -> None:
    asked = [{"content": MARKED, "recipients": [user]} for user in ("bob@loose.example", "eve@example.org")]
    both = {"content": MARKED, "recipients": ["bob@loose.example", "eve@example.org"]}
    limits = {"user_by": "address", "max_users": 5, "quarantine": 7.5}
    loose, other, together = ask("spamassassin", options(spamd, **limits), *asked, both)
    assert [one["verdict"] for one in (loose, other, together)] == ["continue", "quarantine", "quarantine"]
    assert together["recipients"] == ["eve@example.org"]
    (strict,) = ask("spamassassin", options(spamd, **limits), {"content": HAM, "recipients": ["ann@strict.example"]})
    assert "spamassassin.spam" in strict["facts"]


@pytest.mark.parametrize("take", ["headers", "message"])
def test_the_header_that_spamassassin_writes(spamd: Spamd, take: str) -> None:
    forged = mail(b"MAILGATE-SPAM-MARK\r\n", "X-Spam-Status: No, score=-100", "X-Kept: 1")
    ham, marked = ask("spamassassin", options(spamd, take=take), HAM, forged)
    assert "Subject: [SPAM] Hello\r\n" in marked["message"]
    assert marked["message"].count("Subject: ") == 2  # with X-Spam-Prev-Subject
    assert "score=-100" not in marked["message"]
    assert "X-Kept: 1\r\n" in marked["message"]
    for one in (ham, marked):
        assert "X-Spam-Checker-Version: " in one["message"]
        # what it was shown of us stays between us
        assert "Return-Path" not in one["message"]
        assert "Received: from" not in one["message"]
    assert marked["message"].endswith("\r\n\r\nMAILGATE-SPAM-MARK\r\n")
    assert ham["message"].encode().endswith(HAM.partition(b"MIME-Version")[2])


def test_the_message_that_spamassassin_writes(base: Path) -> None:
    with Spamd(base / "spamd", settings="report_safe 1\n") as wrapping:
        ham, marked = ask("spamassassin", options(wrapping, take="message"), HAM, MARKED)
    assert ham["message"].endswith("\r\n\r\nhello\r\n")
    assert "Content-Type: multipart/mixed; boundary=" in marked["message"]
    assert "Spam detection software" in marked["message"]
    assert "MAILGATE-SPAM-MARK\r\n" in marked["message"]
    assert "\n" not in marked["message"].replace("\r\n", "")


def test_a_spamd_that_is_away_hangs_or_is_killed_is_no_answer(base: Path) -> None:
    with Spamd(base / "spamd") as server:
        (away,) = ask("spamassassin", {"servers": [f"127.0.0.1:{free_port()}"]}, SPAM)
        assert away["failure"].startswith("ScannerError: ")
        children = children_of(server.pid)
        for pid in (server.pid, *children):
            os.kill(pid, signal.SIGSTOP)
        (hung,) = ask("spamassassin", {"servers": [server.server], "timeout": "1s"}, SPAM)
        for pid in (server.pid, *children):
            os.kill(pid, signal.SIGCONT)
        assert "no answer within 1 s" in hung["failure"]
        (one,) = ask("spamassassin", options(server), SPAM)
        assert one["verdict"] == "reject"
