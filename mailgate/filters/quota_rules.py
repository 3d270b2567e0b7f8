"""The rules of quotas: what is counted, whose count it is, and what is said when it is used up."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from mailgate.config.schema import Section
from mailgate.config.units import Duration, at_least, format_duration, format_size, parse_size
from mailgate.config.values import OneMailbox
from mailgate.envelope import Session, Transaction
from mailgate.filters.rate_limit_rules import SUBJECTS, shortened
from mailgate.filters.who import IdentitySet

__all__ = ["Quota", "QuotaRule"]

_PER = ("identity", "identity-domain", "sender", "sender-domain", "client", "network", "listener")
_WHAT = {"distinct-recipients": "different recipients", "bytes": "octets"}


def _limit(value: object) -> object:
    return parse_size(value) if isinstance(value, str) else value


class QuotaRule(Section):
    """One quota, such as `{ count = "recipients", per = "identity", limit = 2000, window = "1d" }`."""

    count: Literal["messages", "recipients", "distinct-recipients", "bytes"]
    """what is counted: messages (at MAIL), recipients (at RCPT), distinct-recipients (addresses that were not written
    to before in the same period), or bytes (octets of messages)"""
    per: str = "identity"
    """whose count it is. identity: who the client has proved to be, which in trusted_networks is its address;
    identity-domain: what stands behind the @ of that; sender, sender-domain: of MAIL FROM; client: an IPv4 address or
    an IPv6 /64; network: a /24 or a /48; listener: all its clients together. Several with + between them are counted by
    all of these together: "identity+network". A rule is not about what lacks one of them"""
    limit: Annotated[int, BeforeValidator(_limit), Field(strict=True, ge=1)]
    """how many are let through in a period; for bytes also a size: "500MB" """
    window: Annotated[Duration, at_least(60.0, format_duration)] = 86400.0
    """how long a period is: it begins with the first that is counted, and when it is over all begins anew"""
    over: Literal["defer", "reject", "quarantine"] = "defer"
    """what becomes of what is over the limit. defer: 450, with the time after which there is room again; reject: 550;
    quarantine: it is taken, and kept back until somebody releases it"""
    notice: Annotated[int, Field(strict=True, ge=0, le=99)] = 80
    """at how many percent of the limit the event limit_near is published, once in a period, and who stands in `notify`
    is told; at the limit itself it is, too. 0: at the limit only"""
    notify: list[Literal["user"] | OneMailbox] = Field(default=[])
    """who is told by mail: addresses, and "user" for the identity's own (see `domain`)"""
    only: list[str] = Field(default=[])
    """identities that the rule is for: names, patterns of names with *, networks; all, if not given"""
    exempt: list[str] = Field(default=[])
    """identities that the rule is not for, applications for one"""
    text: str = ""
    """what is replied in the place of the usual text; the time is put behind it"""
    name: str = ""
    """how traces and notices call the rule; "messages per identity" or the like, if not given. Rules that count the
    same over the same window share their counts, unless they have different names"""

    @model_validator(mode="before")
    @classmethod
    def _sizes(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("count") != "bytes" and isinstance(data.get("limit"), str):
            raise ValueError("limit is a number, without quotes; sizes are for bytes")
        return data

    @model_validator(mode="after")
    def _countable(self) -> QuotaRule:
        subjects = self.per.split("+")
        for one in subjects:
            if one not in _PER:
                values = ", ".join(f'"{word}"' for word in _PER)
                raise ValueError(f'per: "{one}" is nothing that is counted by (valid values are: {values})')
        if len(set(subjects)) < len(subjects):
            raise ValueError(f'per = "{self.per}" names one thing twice')
        return self


class Quota:
    """One rule made ready."""

    def __init__(self, rule: QuotaRule) -> None:
        self.rule = rule
        self.title = rule.name or f"{rule.count} per {rule.per}"
        self.notice = math.ceil(rule.limit * rule.notice / 100) if rule.notice else 0
        self._subjects = [SUBJECTS[one] for one in rule.per.split("+")]
        self._only, self._exempt = IdentitySet(rule.only), IdentitySet(rule.exempt)
        self._prefix = f"quota {self.title} {rule.window:g} "

    def subject(self, session: Session, transaction: Transaction) -> str:
        """Whose count it is; "" where the rule is not about this."""
        if (self._only and not self._only.has(session.identity)) or self._exempt.has(session.identity):
            return ""
        found = [subject(session, transaction, None) for subject in self._subjects]
        return " ".join(map(shortened, found)) if all(found) else ""

    def key(self, subject: str) -> str:
        """Where its count is kept."""
        return self._prefix + subject

    def reason(self, subject: str, count: int) -> str:
        """Why there is no room."""
        told = format_size(self.rule.limit) if self.rule.count == "bytes" else str(self.rule.limit)
        return f"{self.title}: {subject} has had {count} in {format_duration(self.rule.window)}, the limit is {told}"

    def text(self, wait: float) -> str:
        """What the client is told; `wait` is how long until there is room again."""
        text = self.rule.text
        if not text:
            what = _WHAT.get(self.rule.count, self.rule.count)
            limit = format_size(self.rule.limit) if self.rule.count == "bytes" else f"{self.rule.limit} {what}"
            text = f"No more than {limit} in {format_duration(self.rule.window)}"
        if self.rule.over == "reject":
            return text
        return f"{text}; try again in {format_duration(float(max(60, math.ceil(wait / 60) * 60)))}"
