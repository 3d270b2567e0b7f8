"""haproxy, as it stands in front of mail servers."""

from __future__ import annotations

import csv
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from parts import Part, free_port, program

__all__ = ["Haproxy", "Way"]


@dataclass(frozen=True)
class Way:
    """From a door of haproxy's to `port`: the options of its `server` line (send-proxy...) and of its `bind` line (ssl
    crt ...), and one more line of its backend."""

    port: int
    server: str = ""
    bind: str = ""
    more: str = ""


class Haproxy(Part):
    """haproxy in TCP mode; `doors` are the ports at which it takes connections for `ways`, by the same names."""

    name = "haproxy"

    def __init__(self, directory: Path, ways: Mapping[str, Way]) -> None:
        super().__init__(directory)
        self.ways = ways
        self.doors = {name: free_port() for name in ways}

    def prepare(self) -> Sequence[str]:
        sections = [
            f"global\n  stats socket {self._socket}\n"
            "defaults\n  mode tcp\n  timeout connect 3s\n  timeout client 30s\n  timeout server 30s\n"
        ]
        sections += [
            f"frontend {name}\n  bind 127.0.0.1:{self.doors[name]} {way.bind}\n  default_backend {name}\n"
            f"backend {name}\n  {way.more}\n  server gateway 127.0.0.1:{way.port} {way.server}\n"
            for name, way in self.ways.items()
        ]
        file = self.directory / "haproxy.cfg"
        file.write_text("".join(sections))
        return [program("haproxy"), "-db", "-f", str(file)]

    def is_ready(self) -> bool:
        try:
            return bool(self._stat())
        except OSError:
            return False

    def health(self, way: str) -> tuple[str, str]:
        """How the server of a way is ("UP", "DOWN 1/2"...), and how its last check ended ("L4OK", "L7OK"...)."""
        (line,) = [one for one in self._stat() if one["# pxname"] == way and one["svname"] == "gateway"]
        return line["status"], line["check_status"]

    @property
    def _socket(self) -> Path:
        return self.directory / "admin"

    def _stat(self) -> list[dict[str, str]]:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(str(self._socket))
            connection.sendall(b"show stat\n")
            with connection.makefile() as lines:
                return list(csv.DictReader(lines))
