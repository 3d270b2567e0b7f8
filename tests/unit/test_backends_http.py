"""Requests over HTTP: connections that a service keeps open are given up in time."""

from __future__ import annotations

from pathlib import Path

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.task import Clock

from mailgate.backends.http import Fetched, Fetcher
from mailgate.tls.store import CertificateStore
from tests.unit.certificates import authority, issue
from tests.unit.remote_peer import Asked, Net, failure_of, is_waiting, outcome
from tests.unit.tls_pair import Side

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
#: What is kept open at most, and the seconds in which a body must be over.
KEPT, OVER_WITHIN = 4, 5.0


class Stand:
    """A client, and the services it asks; over TLS where there is a folder for certificates."""

    def __init__(self, folder: Path | None = None) -> None:
        self.net = Net()
        self._creator: IOpenSSLServerConnectionCreator | None = None
        ca = None
        if folder is not None:
            root = authority()
            ca = root.write_certificate(folder / "ca.pem")
            path = issue(root, "hook.test").write(folder / "server.pem")
            self._creator = CertificateStore(path, Clock()).server_creator("request")
        self.fetcher = Fetcher(self.net.reactor, connect_timeout=5.0, ca=ca)

    def status(self) -> Asked:
        """Ask for a status: a service that answers with the head of a response, and goes on to say nothing."""
        asked = Deferred.fromCoroutine(self.fetcher.status("POST", self._url, {}, b"x"))
        service = self._answering()
        assert outcome(asked) == 200
        return service

    def fetch(self) -> tuple[Deferred[Fetched], Asked]:
        """Ask for all of a response; the same service."""
        asked = Deferred.fromCoroutine(self.fetcher.fetch("POST", self._url, {}, b"x"))
        return asked, self._answering()

    @property
    def _url(self) -> str:
        return f"http{'s' if self._creator else ''}://hook.test/"

    def _answering(self) -> Asked:
        service = self.net.accept()
        if self._creator is None:
            service.say(HEAD)
            return service
        side = Side(self._creator, is_client=False)
        said = False
        while True:
            self.net.advance(0)
            there, back = service.take(), side.sent()
            side.take(there)
            if back:
                service.say(back)
            if not there + back:
                if said:
                    return service
                assert side.received.startswith(b"POST / ")
                side.send(HEAD)
                said = True


@pytest.fixture(params=["clear", "tls"])
def stand(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stand:
    made = Stand(tmp_path if request.param == "tls" else None)
    monkeypatch.setattr("twisted.protocols.tls._get_default_clock", lambda: made.net.memory)
    return made


def test_a_body_that_is_never_over_costs_its_connection(stand: Stand) -> None:
    services = [stand.status() for _ in range(KEPT)]
    stand.net.advance(OVER_WITHIN - 0.1)
    assert all(one.is_open for one in services)
    stand.net.advance(0.1)
    assert not any(one.is_open for one in services)
    assert not stand.net.memory.getDelayedCalls()


def test_bodies_that_are_not_over_keep_few_connections(stand: Stand) -> None:
    services = []
    for _ in range(20):
        services.append(stand.status())
        assert sum(one.is_open for one in services) <= KEPT
    assert [one.is_open for one in services] == [False] * 16 + [True] * KEPT
    outcome(stand.fetcher.close())
    assert not any(one.is_open for one in services)


def test_an_answer_that_is_given_up_costs_its_connection(stand: Stand) -> None:
    asked, service = stand.fetch()
    assert is_waiting(asked)
    asked.cancel()
    failure_of(asked)
    assert not service.is_open


def test_a_short_body_leaves_the_connection_to_the_next_request() -> None:
    stand = Stand()
    asked = Deferred.fromCoroutine(stand.fetcher.status("GET", "http://hook.test/", {}))
    service = stand.net.accept()
    service.answer(204)
    assert outcome(asked) == 204
    again = Deferred.fromCoroutine(stand.fetcher.status("GET", "http://hook.test/", {}))
    assert not stand.net.has_more
    service.answer(200, b"thanks")
    assert outcome(again) == 200
