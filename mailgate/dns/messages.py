"""Questions in wire form, and what is read of the answers to them (RFC 1035, RFC 6891).

Only what an answer comes to is read, and dnspython is asked for names and for the rarer records only: to have it make
and read whole messages takes several times as long as all the rest of asking.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address
from types import MappingProxyType
from typing import NamedTuple

import dns.exception
import dns.flags
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.wire

__all__ = ["Owner", "Query", "RecordSet", "Response"]

#: What fits into one unfragmented datagram on any path (RFC 9715).
_PAYLOAD = 1232
#: Records of a message that are read: more of them would keep everybody waiting, and nobody has use for them.
_MOST_RECORDS = 500
#: Octets of the header, in which six numbers stand; a pointer to what follows it, the name in the question; the root.
_HEADER, _POINTER, _ROOT = 12, b"\xc0\x0c", b"\0"
#: In the second number of the header: QR and the opcode, the return code. (As plain numbers: an enum is slow.)
_KIND, _CODE = 0xF800, 0x000F
_QR, _TC, _AD = int(dns.flags.QR), int(dns.flags.TC), int(dns.flags.AD)
#: Behind the id: one question, and one record of EDNS. AD: tell us whether the data was validated (RFC 6840 5.7).
_ASK = struct.pack("!5H", dns.flags.RD | dns.flags.AD, 1, 0, 0, 1)
#: The record of EDNS: the root, what we can take, no extended code, version 0, no options.
_EDNS = struct.pack("!BHHIH", 0, dns.rdatatype.OPT, _PAYLOAD, 0, 0)
#: Octets of the shortest SOA; its last number is for how long nothing else is there (RFC 2308 section 4).
_SHORTEST_SOA = 22
#: The longest time to live; what is longer is none (RFC 2181 section 8).
_LONGEST_TTL = 0x7FFFFFFF

_IN, _A, _AAAA, _CNAME = int(dns.rdataclass.IN), int(dns.rdatatype.A), int(dns.rdatatype.AAAA), int(dns.rdatatype.CNAME)
_MX, _NS, _OPT, _PTR = int(dns.rdatatype.MX), int(dns.rdatatype.NS), int(dns.rdatatype.OPT), int(dns.rdatatype.PTR)
_SOA, _TXT = int(dns.rdatatype.SOA), int(dns.rdatatype.TXT)

Owner = tuple[bytes, ...]
"""A name as its labels in lower case, the empty one of the root at the end."""


class RecordSet:
    """The records of one name and type, each once, as `Answer` describes them. `target` is where a CNAME leads."""

    __slots__ = ("records", "target", "ttl")

    def __init__(self, ttl: int) -> None:
        self.ttl = ttl
        self.records: dict[object, None] = {}
        self.target: Owner | None = None


_NO_ANSWERS: Mapping[tuple[Owner, int], RecordSet] = MappingProxyType({})
_NO_SOAS: Mapping[Owner, int] = MappingProxyType({})


class Response(NamedTuple):
    """What a server says to the question for `owner` and `rdtype`.

    Of `answers` there are those of the type that was asked for, and CNAMEs. `soas` are the zones that have said with
    their SOA for how many seconds nothing else is there; `names_servers` tells whether there is an NS beside them.
    """

    owner: Owner
    rdtype: int
    rcode: int
    is_truncated: bool = False
    is_secure: bool = False
    answers: Mapping[tuple[Owner, int], RecordSet] = _NO_ANSWERS
    soas: Mapping[Owner, int] = _NO_SOAS
    names_servers: bool = False


class Query:
    """One question; only the id differs from one try to the next."""

    def __init__(self, name: dns.name.Name, rdtype: str) -> None:
        self.rdtype = int(dns.rdatatype.from_text(rdtype))
        self.owner = _owner(name)
        self._name = b"".join(bytes([len(label)]) + label for label in self.owner)
        self._kind = struct.pack("!2H", self.rdtype, _IN)
        self._end = _HEADER + len(self._name) + len(self._kind)
        self._body = _ASK + self._name + self._kind + _EDNS

    def wire(self, number: int) -> bytes:
        """The message with this id."""
        return number.to_bytes(2, "big") + self._body

    def read(self, wire: bytes) -> Response | None:
        """The response that `wire` is to this question, whatever its id; None for anything else.

        Of a truncated one only the question is read, and of one with too many records, which then is a SERVFAIL.
        """
        if len(wire) < self._end:
            return None
        _, flags, questions, *counts = struct.unpack_from("!6H", wire)
        if flags & _KIND != _QR or questions != 1 or not self._is_question(wire[_HEADER : self._end]):
            return None
        is_truncated = bool(flags & _TC)
        if sum(counts) > _MOST_RECORDS:
            return Response(self.owner, self.rdtype, int(dns.rcode.SERVFAIL), is_truncated)
        if is_truncated:
            return Response(self.owner, self.rdtype, flags & _CODE, is_truncated)
        try:
            return self._read(dns.wire.Parser(wire, self._end), flags, counts)
        except (dns.exception.DNSException, ValueError):
            return None

    def _is_question(self, octets: bytes) -> bool:
        return octets[-len(self._kind) :] == self._kind and octets[: -len(self._kind)].lower() == self._name

    def _read(self, parser: dns.wire.Parser, flags: int, counts: list[int]) -> Response:
        """Take the sections after the question apart; DNSException or ValueError where that is not possible."""
        rcode = flags & _CODE
        answers: dict[tuple[Owner, int], RecordSet] = {}
        soas: dict[Owner, int] = {}
        names_servers = False
        end_of_answers, end_of_authority = counts[0], counts[0] + counts[1]
        for number in range(sum(counts)):
            owner = self._read_owner(parser)
            rdtype, rdclass, ttl, length = parser.get_struct("!HHIH")
            if rdtype == _OPT:
                rcode |= ttl >> 24 << 4  # RFC 6891 section 6.1.3
            elif rdclass != _IN:
                pass
            elif number < end_of_answers:
                if rdtype in (self.rdtype, _CNAME):
                    with parser.restrict_to(length):
                        _add(answers, owner, rdtype, ttl, parser)
                    continue
            elif number < end_of_authority:
                names_servers = names_servers or rdtype == _NS
                if rdtype == _SOA:
                    soas[owner] = min(_ttl(ttl), _minimum(parser.get_bytes(length)), soas.get(owner, _LONGEST_TTL))
                    continue
            parser.get_bytes(length)
        if parser.remaining():
            raise ValueError("something stands behind the last record")
        is_secure = bool(flags & _AD)
        return Response(self.owner, self.rdtype, rcode, False, is_secure, answers, soas, names_servers)

    def _read_owner(self, parser: dns.wire.Parser) -> Owner:
        if parser.wire.startswith(_POINTER, parser.current):  # as nearly always
            parser.get_bytes(len(_POINTER))
            return self.owner
        if parser.wire.startswith(_ROOT, parser.current):  # of EDNS
            parser.get_bytes(len(_ROOT))
            return (b"",)
        return _owner(parser.get_name(decompress=True))


def _add(
    answers: dict[tuple[Owner, int], RecordSet], owner: Owner, rdtype: int, ttl: int, parser: dns.wire.Parser
) -> None:
    """Read one record of an answer, to the end of its data."""
    found = answers.get((owner, rdtype))
    if found is None:
        found = answers[owner, rdtype] = RecordSet(_ttl(ttl))
    found.ttl = min(found.ttl, _ttl(ttl))
    if rdtype == _CNAME:
        name = parser.get_name(decompress=True)
        found.target, found.records = _owner(name), {_text(name): None}  # there is one at most (RFC 2181 section 10.1)
    else:
        found.records[_record(rdtype, parser)] = None


def _record(rdtype: int, parser: dns.wire.Parser) -> object:
    if rdtype == _A:
        return IPv4Address(parser.get_remaining())
    if rdtype == _AAAA:
        return IPv6Address(parser.get_remaining())
    if rdtype == _TXT:
        strings = [parser.get_counted_bytes()]
        while parser.remaining():
            strings.append(parser.get_counted_bytes())
        return b"".join(strings)
    if rdtype == _MX:
        return parser.get_uint16(), _text(parser.get_name(decompress=True))
    if rdtype == _PTR:
        return _text(parser.get_name(decompress=True))
    return dns.rdata.from_wire_parser(dns.rdataclass.IN, dns.rdatatype.RdataType(rdtype), parser).to_text()


def _minimum(soa: bytes) -> int:
    if len(soa) < _SHORTEST_SOA:
        raise ValueError("a SOA that is too short")
    return int.from_bytes(soa[-4:], "big")


def _ttl(ttl: int) -> int:
    return ttl if ttl <= _LONGEST_TTL else 0


def _owner(name: dns.name.Name) -> Owner:
    return tuple(label.lower() for label in name.labels)


def _text(name: dns.name.Name) -> str:
    """In lower case without the final dot, "" for the root; odd octets are escaped as in a zone file."""
    return "" if name == dns.name.root else name.to_text(omit_final_dot=True).lower()
