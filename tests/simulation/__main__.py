"""`python -m tests.simulation [--messages N] [--sites N] [--directory DIR]`: writes docs/simulation.md and .svg."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from tests.simulation.report import drawing, page
from tests.simulation.world import Plan, World


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--sites", type=int, default=10_000)
    parser.add_argument("--list-size", type=int, default=50_000)
    parser.add_argument("--directory", type=Path, help="where the spool may lie for that time")
    parser.add_argument("--docs", type=Path, default=Path(__file__).parents[2] / "docs", help="where the page goes")
    options = parser.parse_args()
    plan = Plan(messages=options.messages, sites=options.sites, list_size=options.list_size)
    with tempfile.TemporaryDirectory(dir=options.directory) as folder:
        began = time.perf_counter()
        measured = World(plan, Path(folder) / "spool").run(
            lambda minute, minutes: print(f"\rminute {minute} of {minutes}", end="", flush=True)
        )
        text = page(plan, measured, time.perf_counter() - began)
    print()
    print(text)
    (options.docs / "simulation.md").write_text(text)
    (options.docs / "simulation.svg").write_text(drawing(measured))


if __name__ == "__main__":
    main()
