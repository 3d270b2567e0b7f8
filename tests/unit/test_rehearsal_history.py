"""What this gateway has judged, out of its history, judged by another policy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mailgate.config.places import Places
from mailgate.events import Discarded, Event, Judged, MessageAccepted, Quarantined, Refused
from mailgate.observe.history import History
from mailgate.observe.recorder import Recorder
from tests.unit.test_cli_replay import Site, run

NOON = 1795687200.0


class Past(Site):
    """A site with a history."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.places = Places(folder / "state")
        self.places.state_dir.mkdir(mode=0o700)

    def tell(self, *events: Event) -> None:
        recorder = Recorder([History(self.places.history, keep=86400.0 * 10_000, max_size=2**30)], delay=0.0)
        for event in events:
            recorder.observe(event)
        recorder.close()

    def replay(self, *arguments: object, code: int = 0, against: bool = True) -> dict[str, Any]:
        other = ("--against", self.other) if against else ()
        found = run("--config", self.file, *other, "--history", "--json", *arguments, code=code)
        answer: dict[str, Any] = json.loads(found.stdout)
        return answer


@pytest.fixture
def past(tmp_path: Path) -> Past:
    return Past(tmp_path)


def taken(number: int, client: str = "203.0.113.9", **more: Any) -> MessageAccepted:
    facts = {"listener": "mx", "recipients": ("bob@box.test",), "sender": "ann@far.test"} | more
    return MessageAccepted(
        at=NOON + number, queue_id=f"Q{number}", session=f"S{number}", client=f"far.test[{client}]", helo="far.test",
        size=100, **facts,
    )  # fmt: skip


def refused(number: int, stage: str, reply: str = "550 5.7.1 no", client: str = "198.51.100.7", **more: Any) -> Refused:
    facts = {"listener": "mx", "helo": "far.test", "filter": "access", "reason": "x"} | more
    return Refused(
        at=NOON + number, session=f"S{number}", client=f"unknown[{client}]", stage=stage, reply=reply, **facts
    )


def pairs(found: dict[str, Any]) -> dict[tuple[str, str], int]:
    return {(one["was"], one["now"]): one["recipients"] for one in found["table"]}


def test_two_policies_over_all_mail_that_came(past: Past) -> None:
    past.tell(
        taken(1),
        taken(2, "192.0.2.7", recipients=("bob@box.test", "cy@box.test")),
        refused(3, "rcpt", sender="eve@far.test", recipient="bob@box.test"),
        refused(4, "rcpt", client="203.0.113.9", sender="eve@far.test", recipient="no@box.test"),
    )
    found = past.replay(code=1)
    assert (found["mails"], found["recipients"], found["differing"]) == (4, 5, 3)
    assert pairs(found) == {
        ("open", "open"): 1,
        ("open", "refused"): 2,
        ("refused", "open"): 1,
        ("refused", "refused"): 1,
    }
    first = found["differences"][0]
    assert (first["name"], first["client"], first["now"]["by"]) == ("Q2", "far.test[192.0.2.7]", "access")


def test_what_became_of_it_against_the_policy_of_today(past: Past) -> None:
    past.tell(
        taken(1, recipients=("bob@box.test", "cy@box.test")),
        Quarantined(at=NOON + 1, queue_id="Q1", sender="ann@far.test", recipients=("cy@box.test",), reason="x"),
        taken(2),
        Discarded(at=NOON + 2, queue_id="Q2", sender="ann@far.test", recipients=("bob@box.test",), reason="x"),
        refused(
            3, "content", "550 5.7.1 spam", sender="a@far.test", recipients=("bob@box.test",), client="203.0.113.9"
        ),
        refused(4, "rcpt", "450 4.7.1 later", sender="a@far.test", recipient="bob@box.test"),
        taken(5, "198.51.100.9"),
    )
    found = past.replay(code=1, against=False)
    assert pairs(found) == {
        ("taken", "open"): 1,
        ("quarantined", "open"): 1,
        ("discarded", "open"): 1,
        ("refused", "open"): 1,
        ("deferred", "refused"): 1,
        ("taken", "refused"): 1,
    }
    # Where the content decides, and that is not there, nothing differs that may come to the same.
    assert (found["differing"], found["kinds"]["not taken any more"]) == (3, 1)


def test_mail_that_was_refused_before_it_named_anybody(past: Past) -> None:
    past.tell(
        refused(1, "connect"),
        refused(2, "helo"),
        refused(3, "mail", sender="a@far.test"),
        refused(4, "auth", user="bob"),
        refused(5, "content", ""),
        taken(6),
    )
    found = past.replay()
    assert (found["mails"], found["left_out"]) == (1, 3)
    assert "--to says for whom" in found["reasons"][0]["reason"]
    told = past.replay("--to", "bob@box.test", code=1)
    assert (told["mails"], told["left_out"], pairs(told)) == (
        *(4, 0),
        {("refused", "open"): 3, ("open", "open"): 1},
    )
    assert told["assumed"] == {
        "no recipient: judged for that of --to": 3,
        "no sender: judged as a report (<>)": 2,
    }


def test_who_had_logged_in_takes_the_listener_that_it_came_by(past: Past) -> None:
    past.tell(
        taken(1, "10.0.0.9", listener="submission", recipients=("x@else.test",), identity="10.0.0.9 by network"),
        taken(2, listener=""),
        taken(3, listener="gone"),
    )
    found = past.replay()
    assert pairs(found) == {("open", "open"): 1}
    assert [one["reason"] for one in found["reasons"]] == ["no listener is called gone"]


def test_what_a_mail_server_was_told_counts_too(past: Past) -> None:
    judged = Judged(
        at=NOON, queue_id="Q", ident="4Q", session="S", client="far.test[192.0.2.7]", listener="mx", helo="far.test",
        sender="", recipients=("bob@box.test",), size=1, answer="quarantine",
    )  # fmt: skip
    past.tell(judged)
    assert pairs(past.replay(against=False)) == {("quarantined", "open"): 1}
    assert pairs(past.replay(code=1)) == {("open", "refused"): 1}


def test_the_newest_are_judged_and_the_others_counted(past: Past) -> None:
    past.tell(*(taken(number) for number in range(20)))
    found = past.replay("--limit", 5)
    assert (found["mails"], found["left_out"]) == (5, 1)
    assert found["reasons"] == [{"name": "15 older mails of the history", "reason": "more than --limit 5"}]
    assert "no mail was judged" in run("--config", past.file, "--history", "--since", "1h", code=1).stderr


def test_a_part_that_cannot_be_read_is_told(past: Past) -> None:
    past.tell(taken(1))
    (past.places.history / "00000000000001.db").write_bytes(b"no database" * 100)
    found = past.replay()
    assert (found["mails"], found["reasons"]) == (
        1,
        [{"name": "00000000000001.db", "reason": "this part of the history cannot be read"}],
    )
