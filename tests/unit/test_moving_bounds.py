"""Hostile folders of other servers: a clear line for each, and never more work, memory or text than there should be."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mailgate.moving.draft import Draft
from mailgate.moving.files import ReadingError
from mailgate.moving.haraka.whole import read_haraka
from mailgate.moving.postfix.whole import read_postfix
from mailgate.moving.write import leftovers, toml
from tests.unit.test_moving_postfix import BASIS, MASTER

Read = Callable[..., Draft]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def made(main: str = "", master: str = MASTER, **files: str) -> Draft:
        (tmp_path / "main.cf").write_text(f"{BASIS}alias_maps =\n{main}")
        (tmp_path / "master.cf").write_text(master)
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        draft = read_postfix(tmp_path, list)
        toml(draft, "test")
        return draft

    return made


@pytest.mark.parametrize(
    ("main", "files", "error"),
    [
        ("a = $b\nb = $a\nrelayhost = $a\n", {}, "names lead to names without an end"),
        ("a = $(b)\nb = ${a}\nrelayhost = x$(a)\n", {}, "names lead to names without an end"),
        ("mynetworks = /etc/postfix/n\n", {"n": "/etc/postfix/n\n"}, "files lead to files without an end"),
        ("mynetworks = /etc/postfix/n0\n", {f"n{one}": f"/etc/postfix/n{one + 1}\n" * 40 for one in range(8)},
         "files lead to files without an end"),
        ("".join(f"p{one} = x\n" for one in range(10_001)), {}, "main.cf: has more than 10000 settings"),
        ("mynetworks =\n" + " 10.0.0.1\n" * 200_001, {}, "has more than 200000 entries"),
        ("no equals sign\n", {}, 'main.cf:6: "no equals sign" is no NAME = VALUE'),
    ],
)  # fmt: skip
def test_what_has_no_end_is_one_clear_line(read: Read, main: str, files: dict[str, str], error: str) -> None:
    with pytest.raises(ReadingError, match=error) as raised:
        read(main, **files)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("master", "error"),
    [
        ("".join(f"{one} inet n - n - - smtpd\n" for one in range(1, 1002)), "more than 1000 services"),
        ("smtp inet n - n - - smtpd\n" + "".join(f"  -o x{one}=y\n" for one in range(1001)), "or options of one"),
    ],
)
def test_a_master_file_has_bounds(read: Read, master: str, error: str) -> None:
    with pytest.raises(ReadingError, match=error):
        read(master=master)


def test_many_exceptions_of_networks_end_the_list(read: Read) -> None:
    lines = [f"!10.{one >> 8}.{one & 255}.0/24" for one in range(300)]
    draft = read("mynetworks = 192.0.2.1 /etc/postfix/n\n", n="\n".join([*lines, "10.0.0.0/8"]))
    (listener,) = draft.entries("listeners")
    assert listener.values["trusted_networks"] == ["192.0.2.1/32"]
    assert any("more than 100 exceptions" in one.why for one in draft.leftovers)


def test_very_many_routes_are_told_and_left_out(read: Read) -> None:
    lines = "".join(f"u{one}@a.example smtp:[10.0.0.1]\n" for one in range(100_001))
    draft = read("relay_domains = a.example\nrelay_transport = smtp:[10.0.0.2]\ntransport_maps = hash:t\n", t=lines)
    assert not draft.has("routing", "recipients")
    assert any("it has 100001 entries" in one.why for one in draft.leftovers)


def test_the_list_of_what_is_left_has_an_end_and_counts_the_rest(read: Read) -> None:
    lines = "".join(f"x{one}/99 REJECT\n" for one in range(5000))
    draft = read("smtpd_client_restrictions = check_client_access cidr:/etc/postfix/c\n", c=lines)
    text = list(leftovers(draft))
    assert len(text) < 3000
    assert sum(line.startswith("- ") for line in text) < 1200
    assert any(" more, for other reasons" in line for line in text)


def test_a_setting_of_any_length_is_told_in_few_words(read: Read) -> None:
    draft = read("mynetworks = " + "{" * 100_000 + "\n")
    assert max(len(one.setting) + len(one.why) + len(one.advice) for one in draft.leftovers) <= 1500


def test_files_that_are_none_are_told(tmp_path: Path, read: Read) -> None:
    os.mkfifo(tmp_path / "pipe")
    draft = read(f"transport_maps = hash:{tmp_path}/pipe, hash:/dev/zero, hash:/etc\nmynetworks = /dev/zero\n")
    told = "\n".join(f"{one.setting} {one.why}" for one in draft.leftovers)
    assert "pipe: is no file" in told
    assert "/dev/zero: is larger than 64 MiB" in told
    assert "/etc: cannot be read: Is a directory" in told


@pytest.mark.parametrize("name", ["plugins", "smtp.ini", "host_list", "me", "aliases", "relay_acl_allow"])
@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "octets", "large"])
def test_a_hostile_haraka(tmp_path: Path, name: str, kind: str) -> None:
    config = tmp_path / "config"
    config.mkdir()
    texts = {"plugins": "relay\naliases\nqueue/smtp_forward\n", "smtp.ini": "port=25\n", "me": "mx.example.org\n"}
    for one, text in texts.items():
        (config / one).write_text(text)
    (config / name).unlink(missing_ok=True)
    if kind == "folder":
        (config / name).mkdir()
    elif kind == "pipe":
        os.mkfifo(config / name)
    elif kind == "device":
        (config / name).symlink_to("/dev/zero")
    elif kind == "octets":
        (config / name).write_bytes(bytes(range(256)) * 100)
    else:
        (config / name).write_text("x=y\n" * 100_000)
    with contextlib.suppress(ReadingError):
        assert len(toml(read_haraka(tmp_path), "test")) < 1_000_000
