"""A machine for tests of the command: a state directory with a real spool and history, and a daemon's socket."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from click.testing import CliRunner, Result
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.web.server import Site

from mailgate.address import NULL_PATH, Address
from mailgate.awaiting import at_once
from mailgate.cli.main import main
from mailgate.config.places import Places
from mailgate.envelope import Envelope, EnvelopeRecipient
from mailgate.events import Event
from mailgate.filters.compromised_state import Suspicions
from mailgate.interfaces import Outcome, OutcomeKind
from mailgate.message import AddHeader, Content
from mailgate.observe.history import History
from mailgate.observe.rates import Rates
from mailgate.observe.recorder import Recorder
from mailgate.quarantine.office import QuarantineOffice
from mailgate.quarantine.originals import Originals
from mailgate.reply import Reply
from mailgate.spool.sqlite import SqliteSpool
from mailgate.stores.counters import MemoryCounters
from mailgate.stores.suppressions import Suppressions
from mailgate.testing import EventRecorder
from mailgate.web.accounts import AccountOperations
from mailgate.web.control import StatusBoard
from mailgate.web.operations import QueueOperations
from mailgate.web.quarantine import QuarantineOperations
from mailgate.web.rates import AllRates
from mailgate.web.resources import accounts, rates, resources, suppressions
from mailgate.web.steering import Steering
from mailgate.web.suppressions import SuppressionOperations
from tests.unit.quarantine_stand import GATEWAY, SaysRescan, config_of
from tests.unit.told_relay import ToldRelay

__all__ = ["FIRST", "SECOND", "THIRD", "DaemonThread", "Machine"]

CONFIG = f'{GATEWAY}\n[routes.other]\ntransport = "discard"\n'
DATA = b"Subject: hello\r\n\r\nthe text\x1b[2J\r\n"

FIRST, SECOND, THIRD = "3DQ5Y2VK8M7H1R0A", "3DQ5Y2VK8M7H1R0B", "3DQ5Y2VK8M7H1R0C"


class Machine:
    """A state directory, what a gateway would put there, and the command."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "mailgate.toml"
        self.file.write_text(CONFIG)
        self.places = Places(directory / "state")
        self.places.state_dir.mkdir(mode=0o700)
        self.events = EventRecorder()
        self._calls: SimpleQueue[tuple[Callable[..., object], tuple[Any, ...]]] = SimpleQueue()
        self._spool: SqliteSpool | None = None

    def open(self) -> SqliteSpool:
        self._spool = self._spool or SqliteSpool(
            self.places.spool,
            events=self.events,
            call_from_thread=lambda call, *values: self._calls.put((call, values)),
            min_free=0,
        )
        return self._spool

    def close(self) -> None:
        if self._spool is not None:
            self.wait(self._spool.close())
            self._spool = None

    def wait(self, deferred: Deferred[Any]) -> Any:
        results: list[Any] = []
        deferred.addBoth(results.append)
        while not results:
            call, values = self._calls.get(timeout=60)
            call(*values)
        return results[0]

    def add(self, queue_id: str, *recipients: str, deferred: bool = True, **more: Any) -> None:
        envelope = Envelope(
            **{
                "queue_id": queue_id,
                "sender": Address("ann", "client.test"),
                "recipients": tuple(
                    EnvelopeRecipient(number, Address.parse(one), "box") for number, one in enumerate(recipients)
                ),
                "received": time.time() - 90,
                "size": len(DATA),
                "client": "unknown[192.0.2.1]",
                **more,
            }
        )
        spool = self.open()
        lease = self.wait(spool.accept(envelope, Content(DATA), time.time() + 600))
        if deferred:
            reply = Reply.of(451, "4.3.0", "later")
            outcomes = [
                Outcome(one, OutcomeKind.DEFERRED, reply, "mx.test", time.time() + 330) for one in lease.recipients
            ]
            self.wait(spool.record(lease, outcomes))

    def add_three(self) -> None:
        """Three mails to four recipients, tried once."""
        self.add(FIRST, "one@down.test", "two@other.test", edits=(AddHeader("X-A", "b"),))
        self.add(SECOND, "Two@down.test")
        self.add(THIRD, "three@down.test", sender=NULL_PATH)

    def tell(self, *events: Event) -> None:
        recorder = Recorder([History(self.places.history, keep=86400.0 * 1000, max_size=2**30)], delay=0.0)
        for event in events:
            recorder.observe(event)
        recorder.close()

    def run(self, *arguments: str, code: int = 0, given: str = "") -> Result:
        result = CliRunner().invoke(main, [*arguments, "--config", str(self.file)], input=given)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result

    def queued(self, *selector: str) -> list[dict[str, Any]]:
        return list(json.loads(self.run("queue", "list", "--json", *selector).stdout))

    def states(self) -> dict[str, str]:
        return {one["recipient"]: one["state"] for one in self.queued()}


class WallClock(Clock):
    """The time of the machine; what is to be called later never is."""

    def seconds(self) -> float:
        return time.time()


class DaemonThread(threading.Thread):
    """Stands in for the daemon: Twisted's HTTP over the control socket, one request after another.

    It owns the spool, and its thread is the reactor's.
    """

    def __init__(self, machine: Machine) -> None:
        super().__init__(daemon=True)
        self.machine = machine
        self.broken = b""
        spool, events, clock = machine.open(), machine.events, WallClock()
        self.relay = ToldRelay(spool, events, clock)
        self.board = StatusBoard()
        operations = QueueOperations(spool, events, self.relay, lambda: ("box", "other"))
        steering = Steering(spool, events, self.relay, lambda: ("box", "other"))
        self.rescan = SaysRescan()
        self.office = QuarantineOffice(
            spool,
            events,
            self.relay,
            clock=clock,
            originals=Originals(machine.places.originals),
            route_of=lambda recipient, sender: "box",
            incoming=spool.incoming,
        )
        self.office.use(config_of(machine.file.parent), {"mx": self.rescan})
        kept_back = QuarantineOperations.of(self.office, spool, events, operations)
        root = resources(operations, steering, self.board.status, kept_back)
        self.rates = Rates(clock.seconds)
        self.all_rates = AllRates(self.rates)
        root.children[b"v1"].putChild(b"rates", rates(self.all_rates))
        counters = MemoryCounters(clock, 1000)
        self.accounts = AccountOperations(counters, events, clock.seconds)
        self.suspicions = Suspicions(counters, clock.seconds)
        listed = Suppressions(machine.places.suppressions, at_once, clock.seconds)
        root.children[b"v1"].putChild(b"accounts", accounts(self.accounts))
        root.children[b"v1"].putChild(b"suppressions", suppressions(SuppressionOperations(listed, events, time.time)))
        self.site = Site(root, reactor=clock)
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(str(machine.places.control))
        self.server.listen()
        self.start()

    def run(self) -> None:
        while True:
            connection, _ = self.server.accept()
            with connection:
                octets = b""
                while chunk := connection.recv(65536):
                    octets += chunk
                    head, end, body = octets.partition(b"\r\n\r\n")
                    length = re.search(rb"\r\ncontent-length: *(\d+)", head.lower())
                    if end and len(body) >= int(length[1] if length else 0):
                        connection.sendall(self.broken or self.answer(octets))
                        break
                if octets == b"stop":
                    return

    def answer(self, octets: bytes) -> bytes:
        transport = StringTransport()
        channel = self.site.buildProtocol(None)
        assert channel is not None
        channel.makeConnection(transport)
        channel.dataReceived(octets)
        while b"\r\n\r\n" not in transport.value() or b"\r\n0\r\n\r\n" not in transport.value():
            call, values = self.machine._calls.get(timeout=60)
            call(*values)
        answer: bytes = transport.value()
        return answer

    def stop(self) -> None:
        with socket.socket(socket.AF_UNIX) as last:
            last.connect(str(self.machine.places.control))
            last.sendall(b"stop")
        self.join()
        self.server.close()
