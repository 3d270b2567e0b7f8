"""Which addresses stand for others."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from pathlib import Path

import pytest
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.task import Clock
from zope.interface import implementer

from mailgate.address import NULL_PATH, Address
from mailgate.backends.questions import BackendError
from mailgate.interfaces import Expanded, IRecipientDirectory, RecipientStatus
from mailgate.rewriting.aliases import Aliases, DomainAliases
from mailgate.rewriting.source import AliasSource
from mailgate.rewriting.srs import Srs
from mailgate.rewriting.tables import AliasMap, PatternRules, parse_aliases
from mailgate.stores.lists import FileError, LinesError
from mailgate.testing import FakeDirectory, wait_for
from mailgate.verdict import Defer, Reject
from tests.unit.relaying import failures_logged


def table(entries: Mapping[str, Sequence[str]]) -> AliasMap:
    return AliasMap(entries, None, Clock())


def aliases(
    *sources: AliasSource,
    directory: IRecipientDirectory | None = None,
    srs: Srs | None = None,
    clock: Clock | None = None,
    **options: str,
) -> Aliases:
    domains = {"example.org": DomainAliases(sources=sources, **options)}
    directory = directory or FakeDirectory()
    return Aliases(domains, directory, lambda domain: domain == "example.org", srs, clock or Clock())


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


@pytest.mark.parametrize(
    "rule", [("(", ["a@example.org"]), ("a", [r"\1@example.org"]), ("a", [r"\g<x>@example.org"]), ("ann", ["ann"])]
)
def test_patterns_that_cannot_work(rule: tuple[str, list[str]]) -> None:
    with pytest.raises(ValueError, match=rule[0].replace("(", r"\(")):
        PatternRules([rule])


def test_catch_all_is_for_those_whom_the_directory_does_not_know() -> None:
    directory = FakeDirectory(["ann@example.org"], {"out@example.org": RecipientStatus.UNAVAILABLE})
    known = aliases(directory=directory, catch_all="post@example.org")
    assert expand(known, "ann@example.org") is None
    assert names(expand(known, "nobody@example.org")) == ["post@example.org"]
    away = expand(known, "out@example.org")
    assert isinstance(away, Defer)
    assert away.reply.status == "4.4.3"


class Later:
    """A source that is asked over the network."""

    def start(self) -> None:
        """Nothing begins."""

    def retire(self) -> None:
        """Nothing ends."""

    def close(self) -> None:
        """Nothing is closed."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answer: Deferred[Sequence[str] | None] = Deferred()

    def find(self, key: str) -> Sequence[str] | Awaitable[Sequence[str] | None] | None:
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


def test_an_outage_that_its_source_tells_is_no_error_in_the_log() -> None:
    source = Later()
    source.answer = fail(BackendError("the directory does not answer"))
    with failures_logged() as logged:
        answer = expand(aliases(source), "info@example.org")
    assert logged == []
    assert isinstance(answer, Defer)
    assert answer.reply.status == "4.4.3"
    assert "does not answer" in answer.reason


def test_a_source_that_never_answers_has_a_bound() -> None:
    clock = Clock()
    waiting = aliases(Later(), clock=clock).expand(Address.parse("info@example.org"))
    assert isinstance(waiting, Deferred)
    clock.advance(59)
    assert not waiting.called
    clock.advance(2)
    answer = wait_for(waiting)
    assert isinstance(answer, Defer)
    assert "within 60 s" in answer.reason
    assert not clock.getDelayedCalls()


def test_who_goes_away_ends_the_question() -> None:
    clock, source = Clock(), Later()
    waiting = aliases(source, clock=clock).expand(Address.parse("info@example.org"))
    assert isinstance(waiting, Deferred)
    waiting.cancel()
    with pytest.raises(CancelledError):
        wait_for(waiting)
    assert not clock.getDelayedCalls()


def test_a_source_that_raises_at_once_is_an_answer_all_the_same() -> None:
    class Broken(Later):
        def find(self, key: str) -> Sequence[str] | None:
            raise OSError("broken")

    with failures_logged() as logged:
        answer = expand(aliases(Broken()), "info@example.org")
    assert isinstance(answer, Defer)
    assert "broken" in answer.reason
    assert len(logged) == 1


def test_an_extension_that_leaves_no_address() -> None:
    known = aliases(table({"a@example.org": ["a-rather-long-name@example.net"]}))
    assert names(expand(known, "a+b@example.org")) == ["a-rather-long-name+b@example.net"]
    answer = expand(known, f"a+{'x' * 60}@example.org")
    assert isinstance(answer, Defer)
    assert "local part too long" in answer.reason


def test_a_domain_that_is_too_long_for_the_local_part() -> None:
    known = aliases(table({"@example.org": [f"@{'x.' * 100}test"]}))
    assert names(expand(known, "ann@example.org"))
    answer = expand(known, f"{'x' * 60}@example.org")
    assert isinstance(answer, Defer)
    assert "too long" in answer.reason


def test_the_catch_all_may_be_an_alias_itself() -> None:
    known = aliases(
        table({"post@example.org": ["ann@example.org", "bob@example.net"]}),
        directory=FakeDirectory(["ann@example.org"]),
        catch_all="post@example.org",
    )
    assert names(expand(known, "nobody@example.org")) == ["ann@example.org", "bob@example.net"]
    lost = aliases(directory=FakeDirectory(), catch_all="gone@example.org")
    assert names(expand(lost, "nobody@example.org")) == ["gone@example.org"]
    assert expand(lost, "gone@example.org") is None


def test_the_catch_all_waits_for_a_directory_that_is_asked() -> None:
    asked: Deferred[RecipientStatus] = Deferred()

    @implementer(IRecipientDirectory)
    class Slow:
        def lookup(self, address: Address) -> Deferred[RecipientStatus]:
            return asked

    waiting = aliases(directory=Slow(), catch_all="post@example.org").expand(Address.parse("bob@example.org"))
    assert isinstance(waiting, Deferred)
    asked.callback(RecipientStatus.RESTRICTED)
    assert wait_for(waiting) is None


def test_our_own_rewritten_senders_are_not_rewritten_again() -> None:
    srs = Srs("srs.example.com", [b"secret"], 86400 * 21, lambda: 1e9)
    known = aliases(srs=srs)
    outside = Address.parse("bob@example.net")
    path = known.return_path(Address.parse("ann@sender.example"), outside)
    assert path is not None
    assert known.return_path(path, outside) is None
    assert known.return_path(NULL_PATH, outside) is None


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
