"""Inline delivery through a whole gateway: a next hop's answers are the client's, and nothing is kept here."""

from __future__ import annotations

from pathlib import Path

import pytest
from twisted.internet.defer import Deferred

from mailgate.events import Delivered, MessageAccepted, Refused
from mailgate.interfaces import Suspension
from tests.memory.configured import HOST, ZONE, configuration
from tests.memory.gateway import Client, MemoryGateway, World
from tests.memory.hop import NextHop

SECOND = "192.0.2.2"
CONTENT = b"Subject: x\r\n\r\nhello\r\n"


def inline(more: str = "", *, hosts: str = f'"{HOST}"', transport: str = "smtp", **options: str) -> str:
    inside = f'transport = "{transport}"\nhosts = [{hosts}]\nqueue = false\n{more}'
    return configuration(inside=inside, **options)


class Site:
    """A gateway, the next hop that it asks, and a second one that nobody answers at yet."""

    def __init__(self, world: World, folder: Path, text: str, *, lmtp: bool = False) -> None:
        self.world = world
        self.hop = NextHop(world, HOST, 24 if lmtp else 25, lmtp=lmtp)
        self.gateway = MemoryGateway(world, folder / "gw", text, ZONE).start()

    def client(self, listener: str = "mx") -> Client:
        client = self.gateway.connect(listener)
        client.say(b"LHLO client.test\r\n" if listener == "lmtp" else b"EHLO client.test\r\n")
        return client

    def ask(self, client: Client, *recipients: str, sender: str = "eve@client.test") -> list[str]:
        """The answers to RCPT."""
        lines = [f"MAIL FROM:<{sender}>", *(f"RCPT TO:<{one}>" for one in recipients), ""]
        return client.say("\r\n".join(lines).encode())[1:]

    def content(self, client: Client, content: bytes = CONTENT) -> list[str]:
        """The answers to the content."""
        assert client.say(b"DATA\r\n")[0].startswith("354")
        return client.say(content + b".\r\n")


@pytest.fixture
def site(world: World, tmp_path: Path) -> Site:
    return Site(world, tmp_path, inline())


def test_the_answers_of_the_next_hop_are_the_clients(site: Site) -> None:
    site.hop.script |= {
        "RCPT bob@example.org": "250 2.1.5 bob it is",
        "RCPT nobody@example.org": "550 5.1.1 no such user here",
        "RCPT busy@example.org": "450 4.2.0 greylisted",
        "END": "250 2.0.0 queued as HOPID",
    }
    client = site.client()
    assert site.ask(client, "bob@example.org", "nobody@example.org", "busy@example.org", "ann@example.org") == [
        "250 2.1.5 bob it is",
        "550 5.1.1 no such user here",
        "450 4.2.0 greylisted",
        "250 ok",
    ]
    (answer,) = site.content(client)
    (accepted,) = site.gateway.of(MessageAccepted)
    assert answer == f"250 2.0.0 queued as HOPID ({accepted.queue_id})"
    (mail,) = site.hop.mails
    assert (mail.sender, mail.recipients) == ("eve@client.test", ("bob@example.org", "ann@example.org"))
    assert mail.octets.startswith(b"Received: from client.test")
    assert mail.octets.endswith(CONTENT)
    assert site.gateway.queue() == {}
    assert [(one.recipient, one.reply, one.queue_id) for one in site.gateway.of(Delivered)] == [
        (name, "250 2.0.0 queued as HOPID", accepted.queue_id) for name in ("bob@example.org", "ann@example.org")
    ]
    assert [(one.recipient, one.stage) for one in site.gateway.of(Refused)] == [
        ("nobody@example.org", "rcpt"),
        ("busy@example.org", "rcpt"),
    ]
    assert f"{HOST}[{HOST}]:25 said: 550 5.1.1 no such user here" in site.gateway.of(Refused)[0].reason


def test_nobody_is_asked_before_the_first_recipient(site: Site) -> None:
    client = site.client()
    client.say(b"MAIL FROM:<eve@client.test>\r\n")
    assert site.hop.sessions == 0
    client.say(b"RCPT TO:<bob@example.org>\r\n")
    assert site.hop.sessions == 1


def test_a_client_that_pipelines_has_its_answers_in_order(site: Site) -> None:
    site.hop.script["RCPT nobody@example.org"] = "550 5.1.1 no"
    client = site.client()
    lines = client.say(
        b"MAIL FROM:<eve@client.test>\r\nRCPT TO:<bob@example.org>\r\nRCPT TO:<nobody@example.org>\r\n"
        b"RCPT TO:<ann@example.org>\r\nDATA\r\n"
    )
    assert [line[:3] for line in lines] == ["250", "250", "550", "250", "354"]
    assert client.say(CONTENT + b".\r\nQUIT\r\n")[0].startswith("250 ")
    assert site.hop.mails[0].recipients == ("bob@example.org", "ann@example.org")


def test_the_connection_serves_the_next_client(site: Site) -> None:
    for _ in range(3):
        client = site.client()
        site.ask(client, "bob@example.org")
        site.content(client)
    assert site.hop.sessions == 1
    assert len(site.hop.mails) == 3
    assert "RSET" not in site.hop.commands


@pytest.mark.parametrize("end", [b"RSET\r\n", b"QUIT\r\n", b"EHLO again\r\n", None])
def test_a_client_that_changes_its_mind_gives_the_connection_back(site: Site, end: bytes | None) -> None:
    client = site.client()
    site.ask(client, "bob@example.org")
    if end is None:
        client.transport.loseConnection()  # type: ignore[union-attr]  # it is connected
        site.world.run()
    else:
        client.say(end)
    assert site.hop.commands[-1] == "RSET"
    other = site.client()
    site.ask(other, "ann@example.org")
    site.content(other)
    assert site.hop.sessions == 1
    assert site.hop.mails[0].recipients == ("ann@example.org",)


def test_a_sender_that_is_refused_is_so_for_each_recipient(site: Site) -> None:
    site.hop.script["MAIL"] = "553 5.1.8 sender domain does not exist"
    client = site.client()
    assert site.ask(client, "bob@example.org", "ann@example.org") == ["553 5.1.8 sender domain does not exist"] * 2
    assert sum(command.startswith("MAIL") for command in site.hop.commands) == 1


@pytest.mark.parametrize("answer", ["552 5.6.0 virus", "452 4.3.1 full"])
def test_a_refusal_of_the_content_is_the_clients(site: Site, answer: str) -> None:
    site.hop.script["END"] = answer
    client = site.client()
    site.ask(client, "bob@example.org", "ann@example.org")
    assert site.content(client) == [answer]
    assert site.gateway.of(MessageAccepted) == []
    (refused,) = site.gateway.of(Refused)
    assert (refused.stage, refused.recipients) == ("message", ("bob@example.org", "ann@example.org"))
    assert site.gateway.queue() == {}
    assert list((site.gateway.places.state_dir / "spool").rglob("incoming-*")) == []


def test_421_ends_no_session_of_ours(site: Site) -> None:
    site.hop.script["RCPT ann@example.org"] = "421 4.3.2 shutting down"
    client = site.client()
    assert site.ask(client, "bob@example.org", "ann@example.org") == ["250 ok", "451 4.3.2 shutting down"]
    assert site.content(client)[0].startswith("451 4.4.2 ")
    assert not client.is_closed
    assert site.gateway.queue() == {}


def test_recipients_of_another_place_get_a_transaction_of_their_own(site: Site) -> None:
    client = site.gateway.connect("out", "10.0.0.1")
    client.say(b"EHLO client.test\r\n")
    answers = site.ask(client, "bob@example.org", "ann@far.test")
    assert answers == ["250 ok", "452 4.5.3 This recipient needs a transaction of its own"]
    client.say(b"RSET\r\n")
    answers = site.ask(client, "ann@far.test", "bob@example.org")
    assert [one[:9] for one in answers] == ["250 2.1.5", "452 4.5.3"]


def test_nobody_there_is_for_now(site: Site) -> None:
    site.hop.down()
    client = site.client()
    (answer,) = site.ask(client, "bob@example.org")
    assert answer == "451 4.4.1 The next hop cannot take it now, try again later"
    (refused,) = site.gateway.of(Refused)
    assert f"{HOST}[{HOST}]:25: cannot connect" in refused.reason
    # It rests now: nobody is asked again at once.
    before = len(site.world.attempts)
    client.say(b"RSET\r\n")
    assert site.ask(client, "bob@example.org") == [answer]
    assert len(site.world.attempts) == before


def test_the_next_host_is_asked_where_the_first_is_down(world: World, tmp_path: Path) -> None:
    site = Site(world, tmp_path, inline(hosts=f'"{SECOND}", "{HOST}"'))
    client = site.client()
    assert site.ask(client, "bob@example.org") == ["250 ok"]
    site.content(client)
    assert len(site.hop.mails) == 1


def test_where_the_route_says_so_mail_is_queued_for_a_hop_that_is_down(world: World, tmp_path: Path) -> None:
    site = Site(world, tmp_path, inline('when_unreachable = "queue"'))
    site.hop.down()
    client = site.client()
    answers = site.ask(client, "bob@example.org", "ann@example.org")
    assert [one[:9] for one in answers] == ["250 2.1.5"] * 2
    (answer,) = site.content(client)
    assert answer.startswith("250 2.0.0 queued as ")
    assert site.gateway.queue() == {"bob@example.org": "queued", "ann@example.org": "queued"}
    site.hop.up()
    site.world.run(3600.0)
    assert sorted(name for mail in site.hop.mails for name in mail.recipients) == ["ann@example.org", "bob@example.org"]


def test_a_hop_that_is_gone_before_the_content_has_it_queued_where_the_route_says_so(
    world: World, tmp_path: Path
) -> None:
    site = Site(world, tmp_path, inline('when_unreachable = "queue"'))
    site.hop.script["DATA"] = "421 4.3.2 shutting down"
    client = site.client()
    site.ask(client, "bob@example.org")
    (answer,) = site.content(client)
    assert answer.startswith("250 2.0.0 queued as ")
    site.hop.script.clear()
    site.world.run(3600.0)
    assert [one.recipients for one in site.hop.mails] == [("bob@example.org",)]


def test_an_answer_that_never_comes_is_never_sent_again_by_us(world: World, tmp_path: Path) -> None:
    site = Site(world, tmp_path, inline('when_unreachable = "queue"'))
    site.hop.script["END"] = None
    client = site.client()
    site.ask(client, "bob@example.org")
    assert site.content(client) == []
    site.world.run(569.0)
    assert client.received == b""
    site.world.run(1.0)
    assert client.received == b"451 4.4.2 The next hop cannot take it now, try again later\r\n"
    site.world.run(86400.0)
    assert len(site.hop.mails) == 1
    assert site.gateway.queue() == {}
    (refused,) = site.gateway.of(Refused)
    assert refused.reason.endswith("it may have been delivered")


def test_a_client_that_has_gone_changes_nothing_of_what_is_under_way(site: Site) -> None:
    site.hop.script["END"] = None
    client = site.client()
    site.ask(client, "bob@example.org")
    site.content(client)
    client.transport.loseConnection()  # type: ignore[union-attr]  # it is connected
    site.world.run(30.0)
    assert site.gateway.of(Delivered) == []
    site.hop.answer("250 2.0.0 late")
    site.world.run()
    (delivered,) = site.gateway.of(Delivered)
    assert delivered.reply == "250 2.0.0 late"
    assert site.gateway.queue() == {}


def test_lmtp_that_takes_some_leaves_the_rest_to_the_queue(world: World, tmp_path: Path) -> None:
    site = Site(world, tmp_path, inline(transport="lmtp", hosts=f'"{HOST}"'), lmtp=True)
    site.hop.script |= {
        "END bob@example.org": "250 2.0.0 kept",
        "END ann@example.org": "452 4.2.2 full",
        "END carl@example.org": "552 5.2.2 full for good",
    }
    client = site.client()
    site.ask(client, "bob@example.org", "ann@example.org", "carl@example.org")
    (answer,) = site.content(client)
    assert answer.startswith("250 2.0.0 kept (")
    assert site.gateway.queue() == {"ann@example.org": "queued", "carl@example.org": "quarantined"}
    del site.hop.script["END ann@example.org"]
    site.world.run(3600.0)
    assert [one.recipients for one in site.hop.mails] == [("bob@example.org",), ("ann@example.org",)]


def test_a_client_by_lmtp_hears_of_each(world: World, tmp_path: Path) -> None:
    site = Site(world, tmp_path, inline(transport="lmtp", hosts=f'"{HOST}"'), lmtp=True)
    site.hop.script["END ann@example.org"] = "452 4.2.2 full"
    client = site.client("lmtp")
    site.ask(client, "bob@example.org", "ann@example.org")
    answers = site.content(client)
    assert [one[:9] for one in answers] == ["250 2.0.0", "452 4.2.2"]
    assert site.gateway.queue() == {}


def test_no_more_sessions_than_the_route_allows(world: World, tmp_path: Path) -> None:
    site = Site(world, tmp_path, inline('connections = 2\nrcpt_timeout = "20s"'))
    clients = [site.client() for _ in range(3)]
    answers = [site.ask(client, "bob@example.org") for client in clients]
    assert answers == [["250 ok"], ["250 ok"], []]
    site.world.run(19.0)
    assert clients[2].received.count(b"\r\n") == 1
    site.world.run(2.0)
    assert clients[2].received.splitlines()[-1].startswith(b"451 4.4.2")
    site.content(clients[0])
    clients[2].say(b"RSET\r\n")
    assert site.ask(clients[2], "bob@example.org") == ["250 ok"]
    assert site.hop.sessions == 2


def test_whoever_waits_has_the_connection_that_comes_free(world: World, tmp_path: Path) -> None:
    site = Site(world, tmp_path, inline("connections = 1"))
    first, second = site.client(), site.client()
    site.ask(first, "bob@example.org")
    assert site.ask(second, "ann@example.org") == []
    second.received = b""
    site.content(first)
    assert second.received == b"250 ok\r\n"
    site.content(second)
    assert [one.recipients for one in site.hop.mails] == [("bob@example.org",), ("ann@example.org",)]


def test_a_drain_waits_for_what_a_next_hop_has_not_answered(site: Site) -> None:
    site.hop.script["END"] = None
    client = site.client()
    site.ask(client, "bob@example.org")
    site.content(client)
    stopped = site.gateway.stopService()
    site.world.run(5.0)
    assert not stopped.called
    site.hop.answer("250 2.0.0 late")
    site.world.gateways.remove(site.gateway)
    site.world.wait(stopped)
    assert client.received.startswith(b"250 2.0.0 late (")
    (delivered,) = site.gateway.of(Delivered)
    assert delivered.reply == "250 2.0.0 late"


# -- what the next hop offers


def offers(site: Site, *keywords: str) -> None:
    site.hop.script["EHLO"] = "\r\n".join(["250-hop.test", *(f"250-{one}" for one in keywords), "250 HELP"])


def test_what_the_client_asks_for_goes_along(site: Site) -> None:
    offers(site, "PIPELINING", "SIZE 1000000", "8BITMIME", "SMTPUTF8", "DSN")
    client = site.client()
    client.say(b"MAIL FROM:<eve@client.test> SIZE=700 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=x1\r\n")
    client.say("RCPT TO:<jös@example.org> NOTIFY=SUCCESS,FAILURE\r\n".encode())
    site.content(client, "Subject: grüße\r\n\r\nhello\r\n".encode())
    mail, rcpt = (one for one in site.hop.commands if one[:4] in ("MAIL", "RCPT"))
    assert mail == "MAIL FROM:<eve@client.test> SIZE=700 BODY=8BITMIME RET=HDRS ENVID=x1 SMTPUTF8"
    assert rcpt == "RCPT TO:<jös@example.org> NOTIFY=SUCCESS,FAILURE"
    assert site.gateway.queue() == {}


def test_a_size_that_is_too_much_for_the_next_hop_is_refused_at_once(site: Site) -> None:
    offers(site, "SIZE 500")
    client = site.client()
    client.say(b"MAIL FROM:<eve@client.test> SIZE=700\r\n")
    assert client.say(b"RCPT TO:<bob@example.org>\r\n")[0].startswith("552 5.3.4 ")
    client.say(b"RSET\r\n")
    site.ask(client, "bob@example.org")
    assert site.content(client, b"Subject: x\r\n\r\n" + b"x" * 600 + b"\r\n")[0].startswith("552 5.3.4 ")
    assert not any(one == "DATA" for one in site.hop.commands)


def test_an_address_that_the_next_hop_cannot_take_is_refused_and_no_other(site: Site) -> None:
    client = site.client()
    client.say(b"MAIL FROM:<eve@client.test> SMTPUTF8\r\n")
    assert client.say("RCPT TO:<jös@example.org>\r\n".encode())[0].startswith("550 5.6.7 ")
    assert client.say(b"RCPT TO:<bob@example.org>\r\n") == ["250 ok"]
    assert site.content(client, "Subject: grüße\r\n\r\nhello\r\n".encode())[0].startswith("550 5.6.7 ")
    client.say(b"MAIL FROM:<eve@client.test> SMTPUTF8\r\nRCPT TO:<bob@example.org>\r\n")
    assert site.content(client)[0].startswith("250 ")


def test_eight_bits_are_converted_for_a_hop_that_takes_seven(site: Site) -> None:
    offers(site, "PIPELINING")
    client = site.client()
    client.say(b"MAIL FROM:<eve@client.test> BODY=8BITMIME\r\nRCPT TO:<bob@example.org>\r\n")
    fields = "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n"
    assert site.content(client, f"{fields}\r\ngrüße\r\n".encode())[0].startswith("250 ")
    assert site.hop.mails[0].octets.isascii()
    assert b"Content-Transfer-Encoding: base64\r\n" in site.hop.mails[0].octets


def test_a_hop_without_tls_gets_nothing_that_requires_it(site: Site) -> None:
    # Only a listener under TLS offers REQUIRETLS: the field of the header has it asked for by nobody here.
    site.hop.script["MAIL"] = "530 5.7.0 Must issue STARTTLS first"
    assert site.ask(site.client(), "bob@example.org") == ["530 5.7.0 Must issue STARTTLS first"]


def test_chunks_arrive_as_content(site: Site) -> None:
    client = site.client()
    site.ask(client, "bob@example.org")
    assert client.say(b"BDAT 12\r\nSubject: x\r\n")[0].startswith("250 ")
    assert client.say(b"BDAT 9 LAST\r\n\r\nhello\r\n")[0].startswith("250 2.0.0 taken (")
    assert site.hop.mails[0].octets.endswith(CONTENT)


def test_a_success_report_is_ours_where_the_next_hop_makes_none(site: Site) -> None:
    sender_hop = NextHop(site.world, "192.0.2.50")
    client = site.client()
    client.say(b"MAIL FROM:<eve@client.test>\r\nRCPT TO:<bob@example.org> NOTIFY=SUCCESS\r\n")
    assert site.content(client)[0].startswith("250 ")
    site.world.run()
    (report,) = sender_hop.mails
    assert (report.sender, report.recipients) == ("", ("eve@client.test",))
    assert b"Action: relayed\r\n" in report.octets
    assert len(site.gateway.of(Delivered)) == 2


def test_large_content_goes_through_in_pieces(site: Site) -> None:
    line = b"x" * 998 + b"\r\n"
    client = site.client()
    site.ask(client, "bob@example.org")
    assert site.content(client, b"Subject: x\r\n\r\n" + line * 1000)[0].startswith("250 ")
    assert site.hop.mails[0].octets.count(line) == 1000
    assert site.gateway.queue() == {}
    assert [one for one in site.gateway.spool.incoming.iterdir() if one.is_file()] == []


# -- who the client is, and what an administrator does meanwhile


def test_a_next_hop_that_is_told_of_the_client_gets_a_session_for_each_message(world: World, tmp_path: Path) -> None:
    site = Site(world, tmp_path, inline("xclient = true"))
    offers(site, "PIPELINING", "XCLIENT NAME ADDR PROTO HELO")
    for _ in range(2):
        client = site.client()
        site.ask(client, "bob@example.org")
        site.content(client)
    assert site.hop.sessions == 2
    told = [one for one in site.hop.commands if one.startswith("XCLIENT")]
    assert len(told) == 2
    assert all("ADDR=192.0.2.9" in one for one in told)


def test_a_hop_that_is_slow_for_one_holds_up_nobody_else(site: Site) -> None:
    site.hop.script["RCPT slow@example.org"] = None
    slow, other = site.client(), site.client()
    assert site.ask(slow, "slow@example.org") == []
    assert site.ask(other, "bob@example.org") == ["250 ok"]
    assert site.content(other)[0].startswith("250 ")
    site.world.run(61.0)
    assert slow.received.splitlines()[-1].startswith(b"451 4.4.2 ")


def test_a_route_that_is_suspended_takes_nothing_for_now(site: Site) -> None:
    suspension = Suspension(kind="route", name="inside", since=site.world.reactor.seconds(), reason="upgrade")
    site.world.wait(site.gateway.spool.suspend(suspension))
    site.world.wait(Deferred.fromCoroutine(site.gateway.relay.apply_suspensions()))
    assert site.ask(site.client(), "bob@example.org")[0].startswith("451 ")
    assert site.hop.sessions == 0


def test_a_reload_leaves_what_is_under_way_as_it_is(site: Site) -> None:
    client = site.client()
    site.ask(client, "bob@example.org")
    site.gateway.file.write_text(configuration())
    site.gateway.reload()
    site.world.run()
    assert site.content(client)[0].startswith("250 2.0.0 taken (")
    other = site.client()
    assert site.ask(other, "bob@example.org")[0].startswith("250 2.1.5 ")
    assert site.content(other)[0].startswith("250 2.0.0 queued as ")
    assert len(site.hop.mails) == 2


# -- clients that dawdle


def test_a_client_that_dawdles_holds_no_connection(world: World, tmp_path: Path) -> None:
    site = Site(world, tmp_path, inline('connections = 1\nhold_timeout = "60s"'))
    dawdler, other = site.client(), site.client()
    assert site.ask(dawdler, "bob@example.org", "ann@example.org") == ["250 ok"] * 2
    assert dawdler.say(b"DATA\r\n")[0].startswith("354")
    site.world.run(59.0)
    assert site.ask(other, "carl@example.org") == []
    site.world.run(1.0)
    assert "RSET" in site.hop.commands
    assert other.received.splitlines()[-1] == b"250 ok"
    site.content(other)
    assert dawdler.say(CONTENT + b".\r\n")[0].startswith("250 2.0.0 taken (")
    assert [one.recipients for one in site.hop.mails] == [("carl@example.org",), ("bob@example.org", "ann@example.org")]
    assert site.hop.sessions == 1
    assert site.gateway.queue() == {}


def test_a_recipient_that_comes_late_is_asked_about_in_another_session(site: Site) -> None:
    client = site.client()
    site.ask(client, "bob@example.org")
    site.world.run(120.0)
    site.hop.script["RCPT nobody@example.org"] = "550 5.1.1 no"
    assert client.say(b"RCPT TO:<nobody@example.org>\r\n") == ["550 5.1.1 no"]
    assert client.say(b"RCPT TO:<ann@example.org>\r\n") == ["250 ok"]
    assert site.content(client)[0].startswith("250 2.0.0 taken (")
    assert [one.recipients for one in site.hop.mails] == [("bob@example.org", "ann@example.org")]


def test_a_recipient_that_was_taken_and_is_refused_later_is_not_forgotten(site: Site) -> None:
    client = site.client()
    site.ask(client, "bob@example.org", "ann@example.org")
    site.world.run(120.0)
    site.hop.script["RCPT ann@example.org"] = "450 4.2.1 busy"
    assert site.content(client)[0].startswith("250 2.0.0 taken (")
    assert site.gateway.queue() == {"ann@example.org": "queued"}
    del site.hop.script["RCPT ann@example.org"]
    site.world.run(3600.0)
    assert [one.recipients for one in site.hop.mails] == [("bob@example.org",), ("ann@example.org",)]


@pytest.mark.parametrize(("mode", "answer"), [("defer", "451 4.4.1 "), ("queue", "250 2.0.0 queued as ")])
def test_a_hop_that_has_gone_meanwhile(world: World, tmp_path: Path, mode: str, answer: str) -> None:
    site = Site(world, tmp_path, inline(f'when_unreachable = "{mode}"'))
    client = site.client()
    site.ask(client, "bob@example.org")
    site.world.run(120.0)
    site.hop.down()
    assert site.content(client)[0].startswith(answer)
    site.hop.up()
    site.world.run(3600.0)
    assert len(site.hop.mails) == (mode == "queue")


def test_a_session_that_the_next_hop_ends_while_the_client_writes_is_no_trouble_of_the_clients(site: Site) -> None:
    client = site.client()
    site.ask(client, "bob@example.org")
    site.hop.cut()
    site.world.run()
    assert site.content(client)[0].startswith("250 2.0.0 taken (")
    assert site.hop.sessions == 2
    assert len(site.hop.mails) == 1


def test_a_slow_last_answer_is_waited_for(site: Site) -> None:
    site.hop.script["END"] = None
    client = site.client()
    site.ask(client, "bob@example.org")
    assert site.content(client) == []
    site.world.run(55.0)
    site.hop.answer("250 2.6.0 queued at last")
    site.world.run()
    assert client.received.startswith(b"250 2.6.0 queued at last (")
    assert len(site.hop.mails) == 1


def test_clients_that_vanish_leave_nothing_behind(world: World, tmp_path: Path) -> None:
    site = Site(world, tmp_path, inline("connections = 2"))
    for number in range(12):
        client = site.client()
        silent = number % 3 == 0
        site.hop.script["RCPT bob@example.org"] = None if silent else "250 ok"
        assert site.ask(client, "bob@example.org") == ([] if silent else ["250 ok"])
        if number % 3 == 1:
            client.say(b"DATA\r\nSubject: x\r\n")
        client.transport.loseConnection()  # type: ignore[union-attr]  # it is connected
        site.world.run()
    (view,) = site.gateway.relay.sites()
    assert (view.active, view.waiting) == (0, 0)
    assert site.gateway.inline._open == {}
    site.hop.script.clear()
    first, second = site.client(), site.client()
    assert site.ask(first, "bob@example.org") == site.ask(second, "ann@example.org") == ["250 ok"]
    site.content(first)
    site.content(second)
    assert len(site.hop.mails) == 2
