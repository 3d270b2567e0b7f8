"""What the file says of this machine and what this machine says to it: folders, files, the paths of sockets."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path as FilePath

from mailgate.config.document import Document
from mailgate.config.hosts import check_socket_path
from mailgate.config.problems import Problems

__all__ = ["check_machine", "exposed", "holds_a_line", "is_here", "is_path"]

#: The name of the control socket in the state directory, where the daemon and the command look for it.
_CONTROL = "control"


def check_machine(document: Document, base: FilePath, problems: Problems) -> None:
    """Errors about paths that cannot serve. What nobody may look at here passes: the daemon may."""
    state_dir = document.table("gateway").get("state_dir")
    if not isinstance(state_dir, str) or not is_path(state_dir):
        return
    folder = base / state_dir
    if _is(folder, lambda mode: not stat.S_ISDIR(mode)):
        problems.error(("gateway", "state_dir"), f"{folder} is no folder")
    try:
        check_socket_path(str(folder / _CONTROL))
    except ValueError as error:
        problems.error(("gateway", "state_dir"), f"its control socket cannot be made: {error}")
    log = document.table("log").get("path")
    if not isinstance(log, str) or log in ("", "-") or not is_path(log):
        return
    file = folder / log
    if _is(file, stat.S_ISDIR):
        problems.error(("log", "path"), f"{file} is a folder")
    elif file.parent != folder and _is_missing(file.parent):
        problems.error(("log", "path"), f"the folder {file.parent} does not exist")


def holds_a_line(path: FilePath) -> bool:
    """Whether a list has something besides comments and blanks; True where it cannot be read, which others tell."""
    try:
        with path.open("rb") as file:
            return any(line.removeprefix(b"\xef\xbb\xbf").split(b"#")[0].strip() for line in file)
    except OSError:
        return True


def is_here(address: IPv4Address | IPv6Address) -> bool:
    """Whether this machine has the address, as far as it tells: True where it cannot be asked."""
    try:
        with socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as one:
            one.bind((str(address), 0))
    except OSError as error:
        return error.errno != errno.EADDRNOTAVAIL
    return True


def exposed(path: FilePath) -> str:
    """What to say of a file of secrets that everybody on this machine can read, write or run; "" where all is well, or
    the file cannot be looked at."""
    try:
        mode = stat.S_IMODE(os.stat(path).st_mode)
    except (OSError, ValueError):
        return ""
    if not mode & 0o007:
        return ""
    return f"holds secrets and has mode {mode:04o}: 0600, or 0640 with mailgate's group, is enough"


def is_path(text: str) -> bool:
    """Whether a text can be the path of something, as `absolute` has it."""
    return bool(text) and "\0" not in text and not text.startswith("~")


def _is(path: FilePath, kind: Callable[[int], bool]) -> bool:
    """Whether something of this kind is known to be there."""
    try:
        return kind(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def _is_missing(path: FilePath) -> bool:
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):
        return False
    return False
