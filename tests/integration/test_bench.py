"""The bench's own client, and its tables."""

from __future__ import annotations

import contextlib
import email
import email.policy
import io
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from parts import Sink, wait_until

from bench import client
from bench.corpus import CORPUS, NUMBER, message
from bench.inline import start_inline
from bench.processor import processor_of
from bench.scanner_systems import Scanned, Scanners
from bench.scanners import NotScannedError, see_refusals
from bench.scanners import Row as ScannedRow
from bench.scanners import Work as ScannedWork
from bench.systems import System
from bench.tables import as_markdown, as_text, detail, summary
from bench.works import Row, Wanted, Work, chosen


@pytest.mark.needs("smtp-sink")
@pytest.mark.parametrize("reuse", [False, True], ids=["one", "many"])
@pytest.mark.parametrize("rate", [0.0, 400.0], ids=["at once", "steady"])
def test_each_message_is_sent_and_timed_once(base: Path, reuse: bool, rate: float) -> None:
    with Sink(base) as sink:
        run = client.run(client.Load(sink.port, 40, 4096, 3, reuse, tls=False, rate=rate))
        wait_until(lambda: sink.messages == 40, "the sink has them all")
    assert len(run.delays) == 40
    assert min(run.delays) > 0


@pytest.mark.needs("smtp-sink")
def test_a_client_that_is_refused_fails(base: Path) -> None:
    with Sink(base, "-q", "RCPT") as sink, pytest.raises(RuntimeError, match="failed"):
        client.run(client.Load(sink.port, 5, 4096, 2, tls=False))


@pytest.mark.needs("smtp-sink", "postfix", "root")
def test_mail_that_is_not_queued_goes_through_all_that_are_compared(base: Path) -> None:
    with Sink(base / "sink") as sink, contextlib.ExitStack() as stack:
        for number, system in enumerate(start_inline(base, sink, stack, connections=2), 1):
            client.run(client.Load(system.port, 5, 4096, 2, tls=False))
            wait_until(lambda wanted=5 * number: sink.messages == wanted, system.name)  # type: ignore[misc]


def rows(work: Work, *figures: tuple[str, float]) -> list[Row]:
    """Of systems that take this long for each message, in milliseconds."""
    found = [Row(System(name, 25, None)) for name, _ in figures]
    for row, (_, each) in zip(found, figures, strict=True):
        row.rates, row.accept_rates, row.client = [1000 / each], [1000 / each], [0.25]
        row.delays = [each / 1000, 2 * each / 1000] if work.rate else []
    return found


def test_the_tables() -> None:
    first, reused, steady = chosen(Wanted(300, [4096], 20, rate=100))
    assert [work.heading for work in (first, reused, steady)] == ["4 KiB", "4 KiB, reused", "4 KiB"]
    assert (first.count, steady.count) == (300, 300)
    measured = [
        (first, rows(first, ("mailgate", 1.0), ("postfix", 2.5))),
        (reused, rows(reused, ("mailgate", 0.5), ("bare sink", 0.25))),
        (steady, rows(steady, ("mailgate", 1.0), ("postfix", 3.0))),
    ]
    (_, rates), (title, waits) = summary(measured)
    assert as_text(rates).splitlines() == [
        "                  4 KiB  4 KiB, reused",
        "mailgate           1000           2000",
        "postfix    400 (2.50 x)",
        "bare sink                4000 (0.50 x)",
    ]
    assert "at 100 messages a second" in title
    assert as_markdown(waits).splitlines() == [
        "| | 4 KiB |",
        "| --- | ---: |",
        "| mailgate | 1.5 / 2.0 |",
        "| postfix | 4.5 / 6.0 (3.00 x) |",
    ]
    head, lines = detail(*measured[0])
    assert head == ("", "delivered/s", "accepted/s", "memory", "client", "mailgate is")
    assert [tuple(line) for line in lines] == [
        ("mailgate", "1000", "1000", "", "25%", ""),
        ("postfix", "400", "400", "", "25%", "2.50 x"),
    ]


def test_every_kind_of_load_has_a_name_of_its_own() -> None:
    works = list(chosen(Wanted(300, [4096, 102400], 20, rate=50, tls=True)))
    assert len({work.title for work in works}) == len(works) == 9


@pytest.mark.needs("smtp-sink")
def test_each_message_of_a_corpus_has_a_number_of_its_own(base: Path) -> None:
    content = message("2 KiB")
    with Sink(base, "-d", "mail.") as sink:
        load = client.Load(sink.port, 8, len(content), 3, tls=False, content=content, number=NUMBER)
        client.run(load)
        wait_until(lambda: sink.messages == 8, "the sink has them all")
    found = [email.message_from_bytes(path.read_bytes()) for path in base.glob("mail.*")]
    assert len({one["Message-ID"] for one in found}) == 8
    assert not any(NUMBER.decode() in one.as_string() for one in found)


@pytest.mark.parametrize("kind", CORPUS)
def test_the_corpus(kind: str) -> None:
    content = message(kind)
    assert content == message(kind)
    assert content.count(NUMBER) == 2
    assert all(line and len(line) < 100 and not line.startswith(b".") for line in content.split(b"\r\n") if line)
    assert content.count(b"\r\n") == content.count(b"\n") == content.count(b"\r")
    mail = email.message_from_bytes(content, policy=email.policy.default)
    assert not [defect for part in mail.walk() for defect in part.defects]
    kinds = [part.get_content_type() for part in mail.walk() if not part.is_multipart()]
    wanted = {"2 KiB": ["text/plain"], "50 KiB": ["text/plain", "text/html"]}
    assert kinds == wanted.get(kind, ["text/plain", "application/zip"])
    if kind == "attachment":
        (attached,) = mail.iter_attachments()
        with zipfile.ZipFile(io.BytesIO(attached.get_content())) as file:
            assert file.testzip() is None


def test_the_time_of_programs_that_have_ended_counts() -> None:
    before, mine = processor_of(os.getpid()), time.process_time()
    burn = "import time\nwhile time.process_time() < 0.2: pass"
    subprocess.run([sys.executable, "-c", burn], check=True)  # noqa: S603  a script of our own
    assert processor_of(os.getpid()) - before >= 0.19
    assert time.process_time() - mine < processor_of(os.getpid()) - before


class Blind(Scanners):
    """They look at nothing, or at this many more each time."""

    def __init__(self, clamd: int, rspamd: int) -> None:
        self.each = clamd, rspamd
        self.asked = 0

    def counts(self) -> tuple[int, int]:
        self.asked += 1
        return self.each[0] * self.asked, self.each[1] * self.asked

    def processor(self) -> tuple[float, float]:
        return 0.0, 0.0


@pytest.mark.needs("smtp-sink")
@pytest.mark.parametrize(("counts", "is_right"), [((5, 5), True), ((5, 4), False), ((0, 5), False), ((5, 10), False)])
def test_a_round_in_which_mail_goes_past_a_scanner_ends_the_run(
    base: Path, counts: tuple[int, int], is_right: bool
) -> None:
    with Sink(base) as sink:
        row = ScannedRow(Scanned("open", sink.port, (sink,)))
        work = ScannedWork("2 KiB", 5)
        if is_right:
            row.measure(work, 2, sink, Blind(*counts))
            assert (len(row.rates), len(row.delays), len(row.processor[0])) == (1, 5, 3)
        else:
            with pytest.raises(NotScannedError, match="open has delivered 5"):
                row.measure(work, 2, sink, Blind(*counts))


@pytest.mark.needs("smtp-sink")
def test_a_system_that_lets_a_virus_through_is_not_measured(base: Path) -> None:
    with Sink(base) as sink, pytest.raises(NotScannedError, match="open does not refuse what clamd does"):
        see_refusals(Scanned("open", sink.port, (sink,)))
