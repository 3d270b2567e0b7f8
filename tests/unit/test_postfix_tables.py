"""Tables of Postfix as sources of recipients and aliases: pairs, expressions, and what postmap prints."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.logger import LogEvent, capturedLogs

from mailgate.address import AddressError
from mailgate.config.postfix import PostfixAliases, PostfixRecipients, split_map
from mailgate.interfaces import RecipientStatus
from mailgate.recipients.postfix import PostfixTables
from mailgate.rewriting.postfix import PostfixMaps
from mailgate.stores import postfix_map
from mailgate.stores.lists import FileError, LineError
from mailgate.stores.postfix_rules import Expressions, parse_expressions

VIRTUAL = """\
# who is who
example.org     anything
Ann@Example.org ann@inside.example
team@example.org    ann@inside.example,
    bob@inside.example

# a comment between lines that go on
    # and one of them
    eve@inside.example
@old.example    @example.org
müller@example.org  ann@inside.example
"""
EXPRESSIONS = """\
# case does not matter
/^info-(\\w+)@example\\.org$/   ${1}@inside.example
/^UPPER@example\\.org$/i       upper@inside.example
if /^list-/
!/-request@/                  lists@inside.example
if !/@example\\.org$/
/./                           strangers@inside.example
endif
endif
|^pipe/?@example\\.org$|  pipe@inside.example
/^money@example\\.org$/  $$@inside.example, $(0)
"""


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def logged() -> Iterator[Sequence[LogEvent]]:
    with capturedLogs() as events:
        yield events


def recipients(clock: Clock, *maps: str, domains: Sequence[str] = ()) -> PostfixTables:
    return PostfixTables(PostfixRecipients(kind="postfix", maps=list(maps), domains=list(domains)), clock)


def aliases(clock: Clock, *maps: str, domains: Sequence[str] = (), origin: str | None = None) -> PostfixMaps:
    section = PostfixAliases(kind="postfix", maps=list(maps), domains=list(domains), origin=origin)
    return PostfixMaps(section, clock)


def write(folder: Path, text: str, name: str = "table") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def knows(source: PostfixTables, address: str) -> bool:
    local_part, _, domain = address.rpartition("@")
    return source.at_hand(local_part, domain) is RecipientStatus.KNOWN


@pytest.mark.parametrize(
    ("address", "is_known"),
    [
        ("ann@example.org", True),
        ("team@example.org", True),
        ("müller@example.org", True),
        ("anybody@old.example", True),
        ("bob@example.org", False),
        ("example.org@example.org", False),
        ("ann@elsewhere.test", False),
    ],
)
def test_recipients_of_pairs(tmp_path: Path, clock: Clock, address: str, is_known: bool) -> None:
    assert knows(recipients(clock, f"texthash:{write(tmp_path, VIRTUAL)}"), address) == is_known


def test_names_without_a_domain_are_those_of_the_domains(tmp_path: Path, clock: Clock) -> None:
    path = write(tmp_path, "Ann: x\nbob y\nexample.org marker\n")
    name = f"texthash:{path}"
    source = recipients(clock, name, domains=["example.org", "Example.net"])
    assert all(knows(source, one) for one in ("ann@example.org", "ann@example.net", "bob@example.net"))
    assert not knows(source, "example.org@example.net")
    assert not knows(recipients(clock, name), "ann@example.org")


def test_aliases_of_pairs(tmp_path: Path, clock: Clock) -> None:
    source = aliases(clock, f"proxy:texthash:{write(tmp_path, VIRTUAL)}")
    assert source.find("ann@example.org") == ("ann@inside.example",)
    assert source.find("team@example.org") == ("ann@inside.example", "bob@inside.example", "eve@inside.example")
    assert source.find("@old.example") == ("@example.org",)
    assert source.find("bob@example.org") is None


def test_local_aliases_have_an_origin(tmp_path: Path, clock: Clock) -> None:
    path = write(tmp_path, "root: ann, bob@example.net\nann: ann\nroot: nobody\n")
    name = f"texthash:{path}"
    source = aliases(clock, name, domains=["example.org"], origin="example.org")
    assert source.find("root@example.org") == ("ann@example.org", "bob@example.net")
    with pytest.raises(FileError, match="names no domain: say by `origin`"):
        aliases(clock, name, domains=["example.org"])


@pytest.mark.parametrize("value", ["|/bin/vacation", '"|/bin/x y"', "/var/mail/x", ":include:/etc/list", ""])
def test_what_is_no_address_is_refused_with_its_line(tmp_path: Path, clock: Clock, value: str) -> None:
    path = write(tmp_path, f"fine: ann@example.org\nprogram: {value}\n")
    with pytest.raises(FileError, match=f"^{path}:2: program stands for"):
        aliases(clock, f"texthash:{path}", domains=["example.org"])


@pytest.mark.parametrize(
    ("address", "targets"),
    [
        ("info-sales@example.org", ["sales@inside.example"]),
        ("INFO-Sales@EXAMPLE.org", ["Sales@inside.example"]),
        ("upper@example.org", None),
        ("UPPER@example.org", ["upper@inside.example"]),
        ("list-one@example.org", ["lists@inside.example"]),
        ("list-request@example.org", None),
        ("list-request@elsewhere.test", ["strangers@inside.example"]),
        ("pipe@example.org", ["pipe@inside.example"]),
        ("money@example.org", ["$@inside.example", "money@example.org"]),
        ("@example.org", None),
    ],
)
@pytest.mark.parametrize("kind", ["pcre", "regexp"])
def test_expressions(tmp_path: Path, clock: Clock, kind: str, address: str, targets: list[str] | None) -> None:
    name = f"{kind}:{write(tmp_path, EXPRESSIONS)}"
    assert aliases(clock, name).find(address) == targets
    if not address.startswith("@"):
        assert knows(recipients(clock, name), address) == (targets is not None)


def test_what_groups_have_matched_is_part_of_one_target(tmp_path: Path, clock: Clock) -> None:
    path = write(tmp_path, '/^"?([^"]*)"?@old\\.example$/ $1@new.example, copy@new.example\n')
    source = aliases(clock, f"pcre:{path}")
    assert source.find("ann@old.example") == ["ann@new.example", "copy@new.example"]
    found = source.find('"eve@evil.test, x"@old.example')
    assert found is not None
    assert len(found) == 2
    assert "eve@evil.test" not in found


@pytest.mark.parametrize("value", ["$1", "|/bin/vacation", ":include:/etc/list"])
def test_an_expression_that_leads_to_no_address_is_told_as_that(tmp_path: Path, clock: Clock, value: str) -> None:
    source = aliases(clock, f"pcre:{write(tmp_path, f'/^(.+)@example/ {value}')}")
    with pytest.raises(AddressError, match=r"names no domain|stands for no address"):
        source.find("ann@example.org")


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("ann@example.org x", "no expression of the form /EXPRESSION/FLAGS VALUE"),
        ("/ann x", "has no / at its end"),
        ("/ann/", "a value behind it"),
        ("/(?=ann)/ x", "RE2 does not know it"),
        (r"/(a)\1/ x", "RE2 does not know it"),
        ("/[/ x", "RE2 does not know it"),
        ("/a{1000}{1000}/ x", "RE2 does not know it"),
        ("/ann/ $1", r"\$1: there is no such group"),
        ("!/(ann)/ $1", r"\$1: there is no such group"),
        ("/ann/q x", "the flag q cannot be taken over"),
        ("/a n n/x x", "the flag x cannot be taken over"),
        ("/ann/!/bob/ x", "two expressions in one line"),
        ("endif", "endif without an if"),
        ("if /ann/", "if without an endif"),
    ],
)
def test_expressions_that_cannot_be_taken_over_are_refused_with_their_line(
    tmp_path: Path, clock: Clock, line: str, text: str
) -> None:
    path = write(tmp_path, f"/fine/ ann@example.org\n{line}\n")
    with pytest.raises(FileError, match=text) as raised:
        recipients(clock, f"pcre:{path}")
    assert raised.value.errors[0].startswith(f"{path}:2: ")


def test_expressions_are_understood_in_a_thread_when_they_change(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, "/ann/ x\n")
    source = recipients(clock, f"pcre:{path}")
    threads: list[threading.Thread] = []

    def parse(lines: Iterable[tuple[int, str]], *, kind: str) -> Expressions:
        threads.append(threading.current_thread())
        return parse_expressions(lines, kind=kind)

    monkeypatch.setattr(postfix_map, "parse_expressions", parse)
    path.write_text("/bob/ x, later\n")
    before = set(threading.enumerate())
    clock.advance(1)
    assert knows(source, "ann@example.org")
    for thread in set(threading.enumerate()) - before:
        thread.join(60)
    clock.advance(1)
    assert knows(source, "bob@example.org")
    assert threads
    assert threading.current_thread() not in threads


def test_more_expressions_than_can_be_tried_for_each_address_are_refused() -> None:
    with pytest.raises(ValueError, match="more than 1000 expressions"):
        parse_expressions([(number, "/x/ y") for number in range(1001)], kind="pcre")


@given(st.text(max_size=60))
def test_any_line_is_an_expression_or_refused(text: str) -> None:
    with contextlib.suppress(LineError):
        parse_expressions([(1, text.strip())], kind="pcre").find("ann@example.org")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("/etc/postfix/virtual", "no table of the form TYPE:/PATH"),
        ("cidr:/etc/postfix/clients", "is about addresses of clients"),
        ("mysql:/etc/postfix/my", "export it"),
        ("nisplus:x", "cannot be read .valid types are: texthash, hash"),
        ("hash:virtual", "begins with a slash"),
    ],
)
def test_names_of_tables(name: str, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        split_map(name)


def test_a_table_is_read_again_and_keeps_its_content_where_it_is_wrong(
    tmp_path: Path, clock: Clock, logged: Sequence[LogEvent]
) -> None:
    path = write(tmp_path, "ann@example.org x\n")
    source = recipients(clock, f"texthash:{path}")
    for text in ("bob@@example.org x\n", ""):
        path.write_text(text)
        clock.advance(1)
        assert knows(source, "ann@example.org")
    assert [event["error"] for event in logged if "error" in event] == [
        f'{path}:1: "bob@@example.org": {str(logged[0]["error"]).rpartition(": ")[2]}',
        f"{path}: holds nothing any more",
    ]
    path.write_text("bob@example.org x\n")
    clock.advance(1)
    assert knows(source, "bob@example.org")
    assert not knows(source, "ann@example.org")


def test_all_tables_that_are_wrong_are_told_of(tmp_path: Path, clock: Clock) -> None:
    with pytest.raises(FileError) as raised:
        recipients(clock, f"texthash:{tmp_path}/one", f"pcre:{tmp_path}/two")
    assert [error.partition(": ")[0] for error in raised.value.errors] == [f"{tmp_path}/one", f"{tmp_path}/two"]


class Programs:
    """Stands for postmap: prints, or says why not."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.file = folder / "postmap"
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def print(self, script: str) -> None:
        self.file.write_text(f"#!/bin/sh\n{script}\n")
        self.file.chmod(0o755)


def test_an_index_is_printed_by_postmap(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = Programs(tmp_path, monkeypatch)
    programs.print('test "$*" = "-s hash:$0.table" && printf "ann@example.org\\tx\\n#odd@example.org\\ty\\n"')
    write(tmp_path, "", "postmap.table.db")
    source = recipients(clock, f"hash:{tmp_path}/postmap.table")
    assert knows(source, "ann@example.org")
    assert knows(source, "#odd@example.org")


def test_an_index_is_read_in_a_thread_when_it_changes(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = Programs(tmp_path, monkeypatch)
    programs.print('printf "ann@example.org\\tx\\n"')
    index = write(tmp_path, "", "table.lmdb")
    source = recipients(clock, f"lmdb:{tmp_path}/table")
    programs.print(f'while ! test -e {tmp_path}/go; do sleep 0.01; done; printf "bob@example.org\\tx\\n"')
    index.write_text("changed")
    before = set(threading.enumerate())
    clock.advance(1)
    assert knows(source, "ann@example.org")  # and does not wait for postmap
    (tmp_path / "go").touch()
    for thread in set(threading.enumerate()) - before:
        thread.join(60)
    clock.advance(1)
    assert knows(source, "bob@example.org")


def test_keys_with_spaces_are_whole(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = Programs(tmp_path, monkeypatch)
    programs.print("printf '\"ann smith\"@example.org\\tx\\nodd key\\tbob\\n'")
    write(tmp_path, "", "table.db")
    write(tmp_path, '"ann smith"@example.org x\n"eve: x"@example.org: y\n')
    for kind in ("hash", "texthash"):
        source = recipients(clock, f"{kind}:{tmp_path}/table", domains=["example.org"])
        assert knows(source, "ann smith@example.org")
        assert not knows(source, '"ann@example.org')
        assert not knows(source, "odd@example.org")
    assert knows(source, "eve: x@example.org")


def test_a_table_that_changes_while_it_is_printed_is_not_taken_for_whole(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, logged: Sequence[LogEvent]
) -> None:
    programs = Programs(tmp_path, monkeypatch)
    once = 'test -s $0.done || { echo x > $0.table.db; echo x > $0.done; printf "half@example.org\\tx\\n"; exit; }'
    programs.print(f'{once}; printf "half@example.org\\tx\\nann@example.org\\tx\\n"')
    write(tmp_path, "", "postmap.table.db")
    assert knows(recipients(clock, f"hash:{tmp_path}/postmap.table"), "ann@example.org")
    programs.print('echo x >> $0.table.db; printf "half@example.org\\tx\\n"')
    source = recipients(clock, f"hash:{tmp_path}/postmap.table")  # the last one stands at the start
    assert knows(source, "half@example.org")
    assert not knows(source, "ann@example.org")


def test_what_postmap_prints_is_bounded(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postfix_map, "_LARGEST", 1024**2)
    Programs(tmp_path, monkeypatch).print("exec yes")
    write(tmp_path, "", "table.db")
    with pytest.raises(FileError, match="is larger than 1 MiB"):
        recipients(clock, f"hash:{tmp_path}/table")


def test_an_index_that_is_away_for_a_moment_is_looked_for_in_a_thread(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    Programs(tmp_path, monkeypatch).print('printf "ann@example.org\\tx\\n"')
    index = write(tmp_path, "", "table.db")
    source = recipients(clock, f"hash:{tmp_path}/table")
    threads: list[threading.Thread] = []
    index.unlink()

    def dumped(*_: object) -> bytes:
        threads.append(threading.current_thread())
        return b""

    monkeypatch.setattr(postfix_map, "_dumped", dumped)
    before = set(threading.enumerate())
    clock.advance(1)
    assert knows(source, "ann@example.org")
    for thread in set(threading.enumerate()) - before:
        thread.join(60)
    assert threads
    assert threading.current_thread() not in threads


@pytest.mark.parametrize(
    ("script", "text"),
    [
        (
            "echo 'postmap: fatal: open x.db: Permission denied' >&2; exit 1",
            "cannot read it: postmap: fatal: open",
        ),
        ("exit 3", "cannot read it: status 3"),
        ("exec sleep 60", "has not read it in 0 seconds"),
        ("printf 'ann\\377@example.org x\\n'", "not UTF-8"),
    ],
)
def test_a_postmap_that_fails(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, script: str, text: str
) -> None:
    monkeypatch.setattr(postfix_map, "_LONGEST", 0.3 if "sleep" in script else 30.0)
    Programs(tmp_path, monkeypatch).print(script)
    index = write(tmp_path, "", "table.db")
    with pytest.raises(FileError, match=text) as raised:
        recipients(clock, f"hash:{tmp_path}/table")
    assert raised.value.errors[0].startswith(f"{index}:")


def test_a_machine_without_postfix(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_args, **_more: None)
    write(tmp_path, "", "table.db")
    with pytest.raises(FileError, match="postmap, which reads it, is not installed"):
        recipients(clock, f"hash:{tmp_path}/table")


def test_an_index_that_is_too_large_is_not_read(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postfix_map, "_LARGEST", 1024**2)
    write(tmp_path, "x" * (1024**2 + 1), "table.db")
    with pytest.raises(FileError, match="is larger than 1 MiB"):
        recipients(clock, f"hash:{tmp_path}/table")
    with pytest.raises(FileError, match="is larger than 1 MiB"):
        recipients(clock, f"texthash:{tmp_path}/table.db")
