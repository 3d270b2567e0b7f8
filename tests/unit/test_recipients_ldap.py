"""`[recipients.NAME]` of kind ldap: what entries say, one address at a time, and a directory read whole or in part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ldaptor.protocols import pureldap  # type: ignore[import-untyped]  # ldaptor has no types
from twisted.internet.defer import Deferred
from zope.interface.verify import verifyObject

from mailgate.awaiting import as_deferred
from mailgate.backends.ldap_connection import DirectoryError
from mailgate.backends.ldap_servers import DirectoryServers
from mailgate.backends.questions import verifying
from mailgate.backends.threads import Threads
from mailgate.config.recipients import LdapRecipients
from mailgate.interfaces import RecipientStatus
from mailgate.recipients import ldap
from mailgate.recipients.ldap_entries import Entry, EntryReader
from mailgate.recipients.snapshot import Changes, Mark
from mailgate.recipients.snapshot_read import DirectoryReader
from mailgate.recipients.source import ISource
from tests.unit.ldap_peer import PAGED, ActiveDirectory, Connection
from tests.unit.recipients_stand import KNOWN, RESTRICTED, UNAVAILABLE, UNKNOWN, changes, lookup, source_tools
from tests.unit.remote_peer import Net, failure_of, outcome

LOCAL = "ldap://127.0.0.1:1389"


def section(**settings: Any) -> LdapRecipients:
    return LdapRecipients.model_validate({"kind": "ldap", "urls": [LOCAL], "base": "dc=example,dc=org"} | settings)


# -- What an entry says


@pytest.mark.parametrize(
    ("attributes", "addresses"),
    [
        (
            {"proxyaddresses": ["SMTP:Ann@Example.ORG", "smtp:ann.too@example.org"]},
            ["ann@example.org", "ann.too@example.org"],
        ),
        ({"proxyaddresses": ["X500:/o=Corp/cn=ann", "sip:ann@example.org", "eum:123;x", "SMTP:a@b.org"]}, ["a@b.org"]),
        ({"mail": ["ann@example.org"], "proxyaddresses": ["smtp:ann@example.org"]}, ["ann@example.org"]),
        ({"proxyaddresses;range=0-1": ["smtp:a@b.org", "smtp:c@b.org"]}, ["a@b.org", "c@b.org"]),
        ({"proxyaddresses": ["smtp:ann@bücher.example"]}, ["ann@xn--bcher-kva.example"]),
        ({"proxyaddresses": ["smtp:", "smtp:@", "smtp:ann", "", "smtp:a b@c.org"]}, []),
        ({"othermail": ["ann@example.org"]}, []),
        ({"userprincipalname": ["ann@example.org"]}, []),
        ({"proxyaddresses": [b"smtp:\xff@example.org"]}, ["\ufffd@example.org"]),
    ],
)
def test_where_addresses_stand(attributes: dict[str, list[str | bytes]], addresses: list[str]) -> None:
    octets = {
        name.encode(): [one if isinstance(one, bytes) else one.encode() for one in values]
        for name, values in attributes.items()
    }
    assert sorted(EntryReader(section()).entry(octets).addresses) == sorted(addresses)


def test_other_attributes_may_hold_them() -> None:
    reader = EntryReader(section(attributes=["userPrincipalName"]))
    assert reader.entry({b"userprincipalname": [b"Ann@example.org"]}).addresses == ("ann@example.org",)


def test_groups_for_internal_mail() -> None:
    group = {b"mail": [b"all@example.org"], b"msexchrequireauthtosendto": [b"TRUE"]}
    assert EntryReader(section()).entry(group) == Entry(("all@example.org",), True)
    assert EntryReader(section(restricted_attribute="")).entry(group) == Entry(("all@example.org",), False)
    assert not EntryReader(section()).entry(group | {b"msexchrequireauthtosendto": [b"FALSE"]}).is_restricted


@pytest.mark.parametrize(
    ("control", "is_disabled"), [(b"514", True), (b"66050", True), (b"512", False), (b"x", False), (b"9" * 5000, False)]
)
def test_disabled_accounts_count_unless_they_shall_not(control: bytes, is_disabled: bool) -> None:
    account = {b"mail": [b"room@example.org"], b"useraccountcontrol": [control]}
    assert EntryReader(section()).entry(account).addresses == ("room@example.org",)
    assert bool(EntryReader(section(skip_disabled=True)).entry(account).addresses) is not is_disabled


def test_an_entry_keeps_its_name_where_it_moves() -> None:
    reader = EntryReader(section())
    assert reader.name(b"cn=Ann", {b"objectguid": [b"\x01\xff"]}) == "01ff"
    assert reader.name(b"CN=Ann,DC=Test", {}) == "cn=ann,dc=test"


# -- One address


class Stand:
    """A source without a snapshot, and the net that its directory is in."""

    def __init__(self, **settings: Any) -> None:
        self.net = Net()
        self.tools = source_tools(self.net.reactor)
        self.directory = ActiveDirectory()
        self.source = ldap.build(section(snapshot=False, **settings), "ad", self.tools)
        self.connection: Connection | None = None

    def status(self, address: str) -> RecipientStatus:
        asked = lookup(self.source, address)
        if not isinstance(asked, Deferred):
            return asked
        if self.net.has_more:
            self.connection = Connection(self.net.accept(), self.directory)
        while not asked.called and self.connection is not None and self.connection.serve():
            pass
        return outcome(asked)


def test_it_is_a_source() -> None:
    assert verifyObject(ISource, Stand().source)


def test_the_directory_is_asked_for_the_address() -> None:
    stand = Stand()
    stand.directory.put("cn=ann", proxyAddresses=["SMTP:Ann@example.org", "smtp:a@example.org"])
    stand.directory.put("cn=bob", mail="bob@example.org")
    stand.directory.put("cn=all", mail="all@example.org", msExchRequireAuthToSendTo="TRUE")
    assert stand.status("ann@example.org") is KNOWN
    assert stand.status("a@example.org") is KNOWN
    assert stand.status("bob@example.org") is KNOWN
    assert stand.status("all@example.org") is RESTRICTED
    assert stand.status("carl@example.org") is UNKNOWN
    assert stand.status("*@example.org") is UNKNOWN
    assert stand.status("ann)(mail=*@example.org") is UNKNOWN
    assert len(stand.directory.searches) == 7
    assert not stand.net.has_more
    stand.source.close()


def test_we_log_in_once_over_each_connection(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("s3cret\n")
    stand = Stand(bind_dn="mail@example.org", bind_password_file=tmp_path / "password")
    for name in ("ann", "bob"):
        assert stand.status(f"{name}@example.org") is UNKNOWN
    assert stand.connection is not None
    assert stand.connection.binds == [(b"mail@example.org", b"s3cret")]


def test_a_filter_of_ones_own() -> None:
    stand = Stand(filter="(&(uid={local_part})(mailHost={domain}))")
    stand.directory.put("cn=ann", uid="ann", mailHost="example.org")
    assert stand.status("ann@example.org") is KNOWN
    assert stand.status("ann@example.com") is UNKNOWN


def test_what_two_entries_have_is_open_where_one_is() -> None:
    stand = Stand()
    stand.directory.put("cn=all", mail="all@example.org", msExchRequireAuthToSendTo="TRUE")
    stand.directory.put("cn=ann", mail="all@example.org")
    assert stand.status("all@example.org") is KNOWN


def test_a_directory_that_refuses_to_search_knows_nobody_unknown() -> None:
    stand = Stand()
    asked = as_deferred(stand.source.ask("ann", "example.org"))
    connection = Connection(stand.net.accept(), stand.directory)
    message = connection.request()
    connection.say(message.id, pureldap.LDAPSearchResultDone(resultCode=50))
    assert outcome(asked) is UNAVAILABLE
    assert changes(stand.tools) == [("unavailable", f"{LOCAL}: the search fails with result 50")]


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"urls": ["ldap://dc1.example.org"]}, "clear text"),
        ({"urls": ["http://dc1"]}, "urls"),
        ({"bind_dn": "mail@example.org"}, "go together"),
        ({"filter": "(mail=x)", "snapshot": False}, "must stand"),
        ({"filter": "mail=x"}, "filter"),
        ({"filter": "(mail={address})"}, "names no address"),
        ({"ca": Path("nowhere.pem")}, "nowhere"),
    ],
)
def test_a_section_that_cannot_work_is_refused(settings: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        ldap.build(section(**settings), "ad", source_tools(Net().reactor))


# -- All of it, and what has changed


class Reading:
    """A reader, and the directory that it reads over one connection after another."""

    def __init__(self, **settings: Any) -> None:
        self.net = Net()
        self.directory = ActiveDirectory()
        self.section = section(**settings)
        creators = verifying(self.net.reactor, None)
        servers = DirectoryServers(self.section.urls, starttls=False, creators=creators, reactor=self.net.reactor)
        self.threads = Threads(self.net.reactor, 1, "test")
        self.reader = DirectoryReader(self.section, servers, self.net.reactor, self.threads)
        self.connection: Connection | None = None

    def begin(self, since: Mark | None = None) -> Deferred[Changes]:
        asked = Deferred.fromCoroutine(self.reader.read(since))
        if self.net.has_more:
            self.connection = Connection(self.net.accept(), self.directory)
        return asked

    def search(self) -> tuple[Connection, Any]:
        """The first search below the base, behind questions that find nothing."""
        connection = self.connection
        assert connection is not None
        while (message := connection.request()) is not None and message.value.scope == pureldap.LDAP_SCOPE_baseObject:
            connection.say(message.id, pureldap.LDAPSearchResultDone(resultCode=0))
        assert message is not None
        return connection, message

    def finish(self, asked: Deferred[Changes]) -> Changes:
        assert self.connection is not None
        while not asked.called:
            if not self.connection.serve():
                function, args = self.net.memory.handed.get(timeout=60)
                function(*args)
        return outcome(asked)

    def read(self, since: Mark | None = None) -> Changes:
        return self.finish(self.begin(since))


@pytest.fixture
def reading() -> Reading:
    made = Reading()
    made.directory.put("cn=ann", proxyAddresses=["SMTP:ann@example.org", "smtp:a@example.org"])
    made.directory.put("cn=bob", mail="bob@example.org")
    made.directory.put("cn=printer", description="no mail")
    return made


def by_address(changes: Changes) -> list[str]:
    return sorted(address for entry in changes.entries.values() for address in entry.addresses)


def test_all_is_read_and_how_far_that_goes(reading: Reading) -> None:
    changes = reading.read()
    assert by_address(changes) == ["a@example.org", "ann@example.org", "bob@example.org"]
    assert changes.is_whole
    assert changes.mark == Mark("dc1.example.org 0102", 103)


@pytest.mark.parametrize(("size", "most"), [(1, 1000), (2, 1000), (3, 1000), (1000, 1), (1000, 1000)])
def test_page_by_page(size: int, most: int) -> None:
    reading = Reading(page_size=size)
    reading.directory.max_page = most
    for number in range(7):
        reading.directory.put(f"cn={number}", mail=f"u{number}@example.org")
    assert by_address(reading.read()) == [f"u{number}@example.org" for number in range(7)]
    pages = sum(base == "dc=example,dc=org" for base in reading.directory.searches)
    assert pages == -(-7 // min(size, most))


def test_what_has_changed_since(reading: Reading) -> None:
    mark = reading.read().mark
    assert mark is not None
    reading.directory.put("cn=carl", mail="carl@example.org")
    reading.directory.put("cn=bob", description="has no mail any more")
    reading.directory.delete("cn=ann")
    changes = reading.read(mark)
    assert not changes.is_whole
    assert by_address(changes) == ["carl@example.org"]
    names = {dn: dn.encode().ljust(16, b".")[:16].hex() for dn in ("cn=ann", "cn=bob", "cn=carl")}
    assert set(changes.gone) == {names["cn=ann"], names["cn=bob"]}
    assert changes.mark == Mark(mark.server, 106)
    again = reading.read(changes.mark)
    assert (again.entries, set(again.gone)) == ({}, set())


def test_what_was_deleted_may_be_hidden(reading: Reading) -> None:
    reading.directory.shows_deleted = False
    mark = reading.read().mark
    reading.directory.delete("cn=ann")
    changes = reading.read(mark)
    assert (changes.entries, set(changes.gone)) == ({}, set())


@pytest.mark.parametrize("what", ["name", "invocation", "number"])
def test_numbers_of_another_server_say_nothing(reading: Reading, what: str) -> None:
    """Another one, one whose database was restored, one that has lost changes."""
    mark = reading.read().mark
    setattr(reading.directory, what, {"name": "dc2.example.org", "invocation": b"\x03", "number": 50}[what])
    changes = reading.read(mark)
    assert changes.is_whole
    assert len(changes.entries) == 2


def test_what_is_no_active_directory_is_read_whole(reading: Reading) -> None:
    reading.directory.is_active = False
    changes = reading.read()
    assert changes.mark is None
    assert by_address(changes) == ["a@example.org", "ann@example.org", "bob@example.org"]


def test_a_directory_without_any_address_is_none_that_can_be_believed() -> None:
    reading = Reading()
    with pytest.raises(DirectoryError, match="no entry has an address"):
        reading.read()


def test_entries_have_a_bound() -> None:
    reading = Reading(max_entries=5, page_size=2)
    for number in range(20):
        reading.directory.put(f"cn={number}", mail=f"u{number}@example.org")
    with pytest.raises(DirectoryError, match="max_entries"):
        reading.read()
    assert reading.directory.searches.count("dc=example,dc=org") == 3


def test_pages_without_an_end_have_a_bound() -> None:
    reading = Reading(max_entries=10, page_size=10)
    asked = reading.begin()
    connection = reading.connection
    assert connection is not None
    count = 0
    while not asked.called:
        message = connection.request()
        if message is None:
            function, args = reading.net.memory.handed.get(timeout=60)
            function(*args)
        elif message.value.scope == pureldap.LDAP_SCOPE_baseObject:
            connection.say(message.id, pureldap.LDAPSearchResultDone(resultCode=0))
        else:
            count += 1
            endless = (PAGED, False, b"\x30\x06\x02\x01\x00\x04\x01x")
            connection.say(message.id, pureldap.LDAPSearchResultDone(resultCode=0), controls=[endless])
    assert isinstance(failure_of(asked), DirectoryError)
    assert count == 103


@pytest.mark.parametrize("value", [b"\x30", b"\x30\x00", b"x", b"\x30\x03\x02\x01\x00", b"\x04\x01x"])
def test_a_control_that_is_none_is_no_answer(reading: Reading, value: bytes) -> None:
    asked = reading.begin()
    connection, message = reading.search()
    connection.say(message.id, pureldap.LDAPSearchResultDone(resultCode=0), controls=[(PAGED, False, value)])
    assert isinstance(failure_of(asked), DirectoryError)


def test_more_entries_than_a_page_are_no_answer() -> None:
    reading = Reading(page_size=2)
    asked = reading.begin()
    connection, message = reading.search()
    connection.say(message.id, *[pureldap.LDAPSearchResultEntry(f"cn={number}", []) for number in range(3)])
    assert isinstance(failure_of(asked), DirectoryError)
    assert not connection.asked.is_open


def test_a_server_that_falls_silent_is_given_up(reading: Reading) -> None:
    asked = reading.begin()
    reading.net.advance(61)
    assert isinstance(failure_of(asked), DirectoryError)
    assert not reading.net.memory.getDelayedCalls()


def test_referrals_to_other_directories_are_passed_over(reading: Reading) -> None:
    """Active Directory gives some with every search from its root."""
    asked = reading.begin()
    connection, message = reading.search()
    uri = b"ldap://DomainDnsZones.example.org/DC=DomainDnsZones"
    octets = b"\x73" + bytes([len(uri) + 2]) + b"\x04" + bytes([len(uri)]) + uri
    whole = b"\x02\x01" + bytes([message.id]) + octets
    connection.asked.say(b"\x30" + bytes([len(whole)]) + whole)
    entry = pureldap.LDAPSearchResultEntry("cn=ann", [("mail", ["ann@example.org"])])
    connection.say(message.id, entry, pureldap.LDAPSearchResultDone(resultCode=0))
    assert by_address(reading.finish(asked)) == ["ann@example.org"]
