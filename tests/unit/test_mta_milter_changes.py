"""Edits as a milter's changes, as Postfix and Sendmail carry them out, and what is decided about recipients."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from mailgate.address import Address
from mailgate.message import (
    AddHeader,
    Edit,
    HeaderField,
    RemoveHeader,
    RemoveRecipient,
    RenameHeader,
    apply_edits,
    split_header,
)
from mailgate.mta.milter.changes import header_changes
from mailgate.mta.milter.deciding import Terms, decide
from mailgate.reply import Reply
from mailgate.testing import transaction
from mailgate.verdict import Continue, Discard, Quarantine, Reject, Verdict
from mailgate.wire.milter.codec import Change, HeaderAdded, HeaderChanged, HeaderInserted

OWN = b"Received: by the mail server\r\n"
NAMES = ("A", "b", "a", "Received", "X-Long-Name")
VALUES = ("1", "2", "two\r\n\twords", "")


def carried_out(header: bytes, changes: Sequence[Change], *, keeps_space: bool, counts_removed: bool) -> bytes:
    """The header section that a mail server delivers; its own Received field, on top, was never shown.

    `counts_removed`: fields that are gone still count for the numbers of those of their name, as with Sendmail.
    """
    fields: list[bytes | None] = [OWN, *(one.raw for one in split_header(header))]
    names = [raw.partition(b":")[0].lower() if raw is not None else b"" for raw in fields]
    space = b"" if keeps_space else b" "

    def made(name: bytes, value: bytes) -> bytes:
        return name + b":" + space + value.replace(b"\n", b"\r\n") + b"\r\n"

    for change in changes:
        match change:
            case HeaderAdded(name, value):
                fields.append(made(name, value))
                names.append(name.lower())
            case HeaderInserted(index, name, value):
                # The place among those that are there.
                there = [place for place, one in enumerate(fields) if one is not None]
                place = there[index] if index < len(there) else len(fields)
                fields.insert(place, made(name, value))
                names.insert(place, name.lower())
            case HeaderChanged(index, name, value):
                assert value == b""
                same = [
                    place
                    for place, one in enumerate(fields)
                    if place and names[place] == name.lower() and (counts_removed or one is not None)
                ]
                assert fields[same[index - 1]] is not None
                fields[same[index - 1]] = None
    assert fields[0] == OWN
    return b"".join([one for one in fields[1:] if one is not None])


name = st.sampled_from(NAMES)
value = st.sampled_from(VALUES)
field = st.builds(lambda name, value: HeaderField.of(name, value).raw, name, value)
edit = st.one_of(
    st.builds(AddHeader, name, value, st.booleans()),
    st.builds(RemoveHeader, name, st.one_of(st.none(), st.sampled_from(("1", "2")))),
    st.builds(RenameHeader, name, st.sampled_from(("a", "New"))),
)


@given(st.lists(field, max_size=8), st.lists(edit, max_size=6), st.booleans(), st.booleans())
def test_the_header_becomes_what_the_edits_say(
    fields: list[bytes], edits: list[Edit], keeps_space: bool, counts_removed: bool
) -> None:
    header = b"".join(fields)
    changes = header_changes(split_header(header), edits, keeps_space=keeps_space)
    done = carried_out(header, changes, keeps_space=keeps_space, counts_removed=counts_removed)
    assert done == apply_edits(header, edits)


def test_a_field_that_stays_is_never_named() -> None:
    fields = split_header(b"A: 1\r\nB: 2\r\nA: 3\r\n")
    assert header_changes(fields, [RemoveHeader("a", "3")], keeps_space=True) == [HeaderChanged(2, b"A", b"")]
    assert header_changes(fields, [], keeps_space=True) == []


NO = Reply.of(550, "5.7.1", "No")
VERDICTS: tuple[Verdict, ...] = (Continue(), Discard("d"), Quarantine("q"), Reject(NO, "r"))


@given(st.lists(st.sampled_from(VERDICTS), min_size=1, max_size=6), st.booleans(), st.booleans(), st.booleans())
def test_every_recipient_has_one_fate(verdicts: list[Verdict], has_route: bool, keeps: bool, may_report: bool) -> None:
    people = [f"user{number}@here.example" for number in range(len(verdicts))]
    keeps = keeps and has_route
    found = decide(transaction(recipients=people), verdicts, Terms(keeps, has_route, may_report))
    assert found.reply is None
    places = [*found.theirs, *found.ours, *found.discarded]
    assert sorted(places) == list(range(len(verdicts)))
    for place, verdict in enumerate(verdicts):
        if isinstance(verdict, Discard):
            assert place in found.discarded
        elif isinstance(verdict, Continue):
            assert place in found.theirs
        elif place in found.theirs:
            # Nobody gets what is not for him: it is held, and not by a site that keeps it itself.
            assert found.hold
            assert not keeps
        else:
            assert has_route
    if found.hold:
        assert not (has_route and any(isinstance(one, Continue) for one in verdicts))


@given(st.lists(st.sampled_from(VERDICTS), min_size=1, max_size=6), st.booleans())
def test_a_message_that_cannot_be_parted_is_held_or_ours(verdicts: list[Verdict], has_route: bool) -> None:
    mail = transaction(recipients=[f"user{number}@here.example" for number in range(len(verdicts))])
    found = decide(mail, verdicts, Terms(has_route=has_route, can_part=False))
    assert sorted([*found.theirs, *found.ours, *found.discarded]) == list(range(len(verdicts)))
    if found.theirs and not found.hold:
        assert len(found.theirs) == len(verdicts)
        assert all(isinstance(one, Continue) for one in verdicts)
    for place, verdict in found.ours.items():
        assert has_route
        assert not isinstance(verdict, Discard)
        assert isinstance(verdict, Continue) is isinstance(verdicts[place], Continue)


def test_a_recipient_is_not_removed_by_an_edit_where_a_message_cannot_be_parted() -> None:
    mail = transaction(recipients=["a@here.example", "b@here.example"])
    mail.edits.append(RemoveRecipient(Address("a", "here.example")))
    for has_route in (True, False):
        found = decide(mail, [Continue(), Continue()], Terms(has_route=has_route, can_part=False))
        assert (sorted(found.ours), bool(found.hold)) == (([0, 1], False) if has_route else ([], True))
    assert decide(mail, [Continue(), Continue()], Terms(has_route=True)).theirs == (0, 1)


def test_addresses_of_all_fates_are_those_that_were_named() -> None:
    mail = transaction(recipients=["a@here.example", "b@here.example"])
    found = decide(mail, [Quarantine("one"), Quarantine("two")], Terms())
    assert (found.theirs, found.hold) == ((0, 1), "one; two")
    assert [mail.recipients[place].address for place in found.theirs] == [
        Address("a", "here.example"),
        Address("b", "here.example"),
    ]
