"""Asks a real command about messages: `command_ask.py '{"settings": {...}, "messages": ["text", ...], "together": 1}'`.

Prints what came of each: the answer's verdict and reason, or the error; then how many of its processes are left.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater, react

from mailgate.message import Content
from mailgate.scanners.command import CommandError, CommandRunner, CommandSettings, ICommandReactor


async def told(runner: CommandRunner, number: int, content: Content) -> object:
    """What the command says to one message."""
    try:
        answer = await runner.ask({"id": f"M{number}", "sender": "ann@client.example"}, content)
    except CommandError as error:
        return ["error", str(error)]
    return [answer.verdict, answer.reason]


async def main(reactor: ICommandReactor, text: str) -> None:
    """Ask one after another, or all together."""
    task: Mapping[str, Any] = json.loads(text)
    with tempfile.TemporaryDirectory() as directory:
        runner = CommandRunner(CommandSettings(directory=Path(directory), **task["settings"]), reactor)
        contents = [Content(one.encode() * task.get("times", 1)) for one in task["messages"]]
        results: list[object] = []
        if task.get("together"):
            asked = [Deferred.fromCoroutine(told(runner, number, one)) for number, one in enumerate(contents)]
            results = list(cast(list[object], await gatherResults(asked)))
        else:
            for number, one in enumerate(contents):
                results.append(await told(runner, number, one))
        await deferLater(reactor, 0.1)  # the last ones are reaped
        print(json.dumps({"results": results, "files": len(list(Path(directory).iterdir()))}))


if __name__ == "__main__":
    react(main, sys.argv[1:])
