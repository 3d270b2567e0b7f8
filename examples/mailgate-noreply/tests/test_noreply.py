"""What the filter does, and that it keeps to the contract of all filters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from mailgate.pipeline.registry import Registry
from mailgate.plugins.noreply import noreply
from mailgate.testing import FilterContract, Occasion, services, session, transaction
from mailgate.verdict import Reject, Verdict
from mailgate_noreply import NoReply, Options, build


def ask(sender: str, **options: Any) -> Verdict | None:
    """What the filter says of a sender."""
    built = build(Options(**options), services())
    assert isinstance(built, NoReply)
    return built.on_mail(session(), transaction(sender))


@pytest.mark.parametrize("name", ["noreply", "No-Reply", "donotreply+a17"])
def test_senders_that_take_no_answers_are_refused(name: str) -> None:
    verdict = ask(f"{name}@client.example", text="We like to talk")
    assert isinstance(verdict, Reject)
    assert str(verdict.reply) == "550 5.7.1 We like to talk"
    assert verdict.reason == f"{name}@client.example takes no answers"


@pytest.mark.parametrize("sender", ["ann@client.example", "noreply.ann@client.example", ""])
def test_everybody_else_passes(sender: str) -> None:
    assert ask(sender) is None


def test_exempt_domains_pass() -> None:
    assert ask("noreply@client.example", exempt=["CLIENT.example"]) is None


def test_options_that_do_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="nothing would ever be refused"):
        ask("ann@client.example", local_parts=[])


def test_it_is_installed() -> None:
    assert Registry().find("noreply") is noreply


class TestContract(FilterContract):
    """With a sender that passes, and one that does not."""

    factory = noreply
    settings: Mapping[str, object] = {"exempt": ["shop.example"]}

    def occasions(self) -> Iterable[Occasion]:
        return [Occasion(), Occasion(transaction=transaction("noreply@client.example"))]
