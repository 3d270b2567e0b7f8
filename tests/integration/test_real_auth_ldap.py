"""Logins by a real directory: searches and binds, over StartTLS and LDAPS, and what must not be believed."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from auth_ask import NO, UNAVAILABLE, ask
from directory import ADMIN, ADMIN_PASSWORD, BASE, Slapd
from parts import folder
from secured import Trust

pytestmark = pytest.mark.needs("slapd", "slapadd")

PEOPLE = {"ann": "ann's", "bob": "pass wörd", "a*b": "star"}


@pytest.fixture(scope="module")
def slapd() -> Iterator[Slapd]:
    with folder("ldap") as directory:
        trust = Trust.new(directory / "trust")
        identity = trust.issue("localhost", "127.0.0.1")
        with Slapd(directory / "slapd", PEOPLE, trust, identity) as server:
            yield server


@pytest.fixture
def elsewhere(base: Path) -> Iterator[Slapd]:
    """A directory whose certificate is for another name, where everybody has the same password."""
    trust = Trust.new(base / "trust")
    with Slapd(base / "slapd", dict.fromkeys(PEOPLE, "same"), trust, trust.issue("other.test")) as server:
        yield server


def section(slapd: Slapd, **changes: Any) -> dict[str, Any]:
    return {
        "kind": "ldap",
        "urls": [f"ldap://127.0.0.1:{slapd.port}"],
        "base": BASE,
        "ca": slapd.trust.ca,
        **changes,
    }


def ways(slapd: Slapd) -> dict[str, dict[str, Any]]:
    return {
        "clear": {},
        "starttls": {"starttls": True},
        "ldaps": {"urls": [f"ldaps://127.0.0.1:{slapd.tls_port}"]},
        "ldaps by name": {"urls": [f"ldaps://localhost:{slapd.tls_port}"]},
    }


@pytest.mark.parametrize("way", ["clear", "starttls", "ldaps", "ldaps by name"])
def test_the_right_password_and_no_other(slapd: Slapd, way: str) -> None:
    logins = [
        ("ann", "ann's"),
        ("ann", "wrong"),
        ("ANN@corp.test", "ann's"),
        ("ann.too@corp.test", "ann's"),
        ("bob", "pass wörd"),
        ("bob", "ann's"),
        ("nobody", "ann's"),
        ("ann", ""),
        ("ann", "ann's"),
    ]
    assert ask(section(slapd, **ways(slapd)[way]), *logins) == [
        "ann",
        NO,
        "ann@corp.test",
        "ann.too@corp.test",
        "bob",
        NO,
        NO,
        NO,
        "ann",
    ]


def test_names_are_values_and_never_patterns(slapd: Slapd) -> None:
    hostile = ["*", "an*", "ann)(uid=*", "*)(objectClass=*", "ann\\", "\\2a", "ann)(|(uid=bob"]
    logins = [(name, password) for name in hostile for password in PEOPLE.values()]
    assert ask(section(slapd), *logins, ("a*b", "star"), ("aXb", "star")) == [*[NO] * len(logins), "a*b", NO]


def test_the_search_may_need_a_user_and_give_the_name(slapd: Slapd, tmp_path: Path) -> None:
    (tmp_path / "password").write_text(ADMIN_PASSWORD)
    ours = {"bind_dn": ADMIN, "bind_password_file": tmp_path / "password", "name_attribute": "uid"}
    logins = [("Ann.Too@corp.test", "ann's"), ("bob@corp.test", "pass wörd"), ("bob@corp.test", "wrong")]
    assert ask(section(slapd, **ours), *logins, logins[0]) == ["ann", "bob", NO, "ann"]
    (tmp_path / "password").write_text("old")
    assert ask(section(slapd, **ours), *logins) == [UNAVAILABLE] * 3


def test_a_name_with_two_entries_is_nobodys(slapd: Slapd) -> None:
    both = "(|(uid={username})(uid=bob))"
    logins = [("ann", "ann's"), ("ann", "pass wörd"), ("bob", "pass wörd")]
    assert ask(section(slapd, filter=both), *logins) == [NO, NO, "bob"]


def test_a_dn_is_bound_as_without_a_search(slapd: Slapd) -> None:
    template = f"uid={{username}},ou=people,{BASE}"
    logins = [
        ("ann", "ann's"),
        ("a*b", "star"),
        ("ann", ""),
        ("ann", "wrong"),
        ("ann,ou=people", "ann's"),
        ("nobody", "star"),
    ]
    assert ask(section(slapd, user_dn=template), *logins) == ["ann", "a*b", NO, NO, NO, NO]


@pytest.mark.parametrize("way", ["starttls", "ldaps", "ldaps by name"])
def test_a_directory_that_is_another_is_not_believed(elsewhere: Slapd, way: str) -> None:
    """The authority is right, the name is not."""
    assert ask(section(elsewhere), ("ann", "same")) == ["ann"]
    assert ask(section(elsewhere, **ways(elsewhere)[way]), ("ann", "same"), ("ann", "wrong")) == [UNAVAILABLE] * 2


@pytest.mark.parametrize("way", ["starttls", "ldaps"])
@pytest.mark.parametrize("is_own", [True, False])
def test_an_authority_that_is_another_is_not_believed(slapd: Slapd, base: Path, way: str, is_own: bool) -> None:
    other = str(Trust.new(base / "other").ca) if is_own else None
    assert ask(section(slapd, **ways(slapd)[way]) | {"ca": other}, ("ann", "ann's")) == [UNAVAILABLE]


def test_servers_that_are_away_or_silent_are_passed_over(slapd: Slapd) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.create_server(("127.0.0.1", 0)) as closed:
        away = closed.getsockname()[1]
        closed.close()
        urls = [
            f"ldap://127.0.0.1:{away}",
            f"ldap://127.0.0.1:{silent.getsockname()[1]}",
            f"ldap://127.0.0.1:{slapd.port}",
        ]
        asked = section(slapd, urls=urls, timeout="3s")
        assert ask(asked, ("ann", "ann's"), ("ann", "wrong"), ("bob", "pass wörd")) == ["ann", NO, "bob"]
        assert ask(section(slapd, urls=urls[:2], timeout="1s"), ("ann", "ann's")) == [UNAVAILABLE]


def test_a_server_that_cannot_search_there_is_no_no(slapd: Slapd) -> None:
    assert ask(section(slapd, base="dc=elsewhere"), ("ann", "ann's")) == [UNAVAILABLE]
