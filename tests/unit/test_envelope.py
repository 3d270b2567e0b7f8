"""Ids, evidence, and verdicts that cannot contradict their reply."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address

import pytest

from mailgate.address import Address
from mailgate.envelope import Client, Evidence, Origin, new_id
from mailgate.reply import Reply
from mailgate.verdict import Defer, Disconnect, PermanentFailure, Reject, TemporaryFailure

OK, LATER, NEVER = (Reply.of(code, "", "x") for code in (250, 451, 550))


def test_ids_are_distinct_and_sort_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = []
    for second in range(100):
        monkeypatch.setattr("time.time_ns", lambda second=second: (1_800_000_000 + second) * 10**9)
        ids.append(new_id())
    assert ids == sorted(set(ids))
    assert all(len(one) == 16 and one.isalnum() for one in ids)


def test_evidence_is_found_by_its_type() -> None:
    @dataclass(frozen=True)
    class Score:
        points: int

    evidence = Evidence()
    assert evidence.get(Score) is None
    for value in (Score(1), "other", Score(2)):
        evidence.add(value)
    assert evidence.get(Score) == Score(2)
    assert list(evidence.all(Score)) == [Score(1), Score(2)]
    assert len(evidence) == 3


def test_evidence_may_be_about_some_recipients() -> None:
    ann, bob = Address("ann", "d.test"), Address("bob", "d.test")
    evidence = Evidence()
    evidence.add("x")
    assert evidence.is_about_all
    assert list(Evidence.shared([ann, bob], evidence)) == [([ann, bob], ["x"])]
    evidence.add_for("y", {ann}.__contains__)
    evidence.add_for("x", {bob}.__contains__)
    evidence.add("z")
    assert not evidence.is_about_all
    of_session = Evidence(["s"])
    assert list(Evidence.shared([ann, bob], of_session, evidence)) == [
        ([ann], ["s", "x", "y", "z"]),
        ([bob], ["s", "x", "x", "z"]),
    ]
    assert list(evidence) == ["x", "y", "x", "z"]


def test_an_origin_names_its_client_where_its_address_is_known() -> None:
    assert Origin(address="192.0.2.1", name="mx.client.test").client == "mx.client.test[192.0.2.1]"
    assert Origin(address="2001:db8::1").client == "unknown[2001:db8::1]"
    assert Origin(name="mx.client.test", ident="4X").client == ""


def test_a_client_reads_like_a_log_line() -> None:
    assert str(Client(IPv4Address("192.0.2.1"), 25, "mx.example")) == "mx.example[192.0.2.1]"
    assert str(Client(None)) == "unknown[local]"


@pytest.mark.parametrize(
    ("make", "fits"),
    [
        (lambda reply: Reject(reply, "r"), {NEVER}),
        (lambda reply: Defer(reply, "r"), {LATER}),
        (lambda reply: Disconnect(reply, "r"), {LATER, NEVER}),
        (lambda reply: TemporaryFailure("r", reply), {LATER}),
        (lambda reply: PermanentFailure("r", reply), {NEVER}),
    ],
)
def test_a_verdict_and_its_reply_agree(make: Callable[[Reply], object], fits: set[Reply]) -> None:
    for reply in (OK, LATER, NEVER):
        if reply in fits:
            make(reply)
        else:
            with pytest.raises(ValueError, match="does not fit"):
                make(reply)


def test_failures_have_a_reply_of_their_own() -> None:
    assert TemporaryFailure("x").reply.is_transient
    assert PermanentFailure("x").reply.is_permanent
