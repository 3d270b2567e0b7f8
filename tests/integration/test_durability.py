"""What is on the disk before the 250 is written, seen by strace: content, the names of files, the database's log."""

from __future__ import annotations

import re
import smtplib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from configurations import configuration
from parts import Gateway, free_port, program

pytestmark = pytest.mark.needs("strace")

ROUTES = """
[routes.nowhere]
transport = "smtp"
hosts = ["127.0.0.1:{port}"]
"""

#: Octets that are shown of what is written: as many as a page of the database has.
PAGE = "4096"
MARK = b"the-last-line-of-the-content"

_CALLS = (
    "read,recvfrom,recvmsg,write,writev,pwrite64,sendto,sendmsg,fsync,fdatasync,sync_file_range,"
    "openat,rename,renameat,renameat2,link,linkat"
)
_LINE = re.compile(r"(\d+) +(?:(\w+)\((.*)|<\.\.\. (\w+) resumed>(.*))")


@dataclass
class Call:
    """A call of the system: what it was given, and the numbers of the lines in which it began and ended."""

    name: str
    text: str
    began: int
    ended: int

    @property
    def is_sync(self) -> bool:
        """Whether it is a sync that has succeeded."""
        return self.name in ("fsync", "fdatasync") and self.text.rstrip().endswith("= 0")

    @property
    def path(self) -> str:
        """The file that its first argument, a descriptor, stands for."""
        found = re.match(r"\d+<([^>]*)>", self.text)
        return found[1] if found else ""


def calls(trace: str) -> Iterator[Call]:
    """The calls in the order in which they ended; those of other threads come between the halves of one."""
    begun: dict[str, Call] = {}
    for number, line in enumerate(trace.splitlines()):
        found = _LINE.match(line)
        if found is None:
            continue
        pid, name, text, resumed, rest = found.groups()
        if resumed:
            call = begun.pop(pid, Call(resumed, "", number, number))
            call.text, call.ended = call.text.removesuffix("<unfinished ...>") + rest, number
            yield call
        elif text.endswith("<unfinished ...>"):
            begun[pid] = Call(name, text, number, number)
        else:
            yield Call(name, text, number, number)


@pytest.mark.parametrize("size", [1_000, 400_000], ids=["in the database", "in a file"])
@pytest.mark.parametrize("is_first", [True, False], ids=["the first message", "a later one"])
def test_everything_is_synced_before_the_250(base: Path, size: int, is_first: bool) -> None:
    port = free_port()
    trace = base / "strace.out"
    text = configuration(port, ROUTES.format(port=free_port()), domains={"sync.test": "nowhere"})
    gateway = Gateway(base / "gateway", text, [port])
    gateway.wrapper = [program("strace"), "-f", "-y", "-s", PAGE, "-o", str(trace), "-e", f"trace={_CALLS}"]
    content = b"Subject: sync\r\n\r\n" + (b"x" * 70 + b"\r\n") * (size // 72) + MARK + b"\r\n"
    with gateway, smtplib.SMTP("127.0.0.1", port) as client:
        for _ in range(1 if is_first else 3):
            client.sendmail("x@client.test", ["to@sync.test"], content)
    found = list(calls(trace.read_text(errors="replace")))
    said = [one for one in found if "250 2.0.0 queued as" in one.text][-1]
    read = [
        one
        for one in found
        if one.ended < said.began and one.name in ("read", "recvfrom", "recvmsg") and one.path == said.path
    ][-1]
    between = [one for one in found if read.ended < one.ended and one.began < said.began]
    synced = [one for one in between if one.is_sync and one.ended < said.began]
    print("\n".join(f"{one.name}({one.text[:200]}" for one in between if one.name not in ("read", "recvfrom")))
    # The log of the database has the entry: it is written, and then synced. What becomes of the mail before it may be
    # written there in the meantime, too.
    (queue_id,) = re.findall(r"250 2.0.0 queued as (\w+)", said.text)
    written = [one for one in between if one.name == "pwrite64" and one.path.endswith("/spool.db-wal")]
    entry = next(one for one in written if f'id\\":\\"{queue_id}' in one.text)
    log = next(one for one in synced if one.path.endswith("/spool.db-wal") and one.began > entry.ended)
    if size < 100_000:
        return
    # So has the file its content, and under the name that the entry will look for, the folder the name.
    (file,) = [one for one in synced if re.search(r"/spool/(incoming|content)/[^/]+$", one.path)]
    (folder,) = [one for one in synced if one.path.endswith("/spool/content")]
    (named,) = [one for one in between if one.name.startswith(("rename", "link"))]
    last_of_it = max(one.ended for one in between if one.name.startswith(("write", "pwrite")) and one.path == file.path)
    assert last_of_it < file.began
    assert file.ended < folder.began
    assert named.ended < folder.began
    # Before the entry: what the database names is there.
    assert folder.ended < log.ended


def test_the_folder_that_holds_the_database_is_synced_when_it_is_made(base: Path) -> None:
    """A new database has to be found again: its name, and that of its folder."""
    port = free_port()
    trace = base / "strace.out"
    text = configuration(port, ROUTES.format(port=free_port()), domains={"sync.test": "nowhere"})
    gateway = Gateway(base / "gateway", text, [port])
    gateway.wrapper = [program("strace"), "-f", "-y", "-s", "64", "-o", str(trace), "-e", f"trace={_CALLS}"]
    with gateway, smtplib.SMTP("127.0.0.1", port) as client:
        client.sendmail("x@client.test", ["to@sync.test"], b"Subject: x\r\n\r\nx\r\n")
    found = list(calls(trace.read_text(errors="replace")))
    said = next(one for one in found if "250 2.0.0 queued as" in one.text)
    synced = {one.path for one in found if one.is_sync and one.ended < said.began}
    assert {path.partition("/gateway/")[2] for path in synced} >= {"state/spool", "state", "state/spool/spool.db-wal"}
