"""Whatever is set in a Postfix is in the new file, or in the list of what is left: nothing is forgotten in silence."""

from __future__ import annotations

import ast
import fnmatch
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailgate.moving.draft import Draft
from mailgate.moving.files import ReadingError
from mailgate.moving.postfix import unlike
from mailgate.moving.postfix.defaults import ALWAYS, CONDITIONAL, DEFAULTS, INSIDE, OTHERWISE
from mailgate.moving.postfix.reading import read_main
from mailgate.moving.postfix.whole import read_postfix
from mailgate.moving.write import leftovers, toml

BASIS = {
    "compatibility_level": "3.6",
    "myhostname": "mx.example.org",
    "mydestination": "example.org",
    "mynetworks": "127.0.0.0/8",
    "alias_maps": "",
    "relayhost": "[192.0.2.1]",
    "smtp_sasl_auth_enable": "no",
}
MASTER = (
    "smtp inet n - n - - smtpd\nsubmission inet n - n - - smtpd\nsmtp unix - - n - - smtp\nlocal unix - n n - - local\n"
)
#: Of these all that they say goes into lines that name what they were read from.
UNNAMED = {"recipient_delimiter", "myorigin"}


def odd(default: str) -> str:
    """A value that differs from this one, of the same kind."""
    if default in ("yes", "no"):
        return "no" if default == "yes" else "yes"
    if default.isdigit():
        return str(int(default) + 7)
    if default[:-1].isdigit() and default[-1] in "smhdw":
        return f"{int(default[:-1]) + 3}{default[-1]}"
    return "odd.example"


def names(draft: Draft, origin: str) -> bool:
    """Whether a draft names a setting with the line in which it stands."""
    texts = [text for one in draft.sections for text in (*one.origins.values(), *one.comments)]
    return any(origin in text for text in (*texts, *(one.setting for one in draft.leftovers)))


def is_told(folder: Path, name: str, value: str, where: str = "main") -> bool:
    """Whether an import tells of this setting: of main.cf, or of the service whose line begins so."""
    main = BASIS | ({name: value} if where == "main" else {})
    master = MASTER
    if where != "main":
        begin = master.index(where)
        end = master.index("\n", begin)
        master = f"{master[:end]} -o {{{name}={value}}}{master[end:]}"
    (folder / "main.cf").write_text("".join(f"{key} = {text}\n" for key, text in main.items()))
    (folder / "master.cf").write_text(master)
    try:
        draft = read_postfix(folder, lambda: ["root"])
    except ReadingError as error:
        return name in str(error) or value in str(error)
    if where == "main":
        return name in UNNAMED or names(draft, f"{name} (main.cf:{list(main).index(name) + 1})")
    number = MASTER[: MASTER.index(where)].count("\n") + 1
    return name in UNNAMED or names(draft, f"{name} (master.cf:{number})") or names(draft, f"-o {name}")


def asked() -> Iterator[str]:
    """The names of settings that stand in the modules of the import."""
    for path in Path(unlike.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and "_" in node.value:
                text = node.value.replace("*", "odd")
                if text.isidentifier() and text.islower() and not text.startswith("_"):
                    yield text


KNOWN = sorted({*asked(), *DEFAULTS, *CONDITIONAL, *ALWAYS, *OTHERWISE, "no_such_parameter"})


@pytest.mark.parametrize("where", ["main", "submission", "smtp unix"])
def test_each_setting_is_told(tmp_path: Path, where: str) -> None:
    assert len(KNOWN) > 300
    left = [name for name in KNOWN if not is_told(tmp_path, name, odd(DEFAULTS.get(name, "")), where)]
    assert left == []


def test_what_is_off_or_empty_is_told_too(tmp_path: Path) -> None:
    for value in ("", "no"):
        left = [name for name in KNOWN if name not in BASIS if not is_told(tmp_path, name, value)]
        # Without entries they make no filter, and nothing else.
        assert [name for name in left if value or not name.endswith(("_restrictions", "_policy_maps"))] == []


def test_what_is_told_of_a_setting_is_not_told_of_another(tmp_path: Path) -> None:
    assert is_told(tmp_path, "smtpd_banner", "x")
    assert not names(read_postfix(tmp_path, list), "smtpd_banner (main.cf:99)")


def test_no_setting_is_inside_and_without_an_equivalent() -> None:
    """Of a setting that matters it is not said that nothing has to be done."""
    both = [name for name in KNOWN if any(fnmatch.fnmatchcase(name, one) for one in INSIDE) and unlike.unlike(name)]
    assert [one for one in both if one not in ALWAYS] == []


SERVICES = [
    ("qmqpd inet n - n - - qmqpd", "missing", "listens on the network"),
    ("policy unix - n n - 0 spawn user=nobody argv=/bin/policy", "covered", "the policy protocol"),
    ("8025 inet n n n - 0 spawn user=nobody argv=/bin/x", "missing", "spawn listens on the network"),
    ("mailman unix - n n - - pipe flags=R user=list argv=/bin/mm", "covered", "hands mail to a program"),
    ("inside unix n - n - - smtpd", "missing", "by a socket of kind unix"),
    ("smtpd pass - - n - - smtpd -o smtpd_banner=x", "missing", "take clients over from postscreen"),
    ("odd unix - - n - - strange", "missing", "strange is no program of Postfix"),
    ("pickup unix n - n 60 1 pickup", "missing", "the sendmail command"),
    ("rewrite unix - - n - - trivial-rewrite", "covered", "inside of Postfix"),
    ("slow unix - - n - - smtp", "covered", "where something leads to it"),
    ("99999 inet n - n - - smtpd", "decide", "is no port"),
    ("noport inet n - n - - smtpd", "decide", "is no port that we know"),
]


@pytest.mark.parametrize(("line", "weight", "text"), SERVICES, ids=[one[0].split()[0] for one in SERVICES])
def test_each_service_is_told(tmp_path: Path, line: str, weight: str, text: str) -> None:
    (tmp_path / "main.cf").write_text("".join(f"{key} = {value}\n" for key, value in BASIS.items()))
    (tmp_path / "master.cf").write_text(f"{MASTER}{line}\n")
    draft = read_postfix(tmp_path, list)
    number = MASTER.count("\n") + 1
    found = [one for one in draft.leftovers if one.setting.startswith(f"master.cf:{number}: {line.split()[0]}")]
    assert [one.weight for one in found[:1]] == [weight]
    assert text in found[0].why


def test_what_only_a_service_that_is_a_route_has_is_told_of_the_route(tmp_path: Path) -> None:
    (tmp_path / "main.cf").write_text("".join(f"{key} = {value}\n" for key, value in BASIS.items()))
    (tmp_path / "master.cf").write_text(
        MASTER.replace("smtp unix - - n - - smtp", "smtp unix - - n - - smtp -o smtp_helo_timeout=5s")
    )
    (told,) = [one for one in read_postfix(tmp_path, list).leftovers if "smtp_helo_timeout" in one.setting]
    assert (told.weight, told.advice) == ("missing", "It was: 5s")


def test_the_names_of_postfix_are_read_as_they_stand() -> None:
    assert read_main("2bounce_notice_recipient = x\nscalemail-backend_time_limit = 1\n").keys() == {
        "2bounce_notice_recipient",
        "scalemail-backend_time_limit",
    }


def test_no_secret_is_told(tmp_path: Path) -> None:
    secret = "hunter2-of-somebody"  # noqa: S105  for a test
    settings = {"our_password": secret, "smtp_sasl_password_maps": f"inline:{{ {{ [a.test] = ann:{secret} }} }}"}
    (tmp_path / "main.cf").write_text("".join(f"{key} = {value}\n" for key, value in (BASIS | settings).items()))
    (tmp_path / "master.cf").write_text(MASTER)
    draft = read_postfix(tmp_path, list)
    assert {"our_password (main.cf:8)", "smtp_sasl_password_maps (main.cf:9)"} <= {
        one.setting for one in draft.leftovers
    }
    assert secret not in "\n".join([toml(draft, "test"), *leftovers(draft)])
