"""What is seen to from time to time: retention, orphans, and filters that are asked again."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred

from mailgate.envelope import Kept, TraceStep
from mailgate.events import EntrySetAside, OperatorActed, Quarantined, QuarantineExpired, Rescanned
from mailgate.interfaces import Again, Selector
from mailgate.message import Content
from mailgate.quarantine.news import News
from mailgate.quarantine.review import Reviewed
from mailgate.testing import wait_for
from mailgate.web.quarantine_models import ReleaseOrder
from mailgate.web.selection import EVERYTHING
from tests.unit.quarantine_stand import DAY, NO, PASS, UNKNOWN, QuarantineStand
from tests.unit.relaying import failures_logged

HOUR = 3600.0


@pytest.fixture
def stand(tmp_path: Path) -> QuarantineStand:
    return QuarantineStand(tmp_path)


def aged(stand: QuarantineStand, name: str, seconds: float) -> None:
    """An original that was written so long ago."""
    then = stand.clock.seconds() - seconds
    os.utime(stand.directory / "quarantine" / name, (then, then))


def originals(stand: QuarantineStand) -> set[str]:
    folder = stand.directory / "quarantine"
    return {one.name for one in folder.iterdir()} if folder.exists() else set()


# -- retention


def test_what_has_been_there_long_enough_goes_with_an_event_and_its_original(stand: QuarantineStand) -> None:
    stand.use('retention = "7d"')
    stand.add("A", "one@box.test", "two@box.test", original=b"what came")
    stand.office.start()
    stand.clock.advance(7 * DAY - HOUR)
    assert stand.ids() == ["A"]
    stand.clock.advance(2 * HOUR)
    assert stand.ids() == []
    (event,) = stand.events.of(QuarantineExpired)
    assert (event.queue_id, event.recipients) == ("A", ("one@box.test", "two@box.test"))
    assert (event.reason, event.seconds) == ("has found Eicar", 7 * DAY)
    assert originals(stand) == set()


def test_only_what_is_in_quarantine_expires(stand: QuarantineStand) -> None:
    stand.use('retention = "1d"')
    stand.add("A", "one@box.test")
    stand.add("B", "two@box.test", reason="")
    wait_for(stand.spool.hold(Selector(queue_id="B")))
    stand.add("C", "three@box.test")
    wait_for(stand.spool.release(Selector(queue_id="C")))
    stand.office.start()
    stand.clock.advance(3 * DAY)
    assert stand.ids() == ["B", "C"]
    assert [event.queue_id for event in stand.events.of(QuarantineExpired)] == ["A"]


def test_the_time_counts_from_when_it_came_there(stand: QuarantineStand) -> None:
    stand.use('retention = "2d"')
    stand.add("A", "one@box.test", reason="")
    stand.clock.advance(5 * DAY)
    wait_for(stand.spool.quarantine(Selector(queue_id="A"), "asked again, av: x"))
    stand.office.start()
    stand.clock.advance(DAY)
    assert stand.ids() == ["A"]
    stand.clock.advance(DAY + 2 * HOUR)
    assert stand.ids() == []


def test_a_new_retention_counts_at_once(stand: QuarantineStand) -> None:
    stand.add("A")
    stand.office.start()
    stand.clock.advance(3 * DAY)
    assert stand.ids() == ["A"]
    stand.use('retention = "1d"')
    stand.clock.advance(61)
    assert stand.ids() == []


# -- originals that belong to nothing


def test_orphans_go_and_what_is_in_use_stays(stand: QuarantineStand) -> None:
    stand.add("A", original=b"kept")
    stand.add("B", reason="", original=b"released, and not delivered yet")
    wait_for(stand.originals.keep("ORPHAN", Content(b"x")))
    wait_for(stand.originals.keep("NEW", Content(b"its message is about to be taken")))
    for name, age in (("A", DAY), ("B", DAY), ("ORPHAN", DAY), ("NEW", HOUR / 2)):
        aged(stand, name, age)
    stand.office.start()
    stand.clock.advance(61)
    assert originals(stand) == {"A", "B", "NEW"}
    wait_for(stand.spool.delete(Selector(queue_id="B")))
    stand.clock.advance(HOUR)
    assert originals(stand) == {"A"}


def test_the_original_of_what_is_set_aside_stays_beside_it(stand: QuarantineStand) -> None:
    stand.add("A", original=b"what came")
    stand.damage("A")
    wait_for(stand.spool.lease_selected(Selector(queue_id="A"), 1, stand.clock.seconds() + 60))
    (event,) = stand.events.of(EntrySetAside)
    assert stand.ids() == []
    aged(stand, "A", DAY)
    stand.office.start()
    stand.clock.advance(2 * HOUR)
    assert originals(stand) == {"A"}
    Path(event.where).unlink()  # somebody has seen to it
    stand.clock.advance(HOUR)
    assert originals(stand) == set()


def test_a_spool_that_fails_costs_no_original(stand: QuarantineStand) -> None:
    stand.add("A", original=b"kept")
    aged(stand, "A", DAY)
    view = stand.spool.view
    stand.spool.view = lambda *_: (_ for _ in ()).throw(OSError("disk"))  # type: ignore[method-assign]
    stand.office.start()
    stand.clock.advance(2 * HOUR)
    stand.spool.view = view  # type: ignore[method-assign]
    assert originals(stand) == {"A"}


# -- asking again about what is in quarantine


def test_nobody_is_asked_where_that_is_not_wanted(stand: QuarantineStand) -> None:
    stand.add("A")
    stand.office.start()
    stand.clock.advance(10 * DAY)
    assert stand.rescan.asked == []


def test_it_is_told_that_nobody_objects_any_more(stand: QuarantineStand) -> None:
    stand.use('rescan_every = "6h"')
    stand.add("A", "one@box.test", "two@box.test")
    stand.rescan.says["two@box.test"] = NO
    stand.office.start()
    stand.clock.advance(6 * HOUR + 1)
    assert stand.states() == {"one@box.test": "quarantined", "two@box.test": "quarantined"}
    (event,) = stand.events.of(Rescanned)  # that it is as before is no news
    assert (event.queue_id, event.recipients, event.result) == ("A", ("one@box.test",), "pass")
    stand.clock.advance(6 * HOUR)
    assert len(stand.rescan.asked) == 2


def test_the_filters_are_shown_what_there_was(stand: QuarantineStand) -> None:
    stand.use('rescan_every = "6h"')
    stand.add("A")
    stand.office.start()
    stand.clock.advance(6 * HOUR + 1)
    ((session, transaction, data, facts),) = stand.rescan.asked
    assert (str(session.client), session.helo, session.listener) == ("client.test[192.0.2.1]", "client.test", "mx")
    assert (session.role, session.hostname, session.protocol) == ("inbound", "gate.test", "ESMTP")
    assert session.identity is None
    assert (str(transaction.sender), transaction.id) == ("ann@client.test", "A")
    assert [str(one.address) for one in transaction.recipients] == ["bob@box.test"]
    assert data.endswith(b"the text\r\n")
    assert facts == ("clamav.found", "spf.fail")


def test_what_nobody_objects_to_is_released_where_that_is_wanted(stand: QuarantineStand) -> None:
    stand.use('rescan_every = "6h"\non_pass = "release"')
    stand.add("A", "one@box.test", "two@box.test")
    stand.rescan.says["two@box.test"] = NO
    stand.office.start()
    stand.clock.advance(6 * HOUR + 1)
    assert stand.states() == {"one@box.test": "queued", "two@box.test": "quarantined"}
    (event,) = stand.events.of(OperatorActed)
    assert (event.action, event.recipients, event.by) == ("release", ("one@box.test",), "the re-scan")
    assert "look" in stand.relay.told


def test_what_another_filter_keeps_back_is_not_released(stand: QuarantineStand) -> None:
    stand.use('rescan_every = "6h"\non_pass = "release"')
    stand.add("A", reason="p=quarantine")  # dmarc, which is not asked
    stand.add("B", reason="nobody knows")
    stand.office.start()
    stand.clock.advance(6 * HOUR + 1)
    assert [one.state for one in wait_for(stand.spool.view(Selector(), 10))] == ["quarantined"] * 2


def test_what_another_filter_objects_to_as_well_is_not_released(stand: QuarantineStand) -> None:
    stand.use('rescan_every = "6h"\non_pass = "release"')
    stand.add("A", "one@box.test", "two@box.test", dmarc="one@box.test")
    many = tuple(TraceStep("rcpt", "recipients", "reject", NO.reason, recipient="no@box.test") for _ in range(299))
    steps = (TraceStep("message", "av", "quarantine", NO.reason), *many)
    stand.add("B", "three@box.test", kept=Kept(steps=steps))  # there may have been more
    steps = (*steps[:-1], TraceStep("connect", "dnsbl", "failure", "late (on_failure: continue)"))
    stand.add("C", "four@box.test", kept=Kept(steps=steps[:1] + steps[-1:]))
    stand.office.start()
    stand.clock.advance(6 * HOUR + 1)
    assert stand.states() == {
        "one@box.test": "quarantined",
        "two@box.test": "queued",
        "three@box.test": "quarantined",
        "four@box.test": "queued",
    }


def test_what_cannot_be_read_keeps_nobody_from_the_rest(stand: QuarantineStand) -> None:
    stand.use('rescan_every = "6h"\non_pass = "release"')
    stand.add("A", "one@box.test")
    stand.add("B", "two@box.test")
    stand.damage("A")
    stand.office.start()
    stand.clock.advance(6 * HOUR + 1)
    assert stand.states() == {"one@box.test": "quarantined", "two@box.test": "queued"}


def test_mail_of_a_listener_that_is_gone_ends_no_round(stand: QuarantineStand) -> None:
    stand.use('rescan_every = "6h"\non_pass = "release"')
    for number in range(30):
        stand.add(f"A{number:03}", listener="old")
    stand.add("B", "last@box.test")
    stand.office.start()
    stand.clock.advance(6 * HOUR + 1)
    assert stand.states()["last@box.test"] == "queued"


def test_a_round_tells_only_what_is_news(stand: QuarantineStand) -> None:
    stand.use('rescan_every = "1h"\non_pass = "tell"')
    stand.add("A", "one@box.test", "two@box.test")
    says = stand.rescan.says
    told: list[tuple[str, tuple[str, ...]]] = []
    stand.office.start()
    for one, two, expected in (
        (NO, NO, []),
        (None, NO, [("pass", ("one@box.test",))]),
        (None, NO, []),
        (None, None, [("pass", ("two@box.test",))]),
        (NO, None, [("objects", ("one@box.test",))]),
        (NO, None, []),
        (UNKNOWN, UNKNOWN, [("unknown", ("one@box.test", "two@box.test"))]),
        (UNKNOWN, UNKNOWN, []),
        (NO, None, [("pass", ("two@box.test",))]),
    ):
        says.clear()
        says |= {name: said for name, said in (("one@box.test", one), ("two@box.test", two)) if said is not None}
        stand.clock.advance(HOUR)
        found = [(event.result, event.recipients) for event in stand.events.of(Rescanned)]
        assert found[len(told) :] == expected, (one, two)
        told += expected
    assert stand.states() == {"one@box.test": "quarantined", "two@box.test": "quarantined"}


def test_what_is_remembered_of_rounds_is_bounded(stand: QuarantineStand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailgate.quarantine.news._MOST", 3)
    stand.add("A")
    (view,) = wait_for(stand.spool.view(Selector(), 10))
    news = News("objects")
    for number in range(10):
        assert news.take(Reviewed(replace(view, number=number), PASS))
    assert len(news._said) == 3
    assert not news.take(Reviewed(replace(view, number=9), PASS))


def test_a_scanner_that_cannot_tell_changes_nothing(stand: QuarantineStand) -> None:
    stand.use('rescan_every = "6h"\non_pass = "release"')
    stand.add("A")
    stand.rescan.says["bob@box.test"] = UNKNOWN
    stand.office.start()
    stand.clock.advance(6 * HOUR + 1)
    assert stand.states() == {"bob@box.test": "quarantined"}
    (event,) = stand.events.of(Rescanned)
    assert (event.result, event.filter, event.reason) == ("unknown", "av", "no answer within 10 s")


def test_a_round_ends_where_no_message_can_be_told_of(stand: QuarantineStand) -> None:
    stand.use('rescan_every = "6h"')
    for number in range(50):
        stand.add(f"A{number:03}")
    stand.rescan.says["bob@box.test"] = UNKNOWN
    stand.office.start()
    stand.clock.advance(6 * HOUR + 1)
    assert len(stand.rescan.asked) == 20
    stand.rescan.says.clear()
    stand.clock.advance(6 * HOUR)
    assert len(stand.rescan.asked) == 70


def test_mail_of_a_listener_that_is_gone_stays(stand: QuarantineStand) -> None:
    stand.use('rescan_every = "6h"\non_pass = "release"')
    stand.add("A", listener="old")
    stand.add("B", listener="")
    stand.office.start()
    stand.clock.advance(6 * HOUR + 1)
    assert stand.rescan.asked == []
    assert [event.reason for event in stand.events.of(Rescanned)] == [
        "there is no listener old, so its filters are not",
        "its listener is not known, so its filters are not",
    ]


# -- asking again about what waits in the queue


def test_what_is_hated_now_goes_into_quarantine(stand: QuarantineStand) -> None:
    stand.use('rescan_every = "6h"\nrescan_queue = true')
    stand.add("A", "bad@box.test", "good@box.test", reason="")
    stand.rescan.says["bad@box.test"] = NO
    stand.office.start()
    stand.clock.advance(6 * HOUR + 1)
    assert stand.states() == {"bad@box.test": "quarantined", "good@box.test": "queued"}
    assert [facts for *_, facts in stand.rescan.asked] == [None]  # nobody kept them
    (event,) = stand.events.of(Quarantined)
    assert (event.recipients, event.reason) == (("bad@box.test",), "asked again, av: has found Eicar")
    (told,) = stand.events.of(Rescanned)
    assert (told.result, told.filter, told.reason) == ("objects", "av", "has found Eicar")
    (entry,) = wait_for(stand.operations.list(EVERYTHING, 10)).entries
    assert (entry.filter, entry.reason) == ("av", "asked again, av: has found Eicar")


def test_what_is_leased_or_our_own_is_left(stand: QuarantineStand) -> None:
    stand.use('rescan_every = "6h"\nrescan_queue = true')
    stand.add("A", "leased@box.test", reason="")
    stand.add("B", "own@box.test", reason="", listener="")
    wait_for(stand.spool.lease_selected(Selector(queue_id="A"), 1, stand.clock.seconds() + DAY))
    stand.rescan.says = {"leased@box.test": NO, "own@box.test": NO}
    stand.office.start()
    stand.clock.advance(6 * HOUR + 1)
    assert stand.states() == {"leased@box.test": "leased", "own@box.test": "queued"}
    assert stand.rescan.asked == []


def test_what_is_leased_while_filters_are_asked_is_left(stand: QuarantineStand) -> None:
    stand.use('rescan_every = "6h"\nrescan_queue = true')
    stand.add("A", reason="")
    answer: Deferred[list[Again]] = Deferred()
    stand.rescan.ask = lambda *_: answer  # type: ignore[method-assign,assignment]
    stand.office.start()
    stand.clock.advance(6 * HOUR + 1)
    wait_for(stand.spool.lease_selected(Selector(queue_id="A"), 1, stand.clock.seconds() + DAY))
    answer.callback([NO])
    assert stand.states() == {"bob@box.test": "leased"}
    assert stand.events.of(Quarantined) == []


def test_a_stuck_scanner_leaves_the_queue_alone(stand: QuarantineStand) -> None:
    stand.use('rescan_every = "6h"\nrescan_queue = true')
    stand.add("A", reason="")
    stand.rescan.says["bob@box.test"] = UNKNOWN
    stand.office.start()
    stand.clock.advance(6 * HOUR + 1)
    assert stand.states() == {"bob@box.test": "queued"}
    assert [event.result for event in stand.events.of(Rescanned)] == ["unknown"]


def test_no_release_is_undone(stand: QuarantineStand) -> None:
    stand.use('rescan_every = "6h"\nrescan_queue = true')
    stand.add("A", "one@box.test")
    wait_for(stand.spool.release(Selector(queue_id="A")))  # it was in quarantine: its envelope says so
    stand.add("B", "two@box.test", reason="")
    stand.rescan.says = {"one@box.test": NO, "two@box.test": NO}
    stand.office.start()
    stand.clock.advance(6 * HOUR + 1)
    assert stand.states() == {"one@box.test": "queued", "two@box.test": "quarantined"}
    wait_for(stand.operations.release(ReleaseOrder(ids=("B",))))
    stand.clock.advance(3 * DAY)
    assert stand.states() == {"one@box.test": "queued", "two@box.test": "queued"}


def test_what_is_released_while_a_round_goes_on_stays_released(stand: QuarantineStand) -> None:
    stand.use('rescan_every = "6h"\nrescan_queue = true')
    stand.add("A", reason="")
    stand.add("B", "two@box.test")
    answers: list[Deferred[list[Again]]] = []

    def ask(*_: object) -> Deferred[list[Again]]:
        answers.append(Deferred())
        return answers[-1]

    stand.rescan.ask = ask  # type: ignore[method-assign,assignment]
    stand.office.start()
    stand.clock.advance(6 * HOUR + 1)
    answers[0].callback([NO])  # about B in quarantine
    wait_for(stand.spool.release(Selector(queue_id="B")))
    answers[1].callback([NO])  # about A in the queue
    answers[2].callback([NO])
    assert stand.states() == {"bob@box.test": "quarantined", "two@box.test": "queued"}


def test_the_queue_is_left_alone_unless_it_is_wanted(stand: QuarantineStand) -> None:
    stand.use('rescan_every = "6h"')
    stand.add("A", reason="")
    stand.rescan.says["bob@box.test"] = NO
    stand.office.start()
    stand.clock.advance(6 * HOUR + 1)
    assert stand.states() == {"bob@box.test": "queued"}


# -- begin and end


def test_another_interval_counts_from_now(stand: QuarantineStand) -> None:
    stand.add("A")
    stand.office.start()
    stand.use('rescan_every = "2h"')
    stand.clock.advance(2 * HOUR + 1)
    assert len(stand.rescan.asked) == 1
    stand.use("")
    stand.clock.advance(DAY)
    assert len(stand.rescan.asked) == 1


def test_it_ends_while_a_filter_is_asked(stand: QuarantineStand) -> None:
    stand.use('rescan_every = "6h"\non_pass = "release"')
    stand.add("A")
    cancelled: list[object] = []
    stand.rescan.ask = lambda *_: Deferred(cancelled.append)  # type: ignore[method-assign,assignment]
    stand.office.start()
    stand.clock.advance(6 * HOUR + 1)
    wait_for(stand.office.close())
    assert len(cancelled) == 1
    assert stand.clock.getDelayedCalls() == []
    assert stand.states() == {"bob@box.test": "quarantined"}


def test_a_fault_of_ours_does_not_end_it(stand: QuarantineStand) -> None:
    stand.use('rescan_every = "6h"')
    stand.add("A")
    ask = stand.rescan.ask
    with failures_logged():
        stand.rescan.ask = lambda *_: 1 / 0  # type: ignore[method-assign,assignment]
        stand.office.start()
        stand.clock.advance(6 * HOUR + 1)
    stand.rescan.ask = ask  # type: ignore[method-assign]
    stand.clock.advance(6 * HOUR)
    assert len(stand.rescan.asked) == 1
