"""`[auth.NAME]` of kind ldap: what a directory is asked, and what its answers mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ldaptor.protocols import pureber, pureldap  # type: ignore[import-untyped]  # ldaptor has no types
from twisted.cred.credentials import UsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from zope.interface.verify import verifyObject

from mailgate.auth.checker import AuthUnavailable, AvatarId, IChecker
from mailgate.auth.ldap import LdapChecker
from mailgate.backends.ldap_names import FilterTemplate, fill_dn
from mailgate.config.auth import LdapAuth
from tests.unit.remote_peer import Asked, Net, failure_of, is_waiting, outcome

LOCAL = "ldap://127.0.0.1:1389"
SECRET = "s3cret-ü"  # noqa: S105  nobody's
DN = "uid=ann,ou=people,dc=test"

_REQUESTS = pureldap.LDAPBERDecoderContext_TopLevel(
    inherit=pureldap.LDAPBERDecoderContext_LDAPMessage(
        fallback=pureldap.LDAPBERDecoderContext(fallback=pureber.BERDecoderContext()),
        inherit=pureldap.LDAPBERDecoderContext(fallback=pureber.BERDecoderContext()),
    )
)


class Directory:
    """The directory's end of a connection."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.number = 0

    def request(self) -> Any:
        """The one request that has come."""
        octets = self.asked.take()
        message, used = pureber.berDecodeObject(_REQUESTS, octets)
        assert used == len(octets)
        self.number = message.id
        return message.value

    def bind(self) -> tuple[bytes, bytes]:
        request = self.request()
        assert isinstance(request, pureldap.LDAPBindRequest)
        return request.dn, request.auth

    def search(self) -> Any:
        request = self.request()
        assert isinstance(request, pureldap.LDAPSearchRequest)
        return request

    def say(self, *values: Any, number: int | None = None) -> None:
        messages = (pureldap.LDAPMessage(value, id=self.number if number is None else number) for value in values)
        self.asked.say(b"".join(message.toWire() for message in messages))

    def answer(self, code: int = 0) -> None:
        """To a bind."""
        self.say(pureldap.LDAPBindResponse(resultCode=code))

    def found(self, *names: str, code: int = 0, **attributes: list[str]) -> None:
        """To a search."""
        entries = [pureldap.LDAPSearchResultEntry(name, list(attributes.items())) for name in names]
        self.say(*entries, pureldap.LDAPSearchResultDone(resultCode=code))


class Stand:
    """A checker, and the net that its directory is in."""

    def __init__(self, **settings: Any) -> None:
        self.net = Net()
        section = LdapAuth(
            kind="ldap", **({"urls": [LOCAL], "base": "dc=test", "filter": "(uid={username})"} | settings)
        )
        self.checker = LdapChecker(section, self.net.reactor)

    def ask(self, name: str = "Ann", password: str = SECRET) -> Deferred[AvatarId]:
        return self.checker.requestAvatarId(UsernamePassword(name.encode(), password.encode()))

    def accept(self) -> Directory:
        return Directory(self.net.accept())

    def to_bind(self) -> tuple[Deferred[AvatarId], Directory]:
        """A question of which the search is over, and the bind is under way."""
        asked = self.ask()
        directory = self.accept()
        directory.search()
        directory.found(DN)
        assert directory.bind() == (DN.encode(), SECRET.encode())
        return asked, directory


@pytest.fixture
def stand() -> Stand:
    return Stand()


def test_it_is_a_checker(stand: Stand) -> None:
    assert verifyObject(IChecker, stand.checker)
    assert stand.checker.mechanisms == {"PLAIN", "LOGIN"}
    assert not stand.checker.depends_on_client


def test_the_entry_is_searched_and_bound_as(stand: Stand) -> None:
    asked = stand.ask()
    directory = stand.accept()
    assert directory.asked.port == 1389
    search = directory.search()
    assert (search.baseObject, search.scope, search.derefAliases, search.sizeLimit) == (b"dc=test", 2, 0, 2)
    assert search.attributes == [b"1.1"]
    assert (
        search.filter.toWire()
        == pureldap.LDAPFilter_equalityMatch(
            pureldap.LDAPAttributeDescription("uid"), pureldap.LDAPAssertionValue("ann")
        ).toWire()
    )
    directory.found(DN)
    assert directory.bind() == (DN.encode(), SECRET.encode())
    assert is_waiting(asked)
    directory.answer()
    assert outcome(asked) == b"ann"


def test_one_user_has_one_name_however_it_is_typed(stand: Stand) -> None:
    """Directories hold names equal without regard to case, spaces and widths: limits by user must, too."""
    for name in ("ANN smith", " ann  Smith ", "\uff41nn smith"):
        asked = stand.ask(name)
        directory = stand.accept()
        directory.request()
        directory.found(DN)
        directory.request()
        directory.answer()
        assert outcome(asked) == b"ann smith"
        directory.asked.lose()


def test_the_search_is_made_as_the_configured_user(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("of the gateway\n")
    stand = Stand(bind_dn="cn=mail", bind_password_file=tmp_path / "password")
    asked = stand.ask()
    directory = stand.accept()
    assert directory.bind() == (b"cn=mail", b"of the gateway")
    directory.answer()
    directory.search()
    directory.found(DN)
    assert directory.bind()[0] == DN.encode()
    directory.answer()
    assert outcome(asked) == b"ann"


def test_our_own_password_may_be_wrong_and_then_nobody_is_refused(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("old")
    stand = Stand(bind_dn="cn=mail", bind_password_file=tmp_path / "password")
    asked = stand.ask()
    directory = stand.accept()
    directory.bind()
    directory.answer(49)
    assert isinstance(failure_of(asked), AuthUnavailable)


def test_a_dn_needs_no_search() -> None:
    stand = Stand(user_dn="uid={username},ou=people,dc=test", base="", filter="(nonsense")
    asked = stand.ask("a,b=c")
    directory = stand.accept()
    assert directory.bind() == (rb"uid=a\2cb\3dc,ou=people,dc=test", SECRET.encode())
    directory.answer()
    assert outcome(asked) == b"a,b=c"


def test_the_directory_may_say_how_the_user_is_called() -> None:
    stand = Stand(name_attribute="sAMAccountName")
    asked = stand.ask("ann@example.org")
    directory = stand.accept()
    assert directory.search().attributes == [b"sAMAccountName"]
    directory.found(DN, samaccountname=["Ann"])
    directory.bind()
    directory.answer()
    assert outcome(asked) == b"Ann"


@pytest.mark.parametrize("values", [[], ["a", "b"], ["a\nb"], [""]])
def test_a_name_that_is_not_one_is_no_answer(values: list[str]) -> None:
    stand = Stand(name_attribute="uid")
    asked = stand.ask()
    directory = stand.accept()
    directory.search()
    directory.found(DN, uid=values)
    assert isinstance(failure_of(asked), AuthUnavailable)
    assert not directory.asked.is_open


@pytest.mark.parametrize("password", [b"", b"\xff"])
@pytest.mark.parametrize("settings", [{}, {"user_dn": "uid={username},dc=test"}])
def test_a_bind_without_a_password_is_never_made(settings: dict[str, str], password: bytes) -> None:
    """It would succeed, as an anonymous one."""
    stand = Stand(**settings)
    asked = stand.checker.requestAvatarId(UsernamePassword(b"ann", password))
    assert isinstance(failure_of(asked), UnauthorizedLogin)
    assert not stand.net.has_more


@pytest.mark.parametrize("name", ["\xad", "a\u0007b", "\u0627a", " "])
def test_a_name_that_no_directory_can_have_is_not_asked_about(stand: Stand, name: str) -> None:
    assert isinstance(failure_of(stand.ask(name)), UnauthorizedLogin)
    assert not stand.net.has_more


@pytest.mark.parametrize(
    ("names", "code"), [((), 0), ((DN, "uid=other"), 0), ((DN,), 4), ((DN, "uid=other"), 4), (("",), 0)]
)
def test_other_than_one_entry_is_a_no_and_the_connection_serves_on(
    stand: Stand, names: tuple[str, ...], code: int
) -> None:
    asked = stand.ask()
    directory = stand.accept()
    directory.search()
    directory.found(*names, code=code)
    assert isinstance(failure_of(asked), UnauthorizedLogin)
    stand.ask()
    assert not stand.net.has_more
    assert directory.bind() == (b"", b"")


@pytest.mark.parametrize("code", [19, 32, 34, 48, 49, 50, 53])
def test_a_refused_bind_is_a_no(stand: Stand, code: int) -> None:
    asked, directory = stand.to_bind()
    directory.answer(code)
    assert isinstance(failure_of(asked), UnauthorizedLogin)


@pytest.mark.parametrize("code", [1, 2, 8, 10, 13, 51, 52, 80, 123])
def test_other_results_of_a_bind_are_no_answer(stand: Stand, code: int) -> None:
    asked, directory = stand.to_bind()
    directory.answer(code)
    assert isinstance(failure_of(asked), AuthUnavailable)
    assert not directory.asked.is_open


@pytest.mark.parametrize("code", [1, 3, 10, 32, 50, 51, 52])
def test_a_search_that_fails_is_no_answer(stand: Stand, code: int) -> None:
    asked = stand.ask()
    directory = stand.accept()
    directory.search()
    directory.found(code=code)
    assert isinstance(failure_of(asked), AuthUnavailable)


def test_a_kept_connection_is_bound_anew_before_it_is_searched_over(stand: Stand) -> None:
    asked, directory = stand.to_bind()
    directory.answer()
    outcome(asked)
    asked = stand.ask("bob")
    assert not stand.net.has_more
    assert directory.bind() == (b"", b"")
    directory.answer()
    assert directory.search().filter.toWire().endswith(b"bob")
    directory.found("uid=bob")
    assert directory.bind()[0] == b"uid=bob"
    directory.answer(49)
    assert isinstance(failure_of(asked), UnauthorizedLogin)


def test_a_kept_connection_that_was_closed_is_replaced(stand: Stand) -> None:
    asked, directory = stand.to_bind()
    directory.answer()
    outcome(asked)
    asked = stand.ask("bob")
    directory.asked.lose()
    fresh = stand.accept()
    fresh.search()
    fresh.found("uid=bob")
    fresh.bind()
    fresh.answer()
    assert outcome(asked) == b"bob"


def test_a_connection_is_not_kept_for_ever(stand: Stand) -> None:
    asked, directory = stand.to_bind()
    directory.answer()
    outcome(asked)
    stand.net.advance(61)
    stand.ask()
    assert not directory.asked.is_open
    assert stand.accept().search()


def test_servers_are_asked_in_their_order_and_one_that_failed_rests() -> None:
    stand = Stand(urls=["ldap://127.0.0.1:1", "ldap://[::1]:2", "ldap://localhost"])
    asked = stand.ask()
    stand.net.refuse()
    second = stand.accept()
    assert second.asked.port == 2
    second.search()
    second.found(code=52)
    third = stand.accept()
    assert third.asked.port == 389
    third.search()
    third.found()
    assert isinstance(failure_of(asked), UnauthorizedLogin)
    third.asked.lose()
    stand.ask("bob")
    again = stand.accept()
    assert again.asked.port == 389
    again.asked.lose()
    assert stand.accept().asked.port == 1


def test_a_server_that_has_rested_is_the_first_again() -> None:
    stand = Stand(urls=["ldap://127.0.0.1:1", "ldap://127.0.0.1:2"])
    stand.ask()
    stand.net.refuse()
    stand.accept().asked.lose()
    stand.net.advance(31)
    stand.ask()
    assert stand.accept().asked.port == 1


def test_no_server_at_all_is_no_answer() -> None:
    stand = Stand(urls=["ldap://127.0.0.1:1", "ldap://127.0.0.1:2"])
    asked = stand.ask()
    stand.net.refuse()
    stand.net.refuse()
    error = failure_of(asked)
    assert isinstance(error, AuthUnavailable)
    assert "127.0.0.1:1" in str(error)
    assert "127.0.0.1:2" in str(error)


def test_a_silent_server_leaves_the_others_their_share_of_the_time() -> None:
    stand = Stand(urls=["ldap://127.0.0.1:1", "ldap://127.0.0.1:2"], timeout="10s")
    asked = stand.ask()
    silent = stand.accept()
    stand.net.advance(4.9)
    assert not stand.net.has_more
    stand.net.advance(0.2)
    assert not silent.asked.is_open
    directory = stand.accept()
    directory.search()
    directory.found(DN)
    directory.bind()
    directory.answer()
    assert outcome(asked) == b"ann"


def test_silence_is_no_answer_in_time() -> None:
    stand = Stand(urls=["ldap://127.0.0.1:1", "ldap://127.0.0.1:2"], timeout="10s")
    asked = stand.ask()
    first = stand.accept()
    stand.net.advance(5.1)
    stand.net.advance(4.8)
    assert is_waiting(asked)
    stand.net.advance(0.2)
    assert isinstance(failure_of(asked), AuthUnavailable)
    assert not first.asked.is_open
    assert not stand.net.memory.getDelayedCalls()


def test_connections_have_a_bound() -> None:
    stand = Stand(connections=1)
    asked, directory = stand.to_bind()
    second = stand.ask("bob")
    assert not stand.net.has_more
    directory.answer()
    assert outcome(asked) == b"ann"
    assert directory.bind() == (b"", b"")
    assert is_waiting(second)


def test_the_end_of_the_checker_is_the_end_of_its_questions_and_connections(stand: Stand) -> None:
    kept, directory = stand.to_bind()
    directory.answer()
    outcome(kept)
    waiting = [stand.ask(), stand.ask()]
    open_now = [directory, stand.accept()]
    stand.checker.close()
    assert all(isinstance(failure_of(asked), AuthUnavailable) for asked in [*waiting, stand.ask()])
    assert not any(one.asked.is_open for one in open_now)
    assert not stand.net.has_more
    assert not stand.net.memory.getDelayedCalls()


def extended(code: int = 0) -> Any:
    return pureldap.LDAPExtendedResponse(resultCode=code, responseName=None)


@pytest.mark.parametrize(
    "more", [b"\x30", pureldap.LDAPMessage(pureldap.LDAPBindResponse(resultCode=0), id=2).toWire()]
)
def test_nothing_can_be_put_in_before_tls_starts(more: bytes) -> None:
    stand = Stand(starttls=True, user_dn="uid={username},dc=test")
    asked = stand.ask()
    directory = stand.accept()
    assert isinstance(directory.request(), pureldap.LDAPExtendedRequest)
    directory.asked.say(pureldap.LDAPMessage(extended(), id=1).toWire() + more)
    assert isinstance(failure_of(asked), AuthUnavailable)
    assert directory.asked.take() == b""


def test_without_tls_nothing_is_said_where_it_is_asked_for() -> None:
    stand = Stand(starttls=True)
    asked = stand.ask()
    directory = stand.accept()
    directory.request()
    directory.say(extended(2))
    assert isinstance(failure_of(asked), AuthUnavailable)
    assert directory.asked.take() == b""


@pytest.mark.parametrize(
    "octets",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x30\x84\xff\xff\xff\xff" + b"x" * 300000,
        b"\x30\x03\x02\x01\x01",
        b"\x30" + b"\x80" * 400,
        b"\x30\x05\x02\x01\x01\x05\x00",
    ],
)
def test_octets_that_are_no_answer_are_none(octets: bytes) -> None:
    stand = Stand()
    asked = stand.ask()
    directory = stand.accept()
    directory.request()
    for start in range(0, len(octets), 4096):
        if directory.asked.is_open:
            directory.asked.say(octets[start : start + 4096])
    stand.net.advance(11)
    assert isinstance(failure_of(asked), AuthUnavailable)
    assert not directory.asked.is_open


def test_answers_to_other_questions_end_the_connection(stand: Stand) -> None:
    asked, directory = stand.to_bind()
    directory.say(pureldap.LDAPBindResponse(resultCode=0), number=77)
    assert isinstance(failure_of(asked), AuthUnavailable)
    assert not directory.asked.is_open


def test_a_notice_of_disconnection_ends_the_connection(stand: Stand) -> None:
    asked, directory = stand.to_bind()
    directory.say(extended(52), number=0)
    assert isinstance(failure_of(asked), AuthUnavailable)


def test_more_entries_than_asked_for_end_the_connection(stand: Stand) -> None:
    asked = stand.ask()
    directory = stand.accept()
    directory.search()
    directory.found(*[f"uid={number}" for number in range(100)])
    assert isinstance(failure_of(asked), AuthUnavailable)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"urls": ["ldap://ldap.example.org"]}, "clear text"),
        ({"urls": ["ldap://192.0.2.1:389"]}, "clear text"),
        ({"urls": [LOCAL, "ldap://localhost.example.org"]}, "clear text"),
        ({"urls": ["http://127.0.0.1"]}, "urls"),
        ({"urls": ["ldap://127.0.0.1:x"]}, "urls"),
        ({"urls": ["ldap://127.0.0.1/dc=test"]}, "urls"),
        ({"urls": ["ldap://ann:pw@127.0.0.1"]}, "urls"),
        ({"urls": ["ldap://"]}, "urls"),
        ({"filter": "(uid=ann)"}, "filter"),
        ({"filter": "({username}=ann)"}, "filter"),
        ({"filter": "uid={username}"}, "filter"),
        ({"filter": ""}, "filter"),
        ({"user_dn": "uid=ann"}, "user_dn"),
        ({"user_dn": "uid={username}", "name_attribute": "uid"}, "user_dn"),
        ({"bind_dn": "cn=mail"}, "bind_dn"),
        ({"ca": Path("nowhere.pem")}, "nowhere"),
        ({"bind_dn": "cn=mail", "bind_password_file": Path("nowhere")}, "nowhere"),
    ],
)
def test_a_section_that_cannot_work_is_refused(settings: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        Stand(**settings)


@pytest.mark.parametrize("settings", [{"urls": ["ldaps://192.0.2.1"]}, {"urls": ["ldap://d.test"], "starttls": True}])
def test_under_tls_a_directory_may_be_anywhere(settings: dict[str, Any]) -> None:
    stand = Stand(**settings)
    stand.ask()
    assert stand.net.has_more


@pytest.mark.parametrize("code", [49, 80])
def test_no_failure_and_no_repr_holds_a_secret(stand: Stand, code: int) -> None:
    asked, directory = stand.to_bind()
    directory.answer(code)
    error = failure_of(asked)
    told = f"{error!r} {error} {error.__cause__} {vars(error)} {stand.checker!r} {directory.asked.protocol!r}".lower()
    assert SECRET not in told
    assert "ann" not in told


NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@given(NAMES)
def test_no_name_changes_the_structure_of_a_filter(name: str) -> None:
    template = FilterTemplate(
        "(&(objectClass=a\\2ab)(|(mail={username})(mail=x{username}*{username}@*))(!(cn:dn:2.5.13.2:={username})))"
    )
    value = name.encode()
    expected = pureldap.LDAPFilter_and(
        [
            pureldap.LDAPFilter_equalityMatch(
                pureldap.LDAPAttributeDescription("objectClass"), pureldap.LDAPAssertionValue("a*b")
            ),
            pureldap.LDAPFilter_or(
                [
                    pureldap.LDAPFilter_equalityMatch(
                        pureldap.LDAPAttributeDescription("mail"), pureldap.LDAPAssertionValue(value)
                    ),
                    pureldap.LDAPFilter_substrings(
                        "mail",
                        [
                            pureldap.LDAPFilter_substrings_initial(b"x" + value),
                            pureldap.LDAPFilter_substrings_any(value + b"@"),
                        ],
                    ),
                ]
            ),
            pureldap.LDAPFilter_not(
                pureldap.LDAPFilter_extensibleMatch(
                    matchingRule="2.5.13.2", type="cn", matchValue=value, dnAttributes=True
                )
            ),
        ]
    )
    assert template.fill({"username": "another"}).toWire() != b""
    assert template.fill({"username": name}).toWire() == expected.toWire()


@given(NAMES)
def test_no_name_changes_the_structure_of_a_dn(name: str) -> None:
    filled = fill_dn("uid={username},dc=test", name)
    assert filled.startswith("uid=")
    assert filled.endswith(",dc=test")
    value = filled[4:-8]
    octets, rest = b"", value
    while rest:
        octets, rest = (
            (octets + bytes.fromhex(rest[1:3]), rest[3:]) if rest[0] == "\\" else (octets + rest[0].encode(), rest[1:])
        )
    assert octets == name.encode()
    assert not set(value) & set(',+"<>;=# \0')
