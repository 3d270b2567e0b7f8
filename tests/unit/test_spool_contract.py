"""What every spool does, the one in the database and the one in memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from twisted.internet.task import Clock

from mailgate.address import Address
from mailgate.envelope import Envelope, EnvelopeRecipient, MailParameters
from mailgate.interfaces import (
    Destination,
    EntryView,
    ISpool,
    Lease,
    Outcome,
    OutcomeKind,
    Return,
    Selector,
    SpoolError,
    Summary,
    Suspension,
)
from mailgate.interfaces.spool import LEASED_AT_ONCE, TURN_LIFE
from mailgate.message import Content
from mailgate.reply import Reply
from mailgate.testing import EventRecorder, MemorySpool, wait_for
from mailgate.testing.simulated import SimulatedSpool

OK = Reply.of(250, "2.0.0", "ok")
LATER = Reply.of(451, "4.7.1", "Greylisted, try again")
START = 1_800_000_000.0


class Bench:
    """A spool on a clock, and mail for it."""

    def __init__(self, make: Callable[[Clock], Any]) -> None:
        self.clock = Clock()
        self.clock.advance(START)
        self.spool = make(self.clock)
        self._number = 0

    def accept(self, *addresses: str, sender: str = "ann@client.test", route: str = "out", **parameters: Any) -> Lease:
        self._number += 1
        local, _, domain = sender.partition("@")
        envelope = Envelope(
            queue_id=f"Q{self._number:04}",
            sender=Address(local, domain),
            recipients=tuple(
                EnvelopeRecipient(number, Address(*address.split("@")), route)
                for number, address in enumerate(addresses or ("bob@d.test",))
            ),
            received=self.clock.seconds(),
            size=5,
            parameters=MailParameters(**parameters),
        )
        lease: Lease = wait_for(self.spool.accept(envelope, Content(b"hello"), self.clock.seconds() + 60))
        return lease

    def queue(self, *addresses: str, **how: Any) -> str:
        """Accept it, and give it back."""
        lease = self.accept(*addresses, **how)
        self.give_back(lease)
        return lease.envelope.queue_id

    def give_back(self, *leases: Lease, **how: Any) -> None:
        wait_for(self.spool.release_leases([Return(lease, **how) for lease in leases]))

    def defer(self, lease: Lease, wait: float, **facts: Any) -> None:
        outcomes = [
            Outcome(one, OutcomeKind.DEFERRED, LATER, "mx", self.clock.seconds() + wait, **facts)
            for one in lease.recipients
        ]
        wait_for(self.spool.record(lease, outcomes))

    def lease(self, limit: int = 100, full: Any = ()) -> list[Lease]:
        return [*wait_for(self.spool.lease(limit, self.clock.seconds() + 60, full))]

    def in_turn(self, domain: str = "d.test", limit: int = 100, route: str = "out", **how: Any) -> list[Lease]:
        here = Destination(route, domain)
        return [*wait_for(self.spool.lease_in_turn(here, limit, self.clock.seconds() + 60, **how))]

    def view(self, **selector: Any) -> list[EntryView]:
        return [*wait_for(self.spool.view(Selector(**selector), 1000))]

    def ids(self, **selector: Any) -> list[str]:
        return [one.queue_id for one in self.view(**selector)]

    def states(self) -> list[str]:
        return [one.state for one in self.view()]


def ids(leases: list[Lease]) -> list[str]:
    return [lease.envelope.queue_id for lease in leases]


@pytest.fixture(params=["sqlite", "memory"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    if request.param == "memory":
        return Bench(MemorySpool)
    return Bench(lambda clock: SimulatedSpool(tmp_path / "spool", clock, events=EventRecorder()))


OUT_D = Destination("out", "d.test")


def test_it_provides_the_interface(bench: Bench) -> None:
    assert ISpool.providedBy(bench.spool)


# -- several messages as one


def drafts(*names: str, start: int = 0, **first: Any) -> list[tuple[Envelope, Content]]:
    return [
        (
            Envelope(
                queue_id=f"P{start + number}",
                sender=Address("ann", "client.test"),
                recipients=(
                    EnvelopeRecipient(0, Address(name, "d.test"), "out"),
                    EnvelopeRecipient(1, Address("kept", "d.test"), "out", quarantine="odd" if number else ""),
                ),
                received=START,
                size=5,
                **(first if not number else {}),
            ),
            Content(name.encode()),
        )
        for number, name in enumerate(names)
    ]


def test_several_are_taken_as_one(bench: Bench) -> None:
    leases = wait_for(bench.spool.accept_all(drafts("a", "b", "c"), bench.clock.seconds() + 60))
    assert [(one.envelope.queue_id, one.content.read(), len(one.recipients)) for one in leases] == [
        ("P0", b"a", 2),
        ("P1", b"b", 1),
        ("P2", b"c", 1),
    ]
    assert bench.states() == ["leased", "leased", "leased", "quarantined", "leased", "quarantined"]
    later = drafts("d", start=3, parameters=MailParameters(release_at=START + 3600))
    (lease,) = wait_for(bench.spool.accept_all(later[:1], bench.clock.seconds() + 60))
    assert lease.recipients == ()
    assert wait_for(bench.spool.accept_all([], bench.clock.seconds() + 60)) == []


# -- destinations that are full


def test_what_goes_to_a_full_destination_waits_for_its_turn_and_the_rest_is_leased(bench: Bench) -> None:
    full = [bench.queue("a@d.test") for _ in range(3)]
    free = bench.queue("b@e.test")
    assert ids(bench.lease(full={OUT_D})) == [free]
    assert bench.lease() == []
    assert wait_for(bench.spool.waiting()) == [OUT_D]
    entries = bench.view(domain="d.test")
    assert [(one.queue_id, one.state, one.waits) for one in entries] == [
        (queue_id, "queued", "waits for its turn at d.test") for queue_id in full
    ]
    assert bench.ids(state="queued") == full
    assert ids(bench.in_turn(limit=2)) == full[:2]
    assert ids(bench.in_turn(limit=2)) == full[2:]
    assert wait_for(bench.spool.waiting()) == []
    assert bench.in_turn() == []


def test_all_that_goes_by_a_route_has_its_turn_in_one_order(bench: Bench) -> None:
    queued = [bench.accept(f"a@{domain}.test") for domain in "cabcab"]
    other = bench.accept("a@a.test", route="other")
    for place, lease in enumerate([*queued, other]):
        bench.give_back(lease, due=bench.clock.seconds() + (place * 5) % 6, in_turn=True)
    expected = [lease.envelope.queue_id for _, lease in sorted(enumerate(queued), key=lambda one: (one[0] * 5) % 6)]
    assert ids(bench.in_turn("", limit=4)) == expected[:4]
    assert ids(bench.in_turn("", limit=4)) == expected[4:]
    assert ids(bench.in_turn("", route="other")) == [other.envelope.queue_id]


@pytest.mark.parametrize("domain", ["d.test", ""])
def test_what_goes_on_from_a_source_that_is_full_stays(bench: Bench, domain: str) -> None:
    kept: dict[str, str] = {}
    for source in ("one", "two", "", "one", "two", ""):
        lease = bench.accept("a@d.test")
        bench.defer(lease, 0.0, source=source)
        (again,) = bench.lease()
        bench.give_back(again, due=bench.clock.seconds() + len(kept), in_turn=True)
        kept[lease.envelope.queue_id] = source
    ours = [queue_id for queue_id, source in kept.items() if source != "two"]
    assert sorted(ids(bench.in_turn(domain, 3, without=("two", "three")))) == ours[:3]
    assert ids(bench.in_turn(domain, without=("two", "three"))) == ours[3:]
    assert bench.in_turn(domain, without=("two",)) == []
    assert ids(bench.in_turn(domain)) == [queue_id for queue_id, source in kept.items() if source == "two"]


def test_a_limit_counts_what_is_leased_only(bench: Bench) -> None:
    for _ in range(5):
        bench.queue("a@d.test")
    free = [bench.queue("b@e.test") for _ in range(5)]
    assert bench.lease(0) == bench.lease(0, full={OUT_D}) == []
    found = bench.lease(3, full=[OUT_D])
    assert ids(found) == free[:3]
    assert ids(bench.lease(3, full=[OUT_D])) == free[3:]


def test_many_that_wait_do_not_hide_the_one_behind_them(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailgate.spool.leasing._PARKED_AT_ONCE", 3)
    for _ in range(40):
        bench.queue("a@d.test")
    last = bench.queue("b@e.test")
    assert ids(bench.lease(2, full={OUT_D})) == [last]
    assert bench.lease(2, full={OUT_D}) == []
    assert len(bench.in_turn()) == 40


def test_a_route_is_part_of_the_destination(bench: Bench) -> None:
    bench.queue("a@d.test")
    other = bench.queue("a@d.test", route="in")
    assert ids(bench.lease(full={OUT_D})) == [other]
    assert bench.in_turn(route="in") == []
    assert len(bench.in_turn()) == 1


def test_whoever_forgets_those_in_their_turns_loses_nothing(bench: Bench) -> None:
    queue_id = bench.queue("a@d.test")
    assert bench.lease(full={OUT_D}) == []
    due = wait_for(bench.spool.next_due())
    assert due is not None
    assert due == pytest.approx(START + TURN_LIFE)
    bench.clock.advance(TURN_LIFE - 1)
    assert bench.lease() == []
    bench.clock.advance(1)
    # Where the destination is full still, they keep their place.
    assert bench.lease(full={OUT_D}) == []
    younger = bench.queue("a@d.test")
    assert bench.lease(full={OUT_D}) == []
    assert ids(bench.in_turn()) == [queue_id, younger]
    bench.clock.advance(61)
    assert sorted(ids(bench.lease())) == [queue_id, younger]


def test_the_least_tag_comes_first_and_higher_priority_before_all(bench: Bench) -> None:
    late, early, middle = bench.accept(), bench.accept(), bench.accept()
    urgent, idle = bench.accept(priority=3), bench.accept(priority=-3)
    bench.give_back(late, in_turn=True, due=START + 900)
    bench.give_back(early, in_turn=True)
    bench.give_back(middle, in_turn=True, due=START + 30)
    bench.give_back(urgent, in_turn=True, due=START + 5000)
    bench.give_back(idle, in_turn=True, due=START)
    assert bench.lease() == []
    names = {lease.envelope.queue_id: name for name, lease in locals().items() if isinstance(lease, Lease)}
    assert [names[one] for one in ids(bench.in_turn())] == ["urgent", "early", "middle", "late", "idle"]


def test_the_recipients_of_one_message_are_spread_over_the_line(bench: Bench) -> None:
    long = bench.queue(*(f"u{number}@d.test" for number in range(50)))
    assert bench.lease(full={OUT_D}) == []
    bench.clock.advance(1)
    single = bench.queue("a@d.test")
    assert bench.lease(full={OUT_D}) == []
    first = bench.in_turn(limit=22)
    assert ids(first) == [long, single]
    assert [one.number for one in first[0].recipients] == list(range(21))


def test_a_turn_is_held_retried_deleted_as_what_waits(bench: Bench) -> None:
    held, retried, deleted = (bench.queue("a@d.test") for _ in range(3))
    assert bench.lease(full={OUT_D}) == []
    assert wait_for(bench.spool.hold(Selector(queue_id=held))) == 1
    assert wait_for(bench.spool.retry(Selector(queue_id=retried))) == 1
    assert [one.queue_id for one in wait_for(bench.spool.delete(Selector(queue_id=deleted)))] == [deleted]
    assert [(one.queue_id, one.state) for one in bench.view()] == [(held, "held"), (retried, "queued")]
    assert ids(bench.lease()) == [retried]
    assert bench.in_turn() == []


# -- leases


def test_a_message_for_very_many_is_due_piece_by_piece(bench: Bench) -> None:
    addresses = [f"u{number}@d.test" for number in range(LEASED_AT_ONCE + 30)]
    lease = bench.accept(*addresses)
    assert lease.recipients == ()
    assert set(bench.states()) == {"queued"}
    first, second = bench.lease(LEASED_AT_ONCE), bench.lease(LEASED_AT_ONCE)
    assert [len(one.recipients) for one in (*first, *second)] == [LEASED_AT_ONCE, 30]
    assert {str(one.address) for lease in (*first, *second) for one in lease.recipients} == set(addresses)
    assert len(bench.accept(*addresses[:LEASED_AT_ONCE]).recipients) == LEASED_AT_ONCE


def test_what_an_attempt_found_out_is_kept(bench: Bench) -> None:
    lease = bench.accept("a@d.test", "b@d.test")
    first, second = lease.recipients
    deferred = Outcome(
        second, OutcomeKind.DEFERRED, LATER, "mx", START + 5, site="mx.d.test", source="a1", category="greylisted"
    )
    wait_for(bench.spool.record(lease, [Outcome(first, OutcomeKind.DELIVERED, OK), deferred]))
    (entry,) = bench.view()
    assert (entry.site, entry.source, entry.category) == ("mx.d.test", "a1", "greylisted")
    assert (entry.last_reply, entry.waits, entry.next_attempt) == (f"mx: {LATER}", "", START + 5)
    bench.clock.advance(5)
    (again,) = bench.lease()
    assert dict(again.sources) == {1: "a1"}
    bench.defer(again, 5)
    bench.clock.advance(5)
    assert dict(bench.lease()[0].sources) == {}


def test_what_is_given_back_says_why_and_until_when(bench: Bench) -> None:
    lease = bench.accept()
    bench.give_back(lease, due=START + 100, waits="the source a1 has sent what it may today")
    (entry,) = bench.view()
    assert (entry.waits, entry.next_attempt) == ("the source a1 has sent what it may today", START + 100)
    assert bench.lease() == []
    bench.clock.advance(100)
    (lease,) = bench.lease()
    assert [one.waits for one in bench.view()] == [""]
    bench.give_back(lease)
    assert [(one.waits, one.next_attempt) for one in bench.view()] == [("", START + 100)]


@pytest.mark.parametrize("stale", ["give back", "in turn", "defer"])
def test_who_has_lost_a_lease_cannot_end_the_next(bench: Bench, stale: str) -> None:
    lost = bench.accept()
    bench.clock.advance(60)
    (newer,) = bench.lease()
    if stale == "defer":
        bench.defer(lost, 5)
    else:
        bench.give_back(lost, in_turn=stale == "in turn")
    assert [(one.state, one.attempts) for one in bench.view()] == [("leased", 0)]
    assert bench.lease() == bench.in_turn() == []
    bench.defer(newer, 5)
    assert [(one.state, one.attempts) for one in bench.view()] == [("queued", 1)]
    # What is final is so whoever says it, and saying it twice does no harm.
    for _ in range(2):
        wait_for(bench.spool.record(lost, [Outcome(lost.recipients[0], OutcomeKind.DELIVERED, OK)]))
        assert bench.view() == []
    bench.give_back(lost, newer)
    assert bench.view() == []


def test_an_operator_leases_what_is_chosen_and_leaves_it_as_it_was(bench: Bench) -> None:
    queued, held, leased = bench.queue("a@d.test"), bench.queue("b@d.test"), bench.accept("c@d.test")
    later = bench.accept("d@d.test", release_at=START + 1000).envelope.queue_id
    wait_for(bench.spool.hold(Selector(queue_id=held)))
    turn = bench.queue("e@e.test")
    assert ids(bench.lease(full={Destination("out", "e.test"), OUT_D})) == []

    def chosen(limit: int = 100, **selector: Any) -> list[Lease]:
        until = bench.clock.seconds() + 60
        return [*wait_for(bench.spool.lease_selected(Selector(**selector), limit, until))]

    leases = chosen()
    assert ids(leases) == [queued, held, later, turn]
    assert chosen() == []
    bench.give_back(*leases)
    before = [(queued, "queued"), (held, "held"), (leased.envelope.queue_id, "leased"), (later, "queued")]
    assert [(one.queue_id, one.state) for one in bench.view()] == [*before, (turn, "queued")]
    assert [one.next_attempt for one in bench.view(queue_id=later)] == [START + 1000]
    assert ids(chosen(1, domain="d.test")) == [queued]
    assert ids(chosen(state="held")) == [held]


def test_quarantine_outlives_a_lease_that_changes_nothing(bench: Bench) -> None:
    envelope = bench.accept().envelope
    bad = replace(envelope, queue_id="QBAD", recipients=(replace(envelope.recipients[0], quarantine="a virus"),))
    lease = wait_for(bench.spool.accept(bad, Content(b"hello"), START + 60))
    assert lease.recipients == ()
    (lease,) = wait_for(bench.spool.lease_selected(Selector(queue_id="QBAD"), 10, START + 60))
    bench.give_back(lease)
    assert [one.state for one in bench.view(queue_id="QBAD")] == ["quarantined"]


@pytest.mark.parametrize("ends", ["given back", "forgotten"])
def test_what_goes_back_into_quarantine_is_there_for_the_reason_it_was(bench: Bench, ends: str) -> None:
    kept = bench.queue("a@d.test")
    wait_for(bench.spool.quarantine(Selector(queue_id=kept), "asked again, av: Eicar"))
    (lease,) = wait_for(bench.spool.lease_selected(Selector(queue_id=kept), 10, bench.clock.seconds() + 60))
    if ends == "given back":
        wait_for(bench.spool.release_leases([Return(lease, waits="something else")]))
    else:
        bench.clock.advance(61)
        wait_for(bench.spool.lease(10, bench.clock.seconds() + 60))
    (view,) = bench.view(queue_id=kept)
    assert (view.state, view.waits) == ("quarantined", "asked again, av: Eicar")


def test_quarantine_tells_since_when_and_why(bench: Bench) -> None:
    envelope = bench.accept().envelope
    first = envelope.recipients[0]
    bad = replace(
        envelope,
        queue_id="QBAD",
        recipients=(replace(first, quarantine="a virus"), replace(first, number=1, address=Address("eve", "e.test"))),
    )
    lease = wait_for(bench.spool.accept(bad, Content(b"hello"), START + 60))
    assert [one.number for one in lease.recipients] == [1]
    bench.clock.advance(5)
    (view,) = bench.view(queue_id="QBAD", state="quarantined")
    assert (view.number, view.waits, view.next_attempt) == (0, "a virus", START)
    assert bench.ids(reason="virus") == ["QBAD"]
    wait_for(bench.spool.reroute(Selector(queue_id="QBAD", state="quarantined"), "other"))
    (view,) = bench.view(queue_id="QBAD", state="quarantined")
    assert (view.route, view.waits) == ("other", "a virus")
    assert wait_for(bench.spool.release(Selector(queue_id="QBAD", state="quarantined"))) == 1
    assert wait_for(bench.spool.counts("2027-01-15/released/")) == {"2027-01-15/released/QBAD/0": 1}
    assert next((one.state, one.waits) for one in bench.view(queue_id="QBAD")) == ("queued", "")


def test_what_waits_goes_into_quarantine_and_what_is_leased_stays(bench: Bench) -> None:
    queued, held, turn = bench.queue("a@d.test"), bench.queue("b@d.test"), bench.queue("c@e.test")
    leased = bench.accept("d@d.test").envelope.queue_id
    wait_for(bench.spool.hold(Selector(queue_id=held)))
    (lease,) = wait_for(bench.spool.lease_selected(Selector(queue_id=turn), 1, START + 60))
    bench.give_back(lease, due=START, in_turn=True)
    bench.clock.advance(7)
    gone = wait_for(bench.spool.quarantine(Selector(), "asked again, av: Eicar"))
    assert [(one.queue_id, one.state, one.waits, one.next_attempt) for one in gone] == [
        (one, "quarantined", "asked again, av: Eicar", START + 7) for one in (queued, held, turn)
    ]
    assert {one.queue_id: one.state for one in bench.view()} == {
        queued: "quarantined",
        held: "quarantined",
        turn: "quarantined",
        leased: "leased",
    }
    assert [*wait_for(bench.spool.quarantine(Selector(), "again"))] == []
    assert {one.waits for one in bench.view(state="quarantined")} == {"asked again, av: Eicar"}
    bench.clock.advance(3)
    assert bench.lease() == []
    assert bench.in_turn("e.test") == []


# -- an operator


def test_nobodys_release_from_quarantine_is_undone(bench: Bench) -> None:
    one, other = bench.queue("a@d.test"), bench.queue("b@d.test")
    wait_for(bench.spool.quarantine(Selector(queue_id=one), "av"))
    wait_for(bench.spool.release(Selector(queue_id=one)))
    bench.clock.advance(30 * 86400.0)
    assert [view.queue_id for view in wait_for(bench.spool.quarantine(Selector(), "again"))] == [other]
    assert {view.queue_id: view.state for view in bench.view()} == {one: "queued", other: "quarantined"}


@pytest.mark.parametrize("is_leased", [False, True])
def test_the_time_of_what_is_released_begins_then(bench: Bench, *, is_leased: bool) -> None:
    """Not when it was accepted: it would go back to its sender at the first temporary failure."""
    kept, held, others = bench.queue("a@d.test"), bench.queue("b@d.test"), bench.queue("c@d.test")
    wait_for(bench.spool.quarantine(Selector(queue_id=kept), "av"))
    wait_for(bench.spool.hold(Selector(queue_id=held)))
    bench.clock.advance(30 * 86400.0)
    released, leases = bench.clock.seconds(), []
    for one in (kept, held):
        if is_leased:
            leases += wait_for(bench.spool.lease_selected(Selector(queue_id=one), 1, released + 60))
        wait_for(bench.spool.release(Selector(queue_id=one)))
    bench.give_back(*leases)
    bench.clock.advance(5)
    assert {one.envelope.queue_id: one.since for one in bench.lease()} == {kept: released, held: released, others: 0.0}


def test_a_release_of_what_somebody_has_in_hand_is_not_undone_either(bench: Bench) -> None:
    one = bench.queue("a@d.test")
    wait_for(bench.spool.quarantine(Selector(queue_id=one), "av"))
    leases = wait_for(bench.spool.lease_selected(Selector(queue_id=one), 1, bench.clock.seconds() + 60))
    wait_for(bench.spool.release(Selector(queue_id=one)))
    bench.give_back(*leases)
    assert bench.states() == ["queued"]
    assert [*wait_for(bench.spool.quarantine(Selector(), "again"))] == []
    # What is only held is nobody's release from quarantine.
    held = bench.queue("b@d.test")
    wait_for(bench.spool.hold(Selector(queue_id=held)))
    leases = wait_for(bench.spool.lease_selected(Selector(queue_id=held), 1, bench.clock.seconds() + 60))
    wait_for(bench.spool.release(Selector(queue_id=held)))
    bench.give_back(*leases)
    assert [view.queue_id for view in wait_for(bench.spool.quarantine(Selector(), "again"))] == [held]


def test_another_route_is_the_one_that_counts(bench: Bench) -> None:
    waiting, held, leased = bench.queue("a@d.test"), bench.queue("b@d.test"), bench.accept("c@d.test")
    bench.defer(bench.lease(1)[0], 1000, source="a1")
    wait_for(bench.spool.hold(Selector(queue_id=held)))
    turn = bench.queue("e@e.test")
    assert bench.lease(full={Destination("out", "e.test")}) == []
    assert wait_for(bench.spool.reroute(Selector(), "backup")) == 3
    assert wait_for(bench.spool.reroute(Selector(), "backup")) == 0
    assert [(one.queue_id, one.route, one.state) for one in bench.view()] == [
        (waiting, "backup", "queued"),
        (held, "backup", "held"),
        (leased.envelope.queue_id, "out", "leased"),
        (turn, "backup", "queued"),
    ]
    leases = bench.lease(full={OUT_D, Destination("out", "e.test")})
    assert sorted(ids(leases)) == [waiting, turn]
    assert {one.route for lease in leases for one in lease.recipients} == {"backup"}
    assert [dict(lease.sources) for lease in leases] == [{}, {}]
    shown = wait_for(bench.spool.content(waiting))
    assert shown is not None
    assert [one.route for one in shown[0].recipients] == ["backup"]


def test_selection_by_all_that_is_known(bench: Bench) -> None:
    first, second = bench.accept("Ann@d.test"), bench.accept("bob@e.test", sender="carl@client.test", route="in")
    bench.defer(first, 100, site="mx1.big.example,mx2.big.example", source="a1", category="greylisted")
    bench.give_back(second, due=START + 50, waits="suspended: route in (50% of 100_)")
    one, two = first.envelope.queue_id, second.envelope.queue_id
    assert bench.ids() == [one, two]
    for selector, expected in (
        ({"site": "MX2.big.example"}, [one]),
        ({"site": "mx3.big.example"}, []),
        ({"source": "a1"}, [one]),
        ({"source": "a"}, []),
        ({"reason": "greylisted"}, [one]),
        ({"reason": "TRY AGAIN"}, [one]),
        ({"reason": "50% of 100_"}, [two]),
        ({"reason": "50_ of"}, []),
        ({"reason": "suspended"}, [two]),
        ({"route": "in"}, [two]),
        ({"sender": "carl@CLIENT.test"}, [two]),
        ({"recipient": "ann@d.TEST"}, [one]),
        ({"domain": "D.test", "state": "queued"}, [one]),
        ({"domain": "d.test", "sender": "carl@client.test"}, []),
        ({"domain": "d.test", "site": "big.example", "state": "queued", "reason": "again"}, [one]),
        ({"state": "leased"}, []),
        ({"older_than": 10.0}, []),
    ):
        assert bench.ids(**selector) == expected, selector
    bench.clock.advance(10)
    assert bench.ids(older_than=10.0) == [one, two]
    assert bench.ids(older_than=10.0, queue_id=two) == [two]


def test_groups_are_counted_the_largest_first(bench: Bench) -> None:
    bench.defer(bench.accept("a@d.test", "b@d.test", "c@e.test"), 100, site="s1", category="x")
    bench.clock.advance(5)
    bench.queue("a@d.test", sender="carl@client.test")
    bench.accept("b@f.test")
    held = bench.queue("c@e.test")
    wait_for(bench.spool.hold(Selector(queue_id=held)))
    assert ids(bench.lease(full={OUT_D})) == []

    def summary(by: Any, limit: int = 10, **selector: Any) -> list[Summary]:
        return [*wait_for(bench.spool.summary(by, limit, Selector(**selector)))]

    assert summary("domain") == [
        Summary(key="d.test", recipients=3, due=1, held=0, oldest=START),
        Summary(key="e.test", recipients=2, due=0, held=1, oldest=START),
        Summary(key="f.test", recipients=1, due=0, held=0, oldest=START + 5),
    ]
    assert [one.key for one in summary("domain", 2)] == ["d.test", "e.test"]
    assert [(one.key, one.recipients) for one in summary("sender")] == [
        ("ann@client.test", 5),
        ("carl@client.test", 1),
    ]
    assert [(one.key, one.recipients) for one in summary("site")] == [("", 3), ("s1", 3)]
    assert [(one.key, one.recipients) for one in summary("state")] == [("queued", 4), ("held", 1), ("leased", 1)]
    assert [(one.key, one.recipients) for one in summary("state", domain="d.test")] == [("queued", 3)]
    for by in ("route", "source", "category", "stream"):
        assert sum(one.recipients for one in summary(by)) == 6
    bench.clock.advance(100)
    assert next((one.key, one.due) for one in summary("domain")) == ("d.test", 3)


def test_streams_are_counted(bench: Bench) -> None:
    def summary(limit: int = 10, **selector: Any) -> list[tuple[str, int, int, int]]:
        found = wait_for(bench.spool.summary("stream", limit, Selector(**selector)))
        return [(one.key, one.recipients, one.due, one.held) for one in found]

    news, more, plain, fresh = "N1", "N2", "P1", "F1"
    # An address that looks like what is looked for.
    odd = Address('"stream":"x', "d.test")
    for queue_id, stream, names in (
        (news, "news", ("a", "b", "c")),
        (more, "news", ("a",)),
        (plain, "", ("a", "b")),
        (fresh, "shop", ("a", "b")),
    ):
        recipients = [EnvelopeRecipient(number, Address(one, "d.test"), "out") for number, one in enumerate(names)]
        if not stream:
            recipients.append(EnvelopeRecipient(2, odd, "out"))
        envelope = Envelope(
            queue_id=queue_id,
            sender=Address("ann", "client.test"),
            recipients=tuple(recipients),
            received=START,
            size=5,
            stream=stream,
        )
        lease = wait_for(bench.spool.accept(envelope, Content(b"hello"), START + 60))
        if queue_id != fresh:
            bench.give_back(lease)
    wait_for(bench.spool.hold(Selector(queue_id=more)))
    assert summary() == [("news", 4, 3, 1), ("", 3, 3, 0), ("shop", 2, 0, 0)]
    assert summary(1) == [("news", 4, 3, 1)]
    assert summary(state="held") == [("news", 1, 0, 1)]
    assert summary(recipient="a@d.test") == [("news", 2, 1, 1), ("", 1, 1, 0), ("shop", 1, 0, 0)]


def test_suspensions_are_kept_and_ended(bench: Bench) -> None:
    route = Suspension(kind="route", name="out", since=START, reason="maintenance")
    domain = Suspension(kind="domain", name="D.test", since=START, until=START + 50)
    for one in (route, domain):
        wait_for(bench.spool.suspend(one))
    found = {one.kind: one for one in wait_for(bench.spool.suspensions())}
    assert found == {"route": route, "domain": replace(domain, name="d.test")}
    longer = replace(route, until=START + 1000, reason="")
    wait_for(bench.spool.suspend(longer))
    assert longer in wait_for(bench.spool.suspensions())
    leases = [bench.accept() for _ in range(4)]
    for lease, waits in zip(
        leases, (route.told, longer.told, found["domain"].told, "suspended: route outer"), strict=True
    ):
        bench.give_back(lease, due=START + 3600, waits=waits)
    assert wait_for(bench.spool.resume("route", "out")) is True
    assert wait_for(bench.spool.resume("route", "out")) is False
    assert ids(bench.lease()) == ids(leases[:2])
    bench.clock.advance(50)
    assert wait_for(bench.spool.suspensions()) == []
    # It is over, but what waits because of it need not wait for its time.
    assert wait_for(bench.spool.resume("domain", "D.TEST")) is False
    assert ids(bench.lease()) == ids(leases[2:3])


def test_counters_add_up_and_old_days_go(bench: Bench) -> None:
    day = "2027-01-15"  # on which START is
    wait_for(bench.spool.add_counts({f"{day}/source/a": 2, f"{day}/source/b": 1, f"{day}/bounced/x": 1}))
    wait_for(bench.spool.add_counts({f"{day}/source/a": 3, "2026-12-10/source/a": 1}))
    assert wait_for(bench.spool.counts(f"{day}/source/")) == {f"{day}/source/a": 5, f"{day}/source/b": 1}
    assert wait_for(bench.spool.counts("2026-12-10")) == {"2026-12-10/source/a": 1}
    assert wait_for(bench.spool.counts("%")) == {}
    bench.clock.advance(10 * 86400)
    wait_for(bench.spool.add_counts({"2027-01-25/source/a": 1}))
    assert set(wait_for(bench.spool.counts(""))) == {
        f"{day}/source/a",
        f"{day}/source/b",
        f"{day}/bounced/x",
        "2027-01-25/source/a",
    }


@pytest.mark.parametrize("more", [{}, {"parameters": MailParameters(release_at=START + 3600)}])
def test_a_mark_is_there_with_its_message_and_goes_when_it_is_taken_away(bench: Bench, more: dict[str, Any]) -> None:
    marks = [f"2027-01-15/injected/X/{number}" for number in range(3)]
    for start, mark in enumerate(marks):
        ((envelope, content),) = drafts("a", start=start, mark=mark, **more)
        wait_for(bench.spool.accept(envelope, content, bench.clock.seconds() + 60))
    assert wait_for(bench.spool.counts("2027-01-15/injected/X/")) == dict.fromkeys(marks, 1)
    wait_for(bench.spool.add_counts(dict.fromkeys(marks[:2], -1)))
    assert wait_for(bench.spool.counts("2027-01-15/injected/")) == {marks[2]: 1}


def test_a_spool_may_be_closed_twice(bench: Bench) -> None:
    bench.accept()
    wait_for(bench.spool.close())
    wait_for(bench.spool.close())


def test_the_spool_in_memory_says_that_it_is_closed() -> None:
    bench = Bench(MemorySpool)
    wait_for(bench.spool.close())
    with pytest.raises(SpoolError, match="closed"):
        bench.lease()
