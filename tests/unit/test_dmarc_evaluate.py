"""DMARC evaluated: alignment, policies, what cannot be told, several authors, and how much is asked."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from mailgate.interfaces import Answer
from mailgate.mailauth.dmarc.author import Authors, author_domains
from mailgate.mailauth.dmarc.evaluate import MAX_IDENTITIES, evaluate_dmarc
from mailgate.mailauth.dmarc.organization import MAX_QUERIES
from mailgate.mailauth.dmarc.record import Mode
from mailgate.mailauth.results import ArcResult, ArcSet, DkimResult, DmarcResult, SpfResult
from mailgate.testing import MemoryResolver

REJECT = "v=DMARC1; p=reject"
FAILED = SpfResult("fail", "example.org")


def zone_of(records: Mapping[str, Any], exists: Sequence[str] = ()) -> dict[str, Any]:
    zone: dict[str, Any] = {name: {"A": ["192.0.2.1"]} for name in exists}
    for domain, what in records.items():
        zone[f"_dmarc.{domain}"] = what if isinstance(what, str) and not what.startswith("v=") else {"TXT": what}
    return zone


class Question:
    """One evaluation; the coroutine ends at once, without any reactor."""

    def __init__(self, records: Mapping[str, Any], *, exists: Sequence[str] = (), mode: Mode = "rfc9989") -> None:
        self.resolver = MemoryResolver(zone_of(records, exists))
        self.mode: Mode = mode

    def __call__(
        self,
        author: str | Sequence[str] | Authors = "example.org",
        spf: SpfResult | None = FAILED,
        *dkim: DkimResult,
        arc: ArcResult | None = None,
        chance: random.Random | None = None,
    ) -> DmarcResult:
        coroutine = evaluate_dmarc(
            self.resolver, header_from=author, spf=spf, dkim=dkim, arc=arc, mode=self.mode, chance=chance
        )
        with pytest.raises(StopIteration) as ended:
            coroutine.send(None)
        result = ended.value.value
        assert isinstance(result, DmarcResult)
        return result


def test_a_pass_and_what_it_rests_on() -> None:
    ask = Question({"example.org": REJECT})
    spf, dkim = SpfResult("pass", "bounces.example.org"), DkimResult("pass", "Example.ORG", "s1")
    both = ask("example.org", spf, dkim)
    assert (both.result, both.policy, both.aligned) == ("pass", "none", ("spf", "dkim"))
    assert (both.domain, both.organization) == ("example.org", "example.org")
    assert both.record is not None
    assert both.record.policy == "reject"
    assert ask("example.org", spf).aligned == ("spf",)
    assert ask("example.org", None, dkim).aligned == ("dkim",)
    assert ask("example.org", SpfResult("pass", "mx.example.org", "helo")).aligned == ("spf",)


def test_a_fail_tells_what_there_was() -> None:
    ask = Question({"example.org": REJECT})
    result = ask("example.org", SpfResult("pass", "other.example"), DkimResult("fail", "example.org", "s1"))
    assert (result.result, result.policy, result.aligned) == ("fail", "reject", ())
    assert result.reason == "p=reject of example.org; spf=pass for other.example; dkim=fail for example.org"
    assert ask("example.org", None).reason == "p=reject of example.org; SPF was not checked; no signature was checked"
    many = ask("example.org", FAILED, *[DkimResult("fail", f"d{number}.example") for number in range(9)])
    assert many.reason.endswith("dkim=fail for d4.example; 4 signatures more")


def test_arc_is_told_and_changes_nothing() -> None:
    ask = Question({"example.org": REJECT})
    arc = ArcResult(
        "pass", sets=(ArcSet(1, "lists.example", "s", "lists.example; dmarc=pass header.from=example.org"),)
    )
    result = ask("example.org", FAILED, arc=arc)
    assert (result.result, result.policy) == ("fail", "reject")
    assert result.reason.endswith("; arc=pass sealed by lists.example")


def test_one_question_where_the_very_domain_has_signed() -> None:
    ask = Question({"mail.example.org": REJECT})
    result = ask("mail.example.org", SpfResult("fail", "x.example"), DkimResult("pass", "mail.example.org"))
    assert (result.result, result.organization) == ("pass", "mail.example.org")
    assert ask.resolver.asked == [("_dmarc.mail.example.org", "TXT")]


@pytest.mark.parametrize(
    ("record", "author", "exists", "asked", "reason"),
    [
        ("p=reject; sp=quarantine; np=none", "example.org", (), "reject", "p=reject of example.org"),
        ("p=reject; sp=quarantine; np=none", "a.example.org", ("a.example.org",), "quarantine", "sp=quarantine of"),
        ("p=reject; sp=quarantine; np=none", "a.example.org", ("b.a.example.org",), "quarantine", "sp=quarantine of"),
        ("p=reject; sp=quarantine; np=none", "a.example.org", (), "none", "np=none of example.org"),
        ("p=none; np=reject", "a.example.org", (), "reject", "np=reject of"),
        ("p=reject; t=y", "example.org", (), "quarantine", "p=reject of example.org, in test mode"),
        ("p=quarantine; t=y", "example.org", (), "none", "p=quarantine of example.org, in test mode"),
        ("p=none; t=y", "example.org", (), "none", "p=none of example.org, in test mode"),
        ("p=none; sp=reject; t=y", "a.example.org", (), "quarantine", "sp=reject of example.org, in test mode"),
        ("p=reject; pct=0", "example.org", (), "reject", "p=reject"),
    ],
)
def test_what_the_owner_asks_for(record: str, author: str, exists: tuple[str, ...], asked: str, reason: str) -> None:
    result = Question({"example.org": f"v=DMARC1; {record}"}, exists=exists)(author)
    assert (result.result, result.policy) == ("fail", asked)
    assert result.reason.startswith(reason)


def test_whether_the_author_exists_is_asked_only_where_it_counts() -> None:
    for record in ("v=DMARC1; p=none; sp=reject", "v=DMARC1; p=none; sp=reject; np=reject"):
        ask = Question({"example.org": record})
        assert ask("a.example.org").policy == "reject"
        assert ("a.example.org", "A") not in ask.resolver.asked
    ask = Question({"example.org": "v=DMARC1; p=none; np=reject"})
    assert ask("a.example.org", None, DkimResult("pass", "a.example.org")).result == "pass"
    assert ("a.example.org", "A") not in ask.resolver.asked


@pytest.mark.parametrize(
    ("tags", "asked"), [("sp=none; np=reject", "none"), ("sp=reject; np=quarantine", "quarantine")]
)
def test_the_milder_policy_where_dns_cannot_say_whether_the_author_exists(tags: str, asked: str) -> None:
    ask = Question({"example.org": f"v=DMARC1; p=reject; {tags}"})
    ask.resolver = MemoryResolver(
        zone_of({"example.org": f"v=DMARC1; p=reject; {tags}"}) | {"a.example.org": "TIMEOUT"}
    )
    assert (ask("a.example.org").result, ask("a.example.org").policy) == ("fail", asked)


@pytest.mark.parametrize("method", ["spf", "dkim"])
def test_a_temporary_result_counts_where_it_could_have_helped(method: str) -> None:
    def asked(domain: str, record: str = REJECT, *more: DkimResult) -> str:
        if method == "spf":
            return Question({"example.org": record})("example.org", SpfResult("temperror", domain), *more).result
        return Question({"example.org": record})("example.org", None, DkimResult("temperror", domain), *more).result

    assert asked("a.example.org") == "temperror"
    assert asked("a.example.org", "v=DMARC1; p=reject; aspf=s; adkim=s") == "fail"
    assert asked("other.example") == "fail"
    assert asked("") == "fail"
    assert asked("a.example.org", REJECT, DkimResult("pass", "example.org")) == "pass"


def test_policy_that_dns_cannot_tell() -> None:
    result = Question({"example.org": "SERVFAIL"})("example.org", SpfResult("pass", "example.org"))
    assert (result.result, result.policy, result.record) == ("temperror", "none", None)
    assert result.reason == "DNS cannot say now whether _dmarc.example.org has a record"
    above = Question({"a.example.org": "TIMEOUT", "example.org": REJECT})
    result = above("a.example.org")
    assert result.result == "temperror"
    assert result.record is not None
    assert result.record.domain == "example.org"
    # Whichever record it is, this passes.
    assert above("a.example.org", None, DkimResult("pass", "a.example.org")).result == "pass"


def test_alignment_that_dns_cannot_tell() -> None:
    ask = Question({"example.org": REJECT, "org": "TIMEOUT"})
    result = ask("example.org", SpfResult("pass", "a.example.org"))
    assert (result.result, result.policy) == ("temperror", "none")
    assert result.reason == "DNS cannot say now whether a.example.org and example.org belong together"
    assert ask("example.org", SpfResult("pass", "other.example")).result == "fail"
    assert ask("example.org", SpfResult("pass", "example.org")).result == "pass"


def test_no_record_and_a_broken_one() -> None:
    result = Question({})("a.example.org", SpfResult("pass", "a.example.org"))
    assert (result.result, result.domain, result.reason) == ("none", "a.example.org", "there is no record")
    result = Question({"example.org": [REJECT, REJECT]})("example.org", SpfResult("pass", "example.org"))
    assert (result.result, result.reason) == ("none", "there are 2 records at _dmarc.example.org")
    result = Question({"example.org": "v=DMARC1; p=none; p=none"})("example.org", SpfResult("pass", "example.org"))
    assert (result.result, result.reason) == ("permerror", "the record of example.org has p= twice")


@pytest.mark.parametrize(
    ("author", "result", "domain"),
    [
        ("example.org", "fail", "example.org"),
        ("EXAMPLE.org.", "fail", "example.org"),
        ("Ann <ann@example.org>", "fail", "example.org"),
        (["ann@example.org", "Bob <bob@example.org>"], "fail", "example.org"),
        (["other.example", "example.org"], "fail", "example.org"),
        ("ann@other.example, bob@example.org", "fail", "example.org"),
        (["weak.example", "example.org"], "fail", "example.org"),
        ("other.example", "none", "other.example"),
        ([], "permerror", ""),
        ("", "permerror", ""),
        ("[192.0.2.1]", "permerror", ""),
        ("<ann@other.example", "permerror", "other.example"),
        ("<ann@example.org", "fail", "example.org"),
    ],
)
def test_who_the_author_may_be(author: str | list[str], result: str, domain: str) -> None:
    ask = Question({"example.org": REJECT, "weak.example": "v=DMARC1; p=none"})
    found = ask(author, SpfResult("pass", "evil.example"))
    assert (found.result, found.domain) == (result, domain)
    assert found.policy == ("reject" if result == "fail" else "none")


def test_all_authors_must_pass() -> None:
    ask = Question({"one.example": REJECT, "two.example": REJECT, "slow.example": "TIMEOUT"})
    one, two = DkimResult("pass", "one.example"), DkimResult("pass", "two.example")
    assert ask(["one.example", "two.example"], None, one, two).result == "pass"
    assert ask(["one.example", "two.example"], None, one).result == "fail"
    assert ask(["one.example", "none.example"], None, one).result == "none"
    assert ask(["none.example", "one.example"], None, one).result == "none"
    assert ask(["one.example", "slow.example"], None, one).result == "temperror"
    assert ask(["two.example", "slow.example"], None, one).result == "fail"


def test_an_author_of_whom_nothing_can_be_told_is_not_hidden_by_a_harmless_one() -> None:
    ask = Question({"calm.example": "v=DMARC1; p=none", "example.org": REJECT, "lame.example": "SERVFAIL"})
    unsure = DkimResult("temperror", "example.org")
    for first in ("a@calm.example", "a@lame.example"):
        found = ask([first, "ceo@example.org"], FAILED, unsure)
        assert (found.result, found.domain) == ("temperror", "example.org")
    # What is asked for certainly needs no more answers.
    ask = Question({"shop.example": "v=DMARC1; p=quarantine", "example.org": REJECT})
    certain = ask(["a@shop.example", "ceo@example.org"], SpfResult("fail", "shop.example"), unsure)
    assert (certain.result, certain.policy) == ("fail", "quarantine")


def test_a_from_field_with_a_problem_never_passes() -> None:
    ask = Question({"one.example": REJECT})
    one = DkimResult("pass", "one.example")
    twice = author_domains(["a@one.example", "a@one.example"])
    result = ask(twice, None, one)
    assert (result.result, result.aligned, result.reason) == ("permerror", (), "there are 2 From fields")
    assert ask(twice, None).result == "fail"


@pytest.mark.parametrize(
    ("tags", "policy"),
    [
        ("p=reject; pct=0", "quarantine"),
        ("p=quarantine; pct=0", "none"),
        ("p=reject; pct=1", "reject"),
        ("p=reject; t=y", "reject"),
    ],
)
def test_pct_of_rfc_7489_without_chance(tags: str, policy: str) -> None:
    assert Question({"example.org": f"v=DMARC1; {tags}"}, mode="rfc7489")("example.org").policy == policy


def test_pct_of_rfc_7489_is_drawn() -> None:
    ask = Question({"example.org": "v=DMARC1; p=reject; pct=25"}, mode="rfc7489")
    chance = random.Random(7)
    drawn = [ask("example.org", chance=chance).policy for _ in range(1000)]
    assert 200 < drawn.count("reject") < 300
    assert drawn.count("reject") + drawn.count("quarantine") == 1000
    never = Question({"example.org": "v=DMARC1; p=reject; pct=0"}, mode="rfc7489")
    assert {never("example.org", chance=chance).policy for _ in range(50)} == {"quarantine"}


def test_rfc_7489_has_no_policy_for_missing_domains() -> None:
    ask = Question({"example.org": "v=DMARC1; p=none; sp=quarantine; np=reject"}, mode="rfc7489")
    assert ask("a.example.org").policy == "quarantine"


def test_so_many_questions_are_asked() -> None:
    author = "a.b.c.d.e.f.g.example.org"
    ask = Question({"example.org": REJECT})
    signers = [DkimResult("pass", f"s{number}.t.u.v.w.x.y.z.example.org") for number in range(1000)]
    assert ask(author, FAILED, *signers).result == "pass"
    ask = Question({"example.org": f"{REJECT}; adkim=s"})
    assert ask(author, FAILED, *signers).result == "fail"
    assert len(ask.resolver.asked) <= MAX_QUERIES + 1
    deep = [DkimResult("temperror", f"s{number}.t{number}.u{number}.v{number}.example.org") for number in range(1000)]
    ask = Question({"example.org": REJECT})
    assert ask(author, FAILED, *deep).result == "temperror"
    assert len(ask.resolver.asked) <= MAX_QUERIES * (MAX_IDENTITIES + 1)


def test_foreign_signatures_cost_nothing() -> None:
    ask = Question({"example.org": REJECT})
    ask("example.org", FAILED, *[DkimResult("pass", f"a.b.c.d.e.f.evil{number}.org") for number in range(9)])
    assert ask.resolver.asked == [("_dmarc.example.org", "TXT"), ("_dmarc.org", "TXT")]


def test_answers_may_come_later() -> None:
    class Later(MemoryResolver):
        def resolve(self, name: str, rdtype: str) -> Deferred[Answer]:  # type: ignore[override]  # so may any
            deferred: Deferred[Answer] = Deferred()
            waiting.append((deferred, super().resolve(name, rdtype)))
            return deferred

    waiting: list[tuple[Deferred[Answer], Answer]] = []
    evaluation = Deferred.fromCoroutine(
        evaluate_dmarc(Later(zone_of({"example.org": REJECT})), header_from="a.example.org", spf=FAILED, dkim=[])
    )
    results: list[DmarcResult] = []
    evaluation.addCallback(results.append)
    while waiting:
        deferred, answer = waiting.pop()
        deferred.callback(answer)
    assert [one.result for one in results] == ["fail"]
