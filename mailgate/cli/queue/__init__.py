"""`mailgate queue`: what waits for delivery."""

from __future__ import annotations

import click

from mailgate.cli.queue import changes, look, steer, top

__all__ = ["command"]


@click.group("queue")
def command() -> None:
    """Look at what waits for delivery, and change it; whether the gateway runs or not.

    Entries are named by queue ids, or by conditions which must all hold.
    """


for _module in (look, changes, steer, top):
    for _command in _module.COMMANDS:
        command.add_command(_command)
