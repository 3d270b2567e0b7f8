"""Configurations for gateways in memory."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

__all__ = ["HOST", "ZONE", "configuration"]

#: Where the route "inside" goes.
HOST = "192.0.2.1"

ZONE: dict[tuple[str, str], Any] = {
    ("client.test", "MX"): [(10, "mx.client.test")],
    ("mx.client.test", "A"): [ip_address("192.0.2.50")],
    ("far.test", "MX"): [(10, "mx1.far.test"), (20, "mx2.far.test")],
    ("mx1.far.test", "A"): [ip_address("192.0.2.61")],
    ("mx2.far.test", "A"): [ip_address("192.0.2.62")],
}

_TEXT = """
[gateway]
hostname = "{hostname}"
state_dir = "state"
memory_limit = "64KiB"

[[listeners]]
name = "mx"
endpoints = ["tcp:25"]
pipeline = "in"
resolve_clients = false
max_connections_per_client = 2000

[[listeners]]
name = "out"
role = "outbound"
endpoints = ["tcp:587"]
trusted_networks = ["10.0.0.0/8"]
pipeline = "in"

[[listeners]]
name = "lmtp"
endpoints = ["tcp:24"]
protocol = "lmtp"
pipeline = "in"
resolve_clients = false

[pipelines.in]
filters = {filters}

[domains."example.org"]
route = "inside"

[routes.inside]
{inside}

[routes.internet]
transport = "smtp"

[routing]
default = {default}

[spool]
min_free = "0B"
inline_limit = "32KiB"
"""


def configuration(
    more: str = "",
    *,
    inside: str = f'transport = "smtp"\nhosts = ["{HOST}"]',
    filters: str = '["headers"]',
    default: str = '"internet"',
    hostname: str = "gw.example.org",
) -> str:
    """A mailgate.toml: example.org goes by the route "inside", everything else by `default`."""
    text = _TEXT.format(inside=inside, filters=filters, default=default, hostname=hostname) + more
    return text if default else text.replace("default = \n", "")
