"""Shows messages of a session to a real milter by the filter.

Reads {"options": {...}, "messages": [...], "user": ""} and prints, for each message, the verdict's word, its reason,
and the message with the changes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater, react

from mailgate.awaiting import answered
from mailgate.envelope import Identity, Session
from mailgate.events import SessionClosed
from mailgate.filters.milter import Milter, Options
from mailgate.interfaces import Answered
from mailgate.message import is_of_header, materialised, rendered
from mailgate.message.content import ContentWriter
from mailgate.testing import message, recipient, services, session, transaction
from mailgate.verdict import Continue


async def shown(milter: Milter, one: Session, text: str, number: int) -> list[str]:
    """One message in a session."""
    mail = transaction(id=f"M{number}", recipients=[])
    brought = message(text)
    to = recipient()
    stages: list[Callable[[], Answered]] = [
        lambda: milter.on_mail(one, mail),
        lambda: milter.on_rcpt(one, mail, to),
        lambda: milter.on_data(one, mail),
        lambda: milter.on_message(one, mail, brought),
    ]
    if number == 0:
        stages = [lambda: milter.on_connect(one), lambda: milter.on_helo(one), *stages]
    try:
        for stage in stages:
            verdict = await answered(stage())
            if not isinstance(verdict, Continue | None):
                return [type(verdict).__name__, f"{verdict}", ""]
        edits = await milter.modify(one, mail, brought)
    except Exception as error:
        return [type(error).__name__, str(error), ""]
    content = materialised(brought.content, edits, ContentWriter(Path(), 2**26))
    octets = b"".join(rendered(content, [edit for edit in edits if is_of_header(edit)]))
    return ["Continue", "", octets.decode()]


async def main(reactor: IReactorTime) -> None:
    """Show them one after another."""
    task: Mapping[str, Any] = json.load(sys.stdin)
    milter = Milter(Options.model_validate(task["options"]), services(clock=reactor))
    one = session(identity=Identity(task["user"], "PLAIN") if task["user"] else None)
    results = [await shown(milter, one, text, number) for number, text in enumerate(task["messages"])]
    closed = SessionClosed(at=0, session=one.id, client="", listener="", helo="", messages=1, seconds=1, cause="quit")
    milter.observe(closed)
    await deferLater(reactor, 0.05)  # the session is closed
    print(json.dumps(results))


if __name__ == "__main__":
    react(main)
