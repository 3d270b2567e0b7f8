"""Postfix and mailgate, put together by a pair of snippets in etc/postfix exactly as it stands there: only ports, paths
and the names of machines are the test's."""

from __future__ import annotations

import contextlib
import re
import smtplib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from beside_postfix import BesidePostfix, ListeningGateway, settings_in
from parts import Gateway, Postfix, free_port, listens, wait_until

__all__ = ["DOMAIN", "Site", "Snippet", "SnippetPostfix", "site_of"]

DOMAIN = "example.org"
SNIPPETS = Path(__file__).resolve().parents[2] / "etc" / "postfix"

ACCESS = f"""
deny sender bad@client.test No such sender
deny recipient closed@{DOMAIN} This address is closed
deny client 127.0.0.66 No mail from there
"""

#: What Postfix itself refuses: content by header_checks, a client at RCPT.
_CHECKS = "/^Subject: not here/ REJECT Postfix does not want it\n"
_ADDRESSES = f"team@{DOMAIN} bob@{DOMAIN}, eve@{DOMAIN}\ncopied@{DOMAIN} copied@{DOMAIN}, eve@{DOMAIN}\n"
#: What the test puts something else in the place of.
_IN_FRONT, _ACCESS, _STATE = '"tcp:25"', "/etc/mailgate/access", "/var/lib/mailgate"
_REST = 'longest = "10s"'
_LINE_OF_SMTP = 'in the place of the line "smtp inet"'


@dataclass(frozen=True)
class Snippet:
    """The two files of one way; `main` and `master` are what stands under these names in the one for Postfix."""

    main: Mapping[str, str]
    master: str
    has_smtp: bool  # the line "smtp inet" of master.cf makes place for these
    gateway: str

    @classmethod
    def of(cls, way: str) -> Snippet:
        """The pair of this name."""
        main, _, master = (SNIPPETS / f"{way}.cf").read_text().partition("# master.cf")
        services = "".join(f"{line}\n" for line in master.splitlines()[1:] if line and not line.startswith("#"))
        return cls(
            settings_in(main),
            services,
            master.startswith(f", {_LINE_OF_SMTP}"),
            (SNIPPETS / f"{way}.toml").read_text(),
        )

    def changed(self, changes: Mapping[str, str]) -> Snippet:
        """With other words in the place of some, in both files; each of them has to be there."""
        everything = "\n".join((*self.main.values(), self.master, self.gateway))
        missing = [old for old in changes if old not in everything]
        assert not missing, missing
        words = re.compile("|".join(map(re.escape, changes)))

        def change(text: str) -> str:
            return words.sub(lambda match: changes[match[0]], text)

        main = {key: change(value) for key, value in self.main.items()}
        return replace(self, main=main, master=change(self.master), gateway=change(self.gateway))


class SnippetPostfix(Postfix):
    """A Postfix with what a snippet says."""

    _snippet = Snippet({}, "", has_smtp=False, gateway="")

    def use(self, snippet: Snippet) -> None:
        """Take its lines, but for settings that the test has chosen itself."""
        self._snippet = snippet
        self._settings = {**snippet.main, **self._settings}

    def prepare(self) -> Sequence[str]:
        command = super().prepare()
        file = self.directory / "conf" / "master.cf"
        lines = file.read_text().splitlines(keepends=True)
        usual = f"127.0.0.1:{self.port} inet"
        kept = "".join(line for line in lines if not (self._snippet.has_smtp and line.startswith(usual)))
        services = re.sub(r"(?m)^smtp +inet", usual, self._snippet.master)
        file.write_text(kept + services)
        return command

    def is_ready(self) -> bool:
        # A port for the PROXY protocol gives no banner to somebody without a header.
        return listens(self.port)


@dataclass
class Site(BesidePostfix):
    """A Postfix and a gateway. Clients come to `port`; mail for bob, ann and eve goes into boxes of Postfix's."""

    postfix: SnippetPostfix
    gateway: Gateway
    port: int
    number: int = field(default=0, kw_only=True)

    @contextlib.contextmanager
    def client(self, source: str = "127.0.0.88") -> Iterator[smtplib.SMTP]:
        """A session from this loopback address, behind its EHLO."""
        with smtplib.SMTP("127.0.0.1", self.port, "helo.client.test", timeout=60, source_address=(source, 0)) as one:
            one.ehlo()
            yield one

    def content(self, *, subject: str = "", more: str = "") -> tuple[str, bytes]:
        """A message that there has not been yet, and its Message-ID."""
        self.number += 1
        ident = f"{self.number}@client.test"
        head = f"From: <ann@client.test>\r\nSubject: {subject or self.number}\r\nMessage-ID: <{ident}>\r\n{more}"
        return ident, f"{head}\r\nHello\r\n.\r\n..dots\r\n".encode()

    def send(self, *to: str, sender: str = "ann@client.test", subject: str = "", more: str = "") -> tuple[str, str]:
        """One mail that is taken: its Message-ID, and the words of the reply."""
        ident, content = self.content(subject=subject, more=more)
        with self.client() as client:
            assert client.mail(sender)[0] == 250
            for one in to:
                assert client.rcpt(one)[0] == 250
            code, said = client.data(content)
        assert code == 250, said
        return ident, said.decode()

    def takes(self, recipient: str) -> bool:
        """Whether a client may write to somebody now."""
        with self.client() as client:
            return client.mail("ann@client.test")[0] == 250 and client.rcpt(recipient)[0] == 250

    def mails(self, user: str) -> list[bytes]:
        """What is in a box, with the ends of its lines as in SMTP."""
        files = (self.postfix.mail / user / "new").glob("*")
        return [file.read_bytes().replace(b"\n", b"\r\n") for file in files]

    def count(self, user: str, ident: str) -> int:
        """How many copies of a message are in a box."""
        return sum(f"<{ident}>".encode() in mail.partition(b"\r\n\r\n")[0] for mail in self.mails(user))

    def mail(self, user: str, ident: str) -> bytes:
        """The one copy of a message in a box, once it is there."""
        wait_until(lambda: self.count(user, ident) > 0, f"{user} has {ident}")
        (found,) = [mail for mail in self.mails(user) if f"<{ident}>".encode() in mail]
        return found

    def reports(self, user: str, text: str) -> list[bytes]:
        """The reports in a box that have this in them."""
        return [one for one in self.mails(user) if b"multipart/report" in one and text.encode() in one]

    def is_idle(self) -> bool:
        """Whether nothing waits, neither here nor there."""
        ours = self.gateway.command("queue", "list", check=False).stdout
        return "Mail queue is empty" in self.tool("postqueue", "-p") and "Nothing is in the queue" in ours


@contextlib.contextmanager
def site_of(
    way: str,
    base: Path,
    changes: Mapping[str, str] = MappingProxyType({}),
    *,
    settings: Mapping[str, object] = MappingProxyType({}),
    more: str = "",
) -> Iterator[Site]:
    """A site by a pair of snippets, with `changes` in both. `settings` go into main.cf, `more` to the gateway."""
    (base / "access").write_text(ACCESS)
    (base / "checks").write_text(_CHECKS)
    (base / "virtual").write_text(_ADDRESSES)
    postfix = SnippetPostfix(
        base / "postfix",
        ["bob", "ann", "eve", "closed", "copied", "archive"],
        domain=DOMAIN,
        settings={
            "mynetworks": "127.0.0.1",
            "header_checks": f"regexp:{base}/checks",
            "virtual_alias_maps": f"texthash:{base}/virtual",
            "smtpd_client_restrictions": "check_client_access inline:{127.0.0.89=REJECT}",
            **settings,
        },
    )
    snippet, ours = Snippet.of(way), free_port()
    if _IN_FRONT in snippet.gateway:
        port, places = ours, {_IN_FRONT: f'"tcp:{ours}:interface=127.0.0.1"', "10025": str(postfix.port)}
    else:
        port, places = postfix.port, {"10025": str(ours), "10026": str(free_port())}
    if _ACCESS in snippet.gateway:
        places[_ACCESS] = f"{base}/access"
    if _REST in snippet.gateway:
        places[_REST] = 'longest = "1s"'
    snippet = snippet.changed({_STATE: "state", **places, **changes})
    postfix.use(snippet)
    with ListeningGateway(base / "gateway", snippet.gateway + more, [ours]) as gateway, postfix:
        yield Site(postfix, gateway, port)
