"""`python -m tests.scale [--recipients N] [--domains N] [--directory DIR]`: prints what each thing took."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from tests.scale.queue import fill, measure, size, to_version_2


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--recipients", type=int, default=1_000_000)
    parser.add_argument("--domains", type=int, default=100_000)
    parser.add_argument("--directory", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as folder:
        directory = Path(folder) / "spool"
        began = time.perf_counter()
        fill(directory, options.recipients, options.domains)
        print(f"made in {time.perf_counter() - began:.1f} s: {size(directory):.0f} MiB")
        for name, figure in measure(directory).items():
            print(f"{name:45} {figure:9.3f} {'MiB' if name.startswith('memory') else 's'}")
        to_version_2(directory)
        upgraded = measure(directory)
        print(f"{'open, with the upgrade of version 2':45} {upgraded['open']:9.3f} s")


if __name__ == "__main__":
    main()
