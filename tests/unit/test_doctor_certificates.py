"""Our certificates, of a site where all is well, and with each thing wrong in turn."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from mailgate.doctor import certificates
from mailgate.doctor.certificates import certificate_checks, read_pairs
from mailgate.doctor.diagnosis import Diagnosis
from mailgate.doctor.shown import shown_checks
from tests.unit.certificates import Issued, authority, issue
from tests.unit.doctor_stand import Host, Network, found, make_site, said

SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's authorities vouch for everything that has an issuer."""
    monkeypatch.setattr(certificates, "chain_objection", lambda pair: "" if pair.chain else "signed by itself")


def look(tmp_path: Path, *issued: Issued, **more: Any) -> list[Diagnosis]:
    folder = tmp_path / "tls"
    folder.mkdir(exist_ok=True)
    for number, one in enumerate(issued):
        one.write(folder / f"{number}.pem")
    site = make_site(tmp_path, tls={"certificate": "tls"}, now=time.time(), **more)
    return found(site, certificate_checks(site))


def chained(*names: str, usages: Sequence[Any] = (SERVER,), **more: Any) -> Issued:
    middle = authority("middle", authority())
    one = issue(middle, *names, usages=usages, **more)
    return Issued(one.certificate, one.key, (middle.certificate,))


def test_a_good_one(tmp_path: Path) -> None:
    (told,) = look(tmp_path, chained("gw.example.org"))
    assert told.severity == "ok"
    assert "is good until" in told.says


@pytest.mark.parametrize(
    ("issued", "severity", "words"),
    [
        (lambda: chained("gw.example.org", days=(-90, -1)), "fail", "expired on"),
        (lambda: chained("gw.example.org", days=(-80, 5)), "warn", "it should have been renewed by now"),
        (lambda: chained("gw.example.org", days=(2, 90)), "warn", "is not valid before"),
        (lambda: chained("other.example.org"), "warn", "no certificate is for gw.example.org, only for other"),
        (lambda: chained("gw.example.org", usages=[CLIENT]), "fail", "no serverAuth"),
        (lambda: issue(None, "gw.example.org"), "warn", "signed by itself: who verifies us"),
    ],
)
def test_each_thing_is_found(tmp_path: Path, issued: Any, severity: str, words: str) -> None:
    told = look(tmp_path, issued())
    assert said(told, words) == [severity]
    assert all(one.fix for one in told if one.severity != "ok")


def test_where_our_policy_insists_it_is_a_failure(tmp_path: Path) -> None:
    enforce = {"mta_sts": {"mode": "enforce"}}
    assert said(look(tmp_path, issue(None, "gw.example.org"), **enforce), "signed by itself") == ["fail"]
    assert said(look(tmp_path, chained("x.example.org"), **enforce), "no certificate is for") == ["fail"]


def test_a_key_of_another(tmp_path: Path) -> None:
    one, other = chained("gw.example.org"), chained("gw.example.org")
    told = look(tmp_path, Issued(one.certificate, other.key))
    assert said(told, "the private key does not belong to the certificate") == ["fail"]


def test_nothing_there(tmp_path: Path) -> None:
    assert read_pairs(tmp_path / "no")[1]
    (tmp_path / "empty").mkdir()
    assert "holds no certificate" in read_pairs(tmp_path / "empty")[1][0]
    site = make_site(tmp_path)
    assert said(found(site, certificate_checks(site)), "there is no certificate") == ["warn"]


def test_that_of_a_route(tmp_path: Path) -> None:
    chained("gw.example.org").write(tmp_path / "client.pem")
    routes = {"inside": {"transport": "smtp", "hosts": ["10.0.0.5"], "certificate": "client.pem"}}
    site = make_site(tmp_path, routes=routes, routing={}, now=time.time(), listeners=[
        {"name": "mx", "endpoints": ["tcp:2525"], "pipeline": "in"}])  # fmt: skip
    (told,) = found(site, certificate_checks(site))
    assert (told.severity, "no clientAuth" in told.says) == ("note", True)
    (tmp_path / "client.pem").write_text("nothing")
    (told,) = found(site, certificate_checks(site))
    assert told.severity == "fail"


def shown(tmp_path: Path, host: Host | None, **listener: Any) -> list[Diagnosis]:
    chained("gw.example.org").write(tmp_path / "a.pem")
    listeners = [{"name": "mx", "endpoints": ["tcp:25"], "pipeline": "in", **listener},
                 {"name": "plain", "endpoints": ["tcp:26"], "pipeline": "in", "tls": "off"}]  # fmt: skip
    site = make_site(tmp_path, tls={"certificate": "a.pem"}, listeners=listeners)
    return found(site, shown_checks(site), Network({("127.0.0.1", 25): host} if host else {}))


def test_what_a_listener_shows(tmp_path: Path) -> None:
    (told,) = shown(tmp_path, None)
    assert (told.severity, "could not be seen" in told.says) == ("note", True)
    (told,) = shown(tmp_path, Host())
    assert (told.severity, "it does not offer STARTTLS" in told.says) == ("fail", True)
    (told,) = shown(tmp_path, Host(banner=""))
    assert told.severity != "ok"


@pytest.mark.parametrize(
    ("listener", "words"),
    [
        ({"client_certificates": "require"}, "it insists on a certificate of ours"),
        ({"proxy_protocol_from": ["127.0.0.0/8"]}, "it expects a PROXY header"),
    ],
)
def test_a_listener_that_we_are_no_client_for(tmp_path: Path, listener: dict[str, Any], words: str) -> None:
    (told,) = shown(tmp_path, Host(), **listener)
    assert (told.severity, words in told.says) == ("note", True)


def test_the_system_knows_no_authority_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    issue(None, "gw.example.org").write(tmp_path / "a.pem")
    pairs, _ = read_pairs(tmp_path / "a.pem")
    assert "signed by itself" in certificates.chain_objection(pairs[0])
