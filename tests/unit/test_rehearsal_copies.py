"""Copies of mail that another gateway handles: judged as they had come to that one, and nothing more is done."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from twisted.internet.defer import Deferred
from zope.interface import implementer

from mailgate.awaiting import at_once
from mailgate.cli.main import main
from mailgate.config.load import ConfigError
from mailgate.config.section import Section
from mailgate.envelope import Session
from mailgate.events import Event, SessionClosed
from mailgate.interfaces import FilterServices, IConnectFilter, IEventObserver, IFilterFactory
from mailgate.rehearsal.compare import Account, Pair, Side
from mailgate.rehearsal.store import AccountFile, Accounts, read_accounts
from mailgate.testing import wait_for
from mailgate.testing.gateway import MemoryClient, MemoryGateway
from tests.unit.config_file import load_text

CONFIG = """\
[gateway]
hostname = "new.box.test"
state_dir = "state"

[[listeners]]
name = "copies"
role = "hybrid"
endpoints = ["tcp:2525"]
xforward_from = ["192.0.2.50"]
xclient_from = ["192.0.2.51"]
trusted_networks = ["10.0.0.0/8"]
pipeline = "inbound"
trusted_pipeline = "outbound"
rehearse = true

[rehearsal]
copies_from = ["192.0.2.48/29"]

[domains."box.test"]
route = "box"
recipients = "people"

[recipients.people]
kind = "list"
addresses = ["bob@box.test", "cy@box.test"]

[routes.box]
transport = "discard"

[routing]
default = "box"

[pipelines.inbound]
filters = ["access", "recipients", "headers"]

[pipelines.outbound]
filters = []

[filters.access]
rules = ["deny client 198.51.100.0/24"]
"""

OLD, XCLIENT = "192.0.2.50", "192.0.2.51"
XFORWARD = "XFORWARD NAME=far.test ADDR={address} PROTO=ESMTP HELO=mx.x.test IDENT=4Qx SOURCE=REMOTE"


class Stand:
    """A gateway that takes copies, and the other one that brings them."""

    def __init__(self, folder: Path, config: str = CONFIG, filters: Sequence[IFilterFactory] = ()) -> None:
        self.file = folder / "mailgate.toml"
        self.file.write_text(config)
        self.gateway = MemoryGateway(self.file, filters=filters)

    def say(self, peer: MemoryClient, line: str) -> str:
        peer.send(line.encode() + b"\r\n")
        return peer.said()[-1]

    def connect(self, address: str = OLD) -> MemoryClient:
        peer = self.gateway.connect(address)
        assert peer.said()[0].startswith("220")
        self.say(peer, "EHLO old.box.test")
        return peer

    def copy(
        self, *recipients: str, client: str = "203.0.113.9", fields: str = "", peer: MemoryClient | None = None
    ) -> str:
        """Bring a copy as the other gateway does; its last answer."""
        peer = peer or self.connect()
        assert self.say(peer, "MAIL FROM:<ann@far.test>").startswith("250")
        for one in recipients:
            assert self.say(peer, f"RCPT TO:<{one}>").startswith("250")
        assert self.say(peer, "DATA").startswith("354")
        trace = (
            "Received: from localhost (localhost [127.0.0.1]) by old.box.test; x\r\n"
            f"Received: from mx.far.test (far.test [{client}]) by old.box.test (Postfix) with ESMTP id 4Qy\r\n"
            "\tfor <cy@box.test>; Thu, 26 Nov 2026 10:00:00 +0000 (UTC)\r\n"
        )
        return self.say(peer, f"{trace}{fields}From: ann@far.test\r\nSubject: hello\r\n\r\ntext\r\n.")

    def accounts(self) -> list[Account]:
        return list(read_accounts(self.gateway.rehearsed.path, 0.0))

    def only(self) -> Account:
        (account,) = self.accounts()
        return account

    def report(self, *arguments: str, code: int = 0) -> Result:
        result = CliRunner().invoke(main, ["rehearsal", "report", *arguments, "--config", str(self.file)])
        assert result.exit_code == code, result.output
        return result


@pytest.fixture
def stand(tmp_path: Path) -> Stand:
    return Stand(tmp_path)


def outcomes(account: Account) -> list[tuple[str, str, str]]:
    return [(pair.recipient, pair.was.words, pair.now.words) for pair in account.pairs]


def test_a_copy_is_judged_as_it_had_come_to_the_other_gateway(stand: Stand) -> None:
    assert stand.copy("bob@box.test.rehearsal.invalid", "who@box.test.rehearsal.invalid") == "250 2.0.0 Copy judged"
    account = stand.only()
    assert outcomes(account) == [("bob@box.test", "taken", "taken"), ("who@box.test", "taken", "refused")]
    assert (account.client, account.helo) == ("far.test[203.0.113.9]", "mx.far.test")
    assert (account.sender, account.subject, account.name) == ("ann@far.test", "hello", "4Qy")
    assert (account.received, account.failed, account.assumed) == (1795687200.0, (), ())
    # Nothing is taken, and nobody has heard of anything but the session.
    assert stand.gateway.leases == []
    assert {type(one).__name__ for one in stand.gateway.events} <= {"SessionClosed"}


@pytest.mark.parametrize(
    ("recipients", "expected", "assumed"),
    [
        (("all@copies.invalid",), ["cy@box.test"], ()),
        (("bob@box.test",), ["bob@box.test"], ()),
        (("all@copies.invalid", "bob@box.test"), ["bob@box.test"], ()),
        (("bob@box.test.rehearsal.invalid", "bob@box.test"), ["bob@box.test"], ()),
        (("x@else.test.rehearsal.invalid",), ["x@else.test"], ()),
    ],
)
def test_for_whom_it_was(stand: Stand, recipients: tuple[str, ...], expected: list[str], assumed: object) -> None:
    stand.copy(*recipients)
    account = stand.only()
    assert [pair.recipient for pair in account.pairs] == expected
    assert account.assumed == assumed


def test_what_xforward_tells_counts_more_than_fields(stand: Stand) -> None:
    peer = stand.connect()
    assert stand.say(peer, XFORWARD.format(address="198.51.100.7")).startswith("250")
    stand.copy("bob@box.test", peer=peer)
    account = stand.only()
    assert outcomes(account) == [("bob@box.test", "taken", "refused")]
    assert (account.client, account.helo, account.name) == ("far.test[198.51.100.7]", "mx.x.test", "4Qx")
    assert account.pairs[0].now.by == "access"


def test_fields_of_the_sender_make_nobody_known(stand: Stand) -> None:
    peer = stand.connect()
    stand.say(peer, XFORWARD.format(address="198.51.100.7").replace("HELO=mx.x.test ", "").replace("IDENT=4Qx ", ""))
    forged = (
        "Received: from a (b [10.0.0.9])\r\n\t(Authenticated sender: boss) by c id 7;"
        " Thu, 26 Nov 2026 10:00:00 +0000\r\n"
    )
    stand.copy("x@else.test.rehearsal.invalid", fields=forged, peer=peer)
    account = stand.only()
    assert outcomes(account) == [("x@else.test", "taken", "refused")]
    assert (account.client, account.helo) == ("far.test[198.51.100.7]", "")
    assert account.name != "7"


def test_what_xclient_tells_counts_too(stand: Stand) -> None:
    peer = stand.connect(XCLIENT)
    assert stand.say(peer, "XCLIENT NAME=y.test ADDR=198.51.100.8").startswith("220")
    stand.say(peer, "EHLO mx.y.test")
    stand.copy("bob@box.test", peer=peer)
    assert (stand.only().client, stand.only().helo) == ("y.test[198.51.100.8]", "mx.y.test")
    assert stand.only().pairs[0].now.outcome == "refused"


def test_what_a_client_has_written_is_judged_and_what_the_other_gateway_has_not(stand: Stand) -> None:
    many = "Received: x\r\n" * 99
    assert stand.copy("bob@box.test", fields=many).startswith("250")
    assert stand.copy("bob@box.test", fields=many + "Received: y\r\n" * 2).startswith("250")
    # Both Received fields of the other gateway are not counted: 99 are no loop, and 101 are one.
    assert [one.pairs[0].now.outcome for one in stand.accounts()] == ["taken", "refused"]


def test_a_large_copy_lies_in_a_file(tmp_path: Path) -> None:
    stand = Stand(tmp_path, CONFIG.replace('state_dir = "state"', 'state_dir = "state"\nmemory_limit = "4KiB"'))
    stand.copy("bob@box.test", fields="Received: x\r\n" * 99 + "X-A: b\r\n" * 1000)
    stand.copy("bob@box.test", fields="Received: x\r\n" * 101 + "X-A: b\r\n" * 1000)
    assert [one.pairs[0].now.outcome for one in stand.accounts()] == ["taken", "refused"]
    assert list((tmp_path / "state" / "incoming").iterdir()) == []


def test_mail_of_those_who_may_relay_takes_their_pipeline(stand: Stand) -> None:
    stand.copy("x@else.test.rehearsal.invalid", client="10.0.0.9")
    stand.copy("x@else.test.rehearsal.invalid")
    assert [one.pairs[0].now.outcome for one in stand.accounts()] == ["taken", "refused"]


def test_what_the_other_gateway_has_marked(stand: Stand) -> None:
    stand.copy("bob@box.test", fields="X-Spam-Flag: YES\r\n")
    assert outcomes(stand.only()) == [("bob@box.test", "quarantined", "taken")]


def test_nobody_else_may_bring_anything(stand: Stand) -> None:
    peer = stand.gateway.connect("203.0.113.66")
    assert peer.said() == ["421 4.7.1 Copies only are taken here, and not from you"]
    assert peer.is_closed
    assert not stand.gateway.rehearsed.path.exists()


def test_whatever_is_wrong_with_us_the_other_gateway_keeps_no_copy(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: object, **__: object) -> object:
        raise RuntimeError("a bug of ours")

    monkeypatch.setattr("mailgate.rehearsal.judging.rehearse", breaks)
    assert stand.copy("bob@box.test").startswith("250")
    assert not stand.gateway.rehearsed.path.exists()
    monkeypatch.undo()
    stand.gateway.rehearsed.path.mkdir()  # and a disk that takes nothing
    assert stand.copy("bob@box.test").startswith("250")
    stand.gateway.rehearsed.path.rmdir()
    assert stand.copy("bob@box.test").startswith("250")
    assert len(stand.accounts()) == 1


def test_a_copy_that_is_too_large_for_the_listener_is_judged_so(tmp_path: Path) -> None:
    small = CONFIG.replace("rehearse = true", 'rehearse = true\nmax_message_size = "64KiB"')
    stand = Stand(tmp_path, small)
    peer = stand.connect()
    assert stand.say(peer, "MAIL FROM:<ann@far.test> SIZE=1000000000").startswith("250")
    body = "\r\n" + "many words\r\n" * 10_000
    assert stand.copy("bob@box.test", fields=f"From: ann@far.test\r\n{body}") == "250 2.0.0 Copy judged"
    assert stand.only().pairs[0].now.reason == "max_message_size of the listener is 65536"


def test_filters_count_copies_apart(tmp_path: Path) -> None:
    rules = '[filters.rate-limit]\nrules = [{ count = "messages", limit = 1, window = "1h" }]\n'
    real = '[[listeners]]\nname = "mx"\nendpoints = ["tcp:2526"]\npipeline = "inbound"\n\n[rehearsal]'
    text = CONFIG.replace('["access",', '["rate-limit", "access",').replace("[rehearsal]", real)
    stand = Stand(tmp_path, f"{text}\n{rules}")
    for _ in range(3):
        stand.copy("bob@box.test")
    assert [one.pairs[0].now.words for one in stand.accounts()] == ["taken", *["deferred, then taken"] * 2]
    peer = stand.gateway.connect("203.0.113.9", "mx")
    stand.say(peer, "EHLO mx.far.test")
    assert stand.copy("bob@box.test", peer=peer).startswith("250 2.0.0")
    assert len(stand.gateway.leases) == 1


@implementer(IConnectFilter, IEventObserver)
class Holding:
    """Holds something for each session until that is over, as a milter's conversation is held; knows all events."""

    def __init__(self) -> None:
        self.held: set[str] = set()
        self.seen: list[str] = []
        self.most = 0

    def on_connect(self, session: Session) -> None:
        self.held.add(session.id)
        self.most = max(self.most, len(self.held))

    def observe(self, event: Event) -> None:
        self.seen.append(type(event).__name__)
        if isinstance(event, SessionClosed):
            self.held.discard(event.session)


@implementer(IFilterFactory)
class HoldingFactory:
    name = "holding"
    summary = "for a test"
    options = Section

    def __init__(self) -> None:
        self.built: list[Holding] = []

    def build(self, options: object, services: FilterServices) -> Holding:
        self.built.append(Holding())
        return self.built[-1]


def test_filters_hold_nothing_for_copies_that_are_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    factory = HoldingFactory()
    stand = Stand(tmp_path, CONFIG.replace('["access",', '["holding", "access",'), [factory])
    for _ in range(3):
        stand.copy("bob@box.test")
    real, own = factory.built
    assert (own.held, own.most, own.seen) == (set(), 1, ["SessionClosed"] * 3)
    assert real.most == 0
    # Also where judging fails.
    monkeypatch.setattr("mailgate.rehearsal.play._fate", None)
    stand.copy("bob@box.test")
    assert own.held == set()


# -- what is kept, and told


def test_the_report(stand: Stand) -> None:
    assert "no copy has come" in stand.report(code=2).stderr
    stand.copy("bob@box.test")
    assert "No recipient differs." in stand.report().stdout
    stand.copy("bob@box.test", client="198.51.100.7")
    text = stand.report(code=1).stdout
    assert text.startswith("2 mails for 2 recipients: the other gateway > this one\n       1  taken > refused\n")
    assert "1 recipients differ, by: access 1" in text
    assert "ann@far.test > bob@box.test  4Qy\n    from far.test[198.51.100.7]: hello\n    was: taken\n" in text
    found: dict[str, Any] = json.loads(stand.report("--json", code=1).stdout)
    assert (found["mails"], found["differences"][0]["now"]["reply"]) == (2, "550 5.7.1 Refused by policy")
    # The clock of the test stands in the past.
    assert "no copy has come since then" in stand.report("--since", "1h", code=2).stderr


def account(name: str, recipients: int = 1) -> Account:
    side = Side(outcome="taken", reason="x" * 50)
    pairs = tuple(Pair(recipient=f"u{number}@box.test", was=side, now=side) for number in range(recipients))
    return Account(name=name, received=1.0, client="c", helo="h", sender="s", subject="", message_id="", pairs=pairs)


def test_so_long_and_so_much_is_kept(tmp_path: Path) -> None:
    now = [1000.0]
    accounts = Accounts(tmp_path / "rehearsal.db", at_once, lambda: now[0])
    accounts.use(keep=60.0, most=150, size=2**30)
    for number in range(400):
        wait_for(Deferred.fromCoroutine(accounts.add(account(str(number)))))
    names = [one.name for one in read_accounts(accounts.path, 0.0)]
    assert names == [str(number) for number in range(250, 400)]
    now[0] += 61.0
    for number in range(400, 500):
        wait_for(Deferred.fromCoroutine(accounts.add(account(str(number)))))
    assert [one.name for one in read_accounts(accounts.path, 0.0)] == [str(number) for number in range(400, 500)]
    assert list(read_accounts(accounts.path, now[0] + 1)) == []
    wait_for(Deferred.fromCoroutine(accounts.close()))


def test_the_file_may_lie_anywhere(tmp_path: Path) -> None:
    accounts = Accounts(tmp_path / "a%20?b#c.db", at_once, lambda: 1.0)
    accounts.use(keep=60.0, most=150, size=2**30)
    wait_for(Deferred.fromCoroutine(accounts.add(account("one"))))
    assert [one.name for one in read_accounts(accounts.path, 0.0)] == ["one"]


def test_a_mail_to_very_many_is_kept_for_some_and_damage_is_left_out(tmp_path: Path) -> None:
    accounts = Accounts(tmp_path / "rehearsal.db", at_once, lambda: 1.0)
    accounts.use(keep=60.0, most=150, size=2**30)
    wait_for(Deferred.fromCoroutine(accounts.add(account("many", 10_000))))
    (kept,) = read_accounts(accounts.path, 0.0)
    assert 100 < len(kept.pairs) < 10_000
    with sqlite3.connect(accounts.path) as database:
        database.execute("INSERT INTO accounts (at, account) VALUES (2, X'7B')")
    assert len(list(read_accounts(accounts.path, 0.0))) == 1
    file = AccountFile(accounts.path)
    file.close()


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ('copies_from = ["192.0.2.48/29"]', 'tagged = ["X-Spam"]', "a field and the beginning of its value"),
        ('copies_from = ["192.0.2.48/29"]', 'tagged = ["X-Spam: ("]', "no regular expression"),
        ('copies_from = ["192.0.2.48/29"]', "max_mails = 5", "100"),
    ],
)
def test_a_section_that_cannot_be_used(tmp_path: Path, old: str, new: str, error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        load_text(tmp_path, CONFIG.replace(old, new))


def test_nobody_waits_for_what_recorded_mail_does_not(tmp_path: Path) -> None:
    text = CONFIG.replace('["access",', '["early-talker", ["tarpit", "pause"], "access",')
    stand = Stand(tmp_path, f'{text}\n[filters.pause]\nkind = "early-talker"\n')
    # The clock stands still: who waited would wait for ever.
    assert stand.copy("bob@box.test") == "250 2.0.0 Copy judged"
    assert stand.only().failed == ()
