"""DKIM through the whole gateway: with every filter on and nothing to be changed, signatures still hold; what a
modifier changes is sealed; and what they do not cover may be changed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import dkim  # type: ignore[import-untyped]  # it has none
import pytest
from content_stand import ContentStand
from dns_parts import Knot
from failing_parts import Asked
from milter_parts import DOMAIN, SELECTOR
from parts import Gateway, folder
from recorder import Recorder
from scanner_parts import mail

from mailgate.mailauth import verify_arc, verify_dkim
from mailgate.testing import MemoryResolver, wait_for

pytestmark = pytest.mark.needs("clamd", "knotd", "opendkim", "opendkim-genkey", "rspamd", "spamd")

CANONS = (b"relaxed/relaxed", b"relaxed/simple", b"simple/relaxed", b"simple/simple")

HTML = (
    b"--b\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
    b"Gr\xc3\xbc\xc3\x9fe \r\n\r\n"
    b"--b\r\nContent-Type: text/html; charset=iso-8859-1\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"
    b'<p>Gr=FC=DFe,  <a href=3D"http://client.example/x">x</a></p>\r\n'
    b"--b--\r\n"
)
#: Signed messages by what is difficult about them.
MAILS = {
    "plain": mail(b"Hello  Bob. \r\n..\r\n.\r\n\r\n\r\n"),
    "odd header": mail(
        b"Hello.\r\n", "X-Unsigned:   1", "Sender:\tann@client.example", "X-Unsigned: 2", "Comments:\r\n\t a"
    ),
    "alternatives": mail(HTML, 'Content-Type: multipart/alternative; boundary="b"'),
    "large": mail(b"a line of some length, many times\r\n" * 20_000),
}

#: Every filter that judges content, none of them with anything to say about what is sent here.
FILTERS = """\
[pipelines.inbound]
filters = [
    "early-talker", "access", "helo", "spf", "milter", ["dkim", "arc"], "dmarc", "authentication-results",
    "headers-check", ["attachments", "uribl", "signatures"],
    ["clamav", "spamassassin", "rspamd", "http", "command"], "score", "dedupe", @MORE@"headers",
]

[filters.milter]
sees = "received"
@MILTER@

[filters.uribl]
zones = ["bl.test"]

[filters.signatures]
rules = ["reject nobody text /nobody says this/"]

[filters.clamav]
@CLAMAV@

[filters.spamassassin]
timeout = "9s"
@SPAMASSASSIN@

[filters.rspamd]
@RSPAMD@

[filters.http]
@HTTP@

[filters.command]
@COMMAND@
"""

BANNER = """\
[filters.banner]
text = "This mail came from outside."
html = "<p>This mail came from outside.</p>"
seal = { domain = "mailgate.test", selector = "seal", key = "@KEY@" }
"""

EDITS = """\
[filters.edit-headers]
rules = [
    { add = { X-Gateway = "mailgate" }, remove = ["X-Unsigned"], replace = { Comments = "none" } },
    { fields = { X-Tag = "*" }, tag = "[EXT]" },
]
"""


_POLICIES = """\
@ A 127.0.0.1
@ TXT "v=spf1 ip4:127.0.0.1 -all"
_dmarc TXT "v=DMARC1; p=reject"
"""


def record_of(directory: Path, selector: str) -> str:
    """The record of a key that opendkim-genkey has made."""
    return "".join((directory / f"{selector}.txt").read_text().split('"')[1::2])


class Signer:
    """The key of client.example, and one of ours, published by a real server and for those who verify here."""

    def __init__(self, directory: Path, key: Path) -> None:
        self.key = key.read_bytes()
        self.path = key
        record = record_of(key.parent, SELECTOR)
        quoted = " ".join(f'"{record[at : at + 200]}"' for at in range(0, len(record), 200))
        ours = f"{SELECTOR}._domainkey"
        self._records = {f"{ours}.{DOMAIN}.": record, "seal._domainkey.mailgate.test.": record}
        self.resolver = MemoryResolver({name: {"TXT": [text]} for name, text in self._records.items()})
        zones = {
            "bl.test": "listed.test A 127.0.0.2\n",
            "mailgate.test": f"seal._domainkey TXT {quoted}\n",
            DOMAIN: f"{_POLICIES}{ours} TXT {quoted}\n",
        }
        self.knot = Knot(directory / "knot", zones)

    def sign(self, message: bytes, canons: bytes) -> bytes:
        signature: bytes = dkim.sign(
            message,
            SELECTOR.encode(),
            DOMAIN.encode(),
            self.key,
            canonicalize=tuple(canons.split(b"/")),
            include_headers=[b"from", b"from", b"to", b"subject", b"date", b"message-id", b"content-type"],
        )
        return signature + message

    def holds(self, message: bytes) -> bool:
        """Whether the signature holds, by two that agree."""
        found = bool(dkim.verify(message, dnsfunc=self._lookup))
        (result,) = wait_for(verify_dkim(self.resolver, message))
        assert (result.result == "pass") == found
        return found

    def chain(self, message: bytes) -> str:
        """What the ARC chain comes to, by two that agree."""
        found, _, _ = dkim.arc_verify(message, dnsfunc=self._lookup)
        result = wait_for(verify_arc(self.resolver, message)).result
        assert result == found.decode()
        return result

    def _lookup(self, name: bytes | str, timeout: int = 5) -> bytes | None:
        text = name.decode() if isinstance(name, bytes) else name
        record = self._records.get(text)
        return None if record is None else record.encode()


@pytest.fixture(scope="module")
def signer(scanners: list[Asked]) -> Iterator[Signer]:
    key = next(one.key for one in scanners if one.key is not None)
    with folder("signer") as directory:
        found = Signer(directory, key)
        with found.knot:
            yield found


@pytest.fixture
def hop() -> Iterator[Recorder]:
    with Recorder() as recorder:
        yield recorder


@pytest.fixture
def stand(
    build: Callable[[str, int], Gateway], hop: Recorder, scanners: list[Asked], signer: Signer
) -> Callable[..., ContentStand]:
    """Starts a gateway with all filters, and with a further one."""

    def make(more: str = "", section: str = "") -> ContentStand:
        text = FILTERS.replace("@MORE@", f'"{more}", ' if more else "")
        for one in scanners:
            text = text.replace(f"@{one.kind.upper()}@", one.options)
        return ContentStand(build, hop, signer.knot.server, text + section.replace("@KEY@", str(signer.path)))

    return make


def asked_all(stand: ContentStand) -> None:
    """Every filter was asked and has answered."""
    assert stand.events("filter_failed") == []
    expected = {
        "attachments",
        "clamav",
        "command",
        "dedupe",
        "dkim",
        "dmarc",
        "headers-check",
        "http",
        "milter",
        "rspamd",
    }
    expected |= {"score", "signatures", "spamassassin", "uribl"}
    for one in stand.events("message_accepted"):
        assert expected <= {step["filter"] for step in one["trace"]}


def test_what_is_not_changed_still_verifies(stand: Callable[..., ContentStand], signer: Signer) -> None:
    through = stand()
    sent = {f"{name} {canons!r}": signer.sign(text, canons) for name, text in MAILS.items() for canons in CANONS}
    for name, content in sent.items():
        assert through.send(name, content, by_data="alternatives" not in name).code == 250, name
    for name, content in sent.items():
        arrived = through.arrived(name)
        assert arrived.endswith(content), name
        assert signer.holds(arrived), name
        assert b"dkim=pass" in arrived.removesuffix(content)
        assert not signer.holds(arrived.replace(b"Subject: Hello", b"Subject: Hullo"))
    asked_all(through)


def test_what_a_banner_changes_is_sealed(stand: Callable[..., ContentStand], signer: Signer) -> None:
    through = stand("banner", BANNER)
    for name, text in MAILS.items():
        assert through.send(name, signer.sign(text, CANONS[0])).code == 250, name
    for name in MAILS:
        arrived = through.arrived(name)
        assert b"This mail came from outside." in arrived, name
        assert not signer.holds(arrived), name
        assert signer.chain(arrived) == "pass", name
        (results,) = re.findall(rb"(?m)^ARC-Authentication-Results: ((?:.*\r\n)(?:[ \t].*\r\n)*)", arrived)
        assert re.search(rb"dkim=pass", results), results
        changed = arrived.replace(b"This mail came from outside.", b"This mail came from inside.")
        assert signer.chain(changed) == "fail", name
    asked_all(through)


def test_what_is_not_signed_may_be_changed(stand: Callable[..., ContentStand], signer: Signer) -> None:
    through = stand("edit-headers", EDITS)
    tagged = mail(b"Hello.\r\n", "X-Tag: 1")
    for name, text in {**MAILS, "tagged": tagged}.items():
        assert through.send(name, signer.sign(text, b"simple/simple")).code == 250, name
    for name in MAILS:
        arrived = through.arrived(name)
        assert b"\r\nX-Unsigned:" not in arrived
        assert b"X-Gateway: mailgate\r\n" in arrived
        assert b"\r\nComments: none\r\n" in b"\r\n" + arrived
        assert signer.holds(arrived), name
    # The subject is signed: this one says of itself that it breaks that.
    assert b"Subject: [EXT] Hello\r\n" in through.arrived("tagged")
    assert not signer.holds(through.arrived("tagged"))
    asked_all(through)
