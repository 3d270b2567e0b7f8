"""Patterns of addresses with any extension, and whom a filter is for by them."""

from __future__ import annotations

from pathlib import Path

import pytest
from twisted.internet.task import Clock

from mailgate.address import Address
from mailgate.pipeline.scope import Scope
from mailgate.stores.extensions import ExtendedTable


@pytest.mark.parametrize(
    ("pattern", "fits", "others"),
    [
        ("ann+*", ["ann+", "ann+x", "ann+x+y"], ["ann", "anna+x", "ann-x", "x+ann"]),
        ("ann-*", ["ann-x", "ann-x-y"], ["ann", "ann+x"]),
        ("a.b+*", ["a.b+x"], ["a.b", "a+x"]),
    ],
)
def test_which_addresses_a_pattern_is_for(pattern: str, fits: list[str], others: list[str]) -> None:
    table: ExtendedTable[int] = ExtendedTable()
    assert not table
    assert table.add(pattern, "a.example", 1)
    assert [one for one in [*fits, *others] if table.find(one, "a.example")] == fits
    assert table.find(fits[0], "b.example") is None


@pytest.mark.parametrize("local_part", ["ann", "*", "+*", "ann*", "an*n", "ann+"])
def test_what_is_no_such_pattern(local_part: str) -> None:
    table: ExtendedTable[int] = ExtendedTable()
    assert not table.add(local_part, "a.example", 1)
    assert not table


def test_of_two_delimiters_each_has_its_patterns() -> None:
    table: ExtendedTable[int] = ExtendedTable()
    assert table.add("ann+*", "a.example", 1)
    assert table.add("bob-*", "a.example", 2)
    assert table.add("ann+*", "a.example", 3)
    assert [table.find(one, "a.example") for one in ("ann+x-y", "bob-x+y", "ann-x")] == [1, 2, None]


def test_a_base_may_hold_the_delimiter() -> None:
    table: ExtendedTable[int] = ExtendedTable()
    assert table.add("no-reply-*", "a.example", 1)
    assert table.add("no-*", "a.example", 2)
    assert [table.find(one, "a.example") for one in ("no-reply-x-y", "no-reply", "no")] == [1, 2, None]


def test_whom_a_filter_is_for(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("bob+*@a.example\n")
    scope = Scope(["a.example"], ["ann+*@a.example", f"file:{tmp_path / 'list'}"], Clock())
    said = {one: scope.is_for(Address.parse(f"{one}@a.example")) for one in ("ann", "Ann+x", "bob", "bob+x", "cy+x")}
    assert said == {"ann": True, "Ann+x": False, "bob": True, "bob+x": False, "cy+x": True}
