"""The filter verp: a return path for each recipient, and what a return tells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pytest

from mailgate.address import Address
from mailgate.envelope import Identity, Session
from mailgate.filters.verp import Options, VerpFilter, VerpResult, build
from mailgate.message import ChangeReturnPath, Edit
from mailgate.pipeline.registry import FilterMaker
from mailgate.rewriting.verp import VerpReturn
from mailgate.testing import FilterContract, Occasion, message, recipient, services, session, transaction
from mailgate.verdict import Continue

OURS = session(identity=Identity("news", "PLAIN"))


def filter_of(folder: Path, **options: object) -> VerpFilter:
    path = folder / "secrets"
    path.write_text("one secret, long enough\n")
    settings = {"senders": ["news*@example.org"], "secrets": str(path)} | options
    built = build(Options.model_validate(settings), services())
    assert isinstance(built, VerpFilter)
    return built


def sent(
    built: VerpFilter, *recipients: str, sender: str = "news@example.org", client: Session = OURS
) -> Sequence[Edit]:
    return built.modify(client, transaction(sender, recipients), message())


def test_each_has_its_own(tmp_path: Path) -> None:
    built = filter_of(tmp_path)
    edits = sent(built, "bob@example.net", "eve@example.com", "ann@example.org", "x" * 50 + "@example.net")
    found = {}
    for edit in edits:
        assert isinstance(edit, ChangeReturnPath)
        ((to,), path) = edit.recipients, edit.address
        verdict = built.on_rcpt(session(), transaction(""), recipient(path))
        assert isinstance(verdict, Continue)
        (result,) = verdict.evidence
        assert isinstance(result, VerpResult)
        found[str(to)] = result
    assert list(found) == ["bob@example.net", "eve@example.com"]
    about = VerpReturn(Address("news", "example.org"), Address("bob", "example.net"))
    assert found["bob@example.net"].about == about
    assert found["bob@example.net"].summary() == "a return of mail from news@example.org to bob@example.net"
    assert found["bob@example.net"].facts() == ("verp.return",)


def test_whose_mail(tmp_path: Path) -> None:
    built = filter_of(tmp_path)
    assert sent(built, "bob@example.net", client=session()) == []
    assert sent(built, "bob@example.net", sender="ann@example.org") == []
    assert sent(built, "bob@example.net", sender="") == []


@pytest.mark.parametrize(
    "address",
    ["news@example.org", "news+AAAAAAAA=bob=example.net@example.org", "news+AAAAAAAA=bob=example.net@other.example"],
)
def test_what_is_none_of_ours_is_an_address_like_any_other(tmp_path: Path, address: str) -> None:
    assert filter_of(tmp_path).on_rcpt(session(), transaction(""), recipient(address)) is None


def test_thousands_of_recipients(tmp_path: Path) -> None:
    edits = sent(filter_of(tmp_path), *(f"u{number}@example.net" for number in range(2000)))
    assert len({edit.address for edit in edits if isinstance(edit, ChangeReturnPath)}) == 2000


@pytest.fixture(autouse=True, scope="class")
def secrets(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> None:
    if request.cls is not None:
        request.cls.path = tmp_path_factory.mktemp("verp") / "secrets"
        request.cls.path.write_text("one secret, long enough\n")


class TestContract(FilterContract):
    factory = FilterMaker("verp", "mailgate.filters.verp", "return paths")
    path: Path

    @property
    def settings(self) -> Mapping[str, object]:  # type: ignore[override]  # the file is a test's own
        return {"senders": ["news@example.org"], "secrets": str(self.path)}

    def occasions(self) -> Iterable[Occasion]:
        back = recipient("news+AAAAAAAA=bob=example.net@example.org")
        return [
            Occasion(),
            Occasion(session=OURS, transaction=transaction("news@example.org", ["bob@example.net"])),
            Occasion(transaction=transaction("", [back]), recipient=back),
        ]
