"""smtpd_*_restrictions: who may relay, who gets in at all, and which of our filters say the rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mailgate.moving.files import ReadingError
from mailgate.moving.postfix.access import SUBJECTS, action_of
from mailgate.moving.postfix.reading import Parameters
from mailgate.moving.postfix.site import Site

__all__ = ["LISTS", "REFUSALS", "Permissions", "Step", "permissions", "steps"]

#: In the order in which Postfix asks them at RCPT (smtpd_delay_reject).
LISTS = ("client", "helo", "sender", "relay", "recipient", "data", "end_of_data")
#: What ends a list for everybody that came so far, and what ends it for mail that is not ours.
_STOPS = {"reject", "defer", "reject_plaintext_session"}
_RELAY_STOPS = {"reject_unauth_destination", "defer_unauth_destination", "check_relay_domains"}
#: What refuses those whom no table before it has let in, by the action of our rule.
REFUSALS = {"reject": "deny", "defer": "defer"}
_PERMITS = {"permit_mynetworks": "networks", "permit_sasl_authenticated": "logins"}
#: What a table alone is about, by its list.
_SUBJECTS = {"client", "helo", "sender", "recipient"}
#: What takes an argument.
_WITH_ARGUMENT = {
    "reject_rbl_client", "reject_rhsbl_client", "reject_rhsbl_helo", "reject_rhsbl_recipient",
    "reject_rhsbl_reverse_client", "reject_rhsbl_sender", "permit_dnswl_client", "permit_rhswl_client",
    "reject_maps_rbl", "check_policy_service", "sleep",
}  # fmt: skip
#: Restriction classes inside classes.
_DEEPEST = 10
#: Restrictions of a list, those of its classes among them.
_MOST = 5000


@dataclass(frozen=True, slots=True)
class Step:
    """One restriction: in which list it stands, whether clients that may relay are asked it too, and warn_if_reject."""

    stage: str
    word: str
    argument: str
    origin: str
    for_networks: bool
    for_logins: bool
    only_warns: bool


@dataclass(frozen=True, slots=True)
class Permissions:
    """Who may do what by these lists."""

    networks_relay: bool
    logins_relay: bool
    strangers_enter: bool
    is_open: bool
    """whether strangers may relay: Postfix would refuse to run like that, or everybody sends through it"""


def permissions(site: Site, parameters: Parameters) -> Permissions:
    """What the lists let networks (mynetworks), logins and strangers do."""
    ends = {who: [_end(site, parameters, stage, who) for stage in LISTS] for who in ("networks", "logins", "strangers")}
    bounds = [_end(site, parameters, stage, "strangers", to_us=True) for stage in LISTS]
    return Permissions(
        networks_relay="stop" not in ends["networks"],
        logins_relay="stop" not in ends["logins"],
        strangers_enter="stop" not in bounds,
        is_open="stop" not in ends["strangers"],
    )


def _end(site: Site, parameters: Parameters, stage: str, who: str, *, to_us: bool = False) -> str:
    """What comes first in a list for these clients: "permit", "stop", or "" at its end; `to_us` for mail to our
    domains."""
    warns = lets_in = False
    for word, argument in _words(site, parameters, stage, 0):
        only_warns, warns = warns, word == "warn_if_reject"
        if word == "permit" or _PERMITS.get(word) == who or (to_us and word == "permit_auth_destination"):
            return "permit"
        if only_warns:
            continue
        lets_in = lets_in or (to_us and _lets_in(site, word, argument))
        if lets_in and word in REFUSALS:
            return "permit"  # for some, and a filter refuses all others
        if word in _STOPS or (not to_us and word in _RELAY_STOPS):
            return "stop"
    return ""


def _lets_in(site: Site, word: str, argument: str) -> bool:
    """Whether this is a table by which some of all clients are let in."""
    if not SUBJECTS.get(word.removeprefix("check_").removesuffix("_access")):
        return False
    return any(action_of(entry.value)[0] == "allow" for entry in site.tables.read(argument).entries)


def steps(site: Site, parameters: Parameters) -> Iterator[Step]:
    """Every restriction in its order."""
    for stage in LISTS:
        origin = parameters.origin(f"smtpd_{stage}_restrictions")
        asks_networks = asks_logins = True
        warns = False
        for word, argument in _words(site, parameters, stage, 0):
            if word == "warn_if_reject":
                warns = True
                continue
            if word == "permit_mynetworks":
                asks_networks = False
            elif word == "permit_sasl_authenticated":
                asks_logins = False
            elif word == "permit":
                break
            yield Step(stage, word, argument, origin, asks_networks, asks_logins, warns)
            warns = False


def _words(site: Site, parameters: Parameters, stage: str, depth: int) -> Iterator[tuple[str, str]]:
    setting = f"smtpd_{stage}_restrictions"
    for number, pair in enumerate(_pairs(site, parameters, parameters.words(setting), stage, depth)):
        if number == _MOST:
            raise ReadingError(f"{setting}: with its classes it has more than {_MOST} restrictions")
        yield pair


def _pairs(
    site: Site, parameters: Parameters, words: Sequence[str], stage: str, depth: int
) -> Iterator[tuple[str, str]]:
    classes = parameters.words("smtpd_restriction_classes")
    left = list(words)
    while left:
        word = left.pop(0)
        if word.startswith("{") and word.endswith("}"):
            left[:0] = word[1:-1].split(None, 1)
            continue
        lower = word.lower()
        if word in classes and depth < _DEEPEST:
            yield from _pairs(site, parameters, parameters.words(word), stage, depth + 1)
        elif (lower in _WITH_ARGUMENT or (lower.startswith("check_") and lower.endswith("_access"))) and left:
            yield lower, left.pop(0)
        elif ":" in word:  # a table alone means the access of its list
            yield f"check_{stage if stage in _SUBJECTS else 'recipient'}_access", word
        else:
            yield lower, ""
