"""A snapshot of a directory: what becomes of it with each reading, and how it outlives outages and restarts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from zope.interface.verify import verifyObject

from mailgate.config.recipients import LdapRecipients
from mailgate.interfaces import RecipientStatus
from mailgate.recipients import ldap
from mailgate.recipients.ldap_entries import Entry
from mailgate.recipients.snapshot import EMPTY, Changes, Snapshot, changed, replaced
from mailgate.recipients.snapshot_source import SnapshotSource
from mailgate.recipients.source import ISource
from tests.unit.ldap_peer import ActiveDirectory, Connection
from tests.unit.recipients_stand import (
    KNOWN,
    RESTRICTED,
    UNAVAILABLE,
    UNKNOWN,
    changes,
    lookup,
    source_tools,
)
from tests.unit.remote_peer import Net, is_waiting, outcome

# -- What becomes of it


def people(*numbers: int) -> dict[str, Entry]:
    return {f"cn={number}": Entry((f"u{number}@example.org",), False) for number in numbers}


def whole(*numbers: int) -> Changes:
    return Changes(people(*numbers))


ALL = Snapshot.of(people(*range(1000)))


def test_an_address_is_restricted_where_all_that_have_it_are() -> None:
    snapshot = Snapshot.of({"a": Entry(("x@b.org", "y@b.org"), True), "b": Entry(("x@b.org",), False)})
    assert snapshot.addresses == {"x@b.org": False, "y@b.org": True}


def test_what_was_read_whole_takes_the_place_of_what_was() -> None:
    update = replaced(ALL, whole(*range(100, 1001)), 20)
    assert update.held == 0
    assert set(update.snapshot.addresses) == {f"u{number}@example.org" for number in range(100, 1001)}


@pytest.mark.parametrize(("left", "is_held"), [(800, False), (799, True), (100, True), (1, True)])
def test_more_than_the_share_stays(left: int, is_held: bool) -> None:
    update = replaced(ALL, whole(*range(left)), 20)
    assert update.held == (1000 - left if is_held else 0)
    assert len(update.snapshot.addresses) == (1000 if is_held else left)


def test_what_is_new_is_taken_all_the_same() -> None:
    update = replaced(ALL, whole(*range(100), 5000), 20)
    assert set(update.snapshot.addresses) == {*ALL.addresses, "u5000@example.org"}


def test_what_is_held_stays_restricted() -> None:
    old = Snapshot.of(
        {str(number): Entry((f"g{number}@example.org",), bool(number % 2)) for number in range(100)} | people(1)
    )
    update = replaced(old, whole(1), 20)
    assert update.held == 100
    assert dict(update.snapshot.addresses) == dict(old.addresses)


def test_a_few_may_always_vanish() -> None:
    small = Snapshot.of(people(*range(60)))
    assert replaced(small, whole(*range(10)), 20).held == 0
    assert replaced(small, whole(*range(9)), 20).held == 51


def test_it_is_held_until_it_is_confirmed_or_over() -> None:
    held = replaced(ALL, whole(*range(100)), 20).snapshot
    again = replaced(held, whole(*range(100)), 20)
    assert again.held == 900
    assert dict(again.snapshot.addresses) == dict(ALL.addresses)
    assert len(replaced(held, whole(*range(100)), 20, is_confirmed=True).snapshot.addresses) == 100
    back = replaced(held, whole(*range(1000)), 20)
    assert (back.held, dict(back.snapshot.entries)) == (0, dict(ALL.entries))


def test_what_has_not_changed_is_the_same_object() -> None:
    assert replaced(ALL, whole(*range(1000)), 20).snapshot is ALL
    assert changed(ALL, Changes({}, is_whole=False), 20).snapshot is ALL
    assert changed(ALL, Changes(people(3), gone=["cn=unknown"], is_whole=False), 20).snapshot is ALL


def test_changes_add_move_and_remove() -> None:
    told = {
        "cn=1": Entry(("new@example.org",), False),
        "cn=2": Entry((), False),
        "cn=5000": Entry(("u5000@example.org",), True),
    }
    update = changed(ALL, Changes(told, gone=["cn=3"], is_whole=False), 20)
    addresses = update.snapshot.addresses
    assert addresses["new@example.org"] is False
    assert addresses["u5000@example.org"] is True
    assert not {"u1@example.org", "u2@example.org", "u3@example.org"} & set(addresses)
    assert len(addresses) == 999


def test_changes_that_take_too_many_away_are_not_believed() -> None:
    update = changed(ALL, Changes({}, gone=[f"cn={number}" for number in range(300)], is_whole=False), 20)
    assert (update.held, update.snapshot) == (300, ALL)


ENTRIES = st.dictionaries(
    st.sampled_from([f"cn={number}" for number in range(8)]),
    st.builds(
        Entry, st.lists(st.sampled_from([f"{name}@b.org" for name in "abcdef"]), max_size=3).map(tuple), st.booleans()
    ),
)


@given(ENTRIES, ENTRIES, st.sets(st.sampled_from([f"cn={number}" for number in range(8)])))
def test_changes_come_to_the_same_as_all(before: dict[str, Entry], told: dict[str, Entry], gone: set[str]) -> None:
    gone -= told.keys()
    after = {name: entry for name, entry in before.items() if name not in gone} | told
    old = replaced(EMPTY, Changes(before), 100).snapshot
    step = changed(old, Changes(told, gone, is_whole=False), 100).snapshot
    leap = replaced(old, Changes(after), 100).snapshot
    assert dict(step.entries) == dict(leap.entries)
    assert dict(step.addresses) == dict(leap.addresses)


# -- The source


class Stand:
    """A source, its directory, and a state directory that several of them may have."""

    def __init__(self, folder: Path, directory: ActiveDirectory, *, leads: bool = True, **settings: Any) -> None:
        self.net = Net()
        self.net.memory.advance(1_000_000)
        self.directory = directory
        self.tools = source_tools(self.net.reactor, state_dir=folder, leads=leads)
        section = LdapRecipients.model_validate(
            {"kind": "ldap", "urls": ["ldap://127.0.0.1:1389"], "base": "dc=example,dc=org"} | settings
        )
        source = ldap.build(section, "ad", self.tools)
        assert isinstance(source, SnapshotSource)
        self.source = source
        self.file = folder / "recipients" / "ad.snapshot"
        self.is_away = False
        self._connections: list[Connection] = []

    def settle(self) -> None:
        """Serve until nothing is under way; a timer then waits for the next turn."""
        while self.source._working is not None:
            if self.net.has_more and self.is_away:
                self.net.refuse()
            elif self.net.has_more:
                self._connections.append(Connection(self.net.accept(), self.directory))
            elif not any(connection.serve() for connection in self._connections):
                function, args = self.net.memory.handed.get(timeout=60)
                function(*args)

    def start(self) -> None:
        self.source.start()
        self.settle()

    def wait(self, seconds: float) -> None:
        """So much time passes, with what it brings."""
        end = self.net.memory.seconds() + seconds
        while (now := self.net.memory.seconds()) < end:
            timers = [call.getTime() for call in self.net.memory.getDelayedCalls()]
            self.net.advance(max(min([*timers, end]) - now, 0))
            self.settle()

    def lose(self) -> None:
        """Connections that are kept are gone."""
        for connection in self._connections:
            if connection.asked.is_open:
                connection.asked.lose()
        self._connections.clear()

    def status(self, address: str) -> RecipientStatus | None:
        asked = lookup(self.source, address)
        return outcome(asked) if isinstance(asked, Deferred) else asked

    def close(self) -> None:
        self.source.retire()
        self.source.close()


Make = Callable[..., Stand]


@pytest.fixture
def directory() -> ActiveDirectory:
    made = ActiveDirectory()
    made.put("cn=ann", proxyAddresses=["SMTP:ann@example.org", "smtp:a@example.org"])
    made.put("cn=all", mail="all@example.org", msExchRequireAuthToSendTo="TRUE")
    return made


@pytest.fixture
def make(tmp_path: Path, directory: ActiveDirectory) -> Iterator[Make]:
    stands: list[Stand] = []

    def make_stand(**settings: Any) -> Stand:
        stands.append(Stand(tmp_path, directory, **settings))
        return stands[-1]

    yield make_stand
    for stand in stands:
        stand.close()


@pytest.fixture
def stand(make: Make) -> Stand:
    made = make()
    made.start()
    return made


def test_it_is_a_source_that_answers_from_memory(stand: Stand) -> None:
    assert verifyObject(ISource, stand.source)
    asked = len(stand.directory.searches)
    assert stand.status("a@example.org") is KNOWN
    assert stand.status("all@example.org") is RESTRICTED
    assert stand.status("bob@example.org") is UNKNOWN
    assert len(stand.directory.searches) == asked


def test_building_connects_to_nothing(make: Make) -> None:
    stand = make()
    assert not stand.net.has_more
    assert not stand.net.memory.getDelayedCalls()
    assert stand.status("ann@example.org") is UNAVAILABLE


def test_mail_waits_for_the_first_reading_and_not_for_ever(make: Make) -> None:
    stand = make(timeout="5s")
    stand.source.start()
    first, second = stand.source.ask("ann", "example.org"), stand.source.ask("ann", "example.org")
    assert is_waiting(first)
    second.addErrback(lambda _: None)
    second.cancel()
    stand.settle()
    assert outcome(first) is KNOWN

    slow = make(timeout="5s")
    slow.file.unlink()
    slow.source.start()
    asked = slow.source.ask("ann", "example.org")
    slow.net.advance(5.1)
    assert outcome(asked) is UNAVAILABLE


def test_what_has_changed_is_seen_at_the_next_reading(stand: Stand) -> None:
    stand.directory.put("cn=bob", mail="bob@example.org")
    stand.directory.put("cn=ann", mail="ann@example.org")
    stand.wait(299)
    assert stand.status("bob@example.org") is UNKNOWN
    stand.wait(2)
    assert [stand.status(f"{name}@example.org") for name in ("bob", "ann", "a")] == [KNOWN, KNOWN, UNKNOWN]
    stand.directory.delete("cn=bob")
    stand.wait(300)
    assert stand.status("bob@example.org") is UNKNOWN


def test_what_was_deleted_without_a_trace_is_seen_when_all_is_read(stand: Stand) -> None:
    stand.directory.vanish("cn=ann")
    stand.wait(86400 - 600)
    assert stand.status("ann@example.org") is KNOWN
    stand.wait(1200)
    assert stand.status("ann@example.org") is UNKNOWN


def test_in_an_outage_the_snapshot_serves(make: Make) -> None:
    stand = make(stale="1h")
    stand.start()
    stand.is_away = True
    stand.lose()
    stand.wait(3000)
    assert [stand.status(f"{name}@example.org") for name in ("ann", "all", "new")] == [KNOWN, RESTRICTED, UNKNOWN]
    stand.wait(1200)
    assert [stand.status(f"{name}@example.org") for name in ("ann", "all", "new")] == [KNOWN, RESTRICTED, UNAVAILABLE]
    [(state, reason)] = changes(stand.tools)
    assert state == "unavailable"
    assert "127.0.0.1:1389" in reason
    stand.is_away = False
    stand.wait(120)
    assert stand.status("new@example.org") is UNKNOWN
    assert changes(stand.tools)[1:] == [("available", "")]


def test_it_outlives_a_restart_while_the_directory_is_away(make: Make, stand: Stand) -> None:
    stand.close()
    again = make()
    again.is_away = True
    again.start()
    assert [again.status(f"{name}@example.org") for name in ("ann", "all", "new")] == [KNOWN, RESTRICTED, UNKNOWN]
    assert (stand.file.stat().st_mode & 0o777) == 0o600


def test_after_a_restart_it_goes_on_with_what_has_changed(make: Make, stand: Stand) -> None:
    stand.directory.vanish("cn=ann")
    stand.directory.put("cn=bob", mail="bob@example.org")
    stand.close()
    again = make()
    again.start()
    assert [again.status(f"{name}@example.org") for name in ("ann", "bob")] == [KNOWN, KNOWN]


@pytest.mark.parametrize("settings", [{"base": "ou=x,dc=org"}, {"filter": "(mail=*)"}, {"attributes": ["mail"]}])
def test_what_was_saved_with_other_settings_says_nothing(make: Make, stand: Stand, settings: dict[str, Any]) -> None:
    stand.close()
    again = make(**settings)
    again.is_away = True
    again.start()
    assert again.status("ann@example.org") is UNAVAILABLE


@pytest.mark.parametrize("content", [b"", b"{", b"\xff" * 100, b'{"made_of": 1}', b"[]"])
def test_a_damaged_file_is_none(make: Make, stand: Stand, content: bytes) -> None:
    stand.close()
    stand.file.write_bytes(content)
    again = make()
    again.start()
    assert again.status("ann@example.org") is KNOWN


def test_a_state_directory_that_cannot_be_written_costs_the_file_only(make: Make, tmp_path: Path) -> None:
    (tmp_path / "recipients").write_text("no folder")
    stand = make()
    stand.start()
    assert stand.status("ann@example.org") is KNOWN


def crowd(directory: ActiveDirectory, count: int = 200) -> None:
    for number in range(count):
        directory.put(f"cn=u{number}", mail=f"u{number}@example.org")


@pytest.mark.parametrize("is_seen", [True, False])
def test_a_mass_of_addresses_that_vanish_stays_until_an_operator_has_it_so(make: Make, is_seen: bool) -> None:
    stand = make(full_refresh="10m", stale="10d")
    crowd(stand.directory)
    stand.start()
    assert len(changes(stand.tools)) == 0
    for number in range(100):
        (stand.directory.delete if is_seen else stand.directory.vanish)(f"cn=u{number}")
    stand.directory.put("cn=new", mail="new@example.org")
    stand.wait(1000)
    assert stand.status("u0@example.org") is KNOWN
    assert stand.status("new@example.org") is KNOWN
    [(state, reason)] = changes(stand.tools)
    assert state == "holding"
    assert reason.startswith("100 addresses")
    assert str(stand.file) in reason
    stand.wait(3600)
    assert stand.status("u0@example.org") is KNOWN
    assert len(changes(stand.tools)) == 1
    stand.file.unlink()
    stand.wait(301)
    assert stand.status("u0@example.org") is UNKNOWN
    assert stand.status("u150@example.org") is KNOWN
    assert changes(stand.tools)[1:] == [("not holding", "")]
    assert stand.file.exists()


def test_a_mass_that_comes_back_is_as_if_nothing_had_been(make: Make) -> None:
    stand = make(full_refresh="10m")
    crowd(stand.directory)
    stand.start()
    entries = dict(stand.directory.entries)
    for number in range(150):
        stand.directory.vanish(f"cn=u{number}")
    stand.wait(700)
    stand.directory.entries = entries
    stand.wait(301)
    stand.directory.delete("cn=u1")
    stand.wait(301)
    assert stand.status("u0@example.org") is KNOWN
    assert stand.status("u1@example.org") is UNKNOWN
    assert [state for state, _ in changes(stand.tools)] == ["holding", "not holding"]


def test_what_is_held_is_held_over_a_restart(make: Make) -> None:
    stand = make(full_refresh="10m")
    crowd(stand.directory)
    stand.start()
    for number in range(150):
        stand.directory.vanish(f"cn=u{number}")
    stand.wait(700)
    stand.close()
    again = make(full_refresh="10m")
    again.net.memory.advance(700)
    again.start()
    assert again.status("u0@example.org") is KNOWN
    assert [state for state, _ in changes(again.tools)] == ["holding"]


def test_other_processes_follow_the_file(make: Make, stand: Stand) -> None:
    follower = make(leads=False, stale="1h")
    follower.start()
    assert follower.status("ann@example.org") is KNOWN
    assert follower.status("bob@example.org") is UNKNOWN
    stand.directory.put("cn=bob", mail="bob@example.org")
    stand.wait(301)
    follower.wait(301)
    assert follower.status("bob@example.org") is KNOWN
    for _ in range(20):  # nothing changes, which is told too
        stand.wait(300)
        follower.wait(300)
    assert follower.status("new@example.org") is UNKNOWN
    follower.wait(3700)
    assert [follower.status(f"{name}@example.org") for name in ("ann", "new")] == [KNOWN, UNAVAILABLE]
    assert not follower.net.has_more


def test_a_process_that_follows_waits_for_the_first_file(make: Make) -> None:
    follower = make(leads=False)
    follower.start()
    assert follower.status("ann@example.org") is UNAVAILABLE
    leader = make()
    leader.start()
    follower.wait(2)
    assert follower.status("ann@example.org") is KNOWN


def test_a_source_that_was_retired_answers_and_reads_no_more(stand: Stand) -> None:
    stand.source.retire()
    assert not stand.net.memory.getDelayedCalls()
    stand.directory.put("cn=bob", mail="bob@example.org")
    stand.wait(600)
    assert [stand.status(f"{name}@example.org") for name in ("ann", "bob")] == [KNOWN, UNKNOWN]


def test_retiring_ends_a_reading(make: Make) -> None:
    stand = make()
    stand.source.start()
    asked = stand.source.ask("ann", "example.org")
    while not stand.net.has_more:
        function, args = stand.net.memory.handed.get(timeout=60)
        function(*args)
    connection = stand.net.accept()
    stand.source.retire()
    assert outcome(asked) is UNAVAILABLE
    assert not connection.is_open
    assert not stand.net.memory.getDelayedCalls()
