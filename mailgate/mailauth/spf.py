"""SPF: may this host send mail for this domain (RFC 7208, RFC 8616)."""

from __future__ import annotations

import ipaddress
import re
import time
from ipaddress import IPv4Address, IPv6Address

import idna
from twisted.logger import Logger

from mailgate.interfaces import IResolver
from mailgate.mailauth.asking import Known, TooManyQuestionsError, work_with_answers
from mailgate.mailauth.results import SpfResult
from mailgate.mailauth.spf_evaluation import Evaluation, Outcome, Parsed

__all__ = ["check_spf", "domain_name"]

_log = Logger()

#: The limits of RFC 7208 section 4.6.4 allow 122 questions in 23 rounds: the record, ten terms with ten hosts each, ten
#: names of the client, the explanation.
_MOST_QUESTIONS, _MOST_ROUNDS = 150, 40
#: Characters of a mechanism, a reason and an explanation as they are kept.
_LONGEST_WORDS, _LONGEST_EXPLANATION = 200, 500
#: Characters of the longest name.
_LONGEST_NAME = 253

_DOMAIN = re.compile(r"(?:[a-z0-9_-]{1,63}\.)+(?![0-9]+\Z)[a-z0-9-]{1,63}")


async def check_spf(
    resolver: IResolver,
    *,
    ip: str | IPv4Address | IPv6Address,
    helo: str,
    mail_from: str,
    receiver: str,
    now: float | None = None,
) -> SpfResult:
    """What the domain of `mail_from` says of mail from `ip`; with the null reverse-path "", what that of `helo` says.

    `mail_from` is an address without angle brackets, `helo` the client's word, `receiver` our name (for macros in
    explanations), `now` the time for them. An IPv4 address written as IPv6 is taken as IPv4; ValueError where `ip` is
    no address. A domain that is none (a literal, a single label) has the result "none". Failures of DNS are
    "temperror", and what exceeds the limits of RFC 7208 section 4.6.4 or our own is "permerror"; nothing that
    DNS or the client says raises.
    """
    address = _address(ip)
    identity = "mailfrom" if mail_from else "helo"
    local_part, _, text = mail_from.rpartition("@") if mail_from else ("", "", helo)
    domain = domain_name(text)
    if not domain:
        return SpfResult("none", identity=identity, reason=f"no domain name: {_words(text)}" if text else "no domain")
    greeting = domain_name(helo) or _words(helo)
    parsed: Parsed = {}
    moment = time.time() if now is None else now

    def evaluate(known: Known) -> Outcome:
        evaluation = Evaluation(
            known,
            parsed,
            ip=address,
            helo=greeting,
            local_part=local_part or "postmaster",
            domain=domain,
            receiver=receiver,
            now=moment,
        )
        try:
            return evaluation.outcome()
        except Exception as error:
            if not known.lacks_an_answer:
                _log.failure("SPF of {domain} cannot be evaluated", domain=domain)
            return Outcome("permerror", reason=f"it cannot be evaluated: {type(error).__name__}")

    try:
        outcome = await work_with_answers(resolver, evaluate, most_questions=_MOST_QUESTIONS, most_rounds=_MOST_ROUNDS)
    except TooManyQuestionsError as error:
        outcome = Outcome("permerror", reason=str(error))
    return SpfResult(
        outcome.result,
        domain,
        identity,
        _words(outcome.mechanism),
        outcome.explanation[:_LONGEST_EXPLANATION],
        _words(outcome.reason),
    )


def _address(ip: str | IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    address = ipaddress.ip_address(ip)
    if isinstance(address, IPv6Address):
        # Without its zone, which is of this machine only.
        return address.ipv4_mapped or IPv6Address(int(address))
    return address


def domain_name(text: str) -> str:
    """The domain in lower case and A-labels (RFC 8616 section 4); "" where it is none of two labels and more."""
    domain = text.removesuffix(".")
    if not domain.isascii():
        if len(domain) > _LONGEST_NAME:
            return ""
        try:
            domain = idna.encode(domain, uts46=True).decode("ascii")
        except UnicodeError:  # idna's errors are of this kind
            return ""
    domain = domain.lower()
    return domain if len(domain) <= _LONGEST_NAME and _DOMAIN.fullmatch(domain) else ""


def _words(text: str) -> str:
    """What others wrote, for people: bounded, without anything that is not printable."""
    return "".join(one if one.isprintable() else "?" for one in text[:_LONGEST_WORDS])
