"""`mailgate queue` for what is more than one entry at a time: giving up, other routes, suspensions, top."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from mailgate.address import NULL_PATH, Address
from mailgate.cli.entries import state_of
from mailgate.envelope import EnvelopeRecipient
from mailgate.events import (
    Bounced,
    BouncedBack,
    Complained,
    Deferred,
    Delivered,
    OperatorActed,
    Started,
    Stopping,
    SuspensionChanged,
)
from mailgate.interfaces import Outcome, OutcomeKind, Selector
from mailgate.mailauth import verify_dkim
from mailgate.observe.history import read_history
from mailgate.reply import Reply
from mailgate.testing import MemoryResolver, wait_for
from mailgate.web.models import Entry
from tests.unit.cli_machine import FIRST, SECOND, THIRD, DaemonThread, Machine
from tests.unit.dkim_parts import pem, rsa
from tests.unit.told_relay import site_view


@pytest.fixture
def daemon(machine: Machine) -> Iterator[DaemonThread]:
    machine.add_three()
    daemon = DaemonThread(machine)
    yield daemon
    daemon.stop()


# -- giving up and other routes


def test_bounce_asks_and_reports(gateway: Machine) -> None:
    refused = gateway.run("queue", "bounce", FIRST, code=1, given="n\n")
    assert "Give up 2 recipient(s) of 1 message(s)? Their senders get reports." in refused.stderr
    assert len(gateway.states()) == 4
    told = gateway.run("queue", "bounce", FIRST, "--because", "this company is closed", given="y\n").stdout
    assert told == "2 of 2 recipient(s) given up\n"
    entries = gateway.queued()
    assert {one["recipient"] for one in entries} == {"two@down.test", "three@down.test", "ann@client.test"}
    (report,) = [one["queue_id"] for one in entries if one["recipient"] == "ann@client.test"]
    text = gateway.run("queue", "show", report).stdout
    assert "from <>, sent by the gateway itself" in text
    assert "this company is closed" in text


def test_what_was_given_up_beside_a_stopped_gateway_is_in_its_history(machine: Machine) -> None:
    machine.add(FIRST, "one@down.test")
    machine.close()
    machine.run("queue", "bounce", FIRST, "--yes")
    (story,) = read_history(machine.places.history, FIRST).stories
    assert [one["event"] for one in story.entries] == ["bounced", "operator_acted"]
    text = machine.run("why", FIRST).stdout
    assert "one@down.test bounced" in text.splitlines()[0]
    assert "given up for one@down.test by route box, attempt 1" in text
    assert "550 5.0.0 Returned by the administrator" in text
    assert "an administrator asked: bounce one@down.test" in text


def test_the_null_sender_gets_no_report(gateway: Machine) -> None:
    gateway.run("queue", "bounce", THIRD, "--yes")
    assert THIRD not in {one["queue_id"] for one in gateway.queued()}
    assert len(gateway.queued()) == 3


def test_reports_of_what_is_given_up_are_not_given_up(gateway: Machine) -> None:
    told = gateway.run("queue", "bounce", "--all", "--yes").stdout
    assert told == "4 of 4 recipient(s) given up\n"
    assert {one["recipient"] for one in gateway.queued()} == {"ann@client.test"}
    assert len(gateway.queued()) == 2
    assert gateway.run("queue", "bounce", "--all", "--yes").stdout == "2 of 2 recipient(s) given up\n"


def test_bounce_needs_a_configuration_for_its_reports(machine: Machine) -> None:
    machine.add(FIRST, "one@down.test")
    machine.close()
    machine.file.write_text(machine.file.read_text().replace('"gate.test"', "7"))
    error = machine.run("queue", "bounce", FIRST, "--yes", code=1).stderr
    assert "gateway.hostname" in error
    assert machine.states() == {"one@down.test": "queued"}
    assert not machine.places.history.exists()


SIGNING = """
[filters.dkim-sign.domains."gate.test"]
keys = [{ selector = "s", path = "key.pem" }]
"""


def test_reports_beside_a_stopped_gateway_are_signed(machine: Machine) -> None:
    text = machine.file.read_text().replace("[gateway]\n", '[gateway]\nsign_with = "dkim-sign"\n')
    machine.file.write_text(text + SIGNING)
    (machine.file.parent / "key.pem").write_bytes(pem())
    machine.add(FIRST, "one@down.test")
    machine.close()
    machine.run("queue", "bounce", FIRST, "--yes")
    lease = machine.wait(machine.open().lease(10, time.time() + 600))[0]
    assert lease.envelope.sender == NULL_PATH
    zone = MemoryResolver({"s._domainkey.gate.test": {"TXT": [rsa().record]}})
    assert [one.result for one in wait_for(verify_dkim(zone, lease.content.read()))] == ["pass"]


def test_bounce_needs_the_key_for_its_reports(machine: Machine) -> None:
    text = machine.file.read_text().replace("[gateway]\n", '[gateway]\nsign_with = "dkim-sign"\n')
    machine.file.write_text(text + SIGNING)
    machine.add(FIRST, "one@down.test")
    machine.close()
    error = machine.run("queue", "bounce", FIRST, "--yes", code=1).stderr
    assert "gateway.sign_with" in error
    assert "key.pem: cannot be read" in error
    assert machine.states() == {"one@down.test": "queued"}


def test_what_a_policy_keeps_back_is_no_spam_for_others(machine: Machine) -> None:
    machine.add(
        FIRST, recipients=(EnvelopeRecipient(0, Address("two", "down.test"), "box", "a virus"),), deferred=False
    )
    machine.close()
    told = machine.run("queue", "bounce", FIRST, "--yes").stdout
    assert told == "0 of 1 recipient(s) given up; 1 is quarantined, and returned with --state quarantined only\n"
    assert machine.states() == {"two@down.test": "quarantined"}


def test_reroute(gateway: Machine) -> None:
    told = gateway.run("queue", "reroute", "--domain", "down.test", "--to", "other").stdout
    assert told == "3 of 3 recipient(s) rerouted\n"
    now = time.time()
    assert {one["recipient"]: (one["route"], one["next_attempt"] <= now) for one in gateway.queued()} == {
        "one@down.test": ("other", True),
        "two@other.test": ("box", False),
        "two@down.test": ("other", True),
        "three@down.test": ("other", True),
    }
    assert "there is no route nowhere" in gateway.run("queue", "reroute", FIRST, "--to", "nowhere", code=1).stderr


def test_reroute_is_in_the_story(machine: Machine) -> None:
    machine.add(FIRST, "one@down.test")
    machine.close()
    machine.run("queue", "reroute", FIRST, "--to", "other")
    text = machine.run("why", FIRST).stdout
    assert "an administrator asked: reroute one@down.test\n      to route: other\n" in text


def test_reroute_beside_a_file_that_says_no_routes(machine: Machine) -> None:
    machine.add(FIRST, "one@down.test")
    machine.close()
    machine.file.write_text('[gateway]\nstate_dir = "state"\nhostname = 7\n[routes.spare]\n')
    assert "there is no route box" in machine.run("queue", "reroute", FIRST, "--to", "box", code=1).stderr
    assert "1 of 1 recipient(s) rerouted" in machine.run("queue", "reroute", FIRST, "--to", "spare").stdout


def test_conditions_on_the_last_attempt(machine: Machine) -> None:
    machine.add_three()
    spool = machine.open()
    machine.wait(spool.retry(selector := Selector(queue_id=SECOND)))
    (lease,) = machine.wait(spool.lease_selected(selector, 10, time.time() + 600))
    outcome = Outcome(
        lease.recipients[0],
        OutcomeKind.DEFERRED,
        Reply.of(452, "4.2.2", "Mailbox full"),
        "mx1.down.test[192.0.2.9]:25",
        time.time() + 500,
        site="box:mx1.down.test",
        source="west",
        category="mailbox-full",
    )
    machine.wait(spool.record(lease, [outcome]))
    machine.close()
    for chosen in (
        ("--site", "mx1.down.test"),
        ("--source", "west"),
        ("--reason", "mailbox-full"),
        ("--reason", "FULL"),
    ):
        assert [one["queue_id"] for one in machine.queued(*chosen)] == [SECOND], chosen
    text = machine.run("queue", "show", SECOND).stdout
    assert "route box from west, 2 attempts, next attempt in 8m" in text
    assert ": deferred as mailbox-full\n    site: box:mx1.down.test\n" in text
    assert "    last reply: mx1.down.test[192.0.2.9]:25: 452 4.2.2 Mailbox full\n" in text
    last = machine.run("why", SECOND).stdout.rstrip().splitlines()[-1]
    assert ": deferred as mailbox-full (last reply: mx1.down.test" in last


@pytest.mark.parametrize(
    "arguments",
    [
        ("bounce", "--because", "x"),
        ("bounce", FIRST, "--because", "x" * 301),
        ("reroute", FIRST),
        ("reroute", "--to", "other"),
        ("reroute", FIRST, "--to", ""),
        ("suspend",),
        ("suspend", "--route", ""),
        ("suspend", "--route", "box", "--domain", "down.test"),
        ("suspend", "--route", "box", "--for", "2"),
        ("suspend", "--domain", "<>"),
        ("suspend", "--domain", "ann@down.test"),
        ("suspend", "--site", "mx 1"),
        ("suspend", "--sender", "nobody@"),
        ("suspend", "--route", "box", "--for", "0s"),
        ("resume",),
        ("resume", "--all", "--route", "box"),
        ("top", "--by", "colour"),
        ("top", "--watch", "0"),
        ("top", "--watch", "5", "--json"),
        ("top", FIRST),
        ("list", "--sender", "\udcff"),
    ],
)
def test_usage(gateway: Machine, arguments: tuple[str, ...]) -> None:
    assert "Usage" in gateway.run("queue", *arguments, code=2).stderr
    assert gateway.events.of(OperatorActed) + gateway.events.of(SuspensionChanged) + gateway.events.of(Bounced) == []


# -- suspensions


def test_suspend_list_and_resume(gateway: Machine) -> None:
    assert gateway.run("queue", "suspended").stdout == "Nothing is suspended.\n"
    told = gateway.run("queue", "suspend", "--route", "box", "--for", "2h", "--reason", "new\x1b line").stdout
    assert told.startswith("suspended since 20")
    assert ", for 2h, until 20" in told
    assert told.endswith(": route box (new\\x1b line); 4 recipient(s) in the queue\n")
    gateway.run("queue", "suspend", "--domain", "Other.TEST")
    lines = gateway.run("queue", "suspended").stdout.splitlines()
    assert sorted(line.rpartition(": ")[2] for line in lines) == [
        "domain other.test; 1 recipient(s) in the queue",
        "route box (new\\x1b line); 4 recipient(s) in the queue",
    ]
    assert sum(", until it is resumed: " in line for line in lines) == 1
    found = json.loads(gateway.run("queue", "suspended", "--json").stdout)
    assert sorted((one["kind"], one["name"], one["until"] > 0) for one in found) == [
        ("domain", "other.test", False),
        ("route", "box", True),
    ]
    text = gateway.run("queue", "list", FIRST).stdout
    assert re.search(r", suspended until 20\S+ \S+: route box \(new\\x1b line\)\n", text)
    assert "next attempt" not in text
    (entry,) = gateway.queued(SECOND)
    assert entry["next_attempt"] == entry["suspended_until"] > time.time() + 7000
    told = gateway.run("queue", "retry", "--all").stdout
    other = "1 is suspended: resume domain other.test first"
    assert told == f"0 of 4 recipient(s) due now; {other}; 3 are suspended: resume route box first\n"
    assert ", suspended until it is resumed: domain other.test\n" in gateway.run("queue", "show", FIRST).stdout
    top = gateway.run("queue", "top", "--by", "route").stdout.splitlines()
    assert sum(line.startswith("suspended since 20") for line in top) == 2
    assert [line.split()[-1] for line in top if line.startswith("box ")] == ["suspended"]
    top = gateway.run("queue", "top").stdout.splitlines()
    assert [line.endswith("  suspended") for line in top if ".test  " in line] == [False, True]
    assert gateway.run("queue", "resume", "--route", "box").stdout == "resumed: route box\n"
    assert gateway.run("queue", "resume", "--route", "box", code=1).stdout == "No route box is suspended.\n"
    assert gateway.run("queue", "resume", "--all").stdout == "resumed: domain other.test\n"
    assert gateway.run("queue", "resume", "--all").stdout == "Nothing is suspended.\n"
    assert "suspended" not in gateway.run("queue", "list").stdout


def test_a_route_that_is_none_is_not_suspended(gateway: Machine) -> None:
    assert "there is no route intrenet" in gateway.run("queue", "suspend", "--route", "intrenet", code=1).stderr
    assert json.loads(gateway.run("queue", "suspended", "--json").stdout) == []


def test_the_running_relay_is_told(machine: Machine, daemon: DaemonThread) -> None:
    machine.run("queue", "suspend", "--sender", "ann@client.test")
    machine.run("queue", "resume", "--sender", "Ann@client.test")
    assert daemon.relay.told == ["suspensions", "suspensions", "look"]
    assert [one.is_suspended for one in machine.events.of(SuspensionChanged)] == [True, False]


# -- top and sites


def test_top(gateway: Machine) -> None:
    gateway.run("queue", "hold", SECOND)
    lines = gateway.run("queue", "top").stdout.splitlines()
    assert lines[0].startswith(("The gateway runs, for ", "The gateway does not run."))
    outcomes = ["delivered", "deferred", "bounced", "complained"] if "runs, for" in lines[0] else []
    assert lines[2].split() == ["domain", "recipients", "due", "held", "oldest", *outcomes]
    assert [line.split()[:4] for line in lines[3:5]] == [["down.test", "3", "0", "1"], ["other.test", "1", "0", "0"]]
    assert lines[3].split()[4] == "1m"
    states = json.loads(gateway.run("queue", "top", "--by", "state", "--json").stdout)
    assert {one["key"]: one["recipients"] for one in states["groups"]} == {"queued": 3, "held": 1}
    assert states["by"] == "state"
    text = gateway.run("queue", "top", "--by", "sender", "--limit", "1", "--domain", "down.test").stdout
    assert ["ann@client.test", "2"] in [line.split()[:2] for line in text.splitlines()]
    assert "No entry fits --domain nowhere.test." in gateway.run("queue", "top", "--domain", "nowhere.test").stdout
    assert "No entry fits --older-than 1d2h." in gateway.run("queue", "top", "--older-than", "26h").stdout


ATTEMPT: dict[str, Any] = {
    "queue_id": FIRST,
    "sender": "ann@client.test",
    "route": "box",
    "host": "mx.test",
    "reply": "x",
    "attempt": 1,
    "seconds": 0.1,
}


def outcomes(machine: Machine, *arguments: str) -> dict[str, list[str]]:
    """The rows of the first table of `top`, without when the oldest has come."""
    lines = machine.run("queue", "top", *arguments).stdout.splitlines()
    start = next(number for number, line in enumerate(lines) if "recipients" in line)
    rows = [line.split() for line in lines[start + 1 :]]
    return {row[0]: row[1:] for row in rows[: next(n for n, row in enumerate(rows) if row[0] == "Outcomes")]}


def test_top_shows_what_became_of_mail(machine: Machine, daemon: DaemonThread) -> None:
    now = time.time()
    report: dict[str, Any] = {"at": now, "sender": "ann@client.test", "proof": "verp", "recipient": "x@well.test"}
    for _ in range(3):
        daemon.rates.observe(Delivered(**ATTEMPT, at=now, recipient="x@well.test", stream="news", delay=1.0))
    daemon.rates.observe(Deferred(**ATTEMPT, at=now, recipient="one@Down.test", next_attempt=now))
    daemon.rates.observe(Bounced(**ATTEMPT, at=now, recipient="x@well.test", stream="news", reason="x"))
    daemon.rates.observe(BouncedBack(**report, is_permanent=True, category="other", stream="news"))
    daemon.rates.observe(Complained(**report, stream="news"))
    well = ["-", "-", "-", "-", "3", "75%", "0", "2", "50%", "1", "33.3%"]
    found = outcomes(machine)
    assert list(found) == ["down.test", "other.test", "well.test"]
    assert found["down.test"][-5:] == ["0", "1", "100%", "0", "0"]
    assert found["other.test"][-4:] == ["0", "0", "0", "0"]
    assert found["well.test"] == well
    assert list(outcomes(machine, "--limit", "2")) == ["down.test", "other.test"]
    assert outcomes(machine, "--by", "stream")["news"] == well
    assert outcomes(machine, "--by", "stream")["(none)"][-5:] == ["0", "1", "100%", "0", "0"]
    assert outcomes(machine, "--by", "route", "--domain", "well.test")["box"][4:] == ["3", "75%", "0", "1", "25%", "-"]
    text = machine.run("queue", "top").stdout
    assert "\nOutcomes are those of the last " in text
    assert "began anew" not in text

    async def ask(question: str, argument: str) -> tuple[str, str]:
        return json.dumps([[now - 3000.0, []]]), ""

    daemon.all_rates._ask_others = ask
    text = machine.run("queue", "top").stdout
    assert re.search(
        r"\nOutcomes are those of the last 50m.* \(of a worker that began anew, those of the last \d", text
    )
    # What only the queue knows is not asked of the past.
    for arguments in (("--by", "sender"), ("--older-than", "1s"), ("--state", "queued")):
        assert "delivered" not in machine.run("queue", "top", *arguments).stdout
        assert json.loads(machine.run("queue", "top", *arguments, "--json").stdout)["rates"] is None
    told = json.loads(machine.run("queue", "top", "--by", "stream", "--json").stdout)["rates"]
    assert (told["by"], told["missing"]) == ("stream", "")
    assert told["rates"][0] == {
        "key": "news",
        "delivered": 3,
        "deferred": 0,
        "bounced": 1,
        "bounced_back": 1,
        "complained": 1,
    }


def test_top_tells_whose_numbers_are_missing_and_what_is_not_told_by_name(
    machine: Machine, daemon: DaemonThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailgate.web.rates.MOST_RATES", 1)
    for name in ("a", "a", "b"):
        daemon.rates.observe(
            Delivered(**ATTEMPT, at=time.time(), recipient=f"x@{name}.test", delay=1.0),
        )

    async def ask(question: str, argument: str) -> tuple[str, str]:
        return "[]", "worker 2: no answer\x1b"

    daemon.all_rates._ask_others = ask
    found = outcomes(machine)
    assert found["down.test"][-4:] == ["-", "-", "-", "-"]
    assert (found["a.test"][4], found["(other)"][4]) == ("2", "1")
    assert "; not all of them: worker 2: no answer\\x1b.\n" in machine.run("queue", "top").stdout


def test_top_of_an_empty_queue(gateway: Machine) -> None:
    gateway.run("queue", "delete", "--all", "--yes")
    assert "Nothing is in the queue.\n" in gateway.run("queue", "top").stdout


def test_top_shows_what_the_sites_do(machine: Machine, daemon: DaemonThread) -> None:
    daemon.relay.at_work += [
        site_view("mx1.down.test", waiting=12, backlog=True, state="rests\x1b for 40 s"),
        *(site_view(f"mx{number}.other.test", source="west") for number in range(2, 14)),
    ]
    lines = machine.run("queue", "top").stdout.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("site"))
    assert lines[start].split() == ["site", "route", "source", "waiting", "active", "connections", "state"]
    assert lines[start + 1].split() == (
        ["mx1.down.test", "internet", "-", "12+", "1", "1", "of", "20", "rests\\x1b", "for", "40", "s"]
    )
    assert lines[-1] == "and 3 more: mailgate queue sites"
    assert len(machine.run("queue", "sites").stdout.splitlines()) == 14
    assert len(json.loads(machine.run("queue", "sites", "--json").stdout)) == 13
    daemon.relay.at_work.clear()
    assert machine.run("queue", "sites").stdout == "The relay has nothing for any site now.\n"


def test_top_tells_since_when_the_gateway_stops(machine: Machine, daemon: DaemonThread) -> None:
    daemon.board.observe(Started(at=time.time() - 3600, listeners=("mx",)))
    assert machine.run("queue", "top").stdout.startswith("The gateway runs, for 1h now\n")
    daemon.board.observe(Stopping(at=time.time() - 90))
    assert machine.run("queue", "top").stdout.startswith("The gateway has been stopping for 1m 30s\n")


def test_top_shows_the_sites_of_what_is_chosen(machine: Machine) -> None:
    machine.add_three()
    spool = machine.open()
    (lease,) = machine.wait(spool.lease_selected(Selector(queue_id=SECOND), 1, time.time() + 60))
    outcome = Outcome(
        lease.recipients[0],
        OutcomeKind.DEFERRED,
        Reply.of(452, "4.2.2", "Mailbox full"),
        next_attempt=time.time() + 500,
        site="mx1.down.test",
        source="West",
    )
    machine.wait(spool.record(lease, [outcome]))
    daemon = DaemonThread(machine)
    held = site_view("mx2.down.test")
    daemon.relay.at_work += [site_view("mx1.down.test", route="other", source="West"), held, site_view("mx.else.test")]
    daemon.relay.holding += [held]

    def shown(*chosen: str) -> list[str]:
        return [one["site"] for one in json.loads(machine.run("queue", "top", "--json", *chosen).stdout)["sites"]]

    assert shown() == ["mx.else.test", "mx1.down.test", "mx2.down.test"]
    assert shown("--domain", "down.test") == ["mx1.down.test", "mx2.down.test"]
    assert shown("--domain", "down.test", "--older-than", "1s") == ["mx1.down.test"]
    assert shown("--route", "other") == ["mx1.down.test"]
    assert shown("--source", "wEST") == ["mx1.down.test"]
    assert shown("--site", "else") == ["mx.else.test"]
    assert [one["queue_id"] for one in machine.queued("--source", "WEST")] == [SECOND]
    text = machine.run("queue", "top", "--by", "source").stdout
    assert "\n(none, or not tried yet)" in text
    daemon.stop()


def test_no_site_is_at_work_in_a_stopped_gateway(machine: Machine) -> None:
    machine.add_three()
    machine.close()
    assert "the gateway does not run" in machine.run("queue", "sites", code=1).stderr
    assert json.loads(machine.run("queue", "sites", "--json", code=1).stdout) == []


def test_watch_goes_on_until_somebody_ends_it(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.add_three()
    machine.close()
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 1:
            machine.open()  # somebody else has it for a moment
        elif len(waited) == 2:
            machine.close()
        else:
            raise KeyboardInterrupt

    monkeypatch.setattr("mailgate.cli.queue.top.time.sleep", sleep)
    monkeypatch.setattr("mailgate.cli.desk._PATIENCE", 0.0)
    text = machine.run("queue", "top", "--watch", "5").stdout
    assert waited == [5.0, 5.0, 5.0]
    assert text.count("down.test") == 2
    assert text.count("mailgate: no daemon answers") == 1


def test_words_for_an_entry() -> None:
    entry = Entry(
        queue_id=FIRST,
        number=0,
        sender="",
        recipient="one@down.test",
        route="box\x1b",
        state="leased",
        size=1,
        received=0.0,
        attempts=0,
        next_attempt=900.0,
        last_reply="",
        waits="2nd\x1b of 3",
    )
    assert state_of(entry, 100.0) == "leased, route box\\x1b, not tried yet: 2nd\\x1b of 3"
