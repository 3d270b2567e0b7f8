"""A reverse-path that filters give to some recipients, or all: the next hop is told it, and the sender stays."""

from __future__ import annotations

import pytest

from mailgate.address import NULL_PATH, Address
from mailgate.envelope import EnvelopeRecipient, Recipient, Target, Transaction
from mailgate.message import ChangeReturnPath, ChangeSender, Edit, For, RemoveRecipient
from mailgate.message.words import described
from mailgate.pipeline.member import MODIFY
from mailgate.relay.parts import Part, change, fill, parts_of
from mailgate.testing import transaction
from mailgate.verdict import Continue

ANN, BOB = Address("ann", "x.test"), Address("bob", "x.test")
PATH, OTHER = Address("prvs=x", "d.test"), Address("other", "d.test")


def filled(found: Transaction) -> list[Part]:
    parts = parts_of(found)
    change(parts, found.sender, lambda recipient, sender: "out")
    return list(fill(parts, found, [Continue() for _ in found.recipients], is_lmtp=False))


def made(*edits: Edit, among: tuple[Recipient | str, ...] = ("ann@x.test", "bob@x.test")) -> list[EnvelopeRecipient]:
    (part,) = filled(transaction("me@d.test", among, edits=list(edits)))
    return part.recipients


def test_for_all_or_for_some() -> None:
    found = made(ChangeReturnPath(PATH), ChangeReturnPath(OTHER, (BOB,)))
    assert [(one.address, one.return_path) for one in found] == [(ANN, PATH), (BOB, OTHER)]
    assert [one.return_path for one in made(ChangeReturnPath(PATH, (Address("eve", "x.test"),)))] == [None, None]


def test_the_sender_stays() -> None:
    (part,) = filled(transaction("me@d.test", edits=[ChangeReturnPath(PATH)]))
    assert part.changes is not None
    assert part.changes.sender == Address("me", "d.test")
    (part,) = filled(transaction("me@d.test", edits=[ChangeReturnPath(PATH), ChangeSender(OTHER)]))
    assert part.changes is not None
    assert (part.changes.sender, part.recipients[0].return_path) == (OTHER, PATH)


def test_the_last_one_counts() -> None:
    assert [one.return_path for one in made(ChangeReturnPath(PATH), ChangeReturnPath(NULL_PATH))] == [NULL_PATH] * 2


def test_with_recipients_that_go() -> None:
    assert [one.address for one in made(RemoveRecipient(ANN), ChangeReturnPath(PATH))] == [BOB]


def test_what_aliases_send_on_with_one_of_its_own_keeps_that() -> None:
    srs = Address("SRS0=x", "d.test")
    alias = Recipient(
        address=Address("info", "d.test"),
        targets=(Target(ANN, "out", srs), Target(BOB, "out")),
    )
    assert [one.return_path for one in made(ChangeReturnPath(PATH), among=(alias,))] == [srs, PATH]
    found = made(ChangeReturnPath(PATH, (alias.address,)), among=(alias,))
    assert [one.return_path for one in found] == [srs, PATH]


def test_where_there_are_several_messages() -> None:
    found = transaction("me@d.test", ["ann@x.test", "bob@x.test"])
    found.edits_for = (For((BOB,), (ChangeReturnPath(PATH),)),)
    assert [[one.return_path for one in part.recipients] for part in filled(found)] == [[None], [PATH]]


def test_administrators_are_told_in_words() -> None:
    assert described(ChangeReturnPath(PATH)) == f"change the return path to <{PATH}>"
    assert described(ChangeReturnPath(PATH, (ANN, BOB))) == (
        f"change the return path of mail to {ANN}, {BOB} to <{PATH}>"
    )


def test_the_trace_names_it() -> None:
    assert MODIFY.read([ChangeReturnPath(PATH)])[:2] == ("edit", f"return path <{PATH}>")
    with pytest.raises(TypeError):
        MODIFY.read([ChangeReturnPath("x")])  # type: ignore[arg-type]  # what a filter may get wrong
