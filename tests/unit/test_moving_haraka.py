"""A whole Haraka as a draft: what stands for what, and what is told about the rest."""

from __future__ import annotations

import os
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from mailgate.auth.file import parse_users
from mailgate.cli.check import findings
from mailgate.cli.importing import _write
from mailgate.moving.files import ReadingError
from mailgate.moving.haraka.whole import read_haraka
from mailgate.moving.write import toml
from tests.unit.certificates import issue

SAMPLE = Path(__file__).parent.parent / "samples" / "haraka"


class Imported:
    """What was made of a folder, as the checked file has it."""

    def __init__(self, folder: Path, output: Path) -> None:
        self.draft = read_haraka(folder)
        self.text = toml(self.draft, "test")
        self.output = output
        _write(output, self.text, self.draft)
        self.document: dict[str, Any] = tomllib.loads(self.text)
        self.errors, self.warnings = findings(output / "mailgate.toml")

    def lines(self, name: str) -> list[str]:
        return (self.output / name).read_text().splitlines()

    def left(self, weight: str) -> str:
        found = (one for one in self.draft.leftovers if one.weight == weight)
        return "\n".join(f"{one.setting}: {one.why}. {one.advice}" for one in found)


Make = Callable[..., Imported]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def made(plugins: str = "rcpt_to.in_host_list\nqueue/smtp_forward\n", **files: str) -> Imported:
        folder = tmp_path / "haraka" / "config"
        folder.mkdir(parents=True)
        base = {"plugins": plugins, "me": "mx.example.org\n", "host_list": "example.org\n"}
        for name, text in (base | files).items():
            (folder / name).write_text(text)
        return Imported(tmp_path / "haraka", tmp_path / "out")

    return made


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Imported:
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(SAMPLE, folder / "haraka")
    config = folder / "haraka" / "config"
    issued = issue(None, "mx.example.org")
    (config / "tls_cert.pem").write_bytes(issued.pem)
    (config / "tls_key.pem").write_bytes(issued.key_pem)
    key = generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (config / "dkim" / "example.org" / "private").write_bytes(key)
    return Imported(folder / "haraka", folder / "out")


def test_a_site_can_be_used_at_once(site: Imported) -> None:
    assert site.errors == ()


def test_listeners(site: Imported) -> None:
    mx, submission = site.document["listeners"]
    assert (mx["name"], mx["role"], mx["endpoints"]) == ("mx", "hybrid", ["tcp6:25"])
    assert (submission["role"], submission["endpoints"], submission["tls"]) == ("outbound", ["tcp:587"], "optional")
    # Networks that are none are not made larger by guessing.
    assert mx["trusted_networks"] == ["10.1.0.0/16", "127.0.0.1/32"]
    assert "10.9.9.9/8" in site.left("decide")
    assert mx["max_connections_per_client"] == 10
    assert mx["max_message_size"] == "25MiB"


def test_users_with_passwords_in_clear_text_get_hashed_ones(site: Imported) -> None:
    lines = site.lines("users")
    users = parse_users(enumerate((line for line in lines if not line.startswith("#")), 1))
    ann = users.find("ann")
    assert ann is not None
    assert ann.secret.plain is None
    assert not any("one two" in line for line in lines)
    assert (site.output / "users").stat().st_mode & 0o777 == 0o600


def test_domains_and_routes(site: Imported) -> None:
    assert {name: one["route"] for name, one in site.document["domains"].items()} == {
        "example.org": "inside",
        "branch.example": "to-branch.example",
        "*.lab.example": "inside",
    }
    route = site.document["routes"]["to-branch.example"]
    assert (route["hosts"], route["auth"]["username"], route["tls"]) == (["10.1.0.6:2525"], "gateway", "required")
    assert site.lines(route["auth"]["password_file"]) == ["s3cret ;)"]
    assert site.document["routing"]["default"] == "internet"
    assert site.document["routes"]["internet"]["retry"] == {"first": "1m", "longest": "1h", "expire": "2d11m"}
    assert site.lines("aliases") == ["info@example.org ann@example.org, bob@example.org"]


def test_filters(site: Imported) -> None:
    filters = site.document["filters"]
    assert site.document["pipelines"]["outbound"]["filters"][-1] == "dkim-sign"
    # Among the rules is one that allows a recipient, which must exist all the same.
    assert site.document["pipelines"]["inbound"]["filters"][0] == "recipients"
    assert filters["early-talker"]["wait"] == "3s"
    assert filters["spf"]["fail"] == "reject"
    assert filters["clamav"]["servers"] == ["unix:/run/clamav/clamd.ctl", "10.1.0.9:3310"]
    assert filters["dnsbl"]["zones"][1] == {"zone": "list.dnswl.org", "allow": True}
    assert filters["rate-limit"]["rules"][0] == {
        "count": "connections", "per": "client", "limit": 20, "window": "1m",
    }  # fmt: skip
    key = filters["dkim-sign"]["domains"]["example.org"]["keys"][0]
    assert key["selector"] == "s2026"
    assert (site.output / key["path"]).is_symlink()
    assert "deny client 203.0.113.9" in site.lines("access-name")
    assert "deny sender *.spam.example" in site.lines("access-domains")


@pytest.mark.parametrize("plugin", ["our-own-plugin", "karma", "attachment"])
def test_a_plugin_without_an_equivalent_is_told(site: Imported, plugin: str) -> None:
    assert f"plugin {plugin}" in site.left("missing")


@pytest.mark.parametrize("part", ["drop@example.org", "host_list_regex: ^mail[0-9]+", "attachment.ini"])
def test_what_cannot_be_taken_over_is_told(site: Imported, part: str) -> None:
    assert part in site.left("missing") + site.left("decide")


def test_a_list_of_domains_that_no_plugin_reads_does_not_count(make: Make) -> None:
    imported = make("queue/smtp_forward\n")
    assert "domains" not in imported.document
    assert "no plugin that is switched on reads it" in imported.left("differs")


def test_relay_for_all_is_not_made(make: Make) -> None:
    imported = make(
        "rcpt_to.in_host_list\nrelay\nqueue/smtp_forward\n", **{"relay.ini": "[relay]\nall=true\nacl=false\n"}
    )
    assert [one["role"] for one in imported.document["listeners"]] == ["inbound"]
    assert "everybody may relay" in imported.left("differs")


def test_all_mail_is_forwarded_unless_that_is_switched_off(make: Make) -> None:
    imported = make(relay_acl_allow="10.0.0.0/8\n")
    assert imported.document["routing"]["default"] == "inside"
    assert imported.errors == ()


def test_a_proxy_queue_is_inline_delivery(make: Make) -> None:
    imported = make("queue/smtp_proxy\n", **{"smtp_proxy.ini": "host=10.0.0.1\nport=25\n"})
    assert imported.document["routes"]["inside"]["queue"] is False
    assert imported.errors == ()


@pytest.mark.parametrize(("outbound", "default"), [("", "inside"), ("enable_outbound=false\n", "internet")])
def test_a_proxy_takes_mail_to_the_outside_unless_that_is_switched_off(make: Make, outbound: str, default: str) -> None:
    imported = make("queue/smtp_proxy\n", **{"smtp_proxy.ini": f"host=10.0.0.1\n{outbound}"})
    assert imported.document["routing"]["default"] == default


def test_queues_that_pass_on_what_nobody_has_marked_are_no_next_hop(make: Make) -> None:
    imported = make("queue/quarantine\nqueue/discard\nqueue/smtp_forward\n", **{"smtp_forward.ini": "host=10.0.0.1\n"})
    assert imported.document["routes"]["inside"]["hosts"] == ["10.0.0.1:25"]
    assert imported.errors == ()


def test_mail_is_kept_where_only_marked_mail_was_dropped(make: Make) -> None:
    imported = make("rcpt_to.in_host_list\nqueue/discard\n")
    assert imported.document["routes"]["inside"]["transport"] == "maildir"
    assert "DECIDE" in imported.text


def test_a_second_queue_is_told(make: Make) -> None:
    imported = make("rcpt_to.in_host_list\nqueue/lmtp\nqueue/smtp_forward\n")
    assert "queue/lmtp comes first" in imported.left("decide")


def test_next_hops_are_forced_unless_that_is_switched_off(make: Make) -> None:
    files = {
        "smtp_forward.ini": "host=10.0.0.1\nenable_outbound=false\n",
        "relay_dest_domains.ini": '[domains]\nx.example = {"nexthop":"10.0.0.8"}\nany = {"nexthop":"10.0.0.9"}\n',
        "relay_acl_allow": "10.0.0.0/8\n",
    }
    imported = make("relay\nrcpt_to.in_host_list\nqueue/smtp_forward\n", **files)
    routes, routing = imported.document["routes"], imported.document["routing"]
    assert routes[routing["recipients"]["x.example"]]["hosts"] == ["10.0.0.8"]
    assert routes[routing["default"]]["hosts"] == ["10.0.0.9"]
    assert imported.errors == ()


def test_nobody_relays_for_half_of_the_internet(make: Make) -> None:
    imported = make(
        "relay\nrcpt_to.in_host_list\nqueue/smtp_forward\n", relay_acl_allow="0.0.0.0/0\n10.0.0.0/8\n::/1\n"
    )
    (listener,) = imported.document["listeners"]
    assert listener["trusted_networks"] == ["10.0.0.0/8"]
    assert imported.left("decide").count("would make an open relay") == 2


def test_links_to_keys_stay_in_their_folder(tmp_path: Path) -> None:
    folder = tmp_path / "haraka" / "config"
    folder.mkdir(parents=True)
    base = {"plugins": "dkim\nqueue/smtp_forward\n", "me": "mx.example.org\n", "dkim.private.key": "key\n"}
    sign = {"dkim.ini": "[sign]\nenabled=true\ndomain=../../../evil\nselector=../x\n"}
    for name, text in (base | sign).items():
        (folder / name).write_text(text)
    imported = Imported(tmp_path / "haraka", tmp_path / "out")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["haraka", "out"]
    assert [one.name for one in (tmp_path / "out" / "keys").iterdir()] == ["evil.x.pem"]
    assert imported.errors


def test_names_of_files_that_are_no_text(tmp_path: Path) -> None:
    folder = tmp_path / "haraka" / "config"
    key = os.fsencode(folder) + b"/dkim/b\xe4r.example"
    os.makedirs(key)
    for name in (b"private", b"selector"):
        Path(os.fsdecode(key + b"/" + name)).write_text("s1\n")
    (folder / "plugins").write_text("dkim\nqueue/smtp_forward\n")
    (folder / "dkim.ini").write_text("[sign]\nenabled=true\n")
    imported = Imported(tmp_path / "haraka", tmp_path / "out")
    assert "b?r.example" in imported.document["filters"]["dkim-sign"]["domains"]


def test_lmtp(make: Make) -> None:
    imported = make(
        "rcpt_to.in_host_list\nqueue/lmtp\n",
        **{"lmtp.ini": "[main]\npath=/run/lmtp\n[example.org]\nhost=10.0.0.2\nport=24\n"},
    )
    assert imported.document["domains"]["example.org"]["route"] == "to-example.org"
    assert imported.document["routes"]["to-example.org"]["hosts"] == ["10.0.0.2:24"]
    assert imported.errors == ()


def test_a_queue_that_is_not_known_keeps_mail(make: Make) -> None:
    imported = make("queue/qmail-queue\n")
    assert imported.document["routes"]["inside"]["transport"] == "maildir"
    assert "DECIDE" in imported.text
    assert imported.errors == ()


def test_recipient_plugins_are_a_callout(make: Make) -> None:
    imported = make("rcpt_to.in_host_list\nrcpt_to.ldap\nqueue/smtp_forward\n")
    assert imported.document["recipients"]["asked"] == {"kind": "callout", "route": "inside"}


def test_a_port_for_tls_without_a_certificate_is_not_opened(make: Make) -> None:
    imported = make("tls\nauth/flat_file\nqueue/smtp_forward\n", **{"smtp.ini": "listen=[::0]:465\n"})
    assert imported.document["listeners"][0]["endpoints"] == ["tcp:465:interface=127.0.0.1"]
    assert imported.errors == ()


@pytest.mark.parametrize(
    "value", ['"', "\\", "]]", "a b", "é", "\x1b[0m", "9" * 40, "-1", "x:y:z", "../../y", "{", "@"]
)
def test_whatever_the_files_hold_the_result_can_be_used(make: Make, value: str) -> None:
    plugins = "\n".join([
        "early_talker", "access", "dns-list", "fcrdns", "helo.checks", "tls", "auth/flat_file", "relay", "spf",
        "aliases", "clamd", "spamassassin", "rspamd", "headers", "limit", "dkim", "queue/smtp_forward", value,
    ])  # fmt: skip
    ini = f"{value}={value}\nhost={value}\nport={value}\n[{value}]\n{value}={value}\n"
    imported = make(
        plugins,
        me=value,
        databytes=value,
        host_list=f"{value}\n",
        host_list_regex=f"{value}\n",
        relay_acl_allow=f"{value}\n",
        aliases=value,
        **{
            "access.domains": f"{value}\n!{value}\n",
            "mail_from.access.blacklist": f"{value}\n",
            "smtp.ini": f"nodes={value}\ninactivity_timeout={value}\n",
            "smtp_forward.ini": f"{ini}[b.example]\n{ini}auth_type={value}\nauth_user={value}\nauth_pass={value}\n",
            "outbound.ini": f"temp_fail_intervals={value}\nconnect_timeout={value}\n",
            "dns-list.ini": f"zones={value}\n[{value}]\ntype={value}\n",
            "clamd.ini": f"clamd_socket={value}\ntimeout={value}\nmax_size={value}\n",
            "spamassassin.ini": f"spamd_socket={value}\nreject_threshold={value}\nspamd_user={value}\n",
            "rspamd.ini": f"host={value}\nport={value}\n[reject]\nmessage={value}\n",
            "limit.ini": f"[rate_conn]\nenabled=true\ndefault={value}\n[concurrency]\nmax={value}\n",
            "headers.ini": f"required={value}\n",
            "early_talker.ini": f"pause={value}\n",
            "auth_flat_file.ini": f"[users]\n{value}={value}\nann=\n",
            "tls.ini": f"key={value}\ncert={value}\n",
        },
    )
    assert imported.errors == ()
    assert all(one.isprintable() or one == "\n" for one in imported.text)


def test_a_folder_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(ReadingError, match=r"has neither plugins nor smtp\.ini"):
        read_haraka(tmp_path)
