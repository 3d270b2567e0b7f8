"""A real PostgreSQL."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg
from parts import Part, free_port, program

__all__ = ["PASSWORD", "Postgresql"]

PASSWORD = "of the gateway"  # noqa: S105  nobody's


class Postgresql(Part):
    """PostgreSQL on a loopback port, with the superuser `postgres`, who has PASSWORD."""

    name = "postgres"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.port = free_port()

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(self.url, password=PASSWORD, autocommit=True, connect_timeout=2)

    def prepare(self) -> Sequence[str]:
        data, word = self.directory / "data", self.directory / "word"
        word.write_text(PASSWORD)
        for path in (self.directory, word):
            shutil.chown(path, "postgres")
        arguments = [
            "-D",
            str(data),
            "-A",
            "scram-sha-256",
            "-U",
            "postgres",
            f"--pwfile={word}",
            "--no-sync",
            "-E",
            "UTF8",
        ]
        subprocess.run([program("initdb"), *arguments], user="postgres", check=True, capture_output=True)  # noqa: S603
        settings = ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-k", str(self.directory)]
        server = [program("postgres"), "-D", str(data), "-p", str(self.port), *settings]
        return [program("setpriv"), "--reuid=postgres", "--regid=postgres", "--clear-groups", *server]

    def is_ready(self) -> bool:
        try:
            self.connect().close()
        except psycopg.Error:
            return False
        return True
