"""Warnings about whom we believe and whom we show a password."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mailgate.config.load import ConfigError, load

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
        from mailgate.pipeline.registry import Registry

        path = tmp_path / "mailgate.toml"
        path.write_text(text)
        try:
            lines = load(path, Registry().find).warnings
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
