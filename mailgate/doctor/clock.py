"""Whether the clock is right. Nobody is asked for the time: the kernel knows whether something keeps its clock, and
some times cannot be."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import mailgate
from mailgate.doctor.diagnosis import Check, Notes
from mailgate.doctor.site import Site

__all__ = ["Kept", "clock_checks", "judge_clock", "kernel_says"]

#: The kernel's word that its clock is not kept (adjtimex(2): STA_UNSYNC), and microseconds by which it may be wrong.
_UNSYNCHRONIZED, _WRONG = 0x0040, 2_000_000
#: Seconds that a clock may be behind a file: file systems and machines differ a little.
_SLACK = 300.0

_FIX = "have chrony or systemd-timesyncd keep the clock (timedatectl set-ntp true)"


class _Timex(ctypes.Structure):
    """The beginning of struct timex, and room for all of it."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_char * 512),
    )


class Kept:
    """What the kernel says of its clock: `error` in microseconds at most, where something keeps it."""

    def __init__(self, *, is_kept: bool, error: int = 0) -> None:
        self.is_kept = is_kept
        self.error = error


def clock_checks(site: Site) -> Iterator[Check]:
    """One."""
    yield Check("clock", "clock", partial(_look, site, kernel_says))


def kernel_says() -> Kept | None:
    """None where there is no such kernel, or it does not say."""
    if not sys.platform.startswith("linux"):
        return None
    found = _Timex()
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(found))
    except (OSError, AttributeError):
        return None
    if state < 0:
        return None
    return Kept(is_kept=not found.status & _UNSYNCHRONIZED, error=found.maxerror)


def judge_clock(now: float, kept: Kept | None, newest: float, notes: Notes) -> None:
    """`now` and `newest`, the age of what was written before, are seconds since the epoch."""
    if now < newest - _SLACK:
        told = f"{datetime.fromtimestamp(now, UTC):%Y-%m-%d %H:%M} UTC"
        text = f"it is {told} by our clock, and what was written before is younger: signatures, TLS and DNSSEC fail"
        notes.fail(text, _FIX)
    elif kept is None:
        notes.note("whether something keeps the clock cannot be found out here")
    elif not kept.is_kept:
        text = "the kernel says that nothing keeps the clock: it drifts, until signatures, TLS and DNSSEC fail"
        notes.warn(text, f"{_FIX}; in a container, see to the clock of its host")
    elif kept.error > _WRONG:
        notes.warn(f"the kernel says that the clock may be {kept.error / 1e6:.0f} s wrong", _FIX)
    else:
        notes.ok(f"something keeps the clock (by the kernel's word, within {kept.error / 1e6:.2f} s)")


async def _look(site: Site, ask: Callable[[], Kept | None], notes: Notes) -> None:
    def newest() -> float:
        places = (Path(mailgate.__file__), site.path, *site.config.gateway.state_dir.glob("*"))
        return max((one.stat().st_mtime for one in places if one.exists()), default=0.0)

    try:
        written = await site.in_thread(newest)
    except OSError:
        written = 0.0
    judge_clock(site.reactor.seconds(), ask(), written, notes)
