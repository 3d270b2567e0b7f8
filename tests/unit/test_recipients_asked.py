"""Sources that ask for each address: SQL and HTTP, what is remembered of their answers, and what an outage does."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter
from twisted.internet.defer import Deferred
from zope.interface.verify import verifyObject

from mailgate.config.recipients import HttpRecipients, SqlRecipients
from mailgate.interfaces import RecipientStatus
from mailgate.recipients import http, sql
from mailgate.recipients.source import ISource
from tests.unit.recipients_stand import KNOWN, UNAVAILABLE, UNKNOWN, changes, lookup, source_tools
from tests.unit.remote_peer import Asked, Net, is_waiting, outcome

URL = "http://users.test:8080/known?key=hidden&address={address}"


class Service:
    """A source of kind http, and the net that its service is in."""

    def __init__(self, **settings: Any) -> None:
        self.net = Net()
        self.tools = source_tools(self.net.reactor)
        section = TypeAdapter(HttpRecipients).validate_python({"kind": "http", "url": URL} | settings)
        self.source = http.build(section, "web", self.tools)

    def ask(self, address: str = "ann@example.org") -> Deferred[RecipientStatus]:
        asked = lookup(self.source, address)
        assert isinstance(asked, Deferred), asked
        return asked

    def at_hand(self, address: str = "ann@example.org") -> RecipientStatus | None:
        local_part, _, domain = address.rpartition("@")
        return self.source.at_hand(local_part, domain)

    def accept(self) -> Asked:
        return self.net.accept()

    def learn(self, status: int, address: str = "ann@example.org") -> RecipientStatus:
        """Ask, and have the service answer over a connection of its own."""
        asked = self.ask(address)
        peer = self.accept()
        peer.request()
        peer.answer(status, fields="Connection: close\r\n")
        return outcome(asked)


@pytest.fixture
def service() -> Service:
    return Service()


def test_it_is_a_source(service: Service) -> None:
    assert verifyObject(ISource, service.source)


def test_the_service_is_asked_for_the_address(service: Service) -> None:
    asked = service.ask("a/b c&d@example.org")
    peer = service.accept()
    line, fields, body = peer.request()
    assert line == "GET /known?key=hidden&address=%22a%2Fb%20c%26d%22%40example.org HTTP/1.1"
    assert "authorization" not in fields
    assert body == b""
    peer.answer(204)
    assert outcome(asked) is KNOWN


def test_or_is_told_it_as_json(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("abc\n")
    service = Service(url="http://users.test/known", method="POST", token_file=tmp_path / "token")
    service.ask("ann@example.org")
    line, fields, body = service.accept().request()
    assert line == "POST /known HTTP/1.1"
    assert fields["authorization"] == "Bearer abc"
    assert json.loads(body) == {"address": "ann@example.org", "local_part": "ann", "domain": "example.org"}


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (200, KNOWN),
        (204, KNOWN),
        (404, UNKNOWN),
        (410, UNKNOWN),
        *((other, UNAVAILABLE) for other in (201, 301, 302, 400, 401, 403, 429, 500, 503)),
    ],
)
def test_what_an_answer_means(service: Service, status: int, expected: RecipientStatus) -> None:
    assert service.learn(status) is expected


def test_answers_are_remembered_each_for_its_time() -> None:
    service = Service(cache="60s", cache_unknown="10s")
    assert service.learn(200) is KNOWN
    assert service.learn(404, "bob@example.org") is UNKNOWN
    assert (service.at_hand(), service.at_hand("bob@example.org")) == (KNOWN, UNKNOWN)
    service.net.advance(11)
    assert (service.at_hand(), service.at_hand("bob@example.org")) == (KNOWN, None)
    service.net.advance(50)
    assert service.at_hand() is None


def test_guessing_drives_out_none_that_exists() -> None:
    service = Service(cache_size=2)
    assert service.learn(200) is KNOWN
    for number in range(20):
        assert service.learn(404, f"guess{number}@example.org") is UNKNOWN
    assert service.at_hand() is KNOWN
    remembered = [service.at_hand(f"guess{number}@example.org") for number in range(20)]
    assert remembered == [None] * 18 + [UNKNOWN] * 2


def test_an_answer_replaces_the_one_before() -> None:
    service = Service(cache="60s", cache_unknown="600s")
    assert service.learn(200) is KNOWN
    service.net.advance(61)
    assert service.learn(404) is UNKNOWN
    assert service.at_hand() is UNKNOWN
    service.net.advance(601)
    assert service.learn(200) is KNOWN
    assert service.at_hand() is KNOWN


def test_equal_questions_at_one_time_are_asked_once(service: Service) -> None:
    asked = [service.ask() for _ in range(5)]
    peer = service.accept()
    assert not service.net.has_more
    asked[0].addErrback(lambda _: None)
    asked[0].cancel()
    peer.request()
    peer.answer(200)
    assert [outcome(one) for one in asked[1:]] == [KNOWN] * 4


def test_questions_have_a_bound_in_number_and_time() -> None:
    service = Service(connections=1, timeout="5s")
    first, second = service.ask("a@example.org"), service.ask("b@example.org")
    service.accept()
    assert not service.net.has_more
    service.net.advance(5.1)
    assert outcome(first) is UNAVAILABLE
    assert outcome(second) is UNAVAILABLE
    assert not service.net.memory.getDelayedCalls()


def test_in_an_outage_who_was_known_is_known_and_all_else_is_put_off() -> None:
    service = Service(cache="60s", cache_unknown="60s", stale="1h")
    assert service.learn(200) is KNOWN
    assert service.learn(404, "bob@example.org") is UNKNOWN
    service.net.advance(61)
    assert service.learn(500) is KNOWN
    assert service.learn(500, "bob@example.org") is UNAVAILABLE
    assert service.learn(500, "new@example.org") is UNAVAILABLE
    service.net.advance(3600)
    assert service.learn(500) is UNAVAILABLE


def test_in_an_outage_mail_does_not_wait_for_what_is_remembered() -> None:
    service = Service(cache="60s", stale="1h")
    assert service.learn(200) is KNOWN
    service.net.advance(61)
    assert service.learn(500, "new@example.org") is UNAVAILABLE
    assert service.at_hand() is KNOWN
    service.net.advance(5.1)
    assert service.at_hand() is None


def test_an_outage_is_told_once_and_so_is_its_end(service: Service) -> None:
    for status in (500, 503, 404, 200, 502):
        service.learn(status, f"{status}@example.org")
    assert changes(service.tools) == [
        ("unavailable", "the service at users.test answers 500"),
        ("available", ""),
        ("unavailable", "the service at users.test answers 502"),
    ]


def test_after_the_end_nothing_is_asked(service: Service) -> None:
    asked = service.ask()
    service.accept()
    service.source.retire()
    service.source.close()
    assert outcome(asked) is UNAVAILABLE
    assert outcome(service.ask()) is UNAVAILABLE
    assert not service.net.has_more


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"url": "http://users.test/"}, "must stand in it"),
        ({"url": "http://users.test/{domain}"}, "must stand in it"),
        ({"method": "POST"}, "goes as JSON"),
        ({"url": "http://{domain}/{address}"}, "behind the host"),
        ({"token_file": Path("nowhere")}, "nowhere"),
        ({"ca": Path("nowhere.pem")}, "nowhere"),
    ],
)
def test_a_section_that_cannot_work_is_refused(settings: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        Service(**settings)


# -- SQL


class Table:
    """A source of kind sql, and its database."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.path = folder / "recipients.db"
        self.net = Net()
        self.tools = source_tools(self.net.reactor)
        self.run("CREATE TABLE recipients (address TEXT, name TEXT, host TEXT)")
        self.run("INSERT INTO recipients VALUES ('ann@example.org', 'ann', 'example.org')")
        section = SqlRecipients(kind="sql", url=f"sqlite:{self.path}", **settings)
        self.source = sql.build(section, "db", self.tools)

    def run(self, statement: str) -> None:
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute(statement)

    def status(self, address: str) -> RecipientStatus:
        found = lookup(self.source, address)
        return self.net.wait(found) if isinstance(found, Deferred) else found


@pytest.fixture
def table(tmp_path: Path) -> Iterator[Table]:
    made = Table(tmp_path)
    yield made
    made.source.close()


def test_a_row_is_a_recipient(table: Table) -> None:
    assert table.status("ann@example.org") is KNOWN
    for address in ("bob@example.org", "ann@example.com", "' OR 1=1 --@example.org", "ann%@example.org"):
        assert table.status(address) is UNKNOWN


@pytest.mark.parametrize("value", ["NULL", "0", "''"])
def test_whatever_stands_in_the_row(tmp_path: Path, value: str) -> None:
    table = Table(tmp_path, query=f"SELECT {value} FROM recipients WHERE name = :local_part AND host = :domain")  # noqa: S608
    assert table.status("ann@example.org") is KNOWN
    assert table.status("ann@example.com") is UNKNOWN
    table.source.close()


def test_a_database_that_is_away_leaves_what_was_known(tmp_path: Path) -> None:
    table = Table(tmp_path, cache="60s")
    assert table.status("ann@example.org") is KNOWN
    table.run("DROP TABLE recipients")
    table.net.advance(61)
    assert table.status("ann@example.org") is KNOWN
    assert table.status("bob@example.org") is UNAVAILABLE
    assert [state for state, _ in changes(table.tools)] == ["unavailable"]
    table.source.close()


def test_a_query_without_the_address_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=":address"):
        Table(tmp_path, query="SELECT 1 FROM recipients")


def test_a_question_that_takes_too_long_is_put_off(table: Table) -> None:
    asked = table.source.ask("ann", "example.org")
    assert is_waiting(asked)
    table.net.advance(5.1)
    assert outcome(asked) is UNAVAILABLE
