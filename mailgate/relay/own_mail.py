"""Mail of the gateway's own, other than reports about mail: it enters the spool as what others send does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from twisted.internet.interfaces import IReactorTime

from mailgate.address import Address
from mailgate.envelope import PLAIN_MAIL, Envelope, EnvelopeRecipient, MailParameters, new_id
from mailgate.events import MessageAccepted
from mailgate.interfaces import IEvents, ISpool, Lease
from mailgate.message import Content
from mailgate.relay.intake import message_id_of
from mailgate.relay.ready.jobs import LEASE_TIME

__all__ = ["OwnMail"]


class OwnMail:
    """Sends mail that nobody brought. `route` names the route for a recipient, `deliver` is given each lease.

    Nobody is told where it cannot be delivered: to its sender, that is us.
    """

    def __init__(
        self,
        spool: ISpool,
        *,
        route: Callable[[Address, Address], str],
        deliver: Callable[[Lease], None],
        events: IEvents,
        clock: IReactorTime,
        hostname: str,
    ) -> None:
        self._spool = spool
        self._route = route
        self._deliver = deliver
        self._events = events
        self._clock = clock
        self._hostname = hostname
        self._sign: Callable[[bytes], bytes] | None = None

    def use(self, sign: Callable[[bytes], bytes] | None) -> None:
        """From now on the octets of mail are signed so."""
        self._sign = sign

    def send(
        self, sender: Address, recipients: Sequence[Address], octets: bytes, *, tls_optional: bool = False
    ) -> Awaitable[str]:
        """Take responsibility for a mail with CRLF line ends: its queue id; SpoolError where it cannot be taken now.

        `tls_optional`: it is to get there whatever is wrong with TLS (RFC 8689 section 4.1)."""
        now = self._clock.seconds()
        content = Content(octets if self._sign is None else self._sign(octets))
        envelope = Envelope(
            queue_id=new_id(),
            sender=sender,
            recipients=tuple(
                EnvelopeRecipient(number, one, self._route(one, sender), notify=("NEVER",))
                for number, one in enumerate(recipients)
            ),
            received=now,
            size=content.size,
            client=self._hostname,
            parameters=_parameters(recipients, tls_optional=tls_optional),
        )
        return self._take(envelope, content, now + LEASE_TIME)

    async def _take(self, envelope: Envelope, content: Content, until: float) -> str:
        lease = await self._spool.accept(envelope, content, until)
        self._events.publish(
            MessageAccepted(
                at=self._clock.seconds(),
                queue_id=envelope.queue_id,
                session="",
                client=envelope.client,
                listener="",
                helo="",
                sender=str(envelope.sender),
                recipients=tuple(str(one.address) for one in envelope.recipients),
                size=envelope.size,
                message_id=message_id_of(content),
            )
        )
        self._deliver(lease)
        return envelope.queue_id


def _parameters(recipients: Sequence[Address], *, tls_optional: bool) -> MailParameters:
    is_utf8 = not all(one.is_ascii for one in recipients)
    return MailParameters(tls_optional=tls_optional, smtputf8=is_utf8) if tls_optional or is_utf8 else PLAIN_MAIL
