"""Several workers on one spool: mail through all, limits kept across them, and what happens when one of them ends."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import random
import re
import shutil
import signal
import smtplib
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from configurations import configuration
from ledger import Ledger, Load
from parts import Gateway, Sink, children_of, end_all_in, free_port, is_alive, wait_until
from recorder import Recorder

_NUMBER = re.compile(r"^Message-ID: <(\d+)@load\.test>", re.MULTILINE)

BOX = """
[routes.box]
transport = "maildir"
path = "mail/{domain}/{local_part}"
"""

HOP = """
[routes.hop]
transport = "smtp"
hosts = ["127.0.0.1:%d"]
connections = %d
retry = { first = "500ms", longest = "1s" }
"""


class Workers(Gateway):
    """A gateway of so many workers; it has started when all of them serve."""

    def __init__(self, directory: Path, configuration: str, ports: Sequence[int], count: int) -> None:
        super().__init__(directory, configuration, ports)
        self.count = count

    def start(self) -> None:
        before = self.served()
        super().start()
        wait_until(lambda: self.served() == before + self.count, "all workers serve")

    def served(self) -> int:
        """How many have told that they serve, so far."""
        return self.log.read_bytes().count(b"accepts and delivers") if self.log.exists() else 0


def gateway_in(base: Path, port: int, routes: str = BOX, workers: int = 2) -> Workers:
    domains = {"box.test": "box"} if "routes.box" in routes else {}
    domains |= {"hop.test": "hop"} if "routes.hop" in routes else {}
    domains |= {"kill.test": "sink"} if "routes.sink" in routes else {}
    settings = f'workers = {workers}\nmemory_limit = "64KiB"'
    text = configuration(port, routes, domains=domains, gateway=settings)
    return Workers(base / "gateway", text, [port], workers)


def workers_of(gateway: Gateway) -> dict[int, int]:
    """The processes of the workers, by their numbers."""
    found: dict[int, int] = {}
    for child in children_of(gateway.pid):
        with contextlib.suppress(OSError, ValueError, IndexError):
            words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
            place = words.index(b"mailgate.worker")
            found[int(words[place + 2])] = child
    return found


def delivered(dump: Path) -> Counter[str]:
    """How often the message for each recipient of a load has reached the sink."""
    content = dump.read_text("latin-1") if dump.exists() else ""
    return Counter(f"ok-{number}@kill.test" for number in _NUMBER.findall(content))


def send(port: int, recipient: str, subject: str = "x") -> str:
    """Send one mail on a connection of its own; the queue id that its 250 names."""
    with smtplib.SMTP("127.0.0.1", port, timeout=60) as client:
        client.ehlo("client.test")
        client.mail("ann@client.test")
        client.rcpt(recipient)
        code, text = client.data(f"Subject: {subject}\r\nMessage-ID: <{subject}@client.test>\r\n\r\nx\r\n")
        assert code == 250
        return text.decode().rpartition(" ")[2]


class Hop(Recorder):
    """A next hop that counts its connections, and answers the dot only while `flows` is set, with `answer`."""

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__(offers=("PIPELINING", "8BITMIME"))
        self.flows = threading.Event()
        self.flows.set()
        self.waiting = self.open = self.most = 0
        self.answer = ""
        self._seconds = seconds
        self._count = threading.Lock()

    def _serve(self, connection: socket.socket) -> None:
        with self._count:
            self.open += 1
            self.most = max(self.most, self.open)
        try:
            super()._serve(connection)
        finally:
            with self._count:
                self.open -= 1

    def _take(self, session, content, *, by_bdat):  # type: ignore[no-untyped-def]
        with self._count:
            self.waiting += 1
        self.flows.wait(60)
        time.sleep(self._seconds)
        if self.answer:
            session.say(self.answer)
        else:
            super()._take(session, content, by_bdat=by_bdat)


@contextlib.contextmanager
def load(port: int, clients: int, domain: str, size: Callable[[int], int] = lambda _: 1000) -> Iterator[Ledger]:
    """Mail for a domain, and what is promised of it."""
    ledger = Ledger()
    under_way = Load(port, ledger, clients=clients, size=size, domain=domain)
    try:
        yield ledger
    finally:
        under_way.stop()


def test_mail_goes_through_both_and_its_story_is_found_whoever_had_it(base: Path) -> None:
    port = free_port()
    with gateway_in(base, port) as gateway:
        ids = [send(port, f"u{number}@box.test", f"m{number}") for number in range(40)]
        mail = gateway.directory / "mail" / "box.test"
        wait_until(lambda: len(list(mail.glob("*/new/*"))) == 40, "all are delivered")
        history = gateway.directory / "state" / "history"
        wait_until(lambda: all(list(place.glob("*.db")) for place in (history, history / "1")), "both have written")
        wait_until(lambda: len(gateway.events("delivered")) == 40, "the log is whole")
        for queue_id in ids[:6]:
            why = gateway.command("why", queue_id).stdout
            assert "accepted from" in why
            assert "delivered to" in why
        assert json.loads(gateway.command("queue", "list", "--json").stdout) == []
        (rate,) = json.loads(gateway.command("queue", "top", "--json").stdout)["rates"]["rates"]
        assert (rate["key"], rate["delivered"]) == ("box.test", 40)  # by both together
        assert len(gateway.events("started")) == 1
    assert len(gateway.events("stopped")) == 1


@pytest.mark.needs("smtp-sink")
@pytest.mark.timeout(240)
def test_kill_of_workers_under_load_loses_nothing_acknowledged(base: Path) -> None:
    port = free_port()
    with Sink(base / "sink", "-D", str(base / "sink" / "dump")) as sink:
        dump = base / "sink" / "dump"
        routes = HOP.replace("hop", "sink") % (sink.port, 10)
        gateway = gateway_in(base, port, routes)
        gateway.start()
        chance = random.Random(20261126)
        kills = 6
        with load(port, 8, "kill.test", lambda number: 200_000 if number % 7 == 0 else 2_000) as under_load:
            for round_ in range(kills):
                before = len(under_load.acknowledged)
                wait_until(lambda before=before: len(under_load.acknowledged) > before + 50, "mail flows")  # type: ignore[misc]
                time.sleep(chance.random())
                wait_until(lambda: len(workers_of(gateway)) == 2, "both run")
                os.kill(workers_of(gateway)[round_ % 2], signal.SIGKILL)
        wait_until(
            lambda: under_load.acknowledged.keys() <= set(delivered(dump)), "everything acknowledged is delivered", 90
        )
        counts = delivered(dump)
        twice = sum(count - 1 for count in counts.values())
        print(f"{len(under_load.acknowledged)} acknowledged, {kills} kills, 0 lost, {twice} delivered again")
        assert twice <= kills * 40
        # Whoever was to write one down may have been the next to be killed.
        wait_until(lambda: kills - 2 <= len(gateway.events("worker_ended")) <= kills, "each end is told")
        assert {one["status"] for one in gateway.events("worker_ended")} == {"killed by signal 9"}
        wait_until(lambda: gateway.served() == 2 + kills, "both serve again")
        assert gateway.stop() == 0
        assert len(list((gateway.directory / "state" / "spool").glob("incoming/**/*.*"))) == 0


def test_a_worker_that_is_killed_before_it_serves_is_replaced(base: Path) -> None:
    port = free_port()
    gateway = gateway_in(base, port)
    Gateway.begin(gateway)
    try:
        wait_until(lambda: gateway.served() == 1 and 1 in workers_of(gateway), "the second worker has been started")
        killed = workers_of(gateway)[1]
        os.kill(killed, signal.SIGKILL)
        send(port, "bob@box.test")
        wait_until(lambda: gateway.served() == 2, "both serve")
        assert workers_of(gateway)[1] != killed
        wait_until(lambda: "2 workers accept and deliver" in gateway.log.read_text(), "the start is over")
        (end,) = gateway.events("worker_ended")
        assert (end["worker"], end["status"]) == (1, "killed by signal 9")
    finally:
        assert gateway.stop() == 0


@pytest.mark.timeout(120)
def test_a_worker_that_hangs_is_replaced_and_holds_up_no_reload(base: Path) -> None:
    port = free_port()
    with gateway_in(base, port) as gateway:
        stuck = workers_of(gateway)[1]
        os.kill(stuck, signal.SIGSTOP)
        os.kill(gateway.pid, signal.SIGHUP)
        wait_until(lambda: gateway.events("worker_ended") != [], "it is killed", 60)
        (end,) = gateway.events("worker_ended")
        assert (end["worker"], "has not answered" in str(end["status"])) == (1, True)
        wait_until(lambda: gateway.events("config_reloaded") != [], "the other one goes by the new file")
        wait_until(lambda: gateway.served() == 3, "it is replaced")
        assert workers_of(gateway)[1] != stuck


def test_commands_wait_for_the_first_worker(base: Path) -> None:
    port = free_port()
    with gateway_in(base, port) as gateway:
        for _ in range(3):
            os.kill(workers_of(gateway)[0], signal.SIGKILL)
            assert json.loads(gateway.command("queue", "list", "--json").stdout) == []
            wait_until(lambda: len(workers_of(gateway)) == 2, "it is replaced")


def test_connections_to_a_site_are_limited_for_all_workers_together(base: Path) -> None:
    port = free_port()
    with Hop(seconds=0.02) as hop, gateway_in(base, port, HOP % (hop.port, 3), workers=3) as gateway:
        with load(port, 12, "hop.test") as under_load:
            wait_until(lambda: len(under_load.acknowledged) > 150, "mail flows")
            victim = workers_of(gateway)[1]
            os.kill(victim, signal.SIGKILL)  # the connections that it had are to be free for the others
            wait_until(lambda: len(under_load.acknowledged) > 300, "mail flows again")
        wait_until(lambda: len({one.content for one in hop.taken}) >= len(under_load.acknowledged), "all is there", 60)
        # The hop may see the end of the dead worker's connections later than the beginning of the next ones.
        assert 2 <= hop.most <= 3 + 3
        hop.most = hop.open
        with load(port, 12, "hop.test") as under_load:
            wait_until(lambda: len(under_load.acknowledged) > 150, "mail flows")
        # It may see the end of one that has had its turn later than the beginning of the next.
        assert hop.most <= 3 + 1


def test_connections_of_a_client_are_limited_for_all_workers_together(base: Path) -> None:
    port = free_port()
    gateway = gateway_in(base, port)
    text = gateway.file.read_text().replace("max_connections_per_client = 2000", "max_connections_per_client = 10")
    gateway.file.write_text(text)
    with gateway, contextlib.ExitStack() as stack:

        def greeted(wait: float = 0.0) -> bool:
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port), 60))
            code = client.recv(3)
            time.sleep(wait)  # news of numbers takes a moment, on a busy machine a long one
            return code == b"220"

        assert [greeted(2.0 if number == 9 else 0.0) for number in range(14)] == [True] * 10 + [False] * 4
        # Both have some, and what a dead one had does not count any more.
        os.kill(workers_of(gateway)[0], signal.SIGKILL)
        wait_until(lambda: gateway.served() == 3, "it is replaced")
        again = [greeted(0.5) for _ in range(12)]
        assert 1 <= sum(again) < 10


def test_reload_is_for_all_or_for_none_and_told_once(base: Path) -> None:
    port = free_port()
    with gateway_in(base, port) as gateway:
        good = gateway.file.read_text()

        def refused(recipient: str) -> set[bool]:
            """What the workers say, asked often enough to meet each."""
            said = set()
            for _ in range(12):
                with smtplib.SMTP("127.0.0.1", port) as client:
                    client.ehlo("client.test")
                    client.mail("ann@client.test")
                    said.add(client.rcpt(recipient)[0] // 100 == 5)
            return said

        assert refused("bob@new.test") == {True}
        gateway.file.write_text(good + '\n[domains."new.test"]\nroute = "box"\n')
        os.kill(gateway.pid, signal.SIGHUP)
        wait_until(lambda: gateway.events("config_reloaded") != [], "it was read")
        wait_until(lambda: refused("bob@new.test") == {False}, "the new domain is served")
        gateway.file.write_text(good + "\n[gateway]\nnonsense = true\n")
        os.kill(gateway.pid, signal.SIGHUP)
        wait_until(lambda: gateway.events("config_refused") != [], "the log says that the file was refused")
        assert refused("bob@new.test") == {False}
        # Who comes later goes by what the others go by, whatever the file says now.
        os.kill(workers_of(gateway)[1], signal.SIGKILL)
        wait_until(lambda: gateway.served() == 3, "it is replaced")
        time.sleep(0.3)
        assert refused("bob@new.test") == {False}
        assert len(gateway.events("config_reloaded")) == len(gateway.events("config_refused")) == 1


def test_sigterm_lets_transactions_finish_in_every_worker(base: Path) -> None:
    port = free_port()
    gateway = gateway_in(base, port)
    gateway.start()
    processes = list(workers_of(gateway).values())
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(smtplib.SMTP("127.0.0.1", port, timeout=60)) for _ in range(8)]
        for number, client in enumerate(clients):
            client.ehlo("client.test")
            client.mail("ann@client.test")
            client.rcpt(f"u{number}@box.test")
        stopper = threading.Thread(target=gateway.stop)
        stopper.start()

        def is_closed() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) != 0

        wait_until(is_closed, "the port is closed")
        for client in clients:
            assert client.data(b"Subject: last\r\n\r\nmade it\r\n")[0] == 250
            assert client.getreply()[0] == 421
            client.close()
        stopper.join(30)
    assert gateway.process is not None
    assert gateway.process.returncode == -signal.SIGTERM
    assert not any(map(is_alive, processes))
    gateway.start()
    wait_until(lambda: len(list(gateway.directory.glob("mail/box.test/*/new/*"))) == 8, "all are delivered")
    assert gateway.stop() == 0


def test_workers_end_with_their_supervisor(base: Path) -> None:
    port = free_port()
    gateway = gateway_in(base, port)
    gateway.start()
    processes = list(workers_of(gateway).values())
    send(port, "bob@box.test")
    assert gateway.stop(signal.SIGKILL) == -signal.SIGKILL
    wait_until(lambda: not any(map(is_alive, processes)), "the workers end")
    gateway.start()
    send(port, "bob@box.test")
    wait_until(lambda: len(list(gateway.directory.glob("mail/box.test/bob/new/*"))) == 2, "both are delivered")
    assert gateway.stop() == 0


def background(gateway: Gateway, *options: str) -> list[str]:
    """The command that starts it in the background, by twistd with these options."""
    command = [part for part in gateway.prepare() if part != "-n"]
    command[command.index("--pidfile=")] = f"--pidfile={gateway.directory}/pid"
    command[1:1] = [f"--logfile={gateway.directory}/log", *options]
    return command


def said_by(gateway: Gateway, *, in_background: bool = False) -> str:
    """What a gateway prints that cannot start."""
    command = background(gateway) if in_background else gateway.prepare()
    done = subprocess.run(  # noqa: S603
        command, cwd=gateway.directory, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("in_background", [False, True])
def test_what_cannot_start_says_why_in_one_line(base: Path, in_background: bool) -> None:
    port = free_port()
    with gateway_in(base, port) as gateway:
        second = Gateway(base / "second", gateway.file.read_text(), [port])
        assert f"tcp:{port}" in said_by(second, in_background=in_background)
        text = gateway.file.read_text().replace(str(port), str(free_port()))
        for one in (text, text.replace("workers = 2", "workers = 1")):
            second.file.write_text(one.replace('"state"', f'"{gateway.directory}/state"'))
            assert "is using the spool" in said_by(second, in_background=in_background)
    certificate = base / "broken.pem"
    certificate.write_text("nothing")
    second.file.write_text(f'{text}\n[tls]\ncertificate = "{certificate}"\n')
    assert "tls.certificate" in said_by(second, in_background=in_background)
    spool = second.directory / "state" / "spool"
    shutil.rmtree(spool)
    spool.write_text("no directory")
    second.file.write_text(text)
    assert "cannot start" in said_by(second, in_background=in_background)
    assert not (second.directory / "pid").exists()


def test_a_spool_that_the_first_worker_cannot_open(base: Path) -> None:
    gateway = gateway_in(base, free_port())
    spool = gateway.directory / "state" / "spool"
    spool.mkdir(parents=True)
    (spool / "worker-0.lock").mkdir()
    output = said_by(gateway)
    assert "mailgate: cannot start: cannot open the spool" in output


def in_background(gateway: Gateway, *options: str) -> int:
    """Start it in the background, by twistd with these options; its process, when the command has come back."""
    subprocess.run(background(gateway, *options), cwd=gateway.directory, timeout=60, check=True)  # noqa: S603
    return int((gateway.directory / "pid").read_text())


@contextlib.contextmanager
def ended(pid: int) -> Iterator[list[int]]:
    """The children of a gateway in the background, which is ended after that."""
    try:
        yield children_of(pid)
    finally:
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not is_alive(pid), "it ends")


def test_in_the_background(base: Path) -> None:
    port = free_port()
    gateway = gateway_in(base, port)
    with ended(in_background(gateway)) as children:
        # The command has come back: all serve.
        assert "2 workers accept and deliver" in (gateway.directory / "log").read_text()
        send(port, "bob@box.test")
        wait_until(lambda: len(list(gateway.directory.glob("mail/box.test/bob/new/*"))) == 1, "mail is delivered")
        # Workers hold nothing but what they need.
        assert all(len(os.listdir(f"/proc/{child}/fd")) < 40 for child in children)
        # The first worker answers operators, and names the process that is to be told to reload or to stop.
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(str(gateway.directory / "state" / "control"))
            control.sendall(b"GET /v1/status HTTP/1.0\r\n\r\n")
            answer = control.makefile("rb").read().rpartition(b"\r\n\r\n")[2]
        assert json.loads(answer)["pid"] == int((gateway.directory / "pid").read_text())
    assert not (gateway.directory / "pid").exists()


def may_run_python(user: str) -> bool:
    """Whether the interpreter of the tests, and its modules, are there for a user."""
    try:
        subprocess.run([sys.executable, "-c", "import twisted"], user=user, check=True)
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


@pytest.mark.needs("root")
def test_as_another_user(base: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    port = next(number for number in range(700, 1000) if socket.socket().connect_ex(("127.0.0.1", number)) != 0)
    gateway = gateway_in(base, port)
    shutil.chown(gateway.directory, nobody.pw_uid, nobody.pw_gid)
    user = f"--uid={nobody.pw_uid}", f"--gid={nobody.pw_gid}"
    if not may_run_python("nobody"):
        # A worker is a process of its own, whose interpreter its user has to reach: that is said.
        with pytest.raises(subprocess.CalledProcessError):
            in_background(gateway, *user)
        assert "worker 0: [Errno 13] Permission denied" in (gateway.directory / "log").read_text()
        # It ends, and has let go of what it had.
        wait_until(lambda: not (gateway.directory / "pid").exists(), "it ends")
        wait_until(lambda: socket.socket().connect_ex(("127.0.0.1", port)) != 0, "the port is free")
        assert end_all_in(base) == []
        return
    with ended(in_background(gateway, *user)) as children:
        for child in children:
            assert f"Uid:\t{nobody.pw_uid}\t{nobody.pw_uid}" in Path(f"/proc/{child}/status").read_text()
        send(port, "bob@box.test")
        wait_until(lambda: len(list(gateway.directory.glob("mail/box.test/bob/new/*"))) == 1, "mail is delivered")
        state = (gateway.directory / "state").stat()
        assert (state.st_uid, state.st_mode & 0o777) == (nobody.pw_uid, 0o700)


def test_a_unix_socket_is_shared_and_outlives_a_worker(base: Path) -> None:
    port = free_port()
    gateway = gateway_in(base, port)
    path = base / "in.sock"
    old = f'"tcp:{port}:interface=127.0.0.1"'
    gateway.file.write_text(gateway.file.read_text().replace(old, f'{old}, "unix:{path}:mode=600"'))
    with gateway:
        assert path.stat().st_mode & 0o777 == 0o600

        def greeted() -> bool:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(10)
                client.connect(str(path))
                return client.recv(4) == b"220 "

        assert all(greeted() for _ in range(10))
        for number in (0, 1):
            os.kill(workers_of(gateway)[number], signal.SIGTERM)
            wait_until(lambda: len(workers_of(gateway)) == 2, "it is replaced")
            assert all(greeted() for _ in range(10))
        assert path.stat().st_mode & 0o777 == 0o600
    assert not path.exists()


def test_an_operator_reaches_what_every_worker_has_in_hand(base: Path) -> None:
    port = free_port()
    with Hop() as hop, gateway_in(base, port, HOP % (hop.port, 20)) as gateway:
        hop.flows.clear()
        hop.answer = "451 4.3.0 not now"
        ids = {send(port, f"u{number}@hop.test") for number in range(12)}
        wait_until(lambda: hop.waiting >= 5, "deliveries are under way")
        listed = json.loads(gateway.command("queue", "list", "--json").stdout)
        assert {one["queue_id"] for one in listed} == ids
        gateway.command("queue", "hold", "--domain", "hop.test")
        hop.flows.set()

        def states() -> Counter[str]:
            return Counter(one["state"] for one in json.loads(gateway.command("queue", "list", "--json").stdout))

        wait_until(lambda: states() == {"held": 12}, "all are held")
        hop.answer = ""
        gateway.command("queue", "release", "--domain", "hop.test")
        wait_until(lambda: len(hop.taken) == 12, "all are delivered")
        wait_until(lambda: states() == {}, "the queue is empty")
