"""What filters change about an inline message, and what goes through the queue all the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from twisted.internet.task import deferLater
from zope.interface import implementer

from mailgate.address import Address
from mailgate.config.schema import Section
from mailgate.envelope import Session, Transaction
from mailgate.events import Delivered, MessageAccepted, Quarantined
from mailgate.interfaces import FilterServices, IFilterFactory, IMessageFilter, IMessageModifier
from mailgate.message import (
    AddHeader,
    AddRecipient,
    ChangeReturnPath,
    ChangeSender,
    Edit,
    For,
    Message,
    RemoveRecipient,
    Splice,
)
from mailgate.pipeline.registry import Registry
from mailgate.verdict import Continue, Discard, Quarantine, Verdict
from tests.memory.configured import HOST, ZONE, configuration
from tests.memory.gateway import MemoryGateway, World
from tests.memory.hop import NextHop

CONTENT = b"Subject: x\r\n\r\nhello\r\n"
ANN, NEW = Address.parse("ann@example.org"), Address.parse("new@client.test")


@implementer(IMessageFilter, IMessageModifier)
class Doing:
    """A filter that says and does what a test wants."""

    def __init__(self) -> None:
        self.edits: Sequence[Edit | For] = ()
        self.verdict: Verdict = Continue()

    def on_message(self, session: Session, transaction: Transaction, message: Message) -> Verdict:
        return self.verdict

    def modify(self, session: Session, transaction: Transaction, message: Message) -> Sequence[Edit | For]:
        return self.edits


@implementer(IFilterFactory)
class Factory:
    name = "doing"
    summary = "for tests"
    options = Section

    def __init__(self, made: Doing) -> None:
        self._made = made

    def build(self, options: object, services: FilterServices) -> object:
        return self._made


class WithDoing(Registry):
    def __init__(self, made: Doing) -> None:
        super().__init__()
        self._made = Factory(made)

    def find(self, kind: str) -> IFilterFactory:
        return self._made if kind == "doing" else super().find(kind)


class Site:
    """A gateway with that filter, the next hop that it asks, and one far away."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world = world
        self.doing = Doing()
        self.hop, self.far = NextHop(world, HOST), NextHop(world, "192.0.2.61")
        text = configuration(
            '[aliases.names]\nkind = "map"\npath = "names"\n',
            inside=f'transport = "smtp"\nhosts = ["{HOST}"]\nqueue = false',
            filters='["headers", "doing"]',
        ).replace('route = "inside"\n', 'route = "inside"\naliases = ["names"]\n', 1)
        (folder / "gw").mkdir()
        (folder / "gw/names").write_text(
            "sales@example.org ann@example.org\nall@example.org ann@example.org, bob@example.org\n"
        )
        self.gateway = MemoryGateway(world, folder / "gw", text, ZONE, WithDoing(self.doing)).start()

    def mail(self, *recipients: str) -> str:
        (answer,) = self.gateway.connect().mail("eve@client.test", *recipients, content=CONTENT)
        return answer

    def said(self, word: str) -> list[str]:
        return [one for one in self.hop.commands if one.startswith(word)]


@pytest.fixture
def site(world: World, tmp_path: Path) -> Site:
    return Site(world, tmp_path)


def test_edits_of_header_and_body_are_made_on_the_way(site: Site) -> None:
    site.doing.edits = [AddHeader("X-Seen", "yes"), Splice(21, 21, b"footer\r\n")]
    assert site.mail("bob@example.org").startswith("250 2.0.0 taken (")
    (mail,) = site.hop.mails
    assert b"\r\nX-Seen: yes\r\n" in b"\r\n" + mail.octets
    assert mail.octets.endswith(b"\r\n\r\nhello\r\nfooter\r\n")
    assert site.gateway.queue() == {}
    assert [one for one in site.gateway.spool.incoming.iterdir() if one.is_file()] == []


@pytest.mark.parametrize(
    "edit", [ChangeSender(Address.parse("new@client.test")), ChangeReturnPath(Address.parse("new@client.test"))]
)
def test_a_new_sender_is_told_before_the_content(site: Site, edit: Edit) -> None:
    site.doing.edits = [edit]
    assert site.mail("bob@example.org", "ann@example.org").startswith("250 2.0.0 taken (")
    (mail,) = site.hop.mails
    assert (mail.sender, mail.recipients) == ("new@client.test", ("bob@example.org", "ann@example.org"))
    assert len(site.said("RSET")) == 1
    assert len(site.gateway.of(Delivered)) == 2
    assert site.gateway.queue() == {}


def test_a_recipient_that_a_filter_removes_gets_nothing(site: Site) -> None:
    site.doing.edits = [RemoveRecipient(ANN)]
    assert site.mail("bob@example.org", "ann@example.org").startswith("250 2.0.0 taken (")
    assert [one.recipients for one in site.hop.mails] == [("bob@example.org",)]
    assert site.gateway.queue() == {}


@pytest.mark.parametrize(
    "edit",
    [AddRecipient(Address.parse("carl@example.org")), For((ANN,), (AddHeader("X-For", "ann"),))],
)
def test_what_one_answer_cannot_tell_is_queued(site: Site, edit: Edit | For) -> None:
    site.doing.edits = [edit]
    assert site.mail("bob@example.org", "ann@example.org").startswith("250 2.0.0 queued as ")
    assert {name for one in site.hop.mails for name in one.recipients} >= {"bob@example.org", "ann@example.org"}
    assert sum("bob@example.org" in one.recipients for one in site.hop.mails) == 1
    assert site.gateway.queue() == {}


def test_quarantine_is_kept_here_and_the_next_hop_sees_nothing(site: Site) -> None:
    site.doing.verdict = Quarantine("looks bad")
    assert site.mail("bob@example.org").startswith("250 2.0.0 queued as ")
    assert site.hop.mails == []
    assert site.hop.commands[-1] == "RSET"
    assert len(site.gateway.of(Quarantined)) == 1
    assert site.gateway.queue() == {"bob@example.org": "quarantined"}


def test_what_is_discarded_goes_nowhere(site: Site) -> None:
    site.doing.verdict = Discard("nobody wants it")
    assert site.mail("bob@example.org").startswith("250 ")
    assert site.hop.mails == []
    assert site.hop.commands[-1] == "RSET"


def test_an_alias_for_one_address_is_asked_about(site: Site) -> None:
    site.hop.script["RCPT ann@example.org"] = "250 2.1.5 ann is here"
    assert site.mail("sales@example.org").startswith("250 2.0.0 taken (")
    (mail,) = site.hop.mails
    assert mail.recipients == ("ann@example.org",)
    (accepted,) = site.gateway.of(MessageAccepted)
    assert accepted.recipients == ("sales@example.org",)


def test_an_alias_for_several_goes_through_the_queue(site: Site) -> None:
    assert site.mail("all@example.org").startswith("250 2.0.0 queued as ")
    assert sorted(name for one in site.hop.mails for name in one.recipients) == ["ann@example.org", "bob@example.org"]
    client = site.gateway.connect()
    lines = client.say(
        b"EHLO x\r\nMAIL FROM:<eve@client.test>\r\nRCPT TO:<all@example.org>\r\nRCPT TO:<bob@example.org>\r\n"
    )
    assert lines[-1].startswith("452 4.5.3 ")


def test_what_filters_take_is_of_the_time_that_the_client_waits(site: Site) -> None:
    site.doing.verdict = deferLater(site.world.reactor, 5.0, Continue)  # type: ignore[assignment]  # as filters may
    site.hop.script["END"] = None
    client = site.gateway.connect()
    client.say(b"EHLO client.test\r\nMAIL FROM:<eve@client.test>\r\nRCPT TO:<ann@example.org>\r\nDATA\r\n")
    assert client.say(CONTENT + b".\r\n") == []
    site.world.run(569.0)
    assert site.hop.commands[-1] == "DATA"
    assert client.received == b""
    site.world.run(1.0)
    assert client.received.startswith(b"451 4.4.2 ")
