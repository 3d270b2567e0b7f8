"""Haraka as it comes, with a plugin of four lines that relays everything to the sink through its own queue."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from parts import Part, free_port, greets, program

__all__ = ["Haraka", "install"]

_PLUGIN = """\
exports.hook_rcpt = function (next, connection) { connection.relaying = true; next(OK); };
exports.hook_get_mx = function (next, hmail, domain) {
  next(OK, { exchange: '127.0.0.1', port: @PORT@, priority: 0 });
};
"""


def install(directory: Path) -> Path | None:
    """Install Haraka with npm below `directory`; its script, or None where npm cannot."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "package.json").write_text(json.dumps({"name": "bench", "private": True}))
    if shutil.which("npm") is None:
        return None
    command = ["npm", "install", "--no-audit", "--no-fund", "--omit=optional", "Haraka@3.3"]
    done = subprocess.run(command, cwd=directory, capture_output=True, check=False, timeout=600)  # noqa: S603
    script = directory / "node_modules" / "Haraka" / "bin" / "haraka"
    return script if done.returncode == 0 and script.exists() else None


class Haraka(Part):
    """One Haraka process with its default number of workers, no TLS, no filters."""

    name = "haraka"

    def __init__(self, directory: Path, script: Path, relay_port: int) -> None:
        super().__init__(directory)
        self.script = script
        self.port = free_port()
        self.relay_port = relay_port

    def prepare(self) -> Sequence[str]:
        configuration = self.directory / "config"
        plugins = self.directory / "plugins"
        node = program("node")
        subprocess.run([node, str(self.script), "-i", str(self.directory)], capture_output=True, check=True)  # noqa: S603
        for name, text in {
            "smtp.ini": f"listen=127.0.0.1:{self.port}\nnodes=0\n",
            "plugins": "relay_to_sink\n",
            "me": "haraka.bench.test\n",
            "log.ini": "[main]\nlevel=ERROR\n",
            "outbound.ini": "concurrency_max=100\n",
            "outbound.bounce_message": "",
            "tls.ini": "[outbound]\nno_tls_hosts[]=0.0.0.0/0\n",
        }.items():
            (configuration / name).write_text(text)
        (plugins / "relay_to_sink.js").write_text(_PLUGIN.replace("@PORT@", str(self.relay_port)))
        return [node, str(self.script), "-c", str(self.directory)]

    def is_ready(self) -> bool:
        return greets(self.port)
