"""What a run came to, as a page and a drawing: made by hand, for there is nothing in them but lines and numbers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from tests.simulation.world import BUSY, CALM, CONNECTIONS, TOGETHER, Measured, Plan

__all__ = ["drawing", "page", "share"]

_WIDTH, _HEIGHT, _LEFT, _TOP, _GAP = 760, 180, 90, 40, 70
_COLOURS = ("#1f5fa8", "#c0501f", "#2f8f4e")


def share(measured: Measured) -> float:
    """What was delivered of what could have been, over the whole run: the areas below the two lines."""
    return sum(accumulate(measured.by_minute)) / sum(measured.ideal)


def page(plan: Plan, measured: Measured, seconds: float) -> str:
    """A page in Markdown."""
    kinds = sorted(measured.sent)
    rows = [
        f"| {kind} | {measured.sent[kind]:,} | {measured.ideal_by_kind[kind]:,} | {measured.delivered[kind]:,} |"
        f" {measured.deferred[kind]:,} |"
        for kind in kinds
    ]
    return "\n".join(
        [
            "# The relay under load, simulated",
            "",
            f"The real relay and the real spool on a clock that is turned: {plan.messages:,} messages from 2,000"
            f" senders to {plan.sites:,} sites, a few of which get much of the mail, in"
            f" {plan.sending / 60:.0f} minutes, and one message for {plan.list_size:,} recipients at `{BUSY}`."
            f" At most {CONNECTIONS} connections to a site, and {plan.max_active:,} jobs in memory."
            f" `python -m tests.simulation` makes this page; it took {seconds:.0f} s.",
            "",
            "![What was delivered, and what was in memory](simulation.svg)",
            "",
            "## Throughput",
            "",
            "*Ideal* is what the sites could have taken in this time, had each always had as much as it takes. Over the"
            f" whole run the relay was at {share(measured):.1%} of it: of what had been delivered, minute by minute.",
            "",
            "| sites | sent to them | ideal | delivered | deferrals |",
            "| --- | ---: | ---: | ---: | ---: |",
            *rows,
            "",
            "Sites that saw more sessions at one time than they take, or than the limit:"
            f" {measured.too_many_sessions}.",
            "",
            "## Fairness",
            "",
            f"A single message goes to `{BUSY}` every {plan.single_every:g} s, each from another sender, and one to"
            f" `{CALM}`, which is the same but for the list. A transaction takes 2 s there, and {TOGETHER} recipients.",
            "",
            "| delay of | median | 99 % | longest |",
            "| --- | ---: | ---: | ---: |",
            _delays(f"a single message to `{BUSY}`", measured.single_busy),
            _delays(f"a single message to `{CALM}`", measured.single_calm),
            _delays("a message to a fast site, whoever sends it", measured.fast),
            "",
            "## Memory",
            "",
            f"At most {max(measured.jobs):,} jobs were in memory, in {max(measured.queues):,} ready queues.",
            "",
        ]
    )


def _delays(name: str, delays: Sequence[float]) -> str:
    ordered = sorted(delays)
    found = ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100], ordered[-1]
    return f"| {name} | " + " | ".join(f"{one:.1f} s" for one in found) + " |"


def drawing(measured: Measured) -> str:
    """The same in SVG: deliveries over time beside the ideal, recipients of the list, and jobs in memory."""
    ideal = [now - before for before, now in zip([0.0, *measured.ideal], measured.ideal, strict=False)]
    charts: list[tuple[str, list[tuple[str, Sequence[float]]]]] = [
        ("deliveries a minute", [("ideal", ideal), ("delivered", measured.by_minute)]),
        ("of them, recipients of the list", [("delivered", measured.list_done)]),
        ("in memory", [("jobs", measured.jobs), ("ready queues", measured.queues)]),
    ]
    height = _TOP + len(charts) * (_HEIGHT + _GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_LEFT + _WIDTH + 30} {height}"'
        ' font-family="sans-serif" font-size="13">',
        f'<rect width="100%" height="{height}" fill="white"/>',
    ]
    for number, (title, lines) in enumerate(charts):
        parts += _chart(title, lines, _TOP + number * (_HEIGHT + _GAP))
    return "\n".join([*parts, "</svg>", ""])


def _chart(title: str, lines: Sequence[tuple[str, Sequence[float]]], top: int) -> list[str]:
    highest = max(max(values) for _, values in lines) or 1.0
    minutes = len(lines[0][1])
    bottom = top + _HEIGHT
    parts = [
        f'<text x="{_LEFT}" y="{top - 12}" font-weight="bold">{title}</text>',
        f'<path d="M{_LEFT} {top}V{bottom}H{_LEFT + _WIDTH}" fill="none" stroke="#444"/>',
        f'<text x="{_LEFT - 8}" y="{top + 5}" text-anchor="end">{highest:,.0f}</text>',
        f'<text x="{_LEFT - 8}" y="{bottom}" text-anchor="end">0</text>',
        f'<text x="{_LEFT + _WIDTH}" y="{bottom + 18}" text-anchor="end">{minutes} minutes</text>',
    ]
    for number, (name, values) in enumerate(lines):
        colour = _COLOURS[number]
        points = " ".join(
            f"{_LEFT + (place + 1) * _WIDTH / minutes:.1f},{bottom - value * _HEIGHT / highest:.1f}"
            for place, value in enumerate(values)
        )
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        parts.append(f'<text x="{_LEFT + 260 + 130 * number}" y="{top - 12}" fill="{colour}">{name}</text>')
    return parts
