"""The control socket: Twisted's own HTTP in memory, on a spool in memory."""

from __future__ import annotations

import json
import os
import socket
import stat
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IReactorThreads
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool
from twisted.web.server import Site
from zope.interface import implementer

from mailgate.address import NULL_PATH, Address
from mailgate.envelope import Envelope, EnvelopeRecipient
from mailgate.events import OperatorActed, SpoolFailed, SpoolRecovered, Started, Stopping
from mailgate.interfaces import IEventObserver
from mailgate.message import AddHeader, Content, RemoveHeader, RenameHeader
from mailgate.testing import EventRecorder, MemorySpool
from mailgate.web.control import Control, StatusBoard
from mailgate.web.models import Selection
from mailgate.web.operations import QueueOperations, described, parse_after
from mailgate.web.places import Places
from mailgate.web.resources import resources

DATA = b"Subject: hello\r\nFrom: ann@client.test\r\n\r\nthe text\r\n"


class Daemon:
    """What the socket serves, on one connection after another."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.spool = MemorySpool(self.clock)
        self.events = EventRecorder()
        self.kicks = 0
        self.board = StatusBoard(self.clock.seconds)
        self.operations = QueueOperations(self.spool, self.events, self._kick)
        self._site = Site(resources(self.operations, self.board.status), reactor=self.clock)

    def _kick(self) -> None:
        self.kicks += 1

    def add(self, queue_id: str, *recipients: str, state: str = "queued", data: bytes = DATA, **more: Any) -> None:
        addresses = [Address.parse(one) for one in recipients or ("bob@box.test",)]
        quarantine = "a virus" if state == "quarantined" else ""
        envelope = Envelope(
            **{
                "queue_id": queue_id,
                "sender": Address("Ann", "client.test"),
                "recipients": tuple(
                    EnvelopeRecipient(number, one, "box", quarantine) for number, one in enumerate(addresses)
                ),
                "received": self.clock.seconds(),
                "size": len(data),
                **more,
            }
        )
        lease = result(self.spool.accept(envelope, Content(data), self.clock.seconds() + 60))
        if state in ("queued", "held"):
            result(self.spool.release_leases([lease]))
        if state == "held":
            result(self.spool.hold(Selection(ids=(queue_id,)).selectors()[0]))

    def ask(self, method: str, target: str, body: object = None) -> tuple[int, Any]:
        text = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        transport = StringTransport()
        channel = self._site.buildProtocol(None)
        assert channel is not None
        channel.makeConnection(transport)
        head = (
            f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(text)}\r\n\r\n"
        )
        channel.dataReceived(head.encode() + text)
        answer, _, content = transport.value().partition(b"\r\n\r\n")
        assert b"content-type: application/json" in answer.lower()
        if b"chunked" in answer.lower():
            content = b"".join(content.split(b"\r\n")[1::2])
        return int(answer.split()[1]), json.loads(content)

    def states(self) -> dict[str, str]:
        page = result(Deferred.fromCoroutine(self.operations.list(Selection(), 1000)))
        return {f"{one.queue_id}:{one.number}": one.state for one in page.entries}

    def acted(self) -> list[tuple[str, str, tuple[str, ...]]]:
        return [(one.action, one.queue_id, one.recipients) for one in self.events.of(OperatorActed)]


def result(awaited: Any) -> Any:
    """What a Deferred that has fired holds."""
    results: list[Any] = []
    awaited.addCallback(results.append)
    return results[0]


@pytest.fixture
def daemon() -> Daemon:
    return Daemon()


def test_list(daemon: Daemon) -> None:
    daemon.add("A", "bob@box.test", "carol@other.test")
    daemon.add("B", state="held", sender=NULL_PATH)
    code, page = daemon.ask("GET", "/v1/queue")
    assert code == 200
    assert [(one["queue_id"], one["recipient"], one["state"]) for one in page["entries"]] == [
        ("A", "bob@box.test", "queued"),
        ("A", "carol@other.test", "queued"),
        ("B", "bob@box.test", "held"),
    ]
    assert page["after"] == ""


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("recipient=BOB@box.test", ["A:0", "B:0"]),
        ("domain=other.test", ["A:1"]),
        ("state=held", ["B:0"]),
        ("sender=ann@client.test&domain=box.test", ["A:0"]),
        ("ids=B&ids=A&recipient=bob@box.test", ["A:0", "B:0"]),
        ("ids=b", ["B:0"]),
        ("ids=C", []),
        ("route=nowhere", []),
        ("older_than=10", []),
    ],
)
def test_conditions(daemon: Daemon, query: str, found: list[str]) -> None:
    daemon.add("A", "bob@box.test", "carol@other.test")
    daemon.add("B", state="held", sender=NULL_PATH)
    _, page = daemon.ask("GET", f"/v1/queue?{query}")
    assert [f"{one['queue_id']}:{one['number']}" for one in page["entries"]] == found


@pytest.mark.parametrize("ids", ["", "&ids=A&ids=B&ids=C"], ids=["all", "by ids"])
def test_pages(daemon: Daemon, ids: str) -> None:
    for queue_id in "ABC":
        daemon.add(queue_id, "a@x.test", "b@x.test", "c@x.test")
    seen: list[str] = []
    after = ""
    for _ in range(5):
        _, page = daemon.ask("GET", f"/v1/queue?limit=2&after={after}{ids}")
        seen += [f"{one['queue_id']}:{one['number']}" for one in page["entries"]]
        after = page["after"]
    assert seen == [f"{queue_id}:{number}" for queue_id in "ABC" for number in range(3)]
    assert after == ""


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("limit=0", "limit"),
        ("limit=x", "invalid literal"),
        ("limit=10001", "limit"),
        ("after=A", "ID:NUMBER"),
        ("after=../x:1", "ID:NUMBER"),
        ("colour=red", "colour"),
        ("state=odd", "state"),
        ("older_than=-1", "older_than"),
        ("sender=%ff", "decode"),
        ("ids=", "ids: Value error, may not be empty"),
        ("ids=A&ids=", "ids"),
        ("sender=&domain=box.test", "sender"),
    ],
)
def test_a_question_that_is_none(daemon: Daemon, query: str, told: str) -> None:
    code, problem = daemon.ask("GET", f"/v1/queue?{query}")
    assert code == 400
    assert told in problem["error"]


def test_show(daemon: Daemon) -> None:
    edits = (AddHeader("Received", "from x\r\n\tby y"), RemoveHeader("Bcc"))
    daemon.add("A", state="quarantined", client="unknown[192.0.2.1]", edits=edits)
    code, shown = daemon.ask("GET", "/v1/queue/A")
    assert code == 200
    assert daemon.ask("GET", "/v1/queue/a") == (200, shown)
    assert shown["sender"] == "Ann@client.test"
    assert shown["recipients"] == [{"address": "bob@box.test", "route": "box", "quarantine": "a virus"}]
    assert shown["edits"] == ["add at the top: Received: from x by y", "remove every Bcc"]
    assert shown["header"] == "Subject: hello\r\nFrom: ann@client.test\r\n"
    assert (shown["text"], shown["is_whole"]) == ("the text\r\n", True)
    assert [one["state"] for one in shown["entries"]] == ["quarantined"]


def test_a_long_message_is_shown_in_part(daemon: Daemon) -> None:
    daemon.add("A", data=b"Subject: \xff\r\n\r\n" + b"\xfe" * 100_000)
    _, shown = daemon.ask("GET", "/v1/queue/A")
    assert shown["text"] == "\ufffd" * 4096
    assert shown["header"] == "Subject: \ufffd\r\n"
    assert not shown["is_whole"]


def test_what_is_not_there(daemon: Daemon) -> None:
    for target in (
        "/v1/queue/ZZZ",
        "/v1/queue/..%2fx",
        "/",
        "/v1",
        "/v2/queue",
        "/v1/queue/A/b",
        "/v1/queue/",
        "/v1/status/x",
    ):
        code, problem = daemon.ask("GET", target)
        assert code == 404, target
        assert problem["error"]


def test_words_and_methods(daemon: Daemon) -> None:
    assert daemon.ask("POST", "/v1/queue", {})[0] == 405
    assert daemon.ask("GET", "/v1/queue/hold")[0] == 405
    assert daemon.ask("DELETE", "/v1/queue/A")[0] == 405
    assert [described(one) for one in (AddHeader("A", "b", True), RemoveHeader("A", "b"), RenameHeader("A", "B"))] == [
        "add at the end: A: b",
        "remove A: b",
        "rename A to B",
    ]
    assert parse_after("") is None
    assert parse_after("A:7") == ("A", 7)
    for text in ("A", "A:", "A:x", "A:-1", "A:99999999999999999999"):
        with pytest.raises(ValueError, match="not a place in the queue"):
            parse_after(text)


# -- changes


def test_hold_release_retry_delete(daemon: Daemon) -> None:
    daemon.add("A", "bob@box.test", "carol@other.test")
    daemon.add("B")
    code, changed = daemon.ask("POST", "/v1/queue/hold", {"ids": ["A"], "domain": "other.test"})
    assert (code, changed) == (200, {"action": "hold", "matched": 1, "changed": 1, "busy": 0, "later": 0, "others": {}})
    assert daemon.states() == {"A:0": "queued", "A:1": "held", "B:0": "queued"}
    assert daemon.kicks == 1
    _, changed = daemon.ask("POST", "/v1/queue/release", {"everything": True})
    assert (changed["matched"], changed["changed"], changed["others"]) == (3, 1, {"queued": 2})
    assert daemon.ask("POST", "/v1/queue/retry", {"sender": "ann@client.test"})[1]["changed"] == 3
    assert daemon.ask("POST", "/v1/queue/delete", {"ids": ["A", "C"]})[1]["changed"] == 2
    assert daemon.states() == {"B:0": "queued"}
    assert daemon.acted() == [
        ("hold", "A", ("carol@other.test",)),
        ("release", "A", ("carol@other.test",)),
        ("retry", "A", ("bob@box.test", "carol@other.test")),
        ("retry", "B", ("bob@box.test",)),
        ("delete", "A", ("bob@box.test", "carol@other.test")),
    ]


def test_what_is_under_delivery(daemon: Daemon) -> None:
    daemon.add("A", state="leased")
    assert daemon.ask("POST", "/v1/queue/delete", {"ids": ["A"]})[1] == {
        "action": "delete",
        "matched": 1,
        "changed": 0,
        "busy": 1,
        "later": 0,
        "others": {},
    }
    assert daemon.acted() == []
    assert daemon.ask("POST", "/v1/queue/hold", {"ids": ["A"]})[1]["busy"] == 1
    # It will be held when its attempt has ended: somebody has asked for that.
    assert daemon.acted() == [("hold", "A", ("bob@box.test",))]


def test_nothing_that_fits_changes_nothing(daemon: Daemon) -> None:
    daemon.add("A")
    assert daemon.ask("POST", "/v1/queue/delete", {"recipient": "x@y.test"})[1]["matched"] == 0
    assert (daemon.kicks, daemon.acted(), daemon.states()) == (0, [], {"A:0": "queued"})


def test_long_queues_and_long_lists_of_recipients(daemon: Daemon) -> None:
    for number in range(30):
        daemon.add(f"Q{number:02}", *(f"u{one}@box.test" for one in range(number * 3 + 1)))
    daemon.add("R", *(f"u{one}@box.test" for one in range(700)))
    total = sum(number * 3 + 1 for number in range(30)) + 700
    changed = daemon.ask("POST", "/v1/queue/hold", {"everything": True})[1]
    assert (changed["matched"], changed["changed"]) == (total, total)
    assert [len(recipients) for _, _, recipients in daemon.acted()] == [*range(1, 91, 3), 700]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "JSON"),
        (b"{", "JSON"),
        (b"\xff", "JSON"),
        (b"[]", "object"),
        ({}, "which entries"),
        ({"everything": False}, "which entries"),
        ({"everything": True, "ids": ["A"]}, "everything"),
        ({"everything": True, "older_than": 1}, "everything"),
        ({"speed": 3}, "speed"),
        ({"ids": "A"}, "ids"),
        ({"state": "gone"}, "state"),
        ({"ids": [""]}, "ids: Value error, may not be empty"),
        ({"ids": ["A", ""]}, "ids"),
        ({"ids": [], "domain": "box.test"}, "ids"),
        ({"ids": ["A"], "sender": ""}, "sender"),
        ({"ids": ["A"], "recipient": ""}, "recipient"),
        ({"ids": ["A"], "domain": ""}, "domain"),
        ({"ids": ["A"], "route": ""}, "route"),
        ({"ids": ["A"], "state": ""}, "state"),
    ],
)
@pytest.mark.parametrize("action", ["delete", "hold"])
def test_a_change_that_is_none(daemon: Daemon, action: str, body: object, told: str) -> None:
    daemon.add("A")
    code, problem = daemon.ask("POST", f"/v1/queue/{action}", body)
    assert code == 400
    assert told in problem["error"]
    assert daemon.states() == {"A:0": "queued"}


def test_too_much(daemon: Daemon) -> None:
    assert daemon.ask("POST", "/v1/queue/hold", b" " * (1024 * 1024 + 1))[0] == 413


def test_a_spool_that_fails(daemon: Daemon) -> None:
    daemon.add("A")
    daemon.spool.error = "the disk is full"
    for method, target, body in (
        ("GET", "/v1/queue", None),
        ("GET", "/v1/queue/A", None),
        ("POST", "/v1/queue/hold", {"ids": ["A"]}),
    ):
        code, problem = daemon.ask(method, target, body)
        assert (code, problem) == (503, {"error": "the disk is full"})
    assert daemon.acted() == []


def test_a_bug_is_told_without_its_inside(daemon: Daemon) -> None:
    daemon.spool.view = None  # type: ignore[assignment,method-assign]
    code, problem = daemon.ask("GET", "/v1/queue")
    assert code == 500
    assert "NoneType" not in problem["error"]


# -- status, and the socket


def test_status(daemon: Daemon) -> None:
    assert IEventObserver.providedBy(daemon.board)
    code, status = daemon.ask("GET", "/v1/status")
    assert code == 200
    assert (status["pid"], status["started"], status["listeners"]) == (os.getpid(), None, [])
    daemon.board.observe(Started(at=daemon.clock.seconds(), listeners=("mx", "submission")))
    daemon.board.observe(SpoolFailed(at=1.0, error="no space"))
    daemon.clock.advance(60)
    status = daemon.ask("GET", "/v1/status")[1]
    assert (status["uptime"], status["listeners"], status["spool"]) == (60.0, ["mx", "submission"], "no space")
    daemon.board.observe(SpoolRecovered(at=1.0))
    daemon.board.observe(Stopping(at=1.0))
    status = daemon.ask("GET", "/v1/status")[1]
    assert (status["spool"], status["stopping"]) == ("ok", True)


class Pool(ThreadPool):
    """A thread pool whose thread is this one."""

    def callInThreadWithCallback(self, onResult: Any, func: Any, *args: Any, **kw: Any) -> None:  # noqa: N802, N803
        onResult(True, func(*args, **kw))


@implementer(IReactorThreads)
class Reactor(MemoryReactorClock):
    """With a pool of threads."""

    def getThreadPool(self) -> Pool:  # noqa: N802  Twisted's name
        return Pool()

    def callFromThread(self, callable: Any, *args: object, **kwargs: object) -> None:  # noqa: N802, A002  Twisted's
        callable(*args, **kwargs)

    def callInThread(self, callable: Any, *args: object, **kwargs: object) -> None:  # noqa: N802, A002  Twisted's
        callable(*args, **kwargs)

    def suggestThreadPoolSize(self, size: int) -> None:  # noqa: N802  Twisted's
        raise NotImplementedError


def reactor() -> Reactor:
    return Reactor()  # type: ignore[no-untyped-call]  # Twisted's


@pytest.mark.parametrize("left", ["nothing", "a dead socket"])
def test_the_socket(tmp_path: Path, daemon: Daemon, left: str) -> None:
    path = Places(tmp_path).control
    if left != "nothing":
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
        assert stat.S_ISSOCK(path.lstat().st_mode)
    memory = reactor()
    control = Control(memory, daemon.spool, daemon.events, daemon._kick, daemon.board)
    control.listen(path)
    assert not path.exists()
    ((address, factory, _, mode, _),) = [(*one,) for one in memory.unixServers]
    assert (address, mode) == (str(path), 0o600)
    daemon.add("A")
    transport = StringTransport()
    channel = factory.buildProtocol(None)
    channel.makeConnection(transport)
    channel.dataReceived(b"GET /v1/queue/A HTTP/1.0\r\n\r\n")
    assert b'"queue_id":"A"' in transport.value()
    assert transport.disconnecting
    fired: list[object] = []
    control.close().addCallback(fired.append)
    control.close().addCallback(fired.append)
    assert fired == [None, None]


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path, daemon: Daemon) -> None:
    path = Places(tmp_path).control
    path.write_text("precious")
    Control(reactor(), daemon.spool, daemon.events, daemon._kick, daemon.board).listen(path)
    assert path.read_text() == "precious"


def test_a_client_that_has_gone_disturbs_nobody(daemon: Daemon) -> None:
    waiting: Deferred[Any] = Deferred()
    daemon.spool.view = lambda *_: waiting  # type: ignore[method-assign]
    channel = daemon._site.buildProtocol(None)
    assert channel is not None
    channel.makeConnection(StringTransport())
    channel.dataReceived(b"GET /v1/queue HTTP/1.1\r\nHost: x\r\n\r\n")
    channel.connectionLost(Failure(ConnectionLost()))
    waiting.callback([])
