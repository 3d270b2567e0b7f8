"""The terms of routes: what is read, and what is wrong with the files that they name."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from pydantic import TypeAdapter
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.python.threadpool import ThreadPool

from mailgate.config.schema import LmtpRoute, Route, SmtpRoute
from mailgate.relay.attempt import Target
from mailgate.relay.client.connector import SmtpConnector
from mailgate.relay.client.terms import Terms, TermsError, read_terms
from mailgate.relay.transports import ITransportReactor, RouteTransports
from mailgate.tls.client import ClientContexts
from mailgate.tls.pem import TlsError
from tests.unit.certificates import authority, issue

ROUTE: TypeAdapter[Route] = TypeAdapter(Route)
ROOT = authority()


def route(**settings: Any) -> Route:
    return ROUTE.validate_python({"transport": "smtp", "hosts": ["mx.example.org"], **settings})


def read(**routes: Route) -> dict[str, Terms]:
    return read_terms(routes, ClientContexts(Clock()))


def wrong(**settings: Any) -> dict[str, str]:
    """The errors of one route, by key."""
    with pytest.raises(TermsError) as caught:
        read(out=route(**settings), good=route())
    assert all(key[:2] == ("routes", "out") for key, _ in caught.value.errors)
    return {".".join(key[2:]): text for key, text in caught.value.errors}


@pytest.fixture
def password(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_bytes("sésame  \r\nand a note\n".encode())
    return path


def test_what_a_route_says(tmp_path: Path, password: Path) -> None:
    ca = ROOT.write_certificate(tmp_path / "ca.pem")
    own = issue(ROOT, "gw.example.org").write(tmp_path / "own.pem")
    found = read(
        out=route(
            tls="verified",
            tls_name="mx.example.org",
            tls_ca=str(ca),
            certificate=str(own),
            auth={"username": "gw", "password_file": str(password), "mechanisms": ["external", "plain"]},
            xclient=True,
        ),
        box=LmtpRoute(transport="lmtp", hosts=["unix:/run/lmtp"], proxy_protocol=True, xforward=True, chunking=False),
        none=ROUTE.validate_python({"transport": "discard"}),
    )
    assert set(found) == {"out", "box"}
    out = found["out"]
    assert out.login is not None
    assert (out.login.username, out.login.secret) == ("gw", "sésame  ")
    assert out.login.mechanisms == ("external", "plain")
    assert out.login.has_certificate
    assert (out.must_have_tls, out.must_verify, out.xclient, out.proxy_protocol) == (True, True, True, False)
    assert (out.xforward, out.chunking) == (False, True)
    box = found["box"]
    assert (box.must_have_tls, box.proxy_protocol, box.xforward, box.chunking) == (False, True, True, False)
    assert "sésame" not in repr(found)


@pytest.mark.parametrize(
    ("tls", "must_have", "must_verify"),
    [("off", False, False), ("opportunistic", False, False), ("required", True, False), ("verified", True, True)],
)
def test_what_is_demanded(tls: str, must_have: bool, must_verify: bool) -> None:
    terms = read(out=route(tls=tls))["out"]
    assert (terms.must_have_tls, terms.must_verify) == (must_have, must_verify)
    target = Target("mx.example.org", "192.0.2.1", 25)
    if tls == "off":
        with pytest.raises(TlsError):
            terms.creator(target)
    else:
        assert terms.creator(target)
        assert terms.creator(Target("/run/lmtp", "/run/lmtp", 0))


def test_every_file_that_is_wrong_is_told_with_its_key(tmp_path: Path) -> None:
    text = tmp_path / "text.pem"
    text.write_text("nothing")
    found = wrong(
        tls="verified",
        tls_ca=str(text),
        certificate=str(tmp_path / "gone.pem"),
        auth={"username": "gw", "password_file": str(tmp_path / "gone")},
    )
    assert set(found) == {"tls_ca", "certificate", "auth.password_file"}
    assert found["tls_ca"] == f"{text}: holds no certificate"
    assert "cannot be read: No such file" in found["certificate"]
    assert "cannot be read: No such file" in found["auth.password_file"]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "its first line is empty"),
        (b"\nsecret\n", "its first line is empty"),
        (b"s\xe9same\n", "its first line is not UTF-8"),
        (b"s\0same\n", "its first line is no password"),
        (b"s" * 9000, "its first line is no password"),
    ],
)
def test_a_password_file_without_a_password(password: Path, content: bytes, text: str) -> None:
    password.write_bytes(content)
    found = wrong(auth={"username": "gw", "password_file": str(password)})
    assert found == {"auth.password_file": f"{password}: {text}"}


def test_a_pin_where_mail_goes_out_in_clear_text_is_a_mistake() -> None:
    for tls in ("off", "opportunistic"):
        assert list(wrong(tls=tls, tls_fingerprints=["ab" * 32])) == ["tls_fingerprints"]
    assert read(out=route(tls="required", tls_fingerprints=["ab" * 32]))["out"].must_verify


def test_external_needs_a_certificate(password: Path) -> None:
    auth = {"username": "gw", "password_file": str(password), "mechanisms": ["external"]}
    assert list(wrong(auth=auth)) == ["auth.mechanisms"]


class Pool(ThreadPool):
    """Threads that are this one."""

    def callInThreadWithCallback(self, onResult: Any, func: Any, *args: Any, **kw: Any) -> None:  # noqa: N802, N803
        onResult(True, func(*args, **kw))


class Reactor(MemoryReactorClock):
    """One thread, this one."""

    def callFromThread(self, function: Any, *args: Any, **kw: Any) -> None:  # noqa: N802  Twisted's name
        function(*args, **kw)


def transports() -> tuple[RouteTransports, list[Pool]]:
    reactor = Reactor()  # type: ignore[no-untyped-call]  # Twisted's
    pools: list[Pool] = []

    def make_pool() -> Pool:
        pools.append(Pool(0, 1))
        return pools[-1]

    return RouteTransports(cast(ITransportReactor, reactor), make_pool, "gw.example"), pools


def connector(made: RouteTransports, name: str, one: Route) -> SmtpConnector:
    assert isinstance(one, SmtpRoute)
    found = made.connector(name, one)
    assert isinstance(found, SmtpConnector)
    return found


def test_connectors_are_made_on_the_terms_in_use() -> None:
    made, pools = transports()
    assert connector(made, "(reports)", route())._terms.tls == "opportunistic"
    old = connector(made, "out", route(tls="off"))
    made.use(read(out=route(tls="required")))
    new = connector(made, "out", route())
    assert (old._terms.tls, new._terms.tls) == ("off", "required")
    with pytest.raises(TermsError):
        connector(made, "other", route(tls_ca="/nowhere/ca.pem"))
    assert not pools


def test_hosts_without_tls_are_remembered_by_all_and_not_for_ever() -> None:
    made, _ = transports()
    first, second = connector(made, "a", route()), connector(made, "b", route())
    first._without_tls["192.0.2.1", 25] = "no"
    assert second._without_tls["192.0.2.1", 25] == "no"
    made.use({})
    assert not second._without_tls
    for number in range(10_001):
        first._without_tls["192.0.2.1", number] = "no"
    assert len(first._without_tls) == 10_000


def test_long_work_has_threads_of_its_own() -> None:
    made, pools = transports()
    found: list[bytes] = []
    for _ in range(2):
        answer: Deferred[bytes] = connector(made, "out", route())._work(lambda: b"proof")
        answer.addCallback(found.append)
    assert found == [b"proof", b"proof"]
    assert len(pools) == 1
