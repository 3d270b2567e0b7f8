"""MTA-STS in text: the record that announces a policy, and the policy (RFC 8461 section 3); pure functions."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

from msgspec import Struct

from mailgate.config.security import LONGEST_AGE

__all__ = ["StsPolicy", "announced_id", "parse_policy"]

#: Hosts of a policy, and its lines, beyond which it is not believed to be one; lines that are told in reports.
_MOST_HOSTS, _MOST_LINES, _MOST_TOLD = 200, 1000, 40

_ID = re.compile(r"[A-Za-z0-9]{1,32}")
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}")
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*")


class StsPolicy(Struct, frozen=True, kw_only=True):
    """A policy: `mx` are patterns of hosts, lower case; `max_age` in seconds; `lines` as they came, for reports,
    the first of very many."""

    mode: Literal["enforce", "testing", "none"]
    mx: tuple[str, ...]
    max_age: int
    lines: tuple[str, ...] = ()


def announced_id(records: Iterable[object]) -> str:
    """The id in the TXT records of _mta-sts.DOMAIN; "" where they announce no policy (RFC 8461 section 3.1)."""
    split = [[part.strip(" \t") for part in _ascii(one).split(";")] for one in records if isinstance(one, bytes)]
    found = [parts for parts in split if parts[0] == "v=STSv1"]
    if len(found) != 1:
        return ""
    fields = found[0][1:]
    ids = [value for name, _, value in (one.partition("=") for one in fields) if name == "id"]
    return ids[0] if len(ids) == 1 and _ID.fullmatch(ids[0]) else ""


def parse_policy(octets: bytes) -> StsPolicy:
    """The policy in the body of an answer; ValueError, with what is wrong. What it does not know it ignores; of fields
    that may stand once the first counts (RFC 8461 section 3.2)."""
    lines = [one.rstrip("\r") for one in octets.decode("utf-8").split("\n")]
    if len(lines) > _MOST_LINES:
        raise ValueError("the policy has too many lines")
    fields: dict[str, str] = {}
    hosts: dict[str, None] = {}
    told: list[str] = []
    for line in lines:
        if not line.strip(" \t"):
            continue
        key, colon, value = (one.strip(" \t") for one in line.partition(":"))
        if not colon or not _KEY.fullmatch(key):
            raise ValueError(f"the policy has a line that is no field: {line[:80]!a}")
        if key == "mx":
            hosts[_host(value)] = None
        elif key in fields:
            continue
        fields[key] = value
        if key in ("version", "mode", "mx", "max_age") and len(told) < _MOST_TOLD:
            told.append(f"{key}: {value}")
    if fields.get("version") != "STSv1":
        raise ValueError("the policy has no version: STSv1")
    mode = fields.get("mode", "")
    if mode not in ("enforce", "testing", "none"):
        raise ValueError(f"the policy has no mode that is known: {mode[:20]!a}")
    age = fields.get("max_age", "")
    if not (age.isascii() and age.isdigit() and len(age) <= 10):
        raise ValueError(f"the policy has no max_age: {age[:20]!a}")
    if mode != "none" and not hosts:
        raise ValueError("the policy names no hosts (mx)")
    if len(hosts) > _MOST_HOSTS:
        raise ValueError("the policy names too many hosts")
    return StsPolicy(
        mode=mode,  # type: ignore[arg-type]  # one of those, as seen above
        mx=tuple(hosts),
        max_age=min(int(age), LONGEST_AGE),
        lines=tuple(told),
    )


def _host(value: str) -> str:
    host = value.lower().removesuffix(".")
    if len(host) > 253 or not _HOST.fullmatch(host):
        raise ValueError(f"the policy has an mx that is no host: {value[:80]!a}")
    return host


def _ascii(octets: bytes) -> str:
    return octets.decode("ascii", "replace")
