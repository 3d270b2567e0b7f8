"""`mailgate why`, on a real history and a real spool, with a daemon and without one."""

from __future__ import annotations

import json
import time
from typing import Any

import msgspec
import pytest

from mailgate.cli.common import trace_table, when
from mailgate.cli.story import tell
from mailgate.envelope import TraceStep
from mailgate.events import (
    AccountSuspected,
    Bounced,
    Deferred,
    Delivered,
    Discarded,
    EntrySetAside,
    FilterFailed,
    Judged,
    MessageAccepted,
    OperatorActed,
    Quarantined,
    Refused,
    Reported,
    Suppressed,
    Unsubscribed,
    Unsuppressed,
)
from mailgate.observe.history import History, Story
from mailgate.observe.render import to_stamp
from tests.unit.cli_machine import FIRST, SECOND, THIRD, Machine


def accepted(queue_id: str, at: float, **more: Any) -> MessageAccepted:
    return MessageAccepted(
        **{
            "at": at,
            "queue_id": queue_id,
            "session": "SESSION",
            "client": "unknown[192.0.2.1]",
            "listener": "mx",
            "helo": "client.test",
            "sender": "ann@client.test",
            "recipients": ("one@down.test",),
            "size": 2048,
            "message_id": "<first@client.test>",
            "trace": (
                TraceStep("connect", "access", "continue", seconds=0.0004),
                TraceStep("message", "scanner", "reject", "too\x1b]odd", 0.0012, enforced=False),
            ),
            **more,
        }
    )


def attempt(queue_id: str, at: float, **more: Any) -> dict[str, Any]:
    return {
        "at": at,
        "queue_id": queue_id,
        "sender": "ann@client.test",
        "recipient": "one@down.test",
        "route": "box",
        "host": "mx.test[192.0.2.9]:25",
        "reply": "451 4.3.0 later",
        "attempt": 1,
        "seconds": 0.25,
        **more,
    }


def test_why_tells_the_story_and_what_still_waits(gateway: Machine) -> None:
    now = time.time()
    gateway.tell(
        accepted(FIRST, now - 90),
        Deferred(**attempt(FIRST, now - 80), next_attempt=now + 220),
        FilterFailed(at=now - 70, filter="x", stage="message", error="boom", on_failure="defer", queue_id=FIRST),
    )
    for subject in (FIRST, "<first@client.test>", "one@down.test", "192.0.2.1", "SESSION"):
        lines = gateway.run("why", subject).stdout.splitlines()
        assert lines[0] == f"{FIRST}  from ann@client.test: two@other.test queued, one@down.test deferred"
        told = [line[2:].partition("  ")[2] if line[2:6].isdigit() else line.strip() for line in lines[1:]]
        assert told[:4] == [
            "accepted from unknown[192.0.2.1] (helo client.test) by listener mx",
            "from ann@client.test to one@down.test, 2.0 KiB, Message-ID <first@client.test>",
            "connect  access   continue       0.4 ms",
            "message  scanner  reject (shadow mode: not acted on)     1.2 ms  too\\x1b]odd",
        ]
        assert told[4:6] == [
            "deferred for one@down.test by route box, attempt 1 (0.250 s)",
            "mx.test[192.0.2.9]:25: 451 4.3.0 later",
        ]
        assert told[6].endswith(", 5m later")
        assert told[7:9] == ["filter x failed at message: boom", "instead of its verdict: defer"]
        assert told[9].startswith("still in the queue   one@down.test: queued, route box, 1 attempt, next attempt in ")
        assert told[10].startswith("still in the queue   two@other.test: ")


def judged(answer: str, **more: Any) -> Judged:
    return Judged(
        **{
            "at": time.time(),
            "queue_id": FIRST,
            "ident": "4XyZk1",
            "session": "S",
            "client": "unknown[192.0.2.1]",
            "listener": "postfix",
            "helo": "client.test",
            "sender": "ann@client.test",
            "recipients": ("one@here.test",),
            "size": 2048,
            "answer": answer,
            "trace": (TraceStep("message", "scanner", seconds=0.001),),
            **more,
        }
    )


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("continue", "left to the mail server in front, where it is 4XyZk1"),
        ("quarantine", "put into quarantine at the mail server in front, where it is 4XyZk1"),
        ("discard", "discarded at the mail server in front, where it is 4XyZk1"),
    ],
)
def test_why_tells_what_a_mail_server_was_told_by_its_own_id(machine: Machine, answer: str, text: str) -> None:
    machine.tell(judged(answer, reason="odd \x1b", changes=("a new field X-One", "another body")))
    for subject in ("4XyZk1", "4xyzk1", FIRST, "one@here.test"):
        told = machine.run("why", subject).stdout
        assert told.startswith(f"{FIRST}  from ann@client.test: one@here.test judged\n")
        assert text in told
        assert "unknown[192.0.2.1] (helo client.test) at postfix" in told
        assert "because: odd \\x1b" in told
        assert "to be changed: another body" in told
        assert "message  scanner  continue" in told


def test_why_finds_mail_by_the_id_that_the_system_in_front_has_for_it(machine: Machine) -> None:
    machine.tell(accepted(SECOND, time.time(), ident="9AbC"))
    assert "the system in front of us has it as 9AbC" in machine.run("why", "9AbC").stdout


def test_why_finds_mail_by_the_client_that_came_to_the_system_in_front(machine: Machine) -> None:
    machine.tell(accepted(FIRST, time.time(), origin="mx.client.test[198.51.100.7]", origin_helo="a\x1b"))
    told = machine.run("why", "198.51.100.7").stdout
    assert "the system in front of us has it from mx.client.test[198.51.100.7] (helo a\\x1b)" in told
    machine.tell(accepted(SECOND, time.time(), client="unknown[192.0.2.77]", origin="unknown[192.0.2.77]"))
    assert "in front of us" not in machine.run("why", "192.0.2.77").stdout


@pytest.mark.parametrize("reply", ["250 2.0.0 Ok: queued as 4XyZk1", "250 2.0.0 queued as 4XyZk1 (in a moment)"])
def test_why_finds_mail_by_the_id_that_the_next_hop_has_for_it(machine: Machine, reply: str) -> None:
    now = time.time()
    others = [accepted(SECOND, now), Delivered(**attempt(SECOND, now, reply="250 queued as "), delay=1.0)]
    machine.tell(accepted(FIRST, now), Delivered(**attempt(FIRST, now, reply=reply), delay=1.0), *others)
    lines = machine.run("why", "4xyzk1").stdout.splitlines()
    assert [line for line in lines if line and not line.startswith(" ")] == [
        f"{FIRST}  from ann@client.test: one@down.test delivered"
    ]


def test_why_tells_refusals(machine: Machine) -> None:
    refused = Refused(
        at=time.time(),
        session="S",
        client="unknown[192.0.2.1]",
        listener="mx",
        helo="client.test",
        stage="rcpt",
        filter="",
        reason="elsewhere.test is none of our domains",
        reply="550 5.7.1 Relaying denied",
        queue_id=FIRST,
        sender="ann@client.test",
        recipient="someone@elsewhere.test",
    )
    machine.tell(refused)
    text = machine.run("why", "someone@elsewhere.test").stdout
    assert text.startswith(f"{FIRST}  from ann@client.test: someone@elsewhere.test refused\n")
    assert "refused at rcpt by the gateway itself: someone@elsewhere.test" in text
    assert "the client was told: 550 5.7.1 Relaying denied" in text
    assert "because: elsewhere.test is none of our domains" in text


@pytest.mark.parametrize(
    ("stage", "more", "title"),
    [
        ("auth", {"user": "bob@client.test"}, "a login was refused"),
        ("tls", {}, "a handshake failed"),
        ("connect", {}, "a connection was refused"),
        ("mail", {}, "MAIL was refused"),
        ("xclient", {}, "XCLIENT was refused"),
        ("odd\x1b", {}, "ODD\\x1b was refused"),
    ],
)
def test_why_tells_what_was_refused_of_a_session(
    machine: Machine, stage: str, more: dict[str, Any], title: str
) -> None:
    refused = Refused(
        at=time.time(),
        session="S1",
        client="unknown[192.0.2.1]",
        listener="mx",
        helo="client.test",
        stage=stage,
        filter="",
        reason="because",
        reply="535 5.7.8 no",
        **more,
    )
    machine.tell(refused, refused)
    subject = more.get("user", "S1")
    text = machine.run("why", subject.upper()).stdout
    assert text.startswith(f"S1: {title}\n")
    assert ("as user bob@client.test" in text) == ("user" in more)


def test_why_tells_what_the_sender_asked_for(machine: Machine) -> None:
    machine.tell(accepted(FIRST, time.time(), asked=("priority 3 (MT-PRIORITY)", "odd\x1b")))
    lines = machine.run("why", FIRST).stdout.splitlines()
    assert lines[3:5] == ["      asked for: priority 3 (MT-PRIORITY)", "      asked for: odd\\x1b"]


def test_why_tells_how_those_fared_that_an_address_stands_for(machine: Machine) -> None:
    now = time.time()
    stands_for = "info@example.org: bob@example.org, c@far.test from S@x.org"
    info = {"recipients": ("info@example.org",), "aliases": (stands_for,)}
    machine.tell(accepted(FIRST, now - 90, **info))
    assert "info@example.org accepted" in machine.run("why", FIRST).stdout.splitlines()[0]
    machine.tell(Delivered(**attempt(FIRST, now - 80, recipient="bob@example.org"), delay=1.0))
    lines = machine.run("why", FIRST).stdout.splitlines()
    assert lines[0].endswith(": bob@example.org delivered")
    assert any(f"stands for others: {stands_for}" in one for one in lines)


def test_why_follows_a_split_by_any_of_its_ids(machine: Machine) -> None:
    now = time.time()
    split = accepted("SECOND", now - 90, recipients=("b@example.org",), split_from=FIRST, trace=())
    machine.tell(accepted(FIRST, now - 90, recipients=("a@example.org",)), split)
    for subject in (FIRST, "SECOND", "b@example.org"):
        lines = [line.strip() for line in machine.run("why", subject).stdout.splitlines()]
        assert f"{FIRST}  from ann@client.test: a@example.org accepted" in lines
        assert "SECOND  from ann@client.test: b@example.org accepted" in lines
        assert f"split from {FIRST}, as filters have changed it for some recipients only" in lines


def test_why_tells_every_end(machine: Machine) -> None:
    now = time.time()
    common: dict[str, Any] = {
        "at": now,
        "queue_id": FIRST,
        "sender": "ann@client.test",
        "recipients": ("two@x.test", "three@x.test"),
    }
    machine.tell(
        accepted(FIRST, now, sender="", recipients=tuple(f"u{number}@x.test" for number in range(25)), message_id=""),
        Delivered(**attempt(FIRST, now, reply="250 ok"), delay=3700.0, tls="TLSv1.3 TLS_AES_256_GCM_SHA384"),
        Bounced(**attempt(FIRST, now, recipient="four@x.test", host=""), reason="too old", report=SECOND),
        Bounced(**attempt(FIRST, now, recipient="five@x.test", route=""), reason=""),
        Discarded(**common, reason="a policy"),
        Quarantined(**common, reason="a virus"),
        OperatorActed(at=now, action="release", queue_id=FIRST, recipients=("two@x.test",)),
        EntrySetAside(at=now, queue_id=FIRST, where="/aside", reason="no envelope"),
    )
    text = machine.run("why", SECOND).stdout
    for part in (
        "from <> to u0@x.test",
        "u19@x.test and 5 more",
        "250 ok, 1h 1m after it came",
        "under TLSv1.3 TLS_AES_256_GCM_SHA384",
        "given up for four@x.test by route box, attempt 1",
        f"because: too old; report to the sender: {SECOND}",
        "no report is owed",
        "discarded for two@x.test, three@x.test",
        "because: a virus",
        "an administrator asked: release two@x.test",
        "it lies in /aside",
        "and 25 more",
    ):
        assert part in text, part


@pytest.mark.parametrize(
    ("before", "actions", "fate"),
    [
        ("deferred", ["delete"], "deleted"),
        ("deferred", ["hold"], "deferred"),
        ("deferred", ["hold", "release"], "deferred"),
        ("quarantined", ["release"], "released"),
        ("quarantined", ["release", "delete"], "deleted"),
        ("quarantined", ["retry"], "quarantined"),
    ],
)
def test_why_tells_first_what_an_administrator_did(
    machine: Machine, before: str, actions: list[str], fate: str
) -> None:
    now = time.time()
    machine.tell(
        accepted(FIRST, now - 90, recipients=("One@down.test", "two@down.test")),
        Deferred(**attempt(FIRST, now - 80, recipient="One@down.test"), next_attempt=now)
        if before == "deferred"
        else Quarantined(
            at=now - 80, queue_id=FIRST, sender="ann@client.test", recipients=("One@down.test",), reason="a virus"
        ),
        # As the queue tells of it: in lower case.
        *(OperatorActed(at=now, action=one, queue_id=FIRST, recipients=("one@down.test",)) for one in actions),
    )
    headline = machine.run("why", FIRST).stdout.splitlines()[0]
    assert headline == f"{FIRST}  from ann@client.test: One@down.test {fate}, two@down.test accepted"


@pytest.mark.parametrize(
    ("reason", "told"),
    [("", []), ("451 4.3.0 later", []), ("no host \x1b answers", ["      because: no host \\x1b answers"])],
)
def test_why_tells_why_an_attempt_failed(reason: str, told: list[str]) -> None:
    at, later = to_stamp(1000.0), to_stamp(1300.0)
    entry = attempt(FIRST, 0.0) | {"at": at, "event": "deferred", "next_attempt": later, "reason": reason}
    lines = list(tell(Story(FIRST, (entry,)), (), 1000.0))
    assert lines[2] == "      mx.test[192.0.2.9]:25: 451 4.3.0 later"
    assert lines[3:-1] == told
    assert "next attempt at" in lines[-1]


def test_an_attempt_tells_its_source_and_what_kind_of_failure_it_was(machine: Machine) -> None:
    now = time.time()
    fields = attempt(FIRST, now) | {"source": "we\x1bst"}
    machine.tell(
        Deferred(**fields, next_attempt=now + 60, category="greylisted"),
        Bounced(**fields, reason="", category="mailbox-full"),
        Delivered(**fields, delay=1.0),
    )
    lines = machine.run("why", FIRST).stdout.splitlines()
    assert [line.partition("from we")[2] for line in lines if "attempt 1" in line] == [
        "\\x1bst, attempt 1 (0.250 s): greylisted",
        "\\x1bst, attempt 1 (0.250 s): mailbox-full",
        "\\x1bst, attempt 1 (0.250 s)",
    ]


def test_a_report_tells_what_it_is_about_and_who_saw_it_when_it_failed(machine: Machine) -> None:
    now = time.time()
    report = attempt(SECOND, now) | {"sender": "", "recipient": "ann@client.test"}
    machine.tell(
        Bounced(**attempt(FIRST, now - 1), reason="", report=SECOND),
        Bounced(**report, reason="", report=THIRD, report_to="postmaster@gate.test"),
        Delivered(**(report | {"queue_id": THIRD, "recipient": "postmaster@gate.test"}), delay=1.0),
    )
    text = machine.run("why", SECOND).stdout
    assert f"\n  a report about {FIRST}\n" in text
    assert f"report to postmaster@gate.test: {THIRD}\n" in text
    assert f"report to the sender: {SECOND}\n" in text
    told = json.loads(machine.run("why", THIRD, "--json").stdout)
    assert {one["id"]: one["about"] for one in told} == {SECOND: FIRST, THIRD: SECOND}


@pytest.mark.parametrize(
    ("kind", "what"), [("delivered", "success"), ("delayed", "delay"), ("relayed", "relaying"), ("odd\x1b", "odd\\x1b")]
)
def test_why_tells_of_reports_to_the_sender(machine: Machine, kind: str, what: str) -> None:
    now = time.time()
    report = Reported(
        at=now, queue_id=FIRST, sender="ann@client.test", recipients=("one@down.test",), kind=kind, report=SECOND
    )
    machine.tell(accepted(FIRST, now - 90), report)
    text = machine.run("why", FIRST).stdout
    assert f"a report of {what} was sent to ann@client.test as {SECOND}, for one@down.test" in text
    # Whoever has the report finds the message that it is about.
    assert machine.run("why", SECOND).stdout == text


def test_steps_in_shadow_mode() -> None:
    verdicts = ("continue", "reject", "edit")
    steps = [msgspec.structs.asdict(TraceStep("rcpt", "x", verdict, enforced=False)) for verdict in verdicts]
    assert ["shadow" in line for line in trace_table(steps)] == [False, True, True]


def test_a_step_that_says_no_verdict_has_gone_on() -> None:
    step = {"stage": "rcpt", "filter": "x", "seconds": 0.25, "enforced": False}
    assert list(trace_table([step])) == ["rcpt     x  continue     250.0 ms"]


def test_what_was_found_is_told_once() -> None:
    step = {"stage": "message", "filter": "dmarc", "verdict": "reject", "found": "dmarc=fail policy=reject"}
    assert list(trace_table([step | {"reason": "dmarc=fail policy=reject"}])) == [
        "message  dmarc  reject         0.0 ms  dmarc=fail policy=reject"
    ]
    first, second = trace_table([step | {"reason": "not believed", "recipient": "bob@x.test"}])
    assert first == "message  dmarc  reject         0.0 ms  bob@x.test  not believed"
    assert second == f"{'':{first.index('bob')}}dmarc=fail policy=reject"


def test_a_terminal_gets_lines_that_fit() -> None:
    step = {"stage": "message", "filter": "dkim", "found": "dkim=pass header.d=example.org header.s=one; " * 3}
    lines = list(trace_table([step, step | {"recipient": "x" * 90}], 70))
    assert len(lines) > 6
    assert all(len(line) <= 70 for line in lines)
    assert " ".join(lines).count("header.s=one;") == 6
    # Where there is no room for a column, nothing is broken.
    assert len(list(trace_table([step], 40))) == 1


def test_what_a_peer_has_written_cannot_break_the_table() -> None:
    (line,) = trace_table([{"stage": "helo", "filter": "helo", "found": "helo=invalid x\r\n\x1b[2Jy"}])
    assert line.endswith(r"helo=invalid x\r\n\x1b[2Jy")


def test_why_nothing(machine: Machine) -> None:
    assert "may not be empty" in machine.run("why", "", code=2).stderr
    assert "is no text in UTF-8" in machine.run("why", "ann\udcff", code=2).stderr
    assert "Usage" in machine.run("why", FIRST, "--since", "", code=2).stderr


def test_why_with_limits(machine: Machine) -> None:
    now = time.time()
    for number in range(4):
        machine.tell(accepted(f"Q{number}", now - 1000 * (4 - number)))
    found = machine.run("why", "one@down.test", "--limit", "2")
    assert [line[:2] for line in found.stdout.splitlines() if line.startswith("Q")] == ["Q2", "Q3"]
    assert "There are older ones" in found.stderr
    found = machine.run("why", "one@down.test", "--since", "25m", "--json")
    assert [one["id"] for one in json.loads(found.stdout)] == ["Q3"]
    assert "Usage" in machine.run("why", "x", "--since", "soon", code=2).stderr


def test_why_knows_nothing(gateway: Machine) -> None:
    found = gateway.run("why", "never-seen@elsewhere.test", code=1)
    assert (found.stdout, found.stderr) == ("", "mailgate: nothing is known of never-seen@elsewhere.test\n")


@pytest.mark.parametrize("subject", [SECOND, "two@down.test"])
def test_why_without_a_history_asks_the_queue(gateway: Machine, subject: str) -> None:
    text = gateway.run("why", subject).stdout
    assert text.startswith(f"{SECOND}: two@down.test queued\n  still in the queue   two@down.test: queued")
    (story,) = json.loads(gateway.run("why", subject, "--json").stdout)
    assert (story["entries"], story["queue"][0]["recipient"]) == ([], "two@down.test")


def test_why_tells_the_gaps_of_the_history(machine: Machine) -> None:
    history = History(machine.places.history, keep=1e9, max_size=2**30)
    history.missed(7)
    history.close()
    (machine.places.history / "00000000000001.db").write_bytes(b"no database" * 100)
    error = machine.run("why", "x@y.test", code=1).stderr
    assert "7 events could not be written" in error
    assert "00000000000001.db cannot be read" in error


def test_why_tells_of_suppressions_and_accounts(machine: Machine) -> None:
    now = time.time()
    to_bob: dict[str, Any] = {"recipient": "Bob@example.net"}
    machine.tell(
        Suppressed(at=now - 9, **to_bob, scope="", reason="bounce", detail="550 no", queue_id=FIRST, until=now + 99),
        Unsubscribed(at=now - 8, **to_bob, sender="news@example.org", stream="news"),
        Unsubscribed(at=now - 7, **to_bob, sender="shop@example.org"),
        Suppressed(at=now - 6, **to_bob, scope="@example.org", reason="manual", by="token crm"),
        Unsuppressed(at=now - 5, **to_bob, scope="@example.org", reason="manual", by="token crm"),
        AccountSuspected(at=now - 4, user="Ann", signals=(), action="release", by="an administrator"),
    )
    text = machine.run("why", "BOB@example.net").stdout
    lines = [line[2:].partition("  ")[2] if line[2:6].isdigit() else line.strip() for line in text.splitlines()]
    assert lines == [
        f"{FIRST}",
        "Bob@example.net gets no more mail: bounce",
        "because: 550 no",
        f"until {when(now + 99)}",
        "",
        "bob@example.net",
        "Bob@example.net has unsubscribed, and gets no more mail of the stream news",
        "Bob@example.net has unsubscribed, and gets no more mail of shop@example.org",
        "Bob@example.net gets no more mail of @example.org: manual, says token crm",
        "Bob@example.net gets mail of @example.org again, says token crm",
        "it was suppressed because: manual",
        "",
    ]
    assert "the account Ann is not suspected any more, says an administrator" in machine.run("why", "ann").stdout
