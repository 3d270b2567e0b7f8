"""The processor time that programs take, from /proc."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

__all__ = ["processor_of"]

_TICK = 1 / os.sysconf("SC_CLK_TCK")


def processor_of(pid: int) -> float:
    """Seconds that a process has taken, and everything that it has started, those included that have ended.

    In ticks of the system's clock, usually 10 ms.
    """
    total: dict[int, float] = {}
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(") ")[2].split()
            number = int(stat.parent.name)
            # proc(5): the parent, its own time in user and system mode, and that of children it has waited for
            children.setdefault(int(fields[1]), []).append(number)
            total[number] = sum(map(int, fields[11:15])) * _TICK
    seconds, waiting = 0.0, [pid]
    while waiting:
        one = waiting.pop()
        waiting.extend(children.get(one, []))
        seconds += total.get(one, 0.0)
    return seconds
