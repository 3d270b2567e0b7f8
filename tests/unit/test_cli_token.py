"""`mailgate token`: the secret, shown once, and the lines for the configuration."""

from __future__ import annotations

import tomllib

import pytest
from click.testing import CliRunner, Result

from mailgate.cli.main import main
from mailgate.config.http import HttpSection
from mailgate.web.tokens import hash_of


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["token", *arguments])


def test_the_lines_are_those_of_the_configuration() -> None:
    result = run(
        "site.monitor", "--scope", "metrics", "--scope", "status", "--scope", "metrics", "--expires", "2030-01-31"
    )
    assert result.exit_code == 0
    secret = result.stderr.splitlines()[-1]
    assert secret not in result.stdout
    section = HttpSection.model_validate(tomllib.loads(result.stdout)["http"])
    token = section.tokens["site.monitor"]
    assert token.hash == hash_of(secret)
    assert (token.scopes, str(token.expires)) == (["metrics", "status"], "2030-01-31")


def test_each_secret_is_another() -> None:
    assert len({run("one", "--scope", "send").stderr for _ in range(5)}) == 5


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("a b", "--scope", "send"), 1, "a name has letters"),
        (("one",), 2, "Missing option '--scope'"),
        (("one", "--scope", "everything"), 2, "queue:read"),
        (("one", "--scope", "send", "--expires", "tomorrow"), 2, "tomorrow"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], code: int, text: str) -> None:
    result = run(*arguments)
    assert (result.exit_code, text in result.stderr, result.stdout) == (code, True, "")
