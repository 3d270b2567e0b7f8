"""Originals: durable before anybody relies on them, found by their message only, and never removed while in use."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
from zope.interface.verify import verifyObject

from mailgate.interfaces import IOriginals
from mailgate.message import Content
from mailgate.quarantine.originals import Originals, copied
from mailgate.testing import wait_for

ID = "3DQ5Y2VK8M7H1R0A"
BIG = b"Subject: x\r\n\r\n" + b"0123456789\r\n" * 100_000


@pytest.fixture
def originals(tmp_path: Path) -> Originals:
    return Originals(tmp_path / "quarantine")


def test_it_provides_the_interface(originals: Originals) -> None:
    assert verifyObject(IOriginals, originals)


@pytest.mark.parametrize("in_file", [False, True])
def test_what_is_kept_comes_back_byte_for_byte(originals: Originals, tmp_path: Path, in_file: bool) -> None:
    content = Content(BIG)
    if in_file:
        (tmp_path / "x").write_bytes(BIG)
        content = Content.in_file(tmp_path / "x")
    wait_for(originals.keep(ID, content))
    assert content.read() == BIG  # it stays the caller's
    found = wait_for(originals.copy(ID, tmp_path))
    assert found is not None
    assert found.read() == BIG
    found.discard()
    again = wait_for(originals.copy(ID, tmp_path))
    assert again is not None
    assert again.read() == BIG


def test_nobody_else_may_read_it(originals: Originals, tmp_path: Path) -> None:
    wait_for(originals.keep(ID, Content(BIG)))
    folder = tmp_path / "quarantine"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / ID).stat().st_mode) == 0o600


def test_it_is_synced_before_it_has_its_name(originals: Originals, monkeypatch: pytest.MonkeyPatch) -> None:
    wait_for(originals.keep("FIRST", Content(BIG)))  # makes the folder
    done: list[str] = []

    def noted(owner: object, name: str, what: str) -> None:
        call = getattr(owner, name)

        def also(*values: object) -> object:
            done.append(what)
            return call(*values)

        monkeypatch.setattr(owner, name, also)

    noted(os, "fsync", "synced")
    noted(Path, "replace", "named")
    wait_for(originals.keep(ID, Content(BIG)))
    # The file, its name, and then the folder that has the name; before the last two come those of folders above.
    assert done[done.index("named") - 1 :] == ["synced", "named", "synced"]


def test_a_full_disk_leaves_nothing_half_written(
    originals: Originals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        wait_for(originals.keep(ID, Content(BIG)))
    assert list((tmp_path / "quarantine").iterdir()) == []


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".", "..", "a.part", "x\0", "ä", "a b"])
def test_what_is_no_id_names_no_file(originals: Originals, tmp_path: Path, name: str) -> None:
    for answer in (originals.keep(name, Content(b"x")), originals.copy(name, tmp_path), originals.remove([name])):
        with pytest.raises(ValueError, match="no queue id"):
            wait_for(answer)


def test_what_is_not_there_is_none(originals: Originals, tmp_path: Path) -> None:
    assert wait_for(originals.copy(ID, tmp_path)) is None
    assert wait_for(originals.names()) == ()
    wait_for(originals.remove([ID]))


def test_what_is_young_is_not_told_of(tmp_path: Path) -> None:
    now = [1_800_000_000.0]
    originals = Originals(tmp_path / "quarantine", now=lambda: now[0])
    folder = tmp_path / "quarantine"
    for name, age in (("OLD", 3700), ("YOUNG", 3500), ("HALF.part", 3700), ("BEGUN.part", 10)):
        wait_for(originals.keep("X", Content(b"x")))
        (folder / "X").replace(folder / name)
        os.utime(folder / name, (now[0] - age, now[0] - age))
    (folder / ".hidden").write_text("somebody's")
    assert wait_for(originals.names(3600.0)) == ["OLD"]
    assert {one.name for one in folder.iterdir()} == {"OLD", "YOUNG", "BEGUN.part", ".hidden"}
    wait_for(originals.remove(["OLD", "NONE"]))
    assert not (folder / "OLD").exists()


def test_a_copy_that_fails_leaves_nothing(tmp_path: Path) -> None:
    incoming = tmp_path / "incoming"
    incoming.mkdir()
    (tmp_path / "x").write_bytes(b"x")
    content = Content.in_file(tmp_path / "x")
    (tmp_path / "x").unlink()
    with pytest.raises(FileNotFoundError):
        copied(content, incoming)
    assert list(incoming.iterdir()) == []
