"""`mailgate dkim-key`: makes a key for DKIM or ARC, prints what to publish, and looks whether it is there."""

from __future__ import annotations

import contextlib
import os
import random
import tomllib
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import click
from twisted.internet.task import react

from mailgate.awaiting import answered
from mailgate.cli.common import FailedError, config_option, printable
from mailgate.config.document import Document
from mailgate.config.hosts import parse_domain, parse_server
from mailgate.dns.resolver import Resolver
from mailgate.filters.sealing import parse_selector
from mailgate.interfaces import Answer
from mailgate.mailauth import SigningKey
from mailgate.mailauth.dkim.keys import key_name
from mailgate.mailauth.dkim.limits import MAX_KEY_BITS
from mailgate.mailauth.dkim.make import KeyKind, new_key, zone_line
from mailgate.mailauth.dkim.published import compare

__all__ = ["React", "command"]

React = Callable[[Callable[[Any], Coroutine[Any, Any, None]]], object]
"""Runs a coroutine function, given a reactor, to its end: `twisted.internet.task.react`."""

_TIMEOUT = 10.0
_LARGEST = 64 * 1024
#: Bits of an RSA key that every verifier takes (RFC 8301) and that nobody calls weak.
_LEAST_BITS = 2048


@click.command("dkim-key")
@click.argument("domain")
@click.argument("selector")
@click.option("--type", "kind", type=click.Choice(["rsa", "ed25519"]), default="rsa", help="The key's kind.")
@click.option(
    "--bits", type=click.IntRange(_LEAST_BITS, MAX_KEY_BITS), default=_LEAST_BITS, help="The size of an RSA key."
)
@click.option(
    "--path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The private key's file.  [default: DOMAIN.SELECTOR.pem]",
)
@click.option("--show", is_flag=True, help="Print the record of a key that is there.")
@click.option("--check", is_flag=True, help="Ask DNS whether the record of a key that is there is published.")
@config_option
@click.pass_context
def command(
    ctx: click.Context,
    domain: str,
    selector: str,
    kind: KeyKind,
    bits: int,
    path: Path | None,
    show: bool,
    check: bool,
    config: Path,
) -> None:
    """Make a key with which mail of DOMAIN is signed, and print the record that publishes it.

    The private key goes to a file of mode 0600, never in the place of another. What is printed goes into the zone of
    DOMAIN, as it stands or by way of a form, in strings of at most 255 octets. Once it is there (--check says so), the
    key can be named in [filters.dkim-sign].
    """
    try:
        domain, selector = _domain(domain), parse_selector(selector)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="DOMAIN SELECTOR") from None
    path = Path(f"{domain}.{selector}.pem") if path is None else path
    key = _read(path) if show or check else _make(path, kind, bits)
    if not check:
        click.echo(zone_line(domain, selector, key.record))
        return
    answer = _ask(ctx.obj or react, key_name(domain, selector), config)
    problem = compare(answer, key)
    if problem:
        raise FailedError(f"{key_name(domain, selector)}: {problem}")
    click.echo(f"{key_name(domain, selector)}: published, and it is the key in {printable(str(path))}")


def _domain(text: str) -> str:
    domain = parse_domain(text)
    if domain.startswith("[") or "." not in domain:
        raise ValueError(f'"{text}" is no domain to sign for')
    return domain


def _make(path: Path, kind: KeyKind, bits: int) -> SigningKey:
    """FailedError where there is a file already, or the disk does not take one."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise FailedError(f"{path} is there, and stays as it is (--show prints its record)") from None
    except PermissionError:
        raise
    except OSError as error:
        raise FailedError(f"{path}: {error.strerror}") from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            material = new_key(kind, bits)
            file.write(material)
            file.flush()
            if os.geteuid() == 0:
                # the gateway must read it, whose user is the one that the folder belongs to
                owner = path.parent.stat()
                os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
            os.fsync(file.fileno())
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise FailedError(f"{path}: {error.strerror}") from None
        raise
    return SigningKey.load(material)


def _read(path: Path) -> SigningKey:
    try:
        with path.open("rb") as file:
            return SigningKey.load(file.read(_LARGEST))
    except PermissionError:
        raise
    except OSError as error:
        raise FailedError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise FailedError(f"{path}: {error}") from None


def _ask(run: React, name: str, config: Path) -> Answer:
    """What the resolver says that the gateway uses."""
    answers: list[Answer] = []
    servers = _servers(config)

    async def body(reactor: Any) -> None:
        resolver = Resolver(reactor, servers, _TIMEOUT, 0, random.SystemRandom())
        try:
            answers.append(await answered(resolver.resolve(name, "TXT")))
        finally:
            resolver.close()

    # How `react` comes back.
    with contextlib.suppress(SystemExit):
        run(body)
    if not answers:
        raise FailedError("interrupted")
    return answers[0]


def _servers(config: Path) -> list[tuple[str, int]]:
    """Those of the configuration; none, which stands for the system's, where there is no configuration."""
    try:
        document = Document(tomllib.loads(config.read_text("utf-8-sig")))
        servers = document.table("dns").get("servers", [])
        return [parse_server(str(one)) for one in servers] if isinstance(servers, list) else []
    except FileNotFoundError:
        return []
    except PermissionError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise FailedError(f"{config}: its [dns] cannot be read: {error}") from None
