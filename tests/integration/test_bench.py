"""The bench's own client, and its tables."""

from __future__ import annotations

from pathlib import Path

import pytest
from parts import Sink, wait_until

from bench import client
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
