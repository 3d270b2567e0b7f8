"""`mailgate dkim-key`: the file, the record, and what DNS says of it."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import dns.rdataclass
import dns.zone
import pytest
from click.testing import CliRunner, Result

from mailgate.cli import dkim_key
from mailgate.cli.main import main
from mailgate.filters.sealing import parse_selector
from mailgate.interfaces import Answer, DnsStatus
from mailgate.mailauth import SigningKey
from mailgate.mailauth.dkim.keys import parse_key
from mailgate.mailauth.dkim.make import new_key, record_strings, zone_line
from mailgate.mailauth.dkim.published import compare


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["dkim-key", *arguments, "--config", "none.toml"])


def published(text: str, name: str) -> str:
    """The record that a name server makes of the line."""
    zone = dns.zone.from_text(f"$ORIGIN example.org.\n$TTL 60\n@ SOA a b 1 1 1 1 1\n@ NS a\n{text}", "example.org")
    (record,) = zone.find_rdataset(name, "TXT")
    return b"".join(record.strings).decode()


@pytest.mark.parametrize(("kind", "bits"), [("rsa", "2048"), ("rsa", "4096"), ("ed25519", "2048")])
def test_a_key_and_what_to_publish(here: Path, kind: str, bits: str) -> None:
    result = run("example.org", "r2027", "--type", kind, "--bits", bits)
    assert (result.exit_code, result.stderr) == (0, "")
    path = here / "example.org.r2027.pem"
    key = SigningKey.load(path.read_bytes())
    assert key.algorithm == f"{kind}-sha256"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    record = published(result.stdout, "r2027._domainkey")
    assert record == key.record
    assert parse_key(record.encode()).bits == (256 if kind == "ed25519" else int(bits))
    assert all(len(one) <= 255 for one in re.findall(r'"([^"]*)"', result.stdout))
    assert "PRIVATE" not in result.output


def test_a_key_that_is_there_stays(here: Path) -> None:
    path = here / "key"
    path.write_bytes(b"mine")
    result = run("example.org", "r1", "--path", "key")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "key is there, and stays as it is" in result.stderr
    assert path.read_bytes() == b"mine"
    link = here / "link"
    link.symlink_to(here / "nowhere")
    assert run("example.org", "r1", "--path", "link").exit_code == 1
    assert not (here / "nowhere").exists()


def test_the_mask_makes_no_difference(here: Path) -> None:
    old = os.umask(0)
    try:
        assert run("example.org", "e", "--type", "ed25519").exit_code == 0
    finally:
        os.umask(old)
    assert stat.S_IMODE((here / "example.org.e.pem").stat().st_mode) == 0o600


def test_nothing_is_left_where_it_fails(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(dkim_key, "new_key", broken)
    result = run("example.org", "e")
    assert (result.exit_code, "No space left" in result.stderr) == (1, True)
    assert list(here.iterdir()) == []
    assert run("example.org", "e", "--path", "none/key").exit_code == 1


def test_show_prints_it_again() -> None:
    made = run("example.org", "e", "--type", "ed25519")
    assert run("example.org", "e", "--show").stdout == made.stdout
    assert run("example.org", "other", "--show").exit_code == 1
    Path("bad").write_text("x")
    assert "neither a private key" in run("example.org", "e", "--show", "--path", "bad").stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("example", "s"),
        ("[192.0.2.1]", "s"),
        ("../x.example", "s"),
        ("example.org", "a b"),
        ("example.org", "../s"),
        ("example.org", ""),
        ("example.org", "s", "--bits", "1024"),
        ("example.org", "s", "--bits", "100000"),
        ("example.org", "s", "--type", "dsa"),
        ("example.org",),
    ],
)
def test_usage(here: Path, arguments: tuple[str, ...]) -> None:
    assert run(*arguments).exit_code == 2
    assert list(here.iterdir()) == []


def test_a_domain_in_its_own_letters() -> None:
    assert run("Bücher.example", "E1", "--type", "ed25519").stdout.startswith("e1._domainkey.xn--bcher-kva.example. IN")


KEY = SigningKey.load(bytes(range(32)))


def found(*records: str | bytes) -> Answer:
    return Answer(DnsStatus.FOUND, tuple(one.encode() if isinstance(one, str) else one for one in records))


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (found(KEY.record), ""),
        (found(f"{KEY.record}; s=email; n=a note"), ""),
        (found(KEY.record, "v=spf1 -all"), "there are 2 TXT records"),
        (found(SigningKey.load(bytes(32)).record), "another key"),
        (found(f"{KEY.record}; t=y"), "t=y"),
        (found(f"{KEY.record}; s=tlsrpt"), "not for mail"),
        (found(f"{KEY.record}; h=sha1"), "not for sha256"),
        (found("v=DKIM1; k=ed25519; p="), "revoked"),
        (found(KEY.record[:-4]), "octets"),
        (found("hello"), "cannot be read"),
        (Answer(DnsStatus.NXDOMAIN), "no such record"),
        (Answer(DnsStatus.NODATA), "no such record"),
        (Answer(DnsStatus.TIMEOUT), "cannot tell now"),
        (Answer(DnsStatus.SERVFAIL), "cannot tell now"),
    ],
)
def test_what_dns_may_say(answer: Answer, problem: str) -> None:
    said = compare(answer, KEY)
    assert problem in said
    assert bool(problem) is bool(said)


def test_strings_of_a_record() -> None:
    assert record_strings("x" * 255) == ["x" * 255]
    assert list(map(len, record_strings("x" * 600))) == [255, 255, 90]
    assert zone_line("example.org", "s", "v=DKIM1; p=") == 's._domainkey.example.org. IN TXT "v=DKIM1; p="'
    assert SigningKey.load(new_key("ed25519")).algorithm == "ed25519-sha256"


@pytest.mark.parametrize(
    "selector", ["", "a b", "a..b", ".a", "ü", "\u0661", "s-", "-s", "../x", "a" * 64, "a." * 90 + "a"]
)
def test_what_dns_cannot_have_is_no_selector(selector: str) -> None:
    with pytest.raises(ValueError, match="is no selector"):
        parse_selector(selector)


@pytest.mark.parametrize("selector", ["s", "R2026", "s1.mail", "2026-11_a", "a" * 63])
def test_selectors(selector: str) -> None:
    assert parse_selector(selector) == selector.lower()
