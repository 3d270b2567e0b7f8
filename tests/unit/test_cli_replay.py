"""`mailgate replay`: two policies beside each other, over files and over what a gateway has."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock

from mailgate.address import Address
from mailgate.cli.main import main
from mailgate.envelope import EnvelopeRecipient, Kept, Origin
from mailgate.message import Content
from mailgate.quarantine.originals import Originals
from tests.unit.cli_machine import DATA, FIRST, SECOND, THIRD, Machine

CONFIG = """\
[gateway]
hostname = "mail.example.org"
state_dir = "state"

[[listeners]]
name = "mx"
endpoints = ["tcp:2525"]
pipeline = "inbound"
max_message_size = "64KiB"

[[listeners]]
name = "submission"
role = "outbound"
endpoints = ["tcp:2587"]
trusted_networks = ["10.0.0.0/8"]
pipeline = "outbound"

[domains."box.test"]
route = "box"
recipients = "people"

[recipients.people]
kind = "list"
addresses = ["bob@box.test", "cy@box.test"]

[routes.box]
transport = "discard"

[routes.other]
transport = "discard"

[routing]
default = "other"

[pipelines.inbound]
filters = ["access", "recipients"]

[pipelines.outbound]
filters = []

[filters.access]
rules = ["deny client 198.51.100.0/24"]
"""

GREYLISTED = CONFIG.replace('["access", "recipients"]', '["recipients", "greylist", "headers"]')


def at_once(body: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
    """What `react` does, for work that waits for nothing."""
    done: list[object] = []
    Deferred.fromCoroutine(body(MemoryReactorClock())).addBoth(done.append)
    assert done == [None]
    raise SystemExit(0)


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["replay", *map(str, arguments)], obj=at_once)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


class Site:
    """Two configurations and a Maildir."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file, self.other = folder / "old.toml", folder / "new.toml"
        self.file.write_text(CONFIG)
        self.other.write_text(CONFIG.replace("198.51.100.0/24", "192.0.2.0/24"))
        self.mails = folder / "mails"
        self.mails.mkdir()

    def add(self, number: int, client: str = "203.0.113.1", to: str = "bob@box.test", *fields: str) -> None:
        lines = [
            *("Return-Path: <ann@far.test>", f"X-Original-To: {to}", *fields),
            f"Received: from far.test (far.test [{client}]) by old; Thu, 26 Nov 2026 10:00:{number:02} +0000",
            *("From: ann@far.test", f"Subject: number {number}", "", "text"),
        ]
        (self.mails / f"{number}.eml").write_text("\n".join(lines))

    def compared(self, *more: object, code: int = 0) -> dict[str, Any]:
        arguments = ("--config", self.file, "--against", self.other, "--json", self.mails, *more)
        return dict(json.loads(run(*arguments, code=code).stdout))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_where_two_policies_differ(site: Site) -> None:
    site.add(3, "192.0.2.7")
    site.add(1)
    site.add(2, "198.51.100.7", "cy@box.test")
    site.add(4, to="nobody@box.test")
    found = site.compared(code=1)
    assert (found["mails"], found["recipients"], found["differing"], found["left_out"]) == (4, 4, 2, 0)
    assert {(one["was"], one["now"]): one["recipients"] for one in found["table"]} == {
        ("taken", "taken"): 1,
        ("taken", "refused"): 1,
        ("refused", "taken"): 1,
        ("refused", "refused"): 1,
    }
    assert found["filters"] == {"access": 2}
    # What somebody will miss comes first.
    second, first = found["differences"]
    assert [one["kind"] for one in found["differences"]] == ["not taken any more", "taken now"]
    assert (first["subject"], first["recipient"], first["client"]) == (
        *("number 2", "cy@box.test"),
        "far.test[198.51.100.7]",
    )
    assert (first["was"]["by"], first["was"]["outcome"], first["now"]["outcome"]) == ("access", "refused", "taken")
    assert (second["was"]["route"], second["now"]["reply"]) == ("box", "550 5.7.1 Refused by policy")
    assert not (site.folder / "state").exists()


def test_the_same_policy_differs_in_nothing(site: Site) -> None:
    site.add(1)
    site.other.write_text(CONFIG)
    assert site.compared()["differing"] == 0
    text = run("--config", site.file, "--against", site.other, site.mails).stdout
    assert text.splitlines()[1:] == ["       1  taken > taken", "No recipient differs."]


def test_in_words(site: Site) -> None:
    site.add(1, "192.0.2.7", "bob@box.test")
    site.add(2, "192.0.2.8", "bob@box.test")
    text = run("--config", site.file, "--against", site.other, site.mails, "--show", 1, code=1).stdout
    assert "2 recipients differ, by: access 2" in text
    assert 'now: refused by access: far.test[192.0.2.7] matches "deny client 192.0.2.0/24"' in text
    assert "192.0.2.8" not in text
    assert "1 more differ; --show says how many are told." in text


def test_another_route_is_a_difference(site: Site) -> None:
    site.add(1)
    site.other.write_text(CONFIG.replace('route = "box"', 'route = "other"'))
    (one,) = site.compared(code=1)["differences"]
    assert (one["was"]["route"], one["now"]["route"], one["now"]["outcome"]) == ("box", "other", "taken")


def test_behind_greylisting_the_rest_is_judged(site: Site) -> None:
    site.add(1)
    site.add(2, to="nobody@box.test")
    path = site.mails / "1.eml"
    path.write_text(path.read_text().replace("Subject", "Received: x\n" * 11 + "Subject"))
    site.file.write_text(GREYLISTED)
    site.other.write_text(f"{GREYLISTED}\n[filters.headers]\nmax_received = 10\n")
    found = site.compared(code=1)
    assert {(one["was"], one["now"]): one["recipients"] for one in found["table"]} == {
        ("deferred, then taken", "deferred, then refused"): 1,
        ("refused", "refused"): 1,
    }
    assert found["filters"] == {"headers": 1}
    (one,) = found["differences"]
    assert (one["was"]["by"], one["now"]["reason"]) == ("greylist", "11 Received fields, more than 10")


@pytest.mark.parametrize(
    ("window", "expected"), [("1s", {"taken": 5}), ("1m", {"taken": 2, "deferred, then taken": 3})]
)
def test_those_who_count_are_told_when_a_mail_came(site: Site, window: str, expected: dict[str, int]) -> None:
    rules = f'rules = [{{ count = "messages", limit = 2, window = "{window}" }}]'
    filters = CONFIG.replace('["access", "recipients"]', '["rate-limit", "recipients"]')
    site.other.write_text(f"{filters}\n[filters.rate-limit]\n{rules}\n")
    for number in range(0, 10, 2):
        site.add(number)
    found = site.compared()
    assert {one["now"]: one["recipients"] for one in found["table"]} == expected
    assert found["differing"] == 0  # it is taken in the end


def test_without_another_policy_mail_is_compared_with_what_became_of_it(site: Site) -> None:
    site.add(1)
    site.add(2, "198.51.100.1")
    site.add(3, "203.0.113.1", "bob@box.test", "X-Spam-Flag: YES")
    found = json.loads(run("--config", site.file, "--json", site.mails, code=1).stdout)
    assert found["was"] == "what became of it"
    assert {(one["was"], one["now"]): one["recipients"] for one in found["table"]} == {
        ("taken", "taken"): 1,
        ("taken", "refused"): 1,
        ("quarantined", "taken"): 1,
    }
    # Nobody objects now, and who did then is not known.
    assert found["filters"] == {"access": 1, "mailgate": 1}


def test_mail_from_inside_comes_to_the_listener_that_would_have_taken_it(site: Site) -> None:
    site.add(1, "10.0.0.9", "x@elsewhere.test")
    assert site.compared()["table"] == [{"was": "taken", "now": "taken", "recipients": 1}]
    assert site.compared("--listener", "mx")["table"] == [{"was": "refused", "now": "refused", "recipients": 1}]
    found = site.compared("--listener", "none", code=1)
    assert found["reasons"] == [{"name": f"{site.mails}/1.eml", "reason": "no listener is called none"}]


def test_since_and_limit(site: Site) -> None:
    for number in range(4):
        site.add(number)
    found = site.compared("--limit", 3)
    assert (found["mails"], found["left_out"]) == (3, 1)
    assert found["reasons"] == [{"name": "1 older mails", "reason": "more than --limit 3"}]
    assert run("--config", site.file, site.mails, "--since", "1s", code=1).stderr == "mailgate: no mail was judged\n"


def test_a_mail_that_is_too_large_is_refused_as_it_would_be(site: Site) -> None:
    site.add(1)
    path = site.mails / "1.eml"
    path.write_text(path.read_text() + "x\n" * 35_000)
    site.other.write_text(CONFIG.replace("64KiB", "1MiB"))
    (one,) = site.compared(code=1)["differences"]
    assert (one["was"]["reply"][:9], one["was"]["by"], one["now"]["outcome"]) == ("552 5.3.4", "mailgate", "taken")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--inside", "here"),
        ("--to", "nobody"),
        ("--tagged", "X-Spam"),
        ("--since", "long ago"),
        ("--limit", "0"),
        ("/no/such/path",),
    ],
)
def test_usage(site: Site, arguments: tuple[str, ...]) -> None:
    assert "Error: " in run("--config", site.file, *arguments, code=2).stderr


def test_a_policy_that_cannot_be_used(site: Site) -> None:
    site.other.write_text(CONFIG.replace('"recipients"]', '"what"]'))
    error = run("--config", site.file, "--against", site.other, site.mails, code=1).stderr
    assert error.startswith(f"{site.other}:")
    assert "what" in error


# -- what a gateway has


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    one = Machine(tmp_path)
    one.file.write_text(CONFIG)
    yield one
    one.close()


ORIGIN = Origin(address="192.0.2.7", name="far.test", helo="far.test", protocol="ESMTP")


def against(machine: Machine) -> Path:
    path = machine.file.parent / "elsewhere" / "new.toml"
    path.parent.mkdir()
    path.write_text(CONFIG.replace("198.51.100.0/24", "192.0.2.0/24"))
    return path


def test_what_is_in_quarantine_and_in_the_queue_beside_its_gateway(machine: Machine) -> None:
    kept = EnvelopeRecipient(0, Address("bob", "box.test"), "box", quarantine="looks odd")
    also = EnvelopeRecipient(1, Address("cy", "box.test"), "box")
    machine.add(FIRST, listener="mx", origin=ORIGIN, recipients=(kept, also), kept=Kept(), deferred=False)
    machine.add(SECOND, "bob@box.test", listener="mx", origin=ORIGIN)
    machine.add(THIRD, "ann@far.test")  # a report of ours
    # The spool is open all the while, as a daemon has it.
    arguments = ("--config", machine.file, "--against", against(machine), "--json")
    found = json.loads(run(*arguments, code=1).stdout)
    assert (found["mails"], found["recipients"]) == (2, 3)
    assert found["table"] == [{"was": "taken", "now": "refused", "recipients": 3}]
    assert [one["name"] for one in found["differences"]] == [FIRST, FIRST, SECOND]
    assert found["reasons"] == [{"name": THIRD, "reason": "it is mail of the gateway's own"}]
    only = json.loads(run(*arguments, "--quarantine", code=1).stdout)
    assert [(one["name"], one["recipient"]) for one in only["differences"]] == [(FIRST, "bob@box.test")]
    waiting = json.loads(run(*arguments, "--queue", code=1).stdout)
    assert [(one["name"], one["recipient"]) for one in waiting["differences"]] == [
        (FIRST, "cy@box.test"),
        (SECOND, "bob@box.test"),
    ]


def test_what_was_kept_back_and_would_be_taken_now(machine: Machine) -> None:
    kept = EnvelopeRecipient(0, Address("bob", "box.test"), "box", quarantine="looks odd")
    machine.add(FIRST, listener="mx", origin=ORIGIN, recipients=(kept,), kept=Kept(), deferred=False)
    found = json.loads(run("--config", machine.file, "--quarantine", "--json", code=1).stdout)
    assert found["table"] == [{"was": "quarantined", "now": "taken", "recipients": 1}]


def test_the_original_is_judged_where_filters_have_changed_the_content(machine: Machine) -> None:
    original = Content(b"Subject: as it came\r\n\r\n" + b"x" * 998 + b"y\r\n")  # a line that no session takes
    done: list[object] = []
    kept = EnvelopeRecipient(0, Address("bob", "box.test"), "box", quarantine="looks odd")
    machine.add(FIRST, listener="mx", origin=ORIGIN, recipients=(kept,), kept=Kept(has_original=True), deferred=False)
    Deferred.fromCoroutine(Originals(machine.places.originals).keep(FIRST, original)).addBoth(done.append)
    assert done == [None]
    found = json.loads(run("--config", machine.file, "--json", code=1).stdout)
    (one,) = found["differences"]
    assert (one["subject"], one["now"]["outcome"]) == ("as it came", "refused")
    (machine.places.originals / FIRST).unlink()
    assert "No such file" in json.loads(run("--config", machine.file, "--json", code=1).stdout)["reasons"][0]["reason"]
    assert DATA  # what the filters had made of it is judged by nobody


def test_where_no_gateway_has_run(site: Site) -> None:
    assert "has not run" in run("--config", site.file, code=1).stderr
    (site.folder / "state").mkdir()
    assert "there is no spool" in run("--config", site.file, code=1).stderr


# -- what another gateway has refused


def test_what_postfix_has_refused_and_this_gateway_would(site: Site) -> None:
    line = (
        "2026-11-26T11:00:0{}+00:00 mx postfix/smtpd[1]: NOQUEUE: reject: RCPT from far.test[{}]: {} x; y;"
        " from=<ann@far.test> to=<{}> proto=ESMTP helo=<far.test>\n"
    )
    log = site.folder / "mail.log"
    log.write_text(
        line.format(1, "198.51.100.1", "554 5.7.1", "bob@box.test")
        + line.format(2, "203.0.113.1", "450 4.7.1", "bob@box.test")
        + line.format(3, "203.0.113.1", "550 5.1.1", "nobody@box.test")
        + line.format(4, "203.0.113.1", "550 5.7.1", "bob@box.test")
        + line.format(5, "203.0.113.1", "550 5.7.1", "b ob@box.test")
    )
    found = json.loads(run("--config", site.file, "--log", log, "--json", code=1).stdout)
    assert {(one["was"], one["now"]): one["recipients"] for one in found["table"]} == {
        ("refused", "refused"): 2,
        ("refused", "open"): 1,
        ("deferred", "open"): 1,
    }
    assert [one["name"] for one in found["reasons"]] == [f"{log}:5"]
    compared = ("--config", site.file, "--against", site.other, "--log", log, "--json")
    assert json.loads(run(*compared, code=1).stdout)["differing"] == 1
    # The newest line is the one that cannot be read.
    assert "no mail was judged" in run(*compared, "--limit", 1, code=1).stderr
