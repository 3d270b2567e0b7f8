"""The suppression list as administrators and programs change it: the command, and /v1/suppressions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from click.testing import CliRunner, Result
from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.web.resource import Resource
from twisted.web.server import Site

from mailgate.cli.main import main
from mailgate.events import Suppressed, SuppressionsImported, Unsuppressed
from mailgate.stores.suppressions import Suppressions, key_of
from mailgate.testing import EventRecorder
from mailgate.web.resources import suppressions
from mailgate.web.suppressions import SuppressionOperations
from tests.unit.cli_machine import DaemonThread, Machine


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


def test_what_is_listed(command: Command) -> None:
    command("add", "@example.net", "bob@example.net", "eve@example.com")
    for_bob = json.loads(command("list", "Bob@example.net", "--json").stdout)
    assert [one["address"] for one in for_bob] == ["bob@example.net", "@example.net"]
    assert command("list", "carol@example.net").stdout.startswith("@example.net: manual")
    assert len(command("list", "@example.net").stdout.splitlines()) == 1
    some = command("list", "--limit", "2")
    assert (len(some.stdout.splitlines()), some.stderr) == (
        2,
        "There are more; --limit says how many are told (now 2).\n",
    )
    assert command("list", "--limit", "3").stderr == ""


def test_import(command: Command) -> None:
    lines = '# from the old system\nann@example.net\n"bob@example.net",hard,2025\nno address\n\n' + "x" * 5000 + "\n"
    done = command("import", "-", "--scope", "news", given=lines)
    assert (done.exit_code, done.stdout) == (1, "2 added\n")
    assert "line 4: no address" in done.stderr
    assert len(json.loads(command("list", "--json", "--scope", "news").stdout)) == 2


def test_what_is_exported_is_imported_as_it_was(command: Command, tmp_path: Path) -> None:
    assert command("export").stdout == ""
    command("add", "bob@example.net", "--scope", "news", "--for", "30d", "--detail", "asked, by letter")
    eve = '{"address": "eve@example.net", "reason": "bounce", "added": 5}'
    command("import", "-", given=f"\ufeffann@example.net\n{eve}\n")
    text = command("export").stdout
    assert len(text.splitlines()) == 3
    (tmp_path / "other").mkdir()
    other = Command(tmp_path / "other")
    assert other("import", "-", given=text).stdout == "3 added\n"
    assert json.loads(other("list", "--json").stdout) == json.loads(command("list", "--json").stdout)
    assert other("list", "--reason", "bounce").stdout.startswith("eve@example.net: bounce, since 1970-01-01 ")
    wrong = other("import", "-", given='{"address": "x@example.net", "colour": "red"}\n{"address": \n{}\n')
    assert (wrong.exit_code, wrong.stdout, len(wrong.stderr.splitlines())) == (1, "0 added\n", 4)


def test_a_line_that_is_too_long_is_one(command: Command) -> None:
    lines = "x" * 3996 + "\na@example.net\n" + "y" * 3990 + " b@example.net\nc@example.net," + "z" * 9000 + "\n"
    done = command("import", "-", given=lines)
    assert (done.stdout, done.stderr.count("line ")) == ("2 added\n", 2)
    assert [one["address"] for one in json.loads(command("list", "--json").stdout)] == [
        "a@example.net",
        "c@example.net",
    ]


@pytest.mark.parametrize("runs", [True, False])
def test_changes_are_told_of(tmp_path: Path, runs: bool) -> None:
    """By the daemon, or to the history where none runs."""
    machine = Machine(tmp_path)
    machine.open()
    daemon = DaemonThread(machine) if runs else None
    if daemon is None:
        machine.close()
    assert machine.run("suppressions", "add", "Bob@example.net", "--scope", "news", "--detail", "letter").stdout
    assert machine.run("suppressions", "remove", "bob@EXAMPLE.net").stdout == "1 removed\n"
    machine.run("suppressions", "remove", "bob@example.net", code=1)
    if daemon is not None:
        daemon.stop()
        machine.tell(*machine.events.events)
        machine.close()
    machine.run("suppressions", "add", "bob@example.net")
    lines = [line.partition("  ")[2].strip() for line in machine.run("why", "bob@example.net").stdout.splitlines()]
    told = [line.split("  ")[-1] for line in lines]
    assert "Bob@example.net gets no more mail of the stream news: manual, says an administrator" in told
    assert "bob@example.net gets mail of the stream news again, says an administrator" in told
    assert (
        machine.run("why", "Bob@example.net")
        .stdout.splitlines()[-1]
        .startswith("on the suppression list: bob@example.net: manual, since ")
    )


def test_why_tells_who_is_on_the_list_by_the_domain(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.run("suppressions", "add", "@example.net", "--scope", "news", "--detail", "closed")
    said = machine.run("why", "<bob@example.net>").stdout
    assert said.startswith("on the suppression list: @example.net for news: manual (closed), since ")
    machine.run("why", "bob@example.com", code=1)


@pytest.mark.parametrize(
    "arguments",
    [("add", "nobody"), ("remove", "@"), ("add", "a@b.test", "--scope", "@@"), ("add", "a@b.test", "--scope", "a b")],
)
def test_mistakes(command: Command, arguments: tuple[str, ...]) -> None:
    assert command(*arguments).exit_code in (1, 2)
    assert command("list").exit_code == 1


async def at_once(call: Any, /) -> Any:
    return call()


class Api:
    def __init__(self, folder: Path) -> None:
        clock = Clock()
        self.events = EventRecorder()
        known = Suppressions(folder / "list.db", at_once, clock.seconds)
        root = Resource()
        root.putChild(b"list", suppressions(SuppressionOperations(known, self.events, clock.seconds)))
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
    _, rest = api("GET", f"?limit=2&after={quote(page['next'])}")
    assert ([one["address"] for one in rest["entries"]], rest["next"]) == (["u2@example.net"], "")
    assert api("POST", "/remove", {"address": "U1@example.net"}) == (200, {"count": 1})
    assert len(api("GET", "?scope=news")[1]["entries"]) == 2
    assert api("GET", "?address=u1@example.net")[1]["entries"] == []


def test_the_api_tells_of_changes(tmp_path: Path) -> None:
    api = Api(tmp_path)
    api(
        "POST", "/add", {"entries": [{"address": "bob@example.net", "scope": "news", "detail": "letter", "until": 9e9}]}
    )
    api("POST", "/add", {"entries": [{"address": "bob@example.net"}]})
    api("POST", "/add", {"entries": [{"address": "bob@example.net"}]})
    first, second = api.events.of(Suppressed)
    assert (first.recipient, first.scope, first.reason, first.detail) == ("bob@example.net", "news", "manual", "letter")
    assert (first.until, first.by, second.scope) == (9e9, "an administrator", "")
    api("POST", "/remove", {"address": "bob@example.net"})
    assert [(one.scope, one.reason) for one in api.events.of(Unsuppressed)] == [("", "manual"), ("news", "manual")]
    api.events.events.clear()
    entries = [{"address": f"u{number}@example.net"} for number in range(1000)]
    assert api("POST", "/add", {"entries": entries})[1] == {"count": 1000}
    assert [one.count for one in api.events.of(SuppressionsImported)] == [500, 500]
    assert len(api.events.events) == 2
    assert api("POST", "/add", {"entries": [*entries, {"address": "more@example.net"}]})[0] == 400


def test_pages_of_quoted_addresses(tmp_path: Path) -> None:
    api = Api(tmp_path)
    names = ['"a b"@example.net', '"a c"@example.net', "b@example.net"]
    entries = [{"address": one, "scope": scope} for one in names for scope in ("", "z@example.org")]
    assert api("POST", "/add", {"entries": entries})[1] == {"count": 6}
    found, after = [], ""
    for _ in range(7):
        page = api("GET", f"?limit=1&after={quote(after)}")[1]
        found += [(one["address"], one["scope"]) for one in page["entries"]]
        after = page["next"]
        if not after:
            break
    assert found == sorted({(one["address"], one["scope"]) for one in entries})


def test_a_disk_that_fails_is_for_later(tmp_path: Path) -> None:
    (tmp_path / "list.db").mkdir()
    status, told = Api(tmp_path)("POST", "/add", {"entries": [{"address": "bob@example.net"}]})
    assert (status, "unable to open" in told["error"]) == (503, True)


@pytest.mark.parametrize(
    ("path", "body", "wrong"),
    [
        ("/add", {"entries": [{"address": "nobody"}]}, "entries.0.address"),
        ("/add", {"entries": []}, "entries"),
        ("/add", {"entries": [{"address": "a@b.test", "scope": "@@"}]}, "entries.0.scope"),
        ("/add", {"entries": [{"address": "a@b.test", "scope": "our news"}]}, "entries.0.scope"),
        ("/add", {"entries": [{"address": "a@b.test", "until": -1}]}, "entries.0.until"),
        ("/add", {"entries": [{"address": "a@b.test", "until": 1e300}]}, "entries.0.until"),
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


def test_an_address_is_the_same_however_its_letters_are_put_together() -> None:
    assert key_of("A\u0301nn@example.net") == key_of("\u00e1nn@EXAMPLE.net") == "\u00e1nn@example.net"
