"""The `mailgate` command: one module for each command, imported when it is called.

Exit codes: 0 done, 1 the answer is no, 2 usage.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click

__all__ = ["main"]

#: Where each command is; the text behind it stands in the list of commands.
_COMMANDS: Mapping[str, tuple[str, str]] = {
    "accounts": ("mailgate.cli.accounts", "Accounts that seem to be in other hands, and their release."),
    "check": ("mailgate.cli.check", "Read the configuration and say everything that is wrong with it."),
    "dkim-key": ("mailgate.cli.dkim_key", "Make a key for DKIM, and see whether DNS has it."),
    "dmarc-report": ("mailgate.cli.dmarc_report", "What DMARC reports that we got say of mail in our domains' name."),
    "doctor": ("mailgate.cli.doctor", "Whether mail would be lost or refused: DNS, next hops, certificates, disk..."),
    "filters": ("mailgate.cli.filters", "Installed filters, their stages and options."),
    "import": ("mailgate.cli.importing", "A configuration made from that of Postfix or Haraka."),
    "mta-sts": ("mailgate.cli.mta_sts", "What our domains should publish: MTA-STS policy, TLSA, where reports go."),
    "password": ("mailgate.cli.password", "A line with a user's password, hashed, for the file of [auth.NAME]."),
    "quarantine": ("mailgate.cli.quarantine", "Look at what filters keep back, release it, or delete it."),
    "queue": ("mailgate.cli.queue", "Look at what waits for delivery, and change it."),
    "rehearsal": ("mailgate.cli.rehearsal", "Copies of mail of another gateway: where this one decides otherwise."),
    "replay": ("mailgate.cli.replay", "Recorded mail through a changed policy: where the verdicts differ."),
    "suppressions": ("mailgate.cli.suppressions", "The addresses that get no more mail of ours."),
    "token": ("mailgate.cli.token", "A token for a program that uses the HTTP API."),
    "try": ("mailgate.cli.trying", "What would happen to a mail, filter by filter; nothing is delivered."),
    "why": ("mailgate.cli.why", "What happened to a mail, and why."),
}


class _Commands(click.Group):
    """A group that imports a command when it is called, so that each starts fast and none disturbs another."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command = import_module(_COMMANDS[cmd_name][0]).command
        assert isinstance(command, click.Command)  # noqa: S101  for the type checker
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except PermissionError as error:
            raise import_module("mailgate.cli.common").denied(error) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, _COMMANDS[name][1]) for name in self.list_commands(ctx)])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mailgate")
def main() -> None:
    """mailgate, a mail gateway: what an administrator asks of it.

    The gateway itself is run by `twistd -n mailgate --config FILE`.
    """
