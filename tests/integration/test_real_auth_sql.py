"""Logins by users in a real PostgreSQL: secrets, lost connections, and what a query may not do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from auth_ask import NO, UNAVAILABLE, ask
from databases import PASSWORD, Postgresql
from parts import folder, free_port

from mailgate.backends.database import DatabaseError, open_database
from mailgate.wire.scram_secret import ScramSecret

pytestmark = pytest.mark.needs("postgres", "initdb", "setpriv", "root")


@pytest.fixture(scope="module")
def database() -> Iterator[Postgresql]:
    with folder("sql") as directory, Postgresql(directory / "postgres") as server:
        with server.connect() as connection:
            connection.execute("CREATE TABLE users (name text, secret text, called text)")
            rows = [("ann", "{PLAIN}annpw", None), ("Bob@corp.test", str(ScramSecret.derive("bobpw")), "bob")]
            connection.cursor().executemany("INSERT INTO users VALUES (%s, %s, %s)", rows)
        yield server


def section(database: Postgresql, folder: Path, **changes: Any) -> dict[str, Any]:
    (folder / "password").write_text(PASSWORD)
    return {"kind": "sql", "url": database.url, "password_file": folder / "password", **changes}


def test_the_right_password_and_no_other(database: Postgresql, tmp_path: Path) -> None:
    query = "SELECT secret, called FROM users WHERE lower(name) = lower(:username::text) AND name NOT LIKE '%:username'"
    logins = [
        ("ANN", "annpw"),
        ("ann", "bobpw"),
        ("bob@corp.test", "bobpw"),
        ("bob@corp.test", "annpw"),
        ("nobody", "annpw"),
        ("' OR name = 'ann", "annpw"),
        ("ann%", "annpw"),
    ]
    assert ask(section(database, tmp_path, query=query), *logins) == ["ANN", NO, "bob", NO, NO, NO, NO]


@pytest.mark.parametrize(
    "query",
    [
        "INSERT INTO users VALUES (:username, '', '') RETURNING secret",
        "SELECT secret FROM users WHERE name = :username AND pg_sleep(20) IS NOT NULL",
        "SELECT nothing FROM users WHERE name = :username",
    ],
)
def test_a_query_that_writes_sleeps_or_is_wrong_is_no_answer(database: Postgresql, tmp_path: Path, query: str) -> None:
    assert ask(section(database, tmp_path, query=query, timeout="1s"), ("ann", "annpw")) == [UNAVAILABLE]
    with database.connect() as connection:
        assert connection.execute("SELECT count(*) FROM users").fetchone() == (2,)


def test_a_password_of_ours_that_is_wrong_is_no_answer(database: Postgresql, tmp_path: Path) -> None:
    wrong = section(database, tmp_path)
    (tmp_path / "password").write_text("old one")
    assert ask(wrong, ("ann", "annpw")) == [UNAVAILABLE]


def test_a_connection_that_was_lost_is_replaced(database: Postgresql) -> None:
    asked = open_database(database.url, PASSWORD, "SELECT secret FROM users WHERE name = :username", 5.0)
    assert [list(row) for row in asked.rows({"username": "ann"})] == [["{PLAIN}annpw"]]
    with database.connect() as connection:
        ours = connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'mailgate'"
        ).fetchall()
    assert len(ours) == 1
    assert [list(row) for row in asked.rows({"username": "ann"})] == [["{PLAIN}annpw"]]
    assert asked.rows({"username": "nobody"}) == []
    asked.close()


def test_a_server_that_is_away_is_no_answer_and_tells_no_secret() -> None:
    asked = open_database(f"postgresql://mail@127.0.0.1:{free_port()}/users", PASSWORD, "SELECT :username", 2.0)
    with pytest.raises(DatabaseError) as caught:
        asked.rows({"username": "ann"})
    assert not any(word in f"{caught.value} {asked!r}" for word in (PASSWORD, "ann"))
