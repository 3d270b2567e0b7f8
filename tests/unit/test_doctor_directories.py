"""Who knows recipients and users: asked about somebody who does not exist."""

from __future__ import annotations

from collections.abc import Awaitable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred, fail, succeed

from mailgate.assembly import Assembly
from mailgate.auth.checker import AuthUnavailable
from mailgate.backends.keeping import Source
from mailgate.backends.questions import BackendError
from mailgate.doctor.diagnosis import Diagnosis
from mailgate.doctor.directories import auth_checks, recipient_checks
from mailgate.envelope import Identity
from mailgate.interfaces import RecipientStatus
from mailgate.recipients.snapshot import EMPTY
from mailgate.recipients.snapshot_file import Saved, SnapshotFile
from mailgate.wire.sasl_exchange import BearerToken, Credentials
from tests.unit.doctor_stand import Network, found, make_site, said

KNOWN, UNKNOWN = RecipientStatus.KNOWN, RecipientStatus.UNKNOWN
UNAVAILABLE = RecipientStatus.UNAVAILABLE
LDAP = {"kind": "ldap", "urls": ["ldap://127.0.0.1"], "base": "dc=x"}


class Knows:
    """A source that gives one answer."""

    def __init__(self, status: RecipientStatus, *, at_hand: bool = False) -> None:
        self.status = status
        self.is_at_hand = at_hand
        self.asked: list[str] = []

    def at_hand(self, local_part: str, domain: str) -> RecipientStatus | None:
        return self.status if self.is_at_hand else None

    def ask(self, local_part: str, domain: str) -> Awaitable[RecipientStatus]:
        self.asked.append(f"{local_part}@{domain}")
        return succeed(self.status)


def assembly(sources: dict[str, Any] | None = None, users: dict[str, Any] | None = None) -> Assembly:
    made = {("recipients", name): Source(one, None) for name, one in (sources or {}).items()}
    return cast(Assembly, SimpleNamespace(sources=made, users=users or {}))


def ask(tmp_path: Path, source: Knows, **more: Any) -> list[Diagnosis]:
    site = make_site(tmp_path, more={"assembly": assembly({"people": source})}, **more)
    return found(site, recipient_checks(site), Network())


@pytest.mark.parametrize("at_hand", [True, False])
def test_a_source_that_knows_somebody_from_nobody(tmp_path: Path, at_hand: bool) -> None:
    source = Knows(UNKNOWN, at_hand=at_hand)
    assert said(ask(tmp_path, source), "is nobody's") == ["ok"]
    assert all(one.startswith("mailgate-doctor-") for one in source.asked)


def test_a_source_that_cannot_be_asked(tmp_path: Path) -> None:
    told = ask(tmp_path, Knows(UNAVAILABLE), recipients={"people": LDAP | {"snapshot": False}})
    assert said(told, "cannot be asked about example.org") == ["fail"]
    assert told[0].fix
    callout = {"people": {"kind": "callout", "route": "inside"}}
    assert "routes.inside" in ask(tmp_path, Knows(UNAVAILABLE), recipients=callout)[0].fix


def test_a_source_that_knows_everybody(tmp_path: Path) -> None:
    sql = {"people": {"kind": "sql", "url": "sqlite:/x"}}
    assert said(ask(tmp_path, Knows(KNOWN), recipients=sql), "takes every address there") == ["warn"]
    assert said(ask(tmp_path, Knows(KNOWN)), "takes every address there") == ["note"]  # a list: meant so


def test_domains_that_take_anybody(tmp_path: Path) -> None:
    site = make_site(tmp_path, domains={"example.org": {"route": "inside"}})
    assert said(found(site, recipient_checks(site)), 'its recipients are "any"') == ["note"]


def test_a_source_that_no_domain_names(tmp_path: Path) -> None:
    told = ask(tmp_path, Knows(UNKNOWN), domains={"example.org": {"route": "inside"}})
    assert said(told, "no domain names this source") == ["note"]


@pytest.mark.parametrize(
    ("age", "severity", "words"),
    [
        (60.0, "ok", "1 minutes ago"),
        (3600.0, "warn", "60 minutes ago"),
        (200_000.0, "fail", "new recipients are put off"),
    ],
)
def test_the_age_of_a_snapshot(tmp_path: Path, age: float, severity: str, words: str) -> None:
    now = 1_800_000_000.0
    (tmp_path / "state").mkdir()
    options: dict[str, Any] = {"recipients": {"people": LDAP}, "now": now}
    site = make_site(tmp_path, **options)
    section = site.config.recipients["people"]
    SnapshotFile(tmp_path / "state", "people", cast(Any, section)).save(Saved(EMPTY, now - age, None), now - age)
    told = ask(tmp_path, Knows(UNKNOWN), **options)
    assert said(told, words) == [severity]


def test_no_snapshot_yet(tmp_path: Path) -> None:
    told = ask(tmp_path, Knows(UNAVAILABLE), recipients={"people": LDAP})
    assert said(told, "ldap://127.0.0.1: cannot connect") == ["warn"]
    assert said(told, "there is no snapshot yet") == ["warn"]


@pytest.mark.parametrize(
    ("answer", "severity", "words"),
    [
        (None, "ok", "can be asked"),
        (["ann@example.org"], "warn", "it stands for ann@example.org"),
        (BackendError("connection refused"), "fail", "cannot be asked: connection refused"),
    ],
)
@pytest.mark.parametrize("kind", ["aliases", "senders"])
def test_sources_of_aliases(tmp_path: Path, kind: str, answer: Any, severity: str, words: str) -> None:
    class Aliases:
        def find(self, key: str) -> Any:
            return fail(answer) if isinstance(answer, Exception) else answer

    made = cast(Assembly, SimpleNamespace(sources={(kind, "names"): Source(cast(Any, Aliases()), None)}, users={}))
    site = make_site(tmp_path, more={"assembly": made})
    told = found(site, recipient_checks(site))
    assert [(one.subject, one.severity) for one in told] == [(f"{kind}.names", severity)]
    assert words in told[0].says


# -- Users


class Users:
    """An authenticator that gives one answer."""

    def __init__(self, answer: Exception | None, mechanisms: frozenset[str] = frozenset({"PLAIN"})) -> None:
        self.answer = answer
        self.mechanisms = mechanisms
        self.shown: list[Credentials] = []

    def check(self, credentials: Credentials, *, mechanism: str) -> Deferred[Identity]:
        self.shown.append(credentials)
        return fail(self.answer) if self.answer else succeed(Identity("x", mechanism))


def log_in(tmp_path: Path, users: Users) -> list[Diagnosis]:
    (tmp_path / "users").touch()
    listeners = [{"name": "out", "role": "outbound", "endpoints": ["tcp:587"], "pipeline": "in", "auth": "all"}]
    site = make_site(
        tmp_path,
        listeners=listeners,
        auth={"all": {"kind": "file", "path": "users"}},
        more={"assembly": assembly(users={"all": users})},
    )
    return found(site, auth_checks(site))


def test_users_can_be_asked(tmp_path: Path) -> None:
    assert said(log_in(tmp_path, Users(UnauthorizedLogin("no"))), "can be asked") == ["ok"]


def test_users_cannot_be_asked(tmp_path: Path) -> None:
    told = log_in(tmp_path, Users(AuthUnavailable("connection refused")))
    assert said(told, "cannot be asked: connection refused") == ["fail"]


def test_everybody_may_log_in(tmp_path: Path) -> None:
    assert said(log_in(tmp_path, Users(None)), "lets a made-up user in") == ["fail"]


def test_who_knows_tokens_only_gets_one(tmp_path: Path) -> None:
    users = Users(UnauthorizedLogin("no"), frozenset({"OAUTHBEARER", "XOAUTH2"}))
    log_in(tmp_path, users)
    assert isinstance(users.shown[0], BearerToken)
