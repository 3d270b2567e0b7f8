"""From configuration to pipelines: each filter is built once, and every error names its filter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from zope.interface import implementer

from mailgate.config.load import ConfigError, Loaded, load
from mailgate.config.schema import Section
from mailgate.envelope import Recipient, Session, Transaction
from mailgate.events import Event
from mailgate.interfaces import (
    AttemptContext,
    FilterServices,
    IDeliveryFilter,
    IEventObserver,
    IFilterFactory,
    IMailFilter,
    IMessageModifier,
    IRecipientFilter,
    IRouter,
)
from mailgate.message import AddHeader, Edit, Message, is_of_header
from mailgate.pipeline.build import Pipelines, build_pipelines
from mailgate.pipeline.registry import FilterBrokenError, FilterNotFoundError, Registry
from mailgate.reply import Reply
from mailgate.testing import message, recipient, services, session, transaction
from mailgate.verdict import Continue, Reject, Verdict

BASE = """
    [gateway]
    hostname = "mx.example.org"
    state_dir = "state"

    [[listeners]]
    name = "mx"
    endpoints = ["tcp:2525"]
    pipeline = "inbound"

    [domains."example.org"]
    route = "inside"

    [routes.inside]
    transport = "discard"

    [routes.lab]
    transport = "discard"
"""


class Words(Section):
    """Options of the filters here."""

    word: str = "No"


@implementer(IMailFilter)
class Refuser:
    def __init__(self, options: Words, services: FilterServices) -> None:
        self.options, self.services = options, services

    def on_mail(self, session: Session, transaction: Transaction) -> Verdict:
        return Reject(Reply.of(550, "5.7.1", self.options.word), "refused")


@implementer(IMessageModifier)
class Headers:
    def __init__(self, options: Words, services: FilterServices) -> None:
        self.options = options

    def modify(self, session: Session, transaction: Transaction, message: Message) -> Sequence[Edit]:
        return (AddHeader("Received", self.options.word),)


@implementer(IRouter, IDeliveryFilter, IEventObserver)
class Outside:
    def __init__(self, options: Words, services: FilterServices) -> None:
        self.options = options

    def route(self, session: Session, transaction: Transaction, recipient: Recipient) -> str:
        return self.options.word

    def on_attempt(self, attempt: AttemptContext) -> None:
        return None

    def observe(self, event: Event) -> None:
        return None


@implementer(IRecipientFilter)
class Wrong:
    """Its method takes too little."""

    def __init__(self, options: Words, services: FilterServices) -> None:
        self.options = options

    def on_rcpt(self, session: Session) -> None:  # type: ignore[override]  # that is what is wrong with it
        return None


def refuses_its_options(options: Words, services: FilterServices) -> object:
    raise ValueError(f"{options.word} cannot work")


def breaks(options: Words, services: FilterServices) -> object:
    raise KeyError("oh")


@implementer(IFilterFactory)
class Factory:
    def __init__(self, name: str, build: Callable[[Any, FilterServices], object]) -> None:
        self.name, self.summary, self.options = name, f"{name} for tests", Words
        self.made: list[object] = []
        self._build = build

    def build(self, options: object, services: FilterServices) -> object:
        built = self._build(options, services)
        self.made.append(built)
        return built


class Kinds(Registry):
    """A registry of these factories."""

    def __init__(self, **builders: Callable[[Any, FilterServices], object]) -> None:
        super().__init__()
        self.factories = {name: Factory(name, build) for name, build in builders.items()}

    def find(self, kind: str) -> IFilterFactory:
        if kind not in self.factories:
            raise FilterNotFoundError(f"no filter is called {kind}")
        return self.factories[kind]


def kinds() -> Kinds:
    return Kinds(
        headers=Headers,
        refuser=Refuser,
        outside=Outside,
        wrong=Wrong,
        picky=refuses_its_options,
        breaks=breaks,
        nothing=lambda options, services: object(),
    )


@pytest.fixture
def loaded(tmp_path: Path) -> Callable[[str, Kinds], Loaded]:
    def make(text: str, registry: Kinds) -> Loaded:
        path = tmp_path / "mailgate.toml"
        path.write_text(dedent(BASE) + dedent(text))
        return load(path, registry.find)

    return make


Load = Callable[[str, Kinds], Loaded]


def built(loaded: Load, text: str, registry: Kinds | None = None) -> Pipelines:
    registry = registry or kinds()
    return build_pipelines(loaded(text, registry), registry, services())


def test_a_filter_is_built_once_with_its_options_and_shared(loaded: Load) -> None:
    registry = kinds()
    pipelines = built(
        loaded,
        """
        [pipelines]
        inbound.filters = ["refuser", ["second"]]
        outbound.filters = ["refuser"]
        [filters.refuser]
        word = "Never"
        [filters.second]
        kind = "refuser"
        [filters.unused]
        kind = "breaks"
        """,
        registry,
    )
    assert [one.options.word for one in registry.factories["refuser"].made] == ["Never", "No"]  # type: ignore[attr-defined]
    assert list(pipelines.by_name) == ["inbound", "outbound"]
    verdict = pipelines.by_name["outbound"].mail(session(), transaction())
    assert isinstance(verdict, Reject)
    assert verdict.reply.text == "Never"
    # Both pipelines share the one headers filter that neither names.
    assert len(registry.factories["headers"].made) == 1


def received(pipelines: Pipelines) -> list[Edit]:
    mail = transaction()
    assert pipelines.by_name["inbound"].message(session(), mail, message()) == [Continue()]
    return mail.edits


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[pipelines]\ninbound.filters = []", ["No"]),
        ('[pipelines]\ninbound.filters = []\n[filters.headers]\nword = "Ours"', ["Ours"]),
        ('[pipelines]\ninbound.filters = [["headers"]]\n[filters.headers]\nword = "Ours"', ["Ours"]),
        ('[pipelines]\ninbound.filters = ["mine"]\n[filters.mine]\nkind = "headers"\nword = "Mine"', ["Mine"]),
        # The name belongs to another kind: the default is there nevertheless.
        ('[pipelines]\ninbound.filters = ["headers"]\n[filters.headers]\nkind = "outside"', ["No"]),
        ('[pipelines]\ninbound.filters = []\n[filters.headers]\nkind = "refuser"', ["No"]),
    ],
)
def test_every_mail_gets_its_received_field_once(loaded: Load, text: str, words: list[str]) -> None:
    assert received(built(loaded, text)) == [AddHeader("Received", word) for word in words]


def test_common_settings_reach_the_members(loaded: Load) -> None:
    pipelines = built(
        loaded,
        """
        [pipelines.inbound]
        filters = ["refuser"]
        [filters.refuser]
        mode = "shadow"
        """,
    )
    mail = transaction()
    assert pipelines.by_name["inbound"].mail(session(), mail) == Continue()
    assert [(one.verdict, one.enforced) for one in mail.trace] == [("reject", False)]


def test_delivery_filters_and_observers_are_handed_out(loaded: Load) -> None:
    registry = kinds()
    pipelines = built(
        loaded, '[pipelines]\ninbound.filters = ["outside", "refuser"]\noutbound.filters = ["outside"]', registry
    )
    assert list(pipelines.observers) == registry.factories["outside"].made
    assert pipelines.delivery
    assert not built(loaded, '[pipelines]\ninbound.filters = ["refuser"]').delivery


def test_a_filter_of_deliveries_is_for_all(loaded: Load) -> None:
    text = '[pipelines]\ninbound.filters = ["outside"]\n[filters.outside]\nonly_for = ["example.org"]'
    with pytest.raises(ConfigError, match=r"filters\.outside: only_for, except_for: .* is for all recipients"):
        built(loaded, text)


@pytest.mark.parametrize(("word", "route", "taken"), [("lab", "lab", True), ("nowhere", "inside", False)])
def test_a_router_may_only_name_routes_that_there_are(loaded: Load, word: str, route: str, taken: bool) -> None:
    pipelines = built(loaded, f'[pipelines]\ninbound.filters = ["outside"]\n[filters.outside]\nword = "{word}"')
    one = recipient(route="inside")
    verdict = pipelines.by_name["inbound"].rcpt(session(), transaction(), one)
    assert (verdict == Continue()) == taken
    assert one.route == route


def test_all_errors_come_at_once_each_with_its_filter(loaded: Load) -> None:
    with pytest.raises(ConfigError) as caught:
        built(
            loaded,
            """
            [pipelines]
            inbound.filters = ["picky", ["wrong", "nothing"], "breaks"]
            outbound.filters = ["picky", "refuser"]
            [filters.picky]
            word = "Magic"
            """,
        )
    errors = caught.value.errors
    assert len(errors) == 4
    assert "filters.picky: Magic cannot work" in errors[0]
    assert "filters.wrong: " in errors[1]
    assert "on_rcpt" in errors[1]
    assert errors[2].endswith("filters.nothing: object provides no stage interface (see mailgate.interfaces)")
    assert errors[3].endswith("filters.breaks: KeyError: 'oh'")
    for error in errors:
        assert "mailgate.toml:" in error
        assert "\n" not in error


def test_a_filter_that_went_away_since_the_file_was_read_is_an_error(loaded: Load) -> None:
    registry = kinds()
    read = loaded('[pipelines]\ninbound.filters = ["refuser"]', registry)
    del registry.factories["refuser"], registry.factories["headers"]
    with pytest.raises(ConfigError) as caught:
        build_pipelines(read, registry, services())
    assert [error.rpartition(": ")[2] for error in caught.value.errors] == [
        "no filter is called refuser",
        "no filter is called headers",
    ]


def test_two_factories_of_one_name_are_an_error_of_the_file(loaded: Load) -> None:
    class Ambiguous(Kinds):
        def find(self, kind: str) -> IFilterFactory:
            raise FilterBrokenError(f"more than one filter is called {kind}: a and b")

    read = loaded('[pipelines]\ninbound.filters = ["refuser"]', kinds())
    with pytest.raises(ConfigError, match=r"filters\.refuser: more than one filter is called refuser: a and b"):
        build_pipelines(read, Ambiguous(), services())


def test_the_built_in_filters_make_a_pipeline(tmp_path: Path) -> None:
    path = tmp_path / "mailgate.toml"
    path.write_text(
        dedent(BASE) + '[pipelines.inbound]\nfilters = ["early-talker", "access", "rate-limit", "recipients"]'
    )
    registry = Registry()
    pipelines = build_pipelines(load(path, registry.find), registry, services())
    mail = transaction()
    pipelines.by_name["inbound"].message(session(), mail, message())
    assert [edit.name for edit in mail.edits if is_of_header(edit)] == ["Received"]
