"""Signatures: rules as people write them, what matches, and files that change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from twisted.internet.task import Clock

from mailgate.filters.signatures import Options, SignatureResult, Signatures, build
from mailgate.message import Message
from mailgate.pipeline.registry import FilterMaker
from mailgate.testing import FilterContract, Occasion, message, services, session, transaction, wait_for
from mailgate.verdict import Continue, Defer, Quarantine, Reject, Verdict

FACTORY = FilterMaker("signatures", "mailgate.filters.signatures", "strings and expressions in messages")
LOTTERY = message("Subject: =?utf-8?Q?You=20won?=\nX-A: b\n\nYou have won a LOTTERY.\n")


def made(*rules: str, clock: Clock | None = None, **options: Any) -> Signatures:
    built = build(Options.model_validate({"rules": rules, **options}), services(clock=clock or Clock()))
    assert isinstance(built, Signatures)
    return built


def judged(*rules: str, mail: Message = LOTTERY, **options: Any) -> Verdict | None:
    return wait_for(made(*rules, **options).on_message(session(), transaction(), mail))


@pytest.mark.parametrize(
    ("rule", "matches"),
    [
        ("reject a text lottery", True),
        ("reject a text /won .{1,5}lottery/i", True),
        ("reject a text /won .{1,5}lottery/", False),
        ("reject a text /won.*\\./s", True),
        ("reject a text l.ttery", False),
        ("reject a header:subject you won", True),
        ("reject a header:SUBJECT /^You won$/", True),
        ("reject a header:x-a b", True),
        ("reject a header:x-b b", False),
        ("reject a headers =?utf-8?q?you=20won", True),
        ("reject a raw X-A: b", True),
    ],
)
def test_rules(rule: str, matches: bool) -> None:
    verdict = judged(rule)
    assert isinstance(verdict, Reject) if matches else verdict is None


@pytest.mark.parametrize(("word", "kind"), [("reject", Reject), ("quarantine", Quarantine), ("defer", Defer)])
def test_actions(word: str, kind: type[Verdict]) -> None:
    assert isinstance(judged(f"{word} a text lottery"), kind)


def test_the_strongest_counts_and_all_are_evidence() -> None:
    verdict = judged("continue a text won", "quarantine b text lottery", "reject c text nothing", "defer d raw x-a")
    assert isinstance(verdict, Defer)
    (result,) = verdict.evidence
    assert isinstance(result, SignatureResult)
    assert result.names == ("a", "b", "d")
    assert result.facts() == ("signatures.match", "signatures.a", "signatures.b", "signatures.d")
    assert verdict.reason == "signature d"


def test_continue_is_evidence_only() -> None:
    assert isinstance(judged("continue a text won"), Continue)


@pytest.mark.parametrize(
    "rule",
    [
        "reject a text",
        "maybe a text x",
        "reject A text x",
        "reject a body x",
        "reject a header: x",
        "reject a text " + "x" * 3000,
    ],
)
def test_what_is_no_rule(rule: str) -> None:
    with pytest.raises(ValidationError):
        Options(rules=[rule])


@pytest.mark.parametrize("expression", ["/(/", "/(?=a)/", "/\\1/", "/a{2000}/"])
def test_what_is_no_expression(expression: str) -> None:
    with pytest.raises(ValueError, match="no expression of RE2"):
        made(f"reject a text {expression}")


def test_there_must_be_something_to_look_for() -> None:
    with pytest.raises(ValueError, match="nothing to look for"):
        made()


def test_files_are_read_again(tmp_path: Path) -> None:
    path, clock = tmp_path / "rules", Clock()
    path.write_text("# ours\nreject a text nothing\n")
    built = made(clock=clock, files=[str(path)])
    assert wait_for(built.on_message(session(), transaction(), LOTTERY)) is None
    path.write_text("reject a text nothing\nreject b text lottery  # with a comment\n")
    clock.advance(2)
    assert isinstance(wait_for(built.on_message(session(), transaction(), LOTTERY)), Reject)
    path.write_text("nonsense\n")
    clock.advance(2)
    assert isinstance(wait_for(built.on_message(session(), transaction(), LOTTERY)), Reject)


def test_mistakes_in_files_are_told_with_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "rules"
    path.write_text("reject a text x\nreject b text /(/\nnonsense\n")
    with pytest.raises(ValueError, match=r"rules:2: no expression of RE2.*rules:3: a rule is"):
        made(files=[str(path)])


def test_exempt_clients_are_left_alone() -> None:
    assert judged("reject a text lottery", exempt=["192.0.2.0/24"]) is None


class TestContract(FilterContract):
    factory = FACTORY
    settings: Mapping[str, object] = {"rules": ["reject a text lottery"]}

    def occasions(self) -> Iterable[Occasion]:
        return [Occasion(), Occasion(message=message("Subject: x\n\nlottery\n"))]
