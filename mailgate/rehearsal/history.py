"""Mail that this gateway has judged, by its history: the envelope of each, and what became of it. What was in the mail
the history does not keep."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from mailgate.address import NULL_PATH, Address, AddressError
from mailgate.observe.render import from_stamp
from mailgate.observe.search import Entry, read_entries
from mailgate.rehearsal.recorded import NOBODY_NAMED, Place, Recorded, UnreadableError

__all__ = ["past_mail"]

_CLIENT = re.compile(r"(?P<name>[^\[\]]*)\[(?P<address>[0-9A-Fa-f.:]+)\]")
#: Refusals of mail, or of who brings it; the others are about logins, TLS and who is in front of us.
_STAGES = frozenset({"connect", "helo", "mail", "rcpt", "data", "content", "message"})
_FATES = {"quarantined": "quarantined", "discarded": "discarded"}
_ASKED = ("message_accepted", "judged", "refused", *_FATES)
_ANSWERS = {"continue": "taken", "quarantine": "quarantined", "discard": "discarded"}


class _Mail:
    """A mail as the history tells of it, and for whom it was kept back or dropped afterwards."""

    __slots__ = ("entry", "fates")

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.fates: dict[str, str] = {}


def past_mail(
    directory: Path, since: float, limit: int, to: tuple[Address, ...], left_out: Callable[[str, str], object]
) -> Iterator[Place]:
    """The newest `limit` mails since then (seconds since the epoch), oldest first. `to` are the recipients of those
    that were refused before they named one; `left_out` is told of files that cannot be read, and of older mails."""
    mails: dict[str, _Mail] = {}
    older = 0
    for number, entry in enumerate(
        read_entries(directory, _ASKED, since, lambda name: left_out(name, "this part of the history cannot be read"))
    ):
        name = str(entry.get("queue_id") or entry.get("session") or "")
        fate = _FATES.get(str(entry.get("event")))
        if fate is not None:
            if (mail := mails.get(name)) is not None:
                mail.fates |= dict.fromkeys(map(str, _several(entry, "recipients")), fate)
        elif _is_mail(entry):
            # A mail may be refused for several recipients, one after the other, and taken for the rest.
            mails[name if entry.get("event") != "refused" else f"{name} {number}"] = _Mail(entry)
            if len(mails) > limit:
                del mails[next(iter(mails))]
                older += 1
    if older:
        left_out(f"{older} older mails of the history", f"more than --limit {limit}")
    for name, mail in mails.items():
        yield Place(name.partition(" ")[0], _moment(mail.entry), partial(_recorded, mail, to))


def _is_mail(entry: Entry) -> bool:
    if entry.get("event") == "refused":
        return entry.get("stage") in _STAGES and str(entry.get("reply", ""))[:1] in ("4", "5")
    return bool(entry.get("listener"))


def _recorded(mail: _Mail, to: tuple[Address, ...]) -> Recorded:
    entry = mail.entry
    is_refused = entry.get("event") == "refused"
    named = _several(entry, "recipients") or ([entry["recipient"]] if entry.get("recipient") else [])
    assumed = []
    try:
        sender = Address.parse(str(entry["sender"])) if entry.get("sender") else NULL_PATH
        recipients = tuple(dict.fromkeys(Address.parse(str(one)) for one in named)) or to
    except AddressError as error:
        raise UnreadableError(f"an address in it is none: {error}") from None
    if not recipients:
        raise UnreadableError(NOBODY_NAMED)
    if not named:
        assumed.append("no recipient: judged for that of --to")
    if is_refused and entry.get("stage") in ("connect", "helo"):
        assumed.append("no sender: judged as a report (<>)")
    if is_refused:
        outcome = "deferred" if str(entry["reply"]).startswith("4") else "refused"
    else:
        outcome = _ANSWERS.get(str(entry.get("answer", "continue")), "taken")
    address, name = _client(str(entry.get("client", "")))
    return Recorded(
        address=address,
        name=name,
        helo=str(entry.get("helo", "")),
        identity=_identity(str(entry.get("identity", ""))),
        sender=sender,
        recipients=recipients,
        listener=str(entry.get("listener", "")),
        received=_moment(entry),
        content=None,
        then=tuple(mail.fates.get(str(one), outcome) for one in recipients),
        assumed=tuple(assumed),
    )


def _several(entry: Entry, key: str) -> list[object]:
    value = entry.get(key)
    return value if isinstance(value, list) else []


def _client(text: str) -> tuple[IPv4Address | IPv6Address | None, str]:
    match = _CLIENT.fullmatch(text)
    try:
        return (ip_address(match["address"]), match["name"].replace("unknown", "")) if match else (None, "")
    except ValueError:
        return None, ""


def _identity(text: str) -> str:
    """The name that a client has proved; whoever is known by the address alone is found anew."""
    name, _, mechanism = text.rpartition(" by ")
    return "" if mechanism == "network" else name


def _moment(entry: Entry) -> float:
    try:
        return from_stamp(str(entry.get("at")))
    except ValueError:
        return 0.0
