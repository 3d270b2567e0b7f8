"""Recipients in a real directory: read whole and in part, and gone; and asked about one by one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from active_directory import PlayedDirectory
from directory import ADMIN, ADMIN_PASSWORD, BASE
from parts import folder, wait_until
from recipients_ask import NO, PUT_OFF, RESTRICTED, YES, AskingGateway
from secured import Trust

pytestmark = pytest.mark.needs("slapd", "slapadd", "ldapadd", "ldapmodify")

COUNT = 700


@pytest.fixture
def directory() -> Iterator[PlayedDirectory]:
    with folder("ad") as base:
        trust = Trust.new(base / "trust")
        with PlayedDirectory(base / "slapd", trust, trust.issue("localhost", "127.0.0.1"), COUNT) as server:
            yield server


def section(directory: PlayedDirectory, folder: Path, **changes: Any) -> dict[str, Any]:
    word = folder / "word"
    word.write_text(ADMIN_PASSWORD)
    word.chmod(0o600)
    return {
        "kind": "ldap",
        "urls": [f"ldaps://localhost:{directory.tls_port}"],
        "ca": directory.trust.ca,
        "bind_dn": ADMIN,
        "bind_password_file": word,
        "base": BASE,
        "page_size": 100,
        "refresh": "500ms",
        **changes,
    }


def test_a_directory_is_kept_in_memory_and_outlived(directory: PlayedDirectory, base: Path) -> None:
    asked = section(directory, base)
    with AskingGateway(base / "gateway", "corp.test", {"ad": asked}, gateway="workers = 2") as gateway:
        # the last page too, whichever process answers
        last = f"u{COUNT - 1}"
        wait_until(lambda: all(gateway.says(f"{last}@corp.test") == [YES] for _ in range(10)), "it has been read")
        addresses = [
            "U0@CORP.test",
            f"{last}.too@corp.test",
            "u0+tag@corp.test",
            f"u{COUNT}@corp.test",
            "all@corp.test",
        ]
        assert gateway.says(*addresses) == [YES, YES, YES, NO, RESTRICTED]

        directory.add("new")
        directory.move("u1", "moved@corp.test")
        wait_until(lambda: gateway.says("new@corp.test", "moved@corp.test") == [YES, YES], "changes are seen")
        wait_until(lambda: gateway.says("u1@corp.test") == [NO], "what is gone, too")

        directory.stop()
        assert gateway.says("u0@corp.test", "nobody@corp.test", "all@corp.test") == [YES, NO, RESTRICTED]
        gateway.stop()
        gateway.start()
        wait_until(lambda: gateway.says("new@corp.test", "nobody@corp.test") == [YES, NO], "it is read from the file")
        log = gateway.directory / "state" / "mailgate.log"
        wait_until(lambda: '"unavailable"' in log.read_text(), "the outage is told")

        directory.start()
        wait_until(lambda: '"available"' in log.read_text(), "its end is told")


def test_a_mass_that_vanishes_stays_until_an_operator_has_it_so(directory: PlayedDirectory, base: Path) -> None:
    asked = section(directory, base, full_refresh="1s")
    with AskingGateway(base / "gateway", "corp.test", {"ad": asked}) as gateway:
        wait_until(lambda: gateway.says("u0@corp.test") == [YES], "it has been read")
        directory.remove("u0")
        wait_until(lambda: gateway.says("u0@corp.test") == [NO], "one has vanished")
        directory.remove(*(f"u{number}" for number in range(100, 400)))
        directory.add("late")
        wait_until(lambda: gateway.says("late@corp.test") == [YES], "what is new is taken")
        log = gateway.directory / "state" / "mailgate.log"
        wait_until(lambda: '"holding"' in log.read_text(), "it is told")
        assert gateway.says("u100@corp.test", "u399.too@corp.test", "u0@corp.test") == [YES, YES, NO]
        (gateway.directory / "state" / "recipients" / "ad.snapshot").unlink()
        wait_until(lambda: gateway.says("u100@corp.test") == [NO], "the operator has it so")
        assert gateway.says("u99@corp.test", "late@corp.test") == [YES, YES]


@pytest.mark.parametrize("way", ["clear", "starttls", "ldaps"])
def test_each_address_may_be_asked_for(directory: PlayedDirectory, base: Path, way: str) -> None:
    ways: dict[str, dict[str, Any]] = {
        "clear": {"urls": [f"ldap://127.0.0.1:{directory.port}"]},
        "starttls": {"urls": [f"ldap://127.0.0.1:{directory.port}"], "starttls": True},
        "ldaps": {},
    }
    asked = section(directory, base, snapshot=False, cache="1s", cache_unknown="0s", **ways[way])
    with AskingGateway(base / "gateway", "corp.test", {"ad": asked}) as gateway:
        addresses = ["u0@corp.test", "U5.TOO@corp.test", "nobody@corp.test", "all@corp.test", "*@corp.test"]
        assert gateway.says(*addresses) == [YES, YES, NO, RESTRICTED, NO]
        directory.add("nobody")
        assert gateway.says("nobody@corp.test") == [YES]
        directory.stop()
        wait_until(lambda: gateway.says("nobody2@corp.test") == [PUT_OFF], "nobody answers")
        assert gateway.says("u0@corp.test", "never-seen@corp.test") == [YES, PUT_OFF]


def test_a_directory_that_is_another_is_not_believed(directory: PlayedDirectory, base: Path) -> None:
    other = Trust.new(base / "other").ca
    asked = section(directory, base, ca=other)
    with AskingGateway(base / "gateway", "corp.test", {"ad": asked}) as gateway:
        assert gateway.says("u0@corp.test", "nobody@corp.test") == [PUT_OFF, PUT_OFF]
