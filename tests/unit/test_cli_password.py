"""`mailgate password`: the line that it prints, and what it refuses."""

from __future__ import annotations

import pytest
from click.testing import CliRunner, Result

from mailgate.auth.file import parse_users
from mailgate.cli import password as module
from mailgate.cli.main import main


def run(*arguments: str, given: bytes = b"secret\n") -> Result:
    result = CliRunner().invoke(main, ["password", *arguments], input=given)
    assert "secret" not in result.output
    return result


def test_the_line_is_one_of_the_file_of_users() -> None:
    result = run("Ann@example.org")
    assert (result.exit_code, result.stderr) == (0, "")
    line, end = result.stdout.split("\n")
    assert (line[:16], end) == ("Ann@example.org:", "")
    user = parse_users([(1, line)]).find("ann@example.org")
    assert user is not None
    assert user.secret.matches(b"secret")
    assert user.secret.scram is not None
    assert user.secret.scram.matches("secret")


def test_scram_can_be_left_out() -> None:
    result = run("ann", "--no-scram")
    assert result.stdout.startswith("ann:$argon2id$")
    assert "SCRAM" not in result.stdout


@pytest.mark.parametrize("given", [b"secret", b"secret\n", b"secret\r\n", b"secret\nmore\n"])
def test_the_password_is_one_line_of_the_input(given: bytes) -> None:
    user = parse_users([(1, run("ann", "--no-scram", given=given).stdout.strip())]).find("ann")
    assert user is not None
    assert user.secret.matches(b"secret")


def test_the_spaces_of_a_password_are_its_own() -> None:
    user = parse_users([(1, run("ann", "--no-scram", given=b" two  words \n").stdout.strip())]).find("ann")
    assert user is not None
    assert user.secret.matches(b" two  words ")


@pytest.mark.parametrize(
    ("given", "what"),
    [
        (b"", "empty"),
        (b"\n", "empty"),
        (b"sec\x07ret\n", "control characters"),
        (b"sec\tret\n", "control characters"),
        (b"sec\xffret\n", "no UTF-8"),
        ("sec\u202eret\n".encode(), "cannot be used"),
        (b"s" * 1025 + b"\n", "longer than 1024 octets"),
        (b"s" * 9999, "longer than 1024 octets"),
    ],
)
def test_what_is_no_password_is_refused(given: bytes, what: str) -> None:
    result = run("ann", given=given)
    assert (result.exit_code, result.stdout) == (1, "")
    assert what in result.stderr


@pytest.mark.parametrize("user", ["", "a:b", "a b", "#a"])
def test_what_is_no_name_is_a_matter_of_usage(user: str) -> None:
    result = run(user)
    assert (result.exit_code, result.stdout) == (2, "")


def test_a_password_on_the_command_line_is_not_taken() -> None:
    assert CliRunner().invoke(main, ["password", "ann", "other"], input="x\n").exit_code == 2


def test_on_a_terminal_it_is_asked_for_twice_until_both_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal:
        def isatty(self) -> bool:
            return True

    class System:
        stdin = Terminal()

    monkeypatch.setattr(module, "sys", System)
    result = run("ann", "--no-scram", given=b"secret\nsecrets\nsecret\nsecret\n")
    assert result.exit_code == 0
    assert result.stderr.count("Password") == 2
    user = parse_users([(1, result.stdout.strip())]).find("ann")
    assert user is not None
    assert user.secret.matches(b"secret")


def test_an_empty_password_is_refused_on_a_terminal_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "sys", type("System", (), {"stdin": type("T", (), {"isatty": lambda self: True})()}))
    result = run("ann", given=b"\n\n")
    assert result.exit_code == 1
    assert "empty" in result.stderr


def test_the_command_is_in_the_list() -> None:
    assert "password" in CliRunner().invoke(main, ["--help"]).stdout
