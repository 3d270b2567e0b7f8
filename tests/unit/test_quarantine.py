"""What is done with mail in quarantine: shown with its evidence, released to whom it was meant for, in the form that
was asked for, and never by a slip."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from pydantic import ValidationError
from twisted.internet.defer import Deferred, gatherResults

from mailgate.address import NULL_PATH, Address
from mailgate.envelope import Kept, TraceStep
from mailgate.events import MessageAccepted, OperatorActed, Rescanned
from mailgate.interfaces import Selector, SpoolError
from mailgate.message import AddHeader, Content, RemoveHeader, RenameHeader
from mailgate.quarantine.entries import decided_by
from mailgate.testing import wait_for
from mailgate.web.quarantine_models import DeleteOrder, ReleaseOrder, RescanOrder
from mailgate.web.selection import EVERYTHING, Selection
from tests.unit.quarantine_stand import DATA, DAY, NO, START, UNKNOWN, QuarantineStand
from tests.unit.test_spool import Bench
from tests.unit.test_spool import envelope as spool_envelope

ORIGINAL = b"Subject: =?utf-8?q?caf=C3=A9?=\r\nContent-Type: text/html\r\n\r\n<b>what came\xff\x00</b>\r\n" * 20_000


@pytest.fixture
def stand(tmp_path: Path) -> QuarantineStand:
    return QuarantineStand(tmp_path)


def released(stand: QuarantineStand, *ids: str, **order: Any) -> Any:
    return wait_for(stand.operations.release(ReleaseOrder(ids=ids, **order)))


# -- looking


def test_an_entry_tells_who_what_why_and_until_when(stand: QuarantineStand) -> None:
    stand.add("A", "one@box.test", original=ORIGINAL)
    (entry,) = wait_for(stand.operations.list(EVERYTHING, 10)).entries
    assert (entry.queue_id, entry.number, entry.sender, entry.recipient) == ("A", 0, "ann@client.test", "one@box.test")
    assert (entry.subject, entry.from_) == ("café", "Ann <ann@client.test>")
    assert (entry.filter, entry.reason) == ("av", "has found Eicar")
    assert (entry.received, entry.since, entry.expires) == (START, START, START + 30 * DAY)
    assert entry.has_original
    assert entry.facts == ("clamav.found", "spf.fail")


def test_a_list_has_only_what_is_in_quarantine_and_pages(stand: QuarantineStand) -> None:
    for number in range(5):
        stand.add(f"A{number}", "one@box.test", "two@box.test")
    stand.add("B", reason="")
    found: list[tuple[str, int]] = []
    after: tuple[str, int] | None = None
    while True:
        page = wait_for(stand.operations.list(EVERYTHING, 3, after))
        found += [(one.queue_id, one.number) for one in page.entries]
        if not page.after:
            break
        queue_id, _, place = page.after.partition(":")
        after = queue_id, int(place)
    assert found == [(f"A{message}", number) for message in range(5) for number in (0, 1)]
    chosen = wait_for(stand.operations.list(Selection(recipient="two@box.test", reason="eicar"), 10)).entries
    assert [one.queue_id for one in chosen] == [f"A{message}" for message in range(5)]
    # A condition that is about other states finds nothing of them here.
    assert wait_for(stand.operations.list(Selection(ids=("b",)), 10)).entries == ()
    with pytest.raises(ValueError, match="not in quarantine"):
        wait_for(stand.operations.list(Selection(state="queued"), 10))


def test_a_message_is_shown_with_its_evidence(stand: QuarantineStand) -> None:
    stand.add("A", "one@box.test", "two@box.test", original=ORIGINAL, edits=(AddHeader("X-Spam", "yes"),))
    shown = wait_for(stand.operations.show("a"))
    assert shown is not None
    assert [(step.filter, step.verdict, step.reason) for step in shown.steps] == [
        ("av", "quarantine", "has found Eicar"),
        ("dmarc", "quarantine", "p=quarantine"),
    ]
    assert shown.facts == ("clamav.found", "spf.fail")
    assert shown.has_original
    assert shown.message.edits == ("add at the top: X-Spam: yes",)
    assert shown.message.text == "the text\r\n"
    assert [one.recipient for one in shown.entries] == ["one@box.test", "two@box.test"]


@pytest.mark.parametrize("queue_id", ["B", "NONE", "", "../A", "A\0", "A' OR 1=1 --", "ä", "\udcff"])
def test_what_is_not_in_quarantine_is_not_shown(stand: QuarantineStand, queue_id: str) -> None:
    stand.add("A")
    stand.add("B", reason="")
    try:
        assert wait_for(stand.operations.show(queue_id)) is None
    except SpoolError:
        assert not queue_id.isascii()
    assert stand.ids() == ["A", "B"]


@pytest.mark.parametrize(
    ("reason", "name"),
    [
        ("has found Eicar", "av"),
        ("p=quarantine", "dmarc"),
        ("rspamd: no answer within 10 s", "rspamd"),
        ("rspamd2: no answer", ""),
        ("asked again, av: Eicar: not av", "av"),
        ("says asked again, av: x", ""),
        ("refused: 550 5.7.1 No (has found Eicar)", "av"),
        ("refused: 550 5.7.1 No (something else)", ""),
        ("", ""),
        ("shadow", ""),
        ("x" * 1500, "long"),
    ],
)
def test_whose_decision_it_was(reason: str, name: str) -> None:
    steps = (
        TraceStep("message", "other", "continue", "has found Eicar"),
        TraceStep("message", "shadow", "quarantine", "shadow", enforced=False),
        TraceStep("message", "av", "quarantine", "has found Eicar"),
        TraceStep("message", "dmarc", "quarantine", "p=quarantine"),
        TraceStep("message", "rspamd", "failure", "no answer within 10 s (on_failure: quarantine)"),
        TraceStep("message", "long", "quarantine", "x" * 1000),
    )
    assert decided_by(Kept(steps=steps), reason) == name


# -- release


def test_it_goes_to_the_recipient_it_was_asked_for(stand: QuarantineStand) -> None:
    stand.add("A", "one@box.test", "two@box.test", "three@box.test")
    stand.add("B", "two@box.test")
    done = released(stand, "A", recipient="two@box.test", by="recipient two@box.test by link")
    assert (done.matched, done.released, done.copies, done.still_objected) == (1, 1, (), ())
    views = wait_for(stand.spool.view(Selector(), 10))
    assert [(one.queue_id, one.recipient, one.state) for one in views] == [
        ("A", "one@box.test", "quarantined"),
        ("A", "two@box.test", "queued"),
        ("A", "three@box.test", "quarantined"),
        ("B", "two@box.test", "quarantined"),
    ]
    (event,) = stand.events.of(OperatorActed)
    assert (event.action, event.queue_id, event.recipients) == ("release", "A", ("two@box.test",))
    assert event.by == "recipient two@box.test by link"
    assert "look" in stand.relay.told
    (lease,) = wait_for(stand.spool.lease(10, START + 600))
    assert lease.content.read() == DATA


def test_what_is_held_or_queued_is_not_released_with_it(stand: QuarantineStand) -> None:
    stand.add("A", "one@box.test", "two@box.test")
    wait_for(stand.spool.release(Selector(queue_id="A", recipient="two@box.test")))
    wait_for(stand.spool.hold(Selector(queue_id="A", recipient="two@box.test")))
    assert released(stand, "A").released == 1
    assert stand.states() == {"one@box.test": "queued", "two@box.test": "held"}


def test_it_is_released_once(stand: QuarantineStand) -> None:
    stand.add("A")
    assert [released(stand, "A").released for _ in range(3)] == [1, 0, 0]
    assert len(stand.events.of(OperatorActed)) == 1


# -- release with another look


def test_what_filters_still_object_to_stays_and_says_why(stand: QuarantineStand) -> None:
    stand.add("A", "bad@box.test", "good@box.test")
    stand.add("B", "late@box.test")
    stand.rescan.says = {"bad@box.test": NO, "late@box.test": UNKNOWN}
    done = released(stand, "A", "B", scan=True)
    assert (done.matched, done.released) == (3, 1)
    assert [(one.queue_id, one.recipient, one.word, one.filter, one.reason) for one in done.still_objected] == [
        ("A", "bad@box.test", "objects", "av", "has found Eicar"),
        ("B", "late@box.test", "unknown", "av", "no answer within 10 s"),
    ]
    assert stand.states() == {
        "bad@box.test": "quarantined",
        "good@box.test": "queued",
        "late@box.test": "quarantined",
    }
    assert [(event.recipients, event.result) for event in stand.events.of(Rescanned)] == [
        (("bad@box.test",), "objects"),
        (("good@box.test",), "pass"),
        (("late@box.test",), "unknown"),
    ]
    (event,) = stand.events.of(OperatorActed)
    assert (event.recipients, event.detail) == (("good@box.test",), "the content filters were asked again")


def test_what_cannot_be_read_stays_and_keeps_nothing_else(stand: QuarantineStand) -> None:
    stand.add("A", "one@box.test")
    stand.add("B", "two@box.test")
    stand.damage("A")
    found = wait_for(stand.operations.rescan(RescanOrder(everything=True)))
    assert (found.matched, [one.recipient for one in found.passed]) == (2, ["two@box.test"])
    done = wait_for(stand.operations.release(ReleaseOrder(everything=True)))
    assert (done.matched, done.released) == (2, 1)
    for (told,) in (found.objections, done.still_objected):
        assert (told.queue_id, told.word, "cannot be read" in told.reason) == ("A", "unknown", True)
    assert stand.states() == {"one@box.test": "quarantined", "two@box.test": "queued"}


def test_only_those_meant_are_asked_about(stand: QuarantineStand) -> None:
    stand.add("A", "one@box.test", "two@box.test")
    released(stand, "A", recipient="two@box.test", scan=True)
    ((_, transaction, _, _),) = stand.rescan.asked
    assert [str(one.address) for one in transaction.recipients] == ["two@box.test"]


def test_the_original_is_what_is_scanned_where_it_is_to_go(stand: QuarantineStand) -> None:
    stand.add("A", original=ORIGINAL)
    stand.rescan.says["bob@box.test"] = NO
    done = released(stand, "A", scan=True, original=True)
    assert (done.released, len(done.still_objected)) == (0, 1)
    assert stand.rescan.asked[0][2] == ORIGINAL
    assert list(stand.spool.incoming.iterdir()) == []
    assert stand.ids() == ["A"]


def test_filters_that_nobody_can_ask_release_nothing(stand: QuarantineStand) -> None:
    stand.add("A")
    stand.operations._review = None
    for order in (ReleaseOrder(ids=("A",), scan=True), ReleaseOrder(everything=True, scan=True)):
        with pytest.raises(ValueError, match="only while the gateway runs"):
            wait_for(stand.operations.release(order))
    with pytest.raises(ValueError, match="only while the gateway runs"):
        wait_for(stand.operations.rescan(RescanOrder(everything=True)))
    assert stand.states() == {"bob@box.test": "quarantined"}
    assert released(stand, "A").released == 1
    assert len(stand.events.of(OperatorActed)) == 1


# -- what came, and copies


def test_what_came_is_sent_byte_for_byte(stand: QuarantineStand) -> None:
    edits = (
        AddHeader("Received", "from x"),
        RemoveHeader("Content-Type"),
        AddHeader("Content-Type", "text/plain", at_end=True),
        AddHeader("MIME-Version", "1.0", at_end=True),
        RenameHeader("X-Old", "Content-Description"),
    )
    stand.add("A", "one@box.test", "two@box.test", original=ORIGINAL, edits=edits)
    done = released(stand, "A", recipient="one@box.test", original=True, by="token desk")
    (new,) = done.copies
    assert (done.matched, done.released) == (1, 1)
    envelope, data = stand.content(new)
    assert data == ORIGINAL
    assert envelope.edits == (AddHeader("Received", "from x"),)  # what belongs to the other body is not done to this
    assert [(str(one.address), one.quarantine) for one in envelope.recipients] == [("one@box.test", "")]
    assert (str(envelope.sender), envelope.received, envelope.kept) == ("ann@client.test", START, None)
    assert stand.states() == {"one@box.test": "queued", "two@box.test": "quarantined"}
    assert stand.content("A")[1] == DATA
    (event,) = stand.events.of(OperatorActed)
    assert (event.action, event.queue_id, event.by) == ("release", "A", "token desk")
    assert new in event.detail
    (accepted,) = stand.events.of(MessageAccepted)
    assert (accepted.queue_id, accepted.split_from) == (new, "A")
    (lease,) = wait_for(stand.spool.lease(10, START + 600))
    assert (lease.envelope.queue_id, lease.content.read()) == (new, ORIGINAL)


def test_what_was_not_changed_goes_as_it_is(stand: QuarantineStand) -> None:
    stand.add("A")
    done = released(stand, "A", original=True)
    assert (done.released, done.copies) == (1, ())
    assert stand.ids() == ["A"]


def test_an_original_that_is_gone_keeps_it_where_it_is(stand: QuarantineStand) -> None:
    stand.add("A", original=ORIGINAL)
    wait_for(stand.originals.remove(["A"]))
    done = released(stand, "A", original=True)
    assert (done.released, done.copies) == (0, ())
    assert "original is not there any more" in done.still_objected[0].reason
    assert stand.states() == {"bob@box.test": "quarantined"}
    assert released(stand, "A").released == 1  # what there is can go


def test_a_spool_that_takes_nothing_loses_nothing(stand: QuarantineStand) -> None:
    stand.add("A", original=ORIGINAL)
    record = stand.spool.record

    def refuse(*_: object) -> Deferred[Any]:
        raise SpoolError("the disk is full")

    stand.spool.record = refuse  # type: ignore[method-assign,assignment]
    with pytest.raises(SpoolError):
        released(stand, "A", original=True)
    stand.spool.record = record  # type: ignore[method-assign]
    assert stand.states() == {"bob@box.test": "quarantined"}
    assert stand.events.of(OperatorActed) == []
    assert list(stand.spool.incoming.iterdir()) == []
    (entry,) = wait_for(stand.operations.list(EVERYTHING, 10)).entries
    assert entry.reason == NO.reason
    assert len(released(stand, "A", original=True).copies) == 1  # and can be tried again


def test_a_commit_that_fails_leaves_nothing_and_can_be_tried_again(stand: QuarantineStand) -> None:
    stand.add("A", original=ORIGINAL)
    insert = stand.spool._store.insert

    def fail(*arguments: Any) -> None:
        insert(*arguments)
        raise sqlite3.IntegrityError("no")

    stand.spool._store.insert = fail  # type: ignore[method-assign,assignment]
    with pytest.raises(SpoolError):
        released(stand, "A", original=True)
    stand.spool._store.insert = insert  # type: ignore[method-assign]
    assert stand.states() == {"bob@box.test": "quarantined"}
    assert stand.ids() == ["A"]
    assert [*stand.spool.incoming.iterdir(), *stand.spool._store.contents.iterdir()] == []
    (new,) = released(stand, "A", original=True).copies
    assert stand.ids() == [new]


@pytest.mark.parametrize("change", ["release", "delete"])
def test_whoever_comes_between_has_it_or_has_not(stand: QuarantineStand, change: str) -> None:
    stand.add("A", "one@box.test", "two@box.test", original=ORIGINAL)
    record = stand.spool.record

    async def between(*arguments: Any) -> None:
        await getattr(stand.spool, change)(Selector(queue_id="A", state="quarantined"))
        await record(*arguments)

    stand.spool.record = between  # type: ignore[method-assign,assignment]
    done = released(stand, "A", recipient="one@box.test", original=True)
    recipients = [one.recipient for one in wait_for(stand.spool.view(Selector(), 10))]
    assert (done.released, recipients.count("one@box.test")) == (1, 1)


def test_what_somebody_else_has_let_go_meanwhile_is_not_counted(stand: QuarantineStand) -> None:
    stand.add("A", "one@box.test", "two@box.test", original=ORIGINAL)
    waiting: list[Deferred[None]] = []

    async def slowly(call: Callable[[], Any], /) -> Any:
        waiting.append(Deferred())
        await waiting[-1]
        return call()

    stand.originals._in_thread = slowly
    order = ReleaseOrder(ids=("A",), original=True)
    done = Deferred.fromCoroutine(stand.operations.release(order))
    wait_for(stand.spool.release(Selector(queue_id="A", recipient="one@box.test")))
    waiting[0].callback(None)
    found = wait_for(done)
    assert (found.matched, found.released, len(found.copies)) == (2, 1, 1)
    recipients = [(one.queue_id, one.recipient) for one in wait_for(stand.spool.view(Selector(), 10))]
    assert set(recipients) == {(found.copies[0], "two@box.test"), ("A", "one@box.test")}


def test_what_came_is_not_kept_back_again(stand: QuarantineStand) -> None:
    stand.add("A", original=ORIGINAL)
    released(stand, "A", original=True)
    stand.rescan.says["bob@box.test"] = NO
    wait_for(stand.operations.rescan(RescanOrder(everything=True, queue=True)))
    assert stand.states() == {"bob@box.test": "queued"}


def test_a_double_click_sends_it_once(stand: QuarantineStand) -> None:
    stand.add("A", "one@box.test", "two@box.test", original=ORIGINAL)
    waiting: list[Deferred[None]] = []

    async def slowly(call: Callable[[], Any], /) -> Any:
        waiting.append(Deferred())
        await waiting[-1]
        return call()

    stand.originals._in_thread = slowly
    order = ReleaseOrder(ids=("A",), recipient="one@box.test", original=True)
    both = [Deferred.fromCoroutine(stand.operations.release(order)) for _ in range(2)]
    assert len(waiting) == 2
    for one in waiting:
        one.callback(None)
    found = wait_for(gatherResults(both))
    assert sorted(len(one.copies) for one in found) == [0, 1]
    assert [one.recipient for one in wait_for(stand.spool.view(Selector(), 10))].count("one@box.test") == 1
    assert list(stand.spool.incoming.iterdir()) == []


@pytest.mark.parametrize("original", [False, True])
def test_a_copy_for_an_analyst_leaves_it_in_quarantine(stand: QuarantineStand, original: bool) -> None:
    stand.add("A", "one@box.test", "two@box.test", original=ORIGINAL, edits=(RemoveHeader("Content-Type"),))
    done = released(stand, "A", to="Lab@analysts.test", original=original)
    (new,) = done.copies  # one for the message
    assert (done.matched, done.released) == (2, 0)
    envelope, data = stand.content(new)
    assert data == (ORIGINAL if original else DATA)
    assert envelope.edits == (() if original else (RemoveHeader("Content-Type"),))
    assert envelope.sender == NULL_PATH
    assert [(str(one.address), one.notify) for one in envelope.recipients] == [("Lab@analysts.test", ("NEVER",))]
    assert envelope.listener == ""  # it is ours: nobody asks filters about it
    states = stand.states()
    assert (states["one@box.test"], states["two@box.test"]) == ("quarantined", "quarantined")
    (event,) = stand.events.of(OperatorActed)
    assert (event.action, event.queue_id, event.recipients) == ("copy", "A", ("Lab@analysts.test",))
    assert new in event.detail


def test_a_copy_of_large_content_takes_nothing_from_the_spool(stand: QuarantineStand) -> None:
    stand.add("A", original=ORIGINAL)
    released(stand, "A", original=True)
    (new,) = stand.ids()
    wait_for(stand.spool.quarantine(Selector(queue_id=new), "again"))
    assert stand.content(new)[1] == ORIGINAL  # a file of the spool's own
    (copy,) = released(stand, new, to="lab@analysts.test").copies
    assert stand.content(new)[1] == stand.content(copy)[1] == ORIGINAL


def test_an_address_to_which_nothing_can_go_is_refused_before_anything_is_done(stand: QuarantineStand) -> None:
    def nowhere(recipient: Address, sender: Address) -> str:
        raise ValueError("no route")

    stand.add("A")
    stand.office.sending._route_of = nowhere
    with pytest.raises(ValueError, match="no route"):
        released(stand, "A", to="lab@analysts.test")
    assert stand.ids() == ["A"]


# -- deletion and another look


def test_what_is_deleted_takes_its_original_along(stand: QuarantineStand) -> None:
    stand.add("A", "one@box.test", "two@box.test", original=ORIGINAL)
    stand.add("B", "one@box.test", reason="")
    done = wait_for(stand.operations.delete(DeleteOrder(recipient="one@box.test", by="token desk")))
    assert (done.matched, done.deleted) == (1, 1)  # what waits in the queue stays
    assert wait_for(stand.originals.names()) == ["A"]
    (event,) = stand.events.of(OperatorActed)
    assert (event.action, event.recipients, event.by) == ("delete", ("one@box.test",), "token desk")
    wait_for(stand.operations.delete(DeleteOrder(everything=True)))
    assert stand.ids() == ["B"]
    assert wait_for(stand.originals.names()) == []


def test_another_look_tells_and_changes_nothing(stand: QuarantineStand) -> None:
    stand.add("A", "bad@box.test", "good@box.test")
    stand.add("B", reason="")
    stand.rescan.says["bad@box.test"] = NO
    found = wait_for(stand.operations.rescan(RescanOrder(everything=True)))
    assert (found.matched, found.quarantined) == (2, 0)
    assert [(one.queue_id, one.recipient) for one in found.passed] == [("A", "good@box.test")]
    assert [(one.recipient, one.filter) for one in found.objections] == [("bad@box.test", "av")]
    assert stand.states()["good@box.test"] == "quarantined"
    assert len(stand.events.of(Rescanned)) == 2


def test_another_look_at_the_queue_keeps_back_what_is_objected_to(stand: QuarantineStand) -> None:
    stand.add("A", "bad@box.test", "good@box.test", reason="")
    stand.add("B", "kept@box.test")
    stand.add("C", "own@box.test", reason="", listener="")
    stand.rescan.says = dict.fromkeys(("bad@box.test", "kept@box.test", "own@box.test"), NO)
    found = wait_for(stand.operations.rescan(RescanOrder(everything=True, queue=True)))
    assert (found.matched, found.quarantined) == (2, 1)
    assert stand.states() == {
        "bad@box.test": "quarantined",
        "good@box.test": "queued",
        "kept@box.test": "quarantined",
        "own@box.test": "queued",
    }


# -- slips


@pytest.mark.parametrize("kind", [ReleaseOrder, DeleteOrder, RescanOrder])
def test_an_empty_selection_never_means_everything(stand: QuarantineStand, kind: Any) -> None:
    stand.add("A")
    operation: Callable[[Any], Awaitable[object]] = {
        ReleaseOrder: stand.operations.release,
        DeleteOrder: stand.operations.delete,
        RescanOrder: stand.operations.rescan,
    }[kind]  # type: ignore[assignment]  # each takes its own
    with pytest.raises(ValueError, match="say which entries"):
        wait_for(operation(kind(by="somebody")))
    slips: list[dict[str, object]] = [
        {"ids": []},
        {"ids": [""]},
        {"sender": ""},
        {"recipient": ""},
        {"everything": True, "ids": ["A"]},
    ]
    for slip in slips:
        with pytest.raises(ValidationError):
            kind.model_validate(slip)
    for state in ("queued", "held", "leased", "set-aside"):
        with pytest.raises(ValidationError, match="not in quarantine"):
            kind(everything=False, state=state)
    assert stand.states() == {"bob@box.test": "quarantined"}
    assert stand.events.events == []


@pytest.mark.parametrize(
    "given", [{"to": ""}, {"to": "nobody"}, {"to": "<>"}, {"to": "a@b.test", "scan": True}, {"by": "x" * 201}, {"x": 1}]
)
def test_what_cannot_be_meant_is_refused(given: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ReleaseOrder.model_validate({"ids": ["A"], **given})


@given(
    ids=st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=3),
    recipient=st.text(max_size=20),
    original=st.booleans(),
)
def test_hostile_ids_release_nothing(ids: list[str], recipient: str, original: bool) -> None:
    ids = [one for one in ids if one.upper() != "KEPT"] or ["x"]
    try:
        more = {"recipient": recipient} if recipient else {}
        order = ReleaseOrder.model_validate({"ids": ids, "original": original, **more})
    except ValidationError:
        return
    stand = _shared()
    try:
        done = wait_for(stand.operations.release(order))
    except (SpoolError, ValueError):
        pass
    else:
        assert done.matched == 0
    assert stand.states() == {"bob@box.test": "quarantined"}


_stands: list[QuarantineStand] = []


def _shared() -> QuarantineStand:
    return _stands[0]


@pytest.fixture(autouse=True, scope="module")
def _one_stand(tmp_path_factory: pytest.TempPathFactory) -> Any:
    _stands.append(QuarantineStand(tmp_path_factory.mktemp("hostile")))
    _stands[0].add("KEPT", original=ORIGINAL)
    yield
    _stands.clear()


# -- what survives


def test_it_survives_the_end_of_the_process_with_its_evidence(tmp_path: Path) -> None:
    steps = (TraceStep("message", "av", "quarantine", "a virus", 0.25, found="clamav=found Eicar"),)
    kept = Kept(steps=steps, facts=("clamav.found", "spf.fail"), has_original=True)
    plain = spool_envelope(3)
    one = replace(
        plain,
        listener="mx",
        kept=kept,
        recipients=tuple(replace(each, quarantine="a virus" if each.number < 2 else "") for each in plain.recipients),
    )
    bench = Bench(tmp_path / "spool", min_free=0)
    lease = bench.wait(bench.spool.accept(one, Content(b"hello"), one.received + 60))
    assert [each.number for each in lease.recipients] == [2]
    # What the system does for a process that is killed: nothing is written any more, and its lock is free.
    bench.spool._jobs.put(None)
    bench.spool._thread.join(60)
    bench.spool._reader.close()
    bench.spool._store.database.close()
    bench.spool._unlock()
    again = Bench(tmp_path / "spool", min_free=0)
    again.wait(again.spool.sweep())
    found = again.wait(again.spool.content(one.queue_id))
    assert found is not None
    assert (found[0].kept, found[0].listener, found[1].read()) == (kept, "mx", b"hello")
    views = again.wait(again.spool.view(Selector(), 10))
    assert [(view.state, view.waits) for view in views[:2]] == [("quarantined", "a virus")] * 2
    assert again.wait(again.spool.release(Selector(queue_id=one.queue_id, recipient="user1@d1.test"))) == 1
    leases = again.wait(again.spool.lease(10, one.received + 600))
    assert sorted(each.number for lease in leases for each in lease.recipients) == [1, 2]
    again.wait(again.spool.close())
