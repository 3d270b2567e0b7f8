"""The control socket: Twisted's own HTTP in memory, on a spool in memory."""

from __future__ import annotations

import json
import os
import socket
import stat
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IReactorThreads
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool
from twisted.web.server import Site
from zope.interface import implementer
from zope.interface.verify import verifyObject

from mailgate.address import NULL_PATH, Address
from mailgate.config.places import Places
from mailgate.envelope import Envelope, EnvelopeRecipient, MailParameters
from mailgate.events import Bounced, OperatorActed, SpoolFailed, SpoolRecovered, Started, Stopping, SuspensionChanged
from mailgate.interfaces import IEventObserver, IRelay, Lease, Outcome, OutcomeKind, Return, Selector, SpoolError
from mailgate.message import AddHeader, Content, RemoveHeader, RenameHeader
from mailgate.message.words import described
from mailgate.quarantine.office import QuarantineOffice
from mailgate.quarantine.originals import Originals
from mailgate.reply import parse_reply
from mailgate.testing import EventRecorder, MemorySpool
from mailgate.web.control import Control, StatusBoard
from mailgate.web.operations import QueueOperations, parse_after
from mailgate.web.quarantine import QuarantineOperations
from mailgate.web.resources import resources
from mailgate.web.selection import Selection
from mailgate.web.steering import Steering
from tests.unit.told_relay import ToldRelay, site_view

#: Of what a change leaves alone, what most do not.
REST = {"suspended": {}, "there": 0}
DATA = b"Subject: hello\r\nFrom: ann@client.test\r\n\r\nthe text\r\n"


class Daemon:
    """What the socket serves, on one connection after another."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.spool = MemorySpool(self.clock)
        self.events = EventRecorder()
        self.relay = ToldRelay(self.spool, self.events, self.clock)
        self.board = StatusBoard(self.clock.seconds)
        now = self.clock.seconds
        self.operations = QueueOperations(self.spool, self.events, self.relay, self.routes, now=now)
        steering = Steering(self.spool, self.events, self.relay, self.routes, now)
        self.leases: dict[str, Lease] = {}
        self.office = QuarantineOffice(
            self.spool,
            self.events,
            self.relay,
            clock=self.clock,
            originals=Originals(Path("unused")),
            route_of=lambda recipient, sender: "box",
            incoming=Path("unused"),
        )
        kept_back = QuarantineOperations.of(self.office, self.spool, self.events, self.operations)
        self._site = Site(resources(self.operations, steering, self.board.status, kept_back), reactor=self.clock)

    def routes(self) -> tuple[str, ...]:
        return ("box", "other")

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
        lease = self.leases[queue_id] = result(self.spool.accept(envelope, Content(data), self.clock.seconds() + 60))
        if state in ("queued", "held"):
            result(self.spool.release_leases([Return(lease)]))
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

    def entries(self) -> dict[str, Any]:
        _, page = self.ask("GET", "/v1/queue?limit=1000")
        return {f"{one['queue_id']}:{one['number']}": one for one in page["entries"]}

    def lease(self, queue_id: str) -> Lease:
        (lease,) = result(self.spool.lease_selected(Selector(queue_id=queue_id), 100, self.clock.seconds() + 60))
        assert isinstance(lease, Lease)
        return lease

    def defer(self, queue_id: str, reply: str, **more: Any) -> None:
        """An attempt that failed for now."""
        lease = self.lease(queue_id)
        due = self.clock.seconds() + 300
        kind, said = OutcomeKind.DEFERRED, parse_reply([reply.encode()])
        outcomes = [Outcome(one, kind, said, "mx.test", due, **more) for one in lease.recipients]
        result(self.spool.record(lease, outcomes))

    def park(self, queue_id: str, waits: str) -> None:
        """No attempt yet."""
        result(self.spool.release_leases([Return(self.lease(queue_id), self.clock.seconds() + 300, waits)]))

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
    assert (code, changed) == (
        200,
        {"action": "hold", "matched": 1, "changed": 1, "busy": 0, "later": 0, "others": {}, **REST},
    )
    assert daemon.states() == {"A:0": "queued", "A:1": "held", "B:0": "queued"}
    assert daemon.relay.told == []
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
        **REST,
        "others": {},
    }
    assert daemon.acted() == []
    assert daemon.ask("POST", "/v1/queue/hold", {"ids": ["A"]})[1]["busy"] == 1
    # It will be held when its attempt has ended: somebody has asked for that.
    assert daemon.acted() == [("hold", "A", ("bob@box.test",))]


def test_nothing_that_fits_changes_nothing(daemon: Daemon) -> None:
    daemon.add("A")
    assert daemon.ask("POST", "/v1/queue/delete", {"recipient": "x@y.test"})[1]["matched"] == 0
    assert (daemon.relay.told, daemon.acted(), daemon.states()) == ([], [], {"A:0": "queued"})


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
    daemon.board.observe(Stopping(at=daemon.clock.seconds()))
    daemon.clock.advance(7)
    status = daemon.ask("GET", "/v1/status")[1]
    assert (status["spool"], status["stopping"], status["stopping_for"]) == ("ok", True, 7.0)


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
    control = Control(memory, daemon.spool, daemon.events, daemon.relay, daemon.board, daemon.routes, daemon.office)
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
    control = Control(reactor(), daemon.spool, daemon.events, daemon.relay, daemon.board, daemon.routes, daemon.office)
    control.listen(path)
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


# -- conditions that the last attempt has made, and why an entry waits


def test_conditions_on_the_last_attempt(daemon: Daemon) -> None:
    daemon.add("A", "bob@box.test", "carol@other.test")
    daemon.add("B", "dave@box.test")
    daemon.defer("A", "452 4.2.2 Mailbox FULL", site="box:mx1.box.test,mx2.box.test", source="west", category="full")
    for query, found in (
        ("site=mx2.box.test", ["A:0", "A:1"]),
        ("source=west&domain=other.test", ["A:1"]),
        ("source=east", []),
        ("reason=full", ["A:0", "A:1"]),
        ("reason=4.2.2+mailbox", ["A:0", "A:1"]),
        ("reason=nobody+says+so", []),
    ):
        _, page = daemon.ask("GET", f"/v1/queue?{query}")
        assert [f"{one['queue_id']}:{one['number']}" for one in page["entries"]] == found, query
    entry = daemon.entries()["A:0"]
    assert (entry["site"], entry["source"], entry["category"]) == ("box:mx1.box.test,mx2.box.test", "west", "full")


def test_domains_and_addresses_in_other_spellings(daemon: Daemon) -> None:
    daemon.add("A", "bob@xn--bcher-kva.test")
    for query in ("domain=B%C3%9CCHER.test.", "recipient=BOB@b%C3%BCcher.test", "domain=XN--bcher-KVA.test"):
        assert daemon.ask("GET", f"/v1/queue?{query}")[1]["entries"], query


def test_a_worker_that_does_not_answer_hides_no_entry(daemon: Daemon) -> None:
    daemon.add("LINE", state="leased")
    daemon.add("DUE")
    daemon.relay.silence = "not all workers have answered: worker 1: nothing in 5 s"
    assert {place: one["waits"] for place, one in daemon.entries().items()} == {
        "DUE:0": "the relay takes it at its next look",
        "LINE:0": "not all workers have answered: worker 1: nothing in 5 s",
    }


def test_every_entry_tells_why_it_is_still_here(daemon: Daemon) -> None:
    daemon.add("DEFERRED")
    daemon.defer("DEFERRED", "451 4.7.1 Greylisted", category="greylisted")
    daemon.add("DUE")
    daemon.add("HELD", state="held")
    daemon.add("KEPT", state="quarantined")
    daemon.add("LATER", parameters=MailParameters(release_at=daemon.clock.seconds() + 60))
    daemon.add("LINE", "bob@box.test", "carol@box.test", state="leased")
    daemon.relay.live["LINE"] = {0: "3rd of 40 in line for mx.box.test"}
    daemon.add("TURN")
    daemon.park("TURN", "waits for its turn at box.test")
    daemon.add("STOPPED", "bob@stopped.test")
    daemon.ask("POST", "/v1/suspensions/suspend", {"kind": "domain", "name": "stopped.test", "reason": "storm"})
    assert {place: one["waits"] for place, one in daemon.entries().items()} == {
        "DEFERRED:0": "deferred as greylisted",
        "DUE:0": "the relay takes it at its next look",
        "HELD:0": "an administrator holds it until release",
        "KEPT:0": "a policy keeps it back until release: a virus",
        "LATER:0": "its sender has asked for a later time",
        "LINE:0": "3rd of 40 in line for mx.box.test",
        "LINE:1": "is in the relay's hands",
        "STOPPED:0": "suspended: domain stopped.test (storm)",
        "TURN:0": "waits for its turn at box.test",
    }
    shown = daemon.ask("GET", "/v1/queue/LINE")[1]
    assert [one["waits"] for one in shown["entries"]] == [
        "3rd of 40 in line for mx.box.test",
        "is in the relay's hands",
    ]


def test_a_relay_of_several_processes_answers_later(daemon: Daemon) -> None:
    daemon.add("A", state="leased")
    daemon.relay.waits = lambda queue_id: succeed({0: "being delivered"})  # type: ignore[assignment,method-assign,return-value]
    daemon.relay.sites = lambda _=None: succeed([site_view("far")])  # type: ignore[assignment,method-assign,return-value]
    assert daemon.entries()["A:0"]["waits"] == "being delivered"
    assert daemon.ask("GET", "/v1/sites")[1]["sites"][0]["site"] == "far"


# -- giving up, and other ways


def test_bounce(daemon: Daemon) -> None:
    daemon.add("A", "bob@box.test", "carol@other.test")
    daemon.add("B", state="held")
    code, changed = daemon.ask(
        "POST", "/v1/queue/bounce", {"sender": "ann@client.test", "because": "closed\r\nfor good"}
    )
    assert (code, changed) == (
        200,
        {"action": "bounce", "matched": 3, "changed": 3, "busy": 0, "later": 0, "others": {}, **REST},
    )
    bounced = daemon.events.of(Bounced)
    assert [(one.queue_id, one.recipient) for one in bounced] == [
        ("A", "bob@box.test"),
        ("A", "carol@other.test"),
        ("B", "bob@box.test"),
    ]
    assert {one.reply for one in bounced} == {"550 5.0.0 Returned by the administrator: closed for good"}
    reports = {one.report for one in bounced}
    assert set(daemon.states()) == {f"{report}:0" for report in reports}
    assert "look" in daemon.relay.told
    assert daemon.acted() == [("bounce", "A", ("bob@box.test", "carol@other.test")), ("bounce", "B", ("bob@box.test",))]
    assert "closed for good" in daemon.ask("GET", f"/v1/queue/{min(reports)}")[1]["text"]
    assert {one.detail for one in daemon.events.of(OperatorActed)} == {"closed\r\nfor good"}


def test_what_a_policy_keeps_back_is_returned_where_that_is_said_only(daemon: Daemon) -> None:
    daemon.add("A", state="quarantined")
    changed = daemon.ask("POST", "/v1/queue/bounce", {"everything": True})[1]
    assert (changed["changed"], changed["others"]) == (0, {"quarantined": 1})
    assert (daemon.states(), daemon.acted()) == ({"A:0": "quarantined"}, [])
    changed = daemon.ask("POST", "/v1/queue/bounce", {"state": "quarantined"})[1]
    assert (changed["changed"], changed["others"]) == (1, {})
    assert daemon.acted() == [("bounce", "A", ("bob@box.test",))]


def test_the_end_of_a_hold_is_no_end_of_quarantine(daemon: Daemon) -> None:
    daemon.add("A", state="quarantined")
    daemon.add("B")
    for action in ("hold", "release"):
        changed = daemon.ask("POST", f"/v1/queue/{action}", {"domain": "box.test"})[1]
        assert (changed["matched"], changed["changed"], changed["others"]) == (2, 1, {"quarantined": 1})
    assert daemon.states() == {"A:0": "quarantined", "B:0": "queued"}
    changed = daemon.ask("POST", "/v1/queue/release", {"ids": ["A"]})[1]
    assert (changed["changed"], changed["others"]) == (1, {})
    daemon.add("C", state="quarantined")
    assert daemon.ask("POST", "/v1/queue/release", {"state": "quarantined"})[1]["changed"] == 1
    assert set(daemon.states().values()) == {"queued"}


def test_what_is_under_delivery_is_not_given_up(daemon: Daemon) -> None:
    daemon.add("A", state="leased")
    changed = daemon.ask("POST", "/v1/queue/bounce", {"ids": ["A"]})[1]
    assert (changed["matched"], changed["changed"], changed["busy"]) == (1, 0, 1)
    assert (daemon.states(), daemon.acted(), daemon.events.of(Bounced)) == ({"A:0": "leased"}, [], [])


def test_of_what_the_relay_has_in_line_some_is_given_up(daemon: Daemon) -> None:
    daemon.add("A", "a@box.test", "b@box.test", state="leased")

    async def bounce(selector: Selector, reason: str = "") -> int:
        asked.append(selector)
        return 1

    asked: list[Selector] = []
    daemon.relay.bounce = bounce  # type: ignore[method-assign]
    changed = daemon.ask("POST", "/v1/queue/bounce", {"ids": ["A"]})[1]
    assert (changed["changed"], changed["busy"]) == (1, 1)
    assert len(daemon.acted()) == 1
    # What the relay gives back is queued when it is looked for.
    assert asked == [Selector(queue_id="A", state="queued")]
    asked.clear()
    daemon.ask("POST", "/v1/queue/bounce", {"state": "leased"})
    assert asked == [Selector(queue_id="A", state="queued", recipient=f"{one}@box.test") for one in "ab"]


@pytest.mark.parametrize(
    ("action", "more", "left"),
    [
        ("hold", {}, {"A:0": "held", "A:1": "held", "B:0": "leased"}),
        ("reroute", {"to": "other"}, {"A:0": "queued", "A:1": "queued", "B:0": "leased"}),
        ("delete", {}, {"B:0": "leased"}),
    ],
)
@pytest.mark.parametrize("selection", [{"sender": "ann@client.test"}, {"ids": ["A", "B"]}, {"state": "leased"}])
def test_what_only_waits_in_memory_is_changed_and_what_is_under_way_is_busy(
    daemon: Daemon, action: str, more: dict[str, str], left: dict[str, str], selection: dict[str, object]
) -> None:
    daemon.add("A", "a@box.test", "b@box.test", state="leased")
    daemon.relay.waiting = [daemon.leases["A"]]
    daemon.add("B", state="leased")
    changed = daemon.ask("POST", f"/v1/queue/{action}", selection | more)[1]
    assert (changed["matched"], changed["changed"], changed["busy"]) == (3, 2, 1)
    assert daemon.states() == left


def test_what_was_chosen_by_its_lease_takes_no_other_recipient_with_it(daemon: Daemon) -> None:
    daemon.add("A", "a@box.test", "b@box.test", state="leased")
    lease = daemon.leases["A"]
    one, other = (replace(lease, recipients=(recipient,)) for recipient in lease.recipients)
    result(daemon.spool.release_leases([Return(one)]))
    daemon.relay.waiting = [other]
    changed = daemon.ask("POST", "/v1/queue/delete", {"state": "leased"})[1]
    assert (changed["matched"], changed["changed"], changed["busy"]) == (1, 1, 0)
    assert daemon.states() == {"A:0": "queued"}


def test_what_is_delivered_while_it_is_asked_for_is_not_counted(daemon: Daemon) -> None:
    daemon.add("A", state="leased")
    daemon.add("B")

    async def put_back(selector: Selector) -> None:
        lease = daemon.leases["A"]
        said = parse_reply([b"250 ok"])
        outcomes = [Outcome(one, OutcomeKind.DELIVERED, said) for one in lease.recipients]
        result(daemon.spool.record(lease, outcomes))

    daemon.relay.put_back = put_back  # type: ignore[method-assign]
    changed = daemon.ask("POST", "/v1/queue/hold", {"domain": "box.test"})[1]
    assert (changed["matched"], changed["changed"], changed["busy"]) == (1, 1, 0)


def test_nothing_is_put_back_where_nothing_is_in_hand(daemon: Daemon) -> None:
    daemon.add("A")
    daemon.ask("POST", "/v1/queue/hold", {"ids": ["A"]})
    assert daemon.relay.told == []


def test_reroute(daemon: Daemon) -> None:
    daemon.add("A", "bob@box.test", "carol@box.test")
    daemon.add("B", state="held")
    daemon.add("C", state="leased")
    daemon.defer("A", "451 later")
    changed = daemon.ask("POST", "/v1/queue/reroute", {"domain": "box.test", "to": "other"})[1]
    assert (changed["matched"], changed["changed"], changed["busy"]) == (4, 3, 1)
    entries = daemon.entries()
    assert {place: (one["route"], one["state"]) for place, one in entries.items()} == {
        "A:0": ("other", "queued"),
        "A:1": ("other", "queued"),
        "B:0": ("other", "held"),
        "C:0": ("box", "leased"),
    }
    assert entries["A:0"]["next_attempt"] <= daemon.clock.seconds()
    assert daemon.relay.told == [("put back", Selector(domain="box.test")), Selector(route="other", domain="box.test")]
    assert [(one.queue_id, one.detail) for one in daemon.events.of(OperatorActed)] == [("A", "other"), ("B", "other")]


def test_who_takes_the_route_already_is_not_rerouted(daemon: Daemon) -> None:
    daemon.add("A")
    daemon.add("B", state="held")
    changed = daemon.ask("POST", "/v1/queue/reroute", {"everything": True, "to": "box"})[1]
    assert (changed["matched"], changed["changed"], changed["there"], changed["others"]) == (2, 0, 2, {})
    assert daemon.acted() == []


def test_what_is_suspended_is_not_retried(daemon: Daemon) -> None:
    daemon.add("A", "a@box.test", "b@other.test")
    daemon.add("B", "a@box.test")
    daemon.add("C", "a@tried.test")
    daemon.park("B", "suspended: domain box.test")
    daemon.park("C", "suspended: site mx.test (they are down)")
    for kind, name, reason in (("domain", "box.test", ""), ("site", "mx.test", "they are down")):
        daemon.ask("POST", "/v1/suspensions/suspend", {"kind": kind, "name": name, "reason": reason})
    changed = daemon.ask("POST", "/v1/queue/retry", {"everything": True})[1]
    assert (changed["matched"], changed["changed"]) == (4, 1)
    assert changed["suspended"] == {"domain box.test": 2, "site mx.test": 1}
    assert daemon.acted() == [("retry", "A", ("b@other.test",))]


def test_what_is_suspended_says_until_when(daemon: Daemon) -> None:
    daemon.add("A", "a@box.test")
    daemon.park("A", "suspended: domain box.test")
    daemon.add("B", "b@other.test")
    daemon.add("C", "c@tried.test")
    daemon.park("C", "suspended: site mx.test")
    daemon.add("D", "d@box.test", state="held")
    daemon.ask("POST", "/v1/suspensions/suspend", {"kind": "domain", "name": "box.test", "seconds": 60})
    daemon.ask("POST", "/v1/suspensions/suspend", {"kind": "site", "name": "mx.test"})
    told = {place: (one["suspended_until"], one["next_attempt"]) for place, one in daemon.entries().items()}
    assert told["A:0"] == (1060.0, 1060.0)
    assert told["C:0"] == (0.0, 0.0)
    assert (told["B:0"][0], told["D:0"][0]) == (None, None)
    assert told["B:0"][1] > 0


def test_who_is_deferred_for_longer_than_a_suspension_lasts_waits_for_that(daemon: Daemon) -> None:
    daemon.add("A", "a@box.test")
    daemon.defer("A", "451 later")
    daemon.ask("POST", "/v1/suspensions/suspend", {"kind": "domain", "name": "box.test", "seconds": 60})
    assert daemon.entries()["A:0"]["next_attempt"] == 1300.0


def test_a_suspension_counts_what_it_is_for(daemon: Daemon) -> None:
    daemon.add("A", "a@box.test", "b@box.test")
    daemon.add("B", "a@other.test")
    daemon.defer("B", "451 later", site="mx1.other.test,mx2.other.test")
    daemon.add("C", "a@box.test", state="held")
    daemon.add("D", "a@box.test", sender=NULL_PATH)
    counts = [
        daemon.ask("POST", "/v1/suspensions/suspend", {"kind": kind, "name": name})[1]["recipients"]
        for kind, name in (
            ("domain", "box.test"),
            ("route", "box"),
            ("site", "mx2.other.test"),
            ("sender", "client.test"),
            ("sender", "<>"),
            ("domain", "nobody.test"),
        )
    ]
    assert counts == [3, 4, 1, 3, 1, 0]
    found = daemon.ask("GET", "/v1/suspensions")[1]["suspensions"]
    assert {(one["kind"], one["name"]): one["recipients"] for one in found}["route", "box"] == 4


@pytest.mark.parametrize("name", ["mx1.box.test,mx2.box.test|mx3.box.test", "MX1.box.test and 2 more", "mx1.box.test"])
def test_a_site_is_named_as_it_is_told_of(daemon: Daemon, name: str) -> None:
    order = {"kind": "site", "name": name}
    assert daemon.ask("POST", "/v1/suspensions/suspend", order)[1]["name"] == "mx1.box.test"
    assert daemon.ask("POST", "/v1/suspensions/resume", order)[1] == {"was_suspended": True}


@pytest.mark.parametrize("name", ["192.0.2.1", "2001:db8::1", "[2001:db8::1]", "mail"])
def test_a_site_may_have_an_address_for_a_name(daemon: Daemon, name: str) -> None:
    assert daemon.ask("POST", "/v1/suspensions/suspend", {"kind": "site", "name": name})[0] == 200


def test_retry_wakes_the_sites_concerned(daemon: Daemon) -> None:
    for number in range(3):
        daemon.add(f"A{number}", f"bob@d{number % 2}.test")
    daemon.ask("POST", "/v1/queue/retry", {"everything": True})
    assert daemon.relay.told == [Selector(route="box", domain="d0.test"), Selector(route="box", domain="d1.test")]
    daemon.relay.told.clear()
    for number in range(21):
        daemon.add(f"B{number:03}", f"bob@e{number}.test")
    daemon.ask("POST", "/v1/queue/retry", {"everything": True})
    assert daemon.relay.told == ["kick"]


@pytest.mark.parametrize(("action", "told"), [("retry", [Selector(route="box", domain="box.test")]), ("hold", [])])
def test_retry_wakes_sites_whose_mail_is_all_in_the_relays_hands(
    daemon: Daemon, action: str, told: list[Selector]
) -> None:
    daemon.add("LINE", "bob@box.test", state="leased")
    daemon.ask("POST", f"/v1/queue/{action}", {"everything": True})
    assert [one for one in daemon.relay.told if isinstance(one, Selector)] == told


@pytest.mark.parametrize(
    ("action", "body", "told"),
    [
        ("reroute", {"ids": ["A"]}, "say to which route"),
        ("reroute", {"ids": ["A"], "to": "nowhere"}, "there is no route nowhere"),
        ("reroute", {"to": "other"}, "which entries"),
        ("bounce", {"because": "x"}, "which entries"),
        ("bounce", {"ids": ["A"], "because": "x" * 301}, "because"),
        ("bounce", {"ids": ["A"], "to": "other"}, "to is not for bounce"),
        ("hold", {"ids": ["A"], "because": "x"}, "because is not for hold"),
        ("delete", {"ids": ["A"], "reason": ""}, "reason"),
        ("delete", {"ids": ["A"], "site": ""}, "site"),
        ("delete", {"ids": ["A"], "source": ""}, "source"),
    ],
)
def test_a_change_that_cannot_be_meant(daemon: Daemon, action: str, body: object, told: str) -> None:
    daemon.add("A")
    code, problem = daemon.ask("POST", f"/v1/queue/{action}", body)
    assert code == 400
    assert told in problem["error"]
    assert (daemon.states(), daemon.entries()["A:0"]["route"]) == ({"A:0": "queued"}, "box")


def test_a_spool_that_fails_while_something_is_given_up(daemon: Daemon) -> None:
    daemon.add("A")
    record = daemon.spool.record

    def fails(*values: object) -> Deferred[None]:
        return fail(SpoolError("the disk is full"))

    daemon.spool.record = fails  # type: ignore[method-assign,assignment]
    assert daemon.ask("POST", "/v1/queue/bounce", {"ids": ["A"]})[0] == 503
    assert daemon.events.of(Bounced) == []
    daemon.spool.record = record  # type: ignore[method-assign]
    daemon.clock.advance(1)
    assert [one.queue_id for one in daemon.events.of(Bounced)] == ["A"]


# -- the queue as a whole


def test_summary(daemon: Daemon) -> None:
    daemon.add("A", "bob@box.test", "carol@other.test")
    daemon.add("B", state="held")
    code, answer = daemon.ask("GET", "/v1/summary?by=domain")
    assert code == 200
    assert answer == {
        "by": "domain",
        "groups": [
            {"key": "box.test", "recipients": 2, "due": 1, "held": 1, "oldest": 1000.0},
            {"key": "other.test", "recipients": 1, "due": 1, "held": 0, "oldest": 1000.0},
        ],
    }
    assert daemon.ask("GET", "/v1/summary?by=state&state=held")[1]["groups"][0]["recipients"] == 1
    assert len(daemon.ask("GET", "/v1/summary?limit=1")[1]["groups"]) == 1


@pytest.mark.parametrize(
    ("query", "told"),
    [("by=colour", "domain"), ("ids=A", "not by ids"), ("limit=0", "limit"), ("x=1", "x"), ("domain=", "domain")],
)
def test_a_summary_that_is_none(daemon: Daemon, query: str, told: str) -> None:
    code, problem = daemon.ask("GET", f"/v1/summary?{query}")
    assert code == 400
    assert told in problem["error"]


def test_sites(daemon: Daemon) -> None:
    daemon.relay.at_work += [site_view("idle", active=0), site_view("busy", waiting=40), site_view("b", active=2)]
    _, answer = daemon.ask("GET", "/v1/sites")
    assert [one["site"] for one in answer["sites"]] == ["busy", "b", "idle"]
    assert answer["sites"][0] == {
        "site": "busy",
        "route": "internet",
        "source": "",
        "waiting": 40,
        "active": 1,
        "connections": 1,
        "most": 20,
        "backlog": False,
        "rests_until": 0.0,
        "state": "delivering",
    }


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("domain=box.test", ["mx1", "mx2"]),
        ("domain=box.test&reason=busy", ["mx1"]),
        ("domain=box.test&state=leased", ["mx2"]),
        ("domain=box.test&route=slow", ["mx2"]),
        ("route=slow", ["mx2", "mx3"]),
        ("source=EAST", ["mx1"]),
        ("site=MX3", ["mx3"]),
        ("site=nowhere", []),
    ],
)
def test_the_sites_of_what_is_chosen(daemon: Daemon, query: str, found: list[str]) -> None:
    held = site_view("mx2", route="slow")
    daemon.relay.at_work += [site_view("mx1", source="east"), held, site_view("mx3", route="slow")]
    daemon.relay.holding += [held]
    daemon.add("A")
    daemon.defer("A", "451 busy", site="mx1", source="east")
    assert [one["site"] for one in daemon.ask("GET", f"/v1/sites?{query}")[1]["sites"]] == found


@pytest.mark.parametrize(("query", "told"), [("ids=A", "not by ids"), ("x=1", "x"), ("domain=", "domain")])
def test_sites_that_cannot_be_chosen(daemon: Daemon, query: str, told: str) -> None:
    code, problem = daemon.ask("GET", f"/v1/sites?{query}")
    assert code == 400
    assert told in problem["error"]


def test_suspend_and_resume(daemon: Daemon) -> None:
    for order in (
        {"kind": "route", "name": "box", "seconds": 7200, "reason": "maintenance"},
        {"kind": "domain", "name": "B\u00fccher.TEST."},
        {"kind": "sender", "name": "Ann@Client.test"},
        {"kind": "site", "name": "MX1.box.test"},
    ):
        assert daemon.ask("POST", "/v1/suspensions/suspend", order)[0] == 200
    assert daemon.relay.told == ["suspensions"] * 4
    found = daemon.ask("GET", "/v1/suspensions")[1]["suspensions"]
    assert sorted((one["kind"], one["name"], one["until"], one["reason"]) for one in found) == [
        ("domain", "xn--bcher-kva.test", 0.0, ""),
        ("route", "box", 8200.0, "maintenance"),
        ("sender", "ann@client.test", 0.0, ""),
        ("site", "mx1.box.test", 0.0, ""),
    ]
    resume = {"kind": "domain", "name": "xn--bcher-kva.test"}
    assert daemon.ask("POST", "/v1/suspensions/resume", resume) == (200, {"was_suspended": True})
    assert daemon.relay.told[4:] == ["suspensions", "look"]
    assert daemon.ask("POST", "/v1/suspensions/resume", resume) == (200, {"was_suspended": False})
    assert len(daemon.relay.told) == 6
    changes = daemon.events.of(SuspensionChanged)
    assert [(one.kind, one.is_suspended, one.until) for one in changes] == [
        ("route", True, 8200.0),
        ("domain", True, 0.0),
        ("sender", True, 0.0),
        ("site", True, 0.0),
        ("domain", False, 0.0),
    ]


@pytest.mark.parametrize(
    ("order", "told"),
    [
        ({"kind": "route", "name": "nowhere"}, "there is no route nowhere"),
        ({"kind": "route", "name": ""}, "name"),
        ({"kind": "colour", "name": "red"}, "kind"),
        ({"kind": "sender", "name": "<ann@client.test>"}, "no address and no domain"),
        ({"kind": "domain", "name": "<>"}, "is no domain, so nothing could match it"),
        ({"kind": "site", "name": "mx box"}, "is no host, so nothing could match it"),
        ({"kind": "site", "name": "mx\x1b"}, "is no host, so nothing could match it"),
        ({"kind": "site", "name": "mx1..box.test"}, "is no host"),
        ({"kind": "domain", "name": "*.box.test"}, "is no domain"),
        ({"kind": "domain", "name": "ann@box.test"}, "is no domain"),
        ({"kind": "sender", "name": "ann@"}, "no address"),
        ({"kind": "domain", "name": "box.test", "seconds": -1}, "seconds"),
        ({"kind": "domain", "name": "box.test", "seconds": 1e12}, "seconds"),
        ({"kind": "domain", "name": "box.test", "reason": "x" * 301}, "reason"),
        ({"kind": "domain"}, "name"),
        (b"{", "JSON"),
    ],
)
def test_a_suspension_that_is_none(daemon: Daemon, order: object, told: str) -> None:
    code, problem = daemon.ask("POST", "/v1/suspensions/suspend", order)
    assert code == 400
    assert told in problem["error"]
    assert daemon.ask("GET", "/v1/suspensions")[1] == {"suspensions": []}


def test_suspensions_in_a_spool_that_fails(daemon: Daemon) -> None:
    daemon.spool.error = "the disk is full"
    order = {"kind": "route", "name": "box"}
    for method, target, body in (
        ("GET", "/v1/suspensions", None),
        ("POST", "/v1/suspensions/suspend", order),
        ("POST", "/v1/suspensions/resume", order),
        ("GET", "/v1/summary", None),
    ):
        assert daemon.ask(method, target, body) == (503, {"error": "the disk is full"})
    assert (daemon.relay.told, daemon.events.of(SuspensionChanged)) == ([], [])


def test_the_relay_is_asked_of_a_bounded_number_of_messages(daemon: Daemon) -> None:
    for number in range(503):
        daemon.add(f"A{number:04}", state="leased")
        daemon.relay.live[f"A{number:04}"] = {0: "in line"}
    told = [one["waits"] for one in daemon.entries().values()]
    assert told == ["in line"] * 500 + ["is in the relay's hands"] * 3


def test_what_stands_in_for_the_relay_is_one() -> None:
    clock = Clock()
    assert verifyObject(IRelay, ToldRelay(MemorySpool(clock), EventRecorder(), clock))
