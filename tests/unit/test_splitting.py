"""Edits for some recipients: each of them gets the edits that are for it, once, and nobody is lost."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from zope.interface import implementer

from mailgate.address import NULL_PATH, Address
from mailgate.envelope import Envelope, Recipient, Session, Target, Transaction
from mailgate.events import Discarded, FilterFailed, MessageAccepted, Quarantined, Refused
from mailgate.interfaces import IMessageModifier, Lease
from mailgate.message import (
    AddHeader,
    AddRecipient,
    ChangeSender,
    Content,
    ContentWriter,
    Edit,
    For,
    MemoryBudget,
    Message,
    RemoveRecipient,
    ReplaceBody,
    Splice,
    edited_body,
    rendered,
)
from mailgate.pipeline.branches import MAX_BRANCHES
from mailgate.pipeline.member import Member
from mailgate.pipeline.runner import Pipeline
from mailgate.pipeline.scope import Scope
from mailgate.relay.editing import ContentEditor
from mailgate.relay.intake import Intake
from mailgate.reply import Reply
from mailgate.testing import EventRecorder, MemoryOriginals, MemorySpool, session, transaction, wait_for
from mailgate.verdict import Continue, Discard, Quarantine, Reject, Verdict
from tests.unit.relaying import failures_logged

DATA = b"Subject: x\r\n\r\nhello\r\n"
AT = DATA.index(b"hello")
NO = Reply.of(550, "5.7.1", "no")
NAMES = ("ann", "bob", "cleo", "dan", "eve")


def at(name: str) -> Address:
    return Address(name, "d.test")


@implementer(IMessageModifier)
class Edits:
    """Answers these, or what a function makes of the transaction; `asked` has the names it was asked about."""

    def __init__(self, answer: Sequence[Edit | For] | Callable[[Transaction, Message], Any]) -> None:
        self._answer = answer
        self.asked: list[list[str]] = []

    def modify(self, session: Session, transaction: Transaction, message: Message) -> Any:
        self.asked.append([one.address.local_part for one in transaction.recipients])
        assert transaction.edits_for == ()
        return self._answer(transaction, message) if callable(self._answer) else self._answer


@implementer(IMessageModifier)
class Signer:
    """Says in a field what the body is, as one that signs it does."""

    def modify(self, session: Session, transaction: Transaction, message: Message) -> Sequence[Edit]:
        return [AddHeader("X-Digest", digest(b"".join(edited_body(message.content, transaction.edits))))]


def digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()[:20]


class Bench:
    def __init__(self, *filters: object, directory: Path = Path(), scopes: Sequence[Sequence[str]] = ()) -> None:
        self.clock, self.events = Clock(), EventRecorder()
        self.spool, self.leases = MemorySpool(self.clock), list[Lease]()
        self.full: Callable[[int], str] = lambda size: ""
        self.originals = MemoryOriginals()
        members = []
        for number, one in enumerate(filters):
            names = scopes[number] if number < len(scopes) else ()
            scope = Scope([f"{name}@d.test" for name in names], [], self.clock) if names else None
            members.append(Member(f"f{number}", one, scope=scope))
        self.pipeline = Pipeline([[member] for member in members], self.clock, self.events)
        self.editor = ContentEditor(directory, self.clock)
        self.intake = Intake(
            self.spool,
            refusal=lambda size: self.full(size),
            deliver=self.leases.append,
            events=self.events,
            clock=self.clock,
            editor=self.editor,
            next_hop=lambda recipient, sender: "out",
            originals=self.originals,
        )
        self.replies: list[Reply] = []

    def send(
        self,
        *recipients: str | Recipient,
        verdicts: Sequence[Verdict] = (),
        content: Content | None = None,
        protocol: str = "ESMTP",
    ) -> Transaction:
        content = content or Content(DATA)
        people = [Recipient(address=at(one), route="in") if isinstance(one, str) else one for one in recipients]
        mail = transaction(recipients=people, id="0Q")
        client = session(protocol=protocol)
        judged = self.pipeline.message(client, mail, Message(content))
        decided = wait_for(judged)
        both = [
            later if type(verdict) is Continue else verdict
            for verdict, later in zip(verdicts or decided, decided, strict=True)
        ]
        self.replies = list(wait_for(self.intake.take(client, mail, content, both)))
        return mail

    @property
    def got(self) -> list[tuple[str, bytes]]:
        """Who gets what, without those who are kept back or refused; by name."""
        found = []
        for lease in self.leases:
            octets = b"".join(rendered(lease.content, lease.envelope.edits))
            found += [(one.address.local_part, octets) for one in lease.recipients if not one.refusal]
        return sorted(found)


# -- a model


PEOPLE = st.sampled_from(NAMES)
GROUPS = st.lists(PEOPLE, unique=True, min_size=1, max_size=4)
ONE_FILTER = st.tuples(
    st.one_of(st.just([]), GROUPS),  # whom it is for
    st.lists(st.tuples(st.one_of(st.none(), GROUPS), st.booleans()), max_size=3),  # edits: for whom, of the body
)
FATES = st.sampled_from(["taken", "taken", "taken", "kept", "refused", "gone"])
VERDICTS: dict[str, Verdict] = {
    "taken": Continue(),
    "kept": Quarantine("odd"),
    "refused": Reject(NO, "bad"),
    "gone": Discard("spam"),
}


def edit_of(number: int, place: int, is_body: bool) -> Edit:
    word = f"f{number}-{place}"
    return Splice(AT, AT, f"{word}\r\n".encode()) if is_body else AddHeader("X-Edit", word, at_end=True)


@given(
    st.lists(st.tuples(PEOPLE, FATES), unique_by=lambda one: one[0], min_size=1),
    st.lists(ONE_FILTER, max_size=4),
    st.dictionaries(PEOPLE, st.lists(PEOPLE, unique=True, min_size=1, max_size=2), max_size=2),
)
def test_each_gets_what_is_for_it(
    people: list[tuple[str, str]],
    filters: list[tuple[list[str], list[tuple[list[str] | None, bool]]]],
    aliases: dict[str, list[str]],
) -> None:
    built = []
    for number, (_, edits) in enumerate(filters):
        made: list[Edit | For] = []
        for place, (group, is_body) in enumerate(edits):
            edit = edit_of(number, place, is_body)
            made.append(edit if group is None else For(tuple(map(at, group)), (edit,)))
        built.append(Edits(made))
    bench = Bench(*built, Signer(), scopes=[scope for scope, _ in filters])
    recipients = [
        Recipient(address=at(name), targets=tuple(Target(at(one), "in") for one in aliases[name]))
        if name in aliases
        else Recipient(address=at(name), route="in")
        for name, _ in people
    ]
    bench.send(*recipients, verdicts=[VERDICTS[fate] for _, fate in people])

    def expected(name: str) -> bytes:
        header, body = b"Subject: x\r\n", b""
        for number, (scope, edits) in enumerate(filters):
            for place, (group, is_body) in enumerate(edits):
                if (not scope or name in scope) and (group is None or name in group):
                    word = f"f{number}-{place}\r\n".encode()
                    if is_body:
                        body += word
                    else:
                        header += b"X-Edit: " + word
        body += b"hello\r\n"
        return b"X-Digest: " + digest(body).encode() + b"\r\n" + header + b"\r\n" + body

    written = {name: aliases.get(name, [name]) for name, fate in people if fate == "taken"}
    meant = {one for targets in written.values() for one in targets}
    got = bench.got
    assert [name for name, _ in got] == sorted(meant)
    for name, octets in got:
        assert octets in [expected(by) for by, targets in written.items() if name in targets]
    kept = {
        str(one.address.local_part) for lease in bench.leases for one in lease.envelope.recipients if one.quarantine
    }
    wanted = {one for name, fate in people if fate == "kept" for one in aliases.get(name, [name])}
    refused = {one for name, fate in people if fate == "refused" for one in aliases.get(name, [name])}
    assert wanted - meant - refused <= kept <= wanted
    assert all(reply.code == 250 for reply in bench.replies)
    told = [name for event in bench.events.of(MessageAccepted) for name in event.recipients]
    assert sorted(told) == sorted(f"{name}@d.test" for name, fate in people if fate != "gone")
    gone = [name for event in bench.events.of(Discarded) for name in event.recipients]
    assert sorted(gone) == sorted(f"{name}@d.test" for name, fate in people if fate == "gone")


# -- branches


def header(word: str) -> AddHeader:
    return AddHeader("X", word, at_end=True)


def test_what_comes_behind_is_asked_for_each_message() -> None:
    last = Edits([header("3")])
    bench = Bench(Edits([header("1")]), Edits([For((at("bob"), at("eve")), (header("2"),))]), last)
    mail = bench.send("ann", "bob", "cleo", "eve")
    assert last.asked == [["ann", "cleo"], ["bob", "eve"]]
    assert mail.edits == [header("1")]
    assert [(lease.envelope.edits, len(lease.recipients)) for lease in bench.leases] == [
        ((header("1"), header("3")), 2),
        ((header("1"), header("2"), header("3")), 2),
    ]
    steps = [(step.filter, step.recipient) for step in mail.trace]
    assert steps == [("f0", ""), ("f1", ""), ("f2", "ann@d.test, cleo@d.test"), ("f2", "bob@d.test, eve@d.test")]


def test_the_same_edits_are_one_message_again() -> None:
    bench = Bench(Edits([For((at("ann"),), (header("1"),)), For((at("bob"),), (header("1"),))]))
    bench.send("ann", "bob")
    assert len(bench.leases) == 1


def test_edits_for_nobody_who_is_there_split_nothing() -> None:
    bench = Bench(Edits([For((at("dan"),), (header("1"),))]), Edits([header("2")]))
    bench.send("ann", "bob")
    (lease,) = bench.leases
    assert lease.envelope.edits == (header("2"),)


def test_edits_for_all_who_are_there_are_for_all() -> None:
    last = Edits([header("3")])
    everybody = For((at("ann"), at("bob"), at("dan")), (header("1"),))
    bench = Bench(Edits([everybody]), Edits([header("2")]), last, scopes=[[], ["dan"]])
    mail = bench.send("ann", "bob")
    assert (mail.edits, mail.edits_for) == ([header("1"), header("3")], ())
    assert last.asked == [["ann", "bob"]]
    assert [step.recipient for step in mail.trace] == ["", ""]


def test_a_body_that_follows_others_counts_those_of_its_message() -> None:
    def replaced(mail: Transaction, message: Message) -> Sequence[Edit]:
        splices = [edit for edit in mail.edits if isinstance(edit, Splice)]
        body = b"".join(edited_body(message.content, mail.edits)).upper()
        return [ReplaceBody(Content(body), len(splices))]

    bench = Bench(Edits([For((at("ann"),), (Splice(AT, AT, b"for ann\r\n"),))]), Edits(replaced))
    bench.send("ann", "bob")
    assert [octets.partition(b"\r\n\r\n")[2] for _, octets in bench.got] == [b"FOR ANN\r\nHELLO\r\n", b"HELLO\r\n"]


def test_a_body_that_does_not_fit_one_message_is_a_failure_for_that() -> None:
    bench = Bench(
        Edits([For((at("ann"),), (Splice(AT, AT, b"for ann\r\n"),))]),
        Edits(lambda mail, message: [ReplaceBody(Content(b"new\r\n"), 1)]),
    )
    mail = transaction(recipients=[Recipient(address=at("ann")), Recipient(address=at("bob"))])
    verdicts = wait_for(bench.pipeline.message(session(), mail, Message(Content(DATA))))
    assert [type(one).__name__ for one in verdicts] == ["Continue", "Defer"]
    (failed,) = bench.events.of(FilterFailed)
    assert "follows 1 edits, where there are 0" in failed.error


@pytest.mark.parametrize(
    "answer",
    [
        [For((at("ann"),), (For((at("ann"),), ()),))],  # type: ignore[arg-type]  # that is the point
        [For((at("ann"),), ("X",))],  # type: ignore[arg-type]  # that is the point
        [For((at("ann"),), (Splice(0, 0, b"x"),))],
        [header("1"), For((at("ann"),), (Splice(AT, AT + 9999, b""),))],
    ],
)
def test_what_is_no_edit_is_a_failure(answer: list[Any]) -> None:
    bench = Bench(Edits(answer))
    bench.send("ann", "bob")
    assert (bench.got, len(bench.events.of(FilterFailed))) == ([], 1)


def test_edits_name_somebody() -> None:
    with pytest.raises(ValueError, match="nobody"):
        For((), (header("1"),))


def test_many_recipients_in_many_groups_are_looked_for_once() -> None:
    looked: list[None] = []

    class Counted(tuple[Address, ...]):
        def __contains__(self, one: object) -> bool:
            looked.append(None)
            return super().__contains__(one)

    names = [f"u{number}" for number in range(500)]
    parts = [Counted(map(at, names[number::50])) for number in range(50)]
    bench = Bench(Edits([For(part, (header(str(number)),)) for number, part in enumerate(parts)]))
    bench.send(*names)
    assert (len(bench.leases), looked) == (50, [])


@pytest.mark.parametrize("more", [0, 1])
def test_a_message_becomes_so_many_at_most(more: int) -> None:
    names = [f"u{number}" for number in range(MAX_BRANCHES + more)]
    each = Edits([For((at(name),), (header(name),)) for name in names])
    bench = Bench(each)
    bench.send(*names)
    failed = bench.events.of(FilterFailed)
    if more:
        assert "more than 100 messages" in failed[0].error
        assert bench.got == []
    else:
        assert (failed, len(bench.leases)) == ([], MAX_BRANCHES)
    # One after another they come to no more.
    halves = [Edits([For((at(name),), (header(name),)) for name in part]) for part in (names[:60], names[60:])]
    bench = Bench(*halves)
    bench.send(*names)
    assert bool(bench.events.of(FilterFailed)) is bool(more)


def test_edits_of_a_message_that_is_given_up_on_let_go_of_what_they_hold(tmp_path: Path) -> None:
    def body(mail: Transaction, message: Message) -> Sequence[Edit]:
        path = tmp_path / mail.recipients[0].address.local_part
        path.write_bytes(b"new\r\n")
        return [ReplaceBody(Content.in_file(path))]

    waits: Deferred[Any] = Deferred()
    first = Edits([For((at("bob"),), (header("1"),))])
    bench = Bench(first, Edits(lambda *mail: body(*mail) if mail[0].recipients[0].address == at("ann") else waits))
    mail = transaction(recipients=[Recipient(address=at("ann")), Recipient(address=at("bob"))])
    judged = bench.pipeline.message(session(), mail, Message(Content(DATA)))
    assert isinstance(judged, Deferred)
    judged.addErrback(lambda _: None)
    judged.cancel()
    (one,) = [edit for some in mail.edits_for for edit in some.edits if isinstance(edit, ReplaceBody)]
    assert one.content.path == tmp_path / "ann"


def test_what_nobody_who_is_there_gets_is_let_go_of(tmp_path: Path) -> None:
    def body(name: str) -> ReplaceBody:
        path = tmp_path / name
        path.write_bytes(b"new\r\n")
        return ReplaceBody(Content.in_file(path))

    bench = Bench(Edits([For((at("dan"),), (body("dan"),)), For((at("ann"),), (body("ann"),))]))
    mail = transaction(recipients=[Recipient(address=at(name)) for name in ("ann", "bob")])
    wait_for(bench.pipeline.message(session(), mail, Message(Content(DATA))))
    assert [path.name for path in tmp_path.iterdir()] == ["ann"]
    # Asked for each message, one tells of both each time.
    both = body("both")
    bench = Bench(
        Edits([For((at("ann"),), (header("1"),))]),
        Edits(lambda mail, message: [For((at("ann"),), (both,)), For((at("dan"),), (body("dan"),))]),
    )
    mail = transaction(recipients=[Recipient(address=at(name)) for name in ("ann", "bob")])
    wait_for(bench.pipeline.message(session(), mail, Message(Content(DATA))))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ann", "both"]


# -- envelopes


def test_an_envelope_is_changed_for_some() -> None:
    archive = AddRecipient(Address("archive", "far.test"))
    mine = For((at("bob"),), (ChangeSender(NULL_PATH), archive, RemoveRecipient(at("ann"))))
    bench = Bench(Edits([mine]))
    bench.send("ann", "bob")
    assert [(str(lease.envelope.sender), [str(one.address) for one in lease.recipients]) for lease in bench.leases] == [
        ("ann@client.example", ["ann@d.test"]),
        ("", ["bob@d.test", "archive@far.test"]),
    ]


def test_who_is_added_to_several_gets_one_copy() -> None:
    added = Edits([AddRecipient(Address("archive", "far.test")), AddRecipient(at("ann"))])
    bench = Bench(Edits([For((at("bob"),), (header("1"),))]), added)
    bench.send("ann", "bob")
    assert len(added.asked) == 2
    assert [name for name, _ in bench.got] == ["ann", "archive", "bob"]


def test_who_is_added_does_not_keep_a_message_that_nobody_gets() -> None:
    bench = Bench(Edits([For((at("ann"),), (header("1"),))]), Edits([AddRecipient(Address("archive", "far.test"))]))
    bench.send("ann", "bob", verdicts=[Discard("spam"), Continue()])
    (lease,) = bench.leases
    assert [one.address.local_part for one in lease.recipients] == ["bob", "archive"]
    assert lease.envelope.queue_id == "0Q"


@pytest.mark.parametrize("gone", [(), (RemoveRecipient(at("ann")), RemoveRecipient(at("bob")))])
def test_who_is_added_gets_nothing_that_all_others_are_kept_from(gone: tuple[Edit, ...]) -> None:
    archive = AddRecipient(Address("archive", "far.test"))
    for kept, quarantine in ((Quarantine("a virus"), "a virus"), (Discard("spam"), None), (Continue(), "")):
        bench = Bench(Edits([*gone, archive]))
        bench.send("ann", "bob", verdicts=[kept, Discard("spam")])
        found = [one for lease in bench.leases for one in lease.envelope.recipients]
        assert [one.quarantine for one in found if one.address == archive.address] == [
            one for one in [quarantine] if one is not None
        ]
        told = [name for event in bench.events.of(Quarantined) for name in event.recipients]
        assert ("archive@far.test" in told) is (quarantine == "a virus")


def test_who_is_added_to_several_gets_that_which_is_let_through() -> None:
    archive = AddRecipient(Address("archive", "far.test"))
    bench = Bench(Edits([For((at("ann"),), (header("1"),))]), Edits([archive]))
    bench.send("ann", "bob", verdicts=[Quarantine("a virus"), Continue()])
    assert [name for name, _ in bench.got] == ["archive", "bob"]


def test_an_address_in_two_messages_is_delivered_once() -> None:
    team = Recipient(address=at("team"), targets=(Target(at("ann"), "in"), Target(at("eve"), "in")))
    bench = Bench(Edits([For((at("team"),), (header("team"),))]))
    bench.send("ann", team)
    assert [name for name, _ in bench.got] == ["ann", "eve"]
    assert [b"X: team" in octets for _, octets in bench.got] == [False, True]
    bench = Bench(Edits([For((at("team"),), (header("team"),))]))
    bench.send("ann", team, verdicts=[Quarantine("odd"), Continue()])
    assert [b"X: team" in octets for _, octets in bench.got] == [True, True]
    (lease,) = bench.leases
    assert lease.envelope.queue_id == "0Q"


# -- what is told


def test_events_and_replies_name_each_message() -> None:
    split = Edits([For((at("bob"),), (header("1"),))])
    bench = Bench(split)
    bench.send("ann", "bob", verdicts=[Quarantine("odd"), Quarantine("odd")])
    first, second = bench.events.of(MessageAccepted)
    assert (first.queue_id, first.split_from, second.split_from) == ("0Q", "", "0Q")
    assert (bool(first.trace), second.trace) == (True, ())
    assert [(one.queue_id, one.recipients) for one in bench.events.of(Quarantined)] == [
        ("0Q", ("ann@d.test",)),
        (second.queue_id, ("bob@d.test",)),
    ]
    assert [str(one) for one in bench.replies] == ["250 2.0.0 queued as 0Q"] * 2
    bench = Bench(split)
    bench.send("ann", "bob", "cleo", protocol="LMTP", verdicts=[Continue(), Continue(), Reject(NO, "bad")])
    _, second = bench.events.of(MessageAccepted)
    assert [str(one) for one in bench.replies] == [
        "250 2.0.0 queued as 0Q",
        f"250 2.0.0 queued as {second.queue_id}",
        str(NO),
    ]


# -- when it cannot be done


BIG = DATA + b"line\r\n" * 60_000
THREE = [For((at("bob"),), (Splice(AT, AT, b"bob\r\n"),)), For((at("cleo"),), (Splice(AT, AT, b"cleo\r\n"),))]


def in_file(directory: Path, data: bytes = BIG) -> Content:
    path = directory / "came"
    path.write_bytes(data)
    return Content.in_file(path)


def test_contents_in_files_are_made_and_taken(tmp_path: Path) -> None:
    bench = Bench(Edits(THREE), directory=tmp_path)
    bench.send("ann", "bob", "cleo", content=in_file(tmp_path))
    assert [octets[AT : AT + 6] for _, octets in bench.got] == [b"hello\r", b"bob\r\nh", b"cleo\r\n"]
    assert [len(octets) for _, octets in bench.got] == [len(BIG), len(BIG) + 5, len(BIG) + 6]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [None, errno.EPERM, errno.EMLINK])
def test_the_same_content_in_a_file_has_a_name_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int | None
) -> None:
    if error is not None:
        monkeypatch.setattr("os.link", raising(OSError(error, "no links here")))
    bench = Bench(Edits([For((at("bob"),), (header("1"),))]), directory=tmp_path)
    names: list[Path | None] = []
    accept_all = bench.spool.accept_all

    def watched(messages: Sequence[tuple[Envelope, Content]], until: float) -> Deferred[Sequence[Lease]]:
        names.extend(content.path for _, content in messages)
        return accept_all(messages, until)

    monkeypatch.setattr(bench.spool, "accept_all", watched)
    bench.send("ann", "bob", content=in_file(tmp_path))
    assert len(set(names)) == 2
    assert [len(octets) for _, octets in bench.got] == [len(BIG), len(BIG) + len(b"X: 1\r\n")]
    assert list(tmp_path.iterdir()) == []


def raising(error: Exception) -> Callable[..., Any]:
    def call(*_: object, **__: object) -> Any:
        raise error

    return call


def test_a_spool_that_does_not_take_one_takes_none(tmp_path: Path) -> None:
    budget = MemoryBudget(1 << 20)
    bench = Bench(Edits(THREE), directory=tmp_path)
    bench.intake._editor = ContentEditor(tmp_path, bench.clock, budget)
    bench.spool.error = "the disk is full"
    bench.send("ann", "bob", "cleo", content=in_file(tmp_path))
    writer = ContentWriter(tmp_path, 1 << 20, budget)
    writer.write(DATA)
    assert [one.code for one in bench.replies] == [452] * 3
    bench.send("ann", "bob", "cleo", content=writer.finish())
    assert [one.code for one in bench.replies] == [452] * 3
    assert (bench.leases, bench.events.of(MessageAccepted), budget.used) == ([], [], 0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", range(4))
def test_a_disk_that_fails_at_any_of_them_takes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    edits = [*THREE, For((at("dan"),), (header("1"),)), For((at("eve"),), (Splice(AT, AT, b"eve\r\n"),))]
    bench = Bench(Edits(edits), directory=tmp_path)
    made: list[None] = []

    def failing(whole: Callable[..., Any]) -> Callable[..., Any]:
        def call(*values: Any) -> Any:
            made.append(None)
            if len(made) > number:
                raise OSError(errno.ENOSPC, "No space left on device")
            return whole(*values)

        return call

    monkeypatch.setattr(bench.editor, "edit", failing(bench.editor.edit))
    monkeypatch.setattr(bench.editor, "copy", failing(bench.editor.copy))
    bench.send(*NAMES, content=in_file(tmp_path))
    assert len(made) == number + 1
    assert [one.code for one in bench.replies] == [452] * 5
    assert (bench.leases, len(bench.events.of(Refused))) == ([], 1)
    assert list(tmp_path.iterdir()) == []


def test_there_must_be_room_for_all_of_them(tmp_path: Path) -> None:
    bench = Bench(Edits(THREE), directory=tmp_path)
    bench.full = lambda size: "only little is free" if size > 2 * len(DATA) else ""
    bench.send("ann", "bob", "cleo")
    assert [one.code for one in bench.replies] == [452] * 3
    bench.send("ann", "bob")
    assert [one.code for one in bench.replies] == [250] * 2


def test_a_bug_takes_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(Edits(THREE), directory=tmp_path)
    monkeypatch.setattr(bench.editor, "edit", raising(ZeroDivisionError("a bug")))
    with failures_logged() as logged:
        bench.send("ann", "bob", "cleo", content=in_file(tmp_path))
    assert [one.code for one in bench.replies] == [451] * 3
    assert len(logged) == 1
    assert list(tmp_path.iterdir()) == []
