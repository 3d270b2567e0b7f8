"""Commands as real processes: content through pipes, limits, and what is left of those that are ended."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from parts import is_alive, wait_until

ASK = Path(__file__).with_name("command_ask.py")

#: Reads a line and the content, and tells how many octets came.
COUNTS = """\
import json, os, sys
while line := sys.stdin.buffer.readline():
    asked = json.loads(line)
    if "file" in asked:
        got = len(open(asked["file"], "rb").read())
    else:
        got = len(sys.stdin.buffer.read(asked["size"]))
    reason = f"{got} of {asked['size']} by {os.getpid()} {sorted(os.environ)}"
    print(json.dumps({"verdict": "continue", "id": asked["id"], "reason": reason}), flush=True)
"""


def ask(script: Path, body: str, messages: Sequence[str], **more: object) -> tuple[list[list[str]], int]:
    """What came of the messages, and how many files are left."""
    script.write_text(body)
    settings: Mapping[str, object] = {"command": [sys.executable, "-I", str(script)], "timeout": 20.0}
    keys = ("times", "together")
    task = {
        "messages": messages,
        **{key: more.pop(key) for key in keys if key in more},
        "settings": {**settings, **more},
    }
    done = subprocess.run(  # noqa: S603
        [sys.executable, str(ASK), json.dumps(task)], capture_output=True, text=True, timeout=100, check=True
    )
    found = json.loads(done.stdout)
    return found["results"], found["files"]


@pytest.mark.parametrize("by_file", [False, True])
@pytest.mark.parametrize("is_kept", [False, True])
def test_content_comes_whole(tmp_path: Path, by_file: bool, is_kept: bool) -> None:
    script = tmp_path / "counts"
    results, files = ask(script, COUNTS, ["x" * 1000] * 3, times=2000, by_file=by_file, is_kept=is_kept)
    assert [reason.split(" by ")[0] for _, reason in results] == ["2000000 of 2000000"] * 3
    assert files == 0
    pids = {reason.split(" by ")[1].split()[0] for _, reason in results}
    assert len(pids) == (1 if is_kept else 3)


def test_the_environment_is_its_own(tmp_path: Path) -> None:
    results, _ = ask(tmp_path / "one", COUNTS, ["x"], environment={"SITE": "here"})
    names = set(results[0][1].partition("[")[2].removesuffix("]").replace("'", "").split(", "))
    assert names - {"LC_CTYPE"} == {"LANG", "PATH", "SITE"}  # Python makes that one for itself


def test_memory_has_its_limit(tmp_path: Path) -> None:
    body = 'import sys\nsys.stdin.readline()\nx = bytearray(400 * 1024 * 1024)\nprint(\'{"verdict": "continue"}\')\n'
    results, _ = ask(tmp_path / "greedy", body, ["x"], memory=200 * 1024 * 1024)
    assert results == [["error", results[0][1]]]
    results, _ = ask(tmp_path / "greedy", body, ["x"], memory=800 * 1024 * 1024)
    assert results == [["continue", ""]]


def test_whoever_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    body = f"""\
import subprocess, sys, time
child = subprocess.Popen(["/bin/sleep", "1000"])
open({str(tmp_path / "pid")!r}, "w").write(str(child.pid))
time.sleep(1000)
"""
    results, _ = ask(tmp_path / "hangs", body, ["x"], timeout=3.0)
    assert results[0][0] == "error"
    assert "no answer within" in results[0][1]
    pid = int((tmp_path / "pid").read_text())
    wait_until(lambda: not is_alive(pid), "its child has been ended")


def test_what_a_command_leaves_behind_does_not_hold_up_its_answer(tmp_path: Path) -> None:
    body = f"""\
import subprocess
child = subprocess.Popen(["/bin/sleep", "1000"])
open({str(tmp_path / "pid")!r}, "w").write(str(child.pid))
print('{{"verdict": "reject"}}')
"""
    results, _ = ask(tmp_path / "leaves", body, ["x"])
    assert results == [["reject", ""]]
    pid = int((tmp_path / "pid").read_text())
    wait_until(lambda: not is_alive(pid), "what it left has been ended")


def test_statuses_signals_and_commands_that_are_none(tmp_path: Path) -> None:
    results, _ = ask(tmp_path / "fails", 'print(\'{"verdict": "continue"}\')\nraise SystemExit(3)\n', ["x"])
    assert results[0][0] == "error"
    results, _ = ask(tmp_path / "dies", "import os\nos.kill(os.getpid(), 9)\n", ["x"])
    assert results[0][0] == "error"
    results, _ = ask(tmp_path / "none", "", ["x"], command=["/no/such/command"])
    assert results[0][0] == "error"
    assert "127" in results[0][1]


def test_it_need_not_read_the_content(tmp_path: Path) -> None:
    body = 'import sys\nsys.stdin.readline()\nprint(\'{"verdict": "accept"}\')\n'
    results, _ = ask(tmp_path / "early", body, ["x" * 1000], times=5000)
    assert results == [["accept", ""]]


def test_a_kept_one_that_does_not_read_on_is_replaced(tmp_path: Path) -> None:
    body = """\
import os, sys
while line := sys.stdin.buffer.readline():
    sys.stdout.write('{"verdict": "continue", "reason": "%d"}\\n' % os.getpid())
    sys.stdout.flush()
"""
    results, _ = ask(tmp_path / "skips", body, ["x" * 1000] * 3, times=5000, is_kept=True)
    assert [verdict for verdict, _ in results] == ["continue"] * 3
    assert len({pid for _, pid in results}) == 3


def test_many_at_one_time(tmp_path: Path) -> None:
    results, _ = ask(tmp_path / "kept", COUNTS, ["x" * 100] * 40, together=1, is_kept=True, processes=2)
    assert [reason.split(" by ")[0] for _, reason in results] == ["100 of 100"] * 40
    assert len({reason.split(" by ")[1].split()[0] for _, reason in results}) == 2
