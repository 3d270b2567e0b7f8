"""The filter `command`: what is asked and answered, and commands that are broken, greedy, slow, or gone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessTerminated
from twisted.internet.task import Clock

from mailgate.envelope import Identity
from mailgate.events import BreakerChanged
from mailgate.filters.command import Command, CommandResult, Options, build
from mailgate.findings import Points
from mailgate.interfaces import Answered, FilterServices
from mailgate.message import AddHeader, Content, Message
from mailgate.pipeline.member import Member
from mailgate.pipeline.registry import FilterMaker
from mailgate.pipeline.runner import Pipeline
from mailgate.scanners.command import CommandError
from mailgate.testing import EventRecorder, FilterContract, Occasion, message, services, session, transaction, wait_for
from mailgate.testing.answers import as_deferred
from mailgate.verdict import Accept, Continue, Defer, Discard, Quarantine, Reject, Verdict
from tests.unit.command_peer import Machine, Program

COMMAND = ["/bin/cat", "-n"]


def says(**answer: object) -> Program:
    """A command that always says this."""
    return lambda asked, content: json.dumps({"verdict": "continue", **answer}).encode() + b"\n"


class Asked:
    """A filter on this machine."""

    def __init__(self, machine: Machine, state: Path = Path("none"), **options: Any) -> None:
        self.machine = machine
        settings = {"command": COMMAND, **options}
        built = build(Options.model_validate(settings), services(clock=machine, state_dir=state))
        assert isinstance(built, Command)
        self.filter = built
        self.filter._runner._end_group = lambda group, _: machine.ended.append(group)
        self.mail = transaction()

    def about(self, brought: Message | None = None) -> Verdict | None:
        return wait_for(self._ask(brought), self.machine.clock)

    def start(self) -> Deferred[Verdict | None]:
        answer: Any = self._ask(None)
        return as_deferred(answer)

    def _ask(self, brought: Message | None) -> Answered:
        one = session(identity=Identity("ann", "PLAIN"))
        return self.filter.on_message(one, self.mail, brought or message())


def test_what_it_is_asked() -> None:
    heard: list[bytes] = []

    def program(asked: Mapping[str, Any], content: bytes) -> bytes:
        heard.append(content)
        return b'{"verdict": "continue"}\n'

    asked = Asked(Machine(program), environment={"SITE": "here"})
    asked.mail.evidence.add(CommandResult("reject", words=("x",)))
    asked.about()
    (question,) = asked.machine.asked
    content = message().content.read()
    assert heard == [content]
    assert question == {
        "version": 1,
        "id": asked.mail.id,
        "session": session().id,
        "listener": "mx",
        "role": "inbound",
        "client": {"address": "192.0.2.1", "port": 40000, "name": "client.example"},
        "helo": "client.example",
        "protocol": "ESMTP",
        "login": "ann",
        "tls": "",
        "sender": "ann@client.example",
        "recipients": ["bob@example.org"],
        "facts": ["command.reject", "command.x"],
        "size": len(content),
    }
    ((arguments, environment),) = asked.machine.started
    assert arguments[-3:] == [str(512 * 1024 * 1024), *COMMAND]
    assert environment == {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "SITE": "here"}
    assert asked.machine.running == 0


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("continue", Continue),
        ("accept", Accept),
        ("reject", Reject),
        ("defer", Defer),
        ("quarantine", Quarantine),
        ("discard", Discard),
    ],
)
def test_verdicts(word: str, kind: type[Verdict]) -> None:
    asked = Asked(Machine(says(verdict=word, reason="a\nreason", text="No\r\n250 yes", points=2.5, facts=["Odd One"])))
    verdict = asked.about()
    assert type(verdict) is kind
    result, points = verdict.evidence
    assert result == CommandResult(word, "a reason", ("Odd One",))
    assert result.facts() == (f"command.{word}", "command.odd-one")
    assert points == Points(2.5, "a reason")
    if isinstance(verdict, Reject | Defer):
        assert verdict.reply.text == "No 250 yes"
        assert verdict.reason == f"/bin/cat says {word}: a reason"


def test_header_fields_become_edits() -> None:
    asked = Asked(Machine(says(add_headers=[["X-One", "1"], ["X-Two", "2"]])))
    verdict = asked.about()
    assert isinstance(verdict, Continue)
    assert asked.filter.modify(session(), asked.mail, message()) == []
    for one in verdict.evidence:
        asked.mail.evidence.add(one)
    assert asked.filter.modify(session(), asked.mail, message()) == [AddHeader("X-One", "1"), AddHeader("X-Two", "2")]
    other = Asked(Machine(says()))
    assert other.filter.modify(session(), asked.mail, message()) == []


WRONG: dict[str, tuple[bytes, str]] = {
    "no JSON": (b"ok\n", "cannot be understood"),
    "nothing": (b"\n", "cannot be understood"),
    "no object": (b"[]\n", "cannot be understood"),
    "no verdict": (b"{}\n", "verdict"),
    "another verdict": (b'{"verdict": "maybe"}\n', "Invalid enum value"),
    "a number": (b'{"verdict": "reject", "text": 1}\n', "Expected `str`"),
    "points that are none": (b'{"verdict": "continue", "points": NaN}\n', "cannot be understood"),
    "more than is known": (b'{"verdict": "continue", "verdicts": 1}\n', "unknown field"),
    "no UTF-8": (b'{"verdict": "\xff"}\n', "cannot be understood"),
    "another message": (b'{"verdict": "continue", "id": "x"}\n', "another message"),
    "two lines": (b'{"verdict": "continue"}\n{"verdict": "reject"}\n', "more than one line"),
    "a field that is none": (
        b'{"verdict": "continue", "add_headers": [["X", "a\\r\\nb: c"]]}\n',
        "not one header field",
    ),
    "half a field": (b'{"verdict": "continue", "add_headers": [["X"]]}\n', "length 2"),
    "many fields": (json.dumps({"verdict": "continue", "add_headers": [["X", "1"]] * 101}).encode() + b"\n", "100"),
    "no line": (b'{"verdict": "continue"}', "without an answer"),
    "endless": (b"x" * 70_000, "more than 65536 octets"),
    "deep": (b'{"verdict": ' + b"[" * 60_000 + b"\n", "cannot be understood"),
}


@pytest.mark.parametrize("is_kept", [False, True])
@pytest.mark.parametrize(("said", "what"), WRONG.values(), ids=WRONG)
def test_answers_that_are_none(said: bytes, what: str, is_kept: bool) -> None:
    if is_kept and "without an answer" in what:
        what = "no answer within"
    asked = Asked(Machine(lambda asked, content: said), kept=is_kept)
    with pytest.raises((CommandError, RecursionError), match=what):
        asked.about()


def test_one_that_hangs_is_ended_with_its_group() -> None:
    asked = Asked(Machine(lambda asked, content: None, lingers=True), timeout="5s")
    with pytest.raises(CommandError, match="no answer within 5 s"):
        asked.about()
    assert asked.machine.running == 0
    assert asked.machine.ended[0] == asked.machine.processes[0].pid
    assert asked.machine.clock.getDelayedCalls() == []


def test_one_that_does_not_end_after_its_answer() -> None:
    asked = Asked(Machine(says(), lingers=True), timeout="5s")
    with pytest.raises(CommandError, match="no answer within"):
        asked.about()
    assert asked.machine.running == 0


def test_statuses_and_signals() -> None:
    with pytest.raises(CommandError, match="exit code 3"):
        Asked(Machine(says(), status=3)).about()
    asked = Asked(Machine(lambda asked, content: None, lingers=True))
    waiting = asked.start()
    failed: list[str] = []
    waiting.addErrback(lambda failure: failed.append(str(failure.value)))
    asked.machine.clock.advance(0)
    asked.machine.processes[0].complain(b"out of memory\n" * 1000)
    asked.machine.processes[0].end(ProcessTerminated(signal=9))
    assert len(failed) == 1
    assert "signal 9" in failed[0]


def test_giving_up_ends_it() -> None:
    asked = Asked(Machine(lambda asked, content: None, lingers=True))
    waiting = asked.start()
    asked.machine.clock.advance(0)
    assert asked.machine.running == 1
    waiting.cancel()
    waiting.addErrback(lambda _: None)
    assert asked.machine.running == 0
    assert asked.machine.clock.getDelayedCalls() == []


@pytest.mark.parametrize("is_kept", [False, True])
def test_no_more_at_one_time_than_there_may_be(is_kept: bool) -> None:
    machine = Machine(lambda asked, content: None, lingers=True)
    asked = Asked(machine, processes=2, kept=is_kept)
    results: list[object] = []
    for _ in range(5):
        asked.start().addBoth(results.append)
    machine.clock.advance(0)
    assert machine.running == 2
    for process in machine.processes[:2]:
        process.say(b'{"verdict": "continue"}\n')
        if not is_kept:
            process.end(ProcessTerminated(1))
    machine.clock.advance(0)
    assert machine.running == 2
    assert len(results) == 2
    machine.clock.advance(9)  # the others wait within their time, and then no more
    assert len(results) == 5
    assert machine.running == 0


def test_a_kept_one_is_asked_again_until_it_is_worn() -> None:
    asked = Asked(Machine(says(), lingers=True), kept=True, uses=3)
    for _ in range(5):
        assert isinstance(asked.about(), Continue)
    assert len(asked.machine.processes) == 2
    assert asked.machine.running == 1
    asked.machine.clock.advance(61)
    assert asked.machine.processes[1].is_closed
    asked.machine.clock.advance(6)
    assert asked.machine.running == 0
    assert asked.machine.clock.getDelayedCalls() == []
    assert isinstance(asked.about(), Continue)


def test_a_kept_one_that_has_died_or_speaks_up_is_replaced() -> None:
    asked = Asked(Machine(says(), lingers=True), kept=True)
    asked.about()
    asked.machine.processes[0].end(ProcessTerminated(1))
    assert isinstance(asked.about(), Continue)
    asked.machine.processes[1].say(b'{"verdict": "continue"}\n')
    assert isinstance(asked.about(), Continue)
    assert [one.is_alive for one in asked.machine.processes] == [False, False, True]


def test_content_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "incoming").mkdir()
    seen: list[tuple[str, bytes]] = []

    def program(asked: Mapping[str, Any], content: bytes) -> bytes:
        seen.append((asked["file"], Path(asked["file"]).read_bytes()))
        return b'{"verdict": "continue"}\n'

    asked = Asked(Machine(program), tmp_path, content="file")
    asked.about()
    assert seen[0][1] == message().content.read()
    assert list((tmp_path / "incoming").iterdir()) == []
    own = tmp_path / "own"
    own.write_bytes(b"Subject: x\r\n\r\n")
    asked.about(Message(Content.in_file(own)))
    assert seen[1] == (str(own), b"Subject: x\r\n\r\n")
    assert own.exists()


def test_large_messages_are_not_shown() -> None:
    for word, kind in (("continue", Continue), ("defer", Defer), ("reject", Reject), ("quarantine", Quarantine)):
        asked = Asked(Machine(says()), max_size="2KiB", oversize=word)
        assert isinstance(asked.about(message(b"x" * 3000)), kind)
        assert asked.machine.processes == []


@pytest.mark.parametrize("on_failure", ["defer", "reject", "quarantine"])
def test_nothing_slips_by_one_that_fails_and_the_breaker_opens_and_closes(on_failure: Any) -> None:
    machine = Machine(says(), status=1)
    events = EventRecorder()
    asked = Asked(machine)
    pipeline = Pipeline([[Member("command", asked.filter, on_failure=on_failure)]], machine, events)  # type: ignore[arg-type]
    kinds = {"defer": Defer, "reject": Reject, "quarantine": Quarantine}

    def verdict() -> Verdict:
        answer: Any = pipeline.message(session(), transaction(), message())
        (found,) = wait_for(answer, machine.clock)
        return found  # type: ignore[no-any-return]  # of a tuple of verdicts

    for _ in range(7):
        assert isinstance(verdict(), kinds[on_failure])
    # Where the message goes on, there are edits to ask for, too.
    assert len(machine.processes) == (3 if on_failure == "quarantine" else 5)
    machine.status = 0
    machine.clock.advance(31)
    assert isinstance(verdict(), Continue)
    assert [event.is_open for event in events.of(BreakerChanged)] == [True, False]


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"command": []}, "at least 1"),
        ({"command": ["cat"]}, "no full path"),
        ({"command": ["/bin/cat", "a\0b"]}, "zero octet"),
        ({"command": ["/bin/cat"], "memory": "1MiB"}, "at least 16MiB"),
        ({"command": ["/bin/cat"], "content": "pipe"}, "stdin"),
    ],
)
def test_options_that_are_wrong(options: dict[str, Any], what: str) -> None:
    with pytest.raises(ValidationError, match=what):
        Options.model_validate(options)


def test_commands_that_cannot_be_run(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("no program")
    plain.chmod(0o600)
    for path in ("/no/such/command", tmp_path, plain):
        with pytest.raises(ValueError, match="no command that can be run"):
            build(Options(command=[str(path)]), services())


class TestContract(FilterContract):
    factory = FilterMaker("command", "mailgate.filters.command", "asks a command")
    settings = {"command": COMMAND}  # noqa: RUF012  as the contract has it

    def make_services(self, clock: Clock, **silent: Any) -> FilterServices:
        """With a command that refuses one sender, and marks what others send."""

        def program(asked: Mapping[str, Any], content: bytes) -> bytes:
            word = "reject" if "eve" in asked["sender"] else "continue"
            return json.dumps({"verdict": word, "reason": "so", "add_headers": [["X-Seen", "1"]]}).encode() + b"\n"

        return services(clock=Machine(program, clock), **silent)

    def occasions(self) -> Iterable[Occasion]:
        return [Occasion(), Occasion(transaction=transaction("eve@client.example"))]
