"""What the file says of routes to applications."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailgate.config.load import ConfigError, load
from mailgate.config.routes import HttpRoute
from tests.unit.test_config import GOOD, find

OK = 'transport = "http"\nurl = "https://app.test/mail"\nsecret_file = "secret"\n'


def loaded(folder: Path, route: str, more: str = "") -> tuple[HttpRoute, list[str]]:
    file = folder / "mailgate.toml"
    file.write_text(f"{GOOD}\n[routes.app]\n{route}\n{more}\n")
    secret = folder / "secret"
    if not secret.exists():
        secret.write_text("a secret that both know\n")
        secret.chmod(0o600)
    found = load(file, find)
    section = found.config.routes["app"]
    assert isinstance(section, HttpRoute)
    return section, [line for line in found.warnings if "routes.app" in line and "names this route" not in line]


def errors(folder: Path, route: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loaded(folder, route)
    return [line.partition("mailgate.toml:")[2].partition(": ")[2] for line in caught.value.errors]


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("https://app.test/mail", "app.test", 443),
        ("https://app.test:8443", "app.test", 8443),
        ("http://localhost/", "localhost", 80),
        ("http://127.0.0.1:8080/mail?x=1", "127.0.0.1", 8080),
        ("http://[::1]:8080/", "[::1]", 8080),
    ],
)
def test_where_it_is(tmp_path: Path, url: str, host: str, port: int) -> None:
    route, warnings = loaded(tmp_path, OK.replace("https://app.test/mail", url))
    assert (route.hosts, route.port, warnings) == ([host], port, [])


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://app.test/", "mail and events hold what is personal: http:// is for this machine only"),
        ("ftp://app.test/", "no address of a service"),
        ("https://user:secret@app.test/", "no address of a service"),
        ("https://:secret@app.test/", "no address of a service"),
        ("https://app.test:99999/", "the port of a URL is a number from 1 to 65535"),
        ("https://app.test:mail/", "the port of a URL is a number from 1 to 65535"),
        ("https://app.test:0/", "the port of a URL is a number from 1 to 65535"),
        ("https://app.test/a b", "a URL has no spaces"),
        ("https://app.test/\\r\\nHost: other", "a URL has no spaces"),
    ],
)
def test_where_it_cannot_be(tmp_path: Path, url: str, said: str) -> None:
    (error,) = errors(tmp_path, OK.replace("https://app.test/mail", url))
    assert error.startswith(f"routes.app.url: {said}")


def test_what_is_missing_or_of_another_transport(tmp_path: Path) -> None:
    assert "secret_file" in errors(tmp_path, OK.replace('secret_file = "secret"\n', ""))[0]
    assert errors(tmp_path, f'{OK}format = "xml"')[0].startswith("routes.app.format: ")
    for option in ("xclient = true", 'tls = "required"', 'hosts = ["app.test"]', "queue = false"):
        assert errors(tmp_path, f"{OK}{option}")[0].startswith(f"routes.app.{option.partition(' ')[0]}: ")


def test_limits_and_fallback_are_those_of_other_routes(tmp_path: Path) -> None:
    more = '[shaping.app]\nroutes = ["app"]\nmessage_rate = "10/s"'
    route, warnings = loaded(tmp_path, f'{OK}fallback = "inside"\nconnections = 2', more)
    assert (route.fallback, route.connections, warnings) == ("inside", 2, [])
    assert "fallback" in errors(tmp_path, f'{OK}fallback = "nowhere"')[0]


def test_a_secret_that_others_can_read(tmp_path: Path) -> None:
    loaded(tmp_path, OK)
    (tmp_path / "secret").chmod(0o644)
    (warning,) = loaded(tmp_path, OK)[1]
    assert "routes.app.secret_file" in warning
    assert "has mode 0644" in warning


BEARER = 'token_file = "token"\n'
BASIC = 'username = "mail"\npassword_file = "password"\n'


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ('username = "mail"', "username and password_file belong together"),
        ('password_file = "password"', "username and password_file belong together"),
        (BEARER + BASIC, "give either token_file or username"),
        (BASIC.replace('"mail"', '"ma:il"'), "username: a name for Basic has no colon"),
        (BASIC.replace('"mail"', '"ma\\nil"'), "username: a name for Basic has no colon"),
    ],
)
def test_a_login_that_is_none(tmp_path: Path, more: str, said: str) -> None:
    (error,) = errors(tmp_path, f"{OK}{more}")
    assert said in error


def test_files_of_a_login_that_others_can_read(tmp_path: Path) -> None:
    for name in ("token", "password", "ours.pem"):
        (tmp_path / name).write_text("secret\n")
        (tmp_path / name).chmod(0o644)
    token, certificate = loaded(tmp_path, f'{OK}{BEARER}certificate = "ours.pem"\n')[1]
    assert "routes.app.token_file" in token
    assert "routes.app.certificate" in certificate
    (password,) = loaded(tmp_path, f"{OK}{BASIC}")[1]
    assert "routes.app.password_file" in password


def test_what_is_of_tls_is_for_nothing_without_it(tmp_path: Path) -> None:
    clear = OK.replace("https://app.test/mail", "http://127.0.0.1:8080/")
    for name in ("ours.pem", "ca.pem"):
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(0o600)
    _, warnings = loaded(tmp_path, f'{clear}certificate = "ours.pem"\nca = "ca.pem"\n')
    assert [one.partition(": ")[2] for one in warnings] == [
        "routes.app.certificate: has no effect: there is no TLS with http://",
        "routes.app.ca: has no effect: there is no TLS with http://",
    ]
