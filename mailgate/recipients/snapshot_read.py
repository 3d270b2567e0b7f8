"""A directory read whole, page by page (RFC 2696), or what has changed in an Active Directory since the last time.

Each server of Active Directory counts its own changes (uSNChanged, highestCommittedUSN). What it had reached before a
reading is where the next one begins: what changes meanwhile is read twice, and nothing never.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NoReturn

from ldaptor.protocols import pureber, pureldap  # type: ignore[import-untyped]  # ldaptor has no types
from twisted.internet.interfaces import IReactorTime

from mailgate.awaiting import as_deferred
from mailgate.backends.ldap_connection import (
    SUCCESS,
    Attributes,
    Control,
    DirectoryAnswer,
    DirectoryConnection,
    DirectoryError,
)
from mailgate.backends.ldap_search import Login
from mailgate.backends.ldap_servers import DirectoryServers
from mailgate.backends.threads import Threads
from mailgate.config.recipients import LdapRecipients
from mailgate.recipients.ldap_entries import Entry, EntryReader, filter_of
from mailgate.recipients.snapshot import Changes, Mark

__all__ = ["DirectoryReader"]

_PAGED = b"1.2.840.113556.1.4.319"
#: Shows what was deleted, to those who may see it.
_SHOW_DELETED: Control = (b"1.2.840.113556.1.4.417", False, None)
_NO_ATTRIBUTES = "1.1"
#: Results of a search: timeLimitExceeded, sizeLimitExceeded, adminLimitExceeded.
_LIMITS = (3, 4, 11)
#: Seconds for one page, and for all of a reading.
_PAGE, _READING = 60.0, 1800.0
#: Pages beside those that entries fill: a server may give short ones.
_MORE_PAGES = 100

_Found = Sequence[tuple[bytes, Attributes]]


class _Root:
    """What a server says of itself (RFC 4512 section 5.1). `number` is None where it is no Active Directory."""

    def __init__(self, attributes: Attributes, invocation: str) -> None:
        name = _text(attributes, b"dnshostname")
        number = _text(attributes, b"highestcommittedusn")
        # a database that was restored counts anew, and has another invocation id
        self.mark = Mark(f"{name.lower()} {invocation}".strip(), int(number)) if _is_number(number) else None
        self.context = _text(attributes, b"defaultnamingcontext")


class DirectoryReader:
    """Reads what `section` says; ValueError where it cannot work. Parsing is done by `threads`."""

    def __init__(
        self, section: LdapRecipients, servers: DirectoryServers, clock: IReactorTime, threads: Threads
    ) -> None:
        self._section = section
        self._servers = servers
        self._clock = clock
        self._threads = threads
        self._login = Login(section)
        self._reader = EntryReader(section)
        self._filter = filter_of(section)

    async def read(self, since: Mark | None) -> Changes:
        """All entries, or what has changed since the mark, where the server that answers is the one that has given it.

        DirectoryError where no server can be read.
        """

        async def work(connection: DirectoryConnection, is_new: bool) -> Changes:
            if is_new:
                login = as_deferred(self._login.login(connection))
                await login.addTimeout(self._section.timeout, self._clock, onTimeoutCancel=_late)
            root = await self._root(connection)
            mark = root.mark
            if since is None or mark is None or mark.server != since.server or mark.number < since.number:
                entries = await self._entries(connection, self._section.base, self._filter)
                if not any(entry.addresses for entry in entries.values()):
                    raise DirectoryError("no entry has an address: see base and filter, and what bind_dn may read")
                return Changes(entries, mark=mark)
            return await self._changes(connection, since, mark, root.context)

        deadline = self._clock.seconds() + _READING
        return await self._servers.ask(work, deadline, connect_timeout=self._section.timeout)

    async def _root(self, connection: DirectoryConnection) -> _Root:
        asked = ("dnsHostName", "highestCommittedUSN", "defaultNamingContext", "dsServiceName")
        attributes = await self._one(connection, "", asked)
        service = _text(attributes, b"dsservicename")
        if not service:
            return _Root(attributes, "")
        identity = (await self._one(connection, service, ("invocationId",))).get(b"invocationid", [])
        return _Root(attributes, identity[0].hex() if identity else "")

    async def _one(self, connection: DirectoryConnection, name: str, attributes: Sequence[str]) -> Attributes:
        """The attributes of one entry; none where it cannot be read."""
        request = _search(name, pureldap.LDAPFilter_present("objectClass"), attributes, whole=False)
        answer = await self._ask(connection, request, (), 1)
        return answer.entries[0][1] if answer.code == SUCCESS and answer.entries else {}

    async def _changes(self, connection: DirectoryConnection, since: Mark, mark: Mark, context: str) -> Changes:
        base, later = self._section.base, _at_least(b"uSNChanged", since.number + 1)
        entries = await self._entries(connection, base, pureldap.LDAPFilter_and([self._filter, later]))
        others = pureldap.LDAPFilter_and([pureldap.LDAPFilter_not(self._filter), later])
        gone = await self._names(connection, base, others, ())
        if context:
            deleted = pureldap.LDAPFilter_and([_equals(b"isDeleted", b"TRUE"), later])
            gone |= await self._names(connection, context, deleted, (_SHOW_DELETED,), lenient=True)
        return Changes(entries, gone - entries.keys(), is_whole=False, mark=mark)

    async def _entries(self, connection: DirectoryConnection, base: str, wanted: Any) -> dict[str, Entry]:
        entries: dict[str, Entry] = {}

        def parse(found: _Found) -> None:
            for dn, attributes in found:
                entries[self._reader.name(dn, attributes)] = self._reader.entry(attributes)

        pages = _Pages(self._section)
        while pages.are_left:
            found = await self._page(connection, base, wanted, self._reader.attributes, pages)
            await self._threads.run(partial(parse, found))
        return entries

    async def _names(
        self,
        connection: DirectoryConnection,
        base: str,
        wanted: Any,
        controls: Sequence[Control],
        *,
        lenient: bool = False,
    ) -> set[str]:
        names: set[str] = set()
        pages = _Pages(self._section, lenient=lenient)
        while pages.are_left:
            found = await self._page(connection, base, wanted, self._reader.identity, pages, controls)
            names.update(self._reader.name(dn, attributes) for dn, attributes in found)
        return names

    async def _page(
        self,
        connection: DirectoryConnection,
        base: str,
        wanted: Any,
        attributes: Sequence[str],
        pages: _Pages,
        controls: Sequence[Control] = (),
    ) -> _Found:
        request = _search(base, wanted, attributes)
        answer = await self._ask(connection, request, (pages.control(), *controls), pages.size)
        return pages.take(answer)

    async def _ask(
        self, connection: DirectoryConnection, request: Any, controls: Sequence[Control], most: int
    ) -> DirectoryAnswer:
        asked = connection.ask(request, controls=controls, most=most)
        return await asked.addTimeout(_PAGE, self._clock, onTimeoutCancel=_late)


class _Pages:
    """One search, page by page; DirectoryError where it has no end, or more entries than we take."""

    def __init__(self, section: LdapRecipients, *, lenient: bool = False) -> None:
        """`lenient`: a search that the server refuses has found nothing."""
        self.size = section.page_size
        self.are_left = True
        self._most = section.max_entries
        self._most_pages = _MORE_PAGES + 2 * section.max_entries // section.page_size
        self._lenient = lenient
        self._cookie = b""
        self._entries = self._pages = 0

    def control(self) -> Control:
        """What asks for the next page."""
        value = pureber.BERSequence([pureber.BERInteger(self.size), pureber.BEROctetString(self._cookie)])
        return (_PAGED, True, value.toWire())

    def take(self, answer: DirectoryAnswer) -> _Found:
        """The entries of the page that has come."""
        if answer.code != SUCCESS:
            self.are_left = False
            if self._lenient:
                return ()
            hint = ": a limit of the server for bind_dn" if answer.code in _LIMITS else ""
            raise DirectoryError(f"the search fails with result {answer.code}{hint}")
        self._entries += len(answer.entries)
        self._pages += 1
        if self._entries > self._most or self._pages > self._most_pages:
            raise DirectoryError(f"there are more than {self._most} entries: see max_entries")
        self._cookie = _cookie(answer.controls.get(_PAGED))
        self.are_left = bool(self._cookie)
        return answer.entries


def _cookie(value: bytes | None) -> bytes:
    """What stands for the rest of a search (RFC 2696 section 2): nothing where there is none."""
    if not value:
        return b""
    try:
        sequence, _ = pureber.berDecodeObject(pureber.BERDecoderContext(), value)
        return bytes(sequence[1].value)
    except Exception as error:  # ldaptor raises whatever comes of octets that are no BER
        raise DirectoryError(f"a control that is none ({type(error).__name__})") from None


def _search(base: str, wanted: Any, attributes: Sequence[str], *, whole: bool = True) -> Any:
    return pureldap.LDAPSearchRequest(
        baseObject=base,
        scope=pureldap.LDAP_SCOPE_wholeSubtree if whole else pureldap.LDAP_SCOPE_baseObject,
        derefAliases=pureldap.LDAP_DEREF_neverDerefAliases,
        sizeLimit=0,
        timeLimit=int(_PAGE),
        filter=wanted,
        attributes=list(attributes) or [_NO_ATTRIBUTES],
    )


def _at_least(name: bytes, number: int) -> Any:
    return pureldap.LDAPFilter_greaterOrEqual(
        pureldap.LDAPAttributeDescription(name), pureldap.LDAPAssertionValue(b"%d" % number)
    )


def _equals(name: bytes, value: bytes) -> Any:
    return pureldap.LDAPFilter_equalityMatch(
        pureldap.LDAPAttributeDescription(name), pureldap.LDAPAssertionValue(value)
    )


def _text(attributes: Attributes, name: bytes) -> str:
    values = attributes.get(name)
    return values[0].decode("utf-8", "replace") if values else ""


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 20


def _late(_outcome: object, seconds: float) -> NoReturn:
    raise DirectoryError(f"no answer within {seconds:g} s")
