"""Which recipients exist, and which table entry is for a domain."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from mailgate.address import Address
from mailgate.config.schema import Config
from mailgate.interfaces import IRecipientDirectory, RecipientStatus
from mailgate.recipients.build import DirectoryError, make_sources
from mailgate.recipients.directory import Directory
from mailgate.stores.domains import DomainTable
from tests.unit.recipients_stand import source_tools

KNOWN, UNKNOWN = RecipientStatus.KNOWN, RecipientStatus.UNKNOWN


def directory(
    recipients: dict[str, object], domains: dict[str, str] | None = None, clock: Clock | None = None
) -> Directory:
    """Over one list "staff" for example.org and what is below sub.example.org, and "any" for open.example."""
    names = domains or {"example.org": "staff", "*.sub.example.org": "staff", "open.example": "any"}
    config = Config.model_validate(
        {
            "gateway": {"hostname": "mx.example.org", "state_dir": "."},
            "listeners": [{"name": "mx", "endpoints": ["tcp:25"], "pipeline": "inbound"}],
            "pipelines": {"inbound": {"filters": []}},
            "routes": {"out": {"transport": "discard"}},
            "domains": {name: {"route": "out", "recipients": of} for name, of in names.items()},
            "recipients": {"staff": {"kind": "list", **recipients}},
        },
        context={"base": Path()},
    )
    tools = source_tools(clock)
    return Directory(config, {name: one.source for name, one in make_sources(config, tools).items()})


LISTED = ["Ann@example.org", "bob+lists@example.org", "jörg@example.org", "eve@a.sub.example.org", "@b.sub.example.org"]


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("ann@example.org", KNOWN),
        ("ANN@EXAMPLE.ORG", KNOWN),
        ("ann+tag@example.org", KNOWN),
        ("ann+a+b@example.org", KNOWN),
        ("ann+@example.org", KNOWN),
        ("+ann@example.org", UNKNOWN),
        ("ann-tag@example.org", UNKNOWN),
        ("bob+lists@example.org", KNOWN),
        ("bob@example.org", UNKNOWN),
        ("bob+other@example.org", UNKNOWN),
        ("JÖRG@example.org", KNOWN),
        ("carl@example.org", UNKNOWN),
        ('"ann"@example.org', KNOWN),
        ('"ann "@example.org', UNKNOWN),
        ("eve@a.sub.example.org", KNOWN),
        ("ann@a.sub.example.org", UNKNOWN),
        ("eve@example.org", UNKNOWN),
        ("whoever@b.sub.example.org", KNOWN),
        ("whoever@c.b.sub.example.org", UNKNOWN),
        ("postmaster@example.org", KNOWN),
        ("PostMaster@a.sub.example.org", KNOWN),
        ("postmaster+tag@example.org", KNOWN),
        ("postmasters@example.org", UNKNOWN),
        ("whoever@open.example", KNOWN),
        ("whoever@elsewhere.example", KNOWN),
        ("whoever@sub.example.org", KNOWN),
        ("whoever@[192.0.2.1]", KNOWN),
    ],
)
def test_lookup(address: str, status: RecipientStatus) -> None:
    assert directory({"addresses": LISTED}).lookup(Address.parse(address)) is status


def test_it_is_a_directory_that_knows_which_domains_are_ours() -> None:
    known = directory({"addresses": LISTED})
    assert verifyObject(IRecipientDirectory, known)
    ours = ["example.org", "EXAMPLE.org.", "a.sub.example.org", "b.a.sub.example.org", "open.example"]
    assert all(known.is_local(domain) for domain in ours)
    others = ["sub.example.org", "www.example.org", "elsewhere.example", "", "org", "xexample.org", "[192.0.2.1]"]
    assert not any(known.is_local(domain) for domain in others)


def test_a_domain_has_one_name_in_all_its_spellings() -> None:
    known = directory({"addresses": ["ann@bücher.example"]}, {"bücher.example": "staff"})
    for domain in ("bücher.example", "BÜCHER.example", "xn--bcher-kva.example", "XN--BCHER-KVA.EXAMPLE"):
        assert known.is_local(domain)
        assert known.lookup(Address.parse(f"ann@{domain}")) is KNOWN
        assert known.lookup(Address.parse(f"bob@{domain}")) is UNKNOWN


def test_a_list_in_a_file_beside_the_one_in_the_configuration(tmp_path: Path) -> None:
    path, clock = tmp_path / "staff", Clock()
    path.write_text("# staff\ncarl@example.org  # new\n@a.sub.example.org\n")
    known = directory({"addresses": ["ann@example.org"], "path": str(path)}, clock=clock)
    addresses = [Address.parse(f"{name}@example.org") for name in ("ann", "carl", "carl+tag", "dora")]
    assert [known.lookup(address) for address in addresses] == [KNOWN, KNOWN, KNOWN, UNKNOWN]
    assert known.lookup(Address.parse("whoever@a.sub.example.org")) is KNOWN
    path.write_text("dora@example.org\n")
    clock.advance(1)
    assert [known.lookup(address) for address in addresses] == [KNOWN, UNKNOWN, UNKNOWN, KNOWN]


@pytest.mark.parametrize("line", ["carl", "carl@", "@", "a b@example.org", "*@example.org@", "@[300.0.0.1]", "x@*.org"])
def test_a_malformed_line_is_an_error_with_its_place(tmp_path: Path, line: str) -> None:
    path = tmp_path / "staff"
    path.write_text(f"ann@example.org\n{line}\n")
    with pytest.raises(ValueError, match=re.escape(f'{path}:2: "{line}": ')):
        directory({"path": str(path)})


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        directory({"path": str(tmp_path / "nothing")})


def test_what_is_wrong_has_its_key(tmp_path: Path) -> None:
    path = tmp_path / "staff"
    path.write_text("ann@example.org\n" + "bad\n" * 10)
    with pytest.raises(DirectoryError) as caught:
        directory({"path": str(path)})
    assert [key for key, _ in caught.value.errors] == [("recipients", "staff", "path")] * 10
    assert [text.partition(': "bad": ')[0] for _, text in caught.value.errors] == [
        f"{path}:{number}" for number in range(2, 12)
    ]
    path.write_text("bad\n" * 12)
    with pytest.raises(DirectoryError) as caught:
        directory({"path": str(path)})
    assert len(caught.value.errors) == 11
    assert caught.value.errors[-1][1] == f"{path}: more lines are wrong"


@pytest.mark.parametrize("line", ["ann@example.org\tann", "ann@example.org OK"])
def test_what_postmap_prints_is_explained(tmp_path: Path, line: str) -> None:
    path = tmp_path / "staff"
    path.write_text(f"{line}\n")
    with pytest.raises(DirectoryError, match=r"\(one address a line, nothing behind it\)$"):
        directory({"path": str(path)})


def test_a_list_whose_file_was_emptied_stays_in_force(tmp_path: Path) -> None:
    path, clock = tmp_path / "staff", Clock()
    path.write_text("carl@example.org\n")
    known = directory({"path": str(path)}, clock=clock)
    path.write_text("")
    clock.advance(1)
    assert known.lookup(Address.parse("carl@example.org")) is KNOWN


# --- Tables by domain


TABLE = DomainTable({"example.org": 1, "*.example.org": 2, "*.a.example.org": 3, "b.a.Example.org": 4, "*.org": 5})


@pytest.mark.parametrize(
    ("domain", "value"),
    [
        ("example.org", 1),
        ("x.example.org", 2),
        ("a.example.org", 2),
        ("x.a.example.org", 3),
        ("y.x.a.example.org", 3),
        ("b.a.example.org", 4),
        ("c.b.a.example.org", 3),
        ("other.org", 5),
        ("org", None),
        ("example.com", None),
        ("", None),
        (".", None),
        ("." * 300, None),
    ],
)
def test_the_nearest_entry_is_taken(domain: str, value: int | None) -> None:
    assert TABLE.match(domain) == value
    assert TABLE.has(domain) is (value is not None)


def test_an_entry_may_be_none() -> None:
    table = DomainTable({"example.org": None})
    assert table.has("example.org")
    assert not table.has("example.com")


@pytest.mark.parametrize("entry", ["", "*", "*.", "a*.org", "*.*.org", "**.org"])
def test_what_is_no_entry(entry: str) -> None:
    with pytest.raises(ValueError, match="is not a domain"):
        DomainTable({entry: 1})


@pytest.mark.parametrize("again", ["Example.org", "example.org.", "EXAMPLE.ORG"])
def test_no_entry_stands_there_twice(again: str) -> None:
    with pytest.raises(ValueError, match="twice"):
        DomainTable({"example.org": 1, again: 2})


LABELS = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=5).map(".".join)


@given(st.dictionaries(st.tuples(st.booleans(), LABELS), st.integers()), LABELS)
def test_the_table_is_the_longest_match(entries: dict[tuple[bool, str], int], domain: str) -> None:
    table = DomainTable({("*." if below else "") + name: value for (below, name), value in entries.items()})
    above = [name for below, name in entries if below and domain.endswith(f".{name}")]
    expected = entries[True, max(above, key=len)] if above else None
    assert table.match(domain) == entries.get((False, domain), expected)


@given(st.text(max_size=100))
def test_any_text_may_be_looked_up(text: str) -> None:
    assert TABLE.match(text) in (None, 1, 2, 3, 4, 5)
    assert TABLE.match(f"{text}.org") in (2, 3, 4, 5, None)
