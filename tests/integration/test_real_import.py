"""A real Postfix and the gateway that its configuration was imported into: they take and refuse the same mail."""

from __future__ import annotations

import re
import smtplib
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from dovecot_parts import Dovecot
from parts import Gateway, Postfix, folder, free_port, program

from mailgate.moving.postfix.reading import Parameters, read_main, read_master
from tests.unit.test_moving_everything import is_told, odd

pytestmark = pytest.mark.needs("postfix", "dovecot", "root")

STRANGER, OURS = "127.0.0.2", "127.0.0.1"

DEBIAN = {
    "mydestination": "$myhostname, localhost.$mydomain, localhost",
    "mynetworks": "127.0.0.1/32 [::ffff:127.0.0.1]/128 [::1]/128",
    "local_recipient_maps": "proxy:unix:passwd.byname $alias_maps",
    "relayhost": "",
    "recipient_delimiter": "+",
    "smtpd_relay_restrictions": "permit_mynetworks permit_sasl_authenticated defer_unauth_destination",
    "smtpd_banner": "$myhostname ESMTP $mail_name (Debian/GNU)",
    "biff": "no",
}
DEBIAN_FILES = {"aliases": "postmaster: root\nwebmaster: postmaster\n"}
#: Client, greeting, sender, recipient.
DEBIAN_CASES = [
    (STRANGER, "client.test", "ann@client.test", "root@mx.postfix.test"),
    (STRANGER, "client.test", "ann@client.test", "root+tag@mx.postfix.test"),
    (STRANGER, "client.test", "ann@client.test", "ROOT@MX.Postfix.test"),
    (STRANGER, "client.test", "ann@client.test", "webmaster@localhost"),
    (STRANGER, "client.test", "ann@client.test", "postmaster@localhost.postfix.test"),
    (STRANGER, "client.test", "", "root@mx.postfix.test"),
    (STRANGER, "client.test", "ann@client.test", "nobody-such@mx.postfix.test"),
    (STRANGER, "client.test", "ann@client.test", "bob@elsewhere.test"),
    (STRANGER, "client.test", "ann@client.test", "bob@postfix.test"),
    (OURS, "client.test", "ann@client.test", "bob@elsewhere.test"),
    (OURS, "client.test", "ann@client.test", "nobody-such@mx.postfix.test"),
]

FULL = {
    "mydestination": "",
    "mynetworks": "127.0.0.1/32",
    "recipient_delimiter": "+",
    "relay_domains": "texthash:{conf}/relay_domains",
    "relay_recipient_maps": "texthash:{conf}/relay_recipients",
    "transport_maps": "texthash:{conf}/transport",
    "virtual_mailbox_domains": "shop.test, club.test",
    "virtual_mailbox_maps": "texthash:{conf}/mailboxes",
    "virtual_alias_domains": "old.test",
    "virtual_alias_maps": "texthash:{conf}/virtual, regexp:{conf}/virtual.re",
    "smtpd_client_restrictions": "permit_mynetworks, check_client_access cidr:{conf}/clients",
    "smtpd_helo_restrictions": "permit_mynetworks, reject_invalid_helo_hostname, reject_non_fqdn_helo_hostname",
    "smtpd_sender_restrictions": "check_sender_access texthash:{conf}/senders",
    "smtpd_relay_restrictions": "permit_mynetworks, reject_unauth_destination",
    "smtpd_recipient_restrictions": "check_recipient_access texthash:{conf}/recipients, permit_mynetworks",
    "header_checks": "regexp:{conf}/header_checks",
    "relayhost": "[127.0.0.1]:1",
    "message_size_limit": "100000",
}
FULL_FILES = {
    "relay_domains": "example.test OK\nclosed.test OK\n",
    "relay_recipients": "ann@example.test ok\nold@example.test ok\nbob@example.test ok\n@closed.test ok\n",
    "transport": "closed.test error:5.1.2 nobody here\nopen@closed.test smtp:[127.0.0.1]:1\n"
    "example.test smtp:[127.0.0.1]:1\n",
    "mailboxes": "carl@shop.test shop.test/carl/\ndora@club.test club.test/dora/\n",
    "virtual": "old.test anything\ninfo@example.test ann@example.test\nsales@old.test carl@shop.test\n"
    "@club.test dora@club.test\n",
    "virtual.re": "/^([a-z]+)\\.x@shop\\.test$/ $1@shop.test\n",
    "clients": "127.0.0.9/32 OK\n127.0.0.8/29 REJECT not from there\n127.0.0.32/27 REJECT\n127.0.0.40/32 OK\n",
    "senders": "spam.test REJECT Go away\nslow@maybe.test 450 4.7.1 Come again\n<> OK\n"
    "good.test OK\nbad@good.test REJECT\n",
    "recipients": "old@example.test REJECT closed\nbob@example.test OK\nghost@example.test OK\n",
    "header_checks": "/^Subject:.*make money fast/ REJECT No\n/^X-Note:/ IGNORE\n",
}
FULL_CASES = [
    (STRANGER, "client.test", "ann@client.test", "ann@example.test"),
    (STRANGER, "client.test", "ann@client.test", "ann+tag@example.test"),
    (STRANGER, "client.test", "ann@client.test", "nobody@example.test"),
    (STRANGER, "client.test", "ann@client.test", "info@example.test"),
    (STRANGER, "client.test", "ann@client.test", "old@example.test"),
    (STRANGER, "client.test", "ann@client.test", "old+tag@example.test"),
    (STRANGER, "client.test", "ann@client.test", "open@closed.test"),
    (STRANGER, "client.test", "ann@client.test", "open+tag@closed.test"),
    (STRANGER, "client.test", "ann@client.test", "other@closed.test"),
    (STRANGER, "client.test", "bad+tag@good.test", "ann@example.test"),
    (STRANGER, "client.test", "ann@client.test", "bob@example.test"),
    (STRANGER, "client.test", "ann@client.test", "ghost@example.test"),
    (STRANGER, "client.test", "ann@client.test", "carl@shop.test"),
    (STRANGER, "client.test", "ann@client.test", "carl.x@shop.test"),
    (STRANGER, "client.test", "ann@client.test", "nobody@shop.test"),
    (STRANGER, "client.test", "ann@client.test", "anybody@club.test"),
    (STRANGER, "client.test", "ann@client.test", "sales@old.test"),
    (STRANGER, "client.test", "ann@client.test", "nobody@old.test"),
    (STRANGER, "client.test", "ann@client.test", "ann@sub.example.test"),
    (STRANGER, "client.test", "ann@client.test", "bob@elsewhere.test"),
    (STRANGER, "client.test", "ann@spam.test", "ann@example.test"),
    (STRANGER, "client.test", "ann@sub.spam.test", "ann@example.test"),
    (STRANGER, "client.test", "slow@maybe.test", "ann@example.test"),
    (STRANGER, "client.test", "other@maybe.test", "ann@example.test"),
    (STRANGER, "client.test", "", "ann@example.test"),
    (STRANGER, "client", "ann@client.test", "ann@example.test"),
    (STRANGER, "client..test", "ann@client.test", "ann@example.test"),
    (STRANGER, "[127.0.0.2]", "ann@client.test", "ann@example.test"),
    ("127.0.0.9", "client.test", "ann@client.test", "ann@example.test"),
    ("127.0.0.10", "client.test", "ann@client.test", "ann@example.test"),
    ("127.0.0.10", "client.test", "ann@good.test", "ann@example.test"),
    ("127.0.0.40", "client.test", "ann@client.test", "ann@example.test"),
    (STRANGER, "client.test", "ann@good.test", "ann@example.test"),
    (STRANGER, "client.test", "bad@good.test", "ann@example.test"),
    (OURS, "client", "ann@client.test", "bob@elsewhere.test"),
    (OURS, "client", "ann@spam.test", "bob@elsewhere.test"),
    (OURS, "client.test", "ann@client.test", "nobody@example.test"),
]
#: Content, and whether the mail is taken.
CONTENTS = [
    "From: a@client.test\r\nSubject: hello\r\n\r\nx\r\n",
    "From: a@client.test\r\nSubject: now MAKE MONEY FAST\r\n\r\nx\r\n",
    "From: a@client.test\r\nX-Note: y\r\nSubject: hello\r\n\r\nmake money fast\r\n",
    "From: a@client.test\r\nSubject: large\r\n\r\n" + ("x" * 70 + "\r\n") * 2000,
]


@dataclass
class Site:
    """Both servers, and the ports where they take mail."""

    postfix: Postfix
    gateway: Gateway
    port: int

    def answers(self, case: tuple[str, str, str, str]) -> tuple[str, str]:
        """What becomes of the recipient at each."""
        return _rcpt(self.postfix.port, *case), _rcpt(self.port, *case)


def _rcpt(port: int, source: str, helo: str, sender: str, recipient: str) -> str:
    """The class of the reply that refuses, or "2"."""
    with smtplib.SMTP("127.0.0.1", port, helo, timeout=60, source_address=(source, 0)) as client:
        for code, _ in (client.ehlo(), client.mail(sender), client.rcpt(recipient)):
            if code != 250:
                return str(code)[0]
    return "2"


def _content(port: int, content: str) -> str:
    with smtplib.SMTP("127.0.0.1", port, "client.test", timeout=60, source_address=(STRANGER, 0)) as client:
        client.ehlo()
        client.mail("ann@client.test")
        client.rcpt("ann@example.test")
        return str(client.data(content)[0])[0]


def _site(base: Path, settings: Mapping[str, str], files: Mapping[str, str]) -> Iterator[Site]:
    configuration = base / "postfix" / "conf"
    configuration.mkdir(parents=True)
    for name, text in files.items():
        (configuration / name).write_text(text)
        if name == "aliases":
            subprocess.run([program("postalias"), f"hash:{configuration / name}"], timeout=60, check=True)  # noqa: S603
    own = {key: value.replace("{conf}", str(configuration)) for key, value in settings.items()}
    with Postfix(base / "postfix", settings=own) as postfix:
        done = _import(configuration, base / "imported")
        assert done.stdout.endswith("mailgate.toml: ok\n"), done.stderr
        port = free_port()
        text = (base / "imported" / "mailgate.toml").read_text()
        text = text.replace(f"tcp:{postfix.port}:", f"tcp:{port}:").replace("/var/lib/mailgate", "state")
        with Gateway(base / "imported", text, [port]) as gateway:
            yield Site(postfix, gateway, port)


def _import(configuration: Path, output: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603
        [str(Path(sys.executable).with_name("mailgate")), "import", "postfix", str(configuration), "--output", output],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture(scope="module")
def debian() -> Iterator[Site]:
    with folder("import-debian") as base:
        settings = {**DEBIAN, "alias_maps": "hash:{conf}/aliases", "alias_database": "hash:{conf}/aliases"}
        yield from _site(base, settings, DEBIAN_FILES)


@pytest.fixture(scope="module")
def full() -> Iterator[Site]:
    with folder("import-full") as base:
        yield from _site(base, FULL, FULL_FILES)


#: Login ("" for none), sender, recipient.
SUBMISSION_CASES = [
    ("", "ann@example.test", "bob@elsewhere.test"),
    ("", "ann@example.test", "ann@example.test"),
    ("ann@dovecot.test", "ann@example.test", "bob@elsewhere.test"),
    ("ann@dovecot.test", "info@example.test", "bob@elsewhere.test"),
    ("ann@dovecot.test", "bob@example.test", "bob@elsewhere.test"),
    ("bob@dovecot.test", "bob@example.test", "nobody@example.test"),
    ("bob@dovecot.test", "info@example.test", "ann@example.test"),
]


@pytest.fixture(scope="module")
def submission() -> Iterator[tuple[int, int]]:
    """The ports for users at a Postfix, and at the gateway."""
    with folder("import-users") as base, Dovecot(base / "dovecot", ["ann@dovecot.test", "bob@dovecot.test"]) as dovecot:
        configuration = base / "postfix" / "conf"
        configuration.mkdir(parents=True)
        (configuration / "recipients").write_text("ann@example.test ok\nbob@example.test ok\n")
        (configuration / "logins").write_text(
            "ann@example.test ann@dovecot.test\ninfo@example.test ann@dovecot.test\nbob@example.test bob@dovecot.test\n"
        )
        shared = {
            "mynetworks": "127.0.0.77/32",
            "relay_domains": "example.test",
            "relay_recipient_maps": f"texthash:{configuration}/recipients",
            "relayhost": "[127.0.0.1]:1",
            "smtpd_sasl_type": "dovecot",
            "smtpd_sasl_path": f"inet:127.0.0.1:{dovecot.auth_port}",
            "smtpd_sender_login_maps": f"texthash:{configuration}/logins",
        }
        users = {
            "smtpd_sasl_auth_enable": "yes",
            "smtpd_sender_restrictions": "reject_sender_login_mismatch",
            "smtpd_recipient_restrictions": "permit_sasl_authenticated, reject",
        }
        with Postfix(base / "postfix", settings=shared, doors={"users": users}) as postfix:
            done = _import(configuration, base / "imported")
            assert done.stdout.endswith("mailgate.toml: ok\n"), done.stderr
            ports = {postfix.port: free_port(), postfix.ports["users"]: free_port()}
            text = (base / "imported" / "mailgate.toml").read_text().replace("/var/lib/mailgate", "state")
            for theirs, ours in ports.items():
                text = text.replace(f"tcp:{theirs}:", f"tcp:{ours}:")
            with Gateway(base / "imported", text, list(ports.values())):
                yield postfix.ports["users"], ports[postfix.ports["users"]]


@pytest.mark.parametrize("case", SUBMISSION_CASES, ids="-".join)
def test_users_who_log_in(submission: tuple[int, int], case: tuple[str, str, str]) -> None:
    theirs, ours = (_submit(port, *case) for port in submission)
    assert (ours == "2") == (theirs == "2")
    assert ours == ("2" if case in SUBMISSION_CASES[2:4] else "5")


def _submit(port: int, login: str, sender: str, recipient: str) -> str:
    with smtplib.SMTP("127.0.0.1", port, "client.test", timeout=60) as client:
        client.ehlo()
        if login:
            client.login(login, "secret")
        for code, _ in (client.mail(sender), client.rcpt(recipient)):
            if code != 250:
                return str(code)[0]
    return "2"


@pytest.mark.parametrize("case", DEBIAN_CASES, ids="-".join)
def test_debian_as_it_is_installed(debian: Site, case: tuple[str, str, str, str]) -> None:
    theirs, ours = debian.answers(case)
    # The relay restrictions of Debian defer what the gateway refuses for good.
    assert (ours == "2") == (theirs == "2")


@pytest.mark.parametrize("case", FULL_CASES, ids="-".join)
def test_a_full_site(full: Site, case: tuple[str, str, str, str]) -> None:
    theirs, ours = full.answers(case)
    assert ours == theirs


@pytest.mark.parametrize("content", CONTENTS, ids=["plain", "header", "body", "size"])
def test_content_of_a_full_site(full: Site, content: str) -> None:
    assert _content(full.port, content) == _content(full.postfix.port, content)


def test_both_answers_occur(full: Site) -> None:
    """The table would show nothing if all were refused, or taken."""
    assert {_rcpt(full.port, *case) for case in FULL_CASES} == {"2", "4", "5"}


@pytest.mark.parametrize("which", ["debian", "full"])
def test_the_files_are_read_as_postfix_reads_them(which: str, request: pytest.FixtureRequest) -> None:
    site: Site = request.getfixturevalue(which)
    configuration = site.postfix.directory / "conf"
    parameters = Parameters(read_main((configuration / "main.cf").read_text()))
    expanded = _postconf(configuration, "-x", "-n")
    names = [name for name in expanded if name in parameters.settings]
    assert len(names) > 20
    assert {name: " ".join(parameters.get(name).split()) for name in names} == {
        name: " ".join(expanded[name].split()) for name in names
    }
    services = read_master((configuration / "master.cf").read_text())
    lines = _lines(configuration, "-M")
    assert [(one.name, one.kind, one.command) for one in services] == [
        (fields[0], fields[1], fields[7]) for fields in map(str.split, lines) if len(fields) > 7
    ]


@pytest.mark.parametrize("where", ["main", "submission", "smtp unix"])
def test_nothing_that_postfix_knows_is_forgotten_in_silence(where: str) -> None:
    """Each of its settings, with another value than the one that it has by default, is in the new file or told."""
    with folder("import-everything") as base:
        lines = _lines(base, "-d", has_files=False)
        defaults = dict(re.split(r"\s*=\s*", line, maxsplit=1) for line in lines)
        assert len(defaults) > 900
        left = [name for name, value in defaults.items() if not is_told(base, name, odd(value), where)]
        assert left == []


def _postconf(configuration: Path, *options: str) -> Mapping[str, str]:
    pairs = (re.split(r"\s*=\s*", line, maxsplit=1) for line in _lines(configuration, *options))
    return {pair[0]: pair[1] if len(pair) > 1 else "" for pair in pairs}


def _lines(configuration: Path, *options: str, has_files: bool = True) -> Sequence[str]:
    done = subprocess.run(  # noqa: S603
        [program("postconf"), *(["-c", str(configuration)] if has_files else []), *options],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return [line for line in done.stdout.splitlines() if line and not line.startswith(" ")]
