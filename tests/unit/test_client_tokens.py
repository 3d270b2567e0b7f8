"""Tokens for next hops: got once, got anew in time, and told plainly where there are none."""

from __future__ import annotations

import fcntl
import os
from base64 import b64decode
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from mailgate.backends.questions import BackendError
from mailgate.config.routes import ClientAuth, ClientOAuth
from mailgate.envelope import Origin
from mailgate.relay.attempt import ConnectFailedError, IConnection, IConnector, Target
from mailgate.relay.client.terms import Login, Terms
from mailgate.relay.client.token_login import TokenConnector
from mailgate.relay.client.tokens import TokenSource, TokenSources, TokenTerms, read_token_terms
from mailgate.relay.sources import SYSTEM, Source
from mailgate.relay.transports import RouteTransports
from mailgate.reply import Reply
from tests.unit.remote_peer import Asked, Net, failure_of, is_waiting, outcome
from tests.unit.test_terms import connector as plain_connector
from tests.unit.test_terms import read, route, transports, wrong

URL = "http://127.0.0.1/token"
MX = Target("mx.example.org", "192.0.2.1", 587)


class Provider:
    """A token endpoint, and who asks it."""

    def __init__(self, folder: Path, *, refresh: str = "", **settings: Any) -> None:
        self.net = Net()
        (folder / "secret").write_text("s3cret&\n")
        given: dict[str, Any] = {"token_url": URL, "client_id": "gw id", "client_secret_file": folder / "secret"}
        if refresh:
            (folder / "refresh").write_text(refresh + "\n")
            given["refresh_token_file"] = folder / "refresh"
        self.section = ClientOAuth.model_validate({**given, **settings})
        self.source = TokenSource(read_token_terms(self.section), self.net.reactor)

    def asked(self) -> Asked:
        return self.net.accept()

    def gets(self, given: str = "", **answer: object) -> str:
        """A token, from the provider if that is asked, which answers so."""
        found = self.source.token()
        if isinstance(found, str):
            return found
        self.asked().answer(200, {"access_token": given, "token_type": "Bearer", **answer}, "Connection: close\r\n")
        return outcome(found)

    def fails(self, status: int, body: object) -> str:
        found = self.source.token()
        assert not isinstance(found, str)
        self.asked().answer(status, body, "Connection: close\r\n")
        error = failure_of(found)
        assert isinstance(error, BackendError)
        return str(error)


def form_of(asked: Asked) -> tuple[dict[str, list[str]], dict[str, str]]:
    line, fields, body = asked.request()
    assert line == "POST /token HTTP/1.1"
    return parse_qs(body.decode(), strict_parsing=True), fields


def test_the_application_logs_in_for_itself(tmp_path: Path) -> None:
    provider = Provider(tmp_path, scope="https://outlook.office365.com/.default")
    found = provider.source.token()
    assert not isinstance(found, str)
    asked = provider.asked()
    form, fields = form_of(asked)
    assert form == {
        "grant_type": ["client_credentials"],
        "scope": ["https://outlook.office365.com/.default"],
        "client_id": ["gw id"],
        "client_secret": ["s3cret&"],
    }
    assert "authorization" not in fields
    asked.answer(200, {"access_token": "T1", "token_type": "bearer", "expires_in": 3600})
    assert outcome(found) == "T1"
    assert provider.source.token() == "T1"


def test_name_and_secret_in_the_field(tmp_path: Path) -> None:
    provider = Provider(tmp_path, client_auth="basic")
    provider.source.token()
    form, fields = form_of(provider.asked())
    assert form == {"grant_type": ["client_credentials"]}
    assert b64decode(fields["authorization"].removeprefix("Basic ")) == b"gw+id:s3cret%26"


@pytest.mark.parametrize(
    ("expires", "good"), [(3600, 3540.0), ("3600", 3540.0), (120, 96.0), (None, 240.0), (-5, 240.0), ("x", 240.0)]
)
def test_a_token_is_got_anew_before_it_ends(tmp_path: Path, expires: object, good: float) -> None:
    provider = Provider(tmp_path)
    assert provider.gets("T1", expires_in=expires) == "T1"
    provider.net.advance(good - 1)
    assert provider.gets() == "T1"
    provider.net.advance(1)
    assert provider.gets("T2") == "T2"


def test_who_asks_at_one_time_shares_one_question(tmp_path: Path) -> None:
    provider = Provider(tmp_path)
    waiting = [cast("Deferred[str]", provider.source.token()) for _ in range(5)]
    waiting[0].cancel()
    failure_of(waiting[0])
    provider.asked().answer(200, {"access_token": "T1"})
    assert [outcome(one) for one in waiting[1:]] == ["T1"] * 4
    assert not provider.net.has_more


def test_a_refresh_token_that_is_replaced_is_kept(tmp_path: Path) -> None:
    provider = Provider(tmp_path, refresh="R1", client_secret_file=None)
    found = provider.source.token()
    assert not isinstance(found, str)
    asked = provider.asked()
    form, _ = form_of(asked)
    assert form == {"grant_type": ["refresh_token"], "refresh_token": ["R1"], "client_id": ["gw id"]}
    asked.answer(200, {"access_token": "T1", "refresh_token": "R2"}, "Connection: close\r\n")
    assert outcome(found) == "T1"
    assert (tmp_path / "refresh").read_text() == "R2\n"
    assert (tmp_path / "refresh").stat().st_mode & 0o777 == 0o600
    assert sorted(one.name for one in tmp_path.iterdir()) == ["refresh", "secret"]
    provider.source.refused("T1")
    provider.source.token()
    assert form_of(provider.asked())[0]["refresh_token"] == ["R2"]


def test_a_refresh_token_that_another_process_was_given(tmp_path: Path) -> None:
    provider = Provider(tmp_path, refresh="R1")
    found = provider.source.token()
    assert not isinstance(found, str)
    (tmp_path / "refresh").write_text("R9\n")
    provider.asked().answer(400, {"error": "invalid_grant"}, "Connection: close\r\n")
    asked = provider.asked()
    assert form_of(asked)[0]["refresh_token"] == ["R9"]
    asked.answer(200, {"access_token": "T9"})
    assert outcome(found) == "T9"


def test_a_token_that_has_been_replaced_is_not_shown_again(tmp_path: Path) -> None:
    provider = Provider(tmp_path, refresh="R1")
    (tmp_path / "refresh").write_text("R2\n")  # by another process
    provider.source.token()
    asked = provider.asked()
    assert form_of(asked)[0]["refresh_token"] == ["R2"]
    asked.answer(200, {"access_token": "T1", "refresh_token": "R3"}, "Connection: close\r\n")
    # a file that takes nothing, and so holds an old one, is not gone back to
    (tmp_path / "refresh").write_text("R2\n")
    provider.source.refused("T1")
    provider.source.token()
    assert form_of(provider.asked())[0]["refresh_token"] == ["R3"]


def test_a_link_to_the_refresh_token_stays_one(tmp_path: Path) -> None:
    provider = Provider(tmp_path, refresh="R1")
    (tmp_path / "there").mkdir()
    (tmp_path / "refresh").rename(tmp_path / "there" / "token")
    (tmp_path / "refresh").symlink_to("there/token")
    assert provider.gets("T1", refresh_token="R2") == "T1"  # noqa: S106  of a test
    assert (tmp_path / "refresh").is_symlink()
    assert (tmp_path / "there" / "token").read_text() == "R2\n"


def test_of_several_processes_one_replaces_the_token_at_a_time(tmp_path: Path) -> None:
    provider = Provider(tmp_path, refresh="R1")
    other = TokenSource(read_token_terms(provider.section), provider.net.reactor)
    first, second = provider.source.token(), other.token()
    assert not isinstance(first, str)
    assert not isinstance(second, str)
    asked = provider.asked()
    assert form_of(asked)[0]["refresh_token"] == ["R1"]
    provider.net.advance(1)
    assert not provider.net.has_more
    asked.answer(200, {"access_token": "T1", "refresh_token": "R2"}, "Connection: close\r\n")
    assert outcome(first) == "T1"
    provider.net.advance(1)
    asked = provider.asked()
    assert form_of(asked)[0]["refresh_token"] == ["R2"]
    asked.answer(200, {"access_token": "T2", "refresh_token": "R3"}, "Connection: close\r\n")
    assert outcome(second) == "T2"
    assert (tmp_path / "refresh").read_text() == "R3\n"


def test_who_has_a_turn_for_too_long_is_not_waited_for(tmp_path: Path) -> None:
    provider = Provider(tmp_path, refresh="R1", timeout="5s")
    held = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    found = provider.source.token()
    assert not isinstance(found, str)
    for _ in range(30):
        assert not provider.net.has_more
        provider.net.advance(0.2)
        if provider.net.reactor.seconds() > 5.0:
            break
    provider.asked().answer(200, {"access_token": "T1"}, "Connection: close\r\n")
    assert outcome(found) == "T1"
    os.close(held)


def test_a_turn_ends_with_a_failure(tmp_path: Path) -> None:
    provider = Provider(tmp_path, refresh="R1")
    provider.fails(500, b"")
    provider.net.advance(60)
    assert provider.gets("T1") == "T1"
    held = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(held)


def test_a_source_stays_while_its_refresh_token_is_replaced(tmp_path: Path) -> None:
    provider = Provider(tmp_path, refresh="R1")
    sources = TokenSources(provider.net.reactor)
    source = sources.of(read_token_terms(provider.section))
    (tmp_path / "refresh").write_text("R2\n")
    terms = read_token_terms(provider.section)
    sources.keep([terms])
    assert sources.of(terms) is source


def test_a_refresh_token_that_is_good_no_more_is_told(tmp_path: Path) -> None:
    provider = Provider(tmp_path, refresh="R1")
    text = provider.fails(400, {"error": "invalid_grant", "error_description": "s3cret"})
    assert text == "the token endpoint at 127.0.0.1 answers 400: invalid_grant"


@pytest.mark.parametrize(
    ("status", "body", "text"),
    [
        (401, {"error": "invalid_client"}, "answers 401: invalid_client"),
        (400, {"error": "bad\nline"}, "answers 400"),
        (500, b"<html>", "answers 500"),
        (302, b"", "answers 302"),
        (200, b"<html>", "something else than a token"),
        (200, {"access_token": ""}, "a token that cannot be used"),
        (200, {"access_token": "a b"}, "a token that cannot be used"),
        (200, {"access_token": "x" * 9000}, "a token that cannot be used"),
        (200, {"access_token": "T", "token_type": "mac"}, "a token that cannot be used"),
        (200, b"[" * 50_000, "something else than a token"),
    ],
)
def test_what_is_no_token(tmp_path: Path, status: int, body: object, text: str) -> None:
    provider = Provider(tmp_path)
    said = provider.fails(status, body)
    assert text in said
    assert "s3cret" not in said


def test_after_a_failure_nobody_is_asked_for_a_while(tmp_path: Path) -> None:
    provider = Provider(tmp_path)
    provider.fails(500, b"")
    with pytest.raises(BackendError, match="answers 500"):
        provider.source.token()
    provider.net.advance(15)
    assert provider.gets("T1") == "T1"


def test_a_provider_that_says_nothing(tmp_path: Path) -> None:
    provider = Provider(tmp_path, timeout="3s")
    found = provider.source.token()
    assert not isinstance(found, str)
    provider.asked()
    provider.net.advance(2.9)
    assert is_waiting(found)
    provider.net.advance(0.1)
    assert "gave no answer within 3 s" in str(failure_of(found))


@given(st.binary(max_size=300))
def test_whatever_the_provider_says_there_is_an_end(body: bytes) -> None:
    section = ClientOAuth(token_url=URL, client_id="gw", client_secret_file=Path(__file__))
    terms = TokenTerms(section=section, client_secret=__name__, refresh_token="")
    source = TokenSource(terms, (net := Net()).reactor)
    found = source.token()
    assert not isinstance(found, str)
    net.accept().answer(200, body)
    assert isinstance(failure_of(found), BackendError)


def test_sections_that_cannot_work(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("x")
    whole: dict[str, Any] = {"token_url": URL, "client_id": "gw", "client_secret_file": tmp_path / "s"}
    for change in ({"client_secret_file": None}, {"token_url": "ftp://x"}, {"client_id": ""}):
        with pytest.raises(ValidationError):
            ClientOAuth.model_validate({**whole, **change})
    for auth in ({}, {"oauth": whole, "password_file": tmp_path / "s"}, {"oauth": whole, "mechanisms": ["plain"]}):
        with pytest.raises(ValidationError):
            ClientAuth.model_validate({"username": "gw", **auth})
    clear = {**whole, "token_url": "http://login.example.org/token"}
    assert wrong(auth={"username": "gw", "oauth": clear}) == {
        "auth.oauth": "token_url: secrets would go to login.example.org in clear text: use https://"
    }
    gone = {**whole, "client_secret_file": tmp_path / "gone"}
    assert list(wrong(auth={"username": "gw", "oauth": gone})) == ["auth.oauth"]


def test_routes_with_one_account_share_its_tokens(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("x")
    oauth = {"token_url": URL, "client_id": "gw", "client_secret_file": tmp_path / "s"}
    routes = {name: route(auth={"username": "gw", "oauth": oauth}) for name in ("a", "b")}
    terms = read(**routes)
    login = terms["a"].login
    assert login is not None
    assert login.mechanisms == ("xoauth2", "oauthbearer")
    assert "x" not in repr(login.tokens).partition("client_secret=")[2]
    made, _ = transports()
    assert isinstance(made, RouteTransports)
    made.use(terms)
    found = [made.connector(name, cast(Any, one)) for name, one in routes.items()]
    assert all(isinstance(one, TokenConnector) for one in found)
    assert len({id(cast(TokenConnector, one)._tokens) for one in found}) == 1
    made.use({})
    assert not made._tokens._sources
    assert plain_connector(made, "c", route())


def test_an_account_whose_secret_has_changed_is_another(tmp_path: Path) -> None:
    sources = TokenSources(Net().reactor)
    (tmp_path / "s").write_text("one")
    section = ClientOAuth(token_url=URL, client_id="gw", client_secret_file=tmp_path / "s")
    first = sources.of(read_token_terms(section))
    assert sources.of(read_token_terms(section)) is first
    (tmp_path / "s").write_text("two")
    assert sources.of(read_token_terms(section)) is not first


@implementer(IConnector)
class Host:
    """Says yes to some tokens."""

    def __init__(self, hop: Hop, terms: Terms) -> None:
        self.hop = hop
        self.terms = terms

    def connect(
        self, target: Target, origin: Origin | None = None, *, try_tls: bool = False, source: Source = SYSTEM
    ) -> Deferred[IConnection]:
        assert self.terms.login is not None
        secret = self.terms.login.secret
        self.hop.shown.append(secret)
        if secret in self.hop.good:
            return succeed(cast(IConnection, secret))
        return fail(ConnectFailedError(target, self.hop.reply, "no", stage=self.hop.stage))


class Hop:
    def __init__(self, tokens: TokenSource, *good: str) -> None:
        self.good = good
        self.shown: list[str] = []
        self.stage = "auth"
        self.reply = Reply.of(535, "5.7.8", "no")
        login = Login(username="gw", secret="", mechanisms=("xoauth2",))
        self.connector = TokenConnector(lambda terms: Host(self, terms), Terms(login=login), tokens)


def test_a_token_that_is_refused_is_replaced_once(tmp_path: Path) -> None:
    provider = Provider(tmp_path)
    hop = Hop(provider.source, "T2")
    opened = hop.connector.connect(MX)
    provider.asked().answer(200, {"access_token": "T1"}, "Connection: close\r\n")
    assert is_waiting(opened)
    provider.asked().answer(200, {"access_token": "T2"}, "Connection: close\r\n")
    assert cast(object, outcome(opened)) == "T2"
    assert cast(object, outcome(hop.connector.connect(MX))) == "T2"
    assert hop.shown == ["T1", "T2", "T2"]
    hop.good = ()
    opened = hop.connector.connect(MX)
    provider.asked().answer(200, {"access_token": "T3"}, "Connection: close\r\n")
    assert isinstance(failure_of(opened), ConnectFailedError)
    assert hop.shown[-2:] == ["T2", "T3"]


@pytest.mark.parametrize(("stage", "code"), [("tls", 550), ("auth", 454)])
def test_other_troubles_are_none_of_the_token(tmp_path: Path, stage: str, code: int) -> None:
    provider = Provider(tmp_path)
    provider.gets("T1")
    hop = Hop(provider.source)
    hop.stage, hop.reply = stage, Reply.of(code, "", "no")
    assert isinstance(failure_of(hop.connector.connect(MX)), ConnectFailedError)
    assert provider.source.token() == "T1"


def test_without_a_token_there_is_no_session(tmp_path: Path) -> None:
    provider = Provider(tmp_path)
    hop = Hop(provider.source)
    opened = hop.connector.connect(MX)
    provider.asked().answer(500, b"")
    error = failure_of(opened)
    assert isinstance(error, ConnectFailedError)
    assert (error.stage, error.is_ours, str(error.reply)[:9]) == ("auth", True, "451 4.7.0")
    assert not hop.shown
    opened = hop.connector.connect(MX)
    opened.addErrback(lambda _: None)
    assert not is_waiting(opened)
