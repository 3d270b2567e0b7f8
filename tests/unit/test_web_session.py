"""A connection to an application, with everything that may go wrong on it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from twisted.internet.defer import CancelledError, Deferred, execute
from twisted.internet.error import ConnectError, ConnectionDone, ConnectionLost
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure

from mailgate.address import Address
from mailgate.config.routes import HttpRoute
from mailgate.envelope import Envelope, EnvelopeRecipient
from mailgate.interfaces import OutcomeKind
from mailgate.message import Content
from mailgate.relay.attempt import ConnectFailedError, IConnection, Result, Target
from mailgate.relay.client.connector import IClientReactor
from mailgate.relay.client.terms import TermsError
from mailgate.relay.web_post.connector import WebConnector, read_web_terms, web_terms_of
from mailgate.relay.web_post.session import WebSession
from mailgate.tls.client import ClientContexts

ONE = (EnvelopeRecipient(1, Address.parse("tickets@app.test"), "app"),)
ENVELOPE = Envelope(
    queue_id="0A1B2C3D4E5F6G7H", sender=Address.parse("ann@client.test"), recipients=ONE, received=1.0, size=1
)
SMALL = Content(b"Subject: x\r\n\r\nhello\r\n")
LARGE = Content(b"Subject: x\r\n\r\n" + b"y" * 2_000_000)
TAKEN = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class App:
    """An application in memory, and the connection to it."""

    def __init__(self, tmp_path: Path, *, url: str = "http://127.0.0.1:8080/mail?x=1", **options: Any) -> None:
        secret = tmp_path / "secret"
        secret.write_text("a secret that both know\n")
        self.reactor = MemoryReactorClock()
        reactor = cast(IClientReactor, self.reactor)
        route = HttpRoute(transport="http", url=url, secret_file=secret, **options)
        terms = web_terms_of(route, reactor, ClientContexts(reactor))
        self.connector = WebConnector(reactor, "app", route, terms, self._work)
        self.waiting: list[tuple[Deferred[Any], Callable[[], Any]]] | None = None  # work for later
        self.found: list[object] = []
        self.connecting = self.connector.connect(Target("127.0.0.1", "127.0.0.1", 8080))
        self.connecting.addBoth(self.found.append)
        self.factory: Any = self.reactor.tcpClients[0][2]
        self.transport = StringTransport()
        self.protocol: Any = None

    def _work(self, compute: Callable[[], Any]) -> Deferred[Any]:
        if self.waiting is None:
            return execute(compute)
        self.waiting.append((Deferred(), compute))
        return self.waiting[-1][0]

    def connected(self) -> IConnection:
        self.protocol = self.factory.buildProtocol(None)
        self.protocol.makeConnection(self.transport)
        (session,) = self.found
        assert isinstance(session, WebSession)
        return cast(IConnection, session)

    def answer(self, octets: bytes) -> None:
        self.protocol.dataReceived(octets)

    def lost(self, reason: Exception | None = None) -> None:
        self.protocol.connectionLost(Failure(reason or ConnectionDone()))

    @property
    def is_dropped(self) -> bool:
        return self.transport.disconnecting or self.transport.disconnected


def post(app: App, content: Content = SMALL) -> list[Result]:
    """The results, which fill up when they are there."""
    session = app.protocol or app.connected()
    results: list[Result] = []
    app.transport.clear()
    cast(Deferred[Sequence[Result]], session.deliver(ENVELOPE, ONE, content)).addCallback(results.extend)
    return results


def test_a_request_as_it_goes_out(tmp_path: Path) -> None:
    app = App(tmp_path)
    results = post(app)
    head, _, body = app.transport.value().partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[:3] == ["POST /mail?x=1 HTTP/1.1", "Host: 127.0.0.1:8080", "User-Agent: mailgate"]
    fields = dict(line.split(": ", 1) for line in lines[1:])
    assert int(fields["Content-Length"]) == len(body)
    assert (fields["Mailgate-Route"], fields["Idempotency-Key"]) == ("app", "0A1B2C3D4E5F6G7H-1")
    assert body.startswith(b'{"id":"0A1B2C3D4E5F6G7H"')
    assert results == []
    app.answer(TAKEN)
    assert [one.kind for one in results] == [OutcomeKind.DELIVERED]
    assert results[0].host == "127.0.0.1[127.0.0.1]:8080"


def test_one_connection_serves_many_messages(tmp_path: Path) -> None:
    app = App(tmp_path)
    for number in range(1, 4):
        results = post(app)
        app.answer(b"HTTP/1.1 100 Continue\r\n\r\n" + TAKEN[:20])
        assert not app.protocol.is_usable
        app.answer(TAKEN[20:])
        assert [one.kind for one in results] == [OutcomeKind.DELIVERED]
        assert app.protocol.is_usable
        assert app.protocol.messages == number


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        TAKEN + b"HTTP/1.1 500 ",
    ],
)
def test_a_connection_that_is_not_kept_is_not_used_again(tmp_path: Path, answer: bytes) -> None:
    app = App(tmp_path)
    results = post(app)
    app.answer(answer)
    assert [one.kind for one in results] == [OutcomeKind.DELIVERED]
    assert not app.protocol.is_usable


def test_an_answer_may_end_with_the_connection(tmp_path: Path) -> None:
    app = App(tmp_path)
    results = post(app)
    app.answer(b"HTTP/1.1 422 No\r\nContent-Type: text/plain\r\n\r\nno such ticket")
    assert results == []
    app.lost()
    assert [(one.kind, one.reply.text) for one in results] == [
        (OutcomeKind.FAILED, "HTTP 422 Unprocessable Entity: no such ticket")
    ]


def test_who_is_too_large_hears_so_before_everything_is_sent(tmp_path: Path) -> None:
    app = App(tmp_path)
    app.connected()
    app.protocol.pauseProducing()
    pausing: Callable[[bytes], None] = app.transport.write

    def write(octets: bytes) -> None:
        pausing(octets)
        app.protocol.pauseProducing()

    app.transport.write = write  # type: ignore[method-assign]  # a socket whose buffer is full at once
    results = post(app, LARGE)
    assert len(app.transport.value()) < 1_000_000
    app.answer(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
    assert [one.kind for one in results] == [OutcomeKind.FAILED]
    assert not app.protocol.is_usable
    assert app.is_dropped


def test_who_takes_a_message_before_it_has_all_of_it_is_not_believed(tmp_path: Path) -> None:
    app = App(tmp_path)
    app.connected()
    app.transport.registerProducer = lambda producer, streaming: producer.pauseProducing()  # type: ignore[method-assign]
    results = post(app, LARGE)
    app.answer(TAKEN)
    assert [(one.kind, one.reply.status) for one in results] == [(OutcomeKind.DEFERRED, "4.5.0")]
    assert app.is_dropped


def test_who_takes_a_message_and_closes_still_gets_what_is_written(tmp_path: Path) -> None:
    app = App(tmp_path, timeout="20s")
    results = post(app)
    app.answer(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
    assert [one.kind for one in results] == [OutcomeKind.DELIVERED]
    assert (app.transport.disconnecting, app.transport.disconnected) == (True, False)
    app.reactor.advance(20.0)
    assert app.transport.disconnected  # it never closes its side


def test_pieces_are_made_as_fast_as_they_are_taken(tmp_path: Path) -> None:
    app = App(tmp_path)
    app.connected()
    writing: Callable[[bytes], None] = app.transport.write
    sizes: list[int] = []

    def write(octets: bytes) -> None:
        writing(octets)
        sizes.append(len(octets))
        app.protocol.pauseProducing()

    app.transport.write = write  # type: ignore[method-assign]
    results = post(app, LARGE)
    while app.transport.producer is not None:
        before = len(sizes)
        app.protocol.resumeProducing()
        assert len(sizes) <= before + 1
    assert max(sizes) < 400_000
    assert sum(sizes) > 2_000_000
    app.answer(TAKEN)
    assert [one.kind for one in results] == [OutcomeKind.DELIVERED]


def test_a_first_request_without_an_answer_is_not_sent_again_at_once(tmp_path: Path) -> None:
    app = App(tmp_path)
    results = post(app)
    app.lost(ConnectionLost())
    assert [(one.kind, one.again, one.next_host) for one in results] == [(OutcomeKind.DEFERRED, False, False)]


def test_a_request_that_breaks_off_half_way_may_go_elsewhere_at_once(tmp_path: Path) -> None:
    app = App(tmp_path)
    app.connected()
    writing: Callable[[bytes], None] = app.transport.write

    def write(octets: bytes) -> None:
        writing(octets)
        app.protocol.pauseProducing()

    app.transport.write = write  # type: ignore[method-assign]
    results = post(app, LARGE)
    app.lost(ConnectionLost())
    assert [(one.kind, one.again, one.next_host) for one in results] == [(OutcomeKind.DEFERRED, False, True)]


def test_a_message_that_is_not_as_it_was_is_not_sent_to_its_end(tmp_path: Path) -> None:
    file = tmp_path / "large"
    file.write_bytes(b"Subject: x\r\n\r\n" + b"y" * 2_000_000)
    app = App(tmp_path, format="raw")
    app.connected()
    writing: Callable[[bytes], None] = app.transport.write

    def write(octets: bytes) -> None:
        writing(octets)
        app.protocol.pauseProducing()

    app.transport.write = write  # type: ignore[method-assign]
    results = post(app, Content.in_file(file))
    file.write_bytes(b"short")
    while not results:
        app.protocol.resumeProducing()
    assert [(one.kind, one.host) for one in results] == [(OutcomeKind.DEFERRED, "")]
    assert app.is_dropped


def test_a_kept_connection_that_has_ended_meanwhile_costs_no_attempt(tmp_path: Path) -> None:
    app = App(tmp_path)
    post(app)
    app.answer(TAKEN)
    results = post(app)
    app.lost()
    assert [(one.kind, one.again) for one in results] == [(OutcomeKind.DEFERRED, True)]
    assert [one.again for one in post(app)] == [True]


@pytest.mark.parametrize(
    "end", [lambda app: app.lost(), lambda app: app.answer(b"HTTP/1.1 408 Request Timeout\r\n\r\n")]
)
@pytest.mark.parametrize("is_reused", [True, False])
def test_a_connection_that_ends_before_the_request_is_made(
    tmp_path: Path, end: Callable[[App], None], is_reused: bool
) -> None:
    app = App(tmp_path)
    app.connected()
    if is_reused:
        post(app)
        app.answer(TAKEN)
    app.waiting = []
    results = post(app)
    end(app)
    assert [(one.kind, one.again, one.next_host) for one in results] == [(OutcomeKind.DEFERRED, is_reused, True)]
    ((done, compute),) = app.waiting
    done.callback(compute())
    assert app.transport.value() == b""


def test_a_bug_of_ours_leaves_no_connection(tmp_path: Path) -> None:
    app = App(tmp_path)
    app.connected()
    app.waiting = []
    found: list[object] = []
    sent = cast(Deferred[object], app.protocol.deliver(ENVELOPE, ONE, SMALL))
    sent.addErrback(lambda failure: found.append(failure.type))
    app.waiting[0][0].errback(ZeroDivisionError())
    assert found == [ZeroDivisionError]
    assert app.is_dropped


def test_half_an_answer_is_none(tmp_path: Path) -> None:
    app = App(tmp_path)
    post(app)
    app.answer(TAKEN)
    results = post(app)
    app.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfive")
    app.lost()
    assert [(one.kind, one.again) for one in results] == [(OutcomeKind.DEFERRED, False)]


@pytest.mark.parametrize("answer", [b"220 ready for SMTP\r\n", b"HTTP/1.1 banana\r\n\r\n", b"\x00" * 100])
def test_what_is_no_http_is_for_now(tmp_path: Path, answer: bytes) -> None:
    app = App(tmp_path)
    results = post(app)
    app.answer(answer)
    assert [one.kind for one in results] == [OutcomeKind.DEFERRED]
    assert app.is_dropped


def test_no_more_of_an_answer_is_read_than_anybody_wants(tmp_path: Path) -> None:
    app = App(tmp_path)
    results = post(app)
    app.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n")
    for _ in range(64):
        app.answer(b"z" * 1024)
    assert results == []
    app.answer(b"z")
    assert [one.kind for one in results] == [OutcomeKind.DELIVERED]
    assert app.is_dropped


def test_endless_fields_are_no_answer(tmp_path: Path) -> None:
    app = App(tmp_path)
    results = post(app)
    app.answer(b"HTTP/1.1 200 OK\r\n")
    for _ in range(200):
        if not results:
            app.answer(b"X-Filler: " + b"x" * 1000 + b"\r\n")
    assert [(one.kind, one.reply.status) for one in results] == [(OutcomeKind.DEFERRED, "4.5.0")]
    assert app.is_dropped


def test_endless_interim_answers_are_no_answer(tmp_path: Path) -> None:
    app = App(tmp_path)
    results = post(app)
    for _ in range(10_000):
        if not results:
            app.answer(b"HTTP/1.1 103 Early Hints\r\n\r\n")
    assert [one.kind for one in results] == [OutcomeKind.DEFERRED]


def test_what_comes_unasked_ends_the_connection(tmp_path: Path) -> None:
    app = App(tmp_path)
    app.connected()
    app.answer(TAKEN)
    assert not app.protocol.is_usable
    assert app.is_dropped


def test_silence_has_an_end(tmp_path: Path) -> None:
    app = App(tmp_path, timeout="20s")
    results = post(app)
    app.reactor.advance(19.0)
    app.answer(b"HTTP/1.1 200 OK\r\n")
    assert results == []
    app.reactor.advance(1.5)  # what trickles does not count
    assert [(one.kind, one.next_host) for one in results] == [(OutcomeKind.DEFERRED, False)]
    assert app.is_dropped


def test_a_message_that_cannot_be_read_waits_and_nothing_is_sent(tmp_path: Path) -> None:
    app = App(tmp_path)
    app.connected()
    results = post(app, Content(None, tmp_path / "gone", 5))
    assert [(one.kind, one.host) for one in results] == [(OutcomeKind.DEFERRED, "")]
    assert app.transport.value() == b""
    assert app.protocol.is_usable


def test_cancelling_drops_the_connection(tmp_path: Path) -> None:
    app = App(tmp_path)
    found: list[object] = []
    sent = cast(Deferred[object], app.connected().deliver(ENVELOPE, ONE, SMALL))
    sent.addErrback(lambda failure: found.append(failure.type))
    sent.cancel()
    assert found == [CancelledError]
    assert app.is_dropped
    app.lost()
    gc.collect()


def test_closing_at_rest_is_quiet(tmp_path: Path) -> None:
    app = App(tmp_path)
    app.connected().close()
    assert app.transport.disconnecting
    app.lost()
    app.protocol.close()
    assert app.reactor.getDelayedCalls() == []


def test_who_never_closes_his_side_is_not_waited_for(tmp_path: Path) -> None:
    app = App(tmp_path, timeout="20s")
    app.connected().close()
    assert not app.transport.disconnected
    app.reactor.advance(20.0)
    assert app.transport.disconnected


def failure_of(app: App) -> ConnectFailedError:
    (failure,) = app.found
    assert isinstance(failure, Failure)
    assert isinstance(failure.value, ConnectFailedError)
    return failure.value


def test_nobody_there(tmp_path: Path) -> None:
    app = App(tmp_path)
    app.factory.clientConnectionFailed(None, Failure(ConnectError()))
    assert failure_of(app).stage == "connect"


def test_a_handshake_that_never_ends(tmp_path: Path) -> None:
    app = App(tmp_path, url="https://app.test/", timeout="5s")
    begun: list[object] = []
    app.transport.startTLS = begun.append  # type: ignore[attr-defined]
    app.factory.buildProtocol(None).makeConnection(app.transport)
    assert len(begun) == 1
    assert app.transport.value() == b""
    app.reactor.advance(5.0)
    assert failure_of(app).stage == "tls"
    assert app.is_dropped


def test_giving_up_while_connecting(tmp_path: Path) -> None:
    app = App(tmp_path)
    app.connecting.cancel()
    (failure,) = app.found
    assert isinstance(failure, Failure)
    assert failure.check(CancelledError)


@pytest.mark.parametrize(
    ("spoil", "key"),
    [
        (lambda folder: (folder / "secret").write_text("short\n"), "secret_file"),
        (lambda folder: (folder / "secret").unlink(), "secret_file"),
        (lambda folder: (folder / "ca").write_text("no PEM\n"), "ca"),
    ],
)
def test_files_that_do_not_serve_are_named(tmp_path: Path, spoil: Callable[[Path], object], key: str) -> None:
    (tmp_path / "secret").write_text("a secret that both know\n")
    route = HttpRoute(
        transport="http",
        url="https://app.test/",
        secret_file=tmp_path / "secret",
        ca=tmp_path / "ca" if key == "ca" else None,
    )
    spoil(tmp_path)
    clock = MemoryReactorClock()
    with pytest.raises(TermsError) as caught:
        read_web_terms({"app": route}, clock, ClientContexts(clock))
    assert [one for one, _ in caught.value.errors] == [("routes", "app", key)]
