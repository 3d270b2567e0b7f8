"""`mailgate mta-sts`: what our domains should publish, so that others send to us under TLS and to nobody else."""

from __future__ import annotations

import json
from pathlib import Path

import click

from mailgate.cli.common import FailedError, config_option, json_option, printable
from mailgate.cli.loading import load_whole
from mailgate.config.schema import Config
from mailgate.relay.security.own_policy import own_domains, own_policy, own_records
from mailgate.tls.dane import Tlsa
from mailgate.tls.pem import TlsError, read_key_pair, sources

__all__ = ["command"]


@click.command("mta-sts")
@click.option("--domain", default="", help="Only for this one of our domains.")
@click.option("--reports-to", default="", metavar="ADDRESS", help="Who is to get the reports of others on TLS with us.")
@json_option
@config_option
def command(domain: str, reports_to: str, as_json: bool, config: Path) -> None:
    """The policy file (MTA-STS) and the DNS records for our domains, as the configuration has them.

    Put the file on a web server with a certificate for mta-sts.DOMAIN, or have [http] serve it (mta_sts.serve). TLSA
    records (DANE) count in signed zones only, and must be changed before a certificate with another key is used.
    Publish the new file before the new record.
    """
    loaded = load_whole(config).config
    domains = own_domains(loaded)
    if domain:
        domains = [one for one in domains if one == domain.lower()]
    if not domains:
        raise FailedError(f"{domain} is none of our [domains]" if domain else "there are no [domains]")
    keys = _keys(loaded)
    policy = own_policy(loaded)
    records = list(dict.fromkeys(one for name in domains for one in own_records(loaded, name, keys, reports_to)))
    if as_json:
        told = [{"name": one.name, "type": one.rdtype, "data": one.data} for one in records]
        urls = [f"https://mta-sts.{name}/.well-known/mta-sts.txt" for name in domains]
        click.echo(json.dumps({"policy": policy, "urls": urls, "records": told}, indent=1))
        return
    for name in domains:
        click.echo(f"# https://mta-sts.{printable(name)}/.well-known/mta-sts.txt")
    click.echo(policy.replace("\r\n", "\n"))
    click.echo("# DNS")
    for one in records:
        click.echo(printable(str(one)))


def _keys(config: Config) -> list[Tlsa]:
    """The records of the keys that we show; none where there are none, or they cannot be read by whoever asks."""
    path = config.tls.certificate
    if path is None:
        return []
    try:
        return list(dict.fromkeys(Tlsa.of(read_key_pair(source).certificate) for source in sources(path)))
    except (TlsError, OSError) as error:
        click.echo(f"no TLSA records: {printable(str(error))}", err=True)
        return []
