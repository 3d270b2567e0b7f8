"""What a Postfix refuses, or has for some alone, is not opened, lost or sent elsewhere by what is made of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mailgate.moving.files import ReadingError
from tests.unit.test_moving_postfix import MASTER, Imported, imported_in

Make = Callable[..., Imported]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def made(*texts: str, **files: str) -> Imported:
        imported = imported_in(tmp_path, *texts, **files)
        assert imported.errors == ()
        return imported

    return made


# -- who may relay


@pytest.mark.parametrize(
    ("mynetworks", "bad", "trusted"),
    [
        ("!/etc/postfix/bad 10.0.0.0/8", "10.128.0.0/9", ["10.0.0.0/9"]),
        ("!cidr:/etc/postfix/bad 10.0.0.0/8", "10.128.0.0/9 x", ["10.0.0.0/9"]),
        ("!!10.0.0.0/8", "", ["10.0.0.0/8"]),
        ("!/etc/postfix/bad", "!10.0.0.0/8", ["10.0.0.0/8"]),
        # An exception that cannot be read ends the list.
        ("10.0.0.1 !/etc/postfix/none 10.0.0.0/8", "", ["10.0.0.1/32"]),
        ("10.0.0.1 !cidr:/etc/postfix/none 10.0.0.0/8", "", ["10.0.0.1/32"]),
        ("10.0.0.1 !pcre:/etc/postfix/bad 10.0.0.0/8", "/x/ x", ["10.0.0.1/32"]),
        ("10.0.0.1 !host.example 10.0.0.0/8", "", ["10.0.0.1/32"]),
        # Nobody's own.
        ("10.0.0.1 0.0.0.0/0 ::/0 [::ffff:0.0.0.0]/96", "", ["10.0.0.1/32"]),
        ("fc00::/7 [fe80::]/10", "", ["fc00::/7", "fe80::/10"]),
    ],
)
def test_exceptions_of_mynetworks_are_kept(make: Make, mynetworks: str, bad: str, trusted: list[str]) -> None:
    imported = make(f"mynetworks = {mynetworks}\n", bad=f"{bad}\n")
    assert imported.listener("mx")["trusted_networks"] == trusted
    told = imported.left("decide")
    is_cut = any(word in mynetworks for word in ("none", "pcre", "host"))
    assert ("what stands behind it in the list is left out" in told) == is_cut
    assert ("would make an open relay" in told) == ("/0" in mynetworks)


def test_mail_for_domains_that_a_list_excepts_is_not_taken(make: Make) -> None:
    imported = make(
        "relay_domains = !in.a.example, a.example, b.example, in.a.example\nrelay_transport = smtp:[10.0.0.1]\n"
    )
    assert set(imported.document["domains"]) == {"a.example", "b.example", "*.b.example"}
    assert "some of the domains below it are excepted" in imported.left("decide")


def test_an_exception_among_domains_that_is_none_ends_the_list(make: Make) -> None:
    imported = make("relay_domains = a.example, !@x, b.example\nparent_domain_matches_subdomains =\n")
    assert set(imported.document["domains"]) == {"a.example"}


def test_a_sender_that_belongs_to_a_login_is_refused_from_strangers(make: Make) -> None:
    imported = make(
        "smtpd_sasl_auth_enable = yes\nsmtpd_sasl_type = dovecot\nsmtpd_sender_login_maps = hash:m\n"
        "smtpd_sender_restrictions = permit_mynetworks, reject_sender_login_mismatch\n",
        m="ann@a.example ann\n@b.example bob\n",
    )
    filters, pipelines = imported.document["filters"], imported.document["pipelines"]
    listener = imported.listener("mx")
    assert imported.lines("access-owned") == [
        "deny sender ann@a.example Log in to send as this address",
        "deny sender b.example Log in to send as this address",
    ]
    assert "access-owned" in pipelines[listener["pipeline"]]["filters"]
    assert "access-owned" not in pipelines[listener["trusted_pipeline"]]["filters"]
    # Clients of mynetworks are not asked, as there.
    assert filters["sender-login"]["trusted"] == "any"


@pytest.mark.parametrize(
    ("word", "names"),
    [
        ("reject_authenticated_sender_login_mismatch", {"sender-login"}),
        ("reject_unauthenticated_sender_login_mismatch", {"access-owned"}),
        ("warn_if_reject reject_sender_login_mismatch", {"sender-login-shadow", "access-owned-shadow"}),
    ],
)
def test_whom_a_mismatch_is_about(make: Make, word: str, names: set[str]) -> None:
    imported = make(
        "smtpd_sasl_auth_enable = yes\nsmtpd_sasl_type = dovecot\nsmtpd_sender_login_maps = hash:m\n"
        f"smtpd_sender_restrictions = {word}\n",
        m="ann@a.example ann\n",
    )
    assert set(imported.document["filters"]) == names
    modes = {section.get("mode", "enforce") for section in imported.document["filters"].values()}
    assert modes == {"shadow" if "warn" in word else "enforce"}


LOGINS = (
    "smtpd_sasl_auth_enable = yes\nsmtpd_sasl_type = dovecot\nsmtpd_sender_login_maps = hash:m, hash:n\n"
    "smtpd_sender_restrictions = reject_sender_login_mismatch\n"
)


@pytest.mark.parametrize(
    ("delimiter", "owners", "lines"),
    [
        ("-", "ann@a.example ann\nann-marie@a.example anna\n", ["ann ann@a.example", "anna ann-marie@a.example"]),
        ("", "boss@a.example boss\n@a.example staff\n", ["boss boss@a.example"]),
    ],
)
def test_nobody_is_granted_what_others_own(make: Make, delimiter: str, owners: str, lines: list[str]) -> None:
    imported = make(f"{LOGINS}recipient_delimiter = {delimiter}\n", m=owners, n="")
    assert imported.lines("sender-login") == lines
    assert "belong to others alone" in imported.left("decide")


def test_of_two_tables_the_first_says_who_owns(make: Make) -> None:
    imported = make(LOGINS, m="boss@a.example boss\n", n="boss@a.example old\n")
    assert imported.lines("sender-login") == ["boss boss@a.example"]


# -- rules


PARTNERS = (
    "relay_domains = a.example\nrelay_transport = smtp:[10.0.0.1]\nmynetworks = 10.0.0.0/8\n"
    "smtpd_client_restrictions = "
)


@pytest.mark.parametrize(("word", "action"), [("reject", "deny"), ("defer", "defer")])
def test_those_whom_a_table_lets_in_before_all_are_refused(make: Make, word: str, action: str) -> None:
    imported = make(f"{PARTNERS}permit_mynetworks, check_client_access cidr:p, {word}\n", p="192.0.2.0/24 OK\n")
    listener = imported.listener("mx")
    assert (listener["role"], listener["trusted_networks"]) == ("hybrid", ["10.0.0.0/8"])
    assert imported.document["pipelines"][listener["pipeline"]]["filters"][0] == "access"
    assert imported.document["filters"]["access"]["files"] == ["access-client-p", "access-recipient-recipient"]
    assert imported.lines("access-recipient-recipient") == [f"{action} recipient *"]


def test_what_is_refused_behind_tables_is_not_from_those_who_may_relay(make: Make) -> None:
    imported = make(f"{PARTNERS}check_client_access cidr:p, permit_mynetworks, reject\n", p="192.0.2.0/24 OK\n")
    listener, pipelines = imported.listener("mx"), imported.document["pipelines"]
    assert pipelines[listener["pipeline"]]["filters"][:2] == ["access", "access-2"]
    assert imported.document["filters"]["access-2"]["files"] == ["access-client-p", "access-recipient-recipient"]
    assert "access-2" not in pipelines[listener["trusted_pipeline"]]["filters"]


def test_of_two_tables_that_let_in_none_refuses_those_of_the_other(make: Make) -> None:
    imported = make(
        f"{PARTNERS}permit_mynetworks, check_client_access cidr:p, warn_if_reject check_client_access hash:w,\n"
        " check_client_access hash:q, reject\n",
        p="192.0.2.0/24 OK\n198.51.100.1 REJECT\n",
        q="203.0.113.1 OK\n",
        w="203.0.113.2 REJECT\n",
    )
    filters = imported.document["filters"]
    files = {name: one["files"] for name, one in filters.items() if one.get("mode") != "shadow"}
    (last,) = (one for one in files.values() if "access-recipient-recipient" in one)
    assert last == ["access-client-p", "access-client-q", "access-recipient-recipient"]
    assert imported.document["pipelines"]["mx"]["filters"].index("access-4") == 3
    assert files["access-4"] == last


@pytest.mark.parametrize(
    ("words", "role"),
    [
        ("check_client_access hash:p", "hybrid"),
        ("warn_if_reject check_client_access hash:p", "outbound"),
        ("check_reverse_client_hostname_access hash:p", "outbound"),
        ("check_client_access hash:p, reject_plaintext_session", "outbound"),
    ],
)
def test_who_has_no_rule_is_refused_with_all_others(make: Make, words: str, role: str) -> None:
    imported = make(f"{PARTNERS}permit_mynetworks, {words}, reject\n", p="unknown OK\n")
    assert imported.listener("mx")["role"] == role
    assert imported.document["filters"]["access"]["files"] == ["access-recipient-recipient"]
    assert "have no rule, and are refused with all others" in imported.left("decide")


def test_an_action_may_stand_behind_tabs(make: Make) -> None:
    imported = make("smtpd_client_restrictions = check_client_access hash:m\n", m="192.0.2.1\tREJECT\tGo away\n")
    assert imported.lines("access-client-m") == ["deny client 192.0.2.1 Go away"]


def test_a_line_of_a_table_makes_one_rule_whatever_it_holds(make: Make) -> None:
    imported = make(
        "smtpd_sender_restrictions = check_sender_access hash:m\n",
        m="a.example REJECT no\x0callow sender *\x85allow sender *\u2028allow sender *\n",
    )
    assert imported.lines("access-sender-m") == [
        "deny sender a.example no allow sender * allow sender * allow sender *",
        "deny sender *.a.example no allow sender * allow sender * allow sender *",
    ]


def test_clients_without_a_name_are_no_name(make: Make) -> None:
    imported = make("smtpd_client_restrictions = check_client_access hash:m\n", m="unknown REJECT\na.example OK\n")
    assert imported.lines("access-client-m") == ["allow name a.example", "allow name .a.example"]
    assert "See no_name and unconfirmed of the filter fcrdns" in imported.left("missing")


def test_domains_below_are_meant_only_where_postfix_says_so(make: Make) -> None:
    imported = make(
        "smtpd_sender_restrictions = check_sender_access hash:m, check_client_access hash:m\n"
        "parent_domain_matches_subdomains =\n",
        m="a.example REJECT\n.b.example OK\n",
    )
    assert imported.lines("access-sender-m") == ["deny sender a.example", "allow sender *.b.example"]
    assert imported.lines("access-client-m") == ["deny name a.example", "allow name .b.example"]


def test_networks_are_keys_of_cidr_alone(make: Make) -> None:
    imported = make("smtpd_client_restrictions = check_client_access hash:m\n", m="192.0.2.0/24 OK\n192.0.2 REJECT\n")
    assert imported.lines("access-client-m") == ["deny client 192.0.2.0/24"]
    assert "192.0.2.0/24: is no key" in imported.left("missing")


def test_of_nested_networks_the_narrowest_counts(make: Make) -> None:
    imported = make(
        "smtpd_client_restrictions = check_client_access cidr:m\n",
        m="192.0.2.1 OK\n192.0.2.0/24 REJECT\n192.0.0.0/16 OK\n",
    )
    # Of one filter an allow goes before all that refuses: two of them, the narrower rules first.
    assert imported.document["pipelines"]["mx"]["filters"][:2] == ["access", "access-2"]
    assert imported.lines("access-client-m") == ["allow client 192.0.2.1", "deny client 192.0.2.0/24"]
    assert imported.lines("access-client-m-2") == ["allow client 192.0.0.0/16"]


# -- where mail goes

RELAY = "relay_domains = a.example\nrelay_transport = smtp:[10.0.0.1]\ntransport_maps = hash:m\n"


@pytest.mark.parametrize(
    ("table", "more", "rules", "spared"),
    [
        (
            "a.example error:5.1.1 gone\nann@a.example smtp:[10.0.0.2]\nbob@a.example :\n",
            "",
            ["deny recipient a.example gone"],
            ["ann@a.example", "bob@a.example"],
        ),
        ("* error:gone\na.example :\n", "", ["deny recipient * gone"], ["a.example"]),
        ("b.example retry:later\n", "", ["defer recipient b.example later"], None),
        ("b.example hold:4.0.0 later\n", "", ["defer recipient b.example later"], None),
        (
            "a.example error:gone\n",
            "virtual_alias_maps = hash:v\n",
            ["deny recipient a.example gone"],
            ["info@a.example"],
        ),
        (
            "* error:gone\na.example :\n",
            "virtual_alias_maps = hash:v\nvirtual_alias_domains = v.example\n",
            ["deny recipient * gone"],
            ["a.example", "info@a.example", "v.example"],
        ),
    ],
)
def test_what_is_closed_spares_what_goes_somewhere(
    make: Make, table: str, more: str, rules: list[str], spared: list[str] | None
) -> None:
    hold = "hold unix - - n - - error\n"
    imported = make(RELAY + more, MASTER + hold, m=table, v="info@a.example ann@far.example\n")
    assert imported.lines("access-closed") == rules
    assert imported.document["filters"]["closed"].get("except_for") == spared
    assert all("closed" in one["filters"] for one in imported.document["pipelines"].values())


@pytest.mark.parametrize(
    ("alias", "rules"),
    [
        ("@a.example x@far.example", []),
        ("info@a.example x@far.example", ["deny recipient a.example gone"]),
        ("@a.example @a.example", ["deny recipient a.example gone", "deny recipient info@a.example gone"]),
    ],
)
def test_aliases_are_looked_up_before_what_is_closed(make: Make, alias: str, rules: list[str]) -> None:
    own = "info@a.example error:gone\n" if "info" in f"{rules}{alias}" else ""
    imported = make(f"{RELAY}virtual_alias_maps = hash:v\n", m=f"a.example error:gone\n{own}", v=f"{alias}\n")
    assert ("closed" in imported.document.get("filters", {})) == bool(rules)
    assert not rules or imported.lines("access-closed") == rules


def test_what_is_no_key_closes_and_spares_nobody(make: Make) -> None:
    imported = make(RELAY, m="* error:all\n@a.example :\n@b.example error:x\n")
    assert imported.lines("access-closed") == ["deny recipient * all"]
    assert "except_for" not in imported.document["filters"]["closed"]


def test_domains_of_aliases_may_be_all_below_one(make: Make) -> None:
    imported = make(
        "virtual_alias_domains = .a.example b.example\nvirtual_alias_maps = hash:v\n", v="x@b.example y@far.example\n"
    )
    assert imported.document["recipients"]["no-mailboxes"]["addresses"] == [
        "postmaster@a.example",
        "postmaster@b.example",
    ]


def test_a_closed_domain_within_one_that_is_not(make: Make) -> None:
    imported = make(RELAY, m="* error:all\n.b.example smtp:[10.0.0.2]\nx.b.example error:this\n")
    assert imported.document["pipelines"]["mx"]["filters"][:2] == ["closed", "closed-2"]
    assert imported.lines("access-closed") == ["deny recipient x.b.example this"]
    assert imported.lines("access-closed-2") == ["deny recipient * all"]
    assert imported.document["filters"]["closed-2"]["except_for"] == ["*.b.example"]


def test_many_that_are_spared_have_a_file(make: Make) -> None:
    imported = make(RELAY, m="a.example error:gone\n" + "".join(f"u{number}@a.example :\n" for number in range(11)))
    assert imported.document["filters"]["closed"]["except_for"] == ["file:closed-except"]
    assert imported.lines("closed-except") == [f"u{number}@a.example" for number in range(11)]


def test_the_first_of_two_entries_counts(make: Make) -> None:
    imported = make(
        RELAY.replace("hash:m", "hash:m, hash:n"), m="a.example smtp:[10.0.0.2]\n", n="a.example smtp:[10.0.0.3]\n"
    )
    route = imported.document["domains"]["a.example"]["route"]
    assert imported.document["routes"][route]["hosts"] == ["10.0.0.2"]


def test_the_route_of_all_is_for_our_domains_too(make: Make) -> None:
    imported = make(
        RELAY.replace("a.example", "a.example, b.example"), m=".a.example :\nb.example :\n* smtp:[10.0.0.2]\n"
    )
    routes = {name: one["route"] for name, one in imported.document["domains"].items()}
    assert routes.pop("b.example") == routes.pop("*.a.example") == "relay"
    assert set(routes) == {"a.example", "*.b.example"}
    assert set(routes.values()) == {imported.document["routing"]["default"]}


@pytest.mark.parametrize("entry", ["* :", "* :[10.9.9.9]", "* uucp:x"])
def test_all_without_a_transport_leave_each_class_its_route(make: Make, entry: str) -> None:
    imported = make(RELAY, m=f"{entry}\n")
    assert imported.document["domains"]["a.example"]["route"] == "relay"
    assert ("ours keep their routes" in imported.left("differs")) == ("10.9.9.9" in entry)


def test_an_exception_of_one_list_is_none_of_another(make: Make) -> None:
    imported = make(
        "mydestination = !lists.a.example, hash:d\nrelay_domains = lists.a.example\n"
        "relay_transport = smtp:[10.0.0.1]\nparent_domain_matches_subdomains =\n",
        d="a.example x\nlists.a.example x\n",
    )
    assert imported.document["domains"]["lists.a.example"]["route"] == "relay"


@pytest.mark.parametrize(
    ("table", "is_told"), [("a.example error:gone\n", True), ("a.example smtp:[10.0.0.2]\n", False)]
)
def test_aliases_that_cannot_be_listed_are_told_where_something_is_closed(
    make: Make, table: str, is_told: bool
) -> None:
    settings = "server_host = localhost\nsearch_base = o=x\nquery_filter = (mail=%s)\nresult_attribute = mail\n"
    imported = make(f"{RELAY}virtual_alias_maps = ldap:v\n", m=table, v=settings)
    assert ("cannot be listed: aliases in it" in imported.left("differs")) == is_told


def test_a_copy_stands_beside_the_targets_of_an_alias(make: Make) -> None:
    imported = make(
        f"{RELAY}recipient_bcc_maps = hash:b\nvirtual_alias_maps = hash:v\n",
        m="",
        b="info@a.example archive@a.example\n",
        v="info@a.example ann@a.example\n",
    )
    assert imported.lines("aliases-copies") == ["info@a.example ann@a.example, archive@a.example"]


@pytest.mark.parametrize(
    ("pattern", "match"),
    [
        ("([a-z]+)@old\\.example", ".*?([a-z]+)@old\\.example.*"),
        ("^([a-z]+)@old\\.example$", "([a-z]+)@old\\.example"),
        ("^a@old\\.example|^b@old\\.example$", ".*?(?:^a@old\\.example|^b@old\\.example$).*"),
    ],
)
def test_expressions_find_as_much_as_in_postfix(make: Make, pattern: str, match: str) -> None:
    imported = make("relay_domains = old.example\nvirtual_alias_maps = pcre:v\n", v=f"/{pattern}/ new@a.example\n")
    assert imported.document["aliases"]["virtual-v"]["rules"] == [{"match": match, "to": "new@a.example"}]


@pytest.mark.parametrize(
    ("kind", "settings", "told"),
    [
        ("aliases", "query_filter = (cn=%u)\ndomain = lists.example\n", "domain cannot be said here"),
        ("aliases", "query_filter = (mail=%s)\nresult_format = %u@in.example\n", "result_format cannot be said here"),
        ("recipients", "query_filter = (mail=%s)\nsearch_base = ou=%d,o=x\n", "search_base with % cannot be said here"),
    ],
)
def test_a_question_that_would_find_others_is_not_asked(make: Make, kind: str, settings: str, told: str) -> None:
    maps = "virtual_alias_maps" if kind == "aliases" else "relay_recipient_maps"
    imported = make(f"relay_domains = a.example\n{maps} = ldap:m\n", m=f"server_host = ldap.example\n{settings}")
    assert told in imported.left("decide")
    assert all(one.get("kind") != "ldap" for one in imported.document.get(kind, {}).values())


@pytest.mark.parametrize(
    ("host", "starttls"),
    [("dc.example", True), ("ldap://dc.example", True), ("ldaps://dc.example", None), ("localhost", None)],
)
def test_a_directory_elsewhere_is_asked_under_tls(make: Make, host: str, starttls: bool | None) -> None:
    table = f"server_host = {host}\nsearch_base = o=x\nquery_filter = (mail=%s)\nbind_dn = cn=x\nbind_pw = hunter2\n"
    imported = make("relay_domains = a.example\nrelay_recipient_maps = ldap:m\n", m=table)
    assert imported.document["recipients"]["relay-1"].get("starttls") == starttls
    assert ("STARTTLS is demanded" in imported.left("decide")) == (starttls is not None)
    assert "hunter2" not in imported.text


def test_dane_alone_for_a_fixed_host_is_no_less_than_its_certificate(make: Make) -> None:
    imported = make("relayhost = [smart.example]\nsmtp_tls_security_level = dane-only\n")
    assert imported.document["routes"]["internet"]["tls"] == "verified"


@pytest.mark.parametrize(
    ("policy", "name", "is_told"),
    [
        ("secure match=relay.example", "relay.example", False),
        ("secure match=nexthop", None, False),
        ("secure", None, False),
        ("secure match=a.example:b.example", None, True),
        ("verify match=.example", None, True),
    ],
)
def test_the_name_of_a_certificate_is_that_of_the_policy(
    make: Make, policy: str, name: str | None, is_told: bool
) -> None:
    imported = make("relayhost = [smart.example]\nsmtp_tls_policy_maps = hash:m\n", m=f"[smart.example] {policy}\n")
    route = imported.document["routes"]["internet"]
    assert (route["tls"], route.get("tls_name")) == ("verified", name)
    assert ("See tls_name" in imported.left("decide")) == is_told


@pytest.mark.parametrize(("level", "tls"), [("Encrypt", "required"), ("NONE", "off"), ("encypt", "required")])
def test_levels_of_tls_in_whatever_case_and_what_is_none(make: Make, level: str, tls: str) -> None:
    imported = make(
        f"relayhost = [smart.example]\nsmtp_tls_security_level = {level}\nsmtp_tls_policy_maps = hash:m\n",
        m="a.example SECURE match=mx.a.example\n",
    )
    assert imported.document["routes"]["internet"]["tls"] == tls
    assert imported.document["tls_policies"]["a.example"] == {"level": "verified", "mx": ["mx.a.example"]}
    assert ("is no level that we know" in imported.left("decide")) == (level == "encypt")


def test_a_password_that_is_no_text_is_told(make: Make, tmp_path: Path) -> None:
    folder = tmp_path / "tables"
    folder.mkdir()
    (folder / "m").write_bytes(b"[smart.example] ann:p\xe4ss\n")
    imported = make(
        f"relayhost = [smart.example]\nsmtp_sasl_auth_enable = yes\nsmtp_sasl_password_maps = texthash:{folder}/m\n"
    )
    assert "auth" not in imported.document["routes"]["internet"]
    assert "is no UTF-8" in imported.left("decide")


# -- names and places


def test_paths_of_postfix_and_its_database_are_known(make: Make, tmp_path: Path) -> None:
    imported = make(
        "relay_domains = a.example\nrelay_recipient_maps = $default_database_type:$config_directory/m\n",
        m="x@a.example x\n",
    )
    assert imported.lines("recipients-relay") == ["x@a.example"]


@pytest.mark.parametrize(
    ("chroot", "level", "place"),
    [
        ("y", "3.6", "unix:/var/spool/postfix/spamass/spamass.sock"),
        ("n", "3.6", "unix:/spamass/spamass.sock"),
        ("-", "3.6", "unix:/spamass/spamass.sock"),
        ("-", "0", "unix:/var/spool/postfix/spamass/spamass.sock"),
    ],
)
def test_sockets_of_a_service_that_is_chrooted(make: Make, chroot: str, level: str, place: str) -> None:
    imported = make(
        f"compatibility_level = {level}\nsmtpd_milters = unix:/spamass/spamass.sock\n"
        "relay_domains = a.example\nrelay_transport = lmtp:unix:/spamass/spamass.sock\n",
        f"smtp inet n - {chroot} - - smtpd\nlmtp unix - - {chroot} - - lmtp\n",
    )
    assert imported.document["filters"]["milter-spamass.sock"]["servers"] == [place]
    assert imported.document["routes"]["relay"]["hosts"] == [place]


def test_options_may_stand_behind_a_tab(make: Make) -> None:
    imported = make("", "smtp inet n - n - - smtpd\t-o\tmynetworks=10.0.0.0/8\n")
    assert imported.listener("mx")["trusted_networks"] == ["10.0.0.0/8"]


# -- bounds


def test_classes_within_classes_are_bounded(make: Make) -> None:
    classes = "".join(f"c{number} = {f'c{number + 1} ' * 10}\n" for number in range(8))
    with pytest.raises(ReadingError, match="more than 5000 restrictions"):
        make(
            f"smtpd_restriction_classes = {' '.join(f'c{number}' for number in range(8))}\n{classes}"
            "c8 = reject_unknown_client\nsmtpd_client_restrictions = c0\n"
        )


@pytest.mark.parametrize("maps", ["local_recipient_maps", "alias_maps", "virtual_alias_maps"])
def test_local_parts_in_many_domains_are_bounded(make: Make, maps: str) -> None:
    names = " ".join(f"d{number}.example" for number in range(1000))
    empty = "local_recipient_maps =\nalias_maps =\n"
    table = "".join(f"u{number} x@a.example\n" for number in range(501))
    with pytest.raises(ReadingError, match="501 local parts in 1000 domains are more than 500000 addresses"):
        make(f"{empty}mydestination = {names}\n{maps} = hash:m\n", m=table)
