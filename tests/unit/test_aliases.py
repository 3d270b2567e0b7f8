"""Which addresses stand for others."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock

from mailgate.address import Address
from mailgate.interfaces import Expanded, RecipientStatus
from mailgate.rewriting.aliases import Aliases, DomainAliases
from mailgate.rewriting.srs import Srs
from mailgate.rewriting.tables import AliasMap, AliasSource, PatternRules, parse_aliases
from mailgate.stores.lists import FileError, LinesError
from mailgate.testing import FakeDirectory, wait_for
from mailgate.verdict import Defer, Reject


def table(entries: Mapping[str, Sequence[str]]) -> AliasMap:
    return AliasMap(entries, None, Clock())


def aliases(
    *sources: AliasSource, directory: FakeDirectory | None = None, srs: Srs | None = None, **options: str
) -> Aliases:
    domains = {"example.org": DomainAliases(sources=sources, **options)}
    return Aliases(domains, directory or FakeDirectory(), lambda domain: domain == "example.org", srs)


def expand(known: Aliases, address: str) -> Expanded:
    return wait_for(known.expand(Address.parse(address)))


def names(expanded: Expanded) -> list[str]:
    assert isinstance(expanded, tuple)
    return [str(one) for one in expanded]


def test_an_address_that_stands_for_itself() -> None:
    known = aliases(table({"info@example.org": ["ann@example.org"]}))
    assert expand(known, "bob@example.org") is None
    assert expand(known, "info@example.net") is None


def test_one_and_several_targets_of_any_domain() -> None:
    known = aliases(table({"info@example.org": ["ann@example.org", "bob@example.net"]}))
    assert names(expand(known, "Info@example.org")) == ["ann@example.org", "bob@example.net"]


def test_an_alias_may_keep_its_own_mailbox() -> None:
    known = aliases(table({"ann@example.org": ["ann@example.org", "backup@example.net"]}))
    assert names(expand(known, "ann@example.org")) == ["ann@example.org", "backup@example.net"]
    assert expand(aliases(table({"ann@example.org": ["ann@example.org"]})), "ann@example.org") is None


def test_aliases_of_aliases_and_one_target_once() -> None:
    known = aliases(
        table(
            {
                "all@example.org": ["sales@example.org", "ann@example.org"],
                "sales@example.org": ["ann@example.org", "bob@example.org"],
            }
        )
    )
    assert names(expand(known, "all@example.org")) == ["ann@example.org", "bob@example.org"]


def test_circles_end() -> None:
    known = aliases(table({"a@example.org": ["b@example.org"], "b@example.org": ["a@example.org"]}))
    answer = expand(known, "a@example.org")
    assert isinstance(answer, Defer)
    assert "circle" in answer.reason
    assert answer.reply.code == 451


def test_a_chain_without_end_ends() -> None:
    known = aliases(table({f"{number}@example.org": [f"{number + 1}@example.org"] for number in range(20)}))
    answer = expand(known, "0@example.org")
    assert isinstance(answer, Defer)
    assert "more than 10 times" in answer.reason


def test_more_targets_than_there_may_be() -> None:
    entries = {f"{one}@example.org": [f"{one}-{two}@example.net" for two in range(900)] for one in "ab"}
    known = aliases(table({"all@example.org": ["a@example.org", "b@example.org"], **entries}))
    answer = expand(known, "all@example.org")
    assert isinstance(answer, Defer)
    assert "more than 1000" in answer.reason


def test_an_extension_goes_along() -> None:
    known = aliases(table({"ann@example.org": ["a.smith@example.org"], "bob+lists@example.org": ["lists@example.org"]}))
    assert names(expand(known, "ann+shop@example.org")) == ["a.smith+shop@example.org"]
    assert names(expand(known, "bob+lists@example.org")) == ["lists@example.org"]
    assert expand(known, "bob+other@example.org") is None
    assert expand(aliases(table({"ann@example.org": ["a@example.org"]}), delimiter=""), "ann+x@example.org") is None


def test_a_whole_domain() -> None:
    known = aliases(table({"@example.org": ["@example.net"], "ann@example.org": ["eve@example.net"]}))
    assert names(expand(known, "Bob+x@example.org")) == ["Bob+x@example.net"]
    assert names(expand(known, "ann@example.org")) == ["eve@example.net"]


def test_the_first_source_that_knows_decides() -> None:
    known = aliases(
        PatternRules([(r"(.+)\.(.+)@example\.org", [r"\2@example.org"])]),
        table({"a.smith@example.org": ["never@example.org"], "info@example.org": ["ann@example.org"]}),
    )
    assert names(expand(known, "a.smith@example.org")) == ["smith@example.org"]
    assert names(expand(known, "info@example.org")) == ["ann@example.org"]


def test_a_pattern_that_makes_no_address() -> None:
    answer = expand(aliases(PatternRules([(r"(.*)@example\.org", [r"\1 x@example.org"])])), "a@example.org")
    assert isinstance(answer, Defer)
    assert "no address" in answer.reason


@pytest.mark.parametrize("rule", [("(", ["a@example.org"]), ("a", [r"\1@example.org"]), ("a", [r"\g<x>@example.org"])])
def test_patterns_that_cannot_work(rule: tuple[str, list[str]]) -> None:
    with pytest.raises(ValueError, match=rule[0].replace("(", r"\(")):
        PatternRules([rule])


def test_catch_all_is_for_those_whom_the_directory_does_not_know() -> None:
    directory = FakeDirectory(["ann@example.org"], {"out@example.org": RecipientStatus.UNAVAILABLE})
    known = aliases(directory=directory, catch_all="post@example.org")
    assert expand(known, "ann@example.org") is None
    assert names(expand(known, "nobody@example.org")) == ["post@example.org"]
    assert expand(known, "out@example.org") is None


class Later:
    """A source that is asked over the network."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answer: Deferred[Sequence[str] | None] = Deferred()

    def find(self, key: str) -> Awaitable[Sequence[str] | None]:
        self.asked.append(key)
        return self.answer


def test_a_source_that_answers_later() -> None:
    source = Later()
    waiting = aliases(source).expand(Address.parse("info@example.org"))
    assert isinstance(waiting, Deferred)
    source.answer.callback(["ann@example.net"])
    assert names(wait_for(waiting)) == ["ann@example.net"]
    assert source.asked == ["info@example.org"]


def test_a_source_that_cannot_be_asked(caplog: pytest.LogCaptureFixture) -> None:
    source = Later()
    source.answer = fail(ConnectionError("gone"))
    answer = expand(aliases(source), "info@example.org")
    assert isinstance(answer, Defer)
    assert answer.reply.code == 451
    assert "gone" in answer.reason


def test_mail_that_is_forwarded_has_a_reverse_path_of_ours() -> None:
    srs = Srs("example.org", [b"secret"], 86400 * 21, lambda: 1e9)
    known = aliases(srs=srs)
    sender, outside, inside = (Address.parse(f"a@{one}") for one in ("sender.example", "example.net", "example.org"))
    path = known.return_path(sender, outside)
    assert path is not None
    assert path.domain == "example.org"
    assert known.return_path(sender, inside) is None
    assert known.return_path(inside, outside) is None
    assert expand(known, str(path)) == (sender,)
    refused = expand(known, str(path).replace("=a@", "=b@"))
    assert isinstance(refused, Reject)
    assert refused.reply.code == 550
    assert aliases().return_path(sender, outside) is None


def test_a_file_of_aliases(tmp_path: Path) -> None:
    path, clock = tmp_path / "aliases", Clock()
    path.write_text("# who\ninfo@example.org\tann@example.org, bob@example.org\n@old.example @example.org\n")
    known = AliasMap({"info@example.org": ["first@example.org"]}, path, clock)
    assert known.find("info@example.org") == ("first@example.org",)
    assert known.find("@old.example") == ("@example.org",)
    path.write_text("new@example.org ann@example.org  # again\n")
    clock.advance(2)
    assert known.find("new@example.org") == ("ann@example.org",)
    assert known.find("@old.example") is None
    with pytest.raises(FileError):
        AliasMap({}, tmp_path / "none", clock)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("info@example.org", "one target"),
        ("info ann@example.org", '"info" is no address'),
        ("info@example.org ann", '"ann" is no address'),
        ("info@example.org " + ",".join(f"{number}@example.org" for number in range(1001)), "1001 targets"),
    ],
)
def test_lines_that_are_wrong(line: str, what: str) -> None:
    with pytest.raises(LinesError, match=what):
        parse_aliases([(1, line)])


def test_wrong_lines_are_told_together() -> None:
    lines = [(1, "a@example.org b@example.org"), (2, "A@example.org c@example.org"), (3, "x")]
    with pytest.raises(LinesError) as caught:
        parse_aliases(lines)
    assert [one.number for one in caught.value.errors] == [2, 3]
    with pytest.raises(LinesError) as many:
        parse_aliases(enumerate(["x"] * 20))
    assert len(many.value.errors) == 10
    assert many.value.more
