"""`[senders.NAME]`: what is made of the sections, and what a database and a service tell the filter sender-login."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from twisted.internet.defer import Deferred

from mailgate.addressing import make_addressing
from mailgate.backends.keeping import Sources, close_sources
from mailgate.backends.questions import BackendError
from mailgate.config.load import ConfigError, load
from mailgate.envelope import Identity
from mailgate.events import RecipientsChanged
from mailgate.filters.sender_login import Options, SenderLogin, build
from mailgate.pipeline.registry import Registry
from mailgate.rewriting.source import AliasSource
from mailgate.testing import EventRecorder, services, session, transaction
from mailgate.verdict import Continue, Reject, Verdict
from tests.unit.recipients_stand import source_tools
from tests.unit.remote_peer import Net

TEXT = """
[gateway]
hostname = "gw.example.org"
state_dir = "state"

[[listeners]]
name = "submission"
role = "outbound"
endpoints = ["tcp:587"]
pipeline = "out"
trusted_networks = ["192.0.2.0/24"]

[pipelines.out]
filters = ["headers"]

[senders.db]
kind = "sql"
url = "sqlite:senders.db"

[senders.web]
kind = "http"
url = "http://127.0.0.1/{address}"
"""


class Place:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.net = Net()
        self.tools = source_tools(self.net.reactor, state_dir=folder)
        self.sources: Sources = {}
        database = sqlite3.connect(folder / "senders.db")
        database.execute("CREATE TABLE senders (address TEXT, login TEXT)")
        rows = [("info@example.org", "ann, bob@example.org"), ("@example.net", "ann")]
        database.executemany("INSERT INTO senders VALUES (?, ?)", rows)
        database.commit()
        database.close()
        self.write(TEXT)

    def write(self, text: str) -> None:
        text = text.replace("sqlite:senders.db", f"sqlite:{self.folder}/senders.db")
        (self.folder / "mailgate.toml").write_text(text)

    def make(self) -> Sources:
        self.sources = make_addressing(load(self.folder / "mailgate.toml", Registry().find), self.tools, self.sources)
        return self.sources

    def says(self, login: str, sender: str, name: str = "db") -> Verdict | None:
        """What the filter says to this sender, by this section."""
        owners = {found: cast(AliasSource, one.source).find for (_, found), one in self.sources.items()}
        built = build(Options(senders=[name]), services(owners=owners))
        assert isinstance(built, SenderLogin)
        answer = built.on_mail(session(identity=Identity(login, "PLAIN")), transaction(sender))
        return self.net.wait(answer) if isinstance(answer, Deferred) else cast("Verdict | None", answer)

    def close(self) -> None:
        close_sources(self.sources.values())


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.close()


def test_they_go_on_over_a_reload(place: Place) -> None:
    before = dict(place.make())
    assert set(before) == {("senders", "db"), ("senders", "web")}
    place.write(TEXT.replace("127.0.0.1", "localhost"))
    after = place.make()
    assert after["senders", "db"] is before["senders", "db"]
    assert after["senders", "web"] is not before["senders", "web"]


def test_what_is_wrong_is_told_at_its_section(place: Place) -> None:
    place.write(TEXT.replace("/{address}", "/"))
    with pytest.raises(ConfigError) as error:
        place.make()
    assert len(error.value.errors) == 1
    assert "senders.web: url: {address} or {local_part} must stand in it" in error.value.errors[0]


def test_a_database_says_whose_an_address_is(place: Place) -> None:
    place.make()
    assert isinstance(place.says("ann", "info@example.org"), Continue)
    assert isinstance(place.says("bob@example.org", "info+x@example.org"), Continue)
    assert isinstance(place.says("eve", "info@example.org"), Reject)
    assert isinstance(place.says("ann", "whoever@example.net"), Continue)
    assert isinstance(place.says("bob@example.org", "whoever@example.net"), Reject)


def test_a_database_that_is_away_is_told_by_its_section(place: Place) -> None:
    (place.folder / "senders.db").unlink()
    place.make()
    with pytest.raises(BackendError):
        place.says("ann", "info@example.org")
    told = cast(EventRecorder, place.tools.events).of(RecipientsChanged)
    assert [(one.source, one.state) for one in told] == [("senders.db", "unavailable")]
