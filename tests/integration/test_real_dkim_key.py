"""`mailgate dkim-key`: what it prints is a zone's, a real name server serves it, and --check finds it there."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from dns_parts import Knot
from parts import folder, free_port

pytestmark = pytest.mark.needs("knotd")

_RUN = "from mailgate.cli.main import main; main()"


def run(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command: Sequence[str] = [sys.executable, "-c", _RUN, "dkim-key", *arguments, "--config", "mailgate.toml"]
    return subprocess.run(  # noqa: S603  a script of ours
        command, cwd=directory, capture_output=True, text=True, timeout=60, check=False
    )


def test_made_published_and_checked() -> None:
    with folder("dkim-key") as directory:
        made = [
            run(directory, "mail.test", "r1"),
            run(directory, "mail.test", "big", "--bits", "4096"),
            run(directory, "mail.test", "e1", "--type", "ed25519"),
            run(directory, "mail.test", "other", "--type", "ed25519"),
        ]
        assert [one.returncode for one in made] == [0] * 4
        lines = "".join(one.stdout for one in made[:3]) + made[2].stdout.replace("e1.", "other.", 1)
        with Knot(directory / "knot", {"mail.test": lines}) as server:
            (directory / "mailgate.toml").write_text(f'[dns]\nservers = ["{server.server}"]\n')
            for selector in ("r1", "big", "e1"):
                checked = run(directory, "mail.test", selector, "--check")
                assert (checked.returncode, checked.stderr) == (0, "")
                assert f"{selector}._domainkey.mail.test: published" in checked.stdout
            other = run(directory, "mail.test", "other", "--check")
            assert (other.returncode, other.stdout) == (1, "")
            assert "other._domainkey.mail.test: another key is published there" in other.stderr
            missing = run(directory, "mail.test", "none", "--check", "--path", "mail.test.e1.pem")
            assert "there is no such record" in missing.stderr
        (directory / "mailgate.toml").write_text(f'[dns]\nservers = ["127.0.0.1:{free_port()}"]\n')
        away = run(directory, "mail.test", "r1", "--check")
        assert (away.returncode, "DNS cannot tell now" in away.stderr) == (1, True)
