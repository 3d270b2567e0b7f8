"""What a client can make the listener keep, and for how long."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.http_stand import SECRETS, Answer, HttpStand


@pytest.fixture
def stand(tmp_path: Path) -> HttpStand:
    return HttpStand(tmp_path, {"max_connections": 5, "max_connections_per_client": 2, "max_body": "2KiB"})


GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


def test_requests_on_one_connection_are_answered_in_order(stand: HttpStand) -> None:
    connection = stand.connect()
    answers = connection.send(GET + b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n" + GET).split(b"HTTP/1.1 ")[1:]
    assert [one[:3] for one in answers] == [b"200", b"404", b"200"]
    assert not connection.is_closing
    assert b"server" not in connection.transport.value().lower()


@pytest.mark.parametrize(
    "head",
    [
        b"GET /healthz HTTP/1.1\r\nX: " + b"a" * 20_000,
        b"GET /" + b"a" * 20_000,
        b"GET /healthz HTTP/1.1\r\n" + b"X: a\r\n" * 502,
        b"GET /healthz HTTP/1.1\r\nX: a\x00b\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nno field\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"POST /release/x HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /release/x HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /release/x HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /release/x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n",
    ],
)
def test_a_head_that_is_wrong_or_too_large_ends_the_connection(stand: HttpStand, head: bytes) -> None:
    connection = stand.connect()
    for start in range(0, len(head), 4000):
        connection.channel.dataReceived(head[start : start + 4000])
    assert connection.is_closing
    value = connection.transport.value()
    assert value.count(b"HTTP/1.1 ") <= 1
    assert value in (b"",) or Answer(value).status == 400
    assert connection.send(GET) == value


def test_content_that_is_too_large_is_refused_before_it_comes(stand: HttpStand) -> None:
    connection = stand.connect()
    answer = Answer(connection.send(b"POST /v1/queue/hold HTTP/1.1\r\nHost: x\r\nContent-Length: 2049\r\n\r\n"))
    assert (answer.status, connection.is_closing) == (413, True)
    assert connection.send(b"x" * 2049 + GET) == connection.transport.value()


def test_content_of_untold_length_is_refused_where_it_becomes_too_large(stand: HttpStand) -> None:
    connection = stand.connect()
    head = b"POST /release/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert connection.send(head + b"400\r\n" + b"x" * 1024 + b"\r\n") == b""
    assert Answer(connection.send(b"400\r\n" + b"x" * 1024 + b"\r\n1\r\nx\r\n")).status == 413
    assert connection.is_closing
    assert connection.send(b"0\r\n\r\n").count(b"HTTP/1.1") == 1


def test_content_up_to_the_limit_is_taken(stand: HttpStand) -> None:
    assert stand.ask("POST", "/v1/queue/hold", SECRETS["writer"], content=b" " * 2048).status == 400  # no JSON
    assert stand.ask("POST", "/v1/queue/hold", SECRETS["writer"], content=b" " * 2049).status == 413


@pytest.mark.parametrize(
    "head", [b"GET /healthz HTTP/1.1\r\n", b"POST /release/x HTTP/1.1\r\nContent-Length: 2000\r\n\r\n"]
)
def test_a_request_that_comes_in_drops_has_a_deadline(stand: HttpStand, head: bytes) -> None:
    connection = stand.connect()
    connection.send(head)
    for _ in range(29):
        stand.clock.advance(1)
        connection.send(b"X")
        assert not connection.is_closing
    stand.clock.advance(1)
    assert Answer(connection.transport.value()).status == 408
    assert connection.is_closing
    stand.clock.advance(60)
    assert connection.transport.aborting  # it has not gone by itself
    connection.end()
    assert not stand.clock.getDelayedCalls()


def test_a_silent_connection_is_closed(stand: HttpStand) -> None:
    for said in (b"", GET):
        connection = stand.connect()
        if said:
            connection.send(said)
        stand.clock.advance(29)
        assert not connection.is_closing
        stand.clock.advance(1)
        assert connection.is_closing
        connection.end()
    assert not stand.clock.getDelayedCalls()


def test_whoever_does_not_read_the_answer_is_cut_off(stand: HttpStand) -> None:
    connection = stand.connect()
    connection.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert connection.is_closing  # once all is written, which the client prevents
    stand.clock.advance(30)
    stand.clock.advance(30)
    assert connection.transport.aborting
    connection.end()
    assert not stand.clock.getDelayedCalls()


def test_requests_are_answered_as_far_as_answers_are_read(stand: HttpStand) -> None:
    connection = stand.connect()
    write = connection.transport.write

    def fill(data: bytes) -> None:
        write(data)
        connection.channel.pauseProducing()  # as a transport does whose buffer is full

    connection.transport.write = fill
    connection.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
    for count in (1, 2, 3, 3):
        assert connection.transport.value().count(b"HTTP/1.1 200") == count
        connection.channel.resumeProducing()
    connection.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
    stand.clock.advance(30)
    assert connection.is_closing
    connection.channel.resumeProducing()
    assert connection.transport.value().count(b"HTTP/1.1 200") == 4
    stand.clock.advance(30)
    assert connection.transport.aborting


def test_connections_are_bounded_for_each_client_and_for_all(stand: HttpStand) -> None:
    first, second = stand.connect("192.0.2.1"), stand.connect("192.0.2.1")
    assert not stand.connect("192.0.2.1").is_admitted
    assert stand.connect("2001:db8::1").is_admitted
    assert stand.connect("2001:db8::ffff").is_admitted
    assert not stand.connect("2001:db8::2").is_admitted  # of the same /64
    assert stand.connect("192.0.2.2").is_admitted
    assert not stand.connect("192.0.2.3").is_admitted  # all five are there
    first.end()
    assert stand.connect("192.0.2.1").is_admitted
    assert second.send(GET)[9:12] == b"200"


def test_proxies_bring_many_clients(tmp_path: Path) -> None:
    stand = HttpStand(tmp_path, {"max_connections_per_client": 1, "forwarded_from": ["10.0.0.0/8"]})
    assert all(stand.connect("10.0.0.1").is_admitted for _ in range(5))
    assert [stand.connect("192.0.2.1").is_admitted for _ in range(2)] == [True, False]
