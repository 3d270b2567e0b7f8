"""`mailgate doctor` with real name servers, a real Postfix behind, and a gateway that runs: a good site passes, and
each thing that is broken is found."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from dns_parts import Knot, Unbound
from parts import Gateway, Postfix, Sink, folder, free_port

from mailgate.doctor.diagnosis import AREAS
from mailgate.mailauth import SigningKey
from mailgate.mailauth.dkim.make import new_key
from mailgate.tls.dane import Tlsa
from tests.unit.certificates import Issued, authority, issue

pytestmark = pytest.mark.needs("knotd", "unbound", "postfix", "smtp-sink", "root")

#: Zones that lack one thing each, or have it wrong; "good" lacks nothing.
CASES = ("good", "mx", "spf", "dkim", "dmarc", "ptr", "helo", "tlsa", "sts")
#: Where the disk that tests write to lies is not the site's business.
ALL_BUT_THE_DISK = [argument for area in AREAS if area not in ("disk", "exchange") for argument in ("--only", area)]


class Names(NamedTuple):
    """The resolver, and what the zones were made of."""

    server: str
    key: bytes
    certificate: Issued


def zone(case: str, number: int, key: SigningKey, other: SigningKey, certificate: Issued, stranger: Issued) -> str:
    shown = stranger if case == "tlsa" else certificate
    lines = [
        f"@ MX 10 {'elsewhere.good.test.' if case == 'mx' else 'gw'}",
        f'@ TXT "v=spf1 {"" if case == "spf" else f"ip4:127.0.0.{number} "}-all"',
        "" if case == "helo" else f"gw A 127.0.0.{number}",
        'gw TXT "v=spf1 a -all"',
        f"other A 127.0.0.{number}" if case == "helo" else "",
        f'_dmarc TXT "v=DMARC1; p={"nonsense" if case == "dmarc" else "reject; rua=mailto:dmarc@good.test"}"',
        f's1._domainkey TXT "{(other if case == "dkim" else key).record}"',
        f"_25._tcp.gw TLSA {Tlsa.of(shown.certificate)}",
        '_smtp._tls TXT "v=TLSRPTv1; rua=mailto:tls@good.test"',
        '_mta-sts TXT "v=STSv1; id=1;"' if case == "sts" else "",
        "mta-sts A 127.0.0.1" if case == "sts" else "",
    ]
    return "\n".join([*lines, ""])


@pytest.fixture(scope="module")
def names() -> Iterator[Names]:
    octets = new_key("ed25519", 0)
    key, other = SigningKey.load(octets), SigningKey.load(new_key("ed25519", 0))
    root = authority()
    hosts = [f"gw.{case}.test" for case in CASES]
    certificate, stranger = issue(root, *hosts), issue(root, *hosts)
    zones = {
        f"{case}.test": zone(case, number, key, other, certificate, stranger)
        for number, case in enumerate(CASES, start=2)
    }
    pointers = [f"{number}.0.0 PTR gw.{case}.test." for number, case in enumerate(CASES, start=2) if case != "ptr"]
    signed = list(zones)
    zones["127.in-addr.arpa"] = "\n".join([*pointers, ""])
    with folder("doctor-names") as directory, Knot(directory / "knot", zones, signed) as knot:
        anchors = [knot.trust_anchor(one) for one in signed]
        with Unbound(directory / "unbound", knot, anchors) as unbound:
            yield Names(unbound.server, octets, certificate)


@pytest.fixture(scope="module")
def postfix() -> Iterator[Postfix]:
    settings: dict[str, object] = {"message_size_limit": 60 * 1024**2, "mynetworks": "10.0.0.0/8"}
    settings["smtpd_relay_restrictions"] = "reject_unauth_destination"
    with (
        folder("doctor-hop") as directory,
        Postfix(directory / "postfix", ["bob"], domain="good.test", settings=settings) as part,
    ):
        yield part


class Site:
    """A configuration for a case, and what the doctor says of it."""

    def __init__(self, directory: Path, names: Names, hop: int, case: str = "good", more: str = "") -> None:
        self.port, self.out = free_port(), free_port()
        directory.mkdir(parents=True)
        (directory / "key.pem").write_bytes(names.key)
        names.certificate.write(directory / "tls.pem")
        for file in ("key.pem", "tls.pem"):
            (directory / file).chmod(0o600)
        number = CASES.index(case) + 2
        self.text = f"""
[gateway]
hostname = "gw.{case}.test"
state_dir = "state"
[dns]
servers = ["{names.server}"]
dnssec = true
[tls]
certificate = "tls.pem"
[[listeners]]
name = "mx"
endpoints = ["tcp:{self.port}:interface=127.0.0.1"]
pipeline = "in"
[[listeners]]
name = "out"
role = "outbound"
endpoints = ["tcp:{self.out}:interface=127.0.0.1"]
trusted_networks = ["10.99.0.0/16"]
pipeline = "out"
[domains."{case}.test"]
route = "inside"
recipients = "people"
[recipients.people]
kind = "list"
addresses = ["bob@{case}.test"]
[routes.inside]
transport = "smtp"
hosts = ["127.0.0.1:{hop}"]
tls = "off"
connections = 5
[routes.internet]
transport = "smtp"
security = "dane"
{'pool = "one"' if case == "helo" else ""}
[routing]
default = "internet"
{f'[sources.one]{chr(10)}address = "127.0.0.{number}"' if case == "helo" else ""}
[pipelines.in]
filters = ["headers"]
[pipelines.out]
filters = ["headers", "dkim-sign"]
[filters.dkim-sign.domains."{case}.test"]
keys = [{{ selector = "s1", path = "key.pem" }}]
{more}
"""
        self.gateway = Gateway(directory, self.text, [self.port, self.out])

    def ask(self, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
        """The exit code, and what was found."""
        where = ["--config", str(self.gateway.file)]
        done = subprocess.run(  # noqa: S603  a command of our own
            [str(Path(sys.executable).with_name("mailgate")), "doctor", *arguments, "--json", *where],
            capture_output=True,
            text=True,
            timeout=120,
            env=self.gateway.environment(),
            check=False,
        )
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout)["findings"]


def severities(findings: list[dict[str, Any]], words: str) -> list[str]:
    return [one["severity"] for one in findings if words in one["says"]]


def test_a_good_site(names: Names, postfix: Postfix) -> None:
    with folder("doctor-good") as directory:
        site = Site(directory / "gateway", names, postfix.port)
        with site.gateway:
            code, found = site.ask(*ALL_BUT_THE_DISK, "--deep")
            assert (code, [one for one in found if one["severity"] == "fail"]) == (0, [])
            for words in (
                "its mail comes to us: MX gw.good.test",
                "SPF: pass for 127.0.0.2",
                "PTR, EHLO and address agree: gw.good.test",
                "DMARC: p=reject",
                "TLS reports are asked for",
                "is published, and is the key in",
                "its TLSA records match our certificates",
                "the resolver validates",
                "refuses unknown recipients of good.test at RCPT",
                "takes 5 connections at one time",
                "knows that a made-up address at good.test is nobody's",
                "belongs to",
            ):
                assert severities(found, words) == ["ok"], words
            assert severities(found, "refuses to relay for strangers (127.83.17.5)") == ["ok", "ok"]
            assert severities(found, "shows a certificate that lies there") == ["ok", "ok"]
            assert severities(found, "is in use, and the gateway runs") == ["ok", "ok"]
            _, disk = site.ask("--only", "disk")
            assert severities(disk, "a sync takes")


@pytest.mark.parametrize(
    ("case", "severity", "words"),
    [
        ("mx", "warn", "its mail goes to elsewhere.good.test, not to gw.mx.test"),
        ("spf", "fail", "SPF: fail for 127.0.0.3"),
        ("dkim", "fail", "another key is published there"),
        ("dmarc", "warn", "DMARC: the record of dmarc.test has no valid p="),
        ("ptr", "fail", "has no PTR record"),
        ("helo", "fail", "does not have this address"),
        ("tlsa", "fail", "its TLSA records do not match"),
        ("sts", "warn", "MTA-STS: https://mta-sts.sts.test/"),
    ],
)
def test_what_is_wrong_in_dns(names: Names, tmp_path: Path, case: str, severity: str, words: str) -> None:
    number = CASES.index(case) + 2
    words = words.replace("127.0.0.3", f"127.0.0.{number}")
    code, found = Site(tmp_path / "gateway", names, 1, case).ask("--only", "dns", "--only", "dkim")
    assert severity in severities(found, words), found
    assert code == (1 if severity == "fail" else 0)


def test_names_that_nobody_answers_for(names: Names, tmp_path: Path) -> None:
    dead = names._replace(server=f"127.0.0.1:{free_port()}")
    site = Site(tmp_path / "gateway", dead, 1)
    site.gateway.file.write_text(site.text.replace("dnssec = true", 'dnssec = true\ntimeout = "1s"'))
    code, found = site.ask("--only", "dns")
    assert code == 0
    assert "ok" not in {one["severity"] for one in found}
    assert len(severities(found, "not checked")) > 3


def test_a_next_hop_that_is_not_there(names: Names, tmp_path: Path) -> None:
    code, found = Site(tmp_path / "gateway", names, free_port()).ask("--only", "hops")
    assert (code, severities(found, "cannot connect")) == (1, ["fail"])


def test_a_next_hop_that_is_not_for_the_domain(names: Names, postfix: Postfix, tmp_path: Path) -> None:
    code, found = Site(tmp_path / "gateway", names, postfix.port, "mx").ask("--only", "hops")
    assert (code, severities(found, "refuses mail for mx.test: 554 5.7.1")) == (1, ["fail"])


def test_a_listener_that_relays_for_anybody(names: Names, tmp_path: Path) -> None:
    site = Site(tmp_path / "gateway", names, 1)
    with folder("doctor-open") as directory, Sink(directory / "sink", port=site.port):
        code, found = site.ask("--only", "relay", "--only", "ports")
    assert (code, severities(found, "it is an open relay")) == (1, ["fail"])
    assert severities(found, "another program has it, and the gateway does not run") == ["fail"]


def test_a_scanner_that_is_not_there(names: Names, tmp_path: Path) -> None:
    more = f'[filters.clamav]\nservers = ["127.0.0.1:{free_port()}"]\n'
    site = Site(tmp_path / "gateway", names, 1, more=more)
    site.gateway.file.write_text(site.text.replace('filters = ["headers"]', 'filters = ["clamav", "headers"]'))
    code, found = site.ask("--only", "scanners")
    assert (code, severities(found, "mail is put off (451)")) == (1, ["fail"])


def test_a_certificate_that_has_expired(names: Names, tmp_path: Path) -> None:
    site = Site(tmp_path / "gateway", names, 1)
    issue(None, "gw.good.test", days=(-90, -1)).write(tmp_path / "gateway" / "tls.pem")
    code, found = site.ask("--only", "certificates")
    assert (code, severities(found, "expired on")) == (1, ["fail"])


def test_a_listener_that_shows_what_is_there_no_more(names: Names) -> None:
    with folder("doctor-shown") as directory:
        site = Site(directory / "gateway", names, 1)
        with site.gateway:
            site.gateway.file.write_text(site.text.replace('"tls.pem"', '"new.pem"'))
            issue(None, "gw.good.test").write(directory / "gateway" / "new.pem")
            code, found = site.ask("--only", "certificates")
    assert (code, severities(found, "shows another certificate")) == (0, ["warn", "warn"])


def test_exchange_is_asked(names: Names, postfix: Postfix) -> None:
    with folder("doctor-exchange") as directory:
        site = Site(directory / "gateway", names, postfix.port)
        with site.gateway:
            code, found = site.ask("exchange")
    assert code == 0
    assert severities(found, "offers all that Exchange makes use of") == ["ok", "ok"]
    assert severities(found, "does not look like an Exchange server") == ["note"]
    assert severities(found, "takes 5 connections at one time") == ["ok"]
    assert severities(found, "lets strangers bring") == ["warn"]
