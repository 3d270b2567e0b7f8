"""What was measured, as text for a terminal, and as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from bench.works import Row, Work

__all__ = ["as_markdown", "as_text", "detail", "summary"]

#: A head and rows of cells; the first cell of a row is a system's name.
_Table = tuple[Sequence[str], Sequence[Sequence[str]]]

#: Hundredths of the ends of data.
_SHARES = (50, 99)


def detail(work: Work, rows: Sequence[Row]) -> _Table:
    """All that was measured under one kind of load. Ratios are mailgate's rate to the other's; of waits, the other's to
    mailgate's: more is better for mailgate in both."""
    if work.rate:
        return ("", *(f"p{share} ms" for share in _SHARES), "longest ms", "mailgate is"), [
            (row.system.name, *(f"{row.wait(share):.1f}" for share in _SHARES), f"{max(row.delays) * 1000:.0f}", ratio)
            for row, ratio in zip(rows, _ratios(work, rows), strict=True)
        ]
    cells = []
    for row, ratio in zip(rows, _ratios(work, rows), strict=True):
        done = [f"{row.rate:.0f}" if row.system.delivers or not work.size else ""]
        if work.size:
            done.append(f"{statistics.median(row.accept_rates):.0f}")
        held = f"{row.memory / 2**20:.0f} MiB" if row.memory else ""
        cells.append((row.system.name, *done, held, f"{statistics.median(row.client):.0%}", ratio))
    names = ("delivered/s", "accepted/s") if work.size else ("sessions/s",)
    return ("", *names, "memory", "client", "mailgate is"), cells


def summary(measured: Sequence[tuple[Work, Sequence[Row]]]) -> list[tuple[str, _Table]]:
    """The figures of all kinds of load, with a column for each: what was done in a second, and how long clients have
    waited. Each figure of another system has mailgate's ratio to it behind it."""
    found = []
    for title, is_steady in (
        ("messages delivered (under TLS, sessions: ended) in a second", False),
        (f"milliseconds from the end of data to the 250: {' / '.join(f'p{share}' for share in _SHARES)}", True),
    ):
        works = [(work, rows) for work, rows in measured if bool(work.rate) is is_steady]
        if works:
            if is_steady:
                title += f", at {works[0][0].rate:g} messages a second"
            found.append((title, _across(works)))
    return found


def as_text(table: _Table) -> str:
    """Columns side by side, figures to the right."""
    head, rows = table
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = []
    for row in (head, *rows):
        name, *cells = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join([name.strip().ljust(widths[0]), *cells]).rstrip())
    return "\n".join(lines)


def as_markdown(table: _Table) -> str:
    """For a page."""
    head, rows = table
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |".replace("|  |", "| |") for line in lines)


def _across(works: Sequence[tuple[Work, Sequence[Row]]]) -> _Table:
    names = dict.fromkeys(row.system.name for _, rows in works for row in rows)
    cells = {name: [name] for name in names}
    for work, rows in works:
        ratios = dict(zip((row.system.name for row in rows), _ratios(work, rows), strict=True))
        by_name = {row.system.name: row for row in rows}
        for name, line in cells.items():
            row = by_name.get(name)
            line.append("" if row is None else f"{_figure(work, row)} ({ratios[name]})".removesuffix(" ()"))
    return ("", *(work.heading for work, _ in works)), list(cells.values())


def _figure(work: Work, row: Row) -> str:
    if work.rate:
        return " / ".join(f"{row.wait(share):.1f}" for share in _SHARES)
    return f"{row.rate:.0f}"


def _ratios(work: Work, rows: Sequence[Row]) -> list[str]:
    """Of each row to the first one, which is mailgate and has none."""
    ours = rows[0]
    found = [""]
    for row in rows[1:]:
        ratio = row.wait(50) / ours.wait(50) if work.rate else ours.rate / row.rate
        found.append(f"{ratio:.2f} x" if ratio < 10 else f"{ratio:.0f} x")
    return found
