"""What the system lets the gateway do: read its files, listen on its ports, open as many connections as it may."""

from __future__ import annotations

import errno
import os
import resource
import socket
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.error import ConnectError
from twisted.internet.protocol import Factory, Protocol

from mailgate.config.endpoints import listening, socket_path
from mailgate.config.machine import exposed
from mailgate.config.openings import openings
from mailgate.config.places import Places
from mailgate.config.routes import MaildirRoute
from mailgate.config.schema import Config
from mailgate.doctor.diagnosis import Check, Notes
from mailgate.doctor.disk import MEASURE, obstacle
from mailgate.doctor.dkim import key_files
from mailgate.doctor.site import Site
from mailgate.process import user_name

__all__ = ["file_checks", "port_checks", "try_ports"]

#: Files of the state directory that are looked at; descriptors beside those of connections.
_MOST_FILES, _OTHERS = 2000, 500


@dataclass(frozen=True, slots=True)
class _Wrong:
    """A file, and what is wrong with it."""

    path: Path
    says: str


def file_checks(site: Site) -> Iterator[Check]:
    """The state directory, and files that hold secrets."""
    folder = site.config.gateway.state_dir
    yield Check("files", str(folder), partial(_state, site, folder))
    yield Check("files", str(site.path), partial(_configuration, site))
    for name, route in site.config.routes.items():
        if isinstance(route, MaildirRoute):
            yield Check("files", f"routes.{name}", partial(_maildir, route.path))
    for path in key_files(site):
        yield Check("files", str(path), partial(_key, site, path))


async def _state(site: Site, folder: Path, notes: Notes) -> None:
    def look() -> tuple[os.stat_result | None, list[_Wrong]]:
        try:
            found = folder.stat()
        except FileNotFoundError:
            return None, []
        return found, list(islice(_wrong_in(folder, found.st_uid), 5))

    if problem := await site.in_thread(partial(obstacle, folder)):
        notes.fail(f"cannot be: {problem}: the gateway cannot start", "choose another gateway.state_dir, or mend that")
        return
    try:
        found, wrong = await site.in_thread(look)
    except OSError as error:
        notes.warn(f"not checked: {error.strerror}", "run this as root, or as the gateway's user")
        return
    if found is None:
        above = next(one for one in folder.parents if one.exists())
        if os.access(above, os.W_OK | os.X_OK):
            notes.ok(f"does not exist yet: the gateway makes it in {above}")
        else:
            text = f"does not exist, and {user_name(os.geteuid())} cannot make it in {above}"
            notes.warn(text, f"install -d -m 0700 -o USER {folder}, with the user of the gateway")
        return
    owner, mode = user_name(found.st_uid), stat.S_IMODE(found.st_mode)
    if mode & 0o077:
        text = f"has mode {mode:04o}: others on this machine can look at mail that waits"
        notes.warn(text, f"chmod 0700 {folder} (a start of the gateway does that)")
    else:
        notes.ok(f"belongs to {owner}, who alone can look at it")
    for one in wrong:
        notes.fail(
            f"{one.says}: the gateway, as {owner}, fails on it", f"chown {owner} {one.path}", subject=str(one.path)
        )


def _wrong_in(folder: Path, owner: int) -> Iterator[_Wrong]:
    """Files of others in a folder of ours."""
    seen = 0
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            seen += 1
            if seen > _MOST_FILES:
                return
            path = Path(root, name)
            try:
                found = path.lstat()
            except OSError:
                continue
            if found.st_uid != owner and not name.startswith(MEASURE):
                yield _Wrong(path, f"belongs to {user_name(found.st_uid)}")


async def _configuration(site: Site, notes: Notes) -> None:
    if os.access(site.path, os.R_OK):
        notes.ok(f"can be read by {user_name(os.geteuid())}")
    else:
        text = f"cannot be read by {user_name(os.geteuid())}: a reload keeps the old configuration"
        notes.warn(text, f"chgrp it to the gateway's group, and chmod 0640 {site.path}")


async def _maildir(pattern: str, notes: Notes) -> None:
    """What is the same for all of its recipients must be there, or can be made."""
    fixed = Path(pattern.partition("{")[0])
    folder = next((one for one in (fixed, *fixed.parents) if os.path.exists(one)), fixed)
    if os.access(folder, os.W_OK | os.X_OK):
        notes.ok(f"{user_name(os.geteuid())} can write to {folder}")
    else:
        text = f"{user_name(os.geteuid())} cannot write to {folder}: mail waits, and is returned in the end"
        notes.fail(text, f"chown it to the gateway's user; under systemd see ReadWritePaths for {folder}")


async def _key(site: Site, path: Path, notes: Notes) -> None:
    if _is_missing(path):
        return  # told with its domain
    if not os.access(path, os.R_OK):
        text = f"cannot be read by {user_name(os.geteuid())}: what it should sign is put off"
        notes.fail(text, f"chown it to the gateway's user, and chmod 0600 {path}")
    elif problem := exposed(path):
        notes.warn(problem, f"chmod 0600 {path}")
    else:
        notes.ok("nobody else can read it")


def _is_missing(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def try_ports(config: Config) -> dict[tuple[str, int], int]:
    """Whether each port of ours could be listened on now, as whoever asks: 0, or the error."""
    found: dict[tuple[str, int], int] = {}
    for endpoint in [*(each for one in openings(config) for each in one.endpoints), *config.http.endpoints]:
        place = listening(endpoint)
        if place is not None:
            found[place.interface, place.port] = _try(place.interface, place.port)
    return found


def _try(interface: str, port: int) -> int:
    family = socket.AF_INET6 if ":" in interface else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind((interface, port))
            one.listen(1)
    except OSError as error:
        return error.errno or errno.EINVAL
    return 0


def port_checks(site: Site) -> Iterator[Check]:
    """Ports, and descriptors."""
    yield Check("ports", "listeners", partial(_ports, site, site.binds))
    for opening in openings(site.config):
        for path in filter(None, map(socket_path, opening.endpoints)):
            yield Check("ports", path, partial(_socket, site, Path(path)))
    yield Check("ports", "open files", partial(_descriptors, site))


async def _ports(site: Site, binds: Mapping[tuple[str, int], int], notes: Notes) -> None:
    runs = await _runs(site)
    for (interface, port), problem in binds.items():
        subject = f"{interface or '0.0.0.0'}:{port}"  # noqa: S104  told, not bound
        match problem:
            case 0:
                notes.ok("is free for the gateway" + (", which runs without it" if runs else ""), subject=subject)
            case errno.EADDRINUSE if runs:
                notes.ok("is in use, and the gateway runs", subject=subject)
            case errno.EADDRINUSE:
                text = "another program has it, and the gateway does not run: it cannot start"
                notes.fail(
                    text, f"ss -ltnp 'sport = :{port}' says which; end it, or choose another port", subject=subject
                )
            case errno.EACCES | errno.EPERM if not runs:
                text = f"{user_name(os.geteuid())} may not listen there: below 1024 that takes a right"
                fix = "start as root with twistd --uid, or by systemd with AmbientCapabilities=CAP_NET_BIND_SERVICE"
                notes.note(text, fix, subject=subject)
            case errno.EACCES | errno.EPERM:
                notes.ok("the gateway runs", subject=subject)
            case errno.EADDRNOTAVAIL:
                text = "this machine does not have the address: the gateway cannot start"
                notes.fail(text, "ip address add, or mend the endpoint", subject=subject)
            case _:
                notes.warn(f"cannot be listened on: {os.strerror(problem)}", subject=subject)


async def _socket(site: Site, path: Path, notes: Notes) -> None:
    folder = path.parent
    if not await site.in_thread(folder.is_dir):
        notes.fail(f"there is no {folder}: the gateway cannot start", f"install -d -o USER {folder}, with its user")
    elif not await site.in_thread(partial(os.access, folder, os.W_OK | os.X_OK)):
        text = f"{user_name(os.geteuid())} may not make anything in {folder}: the gateway, as that user, cannot start"
        notes.warn(text, f"chown USER {folder}, with its user, or start as root with twistd --uid")
    else:
        notes.ok("can be made")


async def _runs(site: Site) -> bool:
    """Whether a daemon answers at the control socket."""
    path = str(Places(site.config.gateway.state_dir).control)
    endpoint = UNIXClientEndpoint(site.reactor, path, timeout=5)
    try:
        connection = await endpoint.connect(Factory.forProtocol(Protocol))
    except (ConnectError, OSError):
        return False
    connection.transport.abortConnection()
    return True


async def _descriptors(site: Site, notes: Notes) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    config = site.config
    limits = [
        *(one.max_connections for one in config.listeners),
        *(one.max_connections for one in config.milters.values()),
        *(one.max_connections for one in config.policy_services.values()),
        *(one.max_connections for one in config.socketmaps.values()),
    ]
    sessions = sum(limits)
    wanted = 2 * sessions + _OTHERS  # a content file each, at worst
    told = f"{hard} files may be open in a process that is started as this one was"
    if hard in (resource.RLIM_INFINITY, -1) or hard >= wanted:
        notes.ok(told)
    elif hard >= sessions + _OTHERS:
        notes.note(f"{told}; with all {sessions} connections of listeners and services in use it is just enough")
    else:
        text = f"{told}, and listeners and services take {sessions} connections: under load new ones are refused"
        notes.warn(text, f"LimitNOFILE={max(wanted, 65536)} in the unit of systemd, or lower max_connections")
