"""Recipients: what is said of those that the directory does not know."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Mapping

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from zope.interface import implementer

from mailgate.address import Address
from mailgate.envelope import Identity, Target
from mailgate.filters.recipients import Options, Recipients, build
from mailgate.interfaces import IRecipientDirectory, RecipientStatus
from mailgate.plugins import builtin
from mailgate.testing import (
    FakeDirectory,
    FilterContract,
    Occasion,
    recipient,
    services,
    session,
    transaction,
    wait_for,
)
from mailgate.verdict import Defer, Disconnect, Reject, Verdict
from tests.unit.later import LaterCounters

DIRECTORY = FakeDirectory(
    ["bob@example.org"],
    {
        "eve@example.org": RecipientStatus.UNAVAILABLE,
        "any@example.com": RecipientStatus.KNOWN,
        "all@example.org": RecipientStatus.RESTRICTED,
    },
)


@implementer(IRecipientDirectory)
class Later:
    """A directory that answers with a Deferred."""

    def lookup(self, address: Address) -> Deferred[RecipientStatus]:
        return succeed(DIRECTORY.lookup(address))


def made(*, later: bool = False, **options: object) -> Recipients:
    given = services(directory=Later(), counters=LaterCounters(Clock())) if later else services(directory=DIRECTORY)
    built = build(Options.model_validate(options), given)
    assert isinstance(built, Recipients)
    return built


def ask(built: Recipients, address: str, session_id: str = "S1") -> Verdict | None:
    answer = built.on_rcpt(session(id=session_id), transaction(recipients=()), recipient(address))
    return wait_for(answer)


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("address", ["bob@example.org", "BOB@example.org", "any@example.com"])
def test_a_known_recipient_passes(later: bool, address: str) -> None:
    assert ask(made(later=later), address) is None


@pytest.mark.parametrize("later", [False, True])
def test_an_unknown_recipient_is_refused_for_good(later: bool) -> None:
    verdict = ask(made(later=later, text="Nobody of this name"), "bo@example.org")
    assert isinstance(verdict, Reject)
    assert str(verdict.reply) == "550 5.1.1 Nobody of this name"
    assert verdict.reason == "bo@example.org is not in the directory"


@pytest.mark.parametrize("later", [False, True])
def test_what_cannot_be_looked_up_may_come_again(later: bool) -> None:
    verdict = ask(made(later=later), "eve@example.org")
    assert isinstance(verdict, Defer)
    assert (verdict.reply.code, verdict.reply.status) == (451, "4.4.3")


@pytest.mark.parametrize("later", [False, True])
def test_a_group_for_internal_mail_is_there_for_who_may_relay(later: bool) -> None:
    verdict = ask(made(later=later, restricted_text="Inside only"), "all@example.org")
    assert isinstance(verdict, Reject)
    assert str(verdict.reply) == "550 5.7.1 Inside only"
    assert verdict.reason == "all@example.org is for internal mail only"
    known = session(identity=Identity("10.0.0.1", "network"))
    answer = made(later=later).on_rcpt(known, transaction(recipients=()), recipient("all@example.org"))
    assert wait_for(answer) is None


def test_a_group_for_internal_mail_is_no_guess() -> None:
    built = made(max_unknown=2)
    assert [type(ask(built, "all@example.org")) for _ in range(4)] == [Reject] * 4


@pytest.mark.parametrize("later", [False, True])
def test_guessing_ends_the_session_and_only_that(later: bool) -> None:
    built = made(later=later, max_unknown=3)
    verdicts = [
        ask(built, address) for address in ("a@example.org", "bob@example.org", "b@example.org", "c@example.org")
    ]
    assert [type(verdict) for verdict in verdicts] == [Reject, type(None), Reject, Disconnect]
    last = verdicts[-1]
    assert isinstance(last, Disconnect)
    assert (last.reply.code, last.reply.status) == (421, "4.7.0")
    assert "c@example.org" in last.reason
    assert "3 unknown" in last.reason
    assert isinstance(ask(built, "c@example.org", "S2"), Reject)


def test_a_directory_that_is_away_is_no_guess() -> None:
    built = made(max_unknown=2)
    assert [type(ask(built, "eve@example.org")) for _ in range(4)] == [Defer] * 4


def test_an_answer_at_hand_costs_no_deferred() -> None:
    answer = made(max_unknown=1).on_rcpt(session(), transaction(), recipient("x@example.org"))
    assert not isinstance(answer, Awaitable)


class TestContract(FilterContract):
    factory = builtin.recipients

    def occasions(self) -> Iterable[Occasion]:
        return [Occasion(), Occasion(recipient=recipient("nobody@example.org"))]


class TestContractWithLimit(FilterContract):
    factory = builtin.recipients
    settings: Mapping[str, object] = {"max_unknown": 2}
    varies = "unknown recipients are counted"


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize(
    ("targets", "code"),
    [
        (["bob@example.org", "gone@example.org"], 0),
        (["gone@example.org", "ann@example.net"], 550),
        (["gone@example.org", "eve@example.org"], 451),
        (["eve@example.org", "bob@example.org"], 0),
        (["all@example.org", "gone@example.org"], 550),
    ],
)
def test_of_those_that_an_address_stands_for_one_has_to_exist(later: bool, targets: list[str], code: int) -> None:
    verdict = ask_alias(made(later=later), targets)
    assert (verdict.reply.code if isinstance(verdict, Reject | Defer) else 0) == code
    if isinstance(verdict, Reject) and "all@example.org" not in targets:
        assert "nobody of gone@example.org" in verdict.reason


@pytest.mark.parametrize("targets", [["all@example.org"], ["gone@example.org", "all@example.org"]])
def test_an_alias_of_a_group_for_internal_mail_is_for_internal_mail(targets: list[str]) -> None:
    stranger = ask_alias(made(), targets)
    assert isinstance(stranger, Reject)
    assert stranger.reply.status == "5.7.1"
    assert ask_alias(made(), targets, identity=Identity("ann", "PLAIN")) is None


def ask_alias(built: Recipients, targets: list[str], identity: Identity | None = None) -> Verdict | None:
    one = recipient("info@example.org")
    one.targets = tuple(Target(Address.parse(target), "inside") for target in targets)
    return wait_for(built.on_rcpt(session(identity=identity), transaction(recipients=()), one))
