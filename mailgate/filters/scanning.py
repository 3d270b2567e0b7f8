"""What the filters that ask scanners have in common: the servers, what is too large, and how verdicts go together."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeVar, cast

from pydantic import Field

from mailgate.address import Address
from mailgate.config.hosts import parse_host
from mailgate.config.schema import Section
from mailgate.config.units import Size, Timeout, format_size
from mailgate.config.values import Count, Host
from mailgate.envelope import Evidence, Recipient
from mailgate.interfaces import FilterServices
from mailgate.message import Edit, For
from mailgate.reply import Reply
from mailgate.scanners.conversation import Line
from mailgate.scanners.pool import IScannerReactor, Pool, endpoint_of
from mailgate.verdict import Continue, Defer, Discard, Quarantine, Reject, Verdict

__all__ = [
    "AskedSection",
    "Opinion",
    "Oversize",
    "OwnResult",
    "ScannerSection",
    "Word",
    "fact_word",
    "for_each",
    "grouped",
    "own_result",
    "said",
    "said_of_each",
    "server_pool",
    "too_large",
]

T = TypeVar("T", bound="OwnResult")

Word = Literal["continue", "quarantine", "discard", "defer", "reject"]
Oversize = Literal["continue", "defer", "quarantine", "reject"]

_NO_WORD = re.compile(r"[^a-z0-9_-]+")
_LONGEST_TEXT, _LONGEST_FACT = 200, 100


class AskedSection(Section):
    """The options of whoever asks servers."""

    order: Literal["in-order", "in-turns"] = "in-order"
    """in-order: the first server that works is asked; in-turns: each message begins with the next one. One that has
    failed is asked last for 30s"""
    connections: Count = 10
    """questions at one time; further messages wait, and their waiting is part of `timeout`. No more than the scanner
    works on at one time"""
    connect_timeout: Timeout = 2.0
    """how long a connection to one server may take"""
    timeout: Timeout = 8.0
    """how long an answer may take, all servers together, each with its share; after that the filter has failed. Must be
    below `deadline`: for large messages raise both"""


class ScannerSection(AskedSection):
    """The options of whoever asks a scanner about the whole message."""

    servers: list[Host] = Field(min_length=1)
    """where it listens"""
    max_size: Size
    """larger messages are not checked"""
    oversize: Oversize
    """what to do with them"""


@dataclass(frozen=True, slots=True)
class Opinion:
    """What is to be done for some recipients, and why; `text` is what the client would be told."""

    word: Word
    reason: str
    text: str
    recipients: tuple[Recipient, ...]


class OwnResult:
    """Evidence that its filter finds again: `by` is the filter, of which a pipeline may have several of one kind."""

    __slots__ = ()

    by: object


def own_result(evidence: Evidence, kind: type[T], by: object) -> T | None:
    """The latest result of this kind that this filter has left; None where it has left none."""
    return next((one for one in reversed(evidence) if isinstance(one, kind) and one.by is by), None)


def server_pool(options: ScannerSection, services: FilterServices, default_port: int) -> Pool[Line]:
    """The servers of a section."""
    reactor = cast(IScannerReactor, services.clock)
    hosts = [parse_host(text, default_port) for text in options.servers]
    return Pool(
        {
            str(host): Line(partial(endpoint_of, host, reactor, options.connect_timeout), services.clock)
            for host in hosts
        },
        services.clock,
        in_turns=options.order == "in-turns",
        limit=options.connections,
        timeout=options.timeout,
    )


def said(
    word: Word, text: str, reason: str, evidence: tuple[object, ...], recipients: Sequence[Recipient] = ()
) -> Verdict:
    """The verdict for a word; about all recipients where none is given. `text` is cut where it is long."""
    named = tuple(one.address for one in recipients)
    match word:
        case "continue":
            return Continue(evidence)
        case "quarantine":
            return Quarantine(reason, named, evidence)
        case "discard":
            return Discard(reason, named, evidence)
        case "defer":
            return Defer(Reply.of(451, "4.7.1", _short(text)), reason, named, evidence)
        case _:
            return Reject(Reply.of(550, "5.7.1", _short(text)), reason, named, evidence)


def too_large(word: Oversize, size: int, limit: int | None, evidence: tuple[object, ...]) -> Verdict:
    """The verdict about a message that is too large to be checked (RFC 3463 section 3.4: X.3.4).

    Without a limit, it is the scanner that does not take so much.
    """
    reason = f"not checked: {size} octets are more than {'the scanner takes' if limit is None else format_size(limit)}"
    if word == "reject":
        return Reject(Reply.of(552, "5.3.4", "This message is too large to be checked"), reason, evidence=evidence)
    if word == "defer":
        text = "This message is too large to be checked now"
        return Defer(Reply.of(452, "4.3.4", text), reason, evidence=evidence)
    return said(word, "", reason, evidence)


def said_of_each(opinions: Sequence[Opinion], evidence: tuple[object, ...]) -> Verdict | Sequence[Verdict]:
    """The verdicts for opinions about different recipients: one where all are of one mind, with the reason of the
    first. The evidence comes with the first."""
    if len({one.word for one in opinions}) == 1:
        return said(opinions[0].word, opinions[0].text, opinions[0].reason, evidence)
    verdicts: list[Verdict] = [Continue(evidence)]
    verdicts += [said(one.word, one.text, one.reason, (), one.recipients) for one in opinions if one.word != "continue"]
    return verdicts


def for_each(
    shares: Sequence[tuple[Sequence[Address], Sequence[Edit]]], recipients: Sequence[Recipient], others: Sequence[Edit]
) -> list[For]:
    """The edits of some recipients each, and those of the `others`, about whom nothing was found."""
    known = {address for addresses, _ in shares for address in addresses}
    left = tuple(one.address for one in recipients if one.address not in known)
    found = [For(tuple(addresses), tuple(edits)) for addresses, edits in shares if edits]
    return [*found, For(left, tuple(others))] if left and others else found


def grouped(
    recipients: Sequence[Recipient], key: Callable[[Recipient], str], most: int
) -> list[tuple[str, tuple[Recipient, ...]]]:
    """The recipients by their keys; all together, with the key "", where that makes more than `most` groups."""
    groups: dict[str, list[Recipient]] = {}
    for one in recipients:
        groups.setdefault(key(one), []).append(one)
    if not groups or len(groups) > most:
        return [("", tuple(recipients))]
    return [(name, tuple(members)) for name, members in groups.items()]


def fact_word(text: str) -> str:
    """A word of a fact for a name: "Win.Test.EICAR_HDB-1" is "win-test-eicar_hdb-1"."""
    return _NO_WORD.sub("-", text.lower())[:_LONGEST_FACT].strip("-") or "unnamed"


def _short(text: str) -> str:
    return " ".join(text.split())[:_LONGEST_TEXT]
