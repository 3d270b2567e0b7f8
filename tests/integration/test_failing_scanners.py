"""Mail flows through real scanners while these are killed, hang, or talk nonsense: nothing is lost, nothing slips
through against `on_failure`, breakers open and close, and mail that asks none of them goes on."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from failing_parts import TROUBLES, Asked, Trouble
from ledger import queued
from parts import Gateway, free_ports, greets, wait_until
from recorder import Recorder
from scanner_parts import mail
from steady import Door, Steady

pytestmark = [
    pytest.mark.needs("clamd", "opendkim", "opendkim-genkey", "rspamd", "spamd"),
    pytest.mark.timeout(300),
]

DOMAIN = "box.test"
POLICIES = ("defer", "continue", "quarantine")
WELL = "well"

HEAD = """\
[gateway]
hostname = "mailgate.test"
state_dir = "state"
workers = @WORKERS@

[domains."box.test"]
route = "box"

[routes.box]
transport = "smtp"
hosts = ["127.0.0.1:@HOP@"]
tls = "off"

[dns]
servers = ["127.0.0.1:@NOBODY@"]
"""

DOOR = """\
[[listeners]]
name = "@NAME@"
endpoints = ["tcp:@PORT@:interface=127.0.0.1"]
pipeline = "@NAME@"
max_connections_per_client = 500

[pipelines.@NAME@]
filters = [@FILTERS@]
"""

FILTER = """\
[filters.@NAME@]
kind = "@KIND@"
on_failure = "@POLICY@"
@OPTIONS@
"""

#: A question takes longer than this only where nobody answers. The milter says how long in several words.
PATIENCE = {"milter": 'command_timeout = "6s"\ncontent_timeout = "6s"\nend_timeout = "6s"\n'}


class Flow:
    """A gateway with a door for each scanner and policy, one without any, and clients at all of them."""

    def __init__(self, asked: list[Asked], hop: Recorder, build: Callable[[str, int], Gateway], workers: int) -> None:
        self._workers = workers
        well, nobody, *ports = free_ports(2 + len(asked) * len(POLICIES))
        self.doors = {WELL: Door(well, mail(b"hello\r\n"), mail(b"hello again\r\n"))}
        text = _filled(HEAD, HOP=hop.port, NOBODY=nobody, WORKERS=workers)
        text += _filled(DOOR, NAME=WELL, PORT=well, FILTERS='"headers"')
        for one in asked:
            options = one.options + PATIENCE.get(one.kind, 'timeout = "6s"\n')
            for policy in POLICIES:
                name = f"{one.kind}-{policy}"
                self.doors[name] = Door(ports.pop(), one.good, one.bad)
                text += _filled(DOOR, NAME=name, PORT=self.doors[name].port, FILTERS=f'"{name}", "headers"')
                text += _filled(FILTER, NAME=name, KIND=one.kind, POLICY=policy, OPTIONS=options)
        self.filters = [name for name in self.doors if name != WELL]
        self.hop = hop
        self.gateway = build(text, well)
        self.gateway.start()
        self._events: list[dict[str, Any]] = []
        self._read = 0
        self._log = self.gateway.directory / "state" / "mailgate.log"
        wait_until(lambda: all(greets(door.port) for door in self.doors.values()), "all doors are open")
        self.mail = Steady(self.doors, DOMAIN, clients=3)

    def events(self, name: str) -> list[dict[str, Any]]:
        """What the log has of them; each line is read once."""
        with self._log.open("rb") as log:
            log.seek(self._read)
            *lines, rest = log.read().split(b"\n")
            self._read = log.tell() - len(rest)
        self._events += [
            one for one in map(json.loads, lines) if one["event"] in ("breaker_changed", "message_accepted")
        ]
        return [one for one in self._events if one["event"] == name]

    def breakers(self) -> dict[str, list[bool]]:
        """How each has opened and closed."""
        found: dict[str, list[bool]] = {name: [] for name in self.filters}
        for one in self.events("breaker_changed"):
            found[one["filter"]].append(one["is_open"])
        return found

    def wait_for_breakers(self, changes: list[bool], seconds: float) -> None:
        """Those of every worker have changed so."""
        wanted = tuple(one for one in changes for _ in range(self._workers))
        wait_until(lambda: set(map(tuple, self.breakers().values())) == {wanted}, f"breakers: {wanted}", seconds)

    def wait_for_mail(self, mark: int, number: int = 4) -> None:
        """At each door so many messages, good and bad ones, have been begun since that mark and are over."""

        def is_enough() -> bool:
            found = [Counter(one.is_bad for one in self.mail.since(mark, name)) for name in self.doors]
            return all(counts[False] >= number // 2 and counts[True] >= number // 2 for counts in found)

        wait_until(is_enough, f"{number} messages at each door", 60)

    def check_well(self, mark: int) -> None:
        """Since that mark, everything good is taken, everything bad refused."""
        for name in self.filters:
            for one in self.mail.since(mark, name):
                assert one.code == (550 if one.is_bad else 250), one

    def check_failing(self, begun: int, opened: int) -> None:
        """Since the first mark, only what the policies say was done; since the second, always, as nobody is asked."""
        for name in self.filters:
            policy = name.rpartition("-")[2]
            # A milter fails before there is content, too, when nothing can be quarantined yet.
            early = policy == "quarantine" and name.startswith("milter")
            allowed = {421, 451} if policy == "defer" else {250, 421, 451} if early else {250}
            assert {one.code for one in self.mail.since(opened, name)} <= allowed, name
            for one in self.mail.since(begun, name):
                assert one.code in allowed | ({550} if one.is_bad else {250}), one

    def check_ledger(self) -> None:
        """What was taken was delivered, once, or is in quarantine; what is bad only where a failure let it pass."""
        taken = {one.recipient: one for one in self.mail.sent if one.code == 250}
        wait_until(lambda: len(self.hop.taken) + len(queued(self.gateway)) >= len(taken), "all has arrived", 60)
        listed = json.loads(self.gateway.command("queue", "list", "--json", "--limit", "100000").stdout)
        kept = {one["recipient"] for one in listed}
        assert {one["state"] for one in listed} <= {"quarantined"}
        delivered = Counter(one.recipients[0].partition("<")[2].partition(">")[0] for one in self.hop.taken)
        assert set(delivered.values()) == {1}
        assert delivered.keys() | kept == taken.keys()
        assert not delivered.keys() & kept
        policies = {name: taken[name].door.rpartition("-")[2] for name in taken}
        assert {policies[one] for one in kept} <= {"quarantine"}
        assert {policies[one] for one in delivered if taken[one].is_bad} <= {"continue", WELL}
        for one in self.events("message_accepted"):
            failed = {step["filter"] for step in one["trace"] if step.get("verdict") == "failure"}
            if one["recipients"][0].startswith("bad-") and one["listener"] != WELL:
                assert one["listener"] in failed, one


def _filled(template: str, **values: object) -> str:
    for name, value in values.items():
        template = template.replace(f"@{name}@", str(value))
    return template


@pytest.mark.parametrize(("trouble", "workers"), [*((one, 1) for one in TROUBLES), ("killed", 2)])
def test_scanners_in_trouble_while_mail_flows(
    scanners: list[Asked], build: Callable[[str, int], Gateway], trouble: Trouble, workers: int
) -> None:
    with Recorder() as hop:
        flow = Flow(scanners, hop, build, workers)
        with flow.mail:
            flow.wait_for_mail(0)
            flow.check_well(0)

            begun = flow.mail.mark()
            with contextlib.ExitStack() as troubles:
                for one in scanners:
                    one.begin(trouble)
                    troubles.callback(one.end, trouble)
                failing = flow.mail.mark()
                flow.wait_for_breakers([True], 60)
                waited = {name: sorted(one.seconds for one in flow.mail.since(failing, name)) for name in flow.doors}
                flow.wait_for_mail(opened := flow.mail.mark())
                flow.check_failing(begun, opened)
            flow.wait_for_breakers([True, False], 180)
            flow.wait_for_mail(well := flow.mail.mark())
            flow.check_well(well)
        assert {one.code for one in flow.mail.sent if one.door == WELL} == {250}
        if trouble == "hung":
            # While others waited for an answer that did not come, nearly all mail that asks nobody was through at once.
            usual = waited[WELL][len(waited[WELL]) * 9 // 10]
            longest = {name: waited[name][-1] for name in flow.filters}
            assert min(longest.values()) > 5 * usual, (usual, longest)
        flow.check_ledger()
        assert flow.gateway.stop() == 0
        assert "Unhandled" not in flow.gateway.log.read_text(errors="replace")
