"""`make bench ARGS="--scanners"`: mail that clamd and rspamd look at, in mailgate and in Postfix with milters.

Both systems ask the same clamd and the same rspamd about each message, refuse what these refuse, and relay the rest to
the same sink. They take turns, round by round. A round in which a scanner has not looked at every message, and a system
that lets through what a scanner refuses, end the run: what is compared is the same work.
"""

from __future__ import annotations

import smtplib
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from parts import Sink, wait_until
from scanner_parts import EICAR, GTUBE, mail

from bench import client
from bench.corpus import CORPUS, NUMBER, message
from bench.scanner_systems import WORKERS, Scanned, Scanners, start
from bench.tables import as_text

__all__ = ["Asked", "NotScannedError", "Row", "Work", "measure", "see_refusals"]

#: Seconds that a round at a steady rate takes at most.
_STEADY = 4.0


class NotScannedError(Exception):
    """The run is worth nothing: mail went past a scanner."""


@dataclass(frozen=True)
class Asked:
    """What the options ask for: `messages` in each of `rounds`, `ways` are whether connections are reused, `rate` is
    that of messages a second for the waits (0: they are not measured)."""

    messages: int
    rounds: int
    connections: int
    ways: Sequence[bool] = (False, True)
    rate: float = 20.0


@dataclass(frozen=True)
class Work:
    """One kind of load: messages of this kind of the corpus; `rate` as in client.Load."""

    kind: str
    count: int
    reuse: bool = False
    rate: float = 0.0

    @property
    def title(self) -> str:
        """What is done, on one line."""
        way = "many messages a connection" if self.reuse else "one message a connection"
        return f"{self.kind}: {CORPUS[self.kind]}, {way}"


@dataclass
class Row:
    """What was measured of one system, a figure a round: `processor` is milliseconds a message, of each program."""

    system: Scanned
    rates: list[float] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)
    processor: list[list[float]] = field(default_factory=list)

    def measure(self, work: Work, connections: int, sink: Sink, scanners: Scanners) -> None:
        """One round. NotScannedError where a scanner has not looked at every message."""
        wanted, before = sink.messages + work.count, scanners.counts()
        used = self._processor(scanners)
        content = message(work.kind)
        run = client.run(
            client.Load(
                self.system.port,
                work.count,
                len(content),
                connections,
                work.reuse,
                tls=False,
                rate=work.rate,
                content=content,
                number=NUMBER,
            )
        )
        wait_until(lambda: sink.messages >= wanted, f"{self.system.name} delivers everything", 120)
        seconds = time.monotonic() - run.began
        taken = [(now - then) / work.count * 1000 for now, then in zip(self._processor(scanners), used, strict=True)]
        looked = [now - then for now, then in zip(scanners.counts(), before, strict=True)]
        if looked != [work.count] * 2:
            raise NotScannedError(
                f"{self.system.name} has delivered {work.count} messages: clamd looked at {looked[0]}, "
                f"rspamd at {looked[1]}"
            )
        self.rates.append(work.count / seconds)
        self.delays += run.delays
        self.processor.append(taken)

    def wait(self, share: int) -> float:
        """The milliseconds within which so many hundredths of the ends of data were answered."""
        return statistics.quantiles(self.delays, n=100, method="inclusive")[share - 1] * 1000

    def _processor(self, scanners: Scanners) -> list[float]:
        return [self.system.processor(), *scanners.processor()]


def measure(base: Path, sink: Sink, asked: Asked) -> None:
    """Print the figures. NotScannedError where mail went past a scanner."""
    with ExitStack() as stack:
        scanners, systems = start(base / "scanners", sink, stack)
        print(
            f"clamd with 12 threads; rspamd with {WORKERS} processes for each system; {asked.connections} connections"
        )
        for system in systems:
            see_refusals(system)
        for kind in CORPUS:
            for reuse in asked.ways:
                _compare(Work(kind, asked.messages, reuse), asked, systems, sink, scanners)
        for kind in CORPUS:
            if asked.rate:
                work = Work(kind, min(asked.messages, round(asked.rate * _STEADY)), rate=asked.rate)
                _compare(work, asked, systems, sink, scanners)


def _compare(work: Work, asked: Asked, systems: Sequence[Scanned], sink: Sink, scanners: Scanners) -> None:
    rows = [Row(system) for system in systems]
    for number in range(asked.rounds + 1):
        for row in rows:
            row.measure(work, asked.connections, sink, scanners)
            if number == 0:  # the first round warms up
                row.rates, row.delays, row.processor = [], [], []
    print(f"\n{_told(work, rows)}", flush=True)


def see_refusals(system: Scanned) -> None:
    """See that it heeds both scanners; NotScannedError where it does not."""
    for scanner, sign in (("clamd", EICAR), ("rspamd", GTUBE)):
        with smtplib.SMTP("127.0.0.1", system.port, timeout=60) as connection:
            try:
                connection.sendmail("from@client.test", ["to@bench.test"], mail(sign + b"\r\n"))
            except smtplib.SMTPDataError as refused:
                if refused.smtp_code // 100 == 5:
                    continue
            raise NotScannedError(f"{system.name} does not refuse what {scanner} does")


def _told(work: Work, rows: Sequence[Row]) -> str:
    """A table with a line for each system; ratios are mailgate's rate to the other's, and the other's wait to
    mailgate's: more is better for mailgate in both."""
    ours, head = rows[0], ["p50 ms", "p99 ms", "longest ms"] if work.rate else ["delivered/s"]
    lines = []
    for row in rows:
        if work.rate:
            cells = [f"{row.wait(50):.1f}", f"{row.wait(99):.1f}", f"{max(row.delays) * 1000:.0f}"]
            ratio = row.wait(50) / ours.wait(50)
        else:
            cells = [f"{statistics.median(row.rates):.0f}"]
            ratio = statistics.median(ours.rates) / statistics.median(row.rates)
        processor = [f"{statistics.median(figures):.1f}" for figures in zip(*row.processor, strict=True)]
        lines.append((row.system.name, *cells, *processor, "" if row is ours else f"{ratio:.2f} x"))
    title = f"{work.title}, {work.rate:g} a second: the wait for the 250" if work.rate else work.title
    columns = ("", *head, "own ms", "clamd ms", "rspamd ms", "mailgate is")
    return f"{title}\n{as_text((columns, lines))}"
