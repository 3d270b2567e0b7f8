"""What a Postfix has refused, by its log: who came, from whom and to whom. What was in the mail nobody has seen."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import partial
from ipaddress import ip_address
from pathlib import Path

from mailgate.address import NULL_PATH, Address, AddressError
from mailgate.rehearsal.recorded import Place, Recorded, UnreadableError

__all__ = ["refusals"]

#: Octets of a line that are looked at.
_LONGEST = 8192
#: A line of smtpd or of postscreen, behind its time; the former has the client's name, the latter commas.
_REFUSAL = re.compile(
    r"^(?P<time>\S+ +\d+ [\d:]+|\d{4}-\S+) .{0,300}?/(?:smtpd|postscreen)\[\d+\]: \w+: reject: RCPT from"
    r" (?P<name>[^\s\[\]]*)\[(?P<address>[0-9A-Fa-f.:]+)\](?::\d+)?: (?P<code>[45])\d\d .*"
    r"; from=<(?P<sender>[^<>]*)>,? to=<(?P<recipient>[^<>]*)>,? proto=(?P<protocol>\w+)(?:,? helo=<(?P<helo>.*)>)?$"
)
#: A log may be a little ahead of the clock that reads it.
_AHEAD = timedelta(days=1)


def refusals(path: Path, now: float) -> Iterator[Place]:
    """The refusals at RCPT, in the order of the log; OSError where it cannot be read. `now` is in seconds since the
    epoch: the times of most logs have no year, and are of the machine's time zone. A log whose name ends in .gz is
    unpacked."""
    today = datetime.fromtimestamp(now).astimezone()
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        number = 0
        while line := file.readline(_LONGEST):
            number += line.endswith(b"\n")
            if b": reject: RCPT from " not in line:
                continue
            match = _REFUSAL.match(line.decode("utf-8", "replace").rstrip("\r\n"))
            if match is not None:
                came = _moment(match["time"], today)
                yield Place(f"{path}:{number}", came, partial(_recorded, match.groupdict(), came))


def _recorded(found: dict[str, str | None], came: float) -> Recorded:
    try:
        sender = Address.parse(found["sender"]) if found["sender"] else NULL_PATH
        recipient = Address.parse(found["recipient"] or "")
        address = ip_address(found["address"] or "")
    except AddressError as error:
        raise UnreadableError(f"an address in it is none: {error}") from None
    except ValueError as error:
        raise UnreadableError(str(error)) from None
    name = found["name"]
    return Recorded(
        address=address,
        name="" if name == "unknown" else name or None,
        helo=found["helo"] or "",
        identity="",
        sender=sender,
        recipients=(recipient,),
        listener="",
        received=came,
        content=None,
        then=("deferred" if found["code"] == "4" else "refused",),
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
