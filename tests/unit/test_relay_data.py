"""What is built in is read with the modules: whoever has changed its user may not reach files any more."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import sys

import mailgate.service
from mailgate.relay.replies.classify import Classifier
from mailgate.relay.replies.shaping import Shaping
from mailgate.reply import Reply
from types import SimpleNamespace


def deny(event, arguments):
    if event in ("open", "import", "os.listdir", "os.scandir"):
        raise PermissionError(event, *arguments)


sys.addaudithook(deny)
Shaping(SimpleNamespace(shaping={}))
sys.stdout.write(Classifier().category(Reply.of(550, "5.1.1", "User unknown")))
"""


def test_nothing_is_read_or_imported_when_it_is_used() -> None:
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == ""
    assert done.stdout == "no-such-user"
