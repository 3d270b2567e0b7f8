"""What the mailing list does, and that it keeps to the contract of all filters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from mailgate.message import AddRecipient, ChangeSender, For, RemoveRecipient
from mailgate.plugins.mailing_list_plugin import mailing_list
from mailgate.testing import FilterContract, Occasion, message, services, session, transaction
from mailgate.verdict import Reject
from mailing_list import MailingList, Options, build

LIST = "club@lists.example.org"
SAMPLE = Path(__file__).parents[1] / "members"
SETTINGS: Mapping[str, object] = {"address": LIST, "owner": "club-owner@lists.example.org", "members": str(SAMPLE)}


def club(members: Path = SAMPLE) -> MailingList:
    built = build(Options.model_validate({**SETTINGS, "members": str(members)}), services())
    assert isinstance(built, MailingList)
    return built


def test_members_write_to_all() -> None:
    mail = transaction("Bob@client.example", ["Club@lists.example.org"])
    assert club().on_message(session(), mail, message()) is None
    (edits,) = club().modify(session(), mail, message())
    assert isinstance(edits, For)
    copies = [str(one.address) for one in edits.edits if isinstance(one, AddRecipient)]
    assert copies == ["ann@client.example", "bob@client.example", "carla@elsewhere.example"]
    assert [str(one.address) for one in edits.edits if isinstance(one, ChangeSender)] == [
        "club-owner@lists.example.org"
    ]
    assert [str(one.address) for one in edits.edits if isinstance(one, RemoveRecipient)] == ["Club@lists.example.org"]


@pytest.mark.parametrize("sender", ["stranger@client.example", ""])
def test_nobody_else_does(sender: str) -> None:
    verdict = club().on_message(session(), transaction(sender, [LIST, "club-owner@lists.example.org"]), message())
    assert isinstance(verdict, Reject)
    assert (verdict.reply.code, [str(one) for one in verdict.recipients]) == (550, [LIST])


def test_what_was_on_the_list_does_not_come_again() -> None:
    text = "From: ann@client.example\nList-Id: The club <club.lists.example.org>\n\nx\n"
    verdict = club().on_message(session(), transaction("ann@client.example", [LIST]), message(text))
    assert isinstance(verdict, Reject)
    assert verdict.reply.code == 554


def test_other_mail_passes_as_it_is() -> None:
    mail = transaction("stranger@client.example", ["club-owner@lists.example.org"])
    assert club().on_message(session(), mail, message()) is None
    assert club().modify(session(), mail, message()) == []


def test_a_file_that_is_wrong_is_told(tmp_path: Path) -> None:
    (tmp_path / "members").write_text("no address\n")
    with pytest.raises(ValueError, match="an address has a domain"):
        club(tmp_path / "members")


class TestContract(FilterContract):
    """With a member, a stranger, and mail for somebody else."""

    factory = mailing_list
    settings = SETTINGS

    def occasions(self) -> Iterable[Occasion]:
        senders = ("ann@client.example", "stranger@client.example")
        return [Occasion(), *(Occasion(transaction=transaction(one, [LIST])) for one in senders)]
