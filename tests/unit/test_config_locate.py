"""The line of each key in a TOML document, whatever way it is written."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgate.config.locate import Path, locate

SOURCE = '''# a comment = 1
top = 1
"quoted key".'and literal' = """
[not.a.table]
no = "key"
\\""" still inside
"""""
list = [ 1, # not = "]" the end
  "]", [2,
  3],
  { f = 1, g.h = "}" } ]

[table]
date = 1979-05-27 07:32:32
  [ table . "in.side" ]   # [comment]
  key = \'\'\'
[x]
\'\'\'\'

[[tables]]
a = \'it is # no comment\'
[tables.sub]
b = 1
[[tables]]
[[tables.inner]]
c = ""
[[tables.inner]]
c = """"""

[late.sub]
d = { }
[late]
e = true
last = [ 1 # ], [ "
  , 2 ]
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("top",), 2),
        (("quoted key", "and literal"), 3),
        (("list",), 8),
        (("list", 0), 8),
        (("list", 1), 9),
        (("list", 2), 9),
        (("list", 2, 1), 10),
        (("list", 3, "g", "h"), 11),
        (("table",), 13),
        (("table", "date"), 14),
        (("table", "in.side"), 15),
        (("table", "in.side", "key"), 16),
        (("tables",), 20),
        (("tables", 0, "a"), 21),
        (("tables", 0, "sub", "b"), 23),
        (("tables", 1), 24),
        (("tables", 1, "inner", 0, "c"), 26),
        (("tables", 1, "inner", 1), 27),
        (("late", "sub"), 30),
        (("late",), 32),
        (("late", "e"), 33),
        (("late", "last", 0), 34),
        (("late", "last", 1), 35),
    ],
)
def test_each_key_has_its_line(path: Path, line: int) -> None:
    assert locate(SOURCE).find(path) == line


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("not",), 1),
        ((), 1),
        (("table", "missing"), 13),
        (("tables", 1, "inner", 1, "x", 5), 27),
        (("tables", 7), 20),
        (("list", 2, 9), 9),
    ],
)
def test_what_is_not_there_has_the_line_of_what_is_around_it(path: Path, line: int) -> None:
    assert locate(SOURCE).find(path) == line


def test_the_line_ends_of_windows() -> None:
    source = SOURCE.replace("\n", "\r\n")
    assert {path: locate(source).find(path) for path in locate(source).paths()} == {
        path: locate(SOURCE).find(path) for path in locate(SOURCE).paths()
    }


def paths_of(value: object, path: Path = ()) -> Iterator[Path]:
    """Every path that tomllib finds."""
    if path:
        yield path
    entries: Iterator[tuple[str | int, object]] = iter(())
    if isinstance(value, dict):
        entries = iter(value.items())
    elif isinstance(value, list):
        entries = iter(enumerate(value))
    for key, entry in entries:
        yield from paths_of(entry, (*path, key))


def test_the_document_above_has_no_path_that_is_not_found() -> None:
    assert set(locate(SOURCE).paths()) == set(paths_of(tomllib.loads(SOURCE)))


KEYS = st.one_of(
    st.text("abcxyz0_-", min_size=1, max_size=4),
    st.text(st.characters(codec="utf-8", exclude_characters="\x7f"), max_size=4),
    st.sampled_from(["a.b", "]", '"', "=", "# x", "'''", '"""', "\n[x]\n", "[[y]]", "\\"]),
)
TEXTS = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=12),
    st.text("\"'\\#[]{},=.\n ax", max_size=12),
    st.sampled_from(["\n[a]\nb = 1\n", '"', "''", "# no", "]]", "a = '''"]),
)
SCALARS = st.one_of(st.booleans(), st.integers(-9, 99), st.just(1.5), TEXTS)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=12,
)


class Writer:
    """Writes a document in whatever style is drawn, and notes the line on which it puts each value's key."""

    def __init__(self, data: st.DataObject) -> None:
        self._data = data
        self.text = ""
        self.lines: dict[Path, int] = {}

    def document(self, root: dict[str, object]) -> None:
        self._noise()
        self._body(root, (), ())

    def _draw(self, *choices: str) -> str:
        return self._data.draw(st.sampled_from(choices))

    def _noise(self) -> None:
        self.text += self._draw("", "", "\n", "# [c]\n", "  \t# a = '''\n\n")

    def _note(self, path: Path) -> None:
        self.lines.setdefault(path, self.text.count("\n") + 1)

    def _key(self, key: str) -> str:
        plain = key.isascii() and key.replace("-", "").replace("_", "").isalnum()
        if plain and self._draw("bare", "quoted") == "bare":
            return key
        return f"'{key}'" if key.isprintable() and "'" not in key and self._draw("'", '"') == "'" else basic(key)

    def _body(self, table: dict[str, object], path: Path, header: tuple[str, ...]) -> None:
        """The pairs of a table, then its sub-tables with headers of their own, or in line."""
        later: list[tuple[str, object]] = []
        for key, value in table.items():
            is_tables = isinstance(value, list) and bool(value) and all(isinstance(entry, dict) for entry in value)
            if (isinstance(value, dict) or is_tables) and self._draw("header", "inline") == "header":
                later.append((key, value))
            else:
                self._note((*path, key))
                self.text += self._key(key) + self._draw("=", " = ")
                self._value(value, (*path, key))
                self.text += self._draw("\n", " # end\n", "\n\n")
        for key, value in later:
            for number, entry in enumerate(value if isinstance(value, list) else [value]):
                self._noise()
                inner = (*path, key, number) if isinstance(value, list) else (*path, key)
                self._note((*path, key))
                self._note(inner)
                names = (*header, self._key(key))
                brackets = ("[[", "]]") if isinstance(value, list) else ("[", "]")
                self.text += (
                    f"{brackets[0]}{self._draw('', ' ')}{'.'.join(names)}{brackets[1]}{self._draw('', ' # [x]')}\n"
                )
                assert isinstance(entry, dict)
                self._body(entry, inner, names)

    def _value(self, value: object, path: Path) -> None:
        if isinstance(value, dict):
            self.text += "{ "
            for index, (key, entry) in enumerate(value.items()):
                self.text += ", " if index else ""
                self._note((*path, key))
                self.text += f"{self._key(key)} = "
                self._value(entry, (*path, key))
            self.text += " }"
        elif isinstance(value, list):
            self.text += "[" + self._draw("", "\n", " # ]\n")
            for number, entry in enumerate(value):
                self._note((*path, number))
                self._value(entry, (*path, number))
                self.text += "," + self._draw("", " ", "\n", " # , ]\n")
            self.text += "]"
        elif isinstance(value, str):
            self.text += self._string(value)
        else:
            self.text += json.dumps(value)

    def _string(self, value: str) -> str:
        style = self._draw("basic", "literal", "long", "long literal")
        if style == "literal" and value.isprintable() and "'" not in value:
            return f"'{value}'"
        if style == "long literal" and value.replace("\n", "").isprintable() and "'''" not in f"{value}'":
            return f"'''\n{value}'''"
        if style == "long":
            return '"""\n' + basic(value)[1:-1].replace("\\n", "\n") + '"""' if "\\" not in value else basic(value)
        return basic(value)


def basic(text: str) -> str:
    """A TOML basic string; JSON's escapes are TOML's, but for the surrogates and DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


@given(st.dictionaries(KEYS, VALUES, max_size=5), st.data())
def test_it_agrees_with_tomllib(root: dict[str, object], data: st.DataObject) -> None:
    writer = Writer(data)
    writer.document(root)
    assert tomllib.loads(writer.text) == root
    lines = locate(writer.text)
    assert set(lines.paths()) == set(paths_of(root))
    assert {path: lines.find(path) for path in writer.lines} == writer.lines
