"""Behind a mail server of ours: the client that it names is judged, and not the mail server."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from ipaddress import IPv4Address
from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.logger import capturedLogs
from zope.interface import implementer
from zope.interface.verify import verifyObject

from mailgate.config.schema import ListenerSection
from mailgate.envelope import NO_ORIGIN, Identity, Origin, Recipient, Session, TraceStep, Transaction
from mailgate.interfaces import IPipeline
from mailgate.message import Message
from mailgate.pipeline.origin import OriginPipeline
from mailgate.reply import Reply
from mailgate.smtp.answers import may_report
from mailgate.testing import wait_for
from mailgate.testing.builders import message, recipient, session, transaction
from mailgate.verdict import Continue, Defer, Disconnect, Reject, Verdict

FAR = Origin(address="203.0.113.9", port=40123, name="mx.far.test", helo="helo.far.test", protocol="SMTP", ident="4X")
POSTFIX = Identity("192.0.2.1", "network")


@implementer(IPipeline)
class Recording:
    """Notes what it is asked, about which session; `verdicts` are its answers by stage."""

    stages = frozenset({"connect", "rcpt", "message"})

    def __init__(self, verdicts: Mapping[str, Verdict | Deferred[Verdict]] = {}) -> None:
        self.asked: list[str] = []
        self.sessions: list[Session] = []
        self._verdicts = verdicts

    def _answer(self, stage: str, session: Session) -> Verdict | Awaitable[Verdict]:
        self.asked.append(stage)
        self.sessions.append(session)
        if stage in ("connect", "helo"):
            session.trace.append(TraceStep(stage, "recording"))
        return self._verdicts.get(stage, Continue())

    def connect(self, session: Session) -> Verdict | Awaitable[Verdict]:
        return self._answer("connect", session)

    def helo(self, session: Session) -> Verdict | Awaitable[Verdict]:
        return self._answer("helo", session)

    def auth(self, session: Session, identity: Identity) -> Verdict | Awaitable[Verdict]:
        return self._answer("auth", session)

    def mail(self, session: Session, transaction: Transaction) -> Verdict | Awaitable[Verdict]:
        return self._answer("mail", session)

    def rcpt(self, session: Session, transaction: Transaction, recipient: Recipient) -> Verdict | Awaitable[Verdict]:
        return self._answer("rcpt", session)

    def data(self, session: Session, transaction: Transaction) -> Verdict | Awaitable[Verdict]:
        return self._answer("data", session)

    def message(self, session: Session, transaction: Transaction, message: Message) -> Sequence[Verdict]:
        verdict = self._answer("message", session)
        return [verdict for _ in transaction.recipients if not isinstance(verdict, Awaitable)]


def listener(**more: Any) -> ListenerSection:
    values: dict[str, Any] = {"name": "postfix", "role": "outbound", "endpoints": ["tcp:10025"], "pipeline": "in"}
    return ListenerSection(**values | {"trusted_networks": ["192.0.2.0/24"], "judge_origin": True} | more)


def judging(strangers: Recording, own: Recording | None = None) -> OriginPipeline:
    return OriginPipeline(listener(), strangers, own or Recording())


def verdict_of(answer: Verdict | Awaitable[Verdict]) -> Verdict:
    assert not isinstance(answer, Awaitable)
    return answer


def test_it_is_a_pipeline() -> None:
    pipeline = judging(Recording())
    verifyObject(IPipeline, pipeline)
    assert pipeline.stages == {"mail", "rcpt", "message"}


def test_all_stages_are_about_the_client_that_is_named() -> None:
    asked, own = Recording(), Recording()
    pipeline = judging(asked, own)
    peer, mail = session(identity=POSTFIX, helo="mx.example.org"), transaction(origin=FAR)
    for answer in (pipeline.connect(peer), pipeline.helo(peer), pipeline.auth(peer, POSTFIX)):
        assert answer == Continue()
    assert not asked.asked
    assert verdict_of(pipeline.mail(peer, mail)) == Continue()
    verdict_of(pipeline.rcpt(peer, mail, recipient()))
    verdict_of(pipeline.data(peer, mail))
    pipeline.message(peer, mail, message())
    assert asked.asked == ["connect", "helo", "mail", "rcpt", "data", "message"]
    assert not own.asked
    judged = asked.sessions[0]
    assert all(one is judged for one in asked.sessions)
    assert (judged.client.address, judged.client.port, judged.client.name) == (
        IPv4Address("203.0.113.9"),
        40123,
        "mx.far.test",
    )
    assert (judged.helo, judged.protocol, judged.identity, judged.proxy) == ("helo.far.test", "SMTP", None, peer.client)
    assert judged.carrier is peer
    assert mail.judged_as is judged
    assert peer.identity is POSTFIX
    assert not peer.trace
    assert [step.stage for step in mail.trace] == ["connect", "helo"]


def test_each_message_has_a_client_of_its_own() -> None:
    asked = Recording()
    pipeline, peer = judging(asked), session(identity=POSTFIX)
    for address in ("203.0.113.9", "2001:db8::1"):
        verdict_of(pipeline.mail(peer, transaction(origin=Origin(address=address))))
    assert [str(one.client.address) for one in asked.sessions][::2] == ["203.0.113.9", "2001:db8::1"]


def test_clients_of_trusted_networks_get_the_other_pipeline() -> None:
    strangers, own = Recording(), Recording()
    verdict_of(judging(strangers, own).mail(session(), transaction(origin=Origin(address="192.0.2.77"))))
    assert not strangers.asked
    assert own.sessions[0].identity == Identity("192.0.2.77", "network")


def test_a_greeting_that_was_not_named_is_not_judged() -> None:
    asked = Recording()
    verdict_of(judging(asked).mail(session(), transaction(origin=Origin(address="203.0.113.9"))))
    assert asked.asked == ["connect", "mail"]


@pytest.mark.parametrize("origin", [None, NO_ORIGIN, Origin(ident="4X"), Origin(ident="4X", helo="x", source="LOCAL")])
@pytest.mark.parametrize("identity", [POSTFIX, None])
def test_where_nobody_is_named_it_is_who_is_connected(origin: Origin | None, identity: Identity | None) -> None:
    strangers, own = Recording(), Recording()
    peer = session(identity=identity)
    verdict_of(judging(strangers, own).mail(peer, transaction(origin=origin)))
    asked = own if identity else strangers
    assert asked.asked == ["connect", "helo", "mail"]
    assert asked.sessions[0].client == peer.client
    assert not (strangers if identity else own).asked


@pytest.mark.parametrize(
    ("networks", "hint"),
    [(["192.0.2.0/24"], "smtp_send_xforward_command=yes"), (["198.51.100.0/24"], "is not in xforward_from")],
)
def test_a_mail_server_that_says_nothing_of_whose_mail_it_is_is_told_of_once(networks: list[str], hint: str) -> None:
    pipeline = OriginPipeline(listener(xforward_from=networks), Recording(), Recording())
    peer = session(identity=POSTFIX)
    with capturedLogs() as logs:
        for origin in (FAR, Origin(source="LOCAL"), None, None):
            mail = transaction(origin=origin)
            verdict_of(pipeline.mail(peer, mail))
            verdict_of(pipeline.rcpt(peer, mail, recipient()))
    (told,) = logs
    assert (told["listener"], told["peer"]) == ("postfix", str(peer.client))
    assert hint in told["why"]


@pytest.mark.parametrize(
    "origin", [Origin(name="mx.far.test", source="REMOTE"), Origin(helo="mx.far.test", ident="4X"), Origin(name="x")]
)
def test_a_stranger_without_an_address_is_nobody_of_ours(origin: Origin) -> None:
    strangers, own = Recording(), Recording()
    verdict_of(judging(strangers, own).mail(session(identity=POSTFIX), transaction(origin=origin)))
    assert not own.asked
    judged = strangers.sessions[0]
    assert (judged.client.address, judged.client.name, judged.identity) == (None, "", None)


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        (Reject(Reply.of(550, "5.7.1", "no"), "x"), Reject(Reply.of(550, "5.7.1", "no"), "x")),
        (Disconnect(Reply.of(550, "5.7.1", "no"), "x"), Reject(Reply.of(550, "5.7.1", "no"), "x")),
        (Disconnect(Reply.of(421, "4.7.0", "no"), "x"), Defer(Reply.of(421, "4.7.0", "no"), "x")),
    ],
)
@pytest.mark.parametrize(("stage", "asked"), [("connect", 1), ("helo", 2), ("mail", 3)])
def test_who_is_refused_early_is_refused_at_mail_and_the_connection_stays(
    stage: str, asked: int, said: Verdict, heard: Verdict
) -> None:
    pipeline = Recording({stage: said})
    assert verdict_of(judging(pipeline).mail(session(), transaction(origin=FAR))) == heard
    assert len(pipeline.asked) == asked


@pytest.mark.parametrize("is_late", [False, True])
@pytest.mark.parametrize("stage", ["rcpt", "data"])
def test_a_client_that_is_sent_away_later_leaves_the_mail_server_connected(stage: str, is_late: bool) -> None:
    said = Disconnect(Reply.of(421, "4.7.0", "no"), "x")
    pipeline = judging(Recording({stage: succeed(said) if is_late else said}))
    mail = transaction(origin=FAR)
    answer = pipeline.rcpt(session(), mail, recipient()) if stage == "rcpt" else pipeline.data(session(), mail)
    assert wait_for(answer) == Defer(said.reply, "x")


def test_nor_does_what_is_found_in_a_message_cut_it() -> None:
    said = Disconnect(Reply.of(550, "5.7.1", "no"), "x")
    answer = judging(Recording({"message": said})).message(
        session(), transaction(recipients=[recipient()], origin=FAR), message()
    )
    assert answer == [Reject(said.reply, "x")]


def test_answers_that_come_later_are_awaited() -> None:
    later: Deferred[Verdict] = Deferred()
    pipeline = Recording({"helo": later})
    answer = judging(pipeline).mail(session(), transaction(origin=FAR))
    assert isinstance(answer, Deferred)
    assert pipeline.asked == ["connect", "helo"]
    later.callback(Continue())
    found: list[Verdict] = []
    answer.addCallback(found.append)
    assert found == [Continue()]
    assert pipeline.asked == ["connect", "helo", "mail"]


def test_a_mail_server_that_names_clients_is_no_sender_to_report_to() -> None:
    assert may_report(listener(judge_origin=False), session(identity=POSTFIX))
    assert not may_report(listener(), session(identity=POSTFIX))
    assert may_report(listener(refused_for_some="report"), session(identity=POSTFIX))
