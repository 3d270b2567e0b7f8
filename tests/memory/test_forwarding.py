"""Addresses that stand for others, through a whole gateway: what next hops are told, what comes back, what operators
and reloads make of it."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import cast

import pytest
from zope.interface import implementer

from mailgate.config.schema import Section
from mailgate.envelope import Recipient, Session, Transaction
from mailgate.events import Bounced, ConfigRefused, ConfigReloaded, MessageAccepted, RecipientsChanged, Refused
from mailgate.interfaces import FilterServices, IFilterFactory, IRouter, Selector
from mailgate.pipeline.registry import Registry
from tests.memory.configured import HOST, ZONE, configuration
from tests.memory.gateway import Client, MemoryGateway, World
from tests.memory.hop import NextHop
from tests.memory.wire import Wire

FAR = "192.0.2.61"
SECRET = "0123456789abcdef0123456789abcdef"  # noqa: S105  of a test
MORE = """
[aliases.names]
kind = "map"
path = "names"

[forwarding]
srs_domain = "example.org"
srs_secrets = "secrets"
"""
NAMES = """
info@example.org   bob@example.org, carl@example.org
ann@example.org    ann@far.test
both@example.org   bob@example.org, ann@far.test, ann@example.org
"""


def text(more: str = MORE, *, names: str = '["names"]', inside: str = "", **options: str) -> str:
    made = configuration(more, **options)
    return made.replace('route = "inside"\n', f'route = "inside"\naliases = {names}\n{inside}', 1)


class Site:
    """A gateway with aliases, the server behind it, and one far away."""

    def __init__(self, world: World, folder: Path, config: str, registry: Registry | None = None) -> None:
        self.world, self.folder = world, folder / "gw"
        self.folder.mkdir(exist_ok=True)
        self.write("names", NAMES)
        self.write("secrets", f"# which makes the addresses\n{SECRET}\n")
        self.inside, self.far = NextHop(world, HOST), NextHop(world, FAR)
        self.client_hop = NextHop(world, "192.0.2.50")
        self.gateway = MemoryGateway(world, self.folder, config, ZONE, registry).start()

    def write(self, name: str, content: str) -> None:
        (self.folder / name).write_text(content)

    def mail(self, *recipients: str, sender: str = "eve@client.test", listener: str = "mx") -> list[str]:
        hello = b"LHLO client.test" if listener == "lmtp" else b"EHLO client.test"
        return self.gateway.connect(listener).mail(sender, *recipients, hello=hello)

    def rcpt(self, recipient: str, sender: str = "eve@client.test") -> str:
        return rcpt(self.gateway.connect(), recipient, sender)

    def reload(self, config: str | None = None) -> None:
        if config is not None:
            self.gateway.file.write_text(config)
        self.gateway.reload()
        self.world.run()


def rcpt(client: Client, recipient: str, sender: str = "eve@client.test") -> str:
    client.say(b"EHLO client.test\r\n")
    return client.say(f"RSET\r\nMAIL FROM:<{sender}>\r\nRCPT TO:<{recipient}>\r\n".encode())[-1]


@pytest.fixture
def site(world: World, tmp_path: Path) -> Site:
    return Site(world, tmp_path, text())


def test_what_is_ours_keeps_its_sender_and_what_is_forwarded_has_ours(site: Site) -> None:
    site.mail("both@example.org", "info@example.org")
    (ours,), (forwarded,) = site.inside.mails, site.far.mails
    assert (ours.sender, sorted(ours.recipients)) == ("eve@client.test", ["bob@example.org", "carl@example.org"])
    assert re.fullmatch(r"SRS0=\w{6}=\w\w=client\.test=eve@example\.org", forwarded.sender)
    assert forwarded.recipients == ("ann@far.test",)
    assert site.gateway.queue() == {}
    (accepted,) = site.gateway.of(MessageAccepted)
    assert (accepted.sender, accepted.recipients) == ("eve@client.test", ("both@example.org", "info@example.org"))
    assert f"ann@far.test from {forwarded.sender}" in accepted.aliases[0]


def test_one_host_for_both_gets_two_transactions(world: World, tmp_path: Path) -> None:
    site = Site(
        world, tmp_path, text(MORE + f'\n[routes.smart]\ntransport = "smtp"\nhosts = ["{HOST}"]\n', default='"smart"')
    )
    site.mail("both@example.org", "bob@example.org")
    assert sorted(mail.recipients for mail in site.inside.mails) == [("ann@far.test",), ("bob@example.org",)]
    assert sum(command.startswith("MAIL FROM:<SRS0=") for command in site.inside.commands) == 1
    assert sum(command.startswith("MAIL FROM:<eve@client.test>") for command in site.inside.commands) == 1


def test_reports_of_ours_go_to_the_true_sender_about_the_address_that_was_written(site: Site) -> None:
    site.far.script["RCPT ann@far.test"] = "550 5.1.1 no such user"
    site.mail("ann@example.org")
    (bounced,) = site.gateway.of(Bounced)
    assert (bounced.sender, bounced.recipient) == ("eve@client.test", "ann@far.test")
    (report,) = site.client_hop.mails
    assert (report.sender, report.recipients) == ("", ("eve@client.test",))
    assert b"Original-Recipient: rfc822; ann@example.org\r\n" in report.octets
    assert b"Final-Recipient: rfc822; ann@far.test\r\n" in report.octets


def test_reports_of_others_come_back_to_the_true_sender(site: Site) -> None:
    site.mail("ann@example.org")
    path = site.far.mails[0].sender
    site.mail(path.lower(), sender="")
    (report,) = site.client_hop.mails
    assert (report.sender, report.recipients) == ("", ("eve@client.test",))
    assert site.rcpt(path.replace("client.test=eve", "client.test=bob"), "").startswith("550 5.1.1")
    assert site.rcpt("bob@client.test", "").startswith("550 5.7.1")
    site.world.run(23 * 86400.0)
    assert site.rcpt(path, "").startswith("550 5.1.1")
    assert "older than 21 days" in site.gateway.of(Refused)[-1].reason


def test_null_senders_and_our_own_are_forwarded_as_they_are(site: Site) -> None:
    site.mail("ann@example.org", sender="")
    site.mail("ann@example.org", sender="bob@example.org")
    assert [mail.sender for mail in site.far.mails] == ["", "bob@example.org"]


def test_a_sender_that_leaves_no_room_is_forwarded_as_it_is(site: Site) -> None:
    long = f"{'x' * 60}@client.test"
    site.mail("ann@example.org", sender=long)
    assert site.far.mails[0].sender == long


def test_what_waits_keeps_its_reverse_path_over_operators_and_restarts(world: World, tmp_path: Path) -> None:
    other = '\n[routes.other]\ntransport = "smtp"\nhosts = ["192.0.2.62"]\n'
    site = Site(world, tmp_path, text(MORE + other))
    site.far.script["MAIL"] = "451 later"
    site.mail("ann@example.org")
    assert site.gateway.queue() == {"ann@far.test": "queued"}
    where = Selector(recipient="ann@far.test")
    assert world.wait(site.gateway.spool.hold(where)) == 1
    site.gateway.stop()
    site.gateway = MemoryGateway(world, site.folder, text(MORE + other), ZONE).start()
    assert world.wait(site.gateway.spool.reroute(where, "other")) == 1
    world.run(3600)
    hop = NextHop(world, "192.0.2.62")
    assert world.wait(site.gateway.spool.release(where)) == 1
    site.gateway.relay.kick()
    world.run()
    (mail,) = hop.mails
    assert mail.sender.startswith("SRS0=")
    assert mail.recipients == ("ann@far.test",)
    assert site.gateway.queue() == {}


def test_by_lmtp_each_address_that_was_written_has_its_answer(site: Site) -> None:
    said = site.mail("both@example.org", "info@example.org", "both@example.org", listener="lmtp")
    assert [line[:3] for line in said] == ["250", "250", "250"]
    assert len(site.inside.mails) == len(site.far.mails) == 1


class Rerouting:
    """A kind of filter that sends everything by the route "other"."""

    name, summary, options = "rerouting", "Reroutes", Section

    def build(self, options: object, services: FilterServices) -> object:
        @implementer(IRouter)
        class Router:
            def route(self, session: Session, transaction: Transaction, recipient: Recipient) -> str:
                return "other"

        return Router()


class WithRerouting(Registry):
    def find(self, name: str) -> IFilterFactory:
        return Rerouting() if name == "rerouting" else super().find(name)  # type: ignore[return-value]  # as much of one


def test_a_filter_may_name_a_route_for_all_targets(world: World, tmp_path: Path) -> None:
    other = '\n[routes.other]\ntransport = "smtp"\nhosts = ["192.0.2.62"]\n'
    hop = NextHop(world, "192.0.2.62")
    site = Site(world, tmp_path, text(MORE + other, filters='["rerouting", "headers"]'), WithRerouting())
    site.mail("both@example.org")
    assert sorted(mail.recipients for mail in hop.mails) == [("ann@far.test",), ("bob@example.org",)]
    assert site.inside.mails == site.far.mails == []


# -- files and reloads


def test_a_file_of_aliases_is_read_again_without_a_reload(site: Site) -> None:
    site.write("names", "ann@example.org bob@example.org\n")
    site.world.run(2)
    site.mail("ann@example.org")
    assert site.inside.mails[0].recipients == ("bob@example.org",)
    site.write("names", "ann@example.org\n")
    site.world.run(2)
    site.mail("ann@example.org")
    assert site.inside.mails[1].recipients == ("bob@example.org",)


def test_a_reload_takes_new_aliases_and_refuses_bad_ones(site: Site) -> None:
    site.write("names", "nonsense\n")
    site.reload()
    (refused,) = site.gateway.of(ConfigRefused)
    assert "aliases.names.path" in refused.errors[0]
    assert "names:1:" in refused.errors[0]
    site.mail("ann@example.org")
    assert site.far.mails[0].recipients == ("ann@far.test",)
    site.write("names", "new@example.org bob@example.org\n")
    site.reload()
    assert len(site.gateway.of(ConfigReloaded)) == 1
    site.mail("new@example.org")
    assert site.inside.mails[0].recipients == ("bob@example.org",)


def test_a_reload_takes_a_new_secret_and_keeps_what_is_under_way(site: Site) -> None:
    site.mail("ann@example.org")
    old = site.far.mails[0].sender
    site.write("secrets", f"another-secret-of-2027\n{SECRET}\n")
    site.reload()
    site.mail("ann@example.org")
    new = site.far.mails[1].sender
    assert new != old
    assert site.rcpt(old, "").startswith("250")
    assert site.rcpt(new, "").startswith("250")
    site.write("secrets", "another-secret-of-2027\n")
    site.reload()
    assert site.rcpt(old, "").startswith("550")
    assert site.rcpt(new, "").startswith("250")


@pytest.mark.parametrize(
    ("secrets", "what"),
    [("", "no secret"), ("# 0123456789abcdef0123456789abcdef\n", "no secret"), ("short\n", "less than 16")],
)
def test_secrets_that_cannot_serve_are_refused(site: Site, secrets: str, what: str) -> None:
    site.write("secrets", secrets)
    site.reload()
    (refused,) = site.gateway.of(ConfigRefused)
    assert "forwarding.srs_secrets" in refused.errors[0]
    assert what in refused.errors[0]
    site.mail("ann@example.org")
    assert site.far.mails[0].sender.startswith("SRS0=")


def test_aliases_may_come_and_go_on_a_reload(world: World, tmp_path: Path) -> None:
    site = Site(world, tmp_path, configuration())
    site.mail("ann@example.org")
    site.reload(text())
    site.mail("ann@example.org")
    site.reload(configuration())
    site.mail("ann@example.org")
    assert [len(site.inside.mails), len(site.far.mails)] == [2, 1]


# -- systems that are asked


SQL = """
[aliases.db]
kind = "sql"
url = "sqlite:{path}"
cache = "1m"
stale = "1h"
"""


def test_a_database_of_aliases_and_its_outage(world: World, tmp_path: Path) -> None:
    path = tmp_path / "aliases.db"

    def run(statement: str) -> None:
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(statement)

    run("CREATE TABLE aliases (address TEXT, target TEXT)")
    run("INSERT INTO aliases VALUES ('info@example.org', 'bob@example.org'), ('info@example.org', 'ann@far.test')")
    config = text(SQL.format(path=path), names='["db"]')
    site = Site(world, tmp_path, config)
    client = site.gateway.connect()
    assert slow(site, client, "info@example.org").startswith("250")
    site.reload(config + '\n[history]\nkeep = "1d"\n')
    assert rcpt(client, "info@example.org").startswith("250")  # remembered
    run("DROP TABLE aliases")
    world.run(61)
    assert slow(site, client, "info@example.org").startswith("250")  # stale
    assert rcpt(client, "bob@example.org").startswith("250")  # no alias, as far as is known
    assert slow(site, client, "other@example.org").startswith("451 4.4.3")
    (away,) = site.gateway.of(RecipientsChanged)
    assert (away.source, away.state) == ("aliases.db", "unavailable")
    assert "no such table" in away.reason
    site.gateway.stop()


def slow(site: Site, client: Client, recipient: str) -> str:
    """The answer to a RCPT that threads have to find out."""
    client.say(b"EHLO client.test\r\nRSET\r\nMAIL FROM:<eve@client.test>\r\n")
    client.received = b""
    client.say(f"RCPT TO:<{recipient}>\r\n".encode())
    while not client.received:
        call, values = site.world.reactor.from_threads.get(timeout=60)
        call(*values)
        site.world.run()
    return client.received.decode().splitlines()[-1]


def test_the_catch_all_is_not_asked_while_the_directory_is_away(world: World, tmp_path: Path) -> None:
    """Without a filter that asks the directory, mail for people who exist must not go to the catch-all, nor all else to
    the server behind."""
    people = f"""
[recipients.people]
kind = "sql"
url = "sqlite:{tmp_path}/nowhere.db"
timeout = "2s"
"""
    inside = 'recipients = "people"\ncatch_all = "bob@example.org"\n'
    site = Site(world, tmp_path, text(MORE + people, names="[]", inside=inside))
    answer = slow(site, site.gateway.connect(), "nobody@example.org")
    assert answer.startswith("451 4.4.3")
    assert slow(site, site.gateway.connect(), "postmaster@example.org").startswith("250")


def test_a_client_that_leaves_while_an_alias_is_looked_up(world: World, tmp_path: Path) -> None:
    more = """
[aliases.web]
kind = "http"
url = "http://192.0.2.77:80/{address}"
"""
    site = Site(world, tmp_path, text(more, names='["web"]'))
    world.servers["192.0.2.77", 80] = lambda: None
    client = site.gateway.connect()
    client.say(b"EHLO client.test\r\nMAIL FROM:<eve@client.test>\r\nRCPT TO:<info@example.org>\r\n")
    cast(Wire, client.transport).loseConnection()
    world.run(120)
    assert site.gateway.of(MessageAccepted) == []
    assert site.rcpt("bob@far.test").startswith("550 5.7.1")
