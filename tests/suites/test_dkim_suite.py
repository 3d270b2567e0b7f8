"""Signed messages that others made, and hard cases of our own, through the public function and a zone in memory."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from mailgate.mailauth.dkim.limits import VerifyLimits
from mailgate.mailauth.dkim.verify import verify_dkim
from mailgate.mailauth.results import DkimResult
from mailgate.testing import MemoryResolver, wait_for

_SUITE = Path(os.environ["MAILGATE_SUITES"]) / "dkim"
#: When the cases are read that say nothing of it: a day after the latest of them was signed.
_NOW = 1_795_513_364.0
#: Of several results the best counts.
_WORDS = ("pass", "temperror", "fail", "permerror", "policy")

#: Why those that do not pass do not.
_REASONS = {
    "chasquid/04-bad_dkim_signature_header": "v= is not 1",
    "chasquid/11-strict_domain_check_fail": "the key (t=s) is for d= only",
    "lieser/rfc6376-A.2-ill_formed-missing_v": "v= is missing",
    "lieser/rfc8463-A.3-key_algo_mismatch": "with a key of",
    "lieser/dkim-flags_s-auid_is_subdomain_of_sdid": "the key (t=s) is for d= only",
    "lieser/rfc6376-A.2-body_modified": "the body has changed",
    "lieser/rfc6376-A.2-header_subject_modified": "the header has changed",
    "lieser/dkim-added_header-from": "not each of the 2 From is signed",
    "lieser/dkim-added_header-subject": "not each subject is signed",
    "lieser/dkim-added_header-date": "not each date is signed",
    "lieser/dkim-added_header-to": "not each to is signed",
    "lieser/key-revoked": "revoked",
    "lieser/key-hash-sha1-only": "the key is not for sha256",
    "lieser/key-service-other": "not for mail",
    "lieser/key-absent": "there is no key",
    "lieser/key-timeout": "no answer in time",
    "tricky/simple-body-wsp": "the body has changed",
    "tricky/extra-from-below": "the header has changed",
    "tricky/oversigned-extra-subject": "the header has changed",
    "tricky/l-tag-appended": "31 octets of the body are not signed",
    "tricky/l-zero": "33 octets of the body are not signed",
    # These two have a tag twice, beside what their notes say.
    "tricky/expired": "the tag t twice",
    "tricky/i-other-domain": "the tag i twice",
    "tricky/x-before-t": "it expires (x=) before",
    "tricky/i-subdomain-strict-key": "the key (t=s) is for d= only",
    "tricky/duplicate-tag": "twice",
    "tricky/v-2": "v= is not 1",
    "tricky/revoked-key": "revoked",
    "tricky/key-bad-base64": "no base64",
    "tricky/key-v-last": "begin with v=DKIM1",
    "tricky/twenty-signatures": "there is no key",
    "tricky/c-header-only": "the body has changed",
}
#: Those of which the RFC says pass, and a site that is careful does not.
_FAIL_ANYWAY = {"lieser/dkim-added_header-from"}


def cases() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for name in ("manifest.json", "tricky.json"):
        found += json.loads((_SUITE / name).read_text())
    return found


@functools.cache
def _shared_zone(name: str) -> dict[str, Any]:
    zone: dict[str, Any] = json.loads((_SUITE / name).read_text())
    return zone


def zone_of(case: Mapping[str, Any]) -> dict[str, Any]:
    """A case's zone as MemoryResolver has it."""
    given = _shared_zone(case["dns"]) if isinstance(case["dns"], str) else case["dns"]
    zone: dict[str, Any] = {}
    for name, value in given.items():
        is_end = value in ("TIMEOUT", "SERVFAIL")
        zone[name] = "NXDOMAIN" if value is None else value if is_end else {"TXT": [value]}
    return zone


def results_of(case: Mapping[str, Any], limits: VerifyLimits) -> list[DkimResult]:
    message = (_SUITE / case["file"]).read_bytes()
    return wait_for(verify_dkim(MemoryResolver(zone_of(case)), message, now=case.get("now", _NOW), limits=limits))


def best(results: Sequence[DkimResult]) -> str:
    found = {one.result for one in results}
    return next((word for word in _WORDS if word in found), "none")


@pytest.mark.parametrize("case", cases(), ids=lambda case: str(case["id"]))
def test_a_sample_comes_to_what_is_stated(case: dict[str, Any]) -> None:
    name, expected = case["id"], case["expect"]
    for limits in (VerifyLimits(), VerifyLimits(allow_uncovered=False, allow_added=False)):
        word = expected
        if name in _FAIL_ANYWAY:
            word = "fail"
        elif expected.startswith("policy"):
            word = "pass" if limits.allow_uncovered else "policy"
        results = results_of(case, limits)
        assert best(results) == word, [one.result for one in results]
        if name in _REASONS:
            assert _REASONS[name] in results[0].reason
        else:
            assert word == "pass"


def test_of_twenty_signatures_eight_are_looked_at() -> None:
    (case,) = (one for one in cases() if one["id"] == "tricky/twenty-signatures")
    results = results_of(case, VerifyLimits())
    assert len([one for one in results if "not looked at" not in one.reason]) == 8
    assert len(results) >= 20


def test_every_algorithm_and_form_is_among_the_samples_that_pass() -> None:
    passing = [
        one for case in cases() for one in results_of(case, VerifyLimits()) if one.result == "pass" and one.domain
    ]
    assert {one.algorithm for one in passing} == {"rsa-sha256", "ed25519-sha256"}
