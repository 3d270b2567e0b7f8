"""The suppression list as administrators and programs change it: the command, and /v1/suppressions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.web.resource import Resource
from twisted.web.server import Site

from mailgate.cli.main import main
from mailgate.stores.suppressions import Suppressions
from mailgate.web.resources import suppressions


class Command:
    def __init__(self, folder: Path) -> None:
        (folder / "state").mkdir()
        self.config = folder / "mailgate.toml"
        self.config.write_text(f'[gateway]\nstate_dir = "{folder / "state"}"\n')

    def __call__(self, *arguments: str, given: str | None = None) -> Result:
        command = ["suppressions", *arguments, "--config", str(self.config)]
        return CliRunner().invoke(main, command, input=given)


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path)


def test_the_command(command: Command) -> None:
    assert command("list").exit_code == 1
    assert command("add", "bob@example.net", "@example.com", "--detail", "asked by telephone").stdout == "2 added\n"
    assert command("add", "bob@example.net", "--scope", "news", "--for", "30d").stdout == "1 added\n"
    listed = json.loads(command("list", "--json").stdout)
    assert [(one["address"], one["scope"], one["until"] > 0) for one in listed] == [
        ("@example.com", "", False),
        ("bob@example.net", "", False),
        ("bob@example.net", "news", True),
    ]
    assert "bob@example.net for news: manual, since" in command("list", "bob@example.net").stdout
    assert "@example.com" not in command("list", "bob@example.net").stdout
    assert command("remove", "Bob@Example.net", "--scope", "news").stdout == "1 removed\n"
    assert command("remove", "bob@example.net").stdout == "1 removed\n"
    gone = command("remove", "bob@example.net")
    assert (gone.exit_code, "is not suppressed" in gone.stderr) == (1, True)


def test_import(command: Command) -> None:
    lines = '# from the old system\nann@example.net\n"bob@example.net",hard,2025\nno address\n\n' + "x" * 5000 + "\n"
    done = command("import", "-", "--scope", "news", given=lines)
    assert (done.exit_code, done.stdout) == (1, "2 added\n")
    assert "line 4: no address" in done.stderr
    assert len(json.loads(command("list", "--json", "--scope", "news").stdout)) == 2


@pytest.mark.parametrize("arguments", [("add", "nobody"), ("remove", "@"), ("add", "a@b.test", "--scope", "@@")])
def test_mistakes(command: Command, arguments: tuple[str, ...]) -> None:
    assert command(*arguments).exit_code in (1, 2)
    assert command("list").exit_code == 1


async def at_once(call: Any, /) -> Any:
    return call()


class Api:
    def __init__(self, folder: Path) -> None:
        clock = Clock()
        known = Suppressions(folder / "list.db", at_once, clock.seconds)
        root = Resource()
        root.putChild(b"list", suppressions(known, clock.seconds))
        self._site = Site(root, reactor=clock)

    def __call__(self, method: str, path: str = "", body: object = None) -> tuple[int, Any]:
        protocol: Any = self._site.buildProtocol(IPv4Address("TCP", "192.0.2.1", 1))
        transport = StringTransport()
        protocol.makeConnection(transport)
        octets = b"" if body is None else json.dumps(body).encode()
        head = f"{method} /list{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(octets)}\r\n\r\n"
        protocol.dataReceived(head.encode() + octets)
        told, _, answer = transport.value().partition(b"\r\n\r\n")
        return int(told.split()[1]), json.loads(answer[answer.index(b"{") : answer.rindex(b"}") + 1])


def test_the_api(tmp_path: Path) -> None:
    api = Api(tmp_path)
    entries = [{"address": f"u{number}@example.net", "scope": "news"} for number in range(3)]
    assert api("POST", "/add", {"entries": entries}) == (200, {"count": 3})
    assert api("POST", "/add", {"entries": entries}) == (200, {"count": 0})
    status, page = api("GET", "?limit=2")
    assert (status, [one["address"] for one in page["entries"]]) == (200, ["u0@example.net", "u1@example.net"])
    _, rest = api("GET", f"?limit=2&after={page['next'].replace(' ', '%20')}")
    assert ([one["address"] for one in rest["entries"]], rest["next"]) == (["u2@example.net"], "")
    assert api("POST", "/remove", {"address": "U1@example.net"}) == (200, {"count": 1})
    assert len(api("GET", "?scope=news")[1]["entries"]) == 2
    assert api("GET", "?address=u1@example.net")[1]["entries"] == []


@pytest.mark.parametrize(
    ("path", "body", "wrong"),
    [
        ("/add", {"entries": [{"address": "nobody"}]}, "entries.0.address"),
        ("/add", {"entries": []}, "entries"),
        ("/add", {"entries": [{"address": "a@b.test", "scope": "@@"}]}, "entries.0.scope"),
        ("/add", {"entries": [{"address": "a@b.test", "until": -1}]}, "entries.0.until"),
        ("/add", {"entries": [{"address": "a@b.test", "reason": "x"}]}, "entries.0.reason"),
        ("/remove", {}, "address"),
    ],
)
def test_mistakes_of_programs(tmp_path: Path, path: str, body: object, wrong: str) -> None:
    status, told = Api(tmp_path)("POST", path, body)
    assert (status, wrong in told["error"]) == (400, True)


def test_questions_that_nobody_understands(tmp_path: Path) -> None:
    api = Api(tmp_path)
    assert api("GET", "?limit=0")[0] == 400
    assert api("GET", "?colour=red")[0] == 400
