"""A disk that fails under the running daemon: it says so, stops, loses nothing, and goes on when it can."""

from __future__ import annotations

import json
import os
import random
import smtplib
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from configurations import configuration
from disks import PAGE, Ext4, failing, pages_of, spoil
from ledger import DOMAIN, HOME, Hop, Ledger, Load, leftovers, queued
from parts import Gateway, free_port, wait_until

Build = Callable[[str, int], Gateway]

ROUTES = """
[routes.hop]
transport = "smtp"
hosts = ["127.0.0.1:{port}"]
retry = {{ first = "500ms", longest = "1s" }}
"""


def _size(number: int) -> int:
    return (2000, 200_000, 600)[number % 3]


def gateway_for(build: Build, port: int, hop: Hop, state: Path | None = None) -> Gateway:
    routes = ROUTES.format(port=hop.port)
    text = configuration(
        port,
        routes,
        domains={DOMAIN: "hop", HOME: "hop"},
        more='\n[spool]\nmin_free = "1MiB"\ninline_limit = "64KiB"\n',
    )
    if state is not None:
        text = text.replace('state_dir = "state"', f'state_dir = "{state}"')
    return build(text, port)


def is_refused(port: int) -> bool:
    """Whether mail is put off; anything but a 4yz reply is an error."""
    try:
        with smtplib.SMTP("127.0.0.1", port, timeout=60) as client:
            client.sendmail("", [f"no-probe@{DOMAIN}"], b"Subject: probe\r\n\r\n")
    except (smtplib.SMTPSenderRefused, smtplib.SMTPDataError, smtplib.SMTPConnectError) as error:
        if error.smtp_code >= 500:
            raise
        return True
    except smtplib.SMTPServerDisconnected:
        return True
    return False


def await_more(ledger: Ledger) -> None:
    """Wait until mail is taken again."""
    before = len(ledger.acknowledged)
    wait_until(lambda: len(ledger.acknowledged) > before + 100, "mail is taken again", 60)


def is_over(ledger: Ledger, gateway: Gateway, spool: Path) -> None:
    """All has arrived, once, and nothing is left behind."""
    wait_until(lambda: not ledger.missing(), "everything acknowledged is delivered or reported", 90)
    wait_until(lambda: queued(gateway) == set(), "the queue is empty", 60)
    excused, unexcused = ledger.again()
    print(f"{len(ledger.acknowledged)} acknowledged, 0 lost, {excused} delivered again")
    assert unexcused == []
    assert ledger.damaged() == []
    assert ledger.wrongly_told() == set()
    assert leftovers(spool) == []
    assert gateway.stop() == 0


@pytest.mark.needs("strace", "root")
@pytest.mark.timeout(240)
@pytest.mark.parametrize("error", ["EIO", "ENOSPC", "EROFS"])
def test_errors_of_the_disk_come_and_go(build: Build, error: str) -> None:
    ledger = Ledger()
    port = free_port()
    with Hop(ledger) as hop, gateway_for(build, port, hop) as gateway:
        spool = gateway.directory / "state" / "spool"
        clients = 4
        load = Load(port, ledger, clients=clients, size=_size, words=lambda number: ("ok", "later"))
        try:
            wait_until(lambda: len(ledger.acknowledged) > 100, "mail flows")
            for _ in range(2):
                with failing(gateway.pid, error):
                    wait_until(lambda: is_refused(port), "mail is put off")
                    time.sleep(1)
                    arrived = len(ledger.arrivals)
                    time.sleep(1.5)
                    # What is not known to be written is not delivered either.
                    assert len(ledger.arrivals) == arrived
                    assert is_refused(port)
                await_more(ledger)
        finally:
            load.stop()
        assert all(refusal.startswith(b"4") for refusal in load.refusals), load.refusals
        is_over(ledger, gateway, spool)
        # It did not come again even for that: what was delivered was written down when the disk let us.
        assert ledger.again() == (0, [])


@pytest.mark.needs("mount", "umount", "mkfs.ext4", "e2fsck", "root")
@pytest.mark.timeout(240)
def test_a_disk_that_becomes_read_only(base: Path, build: Build) -> None:
    ledger = Ledger()
    port = free_port()
    with Ext4(base, 160) as disk, Hop(ledger) as hop:
        state = disk.path / "state"
        gateway = gateway_for(build, port, hop, state)
        gateway.start()
        clients = 4
        load = Load(port, ledger, clients=clients, size=_size, words=lambda number: ("ok", "later"))
        try:
            wait_until(lambda: len(ledger.acknowledged) > 100, "mail flows")
            with ledger.down():
                before = set(ledger.acknowledged)
                disk.give_up()
                wait_until(lambda: is_refused(port), "mail is put off")
                time.sleep(1)
                arrived, acknowledged = len(ledger.arrivals), len(ledger.acknowledged)
                time.sleep(2)
                assert (len(ledger.arrivals), len(ledger.acknowledged)) == (arrived, acknowledged)
                gateway.stop()
        finally:
            load.stop()
        assert all(refusal.startswith(b"4") for refusal in load.refusals), load.refusals
        disk.mend()
        missing = ledger.missing(queued(gateway))
        assert missing & before == set()
        # The one sync that is under way while ext4 aborts may be said to have succeeded, and is forgotten all the same:
        # a loop of pwrite and fdatasync, with nothing of ours, shows it in one run of ten. Its group has one message of
        # each client at most.
        assert len({one.partition("-")[2] for one in missing}) <= clients
        for one in missing:
            del ledger.acknowledged[one]
        gateway.start()
        assert not is_refused(port)
        is_over(ledger, gateway, state / "spool")


@pytest.mark.timeout(240)
@pytest.mark.parametrize("stopped", [True, False], ids=["before a start", "while it runs"])
def test_content_files_that_are_cut_or_gone(build: Build, stopped: bool) -> None:
    ledger = Ledger()
    port = free_port()
    hop = Hop(ledger)
    gateway = gateway_for(build, port, hop)
    gateway.start()
    load = Load(port, ledger, clients=2, size=_size)
    wait_until(lambda: len(ledger.acknowledged) > 60, "mail is taken")
    load.stop()
    spool = gateway.directory / "state" / "spool"
    if stopped:
        assert gateway.stop() == 0
    shown = json.loads(gateway.command("queue", "list", "--json", "--limit", "100000").stdout)
    cut, gone, longer, *_ = files = sorted((spool / "content").iterdir())
    harmed = {file.name for file in files[:3]}
    os.truncate(cut, 1000)
    gone.unlink()
    with longer.open("ab") as file:
        file.write(b"x")
    bad = {one["recipient"] for one in shown if one["queue_id"] in harmed}
    assert len(bad) == 3
    if stopped:
        gateway.start()
    with hop:
        wait_until(lambda: ledger.missing() == bad, "everything else is delivered", 90)
        wait_until(lambda: not queued(gateway) - bad, "only they are left")
        wait_until(lambda: len(gateway.events("entry_set_aside")) >= 3, "and they are told of")
        assert ledger.damaged() == []
        aside = {file.name for file in (spool / "set-aside").iterdir()}
        assert {f"{one}.envelope" for one in harmed} <= aside
        assert {f"{one.name}.eml" for one in (cut, longer)} <= aside
        assert (spool / "set-aside" / f"{cut.name}.eml").stat().st_size == 1000
        assert list((spool / "content").iterdir()) == []
        assert not is_refused(port)
        assert gateway.stop() == 0


@pytest.mark.timeout(240)
@pytest.mark.parametrize("stopped", [True, False], ids=["before a start", "while it runs"])
def test_torn_pages_of_the_database(build: Build, stopped: bool) -> None:
    """Of each fifth page half is gone. What can be read is delivered, once; what cannot is kept, and told of."""
    ledger = Ledger()
    port = free_port()
    hop = Hop(ledger)
    gateway = gateway_for(build, port, hop)
    gateway.start()
    load = Load(port, ledger, clients=4, size=_size)
    wait_until(lambda: len(ledger.acknowledged) > 150, "mail is taken")
    load.stop()
    # A stop folds the log into the database; a start has read little of it.
    assert gateway.stop() == 0
    spool = gateway.directory / "state" / "spool"
    if not stopped:
        gateway.start()
    database, chance = spool / "spool.db", random.Random(2)
    pages = pages_of(database)
    before = database.read_bytes()
    for page in range(5, pages, 5):
        spoil(database, page, chance.randbytes(PAGE // 2))
    if stopped:
        gateway.start()
    with hop:
        wait_until(lambda: len(gateway.events("entry_set_aside")) > 0, "the damage is seen", 60)
        wait_until(lambda: queued(gateway) == set(), "what can be read is delivered", 90)
        lost = ledger.missing()
        print(f"{len(ledger.acknowledged)} acknowledged, {len(lost)} could not be read")
        # A message needs a few pages, and all of them whole.
        assert len(lost) < len(ledger.acknowledged) * 0.6
        assert ledger.damaged() == []
        assert ledger.again() == (0, [])
        # The old database is kept, whole, and so is every content that had a file.
        kept = list((spool / "set-aside").glob("spool-*.db"))
        assert kept or len(list((spool / "set-aside").glob("*.envelope"))) >= len(lost)
        for one in kept:
            assert one.stat().st_size >= len(before)
        assert not is_refused(port)
        assert gateway.stop() == 0
    gateway.start()
    assert queued(gateway) <= {f"no-probe@{DOMAIN}"}
    assert list((spool / "content").iterdir()) == []
    assert gateway.stop() == 0
