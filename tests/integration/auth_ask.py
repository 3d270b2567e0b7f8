"""Asks a checker of AUTH in a process that runs its reactor, as the gateway does.

`ask` is for tests; it runs this file, which takes a section and logins as JSON from its standard input.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from parts import without_strict_orders
from pydantic import TypeAdapter
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.task import react
from twisted.logger import globalLogBeginner, textFileLogObserver

from mailgate.auth.checker import AuthTools, AuthUnavailable, IAuthReactor
from mailgate.auth.credentials import PasswordLogin
from mailgate.auth.secrets import SecretVerifier
from mailgate.config.auth import AuthSection

__all__ = ["NO", "UNAVAILABLE", "ask"]

NO, UNAVAILABLE = "UnauthorizedLogin", "AuthUnavailable"


def ask(section: Mapping[str, Any], *logins: tuple[str, str]) -> list[str]:
    """What comes of each login, one after another: the user's name, NO or UNAVAILABLE. No password may be logged."""
    done = subprocess.run(  # noqa: S603  a script of our own
        [sys.executable, __file__],
        input=json.dumps([section, logins], default=str),
        capture_output=True,
        text=True,
        timeout=60,
        env=without_strict_orders(os.environ),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for _, password in logins:
        assert not password or password not in done.stderr
    answers: list[str] = json.loads(done.stdout)
    return answers


async def main(reactor: IAuthReactor) -> None:
    """Ask one after another, and print the answers."""
    globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stderr)], redirectStandardIO=False)
    values, logins = json.load(sys.stdin)
    section: Any = TypeAdapter[Any](AuthSection).validate_python(values)
    verifier = SecretVerifier(reactor)
    tools = AuthTools(name="users", reactor=reactor, secrets=verifier)
    checker = import_module(f"mailgate.auth.{section.kind}").build(section, tools)
    answers = []
    for name, password in logins:
        try:
            answer = await checker.requestAvatarId(PasswordLogin(name.encode(), password.encode()))
            answers.append(answer.decode())
        except (UnauthorizedLogin, AuthUnavailable) as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            answers.append(type(error).__name__)
    closing = checker.close()
    if closing is not None:
        await closing
    verifier.close()
    print(json.dumps(answers))


if __name__ == "__main__":
    react(main)
