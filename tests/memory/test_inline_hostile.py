"""Inline delivery between two who do not keep to the rules: a next hop that says too much, too little, too slowly or at
the wrong moment, and a client that does not wait."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Protocol

from tests.memory.configured import HOST
from tests.memory.gateway import World
from tests.memory.test_inline import CONTENT, Site, inline
from tests.memory.wire import Wire


@pytest.fixture
def site(world: World, tmp_path: Path) -> Site:
    return Site(world, tmp_path, inline('rcpt_timeout = "30s"'))


def is_at_rest(site: Site) -> bool:
    """Whether nothing is held open for anybody."""
    return sum(view.active for view in site.gateway.relay.sites()) == 0 and site.gateway._budget.used == 0


class Dripping(Protocol):
    """Says one octet each second, and never comes to an end."""

    def __init__(self, clock: IReactorTime, octets: bytes) -> None:
        self._clock = clock
        self._octets = octets

    def connectionMade(self) -> None:
        self._drip(0)

    def _drip(self, at: int) -> None:
        transport = cast(Wire, self.transport)
        if not transport.is_closed:
            transport.write(self._octets[at % len(self._octets) :][:1])
            self._clock.callLater(1.0, self._drip, at + 1)


@pytest.mark.parametrize("octets", [b"2", b"220-mx.example.org\r\n", b"220 mx.example.org ready"])
def test_a_banner_that_drips_has_no_more_time_than_silence(site: Site, octets: bytes) -> None:
    site.world.servers[HOST, 25] = lambda: Dripping(site.world.reactor, octets)
    client = site.client()
    assert site.ask(client, "bob@example.org") == []
    site.world.run(30.0)
    assert client.received.splitlines()[-1].startswith(b"451 4.4.")
    assert is_at_rest(site)


@pytest.mark.parametrize("word", ["RCPT", "DATA", "END"])
@pytest.mark.parametrize("octets", [b"250-", b"250-and so on\r\n"])
def test_an_answer_that_has_no_end_has_one(site: Site, word: str, octets: bytes) -> None:
    client = site.client()
    site.hop.script[word] = None
    if word == "RCPT":
        site.ask(client, "bob@example.org")
    else:
        site.ask(client, "bob@example.org")
        site.content(client)
    before = client.received.count(b"\r\n")
    for _ in range(700):
        cast(Wire, site.hop.open[-1].transport).write(octets)
        site.world.run(1.0)
        if client.received.count(b"\r\n") > before:
            break
    assert client.received.splitlines()[-1].startswith(b"451 4.")
    assert is_at_rest(site)


@pytest.mark.parametrize("pipelining", [True, False])
@pytest.mark.parametrize(
    "answers",
    [
        "354 too early",
        "354 too early\r\n250 ok",
        "250 ok\r\n250 ok",
        "250 ok\r\n550 5.1.1 no\r\n250 ok",
        "250 ok\r\n354 go on\r\n250 2.0.0 taken",
        "250 ok\r\n354 go on\r\n250 2.0.0 taken\r\n" * 20,
    ],
)
def test_answers_that_nobody_has_asked_for_are_nobodys(site: Site, answers: str, pipelining: bool) -> None:
    if not pipelining:
        site.hop.script["EHLO"] = "250 hop.test"
    site.hop.script["RCPT bob@example.org"] = answers
    client = site.client()
    told = site.ask(client, "bob@example.org", "ann@example.org")
    assert len(told) == 2
    site.hop.script.pop("RCPT bob@example.org")
    if any(one.startswith("2") for one in told):
        (answer,) = site.content(client)
        # What was promised to the client for somebody is kept: nothing that came unasked counts as an answer.
        promised = {f"{name}@example.org" for name, one in zip(("bob", "ann"), told, strict=True) if one[0] == "2"}
        assert {one for mail in site.hop.mails for one in mail.recipients} == (promised if answer[0] == "2" else set())
    assert len(site.hop.mails) < 2


@pytest.mark.parametrize("extra", ["354 go on\r\n250 2.0.0 taken", "250 2.0.0 taken", "550 5.7.1 no\r\n354 go on"])
def test_an_answer_to_the_content_before_the_content_delivers_nothing(site: Site, extra: str) -> None:
    site.hop.script["DATA"] = extra
    client = site.client()
    site.ask(client, "bob@example.org")
    (answer,) = site.content(client)
    assert answer[0] in "45"
    assert site.hop.mails == []
    assert site.gateway.queue() == {}


def test_an_answer_before_the_end_of_content_in_pieces_delivers_nothing(site: Site) -> None:
    client = site.client()
    site.ask(client, "bob@example.org")
    assert client.say(b"DATA\r\n")[0].startswith("354")

    def begun() -> bool:
        return "DATA" in site.hop.commands

    site.world.piece = 1000
    client.received = b""
    cast(Wire, client.transport).write(CONTENT + (b"x" * 998 + b"\r\n") * 1000 + b".\r\n")
    while not begun():
        site.world._step()
    site.hop.answer("250 2.0.0 taken already")
    site.world.run(1.0)
    assert client.received.startswith(b"451 ")
    assert site.hop.mails == []
    assert is_at_rest(site)


@pytest.mark.parametrize("answered", [0, 1, 2])
def test_lmtp_that_answers_for_fewer_than_it_has_taken(world: World, tmp_path: Path, answered: int) -> None:
    site = Site(world, tmp_path, inline(transport="lmtp"), lmtp=True)
    names = ["ann@example.org", "bob@example.org", "carl@example.org"]
    site.hop.script |= dict.fromkeys([f"END {one}" for one in names[answered:]])
    client = site.client("lmtp")
    site.ask(client, *names)
    assert site.content(client) == []
    site.world.run(580.0)
    told = client.received.decode().splitlines()
    assert [one[:3] for one in told] == ["250"] * answered + ["451"] * (3 - answered)
    assert site.gateway.queue() == {}
    assert is_at_rest(site)


def test_lmtp_that_answers_for_more_than_it_was_asked_about(world: World, tmp_path: Path) -> None:
    site = Site(world, tmp_path, inline(transport="lmtp"), lmtp=True)
    site.hop.script["END bob@example.org"] = "250 2.0.0 kept\r\n450 4.2.0 and this\r\n550 5.1.1 and that"
    client = site.client()
    site.ask(client, "bob@example.org")
    assert site.content(client)[0].startswith("250 2.0.0 kept (")
    other = site.client()
    site.ask(other, "ann@example.org")
    assert site.content(other)[0].startswith("250 2.0.0 taken (")
    assert site.hop.sessions == 2


# -- clients


BEHIND: Sequence[tuple[bytes, list[str]]] = [
    (b"RSET\r\n", ["250"]),
    (b"QUIT\r\n", ["221"]),
    (b"MAIL FROM:<ann@client.test>\r\n", ["503"]),
    (b"RSET\r\nMAIL FROM:<ann@client.test>\r\nRCPT TO:<ann@example.org>\r\n", ["250", "250", "250"]),
    (b"EHLO client.test\r\nMAIL FROM:<ann@client.test>\r\n", ["250"] * 10),
    (b"NOOP\r\nRCPT TO:<ann@example.org>\r\n", ["250", "250"]),
]


@pytest.mark.parametrize(("behind", "codes"), BEHIND)
@pytest.mark.parametrize("answer", ["250 ok", "550 5.1.1 nobody"])
def test_what_stands_behind_a_recipient_that_is_asked_about_waits(
    site: Site, behind: bytes, codes: list[str], answer: str
) -> None:
    site.hop.script["RCPT bob@example.org"] = None
    client = site.client()
    assert client.say(b"MAIL FROM:<eve@client.test>\r\nRCPT TO:<bob@example.org>\r\n" + behind) == [
        "250 2.1.0 Sender OK"
    ]
    client.received = b""
    site.hop.answer(answer)
    site.world.run(1.0)
    told = client.received.decode().splitlines()
    assert told[0] == answer
    assert {one[:3] for one in told[1:]} == set(codes)
    client.transport.loseConnection()  # type: ignore[union-attr]  # it is connected
    site.world.run(20.0)
    assert is_at_rest(site)
    assert site.hop.mails == []


@pytest.mark.parametrize("is_answered", [True, False])
def test_a_client_that_is_gone_while_a_recipient_is_asked_about(site: Site, is_answered: bool) -> None:
    for name in ("bob", "ann"):  # the first recipient, and another
        site.hop.script = {f"RCPT {name}@example.org": None}
        client = site.client()
        site.ask(client, "bob@example.org", "ann@example.org")
        client.transport.loseConnection()  # type: ignore[union-attr]  # it is connected
        if is_answered:
            site.hop.answer("250 ok")
        site.world.run(20.0)
        assert is_at_rest(site)
    site.hop.script = {}
    client = site.client()
    site.ask(client, "carl@example.org")
    assert site.content(client)[0].startswith("250 2.0.0 taken (")
    assert [one.recipients for one in site.hop.mails] == [("carl@example.org",)]


@pytest.mark.parametrize("before", [b"", b"BDAT %d\r\n%b" % (len(CONTENT), CONTENT)])
def test_a_last_chunk_that_is_empty(site: Site, before: bytes) -> None:
    client = site.client()
    site.ask(client, "bob@example.org")
    *_, answer = client.say(before + b"BDAT 0 LAST\r\n")
    assert answer.startswith("250 2.0.0 taken (")
    assert len(site.hop.mails) == 1
    assert is_at_rest(site)


def test_a_chunk_behind_a_recipient_that_is_refused_is_no_content(site: Site) -> None:
    site.hop.script["RCPT bob@example.org"] = None
    client = site.client()
    lines = b"MAIL FROM:<eve@client.test>\r\nRCPT TO:<bob@example.org>\r\n"
    client.say(lines + b"BDAT 6 LAST\r\nQUIT\r\nNOOP\r\n")
    client.received = b""
    site.hop.answer("550 5.1.1 nobody")
    site.world.run(1.0)
    assert [one[:3] for one in client.received.split(b"\r\n")[:-1]] == [b"550", b"554", b"250"]
    assert not client.is_closed
    assert site.hop.mails == []


STEPS = [b"EHLO client.test\r\n", b"MAIL FROM:<eve@client.test>\r\n", b"RCPT TO:<bob@example.org>\r\n", b"DATA\r\n"]
STEPS += [b"Subject: x\r\n\r\n", b"hello\r\n", b".\r\n"]


@pytest.mark.parametrize("number", range(len(STEPS)))
@pytest.mark.parametrize("large", [False, True])
def test_a_client_that_is_gone_after_each_of_its_words(site: Site, number: int, large: bool) -> None:
    client = site.gateway.connect()
    for step in STEPS[: number + 1]:
        client.say((b"x" * 70 + b"\r\n") * 2000 if large and step == b"hello\r\n" else step)
    client.transport.loseConnection()  # type: ignore[union-attr]  # it is connected
    site.world.run(20.0)
    assert len(site.hop.mails) == (number == len(STEPS) - 1)
    assert is_at_rest(site)
    assert site.gateway.queue() == {}
    assert [one for one in site.gateway.spool.incoming.iterdir() if one.is_file()] == []
