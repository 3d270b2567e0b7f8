"""The directory's end of a connection in memory: entries that it holds, searched as LDAP has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ldaptor.protocols import pureber, pureldap  # type: ignore[import-untyped]  # ldaptor has no types

from tests.unit.remote_peer import Asked

__all__ = ["ActiveDirectory", "Connection", "Person", "fits"]

PAGED = b"1.2.840.113556.1.4.319"
SHOW_DELETED = b"1.2.840.113556.1.4.417"
_REQUESTS = pureldap.LDAPBERDecoderContext_TopLevel(
    inherit=pureldap.LDAPBERDecoderContext_LDAPMessage(
        fallback=pureldap.LDAPBERDecoderContext(fallback=pureber.BERDecoderContext()),
        inherit=pureldap.LDAPBERDecoderContext(fallback=pureber.BERDecoderContext()),
    )
)

Person = Mapping[str, Sequence[str | bytes]]


@dataclass
class ActiveDirectory:
    """Entries by DN; each change of one has the next number. `root` is what the server says of itself."""

    name: str = "dc1.example.org"
    invocation: bytes = b"\x01\x02"
    number: int = 100
    entries: dict[str, dict[str, list[bytes]]] = field(default_factory=dict)
    shows_deleted: bool = True
    is_active: bool = True
    max_page: int = 1000
    searches: list[str] = field(default_factory=list)

    def put(self, dn: str, **attributes: Sequence[str | bytes] | str) -> None:
        self.number += 1
        values = {
            name: [
                one if isinstance(one, bytes) else one.encode() for one in ([each] if isinstance(each, str) else each)
            ]
            for name, each in attributes.items()
        }
        self.entries[dn] = {
            "objectClass": [b"top"],
            "objectGUID": [dn.encode().ljust(16, b".")[:16]],
            "uSNChanged": [b"%d" % self.number],
            **values,
        }

    def delete(self, dn: str) -> None:
        entry = self.entries.pop(dn)
        self.number += 1
        self.entries[f"{dn},CN=Deleted Objects"] = {
            "objectGUID": entry["objectGUID"],
            "isDeleted": [b"TRUE"],
            "uSNChanged": [b"%d" % self.number],
        }

    def vanish(self, dn: str) -> None:
        """Gone without a trace that we may see."""
        del self.entries[dn]

    def root(self) -> dict[str, list[bytes]]:
        if not self.is_active:
            return {"objectClass": [b"top"]}
        return {
            "dnsHostName": [self.name.encode()],
            "highestCommittedUSN": [b"%d" % self.number],
            "defaultNamingContext": [b"dc=example,dc=org"],
            "dsServiceName": [b"CN=NTDS"],
        }

    def found(self, base: str, scope: int, wanted: Any, *, deleted: bool) -> list[tuple[str, dict[str, list[bytes]]]]:
        if scope == pureldap.LDAP_SCOPE_baseObject:
            return [("", self.root())] if not base else [(base, {"invocationId": [self.invocation]})]
        return [
            (dn, entry)
            for dn, entry in self.entries.items()
            if (deleted and self.shows_deleted) or "isDeleted" not in entry
            if fits(wanted, entry)
        ]


def fits(wanted: Any, entry: Mapping[str, list[bytes]]) -> bool:
    """Whether a filter of ldaptor fits an entry: those kinds that we use; attributes compare without regard to case."""
    values = {name.lower().encode(): each for name, each in entry.items()}
    if isinstance(wanted, pureldap.LDAPFilter_and):
        return all(fits(one, entry) for one in wanted)
    if isinstance(wanted, pureldap.LDAPFilter_or):
        return any(fits(one, entry) for one in wanted)
    if isinstance(wanted, pureldap.LDAPFilter_not):
        return not fits(wanted.value, entry)
    if isinstance(wanted, pureldap.LDAPFilter_present):
        return wanted.value.lower() in values
    mine = values.get(wanted.attributeDesc.value.lower(), [])
    if isinstance(wanted, pureldap.LDAPFilter_greaterOrEqual):
        return any(int(one) >= int(wanted.assertionValue.value) for one in mine)
    assert isinstance(wanted, pureldap.LDAPFilter_equalityMatch), wanted
    return wanted.assertionValue.value.lower() in [one.lower() for one in mine]


class Connection:
    """One connection to the directory, seen from the server."""

    def __init__(self, asked: Asked, directory: ActiveDirectory) -> None:
        self.asked = asked
        self.directory = directory
        self.binds: list[tuple[bytes, bytes]] = []
        self._rest: dict[bytes, list[Any]] = {}

    def request(self) -> Any:
        """The one request that has come, a message; None where none has."""
        octets = self.asked.take()
        if not octets:
            return None
        message, used = pureber.berDecodeObject(_REQUESTS, octets)
        assert used == len(octets)
        return message

    def serve(self) -> bool:
        """Answer the request that has come; whether there was one."""
        message = self.request()
        if message is None:
            return False
        if isinstance(message.value, pureldap.LDAPBindRequest):
            self.binds.append((message.value.dn, message.value.auth))
            self.say(message.id, pureldap.LDAPBindResponse(resultCode=0))
        else:
            self._search(message)
        return True

    def say(self, number: int, *values: Any, controls: Any = None) -> None:
        last = len(values) - 1
        messages = (
            pureldap.LDAPMessage(value, id=number, controls=controls if at == last else None)
            for at, value in enumerate(values)
        )
        self.asked.say(b"".join(message.toWire() for message in messages))

    def _search(self, message: Any) -> None:
        search = message.value
        controls = {kind: value for kind, _, value in message.controls or ()}
        self.directory.searches.append(search.baseObject.decode())
        names = [name.decode().lower() for name in search.attributes]
        size, cookie = self.directory.max_page, b""
        if PAGED in controls:
            sequence, _ = pureber.berDecodeObject(pureber.BERDecoderContext(), controls[PAGED])
            size, cookie = min(size, sequence[0].value), sequence[1].value
        if cookie:
            found = self._rest.pop(cookie)
        else:
            found = self.directory.found(
                search.baseObject.decode(), search.scope, search.filter, deleted=SHOW_DELETED in controls
            )
        page, rest = found[:size], found[size:]
        told = b""
        if rest:
            told = b"cookie%d" % len(rest)
            self._rest[told] = rest
        entries = [
            pureldap.LDAPSearchResultEntry(
                dn, [(name, values) for name, values in entry.items() if name.lower() in names]
            )
            for dn, entry in page
        ]
        value = pureber.BERSequence([pureber.BERInteger(0), pureber.BEROctetString(told)]).toWire()
        self.say(
            message.id,
            *entries,
            pureldap.LDAPSearchResultDone(resultCode=0),
            controls=[(PAGED, False, value)] if PAGED in controls else None,
        )
