"""From a call to the messages that it asks for, one at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus

from msgspec import Struct

from mailgate.address import Address
from mailgate.envelope import MailParameters, new_id
from mailgate.message import MAX_HEADER, MAX_HEADER_LINES
from mailgate.web.injection.bodies import body as body_of
from mailgate.web.injection.fields import mailboxes, unstructured
from mailgate.web.injection.models import Order, Person, Personal, is_line
from mailgate.web.injection.problems import CallError, Fault
from mailgate.web.injection.templating import HeavyError, Rendering, TemplateFaultError

__all__ = ["Composer", "Draft", "check_size"]

_PARTS = ("subject", "text", "html")
#: Characters of a template that is kept for the next call, and how many are: a program sends the same again and again.
_SHORT, _MOST_KNOWN = 4096, 64


class Draft(Struct, frozen=True):
    """A message to be judged. `recipients` have the paths of their fields, and the message is number `number` of its
    call."""

    id: str
    number: int
    sender: Address
    recipients: tuple[tuple[str, Address], ...]
    content: bytes
    parameters: MailParameters


class Composer:
    """Makes the messages of an order. CallError where its template, or what it comes to, cannot be; HeavyError where a
    template has more than `most_weight`, which less than 0 is none at all."""

    def __init__(
        self, order: Order, hostname: str, now: float, most_octets: int, *, most_weight: int | None = None
    ) -> None:
        self._order = order
        self._hostname = hostname
        self._date = f"Date: {formatdate(now, localtime=True)}\r\n".encode()
        self._most = most_octets
        self._template: Mapping[str, Rendering] | None = None
        self._body: bytes | None = None
        if order.template is not None:
            if most_weight is not None and most_weight < 0:
                raise HeavyError  # its mere parts are weighed elsewhere
            self._template = {part: _rendering(part, getattr(order.template, part), most_weight) for part in _PARTS}
        self._fixed = b"".join(unstructured(name, value) for name, value in order.headers.items())
        if order.reply_to:
            self._fixed = mailboxes("Reply-To", order.reply_to) + self._fixed
        self._sender = (order.return_path or order.sender).address

    def to_all(self) -> Draft:
        """The one message to `to`, `cc` and `bcc`."""
        order = self._order
        lists: Mapping[str, Sequence[Person]] = {"to": order.to, "cc": order.cc, "bcc": order.bcc}
        recipients: dict[Address, str] = {}
        for name, persons in lists.items():
            for place, one in enumerate(persons):
                recipients.setdefault(one.address, f"{name}.{place}")
        named = b"".join(mailboxes(name.title(), lists[name]) for name in ("to", "cc") if lists[name])
        if not named:
            named = b"To: undisclosed-recipients:;\r\n"
        shown = [*order.to, *order.cc]
        return self._draft(0, tuple((path, one) for one, path in recipients.items()), named, shown, {}, "")

    def to_one(self, number: int, personal: Personal) -> Draft:
        """The message of one of the `recipients`."""
        path = f"recipients.{number}"
        to, recipients = [personal.to], ((f"{path}.to", personal.to.address),)
        return self._draft(number, recipients, mailboxes("To", to), to, personal.substitutions, path)

    def _draft(
        self,
        number: int,
        recipients: tuple[tuple[str, Address], ...],
        named: bytes,
        shown: Sequence[Person],
        values: Mapping[str, object],
        path: str,
    ) -> Draft:
        order, queue_id = self._order, new_id()
        persons = [order.sender, *order.reply_to, *shown]
        is_utf8 = not all(one.address.is_ascii for one in persons)
        subject, body = order.subject, self._body
        if self._template is not None or body is None:
            texts = self._texts({**order.substitutions, **values}, path)
            subject = texts["subject"]
            body = body_of(texts["text"], texts["html"], order.attachments)
            if self._template is None:
                self._body = body
        header = [mailboxes("From", [order.sender]), named, unstructured("Subject", subject) if subject else b""]
        header += [self._date, f"Message-ID: <{queue_id}@{self._hostname}>\r\n".encode(), self._fixed]
        head = b"".join(header)
        if len(head) > MAX_HEADER // 2 or head.count(b"\n") > MAX_HEADER_LINES // 2:  # the rest is for our own fields
            raise CallError.bad(
                "headers", f"the header comes to more than {MAX_HEADER // 2} octets, or very many lines"
            )
        content = head + body
        check_size(content, self._most)
        needs_utf8 = is_utf8 or not (self._sender.is_ascii and all(one.is_ascii for _, one in recipients))
        return Draft(
            queue_id,
            number,
            self._sender,
            recipients,
            content,
            MailParameters(body="8BITMIME" if is_utf8 else "7BIT", smtputf8=needs_utf8, release_at=order.release_at),
        )

    def _texts(self, values: Mapping[str, object], path: str) -> Mapping[str, str]:
        order = self._order
        if self._template is None:
            return {part: getattr(order, part) for part in _PARTS}
        where = f"{path}.substitutions" if path else "substitutions"
        texts = {}
        for part, rendering in self._template.items():
            try:
                texts[part] = rendering.render(values)
            except TemplateFaultError as error:
                raise CallError.bad(where, f"template.{part}: {error}") from None
        if not is_line(texts["subject"]) or len(texts["subject"]) > 2000:
            raise CallError.bad(where, "template.subject comes to more than one line, or than 2000 characters")
        if "\0" in texts["text"] or "\0" in texts["html"]:
            raise CallError.bad(where, "template comes to a text with a NUL")
        return texts


def check_size(content: bytes, most: int) -> None:
    """CallError where it is too large."""
    if len(content) > most:
        text = f"the message has {len(content)} octets, more than {most}"
        raise CallError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, (Fault("", text),))


@lru_cache(maxsize=_MOST_KNOWN)
def _known(source: str, is_html: bool) -> Rendering:
    return Rendering(source, is_html=is_html, most_weight=len(source))


def _rendering(part: str, source: str, most_weight: int | None) -> Rendering:
    is_html = part == "html"
    try:
        if most_weight is None or len(source) > _SHORT:
            return Rendering(source, is_html=is_html, most_weight=most_weight)
        known = _known(source, is_html)
        if known.weight > most_weight:
            raise HeavyError
        return known
    except TemplateFaultError as error:
        raise CallError.bad(f"template.{part}", str(error)) from None
