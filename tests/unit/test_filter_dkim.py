"""The filter dkim: its evidence, its verdicts, and how it reads what is large."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest
from pydantic import ValidationError
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads, IReactorThreads
from twisted.internet.task import Clock
from zope.interface import alsoProvides, implementer

from mailgate.awaiting import as_deferred
from mailgate.envelope import Identity, Session
from mailgate.filters.dkim import Dkim, Options, build
from mailgate.filters.hashing import BodyHashing, OpenContent
from mailgate.interfaces import Answer, DnsStatus, FilterServices, IResolver
from mailgate.mailauth.dkim.canonical import Bodies, split_message
from mailgate.mailauth.dkim.limits import MAX_FIELDS
from mailgate.mailauth.results import DkimResult
from mailgate.message import MAX_HEADER, Content, Message
from mailgate.pipeline.registry import FilterMaker
from mailgate.testing import FilterContract, MemoryResolver, Occasion, message, services, session, transaction, wait_for
from mailgate.testing.fakes import Silent
from mailgate.verdict import Continue, Defer, Quarantine, Reject, Verdict
from tests.unit.auth_stand import Pool, Reactor
from tests.unit.dkim_parts import MESSAGE, NOW, PLACE, ed25519, rsa, signed, zone

dkim = FilterMaker("dkim", "mailgate.filters.dkim", "verifies DKIM signatures")


def clock() -> Clock:
    made = Clock()
    made.advance(NOW)
    return made


def made(records: Mapping[str, object] | None = None, *, resolver: object = None, **options: Any) -> Dkim:
    resolver = resolver or MemoryResolver(zone() if records is None else records)
    built = build(Options.model_validate(options), services(clock=clock(), resolver=resolver))
    assert isinstance(built, Dkim)
    return built


def asked(built: Dkim, content: bytes | Content, who: Session | None = None) -> Verdict | None:
    mail = Message(content) if isinstance(content, Content) else message(content)
    return wait_for(built.on_message(who or session(), transaction(), mail))


def results(verdict: Verdict | None) -> list[DkimResult]:
    assert verdict is not None
    assert all(isinstance(one, DkimResult) for one in verdict.evidence)
    return [one for one in verdict.evidence if isinstance(one, DkimResult)]


def words(verdict: Verdict | None) -> list[str]:
    return [one.result for one in results(verdict)]


# -- evidence


def test_one_result_for_each_signature_is_evidence() -> None:
    mail = signed(signed(signed(), a="rsa-sha1"), s="absent")
    verdict = asked(made(), mail)
    assert isinstance(verdict, Continue)
    assert words(verdict) == ["permerror", "permerror", "pass"]
    assert results(verdict)[2].summary() == "dkim=pass header.d=example.org header.s=key"


def test_a_message_without_signatures_is_answered_at_once() -> None:
    resolver = MemoryResolver(zone())
    assert made(resolver=resolver).on_message(session(), transaction(), message(MESSAGE)) == Continue()
    assert resolver.asked == []


def test_those_below_the_bound_are_one_result() -> None:
    field = signed()[: signed().index(b"From:")]
    verdict = asked(made(max_signatures=2), signed(key=ed25519()).partition(b"From:")[0] + field * 50 + MESSAGE)
    assert words(verdict) == ["permerror", "pass", "policy"]
    assert results(verdict)[-1].reason == "not looked at: the message has 51 signatures"


def test_clients_whose_mail_is_not_verified() -> None:
    user = session(identity=Identity("ann", "PLAIN"))
    assert asked(made(none="reject"), MESSAGE, user) is None
    assert asked(made(none="reject", exempt=["192.0.2.0/24"]), MESSAGE) is None
    assert isinstance(asked(made(none="reject", exempt=["198.51.100.0/24"]), MESSAGE), Reject)


def test_a_signature_of_tomorrow_is_one_of_a_wrong_clock() -> None:
    assert words(asked(made(), signed(t=str(int(NOW) + 10**7)))) == ["pass"]
    assert words(asked(made(), signed(x=str(int(NOW) - 10**7)))) == ["permerror"]


# -- verdicts


@pytest.mark.parametrize(
    ("mail", "outcome", "code", "public", "private"),
    [
        (MESSAGE, "none", b"550 5.7.20", b"no DKIM signature", "not signed"),
        (signed().replace(b"Hello", b"Hullo"), "fail", b"550 5.7.20", b"is valid", "the body has changed"),
        (signed(a="rsa-sha1"), "fail", b"550 5.7.20", b"is valid", "rsa-sha1"),
    ],
)
def test_what_none_and_fail_may_come_to(mail: bytes, outcome: str, code: bytes, public: bytes, private: str) -> None:
    def acting(action: str) -> Dkim:
        options: dict[str, Any] = {outcome: action}
        return made(**options)

    assert isinstance(asked(made(), mail), Continue)
    rejected = asked(acting("reject"), mail)
    assert isinstance(rejected, Reject)
    assert rejected.reply.to_bytes().startswith(code)
    assert public in rejected.reply.to_bytes()
    assert private in rejected.reason
    deferred = asked(acting("defer"), mail)
    assert isinstance(deferred, Defer)
    assert deferred.reply.to_bytes().startswith(b"451 4.7.20")
    kept = asked(acting("quarantine"), mail)
    assert isinstance(kept, Quarantine)
    assert len(results(rejected)) == len(results(deferred)) == len(results(kept)) == (0 if mail is MESSAGE else 1)


@pytest.mark.parametrize("status", ["TIMEOUT", "SERVFAIL"])
def test_a_key_that_dns_cannot_give_now(status: str) -> None:
    assert words(asked(made({PLACE: status}, fail="reject"), signed())) == ["temperror"]
    verdict = asked(made({PLACE: status}, temperror="defer", fail="reject"), signed())
    assert isinstance(verdict, Defer)
    assert verdict.reply.to_bytes().startswith(b"451 4.7.5")


def test_one_signature_that_passes_is_enough() -> None:
    mail = signed(signed(), a="rsa-sha1")
    assert isinstance(asked(made(fail="reject", none="reject", temperror="defer"), mail), Continue)


def test_policies_of_the_site() -> None:
    part = signed(l="5")
    assert words(asked(made(), part)) == ["policy"]
    assert words(asked(made(body_length="allow"), part)) == ["pass"]
    whole = signed(l="26")
    assert words(asked(made(), whole)) == ["pass"]
    added = b"Subject: other\r\n" + signed()
    assert words(asked(made(), added)) == ["policy"]
    assert words(asked(made(added_fields="allow"), added)) == ["pass"]
    assert words(asked(made(minimum_key_bits=2048), signed())) == ["policy"]
    assert isinstance(asked(made(fail="reject"), part), Reject)


@pytest.mark.parametrize(
    "options",
    [
        {"max_signatures": 0},
        {"max_signatures": 1000},
        {"minimum_key_bits": 100},
        {"minimum_key_bits": 8192},
        {"body_length": "never"},
        {"temperror": "reject"},
        {"fail": "discard"},
        {"timeout": "0s"},
    ],
)
def test_options_that_make_no_sense(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Options.model_validate(options)


# -- DNS that does not answer


@implementer(IResolver)
class SomeSilent(Silent):
    """Answers for one name only."""

    def resolve(self, name: str, rdtype: str) -> Answer | Deferred[Answer]:  # type: ignore[override]  # so may any
        return Answer(DnsStatus.FOUND, (rsa().record.encode(),)) if name == PLACE else super().resolve(name, rdtype)


def test_a_key_that_does_not_come_in_time_leaves_the_others() -> None:
    time, resolver = clock(), SomeSilent()
    built = build(Options.model_validate({"timeout": "3s"}), services(clock=time, resolver=resolver))
    assert isinstance(built, Dkim)
    found: list[Verdict | None] = []
    answer = built.on_message(session(), transaction(), message(signed(signed(s="other"), d="mail.example.org")))
    as_deferred(cast("Any", answer)).addCallback(found.append)
    time.advance(2.9)
    assert not found
    assert resolver.open == 2
    time.advance(0.2)
    assert words(found[0]) == ["temperror", "temperror"]
    assert (resolver.open, time.getDelayedCalls()) == (0, [])
    mail = signed(signed(), s="other")
    answer = built.on_message(session(), transaction(), message(mail))
    assert words(wait_for(answer, time)) == ["temperror", "pass"]


# -- large content


class Threads(Reactor):
    """A clock with threads, which work when they are told to."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = Pool(waits=True)
        alsoProvides(self, IReactorThreads, IReactorFromThreads)

    def getThreadPool(self) -> Pool:  # noqa: N802  Twisted's name
        return self.pool


LARGE = MESSAGE + b"line  of text \r\n" * 40_000


def in_file(folder: Path, octets: bytes) -> Content:
    path = folder / "content"
    path.write_bytes(octets)
    return Content.in_file(path)


@pytest.mark.parametrize(
    ("octets", "is_file", "in_thread"), [(MESSAGE, False, False), (LARGE, False, True), (MESSAGE, True, True)]
)
def test_what_takes_long_is_hashed_in_a_thread(tmp_path: Path, octets: bytes, is_file: bool, in_thread: bool) -> None:
    threads = Threads()
    content = in_file(tmp_path, octets) if is_file else Content(octets)
    answer = BodyHashing(threads).bodies(OpenContent(content), [("relaxed", None)])
    assert threads.pool.given == in_thread
    assert isinstance(answer, Bodies) is not in_thread
    threads.pool.work()
    assert wait_for(answer).digest("relaxed") == Bodies(split_message(octets)[1]).digest("relaxed")


def test_a_body_that_nobody_asks_for_is_not_read() -> None:
    threads = Threads()
    opened = OpenContent(Content(LARGE))
    assert isinstance(BodyHashing(threads).bodies(opened, []), Bodies)
    assert threads.pool.given == 0


@pytest.mark.parametrize("is_file", [False, True])
@pytest.mark.parametrize("ends", [b"\r\n", b"\n"])
def test_large_messages_pass_and_fail_as_small_ones(tmp_path: Path, is_file: bool, ends: bytes) -> None:
    mail = signed(LARGE).replace(b"\r\n", ends)
    changed = mail[:-4] + b"!" + mail[-3:]
    for octets, word in ((mail, "pass"), (changed, "fail")):
        content = in_file(tmp_path, octets) if is_file else Content(octets)
        assert words(asked(made(), content)) == [word]


def test_a_header_of_any_size_has_its_end_found(tmp_path: Path) -> None:
    for size in range(MAX_HEADER - 6, MAX_HEADER + 3):
        head = b"X: " + b"x" * (size - 7) + b"\r\n\r\n"
        opened = OpenContent(Content(head + b"body\r\n"))
        assert opened.is_whole is (size < MAX_HEADER)
        if opened.is_whole:
            assert opened.bodies([("simple", None)]).digest("simple") == Bodies(b"body\r\n").digest("simple")


def test_a_header_that_is_too_large_is_a_result() -> None:
    mail = signed().replace(b"From:", b"X: " + b"x" * MAX_HEADER + b"\r\nFrom:", 1)
    verdict = asked(made(), mail)
    assert words(verdict) == ["policy"]
    assert results(verdict)[0].reason == "not looked at: the header is too large"
    many = signed().replace(b"From:", b"X: 1\r\n" * MAX_FIELDS + b"From:", 1)
    assert words(asked(made(), many)) == ["policy"]


def test_a_message_that_is_all_header(tmp_path: Path) -> None:
    mail = signed(MESSAGE.partition(b"\r\n\r\n")[0] + b"\r\n")
    assert words(asked(made(), mail)) == ["pass"]
    assert words(asked(made(), in_file(tmp_path, mail))) == ["pass"]


def test_a_file_that_cannot_be_read_is_the_filter_s_failure_and_leaves_no_question_open(tmp_path: Path) -> None:
    content = in_file(tmp_path, signed(LARGE))
    resolver = Silent()
    threads = Threads()
    built = build(Options(), services(clock=threads, resolver=resolver))
    assert isinstance(built, Dkim)
    answer = as_deferred(cast("Any", built.on_message(session(), transaction(), Message(content))))
    assert resolver.open == 1
    content.discard()
    threads.pool.work()
    with pytest.raises(OSError, match="No such file"):
        wait_for(answer)
    assert resolver.open == 0


class TestContract(FilterContract):
    factory = dkim

    def occasions(self) -> list[Occasion]:
        mails = [MESSAGE, signed(), signed().replace(b"Hello", b"Hullo"), signed(s="other"), signed(a="rsa-sha1")]
        return [Occasion(message=message(mail)) for mail in mails]

    def make_services(self, clock: Clock, **silent: Any) -> FilterServices:
        return super().make_services(clock, **{"resolver": MemoryResolver(zone()), **silent})


class TestContractOfRefusing(TestContract):
    settings: Mapping[str, object] = {"none": "reject", "fail": "quarantine", "temperror": "defer"}
