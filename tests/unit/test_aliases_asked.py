"""Aliases that a system is asked for: SQL, HTTP and LDAP, what is remembered of answers, and what an outage does."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest
from pydantic import TypeAdapter
from twisted.internet.defer import Deferred

from mailgate.address import Address
from mailgate.backends.questions import BackendError
from mailgate.config.aliases import AliasSection
from mailgate.events import RecipientsChanged
from mailgate.interfaces import Expanded
from mailgate.rewriting import http, ldap, sql
from mailgate.rewriting.aliases import Aliases, DomainAliases
from mailgate.rewriting.asked import AskedAliases
from mailgate.rewriting.source import MAX_TARGETS, AliasTools
from mailgate.testing import EventRecorder, FakeDirectory
from mailgate.verdict import Defer
from tests.unit.ldap_peer import ActiveDirectory, Connection
from tests.unit.remote_peer import Net, failure_of, outcome

URL = "http://aliases.test:8080/of?key=hidden&address={address}"
BUILD: dict[str, Callable[..., AskedAliases]] = {"sql": sql.build, "http": http.build, "ldap": ldap.build}


class Stand:
    """A source of aliases, and the net that its system is in."""

    def __init__(self, **settings: Any) -> None:
        self.net = Net()
        self.events = EventRecorder()
        section: Any = TypeAdapter(AliasSection).validate_python(settings)
        self.source = BUILD[section.kind](section, "them", AliasTools(self.net.reactor, self.events))

    @property
    def states(self) -> list[tuple[str, str]]:
        return [(event.source, event.state) for event in self.events.of(RecipientsChanged)]


class Service(Stand):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**({"kind": "http", "url": URL} | settings))

    def learn(self, status: int, body: object = None, key: str = "info@example.org") -> Sequence[str] | None:
        """Ask, and have the service answer over a connection of its own."""
        asked = self.source.find(key)
        if not isinstance(asked, Deferred):
            return asked
        peer = self.net.accept()
        self.asked = peer.request()[0]
        text = body if isinstance(body, str) else json.dumps(body)
        peer.answer(status, text.encode() if body is not None else b"", fields="Connection: close\r\n")
        return outcome(asked)


class Table(Stand):
    def __init__(self, folder: Path, **settings: Any) -> None:
        self.path = folder / "aliases.db"
        self.run("CREATE TABLE aliases (address TEXT, target)")
        super().__init__(**({"kind": "sql", "url": f"sqlite:{self.path}"} | settings))

    def run(self, statement: str) -> None:
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute(statement)

    def add(self, address: str, *targets: object) -> None:
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.executemany("INSERT INTO aliases VALUES (?, ?)", [(address, target) for target in targets])

    def find(self, key: str) -> Sequence[str] | None:
        found = self.source.find(key)
        return self.net.wait(found) if isinstance(found, Deferred) else found

    def expand(self, address: str) -> Expanded:
        domains = {"example.org": DomainAliases((self.source,))}
        known = Aliases(domains, FakeDirectory(), "example.org".__eq__, None, self.net.reactor)
        found = known.expand(Address.parse(address))
        return self.net.wait(found) if isinstance(found, Deferred) else cast(Expanded, found)


class Directory(Stand):
    def __init__(self, **settings: Any) -> None:
        given = {"kind": "ldap", "urls": ["ldap://127.0.0.1:1389"], "base": "dc=example,dc=org"}
        super().__init__(**(given | {"filter": "(cn={address})", "attributes": ["rfc822MailMember"]} | settings))
        self.directory = ActiveDirectory()
        self.connection: Connection | None = None

    def find(self, key: str) -> Sequence[str] | None:
        asked = self.source.find(key)
        if not isinstance(asked, Deferred):
            return asked
        if self.net.has_more:
            self.connection = Connection(self.net.accept(), self.directory)
        while not asked.called and self.connection is not None and self.connection.serve():
            pass
        return outcome(asked)


@pytest.fixture
def table(tmp_path: Path) -> Iterator[Table]:
    made = Table(tmp_path)
    yield made
    made.source.close()


# -- HTTP


def test_a_service_answers_with_a_list() -> None:
    service = Service()
    assert service.learn(200, ["ann@example.org", " bob@example.net "]) == ("ann@example.org", "bob@example.net")
    assert "address=info%40example.org" in service.asked
    assert service.learn(404, key="@example.org") is None
    assert "address=%40example.org" in service.asked


@pytest.mark.parametrize(("status", "body"), [(404, None), (410, None), (204, None), (200, [])])
def test_what_says_that_an_address_is_no_alias(status: int, body: object) -> None:
    service = Service()
    assert service.learn(status, body) is None
    assert service.source.find("info@example.org") is None
    assert not service.net.has_more


@pytest.mark.parametrize(
    ("status", "body", "word"),
    [
        (200, {"targets": ["a@b.org"]}, "no JSON list"),
        (200, "nonsense", "no JSON list"),
        (200, [1], "no JSON list"),
        (200, None, "no JSON list"),
        (500, None, "answers 500"),
        (302, None, "answers 302"),
    ],
)
def test_what_is_no_answer(status: int, body: object, word: str) -> None:
    service = Service()
    with pytest.raises(BackendError, match=word) as error:
        service.learn(status, body)
    assert "hidden" not in str(error.value)
    assert service.states == [("aliases.them", "unavailable")]


def test_in_an_outage_what_was_an_alias_is_one_and_all_else_is_put_off() -> None:
    service = Service(cache="1m", stale="1h")
    assert service.learn(200, ["ann@example.org"]) == ("ann@example.org",)
    service.net.advance(61)
    assert service.learn(503) == ("ann@example.org",)
    with pytest.raises(BackendError):
        service.learn(503, key="other@example.org")
    service.net.advance(3600)
    with pytest.raises(BackendError):
        service.learn(503)
    assert service.states == [("aliases.them", "unavailable")]
    assert service.learn(404, key="bob@example.org") is None
    service.net.advance(1800)
    assert service.learn(503, key="bob@example.org") is None  # most addresses are no aliases: their mail goes on
    service.net.advance(1800)
    with pytest.raises(BackendError):
        service.learn(503, key="bob@example.org")
    assert service.learn(404) is None
    assert service.states[-1] == ("aliases.them", "available")


def test_a_change_counts_when_the_answer_is_old() -> None:
    service = Service(cache="1m", cache_unknown="10s")
    service.learn(200, ["ann@example.org"])
    assert service.source.find("info@example.org") == ("ann@example.org",)
    service.net.advance(61)
    assert service.learn(404) is None
    service.net.advance(11)
    assert service.learn(200, ["bob@example.org"]) == ("bob@example.org",)


def test_after_the_end_nothing_is_asked() -> None:
    service = Service()
    waiting = cast("Deferred[Any]", service.source.find("info@example.org"))
    service.source.close()
    assert isinstance(failure_of(waiting), BackendError)
    again = cast("Deferred[Any]", service.source.find("info@example.org"))
    assert isinstance(failure_of(again), BackendError)


# -- SQL


def test_rows_are_targets(table: Table) -> None:
    table.add("info@example.org", "ann@example.org", "bob@example.net, eve@example.net")
    assert table.find("info@example.org") == ("ann@example.org", "bob@example.net", "eve@example.net")
    assert table.find("' OR 1=1 --@example.org".replace(" ", "")) is None
    assert table.find('"a b"@example.org') is None


@pytest.mark.parametrize("value", [None, "", " , "])
def test_rows_that_say_nothing(table: Table, value: object) -> None:
    table.add("info@example.org", value)
    assert table.find("info@example.org") is None


def test_a_column_that_is_no_text_is_told(table: Table) -> None:
    table.add("info@example.org", 42)
    with pytest.raises(BackendError, match="first column"):
        table.find("info@example.org")


def test_a_whole_domain_and_extensions_are_asked_for_in_their_order(table: Table) -> None:
    table.add("@example.org", "@example.net")
    table.add("ann@example.org", "a.smith@example.com")
    assert [str(one) for one in cast("tuple[Address, ...]", table.expand("Bob+x@example.org"))] == ["Bob+x@example.net"]
    assert [str(one) for one in cast("tuple[Address, ...]", table.expand("ann+x@example.org"))] == [
        "a.smith+x@example.com"
    ]


def test_a_target_that_is_no_address_is_told_with_its_alias(table: Table) -> None:
    table.add("info@example.org", "ann@example.org", "nonsense")
    answer = table.expand("info@example.org")
    assert isinstance(answer, Defer)
    assert answer.reply.status == "4.3.5"
    assert '"nonsense" for info@example.org' in answer.reason


def test_more_targets_than_there_may_be_are_never_read(table: Table) -> None:
    table.add("all@example.org", *(f"u{number}@example.net" for number in range(MAX_TARGETS + 500)))
    found = table.find("all@example.org")
    assert found is not None
    assert len(found) == MAX_TARGETS + 1
    answer = table.expand("all@example.org")
    assert isinstance(answer, Defer)
    assert "more than 1000" in answer.reason


def test_a_database_that_is_away(table: Table) -> None:
    table.add("info@example.org", "ann@example.org")
    assert table.find("info@example.org") == ("ann@example.org",)
    table.run("DROP TABLE aliases")
    table.net.advance(301)
    assert table.find("info@example.org") == ("ann@example.org",)
    answer = table.expand("bob@example.org")
    assert isinstance(answer, Defer)
    assert answer.reply.status == "4.4.3"


# -- LDAP


def test_entries_hold_targets() -> None:
    stand = Directory(attributes=["rfc822MailMember", "targetAddress"])
    stand.directory.put("cn=1", cn="info@example.org", rfc822MailMember=["ann@example.org", "bob@example.net"])
    stand.directory.put("cn=2", cn="info@example.org", targetAddress="SMTP:eve@example.net")
    stand.directory.put("cn=3", cn="none@example.org", mail="x@example.org")
    found = stand.find("info@example.org")
    assert found is not None
    assert sorted(found) == ["ann@example.org", "bob@example.net", "eve@example.net"]
    assert stand.find("none@example.org") is None
    assert stand.find("*@example.org") is None
    assert stand.find("@example.org") is None
    stand.source.close()


# -- Sections


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"kind": "http", "url": "http://aliases.test/"}, "{address}"),
        ({"kind": "http", "url": URL, "method": "POST"}, "POST"),
        ({"kind": "http", "url": URL, "token_file": "nowhere"}, "nowhere"),
        ({"kind": "sql", "url": "mysql:/x"}, "url"),
        ({"kind": "sql", "url": "sqlite:/x", "query": "SELECT 1"}, ":address"),
        ({"kind": "ldap", "filter": "(cn=x)"}, "must stand"),
        ({"kind": "ldap", "filter": "cn={address}"}, "filter"),
        ({"kind": "ldap", "urls": ["ldap://dc.example.org"]}, "clear text"),
        ({"kind": "ldap", "bind_dn": "cn=x"}, "go together"),
    ],
)
def test_a_section_that_cannot_work_is_refused(settings: dict[str, Any], word: str) -> None:
    more = {"urls": ["ldap://127.0.0.1:1389"], "base": "", "filter": "(cn={address})", "attributes": ["mail"]}
    settings = (more if settings["kind"] == "ldap" else {}) | settings
    with pytest.raises(ValueError, match=word):
        Stand(**settings)
