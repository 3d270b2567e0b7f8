"""The rules of rate limits: what is counted, whose count it is, and what is said when it is too much."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from mailgate.config.schema import Network, Section
from mailgate.config.units import Duration, at_least, format_duration, format_size, parse_size
from mailgate.envelope import Recipient, Session, Transaction
from mailgate.events import Refused
from mailgate.filters.geo import GeoResult
from mailgate.filters.networks import NetworkSet, block_of, client_of, is_known
from mailgate.filters.open_sessions import is_unknown_recipient
from mailgate.reply import Reply
from mailgate.verdict import Defer, Disconnect, Reject, Verdict

__all__ = ["COUNTED_EVENTS", "SUBJECTS", "Limit", "Rule", "counted_event", "shortened"]

Counted = Literal["connections", "messages", "recipients", "bytes", "refusals", "unknown-recipients", "auth-failures"]
Subject = Callable[[Session, Transaction | None, Recipient | None], str]

#: What is counted when it has happened, and limits what comes later.
COUNTED_EVENTS = frozenset({"refusals", "unknown-recipients", "auth-failures"})

_OF_CONNECTION = ("client", "network", "asn", "country", "listener")
_OF_MESSAGE = ("helo", "identity", "identity-domain", "sender", "sender-domain")
_OF_RECIPIENT = ("recipient", "recipient-domain")
_ALLOWED: dict[str, tuple[str, ...]] = {
    "connections": _OF_CONNECTION,
    "messages": _OF_CONNECTION + _OF_MESSAGE,
    "bytes": _OF_CONNECTION + _OF_MESSAGE,
    "recipients": _OF_CONNECTION + _OF_MESSAGE + _OF_RECIPIENT,
    "refusals": (*_OF_CONNECTION, "helo", "sender", "sender-domain"),
    "unknown-recipients": (*_OF_CONNECTION, "helo", "sender", "sender-domain"),
    "auth-failures": _OF_CONNECTION,
}
#: The longest that one answer is held back: a filter's deadline is 10 seconds, unless it is configured.
_LONGEST = 9.0
#: Characters of a subject that stands in a key as it is.
_LONG = 100


def _limit(value: object) -> object:
    return parse_size(value) if isinstance(value, str) else value


def _delay(seconds: float) -> float:
    if seconds > _LONGEST:
        raise ValueError(f"must be at most {format_duration(_LONGEST)}: the filter must answer within its deadline")
    return seconds


class Rule(Section):
    """One limit, such as `{ count = "messages", per = "client", limit = 100, window = "1m" }`."""

    count: Counted
    """what is counted: connections, messages (at MAIL), recipients (at RCPT), bytes (octets of messages); or what has
    gone wrong, and then limits later connections, or messages where `per` has a helo or a sender: refusals (for good,
    at any stage), unknown-recipients, auth-failures (wrong secrets)"""
    per: str = "client"
    """whose count it is. client: an IPv4 address or an IPv6 /64; network: a /24 or a /48; asn, country: by the filter
    geo, which stands before this one; listener: all its clients together; helo; identity: who the client has proved to
    be, which in trusted_networks is its address; sender (not the null sender), recipient (count = "recipients" only);
    identity-domain, sender-domain, recipient-domain. Several with + between them are counted by all of these together:
    "client+recipient-domain". A rule is not about what lacks one of them"""
    limit: Annotated[int, BeforeValidator(_limit), Field(strict=True, ge=1)]
    """how many are let through in any `window`; for bytes also a size: "500MB" """
    window: Annotated[Duration, at_least(1.0, format_duration)]
    """the time that is looked back on"""
    algorithm: Literal["window", "bucket"] = "window"
    """window: never more than `limit` in any `window`; bucket: `limit` per `window`, evenly, and `burst` at once after
    a rest. Where several buckets apply, those before the one that refuses have been taken from"""
    burst: Annotated[int, BeforeValidator(_limit), Field(strict=True, ge=1)] | None = None
    """of a bucket, how many pass at once; `limit`, if not given"""
    verdict: Literal["defer", "disconnect", "reject", "slow"] = "defer"
    """what happens to what is over the limit. defer: 450, a connection 421; disconnect: 421, and the session ends;
    reject: 550, a connection 554; slow: it is let through, and the answer waits for `delay`"""
    delay: Annotated[Duration, AfterValidator(_delay)] = 5.0
    """how long an answer waits with verdict slow, at most 9s and shorter than the filter's deadline; less where a
    bucket has enough earlier"""
    only: list[Network] = Field(default=[])
    """clients that the rule is for; all, if not given"""
    exempt: list[Network] = Field(default=[])
    """clients that the rule is not for, beside the filter's own `exempt`"""
    text: str = ""
    """what is replied to what is over the limit; "Too many messages, try again later" or the like, if not given"""
    name: str = ""
    """how traces call the rule; "messages per client" or the like, if not given. Rules that count the same over the
    same window share their counts, unless they have different names"""

    @model_validator(mode="before")
    @classmethod
    def _sizes(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("count") != "bytes":
            for key in ("limit", "burst"):
                if isinstance(data.get(key), str):
                    raise ValueError(f"{key} is a number, without quotes; sizes are for bytes")
        return data

    @model_validator(mode="after")
    def _countable(self) -> Rule:
        subjects, allowed = self.subjects, _ALLOWED[self.count]
        known = _OF_CONNECTION + _OF_MESSAGE + _OF_RECIPIENT
        for one in subjects:
            if one not in known:
                raise ValueError(f'per: "{one}" is nothing that is counted by (valid values are: {_quoted(known)})')
            if one in allowed:
                continue
            if self.count in ("messages", "bytes") and one in _OF_RECIPIENT:
                raise ValueError(f'{self.count} are not counted per {one}: write count = "recipients"')
            raise ValueError(f"{self.count} are not counted per {one} (valid values are: {_quoted(allowed)})")
        if len(set(subjects)) < len(subjects):
            raise ValueError(f'per = "{self.per}" names one thing twice')
        if self.algorithm == "window" and self.burst is not None:
            raise ValueError('burst is for algorithm = "bucket"')
        if self.algorithm == "bucket" and self.count in COUNTED_EVENTS:
            raise ValueError(f"{self.count} are counted in a window: they have happened when they are counted")
        return self

    @property
    def subjects(self) -> tuple[str, ...]:
        """What `per` names."""
        return tuple(self.per.split("+"))


class Limit:
    """One rule made ready: whom it is for, under which key it counts, and how it refuses."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.title = rule.name or f"{rule.count} per {rule.per}"
        self.limit = rule.limit
        self.window = rule.window
        self.is_bucket = rule.algorithm == "bucket"
        self.burst = float(rule.burst or rule.limit)
        self.rate = rule.limit / rule.window
        self.is_slow = rule.verdict == "slow"
        self.is_at_connect = rule.count == "connections" or (
            rule.count in COUNTED_EVENTS and all(one in _OF_CONNECTION for one in rule.subjects)
        )
        self._only = NetworkSet(rule.only)
        self._exempt = NetworkSet(rule.exempt)
        only = f" only {','.join(map(str, rule.only))}" if rule.only else ""
        kind = f" bucket {self.burst:g}" if self.is_bucket else ""
        self._prefix = f"rate-limit {self.title}{only} {rule.window:g}{kind} "
        self._subjects = [SUBJECTS[one] for one in rule.subjects]
        number = format_size(rule.limit) if rule.count == "bytes" else str(rule.limit)
        self._told = f"in {format_duration(rule.window)}, the limit is {number}"
        self._make = self._maker(rule.text or _text(rule))

    def key(self, session: Session, transaction: Transaction | None = None, recipient: Recipient | None = None) -> str:
        """Where this is counted; "" where the rule is not about it."""
        address = session.client.address
        if (self._only and address not in self._only) or (self._exempt and address in self._exempt):
            return ""
        found = [subject(session, transaction, recipient) for subject in self._subjects]
        if not all(found):
            return ""
        return self._prefix + " ".join(map(shortened, found))

    def refuse(self, key: str, count: int | None) -> Verdict:
        """The verdict at a count that leaves no room; None for a bucket, which does not count."""
        return self._make(self.reason(key, count))

    def reason(self, key: str, count: int | None) -> str:
        """Why there is no room."""
        subject = key.removeprefix(self._prefix)
        return f"{self.title}: {subject} has had {'too many' if count is None else count} {self._told}"

    def _maker(self, text: str) -> Callable[[str], Verdict]:
        verdict = self.rule.verdict
        # A greeting carries no enhanced status code (RFC 2034 section 3).
        status = "" if self.is_at_connect else "7.1"
        if verdict == "disconnect" or (verdict in ("defer", "slow") and self.is_at_connect):
            reply = Reply.of(421, status and "4.7.0", text)
            return lambda reason: Disconnect(reply, reason)
        if verdict == "reject" and self.is_at_connect:
            reply = Reply.of(554, "", text)
            return lambda reason: Disconnect(reply, reason)
        if verdict == "reject":
            reply = Reply.of(550, "5.7.1", text)
            return lambda reason: Reject(reply, reason)
        reply = Reply.of(450, "4.7.1", text)
        return lambda reason: Defer(reply, reason)


def shortened(subject: str) -> str:
    """A subject of a count as it stands in a key: what peers think of takes little memory, however long it is; its
    beginning is enough for people."""
    if len(subject) <= _LONG:
        return subject
    digest = hashlib.blake2b(subject.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
    return f"{subject[: _LONG // 2]}...{digest}"


def counted_event(event: Refused) -> frozenset[str]:
    """As what a refusal counts."""
    counted = set()
    if event.reply.startswith("5"):
        counted.add("refusals")
        if is_unknown_recipient(event):
            counted.add("unknown-recipients")
    # A client that was gone before the answer was told nothing, but has tried all the same.
    if event.stage == "auth" and event.user and event.reply[:3] in ("535", ""):
        counted.add("auth-failures")
    return frozenset(counted)


def _text(rule: Rule) -> str:
    what = {"bytes": "octets", "auth-failures": "failed logins"}.get(rule.count, rule.count.replace("-", " "))
    return f"Too many {what}" if rule.verdict == "reject" else f"Too many {what}, try again later"


def _quoted(words: tuple[str, ...]) -> str:
    return ", ".join(f'"{word}"' for word in words)


def _client(session: Session, _transaction: Transaction | None, _recipient: Recipient | None) -> str:
    return client_of(session.client.address) if is_known(session.client.address) else ""


def _network(session: Session, _transaction: Transaction | None, _recipient: Recipient | None) -> str:
    return block_of(session.client.address) if is_known(session.client.address) else ""


def _asn(session: Session, _transaction: Transaction | None, _recipient: Recipient | None) -> str:
    geo = session.evidence.get(GeoResult)
    return f"AS{geo.asn}" if geo is not None and geo.asn else ""


def _country(session: Session, _transaction: Transaction | None, _recipient: Recipient | None) -> str:
    geo = session.evidence.get(GeoResult)
    return geo.country if geo is not None else ""


def _listener(session: Session, _transaction: Transaction | None, _recipient: Recipient | None) -> str:
    return session.listener


def _helo(session: Session, _transaction: Transaction | None, _recipient: Recipient | None) -> str:
    return session.helo.lower().removesuffix(".")


def _identity(session: Session, _transaction: Transaction | None, _recipient: Recipient | None) -> str:
    # Who checks passwords may not mind the case: another spelling is no new user.
    return session.identity.name.lower() if session.identity is not None else ""


def _identity_domain(session: Session, _transaction: Transaction | None, _recipient: Recipient | None) -> str:
    return session.identity.name.rpartition("@")[2].lower() if session.identity and "@" in session.identity.name else ""


def _sender(_session: Session, transaction: Transaction | None, _recipient: Recipient | None) -> str:
    return str(transaction.sender).lower() if transaction is not None else ""


def _sender_domain(_session: Session, transaction: Transaction | None, _recipient: Recipient | None) -> str:
    return transaction.sender.domain if transaction is not None else ""


def _recipient(_session: Session, _transaction: Transaction | None, recipient: Recipient | None) -> str:
    return str(recipient.address).lower() if recipient is not None else ""


def _recipient_domain(_session: Session, _transaction: Transaction | None, recipient: Recipient | None) -> str:
    return recipient.address.domain if recipient is not None else ""


SUBJECTS: dict[str, Subject] = {
    "client": _client,
    "network": _network,
    "asn": _asn,
    "country": _country,
    "listener": _listener,
    "helo": _helo,
    "identity": _identity,
    "identity-domain": _identity_domain,
    "sender": _sender,
    "sender-domain": _sender_domain,
    "recipient": _recipient,
    "recipient-domain": _recipient_domain,
}
