"""A domain's policy record from the texts of DNS (RFC 9989 sections 4.7 and 4.8; RFC 7489 section 6.3)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from mailgate.mailauth.results import DmarcRecord

__all__ = ["MAX_RECORD", "MAX_URIS", "Mode", "RecordReading", "read_record", "read_records"]

Mode = Literal["rfc9989", "rfc7489"]

#: Octets of the longest record that is read, and URIs that are taken from one tag.
MAX_RECORD = 8192
MAX_URIS = 16

_VERSION = re.compile(rb"v[ \t]*=[ \t]*(?-i:DMARC1)[ \t]*(?:;|\Z)", re.IGNORECASE)
_VALUE = re.compile(r"[ -~]+")
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[!-~]+")
_PERCENT = re.compile(r"[0-9]{1,3}")
_POLICIES = frozenset({"none", "quarantine", "reject"})
_TAGS = frozenset({"p", "sp", "np", "psd", "t", "adkim", "aspf", "fo", "rua", "ruf", "pct"})
#: Tags that RFC 7489 does not know, and those that RFC 9989 knows no more.
_NEW_TAGS = frozenset({"np", "psd", "t"})
_OLD_TAGS = frozenset({"pct"})


@dataclass(frozen=True, slots=True)
class RecordReading:
    """What is published at one name.

    `record` is None where there is no record, or none that can be read. `problem` says in words what is wrong; where
    there is a record with a problem, it marks the domain, and no policy is taken from it. `is_several`: there are
    several records, which is as if there were none.
    """

    record: DmarcRecord | None
    problem: str = ""
    is_several: bool = False


_NOTHING = RecordReading(None)


def read_records(texts: Iterable[object], domain: str, mode: Mode = "rfc9989") -> RecordReading:
    """The record among the TXT records (octets) at `_dmarc.` and `domain`: other texts are passed over, and several
    records are as none (RFC 9989 section 4.10)."""
    found = [text for text in texts if isinstance(text, bytes) and _VERSION.match(text)]
    if not found:
        return _NOTHING
    if len(found) > 1:
        return RecordReading(None, f"there are {len(found)} records at _dmarc.{domain}", is_several=True)
    return read_record(found[0], domain, mode)


def read_record(text: bytes, domain: str, mode: Mode = "rfc9989") -> RecordReading:
    """One record, with its defaults. What does not begin with `v=DMARC1` is none; a tag whose value is wrong has its
    default; a tag that stands there twice spoils the record (RFC 6376 section 3.2)."""
    if not _VERSION.match(text):
        return _NOTHING
    if len(text) > MAX_RECORD:
        return _broken(domain, f"has more than {MAX_RECORD} octets")
    tags: dict[str, str] = {}
    unknown = _OLD_TAGS if mode == "rfc9989" else _NEW_TAGS
    for part in text.decode("ascii", "replace").split(";")[1:]:
        name, equals, value = part.partition("=")
        name, value = name.strip(" \t").lower(), value.strip(" \t")
        if not equals or name not in _TAGS or name in unknown:
            continue
        if name in tags:
            return _broken(domain, f"has {name}= twice")
        tags[name] = value if _VALUE.fullmatch(value) else ""
    return _read(tags, domain)


def _broken(domain: str, what: str) -> RecordReading:
    return RecordReading(None, f"the record of {domain} {what}")


def _read(tags: dict[str, str], domain: str) -> RecordReading:
    words = {name: value.lower() for name, value in tags.items()}
    aggregate, failure = _uris(tags.get("rua", "")), _uris(tags.get("ruf", ""))
    policy = words.get("p", "")
    subdomains = words.get("sp", policy)
    missing = words.get("np", subdomains)
    problem = ""
    wrong = [name for name in ("p", "sp", "np") if words.get(name, "none" if name != "p" else "") not in _POLICIES]
    if wrong:
        # RFC 9989 section 4.10.1: whoever wants reports gets them, and nothing else is done.
        policy = subdomains = missing = "none"
        if not aggregate:
            problem = f"the record of {domain} has no valid {wrong[0]}=, and no rua="
    record = DmarcRecord(
        domain=domain,
        policy=policy,
        subdomain_policy=subdomains,
        missing_policy=missing,
        psd=words["psd"] if words.get("psd") in ("y", "n") else "u",
        strict_spf=words.get("aspf") == "s",
        strict_dkim=words.get("adkim") == "s",
        is_testing=words.get("t") == "y",
        aggregate=aggregate,
        failure=failure,
        failure_options=_failure_options(words.get("fo", "")) if failure else ("0",),
        percent=_percent(words.get("pct", "")),
    )
    return RecordReading(record, problem)


def _uris(text: str) -> tuple[str, ...]:
    """Those that are URIs by their form; one for mail has an address in it."""
    found = [one.strip(" \t") for one in text.split(",")]
    return tuple(one for one in found if _URI.fullmatch(one) and ("@" in one or one[:7].lower() != "mailto:"))[
        :MAX_URIS
    ]


def _failure_options(text: str) -> tuple[str, ...]:
    options = tuple(one.strip(" \t") for one in text.split(":"))
    return options if len(set(options)) == len(options) and set(options) <= set("01ds") else ("0",)


def _percent(text: str) -> int:
    return int(text) if _PERCENT.fullmatch(text) and int(text) <= 100 else 100
