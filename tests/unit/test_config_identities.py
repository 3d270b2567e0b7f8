"""Warnings about whom we believe and whom we show a password."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mailgate.config.load import ConfigError
from tests.unit.config_file import load_text

BEGIN = """
[gateway]
hostname = "mx.example.org"
state_dir = "state"
[pipelines.p]
filters = ["headers"]
[routing]
default = "inside"
[routes.inside]
transport = "smtp"
hosts = ["10.0.0.5"]
"""
LISTENER = """
[[listeners]]
name = "mx"
role = "outbound"
endpoints = ["tcp:25"]
pipeline = "p"
trusted_networks = ["10.0.0.0/8"]
"""
USERS = '[auth.users]\nkind = "file"\npath = "users"\n'
TLS = '[tls]\ncertificate = "server.pem"\n'
ROUTE_AUTH = "[routes.inside.auth]\nusername = 'u'\npassword_file = 'p'\n"

Told = Callable[[str], list[str]]


@pytest.fixture
def told(tmp_path: Path) -> Told:
    """The warnings about a file, or its errors, without file and line."""

    def tell(text: str) -> list[str]:
        try:
            lines = load_text(tmp_path, text).warnings
        except ConfigError as error:
            lines = error.errors
        return [line.partition(": ")[2] for line in lines]

    return tell


def test_a_sound_file_has_none(told: Told) -> None:
    assert told(BEGIN + LISTENER + 'auth = "users"\n' + USERS + TLS) == []


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        ("proxy_protocol_from", '["0.0.0.0/0"]', "may pretend to be any client"),
        ("xclient_from", '["::/0"]', "may pretend to be any client, and any user"),
        ("xforward_from", '["8.0.0.0/8"]', "may write any origin into the history"),
    ],
)
def test_whom_too_many_are_believed(told: Told, key: str, value: str, what: str) -> None:
    (line,) = told(f"{BEGIN}{LISTENER}{key} = {value}\n")
    assert line.startswith(f"listeners[mx].{key}: ")
    assert line.endswith(what)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ('auth = "users"\nauth_without_tls = true\n' + USERS + TLS, "listeners[mx].auth_without_tls: passwords"),
        ('auth = "users"\n' + USERS, "listeners[mx].auth: without TLS only mechanisms that hide"),
        ('auth = "users"\nauth_mechanisms = ["plain"]\n' + USERS, "listeners[mx].auth: nobody can log in"),
        (USERS, "auth.users: no listener names this section"),
        ("max_auth_failures = 5\n", "listeners[mx].max_auth_failures: has no effect: the listener has no auth"),
        ("auth_without_tls = true\n", "listeners[mx].auth_without_tls: has no effect: the listener has no auth"),
        ('auth = "user"\n' + USERS + TLS, 'listeners[mx].auth: there is no auth section "user", did you mean users?'),
        ('tls = "required"\n', "listeners[mx].tls: there is no certificate"),
        ('client_certificates = "require"\n', "listeners[mx].client_certificates: clients show certificates under TLS"),
        ('client_certificates = "request"\n' + TLS, "listeners[mx].client_certificates: none would be known"),
        (TLS + f'client_fingerprints = {{ exo = "{"ab" * 32}" }}\n', "tls.client_fingerprints: no listener asks"),
        (TLS + 'client_fingerprints = { exo = "abc" }\n', "tls.client_fingerprints.exo: a SHA-256 fingerprint has 64"),
        (
            "[routes.inside.auth]\nusername = 'u'\npassword_file = 'p'\nwithout_tls = true\n",
            "routes.inside.auth.without",
        ),
        (
            ROUTE_AUTH + "mechanisms = ['external']\n",
            "routes.inside.auth.mechanisms: external shows a certificate",
        ),
    ],
)
def test_what_is_told(told: Told, more: str, expected: str) -> None:
    (line,) = told(BEGIN + LISTENER + more)
    assert line.startswith(expected)


def test_services_that_are_asked_in_clear_text(told: Told) -> None:
    text = BEGIN + LISTENER + 'auth = "users"\n' + TLS + '[auth.users]\nkind = "http"\nurl = "http://HOST/check"\n'
    assert told(text.replace("HOST", "127.0.0.1:8080")) == told(text.replace("http://HOST", "https://a.example")) == []
    (line,) = told(text.replace("HOST", "auth.example"))
    assert line.startswith("auth.users.url: http: ")


@pytest.mark.parametrize("key", ["tls_name = 'a.example'", "tls_ca = 'ca.pem'", f"tls_fingerprints = ['{'00' * 32}']"])
def test_a_certificate_that_nobody_looks_at(told: Told, key: str) -> None:
    (line,) = told(BEGIN + key + "\n" + LISTENER)
    assert line.endswith('has no effect: tls = "opportunistic" looks at no certificate')
    assert told(BEGIN + f'{key}\ntls = "verified"\n' + LISTENER) == []


def test_auth_has_no_effect_on_mail_from_the_internet(told: Told) -> None:
    listener = LISTENER.partition("role")[0] + 'endpoints = ["tcp:25"]\npipeline = "p"\nauth = "users"\n'
    assert "listeners[mx].auth: has no effect: role inbound never relays" in told(BEGIN + listener + USERS + TLS)


@pytest.mark.parametrize(
    ("port", "tls", "what"),
    [
        (465, "implicit", ""),
        (465, "required", 'clients begin with TLS at port 465: it needs tls = "implicit"'),
        (465, "", 'clients begin with TLS at port 465: it needs tls = "implicit"'),
        (587, "implicit", 'clients begin in clear text at port 587: tls = "implicit" is for port 465'),
        (25, "implicit", 'clients begin in clear text at port 25: tls = "implicit" is for port 465'),
        (2465, "implicit", ""),
        (2465, "optional", ""),
    ],
)
def test_ports_of_listeners(told: Told, port: int, tls: str, what: str) -> None:
    text = LISTENER.replace("tcp:25", f"tcp:{port}") + (f'tls = "{tls}"\n' if tls else "")
    assert told(BEGIN + text + TLS) == ([f"listeners[mx].endpoints[1]: {what}"] if what else [])
    # a balancer may have ended TLS
    assert told(BEGIN + text + 'proxy_protocol_from = ["10.0.0.2"]\n' + TLS) == []


@pytest.mark.parametrize(
    ("hosts", "more", "expected"),
    [
        ('["a.test:465"]', 'tls = "implicit"', ""),
        ('["a.test:465"]', "", 'hosts[1]: a.test:465: servers begin with TLS at port 465: it needs tls = "implicit"'),
        ('["a.test"]', 'port = 465\ntls = "implicit"', ""),
        ('["a.test"]', 'tls = "implicit"', "hosts[1]: a.test: servers begin in clear text at port 25: "),
        ('["b.test:465", ["a.test:587"]]', 'tls = "implicit"', "hosts[2]: a.test:587: servers begin in clear text"),
        ("[]", 'tls = "implicit"', "tls: mail hosts that MX records name begin in clear text: give the route hosts"),
    ],
)
def test_ports_of_next_hops(told: Told, hosts: str, more: str, expected: str) -> None:
    lines = told(BEGIN.replace('["10.0.0.5"]', hosts) + more + "\n" + LISTENER)
    assert [line.startswith(f"routes.inside.{expected}") for line in lines] == ([True] if expected else [])


def test_secrets_that_everybody_can_read(told: Told, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("p", "token", "own.pem")]
    for file in files:
        file.write_text("secret\n")
        file.chmod(0o644)
    text = BEGIN + 'certificate = "own.pem"\n' + ROUTE_AUTH + LISTENER + 'auth = "users"\n' + TLS
    text += '[auth.users]\nkind = "http"\nurl = "https://a.example"\ntoken_file = "token"\n'
    lines = told(text)
    assert [line.partition(": ")[0] for line in lines] == [
        "routes.inside.certificate",
        "routes.inside.auth.password_file",
        "auth.users.token_file",
    ]
    assert lines[1].endswith(
        f"{files[0]} holds secrets and has mode 0644: 0600, or 0640 with mailgate's group, is enough"
    )
    for file in files:
        file.chmod(0o640)
    assert told(text) == []


def test_an_address_that_is_no_web_address_is_not_taken_apart(told: Told) -> None:
    """It is the database's to say what is wrong with it."""
    users = '[auth.users]\nkind = "sql"\nurl = "postgresql://u@[::1/db"\nquery = "SELECT 1"\n'
    assert not any("changed on the way" in line for line in told(BEGIN + LISTENER + 'auth = "users"\n' + users + TLS))
