"""The configuration file: what is taken, every error with its line, what is warned about, and the files we ship."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import Field, field_validator
from twisted.plugin import IPlugin
from zope.interface import implementer

from mailgate.config.load import ConfigError, Loaded, load
from mailgate.config.schema import Config, ListRecipients, MaildirRoute, Network, Section
from mailgate.config.units import ConfigPath, Duration
from mailgate.interfaces import FilterServices, IFilterFactory
from mailgate.pipeline.registry import Registry

KINDS = ("early-talker", "access", "rate-limit", "recipients", "headers")


class Zone(Section):
    """One zone."""

    name: str
    weight: Annotated[int, Field(ge=1)] = 1


class Options(Section):
    """Options with a bit of everything."""

    zones: list[Zone] = Field([])
    action: Literal["reject", "tag"] = "reject"
    wait: Duration = 1.5
    cache: ConfigPath | None = None
    exempt: list[Network] = Field([])
    limit: Annotated[int, Field(ge=1, le=9)] | None = None
    required: bool
    either: str | list[str] = "x"

    @field_validator("action")
    @classmethod
    def _not_both(cls, action: str) -> str:
        if action == "tag":
            raise ValueError("tag is\nnot ready")
        return action


@implementer(IFilterFactory, IPlugin)
class Factory:
    """A factory as a plugin would be."""

    def __init__(self, name: str, options: type = Section) -> None:
        self.name = name
        self.summary = f"the filter {name}"
        self.options = options

    def build(self, options: object, services: FilterServices) -> object:
        raise AssertionError("loading builds nothing")


def find(kind: str) -> IFilterFactory:
    """The five built-in kinds without options, and dnsbl with some."""
    if kind in KINDS:
        return Factory(kind)
    if kind == "dnsbl":
        return Factory(kind, Options)
    raise LookupError(f'no filter of kind "{kind}" is installed (valid values are: {", ".join(KINDS)}, dnsbl)')


GOOD = """[gateway]
hostname = "mx1.example.org"
state_dir = "state"
[[listeners]]
name = "mx"
endpoints = ["tcp:25"]
pipeline = "inbound"
[domains."example.org"]
route = "inside"
recipients = "people"
[recipients.people]
kind = "list"
addresses = ["ann@example.org"]
[routes.inside]
transport = "smtp"
hosts = ["10.0.0.5:25"]
[pipelines.inbound]
filters = ["recipients"]
"""
OUTBOUND = """[[listeners]]
name = "out"
role = "outbound"
endpoints = ["tcp:587"]
trusted_networks = ["10.0.0.0/8"]
pipeline = "inbound"
[routing]
default = "internet"
[routes.internet]
transport = "smtp"
"""
AT = GOOD.count("\n")

Loader = Callable[..., Loaded]


@pytest.fixture
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loader:
    """Loads a text as the file `mailgate.toml` of the working directory."""
    monkeypatch.chdir(tmp_path)

    def loads(text: str | bytes) -> Loaded:
        path = Path("mailgate.toml")
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load(path, find)

    return loads


def errors(loaded: Loader, text: str | bytes) -> list[str]:
    """The errors without the file's name: "LINE: key: what"."""
    with pytest.raises(ConfigError) as caught:
        loaded(text)
    assert str(caught.value) == "\n".join(caught.value.errors)
    for line in caught.value.errors:
        assert line.startswith("mailgate.toml:")
        assert line.isprintable()
        assert not re.search(r"Input should|Extra inputs|Value error|valid (string|integer|dictionary)|pydantic", line)
    return [line.removeprefix("mailgate.toml:") for line in caught.value.errors]


# --- Files that are taken ---------------------------------------------------------------------------------


def test_a_small_file(loaded: Loader, tmp_path: Path) -> None:
    result = loaded(GOOD)
    assert result.warnings == ()
    assert result.path == Path("mailgate.toml")
    assert result.config.gateway.state_dir == tmp_path / "state"
    assert result.config.listeners[0].command_timeout == 300.0
    assert result.options == {"recipients": Section()}


def test_paths_are_relative_to_the_file(loaded: Loader, tmp_path: Path) -> None:
    more = """
[recipients.file]
kind = "list"
path = "lists/people"
[routes.boxes]
transport = "maildir"
path = "../mail/{domain}/{local_part}"
[routes.socket]
transport = "lmtp"
hosts = ["unix:run/lmtp"]
[filters.dnsbl]
required = true
cache = "cache.db"
"""
    result = loaded(GOOD + more)
    recipients, boxes = result.config.recipients["file"], result.config.routes["boxes"]
    assert isinstance(recipients, ListRecipients)
    assert isinstance(boxes, MaildirRoute)
    assert recipients.path == tmp_path / "lists/people"
    assert boxes.path == f"{tmp_path}/../mail/{{domain}}/{{local_part}}"
    assert result.config.routes["socket"].hosts == [f"unix:{tmp_path}/run/lmtp"]  # type: ignore[union-attr]
    options = result.options["dnsbl"]
    assert isinstance(options, Options)
    assert options.cache == tmp_path / "cache.db"


def test_braces_in_the_folder_of_the_file_are_no_fields(tmp_path: Path) -> None:
    folder = tmp_path / "{x}"
    folder.mkdir()
    path = folder / "m.toml"
    path.write_text(GOOD + '[routes.boxes]\ntransport = "maildir"\npath = "./{domain}"\n')
    route = load(path, find).config.routes["boxes"]
    assert isinstance(route, MaildirRoute)
    assert route.path.format(domain="d", local_part="l") == f"{folder}/./d"


def test_keys_have_one_spelling(loaded: Loader) -> None:
    more = """
[routing.recipients]
"Ann@Partner.Example" = "inside"
"*.Lab.Example" = "inside"
[routing.senders]
"Bücher.Example" = "inside"
"""
    config = loaded(GOOD.replace('"example.org"', '"Example.ORG."') + more).config
    assert list(config.domains) == ["example.org"]
    assert list(config.routing.recipients) == ["ann@partner.example", "*.lab.example"]
    assert list(config.routing.senders) == ["xn--bcher-kva.example"]


def test_one_kind_twice_under_two_names(loaded: Loader) -> None:
    text = GOOD.replace('["recipients"]', '["recipients", ["a", "dnsbl"]]')
    more = '[filters.a]\nkind = "dnsbl"\nrequired = true\nwait = "2s"\nmode = "shadow"\n'
    more += "[filters.dnsbl]\nrequired = false\n"
    result = loaded(text + more)
    first, second = result.options["a"], result.options["dnsbl"]
    assert isinstance(first, Options)
    assert isinstance(second, Options)
    assert (first.wait, second.wait) == (2.0, 1.5)
    assert result.config.filter("a").mode == "shadow"


def test_a_byte_order_mark_and_the_line_ends_of_windows(loaded: Loader) -> None:
    assert loaded(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode()).config.gateway.hostname == "mx1.example.org"


def test_errors_of_later_have_lines_too(loaded: Loader) -> None:
    result = loaded(GOOD + '[filters.recipients]\nmode = "shadow"\n')
    assert result.error(("filters", "recipients"), "cannot work") == (
        f"mailgate.toml:{AT + 1}: filters.recipients: cannot work"
    )


# --- Files that cannot be read ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"a = 1\nb = \xe4\n", "2: the file is not UTF-8 (octet 0xE4)"),
        (b"a = 1\nb = yes\n", "2: syntax: no valid value; text stands in quotes (column 5)"),
        (b"a = 1\na = 2\n", "2: syntax: this key stands here a second time (column 6)"),
        (b"[a]\nb = 1\n\n[a]\n", "4: syntax: [a] stands in line 1 already"),
        (b"[ a.'b' ] # x\n[c]\n[a.'b']\n", "3: syntax: [a.'b'] stands in line 1 already"),
        (b"[listeners]\n[[listeners]]\n", "2: syntax: each begins with [[listeners]]; line 1 has [listeners]"),
        (b"[[listeners]]\n[listeners]\n", "2: syntax: each begins with [[listeners]]; line 1 has [[listeners]]"),
        (b"a.b = 1\n[a]\n", "2: syntax: Cannot declare ('a',) twice (column 3)"),
        (b'a = 1\nb = "x\nc = 1\n', "2: syntax: text whose closing quote is missing (column 7)"),
        (b"a = 1\nb = 'x\nc = 'y'\n", "2: syntax: text whose closing quote is missing (column 7)"),
        (b"a = 1\nb = 'x\nc = 1\n", "2: syntax: text whose closing quote is missing"),
        (b'a = 1\nb = """x\nc = 1\n', "2: syntax: text whose closing quote is missing"),
        (b'a = "x', "1: syntax: text whose closing quote is missing"),
        (b"a = 1\nb = [1,\n2\n", "3: syntax:"),
        (b"a = '''\nx\n\n", "1: syntax: text whose closing quote is missing"),
        (b"just words\n", "1: syntax:"),
        (b"a = " + b"[" * 5000, "1: lists and tables are nested too deeply"),
        (b"a = " + b"9" * 5000, "1: syntax:"),
        (b"a\0 = 1\n", "1: syntax:"),
    ],
)
def test_text_that_is_no_toml(loaded: Loader, text: bytes, expected: str) -> None:
    found = errors(loaded, text)
    assert len(found) == 1
    assert found[0].startswith(expected)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "none.toml", find)
    assert caught.value.errors == (f"{tmp_path}/none.toml: cannot be read: No such file or directory",)
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(tmp_path, find)


def test_the_file_is_named_as_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "wrong.toml").write_text("x = 1\n")
    monkeypatch.chdir(tmp_path / "sub")
    with pytest.raises(ConfigError) as caught:
        load(Path("../wrong.toml"), find)
    assert all(line.startswith("../wrong.toml:1: ") for line in caught.value.errors)


# --- Each mistake, with its line --------------------------------------------------------------------------


def changed(old: str, new: str) -> str:
    """The good file with one thing made wrong."""
    assert old in GOOD
    return GOOD.replace(old, new, 1)


GATEWAY_KEYS = "drain_timeout, hostname, memory_ceiling, memory_limit, sign_with, state_dir, workers"
ROLES = "(valid values are: inbound, outbound, hybrid)"
TRANSPORTS = "(valid values are: smtp, lmtp, http, maildir, discard)"
INSTALLED = "is installed (valid values are: early-talker, access, rate-limit, recipients, headers, dnsbl)"
DNSBL_KEYS = (
    "(valid values are: action, cache, deadline, either, except_for, exempt, kind, limit, mode, on_failure, only_for, "
    "required, wait, zones)"
)
SMTP_KEYS = (
    "(valid values are: auth, certificate, chunking, command_timeout, connect_timeout, connections, data_timeout,"
    " fallback, fallback_after, hold_timeout, hosts, idle_timeout, ipv6, messages_per_connection, pool, port, preset,"
    " proxy_protocol, queue,"
    " rcpt_timeout, retry, security, tls, tls_ca, tls_fingerprints, tls_name, transport, when_unreachable, xclient,"
    " xforward)"
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["1: gateway: is missing", "1: pipelines: is missing", "1: listeners: is missing"]),
        (
            changed("state_dir", "statedir"),
            [
                "1: gateway.state_dir: is missing",
                f"3: gateway.statedir: unknown key, did you mean state_dir? (valid values are: {GATEWAY_KEYS})",
            ],
        ),
        (
            changed("[gateway]", "[gatway]"),
            [
                "1: gateway: is missing",
                "1: gatway: unknown key, did you mean gateway? (valid values are: aliases, auth,"
                " bounces, counters, dns, domains, filters, forwarding, gateway, history, http, listeners, log,"
                " milters, mta_sts, pipelines, policy_services, pools, quarantine, recipients, rehearsal, reports,"
                " routes, routing, senders, shaping, socketmaps, sources, spool, tls, tls_policies, tls_reports,"
                " webhooks)",
            ],
        ),
        (
            changed('"mx1.example.org"', '"mx1"'),
            ['2: gateway.hostname: "mx1" is no full host name like mx1.example.org'],
        ),
        (changed('"mx1.example.org"', "5"), ["2: gateway.hostname: must be text, in quotes"]),
        (changed('"state"', '["state"]'), ["3: gateway.state_dir: must be text, in quotes"]),
        (changed("[[listeners]]", "[listeners]"), ["4: listeners: each listener begins with [[listeners]]"]),
        (changed("[[listeners]]", "[listeners.mx]"), ["4: listeners: each listener begins with [[listeners]]"]),
        (
            changed('[domains."example.org"]', "[domains.mail.example.org]"),
            ['8: domains.mail.example.org: a domain stands in quotes: [domains."mail.example.org"]'],
        ),
        (
            changed('recipients = "people"', '[domains]\nexample.com.route = "inside"\nexample.net = {}'),
            [
                '11: domains.example.com: a domain stands in quotes: [domains."example.com"]',
                '12: domains.example.net: a domain stands in quotes: [domains."example.net"]',
            ],
        ),
        (
            GOOD + '[routing.senders]\nexample.org = "inside"\n',
            [f'{AT + 2}: routing.senders.example.org: a domain stands in quotes: "example.org" = ...'],
        ),
        (
            changed('name = "mx"', 'name = "mx"\nrole = "inbuond"'),
            [f'6: listeners[mx].role: "inbuond" is not known, did you mean inbound? {ROLES}'],
        ),
        (
            changed('name = "mx"', 'name = "m x"'),
            [
                "5: listeners[m x].name: a name has letters, digits and . _ - only, at most 64,"
                " and starts with a letter or digit"
            ],
        ),
        (changed('["tcp:25"]', "[]"), ["6: listeners[mx].endpoints: must not be empty"]),
        (changed('["tcp:25"]', '"tcp:25"'), ["6: listeners[mx].endpoints: must be a list, in brackets"]),
        (
            changed('["tcp:25"]', '[\n"tcp:24",\n"tcp:99999"]'),
            ['8: listeners[mx].endpoints[2]: "tcp:99999": a port is at most 65535'],
        ),
        (
            changed('pipeline = "inbound"', 'pipeline = "inbuond"'),
            [
                '7: listeners[mx].pipeline: there is no pipeline "inbuond", did you mean inbound?'
                " (valid values are: inbound)"
            ],
        ),
        (
            changed(
                'pipeline = "inbound"',
                'pipeline = "inbound"\nmax_recipients = 50\nmax_errors = "9"\nmax_messages = 1.5',
            ),
            [
                "8: listeners[mx].max_recipients: must be at least 100",
                "9: listeners[mx].max_errors: must be a whole number, without quotes",
                "10: listeners[mx].max_messages: must be a whole number, without quotes",
            ],
        ),
        (
            changed('pipeline = "inbound"', 'pipeline = "inbound"\nresolve_clients = "no"\nmax_message_size = "1KiB"'),
            [
                "8: listeners[mx].resolve_clients: must be true or false, without quotes",
                "9: listeners[mx].max_message_size: must be at least 64KiB",
            ],
        ),
        (
            changed('pipeline = "inbound"', 'pipeline = "inbound"\ncommand_timeout = 300\ndata_timeout = "0s"'),
            [
                "8: listeners[mx].command_timeout: a duration is written like 30s, 5m, 1h30m or 5d, in quotes",
                "9: listeners[mx].data_timeout: must be at least 1ms",
            ],
        ),
        (
            changed('pipeline = "inbound"', 'pipeline = "inbound"\ntrusted_networks = ["10.0.0.1/8", 5]'),
            [
                '8: listeners[mx].trusted_networks[1]: "10.0.0.1/8" has bits set behind its prefix:'
                " the network is 10.0.0.0/8",
                "8: listeners[mx].trusted_networks[2]: a network is written like 10.0.0.0/8 or 2001:db8::/32,"
                " in quotes",
            ],
        ),
        (
            changed('[domains."example.org"]', '[domains."*"]'),
            ['8: domains."*": "*" would take every domain: name them, like "example.org" or "*.example.org"'],
        ),
        (
            changed('route = "inside"', 'route = "insid"'),
            [
                '9: domains."example.org".route: there is no route "insid", did you mean inside?'
                " (valid values are: inside)"
            ],
        ),
        (
            changed('recipients = "people"', 'recipients = "peple"'),
            [
                '10: domains."example.org".recipients: there is no recipients section "peple", did you mean people?'
                " (valid values are: any, people)"
            ],
        ),
        (
            changed('recipients = "people"', 'recipients = "people"\n[domains]\n"Example.org" = { route = "inside" }'),
            ['12: domains."Example.org": is the same as example.org in line 8'],
        ),
        (
            changed('kind = "list"', 'kind = "nosuch"'),
            [
                '12: recipients.people.kind: "nosuch" is not known'
                " (valid values are: list, sql, http, ldap, callout, postfix)"
            ],
        ),
        (
            changed('addresses = ["ann@example.org"]', ""),
            ["11: recipients.people: knows no address: it needs addresses or a path"],
        ),
        (
            changed('"ann@example.org"', '\n"ann@example.org",\n"bob"'),
            ['15: recipients.people.addresses[2]: "bob" is no address: it has no domain'],
        ),
        (
            changed("[recipients.people]", '[recipients.any]\nkind = "list"\npath = "x"\n[recipients.people]'),
            ['11: recipients.any: no section can have this name: "any" stands for every recipient'],
        ),
        (
            changed('transport = "smtp"', ""),
            [f"14: routes.inside.transport: is missing {TRANSPORTS}"],
        ),
        (
            changed('transport = "smtp"', 'transport = "stmp"'),
            [f'15: routes.inside.transport: "stmp" is not known, did you mean smtp? {TRANSPORTS}'],
        ),
        (
            changed('transport = "smtp"', "transport = 5"),
            [f'15: routes.inside.transport: "5" is not known {TRANSPORTS}'],
        ),
        (
            changed('"10.0.0.5:25"', '"10.0.0.5:smtp"'),
            ['16: routes.inside.hosts[1]: "10.0.0.5:smtp" has no valid port (1 to 65535)'],
        ),
        (
            changed('"10.0.0.5:25"', '"a", [\n"b", "::1"], [], 5'),
            [
                '17: routes.inside.hosts[2][2]: "::1" is no host: an IPv6 address stands in brackets,'
                " like [2001:db8::1]:25",
                "17: routes.inside.hosts[3]: must not be empty",
                "17: routes.inside.hosts[4]: must be text, in quotes",
            ],
        ),
        (
            changed(
                'hosts = ["10.0.0.5:25"]',
                'hosts = ["a"]\nsmtp = 1',
            ),
            [
                f"17: routes.inside.smtp: unknown key {SMTP_KEYS}",
            ],
        ),
        (
            changed('hosts = ["10.0.0.5:25"]', 'retry.first = 5\nretry.factor = 20\nretry.expire = "1d"'),
            [
                "16: routes.inside.retry.first: a duration is written like 30s, 5m, 1h30m or 5d, in quotes",
                "17: routes.inside.retry.factor: must be at most 10.0",
            ],
        ),
        (
            changed('hosts = ["10.0.0.5:25"]', "retry = 5"),
            ["16: routes.inside.retry: must be a section or an inline table"],
        ),
        (
            changed('filters = ["recipients"]', 'filters = [\n"recipients",\n["acces",\n"headers"]]'),
            [f'20: filters.acces: no filter of kind "acces" {INSTALLED}'],
        ),
        (
            changed('["recipients"]', '["recipients", "headers",\n["recipients"]]'),
            ['19: pipelines.inbound.filters[3][1]: "recipients" stands twice in this pipeline'],
        ),
        (changed('["recipients"]', '["recipients", "dnsbl"]'), ["18: filters.dnsbl.required: is missing"]),
        (
            GOOD + "x.y = 1\n",
            [f"{AT + 1}: pipelines.inbound.x: unknown key (valid values are: filters)"],
        ),
        (
            GOOD + "[dns]\nservers = ['ns.example']\n",
            [f'{AT + 2}: dns.servers[1]: "ns.example" is no address of a DNS server (names cannot be used here)'],
        ),
        (
            GOOD + '[spool]\nurl = "postgresql://x"\n',
            [f'{AT + 2}: spool.url: "postgresql://x" is not known (valid values are: sqlite:)'],
        ),
        (
            GOOD + '[routes.box]\ntransport = "maildir"\npath = "/m/{user}"\n',
            [f"{AT + 3}: routes.box.path: braces stand for {{domain}} and {{local_part}} only"],
        ),
        (
            GOOD + '[routes.box]\ntransport = "maildir"\npath = "~/{domain}"\n',
            [f"{AT + 3}: routes.box.path: ~ is not expanded here; write the path in full"],
        ),
        (
            GOOD + '[routes.box]\ntransport = "maildir"\npath = "/m/{domain!r}{"\n',
            [f"{AT + 3}: routes.box.path: braces stand for {{domain}} and {{local_part}} only"],
        ),
        (
            GOOD
            + '[routing]\ndefault = "out"\n[routing.recipients]\n'
            + '"*" = "inside"\n"@a.org" = "inside"\n"b.org" = "out"\n',
            [
                f'{AT + 2}: routing.default: there is no route "out" (valid values are: inside)',
                f'{AT + 4}: routing.recipients."*": "*" stands for everything: that is what routing.default is for',
                f'{AT + 5}: routing.recipients."@a.org": "@a.org": a whole domain is written without the @',
                f'{AT + 6}: routing.recipients."b.org": there is no route "out" (valid values are: inside)',
            ],
        ),
        (
            GOOD + OUTBOUND.replace('"out"', '"mx"', 1).replace("587", "25"),
            [
                f'{AT + 2}: listeners[mx].name: "mx" is the name of the listener in line 5 too',
                f'{AT + 4}: listeners[mx].endpoints[1]: "tcp:25" stands in line 6 already',
            ],
        ),
        (
            GOOD + OUTBOUND.replace('trusted_networks = ["10.0.0.0/8"]', ""),
            [
                f"{AT + 3}: listeners[out].role: nobody may relay here: role outbound needs trusted_networks or auth "
                "(or xclient_from, or tls.client_fingerprints)"
            ],
        ),
        (
            GOOD + OUTBOUND.replace('["10.0.0.0/8"]', "[]").replace('"outbound"', '"hybrid"'),
            [
                f"{AT + 3}: listeners[out].role: nobody may relay here: role hybrid needs trusted_networks or auth "
                "(or xclient_from, or tls.client_fingerprints)"
            ],
        ),
        (
            GOOD + OUTBOUND.replace('name = "out"', "").replace('pipeline = "inbound"', 'trusted_pipeline = "x"'),
            [
                f"{AT + 1}: listeners[2].name: is missing",
                f"{AT + 1}: listeners[2].pipeline: is missing",
                f'{AT + 6}: listeners[2].trusted_pipeline: there is no pipeline "x" (valid values are: inbound)',
            ],
        ),
    ],
)
def test_mistakes(loaded: Loader, text: str, expected: list[str]) -> None:
    assert errors(loaded, text) == expected


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ("", ["1: filters.dnsbl.required: is missing"]),
        (
            'required = true\nzone = 1\nmoed = "shadow"',
            [
                f"3: filters.dnsbl.zone: unknown key, did you mean zones? {DNSBL_KEYS}",
                f"4: filters.dnsbl.moed: unknown key, did you mean mode? {DNSBL_KEYS}",
            ],
        ),
        (
            'required = true\nmode = "observe"\non_failure = "tempfail"\ndeadline = "0s"',
            [
                '3: filters.dnsbl.mode: "observe" is not known (valid values are: enforce, shadow)',
                '4: filters.dnsbl.on_failure: "tempfail" is not known'
                " (valid values are: defer, continue, reject, quarantine)",
                "5: filters.dnsbl.deadline: must be at least 1ms",
            ],
        ),
        (
            'required = 3\nlimit = 10\nwait = "x"\nexempt = ["y"]\naction = "tag"',
            [
                "2: filters.dnsbl.required: must be true or false, without quotes",
                "3: filters.dnsbl.limit: must be at most 9",
                "4: filters.dnsbl.wait: a duration is written like 30s, 5m, 1h30m or 5d",
                '5: filters.dnsbl.exempt[1]: "y" is no network: write 10.0.0.0/8, 2001:db8::/32 or an address',
                "6: filters.dnsbl.action: tag is not ready",
            ],
        ),
        (
            'required = true\nzones = [\n{ name = "a" },\n{ weight = 0, wieght = 1 },\n"b",\n]',
            [
                "5: filters.dnsbl.zones[2].name: is missing",
                "5: filters.dnsbl.zones[2].weight: must be at least 1",
                "5: filters.dnsbl.zones[2].wieght: unknown key, did you mean weight? (valid values are: name, weight)",
                "6: filters.dnsbl.zones[3]: must be a section or an inline table",
            ],
        ),
        (
            "required = true\neither = [1]",
            ["3: filters.dnsbl.either[1]: must be text, in quotes"],
        ),
        (
            "required = true\neither = 1",
            ["3: filters.dnsbl.either: must be text, in quotes or a list, in brackets"],
        ),
        (
            'kind = "dnslb"',
            [f'2: filters.dnsbl.kind: no filter of kind "dnslb" {INSTALLED}'],
        ),
    ],
)
def test_mistakes_in_a_filters_own_options(loaded: Loader, section: str, expected: list[str]) -> None:
    found = errors(loaded, f"{GOOD}[filters.dnsbl]\n{section}\n")
    shifted = [re.sub(r"^(\d+)", lambda match: str(int(match[1]) + AT), line) for line in expected]
    assert found == shifted


def test_every_mistake_at_once_by_line(loaded: Loader) -> None:
    text = (
        GOOD.replace('"mx1.example.org"', '"mx1"')
        .replace('pipeline = "inbound"', 'pipeline = "inbuond"\nbogus = 1')
        .replace('route = "inside"', 'route = "insid"')
        .replace("kind", "knid")
        .replace('["recipients"]', '["recipient"]')
    )
    found = errors(loaded, text + '[filters.dnsbl]\nwait = "x"\n')
    lines = [int(line.split(":")[0]) for line in found]
    assert lines == sorted(lines)
    assert lines == [2, 7, 8, 10, 12, 19, 20, 21]


def test_names_cannot_forge_a_line(loaded: Loader) -> None:
    found = errors(loaded, GOOD + '"x\\nmailgate.toml:1: gateway: fine\\u001b[2J" = 1\n[routing]\ndefault = "a\\nb"\n')
    assert len(found) == 3
    assert "\\u001b" in found[0]


def test_long_lists_of_valid_values_are_cut(loaded: Loader) -> None:
    routes = "".join(f'[routes.r{number}]\ntransport = "discard"\n' for number in range(500))
    found = errors(loaded, GOOD.replace('route = "inside"', 'route = "nowhere"') + routes)
    assert len(found) == 1
    assert found[0].endswith(", r38, ...)")


SECTIONS = st.sampled_from(
    [*Config.model_fields, "x", "name", "smtp", "NAME", "hosts", "retry", "route", "role", "kind", "filters", "dnsbl"]
)
JUNK = st.recursive(
    st.one_of(st.booleans(), st.integers(-5, 200), st.sampled_from(["", "smtp", "list", "a", "any", "1s", "x y"])),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(SECTIONS, inner, max_size=4)),
    max_leaves=20,
)


def written(value: object) -> str:
    """A value as TOML in one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {written(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(written, value)) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value).lower()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(document=st.dictionaries(SECTIONS, JUNK, max_size=8))
def test_whatever_a_file_holds_it_gives_lines_of_errors(loaded: Loader, document: dict[str, object]) -> None:
    text = "".join(f"{key} = {written(value)}\n" for key, value in document.items())
    assert tomllib.loads(text) == document
    count = max(len(document), 1)
    for line in errors(loaded, text):
        number, key, what = line.split(": ", 2)
        assert 1 <= int(number) <= count
        assert key
        assert what
        assert not what.startswith("input")


# --- Warnings ---------------------------------------------------------------------------------------------


def warnings(loaded: Loader, text: str) -> list[str]:
    """The warnings without the file's name."""
    return [line.removeprefix("mailgate.toml:") for line in loaded(text).warnings]


def test_a_sound_file_has_no_warnings(loaded: Loader) -> None:
    assert warnings(loaded, GOOD + OUTBOUND) == []


@pytest.mark.parametrize(
    ("networks", "text"),
    [
        ('"0.0.0.0/0"', "public IPv4 addresses may relay"),
        ('"0.0.0.0/1", "128.0.0.0/1"', "public IPv4 addresses may relay"),
        ('"8.0.0.0/8"', "16,777,216 public IPv4 addresses may relay"),
        ('"8.8.0.0/16", "9.9.9.9"', "65,537 public IPv4 addresses may relay"),
        (", ".join(f'"8.{second}.0.0/16"' for second in range(3)), "196,608 public IPv4 addresses may relay"),
        ('"::/0"', "may relay"),
        ('"::ffff:0:0/96"', "public IPv4 addresses may relay"),
        ('"64:ff9b::/96"', "public IPv4 addresses may relay"),
        ('"2000::/3"', "more than one /32 of public IPv6 addresses may relay"),
        ('"2a00:1::/32", "2a00:2::/48"', "more than one /32 of public IPv6 addresses may relay"),
    ],
)
@pytest.mark.parametrize("role", ["outbound", "hybrid"])
def test_trust_in_public_networks(loaded: Loader, networks: str, text: str, role: str) -> None:
    outbound = OUTBOUND.replace('"10.0.0.0/8"', networks).replace('"outbound"', f'"{role}"')
    found = warnings(loaded, GOOD + outbound)
    assert len(found) == 1
    assert found[0].startswith(f"{AT + 5}: listeners[out].trusted_networks: ")
    assert text in found[0]


@pytest.mark.parametrize(
    "networks",
    [
        '"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "100.64.0.0/10"',
        '"fc00::/7", "fe80::/10", "::1"',
        '"8.8.0.0/16"',
        '"8.8.8.8", "2a00:1::/32"',
        '"::ffff:10.0.0.0/104"',
    ],
)
def test_trust_that_a_site_may_have(loaded: Loader, networks: str) -> None:
    assert warnings(loaded, GOOD + OUTBOUND.replace('"10.0.0.0/8"', networks)) == []


@pytest.mark.parametrize("domain", ["*.org", "*.CO.UK", "*.com.au"])
def test_the_domains_of_others(loaded: Loader, domain: str) -> None:
    assert warnings(loaded, GOOD.replace('domains."example.org"', f'domains."{domain}"')) == [
        f'8: domains."{domain}": takes mail for the domains of others, from anyone: nearly an open relay'
    ]


@pytest.mark.parametrize(
    "domain", ["*.example.org", "*.internal", "*.lan", "org", "*.example.uk", "*.com.example", "[192.0.2.1]"]
)
def test_domains_of_ones_own(loaded: Loader, domain: str) -> None:
    assert warnings(loaded, GOOD.replace('domains."example.org"', f'domains."{domain}"')) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            changed('hosts = ["10.0.0.5:25"]', ""),
            [
                '9: domains."example.org".route: inside delivers by MX, which may lead back here, in a loop:'
                " give the route hosts"
            ],
        ),
        (
            changed('recipients = "people"', ""),
            [
                '8: domains."example.org".recipients: any: what the next hop refuses has to be bounced, mostly to'
                " forged senders (backscatter); name a [recipients.NAME]",
                "11: recipients.people: no domain names this section",
            ],
        ),
        (
            changed('recipients = "people"', 'recipients = "any"').replace(
                'transport = "smtp"\nhosts = ["10.0.0.5:25"]', 'transport = "maildir"\npath = "x/{local_part}"'
            ),
            ["11: recipients.people: no domain names this section"],
        ),
        *[
            (
                GOOD.replace('"people"', f'"{of}"')
                .replace('["ann@example.org"]', addresses)
                .replace('transport = "smtp"\nhosts = ["10.0.0.5:25"]', 'transport = "maildir"\npath = "x/{domain}"'),
                [
                    '9: domains."example.org".route: inside puts all recipients\' mail into one Maildir:'
                    " its path has no {local_part}"
                ]
                * is_warned
                + ["11: recipients.people: no domain names this section"] * (of == "any"),
            )
            for of, addresses, is_warned in (
                ("people", '["ann@example.org", "bob@example.org"]', True),
                ("people", '["@example.org"]', True),
                ("people", '["ann@example.org", "bob@example.com"]', False),
                ("any", '["ann@example.org"]', True),
            )
        ],
        (
            changed('hosts = ["10.0.0.5:25"]', 'hosts = ["a"]\nretry = { first = "5d", expire = "5d" }'),
            ["17: routes.inside.retry.first: is not less than expire (5d): never tried a second time"],
        ),
        (
            changed('["recipients"]', '["recipients", "headers"]') + '[filters.headers]\nmode = "shadow"\n',
            [
                f"{AT + 2}: filters.headers.mode: shadow: mail goes on without a Received field, which ends loops"
                " (RFC 5321 section 4.4)"
            ],
        ),
        (
            changed('transport = "smtp"\nhosts = ["10.0.0.5:25"]', 'transport = "discard"'),
            ['9: domains."example.org".route: inside throws the mail of this domain away'],
        ),
        (
            changed('["recipients"]', '["headers"]'),
            [
                "18: pipelines.inbound.filters: has no filter of kind recipients: nobody asks [recipients] whether an"
                " address exists"
            ],
        ),
        (changed('["recipients"]', '["r"]') + '[filters.r]\nkind = "recipients"\n', []),
        (
            changed('pipeline = "inbound"', 'pipeline = "inbound"\ncommand_timeout = "30s"\ndata_timeout = "1m"'),
            [
                "8: listeners[mx].command_timeout: is less than 5m (RFC 5321 section 4.5.3.2)",
                "9: listeners[mx].data_timeout: is less than 3m (RFC 5321 section 4.5.3.2)",
            ],
        ),
        (
            changed('hosts = ["10.0.0.5:25"]', 'hosts = ["a"]\ndata_timeout = "9m"\nretry = { expire = "4h" }'),
            [
                "17: routes.inside.data_timeout: is less than 10m (RFC 5321 section 4.5.3.2; less makes duplicates)",
                "18: routes.inside.retry.expire: is less than 1d (RFC 5321 section 4.5.4.1 asks for days)",
            ],
        ),
        (
            changed('pipeline = "inbound"', 'pipeline = "inbound"\njudge_origin = true'),
            ["8: listeners[mx].judge_origin: has no effect without xforward_from: nobody may name a client"],
        ),
        (
            changed(
                'pipeline = "inbound"',
                'pipeline = "inbound"\ntrusted_networks = ["::/0"]\ntrusted_pipeline = "inbound"',
            ),
            [
                "8: listeners[mx].trusted_networks: has no effect: role inbound never relays",
                "9: listeners[mx].trusted_pipeline: has no effect: role inbound has one pipeline",
            ],
        ),
        (
            GOOD + OUTBOUND.replace('default = "internet"', ""),
            [
                f"{AT + 3}: listeners[out].role: relays nowhere: [routing] has no default route, nor any other",
                f"{AT + 9}: routes.internet: no entry of [domains] or [routing] names this route",
            ],
        ),
        (
            GOOD + "[filters.headers]\n[filters.dnsbl]\nrequired = true\n",
            [
                f"{AT + 1}: filters.headers: no pipeline names this filter",
                f"{AT + 2}: filters.dnsbl: no pipeline names this filter",
            ],
        ),
    ],
)
def test_what_is_warned_about(loaded: Loader, text: str, expected: list[str]) -> None:
    assert warnings(loaded, text) == expected


def test_an_inbound_listener_without_domains(loaded: Loader) -> None:
    text = GOOD.replace('[domains."example.org"]\nroute = "inside"\nrecipients = "people"\n', "")
    assert "4: listeners[mx].role: refuses every recipient: there are no [domains]" in warnings(loaded, text)


@pytest.mark.parametrize(
    ("endpoint", "host", "is_ours"),
    [
        ("tcp:25", "127.0.0.1", True),
        ("tcp:25", "localhost:25", True),
        ("tcp:25", "mx1.example.org", True),
        ("tcp:25", "127.0.0.1:26", False),
        ("tcp:25", "[::1]", False),
        ("tcp:25", "10.0.0.5", False),
        ("tcp6:25", "[::1]:25", True),
        ("tcp6:25", "127.0.0.1:25", True),
        ("tcp:25:interface=10.0.0.5", "10.0.0.5:25", True),
        ("tcp:25:interface=10.0.0.5", "127.0.0.1:25", False),
        ("tcp:25:interface=127.0.0.1", "localhost", True),
        ("tcp:25:interface=localhost", "localhost", True),
        ("tcp:25:interface=10.0.0.5", "mail.internal", False),
        ("unix:/run/x", "127.0.0.1", False),
    ],
)
def test_a_route_to_ourselves(loaded: Loader, endpoint: str, host: str, is_ours: bool) -> None:
    text = GOOD.replace('"tcp:25"', f'"{endpoint}"').replace('"10.0.0.5:25"', f'"10.0.0.6", ["10.0.0.7", "{host}"]')
    assert warnings(loaded, text) == [
        f"16: routes.inside.hosts[2]: {host} is our own listener mx: mail would go round in a loop"
    ] * int(is_ours)


def test_a_list_whose_file_is_empty(loaded: Loader) -> None:
    text = GOOD.replace('addresses = ["ann@example.org"]', 'path = "people"')
    Path("people").write_text("\ufeff# exported\n\n  \n")
    (found,) = warnings(loaded, text)
    assert found.startswith("13: recipients.people.path: ")
    assert found.endswith("/people has no address: every recipient is refused")
    Path("people").write_text("# exported\nann@example.org\n")
    assert warnings(loaded, text) == []


def test_a_limit_of_unknown_recipients_that_is_never_reached(tmp_path: Path) -> None:
    path, kinds = tmp_path / "m.toml", Registry()
    path.write_text(GOOD + "[filters.recipients]\nmax_unknown = 21\n")
    assert load(path, kinds.find).warnings == (
        f"{path}:{AT + 2}: filters.recipients.max_unknown: has no effect at listener mx, whose max_errors is 20",
    )
    path.write_text(GOOD + "[filters.recipients]\nmax_unknown = 20\n")
    assert load(path, kinds.find).warnings == ()


# --- This machine -----------------------------------------------------------------------------------------


def test_a_state_directory_that_is_a_file(loaded: Loader, tmp_path: Path) -> None:
    Path("state").write_text("")
    assert errors(loaded, GOOD) == [f"3: gateway.state_dir: {tmp_path}/state is no folder"]


def test_a_state_directory_without_room_for_the_name_of_the_control_socket(loaded: Loader) -> None:
    fits = "/" + "d" * (107 - len("//control"))
    assert str(loaded(GOOD.replace('"state"', f'"{fits}"')).config.gateway.state_dir) == fits
    (found,) = errors(loaded, GOOD.replace('"state"', f'"{fits}d"'))
    assert found.startswith(
        "3: gateway.state_dir: its control socket cannot be made: the path of a socket has at most 107"
    )


@pytest.mark.parametrize("path", ["", "-", "mailgate.log", "logs/m.log"])
def test_a_log_that_can_be_written(loaded: Loader, path: str) -> None:
    Path("state/logs").mkdir(parents=True)
    assert loaded(f'{GOOD}[log]\npath = "{path}"\n').config.log.path == path


def test_a_log_in_a_state_directory_that_will_be_made(loaded: Loader) -> None:
    assert loaded(GOOD + '[log]\npath = "m.log"\n').warnings == ()


def test_a_log_that_cannot_be_written(loaded: Loader, tmp_path: Path) -> None:
    Path("state/logs").mkdir(parents=True)
    state = tmp_path / "state"
    for path, what in (
        ("logs", f"{state}/logs is a folder"),
        ("none/m.log", f"the folder {state}/none does not exist"),
        (f"{tmp_path}/none/m.log", f"the folder {tmp_path}/none does not exist"),
    ):
        assert errors(loaded, f'{GOOD}[log]\npath = "{path}"\n') == [f"{AT + 2}: log.path: {what}"]
