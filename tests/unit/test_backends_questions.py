"""What all clients share: TLS with a service that must be the one that was named."""

from __future__ import annotations

from pathlib import Path

import pytest
from twisted.internet.task import Clock

from mailgate.backends.questions import verifying
from mailgate.tls.store import CertificateStore
from tests.unit.certificates import authority, issue
from tests.unit.tls_pair import Pair

ROOT = authority()


@pytest.mark.parametrize(
    ("name", "host", "is_up"),
    [
        ("ldap.example", "LDAP.example.", True),
        ("xn--bcher-kva.example", "bücher.example", True),
        ("192.0.2.1", "192.0.2.1", True),
        ("ldap.example", "other.example", False),
    ],
)
def test_a_service_must_prove_its_name(tmp_path: Path, name: str, host: str, is_up: bool) -> None:
    store = CertificateStore(issue(ROOT, name).write(tmp_path / "server.pem"), Clock())
    creators = verifying(Clock(), ROOT.write_certificate(tmp_path / "ca.pem"))
    assert Pair(store.server_creator("request"), creators(host)).is_up is is_up


def test_an_authority_that_is_another_is_not_believed(tmp_path: Path) -> None:
    store = CertificateStore(issue(ROOT, "ldap.example").write(tmp_path / "server.pem"), Clock())
    for ca in (authority("Other").write_certificate(tmp_path / "ca.pem"), None):
        assert not Pair(store.server_creator("request"), verifying(Clock(), ca)("ldap.example")).is_up


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_file_without_authorities_is_refused_at_once(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=r"ca\.pem"):
        verifying(Clock(), path)
