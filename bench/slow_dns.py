"""A name server that thinks: every answer comes after the same delay. `slow_dns.py PORT SECONDS KEY`

Every name below bench.test has a mail exchanger, the address 9.9.9.9, an SPF record for it, a DMARC record, and KEY
for a DKIM key. Nothing else exists but the name of that address.
"""

from __future__ import annotations

import sys

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
from twisted.internet import reactor as installed  # noqa: TID251  a process of its own, with a reactor of its own
from twisted.internet.interfaces import IReactorTime, IReactorUDP
from twisted.internet.protocol import DatagramProtocol

_HOME = dns.name.from_text("bench.test.")
_REVERSE = dns.name.from_text("9.9.9.9.in-addr.arpa.")
_SPF, _DMARC = '"v=spf1 ip4:9.9.9.9 -all"', '"v=DMARC1; p=reject"'


class SlowServer(DatagramProtocol):
    """Answers by rules; `delay` in seconds."""

    def __init__(self, clock: IReactorTime, delay: float, key: str) -> None:
        self._clock = clock
        self._delay = delay
        self._key = " ".join(f'"{key[at : at + 200]}"' for at in range(0, len(key), 200))

    def datagramReceived(self, datagram: bytes, address: tuple[str, int]) -> None:  # noqa: N802
        try:
            query = dns.message.from_wire(datagram)
        except dns.exception.DNSException:
            return
        answer = self._answer(query).to_wire(max_size=65535)
        if self.transport is not None:
            self._clock.callLater(self._delay, self.transport.write, answer, address)

    def _answer(self, query: dns.message.Message) -> dns.message.Message:
        response = dns.message.make_response(query, recursion_available=True)
        question = query.question[0]
        if question.name == _REVERSE:
            found = {"PTR": "client.bench.test."}
        elif question.name.is_subdomain(_HOME):
            found = {"A": "9.9.9.9", "MX": "10 mx.bench.test.", "TXT": self._text(question.name)}
        else:
            response.set_rcode(dns.rcode.NXDOMAIN)
            return response
        record = found.get(dns.rdatatype.to_text(question.rdtype))
        if record is not None:
            response.answer.append(dns.rrset.from_text(question.name, 300, "IN", question.rdtype, record))
        return response

    def _text(self, name: dns.name.Name) -> str:
        labels = [label.lower() for label in name.labels]
        if labels[0] == b"_dmarc":
            return _DMARC
        return self._key if b"_domainkey" in labels else _SPF


def main() -> None:
    """Serve until the end."""
    port, delay, key = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
    reactor = installed
    IReactorUDP(reactor).listenUDP(port, SlowServer(IReactorTime(reactor), delay, key), "127.0.0.1", 65535)
    print("ready", flush=True)
    reactor.run()


if __name__ == "__main__":
    main()
