"""Disk, files, ports and the clock."""

from __future__ import annotations

import errno
import os
import resource
import socket
from pathlib import Path
from typing import Any

import pytest

from mailgate.doctor import clock as doctor_clock
from mailgate.doctor import disk
from mailgate.doctor.clock import Kept, clock_checks, judge_clock, kernel_says
from mailgate.doctor.diagnosis import Diagnosis, Notes
from mailgate.doctor.disk import Mount, disk_checks, judge_syncs, mount_of, obstacle, sync_times
from mailgate.doctor.machine import file_checks, port_checks, try_ports
from tests.unit.doctor_stand import Host, Network, found, make_site, said

MOUNTS = r"""
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:26 / /run rw,nosuid - tmpfs tmpfs rw,size=10%
31 22 0:27 / /srv/nfs rw - nfs4 server:/x rw,vers=4.2
32 22 0:28 / /srv/a\040b rw,relatime - xfs /dev/sdb rw,nobarrier
33 22 0:29 / /srv/twice rw - ext4 /dev/sdc rw
34 33 0:30 / /srv/twice rw - overlay overlay rw
nonsense
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/var/lib/mailgate", "ext4"),
        ("/run/mailgate", "tmpfs"),
        ("/run", "tmpfs"),
        ("/runway", "ext4"),
        ("/srv/nfs/state", "nfs4"),
        ("/srv/a b/state", "xfs"),
        ("/srv/twice", "overlay"),
    ],
)
def test_what_a_folder_lies_on(folder: str, kind: str) -> None:
    mount = mount_of(Path(folder), MOUNTS)
    assert mount is not None
    assert mount.kind == kind


def test_nobody_says_what_it_lies_on() -> None:
    assert mount_of(Path("/x"), "") is None
    assert mount_of(Path("/x"), "\0 - \n - a\n 1 2 3 4 /x 6 - ") is None


@pytest.mark.parametrize(
    ("mount", "severity", "words"),
    [
        (Mount("/", "ext4", "rw"), "ok", "lies on ext4"),
        (Mount("/run", "tmpfs", "rw"), "fail", "every message is lost with a reboot"),
        (Mount("/srv", "nfs4", "rw"), "warn", "not to be trusted"),
        (Mount("/", "overlay", "rw"), "warn", "gone with the container"),
        (Mount("/", "xfs", "rw,nobarrier"), "warn", "without barriers"),
        (None, "note", "cannot be found out"),
    ],
)
def test_kinds_of_disks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mount: Mount | None, severity: str, words: str
) -> None:
    monkeypatch.setattr(disk, "mount_of", lambda folder, mounts: mount)
    site = make_site(tmp_path)
    assert said(found(site, disk_checks(site)), words) == [severity]


def test_syncs_are_measured_and_nothing_is_left(tmp_path: Path) -> None:
    ticks = iter(float(number) for number in range(1000))
    took = sync_times(tmp_path, lambda: next(ticks))
    assert took == [1.0] * 40
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("took", "severity"),
    [([0.002] * 40, "ok"), ([0.03] * 40, "note"), ([0.001] * 30 + [0.5] * 10, "warn"), ([0.000001] * 40, "warn")],
)
def test_what_syncs_mean(took: list[float], severity: str) -> None:
    notes = Notes("disk", "x")
    judge_syncs(took, notes)
    assert [one.severity for one in notes.found] == [severity]


@pytest.mark.parametrize(
    ("error", "severity", "words"),
    [
        (OSError(errno.EROFS, "Read-only file system"), "fail", "nothing can be written there: Read-only"),
        (PermissionError(errno.EACCES, "Permission denied"), "warn", "not checked: Permission denied"),
        (FileNotFoundError(errno.ENOENT, "No such file"), "note", "does not exist yet"),
    ],
)
def test_a_folder_that_cannot_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, severity: str, words: str
) -> None:
    def fails(folder: Path) -> list[float]:
        raise error

    monkeypatch.setattr(disk, "sync_times", fails)
    site = make_site(tmp_path)
    assert said(found(site, disk_checks(site)), words) == [severity]


@pytest.mark.parametrize(("share", "severity"), [(2.0, "fail"), (0.5, "warn"), (0.01, "ok")])
def test_room(tmp_path: Path, share: float, severity: str) -> None:
    disk_of = os.statvfs(tmp_path)
    free = disk_of.f_bavail * disk_of.f_frsize
    site = make_site(tmp_path, spool={"min_free": f"{int(free * share) // 1024}KiB"})
    told = [one for one in found(site, disk_checks(site)) if "free" in one.says]
    assert [one.severity for one in told] == [severity]


# -- The clock


@pytest.mark.parametrize(
    ("kept", "severity", "words"),
    [
        (Kept(is_kept=True, error=1000), "ok", "something keeps the clock"),
        (Kept(is_kept=True, error=5_000_000), "warn", "5 s wrong"),
        (Kept(is_kept=False), "warn", "nothing keeps the clock"),
        (None, "note", "cannot be found out"),
    ],
)
def test_the_kernels_word(kept: Kept | None, severity: str, words: str) -> None:
    notes = Notes("clock", "clock")
    judge_clock(2000.0, kept, 1000.0, notes)
    assert [(one.severity, words in one.says) for one in notes.found] == [(severity, True)]


def test_a_clock_behind_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_clock, "kernel_says", lambda: Kept(is_kept=True))
    site = make_site(tmp_path, now=1000.0)  # our own files are younger
    assert said(found(site, clock_checks(site)), "what was written before is younger") == ["fail"]


def test_the_kernel_can_be_asked() -> None:
    kept = kernel_says()
    assert kept is None or kept.error >= 0


# -- Files


def files(tmp_path: Path, **more: Any) -> list[Diagnosis]:
    (tmp_path / "mailgate.toml").touch()
    site = make_site(tmp_path, **more)
    return found(site, file_checks(site))


def test_a_state_directory_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o700)
    assert {one.severity for one in files(tmp_path)} == {"ok"}


def test_one_that_others_may_look_into(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(0o755)
    assert said(files(tmp_path), "has mode 0755") == ["warn"]


def test_one_that_is_not_there_yet(tmp_path: Path) -> None:
    assert said(files(tmp_path), "does not exist yet") == ["ok"]


@pytest.mark.parametrize("odd", ["below a file", "a link to nowhere"])
def test_one_that_there_cannot_be_is_said_so_once(tmp_path: Path, odd: str) -> None:
    if odd == "below a file":
        (tmp_path / "file").touch()
        folder = tmp_path / "file" / "state"
    else:
        folder = tmp_path / "state"
        folder.symlink_to(tmp_path / "nowhere")
    gateway = {"hostname": "gw.example.org", "state_dir": str(folder)}
    site = make_site(tmp_path, gateway=gateway)
    told = [one for one in found(site, [*file_checks(site), *disk_checks(site)]) if one.subject == str(folder)]
    assert [(one.area, one.severity) for one in told] == [("disk", "note"), ("files", "fail")]
    assert "the gateway cannot start" in told[1].says
    assert obstacle(tmp_path) == obstacle(tmp_path / "not" / "yet") == ""


def test_what_we_measure_with_is_no_strangers_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "state" / "doctor-abc").touch()
    real = Path.lstat
    monkeypatch.setattr(
        Path, "lstat", lambda path: os.stat_result([*list(real(path))[:4], 12345, *list(real(path))[5:]])
    )
    assert {one.severity for one in files(tmp_path)} == {"ok"}


def test_a_maildir_below_a_folder_that_nobody_may_look_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hidden(path: Path) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "exists", hidden)
    routes = {"inside": {"transport": "maildir", "path": str(tmp_path / "mail" / "{domain}" / "{local_part}")}}
    assert said(files(tmp_path, routes=routes, routing={}), f"can write to {tmp_path}") == ["ok"]


def test_files_of_others_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "state" / "counters.db").touch()
    real = Path.lstat

    def lstat(path: Path) -> os.stat_result:
        values = list(real(path))
        values[4] = 12345  # st_uid
        return os.stat_result(values)

    monkeypatch.setattr(Path, "lstat", lstat)
    told = [one for one in files(tmp_path) if one.severity == "fail"]
    assert [(one.subject.endswith("counters.db"), "belongs to 12345" in one.says) for one in told] == [(True, True)]


def test_a_configuration_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert said(files(tmp_path), "a reload keeps the old configuration") == ["warn"]


def test_a_maildir_that_nobody_can_write_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    routes = {"inside": {"transport": "maildir", "path": str(tmp_path / "mail" / "{domain}" / "{local_part}")}}
    assert said(files(tmp_path, routes=routes, routing={}), f"can write to {tmp_path}") == ["ok"]
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    assert said(files(tmp_path, routes=routes, routing={}), f"cannot write to {tmp_path}: mail waits") == ["fail"]


# -- Ports


def ports(tmp_path: Path, binds: dict[tuple[str, int], int], *, runs: bool = False) -> list[Diagnosis]:
    site = make_site(tmp_path, more={"binds": binds})
    control = str(tmp_path / "state" / "control")
    return found(site, port_checks(site), Network({control: Host()} if runs else {}))


@pytest.mark.parametrize(
    ("problem", "runs", "severity", "words"),
    [
        (0, False, "ok", "is free for the gateway"),
        (0, True, "ok", "which runs without it"),
        (errno.EADDRINUSE, True, "ok", "and the gateway runs"),
        (errno.EADDRINUSE, False, "fail", "another program has it"),
        (errno.EACCES, False, "note", "may not listen there"),
        (errno.EACCES, True, "ok", "the gateway runs"),
        (errno.EADDRNOTAVAIL, False, "fail", "does not have the address"),
        (errno.EMFILE, False, "warn", "cannot be listened on"),
    ],
)
def test_what_a_port_says(tmp_path: Path, problem: int, runs: bool, severity: str, words: str) -> None:
    assert said(ports(tmp_path, {("", 25): problem}, runs=runs), words) == [severity]


def test_ports_are_tried(tmp_path: Path) -> None:
    with socket.socket() as taken, socket.socket() as other:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        other.bind(("127.0.0.1", 0))
        used, free = taken.getsockname()[1], other.getsockname()[1]
        other.close()
        endpoints = [f"tcp:{used}:interface=127.0.0.1", f"tcp:{free}:interface=127.0.0.1", "unix:/run/x"]
        site = make_site(tmp_path, listeners=[{"name": "mx", "endpoints": endpoints, "pipeline": "in"}])
        assert try_ports(site.config) == {("127.0.0.1", used): errno.EADDRINUSE, ("127.0.0.1", free): 0}


def test_a_socket_needs_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    milter = {"front": {"endpoints": [f"unix:{folder}/milter:mode=666"], "pipeline": "in"}}
    site = make_site(tmp_path, milters=milter)

    def severity(words: str) -> list[str]:
        return said(found(site, port_checks(site)), words)

    assert severity(f"there is no {folder}: the gateway cannot start") == ["fail"]
    folder.mkdir()
    assert severity("can be made") == ["ok"]
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert severity(f"may not make anything in {folder}") == ["warn"]


def test_connections_of_services_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda what: (10, 5000))
    milter = {"front": {"endpoints": ["tcp:8891"], "pipeline": "in", "max_connections": 5000}}
    site = make_site(tmp_path, milters=milter)
    assert said(found(site, port_checks(site)), "listeners and services take") == ["warn"]


@pytest.mark.parametrize(("hard", "severity"), [(100, "warn"), (5000, "note"), (1_000_000, "ok")])
def test_open_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hard: int, severity: str) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda what: (10, hard))
    assert said(ports(tmp_path, {}), "files may be open") == [severity]
