"""The filter arc-seal: what is sealed, with what in it, and that the chain holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import dkim  # type: ignore[import-untyped]  # it has none
import pytest
from twisted.internet.task import Clock

from mailgate.address import Address
from mailgate.envelope import Identity, Session, Target, Transaction
from mailgate.filters.arc_seal import ArcSeal, Options, build
from mailgate.mailauth.results import ArcResult, DkimResult, SpfResult
from mailgate.message import AddHeader, Content, Edit, Message, RemoveHeader, RenameHeader, Splice
from mailgate.pipeline.registry import FilterMaker
from mailgate.testing import FilterContract, Occasion, recipient, services, session, transaction, wait_for
from tests.unit.arc_mail import MESSAGE, NOW, pem_of, sealed, validated, zone
from tests.unit.test_filter_dkim import Threads
from tests.unit.test_filter_dkim_sign import sent


def options_of(folder: Path, **options: object) -> dict[str, object]:
    path = folder / "key.pem"
    path.write_bytes(pem_of("one.example"))
    return {"domain": "one.example", "selector": "s", "key": str(path)} | options


def filter_of(folder: Path, clock: Clock | None = None, **options: object) -> ArcSeal:
    clock = clock or Clock()
    clock.advance(NOW)
    built = build(Options.model_validate(options_of(folder, **options)), services(clock=clock))
    assert isinstance(built, ArcSeal)
    return built


def alias() -> Any:
    to = recipient("info@example.org")
    to.targets = (Target(Address("bob", "gmail.example"), "out"), Target(Address("ann", "example.org"), "inside"))
    return to


def mail_of(*evidence: object, to: Any = None, edits: Sequence[Edit] = ()) -> Transaction:
    mail = transaction("ann@client.example", [to or alias()], edits=list(edits))
    for one in evidence:
        mail.evidence.add(one)
    return mail


def edits_of(
    built: ArcSeal, mail: Transaction, octets: bytes | Content = MESSAGE, client: Session | None = None
) -> list[Edit]:
    content = octets if isinstance(octets, Content) else Content(octets)
    return list(wait_for(built.modify(client or session(), mail, Message(content))))


SPF = SpfResult("pass", "mailfrom", "client.example")


def test_what_is_forwarded_is_sealed_with_what_was_found(tmp_path: Path) -> None:
    mail = mail_of(ArcResult("none"), SPF, DkimResult("fail", "client.example"))
    message = sent(MESSAGE, edits_of(filter_of(tmp_path), mail))
    found = validated(message)
    assert (found.result, [one.domain for one in found.sets]) == ("pass", ["one.example"])
    (told,) = Message(Content(message)).values("ARC-Authentication-Results")
    assert "spf=pass" in told
    assert "dkim=fail" in told
    assert told.startswith("i=1; mx.example.org;")


def test_others_verify_it(tmp_path: Path) -> None:
    message = sent(MESSAGE, edits_of(filter_of(tmp_path), mail_of(ArcResult("none"), SPF)))
    records = {name.encode(): entry["TXT"][0].encode() for name, entry in zone().items()}
    cv, results, reason = dkim.arc_verify(message, dnsfunc=lambda name, **_: records[name.rstrip(b".")])
    assert (cv, reason) == (dkim.CV_Pass, "success")
    assert len(results) == 1


def test_the_chain_goes_on(tmp_path: Path) -> None:
    before = sealed(MESSAGE, "two.example")
    message = sent(before, edits_of(filter_of(tmp_path), mail_of(validated(before)), before))
    assert [one.domain for one in validated(message).sets] == ["two.example", "one.example"]


def test_a_chain_that_failed_ends_here(tmp_path: Path) -> None:
    before = sealed(MESSAGE, "two.example").replace(b"Hello list", b"Hullo list")
    message = sent(before, edits_of(filter_of(tmp_path), mail_of(validated(before)), before))
    assert b"cv=fail" in message.partition(b"From:")[0]
    assert validated(message).result == "fail"
    again = edits_of(filter_of(tmp_path), mail_of(validated(message)), message)
    assert again == []  # a seal says so already


def test_a_chain_that_cannot_be_told_is_left_alone(tmp_path: Path) -> None:
    before = sealed(MESSAGE, "two.example")
    unknown = validated(before)
    assert edits_of(filter_of(tmp_path), mail_of(ArcResult("fail", is_temporary=True)), before) == []
    assert edits_of(filter_of(tmp_path), mail_of(), before) == []  # nobody has looked
    assert edits_of(filter_of(tmp_path), mail_of(unknown), MESSAGE) == []  # and that is another message's


CHANGES: Sequence[tuple[Sequence[Edit], bool]] = [
    ([], False),
    ([AddHeader("Received", "x"), AddHeader("X-Spam", "no"), RemoveHeader("Authentication-Results")], False),
    ([AddHeader("DKIM-Signature", "x")], False),
    ([RemoveHeader("subject")], True),
    ([RenameHeader("X-Subject", "Subject")], True),
    ([AddHeader("List-Id", "<x>")], True),
    ([Splice(len(MESSAGE), len(MESSAGE), b"-- \r\n")], True),
]


@pytest.mark.parametrize(("edits", "is_change"), CHANGES)
def test_when(tmp_path: Path, edits: Sequence[Edit], is_change: bool) -> None:
    inside = recipient("bob@example.org")
    for when, expected in (("forwarded", False), ("changed", is_change), ("always", True)):
        mail = mail_of(ArcResult("none"), SPF, to=inside, edits=edits)
        found = edits_of(filter_of(tmp_path, when=when), mail)
        assert bool(found) is expected, when
        if found:
            assert validated(sent(MESSAGE, [*edits, *found])).result == "pass"
        assert edits_of(filter_of(tmp_path, when=when), mail_of(ArcResult("none"), edits=edits))


def test_what_stays_with_us_by_an_alias(tmp_path: Path) -> None:
    to = recipient("info@example.org")
    to.targets = (Target(Address("ann", "example.org"), "inside"),)
    assert edits_of(filter_of(tmp_path), mail_of(ArcResult("none"), SPF, to=to)) == []


def test_our_own_mail_is_not_sealed(tmp_path: Path) -> None:
    client = session(identity=Identity("ann", "PLAIN"))
    assert edits_of(filter_of(tmp_path, when="always"), mail_of(ArcResult("none")), client=client) == []


def test_a_header_without_end_is_not_sealed(tmp_path: Path) -> None:
    octets = b"X: " + b"x" * 300_000 + b"\r\n" + MESSAGE
    assert edits_of(filter_of(tmp_path), mail_of(ArcResult("none")), octets) == []


def test_large_content_is_read_in_a_thread(tmp_path: Path) -> None:
    threads = Threads()
    built = filter_of(tmp_path, clock=threads)
    octets = MESSAGE + b"line  of text \r\n" * 40_000
    answer = built.modify(session(), mail_of(ArcResult("none")), Message(Content(octets)))
    assert not isinstance(answer, Sequence)
    threads.pool.work()
    assert validated(sent(octets, wait_for(answer))).result == "pass"


def test_a_key_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "bad").write_text("no key")
    with pytest.raises(ValueError, match="key: neither"):
        filter_of(tmp_path, key=str(tmp_path / "bad"))


@pytest.fixture(autouse=True, scope="class")
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> None:
    if request.cls is not None:
        request.cls.folder = tmp_path_factory.mktemp("seal")


class TestContract(FilterContract):
    factory = FilterMaker("arc-seal", "mailgate.filters.arc_seal", "seals")
    folder: Path

    @property
    def settings(self) -> Mapping[str, object]:  # type: ignore[override]  # the file is a test's own
        return options_of(self.folder)

    def occasions(self) -> Iterable[Occasion]:
        return [Occasion(), Occasion(transaction=mail_of(ArcResult("none")), message=Message(Content(MESSAGE)))]
