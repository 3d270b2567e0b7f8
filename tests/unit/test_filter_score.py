"""The score: what counts, how it is summed up and explained, and what comes of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mailgate.address import Address
from mailgate.envelope import Recipient, Transaction
from mailgate.filters.dmarc import DmarcDisposition
from mailgate.filters.dnsbl import ListedResult
from mailgate.filters.score import Options, Score, ScoreResult, build
from mailgate.filters.weights import DEFAULT_WEIGHTS, is_fact, parts_of, total
from mailgate.findings import Finding, Points
from mailgate.mailauth.results import DkimResult, DmarcResult, SpfResult
from mailgate.message import For, apply_edits
from mailgate.pipeline.registry import FilterMaker
from mailgate.testing import FilterContract, Occasion, message, services, session, transaction
from mailgate.verdict import Continue, Quarantine, Reject

score = FilterMaker("score", "mailgate.filters.score", "weighs what all filters have found")


@dataclass(frozen=True)
class Says(Finding):
    """A finding with these facts."""

    words: tuple[str, ...]

    def facts(self) -> Sequence[str]:
        return self.words


def made(**options: Any) -> Score:
    built = build(Options.model_validate(options), services())
    assert isinstance(built, Score)
    return built


def with_evidence(*found: object, to: Iterable[str] = ("bob@example.org",)) -> Transaction:
    mail = transaction(recipients=to)
    for one in found:
        mail.evidence.add(one)
    return mail


def judged(filter_: Score, mail: Transaction, *of_session: object) -> Any:
    """The verdict, or the verdicts, with the evidence kept as the pipeline does."""
    one = session()
    for finding in of_session:
        one.evidence.add(finding)
    verdict = filter_.on_message(one, mail, message())
    for each in verdict if isinstance(verdict, list) else [verdict]:
        assert isinstance(each, Continue | Reject | Quarantine)
        for finding in each.evidence:
            mail.evidence.add(finding)
    return verdict


def points_of(filter_: Score, *found: object) -> float:
    mail = with_evidence(*found)
    judged(filter_, mail)
    result = mail.evidence.get(ScoreResult)
    assert result is not None
    return result.points


WEIGHTS = {"a": 1.0, "a.b": 2.0, "a.b.c": 4.0, "x.y": 8.0, "good": -3.0, "off": 0.0}


@pytest.mark.parametrize(
    ("found", "points"),
    [
        ([], 0.0),
        ([Says(("a",))], 1.0),
        ([Says(("a", "a.b"))], 2.0),
        ([Says(("a.b", "a"))], 2.0),
        ([Says(("a.b.x",))], 2.0),
        ([Says(("a.b.c.d.e",))], 4.0),
        ([Says(("ab",))], 0.0),
        ([Says(("x",))], 0.0),
        ([Says(("a", "x.y"))], 8.0),
        ([Says(("a",)), Says(("x.y",))], 9.0),
        ([Says(("a",)), Says(("a",))], 1.0),
        ([Says(("a.1",)), Says(("a.2",))], 2.0),
        ([Says(("a.1", "a.1.x")), Says(("a.1", "a.1.y"))], 1.0),
        ([Says(("good",)), Says(("a",))], -2.0),
        ([Says(("off",)), Says(("",)), Says(()), "no finding", 7], 0.0),
        ([Points(2.5, "one"), Points(2.5, "one"), Points(2.5, "another"), Says(("a",))], 6.0),
        ([Points(float("nan"), "x"), Points(float("inf"), "x")], 0.0),
    ],
)
def test_what_counts(found: Sequence[object], points: float) -> None:
    assert total(parts_of(found, WEIGHTS)) == points


def test_signatures_do_not_add_up() -> None:
    one = points_of(made(), DkimResult("pass", "a.example"))
    assert one == points_of(made(), *(DkimResult("pass", f"{number}.example") for number in range(100)))
    assert one < 0


def test_a_list_counts_once_and_each_list_by_itself() -> None:
    def listed(zone: str, subject: str) -> ListedResult:
        return ListedResult(zone, subject, ("127.0.0.2",), 1.0)

    filter_ = made(weights={"dnsbl": 1.5, "dnsbl.zen.example": 4.0})
    assert points_of(filter_, listed("zen.example", ANN), listed("zen.example", "a.example")) == 4.0
    assert points_of(filter_, listed("zen.example", ANN), listed("b.example", ANN), listed("c.example", ANN)) == 7.0


ANN = "192.0.2.1"
BAD = [SpfResult("fail", "client.example"), DmarcResult("fail", "reject", "client.example")]


def test_default_weights_are_facts_and_told_in_the_reference() -> None:
    told = " ".join((Options.__doc__ or "").split())
    for fact, weight in DEFAULT_WEIGHTS.items():
        assert is_fact(fact)
        assert f"{fact} {weight:g}" in told
    assert points_of(made(), SpfResult("fail", "client.example")) < 4.0
    assert points_of(made(), *BAD) == 6.5


def test_own_weights_stand_beside_the_default_ones_or_in_their_place() -> None:
    filter_ = made(weights={"spf.fail": 1.0, "custom": 2.0, "dmarc.fail.reject": 0})
    assert points_of(filter_, *BAD, Says(("custom",))) == 3.0


def test_session_and_transaction_count_together() -> None:
    mail = with_evidence(BAD[0])
    verdict = judged(made(weights={"early": 1.0}), mail, Says(("early",)))
    assert isinstance(verdict, Continue)
    assert verdict.evidence == (ScoreResult(3.5, (("spf.fail", 2.5), ("early", 1.0))),)


def test_the_sum_is_explained_the_heaviest_first() -> None:
    result = ScoreResult(total(parts := parts_of([*BAD, Says(("good",)), Points(1.25, "x")], WEIGHTS)), parts)
    assert result.summary() == "score=-1.75 good -3, points (x) 1.25"
    assert ScoreResult(0.0).summary() == "score=0"
    assert result.facts() == ()


@given(st.permutations([*(Says((f"a.{number}",)) for number in range(6)), Says(("good",)), Points(0.1, "x"), *BAD]))
def test_the_order_of_the_evidence_changes_nothing(found: list[object]) -> None:
    weights = {**DEFAULT_WEIGHTS, **WEIGHTS, "a.1": 0.1, "a.2": 0.2}
    assert parts_of(found, weights) == parts_of(sorted(found, key=repr), weights)


def test_what_floats_leave_behind_changes_no_verdict() -> None:
    filter_ = made(weights={"a": 0.1, "b": 0.2}, thresholds={"tag": 0.0, "reject": 0.3})
    assert isinstance(judged(filter_, with_evidence(Says(("a",)), Says(("b",)))), Reject)


LIMITS: dict[str, Any] = {
    "weights": {"p": 1.0, "q": 4.0, "r": 8.0},
    "thresholds": {"tag": 1.0, "quarantine": 4.0, "reject": 8.0},
}


def test_thresholds() -> None:
    filter_ = made(**LIMITS)
    assert isinstance(judged(filter_, with_evidence()), Continue)
    assert isinstance(judged(filter_, with_evidence(Says(("p",)))), Continue)
    quarantined = judged(filter_, with_evidence(Says(("q",))))
    assert isinstance(quarantined, Quarantine)
    assert quarantined.reason == "score 4 reaches 4: q 4"
    assert quarantined.recipients == ()
    refused = judged(filter_, with_evidence(Says(("r",)), Says(("p",))))
    assert isinstance(refused, Reject)
    assert str(refused.reply) == "550 5.7.1 Refused: this message looks like spam"
    assert refused.reason == "score 9 reaches 8: r 8, p 1"
    assert refused.recipients == ()


def test_by_default_spam_is_refused_and_nothing_quarantined() -> None:
    filter_ = made(weights={"x": 9.9, "y": 0.1})
    assert isinstance(judged(filter_, with_evidence(Says(("x",)))), Continue)
    assert isinstance(judged(filter_, with_evidence(Says(("x",)), Says(("y",)))), Reject)


DOMAINS = {
    "patient.example": {"quarantine": 20.0, "reject": False},
    "*.strict.example": {"tag": 0.5, "quarantine": False, "reject": 1.0},
}


def test_domains_have_thresholds_of_their_own() -> None:
    filter_ = made(**LIMITS, domains=DOMAINS)
    found = Says(("r",))
    assert isinstance(judged(filter_, with_evidence(found, to=["a@patient.example"])), Continue)
    assert isinstance(judged(filter_, with_evidence(Says(("p",)), to=["a@x.strict.example"])), Reject)
    verdicts = judged(filter_, with_evidence(found, to=["a@patient.example", "b@x.strict.example", "c@example.org"]))
    assert isinstance(verdicts, list)
    told, refused = verdicts
    assert isinstance(told, Continue)
    assert isinstance(refused, Reject)
    assert [str(one) for one in refused.recipients] == ["b@x.strict.example", "c@example.org"]
    assert refused.reason == "score 8 reaches 8: r 8"
    three = judged(
        filter_, with_evidence(Says(("q",)), to=["a@patient.example", "b@x.strict.example", "c@example.org"])
    )
    assert [(type(one), [str(to) for to in getattr(one, "recipients", ())]) for one in three] == [
        (Continue, []),
        (Reject, ["b@x.strict.example"]),
        (Quarantine, ["c@example.org"]),
    ]
    both = judged(filter_, with_evidence(found, to=["b@x.strict.example", "c@example.org"]))
    assert isinstance(both, Reject)


class Incomparable(Recipient):
    """A recipient that is never looked for among the others: with 1000 of them that would take its time."""

    def __eq__(self, other: object) -> bool:
        raise AssertionError("two recipients were compared")

    __hash__ = None  # type: ignore[assignment]  # as of what is compared


def test_many_recipients_of_two_minds_are_judged_each_by_itself() -> None:
    filter_ = made(domains={"strict.example": {"tag": 1.0, "reject": 1.0}})
    mail = with_evidence(Points(5.0, "much"))
    domains = ["strict.example" if number % 2 else "lax.example" for number in range(100)]
    mail.recipients = [Incomparable(address=Address(f"user{at}", domain)) for at, domain in enumerate(domains)]
    _, verdict = judged(filter_, mail)
    assert isinstance(verdict, Reject)
    assert {one.domain for one in verdict.recipients} == {"strict.example"}
    assert len(verdict.recipients) == 50
    tagged = filter_.modify(session(), mail, message())
    assert [len(one.recipients) for one in tagged if isinstance(one, For)] == [50, 50]


def test_what_was_found_for_some_weighs_for_those_only() -> None:
    filter_ = made(weights={"x": 20.0, "y": 5.0})
    mail = with_evidence(Says(("y",)), to=["a@one.example", "b@two.example", "c@one.example"])
    mail.evidence.add_for(Says(("x",)), lambda address: address.domain == "one.example")
    told, refused = judged(filter_, mail)
    assert [str(one) for one in refused.recipients] == ["a@one.example", "c@one.example"]
    assert [(one.points, one.recipients and len(one.recipients)) for one in told.evidence] == [(25.0, 2), (5.0, 1)]
    fields: Sequence[Any] = filter_.modify(session(), mail, message())
    assert [(list(map(str, one.recipients)), one.edits[1].value) for one in fields] == [
        (["a@one.example", "c@one.example"], "25"),
        (["b@two.example"], "5"),
    ]


def test_what_was_found_for_some_is_weighed_once_for_all_of_them() -> None:
    asked: list[None] = []

    class Counted(Finding):
        def facts(self) -> Sequence[str]:
            asked.append(None)
            return ("x",)

    filter_ = made(weights={"x": 1.0})
    mail = with_evidence(to=[f"u{number}@{number % 2}.example" for number in range(200)])
    mail.evidence.add_for(Counted(), lambda address: address.domain == "0.example")
    judged(filter_, mail)
    assert 0 < len(asked) < 10


def test_what_dmarc_excuses_weighs_as_if_nothing_had_been_asked_for() -> None:
    failed = DmarcResult(result="fail", domain="example.com", policy="reject")
    excused = DmarcDisposition(failed, "none", "mailing_list", "it comes by lists.example")
    owner_asks_nothing = DmarcResult(result="fail", domain="example.com", policy="none")
    assert points_of(made(), failed, excused) == points_of(made(), owner_asks_nothing)
    assert points_of(made(), failed, DmarcDisposition(failed, "none", "local_policy")) == points_of(made(), failed)


def test_all_off() -> None:
    filter_ = made(thresholds={"tag": False, "quarantine": False, "reject": False}, weights={"x": 1000})
    mail = with_evidence(Says(("x",)))
    assert isinstance(judged(filter_, mail), Continue)
    assert filter_.modify(session(), mail, message()) == []


def header(filter_: Score, mail: Transaction, data: bytes = b"Subject: x\r\n\r\nbody\r\n") -> bytes:
    given_ = message(data)
    edits: Sequence[Any] = filter_.modify(session(), mail, given_)
    return apply_edits(given_.content.header, edits)


def test_what_is_tagged_says_why() -> None:
    filter_ = made(**{**LIMITS, "weights": {"p": 1.0, "good": -0.5}})
    mail = with_evidence(Says(("p",)), Says(("good",)), Points(0.5, "anything\r\nEvil: x"))
    judged(filter_, mail)
    assert header(filter_, mail) == (
        b"X-Spam-Flag: YES\r\n"
        b"X-Spam-Score: 1\r\n"
        b"X-Spam-Status: Yes, score=1 required=1\r\n\tp=1\r\n\tpoints=0.5\r\n\tgood=-0.5\r\n"
        b"Subject: x\r\n"
    )


def test_what_is_not_tagged_stays_as_it_is() -> None:
    filter_ = made(**LIMITS)
    mail = with_evidence()
    judged(filter_, mail)
    assert filter_.modify(session(), mail, message()) == []


@pytest.mark.parametrize(
    "line", [b"X-Spam-Flag: NO", b"x-SPAM-flag : NO", b"X-Spam-Score:\r\n\t-100", b"X-Spam-Status: No, score=-99"]
)
@pytest.mark.parametrize("found", [[], [Says(("p",))]])
def test_nobody_sends_our_fields_along(line: bytes, found: list[object]) -> None:
    filter_ = made(**LIMITS)
    mail = with_evidence(*found)
    judged(filter_, mail)
    result = header(filter_, mail, b"Subject: x\r\n" + line + b"\r\nTo: y\r\n" + line + b"\r\n\r\nX-Spam-Flag: z\r\n")
    assert result.endswith(b"Subject: x\r\nTo: y\r\n")
    assert line not in result


def test_fields_have_the_names_that_are_wanted() -> None:
    filter_ = made(**LIMITS, score_field="X-Points", status_field="", flag_field="")
    mail = with_evidence(Says(("p",)))
    judged(filter_, mail)
    data = b"X-Points: -5\r\nX-Spam-Flag: of another\r\n\r\n"
    assert header(filter_, mail, data) == b"X-Points: 1\r\nX-Spam-Flag: of another\r\n"


def test_each_recipient_has_its_own_tag() -> None:
    filter_ = made(**{**LIMITS, "weights": {"p": 0.6}}, domains=DOMAINS)
    mail = with_evidence(Says(("p",)), to=["a@example.org", "b@x.strict.example"])
    judged(filter_, mail)
    (tagged,) = filter_.modify(session(), mail, message())
    assert isinstance(tagged, For)
    assert list(map(str, tagged.recipients)) == ["b@x.strict.example"]
    assert b"required=0.5" in apply_edits(b"", tagged.edits)
    mail = with_evidence(Says(("p",)))
    judged(filter_, mail)
    assert b"required" not in header(filter_, mail)


def test_two_of_them_tag_each_by_its_own_sum() -> None:
    low, high = made(weights={"p": 1}), made(weights={"p": 5})
    mail = with_evidence(Says(("p",)))
    judged(low, mail)
    judged(high, mail)
    assert b"score=5" in header(high, mail)
    assert header(low, mail) == b"Subject: x\r\n"


def test_without_a_sum_nothing_is_added_and_still_removed() -> None:
    mail = with_evidence()
    assert header(made(), mail, b"X-Spam-Flag: NO\r\nTo: y\r\n\r\n") == b"To: y\r\n"


def test_many_facts_of_any_kind_make_a_bounded_field() -> None:
    filter_ = made(weights={"x": 0.01}, thresholds={"tag": 0.0})
    words = [Says((f"x.{number}\r\nEvil: {'y' * 1000}",)) for number in range(500)]
    mail = with_evidence(*words)
    verdict = judged(filter_, mail)
    assert isinstance(verdict, Continue)
    found = header(filter_, mail)
    assert b"Evil:" not in found
    assert len(found) < 10_000
    assert max(map(len, found.split(b"\r\n"))) < 998
    assert found.count(b"\r\n\t") == 30


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"weights": {"SPF.fail": 1.0}}, "does not look like a fact"),
        ({"weights": {"spf fail": 1.0}}, "does not look like a fact"),
        ({"weights": {"": 1.0}}, "does not look like a fact"),
        ({"weights": {"spf..fail": 1.0}}, "does not look like a fact"),
        ({"weights": {"spf.fail": float("nan")}}, "finite"),
        ({"weights": {"spf.fail": 1e9}}, "1000"),
        ({"thresholds": {"reject": True}}, "False"),
        ({"thresholds": {"moon": 1.0}}, "moon"),
        ({"score_field": "X Spam"}, "no name of a header field"),
        ({"domains": {"*": {"reject": 1.0}}}, "every domain"),
        ({"thresholds": {"tag": 5.0, "quarantine": 4.0}}, "thresholds: tag, quarantine and reject must not be lower"),
        ({"domains": {"example.org": {"reject": 1.0}}}, 'domains."example.org": tag, quarantine and reject'),
    ],
)
def test_options_that_cannot_work(options: Mapping[str, Any], what: str) -> None:
    with pytest.raises((ValidationError, ValueError), match=what):
        made(**options)


def test_facts_that_nobody_says_yet_may_be_weighed() -> None:
    assert made(weights={"some-filter.of_another.1": 2.0})


class TestContract(FilterContract):
    factory = score
    settings: Mapping[str, object] = LIMITS

    def occasions(self) -> Iterable[Occasion]:
        return [
            Occasion(transaction=with_evidence(*found, to=["bob@example.org", "eve@example.org"]))
            for found in ([], [Says(("p",))], [Says(("q",))], [Says(("r",))])
        ]
