"""The filter batv: who is tagged, whose tags come off, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytest
from twisted.internet.task import Clock

from mailgate.address import Address
from mailgate.envelope import Identity, Recipient, Session, Target, Transaction
from mailgate.filters.batv import BatvFilter, BatvResult, Options, build
from mailgate.filters.verp import VerpResult
from mailgate.interfaces import Expanded
from mailgate.message import AddRecipient, ChangeReturnPath, Edit, For, RemoveRecipient
from mailgate.pipeline.registry import FilterMaker
from mailgate.reply import Reply
from mailgate.rewriting.verp import VerpReturn
from mailgate.stores.lists import FileError
from mailgate.testing import FilterContract, Occasion, message, recipient, services, session, transaction, wait_for
from mailgate.verdict import Accept, Continue, Defer, Reject, Verdict

DAY = 86400.0
ANN = Address("ann", "example.org")
SECRET = "one secret, long enough\n"  # noqa: S105  a test's own


class Bench:
    def __init__(self, folder: Path, expand: Callable[[Address], Expanded] = lambda _: None, **options: object) -> None:
        self.path = folder / "secrets"
        self.path.write_text(SECRET)
        self.clock = Clock()
        self.clock.advance(1_700_000_000)
        settings = {"senders": ["example.org"], "secrets": str(self.path)} | options
        built = build(Options.model_validate(settings), services(clock=self.clock, expand=expand))
        assert isinstance(built, BatvFilter)
        self.filter = built

    def sent(
        self, *recipients: Recipient | str, sender: str = "ann@example.org", client: Session | None = None
    ) -> list[Edit | For]:
        mail = transaction(sender, recipients or ("bob@example.net",))
        client = client or session(identity=Identity("ann", "PLAIN"))
        return list(self.filter.modify(client, mail, message()))

    def tagged(self, sender: str = "ann@example.org") -> Address:
        (edit,) = self.sent(sender=sender)
        assert isinstance(edit, ChangeReturnPath)
        return edit.address

    def back(
        self, address: Address | str, sender: str = "", client: Session | None = None
    ) -> tuple[Verdict | None, list[Edit | For]]:
        """What is said at RCPT, and the edits, if it comes to that."""
        client = client or session()
        to = recipient(address)
        mail: Transaction = transaction(sender, [to])
        verdict = wait_for(self.filter.on_rcpt(client, mail, to))
        for one in getattr(verdict, "evidence", ()):
            mail.evidence.add(one)
        return verdict, list(self.filter.modify(client, mail, message()))


def test_out_and_back(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    tagged = bench.tagged()
    assert tagged.local_part.startswith("prvs=")
    verdict, edits = bench.back(tagged)
    assert isinstance(verdict, Accept)
    assert edits == [RemoveRecipient(tagged), AddRecipient(ANN)]
    (found,) = verdict.evidence
    assert isinstance(found, BatvResult)
    assert (found.facts(), found.summary()) == (("batv.valid",), "batv=valid")


def test_reports_go_to_those_whom_the_sender_stands_for(tmp_path: Path) -> None:
    targets = [Address("bob", "example.org"), Address("bob", "far.example")]
    bench = Bench(tmp_path, lambda address: targets if address == ANN else None)
    tagged = bench.tagged()
    verdict, edits = bench.back(tagged)
    assert isinstance(verdict, Accept)
    assert edits == [RemoveRecipient(tagged), *map(AddRecipient, targets)]


@pytest.mark.parametrize(
    "refusal", [Reject(Reply.of(550, "5.1.1", "No"), "gone"), Defer(Reply.of(451, "4.4.3", "Later"), "away")]
)
def test_aliases_that_cannot_be_told(tmp_path: Path, refusal: Reject | Defer) -> None:
    bench = Bench(tmp_path, lambda _: refusal)
    tagged = bench.tagged()
    assert bench.back(tagged) == (refusal, [])
    forged = Address(tagged.local_part.replace("=ann", "=eve"), tagged.domain)
    verdict, _ = bench.back(forged)
    assert isinstance(verdict, Reject)
    assert verdict != refusal  # nobody learns by made up tags which addresses there are


def test_answers_of_people_come_back_too(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    verdict, edits = bench.back(bench.tagged(), sender="bob@example.net")
    assert isinstance(verdict, Accept)
    assert edits[1] == AddRecipient(ANN)


@pytest.mark.parametrize(
    ("recipients", "named"),
    [
        (("bob@example.net", "eve@example.com"), ()),
        (("bob@example.net", "eve@example.org"), ("bob@example.net",)),
        (("bob@example.net", "list@lists.example"), ("bob@example.net",)),
    ],
)
def test_mail_within_stays_as_it_is(tmp_path: Path, recipients: tuple[str, ...], named: tuple[str, ...]) -> None:
    bench = Bench(tmp_path, except_for=["lists.example"])
    (edit,) = bench.sent(*recipients)
    assert isinstance(edit, ChangeReturnPath)
    assert tuple(map(str, edit.recipients)) == named
    assert bench.sent("eve@example.org") == []


def test_what_aliases_send_out(tmp_path: Path) -> None:
    to = recipient("info@example.org")
    to.targets = (Target(Address("bob", "example.net"), "out"),)
    (edit,) = Bench(tmp_path).sent(to)
    assert isinstance(edit, ChangeReturnPath)


@pytest.mark.parametrize("sender", ["", "ann@elsewhere.example", "x" * 60 + "@example.org"])
def test_other_senders(tmp_path: Path, sender: str) -> None:
    assert Bench(tmp_path).sent(sender=sender) == []


def test_nobody_from_outside_is_tagged(tmp_path: Path) -> None:
    assert Bench(tmp_path).sent(client=session()) == []


def test_what_is_tagged_already(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    assert bench.sent(sender=str(bench.tagged())) == []


def test_return_paths_of_others_stay(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bob, eve = Address("bob", "example.net"), Address("eve", "example.net")
    mail = transaction(
        "ann@example.org", [str(bob), str(eve)], edits=[ChangeReturnPath(Address("v", "x.test"), (bob,))]
    )
    (edit,) = bench.filter.modify(session(identity=Identity("ann", "PLAIN")), mail, message())
    assert isinstance(edit, ChangeReturnPath)
    assert edit.recipients == (eve,)


@pytest.mark.parametrize(("option", "kind"), [("continue", Continue), ("defer", Defer), ("reject", Reject)])
def test_reports_without_a_tag(tmp_path: Path, option: str, kind: type[Verdict]) -> None:
    bench = Bench(tmp_path, untagged=option, exempt=["198.51.100.0/24"])
    verdict, _ = bench.back("ann@example.org")
    assert isinstance(verdict, kind)
    (found,) = verdict.evidence
    assert isinstance(found, BatvResult)
    assert found.facts() == ("batv.untagged",)
    assert bench.back("ann@example.org", sender="bob@example.net") == (None, [])
    assert bench.back("ann@elsewhere.example") == (None, [])
    assert bench.back("ann@example.org", client=session("198.51.100.7")) == (None, [])
    assert bench.back("ann@example.org", client=session(identity=Identity("ann", "PLAIN"))) == (None, [])


def test_addresses_that_need_no_tag(tmp_path: Path) -> None:
    bench = Bench(tmp_path, untagged="reject")
    assert bench.back("Postmaster@example.org") == (None, [])
    for local_part in ("SRS0=AAAAAA=AA=x.example=eve", "srs1-AAAAAA=x.example=-rest"):
        to = recipient(Address(local_part, "example.org"))
        assert isinstance(bench.filter.on_rcpt(session(), transaction("", [to]), to), Reject)  # nobody has undone it
        to.targets = (Target(Address("eve", "x.example"), "out"),)
        assert bench.filter.on_rcpt(session(), transaction("", [to]), to) is None
    path = Address("news+AAAAAAAA=bob=example.net", "example.org")
    mail = transaction("", [recipient(path)])
    assert isinstance(bench.filter.on_rcpt(session(), mail, recipient(path)), Reject)
    mail.evidence.add(VerpResult(path, VerpReturn(ANN, Address("bob", "example.net"))))
    assert bench.filter.on_rcpt(session(), mail, recipient(path)) is None
    assert isinstance(bench.filter.on_rcpt(session(), mail, recipient(ANN)), Reject)


@pytest.mark.parametrize(("option", "kind"), [("continue", Continue), ("defer", Defer), ("reject", Reject)])
def test_tags_that_are_none(tmp_path: Path, option: str, kind: type[Verdict]) -> None:
    bench = Bench(tmp_path, invalid=option)
    tagged = bench.tagged()
    bench.clock.advance(9 * DAY)
    for address in (tagged, "prvs=0123abcdef=ann@example.org"):
        verdict, edits = bench.back(address)
        assert isinstance(verdict, kind)
        assert edits == []
    assert bench.back("prvs=0123abcdef=ann@elsewhere.example") == (None, [])  # not ours to judge


def test_the_refusal_names_no_secret(tmp_path: Path) -> None:
    verdict, _ = Bench(tmp_path).back("prvs=0123abcdef=ann@example.org")
    assert isinstance(verdict, Reject)
    assert str(verdict.reply) == "550 5.7.1 This address has not sent the mail that you report about"
    assert verdict.reason == "the tag of prvs=0123abcdef=ann@example.org is not ours"


def test_secrets_are_read_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    old = bench.tagged()
    bench.path.write_text(f"# the new one\nanother one, as long\n{SECRET}")
    bench.clock.advance(2)
    assert bench.tagged() != old
    assert isinstance(bench.back(old)[0], Accept)
    bench.path.write_text("short\n")  # the secrets before go on
    bench.clock.advance(2)
    assert isinstance(bench.back(old)[0], Accept)


@pytest.mark.parametrize(("text", "problem"), [("", "holds no secret"), ("short\n", "less than 16"), (None, "read")])
def test_secrets_that_are_none(tmp_path: Path, text: str | None, problem: str) -> None:
    path = tmp_path / "secrets"
    if text is not None:
        path.write_text(text)
    with pytest.raises(FileError, match=problem):
        build(Options(senders=["example.org"], secrets=path), services())


@pytest.fixture(autouse=True, scope="class")
def secrets(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> None:
    if request.cls is not None:
        request.cls.path = tmp_path_factory.mktemp("batv") / "secrets"
        request.cls.path.write_text(SECRET)


class TestContract(FilterContract):
    factory = FilterMaker("batv", "mailgate.filters.batv", "tags")
    path: Path

    @property
    def settings(self) -> Mapping[str, object]:  # type: ignore[override]  # the file is a test's own
        return {"senders": ["example.org"], "secrets": str(self.path), "untagged": "reject"}

    def occasions(self) -> Iterable[Occasion]:
        ours = session(identity=Identity("ann", "PLAIN"))
        tagged = recipient("prvs=0123abcdef=ann@example.org")
        return [
            Occasion(),
            Occasion(session=ours, transaction=transaction("ann@example.org", ["bob@example.net"])),
            Occasion(transaction=transaction("", [tagged]), recipient=tagged),
            Occasion(transaction=transaction("", ["ann@example.org"]), recipient=recipient("ann@example.org")),
        ]
