"""Who we are at an application, beside the signature: a token, or a name and a password, in the field Authorization."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from twisted.internet.interfaces import IReactorTime

from mailgate.config.routes import HttpRoute
from mailgate.stores.lists import FileError, WatchedFile

__all__ = ["Authorization", "LoginError", "login_of"]

Authorization = Callable[[], str]
"""The value of the field at this moment; "" where there is none."""

#: Octets of a file that holds one secret.
_LONGEST = 16 * 1024
#: What a token is made of, and more than RFC 6750 section 2.1 allows: nothing that could end the field.
_TOKEN = re.compile(r"[!-~]+")


class LoginError(ValueError):
    """What is wrong with the file of one option, without what it holds."""

    def __init__(self, option: str, errors: Iterable[str]) -> None:
        self.option = option
        self.errors = tuple(errors)
        super().__init__("; ".join(self.errors))


def login_of(route: HttpRoute, clock: IReactorTime) -> Authorization:
    """What the route says; its file is read now, and again when it changes: what cannot be used then leaves what was
    read before in force, and is logged. LoginError."""
    if route.token_file is not None:
        return _watched("token_file", route.token_file, _bearer, clock)
    if route.username is not None and route.password_file is not None:
        return _watched("password_file", route.password_file, partial(_basic, route.username), clock)
    return lambda: ""


def _watched(option: str, path: Path, value_of: Callable[[str], str], clock: IReactorTime) -> Authorization:
    def parse(lines: Iterable[tuple[int, str]]) -> str:
        return value_of("".join(text for _, text in lines))

    try:
        file = WatchedFile(path, parse, clock, split=_whole)
    except FileError as error:
        raise LoginError(option, error.errors) from None
    return lambda: file.value


def _whole(octets: bytes) -> Iterator[tuple[int, str]]:
    """All of the file: a # in a password is a part of it."""
    try:
        yield 1, octets.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise ValueError("a secret is text in UTF-8") from None


def _secret(text: str) -> str:
    if not text or len(text) > _LONGEST or not text.isprintable():
        raise ValueError("one line with the secret is expected")
    return text


def _bearer(text: str) -> str:
    if not _TOKEN.fullmatch(_secret(text)):
        raise ValueError("a token has no spaces, nor letters beyond ASCII")
    return f"Bearer {text}"


def _basic(username: str, password: str) -> str:
    return f"Basic {base64.b64encode(f'{username}:{_secret(password)}'.encode()).decode('ascii')}"
