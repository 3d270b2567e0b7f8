"""Holds dialogues: plays the client's lines to a gateway in memory, and compares what comes of it."""

from __future__ import annotations

import dataclasses
import re
import shlex
import tomllib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from mailgate.envelope import TraceStep
from mailgate.events import Event
from mailgate.interfaces import EntryView, IFilterFactory, Selector
from mailgate.message import rendered
from mailgate.observe.render import event_name
from mailgate.testing.answers import wait_for
from mailgate.testing.dialogue import Dialogue, DialogueError, Line, fits, unescaped
from mailgate.testing.gateway import MemoryClient, MemoryGateway

__all__ = ["play"]

T = TypeVar("T", Event, EntryView)

#: What stands in for the tables that a dialogue's configuration does not have.
_BASE = {
    "gateway": '[gateway]\nhostname = "mx.example.org"\nstate_dir = "state"\n',
    "listeners": '[[listeners]]\nname = "mx"\nendpoints = ["tcp:25"]\npipeline = "inbound"\n',
    "pipelines": '[pipelines.inbound]\nfilters = ["access", "rate-limit", "recipients", "headers"]\n',
    "domains": '[domains."example.org"]\nroute = "inside"\n',
    "routes": '[routes.inside]\ntransport = "smtp"\nhosts = ["mail.inside.example:25"]\n',
}
_UNITS = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0}

_RAW = re.compile(r"C\*(\d*): (.*)")
_SAID = re.compile(r"S(?:\*(\d+))?: (\d{3})(?:([ -])(.*))?")
_STAGE = re.compile(r"-- (.*) --")
_PASS = re.compile(r"(\d+(?:\.\d+)?) (second|minute|hour|day)s? pass(?:es)?")
_CONNECT = re.compile(r"(\S+) connects(?: to (\S+))?")


def play(dialogue: Dialogue, folder: Path, filters: Iterable[IFilterFactory] = ()) -> None:
    """Hold a dialogue with a gateway of its own, whose files lie in `folder`; DialogueError where it goes otherwise.

    `filters` are kinds that it may configure beside the installed ones.
    """
    for name, text in dialogue.files.items():
        (folder / name).write_text(text)
    path = folder / "mailgate.toml"
    missing = _BASE.keys() - tomllib.loads(dialogue.config).keys()
    path.write_text(dialogue.config + "\n" + "\n".join(text for key, text in _BASE.items() if key in missing))
    gateway = MemoryGateway(path, dialogue.zone, filters)
    player = _Player(dialogue, gateway)
    try:
        player.converse()
    finally:
        player.leave()
    player.check_events()
    if dialogue.queue is not None:
        player.check_queue(dialogue.queue)
    if dialogue.message is not None:
        player.check_message(dialogue.message)


class _Player:
    def __init__(self, dialogue: Dialogue, gateway: MemoryGateway) -> None:
        self._dialogue = dialogue
        self._gateway = gateway
        self._clients: list[MemoryClient] = []
        self._said: list[str] = []
        self._unsent: list[bytes] = []
        self._line = Line(1, "")

    def converse(self) -> None:
        for line in self._dialogue.steps:
            self._line, text = line, line.text
            if said := _SAID.fullmatch(text):
                self._client()
                self._speak()
                self._listen()
                for _ in range(int(said[1] or 1)):
                    self._hear(said[2], said[3], said[4] or "")
                continue
            self._nothing_more()
            if text == "C:" or text.startswith("C: "):
                self._unsent.append(text[3:].encode() + b"\r\n")
            elif raw := _RAW.fullmatch(text):
                self._unsent += [unescaped(raw[2], number) for number in range(1, int(raw[1] or 1) + 1)]
            elif stage := _STAGE.fullmatch(text):
                self._speak()
                self._happens(stage[1])
            else:
                raise self._error("this is no line of a dialogue")
        self._speak()
        self._nothing_more()

    def leave(self) -> None:
        for client in self._clients:
            client.disconnect()

    def _error(self, text: str) -> DialogueError:
        return DialogueError(f"{self._dialogue.name}:{self._line.number}: {self._line.text}\n    {text}")

    # -- talking

    def _client(self) -> MemoryClient:
        if not self._clients:
            self._clients.append(self._gateway.connect())
        return self._clients[-1]

    def _speak(self) -> None:
        """Send what the client says, as far as it waits for no answer, in one piece."""
        octets, self._unsent = b"".join(self._unsent), []
        if octets:
            self._client().send(octets)

    def _listen(self) -> None:
        for client in self._clients:
            if client is self._clients[-1]:
                self._said += client.said()
            if client.is_closed:
                client.disconnect()

    def _hear(self, code: str, separator: str | None, wanted: str) -> None:
        if separator == "-" and wanted == "...":
            while self._said and self._said[0].startswith(f"{code}-"):
                self._said.pop(0)
            return
        said = self._next()
        if separator is None:
            while said.startswith(f"{code}-"):
                said = self._next()
            if said[:4] != f"{code} ":
                raise self._error(f"the server said: {said}")
        elif said[:4] != code + separator or not fits(wanted, said[4:]):
            raise self._error(f"the server said: {said}")

    def _next(self) -> str:
        if not self._said:
            raise self._error("the server said nothing more")
        return self._said.pop(0)

    def _nothing_more(self) -> None:
        self._listen()
        if self._said:
            raise self._error(f"before this, the server said: {self._said[0]}")

    def _happens(self, what: str) -> None:
        self._nothing_more()
        if match := _PASS.fullmatch(what):
            self._gateway.pass_time(float(match[1]) * _UNITS[match[2]])
        elif match := _CONNECT.fullmatch(what):
            try:
                self._clients.append(self._gateway.connect(match[1], match[2] or ""))
            except KeyError:
                raise self._error("there is no such listener") from None
        elif what == "the client disconnects":
            self._client().disconnect()
        elif what == "the server disconnects":
            if not self._client().is_closed:
                raise self._error("the connection is open")
        elif what == "the disk is full":
            self._gateway.spool.error = "the disk is full"
        elif what == "the disk has room":
            self._gateway.spool.error = ""
        elif what == "the gateway closes down":
            for listener in self._gateway.listeners.values():
                listener.drain()
        else:
            raise self._error("this cannot happen")

    # -- what has become of it

    def check_events(self) -> None:
        self._compare("event", self._dialogue.events, self._gateway.events, lambda one: event_name(type(one)))

    def check_queue(self, wanted: Sequence[Line]) -> None:
        entries = wait_for(self._gateway.spool.view(Selector(), 1000))
        self._compare("recipient in the queue", wanted, entries, lambda one: one.recipient)

    def check_message(self, wanted: Sequence[Line]) -> None:
        if not self._gateway.leases:
            raise DialogueError(f"{self._dialogue.name}: no message was taken")
        lease = self._gateway.leases[-1]
        octets = b"".join(rendered(lease.content, lease.envelope.edits))
        lines = octets.decode("utf-8", "replace").removesuffix("\r\n").split("\r\n")
        may_skip = False
        for line in wanted:
            self._line = line
            while may_skip and lines and not fits(line.text, lines[0]):
                lines.pop(0)
            may_skip = line.text == "..."
            if may_skip:
                continue
            if not lines or not fits(line.text, lines[0]):
                raise self._error(f"the message has: {lines[0] if lines else '(its end)'}")
            lines.pop(0)
        if lines and not may_skip:
            raise self._error(f"behind this, the message has: {lines[0]}")

    def _compare(self, what: str, wanted: Sequence[Line], found: Sequence[T], name_of: Callable[[T], str]) -> None:
        for line, one in zip(wanted, found, strict=False):
            self._line = line
            name, *fields = shlex.split(line.text)
            if name != name_of(one):
                raise self._error(f"the {what} is: {_shown(one)}")
            for text in fields:
                key, _equals, pattern = text.partition("=")
                if not hasattr(one, key):
                    raise self._error(f"there is no field {key}")
                if not fits(pattern, _as_text(getattr(one, key))):
                    raise self._error(f"the {what} is: {_shown(one)}")
        if len(found) > len(wanted):
            raise DialogueError(f"{self._dialogue.name}: one more {what}: {_shown(found[len(wanted)])}")
        if len(found) < len(wanted):
            self._line = wanted[len(found)]
            raise self._error(f"there is no such {what}")


def _as_text(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_as_text, value))
    if isinstance(value, TraceStep):
        return f"{value.stage} {value.filter} {value.verdict}{'' if value.enforced else ' (shadow)'}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _shown(value: Event | EntryView) -> str:
    names = value.__struct_fields__ if isinstance(value, Event) else [one.name for one in dataclasses.fields(value)]
    fields = [(name, getattr(value, name)) for name in names]
    told = " ".join(f"{key}={_as_text(one)!r}" for key, one in fields if one not in ("", ()))
    return f"{event_name(type(value))} {told}"
