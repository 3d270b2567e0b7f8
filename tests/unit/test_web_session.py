"""A connection to an application, with everything that may go wrong on it."""

from __future__ import annotations

import base64
import gc
import gzip
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
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
from mailgate.relay.web_post.answers import Answer
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


def test_an_answer_octet_by_octet_has_no_more_time(tmp_path: Path) -> None:
    app = App(tmp_path, timeout="60s")
    results = post(app)
    for octet in TAKEN[:30]:
        assert results == []
        app.answer(bytes([octet]))
        app.reactor.advance(2.0)
    assert [(one.kind, one.reply.status) for one in results] == [(OutcomeKind.DEFERRED, "4.4.2")]
    assert app.is_dropped


def test_an_answer_that_is_compressed_is_not_asked_for_and_delivers_nothing(tmp_path: Path) -> None:
    app = App(tmp_path)
    results = post(app)
    assert b"\r\nAccept-Encoding: identity\r\n" in app.transport.value()
    bomb = gzip.compress(b'{"recipients":{' + b" " * 10_000_000)
    fields = b"Content-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb)
    app.answer(b"HTTP/1.1 200 OK\r\n" + fields + bomb)
    assert [one.kind for one in results] == [OutcomeKind.DEFERRED]


@given(
    start=st.sampled_from([b"", b"HTTP/1.1 ", b"HTTP/1.1 200 OK\r\n", TAKEN, b"HTTP/1.1 103 x\r\n\r\n"]),
    pieces=st.lists(st.binary(max_size=60) | st.sampled_from([b"\r\n", b"\r\n\r\n", b": ", b"Content-Length: 5"])),
    is_torn=st.booleans(),
)
def test_whatever_is_answered_there_is_one_result(start: bytes, pieces: Sequence[bytes], is_torn: bool) -> None:
    with TemporaryDirectory() as folder:
        app = App(Path(folder))
        results = post(app)
        for piece in (start, *pieces):
            if piece and not app.is_dropped:
                app.answer(piece)
        app.lost(ConnectionLost() if is_torn else ConnectionDone())
    assert len(results) == 1


def fields_of(app: App) -> list[str]:
    post(app)
    found: list[str] = app.transport.value().partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
    app.answer(TAKEN)
    return [one for one in found if one.startswith("Authorization:")]


def test_a_token_is_sent_as_it_is_now(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    token = tmp_path / "token"
    token.write_text("  first.TOKEN \n")
    app = App(tmp_path, token_file=token)
    assert fields_of(app) == ["Authorization: Bearer first.TOKEN"]
    token.write_text("the-second-token")
    app.reactor.advance(2.0)
    assert fields_of(app) == ["Authorization: Bearer the-second-token"]
    token.write_text("no token any more")
    app.reactor.advance(2.0)
    assert fields_of(app) == ["Authorization: Bearer the-second-token"]
    assert "TOKEN" not in f"{app.connector.__dict__}{app.protocol.__dict__}{capfd.readouterr()}"


def test_a_name_and_a_password_are_sent(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("pa:ss # w\u00f6rd\n")
    app = App(tmp_path, username="mail", password_file=password)
    (field,) = fields_of(app)
    assert base64.b64decode(field.removeprefix("Authorization: Basic ")).decode() == "mail:pa:ss # w\u00f6rd"


def test_without_a_login_none_is_sent(tmp_path: Path) -> None:
    assert fields_of(App(tmp_path)) == []


@pytest.mark.parametrize(
    ("octets", "said"),
    [
        (b"", "one line with the secret is expected"),
        (b"two\nlines", "one line with the secret is expected"),
        (b"x" * 20_000, "one line with the secret is expected"),
        (b"two words", "a token has no spaces"),
        ("t\u00f6ken".encode(), "a token has no spaces"),
        (b"\xff\xfe", "a secret is text in UTF-8"),
    ],
)
def test_a_token_that_is_none_is_told_without_what_it_is(tmp_path: Path, octets: bytes, said: str) -> None:
    (tmp_path / "token").write_bytes(octets)
    with pytest.raises(TermsError) as caught:
        App(tmp_path, token_file=tmp_path / "token")
    (((key,), text),) = caught.value.errors
    assert (key, text.partition(": ")[0], said in text) == ("token_file", str(tmp_path / "token"), True)
    assert len(text) < len(str(tmp_path)) + 80


def test_certificates_that_we_show_are_read_before(tmp_path: Path) -> None:
    with pytest.raises(TermsError) as caught:
        App(tmp_path, url="https://app.test/", certificate=tmp_path / "missing.pem")
    assert [key for key, _ in caught.value.errors] == [("certificate",)]


def test_an_answer_that_is_torn_is_none(tmp_path: Path) -> None:
    app = App(tmp_path)
    results = post(app)
    app.answer(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
    app.lost(ConnectionLost())
    assert [(one.kind, one.host) for one in results] == [(OutcomeKind.DEFERRED, "")]


def test_an_answer_that_may_have_been_cut_off_before_its_verdicts_delivers_nothing(tmp_path: Path) -> None:
    app = App(tmp_path)
    results = post(app)
    app.answer(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
    app.lost()
    assert [one.kind for one in results] == [OutcomeKind.DEFERRED]


def test_what_is_asked_without_mail_has_an_answer_of_any_kind(tmp_path: Path) -> None:
    app = App(tmp_path)
    app.connected()
    found: list[object] = []
    app.protocol.ask("OPTIONS", app.connector.question()).addBoth(found.append)
    app.answer(b"HTTP/1.1 301 Moved\r\nLocation: https://other.test/\r\nContent-Length: 0\r\n\r\n")
    (answer,) = cast("list[Answer]", found)
    assert (answer.status, answer.location) == (301, "https://other.test/")
    assert app.protocol.is_usable
    app.protocol.ask("OPTIONS", app.connector.question()).addBoth(found.append)
    app.lost(ConnectionLost())
    assert isinstance(found[1], Failure)
    assert found[1].check(ConnectFailedError)
    app.protocol.ask("OPTIONS", app.connector.question()).addErrback(lambda failure: found.append(failure.type))
    assert found[2] is ConnectFailedError


@pytest.mark.parametrize(
    "spoil",
    [
        lambda app: app.lost(ConnectionLost()),
        lambda app: app.reactor.advance(1000.0),
        lambda app: app.answer(b"220 hello\r\n"),
    ],
)
def test_our_own_findings_are_no_words_of_the_application(tmp_path: Path, spoil: Callable[[App], object]) -> None:
    app = App(tmp_path)
    results = post(app)
    spoil(app)
    (one,) = results
    assert (one.host, one.reason.startswith("127.0.0.1[127.0.0.1]:8080: ")) == ("", True)


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
