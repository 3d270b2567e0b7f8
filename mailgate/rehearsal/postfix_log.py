"""What a Postfix has refused or kept back, by its log: who came, from whom and to whom. What was in the mail it does
not tell."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import partial
from ipaddress import ip_address
from pathlib import Path

from mailgate.address import NULL_PATH, Address, AddressError
from mailgate.rehearsal.recorded import NOBODY_NAMED, Place, Recorded, UnreadableError

__all__ = ["refusals"]

#: Octets of a line that are looked at.
_LONGEST = 8192
#: Who says what about which command of whom, or about which part of the content; then what, and the envelope so far.
#: smtpd knows the client's name, postscreen has commas, and cleanup (a milter, or header_checks) no code of SMTP.
_LINE = re.compile(
    r"^(?P<time>\S+ +\d+ [\d:]+|\d{4}-\S+) .{0,300}?/(?:smtpd|postscreen|cleanup)\[\d+\]: \w+:"
    r" (?:milter-)?(?P<what>reject|hold|discard|quarantine):"
    r" (?P<stage>CONNECT|HELO|EHLO|MAIL|RCPT|DATA|DATA content|BDAT|BDAT content|END-OF-MESSAGE"
    r"|(?:mime-|nested-)?header .*|body .*)"
    r" from (?P<name>[^\s\[\]]*)\[(?P<address>[0-9A-Fa-f.:]+)\](?::\d+)?(?P<rest>[:;] .*)$"
)
_ENVELOPE = re.compile(
    r";(?: from=<(?P<sender>[^<>]*)>,?)?(?: to=<(?P<recipient>[^<>]*)>,?)?(?: proto=\w+,?)?(?: helo=<(?P<helo>.*?)>)?"
    r"(?P<end>: .*)?$"
)
_CODE = re.compile(r": ([45])(?:\d\d |\.\d{1,3}\.\d{1,3} )")
_OUTCOMES = {"hold": "quarantined", "quarantine": "quarantined", "discard": "discarded"}
_KEYS = (b"reject: ", b"hold: ", b"discard: ", b"quarantine: ")
#: What is assumed of a client that was refused before it said so.
_NO_SENDER, _NO_GREETING = "no sender: judged as a report (<>)", "no greeting"
#: A log may be a little ahead of the clock that reads it.
_AHEAD = timedelta(days=1)


def refusals(path: Path, now: float, to: tuple[Address, ...] = ()) -> Iterator[Place]:
    """What was refused, put off, dropped or kept back, in the order of the log; OSError where it cannot be read. `now`
    is in seconds since the epoch: the times of most logs have no year, and are of the machine's time zone. `to` are the
    recipients of mail that was refused before it named one. A log whose name ends in .gz is unpacked."""
    today = datetime.fromtimestamp(now).astimezone()
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        number = 0
        while line := file.readline(_LONGEST):
            number += line.endswith(b"\n")
            if not any(key in line for key in _KEYS):
                continue
            found = _LINE.match(line.decode("utf-8", "replace").rstrip("\r\n"))
            if found is None:
                continue
            envelope = _ENVELOPE.search(found["rest"])
            outcome = _outcome(found["what"], found["rest"])
            if envelope is not None and outcome:
                came = _moment(found["time"], today)
                facts = found.groupdict() | envelope.groupdict()
                yield Place(f"{path}:{number}", came, partial(_recorded, facts, outcome, came, to))


def _outcome(what: str, rest: str) -> str:
    """What became of it; "" where the line does not tell, as of a server that was too busy."""
    if what in _OUTCOMES:
        return _OUTCOMES[what]
    # cleanup says it first for a milter, and last for header_checks.
    code = _CODE.match(rest) or next(iter([*_CODE.finditer(rest)][-1:]), None)
    return "" if code is None else "deferred" if code[1] == "4" else "refused"


def _recorded(found: dict[str, str | None], outcome: str, came: float, to: tuple[Address, ...]) -> Recorded:
    assumed = []
    if found["sender"] is None:
        assumed.append(_NO_SENDER)
    if not found["helo"]:
        assumed.append(_NO_GREETING)
    try:
        sender = Address.parse(found["sender"]) if found["sender"] else NULL_PATH
        recipients = (Address.parse(found["recipient"]),) if found["recipient"] is not None else to
        address = ip_address(found["address"] or "")
    except AddressError as error:
        raise UnreadableError(f"an address in it is none: {error}") from None
    except ValueError as error:
        raise UnreadableError(str(error)) from None
    if not recipients:
        raise UnreadableError(NOBODY_NAMED)
    if found["recipient"] is None:
        assumed.append("no recipient: judged for that of --to")
    name = found["name"]
    return Recorded(
        address=address,
        name="" if name == "unknown" else name or None,
        helo=found["helo"] or "",
        identity="",
        sender=sender,
        recipients=recipients,
        listener="",
        received=came,
        content=None,
        then=(outcome,) * len(recipients),
        assumed=tuple(assumed),
    )


def _moment(text: str, today: datetime) -> float:
    """Seconds since the epoch; 0 where it is no time."""
    try:
        if text[:4].isdecimal():
            return datetime.fromisoformat(text).timestamp()
        # The year stands first, or 29 February would be no day.
        found = datetime.strptime(f"{today.year} {text}", "%Y %b %d %H:%M:%S").astimezone()
        return (found if found <= today + _AHEAD else found.replace(year=today.year - 1)).timestamp()
    except (OverflowError, ValueError):
        return 0.0
