"""Greylisting (RFC 6647): strangers are told to come back a little later, as mail servers do and much malware not."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, model_validator
from zope.interface import implementer

from mailgate.awaiting import run
from mailgate.config.schema import Network, Section
from mailgate.config.units import Duration, at_least, format_duration
from mailgate.config.values import Flag, Hostname
from mailgate.envelope import Recipient, Session, Transaction
from mailgate.filters.networks import LOCAL_NETWORKS, NetworkSet, is_known, prefix_of
from mailgate.filters.reputation import ReputationResult
from mailgate.filters.steps import Steps, ready
from mailgate.findings import Finding
from mailgate.interfaces import Answered, FilterServices, IDataFilter, IRecipientFilter
from mailgate.mailauth.results import SpfResult
from mailgate.reply import Reply
from mailgate.stores.domains import DomainTable
from mailgate.verdict import Continue, Defer, Verdict

__all__ = ["Greylist", "GreylistResult", "Options", "build"]

#: Services whose many servers take turns, so that the one that comes back is another one; all of them come back, which
#: is all that greylisting finds out.
_POOLS = (
    *(
        "amazonses.com",
        "apple.com",
        "facebook.com",
        "google.com",
        "icloud.com",
        "linkedin.com",
        "mailgun.net",
        "mcsv.net",
    ),
    *("me.com", "messagelabs.com", "mimecast.com", "mktomail.com", "outlook.com", "pphosted.com", "sendgrid.net"),
    *("sparkpostmail.com", "yahoo.com", "zendesk.com"),
)
#: What is known is written again after this share of the time for which it is kept.
_REFRESH = 1 / 16
#: Seconds for which two who find out the same thing at one time may be apart, and their clocks.
_RACE = 60.0

_Word = Literal["new", "early", "passed", "known", "allowed"]


@dataclass(frozen=True, slots=True)
class GreylistResult(Finding):
    """What is known of a client, a sender and a recipient.

    `status` is "new" (never seen), "early" (came back too soon), "passed" (came back just now), "known" (came back
    earlier) or "allowed" (`origin` has come back often). `origin` is the client's network, or "spf:" and a domain;
    `wait` are the seconds that are left.
    """

    status: _Word
    origin: str
    wait: float = 0.0

    def summary(self) -> str:
        wait = f", {math.ceil(self.wait)} s left" if self.wait else ""
        return f"greylist={self.status} {self.origin}{wait}"

    def facts(self) -> Sequence[str]:
        return (f"greylist.{self.status}",)


class Options(Section):
    """`[filters.greylist]`: who has to come back before mail is taken.

    A sender that is told 451 for the first time and comes back after `delay` and within `window` is let through, and
    from then on at once. Whoever has logged in, or is in trusted_networks, never waits. The null sender of reports is
    judged at DATA: those who only ask whether an address exists get their answer. What is remembered lies in [counters]
    and holds no addresses.
    """

    delay: Annotated[Duration, at_least(1.0, format_duration)] = 300.0
    """how long a stranger waits; who comes back earlier is told how long it still is, and loses nothing"""
    window: Duration = 2 * 86400.0
    """within which time it has to come back; later it is a stranger again"""
    keep: Duration = 36 * 86400.0
    """how long one that has come back is known, from its last mail on; more than a month, for monthly mail"""
    compare: Literal["addresses", "domains"] = "addresses"
    """what makes a sender and a recipient the same ones as before. addresses: the whole addresses; domains: what stands
    behind the @ alone, so that lists whose senders have a number in each mail wait once"""
    ipv4_prefix: Annotated[int, Field(strict=True, ge=8, le=32)] = 24
    """clients whose IPv4 addresses have these bits in common are one"""
    ipv6_prefix: Annotated[int, Field(strict=True, ge=16, le=128)] = 64
    """the same for IPv6"""
    spf_key: Flag = True
    """where SPF passes (the filter spf comes first in the pipeline), the domain that it passed for stands in the place
    of the network: any of its servers may be the one that comes back"""
    auto_allow: Annotated[int, Field(strict=True, ge=0)] = 5
    """after so many different senders and recipients that came back, nobody from the network waits any more, for as
    long as there is mail from it within `keep`; 0 for never"""
    auto_allow_spf: Annotated[int, Field(strict=True, ge=0)] = 1
    """the same for a domain for which SPF passes"""
    trust_reputation: Flag = True
    """whether a client or domain of good repute does not wait (the filter reputation comes first in the pipeline)"""
    exempt: list[Network] = Field(default=list(LOCAL_NETWORKS))
    """clients that never wait; if not given, those of loopback and private networks"""
    exempt_names: list[Hostname] = Field(default=list(_POOLS))
    """clients that never wait by their confirmed names in DNS, these and all below them; if not given, those of large
    services whose servers take turns"""
    exempt_recipients: list[str] = Field(default=["postmaster", "abuse"])
    """recipients that get their mail at once: whole addresses, or local parts"""
    text: str = "Greylisted, try again in {seconds} seconds"
    """what who has to wait is told; {seconds} stands for how long"""

    @model_validator(mode="after")
    def _in_order(self) -> Options:
        if not self.delay < self.window <= self.keep:
            raise ValueError("delay must be shorter than window, and window not longer than keep")
        return self


def build(options: Options, services: FilterServices) -> object:
    """The filter."""
    return Greylist(options, services)


@implementer(IRecipientFilter, IDataFilter)
class Greylist:
    """Keeps, for each client, sender and recipient, since when it waits, and then that it has come back.

    All of it goes through operations of the counters that are whole in themselves: of two that meet a stranger at the
    same moment one begins its time, and both say the same.
    """

    def __init__(self, options: Options, services: FilterServices) -> None:
        self._options = options
        self._counters = services.counters
        self._seconds = services.clock.seconds
        self._exempt = NetworkSet(options.exempt)
        self._names = DomainTable({pattern: True for name in options.exempt_names for pattern in (name, f"*.{name}")})
        self._recipients = frozenset(one.lower() for one in options.exempt_recipients)
        self._form = f"{options.compare} {options.ipv4_prefix} {options.ipv6_prefix}"
        self._text = options.text
        self._reply(1.0)  # that it can be one

    def on_rcpt(self, session: Session, transaction: Transaction, recipient: Recipient) -> Answered:
        """Defer a recipient for which client and sender are strangers; the null sender waits for DATA."""
        if not transaction.sender or self._is_exempt(session, transaction) or self._has_exempt(recipient):
            return None
        return run(self._judge(session, transaction, (recipient,)))

    def on_data(self, session: Session, transaction: Transaction) -> Answered:
        """Defer a report for strangers; other mail has been judged."""
        if transaction.sender or self._is_exempt(session, transaction):
            return None
        recipients = [one for one in transaction.recipients if not self._has_exempt(one)]
        return run(self._judge(session, transaction, recipients)) if recipients else None

    def _is_exempt(self, session: Session, transaction: Transaction) -> bool:
        client = session.client
        if session.identity is not None or not is_known(client.address) or client.address in self._exempt:
            return True
        if client.name and self._names.has(client.name):
            return True
        if not self._options.trust_reputation:
            return False
        found = [*session.evidence.all(ReputationResult), *transaction.evidence.all(ReputationResult)]
        return any(one.is_good for one in found) and not any(one.is_bad for one in found)

    def _has_exempt(self, recipient: Recipient) -> bool:
        address = recipient.address
        return address.local_part.lower() in self._recipients or str(address).lower() in self._recipients

    def _origin(self, session: Session, transaction: Transaction) -> tuple[str, int]:
        """Where it comes from, and after how many that came back nobody from there waits."""
        options = self._options
        spf = transaction.evidence.get(SpfResult) if options.spf_key else None
        if spf is not None and spf.result == "pass" and spf.domain:
            return f"spf:{spf.domain}", options.auto_allow_spf
        address = session.client.address
        network = "" if address is None else prefix_of(address, options.ipv4_prefix, options.ipv6_prefix)
        return network, options.auto_allow

    def _judge(self, session: Session, transaction: Transaction, recipients: Sequence[Recipient]) -> Steps[Verdict]:
        origin, enough = self._origin(session, transaction)
        if enough and (yield from self._is_known(f"greylist allowed {_digest(origin)}")):
            return Continue((GreylistResult("allowed", origin),))
        found: list[GreylistResult] = []
        for recipient in recipients:
            found.append((yield from self._look(origin, enough, self._key(origin, transaction, recipient))))
        longest = max(found, key=lambda one: one.wait)
        if not longest.wait:
            return Continue(tuple(dict.fromkeys(found)))
        who = f"{origin} from {transaction.sender or '<>'} to {', '.join(str(one.address) for one in recipients[:3])}"
        reason = f"greylist: {who} is {longest.status}, {math.ceil(longest.wait)} s left"
        return Defer(self._reply(longest.wait), reason, evidence=(longest,))

    def _look(self, origin: str, enough: int, key: str) -> Steps[GreylistResult]:
        """What is known under a key; it begins to wait where nothing is."""
        options, now = self._options, self._seconds()
        state = yield from ready(self._counters.add(key, b"%.3f" % now, options.window))
        if state is None:
            return GreylistResult("new", origin, options.delay)
        if state.startswith(b"+"):
            yield from self._refresh(key, state)
            return GreylistResult("known", origin)
        wait = _moment(state) + options.delay - now
        if wait > options.delay + _RACE:  # the clock has stepped back: its time begins again
            yield from ready(self._counters.put(key, b"%.3f" % now, options.window))
            return GreylistResult("new", origin, options.delay)
        if wait > 0:
            return GreylistResult("early", origin, wait)
        yield from ready(self._counters.put(key, b"+%.3f" % now, options.keep))
        # Of several that see it come back at the same moment, one counts it.
        if enough and (yield from ready(self._counters.add(f"{key} counted", b"", _RACE))) is None:
            name = _digest(origin)
            passed = yield from ready(self._counters.hit(f"greylist passed {name}", options.keep))
            if passed >= enough:
                yield from ready(self._counters.put(f"greylist allowed {name}", b"+%.3f" % now, options.keep))
        return GreylistResult("passed", origin)

    def _is_known(self, key: str) -> Steps[bool]:
        state = yield from ready(self._counters.get(key))
        if state is None:
            return False
        yield from self._refresh(key, state)
        return True

    def _refresh(self, key: str, state: bytes) -> Steps[None]:
        """Keep what is known for longer, as there is mail."""
        now = self._seconds()
        if abs(now - _moment(state)) >= self._options.keep * _REFRESH:
            yield from ready(self._counters.put(key, b"+%.3f" % now, self._options.keep))

    def _key(self, origin: str, transaction: Transaction, recipient: Recipient) -> str:
        ends = [transaction.sender, recipient.address]
        by_domain = self._options.compare == "domains"
        texts = [one.domain if by_domain else str(one).lower() for one in ends]
        return f"greylist {_digest(self._form, origin, *texts)}"

    def _reply(self, wait: float) -> Reply:
        return Reply.of(451, "4.7.1", self._text.replace("{seconds}", str(math.ceil(wait))))


def _moment(state: bytes) -> float:
    """Since when; long ago where somebody else wrote it."""
    try:
        return float(state)
    except ValueError:
        return 0.0


def _digest(*texts: str) -> str:
    """A key of one length, whatever senders think of, from which nobody reads who writes to whom."""
    return hashlib.blake2b("\0".join(texts).encode("utf-8", "surrogatepass"), digest_size=15).hexdigest()
