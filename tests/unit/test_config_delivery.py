"""What the file says of sources, pools, shaping and bounces: values, errors, warnings; and the file of rules."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from mailgate.config.categories import CATEGORIES
from mailgate.config.delivery import advise_on_delivery
from mailgate.config.load import ConfigError, Loaded, load
from mailgate.config.locate import locate
from mailgate.config.problems import Problems
from mailgate.config.replies import doubt
from mailgate.config.rules import read_rules
from mailgate.relay.replies.patterns import Pattern, Said
from mailgate.reply import Reply
from tests.unit.relaying import configuration
from tests.unit.test_config import GOOD, find

AT = GOOD.count("\n")
POOL = GOOD.replace('transport = "smtp"', 'transport = "smtp"\npool = "out"')
SOURCE = '[sources.out]\naddress = "127.0.0.1"\n'
KNOWN = ", ".join(CATEGORIES)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def loaded(text: str) -> Loaded:
    Path("mailgate.toml").write_text(text)
    return load(Path("mailgate.toml"), find)


def errors(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loaded(text)
    return [line.removeprefix("mailgate.toml:") for line in caught.value.errors]


def warnings(text: str) -> list[str]:
    return [line.removeprefix("mailgate.toml:") for line in loaded(text).warnings]


@pytest.mark.usefixtures("folder")
def test_a_file_with_everything() -> None:
    config = loaded(
        POOL
        + """[sources.a]
address = "127.0.0.1"
hostname = "Out1.example.org"
[sources.b]
address6 = "::1"
warm_up = { start = 2026-12-01 }
[pools.out]
sources = { a = 2, b = 1 }
[shaping.partner]
domains = ["Partner.example", "*.partner.example"]
message_rate = "90/m"
retry = { expire = "1d" }
slow_down = [{ replies = ["  Come  BACK", "4.7.x"], action = "rest" }]
[bounces]
double_to = "postmaster@Example.org"
"""
    ).config
    assert config.sources["a"].hostname == "out1.example.org"
    plan = config.sources["b"].warm_up
    assert plan is not None
    assert (plan.start, plan.first, plan.factor, plan.days) == (date(2026, 12, 1), 50, 1.5, 30)
    section = config.shaping["partner"]
    assert section.domains == ["partner.example", "*.partner.example"]
    assert section.message_rate == 1.5
    assert section.slow_down[0].replies == ["come back", "4.7.x"]
    assert config.bounces.double_to == "postmaster@example.org"


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            POOL + '[sources.outer]\naddress = "127.0.0.1"\n',
            ['16: routes.inside.pool: there is no pool or source "out", did you mean outer? (valid values are: outer)'],
        ),
        (
            POOL + SOURCE + "[pools.other]\nsources = { out = 1, outt = 1 }\n",
            [
                f'{AT + 5}: pools.other.sources.outt: there is no source "outt", did you mean out?'
                " (valid values are: out)"
            ],
        ),
        (
            POOL + SOURCE + "[pools.out]\nsources = { out = 0 }\n",
            [
                f"{AT + 4}: pools.out: a source has this name too: a route could mean either",
                f"{AT + 5}: pools.out.sources: all weights are 0: no message would go out",
            ],
        ),
        (POOL + "[sources.out]\n", [f"{AT + 2}: sources.out: says nothing: it needs address, address6 or hostname"]),
        (
            POOL + SOURCE + "[pools.other]\nsources = {}\n",
            [f"{AT + 5}: pools.other.sources: must not be empty"],
        ),
        (
            POOL + SOURCE + "warm_up = { start = 2026-12-01, factor = 1.0 }\n",
            [f"{AT + 4}: sources.out.warm_up.factor: must be more than 1.0"],
        ),
        (
            POOL + '[sources.out]\naddress = "::1"\n',
            [f"{AT + 3}: sources.out.address: ::1 is an IPv6 address: write address6 = ..."],
        ),
        (
            POOL + '[sources.out]\naddress6 = "192.0.2.1"\n',
            [f"{AT + 3}: sources.out.address6: 192.0.2.1 is an IPv4 address: write address = ..."],
        ),
        (
            POOL + '[sources.out]\naddress = "192.0.2.300"\naddress6 = 6\n',
            [
                f"{AT + 3}: sources.out.address: must be an IPv4 address, in quotes",
                f"{AT + 4}: sources.out.address6: must be an IPv6 address, in quotes",
            ],
        ),
        *(
            (
                POOL + SOURCE + f"warm_up = {{ start = {start} }}\n",
                [f"{AT + 4}: sources.out.warm_up.start: must be a date like 2026-12-01"],
            )
            for start in ('"tomorrow"', "2026", "2026-12-01T10:00:00Z", "true", "10:00:00")
        ),
        (
            POOL.replace('"out"', '"oot"') + SOURCE + "[pools.out]\nsources = { out = 1 }\n",
            [
                '16: routes.inside.pool: there is no pool or source "oot", did you mean out? (valid values are: out)',
                f"{AT + 4}: pools.out: a source has this name too: a route could mean either",
            ],
        ),
        (
            GOOD + '[shaping.it]\nroutes = ["inside", "outside"]\nsources = ["a"]\n',
            [
                f'{AT + 2}: shaping.it.routes[2]: there is no route "outside", did you mean inside? (valid values are:'
                " inside)",
                f'{AT + 3}: shaping.it.sources[1]: there is no source "a"',
            ],
        ),
        (
            GOOD + '[shaping.it]\nmessage_rate = "10"\nconnection_rate = "0/s"\nconnections = 0\n',
            [
                f"{AT + 2}: shaping.it.message_rate: a rate is written like 10/s, 100/m, 5000/h or 20000/d, in quotes",
                f"{AT + 3}: shaping.it.connection_rate: a rate is written like 10/s, 100/m, 5000/h or 20000/d, in"
                " quotes",
                f"{AT + 4}: shaping.it.connections: must be at least 1",
            ],
        ),
        (
            GOOD + '[[shaping.it.slow_down]]\naction = "rest"\n[[shaping.it.slow_down]]\nreplies = [" * ", "4xx"]\n',
            [
                f"{AT + 1}: shaping.it.slow_down[1].replies: is missing",
                f"{AT + 4}: shaping.it.slow_down[2].replies[1]: is empty: every answer would be meant",
            ],
        ),
        (
            GOOD + '[bounces]\ndouble_to = "@example.org"\n',
            [f'{AT + 2}: bounces.double_to: "@example.org" is a domain; an address has something before its @'],
        ),
    ],
)
def test_mistakes(text: str, expected: list[str]) -> None:
    assert errors(text) == expected


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (POOL + SOURCE, []),
        (GOOD + SOURCE, [f"{AT + 1}: sources.out: no pool and no route names this source"]),
        (
            GOOD + SOURCE + "[pools.all]\nsources = { out = 1 }\n",
            [f"{AT + 3}: pools.all: no route names this pool"],
        ),
        (
            POOL + '[sources.out]\naddress = "192.0.2.1"\n',
            [
                f"{AT + 3}: sources.out.address: 192.0.2.1 is not an address of this machine: nothing can go out"
                " from it",
            ],
        ),
        (GOOD + "[shaping.it]\n", [f"{AT + 1}: shaping.it: gives nothing"]),
        (
            GOOD + '[shaping.it]\ndomains = ["a.example"]\nroutes = ["inside"]\nconnections = 1\n',
            [f"{AT + 2}: shaping.it.domains: has no effect on inside, whose hosts are the same for every domain"],
        ),
        (
            GOOD + '[[shaping.it.slow_down]]\nreplies = ["421"]\nrest = "1m"\n',
            [f'{AT + 3}: shaping.it.slow_down[1].rest: has no effect without action = "rest"'],
        ),
        (
            GOOD.replace(
                'transport = "smtp"\nhosts = ["10.0.0.5:25"]', 'transport = "maildir"\npath = "m/{local_part}"'
            )
            + '[shaping.it]\nroutes = ["inside"]\nconnections = 1\n',
            [f"{AT + 2}: shaping.it.routes[1]: has no effect: inside goes to no server"],
        ),
        (
            POOL + '[sources.out]\naddress = "0.0.0.0"\naddress6 = "ff02::1"\n',
            [
                f"{AT + 3}: sources.out.address: 0.0.0.0 is no address: without it the system chooses one",
                f"{AT + 4}: sources.out.address6: ff02::1 is a multicast address: nothing can go out from it",
            ],
        ),
        (
            POOL.replace('pool = "out"', 'pool = "out"\nipv6 = false') + '[sources.out]\naddress6 = "::1"\n',
            ["16: routes.inside.pool: source out has an IPv6 address only, and the route has ipv6 = false"],
        ),
        (
            POOL.replace('"smtp"', '"lmtp"').replace('["10.0.0.5:25"]', '["unix:/run/in", ["10.0.0.5:25"]]') + SOURCE,
            ["16: routes.inside.pool: has no effect on unix:/run/in, which is reached without an address"],
        ),
        (
            POOL.replace("[gateway]", "[gateway]\nworkers = 3")
            + SOURCE
            + f"warm_up = {{ start = {date.max}, first = 2 }}\n",
            [
                f"{AT + 5}: sources.out.warm_up.start: nothing goes out from this source before {date.max}",
                f"{AT + 5}: sources.out.warm_up.first: is less than gateway.workers (3): on that day some of them send"
                " nothing",
            ],
        ),
        (
            GOOD + '[shaping.it.retry]\nfirst = "3d"\nlongest = "2d"\nexpire = "1d"\n',
            [
                f"{AT + 2}: shaping.it.retry.first: is not less than expire (1d): never tried a second time",
                f"{AT + 3}: shaping.it.retry.longest: has no effect: it is more than expire (1d)",
            ],
        ),
        (
            GOOD + '[routes.inside.retry]\nfirst = "5h"\nexpire = "3h"\nlongest = "3h"\n',
            [
                f"{AT + 2}: routes.inside.retry.first: is not less than expire (3h): never tried a second time",
                f"{AT + 3}: routes.inside.retry.expire: is less than 1d (RFC 5321 section 4.5.4.1 asks for days)",
            ],
        ),
        (
            GOOD + '[shaping.it.retry]\nfirst = "5h"\n',
            [f"{AT + 2}: shaping.it.retry.first: is more than longest (4h), which every wait is then"],
        ),
        (
            GOOD + '[[shaping.it.slow_down]]\nreplies = ["421", "250", "come back"]\n',
            [f'{AT + 2}: shaping.it.slow_down[1].replies[2]: "250" fits no refusal: those begin with 4 or 5'],
        ),
    ],
)
def test_what_is_warned_about(text: str, expected: list[str]) -> None:
    assert warnings(text) == expected


@pytest.mark.parametrize(
    "pattern",
    [
        "421",
        "45x",
        "4.7.x",
        "x.7.1",
        "4xx 4.7.1",
        "5xx *try*",
        "451 4.x.x come back",
        "x y",
        "100 recipients",
        "spf",
        "ip",
    ],
)
def test_replies_that_can_be_meant(pattern: str) -> None:
    assert doubt(pattern) == ""


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("250", "fits no refusal"),
        ("2xx ok", "fits no refusal"),
        ("550 2.1.0", "fits no refusal"),
        ("4xx", "fits every refusal"),
        ("5xx *", "fits every refusal"),
        ("x.x.x", "fits every refusal"),
        ("4xx 4.x.x", "fits every refusal"),
        ("999", "is looked for as a word"),
        ("354", "is looked for as a word"),
        ("x", "is looked for as a word"),
        ("4.7", "is looked for as a word"),
        ("4z1", "is looked for as a word"),
    ],
)
def test_replies_that_fit_nothing_or_everything(pattern: str, expected: str) -> None:
    said = Said.by(Reply.of(451, "4.7.1", "try again later"))
    assert expected in doubt(pattern)
    assert Pattern(pattern).is_in(said) == (expected == "fits every refusal" and not pattern.startswith("5"))


GENERAL, SPECIAL = ("[shaping.all]", '[shaping.one]\ndomains = ["a.example"]')


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("first", "then", "overridden"),
    [
        (SPECIAL, GENERAL, True),
        (GENERAL, SPECIAL, False),
        (SPECIAL, '[shaping.all]\ndomains = ["a.example", "b.example"]', True),
        (SPECIAL, '[shaping.all]\ndomains = ["b.example"]', False),
        (SPECIAL, '[shaping.all]\nmx = ["a.example"]', False),
        (SPECIAL, GENERAL + '\nroutes = ["inside"]', False),
        (SPECIAL + '\nroutes = ["inside"]', GENERAL + '\nroutes = ["inside"]', True),
        (SPECIAL, GENERAL + '\nsources = ["out"]', False),
    ],
)
def test_sections_that_what_comes_after_them_makes_useless(first: str, then: str, overridden: bool) -> None:
    more = '\nconnections = 2\nslow_down = [{ replies = ["come back"] }]\n'
    text = POOL.replace('hosts = ["10.0.0.5:25"]', "") + SOURCE + first + more + then + more + 'message_rate = "1/s"\n'
    found = [line.partition(": ")[2] for line in warnings(text) if " shaping." in line]
    name = "one" if first.startswith(SPECIAL) else "all"
    expected = f"shaping.{name}.connections: has no effect: all below is for all of this too; put what is general first"
    assert found == ([expected] if overridden else [])


@pytest.mark.parametrize(
    ("today", "expected"),
    [
        (date(2026, 11, 30), "sources.a.warm_up.start: nothing goes out from this source before 2026-12-01"),
        (date(2026, 12, 1), ""),
        (date(2026, 12, 10), ""),
        (date(2026, 12, 11), "sources.a.warm_up: is over since 2026-12-11, and can go"),
    ],
)
def test_plans_of_the_past_and_the_future(today: date, expected: str) -> None:
    plan: dict[str, Any] = {"start": date(2026, 12, 1), "days": 10}
    routes = {"out": {"transport": "smtp", "pool": "a"}}
    config = configuration(routes=routes, sources={"a": {"address": "127.0.0.1", "warm_up": plan}})
    problems = Problems("f", {}, locate(""))
    advise_on_delivery(config, problems, today)
    assert problems.warnings == ((f"f:1: {expected}",) if expected else ())


def test_a_plan_without_an_address() -> None:
    plan: dict[str, Any] = {"start": date(2026, 12, 1), "days": 10**9}
    routes = {"out": {"transport": "smtp", "pool": "a"}}
    config = configuration(routes=routes, sources={"a": {"hostname": "o.example.org", "warm_up": plan}})
    problems = Problems("f", {}, locate(""))
    advise_on_delivery(config, problems, date(2027, 1, 1))
    assert problems.warnings == ("f:1: sources.a.warm_up: there is no address to warm up: the system chooses one",)


# -- the file of rules

RULES = """[categories]
contract = "the customer has not paid"
[[rules]]
category = "contract"
replies = ["550 5.7.1 contract"]
[[rules]]
category = "greylisted"
replies = ["come back"]
"""


def test_rules_are_read(folder: Path) -> None:
    (folder / "replies.toml").write_text(RULES)
    found = loaded(GOOD + '[bounces]\nrules = "replies.toml"\n')
    assert found.rules is not None
    assert [rule.category for rule in found.rules.rules] == ["contract", "greylisted"]
    assert found.rules.categories == {"contract": "the customer has not paid"}
    assert loaded(GOOD).rules is None


def test_mistakes_in_rules_have_their_file_and_line_beside_all_others(folder: Path) -> None:
    (folder / "replies.toml").write_text(RULES.replace('"greylisted"', '"greylist"').replace('["come back"]', '"x"'))
    text = GOOD.replace('"mx1.example.org"', '"mx1"') + '[bounces]\nrules = "replies.toml"\n'
    assert errors(text) == [
        '2: gateway.hostname: "mx1" is no full host name like mx1.example.org',
        f"{folder}/replies.toml:8: rules[2].replies: must be a list, in brackets",
    ]
    (folder / "replies.toml").write_text(RULES.replace('"greylisted"', '"greylist"'))
    shown = ", ".join([*CATEGORIES, "contract"][:40])
    assert errors(GOOD + '[bounces]\nrules = "replies.toml"\n') == [
        f'{folder}/replies.toml:7: rules[2].category: there is no category "greylist", did you mean greylisted? '
        f"(valid values are: {shown})"
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", [":1: rules: there is no rule: the file says nothing"]),
        (
            '[categories]\nother = "mine"\n' + RULES.removeprefix("[categories]\n").replace("come back", "250"),
            [
                f":2: categories.other: is a built-in category ({CATEGORIES['other']}), and needs no entry",
                ':9: rules[2].replies[1]: "250" fits no refusal: those begin with 4 or 5',
            ],
        ),
    ],
)
def test_rules_that_are_doubtful(folder: Path, content: str, expected: list[str]) -> None:
    file = folder / "replies.toml"
    file.write_text(content)
    assert warnings(GOOD + '[bounces]\nrules = "replies.toml"\n') == [f"{file}{line}" for line in expected]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"[[rules]\n", ":1: syntax: "),
        (b"\xff", ":1: the file is not UTF-8"),
        (b"rule = []\n", ":1: rule: unknown key, did you mean rules?"),
        (b'[[rules]]\ncategory = "policy"\nreplies = []\n', ":3: rules[1].replies: must not be empty"),
        (b'[[rules]]\ncategory = "policy"\nreplies = ["*"]\n', ":3: rules[1].replies[1]: is empty"),
        (b'[[rules]]\nreplies = ["x"]\n', ":1: rules[1].category: is missing"),
    ],
)
def test_files_that_are_no_rules(folder: Path, content: bytes, expected: str) -> None:
    file = folder / "replies.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_rules(file)
    (line,) = caught.value.errors
    assert line.startswith(f"{file}{expected}")


def test_rules_that_are_not_there(folder: Path) -> None:
    assert errors(GOOD + '[bounces]\nrules = "gone.toml"\n') == [
        f"{AT + 2}: bounces.rules: {folder}/gone.toml cannot be read: No such file or directory"
    ]
    assert errors(GOOD + '[bounces]\nrules = "."\n') == [
        f"{AT + 2}: bounces.rules: {folder} cannot be read: Is a directory"
    ]
    assert errors(GOOD + "[bounces]\nrules = 1\n") == [f"{AT + 2}: bounces.rules: must be text, in quotes"]
