"""Databases of countries and networks, made by the tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmdb_writer import MMDBWriter
from netaddr import IPSet  # type: ignore[import-untyped]  # it has no types

__all__ = ["write_database"]


def write_database(path: Path, records: Mapping[str, Any], kind: str = "GeoLite2-Country", version: int = 6) -> Path:
    """A database with these records, put in the place of the file at once, as programs do that renew them."""
    writer = MMDBWriter(version, kind, ipv4_compatible=version == 6)
    for network, record in records.items():
        writer.insert_network(IPSet([network]), record)
    new = path.with_suffix(".new")
    writer.to_db_file(str(new))
    new.replace(path)
    return path
