"""A whole Postfix as a draft: what stands for what, and what is told about the rest."""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mailgate.cli.check import findings
from mailgate.cli.importing import _write
from mailgate.moving.draft import Draft
from mailgate.moving.files import ReadingError
from mailgate.moving.postfix.whole import read_postfix
from mailgate.moving.write import toml
from tests.unit.certificates import issue

SAMPLES = Path(__file__).parent.parent / "samples"
BASIS = "compatibility_level = 3.6\nmyhostname = mx.example.org\nmydestination =\nmynetworks = 127.0.0.0/8\n"
MASTER = "smtp inet n - n - - smtpd\n"


class Imported:
    """What was made of a folder, as the checked file has it."""

    def __init__(self, folder: Path, output: Path) -> None:
        self.draft: Draft = read_postfix(folder, lambda: ["root", "ann"])
        self.text = toml(self.draft, "test")
        self.output = output
        _write(output, self.text, self.draft)
        self.document: dict[str, Any] = tomllib.loads(self.text)
        self.errors, self.warnings = findings(output / "mailgate.toml")

    def lines(self, name: str) -> Sequence[str]:
        return (self.output / name).read_text().splitlines()

    def left(self, weight: str) -> str:
        found = (one for one in self.draft.leftovers if one.weight == weight)
        return "\n".join(f"{one.setting}: {one.why}. {one.advice}" for one in found)

    def listener(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = next(one for one in self.document["listeners"] if one["name"] == name)
        return found


def imported_in(folder: Path, main: str = "", master: str = MASTER, **files: str) -> Imported:
    """A small Postfix with these lines and files, and what is made of it, both below a folder."""
    site = folder / "postfix"
    site.mkdir()
    (site / "main.cf").write_text(BASIS + main)
    (site / "master.cf").write_text(master)
    for name, text in files.items():
        (site / name).write_text(text)
    return Imported(site, folder / "out")


@pytest.fixture
def make(tmp_path: Path) -> Any:
    return partial(imported_in, tmp_path)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Imported:
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(SAMPLES / "postfix", folder / "postfix")
    issued = issue(None, "mx1.example.org")
    (folder / "postfix" / "cert.pem").write_bytes(issued.pem)
    (folder / "postfix" / "key.pem").write_bytes(issued.key_pem)
    return Imported(folder / "postfix", folder / "out")


def test_a_full_site_can_be_used_at_once(site: Imported) -> None:
    assert site.errors == ()
    assert "DECIDE" not in site.text.partition("# Without an equivalent")[0]


def test_debian_as_it_is_installed_can_be_used_at_once(tmp_path: Path) -> None:
    imported = Imported(SAMPLES / "postfix-debian", tmp_path / "out")
    assert imported.errors == ()
    assert "ann@debian.example.org" in imported.lines("recipients-local")
    assert "webmaster@debian.example.org postmaster@debian.example.org" in imported.lines("aliases-local-aliases")
    assert "a program, a file or a list" in imported.left("missing")
    assert "DECIDE" in imported.text


def test_each_line_says_where_it_comes_from(site: Imported) -> None:
    assert 'hostname = "mx1.example.org"  # myhostname (main.cf:3)' in site.text
    assert 'route = "to-example.org"  # transport:1' in site.text


def test_listeners(site: Imported) -> None:
    mx, submission, smtps = (site.listener(one) for one in ("mx", "submission", "smtps"))
    assert mx["role"] == "hybrid"
    assert mx["endpoints"] == ["tcp:25"]
    assert mx["trusted_networks"] == ["127.0.0.0/8", "10.1.0.0/16", "192.0.2.16/28"]
    assert mx["tls"] == "optional"
    assert mx["max_message_size"] == "30MiB"
    assert (submission["role"], submission["tls"], submission["auth"]) == ("outbound", "required", "users")
    assert "trusted_networks" not in submission
    assert (smtps["role"], smtps["tls"]) == ("outbound", "implicit")
    assert "auth_without_tls" not in submission
    assert site.document["auth"]["users"]["socket"] == "unix:/var/spool/postfix/private/auth"
    assert (site.output / "tls" / "certificate.crt").is_symlink()


def test_filters_are_asked_of_those_that_postfix_asks(site: Imported) -> None:
    strangers = site.document["pipelines"]["mx"]["filters"]
    assert strangers[:4] == ["closed", "postscreen-access", "early-talker", "postscreen-dnsbl"]
    assert {"helo", "resolvable", "dnsbl", "greylist", "fcrdns-shadow", "access"} <= set(strangers)
    # Behind permit_mynetworks nothing is asked of those.
    trusted = site.document["pipelines"]["mx-trusted"]["filters"]
    assert not {"helo", "resolvable", "dnsbl", "greylist", "early-talker"} & set(trusted)
    # An allow rule about a recipient must not spare it the question whether it exists.
    assert strangers.index("recipients") < strangers.index("access")
    assert site.document["filters"]["fcrdns-shadow"]["mode"] == "shadow"
    assert site.document["filters"]["helo"]["single_label"] == "reject"


def test_domains_recipients_and_aliases(site: Imported) -> None:
    domains = site.document["domains"]
    assert set(domains) == {
        "example.org", "*.example.org", "branch.example", "*.branch.example", "shop.example", "club.example",
        "old.example",
    }  # fmt: skip
    assert domains["shop.example"]["route"] == "virtual"
    assert site.lines("recipients-relay") == ["ann@example.org", "bob@example.org", "@branch.example"]
    assert "info@example.org ann@example.org, bob@example.org" in site.lines("aliases-virtual-virtual")
    assert "bob@example.org bob@example.org, archive@example.net" in site.lines("aliases-copies")
    rules = site.document["aliases"]["virtual-virtual.pcre"]["rules"]
    assert rules == [{"match": r"(\w+)\.\w+@shop\.example", "to": r"\1@shop.example"}]


def test_routes(site: Imported) -> None:
    routes = site.document["routes"]
    assert routes["virtual"]["hosts"] == ["unix:/var/spool/postfix/private/dovecot-lmtp"]
    assert routes["to-example.org"]["hosts"] == ["10.1.0.5"]
    assert (routes["to-branch.example"]["hosts"], routes["to-branch.example"]["tls"]) == (["10.1.0.6:2525"], "off")
    assert routes["to-partner.example"]["connections"] == 1
    internet = routes["internet"]
    assert (internet["hosts"], internet["tls"], internet["auth"]["username"]) == (
        ["smart.example.net:587"],
        "required",
        "gateway",
    )
    assert internet["retry"]["expire"] == "3d"
    assert routes["from-news-example.org"]["auth"]["username"] == "news"
    assert site.document["routing"]["senders"] == {"news@example.org": "from-news-example.org"}
    assert site.document["tls_policies"]["bank.example"]["level"] == "dane"
    assert site.document["dns"]["dnssec"] is True


def test_passwords_are_files_of_their_own_that_nobody_else_can_read(site: Imported) -> None:
    path = site.output / site.document["routes"]["internet"]["auth"]["password_file"]
    assert path.read_text() == "s3cret#x\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert "s3cret" not in site.text


def test_lists_are_files_of_rules(site: Imported) -> None:
    assert site.lines("access-client-clients.cidr") == [
        "allow client 203.0.113.7/32",
        "deny client 203.0.113.0/24 no mail from there",
        "deny client 2001:db8:bad::/48",
    ]
    assert "deny sender *.spam.example Go away" in site.lines("access-sender-senders")
    assert "defer sender slow@maybe.example Come again" in site.lines("access-sender-senders")
    assert site.lines("access-closed") == ["deny recipient closed.example no mail for there"]


def test_what_one_list_allows_another_may_refuse(make: Any) -> None:
    imported = make(
        "smtpd_client_restrictions = check_client_access cidr:c\n"
        "smtpd_sender_restrictions = check_sender_access hash:s\n",
        c="203.0.113.0/24 REJECT\n",
        s="friend@x.example OK\n",
    )
    filters = imported.document["filters"]
    assert [filters[one]["files"] for one in ("access", "access-2")] == [["access-client-c"], ["access-sender-s"]]


def test_the_narrower_entry_of_a_hash_and_the_first_of_a_cidr_table_count(make: Any) -> None:
    imported = make(
        "smtpd_client_restrictions = check_client_access cidr:c\n"
        "smtpd_sender_restrictions = check_sender_access hash:s\n",
        c="203.0.113.0/24 REJECT\n203.0.113.7 OK\n198.51.100.7 REJECT\n198.51.100.0/24 OK\n",
        s="x.example OK\nbad@x.example REJECT\nsub.x.example 450 later\nother.example REJECT\n",
    )
    assert imported.errors == ()
    filters = imported.document["filters"]
    files = {name: [imported.lines(file) for file in one["files"]] for name, one in filters.items() if "access" in name}
    assert files == {
        "access": [["deny client 198.51.100.7"]],
        "access-2": [["deny client 203.0.113.0/24", "allow client 198.51.100.0/24"]],
        "access-3": [
            ["deny sender bad@x.example", "defer sender sub.x.example later", "defer sender *.sub.x.example later"]
        ],
        "access-4": [
            [
                "allow sender x.example",
                "allow sender *.x.example",
                "deny sender other.example",
                "deny sender *.other.example",
            ]
        ],
    }


def test_large_tables_are_read_in_time_that_grows_with_them(make: Any) -> None:
    lines = "".join(
        f"10.{number >> 8}.{number & 255}.0/24 {'OK' if number % 2 else 'REJECT'}\n" for number in range(20_000)
    )
    imported = make("smtpd_client_restrictions = check_client_access cidr:c\n", c=lines)
    assert len(imported.lines("access-client-c")) == 20_000


def test_expressions_in_headers(site: Imported) -> None:
    rules = site.lines("signatures-header-checks")
    assert rules[0] == "reject header-1 headers /(?m)^Subject:.*make money fast/i"
    assert rules[1].startswith("quarantine header-4 ")
    assert site.document["filters"]["headers"]["strip"] == ["X-Internal-Note"]


@pytest.mark.parametrize(
    "setting",
    [
        "always_bcc", "sender_canonical_maps", "strange_parameter", "reject_unverified_sender", "pickup",
        "header_checks:3", "header_checks:5", "senders:3: held@maybe.example", "virtual:5: ann@elsewhere.example",
    ],
)  # fmt: skip
def test_nothing_is_forgotten_without_a_word(site: Imported, setting: str) -> None:
    assert setting in site.left("missing")
    assert setting in site.text


def test_every_setting_is_used_or_told(make: Any) -> None:
    imported = make("smtpd_tls_dh512_param_file = /x\nqmgr_message_active_limit = 5\n")
    assert "smtpd_tls_dh512_param_file (main.cf:5)" in imported.left("missing")
    assert "qmgr_message_active_limit (main.cf:6)" in imported.left("covered")


def test_exceptions_to_networks_are_taken_out(make: Any) -> None:
    imported = make("mynetworks = !10.0.0.4/30, 10.0.0.0/28, [::ffff:192.0.2.0]/120, !2001:db8::/32, [2001:db8::1]\n")
    assert imported.listener("mx")["trusted_networks"] == ["10.0.0.0/30", "10.0.0.8/29", "192.0.2.0/24"]


def test_without_a_way_out_mail_to_others_is_refused(make: Any) -> None:
    imported = make("default_transport = error:no way\n")
    assert "default" not in imported.document.get("routing", {})
    assert imported.errors == ()


def test_an_open_relay_is_not_made(make: Any) -> None:
    imported = make("smtpd_relay_restrictions = permit\nsmtpd_recipient_restrictions = permit\n")
    assert imported.errors == ()
    assert imported.listener("mx")["trusted_networks"] == ["127.0.0.0/8"]
    assert "let strangers relay" in imported.left("differs")
    assert not any("open relay" in one for one in imported.warnings)


def test_networks_that_may_not_relay_are_not_trusted(make: Any) -> None:
    imported = make("smtpd_relay_restrictions = reject_unauth_destination\nrelay_domains = a.example\n")
    assert imported.listener("mx")["role"] == "inbound"
    assert "trusted_networks" not in imported.listener("mx")


def test_an_ok_of_a_table_lets_nobody_relay(make: Any) -> None:
    restrictions = (
        "smtpd_recipient_restrictions = check_client_access cidr:ok, permit_mynetworks, reject_unauth_destination\n"
    )
    imported = make(restrictions, ok="203.0.113.7/32 OK\n")
    assert imported.listener("mx")["trusted_networks"] == ["127.0.0.0/8"]
    assert "lets nobody relay" in imported.left("differs")


def test_a_port_that_wants_tls_is_not_opened_without_a_certificate(make: Any) -> None:
    master = MASTER + (
        "submission inet n - n - - smtpd -o smtpd_tls_security_level=encrypt -o smtpd_sasl_auth_enable=yes\n"
        " -o smtpd_recipient_restrictions=permit_sasl_authenticated,reject\n"
    )
    main = "inet_interfaces = 192.0.2.1, 192.0.2.2\nsmtpd_sasl_type = dovecot\nsmtpd_sasl_path = inet:127.0.0.1:12345\n"
    imported = make(main, master)
    listener = imported.listener("submission")
    assert imported.errors == ()
    assert listener["endpoints"] == ["tcp:587:interface=127.0.0.1"]
    assert "auth_without_tls" not in listener
    assert "DECIDE: TLS is required here" in imported.text


@pytest.mark.parametrize("files", [("key", "cert"), ("both",)])
def test_chain_files_hold_a_key_before_its_certificate(make: Any, tmp_path: Path, files: tuple[str, ...]) -> None:
    issued = issue(None, "mx.example.org")
    for name, octets in {"key": issued.key_pem, "cert": issued.pem, "both": issued.key_pem + issued.pem}.items():
        (tmp_path / name).write_bytes(octets)
    names = ", ".join(str(tmp_path / name) for name in files)
    imported = make(f"smtpd_tls_security_level = may\nsmtpd_tls_chain_files = {names}\n")
    assert imported.errors == ()
    assert imported.listener("mx")["tls"] == "optional"
    assert sorted(one.name for one in (imported.output / "tls").iterdir()) == ["certificate.crt", "certificate.key"]


def test_cyrus_sasl_is_a_file_without_users(make: Any) -> None:
    imported = make("smtpd_sasl_auth_enable = yes\n")
    assert imported.document["auth"]["users"] == {"kind": "file", "path": "users"}
    assert "nobody can log in" in imported.left("decide")
    assert imported.errors == ()


def test_a_way_back_from_a_scanner_is_no_listener(make: Any) -> None:
    master = MASTER + "127.0.0.1:10025 inet n - n - - smtpd -o content_filter=\n"
    imported = make("content_filter = scan:[127.0.0.1]:10024\nrelay_domains = a.example\n", master)
    assert [one["name"] for one in imported.document["listeners"]] == ["mx"]
    assert "nothing is scanned" in imported.left("decide")


def test_a_scanner_of_one_service_is_told(make: Any) -> None:
    imported = make(
        "", "smtp inet n - n - - smtpd\n -o content_filter=scan:[127.0.0.1]:10024\n -o always_bcc=x@a.example\n"
    )
    assert "content_filter (master.cf:1)" in imported.left("decide")
    assert "always_bcc (master.cf:1)" in imported.left("missing")


def test_a_setting_of_one_service_that_counts_for_all_is_told(make: Any) -> None:
    imported = make("", "smtp inet n - n - - smtpd\n -o header_checks=pcre:x\n -o syslog_name=x\n")
    assert "master.cf:1: smtp -o header_checks: for one service alone it cannot be said" in imported.left("missing")


def test_transports_to_programs_keep_the_mail_of_our_domains(make: Any) -> None:
    master = MASTER + "mailman unix - n n - - pipe flags=R user=list argv=/bin/mm\n"
    imported = make(
        "relay_domains = lists.example\ntransport_maps = hash:transport\n", master, transport="lists.example mailman:\n"
    )
    route = imported.document["routes"][imported.document["domains"]["lists.example"]["route"]]
    assert route["transport"] == "maildir"
    assert "hands mail to a program" in imported.left("decide")


def test_next_hops_by_mx_are_left_to_a_person(make: Any) -> None:
    imported = make("relayhost = mail.provider.example\n")
    assert imported.document["routes"]["internet"]["hosts"] == ["mail.provider.example"]
    assert "is looked up by MX first" in imported.left("decide")


@pytest.mark.parametrize(
    ("level", "tls"), [("none", "off"), ("may", "opportunistic"), ("encrypt", "required"), ("secure", "verified")]
)
def test_levels_of_tls_are_kept(make: Any, level: str, tls: str) -> None:
    imported = make(f"smtp_tls_security_level = {level}\nrelayhost = [mail.provider.example]\n")
    assert imported.document["routes"]["internet"]["tls"] == tls


def test_dane_to_fixed_hosts_demands_tls(make: Any) -> None:
    imported = make("smtp_tls_security_level = dane\nrelayhost = [mail.provider.example]\n")
    assert imported.document["routes"]["internet"]["tls"] == "required"


def test_verification_is_a_callout(make: Any) -> None:
    imported = make(
        "relay_domains = a.example\ntransport_maps = hash:transport\n"
        "smtpd_recipient_restrictions = permit_mynetworks, reject_unverified_recipient\n",
        transport="a.example smtp:[10.0.0.1]\n",
    )
    assert imported.document["recipients"]["relay-asked"]["kind"] == "callout"
    assert imported.errors == ()


def test_questions_to_databases(make: Any) -> None:
    imported = make(
        "virtual_mailbox_domains = a.example\nvirtual_transport = lmtp:inet:127.0.0.1:24\n"
        "virtual_mailbox_maps = pgsql:pg.cf\nvirtual_alias_maps = proxy:mysql:my.cf, ldap:ldap.cf\n",
        **{
            "pg.cf": "hosts = db.example\nuser = pf\npassword = geheim\ndbname = mail\n"
            "query = SELECT 1 FROM boxes WHERE address = '%s'\n",
            "my.cf": "query = SELECT goto FROM alias WHERE address='%s'\n",
            "ldap.cf": "server_host = ldaps://dc.example\nsearch_base = dc=a\nquery_filter = (mail=%s)\n"
            "result_attribute = to\n",
        },
    )
    section = imported.document["recipients"]["virtual-1"]
    assert section["query"] == "SELECT 1 FROM boxes WHERE address = :address"
    assert section["url"] == "postgresql://pf@db.example/mail"
    assert imported.lines(section["password_file"]) == ["geheim"]
    assert "MySQL is not asked" in imported.left("decide")
    assert imported.document["aliases"]["virtual-ldap.cf"]["filter"] == "(mail={address})"
    assert "geheim" not in imported.text


def test_keys_of_aliases_are_domains_or_names(make: Any) -> None:
    imported = make(
        "mydestination = example.org\nmyorigin = example.org\nvirtual_alias_maps = hash:virtual\n",
        virtual="old.example anything\nx@old.example ann\njohn.doe ann\n",
    )
    assert set(imported.document["domains"]) == {"example.org", "old.example"}
    assert imported.lines("aliases-virtual-virtual") == [
        "x@old.example ann@example.org",
        "john.doe@example.org ann@example.org",
    ]


def test_mailbox_maps_may_name_the_domains_too(make: Any) -> None:
    imported = make("virtual_mailbox_maps = hash:boxes\n", boxes="a.example x\nann@a.example a.example/ann/\n")
    assert set(imported.document["domains"]) == {"a.example"}
    assert imported.left("decide").count("is no domain") == 0


def test_domains_with_one_next_hop_share_a_route(make: Any) -> None:
    names = [f"d{number}.example" for number in range(3000)]
    imported = make(
        "relay_domains = hash:transport\ntransport_maps = hash:transport\nparent_domain_matches_subdomains =\n",
        transport="".join(f"{name} smtp:[10.0.0.1]\n" for name in names),
    )
    assert list(imported.document["routes"]) == ["internet", "to-d0.example"]
    assert len(imported.document["domains"]) == 3000


def test_of_many_alike_the_first_are_told(make: Any) -> None:
    imported = make(
        "relay_domains = a.example\nvirtual_alias_maps = hash:virtual\n",
        virtual="".join(f"x{number}@other.example x@a.example\n" for number in range(100)),
    )
    assert "- and 70 more: other.example is none of our domains" in imported.text


def test_alias_targets_beyond_the_bound_are_told(make: Any) -> None:
    many = ", ".join(f"u{number}@a.example" for number in range(1001))
    imported = make("relay_domains = a.example\nvirtual_alias_maps = hash:virtual\n", virtual=f"all@a.example {many}\n")
    assert "1001 targets" in imported.left("missing")
    assert imported.errors == ()


HOSTILE = [
    '"', "'", "\\", "]] #", "${x", "\x07\x1b[31m", "*", "[::", "a" * 300, "é.example", "-1", "=", "../../x", "{",
    "\u2028x", "a@b@c", "@", "<>", ".", "unix:", "inet:x:y", "smtp:[a]:b", "a b", "1" * 30, "x:", "/", "pcre:/nowhere",
]  # fmt: skip


@pytest.mark.parametrize("value", HOSTILE)
def test_whatever_a_setting_holds_the_file_can_be_used(make: Any, value: str) -> None:
    names = (
        "relay_domains", "mydestination", "relayhost", "transport_maps", "virtual_alias_maps", "mynetworks",
        "smtpd_recipient_restrictions", "smtpd_milters", "header_checks", "message_size_limit", "myorigin",
        "recipient_delimiter", "postscreen_dnsbl_sites", "default_transport", "inet_interfaces", "virtual_transport",
        "smtp_tls_policy_maps", "smtpd_sasl_path", "smtp_bind_address", "smtpd_authorized_xclient_hosts",
        "maximal_queue_lifetime", "smtpd_recipient_limit", "smtp_tls_security_level", "smtpd_tls_security_level",
    )  # fmt: skip
    imported = make("".join(f"{name} = {value}\n" for name in names))
    assert imported.errors == ()
    assert all(one.isprintable() or one == "\n" for one in imported.text)


@pytest.mark.parametrize("key", HOSTILE)
def test_whatever_a_table_holds_the_file_can_be_used(make: Any, key: str) -> None:
    main = (
        "relay_domains = a.example\nrelay_recipient_maps = hash:m\ntransport_maps = hash:m\n"
        "smtp_tls_policy_maps = hash:m\nvirtual_alias_maps = hash:m\nrecipient_bcc_maps = hash:m\n"
        "virtual_mailbox_maps = hash:m\n"
        "virtual_mailbox_domains = b.example\nsmtp_sasl_password_maps = hash:m\nsmtp_sasl_auth_enable = yes\n"
        "relayhost = [c.example]\nsender_dependent_relayhost_maps = hash:m\nsmtpd_sender_login_maps = hash:m\n"
        "smtpd_sasl_auth_enable = yes\nsmtpd_sasl_type = dovecot\nheader_checks = pcre:e\n"
        "smtpd_sender_restrictions = check_sender_access hash:m, check_client_access hash:m, check_helo_access hash:m,"
        " reject_sender_login_mismatch\nsmtpd_recipient_restrictions = check_recipient_access hash:m\n"
    )
    values = [*HOSTILE, "REJECT", "OK", "450 x", "fingerprint match=00", "secure match=x:.y", "u:p", "smtp:[d.example]"]
    lines = [f"{key} {value}" for value in values] + [f"{other} {key}" for other in HOSTILE]
    expressions = "".join(f"/{value.replace('/', '')}/ REJECT {key}\n" for value in HOSTILE)
    imported = make(main, m="".join(f"{line}\n" for line in lines), e=expressions)
    assert imported.errors == ()
    assert all(one.isprintable() or one == "\n" for one in imported.text)


def test_without_main_cf_one_line_is_told(tmp_path: Path) -> None:
    with pytest.raises(ReadingError, match=r"main.cf: cannot be read"):
        read_postfix(tmp_path, list)
