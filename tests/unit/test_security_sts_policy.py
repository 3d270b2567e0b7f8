"""MTA-STS in text: what announces a policy, and what a policy says."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgate.config.security import LONGEST_AGE
from mailgate.relay.security.sts_policy import announced_id, parse_policy
from tests.unit.proportion import is_linear

ENFORCE = b"version: STSv1\r\nmode: enforce\r\nmx: Mx1.Example.org\r\nmx: *.example.net\r\nmax_age: 604800\r\n"


# -- the record


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([b"v=STSv1; id=20160831085700Z;"], "20160831085700Z"),
        ([b"v=STSv1;id=1"], "1"),
        ([b"v=STSv1; x=y; id=1; z"], "1"),
        ([b"something", b"v=STSv1; id=1;"], "1"),
        ([], ""),
        ([b"v=STSv1; id=1;", b"v=STSv1; id=2;"], ""),
        ([b"v=STSv1;"], ""),
        ([b"v=STSv1; id=;"], ""),
        ([b"v=STSv1; id=a-b;"], ""),
        ([b"v=STSv1; id=1; id=2"], ""),
        ([b"v=STSv12; id=1;"], ""),
        ([b"v=STSv12; id=1;", b"v=STSv1; id=2;"], "2"),
        ([b"v=STSv1 ; id=1"], "1"),
        ([b"v=STSv1; id=" + b"x" * 33], ""),
        ([b"id=1; v=STSv1"], ""),
        ([b"v=STSv1; id=\xff"], ""),
    ],
)
def test_what_announces_a_policy(records: list[bytes], expected: str) -> None:
    assert announced_id(records) == expected


# -- the policy


def test_a_policy() -> None:
    policy = parse_policy(ENFORCE)
    assert (policy.mode, policy.mx, policy.max_age) == ("enforce", ("mx1.example.org", "*.example.net"), 604_800)
    assert policy.lines == tuple(ENFORCE.decode().split("\r\n")[:-1])
    assert parse_policy(ENFORCE.replace(b"\r\n", b"\n")) == policy
    assert parse_policy(ENFORCE.replace(b": ", b":\t") + b"future: thing\n\nmode: none\n") == policy


def test_a_line_full_of_space_takes_no_longer_than_its_size() -> None:
    def work(size: int) -> Callable[[], object]:
        text = ENFORCE + b"future: x" + size * b" " + b"x\n"
        return lambda: parse_policy(text)

    assert is_linear(work, 6_000)


def test_of_very_many_lines_the_first_are_told() -> None:
    policy = parse_policy(ENFORCE + b"mx: again.example\n" * 900)
    assert (len(policy.mx), len(policy.lines)) == (3, 40)


def test_a_policy_is_kept_for_a_year_at_most() -> None:
    assert parse_policy(ENFORCE.replace(b"604800", b"9999999999")).max_age == LONGEST_AGE


def test_no_policy_needs_no_hosts() -> None:
    assert parse_policy(b"version: STSv1\nmode: none\nmax_age: 86400").mx == ()


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"<html>",
        ENFORCE.replace(b"STSv1", b"STSv2"),
        ENFORCE.replace(b"version: STSv1\r\n", b""),
        ENFORCE.replace(b"enforce", b"Enforce"),
        ENFORCE.replace(b"mode: enforce\r\n", b""),
        ENFORCE.replace(b"max_age: 604800\r\n", b""),
        ENFORCE.replace(b"604800", b"-1"),
        ENFORCE.replace(b"604800", b"1.5"),
        ENFORCE.replace(b"604800", b"99999999999"),
        ENFORCE.replace(b"604800", "\u0661".encode()),
        b"version: STSv1\nmode: enforce\nmax_age: 86400",
        ENFORCE.replace(b"*.example.net", b"*"),
        ENFORCE.replace(b"*.example.net", b"a.*.example.net"),
        ENFORCE.replace(b"*.example.net", b"mx example"),
        ENFORCE.replace(b"*.example.net", b""),
        ENFORCE + b"no field\n",
        ENFORCE + b"\xff: \xff\n",
        ENFORCE + b"mx: a.example\n" * 2000,
        ENFORCE + b"".join(b"mx: a%d.example\n" % number for number in range(300)),
    ],
)
def test_what_is_no_policy(octets: bytes) -> None:
    with pytest.raises(ValueError, match=r"policy|codec"):
        parse_policy(octets)


@given(st.binary(max_size=300))
def test_nothing_in_a_policy_is_a_surprise(octets: bytes) -> None:
    for text in (octets, ENFORCE + octets):
        try:
            policy = parse_policy(text)
        except ValueError:
            continue
        assert policy.mode == "none" or policy.mx
