"""The program of the guide to applications takes what a gateway posts, and each message once."""

from __future__ import annotations

import io
import json
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mailgate.relay.web_post.request import Request
from mailgate.wire.signature import sign
from tests.unit.test_web_post import SECRETS, TWO, posted, rich, wire

GUIDE = (Path(__file__).parents[2] / "docs" / "guide" / "applications.md").read_text()
NOW = 1_700_000_100.0  # when these requests are signed


class Program:
    """What the guide's code makes, and how it answers."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (folder / "secrets").write_text("# ours\n" + "".join(f"{one.decode()}\n" for one in SECRETS))
        self.database = folder / "mail.db"
        monkeypatch.setenv("MAIL_SECRETS", str(folder / "secrets"))
        monkeypatch.setenv("MAIL_DATABASE", str(self.database))
        monkeypatch.setattr("time.time", lambda: NOW)
        (code,) = re.findall(r"^```python\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
        found: dict[str, Any] = {}
        exec(code, found)  # noqa: S102  our own page
        self._application: Callable[..., list[bytes]] = found["application"]

    def send(self, request: Request, *, method: str = "POST", body: bytes | None = None, **fields: str) -> str:
        octets = b"".join(request.pieces()) if body is None else body
        named = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in request.fields}
        environ = {"REQUEST_METHOD": method, "CONTENT_LENGTH": str(len(octets)), "wsgi.input": io.BytesIO(octets)}
        said: list[str] = []
        self._application({**environ, **named, **fields}, lambda status, _fields: said.append(status))
        (status,) = said
        return status[:3]

    def kept(self) -> list[tuple[str, str]]:
        with closing(sqlite3.connect(self.database)) as database:
            rows = database.execute("SELECT address, body FROM mail ORDER BY id").fetchall()
        return [(address, json.loads(body)["subject"]) for address, body in rows]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    return Program(tmp_path, monkeypatch)


def test_it_keeps_what_we_post_once_for_each_recipient(program: Program) -> None:
    request = posted(wire(rich()))
    assert [program.send(request) for _ in range(3)] == ["200"] * 3
    assert program.send(posted(wire(rich()), recipients=TWO[1:])) == "200"
    assert program.kept() == [("tickets@app.test", "Füße & mehr"), ("sales@app.test", "Füße & mehr")]


@pytest.mark.parametrize(
    "signature",
    [
        "",
        "t=1700000100",
        "v1=00",
        "t=1700000100,v1=\xe4",
        f"t={'9' * 5000},v1=00",
        "t=\xb2,v1=00",
        sign([b"a secret of somebody else"], 1_700_000_100, b"{}"),
        sign(SECRETS, 1_699_999_000, b"{}"),
        sign(SECRETS, 1_700_009_000, b"{}"),
        sign(SECRETS, 1_700_000_100, b"{ }"),
    ],
)
def test_it_takes_nothing_that_is_not_ours(program: Program, signature: str) -> None:
    assert program.send(posted(b"\r\nx"), body=b"{}", HTTP_MAILGATE_SIGNATURE=signature) == "403"
    assert program.kept() == []


def test_it_takes_either_of_two_secrets(program: Program) -> None:
    request = posted(b"Subject: x\r\n\r\nx")
    body = b"".join(request.pieces())
    for one in SECRETS:
        assert program.send(request, HTTP_MAILGATE_SIGNATURE=sign([one], int(NOW), body)) == "200"


def test_it_answers_the_doctor(program: Program) -> None:
    assert program.send(Request((), 0, lambda: iter(())), method="OPTIONS") == "405"


def test_what_goes_wrong_in_it_is_not_taken(program: Program) -> None:
    with closing(sqlite3.connect(program.database)) as database, database:
        database.execute("DROP TABLE mail")
    with pytest.raises(sqlite3.OperationalError):
        program.send(posted(b"Subject: x\r\n\r\nx"))


def test_the_guide_shows_what_is_posted() -> None:
    shown, *_ = (json.loads(one) for one in re.findall(r"^```json\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL))
    found = json.loads(b"".join(posted(wire(rich())).pieces()))
    for one in (shown, found):
        one |= {key: value[0] for key, value in one.items() if isinstance(value, list) and value}
    assert list(shown) == list(found)
    for key in ("recipients", "client", "authentication", "from", "attachments"):
        assert set(shown[key]) == set(found[key])
