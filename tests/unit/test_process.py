"""What the process needs of the system."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailgate.process import make_directory, own_secret, user_name


def test_the_secret_stays_the_same_and_is_nobody_elses(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    found = own_secret(path)
    assert len(found) == 32
    assert own_secret(path) == found
    assert path.stat().st_mode & 0o777 == 0o600
    assert own_secret(tmp_path / "other") != found
    assert [one.name for one in sorted(tmp_path.iterdir())] == ["other", "secret"]


def test_a_secret_that_was_cut_off_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"short")
    assert len(own_secret(path)) == 32


def test_users() -> None:
    assert user_name(0) == "root"
    assert user_name(4_000_000_000) == "4000000000"


def test_the_name_of_a_directory_is_durable_with_those_above_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr("mailgate.process.sync", synced.append)
    make_directory(tmp_path / "one" / "two")
    assert set(synced) == {tmp_path, tmp_path / "one"}
    # Whoever made it may have been cut off before the sync.
    synced.clear()
    make_directory(tmp_path / "one" / "two")
    assert synced == [tmp_path / "one"]


def test_a_directory_above_that_may_not_be_read_is_none_that_we_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(path)

    monkeypatch.setattr("mailgate.process.sync", refuse)
    make_directory(tmp_path / "one")
    assert (tmp_path / "one").stat().st_mode & 0o777 == 0o700
