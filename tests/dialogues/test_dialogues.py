"""Every dialogue goes as it is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import Field
from twisted.internet.defer import Deferred
from zope.interface import directlyProvides, implementer

from mailgate.address import Address
from mailgate.config.schema import Section
from mailgate.interfaces import FilterServices, IFilterFactory, IMailFilter, IMessageFilter
from mailgate.reply import Reply
from mailgate.testing import MemoryResolver
from mailgate.testing.dialogue import DialogueError, parse
from mailgate.testing.player import play
from mailgate.verdict import Reject

FOLDER = Path(__file__).parent


class Options(Section):
    """What the filters of these tests may be told."""

    stage: Literal["mail", "message"] = "message"
    """where it is asked"""
    refuse: list[str] = Field(default=[])
    """picky: the recipients that it refuses"""


class Says:
    """A filter with one answer."""

    def __init__(self, options: Options, answer: Callable[[], object]) -> None:
        self._answer = answer
        directlyProvides(self, IMailFilter if options.stage == "mail" else IMessageFilter)

    def on_mail(self, *_: object) -> object:
        return self._answer()

    def on_message(self, *_: object) -> object:
        return self._answer()


@implementer(IFilterFactory)
class Factory:
    """Makes the filters that dialogues have beside the installed ones."""

    summary = "for tests"
    options = Options

    def __init__(self, name: str) -> None:
        self.name = name

    def build(self, options: object, services: FilterServices) -> object:
        assert isinstance(options, Options)
        named = tuple(Address.parse(one) for one in options.refuse)
        answers: dict[str, Callable[[], object]] = {
            "broken": lambda: 1 / 0,
            "silent": Deferred,
            "picky": lambda: Reject(Reply.of(550, "5.7.1", "Not for her"), "not for her", named),
        }
        return Says(options, answers[self.name])


FILTERS: Sequence[Any] = [Factory("broken"), Factory("silent"), Factory("picky")]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.smtp")), ids=lambda path: path.stem)
def test_it_goes_as_it_is_written(path: Path, tmp_path: Path) -> None:
    dialogue = parse(path.read_text(), f"tests/dialogues/{path.name}")
    assert dialogue.title, "a dialogue says what it is about"
    play(dialogue, tmp_path, FILTERS)


GOOD = """
--- dialogue
S: 220 mx.example.org ESMTP mailgate
C: EHLO client.example
S: 250-mx.example.org
S: 250-...
S: 250 /ENHANCED.*/
C: QUIT
S: 221
-- the server disconnects --
--- events
session_closed cause=quit messages=0
--- queue
"""


def test_the_good_one_is_good(tmp_path: Path) -> None:
    play(parse(GOOD), tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("S: 220 mx.", "S: 220 my.", "dialogue:3: S: 220 my.example.org ESMTP mailgate\n    the server said: 220 mx."),
        ("S: 221", "S: 250", "the server said: 221 2.0.0 Bye"),
        ("S: 221\n", "S: 221\nS: 421\n", "the server said nothing more"),
        ("S: 221\n", "", "before this, the server said: 221 2.0.0 Bye"),
        ("S: 250-...\n", "", "the server said: 250-PIPELINING"),
        ("S: 250 /ENHANCED.*/", "S: 250 /enhanced.*/", "the server said: 250 ENHANCEDSTATUSCODES"),
        ("C: QUIT", "C*: QUIT", "the server said nothing more"),
        ("C: QUIT", "QUIT", "this is no line of a dialogue"),
        ("C: QUIT\nS: 221", "", "the connection is open"),
        ("-- the server disconnects --", "-- the moon rises --", "this cannot happen"),
        ("-- the server disconnects --", "-- 192.0.2.1 connects to nowhere --", "there is no such listener"),
        ("cause=quit", "cause=lost", "the event is: session_closed"),
        ("cause=quit", "why=quit", "there is no field why"),
        ("session_closed", "refused", "the event is: session_closed"),
        ("session_closed cause=quit messages=0\n", "", "one more event: session_closed"),
        ("messages=0\n", "messages=0\nstopped\n", "there is no such event"),
        ("--- queue\n", "--- queue\nbob@example.org\n", "there is no such recipient in the queue"),
        ("--- queue\n", "--- message\nSubject: x\n", "no message was taken"),
        ("--- queue\n", "--- events\n", "stands here twice"),
        ("--- queue\n", "--- quux\n", "no section of a dialogue"),
        ("--- dialogue", "--- zone\nexample.org MX ten\n--- dialogue", "no record: example.org MX ten"),
        ("--- dialogue", "--- zone\nx.example A NODATA\nx.example A 192.0.2.1\n--- dialogue", "no record: x.example A"),
        ("--- dialogue", "--- zone\nx.example MX 10 a b\n--- dialogue", "no record: x.example MX 10 a b"),
        ("--- events\nsession_closed cause=quit messages=0\n", "", "it has no section events"),
    ],
)
def test_what_goes_otherwise_is_told(old: str, new: str, complaint: str, tmp_path: Path) -> None:
    assert old in GOOD
    with pytest.raises(DialogueError) as caught:
        play(parse(GOOD.replace(old, new)), tmp_path)
    assert complaint in str(caught.value)


def test_several_lines_are_one_set_of_records() -> None:
    zone = """
--- zone
x.example MX 10 a.example
X.example MX 5 b.example
x.example TXT "v=spf1 -all"
192.0.2.1 PTR x.example
slow.example A TIMEOUT
"""
    resolver = MemoryResolver(parse(zone + GOOD).zone)
    assert resolver.resolve("x.example", "MX").records == ((5, "b.example"), (10, "a.example"))
    assert resolver.resolve("x.example", "TXT").records == (b"v=spf1 -all",)
    assert resolver.reverse(ip_address("192.0.2.1")).records == ("x.example",)
    assert resolver.resolve("slow.example", "A").is_temporary


MESSAGE = """
--- dialogue
S: 220
C: EHLO client.example
C: MAIL FROM:<ann@client.example>
C: RCPT TO:<bob@example.org>
C: DATA
S*3: 250
S: 354
C: Subject: x
C:
C: one
C: two
C: .
S: 250
--- events
message_accepted
session_closed
--- message
"""


@pytest.mark.parametrize("lines", ["Received: ...\n...\n\none\ntwo\n", "...\none\n...\n", "...\ntwo\n"])
def test_messages_may_be_told_in_part(lines: str, tmp_path: Path) -> None:
    play(parse(MESSAGE + lines), tmp_path)


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ("...\nthree\n", "the message has: (its end)"),
        ("Subject: x\n", "the message has: Received: from"),
        ("...\none\n", "behind this, the message has: two"),
    ],
)
def test_messages_are_compared_line_by_line(lines: str, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(DialogueError) as caught:
        play(parse(MESSAGE + lines), tmp_path)
    assert complaint in str(caught.value)
