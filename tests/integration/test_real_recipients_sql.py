"""Recipients in a real PostgreSQL, and what an outage of it leaves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from databases import PASSWORD, Postgresql
from parts import folder, wait_until
from recipients_ask import NO, PUT_OFF, YES, AskingGateway

pytestmark = pytest.mark.needs("postgres", "initdb", "setpriv", "root")


@pytest.fixture(scope="module")
def database() -> Iterator[Postgresql]:
    with folder("sql") as directory, Postgresql(directory / "postgres") as server:
        with server.connect() as connection:
            connection.execute("CREATE TABLE recipients (address text)")
            rows = [("ann@corp.test",), ("jörg@corp.test",), ("o'brien@corp.test",)]
            connection.cursor().executemany("INSERT INTO recipients VALUES (%s)", rows)
        yield server


def section(database: Postgresql, folder: Path, **changes: Any) -> dict[str, Any]:
    word = folder / "word"
    word.write_text(PASSWORD)
    word.chmod(0o600)
    return {"kind": "sql", "url": database.url, "password_file": word, **changes}


def test_a_row_is_a_recipient(database: Postgresql, base: Path) -> None:
    query = "SELECT NULL FROM recipients WHERE address = :local_part || '@' || :domain AND address NOT LIKE '%:address'"
    with AskingGateway(base / "gateway", "corp.test", {"db": section(database, base, query=query)}) as gateway:
        assert gateway.says("ANN@corp.test", "ann+tag@corp.test", "o'brien@corp.test") == [YES, YES, YES]
        assert gateway.says("bob@corp.test", "ann%@corp.test", "'--@corp.test") == [NO, NO, NO]


@pytest.mark.parametrize(
    "query",
    [
        "INSERT INTO recipients VALUES (:address) RETURNING address",
        "SELECT pg_sleep(30) FROM recipients WHERE address = :address",
        "SELECT nothing FROM recipients WHERE address = :address",
    ],
)
def test_a_query_that_writes_sleeps_or_is_wrong_puts_mail_off(database: Postgresql, base: Path, query: str) -> None:
    asked = section(database, base, query=query, timeout="1s")
    with AskingGateway(base / "gateway", "corp.test", {"db": asked}) as gateway:
        assert gateway.says("ann@corp.test") == [PUT_OFF]
    with database.connect() as connection:
        assert connection.execute("SELECT count(*) FROM recipients").fetchone() == (3,)


def test_an_outage_leaves_who_was_known_and_another_source_helps(database: Postgresql, base: Path) -> None:
    sections = {
        "db": section(database, base, cache="0s", cache_unknown="0s", timeout="1s"),
        "extra": {"kind": "list", "addresses": ["eve@corp.test"]},
    }
    with AskingGateway(base / "gateway", "corp.test", sections) as gateway:
        assert gateway.says("ann@corp.test", "eve@corp.test", "bob@corp.test") == [YES, YES, NO]
        with database.connect() as connection:
            connection.execute("ALTER TABLE recipients RENAME TO gone")
        try:
            told = gateway.says("ann@corp.test", "eve@corp.test", "bob@corp.test")
            assert told == [YES, YES, PUT_OFF]
        finally:
            with database.connect() as connection:
                connection.execute("ALTER TABLE gone RENAME TO recipients")
        wait_until(lambda: gateway.says("bob@corp.test") == [NO], "it is asked again")
