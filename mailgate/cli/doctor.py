"""`mailgate doctor`: whether mail would be lost or refused, and what to do about it."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from mailgate.cli.common import BadConfigError, FailedError, columns, config_option, json_option, printable
from mailgate.cli.reacting import React, run_in_reactor
from mailgate.config.load import ConfigError, Loaded, load
from mailgate.doctor.diagnosis import AREAS, Check, Diagnosis, is_sound, run_checks
from mailgate.doctor.examination import checks_of, site_of
from mailgate.doctor.exchange import exchange_checks
from mailgate.doctor.exchange_shell import RouteError, exchange_routes, print_shell
from mailgate.doctor.machine import try_ports
from mailgate.doctor.owner import become_owner, owner_check
from mailgate.doctor.site import Site
from mailgate.pipeline.registry import Registry

__all__ = ["command"]

_Make = Callable[[Site], Iterable[Check]]

#: How severities are shown, and columns that are left for what is said, at least.
_SHOWN = {"ok": "ok", "note": "note", "warn": "WARN", "fail": "FAIL"}
_LEAST_COLUMNS = 40


@click.group("doctor", invoke_without_command=True)
@click.option(
    "--only", "areas", multiple=True, type=click.Choice([one for one in AREAS if one != "exchange"]), help="An area."
)
@click.option("--domain", "domains", multiple=True, help="Of our domains, only this one.")
@click.option("--deep", is_flag=True, help="Also what next hops notice: many connections, a message to nobody.")
@click.option("--all", "everything", is_flag=True, help="Tell what is in order, too.")
@json_option
@config_option
@click.pass_context
def command(
    ctx: click.Context,
    areas: Sequence[str],
    domains: Sequence[str],
    deep: bool,
    everything: bool,
    as_json: bool,
    config: Path,
) -> None:
    """Look for what would lose or refuse mail: in the configuration, DNS, certificates, next hops, the system.

    Each finding comes with what to do. FAIL: mail is lost, refused or left lying. WARN: to be seen to, or nothing could
    be found out now. Nothing is changed; next hops and listeners are asked about addresses that nobody has, and with
    --deep next hops get a message to one. Run it as root, or as the gateway's user.

    Exit code 1 where anything fails.
    """
    ctx.obj = (ctx.obj, config)
    if ctx.invoked_subcommand is not None:
        return
    loaded, registry = _load(config, as_json=as_json)

    def make(site: Site) -> Iterator[Check]:
        return (one for one in checks_of(site) if not areas or one.area in areas)

    only = [one.lower() for one in domains]
    if strangers := [one for one in only if one not in loaded.config.domains]:
        raise FailedError(f"{strangers[0]} is none of our [domains]")
    found = _examine(ctx.obj[0], loaded, registry, make, is_deep=deep, only_domains=only)
    _tell(found, as_json=as_json, everything=everything or bool(areas))


@command.command("exchange")
@click.argument("route", default="")
@click.option("--print", "prints", is_flag=True, help="Print the PowerShell for its connectors, and ask nobody.")
@click.option(
    "--tenant-domain", default="", help="With --print: the domain TENANT.onmicrosoft.com, for Exchange Online."
)
@json_option
@click.option("--config", "here", type=click.Path(readable=False, path_type=Path), help="The configuration.")
@click.pass_obj
def exchange(
    given: tuple[React | None, Path],
    /,
    route: str,
    prints: bool,
    tenant_domain: str,
    as_json: bool,
    here: Path | None,
) -> None:
    """Whether ROUTE and an Exchange server, or Exchange Online, fit together; all routes to such if none is given.

    With --print the commands that make Exchange fit: for the management shell, with the names, addresses and
    certificates of this site. Read them before you run them.
    """
    run, config = given
    config = here or config
    loaded, registry = _load(config, as_json=as_json)
    try:
        routes = exchange_routes(loaded.config, route)
        if prints:
            click.echo(print_shell(loaded.config, routes, tenant_domain), nl=False)
            return
    except RouteError as error:
        raise FailedError(str(error)) from None

    def make(site: Site) -> Iterable[Check]:
        return exchange_checks(site, routes)

    _tell(_examine(run, loaded, registry, make), as_json=as_json, everything=True)


def _load(config: Path, *, as_json: bool) -> tuple[Loaded, Registry]:
    registry = Registry()
    try:
        return load(config, registry.find), registry
    except ConfigError as error:
        if as_json:
            _tell([Diagnosis("fail", "config", str(config), line) for line in error.errors], as_json=True)
        raise BadConfigError("\n".join(error.errors)) from None


def _examine(
    run: React | None,
    loaded: Loaded,
    registry: Registry,
    make: _Make,
    *,
    is_deep: bool = False,
    only_domains: Collection[str] = (),
) -> Sequence[Diagnosis]:
    binds = try_ports(loaded.config)  # while we are who starts the gateway
    problem = become_owner(loaded.config.gateway.state_dir)
    before = [owner_check(problem)] if problem else []

    async def examined(reactor: Any) -> Sequence[Diagnosis]:
        async with site_of(loaded, registry, reactor, binds=binds, is_deep=is_deep, only_domains=only_domains) as site:
            return await run_checks([*before, *make(site)], reactor)

    return run_in_reactor(run, examined)


def _tell(found: Sequence[Diagnosis], *, as_json: bool, everything: bool = True) -> None:
    counts = {severity: sum(one.severity == severity for one in found) for severity in _SHOWN}
    if as_json:
        told = [dataclasses.asdict(one) for one in found]
        click.echo(json.dumps({"ok": is_sound(found), "counts": counts, "findings": told}, indent=1))
    else:
        for line in _table([one for one in found if everything or one.severity != "ok"], columns()):
            click.echo(line)
        click.echo(_summary(counts))
    if not is_sound(found):
        raise click.exceptions.Exit(1)


def _table(found: Sequence[Diagnosis], width: int) -> Iterator[str]:
    area = ""
    for one in found:
        if one.area != area:
            area = one.area
            yield f"{area}: {AREAS[one.area]}"
        begin = f"  {_SHOWN[one.severity]:4}  "
        yield from _wrapped(begin, f"{printable(one.subject)}: {printable(one.says)}", width)
        if one.fix:
            yield from _wrapped(f"{'':{len(begin)}}-> ", printable(one.fix), width)


def _wrapped(begin: str, text: str, width: int) -> Iterator[str]:
    room = width - len(begin)
    lines = textwrap.wrap(text, room, break_on_hyphens=False, break_long_words=False) if room >= _LEAST_COLUMNS else []
    first, *others = lines or [text]
    yield f"{begin}{first}"
    yield from (f"{'':{len(begin)}}{line}" for line in others)


def _summary(counts: Mapping[str, int]) -> str:
    told = f"{counts['fail']} failures, {counts['warn']} warnings, {counts['note']} notes, {counts['ok']} in order"
    return f"\n{told}" + ("" if counts["fail"] else ": nothing was found that would lose or refuse mail")
