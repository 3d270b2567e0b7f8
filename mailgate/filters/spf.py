"""SPF at the door: asks whether the client may send mail for the sender's domain, and does what the options say."""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Literal

from pydantic import Field
from twisted.internet.defer import TimeoutError as DeferredTimeout
from zope.interface import directlyProvides
from zope.interface.interface import InterfaceClass

from mailgate.awaiting import as_deferred
from mailgate.config.schema import Network, Section
from mailgate.config.units import Timeout, format_duration
from mailgate.config.values import Flag
from mailgate.envelope import Session, Transaction
from mailgate.filters.networks import LOCAL_NETWORKS, NetworkSet
from mailgate.interfaces import Answered, FilterServices, IHeloFilter, IMailFilter, IMessageModifier
from mailgate.mailauth.results import SpfResult
from mailgate.mailauth.spf import check_spf, domain_name
from mailgate.message import AddHeader, Edit, Message
from mailgate.reply import Reply
from mailgate.verdict import Continue, Defer, Quarantine, Reject, Verdict

__all__ = ["Options", "Spf", "build"]

Action = Literal["continue", "defer", "reject", "quarantine"]

#: Characters of what a domain explains, or a client says, that are passed on.
_LONGEST = 200

_ATOM = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")

_TEXTS = {
    "fail": "SPF: {client} may not send mail for {domain}",
    "softfail": "SPF: {client} should not send mail for {domain}",
    "neutral": "SPF: {domain} does not say that {client} may send its mail",
    "none": "SPF: {domain} does not say who may send its mail",
    "permerror": "SPF: the record of {domain} has an error",
    "temperror": "SPF: the record of {domain} cannot be looked up now, try again later",
}
#: The words of RFC 7208 section 9.1, and what the comment of the field says of the domain.
_RECEIVED = {
    "pass": ("Pass", "designates {client} as permitted sender"),
    "fail": ("Fail", "does not designate {client} as permitted sender"),
    "softfail": ("SoftFail", "discourages the use of {client}"),
    "neutral": ("Neutral", "neither permits nor denies {client}"),
    "none": ("None", "has no SPF record"),
    "temperror": ("TempError", "could not be looked up"),
    "permerror": ("PermError", "has an SPF record with an error"),
}


class Options(Section):
    """`[filters.spf]`: whether the sender's domain lets this client send its mail (RFC 7208).

    By itself the result is evidence for `dmarc`, `score` and the trace. Forwarded mail fails honestly, so refusing by
    SPF alone loses mail.
    """

    fail: Action = "continue"
    """what to do where the domain says that this client may not: continue, defer, reject or quarantine"""
    softfail: Action = "continue"
    """where the domain says that it probably may not"""
    neutral: Action = "continue"
    """where the domain does not want to say"""
    none: Action = "continue"
    """where the domain has no SPF record; for reports (the null sender) the domain is that of HELO, which seldom has
    one"""
    permerror: Action = "continue"
    """where the domain's record has an error, or asks for more than RFC 7208 section 4.6.4 allows"""
    temperror: Literal["continue", "defer"] = "continue"
    """where DNS cannot say now; continue leaves it to `dmarc`, which knows whether it matters"""
    helo: Flag = False
    """whether the name in HELO is checked too, when it is said. Of the results only `fail` is acted on (by reject or
    defer); all are evidence"""
    exempt: list[Network] = Field(default=list(LOCAL_NETWORKS))
    """clients that are not checked: relays of your own, secondary MX hosts; if not given, loopback and private
    networks. Clients that have logged in, and those in trusted_networks, are never checked"""
    received_spf: Flag = False
    """whether the message gets a Received-SPF field (RFC 7208 section 9.1)"""
    tell_explanation: Flag = False
    """whether the refusal of a fail also tells what the domain says about it (exp=): words of a stranger"""
    timeout: Timeout = 8.0
    """a check that takes longer is a temperror; must be below `deadline`. RFC 7208 wants 20s: raise both for that"""


def build(options: Options, services: FilterServices) -> object:
    """The filter; it provides the stages at which its options want something."""
    return Spf(options, services)


class Spf:
    """Asks at MAIL, and at HELO where that is wanted; each result is evidence of its session or transaction."""

    def __init__(self, options: Options, services: FilterServices) -> None:
        self._actions: dict[str, Action] = {
            "fail": options.fail,
            "softfail": options.softfail,
            "neutral": options.neutral,
            "none": options.none,
            "permerror": options.permerror,
            "temperror": options.temperror,
        }
        self._exempt = NetworkSet(options.exempt)
        self._tell_explanation = options.tell_explanation
        self._timeout = options.timeout
        self._resolver = services.resolver
        self._clock = services.clock
        stages: list[InterfaceClass] = [IMailFilter]
        if options.helo:
            stages.append(IHeloFilter)
        if options.received_spf:
            stages.append(IMessageModifier)
        directlyProvides(self, *stages)

    def on_helo(self, session: Session) -> Answered:
        """Check the name in HELO; refuse it where it fails and the options say so."""
        address = self._address_of(session)
        return None if address is None else self._judge_helo(session, address)

    def on_mail(self, session: Session, transaction: Transaction) -> Answered:
        """Check the sender's domain, or the name in HELO for the null sender."""
        address = self._address_of(session)
        return None if address is None else self._judge_mail(session, address, transaction)

    def modify(self, session: Session, transaction: Transaction, message: Message) -> Sequence[Edit]:
        """The Received-SPF field, where there is a result."""
        result = transaction.evidence.get(SpfResult)
        return [] if result is None else [AddHeader("Received-SPF", _received(session, transaction, result))]

    def _address_of(self, session: Session) -> IPv4Address | IPv6Address | None:
        """The client's address; None where it is not to be checked."""
        address = session.client.address
        return None if session.identity is not None or address in self._exempt else address

    async def _judge_helo(self, session: Session, address: IPv4Address | IPv6Address) -> Verdict:
        result = await self._check(session, address, "")
        action = self._actions["fail"] if result.result == "fail" else "continue"
        # There is no message yet that could be kept back, and no enhanced code in answers to HELO (RFC 2034).
        return self._verdict(session, result, "continue" if action == "quarantine" else action, has_status=False)

    async def _judge_mail(
        self, session: Session, address: IPv4Address | IPv6Address, transaction: Transaction
    ) -> Verdict:
        result = await self._check(session, address, str(transaction.sender))
        return self._verdict(session, result, self._actions.get(result.result, "continue"))

    async def _check(self, session: Session, address: IPv4Address | IPv6Address, sender: str) -> SpfResult:
        check = check_spf(
            self._resolver,
            ip=address,
            helo=session.helo,
            mail_from=sender,
            receiver=session.hostname,
            now=self._clock.seconds(),
        )
        try:
            return await as_deferred(check).addTimeout(self._timeout, self._clock)
        except DeferredTimeout:
            identity, name = ("mailfrom", sender.rpartition("@")[2]) if sender else ("helo", session.helo)
            reason = f"no result within {format_duration(self._timeout)}"
            return SpfResult("temperror", domain_name(name), identity, reason=reason)

    def _verdict(self, session: Session, result: SpfResult, action: Action, *, has_status: bool = True) -> Verdict:
        evidence = (result,)
        reason = result.summary()
        match action:
            case "reject":
                return Reject(self._reply(session, result, 5, has_status), reason, evidence=evidence)
            case "defer":
                return Defer(self._reply(session, result, 4, has_status), reason, evidence=evidence)
            case "quarantine":
                return Quarantine(reason, evidence=evidence)
            case _:
                return Continue(evidence)

    def _reply(self, session: Session, result: SpfResult, kind: int, has_status: bool) -> Reply:
        """550 or 451, with X.7.24 for errors and X.7.23 for all else (RFC 7372 section 3.2)."""
        detail = 24 if result.result.endswith("error") else 23
        domain = result.domain or ("your name" if result.identity == "helo" else "your domain")
        text = _TEXTS[result.result].format(client=session.client.address, domain=domain)
        if self._tell_explanation and result.explanation:
            text = f"{text}. {domain} says: {_clean(result.explanation)}"
        return Reply.of(550 if kind == 5 else 451, f"{kind}.7.{detail}" if has_status else "", text)


def _clean(text: str) -> str:
    """On one line, in printable US-ASCII."""
    return "".join(one if " " <= one <= "~" else "?" for one in text[:_LONGEST])


def _received(session: Session, transaction: Transaction, result: SpfResult) -> str:
    """The field's value, folded before each pair of key and value."""
    word, says = _RECEIVED[result.result]
    domain = result.domain or "the sender"
    client = str(session.client.address)
    pairs = [
        ("client-ip", client.partition("%")[0]),
        ("envelope-from", str(transaction.sender)),
        ("helo", session.helo),
        ("receiver", session.hostname),
        ("identity", result.identity),
        ("mechanism", result.mechanism),
        ("problem", result.reason),
    ]
    written = [f"{key}={_quoted(value)}" for key, value in pairs if value]
    says = says.format(client=client)
    return f"{word} ({session.hostname}: domain of {domain} {says})\r\n\t" + ";\r\n\t".join(written)


def _quoted(value: str) -> str:
    """A dot-atom as it is, and anything else as a quoted string of printable US-ASCII; bounded."""
    text = _clean(value)
    if _ATOM.fullmatch(text):
        return text
    return '"{}"'.format(text.replace("\\", "\\\\").replace('"', '\\"'))
