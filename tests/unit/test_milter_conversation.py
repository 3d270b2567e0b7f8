"""A conversation with a milter in memory: what it hears, what it may answer, and milters that are broken or hostile."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from ipaddress import ip_address
from typing import cast

import pytest
from twisted.internet.defer import CancelledError, Deferred

from mailgate.config.hosts import HostPort
from mailgate.scanners.milter.client import MilterClient, Settings
from mailgate.scanners.milter.conversation import GO_ON, MAX_CHANGES, MAX_REMOVED, Conversation, Outcome, Patience
from mailgate.scanners.milter.error import MilterError
from mailgate.scanners.pool import IScannerReactor, ScannerError
from mailgate.testing import wait_for
from mailgate.testing.answers import as_deferred
from mailgate.wire.milter.codec import (
    BodyReplaced,
    HeaderAdded,
    HeaderChanged,
    Options,
    Quarantined,
    RecipientAdded,
    ReplyGiven,
    encode_answer,
)
from mailgate.wire.milter.words import Actions, Code, Plain, Steps
from tests.unit.milter_peer import EVERYTHING, MilterPeer, Network, Said

HERE = "127.0.0.1:8891"
FIELDS = [(b"From", b" Ann <ann@client.example>"), (b"Subject", b" One\r\n two"), (b"X-Zero", b"\ta\0b")]
MACROS = {"j": "mx.example.org", "i": "ID", "client_addr": "192.0.2.1", "mail_addr": "ann@client.example", "x": "own"}


class Body:
    """Takes a new body, and counts."""

    def __init__(self, most: int = 1000) -> None:
        self.octets = b""
        self.most = most

    def write(self, data: bytes, /) -> None:
        self.octets += data
        if len(self.octets) > self.most:
            raise MilterError("too much")


class Talk:
    """A conversation with this peer, step by step."""

    def __init__(self, peer: MilterPeer, **settings: object) -> None:
        self.network = Network({HERE: peer})
        self.peer = peer
        self.client = MilterClient(
            Settings(
                servers=[HostPort("127.0.0.1", 8891)],
                **{"patience": Patience(2.0, 3.0, 4.0), "more_macros": ("x",), **settings},  # type: ignore[arg-type]
            ),
            cast(IScannerReactor, self.network),
        )
        self.body = Body()
        self.now = self.network.clock

    def begin(self) -> Conversation:
        self.conversation = wait_for(self.client.begin(), self.now)
        return self.conversation

    def through(self, body: Iterator[bytes] | Sequence[bytes] = (b"Hello\r\n",)) -> list[Outcome]:
        """All steps, up to one that is final."""
        one = self.begin()
        outcomes: list[Outcome] = []
        steps: list[Callable[[], Awaitable[Outcome]]] = [
            lambda: one.connect("client.example", ip_address("192.0.2.1"), 4000, MACROS),
            lambda: one.helo("client.example", MACROS),
            lambda: one.mail("ann@client.example", ["SIZE=7"], MACROS),
            lambda: one.rcpt("bob@example.org", [], MACROS),
            lambda: one.data(MACROS),
            lambda: one.content(FIELDS, body, MACROS, self.body),
        ]
        for step in steps:
            outcomes.append(wait_for(step(), self.now))
            if outcomes[-1].is_final:
                break
        return outcomes


def test_what_a_milter_hears() -> None:
    talk = Talk(MilterPeer(options=Options(6, EVERYTHING, int(Steps.LEADING_SPACE))))
    assert set(talk.through()) == {GO_ON}
    talk.conversation.close()
    talk.now.advance(0)
    peer = talk.peer
    assert peer.words() == "OCHMRTLLLNBEQ"
    assert peer.data(Code.CONNECT) == [b"client.example\x004\x0f\xa0192.0.2.1\0"]
    assert peer.data(Code.MAIL) == [b"<ann@client.example>\0SIZE=7\0"]
    assert peer.data(Code.RCPT) == [b"<bob@example.org>\0"]
    assert peer.data(Code.HEADER) == [
        b"From\0 Ann <ann@client.example>\0",
        b"Subject\0 One\n two\0",
        b"X-Zero\0\ta b\0",
    ]
    assert peer.data(Code.BODY) == [b"Hello\r\n"]
    assert peer.data(Code.MACROS) == [
        b"Cj\0mx.example.org\0{client_addr}\x00192.0.2.1\0x\0own\0",
        b"Mi\0ID\0{mail_addr}\0ann@client.example\0",
        b"Ri\0ID\0",
        b"Ti\0ID\0",
        b"Ni\0ID\0",
        b"Ei\0ID\0",
    ]


def test_without_the_leading_space_and_with_macros_of_its_choice() -> None:
    chosen = {0: b"", 2: b"{mail_addr}, {unknown}", 5: b"j"}
    talk = Talk(MilterPeer(options=Options(6, EVERYTHING, 0, chosen)))
    talk.through()
    assert talk.peer.data(Code.HEADER)[0] == b"From\0Ann <ann@client.example>\0"
    told = [data[:1] for data in talk.peer.data(Code.MACROS)]
    assert told == [b"M", b"R", b"T", b"N", b"E"]
    assert talk.peer.data(Code.MACROS)[0] == b"M{mail_addr}\0ann@client.example\0"


@pytest.mark.parametrize(("version", "words"), [(2, "OCHMRLLLNBE"), (3, "OCHMRLLLNBE"), (4, "OCHMRTLLLNBE")])
def test_old_versions(version: int, words: str) -> None:
    talk = Talk(MilterPeer(options=Options(version, 0x3F, 0)), version=version)
    talk.through()
    assert talk.peer.words() == words


def test_steps_that_are_left_out() -> None:
    bits = Steps.NO_CONNECT | Steps.NO_HELO | Steps.NO_RCPT | Steps.NO_DATA | Steps.NO_HEADERS | Steps.NO_BODY
    talk = Talk(MilterPeer(options=Options(6, EVERYTHING, int(bits))))
    assert set(talk.through()) == {GO_ON}
    assert talk.peer.words() == "OMNE"


def test_a_milter_that_is_silent_to_the_end_is_not_waited_for() -> None:
    # What rspamd's proxy asks for.
    talk = Talk(MilterPeer(options=Options(6, EVERYTHING, 0xFF080)))
    before = talk.now.seconds()
    assert set(talk.through([b"x" * 70000])) == {GO_ON}
    assert talk.peer.words() == "OCHMRTLLLNBBE"
    assert talk.now.seconds() - before < 2.0


def test_large_pieces_where_both_can() -> None:
    talk = Talk(MilterPeer(options=Options(6, EVERYTHING, int(Steps.DATA_1M))), max_data=2**20 - 1)
    talk.through([b"x" * 300_000])
    assert list(map(len, talk.peer.data(Code.BODY))) == [300_000]


def test_fields_that_do_not_fit_a_packet_are_cut() -> None:
    talk = Talk(MilterPeer())
    one = talk.begin()
    fields = [(b"X-Large", b" " + b"x" * 200_000), (b"N" * 70_000, b"1"), (b"X-Last", b"1")]
    assert wait_for(one.content(fields, [], {}, talk.body), talk.now) == GO_ON
    large, named, last = talk.peer.data(Code.HEADER)
    assert (len(large), len(named), last) == (65535, 998 + 3, b"X-Last\x001\0")


def test_skip_ends_the_body_and_not_the_message() -> None:
    pieces = iter([b"one", b"two", b"three"])
    talk = Talk(MilterPeer({Code.BODY: [Plain.SKIP]}, Options(6, EVERYTHING, int(Steps.SKIP))))
    assert talk.through(pieces)[-1] == GO_ON
    assert talk.peer.words().endswith("NBE")
    assert list(pieces) == [b"two", b"three"]


@pytest.mark.parametrize("code", [Code.CONNECT, Code.HELO, Code.MAIL, Code.RCPT, Code.DATA, Code.HEADER, Code.BODY])
@pytest.mark.parametrize("word", [Plain.ACCEPT, Plain.REJECT, Plain.TEMPFAIL, Plain.SHUTDOWN])
def test_final_words_end_it_where_they_are_said(code: Code, word: Plain) -> None:
    talk = Talk(MilterPeer({code: [word]}))
    assert talk.through()[-1] == Outcome(word)
    assert talk.peer.words().endswith(code.value.decode())


def test_changes_come_with_the_last_answer_alone() -> None:
    said: Said = [
        HeaderAdded(b"X-A", b"1"),
        Plain.PROGRESS,
        BodyReplaced(b"new "),
        HeaderChanged(1, b"Subject", b""),
        BodyReplaced(b"body"),
        Quarantined(b"odd"),
        Plain.ACCEPT,
    ]
    talk = Talk(MilterPeer({Code.END_OF_BODY: said}))
    last = talk.through()[-1]
    assert last == Outcome(Plain.ACCEPT, None, (said[0], said[3], said[5]), True)  # type: ignore[arg-type]
    assert talk.body.octets == b"new body"
    wait_for(talk.conversation.mail("eve@client.example", [], {}), talk.now)
    assert talk.conversation.is_open


BROKEN: dict[str, tuple[Code, Said, str]] = {
    "closes": (Code.MAIL, [b""], "closed the connection"),
    "half a packet": (Code.MAIL, [b"\0\0", b""], "closed the connection"),
    "a wrong length": (Code.MAIL, [b"\0\0\0\0"], "0 octets"),
    "too large": (Code.MAIL, [b"\xff\xff\xff\xffc"], "4294967295 octets"),
    "unknown": (Code.MAIL, [b"\0\0\0\1z"], "does not have"),
    "HTTP": (Code.OPTIONS, [b"HTTP/1.1 400 Bad Request\r\n"], "1213486160 octets"),
    "two answers": (Code.MAIL, [encode_answer(Plain.CONTINUE) * 2], "more than it was asked"),
    "an answer and a half": (Code.MAIL, [encode_answer(Plain.CONTINUE) + b"\0"], "more than it was asked"),
    "options in the middle": (Code.MAIL, [Options(6, 0, 0)], "Options in answer to MAIL"),
    "a change too early": (Code.RCPT, [HeaderAdded(b"X-A", b"1")], "HeaderAdded in answer to RCPT"),
    "skip too early": (Code.MAIL, [Plain.SKIP], "SKIP in answer to MAIL"),
    "skip without a word of it": (Code.BODY, [Plain.SKIP], "SKIP in answer to BODY"),
    "discards a client": (Code.CONNECT, [Plain.DISCARD], "DISCARD in answer to CONNECT"),
    "a good reply": (Code.RCPT, [b"\0\0\0\x08y250 ok\0"], "neither 4yz nor 5yz"),
    "an answer first": (Code.OPTIONS, [Plain.CONTINUE], "CONTINUE where it has to say"),
    "a strange version": (Code.OPTIONS, [Options(9, 0, 0)], "version 9"),
    "too many changes": (Code.END_OF_BODY, [HeaderAdded(b"X", b"1")] * (MAX_CHANGES + 1), "more of a message"),
    "too large changes": (Code.END_OF_BODY, [HeaderAdded(b"X", b"1" * 60_000)] * 10, "more of a message"),
    "too large a body": (Code.END_OF_BODY, [BodyReplaced(b"x" * 600)] * 2, "too much"),
}


@pytest.mark.parametrize(("code", "said", "what"), BROKEN.values(), ids=BROKEN)
def test_a_milter_that_does_not_follow_the_protocol(code: Code, said: Said, what: str) -> None:
    peer = MilterPeer({code: said}, Options(6, EVERYTHING, 0))
    talk = Talk(peer)
    with pytest.raises(ScannerError, match=what):
        talk.through()
    assert not any(wire.is_open for wire in peer.connections)


def test_as_many_fields_may_be_removed_as_a_message_has() -> None:
    said: Said = [*[HeaderChanged(1, b"X-A", b"")] * MAX_REMOVED, HeaderAdded(b"X-B", b"1"), Plain.CONTINUE]
    assert len(Talk(MilterPeer({Code.END_OF_BODY: said})).through()[-1].changes) == MAX_REMOVED + 1
    with pytest.raises(MilterError, match="more of a message"):
        Talk(MilterPeer({Code.END_OF_BODY: [said[0], *said]})).through()


def test_a_right_that_was_not_announced() -> None:
    for change in (HeaderAdded(b"X-A", b"1"), BodyReplaced(b"x"), RecipientAdded(b"a@b.example"), Quarantined(b"x")):
        said: Said = [change, Plain.ACCEPT]
        talk = Talk(MilterPeer({Code.END_OF_BODY: said}, Options(6, 0, 0)))
        with pytest.raises(MilterError, match="not announced"):
            talk.through()
    with_parameters = RecipientAdded(b"a@b.example", b"NOTIFY=NEVER")
    talk = Talk(
        MilterPeer({Code.END_OF_BODY: [with_parameters, Plain.ACCEPT]}, Options(6, int(Actions.ADD_RECIPIENTS), 0))
    )
    with pytest.raises(MilterError, match="not announced"):
        talk.through()


@pytest.mark.parametrize("code", [Code.CONNECT, Code.RCPT, Code.HEADER, Code.BODY, Code.END_OF_BODY])
def test_a_milter_that_hangs(code: Code) -> None:
    talk = Talk(MilterPeer({code: []}))
    began = talk.now.seconds()
    with pytest.raises(MilterError, match="no answer within"):
        talk.through()
    assert talk.now.seconds() - began < 5.0
    assert not talk.peer.connections[0].is_open
    assert talk.now.getDelayedCalls() == []


def test_a_milter_that_sends_an_octet_now_and_then_does_not_gain_time() -> None:
    talk = Talk(MilterPeer({Code.MAIL: []}))
    one = talk.begin()
    failed: list[object] = []
    as_deferred(one.mail("", [], {})).addErrback(lambda failure: failed.append(failure.value))
    for octet in (b"\0", b"\0", b"\0"):
        talk.now.advance(0.6)
        talk.peer.connections[0].say(octet)
    assert failed == []
    talk.now.advance(0.6)
    assert len(failed) == 1


def test_progress_gains_time_and_not_for_ever() -> None:
    talk = Talk(MilterPeer({Code.MAIL: []}))
    one = talk.begin()
    failed: list[object] = []
    as_deferred(one.mail("", [], {})).addErrback(lambda failure: failed.append(failure.value))
    rounds = 0
    while not failed and rounds < 100:
        rounds += 1
        talk.now.advance(1.0)
        if talk.peer.connections[0].is_open:
            talk.peer.connections[0].say(encode_answer(Plain.PROGRESS))
    assert 15 < rounds < 25
    assert "progress" in str(failed[0]) or "within" in str(failed[0])


@pytest.mark.parametrize("said", [Plain.CONTINUE, Plain.SHUTDOWN, Plain.REJECT])
def test_whoever_speaks_without_being_asked_is_not_heard(said: Plain) -> None:
    talk = Talk(MilterPeer())
    one = talk.begin()
    talk.peer.connections[0].say(encode_answer(said))
    assert not one.is_open
    with pytest.raises(MilterError, match="without being asked"):
        wait_for(one.helo("x", {}), talk.now)


def test_an_answer_to_a_step_that_was_to_be_silent() -> None:
    quiet = Options(6, EVERYTHING, int(Steps.QUIET_MAIL))
    talk = Talk(MilterPeer({Code.MAIL: [Plain.REJECT]}, quiet))
    one = talk.begin()
    assert wait_for(one.mail("", [], {}), talk.now) == GO_ON
    talk.now.advance(0)
    with pytest.raises(MilterError, match="without being asked"):
        wait_for(one.rcpt("bob@example.org", [], {}), talk.now)


def test_what_is_given_up_ends_the_connection_and_leaves_nothing() -> None:
    talk = Talk(MilterPeer({Code.MAIL: []}))
    one = talk.begin()
    asked = as_deferred(one.mail("", [], {}))
    asked.cancel()
    failed: list[type[BaseException] | None] = []
    asked.addErrback(lambda failure: failed.append(failure.type))
    assert failed == [CancelledError]
    assert not one.is_open
    assert talk.now.getDelayedCalls() == []


def test_no_more_is_sent_than_the_milter_takes() -> None:
    talk = Talk(MilterPeer(options=Options(6, EVERYTHING, int(Steps.QUIET_BODY))))
    one = talk.begin()
    taken = 0

    def pieces() -> Iterator[bytes]:
        nonlocal taken
        for _ in range(10):
            taken += 1
            yield b"x" * 1000

    wire = talk.peer.connections[0]
    assert wire.producer is not None
    asked: Deferred[Outcome] = as_deferred(one.content([], pieces(), {}, talk.body))
    talk.now.advance(0)
    assert taken == 10
    talk.now.advance(0)
    assert asked.called
    taken = 0
    wire.producer.pauseProducing()
    asked = as_deferred(one.content([], pieces(), {}, talk.body))
    talk.now.advance(0)
    assert taken == 0  # it has not even taken the end of the header
    wire.producer.resumeProducing()
    talk.now.advance(0)
    assert taken == 10
    wire.producer.pauseProducing()
    asked = as_deferred(one.content([], pieces(), {}, talk.body))
    failed: list[str] = []
    asked.addErrback(lambda failure: failed.append(str(failure.value)))
    talk.now.advance(3.0)
    assert failed == ["no answer within 3 s"]


def test_answers_do_not_pile_up_while_it_takes_nothing() -> None:
    talk = Talk(MilterPeer())
    one = talk.begin()
    wire = talk.peer.connections[0]
    assert wire.producer is not None
    wire.producer.pauseProducing()
    as_deferred(one.mail("", [], {})).addErrback(lambda _: None)
    sent = 0
    while wire.is_open and sent < 100:
        sent += 1
        wire.say(encode_answer(BodyReplaced(b"x" * 60_000)))
    assert sent < 10


def test_replies_of_its_own() -> None:
    reply = b"550-5.7.1 One\r\n550 5.7.1 Two"
    talk = Talk(MilterPeer({Code.RCPT: [b"\0\0\0\x1ey" + reply[:28] + b"\0"]}))
    last = talk.through()[-1]
    assert (last.word, str(last.reply)) == (Plain.REJECT, "550 5.7.1 One Two")
    talk = Talk(MilterPeer({Code.RCPT: [ReplyGiven(last.reply)]}))  # type: ignore[arg-type]
    assert talk.through()[-1] == last


def test_the_next_server_and_none() -> None:
    peers = {"127.0.0.1:2": MilterPeer({Code.OPTIONS: [b""]}), "unix:/run/milter": MilterPeer()}
    network = Network(peers)
    servers = [HostPort("127.0.0.1", 1), HostPort("127.0.0.1", 2), HostPort("/run/milter", 0)]
    client = MilterClient(Settings(servers=servers), cast(IScannerReactor, network))
    assert wait_for(client.begin(), network.clock).server == "unix:/run/milter"
    assert network.tried == ["127.0.0.1:1", "127.0.0.1:2", "unix:/run/milter"]
    wait_for(client.begin(), network.clock)
    assert network.tried[3:] == ["unix:/run/milter"]  # the others rest
    peers["unix:/run/milter"].refuses = True
    with pytest.raises(ScannerError, match=r"unix:/run/milter: .*; 127\.0\.0\.1:1: "):
        wait_for(client.begin(), network.clock)


def test_a_server_that_hangs_at_the_beginning() -> None:
    network = Network({HERE: MilterPeer({Code.OPTIONS: []})})
    client = MilterClient(Settings(servers=[HostPort("127.0.0.1", 8891)]), cast(IScannerReactor, network))
    with pytest.raises(ScannerError, match="no answer within 3 s"):
        wait_for(client.begin(), network.clock)
    assert network.clock.getDelayedCalls() == []


def test_a_connection_for_the_next_session() -> None:
    talk = Talk(MilterPeer(), keep=1)
    one = talk.begin()
    wait_for(one.mail("", [], {}), talk.now)
    wait_for(talk.client.end(one), talk.now)
    other = wait_for(talk.client.begin(), talk.now)
    wait_for(talk.client.end(other), talk.now)
    talk.now.advance(0)
    assert [wire.is_open for wire in talk.peer.connections] == [True, False]
    assert talk.peer.words() == "OMAKOQ"
    assert talk.client.take() is one
    assert talk.client.take() is None


def test_a_kept_connection_does_not_stay_for_ever() -> None:
    talk = Talk(MilterPeer(), keep=5)
    wait_for(talk.client.end(talk.begin()), talk.now)
    talk.now.advance(61)
    assert talk.client.take() is None
    talk.now.advance(0)
    assert not talk.peer.connections[0].is_open


def test_a_conversation_in_which_nothing_is_said_ends() -> None:
    talk = Talk(MilterPeer(), idle=10.0)
    one = talk.begin()
    talk.now.advance(8)
    wait_for(one.helo("x", {}), talk.now)
    talk.now.advance(8)
    assert one.is_open
    talk.now.advance(8)
    assert not one.is_open
    assert talk.now.getDelayedCalls() == []
