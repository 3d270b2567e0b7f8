"""What the file says of TLS on the way out: `security`, [tls_policies], [mta_sts], [tls_reports]; and its mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailgate.config.load import ConfigError, Loaded, load
from mailgate.config.security import LONGEST_AGE
from tests.unit.test_config import GOOD, find

DNSSEC = "\n[dns]\ndnssec = true\n"
NEEDED = "DANE needs a resolver that validates by DNSSEC and that we can believe: see dns.dnssec"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def loaded(text: str) -> Loaded:
    Path("mailgate.toml").write_text(text)
    return load(Path("mailgate.toml"), find)


def errors(text: str) -> list[str]:
    """Each error, without its place."""
    with pytest.raises(ConfigError) as caught:
        loaded(text)
    return [line.partition(": ")[2] for line in caught.value.errors]


def route(**keys: str) -> str:
    """A file whose first route has these."""
    lines = "".join(f"{key} = {value}\n" for key, value in keys.items())
    return GOOD + f'\n[routes.net]\ntransport = "smtp"\n{lines}'


def test_everything() -> None:
    config = loaded(
        route(security='"auto"', tls='"required"')
        + DNSSEC
        + """
[tls_policies."example.org"]
level = "verified"
mx = ["*.example.net"]
[tls_policies."*.example.org"]
level = "required"
fingerprints = ["AB:"""
        + ":".join(["ab"] * 31)
        + """"]
[mta_sts]
mode = "enforce"
timeout = "10s"
[tls_reports]
enabled = true
from = "tls@example.org"
"""
    ).config
    assert config.dns.dnssec
    assert config.tls_policies["example.org"].level == "verified"
    assert config.tls_policies["*.example.org"].fingerprints == ["ab" * 32]
    assert config.mta_sts.mode == "enforce"
    assert config.tls_reports.sender == "tls@example.org"


def test_nothing_is_asked_unless_the_file_says_so() -> None:
    config = loaded(route()).config
    assert not config.dns.dnssec
    assert config.routes["net"].security == "none"  # type: ignore[union-attr]  # it is smtp
    assert not config.tls_reports.enabled


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (route(security='"dane"'), [f"routes.net.security: {NEEDED}"]),
        (
            route(security='"mta-sts"', hosts='["mx.example.org"]'),
            ["routes.net.security: a route with hosts has no MTA-STS: that is for mail that goes by MX"],
        ),
        (
            route(security='"auto"', tls='"verified"'),
            ['routes.net.security: goes with tls = "opportunistic" or "required", not with "verified"'],
        ),
        (
            route(security='"auto"', tls='"off"'),
            ['routes.net.security: goes with tls = "opportunistic" or "required", not with "off"'],
        ),
        (
            route(security='"auto"', tls='"required"', tls_name='"mx.example.org"'),
            ["routes.net.security: goes not with tls_name, which says itself who is to be believed"],
        ),
        (GOOD + '\n[tls_policies."example.org"]\nlevel = "dane"\n', [f"tls_policies.example.org.level: {NEEDED}"]),
        (
            GOOD + f'\n[tls_policies."example.org"]\nlevel = "verified"\nfingerprints = ["{"ab" * 32}"]\n',
            ['tls_policies.example.org: fingerprints are for level = "required", not for "verified"'],
        ),
        (GOOD + '\n[mta_sts]\nmax_age = "500ms"\n', ["mta_sts.max_age: must be at least 1s"]),
        (GOOD + '\n[mta_sts]\nmax_age = "366d"\n', ["mta_sts.max_age: must be at most 365d6h"]),
        (GOOD + "\n[mta_sts]\nserve = true\n", ["mta_sts.serve: [http] serves it, which has no endpoints"]),
        (GOOD + "\n[tls_reports]\nenabled = true\n", ['tls_reports: reports need a sender: from = "reports@..."']),
    ],
)
def test_mistakes(text: str, expected: list[str]) -> None:
    found = errors(text)
    assert [one.replace('"', "").replace("'", "") for one in found] == [one.replace('"', "") for one in expected]


def test_a_domain_stands_there_once() -> None:
    text = '\n[tls_policies."example.org"]\nlevel = "required"\n[tls_policies."Example.ORG"]\nlevel = "clear"\n'
    assert len(errors(GOOD + text)) == 1


def test_dane_with_dnssec() -> None:
    assert loaded(route(security='"dane"') + DNSSEC).config.dns.dnssec


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            route(security='"auto"') + '\n[dns]\ndnssec = true\nservers = ["127.0.0.1", "192.0.2.53"]\n',
            "whoever is between us and 192.0.2.53 can say what DNSSEC is said to have proved: ask one on this machine",
        ),
        (
            GOOD + '\n[tls_policies."example.org"]\nlevel = "required"\n',
            'has no effect: no route by MX has tls = "opportunistic" or "required"',
        ),
        (
            route() + '\n[tls_policies."example.org"]\nlevel = "clear"\n',
            "everybody on the way can read the mail for this domain",
        ),
        (
            route() + '\n[tls_reports]\nenabled = true\nfrom = "tls@example.org"\n',
            "there is nothing to report: no route by MX has `security`",
        ),
        (
            GOOD + '\n[mta_sts]\nmax_age = "23h"\n',
            "others forget our policy within a day: whoever hides it for so long can have our mail in clear text",
        ),
        (
            GOOD + '\n[http]\nendpoints = ["tcp:8080"]\ntls = false\n[mta_sts]\nserve = true\n',
            "others ask for it over HTTPS, and [http] has no TLS, nor a proxy before it",
        ),
    ],
)
def test_warnings(text: str, expected: str) -> None:
    assert [one for one in loaded(text).warnings if one.endswith(expected)]


def test_a_sound_file_has_no_warning_of_these() -> None:
    text = route(security='"auto"') + DNSSEC + 'servers = ["127.0.0.1", "::1"]\n'
    assert not [one for one in loaded(text).warnings if "dns" in one or "tls" in one]


def test_authorities_of_a_route_are_for_policies_too() -> None:
    Path("ca.pem").write_text("")
    text = "looks at no certificate"
    assert not [one for one in loaded(route(security='"auto"', tls_ca='"ca.pem"')).warnings if text in one]
    assert [one for one in loaded(route(tls_ca='"ca.pem"')).warnings if text in one]


def test_a_year_is_the_longest_age_of_a_policy() -> None:
    assert loaded(GOOD + '\n[mta_sts]\nmax_age = "365d6h"\n').config.mta_sts.max_age == LONGEST_AGE


def test_a_policy_that_is_kept_for_a_week_is_nothing_to_warn_of() -> None:
    assert not [one for one in loaded(GOOD + '\n[mta_sts]\nmode = "enforce"\n').warnings if "mta_sts" in one]


def test_a_policy_that_nobody_can_ask_for() -> None:
    text = GOOD.replace('[domains."', '[domains."*.') + '\n[http]\nendpoints = ["tcp:8080"]\n[mta_sts]\nserve = true\n'
    expected = "has no effect: it is for [domains] with names of their own, and none is"
    assert [one for one in loaded(text).warnings if one.endswith(expected)]
