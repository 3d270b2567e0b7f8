"""mailgate, and Postfix with milters, in front of the same clamd and the same rspamd."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from parts import Gateway, Part, Postfix, Sink, free_port, listens, program
from scanner_parts import Clamd, Rspamd

from bench.processor import processor_of
from bench.systems import configuration

__all__ = ["NEEDED", "WORKERS", "Scanned", "Scanners", "start"]

#: The programs, beside those that every bench needs.
NEEDED = ("clamd", "clamav-milter", "rspamd")

#: rspamd's scanning processes for each of the two: "normal" for mailgate, "proxy" for Postfix.
WORKERS = 2

#: Everybody asks by unix sockets but for rspamd's HTTP, which is asked over TCP as by default.
_SCANNERS = """
[filters.clamav]
servers = ["unix:{clamd}"]

[filters.rspamd]
servers = ["{rspamd}"]
"""


class _Clamd(Clamd):
    """As Debian sets it up, but that it looks at everything and logs it: it remembers no content that was clean."""

    def __init__(self, directory: Path, temporary: Path) -> None:
        super().__init__(directory)
        self._temporary = temporary

    def prepare(self) -> Sequence[str]:
        command = super().prepare()
        file = self.directory / "clamd.conf"
        own = f"MaxThreads 12\nLogClean yes\nLogFileMaxSize 0\nDisableCache yes\nTemporaryDirectory {self._temporary}\n"
        file.write_text(file.read_text().replace("MaxThreads 4\n", own))
        return command

    @property
    def scanned(self) -> int:
        """How many contents it has found to be clean."""
        return (self.directory / "clamd.log").read_bytes().count(b": OK\n")


class _Rspamd(Rspamd):
    """With its proxy, which speaks milter and looks at messages itself, and its controller, which counts."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.milter_socket = directory / "data" / "milter.sock"
        self.controller_port = free_port()

    def prepare(self) -> Sequence[str]:
        command = super().prepare()
        texts = {
            "normal": f'bind_socket = "127.0.0.1:{self.port}";\ncount = {WORKERS};\n',
            "proxy": f'bind_socket = "{self.milter_socket} mode=0666";\ncount = {WORKERS};\nmilter = yes;\n'
            'timeout = 120s;\nupstream "local" { default = yes; self_scan = yes; }\n',
            "controller": f'bind_socket = "127.0.0.1:{self.controller_port}";\nsecure_ip = "127.0.0.1";\n',
        }
        for worker, text in texts.items():
            (self.directory / "conf" / "local.d" / f"worker-{worker}.inc").write_text(text)
        return command

    def is_ready(self) -> bool:
        return super().is_ready() and self.milter_socket.is_socket() and listens(self.controller_port)

    @property
    def scanned(self) -> int:
        """How many messages all its workers have judged."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.controller_port}/stat", timeout=10) as response:
            return int(json.load(response)["scanned"])


class _ClamavMilter(Part):
    """ClamAV's own milter, which hands each message to clamd as a descriptor of its file."""

    name = "clamav-milter"

    def __init__(self, directory: Path, clamd: Path, temporary: Path) -> None:
        super().__init__(directory)
        self.socket = directory / "milter.sock"
        self._clamd = clamd
        self._temporary = temporary

    def prepare(self) -> Sequence[str]:
        file = self.directory / "clamav-milter.conf"
        file.write_text(
            f"MilterSocket unix:{self.socket}\nMilterSocketMode 666\nClamdSocket unix:{self._clamd}\nForeground yes\n"
            f"OnClean Accept\nOnInfected Reject\nOnFail Defer\nAddHeader No\nTemporaryDirectory {self._temporary}\n"
        )
        return [program("clamav-milter"), "-c", str(file)]

    def is_ready(self) -> bool:
        return self.socket.is_socket()


@dataclass(frozen=True)
class Scanners:
    """The two scanners, which everybody asks."""

    clamd: _Clamd
    rspamd: _Rspamd

    def counts(self) -> tuple[int, int]:
        """How many messages each has looked at."""
        return self.clamd.scanned, self.rspamd.scanned

    def processor(self) -> tuple[float, float]:
        """The seconds that each has taken."""
        return processor_of(self.clamd.pid), processor_of(self.rspamd.pid)


@dataclass(frozen=True)
class Scanned:
    """A system that asks both scanners about each message; `parts` are its own programs."""

    name: str
    port: int
    parts: tuple[Part, ...]

    def processor(self) -> float:
        """The seconds that its programs have taken."""
        return sum(processor_of(part.pid) for part in self.parts)


def start(base: Path, sink: Sink, stack: ExitStack) -> tuple[Scanners, list[Scanned]]:
    """Start everything below `base`, until `stack` is closed; mailgate first.

    clamd and its milter write each message to a file first: in memory, where there is such a file system, since beside
    the queues on a disk it would be the journal of that disk that is measured.
    """
    memory = Path("/dev/shm")  # noqa: S108  a folder of its own in it
    temporary = Path(stack.enter_context(TemporaryDirectory(dir=memory if memory.is_dir() else base)))
    clamd = stack.enter_context(_Clamd(base / "clamd", temporary))
    rspamd = stack.enter_context(_Rspamd(base / "rspamd"))
    port = free_port()
    text = configuration(port, sink, scanners=["clamav", "rspamd"])
    text += _SCANNERS.format(clamd=clamd.socket, rspamd=rspamd.server)
    mailgate = stack.enter_context(Gateway(base / "mailgate", text, [port]))
    milter = stack.enter_context(_ClamavMilter(base / "clamav-milter", clamd.socket, temporary))
    settings = {
        "smtpd_milters": f"unix:{rspamd.milter_socket}, unix:{milter.socket}",
        "milter_default_action": "tempfail",
    }
    postfix = stack.enter_context(Postfix(base / "postfix", relay_port=sink.port, settings=settings))
    return Scanners(clamd, rspamd), [
        Scanned("mailgate", port, (mailgate,)),
        Scanned("postfix", postfix.port, (postfix, milter)),
    ]
