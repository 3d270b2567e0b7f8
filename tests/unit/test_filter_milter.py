"""The filter `milter`: what each answer means for mail, sessions and transactions, and milters that are lost."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorThreads
from twisted.internet.task import Clock
from zope.interface import implementer

from mailgate.address import Address
from mailgate.envelope import Client, Identity, Tls
from mailgate.events import BreakerChanged, FilterFailed, SessionClosed
from mailgate.filters.milter import Milter, Options, build
from mailgate.filters.milter_verdicts import MilterResult
from mailgate.interfaces import FilterServices, IMessageFilter
from mailgate.message import (
    AddHeader,
    AddRecipient,
    ContentWriter,
    Edit,
    ReplaceBody,
    Splice,
    check_body_edits,
    materialised,
    release,
)
from mailgate.pipeline.member import Member
from mailgate.pipeline.registry import FilterMaker
from mailgate.pipeline.runner import Pipeline
from mailgate.reply import Reply
from mailgate.scanners.milter.error import MilterError
from mailgate.scanners.pool import ScannerError
from mailgate.testing import (
    EventRecorder,
    FilterContract,
    Occasion,
    message,
    recipient,
    services,
    session,
    transaction,
    wait_for,
)
from mailgate.testing.answers import as_deferred
from mailgate.verdict import (
    Accept,
    Continue,
    Defer,
    Discard,
    Disconnect,
    PermanentFailure,
    Quarantine,
    Reject,
    TemporaryFailure,
    Verdict,
)
from mailgate.wire.milter.codec import (
    BodyReplaced,
    HeaderAdded,
    HeaderChanged,
    HeaderInserted,
    Quarantined,
    RecipientAdded,
    ReplyGiven,
    encode_answer,
)
from mailgate.wire.milter.codec import (
    Options as Agreed,
)
from mailgate.wire.milter.words import Code, Plain, Steps
from tests.unit.auth_stand import Pool
from tests.unit.milter_peer import EVERYTHING, MilterPeer, Network, Said

HERE = "127.0.0.1:8891"
BOB, EVE = "bob@example.org", "eve@example.org"


class Mail:
    """A filter before this peer, and sessions that go through its stages."""

    def __init__(self, peer: MilterPeer, peers: dict[str, MilterPeer] | None = None, **options: Any) -> None:
        self.peer = peer
        self.network = Network(peers or {HERE: peer})
        self.clock = self.network.clock
        settings = {"servers": ["127.0.0.1"], **options}
        built = build(Options.model_validate(settings), services(clock=self.network))
        assert isinstance(built, Milter)
        self.milter = built

    def opens(self, number: str = "S1", **more: Any) -> Verdict | None:
        self.session = session(id=number, **more)
        return self._of(self.milter.on_connect(self.session)) or self._of(self.milter.on_helo(self.session))

    def brings(
        self, *recipients: str, number: str = "M1", text: bytes = b"Subject: one\r\n\r\nHello\r\n", **more: Any
    ) -> Verdict | None:
        """A message, up to the first verdict that is not to go on."""
        self.mail = transaction(id=number, recipients=[], **more)
        self.message = message(text)
        verdict = self._of(self.milter.on_mail(self.session, self.mail))
        for address in recipients or (BOB,):
            if isinstance(verdict, Continue | None):
                one = recipient(address)
                verdict = self._of(self.milter.on_rcpt(self.session, self.mail, one))
                self.mail.recipients.append(one)
        if isinstance(verdict, Continue | None):
            verdict = self._of(self.milter.on_data(self.session, self.mail))
        if isinstance(verdict, Continue | None):
            verdict = self._of(self.milter.on_message(self.session, self.mail, self.message))
        return verdict

    def edits(self) -> list[Edit]:
        return list(wait_for(self.milter.modify(self.session, self.mail, self.message), self.clock))

    def closes(self, number: str = "S1") -> None:
        self.milter.observe(
            SessionClosed(at=0, session=number, client="", listener="", helo="", messages=0, seconds=0, cause="quit")
        )
        self.clock.advance(0)

    def _of(self, answer: Any) -> Verdict | None:
        found: Verdict | None = wait_for(answer, self.clock)
        return found


def test_a_session_from_its_beginning_to_its_end() -> None:
    mail = Mail(MilterPeer())
    assert mail.opens() is None
    assert mail.brings(BOB, EVE) == Continue((MilterResult("127.0.0.1:8891", "continue"),))
    assert mail.edits() == []
    mail.brings(number="M2")
    mail.closes()
    assert mail.peer.words() == "OCHMRRTLNBEMRTLNBEQ"
    assert [wire.is_open for wire in mail.peer.connections] == [False]


def test_what_it_is_told() -> None:
    mail = Mail(MilterPeer(), macros={"{daemon_name}": "ORIGINATING", "site": "here"})
    tls = Tls(version="TLSv1.3", cipher="X", subject="CN=ann")
    mail.opens(tls=tls, identity=Identity("ann", "PLAIN"), destination=(ip_address("192.0.2.9"), 25))
    mail.brings(declared_size=20)
    told = {data[:1]: data[1:] for data in mail.peer.data(Code.MACROS)}
    connected = dict(zip(*[iter(told[b"C"].split(b"\0"))] * 2, strict=False))
    assert connected[b"{daemon_name}"] == b"ORIGINATING"
    assert connected[b"site" if b"site" in connected else b"{site}"] == b"here"
    assert connected[b"{client_addr}"] == b"192.0.2.1"
    assert connected[b"_"] == b"client.example [192.0.2.1]"
    assert connected[b"{daemon_addr}"] == b"192.0.2.9"
    assert told[b"H"] == b"{tls_version}\0TLSv1.3\0{cipher}\0X\0{cert_subject}\0CN=ann\0"
    assert b"{auth_authen}\0ann\0" in told[b"M"]
    assert told[b"R"] == b"i\0M1\0{rcpt_addr}\0bob@example.org\0{rcpt_host}\0example.org\0{rcpt_mailer}\0smtp\0"
    assert mail.peer.data(Code.MAIL) == [b"<ann@client.example>\0SIZE=20\0"]


def test_whoever_is_known_by_the_address_alone_has_not_logged_in() -> None:
    mail = Mail(MilterPeer())
    mail.opens(client=Client(None), identity=Identity("inside", "network"))
    mail.brings()
    assert not any(b"auth_authen" in data for data in mail.peer.data(Code.MACROS))
    assert mail.peer.data(Code.CONNECT) == [b"unknown\0U"]


@pytest.mark.parametrize(
    ("code", "said", "verdict", "reply"),
    [
        (Code.CONNECT, Plain.REJECT, Disconnect, "550 Command rejected"),
        (Code.CONNECT, Plain.TEMPFAIL, Disconnect, "421 Service unavailable, try again later"),
        (Code.CONNECT, Plain.CONNECTION_FAILURE, Disconnect, "421 Closing the connection, try again later"),
        (Code.HELO, Plain.REJECT, Reject, "550 Command rejected"),
        (Code.MAIL, Plain.REJECT, Reject, "550 5.7.1 Command rejected"),
        (Code.MAIL, Plain.TEMPFAIL, Defer, "451 4.7.1 Service unavailable, try again later"),
        (Code.RCPT, ReplyGiven(Reply.of(550, "5.1.1", "Nobody")), Reject, "550 5.1.1 Nobody"),
        (Code.RCPT, ReplyGiven(Reply.of(450, "", "Later")), Defer, "450 Later"),
        (Code.DATA, ReplyGiven(Reply.of(421, "4.7.0", "Go")), Disconnect, "421 4.7.0 Go"),
        (Code.DATA, Plain.SHUTDOWN, Disconnect, "421 4.7.0 Closing the connection, try again later"),
        (Code.HEADER, Plain.REJECT, Reject, "550 5.7.1 Command rejected"),
        (Code.BODY, Plain.TEMPFAIL, Defer, "451 4.7.1 Service unavailable, try again later"),
        (Code.END_OF_BODY, ReplyGiven(Reply(554, "5.7.1", ("A", "B"))), Reject, "554 5.7.1 A B"),
    ],
)
def test_refusals(code: Code, said: Plain | ReplyGiven, verdict: type, reply: str) -> None:
    mail = Mail(MilterPeer({code: [said]}))
    found = mail.opens() or mail.brings()
    assert type(found) is verdict
    assert isinstance(found, Reject | Defer | Disconnect)
    assert str(found.reply) == reply
    assert "127.0.0.1:8891" in found.reason
    (result,) = found.evidence
    assert isinstance(result, MilterResult)
    assert result.facts()[0] in ("milter.reject", "milter.tempfail", "milter.shutdown")


@pytest.mark.parametrize("code", [Code.MAIL, Code.RCPT, Code.DATA, Code.HEADER, Code.END_OF_BODY])
def test_discard_and_quarantine(code: Code) -> None:
    mail = Mail(MilterPeer({code: [Plain.DISCARD]}))
    mail.opens()
    assert isinstance(mail.brings(), Discard)
    mail = Mail(MilterPeer({Code.END_OF_BODY: [Quarantined(b"odd"), HeaderAdded(b"X-A", b"1"), Plain.CONTINUE]}))
    mail.opens()
    kept = mail.brings()
    assert isinstance(kept, Quarantine)
    assert kept.reason.endswith(": odd")
    assert mail.edits() == [AddHeader("X-A", "1", at_end=True)]


def test_a_discard_before_the_content_is_one_at_the_content_too() -> None:
    mail = Mail(MilterPeer({Code.RCPT: [Plain.DISCARD]}))
    mail.opens()
    mail.brings()
    mail.mail.recipients.append(recipient(EVE))
    assert isinstance(wait_for(mail.milter.on_message(mail.session, mail.mail, mail.message), mail.clock), Discard)
    assert mail.peer.words() == "OCHMR"


def test_acceptance_is_for_the_session_or_for_the_message() -> None:
    mail = Mail(MilterPeer({Code.HELO: [Plain.ACCEPT]}))
    mail.opens()
    mail.brings()
    mail.brings(number="M2")
    assert mail.peer.words() == "OCH"
    assert mail.edits() == []
    mail = Mail(MilterPeer({Code.RCPT: [Plain.ACCEPT]}))
    mail.opens()
    mail.brings()
    assert mail.edits() == []
    mail.brings(number="M2")
    assert mail.peer.words() == "OCHMRAMR"


def test_a_recipient_is_refused_alone() -> None:
    mail = Mail(MilterPeer({Code.RCPT: lambda data: [Plain.REJECT if b"eve" in data else Plain.CONTINUE]}))
    mail.opens()
    mail.mail = transaction(id="M1", recipients=[])
    assert wait_for(mail.milter.on_mail(mail.session, mail.mail), mail.clock) is None
    assert isinstance(wait_for(mail.milter.on_rcpt(mail.session, mail.mail, recipient(EVE)), mail.clock), Reject)
    assert wait_for(mail.milter.on_rcpt(mail.session, mail.mail, recipient(BOB)), mail.clock) is None
    assert wait_for(mail.milter.on_data(mail.session, mail.mail), mail.clock) is None


def test_a_message_that_did_not_end_is_ended_for_the_milter() -> None:
    mail = Mail(MilterPeer())
    mail.opens()
    wait_for(mail.milter.on_mail(mail.session, transaction(id="M1")), mail.clock)  # RSET follows, of which nobody tells
    wait_for(mail.milter.on_mail(mail.session, transaction(id="M2")), mail.clock)
    wait_for(mail.milter.on_helo(mail.session), mail.clock)
    mail.brings(number="M3")
    assert mail.peer.words() == "OCHMAMAHMRTLNBE"


def test_whoever_is_asked_late_tells_everything_first() -> None:
    mail = Mail(MilterPeer({Code.RCPT: lambda data: [Plain.TEMPFAIL if b"eve" in data else Plain.CONTINUE]}))
    late = transaction(id="M1", recipients=[BOB, EVE])
    mail.session, mail.mail, mail.message = session(), late, message()
    found = wait_for(mail.milter.on_message(mail.session, late, mail.message), mail.clock)
    assert isinstance(found, Defer)
    assert found.recipients == (Address.parse(EVE),)
    assert mail.peer.words() == "OCHMRRTLLLLLNBE"
    wait_for(mail.milter.on_data(mail.session, late), mail.clock)
    assert mail.peer.words().count("R") == 2


def test_changes_become_edits() -> None:
    said: Said = [
        HeaderInserted(1, b"Authentication-Results", b"mx; dkim=pass"),
        HeaderChanged(1, b"Subject", b"two"),
        RecipientAdded(b"<eve@example.org>"),
        BodyReplaced(b"new\nbo"),
        BodyReplaced(b"dy\r"),
        BodyReplaced(b"\nend\r"),
        Plain.ACCEPT,
    ]
    mail = Mail(MilterPeer({Code.END_OF_BODY: said}))
    mail.opens()
    found = mail.brings()
    assert isinstance(found, Continue)
    (result,) = found.evidence
    assert isinstance(result, MilterResult)
    assert result.facts() == ("milter.accept", "milter.added.authentication-results")
    assert result.summary() == "milter=accept by 127.0.0.1:8891, 4 changes"
    edits = mail.edits()
    assert edits[1:3] == [
        AddHeader("Authentication-Results", "mx; dkim=pass"),
        AddHeader("Subject", "two", at_end=True),
    ]
    assert edits[3] == AddRecipient(Address.parse(EVE))
    body = edits[4]
    assert isinstance(body, ReplaceBody)
    assert body.content.read() == b"new\r\nbody\r\nend\r\n"
    check_body_edits(mail.message.content, [], edits)


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ([BodyReplaced(b"x" * 1200)], "a line of more than 998"),
        ([BodyReplaced(b"a\0b")], "a NUL"),
        ([BodyReplaced(b"line\r\n" * 10_000)] * 300, "a body of more than"),
        ([HeaderAdded(b"X A", b"1")], "not one header field"),
        ([RecipientAdded(b"nobody")], "no address"),
    ],
)
def test_changes_that_cannot_be_made(said: list[Any], what: str, tmp_path: Path) -> None:
    (tmp_path / "incoming").mkdir()
    peer = MilterPeer({Code.END_OF_BODY: [*said, Plain.ACCEPT]})
    network = Network({HERE: peer})
    mail = Mail(peer)
    mail.clock = network.clock
    mail.milter = Milter(Options(servers=["127.0.0.1"]), services(clock=network, state_dir=tmp_path))
    mail.opens()
    with pytest.raises(MilterError, match=what):
        mail.brings()
    assert list((tmp_path / "incoming").iterdir()) == []
    with pytest.raises(MilterError, match="lost in this transaction"):
        mail.edits()


def test_a_large_new_body_lies_where_content_comes_in(tmp_path: Path) -> None:
    peer = MilterPeer({Code.END_OF_BODY: [BodyReplaced(b"line\r\n" * 10_000)] * 10 + [Plain.ACCEPT]})
    network = Network({HERE: peer})
    mail = Mail(peer)
    mail.clock = network.clock
    mail.milter = Milter(Options(servers=["127.0.0.1"]), services(clock=network, content_dir=tmp_path))
    mail.opens()
    mail.brings()
    assert len(list(tmp_path.iterdir())) == 1


def test_a_new_body_that_nobody_wants_any_more_is_removed(tmp_path: Path) -> None:
    (tmp_path / "incoming").mkdir()
    peer = MilterPeer({Code.END_OF_BODY: [BodyReplaced(b"line\r\n" * 10_000)] * 10 + [Plain.ACCEPT]})
    network = Network({HERE: peer})
    mail = Mail(peer)
    mail.clock = network.clock
    mail.milter = Milter(Options(servers=["127.0.0.1"]), services(clock=network, state_dir=tmp_path))
    mail.opens()
    for number in range(3):
        mail.brings(number=f"M{number}")
        assert len(list((tmp_path / "incoming").iterdir())) == 1
    mail.closes()
    assert list((tmp_path / "incoming").iterdir()) == []
    mail.opens()
    mail.brings()
    (edit,) = mail.edits()
    mail.closes()
    assert len(list((tmp_path / "incoming").iterdir())) == 1  # it belongs to whoever has the edit
    release([edit])
    assert list((tmp_path / "incoming").iterdir()) == []


def test_one_that_sees_the_edited_message() -> None:
    peer = MilterPeer({Code.END_OF_BODY: [HeaderInserted(0, b"DKIM-Signature", b"v=1"), Plain.ACCEPT]})
    mail = Mail(peer, sees="edited")
    mail.opens()
    assert mail.brings() is None
    assert peer.words() == "OCHMRT"
    content = mail.message.content
    mail.mail.edits = [AddHeader("X-Before", "1"), Splice(content.size, content.size, b"Footer\r\n")]
    assert mail.edits() == [AddHeader("DKIM-Signature", "v=1")]
    assert peer.data(Code.HEADER) == [b"X-Before\x001\0", b"Subject\0one\0"]
    assert b"".join(peer.data(Code.BODY)) == b"Hello\r\nFooter\r\n"


def test_each_message_of_several_is_shown_with_its_recipients() -> None:
    peer = MilterPeer({Code.END_OF_BODY: [HeaderInserted(0, b"DKIM-Signature", b"v=1"), Plain.ACCEPT]})
    mail = Mail(peer, sees="edited")
    mail.opens()
    mail.brings(BOB, EVE)
    content, both = mail.message.content, mail.mail.recipients
    told = []
    for one in both:
        footer = f"for {one.address}\r\n".encode()
        mail.mail.recipients, mail.mail.edits = [one], [Splice(content.size, content.size, footer)]
        assert mail.edits() == [AddHeader("DKIM-Signature", "v=1")]
        told.append(b"".join(peer.data(Code.BODY)))
    assert told[1] == b"Hello\r\nfor bob@example.org\r\nHello\r\nfor eve@example.org\r\n"
    assert peer.words() == "OCHMRRTLNBBE" + "MRTLNBBE"
    assert peer.data(Code.RCPT)[-1].startswith(b"<eve@example.org>")


def test_what_one_message_of_several_is_refused_with_is_not_said_of_another() -> None:
    said = [Plain.REJECT]
    peer = MilterPeer({Code.END_OF_BODY: said})
    mail = Mail(peer, sees="edited")
    mail.opens()
    mail.brings(BOB, EVE)
    with pytest.raises(PermanentFailure):
        mail.edits()
    said[:] = [Plain.ACCEPT]
    assert mail.edits() == []


def test_a_body_that_takes_in_the_edits_before_it() -> None:
    mail = Mail(MilterPeer({Code.END_OF_BODY: [BodyReplaced(b"new\r\n"), Plain.ACCEPT]}), sees="edited")
    mail.opens()
    mail.brings()
    content = mail.message.content
    before = [Splice(content.size, content.size, b"Footer\r\n")]
    mail.mail.edits = [*before]
    edits = mail.edits()
    check_body_edits(content, before, edits)
    made = materialised(content, [*before, *edits], ContentWriter(Path(), 1 << 26))
    assert made.read() == b"Subject: one\r\n\r\nnew\r\n"


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (Plain.REJECT, PermanentFailure),
        (Plain.TEMPFAIL, TemporaryFailure),
        (Plain.DISCARD, MilterError),
        (Quarantined(b"x"), MilterError),
    ],
)
def test_what_can_be_said_of_an_edited_message(said: Any, error: type[Exception]) -> None:
    mail = Mail(
        MilterPeer({Code.END_OF_BODY: [said, *([] if isinstance(said, Plain) else [Plain.ACCEPT])]}), sees="edited"
    )
    mail.opens()
    mail.brings()
    with pytest.raises(error):
        mail.edits()


def test_large_messages_are_not_shown() -> None:
    for word, verdict in (("continue", Continue), ("reject", Reject), ("defer", Defer), ("quarantine", Quarantine)):
        mail = Mail(MilterPeer(), max_size="2KiB", oversize=word)
        mail.opens()
        assert isinstance(mail.brings(text=b"Subject: x\r\n\r\n" + b"x" * 3000), verdict)
        assert mail.edits() == []
        mail.brings(number="M2")
        assert mail.peer.words() == "OCHMRTAMRTLNBE"


def test_a_header_larger_than_is_looked_at_hides_nothing() -> None:
    text = b"X: " + b"a" * 100 + b"\r\n"
    mail = Mail(MilterPeer(options=Agreed(6, EVERYTHING, int(Steps.NO_HEADERS))))
    mail.opens()
    mail.brings(text=text * 4000 + b"\r\nbody\r\n")
    body = b"".join(mail.peer.data(Code.BODY))
    assert body.endswith(b"\r\nbody\r\n")
    assert len(body) > 4000 * len(text) - 256 * 1024


# -- milters that are lost


def test_one_that_dies_in_a_transaction_has_failed_to_its_end_and_comes_back_with_the_next() -> None:
    mail = Mail(MilterPeer({Code.RCPT: [b""]}))
    mail.opens()
    with pytest.raises(MilterError, match="closed the connection"):
        mail.brings()
    asks: list[Callable[[], Any]] = [
        lambda: mail.milter.on_rcpt(mail.session, mail.mail, recipient(EVE)),
        lambda: mail.milter.on_data(mail.session, mail.mail),
        lambda: mail.milter.on_message(mail.session, mail.mail, mail.message),
        lambda: mail.milter.modify(mail.session, mail.mail, mail.message),
    ]
    for ask in asks:
        with pytest.raises(MilterError, match="lost in this transaction"):
            wait_for(ask(), mail.clock)
    assert mail.peer.words() == "OCHMR"
    mail.peer.script = {}
    assert isinstance(mail.brings(number="M2"), Continue)
    assert mail.peer.words() == "OCHMROCHMRTLNBE"


def test_one_that_is_gone_between_two_steps() -> None:
    mail = Mail(MilterPeer())
    mail.opens()
    wait_for(mail.milter.on_mail(mail.session, transaction(id="M1")), mail.clock)
    mail.peer.connections[0].end()
    with pytest.raises(MilterError, match="closed the connection"):
        wait_for(mail.milter.on_data(mail.session, transaction(id="M1")), mail.clock)
    mail.peer.connections.clear()
    assert isinstance(mail.brings(number="M2"), Continue)
    mail.peer.connections[0].end()
    assert isinstance(mail.brings(number="M3"), Continue)  # between two messages nothing is lost


@implementer(IReactorThreads)
class Threaded(Network):
    """A network whose reactor has threads: a pool of the test's."""

    def __init__(self, peers: dict[str, MilterPeer], pool: Pool) -> None:
        super().__init__(peers)
        self.pool = pool

    def getThreadPool(self) -> Pool:  # noqa: N802 (Twisted's)
        return self.pool

    def callFromThread(self, callable: Any, *args: object, **kwargs: object) -> None:  # noqa: A002, N802 (Twisted's)
        callable(*args, **kwargs)

    def callInThread(self, callable: Any, *args: object, **kwargs: object) -> None:  # noqa: A002, N802 (Twisted's)
        raise NotImplementedError

    def suggestThreadPoolSize(self, size: int) -> None:  # noqa: N802 (Twisted's)
        raise NotImplementedError


@pytest.mark.parametrize(("line", "is_given_up"), [(b"x" * 78, False), (b"x" * 78, True), (b"x" * 1200, False)])
def test_a_large_new_body_is_looked_through_in_a_thread(tmp_path: Path, line: bytes, is_given_up: bool) -> None:
    incoming = tmp_path / "incoming"
    incoming.mkdir()
    pool = Pool(waits=True)
    mail = Mail(MilterPeer({Code.END_OF_BODY: [*[BodyReplaced((line + b"\r\n") * 50)] * 80, Plain.CONTINUE]}))
    network = Threaded({HERE: mail.peer}, pool)
    mail.clock = network.clock
    mail.milter = Milter(Options(servers=["127.0.0.1"]), services(clock=network, state_dir=tmp_path))
    mail.opens()
    one, results = transaction(id="M1"), list[Any]()
    shown = as_deferred(mail.milter.on_message(mail.session, one, message()))  # type: ignore[arg-type]  # it waits
    shown.addBoth(results.append)
    mail.clock.pump([0.0] * 50)
    assert (pool.given, results, len(list(incoming.iterdir()))) == (1, [], 1)
    if is_given_up:
        shown.cancel()
    pool.work()
    assert len(results) == 1
    is_kept = isinstance(results[0], Continue)
    assert is_kept == (not is_given_up and len(line) < 998)
    assert len(list(incoming.iterdir())) == is_kept


@implementer(IMessageFilter)
class Accepts:
    def on_message(self, *_: object) -> Accept:
        return Accept("known")


def test_a_message_that_is_accepted_before_it_is_shown_goes_on() -> None:
    mail = Mail(MilterPeer({Code.END_OF_BODY: [HeaderAdded(b"X-One", b"1"), Plain.CONTINUE]}))
    mail.opens()
    mail.brings()
    events = EventRecorder()
    gate = Pipeline([[Member("known", Accepts())], [Member("milter", mail.milter)]], mail.clock, events)
    mail.mail = transaction(id="M2")
    told = gate.data(mail.session, mail.mail)
    assert isinstance(told, Deferred)
    wait_for(told, mail.clock)
    verdicts = gate.message(mail.session, mail.mail, message())
    assert verdicts == [Continue()]
    assert mail.mail.edits == []  # those of the message before are not its own
    assert not events.of(FilterFailed)


def test_the_next_session_goes_to_the_next_server() -> None:
    first, second = MilterPeer(), MilterPeer()
    mail = Mail(first, {HERE: first, "unix:/run/two": second}, servers=["127.0.0.1", "unix:/run/two"])
    mail.opens()
    first.refuses = True
    first.connections[0].end()
    mail.opens("S2")
    assert isinstance(mail.brings(), Continue)
    assert second.words() == "OCHMRTLNBE"
    second.refuses = True
    second.connections[0].end()
    with pytest.raises(ScannerError):
        mail.opens("S3")


def test_a_kept_connection_that_has_died_costs_no_session() -> None:
    mail = Mail(MilterPeer(), keep=2)
    mail.opens("S1")
    mail.closes("S1")
    mail.opens("S2")
    assert mail.peer.words() == "OCHKCH"
    mail.closes("S2")
    mail.peer.script = {Code.CONNECT: lambda _: [b""] if len(mail.peer.connections) == 1 else [Plain.CONTINUE]}
    assert mail.opens("S3") is None
    assert mail.peer.words() == "OCHKCHKCOCH"


def test_sessions_do_not_know_of_each_other() -> None:
    mail = Mail(MilterPeer({Code.HELO: lambda data: [Plain.ACCEPT if b"eve" in data else Plain.CONTINUE]}))
    mail.opens("S1", helo="eve")
    ones = mail.session
    mail.opens("S2", helo="bob")
    assert isinstance(mail.brings(), Continue)
    mail.session = ones
    mail.brings(number="M2")
    assert mail.peer.words() == "OCHOCHMRTLNBE"
    mail.closes("S1")
    mail.closes("S2")
    assert mail.clock.getDelayedCalls() == []


# -- within a pipeline


class Piped:
    """A pipeline of this filter, as the gateway would ask it."""

    def __init__(self, peer: MilterPeer, on_failure: Any) -> None:
        self.network = Network({HERE: peer})
        self.events = EventRecorder()
        given = services(clock=self.network, events=self.events)
        self.member = Member("milter", Milter(Options(servers=["127.0.0.1"]), given), on_failure=on_failure)
        self.pipeline = Pipeline([[self.member]], self.network, self.events)  # type: ignore[arg-type]  # all it needs

    def verdicts(self, number: int = 1) -> list[Verdict]:
        """What the stages of a session say; the last one for the message."""
        one, mail = session(id=f"S{number}"), transaction(id=f"M{number}")
        found: list[Verdict] = []
        stages: list[Callable[[], object]] = [
            lambda: self.pipeline.connect(one),
            lambda: self.pipeline.helo(one),
            lambda: self.pipeline.mail(one, mail),
            lambda: self.pipeline.data(one, mail),
        ]
        for stage in stages:
            found.append(self._of(stage()))
            if not isinstance(found[-1], Continue):
                return found
        (last,) = self._of(self.pipeline.message(one, mail, message()))
        return [*found, last]

    def _of(self, answer: Any) -> Any:
        return wait_for(answer, self.network.clock)


BAD: list[dict[Code, Any]] = [
    {Code.OPTIONS: []},
    {Code.OPTIONS: [b"220 smtp.example ESMTP\r\n"]},
    {Code.CONNECT: [b""]},
    {Code.MAIL: []},
    {Code.DATA: [b"\0\0\0\0"]},
    {Code.BODY: [b""]},
    {Code.END_OF_BODY: []},
    {Code.END_OF_BODY: [HeaderAdded(b"X-A", b"1"), b""]},
    {Code.END_OF_BODY: [encode_answer(Plain.CONTINUE) * 2]},
]


@pytest.mark.parametrize("script", BAD)
def test_nothing_slips_by_a_milter_that_is_broken(script: dict[Code, Any]) -> None:
    piped = Piped(MilterPeer(script), "defer")
    assert isinstance(piped.verdicts()[-1], Defer)
    assert piped.events.of(FilterFailed)
    assert isinstance(Piped(MilterPeer(script), "reject").verdicts()[-1], Reject)
    assert isinstance(Piped(MilterPeer(script), "continue").verdicts()[-1], Continue)


def test_the_breaker_opens_and_closes() -> None:
    peer = MilterPeer(refuses=True)
    piped = Piped(peer, "continue")
    for number in range(3):
        assert isinstance(piped.verdicts(number)[-1], Continue)
    assert [event.is_open for event in piped.events.of(BreakerChanged)] == [True]
    tried = len(piped.network.tried)
    piped.verdicts(4)
    assert len(piped.network.tried) == tried
    peer.refuses = False
    piped.network.clock.advance(31)
    assert isinstance(piped.verdicts(5)[-1], Continue)
    assert [event.is_open for event in piped.events.of(BreakerChanged)] == [True, False]
    assert peer.words() == "OCHMRTLLLLLNBE"


def test_a_client_that_hangs_up_ends_the_question() -> None:
    mail = Mail(MilterPeer({Code.MAIL: []}))
    mail.opens()
    asked: Deferred[Any] = as_deferred(mail.milter.on_mail(mail.session, transaction()))  # type: ignore[arg-type]
    mail.clock.advance(0)
    asked.cancel()
    asked.addErrback(lambda _: None)
    mail.closes()
    assert not mail.peer.connections[0].is_open
    assert mail.clock.getDelayedCalls() == []


# -- options


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"servers": []}, "at least 1"),
        ({"servers": ["http://x"]}, "without http"),
        ({"servers": ["127.0.0.1"], "protocol": 7}, "less than or equal to 6"),
        ({"servers": ["127.0.0.1"], "macros": {"{no name}": "x"}}, "no name of a macro"),
        ({"servers": ["127.0.0.1"], "macros": {"x": "a\0b"}}, "cannot be printed"),
        ({"servers": ["127.0.0.1"], "sees": "all"}, "received"),
    ],
)
def test_options_that_are_wrong(options: dict[str, Any], what: str) -> None:
    with pytest.raises(ValidationError, match=what):
        Options.model_validate(options)


class TestContract(FilterContract):
    factory = FilterMaker("milter", "mailgate.filters.milter", "asks a milter")
    settings = {"servers": ["127.0.0.1"]}  # noqa: RUF012  as the contract has it

    def make_services(self, clock: Clock, **silent: Any) -> FilterServices:
        """With a milter that refuses one sender, and changes what others send."""
        said = [HeaderInserted(0, b"X-Seen", b"yes"), HeaderChanged(1, b"Subject", b"Hi"), Plain.ACCEPT]
        script = {
            Code.MAIL: lambda data: [Plain.REJECT if b"eve" in data else Plain.CONTINUE],
            Code.END_OF_BODY: said,
        }
        return services(clock=Network({HERE: MilterPeer(script)}, clock), **silent)  # type: ignore[arg-type]

    def occasions(self) -> Iterable[Occasion]:
        return [Occasion(), Occasion(transaction=transaction("eve@client.example"))]
