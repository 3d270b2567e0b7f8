"""main.cf, master.cf and tables of Postfix, as they are read for an import."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgate.moving.files import ReadingError, read_text
from mailgate.moving.postfix.reading import Parameters, Setting, logical_lines, read_main, read_master, split_words
from mailgate.moving.postfix.tables import Question, Tables, Unreadable


def parameters(text: str) -> Parameters:
    return Parameters(read_main(text))


def test_lines_go_on_where_they_begin_with_space() -> None:
    text = "# comment\na = 1,\n  # a comment in between\n\n   2\n\tthree\nb = 4\n   \n"
    assert list(logical_lines(text)) == [(2, "a = 1, 2 three"), (7, "b = 4")]


def test_the_last_of_two_settings_counts_and_says_where_it_stands() -> None:
    found = read_main("a = 1\nb=\na = 2\n")
    assert found == {"a": Setting("2", "main.cf:3"), "b": Setting("", "main.cf:2")}


def test_a_line_that_is_no_setting_is_told() -> None:
    with pytest.raises(ReadingError, match=r'main.cf:2: "nonsense" is no NAME = VALUE'):
        read_main("a = 1\nnonsense\n")


@pytest.mark.parametrize(
    ("value", "expanded"),
    [
        ("$b", "bee"),
        ("${b}", "bee"),
        ("$(b)s", "bees"),
        ("$$b", "$b"),
        ("$none.", "."),
        ("$b.x-$b-y", "bee.x-bee-y"),
        ("${b?yes}", "yes"),
        ("${b:no}", ""),
        ("${none?yes}", ""),
        ("${none:no}", "no"),
        ("${b?{in $b}:{not}}", "in bee"),
        ("${none?{in $b}:{not $b}}", "not bee"),
        ("${{$b} == {bee} ? {same} : {other}}", "same"),
        ("${{$b} != {bee} ? {same} : {other}}", "other"),
        ("${{$level} <level {3.10} ? {old} : {new}}", "old"),
        ("${{10} > {9} ? {more} : {less}}", "more"),
        ("$b $b", "bee bee"),
        ("${b", "bee"),
        ("a $", "a $"),
    ],
)
def test_names_are_replaced(value: str, expanded: str) -> None:
    assert parameters(f"b = bee\nlevel = 3.6\na = {value}\n").get("a") == expanded


def test_names_that_lead_to_themselves_end() -> None:
    with pytest.raises(ReadingError, match="without an end"):
        parameters("a = $b\nb = $a\n").get("a")


def test_names_that_grow_without_bound_end() -> None:
    text = "".join(f"a{number} = {f'$a{number + 1} ' * 10}\n" for number in range(20)) + "a20 = x\n"
    with pytest.raises(ReadingError, match="is longer than"):
        parameters(text).get("a0")


def test_defaults_of_postfix_count_where_nothing_is_set() -> None:
    found = parameters("myhostname = mx.example.org\ncompatibility_level = 3.6\n")
    assert found.words("mydestination") == ["mx.example.org", "localhost.example.org", "localhost"]
    assert found.get("relay_domains") == ""
    assert found.get("mynetworks_style") == "host"
    assert found.seconds("smtpd_timeout") == 300
    assert found.words("smtpd_relay_restrictions")[-1] == "defer_unauth_destination"


def test_what_was_asked_for_is_remembered_with_what_it_led_to() -> None:
    found = parameters("a = $b\nb = 1\nc = 2\n")
    found.get("a")
    assert set(found.settings) - found.used == {"c"}


@pytest.mark.parametrize(("text", "seconds"), [("5d", 432000), ("4h", 14400), ("90", 90), ("1w", 604800), ("x", None)])
def test_times(text: str, seconds: int | None) -> None:
    assert parameters(f"a = {text}\n").seconds("a") == seconds


def test_numbers_without_bound_are_none() -> None:
    assert parameters(f"a = {'9' * 5000}\n").number("a") is None


def test_words_in_braces_are_one() -> None:
    assert split_words("a, b  {c, d {e}} f") == ["a", "b", "{c, d {e}}", "f"]


def test_services_and_their_options() -> None:
    text = """
smtp inet n - y - - smtpd
submission inet n - y - - smtpd
  -o smtpd_sasl_auth_enable=yes
  -o smtpd_recipient_restrictions=permit_sasl_authenticated,reject
  -o { smtpd_client_restrictions = permit_mynetworks, reject }
mailman unix - n n - - pipe
  flags=FRX user=list argv=/bin/x ${nexthop}
"""
    smtp, submission, mailman = read_master(text)
    assert (smtp.name, smtp.kind, smtp.command, smtp.own) == ("smtp", "inet", "smtpd", {})
    assert submission.own == {
        "smtpd_sasl_auth_enable": "yes",
        "smtpd_recipient_restrictions": "permit_sasl_authenticated,reject",
        "smtpd_client_restrictions": "permit_mynetworks, reject",
    }
    assert submission.origin == "master.cf:3"
    assert mailman.arguments == "flags=FRX user=list argv=/bin/x ${nexthop}"


def test_a_service_has_its_own_settings_before_those_of_all() -> None:
    text = "a = 1\nb = $a\n"
    own = read_master("x inet n - n - - smtpd -o a=2\n")[0]
    assert parameters(text).of(own).get("b") == "2"


def test_a_service_with_too_few_columns_is_told() -> None:
    with pytest.raises(ReadingError, match=r"master.cf:1: .* has 3 of the 8 columns"):
        read_master("smtp inet n\n")


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ReadingError, match="cannot be read: No such file"):
        read_text(tmp_path / "main.cf")


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ReadingError, match="is no file"):
        read_text(tmp_path / "pipe")
    with pytest.raises(ReadingError, match="cannot be read: embedded null byte"):
        read_text(tmp_path / "a\0b")
    with pytest.raises(ReadingError, match="larger than 64 MiB"):
        read_text(Path("/dev/zero"))
    assert read_text(Path("/dev/null")) == ""


@given(st.text(alphabet="ab $(){}?:=!<>,\\\n\t#0", max_size=200))
def test_whatever_stands_there_is_read_or_told(text: str) -> None:
    try:
        found = Parameters(read_main(text))
        for name in found.settings:
            found.words(name)
    except ReadingError:
        pass


def tables(folder: Path, dump: str | None = None) -> Tables:
    return Tables(folder, lambda: ["root", "ann"], lambda name: f"{dump}" if dump is not None and name else None)


def test_a_hash_is_read_from_its_source(tmp_path: Path) -> None:
    (tmp_path / "map").write_text('# c\nann@example.org  one\n  two\n"quo ted"@x.test y\nroot: ann\nbare\n')
    entries = tables(tmp_path).read(f"hash:{tmp_path}/map").entries
    assert (entries[0].key, entries[0].value, entries[0].origin) == ("ann@example.org", "one two", "map:2")
    assert [one.key for one in entries][2:] == ["root", "bare"]


def test_a_source_is_found_beside_a_copied_main_cf(tmp_path: Path) -> None:
    (tmp_path / "only-here").write_text("a b\n")
    assert tables(tmp_path).read("proxy:hash:/etc/postfix/only-here").entries[0].key == "a"


def test_without_a_source_postmap_is_asked(tmp_path: Path) -> None:
    assert tables(tmp_path, "a\tb\n").read(f"hash:{tmp_path}/gone").entries[0].value == "b"
    assert isinstance(tables(tmp_path).read(f"hash:{tmp_path}/gone").content, Unreadable)


def test_expressions_keep_their_flags(tmp_path: Path) -> None:
    (tmp_path / "re").write_text("/^a\\/b/ REJECT\n!/c/i OK\n")
    first, second = tables(tmp_path).read(f"pcre:{tmp_path}/re").rules
    assert (first.pattern, first.ignores_case, first.value, first.is_not) == ("^a\\/b", True, "REJECT", False)
    assert (second.pattern, second.ignores_case, second.is_not) == ("c", False, True)


@pytest.mark.parametrize("line", ["if /x/\n/y/ REJECT\nendif\n", "no expression\n"])
def test_expressions_that_cannot_be_read_are_told(tmp_path: Path, line: str) -> None:
    (tmp_path / "re").write_text(line)
    assert isinstance(tables(tmp_path).read(f"pcre:{tmp_path}/re").content, Unreadable)


def test_other_kinds(tmp_path: Path) -> None:
    (tmp_path / "pg.cf").write_text("hosts = db\nquery = SELECT 1\n")
    known = tables(tmp_path)
    assert [one.key for one in known.read("unix:passwd.byname").entries] == ["root", "ann"]
    assert [(one.key, one.value) for one in known.read("inline:{a=b, {c = d e}}").entries] == [("a", "b"), ("c", "d e")]
    assert known.read("static:OK").entries[0].key == "*"
    question = known.read(f"pgsql:{tmp_path}/pg.cf").content
    assert isinstance(question, Question)
    assert question.settings["hosts"] == "db"
    assert isinstance(known.read("socketmap:inet:host:1:x").content, Unreadable)
