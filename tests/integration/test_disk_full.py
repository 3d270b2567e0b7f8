"""A disk that is full: mail is refused for now, nothing is half accepted, and it goes on when there is room."""

from __future__ import annotations

import contextlib
import smtplib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from configurations import configuration
from parts import Gateway, free_port, program, wait_until

pytestmark = pytest.mark.needs("mount", "umount", "root")

ROUTES = """
[routes.box]
transport = "maildir"
path = "{mail}/{{local_part}}"

[routes.later]
transport = "smtp"
hosts = ["127.0.0.1:{nobody}"]
"""


@pytest.fixture
def small_disk(base: Path) -> Iterator[Path]:
    """A file system of 48 MiB."""
    path = base / "small"
    path.mkdir()
    subprocess.run([program("mount"), "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(path)], check=True)  # noqa: S603
    try:
        yield path
    finally:
        subprocess.run([program("umount"), "-l", str(path)], check=True)  # noqa: S603


@pytest.mark.parametrize("min_free", ["1MiB", "0B"], ids=["stopped by min_free", "stopped by the disk itself"])
@pytest.mark.parametrize("size", [20_000, 300_000], ids=["in the database", "in files"])
def test_a_full_disk_defers_and_loses_nothing(base: Path, small_disk: Path, min_free: str, size: int) -> None:
    port = free_port()
    mail = base / "mail"
    text = configuration(
        port,
        ROUTES.format(mail=mail, nobody=free_port()),
        domains={"box.test": "box", "later.test": "later"},
        more=f'\n[spool]\nmin_free = "{min_free}"\n',
    ).replace('state_dir = "state"', f'state_dir = "{small_disk}/state"')
    body = b"Subject: fill\r\n\r\n" + (b"x" * 70 + b"\r\n") * (size // 72)
    with Gateway(base / "gateway", text, [port]) as gateway:
        taken = 0
        answers: list[int] = []
        while len(answers) < 5:
            assert taken < 2000, "the disk never filled"
            with smtplib.SMTP("127.0.0.1", port, timeout=60) as client:
                try:
                    client.sendmail("<>", ["x@later.test"], body)
                    taken += 1
                except (smtplib.SMTPDataError, smtplib.SMTPSenderRefused) as error:
                    answers.append(error.smtp_code)
        assert set(answers) <= {451, 452}
        print(f"{taken} taken before the disk was full")
        queued = gateway.command("queue", "list", "--limit", "10000", "--json").stdout
        assert queued.count('"x@later.test"') == taken

        def is_gone() -> bool:
            # What is under delivery is left alone, until its attempt is over.
            gateway.command("queue", "delete", "--recipient", "x@later.test", "--yes", check=False)
            return "x@later.test" not in gateway.command("queue", "list", "--json").stdout

        def sends() -> bool:
            with contextlib.suppress(smtplib.SMTPException), smtplib.SMTP("127.0.0.1", port, timeout=60) as client:
                client.sendmail("<>", ["bob@box.test"], b"Subject: after\r\n\r\nroom again\r\n")
                return True
            return False

        wait_until(is_gone, "the queue is empty", 60)
        wait_until(sends, "mail is taken again", 60)
        wait_until(lambda: len(list((mail / "bob" / "new").glob("*"))) == 1, "and delivered")
        assert gateway.stop() == 0
