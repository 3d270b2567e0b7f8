"""The disk of the state directory: how long a sync takes, what room there is, and whether a message outlives a reboot
there."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mailgate.config.units import format_size
from mailgate.doctor.diagnosis import Check, Notes
from mailgate.doctor.site import Site

__all__ = ["MEASURE", "Mount", "disk_checks", "judge_syncs", "mount_of", "obstacle", "sync_times"]

#: Syncs that are measured, and octets of each write: a small message.
_SYNCS, _OCTETS = 40, 8192
#: What the file's name begins with that syncs are measured with.
MEASURE = "doctor-"
#: Seconds of a sync from which on it is slow, and hopeless; below the last no disk has done it.
_SLOW, _HOPELESS, _UNBELIEVABLE = 0.02, 0.2, 0.000_02

#: File systems that forget at a reboot, and on which SQLite's locks, or syncs, are not to be trusted.
_FORGETS = frozenset({"tmpfs", "ramfs", "devtmpfs", "proc", "sysfs"})
_REMOTE = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "fuse.sshfs", "fuse.s3fs", "glusterfs"}
)


@dataclass(frozen=True, slots=True)
class Mount:
    """What a folder lies on."""

    point: str
    kind: str
    options: str = ""


def disk_checks(site: Site) -> Iterator[Check]:
    """Speed, room and kind."""
    folder = site.config.gateway.state_dir
    yield Check("disk", str(folder), partial(_kind, site, folder))
    yield Check("disk", str(folder), partial(_room, site, folder))
    yield Check("disk", str(folder), partial(_speed, site, folder), 60.0)


def obstacle(folder: Path) -> str:
    """Why there cannot be such a folder, whoever wants it; "" where there is one, or can be one."""
    there = next((one for one in (folder, *folder.parents) if os.path.lexists(one)), folder)
    if os.path.isdir(there) or not os.path.lexists(there):
        return ""
    if os.path.exists(there):
        return f"{there} is no folder"
    return f"{there} is a link to what does not exist" if there.is_symlink() else ""


def sync_times(folder: Path, clock: Callable[[], float] = time.perf_counter) -> list[float]:
    """Seconds that each of some writes took to be durable, in order of length; in a file that is gone then. Blocks;
    OSError."""
    took: list[float] = []
    block = os.urandom(_OCTETS)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=MEASURE) as file:
        for _ in range(_SYNCS):
            began = clock()
            file.write(block)
            file.flush()
            os.fsync(file.fileno())
            took.append(clock() - began)
    return sorted(took)


def judge_syncs(took: Sequence[float], notes: Notes) -> None:
    """Say what that means for mail; `took` in order."""
    median, slow = took[len(took) // 2], took[int(len(took) * 0.95)]
    told = f"a sync takes {median * 1000:.2f} ms (median), {slow * 1000:.2f} ms (19 of 20)"
    if median < _UNBELIEVABLE:
        text = f"{told}: no disk is that fast, so syncs do nothing, and a loss of power loses mail"
        notes.warn(text, "see the file system's options, and the cache of the disk or the virtual machine")
    elif slow > _HOPELESS:
        text = f"{told}: senders wait so long for each 250, and may give up under load"
        notes.warn(text, "put state_dir on a disk of its own, or an SSD with protection against loss of power")
    elif median > _SLOW:
        notes.note(f"{told}: messages that come at one time share a sync, so that this is enough for few senders")
    else:
        notes.ok(told)


def mount_of(folder: Path, mounts: str) -> Mount | None:
    """What `folder` (resolved) lies on, by the text of /proc/self/mountinfo (proc(5)); None where it does not say."""
    best: Mount | None = None
    for line in mounts.splitlines():
        before, separator, behind = line.partition(" - ")
        fields, kinds = before.split(), behind.split()
        if not separator or len(fields) < 6 or not kinds:
            continue
        point = fields[4].encode().decode("unicode_escape")
        inside = folder == Path(point) or Path(point) in folder.parents
        if inside and (best is None or len(point) >= len(best.point)):  # a later one covers one before
            best = Mount(point, kinds[0], ",".join([fields[5], *kinds[2:3]]))
    return best


async def _kind(site: Site, folder: Path, notes: Notes) -> None:
    def read() -> Mount | None:
        return mount_of(folder.resolve(), Path("/proc/self/mountinfo").read_text("utf-8", "replace"))

    if problem := await site.in_thread(partial(obstacle, folder)):
        notes.note(f"not checked: {problem}")
        return

    try:
        mount = await site.in_thread(read)
    except OSError:
        mount = None
    if mount is None:
        notes.note("on which file system it lies cannot be found out")
    elif mount.kind in _FORGETS:
        notes.fail(f"lies on a {mount.kind}: every message is lost with a reboot", "put gateway.state_dir on a disk")
    elif mount.kind in _REMOTE:
        text = f"lies on {mount.kind}, where locks and syncs are not to be trusted as the spool needs it"
        notes.warn(text, "put gateway.state_dir on a disk of this machine")
    elif mount.kind in ("overlay", "aufs"):
        text = f"lies on {mount.kind}, a container's own layer: what waits there is gone with the container"
        notes.warn(text, "mount a volume for gateway.state_dir")
    elif "nobarrier" in mount.options or "barrier=0" in mount.options:
        notes.warn(f"{mount.point} is mounted without barriers: a loss of power loses mail", "mount it with barriers")
    else:
        notes.ok(f"lies on {mount.kind} ({mount.point})")


async def _room(site: Site, folder: Path, notes: Notes) -> None:
    def look() -> os.statvfs_result:
        return os.statvfs(_existing(folder))

    if await site.in_thread(partial(obstacle, folder)):
        return
    try:
        found = await site.in_thread(look)
    except OSError as error:
        notes.warn(f"not checked: {error.strerror}")
        return
    free, least = found.f_bavail * found.f_frsize, site.config.spool.min_free
    if free < least:
        text = (
            f"{format_size(free)} are free, less than spool.min_free ({format_size(least)}): all mail is put off (452)"
        )
        notes.fail(text, "make room there")
    elif free < 5 * least:
        text = f"{format_size(free)} are free; below {format_size(least)} all mail is put off (452)"
        notes.warn(text, "make room there")
    elif found.f_files and found.f_favail < 10_000:
        notes.warn(f"only {found.f_favail} files more can be made there", "make room there (df -i)")
    else:
        notes.ok(f"{free / 1024**3:.1f} GiB are free")


async def _speed(site: Site, folder: Path, notes: Notes) -> None:
    if await site.in_thread(partial(obstacle, folder)):
        return
    try:
        took = await site.in_thread(partial(sync_times, folder))
    except FileNotFoundError:
        notes.note("does not exist yet: the gateway makes it; how fast its disk is cannot be measured")
        return
    except PermissionError as error:
        notes.warn(f"not checked: {error.strerror}", "run this as root, or as the gateway's user")
        return
    except OSError as error:
        text = f"nothing can be written there: {error.strerror}"
        notes.fail(text, "its owner has to be the gateway's user; run this as root or as that user")
        return
    judge_syncs(took, notes)


def _existing(folder: Path) -> Path:
    """The folder, or what it will be made in."""
    return next((one for one in (folder, *folder.parents) if os.path.exists(one)), folder)
