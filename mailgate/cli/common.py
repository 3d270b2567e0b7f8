"""What the commands share: the configuration option, where the state lies, and words for people."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from mailgate.config.document import Document
from mailgate.config.locate import locate
from mailgate.config.places import Places
from mailgate.config.units import parse_duration

__all__ = [
    "BadConfigError",
    "FailedError",
    "columns",
    "config_option",
    "denied",
    "duration",
    "json_option",
    "not_empty",
    "places_of",
    "printable",
    "route_names",
    "size",
    "span",
    "trace_table",
    "when",
]

#: In a column that is narrower nothing is broken into lines.
_LEAST_COLUMNS = 24

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class FailedError(click.ClickException):
    """The answer is no: said on stderr, a line each, exit code 1."""

    exit_code = 1
    prefix = "mailgate: "

    def show(self, file: Any = None) -> None:
        for line in self.message.split("\n"):
            click.echo(f"{self.prefix}{printable(line)}", err=True)


class BadConfigError(FailedError):
    """The configuration cannot be used: its lines are FILE:LINE: what is wrong, as editors know them."""

    prefix = ""


def denied(error: PermissionError) -> FailedError:
    """What is another user's, in words."""
    where = f"{error.filename}: " if error.filename else ""
    return FailedError(f"{where}{error.strerror or error} (run this as root or as the gateway's user)")


def config_option(command: F) -> F:
    """`--config`, given to the command as a Path."""
    return click.option(
        "--config",
        type=click.Path(readable=False, path_type=Path),
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
        return 0.0 if value is None else parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def not_empty(ctx: click.Context, param: click.Parameter, value: T) -> T:
    """A click callback: the text or texts, which may be left out but not be empty, nor octets that are no UTF-8."""
    for text in value if isinstance(value, tuple) else (value,):
        if text == "":
            raise click.BadParameter("may not be empty")
        if isinstance(text, str) and not text.isascii() and any("\ud800" <= one <= "\udfff" for one in text):
            raise click.BadParameter("is no text in UTF-8")
    return value


def places_of(config: Path) -> Places:
    """Where the gateway's state lies; FailedError where the file does not say.

    Nothing else of the file is looked at: the queue can be seen to while other keys are being repaired. A superuser
    becomes the owner of the state from here on, so that no file is left there that the daemon cannot open.
    PermissionError where the state is another user's.
    """
    try:
        state_dir = tomllib.loads(config.read_text("utf-8-sig"))["gateway"]["state_dir"]
    except PermissionError:
        raise
    except OSError as error:
        raise FailedError(f"{config}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise BadConfigError("\n".join(_errors(config)) or f"{config}:1: {error}") from None
    except (KeyError, TypeError):
        raise BadConfigError(_about_state_dir(config, "is missing")) from None
    if not isinstance(state_dir, str):
        raise BadConfigError(_about_state_dir(config, "is no path"))
    path = config.absolute().parent / state_dir
    try:
        owner = path.stat()
    except FileNotFoundError:
        raise FailedError(f"{path} does not exist: the gateway has not run with {config}") from None
    except PermissionError:
        raise
    except OSError as error:
        raise FailedError(f"{path}: {error.strerror}") from None
    if os.geteuid() == 0 and owner.st_uid != 0:
        os.setgroups([])
        os.setgid(owner.st_gid)
        os.setuid(owner.st_uid)
    return Places(path)


def route_names(config: Path) -> Sequence[str]:
    """The names of the routes, as the file has them: it may be wrong elsewhere."""
    try:
        return Document(tomllib.loads(config.read_text("utf-8-sig"))).names("routes")
    except (OSError, ValueError, RecursionError) as error:
        raise FailedError(f"{config}: the routes cannot be read: {error}") from None


def _errors(config: Path) -> Sequence[str]:
    # Only here: to read the whole configuration takes as long as all the rest of a command.
    from mailgate.config.load import ConfigError, load
    from mailgate.pipeline.registry import Registry

    try:
        load(config, Registry().find)
    except ConfigError as error:
        return error.errors
    return ()


def _about_state_dir(config: Path, text: str) -> str:
    line = locate(config.read_text("utf-8-sig")).find(("gateway", "state_dir"))
    return f"{config}:{line}: gateway.state_dir: {text}"


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


def columns() -> int:
    """How wide the terminal is that reads standard output; 0 where there is none: other programs get whole lines."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 0


def trace_table(steps: Sequence[Mapping[str, Any]], width: int = 0) -> Iterator[str]:
    """The steps of a trace: stage, filter, verdict, time, and what is told about it.

    Those fields of a TraceStep that have their default may be missing. A line that is wider than `width` goes on below,
    under the column of what is told; 0 is no limit.
    """
    names = max((len(step["filter"]) for step in steps), default=0)
    for step in steps:
        verdict = step.get("verdict", "continue")
        acted_on = step.get("enforced", True) or verdict == "continue"
        shadow = "" if acted_on else " (shadow mode: not acted on)"
        name = f"{printable(step['filter']):{names}}"
        fixed = f"{step['stage']:8} {name}  {verdict + shadow:10} {step.get('seconds', 0.0) * 1000:7.1f} ms  "
        first, *others = _told(step, width - len(fixed) if width else 0)
        yield f"{fixed}{first}".rstrip()
        # Under the column of an ordinary verdict: a shadow's is long.
        yield from (f"{'':{len(fixed) - len(shadow)}}{line}" for line in others)


def _told(step: Mapping[str, Any], width: int) -> Sequence[str]:
    """Whom a step is about and why; below that what was found out, where the reason does not say it."""
    reason, found = step.get("reason", ""), step.get("found", "")
    about = "  ".join(printable(one) for one in (step.get("recipient", ""), reason or found) if one)
    lines = [about, printable(found)] if reason and found and found not in reason else [about]
    if width < _LEAST_COLUMNS:
        return lines
    return [piece for line in lines for piece in textwrap.wrap(line, width, break_on_hyphens=False) or [""]]
