"""Sources from sections: what is new on a reload, what goes on, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest
from twisted.internet.task import Clock

from mailgate.addressing import make_addressing
from mailgate.backends.keeping import IRuns, Source, SourceKeeper, Sources
from mailgate.config.load import ConfigError, Loaded, load
from mailgate.pipeline.registry import Registry
from mailgate.recipients.source import SourceTools
from tests.unit.certificates import authority
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
filters = ["recipients"]

[routes.inside]
transport = "lmtp"
hosts = ["10.0.0.5:24"]

[routes.box]
transport = "discard"

[domains."example.org"]
route = "inside"
recipients = ["people", "web", "db", "ad", "behind"]

[recipients.people]
kind = "list"
addresses = ["ann@example.org"]
path = "people"

[recipients.web]
kind = "http"
url = "https://users.example.org/{address}"
token_file = "token"
ca = "ca.pem"

[recipients.db]
kind = "sql"
url = "sqlite:/nowhere/users.db"

[recipients.ad]
kind = "ldap"
urls = ["ldaps://dc1.example.org"]
base = "dc=example,dc=org"

[recipients.behind]
kind = "callout"
route = "inside"
"""
ALL = {"people", "web", "db", "ad", "behind"}


class Place:
    """A file of configuration, and what is made of it from one reload to the next."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.net = Net()
        self.tools: SourceTools = source_tools(self.net.reactor, state_dir=folder)
        self.sources: Sources = {}
        self.write("mailgate.toml", TEXT)
        self.write("people", "bob@example.org\n")
        self.write("token", "t0ken\n")
        authority().write_certificate(folder / "ca.pem")

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def change(self, old: str, new: str) -> None:
        assert old in TEXT
        self.write("mailgate.toml", TEXT.replace(old, new))

    def make(self) -> set[str]:
        """The names of those that are new."""
        before, self.sources = self.sources, make_addressing(self._loaded(), self.tools, self.sources)
        return {name for (kind, name), one in self.sources.items() if before.get((kind, name)) is not one}

    def errors(self) -> list[str]:
        with pytest.raises(ConfigError) as error:
            make_addressing(self._loaded(), self.tools, self.sources)
        return [line.removeprefix(f"{self.folder}/mailgate.toml:") for line in error.value.errors]

    def _loaded(self) -> Loaded:
        return load(self.folder / "mailgate.toml", Registry().find)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(tmp_path)
    assert made.make() == ALL
    return made


def test_building_connects_to_nothing_and_starts_nothing(place: Place) -> None:
    assert not place.net.has_more
    assert not place.net.memory.getDelayedCalls()


def test_what_has_not_changed_goes_on(place: Place) -> None:
    assert place.make() == set()
    place.write("mailgate.toml", TEXT + '\n[history]\nkeep = "1d"\n')
    place.write("token", "t0ken\n")  # written anew, and the same
    assert place.make() == set()


@pytest.mark.parametrize(
    ("old", "new", "made"),
    [
        ('url = "https://users', 'url = "https://other', {"web"}),
        ("[recipients.ad]", '[recipients.ad]\nrefresh = "1m"', {"ad"}),
        ('addresses = ["ann@example.org"]', "", {"people"}),
        ('kind = "callout"', 'kind = "callout"\nstage = "data"', {"behind"}),
        ('url = "sqlite:/nowhere/users.db"', 'url = "sqlite:/elsewhere/users.db"', {"db"}),
    ],
)
def test_what_has_another_section_is_new(place: Place, old: str, new: str, made: set[str]) -> None:
    place.change(old, new)
    assert place.make() == made
    assert place.make() == set()


@pytest.mark.parametrize(("name", "made"), [("token", {"web"}), ("ca.pem", {"web"}), ("people", {"people"})])
def test_what_has_another_file_is_new(place: Place, name: str, made: set[str]) -> None:
    if name == "ca.pem":
        authority("Another authority").write_certificate(place.folder / name)
    else:
        place.write(name, "carl@example.org\n")
    assert place.make() == made
    assert place.make() == set()


def test_everything_that_is_wrong_is_told_at_once(place: Place) -> None:
    place.change("/{address}", "/")
    place.write("people", "nonsense\n")
    errors = place.errors()
    assert [line.partition(": ")[2].partition(": ")[0] for line in errors] == [
        "recipients.people.path",
        "recipients.web",
    ]
    assert "people:1:" in errors[0]
    assert "{address}" in errors[1]


def test_a_missing_library_is_told_with_its_extra(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> object:
        raise ImportError(f"No module named {name}")

    monkeypatch.setattr("mailgate.recipients.build.import_module", missing)
    place.change("[recipients.ad]", '[recipients.ad]\nrefresh = "1m"')
    [error] = place.errors()
    assert "recipients.ad.kind: needs the extra mailgate[ldap]" in error


# -- Which are in force


class Watched:
    """A source that notes what it is told."""

    def __init__(self, told: list[str], name: str) -> None:
        self.told, self.name = told, name

    def start(self) -> None:
        self.told.append(f"start {self.name}")

    def retire(self) -> None:
        self.told.append(f"retire {self.name}")

    def close(self) -> None:
        self.told.append(f"close {self.name}")
        if self.name == "broken":
            raise ValueError("broken")


def named(told: list[str], *names: str) -> dict[tuple[str, str], Source[IRuns]]:
    return {("recipients", name): Source(Watched(told, name), name) for name in names}


def test_sources_are_started_once_and_closed_when_no_session_has_them() -> None:
    clock, told = Clock(), list[str]()
    keeper = SourceKeeper(clock)
    first = named(told, "a", "b")
    keeper.use(first)
    assert told == ["start a", "start b"]
    key = ("recipients", "a")
    keeper.use({key: first[key], **named(told, "c")})
    assert told[2:] == ["retire b", "start c"]
    clock.advance(3599)
    assert len(told) == 4
    clock.advance(2)
    assert told[4:] == ["retire b", "close b"]
    assert not clock.getDelayedCalls()


def test_what_was_made_for_a_configuration_that_is_refused_is_closed() -> None:
    told: list[str] = []
    keeper = SourceKeeper(Clock())
    first = named(told, "a")
    keeper.use(first)
    keeper.drop({**first, **named(told, "b")})
    assert told == ["start a", "retire b", "close b"]


def test_at_the_end_all_are_closed_whatever_one_does() -> None:
    clock, told = Clock(), list[str]()
    keeper = SourceKeeper(clock)
    keeper.use(named(told, "old"))
    keeper.use(named(told, "broken", "b"))
    closed = keeper.close()
    assert closed.called
    assert {line for line in told if line.startswith("close")} == {"close old", "close broken", "close b"}
    assert not clock.getDelayedCalls()
