"""Aliases from sections: what goes on over a reload, what is wrong with a file, and what may not be meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailgate.addressing import make_addressing
from mailgate.backends.keeping import Sources
from mailgate.config.load import ConfigError, load
from mailgate.pipeline.registry import Registry
from tests.unit.recipients_stand import source_tools
from tests.unit.remote_peer import Net

TEXT = """
[gateway]
hostname = "gw.example.org"
state_dir = "state"

[[listeners]]
name = "mx"
endpoints = ["tcp:25"]
pipeline = "in"

[pipelines.in]
filters = ["recipients", "headers"]

[routes.inside]
transport = "lmtp"
hosts = ["10.0.0.5:24"]

[domains."example.org"]
route = "inside"
recipients = "people"
aliases = ["names", "old", "web", "db", "dir"]

[recipients.people]
kind = "list"
addresses = ["ann@example.org"]

[aliases.names]
kind = "map"
entries = { "info@example.org" = "ann@example.org" }
path = "names"

[aliases.old]
kind = "pattern"
rules = [ { match = '(.+)\\.(.+)@example\\.org', to = '\\2@example.org' } ]

[aliases.web]
kind = "http"
url = "https://users.example.org/{address}"
token_file = "token"

[aliases.db]
kind = "sql"
url = "sqlite:/nowhere/aliases.db"

[aliases.dir]
kind = "ldap"
urls = ["ldaps://dc1.example.org"]
base = "dc=example,dc=org"
filter = "(mail={address})"
attributes = ["mailForwardingAddress"]
"""
SRS = '\n[forwarding]\nsrs_domain = "x.example.org"\nsrs_secrets = "s"\n[aliases.db]'
REPORTS = '\n[reports]\nenabled = true\nfrom = "a@example.org"\n[aliases.db]'


class Place:
    """A file of configuration, and what is made of it from one reload to the next."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tools = source_tools(Net().reactor, state_dir=folder)
        self.sources: Sources = {}
        for name, text in (("mailgate.toml", TEXT), ("names", "post@example.org ann@example.org\n"), ("token", "t\n")):
            self.write(name, text)
        (folder / "token").chmod(0o600)

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def change(self, old: str, new: str) -> None:
        assert old in TEXT
        self.write("mailgate.toml", TEXT.replace(old, new))

    def make(self) -> set[str]:
        """The names of those aliases that are new."""
        before = self.sources
        self.sources = make_addressing(load(self.folder / "mailgate.toml", Registry().find), self.tools, before)
        return {
            name
            for kind, name in self.sources
            if kind == "aliases" and before.get((kind, name)) is not self.sources[kind, name]
        }

    def errors(self) -> list[str]:
        with pytest.raises(ConfigError) as error:
            self.make()
        return [line.removeprefix(f"{self.folder}/mailgate.toml:").partition(": ")[2] for line in error.value.errors]

    def warnings(self) -> list[str]:
        found = load(self.folder / "mailgate.toml", Registry().find).warnings
        return [line.removeprefix(f"{self.folder}/mailgate.toml:").partition(": ")[2] for line in found]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_what_has_not_changed_goes_on(place: Place) -> None:
    assert place.make() == {"names", "old", "web", "db", "dir"}
    assert place.make() == set()
    place.change('url = "https://users', 'url = "https://other')
    assert place.make() == {"web"}
    place.write("token", "another\n")
    assert place.make() == {"web"}
    place.write("names", "post@example.org bob@example.org\n")
    assert place.make() == {"names"}


def test_everything_that_is_wrong_is_told_at_once(place: Place) -> None:
    place.write("names", "nonsense\n")
    place.change("(.+)\\.(.+)@", "(@")
    place.write("mailgate.toml", (place.folder / "mailgate.toml").read_text().replace("/{address}", "/"))
    errors = place.errors()
    assert [line.partition(": ")[0] for line in errors] == ["aliases.names.path", "aliases.old", "aliases.web"]


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ('aliases = ["names",', 'aliases = ["nam",', "there is no aliases section"),
        ('{ "info@example.org" = "ann@example.org" }\npath = "names"', "{}", "aliases.names: knows no alias"),
        ('"info@example.org" =', '"Info@example.org" = "a@example.org", "info@example.org" =', "is the same as Info@"),
        ('kind = "http"', 'kind = "htp"', "aliases.web.kind"),
        ('attributes = ["mailForwardingAddress"]', "attributes = []", "aliases.dir.attributes"),
        ("\n[aliases.db]", '\n[forwarding]\nsrs_domain = "x.example.org"\n[aliases.db]', "go together"),
    ],
)
def test_mistakes_are_told_at_their_key(place: Place, old: str, new: str, error: str) -> None:
    place.change(old, new)
    assert any(error in line for line in place.errors())


def test_a_sound_file_has_no_warnings(place: Place) -> None:
    assert place.warnings() == []


@pytest.mark.parametrize(
    ("old", "new", "warning"),
    [
        (
            '"ann@example.org" }',
            '"ann@far.example" }',
            "entries.info@example.org: no [domains] or [routing]",
        ),
        ('recipients = "people"', 'recipients = "people"\ncatch_all = "a@far.example"', "catch_all: no [domains]"),
        ('"https://users', '"http://users', "aliases.web.url: http: what is asked"),
        (
            "\n[aliases.db]",
            SRS,
            "is none of [domains]",
        ),
        (
            "\n[aliases.db]",
            SRS,
            "no default route",
        ),
        (
            "\n[aliases.db]",
            SRS,
            "can relay by us",
        ),
        ("\n[aliases.db]", REPORTS, "nothing to report"),
        ("\n[aliases.db]", REPORTS, "are not signed"),
    ],
)
def test_what_may_not_be_meant_is_told(place: Place, old: str, new: str, warning: str) -> None:
    place.write("s", "0123456789abcdef0123456789abcdef\n")
    (place.folder / "s").chmod(0o644)
    place.change(old, new)
    assert any(warning in line.replace('"', "") for line in place.warnings()), place.warnings()


@pytest.mark.parametrize(
    ("target", "more"),
    [
        ("a@sub.example.net", '[domains."*.example.net"]\nroute = "inside"\nrecipients = "people"\n'),
        ("a@far.example", '[routing]\nrecipients = { "a@far.example" = "inside" }\n'),
        ("a@far.example", '[routing]\ndefault = "inside"\n'),
    ],
)
def test_a_target_with_a_route_is_no_matter(place: Place, target: str, more: str) -> None:
    place.write("mailgate.toml", TEXT.replace('"ann@example.org" }', f'"{target}" }}') + more)
    assert not any("no [domains] or [routing]" in line for line in place.warnings())
