"""Whatever is switched on or set in a Haraka is in the new file, or in the list of what is left; no secret is."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailgate.moving.draft import Draft
from mailgate.moving.haraka.filters import MISSING, PLUGINS
from mailgate.moving.haraka.rest import _COVERED
from mailgate.moving.haraka.whole import read_haraka
from mailgate.moving.write import leftovers, toml

#: Every ini file that some part reads.
FILES = [
    *("smtp", "outbound", "connection", "tls", "relay", "relay_dest_domains", "auth_flat_file", "smtp_forward"),
    *("smtp_proxy", "lmtp", "access", "dns-list", "dnsbl", "spf", "fcrdns", "connect.fcrdns", "helo.checks"),
    *("mail_from.is_resolvable", "early_talker", "greylist", "headers", "data.headers", "limit", "dkim", "dkim_sign"),
    *("dkim_verify", "clamd", "spamassassin", "rspamd"),
]


def make(folder: Path, plugins: str = "", **files: str) -> Draft:
    config = folder / "config"
    config.mkdir(exist_ok=True)
    for path in config.iterdir():
        path.unlink()
    base = {"plugins": plugins, "me": "mx.example.org\n", "host_list": "example.org\n"}
    for name, text in (base | files).items():
        (config / name).write_text(text)
    return read_haraka(folder)


def told(draft: Draft) -> str:
    return "\n".join(one.setting for one in draft.leftovers)


@pytest.mark.parametrize("plugin", sorted({*PLUGINS, *MISSING, *_COVERED, "our-own", "auth/our_own", "rcpt_to.ours"}))
def test_each_plugin_is_told(tmp_path: Path, plugin: str) -> None:
    draft = make(tmp_path, f"{plugin}\n")
    assert f"plugin {plugin}" in told(draft).split("\n")
    (found,) = [one for one in draft.leftovers if one.setting == f"plugin {plugin}"]
    has_none = plugin == "our-own" or (plugin in MISSING and not plugin.startswith("auth"))
    assert found.weight == ("missing" if has_none else "covered")


@pytest.mark.parametrize("name", FILES)
def test_each_line_of_a_file_that_is_read_is_told(tmp_path: Path, name: str) -> None:
    plugins = "\n".join([*PLUGINS, *(one for one in _COVERED if not one.startswith("queue")), "auth/flat_file"])
    queue = {"smtp_proxy": "queue/smtp_proxy", "lmtp": "queue/lmtp"}.get(name, "queue/smtp_forward")
    other = "odd_key=odd value\nodd_list[]=a\nodd_list[]=b\n[odd_section]\nodd_too=1\n"
    draft = make(tmp_path, f"{plugins}\n{queue}\n", **{f"{name}.ini": other})
    lines = told(draft)
    origin = f"{name}.ini"
    if f"{origin} odd_key" not in lines:  # an older name, beside which there is the newer one, or no reader
        assert f"\n{origin}" in f"\n{lines}"
        return
    assert f"{origin} odd_list[]" in lines
    assert f"{origin} [odd_section] odd_too" in lines
    weights = {one.weight for one in draft.leftovers if one.setting.endswith(("odd_key", "odd_list[]", "odd_too"))}
    assert weights == {"missing"}


def test_each_file_and_folder_is_told(tmp_path: Path) -> None:
    config = tmp_path / "config"
    make(tmp_path, "karma\n")
    for name in ("karma.ini", "smtp.json", "max_line_length", "other.ini", "loglevel", "host_list.yaml"):
        (config / name).write_text("x\n")
    (config / "ours").mkdir()
    found = {(one.setting, one.weight) for one in read_haraka(tmp_path).leftovers}
    assert found >= {
        ("karma.ini", "missing"),
        ("smtp.json", "missing"),
        ("max_line_length", "missing"),
        ("host_list.yaml", "missing"),
        ("other.ini", "covered"),
        ("loglevel", "covered"),
        ("ours/", "missing"),
    }


def test_no_secret_is_told(tmp_path: Path) -> None:
    secret = "hunter2-of-somebody"  # noqa: S105  for a test
    draft = make(
        tmp_path,
        "auth/flat_file\nqueue/smtp_forward\n",
        **{
            "auth_flat_file.ini": f"[core]\nsecret={secret}\n[users]\nann={secret}\n[{secret}x]\npassword={secret}\n",
            "smtp_forward.ini": f"auth_pass={secret}\nother_password={secret}\nauth_type=plain\nauth_user=gate\n",
        },
    )
    text = "\n".join([toml(draft, "test"), *leftovers(draft)])
    assert f"{secret}\n" not in text.replace(" ", "\n")
    assert draft.files["secrets/inside.password"].lines == (secret,)
