"""A sync stands between the last octet of content that is read and the 250 that is written, seen by strace."""

from __future__ import annotations

import re
import smtplib
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


@pytest.mark.parametrize("size", [1_000, 400_000], ids=["in the database", "in a file"])
def test_a_sync_stands_before_the_250(base: Path, size: int) -> None:
    port = free_port()
    trace = base / "strace.out"
    text = configuration(port, ROUTES.format(port=free_port()), domains={"sync.test": "nowhere"})
    gateway = Gateway(base / "gateway", text, [port])
    gateway.wrapper = [
        *(program("strace"), "-f", "-y", "-s", "64", "-o", str(trace)),
        *(
            "-e",
            "trace=read,recvfrom,recvmsg,write,writev,sendto,sendmsg,fsync,fdatasync,rename,renameat,renameat2",
        ),
    ]
    mark = b"the-last-line-of-the-content"
    with gateway, smtplib.SMTP("127.0.0.1", port) as client:
        client.ehlo("client.test")
        code, text_ = client.mail("x@client.test")
        assert code == 250, text_
        assert client.rcpt("to@sync.test")[0] == 250
        assert client.data(b"Subject: sync\r\n\r\n" + b"x" * 70 + b"\r\n" * (size // 2) + mark + b"\r\n")[0] == 250
    lines = trace.read_text(errors="replace").splitlines()
    said = next(index for index, line in enumerate(lines) if "250 2.0.0 queued as" in line)
    socket = re.search(r"\((\d+)<", lines[said])
    assert socket is not None
    reads = [
        index
        for index, line in enumerate(lines[:said])
        if re.search(rf"(read|recvfrom|recvmsg)\({socket[1]}<", line) and not line.endswith("= 0")
    ]
    syncs = [
        line
        for line in lines[reads[-1] : said]
        if re.search(r"(fsync|fdatasync)", line) and ("= 0" in line or "resumed" in line)
    ]
    print("\n".join([lines[reads[-1]], *syncs, lines[said]]))
    assert any("spool.db" in line or "-wal" in line or "resumed" in line for line in syncs), syncs
    if size > 100_000:
        assert any("incoming" in line or "content" in line for line in syncs), syncs
