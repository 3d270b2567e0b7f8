"""`mailgate check`, `try` and `filters`, with the filters that come with the gateway; no reactor runs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock
from zope.interface import implementer

from mailgate.cli.filters import Stages, for_terminal, stages_of
from mailgate.cli.main import main
from mailgate.config.reference import reference
from mailgate.config.schema import Section
from mailgate.envelope import Session, Transaction
from mailgate.interfaces import FilterServices, IFilterFactory, IHeloFilter, IMailFilter
from mailgate.pipeline.registry import Registry
from tests.unit.certificates import issue

CONFIG = """\
[gateway]
hostname = "mail.example.org"
state_dir = "state"

[[listeners]]
name = "mx"
endpoints = ["tcp:2525"]
pipeline = "inbound"
max_message_size = "64KiB"

[[listeners]]
name = "submission"
role = "hybrid"
endpoints = ["tcp:2587"]
trusted_networks = ["192.0.2.0/24"]
pipeline = "inbound"
trusted_pipeline = "trusted"

[domains."box.test"]
route = "box"
recipients = "people"

[recipients.people]
kind = "list"
addresses = ["bob@box.test"]

[routes.box]
transport = "maildir"
path = "mail"

[routing]
default = "box"

[pipelines.inbound]
filters = ["access", "recipients"]

[pipelines.trusted]
filters = ["headers"]

[filters.access]
rules = ["deny client 198.51.100.0/24"]
"""

MAIL = b"From: ann@client.test\nSubject: hello\n\nthe text\n"


def at_once(body: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
    """What `react` does, for work that waits for nothing."""
    done: list[object] = []
    Deferred.fromCoroutine(body(MemoryReactorClock())).addBoth(done.append)
    assert done == [None]
    raise SystemExit(0)


def never(body: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
    """A run that is interrupted."""
    raise SystemExit(0)


class Site:
    def __init__(self, directory: Path) -> None:
        self.file = directory / "mailgate.toml"
        self.file.write_text(CONFIG)
        self.mail = directory / "mail.eml"
        self.mail.write_bytes(MAIL)

    def run(self, *arguments: str, code: int = 0, given: bytes = b"", react: object = at_once) -> Result:
        result = CliRunner().invoke(main, [*arguments, "--config", str(self.file)], input=given, obj=react)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result

    def attempt(self, *recipients: str, code: int = 0, ip: str = "127.0.0.1", more: tuple[str, ...] = ()) -> str:
        to = [word for one in recipients for word in ("--to", one)]
        return self.run("try", "--ip", ip, "--from", "ann@client.test", *to, *more, str(self.mail), code=code).stdout


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


# -- check


def test_a_good_file(site: Site) -> None:
    result = site.run("check")
    assert result.stdout == f"{site.file}: ok\n"
    assert json.loads(site.run("check", "--json").stdout)["ok"] is True
    assert not (site.file.parent / "state").exists()


def test_every_error_has_its_line(site: Site) -> None:
    site.file.write_text(
        CONFIG.replace('hostname = "mail.example.org"', "speed = 9").replace('"recipients"]', '"what"]')
    )
    errors = site.run("check", code=1).stderr.splitlines()
    assert any(line.startswith(f"{site.file}:2: gateway.speed: ") for line in errors)
    assert any(f"{site.file}:3" in line and "what" in line for line in errors), errors
    found = json.loads(site.run("check", "--json", code=1).stdout)
    assert (found["ok"], found["errors"]) == (False, errors)


def test_a_filter_that_cannot_be_built_is_an_error(site: Site) -> None:
    (site.file.parent / "rules").write_text("deny a nonsense\n")
    site.file.write_text(CONFIG + 'files = ["rules"]\n')
    error = site.run("check", code=1).stderr
    assert "filters.access" in error
    assert "rules" in error


def test_a_filter_without_a_section_that_cannot_be_built_has_the_line_of_its_pipeline(site: Site) -> None:
    site.file.write_text(CONFIG.replace('"recipients"]', '"recipients", "uribl"]'))
    line = next(number for number, one in enumerate(site.file.read_text().splitlines(), 1) if '"uribl"' in one)
    assert site.run("check", code=1).stderr.startswith(f"{site.file}:{line}: filters.uribl: zones names no list")


def test_a_list_that_cannot_be_used_has_its_line(site: Site) -> None:
    people = site.file.parent / "people"
    text = CONFIG.replace('addresses = ["bob@box.test"]', 'path = "people"').replace('"mail"', '"mail/{local_part}"')
    line = text[: text.index('path = "people"')].count("\n") + 1
    site.file.write_text(text)
    key = f"{site.file}:{line}: recipients.people.path: "
    assert site.run("check", code=1).stderr == f"{key}{people}: cannot be read: No such file or directory\n"
    people.write_text("bob@box.test\nbob\nann@box.test\tann\n")
    first, second = site.run("check", code=1).stderr.splitlines()
    assert first.startswith(f'{key}{people}:2: "bob": ')
    assert second.startswith(f"{key}{people}:3: ")
    assert second.endswith("(one address a line, nothing behind it)")


def test_warnings_are_told_and_are_no_errors(site: Site) -> None:
    site.file.write_text(CONFIG.replace("192.0.2.0/24", "0.0.0.0/0"))
    result = site.run("check")
    assert "(warning)" in result.stderr
    assert json.loads(site.run("check", "--json").stdout)["warnings"]


def test_users_whose_authorities_cannot_be_used_are_an_error(site: Site) -> None:
    site.file.write_text(CONFIG + '\n[auth.service]\nkind = "http"\nurl = "https://a.test/"\nca = "ca.pem"\n')
    (site.file.parent / "ca.pem").write_text("nothing of use\n")
    error = site.run("check", code=1).stderr
    assert "auth.service" in error
    assert "ca.pem" in error


def test_users_that_others_can_read_are_warned_of(site: Site) -> None:
    site.file.write_text(CONFIG + '\n[auth.people]\nkind = "file"\npath = "users"\n')
    users = site.file.parent / "users"
    users.write_text("ann:{PLAIN}hunter2\n")
    users.chmod(0o644)
    assert "0644" in site.run("check").stderr
    users.chmod(0o600)
    assert "0600" not in site.run("check").stderr


def test_users_that_are_missing_are_told_where_they_are_named(site: Site) -> None:
    text = CONFIG + '\n[auth.people]\nkind = "file"\npath = "users"\n'
    site.file.write_text(text)
    users = site.file.parent / "users"
    key = f"{site.file}:{text.count(chr(10))}: auth.people.path: {users}"
    assert site.run("check", code=1).stderr.startswith(f"{key}: does not exist: make it with mailgate password\n")
    users.write_text("ann\nbob\n")
    lines = site.run("check", code=1).stderr.splitlines()
    assert [line.partition(" not of")[0] for line in lines[:2]] == [f"{key}:1:", f"{key}:2:"]


def test_certificates_are_judged_by_the_time_of_today(site: Site) -> None:
    folder = site.file.parent / "tls"
    folder.mkdir()
    site.file.write_text(CONFIG + '\n[tls]\ncertificate = "tls"\n')
    for name, days in (("old", (-9, -2)), ("good", (-1, 90)), ("soon", (-9, 3)), ("new", (2, 90))):
        issue(None, f"{name}.test", days=days).write(folder / f"{name}.pem").chmod(0o600)
    lines = site.run("check").stderr.splitlines()
    told = [re.sub(r" \d{4}-.*", "", line.removeprefix(f"{folder}/")) for line in lines]
    assert told == [
        "new.pem: the certificate for new.test is not valid before",
        "old.pem: the certificate for old.test expired on",
        "soon.pem: the certificate for soon.test expires on",
    ]


def test_every_certificate_that_cannot_be_used_has_its_line(site: Site) -> None:
    folder = site.file.parent / "tls"
    folder.mkdir()
    text = CONFIG + '\n[tls]\ncertificate = "tls"\n'
    site.file.write_text(text)
    issue(None, "good.test").write(folder / "b.pem")
    for name in ("a", "c"):
        (folder / f"{name}.pem").write_text("nothing\n")
    key = f"{site.file}:{text.count(chr(10))}: tls.certificate: "
    assert site.run("check", code=1).stderr.splitlines() == [
        f"{key}{folder / name}: holds no certificate" for name in ("a.pem", "c.pem")
    ]


EXAMPLES = Path(__file__).parents[2] / "etc" / "examples"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.name)
def test_the_examples_pass_where_they_lie(site: Site, path: Path) -> None:
    site.file = path
    if path.name == "submission.toml":  # says what to make first: secrets do not come with it
        assert "does not exist: make it with mailgate password" in site.run("check", code=1).stderr
    else:
        result = site.run("check")
        assert (result.stdout, result.stderr) == (f"{path}: ok\n", "")


def test_no_file(site: Site) -> None:
    site.file.unlink()
    assert "cannot be read" in site.run("check", code=1).stderr


# -- try


def test_a_mail_that_is_taken(site: Site) -> None:
    text = site.attempt("bob@box.test")
    assert text.startswith("from unknown[127.0.0.1] to listener mx, 51 B\n")
    assert "rcpt     recipients  continue" in text
    assert "bob@box.test: taken, by route box" in text
    assert "change: add at the top: Received: " in text


def test_refusals(site: Site) -> None:
    text = site.attempt("bob@box.test", "nobody@box.test", "x@elsewhere.test", code=1)
    assert "rcpt     recipients  reject" in text
    assert "nobody@box.test: refused\n    the client is told: 550 5.1.1 No such recipient here" in text
    assert "x@elsewhere.test: refused\n    the client is told: 550 5.7.1 Relaying denied\n    because: " in text
    assert "bob@box.test: taken" in text
    assert "bob@box.test: refused" in site.attempt("bob@box.test", code=1, ip="198.51.100.7", more=("--name", "x.test"))


def test_what_comes_behind_a_refusal_can_be_asked(site: Site) -> None:
    text = CONFIG.replace('["access", "recipients"]', '["access", "recipients", "greylist", "score"]')
    site.file.write_text(text + "[filters.greylist]\nexempt = []\n")
    told = "The content was not judged: --go-on asks the stages behind a refusal, too.\n"
    short = site.attempt("bob@box.test", code=1)
    assert short.endswith(told)
    assert not re.search(r"^message ", short, re.M)
    whole = site.attempt("bob@box.test", "eve@box.test", more=("--go-on",), code=1)
    assert told not in whole
    assert re.search(r"^rcpt +greylist +defer .*\n +greylist=new 127\.0\.0\.0/24, 300 s left$", whole, re.M)
    first, second = whole[whole.index("\nbob@box.test: ") :].split("    but for that: ")[:2]
    assert first.startswith("\nbob@box.test: deferred\n    the client is told: 451 4.7.1 ")
    assert second.startswith("taken, by route box\n")
    assert "eve@box.test: refused\n    the client is told: 550 5.1.1" in whole


def test_each_recipient_has_its_fate_however_early_a_refusal_comes(site: Site) -> None:
    site.file.write_text(CONFIG + 'when = "at-once"\n')
    both = ("bob@box.test", "bob@box.test")
    denied: dict[str, Any] = {"ip": "198.51.100.7", "more": ("--go-on", "--json", "--name", "x.test")}
    found = json.loads(site.attempt(*both, code=1, **denied))
    assert [fate["outcome"] for fate in found["recipients"]] == ["refused"] * 2
    assert [fate["then"]["outcome"] for fate in found["recipients"]] == ["taken"] * 2
    assert [step["filter"] for step in found["steps"] if step["stage"] == "rcpt"].count("recipients") == 2
    assert not found["all_taken"]


def test_aliases_are_told_with_their_routes(site: Site) -> None:
    text = CONFIG.replace('recipients = "people"', 'recipients = "people"\naliases = ["names"]')
    names = '[aliases.names]\nkind = "map"\nentries = { "info@box.test" = ["bob@box.test", "x@else.test"] }\n'
    site.file.write_text(text + names)
    shown = site.attempt("info@box.test")
    assert "info@box.test: taken, for bob@box.test by route box, x@else.test by route box\n" in shown


def test_a_trusted_client_has_its_own_pipeline(site: Site) -> None:
    more = ("--listener", "submission", "--name", "")
    text = site.attempt("x@elsewhere.test", ip="192.0.2.5", more=more)
    assert "known as 192.0.2.5" in text
    assert "recipients" not in text
    assert "x@elsewhere.test: taken, by route box" in text
    text = site.attempt("x@elsewhere.test", ip="203.0.113.5", more=more, code=1)
    assert "x@elsewhere.test: refused" in text
    text = site.attempt("x@elsewhere.test", ip="203.0.113.5", more=(*more, "--identity", "ann"))
    assert "known as ann" in text


BANNERS = """
[filters.banner]
domains_of = "recipients"
only_domains = true
domains = { "box.test" = { text = "for the box" } }
only_for = ["box.test"]

[filters.score]
domains = { "else.test" = { tag = -100.0, quarantine = false, reject = -50.0 } }
"""


def test_what_is_done_for_some_is_told_with_whom_it_is_for(site: Site) -> None:
    text = CONFIG.replace('["access", "recipients"]', '["score", "banner"]').replace('[domains."box.test"]', DOMAINS)
    site.file.write_text(text + BANNERS)
    shown = site.attempt("bob@box.test", "x@else.test", code=1)
    assert "bob@box.test: taken, by route box\n" in shown
    reason = "    because: refused: 550 5.7.1 Refused: this message looks like spam (score 0 reaches -50: )"
    assert f"x@else.test: quarantined, by route box\n{reason}\n" in shown
    assert re.search(r"^change: for bob@box\.test: insert \d+ octets at \d+ of the content: banner$", shown, re.M)
    assert re.search(r"^change: for x@else\.test: add at the top: X-Spam-Flag: YES$", shown, re.M)
    site.file.write_text(text.replace('name = "mx"', 'name = "mx"\nrefused_for_some = "report"') + BANNERS)
    assert "x@else.test: refused, by route box\n    the client is told: 550 " in site.attempt(
        "bob@box.test", "x@else.test", code=1
    )


DOMAINS = """[domains."else.test"]
route = "box"

[domains."box.test"]"""


def test_json_and_standard_input(site: Site) -> None:
    arguments = ("try", "--ip", "127.0.0.1", "--from", "<>", "--to", "bob@box.test", "-", "--json")
    found = json.loads(site.run(*arguments, given=MAIL).stdout)
    assert found["all_taken"] is True
    assert found["recipients"] == [
        {"address": "bob@box.test", "outcome": "taken", "route": "box"}
        | {"targets": [], "reply": "", "reason": "", "then": None}
    ]
    assert {step["filter"] for step in found["steps"]} == {"access", "recipients", "headers"}


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_line_ends_become_those_of_the_wire(site: Site, line_end: bytes) -> None:
    site.mail.write_bytes(MAIL.replace(b"\n", line_end))
    assert "51 B" in site.attempt("bob@box.test")


@pytest.mark.parametrize(
    ("mail", "reply"),
    [
        (b"Subject: x\r\n\r\nbare\nline\r\n", "550 5.5.2 Lines must end with CR LF"),
        (b"Subject: x\r\n\r\nbare\rreturn\r\n", "550 5.5.2 Lines must end with CR LF"),
        (b"Subject: x\n\nbare\rreturn\n", "550 5.5.2 Lines must end with CR LF"),
        (b"Subject: x\r\n\r\nlast\r", "550 5.5.2 Lines must end with CR LF"),
        (b"Subject: x\r\n\r\nn\0l\r\n", "550 5.6.0 NUL octets"),
        (b"Subject: x\n\n" + b"." * 999 + b"\n", "550 5.6.0 A line is longer than 998"),
    ],
)
def test_content_that_a_session_refuses(site: Site, mail: bytes, reply: str) -> None:
    site.mail.write_bytes(mail)
    text = site.attempt("nobody@box.test", "bob@box.test", code=1)
    assert "rcpt     recipients  continue" in text
    assert "message " not in text
    assert f"bob@box.test: refused, by route box\n    the client is told: {reply}" in text
    # Refused before there was any content.
    assert "nobody@box.test: refused\n    the client is told: 550 5.1.1" in text


@pytest.mark.parametrize("text", [b"", b".", b".\r\n.\r\n..", b"." * 998 + b"\r\n", b"x\r\n.\r\ny"])
def test_content_that_a_session_takes(site: Site, text: bytes) -> None:
    site.mail.write_bytes(b"Subject: x\r\n\r\n" + text)
    assert "bob@box.test: taken" in site.attempt("bob@box.test")


def test_fates_stand_in_the_order_of_the_recipients(site: Site) -> None:
    everybody = ("bob@box.test", "nobody@box.test", "x@elsewhere.test", "bob@box.test")
    lines = site.attempt(*everybody, code=1).splitlines()
    assert [line.split(": ")[0] for line in lines if "taken" in line or ": refused" in line] == list(everybody)


def test_a_mail_that_is_too_large(site: Site) -> None:
    site.mail.write_bytes(MAIL + b"x\n" * 35_000)
    text = site.attempt("bob@box.test", code=1)
    assert "bob@box.test: refused\n    the client is told: 552 5.3.4 " in text
    assert "because: max_message_size of the listener is 65536" in text


@pytest.mark.parametrize(
    "arguments",
    [
        ("--ip", "here", "--from", "a@b.test", "--to", "b@c.test"),
        ("--ip", "192.0.2.1", "--from", "a b", "--to", "b@c.test"),
        ("--ip", "192.0.2.1", "--from", "a@b.test", "--to", ""),
        ("--ip", "192.0.2.1", "--from", "a@b.test"),
        ("--ip", "192.0.2.1", "--from", "a@b.test", "--to", "b@c.test", "--listener", "none"),
    ],
)
def test_usage(site: Site, arguments: tuple[str, ...]) -> None:
    assert "Error: " in site.run("try", *arguments, str(site.mail), code=2).stderr


def test_try_with_a_file_that_cannot_be_used(site: Site) -> None:
    arguments = ("try", "--ip", "127.0.0.1", "--from", "a@b.test", "--to", "bob@box.test", str(site.mail))
    assert "interrupted" in site.run(*arguments, code=1, react=never).stderr
    (site.file.parent / "rules").write_text("deny a nonsense\n")
    site.file.write_text(CONFIG + 'files = ["rules"]\n')
    assert "filters.access" in site.run(*arguments, code=1).stderr
    site.file.write_text("[gateway]\n")
    assert site.run(*arguments, code=1).stderr.startswith(f"{site.file}:1: gateway.hostname: ")


# -- filters


def test_filters(site: Site) -> None:
    text = site.run("filters").stdout
    assert re.search(r"^recipients +refuses recipients that do not exist\n +stages: rcpt$", text, re.MULTILINE)
    assert "stages: message, modify\n" in text
    assert "(as its options ask)\n" in text
    found = {one["name"]: one for one in json.loads(site.run("filters", "--json").stdout)}
    assert found["recipients"]["stages"] == ["rcpt"]
    assert found["access"]["stages_by_options"] is True
    assert "options" not in found["access"]


def test_one_filter(site: Site) -> None:
    text = site.run("filters", "recipients").stdout
    assert text.startswith("stages: rcpt\n\n### recipients\n")
    assert "| `text` | text | " in text
    (found,) = json.loads(site.run("filters", "recipients", "--json").stdout)
    assert found["options"]["properties"]["text"]["type"] == "string"
    assert "no filter is called nothing" in site.run("filters", "nothing", code=1).stderr


def test_a_terminal_gets_the_options_in_lines_that_fit() -> None:
    text = for_terminal(reference(list(Registry().all())), 72)
    # What cannot be broken is whole: a default value has no spaces.
    assert [line for line in text.splitlines() if len(line) > 72 and " " in line.strip()] == []
    assert not re.search(r"(?m)^\|", text)
    assert "\n`tell_text`: true or false; default `true`\n    whether the reply" in text
    assert "*.example.org" in text


class _Options(Section):
    pass


@implementer(IHeloFilter, IMailFilter)
class _Judge:
    def on_helo(self, session: Session) -> None:
        raise NotImplementedError

    def on_mail(self, session: Session, transaction: Transaction) -> None:
        raise NotImplementedError


class _Factory:
    name = "x"
    summary = "y"
    options = _Options


@implementer(IFilterFactory)
class _Declared(_Factory):
    stages = ("rcpt",)

    def build(self, options: object, services: FilterServices) -> object:
        raise NotImplementedError


@implementer(IFilterFactory)
class _Typed(_Factory):
    def build(self, options: object, services: FilterServices) -> _Judge:
        raise NotImplementedError


@implementer(IFilterFactory)
class _Untyped(_Factory):
    def build(self, options, services):  # type: ignore[no-untyped-def]
        raise NotImplementedError


def test_stages_of_other_factories() -> None:
    assert stages_of(_Declared()) == Stages(["rcpt"])
    assert stages_of(_Typed()) == Stages(["helo", "mail"])
    # The classes of the module where it stands.
    assert stages_of(_Untyped()) == Stages(["helo", "mail"])


# -- the command itself


def test_help_and_version() -> None:
    text = CliRunner().invoke(main, ["--help"]).stdout
    for command in ("check", "filters", "queue", "try", "why"):
        assert f"\n  {command} " in text
        assert CliRunner().invoke(main, [command, "--help"]).exit_code == 0
    assert "version" in CliRunner().invoke(main, ["--version"]).stdout
    assert CliRunner().invoke(main, ["explode"]).exit_code == 2


def test_the_configuration_comes_from_the_environment(site: Site) -> None:
    result = CliRunner().invoke(main, ["check"], env={"MAILGATE_CONFIG": str(site.file)})
    assert result.stdout == f"{site.file}: ok\n"
