"""What a back end of a known kind says, and what becomes of the mail then."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

import pytest
from msgspec.structs import replace
from twisted.internet.defer import CancelledError, Deferred

from mailgate.config.routes import Preset
from mailgate.envelope import EnvelopeRecipient
from mailgate.events import BackEndRefuses
from mailgate.interfaces import OutcomeKind
from mailgate.message import Content
from mailgate.relay.attempt import Result, Target
from mailgate.relay.ready.back_end import BackEnd
from mailgate.relay.ready.job import Job
from mailgate.relay.replies.back_ends import Meaning, meaning
from mailgate.reply import Reply
from mailgate.testing import EventRecorder, wait_for
from tests.unit.relaying import OK, Connection, NextHop, lease, results

DEFERRED, DELIVERED, FAILED = OutcomeKind.DEFERRED, OutcomeKind.DELIVERED, OutcomeKind.FAILED
UNKNOWN = Reply.of(550, "5.1.10", "RESOLVER.ADR.RecipientNotFound; Recipient not found by SMTP address lookup")
SPAM = Reply.of(554, "5.7.1", "Message refused as spam")
TENANT = Reply.of(550, "5.7.64", "TenantAttribution; Relay Access Denied SMTP")
NOT_OURS = Reply.of(550, "5.4.1", "Relay Access Denied")
BUSY = Reply.of(452, "4.3.1", "Insufficient system resources")
REDUNDANT = Reply.of(451, "4.4.0", "Message failed to be made redundant")


class Stand:
    """A back end that refuses the content of every transaction in which somebody of `bad` is."""

    def __init__(self, preset: Preset = "exchange") -> None:
        self.now = 1000.0
        self.events = EventRecorder()
        self.alarms: list[tuple[str, str]] = []
        self.hop = NextHop()
        self.bad: set[str] = set()
        self.reply = UNKNOWN
        self.asked: list[list[str]] = []
        self.closes = False
        self.hop.answer = self._answer
        self.back_end = BackEnd(
            preset,
            site="ex1",
            route="exchange",
            seconds=lambda: self.now,
            publish=self.events.publish,
            alarm=lambda route, reason: self.alarms.append((route, reason)),
        )

    def connect(self) -> Connection:
        return Connection(self.hop, Target("ex1", "192.0.2.1", 25))

    def job(self, *names: str) -> Job:
        one = lease(*(f"{name}@d.test" for name in names))
        job = Job(one, one.recipients, "exchange")
        job.remaining = job.recipients
        return job

    def send(self, job: Job, connection: Connection | None = None) -> dict[str, Result]:
        """All that the job has come to, by local part."""
        found = wait_for(self.back_end.deliver(job, connection or self.connect()))
        assert [one.recipient for one in found] == list(job.remaining)
        return {one.recipient.address.local_part: one for one in (*job.results, *found)}

    def _answer(self, connection: Connection, recipients: Sequence[EnvelopeRecipient]) -> list[Result]:
        names = [one.address.local_part for one in recipients]
        self.asked.append(names)
        if not self.bad.intersection(names):
            return results(recipients)
        connection.is_usable = not self.closes
        return [replace(one, is_shared=True) for one in results(recipients, self.reply)]


def kinds(found: dict[str, Result]) -> dict[str, OutcomeKind]:
    return {name: one.kind for name, one in found.items()}


# -- one recipient of many


@pytest.mark.parametrize("bad", ["a", "b", "c"])
def test_one_recipient_refused_after_the_content_keeps_it_from_nobody_else(bad: str) -> None:
    stand = Stand()
    stand.bad = {bad}
    found = stand.send(stand.job("a", "b", "c"))
    assert kinds(found) == {name: FAILED if name == bad else DELIVERED for name in "abc"}
    assert found[bad].reply is UNKNOWN
    served = [name for names in stand.asked if bad not in names for name in names]
    assert len(served) == len(set(served)) == 2


def test_many_recipients_are_halved() -> None:
    stand = Stand()
    names = [f"u{number}" for number in range(64)]
    stand.bad = {"u17"}
    found = stand.send(stand.job(*names))
    assert [name for name, one in found.items() if one.kind is FAILED] == ["u17"]
    assert sum(one.kind is DELIVERED for one in found.values()) == 63
    assert len(stand.asked) <= 1 + 2 * 6


def test_a_mailbox_that_is_full_for_now_keeps_only_its_own_mail_waiting() -> None:
    stand = Stand()
    stand.bad, stand.reply = {"b"}, Reply.of(452, "4.2.2", "Mailbox full")
    assert kinds(stand.send(stand.job("a", "b"))) == {"a": DELIVERED, "b": DEFERRED}


def test_a_refusal_of_the_message_is_not_asked_for_again() -> None:
    stand = Stand()
    stand.bad, stand.reply = {"b"}, SPAM
    assert kinds(stand.send(stand.job("a", "b", "c"))) == dict.fromkeys("abc", FAILED)
    assert len(stand.asked) == 1


def test_transactions_of_one_attempt_are_bounded() -> None:
    stand = Stand()
    names = [f"u{number}" for number in range(100)]
    stand.bad = set(names)
    found = stand.send(stand.job(*names))
    assert len(stand.asked) == 41
    assert {DEFERRED, FAILED} == {one.kind for one in found.values()}
    assert not any(one.again or one.is_shared for one in found.values() if one.kind is DEFERRED)


def test_a_large_message_is_sent_less_often_and_still_comes_to_an_end() -> None:
    stand = Stand()
    names = [f"u{number}" for number in range(100)]
    stand.bad = set(names)
    job = stand.job(*names)
    job.lease = replace(job.lease, content=Content(None, Path("large"), 100 * 1024**2))
    left = []
    for _ in range(40):
        before = len(stand.asked)
        found = stand.send(job)
        assert len(stand.asked) - before <= 1 + 16
        job.recipients = job.remaining = tuple(one.recipient for one in found.values() if one.kind is DEFERRED)
        job.results, job.is_apart = [], False
        left.append(len(job.remaining))
        if not job.remaining:
            break
    assert left == sorted(set(left), reverse=True)
    assert left[-1] == 0


def test_a_server_that_closes_after_a_refusal_serves_each_in_turn() -> None:
    stand = Stand()
    stand.bad, stand.closes = {"b"}, True
    job = stand.job("a", "b", "c")
    found: dict[str, Result] = {}
    for _ in range(4):
        found = stand.send(job)
        again = [one.recipient for one in found.values() if one.again]
        job.results += [one for one in found.values() if not one.again and one not in job.results]
        job.remaining = tuple(again)
        if not again:
            break
    assert kinds(found) == {"a": DELIVERED, "b": FAILED, "c": DELIVERED}


def test_what_has_been_served_is_not_served_again_when_it_is_cut() -> None:
    stand = Stand()
    stand.bad = {"c"}
    inner = stand.hop.answer
    held: list[Deferred[list[Result]]] = []

    def answer(
        connection: Connection, recipients: Sequence[EnvelopeRecipient]
    ) -> list[Result] | Deferred[list[Result]]:
        if len(stand.asked) == 2:
            held.append(Deferred())
            return held[0]
        return inner(connection, recipients)

    stand.hop.answer = answer
    job = stand.job("a", "b", "c", "d")
    waited = Deferred.fromCoroutine(stand.back_end.deliver(job, stand.connect()))
    ended: list[object] = []
    waited.addErrback(lambda failure: ended.append(failure.trap(CancelledError)))
    waited.cancel()
    assert ended == [CancelledError]
    served = [one.recipient.address.local_part for one in job.results]
    waiting = [one.address.local_part for one in job.remaining]
    assert (served, waiting) == (["a", "b"], ["c", "d"])


# -- what is not about the mail


def refuse_at_rcpt(stand: Stand, reply: Reply) -> Callable[..., list[Result]]:
    return lambda connection, recipients: results(recipients, reply)


def test_a_refused_connector_bounces_nothing_and_rests_after_three_in_a_row() -> None:
    stand = Stand("exchange-online")
    stand.hop.answer = refuse_at_rcpt(stand, TENANT)
    for expected in (0, 0, 1, 2):
        (result,) = stand.send(stand.job("a")).values()
        assert (result.kind, result.reply) == (DEFERRED, TENANT)
        assert len(stand.alarms) == expected
    assert stand.alarms[0][0] == "exchange"
    assert "5.7.64" in stand.alarms[0][1]


def test_mail_that_is_taken_between_is_no_fault_of_the_connector() -> None:
    stand = Stand("exchange-online")
    for _ in range(6):
        stand.hop.answer = refuse_at_rcpt(stand, TENANT)
        assert kinds(stand.send(stand.job("a"))) == {"a": DEFERRED}
        stand.hop.answer = refuse_at_rcpt(stand, OK)
        stand.send(stand.job("b"))
    assert stand.alarms == []


def mail_to(stand: Stand, domain: str, reply: Reply) -> None:
    stand.hop.answer = refuse_at_rcpt(stand, reply)
    one = lease(f"a@{domain}")
    stand.send(Job(one, one.recipients, "exchange", remaining=one.recipients))


def test_a_domain_that_is_not_set_up_there_keeps_no_other_waiting() -> None:
    stand = Stand("exchange-online")
    mail_to(stand, "good.test", OK)
    for _ in range(9):
        mail_to(stand, "new.test", TENANT)
    assert stand.alarms == []
    assert len(stand.events.of(BackEndRefuses)) == 1
    mail_to(stand, "good.test", TENANT)  # which it took before
    assert len(stand.alarms) == 1


def test_a_domain_that_was_served_long_ago_says_nothing_of_today() -> None:
    stand = Stand("exchange-online")
    mail_to(stand, "good.test", OK)
    stand.now += 86_401
    for expected in (0, 0, 1):
        mail_to(stand, "new.test", TENANT)
        assert len(stand.alarms) == expected


def test_the_domains_that_are_remembered_are_bounded() -> None:
    stand = Stand("exchange-online")
    for number in range(1_100):
        mail_to(stand, f"d{number}.test", OK)
        mail_to(stand, f"e{number}.test", TENANT)
    assert len(stand.back_end._took) == 1_000
    assert "d1099.test" in stand.back_end._took
    stand.hop.answer = refuse_at_rcpt(stand, TENANT)
    for number in range(1_100):
        mail_to(stand, f"e{number}.test", TENANT)
    assert len(stand.back_end._refused) == 1_000


def test_an_alarm_is_an_event_that_is_not_repeated_for_each_mail() -> None:
    stand = Stand("exchange-online")
    stand.hop.answer = refuse_at_rcpt(stand, TENANT)
    for _ in range(5):
        stand.send(stand.job("a"))
    (told,) = stand.events.of(BackEndRefuses)
    assert (told.route, told.site, told.host, told.recipient) == ("exchange", "ex1", "mx", "a@d.test")
    assert "TenantAttribution" in told.reply
    stand.now += 301
    stand.send(stand.job("a"))
    assert len(stand.events.of(BackEndRefuses)) == 2


def test_a_domain_that_is_not_accepted_yet_waits_alone() -> None:
    stand = Stand("exchange-online")
    stand.hop.answer = refuse_at_rcpt(stand, NOT_OURS)
    for _ in range(5):
        assert kinds(stand.send(stand.job("a"))) == {"a": DEFERRED}
    assert stand.alarms == []
    assert len(stand.events.of(BackEndRefuses)) == 1


@pytest.mark.parametrize("reply", [BUSY, REDUNDANT])
def test_a_host_that_is_busy_is_left_for_another(reply: Reply) -> None:
    stand = Stand()
    stand.hop.answer = refuse_at_rcpt(stand, reply)
    (result,) = stand.send(stand.job("a")).values()
    assert (result.kind, result.next_host) == (DEFERRED, True)


def test_after_421_nobody_knows_how_far_the_content_had_got() -> None:
    stand = Stand()
    stand.hop.answer = refuse_at_rcpt(stand, Reply.of(421, "4.3.2", "Service not active"))
    (result,) = stand.send(stand.job("a")).values()
    assert not result.next_host


def test_our_own_findings_are_not_the_back_ends_words() -> None:
    stand = Stand("exchange-online")
    stand.hop.answer = lambda connection, recipients: [replace(one, host="") for one in results(recipients, TENANT)]
    assert kinds(stand.send(stand.job("a"))) == {"a": FAILED}
    assert stand.events.of(BackEndRefuses) == []


# -- the words


WORDS: Sequence[tuple[str, Reply, Meaning]] = [
    ("exchange-online", Reply.of(550, "5.4.1", "Recipient address rejected: Access denied. [X.prod]"), "recipient"),
    ("exchange-online", NOT_OURS, "waits"),
    ("exchange-online", TENANT, "connector"),
    ("exchange-online", Reply.of(550, "5.7.51", "TenantInboundAttribution; There is a partner connector"), "connector"),
    ("exchange-online", Reply.of(550, "5.7.606", "Access denied, banned sending IP [192.0.2.1]"), "connector"),
    ("exchange-online", Reply.of(451, "4.7.500", "Server busy. Please try again later from [192.0.2.1]"), ""),
    ("exchange-online", Reply.of(550, "5.7.1", "Message rejected as spam by Content Filtering"), ""),
    ("exchange", Reply.of(550, "5.1.1", "User unknown"), "recipient"),
    ("exchange", Reply.of(550, "5.7.1", "RESOLVER.RST.AuthRequired; authentication required"), "recipient"),
    ("exchange", Reply.of(530, "5.7.57", "SMTP; Client was not authenticated to send anonymous mail"), "connector"),
    ("exchange", Reply.of(550, "5.7.54", "SMTP; Unable to relay recipient in non-accepted domain"), "waits"),
    ("exchange", BUSY, "busy"),
    ("exchange", REDUNDANT, "busy"),
    ("exchange", Reply.of(552, "5.3.4", "Message size exceeds fixed maximum message size"), ""),
    ("exchange", Reply.of(550, "5.7.1", "Message refused: relay-attribution@sender.test is not welcome"), ""),
    ("exchange", Reply.of(550, "5.7.133", "RESOLVER.RST.SenderNotAuthenticatedForGroup; authenticate"), "recipient"),
    ("exchange", Reply.of(550, "5.7.1", "RESOLVER.tenantattribution.evil.test is not welcome"), "recipient"),
]  # fmt: skip


@pytest.mark.parametrize(("preset", "reply", "expected"), WORDS)
def test_words(preset: Preset, reply: Reply, expected: Meaning) -> None:
    assert meaning(preset, reply) == expected


@pytest.mark.parametrize("preset", get_args(Preset))
@pytest.mark.parametrize(
    "name",
    [
        "tenantattribution",
        "TenantInboundAttribution",
        "client-was-not-authenticated",
        "unable-to-relay",
        "relay-access-denied",
        "insufficient_system_resources",
        "recipientnotfound",
        "x.tenantattribution",
    ],
)
def test_nobody_says_a_back_ends_words_by_the_name_of_his_domain(preset: Preset, name: str) -> None:
    text = f"Access denied, sending domain {name}.evil.test does not pass DMARC verification and has a policy of reject"
    for reply in (Reply.of(550, "5.7.509", text), Reply.of(550, "5.7.1", text), Reply.of(550, "5.4.1", text)):
        assert meaning(preset, reply) == ""


def test_a_name_that_is_cut_off_is_none_of_a_back_ends_words() -> None:
    text = f"{'x' * 1000} {'y' * (2000 - 1002 - len('tenantattribution'))} tenantattribution.evil.test is not welcome"
    assert text[:2000].endswith(" tenantattribution")
    for reply in (Reply.of(550, "5.7.1", text), Reply.of(550, "5.7.64", text)):
        assert meaning("exchange-online", reply) == meaning("exchange-online", replace(reply, lines=("x",)))


def test_a_long_reply_is_not_searched_for_each_recipient(monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[str] = []

    def unnamed(word: str) -> str:
        searched.append(word)
        return word

    monkeypatch.setattr("mailgate.relay.replies.back_ends._unnamed", unnamed)
    stand = Stand()
    stand.hop.answer = refuse_at_rcpt(stand, Reply(550, "5.7.1", ("b " * 160,) * 99))
    names = [f"u{number}" for number in range(100)]
    assert kinds(stand.send(stand.job(*names))) == dict.fromkeys(names, FAILED)
    assert 0 < len(searched) <= 1000


def test_every_preset_has_rules() -> None:
    for preset in get_args(Preset):
        assert meaning(preset, TENANT) == "connector"
