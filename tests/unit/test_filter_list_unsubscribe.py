"""The filter list-unsubscribe: whose mail gets the fields, what they say, and that they are signed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pytest
from pydantic import ValidationError
from twisted.internet.task import Clock

from mailgate.address import Address
from mailgate.envelope import Identity, Session, Transaction
from mailgate.filters.list_unsubscribe import ListUnsubscribe, Options, build
from mailgate.findings import Stream
from mailgate.message import AddHeader, Content, Edit, For, Message, apply_edits
from mailgate.pipeline.member import Member
from mailgate.pipeline.registry import FilterMaker
from mailgate.pipeline.runner import Pipeline
from mailgate.rewriting.unsubscribe import UnsubscribeTokens, Unsubscription
from mailgate.testing import EventRecorder, FilterContract, Occasion, message, services, session, transaction, wait_for
from tests.unit.dkim_parts import NOW
from tests.unit.test_filter_dkim_sign import filter_of as signer_of
from tests.unit.test_filter_dkim_sign import keys_in, results, sent

SECRET = "one secret, long enough"  # noqa: S105  a test's own
OURS = session(identity=Identity("news", "PLAIN"))
NEWS = Address("news", "example.org")


def filter_of(folder: Path, **options: object) -> ListUnsubscribe:
    path = folder / "secrets"
    path.write_text(f"{SECRET}\n")
    link = "https://mail.example.org/unsubscribe/{token}"
    settings = {"senders": ["news@example.org"], "link": link, "secrets": str(path)} | options
    built = build(Options.model_validate(settings), services())
    assert isinstance(built, ListUnsubscribe)
    return built


def mail_to(*recipients: str, sender: str = "news@example.org") -> Transaction:
    return transaction(sender, recipients or ("bob@example.net",))


def read(token: str) -> Unsubscription:
    return UnsubscribeTokens(lambda: [SECRET.encode()]).read(token)


def fields(edits: Sequence[Edit | For], header: bytes = b"") -> list[str]:
    """The two fields, as the next hop gets them."""
    plain = [edit for edit in edits if not isinstance(edit, For)]
    found = Message(Content(apply_edits(header, plain) + b"\r\n"))
    return [*found.values("List-Unsubscribe"), *found.values("List-Unsubscribe-Post")]


def test_the_fields(tmp_path: Path) -> None:
    link, post = fields(filter_of(tmp_path).modify(OURS, mail_to(), message()))
    assert post == "List-Unsubscribe=One-Click"
    found = re.fullmatch(r"<https://mail\.example\.org/unsubscribe/([A-Za-z0-9._-]+)>", link)
    assert found is not None
    assert read(found[1]) == Unsubscription(NEWS, Address("bob", "example.net"))


def test_the_first_stream_counts_as_it_does_for_the_queue(tmp_path: Path) -> None:
    mail = mail_to()
    mail.evidence.extend([Stream("news"), Stream("invoices")])
    link, _ = fields(filter_of(tmp_path).modify(OURS, mail, message()))
    assert read(link.rpartition("/")[2].removesuffix(">")).stream == "news"


def test_by_mail_too(tmp_path: Path) -> None:
    edits = filter_of(tmp_path, mailto="leave&go@example.org").modify(OURS, mail_to(), message())
    link, _ = fields(edits)
    found = re.fullmatch(r"<https:[^>]*>, <mailto:leave%26go@example\.org\?subject=([A-Za-z0-9._-]+)>", link)
    assert found is not None
    assert read(found[1]).recipient == Address("bob", "example.net")


def test_each_recipient_has_a_link_of_its_own(tmp_path: Path) -> None:
    edits = filter_of(tmp_path).modify(
        OURS, mail_to("bob@example.net", "ann@example.org", "eve@example.net"), message()
    )
    found = {}
    for edit in edits:
        assert isinstance(edit, For)
        link, post = fields(edit.edits)
        found[edit.recipients] = read(link.rpartition("/")[2].removesuffix(">")).recipient
        assert post
    bob, eve = Address("bob", "example.net"), Address("eve", "example.net")
    assert found == {(bob,): bob, (eve,): eve}


def test_many_recipients_have_one_for_all(tmp_path: Path) -> None:
    built = filter_of(tmp_path, max_recipients=2)
    names = [f"u{number}@example.net" for number in range(3)]
    (link,) = fields(built.modify(OURS, mail_to(*names), message()))  # and nothing says that one click is enough
    assert read(link.rpartition("/")[2].removesuffix(">")) == Unsubscription(NEWS, None)
    (some,) = built.modify(OURS, mail_to(*names, "ann@example.org"), message())
    assert isinstance(some, For)
    assert len(some.recipients) == 3


@pytest.mark.parametrize(
    ("mail", "client"),
    [
        (mail_to(sender="ann@example.org"), OURS),
        (mail_to(sender=""), OURS),
        (mail_to("ann@example.org"), OURS),
        (mail_to(), session()),
    ],
)
def test_other_mail_has_none(tmp_path: Path, mail: Transaction, client: Session) -> None:
    assert filter_of(tmp_path).modify(client, mail, message()) == []


def test_what_the_message_has_already(tmp_path: Path) -> None:
    header = b"List-unsubscribe: <mailto:x@example.org>\r\nList-Unsubscribe-Post: x\r\n"
    found = Message(Content(header + b"\r\nHello\r\n"))
    assert filter_of(tmp_path).modify(OURS, mail_to(), found) == []
    link, post = fields(filter_of(tmp_path, existing="replace").modify(OURS, mail_to(), found), header)
    assert link.startswith("<https:")
    assert post == "List-Unsubscribe=One-Click"
    by_us = mail_to()
    by_us.edits.append(AddHeader("List-Unsubscribe", "<https://x.example/>"))
    assert filter_of(tmp_path).modify(OURS, by_us, message()) == []


def test_they_are_signed_for_each_recipient(tmp_path: Path) -> None:
    keys_in(tmp_path, "r.pem", "e.ed")
    clock = Clock()
    clock.advance(NOW)
    members = [Member("list-unsubscribe", filter_of(tmp_path)), Member("dkim-sign", signer_of(tmp_path, clock=clock))]
    pipeline = Pipeline([[one] for one in members], clock, EventRecorder())
    octets = b"From: News <news@example.org>\r\nSubject: News\r\n\r\nNews.\r\n"
    mail = mail_to("bob@example.net", "eve@example.net", "ann@example.org")
    wait_for(pipeline.message(OURS, mail, Message(Content(octets))))
    assert [step.verdict for step in mail.trace] == ["edit"] * 4
    links = set()
    for one in mail.edits_for:
        whole = sent(octets, [*mail.edits, *one.edits])
        assert [other.result for other in results(whole)] == ["pass", "pass"]
        found = Message(Content(whole)).values("List-Unsubscribe")
        links.update(found)
        for name in (b"List-Unsubscribe:", b"List-Unsubscribe-Post:") if found else ():
            assert [other.result for other in results(whole.replace(name, b"X:"))] == ["fail", "fail"]
    assert (len(mail.edits_for), len(links)) == (3, 2)


@pytest.mark.parametrize(
    "options",
    [
        {"link": "http://mail.example.org/{token}"},
        {"link": "https://mail.example.org/"},
        {"link": "https://mail.example.org/{token}/{token}"},
        {"link": "https://mail.example.org/{user}"},
        {"link": "https://mail.example.org/{token"},
        {"link": "https:///{token}"},
        {"link": "https://mail.example.org/ {token}"},
        {"link": "https://mail.example.org/>\r\nX: {token}"},
        {"link": "https://mail.example.org/" + "x" * 200 + "{token}"},
        {"mailto": "@example.org"},
        {"max_recipients": 91},
        {"senders": []},
    ],
)
def test_options_that_are_refused(tmp_path: Path, options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        filter_of(tmp_path, **options)


def test_the_longest_line(tmp_path: Path) -> None:
    sender = f"{'n' * 64}@{'e' * 60}.{'e' * 60}.{'e' * 60}.org"
    to = f"{'b' * 64}@{'d' * 60}.{'f' * 60}.{'g' * 60}.net"
    link = "https://mail.example.org/" + "x" * 168 + "{token}"
    edits = filter_of(tmp_path, senders=["*"], link=link, mailto=sender).modify(
        OURS, mail_to(to, sender=sender), message()
    )
    header = apply_edits(b"", [edit for edit in edits if not isinstance(edit, For)])
    assert max(map(len, header.split(b"\r\n"))) <= 998


@pytest.fixture(autouse=True, scope="class")
def secrets(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> None:
    if request.cls is not None:
        request.cls.path = tmp_path_factory.mktemp("unsubscribe") / "secrets"
        request.cls.path.write_text(f"{SECRET}\n")


class TestContract(FilterContract):
    factory = FilterMaker("list-unsubscribe", "mailgate.filters.list_unsubscribe", "links")
    path: Path

    @property
    def settings(self) -> Mapping[str, object]:  # type: ignore[override]  # the file is a test's own
        return {"senders": ["news@example.org"], "secrets": str(self.path), "link": "https://x.example/{token}"}

    def occasions(self) -> Iterable[Occasion]:
        return [
            Occasion(),
            Occasion(session=OURS, transaction=mail_to()),
            Occasion(session=OURS, transaction=mail_to("bob@example.net", "eve@example.net")),
        ]
