"""One list in DNS (RFC 5782): how it is asked, which of its answers count, and whether it can be believed at all."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_network
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, Field, model_validator
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailgate.awaiting import as_deferred
from mailgate.config.hosts import parse_domain
from mailgate.config.section import Section
from mailgate.config.units import Form, Timeout, format_duration
from mailgate.config.values import Flag
from mailgate.filters.dnsbl_results import ListedResult, SilentResult
from mailgate.filters.together import together
from mailgate.interfaces import Answer, DnsStatus, IResolver

__all__ = ["DnsList", "ListSection", "SelfTest", "fault_of", "label_of", "parse_replies"]

T = TypeVar("T")

_log = Logger()

#: A filter's deadline is 10 seconds, unless it is configured.
_LONGEST_DEADLINE = 9.0
#: Seconds between two tests of a list that is in order; of one that is not; and of one that has begun to err.
_TEST_EVERY, _TEST_AGAIN, _TEST_SOON = 3600.0, 300.0, 60.0
#: Codes that are kept of one answer, and characters of a list's text.
_MOST_CODES, _MOST_TEXT = 8, 200

#: Questions in a row that a list leaves without an answer before it is left alone, and seconds for which it then is.
_MOST_SILENCES, _PAUSE = 10, 10.0
#: Characters of the longest name that can be asked for.
_LONGEST_NAME = 253

_ANSWERS = IPv4Network("127.0.0.0/8")
#: Answers that say why a list does not answer: of Spamhaus (a wrong name, an open resolver, too many questions, and an
#: address at a list of domains), and what lists of domains say to those whom they do not serve.
_ERRORS = (IPv4Network("127.255.255.0/24"), IPv4Network("127.0.1.255/32"), IPv4Network("127.0.0.1/32"))

_OCTET = r"(\d{1,3}(?:-\d{1,3})?|\[\d{1,3}(?:\.\.\d{1,3})?(?:;\d{1,3}(?:\.\.\d{1,3})?)*\])"
_REPLIES = re.compile(rf"{_OCTET}\.{_OCTET}\.{_OCTET}\.{_OCTET}", re.ASCII)
_NAME = re.compile(r"[a-z0-9_][a-z0-9_.-]{0,100}")

#: Which values each octet of an answer may have.
Replies = tuple[frozenset[int], ...]


def parse_replies(text: str) -> Replies:
    """The answers for "127.0.0.2", "127.0.0.2-11", "127.0.0.[2;4..7]" or "127.0.0.0/28"; ValueError for others."""
    if "/" in text:
        return _network(text)
    match = _REPLIES.fullmatch(text)
    octets = [_values(octet) for octet in match.groups()] if match else []
    if not octets or not all(octets) or octets[0] != {127} or max(map(max, octets)) > 255:
        raise ValueError(
            f'"{text}" is no answer of a list: write 127.0.0.2, 127.0.0.2-11, 127.0.0.[2;4..7] or 127.0.0.0/28'
        )
    return tuple(octets)


def _network(text: str) -> Replies:
    try:
        network = ip_network(text)
    except ValueError:
        raise ValueError(f'"{text}" is no network') from None
    if not isinstance(network, IPv4Network) or not network.subnet_of(_ANSWERS):
        raise ValueError(f'"{text}": lists answer with addresses in {_ANSWERS}')
    first, last = network.network_address.packed, network.broadcast_address.packed
    return tuple(frozenset(range(low, high + 1)) for low, high in zip(first, last, strict=True))


def _values(octet: str) -> frozenset[int]:
    spans = [part.replace("..", "-").partition("-") for part in octet.strip("[]").split(";")]
    return frozenset(value for low, _, high in spans for value in range(int(low), int(high or low) + 1))


def _replies(text: str) -> str:
    parse_replies(text)
    return text


def _zone(text: str) -> str:
    zone = parse_domain(text)
    if zone.startswith("[") or "." not in zone:
        raise ValueError(f'"{text}" is no zone of a list, like "zen.spamhaus.org"')
    return zone


def _deadline(seconds: float) -> float:
    if seconds > _LONGEST_DEADLINE:
        raise ValueError(
            f"must be at most {format_duration(_LONGEST_DEADLINE)}: the filter must answer within its own deadline"
        )
    return seconds


class ListSection(Section):
    """One list, such as `{ zone = "zen.spamhaus.org", weight = 2, replies = ["127.0.0.2-11"] }`; the text
    `"zen.spamhaus.org"` is a list with all its defaults."""

    zone: Annotated[str, AfterValidator(_zone), Form("domain")]
    """where the list is asked. The same zone may stand there again, with other `replies` and another `weight`; it is
    asked once"""
    kind: Literal["address", "domain"] = "address"
    """what it lists. address: clients; domain: names, of which the filter's `domains` are looked up"""
    weight: Annotated[float, Field(allow_inf_nan=False)] = 1.0
    """what a hit adds to the sum; what a hit in an allow list takes from it"""
    replies: list[Annotated[str, AfterValidator(_replies), Form("replies")]] = Field(
        default=["127.0.0.0/8"], min_length=1
    )
    """which of its answers count: "127.0.0.2", "127.0.0.2-11", "127.0.0.[2;4..7]" or "127.0.0.0/28". Answers that
    tell of an error (127.255.255.0/24, 127.0.1.255, 127.0.0.1, and whatever is not in 127.0.0.0/8) never do"""
    allow: Flag = False
    """whether the list is one of good clients or domains"""
    skip: Flag = True
    """whether a hit in this allow list spares the client, whatever the others say; false: only its weight counts"""
    name: str = ""
    """what the list is called in replies, traces and facts; its zone, if not given. For zones that hold a key of yours,
    which nobody else should see"""
    text: str = ""
    """what a client is told that is refused for this list; "ADDRESS is listed by NAME" and the list's own text, if not
    given"""
    deadline: Annotated[Timeout, AfterValidator(_deadline)] = 3.0
    """how long its answer is awaited, at most 9s and shorter than the filter's deadline; then mail goes on without"""
    self_test: Flag = True
    """whether it is tested at first and every hour by the entries that every list has (RFC 5782 section 5): a list that
    lists everything, or nothing, is out of use until it passes. For lists without such entries, false"""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: object) -> object:
        return {"zone": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _sound(self) -> ListSection:
        if self.weight < 0 and not self.allow:
            raise ValueError("a list whose weight is negative is an allow list: write allow = true")
        if "skip" in self.model_fields_set and not self.allow:
            raise ValueError("skip is for allow lists")
        if self.name and not _NAME.fullmatch(self.name):
            raise ValueError("name has lower-case letters, digits and . _ - only")
        return self


def label_of(address: IPv4Address | IPv6Address) -> str:
    """What stands before a list's zone in the question for an address (RFC 5782 sections 2.1 and 2.4)."""
    return address.reverse_pointer.removesuffix(".in-addr.arpa").removesuffix(".ip6.arpa")


def fault_of(answer: Answer) -> str:
    """Why records that were found are no listing; "" where they are one."""
    for record in answer.records:
        if not isinstance(record, IPv4Address) or record not in _ANSWERS:
            return f"it answers {record}, which no list does"
        if any(record in network for network in _ERRORS):
            return f"it refuses the question ({record})"
    return ""


class SelfTest:
    """Whether a list can be believed: it must list its test entry, and must not list the entry that never is.

    Tests are started when the list is used and one is due, and nobody waits for them, except for the very first and
    with a hit in hand: no mail is refused for a list that was never tested. A test that has no answer changes nothing.
    """

    def __init__(self, name: str, zone: str, labels: tuple[str, str], resolver: IResolver, clock: IReactorTime) -> None:
        """`labels` are what the zone has to list, and what it must not."""
        self._name = name
        self._zone = zone
        self._labels = labels
        self._resolver = resolver
        self._clock = clock
        self._next = clock.seconds()
        self._last = self._next
        self._fault: str | None = None
        self._is_running = False
        self._running: Deferred[None] | None = None
        self._waiters: dict[Deferred[None], None] = {}

    def fault(self) -> str | None:
        """What is wrong with the list; "" for nothing, None while that is not known. Starts a test that is due."""
        if not self._is_running and self._clock.seconds() >= self._next:
            self._is_running = True
            self._last = self._clock.seconds()
            self._running = Deferred.fromCoroutine(self._test()).addErrback(self._failed).addBoth(self._ended)
        return self._fault

    def doubt(self) -> None:
        """The list has answered with an error: test it with the next question, but not all the time."""
        self._next = min(self._next, self._last + _TEST_SOON)

    def settled(self) -> Deferred[None]:
        """Fires when the test that is under way is over; at once where none is."""
        waiter: Deferred[None] = Deferred(lambda waiter: self._waiters.pop(waiter, None))
        if self._is_running:
            self._waiters[waiter] = None
        else:
            waiter.callback(None)
        return waiter

    async def _test(self) -> None:
        listed, unlisted = await together(
            self._resolver.resolve(f"{label}.{self._zone}", "A") for label in self._labels
        )
        if listed.is_temporary or unlisted.is_temporary:
            self._next = self._clock.seconds() + _TEST_SOON
            return
        fault = fault_of(listed) or fault_of(unlisted)
        if not fault and unlisted.status is DnsStatus.FOUND:
            fault = f"it lists {self._labels[1]}, so it may list anything"
        if not fault and listed.status is not DnsStatus.FOUND:
            fault = f"it does not list {self._labels[0]}, as lists do that are alive"
        if fault and not self._fault:
            _log.warn("the list {name} is out of use: {fault}", name=self._name, fault=fault)
        elif self._fault and not fault:
            _log.info("the list {name} is in use again", name=self._name)
        self._fault = fault
        self._next = self._clock.seconds() + (_TEST_AGAIN if fault else _TEST_EVERY)

    def _failed(self, failure: Failure) -> None:
        self._next = self._clock.seconds() + _TEST_SOON
        _log.failure("the list {name} cannot be tested", failure=failure, name=self._name)

    def _ended(self, _: object) -> None:
        self._is_running = False
        waiters, self._waiters = self._waiters, {}
        for waiter in waiters:
            waiter.callback(None)


class DnsList:
    """One list, by its place among the options; `test` is shared by those that have a zone in common.

    With `tells_text` the text of a hit is fetched, as far as there is time.
    """

    def __init__(
        self, number: int, section: ListSection, resolver: IResolver, clock: IReactorTime, *, tells_text: bool
    ) -> None:
        self.number = number
        self.section = section
        self.name = section.name or section.zone
        self.weight = -abs(section.weight) if section.allow else section.weight
        self._replies = [parse_replies(text) for text in section.replies]
        self._resolver = resolver
        self._clock = clock
        self._tells_text = tells_text and not section.allow and not section.text
        self._silences = 0
        self._left_alone_until = 0.0

    def label(self, name: str) -> str:
        """What stands before the zone in the question for a name: as much of its end as there is room for, since a list
        has a domain with all that is below it."""
        room = _LONGEST_NAME - len(self.section.zone) - 1
        while len(name) > room:
            name = name.partition(".")[2]
        return name

    async def ask(self, label: str, subject: str, test: SelfTest | None) -> ListedResult | SilentResult | None:
        """What the list knows of a subject, which is `label` in its zone; None for nothing."""
        end = self._clock.seconds() + self.section.deadline
        fault = test.fault() if test else ""
        if fault:
            return SilentResult(self.name, f"out of use, {fault}")
        if self._is_left_alone():
            return SilentResult(self.name, "not asked, it did not answer again and again", is_temporary=True)
        name = f"{label}.{self.section.zone}"
        answer = await self._by(end, self._resolver.resolve(name, "A"), Answer(DnsStatus.TIMEOUT))
        self._count_silences(answer)
        if answer.is_temporary:
            return SilentResult(self.name, f"no answer: {answer.status.value}", is_temporary=True)
        if answer.status is not DnsStatus.FOUND:
            return None
        if wrong := fault_of(answer):
            if test:
                test.doubt()
            return SilentResult(self.name, wrong)
        codes = self._codes(answer.records)
        if not codes:
            return None
        if test and fault is None:
            await self._by(end, test.settled(), None)
            fault = test.fault()
            if fault:
                return SilentResult(self.name, f"out of use, {fault}")
            if fault is None:
                why = "it has never been tested, and its test has no answer"
                return SilentResult(self.name, why, is_temporary=True)
        text = await self._text(name, end)
        return ListedResult(self.name, subject, codes, self.weight, text, self.section.allow, self.number)

    def _count_silences(self, answer: Answer) -> None:
        if answer.status is DnsStatus.TIMEOUT:
            self._silences += 1
            if self._silences == _MOST_SILENCES:
                _log.warn("the list {name} does not answer, it is asked now and then only", name=self.name)
        else:
            if self._silences >= _MOST_SILENCES:
                _log.info("the list {name} answers again", name=self.name)
            self._silences = 0

    def _is_left_alone(self) -> bool:
        """Whether it has been silent so often that nobody waits for it; one question in a while finds out whether it is
        there again."""
        now = self._clock.seconds()
        if self._silences < _MOST_SILENCES:
            return False
        if 0 < self._left_alone_until - now <= _PAUSE:
            return True
        self._left_alone_until = now + _PAUSE
        return False

    def _codes(self, records: Sequence[object]) -> tuple[str, ...]:
        found = {one for one in records if isinstance(one, IPv4Address) and self._counts(one)}
        return tuple(map(str, sorted(found)[:_MOST_CODES]))

    def _counts(self, record: IPv4Address) -> bool:
        return any(
            all(octet in values for octet, values in zip(record.packed, replies, strict=True))
            for replies in self._replies
        )

    async def _text(self, name: str, end: float) -> str:
        """What the list says of its hit, as one short line."""
        if not self._tells_text or self._clock.seconds() >= end:
            return ""
        answer = await self._by(end, self._resolver.resolve(name, "TXT"), Answer(DnsStatus.TIMEOUT))
        texts = [one for one in answer.records if isinstance(one, bytes)]
        return " ".join(texts[0][: 4 * _MOST_TEXT].decode("utf-8", "replace").split())[:_MOST_TEXT] if texts else ""

    async def _by(self, end: float, answer: T | Awaitable[T], otherwise: T) -> T:
        """The answer, or something else where it is not there by then."""
        if not isinstance(answer, Awaitable):
            return answer
        left = max(0.0, end - self._clock.seconds())
        return await as_deferred(answer).addTimeout(left, self._clock, lambda *_: otherwise)
