"""The life of the daemon: commands beside it and without it, drain, reload, privileges, the demonstration."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import smtplib
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest
from configurations import configuration
from parts import Gateway, Sink, free_port, wait_until

ROUTES = """
[routes.box]
transport = "maildir"
path = "mail/{domain}/{local_part}"

[routes.down]
transport = "smtp"
hosts = ["127.0.0.1:%d"]
"""

DOMAINS = {"box.test": "box", "down.test": "down"}


def gateway_in(base: Path, port: int, **more: str) -> Gateway:
    return Gateway(base / "gateway", configuration(port, ROUTES % free_port(), domains=DOMAINS, **more), [port])  # type: ignore[arg-type]


def send(port: int, recipient: str, subject: str = "x") -> str:
    """Send one mail; the queue id that its 250 names."""
    with smtplib.SMTP("127.0.0.1", port, timeout=60) as client:
        client.ehlo("client.test")
        client.mail("ann@client.test")
        client.rcpt(recipient)
        code, text = client.data(f"Subject: {subject}\r\nMessage-ID: <{subject}@client.test>\r\n\r\nx\r\n")
        assert code == 250
        return text.decode().rpartition(" ")[2]


def queued(gateway: Gateway, *selector: str) -> list[dict[str, object]]:
    return list(json.loads(gateway.command("queue", "list", "--json", *selector).stdout))


def test_queue_commands_on_a_running_and_on_a_stopped_daemon(base: Path) -> None:
    port = free_port()
    gateway = gateway_in(base, port)
    gateway.start()
    first, second = send(port, "one@down.test", "first"), send(port, "two@down.test", "second")
    wait_until(lambda: all(entry["attempts"] for entry in queued(gateway)), "both were tried once")
    for running in (True, False):
        if not running:
            assert gateway.stop() == 0
        assert {entry["queue_id"] for entry in queued(gateway)} == {first, second}
        assert first in gateway.command("queue", "list").stdout
        assert "one@down.test" in gateway.command("queue", "show", first).stdout
        gateway.command("queue", "hold", first)
        assert {entry["queue_id"]: entry["state"] for entry in queued(gateway)}[first] == "held"
        gateway.command("queue", "release", first)
        wait_until(lambda: queued(gateway, "--id", first)[0]["state"] == "queued", "it waits again")
        gateway.command("queue", "retry", "--domain", "down.test")
        why = gateway.command("why", first).stdout
        assert "one@down.test" in why
        assert "recipients" in why or "access" in why
        assert gateway.command("queue", "show", "0000000000000000", check=False).returncode == 1
    gateway.command("queue", "delete", first, "--yes")
    assert {entry["queue_id"] for entry in queued(gateway)} == {second}
    gateway.start()
    gateway.command("queue", "delete", second, "--yes")
    wait_until(lambda: queued(gateway) == [], "the queue is empty")
    assert gateway.stop() == 0


def test_why_knows_refusals_before_the_content(base: Path) -> None:
    port = free_port()
    with gateway_in(base, port) as gateway:
        with smtplib.SMTP("127.0.0.1", port) as client:
            client.ehlo("client.test")
            client.mail("ann@client.test")
            assert client.rcpt("someone@elsewhere.test")[0] // 100 == 5

        def told() -> bool:
            found = gateway.command("why", "someone@elsewhere.test", check=False)
            return found.returncode == 0 and "elsewhere.test" in found.stdout and "relay" in found.stdout.lower()

        wait_until(told, "the history tells of the refusal")
        assert gateway.command("why", "never-seen@elsewhere.test", check=False).returncode == 1
        wait_until(lambda: bool(gateway.events("refused")), "so does the log")


def test_sigterm_lets_a_transaction_finish(base: Path) -> None:
    port = free_port()
    gateway = gateway_in(base, port)
    gateway.start()
    with smtplib.SMTP("127.0.0.1", port, timeout=60) as idle, smtplib.SMTP("127.0.0.1", port, timeout=60) as busy:
        idle.ehlo("client.test")
        busy.ehlo("client.test")
        busy.mail("ann@client.test")
        busy.rcpt("bob@box.test")
        stopper = threading.Thread(target=gateway.stop)
        stopper.start()
        assert idle.getreply()[0] == 421
        code, _ = busy.data(b"Subject: last\r\n\r\nmade it\r\n")
        assert code == 250
        assert busy.getreply()[0] == 421
        stopper.join(30)
        idle.close()
        busy.close()
    assert gateway.process is not None
    assert gateway.process.returncode == -signal.SIGTERM
    delivered = list(gateway.directory.glob("mail/box.test/bob/new/*"))
    gateway.start()
    wait_until(lambda: len(list(gateway.directory.glob("mail/box.test/bob/new/*"))) == 1, "the mail is delivered once")
    assert len(delivered) <= 1
    assert gateway.stop() == 0


def test_sighup_takes_a_good_file_and_refuses_a_bad_one(base: Path) -> None:
    port = free_port()
    with gateway_in(base, port) as gateway:
        good = gateway.file.read_text()

        def refused(recipient: str) -> bool:
            with smtplib.SMTP("127.0.0.1", port) as client:
                client.ehlo("client.test")
                client.mail("ann@client.test")
                return client.rcpt(recipient)[0] // 100 == 5

        assert refused("bob@new.test")
        gateway.file.write_text(good + '\n[domains."new.test"]\nroute = "box"\n')
        os.kill(gateway.pid, signal.SIGHUP)
        wait_until(lambda: not refused("bob@new.test"), "the new domain is served")
        gateway.file.write_text(good + "\n[gateway]\nnonsense = true\n")
        os.kill(gateway.pid, signal.SIGHUP)
        log = gateway.directory / "state" / "mailgate.log"
        wait_until(lambda: '"config_refused"' in log.read_text(), "the log says that the file was refused")
        assert not refused("bob@new.test")
        send(port, "bob@new.test")
        wait_until(lambda: len(list(gateway.directory.glob("mail/new.test/bob/new/*"))) == 1, "and delivered")


@pytest.mark.needs("root")
def test_privileges_are_dropped_after_binding(base: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    port = next(number for number in range(700, 1000) if _is_free(number))
    directory = base / "gateway"
    text = configuration(port, ROUTES % free_port(), domains=DOMAINS)
    gateway = Gateway(directory, text, [port], "--uid", str(nobody.pw_uid), "--gid", str(nobody.pw_gid))
    shutil.chown(directory, nobody.pw_uid, nobody.pw_gid)
    with gateway:
        status = Path(f"/proc/{gateway.pid}/status").read_text()
        assert f"Uid:\t{nobody.pw_uid}\t{nobody.pw_uid}" in status
        send(port, "bob@box.test")
        wait_until(lambda: len(list(directory.glob("mail/box.test/bob/new/*"))) == 1, "mail is delivered")
        state = (directory / "state").stat()
        assert (state.st_uid, state.st_mode & 0o777) == (nobody.pw_uid, 0o700)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def said_by(gateway: Gateway) -> str:
    """What a gateway prints that cannot start."""
    done = subprocess.run(  # noqa: S603
        gateway.prepare(), cwd=gateway.directory, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout + done.stderr


def test_what_cannot_start_says_why_in_one_line(base: Path) -> None:
    port = free_port()
    with gateway_in(base, port) as gateway:
        second = Gateway(base / "second", gateway.file.read_text(), [port])
        assert f"tcp:{port}" in said_by(second)
        text = gateway.file.read_text().replace(str(port), str(free_port()))
        second.file.write_text(text.replace('"state"', f'"{gateway.directory}/state"'))
        assert f"another process ({gateway.pid}) is using the spool" in said_by(second)
        second.file.write_text("[gateway]\nhostname = 3\nspeed = 9\n")
        output = said_by(second)
        assert "mailgate.toml:2: gateway.hostname" in output
        assert "mailgate.toml:3: gateway.speed" in output


def test_a_start_in_the_background_says_why_it_cannot_be(base: Path) -> None:
    port = free_port()
    with gateway_in(base, port) as gateway:
        second = Gateway(base / "second", gateway.file.read_text(), [port])
        command = [part for part in second.prepare() if part != "-n"]
        command[command.index("--pidfile=")] = f"--pidfile={base}/second.pid"
        command.insert(1, f"--logfile={base}/second.log")
        done = subprocess.run(  # noqa: S603
            command, cwd=second.directory, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 1
        assert f"tcp:{port}" in done.stdout + done.stderr
        assert not (base / "second.pid").exists()


@pytest.mark.needs("root")
def test_root_does_not_start_in_another_users_directory(base: Path) -> None:
    gateway = gateway_in(base, free_port())
    state = gateway.directory / "state"
    state.mkdir()
    shutil.chown(state, "nobody")
    assert "belongs to nobody: start with --uid" in said_by(gateway)


def test_the_demonstration(base: Path) -> None:
    """The configuration of `make run`, on its own ports."""
    root = Path(__file__).parents[2]
    inbound, outbound = free_port(), free_port()
    text = (root / "etc" / "demo.toml").read_text().replace("2525", str(inbound)).replace("2587", str(outbound))
    (base / "etc").mkdir()
    with Gateway(base / "etc", text, [inbound, outbound]):
        send(inbound, "bob@example.org")
        wait_until(lambda: len(list(base.glob("var/mail/example.org/bob/new/*"))) == 1, "Bob has his mail")
        with smtplib.SMTP("127.0.0.1", inbound) as client:
            client.ehlo("client.test")
            client.mail("ann@client.test")
            assert client.rcpt("someone@example.com")[0] // 100 == 5
            assert client.rcpt("nobody@example.org")[0] == 550
        send(outbound, "alice@example.org")
        wait_until(lambda: len(list(base.glob("var/mail/example.org/alice/new/*"))) == 1, "Alice has hers")


@pytest.mark.needs("smtp-sink")
def test_connections_to_the_next_hop_are_reused(base: Path) -> None:
    port = free_port()
    (base / "sink").mkdir()
    with Sink(base / "sink") as sink:
        routes = ROUTES % sink.port
        text = configuration(port, routes, domains=DOMAINS)
        with Gateway(base / "gateway", text, [port]):
            sessions_before = sink.log.read_bytes().count(b"sess=1 ")
            for number in range(30):
                send(port, f"u{number}@down.test")
            wait_until(lambda: sink.messages == 30, "all are delivered")
            time.sleep(0.05)
            last = sink.log.read_bytes().rpartition(b"sess=")[2]
            assert int(last.split()[0]) < 10 + sessions_before
