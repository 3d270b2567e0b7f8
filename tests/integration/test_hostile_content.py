"""Hostile mail, and mail that others have collected, through a gateway with all filters of content: answered within
bounds of time and memory, without an error of ours, and untouched where nothing was to be changed."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from content_stand import ContentStand, Reply, sampled
from dns_parts import Knot
from hostile_mail import HOSTILE, LONG_LINE
from parts import Gateway, folder
from recorder import EVERYTHING, Recorder
from scanner_parts import mail

pytestmark = [pytest.mark.needs("knotd"), pytest.mark.timeout(300)]

MIB = 1024 * 1024
#: What the gateway and its workers may hold more than before, at most.
GROWTH = 500 * MIB

#: What is refused whatever the filters are: headers that are too long to be read, or could be read in two ways.
UNCLEAR = "5.6.0 The header section"
#: What is refused by the filters.
ACTED = ("5.6.0 ", "5.7.1 ")

#: A busy machine may take long over what is bounded; what is not bounded takes longer than this.
TIMES = 'timeout = "45s"\ndeadline = "50s"'

WATCHING = """\
[pipelines.inbound]
filters = ["headers-check", ["attachments", "uribl", "signatures"], "dedupe", "headers"]

[filters.attachments]
@TIMES@
blocked = "continue"
macros = "continue"
encrypted = "continue"
encrypted_documents = "continue"
broken = "continue"
mismatch = "continue"
beyond_limits = "continue"
opaque = "continue"
unreadable = "continue"

[filters.uribl]
@TIMES@
zones = ["bl.test"]

[filters.signatures]
@TIMES@
rules = ["continue foo text /foo.*bar/", "continue subject header:subject /x/", "continue raw raw y"]

[filters.dedupe]
max_passes = 100
"""

ACTING = """\
[pipelines.inbound]
filters = ["headers-check", ["attachments", "uribl", "signatures"], "dedupe", "banner", "headers"]

[filters.attachments]
@TIMES@
blocked = "strip"

[filters.headers-check]
missing = "reject"
duplicate = "quarantine"
malformed = "quarantine"

[filters.uribl]
@TIMES@
zones = ["bl.test"]
verdict = "quarantine"

[filters.signatures]
@TIMES@
rules = ["quarantine foo text /foo.*bar/", "reject raw raw NOBODY-SAYS-THIS"]

[filters.dedupe]
verdict = "discard"

[filters.banner]
text = "This mail came from outside."
position = "top"
"""


@pytest.fixture(scope="module")
def knot() -> Iterator[Knot]:
    with folder("content") as directory, Knot(directory / "knot", {"bl.test": "listed.test A 127.0.0.2\n"}) as server:
        yield server


@pytest.fixture
def hop() -> Iterator[Recorder]:
    with Recorder(offers=[one for one in EVERYTHING if not one.startswith("SIZE ")]) as recorder:
        yield recorder


def checked(stand: ContentStand, replies: dict[str, Reply], refusals: Sequence[str]) -> None:
    """All was taken, or refused with one of these texts, and there was no failure of ours."""
    wrong = {
        name: one
        for name, one in replies.items()
        if one.code != 250 and not (one.code == 550 and one.text.startswith(tuple(refusals)))
    }
    assert wrong == {}
    assert stand.events("filter_failed") == []
    assert "Traceback" not in stand.gateway.log.read_text(errors="replace")


def unread(stand: ContentStand) -> list[str]:
    """The messages that a filter has given up, and why: its process has died over them, or passed its bounds."""
    return [
        f"{one['recipients'][0]} {step['filter']}: {step['found']}"
        for one in stand.events("message_accepted")
        for step in one["trace"]
        if "could not look into it" in step.get("found", "")
    ]


def corpus() -> list[tuple[str, bytes]]:
    folder = Path(os.environ["MAILGATE_SUITES"]) / "corpus"
    files = [one for one in sorted(folder.rglob("*")) if one.suffix in (".eml", ".msg", ".raw", ".bin", ".txt")]
    # As a client that speaks SMTP sends them: every line ends with CR LF.
    return [(str(one), re.sub(rb"\r?\n", b"\r\n", one.read_bytes())) for one in files]


def sources() -> dict[str, Callable[[], list[tuple[str, bytes]]]]:
    found = {"hostile": lambda: [(name, make()) for name, make in HOSTILE.items()]}
    # The suites of others lie in a folder of their own, which CI has.
    return found | ({"corpus": corpus} if os.environ.get("MAILGATE_SUITES") else {})


SOURCES = sources()


@pytest.mark.parametrize("source", SOURCES)
def test_what_is_only_watched_stays_as_it_is(
    source: str, build: Callable[[str, int], Gateway], hop: Recorder, knot: Knot
) -> None:
    stand = ContentStand(build, hop, knot.server, WATCHING.replace("@TIMES@", TIMES))
    mails = SOURCES[source]()
    with sampled(stand.gateway) as growth:
        replies = stand.send_all(mails)
    assert growth() < GROWTH
    assert unread(stand) == []
    checked(stand, replies, [UNCLEAR])
    stand.check_ledger()
    for name, content in mails:
        if replies[name].code != 250:
            continue
        arrived = stand.arrived(name)
        assert arrived.endswith(content), name
        top = arrived.removesuffix(content)
        assert re.fullmatch(rb"Received: from [^\r]*\r\n(\t[^\r]*\r\n)+", top), (name, top)
    assert stand.gateway.stop() == 0


@pytest.mark.parametrize("source", SOURCES)
def test_what_is_acted_on_is_answered(
    source: str, build: Callable[[str, int], Gateway], hop: Recorder, knot: Knot
) -> None:
    stand = ContentStand(build, hop, knot.server, ACTING.replace("@TIMES@", TIMES))
    mails = SOURCES[source]()
    with sampled(stand.gateway) as growth:
        replies = stand.send_all([("first", mail(b"hello\r\n")), *mails])
    assert growth() < GROWTH
    assert unread(stand) == []
    checked(stand, replies, [UNCLEAR, *ACTED])
    stand.check_ledger()
    assert b"This mail came from outside." in stand.arrived("first")
    assert stand.kept(), "nothing is in quarantine"
    assert stand.gateway.stop() == 0


@pytest.mark.parametrize("filters", [WATCHING, ACTING], ids=["watched", "acted on"])
def test_a_line_of_a_hundred_mebibytes(
    filters: str, build: Callable[[str, int], Gateway], hop: Recorder, knot: Knot
) -> None:
    stand = ContentStand(build, hop, knot.server, filters.replace("@TIMES@", TIMES))
    content = mail(b"x" * LONG_LINE + b"\r\n")
    with sampled(stand.gateway) as growth:
        halfway = stand.send("half of it", mail(b"x" * (LONG_LINE // 2) + b"\r\n"), by_data=True)
        by_data = stand.send("by DATA", content, by_data=True)
        by_bdat = stand.send("by BDAT", content)
    assert growth() < GROWTH
    # By DATA, a line has its bound, and so has what is thrown away after it.
    assert (halfway.code, by_data.code) == (550, 421), (halfway, by_data)
    checked(stand, {"by BDAT": by_bdat}, [])
    stand.check_ledger()
    # Filters say that they do not look into so much; what is to be done then is an option of each.
    assert all("size" in one for one in unread(stand))
    assert bool(stand.kept()) == (filters is ACTING)
    if filters is WATCHING:
        assert stand.arrived("by BDAT").endswith(content)
    assert stand.gateway.stop() == 0
