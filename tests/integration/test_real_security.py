"""DANE and MTA-STS with real servers: signed zones by knotd, validated by unbound; policies over HTTPS; next hops."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from dns_parts import Knot, Unbound
from parts import folder, without_strict_orders
from recorder import Recorder
from web_peer import QuietHandler, WebPeer

from tests.unit.certificates import Issued, authority, issue

pytestmark = pytest.mark.needs("knotd", "keymgr", "unbound")

ROOT = authority()
MIDDLE = authority("Middle", ROOT)
OTHER = authority("Other")
SMTP = issue(MIDDLE, "mx.good.test", "mx1.several.test", "ta-domain.sec.test", "mx-ta.sec.test")


def key_digest(one: Issued) -> str:
    key = one.certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return sha256(key).hexdigest()


def digest(one: Issued) -> str:
    return sha256(one.certificate.public_bytes(Encoding.DER)).hexdigest()


#: Domains of the signed zone: the TLSA records of each one's host.
DANE = {
    "right": [f"3 1 1 {key_digest(SMTP)}"],
    "wrong": [f"3 1 1 {key_digest(ROOT)}"],
    "two": [f"3 1 1 {key_digest(ROOT)}", f"3 0 1 {digest(SMTP)}"],
    "unusable": [f"1 1 1 {key_digest(SMTP)}"],
    "none": [],
    "ta": [f"2 0 1 {digest(MIDDLE)}"],
    "ta-domain": [f"2 0 1 {digest(MIDDLE)}"],
    "ta-name": [f"2 0 1 {digest(MIDDLE)}"],
    "ta-wrong": [f"2 0 1 {digest(OTHER)}"],
}
#: Domains with MTA-STS: the hosts that each one's policy names, and those of its MX records.
STS = {
    "good.test": (["mx.good.test"], ["mx.good.test"]),
    "several.test": (["*.several.test"], ["mx2.several.test", "mx1.several.test"]),
    "stranger.test": (["mx.stranger.test"], ["mx.good.test"]),
    "named.test": (["mx.named.test"], ["mx.named.test"]),
    "testing.test": (["mx.good.test"], ["mx.testing.test"]),
    "expired.test": (["mx.expired.test"], ["mx.expired.test"]),
    "missing.test": (["mx.missing.test"], ["mx.missing.test"]),
    "moved.test": (["mx.moved.test"], ["mx.moved.test"]),
    "huge.test": (["mx.huge.test"], ["mx.huge.test"]),
    "slow.test": (["mx.slow.test"], ["mx.slow.test"]),
    "html.test": (["mx.html.test"], ["mx.html.test"]),
    "endless.test": (["mx.endless.test"], ["mx.endless.test"]),
    "misnamed.test": (["mx.misnamed.test"], ["mx.misnamed.test"]),
    "selfmade.test": (["mx.selfmade.test"], ["mx.selfmade.test"]),
}


#: The tests are: a policy host that does not answer need not go on so.
_OVER = threading.Event()


class PolicyHost(QuietHandler):
    """Serves the policies, well or not, by the name that it is asked under."""

    def get(self) -> None:
        domain = self.headers["Host"].partition(":")[0].removeprefix("mta-sts.")
        body, status, fields = policy(domain), 200, {"Content-Type": "text/plain; charset=utf-8"}
        if domain == "missing.test" or self.path not in ("/.well-known/mta-sts.txt", "/moved"):
            status = 404
        elif domain == "moved.test" and self.path != "/moved":
            status, fields = 302, {"Location": "/moved"}
        elif domain == "huge.test":
            body += b"x: y\n" * 20_000
        elif domain == "html.test":
            fields = {"Content-Type": "text/html"}
        elif domain == "slow.test":
            _OVER.wait(60)
        self.send_response(status)
        for number in range(100_000 if domain == "endless.test" else 0):
            self.send_header(f"X-{number}", "x" * 1000)
            if number % 100 == 99:
                self.flush_headers()
        for name, value in fields.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def policy(domain: str) -> bytes:
    mode = "testing" if domain == "testing.test" else "enforce"
    hosts = "".join(f"mx: {one}\n" for one in STS.get(domain, ([], []))[0])
    return f"version: STSv1\nmode: {mode}\n{hosts}max_age: 604800\n".encode()


@dataclass
class World:
    directory: Path
    unbound: Unbound
    secure: Recorder
    clear: Recorder
    ports: dict[str, int]
    ca: Path

    def send(self, *domains: str, state: str = "", at: Recorder | None = None, **task: Any) -> list[list[list[str]]]:
        """What came of a message to each, in one process; the policies that it knows are in `state`."""
        place = self.directory / (state or f"state-{time.monotonic_ns()}")
        place.mkdir(exist_ok=True)
        text = json.dumps(
            {
                "servers": [self.unbound.server],
                "dnssec": True,
                "ca": str(self.ca),
                "sts_port": self.ports["right"],
                "state": str(place),
                "security": "auto",
                "policies": {},
                "published": False,
                "domains": [[one, (at or self.secure).port] for one in domains],
                **task,
            }
        )
        done = subprocess.run(  # noqa: S603  a script of our own
            [sys.executable, str(Path(__file__).with_name("tls_ask.py")), text],
            # Policies come over HTTPS: there a BufferingTLSTransport provides what its Client does, both Twisted's, and
            # that has no strict order. No class of ours is among them.
            env=without_strict_orders(os.environ),
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found: list[list[list[str]]] = json.loads(done.stdout)
        return found

    def one(self, domain: str, **task: Any) -> list[str]:
        """The same for one domain with one host."""
        ((answer,),) = self.send(domain, **task)
        return answer


def zones(secure: int, clear: int) -> dict[str, str]:
    """The zones, with records for next hops at these two ports."""
    signed = []
    for name, records in DANE.items():
        signed += [f"{name} MX 10 mx-{name}", f"mx-{name} A 127.0.0.1"]
        signed += [f"_{port}._tcp.mx-{name} TLSA {record}" for record in records for port in (secure, clear)]
    signed += ["aliased MX 10 mx-alias", "mx-alias CNAME mx-right"]
    found = {"sec.test": signed, "bogus.test": signed, "plain.test": signed}
    for domain, (_, hosts) in STS.items():
        lines = [f"@ MX {number} {host}." for number, host in enumerate(hosts, 10)]
        lines += [f"{host}. A 127.0.0.1" for host in hosts if host.endswith(f".{domain}")]
        found[domain] = [*lines, '_mta-sts TXT "v=STSv1; id=1;"', "mta-sts A 127.0.0.1"]
    return {zone: "\n".join(lines) + "\n" for zone, lines in found.items()}


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with folder("security") as directory:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(SMTP.write(directory / "smtp.pem"))
        names = [f"mta-sts.{domain}" for domain in STS if domain not in ("misnamed.test", "selfmade.test")]
        policy_hosts = {
            "right": issue(ROOT, *names),
            "expired": issue(ROOT, *(f"mta-sts.{one}" for one in STS), days=(-9, -2)),
            "selfmade": issue(None, *(f"mta-sts.{one}" for one in STS)),
        }
        webs = {name: WebPeer(PolicyHost, one.write(directory / f"{name}.pem")) for name, one in policy_hosts.items()}
        with Recorder(offers=["PIPELINING"], context=context) as secure, Recorder(offers=["PIPELINING"]) as clear:
            everything = zones(secure.port, clear.port)
            with Knot(directory / "knot", everything, ["sec.test", "bogus.test"]) as knot:
                anchor = knot.trust_anchor("sec.test")
                wrong = anchor.replace("sec.test.", "bogus.test.")
                with Unbound(directory / "unbound", knot, [anchor, wrong]) as unbound:
                    ports = {name: web.port for name, web in webs.items()}
                    ca = ROOT.write_certificate(directory / "ca.pem")
                    yield World(directory, unbound, secure, clear, ports, ca)
        _OVER.set()
        for web in webs.values():
            web.close()


def got(peer: Recorder, *domains: str) -> list[bool]:
    """Whether each has its mail; under TLS, where it has."""
    found = []
    for domain in domains:
        mine = [one for one in peer.taken if f"TO:<user@{domain}>" in one.recipients]
        assert all(one.is_tls for one in mine)
        found.append(bool(mine))
    return found


def test_dane(world: World) -> None:
    domains = [f"{name}.sec.test" for name in DANE] + ["aliased.sec.test"]
    found = {domain: answer[0] for domain, answer in zip(domains, world.send(*domains), strict=True)}
    told = {domain.removesuffix(".sec.test"): (level, failure) for domain, (level, failure, *_) in found.items()}
    assert told == {
        "right": ("dane", ""),
        "wrong": ("dane", "validation-failure"),
        "two": ("dane", ""),
        "unusable": ("encrypted", "certificate-host-mismatch"),
        "none": ("welcome", "certificate-host-mismatch"),
        "ta": ("dane", ""),
        "ta-domain": ("dane", ""),
        "ta-name": ("dane", "certificate-host-mismatch"),
        "ta-wrong": ("dane", "validation-failure"),
        "aliased": ("dane", ""),
    }
    refused = ["wrong.sec.test", "ta-name.sec.test", "ta-wrong.sec.test"]
    assert got(world.secure, *refused) == [False] * 3
    assert all(got(world.secure, *(one for one in domains if one not in refused)))
    assert all(found[one][3].endswith(" DANE verified") for one in ("right.sec.test", "ta.sec.test", "two.sec.test"))
    assert "DANE: none of its certificates is one that the TLSA records name" in found["wrong.sec.test"][2]


def test_dane_is_not_talked_down_to_clear_text(world: World) -> None:
    domains = ["right.sec.test", "unusable.sec.test", "ta.sec.test"]
    for ((level, failure, reason, _),) in world.send(*domains, at=world.clear):
        assert (level in ("dane", "encrypted"), failure) == (True, "starttls-not-supported")
        assert "it does not offer STARTTLS" in reason
    assert not world.clear.taken


def test_a_zone_whose_signatures_are_wrong_gets_nothing(world: World) -> None:
    assert world.one("right.bogus.test")[2] == "MX of right.bogus.test: servfail"


def test_records_that_are_not_signed_say_nothing(world: World) -> None:
    assert world.one("wrong.plain.test")[:3] == ["welcome", "certificate-host-mismatch", "sent"]


def test_a_resolver_that_is_not_believed_has_no_dane(world: World) -> None:
    assert world.one("wrong.sec.test", dnssec=False)[0] == "welcome"
    assert world.one("wrong.sec.test", security="mta-sts")[0] == "welcome"


def test_mta_sts(world: World) -> None:
    domains = list(STS)
    found = dict(zip(domains, world.send(*domains), strict=True))
    assert [answer[:3] for answer in found["good.test"]] == [["verified", "", "sent"]]
    assert found["good.test"][0][3].endswith(" MTA-STS verified")
    assert [(level, failure) for level, failure, *_ in found["several.test"]] == [
        ("verified", "certificate-host-mismatch"),
        ("verified", ""),
    ]
    assert [answer[:2] for answer in found["stranger.test"]] == [["refused", "validation-failure"]]
    assert [answer[:2] for answer in found["named.test"]] == [["verified", "certificate-host-mismatch"]]
    assert [answer[:3] for answer in found["testing.test"]] == [["welcome", "certificate-host-mismatch", "sent"]]
    # no policy came from these: mail goes as if there were none
    without = ["missing.test", "moved.test", "huge.test", "slow.test", "html.test", "misnamed.test", "selfmade.test"]
    assert [found[one][0][0] for one in without] == ["welcome"] * len(without)
    assert got(world.secure, "good.test", "several.test", "testing.test", "stranger.test", "named.test") == [
        *[True] * 3,
        *[False] * 2,
    ]


def test_why_there_is_no_policy_is_told(world: World) -> None:
    expected = {
        "good.test": ("enforce", "", ""),
        "testing.test": ("testing", "", ""),
        "missing.test": ("", "sts-policy-fetch-error", "status 404"),
        "moved.test": ("", "sts-policy-fetch-error", "status 302"),
        "huge.test": ("", "sts-policy-fetch-error", "too large"),
        "slow.test": ("", "sts-policy-fetch-error", "no answer within 3 s"),
        "endless.test": ("", "sts-policy-fetch-error", "no answer over HTTP: Connection"),
        "html.test": ("", "sts-policy-invalid", "its type is 'text/html', not text/plain"),
        "misnamed.test": ("", "sts-webpki-invalid", "not for mta-sts.misnamed.test"),
    }
    found = world.send(*expected, published=True)
    for ((mode, failure, reason, _),), (wanted_mode, wanted_failure, words) in zip(
        found, expected.values(), strict=True
    ):
        assert (mode, failure) == (wanted_mode, wanted_failure), reason
        assert words in reason
    for port, words in ((world.ports["expired"], "expired"), (world.ports["selfmade"], "signed by itself")):
        _, failure, reason, _ = world.one("good.test", published=True, sts_port=port)
        assert failure == "sts-webpki-invalid"
        assert words in reason


@pytest.mark.parametrize("host", ["expired", "selfmade"])
def test_a_policy_host_without_a_right_certificate_has_no_policy(world: World, host: str) -> None:
    assert world.one("stranger.test", sts_port=world.ports[host])[0] == "welcome"


def test_a_policy_that_is_known_holds_without_its_host(world: World) -> None:
    names = ["stranger.test", "good.test"]
    first = world.send(*names, state="kept")
    for trouble in ({"sts_port": world.ports["expired"]}, {"sts_port": 1}, {"dnssec": False}):
        assert world.send(*names, state="kept", **trouble) == first
    # a process that has never seen it, in the same trouble
    assert world.one("stranger.test", sts_port=1)[0] == "welcome"


def test_mta_sts_is_not_talked_down_to_clear_text(world: World) -> None:
    level, failure, reason, _ = world.one("good.test", at=world.clear)
    assert (level, failure) == ("verified", "starttls-not-supported")
    assert "no TLS with mx.good.test" in reason
    assert got(world.clear, "good.test") == [False]


def test_our_own_policies(world: World) -> None:
    def asked(domain: str, at: Recorder | None = None, **section: Any) -> list[str]:
        return world.one(domain, at=at, policies={domain: section}, security="none")[:3]

    assert asked("none.plain.test", level="verified")[:2] == ["verified", "certificate-host-mismatch"]
    assert asked("none.plain.test", level="required")[0::2] == ["encrypted", "sent"]
    assert asked("none.plain.test", at=world.clear, level="required")[:2] == ["encrypted", "starttls-not-supported"]
    assert asked("none.plain.test", level="required", fingerprints=[SMTP.fingerprint]) == ["pinned", "", "sent"]
    assert asked("none.sec.test", level="dane")[:2] == ["refused", "dane-required"]
    assert asked("right.sec.test", level="dane") == ["dane", "", "sent"]
    assert asked("right.sec.test", level="clear")[0::2] == ["clear", "sent"]
