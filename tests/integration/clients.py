"""Real clients, each run to its end: swaks, and the client of OpenSSL."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from parts import program

__all__ = ["run", "s_client", "swaks"]


def run(command: Sequence[str], said: str = "", *, seconds: float = 60.0) -> subprocess.CompletedProcess[str]:
    """A program with this on its standard input, run to its end, which it has to reach within `seconds`."""
    return subprocess.run(  # noqa: S603  programs of the test's own choice
        command, input=said, capture_output=True, text=True, errors="replace", timeout=seconds, check=False
    )


def swaks(port: int, *options: str, host: str = "127.0.0.1") -> subprocess.CompletedProcess[str]:
    """One mail by swaks, whose exit status is 0 where it was taken; the dialogue is its output."""
    return run([program("swaks"), "--server", f"{host}:{port}", "--ehlo", "client.test", *options])


def s_client(port: int, *options: str, said: str = "QUIT\r\n") -> str:
    """What `openssl s_client` tells of its connection, with what the server says to `said`."""
    command = [program("openssl"), "s_client", "-connect", f"127.0.0.1:{port}", "-ign_eof", "-nocommands", *options]
    done = run(command, said)
    return done.stdout + done.stderr
