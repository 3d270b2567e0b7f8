"""Configurations of the gateway under test."""

from __future__ import annotations

__all__ = ["configuration"]


def configuration(
    port: int,
    routes: str,
    *,
    domains: dict[str, str],
    listener: str = "",
    gateway: str = "",
    outbound: int | None = None,
    more: str = "",
) -> str:
    """A mailgate.toml: an inbound listener on `port` for `domains` (domain to route), with these `routes`.

    `outbound` is the port of a listener that relays for loopback by the route "out".
    """
    text = f"""
[gateway]
hostname = "mailgate.test"
state_dir = "state"
{gateway}

[[listeners]]
name = "mx"
endpoints = ["tcp:{port}:interface=127.0.0.1"]
pipeline = "inbound"
max_connections_per_client = 2000
{listener}

[pipelines.inbound]
filters = ["early-talker", "access", "recipients", "headers"]
"""
    if outbound is not None:
        text += f"""
[[listeners]]
name = "submission"
role = "outbound"
endpoints = ["tcp:{outbound}:interface=127.0.0.1"]
trusted_networks = ["127.0.0.0/8"]
pipeline = "outbound"

[pipelines.outbound]
filters = ["headers"]

[routing]
default = "out"
"""
    for domain, route in domains.items():
        text += f'\n[domains."{domain}"]\nroute = "{route}"\n'
    return text + routes + more
