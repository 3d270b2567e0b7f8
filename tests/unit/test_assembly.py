"""What is built anew on a reload: who knows users goes on for as long as nothing about them has changed."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
from twisted.internet.testing import MemoryReactorClock

from mailgate.addressing import make_users
from mailgate.auth.checker import IAuthReactor
from mailgate.auth.portal import Authenticator
from mailgate.config.load import ConfigError, Loaded, load
from mailgate.pipeline.registry import Registry
from tests.unit.auth_stand import stored
from tests.unit.certificates import authority

TEXT = """
[gateway]
hostname = "gw.example.org"
state_dir = "state"

[[listeners]]
name = "submission"
role = "outbound"
endpoints = ["tcp:587"]
auth = "users"
auth_without_tls = true
pipeline = "in"

[pipelines.in]
filters = ["headers"]

[auth.users]
kind = "file"
path = "users"

[auth.service]
kind = "http"
url = "https://service.example.org/"
token_file = "token"
ca = "ca.pem"

[tls.client_fingerprints]
"""


class Place:
    """A file of configuration, those that it names, and what is made of them from one reload to the next."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.reactor = cast(IAuthReactor, MemoryReactorClock())
        self.users: dict[str, Authenticator] = {}
        self.write("mailgate.toml", TEXT)
        self.write("users", f"ann:{stored('hunter2')}\n")
        self.write("token", "t0ken\n")
        authority().write_certificate(folder / "ca.pem")

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def make(self) -> set[str]:
        """The names of those that are new."""
        before, self.users = self.users, make_users(self._loaded(), self.reactor, self.users)
        return {name for name, one in self.users.items() if before.get(name) is not one}

    def errors(self) -> str:
        with pytest.raises(ConfigError) as error:
            make_users(self._loaded(), self.reactor, self.users)
        return "\n".join(error.value.errors)

    def _loaded(self) -> Loaded:
        return load(self.folder / "mailgate.toml", Registry().find)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(tmp_path)
    assert made.make() == {"users", "service"}
    return made


def test_what_has_not_changed_goes_on(place: Place) -> None:
    assert place.make() == set()
    place.write("mailgate.toml", TEXT + '\n[history]\nkeep = "1d"\n')
    place.write("token", "t0ken\n")  # written anew, and the same
    assert place.make() == set()


@pytest.mark.parametrize(
    ("old", "new", "made"),
    [
        ('url = "https://service.', 'url = "https://other.', {"service"}),
        ('ca = "ca.pem"', "", {"service"}),
        ('path = "users"', 'path = "users"\ncache = "1s"', {"users"}),
        ("[tls.client_fingerprints]", f'[tls.client_fingerprints]\nann = "{"ab" * 32}"', {"users", "service"}),
        ("[auth.service]", "[auth.other]", {"other"}),
    ],
)
def test_what_has_another_section_is_new(place: Place, old: str, new: str, made: set[str]) -> None:
    place.write("mailgate.toml", TEXT.replace(old, new))
    assert place.make() == made
    assert place.make() == set()


@pytest.mark.parametrize(("name", "made"), [("token", "service"), ("ca.pem", "service"), ("users", "users")])
def test_what_has_another_file_is_new(place: Place, name: str, made: str) -> None:
    if name == "ca.pem":
        authority("Another authority").write_certificate(place.folder / name)
    else:
        place.write(name, f"ann:{stored('another')}\n")
    assert place.make() == {made}
    assert place.make() == set()


@pytest.mark.parametrize("name", ["token", "ca.pem", "users"])
@pytest.mark.parametrize("is_gone", [True, False])
def test_a_file_that_has_become_useless_is_refused(place: Place, name: str, is_gone: bool) -> None:
    if is_gone:
        (place.folder / name).unlink()
    else:
        place.write(name, "")
        if name == "users":
            place.write(name, "no line of users\n")
    errors = place.errors()
    assert name in errors
    assert f"auth.{'users' if name == 'users' else 'service'}" in errors


def test_open_checks_are_counted_together_and_through_reloads(place: Place) -> None:
    guesses = place.users["users"].guesses
    place.write("mailgate.toml", TEXT.replace('path = "users"', 'path = "users"\ncache = "1s"'))
    assert place.make() == {"users"}
    assert {id(one.guesses) for one in place.users.values()} == {id(guesses)}
