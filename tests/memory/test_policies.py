"""One message to people of three domains, each with a policy of its own: what each of them gets, octet by octet."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from twisted.internet.defer import fail
from zope.interface import implementer

from mailgate.config.load import ConfigError
from mailgate.config.schema import Section
from mailgate.envelope import Session, Transaction
from mailgate.events import Event, FilterFailed, MessageAccepted, Quarantined, Refused
from mailgate.findings import Points
from mailgate.interfaces import (
    FilterServices,
    IConnectFilter,
    IDataFilter,
    IFilterFactory,
    IMessageFilter,
    IRecipientFilter,
)
from mailgate.message import Message, rendered
from mailgate.reply import Reply
from mailgate.testing.gateway import MemoryGateway
from mailgate.verdict import Accept, Continue, Disconnect, Quarantine, Reject, Verdict
from tests.memory.configured import ZONE, configuration
from tests.memory.gateway import MemoryGateway as WholeGateway
from tests.memory.gateway import World
from tests.memory.hop import NextHop

GATEWAY = """
[gateway]
hostname = "gw.test"
state_dir = "state"

[[listeners]]
name = "mx"
endpoints = ["tcp:25"]
pipeline = "in"
resolve_clients = false
{listener}

[pipelines.in]
filters = [{filters}]

[domains."a.test"]
route = "a"

[domains."b.test"]
route = "b"

[domains."*.c.test"]
route = "c"

[routes.a]
transport = "smtp"
hosts = ["192.0.2.1"]

[routes.b]
transport = "smtp"
hosts = ["192.0.2.2"]

[routes.c]
transport = "smtp"
hosts = ["192.0.2.3"]
"""


class Options(Section):
    """What the filter of the tests says."""

    says: Literal["nothing", "reject", "quarantine", "accept", "disconnect", "fail"] = "nothing"
    points: float = 0.0
    at: Literal["connect", "rcpt", "data", "message"] = "message"


_SAYS: dict[str, Verdict] = {
    "reject": Reject(Reply.of(550, "5.7.1", "A virus"), "virus found"),
    "quarantine": Quarantine("looks odd"),
    "accept": Accept("known"),
    "disconnect": Disconnect(Reply.of(554, "", "Go away"), "thrown out"),
}


class Scan:
    """Counts how often it is asked, and whom about."""

    def __init__(self, options: Options, asked: list[list[str]]) -> None:
        self._options = options
        self._asked = asked

    def _say(self, transaction: Transaction | None = None) -> Any:
        self._asked.append([str(one.address) for one in transaction.recipients] if transaction else [])
        if self._options.says == "fail":
            return fail(ConnectionError("the scanner is gone"))
        evidence = (Points(self._options.points, "of the scan"),) if self._options.points else ()
        return _SAYS.get(self._options.says) or Continue(evidence)


@implementer(IMessageFilter)
class AtMessage(Scan):
    def on_message(self, session: Session, transaction: Transaction, message: Message) -> Any:
        return self._say(transaction)


@implementer(IConnectFilter)
class AtConnect(Scan):
    def on_connect(self, session: Session) -> Any:
        return self._say()


@implementer(IRecipientFilter)
class AtRcpt(Scan):
    def on_rcpt(self, session: Session, transaction: Transaction, recipient: Any) -> Any:
        return self._say()


@implementer(IDataFilter)
class AtData(Scan):
    def on_data(self, session: Session, transaction: Transaction) -> Any:
        return self._say(transaction)


@implementer(IFilterFactory)
class Factory:
    name, summary, options = "scan", "says what it is told to", Options

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def build(self, options: object, services: FilterServices) -> object:
        assert isinstance(options, Options)
        kinds = {"connect": AtConnect, "rcpt": AtRcpt, "data": AtData, "message": AtMessage}
        return kinds[options.at](options, self.asked)


class Stand:
    def __init__(self, folder: Path, filters: Sequence[str], sections: str, listener: str = "") -> None:
        path = folder / "mailgate.toml"
        names = ", ".join(f'"{one}"' for one in filters)
        path.write_text(GATEWAY.format(filters=names, listener=listener) + sections)
        self.scan = Factory()
        self.gateway = MemoryGateway(path, filters=[self.scan])
        self.client = self.gateway.connect()
        self.client.said()
        self.client.send(b"EHLO client.test\r\n")
        self.client.said()

    def send(self, *recipients: str, data: bytes = b"Subject: x\r\n\r\nhello\r\n") -> list[str]:
        """The replies to RCPT, DATA and the content."""
        lines = "".join(f"RCPT TO:<{one}>\r\n" for one in recipients)
        self.client.send(f"MAIL FROM:<ann@client.test>\r\n{lines}DATA\r\n".encode())
        _, *said = self.client.said()
        if said[-1].startswith("354"):
            self.client.send(data + b".\r\n")
            said += self.client.said()
        return said

    @property
    def got(self) -> dict[str, str]:
        """By recipient, what it would be delivered; without what changes from run to run."""
        found: dict[str, str] = {}
        for lease in self.gateway.leases:
            octets = b"".join(rendered(lease.content, lease.envelope.edits)).decode()
            for one in lease.recipients:
                if not one.refusal:
                    assert str(one.address) not in found, "twice"
                    found[str(one.address)] = re.sub(r"(?s)\AReceived: .*?\r\n(?!\s)", "", octets)
        return found

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.gateway.events if isinstance(event, kind)]

    @property
    def kept(self) -> dict[str, str]:
        """Who is in quarantine, and why."""
        found = self.gateway.leases
        return {
            str(one.address): one.quarantine for lease in found for one in lease.envelope.recipients if one.quarantine
        }


POLICIES = """
[filters.virus-a]
kind = "scan"
says = "reject"
only_for = ["a.test"]

[filters.points-b]
kind = "scan"
points = 6.0
only_for = ["b.test"]

[filters.points]
kind = "scan"
points = 3.0

[filters.score]
status_field = ""
flag_field = ""
domains = { "*.c.test" = { tag = 2.0 }, "b.test" = { tag = 8.0, reject = 100.0 } }

[filters.banner]
domains_of = "recipients"
only_domains = true
domains = { "b.test" = { text = "for b" }, "*.c.test" = { text = "for c" } }
"""


def test_three_domains_with_three_policies(tmp_path: Path) -> None:
    stand = Stand(tmp_path, ["virus-a", "points-b", "points", "score", "banner"], POLICIES)
    said = stand.send("1@a.test", "1@b.test", "1@x.c.test", "2@b.test", "2@x.c.test")
    accepted = stand.of(MessageAccepted)
    assert said[-1] == f"250 2.0.0 queued as {accepted[0].queue_id}"
    assert stand.got == {
        "1@b.test": "X-Spam-Score: 9\r\nSubject: x\r\n\r\nhello\r\n\r\nfor b\r\n",
        "2@b.test": "X-Spam-Score: 9\r\nSubject: x\r\n\r\nhello\r\n\r\nfor b\r\n",
        "1@x.c.test": "X-Spam-Score: 3\r\nSubject: x\r\n\r\nhello\r\n\r\nfor c\r\n",
        "2@x.c.test": "X-Spam-Score: 3\r\nSubject: x\r\n\r\nhello\r\n\r\nfor c\r\n",
    }
    assert stand.kept == {"1@a.test": "refused: 550 5.7.1 A virus (virus found)"}
    assert stand.scan.asked == [
        ["1@a.test"],
        ["1@b.test", "2@b.test"],
        ["1@a.test", "1@b.test", "1@x.c.test", "2@b.test", "2@x.c.test"],
    ]
    first, *others = accepted
    assert [one.recipients for one in accepted] == [
        ("1@a.test",),
        ("1@b.test", "2@b.test"),
        ("1@x.c.test", "2@x.c.test"),
    ]
    assert first.split_from == ""
    assert {one.split_from for one in others} == {first.queue_id}
    assert len({one.queue_id for one in accepted}) == 3
    assert [(one.queue_id, one.recipients) for one in stand.of(Quarantined)] == [(first.queue_id, ("1@a.test",))]
    assert stand.of(Refused) == []
    steps = {(one.filter, one.recipient) for one in first.trace if one.stage == "message"}
    assert ("virus-a", "1@a.test") in steps
    assert ("points-b", "1@b.test, 2@b.test") in steps


def test_nobody_sees_who_else_has_got_it(tmp_path: Path) -> None:
    stand = Stand(tmp_path, ["points-b", "points", "score", "banner"], POLICIES)
    stand.send("1@a.test", "secret@b.test", "1@x.c.test")
    for recipient, octets in stand.got.items():
        others = {"a.test", "b.test", "x.c.test"} - {recipient.partition("@")[2]}
        assert not any(one in octets for one in others)


def test_a_report_where_the_listener_says_so(tmp_path: Path) -> None:
    stand = Stand(tmp_path, ["virus-a"], POLICIES, 'refused_for_some = "report"')
    assert stand.send("1@a.test", "1@b.test")[-1].startswith("250 ")
    assert (list(stand.got), stand.kept) == (["1@b.test"], {})
    (refused,) = stand.of(Refused)
    assert (refused.filter, refused.recipients) == ("virus-a", ("1@a.test",))
    (lease,) = stand.gateway.leases
    assert [one.refusal for one in lease.envelope.recipients] == ["550 5.7.1 A virus", ""]


def test_refused_for_all_is_refused(tmp_path: Path) -> None:
    stand = Stand(tmp_path, ["virus-a"], POLICIES)
    assert stand.send("1@a.test", "2@a.test")[-1] == "550 5.7.1 A virus"
    assert stand.gateway.leases == []


def test_lmtp_has_an_answer_for_each(tmp_path: Path) -> None:
    stand = Stand(tmp_path, ["virus-a", "banner"], POLICIES, 'protocol = "lmtp"')
    stand.client.send(b"LHLO client.test\r\n")
    stand.client.said()
    replies = stand.send("1@a.test", "1@b.test", "1@x.c.test", "2@b.test")[-4:]
    ids = {recipient: one.queue_id for one in stand.of(MessageAccepted) for recipient in one.recipients}
    assert replies[0] == "550 5.7.1 A virus"
    assert replies[1:] == [f"250 2.0.0 queued as {ids[one]}" for one in ("1@b.test", "1@x.c.test", "2@b.test")]
    assert set(stand.got) == {"1@b.test", "1@x.c.test", "2@b.test"}


@pytest.mark.parametrize(
    ("option", "meant"),
    [
        ('only_for = ["1@a.test"]', ["1@a.test"]),
        ('only_for = ["1@A.Test", "b.test"]', ["1@a.test", "1@b.test", "2@b.test"]),
        ('only_for = ["*.c.test"]', ["1@x.c.test"]),
        ('except_for = ["a.test"]', ["1@b.test", "2@b.test", "1@x.c.test"]),
        ('only_for = ["b.test"]\nexcept_for = ["2@b.test"]', ["1@b.test"]),
    ],
)
def test_whom_a_filter_is_for(tmp_path: Path, option: str, meant: list[str]) -> None:
    section = f'[filters.one]\nkind = "scan"\nsays = "quarantine"\n{option}\n'
    stand = Stand(tmp_path, ["one"], section)
    assert stand.send("1@a.test", "1@b.test", "2@b.test", "1@x.c.test")[-1].startswith("250 ")
    assert stand.scan.asked == [meant]
    assert stand.kept == dict.fromkeys(meant, "looks odd")


def test_a_filter_that_is_for_nobody_of_a_message_is_not_asked(tmp_path: Path) -> None:
    stand = Stand(tmp_path, ["virus-a"], POLICIES)
    assert stand.send("1@b.test", "1@x.c.test")[-1].startswith("250 ")
    assert stand.scan.asked == []
    assert all(step.filter != "virus-a" for one in stand.of(MessageAccepted) for step in one.trace)


def test_a_list_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "pilots.txt"
    path.write_text("# the pilots\n1@b.test\n")
    stand = Stand(tmp_path, ["one"], '[filters.one]\nkind = "scan"\nonly_for = ["a.test", "file:pilots.txt"]\n')
    stand.send("1@a.test", "1@b.test", "2@b.test")
    path.write_text("*.c.test\n2@b.test\n")
    stand.gateway.pass_time(2)
    stand.send("1@b.test", "2@b.test", "1@x.c.test")
    path.write_text("no such thing @\n")
    stand.gateway.pass_time(2)
    stand.send("1@b.test", "2@b.test")
    assert stand.scan.asked == [["1@a.test", "1@b.test"], ["2@b.test", "1@x.c.test"], ["2@b.test"]]


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ('only_for = ["not a domain"]', "not a domain"),
        ('only_for = ["file:missing.txt"]', "missing.txt: cannot be read"),
        ('except_for = ["*"]', "stands for everything"),
    ],
)
def test_a_mistake_is_told(tmp_path: Path, option: str, told: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)) as raised:
        Stand(tmp_path, ["one"], f'[filters.one]\nkind = "scan"\n{option}\n')
    assert len(raised.value.errors) == 1


@pytest.mark.parametrize("mode", ["enforce", "shadow"])
@pytest.mark.parametrize("on_failure", ["defer", "continue", "reject", "quarantine"])
def test_a_failure_concerns_those_whom_it_is_for(tmp_path: Path, mode: str, on_failure: str) -> None:
    section = '[filters.one]\nkind = "scan"\nsays = "fail"\nonly_for = ["a.test"]\n'
    stand = Stand(tmp_path, ["one"], f'{section}mode = "{mode}"\non_failure = "{on_failure}"\n')
    said = stand.send("1@a.test", "1@b.test")[-1]
    (failed,) = stand.of(FilterFailed)
    assert failed.filter == "one"
    if mode == "shadow" or on_failure == "continue":
        assert (set(stand.got), stand.kept) == ({"1@a.test", "1@b.test"}, {})
    elif on_failure == "defer":
        assert said.startswith("451 ")
        assert stand.gateway.leases == []
    else:
        assert set(stand.got) == {"1@b.test"}
        assert list(stand.kept) == ["1@a.test"]
    stand.send("2@b.test")
    assert "2@b.test" in stand.got


def test_shadow_mode_of_a_filter_for_some(tmp_path: Path) -> None:
    stand = Stand(
        tmp_path, ["one"], '[filters.one]\nkind = "scan"\nsays = "reject"\nmode = "shadow"\nonly_for = ["a.test"]\n'
    )
    stand.send("1@a.test", "1@b.test")
    assert (set(stand.got), stand.kept) == ({"1@a.test", "1@b.test"}, {})
    (step,) = [one for one in stand.of(MessageAccepted)[0].trace if one.filter == "one"]
    assert (step.verdict, step.enforced, step.recipient) == ("reject", False, "1@a.test")


def test_accept_skips_the_rest_for_those_whom_it_is_for(tmp_path: Path) -> None:
    sections = """
[filters.known]
kind = "scan"
says = "accept"
only_for = ["a.test"]

[filters.odd]
kind = "scan"
says = "quarantine"
"""
    stand = Stand(tmp_path, ["known", "odd"], sections)
    stand.send("1@a.test", "1@b.test")
    assert (set(stand.got), list(stand.kept)) == ({"1@a.test"}, ["1@b.test"])
    stand.send("2@a.test")
    assert stand.scan.asked == [["1@a.test"], ["1@b.test"], ["2@a.test"]]


@pytest.mark.parametrize("says", ["reject", "disconnect"])
def test_before_there_are_recipients_a_refusal_waits_for_those_it_is_for(tmp_path: Path, says: str) -> None:
    section = f'[filters.one]\nkind = "scan"\nsays = "{says}"\nat = "connect"\nonly_for = ["a.test"]\n'
    stand = Stand(tmp_path, ["one"], section)
    said = stand.send("1@a.test", "1@b.test")
    assert [one[:3] for one in said] == ["550", "250", "354", "250"]
    assert not stand.client.is_closed
    assert (set(stand.got), stand.kept) == ({"1@b.test"}, {})
    (refused,) = stand.of(Refused)
    assert (refused.stage, refused.filter, refused.recipient) == ("rcpt", "one", "1@a.test")
    assert len(stand.scan.asked) == 1


def test_before_there_are_recipients_quarantine_waits_too(tmp_path: Path) -> None:
    section = '[filters.one]\nkind = "scan"\nsays = "quarantine"\nat = "connect"\nonly_for = ["a.test"]\n'
    stand = Stand(tmp_path, ["one"], section)
    stand.send("1@a.test", "1@b.test")
    assert (set(stand.got), stand.kept) == ({"1@b.test"}, {"1@a.test": "looks odd"})


def test_at_rcpt_it_is_asked_about_its_own(tmp_path: Path) -> None:
    section = '[filters.one]\nkind = "scan"\nsays = "disconnect"\nat = "rcpt"\nonly_for = ["a.test"]\n'
    stand = Stand(tmp_path, ["one"], section)
    said = stand.send("1@b.test", "1@a.test", "2@b.test")
    assert [one[:3] for one in said] == ["250", "550", "250", "354", "250"]
    assert set(stand.got) == {"1@b.test", "2@b.test"}
    assert len(stand.scan.asked) == 1


def test_at_data_a_refusal_for_some_waits_for_the_content(tmp_path: Path) -> None:
    section = '[filters.one]\nkind = "scan"\nsays = "reject"\nat = "data"\nonly_for = ["a.test"]\n'
    stand = Stand(tmp_path, ["one"], section)
    assert [one[:3] for one in stand.send("1@b.test", "1@a.test")] == ["250", "250", "354", "250"]
    assert (set(stand.got), list(stand.kept)) == ({"1@b.test"}, ["1@a.test"])
    assert stand.send("1@a.test", "2@a.test")[-1] == "550 5.7.1 A virus"
    assert stand.send("2@b.test")[-1].startswith("250 ")
    assert stand.scan.asked == [["1@a.test"], ["1@a.test", "2@a.test"]]


# -- with the real spool and relay


WHOLE = """
[filters.banner]
domains_of = "recipients"
only_domains = true
domains = { "example.org" = { text = "for the inside" } }

[filters.edit-headers]
rules = [{ add = { X-Inside = "yes" } }]
only_for = ["example.org"]

[filters.far-note]
kind = "edit-headers"
rules = [{ add = { X-Far = "yes" } }]
only_for = ["2@far.test"]
"""


@pytest.mark.parametrize("lines", [1, 20_000])
def test_each_next_hop_gets_its_own(world: World, tmp_path: Path, lines: int) -> None:
    filters = '["banner", "edit-headers", "far-note"]'
    gateway = WholeGateway(world, tmp_path / "gw", configuration(WHOLE, filters=filters), ZONE).start()
    inside, far = NextHop(world), NextHop(world, "192.0.2.61")
    body = "a line of text\r\n" * lines
    everybody = ["1@far.test", "1@example.org", "2@far.test", "2@example.org"]
    content = f"Subject: x\r\n\r\n{body}".encode()
    (reply,) = gateway.connect("out", "10.0.0.1").mail("ann@client.test", *everybody, content=content)
    assert reply.startswith("250 ")
    world.run(5)
    got = {one: mail.octets.decode() for hop in (inside, far) for mail in hop.mails for one in mail.recipients}
    assert sum(len(mail.recipients) for hop in (inside, far) for mail in hop.mails) == 4
    own = {one: re.sub(r"(?s)\AReceived: .*?\r\n(?!\s)", "", octets) for one, octets in got.items()}
    inner = f"X-Inside: yes\r\nSubject: x\r\n\r\n{body}\r\nfor the inside\r\n"
    assert own == {
        "1@example.org": inner,
        "2@example.org": inner,
        "1@far.test": f"Subject: x\r\n\r\n{body}",
        "2@far.test": f"X-Far: yes\r\nSubject: x\r\n\r\n{body}",
    }
    first, *others = gateway.of(MessageAccepted)
    assert reply == f"250 2.0.0 queued as {first.queue_id}"
    assert [one.split_from for one in others] == [first.queue_id] * 2
    assert gateway.queue() == {}
    folder = tmp_path / "gw" / "state" / "spool"
    assert [path for name in ("incoming", "content") for path in (folder / name).iterdir()] == []
