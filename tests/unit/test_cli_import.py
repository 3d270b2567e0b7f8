"""`mailgate import`: what is written where, and what is said."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mailgate.cli.main import main
from mailgate.moving.draft import Draft
from mailgate.moving.write import leftovers, toml

SAMPLES = Path(__file__).parent.parent / "samples"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["import", *map(str, arguments)])


def test_the_document_alone_is_printed() -> None:
    result = run("postfix", SAMPLES / "postfix-debian")
    assert result.exit_code == 0
    assert tomllib.loads(result.stdout)["gateway"]["hostname"] == "debian.example.org"
    assert (
        "It needs files beside it, which --output DIR writes: aliases-local-aliases, recipients-local" in result.stderr
    )


@pytest.mark.parametrize("kind", ["postfix", "haraka"])
def test_a_folder_is_written_and_checked(tmp_path: Path, kind: str) -> None:
    result = run(kind, SAMPLES / kind, "--output", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{tmp_path / 'out' / 'mailgate.toml'}: ok\n"
    assert "To be decided by you" in result.stderr
    assert "Without an equivalent" in result.stderr
    assert "Nothing to do" not in result.stderr
    assert (tmp_path / "out" / "secrets").stat().st_mode & 0o777 == 0o700


def test_what_needs_nothing_is_listed_when_asked_for(tmp_path: Path) -> None:
    assert "Nothing to do" in run("postfix", SAMPLES / "postfix", "--all").stderr


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    result = run("postfix", SAMPLES / "postfix-debian", "--output", tmp_path)
    assert result.exit_code == 1
    assert "is not empty: name a new folder" in result.stderr
    assert [one.name for one in tmp_path.iterdir()] == ["mine"]


def test_a_folder_without_a_postfix_is_one_line(tmp_path: Path) -> None:
    result = run("postfix", tmp_path)
    assert result.exit_code == 1
    assert result.stderr.startswith("mailgate: ")
    assert "main.cf: cannot be read" in result.stderr


def test_values_of_all_forms_are_read_back() -> None:
    draft = Draft()
    section = draft.section("a", 'b"c')
    values = {
        "text": 'quote " and \\ and \x7f and é', "flag": True, "number": 3, "real": 1.5, "list": ["a", ["b"]],
        "table": {"x y": 1}, "long": ["x" * 60, "y" * 60], "none": [],
    }  # fmt: skip
    for key, value in values.items():
        section.set(key, value, "origin with\nline ends")  # type: ignore[arg-type]  # of all types at once
    assert tomllib.loads(toml(draft, "title\nsecond = 1"))["a"]['b"c'] == values


def test_a_file_that_is_there_with_other_lines_gets_a_number() -> None:
    draft = Draft()
    assert [draft.file("x", ["1"]), draft.file("x", ["1"]), draft.file("x", ["2"])] == ["x", "x", "x-2"]


def test_leftovers_are_told_once_and_by_weight() -> None:
    draft = Draft()
    for _ in range(2):
        draft.leave("missing", "a", "is not there", "Do b")
    draft.leave("covered", "c", "is so")
    assert list(leftovers(draft, with_covered=False)) == ["Without an equivalent:", "- a: is not there. Do b", ""]
    assert "- c: is so" in list(leftovers(draft))
