"""`[http]` and `[quarantine.digest]`: what is refused, what is warned of, and what a reload may change."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailgate.config.load import ConfigError, Loaded
from mailgate.config.reload import as_running, needs_restart
from mailgate.web.tokens import hash_of
from tests.unit.config_file import load_text

HASH = hash_of("mailgate_x")
TEXT = """
[gateway]
hostname = "gate.example.org"
state_dir = "state"

[[listeners]]
name = "mx"
endpoints = ["tcp:2525:interface=127.0.0.1"]
pipeline = "in"

[pipelines.in]
filters = ["headers"]

[domains."example.org"]
route = "inside"

[routes.inside]
transport = "discard"
"""
DIGEST = '[quarantine.digest]\nenabled = true\nfrom = "q@example.org"\n'
HTTP = '[http]\nendpoints = ["tcp:8443:interface=127.0.0.1"]\n'


def loaded(folder: Path, more: str) -> Loaded:
    return load_text(folder, TEXT + more)


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ("[http]\ntls = true\n", "http.tls: there is no certificate"),
        ('[http]\nendpoints = ["tcp:2525:interface=127.0.0.1"]\n', "stands in line 8 already"),
        ('[http]\nendpoints = ["nonsense:1"]\n', "is no endpoint"),
        ('[http.tokens.a]\nhash = "secret"\nscopes = ["status"]\n', "make one with mailgate token"),
        (f'[http.tokens.a]\nhash = "{HASH}"\nscopes = []\n', "scopes"),
        (f'[http.tokens.a]\nhash = "{HASH}"\nscopes = ["all"]\n', "queue:read"),
        (f'[http.tokens.a]\nhash = "{HASH}"\nscopes = ["status"]\nexpires = "soon"\n', "must be a date"),
        (
            "".join(f'[http.tokens.{one}]\nhash = "{HASH}"\nscopes = ["status"]\n' for one in "ab"),
            "is that of a: each token has its own",
        ),
        ('[http]\nurl = "https://mail.example.org/?x"\n', "has no ? in it"),
        ('[http]\nurl = "ftp://mail.example.org"\n', "http.url"),
        ('[http.injection]\nname = "x"\n', "http.injection.pipeline"),
        ('[http.injection]\npipeline = "im"\n', 'there is no pipeline "im", did you mean in?'),
        ('[http.injection]\npipeline = "in"\nname = "mx"\n', "is the name of a listener"),
        ('[http.injection]\npipeline = "in"\nmax_addresses = 0\n', "http.injection.max_addresses"),
        (DIGEST, "which has no endpoints"),
        (DIGEST + HTTP, "need http.url"),
        (HTTP + "[quarantine.digest]\nenabled = true\n", 'need a sender: from = "quarantine@..."'),
        ('[quarantine.digest]\nat = "25:00"\n', "time of day"),
        ("[quarantine.digest]\nat = 7\n", "time of day"),
        ("[quarantine.digest]\nmax_entries = 0\n", "at least 1"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, more: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, more)
    assert text in "\n".join(caught.value.errors)


def test_a_whole_section(tmp_path: Path) -> None:
    found = loaded(
        tmp_path,
        HTTP + f'url = "https://mail.example.org/"\n[http.tokens.a]\nhash = "{HASH}"\n'
        'scopes = ["status"]\nexpires = 2030-01-31\n' + DIGEST + "at = 06:30:00\n",
    )
    assert found.config.http.url == "https://mail.example.org"
    assert str(found.config.quarantine.digest.at) == "06:30:00"
    assert not [one for one in found.warnings if "http" in one]


def test_tokens_in_clear_text_and_links_are_warned_of(tmp_path: Path) -> None:
    tokens = f'[http.tokens.a]\nhash = "{HASH}"\nscopes = ["status"]\n'
    more = '[http]\nendpoints = ["tcp:8080", "tcp:8081:interface=127.0.0.1", "unix:/run/x"]\nurl = "http://m.test"\n'
    warnings = "\n".join(loaded(tmp_path, more + tokens + DIGEST).warnings)
    assert warnings.count("tokens come in clear text") == 1
    assert "over tcp:8080: it has no TLS" in warnings
    assert "links in mail are followed in clear text" in warnings


def test_what_a_reload_changes(tmp_path: Path) -> None:
    tokens = f'[http.tokens.a]\nhash = "{HASH}"\nscopes = ["status"]\n'
    old = loaded(tmp_path, HTTP).config
    new = loaded(tmp_path, HTTP.replace("8443", "8444") + 'max_body = "2MiB"\nmax_wrong_tokens = 3\n' + tokens).config
    assert needs_restart(old, new) == ("http.endpoints", "http.max_body")
    running = as_running(old, new)
    assert (running.http.endpoints, running.http.max_body) == (old.http.endpoints, old.http.max_body)
    assert (running.http.max_wrong_tokens, list(running.http.tokens)) == (3, ["a"])


def test_mail_by_http_that_anybody_or_nobody_may_send_is_warned_of(tmp_path: Path) -> None:
    def warnings(more: str) -> str:
        return "\n".join(loaded(tmp_path, HTTP + more).warnings)

    injection = '[http.injection]\npipeline = "in"\n'
    token = f'[http.tokens.app]\nhash = "{HASH}"\nscopes = ["send"]\n'
    assert "every token may send as anybody" in warnings(injection + token)
    assert "no token has the scope" in warnings(injection)
    assert "there is no [http.injection]" in warnings(token)
    login = injection.replace('"in"', '"out"') + '[pipelines.out]\nfilters = ["sender-login"]\n'
    assert "http." not in warnings(login + token)


def test_what_takes_mail_by_http_may_change_at_a_reload(tmp_path: Path) -> None:
    old = loaded(tmp_path, HTTP).config
    new = loaded(tmp_path, HTTP + '[http.injection]\npipeline = "in"\n').config
    assert needs_restart(old, new) == ()
    assert as_running(old, new).http.injection == new.http.injection
