"""The real parts that integration tests and the bench start: each in a folder of its own, on free loopback ports.

A part is a context manager. It is stopped by the pid that was started here, and what it printed stays in its
folder. Parts that are not installed are named by `missing`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

__all__ = [
    "Gateway",
    "Part",
    "Postfix",
    "Sink",
    "children_of",
    "end_all_in",
    "folder",
    "free_port",
    "free_ports",
    "greets",
    "is_accepted",
    "is_alive",
    "listens",
    "memory_of",
    "missing",
    "program",
    "wait_until",
    "without_strict_orders",
]

#: Where Debian puts daemons that are not on an ordinary user's path.
_POSTGRESQL = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)
_PATH = ":".join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin", "/usr/local/sbin", *_POSTGRESQL])


def missing(*programs: str) -> list[str]:
    """Those of the programs that are not installed."""
    return [program for program in programs if shutil.which(program, path=_PATH) is None]


def program(name: str) -> str:
    """The full path of an installed program; FileNotFoundError where it is none."""
    found = shutil.which(name, path=_PATH)
    if found is None:
        raise FileNotFoundError(f"{name} is not installed")
    return found


# Servers get ports below those that the kernel gives to clients (from 32768): between the choice and the start of the
# server, a connection going out could otherwise take the port. Test processes side by side share them out.
_SERVER_PORTS = range(
    10_000 + int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")),
    32_768,
    int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")),
)
_next_ports = itertools.islice(itertools.cycle(_SERVER_PORTS), random.randrange(len(_SERVER_PORTS)), None)


def free_port() -> int:
    """A loopback port that nobody uses now, and that this process has not given out before."""
    return next(port for port in _next_ports if _is_free(port))


def free_ports(number: int) -> list[int]:
    """Different loopback ports that nobody uses now."""
    return [free_port() for _ in range(number)]


def _is_free(port: int) -> bool:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return False
    return True


@contextlib.contextmanager
def folder(prefix: str) -> Iterator[Path]:
    """A folder that daemons with users of their own may enter; removed at the end."""
    path = Path(tempfile.mkdtemp(prefix=f"mailgate-{prefix}-"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def end_all_in(path: Path, seconds: float = 60.0) -> list[int]:
    """Kill every process whose command names something in this folder, daemons and their children too; which ones.

    They are asked for again until none is left: one that is replaced has a new process.
    """
    mark, killed, end = f"{path}/".encode(), set(), time.monotonic() + seconds
    while found := _processes(mark):
        if time.monotonic() > end:
            raise AssertionError(f"they do not end: {found}")
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        killed.update(found)
        time.sleep(0.02)
    return sorted(killed)


def _processes(mark: bytes) -> list[int]:
    """Those whose command has this in it; one that is dead and waits for its parent has none."""
    found = []
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if mark in command.read_bytes():
                found.append(int(command.parent.name))
    return [pid for pid in found if pid != os.getpid()]


def children_of(pid: int) -> list[int]:
    """The processes that it has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    """Whether it runs; one that is dead and waits for its parent does not."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    return False


def wait_until(check: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    """Poll until `check` holds; AssertionError with `what` after `seconds` (a bound, not a measure)."""
    end = time.monotonic() + seconds
    while not check():
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.02)


def is_accepted(client: socket.socket) -> bool:
    """Whether the server at the other end, which is on this machine, has it; until then no file of a process is it."""
    (_, ours), (_, theirs) = client.getsockname(), client.getpeername()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, _, _, _, _, _, inode, *_ = line.split()
        if local.endswith(f":{theirs:04X}") and remote.endswith(f":{ours:04X}"):
            return inode != "0"
    return False


def greets(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server there says 220."""
    try:
        with socket.create_connection((host, port), 2) as connection:
            return connection.recv(4) == b"220 "
    except OSError:
        return False


def listens(port: int) -> bool:
    """Whether a server there takes connections."""
    try:
        with socket.create_connection(("127.0.0.1", port), 2):
            return True
    except OSError:
        return False


def without_strict_orders(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment in which a program of ours runs as it does anywhere else.

    ZOPE_INTERFACE_STRICT_IRO, under which the tests run, is for classes of ours. With it Twisted's own client of TLS
    from the first octet hangs: on each connection twisted.protocols.policies.ProtocolWrapper.makeConnection declares
    that a tls.BufferingTLSTransport provides all that its tcp.Client does, and these two have ISystemHandle and
    ITCPTransport in opposite orders.
    """
    return {name: value for name, value in environment.items() if name != "ZOPE_INTERFACE_STRICT_IRO"}


class Part:
    """One process: `command` is started on entry, awaited until `is_ready`, and ended on exit."""

    name = "part"
    ready_seconds = 60.0

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True, exist_ok=True)

    @property
    def pid(self) -> int:
        """The process that was started."""
        assert self.process is not None
        return self.process.pid

    @property
    def log(self) -> Path:
        """What it printed."""
        return self.directory / f"{self.name}.out"

    def prepare(self) -> Sequence[str]:
        """Write what it needs; the command to run."""
        raise NotImplementedError

    def is_ready(self) -> bool:
        """Whether it serves."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """Its environment."""
        return {**os.environ, "PATH": _PATH}

    def start(self) -> None:
        """Start it, and wait until it serves."""
        self.begin()
        wait_until(lambda: self._exited() or self.is_ready(), f"{self.name} serves", self.ready_seconds)
        if self._exited():
            raise AssertionError(f"{self.name} ended:\n{self.log.read_text(errors='replace')[-2000:]}")

    def begin(self) -> None:
        """Start it."""
        command = self.prepare()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603  commands of our own
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment(),
                cwd=self.directory,
            )

    def stop(self, with_signal: int = signal.SIGTERM, seconds: float = 60.0) -> int:
        """End it; its exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(with_signal)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"{self.name} did not end within {seconds:.0f} s") from None

    def _exited(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process is not None:
            self.stop()


class Gateway(Part):
    """mailgate itself, under twistd, with this configuration (text of a mailgate.toml)."""

    name = "mailgate"

    def __init__(self, directory: Path, configuration: str, ports: Sequence[int], *arguments: str) -> None:
        super().__init__(directory)
        self.file = directory / "mailgate.toml"
        self.file.write_text(configuration)
        self.ports = ports
        self.arguments = arguments
        self.wrapper: Sequence[str] = ()

    def prepare(self) -> Sequence[str]:
        twistd = str(Path(sys.executable).with_name("twistd"))
        return [*self.wrapper, twistd, "-n", "--pidfile=", *self.arguments, "mailgate", "--config", str(self.file)]

    def environment(self) -> dict[str, str]:
        return without_strict_orders(super().environment())

    def is_ready(self) -> bool:
        return all(greets(port) for port in self.ports)

    def stop(self, with_signal: int = signal.SIGTERM, seconds: float = 60.0) -> int:
        # A wrapper such as strace keeps signals to itself: the gateway is its only child.
        assert self.process is not None
        if self.wrapper and self.process.poll() is None:
            for child in children_of(self.pid):
                os.kill(child, with_signal)
            return self.process.wait(seconds)
        status = super().stop(with_signal, seconds)
        # When everything is closed, twistd ends by the signal that it was sent.
        return 0 if status == -signal.SIGTERM else status

    def command(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the `mailgate` command on this gateway's configuration."""
        return subprocess.run(  # noqa: S603
            [str(Path(sys.executable).with_name("mailgate")), *arguments, "--config", str(self.file)],
            capture_output=True,
            text=True,
            timeout=60,
            check=check,
        )

    def events(self, name: str) -> list[dict[str, Any]]:
        """Those of one kind in its log."""
        return [one for one in self.logged() if one["event"] == name]

    def logged(self, text: str = "") -> list[dict[str, Any]]:
        """The lines of its log with this text, but one that is not whole yet."""
        log = self.directory / "state" / "mailgate.log"
        whole = log.read_text(errors="replace").rpartition("\n")[0] if log.exists() else ""
        return [json.loads(line) for line in whole.splitlines() if text in line]


class Sink(Part):
    """Postfix's smtp-sink: takes everything, and counts."""

    name = "smtp-sink"

    def __init__(self, directory: Path, *options: str, port: int | None = None) -> None:
        super().__init__(directory)
        self.port = port or free_port()
        self.options = options

    def prepare(self) -> Sequence[str]:
        user = []
        if os.getuid() == 0:  # then it insists on another user, who writes what `-D` asks for
            shutil.chown(self.directory, "nobody")
            user = ["-u", "nobody"]
        return [program("smtp-sink"), *user, "-c", *self.options, f"127.0.0.1:{self.port}", "1000"]

    def is_ready(self) -> bool:
        return greets(self.port)

    @property
    def messages(self) -> int:
        """How many it has taken: its last counter line is "mesg=N"."""
        with self.log.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 4096))
            return _last_count(log.read())


def _last_count(output: bytes) -> int:
    _, found, behind = output.rpartition(b"mesg=")
    return int(behind.split()[0]) if found and behind.split() else 0


class Postfix(Part):
    """A private Postfix.

    With `relay_port`, everything goes on by SMTP to that loopback port; without, mail for `users` (local parts
    at `domain`; others are refused at RCPT) goes into Maildirs under `mail/LOCALPART/`. `settings` are more lines of
    main.cf. `doors` are more ports, `transports` more ways to send, each by its name with settings of its own.
    """

    name = "postfix"

    def __init__(
        self,
        directory: Path,
        users: Sequence[str] = (),
        *,
        domain: str = "postfix.test",
        relay_port: int | None = None,
        settings: Mapping[str, object] = MappingProxyType({}),
        doors: Mapping[str, Mapping[str, object]] = MappingProxyType({}),
        transports: Mapping[str, Mapping[str, object]] = MappingProxyType({}),
    ) -> None:
        super().__init__(directory)
        self.port = free_port()
        self.ports = {name: free_port() for name in doors}
        self._settings = settings
        self._doors = doors
        self._transports = transports
        self.domain = domain
        self.users = users
        self.relay_port = relay_port
        self.mail = directory / "mail"

    def prepare(self) -> Sequence[str]:
        configuration, queue, data = (self.directory / part for part in ("conf", "queue", "data"))
        for path in (configuration, queue, data, self.mail):
            path.mkdir(exist_ok=True)
        shutil.chown(data, "postfix")
        shutil.chown(self.mail, "nobody")
        settings: dict[str, object] = {
            "compatibility_level": "3.6",
            "queue_directory": queue,
            "data_directory": data,
            "mail_owner": "postfix",
            "setgid_group": "postdrop",
            "myhostname": f"mx.{self.domain}",
            "mydestination": "",
            "inet_interfaces": "127.0.0.1",
            "inet_protocols": "ipv4",
            "mynetworks": "127.0.0.0/8",
            "local_recipient_maps": "",
            "alias_maps": "",
            "alias_database": "",
            "smtpd_peername_lookup": "no",
            "smtp_dns_support_level": "disabled",
            "smtp_host_lookup": "native",
            "maillog_file": "/dev/stdout",
            "smtpd_client_connection_count_limit": "0",
            "smtpd_client_connection_rate_limit": "0",
            "notify_classes": "",
        }
        if self.relay_port is not None:
            settings["relayhost"] = f"[127.0.0.1]:{self.relay_port}"
        else:
            number = str(_uid("nobody"))
            settings |= {
                "virtual_mailbox_domains": self.domain,
                "virtual_mailbox_base": self.mail,
                "virtual_mailbox_maps": f"texthash:{configuration / 'boxes'}",
                "virtual_minimum_uid": "1",
                "virtual_uid_maps": f"static:{number}",
                "virtual_gid_maps": f"static:{number}",
            }
            boxes = "".join(f"{user}@{self.domain} {user}/\n" for user in self.users)
            (configuration / "boxes").write_text(boxes)
        settings |= self._settings
        (configuration / "main.cf").write_text("".join(f"{key} = {value}\n" for key, value in settings.items()))
        doors = [(self.port, {}), *((self.ports[name], own) for name, own in self._doors.items())]
        services = [_MASTER, *(_service(f"127.0.0.1:{port} inet n - n - 200 smtpd", own) for port, own in doors)]
        services += [_service(f"{name} unix - - n - - smtp", own) for name, own in self._transports.items()]
        (configuration / "master.cf").write_text("".join(services))
        return [program("postfix"), "-c", str(configuration), "start-fg"]

    def is_ready(self) -> bool:
        return greets(self.port)

    def sendmail(self, *arguments: str, content: str) -> None:
        """Hand it a mail by its own `sendmail`."""
        subprocess.run(  # noqa: S603
            [program("sendmail"), "-C", str(self.directory / "conf"), *arguments],
            input=content,
            text=True,
            timeout=60,
            check=True,
        )

    def stop(self, with_signal: int = signal.SIGTERM, seconds: float = 60.0) -> int:
        # `postfix start-fg` becomes master: its own pid file tells the process to end.
        pid_file = self.directory / "queue" / "pid" / "master.pid"
        if pid_file.exists():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid_file.read_text()), with_signal)
        return super().stop(with_signal, seconds)


def _service(line: str, settings: Mapping[str, object]) -> str:
    """An entry of master.cf."""
    return "\n".join([line, *(f"  -o {{ {key} = {value} }}" for key, value in settings.items()), ""])


_MASTER = """\
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
virtual unix - n n - - virtual
lmtp unix - - n - - lmtp
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""


def memory_of(pid: int) -> int:
    """What a process and everything below it hold, in octets, shared pages counted once (PSS)."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(") ")[2].split()
            children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    total, waiting = 0, [pid]
    while waiting:
        one = waiting.pop()
        waiting.extend(children.get(one, []))
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{one}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total


def _uid(user: str) -> int:
    return pwd.getpwnam(user).pw_uid
