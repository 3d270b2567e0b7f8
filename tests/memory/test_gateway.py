"""The life of a gateway: start, reload, drain and stop, on its clock."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailgate.events import (
    ConfigRefused,
    ConfigReloaded,
    Deferred,
    Delivered,
    SessionClosed,
    Started,
    Stopped,
    Stopping,
)
from mailgate.interfaces import SpoolError
from mailgate.spool.sqlite import SqliteSpool
from tests.memory.configured import HOST, ZONE, configuration
from tests.memory.gateway import MemoryGateway, World
from tests.memory.hop import NextHop

NEW = '\n[domains."new.test"]\nroute = "inside"\n'


def start(world: World, tmp_path: Path, text: str = "") -> MemoryGateway:
    return MemoryGateway(world, tmp_path / "gw", text or configuration(), ZONE).start()


def reload(gateway: MemoryGateway, text: str) -> None:
    gateway.file.write_text(text)
    gateway.reload()
    gateway.world.run()


# -- start


def test_it_says_when_it_has_started_and_stopped(world: World, tmp_path: Path) -> None:
    gateway = start(world, tmp_path)
    (started,) = gateway.of(Started)
    assert started.listeners == ("mx", "out", "lmtp")
    state = tmp_path / "gw" / "state"
    assert state.stat().st_mode & 0o777 == 0o700
    gateway.stop()
    assert [type(event) for event in gateway.seen] == [Started, Stopping, Stopped]
    assert gateway.timers() == []


def test_nothing_is_delivered_before_the_spool_has_been_swept(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hop = NextHop(world)
    hop.down()
    gateway = start(world, tmp_path)
    gateway.connect().mail("ann@client.test", "bob@example.org")
    gateway.stop()
    hop.up()
    sweeps = iter([SpoolError("not yet"), SpoolError("not yet")])
    sweep = SqliteSpool.sweep

    def failing(spool: SqliteSpool) -> object:
        error = next(sweeps, None)
        if error is None:
            return sweep(spool)

        def run() -> None:
            raise error

        return spool._submit(run)

    monkeypatch.setattr(SqliteSpool, "sweep", failing)
    again = start(world, tmp_path)
    (reply,) = again.connect().mail("ann@client.test", "eve@example.org")
    assert reply.startswith("250 ")
    world.run(1.5)
    assert again.of(Started) == []
    assert hop.mails == []
    world.run(1)
    assert len(again.of(Started)) == 1
    assert {mail.recipients for mail in hop.mails} >= {("eve@example.org",)}
    world.run(600)
    assert again.queue() == {}
    assert len(hop.mails) == 2


def test_a_spool_in_use_is_a_reason_not_to_start(world: World, tmp_path: Path) -> None:
    start(world, tmp_path)
    second = MemoryGateway(world, tmp_path / "gw", configuration())
    with pytest.raises(SystemExit, match="another process"):
        second.startService()


@pytest.mark.parametrize("url", ["sqlite:", "memory:"])
def test_what_filters_remember_outlives_a_restart_where_it_is_to(world: World, tmp_path: Path, url: str) -> None:
    text = f'{configuration()}\n[counters]\nurl = "{url}"\n'
    gateway = start(world, tmp_path, text)
    kept = gateway._team.kept
    assert kept is not None
    kept.put("key", b"value", 86400.0)
    kept.hit("key", 86400.0)
    gateway.stop()
    assert (tmp_path / "gw" / "state" / "counters.db").exists() == (url == "sqlite:")
    again = start(world, tmp_path, text)._team.kept
    assert again is not None
    assert (again.get("key"), again.peek("key", 86400.0)) == ((b"value", 1) if url == "sqlite:" else (None, 0))


def test_a_list_that_cannot_be_read_is_a_reason_not_to_start(world: World, tmp_path: Path) -> None:
    text = configuration('\n[recipients.people]\nkind = "list"\npath = "people"\n').replace(
        'route = "inside"\n', 'route = "inside"\nrecipients = "people"\n', 1
    )
    (tmp_path / "gw").mkdir()
    (tmp_path / "gw" / "people").write_text("ann@example.org\nnobody\n")
    gateway = MemoryGateway(world, tmp_path / "gw", text)
    with pytest.raises(SystemExit, match="people"):
        gateway.startService()


# -- reload


def test_a_reload_is_for_new_sessions(world: World, tmp_path: Path) -> None:
    hop = NextHop(world)
    gateway = start(world, tmp_path)
    old = gateway.connect()
    old.say(b"EHLO client.test\r\nMAIL FROM:<ann@client.test>\r\nRCPT TO:<bob@example.org>\r\n")
    reload(gateway, configuration(NEW))
    (event,) = gateway.of(ConfigReloaded)
    assert event.needs_restart == ()
    assert old.say(b"RCPT TO:<x@new.test>\r\n")[0].startswith("550 5.7.1")
    assert old.say(b"DATA\r\n")[0].startswith("354")
    assert old.say(b"Subject: x\r\n\r\n.\r\n")[0].startswith("250 ")
    assert gateway.connect().mail("ann@client.test", "x@new.test")[0].startswith("250 ")
    assert [mail.recipients for mail in hop.mails] == [("bob@example.org",), ("x@new.test",)]


def test_a_wrong_file_is_refused_and_the_old_one_stays(world: World, tmp_path: Path) -> None:
    hop = NextHop(world)
    gateway = start(world, tmp_path)
    for text, part in (
        (configuration() + "\n[nonsense]\n", "nonsense"),
        (configuration('\n[domains."x.test"]\nroute = "nowhere"\n'), "nowhere"),
        ("", "gateway"),
        ("[", "syntax"),
    ):
        reload(gateway, text)
        assert part in " ".join(gateway.of(ConfigRefused)[-1].errors)
    gateway.file.unlink()
    gateway.reload()
    assert len(gateway.of(ConfigRefused)) == 5
    assert gateway.of(ConfigReloaded) == []
    gateway.connect().mail("ann@client.test", "bob@example.org")
    assert len(hop.mails) == 1


def test_a_list_that_breaks_at_a_reload_leaves_the_old_one(world: World, tmp_path: Path) -> None:
    gateway = start(world, tmp_path)
    (tmp_path / "gw" / "people").write_text("nobody\n")
    people = '\n[recipients.people]\nkind = "list"\npath = "people"\n\n[domains."new.test"]\nroute = "inside"\n'
    reload(gateway, configuration(people + 'recipients = "people"\n'))
    assert len(gateway.of(ConfigRefused)) == 1
    client = gateway.connect()
    client.say(b"EHLO client.test\r\nMAIL FROM:<ann@client.test>\r\n")
    assert client.say(b"RCPT TO:<bob@example.org>\r\n") == ["250 2.1.5 Recipient OK"]


def test_what_a_reload_cannot_change_is_told_and_stays(world: World, tmp_path: Path) -> None:
    hop = NextHop(world)
    gateway = start(world, tmp_path)
    new = (
        configuration(NEW, hostname="other.example.org")
        .replace('state_dir = "state"', 'state_dir = "elsewhere"')
        .replace('endpoints = ["tcp:25"]', 'endpoints = ["tcp:2525"]')
        .replace('inline_limit = "32KiB"', "max_active = 200")
        .replace('protocol = "lmtp"', 'protocol = "smtp"')
    )
    for number in (1, 2):  # as often as it is asked
        reload(gateway, new)
        event = gateway.of(ConfigReloaded)[-1]
        assert len(gateway.of(ConfigReloaded)) == number
        assert event.needs_restart == (
            "gateway.hostname",
            "gateway.state_dir",
            "listeners.lmtp",
            "listeners.mx",
            "spool",
        )
    client = gateway.connect()
    assert client.received == b"220 gw.example.org ESMTP mailgate\r\n"
    client.mail("ann@client.test", "x@new.test")
    assert b"by gw.example.org " in hop.mails[0].octets
    assert gateway.connect("lmtp").say(b"LHLO client.test\r\n")[0] == "250-gw.example.org"
    assert not (tmp_path / "gw" / "elsewhere").exists()
    reload(gateway, configuration())
    assert gateway.of(ConfigReloaded)[-1].needs_restart == ()


def test_a_listener_that_is_gone_from_the_file_serves_until_the_restart(world: World, tmp_path: Path) -> None:
    hop = NextHop(world)
    gateway = start(world, tmp_path)
    text = configuration()
    head, _, rest = text.partition('[[listeners]]\nname = "out"')
    reload(gateway, head + rest[rest.index("[[listeners]]") :])
    assert gateway.of(ConfigReloaded)[-1].needs_restart == ("listeners.out",)
    gateway.connect("out", "10.0.0.1").mail("ann@client.test", "bob@example.org")
    assert len(hop.mails) == 1


def test_a_reload_in_the_middle_of_a_delivery(world: World, tmp_path: Path) -> None:
    old, new = NextHop(world), NextHop(world, "192.0.2.2")
    old.script["END"] = None
    inside = 'transport = "smtp"\nhosts = ["{}"]\nconnections = 1'
    gateway = start(world, tmp_path, configuration(inside=inside.format(HOST)))
    gateway.connect().mail("ann@client.test", "one@example.org")
    gateway.connect().mail("ann@client.test", "two@example.org")
    reload(gateway, configuration(inside=inside.format("192.0.2.2")))
    gateway.connect().mail("ann@client.test", "three@example.org")
    assert [mail.recipients for mail in new.mails] == [("three@example.org",)]
    del old.script["END"]
    world.run(700)  # nobody answers: the fate of the first is not known, and the second goes its old way
    assert ("two@example.org",) in [mail.recipients for mail in old.mails]
    world.run(2000)
    assert gateway.queue() == {}
    assert len(gateway.of(Delivered)) == 3
    assert [mail.recipients for mail in new.mails] == [("three@example.org",), ("one@example.org",)]


def test_queued_mail_of_a_route_that_is_gone_goes_where_the_file_says_now(world: World, tmp_path: Path) -> None:
    hop, other = NextHop(world), NextHop(world, "192.0.2.2")
    hop.down()
    gateway = start(world, tmp_path)
    gateway.connect().mail("ann@client.test", "bob@example.org")
    text = configuration().replace('"inside"', '"indoors"').replace("routes.inside", "routes.indoors")
    reload(gateway, text.replace(HOST, "192.0.2.2"))
    world.run(400)
    assert [mail.recipients for mail in other.mails] == [("bob@example.org",)]


# -- stop


def test_a_stop_lets_idle_clients_go_and_transactions_finish(world: World, tmp_path: Path) -> None:
    hop = NextHop(world)
    gateway = start(world, tmp_path)
    idle, busy = gateway.connect(), gateway.connect()
    busy.say(b"EHLO client.test\r\nMAIL FROM:<ann@client.test>\r\nRCPT TO:<bob@example.org>\r\nDATA\r\n")
    idle.received = b""
    stopped = gateway.stopService()
    world.run(5)
    assert idle.received.startswith(b"421 ")
    assert idle.is_closed
    assert not stopped.called
    replies = busy.say(b"Subject: last\r\n\r\n.\r\n")
    assert [reply[:3] for reply in replies] == ["250", "421"]
    assert busy.is_closed
    assert hop.mails[0].recipients == ("bob@example.org",)
    world.gateways.remove(gateway)
    world.wait(stopped)
    assert {event.cause for event in gateway.of(SessionClosed)} == {"shutdown"}


def test_a_client_that_does_not_end_is_cut_off_in_time(world: World, tmp_path: Path) -> None:
    gateway = start(world, tmp_path)
    client = gateway.connect()
    client.say(b"EHLO client.test\r\nMAIL FROM:<ann@client.test>\r\nRCPT TO:<bob@example.org>\r\nDATA\r\n")
    before = world.reactor.seconds()
    gateway.stop()
    assert 30 <= world.reactor.seconds() - before < 33
    assert client.is_closed
    assert isinstance(gateway.seen[-1], Stopped)


def test_a_delivery_that_does_not_end_is_cut_off_and_comes_again(world: World, tmp_path: Path) -> None:
    hop = NextHop(world)
    hop.script["DATA"] = None
    inside = f'transport = "smtp"\nhosts = ["{HOST}"]\nconnections = 1'
    gateway = start(world, tmp_path, configuration(inside=inside))
    gateway.connect().mail("ann@client.test", "one@example.org")
    gateway.connect().mail("ann@client.test", "two@example.org")
    before = world.reactor.seconds()
    gateway.stop()
    assert 30 <= world.reactor.seconds() - before < 33
    (deferred,) = gateway.of(Deferred)
    assert deferred.recipient == "one@example.org"
    hop.script.clear()
    again = start(world, tmp_path, configuration(inside=inside))
    assert [mail.recipients for mail in hop.mails] == [("two@example.org",)]
    world.run(400)
    assert [mail.recipients for mail in hop.mails] == [("two@example.org",), ("one@example.org",)]
    assert again.queue() == {}


def test_a_delivery_that_ends_within_the_drain_is_done(world: World, tmp_path: Path) -> None:
    hop = NextHop(world)
    hop.script["END"] = None
    gateway = start(world, tmp_path)
    gateway.connect().mail("ann@client.test", "bob@example.org")
    stopped = gateway.stopService()
    world.run(5)
    assert not stopped.called
    (end,) = [end for end in world._ends if type(end.protocol).__name__ == "_Server"]
    end.write(b"250 2.0.0 taken, at last\r\n")
    world.run()
    world.gateways.remove(gateway)
    world.wait(stopped)
    assert len(gateway.of(Delivered)) == 1
    assert start(world, tmp_path).queue() == {}
    assert len(hop.mails) == 1


def test_a_stop_before_the_start_is_over(world: World, tmp_path: Path) -> None:
    gateway = MemoryGateway(world, tmp_path / "gw", configuration())
    world.wait(gateway.stopService())
    gateway = MemoryGateway(world, tmp_path / "gw", configuration())
    gateway.privilegedStartService()
    gateway.events.add(gateway)  # type: ignore[arg-type]  # as much of an observer as is asked
    gateway.startService()  # the sweep has not been answered yet
    world.wait(gateway.stopService())
    assert gateway.of(Started) == []
    assert gateway.timers() == []
