"""Databases that are asked: kept and lost connections, and where a value stands in a query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from mailgate.backends.database import Database, DatabaseError, _for_psycopg, _pattern, open_database


class Rows(Database[list[str]]):
    """Connections that are lists, of what was asked over them; those in `lost` fail."""

    errors = (OSError,)

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[list[str]] = []
        self.ended: list[list[str]] = []
        self.is_away = False

    def _connect(self) -> list[str]:
        if self.is_away:
            raise OSError("away")
        self.opened.append([])
        return self.opened[-1]

    def _ask(self, connection: list[str], values: Mapping[str, str]) -> Sequence[Sequence[object]]:
        if "lost" in connection:
            raise OSError("lost")
        connection.append(values["username"])
        return [[values["username"]]]

    def _end(self, connection: list[str]) -> None:
        self.ended.append(connection)

    def _told(self, error: Exception) -> str:
        return type(error).__name__


def test_a_connection_serves_again_and_a_lost_one_is_replaced() -> None:
    rows = Rows()
    assert rows.rows({"username": "ann"}) == [["ann"]]
    assert rows.rows({"username": "bob"}) == [["bob"]]
    assert rows.opened == [["ann", "bob"]]
    rows.opened[0].append("lost")
    assert rows.rows({"username": "carl"}) == [["carl"]]
    assert rows.opened[1:] == [["carl"]]
    assert rows.ended == rows.opened[:1]


def test_a_new_connection_that_fails_is_not_replaced() -> None:
    rows = Rows()
    rows.rows({"username": "ann"})
    rows.opened[0].append("lost")
    rows.is_away = True
    with pytest.raises(DatabaseError, match="away"):
        rows.rows({"username": "bob"})
    rows.is_away = False
    assert rows.rows({"username": "bob"}) == [["bob"]]


def test_closing_ends_what_is_kept_and_what_comes_back() -> None:
    rows = Rows()
    rows.rows({"username": "ann"})
    rows.close()
    rows.rows({"username": "bob"})
    assert rows.ended == [["ann"], ["bob"]]


@pytest.mark.parametrize(
    ("query", "written"),
    [
        ("SELECT s FROM u WHERE n = :username", "SELECT s FROM u WHERE n = %(username)s"),
        ("n = lower(:username) OR m=:username", "n = lower(%(username)s) OR m=%(username)s"),
        ("n LIKE '%:username' AND n = :username", "n LIKE '%%:username' AND n = %(username)s"),
        ("n = :username::citext AND x::username = 1", "n = %(username)s::citext AND x::username = 1"),
        ('n = :username -- :username\nAND ":username" = 1', 'n = %(username)s -- :username\nAND ":username" = 1'),
        ("n = :username2 OR n = :username /* :username */", "n = :username2 OR n = %(username)s /* :username */"),
        ("'it''s :username' = :username", "'it''s :username' = %(username)s"),
    ],
)
def test_the_name_has_its_place_in_psycopgs_style(query: str, written: str) -> None:
    assert _for_psycopg(query, _pattern(["username"])) == written


@pytest.mark.parametrize(
    ("url", "query", "word"),
    [
        ("sqlite:users.db", None, "sqlite:/path"),
        ("sqlite:", None, "sqlite:/path"),
        ("mysql://localhost/x", None, "expected"),
        ("/var/users.db", None, "expected"),
        ("postgresql://ann:secret@localhost/x", None, "password_file"),
        ("postgresql://localhost/x?nonsense=1", None, "no address"),
        ("sqlite:/users.db", "SELECT secret FROM users", ":username"),
        ("sqlite:/users.db", "SELECT ':username'", ":username"),
    ],
)
def test_a_section_that_cannot_work_is_refused(url: str, query: str | None, word: str) -> None:
    with pytest.raises(ValueError, match=word) as caught:
        open_database(url, None, query or "SELECT :username", 1.0)
    assert "secret@" not in str(caught.value)


def test_sqlite_has_no_password() -> None:
    with pytest.raises(ValueError, match="password_file"):
        open_database("sqlite:/users.db", "x", "SELECT :username", 1.0)


@pytest.mark.parametrize(
    ("query", "written"),
    [
        ("a = :address AND b = :address", "a = %(address)s AND b = %(address)s"),
        ("l = :local_part AND d = :domain", "l = %(local_part)s AND d = %(domain)s"),
        ("l = :local_parts OR ':domain' = :domain", "l = :local_parts OR ':domain' = %(domain)s"),
    ],
)
def test_a_query_may_have_several_places(query: str, written: str) -> None:
    assert _for_psycopg(query, _pattern(["address", "local_part", "domain"])) == written


def test_values_that_the_query_does_not_name_are_no_matter(tmp_path: Path) -> None:
    (tmp_path / "x.db").touch()
    places = ("address", "local_part", "domain")
    asked = open_database(f"sqlite:{tmp_path}/x.db", None, "SELECT :domain, 1", 1.0, places)
    assert [tuple(row) for row in asked.rows({"address": "a@d", "local_part": "a", "domain": "d"})] == [("d", 1)]
    asked.close()
    with pytest.raises(ValueError, match=r":address or :local_part or :domain"):
        open_database(f"sqlite:{tmp_path}/x.db", None, "SELECT :username", 1.0, places)
