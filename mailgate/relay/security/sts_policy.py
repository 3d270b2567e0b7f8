"""MTA-STS in text: the record that announces a policy, and the policy (RFC 8461 section 3); pure functions."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

from msgspec import Struct

__all__ = ["LONGEST_AGE", "StsPolicy", "announced_id", "parse_policy"]

#: Seconds that a policy may be kept at most (RFC 8461 section 3.2).
LONGEST_AGE = 31_557_600
#: Hosts of a policy, and its lines, beyond which it is not believed to be one.
_MOST_HOSTS, _MOST_LINES = 200, 1000

_ID = re.compile(r"[A-Za-z0-9]{1,32}")
_FIELD = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]{0,31})[ \t]*:[ \t]*(.*?)[ \t]*")
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*")


class StsPolicy(Struct, frozen=True, kw_only=True):
    """A policy: `mx` are patterns of hosts, lower case; `max_age` in seconds; `lines` as they came, for reports."""

    mode: Literal["enforce", "testing", "none"]
    mx: tuple[str, ...]
    max_age: int
    lines: tuple[str, ...] = ()


def announced_id(records: Iterable[object]) -> str:
    """The id in the TXT records of _mta-sts.DOMAIN; "" where they announce no policy (RFC 8461 section 3.1)."""
    found = [text for one in records if isinstance(one, bytes) and (text := _ascii(one)).startswith("v=STSv1")]
    if len(found) != 1:
        return ""
    version, *fields = (one.strip(" \t") for one in found[0].split(";"))
    ids = [value for name, _, value in (one.partition("=") for one in fields) if name == "id"]
    return ids[0] if version == "v=STSv1" and len(ids) == 1 and _ID.fullmatch(ids[0]) else ""


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
        match = _FIELD.fullmatch(line)
        if match is None:
            raise ValueError(f"the policy has a line that is no field: {line[:80]!a}")
        key, value = match.groups()
        if key == "mx":
            hosts[_host(value)] = None
        elif key in fields:
            continue
        fields[key] = value
        if key in ("version", "mode", "mx", "max_age"):
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
