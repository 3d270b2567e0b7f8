"""What is found, and how checks are run: all at the same time, each with a deadline of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from twisted.internet.defer import Deferred, DeferredSemaphore, gatherResults
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from mailgate.awaiting import as_deferred

__all__ = ["AREAS", "Area", "Check", "Diagnosis", "Notes", "Severity", "is_sound", "run_checks"]

_log = Logger()

Severity = Literal["ok", "note", "warn", "fail"]
"""fail: mail would be lost, refused or left lying, or relayed for strangers. warn: to be seen to, or it cannot be found
out now whether all is well. note: worth knowing, or nothing that can be found out from here."""

Area = Literal[
    "config", "dns", "dkim", "certificates", "hops", "recipients", "scanners", "auth", "relay", "clock", "disk",
    "files", "ports", "exchange",
]  # fmt: skip

#: The areas in the order in which they are told, each with what is looked at.
AREAS: dict[Area, str] = {
    "config": "what `mailgate check` says",
    "dns": "MX, SPF, DMARC, MTA-STS, TLS reports, TLSA, PTR, DNSSEC, blocklists",
    "dkim": "the keys that sign, and what DNS has of them",
    "certificates": "ours: dates, names, chains, purposes",
    "hops": "the next hops of routes: EHLO, TLS, login, sizes, unknown recipients",
    "recipients": "who knows our recipients",
    "scanners": "the servers that filters ask",
    "auth": "who checks users and passwords",
    "relay": "whether strangers can relay through the listeners that run, or pass for your own",
    "clock": "whether something keeps the time right",
    "disk": "the disk of the state directory: syncs, room, kind",
    "files": "who can read what",
    "ports": "whether listeners can be bound, and files be opened",
    "exchange": "what Exchange needs of us, and we of it",
}

#: Checks that are under way at one time, and seconds for one.
_AT_ONCE, _DEADLINE = 16, 30.0
#: Characters of what is told: much of it is the word of others.
_LONGEST = 600


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One thing that was found. `subject` is what it is about (a domain, a host, a file), `says` what is so, and `fix`
    what to do, "" where nothing is to be done."""

    severity: Severity
    area: Area
    subject: str
    says: str
    fix: str = ""


class Notes:
    """What one check finds, in order."""

    def __init__(self, area: Area, subject: str) -> None:
        self.area = area
        self.subject = subject
        self.found: list[Diagnosis] = []

    def ok(self, says: str, *, subject: str = "") -> None:
        """This is as it should be."""
        self._add("ok", says, "", subject)

    def note(self, says: str, fix: str = "", *, subject: str = "") -> None:
        """This is worth knowing, or cannot be found out from here."""
        self._add("note", says, fix, subject)

    def warn(self, says: str, fix: str = "", *, subject: str = "") -> None:
        """This should be seen to, or cannot be found out now."""
        self._add("warn", says, fix, subject)

    def fail(self, says: str, fix: str = "", *, subject: str = "") -> None:
        """By this mail is lost, refused or left lying."""
        self._add("fail", says, fix, subject)

    def say(self, severity: Severity, says: str, fix: str = "", *, subject: str = "") -> None:
        """This, which is as bad as that."""
        self._add(severity, says, fix, subject)

    def _add(self, severity: Severity, says: str, fix: str, subject: str) -> None:
        said = says if len(says) <= _LONGEST else f"{says[:_LONGEST]}..."
        self.found.append(Diagnosis(severity, self.area, subject or self.subject, said, fix))


@dataclass(frozen=True, slots=True)
class Check:
    """One look at something: `find` writes down what it finds. It may take `deadline` seconds."""

    area: Area
    subject: str
    find: Callable[[Notes], Awaitable[None]]
    deadline: float = _DEADLINE


async def run_checks(checks: Iterable[Check], clock: IReactorTime) -> list[Diagnosis]:
    """What all of them find, by area, and in their order. A check that does not come to its end is told as a warning,
    behind what it has found until then."""
    slots = DeferredSemaphore(_AT_ONCE)
    order = list(AREAS)
    wanted = sorted(checks, key=lambda check: order.index(check.area))
    found = await gatherResults([slots.run(_run, check, clock) for check in wanted])
    return [diagnosis for one in found for diagnosis in one]


def is_sound(found: Sequence[Diagnosis]) -> bool:
    """Whether no mail would be lost or refused."""
    return not any(one.severity == "fail" for one in found)


def _run(check: Check, clock: IReactorTime) -> Deferred[list[Diagnosis]]:
    return Deferred.fromCoroutine(_within(check, clock))


async def _within(check: Check, clock: IReactorTime) -> list[Diagnosis]:
    notes = Notes(check.area, check.subject)
    try:
        await as_deferred(check.find(notes)).addTimeout(check.deadline, clock)
    except DeferredTimeout:
        notes.warn(f"not checked to the end: no answer within {check.deadline:g} s")
    except Exception as error:
        _log.failure("the check of {area} {subject} failed", area=check.area, subject=check.subject)
        notes.warn(f"not checked: an error of ours ({type(error).__name__}: {error})", "please report it")
    return notes.found
