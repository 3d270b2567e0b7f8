"""What the commands share: the configuration option, where the state lies, and words for people."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from mailgate.config.units import parse_duration
from mailgate.web.places import Places

__all__ = [
    "FailedError",
    "config_option",
    "duration",
    "json_option",
    "places_of",
    "printable",
    "size",
    "span",
    "trace_table",
    "when",
]

F = TypeVar("F", bound=Callable[..., Any])


class FailedError(click.ClickException):
    """The answer is no: said on stderr, a line each, exit code 1."""

    exit_code = 1

    def show(self, file: Any = None) -> None:
        for line in self.message.split("\n"):
            click.echo(f"mailgate: {printable(line)}", err=True)


def config_option(command: F) -> F:
    """`--config`, given to the command as a Path."""
    return click.option(
        "--config",
        type=click.Path(path_type=Path),
        envvar="MAILGATE_CONFIG",
        default=Path("/etc/mailgate/mailgate.toml"),
        show_default="$MAILGATE_CONFIG, /etc/mailgate/mailgate.toml",
        help="The configuration.",
    )(command)


def json_option(command: F) -> F:
    """`--json`, given as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Write JSON.")(command)


def duration(ctx: click.Context, param: click.Parameter, value: str | None) -> float:
    """A click callback: seconds for a duration like 30s, 2h or 1h30m; 0.0 where none was given."""
    try:
        return parse_duration(value) if value else 0.0
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def places_of(config: Path) -> Places:
    """Where the gateway's state lies; FailedError where the file does not say.

    Nothing else of the file is read: the queue can be seen to while the file is being repaired. A superuser becomes
    the owner of the state from here on, so that no file is left there that the daemon cannot open.
    """
    try:
        state_dir = tomllib.loads(config.read_text("utf-8-sig"))["gateway"]["state_dir"]
    except OSError as error:
        raise FailedError(f"{config}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise FailedError(f"{config}: {error}") from None
    except (KeyError, TypeError):
        raise FailedError(f"{config}: gateway.state_dir is missing") from None
    if not isinstance(state_dir, str):
        raise FailedError(f"{config}: gateway.state_dir is no path")
    path = config.absolute().parent / state_dir
    try:
        owner = path.stat()
    except FileNotFoundError:
        raise FailedError(f"{path} does not exist: the gateway has not run with {config}") from None
    except OSError as error:
        raise FailedError(f"{path}: {error.strerror}") from None
    if os.geteuid() == 0 and owner.st_uid != 0:
        os.setgroups([])
        os.setgid(owner.st_gid)
        os.setuid(owner.st_uid)
    return Places(path)


def printable(text: str) -> str:
    """Text of others for a terminal: control characters are spelt out."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def when(moment: float) -> str:
    """A moment in local time."""
    return datetime.fromtimestamp(moment).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def span(seconds: float) -> str:
    """A duration in its two largest units: 4m 51s."""
    left = max(0, round(seconds))
    parts = []
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        if left >= length:
            parts.append(f"{left // length}{unit}")
        left %= length
    return " ".join(parts[:2]) or "0s"


def size(octets: float) -> str:
    """Octets in a unit that suits."""
    for unit in ("B", "KiB", "MiB"):
        if octets < 1024:
            return f"{octets:.0f} {unit}" if unit == "B" else f"{octets:.1f} {unit}"
        octets /= 1024
    return f"{octets:.1f} GiB"


def trace_table(steps: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The steps of a trace, one a line; those fields of a TraceStep that have their default may be missing."""
    width = max((len(step["filter"]) for step in steps), default=0)
    for step in steps:
        shadow = "" if step.get("enforced", True) else " (shadow mode: not acted on)"
        about = "  ".join(printable(step[key]) for key in ("recipient", "reason") if step.get(key))
        ms = step.get("seconds", 0.0) * 1000
        name = f"{printable(step['filter']):{width}}"
        yield f"{step['stage']:8} {name}  {step['verdict'] + shadow:10} {ms:7.1f} ms  {about}".rstrip()
