"""`[recipients.NAME]` in the file: what is read, what is refused, and what is warned about."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailgate.config.load import ConfigError, Loaded
from mailgate.config.recipients import CalloutRecipients, LdapRecipients
from tests.unit.config_file import load_text

TEXT = """
[gateway]
hostname = "gw.example.org"
state_dir = "state"

[[listeners]]
name = "mx"
endpoints = ["tcp:25"]
pipeline = "in"

[pipelines.in]
filters = ["recipients"]

[routes.inside]
transport = "lmtp"
hosts = ["10.0.0.5:24"]

[routes.box]
transport = "maildir"
path = "box/{local_part}"

[routing]
recipients = { "x@example.com" = "box" }

[domains."example.org"]
route = "inside"
recipients = RECIPIENTS
"""
LIST = '\n[recipients.people]\nkind = "list"\naddresses = ["ann@example.org"]\n'
LDAP = '\n[recipients.ad]\nkind = "ldap"\nurls = ["ldaps://dc1.example.org"]\nbase = "dc=example"\n'
CALLOUT = '\n[recipients.behind]\nkind = "callout"\nroute = "inside"\n'
WEB = '\n[recipients.web]\nkind = "http"\nurl = "https://users.example.org/{address}"\n'


def loaded(folder: Path, recipients: str, *sections: str) -> Loaded:
    return load_text(folder, TEXT.replace("RECIPIENTS", recipients) + "".join(sections))


def errors(folder: Path, recipients: str, *sections: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loaded(folder, recipients, *sections)
    return [line.split(": ", 1)[1] for line in caught.value.errors]


def warnings(folder: Path, recipients: str, *sections: str) -> list[str]:
    return [line.split(": ", 1)[1] for line in loaded(folder, recipients, *sections).warnings]


def test_a_domain_names_one_source_or_several(tmp_path: Path) -> None:
    one = loaded(tmp_path, '"people"', LIST).config
    assert one.domains["example.org"].recipients == ["people"]
    several = loaded(tmp_path, '["ad", "people", "behind"]', LIST, LDAP, CALLOUT).config
    assert several.domains["example.org"].recipients == ["ad", "people", "behind"]
    assert loaded(tmp_path, '"any"').config.domains["example.org"].recipients == ["any"]


def test_defaults_are_careful(tmp_path: Path) -> None:
    config = loaded(tmp_path, '["ad", "behind"]', LDAP, CALLOUT).config
    directory, callout = config.recipients["ad"], config.recipients["behind"]
    assert isinstance(directory, LdapRecipients)
    assert (directory.snapshot, directory.page_size, directory.refresh, directory.max_change) == (True, 1000, 300, 20)
    assert isinstance(callout, CalloutRecipients)
    days = [value / 86400 for value in (callout.known_for, callout.known_refresh, callout.unknown_for)]
    assert (days, callout.unknown_refresh, callout.sender) == ([31, 7, 3], 10800, "")


@pytest.mark.parametrize(
    ("recipients", "sections", "expected"),
    [
        (
            '["people", "peple"]',
            [LIST],
            ['domains."example.org".recipients[2]: there is no recipients section "peple", did you mean people?'],
        ),
        ('["people", "people"]', [LIST], ['domains."example.org".recipients[2]: "people" stands twice']),
        (
            '["people", "any"]',
            [LIST],
            ['domains."example.org".recipients[2]: "any" takes every address: it stands alone'],
        ),
        ("[]", [], ['domains."example.org".recipients: must not be empty']),
        ("5", [], ['domains."example.org".recipients: must be a list, in brackets']),
        (
            '"behind"',
            [CALLOUT.replace('"inside"', '"insid"')],
            ['recipients.behind.route: there is no route "insid", did you mean inside?'],
        ),
        (
            '"behind"',
            [CALLOUT.replace('"inside"', '"box"')],
            ["recipients.behind.route: box goes to no server that could be asked"],
        ),
        ('"web"', [WEB.replace("https:", "ftp:")], ["recipients.web.url: no address of a service"]),
        ('"ad"', [LDAP + "max_change = 0\n"], ["recipients.ad.max_change: must be at least 1"]),
        ('"behind"', [CALLOUT + 'stage = "end"\n'], ["recipients.behind.stage: "]),
        ('"behind"', [CALLOUT + 'sender = "probe"\n'], ["recipients.behind.sender: "]),
    ],
)
def test_mistakes(tmp_path: Path, recipients: str, sections: list[str], expected: list[str]) -> None:
    found = errors(tmp_path, recipients, *sections)
    assert len(found) == len(expected), found
    assert all(line.startswith(start) for line, start in zip(found, expected, strict=True)), found


@pytest.mark.parametrize(
    ("recipients", "sections", "expected"),
    [
        ('["ad", "behind", "web"]', [LDAP, CALLOUT, WEB], []),
        ('"people"', [LIST, LDAP], ["recipients.ad: no domain names this section"]),
        (
            '"web"',
            [WEB.replace("https:", "http:")],
            ["recipients.web.url: http: what is asked and answered can be read and changed on the way"],
        ),
        ('"web"', [WEB.replace("https://users.example.org", "http://127.0.0.1")], []),
        ('"ad"', [LDAP + 'cache = "1m"\n'], ["recipients.ad.cache: has no effect with snapshot = true"]),
        (
            '"ad"',
            [LDAP + 'snapshot = false\nrefresh = "1m"\n'],
            ["recipients.ad.refresh: has no effect with snapshot = false"],
        ),
        (
            '"behind"',
            [CALLOUT + 'known_for = "1d"\n'],
            ["recipients.behind.known_refresh: is not less than known_for (1d): mail waits for each answer again"],
        ),
    ],
)
def test_what_is_warned_about(tmp_path: Path, recipients: str, sections: list[str], expected: list[str]) -> None:
    assert warnings(tmp_path, recipients, *sections) == expected


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_a_secret_that_everybody_can_read(tmp_path: Path, mode: int) -> None:
    token = tmp_path / "token"
    token.write_text("t0ken")
    token.chmod(mode)
    found = warnings(tmp_path, '"web"', WEB + 'token_file = "token"\n')
    assert len(found) == (mode == 0o644)
    assert all("recipients.web.token_file" in line for line in found)
