"""Why an entry is still in the queue: every state has an answer."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgate.interfaces import EntryView, Suspended, Suspension
from mailgate.web.waits import next_attempt, suspends, suspension_of, why_it_waits


def view(**more: Any) -> EntryView:
    return EntryView(
        **{
            "queue_id": "A",
            "number": 0,
            "sender": "ann@client.test",
            "recipient": "bob@box.test",
            "route": "internet",
            "state": "queued",
            "size": 1,
            "received": 0.0,
            "attempts": 0,
            "next_attempt": 0.0,
            "last_reply": "",
            **more,
        }
    )


def suspension(kind: Suspended, name: str) -> Suspension:
    return Suspension(kind=kind, name=name, since=0.0)


@pytest.mark.parametrize(
    ("more", "live", "running", "stopped"),
    [
        ({}, "", "the relay takes it at its next look", "the gateway does not run"),
        ({"next_attempt": 900.0}, "", "deferred", "deferred"),
        ({"next_attempt": 900.0, "category": "full"}, "", "deferred as full", "deferred as full"),
        ({"waits": "its turn"}, "", "its turn", "its turn"),
        ({"next_attempt": 900.0, "waits": "its turn", "category": "full"}, "", "its turn", "its turn"),
        ({"not_before": 900.0, "next_attempt": 900.0}, "", *["its sender has asked for a later time"] * 2),
        ({"state": "held", "waits": "x"}, "", *["an administrator holds it until release"] * 2),
        ({"state": "quarantined"}, "", *["a policy keeps it back until release"] * 2),
        ({"state": "set-aside"}, "", *["it cannot be read"] * 2),
        ({"state": "leased", "waits": "old"}, "3rd of 4", "3rd of 4", "3rd of 4"),
        (
            {"state": "leased"},
            "",
            "is in the relay's hands",
            "was under delivery when the gateway ended: its next start goes on with it",
        ),
    ],
)
def test_why(more: dict[str, Any], live: str, running: str, stopped: str) -> None:
    assert why_it_waits(view(**more), live, (), 100.0, is_running=True) == running
    assert why_it_waits(view(**more), live, (), 100.0, is_running=False) == stopped


@pytest.mark.parametrize(
    ("kind", "name", "is_suspended"),
    [
        ("route", "internet", True),
        ("route", "inter", False),
        ("domain", "box.test", True),
        ("domain", "other.box.test", False),
        ("sender", "ann@client.test", True),
        ("sender", "client.test", True),
        ("sender", "test", False),
        ("sender", "<>", False),
        ("site", "mx1.box.test", True),
        ("site", "mx2.box.test", True),
        ("site", "box.test", False),
        ("site", "x1.box.test", False),
        ("site", "mx1.box", False),
        ("site", "mx.*", False),
    ],
)
def test_suspended(kind: Suspended, name: str, is_suspended: bool) -> None:
    one = suspension(kind, name)
    entry = view(site="internet:mx1.box.test,mx2.box.test:25", waits="its turn")
    assert suspends(one, entry) is is_suspended
    told = why_it_waits(entry, "", [one], 100.0, is_running=True)
    assert told == (f"suspended: {kind} {name}" if is_suspended else "its turn")


def test_of_several_suspensions_that_counts_which_lasts_longest() -> None:
    short, long = (Suspension(kind="route", name="internet", since=0.0, until=until) for until in (100.0, 200.0))
    forever = suspension("domain", "box.test")
    assert suspension_of(view(), [short, long]) is long
    assert suspension_of(view(), [forever, long]) is forever
    assert suspension_of(view(state="held"), [forever]) is None
    assert suspension_of(view(), [suspension("domain", "other.test")]) is None


def test_when_the_next_attempt_of_what_is_suspended_is() -> None:
    one = Suspension(kind="route", name="internet", since=0.0, until=100.0)
    assert next_attempt(view(next_attempt=50.0), None) == 50.0
    assert next_attempt(view(next_attempt=50.0), one) == 100.0
    assert next_attempt(view(next_attempt=150.0), one) == 150.0
    assert next_attempt(view(next_attempt=150.0, waits=one.told), one) == 100.0
    assert next_attempt(view(next_attempt=150.0), suspension("route", "internet")) == 0.0


def test_the_null_sender_is_suspended_by_its_own_name() -> None:
    assert suspends(suspension("sender", "<>"), view(sender=""))


def test_what_is_under_delivery_or_held_is_not_suspended() -> None:
    one = suspension("route", "internet")
    for state in ("leased", "held", "quarantined"):
        assert "suspended" not in why_it_waits(view(state=state), "", [one], 100.0, is_running=True)


@given(st.builds(view, sender=st.text(), recipient=st.text(), site=st.text(), route=st.text()), st.text())
def test_any_text_can_be_asked_about(entry: EntryView, name: str) -> None:
    for kind in get_args(Suspended):
        assert why_it_waits(entry, "", [suspension(kind, name)], 0.0, is_running=True)
